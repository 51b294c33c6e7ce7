"""Settings of the gateway, one frozen class for each concern, read from ``LENTIGO_*`` variables.

They are built once, at the start of a process, and passed on; nothing reads the environment later.
``reject_unknown_environment`` catches a misspelt variable, which pydantic-settings would ignore.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy import URL

from gateway.audit.settings import AuditSettings
from gateway.dashboard.identity.settings import AccountSettings, OpenidSettings
from gateway.dashboard.model_settings import ModelSettings
from gateway.delivery.stow_settings import StowSettings
from gateway.dicomweb.settings import DicomwebSettings
from gateway.errors import SettingsError
from gateway.hardening.settings import SecuritySettings
from gateway.observation.settings import OBSERVATION_SETTINGS
from gateway.secret_files import SecretSettings, file_variables

PREFIX = "LENTIGO_"

# Read by workers and by the command, not by a class in this module.
_READ_ELSEWHERE = ("LENTIGO_TRITON_", "LENTIGO_WORKER_", "LENTIGO_SUPERVISED", "LENTIGO_TEST_")


def _config(prefix: str) -> SettingsConfigDict:
    return SettingsConfigDict(
        env_prefix=prefix,
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
    )


def default_home() -> Path:
    """Return the folder used when neither ``--home`` nor ``LENTIGO_HOME`` is given."""
    base = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(base) / "lentigo"


class StoreSettings(SecretSettings):
    """Where the record and the files live."""

    model_config = _config(PREFIX)

    home: Path = Field(default_factory=default_home)
    """Folder of everything Lentigo keeps."""
    database_url: str = Field(default="", repr=False)
    """SQLAlchemy URL of the record; empty for SQLite in the home folder."""

    cache_folder: Path | None = None
    """Folder on this host for what may be lost: embeddings, marks of life; the home without one.
    Name one where the home is shared over a network: two hosts must not write one SQLite."""

    @field_validator("home")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().resolve()

    @property
    def record_url(self) -> str:
        """The SQLAlchemy URL in use."""
        # Built, not formatted: a home folder may hold a question mark or a percent sign.
        file_url = URL.create("sqlite", database=str(self.home / "record.sqlite3"))
        return self.database_url or file_url.render_as_string()

    @property
    def spool_folder(self) -> Path:
        """Received instances."""
        return self.home / "spool"

    @property
    def results_folder(self) -> Path:
        """Result objects, one folder for each study."""
        return self.home / "results"

    @property
    def features_file(self) -> Path:
        """Embeddings that were computed on this host; may be deleted at any time."""
        return (self.cache_folder or self.home) / "features.sqlite3"

    @property
    def run_folder(self) -> Path:
        """Process ids and sockets of the running services."""
        return self.home / "run"

    @property
    def mark_folder(self) -> Path:
        """Where each service of this host leaves its mark, for ``lentigo health``."""
        return self.cache_folder or self.run_folder

    @property
    def log_folder(self) -> Path:
        """Logs of the services."""
        return self.home / "logs"


class ListenerSettings(BaseSettings):
    """The DICOM listener."""

    model_config = _config(PREFIX + "LISTENER_")

    ae_title: str = Field(default="LENTIGO", min_length=1, max_length=16)
    """Our application entity title (PS3.5 6.2, VR AE)."""
    bind: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(default=11112, ge=0, le=65535)
    """TCP port; 0 takes any free one."""
    allow: str = ""
    """Comma-separated peers ``AET@HOST``, ``AET@NETWORK`` or ``*@NETWORK``, beside loopback."""
    admit_loopback: bool = True
    """Let any AE title in from loopback; false leaves only the peers of ``allow``."""
    require_called_ae_title: bool = False
    """Reject associations that call another AE title than ours."""
    ae_titles: str = ""
    """Comma-separated AE titles of ours beside ``ae_title``; rules can tell them apart."""
    more_sop_classes: str = ""
    """Comma-separated Storage SOP classes, by UID or keyword, taken beside the built-in ones."""
    max_associations: int = Field(default=64, ge=1)
    """Associations served at a time; one more is rejected as a passing condition."""
    max_associations_per_peer: int = Field(default=0, ge=0)
    """The same for one source address; 0 leaves it to the limit of all."""
    network_timeout_s: float = Field(default=60.0, gt=0)
    """Silence on an association after which it is aborted."""
    request_timeout_s: float = Field(default=30.0, gt=0)
    """Seconds from a connection to its association request (ARTIM, PS3.8 9.1.5)."""
    min_bytes_per_s: float = Field(default=1000.0, ge=0)
    """Rate that a message must keep over ``network_timeout_s``; 0 for any."""
    max_pdu_bytes: int = Field(default=128 * 1024, ge=4096, le=16 * 1024 * 1024)
    """Largest P-DATA-TF PDU that we announce and take (PS3.8 D.1)."""
    max_instance_bytes: int = Field(default=0, ge=0)
    """Longest data set that is taken; 0 for no limit but the disk's."""
    tls_certificate: Path | None = None
    """Our certificate and its chain, PEM. With it ``port`` speaks TLS, or ``tls_port`` if given."""
    tls_key: Path | None = None
    """Its private key, PEM, where it is not in the same file."""
    tls_client_ca: Path | None = None
    """CA certificates, PEM, that clients' certificates must be signed by."""
    tls_require_client_certificate: bool = True
    """With ``tls_client_ca``: turn away clients that show no certificate."""
    tls_port: int | None = Field(default=None, ge=0, le=65535)
    """TCP port for TLS beside the plain one; 0 takes any free one."""
    reserve_bytes: int = Field(default=256 * 1024 * 1024, ge=0)
    """Free disk space under which instances are refused with A700."""

    @property
    def allow_entries(self) -> tuple[str, ...]:
        """The entries of ``allow``, stripped, without empty ones."""
        return tuple(entry.strip() for entry in self.allow.split(",") if entry.strip())


