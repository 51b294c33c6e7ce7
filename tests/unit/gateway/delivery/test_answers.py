"""No answer of a PACS is lost between pynetdicom's threads."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pynetdicom.association import Association
from pynetdicom.transport import AssociationSocket

from gateway.delivery.echo import echo
from gateway.delivery.routes import Destination
from tests.storage_scp import COMPREHENSIVE_3D_SR, StorageScp
from tests.unit.gateway.delivery.test_sender import deliver, outgoing, states


class _Late(threading.Event):
    """Whoever waited for it goes on late, as a thread does on a busy machine."""

    def wait(self, timeout: float | None = None) -> bool:
        is_set = super().wait(timeout)
        time.sleep(0.1)
        return is_set


@pytest.fixture
def _late_reactor(monkeypatch: pytest.MonkeyPatch) -> None:
    begin = Association.__init__

    def begin_late(self: Association, *arguments: Any, **options: Any) -> None:
        begin(self, *arguments, **options)
        if self.is_requestor:
            self._reactor_checkpoint = _Late()
            self._reactor_checkpoint.set()

    monkeypatch.setattr(Association, "__init__", begin_late)


@pytest.mark.parametrize("commitment", ["", "same"])
@pytest.mark.usefixtures("_late_reactor")
def test_answers_reach_who_asked_however_late_the_reactor_is(
    tmp_path: Path, commitment: str
) -> None:
    objects = [outgoing(tmp_path, number, COMPREHENSIVE_3D_SR) for number in range(8)]
    with StorageScp(commitment=commitment).serving() as scp:
        outcomes = deliver(scp, objects, timeout_s=10.0)
        assert states(outcomes) == ["CONFIRMED"] * len(objects)
        assert len(scp.stored) == len(objects)
        assert scp.associations == 1


@contextmanager
def answering(answer: bytes) -> Iterator[Destination]:
    """A peer that answers whatever it hears at once with one PDU, and waits for the other's end."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)
                while connection.recv(65536):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        yield Destination(ae_title="PACS", host="127.0.0.1", port=server.getsockname()[1])
        thread.join()


# PS3.8 9.3.4 and 9.3.8: rejected for good by the service user, whose AE title is another; aborted.
_REJECT = bytes.fromhex("03 00 00000004 00 01 01 07")
_ABORT = bytes.fromhex("07 00 00000004 00 00 00 00")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [(_REJECT, "called AE title not recognised"), (_ABORT, "aborted the association")],
    ids=["reject", "abort"],
)
def test_an_answer_that_ends_the_connection_at_once_is_read(
    answer: bytes, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = AssociationSocket.__init__

    def begin_late(self: AssociationSocket, *arguments: Any, **options: Any) -> None:
        begin(self, *arguments, **options)
        self._ready = _Late()

    monkeypatch.setattr(AssociationSocket, "__init__", begin_late)
    with answering(answer) as destination:
        assert reason in echo(destination, calling_ae_title="LENTIGO", timeout_s=20.0)
