"""Journeys and retention in dashboard.html, in a real browser against the real server."""
import pytest
from playwright.sync_api import expect

from conftest import Server, run_command
from test_dashboard import AXE, enter, fresh, new_page, pick, row, say_percent, say_whole, set_up, settle, unvisited  # noqa: F401 (fixtures among them)
from test_dashboard_conversions import HOSTILE, make_goal, open_dashboard, visit
from test_dashboard_panels import below, file_of
from test_dashboard_settings import api, invite, join


# ---- helpers ---------------------------------------------------------------------------------------------------------

def look(page, section="journeys"):
    """Bring a section into view, and wait for what it then asks for."""
    below(page)
    page.locator(f"#{section}").scroll_into_view_if_needed()
    page.wait_for_function("""() => document.querySelector("#journeys-words").textContent && !document.querySelector(".ways [aria-busy=true], .bare-bones")""")


def steps(page):
    """[[[a row's words, its visits, their share], …], …] step by step."""
    settle(page)
    return [[[item.locator(".label").inner_text(), *item.locator(".cells > *").all_inner_texts()] for item in step.locator("li").all()]
            for step in page.locator("#flow > section").all()]


def asked_of_server(page, server, start, **more):
    """The same steps, as the API tells them."""
    answer = api(page, server, "POST", "journeys", {"site_id": "example.com", "date_range": "day", "start": start, **more})
    ended = "Visit began" if more.get("direction") == "previous" else "Visit ended"

    def row_of(words, visits):
        share = 100 * visits / answer["visits"]
        return [words, str(visits), f"{share:.{0 if share >= 9.95 or not share else 1}f}%"]

    def rows_of(step):
        rows = [row_of(each["value"] if each["dimension"] == "event:page" else f"Event: {each['value']}", each["visits"]) for each in step["rows"]]
        others = step["other"]["values"]
        return [*rows, *[row_of(f"{others} other{'s' if others > 1 else ''}", step["other"]["visits"])] * (others > 0), *[row_of(ended, step["ended"])] * (step["ended"] > 0)]
    return [rows_of(step) for step in answer["steps"]]


def words(page):
    return page.locator("#journeys-words")


def way(page, step, name):
    """The button of a row of a step, counted from 1."""
    return page.locator("#flow > section").nth(step - 1).locator("button.row").filter(has=page.get_by_text(name, exact=True))


@pytest.fixture
def walked(fresh):  # noqa: F811
    """Five visits: four of them see /pricing, two of these send an event after it."""
    visit(fresh, "192.0.2.1", "/", "/pricing", "signup", "/welcome", "/docs")
    visit(fresh, "192.0.2.2", "/pricing", "/pricing", "signup", "/welcome")
    visit(fresh, "192.0.2.3", "/docs", "/pricing", "/")
    visit(fresh, "192.0.2.4", "/pricing")
    visit(fresh, "192.0.2.5", "/")
    return fresh


# ---- journeys --------------------------------------------------------------------------------------------------------

def test_journeys_are_asked_for_when_they_come_into_view_and_begin_with_the_page_most_seen(walked, new_page):  # noqa: F811
    page = new_page(walked.url)
    heard = []
    page.on("request", lambda request: heard.append(request.url) if request.url.endswith("/journeys") else None)
    open_dashboard(page, walked)
    below(page)
    assert heard == []
    look(page)
    assert len(heard) == 1
    expect(words(page)).to_have_text("4 visits with /pricing; 25% of them ended there.")
    assert steps(page) == asked_of_server(page, walked, ["is", "event:page", ["/pricing"]])
    assert steps(page)[0] == [["Event: signup", "2", "50%"], ["/", "1", "25%"], ["Visit ended", "1", "25%"]]
    assert page.locator("#flow h3").all_inner_texts() == ["1 step later", "2 steps later", "3 steps later"]


def test_a_step_narrows_the_journeys_and_lets_go_again(walked, new_page):  # noqa: F811
    page = new_page(walked.url)
    open_dashboard(page, walked)
    look(page)
    way(page, 2, "/welcome").click()
    expect(words(page)).to_have_text("2 visits with /pricing, along what is chosen.")
    assert "&then=&then=is,event:page,/welcome" in page.url
    expect(way(page, 2, "/welcome")).to_have_attribute("aria-pressed", "true")
    expect(way(page, 2, "/welcome")).to_be_focused()
    assert steps(page) == asked_of_server(page, walked, ["is", "event:page", ["/pricing"]], path=[None, ["event:page", "/welcome"]])
    way(page, 3, "/docs").click()
    expect(words(page)).to_have_text("1 visit with /pricing, along what is chosen.")
    page.reload()
    look(page)
    expect(words(page)).to_have_text("1 visit with /pricing, along what is chosen.")
    way(page, 2, "/welcome").click()
    assert "then=&then=&then=is,event:page,/docs" in page.url
    page.get_by_role("button", name="All journeys").click()
    expect(words(page)).to_have_text("4 visits with /pricing; 25% of them ended there.")
    expect(page.locator("#start")).to_be_focused()
    assert "then=" not in page.url
    page.go_back()
    expect(words(page)).to_have_text("1 visit with /pricing, along what is chosen.")


