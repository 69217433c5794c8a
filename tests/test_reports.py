"""The reports: what every number means, and that each equals a naive recount.

Three kinds of test. The first are hand-computed: a story of a few visitors and the numbers that follow from it. The
second let hypothesis invent traffic and questions. Both put every question to the server and to the oracle
(oracle.py), which share no code, and the two must agree. The third are questions that cannot be answered.

Contents: people and places · the world · numbers · identity and visits · where visits come from · filters · time ·
comparisons · order and pages · late news · random traffic · questions that cannot be answered
"""
from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from webtest import TestApp

import oracle
from mininumbers import Settings, create_app
from oracle import Agent, Sent, Site

pytestmark = pytest.mark.usefixtures("cheap_passwords")

# ---------------------------------------------------------------------------------------------------------------------
# People and places
# ---------------------------------------------------------------------------------------------------------------------

CHROME = Agent("Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
               "Chrome/126.0.0.0 Safari/537.36", "Chrome", "Windows", "Desktop")
FIREFOX = Agent("Mozilla/5.0 (X11; Linux x86_64; rv:127.0) Gecko/20100101 Firefox/127.0",
                "Firefox", "Linux", "Desktop")
IPHONE = Agent("Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) "
               "Version/17.5 Mobile/15E148 Safari/604.1", "Safari", "iOS", "Mobile")

#: Who visits: an address (of a documentation range, so in no country) and a browser. Dan shares Ann's address.
PEOPLE = {"ann": ("192.0.2.1", CHROME), "bob": ("192.0.2.2", FIREFOX), "cleo": ("198.51.100.3", IPHONE),
          "dan": ("192.0.2.1", FIREFOX)}

#: Metrics that count; all others are rounded to two decimals.
COUNTS = {"visitors", "visits", "pageviews", "events"}
POINTS = 0.01

MONDAY = "2026-06-01 00:00:00"

#: A question that has an answer.
GOOD = {"site_id": "example.com", "metrics": ["visitors"], "date_range": "day"}


# ---------------------------------------------------------------------------------------------------------------------
# The world
# ---------------------------------------------------------------------------------------------------------------------


class World:
    """One site, its server with a clock of its own, and the oracle beside it. Each question is put to both."""

    def __init__(self, folder, start=MONDAY, timezone="UTC", rotation_hours=24):
        self.site = Site("example.com", timezone, rotation_hours)
        self.folder = str(folder)
        self.sent = []
        self.now = self.moment(start)
        self.open()
        self.app.setup("owner", "correct horse battery", domain=self.site.domain, timezone=timezone)
        self.app.set_site(self.site.domain, rotation_hours=rotation_hours)
        self.token = self.app.create_token("test")

    def open(self):
        self.app = create_app(Settings(db=os.path.join(self.folder, "t.db"), geoip="", requests_per_token=0), clock=lambda: self.now)
        self.http = TestApp(self.app, extra_environ={"REMOTE_ADDR": "127.0.0.1"})

    def close(self):
        self.app.close()

    def restart(self):
        self.close()
        self.open()

    # -- time ---------------------------------------------------------------------------------------------------------

    def moment(self, text, fold=0):
        """Epoch seconds of the site's local time; `fold=1`: the second time the clock shows it."""
        return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(self.site.timezone), fold=fold).timestamp())

    def at(self, text, fold=0):
        assert self.moment(text, fold) >= self.now, "stories are told in order"
        self.now = self.moment(text, fold)

    def wait(self, seconds=0, **other):
        self.now += int(timedelta(seconds=seconds, **other).total_seconds())

    def jobs(self):
        self.app.run_jobs()

    # -- what visitors send -------------------------------------------------------------------------------------------

    def send(self, person, payload):
        ip, agent = PEOPLE[person]
        payload = {"d": self.site.domain} | payload
        if payload["u"].startswith("/"):
            payload["u"] = "https://example.com" + payload["u"]
        self.sent.append(Sent(self.now, ip, agent, payload))
        answer = self.http.post("/api/event", json.dumps(payload), content_type="text/plain",
                                headers={"User-Agent": agent.text, "X-Forwarded-For": ip})
        assert answer.status_int == 202
        return answer

    def view(self, person, url="/", **fields):
        return self.send(person, {"n": "pageview", "u": url} | fields)

    def event(self, person, name, url="/", **fields):
        return self.send(person, {"n": name, "u": url} | fields)

    def engage(self, person, url="/", seconds=0, depth=None):
        payload = {"n": "engagement", "u": url, "e": int(seconds * 1000)}
        return self.send(person, payload if depth is None else payload | {"sd": depth})

    # -- what the owner asks ------------------------------------------------------------------------------------------

    def post_query(self, body, **options):
        return self.http.post_json("/api/v2/query", body, headers={"Authorization": "Bearer " + self.token}, **options)

    def answer(self, body):
        """The server's answer, after it was found to agree with the oracle's."""
        body = {"site_id": self.site.domain} | body
        answer = self.post_query(body).json
        expected = oracle.query(self.sent, self.site, self.now, body)
        assert_agree(body, answer, expected, (
            f"\nof {self.site} at {oracle.local(self.now, self.site.timezone)} asked {json.dumps(body)}"
            f"\nserver {json.dumps(answer['results'])}\noracle {json.dumps(expected['results'])}\n" + self.told()))
        return answer

    def told(self):
        """What was sent, a line each, for a person to read when server and oracle differ."""
        return "\n".join(f"  {oracle.local(sent.time, self.site.timezone)} {sent.ip} {sent.agent.browser} "
                         f"{json.dumps(sent.payload)}" for sent in self.sent)

    def ask(self, metrics, by=None, period="day", **body):
        """The rows as lists: dimensions first, then metrics. Words are parted by spaces."""
        body |= {"metrics": metrics.split(), "dimensions": (by or "").split(), "date_range": period}
        return [row["dimensions"] + row["metrics"] for row in self.answer(body)["results"]]


def assert_agree(body, answer, expected, question):
    rows, expected_rows = answer["results"], expected["results"]
    assert [row["dimensions"] for row in rows] == [row["dimensions"] for row in expected_rows], question
    for row, wanted in zip(rows, expected_rows):
        assert_numbers(body["metrics"], row["metrics"], wanted["metrics"], question)
        if wanted.get("comparison"):
            before = row["comparison"]
            assert before["dimensions"] == wanted["comparison"]["dimensions"], question
            assert_numbers(body["metrics"], before["metrics"], wanted["comparison"]["metrics"], question)
            assert_changes(body["metrics"], row, wanted, question)
    include = body.get("include") or {}
    if include.get("total_rows"):
        assert answer["meta"]["total_rows"] == expected["total_rows"], question
    if include.get("time_labels") and expected["time_labels"] is not None:
        assert answer["meta"]["time_labels"] == expected["time_labels"], question


def assert_numbers(metrics, got, wanted, question):
    assert len(got) == len(metrics), question
    for metric, this, that in zip(metrics, got, wanted):
        if this is None or that is None or isinstance(that, dict):  # revenue is exact
            assert this == that if isinstance(that, dict) else this is that, f"{metric}{question}"
        else:
            assert abs(this - that) <= (0 if metric in COUNTS else POINTS), f"{metric}{question}"


def assert_changes(metrics, row, wanted, question):
    """A change may be that of the numbers as they are shown or as they were before they were rounded."""
    before = row["comparison"]
    for place, metric in enumerate(metrics):
        if isinstance(row["metrics"][place], dict):
            assert before["change"][place] == pytest.approx(wanted["comparison"]["change"][place], abs=0.1), f"change of {metric}{question}"
            continue
        got, exact = before["change"][place], wanted["comparison"]["change"][place]
        shown = oracle.change(metric, row["metrics"][place], before["metrics"][place])
        assert any(got is may if got is None or may is None else abs(got - may) <= 0.1
                   for may in (exact, shown)), f"change of {metric}{question}"


@pytest.fixture
def new_world(tmp_path):
    """Make worlds; they are closed when the test is over."""
    worlds = []

    def new(**options):
        worlds.append(World(tempfile.mkdtemp(dir=tmp_path), **options))
        return worlds[-1]

    yield new
    for world in worlds:
        world.close()


@pytest.fixture
def world(new_world):
    return new_world()


def page_is(*pages):
    return [["is", "event:page", list(pages)]]


# ---------------------------------------------------------------------------------------------------------------------
# Numbers
# ---------------------------------------------------------------------------------------------------------------------


def test_where_nothing_happened_counts_are_zero_and_means_are_null(world):
    assert world.ask("visitors visits pageviews events views_per_visit bounce_rate visit_duration exit_rate") == [
        [0, 0, 0, 0, 0, 0, None, None]]
    assert world.ask("time_on_page scroll_depth", filters=page_is("/")) == [[None, None]]
    assert world.ask("visitors", by="event:page") == []


def test_visitors_are_people_told_apart_by_address_and_browser(world):
    for person in ("ann", "bob", "cleo", "dan", "ann"):
        world.view(person)
    assert world.ask("visitors visits pageviews") == [[4, 4, 5]]


def test_pageviews_are_events_named_pageview_and_events_are_all(world):
    world.view("ann")
    world.event("ann", "signup")
    world.engage("ann", seconds=5)
    assert world.ask("pageviews events") == [[1, 2]]
    assert world.ask("events", by="event:name") == [["pageview", 1], ["signup", 1]]


def test_views_per_visit_has_two_decimals(world):
    for person, views in (("ann", 1), ("bob", 2), ("cleo", 2)):
        for _ in range(views):
            world.view(person)
    assert world.ask("views_per_visit") == [[1.67]]


def test_a_visit_with_two_pageviews_is_no_bounce(world):
    world.view("ann", "/")
    world.view("bob", "/")
    world.view("bob", "/")
    assert world.ask("bounce_rate") == [[50]]


def test_an_interactive_event_undoes_a_bounce_and_another_does_not(world):
    for person in ("ann", "bob", "cleo"):
        world.view(person)
    world.event("ann", "signup")
    world.event("bob", "seen", i=False)
    world.event("cleo", "signup", i=True)
    assert world.ask("bounce_rate") == [[33.33]]


