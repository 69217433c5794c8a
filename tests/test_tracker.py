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

ROOT = Path(__file__).resolve().parent.parent
SOURCE = (ROOT / "tracker.js").read_text("utf-8")
SCRIPT = (ROOT / "tracker.min.js").read_bytes()

# What the header of tracker.js tells people, read from there, so that it is true.
TERSER = re.search(r"npx --yes terser@.*", SOURCE)[0]
STUB = re.search(r"window\.MiniNumbers \|\|= \[\].*", SOURCE)[0]
IGNORE = re.search(r"localStorage\.(\w+)", SOURCE)[1]

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-blink-features=AutomationControlled", "--host-resolver-rules=MAP * 127.0.0.1",
]
AGENT = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36"

# What a test can switch in a page: whether it is in front and has the focus. Under test Chromium says yes to both, always.
SWITCHES = """
    Object.assign(window, {inFront: true, focused: true, cameBack: false, problems: []});
    Object.defineProperty(document, "hidden", {get: () => !inFront});
    Object.defineProperty(document, "visibilityState", {get: () => inFront ? "visible" : "hidden"});
    document.hasFocus = () => focused;
    window.show = (state) => { inFront = state; document.dispatchEvent(new Event("visibilitychange", {bubbles: true})); };
    addEventListener("pageshow", (event) => cameBack = event.persisted);
    addEventListener("securitypolicyviolation", (event) => problems.push(event.violatedDirective + " forbids " + event.blockedURI));
"""

HTML = "<!doctype html><html lang=en><title>A page</title>{head}<body style='margin: 0'>{body}</body></html>"
TALL = "<div style='height: 3000px'>tall</div>"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    recorder = None

    def do_GET(self):
        path = self.path.partition("?")[0]
        if path.endswith(".js"):
            self.answer(200, SCRIPT, "text/javascript")
        elif path.endswith(".pdf"):
            self.answer(200, b"%PDF", "application/pdf", {"Content-Disposition": "attachment"})
        else:
            page = self.recorder.pages.get(path, HTML.format(head="", body="another page"))
            self.answer(200, page.encode(), "text/html; charset=utf-8", self.recorder.headers)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(202, b"ok", "text/plain", {"Access-Control-Allow-Origin": self.headers.get("Origin", "*"), "Access-Control-Allow-Credentials": "true"})
        self.recorder.record({"path": self.path, "headers": dict(self.headers), "body": json.loads(body)})

    def do_OPTIONS(self):  # a preflight would be a second round trip for every message: refused, so that a test notices
        self.answer(405)

    def answer(self, status, body=b"", kind="text/plain", headers=()):
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": len(body), **dict(headers)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Recorder:
    """A server on a free port with `pages` (path -> HTML), `headers` for them, and the `messages` that were posted."""

    def __init__(self):
        self.pages, self.headers, self.messages = {}, {}, []
        self.changed = threading.Condition()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"recorder": self}))
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def url(self, path="/", host="example.com"):
        return f"http://{host}:{self.server.server_port}{path}"

    def tag(self, attributes='data-site="example.com"', script="/tracker.js"):
        return f'<script defer src="{self.url(script, "stats.example.com")}" {attributes}></script>'

    def record(self, message):
        with self.changed:
            self.messages.append(message)
            self.changed.notify_all()

    def sent(self, name=None):
        """The bodies so far; of one name, if it is given. Messages may overtake each other on the way."""
        return [message["body"] for message in list(self.messages) if name in (None, message["body"]["n"])]

    def wait(self, name, count=1):
        """The bodies of a name, as soon as there are `count`."""
        end = time.monotonic() + 10
        with self.changed:
            while len(self.sent(name)) < count and self.changed.wait(end - time.monotonic()):
                pass
        assert len(self.sent(name)) == count, f"wanted {count} {name}, there came {self.sent()}"
        return self.sent(name)

    def wait_for_page(self, path, count=1):
        """The newest pageview of a path (with query and fragment), as soon as there are `count` of them."""
        end = time.monotonic() + 10
        with self.changed:
            while len(found := [body for body in self.sent("pageview") if body["u"].endswith(path)]) < count and self.changed.wait(end - time.monotonic()):
                pass
        assert len(found) == count, f"wanted {count} of {path}, there came {self.sent()}"
        return found[-1]


