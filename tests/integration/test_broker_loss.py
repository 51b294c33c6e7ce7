"""A worker comes back when Redis dies while an acknowledgement is due."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from celery import Celery

from gateway.host import embedded
from tests.lentigo import ROOT, wait_a_moment
from tests.servers import wait_until
from workers.acks import PERIOD_S

WORKER = """
import sys, time
from pathlib import Path
from celery import Celery
from workers.acks import AckWatch

folder = Path(sys.argv[2])
app = Celery("test", broker=sys.argv[1])
app.conf.update(
    task_ignore_result=True, task_acks_late=True, worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True, broker_connection_max_retries=None,
    # Without the remote control's channel nothing else notices that the connection was lost.
    worker_enable_remote_control=False, worker_send_task_events=False,
)
app.steps["consumer"].add(AckWatch)

@app.task(name="hold")
def hold():
    (folder / "held").touch()
    while not (folder / "go").exists():
        time.sleep(0.05)
    (folder / "done").touch()

@app.task(name="mark")
def mark():
    (folder / "marked").touch()

app.Worker(pool="prefork", concurrency=1, without_gossip=True, without_mingle=True,
           without_heartbeat=True, quiet=True).start()
"""


@contextmanager
def running_redis(path: Path, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    path.unlink(missing_ok=True)
    command = embedded.redis_command(path, folder)
    process = subprocess.Popen(command.argv, stdout=subprocess.DEVNULL)
    client = redis.Redis(unix_socket_path=str(path), socket_timeout=1.0)

    def answers() -> bool:
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False

    try:
        wait_until(answers, 20, "Redis")
        yield process
    finally:
        client.close()
        process.kill()
        process.wait(10)


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("b")  # short: the path of a socket has 107 bytes at most


@pytest.mark.timeout(120)
def test_a_lost_acknowledgement_stops_no_consumer(folder: Path) -> None:
    path = folder / "r.sock"
    url = f"redis+socket://{path}"
    (folder / "worker.py").write_text(WORKER)
    producer = Celery("test", broker=url)
    with (folder / "worker.log").open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, str(folder / "worker.py"), url, str(folder)],
            cwd=ROOT,
            env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        with running_redis(path, folder):
            producer.send_task("hold")
            wait_until((folder / "held").exists, 30, "the task")
            # The task ends while its parent sleeps: the acknowledgement is the first thing it does.
            worker.send_signal(signal.SIGSTOP)
            (folder / "go").touch()
            wait_until((folder / "done").exists, 20, "the end of the task")
        worker.send_signal(signal.SIGCONT)
        wait_until(
            lambda: any(
                word in (folder / "worker.log").read_bytes()
                for word in (b"Couldn't ack", b"broker lost")
            ),
            *(20, "the lost connection"),
        )
        with running_redis(path, folder):
            producer.send_task("mark")
            wait_until((folder / "marked").exists, 60, "the next task")
            # Once is enough: an idle consumer whose acknowledgements arrived is left alone.
            wait_a_moment(3 * PERIOD_S)
        assert (folder / "worker.log").read_bytes().count(b"held by no task") == 1
    finally:
        producer.close()
        worker.send_signal(signal.SIGKILL)
        subprocess.run(["pkill", "-KILL", "-s", str(worker.pid)], check=False)
        worker.wait(10)
