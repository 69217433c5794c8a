"""Does a server that runs for long, and is pestered all the while, keep its memory, its hits and its temper?

    python tests/bench/soak.py [--minutes 10] [--rate 200] [--json FILE]

One real server gets a steady stream of requests, one in ten of them hostile, and now and then a look at the dashboard. Its memory is
read from /proc, so this needs Linux. Prints a line a minute and a verdict; ends with status 1 unless the memory is flat, every
acknowledged hit is there once, nothing hostile made the server fail (a 5xx other than 503), and `check` finds nothing wrong.

"Flat": the median of the resident memory over the last third of the run is less than 3 % above that over the middle third. The
first third fills what is remembered on purpose (texts, user agents, sites), all of it bounded.
"""
import argparse
import contextlib
import http.client
import json
import pathlib
import random
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from conftest import CHROME, PASSWORD, Server, ask, pages, run_command  # noqa: E402

CALLERS, HOSTILE_SHARE, LOOK_SHARE, SAMPLE_SECONDS, GROWTH = 12, 0.1, 0.005, 5, 0.03
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:{0}.0) Gecko/20100101 Firefox/{0}.0"
METRICS = ["visitors", "visits", "pageviews", "bounce_rate"]


# ---- what is sent ----------------------------------------------------------------------------------------------------

def event(**more):
    """Return the body of a pageview with some fields replaced."""
    return json.dumps({"n": "pageview", "u": "https://example.com/", "d": "example.com", **more}).encode()


def noise(rng, length):
    return rng.randbytes(rng.randrange(1, length))


def word(rng):
    return f"{rng.getrandbits(64):x}"


# Each returns (method, path, headers, body) of a request that no tracker sends.
HOSTILE = {
    "malformed JSON": lambda rng: ("POST", "/api/event", {}, event()[:rng.randrange(60)]),
    "bad UTF-8": lambda rng: ("POST", "/api/event", {}, b'{"n":"pageview","u":"https://example.com/\xff\xfe","d":"example.com"}'),
    "deep JSON": lambda rng: ("POST", "/api/event", {}, b"[" * 30_000 + b"]" * 30_000),
    "deep properties": lambda rng: ("POST", "/api/event", {}, event(p={"a": [[[{"b": {}}]]] * 50})),
    "a huge body": lambda rng: ("POST", "/api/event", {}, b"x" * 100_000),
    "wrong types": lambda rng: ("POST", "/api/event", {}, event(u=rng.choice([1, None, [], {}]), p=rng.choice([[], 7, "{", {"k": []}]))),
    "wrong method": lambda rng: (rng.choice(["PUT", "DELETE", "PATCH", "TRACE", "GET"]), "/api/event", {}, b""),
    "no such page": lambda rng: ("GET", f"/{word(rng)}/../../etc/passwd", {}, b""),
    "unknown site": lambda rng: ("POST", "/api/event", {}, event(d=f"{word(rng)}.example")),
    "foreign host": lambda rng: ("POST", "/api/event", {}, event(u=f"https://{word(rng)}.example/")),
    "flood of values": lambda rng: ("POST", "/api/event", {"User-Agent": f"Mozilla/5.0 ({word(rng)}) Chrome/{rng.randrange(999)}.0"}, event(
        u=f"https://example.com/flood/{word(rng)}?utm_source={word(rng)}&utm_campaign={word(rng)}", r=f"https://{word(rng)}.example/{word(rng)}",
        p={word(rng): word(rng) for _ in range(5)})),
    "header flood": lambda rng: ("GET", "/", {f"X-{word(rng)}": "y" * 100 for _ in range(rng.randrange(20, 90))}, b""),
    "forged headers": lambda rng: ("POST", "/api/event", {"X-Forwarded-For": f"{word(rng)}, ::1, \"<script>\", {'1.' * 50}", "X-Forwarded-Proto": "gopher",
                                                          "X-Forwarded-Host": "evil/../", "Forwarded": "for=" + word(rng)}, event(u="https://evil.example/")),
    "login": lambda rng: ("POST", "/api/login", {"Content-Type": "application/json"}, json.dumps({"username": word(rng), "password": "guess"}).encode()),
    "forged session": lambda rng: ("GET", "/api/sites", {"Cookie": f"mininumbers={word(rng)}; =;;\x7f", "Authorization": f"Bearer {word(rng)}"}, b""),
    "hostile filter": lambda rng: ("POST", "/api/v2/query", {"Content-Type": "application/json", "Authorization": "TOKEN"}, json.dumps({
        "site_id": "example.com", "metrics": METRICS, "date_range": rng.choice(["day", "all", ["0001-01-01", "9999-12-31"], "' or 1=1 --"]),
        "filters": [rng.choice([["matches", "event:page", ["(a+)+$" * 20]], ["matches", "event:page", ["["]], ["is", "event:page", [word(rng)] * 500],
                                ["not", ["not", ["is", "event:props:' or 1", ["x"]]]], ["contains", "event:page", ["%_"]], [["or"]], 5])]}).encode()),
}