@pytest.fixture
def server():
    recorder = Recorder()
    yield recorder
    recorder.server.shutdown()
    recorder.server.server_close()


@pytest.fixture(scope="module")
def chromium(browser):
    """A browser of this file's own: every name is this machine, and the back/forward cache, which Playwright turns off, is on."""
    own = browser.browser_type.launch(executable_path=shutil.which("chromium") or shutil.which("chromium-browser"), args=FLAGS,
                                      ignore_default_args=["--disable-back-forward-cache"])
    yield own
    own.close()


@pytest.fixture
def context(chromium):
    context = chromium.new_context(user_agent=AGENT, viewport={"width": 800, "height": 600})
    context.add_init_script(SWITCHES)
    yield context
    context.close()


@pytest.fixture
def page(context):
    """A page on which nothing may log an error, throw, reject unheard, or break a content security policy."""
    page, complaints = context.new_page(), []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    yield page
    if not page.is_closed():
        complaints += page.evaluate("problems")
    assert complaints == []


@pytest.fixture
def load(server, page):
    """load(body, …) makes a page with the tag and opens it."""
    def load(body="", attributes='data-site="example.com"', path="/", host="example.com", head="", script="/tracker.js"):
        server.pages[re.split("[?#]", path)[0]] = HTML.format(head='<link rel=icon href="data:,">' + head + server.tag(attributes, script), body=body)
        page.goto(server.url(path, host))
    return load


@pytest.fixture
def visit(server, load):
    """As load, and wait for the pageview, which is returned."""
    def visit(*args, **more):
        load(*args, **more)
        return server.wait("pageview")[0]
    return visit


def settle(page):
    """Return when all that has happened until now is told: the tracker looks up ten times a second."""
    page.evaluate("new Promise((resolve) => setTimeout(resolve, 350))")
    page.evaluate("fetch('/after').then((answer) => answer.text())")


def go(page, path, method="pushState"):
    page.evaluate("([method, path]) => history[method](null, '', path)", [method, path])


def scroll(page, y):
    """Scroll, and give the tracker time for a look."""
    page.evaluate("(y) => new Promise((resolve) => { scrollTo(0, y); setTimeout(resolve, 250); })", y)


def fields(body, *names):
    return {name: body.get(name) for name in names}


# ---- a page ----------------------------------------------------------------------------------------------------------

def test_a_page_is_counted_when_it_is_loaded(server, visit):
    body = visit(path="/blog/?utm_source=news")
    assert fields(body, "n", "u", "d", "r", "w") == {
        "n": "pageview", "u": server.url("/blog/?utm_source=news"), "d": "example.com", "r": "", "w": 800}
    assert not {"p", "$", "i", "h"} & set(body)


def test_a_message_is_plain_text_and_needs_no_preflight(server, visit):
    visit()
    assert server.messages[0]["path"] == "/api/event"
    assert server.messages[0]["headers"]["Content-Type"].startswith("text/plain")


def test_the_referrer_is_the_page_somebody_came_from(server, load, page):
    server.pages["/from"] = HTML.format(head='<meta name=referrer content=unsafe-url><link rel=icon href="data:,">', body=f"<a href='{server.url()}'>go</a>")
    server.pages["/"] = HTML.format(head='<link rel=icon href="data:,">' + server.tag(), body="")
    page.goto(server.url("/from", "search.example.net"))
    page.click("a")
    assert server.wait("pageview")[0]["r"] == server.url("/from", "search.example.net")


def test_without_data_site_the_site_is_the_host_of_the_page(visit):
    assert visit(attributes="", host="shop.example.com")["d"] == "shop.example.com"


