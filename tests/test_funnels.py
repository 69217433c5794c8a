"""Funnels: what they count, that it equals a naive recount, how they are kept, and what is refused.

As in test_reports.py every question is put to the server and to the oracle, which share no code, and the two must agree.
"""
import contextlib
import copy
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mininumbers
import oracle
from test_conversions import FILTERS, GOALS, MUCH, Shop, play, traffic
from test_reports import assert_numbers

pytestmark = pytest.mark.usefixtures("cheap_passwords")

# ---- the world -------------------------------------------------------------------------------------------------------


def page(*pages):
    return {"filters": [["is", "event:page", list(pages)]]}


def event(name):
    return {"filters": [["is", "event:name", [name]]]}


def goal(name):
    return {"filters": [["is", "event:goal", [name]]]}


class Way(Shop):
    """A world in which funnels are asked about."""

    def report(self, *steps, period="day", **body):
        """The server's answer about a funnel, after it was found to agree with the oracle's."""
        body = {"site_id": self.site.domain, "date_range": period, "steps": list(steps), **body}
        answer = self.call("POST", "/api/funnels/report", body, token=self.token)
        expected = oracle.funnel(self.sent, self.site, self.now, copy.deepcopy(body), self.named)
        told = f"\nasked {json.dumps(body)}\nof {self.named}\nserver {json.dumps(answer)}\noracle {json.dumps(expected)}\n{self.told()}"
        assert answer["visitors"] == expected["visitors"], told
        for step, wanted in zip(answer["steps"], expected["steps"], strict=True):
            assert_step(step, wanted, told)
        assert self.from_hits(body) == answer["steps"], told
        return answer

    def from_hits(self, body):
        """The steps as the server tells them where days have no ways ready."""
        with pytest.MonkeyPatch.context() as patch, self.app.store.snapshot() as db:
            patch.setattr(mininumbers.FunnelWays, "is_possible", lambda *_: False)
            site = mininumbers.get_site(db, self.app.settings, self.site.domain)
            answers, _ = mininumbers.run_funnels(db, site, [body], self.now, definitions=mininumbers.read_definitions(db, site.id, None))
        return json.loads(json.dumps(answers[0]["steps"]))

    def reached(self, *steps, **body):
        """How many visitors reached each step."""
        return [step["visitors"] for step in self.report(*steps, **body)["steps"]]

    def refused_report(self, field, /, **body):
        """What is said of a question that has no answer."""
        good = {"site_id": self.site.domain, "date_range": "day", "steps": [page("/"), page("/a")]}
        answer = self.call("POST", "/api/funnels/report", {key: value for key, value in (good | body).items() if value is not ...}, 400, self.token)
        assert field in [each["field"] for each in answer["details"]], answer
        return answer["error"]


def assert_step(step, wanted, told):
    for name in ("visitors", "drop_off", "destinations"):
        assert step[name] == wanted[name], f"{name} {told}"
    assert_numbers(["rate", "step_rate"], [step["rate"], step["step_rate"]], [wanted["rate"], wanted["step_rate"]], told)
    assert step["seconds"] == wanted["seconds"], told
    assert ("comparison" in step) == ("comparison" in wanted), told
    if "comparison" in wanted:
        before, expected = step["comparison"], wanted["comparison"]
        assert before["visitors"] == expected["visitors"], told
        for one, other in ((before, expected), (before["change"], expected["change"])):
            for name in ("visitors", "rate", "step_rate"):
                assert one[name] == pytest.approx(other[name], abs=0.06), f"{name} {told}"


@pytest.fixture
def new_way(tmp_path):
    ways = []

    def new(**options):
        folder = tmp_path / str(len(ways))
        folder.mkdir()
        ways.append(Way(folder, **options))
        return ways[-1]

    yield new
    for way in ways:
        way.close()


@pytest.fixture
def way(new_way):
    return new_way()


# ---- what is counted -------------------------------------------------------------------------------------------------

