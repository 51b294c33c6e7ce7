"""The admin page: what is shown, and how it looks."""

import io
import logging
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from sqlalchemy import event

import gateway.dashboard
from gateway.errors import RecordUnavailable
from gateway.store.reading.status import study_list
from tests.records import PACS, SLIDE, association, header, new_object, new_uid, stored

FOLDER = Path(gateway.dashboard.__file__).parent
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


def study_page(client, named: str):
    """Open a study's page by its UID, over the redirect to its number."""
    answer = client.get(f"/studies/{named}")
    return client.get(answer.headers["location"]) if answer.status_code == 308 else answer


# -- the list --------------------------------------------------------------------------------------


def test_empty_record_says_what_to_do(client):
    page = client.get("/studies").text
    assert "No study has been received yet" in page
    assert "lentigo send" in page


def test_list_shows_every_study_with_its_state_finding_and_reason(kept, client):
    done = kept.completed()
    failed = new_uid()
    (item,) = kept.schedule(study_instance_uid=failed)
    kept.ledger.fail(kept.claim(item), kind="REJECTED", reason="no <frame> can be decoded")
    page = client.get("/studies").text
    for text in (done, failed, "NV 0.91", "no &lt;frame&gt; can be decoded", "✓ yes", "✕ no"):
        assert text in page
    assert "<frame>" not in page


def test_chips_count_and_name_the_oldest(kept, client):
    kept.clock.advance(-3600)
    kept.receive()
    kept.clock.advance(3600)
    kept.receive()
    page = client.get("/studies").text
    chip = re.search(r'<a class="chip state-received( \w+)*".*?</a>', page, re.DOTALL)[0]
    assert '<span class="count">2</span>' in chip
    assert re.search(r"oldest .*1 h", chip)
    assert "late" in chip


def test_list_is_filtered_by_address(kept, client):
    done, waiting = kept.completed(), kept.receive()
    page = client.get("/studies", params={"state": "completed"}).text
    assert done in page
    assert waiting not in page
    page = client.get("/studies", params={"uid": f" '{waiting[-9:]} "}).text
    assert waiting in page
    assert done not in page
    assert "No study matches" in client.get("/studies", params={"uid": "999.999"}).text


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("state=nonsense", 404),
        ("before=0", 422),
        ("before=99999999999999999999", 422),
        ("before=x", 422),
        ("uid=" + "1" * 65, 422),
        ("uid=%00", 200),
        ("uid=%25", 200),
        ("state=", 200),
    ],
)
def test_odd_filters_are_answered(client, query, status):
    for path in ("/studies", "/api/studies"):
        assert client.get(f"{path}?{query}").status_code == status


def test_pages_lead_through_all_studies_once(kept, client):
    uids = [kept.receive() for _ in range(120)]
    seen, address = [], "/studies"
    while address:
        page = client.get(address).text
        seen += re.findall(r'class="uid hint" title="([\d.]+)"', page)
        found = re.search(r'<a href="(/studies\?before=\d+)" rel="next">', page)
        address = found[1] if found else ""
    assert seen == uids[::-1]


def test_number_of_statements_of_the_list_is_fixed(kept, client):
    statements = []
    event.listen(kept.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))

    def cost() -> int:
        statements.clear()
        assert client.get("/studies").status_code == 200
        return len(statements)

    kept.completed()
    before = cost()
    for _ in range(30):
        kept.completed()
    assert cost() == before


# -- one study -------------------------------------------------------------------------------------


def test_study_page_answers_at_the_top_whether_the_pacs_has_it(kept, client):
    page = study_page(client, kept.completed()).text
    answer = f"Yes: {PACS} holds the object (found there by C-FIND afterwards)."
    assert page.index(answer) < page.index("Timeline")


def test_study_page_tells_the_story_in_order(kept, client):
    uid = kept.completed()
    page = study_page(client, uid).text
    story = [
        "Instances are arriving",
        "Complete: nothing new came",
        "Analysis scheduled",
        "Analysis started",
        "Analysis done, results written",
        "Delivery started",
        "Destination confirmed an object",
        "Study completed",
    ]
    places = [page.index(text) for text in story]
    assert all(one < other for one, other in pairwise(places))
    for text in ("Dermoscopic Photography", "JPEG Baseline", "CAMERA", "d" * 12, "routed"):
        assert text in page


def test_study_page_counts_down_the_quiet_window(kept, client):
    uid = kept.receive()
    page = study_page(client, uid).text
    assert re.search(r'data-until="[^"]+" data-before="closes in"', page)


