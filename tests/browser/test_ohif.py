"""What a clinician sees of our results in OHIF, by pixels and by the page's own elements."""

from collections.abc import Iterator

import cv2
import numpy as np
import pytest

from gateway.sending.wrap import Kind as WrapKind
from tests.browser.driver import Browser, Picture, browser
from tests.browser.ohif import ohif
from tests.browser.study import Study, store_study
from tests.servers import Orthanc, orthanc, require

pytestmark = [pytest.mark.viewers, pytest.mark.timeout(600)]

CANVAS = "canvas.cornerstone-canvas"
_READY_S = 90.0  # software WebGL on a busy machine


@pytest.fixture(scope="module")
def pacs(tmp_path_factory) -> Iterator[Orthanc]:
    require("Orthanc", "chromium", "chromedriver")
    with orthanc(tmp_path_factory.mktemp("pacs")) as server:
        yield server


@pytest.fixture(scope="module")
def ohif_url(pacs) -> Iterator[str]:
    with ohif(pacs) as url:
        yield url


@pytest.fixture(scope="module")
def study(pacs, tmp_path_factory) -> Study:
    return store_study(pacs, tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def study_without_assessment(pacs, tmp_path_factory) -> Study:
    return store_study(pacs, tmp_path_factory.mktemp("study"), assessed=False)


@pytest.fixture(scope="module")
def clinical_study(pacs, tmp_path_factory) -> Study:
    return store_study(pacs, tmp_path_factory.mktemp("study"), wrap_kind=WrapKind.CLINICAL)


@pytest.fixture
def window(ohif_url, tmp_path) -> Iterator[Browser]:
    with browser(tmp_path / "browser", size=(1500, 950)) as opened:
        opened.open(ohif_url)
        yield opened


def open_study(window: Browser, study: Study) -> None:
    """Open the study as a clinician would from the work list, and wave the greetings away."""
    root = window.url.split("?")[0].rstrip("/")
    window.open(f"{root}/viewer?StudyInstanceUIDs={study.study_instance_uid}")
    window.click_text("Skip all", _READY_S)
    window.click_text("Confirm and hide", _READY_S)


def show_series(window: Browser, number: int) -> None:
    window.wait_for(f'[data-series="{number}"]', _READY_S)
    window.double_click(f'[data-series="{number}"]')


def fitted(window: Browser, pixels: Picture) -> tuple[Picture, float, tuple[int, int]]:
    """Return the viewport's expected content, the scale and the (row, column) of its corner.

    OHIF shows an image as large as the viewport allows, in its middle, on black.
    """
    width, height = window.script(
        "const b = document.querySelector(arguments[0]).getBoundingClientRect();"
        "return [Math.round(b.width), Math.round(b.height)]",
        CANVAS,
    )
    scale = min(width / pixels.shape[1], height / pixels.shape[0])
    size = round(pixels.shape[1] * scale), round(pixels.shape[0] * scale)
    corner = (height - size[1]) // 2, (width - size[0]) // 2
    expected = np.zeros((height, width, 3), np.uint8)
    expected[corner[0] : corner[0] + size[1], corner[1] : corner[1] + size[0]] = cv2.resize(
        pixels, size, interpolation=cv2.INTER_LINEAR
    )
    return expected, scale, corner


def likeness(shown: Picture, expected: Picture) -> float:
    """Correlation of two pictures of one size, at a resolution where texts do not count much."""
    small = [cv2.resize(p, (75, 50), interpolation=cv2.INTER_AREA) for p in (shown, expected)]
    if min(each.std() for each in small) == 0:
        return 0.0
    return float(np.corrcoef(small[0].ravel(), small[1].ravel())[0, 1])


def wait_for_picture(window: Browser, pixels: Picture, what: str, least: float = 0.98) -> Picture:
    """Wait until the viewport shows these pixels, and return what it shows."""

    def is_shown() -> bool:
        expected, _, _ = fitted(window, pixels)
        shown = window.screenshot(css=CANVAS)
        return shown.shape == expected.shape and likeness(shown, expected) >= least

    window.wait_for(CANVAS, _READY_S)
    window.wait_until(is_shown, _READY_S, what, interval_s=0.5)
    return window.screenshot(css=CANVAS)


def on_screen(window: Browser, study: Study) -> tuple[Picture, Picture]:
    """Return the lesion's mask and a band along its border, as large as the viewport."""
    assert study.lesion is not None
    mask = study.lesion.mask.astype(np.uint8) * 255
    enlarged, _, _ = fitted(window, np.repeat(mask[..., None], 3, axis=2))
    inside = (enlarged[..., 0] > 127).astype(np.uint8)
    kernel = np.ones((9, 9), np.uint8)
    border = cv2.dilate(inside, kernel) - cv2.erode(inside, kernel)
    return inside.astype(bool), border.astype(bool)


def svg_texts(window: Browser) -> list[str]:
    return list(
        window.script(
            "return [...document.querySelectorAll('svg text')].map(t => t.textContent.trim())"
        )
    )


def change(shown: Picture, before: Picture) -> np.ndarray:
    """Mean absolute change of each pixel over the colours."""
    return np.abs(shown.astype(int) - before.astype(int)).mean(axis=2)


@pytest.mark.parametrize("name", ["study", "clinical_study"])
def test_image_of_either_sop_class_is_shown(window, name, request, screenshots):
    study = request.getfixturevalue(name)
    open_study(window, study)
    wait_for_picture(window, study.pixels, "the image in the viewport")
    window.screenshot(screenshots / "image.png")


def test_segmentation_covers_the_lesion_and_only_the_lesion(window, study, screenshots):
    open_study(window, study)
    before = wait_for_picture(window, study.pixels, "the image before the overlay")
    inside, border = on_screen(window, study)
    rows = np.arange(before.shape[0])[:, None]
    # OHIF lays its question whether to open the segmentation over the top of the image.
    below_prompt = np.broadcast_to(rows > 0.2 * before.shape[0], inside.shape)
    covered = inside & ~border & below_prompt
    clear = ~inside & ~border & below_prompt
    show_series(window, study.series_number("seg-1"))

    def lesion_is_covered() -> bool:
        shown = window.screenshot(css=CANVAS)
        if shown.shape != before.shape:
            return False
        changed = change(shown, before) > 10
        return bool(changed[covered].mean() > 0.95 and changed[clear].mean() < 0.02)

    window.wait_until(lesion_is_covered, _READY_S, "colour over the lesion alone", interval_s=0.5)
    window.screenshot(screenshots / "segmentation.png")


def test_report_draws_the_outline_and_says_the_numbers(window, study, screenshots):
    open_study(window, study)
    before = wait_for_picture(window, study.pixels, "the image before the outline")
    inside, border = on_screen(window, study)
    show_series(window, study.series_number("sr"))
    window.wait_until(
        lambda: any("Probability of cancer" in text for text in svg_texts(window)),
        _READY_S,
        "the report's numbers in the page",
        interval_s=0.5,
    )
    texts = " ".join(svg_texts(window))
    assert "73.20 %" in texts
    assert "most likely Melanoma" in texts
    assert "Not for diagnostic use" in texts
    wait_for_picture(window, study.pixels, "the image under the outline", least=0.95)
    after = change(window.screenshot(screenshots / "report.png", css=CANVAS), before)
    window.screenshot(screenshots / "window.png")
    interior = inside & ~border
    assert np.mean(after[border] > 10) > 5 * max(np.mean(after[interior] > 10), 0.004)


def test_overview_is_shown_whole(window, study, screenshots):
    open_study(window, study)
    wait_for_picture(window, study.pixels, "the image first")
    overview = study.objects["overview-1"].pixel_array
    show_series(window, study.series_number("overview-1"))
    wait_for_picture(window, overview, "the overview in the viewport", least=0.95)
    window.screenshot(screenshots / "overview.png")


def test_image_that_was_not_assessed_says_why(window, study_without_assessment, screenshots):
    study = study_without_assessment
    assert not [role for role in study.objects if role.startswith("seg")]
    open_study(window, study)
    wait_for_picture(window, study.pixels, "the image that was not assessed")
    show_series(window, study.series_number("sr"))
    window.wait_until(
        lambda: "out of focus" in " ".join(svg_texts(window)),
        _READY_S,
        "the reason in the page",
        interval_s=0.5,
    )
    window.screenshot(screenshots / "report.png")
    assert "Probability" not in " ".join(svg_texts(window))
    wait_for_picture(window, study.pixels, "the image under the reason", least=0.95)
    show_series(window, study.series_number("overview-1"))
    overview = study.objects["overview-1"].pixel_array
    wait_for_picture(window, overview, "the overview that shows the reason", least=0.95)
    window.screenshot(screenshots / "overview.png")
