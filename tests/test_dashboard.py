"""dashboard.html in a real browser, against the real server: what people see, press and are told."""
import contextlib
import functools
import itertools
import json
import re
import shutil
import threading
import time
import types
import urllib.parse
import urllib.request
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from xml.etree import ElementTree
from zoneinfo import ZoneInfo

import pytest
import waitress
from playwright.sync_api import expect

from conftest import CHROME, PASSWORD, ROOT, Server, run_command
from mininumbers import Settings, create_app, dashboard_file

DOMAIN = "demo.example"
PANELS = {"pages": "event:page", "sources": "visit:source", "places": "visit:country", "devices": "visit:device"}
METRICS = ["visitors", "visits", "pageviews", "views_per_visit", "bounce_rate", "visit_duration"]
REPORTS = "**/api/v2/quer*"   # in whichever way they are asked for
OFFSET = (9 - datetime.now(timezone.utc).hour + 12) % 24 - 12   # of the zone that is between nine and ten now: no test sees midnight
ZONE = f"Etc/GMT{-OFFSET:+}"   # which names its zones by the opposite sign
CHROMIUM_SAYS = "Failed to load resource:"   # its own line for an answer of 4xx or 5xx, or for none

WATCH = """
globalThis.violations = [];
addEventListener("securitypolicyviolation", ({violatedDirective, blockedURI}) => violations.push(`${violatedDirective} ${blockedURI}`));
globalThis.executed = [];
globalThis.alert = (...words) => executed.push(words.join());
"""


# ---- helpers ---------------------------------------------------------------------------------------------------------

def today():
    return datetime.now(ZoneInfo(ZONE)).date()


def post(url, body, **headers):
    """POST JSON and return (status, the body of the answer)."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json", **headers})
    with urllib.request.urlopen(request) as response:
        return response.status, response.read().decode()


def hit(url, address="https://example.com/", agent=CHROME, ip="192.0.2.1", domain="example.com", **more):
    """Visit a page of the site."""
    body = {"n": "pageview", "u": address, "d": domain, **more}
    assert post(f"{url}/api/event", body, **{"User-Agent": agent, "X-Forwarded-For": ip})[0] == 202


def set_up(db, domain):
    done = run_command("setup", "--db", db, "--username", "owner", "--password-stdin", "--site", domain, "--timezone", ZONE, stdin=f"{PASSWORD}\n")
    assert done.returncode == 0, done.stderr


class Api:
    """The oracle of what is on screen: the same questions, asked with a token."""

    def __init__(self, url, token, domain):
        self.url, self.token, self.domain = url, token, domain

    def query(self, *metrics, **more):
        answer = post(f"{self.url}/api/v2/query", {"site_id": self.domain, "metrics": list(metrics), **more}, Authorization=f"Bearer {self.token}")
        return json.loads(answer[1])


def token_of(db):
    return run_command("token", "create", "--db", db, "--name", "test").stdout.split()[-1]


def say_whole(value):
    return f"{value:,}"


def say_percent(value):
    """There is one decimal under ten percent, and one more of what ends in a 5: that may have been rounded up to it."""
    digits, exact = 0 if value >= 9.95 or not value else 1, Decimal(str(value))
    return f"{value:.{digits + (exact == round(exact, digits + 1) and f'{exact:.{digits + 1}f}'.endswith('5'))}f}%"


def say_duration(value):
    if value is None:
        return "–"
    seconds = int(value + 0.5)
    return f"{seconds}s" if seconds < 60 else f"{seconds // 60}m {seconds % 60:02}s"


SAY = {"visitors": say_whole, "visits": say_whole, "pageviews": say_whole, "views_per_visit": "{:.2f}".format,
       "bounce_rate": say_percent, "visit_duration": say_duration}


def headlines(page):
    """{metric: what its card shows}, once nothing is loading."""
    settle(page)
    return {item.get_attribute("data-key"): item.locator(".value").inner_text() for item in page.locator("#headlines > li").all()}


def counted(page):
    """Of these cards, those of every site: without revenue."""
    return {metric: value for metric, value in headlines(page).items() if metric in METRICS}


def as_counted(values):
    """The same of the API's METRICS; without visits there are no means and no rates."""
    return {metric: SAY[metric](value) if values[1] or metric in METRICS[:3] else "–" for metric, value in zip(METRICS, values)}


def rows(page, panel):
    """[(stored value, label, visitors in full, share)] of a panel."""
    return page.evaluate("""panel => [...document.querySelectorAll(`#${panel} .rows li`)].map(item => [
        item.dataset.key, ...[".label", ".number", ".part"].map(part => item.querySelector(part))
    ]).map(([key, label, number, part]) => [key, label.textContent, number.title, part.textContent])""", panel)


def settle(page):
    """Wait until the report stands and nothing on it is loading or left over."""
    page.wait_for_function("""() => document.querySelector("[data-view=report]:not([hidden])")
        && document.querySelectorAll(".fades").length >= 6 && !document.querySelector(".fades[aria-busy=true], .bare-bones, .fades.old")""")


def hear_reports(page):
    """A list that grows with each request for reports: of each the dimensions of its questions, without the intervals of time.

    What stands below the fold is asked for afterwards, and left out here: that request has the custom events in it.
    """
    heard = []

    def hear(request):
        if "/api/v2/quer" in request.url:
            assert request.url.endswith("/api/v2/queries")
            asked = [(body.get("dimensions") or ["none"])[0].split(":", 1)[-1] for body in request.post_data_json["queries"]]
            if "name" not in asked:
                heard.append(asked)
    page.on("request", hear)
    return heard


def hold_reports(page):
    """Keep back every request for reports from now on, but for what stands below the fold, in a list: (route, the body that was posted)."""
    held = []

    def hold(route):
        if "event:name" in route.request.post_data:
            route.continue_()
        else:
            held.append((route, route.request.post_data))
    page.route(REPORTS, hold)
    return held


def wait_until(page, condition):
    for _ in range(750):
        if condition():
            return
        page.wait_for_timeout(20)
    raise AssertionError("it never came to pass")


def row(page, panel, value):
    return page.locator(f"#{panel} .rows li").filter(has=page.get_by_text(value, exact=True)).get_by_role("button")


def field(page, label):
    return page.get_by_label(label, exact=True).filter(visible=True)


def pick(page, label):
    return page.get_by_role("combobox", name=label, exact=True)


def sign_in(page, password=PASSWORD):
    field(page, "Username").fill("owner")
    field(page, "Password").fill(password)
    page.get_by_role("button", name="Sign in").click()


# ---- fixtures --------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def demo(tmp_path_factory, browser):
    """A server with a year of made-up visits; its `state` is a signed-in browser's."""
    db = tmp_path_factory.mktemp("demo") / "demo.db"
    set_up(db, DOMAIN)
    assert run_command("demo", "--db", db, "--site", DOMAIN, "--pageviews", 12_000).returncode == 0
    server, context = Server(db), browser.new_context()
    assert context.request.post(f"{server.url}/api/login", headers={"Sec-Fetch-Site": "same-origin"}, data={"username": "owner", "password": PASSWORD}).ok
    yield types.SimpleNamespace(url=server.url, api=Api(server.url, token_of(db), DOMAIN), state=context.storage_state())
    context.close()
    server.kill()


@pytest.fixture
def new_page(browser):
    """A function that opens a page of a new browser profile. None of them may log an error, throw one, execute what it
    shows, break the content security policy, or ask another origin for anything."""
    contexts, complaints = [], []

    def new_page(origin, **options):
        context = browser.new_context(**{"locale": "en-GB", "timezone_id": ZONE, "viewport": {"width": 1280, "height": 900}, **options})
        context.add_init_script(WATCH)
        context.set_default_timeout(15_000)
        page = context.new_page()
        page.on("console", lambda line: complaints.append(line.text) if line.type in ("error", "warning") and CHROMIUM_SAYS not in line.text else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(f"a dialog: {dialog.message}"))
        page.on("request", lambda request: None if request.url.startswith((f"{origin}/", "data:")) else complaints.append(f"asked {request.url}"))
        contexts.append(context)
        return page
    yield new_page
    for context in contexts:
        for page in context.pages:
            complaints += page.evaluate("[...violations, ...executed]")
        context.close()
    assert complaints == []


@pytest.fixture
def dashboard(demo, new_page):
    """A function that opens the demo site's dashboard, signed in, with a query string."""
    def dashboard(search="", **options):
        page = new_page(demo.url, storage_state=demo.state, **options)
        page.goto(f"{demo.url}/{search}")
        settle(page)
        return page
    return dashboard


@pytest.fixture(scope="module")
def unvisited(tmp_path_factory):
    """A database whose account is "owner" and whose site, example.com, nobody has visited."""
    db = tmp_path_factory.mktemp("unvisited") / "test.db"
    set_up(db, "example.com")
    return db


@pytest.fixture
def fresh(start_server, tmp_path, unvisited):
    """A server on a copy of it."""
    shutil.copy(unvisited, tmp_path / "test.db")
    return start_server()


def enter(page, server, search=""):
    """Open a fresh server's dashboard signed in."""
    assert page.context.request.post(f"{server.url}/api/login", headers={"Sec-Fetch-Site": "same-origin"}, data={"username": "owner", "password": PASSWORD}).ok
    page.goto(f"{server.url}/{search}")


# ---- before the first visit -------------------------------------------------------------------------------------------

def test_the_script_tag_can_be_copied(fresh, new_page):
    page = new_page(fresh.url, permissions=["clipboard-read", "clipboard-write"])
    enter(page, fresh)
    page.get_by_role("button", name="Copy the tag").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == page.locator("#tag").inner_text()


