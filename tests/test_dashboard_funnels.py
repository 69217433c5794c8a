"""Revenue and funnels in dashboard.html, in a real browser against the real server."""
import json
import re
from decimal import Decimal

import pytest
from playwright.sync_api import expect

from test_dashboard import (AXE, Api, dashboard, demo, enter, field, fresh, headlines, new_page, post, row, say_duration, say_percent,  # noqa: F401
                            settle, token_of, unvisited)  # fixtures among them
from test_dashboard_conversions import condition, dialog, make_goal, make_segment, open_dashboard, refused, visit
from test_dashboard_settings import api, invite, join, press

HOSTILE = "<img src=x onerror=alert(1)>, 100% \"&amp;\" ☃"


# ---- helpers ---------------------------------------------------------------------------------------------------------

def order(amount, currency="EUR", name="order", **props):
    return name, {"$": {"amount": amount, "currency": currency}, "p": props}


def money_cards(page):
    """{metric:currency: what its card shows} of revenue."""
    return {name: value for name, value in headlines(page).items() if ":" in name}


def panel_rows(page, panel):
    settle(page)
    return [[item.locator(".label").inner_text(), *item.locator(".cells > *").all_inner_texts()] for item in page.locator(f"#{panel} .rows li").all()]


def sheet_lines(page, panel):
    """The lines of the file of a panel's sheet."""
    page.locator(f"#{panel} .more button").click()
    page.locator("#sheet tbody tr").first.wait_for()
    settle(page)
    with page.expect_download() as download:
        press(page, "CSV of what is shown")
    return download.value.path().read_text("utf-8-sig").splitlines()


# ---- revenue ---------------------------------------------------------------------------------------------------------

def test_a_site_without_revenue_has_nothing_about_it(fresh, new_page):  # noqa: F811
    visit(fresh, "192.0.2.1", "/", "signup")
    page = new_page(fresh.url)
    open_dashboard(page, fresh)
    make_goal(page, fresh)
    page.reload()
    assert money_cards(page) == {}
    assert "evenue" not in page.locator("main").inner_text()
    assert "evenue" not in sheet_lines(page, "conversions")[0]
    page.goto(f"{fresh.url}/?site=example.com&period=day&metric=total_revenue:EUR")
    settle(page)
    expect(page.locator("#legend strong")).to_have_text("Visitors per hour")


def test_currencies_stand_side_by_side_and_one_at_a_time_owns_the_chart(fresh, new_page, tmp_path):  # noqa: F811
    visit(fresh, "192.0.2.1", "/", order("1200.10"), order("-0.60"))
    visit(fresh, "192.0.2.2", "/", order("9800", "JPY"))
    visit(fresh, "192.0.2.3", "/")
    page = new_page(fresh.url)
    open_dashboard(page, fresh, "&compare=none")
    assert money_cards(page) == {"total_revenue:EUR": "€1,199.50", "total_revenue:JPY": "JP¥9,800",
                                 "average_revenue:EUR": "€599.75", "revenue_per_visitor:EUR": "€399.8333"}
    per_visitor = Api(fresh.url, token_of(tmp_path / "test.db"), "example.com").query("revenue_per_visitor", date_range="day")["results"][0]["metrics"]
    assert per_visitor == [{"EUR": "399.8333", "JPY": "3266.67"}]
    page.get_by_role("button", name="Revenue (JPY) JP¥9,800").click()
    settle(page)
    assert "metric=total_revenue:JPY" in page.url
    assert money_cards(page)["average_revenue:JPY"] == "JP¥9,800"
    expect(page.locator("#legend strong")).to_have_text("Revenue (JPY) per hour")
    page.get_by_text("The same as a table").click()
    cells = page.locator("#chart table td").all_inner_texts()
    assert "JP¥9,800" in cells and set(cells) <= {"JP¥9,800", "JP¥0", "–"}


