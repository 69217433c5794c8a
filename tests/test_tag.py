"""The script tag in a real browser: what the tracker sends, held against what a person did. A small server records it; the last tests use
the real one."""
import gzip
import http.server
import json
import re
import shutil
import subprocess
import threading
import time
import urllib.request

import pytest

from conftest import CHROME, PASSWORD, ROOT, run_command

TRACKER = (ROOT / "tracker.min.js").read_bytes()
TALL = "<div style='height:4000px'></div>"
STUB = "<script>window.MiniNumbers ||= []; MiniNumbers.track ||= (...call) => MiniNumbers.push(call)</script>"


class Recorder(http.server.ThreadingHTTPServer):
    """Serves pages and the tracker, and keeps what the tracker sends."""

    daemon_threads = True

    def __init__(self):
        self.pages, self.events, self.requests = {}, [], []
        super().__init__(("127.0.0.1", 0), _Handler)
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def url(self, path="/", host="example.com"):
        return f"http://{host}:{self.server_address[1]}{path}"

    def add(self, path, body="", attributes="data-site=example.com", script="/tracker.js", before=""):
        self.pages[path] = f"<!doctype html><title>{path}</title>{before}<script defer src='{script}' {attributes}></script>{body}"

    def wait(self, count, name=None):
        """Return the events (of a name) once there are `count` of them."""
        until = time.monotonic() + 10
        while len(found := [event for event in self.events if name in (None, event["n"])]) < count:
            assert time.monotonic() < until, f"only {self.events}"
            time.sleep(0.02)
        return found

    def names(self):
        return [event["n"] for event in self.events]


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, body, kind):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        path = self.path.partition("?")[0]
        if path.endswith(".js"):
            self.answer(TRACKER, "text/javascript")
        else:
            self.answer(self.server.pages.get(path, "<title>empty</title>").encode(), "text/html; charset=utf-8")

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((self.path, self.headers["Content-Type"], dict(self.headers)))
        self.server.events.append(json.loads(body))
        self.answer(b"ok", "text/plain")

    def log_message(self, *_):
        pass


