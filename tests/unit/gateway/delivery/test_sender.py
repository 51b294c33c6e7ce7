"""The sender against real SCPs on loopback."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread, dcmwrite
from pydicom.uid import ImplicitVRLittleEndian, JPEGBaseline8Bit

from gateway.delivery.folder import FolderSender
from gateway.delivery.routes import (
    KINDS,
    Destination,
    DestinationError,
    ObjectState,
    Outcome,
    Outgoing,
    Route,
    parse_routes,
)
from gateway.delivery.sender import Sender
from gateway.delivery.statuses import classify_status
from gateway.settings import DeliverySettings
from tests.servers import storescp
from tests.storage_scp import (
    COMPREHENSIVE_3D_SR,
    SECONDARY_CAPTURE,
    SEGMENTATION,
    StorageScp,
    write_object,
)

CLASSES = (COMPREHENSIVE_3D_SR, SEGMENTATION, SECONDARY_CAPTURE)


@pytest.fixture
def objects(tmp_path: Path) -> list[Outgoing]:
    return [outgoing(tmp_path, number, CLASSES[number]) for number in range(3)]


def outgoing(folder: Path, number: int, sop_class_uid: str, *, is_stored: bool = False) -> Outgoing:
    path = write_object(folder, sop_class_uid, number)
    return Outgoing(
        id=number,
        path=path,
        study_instance_uid="1.2.826.0.1.3680043.10.511.1",
        series_instance_uid="1.2.826.0.1.3680043.10.511.2",
        sop_class_uid=sop_class_uid,
        sop_instance_uid=f"1.2.826.0.1.3680043.10.511.3.{number}",
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        is_stored=is_stored,
    )


def as_stored(each: Outgoing) -> Outgoing:
    return Outgoing(
        **{**{k: getattr(each, k) for k in each.__dataclass_fields__}, "is_stored": True}
    )


def deliver(
    scp: StorageScp, objects: list[Outgoing], *, confirm: str = "auto", timeout_s: float = 5.0
) -> list[Outcome]:
    settings = DeliverySettings(confirm=confirm, timeout_s=timeout_s)
    destination = Destination(ae_title="PACS", host="127.0.0.1", port=scp.port)
    return Sender(destination, settings).deliver(objects)


def states(outcomes: list[Outcome]) -> list[str]:
    return [outcome.state.value for outcome in outcomes]


class TestDestination:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("PACS@127.0.0.1:4242", Destination(ae_title="PACS", host="127.0.0.1", port=4242)),
            ("A B@pacs.local:104", Destination(ae_title="A B", host="pacs.local", port=104)),
            ("X@[::1]:104", Destination(ae_title="X", host="::1", port=104)),
        ],
    )
    def test_reads_and_writes_the_same_text(self, text: str, expected: Destination) -> None:
        assert Destination.parse(text) == expected
        assert str(expected) == text

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "PACS",
            "PACS@host",
            "PACS@host:",
            "@host:104",
            "PACS@:104",
            "PACS@host:0",
            "PACS@host:65536",
            "PACS@host:1x",
            "SEVENTEENLETTERSX@host:104",
            "PA\\CS@host:104",
            "PÄCS@host:104",
            "A@B@host:104",
        ],
    )
    def test_refuses_what_names_no_destination(self, text: str) -> None:
        with pytest.raises(DestinationError):
            Destination.parse(text)


class TestClassifyStatus:
    @pytest.mark.parametrize(
        ("status", "state"),
        [
            (0x0000, ObjectState.STORED),
            (0xB000, ObjectState.STORED),
            (0xB006, ObjectState.STORED),
            (0xB007, ObjectState.STORED),
            (0x0111, ObjectState.STORED),
            (0xA700, ObjectState.PENDING),
            (0xA7FF, ObjectState.PENDING),
            (0x0110, ObjectState.PENDING),
            (0x0213, ObjectState.PENDING),
            (0xA900, ObjectState.REFUSED),
            (0xA9FF, ObjectState.REFUSED),
            (0xC000, ObjectState.REFUSED),
            (0xCFFF, ObjectState.REFUSED),
            (0x0122, ObjectState.REFUSED),
            (0x0124, ObjectState.REFUSED),
        ],
    )
    def test_follows_the_standard(self, status: int, state: ObjectState) -> None:
        assert classify_status(status)[0] is state

    @given(st.integers(min_value=1, max_value=0xFFFF))
    def test_everything_but_success_has_a_reason(self, status: int) -> None:
        state, reason = classify_status(status)
        assert state in (ObjectState.STORED, ObjectState.PENDING, ObjectState.REFUSED)
        assert f"{status:04X}" in reason


class TestDeliver:
    def test_stores_and_confirms_all_on_one_association(self, objects: list[Outgoing]) -> None:
        with StorageScp().serving() as scp:
            outcomes = deliver(scp, objects)
        assert states(outcomes) == ["CONFIRMED"] * 3
        assert {outcome.confirmed_by for outcome in outcomes} == {"c-find"}
        assert [outcome.status for outcome in outcomes] == [0, 0, 0]
        assert len(scp.stored) == 3
        assert scp.associations == 1

    def test_nothing_to_send_needs_no_association(self) -> None:
        with StorageScp().serving() as scp:
            assert deliver(scp, []) == []
        assert scp.associations == 0

    def test_a_refused_context_does_not_stop_the_others(self, objects: list[Outgoing]) -> None:
        with StorageScp(sop_classes=(COMPREHENSIVE_3D_SR, SECONDARY_CAPTURE)).serving() as scp:
            outcomes = deliver(scp, objects)
        assert states(outcomes) == ["CONFIRMED", "REFUSED", "CONFIRMED"]
        assert "no presentation context" in outcomes[1].reason

    def test_no_context_accepted_at_all_refuses_every_object(self, objects: list[Outgoing]) -> None:
        other = StorageScp(sop_classes=("1.2.840.10008.5.1.4.1.1.2",), offers_find=False)
        with other.serving() as scp:
            outcomes = deliver(scp, objects)
        assert states(outcomes) == ["REFUSED"] * 3

    def test_transfer_syntax_that_the_destination_lacks_refuses(
        self, objects: list[Outgoing]
    ) -> None:
        with StorageScp(transfer_syntaxes=(JPEGBaseline8Bit,)).serving() as scp:
            assert states(deliver(scp, objects)) == ["REFUSED"] * 3

    def test_implicit_only_destination_gets_what_is_stored_explicit(
        self, objects: list[Outgoing]
    ) -> None:
        with StorageScp(transfer_syntaxes=(ImplicitVRLittleEndian,)).serving() as scp:
            outcomes = deliver(scp, objects)
        assert states(outcomes) == ["CONFIRMED"] * 3
        assert {ds.file_meta.TransferSyntaxUID for ds in scp.stored} == {ImplicitVRLittleEndian}
        assert {str(ds.PatientName) for ds in scp.stored} == {"Test^Person"}

    def test_warning_is_stored_and_named(self, objects: list[Outgoing]) -> None:
        with StorageScp(statuses={SEGMENTATION: 0xB000}).serving() as scp:
            outcomes = deliver(scp, objects)
        assert states(outcomes) == ["CONFIRMED"] * 3
        assert outcomes[1].status == 0xB000
        assert "B000" in outcomes[1].reason

    @pytest.mark.parametrize(
        ("status", "state"), [(0xA700, "PENDING"), (0xA900, "REFUSED"), (0xC000, "REFUSED")]
    )
    def test_failure_of_one_object_is_its_own(
        self, objects: list[Outgoing], status: int, state: str
    ) -> None:
        with StorageScp(statuses={SEGMENTATION: status}).serving() as scp:
            outcomes = deliver(scp, objects)
        assert states(outcomes) == ["CONFIRMED", state, "CONFIRMED"]
        assert outcomes[1].status == status

    def test_abort_at_one_object_keeps_what_was_stored_and_does_not_stop_the_rest(
        self, objects: list[Outgoing]
    ) -> None:
        with StorageScp(abort_on=SEGMENTATION).serving() as scp:
            outcomes = deliver(scp, objects)
        assert states(outcomes) == ["STORED", "PENDING", "CONFIRMED"]
        assert all(outcome.reason for outcome in outcomes[:2])
        assert scp.associations == 2

    def test_every_kind_of_result_is_sent_and_a_class_that_is_not_accepted_stops_no_other(
        self, tmp_path: Path
    ) -> None:
        everything = list(KINDS.values())
        sent = [outgoing(tmp_path, number, uid) for number, uid in enumerate(everything)]
        lacking = {KINDS["seg"], KINDS["map"], KINDS["ann"], KINDS["flicker"]}
        accepted = [uid for uid in everything if uid not in lacking]
        with StorageScp(sop_classes=everything).serving() as scp:
            assert states(deliver(scp, sent)) == ["CONFIRMED"] * len(KINDS)
        with StorageScp(sop_classes=accepted).serving() as scp:
            outcomes = deliver(scp, sent)
        for each, outcome in zip(sent, outcomes, strict=True):
            if each.sop_class_uid in lacking:
                assert outcome.state is ObjectState.REFUSED
                assert "no presentation context" in outcome.reason
            else:
                assert (outcome.state, outcome.confirmed_by) == (ObjectState.CONFIRMED, "c-find")
        assert {str(ds.SOPClassUID) for ds in scp.stored} == set(accepted)

    def test_rejected_association_is_passing(self, objects: list[Outgoing]) -> None:
        with StorageScp(required_calling_ae_title="OTHER").serving() as scp:
            outcomes = deliver(scp, objects)
        assert states(outcomes) == ["PENDING"] * 3
        assert "calling AE title not recognised" in outcomes[0].reason

    # pynetdicom 3.0.4 leaves a socket that never connected to the garbage collector.
    @pytest.mark.filterwarnings("ignore::ResourceWarning")
    def test_closed_port_is_passing(self, objects: list[Outgoing]) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
            outcomes = deliver(StorageScp(port=taken.getsockname()[1]), objects)
        assert states(outcomes) == ["PENDING"] * 3
        assert "cannot be reached" in outcomes[0].reason

    def test_silence_is_passing_and_ends_in_time(self, objects: list[Outgoing]) -> None:
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            started = time.monotonic()
            outcomes = deliver(StorageScp(port=silent.getsockname()[1]), objects, timeout_s=0.5)
        assert states(outcomes) == ["PENDING"] * 3
        assert time.monotonic() - started < 5.0

    def test_peer_that_hangs_up_is_passing(self, objects: list[Outgoing]) -> None:
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            server.listen()
            thread = threading.Thread(target=_hang_up, args=(server,))
            thread.start()
            outcomes = deliver(StorageScp(port=server.getsockname()[1]), objects, timeout_s=2.0)
            thread.join()
        assert states(outcomes) == ["PENDING"] * 3

    def test_file_that_is_gone_is_refused_and_the_others_go_on(
        self, objects: list[Outgoing]
    ) -> None:
        objects[0].path.unlink()
        with StorageScp().serving() as scp:
            outcomes = deliver(scp, objects)
        assert states(outcomes) == ["REFUSED", "CONFIRMED", "CONFIRMED"]


def _hang_up(server: socket.socket) -> None:
    connection, _ = server.accept()
    connection.recv(65536)
    connection.close()


class TestConfirm:
    def test_what_is_not_listed_yet_stays_stored_and_is_only_asked_for(
        self, objects: list[Outgoing]
    ) -> None:
        scp = StorageScp(unlisted={objects[1].sop_instance_uid})
        with scp.serving():
            first = deliver(scp, objects)
            scp.unlisted.clear()
            second = deliver(scp, [as_stored(objects[1])])
        assert states(first) == ["CONFIRMED", "STORED", "CONFIRMED"]
        assert "not list it yet" in first[1].reason
        assert states(second) == ["CONFIRMED"]
        assert len(scp.stored) == 3

    def test_destination_that_answers_with_other_instances_confirms_nothing(
        self, objects: list[Outgoing]
    ) -> None:
        scp = StorageScp(answers_everything=True, unlisted={objects[1].sop_instance_uid})
        with scp.serving():
            outcomes = deliver(scp, objects)
        assert states(outcomes) == ["CONFIRMED", "STORED", "CONFIRMED"]

    def test_without_find_the_store_answer_confirms(self, objects: list[Outgoing]) -> None:
        with StorageScp(offers_find=False).serving() as scp:
            outcomes = deliver(scp, objects)
        assert states(outcomes) == ["CONFIRMED"] * 3
        assert {outcome.confirmed_by for outcome in outcomes} == {"c-store"}

    def test_without_find_nothing_is_confirmed_when_it_is_required(
        self, objects: list[Outgoing]
    ) -> None:
        with StorageScp(offers_find=False).serving() as scp:
            outcomes = deliver(scp, objects, confirm="require")
        assert states(outcomes) == ["STORED"] * 3
        assert "offers no C-FIND" in outcomes[0].reason

    def test_failing_find_leaves_the_object_stored(self, objects: list[Outgoing]) -> None:
        scp = StorageScp(find_status=0xA700, unlisted={each.sop_instance_uid for each in objects})
        with scp.serving():
            outcomes = deliver(scp, objects)
        assert states(outcomes) == ["STORED"] * 3
        assert "A700" in outcomes[0].reason

    # pynetdicom 3.0.4 leaves a socket that never connected to the garbage collector.
    @pytest.mark.filterwarnings("ignore::ResourceWarning")
    def test_stored_object_stays_stored_while_the_destination_is_away(
        self, objects: list[Outgoing]
    ) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            scp = StorageScp(port=taken.getsockname()[1])
            outcomes = deliver(scp, [as_stored(objects[0]), objects[1]])
        assert states(outcomes) == ["STORED", "PENDING"]


def test_an_object_that_cannot_be_sent_is_refused_and_holds_up_nobody(
    objects: list[Outgoing],
) -> None:
    ds = dcmread(objects[0].path)
    del ds.SOPInstanceUID
    dcmwrite(objects[0].path, ds)
    with StorageScp().serving() as scp:
        outcomes = deliver(scp, objects)
    assert states(outcomes) == ["REFUSED", "CONFIRMED", "CONFIRMED"]
    assert "cannot be encoded" in outcomes[0].reason


class TestFolderSender:
    def test_confirms_by_reading_back(self, objects: list[Outgoing]) -> None:
        outcomes = FolderSender().deliver(objects)
        assert states(outcomes) == ["CONFIRMED"] * 3
        assert outcomes[0].confirmed_by == "read-back"

    def test_refuses_what_is_gone_or_changed(self, objects: list[Outgoing]) -> None:
        objects[0].path.unlink()
        objects[1].path.write_bytes(b"other")
        outcomes = FolderSender().deliver(objects)
        assert states(outcomes) == ["REFUSED", "REFUSED", "CONFIRMED"]
        assert "changed" in outcomes[1].reason


def test_dcmtk_receives_and_its_store_answer_confirms(
    tmp_path: Path, objects: list[Outgoing]
) -> None:
    with storescp(tmp_path / "scp", aet="PACS") as scp:
        outcomes = deliver(StorageScp(port=scp.port), objects)
        assert len(scp.files()) == 3
    assert states(outcomes) == ["CONFIRMED"] * 3
    assert {outcome.confirmed_by for outcome in outcomes} == {"c-store"}


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("PACS@host:104", set(KINDS)),
        (" PACS@host:104/sr+SEG ", {"sr", "seg"}),
        ("PACS@[::1]:104/-pdf-sc", set(KINDS) - {"pdf", "sc"}),
    ],
)
def test_route_gets_the_kinds_behind_the_slash(text: str, kinds: set[str]) -> None:
    route = Route.parse(text)
    assert route.kinds == kinds
    assert {kind for kind, uid in KINDS.items() if route.takes(uid)} == kinds
    assert route.takes("1.2.3")  # what no switch names is not kept back
    assert Destination.parse(route.name).port == 104


def test_destinations_are_a_list_and_the_folder_is_where_there_is_none() -> None:
    both = parse_routes("PACS@a:104/sr, ARCHIVE@b:11112,")
    assert [route.name for route in both] == ["PACS@a:104", "ARCHIVE@b:11112"]
    assert [route.name for route in parse_routes("  ")] == ["folder"]


@pytest.mark.parametrize(
    "text",
    [
        "PACS@host",
        "PACS@host:104/",
        "PACS@host:104/sr+unknown",
        "PACS@host:104/-sr-seg-sc-flicker-pdf-map-ann",
        "PACS@host:104,PACS@host:104/sr",
    ],
)
def test_list_of_destinations_that_cannot_be_meant_is_refused(text: str) -> None:
    with pytest.raises(DestinationError):
        parse_routes(text)
