import json
from typing import Any

import pytest
from manifests import manifest

from models.diagnosis import DiagnosisManifest as Manifest
from models.errors import ManifestError


def test_reading_gives_what_was_written() -> None:
    original = manifest(licence="CC BY-NC 4.0 \u2014 \u00e9")
    assert Manifest.from_json(original.to_json()) == original
    assert Manifest.from_json(original.to_json().encode()) == original


def test_order_of_the_labels_survives() -> None:
    labels = {"Z": "last", "A": "first", "M": "middle"}
    read = Manifest.from_json(manifest(labels=labels, malignant_labels=("A",)).to_json())
    assert list(read.labels) == ["Z", "A", "M"]


def test_identity_is_what_reports_copy() -> None:
    identity = manifest(evidence="AUROC 0.9 on 10 images").identity()
    assert identity.name == "diagnosis"
    assert identity.version == "1.2.3"
    assert identity.digest == "0" * 64
    assert identity.evidence == "AUROC 0.9 on 10 images"


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "Diagnosis"},
        {"name": ""},
        {"version": "1.0"},
        {"version": "v1.0.0"},
        {"digest": "0" * 63},
        {"digest": "G" * 64},
        {"labels": {"NV": "Nevus"}, "malignant_labels": ("NV",)},
        {"labels": {"NV": "Nevus", "MEL": "Nevus", "BCC": "b"}},
        {"labels": {"NV": "Nevus", "MEL": " ", "BCC": "b"}},
        {"malignant_labels": ()},
        {"malignant_labels": ("MEL", "MEL")},
        {"malignant_labels": ("SCC",)},
        {"malignant_labels": ("NV", "MEL", "BCC")},
        {"temperature": 0.0},
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"lesion_threshold": 0.0},
        {"lesion_threshold": 1.0},
        {"operating_point": 0.0},
        {"operating_point": 1.5},
        {"ood_threshold": 0.0},
        {"ood_threshold": float("inf")},
        {"created": "yesterday"},
        {"figures": ()},
        {"licence": ""},
        {"evidence": "  "},
    ],
    ids=str,
)
def test_impossible_values_are_refused_by_name(changes: dict[str, Any]) -> None:
    with pytest.raises(ManifestError, match=next(iter(changes))):
        manifest(**changes)


def edited(**changes: Any) -> str:
    content = json.loads(manifest().to_json())
    for path, value in changes.items():
        *parents, last = path.split("__")
        place = content
        for parent in parents:
            place = place[int(parent) if parent.isdigit() else parent]
        if value is ...:
            del place[last]
        else:
            place[last] = value
    return json.dumps(content)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"surprise": 1}, "surprise"),
        ({"temperature": ...}, "temperature"),
        ({"input__size": ...}, "size"),
        ({"input__extra": 1}, "extra"),
        ({"temperature": "2"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": None}, "temperature"),
        ({"architecture__backbone__encoder__depth": 2.0}, "depth"),
        ({"architecture__flips": 1}, "flips"),
        ({"architecture__backbone__encoder__heads": 3}, "encoder"),
        ({"architecture__backbone__taps": [5]}, "backbone"),
        ({"architecture__backbone__taps": 0}, "taps"),
        ({"architecture__backbone__kind": "resnet"}, "kind"),
        ({"evidence_level": "proven"}, "evidence_level"),
        ({"input__size": 65}, "architecture"),
        ({"input__mean": [0.5, 0.5]}, "input"),
        ({"input__std": [0.2, 0.2, 0.0]}, "input"),
        ({"labels": ["NV", "MEL"]}, "labels"),
        ({"labels__NV": 1}, "labels.NV"),
        ({"malignant_labels": "MEL"}, "malignant_labels"),
        ({"figures": {}}, "figures"),
        ({"figures": [{}]}, "figures"),
        ({"input": []}, "input"),
    ],
    ids=str,
)
def test_reading_is_strict(changes: dict[str, Any], names: str) -> None:
    with pytest.raises(ManifestError, match=names):
        Manifest.from_json(edited(**changes))


@pytest.mark.parametrize(
    "figure",
    [
        {"figures__0__low": 0.7},
        {"figures__0__low": None},
        {"figures__0__n": 7},
        {"figures__0__groups": 0},
    ],
    ids=str,
)
def test_figures_that_contradict_themselves_are_refused(figure: dict[str, Any]) -> None:
    with pytest.raises(ManifestError, match="figures"):
        Manifest.from_json(edited(**figure))
    assert Manifest.from_json(edited(figures__0__low=None, figures__0__high=None))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        b"\xff\xfe\x00",
        '{"name": NaN}',
        '{"name": "a", "name": "b"}',
        "[" * 100_000,
    ],
    ids=range(8),
)
def test_what_is_no_manifest_is_refused(text: str | bytes) -> None:
    with pytest.raises(ManifestError):
        Manifest.from_json(text)


def test_a_key_given_twice_is_refused() -> None:
    text = (
        manifest().to_json().replace('"temperature": 2.0', '"temperature": 2.0, "temperature": 1')
    )
    with pytest.raises(ManifestError, match="twice"):
        Manifest.from_json(text)
