"""How the services of one host start and stop, and what an installation lacks."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import insert

from gateway import cli
from gateway.host.embedded import Command
from gateway.host.services import Service, StartError, has_dead_child
from gateway.host.supervisor import Supervisor, UpOptions
from gateway.settings import DashboardSettings, DeliverySettings, ListenerSettings, StoreSettings
from tests.servers import wait_until

# The handler comes while the main thread holds the event's own lock, as between two lines of
# Event.wait: that moment is made here, elsewhere it is one in a hundred stops.
_STOPS = """
import os, signal, threading
from gateway.host.stopping import stop_on_signals
event = threading.Event()
stop_on_signals(event)
with event._cond:
    os.kill(os.getpid(), signal.{name})
    signal.pthread_sigmask(signal.SIG_BLOCK, [])  # a moment at which handlers run
print(event.wait(60))
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_stops_a_service_that_is_about_to_wait(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _STOPS.format(name=name)],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "True"), done.stderr


def test_the_sweeper_ends_while_a_receiver_of_events_hangs(tmp_path: Path) -> None:
    """A webhook that takes connections and never answers is left alone at the end."""
    import socket

    from gateway.observation.notices import webhook_target
    from gateway.store.engine import migrate, open_engine, utc_now, writing
    from gateway.store.tables import Notice

    store = StoreSettings(home=tmp_path / "home")
    store.home.mkdir(mode=0o700)
    store.run_folder.mkdir()
    migrate(store.record_url)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        engine = open_engine(store.record_url)
        with writing(engine) as connection:
            now = utc_now()
            connection.execute(
                insert(Notice).values(
                    cause="test:1",
                    kind="study.failed",
                    target=webhook_target(address),
                    payload={"says": "a test"},
                    state="waiting",
                    attempts=0,
                    created_at=now,
                    next_attempt_at=now,
                    reason="",
                )
            )
        engine.dispose()
        environment = {
            **os.environ,
            "LENTIGO_HOME": str(store.home),
            "LENTIGO_BROKER_URL": f"redis+socket://{tmp_path}/none.sock",
            "LENTIGO_EVENTS_WEBHOOKS": address,
            "LENTIGO_EVENTS_SECRET": "a secret of a test",
            "LENTIGO_EVENTS_TIMEOUT_S": "600",
        }
        sweeper = subprocess.Popen([sys.executable, "-m", "gateway", "sweep"], env=environment)
        try:
            silent.settimeout(60)
            connection_of_sweeper, _ = silent.accept()
            sweeper.send_signal(signal.SIGTERM)
            with connection_of_sweeper:
                assert sweeper.wait(60) == 0
        finally:
            sweeper.kill()
            sweeper.wait()


def supervisor(home: Path, service: Service) -> Supervisor:
    found = Supervisor(
        UpOptions(
            store=StoreSettings(home=home),
            listener=ListenerSettings(),
            dashboard=DashboardSettings(),
            delivery=DeliverySettings(),
        )
    )
    (home / "logs").mkdir()
    found._services = [service]
    found._environment = dict(os.environ)
    return found


def failing(folder: Path, said: str, times: int) -> Callable[[], Command]:
    """Return a program that ends with a complaint so many times, and stays then."""
    text = f"n=$(ls {folder} | grep -c try); touch {folder}/try$n; "
    text += f"[ $n -ge {times} ] && exec sleep 600; echo '{said}' >&2; exit 1"
    return lambda: Command(argv=("sh", "-c", text), environment={})


@pytest.mark.parametrize(
    ("said", "times", "starts"),
    [
        ("boost::interprocess::lock_exception", 1, True),
        ("boost::interprocess::lock_exception", 2, True),
        ("boost::interprocess::lock_exception", 3, False),
        ("failed to load all models", 1, False),
    ],
)
def test_a_passing_cause_is_tried_again_and_no_other(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], said: str, times: int, starts: bool
) -> None:
    service = Service(
        name="triton",
        command=failing(tmp_path, said, times),
        is_ready=lambda: (tmp_path / f"try{times}").exists(),
        passing_causes=("lock_exception",),
    )
    of_one = supervisor(tmp_path, service)
    try:
        if starts:
            assert of_one._start_all()
        else:
            with pytest.raises(StartError, match=said):
                of_one._start_all()
    finally:
        of_one._stop_all()
    assert capfd.readouterr().err.count("trying once more") == (
        0 if "lock" not in said else min(times, 2)
    )


def test_what_an_earlier_start_left_in_the_log_is_no_cause(tmp_path: Path) -> None:
    service = Service(
        name="triton",
        command=failing(tmp_path, "failed to load all models", 1),
        is_ready=lambda: False,
        passing_causes=("lock_exception",),
    )
    of_one = supervisor(tmp_path, service)
    (tmp_path / "logs" / "triton.log").write_text("lock_exception\n")
    with pytest.raises(StartError, match="failed to load"):
        of_one._start_all()


_WITHOUT = """
import sys
for name in {missing}:
    sys.modules[name] = None
from gateway.cli import main
sys.exit(main({arguments}))
"""


@pytest.mark.parametrize("command", ["up", "demo"])
def test_a_base_installation_says_what_to_install(tmp_path: Path, command: str) -> None:
    missing = ["cv2", "highdicom", "scipy", "torch", "tritonclient"]
    script = _WITHOUT.format(missing=missing, arguments=[command, "--home", str(tmp_path / "h")])
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"lentigo {command}: this installation has no cv2")
    assert "pip install 'lentigo[host]'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "h").exists()


def test_a_module_that_no_extra_brings_is_a_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cli.COMMANDS, "status", ("gateway.no_such_module", "nothing"))
    with pytest.raises(ModuleNotFoundError):
        cli.main(["status"])


@pytest.mark.parametrize("is_waited_for", [False, True], ids=["dead child", "waited for"])
def test_a_service_that_lost_a_child_it_needs_is_crippled_at_the_second_look(
    is_waited_for: bool,
) -> None:
    program = "import subprocess, sys; child = subprocess.Popen(['true'])"
    program += "; child.wait()" if is_waited_for else "; child.stdout"
    program += "; print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        service = Service(
            name="triton",
            command=lambda: Command(argv=["true"], environment={}),
            is_ready=lambda: True,
            needs_children=True,
        )
        service.process = process
        if not is_waited_for:
            wait_until(lambda: has_dead_child(process.pid), 20, "the child's end")
        assert not service.is_crippled(100.0)
        assert not service.is_crippled(101.0)  # too soon for another look
        assert service.is_crippled(103.0) is not is_waited_for
        process.stdin.close() if process.stdin else None
