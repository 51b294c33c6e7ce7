"""What administrators and reviewers do on the admin page, in a real browser."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select
from sqlalchemy import select

from gateway.store import states
from gateway.store.engine import reading, utc_now
from gateway.store.tables import Generation
from gateway.store.values import Scheduled
from tests.browser.admin_site import DIGEST, MODEL, Site
from tests.browser.conftest import log_in
from tests.browser.driver import Browser
from tests.pages import CHOSEN
from tests.servers import wait_until

OWN_PASSWORD = "many words make a password"


def closed_generation(site: Site, number: int) -> int | None:
    """Close what is due, as the sweeper does; return the generation of a study if it is closed."""
    site.record.clock.now = utc_now()
    site.record.intake.close_due_generations()
    query = select(Generation.id).where(
        Generation.study_id == number, Generation.state == states.CLOSED
    )
    with reading(site.engine) as connection:
        return connection.execute(query).scalar_one_or_none()


@contextmanager
def logged_in_as(window: Browser, url: str, role: str) -> Iterator[None]:
    """Make an account, log it in for the first time, and give the browser back to ``admin``."""
    window.open(f"{url}/accounts")
    window.fill("#username", f"{role}-1")
    window.choose("#role", text=role)
    window.click_text("Make it")
    once = window.read("code.once")
    window.click_text("Log out")
    log_in(window, f"{role}-1", once)
    window.fill("#old", once)
    window.fill("#new", OWN_PASSWORD)
    window.fill("#again", OWN_PASSWORD)
    window.click(".card button")
    window.wait_for_text("Age of the oldest item")
    try:
        yield
    finally:
        window.click_text("Log out")
        log_in(window, "admin", CHOSEN)
        window.wait_for_text("Age of the oldest item")


def test_reviewer_reveals_a_patient_and_signs_an_opinion(site, window, shoot):
    with logged_in_as(window, site.url, "reviewer"):
        window.open(f"{site.url}/studies/{site.number}")
        assert "CANARY-ID" not in window.text
        window.click_text("Reveal")
        window.wait_for_text("CANARY-ID")
        window.click_text("Mask again")
        window.wait_until(lambda: "CANARY-ID" not in window.text, 20, "the mask")
        window.click_text("Review")
        window.click("input[value=disagree]")
        window.fill("#comment", "a seborrhoeic keratosis")
        shoot("review")
        window.click_text("Sign")
        window.wait_for_text("reviewer-1")
    window.open(f"{site.url}/reviews")
    assert "a seborrhoeic keratosis" in window.text
    window.click_text("Export")  # a file: the page stays
    assert window.url == f"{site.url}/reviews"


def test_viewer_is_told_who_may_do_what_he_may_not(site, window, shoot):
    with logged_in_as(window, site.url, "viewer"):
        window.open(f"{site.url}/studies/{site.number}")
        assert window.find("#study-orders") is None
        window.open(f"{site.url}/self-test")
        window.wait_for_text("with the role viewer")
        shoot("forbidden")
        assert [each for each in window.forgive() if "403" not in each] == []


def test_account_gets_another_role_a_new_password_and_is_shut_out(site, window):
    window.open(f"{site.url}/accounts")
    window.fill("#username", "night-shift")
    window.click_text("Make it")
    window.wait_for("code.once")
    row = "//tr[th[normalize-space(.)='night-shift']]"

    def in_row(css: str) -> WebElement:
        return window.driver.find_element("xpath", row).find_element("css selector", css)

    def press(action: str) -> None:
        window.act(lambda: in_row(f"form[action$='/{action}'] button").click(), action)

    def make_operator() -> None:
        Select(in_row("select")).select_by_visible_text("operator")
        in_row("form[action$='/role'] button").click()

    window.act(make_operator, "the role")
    window.wait_until(
        lambda: Select(in_row("select")).first_selected_option.text == "operator", 20, "the role"
    )
    press("reset")
    window.wait_for_text("One-time password of night-shift")
    press("disable")
    window.wait_until(lambda: "disabled" in in_row("td").text, 20, "the account shut out")
    press("enable")
    window.wait_until(lambda: "disabled" not in in_row("td").text, 20, "the account let in")


def test_token_is_issued_and_revoked(site, window):
    window.open(f"{site.url}/tokens")
    window.fill("#name", "integration engine")
    window.click_text("Issue")
    assert window.read("code.once").startswith("lentigo_")
    window.click_text("Revoke")
    window.wait_for_text("revoked")


def test_rules_are_tried_and_published(site, window, shoot):
    window.open(f"{site.url}/rules")
    draft = '[[rule]]\nname = "course"\nwhen = { calling_ae_title = "CAMERA_1" }\n'
    draft += 'then = { ignore = true, reason = "no patients" }\n'
    window.fill("#draft", draft)
    window.click_text("Try")
    window.wait_for_text("Tried on the newest 20 studies")
    assert "would be treated differently" in window.text
    shoot("rules-tried")
    window.fill("#reason", "the course begins")
    window.click_text("Publish")
    window.wait_for_text("Published (")
    assert "course" in (site.home / "rules.toml").read_text()


def test_destinations_are_asked_by_echo(site, window):
    window.open(f"{site.url}/nodes")
    for name, said in ((site.pacs, "answers"), ("PACS2@127.0.0.1:1", "cannot be reached")):
        window.click_xpath(f"//tr[th//code[.='{name}']]//button", f"the button of {name}")
        window.wait_for_text(f"{name}: ")
        window.wait_for_text(said)


def test_chain_of_the_audit_trail_is_verified_and_searched(site, window):
    window.open(f"{site.url}/audit")
    window.click_text("Verify the chain")
    window.wait_for_text("Whole: ")
    window.fill("#action", "login")
    window.click_text("Search")
    window.wait_for_url("action=login")
    cells = "return [...document.querySelectorAll('tbody td:nth-of-type(3)')]"
    actions = window.wait_until(
        lambda: window.script(cells + ".map(each => each.textContent.trim())"), 30, "the events"
    )
    assert all(each.startswith("login") for each in actions)
    window.click_text("Export as JSON lines")
    assert "/audit" in window.url


def test_model_cannot_be_rolled_back_to_what_never_was(site, window):
    window.open(f"{site.url}/models")
    assert window.find(f"form[action='/models/{MODEL}/rollback']") is None
    window.click_text("Card")
    window.wait_for_text(f"Model card: {MODEL}")


def test_self_test_is_shown_step_by_step(site, window, shoot):
    window.open(f"{site.url}/")
    window.click_text("Self-test…")
    window.wait_for_text("Send a synthetic study the full round trip?")
    window.click_text("Begin the self-test")
    window.wait_for_url("/self-test/[0-9]+$", timeout_s=60)
    window.wait_for_text("Under way")
    assert len(window.find_all(".step-done")) == 1
    number = int(re.findall(r"\d+", window.url)[-1])
    generation = wait_until(lambda: closed_generation(site, number), 30, "the quiet window")
    scheduled = [Scheduled(analysis=MODEL, model_digest=DIGEST, reason="dermoscopic image")]
    (item,) = site.record.ledger.record_routing(generation, scheduled, "")
    window.wait_for_text("Analyses chosen done")
    site.record.clock.now = utc_now()
    site.record.analyse(item)
    window.wait_for_text("Analysed, results encoded done")
    shoot("self-test-running")
    site.record.deliver(item)
    window.wait_for_text("✓ Passed in")
    shoot("self-test-passed")
    window.click_text("The study with its timeline and its results")
    window.wait_for_url(f"/studies/{number}$")


def test_self_test_that_the_listener_does_not_take_says_why(
    site, window, shoot, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("LENTIGO_LISTENER_PORT", "1")
    window.open(f"{site.url}/self-test")
    window.click_text("Begin the self-test")
    window.wait_for_text("Not begun: the listener does not take the study")
    shoot("self-test-refused")
    assert [each for each in window.forgive() if "503" not in each] == []


def test_pictures_for_the_documents_are_small() -> None:
    folder = Path(__file__).resolve().parents[2] / "docs" / "screenshots"
    named = re.findall(
        r"screenshots/(admin-[a-z-]+\.png)", (folder.parent / "admin.md").read_text()
    )
    kept = {each.name for each in folder.glob("admin-*.png")}
    assert set(named) == kept
    assert all((folder / each).stat().st_size < 200_000 for each in kept)
