"""What each viewer shows of each object, made by running them: the table of ``docs/viewers.md``.

``python -m tests.browser.matrix`` writes the table and the pictures; ``test_matrix`` sees that
they are still what the viewers show. Every picture is of drawn images.
"""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import highdicom
import numpy as np
from PIL import Image
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from selenium.common.exceptions import WebDriverException

from reports.context import SourceImage
from reports.encode import ReportObject
from tests.browser.driver import Browser, Picture, browser
from tests.browser.ohif import ohif
from tests.browser.study import make_study
from tests.every_result import made
from tests.servers import Orthanc, orthanc
from tests.servers.orthanc import OrthancError
from tests.unit.workers.tbp import tbp_world

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "viewers.md"
PICTURES = ROOT / "docs" / "screenshots"
BEGIN, END = "<!-- made by tests/browser/matrix.py -->", "<!-- end -->"
CANVAS = "canvas.cornerstone-canvas"
SIZE = (1280, 760)
_READY_S = 90.0
_SEEN_S = 40.0
"""How long a viewer may take until what it shows counts."""
KINDS = ("diagnosis", "tbp_screening", "change_detection", "prognosis")
NAMES = {
    "SR": "report (SR)",
    "SEG": "mask (SEG)",
    "OT": "picture (SC)",
    "DOC": "page (PDF)",
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """What is seen of one object."""

    analysis: str
    role: str
    kind: str
    ohif: str
    orthanc: str
    dcmtk: str
    highdicom: str
    pydicom: str


def studies(folder: Path) -> dict[str, tuple[list[bytes], list[ReportObject]]]:
    """Source instances and result objects by analysis."""
    instance, diagnosed = make_study(folder)
    objects = [ReportObject(role=role, dataset=ds) for role, ds in diagnosed.objects.items()]
    found = {"diagnosis": ([instance], objects)}
    for name in KINDS[1:]:
        case = made(name)
        sources = [_bytes(_instance(each, n)) for n, each in enumerate(case.context.sources, 1)]
        found[name] = (sources, list(case.objects))
    return found


def _instance(source: SourceImage, number: int) -> Dataset:
    """The source with pixels, drawn ones where the test that made it has none."""
    ds = Dataset()
    ds.update(source.header)
    pixels = source.pixels
    if pixels is None:
        size = (int(ds.get("Columns") or 48), int(ds.get("Rows") or 40))
        pixels = np.asarray(cv2.resize(tbp_world.picture(number), size), np.uint8)
    ds.Rows, ds.Columns = pixels.shape[:2]
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation = 7, 0
    ds.InstanceNumber = number
    body = np.ascontiguousarray(pixels).tobytes()
    ds.PixelData = body + b"\0" * (len(body) % 2)
    ds["PixelData"].VR = "OB"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return ds


def _bytes(ds: Dataset) -> bytes:
    buffer = io.BytesIO()
    ds.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


# --- readers --------------------------------------------------------------------------------------
def by_dcmtk(ds: Dataset) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "object.dcm"
        path.write_bytes(_bytes(ds))
        tool = "dsrdump" if ds.Modality == "SR" else "dcmdump"
        command = [tool, "+U8", path] if tool == "dsrdump" else [tool, path]
        done = subprocess.run(command, capture_output=True, check=False, timeout=60)
    if done.returncode:
        return "refused"
    return "whole tree" if tool == "dsrdump" else "attributes"


def by_highdicom(ds: Dataset) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stream = io.BytesIO(_bytes(ds))
        if ds.Modality == "SR":
            content = highdicom.sr.srread(stream).content
            groups = [
                *content.get_image_measurement_groups(),
                *content.get_planar_roi_measurement_groups(),
            ]
            return f"{len(groups)} group{'s' if len(groups) != 1 else ''}"
        if ds.Modality != "SEG":
            return "-"
        try:
            highdicom.seg.segread(stream)
        except AttributeError:
            return "as an image (no Pixel Spacing)"
        return "mask"


def by_pydicom(ds: Dataset) -> str:
    again = dcmread(io.BytesIO(_bytes(ds)))
    if "PixelData" in again:
        return "pixels" if again.pixel_array.any() else "empty"
    return "attributes"


def by_orthanc(pacs: Orthanc, ds: Dataset) -> str:
    """What Orthanc Explorer's preview and its PDF view give."""
    listed = pacs.instances(str(ds.StudyInstanceUID))
    (key,) = [each.orthanc_id for each in listed if each.sop_instance_uid == ds.SOPInstanceUID]
    try:
        if ds.Modality == "DOC":
            is_pdf = pacs.request("GET", f"/instances/{key}/pdf").startswith(b"%PDF")
            return "PDF for download" if is_pdf else "no"
        body = pacs.request("GET", f"/instances/{key}/preview")
    except OrthancError:  # its answer to what it cannot draw
        return "no"
    shown = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR)
    if shown is None or shown.std() < 2:
        return "no"
    return "mask alone" if ds.Modality == "SEG" else "picture"


