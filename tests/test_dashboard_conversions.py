"""Goals and segments, and what is made of them in dashboard.html, in a real browser against the real server."""
import pytest
from playwright.sync_api import expect

from test_dashboard import AXE, enter, field, fresh, headlines, hit, new_page, row, settle, unvisited  # noqa: F401 (fixtures among them)
from test_dashboard_settings import api, invite, join, press, radio

HOSTILE = "<img src=x onerror=alert(1)>, 100% \"&amp;\" ☃"


# ---- helpers ---------------------------------------------------------------------------------------------------------

def visit(server, ip, *steps):
    """Let one visitor see pages ("/pricing") and send events ("signup", or ("signup", {fields})), in this order."""
    page = "/"
    for step in steps:
        name, more = step if isinstance(step, tuple) else (step, {})
        page = name if name.startswith("/") else page
        hit(server.url, f"https://example.com{page}", ip=ip, **({} if name.startswith("/") else {"n": name}), **more)


def open_dashboard(page, server, search=""):
    enter(page, server, f"?site=example.com&period=day{search}")
    settle(page)


def make_goal(page, server, name="Signed up", **definition):
    return api(page, server, "POST", "goals", {"site_id": "example.com", "name": name, **(definition or {"kind": "event", "value": "signup"})}, 201)


def make_segment(page, server, name, filters, **more):
    return api(page, server, "POST", "segments", {"site_id": "example.com", "name": name, "filters": filters, **more}, 201)


def goal_rows(page):
    """[[name, visitors, conversions, conversion rate]] as they stand in the panel."""
    settle(page)
    return [[item.locator(".label").inner_text(), *item.locator(".cells > *").all_inner_texts()] for item in page.locator("#conversions .rows li").all()]


def dialog(page):
    return page.locator("dialog[open]").last


def condition(page, place, what=None, how=None, value=None, prop=None):
    """Fill in a condition of the builder that is open."""
    line = dialog(page).locator(".items > li:has([data-part=dimension])").nth(place)
    if what:
        line.locator("[data-part=dimension]").select_option(label=what)
    if prop:
        line.locator("[data-part=property]").fill(prop)
    if how:
        line.locator("[data-part=operator]").select_option(label=how)
    line.locator("[data-part=value]").fill(value)
    line.locator("[data-part=value]").press("Enter")


# ---- goals -----------------------------------------------------------------------------------------------------------

def test_a_suggested_goal_is_added_with_one_click_and_counts_what_was_before_it(fresh, new_page):  # noqa: F811
    visit(fresh, "192.0.2.1", "/", "signup", "signup")
    visit(fresh, "192.0.2.2", "/pricing", "signup")
    visit(fresh, "192.0.2.3", "/")
    visit(fresh, "192.0.2.4", "/")
    page = new_page(fresh.url)
    open_dashboard(page, fresh)
    expect(page.locator("#conversions .nothing")).to_contain_text("No goals yet.")
    press(page, "Add a goal")
    press(page, "+ signup")
    expect(dialog(page).locator(".thing")).to_have_text(["signup"])
    expect(dialog(page).get_by_role("button", name="+ signup")).to_have_count(0)
    press(page, "Done")
    assert goal_rows(page) == [["signup", "2", "3", "50%"]]

    row(page, "conversions", "signup").click()
    settle(page)
    assert "f=is,event:goal,signup" in page.url
    expect(page.locator("#chips li")).to_have_text(["Goal is signup×"])
    shown = headlines(page)
    assert (shown["visitors"], shown["events"], shown["conversion_rate"]) == ("2", "3", "50%")
    assert goal_rows(page) == [["signup", "2", "3", "50%"]]
    expect(row(page, "conversions", "signup")).to_have_attribute("aria-pressed", "true")
    row(page, "conversions", "signup").click()
    settle(page)
    assert "conversion_rate" not in headlines(page)


