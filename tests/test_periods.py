"""Which moments a period, a bucket and a comparison cover: local time, against a calendar of our own.

The calendar here walks through time in steps of a quarter of an hour and asks the zone what its clocks show; it shares no
code with the module, which computes with dates.

Contents: a calendar of our own · periods · custom ranges · buckets · comparisons · as queries see it
"""
import calendar
import functools
from datetime import date, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from conftest import Site
from hypothesis import assume, given, settings as hypothesis_settings
from hypothesis import strategies as st

from mininumbers import InvalidInput, Period, buckets_of, comparison_period, interval_of, read_period

QUARTER, HOUR, DAY = 900, 3600, 86_400
ZONES = ["UTC", "Europe/Berlin", "Europe/London", "America/New_York", "America/Havana", "America/Santiago", "America/Nuuk", "Asia/Kathmandu",
         "Asia/Beirut", "Africa/Cairo", "Africa/Casablanca", "Australia/Lord_Howe", "Pacific/Kiritimati", "Pacific/Apia", "Pacific/Chatham",
         "Antarctica/Troll"]

fast = hypothesis_settings(max_examples=80, deadline=None)


# ---- a calendar of our own -------------------------------------------------------------------------------------------

def local(second, zone):
    return datetime.fromtimestamp(second, ZoneInfo(zone))


@functools.lru_cache(maxsize=None)
def begins(day, zone):
    """The first moment at which a zone's clocks show `day`, or a later one where they never do."""
    moment = calendar.timegm(day.timetuple()) - 16 * HOUR
    while local(moment, zone).date() < day:
        moment += QUARTER
    return moment


def span(first, last, zone):
    """(first second, the one after the last) of the days from `first` to `last`."""
    return begins(first, zone), begins(last + timedelta(days=1), zone)


def months_before(day, months):
    """The first of the month that many months before that of `day`."""
    for _ in range(months):
        day = (day.replace(day=1) - timedelta(days=1)).replace(day=1)
    return day.replace(day=1)


def at(text, zone="UTC"):
    """The unix second of a local date and time."""
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp())


def edges(period):
    return period.start, period.end


@functools.lru_cache(maxsize=None)
def changes(zone):
    """The dates in some years on which a zone's clocks change."""
    days = (date(2024, 1, 1) + timedelta(days=number) for number in range(3 * 365))
    return [day for day in days if begins(day + timedelta(days=1), zone) - begins(day, zone) != DAY]


zones = st.sampled_from(ZONES)
days = st.dates(date(2013, 1, 1), date(2036, 12, 31))


@st.composite
def zones_and_days(draw):
    """(zone, day): often a day on which the clocks change, or one beside it, or the end of a February."""
    zone = draw(zones)
    leap = st.sampled_from([date(2024, 2, 28), date(2024, 2, 29), date(2025, 2, 28), date(2024, 3, 1), date(2024, 12, 31)])
    special = leap if not changes(zone) else leap | st.builds(lambda day, by: day + timedelta(days=by), st.sampled_from(changes(zone)), st.integers(-1, 1))
    return zone, draw(days | special)


def moment_of(day, zone, part):
    """A second of a day: `part` is from 0.0, its first, to 1.0, its last."""
    start, end = span(day, day, zone)
    return start + int((end - 1 - start) * part)


# ---- periods ---------------------------------------------------------------------------------------------------------

def expected_days(name, today, earliest):
    """(first day, last day) of a period by its definition."""
    yesterday, month = today - timedelta(days=1), today.replace(day=1)
    if name.endswith("d"):
        return today - timedelta(days=int(name[:-1])), yesterday
    if name.endswith("mo"):
        return months_before(today, int(name[:-2])), month - timedelta(days=1)
    return {
        "day": (today, today),
        "month": (month, today.replace(day=calendar.monthrange(today.year, today.month)[1])),
        "year": (date(today.year, 1, 1), date(today.year, 12, 31)),
        "all": (earliest or today, today),
    }[name]


PERIODS = ["day", "7d", "28d", "30d", "91d", "month", "6mo", "12mo", "year", "all"]


@fast
@given(zones_and_days(), st.floats(0, 1), st.sampled_from(PERIODS), st.none() | st.integers(0, 2000), st.floats(0, 1))
def test_a_period_covers_whole_local_days(zone_and_day, part, name, age, other_part):
    zone, today = zone_and_day
    first_day = None if age is None else today - timedelta(days=age)
    earliest = None if age is None else min(moment_of(first_day, zone, other_part), moment_of(today, zone, part))
    period = read_period(name, ZoneInfo(zone), moment_of(today, zone, part), lambda: earliest)
    first, last = expected_days(name, today, first_day)
    assert edges(period) == span(first, last, zone)
    assert (period.first, period.last) == (first, last)


