"""Who a visitor is, for how long, and what of them is kept: epochs, salts, hashes, privacy modes.

Contents: the hash · epochs, against a calendar of our own · rotation, as visitors live it · a visit over the end of an epoch ·
the life of a salt · changes of zone and rotation · modes · visitors who ask for privacy
"""
import contextlib
import dataclasses
import functools
import hashlib
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from conftest import CHROME, Site
from hypothesis import given, settings as hypothesis_settings
from hypothesis import strategies as st

import mininumbers
from mininumbers import create_app, epoch_at, rotate_salts, settle_visits

HOUR, DAY, TIMEOUT = 3600, 86_400, 1800
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:127.0) Gecko/20100101 Firefox/127.0"


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """Jobs run when a test says so, and passwords are not what is tested here."""
    monkeypatch.setattr(mininumbers.Scheduler, "start", lambda self: None)
    monkeypatch.setitem(mininumbers.SCRYPT, "n", 16)


def at(text, zone="UTC"):
    """The unix second of a local date and time."""
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp())


def rows(app, query, *values):
    return app.store.reader().execute(query, values).fetchall()


def visitors(app):
    """The visitor of each visit, in the order of their beginnings."""
    return [visitor for visitor, in rows(app, "select visitor from visits order by id, site_id")]


def salts(app):
    return [salt for salt, in rows(app, "select salt from salts order by site_id, ends_at")]


def add_site(app, domain="other.example", **values):
    app.add_site(domain, **values)
    return Site(app, domain)


# ---- the hash --------------------------------------------------------------------------------------------------------

def expected_visitor(salt, address, agent):
    """The definition of DESIGN, written down a second time."""
    return int.from_bytes(hashlib.blake2b(f"{address}|{agent}".encode(), key=salt, digest_size=8).digest(), "big", signed=True)


@pytest.mark.parametrize("sent, hashed", [
    ("192.0.2.7", "192.0.2.7"),
    ("2001:db8::7", "2001:db8::7"),
    ("2001:0DB8:0:0::7", "2001:db8::7"),
    ("::ffff:192.0.2.7", "192.0.2.7"),
])
def test_a_visitor_is_blake2b_of_address_and_user_agent_under_the_sites_salt(app, site, sent, hashed):
    site.send(ip=sent)
    assert visitors(app) == [expected_visitor(salts(app)[0], hashed, CHROME)]


def test_only_the_first_512_characters_of_a_user_agent_count(app, site):
    for ending in ("a", "b"):
        site.send(agent=CHROME + " " * (512 - len(CHROME)) + ending)
    assert visitors(app) == [expected_visitor(salts(app)[0], "192.0.2.1", CHROME + " " * (512 - len(CHROME)))]


def test_address_and_browser_together_make_a_visitor(app, site):
    for ip, agent in (("192.0.2.1", CHROME), ("192.0.2.1", FIREFOX), ("192.0.2.2", CHROME), ("192.0.2.1", CHROME)):
        site.send(ip=ip, agent=agent)
    assert len(set(visitors(app))) == len(visitors(app)) == 3


def test_two_sites_cannot_be_joined(app, site):
    add_site(app, hostnames="example.com")
    site.send(d="example.com,other.example")
    one, other = visitors(app)
    assert one != other
    assert len(set(salts(app))) == 2


def test_a_salt_is_32_random_bytes_of_its_own(app, site, clock):
    for _ in range(20):
        site.send()
        clock.advance(DAY)
    assert {len(salt) for salt in salts(app)} == {32}
    assert len(set(salts(app))) == 20


def test_a_site_without_traffic_has_no_salt(app, site):
    add_site(app)
    site.send()
    assert len(salts(app)) == 1


# ---- epochs, against a calendar of our own ---------------------------------------------------------------------------

STEP = 900  # seconds; every offset of today's zones is a multiple
ZONES = ["UTC", "Europe/Berlin", "Europe/Dublin", "America/New_York", "America/Havana", "America/Santiago", "America/Nuuk",
         "America/St_Johns", "Asia/Kathmandu", "Asia/Beirut", "Africa/Cairo", "Africa/Casablanca", "Australia/Lord_Howe",
         "Pacific/Kiritimati", "Pacific/Apia", "Pacific/Marquesas"]
ROTATIONS = [1, 5, 6, 24, 30, 168]


def block(second, rotation, zone):
    """Which block of `rotation` hours the clock on the wall shows, counted from 0001-01-01."""
    wall = datetime.fromtimestamp(second, ZoneInfo(zone)).replace(tzinfo=None)
    return (wall - datetime(1, 1, 1)) // timedelta(hours=rotation)


