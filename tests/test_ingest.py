"""Collection: what is taken in, what is refused, what is dropped, and what is then in the database.

Three outcomes, and nothing between them: 202 and it is on the disk; 202 with a reason and it is counted as dropped; 400 or 413,
the field is named and nothing at all is written. The database is read with sqlite3 itself, beside the server.

Contents: the payload · refusals · arbitrary input · what may be odd · no room · drops · hosts · bots · privacy signals · several sites · the
pixel · engagement · (other) · order and time · proxies · privacy modes
"""
import contextlib
import json
import re
import sqlite3
import threading
from datetime import date
from wsgiref.util import setup_testing_defaults

import pytest
import webtest
from hypothesis import example, given, settings as budget, strategies as st

from conftest import CHROME, PASSWORD, ROOT, MovableClock, Site
from mininumbers import DROP_REASONS, GeoIP, Settings, behind_proxies, create_app

IPHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.1 Mobile/15E148 Safari/604.1"
GEOIP = str(ROOT / "GeoLite2-Country.mmdb")
pytestmark = pytest.mark.usefixtures("cheap_passwords")


def ask(app, query, *values):
    """What a query says of the database file, asked by a program of its own."""
    with contextlib.closing(sqlite3.connect(app.settings.db)) as db:
        return db.execute(query, values).fetchall()


TABLES = sorted(set(re.findall(r"^create table (\w+)", (ROOT / "schema.sql").read_text("utf-8"), re.MULTILINE)))


def written(app):
    """How many rows every table has, and how many drops were counted."""
    counts = ", ".join(f"(select count(*) from {name})" for name in TABLES)
    return dict(zip((*TABLES, "drops"), ask(app, f"select {counts}, (select total(count) from dropped)")[0]))


def hits(app):
    """Every hit in the order of its id: (name, host, page)."""
    return ask(app, """select n.text, o.text, p.text from hits h join texts n on n.id = h.name join texts o on o.id = h.hostname
                       join texts p on p.id = h.page order by h.id""")


def newest(app, table, *columns):
    """The texts of the newest row of clients or origins that a visit names."""
    names = ", ".join(f"(select text from texts where id = t.{column})" for column in columns)
    return ask(app, f"select {names} from {table} t join visits v on v.{table[:-1]}_id = t.id order by v.id desc limit 1")[0]


def dropped(site, **more):
    """{reason: count} of GET /api/dropped."""
    query = "&".join(f"{name}={value}" for name, value in {"site_id": site.domain, **more}.items())
    answer = site.web.get(f"/api/dropped?{query}", headers={"Authorization": f"Bearer {site.token}"})
    return {row["reason"]: row["count"] for row in answer.json["results"]}


def post(site, body, agent=CHROME, **headers):
    """POST raw bytes, or a value as JSON, and return the answer whatever it is."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return site.web.post("/api/event", raw, {"User-Agent": agent, "Content-Type": "text/plain", **headers}, expect_errors=True)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One app for all that must leave no trace."""
    app = create_app(Settings(db=str(tmp_path_factory.mktemp("shared") / "test.db"), geoip=""), clock=MovableClock())
    app.setup("owner", PASSWORD, "example.com")
    with contextlib.closing(app):
        site = Site(app)
        site.send("/first")
        yield site


@pytest.fixture
def open_app(tmp_path, clock):
    """A function that opens an app with other settings and returns its site example.com."""
    with contextlib.ExitStack() as stack:
        def open_with(**more):
            app = stack.enter_context(contextlib.closing(create_app(Settings(**{"db": str(tmp_path / "other.db"), "geoip": "", **more}),
                                                                    clock=clock)))
            app.setup("owner", PASSWORD, "example.com")
            return Site(app)
        yield open_with


# ---- the payload -----------------------------------------------------------------------------------------------------

WHOLE = {"name": "Purchase", "url": "https://www.Example.com/caf%C3%A9/?utm_source=news&secret=1#part", "domain": "example.com",
         "referrer": "https://friend.test/from?secret=1", "props": {"plan": "pro", "seats": 3, "trial": False, "none": None, "rate": 0.5},
         "revenue": {"amount": "12.50", "currency": "eur"}, "interactive": False, "screen_width": 1280, "hash": 1, "sd": 40, "e": 100}
SHORT = {"name": "n", "url": "u", "domain": "d", "referrer": "r", "props": "p", "revenue": "$", "interactive": "i", "screen_width": "w", "hash": "h"}


@pytest.mark.parametrize("payload", [
    WHOLE,
    {SHORT.get(name, name): value for name, value in WHOLE.items()},
    {**WHOLE, "props": json.dumps(WHOLE["props"]), "revenue": json.dumps(WHOLE["revenue"])},
    {**WHOLE, "revenue": {"amount": 12.5, "currency": "EUR", "more": [1]}, "unknown": {"x": [1]}},
], ids=["long names", "short names", "JSON in JSON", "more than is known"])
def test_the_whole_payload_is_understood(app, site, payload):
    assert post(site, payload).status_int == 202
    assert hits(app) == [("Purchase", "example.com", "/café/#part")]
    assert dict(ask(app, "select k.text, v.text from props p join texts k on k.id = p.key join texts v on v.id = p.value")) == {
        "plan": "pro", "seats": "3", "trial": "false", "rate": "0.5"}
    assert ask(app, "select amount, currency from revenue") == [(1250, "EUR")]
    assert ask(app, "select pageviews, interactive from visits") == [(0, 0)]
    assert newest(app, "clients", "screen", "browser") == ("Laptop", "Chrome")
    assert newest(app, "origins", "utm_source", "referrer") == ("news", "friend.test/from")


@pytest.mark.parametrize("content_type", ["text/plain", "application/json", "text/plain;charset=UTF-8", "application/x-www-form-urlencoded", ""])
def test_the_content_type_does_not_matter(app, site, content_type):
    answer = post(site, {"n": "pageview", "u": "https://example.com/", "d": "example.com"}, **{"Content-Type": content_type})
    assert (answer.status_int, answer.text, len(hits(app))) == (202, "ok", 1)


def test_what_is_acknowledged_is_on_the_disk(app, site):
    for number in range(1, 6):
        site.send(f"/{number}")
        assert len(hits(app)) == number


def test_the_short_name_counts_where_both_are_given(app, site):
    post(site, {"n": "pageview", "name": "other", "u": "https://example.com/a", "url": "https://example.com/b", "d": "example.com",
                "domain": "other.test"})
    assert hits(app) == [("pageview", "example.com", "/a")]


@pytest.mark.parametrize("url, page", [
    ("https://example.com", "/"), ("https://example.com?q=1", "/"), ("https://example.com/a/?q=1#x", "/a/"),
    ("https://example.com/%E2%82%AC%20b", "/€ b"),
    ("HTTPS://EXAMPLE.COM/Case", "/Case"), ("https://user:secret@example.com:8443/a", "/a"), ("https://example.com./dot", "/dot"),
    ("https://example.com/%00%0a%ff", "/\ufffd\ufffd\ufffd"), ("https://example.com//a//", "//a//"),
    ("http://example.com/" + "é" * 1999, "/" + "é" * 1999),
])
def test_the_page_is_the_decoded_path(app, site, url, page):
    post(site, {"n": "pageview", "u": url, "d": "example.com"})
    assert hits(app) == [("pageview", "example.com", page)]