def test_whoever_waits_is_told_what_was_not_counted_and_why(fresh, new_page):
    page = new_page(fresh.url)
    hit(fresh.url, agent="Googlebot/2.1 (+http://www.google.com/bot.html)")
    hit(fresh.url, "https://elsewhere.test/")
    hit(fresh.url, "https://elsewhere.test/again")
    enter(page, fresh)
    line = page.locator("[data-view=empty] details")
    expect(line.locator("summary")).to_have_text("Not counted: 2 foreign hosts, 1 bot")
    line.locator("summary").click()
    reasons = json.loads(page.context.request.get(f"{fresh.url}/api/dropped?site_id=example.com").text())["reasons"]
    expect(line.locator("li")).to_have_text([f"2 foreign hosts: {reasons['hostname']}", f"1 bot: {reasons['bot']}"])


# ---- the demo --------------------------------------------------------------------------------------------------------

def demo_button(page, name="Look at a demo with made-up visits"):
    return page.get_by_role("button", name=name, exact=True)


@pytest.fixture(scope="module")
def siteless(tmp_path_factory):
    """A server with an account and no site."""
    db = tmp_path_factory.mktemp("siteless") / "test.db"
    run_command("setup", "--db", db, "--username", "owner", "--password-stdin", stdin=f"{PASSWORD}\n")
    server = Server(db)
    yield server
    server.kill()


def test_from_nothing_to_a_year_of_made_up_visits_by_keyboard(siteless, new_page):
    page = new_page(siteless.url)
    enter(page, siteless)
    expect(page.get_by_role("heading", name="No site yet")).to_be_visible()
    heard, held = hear_reports(page), []
    page.route("**/api/demo", lambda route: held.append(route))

    demo_button(page).focus()
    page.keyboard.press("Enter")
    button = demo_button(page, "Making up a year of visits…")
    expect(button).to_be_disabled()
    expect(button).to_have_attribute("aria-busy", "true")
    expect(button).to_be_focused()
    expect(page.locator("#status")).to_have_text("Making up a year of visits…")
    page.keyboard.press("Enter")   # asks for no second one

    wait_until(page, lambda: held)
    held[0].continue_()
    page.locator("[data-view=report]").wait_for(timeout=60_000)
    shown = headlines(page)
    assert int(shown["visitors"].replace(",", "")) > 100 and all(value != "–" for value in shown.values())
    assert all(len(rows(page, panel)) > 2 for panel in PANELS)
    assert page.url == f"{siteless.url}/?site=demo.example&period=30d"
    expect(page.locator("#main")).to_be_focused()
    assert heard == [VIEW]
    assert len(held) == 1


def test_a_site_of_one_s_own_comes_before_the_demo_which_stays_in_reach(fresh, new_page, tmp_path):
    page = new_page(fresh.url)
    enter(page, fresh)
    demo_button(page).wait_for()
    assert run_command("demo", "--db", tmp_path / "test.db", "--pageviews", 500).returncode == 0   # behind the page's back
    demo_button(page).click()
    expect(page.locator("[data-view=empty] [role=alert]")).to_contain_text("demo.example has data")
    demo_button(page, "Open the demo").wait_for()
    page.goto(f"{fresh.url}/")
    expect(pick(page, "Site")).to_have_value("example.com")
    expect(page.locator("[data-view=empty] [role=alert]")).to_be_hidden()
    demo_button(page, "Open the demo").press("Enter")
    assert int(headlines(page)["visitors"].replace(",", "")) > 0
    assert page.url == f"{fresh.url}/?site=demo.example&period=30d"
    expect(page.locator("#status")).not_to_have_text("The first visit has arrived.")


def test_a_demo_that_fails_says_why_beside_its_button_and_can_be_tried_again(fresh, new_page):
    page = new_page(fresh.url)
    enter(page, fresh)
    demo_button(page).wait_for()
    fresh.kill()
    demo_button(page).press("Enter")
    expect(page.locator("[data-view=empty] [role=alert]")).to_contain_text("The server does not answer.")
    expect(demo_button(page)).to_be_enabled()
    expect(demo_button(page)).to_be_focused()


def test_a_session_that_has_ended_makes_no_demo(siteless, new_page):
    page = new_page(siteless.url)
    page.route("**/api/sites", lambda route: route.fulfill(json={"sites": []}))
    enter(page, siteless)
    demo_button(page).wait_for()
    page.context.clear_cookies()
    demo_button(page).click()
    expect(page.get_by_text("Your session has ended")).to_be_visible()


# ---- signing in and out ----------------------------------------------------------------------------------------------

def test_sign_in_refuses_the_wrong_password_and_takes_the_right_one_until_sign_out(demo, new_page):
    page = new_page(demo.url)
    page.goto(f"{demo.url}/?period=7d")
    expect(field(page, "Username")).to_be_focused()
    sign_in(page, "not the password")
    expect(page.get_by_role("alert").filter(visible=True)).to_have_text("The name or the password is wrong.")
    sign_in(page)
    settle(page)
    assert page.url == f"{demo.url}/?site={DOMAIN}&period=7d"

    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in to Mini Numbers")).to_be_visible()
    expect(page.get_by_text("Your session has ended")).to_be_hidden()
    expect(field(page, "Password")).to_have_value("")
    page.reload()
    expect(page.get_by_role("heading", name="Sign in to Mini Numbers")).to_be_visible()


def test_a_session_that_ends_leads_to_sign_in_and_back_to_the_same_view(demo, new_page):
    page = new_page(demo.url)
    page.goto(f"{demo.url}/")
    sign_in(page)
    settle(page)
    page.context.clear_cookies()
    row(page, "devices", "Mobile").click()
    expect(page.get_by_text("Your session has ended")).to_be_visible()
    expect(page.locator("#headlines")).to_be_hidden()
    sign_in(page)
    settle(page)
    expect(page.locator("#chips li")).to_have_text(["Device is Mobile×"])
    assert "f=is,visit:device,Mobile" in page.url


# ---- the numbers -----------------------------------------------------------------------------------------------------

CUSTOM = [(today() - timedelta(days)).isoformat() for days in (40, 20)]


@pytest.mark.parametrize("period", ["day", "7d", "year", "all", CUSTOM], ids=str)
def test_the_numbers_on_screen_are_the_api_s(demo, dashboard, period):
    page = dashboard(f"?from={period[0]}&to={period[1]}" if period is CUSTOM else f"?period={period}")
    values = demo.api.query(*METRICS, date_range=period)["results"][0]["metrics"]
    assert counted(page) == as_counted(values)
    regions = "codes => codes.map(code => code.length === 2 ? new Intl.DisplayNames('en-GB', {type: 'region'}).of(code) : code)"
    for panel, dimension in PANELS.items():
        found = demo.api.query("visitors", "percentage", date_range=period, dimensions=[dimension], pagination={"limit": 9})["results"]
        keys = [result["dimensions"][0] for result in found]
        labels = page.evaluate(regions, keys) if panel == "places" else keys
        assert rows(page, panel) == [[key, label, say_whole(result["metrics"][0]), say_percent(result["metrics"][1])]
                                     for key, label, result in zip(keys, labels, found)]


VIEW = ["none", "time", "page", "source", "country", "device"]   # what a view asks: headline, series and four panels


def test_a_view_is_one_request_for_reports_and_a_tab_asks_for_its_panel_alone(demo, new_page):
    page = new_page(demo.url, storage_state=demo.state)
    heard = hear_reports(page)
    page.goto(f"{demo.url}/")
    settle(page)
    assert heard == [VIEW]
    page.get_by_role("tab", name="Browsers").click()
    settle(page)
    pick(page, "Compare with").select_option("none")   # which means nothing to the panels
    settle(page)
    page.get_by_role("button", name="Bounce rate").click()   # is there already
    settle(page)
    row(page, "devices", "Firefox").click()
    settle(page)
    assert heard == [VIEW, ["browser"], ["none", "time"], ["none", "time", "none", *VIEW[2:-1], "browser_version"]]   # with all currencies there are


def test_a_page_that_was_hidden_for_long_asks_for_everything_again_at_once(demo, new_page):
    page = new_page(demo.url, storage_state=demo.state)
    page.clock.install()
    heard = hear_reports(page)
    page.goto(f"{demo.url}/")
    settle(page)

    def hide(hidden):
        page.evaluate("""hidden => { Object.defineProperty(document, "hidden", {configurable: true, get: () => hidden});
            document.dispatchEvent(new Event("visibilitychange")); }""", hidden)
    for minutes, asked in ((1, [VIEW]), (6, [VIEW, VIEW])):
        hide(True)
        page.clock.fast_forward(minutes * 60_000)
        hide(False)
        settle(page)
        assert heard == asked


@pytest.mark.parametrize("tab, dimension", [("Exit pages", "visit:exit_page"), ("Channels", "visit:channel")])
def test_a_tab_shows_its_dimension_and_the_address_keeps_it(demo, dashboard, tab, dimension):
    page = dashboard("?period=91d")
    page.get_by_role("tab", name=tab).click()
    settle(page)
    panel = page.locator(".panel").filter(has=page.get_by_role("tab", name=tab)).get_attribute("id")
    wanted = demo.api.query("visitors", date_range="91d", dimensions=[dimension], pagination={"limit": 9})["results"]
    assert [(key, number) for key, _, number, _ in rows(page, panel)] == [(each["dimensions"][0], say_whole(each["metrics"][0])) for each in wanted]
    page.reload()
    settle(page)
    expect(page.get_by_role("tab", name=tab)).to_have_attribute("aria-selected", "true")


# ---- all sites, and the keys ------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A server with the sites site0.example to site9.example, of which each was visited as often as its number says."""
    db = tmp_path_factory.mktemp("many") / "test.db"
    set_up(db, "site0.example")
    for number in range(1, 10):
        run_command("site", "add", f"site{number}.example", "--db", db)
    server = Server(db)
    for number in range(10):
        for visitor in range(number):
            hit(server.url, f"https://site{number}.example/", ip=f"192.0.2.{visitor}", domain=f"site{number}.example")
    yield server
    server.kill()