GOALS = [
    ("A page is seen", {"The page": "begins with", "Page": "/blog/"}, {"kind": "page", "match": "starts_with", "value": "/blog/"}),
    ("A page is seen", {"The page": "contains", "Page": "thank"}, {"kind": "page", "match": "contains", "value": "thank"}),
    ("A page is seen", {"The page": "is like", "Page": "/docs/*/intro"}, {"kind": "page", "match": "wildcard", "value": "/docs/*/intro"}),
    ("A page is seen", {"The page": "matches the pattern", "Page": "^/a+$"}, {"kind": "page", "match": "matches", "value": "^/a+$"}),
    ("An event happens", {"Name of the event": "signup"}, {"kind": "event", "value": "signup"}),
    ("A page is read down to", {"Page": "/long", "Percent of the page": "75"}, {"kind": "scroll", "match": "is", "value": "/long", "at_least": 75}),
    ("A page is read for", {"Page": "/long", "Seconds": "90"}, {"kind": "time", "match": "is", "value": "/long", "at_least": 90}),
]


def test_goals_of_every_kind_are_made_changed_and_deleted_by_their_editor(fresh, new_page):  # noqa: F811
    visit(fresh, "192.0.2.1", "/")
    page = new_page(fresh.url)
    open_dashboard(page, fresh)
    press(page, "Add a goal")
    for place, (kind, answers, _) in enumerate(GOALS):
        press(page, "New goal")
        field(page, "Name").fill(f"{place} {HOSTILE}")
        field(page, "It is reached when").select_option(label=kind)
        for label, value in answers.items():
            if label == "The page":
                field(page, label).select_option(label=value)
            else:
                field(page, label).fill(value)
        press(page, "Save")
        expect(dialog(page).locator(".thing")).to_have_count(place + 1)
    kept = api(page, fresh, "GET", "goals?site_id=example.com")["goals"]
    assert [{key: value for key, value in goal.items() if key not in ("id", "name", "filters")} for goal in kept] == [goal for *_, goal in GOALS]

    page.get_by_role("button", name=f"Change 4 {HOSTILE}").click()
    expect(field(page, "Name of the event")).to_have_value("signup")
    dialog(page).get_by_role("button", name="+ Condition").click()
    condition(page, 0, "Property…", "is", "pro", prop="plan")
    press(page, "Save")
    expect(dialog(page).locator("li").filter(has_text="Event is signup, plan is pro")).to_be_visible()
    page.get_by_role("button", name=f"Delete 0 {HOSTILE}").click()
    press(page, "Delete")
    expect(dialog(page).locator(".thing")).to_have_count(len(GOALS) - 1)
    assert api(page, fresh, "GET", "goals?site_id=example.com")["goals"][3]["filters"] == [["is", "event:props:plan", ["pro"]]]


def test_what_the_server_refuses_of_a_goal_stands_beside_its_field(fresh, new_page):  # noqa: F811
    visit(fresh, "192.0.2.1", "/")
    page = new_page(fresh.url)
    open_dashboard(page, fresh)
    make_goal(page, fresh)
    make_goal(page, fresh, "Bought", kind="event", value="buy", filters=[["or", [["is", "visit:device", ["TV"]], ["is", "visit:source", ["Google"]]]]])
    press(page, "Add a goal")
    expect(dialog(page)).to_contain_text("Event is buy, (Device is TV or Source is Google)")
    press(page, "New goal")
    field(page, "Name").fill("Signed up")
    field(page, "Page").fill("no slash")
    press(page, "Save")
    expect(dialog(page).locator("#dialog-form-value-wrong")).to_contain_text("must begin with /")
    field(page, "Page").fill("/x")
    press(page, "Save")
    expect(dialog(page).locator("#dialog-form-name-wrong")).to_have_text("Name is taken")
    expect(field(page, "Name")).to_be_focused()


def refused(page, place, part="value"):
    """What is said of a part of a condition that has the focus for being wrong."""
    line = dialog(page).locator(".items > li:has(> .values)").nth(place)
    expect(line.locator(f"[data-part={part}]")).to_be_focused()
    expect(line.locator(f"[data-part={part}]")).to_have_attribute("aria-invalid", "true")
    expect(dialog(page).locator(".wrong:visible")).to_have_count(1)
    return line.locator(f"[data-part={part}]").evaluate("part => document.getElementById(part.getAttribute('aria-describedby')).textContent")


