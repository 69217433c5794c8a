"""The HTTP edge: who may ask what, and how every answer looks.

Where the promise is about sockets, real ones are used; elsewhere the WSGI callable is asked directly.

Contents: routes and guards · other sites · cookies · signing in · setting up · the page's policy · validators and compression · health ·
errors · query strings · bodies on real sockets · prefixes
"""
import base64
import contextlib
import functools
import gzip
import hashlib
import html.parser
import http.client
import http.cookies
import json
import logging
import queue
import re
import resource
import secrets
import socket
import sqlite3
import threading
from wsgiref.util import setup_testing_defaults

import pytest
import webtest
from hypothesis import given, settings as budget, strategies as st

import mininumbers
from conftest import CHROME, PASSWORD, MovableClock, Site
from mininumbers import OPERATOR, ROUTES, Settings, create_app, find_user, open_session

HIT = {"n": "pageview", "u": "https://example.com/", "d": "example.com"}
QUESTION = {"site_id": "example.com", "metrics": ["visitors"], "date_range": "day"}
FOREIGN = {"Origin": "https://evil.test", "Sec-Fetch-Site": "cross-site"}
pytestmark = pytest.mark.usefixtures("cheap_passwords")


class Edge:
    """An app with two sites, and every kind of credential for it."""

    def __init__(self, path):
        self.clock = MovableClock()
        self.app = create_app(Settings(db=str(path), geoip=""), clock=self.clock)
        self.app.setup("owner", PASSWORD, "example.com")
        self.app.add_site("other.test")
        for role in ("viewer", "editor", "admin"):
            self.app.accounts.add_user(OPERATOR, role, PASSWORD, role, ["example.com"])
        self.web = webtest.TestApp(self.app, extra_environ={"REMOTE_ADDR": "127.0.0.1", "HTTP_USER_AGENT": CHROME, "HTTP_SEC_FETCH_SITE": "same-origin"})
        self.token = self.app.create_token("all", read_only=False)
        self.tokens = {"token": self.token, "write token of the site": self.app.accounts.create_token(OPERATOR, "w", ["example.com"], False)[1],
                       "read-only token": self.app.create_token("read"),
                       "token of the site": self.app.create_token("own", "example.com"),
                       "token of another site": self.app.create_token("other", "other.test"), "forged token": "A" * len(self.token),
                       "truncated token": self.token[:-1], "lengthened token": self.token + "A", "empty token": ""}

    def session(self, age=0, username="owner"):
        """The secret of a session that was opened `age` seconds ago."""
        return self.app.store.transact(lambda db: open_session(db, int(self.clock()) - age, find_user(db, username).id, "Chrome on Linux"))

    def credentials(self, who):
        """The headers by which somebody is known."""
        if who in self.tokens:
            return {"Authorization": f"Bearer {self.tokens[who]}"}
        cookies = {"session": self.session, **{role: functools.partial(self.session, 0, role) for role in ("viewer", "editor", "admin")}, "expired session": lambda: self.session(366 * 86_400), "truncated session": lambda: self.session()[:-1],
                   "forged session": lambda: "A" * 43, "token as cookie": lambda: self.token}
        if who in cookies:
            return {"Cookie": f"mininumbers={cookies[who]()}"}
        return {"nobody": {}, "session as token": {"Authorization": f"Bearer {self.session()}"},
                "basic": {"Authorization": "Basic b3duZXI6cHc="}}[who]

    def ask(self, method, path, body=None, headers=(), **environ):
        """Ask, and return the answer whatever it is."""
        headers = {"Content-Type": "application/json", **dict(headers)} if body is not None else dict(headers)
        raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        return self.web.request(path, method=method, body=raw, headers=headers, environ=environ, expect_errors=True)


@pytest.fixture(scope="module")
def edge(tmp_path_factory):
    edge = Edge(tmp_path_factory.mktemp("edge") / "test.db")
    edge.app.making_demo.acquire()  # a hundred thousand visits would be too many for here: they are being made for ever
    with contextlib.closing(edge.app):
        yield edge


@pytest.fixture
def fresh(tmp_path, clock):
    """An app in which nobody has an account yet."""
    with contextlib.closing(create_app(Settings(db=str(tmp_path / "fresh.db"), geoip=""), clock=clock)) as app:
        yield app


def bare(app, **environ):
    return webtest.TestApp(app, extra_environ={"REMOTE_ADDR": "127.0.0.1", "HTTP_USER_AGENT": CHROME, "HTTP_SEC_FETCH_SITE": "same-origin", **environ})


def raw_get(app, **environ):
    """Ask the WSGI callable with no client between; return (status, headers, body)."""
    environ = {"REMOTE_ADDR": "127.0.0.1", "PATH_INFO": "/", **environ}
    setup_testing_defaults(environ)
    answer = []
    body = b"".join(app(environ, lambda status, headers, *_: answer.extend((int(status[:3]), dict(headers)))))
    return (*answer, body)


def is_error(answer, code=None):
    """Whether an answer is the JSON of an error."""
    body = answer.json
    return (answer.content_type == "application/json" and set(body) == {"error", "code", "details"} and isinstance(body["details"],
                                                                                                                   list) and bool(body["error"])
            and re.fullmatch(r"[a-z]+(-[a-z]+)*", body["code"]) is not None and code in (None, body["code"]))


# ---- routes and guards -----------------------------------------------------------------------------------------------