def cards(page):
    """{site: what its card says}, once all of them do."""
    page.wait_for_function("""() => { const cards = [...document.querySelectorAll(".card")];
        return cards.length && cards.every(card => card.getAttribute("aria-busy") === "false"); }""")
    return {item.get_attribute("data-key"): item.locator(".value").inner_text() for item in page.locator("#cards > li").all()}


def test_the_overview_has_a_card_for_each_site_with_its_own_numbers_and_leads_there(many, new_page):
    page, heard = new_page(many.url), []
    page.on("request", lambda request: heard.append(request) if "api/v2" in request.url else None)
    enter(page, many, "?view=sites&period=day")
    assert cards(page) == {f"site{number}.example": str(number) for number in range(10)}
    assert len(heard) == 10   # one for each site: its number and its line
    page.get_by_label("Search the sites").fill("E7")
    assert list(cards(page)) == ["site7.example"]
    page.keyboard.press("Enter")
    assert headlines(page)["visitors"] == "7"
    assert page.url == f"{many.url}/?site=site7.example&period=day"
    pick(page, "Site").select_option("All sites")
    expect(page.get_by_role("heading", name="All sites")).to_be_visible()
    page.go_back()
    assert headlines(page)["visitors"] == "7"


def test_no_site_of_that_name_is_said(many, new_page):
    page = new_page(many.url)
    enter(page, many, "?view=sites")
    page.get_by_label("Search the sites").fill("nowhere")
    expect(page.get_by_text("No site is called that.")).to_be_visible()


def test_a_card_that_fails_is_told_and_tried_again(many, new_page):
    page = new_page(many.url)
    page.route(REPORTS, lambda route: route.fulfill(status=500, json={"error": "Something went wrong.", "code": "internal", "details": []})
               if "site3.example" in route.request.post_data else route.continue_())
    enter(page, many, "?view=sites&period=day")
    expect(page.locator("#trouble p")).to_have_text("Something went wrong.")
    expect(page.locator("[data-key='site3.example'] .value")).to_have_text("–")
    expect(page.locator("[data-key='site9.example'] .value")).to_have_text("9")
    page.unroute(REPORTS)
    page.get_by_role("button", name="Try again").click()
    assert cards(page)["site3.example"] == "3"
    expect(page.locator("#trouble")).to_be_hidden()


@pytest.mark.parametrize("key, period", [("d", "day"), ("w", "7d"), ("n", "91d"), ("m", "month"), ("y", "year"), ("l", "12mo"), ("a", "all"), ("t", "30d")])
def test_a_letter_chooses_the_period(dashboard, key, period):
    page = dashboard("?period=6mo")
    page.keyboard.press(key)
    settle(page)
    expect(pick(page, "Period")).to_have_value(period)


def test_keys_move_compare_and_switch_sites_but_never_while_something_is_typed(many, new_page):
    page = new_page(many.url)
    enter(page, many, "?site=site5.example&period=day")
    settle(page)
    page.keyboard.press("x")
    expect(pick(page, "Compare with")).to_have_value("none")
    page.keyboard.press("ArrowLeft")
    settle(page)
    assert "&from=" in page.url
    page.keyboard.press("9")
    settle(page)
    assert "site=site8.example" in page.url
    page.keyboard.press("c")
    expect(page.locator("#range-from")).to_be_focused()
    page.keyboard.press("Escape")
    expect(pick(page, "Period")).to_be_focused()
    page.locator("#main").focus()
    page.keyboard.press("0")
    page.get_by_label("Search the sites").press("d")
    expect(page.get_by_label("Search the sites")).to_have_value("d")
    page.get_by_label("Search the sites").press("Control+a")
    assert "view=sites" in page.url and "from=" in page.url


def test_back_closes_the_dialog_in_front(dashboard):
    page = dashboard("?period=30d")
    page.get_by_role("combobox", name="Period").select_option("7d")
    for opener in ("+ Filter", "Add a note"):
        page.get_by_role("button", name=opener).click()
        expect(page.locator("dialog[open]")).to_have_count(1)
        page.go_back()
        expect(page.locator("dialog[open]")).to_have_count(0)
        page.go_forward()
        expect(page).to_have_url(re.compile("period=7d"))


def test_the_focus_goes_on_when_a_filter_is_removed_by_keyboard(dashboard):
    page = dashboard("?f=is,visit:country,DE&f=is,visit:source,Google&f=is,visit:device,Desktop")
    crosses = page.locator("#chips .cross")
    crosses.nth(1).focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Remove the filter Device is Desktop")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Remove the filter Country is Germany")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#add-filter")).to_be_focused()
    page.go_back()
    expect(crosses).to_have_count(1)
    crosses.focus()
    page.go_forward()
    expect(page.locator("#add-filter")).to_be_focused()



def test_the_keys_are_explained_and_the_focus_comes_back(dashboard):
    page = dashboard("?f=is,visit:device,Mobile")
    page.get_by_role("button", name="Keys (?)").press("?")
    dialog = page.get_by_role("dialog", name="Keys")
    expect(dialog).to_contain_text("Last 91 days")
    page.keyboard.press("d")   # belongs to the page below, which is out of reach
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(page.get_by_role("button", name="Keys (?)")).to_be_focused()
    expect(page.locator("#chips li")).to_have_count(1)
    expect(pick(page, "Period")).to_have_value("28d")


# ---- filters and the address -----------------------------------------------------------------------------------------

def test_a_click_on_a_row_filters_a_chip_removes_it_and_the_address_holds_it(demo, dashboard):
    page = dashboard("?period=91d")
    before = headlines(page)
    row(page, "pages", "/pricing").click()
    settle(page)
    wanted = demo.api.query("visitors", date_range="91d", filters=[["is", "event:page", ["/pricing"]]])["results"][0]["metrics"][0]
    assert headlines(page)["visitors"] == say_whole(wanted) != before["visitors"]
    assert page.url == f"{demo.url}/?site={DOMAIN}&period=91d&f=is,event:page,/pricing"
    expect(row(page, "pages", "/pricing")).to_have_attribute("aria-pressed", "true")

    again = dashboard(page.url.removeprefix(f"{demo.url}/"))   # the address alone says it all
    assert headlines(again) == headlines(page)
    expect(again.locator("#chips li")).to_have_text(["Page is /pricing×"])

    page.get_by_role("button", name="Remove the filter Page is /pricing").click()
    assert headlines(page) == before
    assert "f=" not in page.url


def test_back_undoes_step_by_step_and_forward_does_it_again(dashboard):
    page = dashboard()
    views = [headlines(page)]
    row(page, "devices", "Mobile").click()
    views.append(headlines(page))
    pick(page, "Period").select_option("7d")
    views.append(headlines(page))
    page.go_back()
    assert headlines(page) == views[1]
    expect(pick(page, "Period")).to_have_value("28d")
    page.go_back()
    assert headlines(page) == views[0]
    expect(page.locator("#chips li")).to_have_count(0)
    page.go_forward()
    page.go_forward()
    assert headlines(page) == views[2]


