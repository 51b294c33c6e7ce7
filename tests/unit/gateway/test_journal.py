"""The spool's journal: what it has taken survives a crash before files are synced."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.journal import Journal
from gateway.journal_segment import MAX_RECORD_BYTES, PAGE_BYTES
from gateway.spool import Spool
from gateway.spool_files import SpoolFiles
from tests.servers import wait_until

DEADLINE_S = 30.0
SEGMENT_BYTES = 64 * 1024

Crash = Callable[[], "Place"]


class Place:
    """A folder with files and a journal for them, with small segments."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files = SpoolFiles(root / "instances", root / "incoming")
        self.opened: list[Journal] = []

    def journal(self, settle_after_s: float = 3600.0) -> Journal:
        journal = Journal(
            self.root / "journal",
            self.files,
            segment_bytes=SEGMENT_BYTES,
            settle_after_s=settle_after_s,
            worth_it_after=1,
        )
        self.opened.append(journal)
        return journal

    def write(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        path = self.files.path_of(digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return digest

    def used(self) -> Journal:
        """A journal that is open and has its segments."""
        journal = self.journal()
        journal.open()
        data = os.urandom(100)
        digest = self.write(data)
        wait_until(lambda: journal.append(digest, data), DEADLINE_S, "the journal to be made")
        return journal


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    for journal in place.opened:
        journal.close()


@pytest.fixture
def crashed(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crash]:
    """Gives what a killed process leaves: its files as they are, nothing settled or locked."""
    copies: list[Place] = []

    def crash() -> Place:
        copies.append(Place(tmp_path_factory.mktemp("crash") / "copy"))
        shutil.copytree(place.root, copies[-1].root)
        return copies[-1]

    yield crash
    for copy in copies:
        for journal in copy.opened:
            journal.close()


def test_what_a_crash_took_from_the_files_is_restored(place: Place, crashed: Crash) -> None:
    journal = place.used()
    contents = [os.urandom(1000 + number) for number in range(20)]
    digests = [place.write(data) for data in contents]
    for digest, data in zip(digests, contents, strict=True):
        assert journal.append(digest, data)
    left = crashed()
    left.files.path_of(digests[0]).unlink()
    left.files.path_of(digests[1]).write_bytes(bytes(len(contents[1])))  # as after a power cut
    left.files.path_of(digests[2]).write_bytes(contents[2][:10])
    assert left.journal().open() == 3
    for digest, data in zip(digests, contents, strict=True):
        assert left.files.path_of(digest).read_bytes() == data
    left.opened.pop().close()
    assert left.journal().open() == 0


def test_a_record_that_is_torn_is_left_out(place: Place, crashed: Crash) -> None:
    journal = place.used()
    first, second = os.urandom(5000), os.urandom(5000)
    digests = [place.write(data) for data in (first, second)]
    for digest, data in zip(digests, (first, second), strict=True):
        assert journal.append(digest, data)
    left = crashed()
    for path in (left.root / "journal").iterdir():
        path.write_bytes(path.read_bytes().replace(first[2000:2010], bytes(10)))
    for digest in digests:
        left.files.path_of(digest).unlink()
    assert left.journal().open() == 1
    assert [left.files.is_whole(digest) for digest in digests] == [False, True]


def test_a_record_behind_one_that_a_crash_cut_off_is_restored(place: Place, crashed: Crash) -> None:
    """Two threads write side by side; the sync of the second does not wait for the first."""
    journal = place.used()
    contents = [os.urandom(2 * PAGE_BYTES) for _ in range(3)]
    digests = [place.write(data) for data in contents]
    for digest, data in zip(digests, contents, strict=True):
        assert journal.append(digest, data)
    left = crashed()
    for path in (left.root / "journal").iterdir():
        whole = path.read_bytes()
        at = whole.find(contents[1])
        if at >= 0:  # its header and its bytes never came to the disk
            start = at // PAGE_BYTES * PAGE_BYTES
            path.write_bytes(
                whole[:start] + bytes(3 * PAGE_BYTES) + whole[start + 3 * PAGE_BYTES :]
            )
    for digest in digests:
        left.files.path_of(digest).unlink()
    left.journal().open()
    assert [left.files.is_whole(digest) for digest in digests] == [True, False, True]


def test_room_is_used_again_once_files_are_settled(place: Place) -> None:
    journal = place.used()
    taken = 0
    for number in range(200):  # many times what the segments hold
        data = os.urandom(9000) + number.to_bytes(4, "big")
        digest = place.write(data)
        taken += journal.append(digest, data)
        if not number % 20:
            wait_until(lambda: len(journal._clean) >= 2, DEADLINE_S, "settled segments")
    assert taken > 60
    journal.close()
    assert sum(path.stat().st_size for path in (place.root / "journal").iterdir()) <= (
        4 * SEGMENT_BYTES
    )
    assert place.journal().open() == 0


def test_an_old_segment_is_settled_without_more_coming(place: Place) -> None:
    settled: list[str] = []
    real = place.files.settle

    def settle(digests: list[str]) -> list[str]:
        settled.extend(digests)
        return real(digests)

    place.files.settle = settle  # type: ignore[method-assign]
    journal = place.journal(settle_after_s=0.05)
    journal.open()
    data = b"x" * 100
    digest = place.write(data)
    wait_until(lambda: journal.append(digest, data), DEADLINE_S, "the journal to be made")
    wait_until(lambda: digest in settled, DEADLINE_S, "the segment to be settled")


def test_threads_share_syncs_and_lose_nothing(place: Place, crashed: Crash) -> None:
    journal = place.used()
    contents = [os.urandom(2000) for _ in range(8)]  # they fit into one segment
    taken: list[bool] = []

    def append(part: list[bytes]) -> None:
        taken.extend(journal.append(place.write(data), data) for data in part)

    threads = [threading.Thread(target=append, args=(contents[at::4],)) for at in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert taken == [True] * 8
    left = crashed()
    digests = [hashlib.sha256(data).hexdigest() for data in contents]
    for digest in digests:
        left.files.path_of(digest).unlink()
    left.journal().open()
    assert all(left.files.is_whole(digest) for digest in digests)


def test_after_a_failed_sync_nothing_more_is_promised(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    journal = place.used()

    def fail(_descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fail)
        assert not journal.append("00" * 32, b"data")
    assert not journal.append("00" * 32, b"data")  # although the disk would take it again
    assert "journal.broken" in {getattr(entry, "action", "") for entry in caplog.records}


def test_files_that_cannot_be_synced_are_written_again(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = place.used()
    data = os.urandom(3000)
    digest = place.write(data)
    assert journal.append(digest, data)
    inode = place.files.path_of(digest).stat().st_ino
    real = place.files.settle
    monkeypatch.setattr(place.files, "settle", lambda digests: [digest, *real(digests)])
    journal.close()
    assert place.files.path_of(digest).read_bytes() == data
    assert place.files.path_of(digest).stat().st_ino != inode


def test_a_large_instance_is_not_taken(place: Place) -> None:
    journal = place.used()
    assert not journal.append("00" * 32, bytes(MAX_RECORD_BYTES + 1))


def test_a_second_process_leaves_the_segments_of_the_first_alone(place: Place) -> None:
    first = place.used()
    data = os.urandom(500)
    digest = place.write(data)
    assert first.append(digest, data)
    place.files.path_of(digest).unlink()
    second = place.journal()
    assert second.open() == 0  # it is the first one's to restore
    assert not place.files.is_whole(digest)


def test_an_instance_of_many_is_kept_without_a_sync_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path)
    spool.prepare()
    spool.open_journal()
    synced: list[int] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (synced.append(1), real(descriptor)))

    def keep_one() -> bool:
        before = len(synced)
        incoming = spool.begin()
        incoming.write(os.urandom(5000))
        stored = spool.keep(incoming)
        assert spool.path_of(stored.relative_path).stat().st_size == 5000
        return len(synced) == before

    try:
        wait_until(keep_one, DEADLINE_S, "the journal to be used")
    finally:
        spool.close()
