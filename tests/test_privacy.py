"""What must never be on a disk or in a log: addresses, user agents, click ids, query strings; nor a salt whose time is over.

These tests read no table and trust no function: they look for the bytes, in every file and in all that a real server prints.

Contents: random traffic · errors that quote · salts in the raw bytes · purge in the raw bytes · temporary files · reprs
"""
import contextlib
import http.client
import ipaddress
import json
import logging
import os
import random
import re
import resource
import signal
import socket
import sqlite3
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote, urlencode, urlsplit

import pytest
from conftest import CHROME, Site

import mininumbers
from mininumbers import Sender, Settings, create_app, destroy_salts, open_database, purge, read_event, rotate_salts

DAY, GRACE = 86_400, 1800
PATIENCE = 20  # seconds until a test gives up waiting for what must happen


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """Jobs run when a test says so, and passwords are not what is tested here."""
    monkeypatch.setattr(mininumbers.Scheduler, "start", lambda self: None)
    monkeypatch.setitem(mininumbers.SCRYPT, "n", 16)


def make_database(path, **values):
    """Create a database with the site example.com, and nothing open. Returns a token."""
    with contextlib.closing(create_app(Settings(db=str(path), geoip=""))) as app:
        app.setup("owner", "correct horse", "example.com")
        app.set_site("example.com", **values)
        return app.create_token("test")


def files(path):
    """All bytes of a database's files: the database, its write-ahead log and the index of that."""
    return b"".join(each.read_bytes() for each in sorted(path.parent.glob(path.name + "*")))


def found(needles, haystack):
    """Which of the needles stand anywhere in the bytes."""
    return [needle for needle in needles if (needle if isinstance(needle, bytes) else needle.encode()) in haystack]


SECRET = re.compile(rb"(?=zq([bcdfghjk]{16}))")


def found_secrets(haystack):
    """Whatever in the bytes looks like a secret of Traffic's: they share a beginning, so one search finds all."""
    return {b"zq" + word for word in SECRET.findall(haystack)}


# ---- random traffic --------------------------------------------------------------------------------------------------

class Traffic:
    """Makes up requests, and remembers what of them must never be seen again, and what must be."""

    AGENTS = ("Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.{}.{} Safari/537.36",
              "Mozilla/5.0 (X11; Linux x86_64; rv:127.0) Gecko/20100101 Firefox/127.0.{}.{}",
              "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Mobile/15E{} Safari/604.{}",
              "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html) {}.{}",
              "curl/8.5.{}.{}",
              "Mozilla/5.0 (Linux; Android 14; SM-{} Build/{}) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Mobile Safari/537.36")
    CLICK_IDS = ("gclid", "fbclid", "msclkid", "wbraid", "gbraid", "dclid", "ttclid", "twclid", "yclid", "li_fat_id", "igshid")

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.forbidden, self.expected, self.secrets = set(), set(), 0

    def secret(self):
        """A word that must never be seen again."""
        self.secrets += 1
        return "zq" + "".join(self.random.choices("bcdfghjk", k=16))

    def address(self):
        """(an address, how it is written in a header)."""
        if self.random.random() < 0.6:
            address = ipaddress.IPv4Address(self.random.choice([0xC6336400, 0xCB007100, 0x0B000000]) + self.random.randrange(10, 256))
            written = self.random.choice([str(address), f"::ffff:{address}", f"{address}:4711"])
            self.forbidden |= {str(address), written}
        else:
            address = ipaddress.IPv6Address(0x20010DB8 << 96 | self.random.getrandbits(64))
            written = self.random.choice([str(address), address.exploded, f"[{address}]", f'"[{address}]:443"', str(address).upper()])
            self.forbidden |= {str(address), written, address.exploded, address.packed}
        return written

    def agent(self):
        text = self.random.choice(self.AGENTS).format(self.random.randrange(10_000, 99_999), self.random.randrange(10_000, 99_999))
        self.forbidden.add(text)
        return text

    def url(self, host="example.com", user=True):
        """A page with everything in its address that should not be kept, and a path and a UTM tag that should."""
        path, campaign = (f"/{kind}/{self.random.getrandbits(48):x}" for kind in ("page", "campaign"))
        query = [(self.random.choice(self.CLICK_IDS), self.secret()), ("token", self.secret()), ("email", f"{self.secret()}@example.net"),
                 ("utm_campaign", campaign), (self.secret(), "x"), ("q", self.secret())]
        self.random.shuffle(query)
        user = f"{self.secret()}:{self.secret()}@" if user and self.random.random() < 0.2 else ""
        return f"https://{user}{host}{path}?{urlencode(query)}#access_token={self.secret()}", path, campaign

    def event(self):
        """The body of an event that counts, if its sender does."""
        url, path, campaign = self.url()
        body = {"n": self.random.choice(["pageview", "pageview", "Sign up"]), "u": url, "d": "example.com", "w": self.random.choice([None, 390, 1920])}
        if self.random.random() < 0.5:
            body["r"] = self.url(self.random.choice(["t.co", "news.example", "www.google.com", "semalt.com"]))[0]
        if self.random.random() < 0.4:
            body["p"] = {"url": self.url("shop.example", user=False)[0], "plan": "gold", "next": f"//cdn.example/x?{self.secret()}"}
        if self.random.random() < 0.2:
            body.update(u=f"https://example.com/app#/route?{urlencode({'gclid': self.secret()})}", h=1)
            return body, set()
        return body, {path, campaign}


