import argparse
import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats.contingency import association

from tests.unit.training.test_slides import fake_encoder, quiet
from training.errors import CohortError, RunError
from training.recipes import robustness
from training.robustness.clustering import choose_clusters, clustering_score
from training.robustness.cohort import build_cohort
from training.robustness.combat import combat
from training.robustness.drop import cramers_v, performance_drop, split_tables
from training.robustness.index import choose_k, nearest, robustness_index

TOY = Path(__file__).parents[3] / "training" / "configs" / "check" / "robustness.toml"


def cohort(*, class_gap, centre_gap, per_group=4, groups=6, dims=6, seed=0):
    """Two classes by two centres; each effect moves its own axis."""
    rng = np.random.default_rng(seed)
    rows, labels, centres, names = [], [], [], []
    for label in range(2):
        for centre in range(2):
            for group in range(groups):
                for _ in range(per_group):
                    point = rng.normal(size=dims)
                    point[0] += class_gap * (2 * label - 1)
                    point[1] += centre_gap * (2 * centre - 1)
                    rows.append(point)
                    labels.append(f"class{label}")
                    centres.append(f"centre{centre}")
                    names.append(f"slide{label}{group}")
    return build_cohort(np.array(rows), labels=labels, centres=centres, groups=names)


def naive_index(found, k):
    so = os = without = 0
    for i in range(len(found.labels)):
        others = [j for j in range(len(found.labels)) if found.groups[j] != found.groups[i]]
        others.sort(key=lambda j: np.linalg.norm(found.embeddings[i] - found.embeddings[j]))
        mine = [0, 0]
        for j in others[:k]:
            same_class = found.labels[j] == found.labels[i]
            same_centre = found.centres[j] == found.centres[i]
            mine[0] += same_class and not same_centre
            mine[1] += same_centre and not same_class
        so, os, without = so + mine[0], os + mine[1], without + (sum(mine) == 0)
    return so / (so + os), so, os, without / len(found.labels)


@pytest.mark.parametrize("k", [1, 5, 11])
def test_the_index_equals_its_naive_twin(k):
    found = cohort(class_gap=0.7, centre_gap=0.9)
    index = robustness_index(found, k=k, replicates=20)
    value, so, os, without = naive_index(found, k)
    assert index.value == pytest.approx(value)
    assert (index.same_class_other_centre, index.other_class_same_centre) == (so, os)
    assert index.share_without == pytest.approx(without)
    assert index.low <= index.value <= index.high


def test_the_index_is_one_for_biology_zero_for_centres_and_half_for_noise():
    def value(**gaps):
        return robustness_index(cohort(**gaps), k=7, replicates=10).value

    assert value(class_gap=4.0, centre_gap=0.0) > 0.97
    assert value(class_gap=0.0, centre_gap=4.0) < 0.03
    assert value(class_gap=0.0, centre_gap=0.0) == pytest.approx(0.5, abs=0.1)