def test_each_visitor_counts_at_every_step_up_to_the_deepest_they_reached(way):
    way.view("ann", "/"), way.wait(10), way.view("ann", "/pricing"), way.wait(20), way.event("ann", "signup", "/pricing")
    way.view("bob", "/"), way.wait(30), way.view("bob", "/pricing"), way.view("bob", "/about")
    way.view("cleo", "/pricing"), way.view("dan", "/")
    answer = way.report(page("/"), page("/pricing"), event("signup"))
    assert answer["visitors"] == 4
    assert answer["steps"] == [
        {"name": "/", "visitors": 3, "rate": 100.0, "step_rate": None, "drop_off": 1,
         "seconds": {"lower_quartile": 15.0, "median": 20.0, "upper_quartile": 25.0},
         "destinations": [{"dimension": None, "value": None, "visitors": 1}]},
        {"name": "/pricing", "visitors": 2, "rate": 66.67, "step_rate": 66.67, "drop_off": 1,
         "seconds": {"lower_quartile": 20.0, "median": 20.0, "upper_quartile": 20.0},
         "destinations": [{"dimension": "event:page", "value": "/about", "visitors": 1}]},
        {"name": "signup", "visitors": 1, "rate": 33.33, "step_rate": 50.0, "drop_off": None, "seconds": None, "destinations": []}]


def test_what_was_asked_is_told(way):
    way.goal("Bought", value="/thanks")
    steps = [goal("Bought"), {"name": "Afterwards", **page("/")}, {"filters": [["is", "event:page", ["/a", "/b"]]]}]
    answer = way.report(*steps, period=["2026-06-01", "2026-06-01"], order="strict", window=3600)
    assert answer["query"] == {
        "site_id": "example.com", "date_range": ["2026-06-01T00:00:00+00:00", "2026-06-01T23:59:59+00:00"], "filters": [], "include": {}, "order": "strict",
        "window": 3600, "steps": [{"name": name, "filters": step["filters"]} for name, step in zip(("Bought", "Afterwards", "Step 3"), steps)]}
    assert [step["name"] for step in answer["steps"]] == ["Bought", "Afterwards", "Step 3"]
    assert answer["meta"] == {}


def test_steps_count_in_their_order_only(way):
    way.view("ann", "/b"), way.wait(1), way.view("ann", "/a")
    assert way.reached(page("/a"), page("/b")) == [1, 0]


def test_other_hits_may_lie_between_unless_the_order_is_strict(way):
    way.view("ann", "/a"), way.view("ann", "/x"), way.view("ann", "/b")
    way.view("bob", "/a"), way.event("bob", "seen", "/x"), way.view("bob", "/b")
    way.view("cleo", "/a"), way.engage("cleo", "/a", 5, 50), way.view("cleo", "/b")
    assert way.reached(page("/a"), page("/b")) == [3, 3]
    assert way.reached(page("/a"), page("/b"), order="strict") == [3, 1]


def test_a_strict_attempt_may_begin_anew(way):
    for url in ("/a", "/a", "/b", "/x", "/a", "/b", "/c"):
        way.view("ann", url), way.wait(10)
    answer = way.report(page("/a"), page("/b"), page("/c"), order="strict")
    assert [step["visitors"] for step in answer["steps"]] == [1, 1, 1]
    assert way.reached(page("/a"), page("/a"), page("/b"), page("/c"), order="strict") == [1, 1, 1, 0]


def test_the_same_step_twice_needs_two_hits(way):
    way.view("ann", "/a"), way.view("bob", "/a"), way.wait(5), way.view("bob", "/a")
    assert way.reached(page("/a"), page("/a")) == [2, 1]
    assert way.reached(page("/a"), page("/a"), order="strict") == [2, 1]
    assert way.reached(page("/a"), page("/a"), window=60) == [2, 1]
    assert way.reached(*[page("/a")] * 8) == [2, 1, 0, 0, 0, 0, 0, 0]


def test_hits_of_the_same_second_stay_in_the_order_of_arrival(way):
    for person, urls in {"ann": "abc", "bob": "cba", "cleo": "acb"}.items():
        for name in urls:
            way.view(person, f"/{name}")
    for order in ("any", "strict"):
        for window in (None, 60):
            answer = way.report(page("/a"), page("/b"), page("/c"), order=order, window=window)
            assert [step["visitors"] for step in answer["steps"]] == ([3, 2, 1] if order == "any" else [3, 1, 1])
            assert answer["steps"][0]["seconds"] == {"lower_quartile": 0, "median": 0, "upper_quartile": 0}


