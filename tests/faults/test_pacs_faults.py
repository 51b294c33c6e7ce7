"""The PACS down, refusing, accepting half, dropping, warning, silent, slow to list."""

from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from tests.faults.site import Site, site
from tests.lentigo import wait_a_moment
from tests.servers import wait_until
from tests.servers.proxy import Proxy, proxy
from tests.storage_scp import (
    COMPREHENSIVE_3D_SR,
    SECONDARY_CAPTURE,
    SEGMENTATION,
    StorageScp,
)

pytestmark = [pytest.mark.timeout(400), pytest.mark.faults]

ENCAPSULATED_PDF = "1.2.840.10008.5.1.4.1.1.104.1"
KINDS = (COMPREHENSIVE_3D_SR, SEGMENTATION, SECONDARY_CAPTURE, ENCAPSULATED_PDF)


@pytest.fixture(scope="module")
def pacs() -> Iterator[StorageScp]:
    # It takes all that is made: what a study then says is what it waits for.
    with StorageScp(sop_classes=KINDS).serving() as running:
        yield running


@pytest.fixture(scope="module")
def line(pacs: StorageScp) -> Iterator[Proxy]:
    """The way to the PACS."""
    with proxy(f"127.0.0.1:{pacs.port}") as running:
        yield running


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, line: Proxy) -> Iterator[Site]:
    with site(tmp_path_factory.mktemp("f"), pacs=line) as found:
        found.can_find = False  # the SCP answers only what the sender asks
        yield found


def waits_for_pacs(site: Site, path: object) -> Callable[[], bool]:
    def look() -> bool:
        study = site.study_of(path)  # type: ignore[arg-type]
        return bool(study) and study["state"] == "delivering" and bool(study["reason"])

    return look


def assert_delivered_once(site: Site, pacs: StorageScp, paths: list[object]) -> None:
    """Everything that was made is there; what came twice came as the same object."""
    held = {str(ds.SOPInstanceUID) for ds in pacs.stored}
    for path in paths:
        (item,) = site.study_of(path)["work_items"]  # type: ignore[arg-type]
        made = [each["sop_instance_uid"] for each in item["objects"]]
        assert len(made) == len(set(made)) >= 2
        confirmed = {
            each["sop_instance_uid"]
            for each in item["objects"]
            if each["deliveries"][0]["state"] == "CONFIRMED"
        }
        assert confirmed <= held
    contents = {(str(ds.SOPInstanceUID), str(ds.get("ContentTime", ""))) for ds in pacs.stored}
    assert max(Counter(uid for uid, _ in contents).values()) == 1


def test_a_pacs_that_is_down_is_waited_for(healthy: Site, pacs: StorageScp, line: Proxy) -> None:
    line.is_refusing = True
    paths = healthy.make(2)
    healthy.send(paths)
    for path in paths:
        wait_until(waits_for_pacs(healthy, path), 60, "a study that says why")
    healthy.verify()
    line.is_refusing = False
    healthy.check(paths, "a PACS that was down")
    assert_delivered_once(healthy, pacs, [*paths])


@pytest.mark.parametrize("status", [0xA700, 0xA701, 0x0110])
def test_a_pacs_without_room_is_asked_again(healthy: Site, pacs: StorageScp, status: int) -> None:
    pacs.statuses.update(dict.fromkeys(KINDS, status))
    paths = healthy.make()
    healthy.send(paths)
    wait_until(waits_for_pacs(healthy, paths[0]), 60, "a study that says why")
    pacs.statuses.clear()
    healthy.check(paths, f"a PACS that answered {status:04X}")
    assert_delivered_once(healthy, pacs, [*paths])


def test_a_pacs_that_takes_half_now_gets_the_rest_later(healthy: Site, pacs: StorageScp) -> None:
    pacs.statuses[COMPREHENSIVE_3D_SR] = 0xA700
    paths = healthy.make()
    healthy.send(paths)
    wait_until(waits_for_pacs(healthy, paths[0]), 60, "a study that says why")
    stored = Counter(str(ds.SOPClassUID) for ds in pacs.stored)
    assert stored[SECONDARY_CAPTURE]
    pacs.statuses.clear()
    healthy.check(paths, "a PACS that took half")
    assert_delivered_once(healthy, pacs, [*paths])


