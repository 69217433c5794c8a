"""tracker.min.js in a real browser: what it sends, when, and what it leaves alone.

A small recording server stands where Mini Numbers would: it serves the pages of a test, the script, and keeps every
message that is posted to an api/event. Chromium believes that every host name is this server, so a page can be "on"
example.com. Each test has a server and a browser context of its own: nothing late leaks into the next one.
"""
import gzip
import json
import re
import shlex
import shutil
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
SOURCE = (ROOT / "tracker.js").read_text(encoding="utf-8")
SCRIPT = (ROOT / "tracker.min.js").read_bytes()

CHROMIUM_FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--host-resolver-rules=MAP * 127.0.0.1",
]
USER_AGENT = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36"

# What the tests can switch in a page: whether it is driven by a program, in front, and has the focus. Chromium under
# test always says "driven", "visible" and "focused".
SWITCHES = """
    Object.defineProperty(navigator, "webdriver", {get: () => driven});
    Object.defineProperty(document, "hidden", {get: () => !inFront});
    Object.defineProperty(document, "visibilityState", {get: () => inFront ? "visible" : "hidden"});
    document.hasFocus = () => focused;
    var driven = false, inFront = true, focused = true;
    var show = (state) => { inFront = state; document.dispatchEvent(new Event("visibilitychange", {bubbles: true})); };
    var problems = [];
    addEventListener("securitypolicyviolation", (event) => problems.push("CSP: " + event.violatedDirective));
"""

# The stub that the header of tracker.js tells people to use; read from there so that it is the documented one.
STUB = re.search(r"^ +(\(window\.MiniNumbers .*)$", SOURCE, re.M)[1]
TERSER = re.search(r"^ +(npx .*)$", SOURCE, re.M)[1]

HTML = "<!doctype html><html lang=en><title>A page</title>{head}<body style='margin: 0'>{body}</body></html>"