def test_study_page_shows_quarantine_and_refusals(kept, client):
    received = header()
    for content in ("a", "b"):
        kept.intake.register_instance(
            header=received, stored=stored(content), association=association()
        )
    kept.intake.register_refusal(
        association=association(),
        status=0xC001,
        reason="cut off",
        stored=None,
        header=header(study_instance_uid=received.study_instance_uid),
    )
    page = study_page(client, received.study_instance_uid).text
    for text in (
        "1 quarantined instance:",
        "1 instance of this study was refused",
        "C001",
        "alarm",
    ):
        assert text in page


def test_refused_study_has_a_page(kept, client):
    refused = header(sop_class_uid=SLIDE)
    kept.intake.register_refusal(
        association=association(), status=0xA900, reason="why", stored=None, header=refused
    )
    page = study_page(client, refused.study_instance_uid).text
    assert "the study was not analysed" in page
    assert "A900" in page


@pytest.mark.parametrize("uid", ["1.2.3", "%00", "a" * 5000, "' OR 1=1"])
def test_unknown_study_is_not_found(client, uid):
    assert study_page(client, uid).status_code == 404
    assert client.get(f"/api/studies/{uid}").status_code == 404


def test_no_patient_attribute_is_on_any_page(kept, client, caplog):
    caplog.set_level(logging.DEBUG)
    uid = kept.completed()
    for path in ("/studies", f"/studies/{uid}", "/api/studies", f"/api/studies/{uid}"):
        assert "canary" not in client.get(path).text.lower()
    assert "canary" not in caplog.text.lower()


def test_log_holds_no_uid(kept, client, caplog):
    caplog.set_level(logging.INFO)
    uid = kept.completed()
    caplog.clear()
    study_page(client, uid)
    client.get("/studies", params={"uid": uid})
    ours = [record for record in caplog.records if record.name.startswith("gateway")]
    assert {record.route for record in ours} == {"/studies/{named}", "/studies"}
    assert uid not in repr([record.__dict__ for record in ours])


# -- previews --------------------------------------------------------------------------------------


def picture_file(path: Path, pixels: np.ndarray) -> None:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = SECONDARY_CAPTURE
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = new_uid()
    ds.Rows, ds.Columns, ds.SamplesPerPixel = pixels.shape
    ds.PhotometricInterpretation = "RGB"
    ds.PlanarConfiguration = 0
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit = 7
    ds.PixelRepresentation = 0
    ds.PixelData = pixels.tobytes() + b"\0" * (pixels.size % 2)
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)


def address_of(client, uid: str, made) -> str:
    """Address of the picture of an object, by the numbers of the record."""
    study = client.get(f"/api/studies/{uid}").json()
    objects = [each for item in study["work_items"] for each in item["objects"]]
    ids = [each["id"] for each in objects if each["sop_instance_uid"] == made.sop_instance_uid]
    return f"/studies/{study['number']}/objects/{(*ids, 1)[0]}/preview.png"


def preview(client, uid: str, made):
    return client.get(address_of(client, uid, made))


def test_overview_is_shown_as_it_is_stored(home, kept, client):
    pixels = np.random.default_rng(1).integers(0, 255, (40, 60, 3), np.uint8)
    made = new_object("overview-1", sop_class_uid=SECONDARY_CAPTURE, path="a/overview.dcm")
    picture_file(home / "results" / made.path, pixels)
    uid = kept.completed(objects=(made,))
    answer = preview(client, uid, made)
    assert answer.headers["content-type"] == "image/png"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), pixels)
    assert "private" in answer.headers["cache-control"]
    path = address_of(client, uid, made)
    assert path in study_page(client, uid).text
    headers = {"if-none-match": answer.headers["etag"]}
    assert client.get(path, headers=headers).status_code == 304


def test_large_overview_is_made_smaller(home, kept, client):
    made = new_object("overview-1", path="a/large.dcm")
    picture_file(home / "results" / made.path, np.zeros((900, 3001, 3), np.uint8))
    answer = preview(client, kept.completed(objects=(made,)), made)
    assert Image.open(io.BytesIO(answer.content)).size == (1600, 480)


@pytest.mark.parametrize("role", ["sr", "seg-1"])
def test_other_roles_have_no_preview(home, kept, client, role):
    made = new_object(role, path="a/x.dcm")
    picture_file(home / "results" / made.path, np.zeros((4, 4, 3), np.uint8))
    assert preview(client, kept.completed(objects=(made,)), made).status_code == 404


@pytest.mark.parametrize("damage", ["missing", "empty", "text", "cut", "outside", "float"])
def test_preview_of_a_file_that_will_not_do_is_not_found(home, kept, client, damage):
    made = new_object("overview-1", path="../x.dcm" if damage == "outside" else "a/x.dcm")
    path = home / "results" / made.path
    picture_file(path, np.full((30, 30, 3), 7, np.uint8))
    if damage == "missing":
        path.unlink()
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "text":
        path.write_text("no DICOM at all")
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-900])
    elif damage == "float":
        path.write_bytes(path.read_bytes().replace(b"RGB ", b"XYZ "))
    answer = preview(client, kept.completed(objects=(made,)), made)
    assert answer.status_code == 404
    assert "Traceback" not in answer.text