def test_without_a_window_all_steps_lie_within_one_visit(way):
    way.view("ann", "/a"), way.wait(hours=2), way.view("ann", "/b"), way.wait(hours=2), way.view("ann", "/a"), way.view("ann", "/b"), way.view("ann", "/c")
    way.view("bob", "/a"), way.wait(hours=2), way.view("bob", "/b")
    answer = way.report(page("/a"), page("/b"), page("/c"))
    assert [step["visitors"] for step in answer["steps"]] == [2, 1, 1]


def test_a_window_reaches_over_visits_of_one_visitor_from_the_first_step_on(way):
    way.view("ann", "/a"), way.wait(hours=2), way.view("ann", "/b"), way.wait(hours=2), way.view("ann", "/c")
    for window, reached in ((7_199, [1, 0, 0]), (7_200, [1, 1, 0]), (14_399, [1, 1, 0]), (14_400, [1, 1, 1])):
        for order in ("any", "strict"):
            assert way.reached(page("/a"), page("/b"), page("/c"), window=window, order=order) == reached
    assert way.reached(page("/a"), page("/b"), page("/c")) == [1, 0, 0]


@pytest.mark.parametrize("between", [("/x", "/b"), ("/x", "/x", "/b"), ("/b", "/x")])
def test_in_strict_order_a_visit_that_begins_elsewhere_ends_the_attempt(way, between):
    way.view("ann", "/a"), way.wait(hours=2)
    for url in between:
        way.view("ann", url), way.wait(10)
    reached = [1, int(between[0] == "/b")]
    for filters in ([], [["is_not", "event:props:plan", ["x"]]]):
        assert way.reached(page("/a"), page("/b"), order="strict", window=86_400, filters=filters) == reached
    assert way.reached(page("/a"), page("/b"), window=86_400) == [1, 1]
    way.wait(days=2), way.jobs()
    assert way.reached(page("/a"), page("/b"), order="strict", window=86_400, period="7d") == reached


def test_of_attempts_that_get_as_far_the_earliest_counts(way):
    way.view("ann", "/a"), way.wait(300), way.view("ann", "/a"), way.wait(30), way.view("ann", "/b"), way.wait(60), way.view("ann", "/a"), way.view("ann", "/b")
    assert way.report(page("/a"), page("/b"))["steps"][0]["seconds"]["median"] == 330
    assert way.report(page("/a"), page("/b"), window=100)["steps"][0]["seconds"]["median"] == 30
    assert way.report(page("/a"), page("/b"), window=330)["steps"][0]["seconds"]["median"] == 330


def test_what_comes_after_the_window_is_not_reached_by_the_best_attempt(way):
    way.view("ann", "/a"), way.wait(50), way.view("ann", "/b"), way.wait(50), way.view("ann", "/c")
    answer = way.report(page("/a"), page("/b"), page("/c"), window=60)
    assert [step["visitors"] for step in answer["steps"]] == [1, 1, 0]
    assert answer["steps"][1]["destinations"] == [{"dimension": "event:page", "value": "/c", "visitors": 1}]


def test_a_visit_over_midnight_is_one(new_way):
    way = new_way(start="2026-06-01 23:50:00", timezone="Europe/Berlin")
    way.view("ann", "/a"), way.wait(minutes=20), way.view("ann", "/b")
    way.jobs()
    assert way.reached(page("/a"), page("/b"), period=["2026-06-01", "2026-06-02"]) == [1, 1]
    assert way.reached(page("/a"), page("/b"), period=["2026-06-01", "2026-06-01"]) == [1, 0]
    assert way.reached(page("/a"), page("/b"), period=["2026-06-02", "2026-06-02"]) == [0, 0]
    way.wait(days=3), way.jobs()
    assert way.reached(page("/a"), page("/b"), period="7d") == [1, 1]


