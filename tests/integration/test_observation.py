"""What Lentigo tells outside, and its models switched while it runs: the real stack, told once.

One ``lentigo up`` for the whole file: real Triton on a repository of two versions of a model and
one that does not load, a storage SCP that confirms, and receivers for webhooks, mail, FHIR and
traces.
"""

import hashlib
import hmac
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from pydicom import dcmread
from safetensors.numpy import load_file, save_file

from gateway.delivery.routes import Destination
from gateway.demo.samples import render
from gateway.sending.send import send
from gateway.sending.wrap import StudyIdentity, wrap
from tests.browser.driver import browser
from tests.lentigo import PASSWORD, ROOT, Lentigo
from tests.pages import CHOSEN, change_password, log_in, token_in
from tests.receivers import Receivers, Span, receivers
from tests.servers import wait_until
from tests.storage_scp import StorageScp

SECRET = "kT9v-2mQx_r71LwZpB4e"
TOKEN = "wN3c-88vYtQe_Zp0LrXa"
MODEL = "diagnosis"


def digest_of(version: Path) -> str:
    return str(json.loads((version / "manifest.json").read_text())["digest"])


def add_version(folder: Path, number: int, version: str) -> Path:
    """Add a version with other weights beside the first one; return its folder."""
    made = folder / str(number)
    shutil.copytree(folder / "1", made, ignore=shutil.ignore_patterns("__pycache__"))
    weights = load_file(made / "weights.safetensors")
    name = sorted(each for each, tensor in weights.items() if tensor.dtype == "float32")[0]
    weights[name] = weights[name] + 1e-6 * number
    save_file(weights, made / "weights.safetensors")
    digest = hashlib.sha256((made / "weights.safetensors").read_bytes()).hexdigest()
    for each in ("manifest.json", "config.pbtxt"):
        text = (made / each).read_text().replace(digest_of(folder / "1"), digest)
        text = text.replace("versions: [ 1 ]", f"versions: [ {number} ]")
        text = re.sub(r'(\\?"version\\?": \\?")2\.0\.0', rf"\g<1>{version}", text, count=1)
        (made / each).write_text(text)
    return made