def next_block(second, rotation, zone):
    """The first moment after `second` at which the wall clock shows a later block: sought step by step."""
    moment = second - second % STEP + STEP
    while block(moment, rotation, zone) <= block(second, rotation, zone):
        moment += STEP
    return moment


@functools.lru_cache(maxsize=None)
def changes(zone, year=2026):
    """The moments of a year at which a zone's clocks change, to the hour."""
    start, offset = at(f"{year}-01-01"), lambda second: datetime.fromtimestamp(second, ZoneInfo(zone)).utcoffset()
    return [second for second in range(start, start + 365 * DAY, HOUR) if offset(second) != offset(second - HOUR)]


@st.composite
def moments(draw):
    """(zone, rotation, second), half of them near a change of the clocks."""
    zone, rotation = draw(st.sampled_from(ZONES)), draw(st.sampled_from(ROTATIONS))
    near = changes(zone)
    anywhere = st.integers(at("2026-01-01"), at("2026-12-31"))
    around = st.sampled_from(near or [at("2026-03-29")]).flatmap(lambda change: st.integers(change - 30 * HOUR, change + 30 * HOUR))
    return zone, rotation, draw(anywhere | around)


@hypothesis_settings(max_examples=250, deadline=None)
@given(moments())
def test_an_epoch_ends_when_the_wall_clock_shows_the_next_block(moment):
    zone, rotation, second = moment
    epoch, ends_at = epoch_at(second, rotation, ZoneInfo(zone))
    assert ends_at == next_block(second, rotation, zone)
    assert epoch == block(second, rotation, zone)


@hypothesis_settings(max_examples=250, deadline=None)
@given(moments())
def test_epochs_follow_each_other_without_gap_or_overlap(moment):
    zone, rotation, second = moment
    epoch, ends_at = epoch_at(second, rotation, ZoneInfo(zone))
    following, later = epoch_at(ends_at, rotation, ZoneInfo(zone))
    assert second < ends_at < later
    assert epoch < following
    assert epoch_at(ends_at - 1, rotation, ZoneInfo(zone)) == (epoch, ends_at)


@pytest.mark.parametrize("zone, rotation, during, ends", [
    ("Europe/Berlin", 24, "2026-03-29 12:00", "2026-03-30 00:00"),     # 23 hours
    ("Europe/Berlin", 24, "2026-10-25 12:00", "2026-10-26 00:00"),     # 25 hours
    ("Asia/Kathmandu", 24, "2026-07-01 23:59", "2026-07-02 00:00"),    # +05:45
    ("Asia/Kathmandu", 6, "2026-07-01 05:59", "2026-07-01 06:00"),
    ("Australia/Lord_Howe", 24, "2026-04-05 01:45", "2026-04-06 00:00"),  # half an hour back
    ("Australia/Lord_Howe", 1, "2026-04-05 01:15", "2026-04-05 02:00"),
    ("America/Havana", 24, "2026-03-07 23:00", "2026-03-08 01:00"),    # there is no midnight on the 8th
    ("America/Havana", 24, "2026-11-01 00:30", "2026-11-02 00:00"),    # 00:30 comes twice
    ("Africa/Cairo", 24, "2026-04-23 12:00", "2026-04-24 01:00"),
    ("Asia/Beirut", 24, "2026-03-28 12:00", "2026-03-29 01:00"),
    ("Pacific/Apia", 24, "2011-12-29 12:00", "2011-12-31 00:00"),      # there is no 30th
    ("UTC", 168, "2026-03-04 12:00", "2026-03-09 00:00"),              # weeks begin on Monday
    ("America/New_York", 168, "2026-03-04 12:00", "2026-03-09 00:00"),
    ("UTC", 8760, "2026-03-04 12:00", "2026-08-28 00:00"),          # 2,027 times 365 days after 0001-01-01
])
def test_epochs_are_counted_from_local_midnight(zone, rotation, during, ends):
    assert epoch_at(at(during, zone), rotation, ZoneInfo(zone))[1] == at(ends, zone)


BACK_OVER_AN_END = [("Antarctica/Troll", 1, "2026-10-25 01:30"), ("Antarctica/Troll", 2, "2026-10-25 01:30"),
                    ("Pacific/Chatham", 1, "2026-04-05 02:50"), ("Pacific/Chatham", 3, "2026-04-05 02:50")]


