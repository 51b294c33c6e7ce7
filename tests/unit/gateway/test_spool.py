"""The spool: durable, idempotent, bounded, swept."""

import errno
import hashlib
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

from gateway.errors import SpoolError, SpoolFull
from gateway.journal_segment import MAX_RECORD_BYTES
from gateway.spool import Spool

CONTENT = b"received bytes" * 1000


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    spool = Spool(tmp_path / "spool")
    spool.prepare()
    return spool


def test_a_kept_file_lies_under_its_digest(spool: Spool) -> None:
    incoming = spool.begin()
    for start in range(0, len(CONTENT), 1000):
        incoming.write(memoryview(CONTENT)[start : start + 1000])
    stored = spool.keep(incoming)
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    assert stored.relative_path == PurePosixPath(f"instances/{sha256[:2]}/{sha256}.dcm")
    assert (stored.sha256, stored.size_bytes) == (sha256, len(CONTENT))
    assert spool.path_of(stored.relative_path).read_bytes() == CONTENT
    assert list(spool.incoming.iterdir()) == []


def test_the_same_bytes_kept_twice_are_one_file(spool: Spool) -> None:
    kept = []
    for _ in range(2):
        incoming = spool.begin()
        incoming.write(CONTENT)
        kept.append(spool.keep(incoming))
    assert kept[0] == kept[1]
    assert len(list(spool.instances.rglob("*.dcm"))) == 1


def test_discarding_after_keeping_harms_nothing(spool: Spool) -> None:
    incoming = spool.begin()
    incoming.write(CONTENT)
    stored = spool.keep(incoming)
    incoming.discard()
    assert spool.path_of(stored.relative_path).read_bytes() == CONTENT


def test_a_discarded_file_leaves_nothing(spool: Spool) -> None:
    incoming = spool.begin()
    incoming.write(CONTENT)
    incoming.discard()
    incoming.discard()
    assert [path for path in spool.root.rglob("*") if path.is_file()] == []


def test_quarantine_keeps_the_bytes_and_the_reason(spool: Spool) -> None:
    incoming = spool.begin()
    incoming.write(CONTENT)
    stored = spool.quarantine(incoming, "why it was refused")
    path = spool.path_of(stored.relative_path)
    assert stored.relative_path.parts[0] == "quarantine"
    assert path.read_bytes() == CONTENT
    assert path.with_suffix(".txt").read_text() == "why it was refused\n"
    assert not list(spool.instances.rglob("*.dcm"))


def test_nobody_else_can_read_received_instances(spool: Spool) -> None:
    incoming = spool.begin()
    incoming.write(CONTENT)
    refused = spool.begin()
    refused.write(b"other")
    quarantined = spool.path_of(spool.quarantine(refused, "x").relative_path)
    for path in (
        spool.path_of(spool.keep(incoming).relative_path),
        quarantined,
        quarantined.with_suffix(".txt"),
    ):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for folder in (spool.root, spool.incoming, spool.instances, spool.quarantine_folder):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


