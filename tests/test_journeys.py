"""Journeys and retention: what they mean, that each equals a naive recount, and what is refused.

As in test_reports.py every question is put to the server and to the oracle, which share no code, and the two must agree.
"""
import contextlib
import json

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import oracle
from test_conversions import FILTERS, GOALS, PAGES, Shop, cheap_passwords, new_shop, play, shop, traffic  # noqa: F401

# ---- the world -------------------------------------------------------------------------------------------------------

def is_page(*pages):
    return ["is", "event:page", list(pages)]


def walk(shop, person, *pages, gap=10):
    """A visit, or more of one: pages by their path, events by their name."""
    for each in pages:
        (shop.view if each.startswith("/") else shop.event)(person, *([each] if each.startswith("/") else [each, "/"]))
        shop.wait(gap)


def journey(shop, start, **body):
    """The server's answer, after it was found to agree with the oracle's."""
    body = {"date_range": "day", "start": start, **body}
    answer = shop.call("POST", "/api/journeys", {"site_id": shop.site.domain, **body})
    expected = oracle.journeys(shop.sent, shop.site, shop.now, body, shop.named)
    assert {name: answer[name] for name in expected} == expected, f"\nasked {json.dumps(body)}\nof {shop.named}\n{shop.told()}"
    return answer


def rows(answer):
    """[[(what, visits), …, (how many others, their visits), ended], …] of the steps."""
    return [[*((row["value"], row["visits"]) for row in step["rows"]), tuple(step["other"].values()), step["ended"]] for step in answer["steps"]]


# ---- journeys --------------------------------------------------------------------------------------------------------

def test_a_journey_tells_what_came_next_step_by_step_until_the_visit_ended(shop):
    walk(shop, "ann", "/", "/pricing", "/docs", "signup")
    walk(shop, "bob", "/pricing", "signup")
    walk(shop, "cleo", "/pricing", "/docs")
    walk(shop, "dan", "/docs")
    answer = journey(shop, is_page("/pricing"))
    assert answer["visits"] == 3
    assert rows(answer) == [[("/docs", 2), ("signup", 1), (0, 0), 0], [("signup", 1), (0, 0), 2], [(0, 0), 3]]
    assert [row["dimension"] for row in answer["steps"][0]["rows"]] == ["event:page", "event:name"]
    assert answer["links"] == [[0, 0, -2, 1], [0, 0, 0, 1], [0, 1, -2, 1], [1, 0, -2, 1]]


def test_a_journey_backwards_tells_what_came_before_the_nearest_first(shop):
    walk(shop, "ann", "/", "/docs", "/pricing", "/later")
    walk(shop, "bob", "/docs", "/pricing", "/", "/pricing")
    answer = journey(shop, is_page("/pricing"), direction="previous", steps=2)
    assert rows(answer) == [[("/docs", 2), (0, 0), 0], [("/", 1), (0, 0), 1]]


def test_a_journey_begins_at_the_first_hit_that_passes_and_may_come_back_to_it(shop):
    walk(shop, "ann", "/pricing", "/docs", "/pricing", "signup")
    answer = journey(shop, is_page("/pricing"))
    assert [row["value"] for step in answer["steps"] for row in step["rows"]] == ["/docs", "/pricing", "signup"]


def test_what_is_repeated_at_once_is_told_once_and_the_start_too(shop):
    walk(shop, "ann", "/", "/", "/docs", "/docs", "play", "play", "/docs")
    assert rows(journey(shop, is_page("/"))) == [[("/docs", 1), (0, 0), 0], [("play", 1), (0, 0), 0], [("/docs", 1), (0, 0), 0]]


def test_a_page_and_an_event_of_one_name_are_two(shop):
    walk(shop, "ann", "/", "/x"), walk(shop, "bob", "/"), shop.event("bob", "/x", "/")
    assert [(row["dimension"], row["value"]) for row in journey(shop, is_page("/"))["steps"][0]["rows"]] == [
        ("event:page", "/x"), ("event:name", "/x")]


def test_any_filter_is_a_start(shop):
    shop.goal("Bought", "event", "buy")
    number = shop.segment("On Linux", ["is", "visit:os", ["Linux"]])
    walk(shop, "ann", "/a", "buy", "/thanks"), walk(shop, "bob", "/b", "buy", "/thanks", "/a")
    assert rows(journey(shop, ["is", "event:goal", ["Bought"]], steps=1)) == [[("/thanks", 2), (0, 0), 0]]
    assert rows(journey(shop, ["is", "segment", [number]], steps=1)) == [[("buy", 1), (0, 0), 0]]
    assert rows(journey(shop, ["or", [is_page("/thanks"), ["contains", "event:page", ["b"]]]], steps=1)) == [[("buy", 1), (0, 0), 1]]


