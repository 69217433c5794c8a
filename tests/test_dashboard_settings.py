"""First run, the door, and the settings: dashboard.html in a real browser, against the real server."""
import base64
import hashlib
import hmac
import json
import re
import struct
import time

import pytest
from playwright.sync_api import expect

from conftest import PASSWORD, ROOT, ask, run_command
from test_dashboard import enter, field, fresh, headlines, hit, new_page, pick, rows, settle, unvisited  # noqa: F401 (fixtures among them)

SECTIONS = ["account", "sites", "site:example.com", "users", "tokens", "instance", "audit"]


# ---- helpers ---------------------------------------------------------------------------------------------------------

def totp(secret):
    """The code of RFC 6238 that an app shows now."""
    key = base64.b32decode(secret.replace(" ", ""))
    digest = hmac.new(key, struct.pack(">Q", int(time.time()) // 30), "sha1").digest()
    value = struct.unpack(">I", digest[digest[-1] & 15:][:4])[0] & 0x7FFFFFFF
    return f"{value % 1_000_000:06}"


def press(page, name):
    page.get_by_role("button", name=name, exact=True).filter(visible=True).click()


def radio(page, name):
    """The radio button whose name begins so; the sentence that explains it follows."""
    return page.get_by_role("radio", name=re.compile(f"^{re.escape(name)}")).filter(visible=True)


def said(page, text):
    expect(page.locator("#said")).to_have_text(text)


def section(page, server, name, search=""):
    """Open a section of the settings by its address, signed in."""
    enter(page, server, f"?settings={name}{search}")
    page.locator("#section > *").first.wait_for()
    expect(page.locator("#section")).not_to_contain_text("Loading…")


def api(page, server, method, path, body=None, status=200):
    """Ask the API with the page's session."""
    answer = page.context.request.fetch(f"{server.url}/api/{path}", method=method, data=body if body is None else json.dumps(body),
                                        headers={"Content-Type": "application/json", "Sec-Fetch-Site": "same-origin"})
    assert answer.status == status, answer.text()
    return answer.json()


def invite(page, server, role, sites=None):
    """Let the owner's page make an invitation by the API; return its link."""
    return f"{server.url}/#invite={api(page, server, 'POST', 'invites', {'role': role, 'sites': sites})['code']}"


def join(new_page, server, link, name):  # noqa: F811
    """Accept an invitation in a new browser; return its page, on the dashboard."""
    page = new_page(server.url)
    page.goto(link)
    field(page, "Username").fill(name)
    field(page, "Password").fill(PASSWORD)
    press(page, "Join")
    expect(page.locator("#open-settings")).to_be_visible()
    return page


def fill_setup(page, domain="example.com"):
    """Fill in the first two steps, by keyboard alone."""
    expect(field(page, "Username")).to_be_focused()
    page.keyboard.type("owner")
    page.keyboard.press("Tab")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    expect(field(page, "Your site’s domain")).to_be_focused()
    page.keyboard.type(domain)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="What is kept of a visit")).to_be_focused()


def setup_link(server):
    """The link that the server prints after its address while nobody has an account."""
    server.process.stdout.readline()
    link = server.process.stdout.readline().strip()
    assert re.fullmatch(re.escape(server.url) + r"/#setup=[\w-]{22}", link)
    return link


@pytest.fixture
def unused(start_server):
    """A server on which nobody has an account; its `link` is the one it printed."""
    server = start_server()
    server.link = setup_link(server)
    return server


# ---- the first run ---------------------------------------------------------------------------------------------------

def test_from_the_printed_link_to_the_first_visit(unused, new_page, tmp_path):  # noqa: F811
    page = new_page(unused.url, permissions=["clipboard-read", "clipboard-write"], timezone_id="Europe/Berlin")
    page.clock.install()
    page.goto(unused.link)
    fill_setup(page, "https://www.example.com/blog")
    radio(page, "Strict").check()
    pick(page, "Visits are kept").select_option(label="365 days")
    press(page, "Finish")

    expect(page.get_by_role("heading", name="Paste this tag into your site’s head")).to_be_visible()
    expect(page.locator("#stages [aria-current]")).to_have_text("Tag")
    expect(page.locator("#main")).to_be_focused()
    assert ask(tmp_path / "test.db", "select domain, timezone, mode, rotation_hours, retention_days, gpc from sites") == [
        ("example.com", "Europe/Berlin", "strict", None, 365, None)]   # what was left as it was stays as the server says
    assert page.url == f"{unused.url}/?site=example.com"
    press(page, "Copy the tag")
    assert page.evaluate("navigator.clipboard.readText()") == f'<script defer src="{unused.url}/tracker.js" data-site="example.com"></script>'

    expect(page.locator(".arrival")).to_have_text("Waiting for the first visit to example.com…")
    hit(unused.url, "https://elsewhere.test/")
    page.clock.fast_forward(6_000)
    expect(page.locator("[data-view=empty] summary")).to_have_text("Not counted: 1 foreign host")
    colour = page.locator(".arrival").evaluate("element => getComputedStyle(element).color")
    hit(unused.url, "https://example.com/hello", r="https://news.ycombinator.com/")
    page.clock.fast_forward(6_000)
    expect(page.locator(".arrival")).to_have_text("The first visit to example.com has arrived.")
    assert page.locator(".arrival").evaluate("element => getComputedStyle(element).color") != colour
    press(page, "Look at your numbers")
    assert headlines(page) == {"visitors": "1", "visits": "1", "pageviews": "1", "views_per_visit": "1.00", "bounce_rate": "100%", "visit_duration": "0s"}
    assert rows(page, "pages") == [["/hello", "/hello", "1", "100%"]]
    assert rows(page, "sources") == [["Hacker News", "Hacker News", "1", "100%"]]

    other = new_page(unused.url)   # the link has done its work
    other.goto(unused.link)
    expect(other.get_by_role("heading", name="Sign in to Mini Numbers")).to_be_visible()