def test_an_unfinished_condition_is_refused_where_it_stands_and_an_untouched_row_is_none(fresh, new_page):  # noqa: F811
    visit(fresh, "192.0.2.1", "/")
    page = new_page(fresh.url)
    open_dashboard(page, fresh)
    press(page, "Add a goal")
    press(page, "New goal")
    field(page, "Name").fill("Bought")
    field(page, "It is reached when").select_option("event")
    field(page, "Name of the event").fill("purchase")
    add = dialog(page).get_by_role("button", name="+ Condition")
    add.click()
    add.click()
    line = dialog(page).locator(".items > li").last
    line.locator("[data-part=dimension]").select_option(label="Property…")
    press(page, "Save")
    assert refused(page, 1, "property") == "A property is missing"
    line.locator("[data-part=property]").fill("plan")
    press(page, "Save")
    assert refused(page, 1) == "A value is missing"
    assert api(page, fresh, "GET", "goals?site_id=example.com")["goals"] == []
    line.locator("[data-part=value]").fill("pro")
    press(page, "Save")
    expect(dialog(page).locator(".thing")).to_have_text(["Bought"])
    assert api(page, fresh, "GET", "goals?site_id=example.com")["goals"][0]["filters"] == [["is", "event:props:plan", ["pro"]]]


def test_the_filter_bar_and_segments_refuse_what_is_unfinished(fresh, new_page):  # noqa: F811
    visit(fresh, "192.0.2.1", "/")
    page = new_page(fresh.url)
    open_dashboard(page, fresh)
    page.locator("#add-filter").click()
    condition(page, 0, value="/")
    add = dialog(page).get_by_role("button", name="+ Condition")
    add.click()
    dialog(page).locator("[data-part=operator]").last.select_option(label="contains")
    press(page, "Show")
    assert refused(page, 1) == "A value is missing"
    assert "f=" not in page.url
    press(page, "Save as a segment")   # which shows it again
    field(page, "Name").fill("Home")
    for _ in range(2):
        press(page, "Save")
        assert refused(page, 1) == "A value is missing"
    dialog(page).get_by_role("button", name="Remove this condition").last.click()
    dialog(page).get_by_role("button", name="Remove /").click()
    press(page, "Save")
    assert refused(page, 0) == "A value is missing"
    condition(page, 0, value="/docs")
    dialog(page).get_by_role("button", name="+ Condition").click()
    press(page, "Save")
    expect(dialog(page)).to_have_count(0)
    assert api(page, fresh, "GET", "segments?site_id=example.com")["segments"][0]["filters"] == [["is", "event:page", ["/docs"]]]


def test_a_viewer_sees_goals_and_changes_none(fresh, new_page):  # noqa: F811
    visit(fresh, "192.0.2.1", "/", "signup")
    owner = new_page(fresh.url)
    open_dashboard(owner, fresh)
    page = join(new_page, fresh, invite(owner, fresh, "viewer"), "visitor")
    page.goto(f"{fresh.url}/?site=example.com&period=day")
    settle(page)
    expect(page.get_by_role("tab", name="Goals")).to_be_hidden()
    make_goal(owner, fresh)
    page.reload()
    assert goal_rows(page) == [["Signed up", "1", "1", "100%"]]
    expect(page.get_by_role("button", name="Change or add goals")).to_be_hidden()


def test_a_goal_that_is_filtered_by_can_be_called_something_else_and_deleted(fresh, new_page):  # noqa: F811
    visit(fresh, "192.0.2.1", "/", "signup")
    visit(fresh, "192.0.2.2", "/")
    page = new_page(fresh.url)
    open_dashboard(page, fresh)
    make_goal(page, fresh)
    for act in ("Change", "Delete"):
        name = api(page, fresh, "GET", "goals?site_id=example.com")["goals"][0]["name"]
        page.goto(f"{fresh.url}/?site=example.com&period=day&f=is,event:goal,{name}")
        settle(page)
        assert headlines(page)["conversion_rate"] == "50%"
        press(page, "Change or add goals")
        page.get_by_role("button", name=f"{act} {name}").click()
        if act == "Change":
            field(page, "Name").fill("Joined")
        dialog(page).locator("button[type=submit]").click()
        expect(dialog(page).locator("h2")).to_have_text("Goals")
        press(page, "Done")
        assert "conversion_rate" not in headlines(page)
        expect(page.locator("#trouble")).to_be_hidden()
    expect(page.locator("#conversions .nothing")).to_contain_text("No goals yet.")