def test_a_visit_without_a_pageview_is_no_bounce(world):
    world.event("ann", "seen", i=False)
    world.view("bob")
    assert world.ask("bounce_rate visits pageviews") == [[50, 2, 1]]


def test_a_bounce_by_page_is_of_the_visits_that_entered_there(world):
    world.view("ann", "/a")                            # entered at /a, bounced
    world.view("bob", "/a"), world.view("bob", "/b")   # entered at /a, stayed
    world.view("cleo", "/b")                           # entered at /b, bounced
    world.view("dan", "/c"), world.view("dan", "/b")   # entered at /c, went on to /b
    assert world.ask("visits bounce_rate", by="event:page") == [["/b", 3, 100], ["/a", 2, 50], ["/c", 1, 0]]
    assert world.ask("bounce_rate", filters=page_is("/b")) == [[100]]
    assert world.ask("bounce_rate", filters=page_is("/a", "/b")) == [[66.67]]
    assert world.ask("bounce_rate", filters=[["not", ["is", "event:page", ["/a"]]]]) == [[50]]
    assert world.ask("bounce_rate") == [[50]]


def test_a_page_that_nobody_entered_at_has_no_bounces(world):
    world.view("ann", "/a"), world.view("ann", "/b")
    assert world.ask("bounce_rate", filters=page_is("/b")) == [[0]]


def test_has_done_a_page_does_not_make_a_bounce_one_by_page(world):
    world.view("ann", "/a"), world.view("ann", "/b")
    world.view("bob", "/b")
    assert world.ask("visits bounce_rate", filters=[["has_done", ["is", "event:page", ["/b"]]]]) == [[2, 50]]


def test_a_visit_lasts_from_its_first_event_to_its_last_sign_of_life(world):
    world.view("ann", "/a")
    world.view("bob", "/a")
    world.wait(minutes=5)
    world.engage("ann", "/a", seconds=300)
    world.wait(minutes=1)
    world.view("bob", "/b")
    assert world.ask("visit_duration") == [[330]]  # (300 + 360) / 2: five minutes of reading are five minutes
    assert world.ask("visit_duration", by="visit:exit_page") == [["/b", 360], ["/a", 300]]


def test_a_mean_duration_has_two_decimals(world):
    for person in ("ann", "bob", "cleo"):
        world.view(person)
    world.wait(seconds=10)
    world.view("ann")
    assert world.ask("visit_duration") == [[3.33]]


def test_time_on_page_is_engaged_seconds_per_visit_that_saw_the_page(world):
    world.view("ann", "/a")
    world.engage("ann", "/a", seconds=10)
    world.engage("ann", "/a", seconds=5.5)
    world.view("bob", "/a"), world.view("bob", "/b")
    world.engage("bob", "/b", seconds=4)
    assert world.ask("time_on_page", by="event:page") == [["/a", 7.75], ["/b", 4]]
    assert world.ask("time_on_page", filters=page_is("/a", "/b")) == [[9.75]]


def test_a_visit_with_only_an_event_on_a_page_did_not_see_it(world):
    world.view("ann", "/a")
    world.engage("ann", "/a", seconds=10)
    world.event("bob", "signup", "/a")
    assert world.ask("visits time_on_page", by="event:page") == [["/a", 2, 10]]


def test_seeing_a_page_twice_in_a_visit_is_one_visit_that_saw_it(world):
    for seconds in (10, 20):
        world.view("ann", "/a")
        world.engage("ann", "/a", seconds=seconds)
        world.view("ann", "/b")
    assert world.ask("pageviews time_on_page", filters=page_is("/a")) == [[2, 30]]


def test_engagement_goes_to_the_newest_pageview_of_its_page(world):
    world.at("2026-06-01 09:50:00")
    world.view("ann", "/a", p={"turn": "first"})
    world.view("ann", "/b")
    world.at("2026-06-01 10:05:00")
    world.view("ann", "/a", p={"turn": "second"})
    world.engage("ann", "/b", seconds=3)
    world.engage("ann", "/a", seconds=7)
    assert world.ask("time_on_page", by="event:page event:props:turn") == [
        ["/a", "second", 7], ["/b", "(none)", 3], ["/a", "first", 0]]


def test_engagement_counts_at_the_time_of_its_pageview(world):
    world.at("2026-06-01 23:50:00")
    world.view("ann", "/a")
    world.at("2026-06-02 00:05:00")
    world.engage("ann", "/a", seconds=60, depth=70)
    assert world.ask("pageviews time_on_page scroll_depth", filters=page_is("/a")) == [[0, None, None]]
    assert world.ask("pageviews time_on_page scroll_depth", filters=page_is("/a"),
                     period=["2026-06-01", "2026-06-01"]) == [[1, 60, 70]]


def test_engagement_never_starts_a_visit(world):
    world.engage("ann", "/a", seconds=10, depth=50)
    assert world.ask("visitors visits events") == [[0, 0, 0]]


def test_engagement_after_the_visit_has_ended_is_dropped(world):
    world.view("ann", "/a")
    world.wait(seconds=1801)
    world.engage("ann", "/a", seconds=10, depth=50)
    assert world.ask("visits visit_duration time_on_page scroll_depth", filters=page_is("/a")) == [[1, 0, 0, None]]
    world.wait(seconds=1000)
    world.view("ann", "/a")
    assert world.ask("visitors visits") == [[1, 2]]


def test_scroll_depth_is_the_mean_of_each_visits_deepest(world):
    world.view("ann", "/a")
    world.engage("ann", "/a", depth=60)
    world.engage("ann", "/a", depth=20)
    world.view("ann", "/a")
    world.engage("ann", "/a", depth=30)
    world.view("bob", "/a")
    world.engage("bob", "/a", depth=21)
    world.view("cleo", "/a")  # no depth: not in the mean
    assert world.ask("scroll_depth", by="event:page") == [["/a", 40.5]]


def test_exit_rate_is_the_share_of_pageviews_that_ended_a_visit(world):
    world.view("ann", "/a"), world.view("ann", "/b"), world.view("ann", "/a")
    world.view("bob", "/a"), world.view("bob", "/b")
    world.event("bob", "signup", "/a")  # an event is no exit
    assert world.ask("exit_rate", by="event:page") == [["/b", 50], ["/a", 33.33]]
    assert world.ask("exit_rate") == [[40]]


def test_the_exit_rate_of_an_exit_page_is_that_of_the_page(world):
    world.view("ann", "/a"), world.view("ann", "/b"), world.view("ann", "/a")
    world.view("bob", "/a"), world.view("bob", "/b")
    world.event("cleo", "signup", "/c")
    assert world.ask("visits exit_rate", by="visit:exit_page") == [["/a", 1, 33.33], ["/b", 1, 50], ["/c", 1, None]]


def test_percentage_is_of_the_visitors_of_the_question_without_dimensions(world):
    world.view("ann", "/a"), world.view("ann", "/b")
    world.view("bob", "/a")
    world.view("cleo", "/c")
    assert world.ask("visitors percentage", by="event:page") == [["/a", 2, 66.67], ["/b", 1, 33.33], ["/c", 1, 33.33]]
    assert world.ask("percentage", by="event:page", filters=page_is("/a", "/b")) == [["/a", 100], ["/b", 50]]
    assert world.ask("percentage", by="event:page", pagination={"limit": 1, "offset": 1}) == [["/b", 33.33]]


def test_the_page_is_the_decoded_path_and_the_hash_only_on_request(world):
    for url, fields in [("https://example.com", {}), ("https://example.com/?q=1", {}), ("/caf%C3%A9?x=2", {}),
                        ("/app#/list", {}), ("/app#/list?x=1", {"h": 1}), ("/Caf%C3%A9/", {})]:
        world.view("ann", url, **fields)
    assert world.ask("pageviews", by="event:page") == [
        ["/", 2], ["/Café/", 1], ["/app", 1], ["/app#/list", 1], ["/café", 1]]


def test_the_hostname_is_lower_case_and_without_www(world):
    for host in ("example.com", "www.example.com", "WWW.Example.COM", "blog.example.com"):
        world.view("ann", f"https://{host}/")
    assert world.ask("pageviews", by="event:hostname") == [["example.com", 3], ["blog.example.com", 1]]


def test_another_sites_hostname_is_not_counted(world):
    answer = world.view("ann", "https://elsewhere.test/")
    assert answer.headers["X-MiniNumbers-Dropped"] == "hostname"
    assert world.ask("visitors") == [[0]]


def test_properties_are_text_and_come_as_an_object_or_as_json(world):
    world.view("ann", p={"plan": "pro", "seats": 3, "trial": True})
    world.event("ann", "signup", p='{"plan": "pro"}')
    world.view("ann")
    assert world.ask("events", by="event:props:plan") == [["pro", 2], ["(none)", 1]]
    assert world.ask("events", by="event:props:seats event:props:trial") == [["(none)", "(none)", 2], ["3", "true", 1]]


def test_browser_system_and_device_come_from_the_user_agent(world):
    for person in ("ann", "bob", "cleo"):
        world.view(person)
    assert world.ask("visitors", by="visit:browser visit:os visit:device") == [
        ["Chrome", "Windows", "Desktop", 1], ["Firefox", "Linux", "Desktop", 1], ["Safari", "iOS", "Mobile", 1]]


def test_an_unknown_country_is_not_set(world):
    world.view("ann")
    assert world.ask("visitors", by="visit:country") == [["(not set)", 1]]


# ---------------------------------------------------------------------------------------------------------------------
# Identity and visits
# ---------------------------------------------------------------------------------------------------------------------


def test_a_visit_survives_1800_seconds_of_silence_and_not_1801(world):
    world.view("ann")
    world.wait(seconds=1800)
    world.view("ann")
    assert world.ask("visits visitors visit_duration") == [[1, 1, 1800]]
    world.wait(seconds=1801)
    world.view("ann")
    assert world.ask("visits visitors visit_duration") == [[2, 1, 900]]


def test_engagement_keeps_a_visit_alive(world):
    world.view("ann")
    world.wait(seconds=1500)
    world.engage("ann", seconds=1)
    world.wait(seconds=1500)
    world.view("ann")
    assert world.ask("visits visit_duration") == [[1, 3000]]