class Client:
    """Sends what Traffic makes up to a real server; each call is a request of its own."""

    def __init__(self, url, traffic, token):
        self.netloc, self.traffic, self.token = urlsplit(url).netloc, traffic, token
        self.host, self.port = self.netloc.split(":")
        self.unanswered = 0

    def request(self, method, target, body=None, forwarded=None, **headers):
        """Send a request; return its status, 0 where the server went away."""
        connection = http.client.HTTPConnection(self.netloc, timeout=PATIENCE)
        headers = {"User-Agent": self.traffic.agent(), "X-Forwarded-For": forwarded or self.traffic.address(),
                   **{name.replace("_", "-"): value for name, value in headers.items()}}
        with contextlib.closing(connection):
            try:
                connection.request(method, target, body, headers)
                return connection.getresponse().status
            except (OSError, http.client.HTTPException):
                return 0

    def event(self):
        body, stored = self.traffic.event()
        agent = self.traffic.agent()
        if self.request("POST", "/api/event", json.dumps(body), User_Agent=agent) == 202 and "Gecko" in agent and "r" not in body:
            self.traffic.expected |= stored

    def pixel(self):
        url, path, campaign = self.traffic.url()
        self.request("GET", "/pixel.gif?" + urlencode({"d": "example.com", "u": url, "r": self.traffic.url("t.co")[0]}))

    def refused(self):
        """A request that fails, with secrets wherever a message could quote them."""
        def url():
            return self.traffic.url()[0]
        secret = self.traffic.secret
        target, body, headers = self.traffic.random.choice([
            lambda: ("/api/event", f'{{"n": "{secret()}", ', {}),
            lambda: ("/api/event", json.dumps({"n": "pageview", "u": secret(), "d": "example.com"}), {}),
            lambda: ("/api/event", json.dumps({"n": "pageview", "u": url(), "d": f"{secret()}.example"}), {}),
            lambda: ("/api/event", json.dumps({"n": "pageview", "u": self.traffic.url("evil.example")[0], "d": "example.com"}), {}),
            lambda: ("/api/event", json.dumps({"n": "pageview", "u": url(), "d": "example.com", "p": {secret(): {"deep": secret()}}}), {}),
            lambda: ("/api/event", json.dumps({"n": "pageview", "u": url() + "x" * 9000, "d": "example.com"}), {}),
            lambda: ("/api/event", json.dumps({"n": "engagement", "u": url(), "d": "example.com", "e": 1000}), {}),
            lambda: ("/api/event", json.dumps({"n": "pageview", "u": url(), "d": "example.com", "w": secret(), "sd": secret(), "$": secret()}), {}),
            lambda: ("/api/event", json.dumps({"n": "pageview", "u": url(), "d": "example.com", "p": {"x": secret() * 10_000}}), {}),
            lambda: ("/api/event", f'["{secret()}", NaN]', {}),
            lambda: ("/api/event", b"\xff" + secret().encode(), {}),
            lambda: ("/api/login", json.dumps({"username": secret(), "password": secret()}), {"Content_Type": "application/json"}),
            lambda: ("/api/setup", json.dumps({"code": secret(), "username": secret(), "password": secret(), "domain": secret()}),
             {"Content_Type": "application/json"}),
            lambda: ("/api/login", json.dumps({"username": secret()}), {"Origin": f"http://[{secret()}", "Content_Type": "application/json"}),
            lambda: ("/api/v2/query", json.dumps({"site_id": secret()}), {"Authorization": f"Bearer {secret()}"}),
            lambda: ("/api/v2/query", json.dumps({"site_id": "example.com", "metrics": ["visitors"], "date_range": "day",
                                          "filters": [["matches", "event:page", [f"({secret()}"]]]}), {"Authorization": f"Bearer {self.token}"}),
            lambda: (f"/{secret()}?{secret()}", "", {}),
            lambda: ("/api/event", json.dumps(self.traffic.event()[0]), {"Cookie": f"mininumbers={secret()}; {secret()}", "Referer": url(),
                                                                 "Forwarded": f"for={self.traffic.address()};by={secret()}"}),
        ])()
        self.request("POST", target, body, **headers)

    def malformed_proxy_header(self):
        secret, address = self.traffic.secret, self.traffic.address
        for forwarded in (f'"{address()}', f"{address()}, {address()}", secret(), f"{address()},", f"for={address()}", f"{address()}]", f"[{address()}",
                          f"{address()} {secret()}", f'"\\{secret()}"', f"{address()},\t,{secret()}"):
            self.request("POST", "/api/event", json.dumps(self.traffic.event()[0]), forwarded)
        self.request("GET", "/", None, X_Forwarded_Proto=f"{secret()},{secret()}", X_Forwarded_Host=f'"{secret()}')

    def raw(self, data, reset=False):
        """Send bytes that are no HTTP, from an address that is the client's own and stands in no header."""
        own = f"127.{self.traffic.random.randrange(10, 250)}.{self.traffic.random.randrange(10, 250)}.{self.traffic.random.randrange(10, 250)}"
        self.traffic.forbidden.add(own)
        with contextlib.suppress(OSError), socket.create_connection((self.host, int(self.port)), PATIENCE, (own, 0)) as connection:
            connection.sendall(data)
            if reset:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            else:
                connection.recv(65_536)

    def garbage(self):
        secret, agent = self.traffic.secret, self.traffic.agent
        for line in (f"GET http://[{secret()} HTTP/1.1", f"GET /{secret()} HTTP/1.1\r\n{secret()}", f"{secret()}", f"GET //[{secret()}? HTTP/1.1",
                     f"POST /api/event HTTP/1.1\r\nContent-Length: {secret()}", f"POST /{secret()} HTTP/1.1\r\nTransfer-Encoding: {secret()}",
                     f"GET /\x00{secret()} HTTP/1.1", f"GET /é{secret()} HTTP/1.1", "POST /api/event HTTP/1.1\r\nContent-Length: -1"):
            self.raw(f"{line}\r\nUser-Agent: {agent()}\r\n\r\n".encode())
        for line in ("GET /", "POST /api/event"):
            self.raw(f"{line} HTTP/1.1\r\nContent-Length: 9999\r\nUser-Agent: {agent()}\r\n\r\n{secret()}".encode(), reset=True)