@pytest.mark.parametrize("script, endpoint", [
    ("/tracker.js", "/api/event"),
    ("/js/script.js", "/api/event"),
    ("/stats/tracker.js", "/stats/api/event"),
    ("/stats/js/script.js", "/stats/api/event"),
    ("/nodejs/tracker.js?v=1.2", "/nodejs/api/event"),
    ("/js/script.js?v=3", "/api/event"),
])
def test_messages_go_to_where_the_script_came_from(server, visit, script, endpoint):
    visit(script=script)
    assert server.messages[0]["path"] == endpoint
    assert server.messages[0]["headers"]["Host"].startswith("stats.example.com")


def test_data_api_says_where_messages_go_instead(server, visit):
    visit(attributes=f'data-api="{server.url("/my/endpoint", "collect.example.com")}"')
    assert server.messages[0]["path"] == "/my/endpoint"
    assert server.messages[0]["headers"]["Host"].startswith("collect.example.com")


def test_a_tag_put_in_by_a_script_works(server, page):
    server.pages["/"] = HTML.format(head='<link rel=icon href="data:,">', body=f"""<script>
        document.head.append(Object.assign(document.createElement("script"), {{src: "{server.url('/tracker.js', 'stats.example.com')}"}}))</script>""")
    page.goto(server.url())
    server.wait("pageview")


def test_a_signal_for_privacy_is_left_to_the_server(server, context, visit):
    context.set_extra_http_headers({"Sec-GPC": "1"})
    context.add_init_script("Object.defineProperty(Navigator.prototype, 'globalPrivacyControl', {value: true})")
    visit()


def test_a_prerendered_page_counts_when_somebody_sees_it(server, context, load, page):
    context.add_init_script("window.prerendering = true; Object.defineProperty(document, 'prerendering', {get: () => prerendering})")
    load(f"<script>{STUB}; MiniNumbers.track('early')</script>")
    page.evaluate("MiniNumbers.track('later')")
    settle(page)
    assert server.sent() == []
    page.evaluate("prerendering = false; document.dispatchEvent(new Event('prerenderingchange'))")
    server.wait("pageview")
    server.wait("early")
    server.wait("later")


def test_a_page_that_comes_back_from_the_cache_counts_again(server, visit, page):
    visit()
    page.evaluate("document.title = 'kept'")
    page.goto(server.url("/elsewhere", "other.example.net"))
    page.evaluate("history.back()")
    assert server.wait("pageview", 2)[1]["u"] == server.url()
    assert page.evaluate("[cameBack, document.title]") == [True, "kept"]


def test_only_a_persisted_pageshow_counts(server, visit, page):
    visit()
    page.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', {persisted: false}))")
    settle(page)
    server.wait("pageview", 1)
    page.evaluate("dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true}))")
    server.wait("pageview", 2)


# ---- single-page applications ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("method", ["pushState", "replaceState"])
def test_a_new_path_is_a_new_page(server, visit, page, method):
    visit()
    go(page, "/two?tab=1", method)
    assert server.wait_for_page("/two?tab=1")["d"] == "example.com"


@pytest.mark.parametrize("method", ["pushState", "replaceState"])
def test_a_new_query_or_fragment_is_the_same_page(server, visit, page, method):
    visit()
    go(page, "/?sort=up", method)
    go(page, "/?sort=up#part", method)
    page.evaluate("location.hash = 'other'")
    settle(page)
    server.wait("pageview", 1)


def test_back_and_forward_are_pages(server, visit, page):
    visit()
    go(page, "/two")
    server.wait_for_page("/two")
    page.evaluate("history.back()")
    server.wait_for_page("com:%d/" % server.server.server_port, 2)
    page.evaluate("history.forward()")
    server.wait_for_page("/two", 2)


def test_a_router_that_kept_the_original_methods_is_seen(server, visit, page):
    visit(head="<script>var original = history.pushState.bind(history); history.pushState = () => { throw 1 }</script>")
    page.evaluate("original(null, '', '/two')")
    server.wait_for_page("/two")


