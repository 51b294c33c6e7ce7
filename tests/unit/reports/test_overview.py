from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import report_builders as builders
from hypothesis import given
from hypothesis import strategies as st

from models.results import ImageAssessment
from reports.diagnosis.overview import IMAGE_BOX, Overview, draw_overview
from reports.outline import lesion_sizes
from reports.panel import PICTURE_SIZE
from reports.typography import drawable, fitted, font, width, wrapped
from reports.wording import percent


def picture(
    assessment: ImageAssessment | None = None,
    pixels: np.ndarray | None = None,
    **changes: object,
) -> np.ndarray:
    assessment = assessment or builders.assessment()
    region = assessment.region
    return draw_overview(
        Overview(
            pixels=builders.photograph((96, 128)) if pixels is None else pixels,
            assessment=assessment,
            result=builders.result(assessment, **changes),
            sizes=lesion_sizes(region, None) if region else (),
            number=1,
        )
    )


def panel(image: np.ndarray) -> np.ndarray:
    return image[:, IMAGE_BOX[1] :]


def test_picture_has_its_size_whatever_the_image() -> None:
    for shape in ((96, 128), (128, 96), (1, 1), (3, 900), (2000, 1500)):
        image = picture(builders.assessment(with_region=False), builders.photograph(shape))
        assert image.shape == (*PICTURE_SIZE, 3)
        assert image.dtype == np.uint8


def test_outline_follows_the_lesion() -> None:
    with_outline = picture()[:, : IMAGE_BOX[1]]
    without = picture(builders.assessment(with_region=False))[:, : IMAGE_BOX[1]]
    changed = (with_outline != without).any(axis=2)
    scale = IMAGE_BOX[1] / 128
    top = (IMAGE_BOX[0] - 96 * scale) / 2
    ring = builders.region(builders.ellipse((96, 128))).outline
    expected = (ring + 0.5) * scale + (top, 0)
    rows, columns = np.nonzero(changed)
    points = np.stack([rows, columns], axis=1)
    distance = np.linalg.norm(points[:, None, :] - expected[None, ::1, :], axis=2).min(axis=1)
    assert distance.max() < scale  # nothing is drawn away from the lesion's border
    assert changed[tuple(np.round(expected).astype(int).T)].all()  # and all of the border is


def test_corner_where_viewers_write_is_free_of_text() -> None:
    one = picture(builders.assessment(with_region=False))
    other = picture(builders.not_assessed())
    assert np.array_equal(one[:, : IMAGE_BOX[1]], other[:, : IMAGE_BOX[1]])
    assert not np.array_equal(panel(one), panel(other))


def test_verdicts_look_different() -> None:
    images = [
        picture(builders.assessment(malignant=0.9)),
        picture(builders.assessment(malignant=0.1)),
        picture(builders.not_assessed()),
    ]
    assert len({panel(image).tobytes() for image in images}) == 3


def test_text_of_any_length_stays_in_its_panel() -> None:
    words = "A sentence that goes on for longer than any picture has room. " * 20
    assessment = builders.assessment(warnings=(words, words))
    labels = dict.fromkeys(builders.LABELS, words)
    many = replace(
        assessment,
        differential=tuple(
            builders.LabelProbability(label=f"L{i}", probability=1 / 40) for i in range(40)
        ),
    )
    model = replace(builders.MODEL, name="m" * 200, evidence=words)
    for shown in (many, builders.not_assessed(reasons=(words,) * 12)):
        image = picture(shown, labels=labels, model=model, operating_point_meaning=words)
        margin = panel(image)[:, :40]
        assert (margin == margin[0, 0]).all()
        assert (panel(image)[:, -40:] == margin[0, 0]).all()
        assert (panel(image)[-24:] == margin[0, 0]).all()


def test_a_demonstration_model_is_announced_across_the_picture() -> None:
    assessment = builders.assessment(malignant=0.9)
    plain = picture(assessment)[:60, : IMAGE_BOX[1]]
    model = replace(builders.MODEL, evidence_level="simulated")
    marked = picture(assessment, model=model)[:60, : IMAGE_BOX[1]]
    amber = (np.abs(marked.astype(int) - (250, 196, 80)).max(axis=2) < 8).mean()
    assert amber > 0.5
    assert (np.abs(plain.astype(int) - (250, 196, 80)).max(axis=2) < 8).mean() < 0.05


def test_image_that_could_not_be_decoded_is_said_so() -> None:
    assessment = builders.not_assessed(shape=(0, 0))
    image = draw_overview(
        Overview(
            pixels=None,
            assessment=assessment,
            result=builders.result(assessment),
            sizes=(),
            number=1,
        )
    )
    assert image[:, : IMAGE_BOX[1]].max() > 100  # light letters on the dark ground


@given(st.text(max_size=60))
def test_any_text_is_drawable_in_the_bundled_font(text: str) -> None:
    written = drawable(text)
    assert all(" " <= letter <= "~" for letter in written)


def test_umlauts_are_spelled_out() -> None:
    assert drawable("Nävus, groß, Ænima ≥ 3 × 2 mm") == "Naevus, gross, AEnima >= 3 x 2 mm".replace(
        "AE", "Ae"
    )
    assert drawable("a\u0308") == "ae"  # decomposed
    assert drawable("病変") == "??"


def test_every_letter_that_is_used_has_a_shape_of_its_own() -> None:
    shapes = {letter: bytes(font(30).getmask(letter)) for letter in "abcxyzABCXYZ0189%<>,.()/"}
    assert len(set(shapes.values())) == len(shapes)


@given(st.text(max_size=200), st.integers(1, 5))
def test_wrapped_lines_fit(text: str, lines: int) -> None:
    shown = wrapped(drawable(text), 22, 300, lines)
    assert len(shown) <= lines
    assert all(width(line, 22) <= 300 for line in shown)


def test_cut_text_says_so() -> None:
    assert fitted("short", 22, 300) == "short"
    assert fitted("x" * 100, 22, 300).endswith("...")
    assert wrapped("word " * 100, 22, 300, 2)[-1].endswith("...")


@pytest.mark.parametrize(
    ("prob", "expected"),
    [(0.0, "< 0.1 %"), (0.001, "0.1 %"), (0.5, "50.0 %"), (0.999, "99.9 %"), (1.0, "> 99.9 %")],
)
def test_no_model_claims_certainty(prob: float, expected: str) -> None:
    assert percent(prob) == expected
