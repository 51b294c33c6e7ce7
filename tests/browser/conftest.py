"""Fixtures of the browser tests."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.browser.admin_site import Site, admin_site
from tests.browser.driver import Browser, browser
from tests.pages import CHOSEN
from tests.servers import require

# A page whose login ends while it is open asks once more, and then goes to the login.
LOGIN_ENDED = (r"/(live|api/mark)\b.* status of 401",)
WIDE, NARROW = (1280, 860), (400, 860)
IN_DOCUMENTS = frozenset(
    {
        *("overview", "studies", "study", "failures", "queues", "models", "rules", "nodes"),
        *("storage", "audit", "settings", "self-test-passed"),
    }
)


@pytest.fixture
def screenshots(request: pytest.FixtureRequest) -> Path:
    """Folder for the pictures that a test takes: ``build/screenshots/<test>``.

    ``SCREENSHOTS`` names another folder than ``build/screenshots``.
    """
    root = Path(os.environ.get("SCREENSHOTS") or request.config.rootpath / "build/screenshots")
    folder = root / request.node.name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The admin page of an installation at work."""
    require("chromium", "chromedriver", "openssl")
    with admin_site(tmp_path_factory.mktemp("admin") / "home") as found:
        yield found


@pytest.fixture(scope="module")
def window(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser in which ``admin`` is logged in; an error on its console fails the module."""
    with browser(
        tmp_path_factory.mktemp("chromium"), size=WIDE, ignore_console=LOGIN_ENDED
    ) as found:
        found.open(f"{site.url}/studies")
        log_in(found)
        found.wait_for("#list")
        yield found


def log_in(window: Browser, username: str = "admin", password: str = CHOSEN) -> None:
    """Fill in the form that is shown."""
    window.fill("#username", username)
    window.fill("#password", password)
    window.click(".card button")


@pytest.fixture
def shoot(window: Browser, screenshots: Path) -> Callable[[str], None]:
    """Photographs the page, light, dark and narrow.

    ``DOCS_SCREENSHOTS`` names a folder that gets the light one of what ``docs/admin.md`` shows,
    too, as ``admin-<name>.png``.
    """

    def take(name: str) -> None:
        for scheme in ("dark", "light"):
            window.script(f"document.documentElement.dataset.scheme = '{scheme}'")
            window.screenshot(screenshots / f"{name}-{scheme}.png")
        folder = os.environ.get("DOCS_SCREENSHOTS")
        if folder and name in IN_DOCUMENTS:
            # A palette: a document is loaded often, and a page has few colours; rare ones count.
            picture = Image.fromarray(window.screenshot()).quantize(
                256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
            )
            picture.save(Path(folder) / f"admin-{name}.png", optimize=True)
        window.script("delete document.documentElement.dataset.scheme")
        assert not window.overflows(), name
        window.set_size(*NARROW)
        window.screenshot(screenshots / f"{name}-narrow.png")
        overflows = window.overflows()
        window.set_size(*WIDE)
        assert not overflows, f"{name}, narrow"

    return take
