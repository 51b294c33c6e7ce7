"""A purge that is killed, or whose disk fails, at every step: nothing goes that has to stay."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import select

from gateway.store.engine import open_engine, reading
from gateway.store.tables import Instance, ResultObject
from tests.faults.site import Site
from tests.lentigo import ROOT
from tests.servers import wait_until

pytestmark = [pytest.mark.timeout(400), pytest.mark.faults]

A_SECOND = "0.00001"  # in days
DAYS = {
    "LENTIGO_RETENTION_INSTANCES_DAYS": A_SECOND,
    "LENTIGO_RETENTION_RESULTS_DAYS": A_SECOND,
}


def purge(site: Site, plan: str = "") -> subprocess.CompletedProcess[str]:
    """Run ``lentigo retention run`` beside the installation, which keeps everything."""
    return subprocess.run(
        [sys.executable, "-m", "gateway.cli", "retention", "run", "--home", str(site.store.home)],
        env={**os.environ, **DAYS, "LENTIGO_TEST_FAILPOINTS": plan},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def files(site: Site) -> tuple[dict[Path, bool], dict[Path, bool]]:
    """Return file -> whether its row calls it purged: of instances, of results."""
    store = site.store
    engine = open_engine(store.record_url)
    try:
        with reading(engine) as connection:
            received = connection.execute(select(Instance.path, Instance.purged_at)).all()
            made = connection.execute(select(ResultObject.path, ResultObject.purged_at)).all()
    finally:
        engine.dispose()
    return (
        {store.spool_folder / row.path: row.purged_at is not None for row in received},
        {store.results_folder / row.path: row.purged_at is not None for row in made},
    )


def assert_rows_tell_the_truth(site: Site, *, is_over: bool) -> None:
    """A row that is not marked has its file; when all is done a marked one has none."""
    for path, is_purged in {**files(site)[0], **files(site)[1]}.items():
        if not is_purged:
            assert path.is_file()
        elif is_over:
            assert not path.exists()


@pytest.mark.parametrize("action", ["kill", "eio"])
@pytest.mark.parametrize("step", ["retention.marked", "retention.moved", "retention.given_up"])
def test_a_purge_that_ends_at_a_step_is_finished_by_the_next(
    healthy: Site, step: str, action: str
) -> None:
    assert healthy.triton is not None
    done = healthy.make(2)
    healthy.send(done)
    healthy.check(done, "before the purge")
    healthy.triton.fault = "unavailable"
    under_way = healthy.make()
    healthy.send(under_way)
    wait_until(lambda: healthy.study_of(under_way[0]).get("reason"), 60, "a study that waits")

    ended = purge(healthy, f"{step}={action}")
    assert ended.returncode == (-signal.SIGKILL if action == "kill" else 1), ended.stderr
    assert_rows_tell_the_truth(healthy, is_over=False)
    healthy.verify()
    assert purge(healthy).returncode == 0
    assert_rows_tell_the_truth(healthy, is_over=True)
    received, made = files(healthy)
    assert [received[path] for path in healthy.files_of(done)] == [True, True]
    assert not any(path.exists() for path in healthy.files_of(done))
    assert [received[path] for path in healthy.files_of(under_way)] == [False]
    assert all(path.is_file() for path in healthy.files_of(under_way))
    assert sum(made.values()) >= 4

    healthy.triton.heal()
    healthy.check(under_way, f"{action} at {step}")
    # What comes again after a purge is the same study, and is taken back.
    healthy.send(done[:1])
    healthy.wait_for(done[:1])
    healthy.verify()