def test_revenue_stands_in_panels_sheets_and_files_exactly(fresh, new_page):  # noqa: F811
    google = "/", {"r": "https://www.google.com/"}
    visit(fresh, "192.0.2.1", google, order("1234567890123.56", plan="pro"))
    visit(fresh, "192.0.2.2", "/", order("-0.05", plan="free"))
    visit(fresh, "192.0.2.3", "/other")
    page = new_page(fresh.url)
    open_dashboard(page, fresh, "&compare=none")
    make_goal(page, fresh, "Ordered", kind="event", value="order")
    page.reload()
    assert money_cards(page) == {"total_revenue:EUR": "€1.2tn", "average_revenue:EUR": "€617.3bn", "revenue_per_visitor:EUR": "€411.5bn"}
    expect(page.locator("[data-key='total_revenue:EUR'] .value")).to_have_attribute("title", "€1,234,567,890,123.51")
    assert panel_rows(page, "conversions") == [["Ordered", "2", "2", "67%", "€1.2tn"]]
    assert panel_rows(page, "events") == [["order", "2", "2", "€1.2tn"]]
    page.get_by_role("tab", name="Properties").click()
    assert panel_rows(page, "events") == [["free", "1", "1", "-€0.05"], ["pro", "1", "1", "€1.2tn"]]
    assert panel_rows(page, "sources")[0] == ["Direct", "2", "67%", "50%"]
    page.get_by_role("button", name="Revenue €1.2tn").click()
    assert panel_rows(page, "sources") == [["Direct", "2", "67%", "-€0.05"], ["Google", "1", "33%", "€1.2tn"]]
    lines = [line.split(",") for line in sheet_lines(page, "sources")[1:]]
    assert [",".join(line[:7] + line[8:]) for line in lines] == [   # all but the seconds
        "Direct,2,66.67,2,2,1,50,-0.05,-0.05,-0.0250", "Google,1,33.33,1,1,1,0,1234567890123.56,1234567890123.56,1234567890123.5600"]
    page.get_by_role("button", name="Revenue", exact=True).click()
    settle(page)
    assert page.locator("#sheet tbody bdi").all_inner_texts() == ["Google", "Direct"]
    page.keyboard.press("Escape")
    page.goto(f"{fresh.url}/?site=example.com&period=day&compare=none&metric=total_revenue:EUR&f=is,event:page,/other")
    assert money_cards(page)["total_revenue:EUR"] == "€0"
    expect(page.locator("#legend strong")).to_have_text("Revenue per hour")
    expect(page.locator("#nothing p")).to_have_text("Nothing to show for revenue.")


def test_what_never_carried_an_amount_shows_none_and_a_column_of_amounts_is_said_in_one_manner(fresh, new_page):  # noqa: F811
    visit(fresh, "192.0.2.1", "/", order("1834.50"), order("463.00", name="donation"), order("0", name="gift"), "signup")
    page = new_page(fresh.url)
    open_dashboard(page, fresh, "&compare=none")
    assert panel_rows(page, "events") == [["donation", "1", "1", "€463"], ["gift", "1", "1", "€0"], ["order", "1", "1", "€1.8k"], ["signup", "1", "1", "–"]]
    assert [line.split(",")[5:] for line in sheet_lines(page, "events")[1:]] == [["463.00", "463.00", "463.0000"], ["0.00", "0.00", "0.0000"], ["1834.50", "1834.50", "1834.5000"], ["", "", ""]]
    assert page.locator("#sheet tbody tr").last.locator("td").all_inner_texts()[-3:] == ["–", "–", "–"]
    page.keyboard.press("Escape")
    row(page, "events", "donation").click()
    settle(page)
    assert panel_rows(page, "events")[0] == ["donation", "1", "1", "€463.00"]


def test_revenue_over_time_and_its_change_are_the_api_s(demo, dashboard):  # noqa: F811
    page = dashboard("?period=12mo&metric=total_revenue:USD")
    whole, = demo.api.query("total_revenue", "average_revenue", date_range="12mo", include={"comparisons": {"mode": "previous_period"}})["results"]
    total, average = whole["metrics"]
    assert set(total) == {"EUR", "USD"}
    shown = money_cards(page)
    assert {name: shown[name] for name in ("total_revenue:EUR", "total_revenue:USD", "average_revenue:USD")} == {
        "total_revenue:EUR": f"€{Decimal(total['EUR']):,}", "total_revenue:USD": f"US${Decimal(total['USD']):,}", "average_revenue:USD": f"US${Decimal(average['USD']):,}"}
    change = whole["comparison"]["change"][0]["USD"]
    expect(page.locator("[data-key='total_revenue:USD'] .change")).to_have_text("new" if change is None else re.compile(f"^{'↑' if change > 0 else '↓'}"))
    months = demo.api.query("total_revenue", date_range="12mo", dimensions=["time:month"])["results"]
    page.get_by_text("The same as a table").click()
    cells = page.evaluate("[...document.querySelectorAll('#chart tbody tr')].map(line => line.cells[1].textContent)")
    assert cells == [f"US${Decimal(row['metrics'][0].get('USD', '0')):,}" for row in months]