class Printed:
    """What a server prints, read as it comes so that the pipe never fills."""

    def __init__(self, server):
        self.server, self.rest = server, []
        self.thread = threading.Thread(target=lambda: self.rest.extend(server.process.stdout))
        self.thread.start()

    def text(self):
        """All of it; the server must have ended."""
        self.server.process.wait(PATIENCE)
        self.thread.join(PATIENCE)
        return self.server.output + "".join(self.rest)


@pytest.fixture(scope="module")
def after_traffic(tmp_path_factory):
    """(traffic, all bytes of the files, all that was printed) of a server that lived through everything and was killed, twice."""
    from conftest import Server
    folder = tmp_path_factory.mktemp("traffic")
    db, traffic, printed = folder / "test.db", Traffic(seed=7), ""
    token = make_database(db)
    for ending in (signal.SIGKILL, signal.SIGTERM):
        server = Server(db, "--threads", "2")
        printing, client = Printed(server), Client(server.url, traffic, token)
        try:
            with ThreadPoolExecutor(8) as pool:
                for call in [client.event] * 80 + [client.pixel] * 15 + [client.refused] * 70:
                    pool.submit(call)
                with contextlib.closing(sqlite3.connect(db, isolation_level=None, timeout=PATIENCE)) as other:
                    other.execute("begin immediate")
                    time.sleep(0.3)  # while nothing can be written, requests pile up
                    other.execute("rollback")
            client.malformed_proxy_header()
            client.garbage()
            resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))  # nothing can be written any more
            assert [client.request("POST", "/api/event", json.dumps({**traffic.event()[0]}), User_Agent=CHROME) for _ in range(3)] == [503] * 3
            resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            with ThreadPoolExecutor(8) as pool:
                for call in [client.event] * 30:
                    pool.submit(call)
                time.sleep(0.1)
                server.process.send_signal(ending)
        finally:
            server.kill()
        printed += printing.text()
    return traffic, files(db), printed.encode()


