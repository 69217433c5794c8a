"""Goals, segments and revenue: what they mean, that each equals a naive recount, and what is refused.

As in test_reports.py every question is put to the server and to the oracle, which share no code, and the two must agree.
"""
import contextlib
import itertools
import json

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import mininumbers
import oracle
from conftest import PASSWORD
from test_reports import PEOPLE, World, assert_agree

pytestmark = pytest.mark.usefixtures("cheap_passwords")

# ---- the world -------------------------------------------------------------------------------------------------------

class Shop(World):
    """A world in which things are named. What is named is told to the oracle as it was sent to the server."""

    def __init__(self, *given, **named):
        super().__init__(*given, **named)
        self.named = oracle.Named()
        self.writing = self.app.create_token("editor", read_only=False)

    def call(self, method, path, body=None, status=200, token=None):
        """Do something at the API and return the answer's body."""
        return self.http.request(path, method=method, body=json.dumps({} if body is None else body).encode() if method != "GET" else b"",
                                 headers={"Authorization": "Bearer " + (token or self.writing), "Content-Type": "application/json"}, status=status).json

    def add(self, what, status=201, /, **body):
        return self.call("POST", f"/api/{what}", {"site_id": self.site.domain, **body}, status)

    def goal(self, name, kind="page", value="/thanks", **more):
        made = self.add("goals", name=name, kind=kind, value=value, **more)
        self.named.goals[name] = made
        return made

    def segment(self, name, *filters):
        made = self.add("segments", name=name, filters=list(filters))
        self.named.segments[made["id"]] = made
        return made["id"]

    def answer(self, body):
        body = {"site_id": self.site.domain} | body
        answer = self.post_query(body).json
        expected = oracle.query(self.sent, self.site, self.now, body, self.named)
        assert_agree(body, answer, expected, (
            f"\nasked {json.dumps(body)}\nof {self.named}\nserver {json.dumps(answer['results'])}\noracle {json.dumps(expected['results'])}\n" + self.told()))
        return answer

    def refused(self, what, field="filters", /, **body):
        """What is said of something that cannot be added."""
        answer = self.add(what, 400, **body)
        assert field in [each["field"] for each in answer["details"]], answer
        return answer["error"]


@pytest.fixture
def new_shop(tmp_path):
    shops, numbers = [], itertools.count()

    def new(**options):
        folder = tmp_path / str(next(numbers))
        folder.mkdir()
        shops.append(Shop(folder, **options))
        return shops[-1]

    yield new
    for shop in shops:
        shop.close()


@pytest.fixture
def shop(new_shop):
    return new_shop()


# ---- goals -----------------------------------------------------------------------------------------------------------

def test_a_goal_counts_visitors_totals_and_the_share_of_all_visitors(shop):
    shop.goal("Bought")
    shop.view("ann", "/thanks"), shop.view("ann", "/thanks"), shop.view("bob", "/thanks")
    shop.view("cleo", "/"), shop.event("dan", "seen", "/thanks")
    assert shop.ask("visitors events conversion_rate", by="event:goal") == [["Bought", 2, 3, 50.0]]


def test_a_goal_applies_to_what_was_there_before_it(shop):
    shop.view("ann", "/thanks"), shop.wait(days=3)
    shop.goal("Bought")
    assert shop.ask("visitors", by="event:goal", period="7d") == [["Bought", 1]]


@pytest.mark.parametrize("match, value, reached", [
    ("is", "/blog/a", ["/blog/a"]),
    ("starts_with", "/blog/", ["/blog/a", "/blog/a/b", "/blog/x+y (1)"]),
    ("contains", "a/b", ["/blog/a/b"]),
    ("wildcard", "/blog/*", ["/blog/a", "/blog/x+y (1)"]),
    ("wildcard", "/blog/**", ["/blog/a", "/blog/a/b", "/blog/x+y (1)"]),
    ("wildcard", "/*/x+y (1)", ["/blog/x+y (1)"]),
    ("wildcard", "/blog/x+y.(1)", []),
    ("matches", "^/blog/.$", ["/blog/a"]),
    ("matches", "x\\+y", ["/blog/x+y (1)"]),
    ("contains", "%", []),
])
def test_how_a_page_is_found(shop, match, value, reached):
    shop.goal("Read", match=match, value=value)
    for page in ("/", "/blog/a", "/blog/a/b", "/blog/x+y%20(1)", "/Blog/a"):
        shop.view("ann", page)
    assert sorted(page for page, _ in shop.ask("visitors", by="event:page", filters=[["is", "event:goal", ["Read"]]])) == sorted(reached)


def test_an_event_goal_may_ask_for_properties(shop):
    shop.goal("Pro", "event", "signup", filters=[["is", "event:props:plan", ["pro"]], ["is_not", "event:props:a.\"b\"", ["x"]]])
    shop.event("ann", "signup", p={"plan": "pro"}), shop.event("bob", "signup", p={"plan": "pro", 'a."b"': "x"})
    shop.event("cleo", "signup", p={"plan": "free"}), shop.event("dan", "signup")
    assert shop.ask("visitors events conversion_rate", by="event:goal") == [["Pro", 1, 1, 25.0]]


def test_scroll_and_time_are_of_single_pageviews(shop):
    shop.goal("Read half", "scroll", "/post", at_least=50), shop.goal("Read long", "time", "/post", match="contains", at_least=30)
    shop.view("ann", "/post"), shop.engage("ann", "/post", seconds=20, depth=50)
    shop.view("ann", "/post"), shop.engage("ann", "/post", seconds=20, depth=49)
    shop.view("bob", "/post"), shop.engage("bob", "/post", seconds=20), shop.engage("bob", "/post", seconds=10)
    assert shop.ask("visitors events", by="event:goal") == [["Read half", 1, 1], ["Read long", 1, 1]]


