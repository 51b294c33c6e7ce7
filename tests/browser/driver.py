"""Debian's Chromium, headless, driven through its chromedriver.

The browser reaches loopback only, starts with an empty profile, and has an exact window. A page
that writes an error to the console fails the test that opened it.
"""

import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import cv2
import numpy as np
from numpy.typing import NDArray
from selenium.common.exceptions import (
    ElementClickInterceptedException,
    ElementNotInteractableException,
    NoSuchElementException,
    StaleElementReferenceException,
    WebDriverException,
)
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from tests.servers import find_program, require, wait_until

T = TypeVar("T")

Picture = NDArray[np.uint8]
"""(H, W, 3) uint8, RGB."""

_ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",  # tests may run as root, where Chromium's sandbox cannot
    "--disable-gpu",
    "--enable-unsafe-swiftshader",  # WebGL without a GPU
    "--disable-dev-shm-usage",  # /dev/shm is small in containers
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
)
_PAGE_LOAD_S = 60
_REDRAWN = (
    StaleElementReferenceException,
    NoSuchElementException,
    ElementNotInteractableException,
    ElementClickInterceptedException,
)
# What chromedriver says in other words of a page that was left, or redrawn, while it was asked.
_LEFT = re.compile("does not belong to the document|aborted by navigation|execution context")