def test_what_may_be_kept_is_kept(after_traffic):
    """So that the tests below look where the traffic went."""
    traffic, stored, printed = after_traffic
    assert traffic.secrets > 1000
    assert len(traffic.expected) > 50
    assert set(found(traffic.expected, stored)) == traffic.expected
    assert b"writing failed" in printed


@pytest.mark.parametrize("where", ["files", "output"])
def test_no_address_and_no_user_agent_is_in_any_byte_of_the_files_or_of_what_the_server_prints(after_traffic, where):
    traffic, stored, printed = after_traffic
    assert found(traffic.forbidden, stored if where == "files" else printed) == []


@pytest.mark.parametrize("where", ["files", "output"])
def test_no_click_id_and_nothing_of_a_query_is_in_any_byte_of_the_files_or_of_what_the_server_prints(after_traffic, where):
    _, stored, printed = after_traffic
    assert found_secrets(stored if where == "files" else printed) == set()


def test_no_request_makes_the_server_fail_unforeseen(after_traffic):
    _, _, printed = after_traffic
    for sign in (b"Traceback", b"a request failed", b"uncaptured"):
        assert sign not in printed


@pytest.mark.parametrize("value, kept", [
    ("https://shop.example/cart?token=secret", "https://shop.example/cart"),
    ("https://shop.example/cart#token=secret", "https://shop.example/cart"),
    ("https://user:secret@shop.example/cart", "https://shop.example/cart"),
    ("HTTPS://shop.example/?secret", "HTTPS://shop.example/"),
    ("//shop.example/a?secret", "//shop.example/a"),
    (" https://shop.example/a?secret", " https://shop.example/a"),
    ("android-app://com.shop/a?secret", "android-app://com.shop/a"),
    ("/cart?token=secret", "/cart"),
    ("?token=secret", ""),
    ("Is this a question? Yes #1", "Is this a question? Yes #1"),
    ("5/6?", "5/6?"),
])
def test_a_property_that_is_an_address_loses_its_query(value, kept):
    event = read_event({"n": "x", "u": "https://example.com/", "d": "example.com", "p": {"link": value}})
    assert dict(event.props).get("link", "") == kept


