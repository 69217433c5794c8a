"""The panels of dashboard.html, their sheets and files, the map, the week and the year, and the live view, in a real browser."""
import csv
import io
import re
import shutil
from datetime import date, timedelta
from urllib.parse import quote

import pytest
from playwright.sync_api import expect

from conftest import Server
from test_dashboard import (MARKUP, dashboard, demo, enter, fresh, headlines, hit, new_page, pick, row, say_duration, say_percent,  # noqa: F401
                            say_whole, set_up, settle, unvisited, wait_until)  # fixtures among them

PAGE_COLUMNS = ["visitors", "visits", "pageviews", "bounce_rate", "time_on_page", "scroll_depth", "exit_rate"]
SAY = {**dict.fromkeys(["visitors", "visits", "pageviews", "events"], say_whole), "time_on_page": say_duration, "visit_duration": say_duration}


def say(metric, value):
    return SAY.get(metric, lambda value: "–" if value is None else say_percent(value))(value)


def sheet(page):
    """[[what a row of the open sheet says, cell by cell], …], once it stands."""
    page.wait_for_function("""() => document.querySelector("#sheet[open] #sheet-rows[aria-busy=false]:not(.bare-bones)")""")
    return page.evaluate("""[...document.querySelectorAll("#sheet tbody tr")].map(line =>
        [line.querySelector("bdi").textContent, ...[...line.querySelectorAll("td")].map(cell => cell.textContent)])""")


def keys(page, panel):
    """The stored values of a panel's rows."""
    return page.evaluate("panel => [...document.querySelectorAll(`#${panel} .rows li`)].map(item => item.dataset.key)", panel)


def below(page):
    """Wait until what stands below the fold is there, too."""
    settle(page)
    page.wait_for_function("""() => document.querySelectorAll("#year td[data-key]").length && document.querySelectorAll("#week td[data-key]").length
        && !document.querySelector(".fades[aria-busy=true]")""")


def file_of(page, button):
    """(name, rows) of the file that a button gives."""
    with page.expect_download() as download:
        page.locator(button).click()
    raw = open(download.value.path(), "rb").read()
    assert raw.startswith(b"\xef\xbb\xbf") and raw.count(b"\r\n") >= raw.count(b"\n") - raw.count(b"\r\n")
    return download.value.suggested_filename, list(csv.reader(io.StringIO(raw.decode("utf-8-sig"), newline="")))


# ---- panels ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("panel, tab, dimension, metrics", [
    ("pages", "Engagement", "event:page", ["visitors", "time_on_page", "scroll_depth", "exit_rate"]),
    ("pages", "Exit pages", "visit:exit_page", ["visitors", "percentage", "exit_rate"]),
    ("places", "Languages", "visit:language", ["visitors", "percentage", "visit_duration"]),
    ("devices", "Systems", "visit:os", ["visitors", "percentage", "bounce_rate"])])
def test_the_columns_of_a_tab_are_the_api_s(demo, dashboard, panel, tab, dimension, metrics):
    page = dashboard("?period=91d")
    page.get_by_role("tab", name=tab).click()
    settle(page)
    found = demo.api.query(*metrics, date_range="91d", dimensions=[dimension], pagination={"limit": 9})["results"]
    shown = page.evaluate("""panel => [...document.querySelectorAll(`#${panel} .rows li`)].map(item =>
        [item.dataset.key, item.querySelector(".number").title, ...[...item.querySelectorAll(".cells > :not(.number)")].map(cell => cell.textContent)])""", panel)
    assert shown == [[*each["dimensions"], *(say(metric, value) for metric, value in zip(metrics, each["metrics"]))] for each in found]