@pytest.fixture
def site():
    """The recorder, with a tall page at / that has the tag."""
    server = Recorder()
    server.add("/", TALL)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def open_page(browser):
    """A function that opens a page as a person's browser does. None may end with an error in its console."""
    contexts, errors = [], []

    def open_(url, init="", **options):
        contexts.append(browser.new_context(user_agent=CHROME, viewport={"width": 1000, "height": 800}, **options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        if init:
            page.add_init_script(init)
        page.goto(url)
        return page
    yield open_
    for context in contexts:
        context.close()
    assert errors == []


def hide(page):
    page.evaluate("Object.defineProperty(document, 'hidden', {value: true, configurable: true}); "
                  "document.dispatchEvent(new Event('visibilitychange', {bubbles: true}))")


def show(page):
    page.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange', {bubbles: true}))")


def eventually(get, wanted):
    until = time.monotonic() + 10
    while (found := get()) != wanted:
        assert time.monotonic() < until, f"{found} is not {wanted}"
        time.sleep(0.05)


# ---- the file --------------------------------------------------------------------------------------------------------

def test_the_small_file_is_what_the_command_in_the_source_makes_of_it(tmp_path):
    command = re.search(r"npx .* -o tracker\.min\.js", (ROOT / "tracker.js").read_text())[0].split()
    npx = shutil.which("npx")
    assert npx, "npx is missing: tests/run brings it"
    shutil.copy(ROOT / "tracker.js", tmp_path)
    subprocess.run([npx, *command[1:]], cwd=tmp_path, check=True, capture_output=True, timeout=120)
    assert (tmp_path / "tracker.min.js").read_bytes() == TRACKER


def test_everything_fits_into_a_thousand_bytes():
    assert len(gzip.compress(TRACKER, 9)) <= 1000


# ---- pages -----------------------------------------------------------------------------------------------------------

def test_a_page_that_loads_is_told_once_with_all_that_is_known_of_it(site, open_page):
    page = open_page(site.url("/?utm_source=a#part"))
    event, = site.wait(1)
    assert (event["n"], event["u"], event["d"], event["r"], event["w"]) == ("pageview", site.url("/?utm_source=a#part"), "example.com", "", 1000)
    path, content_type, headers = site.requests[0]
    assert path == "/api/event" and content_type.startswith("text/plain") and "Cookie" not in headers
    page.wait_for_timeout(250)
    assert site.names().count("pageview") == 1


def test_the_referrer_is_the_page_before(site, open_page):
    site.pages["/from"] = "<!doctype html><a id=a href='/'>on</a>"
    open_page(site.url("/from")).click("#a")
    assert site.wait(1)[0]["r"] == site.url("/from")


def test_without_a_name_the_site_is_the_host(site, open_page):
    site.add("/bare", attributes="")
    open_page(site.url("/bare"))
    assert site.wait(1)[0]["d"] == "example.com"


@pytest.mark.parametrize("script, path", [("/tracker.js", "/api/event"), ("/stats/tracker.js", "/stats/api/event"),
                                          ("/js/script.js", "/api/event"), ("/stats/js/script.js", "/stats/api/event")])
def test_it_posts_beside_where_it_came_from(site, open_page, script, path):
    site.add("/", script=script)
    open_page(site.url())
    site.wait(1)
    assert site.requests[0][0] == path


def test_it_posts_to_where_it_is_told(site, open_page):
    site.add("/", attributes=f"data-site=example.com data-api={site.url('/elsewhere', 'stats.test')}")
    open_page(site.url())
    site.wait(1)
    assert site.requests[0][0] == "/elsewhere"


def test_pages_that_change_without_loading_are_pages(site, open_page):
    page = open_page(site.url())
    page.evaluate("for (let path of ['/a', '/b?x=1']) history.pushState({}, '', path);"
                  "for (let path of ['/b?x=2', '/c']) history.replaceState({}, '', path)")
    site.wait(4, "pageview")
    page.evaluate("history.back()")
    views = site.wait(5, "pageview")
    # Beacons that leave together may arrive in any order.
    assert sorted(event["u"] for event in views) == sorted(map(site.url, ["/", "/a", "/b?x=1", "/c", "/a"]))


def test_pages_that_change_without_loading_are_noticed_without_the_navigation_api(site, open_page):
    page = open_page(site.url(), init="Object.defineProperty(window, 'navigation', {value: undefined})")
    site.wait(1)
    page.evaluate("history.pushState({}, '', '/later')")
    assert site.wait(2, "pageview")[1]["u"] == site.url("/later")


def test_a_fragment_is_a_page_only_in_hash_mode(site, open_page):
    page = open_page(site.url())
    site.wait(1)
    page.evaluate("location.hash = '#one'")
    site.add("/hash", attributes="data-site=example.com data-spa=hash")
    page.goto(site.url("/hash"))
    site.wait(2, "pageview")
    page.evaluate("location.hash = '#/two'")
    views = site.wait(3, "pageview")
    assert [(event["u"], event.get("h")) for event in views] == [(site.url("/"), None), (site.url("/hash"), 1), (site.url("/hash#/two"), 1)]


def test_a_page_that_comes_back_from_memory_is_seen_again(site, open_page):
    page = open_page(site.url())
    page.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true}))")
    site.wait(2, "pageview")
    page.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', {persisted: false}))")
    page.wait_for_timeout(250)
    assert site.names().count("pageview") == 2


def test_going_back_is_a_pageview_whether_the_browser_kept_the_page_or_not(site, open_page):
    page = open_page(site.url())
    site.wait(1)
    page.goto(site.url("/nothing-here"))
    page.go_back()
    assert [event["u"] for event in site.wait(2, "pageview")] == [site.url()] * 2


def test_a_prerendered_page_is_counted_when_it_is_shown(site, open_page):
    page = open_page(site.url(), init="Object.defineProperty(document, 'prerendering', {value: true, configurable: true})")
    page.wait_for_timeout(300)
    assert site.events == []
    page.evaluate("Object.defineProperty(document, 'prerendering', {value: false})")
    assert site.wait(1)[0]["n"] == "pageview"


# ---- engagement ------------------------------------------------------------------------------------------------------

def test_time_and_depth_are_told_when_the_page_is_hidden(site, open_page):
    page = open_page(site.url())
    page.evaluate("scrollTo(0, 1200)")  # of 4,000 and a little more, with 800 in the window
    page.wait_for_timeout(700)
    hide(page)
    event, = site.wait(1, "engagement")
    assert event["u"] == site.url() and 400 <= event["e"] <= 5000 and 45 <= event["sd"] <= 50


