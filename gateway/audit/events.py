"""What the trail's actions are in DICOM's words: event, type, kind of action, outcome (PS3.15 A.5).

Pure tables. An action that stands in none of them is reported as a security alert about the
configuration, so that nothing is left out for want of a word.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

DCM = "DCM"
RFC_3881 = "RFC-3881"


@dataclass(frozen=True)
class Code:
    """A coded value as the audit schema writes it."""

    value: str
    meaning: str
    scheme: str = DCM


# PS3.16 CID 400, Audit Event ID
APPLICATION_ACTIVITY = Code("110100", "Application Activity")
AUDIT_LOG_USED = Code("110101", "Audit Log Used")
BEGIN_TRANSFERRING = Code("110102", "Begin Transferring DICOM Instances")
INSTANCES_ACCESSED = Code("110103", "DICOM Instances Accessed")
INSTANCES_TRANSFERRED = Code("110104", "DICOM Instances Transferred")
STUDY_DELETED = Code("110105", "DICOM Study Deleted")
EXPORT = Code("110106", "Export")
IMPORT = Code("110107", "Import")
NETWORK_ENTRY = Code("110108", "Network Entry")
PATIENT_RECORD = Code("110110", "Patient Record")
PROCEDURE_RECORD = Code("110111", "Procedure Record")
QUERY = Code("110112", "Query")
SECURITY_ALERT = Code("110113", "Security Alert")
USER_AUTHENTICATION = Code("110114", "User Authentication")

# PS3.16 CID 401, Audit Event Type Code
APPLICATION_START = Code("110120", "Application Start")
APPLICATION_STOP = Code("110121", "Application Stop")
LOGIN = Code("110122", "Login")
LOGOUT = Code("110123", "Logout")
ATTACH = Code("110124", "Attach")
DETACH = Code("110125", "Detach")
NODE_AUTHENTICATION = Code("110126", "Node Authentication")
SECURITY_CONFIGURATION = Code("110129", "Security Configuration")
SOFTWARE_CONFIGURATION = Code("110131", "Software Configuration")
USE_OF_RESTRICTED_FUNCTION = Code("110132", "Use of Restricted Function")
OBJECT_ATTRIBUTES_CHANGED = Code("110135", "Object Security Attributes Changed")
USER_ATTRIBUTES_CHANGED = Code("110137", "User Security Attributes Changed")

# PS3.16 CID 402, Audit Active Participant Role ID Code
APPLICATION = Code("110150", "Application")
DESTINATION_ROLE = Code("110152", "Destination Role ID")
SOURCE_ROLE = Code("110153", "Source Role ID")
DESTINATION_MEDIA = Code("110154", "Destination Media")
SOURCE_MEDIA = Code("110155", "Source Media")

# PS3.16 CID 404 and RFC 3881 5.5.4, what a participant object's identifier is
STUDY_INSTANCE_UID = Code("110180", "Study Instance UID")
SOP_CLASS_UID = Code("110181", "SOP Class UID")
NODE_ID = Code("110182", "Node ID")
PATIENT_NUMBER = Code("2", "Patient Number", RFC_3881)
URI = Code("12", "URI", RFC_3881)

# PS3.15 A.5.1.1, EventOutcomeIndicator
SUCCESS, MINOR_FAILURE, SERIOUS_FAILURE, MAJOR_FAILURE = "0", "4", "8", "12"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """How one action of the trail is reported."""

    event: Code
    action_code: str
    """C create, R read, U update, D delete, E execute."""
    type: Code | None = None
    outcome: str = SUCCESS


def _alert(kind: Code, outcome: str = MINOR_FAILURE) -> Kind:
    return Kind(event=SECURITY_ALERT, action_code="E", type=kind, outcome=outcome)


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "service.started": Kind(
            event=APPLICATION_ACTIVITY, action_code="E", type=APPLICATION_START
        ),
        "service.stopped": Kind(event=APPLICATION_ACTIVITY, action_code="E", type=APPLICATION_STOP),
        "network.attached": Kind(event=NETWORK_ENTRY, action_code="E", type=ATTACH),
        "network.detached": Kind(event=NETWORK_ENTRY, action_code="E", type=DETACH),
        "login": Kind(event=USER_AUTHENTICATION, action_code="E", type=LOGIN),
        "login.failed": Kind(
            event=USER_AUTHENTICATION, action_code="E", type=LOGIN, outcome=MINOR_FAILURE
        ),
        "logout": Kind(event=USER_AUTHENTICATION, action_code="E", type=LOGOUT),
        "account.created": _alert(USER_ATTRIBUTES_CHANGED, SUCCESS),
        "account.locked": _alert(USER_ATTRIBUTES_CHANGED),
        "password.changed": _alert(USER_ATTRIBUTES_CHANGED, SUCCESS),
        "password.change_refused": _alert(USER_ATTRIBUTES_CHANGED),
        "password.reset": _alert(USER_ATTRIBUTES_CHANGED, SUCCESS),
        "account.role_changed": _alert(USER_ATTRIBUTES_CHANGED, SUCCESS),
        "account.disabled": _alert(USER_ATTRIBUTES_CHANGED, SUCCESS),
        "account.enabled": _alert(USER_ATTRIBUTES_CHANGED, SUCCESS),
        "token.issued": _alert(USER_ATTRIBUTES_CHANGED, SUCCESS),
        "token.revoked": _alert(USER_ATTRIBUTES_CHANGED, SUCCESS),
        "model.promoted": _alert(SOFTWARE_CONFIGURATION, SUCCESS),
        "model.rolled_back": _alert(SOFTWARE_CONFIGURATION, SUCCESS),
        "drift.reference_set": _alert(SOFTWARE_CONFIGURATION, SUCCESS),
        "identity.revealed": Kind(event=PATIENT_RECORD, action_code="R"),
        "review.signed": Kind(event=PROCEDURE_RECORD, action_code="U"),
        "reviews.exported": Kind(event=EXPORT, action_code="R"),
        "record.backed_up": Kind(event=EXPORT, action_code="R"),
        "association.rejected": _alert(NODE_AUTHENTICATION),
        "instances.refused": _alert(USE_OF_RESTRICTED_FUNCTION),
        "instances.conflict": _alert(OBJECT_ATTRIBUTES_CHANGED),
        "quota.exceeded": _alert(USE_OF_RESTRICTED_FUNCTION),
        "audit.tampered": _alert(OBJECT_ATTRIBUTES_CHANGED, SERIOUS_FAILURE),
        "rules.loaded": _alert(SOFTWARE_CONFIGURATION, SUCCESS),
        "rules.published": _alert(SOFTWARE_CONFIGURATION, SUCCESS),
        "rules.refused": _alert(SOFTWARE_CONFIGURATION),
        "failure.looked_after": Kind(event=PROCEDURE_RECORD, action_code="U"),
        "instance.released": _alert(OBJECT_ATTRIBUTES_CHANGED, SUCCESS),
        "study.searched_by_identity": _alert(USE_OF_RESTRICTED_FUNCTION, SUCCESS),
        "study.held": Kind(event=PROCEDURE_RECORD, action_code="U"),
        "study.released": Kind(event=PROCEDURE_RECORD, action_code="U"),
        "study.complete_now": Kind(event=PROCEDURE_RECORD, action_code="U"),
        "study.made_urgent": Kind(event=PROCEDURE_RECORD, action_code="U"),
        "study.retried": Kind(event=PROCEDURE_RECORD, action_code="U"),
        "study.canceled": Kind(event=PROCEDURE_RECORD, action_code="U"),
        "study.resent": Kind(event=PROCEDURE_RECORD, action_code="U"),
        "hold.placed": _alert(OBJECT_ATTRIBUTES_CHANGED, SUCCESS),
        "hold.released": _alert(OBJECT_ATTRIBUTES_CHANGED, SUCCESS),
        "audit.exported": Kind(event=AUDIT_LOG_USED, action_code="R"),
        "audit.verified": Kind(event=AUDIT_LOG_USED, action_code="R"),
        "instances.begun": Kind(event=BEGIN_TRANSFERRING, action_code="E"),
        "instances.transferred": Kind(event=INSTANCES_TRANSFERRED, action_code="C"),
        "instances.accessed": Kind(event=INSTANCES_ACCESSED, action_code="R"),
        "results.begun": Kind(event=BEGIN_TRANSFERRING, action_code="E"),
        "results.transferred": Kind(event=INSTANCES_TRANSFERRED, action_code="R"),
        "results.undelivered": Kind(
            event=INSTANCES_TRANSFERRED, action_code="R", outcome=SERIOUS_FAILURE
        ),
        "procedure.scheduled": Kind(event=PROCEDURE_RECORD, action_code="C"),
        "procedure.failed": Kind(event=PROCEDURE_RECORD, action_code="U", outcome=SERIOUS_FAILURE),
        "document.received": Kind(event=IMPORT, action_code="C"),
        "work_item.cancel_requested": Kind(event=PROCEDURE_RECORD, action_code="U"),
        "work_item.retrieved": Kind(event=PROCEDURE_RECORD, action_code="R"),
        # C-ECHO says nothing of a patient; the standard has no event of its own for it.
        "node.echoed": _alert(NODE_AUTHENTICATION, SUCCESS),
        "self_test.begun": Kind(event=PROCEDURE_RECORD, action_code="C"),
        "query.sent": Kind(event=QUERY, action_code="E"),
        "query.received": Kind(event=QUERY, action_code="E"),
        "instances.purged": Kind(event=STUDY_DELETED, action_code="D"),
    }
)
"""Action of the trail -> how it is reported."""

_UNKNOWN = _alert(SECURITY_CONFIGURATION, SUCCESS)


def kind_of(action: str) -> Kind:
    """Return how an action is reported.

    Examples
    --------
    >>> kind_of("login").event.meaning, kind_of("rules.changed").event.meaning
    ('User Authentication', 'Security Alert')
    """
    return KINDS.get(action, _UNKNOWN)
