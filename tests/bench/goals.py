"""How long goals take beside the plain report of pages: `python tests/bench/goals.py`.

Made-up data of a year, the real server, five goals of pages and events (with --hits also two that look at each hit: scrolled and stayed).
What reached goals is noted day by day before it is measured, as the server does by itself within moments, and how long that took is told.
Every figure is the median of requests that differ so that no kept answer serves them; a ratio is to the report of pages under the same
filter in the same run.
"""
import itertools
import json
import sys
import time
import urllib.request

import common

GOALS = [{"name": "Prices", "kind": "page", "value": "/pricing"}, {"name": "Blog", "kind": "page", "match": "wildcard", "value": "/blog/**"},
         {"name": "Order", "kind": "page", "match": "starts_with", "value": "/checkout"}, {"name": "Sign-up", "kind": "event", "value": "signup"},
         {"name": "Purchase", "kind": "event", "value": "purchase"}]
OF_HITS = [{"name": "Read", "kind": "scroll", "match": "starts_with", "value": "/docs", "at_least": 75},
           {"name": "Stayed", "kind": "time", "match": "starts_with", "value": "/", "at_least": 30}]
FILTERS = {"unfiltered": [], "one country of many": [["is", "visit:country", ["CH"]]], "the largest country": [["is", "visit:country", ["US"]]]}
COMPARED = {"comparisons": {"mode": "previous_period"}}


def name_goals(db, goals):
    """Name goals by the API of a server of their own; return the seconds that noting what reached them took after it had ended."""
    token = common.run("token", "create", "--db", db, "--name", "goals").strip()
    with common.Server(db) as server:
        for goal in goals:
            request = urllib.request.Request(server.url + "api/goals", json.dumps({"site_id": common.SITE, **goal}).encode(),
                                             {"Authorization": f"Bearer {token}", "Content-Type": "application/json"})
            urllib.request.urlopen(request, timeout=common.PATIENCE).read()
    began = time.perf_counter()
    common.run("rollup", "--db", db)
    return time.perf_counter() - began


def report(period, filters, **more):
    """Return the questions of one report without end, each with another limit."""
    base = {"site_id": common.SITE, "date_range": period, "filters": filters, **more}
    return ([{**base, "pagination": {"limit": limit}}] for limit in itertools.count(50))


def of_goals(period, filters, include=None):
    return report(period, filters, metrics=["visitors", "events", "conversion_rate"], dimensions=["event:goal"], include=include or {})


def with_goals(period, filters):
    return map(sum, zip(common.fresh_dashboards(period, filters), of_goals(period, filters)), itertools.repeat([]))


def questions(period, filters):
    """Return what is measured by name; the report of pages comes first."""
    return {
        "pages": report(period, filters, metrics=["visitors", "events"], dimensions=["event:page"]),
        "goals": of_goals(period, filters),
        "goals compared": of_goals(period, filters, COMPARED),
        "goals by day": report(period, filters, metrics=["visitors", "events"], dimensions=["event:goal", "time:day"]),
        "dashboard": common.fresh_dashboards(period, filters),
        "dashboard and goals": with_goals(period, filters),
        "dashboard of a page goal": common.fresh_dashboards(period, [*filters, ["is", "event:goal", ["Prices"]]]),
        "dashboard of an event goal": common.fresh_dashboards(period, [*filters, ["is", "event:goal", ["Sign-up"]]]),
    }


def measure(server, period, name, times):
    """Return [{"period", "filter", "what", "ms", "ratio"}]."""
    found = []
    for what, asked in questions(period, FILTERS[name]).items():
        server.ask(next(asked))
        ms = 1000 * common.median_of(times, lambda: server.ask(next(asked))[1])
        found.append({"period": period, "filter": name, "what": what, "ms": ms, "ratio": ms / (found[0]["ms"] if found else ms)})
    return found


def main():
    parser = common.parser(__doc__)
    parser.add_argument("--times", type=int, default=5, help="requests for each median (default %(default)s)")
    parser.add_argument("--hits", action="store_true", help="two more goals, which only the hits can tell where there is a filter: takes minutes")
    options = parser.parse_args()
    results = []
    with common.folder_of(options) as folder:
        for pageviews in map(int, options.pageviews.split(",")):
            db = common.copy_of(common.database(folder, pageviews)[0], folder)
            goals = GOALS + OF_HITS * options.hits
            noting = name_goals(db, goals)
            with common.Server(db) as server:
                print(f"\n{pageviews:,} pageviews, {len(goals)} goals; what reached them was noted in {noting:.1f} s\n")
                rows = [("", "ms", "ratio")]
                for period, name in itertools.product(("30d", "12mo"), FILTERS):
                    found = measure(server, period, name, options.times)
                    results += [{"pageviews": pageviews, "goals": len(goals), "noted_s": noting, **each} for each in found]
                    rows += [(f"{period}, {name}, {each['what']}", f"{each['ms']:.0f}", f"{each['ratio']:.1f}") for each in found]
                common.table(rows)
                print(f"memory {server.memory():.0f} MB, {server.memory('VmHWM'):.0f} at its highest", flush=True)
    common.write(options, results)


if __name__ == "__main__":
    sys.exit(main())