def test_a_visitor_is_known_as_long_as_the_rotation_lasts(new_way):
    for hours, reached in ((24, [2, 0]), (168, [1, 1])):
        way = new_way(rotation_hours=hours)
        way.view("ann", "/a"), way.wait(days=1), way.view("ann", "/b"), way.view("ann", "/a"), way.wait(hours=1)
        assert way.reached(page("/a"), page("/b"), window=90 * 86_400, period=["2026-06-01", "2026-06-02"]) == reached


def test_where_those_went_who_left(way):
    for person, then in {"ann": [("pageview", "/x")], "bob": [("buy", "/a"), ("pageview", "/x")], "cleo": [], "dan": [("pageview", "/a")]}.items():
        way.view(person, "/a")
        for name, url in then:
            way.event(person, name, url)
    way.wait(hours=1), way.view("cleo", "/next-visit")
    assert way.report(page("/a"), page("/b"))["steps"][0]["destinations"] == [
        {"dimension": None, "value": None, "visitors": 1}, {"dimension": "event:name", "value": "buy", "visitors": 1},
        {"dimension": "event:page", "value": "/a", "visitors": 1}, {"dimension": "event:page", "value": "/x", "visitors": 1}]


def test_rare_destinations_are_told_together(way):
    for number in range(14):
        way.view("ann", "/a"), way.view("ann", f"/{number:02}"), way.view("bob", "/a"), way.wait(days=1)
        way.view("cleo", "/a"), way.view("cleo", f"/{number:02}")
    body = {"site_id": "example.com", "date_range": ["2026-06-01", "2026-06-30"], "steps": [page("/a"), page("/b")]}
    went = way.call("POST", "/api/funnels/report", body)["steps"][0]["destinations"]
    assert went == [{"dimension": None, "value": None, "visitors": 14}, *({"dimension": "event:page", "value": f"/{number:02}", "visitors": 2} for number in range(9)),
                    {"dimension": "other", "value": None, "visitors": 10}]
    way.view("dan", "/a")
    went = way.call("POST", "/api/funnels/report", body | {"filters": [["is_not", "event:page", ["/b"]], ["is", "visit:browser", ["Safari", "Firefox"]]]})
    assert went["steps"][0]["destinations"][0] == {"dimension": None, "value": None, "visitors": 15}
    for number in range(14):
        way.view("ann", "/a"), way.view("ann", f"/{number:02}"), way.wait(hours=1), way.view("bob", "/a"), way.view("bob", f"/{number:02}"), way.wait(days=1)
    went = way.call("POST", "/api/funnels/report", body | {"date_range": ["2026-06-16", "2026-06-30"]})["steps"][0]["destinations"]
    assert [each["visitors"] for each in went] == [2] * 10 + [6] and went[-1]["dimension"] == "other"


def test_nobody_is_told_as_nobody(way):
    empty = {"rate": 0, "drop_off": 0, "seconds": None, "destinations": [], "visitors": 0}
    assert way.report(page("/a"), page("/b"))["steps"] == [
        {"name": "/a", "step_rate": None, **empty}, {"name": "/b", **empty, "step_rate": 0, "drop_off": None}]
    way.view("ann", "/x")
    assert way.reached(page("/a"), page("/b"), order="strict") == [0, 0]


def test_filters_choose_the_hits_that_are_looked_at(way):
    way.view("ann", "/a"), way.view("ann", "/x"), way.view("ann", "/b"), way.view("bob", "/a"), way.view("bob", "/b")
    assert way.reached(page("/a"), page("/b"), filters=[["is", "visit:os", ["Linux"]]]) == [1, 1]
    assert way.reached(page("/a"), page("/b"), filters=[["is_not", "event:page", ["/x"]]], order="strict") == [2, 2]
    assert way.reached(page("/a"), page("/b"), filters=[["is", "event:page", ["/a"]]]) == [2, 0]
    assert way.reached(page("/a"), page("/b"), filters=[["has_done", ["is", "event:page", ["/x"]]]]) == [1, 1]


