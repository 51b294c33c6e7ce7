"""``lentigo restore``: a backup into an empty home and an empty database.

Files first, the record last and at once: whoever is killed between leaves no record that names a
file which is not there. A half-restored home is marked, refuses to start, and is finished by
running the same command again.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from sqlalchemy.engine import make_url

from gateway.errors import BackupError
from gateway.home import resolve_home
from gateway.host.backup import DIGESTS, NOTE, RECORD, copy_file, digest_of
from gateway.host.record_copy import load_record, refuse_newer, refuse_rows, settle, sqlite_url
from gateway.settings import StoreSettings
from gateway.store.engine import migrate, open_engine, reading

MARK = "restore-incomplete"
_LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")
_FOLDERS = ("spool", "results", "audit")


def refuse_half_restored(home: Path) -> None:
    """Raise ``BackupError`` when a restore of this home was begun and not finished."""
    if (home / MARK).exists():
        raise BackupError(
            f"{home} is half restored: run `lentigo restore` with the same backup again"
        )


def restore(folder: Path, store: StoreSettings) -> int:
    """Put a backup into an empty home; return how many files it had.

    Raises
    ------
    BackupError
        The folder is not a whole backup, a file of it is damaged, or home or database are not
        empty.
    RecordUnavailable
        The database does not answer.
    """
    files = dict(_listed(folder))
    home = store.home
    try:
        _refuse_full(home, store)
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        (home / MARK).touch(mode=0o600)
        for path, sha256 in files.items():
            if path != PurePosixPath(RECORD):
                _put(folder / path, home / path, sha256)
        os.sync()  # the record must not name a file that is not on disk yet
        _put_record(folder / RECORD, files[PurePosixPath(RECORD)], store)
        os.sync()
        (home / MARK).unlink()
    except OSError as exc:
        raise BackupError(f"cannot restore ({exc.strerror}); run the command again") from exc
    return len(files)


def _listed(folder: Path) -> Iterator[tuple[PurePosixPath, str]]:
    """Yield what a backup says that it holds."""
    try:
        note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        lines = (folder / DIGESTS).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as exc:
        raise BackupError(f"{folder} is not a whole backup ({NOTE} or {DIGESTS})") from exc
    if note.get("format") != 1:
        raise BackupError(f"{folder} has a format that this version does not know")
    seen = False
    for line in lines:
        found = _LINE.fullmatch(line)
        path = PurePosixPath(found[2]) if found else PurePosixPath()
        if found is None or not _is_inside(path):
            raise BackupError(f"{DIGESTS} holds a line that cannot be used")
        seen = seen or path == PurePosixPath(RECORD)
        yield path, found[1]
    if not seen:
        raise BackupError(f"{DIGESTS} does not name {RECORD}")


def _is_inside(path: PurePosixPath) -> bool:
    if path == PurePosixPath(RECORD):
        return True
    return not path.is_absolute() and ".." not in path.parts and path.parts[0] in _FOLDERS


def _refuse_full(home: Path, store: StoreSettings) -> None:
    is_sqlite = make_url(store.record_url).get_backend_name() == "sqlite"
    if is_sqlite and Path(str(make_url(store.record_url).database)).exists():
        raise BackupError(f"{home} holds a record already; restore into an empty home")
    if not (home / MARK).exists():
        for name in _FOLDERS:
            if any(each.is_file() for each in (home / name).rglob("*")):
                raise BackupError(f"{home / name} is not empty; restore into an empty home")
    if not is_sqlite:
        engine = open_engine(store.record_url)
        try:
            with reading(engine) as connection:
                refuse_rows(connection)
        finally:
            engine.dispose()


def _put(source: Path, target: Path, sha256: str) -> None:
    """Copy one file under its name once it is whole; one that is there already stays."""
    if target.is_file() and digest_of(target) == sha256:
        return
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = target.with_name(f"{target.name}.restoring")
    try:
        copied = copy_file(source, temporary)
    except FileNotFoundError as exc:
        raise BackupError(f"the backup lacks {source.name}") from exc
    if copied != sha256:
        temporary.unlink()
        raise BackupError(f"the backup's {source.name} is damaged: other bytes than {DIGESTS} says")
    temporary.replace(target)


def _put_record(source: Path, sha256: str, store: StoreSettings) -> None:
    working = store.home / f"{RECORD}.restoring"
    for leftover in (working, *store.home.glob(f"{RECORD}.restoring-*")):
        leftover.unlink(missing_ok=True)
    _put(source, working, sha256)
    engine = open_engine(sqlite_url(working))
    try:
        refuse_newer(engine)
    finally:
        engine.dispose()
    if store.database_url and make_url(store.database_url).get_backend_name() != "sqlite":
        load_record(working, store.database_url)
        working.unlink()
        return
    migrate(sqlite_url(working))
    settle(working)
    shutil.move(working, Path(str(make_url(store.record_url).database)))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("folder", metavar="DIR", type=Path, help="folder that `backup` made")
    parser.add_argument("--home", metavar="DIR", help="empty home folder to restore into")


def run(args: argparse.Namespace) -> int:
    """Restore; exit 0 when every file and the record are in place."""
    started = time.monotonic()
    store = StoreSettings(home=resolve_home(args.home))
    count = restore(args.folder.absolute(), store)
    print(f"restored {count} files to {store.home} in {time.monotonic() - started:.1f} s")
    return 0