def test_what_came_before_an_event_or_a_goal_in_as_many_steps_as_wanted(walked, new_page):  # noqa: F811
    page = new_page(walked.url)
    open_dashboard(page, walked)
    make_goal(page, walked)
    page.reload()
    look(page)
    assert page.locator("#start option").all_inner_texts() == ["/pricing", "/", "/docs", "/welcome", "Event: signup", "Goal: Signed up"]
    pick(page, "Direction").select_option(label="before")
    for choice in ("Event: signup", "Goal: Signed up"):
        pick(page, "Page, event or goal").select_option(label=choice)
        expect(words(page)).to_have_text(f"2 visits with {choice}; 0% of them began there.")
    pick(page, "Steps").select_option(label="2 steps")
    expect(page.locator("#flow h3")).to_have_text(["1 step earlier", "2 steps earlier"])
    assert steps(page) == asked_of_server(page, walked, ["is", "event:goal", ["Signed up"]], direction="previous", steps=2)
    assert steps(page) == [[["/pricing", "2", "100%"]], [["/", "1", "50%"], ["Visit began", "1", "50%"]]]
    page.reload()
    look(page)
    assert len(steps(page)) == 2
    expect(pick(page, "Direction")).to_have_value("previous")


def test_any_step_can_become_a_filter_of_the_whole_page(walked, new_page):  # noqa: F811
    page = new_page(walked.url)
    open_dashboard(page, walked)
    look(page)
    page.get_by_role("button", name="Filter everything by Event: signup").first.click()
    expect(page.locator("#chips li")).to_have_text(["Event is signup×"])
    settle(page)
    expect(words(page)).to_have_text("2 visits with /pricing; 0% of them ended there.")
    expect(page.locator("#flow .not[aria-pressed=true]")).to_have_count(1)
    page.keyboard.press("Enter")   # the focus has stayed
    expect(page.locator("#chips li")).to_have_count(0)
    expect(words(page)).to_have_text("4 visits with /pricing; 25% of them ended there.")


def test_the_arrow_keys_walk_through_the_steps(walked, new_page):  # noqa: F811
    page = new_page(walked.url)
    open_dashboard(page, walked)
    look(page)
    page.get_by_role("button", name="CSV").first.focus()
    page.keyboard.press("Tab")
    expect(way(page, 1, "Event: signup")).to_be_focused()
    for key, (step, name) in {"ArrowDown": (1, "/"), "ArrowRight": (2, "/welcome"), "ArrowLeft": (1, "Event: signup"), "ArrowUp": (1, "Event: signup")}.items():
        page.keyboard.press(key)
        expect(way(page, step, name)).to_be_focused()
    assert "period=day" in page.url   # which the arrows step through elsewhere
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="Filter everything by Event: signup").first).to_be_focused()
    page.keyboard.press("Tab")
    assert page.evaluate("!document.activeElement.closest('#flow')")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    expect(words(page)).to_have_text("2 visits with /pricing, along what is chosen.")
    expect(way(page, 1, "Event: signup")).to_be_focused()


def test_journeys_are_reached_from_the_rows_of_pages_and_events(walked, new_page):  # noqa: F811
    page = new_page(walked.url)
    open_dashboard(page, walked)
    row(page, "sources", "Direct").press("j")
    assert "journey" not in page.url
    row(page, "pages", "/docs").press("j")
    expect(words(page)).to_have_text("2 visits with /docs; 50% of them ended there.")
    expect(page.locator("#start")).to_be_focused()
    expect(page.locator("#journeys")).to_be_in_viewport()
    page.locator("#events .more button").click()
    page.get_by_role("button", name="Journeys of signup").click()
    expect(page.locator("#sheet")).to_be_hidden()
    expect(words(page)).to_have_text("2 visits with Event: signup; 0% of them ended there.")
    expect(page.locator("#start")).to_be_focused()
    page.locator("#sources .more button").click()
    expect(page.locator("#sheet tbody .not:visible")).to_have_count(1)   # which leaves out


