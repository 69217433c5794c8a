"""Mini Numbers inside other people's programs: under a prefix, beside a twin, in several processes, and gone when closed."""
import contextlib
import importlib
import itertools
import json
import re
import sqlite3
import subprocess
import sys
import threading
import time
import types
import urllib.request

import django.conf
import django.http
import django.urls
import pytest
import waitress
import webtest

from conftest import CHROME, PASSWORD, ROOT, Server, Site, password_is_right, run_command
from mininumbers import Settings, create_app

README = (ROOT / "README.md").read_text("utf-8")
EXAMPLES = {name: code for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL) for name in ("flask", "django") if f"from {name}" in code}


def rows(db, sql):
    with contextlib.closing(sqlite3.connect(db)) as connection:
        return connection.execute(sql).fetchall()


# ---- under a prefix, as the README says ------------------------------------------------------------------------------

PAGE = '<!doctype html><title>Article</title><link rel="icon" href="data:,"><p>Text<script defer src="/stats/tracker.js" data-site="example.com"></script>'


def flask_host(host):
    """Add a page to the Flask application and return it."""
    host.app.route("/article")(lambda: PAGE)
    return host.app


def django_host(host):
    """Return the Django application, whose project has one page."""
    return host.application


def configure_django():
    urls = types.ModuleType("urls")
    urls.urlpatterns = [django.urls.path("article", lambda request: django.http.HttpResponse(PAGE))]
    django.conf.settings.configure(ROOT_URLCONF=urls, ALLOWED_HOSTS=["*"], SECRET_KEY="of the test only")


@pytest.fixture(scope="module", params=[flask_host, django_host], ids=["flask", "django"])
def host(request, tmp_path_factory):
    """(The host's WSGI application, ours within it), made by the README's own example in a file of its own."""
    name, folder, made = request.param.__name__, tmp_path_factory.mktemp("host"), []

    def create(settings):
        made.append(create_app(settings))
        return made[-1]
    if not django.conf.settings.configured:
        configure_django()
    (folder / f"{name}.py").write_text(EXAMPLES[name.partition("_")[0]])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        patch.setattr("mininumbers.create_app", create)  # what the example makes must be set up, and closed afterwards
        application = request.param(importlib.import_module(name))
        with contextlib.closing(made[0]) as app:
            app.setup("owner", PASSWORD, "example.com")
            yield application, app


@pytest.fixture
def web(host):
    """A browser's requests to the host."""
    return webtest.TestApp(host[0], extra_environ={"REMOTE_ADDR": "127.0.0.1"})


def test_the_host_keeps_its_own_pages_and_ours_begin_at_the_prefix(web):
    assert "Article" in web.get("/article")
    assert "<title>" in web.get("/stats/").text and "Content-Security-Policy" in web.get("/stats/").headers
    assert web.get("/stats/health").json["status"] == "ok"
    web.get("/health", status=404)
    web.get("/statsx", status=404)
    assert web.get("/stats/nothing", status=404).json["code"] == "not-found"


def test_the_prefix_without_its_slash_leads_to_the_dashboard(web):
    answer = web.get("/stats")
    assert answer.status_code == 308
    assert answer.headers["Location"].removeprefix("http://localhost:80") == "/stats/"


def test_an_event_is_counted_and_can_be_asked_for_under_the_prefix(web, host):
    web.post_json("/stats/api/event", {"n": "pageview", "u": "https://example.com/counted", "d": "example.com"}, headers={"User-Agent": CHROME}, status=202)
    token = host[1].create_token("test")
    answer = web.post_json("/stats/api/v2/query", {"site_id": "example.com", "metrics": ["visitors"], "date_range": "all", "dimensions": ["event:page"],
                                                   "filters": [["is", "event:page", ["/counted"]]]},
                           headers={"Authorization": f"Bearer {token}"})
    assert answer.json["results"] == [{"dimensions": ["/counted"], "metrics": [1]}]