# What a right request to each route is, and how it is answered to whoever may ask.
RIGHT = {
    ("GET", "/"): ("", None, 200),
    ("GET", "/health"): ("", None, 200),
    ("GET", "/tracker.js"): ("", None, 200),
    ("GET", "/js/script.js"): ("", None, 200),
    ("POST", "/api/event"): ("", HIT, 202),
    ("OPTIONS", "/api/event"): ("", None, 204),
    ("GET", "/pixel.gif"): ("?d=example.com&u=https://example.com/", None, 200),
    ("GET", "/api/session"): ("", None, 200),
    ("POST", "/api/setup"): ("", {"code": "x", "username": "thief", "password": PASSWORD, "domain": "evil.test"}, 403),
    ("POST", "/api/setup/check"): ("", {"code": "x"}, 403),
    ("POST", "/api/login"): ("", {"username": "owner", "password": PASSWORD}, 200),
    ("POST", "/api/logout"): ("", {}, 200),
    ("GET", "/api/account"): ("", None, 200),
    ("POST", "/api/account/password"): ("", {"password": PASSWORD, "new_password": "short"}, 400),
    ("DELETE", "/api/account/sessions/<id:int>"): ("", {}, 404),
    ("POST", "/api/account/two-factor"): ("", {"password": ""}, 400),
    ("POST", "/api/account/two-factor/confirm"): ("", {"password": PASSWORD}, 400),
    ("POST", "/api/account/two-factor/off"): ("", {"password": PASSWORD}, 400),
    ("POST", "/api/account/recovery-codes"): ("", {"password": PASSWORD}, 400),
    ("GET", "/api/users"): ("", None, 200),
    ("PATCH", "/api/users/<id:int>"): ("", {"role": "viewer"}, 404),
    ("DELETE", "/api/users/<id:int>"): ("", {}, 404),
    ("POST", "/api/invites"): ("", {"role": "viewer", "sites": ["example.com"]}, 200),
    ("DELETE", "/api/invites/<id:int>"): ("", {}, 404),
    ("POST", "/api/invites/check"): ("", {"code": "x"}, 403),
    ("POST", "/api/invites/accept"): ("", {"code": "x", "username": "thief", "password": PASSWORD}, 403),
    ("GET", "/api/tokens"): ("", None, 200),
    ("POST", "/api/tokens"): ("", {"name": "new", "sites": ["example.com"], "read_only": True}, 200),
    ("DELETE", "/api/tokens/<id:int>"): ("", {}, 404),
    ("GET", "/api/settings"): ("", None, 200),
    ("PATCH", "/api/settings"): ("", {"retention_days": 0}, 200),
    ("GET", "/api/audit"): ("", None, 200),
    ("GET", "/api/sites"): ("", None, 200),
    ("POST", "/api/sites"): ("", {"domain": "example.com"}, 400),
    ("PATCH", "/api/sites/<domain>"): ("", {"retention_days": None}, 200),
    ("DELETE", "/api/sites/<domain>"): ("?", {}, 404),
    ("GET", "/api/dropped"): ("?site_id=example.com", None, 200),
    ("GET", "/api/properties"): ("?site_id=example.com", None, 200),
    ("GET", "/api/live"): ("?site_id=example.com", None, 200),
    ("GET", "/api/v1/stats/realtime/visitors"): ("?site_id=example.com", None, 200),
    ("POST", "/api/v2/query"): ("", QUESTION, 200),
    ("POST", "/api/v2/queries"): ("", {"queries": [QUESTION, QUESTION]}, 200),
    ("POST", "/api/journeys"): ("", {"site_id": "example.com", "date_range": "day", "start": ["is", "event:page", ["/"]]}, 200),
    ("POST", "/api/retention"): ("", {"site_id": "example.com", "date_range": "7d", "interval": "day"}, 200),
    ("GET", "/api/annotations"): ("?site_id=example.com", None, 200),
    ("POST", "/api/annotations"): ("", {"site_id": "example.com", "at": "2026-03-02", "text": "Launch"}, 200),
    ("PATCH", "/api/annotations/<id:int>"): ("", {"text": "Launch"}, 404),
    ("DELETE", "/api/annotations/<id:int>"): ("", {}, 404),
    ("GET", "/api/goals/suggestions"): ("?site_id=example.com", None, 200),
    **{("GET", f"/api/{kind}"): ("?site_id=example.com", None, 200) for kind in ("goals", "segments", "funnels")},
    **{("POST", f"/api/{kind}"): ("", {"site_id": "example.com"}, 400) for kind in ("goals", "segments", "funnels")},
    **{("PATCH", f"/api/{kind}/<id:int>"): ("", {"name": "x"}, 404) for kind in ("goals", "segments", "funnels")},
    **{("DELETE", f"/api/{kind}/<id:int>"): ("", {}, 404) for kind in ("goals", "segments", "funnels")},
    ("POST", "/api/funnels/report"): ("", {"site_id": "example.com", "date_range": "day", "steps": [{"filters": [["is", "event:page", ["/"]]]}] * 2}, 200),
    ("POST", "/api/demo"): ("", {}, 503),
}
# Whose site it is decides: what names example.com is not there for who may see another only.
OF_A_SITE = {*((method, f"/api/{kind}") for method in ("GET", "POST") for kind in ("goals", "segments", "funnels")), ("GET", "/api/goals/suggestions"),
             ("GET", "/api/annotations"), ("POST", "/api/annotations"), ("GET", "/api/dropped"), ("GET", "/api/properties"), ("GET", "/api/live"),
             ("GET", "/api/v1/stats/realtime/visitors"), ("POST", "/api/v2/query"),
             ("POST", "/api/v2/queries"), ("POST", "/api/journeys"), ("POST", "/api/retention"), ("POST", "/api/funnels/report"),
             ("PATCH", "/api/sites/<domain>")}
COLLECTION = {("POST", "/api/event"), ("OPTIONS", "/api/event"), ("GET", "/pixel.gif")}
PUBLIC_FILES = {("GET", "/tracker.js"), ("GET", "/js/script.js")}
STRANGERS = ["nobody", "forged token", "truncated token", "lengthened token", "empty token", "expired session", "truncated session", "forged session",
             "token as cookie",
             "session as token", "basic"]
# What each may, as its guard says: everybody below is let in by the guards named, and by no other.
LET_IN = {
    "session": {"viewer", "editor", "site_admin", "signed_in", "admin", "owner"},
    "admin": {"viewer", "editor", "site_admin", "signed_in", "admin"},
    "editor": {"viewer", "editor", "signed_in"},
    "viewer": {"viewer", "signed_in"},
    "token": {"viewer", "editor", "site_admin"},
    "write token of the site": {"viewer", "editor"},
    "read-only token": {"viewer"},
    "token of the site": {"viewer"},
    "token of another site": {"viewer"},
}
ROUTE = pytest.mark.parametrize("route", ROUTES, ids=[f"{route.method} {route.path}" for route in ROUTES])


def request(edge, route, headers=()):
    query, body, _ = RIGHT[route.method, route.path]
    path = route.path.replace("<id:int>", "987654321").replace("<domain>", "not-there.test" if query == "?" else "example.com")
    return edge.ask(route.method, path + query, body, {"X-Forwarded-For": an_address(), **dict(headers)})


def an_address():
    """An address nobody came from before, so that no limit is reached."""
    return f"2001:db8:{secrets.token_hex(2)}:{secrets.token_hex(2)}::1"


def test_every_route_is_in_this_files_table():
    assert {(route.method, route.path) for route in ROUTES} == set(RIGHT)