@pytest.mark.parametrize("status", [0xA900, 0xC000, 0x0122])
def test_an_object_that_is_refused_for_good_holds_up_no_sibling(
    healthy: Site, pacs: StorageScp, status: int
) -> None:
    pacs.statuses[SECONDARY_CAPTURE] = status
    paths = healthy.make()
    healthy.send(paths)
    healthy.wait_for(paths)
    pacs.statuses.clear()
    (item,) = healthy.study_of(paths[0])["work_items"]
    said = Counter(each["deliveries"][0]["state"] for each in item["objects"])
    assert said["REFUSED"] >= 1
    assert said["CONFIRMED"] >= 1
    assert set(said) == {"REFUSED", "CONFIRMED"}
    assert item["reason"]
    healthy.verify()


def test_a_pacs_that_refuses_everything_is_named(healthy: Site, pacs: StorageScp) -> None:
    pacs.statuses.update(dict.fromkeys(KINDS, 0xA900))
    paths = healthy.make()
    healthy.send(paths)
    healthy.wait_for(paths, "failed")
    pacs.statuses.clear()
    assert "takes no result" in healthy.study_of(paths[0])["reason"]
    healthy.verify()


@pytest.mark.parametrize("status", [0xB000, 0xB006, 0xB007])
def test_a_warning_is_no_failure(healthy: Site, pacs: StorageScp, status: int) -> None:
    pacs.statuses.update(dict.fromkeys(KINDS, status))
    paths = healthy.make()
    healthy.send(paths)
    healthy.check(paths, f"a PACS that warned {status:04X}")
    pacs.statuses.clear()
    assert_delivered_once(healthy, pacs, [*paths])


@pytest.mark.parametrize("kind", [COMPREHENSIVE_3D_SR, SECONDARY_CAPTURE])
def test_a_pacs_that_aborts_over_one_object_gets_the_others(
    healthy: Site, pacs: StorageScp, kind: str
) -> None:
    pacs.abort_on = kind
    paths = healthy.make()
    healthy.send(paths)
    wait_until(waits_for_pacs(healthy, paths[0]), 60, "a study that says why")
    wait_a_moment(2)
    (item,) = healthy.study_of(paths[0])["work_items"]
    others = [each for each in item["objects"] if each["sop_class_uid"] != kind]
    assert any(each["deliveries"][0]["state"] != "PENDING" for each in others)
    pacs.abort_on = ""
    healthy.check(paths, "a PACS that aborted")
    assert_delivered_once(healthy, pacs, [*paths])


@pytest.mark.parametrize("count", [3_000, 60_000])
def test_a_connection_that_drops_in_the_middle(
    healthy: Site, pacs: StorageScp, line: Proxy, count: int
) -> None:
    line.cut_after_bytes = count
    before = line.connections
    paths = healthy.make()
    healthy.send(paths)
    wait_until(lambda: line.connections >= before + 2, 60, "two attempts")
    line.cut_after_bytes = 0
    healthy.check(paths, f"a connection that dropped after {count} bytes")
    assert_delivered_once(healthy, pacs, [*paths])


def test_a_pacs_that_goes_silent(healthy: Site, pacs: StorageScp, line: Proxy) -> None:
    line.is_hung = True
    paths = healthy.make()
    healthy.send(paths)
    wait_until(waits_for_pacs(healthy, paths[0]), 60, "a study that says why")
    line.is_hung = False
    healthy.check(paths, "a PACS that went silent")
    assert_delivered_once(healthy, pacs, [*paths])


def test_a_pacs_that_lists_late(healthy: Site, pacs: StorageScp) -> None:
    """Stored is not confirmed: the study waits until the PACS lists its results."""
    pacs.find_status = 0xA700
    paths = healthy.make()
    healthy.send(paths)
    wait_until(waits_for_pacs(healthy, paths[0]), 60, "a study that says why")
    pacs.find_status = 0x0000
    healthy.check(paths, "a PACS that listed late")
    assert_delivered_once(healthy, pacs, [*paths])


@pytest.mark.parametrize("step", ["delivery.sent", "delivery.answered", "delivery.completing"])
def test_a_kill_after_the_pacs_stored_sends_the_same_objects(
    healthy: Site, pacs: StorageScp, step: str
) -> None:
    healthy.arm(f"{step}=kill")
    paths = healthy.make()
    healthy.send(paths)
    healthy.check(paths, f"kill -9 at {step}, PACS without a memory")
    assert_delivered_once(healthy, pacs, [*paths])
