"""Journeys and retention: what they mean, that each equals a naive recount, and what is refused.

As in test_reports.py every question is put to the server and to the oracle, which share no code, and the two must agree.
"""
import contextlib
import dataclasses
import json
from datetime import date, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import mininumbers
import oracle
from test_conversions import FILTERS, GOALS, PAGES, Shop, new_shop, play, shop, traffic  # noqa: F401

pytestmark = pytest.mark.usefixtures("cheap_passwords")

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


# ---- retention -------------------------------------------------------------------------------------------------------

def rotate(shop, hours):
    """Change the site's rotation, which ends the epoch."""
    assert hours != oracle.rotation_at(shop.now, shop.site)
    shop.app.set_site(shop.site.domain, rotation_hours=hours)
    shop.site = dataclasses.replace(shop.site, changes=(*shop.site.changes, (shop.now, hours)))


def retention(shop, interval="day", period="all", **body):
    """The server's answer, after it was found to agree with the oracle's."""
    body = {"date_range": period, "interval": interval, **body}
    answer = shop.call("POST", "/api/retention", {"site_id": shop.site.domain, **body})
    expected = oracle.retention(shop.sent, shop.site, shop.now, body, shop.named)
    given = {"cohorts": answer["cohorts"], "intervals": answer["intervals"], "needs": "needs" in answer}
    assert given == expected, f"\nasked {json.dumps(body)}\nof {shop.site} at {oracle.local(shop.now, shop.site.timezone)}\n{shop.told()}"
    return answer


def cohorts(answer):
    """[(start, [returned …])]"""
    assert all(each["visitors"] == each["returned"][0] for each in answer["cohorts"])
    return [(each["start"], each["returned"]) for each in answer["cohorts"]]


def test_cohorts_are_those_who_first_came_on_a_day_and_columns_the_days_they_were_seen_again(new_shop):
    shop = new_shop(rotation_hours=168)  # from Monday to Sunday
    walk(shop, "ann", "/"), walk(shop, "bob", "/"), shop.wait(days=1)
    walk(shop, "ann", "/"), walk(shop, "cleo", "/"), shop.wait(days=1)
    walk(shop, "ann", "/", "/a"), shop.wait(hours=2), walk(shop, "ann", "/"), walk(shop, "cleo", "/"), shop.wait(days=1)
    assert cohorts(retention(shop)) == [("2026-06-01", [2, 1, 1]), ("2026-06-02", [1, 1, None])]
    shop.at("2026-06-08 00:00:00")
    assert cohorts(retention(shop)) == [("2026-06-01", [2, 1, 1, 0, 0, 0, 0]), ("2026-06-02", [1, 1, 0, 0, 0, 0, None])]


def test_what_lies_beyond_the_end_of_an_epoch_is_not_known(new_shop):
    shop = new_shop(start="2026-06-05 00:00:00", rotation_hours=168)
    for _ in range(6):  # Friday to Wednesday, the week's end between
        walk(shop, "ann", "/"), shop.wait(days=1)
    shop.at("2026-06-15 00:00:00")
    assert cohorts(retention(shop, period=["2026-06-05", "2026-06-09"])) == [("2026-06-05", [1, 1, 1]), ("2026-06-08", [1, 1, None])]


def test_what_is_not_over_is_not_known_though_somebody_was_here(new_shop):
    shop = new_shop(rotation_hours=720)
    walk(shop, "ann", "/"), shop.wait(days=1), walk(shop, "ann", "/")
    assert cohorts(retention(shop)) == [("2026-06-01", [1])]
    shop.at("2026-06-02 23:59:59")
    assert cohorts(retention(shop)) == [("2026-06-01", [1])]
    shop.at("2026-06-03 00:00:00")
    assert cohorts(retention(shop)) == [("2026-06-01", [1, 1])]


def test_weeks_begin_on_monday_and_a_week_with_two_epochs_has_two_cohorts(new_shop):
    shop = new_shop(start="2026-05-04 00:00:00", rotation_hours=720)
    boundary = next(day for day in range(1, 31) if mininumbers.epoch_at(shop.now + day * 86_400, 720, ZoneInfo("UTC"))[0] > mininumbers.epoch_at(shop.now, 720, ZoneInfo("UTC"))[0])
    day, monday = (date(2026, 5, 4) + timedelta(days=boundary), boundary - boundary % 7)
    assert 0 < boundary % 7, "an epoch that ends within a week"
    shop.wait(days=monday), walk(shop, "ann", "/")
    shop.wait(days=boundary - monday), walk(shop, "ann", "/"), walk(shop, "bob", "/")
    shop.wait(days=7), walk(shop, "bob", "/"), shop.wait(days=7)
    assert cohorts(retention(shop, "week")) == [((date(2026, 5, 4) + timedelta(days=monday)).isoformat(), [1, None]), (day.isoformat(), [2, 1])]