def test_a_goal_that_nothing_reaches_has_a_row_and_one_that_everything_does_is_all_of_it(shop):
    shop.goal("Nothing", value="/nowhere"), shop.goal("Everything", match="matches", value=".*")
    shop.view("ann"), shop.view("bob")
    assert shop.ask("visitors events conversion_rate", by="event:goal") == [["Everything", 2, 2, 100.0], ["Nothing", 0, 0, 0]]


def test_a_conversion_rate_is_of_the_visitors_less_what_only_the_goal_asks(shop):
    shop.goal("Bought", "event", "buy")
    shop.view("ann", "/?utm_source=news"), shop.event("ann", "buy", p={"plan": "pro"})
    shop.view("bob", "/?utm_source=news"), shop.view("cleo"), shop.event("dan", "buy")
    assert shop.ask("visitors conversion_rate", filters=[["is", "event:goal", ["Bought"]]]) == [[2, 50.0]]
    assert shop.ask("conversion_rate", filters=[["is", "event:goal", ["Bought"]], ["is", "visit:source", ["news"]]]) == [[50.0]]
    assert shop.ask("conversion_rate", filters=[["is", "event:goal", ["Bought"]], ["is", "event:props:plan", ["pro"]]]) == [[25.0]]
    assert shop.ask("visitors conversion_rate group_conversion_rate", by="visit:source", filters=[["is", "event:goal", ["Bought"]]]) == [
        ["Direct", 1, 25.0, 50.0], ["news", 1, 25.0, 50.0]]


def test_goals_over_time_and_compared(shop):
    shop.goal("Bought", "event", "buy")
    shop.event("ann", "buy"), shop.view("bob"), shop.wait(days=1)
    shop.event("ann", "buy"), shop.event("bob", "buy"), shop.wait(days=1)
    assert shop.ask("visitors conversion_rate", by="event:goal time:day", period=["2026-06-01", "2026-06-03"]) == [
        ["Bought", "2026-06-01", 1, 50.0], ["Bought", "2026-06-02", 2, 100.0], ["Bought", "2026-06-03", 0, 0]]
    compared = shop.answer({"metrics": ["visitors", "conversion_rate"], "dimensions": ["event:goal"], "date_range": ["2026-06-02", "2026-06-02"],
                            "include": {"comparisons": {"mode": "previous_period"}}})["results"]
    assert compared[0]["comparison"] == {"dimensions": ["Bought"], "metrics": [1, 50.0], "change": [100.0, 50.0]}


def test_goals_are_kept_changed_and_deleted(shop):
    made = shop.goal("Bought")
    assert made == {"id": made["id"], "name": "Bought", "kind": "page", "match": "is", "value": "/thanks", "filters": []}
    shop.add("goals", 409, name="Bought", kind="page", value="/other")
    changed = shop.call("PATCH", f"/api/goals/{made['id']}", {"kind": "scroll", "match": "starts_with", "at_least": 75})
    assert changed == {"id": made["id"], "name": "Bought", "kind": "scroll", "match": "starts_with", "value": "/thanks", "at_least": 75, "filters": []}
    for number in range(4):
        shop.goal(f"Goal {number}")
    page = shop.call("GET", "/api/goals?site_id=example.com&limit=2&offset=1", token=shop.token)
    assert ([each["name"] for each in page["goals"]], page["total"]) == (["Goal 0", "Goal 1"], 5)
    assert shop.call("DELETE", f"/api/goals/{made['id']}") == {}
    shop.call("DELETE", f"/api/goals/{made['id']}", status=404)
    assert [each["name"] for each in shop.call("GET", "/api/goals?site_id=example.com")["goals"]] == [f"Goal {number}" for number in range(4)]


def test_who_may_only_read_changes_nothing(shop):
    made = shop.goal("Bought")
    body = {"site_id": "example.com", "name": "B", "kind": "page", "value": "/", "filters": [["is", "visit:os", ["Linux"]]]}
    for method, path in (("POST", "/api/goals"), ("PATCH", f"/api/goals/{made['id']}"), ("DELETE", f"/api/goals/{made['id']}"), ("POST", "/api/segments")):
        assert shop.call(method, path, {key: value for key, value in body.items() if "goals" in path or key not in ("kind", "value")},
                         403, shop.token)["code"] == "forbidden"
    assert [each["name"] for each in shop.call("GET", "/api/goals?site_id=example.com", token=shop.token)["goals"]] == ["Bought"]


def test_a_token_of_another_site_sees_no_goals_of_this_one(shop):
    shop.app.add_site("other.example")
    made, token = shop.goal("Bought"), shop.app.create_token("other", "other.example")
    shop.call("GET", "/api/goals?site_id=example.com", status=404, token=token)
    assert shop.call("GET", "/api/goals?site_id=other.example", token=token) == {"goals": [], "total": 0}
    assert shop.call("POST", "/api/v2/query", {"site_id": "other.example", "metrics": ["visitors"], "date_range": "day",
                                               "filters": [["is", "event:goal", ["Bought"]]]}, 400, token)["details"][0]["field"] == "filters"
    assert made["id"]