def second_time(text, zone):
    """The moment at which a local time that comes twice comes again."""
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=1).timestamp())


@pytest.mark.parametrize("zone, rotation, again", BACK_OVER_AN_END)
def test_an_epoch_ends_later_than_now_where_clocks_go_back_over_its_end(zone, rotation, again):
    second = second_time(again, zone)
    assert epoch_at(second, rotation, ZoneInfo(zone))[1] > second


@pytest.mark.parametrize("zone, rotation, again", BACK_OVER_AN_END)
def test_a_visitor_stays_one_where_clocks_go_back_over_the_end_of_an_epoch(app, clock, zone, rotation, again):
    site = add_site(app, timezone=zone, rotation_hours=rotation)
    clock.set(second_time(again, zone))
    for seconds in (0, 60, 120):
        clock.set(second_time(again, zone) + seconds)
        site.send()
    assert len(visitors(app)) == 1


# ---- rotation, as visitors live it -----------------------------------------------------------------------------------

@pytest.mark.parametrize("zone", ["UTC", "Asia/Kathmandu", "Australia/Lord_Howe", "America/Havana"])
@pytest.mark.parametrize("rotation", [1, 5, 6, 24, 30, 168])
def test_a_person_is_one_visitor_within_an_epoch_and_another_after_it(app, clock, rotation, zone):
    site = add_site(app, timezone=zone, rotation_hours=rotation)
    begins = next_block(at("2026-03-05 12:00"), rotation, zone)
    ends = next_block(begins, rotation, zone)
    for second in (begins, ends - 1, ends + TIMEOUT):
        clock.set(second)
        site.send()
    first, last, after = visitors(app)
    assert first == last != after


def test_a_rotation_of_a_year_keeps_a_visitor_for_365_days(app, clock):
    site = add_site(app, rotation_hours=8760)
    for day in ("2025-08-28 00:00", "2026-01-01 12:00", "2026-08-27 23:59", "2026-08-28 00:30"):
        clock.set(at(day))
        site.send()
    assert [visitors(app).count(each) for each in visitors(app)] == [3, 3, 3, 1]


@pytest.mark.parametrize("zone, day, hours", [
    ("Europe/Berlin", "2026-03-29", 23), ("Europe/Berlin", "2026-10-25", 25), ("Europe/Berlin", "2026-06-01", 24),
    ("America/Havana", "2026-03-08", 23), ("America/Havana", "2026-11-01", 25), ("Asia/Kathmandu", "2026-03-29", 24),
    ("Australia/Lord_Howe", "2026-04-05", 24.5), ("Australia/Lord_Howe", "2026-10-04", 23.5),
])
def test_by_default_a_visitor_lasts_for_the_local_day(app, clock, zone, day, hours):
    site = add_site(app, timezone=zone)
    begins = at(f"{day} 00:00", zone)
    last = begins + int(hours * HOUR) - 1
    for second in (begins - 1, begins + TIMEOUT, last, last + 1 + TIMEOUT):
        clock.set(second)
        site.send()
    before, first, second, after = visitors(app)
    assert first == second
    assert len({before, first, after}) == 3


def test_reports_count_a_person_once_in_an_epoch_and_again_in_the_next(app, site, clock):
    for second in (at("2026-03-02 08:00"), at("2026-03-02 20:00"), at("2026-03-03 08:00")):
        clock.set(second)
        site.send()
    assert site.numbers("visitors", "visits", date_range=["2026-03-02", "2026-03-03"]) == [2, 3]


def test_a_visitor_is_unlinkable_after_rotation(app, site, clock):
    clock.set(at("2026-03-02 23:00"))
    site.send()
    known = expected_visitor(salts(app)[0], "192.0.2.1", CHROME)
    assert visitors(app) == [known]
    clock.set(at("2026-03-03 09:00"))
    rotate_salts(app)
    site.send()
    assert len(salts(app)) == 1
    assert known not in {expected_visitor(salt, "192.0.2.1", CHROME) for salt in salts(app)}


# ---- a visit over the end of an epoch --------------------------------------------------------------------------------

def browse(app, site, clock, begins, minutes, **more):
    """One visitor looks at a page at each of the minutes after `begins`, while the jobs go about their work."""
    for minute in minutes:
        clock.set(begins + minute * 60)
        rotate_salts(app)
        settle_visits(app)
        site.send(f"/{minute}", **more)