def test_escape_lets_go_of_the_tooltip_then_of_the_last_filter(dashboard):
    page = dashboard("?f=is,visit:device,Mobile&f=is,visit:os,Android")
    page.locator("#plot").press("ArrowLeft")
    expect(page.locator("#plot .tip")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#plot .tip")).to_be_hidden()
    expect(page.locator("#chips li")).to_have_count(2)
    page.keyboard.press("Escape")
    expect(page.locator("#chips li")).to_have_text(["Device is Mobile×"])
    page.keyboard.press("Escape")
    expect(page.locator("#chips li")).to_have_count(0)


def test_a_custom_range_is_chosen_by_its_days_and_moved_by_its_length(dashboard):
    page = dashboard()
    pick(page, "Period").select_option("edit")
    field(page, "From").fill("2026-03-09")
    field(page, "To").fill("2026-03-08")
    page.get_by_role("button", name="Show", exact=True).click()
    expect(page.locator("#range [role=alert]")).to_have_text("The range ends before it begins.")
    field(page, "From").fill("2026-03-02")
    page.get_by_role("button", name="Show", exact=True).click()
    assert page.url.endswith("&from=2026-03-02&to=2026-03-08")
    page.get_by_role("button", name="Earlier").click()
    assert page.url.endswith("&from=2026-02-23&to=2026-03-01")
    page.get_by_role("button", name="Later").click()
    assert page.url.endswith("&from=2026-03-02&to=2026-03-08")
    settle(page)


def test_what_makes_no_sense_in_the_address_is_as_if_it_were_not_there(demo, dashboard):
    page = dashboard()
    for search in ("?period=never&metric=love&compare=x&interval=eon", "?f=nonsense&f=[broken&f=is,,", "?from=2026-02-30&to=2026-02-31",
                   "?site=unknown.example&tab=none", "?from=2026-03-02&to=2026-03-01"):
        page.goto(f"{demo.url}/{search}")
        settle(page)
        expect(pick(page, "Period")).to_have_value("28d")
        expect(pick(page, "Site")).to_have_value(DOMAIN)
        expect(page.locator("#chips li")).to_have_count(0)
        expect(page.locator("#trouble")).to_be_hidden()


# ---- the filter builder ----------------------------------------------------------------------------------------------

def builder(page):
    return page.get_by_role("dialog", name="Filter")


def filters_of(page):
    """The filters in the address, as the server is asked with them."""
    return page.evaluate("() => new URLSearchParams(location.search).getAll('f')")


def add_value(page, what, how, value, nth=-1):
    """Say the condition that is the `nth` in the builder, by hand."""
    condition = builder(page).locator(".items > li:has(> .values)").nth(nth)
    condition.get_by_label("What").select_option(label=what)
    condition.get_by_label("How").select_option(label=how)
    condition.get_by_role("combobox", name="Value").fill(value)
    condition.get_by_role("combobox", name="Value").press("Enter")


def test_a_filter_is_built_by_keyboard_from_what_the_data_offers(demo, dashboard):
    page = dashboard("?period=91d")
    page.keyboard.press("/")
    builder(page).get_by_label("What").select_option("visit:country")
    value = builder(page).get_by_role("combobox", name="Value")
    value.press_sequentially("united")
    expect(page.locator("#suggestions li")).to_have_count(2)   # of the states and the kingdom
    value.press("ArrowDown")
    value.press("Enter")
    value.press_sequentially("Germany")
    value.press("Enter")
    expect(builder(page).locator(".tokens .words").last).to_have_text("Germany")
    expect(page.locator("#filter-words")).to_have_text(re.compile("^Only where Country is United .* or Germany.$"))
    value.press("Enter")   # nothing is typed any more: that is Show
    settle(page)
    (asked,) = filters_of(page)
    codes = asked.removeprefix("is,visit:country,").split(",")
    assert codes[1] == "DE"
    wanted = demo.api.query("visitors", date_range="91d", filters=[["is", "visit:country", codes]])["results"][0]["metrics"][0]
    assert headlines(page)["visitors"] == say_whole(wanted)


def test_groups_nest_and_read_as_a_sentence(demo, dashboard):
    page = dashboard("?period=91d")
    page.get_by_role("button", name="+ Filter").click()
    add_value(page, "Page", "contains", "/blog")
    builder(page).get_by_role("button", name="+ Group").click()
    add_value(page, "Device", "is", "Mobile")
    builder(page).locator(".group .group").get_by_role("button", name="+ Condition").click()
    add_value(page, "System", "is not", "Windows")
    expect(page.locator("#filter-words")).to_have_text("Only where Page contains /blog and (Device is Mobile or System is not Windows).")
    builder(page).locator("#filter-tree > .group > .lead select").select_option("or")
    builder(page).locator(".group .group > .lead select").select_option("and")
    expect(page.locator("#filter-words")).to_have_text("Only where Page contains /blog or (Device is Mobile and System is not Windows).")
    builder(page).get_by_role("button", name="Show").click()
    settle(page)
    wanted = ["or", [["contains", "event:page", ["/blog"]], ["and", [["is", "visit:device", ["Mobile"]], ["is_not", "visit:os", ["Windows"]]]]]]
    assert [json.loads(text) for text in filters_of(page)] == [wanted]
    assert headlines(page)["visitors"] == say_whole(demo.api.query("visitors", date_range="91d", filters=[wanted])["results"][0]["metrics"][0])

    page.get_by_role("button", name="Change the filter").click()   # and all of it comes back into the builder
    assert builder(page).locator(".tokens .words").all_inner_texts() == ["/blog", "Mobile", "Windows"]
    builder(page).locator(".group .group").locator("xpath=..").get_by_role("button", name="Remove", exact=True).click()
    builder(page).get_by_role("button", name="Show").click()
    assert filters_of(page) == ["contains,event:page,/blog"]
    page.go_back()
    assert [json.loads(text) for text in filters_of(page)] == [wanted]


def test_none_of_a_group_is_chosen_counted_and_comes_back(demo, dashboard):
    page = dashboard("?period=91d")
    page.get_by_role("button", name="+ Filter").click()
    add_value(page, "Page", "contains", "/blog")
    builder(page).get_by_role("button", name="+ Group").click()
    group = builder(page).get_by_role("group", name="Condition group").last
    group.get_by_label("All, any or none").select_option(label="none")
    add_value(page, "Device", "is", "Mobile")
    group.get_by_role("button", name="+ Condition").click()
    add_value(page, "System", "is", "Windows")
    assert group.locator(".joint").all_inner_texts() == ["", "or"]
    expect(page.locator("#filter-words")).to_have_text("Only where Page contains /blog and not (Device is Mobile or System is Windows).")
    builder(page).get_by_role("button", name="Show").click()
    settle(page)
    wanted = ["not", ["or", [["is", "visit:device", ["Mobile"]], ["is", "visit:os", ["Windows"]]]]]
    assert filters_of(page) == ["contains,event:page,/blog", json.dumps(wanted, separators=(",", ":"))]
    filters = [["contains", "event:page", ["/blog"]], wanted]
    assert headlines(page)["visitors"] == say_whole(demo.api.query("visitors", date_range="91d", filters=filters)["results"][0]["metrics"][0])

    page.reload()
    page.get_by_role("button", name="Change the filter").last.click()
    assert [select.input_value() for select in builder(page).locator(".lead select").all()] == ["and", "none"]
    assert builder(page).locator(".tokens .words").all_inner_texts() == ["/blog", "Mobile", "Windows"]


@pytest.mark.parametrize("how, operator, value", [
    ("is", "is", "/pricing"), ("is not", "is_not", "/pricing"), ("contains", "contains", "blog"), ("does not contain", "contains_not", "blog"),
    ("matches", "matches", "^/(docs|blog)$"), ("does not match", "matches_not", "a,b%[")])
def test_every_operator_can_be_chosen(dashboard, how, operator, value):
    page = dashboard()
    page.get_by_role("button", name="+ Filter").click()
    add_value(page, "Page", how, value)
    builder(page).get_by_role("button", name="Show").click()
    assert filters_of(page) == [f"{operator},event:page,{value.replace('%', '%25').replace(',', '%2C')}"]


def test_a_property_is_named_and_what_is_still_being_typed_counts(demo, dashboard):
    page = dashboard("?period=12mo")
    page.get_by_role("button", name="+ Filter").click()
    builder(page).get_by_label("What").select_option(label="Property…")
    builder(page).get_by_label("Name of the property").fill("plan")
    builder(page).get_by_role("combobox", name="Value").fill("team")
    builder(page).get_by_role("button", name="Show").click()
    assert filters_of(page) == ["is,event:props:plan,team"]
    expect(page.locator("#chips .words")).to_have_text("plan is team")


def test_cancelling_changes_nothing_and_what_the_builder_does_not_know_stays(dashboard):
    strange = ["has_not_done", ["is", "event:name", ["signup"]]]
    page = dashboard("?" + urllib.parse.urlencode({"f": json.dumps(strange)}))
    page.get_by_role("button", name="+ Filter").click()
    expect(builder(page).locator(".raw")).to_have_text("has not done (Event is signup)")
    add_value(page, "Page", "is", "/")
    page.keyboard.press("Escape")   # the list of values
    page.keyboard.press("Escape")   # the dialog
    expect(builder(page)).to_be_hidden()
    assert [json.loads(text) for text in filters_of(page)] == [strange]
    page.get_by_role("button", name="+ Filter").click()
    add_value(page, "Page", "is", "/")
    builder(page).get_by_role("button", name="Show").click()
    assert json.loads(filters_of(page)[0]) == strange and filters_of(page)[1] == "is,event:page,/"


def test_hostile_values_are_offered_as_text(attacked, new_page):
    page = new_page(attacked.url)
    enter(page, attacked, "?period=day")
    settle(page)
    page.get_by_role("button", name="+ Filter").click()
    builder(page).get_by_role("combobox", name="Value").press_sequentially("<img")
    page.locator("#suggestions li").first.click()
    expect(builder(page).locator(".tokens .words")).to_have_text(HOSTILE["markup"])
    builder(page).get_by_role("button", name="Show").click()
    assert headlines(page)["visitors"] == "1"


# ---- comparison ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("mode", ["previous_period", "year_over_year"])
def test_the_change_is_the_api_s_and_says_what_it_was(demo, dashboard, mode):
    period = [(today() - timedelta(days)).isoformat() for days in (30, 1)]
    page = dashboard(f"?from={period[0]}&to={period[1]}&compare={mode}")
    found = demo.api.query(*METRICS, date_range=period, include={"comparisons": {"mode": mode}})["results"][0]["comparison"]
    for metric, change, was in zip(METRICS, found["change"], found["metrics"]):
        shown = page.locator(f"#headlines [data-key={metric}] .change")
        if mode == "year_over_year":   # the made-up year had not begun
            assert shown.inner_text() == "new"
            continue
        size = f"{abs(change):g} pts" if metric == "bounce_rate" else say_percent(abs(change))
        assert shown.inner_text() == (f"{'↑' if change > 0 else '↓'} {size}" if change else "± 0")
        assert shown.get_attribute("title").endswith(f"it was {SAY[metric](was)}")
        good = (change > 0) != (metric == "bounce_rate")
        assert shown.get_attribute("class").split()[1:] == ([] if not change else ["better"] if good else ["worse"])


def test_any_range_can_be_compared_with_and_weekdays_matched(demo, dashboard):
    page = dashboard("?period=7d")
    pick(page, "Compare with").select_option("edit")
    since, until = ((today() - timedelta(days)).isoformat() for days in (60, 54))
    field(page, "From").fill(since)
    field(page, "To").fill(until)
    page.get_by_role("checkbox", name="Same weekdays").check()
    page.get_by_role("button", name="Show", exact=True).click()
    settle(page)
    assert page.url.endswith(f"&compare=custom&match=weekday&compare_from={since}&compare_to={until}")
    asked = {"mode": "custom", "date_range": [since, until], "match_day_of_week": True}
    wanted = demo.api.query("visitors", date_range="7d", include={"comparisons": asked})["results"][0]["comparison"]["metrics"][0]
    assert page.locator("#headlines [data-key=visitors] .change").get_attribute("title").endswith(f"it was {say_whole(wanted)}")
    pick(page, "Compare with").select_option("year_over_year weekday")
    settle(page)
    assert page.url.endswith("&period=7d&compare=year_over_year&match=weekday")
    expect(pick(page, "Compare with")).to_have_value("year_over_year weekday")


def test_part_of_a_day_has_an_address_of_its_own(demo, dashboard):
    day = (today() - timedelta(2)).isoformat()
    moments = [f"{day}T08:00:00{OFFSET:+03}:00", f"{day}T09:59:59{OFFSET:+03}:00"]
    page = dashboard("?" + urllib.parse.urlencode({"from": moments[0], "to": moments[1], "interval": "minute"}))
    values = demo.api.query(*METRICS, date_range=moments)["results"][0]["metrics"]
    assert counted(page) == as_counted(values)
    expect(page.locator("#plot")).to_have_attribute("aria-valuemax", "119")
    expect(pick(page, "Interval")).to_have_value("minute")
    page.get_by_role("button", name="Later").click()
    settle(page)
    assert urllib.parse.parse_qs(urllib.parse.urlsplit(page.url).query)["from"] == [f"{day}T10:00:00{OFFSET:+03}:00"]


@pytest.mark.parametrize("name, first, last", [("yesterday", 1, 1), ("last_month", None, None)])
def test_yesterday_and_last_month_are_ranges_of_their_days(dashboard, name, first, last):
    page = dashboard()
    pick(page, "Period").select_option(name)
    settle(page)
    end = today() - timedelta(last) if last else today().replace(day=1) - timedelta(1)
    assert page.url.endswith(f"&from={today() - timedelta(first) if first else end.replace(day=1)}&to={end}")


def test_without_comparison_there_is_neither_change_nor_second_line(dashboard):
    page = dashboard("?period=7d")
    expect(page.locator(".legend .key.then")).to_be_visible()
    pick(page, "Compare with").select_option("none")
    settle(page)
    expect(page.locator(".legend .key.then")).to_have_count(0)
    assert page.locator(".line.then").get_attribute("d") == ""
    assert set(page.locator("#headlines .change").all_inner_texts()) == {""}


def test_the_counts_of_a_day_that_is_not_over_stand_beside_yesterday_s_without_a_verdict(demo, dashboard):
    page = dashboard("?period=day")
    was = demo.api.query("visitors", date_range="day", include={"comparisons": {"mode": "previous_period"}})["results"][0]["comparison"]["metrics"][0]
    change = page.locator("#headlines [data-key=visitors] .change")
    assert change.inner_text() == f"yesterday {was}"
    assert change.get_attribute("class").split() == ["change"]


# ---- the chart -------------------------------------------------------------------------------------------------------

def long_day(label):
    day = date.fromisoformat(label)
    return f"{day:%A} {day.day} {day:%B} {day.year}"


def test_the_keyboard_reads_the_chart_point_by_point(demo, dashboard):
    page = dashboard("?period=28d&metric=pageviews")
    found = [(each["dimensions"][0], each["metrics"][0]) for each in demo.api.query("pageviews", date_range="28d", dimensions=["time:day"])["results"]]
    plot, tip = page.locator("#plot"), page.locator("#plot .tip")
    for key, (label, value) in [("Home", found[0]), ("ArrowRight", found[1]), ("End", found[-1]), ("ArrowLeft", found[-2])]:
        plot.press(key)
        lines = tip.inner_text().split("\n")
        assert lines[0].replace(",", "") == long_day(label)
        assert lines[1] == f"{value:,} pageview{'' if value == 1 else 's'}"
        assert plot.get_attribute("aria-valuetext").startswith(", ".join(lines[:2]))
        assert plot.get_attribute("aria-valuenow") == str(found.index((label, value)))
    page.keyboard.press("Tab")
    expect(tip).to_be_hidden()


def test_the_pointer_reads_the_chart_and_the_tooltip_stays_inside(dashboard):
    page = dashboard()
    box = page.locator("#plot").bounding_box()
    for share in (0.02, 0.5, 0.98):
        page.mouse.move(box["x"] + box["width"] * share, box["y"] + 100)
        tip = page.locator("#plot .tip").bounding_box()
        assert box["x"] <= tip["x"] and tip["x"] + tip["width"] <= box["x"] + box["width"]
    page.mouse.move(5, 5)
    expect(page.locator("#plot .tip")).to_be_hidden()


def test_the_table_says_the_same_as_the_chart(demo, dashboard):
    page = dashboard("?period=7d&metric=visits")
    page.get_by_text("The same as a table").click()
    found = demo.api.query("visits", date_range="7d", dimensions=["time"], include={"comparisons": {"mode": "previous_period"}})["results"]
    assert [line.locator("th, td").all_inner_texts()[1:3] for line in page.locator("#chart .table tbody tr").all()] == [
        [say_whole(each["metrics"][0]), say_whole(each["comparison"]["metrics"][0])] for each in found]
    assert page.locator("#chart .table thead th").all_inner_texts() == ["Date", "Visits", "Before", "Change"]


def test_a_headline_number_owns_the_chart(dashboard):
    page = dashboard()
    page.get_by_role("button", name="Bounce rate").click()
    expect(page.locator(".legend strong")).to_have_text("Bounce rate per day")
    expect(page.get_by_role("button", name="Bounce rate")).to_have_attribute("aria-pressed", "true")
    pick(page, "Interval").select_option("week")
    settle(page)
    expect(page.locator(".legend strong")).to_have_text("Bounce rate per week")
    assert page.url.endswith("metric=bounce_rate&interval=week")


def drag(page, since, until):
    """Draw the mouse over the chart between two shares of its width."""
    page.locator("#plot").scroll_into_view_if_needed()
    box = page.locator("#plot").bounding_box()
    page.mouse.move(box["x"] + box["width"] * since, box["y"] + 100)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * until, box["y"] + 120, steps=4)
    page.mouse.up()