def test_what_a_goal_was_renamed_to_is_its_name_everywhere(shop):
    made = shop.goal("Bought", "event", "buy")
    number = shop.segment("Buyers", ["has_done", ["or", [["is", "event:goal", ["Bought"]], ["is", "event:page", ["Bought"]]]]])
    shop.call("PATCH", f"/api/goals/{made['id']}", {"name": "Paid"})
    kept = shop.call("GET", "/api/segments?site_id=example.com")["segments"]
    assert kept[0]["filters"] == [["has_done", ["or", [["is", "event:goal", ["Paid"]], ["is", "event:page", ["Bought"]]]]]]
    shop.event("ann", "buy")
    assert shop.call("POST", "/api/v2/query", {"site_id": "example.com", "metrics": ["visitors"], "date_range": "day", "filters": [
        ["is", "segment", [number]]]})["results"][0]["metrics"] == [1]


def test_an_answer_is_not_kept_beyond_a_change_of_a_goal(shop):
    made = shop.goal("Bought")
    shop.view("ann", "/thanks"), shop.view("bob", "/other")
    shop.wait(days=2), shop.jobs()
    assert shop.ask("visitors", by="event:goal", period="7d") == [["Bought", 1]]
    shop.named.goals["Bought"] = shop.call("PATCH", f"/api/goals/{made['id']}", {"match": "starts_with", "value": "/"})
    assert shop.ask("visitors", by="event:goal", period="7d") == [["Bought", 2]]


def test_suggested_are_the_events_and_pages_most_seen_that_no_goal_is_of(shop):
    for person in ("ann", "bob"):
        shop.view(person, "/thanks"), shop.event(person, "signup")
    shop.view("ann", "/"), shop.event("ann", "download", "/")
    assert shop.call("GET", "/api/goals/suggestions?site_id=example.com", token=shop.token)["suggestions"] == [
        {"kind": "event", "value": "signup", "name": "signup", "visitors": 2},
        {"kind": "event", "value": "download", "name": "download", "visitors": 1},
        {"kind": "page", "match": "is", "value": "/", "name": "Visit /", "visitors": 2},
        {"kind": "page", "match": "is", "value": "/thanks", "name": "Visit /thanks", "visitors": 2}]
    shop.goal("Joined", "event", "signup"), shop.goal("Bought")
    assert [each["value"] for each in shop.call("GET", "/api/goals/suggestions?site_id=example.com")["suggestions"]] == ["download", "/"]


# ---- segments --------------------------------------------------------------------------------------------------------

def test_a_segment_stands_for_its_filters_wherever_filters_stand(shop):
    linux = shop.segment("Linux", ["is", "visit:os", ["Linux"]])
    readers = shop.segment("Readers on Linux", ["is", "segment", [linux]], ["not", ["has_not_done", ["contains", "event:page", ["blog"]]]])
    shop.view("ann", "/blog"), shop.view("bob", "/blog"), shop.view("bob", "/"), shop.view("dan", "/")
    assert shop.ask("visitors", filters=[["is", "segment", [linux]]]) == [[2]]
    assert shop.ask("visitors pageviews", filters=[["is", "segment", [readers]]]) == [[1, 2]]
    assert shop.ask("visitors", filters=[["is_not", "segment", [readers]]]) == [[2]]
    assert shop.ask("visitors", filters=[["or", [["is", "segment", [readers]], ["is", "event:page", ["/"]]]]]) == [[2]]
    shop.goal("Linux blog", value="/blog", filters=[["is", "segment", [linux]]])
    assert shop.ask("visitors", by="event:goal") == [["Linux blog", 1]]


def test_segments_do_not_go_round_in_a_circle(shop):
    first = shop.segment("First", ["is", "visit:os", ["Linux"]])
    second = shop.segment("Second", ["is", "segment", [first]])
    goal = shop.goal("Goal", value="/", filters=[["is", "segment", [second]]])
    for circle in ([["is", "segment", [second]]], [["not", ["is", "segment", [first]]]], [["is", "event:goal", ["Goal"]]]):
        answer = shop.call("PATCH", f"/api/segments/{first}", {"filters": circle}, 400)
        assert "circle" in answer["error"]
    assert goal and shop.call("GET", "/api/segments?site_id=example.com")["segments"][0]["filters"] == [["is", "visit:os", ["Linux"]]]


def test_what_is_in_use_is_not_deleted_and_it_says_by_what(shop):
    linux = shop.segment("Linux", ["is", "visit:os", ["Linux"]])
    goal = shop.goal("Goal", value="/", filters=[["is", "segment", [linux]]])
    shop.segment("Reached", ["has_done", ["is", "event:goal", ["Goal"]]])
    answer = shop.call("DELETE", f"/api/segments/{linux}", status=409)
    assert answer["code"] == "conflict" and "the goal 'Goal'" in answer["error"]
    assert "the segment 'Reached'" in shop.call("DELETE", f"/api/goals/{goal['id']}", status=409)["error"]


def test_segments_that_stand_for_segments_stay_small(shop):
    last = shop.segment("0", ["is", "visit:os", ["Linux"]])
    names = [shop.segment(str(number), ["or", [["is", "segment", [last]]] * 40]) for number in (1,)]
    assert "stand for more than" in shop.refused("segments", name="x", filters=[["or", [["is", "segment", names]] * 60]])
    for number in range(2, 6):
        last = shop.segment(str(number), ["not", ["not", ["is", "segment", [last]]]])
    deep = {"name": "deep", "filters": [["not", ["not", ["not", ["not", ["is", "segment", [last]]]]]]]}
    assert "deeper" in shop.refused("segments", **deep)


