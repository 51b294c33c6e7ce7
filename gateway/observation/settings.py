"""Settings of what is told outside; all is off or on loopback unless a site says otherwise."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import SettingsConfigDict

from gateway.secret_files import SecretSettings


def _config(prefix: str) -> SettingsConfigDict:
    return SettingsConfigDict(
        env_prefix=f"LENTIGO_{prefix}_",
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
    )


def _entries(text: str) -> tuple[str, ...]:
    return tuple(entry.strip() for entry in text.split(",") if entry.strip())


class MetricsSettings(SecretSettings):
    """Prometheus metrics under ``/metrics`` of the admin page's port."""

    model_config = _config("METRICS")

    enabled: bool = True
    """Whether ``/metrics`` is there at all."""
    token: SecretStr | None = None
    """Bearer token that a scrape must show; without one only loopback is answered."""


class EventSettings(SecretSettings):
    """Webhooks: events of the record, posted to other systems."""

    model_config = _config("EVENTS")

    webhooks: str = Field(default="", repr=False)
    """Comma-separated ``https://`` addresses that events are posted to (``http://`` on loopback
    only)."""
    secret: SecretStr | None = None
    """Signs every post (HMAC-SHA256); needed with ``webhooks``."""
    hosts: str = ""
    """Comma-separated hosts that may be posted to; empty: those of ``webhooks``. An address on a
    link-local or multicast network is never posted to."""
    kinds: str = ""
    """Comma-separated kinds of events that are posted, ``study.*`` for all of a topic; empty: all
    (``docs/observing.md``)."""
    ca: Path | None = None
    """CA certificates, PEM, of the receivers; the system's when absent."""
    timeout_s: float = Field(default=10.0, gt=0)
    """Longest wait for a receiver."""
    max_backoff_s: float = Field(default=600.0, gt=0)
    """Longest pause between two attempts."""
    give_up_after_h: float = Field(default=72.0, gt=0)
    """Hours after which an event that no receiver takes is given up, with an alarm."""
    keep_days: float = Field(default=30.0, gt=0)
    """How long delivered events are kept."""
    silence_factor: float = Field(default=4.0, ge=1)
    """A source is silent when it pauses this many times longer than nearly all pauses before."""
    silence_at_least_h: float = Field(default=4.0, gt=0)
    """No pause shorter than this is called silence."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses of ``webhooks``."""
        return _entries(self.webhooks)

    @property
    def allowed_hosts(self) -> frozenset[str]:
        """Hosts that may be posted to, in lower case."""
        named = _entries(self.hosts) or tuple(
            urlsplit(each).hostname or "" for each in self.addresses
        )
        return frozenset(host.lower() for host in named if host)

    def wants(self, kind: str) -> bool:
        """Whether events of a kind are posted.

        Examples
        --------
        >>> EventSettings(kinds="study.*").wants("study.failed")
        True
        >>> EventSettings(kinds="study.*").wants("source.silent")
        False
        """
        named = _entries(self.kinds)
        return not named or any(
            kind == each or (each.endswith(".*") and kind.startswith(each[:-1])) for each in named
        )


class MailSettings(SecretSettings):
    """E-mail for alarms."""

    model_config = _config("MAIL")

    server: str = ""
    """``HOST:PORT`` of the SMTP server; empty: no e-mail."""
    sender: str = ""
    """Address that alarms come from."""
    recipients: str = ""
    """Comma-separated addresses that alarms go to."""
    security: str = Field(default="starttls", pattern="^(starttls|tls|none)$")
    """``none`` for a relay on loopback or a closed network."""
    username: str = ""
    """For authentication; empty: none."""
    password: SecretStr | None = None
    """For authentication."""
    ca: Path | None = None
    """CA certificates, PEM, of the server; the system's when absent."""
    timeout_s: float = Field(default=20.0, gt=0)
    """Longest wait for the server."""

    @field_validator("server")
    @classmethod
    def _host_and_port(cls, value: str) -> str:
        host, _, port = value.rpartition(":")
        if value and not (host and port.isdigit() and 0 < int(port) < 65536):
            raise ValueError("give HOST:PORT")
        return value

    @property
    def recipient_addresses(self) -> tuple[str, ...]:
        """The addresses of ``recipients``."""
        return _entries(self.recipients)

    @property
    def is_on(self) -> bool:
        """Whether alarms are mailed."""
        return bool(self.server and self.sender and self.recipient_addresses)


class FhirSettings(SecretSettings):
    """FHIR R4: a DiagnosticReport for each completed study."""

    model_config = _config("FHIR")

    url: str = Field(default="", repr=False)
    """Base of a FHIR R4 server, ``https://`` (``http://`` on loopback only); empty: none."""
    token: SecretStr | None = None
    """Bearer token."""
    ca: Path | None = None
    """CA certificates, PEM, of the server; the system's when absent."""
    includes_patient: bool = True
    """Whether reports name the patient by Patient ID and the order by Accession Number, which the
    server needs to file them; without it they name the study alone."""
    timeout_s: float = Field(default=20.0, gt=0)
    """Longest wait for the server."""


class DriftSettings(SecretSettings):
    """When the answers of a model for a source have moved away from how they began."""

    model_config = _config("DRIFT")

    enabled: bool = True
    """Whether answers are compared at all."""
    reference_count: int = Field(default=200, ge=50)
    """First answers of a model for a source, which make its reference."""
    window_count: int = Field(default=100, ge=50)
    """Newest answers that are compared with it."""
    psi_alarm: float = Field(default=0.25, gt=0)
    """Population stability index from which on a shift counts as drift (``docs/observing.md``)."""
    ks_p_value: float = Field(default=0.001, gt=0, lt=1)
    """The two-sample Kolmogorov-Smirnov test must call the shift this unlikely, too."""


class TracingSettings(SecretSettings):
    """OpenTelemetry traces; off without an endpoint."""

    model_config = _config("TRACING")

    endpoint: str = ""
    """OTLP/HTTP traces endpoint, e.g. ``http://127.0.0.1:4318/v1/traces``; empty: no traces."""
    token: SecretStr | None = None
    """Bearer token for the endpoint."""
    timeout_s: float = Field(default=5.0, gt=0)
    """Longest wait for the endpoint; spans are dropped when it stays away, studies never wait."""


OBSERVATION_SETTINGS = (
    MetricsSettings,
    EventSettings,
    MailSettings,
    FhirSettings,
    DriftSettings,
    TracingSettings,
)