def custom_range(page):
    return page.evaluate("() => ['from', 'to'].map(name => new URLSearchParams(location.search).get(name))")


def test_dragging_over_the_chart_looks_closer_and_back_steps_out_again(dashboard):
    page = dashboard("?period=28d")
    before = headlines(page)
    drag(page, 0.3, 0.6)
    settle(page)
    since, until = map(date.fromisoformat, custom_range(page))
    assert today() - timedelta(28) < since < until < today() - timedelta(1) and 6 <= (until - since).days <= 10
    expect(page.locator("#plot")).to_have_attribute("aria-valuemax", str((until - since).days))
    page.go_back()
    assert headlines(page) == before


def test_the_keyboard_looks_closer_down_to_the_minute(demo, dashboard):
    page = dashboard("?period=7d&compare=none")
    plot, yesterday = page.locator("#plot"), today() - timedelta(1)
    plot.press("End")
    plot.press("Shift+ArrowLeft")
    expect(page.locator("#plot .tip")).to_contain_text("Enter looks closer")
    page.keyboard.press("Escape")   # lets go of the choice, not of the point
    expect(page.locator("#plot .tip")).not_to_contain_text("Enter looks closer")
    plot.press("End")
    plot.press("Enter")
    settle(page)
    assert custom_range(page) == [str(yesterday), str(yesterday)]
    expect(pick(page, "Interval")).to_have_value("hour")
    for key in ("Home", *["ArrowRight"] * 9, "Shift+ArrowRight", "Enter"):
        plot.press(key)
    settle(page)
    moments = custom_range(page)
    assert [moment[:19] for moment in moments] == [f"{yesterday}T09:00:00", f"{yesterday}T10:59:59"]
    expect(pick(page, "Interval")).to_have_value("minute")
    values = demo.api.query(*METRICS, date_range=moments)["results"][0]["metrics"]
    assert counted(page) == as_counted(values)


def test_a_finger_reads_the_chart_and_chooses_nothing(dashboard):
    page = dashboard("?period=28d", has_touch=True, viewport={"width": 375, "height": 800})
    page.locator("#plot").scroll_into_view_if_needed()
    box = page.locator("#plot").bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + 80)
    expect(page.locator("#plot .tip")).to_be_visible()
    assert custom_range(page) == [None, None]


# ---- notes on the chart ----------------------------------------------------------------------------------------------

def note_dialog(page):
    return page.get_by_role("dialog").filter(visible=True)


def test_a_note_is_added_at_the_point_changed_and_removed_by_keyboard(fresh, new_page):
    page = new_page(fresh.url)
    hit(fresh.url)
    enter(page, fresh, "?period=7d")
    settle(page)
    plot, yesterday = page.locator("#plot"), today() - timedelta(1)
    plot.press("End")
    plot.press("+")
    field(page, "What happened").fill(MARKUP)
    expect(page.locator("#note-day")).to_have_value(str(yesterday))
    page.keyboard.press("Enter")
    expect(note_dialog(page)).to_be_hidden()
    expect(plot).to_be_focused()
    expect(page.locator(".plot .flag")).to_have_count(1)
    plot.press("End")
    expect(page.locator("#plot .tip")).to_contain_text(MARKUP)
    assert MARKUP in plot.get_attribute("aria-valuetext")

    page.get_by_text("1 note", exact=True).click()
    page.get_by_role("button", name=re.compile("^Change the note of")).click()
    field(page, "What happened").fill("Launch")
    field(page, "Hour").select_option("14")
    page.get_by_role("button", name="Keep the note").click()
    expect(page.locator(".notes li bdi")).to_have_text("Launch")
    expect(page.locator(".notes li span")).to_contain_text("14:00")
    expect(page.locator(".plot .flag")).to_have_count(1)   # the hour is of that day
    pick(page, "Period").select_option("day")
    settle(page)
    expect(page.locator(".plot .flag")).to_have_count(0)
    page.go_back()
    settle(page)
    page.get_by_role("button", name=re.compile("^Change the note of")).click()
    page.get_by_role("button", name="Remove it").click()
    expect(page.locator(".plot .flag")).to_have_count(0)
    expect(page.get_by_text("1 note", exact=True)).to_be_hidden()


def test_a_note_that_the_server_refuses_stays_in_the_dialog_with_the_reason(dashboard):
    page = dashboard("?period=7d")
    page.get_by_role("button", name="Add a note").click()
    page.get_by_role("button", name="Keep the note").click()
    expect(page.locator("#note-text-wrong")).to_have_text("What happened is needed")
    page.route("**/api/annotations", lambda route: route.fulfill(status=503, json={"error": "The disk is full.", "code": "busy", "details": []}))
    field(page, "What happened").fill("Launch")
    page.get_by_role("button", name="Keep the note").click()
    expect(page.locator("#note-form [role=alert]")).to_have_text("The disk is full.")
    expect(field(page, "What happened")).to_have_value("Launch")


