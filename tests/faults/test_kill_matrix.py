"""SIGKILL at every named step, from the first byte to the last confirmation."""

import contextlib
import itertools
from pathlib import Path

import pytest

from gateway.faults import FAILPOINTS
from tests.faults.site import Site, results_in
from tests.servers import wait_until

pytestmark = pytest.mark.timeout(400)

SUPERVISED = tuple(name for name in FAILPOINTS if name.startswith("supervisor."))
NOT_ON_THE_WAY = {
    **{
        name: "test_journal_faults: only once many instances have come"
        for name in FAILPOINTS
        if name.startswith("journal.")
    },
    **{
        name: "test_retention_faults: only where something is past its days"
        for name in FAILPOINTS
        if name.startswith("retention.")
    },
    **{
        name: "test_commitment_report_faults: only where a sender asks for storage commitment"
        for name in FAILPOINTS
        if name.startswith("commitment.")
    },
    "embeddings.write": "test_disk_faults: only analyses with an encoder keep embeddings",
    "scratch.make": "test_disk_faults: only studies beyond 256 MB need temporary files",
    "spool.quarantine_note": "below: only for an instance that is refused",
}
ON_THE_WAY = tuple(
    name for name in FAILPOINTS if name not in SUPERVISED and name not in NOT_ON_THE_WAY
)
SHORT = ("intake.commit", "sweeper.close", "worker.saving", "delivery.marked")
LATER_PASSES = ("spool.write@2", "results.write@3", "delivery.sent@2", "delivery.marked@2")


def marked(names: tuple[str, ...]) -> list[object]:
    """Take turns between the processes: one that dies often is started again ever later."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.partition(".")[0], []).append(name)
    return [
        pytest.param(name, marks=() if name in SHORT else pytest.mark.faults)
        for turn in itertools.zip_longest(*groups.values())
        for name in turn
        if name is not None
    ]


@pytest.mark.parametrize("step", marked((*ON_THE_WAY, *LATER_PASSES)))
def test_a_process_that_is_killed_at_a_step_loses_and_doubles_nothing(
    healthy: Site, step: str
) -> None:
    name, _, number = step.partition("@")
    healthy.arm(f"{name}=kill@{number or 1}")
    paths = healthy.make()
    healthy.send(paths)
    wait_until(lambda: healthy.passes(name) >= int(number or 1), 60, f"the step {step}")
    healthy.check(paths, f"kill -9 at {step}")


@pytest.mark.parametrize("plan", ["spool.write=enospc", "results.sync=eio@1;results.sync=eio@2"])
def test_a_disk_that_fails_for_a_moment_costs_a_try(healthy: Site, plan: str) -> None:
    """The short form of ``test_disk_faults``, with the installation that runs here."""
    name = plan.partition("=")[0]
    healthy.arm(plan)
    paths = healthy.make()
    healthy.send(paths)
    healthy.check(paths, plan)
    assert healthy.passes(name) > 1


@pytest.mark.faults
def test_a_listener_that_is_killed_over_a_refusal_answers_the_next_try(
    healthy: Site, tmp_path: Path
) -> None:
    (good,) = healthy.make()
    broken = tmp_path / "broken.dcm"
    broken.write_bytes(good.read_bytes()[:-2000])
    healthy.arm("spool.quarantine_note=kill")
    healthy.send_once([broken])
    healthy.send([good])
    healthy.check([good], "kill -9 over a refusal")


@pytest.mark.faults
@pytest.mark.parametrize("name", SUPERVISED)
def test_a_supervisor_that_is_killed_starts_again_on_what_is_there(
    healthy: Site, name: str
) -> None:
    (path,) = healthy.make()
    healthy.send([path])
    if name == "supervisor.restart":
        healthy.arm(f"{name}=kill")
        healthy.lentigo.kill("sweeper")
    else:
        healthy.lentigo.kill_all()
        healthy.arm(f"{name}=kill")
        with contextlib.suppress(AssertionError):  # that is the point
            healthy.lentigo.start()
    wait_until(lambda: not healthy.lentigo.is_running, 60, "the end of the supervisor")
    assert healthy.passes(name) == 1
    healthy.lentigo.start()
    healthy.check([path], f"kill -9 at {name}")


@pytest.mark.faults
@pytest.mark.parametrize("name", ["worker.inferred", "delivery.loaded", "sweeper.closed"])
def test_a_process_that_hangs_is_overtaken_and_changes_nothing_when_it_wakes(
    healthy: Site, name: str
) -> None:
    """It sleeps longer than its lease; a heartbeat that still beats keeps the work its own."""
    healthy.arm(f"{name}=sleep:9")
    paths = healthy.make()
    healthy.send(paths)
    healthy.check(paths, f"9 s of sleep at {name}")


@pytest.mark.faults
def test_everything_that_was_done_is_in_the_pacs_once(healthy: Site) -> None:
    """The last of the module: the PACS itself, by REST, beside what C-FIND has said all along."""
    for uid, study in healthy.studies().items():
        if study["state"] != "completed":
            continue
        made = [
            each["sop_instance_uid"] for item in study["work_items"] for each in item["objects"]
        ]
        held = [str(ds.SOPInstanceUID) for ds in results_in(healthy.pacs, uid)]
        assert sorted(made) == sorted(held)