def test_the_dashboard_can_be_gone_to_before_the_first_visit(unused, new_page):  # noqa: F811
    page = new_page(unused.url)
    page.goto(unused.link)
    fill_setup(page)
    press(page, "Finish")
    expect(page.locator(".arrival")).to_be_visible()
    page.keyboard.press("r")   # live, and back
    expect(page.locator("[data-view=live]")).to_be_visible()
    page.keyboard.press("r")
    expect(page.locator("#stages")).to_be_visible()
    press(page, "Go on to the dashboard")
    expect(page.get_by_role("heading", name="No visits yet")).to_be_visible()
    expect(page.locator("#stages")).to_be_hidden()
    hit(unused.url)
    page.reload()
    settle(page)


def test_back_and_forward_lose_nothing_that_was_typed(unused, new_page):  # noqa: F811
    page = new_page(unused.url)
    page.goto(unused.link)
    fill_setup(page)
    radio(page, "Paranoid").check()
    press(page, "Back")
    expect(field(page, "Your site’s domain")).to_have_value("example.com")
    pick(page, "Time zone").select_option("Asia/Tokyo")
    page.go_back()
    expect(page.locator("#stages [aria-current=step]")).to_have_text("Privacy")
    page.go_back()
    page.go_back()
    expect(field(page, "Username")).to_have_value("owner")
    expect(field(page, "Password")).to_have_value(PASSWORD)
    page.go_forward()
    expect(pick(page, "Time zone")).to_have_value("Asia/Tokyo")
    page.go_forward()
    expect(radio(page, "Paranoid")).to_be_checked()


def test_without_the_code_the_page_says_where_the_link_is(unused, new_page):  # noqa: F811
    page = new_page(unused.url)
    page.goto(f"{unused.url}/")
    expect(page.get_by_text("Open the link that Mini Numbers printed")).to_be_visible()
    for place in ("in the terminal", "journalctl -u mininumbers", "docker logs"):
        expect(page.locator("[data-view=locked]")).to_contain_text(place)
    expect(page.locator("#link-wrong")).to_be_hidden()
    page.goto(unused.link)
    expect(page.get_by_role("heading", name="Set up Mini Numbers")).to_be_visible()


def test_a_wrong_code_is_told_before_anybody_types_anything(unused, new_page):  # noqa: F811
    page = new_page(unused.url)
    page.goto(f"{unused.url}/#setup=wrong")
    expect(page.locator("#link-wrong")).to_contain_text("This link is not valid")
    assert page.locator("input:visible").count() == 0


def test_what_the_server_finds_wrong_leads_back_to_its_step(unused, new_page):  # noqa: F811
    page = new_page(unused.url)
    page.goto(unused.link)
    fill_setup(page, "not a domain")
    press(page, "Finish")
    expect(page.locator("#setup-1-domain-wrong")).to_contain_text("Your site’s domain 'not a domain' is not a domain")
    expect(field(page, "Your site’s domain")).to_be_focused()
    expect(field(page, "Your site’s domain")).to_have_attribute("aria-describedby", "setup-1-domain-wrong")
    field(page, "Your site’s domain").fill("example.com")
    press(page, "Next")
    press(page, "Finish")
    expect(page.locator(".arrival")).to_be_visible()


def test_what_the_page_can_see_itself_is_told_at_once(unused, new_page):  # noqa: F811
    page = new_page(unused.url)
    page.goto(unused.link)
    field(page, "Password").fill("short")
    press(page, "Next")
    expect(page.locator("#setup-0-username-wrong")).to_have_text("Username is needed")
    expect(page.locator("#setup-0-password-wrong")).to_have_text("Password must have at least 8 characters")
    expect(field(page, "Username")).to_be_focused()
    expect(field(page, "Password")).to_have_attribute("aria-describedby", "setup-0-password-hint setup-0-password-wrong")