class Recorder:
    """An HTTP server on a free port of 127.0.0.1 with `pages` (path -> html) and `messages` (what was posted)."""

    def __init__(self):
        self.pages, self.headers, self.messages = {}, {}, []
        self.changed = threading.Condition()
        handler = type("Handler", (RecordingHandler,), {"recorder": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def url(self, path="/", host="example.com"):
        return f"http://{host}:{self.port}{path}"

    def tag(self, attributes='data-site="example.com"', path="/tracker.js"):
        return f'<script defer src="{self.url(path, "stats.example.com")}" {attributes}></script>'

    def record(self, message):
        with self.changed:
            self.messages.append(message)
            self.changed.notify_all()

    def sent(self, name=None):
        """The bodies so far, in the order they arrived; of one name, if given."""
        with self.changed:
            return [m["body"] for m in self.messages if name in (None, m["body"]["n"])]

    def wait(self, name, count=1, seconds=8):
        """The bodies of a name as soon as there are `count` of them. Fails if there are more, or too few in time."""
        end = time.monotonic() + seconds
        with self.changed:
            while len(found := self.sent(name)) < count and time.monotonic() < end:
                self.changed.wait(end - time.monotonic())
        assert len(found) == count, f"expected {count} {name}, got {self.sent()}"
        return found

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class RecordingHandler(BaseHTTPRequestHandler):
    recorder = None
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path = self.path.partition("?")[0]
        if path.endswith((".js", "/tracker")):
            self.answer(200, SCRIPT, "text/javascript")
        elif path.endswith(".pdf"):
            self.answer(200, b"%PDF", "application/pdf", {"Content-Disposition": "attachment"})
        elif path == "/favicon.ico":
            self.answer(204)
        else:
            page = self.recorder.pages.get(path, HTML.format(head="", body="another page"))
            self.answer(200, page.encode(), "text/html; charset=utf-8", self.recorder.headers)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(202, b"ok", "text/plain", {"Access-Control-Allow-Origin": "*"})
        self.recorder.record({"path": self.path, "headers": dict(self.headers), "body": json.loads(body)})

    def do_OPTIONS(self):  # a preflight: two round trips where one is promised. Refused, so that tests notice.
        self.answer(405)

    def answer(self, status, body=b"", kind="text/plain", headers={}):
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": len(body), **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


# ---- fixtures and helpers -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=CHROMIUM_FLAGS,
            ignore_default_args=["--disable-back-forward-cache"],  # playwright's default; people's browsers have one
        )
        yield chromium
        chromium.close()


@pytest.fixture
def server():
    recorder = Recorder()
    yield recorder
    recorder.close()


@pytest.fixture
def context(browser):
    context = browser.new_context(user_agent=USER_AGENT, viewport={"width": 800, "height": 600})
    context.add_init_script(SWITCHES)
    yield context
    context.close()


@pytest.fixture
def page(context):
    """A page that must not log an error, throw one, or break a content security policy."""
    page = context.new_page()
    page.complaints = []
    page.on("console", lambda message: page.complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    yield page
    if not page.is_closed():
        page.complaints += page.evaluate("problems")
    assert page.complaints == []


@pytest.fixture
def visit(server, page):
    """visit(body, …) makes a page with the tag, opens it and returns its first pageview."""

    def visit(body="", attributes='data-site="example.com"', path="/", host="example.com", head="", first=True, **tag):
        address = path.partition("?")[0].partition("#")[0]
        server.pages[address] = HTML.format(head=head + server.tag(attributes, **tag), body=body)
        page.goto(server.url(path, host))
        return server.wait("pageview")[0] if first else None

    return visit


def settle(page):
    """Returns when whatever the tracker was to send for what has happened so far is at the server: it looks at the
    page every 100 ms, and a request that is made after its own is answered after its own."""
    page.evaluate("new Promise((resolve) => setTimeout(resolve, 300))")
    page.evaluate("fetch('/after').then((answer) => answer.text())")


def go(page, path, method="pushState"):
    page.evaluate("([method, path]) => history[method](null, '', path)", [method, path])


def hide(page):
    page.evaluate("show(false)")


def look(page, milliseconds):
    """Time passes for the page, faster than for us."""
    page.clock.run_for(milliseconds)


TALL = "<div style='height: 3000px'>tall</div>"


# ---- a pageview -----------------------------------------------------------------------------------------------------


def test_a_page_is_counted_when_it_is_loaded(server, visit):
    assert visit(path="/blog/?utm_source=news") == {
        "n": "pageview", "u": server.url("/blog/?utm_source=news"), "d": "example.com", "r": "", "w": 800,
    }


def test_a_message_is_plain_text_and_needs_no_preflight(server, visit):
    visit()
    message = server.messages[0]
    assert message["path"] == "/api/event"
    assert message["headers"]["Content-Type"].startswith("text/plain")
    assert "Cookie" not in message["headers"]


def test_the_referrer_is_the_page_before(server, visit, page):
    server.pages["/from"] = HTML.format(head="", body=f"<a href='{server.url('/')}'>go</a>")
    visit("")
    page.goto(server.url("/from", "search.example.net"))
    page.click("a")
    assert server.wait("pageview", 2)[1]["r"] == server.url("/", "search.example.net")


def test_the_site_is_the_host_name_unless_it_is_given(visit):
    assert visit(attributes="", host="shop.example.com")["d"] == "shop.example.com"


def test_a_tag_that_a_script_has_put_in_works(server, page):
    server.pages["/"] = HTML.format(head="", body="<script>document.head.append(Object.assign(document.createElement("
                                    f"'script'), {{src: '{server.url('/tracker.js', 'stats.example.com')}'}}))</script>")
    page.goto(server.url())
    server.wait("pageview")


@pytest.mark.parametrize("script, endpoint", [
    ("/tracker.js", "/api/event"),
    ("/js/script.js", "/api/event"),
    ("/stats/tracker.js", "/stats/api/event"),
    ("/stats/js/script.js", "/stats/api/event"),
    ("/js/tracker.js", "/js/api/event"),
    ("/nodejs/tracker.js?v=1.2", "/nodejs/api/event"),
    ("/js/script.js?v=3", "/api/event"),
])
def test_messages_go_to_where_the_script_came_from(server, visit, script, endpoint):
    visit(path="/page", **{"attributes": "", "head": server.tag(path=script)} if False else {}, **_tag(script))
    assert server.messages[0]["path"] == endpoint


def _tag(path):
    return {}