@pytest.mark.parametrize("fragment, page", [("#/a/b", "/#/a/b"), ("#/a?secret=1", "/#/a"), ("#", "/"), ("", "/"), ("#%C3%A9", "/#é")])
def test_in_hash_mode_the_fragment_belongs_to_the_page_but_its_query_does_not(app, site, fragment, page):
    site.send("/" + fragment, h=1)
    assert hits(app)[0][2] == page


@pytest.mark.parametrize("amount, currency, minor", [
    ("12.50", "EUR", 1250), (12.5, "usd", 1250), (0, "EUR", 0), (-3.99, "EUR", -399), ("-3.99", "EUR", -399), (1250, "JPY", 1250),
    ("1250.00", "JPY", 1250),
    ("1.234", "KWD", 1234), ("1.2345", "CLF", 12345), (0.1, "EUR", 10), ("0.29", "EUR", 29), (1.15, "EUR", 115),
    ("9999999999999.99", "EUR", 999999999999999),
    ("0.004", "EUR", 0), ("0.006", "EUR", 1), ("-0.006", "EUR", -1), ("1", "EUR", 100), ("00012.5", "EUR", 1250),
])
def test_revenue_is_kept_exactly_in_the_minor_unit_of_its_currency(app, site, amount, currency, minor):
    site.send(name="Purchase", revenue={"amount": amount, "currency": currency})
    assert ask(app, "select amount, currency from revenue") == [(minor, currency.upper())]


@pytest.mark.parametrize("amount, currency, exact", [("0.005", "EUR", 0.5), ("0.015", "EUR", 1.5), ("12.5", "JPY", 12.5), ("-0.005", "EUR", -0.5)])
def test_half_a_minor_unit_goes_to_one_of_its_neighbours(app, site, amount, currency, exact):
    site.send(name="Purchase", revenue={"amount": amount, "currency": currency})
    (stored,), = ask(app, "select amount from revenue")
    assert abs(stored - exact) == 0.5


@pytest.mark.parametrize("value", ["https://friend.test/a?token=SECRET#part", "//friend.test/a?token=SECRET", " HTTPS://friend.test/a#SECRET",
                                   "app://x/a?SECRET"])
def test_a_property_that_is_an_address_loses_its_query(app, site, value):
    site.send(name="Outbound Link: Click", props={"url": value})
    (stored,), = ask(app, "select t.text from props p join texts t on t.id = p.value")
    assert stored == value.split("?")[0].split("#")[0]


# ---- refusals --------------------------------------------------------------------------------------------------------

GOOD = {"n": "pageview", "u": "https://example.com/", "d": "example.com"}
WRONG_TEXT = [5, 0, 1.5, True, False, [], ["a"], {}, "a\0b", "a\nb", "a\x7fb", "\x85"]
WRONG_NUMBER = ["5", "", True, False, [], {}, -1, -0.5, 10 ** 30, -(10 ** 30), 2 ** 64]
WRONG_FLAG = ["true", "", "0", 2, -1, 0.5, [], {}]
LONG_NAMES = {short: long for long, short in SHORT.items()}


def refusals():
    """(field, payload) of every way in which one field can be wrong."""
    for short, limit in (("n", 120), ("d", 1000), ("u", 8192), ("r", 8192)):
        for value in [*WRONG_TEXT, "https://example.com/" + "x" * limit]:
            yield short, {**GOOD, short: value}
            yield short, {**GOOD, short: None, LONG_NAMES[short]: value}
    for short in ("n", "d", "u"):
        yield short, {name: value for name, value in GOOD.items() if name != short}
        yield short, {**GOOD, short: None}
        yield short, {**GOOD, short: ""}
    for url in ("/relative", "example.com/x", "//example.com/x", "https://", "https:///x", "https://[::1", "https://[x]/", "javascript:alert(1)",
                "data:text/html,x",
                "mailto:a@example.com", "file:///etc/passwd", "about:blank", "https://exa mple.com/", "https://-a.com/", "https://a..b/",
                "https://?x", "https://#x", "http:example.com",
                "https://" + "a" * 64 + ".com/", "https://" + "a." * 130 + "com/", "https://example.com/" + "x" * 2000, "https://exam%70le.com/",
                "https://\u2100.com/", "nonsense"):
        yield "u", {**GOOD, "u": url}
    for domain in (",", " , ,", ",".join(f"site{number}.test" for number in range(11))):
        yield "d", {**GOOD, "d": domain}
    for props in (5, True, False, 0, [], [["a", "b"]], "text", "{", "[]", "5", '"x"', '{"a":1,"a":2}', '{"a":NaN}', '{"a":"\\u0000"}',
                  '{"a":"\\ud800"}', "{}x", "[" * 3000,
                  {"a": []}, {"a": {}}, {"a": {"b": 1}}, {"a": [1]}, {"": "x"}, {"k" * 301: "x"}, {"a\nb": "x"}, {"a": "v" * 2001}, {"a": 10 ** 2001},
                  '{"a":1e999}',
                  {f"key{number}": 1 for number in range(31)}):
        yield "p", {**GOOD, "p": props}
        yield "p", {**GOOD, "props": props}
    for revenue in (5, True, [], "x", "5", {}, {"amount": 5}, {"currency": "EUR"}, {"amount": 5, "currency": "XXX"},
                    {"amount": 5, "currency": "EURO"}, {"amount": 5, "currency": 5},
                    {"amount": 5, "currency": ""}, *({"amount": amount, "currency": "EUR"} for amount in (
                        "NaN", "Infinity", "-inf", "1e309", "1e3", "12,50", "1.234,50", "", " 5", "5 ", "+5", "--5", ".5", "5.", "0x5", "٣", "1_000",
                        None, True, [], {}, [5], 1e300,
                        10 ** 13, -(10 ** 13), 10 ** 400, "1" * 14, "5\n", "5\0", "€5"))):
        yield "$", {**GOOD, "$": revenue}
        yield "$", {**GOOD, "revenue": revenue}
    for short, values in (("sd", [*WRONG_NUMBER, 101, 100.5]), ("e", [*WRONG_NUMBER, 10 ** 10]), ("w", [*WRONG_NUMBER, 10 ** 7]), ("h", WRONG_FLAG),
                          ("i", WRONG_FLAG)):
        for value in values:
            yield short, {**GOOD, short: value}