def test_who_came_before_the_period_is_in_no_cohort_of_it(new_shop):
    shop = new_shop(rotation_hours=168)
    walk(shop, "ann", "/"), shop.wait(days=2), walk(shop, "ann", "/"), walk(shop, "bob", "/"), shop.wait(days=1), walk(shop, "bob", "/"), shop.wait(days=3)
    assert cohorts(retention(shop, period=["2026-06-02", "2026-06-05"])) == [("2026-06-03", [1, 1, 0])]
    assert cohorts(retention(shop, period=["2026-06-03T00:00:15Z", "2026-06-04T12:00:00Z"])) == [("2026-06-03", [1, 1])]


def test_filters_choose_by_the_first_visit_and_any_return_counts(new_shop):
    shop = new_shop(rotation_hours=168)
    walk(shop, "ann", "/", "/pricing"), walk(shop, "bob", "/"), shop.wait(days=1)
    walk(shop, "ann", "/"), walk(shop, "bob", "/pricing"), shop.wait(days=1)
    assert cohorts(retention(shop, filters=[is_page("/pricing")])) == [("2026-06-01", [1, 1])]
    assert cohorts(retention(shop, filters=[["is", "visit:os", ["Linux"]]])) == [("2026-06-01", [1, 1])]
    assert cohorts(retention(shop, filters=[["has_not_done", is_page("/pricing")]])) == [("2026-06-01", [1, 1])]
    assert cohorts(retention(shop, filters=[is_page("/never")])) == []


def test_a_visit_over_midnight_is_a_return_of_the_next_day_within_an_epoch_and_none_beyond(new_shop):
    shop = new_shop(rotation_hours=168)
    shop.at("2026-06-01 23:59:50"), walk(shop, "ann", "/", "/a", "/b", gap=7)
    shop.at("2026-06-07 23:59:50"), walk(shop, "bob", "/", "/a", "/b", gap=7)  # keeps its visitor, in the next epoch
    shop.at("2026-06-10 00:00:00")
    assert cohorts(retention(shop)) == [("2026-06-01", [1, 1, 0, 0, 0, 0, 0]), ("2026-06-07", [1, None, None, None, None, None, None])]


@pytest.mark.parametrize("rotation, interval, wanted", [(1, "day", 48), (24, "day", 48), (24, "week", 336), (36, "day", 48), (168, "week", 336)])
def test_where_the_rotation_is_too_short_it_says_so_and_what_would_do_at_what_price(new_shop, rotation, interval, wanted):
    shop = new_shop(rotation_hours=rotation)
    for _ in range(3):
        walk(shop, "ann", "/"), shop.wait(days=7 if interval == "week" else 1)
    answer = retention(shop, interval)
    assert (answer["cohorts"], answer["intervals"]) == ([], 0)
    assert (answer["needs"]["rotation_hours"], answer["needs"]["wanted_hours"]) == (rotation, wanted)
    assert mininumbers.say_hours(rotation) in answer["needs"]["reason"] and mininumbers.say_hours(wanted) in answer["needs"]["cost"]


@pytest.mark.parametrize("hours, said", [(1, "1 hour"), (6, "6 hours"), (24, "1 day"), (36, "36 hours"), (48, "2 days"), (168, "1 week"), (336, "2 weeks"), (720, "30 days")])
def test_hours_are_said_as_people_do(hours, said):
    assert mininumbers.say_hours(hours) == said


@pytest.mark.parametrize("interval, rotation", [("day", 48), ("week", 336)])
def test_the_rotation_that_is_said_to_do_does(new_shop, interval, rotation):
    shop = new_shop(rotation_hours=rotation)
    for _ in range(5):
        walk(shop, "ann", "/"), shop.wait(days=7 if interval == "week" else 1)
    returned = [each[1] for _, each in cohorts(retention(shop, interval))]
    assert 1 in returned


def test_with_a_rotation_that_would_do_nobody_is_an_empty_table_and_not_a_need(new_shop):
    assert cohorts(retention(new_shop(rotation_hours=48))) == []
    assert "needs" in retention(new_shop())


def test_an_epoch_that_was_cut_short_is_known_no_further_than_it_went(new_shop):
    shop = new_shop(rotation_hours=168)
    walk(shop, "ann", "/"), shop.wait(days=1), walk(shop, "ann", "/"), shop.wait(days=1, hours=10)
    rotate(shop, 8760)
    assert cohorts(retention(shop)) == [("2026-06-01", [1, 1])]
    shop.wait(hours=1), walk(shop, "ann", "/"), shop.wait(days=1), walk(shop, "ann", "/"), shop.wait(days=2)
    assert cohorts(retention(shop)) == [("2026-06-01", [1, 1, None]), ("2026-06-03", [1, 1, 0])]
    rotate(shop, 24)
    shop.wait(days=1), walk(shop, "ann", "/"), shop.wait(days=3)
    assert cohorts(retention(shop)) == [("2026-06-01", [1, 1, None]), ("2026-06-03", [1, 1, 0]), ("2026-06-07", [1, None, None])]


