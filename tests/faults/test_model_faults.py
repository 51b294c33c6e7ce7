"""The model server gone, hung, slow, or answering what no model may answer."""

import pytest

from tests.faults.site import Site
from tests.lentigo import wait_a_moment
from tests.servers import wait_until

pytestmark = [pytest.mark.timeout(400), pytest.mark.faults]


def waits(site: Site, path: object) -> bool:
    """Whether a study is in a passing state that says for what it waits."""
    study = site.study_of(path)  # type: ignore[arg-type]
    return bool(study) and study["state"] in ("received", "analysing") and bool(study["reason"])


@pytest.mark.parametrize("fault", ["hang", "unavailable", "internal"])
def test_a_model_server_that_does_not_answer_is_waited_for(healthy: Site, fault: str) -> None:
    assert healthy.triton is not None
    healthy.triton.fault = fault
    paths = healthy.make(2)
    healthy.send(paths)
    wait_until(lambda: all(waits(healthy, path) for path in paths), 60, "studies that say why")
    healthy.verify()
    healthy.triton.heal()
    healthy.check(paths, f"a model server that answers: {fault}")


def test_a_model_server_that_is_gone_is_waited_for(healthy: Site) -> None:
    assert healthy.triton is not None
    healthy.triton.stop()
    paths = healthy.make(2)
    healthy.send(paths)
    wait_until(lambda: all(waits(healthy, path) for path in paths), 60, "studies that say why")
    healthy.verify()
    healthy.triton.start()
    healthy.check(paths, "a model server that was gone")


def test_a_slow_model_server_costs_time_and_nothing_else(healthy: Site) -> None:
    assert healthy.triton is not None
    healthy.triton.delay_s = 4.5  # longer than the lease, shorter than the time-out
    healthy.triton.fault = "slow"
    paths = healthy.make(2)
    healthy.send(paths)
    healthy.check(paths, "answers after 4.5 s")
    for path in paths:
        (item,) = healthy.study_of(path)["work_items"]
        assert item["attempts"] <= 2, item  # the heartbeat held it


@pytest.mark.parametrize("fault", ["nan", "infinite", "shape", "missing"])
def test_nonsense_of_a_model_reaches_no_report(healthy: Site, fault: str) -> None:
    """It is tried a few times, then it is an alarm with a reason; other studies go on."""
    assert healthy.triton is not None
    healthy.triton.fault = fault
    (path,) = healthy.make()
    healthy.send([path])
    healthy.wait_for([path], "failed")
    (item,) = healthy.study_of(path)["work_items"]
    assert (item["state"], item["failure_kind"]) == ("CANCELED", "DEFECT")
    assert item["reason"]
    assert item["objects"] == []
    healthy.verify()
    healthy.triton.heal()
    following = healthy.make()
    healthy.send(following)
    healthy.check(following, f"the study after {fault}")


def test_nonsense_that_passes_is_tried_again(healthy: Site) -> None:
    assert healthy.triton is not None
    healthy.triton.fault = "nan"
    before = healthy.triton.requests
    paths = healthy.make()
    healthy.send(paths)
    wait_until(lambda: healthy.triton.requests > before, 60, "the first request")  # type: ignore[union-attr]
    healthy.triton.heal()
    healthy.check(paths, "one answer that was not a number")


def test_a_model_server_that_comes_and_goes_finishes_in_the_end(healthy: Site) -> None:
    assert healthy.triton is not None
    paths = healthy.make(3)
    healthy.send(paths)
    for _ in range(3):
        healthy.triton.stop()
        wait_a_moment(0.5)
        healthy.triton.start()
        wait_a_moment(0.5)
    healthy.check(paths, "a model server that came and went")