@pytest.mark.parametrize("zone, day, hours", [
    ("Europe/Berlin", date(2026, 3, 29), 23), ("Europe/Berlin", date(2026, 10, 25), 25), ("Europe/Berlin", date(2026, 7, 1), 24),
    ("Africa/Cairo", date(2026, 4, 24), 23),          # its midnight is skipped
    ("Africa/Cairo", date(2026, 10, 29), 25),         # its last hour comes twice
    ("America/Havana", date(2026, 3, 8), 23), ("America/Havana", date(2026, 11, 1), 25),
    ("Asia/Beirut", date(2026, 3, 29), 23), ("Australia/Lord_Howe", date(2026, 4, 5), 24.5), ("Australia/Lord_Howe", date(2026, 10, 4), 23.5),
    ("Antarctica/Troll", date(2026, 3, 29), 22), ("Antarctica/Troll", date(2026, 10, 25), 26),
    ("Pacific/Apia", date(2011, 12, 29), 24), ("Pacific/Apia", date(2011, 12, 31), 24),
])
def test_a_day_is_as_long_as_the_clocks_make_it(zone, day, hours):
    period = read_period("day", ZoneInfo(zone), moment_of(day, zone, 0.5), lambda: None)
    assert (period.end - period.start) / HOUR == hours
    assert edges(period) == span(day, day, zone)


def test_the_day_that_samoa_left_out_is_in_no_period_twice():
    zone = ZoneInfo("Pacific/Apia")
    days = [Period.of_days(day, day, zone) for day in (date(2011, 12, 29), date(2011, 12, 30), date(2011, 12, 31))]
    assert days[0].end == days[1].start == days[1].end == days[2].start == at("2011-12-30 10:00")
    assert edges(read_period(["2011-12-29", "2011-12-31"], zone, 0, None)) == (at("2011-12-29 10:00"), at("2011-12-31 10:00"))


@pytest.mark.parametrize("now, name, first, last", [
    ("2024-02-29 12:00", "day", "2024-02-29", "2024-02-29"), ("2024-02-29 12:00", "month", "2024-02-01", "2024-02-29"),
    ("2024-03-31 12:00", "6mo", "2023-09-01", "2024-02-29"), ("2025-03-31 12:00", "6mo", "2024-09-01", "2025-02-28"),
    ("2024-12-31 23:59:59", "year", "2024-01-01", "2024-12-31"), ("2025-01-01 00:00", "12mo", "2024-01-01", "2024-12-31"),
    ("2026-03-02 12:00", "7d", "2026-02-23", "2026-03-01"), ("2024-03-01 00:00", "7d", "2024-02-23", "2024-02-29"),
    ("2026-01-15 12:00", "month", "2026-01-01", "2026-01-31"), ("2026-12-31 12:00", "month", "2026-12-01", "2026-12-31"),
])
def test_periods_that_one_can_check_on_a_wall_calendar(now, name, first, last):
    period = read_period(name, ZoneInfo("UTC"), at(now), lambda: None)
    assert (f"{period.first}", f"{period.last}") == (first, last)


@pytest.mark.parametrize("zone, now, today", [("Pacific/Kiritimati", "2026-03-02 10:00", "2026-03-03"), ("Pacific/Midway", "2026-03-02 10:59:59", "2026-03-01"),
                                              ("Asia/Kathmandu", "2026-03-02 18:14:59", "2026-03-02"), ("Asia/Kathmandu", "2026-03-02 18:15", "2026-03-03")])
def test_today_is_the_sites_today(zone, now, today):
    assert f"{read_period('day', ZoneInfo(zone), at(now), lambda: None).first}" == today


def test_all_of_a_site_without_hits_is_today():
    period = read_period("all", ZoneInfo("UTC"), at("2026-03-02 12:00"), lambda: None)
    assert edges(period) == span(date(2026, 3, 2), date(2026, 3, 2), "UTC")


def test_all_of_a_site_whose_first_hit_lies_ahead_of_a_clock_set_back_is_today():
    period = read_period("all", ZoneInfo("UTC"), at("2026-03-02 12:00"), lambda: at("2027-01-01"))
    assert edges(period) == span(date(2026, 3, 2), date(2026, 3, 2), "UTC")