def test_depth_is_the_deepest_and_a_page_that_fits_is_seen_whole(site, open_page):
    page = open_page(site.url())
    page.evaluate("scrollTo(0, 99999)")
    page.wait_for_timeout(300)
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_timeout(200)
    hide(page)
    assert site.wait(1, "engagement")[0]["sd"] == 100
    site.add("/short", "<p>All there is.")
    page.goto(site.url("/short"))
    page.wait_for_timeout(300)
    hide(page)
    eventually(lambda: {event["sd"] for event in site.events if event["n"] == "engagement" and event["u"] == site.url("/short")}, {100})


def test_no_time_passes_in_a_hidden_or_unfocused_page_and_each_moment_is_told_once(site, open_page):
    page = open_page(site.url(), init="window.focused = true; document.hasFocus = () => window.focused")
    page.wait_for_timeout(300)
    hide(page)
    site.wait(1, "engagement")
    page.wait_for_timeout(1500)
    page.evaluate("window.focused = false")
    show(page)
    page.wait_for_timeout(1500)
    page.evaluate("dispatchEvent(new PageTransitionEvent('pagehide'))")
    page.wait_for_timeout(200)
    assert sum(event["e"] for event in site.events if event["n"] == "engagement") < 1500


def test_a_computer_that_slept_was_not_reading(site, open_page):
    page = open_page(site.url())
    site.wait(1)
    page.evaluate("let now = Date.now; Date.now = () => now() + 3600e3")
    page.wait_for_timeout(300)
    hide(page)
    assert site.wait(1, "engagement")[0]["e"] < 10_000


def test_the_page_before_is_told_of_under_its_own_address(site, open_page):
    page = open_page(site.url())
    page.wait_for_timeout(300)
    page.evaluate("history.pushState({}, '', '/next')")
    site.wait(2, "pageview")
    assert site.wait(1, "engagement")[0]["u"] == site.url()


def test_leaving_tells_of_the_page(site, open_page):
    page = open_page(site.url())
    page.wait_for_timeout(300)
    page.goto("about:blank")
    assert site.wait(1, "engagement")[0]["u"] == site.url()


def test_a_heartbeat_tells_while_the_page_stays_open(site, open_page):
    site.add("/", attributes="data-site=example.com data-heartbeat=0.3")
    open_page(site.url())
    site.wait(3, "engagement")


def test_a_heartbeat_of_nothing_is_none(site, open_page):
    site.add("/", attributes="data-site=example.com data-heartbeat=0")
    page = open_page(site.url())
    page.wait_for_timeout(500)
    assert site.names() == ["pageview"]


# ---- clicks ----------------------------------------------------------------------------------------------------------

LINKS = """<a id=out href='https://other.test/page?secret=1#x' target=_blank><b id=inner>out</b></a> <a id=own href='/own'>own</a>
<a id=file href='/files/a.pdf?v=2' target=_blank>file</a> <a id=mail href='mailto:a@b.test'>mail</a>
<script>for (let type of ['click', 'auxclick']) document.addEventListener(type, event => { event.preventDefault(); event.stopPropagation() }, true)</script>"""


@pytest.mark.parametrize("selector, button, name, url", [
    ("#inner", "left", "Outbound Link: Click", "https://other.test/page"), ("#out", "middle", "Outbound Link: Click", "https://other.test/page"),
    ("#file", "left", "File Download", "/files/a.pdf"),
])
def test_links_out_and_downloads_are_events(site, open_page, selector, button, name, url):
    site.add("/", LINKS)
    page = open_page(site.url())
    site.wait(1)
    page.click(selector, button=button)
    assert site.wait(1, name)[0]["p"] == {"url": url if url.startswith("https") else site.url(url)}


def test_other_links_and_the_right_button_are_no_events(site, open_page):
    site.add("/", LINKS)
    page = open_page(site.url())
    for selector, button in (("#mail", "left"), ("#out", "right"), ("#own", "left")):
        page.click(selector, button=button)
    page.evaluate("MiniNumbers.track('end')")
    site.wait(1, "end")
    assert set(site.names()) <= {"pageview", "engagement", "end"}


