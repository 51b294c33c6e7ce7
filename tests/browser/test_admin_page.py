"""The admin page in a real browser: each page, each order, nothing on the console."""

import datetime as dt
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
from argon2 import PasswordHasher
from argon2.profiles import CHEAPEST
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select
from sqlalchemy import Engine, insert, update

from gateway.dashboard.app import create_app
from gateway.settings import DashboardSettings, StoreSettings
from gateway.store import accounts
from gateway.store.engine import migrate, open_engine, utc_now, writing
from gateway.store.tables import Event, Instance, Study
from tests.bench.web import fill
from tests.browser.driver import Browser, browser
from tests.pages import CHOSEN, ONE_TIME, change_password, log_in
from tests.records import (
    STRUCTURED_REPORT,
    Record,
    association,
    header,
    new_object,
    new_uid,
    stored,
)
from tests.records import TestClock as RecordClock
from tests.servers import require, wait_until
from tests.web import served

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
STUDIES = 400
FAILED, REPLAYED = "state=failed", "tried again"


@dataclass
class Site:
    """The served page and the record behind it."""

    url: str
    engine: Engine
    record: Record
    uid: str
    """A completed study with pictures and a report."""
    number: int
    receiving: int
    """A study that receives for a long while."""


def write(path: Path, ds: Dataset, sop_class: str, uid: str) -> None:
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = sop_class
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = uid
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)


def lesion(height: int, width: int) -> np.ndarray:
    """A brown spot on skin."""
    y, x = np.mgrid[0:height, 0:width]
    spot = ((x - width / 2) / (width / 4)) ** 2 + ((y - height / 2) / (height / 4)) ** 2 < 1
    picture = np.empty((height, width, 3), np.uint8)
    picture[:] = (222, 180, 155)
    picture[spot] = (96, 60, 48)
    return picture


def photograph(pixels: np.ndarray) -> Dataset:
    ds = Dataset()
    ds.Rows, ds.Columns, ds.SamplesPerPixel = pixels.shape
    ds.PhotometricInterpretation = "RGB"
    ds.PlanarConfiguration = 0
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation = 7, 0
    ds.PixelData = pixels.tobytes()
    return ds


def code(meaning: str) -> Dataset:
    ds = Dataset()
    ds.CodeValue, ds.CodingSchemeDesignator, ds.CodeMeaning = "1", "99T", meaning
    return ds


def report() -> Dataset:
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
    """Take a study all the way, with files behind what the record says."""
    image, sr, overview = (
        header(),
        new_object("sr", sop_class_uid=STRUCTURED_REPORT),
        new_object("overview-1", sop_class_uid=SECONDARY_CAPTURE),
    )
    record.intake.register_instance(header=image, stored=stored(), association=association())
    uid = image.study_instance_uid
    ids = record.ledger.record_routing(record.close(), [_scheduled()], "")
    record.analyse(ids[0], objects=(sr, overview))
    record.deliver(ids[0])
    write(home / "results" / sr.path, report(), sr.sop_class_uid, sr.sop_instance_uid)
    picture = photograph(lesion(240, 640))
    write(home / "results" / overview.path, picture, SECONDARY_CAPTURE, overview.sop_instance_uid)
    conflict = header(**{**_same(image)})
    record.intake.register_instance(
        header=conflict, stored=stored("other bytes"), association=association()
    )
    with writing(record.engine) as connection:
        rows = connection.execute(
            Instance.__table__.select().where(Instance.sop_instance_uid == image.sop_instance_uid)
        ).all()
    for row in rows:
        write(
            home / "spool" / row.path, photograph(lesion(120, 160)), image.sop_class_uid, new_uid()
        )
    return uid, int(rows[0].study_id)


def _same(image):
    names = ("study_instance_uid", "series_instance_uid", "sop_instance_uid")
    return {name: getattr(image, name) for name in names}