# ---- funnels ---------------------------------------------------------------------------------------------------------

HOME, PRICES, BOUGHT = ["is", "event:page", ["/"]], ["is", "event:page", ["/pricing"]], ["is", "event:goal", ["Signed up"]]


def four_visitors(server):
    visit(server, "192.0.2.1", "/", "/pricing", "signup")
    visit(server, "192.0.2.2", "/", "/pricing", "/docs")
    visit(server, "192.0.2.3", "/", "signup")
    visit(server, "192.0.2.4", "/pricing")


def make_funnel(page, server, name="To signup", *steps, **more):
    return api(page, server, "POST", "funnels", {"site_id": "example.com", "name": name, "steps": [{"filters": [step]} for step in steps or (HOME, PRICES, BOUGHT)], **more}, 201)


def report(page, server, **more):
    return api(page, server, "POST", "funnels/report", {"site_id": "example.com", "date_range": "day", **more})


def say(value, how):
    return "–" if value is None else how(value)


def drawn(page):
    """[[name, visitors, its share, how many left], …] of the funnel that is shown."""
    settle(page)
    return page.evaluate("""[...document.querySelectorAll(".funnel > li")].map(step => [step.querySelector("bdi").textContent, step.querySelector("strong").textContent,
        [...step.querySelector("strong").parentNode.childNodes].slice(1).map(part => part.matches?.(".change") ? "" : part.textContent).join("").replace(" ,", ",").trim(), step.querySelector("summary")?.textContent ?? ""])""")


def as_drawn(steps):
    """The same of an answer of the API."""
    shares = ["visitor" if steps[0]["visitors"] == 1 else "visitors", *(say_percent(step["rate"]) for step in steps[1:])]
    shares = [share if i < 2 else f"{share}, {say_percent(steps[i]['step_rate'])} of step {i}" for i, share in enumerate(shares)]
    left = [f"{step['drop_off']} left ({say_percent(100 * step['drop_off'] / step['visitors'])})" if step["drop_off"] else "" for step in steps]
    return [[step["name"], str(step["visitors"]), share, gone] for step, share, gone in zip(steps, shares, left)]


def lines_of(steps):
    """The lines of the table of an answer, as they are read."""
    return [[step["name"], str(step["visitors"]), say_percent(step["rate"]), say(step["step_rate"], say_percent), say(step["drop_off"], str),
             *(say_duration((step["seconds"] or {}).get(part)) for part in ("lower_quartile", "median", "upper_quartile"))] for step in steps]


def table(page):
    page.locator("#conversions").get_by_text("As a table").click()
    return page.evaluate("[...document.querySelectorAll('#conversions tbody tr')].map(line => [...line.cells].map(cell => cell.textContent))")


def step(page, place):
    return dialog(page).locator(".items").first.locator("> li").nth(place)


def fill_step(page, place, what, value):
    line = step(page, place).locator(".items > li").last
    line.locator("[data-part=dimension]").select_option(label=what)
    line.locator("[data-part=value]").fill(value)
    line.locator("[data-part=value]").press("Enter")


def values_of_steps(page):
    return [item.locator(".tokens .words").all_inner_texts() for item in dialog(page).locator(".items").first.locator("> li").all()]


