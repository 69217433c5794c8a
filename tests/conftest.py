"""What the tests share: a clock they own, an app on a fresh database, a real server, and a browser."""
import contextlib
import http.client
import json
import os
import pathlib
import re
import secrets
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from urllib.parse import urlsplit

import pytest
import webtest

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import mininumbers  # noqa: E402
from mininumbers import SCRYPT, Caller, Settings, Unauthorized, create_app  # noqa: E402

CHROME = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36"
PASSWORD = "correct horse battery"
mininumbers.SEAL_SECONDS = float("inf")  # what is sealed must not depend on how busy the machine is
PATIENCE = 20  # seconds until a test gives up waiting for what must happen


class MovableClock:
    """Time that passes only when a test says so. Begins at noon UTC of Monday, 2 March 2026."""

    def __init__(self, now=1772452800):
        self.now = now

    def __call__(self):
        return self.now

    def set(self, now):
        self.now = now

    def advance(self, seconds):
        self.now += seconds


@pytest.fixture
def clock():
    return MovableClock()


@pytest.fixture
def settings(tmp_path):
    return Settings(db=str(tmp_path / "test.db"), geoip="")


@pytest.fixture
def app(settings, clock):
    """An app with the site example.com (UTC) and the account "owner"."""
    app = create_app(settings, clock=clock)
    app.setup("owner", PASSWORD, "example.com")
    with contextlib.closing(app):
        yield app


class Site:
    """What a visitor's browser and an owner's program do, through WSGI, to one site."""

    def __init__(self, app, domain="example.com"):
        self.app, self.domain = app, domain
        self.web = webtest.TestApp(app, extra_environ={"REMOTE_ADDR": "127.0.0.1", "HTTP_SEC_FETCH_SITE": "same-origin"})
        self.token = app.create_token("test")

    def send(self, path="/", name="pageview", ip="192.0.2.1", agent=CHROME, headers=(), status=202, host=None, **more):
        """Post an event; `more` are further fields of the payload. Returns the response."""
        body = {"n": name, "u": f"https://{host or self.domain}{path}", "d": self.domain, **more}
        return self.web.post_json("/api/event", body, headers={"X-Forwarded-For": ip, "User-Agent": agent, **dict(headers)}, status=status)

    def query(self, *metrics, status=200, **more):
        """Ask /api/v2/query and return the body of the answer."""
        body = {"site_id": self.domain, "metrics": list(metrics) or ["visitors"], "date_range": "day", **more}
        return self.web.post_json("/api/v2/query", body, headers={"Authorization": f"Bearer {self.token}"}, status=status).json

    def numbers(self, *metrics, **more):
        """Return the metrics of a query without dimensions; one alone is returned bare."""
        values = self.query(*metrics, **more)["results"][0]["metrics"]
        return values[0] if len(values) == 1 else values

    def rows(self, *metrics, **more):
        """Return [(dimension …, metric …)] of a query."""
        return [(*row["dimensions"], *row["metrics"]) for row in self.query(*metrics, **more)["results"]]


@pytest.fixture
def site(app):
    return Site(app)


