"""Sealed days: whatever they answer is what counting hits answers, and they are never asked when they could be wrong.

The reports that count hits are held against the oracle in test_reports.py; here they are the oracle themselves.
"""
import contextlib
import random
import sqlite3
from datetime import date, timedelta

import pytest
from hypothesis import HealthCheck, given, settings as hypothesis_settings
from hypothesis import strategies as st

import mininumbers
from conftest import CHROME, MovableClock, Site, run_command
from mininumbers import (DIMENSIONS, GOAL_PLACE, METRICS, Block, Settings, Wanted, create_app, fill_demo, find_named, get_site, local_date, read_definitions,
                         run_queries, run_query, save_named, seal)

DAY = 86_400
AGENTS = [CHROME, CHROME.replace("X11; Linux x86_64", "Windows NT 10.0; Win64; x64"),
          "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1"]
REFERRERS = ["", "", "https://www.google.com/", "https://t.co/x", "https://news.test/item"]
PAGES = ["/", "/a", "/b", "/a/b", "/c"]


# ---- helpers ---------------------------------------------------------------------------------------------------------

def tell_a_story(app, clock, zone="America/New_York", rotation_hours=24, days=9, seed=1):
    """Fill example.com with visits that lie around midnight more often than not, over the end of summer time."""
    site, chance = Site(app), random.Random(seed)
    app.set_site("example.com", timezone=zone, rotation_hours=rotation_hours)
    its = get_site(app.store.reader(), app.settings, "example.com")
    first = date(2025, 10, 29)
    moments = []
    for number in range(days):
        start = mininumbers.midnight(first + timedelta(days=number), its.zone)
        moments += [start + int(chance.triangular(-2_700, 2_700)) for _ in range(25)] + [start + chance.randrange(DAY) for _ in range(12)]
    for moment in sorted(moments):
        clock.set(moment)
        who, page = chance.randrange(7), chance.choice(PAGES)
        more = {"ip": f"192.0.2.{who}", "agent": AGENTS[who % 3]}
        kind = chance.random()
        if kind < 0.2:
            site.send(page, "engagement", e=chance.randrange(60_000), sd=chance.randrange(101), **more)
        elif kind < 0.35:
            site.send(page, chance.choice(["signup", "download"]), i=chance.random() < 0.5, **more)
        else:
            site.send(page + chance.choice(["", "", "?utm_source=news&utm_medium=email"]), r=chance.choice(REFERRERS), w=chance.choice([400, 1500]), **more)
        if chance.random() < 0.05:
            app.run_jobs()
    clock.advance(2 * DAY)
    return site


@contextlib.contextmanager
def counting_hits():
    """Without sealed days."""
    want = mininumbers.Days.want
    mininumbers.Days.want = lambda *_: None
    try:
        yield
    finally:
        mininumbers.Days.want = want


def ask(app, body):
    with app.store.snapshot() as db:
        return run_query(db, get_site(db, app.settings, "example.com"), {"site_id": "example.com", **body}, app.clock())["results"]


def assert_same(app, body):
    with counting_hits():
        counted = ask(app, body)
    assert ask(app, body) == counted


@contextlib.contextmanager
def statements(app):
    """Give the list of the statements that this thread runs meanwhile."""
    seen = []
    app.store.reader().set_trace_callback(seen.append)
    try:
        yield seen
    finally:
        app.store.reader().set_trace_callback(None)


def reads_hits(seen):
    return [sql for sql in seen if " hits" in sql and "select min(id)" not in sql and "select max(id)" not in sql]


def sealed(app):
    return app.store.reader().execute("select day, state from days where site_id = 1 and state > 0 order by day").fetchall()


@pytest.fixture(scope="module", params=["America/New_York", "Asia/Kathmandu"])
def told(tmp_path_factory, request):
    clock = MovableClock()
    with contextlib.closing(create_app(Settings(db=str(tmp_path_factory.mktemp("app") / "test.db"), geoip=""), clock=clock)) as app:
        app.setup("owner", "correct horse battery", "example.com")
        tell_a_story(app, clock, request.param)
        app.run_jobs()
        yield app


# ---- exactness -------------------------------------------------------------------------------------------------------

VALUES = {"event:page": PAGES, "visit:entry_page": PAGES, "visit:exit_page": PAGES, "visit:source": ["Google", "X", "Direct", "news"],
          "visit:browser": ["Chrome", "Safari"], "visit:os": ["Linux", "iOS", "Windows"], "visit:screen": ["Mobile"], "event:name": ["pageview", "signup"],
          "event:hostname": ["example.com"], "visit:utm_medium": ["email", "(not set)"]}
LEAVES = st.sampled_from(sorted(VALUES)).flatmap(lambda name: st.tuples(
    st.sampled_from(["is", "is_not", "contains", "matches", "contains_not", "matches_not"]), st.just(name),
    st.lists(st.sampled_from(VALUES[name]), min_size=1, max_size=2, unique=True)).map(lambda leaf: [leaf[0], leaf[1], [
        value.replace("(", "[(]").replace(")", "[)]") if "matches" in leaf[0] else value for value in leaf[2]]]))