class Person:
    """Somebody who is signed in."""

    def __init__(self, shop, name):
        self.shop = shop
        with contextlib.suppress(mininumbers.MiniNumbersError):
            shop.app.setup(name, PASSWORD)
        answer = shop.http.post_json("/api/login", {"username": name, "password": PASSWORD}, headers={"Sec-Fetch-Site": "same-origin"})
        self.cookie = "; ".join(each.partition(";")[0] for each in answer.headers.getall("Set-Cookie"))
        shop.http.reset()

    def call(self, method, path, body=None, status=200):
        headers = {"Cookie": self.cookie, "Sec-Fetch-Site": "same-origin", "Content-Type": "application/json"}
        answer = self.shop.http.request(path, method=method, headers=headers, status=status, body=json.dumps(body or {}).encode() if method != "GET" else b"")
        self.shop.http.reset()
        return answer.json


def test_a_personal_segment_is_its_makers_alone(shop):
    ann, bob = Person(shop, "ann"), Person(shop, "bob")
    body = {"site_id": "example.com", "name": "Mine", "personal": True, "filters": [["is", "visit:os", ["Linux"]]]}
    made = ann.call("POST", "/api/segments", body, 201)
    assert made["personal"] is True
    assert bob.call("GET", "/api/segments?site_id=example.com") == {"segments": [], "total": 0}
    bob.call("PATCH", f"/api/segments/{made['id']}", {"name": "His"}, 404), bob.call("DELETE", f"/api/segments/{made['id']}", status=404)
    question = {"site_id": "example.com", "metrics": ["visitors"], "date_range": "day", "filters": [["is", "segment", [made["id"]]]]}
    assert ann.call("POST", "/api/v2/query", question)["results"]
    assert "no segment" in bob.call("POST", "/api/v2/query", question, 400)["error"]
    bob.call("POST", "/api/segments", body, 201)  # the name is free for others
    ann.call("POST", "/api/segments", body, 409)


def test_what_is_shared_does_not_rest_on_what_is_personal(shop):
    ann = Person(shop, "ann")
    mine = ann.call("POST", "/api/segments", {"site_id": "example.com", "name": "Mine", "personal": True, "filters": [["is", "visit:os", ["Linux"]]]}, 201)
    shared = {"site_id": "example.com", "name": "Ours", "filters": [["is", "segment", [mine["id"]]]]}
    assert "no segment" in ann.call("POST", "/api/segments", shared, 400)["error"]
    ann.call("PATCH", f"/api/segments/{mine['id']}", {"personal": False})
    ann.call("POST", "/api/segments", shared, 201)
    assert "the segment 'Ours'" in ann.call("PATCH", f"/api/segments/{mine['id']}", {"personal": True}, 400)["error"]


def test_of_a_personal_segment_that_uses_something_others_learn_no_name(shop):
    ann, goal = Person(shop, "ann"), shop.goal("Bought")
    ann.call("POST", "/api/segments", {"site_id": "example.com", "name": "Secret", "personal": True, "filters": [["is", "event:goal", ["Bought"]]]}, 201)
    answer = shop.call("DELETE", f"/api/goals/{goal['id']}", status=409)
    assert "a personal segment" in answer["error"] and "Secret" not in json.dumps(answer)


# ---- revenue ---------------------------------------------------------------------------------------------------------

def paid(amount, currency="EUR"):
    return {"$": {"amount": amount, "currency": currency}}


def test_currencies_stand_side_by_side_and_are_never_added(shop):
    shop.event("ann", "buy", **paid("12.50")), shop.event("ann", "buy", **paid(7.25)), shop.event("bob", "buy", **paid("1000", "jpy"))
    shop.event("bob", "buy", **paid("1.005", "KWD")), shop.view("cleo")
    assert shop.ask("total_revenue average_revenue revenue_per_visitor") == [
        [{"EUR": "19.75", "JPY": "1000", "KWD": "1.005"}, {"EUR": "9.88", "JPY": "1000", "KWD": "1.005"},
         {"EUR": "6.5833", "JPY": "333.33", "KWD": "0.33500"}]]


def test_a_refund_takes_away(shop):
    shop.event("ann", "buy", **paid("10")), shop.event("ann", "refund", **paid("-10.01")), shop.event("bob", "refund", **paid("-5", "USD"))
    assert shop.ask("total_revenue", by="event:name") == [["buy", {"EUR": "10.00"}], ["refund", {"EUR": "-10.01", "USD": "-5.00"}]]
    assert shop.ask("total_revenue average_revenue") == [[{"EUR": "-0.01", "USD": "-5.00"}, {"EUR": "0.00", "USD": "-5.00"}]]


def test_revenue_by_source_page_property_and_goal_over_time_and_compared(shop):
    shop.goal("Bought", "event", "buy")
    shop.view("ann", "/?utm_source=news&utm_campaign=may"), shop.event("ann", "buy", "/pay", p={"plan": "pro"}, **paid("30")), shop.wait(days=1)
    shop.view("bob", "/?utm_source=news"), shop.event("bob", "buy", "/pay", p={"plan": "free"}, **paid("0.10")), shop.event("dan", "tip", **paid("2"))
    days = ["2026-06-01", "2026-06-02"]
    for dimension, rows in {"visit:source": [["news", {"EUR": "30.10"}], ["Direct", {"EUR": "2.00"}]], "time:day": [[days[0], {"EUR": "30.00"}], [days[1], {"EUR": "2.10"}]],
                            "event:page": [["/pay", {"EUR": "30.10"}], ["/", {"EUR": "2.00"}]], "event:goal": [["Bought", {"EUR": "30.10"}]],
                            "event:props:plan": [["pro", {"EUR": "30.00"}], ["(none)", {"EUR": "2.00"}], ["free", {"EUR": "0.10"}]]}.items():
        assert shop.ask("total_revenue", by=dimension, period=days) == rows
    compared = shop.answer({"metrics": ["total_revenue"], "date_range": [days[1], days[1]], "include": {"comparisons": {"mode": "previous_period"}}})["results"]
    assert compared[0]["comparison"] == {"dimensions": [], "metrics": [{"EUR": "30.00"}], "change": [{"EUR": -93.0}]}