def test_the_file_of_journeys_has_each_step_with_its_tails(walked, new_page):  # noqa: F811
    page = new_page(walked.url)
    open_dashboard(page, walked, "&steps=2")
    look(page)
    name, lines = file_of(page, "#journeys-csv")
    assert name.startswith("example.com-journeys-next-pricing-20")
    assert lines == [["Step", "What", "Visits", "Visitors"], ["1", "Event: signup", "2", "2"], ["1", "/", "1", "1"], ["1", "Visit ended", "1", ""],
                     ["2", "/welcome", "2", "2"], ["2", "Visit ended", "2", ""]]


def test_where_there_are_no_journeys_it_is_said_why(walked, new_page):  # noqa: F811
    page = new_page(walked.url)
    open_dashboard(page, walked, "&f=is,event:page,/nowhere")
    look(page)
    expect(words(page)).to_have_text("Nothing matches these filters.")
    expect(page.locator("#flow > section")).to_have_count(0)
    expect(page.locator("#journeys-csv")).to_be_hidden()
    page.goto(f"{walked.url}/?site=example.com&period=day&journey=is,event:page,/docs&then=is,event:page,/nowhere")
    look(page)
    expect(words(page)).to_have_text("No visit went this way.")
    page.get_by_role("button", name="All journeys").click()
    expect(words(page)).to_have_text("2 visits with /docs; 50% of them ended there.")


def test_an_address_that_makes_no_sense_shows_journeys_all_the_same(walked, new_page):  # noqa: F811
    page = new_page(walked.url)
    open_dashboard(page, walked, "&journey=nonsense&way=sideways&steps=99&then=[1]&then=is,event:page,/a,/b&cohorts=year")
    look(page)
    expect(page.locator("#flow > section")).to_have_count(10)
    expect(words(page)).to_have_text("4 visits with /pricing; 25% of them ended there.")


def test_what_fails_is_said_and_what_was_there_stays_as_old(walked, new_page):  # noqa: F811
    page = new_page(walked.url)
    open_dashboard(page, walked)
    look(page)
    page.route("**/api/journeys", lambda route: route.abort())
    pick(page, "Direction").select_option(label="before")
    expect(page.locator("#trouble")).to_contain_text("The server does not answer.")
    expect(page.locator("#flow .old")).to_have_count(3)
    assert page.locator("#flow > section").first.inner_text().startswith("1 step later\nEvent: signup")
    expect(words(page)).to_have_text("4 visits with /pricing; 25% of them ended there.")
    page.unroute("**/api/journeys")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("#trouble")).to_be_hidden()
    expect(words(page)).to_contain_text("of them began there.")


# ---- retention -------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A server whose visitors are recognised for ninety days."""
    db = tmp_path_factory.mktemp("kept") / "test.db"
    set_up(db, "example.com")
    assert run_command("site", "set", "--db", db, "example.com", "--rotation-hours", 2160).returncode == 0
    assert run_command("demo", "--db", db, "--site", "example.com", "--pageviews", 3000, "--days", 60).returncode == 0
    server = Server(db)
    yield server
    server.kill()


def cohorts(page):
    """[[cell, …], …] of the table, its head first; what is not known is None."""
    page.wait_for_function("""() => document.querySelector("#cohort-rows[aria-busy=false] td")""")
    return page.evaluate("""[...document.querySelectorAll("#cohort-rows tr")].map(line =>
        [...line.cells].map(cell => cell.getAttribute("aria-label") === "not known" ? null : cell.textContent))""")


@pytest.mark.parametrize("unit, period", [("week", "91d"), ("day", "30d")])
def test_cohorts_are_the_api_s_with_what_is_not_known_left_open(kept, new_page, unit, period):  # noqa: F811
    page = new_page(kept.url)
    enter(page, kept, f"?site=example.com&period={period}")
    look(page, "retention")
    pick(page, "Cohorts").select_option(unit)
    shown = cohorts(page)
    answer = api(page, kept, "POST", "retention", {"site_id": "example.com", "date_range": period, "interval": unit})
    assert shown[0] == [unit.capitalize(), "Visitors", *[f"{unit.capitalize()} {place}" for place in range(1, answer["intervals"])]]
    assert [line[1:] for line in shown[1:]] == [
        [say_whole(each["visitors"]), *[None if count is None else f"{say_percent(100 * count / each['visitors'])} {count}" for count in each["returned"][1:]]]
        for each in answer["cohorts"]]
    assert any(None in line for line in shown) and answer["intervals"] > 2
    expect(page.locator("#retention-words")).to_contain_text(f"– is not known: the {unit} is not over")
    _, lines = file_of(page, "#retention-csv")
    assert lines[1:] == [[each["start"], str(each["visitors"]), *["" if count is None else str(count) for count in each["returned"][1:]]] for each in answer["cohorts"]]