def test_the_history_of_the_page_is_left_alone(visit, page):
    visit(head="<script>var before = [history.pushState, history.replaceState, onpopstate]; Object.freeze(history)</script>")
    assert page.evaluate("before[0] === history.pushState && before[1] === history.replaceState && before[2] === onpopstate")


def test_where_there_is_no_navigation_api_a_new_page_is_noticed_all_the_same(server, context, visit, page):
    context.add_init_script("Object.defineProperty(window, 'navigation', {value: undefined})")
    visit()
    go(page, "/two")
    server.wait_for_page("/two")


def test_the_fragment_is_the_page_if_asked(server, visit, page):
    assert visit(attributes='data-spa="hash"')["h"] == 1
    page.evaluate("location.hash = '/two'")
    assert server.wait_for_page("#/two")["h"] == 1
    go(page, "/#/three")
    server.wait_for_page("#/three")


# ---- engagement ------------------------------------------------------------------------------------------------------

def test_time_and_depth_are_told_when_the_page_is_hidden(server, visit, page):
    visit(TALL)
    scroll(page, 900)
    scroll(page, 0)
    page.evaluate("show(false)")
    body = server.wait("engagement")[0]
    assert body["u"] == server.url() and body["d"] == "example.com"
    assert body["sd"] == 50  # 900 + 600 of 3000 pixels
    assert 300 < body["e"] < 5000


def test_what_fits_into_the_window_is_read_whole(server, visit, page):
    visit("short")
    settle(page)
    page.evaluate("show(false)")
    assert server.wait("engagement")[0]["sd"] == 100


def test_the_end_of_a_page_is_a_hundred_percent(server, visit, page):
    visit("<div style='height: 2999.4px'>tall</div>")
    scroll(page, 9999)
    page.evaluate("show(false)")
    assert server.wait("engagement")[0]["sd"] == 100


def test_a_page_that_is_left_tells_its_own_address(server, visit, page):
    visit()
    settle(page)
    page.goto("about:blank")
    assert server.wait("engagement")[0]["u"] == server.url()


def test_a_tab_that_is_closed_tells(server, visit, page):
    visit()
    settle(page)
    page.close()
    assert server.wait("engagement")[0]["e"] > 100


def test_the_next_page_of_an_application_comes_after_the_engagement_of_the_one_before(server, visit, page):
    visit(TALL)
    scroll(page, 2400)
    go(page, "/two")
    server.wait_for_page("/two")
    assert fields(server.wait("engagement")[0], "u", "sd") == {"u": server.url(), "sd": 100}
    page.evaluate("scrollTo(0, 0)")
    go(page, "/three")
    server.wait_for_page("/three")
    assert {body["u"] for body in server.wait("engagement", 2)} == {server.url(), server.url("/two")}


def test_nothing_is_told_twice(server, visit, page):
    visit()
    settle(page)
    page.evaluate("dispatchEvent(new PageTransitionEvent('pagehide', {persisted: true})); show(false)")
    settle(page)
    page.evaluate("show(true); show(false)")
    settle(page)
    server.wait("engagement", 1)


@pytest.mark.parametrize("away, back", [("focused = false", "focused = true"), ("show(false)", "show(true)")])
def test_time_stops_while_nobody_looks(server, visit, page, away, back):
    visit()
    settle(page)
    page.evaluate(away)
    settle(page)
    before = sum(body["e"] for body in server.sent("engagement"))
    page.evaluate("new Promise((resolve) => setTimeout(resolve, 2000))")
    page.evaluate(back)
    settle(page)
    page.evaluate("show(false)")
    settle(page)
    total = sum(body["e"] for body in server.sent("engagement"))
    assert 0 < total - before < 2000 or not before and 0 < total < 2000


def test_increments_add_up(server, visit, page):
    visit()
    for count in (1, 2, 3):
        settle(page)
        page.evaluate("show(false)")
        server.wait("engagement", count)
        page.evaluate("show(true)")
    assert all(0 < body["e"] < 3000 for body in server.sent("engagement"))