def test_steps_may_be_goals_segments_properties_and_behaviour(way):
    way.goal("Bought", "event", "buy", filters=[["is", "event:props:plan", ["pro"]]]), way.goal("Read", "scroll", "/", match="starts_with", at_least=50)
    linux = way.segment("Linux", ["is", "visit:os", ["Linux"]])
    for person, plan in {"ann": "pro", "bob": "pro", "cleo": "free"}.items():
        way.view(person, "/"), way.engage(person, "/", 5, 60), way.wait(5), way.event(person, "buy", p={"plan": plan})
    assert way.reached(goal("Read"), goal("Bought")) == [3, 2]
    assert way.reached({"filters": [["is", "event:goal", ["Read"]], ["is", "segment", [linux]]]}, goal("Bought")) == [1, 1]
    assert way.reached({"filters": [["has_done", ["is", "event:props:plan", ["free"]]]]}, event("buy")) == [1, 1]
    assert way.reached({"filters": [["not", ["is", "event:goal", ["Read"]]]]}, goal("Read")) == [3, 0]


def test_two_periods_stand_side_by_side(way):
    way.view("ann", "/a"), way.view("bob", "/a"), way.view("bob", "/b"), way.wait(days=1)
    way.view("ann", "/a"), way.view("ann", "/b"), way.view("bob", "/a"), way.view("bob", "/b"), way.view("cleo", "/a"), way.view("cleo", "/b")
    steps = way.report(page("/a"), page("/b"), include={"comparisons": {"mode": "previous_period"}})["steps"]
    assert steps[0]["comparison"] == {"visitors": 2, "rate": 100.0, "step_rate": None, "change": {"visitors": 50.0, "rate": 0.0, "step_rate": None}}
    assert steps[1]["comparison"] == {"visitors": 1, "rate": 50.0, "step_rate": 50.0, "change": {"visitors": 200.0, "rate": 50.0, "step_rate": 50.0}}


def test_an_answer_is_kept_until_something_changes(way):
    way.goal("Read", value="/a")
    way.view("ann", "/a"), way.view("ann", "/b"), way.wait(days=2), way.jobs()
    assert way.reached(goal("Read"), page("/b"), period="7d") == [1, 1]
    way.view("bob", "/a"), way.view("bob", "/b")
    assert way.reached(goal("Read"), page("/b"), period="7d") == [1, 1]
    assert way.reached(goal("Read"), page("/b")) == [1, 1]
    number = way.call("GET", "/api/goals?site_id=example.com")["goals"][0]["id"]
    way.named.goals["Read"] = way.call("PATCH", f"/api/goals/{number}", {"value": "/elsewhere"})
    assert way.reached(goal("Read"), page("/b"), period="7d") == [0, 0]
    body = {"site_id": "example.com", "date_range": "day", "steps": [page("/a"), page("/b")]}
    answer = way.http.post_json("/api/funnels/report", body, headers={"Authorization": "Bearer " + way.token})
    assert way.http.post_json("/api/funnels/report", body, headers={"Authorization": "Bearer " + way.token, "If-None-Match": answer.headers["ETag"]},
                              status=304).body == b""


# ---- keeping funnels -------------------------------------------------------------------------------------------------

def test_funnels_are_kept_changed_asked_about_and_deleted(way):
    way.view("ann", "/a"), way.view("ann", "/x"), way.view("ann", "/b")
    made = way.add("funnels", name="Way", steps=[page("/a"), {"name": "Then", **page("/b")}])
    assert made == {"id": made["id"], "name": "Way", "steps": [{"name": "/a", **page("/a")}, {"name": "Then", **page("/b")}], "order": "any", "window": None}
    asked = {"site_id": "example.com", "date_range": "day", "funnel_id": made["id"]}
    answer = way.call("POST", "/api/funnels/report", asked, token=way.token)
    assert ([step["visitors"] for step in answer["steps"]], answer["query"]["funnel_id"]) == ([1, 1], made["id"])
    changed = way.call("PATCH", f"/api/funnels/{made['id']}", {"order": "strict", "window": 3600})
    assert changed == made | {"order": "strict", "window": 3600}
    assert [step["visitors"] for step in way.call("POST", "/api/funnels/report", asked)["steps"]] == [1, 0]
    assert way.call("PATCH", f"/api/funnels/{made['id']}", {"window": None}) == made | {"order": "strict"}
    way.add("funnels", 409, name="Way", steps=[page("/a"), page("/b")])
    for number in range(3):
        way.add("funnels", name=f"F{number}", steps=[page("/a"), page("/b")])
    listed = way.call("GET", "/api/funnels?site_id=example.com&limit=2&offset=1", token=way.token)
    assert ([each["name"] for each in listed["funnels"]], listed["total"]) == (["F1", "F2"], 4)
    assert way.call("DELETE", f"/api/funnels/{made['id']}") == {}
    way.call("DELETE", f"/api/funnels/{made['id']}", status=404), way.call("POST", "/api/funnels/report", asked, 404)