@pytest.fixture(scope="module")
def cheap_passwords():
    """Passwords need not be slow to check where nobody guesses."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SCRYPT, "n", 16)
        yield


class Person:
    """Somebody with a browser of their own, or a program with a token."""

    def __init__(self, app, address="192.0.2.1", agent=CHROME, token=None):
        known = {"HTTP_AUTHORIZATION": f"Bearer {token}"} if token else {}
        self.web = webtest.TestApp(app, extra_environ={"REMOTE_ADDR": address, "HTTP_USER_AGENT": agent, "HTTP_SEC_FETCH_SITE": "same-origin", **known})

    def ask(self, method, path, body=None):
        """Ask and return (status, the JSON of the answer)."""
        raw = b"" if body is None else json.dumps(body).encode()
        self.answer = self.web.request(path, method=method, body=raw, headers={"Content-Type": "application/json"}, expect_errors=True)
        return self.answer.status_int, self.answer.json

    def get(self, path):
        status, body = self.ask("GET", path)
        assert status == 200, body
        return body

    def post(self, path, **body):
        return self.ask("POST", path, body)

    def sign_in(self, username="owner", password=PASSWORD, **more):
        return self.post("/api/login", username=username, password=password, **more)

    @property
    def name(self):
        """Who the server takes this browser for."""
        user = self.get("/api/session")["user"]
        return user and user["username"]

    @property
    def sites(self):
        return [site["domain"] for site in self.get("/api/sites")["sites"]]


class Server:
    """The real program, in a process of its own, on a free port."""

    def __init__(self, db, *flags, env=()):
        unlimited = {"MININUMBERS_HITS_PER_ADDRESS": "0", "MININUMBERS_HITS_PER_SITE": "0",
                     "MININUMBERS_REQUESTS_PER_TOKEN": "0"}  # what tests send comes from few addresses
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "mininumbers.py"), "serve", "--db", str(db), "--port", "0", *flags],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **unlimited, **dict(env)})
        self.output = ""
        while not (match := re.search(r"Open (http://\S+)/\n", self.output)):
            line = self.process.stdout.readline()
            assert line, f"the server ended: {self.output}"
            self.output += line
        self.url = match[1]

    def kill(self):
        """End it as the kernel does when memory is short: at once, with nothing finished."""
        self.process.kill()
        self.process.wait()

    def stop(self):
        """End it as a service manager does; return (exit status, all it printed)."""
        self.process.send_signal(signal.SIGTERM)
        rest = self.process.stdout.read()  # of the same buffer that readline() filled, or what it holds would be missed
        return self.process.wait(30), self.output + rest


@pytest.fixture
def start_server(tmp_path):
    """A function that starts a server; whatever it started is stopped at the end."""
    servers = []

    def start(db=tmp_path / "test.db", *flags, **more):
        servers.append(Server(db, *flags, **more))
        return servers[-1]
    yield start
    for server in servers:
        if server.process.poll() is None:
            server.kill()


def run_command(*arguments, stdin="", env=()):
    """Run the command line and return the finished process."""
    return subprocess.run([sys.executable, str(ROOT / "mininumbers.py"), *map(str, arguments)], input=stdin, capture_output=True, text=True,
                          timeout=60, env={**os.environ, **dict(env)})


def password_is_right(app, username, password):
    """Ask at the door, each time from another address: guessing from one is slowed down."""
    try:
        return bool(app.accounts.prove(username, password, "", Caller(f"2001:db8:{secrets.token_hex(2)}:{secrets.token_hex(2)}::1")))
    except Unauthorized:
        return False


def make_database(path):
    """Create a database with the site example.com, and nothing open."""
    with contextlib.closing(create_app(Settings(db=str(path), geoip=""))) as app:
        app.setup("owner", "correct horse", "example.com")
    return path


class Browser:
    """A connection to a real server that stays open."""

    def __init__(self, url, ip="192.0.2.1"):
        self.connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=PATIENCE)
        self.headers = {"User-Agent": CHROME, "X-Forwarded-For": ip, "Content-Type": "text/plain"}

    def post(self, path="/", **more):
        """Send an event, a pageview unless `more` says otherwise, and return (status, headers)."""
        body = {"n": "pageview", "u": f"https://example.com{path}", "d": "example.com", **more}
        self.connection.request("POST", "/api/event", json.dumps(body), self.headers)
        answer = self.connection.getresponse()
        answer.read()
        return answer.status, answer.headers

    def get(self, path):
        """Ask for a page and return (status, body)."""
        self.connection.request("GET", path, headers=self.headers)
        answer = self.connection.getresponse()
        return answer.status, answer.read()


def ask(path, query, *values):
    """Read from a database file as another program would."""
    with contextlib.closing(sqlite3.connect(path, timeout=PATIENCE)) as db:
        return db.execute(query, values).fetchall()


def pages(path):
    """The page of every hit, by arrival."""
    return [page for page, in ask(path, "select text from hits join texts on texts.id = page order by site_id, hits.id")]


def assert_visits_are_whole(path):
    """Every visit tells the truth about its hits, every hit is in one, and no visit is without."""
    kept = ask(path, """
        select site_id, id, pageviews, entry_page, exit_id, exit_page from visits order by site_id, id""")
    recounted = ask(path, """
        with counted as (
            select site_id, visit_id, min(id) as first, max(id) as last, count(*) filter (where name = 1) as pageviews,
                   coalesce(max(id) filter (where name = 1), 0) as exit_id
            from hits group by site_id, visit_id)
        select c.site_id, first, pageviews, entry.page, exit_id, exit.page
        from counted c join hits entry on entry.site_id = c.site_id and entry.id = first
                       join hits exit on exit.site_id = c.site_id and exit.id = iif(exit_id, exit_id, last)
        order by c.site_id, first""")
    assert kept == recounted
    outlived = ask(path, """
        select h.id from hits h left join visits v on v.site_id = h.site_id and v.id = h.visit_id
        where v.id is null or h.id < v.id or (h.id >> 16) - (v.id >> 16) > v.duration""")
    assert outlived == []


NODE_PACKAGES = ("axe-core@4.14.1", "typescript@5.9.3")


@pytest.fixture(scope="session")
def node_packages():
    """The folder of the packages that tests run with Node or in a browser; npm fetches them once, to stand beside the Python ones."""
    home = pathlib.Path(sys.prefix) / "-".join(["npm", *NODE_PACKAGES]).replace("@", "-")
    if not home.exists():
        with tempfile.TemporaryDirectory(dir=sys.prefix) as made:
            command = [shutil.which("npm"), "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", made, *NODE_PACKAGES]
            subprocess.run(command, check=True, capture_output=True, timeout=300)
            with contextlib.suppress(OSError):  # another process may have been first
                os.rename(made, home)
                os.mkdir(made)
    return home / "node_modules"


@pytest.fixture(scope="session")
def browser():
    """Chromium, made to look like a person's: the tracker and the server refuse programs."""
    from playwright.sync_api import sync_playwright
    executable = next((found for name in ("chromium", "chromium-browser") if (found := shutil.which(name))
                       and subprocess.run([found, "--version"], capture_output=True).returncode == 0), None)  # Ubuntu has a stub of that name
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=[
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
            # For every request: what a page sends while it is being left does not know the user agent of its context any more.
            f"--user-agent={CHROME}",
            "--disable-blink-features=AutomationControlled", "--host-resolver-rules=MAP *.com 127.0.0.1, MAP *.test 127.0.0.1"])
        yield browser
        browser.close()
