"""What the product is made of: every locked package has a version and a licence that is known."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement

from tests.deployment.images import ROOT, closure, locked


@pytest.fixture(scope="module")
def sbom() -> ModuleType:
    """``docker/sbom.py`` as a module."""
    spec = importlib.util.spec_from_file_location("sbom", ROOT / "docker" / "sbom.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["sbom"] = module
    spec.loader.exec_module(module)
    return module


def test_what_is_locked_is_what_an_installation_of_everything_needs() -> None:
    # What was once installed by hand stays in a developer's environment and is missing in a new
    # one: the names come from what the packages say, not from what is there.
    apart = {"lentigo", "setuptools"}  # the latter comes with the environment or the build
    assert set(locked()) == closure([Requirement("lentigo[dev]")]) - apart


def test_every_locked_package_has_a_licence_that_is_known(sbom: ModuleType) -> None:
    found = sbom.parts()
    assert {each.name: each.version for each in found} == sbom.locked()
    assert len(found) > 100
    odd = {each.name for each in found if not each.licence or sbom.COPYLEFT.search(each.licence)}
    assert odd == set(sbom.KNOWN_EXCEPTIONS)


@pytest.mark.parametrize(
    ("fields", "licence"),
    [
        ({"License-Expression": "MIT"}, "MIT"),
        ({"Classifier": "License :: OSI Approved :: BSD License"}, "BSD-3-Clause"),
        ({"License": "Apache 2.0"}, "Apache-2.0"),
        ({"License": "whatever you like"}, ""),
        ({"Classifier": "License :: Other/Proprietary License"}, ""),
        ({}, ""),
    ],
)
def test_what_a_package_does_not_say_clearly_is_not_guessed(
    sbom: ModuleType, fields: dict[str, str], licence: str
) -> None:
    from email.message import Message

    package = Message()
    for name, value in fields.items():
        package[name] = value
    assert sbom.licence_of(package) == licence


def test_bill_of_materials_names_every_part_and_is_the_same_twice(
    sbom: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one.json", "two.json"):
        monkeypatch.setattr(sys, "argv", ["sbom", "--out", str(tmp_path / name)])
        assert sbom.main() == 0
    text = (tmp_path / "one.json").read_text()
    assert text == (tmp_path / "two.json").read_text()
    document = json.loads(text)
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    references = [each["bom-ref"] for each in document["components"]]
    assert len(references) == len(set(references)) == len(sbom.locked())
    assert all(re.fullmatch(r"pkg:pypi/[a-z0-9-]+@\S+", each) for each in references)