# ---- errors that quote -----------------------------------------------------------------------------------------------

QUOTED = ["192.0.2.77", "130.0.4711.99", "zq-quoted-path", "zq-quoted-query", "zq-quoted-prop"]

QUOTED_AGENT = CHROME.replace("130.0.0.0", "130.0.4711.99")


def send_quotable(site, status):
    return site.send("/zq-quoted-path?token=zq-quoted-query", ip="192.0.2.77", agent=QUOTED_AGENT, p={"x": "zq-quoted-prop"}, status=status)


@pytest.mark.parametrize("where", ["_judge", "record"])
def test_an_unforeseen_error_is_logged_by_its_place_and_never_by_its_message(app, site, monkeypatch, caplog, capfd, where):
    def fail(*arguments):
        raise KeyError(*QUOTED)
    monkeypatch.setattr(app.collector, where, fail)
    assert send_quotable(site, 500).json["code"] == "internal"
    printed = caplog.text + "".join(capfd.readouterr())
    assert "KeyError" in caplog.text
    assert found(QUOTED, printed.encode()) == []


def test_a_database_that_cannot_be_written_is_logged_without_what_was_to_be_written(settings, clock, monkeypatch, caplog, capfd):
    connect = mininumbers.connect

    def impatient(*arguments, **more):
        connection = connect(*arguments, **more)
        connection.execute("pragma busy_timeout = 100")
        return connection
    monkeypatch.setattr(mininumbers, "connect", impatient)
    with contextlib.closing(create_app(settings, clock)) as app:
        app.setup("owner", "correct horse", "example.com")
        site = Site(app)
        with contextlib.closing(sqlite3.connect(settings.db, isolation_level=None)) as other:
            other.execute("begin immediate")
            send_quotable(site, 503)
            other.execute("rollback")
    assert "writing failed" in caplog.text
    assert found(QUOTED, (caplog.text + "".join(capfd.readouterr())).encode()) == []