@pytest.mark.parametrize("how", ["Alt", "Control", "Shift", "Delete", "Control+Enter"])
def test_a_value_is_left_out_by_mouse_and_by_key_and_let_in_again(demo, dashboard, how):
    page = dashboard("?period=91d")
    target = row(page, "devices", "Mobile")
    if "+" in how or how == "Delete":
        target.press(how)
    else:
        target.click(modifiers=[how])
    settle(page)
    expect(page.locator("#chips li")).to_have_text(["Device is not Mobile×"])
    wanted = demo.api.query("visitors", date_range="91d", filters=[["is_not", "visit:device", ["Mobile"]]])["results"][0]["metrics"][0]
    assert headlines(page)["visitors"] == say_whole(wanted)
    assert "Mobile" not in keys(page, "devices")
    if how == "Delete":
        assert page.evaluate("document.activeElement.closest('#devices') !== null"), "the focus stays in the panel"
    row(page, "devices", "Desktop").click(modifiers=["Alt"])
    settle(page)
    expect(page.locator("#chips li")).to_have_text(["Device is not Mobile or Desktop×"])


def test_a_browser_opens_its_versions_and_goes_back_to_browsers_without_the_filter(demo, dashboard):
    page = dashboard("?period=91d&tab=browser")
    row(page, "devices", "Firefox").click()
    settle(page)
    versions = demo.api.query("visitors", date_range="91d", dimensions=["visit:browser_version"], filters=[["is", "visit:browser", ["Firefox"]]])["results"]
    assert keys(page, "devices") == [each["dimensions"][0] for each in versions][:9]
    page.go_back()
    settle(page)
    assert "Firefox" in keys(page, "devices")


def test_campaigns_are_shown_by_each_of_the_five_tags(demo, dashboard):
    page = dashboard("?period=12mo&tab=campaign")
    choice = page.locator("#sources .columns select")
    assert choice.locator("option").all_inner_texts() == ["Campaign", "UTM source", "UTM medium", "UTM content", "UTM term"]
    choice.select_option(label="UTM medium")
    settle(page)
    found = demo.api.query("visitors", date_range="12mo", dimensions=["visit:utm_medium"], pagination={"limit": 9})["results"]
    assert keys(page, "sources") == [each["dimensions"][0] for each in found]
    assert "tab=utm_medium" in page.url
    page.reload()
    settle(page)
    expect(choice).to_have_value("utm_medium")
    expect(page.get_by_role("tab", name="Campaigns")).to_have_attribute("aria-selected", "true")


def test_custom_events_their_properties_and_pages_that_are_missing(fresh, new_page):
    page = new_page(fresh.url)
    hit(fresh.url)
    enter(page, fresh, "?period=day")
    below(page)
    expect(page.locator("#events .nothing")).to_contain_text("data-mn-event")
    for name, props in (("signup", {"plan": "pro"}), ("signup", {"plan": "free", "from": "=1+1"}), ("404", {"path": "/gone"})):
        hit(fresh.url, "https://example.com/gone" if name == "404" else "https://example.com/", n=name, p=props)
    page.reload()
    below(page)
    assert sorted(keys(page, "events")) == ["404", "signup"]
    page.get_by_role("tab", name="404").click()
    settle(page)
    assert keys(page, "pages") == ["/gone"]
    page.get_by_role("tab", name="Properties").click()
    page.locator("#events .columns select").select_option("prop:plan")
    wait_until(page, lambda: sorted(keys(page, "events")) == ["free", "pro"])
    row(page, "events", "pro").click()
    settle(page)
    expect(page.locator("#chips li")).to_have_text(["plan is pro×"])


# ---- the sheet -------------------------------------------------------------------------------------------------------