@ROUTE
@pytest.mark.parametrize("who", [*STRANGERS, *LET_IN])
def test_a_route_answers_those_whom_its_guard_lets_in(edge, route, who):
    right, guard = RIGHT[route.method, route.path][2], route.guard.__name__
    if guard in ("anyone", "same_origin"):
        expected = right
    elif who in STRANGERS:
        expected = 401
    elif guard not in LET_IN[who]:
        expected = 403
    elif (route.method, route.path) == ("POST", "/api/segments") and "editor" not in LET_IN[who]:
        expected = 403  # a viewer makes segments for themselves only, and a program that only reads has no self
    else:
        expected = 404 if who == "token of another site" and (route.method, route.path) in OF_A_SITE else right
    answer = request(edge, route, edge.credentials(who))
    assert answer.status_int == expected
    assert expected < 400 or is_error(answer)


@pytest.mark.parametrize("who, domains", [("session", ["example.com", "other.test"]), ("token", ["example.com", "other.test"]),
                                          ("token of the site", ["example.com"]),
                                          ("token of another site", ["other.test"])])
def test_whoever_is_bound_to_a_site_sees_no_other(edge, who, domains):
    assert [site["domain"] for site in edge.ask("GET", "/api/sites", headers=edge.credentials(who)).json["sites"]] == domains


def test_a_site_that_may_not_be_read_looks_like_one_that_is_not_there(edge):
    headers = edge.credentials("token of another site")
    answers = [edge.ask("POST", "/api/v2/query", {**QUESTION, "site_id": domain}, headers) for domain in ("example.com", "not-there.test")]
    assert answers[0].status_int == answers[1].status_int == 404 and answers[0].body == answers[1].body


def test_a_token_is_kept_only_as_a_hash(edge):
    with open(edge.app.settings.db, "rb") as file:
        stored = file.read()
    with open(edge.app.settings.db + "-wal", "rb") as file:
        stored += file.read()
    assert b"other.test" in stored
    assert not [token for name, token in edge.tokens.items() if token and name not in ("forged token",) and token.encode() in stored]


@ROUTE
def test_every_answer_forbids_guessing_its_type_framing_and_telling_others_of_it(edge, route):
    headers = request(edge, route).headers
    assert (headers["X-Content-Type-Options"], headers["Referrer-Policy"]) == ("nosniff", "same-origin")
    policy = {part.split()[0]: part.split()[1:] for part in headers["Content-Security-Policy"].split(";")}
    assert policy["default-src"] == policy["frame-ancestors"] == ["'none'"]
    assert ("script-src" in policy) == (route.path == "/")


@ROUTE
def test_browsers_that_came_by_https_are_told_to_come_by_it_again(edge, route):
    over_https = {"Strict-Transport-Security": "max-age=31536000"}
    proxied = request(edge, route, {"X-Forwarded-Proto": "https"}).headers
    assert {name: value for name, value in proxied.items() if name in over_https} == over_https
    assert "Strict-Transport-Security" not in request(edge, route).headers


# ---- other sites -----------------------------------------------------------------------------------------------------

@ROUTE
def test_pages_of_other_sites_may_read_only_collection_and_the_tracker(edge, route):
    answer = request(edge, route, {"Origin": "https://evil.test", **edge.credentials("session")})
    public = (route.method, route.path) in COLLECTION | PUBLIC_FILES
    assert answer.headers.get("Access-Control-Allow-Origin") == ("*" if public else None)
    assert "Access-Control-Allow-Credentials" not in answer.headers


@pytest.mark.parametrize("method, path", [("GET", "/nothing"), ("OPTIONS", "/api/login"), ("PUT", "/"), ("DELETE", "/api/users/x")])
def test_what_the_router_refuses_is_as_guarded_as_an_answer(edge, method, path):
    answer = edge.ask(method, path, headers={"X-Forwarded-Proto": "https"})
    assert answer.status_int in (404, 405)
    assert {name: answer.headers[name] for name in ("X-Content-Type-Options", "Cache-Control", "Strict-Transport-Security")} == {
        "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Strict-Transport-Security": "max-age=31536000"}
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


def test_a_preflight_lets_pages_of_every_site_send_json(edge):
    answer = edge.ask("OPTIONS", "/api/event", headers={"Origin": "https://example.com", "Access-Control-Request-Method": "POST",
                                                        "Access-Control-Request-Headers": "content-type"})
    assert (answer.status_int, answer.body) == (204, b"")
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert "POST" in answer.headers["Access-Control-Allow-Methods"] and "content-type" in answer.headers["Access-Control-Allow-Headers"].lower()


@pytest.mark.parametrize("path", sorted({path for method, path in RIGHT if path not in ("/api/event",)}))
def test_no_other_route_answers_a_preflight(edge, path):
    path = path.replace("<id:int>", "1").replace("<domain>", "example.com")
    answer = edge.ask("OPTIONS", path, headers={"Origin": "https://evil.test", "Access-Control-Request-Method": "POST"})
    assert answer.status_int == 405
    assert not [name for name in answer.headers if name.startswith("Access-Control")]


def test_a_page_may_read_why_its_hit_was_refused_or_dropped(edge):
    assert edge.ask("POST", "/api/event", {}).headers["Access-Control-Allow-Origin"] == "*"
    exposed = edge.ask("POST", "/api/event", {**HIT, "d": "unknown.test"}).headers["Access-Control-Expose-Headers"]
    assert {"x-mininumbers-dropped", "x-plausible-dropped"} <= {name.strip().lower() for name in exposed.split(",")}