def test_of_two_who_set_up_at_once_the_second_is_told_so(unused, new_page):  # noqa: F811
    first, second = new_page(unused.url), new_page(unused.url)
    for page in (first, second):
        page.goto(unused.link)
        fill_setup(page)
    press(first, "Finish")
    expect(first.locator(".arrival")).to_be_visible()
    press(second, "Finish")
    expect(second.get_by_text("Somebody else has just finished the setup")).to_be_visible()
    expect(second.get_by_role("heading", name="Sign in to Mini Numbers")).to_be_visible()
    assert "setup" not in second.url
    third = new_page(unused.url)
    third.goto(unused.link)
    expect(third.locator("#sign-in-note")).to_contain_text("Mini Numbers is set up already. Sign in instead")
    third.goto(f"{unused.url}/?settings=audit")
    expect(field(third, "Username")).to_be_focused()
    assert third.evaluate("[...document.querySelectorAll('[id]')].map(({id}) => id).filter((id, i, all) => all.indexOf(id) !== i)") == []
    first.goto(f"{unused.url}/?settings=audit")
    expect(first.locator("#section li").last).to_contain_text("owner set Mini Numbers up")
    first.goto(f"{unused.url}/?settings=account")
    first.get_by_role("button", name="Change the password").wait_for()
    assert first.evaluate("[...document.querySelectorAll('[id]')].map(({id}) => id).filter((id, i, all) => all.indexOf(id) !== i)") == []


def sample(page):
    """{what: [stored of anybody, of who asks not to be tracked]} of the table that shows it."""
    return {cells[0]: cells[1:] for cells in page.locator(".sample tbody tr").evaluate_all(
        "rows => rows.map(row => [...row.cells].map(cell => cell.textContent))")}


def test_every_choice_shows_at_once_what_it_stores(unused, new_page):  # noqa: F811
    page = new_page(unused.url)
    page.goto(unused.link)
    fill_setup(page)
    assert sample(page)["Browser"] == ["Firefox 131", "not stored"]
    assert sample(page)["Referrer"] == ["news.ycombinator.com/item", "news.ycombinator.com"]
    assert sample(page)["Region and city"][0] != "not stored"
    radio(page, "Strict").check()
    assert sample(page)["Region and city"] == ["not stored", "not stored"] and sample(page)["Country"] == ["Sweden", "not stored"]
    radio(page, "Treat them as anybody").check()
    assert all(anybody == other for anybody, other in sample(page).values())
    radio(page, "Paranoid").check()
    assert sample(page)["Country"] == ["not stored"] * 2 and sample(page)["Referrer"] == ["news.ycombinator.com"] * 2
    radio(page, "Do not count them").check()
    assert {other for _, other in sample(page).values()} == {"not counted"}
    pick(page, "A visitor is recognised for").select_option(label="7 days")
    assert sample(page)["Visitor"][0] == "a number, another one after 7 days"
    expect(page.get_by_text("Who comes back within 7 days is known as the same visitor.")).to_be_visible()
    pick(page, "Visits are kept").select_option(label="90 days")
    assert sample(page)["Kept"][0] == "90 days"
    expect(page.get_by_text("A visit is deleted when it is 90 days old.")).to_be_visible()


# ---- the door --------------------------------------------------------------------------------------------------------

def test_two_factor_sign_in_from_the_qr_code_to_the_last_recovery_code(fresh, new_page):  # noqa: F811
    page = new_page(fresh.url, permissions=["clipboard-read", "clipboard-write"])
    section(page, fresh, "account")
    press(page, "Set up two-factor sign-in")
    field(page, "Your password").fill("wrong password")
    press(page, "Go on")
    expect(page.locator("#dialog-form-password-wrong")).to_have_text("Your password is wrong")
    field(page, "Your password").fill(PASSWORD)
    press(page, "Go on")
    secret = page.locator(".secret").inner_text()
    assert re.fullmatch(r"([A-Z2-7]{4} ){7}[A-Z2-7]{4}", secret)
    expect(page.get_by_role("img", name=re.compile("QR code"))).to_be_visible()
    assert f"secret={secret.replace(' ', '')}" in page.get_by_role("link", name="open it on this device").get_attribute("href")
    field(page, "The code it shows").fill("000000" if totp(secret) != "000000" else "111111")
    press(page, "Switch it on")
    expect(page.locator("#dialog-form-code-wrong")).to_contain_text("This code is wrong")
    code = totp(secret)
    field(page, "The code it shows").fill(code)
    press(page, "Switch it on")

    codes = page.locator("#dialog pre").inner_text().split()
    assert len(set(codes)) == 10
    page.keyboard.press("Escape")   # would lose what is shown only once
    press(page, "Copy the codes")
    assert page.evaluate("navigator.clipboard.readText()").split() == codes
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    assert download.value.path().read_text().split() == codes
    press(page, "Done")
    said(page, "Two-factor sign-in is on.")
    expect(page.get_by_role("button", name="Switch two-factor sign-in off")).to_be_focused()

    page.get_by_role("button", name="Sign out", exact=True).last.click()
    field(page, "Username").fill("owner")
    field(page, "Password").fill(PASSWORD)
    press(page, "Sign in")
    expect(field(page, "Code from your app")).to_be_focused()
    expect(page.get_by_text("Signing in as owner")).to_be_visible()
    page.keyboard.type(code)
    page.keyboard.press("Enter")
    expect(page.locator("#code-wrong")).to_contain_text("This code was used before")
    expect(field(page, "Code from your app")).to_be_focused()
    press(page, "Use a recovery code")
    field(page, "Recovery code").fill(codes[0])
    press(page, "Sign in")
    expect(page.get_by_text("On. 9 recovery codes are left")).to_be_visible()   # back where one was

    press(page, "Switch two-factor sign-in off")
    field(page, "Your password").fill(PASSWORD)
    field(page, "Code").fill(codes[0])
    press(page, "Switch it off")
    expect(page.locator("#dialog-form-code-wrong")).to_contain_text("was used before")
    expect(field(page, "Your password")).to_have_value(PASSWORD)
    field(page, "Code").fill(codes[1])
    press(page, "Switch it off")
    said(page, "Two-factor sign-in is off.")


