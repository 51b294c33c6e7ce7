"""TBP studies, and twins of what screens them, drawn for tests."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from gateway.store.values import InstanceRow
from models.embedding import EncoderManifest
from models.manifest import InputSpec
from models.shapes import EfficientNetLiteShape
from models.tbp.lesions import TbpManifest
from models.tbp.measurements import NAMES, measurement
from reports import coding
from reports.coding import Concept
from reports.content_items import Relationship, code, container, number, text, uid_reference
from reports.elements import mark_encoded
from tests.unit.models.tbp_builder import measured_row, tbp_manifest
from tests.unit.workers.fakes import FakeEmbeddings, InMemory, generation_row
from workers.analyses.tbp_screening import ANALYSIS
from workers.analysis import Conclusion, Tools
from workers.encoding import Encoder
from workers.errors import Undecodable
from workers.ports import Document, ServedModel, Tensors
from workers.study import Study

VL_PHOTOGRAPHIC = "1.2.840.10008.5.1.4.1.1.77.1.4"
COMPREHENSIVE_3D = "1.2.840.10008.5.1.4.1.1.88.34"
ROOT = "1.2.826.0.1.3680043.10.511.7"
DIGEST = "0" * 64


def tile_header(index: int, **changes: Any) -> Dataset:
    """A small photograph of a tracked lesion, as a body camera writes it."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = VL_PHOTOGRAPHIC, f"{ROOT}.1.{index}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = ROOT, f"{ROOT}.1"
    ds.PatientID, ds.PatientName, ds.Modality = "CANARY-ID", "Canary^Patient", "XC"
    ds.InstanceNumber = index
    ds.TrackingID, ds.TrackingUID = f"L{index}", f"{ROOT}.9.{index}"
    ds.Rows, ds.Columns = 40, 48
    for keyword, value in changes.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    return ds


def with_block(ds: Dataset, values: object) -> Dataset:
    """Add the private block of measurements."""
    block = ds.private_block(0x0019, "99DERMAI TBP 1.0", create=True)
    block.add_new(1, "UT", values if isinstance(values, str) else json.dumps(values))
    return ds


def picture(seed: int) -> NDArray[np.uint8]:
    """A dark spot on skin whose redness is the seed: what ``FakeTbpModels`` answers by."""
    rng = np.random.default_rng(seed)
    pixels = np.full((40, 48, 3), (200, 150, 120), np.uint8)
    pixels[12:28, 14:34] = (90, 60, 50)
    pixels += rng.integers(0, 20, (40, 48, 1), dtype=np.uint8)
    return pixels


def measured(**changes: object) -> dict[str, object]:
    """Measurements of a lesion that every filter lets pass."""
    return measured_row() | changes


def structured_report(
    rows: Mapping[int, Mapping[str, object]], units: Mapping[str, str] | None = None
) -> Dataset:
    """A report with one group a lesion, the measurements named by their columns."""
    groups = []
    for index, row in rows.items():
        link = Relationship.OBS_CONTEXT
        items = [
            text(coding.TRACKING_IDENTIFIER, f"L{index}", link),
            uid_reference(coding.TRACKING_UNIQUE_IDENTIFIER, f"{ROOT}.9.{index}", link),
        ]
        for name, value in row.items():
            concept = Concept(scheme="99SITE", value=name[:16], meaning=f"TBP {name}")
            if isinstance(value, str):
                items.append(text(concept, value))
                continue
            assert isinstance(value, int | float)
            unit = (units or {}).get(name) or _unit(name)
            given = Concept(scheme="UCUM", value=unit, meaning=unit)
            items.append(number(concept, value, given))
        groups.append(container(coding.MEASUREMENT_GROUP, items, template="1501"))
    measurements = container(coding.IMAGING_MEASUREMENTS, groups)
    report = Dataset()
    report.SOPClassUID = COMPREHENSIVE_3D
    report.update(
        container(
            coding.IMAGING_MEASUREMENT_REPORT,
            [code(coding.LANGUAGE, coding.ENGLISH), measurements],
            relationship=None,
        )
    )
    mark_encoded(report)
    return report


def _unit(name: str) -> str:
    return measurement(name).unit if name in NAMES else "1"