def test_a_visit_over_midnight_counts_on_both_days_and_is_one(world):
    world.at("2026-06-01 23:50:00")
    world.view("ann", "/a")
    world.at("2026-06-02 00:10:00")
    world.view("ann", "/b")
    both = ["2026-06-01", "2026-06-02"]
    assert world.ask("visitors visits pageviews", by="time:day", period=both) == [
        ["2026-06-01", 1, 1, 1], ["2026-06-02", 1, 1, 1]]
    assert world.ask("visitors visits", period=both) == [[1, 1]]


def test_a_visits_values_are_of_the_whole_visit_at_the_edge_of_a_period(world):
    world.at("2026-06-01 23:50:00")
    world.view("ann", "/a", r="https://t.co/x")
    world.at("2026-06-02 00:10:00")
    world.view("ann", "/b")
    for day in ("2026-06-01", "2026-06-02"):
        assert world.ask("visits visit_duration bounce_rate", period=[day, day],
                         by="visit:entry_page visit:exit_page visit:source") == [["/a", "/b", "X", 1, 1200, 0]]


def test_a_person_is_a_new_visitor_when_the_epoch_has_ended(world):
    world.at("2026-06-01 12:00:00")
    world.view("ann")
    world.at("2026-06-02 12:00:00")
    world.view("ann")
    assert world.ask("visitors", period=["2026-06-01", "2026-06-02"]) == [[2]]


def test_a_person_stays_one_visitor_through_a_long_epoch(new_world):
    # 168 hours are seven days, and 0001-01-01 was a Monday.
    world = new_world(rotation_hours=168)
    for day in ("2026-06-01", "2026-06-04", "2026-06-07", "2026-06-08"):
        world.at(day + " 12:00:00")
        world.jobs()
        world.view("ann")
    assert world.ask("visitors visits", period=["2026-06-01", "2026-06-07"]) == [[1, 3]]
    assert world.ask("visitors visits", period=["2026-06-01", "2026-06-08"]) == [[2, 4]]


def test_six_hour_epochs_end_at_six_noon_and_eighteen(new_world):
    world = new_world(rotation_hours=6)
    for time in ("05:00", "05:59", "06:35", "11:59", "12:40", "18:30", "23:00"):
        world.at(f"2026-06-01 {time}:00")
        world.view("ann")
    assert world.ask("visitors", period=["2026-06-01", "2026-06-01"]) == [[4]]


def test_a_visit_in_progress_goes_on_under_its_visitor_when_the_epoch_ends(world):
    world.at("2026-06-01 23:40:00")
    world.view("ann")
    for minutes in range(6):  # until 01:40, long after the salt of the first day is gone
        world.wait(minutes=20)
        world.jobs()
        world.view("ann")
    two_days = ["2026-06-01", "2026-06-02"]
    assert world.ask("visitors visits visit_duration", period=two_days) == [[1, 1, 7200]]
    world.wait(minutes=31)
    world.view("ann")  # the next visit is of a visitor of the new day
    assert world.ask("visitors visits", period=two_days) == [[2, 2]]


def test_a_visit_in_progress_goes_on_through_several_epochs(new_world):
    world = new_world(rotation_hours=1)
    for _ in range(10):
        world.view("ann")
        world.wait(minutes=25)
        world.jobs()
    assert world.ask("visitors visits pageviews") == [[1, 1, 10]]


def test_the_last_second_for_a_visit_to_go_on_after_the_epoch_is_its_thirtieth_minute(world):
    world.at("2026-06-01 23:59:59")
    world.view("ann"), world.view("bob")
    world.at("2026-06-02 00:29:59")
    world.jobs()
    world.view("ann")
    world.at("2026-06-02 00:30:00")
    world.view("bob")
    assert world.ask("visitors visits", period=["2026-06-01", "2026-06-02"]) == [[3, 3]]


def test_two_that_began_before_the_epochs_end_stay_two_after_it(world):
    world.at("2026-06-01 23:50:00")
    world.view("ann", "/a")
    world.at("2026-06-02 00:05:00")
    world.view("bob", "/b")
    world.view("ann", "/b")
    world.view("dan", "/b")
    assert world.ask("visitors visits") == [[3, 3]]
    assert world.ask("visitors", period=["2026-06-01", "2026-06-02"]) == [[3]]


@pytest.mark.parametrize("hours", [24, 168])
def test_a_restart_of_the_server_ends_no_visit_and_makes_no_visitor(new_world, hours):
    world = new_world(rotation_hours=hours)
    world.at("2026-06-01 23:10:00")
    world.view("ann")
    for _ in range(3):  # until 00:25
        world.wait(minutes=25)
        world.jobs()
        world.restart()
        world.view("ann")
    assert world.ask("visitors visits visit_duration", period=["2026-06-01", "2026-06-02"]) == [[1, 1, 4500]]


def test_an_epoch_of_one_hour_lasts_two_where_the_hour_comes_twice(new_world):
    world = new_world(start="2026-10-25 00:00:00", timezone="Europe/Berlin", rotation_hours=1)
    world.at("2026-10-25 02:05:00")
    world.view("ann")
    world.at("2026-10-25 02:45:00")
    world.jobs()
    world.view("ann")
    world.at("2026-10-25 02:45:00", fold=1)
    world.jobs()
    world.view("ann")
    assert world.ask("visitors visits") == [[1, 3]]
    world.at("2026-10-25 03:20:00")
    world.view("ann")
    assert world.ask("visitors visits") == [[2, 4]]


def test_an_epoch_of_one_hour_lasts_ninety_minutes_where_half_of_it_comes_twice(new_world):
    world = new_world(start="2026-04-05 00:00:00", timezone="Australia/Lord_Howe", rotation_hours=1)
    world.at("2026-04-05 01:10:00")
    world.view("ann")
    world.at("2026-04-05 01:55:00")
    world.jobs()
    world.view("ann")
    world.at("2026-04-05 01:56:00", fold=1)
    world.jobs()
    world.view("ann")
    assert world.ask("visitors visits") == [[1, 3]]


@pytest.mark.parametrize("timezone, day", [
    ("Europe/Berlin", "2026-03-29"), ("America/New_York", "2026-11-01"), ("America/Havana", "2026-11-01"),
    ("Africa/Cairo", "2026-04-24"), ("Africa/Cairo", "2026-10-30")])
def test_an_epoch_of_a_day_is_the_local_day_also_when_clocks_change(new_world, timezone, day):
    eve = (date.fromisoformat(day) - timedelta(days=1)).isoformat()
    world = new_world(start=eve + " 00:00:00", timezone=timezone)
    for moment in (f"{eve} 23:00:00", f"{day} 01:40:00", f"{day} 12:00:00", f"{day} 23:59:59"):
        world.at(moment)
        world.jobs()
        world.view("ann")
    assert world.ask("visitors visits", by="time:day", period=[eve, day]) == [[eve, 1, 1], [day, 1, 3]]
    assert world.ask("visitors", period=[eve, day]) == [[2]]


def test_the_entry_page_is_the_first_events_and_the_exit_page_the_last_pageviews(world):
    world.event("ann", "signup", "/a")
    world.view("ann", "/b"), world.view("ann", "/c")
    world.event("ann", "signup", "/d")
    world.event("bob", "signup", "/a")
    world.event("bob", "signup", "/d")
    assert world.ask("visits", by="visit:entry_page visit:exit_page") == [["/a", "/c", 1], ["/a", "/d", 1]]


# ---------------------------------------------------------------------------------------------------------------------
# Where visits come from
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url, referrer, source, channel", [
    ("/", None, "Direct", "Direct"),
    ("/", "https://example.com/a", "Direct", "Direct"),
    ("/", "https://www.example.com/a", "Direct", "Direct"),
    ("/", "https://www.google.com/", "Google", "Organic Search"),
    ("/", "https://www.google.de/search?q=x", "Google", "Organic Search"),
    ("/", "https://t.co/abc", "X", "Organic Social"),
    ("/", "https://chatgpt.com/", "ChatGPT", "AI Assistants"),
    ("/", "https://www.news.test/item?id=3", "news.test", "Referral"),
    ("/?utm_source=letter&utm_medium=email", "https://t.co/abc", "letter", "Email"),
    ("/?ref=friend", "https://t.co/abc", "friend", "Referral"),
    ("/?source=board&ref=friend", None, "board", "Referral"),
    ("/?utm_source=Letter&source=board", None, "Letter", "Unassigned"),
])
def test_source_and_channel_of(world, url, referrer, source, channel):
    world.view("ann", url, **({"r": referrer} if referrer else {}))
    assert world.ask("visits", by="visit:source visit:channel") == [[source, channel, 1]]


def test_utm_tags_are_kept_as_given(world):
    world.view("ann", "/?utm_source=Letter&utm_medium=Mail&utm_campaign=Spring%20Sale&utm_content=top&utm_term=shoes")
    world.view("bob", "/?utm_campaign=Spring+Sale")
    assert world.ask("visits", by="visit:utm_source visit:utm_medium visit:utm_campaign "
                                  "visit:utm_content visit:utm_term") == [
        ["(not set)", "(not set)", "Spring Sale", "(not set)", "(not set)", 1],
        ["Letter", "Mail", "Spring Sale", "top", "shoes", 1]]


def test_where_a_visit_came_from_is_fixed_by_its_first_event(world):
    world.view("ann", "/", r="https://t.co/abc")
    world.view("ann", "/?utm_source=letter&utm_campaign=spring", r="https://www.google.com/")
    assert world.ask("pageviews", by="visit:source visit:utm_campaign") == [["X", "(not set)", 2]]


# ---------------------------------------------------------------------------------------------------------------------
# Filters
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def shop(world):
    """Ann reads the blog and signs up, Bob looks at prices from Google, Cleo reads two posts from a newsletter."""
    world.view("ann", "/blog")
    world.event("ann", "signup", "/blog", p={"plan": "pro"})
    world.view("bob", "/pricing", r="https://www.google.com/", p={"plan": "Free"})
    world.view("cleo", "/blog/one?utm_source=letter")
    world.view("cleo", "/blog/two")
    return world