FILTERS = st.recursive(LEAVES, lambda inner: st.one_of(
    st.tuples(st.sampled_from(["and", "or"]), st.lists(inner, min_size=1, max_size=3)).map(list), inner.map(lambda each: ["not", each]),
    inner.map(lambda each: ["has_done", each])), max_leaves=4)
DAYS = st.integers(0, 12).map(lambda number: (date(2025, 10, 28) + timedelta(days=number)).isoformat())


@st.composite
def questions(draw):
    pages = draw(st.booleans())
    dimensions = draw(st.sampled_from([[], [], *([name] for name in DIMENSIONS)]))
    dimensions = (["event:page"] if pages and draw(st.booleans()) else dimensions) + draw(st.sampled_from([[], [], ["time:day"], ["time:week"], ["time:month"], ["time:hour_of_week"]]))
    filters = draw(st.lists(FILTERS, max_size=2)) + draw(st.sampled_from([[], [], [["is", "event:name", ["pageview"]]]]))
    body = {"dimensions": dimensions, "filters": filters, "date_range": sorted([draw(DAYS), draw(DAYS)])}
    by_page = "event:page" in dimensions or "event:page" in mininumbers.filtered_dimensions(filters)
    possible = [name for name, metric in METRICS.items() if (by_page or not metric.needs_page) and (dimensions if name == "percentage" else not metric.share_of)]
    if draw(st.booleans()):
        body["include"] = {"comparisons": {"mode": "previous_period"}}
    return body | {"metrics": draw(st.lists(st.sampled_from(possible), min_size=1, max_size=5, unique=True))}


@hypothesis_settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(body=questions())
def test_sealed_days_say_what_counting_hits_says(told, body):
    assert_same(told, body)


@pytest.mark.parametrize("metric", [name for name, metric in METRICS.items() if metric.share_of in ("", "rows")])
def test_every_metric_of_every_dimension_is_the_same_over_midnight(told, metric):
    for dimension in DIMENSIONS:
        if dimension == "event:page" or not METRICS[metric].needs_page:
            for period in (["2025-10-29", "2025-11-07"], ["2025-11-01", "2025-11-03"], ["2025-11-02", "2025-11-02"]):
                assert_same(told, {"metrics": [metric], "dimensions": [dimension], "date_range": period})


def test_the_story_has_what_makes_adding_up_hard(told):
    db, = [told.store.reader()]
    over_midnight = db.execute("select count(*) from columns where part = 2").fetchone()[0]
    assert over_midnight >= 6
    assert {state for _, state in sealed(told)} == {1}
    single = sum(row["metrics"][0] for row in ask(told, {"metrics": ["visitors"], "dimensions": ["time:day"], "date_range": ["2025-10-28", "2025-11-08"]}))
    whole = ask(told, {"metrics": ["visitors"], "date_range": ["2025-10-28", "2025-11-08"]})[0]["metrics"][0]
    assert single > whole > 20


@pytest.mark.parametrize("body", [
    {"metrics": ["visitors", "bounce_rate", "visit_duration"]},
    {"metrics": ["visitors", "percentage"], "dimensions": ["visit:source"]},
    {"metrics": ["visitors", "time_on_page", "scroll_depth", "exit_rate"], "dimensions": ["event:page"]},
    {"metrics": ["visitors", "pageviews"], "dimensions": ["time:day"]},
    {"metrics": ["visitors", "bounce_rate", "exit_rate"], "dimensions": ["time:hour_of_week"]},
    {"metrics": ["visitors", "visit_duration"], "dimensions": ["time:hour_of_week"], "filters": [["is", "visit:source", ["Google"]]]},
    {"metrics": ["visitors"], "dimensions": ["visit:browser"], "filters": [["is", "visit:source", ["Google"]]]},
    {"metrics": ["visitors", "pageviews", "bounce_rate"], "filters": [["contains", "event:page", ["/a"]], ["is_not", "visit:os", ["iOS"]]]},
    {"metrics": ["visitors", "percentage"], "dimensions": ["event:page"], "filters": [["or", [["is", "visit:os", ["iOS"]], ["is", "visit:source", ["X"]]]]]},
])
def test_reports_of_sealed_days_look_at_no_hits(told, body):
    with statements(told) as seen:
        assert ask(told, {**body, "date_range": ["2025-10-29", "2025-11-06"]})
    assert seen and reads_hits(seen) == []


@pytest.mark.parametrize("rotation_hours, state", [(1, 1), (6, 1), (24, 1), (48, 2), (168, 2)])
def test_days_that_share_visitors_are_never_added_up(tmp_path, clock, rotation_hours, state):
    with contextlib.closing(create_app(Settings(db=str(tmp_path / "test.db"), geoip=""), clock=clock)) as app:
        app.setup("owner", "correct horse battery", "example.com")
        tell_a_story(app, clock, rotation_hours=rotation_hours, days=6)
        app.run_jobs()
        assert {found for _, found in sealed(app)[1:5]} == {state}
        for dimension in ([], ["time:day"], ["time:week"], ["visit:source"], ["event:page"]):
            for filters in ([], [["is", "visit:browser", ["Chrome"]]]):
                assert_same(app, {"metrics": ["visitors", "visits", "pageviews"], "dimensions": dimension, "filters": filters,
                                  "date_range": ["2025-10-29", "2025-11-05"]})