def test_a_funnel_is_built_and_its_numbers_on_screen_and_in_the_file_are_the_api_s(fresh, new_page):  # noqa: F811
    four_visitors(fresh)
    page = new_page(fresh.url)
    open_dashboard(page, fresh, "&compare=none")
    make_goal(page, fresh)
    page.reload()
    settle(page)
    page.get_by_role("tab", name="Funnels").click()
    expect(page.locator("#conversions .nothing")).to_contain_text("No funnels yet. A funnel is two to eight steps")
    press(page, "Add a funnel")
    press(page, "New funnel")
    field(page, "Name").fill("To signup")
    fill_step(page, 0, "Page", "/")
    fill_step(page, 1, "Page", "/pricing")
    dialog(page).get_by_role("button", name="+ Step").click()
    fill_step(page, 2, "Goal", "Signed up")
    expect(dialog(page).get_by_role("status")).to_have_text("Page is / then Page is /pricing then Goal is Signed up.")
    press(page, "Save")
    expect(dialog(page).locator(".thing")).to_have_text(["To signup"])
    press(page, "Done")
    kept, = api(page, fresh, "GET", "funnels?site_id=example.com")["funnels"]
    assert (kept["order"], kept["window"], [each["filters"] for each in kept["steps"]]) == ("any", None, [[HOME], [PRICES], [BOUGHT]])
    assert f"tab=funnel:{kept['id']}" in page.url

    steps = report(page, fresh, funnel_id=kept["id"])["steps"]
    assert drawn(page) == as_drawn(steps) == [["/", "3", "visitors", "1 left (33%)"], ["/pricing", "2", "67%", "1 left (50%)"], ["Signed up", "1", "33%, 50% of step 2", ""]]
    expect(page.locator("#conversions .drawn > p")).to_have_text("3 visitors began, 1 (33%) went all the way. / → /pricing → Signed up, in one visit.")
    page.locator(".funnel summary").first.click()
    assert page.locator(".funnel > li").first.locator("li").all_inner_texts() == ["Event: signup\n1"]
    assert table(page) == lines_of(steps)
    with page.expect_download() as download:
        page.locator("#conversions").get_by_role("button", name="CSV").click()
    first, *lines = download.value.path().read_text("utf-8-sig").splitlines()
    assert first == "Step,Visitors,Of the first (%),Of the one before (%),Left,Lower quartile (s),Median to the next (s),Upper quartile (s),Left for"
    lines = [line.split(",") for line in lines]
    assert [line[:5] for line in lines if line[-1] == ""] == [[each["name"], *("" if each[part] is None else f"{each[part]:g}" for part in ("visitors", "rate", "step_rate", "drop_off"))]
                                                              for each in steps]
    assert [line for line in lines if line[-1]] == [["/", "1", *[""] * 6, "Event: signup"], ["/pricing", "1", *[""] * 6, "/docs"]]
    expect(page.get_by_role("table", name="To signup")).to_be_visible()


def test_steps_are_moved_removed_and_named_by_keyboard(fresh, new_page):  # noqa: F811
    visit(fresh, "192.0.2.1", "/")
    page = new_page(fresh.url)
    open_dashboard(page, fresh, "&tab=funnel")
    make_goal(page, fresh)
    kept = make_funnel(page, fresh, "Way", order="strict", window=90 * 60)
    page.reload()
    settle(page)
    press(page, "Change or add funnels")
    expect(dialog(page)).to_contain_text("/ → /pricing → Signed up, within 90 minutes, each right after the one before")
    page.get_by_role("button", name="Change Way").click()
    expect(field(page, "How many")).to_have_value("90")
    step(page, 0).get_by_role("button", name="Move step 1 down").press("Enter")
    assert values_of_steps(page) == [["/pricing"], ["/"], ["Signed up"]]
    expect(page.get_by_role("button", name="Move step 2 down")).to_be_focused()
    page.keyboard.press("Enter")
    assert values_of_steps(page) == [["/pricing"], ["Signed up"], ["/"]]
    down = page.get_by_role("button", name="Move step 3 down")
    expect(down).to_be_focused()
    expect(down).to_have_attribute("aria-disabled", "true")
    page.keyboard.press("Enter")   # once more does nothing
    assert values_of_steps(page) == [["/pricing"], ["Signed up"], ["/"]]
    steps = dialog(page).get_by_role("group", name="Steps")
    third = steps.get_by_role("group", name="Step 3")
    assert third.locator(".tokens .words").all_inner_texts() == ["/"]
    assert steps.get_by_role("button", name=re.compile("^Remove step")).evaluate_all("all => all.map(each => each.ariaLabel)") == ["Remove step 1", "Remove step 2", "Remove step 3"]
    page.get_by_label("Name of step 3").fill("Home again")
    step(page, 0).locator("> [data-do=remove]").press("Enter")
    assert values_of_steps(page) == [["Signed up"], ["/"]]
    assert dialog(page).locator(".items").first.locator("> li > [data-do=remove]:visible").count() == 0
    for _ in range(6):
        dialog(page).get_by_role("button", name="+ Step").click()
    expect(dialog(page).get_by_role("button", name="+ Step")).to_have_count(0)
    for _ in range(6):
        step(page, 2).locator("> [data-do=remove]").click()
    field(page, "Between the steps").select_option("any")
    field(page, "All of them within").select_option("days")
    field(page, "How many").fill("2")
    press(page, "Save")
    expect(dialog(page)).to_contain_text("Signed up → Home again, within 2 days")
    changed, = api(page, fresh, "GET", "funnels?site_id=example.com")["funnels"]
    assert changed == {**kept, "order": "any", "window": 172_800, "steps": [{"name": "Signed up", "filters": [BOUGHT]}, {"name": "Home again", "filters": [HOME]}]}


