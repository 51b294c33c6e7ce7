"""The HTML page: escaped, self-contained, whole or not at all."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from models.metrics import Figure as Measured
from training.errors import RunError
from training.report import Page


class _Reader(HTMLParser):
    """Collects every tag with its attributes, and the text of table cells."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self._is_cell = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._is_cell = tag == "td"

    def handle_data(self, data: str) -> None:
        if self._is_cell:
            self.cells.append(data)
            self._is_cell = False


def _read(page: Page) -> _Reader:
    reader = _Reader()
    reader.feed(page.render())
    return reader


def _plot() -> Figure:
    figure = Figure()
    figure.subplots().plot([0, 1], [1, 0])
    return figure


def _full_page() -> Page:
    page = Page("Run <1> & more")
    page.text("first\n\nsecond <script>alert(1)</script>")
    page.notice("simulated")
    page.table("Figures", [{"metric": "AUROC", "value": 0.5}])
    page.figure("ROC", _plot(), note='a "note"')
    page.images("Examples", [(np.zeros((4, 6, 3), np.uint8), "caption <b>")])
    return page


def test_the_page_refers_to_nothing_outside_itself() -> None:
    html = _full_page().render()
    without_data = re.sub(r'src="data:[^"]*"', "", html)
    assert "http" not in without_data
    assert "url(" not in without_data
    tags = {tag for tag, _ in _read(_full_page()).tags}
    assert not tags & {"script", "link", "iframe", "object"}


def test_text_is_escaped_everywhere() -> None:
    reader = _read(_full_page())
    assert not {"script", "b"} & {tag for tag, _ in reader.tags}
    alts = [attributes["alt"] for tag, attributes in reader.tags if tag == "img"]
    assert alts == ['ROC. a "note"', "caption <b>"]


def test_paragraphs_are_split_at_empty_lines() -> None:
    assert sum(tag == "p" for tag, _ in _read(_full_page()).tags) == 3


def test_table_shows_numbers_intervals_and_gaps() -> None:
    page = Page("t")
    measured = Measured(value=0.91234, low=0.9, high=0.95, n=10)
    page.table(
        "T",
        [
            {"a": measured, "b": 3, "c": "x"},
            {"a": float("nan"), "b": None, "d": True},
            {"a": 1234.5678, "b": np.int64(2), "c": 0.0000123},
        ],
    )
    assert _read(page).cells == [
        *("0.9123 (0.9000 to 0.9500)", "3", "x", "–"),
        *("–", "–", "–", "yes"),
        *("1235", "2", "1.23e−05", "–"),
    ]


def test_interval_that_is_unknown_is_left_out() -> None:
    page = Page("t")
    page.table("T", [{"a": Measured(value=1.0, low=float("nan"), high=float("nan"), n=1)}])
    assert _read(page).cells == ["1.000"]


def test_empty_table_says_so() -> None:
    page = Page("t")
    page.table("T", [])
    assert "No rows." in page.render()


def test_images_are_stored_as_given_and_large_ones_reduced() -> None:
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    page = Page("t")
    page.images("I", [(small, "small"), (np.zeros((1300, 650), np.uint8), "large")])
    sources = [attributes["src"] for tag, attributes in _read(page).tags if tag == "img"]
    pictures = [
        Image.open(io.BytesIO(base64.b64decode(str(source).partition("base64,")[2])))
        for source in sources
    ]
    np.testing.assert_array_equal(np.asarray(pictures[0]), small)
    assert pictures[1].size == (320, 640)


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4, 3)), np.zeros((4, 4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)],
)
def test_array_that_is_no_image_is_refused(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8 image"):
        Page("t").images("I", [(image, "x")])


def test_the_same_parts_give_the_same_bytes() -> None:
    assert _full_page().render() == _full_page().render()


def test_figure_of_many_points_becomes_pixels() -> None:
    figure = Figure()
    values = np.random.default_rng(0).random(40_000)
    figure.subplots().plot(values, values[::-1], "o")
    page = Page("t")
    page.figure("F", figure)
    source = next(attributes["src"] for tag, attributes in _read(page).tags if tag == "img")
    assert str(source).startswith("data:image/png")


def test_write_makes_the_folder_and_leaves_no_part_behind(tmp_path) -> None:
    target = tmp_path / "new" / "report.html"
    _full_page().write(target)
    assert target.read_text(encoding="utf-8") == _full_page().render()
    assert list(target.parent.iterdir()) == [target]


def test_name_that_is_not_utf8_is_written(tmp_path) -> None:
    page = Page("t")
    page.text("file \udcff")
    page.write(tmp_path / "report.html")
    assert "file ?" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_place_that_cannot_be_written_is_named(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"report\.html"):
        Page("t").write(tmp_path / "file" / "report.html")
