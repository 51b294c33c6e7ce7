"""Certificates for tests, made with openssl: an authority, and what it signed."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.servers.process import require

# A certificate of 1 to 2 January 2020, made by `openssl ca`, needs its database.
_CA_CONFIGURATION = """\
[ca]
default_ca = own
[own]
database = index.txt
serial = serial
new_certs_dir = .
default_md = sha256
policy = any
[any]
commonName = supplied
"""


def openssl(folder: Path, *words: str) -> None:
    """Run openssl in a folder."""
    subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True, timeout=60)


def authority(folder: Path, name: str) -> None:
    """Make a certificate that is signed by itself: ``<name>.pem`` and ``<name>.key``."""
    openssl(folder, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
            "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.pem", "-days", "2",
            "-subj", f"/CN={name}")  # fmt: skip


def signed(folder: Path, name: str, host: str, *, is_expired: bool = False) -> None:
    """Make a certificate for a host that ``ca.pem`` of the folder signed."""
    openssl(folder, "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")  # fmt: skip
    (folder / "ext").write_text(f"subjectAltName={host}\n")
    dates = ["-startdate", "20200101000000Z", "-enddate", "20200102000000Z"]
    openssl(folder, "ca", "-batch", "-notext", "-config", "ca.cnf", "-cert", "ca.pem",
            "-keyfile", "ca.key", "-in", f"{name}.csr", "-out", f"{name}.pem",
            "-extfile", "ext", *(dates if is_expired else ["-days", "2"]))  # fmt: skip


def found_authority(folder: Path) -> None:
    """Make ``ca.pem``, and what it needs to sign."""
    require("openssl")
    (folder / "ca.cnf").write_text(_CA_CONFIGURATION)
    (folder / "index.txt").touch()
    (folder / "serial").write_text("01\n")
    authority(folder, "ca")
