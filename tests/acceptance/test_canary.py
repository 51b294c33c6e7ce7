"""Nothing of a patient leaves the path: planted studies, and a search of everything around it.

One study of each kind, and broken, refused and doubled ones, with a planted text in every attribute
that tells of people and places, go the whole way through ``lentigo up``; the model server and the
PACS are made to fail on the way. Then none of it is in logs, Redis (watched from the first command
to the last), requests to the model server, audit messages, the record outside its table of
identities, or addresses and titles of the admin page.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import redis
from PIL import Image
from pydicom import Dataset
from pydicom import config as pydicom_config
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from sqlalchemy import create_engine, inspect, text
from tritonclient.grpc import service_pb2

from gateway.demo.samples import Kind, render
from gateway.demo.studies import DemoStudy, body, follow_up, melanoma, slide
from gateway.sending.wrap import wrap
from gateway.settings import StoreSettings
from tests.instances import CT, encoded, instance, write
from tests.lentigo import PASSWORD, Lentigo
from tests.pages import change_password, log_in
from tests.planted import MARK, UID_MARK, leaks, plant, plant_files, renamed, with_uids, word
from tests.servers import require, wait_until
from tests.servers.triton_stub import TritonStub
from tests.storage_scp import SEGMENTATION, StorageScp

pytestmark = pytest.mark.timeout(900)

MODELS = (
    *("diagnosis", "encoder", "tbp_screening", "change_detection"),
    *("slide_classification", "prognosis"),
)
TAKEN = (
    *("1.2.840.10008.5.1.4.1.1.88.34", "1.2.840.10008.5.1.4.1.1.88.33", SEGMENTATION),
    *("1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.7.4", "1.2.840.10008.5.1.4.1.1.30"),
    *("1.2.840.10008.5.1.4.1.1.104.1", "1.2.840.10008.5.1.4.1.1.91.1"),
    "1.2.840.10008.5.1.4.1.1.77.1.4",
)
IDENTITIES = {"identities"}
"""The one table of the record that may hold attributes of a patient."""


class ListeningStub(TritonStub):
    """A model server that looks for planted texts in what it is asked."""

    def __init__(self) -> None:
        super().__init__(MODELS)
        self.found: list[str] = []
        self.faults_met = 0

    def pass_fault(self, kind: str, context: Any) -> None:
        sent = "\n".join(f"{key}={value}" for key, value in context.invocation_metadata())
        self.found += leaks(sent.encode())
        self.faults_met += bool(self.fault)
        super().pass_fault(kind, context)

    def answer(self, request: Any) -> Any:
        self.found += leaks(request.SerializeToString())
        if request.model_name == "slide_classification":
            return self._of_a_bag(request)
        response = super().answer(request)
        if request.model_name == "tbp_screening" and not self.fault:  # scores are probabilities
            for index, content in enumerate(response.raw_output_contents):
                values = 1 / (1 + np.exp(-np.frombuffer(content, np.float32)))
                values = values.reshape(response.outputs[index].shape)
                if values.shape[-1] > 1:
                    values /= values.sum(axis=-1, keepdims=True)
                response.raw_output_contents[index] = values.tobytes()
        return response

    def _of_a_bag(self, request: Any) -> Any:
        """Answer for a bag of tiles: outputs as long as the bag where the model says -1."""
        self.requests += 1
        response = service_pb2.ModelInferResponse(model_name=request.model_name, id=request.id)
        tiles = request.inputs[0].shape[0]
        for output in self.configs[request.model_name].output:
            tensor = response.outputs.add()
            tensor.name, tensor.datatype = output.name, "FP32"
            tensor.shape.extend(tiles if each < 0 else each for each in output.dims)
            drawn = np.random.default_rng(5).random(tuple(tensor.shape), np.float32)
            response.raw_output_contents.append(drawn.tobytes())
        return response


class RedisWatch:
    """Everything that Redis is told, from its MONITOR command, as bytes."""

    def __init__(self, url: str) -> None:
        path = url.removeprefix("redis+socket://")
        self._client = redis.Redis(unix_socket_path=path)
        self._told = bytearray()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        self._socket.sendall(b"MONITOR\r\n")
        assert self._socket.recv(5) == b"+OK\r\n"
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while told := self._socket.recv(1 << 16):
            self._told += told

    def content(self) -> bytes:
        """Return all commands so far, and what is kept under every key."""
        kept = [key + b"=" + (self._client.dump(key) or b"") for key in self._client.scan_iter()]
        return b"\n".join([bytes(self._told), *kept])

    def close(self) -> None:
        """Stop watching."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(20)
        assert not self._thread.is_alive()
        self._socket.close()
        self._client.close()