def test_a_heartbeat_tells_while_somebody_looks_and_only_then(server, visit, page):
    visit(attributes='data-heartbeat="0.4"')
    first, second = server.wait("engagement", 2)
    assert 400 <= first["e"] < 2000 and 400 <= second["e"] < 2000
    page.evaluate("focused = false")
    settle(page)
    count = len(server.sent("engagement"))
    page.evaluate("new Promise((resolve) => setTimeout(resolve, 1200))")
    server.wait("engagement", count)


def test_without_a_heartbeat_a_page_in_front_is_silent(server, visit, page):
    visit()
    page.evaluate("new Promise((resolve) => setTimeout(resolve, 1000))")
    server.wait("engagement", 0)


# ---- clicks ----------------------------------------------------------------------------------------------------------

OUT = "http://other.example.net/path?token=secret#part"


@pytest.mark.parametrize("how", [{}, {"button": "middle"}, {"modifiers": ["Control"]}, {"modifiers": ["Shift"]}])
def test_a_link_to_another_host_is_told_however_it_is_opened(server, visit, page, how):
    visit(f"<a href='{OUT}'>out</a>")
    page.click("a", **how, no_wait_after=True)
    assert server.wait("Outbound Link: Click")[0]["p"] == {"url": "http://other.example.net/path"}


def test_a_link_opened_with_the_keyboard_is_told(server, visit, page):
    visit(f"<a href='{OUT}'>out</a>")
    page.press("a", "Enter", no_wait_after=True)
    server.wait("Outbound Link: Click")


def test_a_click_on_something_inside_a_link_is_a_click_on_the_link(server, visit, page):
    visit(f"<a href='{OUT}'><b><svg width=40 height=40><circle r=20 /></svg></b></a>")
    page.click("svg", no_wait_after=True)
    server.wait("Outbound Link: Click")


def test_a_handler_that_keeps_clicks_to_itself_hides_none(server, visit, page):
    visit(f"<a href='{OUT}' onclick='event.stopPropagation(); event.preventDefault()'>out</a>")
    page.click("a")
    server.wait("Outbound Link: Click")


def test_a_link_leads_where_it_led_without_the_tracker(server, visit, page):
    visit("<a href='/inside'>in</a>")
    page.click("a")
    page.wait_for_url("**/inside")
    assert server.sent("Outbound Link: Click") == []


@pytest.mark.parametrize("href", ["/inside", "#part", "mailto:someone@other.example.net", "tel:+123", "javascript:void 0", "/page.html", "/index.php", "/v1.2"])
def test_other_links_are_no_event(server, visit, page, href):
    visit(f"<a href='{href}' onclick='event.preventDefault()'>link</a>")
    page.click("a")
    settle(page)
    assert {body["n"] for body in server.sent()} <= {"pageview", "engagement"}


def test_a_right_click_opens_nothing(server, visit, page):
    visit(f"<a href='{OUT}' data-mn-event=menu>out</a><form data-mn-event=form><input></form>")
    page.click("a", button="right")
    page.click("input", button="right")
    settle(page)
    assert {body["n"] for body in server.sent()} == {"pageview"}


@pytest.mark.parametrize("how", [{}, {"button": "middle"}])
def test_a_download_is_told(server, visit, page, how):
    visit("<a href='/files/report.pdf?key=secret#page=2'>report</a>")
    page.click("a", **how, no_wait_after=True)
    assert server.wait("File Download")[0]["p"] == {"url": server.url("/files/report.pdf")}


@pytest.mark.parametrize("ending", "pdf xlsx docx txt rtf csv exe key pptx 7z pkg rar gz zip avi mov mp4 mpeg wmv midi mp3 wav wma dmg xls doc ppt PDF tar.gz".split())
def test_the_usual_files_are_downloads_on_any_host(server, visit, page, ending):
    visit(f"<a href='http://files.example.net/a.{ending}' onclick='event.preventDefault()'>file</a>")
    page.click("a")
    server.wait("File Download")
    assert server.sent("Outbound Link: Click") == []


def test_made_up_clicks_on_what_is_no_element_do_no_harm(server, visit, page):
    visit()
    page.evaluate("document.dispatchEvent(new Event('click')); dispatchEvent(new Event('click'))")
    settle(page)


