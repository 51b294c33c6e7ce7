"""What the admin page says when there is nothing, when something failed, when nobody is known."""

from collections.abc import Iterator

import pytest
from sqlalchemy import delete

from gateway.errors import RecordUnavailable
from gateway.store.engine import writing
from gateway.store.people import accounts
from gateway.store.tables import WebSession
from tests.browser.admin_site import Site, admin_site
from tests.browser.conftest import log_in
from tests.servers import require


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The admin page of an installation that was just started."""
    require("chromium", "chromedriver", "openssl")
    with admin_site(tmp_path_factory.mktemp("admin") / "home", is_new=True) as found:
        yield found


def test_first_start_says_how_a_study_comes_in(site, window, shoot):
    window.open(site.url)
    window.wait_for_text("No study has been received yet")
    assert f"port {site.listener.port}" in window.text
    assert window.find("a[href='/self-test']") is not None
    shoot("first-start")
    for path in ("/studies", "/failures", "/queues", "/nodes", "/storage", "/reviews", "/audit"):
        window.open(site.url + path)
        shoot(f"empty{path.replace('/', '-')}")
    assert window.console_errors() == []


def test_failed_study_says_why_and_what_can_be_done(site, window, shoot):
    (item,) = site.record.schedule("diagnosis")
    claim = site.record.claim(item)
    site.record.ledger.fail(claim, kind="REJECTED", reason="the frame 1 cannot be decoded")
    window.open(f"{site.url}/studies/1")
    window.wait_for_text("No result was made: the analysis failed")
    assert "the frame 1 cannot be decoded" in window.text
    assert window.find("button[value=retry]") is not None
    shoot("failed")


def test_unknown_page_says_where_to_look(site, window, shoot):
    window.open(f"{site.url}/studies/4711")
    window.wait_for_text("No such study is known.")
    assert "finds a study by Patient ID" in window.text
    shoot("missing")
    assert [each for each in window.forgive() if "404" not in each] == []


def test_ended_login_comes_back_to_the_page(site, window, shoot):
    window.open(f"{site.url}/queues")
    with writing(site.engine) as connection:
        connection.execute(delete(WebSession))
    # Somebody comes back to the tab: it asks how things stand, is refused, and goes by itself.
    window.script("document.dispatchEvent(new Event('visibilitychange'))")
    window.wait_for_text("Your login has ended. Log in to go on where you were.")
    shoot("ended")
    log_in(window)
    window.wait_for_url("/queues$")


def test_record_that_does_not_answer_is_said_on_every_page(site, window, shoot, monkeypatch):
    def gone(*_: object) -> None:
        raise RecordUnavailable("the record does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(accounts.Accounts, "session", gone)
        window.open(f"{site.url}/studies")
        window.wait_for_text("The record does not answer")
        assert "lentigo doctor" in window.text
        shoot("outage")
    assert [each for each in window.forgive() if "503" not in each] == []
    window.open(f"{site.url}/studies")
    window.wait_for("#list")


def test_page_that_fails_says_where_the_reason_stands(site, window, shoot, monkeypatch):
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr("gateway.dashboard.pages.queues.QueueReader.read", broken)
        window.open(f"{site.url}/queues")
        window.wait_for_text("This page failed.")
        assert "logs/dashboard.log" in window.text
        shoot("defect")
    assert [each for each in window.forgive() if "500" not in each] == []
