"""How SQLite answers: every report seeks its stretch of hits by their clustered key, and reads no other table from end to end."""
import re

import pytest

from mininumbers import Period, Report, Retention, Ways, get_site, read_journey, read_period, read_query

QUERIES = {
    "headline": {},
    "days": {"dimensions": ["time:day"]},
    "minutes": {"dimensions": ["time:minute"], "date_range": "day"},
    "pages": {"metrics": ["visitors", "time_on_page", "scroll_depth", "exit_rate"], "dimensions": ["event:page"]},
    "sources": {"dimensions": ["visit:source"], "filters": [["is", "visit:country", ["SE"]]]},
    "properties": {"dimensions": ["event:props:plan"], "filters": [["contains", "event:page", ["blog"]]]},
    "behaviour": {"filters": [["has_done", ["is", "event:name", ["signup"]]]]},
    "nested": {"dimensions": ["visit:browser", "time:hour"], "filters": [["or", [["is", "visit:os", ["Linux"]], ["not", ["matches", "event:page", ["^/a"]]]]]]},
}


@pytest.mark.parametrize("name", QUERIES)
def test_a_report_reads_only_the_hits_of_its_period(app, site, clock, name):
    site.send("/", p={"plan": "pro"})
    with app.store.snapshot() as db:
        its = get_site(db, app.settings, "example.com")
        query = read_query({"metrics": ["visitors", "bounce_rate"], "date_range": "28d", **QUERIES[name]})
        sql, values = Report(db, its, query, read_period(query.date_range, its.zone, clock(), lambda: None), clock())._sql()
        plan = [step[3] for step in db.execute(f"explain query plan {sql}", values)]
    hits = [step for step in plan if re.match(r"(?:SCAN|SEARCH) (?:TABLE \S+ AS )?h\b", step)]
    assert hits and all("USING PRIMARY KEY (site_id=? AND id>? AND id<?)" in step for step in hits), plan
    assert not [step for step in plan if re.match(r"SCAN (?:TABLE )?(?:v|c|o|p|visits|clients|origins|props)\b", step)], plan


FILTERS = [["is", "event:page", ["/"]], ["contains", "event:page", ["a", "b"]], ["is", "visit:country", ["SE"]], ["is", "event:props:plan", ["pro"]],
           ["has_done", ["is", "event:name", ["signup"]]], ["and", [["is", "event:name", ["pageview"]], ["not", ["is", "visit:os", ["Linux"]]]]]]


def plan_of(db, sql, values):
    """The steps of a plan, without those of tables made on the way, which are small or sought by an index of their own."""
    plan = [step[3].replace("TABLE ", "") for step in db.execute(f"explain query plan {sql}", values)]
    return plan, [step for step in plan if re.match(r"(?:SCAN|SEARCH) (?:\S+ AS )?[hvcops]\b", step)]


@pytest.mark.parametrize("direction", ["next", "previous"])
@pytest.mark.parametrize("start", FILTERS, ids=str)
def test_a_journey_seeks_the_visits_that_have_its_start(app, site, start, direction):
    site.send("/", p={"plan": "pro"})
    with app.store.snapshot() as db:
        its = get_site(db, app.settings, "example.com")
        for filters in ([], *([each] for each in FILTERS)):
            asked = read_journey({"date_range": "28d", "start": start, "direction": direction, "filters": filters})
            plan, steps = plan_of(db, *Ways(db, its, asked, Period(1_700_000_000, 1_800_000_000, its.zone))._sql())
            assert [step for step in steps if re.match(r"SEARCH (?:\S+ AS )?s USING AUTOMATIC", step)], plan
            assert not [step for step in steps if step.startswith("SCAN")], plan


@pytest.mark.parametrize("filters", [[], *([each] for each in FILTERS)], ids=str)
def test_retention_reads_visits_and_only_the_hits_it_must(app, site, filters):
    site.send("/", p={"plan": "pro"})
    with app.store.snapshot() as db:
        its = get_site(db, app.settings, "example.com")
        plan, steps = plan_of(db, *Retention(db, its, Period(1_700_000_000, 1_702_000_000, its.zone), "day", filters, 1_703_000_000)._sql())
    assert steps and not [step for step in steps if step.startswith("SCAN")], plan