class Browser:
    """One browser window."""

    def __init__(self, driver: Chrome, ignore_console: tuple[str, ...]) -> None:
        self.driver = driver
        self._ignore = [re.compile(pattern) for pattern in ignore_console]
        self._errors: list[str] = []

    def open(self, url: str) -> None:
        """Go to a page and wait until it is loaded."""
        self.driver.get(url)

    @property
    def url(self) -> str:
        """Address of the page shown."""
        return self.driver.current_url

    @property
    def text(self) -> str:
        """Visible text of the page."""
        return str(self.script("return document.body ? document.body.innerText : ''"))

    def script(self, code: str, *arguments: Any) -> Any:
        """Run JavaScript in the page; ``return`` gives a value back."""
        return self.driver.execute_script(code, *arguments)

    def find(self, css: str) -> WebElement | None:
        """Return the first element that matches, None when there is none."""
        found = self.driver.find_elements(By.CSS_SELECTOR, css)
        return found[0] if found else None

    def find_all(self, css: str) -> list[WebElement]:
        """Return every element that matches."""
        return self.driver.find_elements(By.CSS_SELECTOR, css)

    def wait_until(
        self, predicate: Callable[[], T], timeout_s: float, what: str, *, interval_s: float = 0.05
    ) -> T:
        """Poll until `predicate` is true, and return it; a page being redrawn is not there yet.

        Pages follow the record: what was found may be replaced before it is read. So everything
        that is looked for belongs into the predicate.
        """

        def answer() -> T | None:
            try:
                return predicate()
            except WebDriverException as exc:
                if isinstance(exc, _REDRAWN) or _LEFT.search(exc.msg or ""):
                    return None
                raise

        found = wait_until(answer, timeout_s, f"{what} on {self.url}", interval_s=interval_s)
        assert found is not None
        return found

    def act(self, action: Callable[[], object], what: str, timeout_s: float = 30.0) -> None:
        """Find something and click it or type into it, again while the page is being redrawn.

        Parameters
        ----------
        action
            Finds what it acts on. Whatever it did to an element that was then replaced is lost
            with it, so it must do all of it again: choose and submit in one action.
        """

        def is_done() -> bool:
            action()
            return True

        self.wait_until(is_done, timeout_s, what)

    def wait_for(self, css: str, timeout_s: float = 30.0) -> WebElement:
        """Wait until an element matches and is visible, and return it."""
        return self.wait_until(
            lambda: self._visible(By.CSS_SELECTOR, css), timeout_s, f"element {css!r}"
        )

    def read(self, css: str, timeout_s: float = 30.0) -> str:
        """Wait until an element matches, is visible and has a text, and return the text."""
        return self.wait_until(lambda: self._visible(By.CSS_SELECTOR, css).text, timeout_s, css)

    def wait_for_text(self, text: str, timeout_s: float = 30.0) -> None:
        """Wait until the page shows a text."""
        self.wait_until(lambda: text in self.text, timeout_s, f"text {text!r}")

    def wait_for_url(self, pattern: str, timeout_s: float = 30.0) -> None:
        """Wait until the address matches a regular expression somewhere."""
        self.wait_until(lambda: re.search(pattern, self.url), timeout_s, f"address {pattern!r}")

    def fill(self, css: str, text: str) -> None:
        """Type a text into a field, in place of what it holds."""

        def fill() -> None:
            element = self._visible(By.CSS_SELECTOR, css)
            element.clear()
            element.send_keys(text)

        self.act(fill, f"field {css!r}")

    def submit(self, css: str, text: str) -> None:
        """Type a text into a field and press Enter, once."""
        self.fill(css, text)
        value = "const found = document.querySelector(arguments[0]); return found && found.value"
        self.wait_until(lambda: self.script(value, css) == text, 30.0, f"{text!r} in {css!r}")
        try:
            self._visible(By.CSS_SELECTOR, css).send_keys(Keys.ENTER)
        except WebDriverException as exc:
            # The key leads away from the page, maybe before chromedriver has said so. Pressed
            # again, it would send whatever then stands in the field of the next page.
            if not (isinstance(exc, _REDRAWN) or _LEFT.search(exc.msg or "")):
                raise

    def choose(self, css: str, *, text: str = "", value: str = "") -> None:
        """Choose an option of a list by what it shows, or by its value."""
        wanted = f'normalize-space(.)="{text}"' if text else f'@value="{value}"'

        # Not selenium's Select: its dozen questions take longer than a page stays as it is.
        def choose() -> None:
            options = self._visible(By.CSS_SELECTOR, css)
            options.find_element(By.XPATH, f".//option[{wanted}]").click()

        self.act(choose, f"option {text or value!r} of {css!r}")

    def click(self, css: str, timeout_s: float = 30.0) -> None:
        """Click the first visible element that matches."""
        self.act(lambda: self._visible(By.CSS_SELECTOR, css).click(), f"element {css!r}", timeout_s)

    def click_xpath(self, path: str, what: str, timeout_s: float = 30.0) -> None:
        """Click the first visible element on an XPath."""
        self.act(lambda: self._visible(By.XPATH, path).click(), what, timeout_s)

    def click_text(self, text: str, timeout_s: float = 30.0) -> None:
        """Click the button or link with exactly this text."""
        quoted = '"' + text.replace('"', "") + '"'
        path = f"//*[self::button or self::a][normalize-space(.)={quoted}]"
        self.click_xpath(path, f"button or link {text!r}", timeout_s)

    def double_click(self, css: str) -> None:
        """Double-click the first visible element that matches."""

        def double_click() -> None:
            element = self._visible(By.CSS_SELECTOR, css)
            ActionChains(self.driver).double_click(element).perform()

        self.act(double_click, f"element {css!r}")

    def set_size(self, width: int, height: int) -> None:
        """Give the page exactly this many CSS pixels, one device pixel each."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def screenshot(self, path: Path | None = None, *, css: str = "") -> Picture:
        """Photograph the window, or one element, and write it where asked.

        Parameters
        ----------
        path
            PNG file; its folder is made when it does not exist.
        css
            Element to cut out of the picture.
        """
        png = self.driver.get_screenshot_as_png()
        picture = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR_RGB)
        if css:
            top, left, bottom, right = (max(0, int(edge)) for edge in self._box(css))
            picture = picture[top:bottom, left:right]
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            if css:
                cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
            else:
                path.write_bytes(png)
        return np.asarray(picture, np.uint8)

    def console_errors(self) -> list[str]:
        """Return every error that pages wrote to the console so far, but the ignored ones."""
        for entry in self.driver.get_log("browser"):
            is_ignored = any(pattern.search(entry["message"]) for pattern in self._ignore)
            if entry["level"] == "SEVERE" and not is_ignored:
                self._errors.append(str(entry["message"]))
        return list(self._errors)

    def forgive(self) -> list[str]:
        """Return the errors so far and forget them: a page that was to be refused has one."""
        found = self.console_errors()
        self._errors.clear()
        return found

    def overflows(self) -> bool:
        """Whether the page is wider than the window."""
        return bool(
            self.script("const d = document.documentElement; return d.scrollWidth > d.clientWidth")
        )

    def _visible(self, by: str, wanted: str) -> WebElement:
        for element in self.driver.find_elements(by, wanted):
            if element.is_displayed():
                return element
        raise NoSuchElementException(f"nothing visible is {wanted!r}")

    def _box(self, css: str) -> list[int]:
        """Top, left, bottom and right of an element, in CSS pixels of the window."""
        code = (
            "const b = arguments[0].getBoundingClientRect();"
            "return [b.top, b.left, b.bottom, b.right].map(Math.round)"
        )
        return self.wait_until(
            lambda: self.script(code, self._visible(By.CSS_SELECTOR, css)), 30, f"element {css!r}"
        )


@contextmanager
def browser(
    folder: Path,
    *,
    size: tuple[int, int] = (1400, 900),
    ignore_console: tuple[str, ...] = (),
) -> Iterator[Browser]:
    """Run a browser.

    Parameters
    ----------
    folder
        Made when it does not exist; holds ``chromedriver.log`` and, if the test fails, a picture
        of the page, ``failure.png``.
    size
        (width, height) of the page in pixels.
    ignore_console
        Regular expressions of console errors that are not ours to mend.

    Raises
    ------
    AssertionError
        At the end, if a page wrote an error to the console.
    """
    require("chromium", "chromedriver")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix="lentigo-chromium-", ignore_cleanup_errors=True
    ) as profile:
        driver = _start(folder, Path(profile))
        try:
            driver.set_page_load_timeout(_PAGE_LOAD_S)
            window = Browser(driver, ignore_console)
            window.set_size(*size)
            try:
                yield window
            except BaseException:
                _photograph_failure(window, folder)
                raise
            errors = window.console_errors()
            assert not errors, "console errors:\n" + "\n".join(errors)
        finally:
            driver.quit()


def _start(folder: Path, profile: Path) -> Chrome:
    options = ChromeOptions()
    options.binary_location = str(find_program("chromium"))
    for argument in (*_ARGUMENTS, f"--user-data-dir={profile}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = Service(
        executable_path=str(find_program("chromedriver")),
        log_output=str(folder / "chromedriver.log"),
    )
    # A proxy set for the way out must not be asked for the way to chromedriver.
    with mock.patch.dict(os.environ, {"no_proxy": "127.0.0.1,localhost"}):
        return Chrome(options=options, service=service)


def _photograph_failure(window: Browser, folder: Path) -> None:
    """Keep a picture for whoever reads the failure; the failure itself goes first."""
    try:
        window.screenshot(folder / "failure.png")
    except WebDriverException as exc:
        (folder / "failure.txt").write_text(f"no picture: {type(exc).__name__}\n")
