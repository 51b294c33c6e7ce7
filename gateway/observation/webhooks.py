"""Webhooks: a signed JSON body for each event.

The signature is HMAC-SHA256 over ``TIMESTAMP.BODY`` with the site's secret, as Stripe and Slack do
it: the receiver compares it in constant time, refuses timestamps older than five minutes, and
remembers the delivery ids of that span, so that a copied message cannot be played again.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable

from gateway.errors import SettingsError
from gateway.observation.http_post import Poster, check_address, client_tls
from gateway.observation.notices import webhook_target
from gateway.observation.outbox import Channel, Letter
from gateway.observation.settings import EventSettings
from gateway.store.engine import Clock, utc_now

SIGNATURE, TIMESTAMP = "X-Lentigo-Signature", "X-Lentigo-Timestamp"
DELIVERY, EVENT = "X-Lentigo-Delivery", "X-Lentigo-Event"
_SHORTEST_SECRET = 16


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """Return the signature of a body, as the receiver has to compute it.

    Examples
    --------
    >>> signature("secret", "1760000000", b"{}")[:14]
    'sha256=53dc054'
    """
    message = timestamp.encode("ascii") + b"." + body
    return "sha256=" + hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()


def webhook_channels(settings: EventSettings, clock: Clock = utc_now) -> dict[str, Channel]:
    """Return target -> channel of every webhook.

    Raises
    ------
    SettingsError
        An address cannot be used, its host is not allowed, or the secret is missing or short.
    """
    if not settings.addresses:
        return {}
    secret = settings.secret.get_secret_value() if settings.secret else ""
    if len(secret) < _SHORTEST_SECRET:
        raise SettingsError(
            f"LENTIGO_EVENTS_SECRET: webhooks are signed with it; give {_SHORTEST_SECRET} "
            "characters or more"
        )
    tls = client_tls(settings.ca)
    channels: dict[str, Channel] = {}
    for address in settings.addresses:
        parts = check_address(address, "LENTIGO_EVENTS_WEBHOOKS")
        if (parts.hostname or "").lower() not in settings.allowed_hosts:
            raise SettingsError(
                f"LENTIGO_EVENTS_WEBHOOKS: the host {parts.hostname} is not in LENTIGO_EVENTS_HOSTS"
            )
        poster = Poster(
            address=address,
            setting="LENTIGO_EVENTS_WEBHOOKS",
            allowed_hosts=settings.allowed_hosts,
            timeout_s=settings.timeout_s,
            tls=tls,
        )
        channels[webhook_target(address)] = _channel(poster, secret, clock)
    return channels


def _channel(post: Callable[..., int], secret: str, clock: Clock) -> Channel:
    def send(letter: Letter) -> int:
        body = json.dumps(
            {"delivery": letter.id, **letter.payload}, separators=(",", ":"), sort_keys=True
        ).encode()
        # Of this attempt: a receiver refuses old ones.
        timestamp = str(int(clock().timestamp()))
        return post(
            body,
            {
                "Content-Type": "application/json",
                "User-Agent": "Lentigo",
                EVENT: letter.kind,
                DELIVERY: str(letter.id),
                TIMESTAMP: timestamp,
                SIGNATURE: signature(secret, timestamp, body),
            },
        )

    return send