class Site:
    """The running installation and everything around it."""

    def __init__(self, lentigo: Lentigo, told: Receivers, pacs: StorageScp, folder: Path) -> None:
        self.lentigo, self.told, self.pacs, self.folder = lentigo, told, pacs, folder
        self.models = folder / "repository"
        self._sent = 0

    @property
    def page(self) -> str:
        return f"http://127.0.0.1:{self.lentigo.instance.http_port}"

    def send(self, **changes: str) -> tuple[str, Path]:
        """Send one study of a patient; return its UID and its file."""
        self._sent += 1
        picture = self.folder / f"{self._sent}.jpg"
        Image.fromarray(render("nevus", seed=self._sent)).save(picture, quality=92)
        identity = StudyIdentity(
            **{
                "patient_id": "CANARY-ID",
                "patient_name": "Canary^Patient",
                "accession_number": f"CANARY-ACC-{self._sent}",
                **changes,
            }
        )
        ds = wrap(picture, "dermoscopy", identity=identity)
        path = self.folder / f"{self._sent}.dcm"
        ds.save_as(path, enforce_file_format=True)
        self.send_file(path)
        return identity.study_instance_uid, path

    def send_file(self, path: Path) -> None:
        listener = Destination(ae_title="LENTIGO", host="127.0.0.1", port=self.lentigo.dicom_port)
        assert send([path], listener, calling_ae_title="CAMERA").is_complete

    def complete(self) -> dict[str, Any]:
        """Send a study and wait for its end; return what the record says of it."""
        uid, _ = self.send()
        self.lentigo.wait_for_study(uid, 240.0)
        found = self.lentigo.studies()[uid]
        assert found["state"] == "completed", found["reason"]
        return found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("observation")
    repository = folder / "repository"
    shutil.copytree(
        ROOT / "triton_repo" / MODEL,
        repository / MODEL,
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    add_version(repository / MODEL, 2, "2.0.1")
    broken = add_version(repository / MODEL, 3, "2.0.2")
    (broken / "model.py").write_text("raise RuntimeError('of a test')\n")
    with receivers() as told, StorageScp().serving() as pacs:
        told.refusals = 1
        at = f"http://127.0.0.1:{told.port}"
        lentigo = Lentigo(
            folder / "home",
            send_to=f"PACS@127.0.0.1:{pacs.port}",
            models=(MODEL,),
            environment={
                "LENTIGO_MODELS_REPOSITORY": str(repository),
                "LENTIGO_METRICS_TOKEN": TOKEN,
                "LENTIGO_EVENTS_WEBHOOKS": f"{at}/hook",
                "LENTIGO_EVENTS_SECRET": SECRET,
                "LENTIGO_FHIR_URL": f"{at}/fhir",
                "LENTIGO_TRACING_ENDPOINT": f"{at}/v1/traces",
                "LENTIGO_MAIL_SERVER": f"127.0.0.1:{told.mail_port}",
                "LENTIGO_MAIL_SENDER": "lentigo@clinic.example",
                "LENTIGO_MAIL_RECIPIENTS": "pacs@clinic.example",
                "LENTIGO_MAIL_SECURITY": "none",
                # Soon, so that the spans of a test are there before its end.
                "OTEL_BSP_SCHEDULE_DELAY": "500",
            },
        )
        lentigo.start(240.0)
        try:
            yield Site(lentigo, told, pacs, folder)
        finally:
            lentigo.stop(120.0)


@pytest.fixture(scope="module")
def first(site: Site) -> dict[str, Any]:
    """The first study that has gone all the way."""
    return site.complete()


@pytest.mark.timeout(600)
def test_the_self_test_goes_the_whole_way_and_stays_here(site: Site) -> None:
    before = len(site.pacs.stored)
    words = ("selftest", "--json", "--timeout", "150")
    said = json.loads(site.lentigo.command(*words, timeout_s=240.0))
    assert said["state"] == "completed"
    stages = {"C-STORE", "quiet window", "routing", "analysis", "delivery", "round trip"}
    assert set(said["seconds"]) == stages
    assert all(seconds is not None and seconds >= 0 for seconds in said["seconds"].values())
    assert len(site.pacs.stored) == before


def metrics(site: Site) -> str:
    answer = httpx.get(f"{site.page}/metrics", headers={"authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 200
    return answer.text


def test_metrics_name_the_way_of_a_study_and_no_patient(site: Site, first: dict[str, Any]) -> None:
    assert httpx.get(f"{site.page}/metrics").status_code == 401
    wanted = (
        'lentigo_instances_received_total{disposition="accepted"',  # the listener
        'lentigo_associations_total{outcome="released"}',
        'lentigo_stage_duration_seconds_bucket{analysis="',
        'lentigo_results_total{analysis="diagnosis",outcome="assessed"}',  # a worker
        'lentigo_inference_duration_seconds_count{analysis="diagnosis"}',
        f'lentigo_delivery_answers_total{{destination="PACS@127.0.0.1:{site.pacs.port}"',
        'lentigo_studies_finished_total{state="completed"}',  # the sweeper
        'lentigo_service_mark_age_seconds{service="sweeper"}',
        'lentigo_service_mark_age_seconds{service="workers-quick"}',
        "lentigo_record_up 1.0",  # the page
    )
    wait_until(lambda: all(each in metrics(site) for each in wanted), 60.0, "the metrics")
    text = metrics(site)
    for secret in ("CANARY", "Canary", first["study_instance_uid"], TOKEN, SECRET):
        assert secret not in text
    labels = re.findall(r'[a-z_]+="([^"]*)"', text)
    # No UID and no digest is a label: each would be a series of its own.
    assert not [each for each in labels if re.fullmatch(r"[\d.]{20,}|[0-9a-f]{32,}", each)]
    assert len([line for line in text.splitlines() if not line.startswith("#")]) < 3000


def test_one_trace_spans_listener_routing_worker_triton_and_delivery(
    site: Site, first: dict[str, Any]
) -> None:
    def of_the_study() -> list[Span]:
        spans = site.told.spans()
        numbers = {
            each.trace_id
            for each in spans
            if each.name == "receive"
            and each.attributes["lentigo.study"].strip() == f"int_value: {first['number']}"
        }
        return [each for each in spans if each.trace_id in numbers and each.service != "triton"]

    def of_triton() -> list[Span]:
        asked = {f"00-{each.trace_id}-{each.span_id}-01" for each in of_the_study()}
        return [
            each
            for each in site.told.spans()
            if each.service == "triton" and each.attributes.get("triton.request_id") in asked
        ]

    ours = {"receive", "quiet window", "route", "analyse", "infer", "deliver"}
    wait_until(
        lambda: ours <= {each.name for each in of_the_study()} and of_triton(), 90.0, "the trace"
    )
    spans = of_the_study()
    assert len({each.trace_id for each in spans}) == 1
    by_name = {each.name: each for each in spans}
    assert by_name["infer"].parent_id == by_name["analyse"].span_id
    assert {each.service for each in spans} == {"listener", "workers"}
    asked = {
        (each.trace_id, each.span_id): each.attributes["triton.request_id"].split("-")[1:3]
        for each in of_triton()
    }
    infer = [[each.trace_id, each.span_id] for each in spans if each.name == "infer"]
    assert all(each in infer for each in asked.values())


def test_a_webhook_is_told_again_until_it_takes_it_and_can_check_who_told(
    site: Site, first: dict[str, Any]
) -> None:
    def kinds() -> set[str]:
        return {post.headers["x-lentigo-event"] for post in site.told.to("/hook")}

    wait_until(lambda: {"study.received", "study.completed"} <= kinds(), 60.0, "the events")
    posts = site.told.to("/hook")
    for post in posts:
        signed = post.headers["x-lentigo-timestamp"].encode() + b"." + post.body
        expected = "sha256=" + hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()
        assert hmac.compare_digest(post.headers["x-lentigo-signature"], expected)
        assert b"CANARY" not in post.body
        assert first["study_instance_uid"].encode() not in post.body
    # The first was answered 503: the same delivery came once more, and no other twice.
    numbers = [post.headers["x-lentigo-delivery"] for post in posts]
    assert numbers.count(numbers[0]) == 2
    assert len(numbers) == len(set(numbers)) + 1


def test_a_fhir_server_gets_one_valid_report_of_a_study(site: Site, first: dict[str, Any]) -> None:
    from fhir.resources.R4B.diagnosticreport import DiagnosticReport

    uid = f"urn:oid:{first['study_instance_uid']}".encode()

    def reports() -> list[bytes]:
        return [post.body for post in site.told.to("/fhir/DiagnosticReport") if uid in post.body]

    wait_until(lambda: bool(reports()), 60.0, "the report")
    (body,) = reports()
    report = DiagnosticReport.model_validate_json(body)
    assert report.status == "preliminary"
    assert report.subject.identifier.value == "CANARY-ID"


def test_an_alarm_goes_out_by_mail(site: Site) -> None:
    uid, path = site.send()
    site.lentigo.wait_for_study(uid, 240.0)
    ds = dcmread(path)
    ds.PatientComments = "other bytes under the same UID"
    ds.save_as(path)
    site.send_file(path)
    wait_until(lambda: bool(site.told.mails), 60.0, "the mail")
    envelope = site.told.mails[0]
    assert envelope.rcpt_tos == ["pacs@clinic.example"]
    content = envelope.content.decode()
    assert "came again with other bytes" in content
    assert "CANARY" not in content
    assert uid not in content


def test_doctor_asks_the_real_servers(site: Site, first: dict[str, Any]) -> None:
    done = site.lentigo.diagnosis()
    found = {each["part"]: each for each in done}
    assert {part: found[part]["verdict"] for part in ("Triton", "Redis", "listener", "record")} == {
        "Triton": "OK",
        "Redis": "OK",
        "listener": "OK",
        "record": "OK",
    }
    assert found["sweeper"]["verdict"] == found["workers-quick"]["verdict"] == "OK"
    assert found["audit trail"]["verdict"] == "OK"
    assert found["destination"]["said"].startswith(f"PACS@127.0.0.1:{site.pacs.port} answers")
    live = digest_of(site.models / MODEL)
    assert found[f"model {MODEL}"]["verdict"] == "OK"
    assert live[:12] in found[f"model {MODEL}"]["said"]


# Each change is a process that loads torch: a minute and more on a machine at load 25.
_CHANGE_S = 300.0


@pytest.mark.timeout(1200)
def test_a_model_is_promoted_and_rolled_back_while_studies_come(
    site: Site, first: dict[str, Any]
) -> None:
    """By a person on the page, and by a program."""
    folder = site.models / MODEL
    one, two = digest_of(folder / "1"), digest_of(folder / "2")
    assert one != two
    with (
        httpx.Client(base_url=site.page, timeout=_CHANGE_S) as client,
        browser(site.folder / "browser") as window,
    ):
        log_in(client, PASSWORD)
        assert change_password(client, old=PASSWORD).status_code == 303
        token = token_in(client.get("/models").text)
        window.driver.set_page_load_timeout(_CHANGE_S)
        window.open(f"{site.page}/models")
        window.fill("#username", "admin")
        window.fill("#password", CHOSEN)
        window.click(".card button")

        def press(form: str) -> None:
            window.fill(f"{form} input[name=reason]", "of a test")
            window.click(f"{form} button")
            window.wait_for_text("Triton serves it.", _CHANGE_S)

        def digest() -> str:
            (item,) = site.complete()["work_items"]
            return str(item["model_digest"])

        assert digest() == one
        press(f"form[action='/models/{MODEL}/promote']:has(input[value='2'])")
        assert digest() == two

        # One that does not load changes nothing: not what answers, nor what a restart would load.
        answer = client.post(
            f"/api/models/{MODEL}/promote",
            json={"reason": "of a test", "number": 3},
            headers={"x-csrf-token": token},
        )
        assert answer.status_code == 409, answer.text
        assert "was taken back" in answer.json()["detail"]
        assert digest_of(folder) == two
        assert digest() == two

        window.open(f"{site.page}/models")
        press(f"form[action='/models/{MODEL}/rollback']")
        assert digest_of(folder) == one
        assert digest() == one
        (model,) = client.get("/api/models").json()
    assert model["digest"] == one
    assert model["readiness"] == "ready"
    standing = {each["number"]: each["standing"] for each in model["versions"]}
    assert standing == {1: "live", 2: "retired", 3: "retired"}


@pytest.mark.timeout(900)
def test_spans_of_triton_join_the_trace_where_triton_reads_its_header_right(
    site: Site, first: dict[str, Any]
) -> None:
    """It reads beyond the header's end: of the requests most join, no single one must."""

    def joined() -> list[Span]:
        spans = site.told.spans()
        infer = {each.span_id: each.trace_id for each in spans if each.name == "infer"}
        return [
            each
            for each in spans
            if each.service == "triton" and infer.get(each.parent_id) == each.trace_id
        ]

    for _ in range(10):
        if joined():
            break
        site.complete()
    wait_until(joined, 30.0, "a joined trace")
