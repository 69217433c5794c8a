"""What happens just now, which properties there are, and hours of the week: what the dashboard asks beside the usual reports."""
from datetime import datetime

import pytest

from conftest import Site

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:132.0) Gecko/20100101 Firefox/132.0"


def live(site, status=200):
    return site.web.get("/api/live", {"site_id": site.domain}, headers={"Authorization": f"Bearer {site.token}"}, status=status).json


def test_a_site_without_hits_is_empty_and_still_has_its_minutes(site):
    assert live(site) == {"visitors": 0, "minutes": [[0, 0]] * 30, "pages": [], "sources": [], "countries": [], "hits": [], "is_cut": False}


def test_the_lists_are_of_the_current_visitors_by_the_page_they_saw_last(site, clock):
    site.send("/old", ip="192.0.2.9", r="https://t.co/x")
    clock.advance(301)
    site.send("/a", r="https://www.google.com/")
    clock.advance(10)
    site.send("/b")
    site.send("/b", ip="192.0.2.2")
    answer = live(site)
    assert answer["visitors"] == 2
    assert answer["pages"] == [["/b", 2]]
    assert sorted(answer["sources"]) == [["Direct", 1], ["Google", 1]]
    assert answer["countries"] == [["(not set)", 2]]


def test_who_only_reads_on_is_current_without_a_new_hit(site, clock):
    site.send("/long")
    clock.advance(1500)
    site.send("/long", "engagement", e=1000)
    clock.advance(299)
    assert live(site)["visitors"] == 1
    assert live(site)["pages"] == [["/long", 1]]
    clock.advance(2)
    assert live(site)["visitors"] == 0


def test_minutes_are_counted_back_from_now_and_a_visitor_once_in_each(site, clock):
    for second in (0, 30, 59, 60):
        site.send(f"/{second}")
        clock.advance({0: 30, 30: 29, 59: 1, 60: 0}[second])
    site.send("/", "signup")
    site.send("/", ip="192.0.2.2")
    minutes = live(site)["minutes"]
    assert len(minutes) == 30
    assert minutes[-2:] == [[1, 1], [2, 4]]   # 60 seconds ago is the minute before
    assert sum(visitors for visitors, _ in minutes[:-2]) == 0
    clock.advance(28 * 60)
    assert live(site)["minutes"][0] == [1, 1]
    clock.advance(60)
    assert live(site)["minutes"][0] == [2, 4]
    clock.advance(60)
    assert live(site)["minutes"] == [[0, 0]] * 30


def test_the_feed_has_the_newest_hits_first_with_nothing_that_joins_two(site, clock):
    site.send("/a", agent=FIREFOX, r="https://www.google.com/")
    clock.advance(7)
    site.send("/a", "signup", agent=FIREFOX, p={"plan": "secret"})
    assert live(site)["hits"] == [
        {"age": 0, "name": "signup", "page": "/a", "country": "(not set)"},
        {"age": 7, "name": "pageview", "page": "/a", "country": "(not set)"}]
    for number in range(40):
        site.send(f"/{number}")
    assert [hit["page"] for hit in live(site)["hits"]] == [f"/{number}" for number in range(39, 9, -1)]


def test_the_privacy_mode_holds_here_too(app, site):
    app.set_site("example.com", mode="paranoid")
    site.send("/", r="https://news.example/secret/path")
    answer = live(site)
    assert answer["sources"] == [["news.example", 1]]
    assert answer["hits"] == [{"age": 0, "name": "pageview", "page": "/", "country": "(not set)"}]


def test_lists_are_short_and_hostile_text_stays_as_it_is(site):
    for number in range(12):
        site.send(f"/<b>{number}", ip=f"192.0.2.{number}")
    answer = live(site)
    assert len(answer["pages"]) == 10 and answer["visitors"] == 12
    assert all(page.startswith("/<b>") for page, _ in answer["pages"])


def test_of_too_many_hits_the_newest_are_told_and_that_it_is_so(site, clock, monkeypatch):
    monkeypatch.setattr("mininumbers.LIVE_HITS", 3)
    for number in range(4):
        site.send(f"/{number}")
        clock.advance(61)
    answer = live(site)
    assert answer["is_cut"] and sum(views for _, views in answer["minutes"]) == 3


def test_another_site_s_hits_are_not_told(app, site):
    app.add_site("other.test", hostnames="")
    Site(app, "other.test").send("/theirs")
    assert live(site)["hits"] == []


def test_only_who_may_read_the_site_is_told(app, site):
    app.add_site("other.test")
    site.token = app.create_token("one", "other.test")
    assert live(site, status=404)["code"] == "not-found"
    site.token = "guess"
    assert live(site, status=401)["code"] == "unauthorized"