CROSS_SITE = [
    ({}, "application/json", 403), ({"Origin": "http://localhost:80"}, "application/json", 200),
    ({"Origin": "http://localhost:80", "Sec-Fetch-Site": "same-origin"}, "application/json", 200),
    ({"Origin": "https://stats.test", "Sec-Fetch-Site": "same-origin"}, "application/json", 200),
    ({"Sec-Fetch-Site": "none"}, "application/json", 403), ({"Origin": "http://localhost:80"}, "application/json; charset=utf-8", 200),
    ({"Origin": "https://evil.test"}, "application/json", 403), ({"Origin": "null"}, "application/json", 403),
    ({"Origin": "http://localhost:81"}, "application/json", 403),
    ({"Origin": "http://localhost:80.evil.test"}, "application/json", 403), ({"Origin": "http://evil.test/localhost:80"}, "application/json", 403),
    ({"Origin": "http://localhost:80@evil.test"}, "application/json", 403), ({"Origin": "http://[::1"}, "application/json", 403),
    ({"Origin": "]["}, "application/json", 403),
    ({"Sec-Fetch-Site": "cross-site"}, "application/json", 403), ({"Sec-Fetch-Site": "same-site"}, "application/json", 403),
    ({"Sec-Fetch-Site": "x"}, "application/json", 403),
    ({"Origin": "http://localhost:80", "Sec-Fetch-Site": "cross-site"}, "application/json", 403),
    *(({"Origin": "http://localhost:80"}, content_type, 400) for content_type in (
        "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "", "text/plain; application/json")),
]


@pytest.mark.parametrize("headers, content_type, status", CROSS_SITE)
@pytest.mark.parametrize("path", ["/api/logout", "/api/v2/query"])
def test_a_page_of_another_site_cannot_act_in_somebodys_name(edge, path, headers, content_type, status):
    cookie, web = edge.credentials("session"), webtest.TestApp(edge.app, extra_environ={"REMOTE_ADDR": "127.0.0.1"})
    body = {"/api/logout": {}, "/api/v2/query": QUESTION}[path]
    answer = web.request(path, method="POST", body=json.dumps(body).encode(), headers={**cookie, **headers, "Content-Type": content_type}, expect_errors=True)
    assert answer.status_int == status
    signed_in = edge.ask("GET", "/api/session", headers=cookie).json["user"]
    assert (signed_in is None) == (path == "/api/logout" and status == 200)


@pytest.mark.parametrize("route", [route for route in ROUTES if route.method not in ("GET", "OPTIONS") and route.path != "/api/event"],
                         ids=lambda route: f"{route.method} {route.path}")
def test_no_route_that_acts_takes_a_form_of_another_site(edge, route):
    assert request(edge, route, {**FOREIGN, **edge.credentials("session"), "Content-Type": "text/plain"}).status_int == 403


def test_a_program_with_a_token_needs_no_origin(edge):
    assert edge.ask("POST", "/api/v2/query", QUESTION, {**FOREIGN, **edge.credentials("token"), "Content-Type": "text/plain"}).status_int == 200


# ---- cookies ---------------------------------------------------------------------------------------------------------

def login(web, headers=(), password=PASSWORD, username="owner"):
    return web.post_json("/api/login", {"username": username, "password": password}, headers={"X-Forwarded-For": an_address(), **dict(headers)},
                         expect_errors=True)


def morsel(answer, name="mininumbers"):
    """A cookie of an answer."""
    cookies = http.cookies.SimpleCookie()
    for line in answer.headers.getall("Set-Cookie"):
        cookies.load(line)
    return cookies[name]


@pytest.mark.parametrize("environ, headers, prefix, path", [
    ({}, {}, "", "/"), ({"wsgi.url_scheme": "https"}, {}, "__Host-", "/"), ({}, {"X-Forwarded-Proto": "https"}, "__Host-", "/"),
    ({"SCRIPT_NAME": "/stats"}, {}, "", "/stats/"), ({"SCRIPT_NAME": "/stats", "wsgi.url_scheme": "https"}, {}, "__Secure-", "/stats/"),
    ({"REMOTE_ADDR": "192.0.2.1"}, {"X-Forwarded-Proto": "https"}, "", "/"),
])
def test_cookies_are_out_of_reach_of_scripts_other_sites_and_neighbouring_hosts(edge, environ, headers, prefix, path):
    answer = login(bare(edge.app, **environ), headers)
    for name in ("mininumbers", "mininumbers-device"):
        cookie = morsel(answer, prefix + name)
        assert (bool(cookie["httponly"]), cookie["samesite"].lower(), bool(cookie["secure"]), cookie["path"], cookie["domain"]) == (
            True, "strict", prefix != "", path, "")
    assert len(base64.urlsafe_b64decode(morsel(answer, prefix + "mininumbers").value + "=")) == 32


def test_signing_out_ends_the_session_and_takes_the_cookie_back(edge):
    web = bare(edge.app, SCRIPT_NAME="/stats")
    cookie = morsel(login(web))
    known = {"Cookie": f"mininumbers={cookie.value}"}
    taken = morsel(web.post_json("/api/logout", {}, headers=known))
    assert (taken.value, taken["path"], taken["max-age"]) == ("", "/stats/", "0")
    assert web.get("/api/session", headers=known).json["user"] is None


@pytest.mark.parametrize("idle", [False, True])
def test_a_session_ends_when_its_cookie_does_or_when_nobody_was_there_for_a_week(app, clock, idle):
    web = bare(app)
    cookie = morsel(login(web))
    web.reset()
    known, day = {"Cookie": f"mininumbers={cookie.value}"}, 86_400
    assert int(cookie["max-age"]) == 30 * day
    for _ in range(0 if idle else 5):
        clock.advance(6 * day - 1)
        assert web.get("/api/session", headers=known).json["user"]["username"] == "owner"
        app.store.probe()  # behind what is noted of the session, for which nobody waits
    clock.advance(7 * day if idle else 5)
    assert web.get("/api/session", headers=known).json["user"] is None
    assert web.get("/api/sites", headers=known, expect_errors=True).status_int == 401


@pytest.mark.parametrize("cookie", ["", "mininumbers=", "mininumbers", "=", ";;;", "a,b=1; mininumbers={}", "a/b=1; mininumbers={}",
                                    "@=1; mininumbers={}", "(a)=1; mininumbers={}", "ü=1; mininumbers={}",
                                    "expires=1; mininumbers={}", "$Path=/; mininumbers={}", 'x="unfinished; mininumbers={}',
                                    "x={{\"a\":1}}; mininumbers={}", "x=\xff; mininumbers={}", "mininumbers={}; mininumbers=x"])
def test_cookies_of_other_programs_never_break_the_answer(edge, cookie):
    headers = {"Cookie": cookie.format(edge.session())}
    assert edge.ask("GET", "/api/session", headers=headers).status_int == 200
    assert edge.ask("GET", "/api/sites", headers=headers).status_int in (200, 401)


@pytest.mark.parametrize("other", ["a/b=1", "@=1", "theme=dark", "x=\xfc", 'x={"a":1}', 'x="open', "x", "x={y; z}"])
def test_cookies_of_other_programs_sign_nobody_out(edge, other):
    assert edge.ask("GET", "/api/session", headers={"Cookie": f"{other}; mininumbers={edge.session()}"}).json["user"]["username"] == "owner"


# ---- signing in ------------------------------------------------------------------------------------------------------

def test_a_wrong_name_and_a_wrong_password_are_answered_alike(edge):
    wrong_name, wrong_password = login(edge.web, username="nobody"), login(edge.web, password="wrong horse battery")
    assert wrong_name.status_int == wrong_password.status_int == 401 and is_error(wrong_name)
    assert wrong_name.body == wrong_password.body and "Set-Cookie" not in {**wrong_name.headers, **wrong_password.headers}
    assert sorted(wrong_name.headers) == sorted(wrong_password.headers)


@pytest.mark.parametrize("password", [PASSWORD.upper(), PASSWORD + " ", PASSWORD[:-1], "é" * 1024])
def test_only_the_password_itself_opens(edge, password):
    assert login(edge.web, password=password).status_int == 401


def test_a_crowd_at_the_door_is_turned_away_and_leaves_room_for_hits(app, monkeypatch):
    """A password check is slow by design; were every thread to wait for its turn at one, nobody could be counted meanwhile."""
    door, answers = threading.Event(), queue.Queue()
    monkeypatch.setattr(mininumbers, "open_password", lambda *_: door.wait(20) and None)
    crowd = [threading.Thread(target=lambda: answers.put(login(bare(app)))) for _ in range(8)]
    try:
        for thread in crowd:
            thread.start()
        turned_away = answers.get(timeout=3)  # while the door is still shut
        assert turned_away.status_int == 429 and is_error(turned_away) and turned_away.headers["Retry-After"]
    finally:
        door.set()
        for thread in crowd:
            thread.join()


@pytest.mark.parametrize("body, fields", [
    ({}, {"username", "password"}), ({"username": "owner"}, {"password"}), ({"username": ["owner"], "password": {"a": 1}}, {"username", "password"}),
    ({"username": "owner", "password": 5}, {"password"}),
    ({"username": "x" * 65, "password": "x" * 1025}, {"username", "password"}), ({"username": "a\x01", "password": "b\n"}, {"username", "password"}),
    ({"username": None, "password": ""}, {"username", "password"}),
])
def test_what_is_no_name_and_password_is_named(edge, body, fields):
    answer = edge.ask("POST", "/api/login", body)
    assert answer.status_int == 400 and {each["field"] for each in answer.json["details"]} == fields


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{", b"\xff", b'{"username":"\\ud800","password":"x"}', b"[" * 60_000,
                                  b'{"username":"a","username":"b","password":"c"}'])
@pytest.mark.parametrize("path", ["/api/login", "/api/setup", "/api/v2/query"])
def test_a_body_that_is_not_right_is_refused(edge, path, body):
    answer = edge.ask("POST", path, body, edge.credentials("session"))
    assert answer.status_int == 400 and is_error(answer)


@pytest.mark.parametrize("path", ["/api/login", "/api/setup", "/api/v2/query", "/api/event"])
def test_a_body_that_is_too_large_is_refused(edge, path):
    answer = edge.ask("POST", path, b'{"x":"' + b"x" * 70_000 + b'"}', edge.credentials("session"))
    assert answer.status_int == 413 and is_error(answer, "too-large")


# ---- setting up ------------------------------------------------------------------------------------------------------

def set_up(app, **more):
    body = {"code": app.accounts.setup_code, "username": "owner", "password": PASSWORD, "domain": "example.com", "timezone": "Europe/Berlin", **more}
    return bare(app).post_json("/api/setup", {name: value for name, value in body.items() if value is not None}, expect_errors=True)


def accounts(app):
    with contextlib.closing(sqlite3.connect(app.settings.db)) as db:
        return db.execute("select (select count(*) from users), (select count(*) from sites)").fetchone()


def test_the_link_from_the_terminal_creates_an_account_a_site_and_a_session(fresh):
    assert bare(fresh).get("/api/session").json["setup"] is True
    answer = set_up(fresh)
    assert (answer.status_int, answer.json) == (200, {"user": {"username": "owner", "role": "owner", "every_site": True, "two_factor": False}})
    session = {"Cookie": f"mininumbers={morsel(answer).value}"}
    assert bare(fresh).get("/api/session", headers=session).json["user"]["username"] == "owner"
    sites = bare(fresh).get("/api/sites", headers=session).json["sites"]
    assert [(site["domain"], site["timezone"]) for site in sites] == [("example.com", "Europe/Berlin")]
    assert bare(fresh).get("/api/session").json["setup"] is False


@pytest.mark.parametrize("more, status", [({"code": "wrong"}, 403), ({"code": "é"}, 403), ({"code": None}, 400), ({"code": ""}, 400),
                                          ({"code": 5}, 400), ({"code": []}, 400),
                                          ({"password": "short"}, 400), ({"domain": "https://example.com/"}, 400), ({"domain": "."}, 400),
                                          ({"timezone": "Mars/Base"}, 400),
                                          ({"timezone": "../../etc/passwd"}, 400), ({"timezone": "/etc/localtime"}, 400),
                                          ({"username": " owner"}, 400), ({"username": "\u202eowner"}, 400)])
def test_a_setup_that_is_not_right_creates_nothing_and_the_link_stays_good(fresh, more, status):
    answer = set_up(fresh, **more)
    assert (answer.status_int, is_error(answer), accounts(fresh)) == (status, True, (0, 0))
    assert set_up(fresh).status_int == 200


def test_the_link_is_good_once(fresh):
    code = fresh.accounts.setup_code
    assert set_up(fresh).status_int == 200
    for replay in (code, "", "None"):
        assert set_up(fresh, code=replay or None, username="thief", domain="evil.test").status_int in (400, 403)
    assert accounts(fresh) == (1, 1)


def test_two_who_open_the_link_at_once_make_one_account(fresh):
    code, statuses = fresh.accounts.setup_code, []
    barrier = threading.Barrier(4)

    def race(number):
        barrier.wait()
        statuses.append(set_up(fresh, code=code, username=f"owner{number}", domain=f"site{number}.test").status_int)
    threads = [threading.Thread(target=race, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200, 403, 403, 403] and accounts(fresh) == (1, 1)


# ---- the page's policy -----------------------------------------------------------------------------------------------

class Inline(html.parser.HTMLParser):
    """Collects what a page runs: its scripts, styles, and attributes that a policy by hash would block."""

    def __init__(self, text):
        super().__init__()
        self.open, self.found, self.attributes, self.fetched = None, {"script": [], "style": []}, [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.open = tag if tag in self.found else self.open
        if self.open == tag:
            self.found[tag].append("")
        for name, value in attributes:
            if name == "style" or name.startswith("on"):
                self.attributes.append((tag, name))
            if name in ("src", "href", "action") and re.match(r"\w+:|//", value or "") and not value.startswith("data:"):
                self.fetched.append((tag, value))

    def handle_endtag(self, tag):
        self.open = None if tag == self.open else self.open

    def handle_data(self, data):
        if self.open:
            self.found[self.open][-1] += data


def directives(answer):
    return {name: values for name, *values in (part.split() for part in answer.headers["Content-Security-Policy"].split(";") if part.strip())}


@pytest.mark.parametrize("tag, directive", [("script", "script-src"), ("style", "style-src")])
def test_the_policy_allows_exactly_what_stands_in_the_page(edge, tag, directive):
    answer = edge.web.get("/")
    found = Inline(answer.text).found[tag]
    hashes = {f"'sha256-{base64.b64encode(hashlib.sha256(each.encode()).digest()).decode()}'" for each in found}
    assert found and set(directives(answer)[directive]) == hashes


def test_the_policy_allows_nothing_from_elsewhere(edge):
    policy = directives(edge.web.get("/"))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == ["'none'"]
    assert policy["require-trusted-types-for"] == ["'script'"]
    assert not {value for values in policy.values() for value in values} & {"'unsafe-inline'", "'unsafe-eval'", "*", "http:", "https:"}


def test_the_page_has_nothing_that_its_policy_would_block(edge):
    page = Inline(edge.web.get("/").text)
    assert (page.attributes, [each for each in page.fetched if each[0] != "a"]) == ([], [])


# ---- validators and compression --------------------------------------------------------------------------------------

@pytest.mark.parametrize("path", ["/", "/tracker.js", "/js/script.js"])
def test_a_file_that_the_browser_has_is_not_sent_again(edge, path):
    etag = edge.web.get(path).headers["ETag"]
    for known in (etag, f'"x", {etag}', f'"x" ,{etag},"y"'):
        answer = edge.ask("GET", path, headers={"If-None-Match": known})
        assert (answer.status_int, answer.body, answer.headers["ETag"]) == (304, b"", etag)
    for unknown in ('"x"', "", etag[:-2] + '"'):
        assert edge.ask("GET", path, headers={"If-None-Match": unknown}).status_int == 200


def test_an_answer_that_has_not_changed_is_not_sent_again(app, site):
    known = {"Authorization": f"Bearer {site.token}"}
    first = site.web.post_json("/api/v2/query", QUESTION, headers=known)
    again = {**known, "If-None-Match": first.headers["ETag"]}
    answer = site.web.post_json("/api/v2/query", QUESTION, headers=again)
    assert (answer.status_int, answer.body) == (304, b"")
    assert site.web.post_json("/api/v2/query", {**QUESTION, "metrics": ["visits"]}, headers=again).status_int == 200
    site.send()
    changed = site.web.post_json("/api/v2/query", QUESTION, headers=again)
    assert changed.status_int == 200 and changed.headers["ETag"] != first.headers["ETag"]


@pytest.mark.parametrize("path", ["/", "/tracker.js"])
@pytest.mark.parametrize("accepted, compressed", [("gzip", True), ("br, gzip, deflate", True), ("gzip;q=1.0", True), ("", False), ("br", False),
                                                  ("identity", False), ("gzip;q=0", False)])
def test_a_file_is_compressed_for_whoever_takes_it(edge, path, accepted, compressed):
    plain = edge.ask("GET", path)
    _, headers, body = raw_get(edge.app, PATH_INFO=path, HTTP_ACCEPT_ENCODING=accepted)
    assert headers.get("Content-Encoding") == ("gzip" if compressed else None)
    assert (gzip.decompress(body) if compressed else body) == plain.body
    assert "Accept-Encoding" in headers["Vary"] and int(headers["Content-Length"]) == len(body)


def test_private_answers_are_not_kept_by_caches_between(edge):
    for path in ("/api/session", "/api/sites"):
        assert edge.ask("GET", path, headers=edge.credentials("session")).headers["Cache-Control"] == "no-store"
    assert "private" in edge.ask("POST", "/api/v2/query", QUESTION, edge.credentials("token")).headers["Cache-Control"]


# ---- health ----------------------------------------------------------------------------------------------------------

def test_health_says_that_all_is_well(edge):
    answer = edge.web.get("/health")
    assert (answer.status_int, answer.json["status"], answer.json["version"]) == (200, "ok", mininumbers.__version__)


def test_health_fails_while_another_program_holds_the_database(app):
    app.store.transact(lambda db: db.execute("pragma busy_timeout = 20"))
    with contextlib.closing(sqlite3.connect(app.settings.db, isolation_level=None)) as other:
        other.execute("begin immediate")
        answer = bare(app).get("/health", status=503)
        assert answer.json["status"] == "error"
        hit = bare(app).post_json("/api/event", HIT, status=503)
        assert is_error(hit) and hit.headers["Retry-After"]
        other.execute("rollback")
    assert bare(app).get("/health").status_int == 200
    assert bare(app).post_json("/api/event", HIT).status_int == 202


def test_health_fails_while_the_disk_is_full(tmp_path, start_server):
    path = tmp_path / "test.db"
    with contextlib.closing(create_app(Settings(db=str(path), geoip=""))) as app:
        app.setup("owner", PASSWORD, "example.com")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, before[1]))  # what the server inherits: none of its files can grow beyond
    try:
        wire = Wire(start_server(path, "--geoip", ""), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    large = json.dumps({**HIT, "p": {f"key{number}": "x" * 1900 for number in range(30)}}).replace("xx", "%02d")
    answers = [statuses(wire.talk(event("/", body=(large.replace("%02d", f"{number:02d}")).encode()))) for number in range(40)]
    assert answers[0] == [202] and answers[-1] == [503]
    stored = wire.pages().count("/")
    assert stored == answers.count([202])
    health = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    assert [503] in [statuses(wire.talk(health)) for _ in range(40)]  # at the latest when there is no room for the smallest write


# ---- errors ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("method, path", [("GET", "/nothing"), ("GET", "/api/"), ("GET", "/api/event/"), ("POST", "/tracker.js/x"),
                                          ("GET", "/../etc/passwd"), ("GET", "/%00"), ("GET", "/dashboard.html"),
                                          ("GET", "/mininumbers.db"), ("GET", "//"), ("GET", "/" + "x" * 5000)])
def test_what_is_not_there_is_json(edge, method, path):
    answer = edge.ask(method, path)
    assert answer.status_int == 404 and is_error(answer, "not-found")


@pytest.mark.parametrize("method, path", [("GET", "/api/event"), ("PUT", "/api/event"), ("POST", "/"), ("DELETE", "/api/sites"),
                                          ("GET", "/api/login"), ("PATCH", "/pixel.gif"), ("POST", "/pixel.gif"), ("HEAD", "/api/login")])
def test_a_method_that_is_not_answered_is_json(edge, method, path):
    answer = edge.ask(method, path)
    assert answer.status_int == 405 and answer.headers["Allow"]
    assert method == "HEAD" or is_error(answer)


@pytest.mark.parametrize("path", ["/\xff\xfe", "/api/\xff", "/\x80health", "/\xc3\xa4"])
def test_a_path_that_is_not_utf_8_is_no_error_of_the_server(edge, path):
    assert raw_get(edge.app, PATH_INFO=path)[0] in (200, 400, 404)


@pytest.mark.parametrize("path", [path + RIGHT[method, path][0] for method, path in RIGHT if method == "GET"])
def test_head_has_the_status_and_headers_of_get_and_no_body(edge, path):
    known = edge.credentials("session")
    get, head = edge.ask("GET", path, headers=known), edge.ask("HEAD", path, headers=known)
    assert (head.status_int, head.body) == (get.status_int, b"")
    assert {name: value for name, value in head.headers.items()} == {name: value for name, value in get.headers.items()}


@pytest.mark.parametrize("method, path, body, broken", [("POST", "/api/event", HIT, "read_event"),
                                                        ("GET", "/pixel.gif?d=example.com&u=https://example.com/", None, "read_event"),
                                                        ("POST", "/api/v2/query", QUESTION, "run_queries"), ("GET", "/api/sites", None, "list_sites")])
def test_an_unforeseen_error_is_json_and_nothing_of_the_request_reaches_the_log(edge, monkeypatch, caplog, method, path, body, broken):
    def fail(*given, **_):
        raise RuntimeError(f"192.0.2.77 SECRET-AGENT {given}")
    monkeypatch.setattr(mininumbers, broken, fail)
    with caplog.at_level(logging.DEBUG):
        answer = edge.ask(method, path, body, {**edge.credentials("token"), "X-Forwarded-For": "192.0.2.77", "User-Agent": CHROME + " SECRET-AGENT",
                                               "Referer": "https://SECRET.test/"})
    assert answer.status_int == 500 and is_error(answer, "internal")
    logged = caplog.text + "".join(repr(record.__dict__) for record in caplog.records)
    assert "RuntimeError" in logged
    assert not [secret for secret in ("192.0.2.77", "SECRET", "Chrome/130", edge.token, "example.com") if secret in logged + answer.text]


@budget(deadline=None, max_examples=150)
@given(st.sampled_from(["/api/session", "/api/sites", "/", "/pixel.gif?d=example.com&u=https://example.com/"]), st.fixed_dictionaries({}, optional={
    name: st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=60)
    for name in ("Authorization", "Cookie", "Origin", "Sec-Fetch-Site", "If-None-Match", "Accept-Encoding", "User-Agent", "X-Forwarded-Proto",
                 "Content-Type", "DNT")}))
