"""How collection fares beside other work: `python tests/bench/mixed.py`.

Four people reload a filtered dashboard of twelve months without pause, each another one; then the server purges a million
pageviews. Meanwhile hits come at a steady rate. Latencies in milliseconds.
"""
import concurrent.futures
import contextlib
import itertools
import multiprocessing
import sqlite3
import sys
import threading
import time

import common
import ingest

RELOADED = ([["is", "visit:country", ["CH"]]], [["is", "visit:device", ["Desktop"]]], [["is", "event:page", ["/pricing"]]], [["is", "visit:source", ["Google"]]])


def steady(port, seconds, rate, seed):
    """Send so many hits a second by 8 connections; return ([latency in s from when each was due], {status: how many})."""
    coming, lock, latencies, statuses = itertools.cycle(ingest.hits(seed)), threading.Lock(), [], {}
    began, numbers = time.perf_counter(), itertools.count()

    def send():
        connection = ingest.Connection(port)
        while (due := began + next(numbers) / rate) < began + seconds:
            time.sleep(max(0, due - time.perf_counter()))
            connection.send(next(coming))
            while not (status := connection.receive()):
                pass
            with lock:
                latencies.append(time.perf_counter() - due)
                statuses[status] = statuses.get(status, 0) + 1
        connection.socket.close()
    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return latencies, statuses


@contextlib.contextmanager
def reloading(server, counts):
    """Reload four dashboards without pause, and count the reloads."""
    stop = threading.Event()

    def reload(filters):
        for question in common.fresh_dashboards("12mo", filters):
            if stop.is_set():
                return
            server.ask(question)
            counts.append(1)
    threads = [threading.Thread(target=reload, args=(filters,)) for filters in RELOADED]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def row(name, latencies, statuses, note=""):
    figures = {"beside": name, "hits": len(latencies), "p50_ms": ingest.quantile(latencies, 0.5) * 1000, "p99_ms": ingest.quantile(latencies, 0.99) * 1000,
               "highest_ms": max(latencies) * 1000, "refused": sum(statuses.values()) - statuses.get(202, 0), "note": note}
    return figures, (name, figures["hits"], *(f"{figures[key]:.1f}" for key in ("p50_ms", "p99_ms", "highest_ms")), figures["refused"], note)


def pageviews_from(db, share):
    """Return after how many days, counted back from today, that share of the oldest pageviews begins to be too old."""
    with contextlib.closing(sqlite3.connect(db)) as connection:
        moment, = connection.execute("select id >> 16 from hits where site_id = 1 order by id limit 1 offset ?", (share,)).fetchone()
    return max(1, int((time.time() - moment) / 86_400))


def main():
    parser = common.parser(__doc__, pageviews="10000000")
    parser.add_argument("--seconds", type=float, default=30, help="how long each case takes (default %(default)s)")
    parser.add_argument("--rate", type=int, default=100, help="hits a second (default %(default)s)")
    parser.add_argument("--purged", type=int, default=1_000_000, help="pageviews to purge (default %(default)s)")
    options = parser.parse_args()
    results, rows = [], [("beside", "hits", "p50", "p99", "highest", "refused", "")]
    with common.folder_of(options) as folder, concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as client:
        for pageviews in map(int, options.pageviews.split(",")):
            source, _ = common.database(folder, pageviews)
            db = common.copy_of(source, folder)
            common.run("site", "add", ingest.DOMAIN, "--db", db)
            with common.Server(db) as server:
                client.submit(steady, server.port, 3, options.rate, 0).result()  # fills caches
                for name, work in (("nothing", lambda counts: contextlib.nullcontext()), ("four dashboards", lambda counts: reloading(server, counts))):
                    counts = []
                    with work(counts):
                        found = client.submit(steady, server.port, options.seconds, options.rate, 1).result()
                    each, printed = row(name, *found, f"{len(counts)} reloads" if counts else "")
                    results.append(each), rows.append(printed)
            common.run("site", "set", common.SITE, "--db", db, "--retention-days", pageviews_from(db, min(options.purged, pageviews // 2)))
            with common.Server(db) as server:  # purges right after its start
                found = client.submit(steady, server.port, options.seconds, options.rate, 2).result()
                with contextlib.closing(sqlite3.connect(db)) as connection:
                    left, = connection.execute("select count(*) from hits where site_id = 1").fetchone()
                each, printed = row("purge", *found, f"{left:,} hits left")
                results.append(each), rows.append(printed)
            db.unlink()
    common.table(rows)
    common.write(options, results)


if __name__ == "__main__":
    sys.exit(main())
