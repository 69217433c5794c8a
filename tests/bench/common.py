"""What the benchmarks share: the real server in a process of its own, made-up data, a dashboard's questions, and small tables."""
import argparse
import contextlib
import json
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

PROGRAM = pathlib.Path(__file__).resolve().parents[2] / "mininumbers.py"
SITE = "demo.example"
PATIENCE = 600  # seconds for anything at all
SIX = ["visitors", "visits", "pageviews", "views_per_visit", "bounce_rate", "visit_duration"]
OPEN = ["event:page", "visit:source", "visit:country", "visit:device"]  # the tabs that a dashboard opens with
EVERY = ["event:page", "visit:entry_page", "visit:exit_page", "visit:source", "visit:channel", "visit:referrer", "visit:utm_campaign", "visit:country",
          "visit:language", "visit:device", "visit:browser", "visit:os", "visit:screen"]


def parser(about, pageviews="1000000,10000000"):
    """Return the parser of what every benchmark takes."""
    made = argparse.ArgumentParser(description=about.splitlines()[0])
    made.add_argument("--pageviews", default=pageviews, metavar="N,…", help="sizes of the databases (default %(default)s)")
    made.add_argument("--json", metavar="FILE", help="write the figures there too")
    made.add_argument("--folder", metavar="DIR", help="where databases are made, and found again by the next run (default: a temporary one)")
    return made


@contextlib.contextmanager
def folder_of(options):
    """Give the folder for databases."""
    with contextlib.ExitStack() as stack:
        yield pathlib.Path(options.folder or stack.enter_context(tempfile.TemporaryDirectory()))


def run(*arguments):
    """Run a command of the program and return what it printed."""
    ended = subprocess.run([sys.executable, str(PROGRAM), *map(str, arguments)], check=True, capture_output=True, text=True, timeout=PATIENCE)
    return ended.stdout


def database(folder, pageviews, paths=300):
    """Return (a database with so many made-up pageviews of the last year, seconds that making it took, or None if it was there)."""
    path, took = folder / f"demo-{pageviews}-{paths}.db", None
    if not path.exists():
        began = time.perf_counter()
        run("demo", "--db", path, "--pageviews", pageviews, "--paths", paths)
        took = time.perf_counter() - began
    return path, took


def copy_of(path, folder):
    """Return a copy of a database that may be changed."""
    return pathlib.Path(shutil.copy(path, folder / f"copy-of-{path.name}"))


class Server:
    """A running server, which is ended at the end."""

    def __init__(self, db, *flags):
        began = time.perf_counter()
        self.token = run("token", "create", "--db", db, "--name", "benchmark", "--read-only").strip()
        began = time.perf_counter()
        self.process = subprocess.Popen([sys.executable, str(PROGRAM), "serve", "--db", str(db), "--host", "127.0.0.1", "--port", "0",
                                         "--hits-per-address", "0", "--hits-per-site", "0", "--requests-per-token", "0", *map(str, flags)],
                                        stdout=subprocess.PIPE, text=True)
        for line in self.process.stdout:
            if match := re.match(r"Open (http://\S+:(\d+)/)", line):
                self.url, self.port = match[1], int(match[2])
                break
        else:
            raise RuntimeError("the server did not start")
        urllib.request.urlopen(self.url + "health", timeout=PATIENCE).read()
        self.started_in = time.perf_counter() - began

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def ask(self, queries):
        """Return (the answers to queries in one request, seconds)."""
        answer, seconds = self.post("api/v2/queries", {"queries": queries})
        return answer["answers"], seconds

    def post(self, path, body):
        """Return (the answer to one question, seconds)."""
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(),
                                         {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"})
        began = time.perf_counter()
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.loads(answer.read()), time.perf_counter() - began

    def memory(self, what="VmRSS"):
        """Return its resident memory in MB, or at its highest with VmHWM."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"{what}:\s+(\d+) kB", status)[1]) / 1024


def dashboard(period, filters=(), limit=9, panels=OPEN):
    """Return the queries of a dashboard: headline and chart with six metrics each, compared with the period before, and panels."""
    base = {"site_id": SITE, "date_range": period, "filters": list(filters)}
    compared = {"comparisons": {"mode": "previous_period"}}
    return [{**base, "metrics": SIX, "include": compared}, {**base, "metrics": SIX, "dimensions": ["time"], "include": {**compared, "time_labels": True}},
            *({**base, "metrics": ["visitors", "percentage"], "dimensions": [panel], "include": {"total_rows": True}, "pagination": {"limit": limit}}
              for panel in panels)]


def fresh_dashboards(period, filters=(), panels=OPEN):
    """Yield dashboards that were not asked for before: no answer that is kept can serve them."""
    for limit in range(9, 10_000):
        yield dashboard(period, filters, limit, panels)


def median_of(times, measure):
    """Return the median of what `measure()` gives."""
    return statistics.median(measure() for _ in range(times))


def table(rows):
    """Print [(…)] as a table, the first row its head."""
    widths = [max(len(str(row[column])) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(str(cell).ljust(width) if column == 0 else str(cell).rjust(width) for column, (cell, width) in enumerate(zip(row, widths))))


def write(options, figures):
    """Write figures as JSON where that was asked for."""
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(figures, indent=2) + "\n")
