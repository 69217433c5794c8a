"""Revenue and funnels in dashboard.html, in a real browser against the real server."""
import re
from decimal import Decimal

from playwright.sync_api import expect

from test_dashboard import Api, dashboard, demo, enter, fresh, headlines, new_page, pick, row, settle, token_of, unvisited  # noqa: F401 (fixtures among them)
from test_dashboard_conversions import make_goal, open_dashboard, visit
from test_dashboard_settings import press

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
    assert sheet_lines(page, "sources")[1:] == [
        "Direct,2,66.67,2,2,1,50,0,-0.05,-0.05,-0.0250", "Google,1,33.33,1,1,1,0,0,1234567890123.56,1234567890123.56,1234567890123.5600"]
    page.get_by_role("button", name="Revenue", exact=True).click()
    settle(page)
    assert page.locator("#sheet tbody bdi").all_inner_texts() == ["Google", "Direct"]
    page.keyboard.press("Escape")
    page.goto(f"{fresh.url}/?site=example.com&period=day&compare=none&metric=total_revenue:EUR&f=is,event:page,/other")
    assert money_cards(page)["total_revenue:EUR"] == "€0"
    expect(page.locator("#legend strong")).to_have_text("Revenue per hour")
    expect(page.locator("#nothing p")).to_have_text("Nothing to show for revenue.")


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