# ---- segments --------------------------------------------------------------------------------------------------------

def test_filters_are_kept_as_a_segment_which_is_then_a_filter_by_its_name(fresh, new_page):  # noqa: F811
    visit(fresh, "192.0.2.1", "/pricing")
    visit(fresh, "192.0.2.2", "/docs")
    visit(fresh, "192.0.2.3", "/about")
    page = new_page(fresh.url)
    open_dashboard(page, fresh, "&f=is,event:page,/pricing,/docs")
    page.locator("#chips .words").click()
    press(page, "Save as a segment")
    field(page, "Name").fill(HOSTILE)
    radio(page, "Everybody").check()
    press(page, "Save")
    expect(dialog(page)).to_have_count(0)
    settle(page)
    assert headlines(page)["visitors"] == "2"
    expect(page.locator("#chips li")).to_have_text([f"Segment is {HOSTILE}×"])
    kept, = api(page, fresh, "GET", "segments?site_id=example.com")["segments"]
    assert (kept["personal"], kept["filters"]) == (False, [["is", "event:page", ["/pricing", "/docs"]]])
    assert f"f=is,segment,{kept['id']}" in page.url
    page.reload()
    expect(page.locator("#chips li")).to_have_text([f"Segment is {HOSTILE}×"])

    page.locator("#chips .words").click()
    press(page, "Segments")
    page.get_by_role("button", name=f"Change {HOSTILE}").click()
    field(page, "Name").fill("About")
    dialog(page).get_by_role("button", name="Remove /pricing").click()
    dialog(page).get_by_role("button", name="Remove /docs").click()
    condition(page, 0, value="/about")
    press(page, "Save")
    expect(dialog(page).locator(".thing")).to_have_text(["About"])
    press(page, "Done")
    page.locator("#filter").get_by_role("button", name="Close").click()
    settle(page)
    assert headlines(page)["visitors"] == "1"
    expect(page.locator("#chips li")).to_have_text(["Segment is About×"])


def test_a_segment_is_chosen_in_the_builder_by_its_name(fresh, new_page):  # noqa: F811
    visit(fresh, "192.0.2.1", "/pricing")
    visit(fresh, "192.0.2.2", "/docs")
    page = new_page(fresh.url)
    open_dashboard(page, fresh)
    segment = make_segment(page, fresh, "Readers", [["is", "event:page", ["/docs"]]])
    page.reload()
    settle(page)
    page.keyboard.press("/")
    line = dialog(page).locator(".items > li")
    line.locator("[data-part=dimension]").select_option(label="Segment")
    assert line.locator("[data-part=operator] option").all_inner_texts() == ["is", "is not"]
    line.locator("[data-part=value]").press_sequentially("read")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    settle(page)
    assert f"f=is,segment,{segment['id']}" in page.url
    assert headlines(page)["visitors"] == "1"


def test_a_segment_in_use_is_not_deleted_and_it_is_said_by_what_it_is_used(fresh, new_page):  # noqa: F811
    visit(fresh, "192.0.2.1", "/")
    page = new_page(fresh.url)
    open_dashboard(page, fresh)
    inner = make_segment(page, fresh, "Inner", [["is", "event:page", ["/"]]])
    make_segment(page, fresh, "Outer", [["is", "segment", [inner["id"]]]])
    make_segment(page, fresh, "Third", [["is", "event:page", ["/"]], ["or", [["is", "visit:device", ["TV"]], ["is", "visit:source", ["Google"]]]]])
    page.reload()
    settle(page)
    page.keyboard.press("/")
    press(page, "Segments")
    expect(dialog(page)).to_contain_text("Segment is Inner")
    expect(dialog(page)).to_contain_text("Page is / and (Device is TV or Source is Google)")
    page.get_by_role("button", name="Delete Inner").click()
    press(page, "Delete")
    expect(dialog(page).get_by_role("alert")).to_contain_text("It is used by the segment 'Outer'.")
    dialog(page).get_by_role("button", name="Cancel").click()
    assert len(api(page, fresh, "GET", "segments?site_id=example.com")["segments"]) == 3