def test_filters_choose_visits_whatever_of_them_passes(shop):
    walk(shop, "ann", "/", "/pricing", "/docs"), walk(shop, "bob", "/", "/docs", "/pricing"), walk(shop, "cleo", "/", "/docs")
    assert rows(journey(shop, is_page("/"), filters=[is_page("/pricing")], steps=1)) == [[("/docs", 1), ("/pricing", 1), (0, 0), 0]]
    assert rows(journey(shop, is_page("/"), filters=[["is", "visit:os", ["Linux"]]], steps=1)) == [[("/docs", 1), (0, 0), 0]]
    assert journey(shop, is_page("/"), filters=[is_page("/pricing"), is_page("/docs")])["visits"] == 0  # no hit is both
    assert journey(shop, is_page("/"), filters=[["has_done", is_page("/pricing")], ["has_done", is_page("/docs")]])["visits"] == 2


def test_a_path_narrows_to_the_visits_that_took_it(shop):
    walk(shop, "ann", "/", "/a", "/b"), walk(shop, "bob", "/", "/a", "/c"), walk(shop, "cleo", "/", "/d", "/b")
    assert rows(journey(shop, is_page("/"), path=[["event:page", "/a"]], steps=2)) == [[("/a", 2), (0, 0), 0], [("/b", 1), ("/c", 1), (0, 0), 0]]
    assert rows(journey(shop, is_page("/"), path=[None, ["event:page", "/b"]], steps=2)) == [[("/a", 1), ("/d", 1), (0, 0), 0], [("/b", 2), (0, 0), 0]]
    for nowhere in (["event:page", "/never"], ["event:name", "/a"], ["event:name", "pageview"], ["event:page", ""]):
        assert journey(shop, is_page("/"), path=[nowhere])["visits"] == 0


def test_the_tail_is_one_row_that_says_how_many_it_is(shop):
    for number, person in enumerate(("ann", "bob", "cleo", "dan")):
        walk(shop, person, "/", f"/{number}", "/end")
    answer = journey(shop, is_page("/"), limit=1, steps=2)
    assert rows(answer) == [[("/0", 1), (3, 3), 0], [("/end", 4), (0, 0), 0]]
    assert answer["links"] == [[0, -1, 0, 3], [0, 0, 0, 1]]


def test_visitors_are_told_beside_visits(shop):
    walk(shop, "ann", "/", "/a"), shop.wait(hours=1), walk(shop, "ann", "/", "/a"), walk(shop, "bob", "/", "/a")
    row, = journey(shop, is_page("/"))["steps"][0]["rows"]
    assert (row["visits"], row["visitors"]) == (3, 2)


def test_a_visit_is_followed_over_midnight_from_a_start_within_the_period(shop):
    shop.at("2026-06-01 23:59:00"), walk(shop, "ann", "/a", "/b", "/c", "/d", gap=40)
    shop.wait(hours=1)
    assert rows(journey(shop, is_page("/b"), date_range=["2026-06-01", "2026-06-01"], steps=2)) == [[("/c", 1), (0, 0), 0], [("/d", 1), (0, 0), 0]]
    assert rows(journey(shop, is_page("/c"), direction="previous", steps=2)) == [[("/b", 1), (0, 0), 0], [("/a", 1), (0, 0), 0]]
    assert journey(shop, is_page("/b"))["visits"] == 0
    assert journey(shop, is_page("/c"), date_range=["2026-06-01", "2026-06-01"])["visits"] == 0


def test_what_came_in_one_second_keeps_its_order(shop):
    walk(shop, "ann", "/", "/z", "/a", "b", "/a", gap=0)
    assert [row["value"] for step in journey(shop, is_page("/"), steps=4)["steps"] for row in step["rows"]] == ["/z", "/a", "b", "/a"]


def test_ten_steps_and_no_more(shop):
    walk(shop, "ann", *(f"/{number}" for number in range(13)))
    answer = journey(shop, is_page("/0"), steps=10)
    assert [step["rows"][0]["value"] for step in answer["steps"]] == [f"/{number}" for number in range(1, 11)]
    assert answer["steps"][9]["ended"] == 0


def test_where_nothing_was_seen_every_step_is_empty(shop):
    nothing = {"rows": [], "other": {"values": 0, "visits": 0}, "ended": 0}
    for start in (is_page("/"), ["not", is_page("/never")]):
        answer = journey(shop, start, date_range="all")
        assert (answer["visits"], answer["steps"], answer["links"]) == (0, [nothing] * 3, [])
    walk(shop, "ann", "/")
    assert journey(shop, is_page("/never"))["steps"] == [nothing] * 3
    assert rows(journey(shop, ["not", is_page("/never")])) == [[(0, 0), 1]] * 3


def test_a_journey_says_what_was_asked(shop):
    answer = journey(shop, is_page("/"), filters=[["is", "visit:os", ["Linux"]]], path=[None], limit=2)
    assert answer["meta"] == {} and answer["query"] == {
        "site_id": "example.com", "date_range": ["2026-06-01T00:00:00+00:00", "2026-06-01T23:59:59+00:00"], "filters": [["is", "visit:os", ["Linux"]]],
        "start": is_page("/"), "direction": "next", "steps": 3, "limit": 2, "path": [None]}


