"""Pages: the same layout as PDF and as a picture, within Encapsulated PDF objects."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread

from reports.context import SourceImage
from reports.encapsulated_pdf import encapsulated_pdf
from reports.errors import ResultError
from reports.page import HEIGHT, INK, MARGIN, WIDTH, Page, Text
from reports.page_fonts import drawable, split_lines, text_width
from reports.page_pdf import page_pdf
from reports.page_picture import page_picture
from reports.source import Source, select_sources
from tests.servers import require
from tests.unit.reports.report_builders import MODEL, STUDY_UID, context, header

Validator = Callable[[Dataset], None]


def drawn_page() -> Page:
    page = Page(title="A page", footer="Research use only.")
    page.heading("Heading")
    page.paragraph("A sentence that is long enough to be broken into several lines. " * 4)
    page.table([("Name", "Value"), ("naïve ≥ 6 mm", "12.5 %")], (3, 1), numbers=(1,))
    frame = page.frame(120)
    assert frame is not None
    left, right = frame.split(1, 1)
    page.box(left, fill=(0, 80, 140), opacity=0.2)
    page.line([(left.left, left.top), (left.right, left.bottom)], is_dashed=True)
    page.picture(np.full((20, 40, 3), 90, np.uint8), right)
    return page


def source(**attributes: object) -> Source:
    given = SourceImage(header=header(**attributes), pixels=None)  # type: ignore[arg-type]
    (found,) = select_sources(context(sources=(given,)), [f"{STUDY_UID}.1.1"])
    return found


def document(pdf: bytes | None = None, **attributes: object) -> Dataset:
    return encapsulated_pdf(
        pdf or page_pdf(drawn_page()),
        source=source(**attributes),
        role="page-1",
        number=1,
        title="prognosis page",
        model=MODEL,
        context=context(),
    )


def test_valid_for_dciodvfy_and_strict_pydicom(
    dciodvfy: Validator, strictly_valid: Validator
) -> None:
    for ds in (document(), document(without=("PatientName",), TimezoneOffsetFromUTC="+0100")):
        dciodvfy(ds)
        strictly_valid(ds)


def test_the_pdf_comes_back_whole() -> None:
    pdf = page_pdf(drawn_page())
    for each in (pdf, pdf + b"\n"):  # of even and of odd length
        buffer = io.BytesIO()
        document(each).save_as(buffer, enforce_file_format=True)
        buffer.seek(0)
        again = dcmread(buffer)
        assert len(again.EncapsulatedDocument) % 2 == 0
        assert again.EncapsulatedDocument[: again.EncapsulatedDocumentLength] == each
        assert again.MIMETypeOfEncapsulatedDocument == "application/pdf"
        assert again.SourceInstanceSequence[0].ReferencedSOPInstanceUID == f"{STUDY_UID}.1.1"


def test_what_is_no_pdf_is_refused() -> None:
    with pytest.raises(ResultError, match="no PDF"):
        document(b"GIF89a")


def test_dcmtk_takes_the_pdf_out_again(tmp_path: Path) -> None:
    require("dcm2pdf")
    document().save_as(tmp_path / "page.dcm", enforce_file_format=True)
    command = ["dcm2pdf", tmp_path / "page.dcm", tmp_path / "page.pdf"]
    subprocess.run(command, check=True, timeout=60)
    assert (tmp_path / "page.pdf").read_bytes().rstrip(b"\0") == page_pdf(drawn_page())


def test_a_page_has_the_same_bytes_in_every_process() -> None:
    code = (
        "import hashlib; from tests.unit.reports.test_encapsulated_pdf import *; "
        "print(hashlib.sha256(page_pdf(drawn_page()) + page_picture(drawn_page()).tobytes())"
        ".hexdigest())"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    made = page_pdf(drawn_page()) + page_picture(drawn_page()).tobytes()
    assert run.stdout.strip() == hashlib.sha256(made).hexdigest()


def test_text_of_the_pdf_can_be_read_and_searched(tmp_path: Path) -> None:
    require("pdftotext")
    (tmp_path / "page.pdf").write_bytes(page_pdf(drawn_page()))
    run = subprocess.run(
        ["pdftotext", tmp_path / "page.pdf", "-"], capture_output=True, check=True, timeout=60
    )
    assert "naïve ≥ 6 mm" in run.stdout.decode("utf-8")


def test_picture_and_pdf_hold_the_same_page() -> None:
    picture = page_picture(drawn_page(), px_per_pt=1.0)
    assert picture.shape == (HEIGHT, WIDTH, 3)
    assert (picture[:30, :200] == 255).all(), "the top left corner is the viewers'"
    assert (picture < 200).any()


def test_nothing_leaves_the_page() -> None:
    page = Page(title="Full", footer="Research use only. " * 20)
    for number in range(200):
        page.paragraph(f"{number} " + "x" * 400)
    assert page.is_full
    texts = [mark for mark in page.marks if isinstance(mark, Text)]
    assert any("structured report" in mark.text for mark in texts)
    assert page.frame(10) is None
    for mark in texts:
        assert mark.at[1] <= HEIGHT - 20
        right = mark.at[0] + text_width(mark.text, mark.size, mark.is_bold)
        assert right <= WIDTH - MARGIN + 0.01


@pytest.mark.parametrize("width", [12.0, 50.0, 200.0])
def test_lines_are_no_wider_than_asked(width: float) -> None:
    lines = split_lines(
        "Breslow thickness of a verylongwordwithoutanyspace 1.2 mm", 8.5, False, width
    )
    assert "".join(lines).replace(" ", "").endswith("1.2mm")
    assert all(text_width(line, 8.5, False) <= width for line in lines)


def test_letters_that_the_font_lacks_are_spelled_out() -> None:
    assert drawable("x → y 病") == "x -> y ?"


def test_an_empty_page_is_a_page() -> None:
    page = Page(title="Empty", footer="")
    page.paragraph("")
    page.text((100, 100), "here", colour=INK, align="centre")
    assert page_pdf(page).startswith(b"%PDF-")


def test_superseding_pages_have_other_uids() -> None:
    first = document()
    second = encapsulated_pdf(
        page_pdf(drawn_page()),
        source=source(),
        role="page-1",
        number=1,
        title="prognosis page",
        model=MODEL,
        context=replace(context(), generation=2),
    )
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert "rev. 2" in second.SeriesDescription