@pytest.mark.parametrize("field, payload", [pytest.param(*case, id=f"{case[0]}-{number}") for number, case in enumerate(refusals())])
def test_a_field_that_is_wrong_is_named_and_nothing_is_written(shared, field, payload):
    before = written(shared.app)
    answer = post(shared, payload)
    assert answer.status_int == 400, payload
    assert set(answer.json) == {"error", "code", "details"} and answer.json["code"] == "invalid-input"
    named = {each["field"] for each in answer.json["details"]}
    assert named and named <= {field, LONG_NAMES.get(field, field)}
    assert all(each["message"] for each in answer.json["details"])
    assert written(shared.app) == before


def test_one_answer_names_every_field_that_is_wrong(shared):
    answer = post(shared, {"n": 5, "u": "nowhere", "d": [], "r": {}, "p": 5, "$": 5, "i": "x", "h": "x", "sd": 101, "e": -1, "w": "wide"})
    assert {SHORT.get(each["field"], each["field"]) for each in answer.json["details"]} == {"n", "u", "d", "r", "p", "$", "i", "h", "sd", "e", "w"}


def raw(fields):
    return b'{"n":"pageview","u":"https://example.com/","d":"example.com",%s}' % fields


@pytest.mark.parametrize("body", [
    b"", b" ", b"null", b"true", b"5", b'"text"', b"[]", b"[{}]", b"{", b"{}x", b"{'n':1}", b"n=pageview", b"\x00", b"\xff\xfe{}", b"\xef\xbb\xbf{}",
    b"\x80abc",
    '{"n":"pageview"}'.encode("utf-16"), raw(b'"r":"\xff"'), raw(b'"r":"\xed\xa0\x80"'), raw(b'"r":"\xc0\x80"'),
    raw(b'"e":NaN'), raw(b'"e":Infinity'), raw(b'"e":-Infinity'), raw(b'"e":1e999'), raw(b'"sd":-1e999'), raw(b'"w":1e400'),
    raw(b'"e":' + b"9" * 5000),
    raw(b'"p":{"a":NaN}'), raw(b'"p":{"a":1e999}'), raw(b'"$":{"amount":NaN,"currency":"EUR"}'), raw(b'"$":{"amount":1e999,"currency":"EUR"}'),
    raw(b'"n":"again"'), raw(b'"p":{"a":1,"a":2}'), raw(b'"x":{"a":1,"a":2}'), raw(b'"r":"\\ud800"'), raw(b'"r":"\\udc00\\ud800"'),
    raw(b'"r":"\\u0000"'),
    raw(b'"p":{"\\ud800":"x"}'), raw(b'"p":{"a":"\\uDFFF"}'), raw(b'"p":{"a":"\\u0000"}'), raw(b'"\\ud800":"x"'), raw(b'"x":"\\ud800"'),
    raw(b'"r":"a\tb"'), raw(b'"r":"\\x41"'),
raw(b'"p":' + b"[" * 20_000 + b"]" * 20_000), raw(b'"p":' + b'{"a":' * 9_000 + b"1" + b"}" * 9_000), raw(b'"p":' + b"[" * 5_000), b"[" * 60_000,
    *(raw(b'"x":' + b"[" * depth + b"]" * depth + b',"y":"\\u0000"') for depth in (10, 300, 600, 800, 900, 950, 980, 1000, 3000)),
])
def test_what_is_not_the_json_of_an_event_is_refused_and_nothing_is_written(shared, body):
    before = written(shared.app)
    answer = post(shared, body)
    assert answer.status_int == 400
    assert set(answer.json) == {"error", "code", "details"}
    assert written(shared.app) == before


@pytest.mark.parametrize("body, field", [(raw(b'"r":"\\ud800"'), "r"), (raw(b'"p":{"a":"\\u0000"}'), "p"), (raw(b'"e":1e999'), "e"),
                                         (raw(b'"$":{"amount":1e999,"currency":"EUR"}'), "$")])
def test_what_json_can_say_but_nobody_can_store_is_named_too(shared, body, field):
    assert [each["field"] for each in post(shared, body).json["details"]] == [field]


@pytest.mark.parametrize("size, status", [(65_536, 202), (65_537, 413), (500_000, 413)])
def test_a_body_may_have_64_kibibytes(shared, size, status):
    before = written(shared.app)
    body = raw(b'"x":""')
    answer = post(shared, body[:-2] + b"x" * (size - len(body)) + body[-2:])
    assert answer.status_int == status
    if status == 413:
        assert (set(answer.json), answer.json["code"]) == ({"error", "code", "details"}, "too-large")
        assert written(shared.app) == before


class Untouchable:
    """A body that must not be read: on a socket, reading on would wait for what never comes."""

    def read(self, *_):
        raise AssertionError("the body was read")


@pytest.mark.parametrize("length", ["-1", "x", "1.5", "²", "65537", "9" * 30])
def test_a_body_is_not_read_without_an_honest_length(shared, length):
    environ = {"REQUEST_METHOD": "POST", "PATH_INFO": "/api/event", "REMOTE_ADDR": "127.0.0.1", "HTTP_USER_AGENT": CHROME, "CONTENT_LENGTH": length}
    setup_testing_defaults(environ)
    answers = []
    b"".join(shared.app({**environ, "wsgi.input": Untouchable()}, lambda status, *_: answers.append(status[:3])))
    assert answers in (["400"], ["413"])


# ---- arbitrary input -------------------------------------------------------------------------------------------------

def hold(site, body):
    """The promise of every answer: one of three statuses, and a refusal leaves no trace."""
    before = written(site.app)
    answer = post(site, body)
    assert answer.status_int in (202, 400, 413)
    if answer.status_int != 202:
        assert set(answer.json) == {"error", "code", "details"}
        assert written(site.app) == before
    elif reason := answer.headers.get("X-MiniNumbers-Dropped"):
        assert reason in DROP_REASONS and answer.headers["X-Plausible-Dropped"] == "1"
        assert written(site.app)["drops"] > before["drops"]
    else:
        assert written(site.app) != before


@pytest.mark.parametrize("depth", [1, 100, 500, 900, 1000, 5000, 30_000])
@pytest.mark.parametrize("more", [b"", b',"y":"\\\\u0000"'], ids=["plain", "escaped"])
def test_json_of_any_depth_gets_an_honest_answer(shared, depth, more):
    hold(shared, raw(b'"x":' + b"[" * depth + b"]" * depth + more))


@budget(deadline=None, max_examples=150)
@given(st.binary(max_size=200) | st.text(max_size=100).map(lambda text: json.dumps(text).encode()))
@example(b"{}")
def test_any_bytes_get_an_honest_answer(shared, body):
    hold(shared, body)


ANYTHING = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=20) | st.sampled_from(
    ["https://example.com/", "https://example.com/a?utm_source=x", "example.com", "EUR", "12.5", "pageview", "engagement", "\ud800", "\0"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.sampled_from(["amount", "currency"]), inner, max_size=4),
    max_leaves=8)
FIELDS = sorted({*SHORT, *SHORT.values(), "sd", "e", "m", "meta"})
EVENTS = st.fixed_dictionaries({}, optional={name: ANYTHING for name in FIELDS})
MORE = st.fixed_dictionaries({}, optional={name: ANYTHING for name in FIELDS if name not in GOOD})
NEARLY = MORE.map(lambda more: {**GOOD, **more})