def test_a_visitor_with_a_day_between_two_visits_makes_the_day_stand_apart(app, site, clock):
    """As data that comes from elsewhere may have it."""
    for _ in range(3):
        site.send("/")
        clock.advance(DAY)
    clock.advance(DAY)
    app.store.transact(lambda db: db.execute("update visits set visitor = 7, live = 0 where id in (select min(id) from visits union select max(id) from visits)"))
    app.run_jobs()
    assert [state for _, state in sealed(app)][:3] == [1, 1, 2]
    assert site.numbers("visitors", date_range="7d") == 2


@pytest.mark.parametrize("wide", [3, 2_000])
def test_a_dimension_with_too_many_values_has_no_rollups_and_the_same_numbers(tmp_path, clock, monkeypatch, wide):
    monkeypatch.setattr(mininumbers, "WIDE", wide)
    with contextlib.closing(create_app(Settings(db=str(tmp_path / "test.db"), geoip=""), clock=clock)) as app:
        app.setup("owner", "correct horse battery", "example.com")
        tell_a_story(app, clock)
        app.run_jobs()
        rolled = {place for place, in app.store.reader().execute("select distinct dimension from rollups")}
        assert (1 in rolled) == (wide > len(PAGES))
        for dimension in ("event:page", "visit:entry_page", "visit:source", "visit:device"):
            for metrics in (["visitors", "percentage"], ["visits", "exit_rate", "bounce_rate"]):
                assert_same(app, {"metrics": metrics, "dimensions": [dimension], "date_range": ["2025-10-29", "2025-11-06"]})


@pytest.mark.parametrize("at_once", [1, 10])
def test_a_day_of_very_many_hits_is_read_share_by_share(tmp_path, clock, monkeypatch, at_once):
    monkeypatch.setattr(mininumbers, "READ_HITS", at_once)
    monkeypatch.setattr(mininumbers, "COUNTED_DAYS", 0)
    shares, read = set(), mininumbers._read_share
    monkeypatch.setattr(mininumbers, "_read_share", lambda db, site, day, share: shares.add(share) or read(db, site, day, share))
    with contextlib.closing(create_app(Settings(db=str(tmp_path / "test.db"), geoip=""), clock=clock)) as app:
        app.setup("owner", "correct horse battery", "example.com")
        tell_a_story(app, clock)
        name_goals(app)
        for is_sealed in (False, True):
            if is_sealed:
                app.run_jobs()
                assert {state for _, state in sealed(app)} == {1}
            for period in (["2025-10-29", "2025-11-06"], ["2025-11-01", "2025-11-01"], ["2025-11-05", "2025-11-08"]):
                for dimension in ([], ["time:day"], ["visit:source"], ["event:page"], ["event:name"], ["visit:exit_page"]):
                    for filters in ([], [["is", "visit:browser", ["Chrome"]]], [["is", "event:page", ["/a", "/b"]]]):
                        assert_same(app, {"metrics": ["visitors", "visits", "events", "bounce_rate", "exit_rate"], "dimensions": dimension,
                                          "filters": filters, "date_range": period})
                assert_goals_same(app, {**GOAL_QUESTIONS[0], "date_range": period})
        assert len(shares) > 2 and {share.share for share in shares} == set(range(max(share.shares for share in shares)))
        assert app.store.reader().execute("select count(*) from columns where part > 2").fetchone()[0] > 0


def test_a_large_day_that_is_not_sealed_is_read_for_long_periods_only(app, site, clock, monkeypatch):
    monkeypatch.setattr(mininumbers, "READ_HITS", 2)
    days = []
    monkeypatch.setattr(mininumbers, "read_day", lambda db, site, day, read=mininumbers.read_day: days.append(day) or read(db, site, day))
    for _ in range(3):
        site.send("/")
        clock.advance(10 * DAY)
    app.run_jobs()
    for page in "abc":
        site.send(f"/{page}")
    days.clear()
    assert site.numbers("visitors", "pageviews", date_range="day") == [1, 3]
    assert days == []
    assert site.numbers("visitors", "pageviews", date_range="all") == [4, 6]
    assert len(days) == 1


def test_reading_share_by_share_gives_the_same_rollups(tmp_path, clock, monkeypatch):
    with contextlib.closing(create_app(Settings(db=str(tmp_path / "test.db"), geoip=""), clock=clock)) as app:
        app.setup("owner", "correct horse battery", "example.com")
        tell_a_story(app, clock)
        rollups = []
        for at_once in (mininumbers.READ_HITS, 7):
            monkeypatch.setattr(mininumbers, "READ_HITS", at_once)
            mininumbers.rebuild_rollups(app)
            rollups.append(app.store.reader().execute("select * from rollups").fetchall())
        assert len(rollups[0]) > 100 and rollups[0] == rollups[1]


def test_a_day_that_was_too_large_for_an_older_version_is_sealed(app, site, clock):
    site.send("/")
    clock.advance(2 * DAY)
    app.run_jobs()
    app.store.transact(lambda db: (db.execute("update days set state = 3"), db.execute("delete from columns"), db.execute("delete from rollups")))
    assert site.numbers("visitors", date_range="7d") == 1
    assert seal(app) > 0
    assert {state for _, state in sealed(app)} == {1}


