"""How many hits a second the server acknowledges, each synced to the disk: `python tests/bench/ingest.py`.

The real server, real sockets, a client in a process of its own. In turns it asks an empty endpoint (GET /tracker.js, answered from
memory: all the way through waitress, proxies, router and guard, and no work at the end) and posts events, so that the ratio of the
two is of one machine at one time. Then again with slower commits, and beside a thread that never rests. Afterwards every hit that
was acknowledged must be in the database. Medians of the rounds; latencies in milliseconds.
"""
import argparse
import collections
import concurrent.futures
import contextlib
import itertools
import json
import multiprocessing
import pathlib
import random
import re
import selectors
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
PROGRAM = HERE.parents[1] / "mininumbers.py"
DOMAIN = "example.com"
REQUESTS = 8_000  # different ones, sent over and over
VISITORS = 300  # on the site at a time
PATIENCE = 30  # seconds without any answer after which the benchmark gives up

AGENTS = [agent.format(version, version) for version in range(112, 132) for agent in (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{}.0.0.0 Safari/537.36",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{}.0.0.0 Safari/537.36",
    "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{}.0.0.0 Mobile Safari/537.36",
    "Mozilla/5.0 (X11; Linux x86_64; rv:{}.0) Gecko/20100101 Firefox/{}.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:{}.0) Gecko/20100101 Firefox/{}.0")]
REFERRERS = ["", "", "", "https://www.google.com/", "https://duckduckgo.com/", "https://t.co/x1", "https://chatgpt.com/",
             "https://news.ycombinator.com/item?id=1", "https://www.reddit.com/r/selfhosted/",
             *(f"https://blog{number}.example.net/post" for number in range(30))]
WIDTHS = (390, 820, 1366, 1920)
QUERIES = [""] * 12 + ["?utm_source=newsletter&utm_medium=email&utm_campaign=may", "?gclid=abc", "?ref=producthunt", "?page=2&sort=new"]


# ---- client ----------------------------------------------------------------------------------------------------------

def hits(seed):
    """Return the requests of many visitors, a few hundred at a time on the site; one looks at three pages on average."""
    chance, present, requests = random.Random(seed), [], []
    while len(requests) < REQUESTS:
        if len(present) < VISITORS:
            address = ".".join(str(chance.randint(1, 223)) for _ in range(4))
            present.append((address, *map(chance.choice, (AGENTS, REFERRERS, QUERIES, WIDTHS))))
            address, agent, referrer, query, width = present[-1]
        else:
            address, agent, _, _, width = present[chance.randrange(VISITORS)]
            referrer, query = f"https://{DOMAIN}/", ""
        page = f"https://{DOMAIN}/section-{int(chance.paretovariate(1)) % 40}/article-{int(chance.paretovariate(0.6)) % 2000}"
        body = {"n": "pageview", "u": page + query, "d": DOMAIN, "r": referrer, "w": width}
        if chance.random() < 0.05:
            body |= {"n": "Signup", "p": {"plan": chance.choice(("free", "pro"))}}
        requests.append(request("POST /api/event", address, agent, json.dumps(body).encode()))
        if len(present) == VISITORS and chance.random() < 1 / 3:  # a visitor leaves, and so another comes
            present.pop(chance.randrange(VISITORS))
    return requests


def request(target, address, agent, body=b""):
    """Return a request as a reverse proxy passes it on."""
    about_body = f"Content-Type: text/plain\r\nContent-Length: {len(body)}\r\n" if body else ""
    return (f"{target} HTTP/1.1\r\nHost: stats.{DOMAIN}\r\nX-Forwarded-For: {address}\r\nUser-Agent: {agent}\r\n"
            f"Accept-Language: en-GB,en;q=0.9\r\n{about_body}\r\n").encode() + body