@dataclass
class Clinic:
    """What ran, and what was seen of it."""

    lentigo: Lentigo
    triton: ListeningStub
    told_redis: bytes = b""
    pages: dict[str, str] = field(default_factory=dict)
    """Path -> page, of every address that a page links to."""
    answers: list[bytes] = field(default_factory=list)
    """What refused senders were told over HTTP."""

    @property
    def store(self) -> StoreSettings:
        return StoreSettings(home=self.lentigo.home)


# -- what is sent -------------------------------------------------------------------------------


def planted_studies(folder: Path) -> list[DemoStudy]:
    """One study of each kind, full of planted texts, in files with planted names."""
    first, second = follow_up(folder)
    studies = [first, second, body(folder, count=6), slide(folder, (768, 640)), melanoma(folder)]
    for number, study in enumerate(studies):
        same = "follow-up" if study in (first, second) else study.name
        plant_files(study.instances, PatientID=word(f"PatientID of {same}"))
        for index, path in enumerate(study.instances):
            renamed(path, 1000 * number + index)
    return studies


def files_of(studies: list[DemoStudy]) -> list[Path]:
    folders = {path.parent for study in studies for path in study.instances}
    return sorted(path for folder in folders for path in folder.glob(f"{MARK}*.dcm"))


def raw(ds: Dataset, keyword: str, vr: str, value: bytes) -> None:
    """Set a value that pydicom would not write."""
    tag = Tag(keyword)
    ds[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)