def test_cohorts_go_by_the_filters(kept, new_page):  # noqa: F811
    page = new_page(kept.url)
    enter(page, kept, "?site=example.com&period=91d&f=is,visit:device,Mobile&cohorts=week")
    look(page, "retention")
    expect(page.get_by_role("table", name="Cohorts", exact=True)).to_be_visible()
    answer = api(page, kept, "POST", "retention", {"site_id": "example.com", "date_range": "91d", "interval": "week", "filters": [["is", "visit:device", ["Mobile"]]]})
    assert [line[1] for line in cohorts(page)[1:]] == [say_whole(each["visitors"]) for each in answer["cohorts"]]
    page.goto(f"{kept.url}/?site=example.com&period=91d&f=is,event:page,/nowhere")
    look(page, "retention")
    expect(page.locator("#retention-words")).to_have_text("Nothing matches these filters.")
    expect(page.locator("#cohort-rows")).to_be_hidden()


def test_where_visitors_are_not_recognised_for_long_enough_it_is_said_what_it_takes_and_costs(fresh, new_page):  # noqa: F811
    visit(fresh, "192.0.2.1", "/")
    owner = new_page(fresh.url)
    open_dashboard(owner, fresh)
    needs = api(owner, fresh, "POST", "retention", {"site_id": "example.com", "date_range": "day", "interval": "day"})["needs"]
    viewer = join(new_page, fresh, invite(owner, fresh, "viewer"), "visitor")
    viewer.goto(f"{fresh.url}/?site=example.com&period=day")
    for page in (owner, viewer):
        look(page, "retention")
        words = page.locator("#retention-words")
        expect(words).to_contain_text(f"{needs['reason']} It takes the setting “A visitor is recognised for 2 days”. {needs['cost']}")
        expect(words.get_by_role("link")).to_have_count(1 if page is owner else 0)
        expect(page.locator("#retention-csv")).to_be_hidden()
        expect(page.locator("#cohort-rows")).to_be_hidden()
    owner.locator("#retention-words a").click()
    choice = pick(owner, "A visitor is recognised for")
    choice.select_option(label="2 days")
    owner.get_by_role("button", name="Save").click()
    owner.locator("#leave-settings").click()
    look(owner, "retention")
    assert api(owner, fresh, "GET", "sites")["sites"][0]["rotation_hours"] == 48


# ---- reach -----------------------------------------------------------------------------------------------------------

AXE_TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


@pytest.mark.parametrize("scheme, width", [("light", 1280), ("dark", 320)])
def test_axe_finds_nothing_and_hostile_names_stay_inside(fresh, new_page, node_packages, scheme, width):  # noqa: F811
    visit(fresh, "192.0.2.1", "/", (HOSTILE, {}), "/" + "very-long-" * 150, "/%3Cimg%20src=x%20onerror=alert(1)%3E")
    page = new_page(fresh.url, viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce")
    open_dashboard(page, fresh, "&journey=is,event:page,/")
    look(page)
    expect(page.locator("#flow > section").first).to_contain_text(f"Event: {HOSTILE}")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.evaluate((node_packages / "axe-core" / "axe.min.js").read_text("utf-8") + ";0")
    assert page.evaluate(AXE, AXE_TAGS) == []


@pytest.mark.parametrize("scheme, width", [("light", 375), ("dark", 1280)])
def test_axe_finds_nothing_in_cohorts_which_scroll_in_their_own_frame(kept, new_page, node_packages, scheme, width):  # noqa: F811
    page = new_page(kept.url, viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce")
    enter(page, kept, "?site=example.com&period=30d&cohorts=day")
    look(page, "retention")
    assert len(cohorts(page)) > 20
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.locator("#cohort-rows").press("ArrowRight")
    page.wait_for_function("""() => document.querySelector("#cohort-rows").scrollLeft > 0""")
    assert "period=30d" in page.url   # which the arrows step through elsewhere
    page.evaluate((node_packages / "axe-core" / "axe.min.js").read_text("utf-8") + ";0")
    assert page.evaluate(AXE, AXE_TAGS) == []