def _scheduled():
    from gateway.store.values import Scheduled

    return Scheduled(analysis="diagnosis", model_digest="d" * 64, reason="dermoscopic image")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    home = tmp_path_factory.mktemp("admin") / "home"
    home.mkdir()
    store = StoreSettings(home=home)
    migrate(store.record_url)
    engine = open_engine(store.record_url)
    fill(engine, STUDIES, now=utc_now())
    clock = RecordClock()
    clock.now = utc_now() - dt.timedelta(seconds=30)
    record = Record(engine, clock)
    uid, number = completed(record, home)
    clock.now = utc_now() + dt.timedelta(hours=1)  # its window does not end during the test
    waiting = record.receive()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accounts, "PasswordHasher", lambda: PasswordHasher.from_parameters(CHEAPEST))
        accounts.Accounts(engine).create_first("admin", ONE_TIME)
        settings = DashboardSettings(viewer_url="https://viewer.example/?uid={study_uid}")
        app = create_app(store, settings, engine)
        with served(app) as url:
            with httpx.Client(base_url=url, timeout=120) as client:
                log_in(client)
                change_password(client)
                receiving = client.get(f"/api/studies/{waiting}").json()["number"]
            yield Site(url, engine, record, uid, number, receiving)
            app.state.services.feed.close()
    engine.dispose()