@pytest.mark.parametrize("condition, visitors, events", [
    (["is", "event:page", ["/blog"]], 1, 2),
    (["is", "event:page", ["/blog", "/pricing", "/nowhere"]], 2, 3),
    (["is", "event:page", ["/Blog"]], 0, 0),
    (["is", "event:page", ["/Blog"], {"case_sensitive": False}], 1, 2),
    (["is_not", "event:page", ["/blog"]], 2, 3),
    (["is_not", "event:page", ["/blog", "/blog/one"]], 2, 2),
    (["is_not", "event:page", ["/BLOG"], {"case_sensitive": False}], 2, 3),
    (["contains", "event:page", ["blog/"]], 1, 2),
    (["contains", "event:page", ["pric", "/two"]], 2, 2),
    (["contains", "event:page", ["BLOG"]], 0, 0),
    (["contains", "event:page", ["BLOG"], {"case_sensitive": False}], 2, 4),
    (["contains", "visit:source", ["irec"]], 1, 2),
    (["contains", "event:props:plan", ["(non"]], 2, 3),
    (["contains", "event:page", ["%"]], 0, 0),
    (["contains", "event:page", ["b_og"]], 0, 0),
    (["contains_not", "event:page", ["blog"]], 1, 1),
    (["contains_not", "event:page", ["BLOG", "x"], {"case_sensitive": False}], 1, 1),
    (["matches", "event:page", ["^/blog/(one|two)$"]], 1, 2),
    (["matches", "event:page", ["^/pr", "two$"]], 2, 2),
    (["matches", "event:page", ["^/BLOG"]], 0, 0),
    (["matches", "event:page", ["(?i)^/BLOG"]], 2, 4),
    (["matches_not", "event:page", ["^/blog"]], 1, 1),
    (["is", "event:name", ["signup"]], 1, 1),
    (["is", "event:hostname", ["example.com"]], 3, 5),
    (["is", "event:props:plan", ["pro"]], 1, 1),
    (["is", "event:props:plan", ["(none)"]], 2, 3),
    (["is_not", "event:props:plan", ["pro"]], 3, 4),
    (["is", "event:props:plan", ["free"], {"case_sensitive": False}], 1, 1),
    (["contains", "event:props:plan", ["r"]], 2, 2),
    (["is", "event:props:colour", ["red"]], 0, 0),
    (["is", "visit:source", ["Direct"]], 1, 2),
    (["is", "visit:source", ["Google", "letter"]], 2, 3),
    (["is_not", "visit:source", ["Direct"]], 2, 3),
    (["is", "visit:channel", ["Direct"]], 1, 2),
    (["is_not", "visit:channel", ["Direct"]], 2, 3),
    (["is", "visit:channel", ["Direct", "Organic Search"]], 2, 3),
    (["is", "visit:utm_source", ["(not set)"]], 2, 3),
    (["is_not", "visit:utm_source", ["(not set)"]], 1, 2),
    (["contains_not", "visit:utm_source", ["lett"]], 2, 3),
    (["is", "visit:entry_page", ["/blog/one"]], 1, 2),
    (["is", "visit:exit_page", ["/blog/two", "/pricing"]], 2, 3),
    (["is", "visit:browser", ["Firefox"]], 1, 1),
    (["is", "visit:device", ["Mobile"]], 1, 2),
    (["and", [["is", "event:page", ["/blog"]], ["is", "event:name", ["pageview"]]]], 1, 1),
    (["or", [["is", "event:page", ["/pricing"]], ["is", "visit:source", ["letter"]]]], 2, 3),
    (["not", ["or", [["is", "event:page", ["/pricing"]], ["is", "visit:source", ["letter"]]]]], 1, 2),
    (["not", ["not", ["is", "event:page", ["/pricing"]]]], 1, 1),
    (["has_done", ["is", "event:name", ["signup"]]], 1, 2),
    (["has_not_done", ["is", "event:name", ["signup"]]], 2, 3),
    (["has_done", ["and", [["is", "event:name", ["signup"]], ["is", "event:props:plan", ["pro"]]]]], 1, 2),
    (["has_done", ["and", [["is", "event:name", ["pageview"]], ["is", "event:props:plan", ["pro"]]]]], 0, 0),
    (["has_done", ["not", ["is", "event:name", ["pageview"]]]], 1, 2),
    (["or", [["has_done", ["is", "event:page", ["/blog/two"]]], ["is", "event:page", ["/pricing"]]]], 2, 3),
    (["not", ["has_done", ["is", "event:page", ["/blog/two"]]]], 2, 3),
], ids=str)
def test_a_filter_lets_through(shop, condition, visitors, events):
    assert shop.ask("visitors events", filters=[condition]) == [[visitors, events]]


@pytest.mark.parametrize("dimension", [
    "event:page", "event:hostname", "event:name", "event:props:plan", "visit:entry_page", "visit:exit_page",
    "visit:source", "visit:referrer", "visit:channel", "visit:utm_source", "visit:utm_medium", "visit:utm_campaign",
    "visit:utm_content", "visit:utm_term", "visit:device", "visit:browser", "visit:browser_version", "visit:os",
    "visit:os_version", "visit:country", "visit:region", "visit:city", "visit:language", "visit:screen"])
def test_what_a_row_shows_a_filter_finds_again(shop, dimension):
    def rows(*filters):
        body = GOOD | {"metrics": ["visitors", "events"], "dimensions": [dimension], "filters": list(filters)}
        return shop.post_query(body).json["results"]

    everything = rows()
    assert everything
    for row in everything:
        others = [other for other in everything if other is not row]
        assert rows(["is", dimension, row["dimensions"]]) == [row]
        assert rows(["is_not", dimension, row["dimensions"]]) == others
        assert rows(["not", ["is", dimension, row["dimensions"]]]) == others


def test_several_filters_must_all_hold(shop):
    filters = [["is", "visit:source", ["letter"]], ["is", "event:page", ["/blog/two"]]]
    assert shop.ask("visitors pageviews", filters=filters) == [[1, 1]]


def test_it_is_the_visit_that_has_done_something_and_not_the_visitor(world):
    world.view("ann"), world.event("ann", "signup")
    world.wait(hours=1)
    world.view("ann")
    assert world.ask("visits events", filters=[["has_done", ["is", "event:name", ["signup"]]]]) == [[1, 2]]
    assert world.ask("visits events", filters=[["has_not_done", ["is", "event:name", ["signup"]]]]) == [[1, 1]]


def test_an_event_is_done_in_the_period_or_not_at_all(world):
    world.at("2026-06-01 23:50:00")
    world.event("ann", "signup")
    world.at("2026-06-02 00:10:00")
    world.view("ann")
    has_done = [["has_done", ["is", "event:name", ["signup"]]]]
    assert world.ask("visits", filters=has_done) == [[0]]
    assert world.ask("visits events", filters=has_done, period=["2026-06-01", "2026-06-02"]) == [[1, 2]]


# ---------------------------------------------------------------------------------------------------------------------
# Time
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("period, unit, first, last, number", [
    ("day", "hour", "2026-11-23 00:00:00", "2026-11-23 23:00:00", 24),
    ("day", "minute", "2026-11-23 00:00:00", "2026-11-23 23:59:00", 1440),
    ("7d", "day", "2026-11-16", "2026-11-22", 7),
    ("28d", "day", "2026-10-26", "2026-11-22", 28),
    ("30d", "day", "2026-10-24", "2026-11-22", 30),
    ("91d", "day", "2026-08-24", "2026-11-22", 91),
    ("91d", "week", "2026-08-24", "2026-11-16", 13),
    ("month", "day", "2026-11-01", "2026-11-30", 30),
    ("month", "week", "2026-10-26", "2026-11-30", 6),
    ("6mo", "month", "2026-05-01", "2026-10-01", 6),
    ("12mo", "month", "2025-11-01", "2026-10-01", 12),
    ("12mo", "day", "2025-11-01", "2026-10-31", 365),
    ("year", "month", "2026-01-01", "2026-12-01", 12),
    ("all", "day", "2026-09-02", "2026-11-23", 83),
    (["2026-11-01", "2026-11-10"], "week", "2026-10-26", "2026-11-09", 3),
    (["2024-02-28", "2024-03-01"], "day", "2024-02-28", "2024-03-01", 3),
    (["2026-11-23T08:30:00+00:00", "2026-11-23T11:00:00+00:00"], "hour",
     "2026-11-23 08:00:00", "2026-11-23 11:00:00", 4),
])
def test_the_buckets_of_a_period_are_all_there(new_world, period, unit, first, last, number):
    world = new_world(start="2026-09-02 10:00:00")
    world.view("ann")
    world.at("2026-11-23 15:00:00")  # a Monday
    body = {"metrics": ["visitors"], "dimensions": ["time:" + unit], "date_range": period,
            "include": {"time_labels": True, "total_rows": True}}
    answer = world.answer(body)
    names = [row["dimensions"][0] for row in answer["results"]]
    assert (names[0], names[-1], len(names)) == (first, last, number)
    assert answer["meta"]["time_labels"] == names
    assert answer["meta"]["total_rows"] == number


@pytest.mark.parametrize("period, unit", [
    ("day", "hour"), ("7d", "day"), (["2026-11-23", "2026-11-23"], "hour"), (["2026-11-22", "2026-11-23"], "day"),
    (["2026-08-01", "2026-10-31"], "day"), (["2026-08-01", "2026-11-01"], "month"), ("6mo", "month")])
def test_time_alone_means_hours_then_days_then_months(new_world, period, unit):
    world = new_world(start="2026-11-23 15:00:00")
    world.view("ann")
    assert world.ask("visitors", by="time", period=period) == world.ask("visitors", by="time:" + unit, period=period)


def test_empty_buckets_are_filled(world):
    world.at("2026-06-03 12:00:00")
    world.view("ann", "/a")
    assert world.ask("visitors events views_per_visit bounce_rate visit_duration exit_rate percentage", by="time:day",
                     period=["2026-06-02", "2026-06-04"]) == [
        ["2026-06-02", 0, 0, 0, 0, None, None, 0], ["2026-06-03", 1, 1, 1, 100, 0, 100, 100],
        ["2026-06-04", 0, 0, 0, 0, None, None, 0]]