def test_neighbours_of_the_same_slide_do_not_count():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(12, 4))
    rows[1] = rows[0]
    found = build_cohort(
        rows,
        labels=["a", "a", "b"] * 4,
        centres=["x", "x", "y", "x", "y", "y"] * 2,
        groups=["s0", "s0"] + [f"s{i}" for i in range(1, 11)],
    )
    assert 1 not in nearest(found, 11)[0]
    assert (nearest(found, 11)[0] == -1).sum() == 1
    chunked = nearest(found, 5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.robustness.index.CHUNK", 5)
        assert (nearest(found, 5) == chunked).all()


def test_slides_of_two_centres_with_one_name_are_two_slides():
    found = build_cohort(
        np.eye(4), labels=["a", "b", "a", "b"], centres=["x", "x", "y", "y"], groups=["1"] * 4
    )
    assert len(set(found.groups)) == 2


def test_the_chosen_k_has_the_best_balanced_accuracy():
    found = cohort(class_gap=0.8, centre_gap=0.0)
    chosen = choose_k(found, (1, 5, 21))
    scores = {k: robustness_index(found, k=k, replicates=2).balanced_accuracy for k in (1, 5, 21)}
    assert scores[chosen] == max(scores.values())
    for k in (0, 96):
        with pytest.raises(CohortError):
            robustness_index(found, k=k)


def test_cramers_v_equals_scipy():
    rng = np.random.default_rng(0)
    for shape in ((2, 2), (3, 4), (5, 2)):
        table = rng.integers(1, 30, shape)
        assert cramers_v(table) == pytest.approx(association(table, method="cramer"))
    assert math.isnan(cramers_v(np.array([[3, 4]])))


@pytest.mark.parametrize("shape", [(2, 2), (3, 3), (2, 4), (4, 2)])
def test_splits_rise_from_none_to_full_association_at_equal_size(shape):
    tables = split_tables(np.full(shape, 40), 5)
    values = [cramers_v(table) for table in tables]
    assert values[0] == pytest.approx(0, abs=0.05)
    assert values[-1] == pytest.approx(1.0)
    assert values == sorted(values)
    assert len({tuple(table.sum(axis=1)) for table in tables}) == 1
    assert all((table <= 40).all() for table in tables)
    with pytest.raises(CohortError, match="too few"):
        split_tables(np.zeros(shape, np.int64), 5)


def drop_of(found, **changes):
    options = {
        "unseen_centres": (),
        "steps": 3,
        "repetitions": 3,
        "strengths": (1e-4, 1e-2, 1.0),
        "report": quiet,
    }
    return performance_drop(found, **(options | changes))


def test_confounded_training_costs_where_the_centre_shows():
    shown = drop_of(cohort(class_gap=0.8, centre_gap=3.0, groups=10))
    hidden = drop_of(cohort(class_gap=2.5, centre_gap=0.0, groups=10))
    assert shown.association[0] == pytest.approx(0.0, abs=1e-9)
    assert shown.association[-1] == pytest.approx(1.0)
    assert shown.in_distribution.drop < -0.15
    assert abs(hidden.in_distribution.drop) < 0.08
    assert shown.in_distribution.drop_low <= shown.in_distribution.drop
    assert shown.unseen is None


def test_the_drop_is_repeatable_and_measured_on_unseen_centres_too():
    found = cohort(class_gap=1.0, centre_gap=1.0, groups=8)
    third = cohort(class_gap=1.0, centre_gap=-2.0, groups=8, seed=5)
    names = [found.centre_names[c] for c in found.centres] + ["new"] * len(third.labels)
    both = build_cohort(
        np.concatenate([found.embeddings, third.embeddings]),
        labels=[found.label_names[n] for n in (*found.labels, *third.labels)],
        centres=names,
        groups=[str(g) for g in (*found.groups, *third.groups)],
    )
    first = drop_of(both, unseen_centres=("new",))
    assert first == drop_of(both, unseen_centres=("new",))
    assert first.unseen is not None
    assert len(first.unseen.mean) == 3
    with pytest.raises(CohortError, match="no centre"):
        drop_of(both, unseen_centres=("nowhere",))


def test_too_few_groups_for_the_drop_are_refused():
    with pytest.raises(CohortError, match="groups in centre"):
        drop_of(cohort(class_gap=1.0, centre_gap=1.0, groups=2))


def test_the_clustering_score_follows_what_is_there():
    options = {"seeds": 2, "max_clusters": 4, "report": quiet}
    biology = clustering_score(cohort(class_gap=6.0, centre_gap=0.0, groups=4), **options)
    centres = clustering_score(cohort(class_gap=0.0, centre_gap=6.0, groups=4), **options)
    assert biology.value > 0.9
    assert centres.value < -0.9
    assert biology.combinations == 1
    assert biology.clusters == (2,)
    corners = np.repeat(np.eye(3), 5, axis=0) + np.random.default_rng(0).normal(0, 0.01, (15, 3))
    assert choose_clusters(corners, max_clusters=6) == 3


def test_clustering_needs_two_labels_in_the_same_two_centres():
    split = build_cohort(
        np.eye(4), labels=["a", "a", "b", "b"], centres=["x", "x", "y", "y"], groups=list("1234")
    )
    with pytest.raises(CohortError, match="same two centres"):
        clustering_score(split, seeds=1, max_clusters=3, report=quiet)


def naive_combat(values, labels, centres):
    """Johnson et al. 2007, with loops over dimensions and samples."""
    names, classes = sorted(set(centres)), sorted(set(labels))[1:]
    design = np.array(
        [
            [c == n for n in names] + [y == k for k in classes]
            for y, c in zip(labels, centres, strict=True)
        ],
        float,
    )
    count, dims = values.shape
    coefficients = [
        np.linalg.solve(design.T @ design, design.T @ values[:, d]) for d in range(dims)
    ]
    z, stand, scale = np.zeros((count, dims)), np.zeros((count, dims)), []
    for d in range(dims):
        b = coefficients[d]
        grand = sum(b[i] * np.mean(centres == n) for i, n in enumerate(names))
        scale.append(math.sqrt(np.mean((values[:, d] - design @ b) ** 2)))
        for i in range(count):
            stand[i, d] = grand + sum(
                b[len(names) + j] for j, k in enumerate(classes) if labels[i] == k
            )
            z[i, d] = (values[i, d] - stand[i, d]) / scale[d]
    found = np.zeros_like(values)
    for name in names:
        own = np.flatnonzero(centres == name)
        g = [z[own, d].mean() for d in range(dims)]
        s = [z[own, d].var(ddof=1) for d in range(dims)]
        g_bar, t2 = np.mean(g), np.var(g, ddof=1)
        m, v = np.mean(s), np.var(s, ddof=1)
        a, b = (2 * v + m**2) / v, (m * v + m**3) / v
        for d in range(dims):
            gamma, delta = g[d], s[d]
            for _ in range(2000):
                gamma = (len(own) * t2 * g[d] + delta * g_bar) / (len(own) * t2 + delta)
                total = sum((z[i, d] - gamma) ** 2 for i in own)
                delta = (b + total / 2) / (len(own) / 2 + a - 1)
            for i in own:
                found[i, d] = (z[i, d] - gamma) / math.sqrt(delta) * scale[d] + stand[i, d]
    return found


def test_combat_equals_its_naive_twin():
    rng = np.random.default_rng(0)
    labels, centres = np.tile([0, 1, 1], 10), np.repeat([0, 1, 2], 10)
    values = rng.normal(size=(30, 5)) + 2 * centres[:, None] + labels[:, None]
    values[centres == 1] *= 2
    found = combat(values, labels=labels, centres=centres)
    np.testing.assert_allclose(found, naive_combat(values, labels, centres), atol=2e-3)


def test_combat_removes_the_centre_and_keeps_the_class():
    found = cohort(class_gap=1.5, centre_gap=3.0)
    adjusted = found.replace(combat(found.embeddings, labels=found.labels, centres=found.centres))
    before = robustness_index(found, k=7, replicates=2).value
    after = robustness_index(adjusted, k=7, replicates=2).value
    assert before < 0.5
    assert after > 0.8


def test_combat_refuses_a_centre_with_one_class_or_too_few_samples():
    values = np.random.default_rng(0).normal(size=(8, 3))
    labels = np.array([0, 1, 0, 1, 0, 0, 0, 0])
    with pytest.raises(CohortError, match="one class only"):
        combat(values, labels=labels, centres=np.repeat([0, 1], 4))
    with pytest.raises(CohortError, match="samples of centre"):
        combat(values, labels=np.array([0, 1] * 4), centres=np.array([0] * 6 + [1] * 2))
    with pytest.raises(CohortError, match="two centres"):
        combat(values, labels=labels, centres=np.zeros(8, np.int64))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_embeddings_must_be_finite(bad):
    with pytest.raises(CohortError, match="finite"):
        build_cohort(np.full((2, 2), bad), labels=["a", "b"], centres=["x", "y"], groups=["1", "2"])
    with pytest.raises(CohortError, match="zero"):
        build_cohort(np.zeros((2, 2)), labels=["a", "b"], centres=["x", "y"], groups=["1", "2"])


def write_images(folder, *, centres=("red", "blue"), groups=4):
    """Stripes tell the class, a tint tells the centre."""
    rng = np.random.default_rng(0)
    lines = ["image,label,centre,group"]
    for label in ("wide", "narrow"):
        for number, centre in enumerate(centres):
            for group in range(groups):
                name = f"{label}_{centre}_{group}.png"
                image = np.full((32, 32, 3), 220, np.uint8)
                image[:: 8 if label == "wide" else 2] = (150, 90, 150)
                image[..., 2 * number] -= 60
                image = image - rng.integers(0, 20, image.shape).astype(np.uint8)
                Image.fromarray(image).save(folder / name)
                lines.append(f"{name},{label},{centre},{group}")
    (folder / "table.csv").write_text("\n".join(lines) + "\n")


def options(folder, config=TOY, **changes):
    values = {
        "config": config,
        "out": folder / "out",
        "table": folder / "table.csv",
        "images": folder,
        "embeddings": None,
        "encoder": None,
        "json": None,
    }
    return argparse.Namespace(**(values | changes))


def test_the_recipe_measures_each_variant(tmp_path, monkeypatch):
    monkeypatch.setattr(robustness, "load_tile_encoder", lambda _folder: fake_encoder())
    write_images(tmp_path, groups=10)
    robustness.run(options(tmp_path, json=tmp_path / "copy.json"), quiet)
    result = json.loads((tmp_path / "copy.json").read_text())
    names = [measures["variant"] for measures in result["measures"]]
    assert names == ["as it is", "as it is, ComBat", "reinhard", "reinhard, ComBat"]
    assert result["samples"] == 40
    assert all(0 <= m["index"]["value"] <= 1 for m in result["measures"] if m["index"]["value"])
    assert result["measures"][0]["drop"]["association"][-1] == pytest.approx(1.0)
    assert "Robustness to the centre" in (tmp_path / "out" / "report.html").read_text()
    before = (tmp_path / "out" / "robustness.json").read_text()

    for image in tmp_path.glob("*.png"):
        if not image.name.startswith("wide_red_0"):  # the target's colours are read anew
            image.unlink()
    robustness.run(options(tmp_path), quiet)
    assert (tmp_path / "out" / "robustness.json").read_text() == before


def test_the_recipe_reads_embeddings_and_refuses_stains_for_them(tmp_path):
    write_images(tmp_path)
    np.save(tmp_path / "e.npy", np.random.default_rng(0).normal(size=(16, 5)))
    given = {"images": None, "embeddings": tmp_path / "e.npy"}
    with pytest.raises(RunError, match="stain_methods"):
        robustness.run(options(tmp_path, **given), quiet)
    plain = tmp_path / "plain.toml"
    plain.write_text(TOY.read_text().replace('stain_methods = ["reinhard"]', "stain_methods = []"))
    robustness.run(options(tmp_path, config=plain, **given), quiet)
    result = json.loads((tmp_path / "out" / "robustness.json").read_text())
    assert [m["variant"] for m in result["measures"]] == ["as it is", "as it is, ComBat"]
    with pytest.raises(RunError, match="--images or --embeddings"):
        robustness.run(options(tmp_path, config=plain, images=None), quiet)


def test_combat_refused_is_reported_and_the_rest_is_measured(tmp_path):
    write_images(tmp_path)
    lines = (tmp_path / "table.csv").read_text().splitlines()
    kept = [line for line in lines if "narrow_blue" not in line]
    (tmp_path / "table.csv").write_text("\n".join(kept) + "\n")
    np.save(tmp_path / "e.npy", np.random.default_rng(0).normal(size=(12, 5)))
    plain = tmp_path / "plain.toml"
    plain.write_text(TOY.read_text().replace('stain_methods = ["reinhard"]', "stain_methods = []"))
    robustness.run(
        options(tmp_path, config=plain, images=None, embeddings=tmp_path / "e.npy"), quiet
    )
    result = json.loads((tmp_path / "out" / "robustness.json").read_text())
    assert "one class only" in result["refused"]["as it is, ComBat"]
    assert result["measures"][0]["drop"] is None
    assert result["measures"][0]["drop_reason"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("image,label,centre\na,b,c\n", "no column"),
        ("image,label,centre,group\na,,c,d\n", "line 2"),
        ("image,label,centre,group\n", "no column"),
        ("image,label,centre,group\na,b,c,1\nd,b,e,2\n", "two labels"),
    ],
)
def test_tables_that_cannot_be_used_are_refused(tmp_path, text, reason, monkeypatch):
    monkeypatch.setattr(robustness, "load_tile_encoder", lambda _folder: fake_encoder())
    (tmp_path / "table.csv").write_text(text)
    for name in ("a.png", "d.png"):
        Image.fromarray(np.full((32, 32, 3), 120, np.uint8)).save(tmp_path / name)
    with pytest.raises(CohortError, match=reason):
        robustness.run(options(tmp_path), quiet)