class CompletenessSettings(BaseSettings):
    """When a study is complete, and how work is handed out."""

    model_config = _config(PREFIX + "COMPLETENESS_")

    quiet_window_s: float = Field(default=2.0, gt=0)
    """Seconds without a new instance after which a study closes."""
    slide_quiet_window_s: float = Field(default=20.0, gt=0)
    """The same for studies that hold whole-slide images."""
    sweep_interval_s: float = Field(default=0.25, gt=0)
    """Seconds between two looks of the sweeper."""
    hint_interval_s: float = Field(default=10.0, gt=0)
    """Seconds after which unclaimed work is announced to the broker again."""
    generations_per_hour: int = Field(default=12, ge=2)
    """Generations of one study that may be opened in an hour; one more holds it, with an alarm."""


class RuleSettings(BaseSettings):
    """Routing rules."""

    model_config = _config(PREFIX + "RULES_")

    file: Path | None = None
    """TOML file of routing rules, read again when it changes; without one every analysis that
    applies runs and its results go to every destination."""


class BrokerSettings(SecretSettings):
    """The Redis that carries hints."""

    model_config = _config(PREFIX + "BROKER_")

    url: str = Field(default="redis://127.0.0.1:6379/0", repr=False)
    """Celery broker URL."""


class DeliverySettings(BaseSettings):
    """Where results go."""

    model_config = _config(PREFIX + "DELIVERY_")

    destination: str = ""
    """``AET@HOST:PORT`` of the PACS (``/tls`` behind it for TLS), or several separated by commas;
    empty keeps results in the results folder only. ``/sr+seg`` behind one sends it these kinds of
    objects alone, ``/-pdf`` every kind but these; there are sr, seg, sc, flicker, pdf, map and
    ann."""
    calling_ae_title: str = Field(default="LENTIGO", min_length=1, max_length=16)
    """The AE title we call with."""
    timeout_s: float = Field(default=30.0, gt=0)
    """Network and DIMSE timeout of one delivery."""
    max_backoff_s: float = Field(default=60.0, gt=0)
    """Longest pause between two attempts."""
    confirm: str = Field(default="auto", pattern="^(auto|commitment|require)$")
    """``auto``: confirm by storage commitment where the destination offers it, else by C-FIND, else
    by its C-STORE answer; ``require``: the same, but never by the C-STORE answer; ``commitment``:
    by storage commitment alone."""
    commitment_timeout_s: float = Field(default=120.0, gt=0)
    """Wait for the answer to a request for storage commitment; then it counts as not answered."""
    commitment_linger_s: float = Field(default=1.0, ge=0)
    """How much longer an association stays open for that answer."""


class TlsSettings(BaseSettings):
    """What connections to peers named with ``/tls`` trust and show."""

    model_config = _config(PREFIX + "TLS_")

    ca: str = ""
    """File of CA certificates, PEM, that may have signed a peer's certificate."""
    certificate: str = ""
    """File of our certificate and its chain, PEM, for peers that want one."""
    key: str = ""
    """File of its private key, PEM; empty when it stands in ``certificate``."""
    check_host_name: bool = True
    """Whether a peer's certificate must name the host that we connect to."""


class CommitmentSettings(BaseSettings):
    """Storage commitment that senders ask us for."""

    model_config = _config(PREFIX + "COMMITMENT_")

    peers: str = ""
    """Comma-separated ``AET@HOST:PORT`` (``/tls`` behind it for TLS) of senders that take a report
    on a new association; others get it on the association on which they asked."""
    timeout_s: float = Field(default=30.0, gt=0)
    """Network and DIMSE timeout of one report."""
    max_backoff_s: float = Field(default=600.0, gt=0)
    """Longest pause between two attempts at a report."""
    give_up_after_h: float = Field(default=168.0, gt=0)
    """Hours after which a report that nobody takes is given up, with an alarm."""
    lease_s: float = Field(default=30.0, gt=0)
    """How long a report is held without a heartbeat; a dead process delays it by that."""