def test_two_segments_stand_side_by_side(fresh, new_page):  # noqa: F811
    visit(fresh, "192.0.2.1", "/a", "/a", "/a")
    visit(fresh, "192.0.2.2", "/b")
    visit(fresh, "192.0.2.3", "/b")
    page = new_page(fresh.url)
    open_dashboard(page, fresh)
    first, second = (make_segment(page, fresh, name, [["is", "event:page", [f"/{name}"]]]) for name in "ab")
    page.goto(f"{fresh.url}/?site=example.com&period=day&f=is,segment,{first['id']}")
    settle(page)
    page.get_by_role("combobox", name="Compare with").select_option(label="vs segment b")
    settle(page)
    assert f"compare=segment&against={second['id']}" in page.url
    cards = {item.get_attribute("data-key"): [item.locator(part).inner_text() for part in (".value", ".change")] for item in page.locator("#headlines > li").all()}
    assert {name: cards[name] for name in ("visitors", "pageviews", "bounce_rate")} == {
        "visitors": ["1", "vs 2"], "pageviews": ["3", "vs 2"], "bounce_rate": ["0%", "vs 100%"]}
    expect(page.locator("#legend .then")).to_have_text("b")
    expect(page.locator("[data-key=visitors] .change")).to_have_attribute("title", "b: 2; down 50%, worse")


# ---- reach -----------------------------------------------------------------------------------------------------------

def test_axe_finds_nothing_in_the_lists_and_editors(fresh, new_page, node_packages):  # noqa: F811
    visit(fresh, "192.0.2.1", "/", "signup")
    page = new_page(fresh.url, viewport={"width": 375, "height": 800}, color_scheme="dark")
    open_dashboard(page, fresh)
    make_goal(page, fresh, HOSTILE)
    make_segment(page, fresh, HOSTILE, [["is", "event:page", ["/"]]])
    page.evaluate((node_packages / "axe-core" / "axe.min.js").read_text("utf-8") + ";0")

    def check():
        page.wait_for_function("() => document.getAnimations().every(({playState}) => playState !== 'running')")
        assert page.evaluate(AXE, ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]) == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    press(page, "Add a goal")
    check()
    page.get_by_role("button", name=f"Change {HOSTILE}").click()
    dialog(page).get_by_role("button", name="+ Condition").click()
    page.keyboard.press("Escape")
    check()
    page.keyboard.press("Escape")
    page.locator("#add-filter").click()
    press(page, "Segments")
    check()


@pytest.mark.parametrize("width", [320, 375])
def test_names_of_goals_are_whole_on_a_phone(fresh, new_page, width):  # noqa: F811
    page = new_page(fresh.url, viewport={"width": width, "height": 800})
    hit(fresh.url)
    enter(page, fresh)
    for name in ("Read the whole page of prices to its end", "x" * 120):
        page.context.request.post(f"{fresh.url}/api/goals", headers={"Sec-Fetch-Site": "same-origin"}, data={
            "site_id": "example.com", "name": name, "kind": "page", "value": "/"})
    page.goto(f"{fresh.url}/?period=day")
    settle(page)
    labels = page.locator("#conversions .rows .label")
    expect(labels).to_have_count(2)
    cut = "all => all.filter(each => each.scrollWidth > each.clientWidth || each.closest('.ground').scrollHeight > each.closest('.ground').clientHeight).length"
    assert labels.evaluate_all(cut) == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_whole_list_of_goals_is_a_sheet_and_a_file(fresh, new_page):  # noqa: F811
    visit(fresh, "192.0.2.1", "/", "signup", "signup")
    visit(fresh, "192.0.2.2", "/")
    page = new_page(fresh.url)
    open_dashboard(page, fresh)
    make_goal(page, fresh, "=cmd()")
    page.reload()
    settle(page)
    page.locator("#conversions .more button").click()
    with page.expect_download() as download:
        press(page, "CSV of what is shown")
    lines = download.value.path().read_text("utf-8-sig").splitlines()
    assert lines == ["Goal,Visitors,Visits,Conversions,Conversion rate (%)", "'=cmd(),1,1,2,50"]