def test_who_may_only_read_may_ask_and_changes_nothing(way):
    made = way.add("funnels", name="Way", steps=[page("/a"), page("/b")])
    for method, path in (("POST", "/api/funnels"), ("PATCH", f"/api/funnels/{made['id']}"), ("DELETE", f"/api/funnels/{made['id']}")):
        assert way.call(method, path, {"site_id": "example.com", "name": "B", "steps": [page("/")] * 2}, 403, way.token)["code"] == "forbidden"
    assert way.call("GET", "/api/funnels?site_id=example.com", token=way.token)["funnels"] == [made]


def test_a_funnel_of_another_site_is_not_there(way):
    way.app.add_site("other.example")
    made, token = way.add("funnels", name="Way", steps=[page("/a"), page("/b")]), way.app.create_token("other", "other.example")
    for site, status in (("example.com", 404), ("other.example", 404)):
        way.call("POST", "/api/funnels/report", {"site_id": site, "date_range": "day", "funnel_id": made["id"]}, status, token)
    assert way.call("GET", "/api/funnels?site_id=other.example", token=token) == {"funnels": [], "total": 0}


def test_a_goal_or_segment_that_a_funnel_uses_is_renamed_there_and_not_deleted(way):
    bought, linux = way.goal("Bought"), way.segment("Linux", ["is", "visit:os", ["Linux"]])
    made = way.add("funnels", name="Way", steps=[{"filters": [["is", "segment", [linux]]]}, goal("Bought")])
    for path in (f"/api/goals/{bought['id']}", f"/api/segments/{linux}"):
        answer = way.call("DELETE", path, status=409)
        assert "the funnel 'Way'" in answer["error"] and answer["details"] == [{"field": "used_by", "message": "the funnel 'Way'"}]
    way.call("PATCH", f"/api/goals/{bought['id']}", {"name": "Paid"})
    kept, = way.call("GET", "/api/funnels?site_id=example.com")["funnels"]
    assert kept == made | {"steps": [made["steps"][0], {"name": "Paid", **goal("Paid")}]}
    way.call("PATCH", f"/api/funnels/{made['id']}", kept_without_id(kept)), way.call("PATCH", f"/api/goals/{bought['id']}", {"name": "Sold"})
    assert way.call("GET", "/api/funnels?site_id=example.com")["funnels"][0]["steps"][1]["name"] == "Sold", "a name that was only answered is not kept"
    way.call("DELETE", f"/api/funnels/{made['id']}"), way.call("DELETE", f"/api/goals/{bought['id']}"), way.call("DELETE", f"/api/segments/{linux}")


def kept_without_id(named):
    return {key: value for key, value in named.items() if key != "id"}


def test_a_change_of_a_segment_that_a_funnel_cannot_follow_is_refused(way):
    linux = way.segment("Linux", ["is", "visit:os", ["Linux"]])
    way.goal("On Linux", value="/", filters=[["is", "segment", [linux]]])
    way.add("funnels", name="Way", steps=[goal("On Linux"), page("/b")])
    assert "circle" in way.call("PATCH", f"/api/segments/{linux}", {"filters": [["is", "event:goal", ["On Linux"]]]}, 400)["error"]


def test_two_who_add_a_funnel_of_one_name_at_once_make_one(way):
    body = json.dumps({"site_id": "example.com", "name": "Way", "steps": [page("/a"), page("/b")]})
    headers = {"Authorization": "Bearer " + way.writing, "Content-Type": "application/json"}
    with ThreadPoolExecutor(4) as threads:
        asked = [threads.submit(way.http.request, "/api/funnels", method="POST", body=body.encode(), headers=headers, expect_errors=True) for _ in range(4)]
        statuses = sorted(each.result().status_int for each in asked)
    assert statuses == [201, 409, 409, 409]


