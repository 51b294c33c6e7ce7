"""Errors of the hospital side: ``GatewayError`` and its kinds.

    GatewayError
    ├── SettingsError        a setting that cannot be used
    │   ├── TlsSettingsError   a certificate, key or CA file that cannot be used
    │   ├── PeerSyntaxError    an entry that should name a peer does not
    │   ├── RuleFileRefused    a file of routing rules cannot be used; says line and reason
    │   └── WeakSetup          the installation would stand open; says what and the cure
    ├── InstanceError        a received instance that cannot be filed; carries its DIMSE status
    │   ├── Unreadable         the bytes are not a data set in the stated transfer syntax
    │   ├── Truncated          the data set ends before its own lengths say so
    │   ├── MissingIdentity    a UID that every instance must have is absent or invalid
    │   ├── DataSetTooLarge    more than this site takes in one instance
    │   ├── StorageNotNegotiated  a C-STORE on a presentation context of another service
    │   ├── SopClassMismatch   command and data set name different SOP classes
    │   └── SopInstanceMismatch  command and data set name different SOP instances
    ├── SpoolError           the spool cannot be read or written
    │   └── SpoolFull          there is no room: refuse, try again later
    │       └── QuotaExceeded    this source has used up its share of the disk
    ├── ListenerError        the DICOM listener cannot start
    ├── ProtocolError        a peer breaks the rules of PS3.8 or PS3.7; carries the abort's reason
    ├── PeerLost             a peer closed its connection or went silent
    ├── SendError            files could not be sent as asked
    │   ├── AssociationRefused   the peer cannot be reached or rejects us
    │   │   └── NoContextAccepted    it answers, and accepts nothing of what we propose
    │   └── AssociationLost      an association ended before its answer came
    ├── MalformedReport      a message of storage commitment that makes no sense
    ├── ResendRefused        there is nothing of a study to send again
    ├── StudyNotFound        no study, or more than one, is known by a name that was given
    ├── DocumentRefused      a document of the site is not let in; carries its HTTP status
    ├── WebRequestRefused    a DICOMweb request cannot be answered; carries its HTTP status
    │   └── MultipartError     the body is no multipart/related message
    ├── SchemaTooNew         the record was made by a later version than this one
    ├── SinkUnavailable      a place for audit messages does not take them
    ├── NoticeUndelivered    a receiver of events does not take one now
    ├── NoticeRefused        a receiver of events will never take one
    ├── SelfTestFailed       a synthetic study did not come back as it should
    ├── RetentionError       a purge or a hold cannot be done as asked
    ├── PasswordRefused      a new password will not do, or the present one is wrong
    ├── AccountRefused       an account, its role or an API token cannot be made or changed so
    ├── LoginRefused         what the OpenID provider says of a login cannot be trusted
    ├── ReviewRefused        an opinion on a result cannot be signed; says why
    ├── ModelRefused         a version of a model cannot be put in service; says why
    ├── BackupError          a backup cannot be made or restored
    ├── WrapError            an image file cannot become a DICOM instance
    └── RecordError          the record of studies and work
        ├── RecordUnavailable  the database does not answer: refuse, try again later
        └── LeaseLost          another worker owns the work item now: stop, write nothing

Messages name settings, states and internal ids, never a patient's attribute.
"""

from typing import ClassVar


class GatewayError(Exception):
    """The hospital side cannot do what was asked."""


class SettingsError(GatewayError):
    """A setting is unknown or cannot be used; the message names it and the remedy."""


class RecordError(GatewayError):
    """The record of studies and work cannot do what was asked."""


class RecordUnavailable(RecordError):
    """The database does not answer; nothing was written."""


class LeaseLost(RecordError):
    """Another worker owns the work item now; nothing was written."""


class TlsSettingsError(SettingsError):
    """A certificate, key or CA file cannot be used; the message names it and says why."""


class PeerSyntaxError(SettingsError):
    """An entry that should name a peer cannot be read; the message names the field at fault."""


class WeakSetup(SettingsError):
    """The installation would stand open to others; the message says where, and the cure."""


class SinkUnavailable(GatewayError):
    """A place for audit messages does not take them now; they stay in the record."""


class NoticeUndelivered(GatewayError):
    """A receiver of events does not take one now; it waits in the record and is sent again."""

    def __init__(
        self, message: str, *, status: int | None = None, retry_after_s: float = 0.0
    ) -> None:
        super().__init__(message)
        self.status = status
        """HTTP or SMTP status of the receiver, if it gave one."""
        self.retry_after_s = retry_after_s
        """Pause that the receiver asks for."""


class NoticeRefused(GatewayError):
    """A receiver of events will never take one: another try would change nothing."""

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        """HTTP or SMTP status of the receiver, if it gave one."""


class SelfTestFailed(GatewayError):
    """A synthetic study did not come back as it should; the message says at which stage."""


class DriftRefused(GatewayError):
    """A reference of drift cannot be taken as asked; the message says why."""


class HostIncomplete(GatewayError):
    """A command needs what this installation lacks; the message says what to install."""