def test_preview_belongs_to_its_study(home, kept, client):
    made = new_object("overview-1", path="a/x.dcm")
    picture_file(home / "results" / made.path, np.zeros((4, 4, 3), np.uint8))
    kept.completed(objects=(made,))
    assert preview(client, kept.completed(), made).status_code == 404


# -- JSON ------------------------------------------------------------------------------------------


def test_json_of_a_study_is_that_of_the_command(kept, client):
    uid = kept.completed()
    found = client.get(f"/api/studies/{uid}").json()
    (expected,) = study_list(kept.engine)
    found.pop("age_s")
    expected.pop("age_s")
    found["work_items"][0]["objects"][0].pop("path")
    expected["work_items"][0]["objects"][0].pop("path")
    assert found == expected


def test_json_list_names_its_next_page(kept, client):
    uids = [kept.receive() for _ in range(5)]
    seen, address = [], "/api/studies?limit=2"
    while address:
        answer = client.get(address)
        seen += [study["study_instance_uid"] for study in answer.json()]
        found = re.fullmatch(r'<(.+)>; rel="next"', answer.headers.get("link", ""))
        address = found[1] if found else ""
    assert seen == uids[::-1]


# -- outages ---------------------------------------------------------------------------------------


@pytest.fixture
def broken(monkeypatch):
    def fail(*_args, **_kwargs):
        raise RecordUnavailable("the record does not answer (OperationalError)")

    def break_it() -> None:
        monkeypatch.setattr("gateway.store.reading.history.reading", fail)
        monkeypatch.setattr("gateway.store.reading.status.reading", fail)

    return break_it


def test_health_follows_the_record(stranger, broken):
    assert stranger.get("/healthz").status_code == 200
    broken()
    assert stranger.get("/healthz").status_code == 503


def test_outage_is_said_in_words(client, broken):
    broken()
    answer = client.get("/studies")
    assert answer.status_code == 503
    assert "does not answer" in answer.text
    assert client.get("/api/studies").status_code == 503


def test_outage_of_the_sessions_is_no_open_door(client, monkeypatch):
    def fail(*_args, **_kwargs):
        raise RecordUnavailable

    monkeypatch.setattr("gateway.store.people.accounts.reading", fail)
    assert client.get("/studies").status_code == 503


# -- the looks -------------------------------------------------------------------------------------


class Inline(HTMLParser):
    """Collects what the content security policy would block, and labels that lead nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[str] = []
        self.ids: list[str] = []
        self.labels: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        named = dict(attrs)
        if tag == "style" or (tag == "script" and "src" not in named):
            self.faults.append(tag)
        self.faults += [name for name in named if name == "style" or name.startswith("on")]
        for name in ("src", "href", "action"):
            if name in named and not named[name].startswith(("/", "#")):
                self.faults.append(f"{name}={named[name]}")
        if tag == "img" and "alt" not in named:
            self.faults.append("img without alt")
        if "id" in named:
            self.ids.append(named["id"])
        if tag == "label":
            self.labels.append(named["for"])


def test_pages_hold_nothing_inline_or_from_elsewhere(kept, client):
    uid = kept.completed(objects=(new_object(), new_object("overview-1")))
    for path in ("/login", "/password", "/studies", f"/studies/{uid}", "/studies/1.2"):
        found = Inline()
        found.feed(client.get(path).text)
        assert found.faults == [], path
        assert len(found.ids) == len(set(found.ids)), path
        assert set(found.labels) <= set(found.ids), path


def colours(css: str, scheme: str) -> dict[str, str]:
    found = re.findall(r"--([\w-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\);", css)
    return {name: light if scheme == "light" else dark for name, light, dark in found}


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_that_of_black_on_white():
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_meets_wcag_aa(scheme):
    found = colours((FOLDER / "static" / "lentigo.css").read_text(), scheme)
    grounds = ("ground", "sheet", "sunk")
    pairs = [
        (text, ground)
        for text in ("text", "quiet", "accent", "good", "bad", "warn")
        for ground in grounds
    ]
    pairs += [(tone, f"{tone}-ground") for tone in ("good", "bad", "warn", "busy")]
    pairs += [("text", f"{tone}-ground") for tone in ("good", "bad", "warn", "busy")]
    pairs += [("accent-text", "accent")]
    for one, other in pairs:
        assert contrast(found[one], found[other]) >= 4.5, (one, other)
    # Outlines and borders of controls: 3:1 (WCAG 1.4.11).
    for one, other in [("focus", ground) for ground in grounds] + [("quiet", "sheet")]:
        assert contrast(found[one], found[other]) >= 3.0, (one, other)