def test_too_many_attempts_are_told_with_how_long_to_wait(fresh, new_page):  # noqa: F811
    page = new_page(fresh.url)
    page.clock.install(time=0)
    page.goto(f"{fresh.url}/")
    page.clock.pause_at(3_600_000)   # or the first wait, of seconds, would be over before it was looked at
    field(page, "Username").fill("owner")
    field(page, "Password").fill("not the password")
    alert, wait = page.locator("#sign-in-form [role=alert]"), page.locator("#sign-in-form [aria-hidden=true]")
    for _ in range(20):
        press(page, "Sign in")
        page.wait_for_function("() => !document.querySelector('#sign-in-form[aria-busy]') && document.querySelector('#sign-in-form [role=alert]').textContent")
        if "Too many" in alert.inner_text():
            break
    expect(alert).to_contain_text("Too many attempts to sign in")
    expect(wait).to_have_text(re.compile(r"^You can try again in \d+m? ?\d*s\.$"))
    page.clock.fast_forward(1_800_000)
    expect(wait).to_have_count(0)
    expect(alert).to_be_hidden()
    expect(page.locator("#status")).to_have_text("You can try again now.")
    expect(field(page, "Username")).to_have_value("owner")


def test_a_session_ended_elsewhere_leads_to_sign_in_and_back(fresh, new_page):  # noqa: F811
    page, other = new_page(fresh.url), new_page(fresh.url)
    section(other, fresh, "account")
    section(page, fresh, "account")
    expect(page.locator(".mark")).to_have_text("this device")
    page.get_by_role("button", name=re.compile("^Sign out Chrome")).click()
    said(page, re.compile("^Signed out: Chrome"))
    expect(page.locator("#section li")).to_have_count(1)

    press(other, "Change the password")
    field(other, "Your present password").fill(PASSWORD)
    field(other, "The new password").fill("another good one")
    press(other.locator("#dialog"), "Change the password")
    expect(other.get_by_text("Your session has ended.")).to_be_visible()
    field(other, "Username").fill("owner")
    field(other, "Password").fill(PASSWORD)
    press(other, "Sign in")
    expect(other.locator("#section")).to_contain_text("Where you are signed in")


def test_a_new_password_ends_the_other_sessions_and_sign_out_everywhere_this_one_too(fresh, new_page):  # noqa: F811
    page, other = new_page(fresh.url), new_page(fresh.url)
    section(other, fresh, "account")
    section(page, fresh, "account")
    press(page, "Change the password")
    field(page, "Your present password").fill("wrong password")
    field(page, "The new password").fill("a new good password")
    press(page.locator("#dialog"), "Change the password")
    expect(page.locator("#dialog-form-password-wrong")).to_have_text("Your present password is wrong")
    expect(field(page, "The new password")).to_have_value("a new good password")
    field(page, "Your present password").fill(PASSWORD)
    press(page.locator("#dialog"), "Change the password")
    said(page, "Your password is changed. Other devices are signed out.")
    expect(page.locator("#section li")).to_have_count(1)
    other.reload()
    expect(other.get_by_role("heading", name="Sign in to Mini Numbers")).to_be_visible()

    press(page, "Sign out everywhere")
    press(page.locator("#dialog"), "Sign out everywhere")
    expect(page.get_by_text("You are signed out everywhere.")).to_be_visible()
    expect(field(page, "Username")).to_be_focused()
    field(page, "Username").fill("owner")
    field(page, "Password").fill("a new good password")
    press(page, "Sign in")
    expect(page.locator("#section")).to_contain_text("Where you are signed in")


def test_a_tab_that_waits_at_the_door_goes_in_when_another_has_signed_in(fresh, new_page):  # noqa: F811
    page = new_page(fresh.url)
    page.goto(f"{fresh.url}/")
    expect(page.get_by_role("heading", name="Sign in to Mini Numbers")).to_be_visible()
    api(page, fresh, "POST", "login", {"username": "owner", "password": PASSWORD})
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    expect(page.get_by_role("heading", name="No visits yet")).to_be_visible()