@pytest.mark.parametrize("rotation, minutes", [
    (24, [0, 20, 40]),                                   # within the grace of the salt
    (24, range(0, 240, 25)),                             # hours beyond it
    (1, range(0, 360, 29)),                              # over six epochs
    (1, range(0, 360, 30)),                              # with the longest gaps a visit can have
    (6, [0, 30, 60, 90]),
])
def test_a_visit_in_progress_over_the_end_of_epochs_is_one_visit_of_one_visitor(app, clock, rotation, minutes):
    site = add_site(app, rotation_hours=rotation)
    browse(app, site, clock, at("2026-03-02 23:50"), minutes)
    assert len(visitors(app)) == 1
    assert rows(app, "select pageviews, duration from visits") == [(len(minutes), max(minutes) * 60)]
    assert site.numbers("visitors", "visits", "pageviews", date_range=["2026-03-02", "2026-03-03"]) == [1, 1, len(minutes)]


def test_once_such_a_visit_has_ended_the_person_is_a_new_visitor(app, site, clock):
    browse(app, site, clock, at("2026-03-02 23:50"), [0, 20, 40])
    clock.advance(TIMEOUT + 1)
    site.send()
    first, second = visitors(app)
    assert first != second


def test_the_new_visitor_is_the_same_for_the_rest_of_the_epoch(app, site, clock):
    browse(app, site, clock, at("2026-03-02 23:50"), [0, 20, 40, 120, 300, 900])
    first, *others = visitors(app)
    assert len(others) == 3
    assert set(others) == {expected_visitor(salts(app)[0], "192.0.2.1", CHROME)}
    assert first not in others


@pytest.mark.parametrize("gap, visits", [(TIMEOUT, 1), (TIMEOUT + 1, 2)])
def test_half_an_hour_of_silence_over_the_end_of_an_epoch_is_the_most(app, site, clock, gap, visits):
    clock.set(at("2026-03-02 23:59:59"))
    site.send()
    clock.advance(gap)
    rotate_salts(app)
    site.send()
    assert len(visitors(app)) == visits


def test_engagement_carries_a_visit_over_the_end_of_epochs_too(app, clock):
    site = add_site(app, rotation_hours=1)
    clock.set(at("2026-03-02 22:50"))
    site.send("/long")
    for _ in range(8):
        clock.advance(25 * 60)
        rotate_salts(app)
        assert "X-MiniNumbers-Dropped" not in site.send("/long", "engagement", e=1000).headers
    site.send("/next")
    assert rows(app, "select pageviews, duration from visits") == [(2, 8 * 25 * 60)]


def test_a_visit_over_the_end_of_an_epoch_belongs_to_nobody_else(app, site, clock):
    for minute in range(0, 120, 25):
        clock.set(at("2026-03-02 23:50") + minute * 60)
        rotate_salts(app)
        site.send("/a", ip="192.0.2.1")
        site.send("/b", ip="192.0.2.2")
        site.send("/c", agent=FIREFOX)
    assert rows(app, "select entry, count(*) from (select t.text entry from visits v join texts t on t.id = v.entry_page) group by 1") \
        == [("/a", 1), ("/b", 1), ("/c", 1)]
    assert len(set(visitors(app))) == 3


def test_what_links_two_epochs_is_forgotten_when_the_visit_ends(app, site, clock):
    browse(app, site, clock, at("2026-03-02 23:50"), [0, 20, 40])
    assert app.collector.salts.carried
    clock.advance(TIMEOUT + 1)
    settle_visits(app)
    assert not app.collector.salts.carried


# ---- the life of a salt ----------------------------------------------------------------------------------------------

def test_a_salt_lives_until_half_an_hour_after_its_epoch(app, site, clock):
    site.send()
    for second, living in ((at("2026-03-02 23:59:59"), 1), (at("2026-03-03 00:00"), 1), (at("2026-03-03 00:29:59"), 1),
                           (at("2026-03-03 00:30"), 0)):
        clock.set(second)
        rotate_salts(app)
        assert len(salts(app)) == living, datetime.fromtimestamp(second)


def test_run_jobs_destroys_what_is_over(app, site, clock):
    site.send()
    app.run_jobs()
    clock.set(at("2026-03-03 00:30"))
    app.run_jobs()
    assert salts(app) == []


def test_each_salt_ends_by_the_time_zone_of_its_site(app, clock):
    for domain, zone in (("kathmandu.example", "Asia/Kathmandu"), ("havana.example", "America/Havana")):
        add_site(app, domain, timezone=zone).send()
    ends = {domain: ends_at for domain, ends_at in rows(app, "select domain, ends_at from salts join sites on id = site_id")}
    assert ends == {"kathmandu.example": at("2026-03-03 00:00", "Asia/Kathmandu"), "havana.example": at("2026-03-03 00:00", "America/Havana")}


