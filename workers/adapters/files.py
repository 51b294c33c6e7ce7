"""Result objects on disk: written whole, durable before they are named, never half seen."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import dcmwrite

from gateway.faults import failpoint
from workers.errors import StorageUnavailable
from workers.ports import WrittenFile

_UID = re.compile(r"[0-9.]{1,64}")
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,99}\.dcm")


class ResultsFolder:
    """``RESULTS/STUDY_INSTANCE_UID/NAME``; implements ``workers.ports.ResultFiles``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, study_instance_uid: str, name: str, dataset: Dataset) -> WrittenFile:
        """Write one object durably; replaces a file of the same name.

        The file's content is on disk before it gets its name, and the name is on disk before this
        returns: a crash leaves either the old file, the new one, or a ``.part`` nobody reads.

        Raises
        ------
        StorageUnavailable
            The disk does not answer or is full.
        ValueError
            The study's UID or the name cannot serve as a file name.
        """
        if not _UID.fullmatch(study_instance_uid) or study_instance_uid in (".", ".."):
            raise ValueError("the Study Instance UID cannot name a folder")
        if not _NAME.fullmatch(name):
            raise ValueError("a result file is named in lower case and ends in .dcm")
        buffer = DicomBytesIO()
        dcmwrite(buffer, dataset, enforce_file_format=True)
        content = buffer.getvalue()
        target = self._folder / study_instance_uid / name
        try:
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            _sync_folder(self._folder)
            _write_durably(target, content)
        except OSError as exc:
            raise StorageUnavailable(
                f"the results folder cannot be written ({exc.strerror or type(exc).__name__})"
            ) from exc
        return WrittenFile(
            path=f"{study_instance_uid}/{name}",
            sha256=hashlib.sha256(content).hexdigest(),
            size_bytes=len(content),
        )


def _write_durably(target: Path, content: bytes) -> None:
    # The process id keeps two workers apart when a lease was lost.
    part = target.with_suffix(f".{os.getpid()}.part")
    try:
        failpoint("results.write")
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            failpoint("results.sync")
            os.fsync(stream.fileno())
        failpoint("results.rename")
        part.replace(target)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    failpoint("results.folder_sync")
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