# ---- people ----------------------------------------------------------------------------------------------------------

def test_an_invitation_makes_a_person_with_the_role_and_sites_it_says(fresh, new_page):  # noqa: F811
    page = new_page(fresh.url)
    section(page, fresh, "users")
    api(page, fresh, "POST", "sites", {"domain": "blog.example", "timezone": "UTC"})
    page.reload()
    press(page, "Invite somebody")
    radio(page, "Editor").check()
    page.get_by_role("checkbox", name="Every site, those to come too").uncheck()
    press(page, "Make the link")
    expect(page.locator("#dialog-form-sites-wrong")).to_have_text("Choose at least one site.")
    page.get_by_role("checkbox", name="blog.example").check()
    press(page, "Make the link")
    link = page.locator("#dialog pre").inner_text()
    assert re.fullmatch(re.escape(fresh.url) + r"/#invite=[\w-]{32}", link)
    press(page, "Done")
    expect(page.locator("#section")).to_contain_text("editor, blog.example")

    guest = new_page(fresh.url)
    guest.goto(link)
    expect(guest.locator("#invite")).to_contain_text("owner invites you as editor, for blog.example.")
    field(guest, "Username").fill("owner")
    field(guest, "Password").fill(PASSWORD)
    press(guest, "Join")
    expect(guest.locator("#invite-form-username-wrong")).to_contain_text("exists already")
    field(guest, "Username").fill("mia")
    press(guest, "Join")
    expect(pick(guest, "Site")).to_have_value("blog.example")
    assert "invite" not in guest.url
    guest.locator("#open-settings").click()
    expect(guest.locator("#sections li")).to_have_text(["Account", "Sites", "API tokens"])
    guest.goto(f"{fresh.url}/?settings=site:blog.example")
    expect(guest.get_by_role("button", name="Save")).to_be_visible()
    expect(guest.get_by_role("button", name="Remove the site blog.example")).to_have_count(0)
    guest.goto(f"{fresh.url}/?settings=users")   # what may not be seen is as if it were not there
    expect(guest.get_by_role("heading", name="Account")).to_be_visible()

    late = new_page(fresh.url)
    late.goto(link)
    expect(late.locator("#invite")).to_contain_text("This invitation is not valid")
    late.get_by_role("link", name="Sign in").click()
    expect(late.get_by_role("heading", name="Sign in to Mini Numbers")).to_be_visible()


def test_a_person_is_changed_and_removed_and_the_last_owner_stays(fresh, new_page):  # noqa: F811
    page = new_page(fresh.url)
    section(page, fresh, "users")
    name = '<b>mia</b> & "co"'
    guest = join(new_page, fresh, invite(page, fresh, "viewer"), name)
    page.reload()
    press(page, f"Change role and sites of {name}")
    radio(page, "Admin").check()
    expect(page.get_by_role("group", name="Sites")).to_be_hidden()   # an admin has them all
    press(page, "Save")
    said(page, f"{name}: admin, every site.")
    guest.goto(f"{fresh.url}/?settings=users")
    expect(guest.locator("#sections li")).to_have_text(["Account", "Sites", "People", "API tokens", "Server"])
    expect(guest.get_by_role("button", name="Remove owner")).to_have_count(0)   # an admin is not asked about owners

    press(page, f"Remove {name}")
    field(page, f"Type {name} to confirm").fill("mia")
    press(page, "Remove")
    expect(page.locator("#dialog-form-typed-wrong")).to_have_text(f"This is not {name}.")
    field(page, f"Type {name} to confirm").fill(name)
    press(page, "Remove")
    said(page, f"{name} is removed.")
    expect(page.locator("#section .thing")).to_have_count(1)
    guest.reload()
    expect(guest.get_by_role("heading", name="Sign in to Mini Numbers")).to_be_visible()

    expect(page.locator("#section li")).to_contain_text("The last owner stays one.")
    expect(page.locator("#section li button")).to_have_count(0)
    join(new_page, fresh, invite(page, fresh, "owner"), "ann")
    page.reload()
    press(page, "Remove owner")
    ann = next(each for each in api(page, fresh, "GET", "users")["users"] if each["username"] == "ann")
    api(page, fresh, "PATCH", f"users/{ann['id']}", {"role": "viewer", "sites": None})   # by somebody else, meanwhile
    field(page, "Type owner to confirm").fill("owner")
    press(page, "Remove")
    expect(page.locator("#dialog [role=alert]")).to_contain_text("owner is the last owner")
    expect(field(page, "Type owner to confirm")).to_have_value("owner")


def test_an_invitation_can_be_withdrawn(fresh, new_page):  # noqa: F811
    page = new_page(fresh.url)
    section(page, fresh, "account")
    link = invite(page, fresh, "viewer")
    page.get_by_role("link", name="People").click()
    page.get_by_role("button", name="Withdraw the invitation as viewer by owner").click()
    said(page, "The invitation is withdrawn.")
    guest = new_page(fresh.url)
    guest.goto(link)
    expect(guest.locator("#invite")).to_contain_text("This invitation is not valid")


