"""How much memory the server holds: idle, after dashboards, after hits: `python tests/bench/memory.py`."""
import sys

import common
import ingest


def main():
    parser = common.parser(__doc__)
    parser.add_argument("--seconds", type=float, default=10, help="how long hits are sent by 32 connections (default %(default)s)")
    options = parser.parse_args()
    results = []
    filters = ([], [["is", "visit:country", ["CH"]]], [["is", "visit:device", ["Desktop"]]], [["contains", "event:page", ["/"]]])
    with common.folder_of(options) as folder:
        for pageviews in map(int, options.pageviews.split(",")):
            source, _ = common.database(folder, pageviews)
            db = common.copy_of(source, folder)
            common.run("site", "add", ingest.DOMAIN, "--db", db)
            with common.Server(db) as server:
                found = {"idle": server.memory()}
                for period in ("30d", "12mo"):
                    for each in filters:
                        server.ask(common.dashboard(period, each))
                found["after dashboards"] = server.memory()
                ingest.load_hits(server.port, options.seconds, 32, 1)
                found["after hits"] = server.memory()
                found["highest"] = server.memory("VmHWM")
            db.unlink()
            results.append({"pageviews": pageviews, **found})
            print(f"{pageviews:,} pageviews: " + ", ".join(f"{name} {amount:.0f} MB" for name, amount in found.items()), flush=True)
    common.write(options, results)


if __name__ == "__main__":
    sys.exit(main())
