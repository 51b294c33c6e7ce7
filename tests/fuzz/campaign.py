"""A long search over the listener's socket: floods, odd conversations, and a camera among them.

The camera is a well-meaning sender that must be served whatever the others do; the process is
weighed all the while.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from pynetdicom import AE
from pynetdicom.sop_class import Verification

from gateway.delivery.routes import Destination
from gateway.delivery.store_scu import DataSetFile, StoreAssociation
from gateway.dicom.file_meta import identify
from gateway.errors import GatewayError
from tests.fuzz.door import Door, Tally, Weight
from tests.fuzz.flood import DATA_SETS, play_flood
from tests.fuzz.messages import draw_conversation
from tests.fuzz.player import play
from tests.instances import instance, write

MAX_GROWTH_BYTES = 96 * 1024 * 1024
"""Growth of the resident memory, once its pools are filled, that is still flat."""
_CAMERA_PAUSE_S = 2.0
_MAX_FAULTS = 200


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much is sent, and of what.

    A search ends after so many messages, or at so many seconds; 0 for no limit.
    """

    messages: int = 0
    seconds: float = 0.0
    data_sets: float = DATA_SETS
    """Share of a flood's messages that carry a data set."""


@dataclass(kw_only=True)
class Seen:
    """What a search over sockets saw."""

    by_kind: Counter[str] = field(default_factory=Counter)
    """Messages that were answered or that ended an association."""
    statuses: Counter[int] = field(default_factory=Counter)
    associations: int = 0
    acknowledged: set[str] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)
    served: int = 0
    """Echoes and instances of the camera that were answered with 0000."""
    slowest_s: float = 0.0
    """Longest that the camera waited for an association, an echo and an instance."""
    weights: list[tuple[int, Weight]] = field(default_factory=list)
    """Messages so far, and what the process cost then."""
    seconds: float = 0.0

    @property
    def messages(self) -> int:
        """How many mutated messages there were."""
        return self.by_kind.total()

    def fault(self, text: str) -> None:
        """Note what must not happen."""
        if len(self.faults) < _MAX_FAULTS:
            self.faults.append(text)

    @property
    def growth_bytes(self) -> int:
        """Resident memory at the end less that at a tenth of the way."""
        start = next((each for at, each in self.weights if at >= self.messages / 10), None)
        return self.weights[-1][1].resident_bytes - start.resident_bytes if start else 0


def serve_camera(port: int, folder: Path) -> str:
    """Echo and store one new instance as a camera does; return its SOP Instance UID.

    Raises
    ------
    GatewayError
        It was not served.
    """
    ae = AE(ae_title="CAMERA")
    ae.add_requested_context(Verification)
    association = ae.associate("127.0.0.1", port)
    if not association.is_established:
        raise GatewayError("the camera was not let in")
    status = association.send_c_echo()
    association.release()
    if getattr(status, "Status", None) != 0x0000:
        raise GatewayError("the camera's echo was not answered")
    path = write(instance(), folder / "camera.dcm")
    found = identify(path)
    file = DataSetFile(
        path=path,
        offset=found.data_set_offset,
        sop_class_uid=found.sop_class_uid,
        sop_instance_uid=found.sop_instance_uid,
        transfer_syntax_uid=found.transfer_syntax_uid,
    )
    destination = Destination(ae_title="LENTIGO", host="127.0.0.1", port=port)
    with StoreAssociation.open(
        destination, [file.context], calling_ae_title="CAMERA", timeout_s=60.0
    ) as scu:
        answer = scu.store(file)
    if answer.status != 0x0000:
        raise GatewayError(f"the camera's instance was answered with {answer.status:04X}")
    return found.sop_instance_uid


class Campaign:
    """Threads that send until the limit, and what they saw.

    Parameters
    ----------
    folder
        Where the camera keeps its file.
    say
        Told how far it is, every half minute.
    """

    def __init__(self, door: Door, folder: Path, *, seed: int, say: Callable[[str], None]) -> None:
        self._door, self._folder, self._seed, self._say = door, folder, seed, say
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._number = 0
        self._data_sets = DATA_SETS
        self.seen = Seen()

    def run(self, limits: Limits, *, floods: int = 3, conversations: int = 1) -> Seen:
        """Send from so many threads of each kind until a limit is reached."""
        begun = time.monotonic()
        self._data_sets = limits.data_sets
        work = [self._flood] * floods + [self._converse] * conversations + [self._photograph]
        threads = [threading.Thread(target=each, name=f"fuzz-{n}") for n, each in enumerate(work)]
        for thread in threads:
            thread.start()
        try:
            self._watch(limits, begun)
        except KeyboardInterrupt:
            self._say("stopped: what was seen until now")
        finally:
            self._over.set()
            for thread in threads:
                thread.join()
        self.seen.seconds = time.monotonic() - begun
        self.seen.weights.append((self.seen.messages, self._door.weigh()))
        return self.seen

    def _watch(self, limits: Limits, begun: float) -> None:
        next_line = begun
        while self._door.process.is_running:
            passed, messages = time.monotonic() - begun, self.seen.messages
            if limits.messages and messages >= limits.messages:
                return
            if limits.seconds and passed >= limits.seconds:
                return
            if time.monotonic() >= next_line:
                next_line += 30.0
                weight = self._door.weigh()
                self.seen.weights.append((messages, weight))
                self._say(
                    f"{passed:6.0f} s {messages:9} messages, {weight.resident_bytes >> 20} MB, "
                    f"{weight.threads} threads, camera served {self.seen.served} times, "
                    f"{len(self.seen.faults)} findings"
                )
            time.sleep(0.5)
        self.seen.fault("the listener has ended")

    def _next_seed(self) -> str:
        with self._lock:
            self._number += 1
            return f"{self._seed}:{self._number}"

    def _flood(self) -> None:
        while not self._over.is_set():
            seed = self._next_seed()
            try:
                flood = play_flood(self._door.port, Random(seed), data_sets=self._data_sets)
            except OSError as exc:
                self.seen.fault(f"no connection ({exc.strerror}), flood {seed}")
                continue
            with self._lock:
                self.seen.associations += 1
                self.seen.by_kind += flood.counted
                self.seen.statuses += flood.statuses
                self.seen.acknowledged |= flood.acknowledged
                for fault in flood.faults:
                    self.seen.fault(f"{fault}, flood {seed}")

    def _converse(self) -> None:
        while not self._over.is_set():
            seed = self._next_seed()
            conversation = draw_conversation(Random(seed))
            tally = Tally()
            try:
                played = play(conversation, self._door.port)
            except OSError as exc:
                self.seen.fault(f"no connection ({exc.strerror}), conversation {seed}")
                continue
            tally.add(conversation, played, seed)
            with self._lock:
                self.seen.associations += 1
                # Where the request or the framing lies, the connection is the message.
                is_alone = conversation.layer != "data set"
                self.seen.by_kind[conversation.layer] += 1 if is_alone else len(played.answers)
                self.seen.statuses += tally.statuses
                self.seen.acknowledged |= tally.acknowledged
                for fault in tally.faults:
                    self.seen.fault(f"{fault} (conversation)")

    def _photograph(self) -> None:
        while not self._over.is_set():
            begun = time.monotonic()
            try:
                uid = serve_camera(self._door.port, self._folder)
            except (GatewayError, OSError) as exc:
                self.seen.fault(f"a camera was not served: {exc}")
            else:
                with self._lock:
                    self.seen.served += 2
                    self.seen.acknowledged.add(uid)
                    self.seen.slowest_s = max(self.seen.slowest_s, time.monotonic() - begun)
            self._over.wait(_CAMERA_PAUSE_S)