def test_malformed_forwarded_headers_are_refused_or_read_but_never_logged(app, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    site = Site(app)
    for forwarded in ("192.0.2.77:x:y", '"192.0.2.77', "192.0.2.77,", ",192.0.2.77", "", "[192.0.2.77", "130.0.4711.99"):
        site.send(ip=forwarded, status="*")
    assert found(QUOTED, (caplog.text + "".join(capfd.readouterr())).encode()) == []


# ---- salts in the raw bytes ------------------------------------------------------------------------------------------

def salts_in(path):
    """The salts that are in a database, read as another program would."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        return [salt for salt, in db.execute("select salt from salts")]


@pytest.fixture
def path(settings, tmp_path):
    return tmp_path / "test.db"


def visit_for_days(app, clock, days):
    """Traffic on several sites; returns all salts that came and went, the last ones included."""
    seen = set()
    for number in range(8):
        app.add_site(f"{number}.example", rotation_hours=[1, 6, 24, 24, 24, 24, 168, 24][number])
    for _ in range(days):
        for number in range(8):
            Site(app, f"{number}.example").send()
        seen |= set(salts_in(app.settings.db))
        clock.advance(DAY)
        rotate_salts(app)
    return seen


def test_the_salt_of_an_ended_epoch_is_in_no_byte_of_any_file(app, clock, path):
    seen = visit_for_days(app, clock, days=5)
    living = set(salts_in(path))
    assert len(seen) > 30
    assert found(seen - living, files(path)) == []
    assert found(living, files(path)) == list(living)  # so that this looks in the right place


def test_a_long_read_delays_the_end_of_a_salt_and_does_not_prevent_it(app, site, clock, path):
    site.send()
    salt, = salts_in(path)
    clock.advance(DAY)
    with app.store.snapshot() as db:
        db.execute("select count(*) from hits").fetchone()
        rotate_salts(app)
    clock.advance(60)
    rotate_salts(app)
    assert found([salt], files(path)) == []


def test_the_read_of_another_process_delays_it_no_longer(app, site, clock, path):
    site.send()
    salt, = salts_in(path)
    clock.advance(DAY)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("begin")
        other.execute("select count(*) from hits").fetchone()
        rotate_salts(app)
        Site(app).send()
    clock.advance(60)
    rotate_salts(app)
    assert found([salt], files(path)) == []


def add_ended_salt(path):
    """Put a salt whose time is over into a database; returns it."""
    salt = random.Random(1).randbytes(32)
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        ended = int(time.time()) - GRACE - 1
        columns = [name for _, name, *_ in db.execute("pragma table_info(salts)")]
        values = {"site_id": 1, "epoch": 1, "salt": salt, "ends_at": ended}
        db.execute(f"insert into salts ({', '.join(columns)}) values ({', '.join(':' + name for name in columns)})", values)
    return salt


def wait_until(condition):
    for _ in range(100):
        if condition():
            return True
        time.sleep(0.1)
    return False


def test_a_server_killed_between_two_steps_finishes_them_at_its_next_start(path, start_server):
    make_database(path)
    salt = add_ended_salt(path)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("begin")
        other.execute("select count(*) from hits").fetchone()  # the log cannot be emptied while this goes on
        server = start_server(path, "--geoip", "")
        http.client.HTTPConnection(urlsplit(server.url).netloc).request("GET", "/health")
        assert wait_until(lambda: salts_in(path) == [])
        server.kill()
    server = start_server(path, "--geoip", "")
    http.client.HTTPConnection(urlsplit(server.url).netloc).request("GET", "/health")
    assert wait_until(lambda: not found([salt], files(path)))


def test_a_server_that_nobody_visits_destroys_salts_too(path, start_server):
    make_database(path)
    salt = add_ended_salt(path)
    start_server(path, "--geoip", "")
    assert wait_until(lambda: not found([salt], files(path)))


def test_the_salt_of_a_removed_site_is_in_no_byte_of_any_file(app, clock, path):
    app.add_site("other.example")
    site = Site(app, "other.example")
    site.send()
    site.send(name="engagement")
    salt, = salts_in(path)
    app.remove_site("other.example")
    assert found([salt], files(path)) == []


def test_the_salt_of_a_removed_site_that_has_no_hits_is_in_no_byte_either(app, path):
    app.add_site("other.example")
    Site(app, "other.example").send(name="engagement", sd=1)
    salts = salts_in(path)
    app.remove_site("other.example")
    assert found(salts, files(path)) == []


def test_salts_of_hundreds_of_sites_leave_no_trace_where_pages_of_the_table_are_split_and_joined(path):
    """Rows that a b-tree moves from page to page leave copies behind that `secure_delete` does not know of."""
    chance, living, traces = random.Random(5), {}, []
    rotations = {site: chance.choice([1, 1, 6, 24, 24, 24, 168]) for site in range(1, 301)}
    with contextlib.closing(open_database(str(path), mininumbers.asset("schema.sql").read_text())) as db:
        salts = mininumbers.Salts(chance.randbytes)
        zone = mininumbers.zone_of("UTC")
        for hour in range(30):
            now = 1772409600 + hour * 3600
            db.execute("begin immediate")
            for site in chance.sample(sorted(rotations), 210):
                values = mininumbers.Site(site, f"{site}.example", "UTC", (), "standard", rotations[site], 0, "drop")
                ends_at = mininumbers.epoch_at(now, rotations[site], zone)[1]
                living[salts.usable(db, values, now)[0]] = ends_at
            db.execute("commit")
            destroy_salts(db, now)
            db.execute("pragma wal_checkpoint(truncate)").fetchall()
            ended = [salt for salt, ends_at in living.items() if ends_at <= now - GRACE]
            traces += found(ended, files(path))
            for salt in ended:
                del living[salt]
    assert traces == []


# ---- purge in the raw bytes ------------------------------------------------------------------------------------------

def test_what_retention_deletes_is_in_no_byte_of_any_file(app, clock, path):
    app.add_site("other.example", retention_days=10)
    site, chance = Site(app, "other.example"), random.Random(3)
    old, new = [], []
    for day in range(30):
        for number in range(4):
            words = [f"{chance.getrandbits(80):020x}" for _ in range(6)]
            site.send(f"/{words[0]}?utm_campaign={words[1]}", words[2], ip=f"192.0.2.{number}", r=f"https://{words[3]}.example/{words[4]}",
                      p={"word": words[5]})
            (old if day < 19 else new if day > 20 else []).extend(words)
        clock.advance(DAY)
    assert found(old, files(path)) == old
    purge(app)
    assert found(old, files(path)) == []
    assert found(new, files(path)) == new


def test_what_a_removed_site_collected_is_in_no_byte_of_any_file(app, path):
    app.add_site("other.example")
    site = Site(app, "other.example")
    words = [f"{random.Random(number).getrandbits(80):020x}" for number in range(40)]
    for word in words:
        site.send(f"/{word}", p={"word": f"v{word}"})
    Site(app).send("/kept")
    app.remove_site("other.example")
    assert found(words, files(path)) == []
    assert found(["/kept"], files(path)) == ["/kept"]


# ---- temporary files -------------------------------------------------------------------------------------------------

class TemporaryFolder:
    """An empty folder that is a server's TMPDIR, and a look at which files it has open there, also those without a name."""

    def __init__(self, path):
        self.path, self.seen, self.stopped = path, set(), threading.Event()
        path.mkdir()
        self.changed = path.stat().st_mtime_ns

    def watch(self, server):
        """Look until stopped."""
        while not self.stopped.wait(0.002):
            with contextlib.suppress(OSError):
                fds = f"/proc/{server.process.pid}/fd"
                links = (os.readlink(f"{fds}/{number}") for number in os.listdir(fds))
                self.seen |= {link for link in links if link.startswith(str(self.path))}
            self.seen |= set(os.listdir(self.path))

    @contextlib.contextmanager
    def watching(self, server):
        thread = threading.Thread(target=self.watch, args=(server,))
        thread.start()
        try:
            yield
        finally:
            self.stopped.set()
            thread.join()
        if self.path.stat().st_mtime_ns != self.changed:
            self.seen.add("something that is gone")


def test_large_requests_leave_nothing_in_the_temporary_folder(path, tmp_path, start_server):
    make_database(path)
    folder = TemporaryFolder(tmp_path / "tmp")
    server = start_server(path, "--geoip", "", env={"TMPDIR": str(folder.path), "SQLITE_TMPDIR": str(folder.path)})
    with folder.watching(server):
        statuses = []
        for size in (60_000, 600_000, 1_040_000, 1_100_000, 5_000_000):
            for method, target, body, headers in (
                    ("POST", "/api/event", json.dumps({"n": "x", "u": "https://example.com/", "d": "example.com", "p": {"x": "y" * size}}), {}),
                    ("POST", "/api/event", iter([b"z" * 50_000] * (size // 50_000)), {"Transfer-Encoding": "chunked"}),
                    ("GET", f"/pixel.gif?d=example.com&u={quote('https://example.com/?') + 'q' * min(size, 250_000)}", None, {})):
                connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=PATIENCE)
                with contextlib.closing(connection), contextlib.suppress(OSError):
                    connection.request(method, target, body, {"User-Agent": CHROME, **headers}, encode_chunked=bool(headers))
                    statuses.append(connection.getresponse().status)
    assert {400, 413} <= set(statuses) <= {400, 413, 431}
    assert folder.seen == set()


def fill(path, visits, length):
    """Write many visits of many pages with long names straight into a database."""
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        start = (int(time.time()) - 3600) << 16
        db.execute("create temp table n as with recursive n(i) as (select 1 union all select i + 1 from n where i < ?) select i from n", (visits,))
        db.execute("insert into texts (id, text) select 1000 + i, printf('/%06d/%s', i, ?) from n", ("x" * length,))
        db.execute("insert into clients values (1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)")
        db.execute("insert into origins values (1, 0, 0, 0, 0, 0, 0, 0, 0, 0)")
        db.execute("insert into visits select 1, ? + i, i * 7919, 1, 1, 1000 + i, 1000 + i, 0, 1, 0, 0, 0 from n", (start,))
        db.execute("insert into hits select 1, ? + i, 0, 1, 1000 + i, 0, 0, null from n", (start,))


def test_large_reports_leave_nothing_in_the_temporary_folder(path, tmp_path, start_server):
    """A report sorts more than fits SQLite's cache, and answers with more than a slow client takes at once."""
    token = make_database(path)
    fill(path, visits=12_000, length=400)
    folder = TemporaryFolder(tmp_path / "tmp")
    server = start_server(path, "--geoip", "", env={"TMPDIR": str(folder.path), "SQLITE_TMPDIR": str(folder.path)})
    body = {"site_id": "example.com", "metrics": ["visitors", "visits", "bounce_rate"], "date_range": "30d", "dimensions": ["event:page", "visit:exit_page"],
            "pagination": {"limit": 10_000, "offset": 0}}
    body["date_range"] = [time.strftime("%Y-%m-%d", time.gmtime(time.time() - DAY)), time.strftime("%Y-%m-%d", time.gmtime())]
    with folder.watching(server):
        connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=PATIENCE)
        connection.request("POST", "/api/v2/query", json.dumps(body), {"Authorization": f"Bearer {token}"})
        time.sleep(0.5)  # the client is in no hurry
        assert len(json.loads(connection.getresponse().read())["results"]) == 10_000
    assert folder.seen == set()


def test_collecting_and_purging_leave_nothing_in_the_temporary_folder(path, tmp_path, start_server):
    """What a transaction could have to undo is copied aside; pages with salts and paths are among it."""
    make_database(path, retention_days=1)
    fill(path, visits=12_000, length=400)
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        for table, column in (("hits", "id"), ("visits", "id")):
            db.execute(f"update {table} set {column} = {column} - ({10 * DAY} << 16)")
    folder = TemporaryFolder(tmp_path / "tmp")
    server = start_server(path, "--geoip", "", env={"TMPDIR": str(folder.path), "SQLITE_TMPDIR": str(folder.path)})
    with folder.watching(server):
        with ThreadPoolExecutor(8) as pool:
            client = Client(server.url, Traffic(1), "")
            for _ in range(100):
                pool.submit(client.event)

        def is_purged():
            with contextlib.closing(sqlite3.connect(path)) as db:
                return db.execute("select count(*) from texts where text like '/00%'").fetchone() == (0,)
        assert wait_until(is_purged)
    assert folder.seen == set()


# ---- reprs -----------------------------------------------------------------------------------------------------------

def test_no_repr_shows_an_address_a_user_agent_or_a_query(app, site, monkeypatch):
    submit, waiting = app.store.submit, []

    def overhear(work, item):
        waiting.append(item)
        return submit(work, item)
    monkeypatch.setattr(app.store, "submit", overhear)
    sender = Sender("192.0.2.77", QUOTED_AGENT, "de", True)
    event = read_event({"n": "x", "u": "https://example.com/a?token=zq-quoted-query", "d": "example.com", "r": "https://t.co/?zq-quoted-query"})
    app.collector.collect(event, sender)
    shown = "\n".join(map(repr, (event, sender, waiting, mininumbers._Job(app.collector.record, waiting[0])))) + f"{waiting[0]} {sender} {event}"
    assert "Hit(" in shown
    assert "/a" in shown
    assert found([*QUOTED, "Gecko"], shown.encode()) == []
