"""A study with documents and structured reports, and a served model, in memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from models.prognosis.result import PrognosisResult
from tests.unit.reports.prognosis.prognosis_builders import answer, manifest
from tests.unit.workers.fakes import (
    FakeEmbeddings,
    FakeInstances,
    FakeModels,
    FakePriors,
    InMemory,
    instance_row,
    study,
)
from tests.unit.workers.instance_builder import instance
from workers.analyses.prognosis import ANALYSIS
from workers.analysis import Conclusion, Match, Tools
from workers.encoding import Encoder
from workers.errors import Undecodable
from workers.ports import Document, ManifestKind, ServedModel, Tensors
from workers.study import Study

SR_CLASS = "1.2.840.10008.5.1.4.1.1.88.33"
COMPLETE: dict[str, Any] = {
    "thickness": {"value": 2.1, "unit": "mm"},
    "ulceration": True,
    "sex": "female",
    "age": {"value": 61, "unit": "a"},
}


def document(content: Any, name: str = "prognosis.json", media_type: str = "") -> Document:
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return Document(name=name, media_type=media_type or "application/json", content=raw)


def site_document(stage: Any = "IIA", name: str = "prognosis.json", **changes: Any) -> Document:
    covariates = {key: value for key, value in {**COMPLETE, **changes}.items() if value != "gone"}
    content = {"lentigo": "prognosis", "stage": stage, "covariates": covariates}
    return document({key: value for key, value in content.items() if value is not None}, name)


class Served:
    """The prognosis model, without Triton."""

    def __init__(self, change: Callable[[dict[str, NDArray[Any]]], None] = lambda _: None) -> None:
        self.asked: list[NDArray[Any]] = []
        self._change = change

    def identify(self, model: str, kind: type[ManifestKind]) -> ServedModel[ManifestKind]:
        found = manifest()
        assert isinstance(found, kind)
        return ServedModel(name=model, digest=found.digest, manifest=found)

    def infer(self, model: str, inputs: Tensors, *, is_batched: bool = True) -> Tensors:
        coded = inputs["COVARIATES"]
        assert coded.dtype == np.float32
        assert is_batched
        self.asked.append(coded)
        outputs = answer(coded)
        self._change(outputs)
        return outputs


class Headers(FakeInstances):
    """A spool that holds these headers by path; None is a file that cannot be read."""

    def __init__(self, headers: dict[str, Dataset | None]) -> None:
        super().__init__()
        self._headers = headers
        self.read: list[str] = []

    def header(self, path: str) -> Dataset:
        self.read.append(path)
        if path not in self._headers:
            return super().header(path)
        found = self._headers[path]
        if found is None:
            raise Undecodable("it is no DICOM file")
        return found


class World:
    """One study of photographs, reports and documents."""

    def __init__(
        self,
        *documents: Document,
        patient: dict[str, Any] | None = None,
        reports: tuple[Dataset | None, ...] = (),
        photographs: int = 1,
        served: Served | None = None,
        report_bytes: int = 5000,
    ) -> None:
        self.served = served or Served()
        rows = [instance_row(number) for number in range(1, photographs + 1)]
        headers: dict[str, Dataset | None] = {}
        for row in rows:
            header = instance(**(patient or {}))
            header.SOPInstanceUID = row.sop_instance_uid
            del header.PixelData
            headers[row.path] = header
        for number, report in enumerate(reports, start=50):
            sr = instance_row(
                number, modality="SR", sop_class_uid=SR_CLASS, size_bytes=report_bytes
            )
            if report is not None:
                report.SOPInstanceUID = sr.sop_instance_uid
            headers[sr.path] = report
            rows.append(sr)
        self.source = Headers(headers)
        self.study: Study = study(*rows, source=self.source, documents=documents)

    def match(self) -> Match:
        return ANALYSIS.match(self.study)

    def run(self) -> Conclusion:
        models = FakeModels()
        return ANALYSIS.run(
            self.study,
            Tools(
                served=self.served.identify("prognosis", ANALYSIS.manifest_type),
                models=self.served,
                encoder=Encoder(models, FakeEmbeddings()),
                source=self.source,
                priors=FakePriors(),
                scratch=InMemory(),
                checkpoint=lambda: None,
            ),
        )

    def result(self) -> PrognosisResult:
        found = self.run().result
        assert isinstance(found, PrognosisResult)
        return found


def _code(scheme: str, value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def number_item(value: str, unit: str, *name: str) -> Dataset:
    item = Dataset()
    item.ValueType, item.RelationshipType = "NUM", "CONTAINS"
    item.ConceptNameCodeSequence = [_code(*(name or ("SCT", "106243009", "Breslow depth")))]
    measured = Dataset()
    measured.NumericValue = value
    measured.MeasurementUnitsCodeSequence = [_code("UCUM", unit, unit)]
    item.MeasuredValueSequence = [measured]
    return item


def code_item(name: tuple[str, str, str], value: tuple[str, str, str]) -> Dataset:
    item = Dataset()
    item.ValueType, item.RelationshipType = "CODE", "CONTAINS"
    item.ConceptNameCodeSequence = [_code(*name)]
    item.ConceptCodeSequence = [_code(*value)]
    return item


def text_item(name: tuple[str, str, str], value: str) -> Dataset:
    item = Dataset()
    item.ValueType, item.RelationshipType = "TEXT", "CONTAINS"
    item.ConceptNameCodeSequence = [_code(*name)]
    item.TextValue = value
    return item


def report(*items: Dataset) -> Dataset:
    """A structured report whose items lie two containers deep, as real ones do."""
    ds = instance()
    del ds.PixelData
    ds.SOPClassUID, ds.Modality = SR_CLASS, "SR"
    group = Dataset()
    group.ValueType, group.RelationshipType = "CONTAINER", "CONTAINS"
    group.ContentSequence = list(items)
    outer = Dataset()
    outer.ValueType, outer.RelationshipType = "CONTAINER", "CONTAINS"
    outer.ContentSequence = [group]
    ds.ValueType, ds.ContentSequence = "CONTAINER", [outer]
    return ds


STAGE_IIA = code_item(
    ("SCT", "399588009", "Pathologic TNM stage grouping"),
    ("SCT", "1222769006", "American Joint Committee on Cancer stage IIA (qualifier value)"),
)
ULCERATED = code_item(
    ("LN", "44660-9", "Tumor involved by ulceration"), ("SCT", "373066001", "Yes")
)


def observation(code: dict[str, Any], **value: Any) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "status": "final",
        "code": {"coding": [code]},
        **value,
    }


THICKNESS_CODE = {"system": "http://snomed.info/sct", "code": "106243009"}
STAGE_CODE = {"system": "http://loinc.org", "code": "21902-2"}
ULCER_CODE = {"system": "http://snomed.info/sct", "code": "6270001000004106"}


def quantity(value: Any, unit: str = "mm", **changes: Any) -> dict[str, Any]:
    return {
        "valueQuantity": {
            "value": value,
            "unit": unit,
            "system": "http://unitsofmeasure.org",
            "code": unit,
            **changes,
        }
    }


def coded(code: str, display: str = "", system: str = "http://snomed.info/sct") -> dict[str, Any]:
    return {
        "valueCodeableConcept": {"coding": [{"system": system, "code": code, "display": display}]}
    }


def bundle(*resources: dict[str, Any]) -> dict[str, Any]:
    entries = [{"resource": resource} for resource in resources]
    return {"resourceType": "Bundle", "type": "collection", "entry": entries}


PATIENT = {"resourceType": "Patient", "gender": "male", "birthDate": "1949-05-17"}
FULL_BUNDLE = (
    PATIENT,
    observation(THICKNESS_CODE, **quantity(1.8)),
    observation(ULCER_CODE, **coded("J", system="urn:mii-cs-onko-melanom-ulzeration")),
    observation(STAGE_CODE, **coded("1222769006", "AJCC stage IIA")),
)