def test_a_conversion_rate_is_the_same_however_its_filters_are_put_together(shop):
    shop.goal("Signed up", "event", "signup")
    shop.view("ann"), shop.event("ann", "signup"), shop.view("bob"), shop.view("cleo"), shop.event("cleo", "signup"), shop.view("dan")
    page, goal = ["is", "event:page", ["/"]], ["is", "event:goal", ["Signed up"]]
    chosen, both = shop.segment("chosen", page), shop.segment("both", page, goal)
    forms = [[page, goal], [["and", [page, goal]]], [["or", [["and", [page, goal]]]]], [["is", "segment", [chosen]], goal], [["is", "segment", [both]]],
             [["is", "segment", [both]], goal], [["and", [["is", "segment", [both]], ["and", [goal]]]]]]
    for filters in forms:
        assert shop.ask("visitors conversion_rate", filters=filters) == [[2, 50]]
        assert shop.ask("visitors conversion_rate", by="event:goal", filters=filters) == [["Signed up", 2, 50]]


def test_what_rose_from_below_zero_rose(shop):
    shop.event("ann", "refund", **paid("-10")), shop.wait(days=1), shop.event("bob", "buy", **paid("20"))
    rows = shop.answer({"metrics": ["total_revenue"], "date_range": ["2026-06-02", "2026-06-02"], "include": {"comparisons": {"mode": "previous_period"}}})["results"]
    assert rows[0]["comparison"] == {"dimensions": [], "metrics": [{"EUR": "-10.00"}], "change": [{"EUR": 300.0}]}


def test_revenue_of_sealed_days_and_of_many_rows(shop):
    for number in range(30):
        shop.view("ann", f"/{number}"), shop.event("ann", "buy", f"/{number}", **paid(number))
    shop.wait(days=2), shop.jobs()
    assert shop.ask("visitors total_revenue", period="7d") == [[1, {"EUR": "435.00"}]]
    assert shop.ask("total_revenue", by="event:page", period="7d", pagination={"limit": 2}) == [["/29", {"EUR": "29.00"}], ["/28", {"EUR": "28.00"}]]


def test_sums_that_no_machine_word_holds_are_exact(shop):
    for _ in range(11):
        shop.event("ann", "buy", **paid("9999999999999.99")), shop.event("ann", "buy", **paid("-9999999999999.9999", "UYW"))
    with shop.app.store.snapshot() as db:
        assert shop.call("POST", "/api/v2/query", {"site_id": "example.com", "metrics": ["total_revenue"], "date_range": "day"})["results"][0]["metrics"] == [
            {"EUR": "109999999999999.89", "UYW": "-109999999999999.9989"}]
    shop.app.store.transact(lambda db: db.execute("update revenue set amount = 9000000000000000000 where currency = 'EUR'"))
    assert shop.call("POST", "/api/v2/query", {"site_id": "example.com", "metrics": ["total_revenue", "average_revenue"], "date_range": "day", "filters": [
        ["is", "event:name", ["buy"]]]})["results"][0]["metrics"][0]["EUR"] == "990000000000000000.00"


@pytest.mark.parametrize("amount, currency", [("NaN", "EUR"), ("1e309", "EUR"), (1e309, "EUR"), ("12,50", "EUR"), ("", "EUR"), (None, "EUR"), (True, "EUR"), ("١٢", "EUR"),
                                              ("12.50", "XXX"), ("12.50", "EURO"), ("12.50", ""), ("12.50", None), ("12.50", 978), ("1" * 14, "EUR"), ("0x10", "EUR")])
def test_what_is_no_amount_of_a_currency_is_refused_by_field(shop, amount, currency):
    body = json.dumps({"n": "buy", "u": "https://example.com/", "d": "example.com", "$": {"amount": amount, "currency": currency}}).replace("Infinity", "1e309")
    answer = shop.http.post("/api/event", body, content_type="text/plain", headers={"User-Agent": PEOPLE["ann"][1].text}, status=400).json
    assert amount == 1e309 or [each["field"] for each in answer["details"]] == ["$"]


# ---- what is refused -------------------------------------------------------------------------------------------------

GOOD = {"name": "N", "kind": "page", "value": "/"}