def test_no_headers_bring_the_server_down(edge, path, headers):
    assert edge.ask("GET", path, headers=headers).status_int in (200, 304, 401, 403, 400)


# ---- query strings ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("path", ["/api/dropped", "/api/v1/stats/realtime/visitors"])
@pytest.mark.parametrize("query, status", [("site_id=example.com", 200), ("site_id=www.example.com", 200), ("site_id=EXAMPLE.com", 200), ("", 404),
                                           ("site_id=", 404), ("site_id=%ff%fe", 404), ("site_id=%00", 404),
                                           ("site_id=" + "x" * 5000, 404), ("site_id[]=example.com", 404), ("site_id=%ED%A0%80", 404),
                                           ("&&=&;", 404)])
def test_a_site_is_named_in_the_query(edge, path, query, status):
    answer = edge.ask("GET", f"{path}?{query}", headers=edge.credentials("token"))
    assert answer.status_int == status and (status == 200 or is_error(answer))


@pytest.mark.parametrize("written", ["m%C3%BCnchen.test", "xn--mnchen-3ya.test", "M%C3%9CNCHEN.test"])
def test_a_site_with_a_name_beyond_ascii_is_found(app, written):
    app.add_site("münchen.test")
    token = app.create_token("all")
    assert bare(app).get(f"/api/dropped?site_id={written}", headers={"Authorization": f"Bearer {token}"}).status_int == 200