# ---- sites -----------------------------------------------------------------------------------------------------------

def test_a_site_is_added_changed_and_removed_by_typing_its_name(fresh, new_page):  # noqa: F811
    page = new_page(fresh.url)
    section(page, fresh, "sites", "&site=example.com")
    press(page, "Add a site")
    field(page, "Domain").fill("www.example.com")
    press(page, "Add the site")
    expect(page.locator("#dialog-form-domain-wrong")).to_have_text("Domain example.com exists already")
    field(page, "Domain").fill("https://www.blog.example/hello")
    pick(page, "Time zone").select_option("America/New_York")
    press(page, "Add the site")
    said(page, "blog.example is added. Its tag is below.")
    expect(page.locator("#section-title")).to_have_text("blog.example")
    expect(page.locator("#section pre")).to_contain_text('data-site="blog.example"')
    assert page.url == f"{fresh.url}/?site=example.com&settings=site:blog.example"

    radio(page, "Strict").check()
    pick(page, "A visitor is recognised for").select_option(label="7 days")
    field(page, "Further host names").fill("not a host!")
    press(page, "Save")
    expect(page.locator("#site-form-hostnames-wrong")).to_contain_text("is neither a host name")
    expect(radio(page, "Strict")).to_be_checked()
    field(page, "Further host names").fill("shop.example, *.cdn.example")
    press(page, "Save")
    said(page, "The settings of blog.example are saved.")
    expect(page.get_by_role("button", name="Save", exact=True)).to_be_focused()
    own = next(site for site in api(page, fresh, "GET", "sites")["sites"] if site["domain"] == "blog.example")
    assert own["own"] == {"mode": "strict", "rotation_hours": 168, "retention_days": None, "gpc": None}
    assert own["hostnames"] == ["shop.example", "*.cdn.example"]
    radio(page, "As the server’s default: Standard").check()
    press(page, "Save")
    page.reload()
    expect(radio(page, "As the server’s default: Standard")).to_be_checked()
    assert sample(page)["Region and city"][0] != "not stored"

    press(page, "Remove the site blog.example")
    field(page, "Type blog.example to confirm").fill("example.com")
    press(page, "Remove the site")
    expect(page.locator("#dialog-form-typed-wrong")).to_have_text("This is not blog.example.")
    field(page, "Type blog.example to confirm").fill("blog.example")
    press(page, "Remove the site")
    said(page, "blog.example is removed.")
    expect(page.locator("#section .thing")).to_have_text(["example.com"])
    assert [site["domain"] for site in api(page, fresh, "GET", "sites")["sites"]] == ["example.com"]


def test_who_has_no_site_yet_adds_one_on_the_page(start_server, tmp_path, new_page):  # noqa: F811
    run_command("setup", "--db", tmp_path / "test.db", "--username", "owner", "--password-stdin", stdin=f"{PASSWORD}\n")
    server = start_server()
    page = new_page(server.url)
    enter(page, server)
    expect(page.get_by_role("heading", name="No site yet")).to_be_visible()
    press(page, "Add a site")
    field(page, "Domain").fill("example.com")
    page.keyboard.press("Enter")
    expect(page.locator("#section-title")).to_have_text("example.com")
    page.locator("#leave-settings").click()
    expect(page.get_by_role("heading", name="No visits yet")).to_be_visible()


# ---- tokens ----------------------------------------------------------------------------------------------------------

def test_a_token_is_shown_once_works_and_is_revoked(fresh, new_page):  # noqa: F811
    page = new_page(fresh.url)
    section(page, fresh, "tokens")
    expect(page.locator("#section")).to_contain_text("There is no token yet.")
    press(page, "Create a token")
    press(page, "Create the token")
    expect(page.locator("#dialog-form-name-wrong")).to_have_text("Name is needed")
    field(page, "Name").fill("Grafana")
    page.get_by_role("checkbox", name="Every site, those to come too").uncheck()
    page.get_by_role("checkbox", name="example.com").check()
    pick(page, "It ends").select_option(label="In 30 days")
    press(page, "Create the token")
    secret = page.locator("#dialog pre").inner_text()
    press(page, "Done")
    expect(page.locator("#section li")).to_contain_text("Grafana")
    expect(page.locator("#section li")).to_contain_text("example.com · by owner · never used · ends")
    assert secret not in page.content()

    stranger = new_page(fresh.url).context.request
    assert stranger.get(f"{fresh.url}/api/sites", headers={"Authorization": f"Bearer {secret}"}).ok
    press(page, "Revoke the token Grafana")
    field(page, "Type Grafana to confirm").fill("Grafana")
    press(page, "Revoke")
    said(page, "The token Grafana is revoked.")
    assert stranger.get(f"{fresh.url}/api/sites", headers={"Authorization": f"Bearer {secret}"}).status == 401