def test_a_step_of_nothing_is_refused_by_its_name(fresh, new_page):  # noqa: F811
    visit(fresh, "192.0.2.1", "/")
    page = new_page(fresh.url)
    open_dashboard(page, fresh, "&tab=funnel")
    make_goal(page, fresh)
    kept = make_funnel(page, fresh)
    page.reload()
    press(page, "Change or add funnels")
    press(page, "New funnel")
    field(page, "Name").fill("Nothing")
    press(page, "Save")
    assert refused(page, 0) == "Step 1: a value is missing"
    dialog(page).get_by_role("button", name="Cancel").click()
    press(page, "Change or add funnels")
    page.get_by_role("button", name="Change To signup").click()
    dialog(page).get_by_role("button", name="Remove /pricing").click()
    press(page, "Save")
    assert refused(page, 1) == "Step 2: a value is missing"
    step(page, 1).get_by_role("button", name="Remove this condition").click()   # the last one is only emptied
    press(page, "Save")
    assert refused(page, 1) == "Step 2: a value is missing"
    assert api(page, fresh, "GET", "funnels?site_id=example.com")["funnels"] == [kept]


def test_filters_and_comparison_of_the_page_are_the_funnel_s(demo, dashboard):  # noqa: F811
    page = dashboard("?period=91d&f=is,visit:device,Desktop&tab=funnel")
    funnel = page.evaluate("""async () => (await fetch("api/funnels", {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify({site_id: "demo.example",
        name: "Prices", steps: [{filters: [["is", "event:page", ["/"]]]}, {filters: [["is", "event:page", ["/pricing"]]]}]})})).json()""")
    page.reload()
    asked = {"date_range": "91d", "filters": [["is", "visit:device", ["Desktop"]]], "include": {"comparisons": {"mode": "previous_period"}}}
    answer = json.loads(post(f"{demo.url}/api/funnels/report", {"site_id": "demo.example", "funnel_id": funnel["id"], **asked}, Authorization=f"Bearer {demo.api.token}")[1])
    steps = answer["steps"]
    assert steps[0]["visitors"] > steps[1]["visitors"] > 0
    assert drawn(page) == as_drawn(steps)
    then = [[f"{each['comparison']['visitors']:,}", say_percent(each["comparison"]["rate"])] for each in steps]
    assert table(page) == [[*line, *before] for line, before in zip(lines_of(steps), then)]
    page.locator(".funnel summary").click()
    went = page.locator(".funnel li li").all_inner_texts()
    assert [line.split("\n")[1] for line in went] == [f"{each['visitors']:,}" for each in steps[0]["destinations"]]
    page.get_by_role("button", name=re.compile("^Remove the filter")).click()
    settle(page)
    assert int(drawn(page)[0][1].replace(",", "")) > steps[0]["visitors"]
    assert page.locator(".funnel details[open]").count() == 1
    page.locator(".funnel summary").focus()
    page.go_back()
    assert drawn(page) == as_drawn(steps)
    expect(page.locator(".funnel summary")).to_be_focused()