def test_beside_another_dimension_there_are_only_the_buckets_that_exist(world):
    world.view("ann", "/a")
    world.at("2026-06-03 12:00:00")
    world.view("ann", "/b"), world.view("bob", "/a"), world.view("ann", "/b")
    assert world.ask("visitors", by="time:day event:page", period=["2026-06-01", "2026-06-04"]) == [
        ["2026-06-01", "/a", 1], ["2026-06-03", "/a", 1], ["2026-06-03", "/b", 1]]


def test_a_day_of_23_hours_has_no_bucket_for_the_hour_that_was_left_out(new_world):
    world = new_world(start="2026-03-29 00:00:00", timezone="Europe/Berlin")
    world.at("2026-03-29 01:59:59")
    world.view("ann")
    world.wait(seconds=1)
    world.view("ann")
    hours = world.ask("pageviews", by="time:hour")
    assert len(hours) == 23
    assert hours[:4] == [["2026-03-29 00:00:00", 0], ["2026-03-29 01:00:00", 1], ["2026-03-29 03:00:00", 1],
                         ["2026-03-29 04:00:00", 0]]


def test_a_day_of_25_hours_has_two_buckets_for_the_hour_that_came_twice(new_world):
    world = new_world(start="2026-10-25 00:00:00", timezone="Europe/Berlin")
    world.at("2026-10-25 02:30:00")
    world.view("ann")
    world.at("2026-10-25 02:30:00", fold=1)
    world.view("ann"), world.view("ann")
    hours = world.ask("pageviews", by="time:hour")
    assert len(hours) == 25
    assert hours[2:5] == [["2026-10-25 02:00:00", 1], ["2026-10-25 02:00:00+01:00", 2], ["2026-10-25 03:00:00", 0]]
    assert world.ask("pageviews", by="time:day") == [["2026-10-25", 3]]


def test_an_hour_of_which_half_came_twice_has_a_second_bucket_of_half_an_hour(new_world):
    world = new_world(start="2026-04-05 00:00:00", timezone="Australia/Lord_Howe")
    world.at("2026-04-05 01:45:00")
    world.view("ann")
    world.at("2026-04-05 01:45:00", fold=1)
    world.view("ann"), world.view("ann")
    assert world.ask("pageviews", by="time:hour")[1:4] == [
        ["2026-04-05 01:00:00", 1], ["2026-04-05 01:00:00+10:30", 2], ["2026-04-05 02:00:00", 0]]


def test_minutes_of_a_half_hour_that_came_twice_are_told_apart(new_world):
    world = new_world(start="2026-04-05 00:00:00", timezone="Australia/Lord_Howe")
    world.at("2026-04-05 01:45:00")
    world.view("ann")
    world.at("2026-04-05 01:45:00", fold=1)
    world.view("ann"), world.view("ann")
    period = ["2026-04-05T01:45:00+11:00", "2026-04-05T01:45:30+10:30"]
    minutes = world.ask("pageviews", by="time:minute", period=period)
    assert len(minutes) == 31
    assert minutes[0] == ["2026-04-05 01:45:00", 1]
    assert minutes[14:16] == [["2026-04-05 01:59:00", 0], ["2026-04-05 01:30:00+10:30", 0]]
    assert minutes[-1] == ["2026-04-05 01:45:00+10:30", 2]


def test_days_begin_at_the_midnight_of_the_sites_zone(new_world):
    world = new_world(timezone="Asia/Kathmandu")
    world.at("2026-06-01 23:59:59")
    world.view("ann")
    world.wait(seconds=1)
    world.view("bob")
    assert world.ask("visitors", by="time:day", period=["2026-06-01", "2026-06-02"]) == [
        ["2026-06-01", 1], ["2026-06-02", 1]]


def test_a_day_that_was_left_out_of_the_calendar_has_no_bucket(new_world):
    world = new_world(start="2011-12-29 00:00:00", timezone="Pacific/Apia")
    world.at("2011-12-29 23:59:00")
    world.view("ann")
    world.wait(minutes=1)
    world.view("ann")
    assert world.ask("pageviews visits", by="time:day", period=["2011-12-29", "2011-12-31"]) == [
        ["2011-12-29", 1, 1], ["2011-12-31", 1, 1]]


def test_a_week_has_the_name_of_its_monday_and_only_the_days_of_the_period(world):
    for day in ("2026-06-02", "2026-06-07", "2026-06-08", "2026-06-15"):
        world.at(day + " 12:00:00")
        world.view("ann")
    assert world.ask("pageviews", by="time:week", period=["2026-06-03", "2026-06-14"]) == [
        ["2026-06-01", 1], ["2026-06-08", 1]]


def test_a_period_of_moments_includes_its_last_second(world):
    world.at("2026-06-01 10:00:00")
    for _ in range(4):
        world.view("ann")
        world.wait(seconds=1)
    assert world.ask("pageviews", period=["2026-06-01T10:00:01+00:00", "2026-06-01T10:00:02+00:00"]) == [[2]]
    assert world.ask("pageviews", period=["2026-06-01T12:00:01+02:00", "2026-06-01T10:00:02Z"]) == [[2]]
    assert world.ask("pageviews", period=["2026-06-01T10:00:03Z", "2026-06-01T10:00:03Z"]) == [[1]]


def test_buckets_that_have_not_begun_are_left_out_on_request(world):
    world.at("2026-06-01 02:30:00")
    world.view("ann")
    answer = world.answer({"metrics": ["visitors"], "dimensions": ["time:hour"], "date_range": "day",
                           "include": {"time_labels": True, "trim_relative_date_range": True}})
    hours = ["2026-06-01 00:00:00", "2026-06-01 01:00:00", "2026-06-01 02:00:00"]
    assert [row["dimensions"][0] for row in answer["results"]] == hours
    assert answer["meta"]["time_labels"] == hours


def test_the_answer_says_which_period_it_is_of(new_world):
    world = new_world(start="2026-10-25 12:00:00", timezone="Europe/Berlin")
    asked = {"metrics": ["visitors"], "date_range": "day"}
    assert world.answer(asked)["query"]["date_range"] == ["2026-10-25T00:00:00+02:00", "2026-10-25T23:59:59+01:00"]


# ---------------------------------------------------------------------------------------------------------------------
# Comparisons
# ---------------------------------------------------------------------------------------------------------------------


def compared(world, metrics, mode="previous_period", by=None, period="day", **options):
    """Rows as (dimensions and metrics, the earlier ones, changes)."""
    answer = world.answer({"metrics": metrics.split(), "dimensions": (by or "").split(), "date_range": period,
                           "include": {"comparisons": {"mode": mode} | options}})
    return [(row["dimensions"] + row["metrics"],
             row["comparison"]["dimensions"] + row["comparison"]["metrics"], row["comparison"]["change"])
            for row in answer["results"]]


def test_the_previous_period_is_as_many_days_right_before(world):
    for day, views in (("2026-06-01", 1), ("2026-06-02", 2), ("2026-06-03", 4), ("2026-06-04", 8), ("2026-06-05", 16)):
        world.at(day + " 12:00:00")
        for _ in range(views):
            world.view("ann")
    assert compared(world, "pageviews") == [([16], [8], [100])]
    assert compared(world, "pageviews", period=["2026-06-04", "2026-06-05"]) == [([24], [6], [300])]


def test_the_period_before_an_unfinished_month_has_the_days_that_it_has_so_far(world):
    for day in ("2026-06-25", "2026-06-27", "2026-06-30", "2026-07-04"):
        world.at(day + " 12:00:00")
        world.view("ann")
    assert compared(world, "pageviews", period="month") == [([1], [2], [-50])]  # July 1–4 with June 27–30


def test_a_year_before_the_29th_of_february_is_the_28th(new_world):
    world = new_world(start="2023-02-27 00:00:00")
    for day in ("2023-02-27", "2023-02-28", "2023-03-01", "2024-02-29"):
        world.at(day + " 12:00:00")
        world.view("ann")
    assert compared(world, "pageviews", "year_over_year") == [([1], [1], [0])]
    assert compared(world, "pageviews", "year_over_year", period=["2024-02-27", "2024-02-29"]) == [([1], [2], [-50])]


def test_a_custom_comparison_is_with_the_days_it_names(world):
    for day, views in (("2026-06-01", 3), ("2026-06-05", 6)):
        world.at(day + " 12:00:00")
        for _ in range(views):
            world.view("ann")
    assert compared(world, "pageviews", "custom", date_range=["2026-06-01", "2026-06-02"]) == [([6], [3], [100])]


def test_a_change_is_in_percent_or_where_the_number_is_one_in_points(world):
    world.at("2026-06-01 12:00:00")
    for person in ("ann", "bob", "cleo"):
        world.view(person)
    world.at("2026-06-02 12:00:00")
    world.view("ann"), world.view("bob"), world.view("bob"), world.event("bob", "signup")
    assert compared(world, "visitors bounce_rate exit_rate visit_duration") == [
        ([2, 50, 66.67, 0], [3, 100, 100, 0], [-33.3, -50, -33.3, 0])]


def test_from_nothing_to_something_is_no_percentage(world):
    world.at("2026-06-02 12:00:00")
    world.view("ann")
    assert compared(world, "visitors visit_duration") == [([1, 0], [0, None], [None, None])]
    world.at("2026-06-04 12:00:00")
    assert compared(world, "visitors bounce_rate") == [([0, 0], [0, 0], [0, 0])]


def test_rows_are_compared_with_their_namesakes(world):
    world.at("2026-06-01 12:00:00")
    world.view("ann", "/a"), world.view("bob", "/a"), world.view("ann", "/gone")
    world.at("2026-06-02 12:00:00")
    world.view("ann", "/a"), world.view("bob", "/new")
    assert compared(world, "visitors percentage", by="event:page") == [
        (["/a", 1, 50], ["/a", 2, 100], [-50, -50]), (["/new", 1, 50], ["/new", 0, 0], [None, 50])]


def test_buckets_are_compared_one_by_one(world):
    for day, views in (("2026-06-01", 1), ("2026-06-02", 2), ("2026-06-03", 3), ("2026-06-04", 4)):
        world.at(day + " 12:00:00")
        for _ in range(views):
            world.view("ann")
    assert compared(world, "pageviews", by="time:day", period=["2026-06-03", "2026-06-04"]) == [
        (["2026-06-03", 3], ["2026-06-01", 1], [200]), (["2026-06-04", 4], ["2026-06-02", 2], [100])]