def test_a_day_with_too_many_hits_is_left_to_counting(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(mininumbers, "DAY_HITS", 30)
    monkeypatch.setattr(mininumbers, "read_day", lambda db, site, day, read=mininumbers.read_day: read(db, site, day) if
                        db.execute("select count(*) from hits where id >> 16 between ? and ?", (
                            mininumbers.midnight(date.fromordinal(day), site.zone), mininumbers.midnight(date.fromordinal(day + 1), site.zone) - 1,
                        )).fetchone()[0] <= 30 else pytest.fail("it was read"))
    with contextlib.closing(create_app(Settings(db=str(tmp_path / "test.db"), geoip=""), clock=clock)) as app:
        app.setup("owner", "correct horse battery", "example.com")
        tell_a_story(app, clock)
        app.run_jobs()
        states = {state for _, state in sealed(app)}
        assert 4 in states
        for dimension in ([], ["time:day"], ["visit:source"], ["event:page"]):
            for period in (["2025-10-29", "2025-11-06"], ["2025-11-01", "2025-11-01"], ["2025-11-07", "2025-11-08"]):
                assert_same(app, {"metrics": ["visitors", "visits"], "dimensions": dimension, "date_range": period})
        clock.advance(60)
        assert seal(app) == 0


@pytest.mark.parametrize("direction", ["desc", "asc"])
@pytest.mark.parametrize("metric", ["visitors", "pageviews", "bounce_rate", "visit_duration", "percentage"])
def test_the_first_of_many_rows_are_those_of_all_rows(tmp_path, metric, direction):
    with contextlib.closing(create_app(Settings(db=str(tmp_path / "test.db"), geoip=""), clock=MovableClock())) as app:
        fill_demo(app, "example.com", 1_500, 30, 5, paths=300)
        app.run_jobs()
        body = {"site_id": "example.com", "metrics": [metric, "visits", "percentage"] if metric != "percentage" else ["visits", metric], "date_range": "28d",
                "dimensions": ["event:page"], "order_by": [[metric, direction]], "include": {"total_rows": True}}
        with app.store.snapshot() as db:
            site = get_site(db, app.settings, "example.com")
            whole = run_query(db, site, body, app.clock())
            assert len(whole["results"]) > 100
            for limit, offset in ((1, 0), (9, 0), (9, 9), (20, 3), (100, 0)):
                page = run_query(db, site, {**body, "pagination": {"limit": limit, "offset": offset}}, app.clock())
                assert page["results"] == whole["results"][offset:offset + limit]
                assert page["meta"] == whole["meta"]


def test_months_are_added_up_too(tmp_path):
    clock = MovableClock(1_772_452_800)
    with contextlib.closing(create_app(Settings(db=str(tmp_path / "test.db"), geoip=""), clock=clock)) as app:
        fill_demo(app, "example.com", 4_000, 100, 5)
        app.run_jobs()
        seal(app)  # as long as it takes: a job leaves the rest for the next time
        assert app.store.reader().execute("select count(distinct day) from rollups where days > 1").fetchone()[0] == 3
        for dimension in ([], *([name] for name in DIMENSIONS)):
            for period in ("6mo", "12mo", ["2025-11-25", "2026-02-20"], ["2025-12-31", "2026-02-28"]):
                assert_same(app, {"metrics": ["visitors", "visits", "pageviews", "bounce_rate", "visit_duration"], "dimensions": dimension, "date_range": period})


# ---- goals -----------------------------------------------------------------------------------------------------------

GOALS = {
    "Page": {"kind": "page", "value": "/a"}, "Start": {"kind": "page", "match": "starts_with", "value": "/a"}, "All": {"kind": "page", "match": "wildcard", "value": "/**"},
    "Event": {"kind": "event", "value": "signup"}, "None": {"kind": "event", "value": "never"},
    "Of Chrome": {"kind": "event", "value": "download", "filters": [["is", "visit:browser", ["Chrome"]]]},
    "Read": {"kind": "scroll", "match": "starts_with", "value": "/", "at_least": 50}, "Stayed": {"kind": "time", "match": "contains", "value": "a", "at_least": 20},
    "Back": {"kind": "page", "value": "/b", "filters": [["has_done", ["is", "event:name", ["signup"]]]]},
}


def name_goals(app, goals=GOALS):
    site = get_site(app.store.reader(), app.settings, "example.com")
    return {name: save_named(app.store, "goals", site, None, {"name": name, **goal}) for name, goal in goals.items()}


def noted(app):
    """How many goals are noted of each day."""
    return dict(app.store.reader().execute("select day, count(*) from rollups where dimension = ? and seam = 0 group by day", (GOAL_PLACE,)))


def ask_of_goals(app, body):
    with app.store.snapshot() as db:
        site = get_site(db, app.settings, "example.com")
        (answer,), _ = run_queries(db, site, [{"site_id": "example.com", "date_range": ["2025-10-29", "2025-11-06"], **body}], app.clock(),
                                   definitions=read_definitions(db, site.id, None))
        return answer["results"]


def assert_goals_same(app, body):
    with counting_hits():
        counted = ask_of_goals(app, body)
    assert ask_of_goals(app, body) == counted
    return counted


@pytest.fixture(scope="module")
def goals(told):
    name_goals(told)
    seal(told)
    return told


GOAL_QUESTIONS = [
    {"metrics": ["visitors", "visits", "events", "conversion_rate"], "dimensions": ["event:goal"]},
    {"metrics": ["events", "visitors", "bounce_rate", "visit_duration", "exit_rate"], "dimensions": ["event:goal"]},
    *({"metrics": ["visitors", "events"], "dimensions": ["event:goal", time]} for time in ("time:day", "time:week", "time:month", "time:hour_of_week")),
    {"metrics": ["visitors", "events", "conversion_rate"], "dimensions": ["event:goal"], "filters": [["is", "visit:os", ["iOS"]]]},
    {"metrics": ["visitors", "group_conversion_rate"], "dimensions": ["visit:source", "event:goal"]},
    *({"metrics": ["visitors", "pageviews", "bounce_rate", "visit_duration", "conversion_rate"], "filters": [["is", "event:goal", [name]]]} for name in GOALS),
    *({"metrics": ["visitors", "pageviews", "bounce_rate"], "dimensions": ["time:day"], "filters": [["is", "event:goal", [name]]]} for name in ("Page", "Event", "Read")),
    {"metrics": ["visitors"], "filters": [["is", "event:goal", ["Page", "Event"]]]},
    {"metrics": ["visitors"], "filters": [["is_not", "event:goal", ["Start"]]]},
]


@pytest.mark.parametrize("body", GOAL_QUESTIONS)
def test_goals_that_are_noted_say_what_counting_hits_says(goals, body):
    assert set(noted(goals).values()) == {len(GOALS) - 1}  # "Back" looks at all of a period
    for period in (["2025-10-29", "2025-11-06"], ["2025-11-01", "2025-11-02"], ["2025-11-03", "2025-11-03"], ["2025-10-20", "2025-11-20"]):
        for include in ({}, {"comparisons": {"mode": "previous_period"}}):
            assert_goals_same(goals, {**body, "date_range": period, "include": include})


def test_goals_are_reached_over_midnight_in_the_story(goals):
    """Else nothing would be told by the tests above about seams."""
    seams = goals.store.reader().execute("select count(*) from rollups where dimension = ? and seam = 1 and visitors < 0", (GOAL_PLACE,)).fetchone()[0]
    assert seams > len(GOALS)


@pytest.mark.parametrize("body", [GOAL_QUESTIONS[0], GOAL_QUESTIONS[2], {"metrics": ["visitors"], "filters": [["is", "event:goal", ["Read"]]]}])
def test_what_is_noted_of_goals_is_not_looked_for_again(goals, body):
    with statements(goals) as seen:
        assert ask_of_goals(goals, body)
    assert not [sql for sql in reads_hits(seen) if "h.visit_id in" not in sql]  # which only "Back" asks for
    assert seen and not [sql for sql in seen if " columns" in sql]


@pytest.mark.parametrize("body", GOAL_QUESTIONS[:5])
def test_goals_of_which_only_some_days_are_noted(goals, body):
    days = sorted(noted(goals))
    goals.store.transact(lambda db: db.execute("delete from rollups where dimension = ? and day % 3 = ?", (GOAL_PLACE, days[0] % 3)))
    try:
        assert_goals_same(goals, body)
    finally:
        seal(goals)
    assert sorted(noted(goals)) == days


def test_a_goal_that_changes_is_counted_as_it_is_now(tmp_path, clock):
    with contextlib.closing(create_app(Settings(db=str(tmp_path / "test.db"), geoip=""), clock=clock)) as app:
        app.setup("owner", "correct horse battery", "example.com")
        tell_a_story(app, clock, days=4)
        named = name_goals(app, {name: GOALS[name] for name in ("Page", "Event")})
        app.run_jobs()
        days = noted(app)
        assert set(days.values()) == {2}
        body = {"metrics": ["visitors", "events"], "dimensions": ["event:goal"]}
        before = ask_of_goals(app, body)
        site = get_site(app.store.reader(), app.settings, "example.com")
        save_named(app.store, "goals", site, None, {"value": "/b"}, find_named(app.store.reader(), "goals", named["Page"].id, None))
        for _ in range(2):
            after = assert_goals_same(app, body)
            assert after != before
            clock.advance(60)
            app.run_jobs()
            assert noted(app) == days  # what it was before is not kept


def test_a_day_that_is_opened_forgets_what_was_noted_of_goals(app, site, clock):
    name_goals(app, {"Home": {"kind": "page", "value": "/"}})
    site.send("/")
    clock.advance(DAY)
    site.send("/", ip="192.0.2.2")
    clock.advance(DAY)
    app.run_jobs()
    assert list(noted(app).values()) == [1, 1]
    clock.advance(-2 * DAY)
    site.send("/", ip="192.0.2.3")
    clock.advance(2 * DAY)
    for _ in range(2):
        assert assert_goals_same(app, {"metrics": ["visitors"], "dimensions": ["event:goal"], "date_range": "7d"})[0]["metrics"] == [3]
        clock.advance(60)
        app.run_jobs()
    assert list(noted(app).values()) == [1, 1]


def test_what_was_counted_of_goals_is_not_written_of_a_day_that_was_opened_meanwhile(app, site, clock, monkeypatch):
    name_goals(app, {"Home": {"kind": "page", "value": "/"}})
    site.send("/")
    clock.advance(2 * DAY)
    count = mininumbers._goal_rows

    def count_and_be_late(*arguments):
        found = count(*arguments)
        app.store.transact(lambda db: mininumbers.unseal(db, 1, arguments[2]))  # as a hit would
        return found
    monkeypatch.setattr(mininumbers, "_goal_rows", count_and_be_late)
    seal(app)
    assert noted(app) == {}


def test_goals_that_take_too_long_to_be_noted_hold_up_no_other_job_and_are_counted_when_asked_for(app, site, clock, monkeypatch, caplog):
    name_goals(app, {"Slow": {"kind": "page", "match": "matches", "value": "^/a|^/b"}})
    site.send("/a"), site.send("/c")
    clock.advance(2 * DAY)
    with monkeypatch.context() as patch:
        patch.setattr(mininumbers, "NOTE_SECONDS", 1e-9)
        app.run_jobs()
    assert noted(app) == {} and not caplog.records
    body = {"metrics": ["visitors", "events"], "dimensions": ["event:goal"], "date_range": "7d"}
    assert assert_goals_same(app, body)[0]["metrics"] == [1, 1]
    clock.advance(60)
    app.run_jobs()
    assert set(noted(app).values()) == {1}


# ---- when days are sealed, and opened --------------------------------------------------------------------------------

def test_a_day_is_sealed_when_its_last_visit_is_over(app, site, clock):
    clock.set(clock.now - clock.now % DAY + DAY - 600)
    site.send("/")
    clock.advance(1200)
    site.send("/over-midnight")
    clock.advance(1500)
    app.run_jobs()
    assert sealed(app) == []
    clock.advance(400)
    app.run_jobs()
    assert len(sealed(app)) == 1
    assert site.numbers("visits", "pageviews", date_range=["2026-03-02", "2026-03-03"]) == [1, 2]


def test_the_day_of_a_visit_in_progress_stays_open_however_long_it_lasts(app, site, clock):
    clock.set(clock.now - clock.now % DAY + DAY - 600)
    site.send("/")
    for _ in range(5):
        clock.advance(1700)
        site.send("/", "engagement", e=1000)
        app.run_jobs()
        assert sealed(app) == []
    clock.advance(1801)
    app.run_jobs()
    assert len(sealed(app)) == 1


def test_what_comes_while_the_clock_is_set_back_is_counted(app, site, clock):
    site.send("/")
    clock.advance(DAY)
    site.send("/next", ip="192.0.2.2")
    clock.advance(DAY)
    app.run_jobs()
    assert len(sealed(app)) == 2
    clock.advance(-2 * DAY)
    site.send("/late", ip="192.0.2.3")
    assert sealed(app) == []
    clock.advance(2 * DAY)
    assert site.numbers("visitors", "pageviews", date_range="7d") == [3, 3]
    clock.advance(60)
    app.run_jobs()
    assert len(sealed(app)) == 2
    assert site.rows("visitors", dimensions=["time:day"], date_range=["2026-03-02", "2026-03-03"]) == [("2026-03-02", 2), ("2026-03-03", 1)]


def test_a_hit_that_comes_while_its_day_is_read_leaves_the_day_open(app, site, clock, monkeypatch):
    site.send("/")
    app.run_jobs()  # now, not in between
    clock.advance(DAY)
    read = mininumbers.read_day

    def read_and_be_late(*arguments):
        found = read(*arguments)
        clock.advance(-DAY)
        app.store.transact(lambda db: mininumbers.unseal(db, 1, local_date(clock(), arguments[1].zone).toordinal()))  # as a hit would
        clock.advance(DAY)
        return found
    mininumbers.settle_visits(app)
    monkeypatch.setattr(mininumbers, "read_day", read_and_be_late)
    assert seal(app) == 1
    assert sealed(app) == []
    monkeypatch.setattr(mininumbers, "read_day", read)
    assert seal(app) == 1
    assert len(sealed(app)) == 1


def test_many_days_are_sealed_bit_by_bit(tmp_path, monkeypatch):
    with contextlib.closing(create_app(Settings(db=str(tmp_path / "test.db"), geoip=""), clock=MovableClock())) as app:
        fill_demo(app, "example.com", 2_000, 70, 5)
        assert seal(app, seconds=-1) == 0
        now = iter(range(10_000))
        monkeypatch.setattr(mininumbers.time, "monotonic", lambda: next(now))
        assert 0 < seal(app, seconds=40) < 60
        monkeypatch.undo()
        first = len(sealed(app))
        assert first and first + seal(app) == len(sealed(app)) == 70
        assert app.store.reader().execute("select count(distinct day) from rollups where days > 1").fetchone()[0] == 2
        assert_same(app, {"metrics": ["visitors", "visits"], "dimensions": ["visit:source"], "date_range": "12mo"})


def test_another_time_zone_makes_other_days(app, site, clock):
    for _ in range(4):
        site.send("/")
        clock.advance(10 * 3600)
    clock.advance(2 * DAY)
    app.run_jobs()
    before = site.rows("visitors", dimensions=["time:day"], date_range="7d")
    app.set_site("example.com", timezone="Pacific/Auckland")
    assert sealed(app) == []
    at_once = site.rows("visitors", dimensions=["time:day"], date_range="7d")
    clock.advance(60)
    app.run_jobs()
    assert sealed(app)
    assert site.rows("visitors", dimensions=["time:day"], date_range="7d") == at_once != before


def test_retention_takes_the_sealed_days_along(app, site, clock):
    for number in range(6):
        site.send(f"/secret-{number}", ip=f"192.0.2.{number}")
        clock.advance(DAY)
    app.run_jobs()
    app.set_site("example.com", retention_days=3)
    clock.advance(6 * 3600)
    app.run_jobs()
    app.run_jobs()
    kept = local_date(clock(), get_site(app.store.reader(), app.settings, "example.com").zone).toordinal() - 3
    for table in ("days", "columns", "rollups"):
        days = {day for day, in app.store.reader().execute(f"select day from {table}")}
        assert days and min(days) >= kept, table
    assert site.numbers("visitors", date_range="7d") == 3
    with counting_hits():
        assert site.numbers("visitors", date_range=["2026-03-01", "2026-03-08"]) == 3


def test_a_removed_site_leaves_nothing_sealed(app, site, clock):
    site.send("/")
    clock.advance(2 * DAY)
    app.run_jobs()
    app.remove_site("example.com")
    for table in ("days", "columns", "rollups", "long_epochs"):
        assert app.store.reader().execute(f"select count(*) from {table}").fetchone() == (0,), table


def test_rollup_rebuild_knows_still_which_days_share_visitors(app, site, clock):
    app.set_site("example.com", rotation_hours=168)
    for _ in range(2):
        site.send("/")
        clock.advance(3 * DAY)
    app.run_jobs()
    assert site.numbers("visitors", date_range="7d") == 1
    mininumbers.rebuild_rollups(app)
    assert {state for _, state in sealed(app)} == {2}
    clock.advance(60)
    assert site.numbers("visitors", date_range="7d") == 1


def test_rollup_rebuild_makes_the_same_again(tmp_path):
    db = tmp_path / "test.db"
    assert run_command("demo", "--db", db, "--pageviews", "2000", "--days", "50").returncode == 0

    def dump():
        with contextlib.closing(sqlite3.connect(db)) as connection:
            return [connection.execute(f"select * from {table}").fetchall() for table in ("columns", "rollups")] + [
                connection.execute("select site_id, day, state, wide from days").fetchall()]
    made = dump()
    assert all(made)
    with contextlib.closing(sqlite3.connect(db)) as connection, connection:
        connection.execute("update rollups set visitors = 0")
        connection.execute("delete from columns where day % 2 = 0")
    ended = run_command("rollup", "--rebuild", "--db", db)
    assert (ended.returncode, ended.stdout) == (0, f"Sealed {len(made[2])} days.\n")  # 50, or right after midnight one less
    assert dump() == made
    assert run_command("rollup", "--db", db).stdout == "Sealed 0 days.\n"
    assert run_command("check", "--db", db).stdout == "ok\n"


# ---- columns ---------------------------------------------------------------------------------------------------------

@given(st.dictionaries(st.sampled_from(["client_id", "visitor", "duration", "page", "page/pageviews"]),
                       st.lists(st.integers(0, 2 ** 62), max_size=30), min_size=1))
def test_columns_come_back_as_they_were(columns):
    block = Block.unpack(Block(columns).pack())
    assert {name: list(block[name]) for name in columns} == columns


@given(st.lists(st.integers(0, 70_000), max_size=40), st.lists(st.integers(0, 70_000), max_size=40), st.sampled_from([1, 3, 300, 70_000]))
def test_numbers_are_found_in_packed_columns_as_in_others(numbers, wanted, most):
    numbers, wanted = [number % most for number in numbers], [number % most for number in wanted] + numbers[:1]
    block = Block({"page": numbers})
    found = int.from_bytes(bytes(number in wanted for number in numbers), "little")
    assert Block.unpack(block.pack()).among("page", Wanted(wanted)) == block.among("page", Wanted(wanted)) == found


def test_columns_hold_no_visitor(told):
    """Only how visitors of a day go together: who they are is not in the cache."""
    db = told.store.reader()
    for data, in db.execute("select data from columns where part < 2"):
        block = Block.unpack(data)
        assert "visitor" not in block or max(block["visitor"]) < len(block)


# ---- kept answers ----------------------------------------------------------------------------------------------------

def test_an_answer_is_kept_until_something_is_written(app, site, clock, monkeypatch):
    made = []
    original = mininumbers.run_queries
    monkeypatch.setattr(mininumbers, "run_queries", lambda *arguments: made.append(1) or original(*arguments))
    site.send("/")
    app.run_jobs()  # now, not in between
    site.web.get("/api/sites", headers={"Authorization": f"Bearer {site.token}"})
    app.store.probe()  # behind what is noted of the token's first use
    assert [site.numbers("visitors"), site.numbers("visitors"), len(made)] == [1, 1, 1]
    site.send("/", ip="192.0.2.2")
    assert [site.numbers("visitors"), len(made)] == [2, 2]
    clock.advance(31)
    assert [site.numbers("visitors"), len(made)] == [2, 3]


def test_an_answer_about_sealed_days_outlives_new_hits_but_not_old_ones(app, site, clock, monkeypatch):
    made = []
    original = mininumbers.run_queries
    monkeypatch.setattr(mininumbers, "run_queries", lambda *arguments: made.append(1) or original(*arguments))
    site.send("/")
    clock.advance(DAY)
    app.run_jobs()
    assert [site.numbers("visitors", date_range="7d"), len(made)] == [1, 1]
    site.send("/", ip="192.0.2.2")
    assert [site.numbers("visitors", date_range="7d"), len(made)] == [1, 1]
    clock.advance(-DAY)
    site.send("/", ip="192.0.2.3")
    clock.advance(DAY)
    assert [site.numbers("visitors", date_range="7d"), len(made)] == [2, 2]


def test_answers_of_one_site_are_not_those_of_another(app, site, clock):
    app.add_site("example.org")
    other = Site(app, "example.org")
    site.send("/")
    assert [site.numbers("visitors"), other.numbers("visitors"), site.numbers("visitors")] == [1, 0, 1]


def test_kept_answers_are_bounded(app, site):
    for number in range(app.answers.KEPT + 20):
        site.numbers("visitors", pagination={"limit": number + 1})
    assert len(app.answers._kept) == app.answers.KEPT


def test_too_many_reports_at_once_are_refused_in_words(app, site):
    site.send("/")
    for _ in range(app.answers.AT_ONCE + app.answers.WAITING):
        assert app.answers._door.acquire(blocking=False)
    answer = site.web.post_json("/api/v2/query", {"site_id": "example.com", "metrics": ["visitors"], "date_range": "day"},
                                headers={"Authorization": f"Bearer {site.token}"}, status=503)
    assert answer.headers["Retry-After"] == "1" and answer.json["code"] == "busy"
    for _ in range(app.answers.AT_ONCE + app.answers.WAITING):
        app.answers._door.release()
    assert site.numbers("visitors") == 1


def test_a_report_that_takes_too_long_is_given_up_in_words(app, site, clock, monkeypatch):
    site.send("/")
    monkeypatch.setattr(mininumbers, "REPORT_SECONDS", -1)
    answer = site.web.post_json("/api/v2/query", {"site_id": "example.com", "metrics": ["visitors"], "date_range": "7d", "filters": [
        ["is", "event:page", ["/"]]], "dimensions": ["time:day"]}, headers={"Authorization": f"Bearer {site.token}"}, expect_errors=True)
    clock.advance(DAY)
    slow = site.web.post_json("/api/v2/query", {"site_id": "example.com", "metrics": ["visitors"], "date_range": "7d"},
                              headers={"Authorization": f"Bearer {site.token}"}, status=503)
    assert answer.status_int in (200, 503) and "takes longer than" in slow.json["error"]


# ---- several questions at once ---------------------------------------------------------------------------------------

def test_questions_asked_together_are_answered_as_if_alone(told):
    site = Site(told)
    bodies = [{"site_id": "example.com", "metrics": ["visitors", "visits"], "date_range": ["2025-10-29", "2025-11-06"], "dimensions": dimensions,
               "filters": filters, "include": {"comparisons": {"mode": "previous_period"}}}
              for dimensions in ([], ["time:day"], ["visit:source"], ["event:page"], ["event:props:plan"]) for filters in ([], [["is", "visit:browser", ["Chrome"]]])]
    headers = {"Authorization": f"Bearer {site.token}"}
    together = site.web.post_json("/api/v2/queries", {"queries": bodies}, headers=headers)
    assert together.json["answers"] == [site.web.post_json("/api/v2/query", body, headers=headers).json for body in bodies]
    site.web.post_json("/api/v2/queries", {"queries": bodies}, headers={**headers, "If-None-Match": together.headers["ETag"]}, status=304)


@pytest.mark.parametrize("body", [{}, {"queries": []}, {"queries": {}}, {"queries": [1]}, {"queries": [{}]}, {"queries": [{"site_id": "example.com"}] * 51},
                                  {"queries": [{"site_id": "example.com"}], "more": 1}, {"queries": [{"site_id": "example.com"}, {"site_id": "other.example"}]},
                                  {"queries": [{"site_id": "example.com", "metrics": ["visitors"], "date_range": "never"}]}])
def test_questions_that_cannot_be_asked_together_are_refused(site, body):
    answer = site.web.post_json("/api/v2/queries", body, headers={"Authorization": f"Bearer {site.token}"}, expect_errors=True)
    assert answer.status_int in (400, 404) and answer.json["error"]


def test_the_demo_is_made_once(app, site):
    token = app.create_token("writer", read_only=False)
    headers = {"Authorization": f"Bearer {token}"}
    assert site.web.post_json("/api/demo", {}, headers={"Authorization": f"Bearer {site.token}"}, status=403).json["code"] == "forbidden"
    assert site.web.post_json("/api/demo", {}, headers=headers).json == {"site": "demo.example", "pageviews": 100_000}
    assert "has data" in site.web.post_json("/api/demo", {}, headers=headers, status=400).json["error"]