def drawn(number: int) -> Dataset:
    """A dermoscopic image with planted texts and UIDs."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.jpg"
        Image.fromarray(render(Kind.MELANOMA, number)).save(path, quality=90)
        ds = with_uids(wrap(path, "dermoscopy"), number)
    plant(ds)
    return ds


def as_it_is(ds: Dataset) -> bytes:
    """Encode without a look at the values."""
    with pydicom_config.disable_value_validation():
        return encoded(ds)


def damaged() -> Iterator[bytes]:
    """Instances with planted texts where numbers, dates, codes and images should be."""
    faults: tuple[tuple[str, str, bytes], ...] = (
        ("PixelSpacing", "DS", word("bad DS").encode() + b"\\1 "),
        ("ImagerPixelSpacing", "DS", word("bad DS too").encode()),
        ("PatientBirthDate", "DA", word("bad DA").encode()),
        ("PatientAge", "AS", word("bad AS").encode()),
        ("StudyDate", "DA", word("bad study date").encode()),
        ("AcquisitionDateTime", "DT", word("bad DT").encode()),
        ("ContentTime", "TM", word("bad TM").encode()),
        ("InstanceNumber", "IS", word("bad IS").encode()),
        ("ImageType", "CS", word("bad CS").lower().encode() + b"\\x"),
        ("PatientName", "PN", b"=".join([word("many groups").encode()] * 5)),
        ("FrameOfReferenceUID", "UI", word("bad UI").encode()),
        ("PhotometricInterpretation", "CS", word("bad photometric").encode()),
        ("Rows", "US", b"\xff\xff"),
    )
    for number, (keyword, vr, value) in enumerate(faults):
        ds = drawn(number)
        raw(ds, keyword, vr, value + b" " * (len(value) % 2))
        yield as_it_is(ds)
    ds = drawn(49)
    ds.SpecificCharacterSet = "ISO_IR 100"
    yield encoded(ds).replace(b"ISO_IR 100", word("bad character set").encode())
    ds = drawn(50)
    content, start = encoded(ds), ds.PixelData.index(b"\xff\xd8")
    image = ds.PixelData[start:]
    yield content.replace(image[400:440], word("in the pixels").encode() * 4)


def conflicting() -> Iterator[bytes]:
    """Two instances of one UID."""
    for number in range(2):
        ds = with_uids(instance(side=64), 70)
        plant(ds)
        ds.PatientName = word(f"conflict {number}")
        yield encoded(ds)


def stow_bodies() -> Iterator[tuple[bytes, str]]:
    """What comes by STOW-RS and is refused, with planted names of parts."""
    good = with_uids(instance(side=64), 80)
    plant(good)
    whole = encoded(good)
    nameless = with_uids(instance(side=64, SOPClassUID=CT), 81)
    plant(nameless)
    header = (
        f"Content-Type: application/dicom\r\nContent-Location: /{word('location')}.dcm\r\n"
        f'Content-Disposition: attachment; filename="{word("part name")}.dcm"'
    ).encode()
    unheard = with_uids(instance(side=64), 82)
    plant(unheard)
    raw(unheard, "StudyInstanceUID", "UI", word("a name as UID").encode())
    for content in (whole[: len(whole) // 2], whole[200:], encoded(nameless), as_it_is(unheard)):
        yield content, header.decode()
    yield whole, f"Content-Type: text/{word('type')}"


# -- sending ------------------------------------------------------------------------------------


def send(lentigo: Lentigo, paths: list[Path]) -> None:
    """Send with dcmtk, which says the names of its files to nobody."""
    subprocess.run(
        [
            *("dcmsend", "-aec", "LENTIGO", "-aet", "CAMERA", "127.0.0.1"),
            *(str(lentigo.dicom_port), *map(str, paths)),
        ],
        capture_output=True,
        timeout=120,
        check=False,
    )


def post(client: httpx.Client, content: bytes, header: str) -> bytes:
    boundary = "edge"
    sent = f"--{boundary}\r\n{header}\r\n\r\n".encode() + content + f"\r\n--{boundary}--".encode()
    kind = f'multipart/related; type="application/dicom"; boundary={boundary}'
    return client.post(
        "/dicomweb/studies", content=sent, headers={"Content-Type": kind}, auth=("admin", PASSWORD2)
    ).content


PASSWORD2 = "a better one for the canary"


def send_documents(clinic: Clinic, client: httpx.Client, study: DemoStudy) -> None:
    """The melanoma's document with planted keys and values, whole and damaged, and tables."""
    (content,) = study.documents.values()
    whole = json.loads(content)
    whole[word("key")] = {"name": word("value")}
    whole["patient"] = {"name": word("patient in JSON"), "birthDate": "1887-07-13"}
    spoilt = json.loads(content)
    spoilt["covariates"]["thickness"] = {"value": word("thickness"), "unit": word("unit")}
    table = f"lesion,{word('column')}\n1,{word('cell')}\n"
    files = {
        f"{word('document')}.json": json.dumps(whole),
        f"{word('spoilt document')}.json": json.dumps(spoilt),
        f"{word('broken document')}.json": json.dumps(whole)[:-40],
        f"{word('table')}.csv": table,
        "prognosis.json": json.dumps(whole),
    }
    for name, text_ in files.items():
        for uid in (study.study_instance_uid, word("no UID")):
            found = client.post(
                f"/api/studies/{uid}/documents",
                params={"name": name},
                content=text_.encode(),
                auth=("admin", PASSWORD2),
            )
            assert found.status_code in (200, 201, 400, 415, 422), found.status_code
            clinic.answers.append(found.content if found.status_code >= 400 else b"")


def ask_oddly(client: httpx.Client) -> None:
    """Names typed where they do not belong."""
    typed = word("typed")
    client.get(f"/studies/{typed}")
    client.get("/studies", params={"uid": typed, "state": typed})
    client.get(f"/{typed}/{typed}.dcm", headers={"User-Agent": typed, "Referer": typed})
    client.get("/dicomweb/workitems", params={"PatientName": typed}, auth=("admin", PASSWORD2))
    client.get("/dicomweb/workitems", params={typed: "1"}, auth=(typed, typed))
    with httpx.Client(base_url=client.base_url) as stranger:
        log_in(stranger, f"{typed} not the password")


