"""``lentigo backup``: the record and every file that it names, while everything runs.

The record is copied first. Files are never changed and their rows come after them, so each file
that the copy names is there; only retention may take one away meanwhile, which the copy is then
told. Each file is read to its last byte and compared with the digest in the record.

    DIR/backup.json      when, of what version
    DIR/record.sqlite3   the record, whatever database it lives in
    DIR/spool, results, audit
    DIR/files.sha256     digests of all of it, as `sha256sum --check` reads them

A folder without ``backup.json`` is not a backup: it is written last. The audit trail has an Export
entry before anything is copied (PS3.15 A.5.3.6); a record that cannot be written, as on a full
disk, is backed up all the same, and the summary says that its trail does not know.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import getpass
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path, PurePosixPath

from sqlalchemy import Engine, Table, select, update

from gateway.errors import BackupError, RecordUnavailable
from gateway.home import resolve_home
from gateway.host.record_copy import (
    head_revision,
    require_record,
    save_record,
    settle,
    sqlite_url,
)
from gateway.settings import StoreSettings
from gateway.store import audit
from gateway.store.engine import open_engine, reading, utc_now, writing
from gateway.store.tables import Base, Document, Instance, Refusal, ResultObject

RECORD, DIGESTS, NOTE = "record.sqlite3", "files.sha256", "backup.json"
_PARTIAL = ".partial"
_CHUNK_BYTES = 1024 * 1024
_MODELS = ((Instance, "spool"), (Document, "spool"), (Refusal, "spool"), (ResultObject, "results"))


@dataclass(frozen=True, kw_only=True)
class NamedFile:
    """A file that a row of the record names."""

    table: Table
    id: int
    path: PurePosixPath
    """Relative to the home and to the backup."""
    sha256: str


@dataclass(kw_only=True)
class BackupSummary:
    """What a backup holds."""

    files: int = 0
    size_bytes: int = 0
    linked: int = 0
    purged: int = 0
    """Files that retention removed while the backup was made."""
    unaudited: str = ""
    """Why the audit trail of the record does not know of this backup."""
    damaged: list[str] = field(default_factory=list)
    """Files that are missing or have other bytes than the record says."""


class _Backup:
    """One run of ``back_up``."""

    def __init__(
        self, store: StoreSettings, folder: Path, link: bool, earlier: Path | None
    ) -> None:
        self._store = store
        self._folder = folder
        self._link = link
        self._earlier = earlier
        self._summary = BackupSummary()
        self._digests: dict[PurePosixPath, str] = {}

    def run(self, actor: str) -> BackupSummary:
        require_record(self._store.record_url)
        self._audit(actor)
        record = self._folder / RECORD
        save_record(self._store.record_url, record)
        record.chmod(0o600)
        engine = open_engine(sqlite_url(record))
        try:
            gone = [each for each in named_files(engine) if not self._keep(each)]
            self._tell_purged(engine, gone)
        finally:
            engine.dispose()
        settle(record)
        self._keep_audit()
        self._digests[PurePosixPath(RECORD)] = digest_of(record)
        with (self._folder / DIGESTS).open("w", encoding="utf-8") as out:
            out.writelines(f"{sha256}  {path}\n" for path, sha256 in sorted(self._digests.items()))
        os.sync()  # everything is on disk before the note says so
        self._write_note()
        return self._summary

    def _audit(self, actor: str) -> None:
        """Say in the trail of the record that all of it is about to be copied."""
        engine = open_engine(self._store.record_url)
        try:
            with writing(engine) as connection:
                name = self._folder.name.removesuffix(_PARTIAL)
                audit.append(connection, utc_now(), actor, "record.backed_up", folder=name)
        except RecordUnavailable as exc:
            self._summary.unaudited = str(exc)
        finally:
            engine.dispose()

    def _keep(self, file: NamedFile) -> bool:
        """Put one file into the backup; False when it is not there."""
        source, target = self._source(file.path), self._folder / file.path
        if file.path in self._digests:
            return True  # two rows may name the same bytes
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            sha256 = self._take(source, target, file)
        except FileNotFoundError:
            return False
        if file.sha256 and sha256 != file.sha256:
            self._summary.damaged.append(f"{file.path}: other bytes than the record says")
        self._digests[file.path] = sha256
        self._summary.files += 1
        self._summary.size_bytes += target.stat().st_size
        note = source.with_suffix(".txt")
        if file.path.parts[1] == "quarantine" and note.is_file():
            beside = file.path.with_suffix(".txt")
            self._digests[beside] = copy_file(note, self._folder / beside)
        return True

    def _source(self, path: PurePosixPath) -> Path:
        return self._store.home / path

    def _take(self, source: Path, target: Path, file: NamedFile) -> str:
        """Link where that was asked for and is safe, else copy; return the digest."""
        kept = self._earlier / file.path if self._earlier else None
        origin = source if self._link else kept
        if origin is not None and origin.is_file() and source.is_file():
            sha256 = digest_of(origin)
            if sha256 == file.sha256 or self._link:
                os.link(origin, target)
                self._summary.linked += 1
                return sha256
        return copy_file(source, target)

    def _tell_purged(self, engine: Engine, gone: list[NamedFile]) -> None:
        """Tell the copy of files that retention took meanwhile; the others are damage."""
        live = open_engine(self._store.record_url)
        try:
            for file in gone:
                with reading(live) as connection:
                    query = select(file.table.c.purged_at).where(file.table.c.id == file.id)
                    purged_at = connection.execute(query).scalar_one_or_none()
                if purged_at is None:
                    self._summary.damaged.append(f"{file.path}: missing")
                    continue
                self._summary.purged += 1
                with writing(engine) as connection:
                    change = update(file.table).where(file.table.c.id == file.id)
                    connection.execute(change.values(purged_at=purged_at))
        finally:
            live.dispose()

    def _keep_audit(self) -> None:
        """Copy the audit trail's files; what is written on is taken as far as it goes now."""
        folder = self._store.home / "audit"
        for source in sorted(folder.rglob("*")) if folder.is_dir() else ():
            if source.is_file():
                path = PurePosixPath(source.relative_to(self._store.home))
                (self._folder / path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._digests[path] = copy_file(source, self._folder / path)

    def _write_note(self) -> None:
        note = {
            "format": 1,
            "made_at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            "version": _version(),
            "schema": head_revision(),
            "files": self._summary.files,
            "bytes": self._summary.size_bytes,
            "damaged": self._summary.damaged,
        }
        path = self._folder / NOTE
        path.write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")
        os.sync()


def back_up(
    store: StoreSettings,
    folder: Path,
    *,
    link: bool = False,
    earlier: Path | None = None,
    actor: str = "lentigo backup",
) -> BackupSummary:
    """Copy the record and its files to a new folder.

    Parameters
    ----------
    store
        What is copied; its services may run.
    folder
        Made here; it appears under this name once it is complete.
    link
        Hard links in place of copies: at once and without space, but on the same disk. For a
        moment that another program then copies away.
    earlier
        A backup on the same disk as ``folder`` whose unchanged files are linked.
    actor
        Who makes it, for the audit trail.

    Raises
    ------
    BackupError
        The folder is there already, or the backup cannot be made; nothing of that name is left.
    RecordUnavailable
        The database does not answer.
    """
    if folder.exists():
        raise BackupError(f"{folder} exists already; name a new folder")
    partial = folder.with_name(f"{folder.name}{_PARTIAL}")
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    try:
        partial.mkdir(mode=0o700, parents=True)
        summary = _Backup(store, partial, link, earlier).run(actor)
        partial.rename(folder)
        with _folder_descriptor(folder.parent) as descriptor:
            os.fsync(descriptor)
    except OSError as exc:
        raise BackupError(f"cannot write the backup ({exc.strerror}): {partial} is no use") from exc
    return summary


def named_files(engine: Engine) -> Iterator[NamedFile]:
    """Yield every file that a record names and has not given up."""
    for model, base in _MODELS:
        table = Base.metadata.tables[model.__tablename__]
        with reading(engine) as connection:
            query = select(table).where(table.c.path != "", table.c.purged_at.is_(None))
            for row in connection.execute(query).mappings():
                path = PurePosixPath(base) / row["path"]
                # A refusal keeps its bytes under their digest.
                sha256 = row.get("sha256", path.stem)
                yield NamedFile(table=table, id=row["id"], path=path, sha256=sha256)


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def copy_file(source: Path, target: Path) -> str:
    """Copy a file for this account only; return the SHA-256 of what was read."""
    digest = hashlib.sha256()
    with source.open("rb") as read:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as write:
            while chunk := read.read(_CHUNK_BYTES):
                digest.update(chunk)
                write.write(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def _folder_descriptor(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _version() -> str:
    try:
        return metadata.version("lentigo")
    except metadata.PackageNotFoundError:  # run from a source tree
        return "0.0.0+source"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("folder", metavar="DIR", type=Path, help="new folder for the backup")
    parser.add_argument("--home", metavar="DIR", help="home folder of the installation")
    parser.add_argument(
        "--link", action="store_true", help="hard links: at once, on the same disk only"
    )
    parser.add_argument(
        "--earlier",
        metavar="DIR",
        type=Path,
        help="an earlier backup on the same disk; unchanged files are linked to it",
    )


def run(args: argparse.Namespace) -> int:
    """Make the backup; exit 1 when a file of the record is missing or damaged."""
    started = time.monotonic()
    store = StoreSettings(home=resolve_home(args.home))
    summary = back_up(
        store,
        args.folder.absolute(),
        link=args.link,
        earlier=args.earlier,
        actor=f"command line: {getpass.getuser()}",
    )
    print(
        f"backed up {summary.files} files, {summary.size_bytes / 1e6:.1f} MB"
        f" ({summary.linked} linked, {summary.purged} purged meanwhile)"
        f" in {time.monotonic() - started:.1f} s to {args.folder}"
    )
    if summary.unaudited:
        print(f"NOT IN THE AUDIT TRAIL: {summary.unaudited}")
    for line in summary.damaged:
        print(f"DAMAGED {line}")
    return 1 if summary.damaged else 0