def raw_attack(rng, address):
    """Speak to the socket itself: binary noise, a request that is cut off, or one that comes in drops."""
    pieces = rng.choice([
        [noise(rng, 4000)],
        [b"POST /api/event HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n", event()[:20]],
        [b"POST /api/event HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", b"zz\r\n" + noise(rng, 100)],
        [b"GET / HT", b"TP/1.1\r\nHo", b"st: x\r\n"],
        [b"GET /" + b"a" * 300_000],
    ])
    with socket.create_connection(address, timeout=5) as connection, contextlib.suppress(OSError):
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(0.01)


# ---- the traffic -----------------------------------------------------------------------------------------------------

class Soak:
    """The traffic of a run, and what is known of how it was answered."""

    def __init__(self, server, token, rate, seed):
        self.server, self.token, self.rate, self.seed = server, token, rate, seed
        self.netloc = urlsplit(server.url).netloc
        self.stop, self.lock = threading.Event(), threading.Lock()
        self.acknowledged, self.sent = set(), set()
        self.statuses, self.failures, self.latencies = Counter(), Counter(), []

    def take(self):
        """Return (Counter of statuses, latencies of ordinary hits) since the last time."""
        with self.lock:
            taken = self.statuses, self.latencies
            self.statuses, self.latencies = Counter(), []
        return taken

    def run(self, caller):
        """Send one caller's share of the traffic at its own even pace."""
        rng, connection = random.Random(f"{self.seed} {caller}"), None
        due = time.monotonic() + caller / self.rate
        while not self.stop.wait(max(0, due - time.monotonic())):
            due = max(due + CALLERS / self.rate, time.monotonic() - 1)  # who fell behind does not make up for all of it
            connection = connection or http.client.HTTPConnection(self.netloc, timeout=30)
            try:
                self._one(rng, caller, connection)
            except (OSError, http.client.HTTPException):
                connection.close()
                connection = None

    def _one(self, rng, caller, connection):
        draw = rng.random()
        if draw < HOSTILE_SHARE:
            self._attack(rng, connection)
        elif draw < HOSTILE_SHARE + LOOK_SHARE:
            dimension = rng.choice(["event:page", "visit:source", "visit:country", "visit:browser", "time:hour"])
            body = {"site_id": "example.com", "metrics": METRICS, "date_range": "day", "dimensions": [dimension]}
            self._ask("a look", connection, "POST", "/api/v2/query", {"Authorization": "TOKEN", "Content-Type": "application/json"}, json.dumps(body).encode())
        else:
            self._hit(rng, f"{caller}-{rng.getrandbits(48):x}", connection)

    def _attack(self, rng, connection):
        kind = rng.choice(["raw", *HOSTILE])
        if kind == "login" and rng.random() < 0.8:
            kind = "raw"  # each takes a third of a second of the processor, by design
        if kind == "raw":
            host, _, port = self.netloc.rpartition(":")
            raw_attack(rng, (host, int(port)))
        else:
            self._ask(kind, connection, *HOSTILE[kind](rng))

    def _hit(self, rng, name, connection):
        """Send a hit that is known again by its property; the pages and visitors are those of a site of some size."""
        headers = {"User-Agent": rng.choice([CHROME, FIREFOX.format(rng.randrange(100, 140))]),
                   "X-Forwarded-For": f"198.51.{rng.randrange(100)}.{rng.randrange(256)}", "Content-Type": "text/plain"}
        body = event(u=f"https://example.com/page/{rng.randrange(2000)}", r=f"https://site{rng.randrange(50)}.example/", p={"of": name})
        self.sent.add(name)
        began = time.monotonic()
        status, dropped = self._ask("a hit", connection, "POST", "/api/event", headers, body)
        with self.lock:
            self.latencies.append(time.monotonic() - began)
            if status == 202 and not dropped:
                self.acknowledged.add(name)

    def _ask(self, kind, connection, method, path, headers, body):
        headers = {name: f"Bearer {self.token}" if value == "TOKEN" else value for name, value in headers.items()}
        connection.request(method, path, body, {"User-Agent": CHROME, **headers})
        answer = connection.getresponse()
        answer.read()
        with self.lock:
            self.statuses[answer.status] += 1
            if answer.status >= 500 and answer.status != 503 or kind in ("a hit", "a look") and answer.status >= 400:
                self.failures[kind, answer.status] += 1
        return answer.status, answer.headers["X-MiniNumbers-Dropped"]


