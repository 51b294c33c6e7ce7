"""The studies of the demo: photographs, a lesion followed over time, a body, a slide, a melanoma.

Each is made as a site would send it: instances by C-STORE, and for the melanoma a small document
with what the pathologist measured.
"""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from pydicom import Dataset

from gateway.demo.body import write_tiles
from gateway.demo.samples import Kind, render, render_grown, sample_set, write_samples
from gateway.demo.slide import draw_section, write_slide
from gateway.sending.wrap import StudyIdentity, new_uid, wrap

_FOLLOW_UP_DAYS = 92
_SPACING_MM = 15.0 / 600
"""Of a picture 600 pixels wide that shows 15 mm."""


@dataclass(frozen=True, kw_only=True)
class DemoStudy:
    """One study that the demo sends."""

    name: str
    """For the table."""
    study_instance_uid: str
    instances: tuple[Path, ...]
    documents: dict[str, bytes] = field(default_factory=dict)
    """File name -> content, sent beside the instances."""


def make_studies(folder: Path) -> list[DemoStudy]:
    """Draw every study of the demo into a folder, in the order in which they are sent."""
    return [
        *photographs(folder),
        *follow_up(folder),
        body(folder),
        slide(folder),
        melanoma(folder),
    ]


def photographs(folder: Path) -> list[DemoStudy]:
    """One study for each sample picture."""
    kinds = {sample.name: sample.kind for sample in sample_set()}
    studies = []
    for picture in write_samples(folder / "pictures"):
        kind = "clinical" if kinds[picture.stem] is Kind.CLINICAL else "dermoscopy"
        ds = wrap(picture, kind)
        studies.append(_written(folder, picture.stem, ds))
    return studies


def follow_up(folder: Path) -> list[DemoStudy]:
    """One lesion three months apart: it grew, and the camera was held a little differently."""
    before, after = render_grown(seed=5)
    turned = cv2.warpAffine(
        after,
        cv2.getRotationMatrix2D((300, 225), 4.0, 1.0) + np.array([[0, 0, 6], [0, 0, -5]]),
        (600, 450),
        borderMode=cv2.BORDER_REFLECT,
    )
    tracking_uid, patient_id = new_uid(), f"DEMO-{new_uid()[-8:]}"
    today = dt.date(2026, 3, 4)
    dates = (today - dt.timedelta(days=_FOLLOW_UP_DAYS), today)
    studies = []
    for name, picture, date in zip(
        ("follow-up-1", "follow-up-2"), (before, np.asarray(turned)), dates, strict=True
    ):
        path = folder / "pictures" / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path, quality=92, subsampling=0)
        ds = wrap(path, "dermoscopy", identity=StudyIdentity(patient_id=patient_id))
        ds.StudyDate = ds.SeriesDate = ds.ContentDate = date.strftime("%Y%m%d")
        ds.AcquisitionDateTime = ds.StudyDate + "100000"
        ds.TrackingID, ds.TrackingUID = "Nevus, left shoulder", tracking_uid
        ds.PixelSpacing = [_SPACING_MM, _SPACING_MM]
        studies.append(_written(folder, name, ds))
    return studies


def body(folder: Path, *, count: int = 40) -> DemoStudy:
    """Total body photography of one patient."""
    identity = StudyIdentity(study_description="Total body photography")
    paths = write_tiles(folder / "dicom" / "body", identity, count=count)
    return DemoStudy(
        name="body", study_instance_uid=identity.study_instance_uid, instances=tuple(paths)
    )


def slide(folder: Path, size: tuple[int, int] = (3072, 2304)) -> DemoStudy:
    """A biopsy as a whole-slide image."""
    identity = StudyIdentity(study_description="Skin biopsy")
    paths = write_slide(folder / "dicom" / "slide", identity, draw_section(size))
    return DemoStudy(
        name="slide", study_instance_uid=identity.study_instance_uid, instances=tuple(paths)
    )


def melanoma(folder: Path) -> DemoStudy:
    """A melanoma with its pathology."""
    path = folder / "pictures" / "melanoma-stage-ii.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(render(Kind.MELANOMA, 8)).save(path, quality=92, subsampling=0)
    identity = StudyIdentity(patient_birth_date="19610514", patient_sex="F")
    study = _written(folder, path.stem, wrap(path, "dermoscopy", identity=identity))
    pathology = {
        "lentigo": "prognosis",
        "stage": "IIA",
        "covariates": {
            "thickness": {"value": 2.4, "unit": "mm"},
            "ulceration": "no",
            "age": {"value": 64, "unit": "a"},
            "sex": "female",
        },
    }
    content = json.dumps(pathology, indent=2).encode()
    return DemoStudy(
        name=study.name,
        study_instance_uid=study.study_instance_uid,
        instances=study.instances,
        documents={"prognosis.json": content},
    )


def _written(folder: Path, name: str, ds: Dataset) -> DemoStudy:
    path = folder / "dicom" / f"{name}.dcm"
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    return DemoStudy(name=name, study_instance_uid=str(ds.StudyInstanceUID), instances=(path,))