@pytest.mark.parametrize("field, body", [
    ("name", {"name": ""}), ("name", {"name": "   "}), ("name", {"name": 5}), ("name", {"name": "x" * 121}), ("name", {"name": "a\u0007"}),
    ("kind", {"kind": "visit"}), ("kind", {"kind": None}), ("kind", {"kind": ["page"]}), ("match", {"match": "regex"}), ("match", {"match": {}}),
    ("value", {"value": ""}), ("value", {"value": "thanks"}), ("value", {"value": "thanks", "match": "wildcard"}), ("value", {"value": "/" * 2001}),
    ("value", {"kind": "event", "value": "e" * 121}), ("value", {"value": ["/"]}),
    ("at_least", {"kind": "scroll"}), ("at_least", {"kind": "scroll", "at_least": 0}), ("at_least", {"kind": "scroll", "at_least": 101}),
    ("at_least", {"kind": "time", "at_least": "30"}), ("at_least", {"kind": "time", "at_least": True}), ("at_least", {"kind": "time", "at_least": 86_401}),
    ("value", {"match": "matches", "value": "("}), ("value", {"match": "matches", "value": "(?=x)"}), ("filters", {"filters": {}}),
    ("filters", {"filters": [["is", "event:nothing", ["x"]]]}), ("filters", {"filters": [["is", "event:goal", ["N"]]]}),
    ("filters", {"filters": [["is", "segment", [1]]]}), ("filters", {"filters": [["is", "segment", [True]]]}), ("filters", {"filters": [["is", "segment", "1"]]}),
    ("filters", {"filters": [["at_least", "event:scroll_depth", ["50"]]]}), ("filters", {"filters": [["at_least", "event:page", [5]]]}),
    ("filters", {"filters": [["at_least", "event:time_on_page", [1e99]]]}), ("unknown", {"unknown": 1}),
], ids=str)
def test_a_goal_that_makes_no_sense_is_refused_by_field(shop, field, body):
    body = GOOD | body
    shop.refused("goals", field, **body)
    assert shop.call("GET", "/api/goals?site_id=example.com")["total"] == 0


@pytest.mark.parametrize("filters", [
    None, [], {}, "x", [[]], [["is"]], [["is", "visit:os", []]], [["and", []]], [["not", 1]], [["is", "segment", []]], [["contains", "segment", ["1"]]],
    [["is", "event:goal", [5]]], [["is", "event:goal", ["No such"]]], [["is", "event:goal", ["x"], {"case_sensitive": False}]],
    [["starts_with", "event:page", [5]]], [["is", ["event:page"], ["/"]]], [["is", "segment", [2 ** 70]]]])
def test_a_segment_that_makes_no_sense_is_refused(shop, filters):
    shop.refused("segments", name="S", filters=filters)


def test_property_names_may_have_dots_quotes_and_300_bytes(shop):
    for name in ("a.b", "it's \"quoted\"", "ü" * 150, "x" * 300):
        shop.event("ann", "signup", p={name: "yes"})
        assert shop.ask("events", by=None, dimensions=[f"event:props:{name}"])
        shop.goal(name[:100], "event", "signup", filters=[["is", f"event:props:{name}", ["yes"]]])
    assert [events for _, events in shop.ask("events", by="event:goal")] == [1, 1, 1, 1]


@pytest.mark.parametrize("pattern", ["(a*)*b", "(x+x+)+y", "^(([a-z])+.)+[A-Z]([a-z])+$"])
def test_a_pattern_that_explodes_elsewhere_is_just_a_pattern(shop, pattern):
    shop.view("ann", "/" + "a" * 1500)
    shop.goal("Goal", match="matches", value=pattern)
    assert shop.call("POST", "/api/v2/query", {"site_id": "example.com", "metrics": ["visitors"], "dimensions": ["event:goal"],
                                               "date_range": "day"})["results"][0]["metrics"] == [0]


def test_a_conversion_rate_needs_a_goal(shop):
    body = {"site_id": "example.com", "date_range": "day"}
    for more in ({"metrics": ["conversion_rate"]}, {"metrics": ["group_conversion_rate"], "dimensions": ["visit:source"]},
                 {"metrics": ["percentage"], "dimensions": ["event:goal"]}):
        assert shop.post_query(body | more, status=400).json["details"][0]["field"] == "metrics"


# ---- random traffic --------------------------------------------------------------------------------------------------

PAGES = ["/", "/a", "/a/b", "/thanks"]
NAMES = ["pageview", "pageview", "pageview", "signup", "buy", "engagement"]
LEAVES = st.one_of(
    st.tuples(st.sampled_from(["is", "is_not", "starts_with", "contains"]), st.just("event:page"), st.lists(st.sampled_from(PAGES), min_size=1, max_size=2)),
    st.tuples(st.sampled_from(["is", "is_not"]), st.just("event:name"), st.lists(st.sampled_from(NAMES[2:5]), min_size=1, max_size=2)),
    st.tuples(st.just("is"), st.just("event:props:plan"), st.sampled_from([["pro"], ["(none)"], ["free", "pro"]])),
    st.tuples(st.sampled_from(["is", "is_not"]), st.sampled_from(["visit:os", "visit:browser"]), st.sampled_from([["Linux"], ["Chrome"], ["iOS", "Linux"]])),
    st.tuples(st.just("at_least"), st.sampled_from(["event:scroll_depth", "event:time_on_page"]), st.sampled_from([[0], [40], [75]])),
).map(list)
FILTERS = st.recursive(LEAVES, lambda inner: st.one_of(
    st.tuples(st.sampled_from(["and", "or"]), st.lists(inner, min_size=1, max_size=3)).map(list),
    st.tuples(st.sampled_from(["not", "has_done", "has_not_done"]), inner).map(list)), max_leaves=3)
GOALS = st.one_of(
    st.fixed_dictionaries({"kind": st.just("page"), "match": st.sampled_from(["is", "starts_with", "contains"]), "value": st.sampled_from(PAGES)}),
    st.fixed_dictionaries({"kind": st.just("page"), "match": st.just("wildcard"), "value": st.sampled_from(["/*", "/**", "/a/*", "/**s"])}),
    st.fixed_dictionaries({"kind": st.just("event"), "value": st.sampled_from(["signup", "buy"]), "filters": st.lists(FILTERS, max_size=1)}),
    st.fixed_dictionaries({"kind": st.sampled_from(["scroll", "time"]), "match": st.just("starts_with"), "value": st.sampled_from(PAGES),
                           "at_least": st.sampled_from([1, 40])}))