@pytest.mark.parametrize("endings, are_downloads", [
    ("a.pdf a.docx a.doc a.xlsx a.pptx a.zip a.tar.gz a.csv a.mp3 a.mp4 a.mov a.wav a.DMG a.exe a.rar", True),
    ("a.html a.php a pdf a.pdf/more john.doe v1.25", False),
])
def test_downloads_are_told_by_their_ending(site, open_page, endings, are_downloads):
    names = endings.split()
    site.add("/", "".join(f"<p><a href='/{name}'>{name}</a>" for name in names)
             + "<script>addEventListener('click', event => event.preventDefault())</script>")
    page = open_page(site.url())
    site.wait(1)
    page.evaluate("for (let link of document.links) link.click(); MiniNumbers.track('end')")
    site.wait(1, "end")
    downloads = site.wait(len(names), "File Download") if are_downloads else [event for event in site.events if event["n"] == "File Download"]
    assert {event["p"]["url"] for event in downloads} == ({site.url(f"/{name}") for name in names} if are_downloads else set())


def test_attributes_name_events_and_their_properties(site, open_page):
    site.add("/", "<button id=b data-mn-event=signup data-mn-plan=pro data-mn-seat-count=3><i id=i>go</i></button>"
                  "<form data-mn-event='sent form' data-mn-kind=contact action='/to'><input id=text><button id=submit>send</button></form>"
                  "<script>addEventListener('submit', event => event.preventDefault())</script>")
    page = open_page(site.url())
    page.click("#i")
    assert site.wait(1, "signup")[0]["p"] == {"plan": "pro", "seat-count": "3"}
    page.click("#text")
    page.click("#submit")
    assert site.wait(1, "sent form")[0]["p"] == {"kind": "contact"}
    page.wait_for_timeout(150)
    assert site.names().count("sent form") == 1


# ---- track() ---------------------------------------------------------------------------------------------------------

def test_what_was_tracked_before_the_script_came_is_sent_once_it_has(site, open_page):
    site.add("/", before=STUB + "<script>MiniNumbers.track('early', {props: {n: 1}})</script>")
    page = open_page(site.url())
    site.wait(1, "early")
    page.evaluate("MiniNumbers.track('late')")
    site.wait(1, "late")
    assert sorted(set(site.names()) - {"engagement"}) == ["early", "late", "pageview"]
    assert site.wait(1, "early")[0]["p"] == {"n": 1}


@pytest.mark.parametrize("where", ["before", "body"])
def test_the_readme_s_line_for_pages_that_are_not_found_needs_nothing_else(site, open_page, where):
    line = re.search(r"<script>.*404.*</script>", (ROOT / "README.md").read_text())[0]
    assert line in (ROOT / "docs/api.md").read_text()
    site.add("/missing", **{where: line})
    open_page(site.url("/missing"))
    [event] = site.wait(1, "404")
    assert event["p"] == {"path": "/missing"} and event["i"] is False
    site.wait(1, "pageview")


def test_the_readme_shows_the_same_stub():
    assert STUB in (ROOT / "README.md").read_text()


def test_events_carry_properties_revenue_and_whether_they_count(site, open_page):
    page = open_page(site.url())
    page.evaluate("MiniNumbers.track('buy', {props: {plan: 'pro', ok: true}, revenue: {amount: '9.50', currency: 'EUR'}, "
                  "interactive: false, url: 'https://example.com/shop'})")
    event, = site.wait(1, "buy")
    assert (event["p"], event["$"], event["i"], event["u"]) == (
        {"plan": "pro", "ok": True}, {"amount": "9.50", "currency": "EUR"}, False, "https://example.com/shop")


# ---- guards ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("host, attributes, init, counts", [
    ("localhost", "", "", False), ("127.0.0.1", "", "", False), ("app.localhost", "", "", False), ("localhost", "data-localhost", "", True),
    ("example.com", "", "", True), ("localhost.com", "", "", True), ("127.example.com", "", "", True),
    ("example.com", "", "Object.defineProperty(navigator, 'webdriver', {value: true})", False),
    ("example.com", "", "localStorage.mn_ignore = 1", False),
], ids=str)
def test_it_is_silent_where_nobody_visits(site, open_page, host, attributes, init, counts):
    site.add("/", attributes=f"data-site=example.com {attributes}")
    page = open_page(site.url(host=host), init=init)
    page.evaluate("MiniNumbers.track('event')")
    page.wait_for_timeout(400)
    assert ("pageview" in site.names()) == ("event" in site.names()) == counts