class Trace:
    """Notes the calls that durability depends on, and lets them happen."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        real_fsync, real_rename = os.fsync, Path.rename

        def fsync(descriptor: int) -> None:
            mode = os.fstat(descriptor).st_mode
            self.calls.append("fsync folder" if stat.S_ISDIR(mode) else "fsync file")
            real_fsync(descriptor)

        def rename(path: Path, target: Path) -> Path:
            self.calls.append("rename")
            return real_rename(path, target)

        monkeypatch.setattr(os, "fsync", fsync)
        monkeypatch.setattr(Path, "rename", rename)


def kept(spool: Spool) -> None:
    incoming = spool.begin()
    incoming.write(CONTENT)
    spool.keep(incoming)


def test_bytes_and_names_are_synced_before_a_file_is_kept(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = Trace(monkeypatch)
    incoming = spool.begin()
    incoming.write(CONTENT)
    spool.keep(incoming)
    # The first one makes its folder, whose name must last too.
    assert trace.calls == ["fsync folder", "fsync file", "fsync folder"]


def test_only_synced_bytes_take_the_place_of_the_same_that_were_kept(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept(spool)
    trace = Trace(monkeypatch)
    kept(spool)
    assert trace.calls == ["fsync file", "rename", "fsync folder"]


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (errno.ENOSPC, SpoolFull),
        (errno.EDQUOT, SpoolFull),
        (errno.EIO, SpoolError),
        (errno.EROFS, SpoolError),
    ],
)
@pytest.mark.parametrize("call", ["write", "fsync", "open"])
def test_faults_of_the_disk_become_errors_of_the_spool(
    spool: Spool,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    number: int,
    error: type[SpoolError],
) -> None:
    def fail(*_args: object) -> None:
        raise OSError(number, os.strerror(number))

    incoming = spool.begin()

    def receive() -> None:
        if call == "open":
            spool.begin()
        incoming.write(CONTENT)
        spool.keep(incoming)

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(error, match=os.strerror(number)) as caught:
        receive()
    assert type(caught.value) is error
    assert caught.value.status == 0xA700
    monkeypatch.undo()
    assert not list(spool.instances.rglob("*.dcm"))


def test_a_short_write_is_continued(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    real_write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real_write(fd, bytes(data)[:777]))
    incoming = spool.begin()
    incoming.write(CONTENT)
    assert spool.path_of(spool.keep(incoming).relative_path).read_bytes() == CONTENT


def test_nothing_is_begun_when_the_reserve_is_touched(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", reserve_bytes=1 << 60)
    spool.prepare()
    with pytest.raises(SpoolFull, match="reserve"):
        spool.begin()
    assert list(spool.incoming.iterdir()) == []


def test_a_large_instance_cannot_eat_up_the_reserve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path / "spool", reserve_bytes=1000)
    spool.prepare()
    incoming = spool.begin()
    monkeypatch.setattr(spool, "free_bytes", lambda: 999)
    block = bytes(1024 * 1024)

    def write_on() -> None:
        for _ in range(17):
            incoming.write(block)

    with pytest.raises(SpoolFull):
        write_on()
    incoming.discard()


def test_what_a_dead_process_left_is_swept(spool: Spool) -> None:
    (spool.incoming / "left.part").write_bytes(b"half")
    assert spool.prepare() == 1
    assert list(spool.incoming.iterdir()) == []


def test_what_a_living_listener_is_receiving_stays(spool: Spool) -> None:
    content = bytes(MAX_RECORD_BYTES) + CONTENT  # more than is kept in memory
    incoming = spool.begin()
    incoming.write(content)
    assert len(list(spool.incoming.iterdir())) == 1
    assert Spool(spool.root).prepare() == 0
    assert spool.path_of(spool.keep(incoming).relative_path).read_bytes() == content


def test_a_small_instance_needs_no_file_until_it_is_whole(spool: Spool) -> None:
    incoming = spool.begin()
    incoming.write(CONTENT)
    assert list(spool.incoming.iterdir()) == []
    assert spool.path_of(spool.keep(incoming).relative_path).read_bytes() == CONTENT


@pytest.fixture
def other_listener(spool: Spool) -> Iterator[subprocess.Popen[str]]:
    """Another process that is receiving into the same spool."""
    program = (
        "import sys; from pathlib import Path; from gateway.spool import Spool\n"
        "incoming = Spool(Path(sys.argv[1])).begin(); incoming.write(bytes(4 << 20))\n"
        "print('receiving', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(spool.root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "receiving\n"
        yield process
        process.kill()


def test_another_process_is_swept_after_only_once_it_is_dead(
    spool: Spool, other_listener: subprocess.Popen[str]
) -> None:
    assert spool.prepare() == 0
    other_listener.kill()
    other_listener.wait()
    assert spool.prepare() == 1


def test_a_spool_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SpoolError, match="preparing the spool"):
        Spool(tmp_path / "file" / "spool").prepare()


def test_errors_name_no_path(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object) -> None:
        raise OSError(errno.EIO, "I/O error", "/spool/patient name")

    incoming = spool.begin()
    incoming.write(CONTENT)
    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(SpoolError) as caught:
        spool.keep(incoming)
    assert "patient" not in str(caught.value)


def test_the_disk_begins_with_a_large_file_while_it_is_received(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[tuple[int, int]] = []
    monkeypatch.setattr(
        "gateway.spool.start_writing", lambda _, offset, count: begun.append((offset, count))
    )
    step = 8 * 2**20
    incoming = spool.begin()
    part = os.urandom(2**20)
    for _ in range(20):
        incoming.write(part)
    stored = spool.keep(incoming)
    assert begun == [(0, step), (step, step)]
    assert spool.path_of(stored.relative_path).read_bytes() == 20 * part
