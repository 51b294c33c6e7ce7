"""Builds the outbox from settings: every channel that the site has switched on."""

from __future__ import annotations

from sqlalchemy import Engine

from gateway.observation.fhir import fhir_channels
from gateway.observation.http_post import check_address, client_tls
from gateway.observation.mail import mail_channels
from gateway.observation.outbox import Outbox, Patience
from gateway.observation.settings import EventSettings, FhirSettings, MailSettings
from gateway.observation.webhooks import webhook_channels


def open_outbox(
    engine: Engine,
    events: EventSettings | None = None,
    mail: MailSettings | None = None,
    fhir: FhirSettings | None = None,
) -> Outbox:
    """Return the outbox of this installation.

    Raises
    ------
    SettingsError
        A receiver cannot be used as it is set; the message names the setting.
    """
    events = events or EventSettings()
    return Outbox(
        engine,
        {
            **webhook_channels(events),
            **mail_channels(mail or MailSettings()),
            **fhir_channels(fhir or FhirSettings(), engine),
        },
        Patience(
            max_backoff_s=events.max_backoff_s,
            give_up_after_h=events.give_up_after_h,
            keep_days=events.keep_days,
        ),
    )


def check_receivers() -> None:
    """Refuse receivers that cannot be used, before anything is started.

    Raises
    ------
    SettingsError
        As ``open_outbox``.
    """
    webhook_channels(EventSettings())
    mail_channels(MailSettings())
    fhir = FhirSettings()
    if fhir.url:
        check_address(fhir.url, "LENTIGO_FHIR_URL")
        client_tls(fhir.ca)
