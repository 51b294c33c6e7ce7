"""The admin page with a record behind it that shows each page with something on it."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
from argon2 import PasswordHasher
from argon2.profiles import CHEAPEST
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from sqlalchemy import Engine, select, update

from gateway.dashboard.app import create_app
from gateway.dicom.part10 import InstanceHeader
from gateway.listener.server import Listener
from gateway.rules.ruleset import BUILT_IN_TEXT
from gateway.settings import (
    CompletenessSettings,
    DashboardSettings,
    ListenerSettings,
    StoreSettings,
)
from gateway.spool import Spool
from gateway.store.engine import migrate, open_engine, reading, utc_now, writing
from gateway.store.intake.receiving import Intake
from gateway.store.people import accounts
from gateway.store.tables import DriftSeries, Generation, Instance, Study
from gateway.store.values import Scheduled
from tests.bench.web_record import fill
from tests.certificates import authority
from tests.pages import ONE_TIME, change_password, log_in
from tests.records import (
    STRUCTURED_REPORT,
    Record,
    TestClock,
    association,
    header,
    new_object,
    new_uid,
    stored,
)
from tests.storage_scp import StorageScp
from tests.web import served

ROOT = Path(__file__).resolve().parents[2]
VERIFICATION = "1.2.840.10008.1.1"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
STUDIES = 400
MODEL = "diagnosis"
_MANIFEST = json.loads((ROOT / "triton_repo" / MODEL / "manifest.json").read_text())
DIGEST = str(_MANIFEST["digest"])


@dataclass(kw_only=True)
class Site:
    """The served page and the record behind it."""

    url: str
    engine: Engine
    record: Record
    home: Path
    uid: str
    """A completed study with pictures and a report."""
    number: int
    receiving: int
    """A study that receives for a long while."""
    pacs: str
    """A destination that answers."""
    listener: Listener
    """Takes what a self-test sends; what comes of it is the test's to play."""


def write(path: Path, ds: Dataset, sop_class: str, uid: str) -> None:
    """Write a data set as a file."""
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = sop_class
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = uid
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)


def lesion(height: int, width: int) -> NDArray[np.uint8]:
    """A brown spot on skin."""
    y, x = np.mgrid[0:height, 0:width]
    spot = ((x - width / 2) / (width / 4)) ** 2 + ((y - height / 2) / (height / 4)) ** 2 < 1
    picture = np.empty((height, width, 3), np.uint8)
    picture[:] = (222, 180, 155)
    picture[spot] = (96, 60, 48)
    return picture


def photograph(pixels: NDArray[np.uint8]) -> Dataset:
    """Return an image without its identity."""
    ds = Dataset()
    ds.Rows, ds.Columns, ds.SamplesPerPixel = pixels.shape
    ds.PhotometricInterpretation = "RGB"
    ds.PlanarConfiguration = 0
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation = 7, 0
    ds.PixelData = pixels.tobytes()
    return ds


def code(meaning: str) -> Dataset:
    """Return a code of nobody's scheme."""
    ds = Dataset()
    ds.CodeValue, ds.CodingSchemeDesignator, ds.CodeMeaning = "1", "99T", meaning
    return ds


def report() -> Dataset:
    """Return a structured report with one finding and its probability."""
    finding, probability = Dataset(), Dataset()
    probability.ValueType, probability.RelationshipType = "NUM", "HAS PROPERTIES"
    probability.ConceptNameCodeSequence = [code("Probability")]
    measured = Dataset()
    measured.NumericValue = "0.91"
    measured.MeasurementUnitsCodeSequence = [code("no units")]
    probability.MeasuredValueSequence = [measured]
    finding.ValueType, finding.RelationshipType = "CODE", "CONTAINS"
    finding.ConceptNameCodeSequence = [code("Finding")]
    finding.ConceptCodeSequence = [code("Melanocytic nevus")]
    finding.ContentSequence = [probability]
    ds = Dataset()
    ds.ValueType = "CONTAINER"
    ds.ContentSequence = [finding]
    return ds


def completed(record: Record, home: Path) -> tuple[str, int]:
    """Take a study all the way, with files behind what the record says.

    One of its instances is in quarantine: it came again with other bytes.
    """
    image = header()
    sr = new_object("sr", sop_class_uid=STRUCTURED_REPORT)
    overview = new_object("overview-1", sop_class_uid=SECONDARY_CAPTURE)
    record.intake.register_instance(header=image, stored=stored(), association=association())
    ids = record.ledger.record_routing(
        record.close(),
        [Scheduled(analysis=MODEL, model_digest=DIGEST, reason="dermoscopic image")],
        "",
    )
    record.clock.advance(1.4)
    record.analyse(ids[0], objects=(sr, overview))
    record.clock.advance(0.6)
    record.deliver(ids[0])
    write(home / "results" / sr.path, report(), sr.sop_class_uid, sr.sop_instance_uid)
    picture = photograph(lesion(240, 640))
    write(home / "results" / overview.path, picture, SECONDARY_CAPTURE, overview.sop_instance_uid)
    record.intake.register_instance(
        header=_namesake(image), stored=stored("other bytes"), association=association()
    )
    with writing(record.engine) as connection:
        rows = connection.execute(
            Instance.__table__.select().where(Instance.sop_instance_uid == image.sop_instance_uid)
        ).all()
    for row in rows:
        ds = photograph(lesion(120, 160))
        write(home / "spool" / row.path, ds, image.sop_class_uid, new_uid())
    return image.study_instance_uid, int(rows[0].study_id)


