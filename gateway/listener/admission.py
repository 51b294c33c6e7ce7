"""Who may associate, and how many at a time (PS3.8 Table 9-21: how the others are told)."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Sequence

from gateway.listener import acceptance
from gateway.listener.acceptance import Peer
from gateway.listener.negotiation import AssociationRequest
from gateway.listener.ports import AssociationInfo

Rejection = tuple[int, int, int]
"""Result, source and reason of an A-ASSOCIATE-RJ."""

REJECT_APPLICATION_CONTEXT = (0x01, 0x01, 0x02)
REJECT_CALLING = (0x01, 0x01, 0x03)  # permanent, calling AE title not recognised
REJECT_CALLED = (0x01, 0x01, 0x07)  # permanent, called AE title not recognised
REJECT_VERSION = (0x01, 0x02, 0x02)  # permanent, ACSE: protocol version not supported
REJECT_TOO_MANY = (0x02, 0x03, 0x02)  # transient, presentation: local limit exceeded


class Slots:
    """Bounds how many connections are open at a time, in all and from one address."""

    def __init__(self, total: int, per_peer: int = 0) -> None:
        self._total = total
        self._per_peer = per_peer
        self._taken: Counter[str] = Counter()
        self._lock = threading.Lock()

    def take(self, peer_address: str) -> bool:
        """Take a slot; return whether there was one."""
        with self._lock:
            if self._taken.total() >= self._total:
                return False
            if self._per_peer and self._taken[peer_address] >= self._per_peer:
                return False
            self._taken[peer_address] += 1
            return True

    def give_back(self, peer_address: str) -> None:
        """Give a slot back."""
        with self._lock:
            self._taken[peer_address] -= 1
            if not self._taken[peer_address]:
                del self._taken[peer_address]


class Admission:
    """Keeps the door: policy first, then the number of places.

    Parameters
    ----------
    peers
        The allow-list.
    ae_titles
        Our AE titles.
    require_called_ae_title
        Whether a requestor must call one of them.
    max_associations
        Places in all.
    max_associations_per_peer
        Places of one source address; 0 for no limit of its own.
    """

    def __init__(
        self,
        *,
        peers: Sequence[Peer],
        ae_titles: Sequence[str],
        require_called_ae_title: bool,
        max_associations: int,
        max_associations_per_peer: int = 0,
    ) -> None:
        self._peers = tuple(peers)
        self._ae_titles = frozenset(title.strip() for title in ae_titles)
        self._require_called_ae_title = require_called_ae_title
        self._slots = Slots(max_associations, max_associations_per_peer)

    def enter(self, request: AssociationRequest, info: AssociationInfo) -> Rejection | None:
        """Take a place for a requestor; return why it gets none."""
        rejection = self._refused_by_policy(request, info)
        if rejection is not None:
            return rejection
        return None if self._slots.take(info.peer_address) else REJECT_TOO_MANY

    def leave(self, peer_address: str) -> None:
        """Give a place back."""
        self._slots.give_back(peer_address)

    def _refused_by_policy(
        self, request: AssociationRequest, info: AssociationInfo
    ) -> Rejection | None:
        if not request.is_version_supported:
            return REJECT_VERSION
        if not request.is_application_context_supported:
            return REJECT_APPLICATION_CONTEXT
        if not acceptance.is_allowed(
            info.calling_ae_title, info.peer_address, self._peers, resolve_host
        ):
            return REJECT_CALLING
        if self._require_called_ae_title and info.called_ae_title not in self._ae_titles:
            return REJECT_CALLED
        return None


def resolve_host(host_name: str) -> set[str]:
    """Return the addresses of a host name now; none when it cannot be resolved."""
    try:
        found = socket.getaddrinfo(host_name, None, type=socket.SOCK_STREAM)
    except OSError:
        return set()
    return {str(entry[4][0]) for entry in found}