def test_a_funnel_of_one_segment_stands_beside_that_of_another(fresh, new_page):  # noqa: F811
    four_visitors(fresh)
    page = new_page(fresh.url)
    open_dashboard(page, fresh)
    make_goal(page, fresh)
    make_funnel(page, fresh)
    buyers, readers = (make_segment(page, fresh, name, [["has_done", filter]]) for name, filter in (("Buyers", BOUGHT), ("Readers", ["is", "event:page", ["/docs"]])))
    page.goto(f"{fresh.url}/?site=example.com&period=day&tab=funnel&f=is,segment,{buyers['id']}&compare=segment&against={readers['id']}")
    assert drawn(page) == [["/", "2", "visitors", "1 left (50%)"], ["/pricing", "1", "50%", ""], ["Signed up", "1", "50%, 100% of step 2", ""]]
    expect(page.locator(".funnel .change")).to_have_text(["↑ 100%", "↓ 50 pts", "↑ 50 pts"])
    expect(page.locator(".funnel > li p:has(strong)").last).to_have_text("1 50% ↑ 50 pts, 100% of step 2")
    expect(page.locator(".funnel .change").last).to_have_attribute("title", "up 50 percentage points, better; Readers: 0, 0%")
    assert [line[-2:] for line in table(page)] == [["1", "100%"], ["1", "100%"], ["0", "0%"]]
    expect(page.locator("#conversions thead th").last).to_have_text("Of the first, Readers")


def test_a_funnel_that_takes_longer_than_visitors_are_known_says_so(fresh, new_page):  # noqa: F811
    four_visitors(fresh)
    page = new_page(fresh.url)
    open_dashboard(page, fresh)
    for days in (1, 7):
        kept = make_funnel(page, fresh, f"In {days}", HOME, PRICES, window=86_400 * days)
        page.goto(f"{fresh.url}/?site=example.com&period=day&tab=funnel:{kept['id']}")
        settle(page)
        said = "" if days == 1 else " Visitors are known for 1 day on this site: what takes longer is not seen."
        expect(page.locator("#conversions .drawn > p")).to_have_text(f"3 visitors began, 2 (67%) went all the way. / → /pricing, within {days} day{'s' * (days > 1)}.{said}")


def test_a_step_with_a_property_is_taken_by_the_hits_that_have_it(fresh, new_page):  # noqa: F811
    visit(fresh, "192.0.2.1", "/", ("signup", {"p": {"plan": "pro"}}))
    visit(fresh, "192.0.2.2", "/", ("signup", {"p": {"plan": "free"}}))
    page = new_page(fresh.url)
    open_dashboard(page, fresh, "&compare=none")
    press(page, "Add a goal")
    press(page, "New goal")
    field(page, "Name").fill("Pro")
    field(page, "It is reached when").select_option("event")
    field(page, "Name of the event").fill("signup")
    dialog(page).get_by_role("button", name="+ Condition").click()
    condition(page, 0, "Property…", "is", "pro", prop="plan")
    press(page, "Save")
    press(page, "Done")
    assert panel_rows(page, "conversions") == [["Pro", "1", "1", "50%"]]

    page.get_by_role("tab", name="Funnels").click()
    press(page, "Add a funnel")
    press(page, "New funnel")
    field(page, "Name").fill("To free")
    fill_step(page, 0, "Page", "/")
    step(page, 1).locator("[data-part=dimension]").select_option(label="Property…")
    step(page, 1).locator("[data-part=property]").fill("plan")
    step(page, 1).locator("[data-part=value]").press_sequentially("fr")
    expect(page.get_by_role("option", name="free")).to_be_visible()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    press(page, "Save")
    press(page, "Done")
    assert drawn(page) == [["/", "2", "visitors", "1 left (50%)"], ["Step 2", "1", "50%", ""]]


def test_viewers_look_at_funnels_and_change_none(fresh, new_page):  # noqa: F811
    four_visitors(fresh)
    owner = new_page(fresh.url)
    open_dashboard(owner, fresh)
    make_goal(owner, fresh)
    page = join(new_page, fresh, invite(owner, fresh, "viewer"), "visitor")
    page.goto(f"{fresh.url}/?site=example.com&period=day")
    settle(page)
    expect(page.get_by_role("tab", name="Funnels")).to_be_hidden()
    made = make_funnel(owner, fresh), make_funnel(owner, fresh, "Another", PRICES, HOME)
    page.goto(f"{fresh.url}/?site=example.com&period=day&tab=funnel:{made[0]['id']}")
    assert [name for name, *_ in drawn(page)] == ["/", "/pricing", "Signed up"]
    page.locator("#conversions .columns select").select_option(label="Another")
    assert [name for name, *_ in drawn(page)] == ["/pricing", "/"]
    assert f"tab=funnel:{made[1]['id']}" in page.url
    expect(page.get_by_role("button", name="Change or add funnels")).to_be_hidden()