def test_many_who_ask_at_once_are_told_the_same(way):
    way.view("ann", "/a"), way.view("ann", "/b"), way.view("bob", "/a")
    body = {"site_id": "example.com", "date_range": "day", "steps": [page("/a"), page("/b")]}
    with ThreadPoolExecutor(6) as threads:
        asked = [threads.submit(way.call, "POST", "/api/funnels/report", body | {"window": 60 + number % 3}) for number in range(6)]
        assert [[step["visitors"] for step in each.result()["steps"]] for each in asked] == [[2, 1]] * 6


# ---- what is refused -------------------------------------------------------------------------------------------------

BAD = [
    ("steps", {"steps": []}), ("steps", {"steps": [page("/")]}), ("steps", {"steps": [page("/")] * 9}), ("steps", {"steps": None}),
    ("steps", {"steps": {"0": page("/")}}), ("steps", {"steps": "//"}), ("steps", {"steps": [page("/"), None]}), ("steps", {"steps": [page("/"), []]}),
    ("steps", {"steps": [page("/"), {"filters": []}]}), ("steps", {"steps": [page("/"), {"name": "x"}]}), ("steps", {"steps": [page("/"), {"filters": {}}]}),
    ("steps", {"steps": [page("/"), {**page("/"), "more": 1}]}), ("steps", {"steps": [page("/"), {**page("/"), "name": 5}]}),
    ("steps", {"steps": [page("/"), {**page("/"), "name": "x" * 121}]}), ("steps", {"steps": [page("/"), {**page("/"), "name": "a\u0007"}]}),
    ("steps", {"steps": [page("/"), goal("No such")]}), ("steps", {"steps": [page("/"), {"filters": [["is", "segment", [1]]]}]}),
    ("steps", {"steps": [page("/"), {"filters": [["is", "event:nothing", ["x"]]]}]}), ("steps", {"steps": [page("/"), {"filters": [["matches", "event:page", ["("]]]}]}),
    ("steps", {"steps": [page("/"), {"filters": ["is"]}]}), ("steps", {"steps": [page("/"), {"filters": [[["is"], "event:page", ["/"]]]}]}),
    ("steps", {"steps": [page("/"), {"filters": [["is", ["event:page"], [["/"]]]]}]}), ("steps", {"steps": [page("/"), {"filters": [["is", "event:goal", [{}]]]}]}),
    ("order", {"order": "loose"}), ("order", {"order": None}), ("order", {"order": ["any"]}), ("order", {"order": 1}),
    ("window", {"window": 59}), ("window", {"window": 90 * 86_400 + 1}), ("window", {"window": "60"}), ("window", {"window": True}),
    ("window", {"window": -60}), ("window", {"window": [60]}), ("window", {"window": 1e300}), ("unknown", {"unknown": 1})]


@pytest.mark.parametrize("field, body", BAD, ids=str)
def test_a_funnel_that_makes_no_sense_is_refused_by_field(way, field, body):
    assert way.refused("funnels", field, **{"name": "F", "steps": [page("/"), page("/a")]} | body) and way.refused_report(field, **body)
    assert way.call("GET", "/api/funnels?site_id=example.com")["total"] == 0


@pytest.mark.parametrize("field, body", [
    ("name", {"name": ""}), ("name", {"name": 5}), ("name", {"name": "x" * 121}), ("name", {}), ("personal", {"name": "F", "personal": True})], ids=str)
def test_a_funnel_has_a_name_and_is_for_everybody(way, field, body):
    way.refused("funnels", field, **{"steps": [page("/"), page("/a")]} | body)