# ---- the server ------------------------------------------------------------------------------------------------------

def test_every_setting_is_there_and_what_takes_effect_at_once_can_be_changed(fresh, new_page):  # noqa: F811
    page = new_page(fresh.url)
    section(page, fresh, "instance")
    settings = {each["name"]: each for each in api(page, fresh, "GET", "settings")["settings"]}
    assert {name for name, each in settings.items() if each["changeable"]} == {
        name for name in settings if page.locator(f"#server-form [name={name}]").count()}
    fixed = page.locator("#section li").all_inner_texts()
    assert len(fixed) == sum(not each["changeable"] for each in settings.values())
    assert any("MININUMBERS_PORT" in text and "given at the start" in text for text in fixed)

    field(page, "Rotation hours").fill("9000")
    field(page, "Retention days").fill("-1")
    field(page, "New values per day").fill("30")
    press(page, "Save")
    expect(page.locator("#server-form-rotation_hours-wrong")).to_contain_text("Rotation hours must be from 1 to 8760")
    expect(page.locator("#server-form-retention_days-wrong")).to_contain_text("Retention days must be from 0")
    expect(page.locator("#server-form .wrong:visible")).to_have_count(2)
    expect(field(page, "Rotation hours")).to_be_focused()
    expect(field(page, "New values per day")).to_have_value("30")
    field(page, "Rotation hours").fill("48")
    field(page, "Retention days").fill("")
    press(page, "Save")
    expect(page.locator("#server-form .wrong:visible")).to_have_text("Retention days is needed")
    field(page, "Retention days").fill("0")
    press(page, "Save")
    said(page, "Saved: Rotation hours, New values per day.")
    expect(page.get_by_role("button", name="Save")).to_be_focused()
    field(page, "Retention days").fill("30")
    press(page, "Save")
    expect(page.get_by_role("dialog")).to_contain_text("more than 30 days old are deleted")
    assert {each["name"]: each["source"] for each in api(page, fresh, "GET", "settings")["settings"]}["retention_days"] == "default"
    field(page, "Type this server to confirm").fill("this server")
    press(page, "Save and delete")
    said(page, "Saved: Retention days.")
    press(page, "Save")
    said(page, "Nothing was changed.")
    page.goto(f"{fresh.url}/?settings=site:example.com")
    expect(pick(page, "A visitor is recognised for").locator("option:checked")).to_have_text("As the server’s default: 2 days")


def test_the_audit_trail_says_in_sentences_who_did_what(fresh, new_page):  # noqa: F811
    page = new_page(fresh.url)
    section(page, fresh, "account")
    for hours in range(1, 102):
        api(page, fresh, "PATCH", "sites/example.com", {"rotation_hours": hours})
    api(page, fresh, "POST", "annotations", {"site_id": "example.com", "at": "2026-03-02", "text": "x"})
    api(page, fresh, "POST", "invites", {"role": "editor", "sites": None})
    page.get_by_role("link", name="Audit trail").click()
    things = page.locator("#section li")
    expect(things).to_have_count(100)
    expect(things.nth(0)).to_contain_text("owner made an invitation for an editor")
    expect(things.nth(1)).to_contain_text("owner added the note of 2026-03-02")
    expect(things.nth(1)).to_contain_text("of example.com")
    expect(things.nth(2)).to_contain_text("owner changed the site example.com")
    expect(things.nth(2)).to_contain_text("rotation hours 100 → 101")
    press(page, "Show older ones")
    expect(things.last).to_contain_text("the command line added owner")
    expect(page.get_by_role("button", name="Show older ones")).to_have_count(0)
    expect(page.locator("#section-title")).to_be_focused()


# ---- getting about ---------------------------------------------------------------------------------------------------

def test_the_settings_have_addresses_back_works_and_the_dashboard_is_where_it_was(fresh, new_page):  # noqa: F811
    page = new_page(fresh.url)
    enter(page, fresh, "?site=example.com&period=7d")
    page.locator("#open-settings").click()
    page.get_by_role("link", name="Sites").click()
    expect(page.locator("#section-title")).to_be_focused()
    page.get_by_role("link", name="example.com: tag and settings").click()
    expect(page).to_have_title("example.com · Settings · Mini Numbers")
    expect(page.get_by_role("link", name="Sites", exact=True)).to_have_attribute("aria-current", "true")
    page.go_back()
    expect(page.locator("#section-title")).to_have_text("Sites")
    page.go_back()
    expect(page.locator("#section-title")).to_have_text("Account")
    page.get_by_role("link", name="← example.com").click()
    expect(page.get_by_role("heading", name="No visits yet")).to_be_visible()
    assert page.url == f"{fresh.url}/?site=example.com&period=7d"


