"""C-ECHO SCU: does the other side answer, and if not, why (PS3.4 A)."""

from __future__ import annotations

from pynetdicom.presentation import build_context

from gateway.delivery.routes import Destination
from gateway.delivery.scu import Proposal, associate
from gateway.errors import AssociationRefused, NoContextAccepted
from gateway.listener.acceptance import VERIFICATION
from gateway.settings import TlsSettings

_TIMEOUT_S = 5.0


def echo(
    destination: Destination,
    *,
    calling_ae_title: str,
    timeout_s: float = _TIMEOUT_S,
    tls: TlsSettings | None = None,
) -> str:
    """Ask for a C-ECHO; return an empty string, or what went wrong in one phrase.

    Notes
    -----
    An application entity that answers the association, and does not know Verification, is there.
    """
    proposal = Proposal(
        calling_ae_title=calling_ae_title,
        contexts=[build_context(VERIFICATION)],
        timeout_s=timeout_s,
    )
    try:
        association = associate(destination, proposal, tls or TlsSettings())
    except NoContextAccepted:
        return ""
    except AssociationRefused as exc:
        return str(exc)
    status = association.send_c_echo()
    if association.is_established:
        association.release()
    return "" if "Status" in status else "does not answer C-ECHO"