def test_a_sheet_shows_every_row_with_every_metric_in_any_order(demo, dashboard):
    page = dashboard("?period=91d")
    page.locator("#pages .more button").click()
    shown = [line[:len(PAGE_COLUMNS) + 2] for line in sheet(page)]   # after these comes revenue
    answer = demo.api.query(*PAGE_COLUMNS, date_range="91d", dimensions=["event:page"], include={"total_rows": True}, pagination={"limit": 100})
    total = demo.api.query("visitors", date_range="91d")["results"][0]["metrics"][0]
    assert shown == [[*each["dimensions"], say_whole(each["metrics"][0]), say_percent(round(100 * each["metrics"][0] / total, 2)),
                      *map(say, PAGE_COLUMNS[1:], each["metrics"][1:])] for each in answer["results"]]
    expect(page.locator("#sheet-count")).to_have_text(f"1 – {len(shown)} of {answer['meta']['total_rows']}")

    page.get_by_role("button", name="Bounce rate", exact=True).click()
    page.get_by_role("button", name="Bounce rate", exact=True).click()
    expect(page.locator("#sheet [aria-sort=ascending]")).to_have_text("Bounce rate")
    found = demo.api.query(*PAGE_COLUMNS, date_range="91d", dimensions=["event:page"], order_by=[["bounce_rate", "asc"]], pagination={"limit": 100})["results"]
    assert [line[0] for line in sheet(page)] == [each["dimensions"][0] for each in found]
    page.reload()
    assert [line[0] for line in sheet(page)] == [each["dimensions"][0] for each in found]


def test_back_and_escape_close_a_sheet_and_the_focus_goes_back_to_where_it_was_opened(dashboard):
    page = dashboard("?f=is,visit:device,Mobile")
    before = page.url
    for close in (page.go_back, lambda: page.keyboard.press("Escape"), page.locator("#sheet-close").click):
        page.locator("#places .more button").press("Enter")
        sheet(page)
        assert "sheet=country" in page.url
        expect(page.locator("#sheet-search")).to_be_focused()
        close()
        expect(page.locator("#sheet")).to_be_hidden()
        assert page.url == before
        expect(page.locator("#places .more button")).to_be_focused()
    expect(page.locator("#chips li")).to_have_count(1)


def test_a_search_in_a_sheet_looks_at_what_is_shown_and_shares_stay_shares_of_all(demo, dashboard):
    page = dashboard("?period=91d&sheet=country")
    whole = {line[0]: line for line in sheet(page)}
    page.locator("#sheet-search").fill("GERM")
    wait_until(page, lambda: len(sheet(page)) == 1)
    assert sheet(page) == [whole["Germany"]]
    assert "q=GERM" in page.url
    page.locator("#sheet-search").fill("no such country")
    expect(page.locator("#sheet .nothing")).to_have_text("Nothing matches this search.")


def test_a_row_of_a_sheet_filters_or_is_left_out_and_back_leads_to_the_sheet(demo, dashboard):
    page = dashboard("?period=91d&sheet=device")
    sheet(page)
    page.get_by_role("button", name="Leave out Mobile").click()
    settle(page)
    expect(page.locator("#sheet")).to_be_hidden()
    expect(page.locator("#chips li")).to_have_text(["Device is not Mobile×"])
    page.go_back()
    sheet(page)
    page.locator("#sheet").get_by_role("button", name="Desktop", exact=True).click()
    settle(page)
    expect(page.locator("#chips li")).to_have_text(["Device is Desktop×"])


@pytest.fixture(scope="module")
def wide(tmp_path_factory, unvisited):
    """A server with a site of 240 pages, some of them hostile to spreadsheets."""
    db = tmp_path_factory.mktemp("wide") / "test.db"
    shutil.copy(unvisited, db)
    server = Server(db)
    for number in range(240):
        hit(server.url, f"https://example.com/{number}", ip=f"192.0.2.{number % 7}")
    for number, source in enumerate(['=HYPERLINK("x")', "a,b;c", 'say "hi"', "\u0645\u0631\u062d\u0628\u0627", "-2+3", f"{MARKUP}"]):
        hit(server.url, f"https://example.com/?utm_source={quote(source)}", ip=f"198.51.100.{number}")
    yield server
    server.kill()


