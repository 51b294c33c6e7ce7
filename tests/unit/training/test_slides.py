import json
import shutil

import numpy as np
import pytest

from models.errors import SlideError
from models.preprocessing import prepare_image
from models.slide.reading import geometry_of, read_overview, read_tile
from models.slide.tiles import lay_grid
from models.slide.tissue import PRESETS, find_tissue
from tests.unit.training.slide_builder import section, write_dicom, write_tiff
from training.errors import CohortError, RunError, SlideFileError
from training.pretrained import load_compact
from training.slide.cohort import SlideRow, read_slide_table, split_folds
from training.slide.features import (
    FAILED,
    FeatureStore,
    TileEncoder,
    TileSettings,
    load_tile_encoder,
    locked,
)
from training.slide.readers import is_jfif, open_slide

SETTINGS = TileSettings(
    tile_px=256, tile_um_px=0.5, tissue_preset="bwh_biopsy", min_tiles=2, batch_size=3
)


def fake_encoder(digest="f" * 64):
    """Mean colour of a tile's quarters."""

    def embed(pixels):
        return pixels.float().reshape(len(pixels), 2, -1).mean(dim=2) / 255

    return TileEncoder(embed, digest=digest, size=32, dim=2)


def quiet(_text, _done, _total):
    pass


@pytest.fixture
def folder(tmp_path):
    """One slide in two encodings, and bad ones."""
    picture = section(2000, 1600)
    write_tiff(tmp_path / "good.tiff", picture, um_px=0.5)
    (tmp_path / "series").mkdir()
    write_dicom(tmp_path / "series" / "level.dcm", picture, um_px=0.5)
    write_tiff(tmp_path / "glass.tiff", np.full((800, 800, 3), 243, np.uint8), um_px=0.5)
    write_tiff(tmp_path / "wrong_unit.tiff", picture[:600, :600], um_px=0.005)
    write_tiff(tmp_path / "no_spacing.tiff", picture[:600, :600], um_px=None)
    (tmp_path / "text.svs").write_text("no slide")
    whole = (tmp_path / "good.tiff").read_bytes()
    (tmp_path / "cut.tiff").write_bytes(whole[: len(whole) // 2])
    return tmp_path


def write_table(folder, paths, extra=""):
    lines = [f"{path},{('normal', 'tumour')[i % 2]},case{i}" for i, path in enumerate(paths)]
    (folder / "slides.csv").write_text("path,label,case\n" + "\n".join(lines) + extra + "\n")


def test_two_encodings_of_one_slide_give_the_same_tiles(folder):
    found = []
    for name in ("good.tiff", "series", "series/level.dcm"):
        with open_slide(folder / name) as reader:
            overview, um_px = read_overview(reader)
            tissue = find_tissue(overview, um_px=um_px, preset=PRESETS["bwh_biopsy"])
            grid = lay_grid(geometry_of(reader), tissue)
            tiles = [read_tile(reader, grid, index) for index in range(len(grid))]
            found.append((overview, grid.coordinates, np.stack(tiles)))
    for other in found[1:]:
        for mine, theirs in zip(found[0], other, strict=True):
            assert (mine == theirs).all()
    assert len(found[0][1]) >= 12


def test_reading_equals_the_picture_and_is_white_beyond(folder):
    picture = section(2000, 1600)
    for name in ("good.tiff", "series"):
        with open_slide(folder / name) as reader:
            assert reader.um_px == pytest.approx(0.5)
            assert (reader.read(0, 700, 500, 300, 200) == picture[500:700, 700:1000]).all()
            corner = reader.read(0, 1990, -5, 20, 10)
            assert (corner[5:, :10] == picture[:5, 1990:]).all()
            assert (corner[:5] == 255).all()
            assert (corner[:, 10:] == 255).all()
            assert (reader.read(0, 5000, 0, 4, 4) == 255).all()


def test_the_overview_is_an_area_average_whatever_the_blocks(folder, monkeypatch):
    with open_slide(folder / "good.tiff") as reader:
        whole, um_px = read_overview(reader)
        monkeypatch.setattr("models.slide.reading.BLOCK_PX", 320)
        blocks, _ = read_overview(reader)
        monkeypatch.setattr("models.slide.reading.MAX_OVERVIEW_PX", 1000)
        small, coarser = read_overview(reader)
    assert um_px == pytest.approx(8.0)
    assert whole.shape == (100, 125, 3)
    assert (whole == blocks).all()
    truth = section(2000, 1600).reshape(100, 16, 125, 16, 3).mean(axis=(1, 3))
    assert np.abs(whole - truth).max() <= 1
    assert small.shape[0] * small.shape[1] <= 1100
    assert coarser > 20


@pytest.mark.parametrize("name", ["text.svs", "missing.svs", "empty"])
def test_what_is_no_slide_is_refused(folder, name):
    (folder / "empty").mkdir()
    with pytest.raises(SlideFileError):
        open_slide(folder / name)


def test_spacing_is_asked_for_not_guessed(folder):
    for name, reason in (("wrong_unit.tiff", "microscope"), ("no_spacing.tiff", "does not state")):
        with open_slide(folder / name) as reader, pytest.raises(SlideError, match=reason):
            read_overview(reader)
        with open_slide(folder / name, um_px=0.5) as reader:
            assert read_overview(reader)[1] == pytest.approx(8.0, rel=0.05)


def test_a_dicom_slide_without_spacing_is_refused(tmp_path):
    write_dicom(tmp_path / "bare.dcm", section(400, 400), um_px=None)
    with pytest.raises((SlideError, SlideFileError)), open_slide(tmp_path / "bare.dcm") as reader:
        geometry_of(reader)


def test_a_jfif_frame_is_known_by_its_first_segment():
    assert is_jfif(b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01")
    assert not is_jfif(b"\xff\xd8\xff\xee\x00\x0eAdobe\x00")
    assert not is_jfif(b"")


def test_bad_slides_are_recorded_and_stop_nothing(folder):
    names = [
        "good.tiff",
        "text.svs",
        "cut.tiff",
        "glass.tiff",
        "wrong_unit.tiff",
        "series",
        "gone.tiff",
    ]
    write_table(folder, names)
    cohort = read_slide_table(folder)
    store = FeatureStore(folder / "out", settings=SETTINGS, encoder=fake_encoder())
    records = store.extract(cohort.sources, quiet)
    statuses = {name: record.status for name, record in records.items()}
    assert statuses == {
        "good.tiff": "ok",
        "text.svs": FAILED,
        "cut.tiff": FAILED,
        "glass.tiff": "blank slide",
        "wrong_unit.tiff": FAILED,
        "series": "ok",
        "gone.tiff": FAILED,
    }
    assert "microscope" in records["wrong_unit.tiff"].reason
    for name in ("good.tiff", "glass.tiff"):
        assert store.path(name, "sheet.png").is_file()
    features, coordinates = store.read(records["good.tiff"])
    assert features.dtype == np.float16
    assert len(features) == len(coordinates) == records["good.tiff"].tiles
    other, _ = store.read(records["series"])
    assert (features == other).all()


def test_features_are_those_of_the_tiles_whatever_the_batch(folder):
    write_table(folder, ["good.tiff"])
    cohort = read_slide_table(folder)
    found = []
    for number, size in enumerate((1, 5)):
        settings = TileSettings(
            tile_px=256, tile_um_px=0.5, tissue_preset="bwh_biopsy", min_tiles=1, batch_size=size
        )
        encoder = fake_encoder()
        store = FeatureStore(folder / f"out{number}", settings=settings, encoder=encoder)
        record = store.extract(cohort.sources, quiet)["good.tiff"]
        features, coordinates = store.read(record)
        found.append(features)
    assert (found[0] == found[1]).all()
    with open_slide(folder / "good.tiff") as reader:
        x, y = (int(v) for v in coordinates[3])
        tile = reader.read(0, x, y, 256, 256)
    np.testing.assert_allclose(found[0][3], fake_encoder()([tile])[0], atol=1e-3)


def test_a_second_run_reads_what_the_first_wrote_and_tries_failures_again(folder):
    write_table(folder, ["good.tiff", "text.svs"])
    counts = []

    def counting():
        encoder = fake_encoder()
        inner = encoder._embed
        encoder._embed = lambda pixels: counts.append(len(pixels)) or inner(pixels)
        return encoder

    store = FeatureStore(folder / "out", settings=SETTINGS, encoder=counting())
    first = store.extract(read_slide_table(folder).sources, quiet)
    seen = sum(counts)
    assert seen == first["good.tiff"].tiles
    shutil.copy(folder / "series" / "level.dcm", folder / "text.svs")  # mended
    second = store.extract(read_slide_table(folder).sources, quiet)
    assert second["text.svs"].status == "ok"
    assert sum(counts) == 2 * seen
    other = FeatureStore(folder / "out", settings=SETTINGS, encoder=fake_encoder("e" * 64))
    other.extract(read_slide_table(folder).sources, quiet)
    assert other.path("good.tiff", "slide.json").is_file()
    assert (
        json.loads(other.path("good.tiff", "slide.json").read_text())["key"]
        != first["good.tiff"].key
    )


def test_a_run_killed_within_a_slide_goes_on_with_it(folder):
    write_table(folder, ["good.tiff", "series"])
    encoder, calls = fake_encoder(), []
    inner = encoder._embed

    def dying(pixels):
        calls.append(1)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return inner(pixels)

    encoder._embed = dying
    store = FeatureStore(folder / "out", settings=SETTINGS, encoder=encoder)
    with pytest.raises(KeyboardInterrupt):
        store.extract(read_slide_table(folder).sources, quiet)
    records = store.extract(read_slide_table(folder).sources, quiet)
    assert [record.status for record in records.values()] == ["ok", "ok"]
    assert (store.read(records["good.tiff"])[0] == store.read(records["series"])[0]).all()


def test_two_runs_do_not_write_into_one_folder(tmp_path):
    with locked(tmp_path), pytest.raises(RunError, match="another run"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("path,label\na,b\n", "no column"),
        ("path,label,case\n", "no slide"),
        ("path,label,case\na,,c\n", "line 2"),
        ("path,label,case\na,x,c\na,x,d\n", "twice"),
        ("path,label,case,um_px\na,x,c,half\n", "um_px"),
        ("path,label,case,split\na,x,c,test\n", "split"),
        ("path,label,case,split\na,x,c,held_out\nb,x,c,development\n", "more than one split"),
    ],
)
def test_tables_that_cannot_be_used_are_refused(tmp_path, text, reason):
    (tmp_path / "slides.csv").write_text(text)
    with pytest.raises(CohortError, match=reason):
        read_slide_table(tmp_path)


def test_a_missing_table_is_refused(tmp_path):
    with pytest.raises(CohortError, match="table"):
        read_slide_table(tmp_path)


def test_folds_keep_cases_together_and_labels_even():
    rows = [
        SlideRow(slide_id=f"{c}-{s}", label=("a", "b")[c % 2], case=f"{c}", split="development")
        for c in range(20)
        for s in range(1 + c % 3)
    ]
    folds = split_folds(rows, folds=5, seed=3)
    by_case = {}
    for row, fold in zip(rows, folds, strict=True):
        assert by_case.setdefault(row.case, fold) == fold
    for fold in range(5):
        labels = [
            row.label for row in {r.case: r for r in rows}.values() if by_case[row.case] == fold
        ]
        assert sorted(labels) == ["a", "a", "b", "b"]
    assert folds != split_folds(rows, folds=5, seed=4)
    with pytest.raises(CohortError, match="each of 11 folds"):
        split_folds(rows, folds=11, seed=0)


def test_the_start_encoder_is_rounded_as_it_is_served():
    encoder = load_tile_encoder(None)
    tile = section(256, 256)
    found = encoder([tile])
    assert found.shape == (1, 1280)
    assert len(encoder.digest) == 64
    assert encoder.size == prepare_image(tile).shape[0]
    exact = load_compact()
    first = next(iter(exact.state_dict().values()))
    assert not (first == first.half().float()).all()
