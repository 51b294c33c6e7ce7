"""The disk full or failing at every write, a real full disk, a read-only spool.

A short form of the first two is in ``test_kill_matrix``, with the installation that runs there.
"""

import subprocess
from pathlib import Path

import numpy as np
import pytest

from gateway import faults
from tests.faults.site import Site, site
from tests.servers import wait_until
from tests.servers.mounts import fill, read_only, small_disk
from workers.adapters.embeddings import EmbeddingFile
from workers.adapters.scratch import ScratchFolder
from workers.errors import StorageUnavailable

pytestmark = pytest.mark.timeout(400)

SPOOL_WRITES = ("spool.begin", "spool.write", "spool.sync", "spool.rename", "spool.folder_sync")
RESULT_WRITES = ("results.write", "results.sync", "results.rename", "results.folder_sync")
ERRORS = pytest.mark.parametrize("error", ["enospc", "eio"])


@pytest.mark.faults
@ERRORS
@pytest.mark.parametrize("name", SPOOL_WRITES)
def test_what_could_not_be_written_is_not_acknowledged(
    healthy: Site, name: str, error: str
) -> None:
    """The sender hears A700, and its next try is taken; nothing of the first one stays."""
    healthy.arm(f"{name}={error}")
    paths = healthy.make()
    assert not healthy.send_once(paths)
    assert healthy.passes(name) == 1
    healthy.send(paths)
    healthy.check(paths, f"{error.upper()} at {name}")
    assert list((healthy.store.spool_folder / "incoming").iterdir()) == []


@pytest.mark.faults
@ERRORS
@pytest.mark.parametrize("name", [*RESULT_WRITES, "worker.input_read"])
def test_a_result_that_could_not_be_written_is_written_later(
    healthy: Site, name: str, error: str
) -> None:
    healthy.arm(f"{name}={error}@1;{name}={error}@2")
    paths = healthy.make()
    healthy.send(paths)
    healthy.check(paths, f"{error.upper()} twice at {name}")
    assert list(healthy.store.results_folder.rglob("*.part")) == []


@pytest.mark.faults
def test_a_disk_that_stays_full_is_said_and_waited_for(healthy: Site) -> None:
    healthy.arm("results.write=enospc@1+")
    paths = healthy.make()
    healthy.send(paths)
    wait_until(
        lambda: "results folder" in str(healthy.study_of(paths[0]).get("reason")), 60, "a reason"
    )
    healthy.disarm()
    healthy.check(paths, "a results folder that was full")


@ERRORS
def test_no_room_for_temporary_images_is_a_passing_condition(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: str
) -> None:
    monkeypatch.setattr(faults, "_plan", faults.Plan(f"scratch.make={error}"))
    image = np.zeros((64, 64, 3), np.uint8)
    with ScratchFolder(tmp_path, budget_bytes=0) as scratch:
        with pytest.raises(StorageUnavailable):
            scratch.keep(image)
        assert (scratch.keep(image) == image).all()
    assert list(tmp_path.iterdir()) == []


@ERRORS
def test_embeddings_that_cannot_be_kept_are_lived_without(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: str
) -> None:
    monkeypatch.setattr(faults, "_plan", faults.Plan(f"embeddings.write={error}"))
    kept = EmbeddingFile(tmp_path / "features.sqlite3")
    kept.put("digest", {"one": np.zeros(4, np.float32)})
    assert kept.get("digest", ["one"]) == {}
    kept.put("digest", {"two": np.ones(4, np.float32)})
    assert list(kept.get("digest", ["one", "two"])) == ["two"]


@pytest.mark.faults
def test_a_disk_that_is_really_full(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Record, spool, results and logs lie on a disk without a byte left; then there is room."""
    folder = tmp_path_factory.mktemp("f")
    with (
        small_disk(folder / "disk", 96 * 2**20) as disk,
        site(
            folder / "s", home=disk / "home", environment={"LENTIGO_LISTENER_RESERVE_BYTES": "0"}
        ) as full,
    ):
        before = full.make()
        full.send(before)
        full.check(before, "before the disk was full")
        under_way = full.make()
        full.send(under_way)
        ballast = fill(disk)
        refused = full.make(3)
        for path in refused:
            assert not full.send_once([path])
        ballast.unlink()
        full.send(refused)
        full.check([*under_way, *refused], "a full disk")


@pytest.mark.faults
def test_a_reserve_that_is_reached_refuses_before_the_disk_is_full(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("f")
    reserve = 48 * 2**20
    with (
        small_disk(folder / "disk", 128 * 2**20) as disk,
        site(
            folder / "s",
            home=disk / "home",
            environment={"LENTIGO_LISTENER_RESERVE_BYTES": str(reserve)},
        ) as full,
    ):
        paths = full.make(2)
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(90 * 2**20))
        said = subprocess.run(
            ["storescu", "-v", "-R", "-xy", "-aec", "LENTIGO", "127.0.0.1", str(full.port),
             str(paths[0])],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )  # fmt: skip
        assert "Refused: OutOfResources" in said.stdout + said.stderr  # A700
        ballast.unlink()
        full.send(paths)
        full.check(paths, "a reserve that was reached")


@pytest.mark.faults
def test_a_spool_that_is_read_only_refuses_and_recovers(healthy: Site) -> None:
    done, waiting = healthy.make(), healthy.make(2)
    healthy.send(done)
    with read_only(healthy.store.spool_folder):
        for path in waiting:
            assert not healthy.send_once([path])
        # What was received before needs the spool for reading only.
        healthy.wait_for(done)
    healthy.send(waiting)
    healthy.check([*done, *waiting], "a read-only spool")


@pytest.mark.faults
def test_a_results_folder_that_is_read_only_is_waited_for(healthy: Site) -> None:
    with read_only(healthy.store.results_folder):
        paths = healthy.make()
        healthy.send(paths)
        wait_until(lambda: healthy.study_of(paths[0]).get("reason"), 60, "a reason")
    healthy.check(paths, "a read-only results folder")