def test_the_cookie_is_for_the_prefix_only(web):
    answer = web.post_json("/stats/api/login", {"username": "owner", "password": PASSWORD}, headers={"Origin": "http://localhost:80"})
    assert re.search(r"; path=/stats/(?:;|$)", answer.headers["Set-Cookie"], re.IGNORECASE)
    assert web.get("/stats/api/session").json["user"]["username"] == "owner"
    assert web.get("/article").request.headers.get("Cookie") is None
    web.post_json("/stats/api/logout", {}, headers={"Origin": "http://localhost:80"})
    assert web.get("/stats/api/session").json["user"] is None


def test_the_dashboard_asks_only_beside_itself():
    source = (ROOT / "dashboard.html").read_text("utf-8")
    assert re.findall(r"""fetch\(\s*['"`]/|(?:href|src|action)=["']/|['"`]/(?:api|tracker\.js|pixel\.gif)\b""", source) == []


@contextlib.contextmanager
def serving(application):
    """Serve a WSGI application in this process; give its port."""
    server = waitress.create_server(application, host="127.0.0.1", port=0, threads=4)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        yield server.effective_port
    finally:
        server.task_dispatcher.shutdown()
        server.close()
        server.trigger.close()
        thread.join(10)


def test_the_tracker_posts_beside_itself_and_the_dashboard_shows_it_in_a_browser(host, browser):
    application, app = host
    problems = []
    with serving(application) as port, contextlib.closing(browser.new_context(user_agent=CHROME)) as context:
        page = context.new_page()
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        with page.expect_response("**/stats/api/event") as posted:
            page.goto(f"http://example.com:{port}/article")
        assert (posted.value.status, posted.value.headers.get("x-mininumbers-dropped")) == (202, None)
        context.request.post(f"http://127.0.0.1:{port}/stats/api/login", headers={"Sec-Fetch-Site": "same-origin"}, data={"username": "owner", "password": PASSWORD})
        page.goto(f"http://127.0.0.1:{port}/stats/")
        page.get_by_text("/article", exact=True).first.wait_for()
    assert problems == []
    assert rows(app.settings.db, "select count(*) from hits join texts on texts.id = page where text = '/article'") == [(1,)]


# ---- two apps in one process -----------------------------------------------------------------------------------------

def test_two_apps_in_one_process_do_not_mix(tmp_path, clock):
    with contextlib.ExitStack() as stack:
        apps = [stack.enter_context(contextlib.closing(create_app(Settings(db=str(tmp_path / name), geoip="", mode=mode), clock=clock)))
                for name, mode in (("one.db", "standard"), ("two.db", "paranoid"))]
        for number, app in enumerate(apps):
            app.setup(f"owner{number}", PASSWORD, "example.com")
        one, two = map(Site, apps)
        for number in range(3):
            one.send(f"/{number}", ip=f"192.0.2.{number}")
        two.send("/of-two")
        assert one.rows("visitors", dimensions=["event:page"]) == [("/0", 1), ("/1", 1), ("/2", 1)]
        assert two.rows("visitors", dimensions=["event:page", "visit:browser"]) == [("/of-two", "(not set)", 1)]
        assert not password_is_right(apps[1], "owner0", PASSWORD)
        two.token = one.token
        two.query(status=401)
        apps[0].close()
        two.send("/after-the-other-closed")
    assert [len({salt for name in ("one.db", "two.db") for salt in rows(tmp_path / name, "select salt from salts")})] == [2]


def test_the_same_visitor_has_another_hash_in_another_database(tmp_path, clock):
    for name in ("one.db", "two.db"):
        with contextlib.closing(create_app(Settings(db=str(tmp_path / name), geoip=""), clock=clock)) as app:
            app.setup("owner", PASSWORD, "example.com")
            Site(app).send()
    assert rows(tmp_path / "one.db", "select visitor from visits") != rows(tmp_path / "two.db", "select visitor from visits")