# ---- custom ranges ---------------------------------------------------------------------------------------------------

@fast
@given(zones_and_days(), st.integers(0, 800))
def test_two_dates_are_both_included(zone_and_day, length):
    zone, first = zone_and_day
    last = first + timedelta(days=length)
    period = read_period([first.isoformat(), last.isoformat()], ZoneInfo(zone), 0, None)
    assert edges(period) == span(first, last, zone)
    assert period.is_whole_days


@fast
@given(zones, st.integers(at("2013-01-01"), at("2036-01-01")), st.integers(0, 10 * DAY), st.integers(-12 * 4, 14 * 4))
def test_two_moments_are_both_included_to_the_second(zone, start, length, quarters):
    offset = timezone(timedelta(seconds=quarters * QUARTER))
    pair = [datetime.fromtimestamp(second, offset).isoformat() for second in (start, start + length)]
    period = read_period(pair, ZoneInfo(zone), 0, None)
    assert edges(period) == (start, start + length + 1)
    assert [int(datetime.fromisoformat(text).timestamp()) for text in period.iso()] == [start, start + length]
    assert [datetime.fromisoformat(text).utcoffset() for text in period.iso()] == [local(second, zone).utcoffset() for second in (start, start + length)]


@pytest.mark.parametrize("written", ["2026-03-02T12:00:00Z", "2026-03-02T12:00:00z", "2026-03-02T13:00:00+01:00", "2026-03-02 07:00:00-05:00",
                                     "2026-03-02T12:00:00.000+00:00"])
def test_a_moment_may_be_written_with_any_offset(written):
    assert read_period([written, "2026-03-03T00:00:00Z"], ZoneInfo("Asia/Tokyo"), 0, None).start == at("2026-03-02 12:00")


@pytest.mark.parametrize("date_range", [
    None, 7, "", "8d", "7D", "d", "0d", "-7d", "day ", "yesterday", "13mo", "7d7d", {}, True, [], ["2026-03-01"], ["2026-03-01"] * 3, [1, 2], [None, None],
    ["2026-03-02", "2026-03-01"], ["2026-02-29", "2026-03-01"], ["2026-13-01", "2026-13-02"], ["2026-3-1", "2026-3-2"], ["26-03-01", "26-03-02"],
    ["2026-03-01", "2026-03-02T00:00:00Z"], ["2026-03-01T00:00:00", "2026-03-02T00:00:00"], ["2026-03-02T00:00:01Z", "2026-03-01T23:59:59Z"],
    ["0001-01-01", "0001-01-02"], ["9999-12-30", "9999-12-31"], ["1969-12-30", "1969-12-31"], ["2026-03-01", "2200-01-01"],
    ["٢٠٢٦-03-01", "٢٠٢٦-03-02"], ["2026-03-01\n", "2026-03-02\n"], ["2026-03-01T00:00:00+99:00", "2026-03-02T00:00:00+99:00"],
])
def test_what_is_not_a_period_is_refused_by_name(date_range):
    with pytest.raises(InvalidInput) as refused:
        read_period(date_range, ZoneInfo("UTC"), at("2026-03-02"), lambda: None)
    assert refused.value.details[0]["field"] == "date_range"


# ---- buckets ---------------------------------------------------------------------------------------------------------

def expected_clock_buckets(start, end, step, zone):
    """[(label, start, end)] of local hours or minutes: a new one begins when the clocks show another, and when they are set back."""
    shown = "%Y-%m-%d %H:00:00" if step == QUARTER else "%Y-%m-%d %H:%M:00"
    found = []
    for moment in range(start, end, step):
        here = local(moment, zone)
        label, before = here.strftime(shown), local(moment - step, zone)
        if moment == start or label != before.strftime(shown) or here.utcoffset() < before.utcoffset():
            found.append([label + (here.isoformat()[-6:] if here.fold else ""), moment, end])
            if len(found) > 1:
                found[-2][2] = moment
    return [tuple(each) for each in found]


def expected_calendar_buckets(start, end, interval, zone):
    """[(label, start, end)] of the days, weeks or months that a stretch touches."""
    found, day = {}, local(start, zone).date()
    while begins(day, zone) < end:
        label = {"day": day, "week": day - timedelta(days=day.weekday()), "month": day.replace(day=1)}[interval].isoformat()
        first, last = max(start, begins(day, zone)), min(end, begins(day + timedelta(days=1), zone))
        if first < last:
            found[label] = (found[label][0] if label in found else first, last)
        day += timedelta(days=1)
    return [(label, *edges) for label, edges in found.items()]


