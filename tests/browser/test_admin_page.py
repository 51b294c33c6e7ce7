"""Each page of the admin page in a real browser: shown, photographed, nothing on the console."""

from itertools import pairwise

import pytest
from selenium.webdriver.common.keys import Keys
from sqlalchemy import insert, update

from gateway.store.engine import utc_now, writing
from gateway.store.tables import DestinationHealth, Event, SourceRhythm, Study
from tests.browser.admin_site import MODEL

PAGES = [
    ("overview", "/?window=7d", "Age of the oldest item in each stage"),
    ("studies", "/studies", "completed"),
    ("failures", "/failures", "the frame"),
    ("queues", "/queues", "Unfinished work"),
    ("models", "/models", "drifting"),
    ("card", f"/models/{MODEL}/card", "Model card"),
    ("rules", "/rules", "Draft"),
    ("nodes", "/nodes", "Who sends"),
    ("storage", "/storage", "Disk of the home folder"),
    ("reviews", "/reviews", "chain of signatures whole"),
    ("audit", "/audit", "Verify the chain"),
    ("settings", "/settings", "LENTIGO_LISTENER_PORT"),
    ("accounts", "/accounts", "What a role may do"),
    ("tokens", "/tokens", "New token"),
    ("password", "/password", "New password again"),
    ("rest", "/api", "/api/studies/orders"),
    ("self-test", "/self-test", "Begin the self-test"),
]


@pytest.mark.parametrize(("name", "path", "text"), PAGES, ids=[each[0] for each in PAGES])
def test_each_page_is_shown_light_dark_and_narrow(site, window, shoot, name, path, text):
    window.open(site.url + path)
    window.wait_for_text(text)
    headings = window.script(
        "return [...document.querySelectorAll('h1,h2,h3')].map(h => h.tagName)"
    )
    assert headings[0] == "H1"
    assert headings.count("H1") == 1
    for one, next_ in pairwise(headings):
        assert int(next_[1]) <= int(one[1]) + 1, headings
    shoot(name)
    assert window.console_errors() == []


def test_each_field_has_a_name_and_each_focus_is_seen(site, window):
    nameless = """
        return [...document.querySelectorAll('input, select, textarea, button')]
            .filter(e => e.type !== 'hidden' && e.ariaHidden !== 'true'
                && !(e.labels && e.labels.length) && !e.getAttribute('aria-label')
                && !e.textContent.trim() && !e.hidden)
            .map(e => e.outerHTML)"""
    for _, path, _ in PAGES:
        window.open(site.url + path)
        assert window.script(nameless) == [], path
    window.open(f"{site.url}/failures")
    seen = set()
    for _ in range(200):  # round the page by Tab: no trap, every stop outlined
        window.driver.switch_to.active_element.send_keys(Keys.TAB)
        stop, outline = window.script(
            "const e = document.activeElement;"
            "return [e === document.body ? '' : e.outerHTML, getComputedStyle(e).outlineStyle]"
        )
        if not stop or stop in seen:
            break
        assert outline != "none", stop
        seen.add(stop)
    else:
        pytest.fail("Tab never comes round")
    assert len(seen) > 20


def test_a_wide_table_is_scrolled_by_keyboard_in_a_small_window(site, window):
    window.set_size(400, 860)
    window.open(f"{site.url}/nodes")
    table = "section:nth-of-type(2) .scroll[tabindex='0'][aria-label='Sources']"

    def is_moved() -> bool:
        place = window.wait_for(table)
        place.send_keys(Keys.ARROW_RIGHT * 3)
        return bool(place.get_property("scrollLeft") > 0)

    window.wait_until(is_moved, 20, "the table to move", interval_s=0.5)
    here = "const a = document.querySelector('.places [aria-current]').getBoundingClientRect();"
    assert window.script(here + "return a.left >= 0 && a.right <= innerWidth")
    window.set_size(1280, 860)
    window.wait_for("section:nth-of-type(2) .scroll:not([tabindex])")


def test_study_shows_its_story_pictures_and_report(site, window, shoot):
    window.open(f"{site.url}/studies/{site.uid}")
    assert window.url == f"{site.url}/studies/{site.number}"
    window.wait_for_text("Did the PACS get it?".upper())
    drawn = "return [...document.images].filter(i => i.complete && i.naturalWidth).length"
    window.wait_until(lambda: window.script(drawn) >= 4, 30, "pictures")
    assert "An association brought instances" in window.text
    assert window.find(f"a[href^='https://viewer.example/'][href$='{site.uid}']") is not None
    shoot("study")
    window.click_text("sr")
    window.wait_for_text("Melanocytic nevus")
    assert "0.91" in window.text
    shoot("report")