# -- the path -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clinic]:
    """Send everything, with faults on the way; wait until nothing moves any more."""
    require("dcmsend")
    folder = tmp_path_factory.mktemp("canary")
    studies = planted_studies(folder)
    pacs = StorageScp(sop_classes=TAKEN)
    stub = ListeningStub()
    stub.start()
    with contextlib.ExitStack() as stack:
        stack.callback(stub.stop)
        stack.enter_context(pacs.serving())
        lentigo = Lentigo(
            folder / "home",
            send_to=f"PACS@127.0.0.1:{pacs.port}",
            models=(),
            environment={
                "LENTIGO_TRITON_URL": stub.url,
                "LENTIGO_TRITON_TIMEOUT_S": "10",
                "LENTIGO_WORKER_DEMONSTRATION_MODELS": "1",
                "LENTIGO_WORKER_MAX_BACKOFF_S": "0.5",
                "LENTIGO_DELIVERY_MAX_BACKOFF_S": "0.5",
                "LENTIGO_COMPLETENESS_SLIDE_QUIET_WINDOW_S": "2",
                "LENTIGO_PRIORS_PACS": f"PACS@127.0.0.1:{pacs.port}",
                "LENTIGO_PRIORS_ATTEMPTS": "1",
                "LENTIGO_RULES_FILE": str(rules(folder)),
            },
        )
        stack.callback(lentigo.stop)
        lentigo.start(240.0)
        found = Clinic(lentigo, stub)
        watch = RedisWatch(lentigo.instance.broker_url)
        stack.callback(watch.close)
        address = f"http://127.0.0.1:{lentigo.instance.http_port}"
        with httpx.Client(base_url=address, timeout=60, follow_redirects=True) as client:
            log_in(client, PASSWORD)
            change_password(client, old=PASSWORD, new=PASSWORD2, again=PASSWORD2)
            send_documents(found, client, studies[-1])
            send(lentigo, files_of(studies))
            found.answers += [post(client, *each) for each in stow_bodies()]
            ask_oddly(client)
            fail_in_turns(found, pacs, folder)
            wait_until(lambda: is_at_rest(lentigo), 240, "the end of all work", interval_s=1.0)
            found.pages = crawl(client)
        found.told_redis = watch.content()
        yield found


def rules(folder: Path) -> Path:
    """Rules that look at what was planted: their reasons must not say what they saw."""
    path = folder / "rules.toml"
    path.write_text(
        '[[rule]]\nname = "by name"\nwhen = { PatientName = { matches = ".*Jo" },'
        ' InstitutionName = { exists = true } }\nthen = { priority = "urgent" }\n'
    )
    return path


def fail_in_turns(clinic: Clinic, pacs: StorageScp, folder: Path) -> None:
    """Let reading, the model server and the PACS fail, each with planted studies on the way."""
    (folder / "damaged").mkdir()
    spoilt = []
    for number, content in enumerate([*damaged(), *conflicting()]):
        spoilt.append(folder / "damaged" / f"{word('damaged file')}_{number}.dcm")
        spoilt[-1].write_bytes(content)
    send(clinic.lentigo, spoilt)
    wait_until(lambda: is_at_rest(clinic.lentigo), 240, "the studies before", interval_s=0.5)
    for number, fault in enumerate(("nan", "shape", "missing", "internal")):
        clinic.triton.fault, clinic.triton.faults_met = fault, 0
        send(clinic.lentigo, [fresh(folder, 100 + number)])
        wait_until(lambda: clinic.triton.faults_met > 0, 60, f"{fault} met", interval_s=0.1)
        clinic.triton.heal()
    wait_until(lambda: is_at_rest(clinic.lentigo), 240, "the studies before", interval_s=0.5)
    pacs.statuses[TAKEN[0]] = 0xA900
    send(clinic.lentigo, [fresh(folder, 110)])
    wait_until(lambda: is_at_rest(clinic.lentigo), 240, "a refusal", interval_s=0.5)
    pacs.statuses.clear()


def fresh(folder: Path, number: int) -> Path:
    return write(drawn(number), folder / "fresh" / f"{word('fresh file')}_{number}.dcm")


def is_at_rest(lentigo: Lentigo) -> bool:
    """Whether there are studies, and none that anybody works on."""
    states = [study["state"] for study in lentigo.studies().values()]
    return bool(states) and set(states) <= {"completed", "failed", "refused"}


_LINK = re.compile(r'(?:href|src|action|data-address)="([^"]*)"')


def crawl(client: httpx.Client) -> dict[str, str]:
    """Follow every link of the admin page."""
    waiting, pages = ["/studies", "/"], {}
    while waiting and len(pages) < 300:
        path = waiting.pop()
        if path in pages or "logout" in path or path.startswith("/static"):
            continue
        answer = client.get(path)
        is_page = answer.headers.get("content-type", "").startswith("text/html")
        pages[path] = answer.text if is_page else ""
        waiting += [
            each.partition("#")[0]
            for each in _LINK.findall(pages[path])
            if each.startswith("/") and not each.startswith("//")
        ]
    return pages