@pytest.mark.parametrize("field, body", [
    ("steps", {"steps": 0}), ("steps", {"steps": 11}), ("steps", {"steps": "3"}), ("steps", {"steps": True}), ("steps", {"steps": [3]}),
    ("limit", {"limit": 0}), ("limit", {"limit": 101}), ("limit", {"limit": {}}), ("direction", {"direction": "up"}), ("direction", {"direction": None}),
    ("direction", {"direction": ["next"]}), ("path", {"path": [None] * 4}), ("path", {"path": [["event:page", "/"]] * 2, "steps": 1}), ("path", {"path": {}}),
    ("path", {"path": "/"}), ("path", {"path": [["event:page"]]}), ("path", {"path": [["visit:os", "Linux"]]}), ("path", {"path": [["event:page", 5]]}),
    ("path", {"path": [["event:page", "/" * 2001]]}), ("path", {"path": [{}]}), ("path", {"path": [0]}), ("start", {"start": None}), ("start", {"start": []}),
    ("start", {"start": "/"}), ("start", {"start": {}}), ("start", {"start": ["is"]}), ("start", {"start": [is_page("/")]}), ("start", {"start": ["is", "event:nothing", ["x"]]}),
    ("start", {"start": ["is", "event:goal", ["No such"]]}), ("start", {"start": ["is", "segment", [1]]}), ("start", {"start": ["matches", "event:page", ["("]]}),
    ("filters", {"filters": {}}), ("filters", {"filters": [["is"]]}), ("filters", {"filters": [["is", "event:goal", ["No such"]]]}),
    ("date_range", {"date_range": None}), ("date_range", {"date_range": "ever"}), ("date_range", {"date_range": 7}), ("metrics", {"metrics": ["visitors"]}),
], ids=str)
def test_a_journey_that_makes_no_sense_is_refused_by_field(shop, field, body):
    answer = shop.call("POST", "/api/journeys", {"site_id": "example.com", "date_range": "day", "start": is_page("/"), **body}, 400)
    assert field in [each["field"] for each in answer["details"]], answer


def test_filters_as_deep_as_may_be_are_no_deeper_for_choosing_visits(shop):
    deep = is_page("/a")
    for _ in range(16):
        deep = ["not", deep]
    walk(shop, "ann", "/", "/a")
    assert journey(shop, deep, filters=[deep])["visits"] == 1


def test_an_answer_is_not_kept_beyond_a_change_of_a_goal_or_of_the_data(shop):
    made = shop.goal("Bought", "event", "buy")
    walk(shop, "ann", "buy", "/thanks", "pay", "/bye")
    assert rows(journey(shop, ["is", "event:goal", ["Bought"]], steps=1)) == [[("/thanks", 1), (0, 0), 0]]
    shop.named.goals["Bought"] = shop.call("PATCH", f"/api/goals/{made['id']}", {"value": "pay"})
    assert rows(journey(shop, ["is", "event:goal", ["Bought"]], steps=1)) == [[("/bye", 1), (0, 0), 0]]
    walk(shop, "bob", "pay")
    assert rows(journey(shop, ["is", "event:goal", ["Bought"]], steps=1)) == [[("/bye", 1), (0, 0), 1]]


# ---- random traffic --------------------------------------------------------------------------------------------------

MUCH = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), phases=set(Phase) - {Phase.explain})
NODES = st.one_of(st.none(), st.tuples(st.just("event:page"), st.sampled_from(PAGES)).map(list),
                  st.tuples(st.just("event:name"), st.sampled_from(["signup", "buy"])).map(list))


@st.composite
def journeys(draw, segment):
    named = st.sampled_from([["is", "event:goal", ["G0"]], ["is", "segment", [segment]], ["is_not", "event:goal", ["G0"]]])
    steps = draw(st.sampled_from([1, 2, 3, 10]))
    return {"start": draw(st.one_of(FILTERS, st.sampled_from(PAGES).map(is_page), named)), "filters": draw(st.lists(st.one_of(FILTERS, named), max_size=2)),
            "steps": steps, "limit": draw(st.sampled_from([1, 2, 8])), "direction": draw(st.sampled_from(["next", "previous"])),
            "path": draw(st.lists(NODES, max_size=min(2, steps))), "date_range": draw(st.sampled_from(["all", "7d", ["2026-06-01", "2026-06-01"], "day"]))}


@MUCH
@given(data=st.data())
def test_journeys_equal_a_naive_recount(tmp_path_factory, data):
    shop = Shop(tmp_path_factory.mktemp("shop"), timezone=data.draw(st.sampled_from(["UTC", "America/New_York"])))
    with contextlib.closing(shop):
        play(shop, data.draw(traffic()))
        if data.draw(st.booleans()):
            shop.jobs()
        shop.goal("G0", **data.draw(GOALS))
        segment = shop.segment("S0", *data.draw(st.lists(FILTERS, min_size=1, max_size=2)))
        for _ in range(4):
            body = data.draw(journeys(segment))
            journey(shop, body.pop("start"), **body)
