"""How SQLite answers: every report seeks its stretch of hits by their clustered key, and reads no other table from end to end."""
import re

import pytest

from mininumbers import Report, get_site, read_period, read_query

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