# -- the search ---------------------------------------------------------------------------------


def test_every_kind_was_analysed_and_every_step_has_failed(clinic: Clinic) -> None:
    items = [item for each in clinic.lentigo.studies().values() for item in each["work_items"]]
    done = {item["analysis"] for item in items if item["state"] == "COMPLETED"}
    assert done == {
        *("diagnosis", "tbp_screening", "change_detection"),
        *("slide_classification", "prognosis"),
    }
    assert any(item["state"] == "CANCELED" for item in items)
    assert clinic.triton.requests > 20


def test_logs_hold_nothing_of_a_patient(clinic: Clinic) -> None:
    home = clinic.lentigo.home
    paths = [home / "up.log", *(home / "logs").rglob("*"), *(home / "run").rglob("*.log")]
    found = {
        path.name: leaks(path.read_bytes()) for path in paths if path.is_file() and path.exists()
    }
    assert {name for name in found} >= {"up.log", "listener.log", "workers-quick.log"}
    assert not any(found.values()), {name: each[:5] for name, each in found.items() if each}
    assert leaks(clinic.lentigo.ready_line.encode()) == []


def test_redis_and_celery_hold_nothing_of_a_patient(clinic: Clinic) -> None:
    assert b"run_work_item" in clinic.told_redis or b"LPUSH" in clinic.told_redis
    assert leaks(clinic.told_redis) == []


def test_the_model_server_is_told_nothing_of_a_patient(clinic: Clinic) -> None:
    assert clinic.triton.found == []


def test_the_audit_trail_holds_no_planted_text(clinic: Clinic) -> None:
    """Audit messages name studies by UID, as PS3.15 A.5 wants, and nothing else of them."""
    trail = clinic.lentigo.home / "audit" / "audit.log"
    wait_until(lambda: b"instances" in trail.read_bytes().lower(), 20, "audit messages")
    assert leaks(trail.read_bytes(), with_uids=False) == []


def test_the_record_holds_attributes_in_its_table_of_identities_only(clinic: Clinic) -> None:
    """Reasons, details and errors are kept there: the texts of every exception on the way."""
    engine = create_engine(clinic.store.record_url)
    found: dict[str, list[str]] = {}
    with engine.connect() as connection:
        for table in inspect(engine).get_table_names():
            rows = connection.execute(text(f'SELECT * FROM "{table}"')).mappings().all()
            for row in rows:
                for column, value in row.items():
                    hits = leaks(str(value).encode(), with_uids=False)
                    if hits:
                        found.setdefault(f"{table}.{column}", []).extend(hits)
    engine.dispose()
    kept = {place for place in found if place.partition(".")[0] in IDENTITIES}
    # The name of a document is its key, and a person's choice; rules are the site's own text.
    assert set(found) - kept <= {"documents.name"}, found
    assert kept, "identities are kept"


def test_addresses_and_titles_of_the_admin_page_hold_no_patient_and_no_uid(clinic: Clinic) -> None:
    addresses = "\n".join(each for page in clinic.pages.values() for each in _LINK.findall(page))
    titles = "\n".join(
        each for page in clinic.pages.values() for each in re.findall("<title>(.*?)</title>", page)
    )
    assert len(clinic.pages) > 10
    assert leaks(addresses.encode()) == []
    assert leaks(titles.encode()) == []


def test_pages_show_no_attribute_of_a_patient(clinic: Clinic) -> None:
    # A report shows what a site's document said of the lesion; it names no patient either.
    shown = "\n".join(text for path, text in clinic.pages.items() if not path.endswith("/report"))
    assert UID_MARK in shown  # the page of a study names it
    assert leaks(shown.encode(), with_uids=False) == []


def test_health_and_metrics_hold_nothing_of_a_patient(clinic: Clinic) -> None:
    address = f"http://127.0.0.1:{clinic.lentigo.instance.http_port}"
    for path in ("/healthz", "/metrics"):
        assert leaks(httpx.get(address + path).content) == []


def test_refusals_over_http_repeat_nothing_of_a_patient(clinic: Clinic) -> None:
    assert any(clinic.answers)
    assert [leaks(each, with_uids=False) for each in clinic.answers if each] == [
        [] for each in clinic.answers if each
    ]