def shown(buckets):
    return [(bucket.label, bucket.start, bucket.end) for bucket in buckets]


@fast
@given(zones_and_days(), st.integers(0, 2))
def test_hours_are_those_the_clocks_show(zone_and_day, more):
    zone, first = zone_and_day
    start, end = span(first, first + timedelta(days=more), zone)
    assert shown(buckets_of(Period(start, end, ZoneInfo(zone)), "hour")) == expected_clock_buckets(start, end, QUARTER, zone)


@fast
@given(zones_and_days(), st.integers(0, 95), st.integers(1, 200))
def test_hours_of_a_stretch_that_begins_and_ends_anywhere_are_cut_to_it(zone_and_day, begin, length):
    zone, day = zone_and_day
    start = begins(day, zone) + begin * QUARTER
    end = start + length * QUARTER
    assert shown(buckets_of(Period(start, end, ZoneInfo(zone)), "hour")) == expected_clock_buckets(start, end, QUARTER, zone)


@hypothesis_settings(max_examples=40, deadline=None)
@given(zones_and_days(), st.integers(0, 23), st.integers(1, 180))
def test_minutes_are_those_the_clocks_show(zone_and_day, hour, length):
    zone, day = zone_and_day
    start = begins(day, zone) + hour * HOUR
    end = start + length * 60
    assert shown(buckets_of(Period(start, end, ZoneInfo(zone)), "minute")) == expected_clock_buckets(start, end, 60, zone)


@fast
@given(zones_and_days(), st.integers(0, 400), st.sampled_from(["day", "week", "month"]))
def test_days_weeks_and_months_are_those_of_the_calendar(zone_and_day, length, interval):
    zone, first = zone_and_day
    start, end = span(first, first + timedelta(days=length), zone)
    assert shown(buckets_of(Period(start, end, ZoneInfo(zone)), interval)) == expected_calendar_buckets(start, end, interval, zone)


@fast
@given(zones, st.integers(at("2010-01-01"), at("2036-01-01")), st.integers(1, 60 * DAY), st.sampled_from(["minute", "hour", "day", "week", "month"]))
def test_buckets_tile_a_period_exactly_under_labels_that_are_unique_and_ascend(zone, start, length, interval):
    assume(length < 3 * DAY or interval != "minute")
    buckets = buckets_of(Period(start, start + length, ZoneInfo(zone)), interval)
    assert buckets[0].start == start
    assert buckets[-1].end == start + length
    assert all(bucket.start < bucket.end for bucket in buckets)
    assert [bucket.end for bucket in buckets[:-1]] == [bucket.start for bucket in buckets[1:]]
    labels = [bucket.label for bucket in buckets]
    assert len(set(labels)) == len(labels)
    backwards = [later for earlier, later in zip(labels, labels[1:]) if later < earlier]
    assert len(backwards) <= sum(local(each.start, zone).utcoffset() < local(each.start - HOUR, zone).utcoffset() for each in buckets)


@pytest.mark.parametrize("zone, day, labels", [
    ("Europe/Berlin", "2026-10-25", {1: "01:00:00", 2: "02:00:00", 3: "02:00:00+01:00", 4: "03:00:00"}),
    ("Europe/Berlin", "2026-03-29", {1: "01:00:00", 2: "03:00:00"}),
    ("America/Havana", "2026-11-01", {0: "00:00:00", 1: "00:00:00-05:00", 2: "01:00:00"}),
    ("America/Havana", "2026-03-08", {0: "01:00:00", 1: "02:00:00"}),
    ("Africa/Cairo", "2026-04-24", {0: "01:00:00"}),
    ("Africa/Cairo", "2026-10-29", {23: "23:00:00", 24: "23:00:00+02:00"}),
    ("Australia/Lord_Howe", "2026-04-05", {1: "01:00:00", 2: "01:00:00+10:30", 3: "02:00:00"}),
    ("Australia/Lord_Howe", "2026-10-04", {1: "01:00:00", 2: "02:00:00", 3: "03:00:00"}),
    ("Antarctica/Troll", "2026-10-25", {1: "01:00:00", 2: "02:00:00", 3: "01:00:00+00:00", 4: "02:00:00+00:00", 5: "03:00:00"}),
    ("Asia/Kathmandu", "2026-03-29", {0: "00:00:00", 23: "23:00:00"}),
])
def test_an_hour_that_comes_twice_carries_its_offset_the_second_time(zone, day, labels):
    buckets = buckets_of(read_period([day, day], ZoneInfo(zone), 0, None), "hour")
    assert {index: buckets[index].label for index in labels} == {index: f"{day} {label}" for index, label in labels.items()}


