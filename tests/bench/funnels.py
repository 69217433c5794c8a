"""How long funnels of five steps take: `python tests/bench/funnels.py`.

Made-up data of a year, the real server. "First" is the first request of that kind after the server's start, "fresh" the median of
further ones that differ so that no kept answer serves them, and CPU the seconds of a processor that the server spent on one of these.
"""
import os
import pathlib
import sys

import common


def step(operator, dimension, value, *more):
    return {"filters": [[operator, dimension, [value]], *more]}


WAY = [step("is", "event:page", page) for page in ("/", "/features", "/pricing", "/signup")] + [step("is", "event:name", "signup")]
KINDS = {
    "in a visit": {"steps": WAY},
    "strict": {"steps": WAY, "order": "strict"},
    "within a week": {"steps": WAY, "window": 7 * 86_400},
    "of one country": {"steps": WAY, "filters": [["is", "visit:country", ["US"]]]},
    "without a page": {"steps": WAY, "filters": [["is_not", "event:page", ["/docs"]]]},
    "compared": {"steps": WAY, "include": {"comparisons": {"mode": "previous_period"}}},
    "every hit passes every step": {"steps": [step("contains", "event:page", "/")] * 5},
    "with a property (reads hits)": {"steps": [*WAY[:4], step("is", "event:name", "purchase", ["is_not", "event:props:plan", ["free"]])]},
}


def processor_seconds(server):
    fields = pathlib.Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(server, period, kind, times):
    def ask(number):
        named = [{"name": f"{place} {number}", **each} for place, each in enumerate(KINDS[kind]["steps"])]
        return server.post("api/funnels/report", {"site_id": common.SITE, "date_range": period, **KINDS[kind], "steps": named})
    answer, first = ask(0)
    numbers, before = iter(range(1, times + 1)), processor_seconds(server)
    fresh = common.median_of(times, lambda: ask(next(numbers))[1])
    return {"visitors": answer["visitors"], "reached": [each["visitors"] for each in answer["steps"]], "first_ms": first * 1000, "fresh_ms": fresh * 1000,
            "cpu_ms": (processor_seconds(server) - before) / times * 1000}


def main():
    parser = common.parser(__doc__, pageviews="10000000")
    parser.add_argument("--times", type=int, default=5, help="requests for each median (default %(default)s)")
    parser.add_argument("--periods", default="30d,12mo", help="(default %(default)s)")
    options = parser.parse_args()
    results = []
    with common.folder_of(options) as folder:
        for pageviews in map(int, options.pageviews.split(",")):
            db, _ = common.database(folder, pageviews)
            with common.Server(db) as server:
                rows = [(f"{pageviews:,} pageviews", "visitors", "first step", "last step", "first ms", "fresh ms", "CPU ms")]
                for period in options.periods.split(","):
                    for kind in KINDS:
                        each = measure(server, period, kind, options.times)
                        results.append({"pageviews": pageviews, "period": period, "kind": kind, **each})
                        rows.append((f"{period}, {kind}", each["visitors"], each["reached"][0], each["reached"][-1],
                                     *(f"{each[key]:.0f}" for key in ("first_ms", "fresh_ms", "cpu_ms"))))
                common.table(rows)
                print(f"memory {server.memory():.0f} MB, {server.memory('VmHWM'):.0f} at its highest", flush=True)
    common.write(options, results)


if __name__ == "__main__":
    sys.exit(main())
