"""``lentigo demo``: pictures go in over real associations, reports come back, a table says so.

Everything is the shipped path: the pictures are wrapped as DICOM, sent by C-STORE to a Lentigo
that runs as its own processes, analysed by Triton, and delivered to an archive (pynetdicom's
query/retrieve server) that confirms them.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from gateway.delivery.routes import Destination
from gateway.demo.archive import archive
from gateway.demo.studies import DemoStudy, make_studies
from gateway.documents import document_desk
from gateway.errors import GatewayError
from gateway.home import RunningInstance, running_instance
from gateway.sending.send import send
from gateway.sending.wrap import wrap
from gateway.settings import StoreSettings
from gateway.store.engine import open_engine
from gateway.store.reading.status import study_list
from gateway.store.states import FINAL_STATES
from gateway.wording import headline

PICTURES = {".jpg", ".jpeg", ".png"}
_PLAIN_WIDTH = 140
_MARKER = ".lentigo-demo"
_READY_S = 180.0
_PER_STUDY_S = 20.0
_AT_LEAST_S = 120.0


class DemoError(GatewayError):
    """A step of the demonstration failed; the message says which and why."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--home", metavar="DIR", default="demo", help="folder of the demo, made anew (./demo)"
    )
    parser.add_argument("--images", metavar="DIR", help="take these JPEG and PNG pictures instead")
    parser.add_argument("--keep", action="store_true", help="leave everything running until Ctrl-C")


def run(args: argparse.Namespace) -> int:
    """Run the demonstration; 0 when every study ended with its results confirmed."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_PLAIN_WIDTH)
    started = time.monotonic()
    signal.signal(signal.SIGTERM, _interrupt)
    folder = _fresh_folder(Path(args.home))
    with ExitStack() as stack:
        wanted = _studies(args.images, folder, console)
        console.print(f"{len(wanted)} studies in {folder / 'dicom'}")
        destination = stack.enter_context(archive(folder / "archive"))
        instance = _start_lentigo(stack, folder, destination, console)
        _send(wanted, instance, console)
        studies = _wait(folder / "home", len(wanted), console)
        names = {each.study_instance_uid: each.name for each in wanted}
        _print_results(console, studies, names)
        _print_places(console, folder, instance, time.monotonic() - started)
        bad = [study for study in studies if study["state"] != "completed"]
        if args.keep:
            _wait_for_ctrl_c(console)
    if bad:
        reasons = "; ".join(f"{names.get(s['study_instance_uid'])}: {s['reason']}" for s in bad)
        raise DemoError(f"{len(bad)} of {len(studies)} studies did not complete: {reasons}")
    return 0


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _fresh_folder(folder: Path) -> Path:
    """Empty the folder of an earlier demo; refuse one that holds anything else."""
    folder = folder.resolve()
    if folder.exists() and any(folder.iterdir()) and not (folder / _MARKER).exists():
        raise DemoError(f"{folder} exists and is no demo's folder; give another with --home")
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        (folder / _MARKER).touch()
        (folder / "dicom").mkdir()
    except OSError as exc:
        raise DemoError(f"cannot make {folder}: {exc.strerror}") from exc
    return folder


def _studies(given: str | None, folder: Path, console: Console) -> list[DemoStudy]:
    """Return one study for each of the caller's pictures, or the drawn ones."""
    if given is None:
        console.print("drawing the studies (by the project; nothing of it is a patient's)")
        return make_studies(folder)
    if not Path(given).is_dir():
        raise DemoError(f"{given} is not a folder")
    found = sorted(p for p in Path(given).rglob("*") if p.suffix.lower() in PICTURES)
    if not found:
        raise DemoError(f"{given} holds no JPEG or PNG picture")
    return [_wrap(path, folder) for path in found]


def _wrap(picture: Path, folder: Path) -> DemoStudy:
    path = folder / "dicom" / f"{picture.stem}.dcm"
    number = 1
    while path.exists():  # two folders may hold a picture of the same name
        number += 1
        path = path.with_name(f"{picture.stem}-{number}.dcm")
    ds = wrap(picture, "dermoscopy")
    ds.save_as(path, enforce_file_format=True)
    return DemoStudy(name=path.stem, study_instance_uid=str(ds.StudyInstanceUID), instances=(path,))