# ---- a site's own events ---------------------------------------------------------------------------------------------

def test_an_element_names_the_event_of_its_click(server, visit, page):
    visit("<button class=big data-mn-event=signup data-mn-plan=pro data-mn-paid-by=card data-other=1><b>Sign up</b></button>")
    page.click("b")
    body = server.wait("signup")[0]
    assert body["p"] == {"plan": "pro", "paid-by": "card"} and body["u"] == server.url()


def test_a_form_names_the_event_of_its_submission(server, visit, page):
    visit("<form data-mn-event=contact data-mn-page=home onsubmit='event.preventDefault()'><input name=q><button>Send</button></form>")
    page.click("input")
    settle(page)
    assert server.sent("contact") == []
    page.click("button")
    assert server.wait("contact")[0]["p"] == {"page": "home"}


def test_an_event_has_properties_revenue_and_an_effect_on_bounces(server, visit, page):
    visit()
    page.evaluate("""MiniNumbers.track("order", {props: {items: 2}, revenue: {amount: 9.5, currency: "EUR"}, interactive: false})""")
    assert fields(server.wait("order")[0], "u", "d", "p", "$", "i") == {
        "u": server.url(), "d": "example.com", "p": {"items": 2}, "$": {"amount": 9.5, "currency": "EUR"}, "i": False}


def test_an_event_without_options_has_none(server, visit, page):
    visit()
    page.evaluate("MiniNumbers.track('plain')")
    assert not {"p", "$", "i"} & set(server.wait("plain")[0])


def test_an_event_may_be_of_another_address(server, visit, page):
    visit()
    page.evaluate("MiniNumbers.track('seen', {url: 'http://example.com/popup'})")
    assert server.wait("seen")[0]["u"] == "http://example.com/popup"


def test_an_event_right_after_a_new_page_belongs_to_that_page(server, visit, page):
    visit()
    page.evaluate("history.pushState(null, '', '/two'); MiniNumbers.track('there')")
    assert server.wait("there")[0]["u"] == server.url("/two")


def test_events_from_before_the_script_are_sent_once(server, visit, page):
    visit(head=f"<script>{STUB}; MiniNumbers.track('early', {{props: {{a: 'b'}}}}); MiniNumbers.track('second')</script>")
    assert server.wait("early")[0]["p"] == {"a": "b"}
    server.wait("second")
    page.evaluate("MiniNumbers.track('now')")
    server.wait("now")
    settle(page)
    assert sorted(body["n"] for body in server.sent()) == ["early", "now", "pageview", "second"]


# ---- who is not counted ----------------------------------------------------------------------------------------------

def silent(server, page):
    """Whether nothing is sent, whatever happens on the page."""
    page.evaluate("history.pushState(null, '', '#x'); MiniNumbers.track('event'); document.querySelector('a').click()")
    settle(page)
    page.evaluate("show(false)")
    settle(page)
    return server.sent() == []


LINK = "<a href='http://other.example.net/' onclick='event.preventDefault()'>out</a>"


def test_a_driven_browser_is_not_counted(server, context, load, page):
    context.add_init_script("Object.defineProperty(Navigator.prototype, 'webdriver', {get: () => true})")
    load(LINK)
    assert silent(server, page)


@pytest.mark.parametrize("host", ["localhost", "app.localhost", "127.0.0.1", "127.1.2.3", "[::1]"])
def test_this_machine_is_not_counted_unless_asked(server, load, page, host):
    load(LINK, host=host)
    assert silent(server, page)
    load(LINK, 'data-localhost data-site="example.com"', path="/asked", host=host)
    server.wait_for_page("/asked")


def test_a_file_is_not_counted(server, page, tmp_path):
    (tmp_path / "page.html").write_text(HTML.format(head=server.tag(), body=LINK))
    page.goto((tmp_path / "page.html").as_uri())
    assert silent(server, page)


@pytest.mark.parametrize("host", ["localhost.example.com", "10.0.0.1"])
def test_every_other_host_is_counted(visit, host):
    visit(host=host)