def test_a_clock_that_is_set_back_a_little_finds_the_salt_it_left(app, site, clock):
    for second in (at("2026-03-02 23:50"), at("2026-03-03 00:05"), at("2026-03-02 23:59"), at("2026-03-03 00:06")):
        clock.set(second)
        site.send()
    assert len(visitors(app)) == 1
    assert len(salts(app)) == 2


def test_a_salt_made_while_the_clock_was_wrong_does_not_outlive_its_rotation(app, site, clock):
    right = clock.now
    clock.advance(400 * DAY)
    site.send()
    clock.set(right)
    site.send()
    for _ in range(3):  # jobs run again and again
        clock.advance(DAY)
        rotate_salts(app)
    assert salts(app) == []


# ---- changes of zone and rotation ------------------------------------------------------------------------------------

CHANGES = [{"timezone": "Europe/Berlin"}, {"timezone": "Pacific/Kiritimati"}, {"rotation_hours": 6}, {"rotation_hours": 168},
           {"rotation_hours": 30, "timezone": "Asia/Kathmandu"}]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_a_change_of_zone_or_rotation_ends_the_epoch(app, site, clock, change):
    site.send()
    app.set_site("example.com", **change)
    clock.advance(TIMEOUT + 1)
    site.send()
    first, second = visitors(app)
    assert first != second


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_the_salt_of_an_epoch_ended_by_a_change_goes_after_half_an_hour(app, site, clock, change):
    site.send()
    old = salts(app)
    app.set_site("example.com", **change)
    clock.advance(TIMEOUT)
    site.send()
    rotate_salts(app)
    assert not set(old) & set(salts(app))


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_a_visit_in_progress_survives_a_change_of_zone_or_rotation(app, site, clock, change):
    site.send("/before")
    clock.advance(60)
    app.set_site("example.com", **change)
    for _ in range(4):
        site.send("/after")
        clock.advance(20 * 60)
        rotate_salts(app)
    assert rows(app, "select pageviews from visits") == [(5,)]


def test_two_changes_within_a_second_are_no_mistake(app, site):
    for zone in ("Europe/Berlin", "Europe/Paris", "UTC"):
        site.send()
        app.set_site("example.com", timezone=zone)
    site.send()
    assert rows(app, "select pageviews from visits") == [(4,)]


@pytest.mark.parametrize("change", [{"mode": "strict"}, {"hostnames": "shop.example"}, {"retention_days": 30}, {"gpc": "drop"},
                                    {"timezone": "UTC"}, {"rotation_hours": 24}], ids=str)
def test_no_other_change_ends_an_epoch(app, site, clock, change):
    site.send()
    app.set_site("example.com", **change)
    clock.advance(TIMEOUT + 1)
    site.send()
    first, second = visitors(app)
    assert first == second


def test_a_shorter_rotation_of_the_instance_ends_the_epochs_that_were_longer(settings, clock):
    with contextlib.closing(create_app(dataclasses.replace(settings, rotation_hours=8760), clock)) as app:
        app.setup("owner", "correct horse", "example.com")
        Site(app).send()
    with contextlib.closing(create_app(dataclasses.replace(settings, rotation_hours=1), clock)) as app:
        Site(app).send()
        clock.advance(2 * HOUR)
        rotate_salts(app)
        clock.advance(2 * HOUR)
        rotate_salts(app)
        assert salts(app) == []


# ---- modes -----------------------------------------------------------------------------------------------------------

CLIENT = ("country", "region", "city", "browser", "browser_version", "os", "os_version", "device", "language", "screen")
EVERYTHING = {"country": "GB", "region": "England", "city": "London", "browser": "Chrome", "browser_version": "130", "os": "Linux",
              "os_version": "", "device": "Desktop", "language": "de", "screen": "Laptop"}
STORED = {
    "standard": EVERYTHING,
    "strict": {**EVERYTHING, "region": "", "city": ""},
    "paranoid": dict.fromkeys(CLIENT, ""),
}
REFERRER = {"standard": "news.example/path/of/article", "strict": "news.example/path/of/article", "paranoid": "news.example"}


@pytest.fixture
def london(app, monkeypatch):
    """Every address is in London, as a City database would say."""
    monkeypatch.setattr(app.collector._geoip, "locate", lambda address: ("GB", "England", "London"))