def _start_lentigo(
    stack: ExitStack, folder: Path, destination: str, console: Console
) -> RunningInstance:
    console.print("starting Redis, Triton, listener, workers and the admin page")
    home = folder / "home"
    log_path = folder / "lentigo.log"
    command = (sys.executable, "-m", "gateway.cli", "up", "--home", str(home))
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            (*command, "--dicom-port", "0", "--http-port", "0", "--send-to", destination),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, "LENTIGO_WORKER_DEMONSTRATION_MODELS": "1"},
            # Ctrl-C must reach us first: the results are still to be shown.
            start_new_session=True,
        )
    stack.callback(_stop, process)
    guard = threading.Timer(_READY_S, process.kill)
    guard.start()
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    guard.cancel()
    instance = running_instance(home)
    if "ready" not in line or instance is None:
        said = log_path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        raise DemoError(f"Lentigo did not start: {said[-1] if said else 'it said nothing'}")
    console.print(line)
    return instance


def _stop(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(60.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def _send(studies: list[DemoStudy], instance: RunningInstance, console: Console) -> None:
    _attach(studies, Path(instance.home))
    peer = Destination(ae_title=instance.ae_title, host="127.0.0.1", port=instance.dicom_port)
    instances = [path for study in studies for path in study.instances]
    if not send(instances, peer).is_complete:
        raise DemoError("a study was not accepted by C-STORE")
    console.print(f"{len(instances)} instances sent by C-STORE, each acknowledged with 0000")


def _attach(studies: list[DemoStudy], home: Path) -> None:
    """Hand in the documents as ``lentigo attach`` does; they wait for their studies."""
    store = StoreSettings(home=home)
    engine = open_engine(store.record_url)
    desk = document_desk(store, engine)
    try:
        for study in studies:
            for name, content in study.documents.items():
                desk.receive(
                    uid=study.study_instance_uid,
                    name=name,
                    stated_type="",
                    content=content,
                    actor="demo",
                )
    finally:
        engine.dispose()


def _wait(home: Path, count: int, console: Console) -> list[dict[str, Any]]:
    engine = open_engine(StoreSettings(home=home).record_url)
    deadline = time.monotonic() + max(_AT_LEAST_S, _PER_STUDY_S * count)
    try:
        with console.status("analysing") as line:
            while True:
                studies = study_list(engine)
                done = sum(study["state"] in FINAL_STATES for study in studies)
                line.update(f"{done} of {count} studies have their results confirmed")
                if done >= count:
                    return list(studies)
                if time.monotonic() > deadline:
                    raise DemoError(f"{count - done} of {count} studies are still under way")
                time.sleep(0.2)
    finally:
        engine.dispose()


def _print_results(console: Console, studies: list[dict[str, Any]], names: dict[str, str]) -> None:
    table = Table(title="Research use only: models' opinions on drawn pictures")
    for title, justify in (
        ("study", "left"),
        ("analysis", "left"),
        ("finding", "left"),
        ("objects confirmed", "left"),
        ("seconds", "right"),
    ):
        table.add_column(title, justify=justify)  # type: ignore[arg-type]
    order = list(names)
    for study in sorted(studies, key=lambda s: order.index(s["study_instance_uid"])):
        for item in study["work_items"]:
            table.add_row(
                names[study["study_instance_uid"]], *_row(item, study["last_received_at"])
            )
    console.print(table)


def _row(item: dict[str, Any], last_received_at: str) -> tuple[str, ...]:
    kinds = Counter(
        each["role"].rstrip("0123456789").rstrip("-")
        for each in item["objects"]
        if all(delivery["state"] == "CONFIRMED" for delivery in each["deliveries"])
    )
    objects = ", ".join(kind if n == 1 else f"{n} {kind}" for kind, n in kinds.items())
    return (
        item["analysis"],
        headline(item["summary"]) or item["reason"] or item["state"],
        objects or item["state"],
        _seconds_between(last_received_at, item["finished_at"]),
    )


def _seconds_between(start: str, end: str | None) -> str:
    if not end:
        return ""
    span = dt.datetime.fromisoformat(end) - dt.datetime.fromisoformat(start)
    return f"{span.total_seconds():.1f}"


def _print_places(
    console: Console, folder: Path, instance: RunningInstance, seconds: float
) -> None:
    password = Path(instance.home) / "initial-password.txt"
    said = password.read_text(encoding="utf-8").strip() if password.exists() else "(changed)"
    console.print(f"admin page     http://127.0.0.1:{instance.http_port}/  user admin  {said}")
    console.print(f"result files   {Path(instance.home) / 'results'}")
    console.print(f"in the archive {folder / 'archive' / 'instances'}")
    console.print(f"took           {seconds:.0f} s from the first picture to the last confirmation")


def _wait_for_ctrl_c(console: Console) -> None:
    console.print("running on; Ctrl-C stops it")
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        console.print("stopping")