@pytest.mark.parametrize("first, last, interval, labels", [
    ("2026-02-27", "2026-03-02", "day", ["2026-02-27", "2026-02-28", "2026-03-01", "2026-03-02"]),
    ("2024-02-28", "2024-03-01", "day", ["2024-02-28", "2024-02-29", "2024-03-01"]),
    ("2026-03-04", "2026-03-10", "week", ["2026-03-02", "2026-03-09"]),
    ("2026-03-02", "2026-03-08", "week", ["2026-03-02"]),
    ("2026-01-01", "2026-01-04", "week", ["2025-12-29"]),
    ("2025-12-15", "2026-02-03", "month", ["2025-12-01", "2026-01-01", "2026-02-01"]),
])
def test_labels_that_one_can_check_on_a_wall_calendar(first, last, interval, labels):
    assert [bucket.label for bucket in buckets_of(read_period([first, last], ZoneInfo("UTC"), 0, None), interval)] == labels


def test_the_day_that_samoa_left_out_has_no_bucket():
    period = read_period(["2011-12-28", "2012-01-01"], ZoneInfo("Pacific/Apia"), 0, None)
    assert [bucket.label for bucket in buckets_of(period, "day")] == ["2011-12-28", "2011-12-29", "2011-12-31", "2012-01-01"]
    assert {bucket.end - bucket.start for bucket in buckets_of(period, "day")} == {DAY}


@pytest.mark.parametrize("days, interval", [(1, "hour"), (2, "day"), (92, "day"), (93, "month"), (366, "month")])
def test_plain_time_takes_an_interval_that_suits_the_period(days, interval):
    for zone in ("UTC", "Europe/Berlin"):
        first = date(2026, 3, 1)
        assert interval_of("time", Period.of_days(first, first + timedelta(days=days - 1), ZoneInfo(zone))) == interval


@pytest.mark.parametrize("interval, length", [("minute", 8 * DAY), ("hour", 420 * DAY), ("day", 10_001 * DAY)])
def test_too_many_buckets_are_refused(interval, length):
    with pytest.raises(InvalidInput, match="too many points"):
        buckets_of(Period(at("2026-01-01"), at("2026-01-01") + length, ZoneInfo("UTC")), interval)


# ---- comparisons -----------------------------------------------------------------------------------------------------

def a_year_before(day):
    return date(day.year - 1, day.month, 28 if (day.month, day.day) == (2, 29) else day.day)


def nearest_weekday(day, weekday, but_not):
    """The date of that weekday nearest to `day`, the earlier of two as near; never `but_not`."""
    return min((day + timedelta(days=by) for by in range(-7, 8) if (day + timedelta(days=by)).weekday() == weekday and day + timedelta(days=by) != but_not),
               key=lambda found: (abs((found - day).days), found))


@fast
@given(zones_and_days(), st.integers(0, 400), st.integers(-30, 430), st.floats(0, 1), st.sampled_from(["previous_period", "year_over_year"]), st.booleans())
def test_whole_days_are_compared_with_whole_days(zone_and_day, length, today_after, part, mode, match):
    zone, first = zone_and_day
    last, today = first + timedelta(days=length), first + timedelta(days=today_after)
    period = Period(*span(first, last, zone), ZoneInfo(zone))
    compared = comparison_period(period, mode, None, match, moment_of(today, zone, part))
    seen = max(first, min(last, today))  # what lies ahead of today is not compared
    if mode == "previous_period":
        length = (seen - first).days + 1
        other_first, other_last = first - timedelta(days=length), first - timedelta(days=1)
    else:
        other_first, other_last = a_year_before(first), a_year_before(seen)
    if match:
        shift = nearest_weekday(other_first, first.weekday(), but_not=first) - other_first
        other_first, other_last = other_first + shift, other_last + shift
    assert edges(compared) == span(other_first, other_last, zone)