def memory_of(process):
    """Return the resident memory of a process in MB."""
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024


# ---- the verdict -----------------------------------------------------------------------------------------------------

def watch(soak, minutes):
    """Sample and print until the time is over; return (samples of memory, a row for each minute)."""
    samples, rows, began = [], [], time.monotonic()
    print("minute   RSS MB   answers    2xx    4xx    5xx   p99 ms", flush=True)
    while time.monotonic() - began < minutes * 60:
        time.sleep(SAMPLE_SECONDS)
        samples.append(memory_of(soak.server.process))
        if time.monotonic() - began >= (len(rows) + 1) * 60:
            statuses, latencies = soak.take()
            classes = [sum(count for status, count in statuses.items() if status // 100 == hundred) for hundred in (2, 4, 5)]
            p99 = sorted(latencies)[int(len(latencies) * 0.99)] * 1000 if latencies else 0
            rows.append([len(rows) + 1, round(samples[-1], 1), sum(statuses.values()), *classes, round(p99, 1)])
            print("{:6} {:8} {:9} {:6} {:6} {:6} {:8}".format(*rows[-1]), flush=True)
    return samples, rows


def judge(soak, samples, db):
    """Return ({what was measured}, [what is wrong])."""
    third = len(samples) // 3
    middle, last = statistics.median(samples[third:2 * third]), statistics.median(samples[-third:])
    known = ask(db, "select v.text from props p join texts k on k.id = p.key join texts v on v.id = p.value where k.text = 'of'")
    stored = Counter(name for name, in known)
    folded = pages(db).count("(other)")
    checked = run_command("check", "--db", db)
    wrong = [
        (last > middle * (1 + GROWTH), f"memory is not flat: {middle:.1f} MB in the middle third, {last:.1f} MB in the last"),
        (missing := len(soak.acknowledged - set(stored)), f"{missing} acknowledged hits are not there"),
        (twice := sum(count > 1 for count in stored.values()), f"{twice} hits are there twice"),
        (strange := len(set(stored) - soak.sent - {"(other)"}), f"{strange} hits are there that nobody sent"),
        (soak.failures, f"answers that should not be: {dict(soak.failures)}"),
        (checked.stdout != "ok\n", f"check: {checked.stderr.strip()}"),
    ]
    figures = {"rss_middle_mb": round(middle, 1), "rss_last_mb": round(last, 1), "growth": round(last / middle - 1, 4), "samples": samples,
               "acknowledged": len(soak.acknowledged), "stored": sum(stored.values()), "folded_pages": folded}
    return figures, [text for is_wrong, text in wrong if is_wrong]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--rate", type=float, default=200, help="requests a second")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        db = pathlib.Path(folder, "soak.db")
        run_command("setup", "--db", db, "--username", "owner", "--password-stdin", "--site", "example.com", stdin=PASSWORD + "\n")
        token = run_command("token", "create", "--name", "soak", "--read-only", "--db", db).stdout.strip()
        # Every hit has a text of its own here, so that it is known again: the cap on new values is for others to test.
        server = Server(db, "--new-values-per-day", "10000000")
        drain = threading.Thread(target=server.process.stdout.read, daemon=True)  # what is logged must not fill the pipe
        drain.start()
        soak = Soak(server, token, given.rate, given.seed)
        try:
            with ThreadPoolExecutor(CALLERS) as pool:
                callers = [pool.submit(soak.run, caller) for caller in range(CALLERS)]
                try:
                    samples, rows = watch(soak, given.minutes)
                finally:
                    soak.stop.set()
            for caller in callers:
                caller.result()
        finally:
            server.process.terminate()
            server.process.wait(60)
        figures, wrong = judge(soak, samples, db)
    print(f"{figures['acknowledged']} hits acknowledged; memory {figures['rss_middle_mb']} MB in the middle third, {figures['rss_last_mb']} MB in the "
          f"last ({figures['growth']:+.1%}; flat is below {GROWTH:+.0%})")
    print("\n".join(wrong) or "flat: nothing grew, nothing was lost, nothing counted twice")
    if given.json:
        pathlib.Path(given.json).write_text(json.dumps({**figures, "minutes": rows, "wrong": wrong}, indent=1) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
