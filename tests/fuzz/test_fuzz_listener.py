"""The listener as its own process, sent what no well-meaning peer sends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from pynetdicom import AE
from pynetdicom.sop_class import Verification

from gateway.delivery.routes import Destination
from gateway.delivery.store_scu import DataSetFile, StoreAssociation
from gateway.dicom.file_meta import identify
from tests.fuzz.door import Door, open_door, run_campaign
from tests.fuzz.lying_peer import lying_peer, store_once
from tests.fuzz.messages import LAYERS, draw_conversation
from tests.fuzz.player import play
from tests.instances import instance, write

CONVERSATIONS = 45
MESSAGES_TO_THE_PEER = 40


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with open_door(tmp_path_factory.mktemp("door")) as opened:
        yield opened


def assert_serves(door: Door, folder: Path) -> None:
    """Echo and store as a camera does."""
    ae = AE(ae_title="CAMERA")
    ae.add_requested_context(Verification)
    association = ae.associate("127.0.0.1", door.port)
    assert association.is_established
    assert association.send_c_echo().Status == 0x0000
    association.release()
    path = write(instance(), folder / "good.dcm")
    found = identify(path)
    file = DataSetFile(
        path=path,
        offset=found.data_set_offset,
        sop_class_uid=found.sop_class_uid,
        sop_instance_uid=found.sop_instance_uid,
        transfer_syntax_uid=found.transfer_syntax_uid,
    )
    destination = Destination(ae_title="LENTIGO", host="127.0.0.1", port=door.port)
    with StoreAssociation.open(
        destination, [file.context], calling_ae_title="CAMERA", timeout_s=30.0
    ) as scu:
        assert scu.store(file).status == 0x0000
    assert found.sop_instance_uid in {uid for uid, *_ in door.rows()}


def test_nothing_sent_breaks_a_promise_or_leaves_anything_behind(
    door: Door, tmp_path: Path
) -> None:
    run_campaign(door, seed=100, conversations=20)  # its pools are filled before it is weighed
    before = door.settle(door.weigh())

    tally = run_campaign(door, seed=1, conversations=CONVERSATIONS)

    assert tally.faults == []
    assert len(tally.acknowledged) > 20
    assert set(tally.statuses) >= {0x0000, 0xC000, 0xC001}
    assert door.violations(tally.acknowledged) == []
    after = door.settle(before)
    assert after.threads <= before.threads
    # Four peers at once may need a connection of the record (2 descriptors) and a journal more.
    assert after.descriptors <= before.descriptors + 12
    assert after.resident_bytes <= before.resident_bytes + 64 * 1024 * 1024
    assert_serves(door, tmp_path)


@pytest.mark.parametrize("layer", LAYERS)
def test_every_layer_is_survived_by_itself(door: Door, layer: str, tmp_path: Path) -> None:
    for number in range(4):
        play(draw_conversation(Random(f"{layer}:{number}"), layer), door.port)
    assert door.process.is_running
    assert_serves(door, tmp_path)


def test_our_storage_scu_outlives_a_peer_that_answers_nonsense(tmp_path: Path) -> None:
    path = tmp_path / "data-set.bin"
    path.write_bytes(bytes(40_000))
    with lying_peer() as peer:
        outcomes = {store_once(peer, path, Random(seed)) for seed in range(MESSAGES_TO_THE_PEER)}
    assert {"lost", "refused", "not accepted", "C000"} <= outcomes