@budget(deadline=None, max_examples=200)
@given(EVENTS | NEARLY)
def test_any_object_of_the_known_fields_gets_an_honest_answer(shared, event):
    hold(shared, event)


HEADER = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=80)


@budget(deadline=None, max_examples=150)
@given(st.fixed_dictionaries({}, optional={name: HEADER for name in ("User-Agent", "Accept-Language", "Sec-GPC", "DNT", "Referer", "X-Forwarded-For",
                                                                     "Cookie", "Forwarded")}))
def test_any_headers_get_an_honest_answer(shared, headers):
    answer = post(shared, GOOD, **headers)
    assert answer.status_int == 202


@pytest.mark.parametrize("name, value", [("User-Agent", CHROME + " \xe9"), ("User-Agent", CHROME + " \xc3\xa9"), ("Accept-Language", "\xe9"),
                                         ("DNT", "\xff"), ("Sec-GPC", "\x80"),
                                         ("Referer", "https://caf\xe9.test/"), ("Cookie", "\xff=\xff"), ("Origin", "\xff"), ("Content-Type", "\xff")])
def test_a_header_that_is_not_utf_8_loses_no_hit(shared, name, value):
    before = written(shared.app)["hits"]
    assert post(shared, GOOD, **{name: value}).status_int == 202
    assert written(shared.app)["hits"] == before + 1


@budget(deadline=None, max_examples=100)
@given(st.text(max_size=60), st.text(max_size=30), st.text(max_size=30))
def test_any_text_in_an_address_gets_an_honest_answer(shared, path, tag, host):
    hold(shared, {**GOOD, "u": f"https://example.com/{path}?utm_source={tag}#{tag}", "r": f"https://{host}/{path}", "h": 1})


# ---- what may be odd -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("more", [
    {"r": "not a url"}, {"r": ""}, {"r": None}, {"p": None}, {"p": ""}, {"p": "null"}, {"p": {}}, {"p": "{}"}, {"$": None}, {"$": ""}, {"$": "null"},
    {"i": None}, {"h": None},
    {"i": 0}, {"i": 1}, {"w": None}, {"w": 0}, {"w": 390.5}, {"sd": None}, {"e": None}, {"p": {"a": None, "b": ""}},
    {"p": {f"key{number}": 1 for number in range(30)}},
    {"p": {"a": 10 ** 30, "b": -1.5e-300, "c": "\n\t", "d": "\u202e", "e": "😀" * 2000}}, {"p": {"k" * 300: "v" * 2000}},
    {"$": {"amount": "5", "currency": "EUR"}, "p": '{"a": "\\\\u0000"}'},
    {"p": {"a": 1, "A": 2, "ａ": 3}}, {"unknown": "\u0001", "__proto__": {}, "": 1},
])
def test_what_is_absent_empty_or_merely_odd_is_taken(shared, more):
    assert post(shared, {**GOOD, **more}).status_int == 202


# ---- no room ---------------------------------------------------------------------------------------------------------

def test_where_the_queue_is_full_the_answer_is_to_come_back_later(open_app):
    site = open_app(queue=1)
    go, begun = threading.Event(), threading.Event()
    waiting = [site.app.store.submit(lambda db, items: [begun.set(), go.wait(20)][1:], None)]
    assert begun.wait(20)
    waiting.append(site.app.store.submit(lambda db, items: items, None))  # the one place there is
    try:
        answer = site.send(status=503)
        assert (set(answer.json), answer.json["code"]) == ({"error", "code", "details"}, "busy") and answer.headers["Retry-After"]
    finally:
        go.set()
        [each.result(20) for each in waiting]
    assert hits(site.app) == []
    site.app.run_jobs()  # those in the background are done then, and leave the one place alone
    site.send("/later")
    assert hits(site.app) == [("pageview", "example.com", "/later")]


# ---- drops -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("reason, sent", [
    ("hostname", {"host": "elsewhere.test"}), ("bot", {"agent": "curl/8.10.1"}), ("spam", {"r": "https://semalt.com/"}),
    ("no-visit", {"name": "engagement", "e": 1}),
])
def test_a_hit_that_does_not_count_says_why_and_is_counted_as_that(app, site, reason, sent):
    for _ in range(3):
        answer = site.send(**sent)
        assert (answer.headers["X-MiniNumbers-Dropped"], answer.headers["X-Plausible-Dropped"], answer.text) == (reason, "1", "ok")
    assert hits(app) == ask(app, "select * from visits") == []
    assert dropped(site) == {reason: 3}


def test_a_hit_that_counts_has_no_such_header(site):
    assert not [name for name in site.send().headers if "dropped" in name.lower()]


def test_a_hit_for_a_site_that_nobody_added_is_dropped(app, site):
    answer = post(site, {**GOOD, "d": "unknown.test"})
    assert (answer.status_int, answer.headers["X-MiniNumbers-Dropped"]) == (202, "unknown-site")
    assert hits(app) == [] and dropped(site) == {}


@pytest.mark.parametrize("zone, day", [("UTC", "2026-03-02"), ("Pacific/Kiritimati", "2026-03-03"), ("Pacific/Pago_Pago", "2026-03-02")])
def test_drops_are_counted_on_the_day_of_the_site(app, site, zone, day):
    app.set_site("example.com", timezone=zone)
    site.send(agent="curl/8.10.1")
    site.send(name="engagement", e=1)
    assert dropped(site) == {"bot": 1, "no-visit": 1}
    assert dropped(site, **{"from": day, "to": day}) == {"bot": 1, "no-visit": 1}
    assert dropped(site, **{"from": "2026-01-01", "to": str(date.fromordinal(date.fromisoformat(day).toordinal() - 1))}) == {}


def test_drops_are_counted_by_site_day_and_reason(app, site, clock):
    app.add_site("other.test")
    other = Site(app, "other.test")
    site.send(agent="curl/8.10.1")
    other.send(agent="curl/8.10.1")
    other.send(host="example.com")
    clock.advance(86_400)
    site.send(agent="Wget/1.24.5")
    assert (dropped(site), dropped(other)) == ({"bot": 1}, {})
    both = {"from": "2026-03-02", "to": "2026-03-03"}
    answer = site.web.get("/api/dropped?site_id=example.com&from=2026-03-02&to=2026-03-03", headers={"Authorization": f"Bearer {site.token}"})
    assert sorted((row["date"], row["reason"], row["count"]) for row in answer.json["results"]) == [("2026-03-02", "bot", 1),
                                                                                                    ("2026-03-03", "bot", 1)]
    assert dropped(other, **both) == {"bot": 1, "hostname": 1}