@pytest.mark.parametrize("way", ["menu", "key", "link"])
def test_the_settings_are_reached_from_the_menu_of_sites_by_a_key_and_at_the_foot(fresh, new_page, way):  # noqa: F811
    page = new_page(fresh.url)
    enter(page, fresh)
    expect(page.get_by_role("heading", name="No visits yet")).to_be_visible()
    if way == "menu":
        pick(page, "Site").select_option(label="Settings…")
    elif way == "key":
        page.keyboard.press(",")
    else:
        page.get_by_role("link", name="Settings", exact=True).click()
    expect(page.locator("#section-title")).to_have_text("Account")
    assert page.url == f"{fresh.url}/?site=example.com&settings=account"


def test_by_keyboard_a_dialog_opens_holds_the_focus_and_gives_it_back(fresh, new_page):  # noqa: F811
    page = new_page(fresh.url)
    section(page, fresh, "account")
    page.get_by_role("button", name="Change the password").focus()
    page.keyboard.press("Enter")
    expect(field(page, "Your present password")).to_be_focused()
    for _ in range(12):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement === document.body || Boolean(document.activeElement.closest('dialog'))")
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Change the password")).to_be_focused()


@pytest.mark.parametrize("width", [320, 1280])
def test_no_section_scrolls_sideways_nor_is_what_it_does_hidden(fresh, new_page, width):  # noqa: F811
    page = new_page(fresh.url, viewport={"width": width, "height": 700})
    enter(page, fresh)
    for name in ("Grafana", "a" * 100):
        api(page, fresh, "POST", "tokens", {"name": name, "sites": None, "read_only": True, "expires_in_days": None})
    for name in SECTIONS:
        page.goto(f"{fresh.url}/?settings={name}")
        page.locator("#section .block").first.wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") == width, name
        outside = page.locator("#section button, #section a, #section input, #section select").evaluate_all(
            "(all, width) => all.filter(each => each.checkVisibility() && each.getBoundingClientRect().right > width).length", width)
        assert outside == 0, name


def test_what_fails_is_told_and_can_be_tried_again(fresh, new_page):  # noqa: F811
    page = new_page(fresh.url)
    section(page, fresh, "account")
    page.route("**/api/tokens", lambda route: route.abort())
    page.get_by_role("link", name="API tokens").click()
    expect(page.locator("#section")).to_contain_text("The server does not answer.")
    page.unroute("**/api/tokens")
    press(page, "Try again")
    expect(page.locator("#section")).to_contain_text("There is no token yet.")
    page.route("**/api/tokens", lambda route: route.abort())
    press(page, "Create a token")
    field(page, "Name").fill("Grafana")
    press(page, "Create the token")
    expect(page.locator("#dialog [role=alert]")).to_contain_text("The server does not answer.")
    expect(field(page, "Name")).to_have_value("Grafana")


# ---- QR codes --------------------------------------------------------------------------------------------------------

QR_2 = """
1111111000111111001111111 1000001010101011101000001 1011101000011001101011101 1011101001001011001011101 1011101010110111001011101
1000001000011111001000001 1111111010101010101111111 0000000001101110100000000 1010101001110111100010010 0010000000001000001000001
0010001000000100000110111 1110110000010111110000010 1010001110100010111001011 0111010000110000111001001 1011111110000100101100111
0110000000010001100010010 1011101111001001111111000 0000000011011101100011011 1111111001111011101011011 1000001001101110100011010
1011101011010010111111011 1011101001110011000111100 1011101010100100100010001 1000001000110000101011010 1111111011001001111100011
""".split()

# The rows, joined by line feeds, of versions 1 to 10. Made, as QR_2, with the Python library qrcode, which was told to take mask 0.
QR_DIGESTS = {
    "é" * 7: "696d3a66fa363b28",
    "é" * 20: "46d3edf63ecb96ec",
    "é" * 30: "a977b52a2b94f73c",
    "é" * 40: "1fe9ca1b4e601061",
    "é" * 50: "3ce67aa636b1bbf4",
    "é" * 60: "94f1406d9cc2fe50",
    "é" * 75: "025799b4c01c6425",
    "é" * 90: "7c5dfb2730be7f0f",
    "z" * 213: "e60b477236880f2d",
}


@pytest.fixture(scope="module")
def qr_code(browser):
    """The page's qrCode() as a function, taken from the part of its script that needs no document."""
    source = (ROOT / "dashboard.html").read_text("utf-8")
    pure = re.search(r"// =+ 1 pure.*?(?=// =+ 2 api)", source, re.DOTALL)[0]
    page = browser.new_page()
    page.add_script_tag(content=pure)
    yield lambda text: (rows := page.evaluate("text => qrCode(text)", text)) and ["".join(map(str, row)) for row in rows]
    page.close()


def test_a_qr_code_is_what_other_encoders_make(qr_code):
    assert qr_code("https://example.com/") == QR_2
    assert {text: hashlib.sha256("\n".join(qr_code(text)).encode()).hexdigest()[:16] for text in QR_DIGESTS} == QR_DIGESTS


def test_a_text_too_long_for_a_qr_code_has_none(qr_code):
    assert qr_code("z" * 214) is None
