"""What a peer answered to an association request that it did not accept."""

from __future__ import annotations

from pynetdicom.association import Association
from pynetdicom.pdu_primitives import A_ASSOCIATE

from gateway.delivery.scu import answer_of


def rejection(assoc: Association) -> tuple[int, int, int] | None:
    """Return result, source and reason of a rejection (PS3.8 9.3.4); None where there was none.

    ``assoc.is_rejected`` does not always tell, see ``answer_of``.
    """
    answer = answer_of(assoc)
    if not isinstance(answer, A_ASSOCIATE) or not answer.result:
        return None
    return answer.result, answer.result_source or 0, answer.diagnostic or 0