# ---- threads and files -----------------------------------------------------------------------------------------------

def test_importing_the_module_starts_no_thread_and_opens_no_file(tmp_path):
    program = """
import sys
opened = []
import bottle, geoip2.database, maxminddb, ua_parser, ua_parser_rs, waitress, waitress.proxy_headers  # theirs are not ours
import sqlite3, logging, threading
def watch(event, arguments):
    if event in ("open", "sqlite3.connect", "socket.bind", "subprocess.Popen", "os.mkdir", "os.remove"):
        if not str(arguments[0]).endswith((".py", ".pyc", ".so")) and "site-packages" not in str(arguments[0]) and sys.prefix not in str(arguments[0]):
            opened.append((event, *map(str, arguments)))
sys.addaudithook(watch)
handlers = list(logging.getLogger().handlers)
import mininumbers
assert [thread for thread in threading.enumerate() if thread is not threading.main_thread()] == []
assert handlers == logging.getLogger().handlers
print(opened)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "PATH": ""},
                          capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("[]\n", "")
    assert list(tmp_path.iterdir()) == []


def test_threads_start_with_the_first_request_and_end_with_close(tmp_path):
    before = set(threading.enumerate())
    app = create_app(Settings(db=str(tmp_path / "test.db")))
    assert set(threading.enumerate()) == before
    web = webtest.TestApp(app, extra_environ={"REMOTE_ADDR": "127.0.0.1"})
    web.get("/health")
    assert {thread.name for thread in set(threading.enumerate()) - before} == {"mininumbers-writer", "mininumbers-jobs"}
    app.close()
    assert set(threading.enumerate()) - before == set()
    app.close()  # once more does no harm


def test_close_lets_go_of_every_file(tmp_path):
    open_files = """
import os, sys
sys.path.insert(0, sys.argv[1])
import bottle, webtest
from mininumbers import Settings, create_app
def files():
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:
            pass
    return {name for name in found if ".db" in name or ".mmdb" in name}