# --- OHIF -----------------------------------------------------------------------------------------
def open_study(window: Browser, url: str, study_instance_uid: str) -> None:
    """Open a study as a clinician would, and wave the greetings away."""
    window.open(f"{url}/viewer?StudyInstanceUIDs={study_instance_uid}")
    for greeting in ("Skip all", "Confirm and hide"):  # the tour greets once only
        with contextlib.suppress(AssertionError):
            window.click_text(greeting, 15)
    window.wait_for(CANVAS, _READY_S)
    _wait_for_picture(window)


def by_ohif(window: Browser, ds: Dataset, picture: Path) -> str:
    """Open the object's series and say what came of it."""
    before = _canvas(window)
    window.wait_for(f'[data-series="{int(ds.SeriesNumber)}"]', _READY_S)
    window.double_click(f'[data-series="{int(ds.SeriesNumber)}"]')
    seen = "nothing"

    def is_seen() -> bool:
        nonlocal seen
        seen = _ohif_sees(window, ds, before)
        return seen != "nothing"

    with contextlib.suppress(AssertionError):
        window.wait_until(is_seen, _SEEN_S, "the object", interval_s=1.0)
    _photograph(window, picture)
    return seen


def _ohif_sees(window: Browser, ds: Dataset, before: Picture | None) -> str:
    if "Something went wrong" in window.text:
        return "the viewer breaks down"
    if ds.Modality == "DOC":
        return _page_seen(window)
    if ds.Modality == "SR":
        return _report_seen(window)
    shown = _canvas(window)
    if shown is None or shown.std() < 2:
        return "nothing"
    if ds.Modality == "SEG":
        if before is None or shown.shape != before.shape:
            return "nothing"
        changed = np.abs(shown.astype(int) - before.astype(int)).mean(axis=2) > 10
        return "overlay on the image" if 0.001 < changed.mean() < 0.9 else "nothing"
    frames = ds.pixel_array.reshape(-1, ds.Rows, ds.Columns, 3)
    alike = max(_likeness(shown, frame) for frame in frames[:2])
    many = f", {len(frames)} frames" if len(frames) > 1 else ""
    return f"the picture{many}" if alike > 0.9 else "nothing"


def _page_seen(window: Browser) -> str:
    """The browser's own PDF viewer draws the page on grey, some time after it appears."""
    frame = 'object[type="application/pdf"], iframe'
    if window.find(frame) is None:
        return "nothing"
    # A page has much white; its empty frame is one grey.
    return (
        "the page" if (window.screenshot(css=frame) > 240).all(axis=2).mean() > 0.05 else "nothing"
    )


def _report_seen(window: Browser) -> str:
    """Lines beside the outline, as far as they lie within the window; or the tree as text."""
    inside = window.script(
        "const c = document.querySelector(arguments[0]);"
        "const b = c ? c.getBoundingClientRect() : null;"
        "return [...document.querySelectorAll('svg text')].filter(t => /AI|Research use/.test("
        "t.textContent)).map(t => b && t.getBoundingClientRect().left < b.right - 40)",
        CANVAS,
    )
    if any(inside):
        return "outline and text"
    if inside:
        return "outline; its text beyond the edge"
    return "text of the whole tree" if "Imaging Measurements" in window.text else "nothing"


def _canvas(window: Browser) -> Picture | None:
    if window.find(CANVAS) is None:
        return None
    try:
        return window.screenshot(css=CANVAS)
    except WebDriverException:  # it went away while it was photographed
        return None