class RetentionError(GatewayError):
    """A purge or a hold cannot be done as asked; the message says why."""


class InstanceError(GatewayError):
    """A received instance cannot be filed.

    Attributes
    ----------
    status
        DIMSE status that answers its C-STORE (PS3.4 Table B.2-1).
    """

    status: ClassVar[int] = 0xC000


class Unreadable(InstanceError):
    """The bytes are not a data set in the stated transfer syntax."""

    status: ClassVar[int] = 0xC000


class Truncated(InstanceError):
    """The data set ends before its own lengths say so."""

    status: ClassVar[int] = 0xC001


class MissingIdentity(InstanceError):
    """A UID that every instance must have is absent or invalid."""

    status: ClassVar[int] = 0xC002


class DataSetTooLarge(InstanceError):
    """A data set is longer than this site takes; sending it again will not help."""

    status: ClassVar[int] = 0xC004


class StorageNotNegotiated(InstanceError):
    """A C-STORE came on a presentation context of another service (PS3.7 C.5.6)."""

    status: ClassVar[int] = 0x0122


class SopClassMismatch(InstanceError):
    """The command and the data set name different SOP classes."""

    status: ClassVar[int] = 0xA900


class SopInstanceMismatch(InstanceError):
    """The command and the data set name different SOP instances."""

    status: ClassVar[int] = 0xC003


class SpoolError(GatewayError):
    """The spool cannot be read or written."""

    status: ClassVar[int] = 0xA700


class SpoolFull(SpoolError):
    """There is no room in the spool: refuse now, try again later."""


class QuotaExceeded(SpoolFull):
    """A source has used up its share of the disk; others are still served."""


class ListenerError(GatewayError):
    """The DICOM listener cannot start; the message names the address and the remedy."""


class ProtocolError(GatewayError):
    """A peer breaks the rules of the upper layer or of DIMSE; its association is aborted."""

    def __init__(self, message: str, reason: int = 0) -> None:
        super().__init__(message)
        self.reason = reason
        """Of the A-ABORT that answers it (PS3.8 Table 9-26)."""


class PeerLost(GatewayError):
    """A peer closed its connection, went silent, or sends too slowly; the message says which."""


class SendError(GatewayError):
    """Files could not be sent as asked."""


class AssociationRefused(SendError):
    """The peer cannot be reached, or rejects the association; the message says why."""


class NoContextAccepted(AssociationRefused):
    """The peer answered the association and accepts none of its presentation contexts."""


class AssociationLost(SendError):
    """The association ended before an answer came; what became of the instance is unknown."""


class MalformedReport(GatewayError):
    """A message of storage commitment makes no sense; it says what is missing, never a value."""


class ResendRefused(GatewayError):
    """The results of a study cannot be sent again; the message says why."""


class OrderRefused(GatewayError):
    """An order about studies cannot be carried out as given; the message says why."""


class WrapError(GatewayError):
    """An image file cannot become a DICOM instance; the message names the file and the reason."""


class SchemaTooNew(GatewayError):
    """The record was made by a later version; the message says its schema and what to do."""


class BackupError(GatewayError):
    """A backup cannot be made or restored; the message says why and what to do."""


class PasswordRefused(GatewayError):
    """A password cannot be changed; the message says why, for the person at the admin page."""


class AccountRefused(GatewayError):
    """An account, its role or an API token cannot be made or changed so; the message says why."""


class LoginRefused(GatewayError):
    """What the OpenID provider says of a login cannot be trusted; the message says why."""


class ReviewRefused(GatewayError):
    """An opinion on a result cannot be signed; the message says why."""


class ModelRefused(GatewayError):
    """A version of a model cannot be put in service or taken back; the message says why."""


class DocumentRefused(GatewayError):
    """A document of the site is not let in; the message says why, never with a value of it."""

    def __init__(self, message: str, status_code: int = 422) -> None:
        super().__init__(message)
        self.status_code = status_code
        """HTTP status that answers it."""


class WebRequestRefused(GatewayError):
    """A DICOMweb request cannot be answered; the message says why, with no value of it."""

    def __init__(self, message: str, status_code: int = 400) -> None:
        super().__init__(message)
        self.status_code = status_code
        """HTTP status that answers it (PS3.18 8.5)."""


class MultipartError(WebRequestRefused):
    """The body is no multipart/related message (RFC 2046 5.1)."""


class RuleFileRefused(SettingsError):
    """A file of routing rules cannot be used; the message says where and why."""

    def __init__(
        self, reason: str, *, name: str = "", line: int = 0, column: int = 0, rule: str = ""
    ) -> None:
        place = ", ".join(
            f"{what} {number}" for what, number in (("line", line), ("column", column)) if number
        )
        where = ": ".join(filter(None, (name, place, f"rule {rule!r}" if rule else "")))
        super().__init__(f"{where}: {reason}" if where else reason)
        self.reason = reason
        self.line = line
        """1-based; 0 where it is not known."""
        self.column = column
        """1-based; 0 where it is not known."""


class StudyNotFound(GatewayError):
    """No study, or more than one, is known by what was given; the message says how to name one."""