def test_a_sheet_has_pages_of_a_hundred_and_a_file_of_all(wide, new_page):
    page = new_page(wide.url)
    enter(page, wide, "?period=day&sheet=page&sort=pageviews:asc")
    assert len(sheet(page)) == 100
    first = file_of(page, "#sheet-csv")[1]
    assert [line[0] for line in first[1:]] == [line[0] for line in sheet(page)]
    page.get_by_role("button", name="Next").click()
    expect(page.locator("#sheet-count")).to_have_text("101 – 200 of 241")
    page.get_by_role("button", name="Next").click()
    expect(page.locator("#sheet-count")).to_have_text("201 – 241 of 241")
    expect(page.get_by_role("button", name="Next")).to_be_disabled()
    assert "page=3" in page.url
    name, lines = file_of(page, "#sheet-csv-all")
    assert re.fullmatch(r"example\.com-page-\d{4}-\d\d-\d\d-\d{4}-\d\d-\d\d\.csv", name)
    assert lines[0] == ["Page", "Visitors", "Share (%)", "Visits", "Pageviews", "Bounce rate (%)", "Time on page (s)", "Scroll depth (%)", "Exit rate (%)"]
    assert len(lines) == 242 and {line[0] for line in lines[1:]} == {"/", *(f"/{number}" for number in range(240))}
    assert lines[-1][0] == "/" and lines[-1][4] == "6"


def test_a_file_gives_no_spreadsheet_a_formula_and_loses_no_character(wide, new_page):
    page = new_page(wide.url)
    enter(page, wide, "?period=day&sheet=utm_source")
    assert {line[0] for line in sheet(page)} >= {'=HYPERLINK("x")', "\u0645\u0631\u062d\u0628\u0627"}
    found = {line[0] for line in file_of(page, "#sheet-csv")[1][1:]}
    assert found == {"(not set)", "'=HYPERLINK(\"x\")", "a,b;c", 'say "hi"', "\u0645\u0631\u062d\u0628\u0627", "'-2+3", MARKUP}


def test_a_closed_sheet_lets_go_of_what_it_waited_for(dashboard):
    page = dashboard()
    held, gone = [], []
    page.route("**/api/v2/queries", lambda route: held.append(route) if "scroll_depth" in route.request.post_data else route.continue_())
    page.on("requestfailed", lambda request: gone.append(request.url))
    page.locator("#pages .more button").click()
    wait_until(page, lambda: held)
    expect(page.locator("#sheet-busy")).to_be_visible()
    page.keyboard.press("Escape")
    wait_until(page, lambda: gone)


# ---- the map ---------------------------------------------------------------------------------------------------------

def test_the_map_tells_of_a_country_and_a_click_filters_by_it(demo, dashboard):
    page = dashboard("?period=91d")
    below(page)
    found = {each["dimensions"][0]: each["metrics"] for each in demo.api.query("visitors", "percentage", date_range="91d", dimensions=["visit:country"])["results"]}
    drawn = set(page.evaluate("[...document.querySelectorAll('#map path')].map(path => path.dataset.key)"))
    shaded = set(page.evaluate("[...document.querySelectorAll('#map path[data-level]')].map(path => path.dataset.key)"))
    assert shaded == found.keys() & drawn and len(drawn) > 170 and "AQ" not in drawn
    page.locator("#map path[data-key=BR]").hover()
    visitors, share = found["BR"]
    expect(page.locator("#map .tip")).to_have_text(f"Brazil{say_whole(visitors)} visitors, {say_percent(share)}")
    page.locator("#map path[data-key=BR]").click()
    settle(page)
    expect(page.locator("#chips li")).to_have_text(["Country is Brazil×"])
    expect(row(page, "places", "Brazil")).to_have_attribute("aria-pressed", "true")   # the list is the map's twin


def test_by_touch_the_first_tap_tells_and_the_second_filters(dashboard):
    page = dashboard("?period=91d", viewport={"width": 375, "height": 800}, has_touch=True)
    below(page)
    page.locator("#map path[data-key=BR]").tap()
    expect(page.locator("#map .tip")).to_contain_text("Brazil")
    expect(page.locator("#chips li")).to_have_count(0)
    page.locator("#map path[data-key=BR]").tap()
    expect(page.locator("#chips li")).to_have_text(["Country is Brazil×"])


# ---- the week and the year -------------------------------------------------------------------------------------------