@pytest.mark.parametrize("query", ["from=yesterday", "to=2026-13-01", "from=2026-02-30", "from=99999-01-01", "from=%00", "from=2026-03-02T00:00",
                                   "from=-1&to=5", "to=%ff"])
def test_a_date_that_is_none_is_refused(edge, query):
    answer = edge.ask("GET", f"/api/dropped?site_id=example.com&{query}", headers=edge.credentials("token"))
    assert answer.status_int == 400 and is_error(answer) and answer.json["details"]


# ---- bodies on real sockets ------------------------------------------------------------------------------------------

class Wire:
    """A running server, spoken to byte by byte."""

    def __init__(self, server, path):
        self.address, self.path = (server.url.split("/")[2].split(":")[0], int(server.url.rpartition(":")[2])), path

    def talk(self, *pieces, finish=False):
        """Send bytes and return all that comes back; `finish` says that nothing more will follow."""
        with socket.create_connection(self.address, timeout=20) as connection:
            for piece in pieces:
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    connection.sendall(piece)
            if finish:
                connection.shutdown(socket.SHUT_WR)
            received = b""
            with contextlib.suppress(ConnectionResetError):
                while piece := connection.recv(65_536):
                    received += piece
            return received

    def pages(self):
        with contextlib.closing(sqlite3.connect(self.path)) as db:
            return [page for page, in db.execute("select text from hits join texts on texts.id = page order by hits.id")]