class FakeSpool:
    """Headers and pictures by path."""

    def __init__(
        self, headers: Sequence[Dataset], pixels: Mapping[int, NDArray[np.uint8] | None]
    ) -> None:
        self.headers = {f"{number}.dcm": header for number, header in enumerate(headers)}
        self._pixels = pixels
        self.headers_read = 0

    def header(self, path: str) -> Dataset:
        self.headers_read += 1
        header = self.headers[path]
        if "SOPClassUID" not in header:
            raise Undecodable("it cannot be read as DICOM")
        return header

    def pixels(self, path: str) -> NDArray[np.uint8]:
        number = int(path.removesuffix(".dcm"))
        found = self._pixels.get(number, picture(number))
        if found is None:
            raise Undecodable("its pixel data ends early")
        return found

    def rows(self) -> tuple[InstanceRow, ...]:
        return tuple(
            InstanceRow(
                sop_instance_uid=str(header.get("SOPInstanceUID") or f"{ROOT}.5.{path}"),
                sop_class_uid=str(header.get("SOPClassUID") or VL_PHOTOGRAPHIC),
                series_instance_uid=str(header.get("SeriesInstanceUID") or f"{ROOT}.1"),
                transfer_syntax_uid="1.2.840.10008.1.2.1",
                modality=str(header.get("Modality") or "SR"),
                path=path,
                size_bytes=1000,
            )
            for path, header in self.headers.items()
        )


class FakeDocuments:
    """What the site sent."""

    def __init__(self, *documents: Document) -> None:
        self._documents = documents

    def of(self, _generation: object) -> tuple[Document, ...]:
        return self._documents


def study(
    headers: Sequence[Dataset],
    *documents: Document,
    pixels: Mapping[int, NDArray[np.uint8] | None] | None = None,
) -> Study:
    spool = FakeSpool(headers, pixels or {})
    return Study(generation_row(*spool.rows()), spool, FakeDocuments(*documents))


class FakeTbpModels:
    """An encoder of six features, and heads that answer by the mean of the tile."""

    def __init__(self, **outputs: Any) -> None:
        self.outputs = outputs
        self.batches: list[int] = []
        self.encoded = 0

    def identify(self, model: str, kind: type[Any]) -> ServedModel[Any]:
        served = encoder_manifest() if model == "encoder" else tbp_manifest()
        assert isinstance(served, kind)
        return ServedModel(name=model, digest=served.digest, manifest=served)

    def infer(self, model: str, inputs: Tensors, *, is_batched: bool = True) -> Tensors:
        if model == "encoder":
            images = inputs["IMAGE"].astype(np.float32)
            self.encoded += len(images)
            small = images[:, ::96, ::96].reshape(len(images), -1)[:, :6]
            return {"EMBEDDING": np.ascontiguousarray(small)}
        count = len(inputs["EMBEDDING"])
        self.batches.append(count)
        # The first lesion is suspicious by its tile, the second by its measurements.
        number = np.arange(count)[:, None]
        answers = {
            "RISK": np.where(number == 0, 0.9, 0.1),
            "NEVUS": np.full((count, 1), 0.8),
            "MALIGNANT_TREES": np.where(number == 1, 0.8, 0.1),
            "PHOTODAMAGE": np.tile([0.2, 0.7, 0.1], (count, 1)),
        }
        answers |= {name: change(count) for name, change in self.outputs.items()}
        return {name: np.asarray(value, np.float32) for name, value in answers.items()}


def encoder_manifest() -> EncoderManifest:
    given = tbp_manifest()
    shared = {
        field.name: getattr(given, field.name)
        for field in dataclasses.fields(EncoderManifest)
        if field.name not in ("input", "backbone", "dim")
    }
    shared |= {"name": "encoder", "digest": DIGEST}
    return EncoderManifest(
        **shared,
        input=InputSpec(
            size=224,
            mean=(0.5, 0.5, 0.5),
            std=(0.2, 0.2, 0.2),
            interpolation="bilinear-antialiased",
            framing="whole image",
        ),
        backbone=EfficientNetLiteShape(),
        dim=6,
    )


def screen(
    headers: Sequence[Dataset],
    *documents: Document,
    pixels: Mapping[int, NDArray[np.uint8] | None] | None = None,
    models: FakeTbpModels | None = None,
) -> Conclusion:
    """Run the analysis on a study."""
    spool = FakeSpool(headers, pixels or {})
    given = Study(generation_row(*spool.rows()), spool, FakeDocuments(*documents))
    return ANALYSIS.run(given, tools(spool, models or FakeTbpModels()))


def tools(spool: FakeSpool, models: FakeTbpModels) -> Tools:
    values: dict[str, Any] = {field.name: None for field in dataclasses.fields(Tools)}
    values |= {
        "served": models.identify("tbp_screening", TbpManifest),
        "models": models,
        "encoder": Encoder(models, FakeEmbeddings()),
        "source": spool,
        "scratch": InMemory(),
        "checkpoint": lambda: None,
    }
    return Tools(**values)


def table(rows: Sequence[Mapping[str, object]], delimiter: str = ",") -> Document:
    """A CSV document."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [delimiter.join(columns)]
    lines += [delimiter.join(str(row.get(column, "")) for column in columns) for row in rows]
    content = "\n".join(lines).encode()
    return Document(name="lesions.csv", media_type="text/csv", content=content)
