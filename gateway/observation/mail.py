"""E-mail for alarms: plain text, ids of the record only."""

from __future__ import annotations

import smtplib
import ssl
from email.message import EmailMessage
from email.utils import format_datetime

from gateway.errors import NoticeRefused, NoticeUndelivered
from gateway.observation.http_post import client_tls
from gateway.observation.outbox import Channel, Letter
from gateway.observation.settings import MailSettings

_REMARK = (
    "This mail holds numbers of Lentigo's record, no data of patients. "
    "What to do: docs/observing.md, and `lentigo doctor`."
)


def mail_channels(settings: MailSettings) -> dict[str, Channel]:
    """Return the channel of e-mail, if it is on.

    Raises
    ------
    SettingsError
        The CA file cannot be used.
    """
    if not settings.is_on:
        return {}
    tls = client_tls(settings.ca) if settings.security != "none" else None

    def send(letter: Letter) -> int:
        try:
            with _connect(settings, tls) as server:
                if settings.security == "starttls":
                    assert tls is not None
                    server.starttls(context=tls)
                if settings.username:
                    password = settings.password.get_secret_value() if settings.password else ""
                    server.login(settings.username, password)
                server.send_message(_message(letter, settings))
        except (smtplib.SMTPRecipientsRefused, smtplib.SMTPSenderRefused) as exc:
            raise _refusal(exc) from exc
        except smtplib.SMTPResponseException as exc:
            said = f"the mail server answered {exc.smtp_code}"
            raise NoticeUndelivered(said, status=exc.smtp_code) from exc
        except (smtplib.SMTPException, OSError) as exc:
            raise NoticeUndelivered(
                f"the mail server does not answer ({type(exc).__name__})"
            ) from exc
        return 250

    return {"mail": send}


def _connect(settings: MailSettings, tls: ssl.SSLContext | None) -> smtplib.SMTP:
    host, _, port = settings.server.rpartition(":")
    if settings.security == "tls":
        return smtplib.SMTP_SSL(host, int(port), timeout=settings.timeout_s, context=tls)
    return smtplib.SMTP(host, int(port), timeout=settings.timeout_s)


def _refusal(
    exc: smtplib.SMTPRecipientsRefused | smtplib.SMTPSenderRefused,
) -> NoticeRefused | NoticeUndelivered:
    """Return what a refused address means: 5xx for good, else greylisting or a full mailbox."""
    if isinstance(exc, smtplib.SMTPSenderRefused):
        codes = [exc.smtp_code]
    else:
        codes = [code for code, _ in exc.recipients.values()]
    if all(code >= 500 for code in codes):
        return NoticeRefused("the mail server refuses an address", status=codes[0])
    return NoticeUndelivered("the mail server defers the mail", status=codes[0])


def _message(letter: Letter, settings: MailSettings) -> EmailMessage:
    said = str(letter.payload.get("says", letter.kind))
    message = EmailMessage()
    message["From"] = settings.sender
    message["To"] = ", ".join(settings.recipient_addresses)
    message["Subject"] = f"Lentigo: {said}"[:200]
    message["Date"] = format_datetime(letter.created_at)
    # The same on every attempt: a mailbox can tell a copy.
    message["Message-ID"] = f"<notice-{letter.id}.{letter.created_at.timestamp():.0f}@lentigo>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834
    lines = [
        f"{name.replace('_', ' ')}: {value}"
        for name, value in letter.payload.items()
        if isinstance(value, str | int | float)
    ]
    message.set_content("\n".join([said, "", *lines, "", _REMARK, ""]))
    return message