def event(path, *headers, close=True, body=None):
    """The bytes of a hit; `headers` take the place of Content-Length."""
    body = json.dumps({**HIT, "u": f"https://example.com{path}"}).encode() if body is None else body
    lines = ["POST /api/event HTTP/1.1", "Host: localhost", f"User-Agent: {CHROME}", *(headers or [f"Content-Length: {len(body)}"]),
             *(["Connection: close"] if close else [])]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def statuses(received):
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3}) ", received)]


@pytest.fixture
def wire(tmp_path, start_server):
    path = tmp_path / "test.db"
    with contextlib.closing(create_app(Settings(db=str(path), geoip=""))) as app:
        app.setup("owner", PASSWORD, "example.com")
    return Wire(start_server(path, "--geoip", ""), path)


def test_lying_about_a_body_stores_nothing_and_stops_nobody(wire):
    body = json.dumps(HIT).encode()
    lies = {
        "shorter than told": wire.talk(event("/short", f"Content-Length: {len(body) + 500}"), finish=True),
        "cut in its middle": wire.talk(event("/cut")[:-20], finish=True),
        "two lengths": wire.talk(event("/two", f"Content-Length: {len(body)}", "Content-Length: 5")),
        "no number": wire.talk(event("/none", "Content-Length: x")),
        "negative": wire.talk(event("/negative", "Content-Length: -1")),
        "signed": wire.talk(event("/signed", f"Content-Length: +{len(body)}")),
        "absent": wire.talk(event("/absent", "X-None: 1"), finish=True),
        "beyond all": wire.talk(event("/beyond", "Content-Length: 99999999999999999999")),
        "larger than is read": wire.talk(event("/large", body=b'{"x":"' + b"x" * 2_000_000 + b'"}')),
        "unfinished header": wire.talk(b"POST /api/event HTTP/1.1\r\nHost: local", finish=True),
        "huge header": wire.talk(event("/header", f"X-Large: {'x' * 400_000}", "Content-Length: 0")),
        "no HTTP": wire.talk(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 50 + b"\r\n\r\n"),
        "bad chunks": wire.talk(event("/chunks", "Transfer-Encoding: chunked", body=b"zz\r\nnot a chunk\r\n0\r\n\r\n")),
        "odd encoding": wire.talk(event("/odd", "Transfer-Encoding: identity, gzip")),
    }
    assert {name: statuses(answer)[0] for name, answer in lies.items() if statuses(answer) and statuses(answer)[0] < 400} == {}
    assert not [name for name, answer in lies.items() if 500 in statuses(answer) or b"Traceback" in answer]
    assert wire.pages() == []
    assert statuses(wire.talk(event("/alive"))) == [202] and wire.pages() == ["/alive"]


