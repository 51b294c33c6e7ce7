"""The journal of the spool: killed at every step, a disk that fails, a power cut, torn tails.

A journal is made once many instances have come, so these tests send studies of many. It knows
nothing of analyses, so these are of a kind that gets none: what is judged is the record and the
bytes. After a power cut studies are analysed, too.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pydicom
import pytest

from tests.faults.site import Site, check_series, series_of, site
from tests.servers import wait_until
from tests.storage_scp import SECONDARY_CAPTURE, StorageScp

pytestmark = [pytest.mark.timeout(400), pytest.mark.faults]

STEPS = ("journal.append", "journal.sync", "journal.settle", "journal.settled")
PAGE = 4096


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with (
        StorageScp().serving() as pacs,
        site(tmp_path_factory.mktemp("f"), pacs=pacs) as found,
    ):
        found.can_find = False
        yield found


@pytest.fixture
def journalled(healthy: Site) -> Site:
    """The installation with its journal in use."""
    wait_until(lambda: send_until_there_are_some(healthy), 120, "a journal")
    return healthy


def send_until_there_are_some(site: Site) -> bool:
    """Whether there is more than one segment; where there is none, many instances make it."""
    if not segments(site):
        site.send_all(plain_series(site, 12))
    return len(segments(site)) > 1


def plain_series(site: Site, count: int) -> list[Path]:
    """Draw one study of several images that no analysis is for."""
    paths = series_of(site, count)
    for path in paths:
        ds = pydicom.dcmread(path)
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = SECONDARY_CAPTURE
        ds.Modality = "OT"
        ds.save_as(path, enforce_file_format=True)
    return paths


def check_kept(site: Site, paths: Sequence[Path], fault: str) -> None:
    """Wait until the studies are closed; all of their bytes are there, and the record is right."""
    site.recoveries[fault] = site.wait_for(paths, "refused")
    site.verify()


def segments(site: Site) -> list[Path]:
    folder = site.store.spool_folder / "journal"
    return sorted(folder.glob("*.journal")) if folder.is_dir() else []


def send_through_the_journal(site: Site, count: int = 4) -> list[Path]:
    """Send a study of some images whose bytes are in the journal afterwards."""
    paths = plain_series(site, count)
    site.send_all(paths)
    return paths


def test_a_kill_while_a_journal_is_made(healthy: Site) -> None:
    """The first of the module: there is none yet."""
    healthy.arm("journal.make=kill@2")
    paths = plain_series(healthy, 24)
    healthy.send_all(paths)
    # The next listener makes what is missing without being asked again.
    wait_until(lambda: healthy.passes("journal.make") >= 3, 60, "a journal that is made")
    more = send_through_the_journal(healthy)
    check_kept(healthy, [paths[0], more[0]], "kill -9 at journal.make")


@pytest.mark.parametrize("step", STEPS)
def test_a_kill_at_a_step_of_the_journal(journalled: Site, step: str) -> None:
    journalled.arm(f"{step}=kill")
    paths = send_through_the_journal(journalled)
    wait_until(lambda: journalled.passes(step) >= 1, 60, f"the step {step}")
    check_kept(journalled, paths[:1], f"kill -9 at {step}")


def test_a_kill_while_the_journal_is_restored(journalled: Site) -> None:
    paths = send_through_the_journal(journalled)
    journalled.arm("journal.restore=kill;journal.restore=kill@3")
    journalled.lentigo.kill("listener")
    wait_until(lambda: journalled.passes("journal.restore") >= 4, 180, "a third listener")
    more = send_through_the_journal(journalled)
    check_kept(journalled, [paths[0], more[0]], "kill -9 at journal.restore, twice")


@pytest.mark.parametrize("error", ["enospc", "eio"])
@pytest.mark.parametrize("step", STEPS)
def test_a_disk_that_fails_under_the_journal(journalled: Site, step: str, error: str) -> None:
    """It is done without, or again; what was acknowledged is in a file of its own."""
    journalled.arm(f"{step}={error}")
    paths = send_through_the_journal(journalled)
    wait_until(lambda: journalled.passes(step) >= 1, 60, f"the step {step}")
    check_kept(journalled, paths[:1], f"{error.upper()} at {step}")
    # A journal that failed is left alone until the next start.
    journalled.disarm()
    journalled.lentigo.kill("listener")
    more = send_through_the_journal(journalled)
    check_kept(journalled, more[:1], f"the start after {error.upper()} at {step}")


def test_files_that_a_power_cut_took_come_from_the_journal(journalled: Site) -> None:
    """All processes die; of the newest files some are gone, empty, zeroed or cut."""
    paths = series_of(journalled, 6)
    journalled.send_all(paths)
    journalled.lentigo.kill_all()
    found = journalled.files_of(paths)
    found[0].unlink()
    found[1].write_bytes(b"")
    found[2].write_bytes(bytes(found[2].stat().st_size))
    found[3].write_bytes(found[3].read_bytes()[:-1])
    found[4].write_bytes(found[4].read_bytes() + b"\0")
    journalled.lentigo.start()
    check_series(journalled, paths[:1], "a power cut")
    more = send_through_the_journal(journalled)
    check_kept(journalled, more[:1], "after a power cut")


def test_a_torn_tail_of_the_journal_costs_only_itself(journalled: Site) -> None:
    """What was being written when the power went was not acknowledged, and is sent again."""
    paths = send_through_the_journal(journalled, 4)
    journalled.lentigo.kill_all()
    found = journalled.files_of(paths)
    for path in segments(journalled):
        content = bytearray(path.read_bytes())
        end = max(at for at in range(0, len(content), PAGE) if any(content[at : at + PAGE]))
        # A header that names bytes which never came, behind the last page in use.
        content[end + PAGE : end + 2 * PAGE] = b"LREC" + bytes(range(256)) * 15 + bytes(252)
        path.write_bytes(content)
    found[0].unlink()
    journalled.lentigo.start()
    check_kept(journalled, paths[:1], "a torn tail of the journal")


def test_a_journal_that_cannot_be_read_stops_nothing(journalled: Site) -> None:
    """Segments of nonsense, of another length, and without a header."""
    paths = send_through_the_journal(journalled, 2)
    check_kept(journalled, paths[:1], "before the nonsense")
    # Settled by now or at the stop: nothing depends on the journal.
    journalled.lentigo.stop()
    first, second, *_ = segments(journalled)
    first.write_bytes(b"no journal at all")
    second.write_bytes(b"")
    first.with_name("0.journal").write_bytes(bytes(range(256)) * 4096)
    journalled.lentigo.start()
    more = send_through_the_journal(journalled)
    check_kept(journalled, [paths[0], more[0]], "a journal of nonsense")