# ---- hosts -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("listed, host, counts", [
    ("", "example.com", True), ("", "www.example.com", True), ("", "EXAMPLE.COM", True), ("", "example.com:8443", True),
    ("", "blog.example.com", True),
    ("", "a.b.c.example.com", True), ("", "example.com.", True),
    ("", "evilexample.com", False), ("", "example.com.evil.test", False), ("", "example.co", False), ("", "com", False), ("", "xample.com", False),
    ("", "example.com@evil.test", False), ("", "evil.test:example.com@evil.test", False), ("", "exаmple.com", False), ("", "192.0.2.7", False),
    ("", "[::1]", False),
    ("shop.test", "shop.test", True), ("shop.test", "www.shop.test", True), ("shop.test", "eu.shop.test", False),
    ("shop.test", "evilshop.test", False),
    ("shop.test, other.test", "other.test", True), ("*.shop.test", "eu.shop.test", True), ("*.shop.test", "a.b.shop.test", True),
    ("*.shop.test", "shop.test", False),
    ("*.shop.test", "evilshop.test", False), ("*.shop.test", "shop.test.evil.test", False), ("*", "anything.test", True),
    ("192.0.2.7", "192.0.2.7", True), ("münchen.test", "xn--mnchen-3ya.test", True),
])
def test_a_hit_counts_only_for_a_host_that_the_site_allows(app, site, listed, host, counts):
    app.set_site("example.com", hostnames=listed)
    answer = site.send(host=host)
    assert answer.headers.get("X-MiniNumbers-Dropped") == (None if counts else "hostname")
    assert len(hits(app)) == counts


@pytest.mark.parametrize("listed", ["*", "*.friend.test"])
def test_a_site_that_allows_foreign_hosts_still_has_referrers(app, site, listed):
    app.set_site("example.com", hostnames=listed)
    site.send(r="https://www.google.com/")
    assert newest(app, "origins", "channel", "source") == ("Organic Search", "Google")


@pytest.mark.parametrize("domain", ["www.example.com", "EXAMPLE.com", " example.com ", "example.com."])
def test_a_site_is_found_however_its_domain_is_written(app, site, domain):
    post(site, {**GOOD, "d": domain})
    assert len(hits(app)) == 1


# ---- bots ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("agent",
                         ["", "python-requests/2.32.3",
                          "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) HeadlessChrome/130.0.0.0 Safari/537.36",
                                   "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)", "facebookexternalhit/1.1"])
def test_a_program_does_not_count(app, site, agent):
    assert post(site, GOOD, agent).headers["X-MiniNumbers-Dropped"] == "bot"
    assert hits(app) == []


@pytest.mark.parametrize("agent", [CHROME, IPHONE])
def test_a_person_counts(app, site, agent):
    site.send(agent=agent)
    assert len(hits(app)) == 1


@pytest.mark.parametrize("referrer, counts", [("https://semalt.com/x", False), ("https://a.semalt.com/", False), ("https://notsemalt.com/", True),
                                              ("https://friend.test/?u=semalt.com", True)])
def test_a_referrer_that_is_known_for_fake_visits_does_not_count(app, site, referrer, counts):
    site.send(r=referrer)
    assert len(hits(app)) == counts


# ---- privacy signals -------------------------------------------------------------------------------------------------

SIGNALS = [{"Sec-GPC": "1"}, {"DNT": "1"}, {"Sec-GPC": "1", "DNT": "0"}]


@pytest.mark.parametrize("signal", SIGNALS)
def test_a_visitor_who_asks_not_to_be_tracked_is_counted_as_in_paranoid_mode(app, site, signal):
    site.send(headers=signal, r="https://friend.test/path", w=1280)
    assert ask(app, "select country, region, city, browser, browser_version, os, os_version, device, language, screen from clients") == [(0,) * 10]
    assert newest(app, "origins", "referrer") == ("friend.test",)


@pytest.mark.parametrize("signal", SIGNALS)
def test_a_site_can_drop_such_visits(app, site, signal):
    app.set_site("example.com", gpc="drop")
    assert site.send(headers=signal).headers["X-MiniNumbers-Dropped"] == "gpc"
    assert (hits(app), dropped(site)) == ([], {"gpc": 1})


@pytest.mark.parametrize("signal", SIGNALS)
def test_a_site_can_treat_them_as_any_other(app, site, signal):
    app.set_site("example.com", gpc="ignore")
    site.send(headers=signal, r="https://friend.test/path")
    assert newest(app, "clients", "browser") == ("Chrome",) and newest(app, "origins", "referrer") == ("friend.test/path",)


@pytest.mark.parametrize("signal", [{}, {"Sec-GPC": "0"}, {"DNT": "0"}, {"DNT": "unspecified"}, {"DNT": "null"}, {"Sec-GPC": ""}])
def test_whoever_does_not_ask_is_counted_as_the_site_says(app, site, signal):
    app.set_site("example.com", gpc="drop")
    site.send(headers=signal)
    assert newest(app, "clients", "browser") == ("Chrome",)


# ---- several sites ---------------------------------------------------------------------------------------------------

def test_a_hit_can_be_for_several_sites_which_share_nothing(app, site):
    app.add_site("all.test", hostnames="*")
    answer = post(site, {**GOOD, "d": "example.com, all.test"})
    assert (answer.status_int, "X-MiniNumbers-Dropped" in answer.headers) == (202, False)
    visitors = ask(app, "select site_id, visitor from visits order by site_id")
    assert len(visitors) == 2 and len({visitor for _, visitor in visitors}) == 2


def test_each_site_judges_for_itself(app, site):
    app.add_site("other.test")
    answer = post(site, {**GOOD, "d": "example.com,other.test,unknown.test"})
    assert (answer.status_int, answer.headers["X-MiniNumbers-Dropped"]) == (202, "hostname")
    assert len(hits(app)) == 1 and dropped(Site(app, "other.test")) == {"hostname": 1}


@pytest.mark.parametrize("domains", ["example.com,example.com", "example.com,www.example.com", "example.com,,EXAMPLE.COM"])
def test_a_site_that_is_named_twice_counts_a_hit_once(app, site, domains):
    post(site, {**GOOD, "d": domains})
    assert len(hits(app)) == 1


# ---- the pixel -------------------------------------------------------------------------------------------------------

def pixel(site, query, agent=CHROME, **headers):
    return site.web.get(f"/pixel.gif?{query}", headers={"User-Agent": agent, **headers}, expect_errors=True)


def test_the_pixel_counts_a_pageview_and_is_an_image(app, site):
    answer = pixel(site, "d=example.com&u=https%3A%2F%2Fexample.com%2Fcaf%25C3%25A9%3Futm_source%3Dnews&r=https%3A%2F%2Ffriend.test%2Ffrom")
    assert (answer.status_int, answer.content_type, answer.headers["Cache-Control"]) == (200, "image/gif", "no-store")
    assert answer.body[:6] == b"GIF89a" and answer.body[6:10] == b"\x01\x00\x01\x00" and answer.body[-1:] == b";"
    assert hits(app) == [("pageview", "example.com", "/café")]
    assert newest(app, "origins", "utm_source", "referrer") == ("news", "friend.test/from")