@pytest.fixture(scope="module")
def window(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    require("chromium", "chromedriver")
    with browser(tmp_path_factory.mktemp("chromium"), size=(1280, 860)) as found:
        found.open(f"{site.url}/studies")
        found.fill("#username", "admin")
        found.fill("#password", CHOSEN)
        found.click(".card button")
        found.wait_for("#list")
        yield found


@pytest.fixture
def shoot(request: pytest.FixtureRequest, window: Browser, screenshots: Path):
    """Photographs the page in both schemes; ``DOCS_SCREENSHOTS`` puts one into that folder."""

    def take(name: str, *, size: tuple[int, int] = (1280, 860)) -> None:
        window.set_size(*size)
        for scheme in ("light", "dark"):
            window.script(f"document.documentElement.dataset.scheme = '{scheme}'")
            window.screenshot(screenshots / f"{name}-{scheme}.png")
        window.script("delete document.documentElement.dataset.scheme")
        if (folder := os.environ.get("DOCS_SCREENSHOTS")) and "narrow" not in name:
            window.screenshot(Path(folder) / f"admin-{name}.png")
        assert not window.overflows(), name
        window.set_size(1280, 860)

    return take


@pytest.mark.parametrize(
    ("name", "path", "text"),
    [
        ("overview", "/?window=7d", "Age of the oldest item in each stage"),
        ("studies", "/studies", "completed"),
        ("failures", "/failures", "the frame"),
        ("queues", "/queues", "Unfinished work"),
        ("rest", "/api", "/api/studies/orders"),
    ],
    ids=["overview", "studies", "failures", "queues", "rest"],
)
def test_each_page_is_shown_wide_and_narrow(site, window, shoot, name, path, text):
    window.open(site.url + path)
    window.wait_for_text(text)
    shoot(name)
    shoot(f"{name}-narrow", size=(420, 800))
    assert window.console_errors() == []


def test_study_shows_its_story_pictures_and_report(site, window, shoot):
    window.open(f"{site.url}/studies/{site.uid}")
    assert window.url == f"{site.url}/studies/{site.number}"
    window.wait_for_text("Did the PACS get it?".upper())
    drawn = "return [...document.images].filter(i => i.complete && i.naturalWidth).length"
    wait_until(lambda: window.script(drawn) >= 4, 30, "pictures")
    assert "An association brought instances" in window.text
    viewer = window.find("a[href^='https://viewer.example/']")
    assert viewer is not None
    assert viewer.get_attribute("href").endswith(site.uid)
    shoot("study")
    shoot("study-narrow", size=(420, 900))
    window.click_text("sr")
    window.wait_for_text("Melanocytic nevus")
    assert "0.91" in window.text
    shoot("report")


def test_search_box_finds_by_what_people_read_out(site, window):
    for wanted in (f"#{site.number}", site.uid, f"…{site.uid[-12:]}"):
        window.open(f"{site.url}/queues")
        window.script(
            "document.body.dispatchEvent(new KeyboardEvent('keydown', {key: '/', bubbles: true}))"
        )
        window.fill("#find", wanted + Keys.ENTER)
        window.wait_for_url(f"/studies/{site.number}$")
    window.open(f"{site.url}/queues")
    window.fill("#find", "A0000007" + Keys.ENTER)
    window.wait_for_url("/studies/7$")
    assert "A0000007" not in window.url


def test_filter_is_in_the_address_and_kept_as_a_view(site, window):
    window.open(f"{site.url}/studies")
    window.click(".narrow summary")
    window.fill("#reason", "decoded")
    window.click(".filter button")
    window.wait_for_url("reason=decoded")
    window.fill("#view", "cannot be decoded")
    window.click_text("Keep")
    window.wait_for("a[href='/studies?reason=decoded'][aria-current]")
    window.click(".view button")
    window.wait_for_url("/studies$")


def test_orders_about_the_chosen_and_about_all_that_match(site, window, shoot):
    window.open(f"{site.url}/studies?{FAILED}")
    chosen = window.find_all("td.choice input")[:2]
    for box in chosen:
        box.click()
    window.click("button[value=retry]")
    window.wait_for_text("Retry 2 studies?")
    window.click_text("Retry 2 studies")
    window.wait_for_text("Retry: 2 done")
    Select(window.wait_for("#scope")).select_by_value("all")
    window.click("button[value=cancel]")
    window.wait_for_text("Cancel")
    window.wait_for("#reason")
    shoot("order")
    window.fill("#reason", "sent by mistake")
    window.click(".card button")
    window.wait_for_text("Cancel: 0 done")


def test_orders_of_one_study(site, window):
    address = f"{site.url}/studies/{site.receiving}"
    window.open(address)
    window.click_text("Urgent")
    window.wait_for_text("Urgent: 1 done")
    window.click_text("Hold…")
    window.fill("#reason", "the camera is looked at")
    window.click(".card button")
    window.wait_for_text("held: the camera is looked at")
    window.click_text("Release")
    window.wait_for_text("Release: 1 done")
    window.click_text("Complete now")
    window.wait_for_text("Complete now: 1 done")
    window.open(f"{site.url}/studies/{site.number}")
    window.click_text("Resend")
    window.wait_for_text("Resend: 1 done")


def test_cause_is_assigned_snoozed_and_replayed(site, window):
    window.open(f"{site.url}/failures")
    window.fill(".cause input[name=assigned_to]", "admin")
    window.click(".cause form button")
    window.wait_for_text("with admin")
    causes = len(window.find_all(".cause"))
    Select(window.wait_for(".cause select")).select_by_value("8")
    window.click(".cause form button")
    window.wait_for_text("1 snoozed cause")
    assert len(window.find_all(".cause")) == causes - 1
    window.click_text("Replay…")
    window.wait_for_text("again?")
    window.click_text("Try again")
    window.wait_for_text(REPLAYED)


def test_instance_is_released_from_quarantine_with_a_reason(site, window):
    window.open(f"{site.url}/failures")
    window.click_text("Release…")
    window.fill("#reason", "the camera's clock was wrong before")
    window.click(".card button")
    window.wait_for_url(f"/studies/{site.number}$")
    window.wait_for_text("released from quarantine in the place of its namesake")


def test_open_page_follows_the_record(site, window):
    window.open(f"{site.url}/studies")
    window.wait_for_text("live")
    before = window.wait_for(".chip-all .count").text
    with writing(site.engine) as connection:
        connection.execute(update(Study).where(Study.id == 1).values(reason="changed meanwhile"))
    site.record.clock.now = utc_now()
    uid = site.record.receive()
    window.wait_for(f"[title='{uid}']")
    assert window.wait_for(".chip-all .count").text != before


def test_scheme_is_chosen_and_kept(site, window):
    window.open(f"{site.url}/")
    for scheme in ("light", "dark"):
        window.click("#scheme")
        assert window.script("return document.documentElement.dataset.scheme") == scheme
    window.open(f"{site.url}/queues")
    assert window.script("return document.documentElement.dataset.scheme") == "dark"
    window.click("#scheme")


def test_timeline_names_events_that_nobody_has_words_for(site, window):
    with writing(site.engine) as connection:
        connection.execute(
            insert(Event).values(
                at=utc_now(),
                study_id=2,
                action="peer.gone_away",
                level="alarm",
                detail={"reason": "<b>"},
            )
        )
    window.open(f"{site.url}/studies/2")
    window.wait_for_text("Peer gone away")
    assert "<b>" in window.text
