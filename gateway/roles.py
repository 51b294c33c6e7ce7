"""Which role may do what: the one table that the admin page, REST and DICOMweb ask.

A route names a permission and never a role; a role is a row of ``ROLES``. What no role is given,
nobody may do.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

VIEWER, OPERATOR, REVIEWER, ADMIN = "viewer", "operator", "reviewer", "admin"


class Permission(StrEnum):
    """What a route may ask for."""

    OWN = "own"
    """One's own password, session and API tokens."""
    VIEW = "view"
    """Studies, results, queues, models, nodes and storage, without patient attributes."""
    REVEAL = "reveal"
    """Patient attributes of one study for a while; each reveal is audited."""
    OPERATE = "operate"
    """Retry, cancel, hold, release, resend, echo: what keeps studies moving."""
    SEND = "send"
    """Store instances and documents (STOW-RS, REST) and change work items (UPS-RS)."""
    REVIEW = "review"
    """Sign an opinion on a result."""
    EXPORT_REVIEWS = "export reviews"
    """Take all opinions out of the installation."""
    ADMINISTER = "administer"
    """Accounts, rules, models, settings, the audit trail."""


_VIEWER = frozenset({Permission.OWN, Permission.VIEW})
_OPERATOR = _VIEWER | {Permission.REVEAL, Permission.OPERATE, Permission.SEND}

ROLES: Mapping[str, frozenset[Permission]] = MappingProxyType(
    {
        VIEWER: _VIEWER,
        OPERATOR: _OPERATOR,
        # Beside the others: an opinion is signed by who may judge, not by who runs the machine.
        REVIEWER: _VIEWER | {Permission.REVEAL, Permission.REVIEW, Permission.EXPORT_REVIEWS},
        ADMIN: _OPERATOR | {Permission.EXPORT_REVIEWS, Permission.ADMINISTER},
    }
)
"""Role -> what it may do."""

SUMMARIES: Mapping[str, str] = MappingProxyType(
    {
        VIEWER: "sees everything but patient attributes; changes nothing",
        OPERATOR: "keeps studies moving: retry, hold, resend; may reveal patient attributes; "
        "sends by DICOMweb and REST",
        REVIEWER: "sees as a viewer, may reveal patient attributes, signs opinions on results",
        ADMIN: "everything of an operator; accounts, rules, models, audit; signs no opinions",
    }
)
"""Role -> one line for whoever gives it out."""


def may(role: str, permission: Permission) -> bool:
    """Return whether a role has a permission; an unknown role has none.

    Examples
    --------
    >>> may("operator", Permission.OPERATE), may("admin", Permission.REVIEW)
    (True, False)
    """
    return permission in ROLES.get(role, frozenset())


def is_within(role: str, other: str) -> bool:
    """Return whether a role may nothing that the other may not.

    Examples
    --------
    >>> is_within("viewer", "admin"), is_within("reviewer", "admin"), is_within("boss", "admin")
    (True, False, False)
    """
    return role in ROLES and other in ROLES and ROLES[role] <= ROLES[other]
