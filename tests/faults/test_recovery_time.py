"""Recovery does not wait for the longest time-outs: leases and pauses of ten minutes here."""

from collections.abc import Iterator

import pytest

from tests.faults.site import Site, site
from tests.lentigo import wait_a_moment
from tests.servers import wait_until

pytestmark = [pytest.mark.timeout(400), pytest.mark.faults]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    slow = {"LENTIGO_WORKER_LEASE_S": "600", "LENTIGO_WORKER_MAX_BACKOFF_S": "600"}
    with site(tmp_path_factory.mktemp("f"), environment=slow) as found:
        yield found


@pytest.mark.parametrize("step", ["worker.model_answered", "delivery.loaded"])
def test_the_lease_of_a_process_that_died_is_not_waited_out(healthy: Site, step: str) -> None:
    """One process of the pool dies; the one in its place sees that."""
    healthy.arm(f"{step}=kill")
    paths = healthy.make()
    healthy.send(paths)
    healthy.check(paths, f"kill -9 at {step}, a lease of 600 s")


def test_the_leases_of_a_whole_group_that_died_are_not_waited_out(healthy: Site) -> None:
    healthy.arm("worker.inferred=sleep:600")
    paths = healthy.make(2)
    healthy.send(paths)
    wait_until(lambda: healthy.passes("worker.inferred") >= 1, 60, "an analysis")
    healthy.lentigo.kill("workers-quick")
    healthy.disarm()
    healthy.check(paths, "kill -9 of a worker group, a lease of 600 s")


def test_a_lease_is_not_waited_out_after_a_power_cut(healthy: Site) -> None:
    healthy.arm("worker.inferred=sleep:600")
    paths = healthy.make()
    healthy.send(paths)
    wait_until(lambda: healthy.passes("worker.inferred") >= 1, 60, "an analysis")
    healthy.lentigo.kill_all()
    healthy.disarm()
    healthy.lentigo.start()
    healthy.check(paths, "kill -9 of everything, a lease of 600 s")


def test_a_model_that_is_back_is_asked_at_once(healthy: Site) -> None:
    """By then the pause between two attempts is a minute or more."""
    assert healthy.triton is not None
    healthy.triton.stop()
    paths = healthy.make(3)
    healthy.send(paths)

    def attempts() -> list[int]:
        items = [item for path in paths for item in healthy.study_of(path).get("work_items", ())]
        return [item["attempts"] for item in items]

    wait_until(lambda: len(attempts()) == 3 and min(attempts()) >= 5, 90, "five attempts each")
    wait_a_moment(1)
    healthy.triton.start()
    healthy.check(paths, "a model server that was gone, pauses of up to 600 s")
