"""What a peer answered to an association request that it did not accept."""

from __future__ import annotations

from pynetdicom.association import Association
from pynetdicom.pdu_primitives import A_ASSOCIATE


def rejection(assoc: Association) -> tuple[int, int, int] | None:
    """Return result, source and reason of a rejection (PS3.8 9.3.4); None where there was none.

    ``assoc.is_rejected`` does not always tell: of a peer that rejects at once, pynetdicom may
    notice that the connection is over before it looks for the answer, and leaves it in its queue.
    """
    answer = assoc.acceptor.primitive or assoc.dul.receive_pdu()
    if not isinstance(answer, A_ASSOCIATE) or not answer.result:
        return None
    return answer.result, answer.result_source or 0, answer.diagnostic or 0