@pytest.mark.parametrize("reason, query, agent", [
    ("bot", "d=example.com&u=https://example.com/", "curl/8.10.1"), ("hostname", "d=example.com&u=https://elsewhere.test/", CHROME),
    ("unknown-site", "d=unknown.test&u=https://example.com/", CHROME), ("spam", "d=example.com&u=https://example.com/&r=https://semalt.com/", CHROME),
])
def test_the_pixel_says_why_it_did_not_count(app, site, reason, query, agent):
    answer = pixel(site, query, agent)
    assert (answer.status_int, answer.content_type, answer.headers["X-MiniNumbers-Dropped"], answer.headers["X-Plausible-Dropped"]) == (200,
                                                                                                                                        "image/gif",
                                                                                                                                        reason, "1")
    assert hits(app) == []


@pytest.mark.parametrize("query, fields", [
    ("", {"d", "u"}), ("d=example.com", {"u"}), ("u=https://example.com/", {"d"}), ("d=&u=", {"d", "u"}), ("d=example.com&u=/relative", {"u"}),
    ("d=example.com&u=%00", {"u"}),
    ("d=example.com&u=https://example.com/" + "x" * 9000, {"u"}), ("d=example.com&u=https://example.com/&r=%0d%0a", {"r"}), ("%ff&=&;&d", {"d", "u"}),
])
def test_the_pixel_refuses_what_the_api_refuses(shared, query, fields):
    before = written(shared.app)
    answer = pixel(shared, query)
    assert answer.status_int == 400
    assert {SHORT.get(each["field"], each["field"]) for each in answer.json["details"]} == fields
    assert written(shared.app) == before


def test_the_pixel_can_send_nothing_but_a_pageview(app, site):
    pixel(site, "d=example.com&u=https://example.com/&n=Purchase&p=%7B%22a%22:1%7D&e=5&i=0")
    assert hits(app) == [("pageview", "example.com", "/")] and ask(app, "select * from props") == []


# ---- engagement ------------------------------------------------------------------------------------------------------

def engaged(app):
    return ask(app, "select p.text, h.engaged, h.scroll from hits h join texts p on p.id = h.page order by h.id")


def test_engagement_adds_time_and_deepens_the_scroll_of_its_pageview(app, site):
    site.send("/a")
    for e, sd in ((1000, 20), (2500, 60), (1, 40), (0, None)):
        site.send("/a", "engagement", e=e, sd=sd)
    assert engaged(app) == [("/a", 3501, 60)]


def test_engagement_without_a_depth_leaves_it_untold(app, site):
    site.send("/a")
    site.send("/a", "engagement", e=700)
    assert engaged(app) == [("/a", 700, None)]


def test_engagement_goes_to_the_newest_pageview_of_its_page(app, site, clock):
    for path in ("/a", "/b", "/a", "/c"):
        site.send(path)
        clock.advance(5)
    site.send("/a", "engagement", e=100, sd=10)
    site.send("/b", "engagement", e=200, sd=20)
    assert engaged(app) == [("/a", 0, None), ("/b", 200, 20), ("/a", 100, 10), ("/c", 0, None)]


def test_engagement_is_neither_a_hit_nor_an_interaction(app, site):
    site.send("/a")
    site.send("/a", "engagement", e=60_000, sd=100)
    assert len(hits(app)) == 1
    assert ask(app, "select pageviews, interactive from visits") == [(1, 0)]


def test_engagement_never_starts_a_visit(app, site, clock):
    assert site.send("/a", "engagement", e=5).headers["X-MiniNumbers-Dropped"] == "no-visit"
    site.send("/a")
    clock.advance(1800)
    assert "X-MiniNumbers-Dropped" not in site.send("/a", "engagement", e=5).headers
    clock.advance(1801)
    assert site.send("/a", "engagement", e=7).headers["X-MiniNumbers-Dropped"] == "no-visit"
    assert site.send("/a", "engagement", e=7, ip="192.0.2.99").headers["X-MiniNumbers-Dropped"] == "no-visit"
    assert engaged(app) == [("/a", 5, None)]


def test_engagement_of_a_page_that_was_not_seen_is_only_a_sign_of_life(app, site, clock):
    site.send("/a")
    clock.advance(60)
    site.send("/never-seen", "engagement", e=900, sd=90)
    assert engaged(app) == [("/a", 0, None)]
    assert ask(app, "select duration from visits") == [(60,)]
    assert ask(app, "select * from texts where text = '/never-seen'") == []


def test_engagement_belongs_to_pageviews_and_not_to_other_events(app, site):
    site.send("/a", "Signup")
    site.send("/a", "engagement", e=900, sd=90)
    assert engaged(app) == [("/a", 0, None)]


# ---- (other) ---------------------------------------------------------------------------------------------------------

def pages(app, domain="example.com"):
    return [page for page, in ask(app, """select p.text from hits h join texts p on p.id = h.page join sites s on s.id = h.site_id
                                          where s.domain = ? order by h.id""", domain)]


def test_a_flood_of_new_values_becomes_other_and_every_hit_still_counts(open_app, clock):
    site = open_app(new_values_per_day=5)
    for number in range(20):
        site.send(f"/{number}")
    assert len(pages(site.app)) == 20
    assert len(set(pages(site.app))) <= 6 and pages(site.app)[-1] == "(other)"
    assert ask(site.app, "select count(*) from texts where text glob '/*'")[0][0] <= 5


def test_known_values_keep_their_names_in_a_flood_and_the_next_day_brings_new_ones(open_app, clock):
    site = open_app(new_values_per_day=5)
    site.send("/known")
    for number in range(20):
        site.send(f"/{number}")
    site.send("/known")
    assert pages(site.app)[-1] == "/known"
    clock.advance(86_400)
    site.send("/tomorrow")
    assert pages(site.app)[-1] == "/tomorrow"


def test_a_flood_at_one_site_does_not_cost_another(open_app):
    site = open_app(new_values_per_day=5)
    site.app.add_site("other.test")
    for number in range(20):
        site.send(f"/{number}")
    Site(site.app, "other.test").send("/mine")
    assert pages(site.app, "other.test") == ["/mine"]


def test_properties_that_are_folded_together_are_one(open_app):
    site = open_app(new_values_per_day=5)
    for number in range(10):
        site.send(props={f"key{number}-{each}": f"value{number}-{each}" for each in range(30)})
    assert len(pages(site.app)) == 10
    assert ("(other)", "(other)") in ask(site.app, "select k.text, v.text from props p join texts k on k.id = p.key join texts v on v.id = p.value")


def test_what_a_flood_brought_in_is_no_bar_to_counting_by_channel(open_app):
    site = open_app(new_values_per_day=5)
    for number in range(20):
        site.send(f"/{number}", ip=f"192.0.2.{number}")
    assert {row[0] for row in site.rows("visits", dimensions=["visit:channel"])} == {"Direct"}