def test_time_means_the_same_unit_in_the_period_and_the_one_it_is_compared_with(new_world):
    world = new_world(start="2026-05-30 12:00:00")
    world.view("ann")
    world.at("2026-06-01 12:00:00")
    world.view("ann"), world.view("ann")
    # On the first of a month there is one day to compare the month with; and a day can be compared with two.
    assert compared(world, "pageviews", by="time", period=["2026-06-01", "2026-06-01"], mode="custom",
                    date_range=["2026-05-30", "2026-05-31"])[12] == (
        ["2026-06-01 12:00:00", 2], ["2026-05-30 12:00:00", 1], [100])
    month = world.answer({"metrics": ["pageviews"], "dimensions": ["time"], "date_range": "month",
                          "include": {"comparisons": {"mode": "previous_period"}}})["results"]
    assert [row["dimensions"] for row in month[:2]] == [["2026-06-01"], ["2026-06-02"]]
    assert month[0]["comparison"]["dimensions"] == ["2026-05-31"]


@pytest.mark.parametrize("mode", ["previous_period", "year_over_year"])
def test_a_comparison_matched_by_day_of_week_sets_mondays_beside_mondays(new_world, mode):
    world = new_world(start="2026-06-19 12:00:00")
    answer = world.post_query({
        "site_id": "example.com", "metrics": ["visitors"], "dimensions": ["time:day"],
        "date_range": ["2026-06-09", "2026-06-13"],
        "include": {"comparisons": {"mode": mode, "match_day_of_week": True}}}).json
    days = [(row["dimensions"][0], row["comparison"]["dimensions"][0]) for row in answer["results"]]
    assert len(days) == 5
    for day, earlier in days:
        day, earlier = date.fromisoformat(day), date.fromisoformat(earlier)
        assert day.weekday() == earlier.weekday()
        assert abs((day - earlier).days - (364 if mode == "year_over_year" else 5)) <= 7


# ---------------------------------------------------------------------------------------------------------------------
# Order and pages
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def many_pages(world):
    """Pages a to f, with 1, 2, 3, 1, 2, 3 pageviews."""
    for number, page in enumerate("abcdef"):
        for _ in range(number % 3 + 1):
            world.view("ann", "/" + page)
    return world


def pages_of(rows):
    return "".join(row[0].strip("/") for row in rows)


def test_rows_stand_by_the_first_metric_and_then_by_name(many_pages):
    assert pages_of(many_pages.ask("pageviews", by="event:page")) == "cfbead"
    assert pages_of(many_pages.ask("visitors pageviews", by="event:page")) == "abcdef"


def test_names_stand_in_code_point_order(world):
    for path in ("/b", "/B", "/%C3%A4", "/a", "/Z", "/"):
        world.view("ann", path)
    assert pages_of(world.ask("pageviews", by="event:page")) == "BZabä"


@pytest.mark.parametrize("order, pages", [
    ([["pageviews", "asc"]], "adbecf"), ([["pageviews", "desc"]], "cfbead"), ([["event:page", "desc"]], "fedcba"),
    ([["event:page", "asc"]], "abcdef"), ([["pageviews", "desc"], ["event:page", "desc"]], "fcebda"),
    ([["visitors", "asc"], ["event:page", "desc"]], "fedcba")])
def test_rows_stand_as_asked(many_pages, order, pages):
    assert pages_of(many_pages.ask("visitors pageviews", by="event:page", order_by=order)) == pages


def test_time_goes_forward_unless_asked_otherwise(world):
    world.view("ann")
    days = ["2026-06-01", "2026-06-02", "2026-06-03"]
    asked = {"by": "time:day", "period": [days[0], days[-1]]}
    assert [row[0] for row in world.ask("visitors", **asked)] == days
    assert [row[0] for row in world.ask("visitors", order_by=[["time:day", "desc"]], **asked)] == days[::-1]
    assert [row[0] for row in world.ask("visitors", order_by=[["visitors", "asc"]], **asked)] == days[1:] + days[:1]


@pytest.mark.parametrize("limit", [1, 2, 4, 5, 6, 7])
@pytest.mark.parametrize("order", [None, [["pageviews", "asc"]], [["visitors", "desc"]]])
def test_walking_the_pages_gives_every_row_once_and_in_order(many_pages, limit, order):
    asked = {"by": "event:page", "order_by": order} if order else {"by": "event:page"}
    walked = []
    for offset in range(0, 6 + limit, limit):
        walked += many_pages.ask("visitors pageviews", pagination={"limit": limit, "offset": offset}, **asked)
    assert walked == many_pages.ask("visitors pageviews", **asked)
    assert len(walked) == 6


@pytest.mark.parametrize("direction", ["asc", "desc"])
def test_rows_without_a_number_have_a_place_too(many_pages, direction):
    for page, depth in (("/b", 20), ("/d", 10), ("/e", 20)):
        many_pages.engage("ann", page, depth=depth)
    asked = {"by": "event:page", "order_by": [["scroll_depth", direction]]}
    numbers = [row[1] for row in many_pages.ask("scroll_depth", **asked) if row[1] is not None]
    assert numbers == sorted([10, 20, 20], reverse=direction == "desc")
    walked = [many_pages.ask("scroll_depth", pagination={"limit": 1, "offset": offset}, **asked) for offset in range(6)]
    assert sorted(row[0] for [row] in walked) == ["/a", "/b", "/c", "/d", "/e", "/f"]


def test_total_rows_counts_the_rows_of_all_pages(many_pages):
    answer = many_pages.answer({"metrics": ["visitors"], "dimensions": ["event:page"], "date_range": "day",
                                "include": {"total_rows": True}, "pagination": {"limit": 2, "offset": 1}})
    assert (len(answer["results"]), answer["meta"]["total_rows"]) == (2, 6)


# ---------------------------------------------------------------------------------------------------------------------
# Late news: a finished day is summed up once, and must not be summed up wrong
# ---------------------------------------------------------------------------------------------------------------------

YESTERDAY = ["2026-06-01", "2026-06-01"]


def test_a_finished_day_still_learns_how_its_last_visits_ended(world):
    world.at("2026-06-01 23:59:00")
    world.view("ann", "/a")
    world.at("2026-06-02 00:00:01")
    world.jobs()
    assert world.ask("bounce_rate visit_duration", by="visit:exit_page", period=YESTERDAY) == [["/a", 100, 0]]
    for number in range(5):  # the visit goes on until 02:05
        world.wait(minutes=25)
        world.jobs()
        world.view("ann", "/b")
        assert world.ask("bounce_rate visit_duration exit_rate", by="visit:exit_page", period=YESTERDAY) == [
            ["/b", 0, 61 + 1500 * (number + 1), None]]
    assert world.ask("exit_rate", by="event:page", period=YESTERDAY) == [["/a", 0]]


def test_a_finished_day_still_learns_of_engagement_with_its_pages(world):
    world.at("2026-06-01 23:59:00")
    world.view("ann", "/a")
    world.at("2026-06-02 00:00:01")
    world.jobs()
    asked = {"filters": page_is("/a"), "period": YESTERDAY}
    assert world.ask("time_on_page scroll_depth visit_duration", **asked) == [[0, None, 0]]
    for turn in range(1, 5):
        world.wait(minutes=20)
        world.jobs()
        world.engage("ann", "/a", seconds=100, depth=10 * turn)
        assert world.ask("time_on_page scroll_depth visit_duration", **asked) == [
            [100 * turn, 10 * turn, 61 + 1200 * turn]]


def test_an_answer_is_never_older_than_what_was_sent(world):
    for number in range(1, 4):
        world.view("ann")
        assert world.ask("pageviews time_on_page", filters=page_is("/")) == [[number, 10 * (number - 1)]]
        world.engage("ann", seconds=10)
        assert world.ask("pageviews time_on_page", filters=page_is("/")) == [[number, 10 * number]]


def test_today_is_another_day_right_after_midnight(world):
    world.at("2026-06-01 23:59:50")
    world.view("ann")
    assert world.ask("pageviews") == [[1]]
    world.at("2026-06-02 00:00:00")
    assert world.ask("pageviews") == [[0]]
    assert world.ask("pageviews", period="7d") == [[1]]


def test_days_summed_up_one_by_one_do_not_count_a_visitor_or_visit_twice(new_world):
    world = new_world(rotation_hours=30)
    for day in range(1, 6):
        for time in ("00:10:00", "23:45:00"):
            world.at(f"2026-06-0{day} {time}")
            world.view("ann"), world.view("bob")
            world.jobs()
    world.at("2026-06-08 12:00:00")
    world.jobs()
    # 23:45 and 00:10 are one visit. The block of 30 hours that each began in, counted from the first one here:
    # 0 | 1 2 2 3 | 4, so the third day has only visitors of block 2.
    assert world.ask("visitors visits pageviews", by="time:day", period=["2026-06-01", "2026-06-06"]) == [
        ["2026-06-01", 4, 4, 4], ["2026-06-02", 4, 4, 4], ["2026-06-03", 2, 4, 4], ["2026-06-04", 4, 4, 4],
        ["2026-06-05", 4, 4, 4], ["2026-06-06", 0, 0, 0]]
    assert world.ask("visitors visits pageviews", period="7d") == [[10, 12, 20]]


# ---------------------------------------------------------------------------------------------------------------------
# Random traffic
# ---------------------------------------------------------------------------------------------------------------------

EXAMPLES = int(os.environ.get("REPORT_EXAMPLES", "150"))
#: A story that fails is told in full. Making it as short as can be takes minutes, so that is done on request.
PHASES = [Phase.generate, Phase.shrink] if os.environ.get("REPORT_SHRINK") else [Phase.generate]