def test_a_body_in_chunks_and_requests_in_a_row_are_understood(wire):
    body = json.dumps({**HIT, "u": "https://example.com/chunked"}).encode()
    chunked = b"%x\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n" % (20, body[:20], len(body) - 20, body[20:])
    assert statuses(wire.talk(event("/chunked", "Transfer-Encoding: chunked", body=chunked))) == [202]
    row = [event(f"/{number}", close=number == 4) for number in range(5)]
    assert statuses(wire.talk(b"".join(row))) == [202] * 5
    assert statuses(wire.talk(*(bytes([byte]) for byte in event("/slowly")[:60]), event("/slowly")[60:])) == [202]
    assert wire.pages() == ["/chunked", "/0", "/1", "/2", "/3", "/4", "/slowly"]


def test_a_request_hidden_in_a_body_is_not_carried_out(wire):
    hidden = event("/hidden")
    both = event("/both", "Transfer-Encoding: chunked", f"Content-Length: {5 + len(hidden)}", body=b"0\r\n\r\n" + hidden)
    assert statuses(wire.talk(event("/refused", body=hidden))) == [400]
    assert 500 not in statuses(wire.talk(both))
    assert "/refused" not in wire.pages() and "/both" not in wire.pages() and "/hidden" not in wire.pages()


def test_a_body_above_the_limit_is_refused_as_json_by_the_server_too(wire):
    connection = http.client.HTTPConnection(*wire.address, timeout=20)
    with contextlib.closing(connection):
        connection.request("POST", "/api/event", b'{"x":"' + b"x" * 70_000 + b'"}', {"User-Agent": CHROME})
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["code"]) == (413, "too-large")


# ---- prefixes --------------------------------------------------------------------------------------------------------

def mount(prefix, app):
    """What Django, Flask and others do: hand over all below a prefix."""
    def outer(environ, start_response):
        path = environ["PATH_INFO"]
        if path == prefix or path.startswith(prefix + "/"):
            return app({**environ, "SCRIPT_NAME": environ.get("SCRIPT_NAME", "") + prefix, "PATH_INFO": path[len(prefix):]}, start_response)
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"the outer application"]
    return outer


@pytest.mark.parametrize("prefix", ["/stats", "/a/b"])
def test_below_a_prefix_everything_is_as_at_the_root(edge, prefix):
    web = bare(mount(prefix, edge.app))
    assert web.get(prefix + "/").content_type == "text/html"
    assert web.get(prefix + "/tracker.js").content_type == "text/javascript"
    assert web.post_json(prefix + "/api/event", HIT).status_int == 202
    assert is_error(web.get(prefix + "/nothing", status=404))
    answer = web.post_json(prefix + "/api/login", {"username": "owner", "password": PASSWORD})
    assert morsel(answer)["path"] == prefix + "/"
    assert web.get("/elsewhere", status=404).text == "the outer application"


@pytest.mark.parametrize("prefix, location", [("/stats", "/stats/"), ("/a/b", "/a/b/"), ("/st\xc3\xa4ts", "/st%C3%A4ts/"), ("/a b", "/a%20b/")])
def test_the_bare_prefix_leads_to_the_page(edge, prefix, location):
    status, headers, _ = raw_get(edge.app, SCRIPT_NAME=prefix, PATH_INFO="")
    assert (status, headers["Location"]) == (308, location)


def test_at_the_root_nothing_is_redirected(edge):
    assert raw_get(edge.app, SCRIPT_NAME="", PATH_INFO="/")[0] == raw_get(edge.app, SCRIPT_NAME="", PATH_INFO="")[0] == 200


def test_the_pages_own_addresses_are_relative(edge):
    page = Inline(edge.web.get("/").text)
    script, = page.found["script"]
    assert not re.search(r"""fetch\(\s*["'`]/""", script)


def test_two_apps_in_one_process_know_nothing_of_each_other(edge, fresh):
    known = edge.credentials("session")
    assert bare(edge.app).get("/api/session", headers=known).json["user"]["username"] == "owner"
    assert bare(fresh).get("/api/session", headers=known).json == {"user": None, "setup": True, "version": mininumbers.__version__, "defaults": {
        "mode": "standard", "rotation_hours": 24, "retention_days": 0, "gpc": "paranoid"}}
    assert Site(edge.app).send().status_int == 202 and bare(fresh).post_json("/api/event", HIT).headers["X-MiniNumbers-Dropped"] == "unknown-site"