@pytest.mark.parametrize("first, last, mode, match, expected", [
    ("2026-03-02", "2026-03-02", "previous_period", False, ("2026-03-01", "2026-03-01")),
    ("2026-03-02", "2026-03-02", "previous_period", True, ("2026-02-23", "2026-02-23")),   # Monday with Monday
    ("2026-03-02", "2026-03-08", "previous_period", False, ("2026-02-23", "2026-03-01")),
    ("2026-03-02", "2026-03-08", "previous_period", True, ("2026-02-23", "2026-03-01")),
    ("2026-02-01", "2026-02-28", "previous_period", False, ("2026-01-04", "2026-01-31")),
    ("2024-02-29", "2024-02-29", "year_over_year", False, ("2023-02-28", "2023-02-28")),
    ("2024-02-01", "2024-02-29", "year_over_year", False, ("2023-02-01", "2023-02-28")),
    ("2025-02-01", "2025-02-28", "year_over_year", False, ("2024-02-01", "2024-02-28")),
    ("2025-02-28", "2025-03-01", "year_over_year", False, ("2024-02-28", "2024-03-01")),
    ("2026-03-02", "2026-03-08", "year_over_year", False, ("2025-03-02", "2025-03-08")),
    ("2026-03-02", "2026-03-08", "year_over_year", True, ("2025-03-03", "2025-03-09")),    # Monday to Sunday both
    ("2026-01-01", "2026-12-31", "year_over_year", False, ("2025-01-01", "2025-12-31")),
])
def test_comparisons_that_one_can_check_on_a_wall_calendar(first, last, mode, match, expected):
    period = read_period([first, last], ZoneInfo("Europe/Berlin"), 0, None)
    compared = comparison_period(period, mode, None, match, at("2027-06-01"))
    assert (f"{compared.first}", f"{compared.last}") == expected


def test_a_month_in_progress_is_compared_up_to_today():
    now = at("2026-03-10 15:00")
    period = read_period("month", ZoneInfo("UTC"), now, lambda: None)
    compared = comparison_period(period, "previous_period", None, False, now)
    assert (f"{compared.first}", f"{compared.last}") == ("2026-02-19", "2026-02-28")
    compared = comparison_period(period, "year_over_year", None, False, now)
    assert (f"{compared.first}", f"{compared.last}") == ("2025-03-01", "2025-03-10")


@fast
@given(zones, st.integers(at("2013-01-01"), at("2036-01-01")), st.integers(1, 20 * DAY))
def test_a_stretch_between_two_moments_is_compared_with_as_long_a_one_right_before(zone, start, length):
    period = Period(start, start + length, ZoneInfo(zone))
    assume(not period.is_whole_days)
    compared = comparison_period(period, "previous_period", None, False, start + 10 * length)
    assert edges(compared) == (start - length, start)


def test_a_custom_comparison_is_what_was_asked_for():
    period, other = (read_period([day, day], ZoneInfo("UTC"), 0, None) for day in ("2026-03-02", "2020-01-01"))
    assert comparison_period(period, "custom", other, True, at("2026-03-02")) == other


# ---- as queries see it -----------------------------------------------------------------------------------------------

@pytest.fixture
def site(app, monkeypatch):
    monkeypatch.setattr(app.scheduler, "start", lambda: None)
    return Site(app)


@pytest.mark.parametrize("name", PERIODS)
def test_every_period_of_an_empty_site_is_filled_with_zeros(site, name):
    answer = site.query("visitors", date_range=name, dimensions=["time"], include={"time_labels": True})
    labels = answer["meta"]["time_labels"]
    assert [row["dimensions"][0] for row in answer["results"]] == labels == sorted(set(labels))
    assert {row["metrics"][0] for row in answer["results"]} == {0}


@pytest.mark.parametrize("zone, day", [("Europe/Berlin", "2026-10-25"), ("America/Havana", "2026-11-01"), ("Australia/Lord_Howe", "2026-04-05"),
                                       ("Africa/Cairo", "2026-04-24"), ("Pacific/Apia", "2011-12-31"), ("Antarctica/Troll", "2026-10-25")])
def test_each_hit_is_counted_in_the_hour_its_clocks_showed(app, clock, monkeypatch, zone, day):
    monkeypatch.setattr(app.scheduler, "start", lambda: None)
    app.add_site("other.example", timezone=zone)
    site = Site(app, "other.example")
    start, end = span(date.fromisoformat(day), date.fromisoformat(day), zone)
    for second in range(start - QUARTER, end + QUARTER, QUARTER):
        clock.set(second)
        site.send()
    rows = site.rows("pageviews", date_range=[day, day], dimensions=["time:hour"])
    assert rows == [(label, (last - first) // QUARTER) for label, first, last in expected_clock_buckets(start, end, QUARTER, zone)]
    assert site.numbers("pageviews", date_range=[day, day]) == (end - start) // QUARTER
    assert site.rows("pageviews", date_range=[day, day], dimensions=["time:day"]) == [(day, (end - start) // QUARTER)]