@st.composite
def traffic(draw, most=40):
    """[(seconds since the one before, who, page, name, further fields)], dense enough for visits, at times several in one second."""
    steps = draw(st.lists(st.tuples(st.sampled_from([0, 0, 5, 60, 600, 1_900, 30_000]), st.sampled_from(sorted(PEOPLE)), st.sampled_from(PAGES),
                                    st.sampled_from(NAMES), st.sampled_from([{}, {"p": {"plan": "pro"}}, paid("1.01"), {"p": {"plan": "free"}, **paid(-3, "USD")}]),
                                    st.sampled_from([(20, 30), (50, 80), (5, None)])), min_size=1, max_size=most))
    return [(gap, who, page, name, {"e": read[0] * 1000, **({"sd": read[1]} if read[1] else {})} if name == "engagement" else more)
            for gap, who, page, name, more, read in steps]


def play(shop, steps):
    for gap, who, page, name, more in steps:
        shop.wait(seconds=gap)
        shop.send(who, {"n": name, "u": page, **more})
    shop.wait(seconds=40_000)


@st.composite
def questions(draw, segments, known):
    named = st.one_of(st.just(["is", "event:goal", ["G0"]]), st.just(["is_not", "event:goal", ["G0", "G1"]]), st.just(["has_done", ["is", "event:goal", ["G1"]]]),
                      st.sampled_from(segments).map(lambda each: ["is", "segment", [each]]), st.just(["is_not", "segment", segments]))
    filters = draw(st.lists(st.one_of(named, named, FILTERS), max_size=2))
    if filters and draw(st.booleans()):
        filters = [[draw(st.sampled_from(["and", "or"])), filters]]
    dimensions = draw(st.sampled_from([["event:goal"], ["event:goal", "visit:os"], ["event:goal", "time:day"], ["event:page"], ["visit:os"], ["time:day"], [],
                                       ["event:goal", "event:props:plan"], ["event:page", "event:goal"], ["visit:browser", "time:day"]]))
    metrics = ["visitors", "visits", "pageviews", "events", "bounce_rate", "visit_duration", "total_revenue", "average_revenue", "revenue_per_visitor"]
    if "event:goal" in dimensions or any(oracle.says_which_conversions(each, known) for each in filters):
        metrics += ["conversion_rate", "group_conversion_rate"]
    body = {"metrics": draw(st.lists(st.sampled_from(metrics), min_size=1, max_size=4, unique=True)), "dimensions": dimensions, "filters": filters,
            "date_range": draw(st.sampled_from(["all", "7d", ["2026-06-01", "2026-06-02"], "day"]))}
    if draw(st.booleans()):
        body["include"] = {"comparisons": {"mode": "previous_period"}}
    return body


MUCH = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), phases=set(Phase) - {Phase.explain})


@MUCH
@given(data=st.data())
def test_goals_and_segments_equal_a_naive_recount(tmp_path_factory, data):
    shop = Shop(tmp_path_factory.mktemp("shop"))
    with contextlib.closing(shop):
        play(shop, data.draw(traffic()))
        if data.draw(st.booleans()):
            shop.jobs()
        for number, goal in enumerate(data.draw(st.lists(GOALS, min_size=2, max_size=3))):
            shop.goal(f"G{number}", **goal)
        inner = shop.segment("S0", *data.draw(st.lists(FILTERS, min_size=1, max_size=2)))
        outer = shop.segment("S1", ["or", [["is", "segment", [inner]], ["is", "event:goal", ["G0"]]]])
        for _ in range(4):
            shop.answer(data.draw(questions([inner, outer], shop.named)))


# ---- fields of goals and funnels ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("field, body", [
    ("match", {"kind": "event", "match": "wildcard", "value": "x*"}), ("at_least", {"kind": "event", "value": "x", "at_least": 5}),
    ("at_least", {"kind": "page", "value": "/x", "at_least": 5}), ("value", {"kind": "event", "value": "engagement"}),
    ("at_least", {"kind": "time", "value": "/x", "at_least": 5.5})])
def test_what_a_goal_would_not_heed_is_refused_by_field(shop, field, body):
    shop.refused("goals", field, name="G", **body)
    assert shop.add("goals", name="G", kind="event", value="x", match=None, at_least=None)["filters"] == []


@pytest.mark.parametrize("body, fields", [({"kind": "event", "value": "x"}, set()), ({"kind": "page"}, {"match"}), ({"kind": "time"}, {"match", "at_least"})])
def test_a_goal_that_becomes_of_another_kind_loses_what_that_has_not(shop, body, fields):
    goal = shop.goal("G", "scroll", "/x", match="starts_with", at_least=50)
    changed = shop.call("PATCH", f"/api/goals/{goal['id']}", body)
    assert set(changed) & {"match", "at_least"} == fields and changed["kind"] == body["kind"]
    shop.call("PATCH", f"/api/goals/{goal['id']}", {"kind": ["page"]}, 400)


def test_the_window_of_a_funnel_is_a_whole_number(shop):
    steps = [{"filters": [["is", "event:page", ["/a"]]]}] * 2
    made = shop.add("funnels", name="F", steps=steps, window=60.0)
    assert made["window"] == 60
    assert "window" in shop.call("PATCH", f"/api/funnels/{made['id']}", {"window": 60.5}, 400)["error"]