app = create_app(Settings(db=sys.argv[2]))
webtest.TestApp(app, extra_environ={"REMOTE_ADDR": "127.0.0.1"}).get("/health")
assert files()
app.close()
print(sorted(files()))
"""
    done = subprocess.run([sys.executable, "-c", open_files, str(ROOT), str(tmp_path / "test.db")], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_an_app_that_cannot_be_made_leaves_nothing_behind(tmp_path):
    before = set(threading.enumerate())
    for _ in range(3):
        with pytest.raises(Exception, match="GeoIP"):
            create_app(Settings(db=str(tmp_path / "test.db"), geoip=str(tmp_path / "none.mmdb")))
    assert set(threading.enumerate()) == before
    (tmp_path / "test.db").unlink()
    assert list(tmp_path.iterdir()) == []  # no -wal, no -shm: the connection was closed


def test_a_closed_app_refuses_events_and_loses_none_before(tmp_path, clock):
    app = create_app(Settings(db=str(tmp_path / "test.db"), geoip=""), clock=clock)
    app.setup("owner", PASSWORD, "example.com")
    site = Site(app)
    site.send()
    app.close()
    assert site.send(status=503).headers["Retry-After"]
    assert rows(tmp_path / "test.db", "select count(*) from hits") == [(1,)]


# ---- several processes on one database -------------------------------------------------------------------------------

def post(url, body, ip, headers=()):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"User-Agent": CHROME, "X-Forwarded-For": ip, **dict(headers)})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.status, answer.headers.get("X-MiniNumbers-Dropped"), answer.read()


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    """The addresses of two servers on one database with the sites a.example and b.example, a token, and the database."""
    db = tmp_path_factory.mktemp("twins") / "test.db"
    with contextlib.closing(create_app(Settings(db=str(db), geoip=""))) as app:
        app.setup("owner", PASSWORD, "a.example")
        app.set_site("a.example", rotation_hours=8760)  # midnight may come while these tests run
        app.add_site("b.example", rotation_hours=8760)
        token = app.create_token("test")
    servers = [Server(db, "--geoip", "") for _ in range(2)]
    yield [server.url for server in servers], token, db
    for server in servers:
        server.kill()


def test_processes_on_one_database_agree(twins):
    urls, token, db = twins
    turns = itertools.cycle(urls)
    for page in range(10):
        for visitor in range(9):  # an odd number, so that each visitor goes to and fro
            body = {"n": "pageview", "u": f"https://a.example/{page}", "d": "a.example", "p": {"page": str(page)}}
            assert post(f"{next(turns)}/api/event", body, f"192.0.2.{visitor}")[:2] == (202, None)
    for visitor in range(9):
        body = {"n": "engagement", "u": "https://a.example/9", "d": "a.example", "e": 1000, "sd": 50}
        assert post(f"{next(turns)}/api/event", body, f"192.0.2.{visitor}")[:2] == (202, None)
    days = [time.strftime("%Y-%m-%d", time.gmtime(time.time() + days * 86_400)) for days in (-1, 1)]
    query = {"site_id": "a.example", "metrics": ["visitors", "visits", "events"], "date_range": days}
    answers = [json.loads(post(f"{url}/api/v2/query", query, "127.0.0.1", {"Authorization": f"Bearer {token}"})[2]) for url in urls]
    assert [answer["results"][0]["metrics"] for answer in answers] == [[9, 9, 90]] * 2
    assert rows(db, "select sum(engaged) from hits where site_id = 1") == [(9_000,)]
    assert rows(db, "select text from texts group by text having count(*) > 1") == []
    assert rows(db, "select count(*) from salts where site_id = 1") == [(1,)]


def test_processes_give_no_id_twice_when_they_write_at_once(twins):
    urls, token, db = twins
    refused = []

    def send(url, number):
        for count in range(25):
            body = {"n": "pageview", "u": f"https://b.example/{count}", "d": "b.example"}
            answer = post(f"{url}/api/event", body, f"192.0.2.{number // 2}")
            refused.extend([] if answer[:2] == (202, None) else [answer])
    threads = [threading.Thread(target=send, args=(urls[number % 2], number)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refused == []
    assert rows(db, "select count(*), count(distinct id), count(distinct visit_id) from hits where site_id = 2") == [(200, 200, 4)]
    assert rows(db, "select count(*), count(distinct visitor), sum(pageviews) from visits where site_id = 2") == [(4, 4, 200)]


def test_a_change_made_by_one_process_holds_in_the_other(twins):
    urls, token, db = twins
    body = {"n": "pageview", "u": "https://new.example/same", "d": "new.example"}
    assert post(f"{urls[0]}/api/event", body, "192.0.2.1")[1] == "unknown-site"
    assert run_command("site", "add", "--db", db, "new.example").returncode == 0
    assert [post(f"{url}/api/event", body, "192.0.2.1")[1] for url in urls] == [None, None]
    assert run_command("site", "remove", "--db", db, "new.example").returncode == 0
    assert rows(db, "select count(*) from texts where text = '/same'") == [(0,)]
    other = {"n": "pageview", "u": "https://a.example/same", "d": "a.example"}
    assert [post(f"{url}/api/event", other, "192.0.2.1")[1] for url in urls] == [None, None]
    assert rows(db, "select text from texts where text = '/same'") == [("/same",)]
    assert rows(db, "select count(*) from hits where page not in (select id from texts)") == [(0,)]


def test_a_process_that_is_left_running_does_not_undo_an_upgrade(app, site):
    with contextlib.closing(sqlite3.connect(app.settings.db)) as newer:
        newer.execute("pragma user_version = 99")
    assert site.send().status_code == 202
    site.web.get("/health")
    app.run_jobs()
    assert rows(app.settings.db, "pragma user_version") == [(99,)]
