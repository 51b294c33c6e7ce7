"""Orders, filters, views, failures and quarantine on the admin page in a real browser."""


def test_filter_is_in_the_address_and_kept_as_a_view(site, window):
    window.open(f"{site.url}/studies")
    window.click(".narrow summary")
    window.fill("#reason", "decoded")
    window.click(".filter button")
    window.wait_for_url("reason=decoded")
    window.fill("#view", "cannot be decoded")
    window.click_text("Keep")
    window.wait_for("a[href='/studies?reason=decoded'][aria-current]")
    window.click(".view button")
    window.wait_for_url("/studies$")


def test_orders_about_the_chosen_and_about_all_that_match(site, window, shoot):
    window.open(f"{site.url}/studies?state=failed")
    for number in (1, 2):
        window.click(f"tbody tr:nth-child({number}) td.choice input")
    window.click("button[value=retry]")
    window.wait_for_text("Retry 2 studies?")
    window.click_text("Retry 2 studies")
    window.wait_for_text("Retry: 2 done")
    window.choose("#scope", value="all")
    window.click("button[value=cancel]")
    window.wait_for_text("Cancel")
    window.wait_for("#reason")
    shoot("order")
    window.fill("#reason", "sent by mistake")
    window.click(".card button")
    window.wait_for_text("Cancel: 0 done")


def test_orders_of_one_study(site, window):
    address = f"{site.url}/studies/{site.receiving}"
    window.open(address)
    window.click_text("Urgent")
    window.wait_for_text("Urgent: 1 done")
    window.click_text("Hold…")
    window.fill("#reason", "the camera is looked at")
    window.click(".card button")
    window.wait_for_text("held: the camera is looked at")
    window.click_text("Release")
    window.wait_for_text("Release: 1 done")
    window.click_text("Complete now")
    window.wait_for_text("Complete now: 1 done")
    window.open(f"{site.url}/studies/{site.number}")
    window.click_text("Resend")
    window.wait_for_text("Resend: 1 done")


def test_cause_is_assigned_snoozed_and_replayed(site, window):
    window.open(f"{site.url}/failures")
    window.fill(".cause input[name=assigned_to]", "admin")
    window.click(".cause form button")
    window.wait_for_text("with admin")
    causes = len(window.find_all(".cause"))
    window.choose(".cause select", value="8")
    window.click(".cause form button")
    window.wait_for_text("1 snoozed cause")
    assert len(window.find_all(".cause")) == causes - 1
    window.click_text("Replay…")
    window.wait_for_text("again?")
    window.click_text("Try again")
    window.wait_for_text("tried again")


def test_instance_is_released_from_quarantine_with_a_reason(site, window):
    window.open(f"{site.url}/failures")
    window.click_text("Release…")
    window.fill("#reason", "the camera's clock was wrong before")
    window.click(".card button")
    window.wait_for_url(f"/studies/{site.number}$")
    window.wait_for_text("released from quarantine in the place of its namesake")