def test_the_week_is_the_api_s_for_every_metric(demo, dashboard):
    page = dashboard("?period=91d")
    below(page)
    for metric, words in (("visitors", say_whole), ("bounce_rate", say_percent)):
        page.get_by_role("combobox", name="Show", exact=True).select_option(metric)
        found = demo.api.query(metric, date_range="91d", dimensions=["time:hour_of_week"])["results"]
        shown = dict(page.evaluate("[...document.querySelectorAll('#week td[data-key]')].map(cell => [cell.dataset.key, cell.textContent])"))
        assert shown == {each["dimensions"][0]: words(each["metrics"][0]) for each in found}
    assert page.url.endswith("pattern=bounce_rate")


def test_the_year_is_walked_by_arrows_and_enter_opens_a_day(demo, dashboard):
    page = dashboard("?period=91d")
    below(page)
    last = demo.api.query("visitors", date_range="91d")["query"]["date_range"][1][:10]
    page.locator("#year [tabindex='0']").focus()
    focused = "document.activeElement.dataset.key"
    assert page.evaluate(focused) == last
    page.keyboard.press("Home")
    start = date.fromisoformat(page.evaluate(focused))
    page.keyboard.press("ArrowRight")
    assert date.fromisoformat(page.evaluate(focused)) == start + timedelta(7)
    page.keyboard.press("End")
    page.keyboard.press("ArrowLeft")
    day = page.evaluate(focused)
    visitors = demo.api.query("visitors", date_range=[day, day])["results"][0]["metrics"][0]
    expect(page.locator("#year .tip strong")).to_have_text(say_whole(visitors))
    expect(page.locator("#year td:focus")).to_have_attribute("aria-label", re.compile(rf", \d+ \w+ {day[:4]}: {say_whole(visitors)} visitor"))
    page.keyboard.press("Enter")
    settle(page)
    assert f"from={day}&to={day}" in page.url
    assert headlines(page)["visitors"] == say_whole(visitors)


@pytest.mark.parametrize("locale, first", [("en-GB", "Mon"), ("en-US", "Sun")])
def test_the_week_begins_as_the_locale_has_it(dashboard, locale, first):
    page = dashboard(locale=locale)
    below(page)
    assert page.locator("#week tbody th").first.inner_text() == page.locator("#year tbody th").first.inner_text() == first


def test_peaks_are_said_in_words(dashboard):
    page = dashboard("?period=91d&metric=pageviews")
    below(page)
    expect(page.locator("#peaks")).to_have_text(re.compile(r"Pageviews peak on \w+day, \d+:00 – \d+:00 \([\d,]+\)\. In a year the highest day was \w+day, \d+ \w+ \d{4} \([\d,]+\), the highest month \w+ \d{4} \([\d,]+\)\."))


# ---- live, and what was not counted ----------------------------------------------------------------------------------

def test_the_live_view_follows_what_happens_and_pauses_in_a_hidden_tab(fresh, new_page):
    page, asked = new_page(fresh.url), []
    page.clock.install()
    page.on("request", lambda request: asked.append(1) if "/api/live" in request.url else None)
    hit(fresh.url, f"https://example.com/{MARKUP}", r="https://news.ycombinator.com/")
    enter(page, fresh, "?view=live")
    expect(page.locator("#live-count")).to_have_text("1")
    expect(page.locator("#live-pages bdi")).to_have_text(f"/{MARKUP}")
    expect(page.locator("#live-sources bdi")).to_have_text("Hacker News")
    expect(page.locator("#live-feed li")).not_to_contain_text(re.compile("Hacker News|Chrome"))   # with these, hits of a quiet site are one person's
    hit(fresh.url, "https://example.com/next", ip="192.0.2.2", n="signup")
    page.clock.fast_forward(10_500)
    expect(page.locator("#live-count")).to_have_text("2")
    expect(page.locator("#live-feed .what").first).to_have_text("signup on /next")
    seen = len(asked)
    page.evaluate("""Object.defineProperty(document, "hidden", {configurable: true, get: () => true}); document.dispatchEvent(new Event("visibilitychange"))""")
    page.clock.fast_forward(60_000)
    assert len(asked) == seen
    page.evaluate("""Object.defineProperty(document, "hidden", {configurable: true, get: () => false}); document.dispatchEvent(new Event("visibilitychange"))""")
    wait_until(page, lambda: len(asked) == seen + 1)
    page.get_by_role("link", name="Back to the report").click()
    settle(page)


