"""How long journeys and retention take: `python tests/bench/ways.py`.

Made-up data of a year on a site whose visitors are recognised for 30 days, the real server, every question asked for the first time.
"""
import sys

import common

ROTATION = 720  # hours
QUESTIONS = {
    "what half of all visits did next": ("api/journeys", {"start": ["is", "event:page", ["/"]]}),
    "after a common page": ("api/journeys", {"start": ["is", "event:page", ["/pricing"]]}),
    "before it, ten steps": ("api/journeys", {"start": ["is", "event:page", ["/pricing"]], "direction": "previous", "steps": 10}),
    "after it, of one country": ("api/journeys", {"start": ["is", "event:page", ["/pricing"]], "filters": [["is", "visit:country", ["US"]]]}),
    "before a rare event": ("api/journeys", {"start": ["is", "event:name", ["signup"]], "direction": "previous"}),
    "cohorts by day": ("api/retention", {"interval": "day"}),
    "cohorts by week, of one country": ("api/retention", {"interval": "week", "filters": [["is", "visit:country", ["US"]]]}),
}


def database(folder, pageviews):
    """Return a database of the site, made if it is not there."""
    path = folder / f"ways-{pageviews}.db"
    if not path.exists():
        common.run("site", "add", "--db", path, common.SITE, "--rotation-hours", ROTATION)
        common.run("demo", "--db", path, "--pageviews", pageviews)
    return path


def size_of(answer):
    """Return how many visits or visitors an answer is about."""
    return answer["visits"] if "visits" in answer else sum(cohort["visitors"] for cohort in answer["cohorts"])


def main():
    parser = common.parser(__doc__)
    options = parser.parse_args()
    results = []
    with common.folder_of(options) as folder:
        for pageviews in map(int, options.pageviews.split(",")):
            with common.Server(database(folder, pageviews)) as server:
                print(f"\n{pageviews:,} pageviews\n")
                rows = [("", "visits or visitors", "ms")]
                for period in ("30d", "12mo"):
                    for name, (path, body) in QUESTIONS.items():
                        answer, seconds = server.post(path, {"site_id": common.SITE, "date_range": period, **body})
                        results.append({"pageviews": pageviews, "period": period, "question": name, "of": size_of(answer), "ms": seconds * 1000})
                        rows.append((f"{period}, {name}", f"{size_of(answer):,}", f"{seconds * 1000:.0f}"))
                common.table(rows)
                print(f"memory {server.memory():.0f} MB, {server.memory('VmHWM'):.0f} at its highest", flush=True)
    common.write(options, results)


if __name__ == "__main__":
    sys.exit(main())