#: Days on which clocks change, and some on which they do not.
CALENDAR = [
    ("UTC", "2024-02-29"), ("Asia/Kathmandu", "2026-06-01"), ("Europe/Berlin", "2026-03-29"),
    ("Europe/Berlin", "2026-10-25"), ("America/New_York", "2026-03-08"), ("America/New_York", "2026-11-01"),
    ("Australia/Lord_Howe", "2026-04-05"), ("Australia/Lord_Howe", "2026-10-04"), ("Pacific/Apia", "2011-12-31"),
    ("Pacific/Apia", "2012-04-01"), ("America/Havana", "2026-11-01"), ("Africa/Cairo", "2026-04-24")]

URLS = ["https://example.com/", "https://www.example.com/blog", "https://example.com/blog/?x=1",
        "https://blog.example.com/blog", "https://example.com/caf%C3%A9", "https://example.com/app#/list?x=1",
        "https://elsewhere.test/"]
PAGES = ["/", "/blog", "/blog/", "/café", "/app#/list", "/nowhere"]
ARRIVALS = [("", None), ("", "https://www.google.com/"), ("", "https://t.co/abc"), ("", "https://news.test/item?id=3"),
            ("", "https://example.com/blog"), ("?utm_source=letter&utm_medium=email&utm_campaign=Spring%20Sale", None),
            ("?ref=friend", "https://t.co/abc"), ("?utm_content=top&utm_term=shoes", None)]
PROPS = [{}, {}, {"plan": "pro"}, {"plan": "Free", "seats": 3}, {"seats": True}, '{"plan": "pro"}']

#: What each dimension may show, and so what a filter may name.
VALUES = {
    "event:page": PAGES,
    "event:hostname": ["example.com", "blog.example.com"],
    "event:name": ["pageview", "signup", "seen"],
    "event:props:plan": ["pro", "Free", "PRO", "(none)"],
    "event:props:seats": ["3", "true", "(none)"],
    "visit:entry_page": PAGES,
    "visit:exit_page": PAGES,
    "visit:source": ["Direct", "Google", "X", "news.test", "letter", "friend"],
    "visit:channel": ["Direct", "Organic Search", "Organic Social", "Referral", "Email"],
    "visit:utm_source": ["letter", "(not set)"],
    "visit:utm_campaign": ["Spring Sale", "spring sale", "(not set)"],
    "visit:utm_term": ["shoes", "(not set)"],
    "visit:browser": ["Chrome", "Firefox", "Safari"],
    "visit:os": ["Windows", "Linux", "iOS"],
    "visit:device": ["Desktop", "Mobile"],
    "visit:country": ["(not set)", "SE"],
}
#: Parts of values that are not part of what an absent value is shown as.
PARTS = ["/", "blog", "BLOG", "café", "CAFÉ", "example", "pag", "pro", "3", "Goog", "goog", "letter", "Spring", "esk"]
PATTERNS = ["^/blog", "(?i)^/BLOG/?$", "list$", "^(pro|3)$", "^Goo", "a.?p", "^[A-Z]", "^x?y*z"]

TIMES = ["time", "time:day", "time:week", "time:month", "time:hour", "time:minute", "time:hour_of_week"]
METRICS = ["visitors", "visits", "pageviews", "events", "views_per_visit", "bounce_rate", "visit_duration",
           "percentage", "exit_rate", "time_on_page", "scroll_depth"]
NEEDS_PAGE = {"time_on_page", "scroll_depth"}

GAPS = [0, 1, 30, 30, 600, 600, 900, 1200, 1500, 1799, 1800, 1801, 3600, 10_000, 40_000, 86_400]
SAME_PAGE = ""  # for engagement: the page that the person sent something of before


def few(elements, most=3, least=1):
    return st.lists(st.sampled_from(elements), min_size=least, max_size=most, unique=True)


@st.composite
def leaf_filters(draw, dimensions):
    dimension = draw(st.sampled_from(dimensions))
    kind = draw(st.sampled_from(["is", "contains", "matches"]))
    values = draw(few({"is": VALUES[dimension], "contains": PARTS, "matches": PATTERNS}[kind]))
    condition = [kind + draw(st.sampled_from(["", "_not"])), dimension, values]
    if kind == "matches":  # a pattern says itself what it thinks of case
        return condition
    return condition + draw(st.sampled_from([[], [{"case_sensitive": False}], [{"case_sensitive": True}]]))


def nested(leaves, extra=()):
    return st.recursive(leaves, lambda inner: st.one_of(
        st.tuples(st.sampled_from(["and", "or"]), st.lists(inner, min_size=1, max_size=3)).map(list),
        st.tuples(st.just("not"), inner).map(list), *extra), max_leaves=4)


EVENT_DIMENSIONS = [name for name in VALUES if name.startswith("event:")]
DONE = st.tuples(st.sampled_from(["has_done", "has_not_done"]), nested(leaf_filters(EVENT_DIMENSIONS))).map(list)
FILTERS = (st.just([]) | st.lists(nested(leaf_filters(list(VALUES)), [DONE]), max_size=2)
           | st.lists(DONE, min_size=1, max_size=1))
PERIODS = ["all", "all", "all", "all", "day", "7d", "28d", "30d", "91d", "month", "6mo", "12mo", "year"]


@st.composite
def periods(draw, timezone, day):
    """A date_range near a day. Moments are written with their offset."""
    kind = draw(st.sampled_from(["name", "name", "days", "days", "moments"]))
    if kind == "name":
        return draw(st.sampled_from(PERIODS))
    first = day + timedelta(days=draw(st.sampled_from([-1, -1, 0, 0, 1, 2])))
    if kind == "days":
        return [first.isoformat(), (first + timedelta(days=draw(st.sampled_from([0, 0, 1, 2, 6, 100])))).isoformat()]
    start = oracle.day_start(first, timezone) + draw(st.sampled_from([0, 1, 600, 3600, 9000, 43_205]))
    end = start + draw(st.sampled_from([0, 1800, 7199, 86_399, 200_000]))
    return [oracle.local(moment, timezone).isoformat() for moment in (start, end)]


def is_of_moments(period):
    return isinstance(period, list) and "T" in period[0]


@st.composite
def questions(draw, timezone, day):
    """A body for /api/v2/query that has an answer."""
    period = draw(periods(timezone, day))
    usual = ["event:page", "event:page", "visit:exit_page", "visit:source"]
    dimensions = draw(st.just([]) | st.sampled_from(usual).map(lambda name: [name]) | few(list(VALUES), most=2))
    if draw(st.integers(0, 3)) == 0:
        dimensions = draw(st.sampled_from([[], [], dimensions[:1]])) + [draw(st.sampled_from(TIMES))]
        dimensions = [name for name in dimensions if is_fit(name, period)]
    filters = draw(FILTERS)
    by_page = "event:page" in dimensions or oracle.mentions_page(filters)
    possible = [metric for metric in METRICS if not (
        metric in NEEDS_PAGE and not by_page or metric == "percentage" and not dimensions)]
    metrics = draw(few(possible, least=3, most=8))
    body = {"metrics": metrics, "dimensions": dimensions, "date_range": period, "filters": filters}

    if draw(st.booleans()):
        body["order_by"] = [[name, draw(st.sampled_from(["asc", "desc"]))] for name in draw(few(dimensions + metrics))]
    if draw(st.integers(0, 3)) == 0:
        body["pagination"] = {"limit": draw(st.integers(1, 4)), "offset": draw(st.integers(0, 4))}
    include = {"total_rows": draw(st.booleans())}
    if dimensions and dimensions[-1].startswith("time"):
        include["time_labels"] = True
    comparable = len(dimensions) < 2 or not dimensions[-1].startswith("time")
    if comparable and not is_of_moments(period) and period != "all" and draw(st.booleans()):
        include["comparisons"] = draw(st.sampled_from([
            {"mode": "previous_period"}, {"mode": "year_over_year"},
            {"mode": "custom", "date_range": [(day - timedelta(days=1)).isoformat(), day.isoformat()]}]))
    elif not isinstance(period, list) and draw(st.booleans()):
        include["trim_relative_date_range"] = True
    return body | {"include": include}


def is_fit(dimension, period):
    """Minutes are for a day at most; `time` is for whole days; hours of a year would only be slow."""
    if not dimension.startswith("time"):
        return True
    moments = is_of_moments(period)
    if moments:
        length = timedelta(seconds=oracle.seconds(period[1]) - oracle.seconds(period[0]))
    elif isinstance(period, list):
        length = date.fromisoformat(period[1]) - date.fromisoformat(period[0]) + timedelta(days=1)
    else:
        length = timedelta(days={"day": 1, "7d": 7}.get(period, 400))
    return {"time": not moments, "time:minute": moments and length < timedelta(days=1),
            "time:hour": length <= timedelta(days=7)}.get(dimension, True)


@dataclass(frozen=True)
class Step:
    """After a pause of `gap` seconds `who` does something: `what`, with the rest as far as it needs it."""
    gap: int
    what: str
    who: str = "ann"
    url: str = ""
    fields: tuple = ()
    question: object = None


@st.composite
def steps(draw, timezone, day):
    gap = draw(st.sampled_from(GAPS))
    what = draw(st.sampled_from(["view"] * 6 + ["event"] * 2 + ["engage"] * 4 + ["jobs", "ask", "restart"]))
    if what in ("jobs", "restart"):
        return Step(gap, what)
    if what == "ask":
        return Step(gap, what, question=draw(questions(timezone, day)))
    who = draw(st.sampled_from(["ann", "ann", "ann", "ann", "bob", "bob", "cleo", "dan"]))
    url = draw(st.sampled_from(URLS[:2] + URLS[:2] + URLS))
    fields = {"h": 1} if "#" in url else {}
    if what == "engage":
        url = draw(st.sampled_from([SAME_PAGE, SAME_PAGE, url]))
        fields |= {"n": "engagement", "e": draw(st.sampled_from([0, 800, 1500, 61_250]))}
        fields |= {"sd": draw(st.sampled_from([5, 40, 100]))} if draw(st.booleans()) else {}
        return Step(gap, what, who, url, tuple(fields.items()))
    query, referrer = draw(st.sampled_from(ARRIVALS)) if draw(st.booleans()) else ("", None)
    if query and "?" not in url:
        url += query
    fields |= {"n": "pageview"} if what == "view" else {
        "n": draw(st.sampled_from(["signup", "seen"])), "i": draw(st.booleans())}
    fields |= {"r": referrer} if referrer else {}
    props = draw(st.sampled_from(PROPS))
    fields |= {"p": props} if props else {}
    return Step(gap, what, who, url, tuple(fields.items()))