def _likeness(shown: Picture, picture: Picture) -> float:
    """Correlation of what is shown with a picture as large as the viewport lets it be."""
    height, width = shown.shape[:2]
    scale = min(width / picture.shape[1], height / picture.shape[0])
    size = round(picture.shape[1] * scale), round(picture.shape[0] * scale)
    top, left = (height - size[1]) // 2, (width - size[0]) // 2
    expected = np.zeros_like(shown)
    expected[top : top + size[1], left : left + size[0]] = cv2.resize(picture, size)
    small = [cv2.resize(p, (75, 50), interpolation=cv2.INTER_AREA) for p in (shown, expected)]
    if min(each.std() for each in small) == 0:
        return 0.0
    return float(np.corrcoef(small[0].ravel(), small[1].ravel())[0, 1])


def _photograph(window: Browser, path: Path) -> None:
    """Keep the window as a small PNG."""
    shown = window.screenshot()
    smaller = Image.fromarray(shown).resize((960, 570), Image.Resampling.LANCZOS)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A palette keeps a page of photographs under 200 KB.
    smaller.quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)


# --- the table ------------------------------------------------------------------------------------
def observe(folder: Path, pictures: Path, kinds: tuple[str, ...] = KINDS) -> Iterator[Row]:
    """Run everything and yield what is seen, object by object."""
    for name in ("pacs", "sources"):
        (folder / name).mkdir()
    with orthanc(folder / "pacs") as pacs, ohif(pacs) as url:
        for analysis, (sources, objects) in studies(folder / "sources").items():
            if analysis not in kinds:
                continue
            for body in (*sources, *(_bytes(each.dataset) for each in objects)):
                pacs.store(body)
            # OHIF writes to the console for every object that it cannot show.
            with browser(folder / analysis, size=SIZE, ignore_console=(".*",)) as window:
                for each in objects:
                    picture = pictures / f"ohif-{analysis}-{each.role}.png"
                    open_study(window, url, str(each.dataset.StudyInstanceUID))
                    yield Row(
                        analysis=analysis,
                        role=each.role,
                        kind=NAMES[each.dataset.Modality],
                        ohif=by_ohif(window, each.dataset, picture),
                        orthanc=by_orthanc(pacs, each.dataset),
                        dcmtk=by_dcmtk(each.dataset),
                        highdicom=by_highdicom(each.dataset),
                        pydicom=by_pydicom(each.dataset),
                    )


def _wait_for_picture(window: Browser) -> None:
    """Wait until the viewport shows the image, so that an overlay on it can be told."""

    def is_shown() -> bool:
        shown = _canvas(window)
        return shown is not None and bool(shown.std() > 5)

    with contextlib.suppress(AssertionError):
        window.wait_until(is_shown, _READY_S, "the image", interval_s=0.5)


def table(rows: list[Row]) -> str:
    """The rows as Markdown."""
    lines = [
        "| analysis | object | OHIF 3.13.2 | Orthanc 1.10.1 | dcmtk 3.6.7 | highdicom 0.28.2 | "
        "pydicom 3.0.2 |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        picture = f"screenshots/ohif-{row.analysis}-{row.role}.png"
        lines.append(
            f"| `{row.analysis}` | {row.kind} `{row.role}` | [{row.ohif}]({picture}) | "
            f"{row.orthanc} | {row.dcmtk} | {row.highdicom} | {row.pydicom} |"
        )
    return "\n".join(lines)


def table_of_page() -> str:
    """The table that the page holds now."""
    return PAGE.read_text("utf-8").partition(BEGIN)[2].partition(END)[0].strip()


def main() -> None:
    """Write the table and the pictures into the page."""
    kinds = tuple(sys.argv[1:]) or KINDS
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for row in observe(Path(folder), PICTURES, kinds):
            print(row, flush=True)
            rows.append(row)
    if kinds == KINDS:
        text = PAGE.read_text("utf-8")
        head, _, rest = text.partition(BEGIN)
        tail = rest.partition(END)[2]
        PAGE.write_text(f"{head}{BEGIN}\n{table(rows)}\n{END}{tail}", "utf-8")


if __name__ == "__main__":
    main()