class PriorSettings(SecretSettings):
    """Where earlier images of a lesion are looked for when the record has none."""

    model_config = _config(PREFIX + "PRIORS_")

    pacs: str = ""
    """``AET@HOST:PORT`` of a PACS with C-FIND and C-MOVE, which knows our listener's AE title as a
    move destination; empty: none."""
    retrieve: str = Field(default="move", pattern="^(move|get)$")
    """``move``: have ``pacs`` send images to our listener (C-MOVE); ``get``: take them on the
    association on which we ask (C-GET), which needs no entry for us at the PACS."""
    dicomweb_url: str = Field(default="", repr=False)
    """Root of a PACS' DICOMweb services (QIDO-RS, WADO-RS), asked in place of ``pacs``; empty:
    none."""
    dicomweb_username: str = ""
    """For HTTP basic authentication."""
    dicomweb_password: SecretStr | None = None
    """For HTTP basic authentication."""
    dicomweb_token: SecretStr | None = None
    """Bearer token; takes the place of user name and password."""
    timeout_s: float = Field(default=30.0, gt=0)
    """Longest silence of the PACS."""
    max_studies: int = Field(default=10, ge=1)
    """Newest earlier studies of a patient that are looked into."""
    max_scanned: int = Field(default=1000, ge=1)
    """Listed images after which no further study is looked into."""
    max_instances: int = Field(default=24, ge=1)
    """Most images fetched for one study."""
    attempts: int = Field(default=5, ge=1)
    """Attempts at an analysis after which a PACS that does not answer is reported as such."""


class DashboardSettings(SecretSettings):
    """The admin page."""

    model_config = _config(PREFIX + "DASHBOARD_")

    bind: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(default=8042, ge=0, le=65535)
    """TCP port."""
    tls_certificate: Path | None = None
    """Certificate and its chain, PEM; with it the page is served over HTTPS only."""
    tls_key: Path | None = None
    """Its private key, PEM, where it is not in the same file."""
    viewer_url: str = ""
    """Address of a study in the site's viewer, with ``{study_uid}`` in its place."""
    session_hours: float = Field(default=12.0, gt=0)
    """How long a login lasts."""
    initial_password: SecretStr | None = None
    """One-time password of the first account; made at random when absent."""


class RetentionSettings(BaseSettings):
    """How long what is kept; 0 days keeps for ever."""

    model_config = _config(PREFIX + "RETENTION_")

    instances_days: float = Field(default=0, ge=0)
    """Received instances of a study whose results are confirmed; days since its last instance."""
    unconfirmed_days: float = Field(default=0, ge=0)
    """The same for studies that failed, were refused, or whose results stay in the results folder;
    nothing of a study under way is ever removed."""
    results_days: float = Field(default=0, ge=0)
    """Result objects that a PACS confirmed, since they were made."""
    quarantine_days: float = Field(default=0, ge=0)
    """Refused and quarantined instances."""
    documents_days: float = Field(default=0, ge=0)
    """Documents of the site, after their study ended; those that wait for a study that never
    came, since they were received."""
    features_days: float = Field(default=0, ge=0)
    """Embeddings, since they were computed; they are computed again when needed."""
    events_days: float = Field(default=0, ge=0)
    """Lines of the timelines of studies that have ended; the audit trail stays."""
    interval_s: float = Field(default=3600.0, gt=0)
    """Seconds between two purges."""
    high_watermark_percent: float = Field(default=99.0, ge=0, le=100)
    """Share of the disk in use from which on new instances are refused (A700); 0: only
    ``LENTIGO_LISTENER_RESERVE_BYTES`` counts."""
    low_watermark_percent: float = Field(default=85.0, ge=0, le=100)
    """Share of the disk in use that raises a warning and lets the purge run at once; it removes
    nothing that its days do not allow."""
    quota: str = ""
    """Disk that sources may use: ``AET@NETWORK=50GB``, several separated by commas; ``*@NETWORK``
    is the sum of all that match. Beyond it a source is answered A700."""


ALL_SETTINGS: tuple[type[BaseSettings], ...] = (
    StoreSettings,
    ListenerSettings,
    CompletenessSettings,
    RuleSettings,
    BrokerSettings,
    DeliverySettings,
    TlsSettings,
    CommitmentSettings,
    PriorSettings,
    DashboardSettings,
    AccountSettings,
    OpenidSettings,
    ModelSettings,
    DicomwebSettings,
    StowSettings,
    AuditSettings,
    RetentionSettings,
    SecuritySettings,
    *OBSERVATION_SETTINGS,
)


def known_variables(classes: Iterable[type[BaseSettings]] = ALL_SETTINGS) -> set[str]:
    """Return every environment variable that the classes read, in upper case."""
    classes = tuple(classes)
    names = {
        f"{cls.model_config.get('env_prefix', '')}{name}".upper()
        for cls in classes
        for name in cls.model_fields
    }
    return names | file_variables(classes)


def reject_unknown_environment(environment: Mapping[str, str]) -> None:
    """Refuse a ``LENTIGO_*`` variable that nothing reads.

    Raises
    ------
    SettingsError
        A variable is misspelt; the message names it and the ones that exist.
    """
    known = known_variables()
    for name in sorted(environment):
        if (
            name.upper().startswith(PREFIX)
            and name.upper() not in known
            and not name.upper().startswith(_READ_ELSEWHERE)
        ):
            raise SettingsError(
                f"unknown environment variable {name}; known are {', '.join(sorted(known))}"
            )