def test_a_path_without_end_does_not_widen_the_live_view(fresh, new_page):
    page = new_page(fresh.url, viewport={"width": 375, "height": 700})
    hit(fresh.url, f"https://example.com/{'x' * 1900}", r=f"https://{'l' * 60}.{'m' * 60}.test/")
    enter(page, fresh, "?view=live")
    expect(page.locator("#live-pages li")).to_have_count(1)
    assert page.evaluate("document.documentElement.scrollWidth") == 375


def test_every_number_has_the_digits_of_the_locale(dashboard):
    page = dashboard("?period=28d", locale="ar-EG")
    shown = headlines(page)
    assert len(shown) >= 6 and all(re.fullmatch("[^0-9]+", value) for value in shown.values()), shown


def test_heads_of_columns_stay_inside_their_panel(dashboard):
    page = dashboard("?period=28d")
    assert page.evaluate("""() => [...document.querySelectorAll('.panel .columns .cells > *')].filter(each => each.scrollWidth > each.clientWidth).map(each => each.textContent)""") == []


@pytest.mark.parametrize("width", [375, 1280])
def test_money_stays_inside_its_panel(fresh, new_page, width):
    page = new_page(fresh.url, viewport={"width": width, "height": 900})
    hit(fresh.url, n="purchase", **{"$": {"amount": "946.88", "currency": "USD"}})
    enter(page, fresh, "?period=day")
    goal = {"site_id": "example.com", "name": "Bought", "kind": "event", "value": "purchase"}
    assert page.context.request.post(f"{fresh.url}/api/goals", headers={"Sec-Fetch-Site": "same-origin"}, data=goal).ok
    page.reload()
    settle(page)
    expect(page.locator("#conversions .rows .cells > :nth-child(4)")).to_contain_text("US$")
    expect(page.locator("#events .rows .cells > :nth-child(3)")).to_contain_text("US$")
    cut = "all => all.filter(each => each.scrollWidth > each.clientWidth).map(each => each.textContent)"
    assert page.locator(".panel .rows .cells > *:visible").evaluate_all(cut) == []


def test_names_of_properties_are_suggested(dashboard):
    page = dashboard("?period=28d")
    below(page)
    page.keyboard.press("/")
    pick(page, "What").select_option("event:props:")
    expect(page.get_by_label("Name of the property")).to_be_visible()
    names = page.get_by_label("Name of the property").evaluate("input => [...input.list.options].map(({value}) => value)")
    assert {"url", "plan"} <= set(names)


def test_nobody_there_is_said(fresh, new_page):
    page = new_page(fresh.url)
    enter(page, fresh, "?view=live")
    expect(page.get_by_text("Nobody has come by in the last half hour.")).to_be_visible()
    expect(page.locator("#live-count")).to_have_text("0")
    expect(page.locator(".thirds p").filter(visible=True)).to_have_text(["Nobody at the moment."] * 3)


def test_what_was_not_counted_is_drawn_over_time_with_its_table(demo, dashboard):
    page = dashboard("?period=28d")
    page.locator("#foot .dropped > summary").click()
    first, last = (edge[:10] for edge in demo.api.query("visitors", date_range="28d")["query"]["date_range"])
    answer = page.context.request.get(f"{demo.url}/api/dropped?site_id=demo.example&from={first}&to={last}").json()
    page.locator("#dropped-chart summary").click()
    lines = page.locator("#dropped-chart tbody tr")
    expect(lines).to_have_count(28)
    shown = sum(int(cell.replace(",", "")) for cell in page.locator("#dropped-chart tbody td").all_inner_texts())
    assert shown == sum(each["count"] for each in answer["results"]) > 0
    assert page.locator("#dropped-chart rect").count() == 28 * len({each["reason"] for each in answer["results"]})