def test_an_epoch_that_ended_with_a_restart_under_another_rotation_was_not_whole(new_shop):
    shop = new_shop(rotation_hours=720)
    walk(shop, "ann", "/"), shop.wait(hours=30)
    shop.app.store.transact(lambda db: db.execute("update sites set rotation_hours = 168"))  # as a flag does, which no command follows
    shop.restart(), setattr(shop, "site", dataclasses.replace(shop.site, changes=((shop.now, 168),)))
    walk(shop, "ann", "/"), shop.wait(days=9)
    assert cohorts(retention(shop, period=["2026-06-01", "2026-06-05"])) == [("2026-06-01", [1, None, None, None]), ("2026-06-02", [1, 0, 0, 0])]


def test_who_came_on_the_day_of_a_change_is_followed_by_neither_epoch(new_shop):
    shop = new_shop(rotation_hours=168)
    walk(shop, "ann", "/"), shop.wait(hours=1), rotate(shop, 336), walk(shop, "bob", "/"), shop.wait(days=1), walk(shop, "bob", "/"), shop.wait(days=1)
    assert cohorts(retention(shop)) == [("2026-06-01", [2])]


@pytest.mark.parametrize("zone, day", [("Europe/Berlin", "2026-03-29"), ("Europe/Berlin", "2026-10-25"), ("America/Santiago", "2026-09-06"), ("Africa/Cairo", "2026-10-30")])
def test_days_on_which_clocks_change_are_days(new_shop, zone, day):
    first = date.fromisoformat(day) - timedelta(days=2)
    shop = new_shop(start=f"{first} 00:30:00", timezone=zone, rotation_hours=8760)
    for offset in range(5):
        shop.at(f"{first + timedelta(days=offset)} 23:30:00"), walk(shop, "ann", "/")
    shop.wait(days=1)
    returned, = [each for start, each in cohorts(retention(shop)) if start == first.isoformat()]
    assert returned == [1] * 5 and retention(shop, "week")


def test_a_rotation_that_does_not_fall_on_midnight(new_shop):
    shop = new_shop(rotation_hours=60)
    for _ in range(20):
        walk(shop, "ann", "/"), shop.wait(hours=11)
    assert any(1 in each[1:] for _, each in cohorts(retention(shop)))


def test_retention_says_what_was_asked(new_shop):
    answer = retention(new_shop(rotation_hours=168), "week", ["2026-06-01", "2026-06-30"])
    assert (answer["interval"], answer["meta"]) == ("week", {})
    assert answer["query"] == {"site_id": "example.com", "date_range": ["2026-06-01T00:00:00+00:00", "2026-06-30T23:59:59+00:00"], "filters": [], "interval": "week"}


@pytest.mark.parametrize("field, body", [
    ("interval", {"interval": None}), ("interval", {"interval": "month"}), ("interval", {"interval": 7}), ("interval", {"interval": ["day"]}),
    ("interval", {"date_range": ["2020-01-01", "2026-01-01"]}), ("interval", {"interval": "week", "date_range": ["1970-01-02", "2099-01-01"]}),
    ("filters", {"filters": "x"}), ("filters", {"filters": [["is", "event:goal", ["No such"]]]}), ("filters", {"filters": [["is"]]}),
    ("date_range", {"date_range": None}), ("date_range", {"date_range": ["2026-02-30", "2026-03-01"]}), ("steps", {"steps": 3}),
], ids=str)
def test_retention_that_makes_no_sense_is_refused_by_field(shop, field, body):
    answer = shop.call("POST", "/api/retention", {"site_id": "example.com", "date_range": "30d", "interval": "day", **body}, 400)
    assert field in [each["field"] for each in answer["details"]], answer


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


@MUCH
@given(data=st.data())
def test_retention_equals_a_naive_recount(tmp_path_factory, data):
    rotations = st.sampled_from([6, 24, 36, 48, 168, 720])
    shop = Shop(tmp_path_factory.mktemp("shop"), timezone=data.draw(st.sampled_from(["UTC", "America/New_York", "Europe/Berlin"])), rotation_hours=data.draw(rotations),
                start=data.draw(st.sampled_from(["2026-06-01 00:00:00", "2026-03-27 12:00:00", "2026-10-23 12:00:00", "2026-05-14 23:59:00"])))
    gaps = st.sampled_from([0, 60, 1_000, 20_000, 80_000, 200_000])
    with contextlib.closing(shop):
        for _ in range(data.draw(st.integers(1, 3))):
            for gap, who, page in data.draw(st.lists(st.tuples(gaps, st.sampled_from(["ann", "bob", "cleo"]), st.sampled_from(PAGES)), max_size=15)):
                shop.wait(gap), shop.view(who, page)
            shop.wait(1)
            if (hours := data.draw(rotations)) != oracle.rotation_at(shop.now, shop.site):
                rotate(shop, hours), shop.wait(1)
            if data.draw(st.booleans()):
                shop.jobs()
        shop.wait(data.draw(gaps))
        days = [oracle.local(shop.now - back * 86_400, shop.site.timezone).date().isoformat() for back in (9, 2)]
        for interval in ("day", "week"):
            retention(shop, interval)
            retention(shop, interval, days, filters=data.draw(st.lists(FILTERS, max_size=1)))