def test_two_tags_for_one_site_count_once_and_for_two_sites_each(site, open_page):
    tag = "<script defer src='/tracker.js' data-site={}></script>"
    site.add("/", tag.format("example.com") + tag.format("second.test"))
    page = open_page(site.url())
    site.wait(2)
    page.evaluate("MiniNumbers.track('both')")
    site.wait(2, "both")
    page.wait_for_timeout(250)
    assert sorted((event["n"], event["d"]) for event in site.events if event["n"] != "engagement") == [
        ("both", "example.com"), ("both", "second.test"), ("pageview", "example.com"), ("pageview", "second.test")]


def test_two_servers_can_count_one_site(site, open_page):
    site.add("/", "<script defer src='/second/tracker.js' data-site=example.com></script>")
    open_page(site.url())
    site.wait(2)
    assert sorted(path for path, *_ in site.requests) == ["/api/event", "/second/api/event"]


def test_nothing_is_left_in_the_browser(site, open_page):
    page = open_page(site.url())
    page.evaluate("MiniNumbers.track('event')")
    site.wait(1, "event")
    hide(page)
    assert page.context.cookies() == []
    assert page.evaluate("[document.cookie, localStorage.length, sessionStorage.length]") == ["", 0, 0]


def test_a_page_that_is_forbidden_its_storage_is_counted(site, open_page):
    open_page(site.url(), init="Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('no', 'SecurityError') }})")
    assert site.wait(1)[0]["n"] == "pageview"


# ---- with the real server --------------------------------------------------------------------------------------------

@pytest.fixture
def real(tmp_path, start_server):
    """(the real server, a function that asks it for the rows of a query), with the site example.com."""
    db = tmp_path / "test.db"
    run_command("setup", "--db", db, "--username", "owner", "--password-stdin", "--site", "example.com", stdin=PASSWORD)
    server, token = start_server(db, "--geoip", ""), run_command("token", "create", "--db", db, "--name", "test").stdout.strip()

    def ask(*metrics, **query):
        body = {"site_id": "example.com", "date_range": "day", "metrics": metrics, **query}
        request = urllib.request.Request(f"{server.url}/api/v2/query", json.dumps(body).encode(), {"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            return [(*row["dimensions"], *row["metrics"]) for row in json.load(answer)["results"]]
    return server, ask


def test_one_script_tag_is_enough_for_a_true_visit(site, open_page, real):
    server, ask = real
    site.add("/", TALL + LINKS, script=f"{server.url}/tracker.js")
    site.add("/second", TALL, script=f"{server.url}/js/script.js")
    page = open_page(site.url("/?utm_source=newsletter"))
    page.wait_for_timeout(1200)
    page.click("#out")
    page.goto(site.url("/second"))
    page.wait_for_timeout(400)
    hide(page)
    eventually(lambda: ask("visitors", "visits", "pageviews", "events", "bounce_rate"), [(1, 1, 2, 3, 0)])
    assert ask("visitors", dimensions=["visit:source", "visit:browser", "visit:os", "visit:device", "visit:entry_page", "visit:exit_page"]) == [
        ("newsletter", "Chrome", "Linux", "Desktop", "/", "/second", 1)]
    assert ask("events", dimensions=["event:props:url"], filters=[["is", "event:name", ["Outbound Link: Click"]]]) == [("https://other.test/page", 1)]
    by_page = {"dimensions": ["event:page"], "order_by": [["event:page", "asc"]]}
    eventually(lambda: [page for page, seconds in ask("time_on_page", **by_page) if seconds], ["/", "/second"])
    (_, seconds, depth), _ = ask("time_on_page", "scroll_depth", **by_page)
    assert 0.9 <= seconds <= 20 and depth >= 15


def test_a_visitor_who_asks_for_privacy_is_counted_without_a_description(site, open_page, real):
    server, ask = real
    site.add("/", script=f"{server.url}/tracker.js")
    open_page(site.url(), extra_http_headers={"Sec-GPC": "1"})
    eventually(lambda: ask("visitors", dimensions=["visit:browser", "visit:os", "visit:screen", "visit:language"]),
               [("(not set)", "(not set)", "(not set)", "(not set)", 1)])