def look(site, **headers):
    """A visit with everything that could be stored."""
    return site.send(headers={"Accept-Language": "de-AT,en;q=0.8", **{name.replace("_", "-"): value for name, value in headers.items()}}, w=1024,
                     r="https://www.news.example/path/of/article?reader=7")


def stored_client(app):
    """What is stored of the newest visit's client."""
    texts = ", ".join(f"(select text from texts where id = c.{column})" for column in CLIENT)
    return dict(zip(CLIENT, rows(app, f"select {texts} from visits v join clients c on c.id = v.client_id order by v.id desc limit 1")[0]))


def stored_referrer(app):
    return rows(app, """select text from visits v join origins o on o.id = v.origin_id join texts t on t.id = o.referrer
                        order by v.id desc limit 1""")[0][0]


@pytest.mark.parametrize("mode", STORED)
def test_a_mode_limits_what_is_stored_of_a_visitor(app, london, mode):
    look(add_site(app, mode=mode))
    assert stored_client(app) == STORED[mode]
    assert stored_referrer(app) == REFERRER[mode]


@pytest.mark.parametrize("mode", STORED)
def test_a_site_has_the_mode_of_the_instance_unless_it_has_its_own(settings, clock, mode):
    with contextlib.closing(create_app(dataclasses.replace(settings, mode=mode), clock)) as app:
        app.setup("owner", "correct horse", "example.com")
        look(Site(app))
        assert stored_referrer(app) == REFERRER[mode]
        clock.advance(1)
        look(add_site(app, mode="standard"))
        assert stored_referrer(app) == REFERRER["standard"]


@pytest.mark.parametrize("mode", STORED)
def test_in_every_mode_visits_and_visitors_are_counted(app, clock, mode):
    site = add_site(app, mode=mode)
    for seconds in (0, 60, TIMEOUT + 1):
        clock.advance(seconds)
        site.send()
    site.send(ip="192.0.2.2")
    assert site.numbers("visitors", "visits", "pageviews") == [2, 3, 4]


def test_a_change_of_mode_holds_from_the_next_visit_on(app, site, clock, london):
    look(site)
    app.set_site("example.com", mode="paranoid")
    clock.advance(TIMEOUT + 1)
    look(site)
    assert stored_client(app) == STORED["paranoid"]


def test_no_mode_looks_up_an_address_it_may_store_nothing_of(app, monkeypatch):
    def locate(address):
        raise AssertionError("an address was looked up")
    monkeypatch.setattr(app.collector._geoip, "locate", locate)
    look(add_site(app, mode="paranoid"))
    assert len(visitors(app)) == 1


# ---- visitors who ask for privacy ------------------------------------------------------------------------------------

@pytest.mark.parametrize("header", ["Sec_GPC", "DNT"])
@pytest.mark.parametrize("gpc, stored", [(None, "paranoid"), ("paranoid", "paranoid"), ("ignore", "standard")])
def test_what_a_wish_for_privacy_means_is_set_per_site(app, london, header, gpc, stored):
    look(add_site(app, gpc=gpc), **{header: "1"})
    assert stored_client(app) == STORED[stored]
    assert stored_referrer(app) == REFERRER[stored]


@pytest.mark.parametrize("header", ["Sec_GPC", "DNT"])
def test_a_site_can_drop_such_visits(app, header):
    site = add_site(app, gpc="drop")
    assert look(site, **{header: "1"}).headers["X-MiniNumbers-Dropped"] == "gpc"
    assert visitors(app) == salts(app) == []
    assert rows(app, "select reason, count from dropped") == [("gpc", 1)]


@pytest.mark.parametrize("value", ["0", "", "unspecified"])
def test_only_a_1_asks_for_privacy(app, site, london, value):
    look(site, Sec_GPC=value, DNT=value)
    assert stored_client(app) == STORED["standard"]


def test_what_the_instance_says_of_such_visits_holds_where_a_site_says_nothing(settings, clock):
    with contextlib.closing(create_app(dataclasses.replace(settings, gpc="drop"), clock)) as app:
        app.setup("owner", "correct horse", "example.com")
        assert look(Site(app), DNT="1").headers["X-MiniNumbers-Dropped"] == "gpc"
        assert "X-MiniNumbers-Dropped" not in look(add_site(app, gpc="paranoid"), DNT="1").headers


def test_a_visitor_who_asks_for_privacy_never_gains_more_than_a_stricter_site_stores(app, london):
    look(add_site(app, mode="strict", gpc="ignore"), DNT="1")
    assert stored_client(app) == STORED["strict"]