@dataclass(frozen=True)
class Story:
    timezone: str
    start: str
    rotation_hours: int
    steps: tuple
    wait: int
    questions: tuple


@st.composite
def stories(draw):
    timezone, day = draw(st.sampled_from(CALENDAR))
    day = date.fromisoformat(day)
    start = oracle.day_start(day, timezone) - draw(st.sampled_from([0, 900, 1800, 3000, 7200, 20_000, 90_000, -3000]))
    question = questions(timezone, day)
    return Story(
        timezone, oracle.local(start, timezone).isoformat(), draw(st.sampled_from([1, 5, 6, 24, 30, 168])),
        tuple(draw(st.lists(steps(timezone, day), min_size=8, max_size=30))),
        draw(st.sampled_from([0, 0, 60, 86_400, 3 * 86_400, 20 * 86_400, 370 * 86_400])),
        tuple(draw(st.lists(question, min_size=8, max_size=20))))


def can_be_answered(world, body):
    """Whether the period has a day at all, and its comparison is one with a meaning.

    Samoa's missing day is no period, and nobody can say how many days before it are as many. Future days have a
    comparison only in the current month or year.
    """
    timezone = world.site.timezone
    period = oracle.period_of(body["date_range"], timezone, world.now, [])
    comparison = body["include"].get("comparisons")
    if not comparison or period.start == period.end:
        return period.start < period.end
    if timezone == "Pacific/Apia" and oracle.local(period.start, timezone).year < 2013:
        return False
    if body["date_range"] in ("month", "year") and comparison["mode"] == "previous_period":
        return True
    return period.last <= oracle.local(world.now, timezone).date()


def may_restart(world):
    """Not while a visit outlives its epoch.

    Whose it is only the server's memory knows then: on disk it would link a visitor with the next epoch's.
    """
    visits = oracle.visits_of(world.sent, world.site)
    return all(visit.visitor[1] == oracle.epoch_of(world.now, world.site) for visit in visits
               if world.now - visit.last_sign <= oracle.VISIT_TIMEOUT)


def play(world, step):
    world.wait(step.gap)
    if step.what == "jobs":
        world.jobs()
    elif step.what == "restart":
        if may_restart(world):
            world.restart()
    elif step.what == "ask":
        if can_be_answered(world, step.question):
            world.answer(step.question)
    else:
        fields = {"u": step.url} | dict(step.fields)
        if step.url == SAME_PAGE:
            before = [sent.payload for sent in world.sent if sent.ip == PEOPLE[step.who][0]] or [{"u": "/"}]
            fields |= {key: value for key, value in before[-1].items() if key in ("u", "h")}
        world.send(step.who, fields)


@settings(max_examples=EXAMPLES, deadline=None, database=None, print_blob=True, report_multiple_bugs=False,
          phases=PHASES,
          suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(story=stories())
def test_every_report_equals_a_naive_recount(story):
    with tempfile.TemporaryDirectory() as folder:
        world = World(folder, story.start, story.timezone, story.rotation_hours)
        try:
            for step in story.steps:
                play(world, step)
            world.wait(story.wait)
            for body in story.questions:
                if can_be_answered(world, body):
                    world.answer(body)
            world.wait(seconds=31)  # longer than an answer is kept for
            world.jobs()            # what was summed up in the background says the same
            for body in story.questions:
                if can_be_answered(world, body):
                    world.answer(body)
        finally:
            world.close()


# ---------------------------------------------------------------------------------------------------------------------
# Questions that cannot be answered
# ---------------------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def small_world(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("small"))
    world.view("ann", "/a", p={"plan": "pro"})
    world.event("ann", "signup", "/a")
    yield world
    world.close()


def assert_is_an_error(answer):
    error = answer.json
    assert isinstance(error["error"], str) and " " in error["error"]
    assert isinstance(error["code"], str) and error["code"] == error["code"].lower() and " " not in error["code"]
    assert isinstance(error["details"], list)
    for detail in error["details"]:
        assert {"field", "message"} <= set(detail)


@pytest.mark.parametrize("wrong", [
    {"metrics": ["visitorz"]}, {"metrics": []}, {"metrics": "visitors"}, {"metrics": [1]}, {"metrics": None},
    {"metrics": [["visitors"]]},
    {"dimensions": ["event:colour"]}, {"dimensions": ["page"]}, {"dimensions": ["time:decade"]},
    {"dimensions": ["event:props:"]}, {"dimensions": "event:page"}, {"dimensions": [None]},
    {"filters": [["is_like", "event:page", ["/"]]]}, {"filters": [["is", "event:page"]]},
    {"filters": [["is", "event:colour", ["/"]]]}, {"filters": [["is", "event:page", "/"]]},
    {"filters": [["is", "event:page", [{}]]]}, {"filters": ["is", "event:page", ["/"]]}, {"filters": [[]]},
    {"filters": [["matches", "event:page", ["("]]]}, {"filters": [["and", ["is", "event:page", ["/"]]]]},
    {"filters": [["not"]]}, {"filters": [["not", []]]}, {"filters": [["has_done", "signup"]]}, {"filters": {}},
    {"filters": "event:page==/"},
    {"date_range": "yesterday"}, {"date_range": ["2026-02-30", "2026-03-01"]}, {"date_range": None},
    {"date_range": ["2026-03-02", "2026-03-01"]}, {"date_range": ["2026-03-01"]}, {"date_range": 5},
    {"date_range": ["a", "b"]}, {"date_range": [1, 2]}, {"date_range": []}, {"date_range": {}},
    {"date_range": ["2026-06-01T10:00:00Z", "2026-06-01T09:00:00Z"]}, {"date_range": "0d"}, {"date_range": "-7d"},
    {"metrics": ["time_on_page"]}, {"metrics": ["scroll_depth"]}, {"metrics": ["percentage"]},
    {"metrics": ["time_on_page"], "dimensions": ["visit:entry_page"]},
    {"order_by": [["pageviews", "desc"]]}, {"order_by": [["visitors", "sideways"]]}, {"order_by": [["visitors"]]},
    {"order_by": "visitors"}, {"order_by": [["event:page", "asc"]]},
    {"pagination": {"limit": -1}}, {"pagination": {"limit": "ten"}}, {"pagination": {"offset": -1}},
    {"pagination": 10},
    {"include": []}, {"include": {"comparisons": {"mode": "last_decade"}}},
    {"include": {"comparisons": {"mode": "custom"}}}, {"include": {"comparisons": "previous_period"}},
    {"include": {"comparisons": {"mode": "custom", "date_range": ["2026-02-30", "2026-03-01"]}}},
    {"dimensions": ["time:minute"], "date_range": "30d"},
], ids=str)
def test_what_cannot_be_answered_is_refused_with_a_reason(small_world, wrong):
    answer = small_world.post_query(GOOD | wrong, status=400)
    assert_is_an_error(answer)


@pytest.mark.parametrize("missing", ["metrics", "date_range", "site_id"])
def test_a_question_without_its_main_parts_is_refused(small_world, missing):
    body = {key: value for key, value in GOOD.items() if key != missing}
    answer = small_world.post_query(body, status=400)
    assert_is_an_error(answer)
    assert missing in json.dumps(answer.json)


@pytest.mark.parametrize("body", ["", "{", "[]", "null", "7", '"visitors"', "\xff", '{"metrics": NaN}', "[" * 50_000])
def test_a_body_that_is_no_json_object_is_refused(small_world, body):
    answer = small_world.http.post("/api/v2/query", body.encode("latin-1"), content_type="application/json",
                                   headers={"Authorization": "Bearer " + small_world.token}, status=400)
    assert_is_an_error(answer)


def test_a_question_about_an_unknown_site_is_refused(small_world):
    answer = small_world.post_query(GOOD | {"site_id": "elsewhere.test"}, expect_errors=True)
    assert answer.status_int in (400, 401, 403, 404)
    assert_is_an_error(answer)


def test_a_stranger_is_told_nothing(small_world):
    for headers in ({"Sec-Fetch-Site": "same-origin"}, {"Authorization": "Bearer nonsense"}):
        answer = small_world.http.post_json("/api/v2/query", GOOD, headers=headers, status=401)
        assert_is_an_error(answer)


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8)
    | st.sampled_from(["visitors", "event:page", "event:props:plan", "time:day", "is", "not", "and", "day", "all",
                       "2026-06-01", "9999-12-31", "0001-01-01", "2026-06-01T00:00:00Z", "0001-01-01T00:00:00+14:00",
                       "9999-12-31T23:59:59-12:00", "matches", "(", "desc", "previous_period"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.sampled_from(["mode", "date_range", "limit", "offset", "comparisons", "case_sensitive", "x"]), inner,
        max_size=3),
    max_leaves=12)

FIELDS = ["site_id", "metrics", "date_range", "dimensions", "filters", "order_by", "include", "pagination", "other"]


@st.composite
def spoiled_questions(draw):
    """A good question of which something, somewhere, was replaced by anything."""
    body = json.loads(json.dumps(draw(questions("UTC", date(2026, 6, 1)))))
    for _ in range(draw(st.integers(1, 2))):
        place, key = body, draw(st.sampled_from(FIELDS))
        inner = body.get(key)
        while inner and isinstance(inner, (dict, list)) and draw(st.booleans()):  # go further down
            place, key = inner, draw(st.sampled_from(sorted(inner) if isinstance(inner, dict) else range(len(inner))))
            inner = place[key]
        place[key] = draw(ANY_JSON)
    return {"site_id": "example.com"} | body


@settings(max_examples=4 * EXAMPLES, deadline=None, database=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(body=spoiled_questions() | ANY_JSON | st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, ANY_JSON)))
def test_no_question_breaks_the_server(small_world, body):
    answer = small_world.post_query(body, expect_errors=True)
    assert answer.status_int in (200, 400, 401, 403, 404, 413)
    if answer.status_int == 200:
        assert {"results", "meta", "query"} <= set(answer.json)
    else:
        assert_is_an_error(answer)
