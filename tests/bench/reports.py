"""How long a dashboard with all its panels takes: `python tests/bench/reports.py`.

Made-up data of a year, the real server, one request for all panels, each at its first tab, or with --every-tab at all 13. "First" is the first request of that kind after the server's
start, "fresh" the median of further ones that differ so that no kept answer serves them, "kept" the same question again.
Beside filtered ones stands what the usual way takes in the same run: one SQL group-by with count(distinct) for each panel.
"""
import contextlib
import datetime
import sqlite3
import sys
import time

import common

FILTERS = {
    "unfiltered": [],
    "one country of many": [["is", "visit:country", ["CH"]]],
    "the largest country": [["is", "visit:country", ["US"]]],
    "one page": [["is", "event:page", ["/pricing"]]],
    "half of all visits": [["is", "visit:device", ["Desktop"]]],
}


def naive(db, period, filters, options):
    """Return the seconds that a group-by for each panel takes, over the days of an answer."""
    low, high = (int(datetime.datetime.fromisoformat(each).timestamp()) + more << 16 for each, more in zip(period, (0, 1)))
    (_, dimension, (value,)), = filters
    began = time.perf_counter()
    with contextlib.closing(sqlite3.connect(db)) as connection:
        for panel in options.panels:
            connection.execute(f"""
                select {column_of(panel)}, count(distinct v.visitor) from hits h join visits v on v.site_id = h.site_id and v.id = h.visit_id
                join clients c on c.id = v.client_id join origins o on o.id = v.origin_id
                where h.site_id = 1 and h.id >= {low} and h.id < {high} and {column_of(dimension)} = (select id from texts where text = ?)
                group by 1""", (value,)).fetchall()
    return time.perf_counter() - began


def column_of(dimension):
    name = dimension.partition(":")[2]
    return f"h.{name}" if dimension == "event:page" else f"v.{name}" if name.endswith("_page") else \
        f"c.{name}" if name in ("country", "language", "device", "browser", "os", "screen") else f"o.{name}"


def measure(server, db, period, name, options):
    dashboards = common.fresh_dashboards(period, FILTERS[name], options.panels)
    answers, first = server.ask(next(dashboards))
    fresh = common.median_of(options.times, lambda: server.ask(next(dashboards))[1])
    question = next(dashboards)
    server.ask(question)
    kept = common.median_of(options.times, lambda: server.ask(question)[1])
    usual = naive(db, answers[0]["query"]["date_range"], FILTERS[name], options) if FILTERS[name] and not options.no_naive else None
    return {"visitors": answers[0]["results"][0]["metrics"][0], "first_ms": first * 1000, "fresh_ms": fresh * 1000, "kept_ms": kept * 1000,
            "group_by_ms": usual and usual * 1000}


def main():
    parser = common.parser(__doc__)
    parser.add_argument("--times", type=int, default=5, help="requests for each median (default %(default)s)")
    parser.add_argument("--wide", type=int, default=1_000_000, metavar="N", help="pageviews of the database with 200,000 paths; 0 leaves it out")
    parser.add_argument("--no-naive", action="store_true", help="leave out the group-bys, which take minutes at ten million")
    parser.add_argument("--every-tab", dest="panels", action="store_const", const=common.EVERY, default=common.OPEN, help="ask for all tabs")
    options = parser.parse_args()
    sizes = [(int(size), 300) for size in options.pageviews.split(",")] + ([(options.wide, 200_000)] if options.wide else [])
    results = []
    with common.folder_of(options) as folder:
        for pageviews, paths in sizes:
            db, _ = common.database(folder, pageviews, paths)
            with common.Server(db) as server:
                print(f"\n{pageviews:,} pageviews, {paths:,} paths; started in {server.started_in:.2f} s\n")
                rows = [("", "visitors", "first ms", "fresh ms", "kept ms", "group-by ms", "ratio")]
                for period in ("30d", "12mo"):
                    for name in FILTERS:
                        each = measure(server, db, period, name, options)
                        results.append({"pageviews": pageviews, "paths": paths, "period": period, "filter": name, **each})
                        usual = each["group_by_ms"]
                        rows.append((f"{period}, {name}", each["visitors"], *(f"{each[key]:.0f}" for key in ("first_ms", "fresh_ms", "kept_ms")),
                                     f"{usual:.0f}" if usual else "", f"{usual / each['fresh_ms']:.0f}" if usual else ""))
                common.table(rows)
                print(f"memory {server.memory():.0f} MB, {server.memory('VmHWM'):.0f} at its highest", flush=True)
    common.write(options, results)


if __name__ == "__main__":
    sys.exit(main())
