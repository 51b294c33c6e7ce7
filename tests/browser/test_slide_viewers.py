"""What a pathologist sees of a slide's results: in the library inside Slim, in OHIF, in Orthanc."""

from collections.abc import Iterator
from io import BytesIO

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.browser.driver import Browser, Picture, browser
from tests.browser.ohif import ohif
from tests.browser.slide_study import SIZE, SlideStudy, store_slide
from tests.browser.slide_viewer import ask, slide_viewer
from tests.servers import Orthanc, orthanc, require

pytestmark = [pytest.mark.viewers, pytest.mark.timeout(600)]

WINDOW = (1280, 700)
SLIDE_WIDTH = 900
"""Width of the slide's part of the page in pixels; the list of findings is beside it."""
FREE = np.s_[150:660]
"""Rows of the slide that neither the little overview, the legend nor the scale bar covers."""
_READY_S = 90.0  # software WebGL on a busy machine


@pytest.fixture(scope="module")
def pacs(tmp_path_factory) -> Iterator[Orthanc]:
    require("Orthanc", "chromium", "chromedriver")
    with orthanc(tmp_path_factory.mktemp("pacs")) as server:
        yield server


@pytest.fixture(scope="module")
def study(pacs) -> SlideStudy:
    return store_slide(pacs)


@pytest.fixture(scope="module")
def ohif_url(pacs) -> Iterator[str]:
    with ohif(pacs) as url:
        yield url


@pytest.fixture
def slide(pacs, study, tmp_path) -> Iterator[Browser]:
    """The slide in the microscopy viewer, drawn."""
    with slide_viewer(pacs) as url, browser(tmp_path / "browser", size=WINDOW) as window:
        window.open(url)
        window.wait_until(
            lambda: window.script("return window.ready === true"), _READY_S, "the page"
        )
        ask(window, "openSlide", study.study_instance_uid, study.slide_series_uid)
        expected = as_shown(study.overview)

        def is_drawn() -> bool:
            return likeness(shown(window)[FREE], expected[FREE]) > 0.97

        window.wait_until(is_drawn, _READY_S, "the slide in the viewer", interval_s=0.5)
        yield window
        assert window.script("return window.problems") == []


@pytest.fixture
def window(tmp_path) -> Iterator[Browser]:
    # OHIF says so of each object that it is not to take for an overlay of a stack.
    ours = ("ReferencedSeriesSequence is missing",)
    with browser(tmp_path / "browser", size=(1500, 950), ignore_console=ours) as opened:
        yield opened


def as_shown(picture: np.ndarray) -> Picture:
    """A picture of the whole slide as the viewer lays it out: turned, as wide as its part."""
    height = round(SLIDE_WIDTH * SIZE[1] / SIZE[0])
    how = cv2.INTER_AREA if picture.shape[1] > SLIDE_WIDTH else cv2.INTER_NEAREST
    view = cv2.resize(picture[::-1, ::-1], (SLIDE_WIDTH, height), interpolation=how)
    if view.ndim == 2:
        view = np.repeat(view[..., None], 3, axis=2)
    margin = (WINDOW[1] - height) // 2
    return cv2.copyMakeBorder(
        view, margin, WINDOW[1] - height - margin, 0, 0, cv2.BORDER_CONSTANT, value=(32, 32, 32)
    )


def shown(window: Browser) -> Picture:
    return window.screenshot()[:, :SLIDE_WIDTH]


def likeness(first: np.ndarray, second: np.ndarray) -> float:
    """Correlation at a resolution where noise does not count."""
    grey = [
        cv2.resize(p, (90, 51), interpolation=cv2.INTER_AREA).mean(axis=2).ravel()
        for p in (first, second)
    ]
    if min(each.std() for each in grey) == 0:
        return 0.0
    return float(np.corrcoef(grey[0], grey[1])[0, 1])


def test_attention_lies_over_its_tiles(slide, study, screenshots):
    labels = ask(slide, "showMap", study.study_instance_uid, study.series_uid("map-1"))
    assert labels == [
        ["Attention rank", "Attention rank within this slide, 1 the highest, 0 no tile"]
    ]
    ranks = study.objects["map-1"].pixel_array.astype(np.float32) / 10_000
    expected = as_shown((ranks * 255).astype(np.uint8))

    def is_drawn() -> bool:
        return likeness(shown(slide)[FREE], expected[FREE]) > 0.9

    window.wait_until(is_drawn, _READY_S, "the map over the slide", interval_s=0.5)
    slide.screenshot(screenshots / "map.png")
    assert "Attention rank" in slide.text


def test_mask_covers_the_tissue_and_only_the_tissue(slide, study, screenshots):
    before = shown(slide)
    labels = ask(slide, "showMask", study.study_instance_uid, study.series_uid("seg-1"))
    assert labels == [["Tissue (AI)", "Tissue"]]
    mask = study.objects["seg-1"].pixel_array.reshape(192, 256)
    expected = as_shown(mask * np.uint8(255))[FREE][..., 0] > 127

    def is_drawn() -> bool:
        changed = np.abs(shown(slide).astype(int) - before).mean(axis=2)[FREE] > 15
        both, either = (changed & expected).sum(), (changed | expected).sum()
        return bool(both / max(either, 1) > 0.95)

    window.wait_until(is_drawn, _READY_S, "the mask over the tissue", interval_s=0.5)
    slide.screenshot(screenshots / "mask.png")