@pytest.mark.parametrize("field, body", [
    ("site_id", {"site_id": ...}), ("site_id", {"site_id": 5}), ("date_range", {"date_range": ...}), ("date_range", {"date_range": "2d"}), ("filters", {"filters": {}}),
    ("filters", {"filters": [["is", "event:goal", ["No such"]]]}), ("filters", {"filters": [["is"]]}), ("include", {"include": []}), ("include", {"include": {"total_rows": True}}),
    ("include", {"include": 5}), ("include", {"include": {"comparisons": {"mode": "never"}}}), ("include", {"include": {"comparisons": [1]}}),
    ("funnel_id", {"funnel_id": 1}), ("funnel_id", {"funnel_id": "1", "steps": ...}), ("funnel_id", {"funnel_id": 0, "steps": ...}),
    ("funnel_id", {"funnel_id": True, "steps": ...}), ("steps", {"steps": ...}), ("metrics", {"metrics": ["visitors"]})], ids=str)
def test_a_question_that_makes_no_sense_is_refused_by_field(way, field, body):
    way.refused_report(field, **body)


@pytest.mark.parametrize("dimension, value", [("event:page", "/a"), ("visit:os", "Linux"), ("event:props:plan", "pro")])
def test_steps_of_a_thousand_filters_each_are_answered(way, dimension, value):
    way.event("bob", "seen", "/a", p={"plan": "pro"}), way.event("bob", "seen", "/a", p={"plan": "pro"})
    many = way.segment("Many", ["or", [*(["is", dimension, [f"/{number}"]] for number in range(1_100)), ["is", dimension, [value]]]])
    body = {"site_id": "example.com", "date_range": "day", "steps": [{"filters": [["is", "segment", [many]]]}] * 8, "filters": [["is", "event:page", ["/a"]]]}
    assert [step["visitors"] for step in way.call("POST", "/api/funnels/report", body)["steps"]] == [1, 1, 0, 0, 0, 0, 0, 0]


def test_the_mistake_names_its_step(way):
    assert "step 2: " in way.refused_report("steps", steps=[page("/"), goal("No such")])
    assert "step 1 must have filters" in way.refused_report("steps", steps=[{}, page("/")])


# ---- random traffic --------------------------------------------------------------------------------------------------

PLAIN = st.one_of(st.sampled_from(["/", "/a", "/thanks"]).map(lambda each: ["is", "event:page", [each]]), st.just(["starts_with", "event:page", ["/a"]]),
                  st.sampled_from(["pageview", "signup", "buy"]).map(lambda each: ["is", "event:name", [each]]))


@st.composite
def funnels(draw, segments):
    named = st.one_of(st.sampled_from(["G0", "G1"]).map(lambda each: ["is", "event:goal", [each]]), st.sampled_from(segments).map(lambda each: ["is", "segment", [each]]))
    steps = draw(st.lists(st.one_of(PLAIN, PLAIN, named, FILTERS).map(lambda each: {"filters": [each]}), min_size=2, max_size=4))
    if draw(st.booleans()):
        steps[draw(st.integers(0, len(steps) - 1))] = steps[0]
    body = {"steps": steps, "order": draw(st.sampled_from(["any", "strict"])), "window": draw(st.sampled_from([None, None, 60, 600, 4_000, 86_400, 200_000])),
            "period": draw(st.sampled_from(["all", "7d", ["2026-06-01", "2026-06-02"], "day"]))}
    if draw(st.booleans()):
        body["filters"] = [draw(st.one_of(named, FILTERS))]
    if draw(st.booleans()):
        body["include"] = {"comparisons": {"mode": "previous_period"}}
    return body


@MUCH
@given(data=st.data())
def test_funnels_equal_a_naive_recount(tmp_path_factory, data):
    way = Way(tmp_path_factory.mktemp("way"), rotation_hours=data.draw(st.sampled_from([24, 24, 1, 168])))
    with contextlib.closing(way):
        play(way, data.draw(traffic()))
        if data.draw(st.booleans()):
            way.jobs()
        for number, each in enumerate(data.draw(st.lists(GOALS, min_size=2, max_size=2))):
            way.goal(f"G{number}", **each)
        inner = way.segment("S0", *data.draw(st.lists(FILTERS, min_size=1, max_size=2)))
        outer = way.segment("S1", ["or", [["is", "segment", [inner]], ["is", "event:goal", ["G0"]]]])
        for _ in range(5):
            question = data.draw(funnels([inner, outer]))
            way.report(*question.pop("steps"), **question)