@pytest.mark.parametrize("agent",
                         ["App{}/1.0 CFNetwork/1496.0.7 Darwin/23.5.0",
                          "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/1{}.0.0.0 Safari/537.36",
                                   "Mozilla/5.0 (X11; Fedora{0}; Linux x86_64; rv:132.0) Gecko/20100101 Firefox/132.0 Made{0}Up/{0}.1"])
def test_made_up_user_agents_are_a_flood_too(open_app, agent):
    site = open_app(new_values_per_day=5)
    for number in range(40):
        site.send(agent=agent.format(number), ip=f"192.0.2.{number}", headers={"Accept-Language": "en"})
    assert ask(site.app, "select count(*) from visits") == [(40,)]
    assert ask(site.app, "select count(*) from texts")[0][0] < 20


# ---- order and time --------------------------------------------------------------------------------------------------

def test_hits_of_one_second_keep_the_order_in_which_they_came(app, site, clock):
    for number in range(300):
        site.send(f"/{number}", ip=f"192.0.2.{number % 7}")
    assert [page for _, _, page in hits(app)] == [f"/{number}" for number in range(300)]
    assert {moment for moment, in ask(app, "select id >> 16 from hits")} == {int(clock())}


def test_a_second_that_is_full_goes_on_in_the_next(app, site, clock):
    site.send("/first")
    with contextlib.closing(sqlite3.connect(app.settings.db)) as db, db:
        db.execute("""insert into hits (site_id, id, since, name, page, hostname)
                      select site_id, (id | 65535) - 1, (id | 65535) - 1 - visit_id, name, page, hostname from hits""")
    for number in range(3):
        site.send(f"/{number}")
    clock.advance(1)
    site.send("/last")
    assert [page for _, _, page in hits(app)] == ["/first", "/first", "/0", "/1", "/2", "/last"]
    assert ask(app, "select count(distinct id) from hits") == [(6,)]


