"""Which photographs are lesion tiles: never those of an ordinary clinical study."""

from __future__ import annotations

import pytest
from pydicom import Dataset

from tests.unit.workers.fakes import generation_row
from tests.unit.workers.tbp.tbp_world import (
    ROOT,
    FakeSpool,
    measured,
    structured_report,
    study,
    table,
    tile_header,
    with_block,
)
from workers.analyses.tbp_screening import ANALYSIS
from workers.ports import Document
from workers.study import Study
from workers.tbp.detect import tile_instances


def test_many_small_photographs_of_tracked_lesions_are_tiles() -> None:
    match = ANALYSIS.match(study([tile_header(n) for n in range(20)]))
    assert len(match.instances) == 20
    assert "tracked lesion" in match.reason


@pytest.mark.parametrize(
    "changes",
    [
        {"Rows": 1080, "Columns": 1920},  # a camera's photographs
        {"TrackingUID": None, "TrackingID": None},
        {"TrackingUID": f"{ROOT}.9.1", "TrackingID": "L1"},  # one lesion again and again
        {"Rows": None, "Columns": None},
    ],
)
def test_photographs_of_an_ordinary_study_are_not_tiles(changes: dict[str, object]) -> None:
    match = ANALYSIS.match(study([tile_header(n, **changes) for n in range(30)]))
    assert match.instances == ()
    assert "no series of lesion tiles" in match.reason


def test_a_few_tracked_photographs_are_not_tiles_without_a_mark() -> None:
    assert not tile_instances(study([tile_header(n) for n in range(19)]))


@pytest.mark.parametrize("form", ["document", "report"])
def test_a_few_tracked_photographs_with_measurements_are_tiles(form: str) -> None:
    headers = [tile_header(n) for n in range(1, 6)]
    rows = {n: measured() for n in range(1, 6)}
    if form == "document":
        found = study(headers, table([{"TrackingID": f"L{n}", **row} for n, row in rows.items()]))
    else:
        report = structured_report(rows)
        report.SOPInstanceUID, report.SeriesInstanceUID = f"{ROOT}.3.1", f"{ROOT}.3"
        found = study([*headers, report])
    assert len(tile_instances(found)) == 5
    covariates = Document(name="prognosis.json", media_type="", content=b'{"lentigo": "prognosis"}')
    assert not tile_instances(study(headers, covariates))


@pytest.mark.parametrize(
    "header",
    [
        tile_header(1, ImageType=["ORIGINAL", "PRIMARY", "TBP"]),
        tile_header(1, ImageType=["DERIVED", "PRIMARY", "TBP TILE"]),
        tile_header(1, SeriesDescription="WB360 lesion tiles"),
        tile_header(1, SeriesDescription="Total body photography"),
        with_block(tile_header(1), {"A": 1}),
    ],
)
def test_one_marked_tile_is_enough(header: Dataset) -> None:
    assert len(tile_instances(study([header]))) == 1


@pytest.mark.parametrize("description", ["Whole body MRI", "Tbpx", "Face", ""])
def test_other_descriptions_are_no_mark(description: str) -> None:
    assert not tile_instances(study([tile_header(1, SeriesDescription=description)]))


def test_dermoscopic_images_and_other_series_of_the_study_are_left_to_others() -> None:
    dermoscopic = tile_header(90, SOPClassUID="1.2.840.10008.5.1.4.1.1.77.1.7")
    clinical = tile_header(91, SeriesInstanceUID=f"{ROOT}.2", Rows=2000, Columns=3000)
    tiles = [tile_header(n) for n in range(25)]
    found = tile_instances(study([dermoscopic, *tiles, clinical]))
    assert [each.sop_instance_uid for each in found] == [f"{ROOT}.1.{n}" for n in range(25)]


def test_routing_reads_few_headers_and_one_that_is_damaged_does_no_harm() -> None:
    headers = [tile_header(n) for n in range(500)]
    headers[0] = Dataset()
    spool = FakeSpool(headers, {})
    match = ANALYSIS.match(Study(generation_row(*spool.rows()), spool))
    assert len(match.instances) == 500
    assert spool.headers_read == 3