def test_who_asked_to_be_left_out_is_not_counted(server, context, load, page):
    context.add_init_script(f"localStorage.setItem('{IGNORE}', 'true')")
    load(LINK)
    assert silent(server, page)


def test_where_storage_is_forbidden_visits_count(context, visit):
    context.add_init_script("Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('no', 'SecurityError') }})")
    visit()


# ---- good manners ----------------------------------------------------------------------------------------------------

def test_nothing_is_stored_in_the_browser(server, context, visit, page):
    visit(LINK)
    page.evaluate("MiniNumbers.track('event')")
    page.click("a")
    settle(page)
    assert context.cookies() == []
    assert page.evaluate("[document.cookie, localStorage.length, sessionStorage.length]") == ["", 0, 0]
    assert page.evaluate("indexedDB.databases()") == []


def test_the_only_thing_a_page_sees_of_it_is_MiniNumbers(server, page):
    names = "Object.getOwnPropertyNames(window)"
    page.goto(server.url("/without"))
    before = page.evaluate(names)
    server.pages["/with"] = HTML.format(head='<link rel=icon href="data:,">' + server.tag(), body="")
    page.goto(server.url("/with"))
    assert set(page.evaluate(names)) - set(before) == {"MiniNumbers"}


def test_a_strict_content_security_policy_is_kept(server, visit, page):
    stats = server.url("", "stats.example.com")
    server.headers = {"Content-Security-Policy":
                      f"default-src 'none'; script-src {stats}; connect-src 'self' {stats}; img-src data:; require-trusted-types-for 'script'"}
    visit("<a href='#part'>link</a>")
    page.click("a")
    settle(page)


def test_a_server_that_is_down_does_not_disturb_the_page(chromium, server):
    page, errors = chromium.new_page(user_agent=AGENT), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    server.pages["/"] = HTML.format(head="<script>var lost = 0; addEventListener('unhandledrejection', () => lost++)</script>"
                                    + server.tag('data-api="http://127.0.0.1:9/api/event"'), body=LINK)
    page.goto(server.url())
    page.evaluate("MiniNumbers.track('event')")
    page.click("a")
    settle(page)
    assert (page.evaluate("lost"), errors) == (0, [])
    page.close()


def test_two_sites_can_count_one_page(server, visit_two):
    one, two = visit_two('data-site="example.com"', 'data-site="all.example.com"')
    assert one == two == ["early", "now", "out", "pageview"]


def test_the_same_tag_twice_counts_once(server, visit_two):
    one, _ = visit_two('data-site="example.com"', 'data-site="example.com"')
    assert one == ["early", "now", "out", "pageview"]


@pytest.fixture
def visit_two(server, page):
    """Open a page with two tags, let something happen; return the names that each of two sites was told."""
    def visit_two(first, second):
        server.pages["/"] = HTML.format(head=f"<link rel=icon href='data:,'><script>{STUB}; MiniNumbers.track('early')</script>"
                                        + server.tag(first) + server.tag(second), body="<button data-mn-event=out>click</button>")
        page.goto(server.url())
        page.evaluate("MiniNumbers.track('now')")
        page.click("button")
        settle(page)
        return [sorted(body["n"] for body in server.sent() if body["d"] == site) for site in ("example.com", "all.example.com")]
    return visit_two


# ---- the file --------------------------------------------------------------------------------------------------------

def test_the_small_file_is_made_from_the_readable_one(tmp_path):
    command, *arguments = shlex.split(TERSER)
    program = shutil.which(command)
    assert program, f"{command} is not installed; it comes with Node.js"
    shutil.copy(ROOT / "tracker.js", tmp_path)
    subprocess.run([program, *arguments], cwd=tmp_path, check=True, timeout=120, capture_output=True)
    assert (tmp_path / "tracker.min.js").read_bytes().strip() == SCRIPT.strip()


def test_it_has_at_most_a_thousand_bytes():
    assert len(gzip.compress(SCRIPT, 9)) <= 1000