def test_search_box_finds_by_what_people_read_out(site, window):
    focused = "return document.activeElement.id === 'find'"
    slash = "new KeyboardEvent('keydown', {key: '/', bubbles: true})"
    for wanted in (f"#{site.number}", site.uid, f"…{site.uid[-12:]}"):
        window.open(f"{site.url}/queues")
        window.script(f"document.body.dispatchEvent({slash})")
        window.wait_until(lambda: window.script(focused), 20, "focus")
        window.submit("#find", wanted)
        window.wait_for_url(f"/studies/{site.number}$")
    for wanted in ("A0000007", "p0000007"):
        window.open(f"{site.url}/queues")
        window.submit("#find", wanted)
        window.wait_for_url("/studies/7$")
        assert "0000007" not in window.url


def test_search_for_nothing_known_says_where_to_look(site, window, shoot):
    window.open(f"{site.url}/queues")
    window.submit("#find", "N-1")
    window.wait_for_text("No study is known by this")
    assert window.find("a[href='/studies?state=refused']") is not None
    shoot("find")
    assert "404" in "".join(window.forgive())


def test_open_page_follows_the_record(site, window):
    window.open(f"{site.url}/studies")
    window.wait_for_text("live")
    before = window.read(".chip-all .count")
    with writing(site.engine) as connection:
        connection.execute(update(Study).where(Study.id == 1).values(reason="changed meanwhile"))
    site.record.clock.now = utc_now()
    uid = site.record.receive()
    window.wait_for(f"[title='{uid}']")
    assert window.read(".chip-all .count") != before


def test_what_somebody_chose_is_not_taken_away(site, window):
    select = "document.querySelector('.cause select')"
    fetched = "return performance.getEntriesByName(location.href, 'resource').length"

    def fail(reason: str) -> None:
        site.record.clock.now = utc_now()
        (item,) = site.record.schedule("diagnosis")
        claim = site.record.claim(item)
        site.record.ledger.fail(claim, kind="REJECTED", reason=reason)

    window.open(f"{site.url}/failures")
    window.wait_for_text("live")
    window.script(f"{select}.value = '8'")  # chosen, and the focus is elsewhere since
    before = window.script(fetched)
    fail("the lens is covered")
    window.wait_until(lambda: window.script(fetched) > before, 30, "the page fetched again")
    assert window.script(f"return {select}.value") == "8"
    assert "the lens is covered" not in window.text
    window.script(f"{select}.selectedIndex = 0")
    fail("the lens is broken")
    window.wait_for_text("the lens is broken")


def test_overview_says_what_stands_in_the_way(site, window, shoot):
    now = utc_now()
    with writing(site.engine) as connection:
        connection.execute(
            insert(DestinationHealth).values(
                destination="ARCHIVE@pacs:104",
                state="open",
                failures=3,
                reason="the destination cannot be reached",
                since=now,
            )
        )
        connection.execute(
            update(SourceRhythm).where(SourceRhythm.ae_title == "SCANNER").values(silent_since=now)
        )
    window.open(f"{site.url}/")
    window.wait_for_text("ARCHIVE@pacs:104 does not answer")
    assert "SCANNER sends nothing" in window.text
    shoot("troubles")


def test_scheme_is_chosen_and_kept(site, window):
    window.open(f"{site.url}/")
    for scheme in ("light", "dark"):
        window.click("#scheme")
        assert window.script("return document.documentElement.dataset.scheme") == scheme
    window.open(f"{site.url}/queues")
    assert window.script("return document.documentElement.dataset.scheme") == "dark"
    window.click("#scheme")


def test_timeline_names_events_that_nobody_has_words_for(site, window):
    with writing(site.engine) as connection:
        connection.execute(
            insert(Event).values(
                at=utc_now(),
                study_id=2,
                action="peer.gone_away",
                level="alarm",
                detail={"reason": "<b>"},
            )
        )
    window.open(f"{site.url}/studies/2")
    window.wait_for_text("Peer gone away")
    assert "<b>" in window.text