def test_report_outlines_tissue_and_tiles_and_lists_what_it_says(slide, study, screenshots):
    before = shown(slide)
    assert ask(slide, "showReport", study.study_instance_uid, study.series_uid("sr")) == 6
    ranks = study.objects["map-1"].pixel_array
    row, column = np.unravel_index(int(ranks.argmax()), ranks.shape)
    tile = np.zeros_like(ranks, np.uint8)
    tile[row, column] = 255
    square = as_shown(tile)[..., 0] > 127
    kernel = np.ones((5, 5), np.uint8)
    border = cv2.dilate(square.astype(np.uint8), kernel) - cv2.erode(
        square.astype(np.uint8), kernel
    )

    def is_drawn() -> bool:
        now = shown(slide).astype(int)
        is_red = (now[..., 0] > 200) & (now[..., 1] < 60) & (now[..., 2] < 60)
        changed = np.abs(now - before).mean(axis=2) > 15
        inside = cv2.erode(square.astype(np.uint8), np.ones((11, 11), np.uint8)) > 0
        return bool(is_red[border > 0].mean() > 0.3 and changed[inside].mean() < 0.02)

    window.wait_until(is_drawn, _READY_S, "a square around the first tile", interval_s=0.5)
    slide.screenshot(screenshots / "report.png")
    text = slide.text
    assert "Prob. Metastasis: 93.2" in text
    assert "DEMONSTRATION MODEL, simulated data only" in text
    assert "Research use only" in text
    assert "Rank within this slide only" in text


def open_in_ohif(window: Browser, url: str, mode: str, study: SlideStudy) -> None:
    window.open(f"{url}/{mode}?StudyInstanceUIDs={study.study_instance_uid}")
    if mode == "viewer":
        window.click_text("Skip all", _READY_S)
    window.click_text("Confirm and hide", _READY_S)


def test_ohif_microscopy_draws_the_report_and_names_its_findings(
    window, ohif_url, study, screenshots
):
    open_in_ohif(window, ohif_url, "microscopy", study)

    def open_list() -> bool:
        if window.find('[data-series="9001"]') is not None:
            return True
        window.script(  # the list of series starts folded
            "document.elementFromPoint(17, 101)?.dispatchEvent("
            "new MouseEvent('click', {bubbles: true}))"
        )
        return False

    window.wait_until(open_list, _READY_S, "the list of series", interval_s=3)
    window.double_click('[data-series="9001"]')
    for name in ("DEMO_POSITIVE", "TISSUE_PART", "TILE_1", "TILE_4"):
        window.wait_for_text(name, _READY_S)

    def is_outlined() -> bool:
        picture = window.screenshot().astype(int)
        is_green = (picture[..., 1] > 200) & (picture[..., 0] < 80) & (picture[..., 2] < 80)
        return bool(is_green.sum() > 1000)

    window.wait_until(is_outlined, _READY_S, "outlines on the slide", interval_s=1)
    window.screenshot(screenshots / "microscopy.png")


def test_ohif_viewer_shows_the_sheet_and_survives_the_other_objects(
    window, ohif_url, study, screenshots
):
    open_in_ohif(window, ohif_url, "viewer", study)
    sheet = study.objects["qc-1"].pixel_array

    def is_shown() -> bool:
        canvas = window.find("canvas.cornerstone-canvas")
        if canvas is None:
            return False
        picture = window.screenshot(css="canvas.cornerstone-canvas")
        scale = min(picture.shape[0] / sheet.shape[0], picture.shape[1] / sheet.shape[1])
        size = round(sheet.shape[1] * scale), round(sheet.shape[0] * scale)
        top, left = (picture.shape[0] - size[1]) // 2, (picture.shape[1] - size[0]) // 2
        part = picture[top : top + size[1], left : left + size[0]]
        return likeness(part, sheet) > 0.95

    for role in ("seg-1", "map-1", "qc-1"):
        number = study.series_number(role)
        window.wait_for(f'[data-series="{number}"]', _READY_S)
        window.double_click(f'[data-series="{number}"]')
    window.wait_until(is_shown, _READY_S, "the quality sheet", interval_s=1)
    window.screenshot(screenshots / "sheet.png")
    assert "AI slide report" in window.text  # a crash takes the list of series away


def test_orthanc_shows_the_sheet_as_it_is(pacs, study):
    (sheet,) = (
        each
        for each in pacs.instances(study.study_instance_uid)
        if each.sop_instance_uid == study.objects["qc-1"].SOPInstanceUID
    )
    preview = pacs.request("GET", f"/instances/{sheet.orthanc_id}/preview")
    with Image.open(BytesIO(preview)) as picture:
        assert np.array_equal(np.asarray(picture), study.objects["qc-1"].pixel_array)
