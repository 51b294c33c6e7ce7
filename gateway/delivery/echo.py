"""C-ECHO SCU: does the other side answer, and if not, why (PS3.4 A)."""

from __future__ import annotations

from pynetdicom import AE

from gateway.delivery.sender import Destination
from gateway.listener.acceptance import VERIFICATION

_TIMEOUT_S = 5.0


def echo(destination: Destination, *, calling_ae_title: str) -> str:
    """Ask for a C-ECHO; return an empty string, or what went wrong in one phrase."""
    ae = AE(ae_title=calling_ae_title)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = _TIMEOUT_S
    ae.add_requested_context(VERIFICATION)
    association = ae.associate(destination.host, destination.port, ae_title=destination.ae_title)
    if association.is_rejected:
        return "rejects the association: does it know our AE title and host?"
    if not association.is_established:
        return "does not answer"
    status = association.send_c_echo()
    association.release()
    return "" if status and status.Status == 0x0000 else "does not answer C-ECHO"
