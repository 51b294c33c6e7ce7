"""The browser harness itself."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from selenium.common.exceptions import WebDriverException

from tests.browser.driver import browser

PAGE = "data:text/html,<body style='margin:0;background:rgb(10,200,30)'>"


def test_page_is_read_clicked_and_photographed_pixel_by_pixel(tmp_path):
    with browser(tmp_path, size=(640, 480)) as window:
        window.open(
            PAGE
            + "<button onclick=\"this.insertAdjacentText('afterend', 'Sent')\">Send now</button>"
            "<input id='name' value='old'><p style='height:20px;width:100px;background:red'></p>"
        )
        window.click_text("Send now")
        window.wait_for_text("Sent", 10)
        window.fill("#name", "new")
        assert window.script("return document.querySelector('#name').value") == "new"
        whole = window.screenshot(tmp_path / "pictures" / "whole.png")
        assert whole.shape == (480, 640, 3)
        assert whole[-1, -1].tolist() == [10, 200, 30]
        assert (tmp_path / "pictures" / "whole.png").exists()
        part = window.screenshot(css="p")
        assert part.shape == (20, 100, 3)
        assert (part == [255, 0, 0]).all()
        assert not window.overflows()
        window.script("document.body.style.width = '2000px'")
        assert window.overflows()


def test_page_that_is_redrawn_all_the_time_is_read_and_clicked(tmp_path):
    redraw = """
        const part = document.getElementById('part'), text = part.innerHTML;
        let pause = 80;  // grows, so that a machine of any speed gets through at some time
        window.clicks = window.redrawn = 0;
        setTimeout(function redraw() {
            const typed = document.getElementById('name').value;
            part.innerHTML = text;
            document.getElementById('name').value = typed;
            redrawn++;
            pause *= 1.2;
            setTimeout(redraw, pause);
        }, pause);"""
    page = f"""<div id='part'><button onclick='clicks++'>Go on</button><input id='name'>
        <select><option>one<option value='2'>two</select><b>forty</b></div>
        <script>{redraw}</script>"""
    with browser(tmp_path, size=(640, 480)) as window:
        window.open(PAGE + page)
        for _ in range(20):
            assert window.read("b") == "forty"
            window.fill("#name", "")
            window.choose("select", value="2")
        window.click_text("Go on")
        assert window.script("return window.clicks") == 1
        assert window.script("return window.redrawn") > 3
        with pytest.raises(AssertionError, match=r"'#none'.*not within"):
            window.click("#none", timeout_s=0.2)
        with pytest.raises(WebDriverException, match="undefinedFunction"):
            window.wait_until(lambda: window.script("undefinedFunction()"), 5, "an error")


def test_error_in_the_console_fails_the_test(tmp_path):
    page = PAGE + "<script>console.error('one known'); undefinedFunction()</script>"
    with (
        pytest.raises(AssertionError, match="undefinedFunction") as caught,
        browser(tmp_path, ignore_console=("known",)) as window,
    ):
        window.open(page)
    assert "one known" not in str(caught.value)


def test_failing_test_leaves_a_picture_of_the_page(tmp_path):
    def fail() -> None:
        with browser(tmp_path) as window:
            window.open(PAGE)
            window.wait_for_text("no such thing", 0.1)

    with pytest.raises(AssertionError, match="no such thing"):
        fail()
    assert (tmp_path / "failure.png").stat().st_size > 0


class _Hello(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/" else 204)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        if self.path == "/":
            self.wfile.write(b"<p>Hello")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def test_browser_reaches_loopback_and_nothing_else(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hello)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    ask = "return fetch(arguments[0], {mode: 'no-cors'}).then(() => 'reached', () => 'refused')"
    try:
        with browser(tmp_path, ignore_console=("app.localhost",)) as window:
            window.open(f"http://127.0.0.1:{server.server_port}/")
            window.wait_for_text("Hello")
            own = window.script(ask, f"http://localhost:{server.server_port}/")
            # Chromium knows this name without asking anybody, unless told that it does not exist.
            other = window.script(ask, f"http://app.localhost:{server.server_port}/")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert (own, other) == ("reached", "refused")