def _namesake(image: InstanceHeader) -> InstanceHeader:
    names = ("study_instance_uid", "series_instance_uid", "sop_instance_uid")
    return header(**{name: getattr(image, name) for name in names})


def _settle(patch: pytest.MonkeyPatch, home: Path, pacs: str) -> None:
    """Set up the installation by its environment, as an administrator does."""
    repository = home / "models"
    shutil.copytree(
        ROOT / "triton_repo" / MODEL,
        repository / MODEL,
        ignore=shutil.ignore_patterns("*.safetensors", "*.pt"),
    )
    rules = home / "rules.toml"
    rules.write_text(BUILT_IN_TEXT, encoding="utf-8")
    certificates = home / "tls"
    certificates.mkdir()
    authority(certificates, "admin")
    for name, value in {
        "MODELS_REPOSITORY": repository,
        "RULES_FILE": rules,
        "DELIVERY_DESTINATION": f"{pacs},PACS2@127.0.0.1:1",
        "DELIVERY_TIMEOUT_S": 5,
        "DASHBOARD_TLS_CERTIFICATE": certificates / "admin.pem",
        "DASHBOARD_TLS_KEY": certificates / "admin.key",
    }.items():
        patch.setenv(f"LENTIGO_{name}", str(value))
    patch.setenv("XDG_STATE_HOME", str(home / "state"))


def _work(record: Record, home: Path) -> tuple[str, int, int]:
    """Fill the record; return UID and number of a completed study, number of a receiving one."""
    fill(record.engine, STUDIES, now=utc_now())
    _enliven(record.engine)
    record.clock.now = utc_now() - dt.timedelta(seconds=30)
    uid, number = completed(record, home)
    slow = Intake(record.engine, CompletenessSettings(quiet_window_s=3000.0), utc_now)
    waiting = header()
    slow.register_instance(header=waiting, stored=stored(), association=association())
    with reading(record.engine) as connection:
        query = select(Study.id).where(Study.study_instance_uid == waiting.study_instance_uid)
        return uid, number, int(connection.execute(query).scalar_one())


def _enliven(engine: Engine) -> None:
    """Let studies go on receiving, whatever a test closes, and one source's answers drift."""
    later, random_ = utc_now() + dt.timedelta(hours=1), np.random.default_rng(5)
    answers = {
        name: {"values": [round(float(value), 3) for value in random_.beta(a, b, 200)]}
        for name, a, b in (("reference", 2, 8), ("recent", 3, 5))
    }
    of_model = update(DriftSeries).where(DriftSeries.analysis == MODEL)
    with writing(engine) as connection:
        connection.execute(
            update(Generation).where(Generation.state == "receiving").values(closes_at=later)
        )
        connection.execute(of_model.values(model_digest=DIGEST))
        connection.execute(
            of_model.where(DriftSeries.source == "CAMERA_1").values(
                state="drifting", psi=0.31, ks=0.24, **answers
            )
        )


@contextmanager
def admin_site(home: Path, *, is_new: bool = False) -> Iterator[Site]:
    """Serve the admin page of a home folder; ``admin`` may log in.

    Parameters
    ----------
    home
        Made here.
    is_new
        Nothing was ever received.
    """
    home.mkdir()
    store = StoreSettings(home=home)
    migrate(store.record_url)
    engine = open_engine(store.record_url)
    record = Record(engine, TestClock())
    record.clock.now = utc_now()
    uid, number, receiving = ("", 0, 0) if is_new else _work(record, home)
    listener = Listener(
        ListenerSettings(port=0), Intake(engine, CompletenessSettings()), Spool(home / "spool")
    )
    archive = StorageScp(sop_classes=(VERIFICATION,))
    with pytest.MonkeyPatch.context() as patch, archive.serving() as scp:
        pacs = f"PACS@127.0.0.1:{scp.port}"
        patch.setattr(accounts, "PasswordHasher", lambda: PasswordHasher.from_parameters(CHEAPEST))
        _settle(patch, home, pacs)
        listener.start()
        patch.setenv("LENTIGO_LISTENER_PORT", str(listener.port))
        accounts.Accounts(engine).create_first("admin", ONE_TIME)
        settings = DashboardSettings(viewer_url="https://viewer.example/?uid={study_uid}")
        app = create_app(store, settings, engine)
        try:
            with served(app) as url:
                with httpx.Client(base_url=url, timeout=120) as client:
                    log_in(client)
                    change_password(client)
                try:
                    yield Site(
                        url=url,
                        engine=engine,
                        record=record,
                        home=home,
                        uid=uid,
                        number=number,
                        receiving=receiving,
                        pacs=pacs,
                        listener=listener,
                    )
                finally:
                    app.state.services.feed.close()
        finally:
            listener.stop(grace_s=2.0)
    engine.dispose()