class Connection:
    """A keep-alive connection with one request under way."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = b""
        self.sent_at = 0.0

    def send(self, request):
        self.sent_at = time.perf_counter()
        self.socket.sendall(request)

    def receive(self):
        """Return the status of an answer that is whole, or None while some is to come."""
        chunk = self.socket.recv(65_536)
        if not chunk:
            raise RuntimeError(f"the server closed a connection after {self.received[:200]!r}")
        self.received += chunk
        head, _, body = self.received.partition(b"\r\n\r\n")
        length = re.search(rb"\r\nContent-Length: (\d+)", head)
        if not length or len(body) < int(length[1]):
            return None
        self.received = b""
        return int(head[9:12])


def load(port, seconds, connections, requests):
    """Keep that many requests under way for a while; return ([latency in seconds, …], {status: how many}, seconds it took)."""
    latencies, statuses, coming = [], collections.Counter(), itertools.cycle(requests)
    with selectors.DefaultSelector() as selector:
        idle = [Connection(port) for _ in range(connections)]
        began = time.perf_counter()
        for connection in idle:
            selector.register(connection.socket, selectors.EVENT_READ, connection)
            connection.send(next(coming))
        under_way, now = connections, began
        while under_way:
            ready = selector.select(PATIENCE)
            if not ready:
                raise RuntimeError(f"the server gave no answer for {PATIENCE} seconds")
            for connection in (key.data for key, _ in ready):
                if status := connection.receive():
                    now = time.perf_counter()
                    latencies.append(now - connection.sent_at)
                    statuses[status] += 1
                    if now - began < seconds:
                        connection.send(next(coming))
                    else:
                        under_way -= 1
    for connection in idle:
        connection.socket.close()
    return latencies, dict(statuses), now - began


def load_empty(port, seconds, connections, seed):
    return load(port, seconds, connections, [request("GET /tracker.js", "192.0.2.1", AGENTS[0])])


def load_hits(port, seconds, connections, seed):
    return load(port, seconds, connections, hits(seed))


# ---- server ----------------------------------------------------------------------------------------------------------

@contextlib.contextmanager
def serving(db, delay, busy):
    """Run a server; give its port."""
    command = [str(HERE / "slow_server.py"), str(delay), str(int(busy))] if delay or busy else [str(PROGRAM)]
    process = subprocess.Popen([sys.executable, *command, "serve", "--db", db, "--host", "127.0.0.1", "--port", "0",
                                # Counted like any, and never too many.
                                "--hits-per-address", "100000000", "--hits-per-site", "100000000"],
                               stdout=subprocess.PIPE, text=True)
    try:
        for line in process.stdout:
            if match := re.match(r"Open http://\S+:(\d+)/", line):
                yield int(match[1])
                break
        else:
            raise RuntimeError("the server did not start")
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()


def hits_in(db):
    with contextlib.closing(sqlite3.connect(db)) as connection:
        return connection.execute("select count(*) from hits").fetchone()[0]


# ---- measuring -------------------------------------------------------------------------------------------------------

def quantile(values, share):
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


def measure(client, folder, options, delay=0.0, busy=False):
    """Return the figures of one server: medians of the rounds, and whether every acknowledged hit was found again."""
    db = str(pathlib.Path(folder) / f"{delay}-{int(busy)}.db")
    subprocess.run([sys.executable, str(PROGRAM), "site", "add", DOMAIN, "--db", db], check=True)
    rounds, acknowledged = [], 0
    with serving(db, delay, busy) as port:
        for number in range(-1, options.rounds):  # the first fills caches and is not counted
            empty, _, empty_took = client.submit(load_empty, port, options.seconds, options.connections, number).result()
            latencies, statuses, took = client.submit(load_hits, port, options.seconds, options.connections, number).result()
            acknowledged += statuses.get(202, 0)
            if number >= 0:
                rounds.append({"hits_per_second": statuses.get(202, 0) / took, "empty_per_second": len(empty) / empty_took,
                               "ratio": statuses.get(202, 0) / took / (len(empty) / empty_took), "p50_ms": quantile(latencies, 0.5) * 1000,
                               "p99_ms": quantile(latencies, 0.99) * 1000, "empty_p99_ms": quantile(empty, 0.99) * 1000,
                               "refused": sum(statuses.values()) - statuses.get(202, 0)})
    figures = {name: round(statistics.median(each[name] for each in rounds), 3) for name in rounds[0]}
    return {"commit_delay_ms": delay, "busy_thread": busy, **figures, "acknowledged": acknowledged, "found": hits_in(db)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    parser.add_argument("--seconds", type=float, default=3, help="how long each turn takes (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each kind, after one to warm up (default %(default)s)")
    parser.add_argument("--connections", type=int, default=32, help="requests under way at once (default %(default)s)")
    parser.add_argument("--delays", default="0,2,5,20", help="milliseconds that each commit takes longer (default %(default)s)")
    parser.add_argument("--no-busy", action="store_true", help="leave out the server with a busy thread")
    parser.add_argument("--folder", help="where the databases go (default: the system's folder for temporary files)")
    options = parser.parse_args()
    cases = [(float(delay), False) for delay in options.delays.split(",")] + ([] if options.no_busy else [(0.0, True)])
    results = []
    print(f"{options.connections} connections, {options.rounds} rounds of {options.seconds:g} s\n")
    print("commit delay       hits/s  empty/s   ratio     p50     p99  empty p99  acknowledged      found", flush=True)
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as client:
        for delay, busy in cases:
            with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                results.append(each := measure(client, folder, options, delay, busy))
            name = "busy thread" if busy else f"{delay:g} ms"
            print(f"{name:<16} {each['hits_per_second']:8.0f} {each['empty_per_second']:8.0f} {each['ratio']:7.2f} {each['p50_ms']:7.1f} "
                  f"{each['p99_ms']:7.1f} {each['empty_p99_ms']:10.1f} {each['acknowledged']:13} {each['found']:10}", flush=True)
    if options.json:
        told = {"connections": options.connections, "seconds": options.seconds, "results": results}
        pathlib.Path(options.json).write_text(json.dumps(told, indent=2))
    return int(any(each["acknowledged"] > each["found"] for each in results))


if __name__ == "__main__":
    sys.exit(main())
