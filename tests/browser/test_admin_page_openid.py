"""Login with the hospital's account, in a real browser, from a provider on another site."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.dashboard.app import create_app
from gateway.host.embedded import free_port
from gateway.settings import DashboardSettings, StoreSettings
from gateway.store.engine import migrate, open_engine
from tests.browser.conftest import LOGIN_ENDED
from tests.browser.driver import Browser, browser
from tests.openid_provider import CLIENT_ID, CLIENT_SECRET, Provider, provider
from tests.servers import require
from tests.web import served


@pytest.fixture(scope="module")
def hospital() -> Iterator[Provider]:
    with provider("localhost") as found:
        yield found


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, hospital: Provider) -> Iterator[str]:
    """The admin page of a new installation that trusts the hospital's provider."""
    require("chromium", "chromedriver")
    home = tmp_path_factory.mktemp("openid") / "home"
    home.mkdir(mode=0o700)
    port = free_port()
    store = StoreSettings(home=home)
    migrate(store.record_url)
    engine = open_engine(store.record_url)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "ISSUER": hospital.issuer,
            "CLIENT_ID": CLIENT_ID,
            "CLIENT_SECRET": CLIENT_SECRET,
            "PUBLIC_URL": f"http://127.0.0.1:{port}",
            "ROLES": "boss=admin,derm=reviewer",
        }.items():
            patch.setenv(f"LENTIGO_OPENID_{name}", value)
        app = create_app(store, DashboardSettings(), engine)
        with served(app, port) as url:
            yield url
            app.state.services.feed.close()
    engine.dispose()


@pytest.fixture
def window(tmp_path: Path) -> Iterator[Browser]:
    with browser(tmp_path / "browser", ignore_console=LOGIN_ENDED) as found:
        yield found


def test_somebody_comes_back_logged_in_to_the_page_that_was_asked_for(
    page: str, window: Browser, screenshots: Path
) -> None:
    window.open(f"{page}/queues")
    window.screenshot(screenshots / "login.png")
    window.click_text("Log in with the hospital's account")
    window.wait_for_url("^http://127.0.0.1:[0-9]+/queues$")
    window.wait_for_text("ada")
    window.open(f"{page}/studies")  # the session holds
    window.wait_for("#list")
    window.screenshot(screenshots / "studies.png")
    window.click_text("Log out")
    window.open(f"{page}/studies")
    window.wait_for_text("Log in with the hospital's account")


def test_somebody_without_a_role_here_is_told_so(
    page: str, hospital: Provider, window: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    cook = {"sub": "person-8", "preferred_username": "bob", "groups": ["kitchen"]}
    monkeypatch.setattr(hospital, "user", cook)
    window.open(page)
    window.click_text("Log in with the hospital's account")
    window.wait_for_text("Not logged in: this person is in no group that has a role here.")
    assert window.url.startswith(page)
    assert [each for each in window.forgive() if "403" not in each and "401" not in each] == []