def test_who_may_not_write_notes_is_not_asked_to(dashboard, new_page, demo):
    page = new_page(demo.url, storage_state=demo.state)
    page.route("**/api/annotations?*", lambda route: route.fulfill(json={"annotations": [
        {"id": 1, "at": str(today() - timedelta(1)), "text": "Launch", "author": "somebody"}], "may_edit": False}))
    page.goto(f"{demo.url}/?period=7d")
    settle(page)
    page.get_by_text("1 note", exact=True).click()
    expect(page.locator(".notes li")).to_contain_text("Launch")
    expect(page.get_by_role("button", name="Add a note")).to_be_hidden()
    expect(page.locator(".notes button")).to_be_hidden()


# ---- sharing ---------------------------------------------------------------------------------------------------------

def test_the_link_is_copied_as_it_stands(dashboard):
    page = dashboard("?period=7d&f=is,visit:device,Mobile", permissions=["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy link").click()
    expect(page.locator("#copy-link")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == page.url


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_chart_is_kept_as_a_picture_that_needs_nothing_else(dashboard, tmp_path, scheme):
    page = dashboard("?period=7d&f=is,visit:device,Mobile", color_scheme=scheme)
    with page.expect_download() as download:
        page.get_by_role("button", name="SVG").click()
    since, until = (today() - timedelta(days) for days in (7, 1))
    assert download.value.suggested_filename == f"{DOMAIN}-visitors-{since}-{until}.svg"
    text = download.value.path().read_text("utf-8")
    root = ElementTree.fromstring(text)
    words = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text") if element.text]
    assert f"{DOMAIN}: Visitors per day" in words and "Device is Mobile" in words
    assert len(list(root.iter("{http://www.w3.org/2000/svg}path"))) >= 3
    assert not re.search(r"class=|style=|href|var\(|url\(", text)
    with page.expect_download() as download:
        page.get_by_role("button", name="PNG").click()
    data = download.value.path().read_bytes()
    assert data.startswith(b"\x89PNG") and int.from_bytes(data[16:20], "big") == 2 * round(float(root.get("width")))


# ---- trouble ---------------------------------------------------------------------------------------------------------

def test_a_server_that_is_gone_is_told_and_asked_again(start_server, fresh, new_page, tmp_path):
    page = new_page(fresh.url)
    hit(fresh.url)
    enter(page, fresh)
    settle(page)
    fresh.kill()
    pick(page, "Period").select_option("7d")
    expect(page.locator("#trouble")).to_contain_text("The server does not answer.")
    expect(page.locator("#trouble")).to_contain_text(re.compile(r"The grey numbers are of \d\d?:\d\d\."))
    expect(page.locator("#headlines")).to_have_class(re.compile(r"\bold\b"))

    start_server(tmp_path / "test.db", "--port", str(urllib.parse.urlsplit(fresh.url).port))
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("#trouble")).to_be_hidden()
    assert headlines(page)["visitors"] == "0"   # the seven days end yesterday


def test_a_page_that_cannot_begin_says_so_and_tries_again(demo, new_page):
    page = new_page(demo.url, storage_state=demo.state)
    page.route("**/api/session", lambda route: route.abort())
    page.goto(f"{demo.url}/")
    expect(page.get_by_role("heading", name="Mini Numbers does not answer")).to_be_visible()
    page.unroute("**/api/session")
    page.get_by_role("button", name="Try again").click()
    settle(page)


def test_when_the_reports_fail_all_are_told_once_and_asked_again_at_once(dashboard):
    page = dashboard()
    heard = hear_reports(page)
    page.route(REPORTS, lambda route: route.fulfill(status=503, json={"error": "Too many reports.", "code": "busy", "details": []}))
    pick(page, "Period").select_option("7d")
    expect(page.locator("#trouble p")).to_have_text(re.compile(r"^Too many reports\. The grey numbers are of \d\d?:\d\d\.$"))
    expect(page.locator(".fades.old")).to_have_count(6)
    page.unroute(REPORTS)
    page.get_by_role("button", name="Try again").click()
    settle(page)
    expect(page.locator("#trouble")).to_be_hidden()
    assert heard == [VIEW, VIEW]


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_says_when_to_come_back_is_asked_again_then_and_not_before(demo, new_page, status):
    page = new_page(demo.url, storage_state=demo.state)
    page.clock.install()
    page.goto(f"{demo.url}/")
    settle(page)
    heard = hear_reports(page)
    page.route(REPORTS, lambda route: route.fulfill(status=status, headers={"Retry-After": "7"}, json={"error": "Come back later.", "code": "busy", "details": []}))
    pick(page, "Period").select_option("7d")
    expect(page.locator("#trouble p")).to_contain_text("Trying again in 7 s.")
    page.clock.run_for(6_000)
    assert len(heard) == 1
    page.clock.run_for(1_500)
    wait_until(page, lambda: len(heard) == 2)
    page.unroute(REPORTS)
    page.clock.run_for(60_000)
    settle(page)
    expect(page.locator("#trouble")).to_be_hidden()
    wait_until(page, lambda: len(heard) == 3)


STRANGE = "What answered is not Mini Numbers."
NO_ANSWERS = [(200, "", STRANGE), (200, "<html>", STRANGE), (500, "oops", "The server answered with status 500 and no explanation."),
              (502, "{", "The server answered with status 502 and no explanation."), (502, '{"error": {}, "details": 1}', "The server answered with status 502"),
              *((200, body, STRANGE) for body in ["{}", "[]", "null", "3", '{"results": []}', '{"answers": []}', '{"answers": [{"results": []}]}'])]


def fulfill(status, body, route):
    route.fulfill(status=status, body=body)


def test_an_answer_that_is_none_is_trouble_and_no_end(dashboard):
    page = dashboard("?period=28d")
    before = headlines(page)
    for status, body, words in NO_ANSWERS:
        page.route(REPORTS, functools.partial(fulfill, status, body))
        pick(page, "Period").select_option("7d")
        expect(page.locator("#trouble p")).to_contain_text(words)
        expect(page.locator("#trouble button")).to_have_text("Try again")
        page.unroute(REPORTS)
        page.go_back()
        assert headlines(page) == before
        expect(page.locator("#trouble")).to_be_hidden()


def test_json_of_another_program_is_trouble_wherever_it_comes(demo, new_page):
    page = new_page(demo.url, storage_state=demo.state)
    for search in ["", "?view=live", "?view=sites", "?settings=users", "?settings=tokens", "?settings=audit", "?settings=instance"]:
        page.route(re.compile("/api/(?!session|sites)"), lambda route: route.fulfill(json={"status": "ok"}))
        page.goto(f"{demo.url}/{search}")
        expect(page.get_by_text(STRANGE).filter(visible=True).first).to_be_visible()
        page.unroute_all()
        page.get_by_role("button", name="Try again").filter(visible=True).click()
        expect(page.get_by_text(STRANGE).filter(visible=True)).to_have_count(0)


@pytest.mark.parametrize("name", ["session", "sites"])
def test_a_page_that_begins_with_json_of_another_program_says_so_and_tries_again(demo, new_page, name):
    page = new_page(demo.url, storage_state=demo.state)
    page.route(f"**/api/{name}", lambda route: route.fulfill(json={}))
    page.goto(f"{demo.url}/")
    expect(page.locator("#trouble-words")).to_contain_text(STRANGE)
    page.unroute_all()
    page.get_by_role("button", name="Try again").click()
    settle(page)


def test_a_device_that_is_offline_is_told_so_and_goes_on_by_itself(dashboard):
    page = dashboard()
    page.context.set_offline(True)
    expect(page.locator("#trouble p")).to_have_text("This device is offline. What is shown may be old.")
    pick(page, "Period").select_option("7d")
    expect(page.locator("#trouble p")).to_have_text(re.compile("^This device is offline. The grey numbers are of "))
    page.context.set_offline(False)
    settle(page)
    expect(page.locator("#trouble")).to_be_hidden()


def test_what_takes_long_says_so_and_can_be_cancelled(demo, new_page):
    page, gone = new_page(demo.url, storage_state=demo.state), []
    page.clock.install()
    page.goto(f"{demo.url}/")
    settle(page)
    page.on("requestfailed", lambda request: gone.append(request.url))
    held = hold_reports(page)
    pick(page, "Period").select_option("12mo")
    wait_until(page, lambda: held)
    expect(page.locator("#busy")).to_be_hidden()
    page.clock.run_for(4_500)
    expect(page.locator("#busy p")).to_have_text(re.compile("^Counting for [345] s$"))
    page.get_by_role("button", name="Cancel").filter(visible=True).click()
    expect(page.locator("#busy")).to_be_hidden()
    expect(page.locator("#trouble p")).to_contain_text("Cancelled.")
    wait_until(page, lambda: gone)   # the request, too
    page.unroute(REPORTS)
    page.get_by_role("button", name="Try again").click()
    assert headlines(page)["visitors"] == say_whole(demo.api.query("visitors", date_range="12mo")["results"][0]["metrics"][0])


def test_numbers_that_may_grow_are_asked_for_again_without_a_flicker(demo, new_page):
    page = new_page(demo.url, storage_state=demo.state)
    page.clock.install()
    heard = hear_reports(page)
    page.goto(f"{demo.url}/?period=day")
    settle(page)
    count = len(heard)
    held = hold_reports(page)
    page.clock.run_for(61_000)
    wait_until(page, lambda: len(heard) > count)
    assert held and page.locator("#headlines").get_attribute("aria-busy") == "false"
    page.clock.run_for(10_000)
    expect(page.locator("#busy")).to_be_hidden()


@pytest.mark.parametrize("search, words, button", [
    ("?f=is,event:page,/nowhere", "No visits match these filters.", "Remove the filters"),
    ("?from=2001-01-01&to=2001-01-07", "Nothing was counted before ", "Show all time")])
def test_an_empty_chart_says_why_and_leads_on(dashboard, search, words, button):
    page = dashboard(search)
    expect(page.locator("#nothing p")).to_contain_text(words)
    page.locator("#nothing").get_by_role("button", name=button).click()
    settle(page)
    expect(page.locator("#nothing")).to_be_hidden()


def test_without_visits_no_mean_and_no_rate_is_known(dashboard):
    page = dashboard("?f=is,event:page,/nowhere")
    assert counted(page) == {"visitors": "0", "visits": "0", "pageviews": "0", "views_per_visit": "–", "bounce_rate": "–", "visit_duration": "–"}


def test_the_last_choice_wins_in_whichever_order_the_answers_come(demo, dashboard):
    page = dashboard()
    held, gone = hold_reports(page), []
    page.on("requestfailed", lambda request: gone.append(request.post_data))
    for period in ("7d", "91d", "day", "12mo"):
        pick(page, "Period").select_option(period)
        wait_until(page, lambda: f'"date_range":"{period}"' in "".join(body for _, body in held))
    wait_until(page, lambda: len(gone) == 3)   # nobody wants them any more
    for route, _ in reversed(held):
        with contextlib.suppress(Exception):   # it may have been given up
            route.continue_()
    wanted = demo.api.query("visitors", date_range="12mo")["results"][0]["metrics"][0]
    assert headlines(page)["visitors"] == say_whole(wanted)
    assert gone == [body for _, body in held[:3]]


def test_a_request_goes_on_for_the_panels_that_still_want_it(demo, dashboard):
    page = dashboard()
    held = hold_reports(page)
    pick(page, "Period").select_option("91d")
    wait_until(page, lambda: len(held) == 1)
    page.get_by_role("tab", name="Exit pages").click()
    wait_until(page, lambda: len(held) == 2)
    (whole, _), (tab, _) = held

    def top(dimension):
        return demo.api.query("visitors", date_range="91d", dimensions=[dimension], pagination={"limit": 9})["results"][0]["dimensions"][0]
    tab.continue_()
    expect(page.locator("#pages .rows")).to_have_attribute("aria-busy", "false")
    expect(page.locator("#headlines")).to_have_attribute("aria-busy", "true")
    exits = rows(page, "pages")
    assert exits[0][0] == top("visit:exit_page")
    whole.continue_()   # the panel of pages is in it, too
    settle(page)
    assert rows(page, "pages") == exits
    assert rows(page, "sources")[0][0] == top("visit:source")
    assert headlines(page)["visitors"] == say_whole(demo.api.query("visitors", date_range="91d")["results"][0]["metrics"][0])


# ---- hostile visitors ------------------------------------------------------------------------------------------------

MARKUP = "<img src=x onerror=alert(1)>"
HOSTILE = {
    "markup": f"/{MARKUP}", "a script": "/<script>alert(2)</script>", "an end of a tag": "/\"'><svg onload=alert(3)>", "a template": "/{{7*7}}${alert(4)}",
    "right to left": "/\u0645\u0631\u062d\u0628\u0627", "an override": "/\u202egnp.exe", "emoji": "/\U0001f469\u200d\U0001f680", "2,000 characters": "/" + "x" * 1999,
    "a comma and a percent sign": "/a,b%c", "an address": "/javascript:alert(5)",
}


def legible(text):
    """As the page shows it: what would turn the order of the letters round is written out."""
    return text.replace("\u202e", "⟨U+202E⟩")


@pytest.fixture(scope="module")
def attacked(unvisited, tmp_path_factory):
    """A server whose visitors sent every kind of hostile text."""
    db = tmp_path_factory.mktemp("attacked") / "test.db"
    shutil.copy(unvisited, db)
    server = types.SimpleNamespace(url=(process := Server(db)).url, api=Api(process.url, token_of(db), "example.com"))
    for number, path in enumerate(HOSTILE.values()):
        tags = urllib.parse.urlencode({"utm_campaign": f"{MARKUP}{number}", "utm_source": f"<b>{number}</b>"})
        hit(server.url, f"https://example.com{urllib.parse.quote(path)}?{tags}", ip=f"192.0.2.{number}", r=f"https://evil.test/{MARKUP}")
    yield server
    process.kill()


def test_hostile_text_is_shown_as_text(attacked, new_page):
    page = new_page(attacked.url)
    enter(page, attacked, "?period=day&tab=referrer")
    settle(page)
    page.locator("#pages").get_by_role("button", name=f"All {len(HOSTILE)}").click()
    settle(page)
    stored = {each["dimensions"][0] for each in attacked.api.query("visitors", date_range="day", dimensions=["event:page"])["results"]}
    assert stored == set(HOSTILE.values())
    assert set(page.locator("#sheet tbody bdi").all_text_contents()) == set(map(legible, stored))
    page.keyboard.press("Escape")
    expect(page.locator("#sheet")).to_be_hidden()
    for tab in ("Entry pages", "Exit pages", "Sources", "Referrers", "Campaigns"):
        page.get_by_role("tab", name=tab).click()
        settle(page)
        assert page.locator("main").locator("img, script, svg[onload], b").count() == 0
    assert [label for _, label, *_ in rows(page, "sources")][0] == f"{MARKUP}0"
    for width in (320, 1280):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_hostile_text_can_be_filtered_by_and_survives_the_address(attacked, new_page):
    page = new_page(attacked.url)
    enter(page, attacked, "?period=day")
    settle(page)
    for key in map(HOSTILE.get, ["markup", "an end of a tag", "an override", "2,000 characters", "a comma and a percent sign"]):
        page.locator("#pages .more button").click()
        settle(page)
        page.locator("#sheet tbody bdi").nth(page.locator("#sheet tbody bdi").all_text_contents().index(legible(key))).click()
        page.reload()
        assert headlines(page)["visitors"] == "1"
        assert rows(page, "pages") == [[key, legible(key), "1", "100%"]]
        assert page.locator("#chips .chip .words").first.text_content() == f"Page is {legible(key)}"
        assert page.evaluate("document.documentElement.scrollWidth") <= 1280
        page.locator("#chips .cross").click()
        settle(page)


def test_what_turns_letters_round_is_shown_everywhere_and_kept_in_files(fresh, new_page, tmp_path):
    page, spoof = new_page(fresh.url), "\u202egnp.exe"
    hit(fresh.url, f"https://example.com/{urllib.parse.quote(spoof)}?utm_source={urllib.parse.quote(spoof)}")
    hit(fresh.url, "https://example.com/", n=spoof, p={"file": spoof})
    enter(page, fresh, "?period=day&tab=prop")
    settle(page)
    expect(page.locator("#events .rows .label")).to_have_text(legible(spoof))
    expect(page.locator("#sources .rows .label")).to_have_text(legible(spoof))
    seen = "[...document.querySelectorAll('main, #chips, #sheet')].map(each => each.innerText).join('') + [...document.querySelectorAll('[title]')].map(each => each.title).join('')"
    assert "\u202e" not in page.evaluate(seen)
    page.locator("#pages .more button").click()
    settle(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV of what is shown").click()
    download.value.save_as(tmp_path / "pages.csv")
    assert f"/{spoof}" in (tmp_path / "pages.csv").read_text("utf-8-sig")
    page.goto(f"{fresh.url}/?view=live")
    expect(page.locator("#live-feed li")).to_have_count(2)
    expect(page.locator("#live-feed .what").first).to_have_text(f"{legible(spoof)} on /")
    assert "\u202e" not in page.evaluate(seen)


def test_a_link_that_somebody_else_made_executes_nothing(dashboard):
    page = dashboard(f"?f=is,event:page,{MARKUP}&tab={MARKUP}#setup={MARKUP}")
    assert page.locator("#chips .chip .words").first.text_content() == f"Page is {MARKUP}"
    expect(page.locator("#pages .nothing")).to_have_text("Nothing matches these filters.")


def test_a_question_the_server_refuses_is_told_in_its_words(demo, dashboard):
    page = dashboard()
    page.goto(f'{demo.url}/?f=["is","{MARKUP}",["x"]]')
    expect(page.locator("#trouble p")).to_contain_text(MARKUP)
    page.keyboard.press("Escape")
    expect(page.locator("#trouble")).to_be_hidden()
    settle(page)


def test_filters_that_the_server_refuses_can_be_removed_where_that_is_told(demo, dashboard):
    page = dashboard()
    page.goto(f"{demo.url}/?period=7d&f=is,visit:device,Mobile&f=matches,event:page,(")
    expect(page.locator("#trouble p")).to_contain_text("filters")
    page.locator("#trouble").get_by_role("button", name="Remove the filters").press("Enter")
    settle(page)
    expect(page.locator("#trouble")).to_be_hidden()
    expect(page.locator("#main")).to_be_focused()
    assert page.url == f"{demo.url}/?site={DOMAIN}&period=7d"
    page.go_back()
    expect(page.locator("#chips li")).to_have_count(2)


# ---- every screen, every pair of eyes, every hand --------------------------------------------------------------------

@pytest.mark.parametrize("width", [320, 375, 768, 1280])
def test_nothing_but_the_headline_cards_scrolls_sideways(dashboard, width):
    page = dashboard("?period=91d&f=is,visit:device,Mobile&f=is,visit:country,US", viewport={"width": width, "height": 800}, has_touch=width < 500)
    fits = "document.documentElement.scrollWidth <= innerWidth"
    assert page.evaluate(fits)
    page.get_by_text("The same as a table").click()
    pick(page, "Period").select_option("edit")
    page.locator("#foot .dropped > summary").click()
    page.locator("#plot").press("End")
    assert page.evaluate(fits)
    assert page.locator("#range-from").bounding_box()["width"] > 100


def test_the_card_that_owns_the_chart_is_in_view_on_a_phone(dashboard):
    page = dashboard("?metric=visit_duration", viewport={"width": 375, "height": 800})
    box = page.get_by_role("button", name="Visit duration").bounding_box()
    assert 0 <= box["x"] and box["x"] + box["width"] <= 375


def lightness(page, name):
    """The mean of red, green and blue that a custom property paints with."""
    return page.evaluate("""name => { const probe = document.body.appendChild(document.createElement("i")); probe.style.setProperty("color", `var(${name})`);
        const found = getComputedStyle(probe).color.match(/\\d+/g).slice(0, 3).map(Number); probe.remove(); return (found[0] + found[1] + found[2]) / 3; }""", name)


@pytest.mark.parametrize("scheme, other", [("light", "dark"), ("dark", "light")])
def test_the_theme_is_the_system_s_until_one_is_chosen_and_the_choice_stays(dashboard, scheme, other):
    page = dashboard(color_scheme=scheme)

    def dark():
        return lightness(page, "--paper") < lightness(page, "--ink")
    assert dark() == (scheme == "dark")
    pick(page, "Theme").select_option(other)
    assert dark() == (other == "dark")
    page.reload()
    settle(page)
    assert dark() == (other == "dark")
    pick(page, "Theme").select_option("")
    assert dark() == (scheme == "dark")


FOCUSABLE = """() => [...document.querySelectorAll("a[href], button, input, select, summary, [tabindex]")]
    .filter(each => each.tabIndex >= 0 && each.checkVisibility({visibilityProperty: true})).length"""
FOCUSED = """() => { const at = document.activeElement, {outlineStyle, outlineWidth} = getComputedStyle(at), box = at.getBoundingClientRect();
    return at === document.body ? null : [[...document.querySelectorAll("*")].indexOf(at), at.outerHTML.slice(0, 80),
        outlineStyle === "solid" && parseFloat(outlineWidth) >= 2, box.bottom > 0 && box.top < innerHeight]; }"""


@pytest.mark.parametrize("view", ["report", "sign-in"])
def test_the_tab_key_reaches_everything_and_the_focus_can_be_seen(demo, dashboard, new_page, view):
    if view == "report":
        page = dashboard("?f=is,visit:device,Mobile")
        page.locator("#retention").scroll_into_view_if_needed()
        expect(page.locator("#retention-words")).not_to_be_empty()
        expect(page.locator("#flow li")).not_to_have_count(0)
        page.get_by_text("The same as a table").click()
    else:
        page = new_page(demo.url)
        page.goto(f"{demo.url}/")
        field(page, "Username").wait_for()
    wanted, reached = page.evaluate(FOCUSABLE), set()
    assert wanted > 4
    for _ in range(wanted + 1):   # once round; between the last and the first nothing in the page has the focus
        page.keyboard.press("Tab")
        if found := page.evaluate(FOCUSED):
            number, what, ringed, inside = found
            assert ringed, f"no ring around {what}"
            assert inside, f"out of sight: {what}"
            reached.add(number)
    assert len(reached) == wanted


def test_the_arrow_keys_move_between_tabs_and_enter_filters(dashboard):
    page = dashboard()
    page.get_by_role("tab", name="Top pages").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Entry pages")).to_be_focused()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("tab", name="404")).to_be_focused()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("tab", name="Exit pages")).to_be_focused()
    settle(page)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#chips li")).to_contain_text("Exit page is ")
    settle(page)
    expect(page.locator("#status")).to_have_text(f"Last 28 days: {headlines(page)['visitors']} visitors")   # what a screen reader says


def test_the_skip_link_leads_to_the_numbers(dashboard):
    page = dashboard()
    page.locator(".skip").focus()
    expect(page.locator(".skip")).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()


OPENED = {
    "report": ("?period=28d", None), "filtered": ("?f=is,visit:device,Mobile&f=is,visit:os,Android", None), "empty chart": ("?f=is,event:page,/nowhere", None), "sites": ("?view=sites", None),
    "tables": ("?period=7d", lambda page: [summary.click() for summary in page.locator("details:visible > summary").all()]),
    "custom range": ("", lambda page: page.keyboard.press("c")), "filter builder": ("?f=is,visit:country,SE", lambda page: page.keyboard.press("/")),
    "live": ("?view=live", None), "sheet": ("?period=7d&sheet=page", None),
    "week and year": ("?period=91d", lambda page: page.locator("#year tbody td[data-key]").last.focus()),
    "not counted": ("?period=28d", lambda page: page.locator("#foot .dropped > summary").click()),
    "keys": ("", lambda page: page.keyboard.press("?")), "note": ("", lambda page: page.get_by_role("button", name="Add a note").click()),
}
AXE = """async tags => (await axe.run({runOnly: {type: "tag", values: tags}})).violations.map(({id, nodes}) => [id, ...nodes.slice(0, 3).map(({html}) => html.slice(0, 200))])"""


@pytest.mark.parametrize("view", OPENED)
@pytest.mark.parametrize("scheme, width", [("light", 1280), ("dark", 375)])
def test_axe_finds_nothing(demo, new_page, node_packages, view, scheme, width):
    search, act = OPENED[view]
    page = new_page(demo.url, storage_state=demo.state, color_scheme=scheme, viewport={"width": width, "height": 900}, reduced_motion="reduce")
    page.goto(f"{demo.url}/{search}")
    {"sites": cards, "live": lambda page: expect(page.locator("#live-state")).to_contain_text("10 seconds")}.get(view, settle)(page)
    if act:
        act(page)
    page.evaluate("scrollTo(0, 0)")   # else a button may be small for half of it is under the bar
    page.evaluate((node_packages / "axe-core" / "axe.min.js").read_text("utf-8") + ";0")
    assert page.evaluate(AXE, ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]) == []


def test_the_report_goes_onto_one_light_page_of_paper(dashboard):
    page = dashboard("?f=is,visit:device,Mobile", color_scheme="dark")
    assert len(re.findall(rb"/Type\s*/Page\b", page.pdf(format="A4"))) == 1
    page.emulate_media(media="print", color_scheme="dark")
    assert lightness(page, "--paper") > lightness(page, "--ink")
    expect(page.get_by_role("button", name="Print")).to_be_hidden()
    expect(page.locator("#chips .words")).to_be_visible()


def test_colours_that_the_system_forces_leave_everything_to_be_seen(dashboard):
    page = dashboard("?f=is,visit:device,Mobile", forced_colors="active")
    strokes = page.evaluate("() => ['.line:not(.then):not(.open)', '.line.then', '.zero'].map(name => getComputedStyle(document.querySelector(`#plot ${name}`)).stroke)")
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert len(set(strokes[:2])) == 2 and paper not in strokes


# ---- under a prefix --------------------------------------------------------------------------------------------------

@pytest.fixture
def mounted(tmp_path):
    """The address under which another program's server has mounted Mini Numbers."""
    app = create_app(Settings(db=str(tmp_path / "mounted.db"), geoip=""))
    app.setup("owner", PASSWORD, "example.com")

    def host(environ, start_response):
        if not environ["PATH_INFO"].startswith("/some/stats/"):
            start_response("418 I'm a teapot", [("Content-Length", "0")])
            return []
        return app({**environ, "SCRIPT_NAME": "/some/stats", "PATH_INFO": environ["PATH_INFO"].removeprefix("/some/stats")}, start_response)
    server = waitress.create_server(host, host="127.0.0.1", port=0)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    yield types.SimpleNamespace(url=f"http://127.0.0.1:{server.effective_port}/some/stats")
    server.close()
    app.close()
    thread.join(10)


def test_under_a_prefix_everything_stays_under_it(mounted, new_page):
    page = new_page(mounted.url)   # which complains of any request that leaves it
    page.goto(f"{mounted.url}/")
    sign_in(page)
    expect(page.locator("#tag")).to_contain_text(f'src="{mounted.url}/tracker.js"')
    hit(mounted.url, "https://example.com/under")
    page.reload()
    settle(page)
    row(page, "pages", "/under").click()
    assert page.url.startswith(f"{mounted.url}/?site=example.com&period=day&f=")
    page.reload()
    assert headlines(page)["visitors"] == "1"
    page.get_by_role("button", name="Sign out").click()
    expect(field(page, "Username")).to_be_focused()


# ---- the file itself -------------------------------------------------------------------------------------------------

def test_the_whole_page_weighs_less_than_90_kilobytes():
    assert len(dashboard_file().gzipped) < 90_000


def test_all_but_comments_and_indentation_is_sent_of_the_page():
    source, sent = (ROOT / "dashboard.html").read_text("utf-8"), dashboard_file().body.decode()
    assert [line for line in source.splitlines() if line.count("`") % 2] == [], "no text of a script goes over lines, where it could look like a comment"
    (_, rules, rest), (_, sent_rules, sent) = (re.split(r"</?style>", page) for page in (source, sent))
    assert "".join(re.sub(r"(?s)/\*.*?\*/", "", rules).split()) == "".join(sent_rules.split())

    def is_of(line, kept):
        line = re.sub(r"/\*\* @.*?\*/ ?", "", line.lstrip())
        return kept is not None and line.startswith(kept) and re.fullmatch(r"|\s{2,}(//.*|/\*.*\*/)", line.removeprefix(kept))
    lines = iter(rest.splitlines())
    left_out = "\n".join(line for kept in [*sent.splitlines(), None] for line in itertools.takewhile(lambda line: not is_of(line, kept), lines))
    remarks = re.sub(r"(?s)<!--.*?-->|/\*.*?\*/", "", left_out)
    assert [line for line in remarks.splitlines() if line.strip() and not line.strip().startswith("//")] == []


@pytest.mark.parametrize("word", ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", " style=", "@import"])
def test_the_page_never_writes_markup_nor_needs_a_hole_in_its_policy(word):
    assert word not in (ROOT / "dashboard.html").read_text("utf-8")