def test_many_at_once_are_all_counted_once(app, site):
    def visit(number):
        web = Site.send
        for each in range(20):
            web(site, f"/{number}/{each}", ip=f"192.0.2.{number}")
    threads = [threading.Thread(target=visit, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(page for _, _, page in hits(app)) == sorted(f"/{number}/{each}" for number in range(8) for each in range(20))
    assert ask(app, "select count(*), sum(pageviews) from visits") == [(8, 160)]


@pytest.mark.parametrize("back", [1, 3600, 86_400, 7 * 86_400])
def test_a_clock_that_is_set_back_loses_nothing(app, site, clock, back):
    start = int(clock())
    for moment in (start, start + 60, start + 60 - back, start + 61 - back, start, start + 60, start + 120):
        clock.set(moment)
        site.send(f"/{moment}")
        site.send(f"/{moment}", "engagement", e=10)
        site.send(f"/{moment}", ip=f"192.0.2.{moment % 200}")
        app.run_jobs()
    assert ask(app, "select count(*), count(distinct id) from hits") == [(14, 14)]
    assert ask(app, "select count(*) from visits where duration < 0") == [(0,)]
    assert ask(app, "select sum(pageviews) from visits") == [(14,)]


def test_a_fraction_of_a_second_is_no_second(app, site, clock):
    clock.advance(0.75)
    site.send()
    assert ask(app, "select id >> 16 from hits") == [(int(clock()),)]


# ---- proxies ---------------------------------------------------------------------------------------------------------
# The country that a hit is counted from tells which address was believed.

US, DE, JP, BR = "8.8.8.8", "193.99.144.80", "133.242.0.3", "200.160.2.3"
US6, DE6 = "2001:4860:4860::8888", "2003::1"


@pytest.fixture(scope="module")
def placed(tmp_path_factory):
    """Say from which country a request is counted: (its peer, its headers, more settings) → code."""
    folder, sites = tmp_path_factory.mktemp("placed"), {}

    def country(peer, headers, **more):
        key = repr(more)
        if key not in sites:
            app = create_app(Settings(db=str(folder / f"{len(sites)}.db"), geoip=GEOIP, **more), clock=MovableClock())
            app.setup("owner", PASSWORD, "example.com")
            sites[key] = Site(app)
        site = sites[key]
        site.app.clock.advance(3600)
        answer = site.web.post_json("/api/event", GOOD, headers={"User-Agent": CHROME, **headers}, extra_environ={"REMOTE_ADDR": peer}, status="*")
        assert answer.status_int == 202, answer.text
        return newest(site.app, "clients", "country")[0]
    yield country
    for site in sites.values():
        site.app.close()


@pytest.mark.parametrize("peer, forwarded, country", [
    ("127.0.0.1", US, "US"), ("127.9.9.9", US, "US"), ("::1", US, "US"), ("::ffff:127.0.0.1", US, "US"),
    ("127.0.0.1", f"{DE}, {US}", "US"), ("127.0.0.1", f"{DE},{US}", "US"), ("127.0.0.1", f"unknown, {US}", "US"), ("127.0.0.1", f"  {US}  ", "US"),
    ("127.0.0.1", US6, "US"), ("127.0.0.1", f"[{US6}]", "US"), ("127.0.0.1", f"[{US6}]:443", "US"), ("127.0.0.1", f'"[{US6}]:443"', "US"),
    ("127.0.0.1", f"{US}:443", "US"),
    ("127.0.0.1", f"::ffff:{US}", "US"), ("127.0.0.1", f"[::ffff:{US}]", "US"), ("127.0.0.1", f"::FFFF:{US}", "US"),
    ("127.0.0.1", "::ffff:808:808", "US"),
    (DE, US, "DE"), (DE, f"{US}, {JP}", "DE"), (DE6, US, "DE"), (f"::ffff:{DE}", US, "DE"), (DE, "", "DE"), (DE, ":.", "DE"), ("10.0.0.1", US, ""),
])
def test_a_forwarded_address_is_believed_from_trusted_peers_only_and_the_right_most_counts(placed, peer, forwarded, country):
    assert placed(peer, {"X-Forwarded-For": forwarded}) == country


@pytest.mark.parametrize("forwarded, country", [(f"{US}, {DE}", "US"), (f"{BR}, {US}, {DE}", "US"), (f"{JP}, {BR}, {US}, {DE}", "US"), (US, "US")])
def test_with_two_proxies_the_second_from_the_right_counts(placed, forwarded, country):
    assert placed("127.0.0.1", {"X-Forwarded-For": forwarded}, trusted_proxy_count=2) == country


@pytest.mark.parametrize("trusted, peer, country", [
    (f"10.0.0.0/8, {DE}", "10.1.2.3", "US"), (f"10.0.0.0/8, {DE}", DE, "US"), (f"10.0.0.0/8, {DE}", "127.0.0.1", ""), ("fd00::/8", "fd00::7", "US"),
    ("fd00::/8", DE6, "DE"),
    ("", "127.0.0.1", ""), ("", DE, "DE"), ("0.0.0.0/0", JP, "US"),
])
def test_which_peers_are_trusted_is_a_setting(placed, trusted, peer, country):
    assert placed(peer, {"X-Forwarded-For": US}, trusted_proxies=trusted) == country


@pytest.mark.parametrize("name", ["Forwarded", "X-Real-IP", "CF-Connecting-IP", "True-Client-IP", "X-Client-IP", "X-Forwarded-By", "Client-IP",
                                  "X-Cluster-Client-IP"])
@pytest.mark.parametrize("peer, country", [(DE, "DE"), ("127.0.0.1", "")])
def test_no_other_header_names_the_address(placed, name, peer, country):
    assert placed(peer, {name: f"for={US}" if name == "Forwarded" else US}) == country


GARBAGE = ["", " ", ",", ",,,", ":", ":.", ".", "..", "[", "]", "[]", "[]:", "[:", '"', '""', '" "', '"["', '":."', '"."', '":"', '\\"', "unknown",
           "_hidden", "%", "999.999.999.999", "1.2.3",
           "8.8.8.8:", "8.8.8.8:x", "::1::1", "fe80::1%eth0", "8.8.8.8, ", ", 8.8.8.8, :.", "é", "\x80", "x" * 10_000, "1," * 5_000, "[" * 10_000,
           ":" * 10_000]


@pytest.mark.parametrize("value", GARBAGE, ids=range(len(GARBAGE)))
@pytest.mark.parametrize("peer", ["127.0.0.1", DE])
def test_a_garbled_forwarded_address_loses_no_hit(placed, peer, value):
    country = placed(peer, {"X-Forwarded-For": value})
    assert country == "DE" if peer == DE else country in ("", "US")


@pytest.mark.parametrize("value", ["https,http", "https, https", "ftp", '"', "wss", "x" * 10_000, "", "é"], ids=range(8))
@pytest.mark.parametrize("name", ["X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Port"])
def test_what_else_a_proxy_garbles_loses_no_hit_either(placed, name, value):
    assert placed("127.0.0.1", {name: value, "X-Forwarded-For": US}) == "US"


def environ_behind(peer, **headers):
    """The environment that the application sees."""
    seen = {}

    def application(environ, start_response):
        seen.update(environ)
        start_response("200 OK", [])
        return [b""]
    web = webtest.TestApp(behind_proxies(application, Settings()), extra_environ={"REMOTE_ADDR": peer}, lint=False)
    web.get("/", headers={name.replace("_", "-"): value for name, value in headers.items()})
    return seen


@pytest.mark.parametrize("peer, proto, scheme", [("127.0.0.1", "https", "https"), ("127.0.0.1", "HTTPS", "https"), ("127.0.0.1", "http", "http"),
                                                 (DE, "https", "http")])
def test_the_scheme_is_believed_from_trusted_peers_only(peer, proto, scheme):
    assert environ_behind(peer, X_Forwarded_Proto=proto)["wsgi.url_scheme"] == scheme


@pytest.mark.parametrize("peer, host", [("127.0.0.1", "stats.test"), (DE, "localhost:80")])
def test_the_host_is_believed_from_trusted_peers_only(peer, host):
    assert environ_behind(peer, X_Forwarded_Host="stats.test")["HTTP_HOST"] == host


def test_what_a_stranger_forwards_is_taken_away():
    seen = environ_behind(DE, X_Forwarded_For=US, X_Forwarded_Proto="https", X_Forwarded_Host="evil.test", X_Forwarded_Port="1", X_Forwarded_By="x",
                          Forwarded="for=x")
    assert not [name for name in seen if "FORWARDED" in name]


# ---- privacy modes ---------------------------------------------------------------------------------------------------

EVERYTHING = ("country", "region", "city", "browser", "browser_version", "os", "os_version", "device", "language", "screen")
VISITED = {"ip": US, "w": 1280, "headers": {"Accept-Language": "en-GB,en;q=0.9"}, "r": "https://news.ycombinator.com/item?id=1"}


@pytest.mark.parametrize("mode, client, referrer", [
    ("standard", ("US", "California", "Mountain View", "Chrome", "130", "Linux", "", "Desktop", "en", "Laptop"), "news.ycombinator.com/item"),
    ("strict", ("US", "", "", "Chrome", "130", "Linux", "", "Desktop", "en", "Laptop"), "news.ycombinator.com/item"),
    ("paranoid", ("",) * 10, "news.ycombinator.com"),
])
def test_a_mode_says_what_is_stored_of_a_visitor(open_app, monkeypatch, mode, client, referrer):
    monkeypatch.setattr(GeoIP, "locate", lambda self, address: ("US", "California", "Mountain View") if address == US else ("", "", ""))
    site = open_app()
    site.app.set_site("example.com", mode=mode)
    site.send("/?utm_source=hn", **VISITED)
    assert newest(site.app, "clients", *EVERYTHING) == client
    assert newest(site.app, "origins", "source", "channel", "referrer") == ("Hacker News", "Organic Social", referrer)


def test_only_the_first_hit_of_a_visit_is_asked_where_it_is(app, site, clock, monkeypatch):
    asked = []
    monkeypatch.setattr(GeoIP, "locate", lambda self, address: asked.append(address) or ("", "", ""))
    for _ in range(3):
        site.send("/", ip=US)
        site.send("/", name="engagement", ip=US, e=1000)
    assert asked == [US]
    clock.advance(1801)
    site.send("/", ip=US)
    assert asked == [US, US]


@pytest.mark.parametrize("mode, country", [("standard", "US"), ("strict", "US"), ("paranoid", "")])
def test_the_mode_of_the_instance_holds_for_a_site_without_one(open_app, mode, country):
    site = open_app(mode=mode, geoip=GEOIP)
    site.send("/", **VISITED)
    assert newest(site.app, "clients", "country", "region", "city") == (country, "", "")


def test_in_paranoid_mode_nothing_told_by_the_browser_is_in_any_text(open_app):
    site = open_app(mode="paranoid", geoip=GEOIP)
    site.send("/", **VISITED)
    assert {text for text, in ask(site.app, "select text from texts")} == {
        "", "pageview", "(other)", "/", "example.com", "Organic Social", "Hacker News", "news.ycombinator.com"}


@pytest.mark.parametrize("address, country", [(US, "US"), ("1.1.1.1", "AU"), (DE, "DE"), (US6, "US"), (f"::ffff:{DE}", "DE"), ("192.0.2.1", ""),
                                              ("127.0.0.1", ""), ("10.0.0.1", "")])
def test_the_country_is_that_of_the_address_or_of_its_registration(placed, address, country):
    assert placed("127.0.0.1", {"X-Forwarded-For": address}) == country


def test_without_a_geoip_database_no_country_is_stored(app, site):
    site.send(ip=US)
    assert newest(app, "clients", "country", "browser") == ("", "Chrome")


def test_a_click_id_leaves_its_name_and_nothing_else(app, site):
    site.send("/?gclid=SECRET-CLICK&fbclid=SECRET-TOO&token=SECRET-TOKEN")
    assert newest(app, "origins", "click_id", "channel") == ("gclid", "Paid Search")
    assert ask(app, "select * from texts where text like '%SECRET%'") == []