def test_deleting_a_funnel_asks_and_the_first_of_the_others_is_shown(fresh, new_page):  # noqa: F811
    four_visitors(fresh)
    page = new_page(fresh.url)
    open_dashboard(page, fresh)
    make_goal(page, fresh)
    kept, gone = make_funnel(page, fresh), make_funnel(page, fresh, HOSTILE, PRICES, ["is", "event:page", [HOSTILE]])
    segment = [make_segment(page, fresh, name, [["is", "event:page", [name]]]) for name in ("/", "/pricing")][-1]
    assert segment["id"] == gone["id"]
    page.goto(f"{fresh.url}/?site=example.com&period=day&tab=funnel:{gone['id']}&f=is,segment,{segment['id']}")
    assert [name for name, *_ in drawn(page)] == ["/pricing", HOSTILE]
    press(page, "Change or add funnels")
    page.get_by_role("button", name=f"Delete {HOSTILE}").click()
    expect(dialog(page).locator("h2")).to_have_text(f"Delete the funnel {HOSTILE}?")
    press(page, "Delete")
    press(page, "Done")
    assert [name for name, *_ in drawn(page)] == ["/", "/pricing", "Signed up"]
    assert [each["id"] for each in api(page, fresh, "GET", "funnels?site_id=example.com")["funnels"]] == [kept["id"]]
    expect(page.locator("#chips li")).to_have_text(["Segment is /pricing×"])   # which only has the same number


def test_a_report_that_fails_is_told_and_tried_again_while_the_old_one_stays(fresh, new_page):  # noqa: F811
    four_visitors(fresh)
    page = new_page(fresh.url)
    open_dashboard(page, fresh)
    make_goal(page, fresh)
    make_funnel(page, fresh)
    page.goto(f"{fresh.url}/?site=example.com&period=day&compare=none&tab=funnel")
    before = drawn(page)
    page.route("**/api/funnels/report", lambda route: route.fulfill(status=500, json={"error": "The funnel broke.", "code": "error"}))
    page.get_by_role("combobox", name="Compare with").select_option("previous_period")
    expect(page.locator("#trouble")).to_contain_text("The funnel broke.")
    expect(page.locator("#conversions .drawn")).to_have_class("drawn fades old")
    page.unroute("**/api/funnels/report")
    press(page, "Try again")
    assert drawn(page) == before
    expect(page.locator("#trouble")).to_be_hidden()


def test_a_funnel_nobody_began_says_so(fresh, new_page):  # noqa: F811
    visit(fresh, "192.0.2.1", "/docs")
    page = new_page(fresh.url)
    open_dashboard(page, fresh)
    make_funnel(page, fresh, "Nobody", HOME, PRICES)
    page.goto(f"{fresh.url}/?site=example.com&period=day&tab=funnel")
    assert drawn(page) == [["/", "0", "visitors", ""], ["/pricing", "0", "0%", ""]]
    expect(page.locator("#conversions .drawn > p")).to_contain_text("Nobody took the first step in this period.")


@pytest.mark.parametrize("scheme, width", [("light", 1280), ("dark", 375)])
def test_axe_finds_nothing_in_a_funnel_and_its_editor(fresh, new_page, node_packages, scheme, width):  # noqa: F811
    four_visitors(fresh)
    page = new_page(fresh.url, viewport={"width": width, "height": 800}, color_scheme=scheme)
    open_dashboard(page, fresh)
    make_goal(page, fresh)
    make_funnel(page, fresh, HOSTILE, HOME, PRICES, BOUGHT, HOME, PRICES, BOUGHT, HOME, PRICES)
    page.goto(f"{fresh.url}/?site=example.com&period=day&tab=funnel")
    settle(page)
    page.evaluate((node_packages / "axe-core" / "axe.min.js").read_text("utf-8") + ";0")
    for summary in page.locator("#conversions summary").all():
        summary.click()

    def check():
        page.wait_for_function("() => document.getAnimations().every(({playState}) => playState !== 'running')")
        assert page.evaluate(AXE, ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]) == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    check()
    press(page, "Change or add funnels")
    page.get_by_role("button", name=f"Change {HOSTILE}").click()
    check()