# ---- regular expressions -----------------------------------------------------------------------------------------------

def many_patterns(count):
    """Filters with so many different expressions, each as large as one may be."""
    return [["or", [["matches", "event:page", [f"(?:x{number:04}){{400}}"]] for number in range(count)]]]


@pytest.mark.parametrize("path, more", [
    ("/api/v2/query", {"metrics": ["visitors"], "filters": many_patterns(400)}),
    ("/api/funnels/report", {"steps": [{"filters": many_patterns(400)}] * 2}),
    ("/api/journeys", {"start": many_patterns(400)[0]}),
    ("/api/retention", {"interval": "day", "filters": many_patterns(400)}),
    ("/api/segments", {"name": "Many", "filters": many_patterns(400)}),
    ("/api/goals", {"name": "Many", "kind": "event", "value": "x", "filters": many_patterns(400)}),
    ("/api/funnels", {"name": "Many", "steps": [{"filters": many_patterns(400)}] * 2}),
])
def test_a_question_of_too_many_large_expressions_is_refused_before_any_is_made_ready(shop, path, more, monkeypatch):
    monkeypatch.setattr(mininumbers, "pattern", lambda text: pytest.fail("an expression was made ready"))
    asked = {"date_range": "7d"} if path not in ("/api/segments", "/api/goals", "/api/funnels") else {}
    answer = shop.call("POST", path, {"site_id": "example.com", **asked, **more}, 400)
    assert "fewer or simpler" in answer["error"] and answer["details"][0]["field"] in ("filters", "steps")


def test_expressions_are_counted_over_all_that_is_asked_at_once_and_over_what_is_named(shop):
    def asked(filters):
        return {"site_id": "example.com", "metrics": ["visitors"], "date_range": "7d", "filters": filters}
    parts = [many_patterns(72)[0][1][start::3] for start in range(3)]
    segments = [shop.segment(f"Part {number}", ["or", part]) for number, part in enumerate(parts)]
    for segment in segments:
        shop.call("POST", "/api/v2/query", asked([["is", "segment", [segment]]]))
    shop.call("POST", "/api/v2/query", asked([["is", "segment", segments]]), 400)
    shop.call("POST", "/api/v2/queries", {"queries": [asked([["or", part]]) for part in parts]}, 400)
    shop.call("POST", "/api/v2/queries", {"queries": [asked([["or", parts[0]]]) for _ in range(5)]})  # the same ones count once


def test_an_expression_is_made_ready_once_for_asking_and_once_for_looking(shop, monkeypatch):
    made, pattern = [], mininumbers.pattern
    monkeypatch.setattr(mininumbers, "pattern", lambda text: made.append(text) or pattern(text))
    shop.send(next(iter(PEOPLE)), {"n": "pageview", "u": "https://example.com/a"})
    wanted = [f"^/{number}$" for number in range(100)]
    shop.answer({"metrics": ["visitors", "visits"], "date_range": "day", "filters": [["matches", "event:page", wanted]]})
    assert max(made.count(text) for text in wanted) <= 2


@pytest.mark.parametrize("text", ["(?:(?:(?:a{30}){30}){30})", "(?:ab|cd){2000}", r"\pL{60}", r"[\pL]{60}", "a{3000}", "(?:a{60}){60,}", "a{ 3000 }", "a{60}{60}",
                                  "[(?P<](?:(a{60}){60}>]", "[]a](a{60}){60}", "[[:alpha:]](a{60}){60}", r"\((a{60}){60}", "(?x)(?:a#)\n{60}){60}", "(?P<name>a{60}){60}"])
def test_an_expression_that_is_large_when_written_out_is_refused(text):
    with pytest.raises(mininumbers.InvalidInput):
        mininumbers.pattern(text)


@pytest.mark.parametrize("text, matches, others", [
    ("(?i)^s{100}$", ["s" * 100, "S" * 100, "sS" * 50], ["s" * 99, "s" * 101]), ("^(?:ab|cd){64}$", ["abcd" * 32], ["abcd" * 31, "ab" * 63 + "a"]),
    ("^[0-9a-f]{8}-[0-9a-f]{4}$", ["00ff00ff-abcd"], ["00ff00f-abcd", "00ff00fg-abcd"]), (r"^/\d{4}/\d{2,}/?$", ["/2026/03", "/2026/123/"], ["/2026/3", "/202/03"]),
    ("^(?:(?:a|b){8}){8}$", ["ab" * 32], ["ab" * 31]), (r"^[]{2}]{3}$", ["]{2", "}}}"], ["]]", "]]]]"]), (r"^a\{2}$", ["a{2}"], ["aa"]), ("^a{0,2}b{0,1}$|^c{1}?$", ["aab", "c", ""], ["aaab", "bb"]),
    (r"^\x{41}{2}\pL{2}[^\pL]$", ["AAbc1"], ["AAbcd", "Abc1"]), ("^(?P<twice>a.){2}$", ["abac"], ["ab"])])
def test_counted_repetition_means_what_it_does_everywhere(text, matches, others):
    does = mininumbers.pattern(text)
    assert [each for each in (*matches, *others) if does(each)] == matches


@pytest.mark.parametrize("text", ["{3}", "a|{3}", "(?i){3}", "({3})", "(", "a{3", "[a", r"\1", "(?=a)", "(?x)a"])
def test_what_is_no_expression_stays_none(text):
    with pytest.raises(mininumbers.InvalidInput):
        mininumbers.pattern(text)