# ---- properties ------------------------------------------------------------------------------------------------------

def properties(site, status=200, **more):
    return site.web.get("/api/properties", {"site_id": site.domain, **more}, headers={"Authorization": f"Bearer {site.token}"}, status=status).json


def test_properties_are_those_of_the_days_asked_for_the_most_used_first(site, clock):
    site.send("/", "signup", p={"plan": "pro"})
    site.send("/", "signup", p={"plan": "free", "seats": 3})
    assert properties(site) == {"properties": ["plan", "seats"]}
    clock.advance(86_400)
    site.send("/", "signup", p={"<b>": "x"})
    assert properties(site) == {"properties": ["<b>"]}
    assert properties(site, **{"from": "2026-03-02", "to": "2026-03-02"}) == {"properties": ["plan", "seats"]}


def test_of_very_many_properties_a_hundred_are_named(site):
    for number in range(5):
        site.send("/", "signup", p={f"key{number}{place}": "x" for place in range(30)})
    assert len(properties(site)["properties"]) == 100


def test_days_that_are_none_are_refused(site):
    for days in ({"from": "yesterday"}, {"from": "2026-03-02", "to": "2026-13-01"}, {"from": "0001-01-01"}, {"to": "9999-12-31"}):
        assert properties(site, status=400, **days)["details"][0]["field"] == "from"


# ---- hours of the week -----------------------------------------------------------------------------------------------

def hours(site, *days):
    """{label: pageviews} of the hours of the week that have any."""
    rows = site.rows("pageviews", "visitors", dimensions=["time:hour_of_week"], date_range=list(days))
    assert [label for label, *_ in rows] == [f"{weekday} {hour:02}" for weekday in range(1, 8) for hour in range(24)]
    return {label: (views, visitors) for label, views, visitors in rows if views}


@pytest.mark.parametrize("zone, sent, found", [
    # Berlin's clocks go from 3 back to 2 on Sunday, 25 October: both hours are two o'clock.
    ("Europe/Berlin", ["2026-10-24T23:30Z", "2026-10-25T00:30Z", "2026-10-25T01:30Z", "2026-10-25T02:30Z"], {"7 01": 1, "7 02": 2, "7 03": 1}),
    # and from 2 to 3 on Sunday, 29 March: nothing is at two
    ("Europe/Berlin", ["2026-03-29T00:30Z", "2026-03-29T01:30Z"], {"7 01": 1, "7 03": 1}),
    # Lord Howe's clocks go back by half an hour at 2: half past one comes twice
    ("Australia/Lord_Howe", ["2026-04-04T14:45Z", "2026-04-04T15:15Z", "2026-04-04T15:45Z"], {"7 01": 2, "7 02": 1}),
    ("Asia/Kathmandu", ["2026-04-05T18:14Z", "2026-04-05T18:15Z"], {"7 23": 1, "1 00": 1})])
def test_an_hour_of_the_week_is_the_site_s_own_also_when_clocks_change(app, site, clock, zone, sent, found):
    app.set_site("example.com", timezone=zone)
    for moment in sent:
        clock.set(datetime.fromisoformat(moment.replace("Z", "+00:00")).timestamp())
        site.send("/")
    days = sent[0][:8] + "01", sent[0][:8] + "30"
    counted = hours(site, *days)
    assert {label: views for label, (views, _) in counted.items()} == found
    clock.advance(3 * 86_400)
    app.run_jobs()
    assert app.store.reader().execute("select count(*) from days where state = 1").fetchone()[0]
    assert hours(site, *days) == counted   # sealed


def test_the_same_hour_of_two_weeks_is_one_and_a_filter_changes_nothing_of_that(app, site, clock):
    for _ in range(2):
        site.send("/a")
        site.send("/b", ip="192.0.2.2", agent=FIREFOX)
        clock.advance(7 * 86_400)
    app.run_jobs()
    assert hours(site, "2026-03-01", "2026-03-15") == {"1 12": (4, 4)}
    rows = site.rows("visitors", dimensions=["time:hour_of_week"], date_range=["2026-03-01", "2026-03-15"], filters=[["is", "visit:browser", ["Firefox"]]])
    assert [row for row in rows if row[1]] == [("1 12", 2)]


def test_too_long_a_period_of_single_hours_is_refused(site):
    answer = site.query("visitors", dimensions=["time:hour_of_week"], date_range=["1990-01-01", "2020-01-01"], filters=[["is", "event:page", ["/"]], ["is", "event:name", ["x"]]], status=400)
    assert answer["details"][0]["field"] == "dimensions"
