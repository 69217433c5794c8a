"""The oracle: every number of the reports, counted again in the most obvious way.

`query(sent, site, now, body)` takes the list of raw things that visitors' browsers sent, a site, the time of asking and
a query as it is posted to `/api/v2/query`, and answers what the server should answer. It shares no line with the
server. It keeps everything in lists, goes through all of them for every number and never remembers an answer: a
reader should be able to see that it is right, and nothing else is asked of it.

Contents: what goes in · from sent things to visits · local time · periods · filters · numbers · rows · the query · journeys · funnels · retention
"""
from __future__ import annotations

import json
import re
import statistics
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from decimal import ROUND_HALF_EVEN, Decimal
from functools import lru_cache
from itertools import product
from urllib.parse import parse_qsl, unquote, urlsplit
from zoneinfo import ZoneInfo

# ---------------------------------------------------------------------------------------------------------------------
# What goes in
# ---------------------------------------------------------------------------------------------------------------------

VISIT_TIMEOUT = 1800  # seconds without a sign of life that a visit survives
DAY = timedelta(days=1)

#: Hosts and the names people know them by. Only those that the tests send.
SOURCE_NAMES = {"google.com": "Google", "google.de": "Google", "t.co": "X", "chatgpt.com": "ChatGPT"}

#: The channel of each source that the tests send. A source that is not here is a Referral; one that only a UTM tag
#: tells of is Unassigned.
CHANNELS = {"Direct": "Direct", "Google": "Organic Search", "X": "Organic Social", "ChatGPT": "AI Assistants"}


@dataclass(frozen=True)
class Agent:
    """A real user agent and what it should be recognised as."""
    text: str
    browser: str
    os: str
    device: str


@dataclass(frozen=True)
class Site:
    domain: str = "example.com"
    timezone: str = "UTC"
    rotation_hours: int = 24
    changes: tuple = ()  # (when, the rotation in hours from then on), the oldest first


@dataclass(frozen=True)
class Sent:
    """One POST to /api/event: when (epoch seconds), by whom, and the JSON object."""
    time: int
    ip: str
    agent: Agent
    payload: dict


@dataclass(eq=False)
class Visit:
    """One visitor's events without a gap. `who` is a person; `visitor` is what the site may know of them."""
    who: tuple
    visitor: tuple
    last_sign: int
    agent: Agent
    origin: dict
    events: list = field(default_factory=list)


@dataclass(eq=False)
class Event:
    """A pageview or a custom event. Engagement messages are added to a pageview and are not events."""
    time: int
    visit: Visit
    name: str
    page: str
    hostname: str
    props: dict
    interactive: bool
    revenue: tuple | None = None  # (a Decimal, its currency)
    engaged_ms: int = 0
    depth: int | None = None


# ---------------------------------------------------------------------------------------------------------------------
# From sent things to visits
# ---------------------------------------------------------------------------------------------------------------------


def payload_value(payload, short, long, default=None):
    return payload.get(short, payload.get(long, default))


def host_of(url):
    return (urlsplit(url).hostname or "").removeprefix("www.")


def page_of(url, hash_mode):
    parts = urlsplit(url)
    page = unquote(parts.path) or "/"
    if hash_mode and parts.fragment:
        page += "#" + parts.fragment.split("?")[0]
    return page


def props_of(payload):
    props = payload_value(payload, "p", "props") or {}
    if isinstance(props, str):
        props = json.loads(props)
    return {key: {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)
            for key, value in props.items()}


#: Digits after the point of each currency that the tests send.
DIGITS = {"EUR": 2, "USD": 2, "JPY": 0, "KWD": 3}


def revenue_of(payload):
    told = payload_value(payload, "$", "revenue")
    return (Decimal(str(told["amount"])), told["currency"].upper()) if told else None


def origin_of(url, referrer, domain):
    """Where a visit came from: source, channel, referrer and the UTM tags, as its first event tells."""
    tags = dict(parse_qsl(urlsplit(url).query))
    host = host_of(referrer or "")
    if host in ("", domain, host_of(url)):
        host = referrer = ""
    source = tags.get("utm_source") or tags.get("source") or tags.get("ref") or host
    source = SOURCE_NAMES.get(source, source) or "Direct"
    channel = CHANNELS.get(source, "Unassigned" if tags.get("utm_source") else "Referral")
    if tags.get("utm_medium") == "email":
        channel = "Email"
    origin = {"source": source, "channel": channel}
    for tag in ("utm_source", "utm_medium", "utm_campaign", "utm_content", "utm_term"):
        origin[tag] = tags.get(tag) or "(not set)"
    return origin


def belongs_to(site, host):
    return host == site.domain or host.endswith("." + site.domain)


def rotation_at(time, site):
    """The hours of rotation that were in force."""
    return [site.rotation_hours, *(hours for when, hours in site.changes if when <= time)][-1]


def epoch_of(time, site):
    """Which setting of the rotation it was, and the number of the block of so many wall-clock hours, counted from midnight of 0001-01-01."""
    wall_clock = local(time, site.timezone).replace(tzinfo=None)
    setting = sum(when <= time for when, _ in site.changes)
    return setting, (wall_clock - datetime(1, 1, 1)) // timedelta(hours=rotation_at(time, site))


def visits_of(sent, site):
    """Every visit that the things sent make up, in the order in which they began."""
    visits = []
    for thing in sorted(sent, key=lambda thing: thing.time):
        payload = thing.payload
        name = payload_value(payload, "n", "name")
        url = payload_value(payload, "u", "url")
        page = page_of(url, payload.get("h"))
        if not belongs_to(site, host_of(url)):
            continue
        who = (thing.ip, thing.agent.text)
        visit = newest_visit(visits, who)
        if visit and thing.time - visit.last_sign > VISIT_TIMEOUT:
            visit = None
        if name == "engagement":
            if visit:
                visit.last_sign = thing.time
                engage(visit, page, payload.get("e") or 0, payload.get("sd"))
            continue
        if not visit:
            visit = Visit(who, visitor=(who, epoch_of(thing.time, site)), last_sign=thing.time, agent=thing.agent,
                          origin=origin_of(url, payload_value(payload, "r", "referrer"), site.domain))
            visits.append(visit)
        visit.last_sign = thing.time
        visit.events.append(Event(thing.time, visit, name, page, host_of(url), props_of(payload),
                                  payload_value(payload, "i", "interactive", True), revenue_of(payload)))
    return visits


def newest_visit(visits, who):
    for visit in reversed(visits):
        if visit.who == who:
            return visit
    return None


def engage(visit, page, engaged_ms, depth):
    """Add to the visit's newest pageview of the page."""
    for event in reversed(visit.events):
        if event.name == "pageview" and event.page == page:
            event.engaged_ms += engaged_ms
            if depth is not None:
                event.depth = max(depth, event.depth or 0)
            return


def pageviews_of(events):
    return [event for event in events if event.name == "pageview"]


def last_pageview(visit):
    pageviews = pageviews_of(visit.events)
    return pageviews[-1] if pageviews else None


def duration(visit):
    return visit.last_sign - visit.events[0].time


def bounced(visit):
    interactive_events = [event for event in visit.events if event.name != "pageview" and event.interactive]
    return len(pageviews_of(visit.events)) == 1 and not interactive_events


# ---------------------------------------------------------------------------------------------------------------------
# Local time
# ---------------------------------------------------------------------------------------------------------------------

QUARTER = 900  # every zone's offset is a multiple of a quarter of an hour, and so is every change of it


def local(time, zone):
    return datetime.fromtimestamp(time, ZoneInfo(zone))


@lru_cache(maxsize=None)
def day_start(day, zone):
    """The first second of a local day: walk in quarters of an hour from well before until the day has come."""
    time = int(datetime(day.year, day.month, day.day, tzinfo=timezone.utc).timestamp()) - 36 * 3600
    while local(time, zone).date() < day:
        time += QUARTER
    return time


def day_exists(day, zone):
    """Samoa had no 30 December 2011."""
    return day_start(day, zone) < day_start(day + DAY, zone)


def label(time, unit, zone):
    """The name of the minute, hour, day, week or month that a moment is in."""
    wall_clock = local(time, zone)
    day = wall_clock.date()
    if unit == "day":
        return day.isoformat()
    if unit == "week":
        return (day - day.weekday() * DAY).isoformat()
    if unit == "month":
        return day.replace(day=1).isoformat()
    if unit == "hour_of_week":
        return wall_clock.strftime("%u %H")
    text = wall_clock.strftime({"hour": "%Y-%m-%d %H:00:00", "minute": "%Y-%m-%d %H:%M:00"}[unit])
    if wall_clock.fold:  # the second time that the clock shows this
        text += wall_clock.isoformat()[-6:]
    return text


def labels(period, unit):
    """All labels of a period, in the order in which they come."""
    if unit == "hour_of_week":
        return [f"{weekday} {hour:02}" for weekday in range(1, 8) for hour in range(24)]
    if unit in ("hour", "minute"):
        step = {"hour": QUARTER, "minute": 60}[unit]
        moments = range(period.start // step * step, period.end, step)
    else:
        first, last = local(period.start, period.zone).date(), local(period.end - 1, period.zone).date()
        days = [first + n * DAY for n in range((last - first).days + 1)]
        moments = [day_start(day, period.zone) for day in days if day_exists(day, period.zone)]
    in_order = []
    for moment in moments:
        text = label(moment, unit, period.zone)
        if text not in in_order[-1:]:
            in_order.append(text)
    return in_order


# ---------------------------------------------------------------------------------------------------------------------
# Periods
# ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Period:
    """From `start` up to, but not with, `end`, in epoch seconds. `first` and `last` are its days, where it has days."""
    start: int
    end: int
    zone: str
    first: date | None = None
    last: date | None = None


def days_period(first, last, zone):
    return Period(day_start(first, zone), day_start(last + DAY, zone), zone, first, last)


def month_start(day, months_later=0):
    months = day.year * 12 + day.month - 1 + months_later
    return date(months // 12, months % 12 + 1, 1)


def period_of(date_range, zone, now, events):
    today = local(now, zone).date()
    this_month, next_month = month_start(today), month_start(today, 1)
    if isinstance(date_range, list):
        start, end = date_range
        if len(start) == 10:
            return days_period(date.fromisoformat(start), date.fromisoformat(end), zone)
        return Period(seconds(start), seconds(end) + 1, zone)
    if date_range == "day":
        return days_period(today, today, zone)
    if date_range == "month":
        return days_period(this_month, next_month - DAY, zone)
    if date_range == "year":
        return days_period(date(today.year, 1, 1), date(today.year, 12, 31), zone)
    if date_range == "all":
        first = local(min(event.time for event in events), zone).date() if events else today
        return days_period(first, today, zone)
    number, unit = int(date_range.rstrip("dmo")), date_range.lstrip("0123456789")
    if unit == "d":
        return days_period(today - number * DAY, today - DAY, zone)
    return days_period(month_start(today, -number), this_month - DAY, zone)


def seconds(text):
    return int(datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp())


def a_year_before(day):
    return day.replace(year=day.year - 1, day=28 if (day.month, day.day) == (2, 29) else day.day)


def comparison_period(period, comparison, now):
    if comparison["mode"] == "custom":
        return days_period(*map(date.fromisoformat, comparison["date_range"]), period.zone)
    last = min(period.last, local(now, period.zone).date())
    if comparison["mode"] == "year_over_year":
        return days_period(a_year_before(period.first), a_year_before(last), period.zone)
    number_of_days = (last - period.first).days + 1
    return days_period(period.first - number_of_days * DAY, period.first - DAY, period.zone)


# ---------------------------------------------------------------------------------------------------------------------
# Filters
# ---------------------------------------------------------------------------------------------------------------------


def value(event, dimension):
    """What a report shows for an event under a dimension."""
    visit = event.visit
    kind, name = dimension.split(":", 1)
    if kind == "event":
        if name.startswith("props:"):
            return event.props.get(name.removeprefix("props:"), "(none)")
        return {"page": event.page, "hostname": event.hostname, "name": event.name}[name]
    if name == "entry_page":
        return visit.events[0].page
    if name == "exit_page":
        return (last_pageview(visit) or visit.events[-1]).page
    if name in ("browser", "os", "device"):
        return getattr(visit.agent, name)
    return visit.origin.get(name, "(not set)")


@dataclass(frozen=True)
class Named:
    """What questions may name: goals by their name and segments by their id, as the API speaks of them."""
    goals: dict = field(default_factory=dict)
    segments: dict = field(default_factory=dict)


def passes(event, condition, events, named=Named()):
    """Whether an event passes a filter. `events` are all events of the period, for has_done."""
    operator = condition[0]
    if operator == "and":
        return all(passes(event, part, events, named) for part in condition[1])
    if operator == "or":
        return any(passes(event, part, events, named) for part in condition[1])
    if operator == "not":
        return not passes(event, condition[1], events, named)
    if operator == "has_done":
        return any(passes(other, condition[1], events, named) for other in events if other.visit is event.visit)
    if operator == "has_not_done":
        return not passes(event, ["has_done", condition[1]], events, named)
    if operator == "at_least":
        read = {"event:scroll_depth": event.depth or 0, "event:time_on_page": event.engaged_ms / 1000}[condition[1]]
        return event.name == "pageview" and read >= condition[2][0]
    if condition[1] == "event:goal":
        found = any(reaches(event, named.goals[name], events, named) for name in condition[2])
        return not found if operator == "is_not" else found
    if condition[1] == "segment":
        found = any(all(passes(event, part, events, named) for part in named.segments[number]["filters"]) for number in condition[2])
        return not found if operator == "is_not" else found
    shown, wanted = value(event, condition[1]), condition[2]
    ignore_case = len(condition) > 3 and condition[3].get("case_sensitive") is False
    if operator.startswith("matches"):
        found = any(re.search(pattern, shown, re.IGNORECASE if ignore_case else 0) for pattern in wanted)
    else:
        if ignore_case:
            shown, wanted = shown.lower(), [text.lower() for text in wanted]
        if operator.startswith("is"):
            found = shown in wanted
        elif operator.startswith("starts_with"):
            found = any(shown.startswith(text) for text in wanted)
        else:
            found = any(text in shown for text in wanted)
    return not found if operator.endswith("_not") else found


def reaches(event, goal, events, named=Named()):
    """Whether an event reaches a goal."""
    if not all(passes(event, condition, events, named) for condition in goal.get("filters", [])):
        return False
    if goal["kind"] == "event":
        return event.name == goal["value"]
    if event.name != "pageview" or not page_suits(event.page, goal.get("match", "is"), goal["value"]):
        return False
    if goal["kind"] == "scroll":
        return event.depth is not None and event.depth >= goal["at_least"]
    return goal["kind"] == "page" or event.engaged_ms >= 1000 * goal["at_least"]


def page_suits(page, match, text):
    if match == "wildcard":
        return is_like(page, text)
    return {"is": page == text, "starts_with": page.startswith(text), "contains": text in page,
            "matches": match == "matches" and re.search(text, page)}[match]


def is_like(page, text):
    """Whether a page is like a text in which ** stands for anything, and * for anything without a slash."""
    if not text:
        return not page
    if text.startswith("**"):
        return any(is_like(page[length:], text.lstrip("*")) for length in range(len(page) + 1))
    if text.startswith("*"):
        longest = (page + "/").index("/")
        return any(is_like(page[length:], text[1:]) for length in range(longest + 1))
    return page[:1] == text[0] and is_like(page[1:], text[1:])


def mentions_page(conditions, named=Named()):
    """Whether the dimension event:page stands anywhere in these filters and in what they name, outside has_done."""
    for condition in conditions:
        if condition[0] in ("and", "or"):
            found = mentions_page(condition[1], named)
        elif condition[0] == "not":
            found = mentions_page([condition[1]], named)
        elif condition[1] == "event:goal":
            found = any(named.goals[name]["kind"] != "event" or mentions_page(named.goals[name]["filters"], named) for name in condition[2])
        elif condition[1] == "segment":
            found = any(mentions_page(named.segments[number]["filters"], named) for number in condition[2])
        elif condition[0] in ("has_done", "has_not_done"):
            found = False
        else:
            found = condition[1] == "event:page"
        if found:
            return True
    return False


def parts(filters, named):
    """The filters that must all hold, however they are put together and whether they are written out or called by a segment's id."""
    for condition in filters:
        if condition[0] == "and" or condition[0] == "or" and len(condition[1]) == 1:
            yield from parts(condition[1], named)
        elif condition[:2] == ["is", "segment"] and len(condition[2]) == 1:
            yield from parts(named.segments[condition[2][0]]["filters"], named)
        else:
            yield condition


def says_which_conversions(condition, named):
    """Whether a filter looks at goals or properties, outside has_done."""
    if condition[0] in ("and", "or"):
        return any(says_which_conversions(each, named) for each in condition[1])
    if condition[0] == "not":
        return says_which_conversions(condition[1], named)
    if condition[1] == "segment":
        return any(says_which_conversions(each, named) for number in condition[2] for each in named.segments[number]["filters"])
    return condition[0] not in ("has_done", "has_not_done") and (condition[1] == "event:goal" or condition[1].startswith("event:props:"))


# ---------------------------------------------------------------------------------------------------------------------
# Numbers
# ---------------------------------------------------------------------------------------------------------------------


def distinct_visits(events):
    visits = []
    for event in events:
        if event.visit not in visits:
            visits.append(event.visit)
    return visits


def visitor_count(events):
    return len({event.visit.visitor for event in events})


def ratio(above, below, nothing):
    return above / below if below else nothing


def number(metric, events, by_page, everybody):
    """One metric of a group of events.

    `by_page`: the question has a page in it, as a dimension or in a filter. `everybody`: the visitors of the same
    question without dimensions.
    """
    visits = distinct_visits(events)
    pageviews = pageviews_of(events)
    if metric == "visitors":
        return visitor_count(events)
    if metric == "visits":
        return len(visits)
    if metric == "pageviews":
        return len(pageviews)
    if metric == "events":
        return len(events)
    if metric == "views_per_visit":
        return ratio(len(pageviews), len(visits), 0)
    if metric in ("percentage", "conversion_rate", "group_conversion_rate"):
        return ratio(100 * visitor_count(events), everybody, 0)
    if metric == "bounce_rate":
        if by_page:
            visits = distinct_visits([event for event in events if event.page == event.visit.events[0].page])
        return ratio(100 * sum(bounced(visit) for visit in visits), len(visits), 0)
    if metric == "visit_duration":
        return ratio(sum(duration(visit) for visit in visits), len(visits), None)
    if metric == "exit_rate":
        last_ones = [event for event in pageviews if event is last_pageview(event.visit)]
        return ratio(100 * len(last_ones), len(pageviews), None)
    if metric == "time_on_page":
        return ratio(sum(event.engaged_ms for event in pageviews) / 1000, len(distinct_visits(pageviews)), None)
    if metric == "scroll_depth":
        deepest = []
        for visit in visits:
            depths = [event.depth for event in pageviews if event.visit is visit and event.depth is not None]
            if depths:
                deepest.append(max(depths))
        return ratio(sum(deepest), len(deepest), None)
    if metric in ("total_revenue", "average_revenue", "revenue_per_visitor"):
        return {currency: money(metric, currency, [event.revenue[0] for event in events if event.revenue and event.revenue[1] == currency], events)
                for currency in sorted({event.revenue[1] for event in events if event.revenue})}
    raise KeyError(metric)


def money(metric, currency, amounts, events):
    """An amount of one currency, as text with the digits that the currency has; per visitor with two more."""
    digits = DIGITS[currency] + (2 if metric == "revenue_per_visitor" else 0)
    parts = {"total_revenue": 1, "average_revenue": len(amounts), "revenue_per_visitor": visitor_count(events)}[metric]
    rounded = (sum(amounts) / parts).quantize(Decimal(1).scaleb(-digits), ROUND_HALF_EVEN)
    return str(abs(rounded) if rounded == 0 else rounded)


def change(metric, now, before, seen_before=True):
    """How much a number changed: in points for what is a percentage already, else in percent."""
    if now is None or before is None:
        return None
    if isinstance(now, dict):
        return {currency: change("visitors", float(now.get(currency, 0)), float(before.get(currency, 0))) for currency in sorted({*now, *before})}
    if metric in ("exit_rate", "scroll_depth", "percentage", "conversion_rate", "group_conversion_rate") or metric == "bounce_rate" and seen_before:
        return now - before
    if before == 0:  # a bounce rate too, of no visits
        return 0 if now == 0 else None
    return 100 * (now - before) / abs(before)


# ---------------------------------------------------------------------------------------------------------------------
# Rows
# ---------------------------------------------------------------------------------------------------------------------


def with_time_spelled_out(body, period):
    """The same query, with the unit that `time` stands for in this period put in its place."""
    if period.first is None:
        return body
    number_of_days = sum(day_exists(period.first + DAY * number, period.zone) for number in range(min(400, (period.last - period.first).days + 1)))
    meant = "time:hour" if number_of_days == 1 else "time:day" if number_of_days <= 92 else "time:month"
    return body | {
        "dimensions": [meant if name == "time" else name for name in body.get("dimensions") or []],
        "order_by": [[meant if name == "time" else name, direction] for name, direction in body.get("order_by") or []]}


def time_unit(dimension):
    """The unit of a time dimension; None for any other dimension."""
    return dimension.removeprefix("time:") if dimension.startswith("time:") else None


def values_of(event, dimension, period, events, named):
    """What an event counts under: one value, but as many goals as it reaches."""
    if dimension == "event:goal":
        return [name for name, goal in named.goals.items() if reaches(event, goal, events, named)]
    unit = time_unit(dimension)
    return [label(event.time, unit, period.zone) if unit else value(event, dimension)]


def buckets(period, unit, body, now):
    """The labels of the period; on request without those that lie wholly in the future."""
    if (body.get("include") or {}).get("trim_relative_date_range") and period.start <= now:
        period = Period(period.start, min(period.end, now + 1), period.zone)
    return labels(period, unit)


def count(events, body, period, now, named=Named()):
    """{values of the dimensions: numbers} of one period, not yet in any order."""
    dimensions, filters = body.get("dimensions") or [], body.get("filters") or []
    in_period = [event for event in events if period.start <= event.time < period.end]

    def choose(filters):
        return [event for event in in_period if all(passes(event, condition, in_period, named) for condition in filters)]

    def group(chosen, dimensions):
        groups = {}
        for event in chosen:
            for key in product(*(values_of(event, dimension, period, in_period, named) for dimension in dimensions)):
                groups.setdefault(key, []).append(event)
        return groups

    chosen, groups = choose(filters), {}
    times = [buckets(period, time_unit(name), body, now) if time_unit(name) else sorted(named.goals) if name == "event:goal" else None
             for name in dimensions]
    if None not in times:
        groups = {key: [] for key in product(*times)}
    groups.update(group(chosen, dimensions))
    # A conversion rate is of those who would be counted if it were not for the goal.
    everybody = choose([condition for condition in parts(filters, named) if not says_which_conversions(condition, named)])
    kept = {"percentage": [], "conversion_rate": [name for name in dimensions if time_unit(name)],
            "group_conversion_rate": [name for name in dimensions if name not in ("event:goal", "event:name") and not name.startswith("event:props:")]}

    wholes = {metric: group(chosen if metric == "percentage" else everybody, kept[metric]) for metric in kept if metric in body["metrics"]}

    def whole(metric, key):
        if metric not in wholes:
            return 0
        return visitor_count(wholes[metric].get(tuple(value for name, value in zip(dimensions, key) if name in kept[metric]), []))

    rows = {}
    for key, events_here in groups.items():
        by_page = "event:page" in dimensions or mentions_page(filters, named)
        if "event:goal" in dimensions:
            by_page = by_page or mentions_page([["is", "event:goal", [key[dimensions.index("event:goal")]]]], named)
        row = []
        for metric in body["metrics"]:
            counted = events_here
            if metric == "exit_rate" and dimensions == ["visit:exit_page"]:
                counted = [event for event in chosen if event.page == key[0]]
            row.append(number(metric, counted, by_page, whole(metric, key)))
        rows[key] = row
    return rows


def in_order(rows, body, period):
    """The keys of the rows, sorted. Sorting is stable, so the least important rule goes first."""
    dimensions = body.get("dimensions") or []

    def time_or_text(position):
        unit = time_unit(dimensions[position])
        chronological = labels(period, unit) if unit else []
        return lambda key: chronological.index(key[position]) if unit else key[position]

    def metric_value(name):
        column = body["metrics"].index(name)
        if name in ("total_revenue", "average_revenue", "revenue_per_visitor"):
            having = [currency for row in rows.values() for currency in row[column]]
            in_turn = sorted(set(having), key=lambda currency: (-having.count(currency), currency))
            return lambda key: [Decimal(rows[key][column].get(currency, "0")) for currency in in_turn]
        return lambda key: -1 if rows[key][column] is None else rows[key][column]

    keys = list(rows)
    for position in reversed(range(len(dimensions))):
        keys.sort(key=time_or_text(position))
    if body.get("order_by"):
        for name, direction in reversed(body["order_by"]):
            rule = time_or_text(dimensions.index(name)) if name in dimensions else metric_value(name)
            keys.sort(key=rule, reverse=direction == "desc")
    else:
        keys.sort(key=metric_value(body["metrics"][0]), reverse=True)
        for position in reversed(range(len(dimensions))):
            if time_unit(dimensions[position]):
                keys.sort(key=time_or_text(position))
    return keys


# ---------------------------------------------------------------------------------------------------------------------
# The query
# ---------------------------------------------------------------------------------------------------------------------


def query(sent, site, now, body, named=Named()):
    """Answer a query: {"results": […], "time_labels": […], "total_rows": N}. Numbers are not rounded."""
    events = [event for visit in visits_of(sent, site) for event in visit.events]
    period = period_of(body["date_range"], site.timezone, now, events)
    body = with_time_spelled_out(body, period)
    dimensions = body.get("dimensions") or []
    rows = count(events, body, period, now, named)
    keys = in_order(rows, body, period)
    results = [{"dimensions": list(key), "metrics": rows[key]} for key in keys]

    comparison = (body.get("include") or {}).get("comparisons")
    if comparison:
        add_comparison(results, body, period, events, comparison_period(period, comparison, now), now, named)

    pagination = body.get("pagination") or {}
    start = pagination.get("offset", 0)
    end = start + pagination["limit"] if "limit" in pagination else len(results)
    units = [time_unit(dimension) for dimension in dimensions if time_unit(dimension)]
    return {"results": results[start:end], "total_rows": len(results),
            "time_labels": buckets(period, units[0], body, now) if units else None}


def add_comparison(results, body, period, events, before, now, named):
    """Put the earlier numbers beside each row: the n-th bucket beside the n-th, any other row beside its namesake."""
    dimensions = body.get("dimensions") or []
    earlier = count(events, body, before, now, named)
    anything = count(events, body | {"metrics": ["events"]}, before, now, named)
    place = next((place for place, name in enumerate(dimensions) if time_unit(name)), None)
    if place is not None:
        now_names, then_names = (labels(each, time_unit(dimensions[place])) for each in (period, before))
    nothing = [number(metric, [], False, 0) for metric in body["metrics"]]
    for result in results:
        key = tuple(result["dimensions"])
        if place is not None:
            number_of_it = now_names.index(key[place])
            if number_of_it >= len(then_names):
                result["comparison"] = None
                continue
            key = (*key[:place], then_names[number_of_it], *key[place + 1:])
        metrics = earlier.get(key, nothing)
        result["comparison"] = {
            "dimensions": list(key), "metrics": metrics,
            "change": [change(metric, this, that, anything.get(key, [0]) != [0])
                       for metric, this, that in zip(body["metrics"], result["metrics"], metrics)]}


# ---------------------------------------------------------------------------------------------------------------------
# Journeys
# ---------------------------------------------------------------------------------------------------------------------


def node(event):
    """What of an event a journey tells."""
    return ("event:page", event.page) if event.name == "pageview" else ("event:name", event.name)


def way(visit, start, steps, direction):
    """The nodes that came after an event of a visit, or before it, the nearest first. What is repeated at once is told once."""
    place = visit.events.index(start)
    nodes = [node(start)]
    for event in visit.events[place:] if direction == "next" else reversed(visit.events[:place + 1]):
        if node(event) != nodes[-1]:
            nodes.append(node(event))
    return nodes[1:steps + 1]


def journeys(sent, site, now, body, named=Named()):
    """Answer a question of /api/journeys: {"visits", "steps", "links"}."""
    visits = visits_of(sent, site)
    events = [event for visit in visits for event in visit.events]
    period = period_of(body["date_range"], site.timezone, now, events)
    in_period = [event for event in events if period.start <= event.time < period.end]
    steps, limit, path = body.get("steps", 3), body.get("limit", 8), body.get("path", [])
    ways = []  # (visit, its way)
    for visit in visits:
        inside = [event for event in visit.events if event in in_period]
        starts = [event for event in inside if passes(event, body["start"], in_period, named)]
        is_chosen = any(all(passes(event, condition, in_period, named) for condition in body.get("filters", [])) for event in inside)
        if starts and is_chosen:
            nodes = way(visit, starts[0], steps, body.get("direction", "next"))
            if all(wanted is None or nodes[place:place + 1] == [tuple(wanted)] for place, wanted in enumerate(path)):
                ways.append((visit, nodes))

    def going_to(place, wanted):
        return [visit for visit, nodes in ways if nodes[place:place + 1] == [wanted]]

    shown = []
    for place in range(steps):
        found = {nodes[place] for _, nodes in ways if len(nodes) > place}
        shown.append(sorted(found, key=lambda each: (-len(going_to(place, each)), each[1], each[0] == "event:name"))[:limit])

    def row(place, nodes):
        """Where a way stands at a step: a row, -1 beside them, -2 at its end."""
        return -2 if len(nodes) <= place else shown[place].index(nodes[place]) if nodes[place] in shown[place] else -1

    told = []
    for place in range(steps):
        others = [nodes[place] for _, nodes in ways if row(place, nodes) == -1]
        told.append({"rows": [{"dimension": each[0], "value": each[1], "visits": len(going_to(place, each)),
                               "visitors": len({visit.visitor for visit in going_to(place, each)})} for each in shown[place]],
                     "other": {"values": len(set(others)), "visits": len(others)}, "ended": sum(row(place, nodes) == -2 for _, nodes in ways)})
    links = [(place, row(place, nodes), row(place + 1, nodes)) for place in range(steps - 1) for _, nodes in ways if row(place, nodes) != -2]
    return {"visits": len(ways), "steps": told, "links": [[*link, links.count(link)] for link in sorted(set(links))]}


# ---------------------------------------------------------------------------------------------------------------------
# Funnels
# ---------------------------------------------------------------------------------------------------------------------


def funnel(sent, site, now, body, named=Named()):
    """Answer a question about a funnel, which has all its fields: {"steps": […], "visitors": N}. Numbers are not rounded."""
    events = [event for visit in visits_of(sent, site) for event in visit.events]
    period = period_of(body["date_range"], site.timezone, now, events)
    rows, visitors = funnel_rows(events, period, body, named)
    comparison = (body.get("include") or {}).get("comparisons")
    if comparison:
        before, _ = funnel_rows(events, comparison_period(period, comparison, now), body, named)
        for row, old in zip(rows, before):
            row["comparison"] = {name: old[name] for name in ("visitors", "rate", "step_rate")}
            row["comparison"]["change"] = {"visitors": change("visitors", row["visitors"], old["visitors"]),
                                           **{name: change("conversion_rate", row[name], old[name]) for name in ("rate", "step_rate")}}
    return {"steps": rows, "visitors": visitors}


def funnel_rows(events, period, body, named):
    in_period = [event for event in events if period.start <= event.time < period.end]
    seen = [event for event in in_period if all(passes(event, condition, in_period, named) for condition in body.get("filters") or [])]
    seen.sort(key=lambda event: event.time)  # of one visitor, equal times stay in the order of arrival

    def does(event, step):
        return all(passes(event, condition, in_period, named) for condition in step["filters"])

    attempts = [best_attempt([event for event in seen if event.visit.visitor == visitor], body, does)
                for visitor in {event.visit.visitor for event in seen}]
    rows = []
    for place in range(len(body["steps"])):
        here = [attempt for attempt in attempts if len(attempt) > place]
        on = [attempt for attempt in attempts if len(attempt) > place + 1]
        is_last = place == len(body["steps"]) - 1
        first, before = (len([attempt for attempt in attempts if len(attempt) > each]) for each in (0, place - 1))
        rows.append({
            "visitors": len(here), "rate": ratio(100 * len(here), first, 0), "step_rate": ratio(100 * len(here), before, 0) if place else None,
            "drop_off": None if is_last else len(here) - len(on),
            "seconds": quartiles([attempt[place + 1].time - attempt[place].time for attempt in on]),
            "destinations": [] if is_last else destinations([attempt[-1] for attempt in here if attempt not in on], seen)})
    return rows, visitor_count(seen)


def best_attempt(hits, body, does):
    """One visitor's longest attempt, of those that are as long the one that began first: every hit is tried as the first."""
    best = []
    for place, hit in enumerate(hits):
        if not does(hit, body["steps"][0]):
            continue
        if body.get("window"):
            later = [each for each in hits[place + 1:] if each.time - hit.time <= body["window"]]
        else:
            later = [each for each in hits[place + 1:] if each.visit is hit.visit]
        further = straight_on if body.get("order") == "strict" else longest
        attempt = [hit, *further(later, body["steps"][1:], does)]
        if len(attempt) > len(best):
            best = attempt
    return best


def straight_on(hits, steps, does):
    if hits and steps and does(hits[0], steps[0]):
        return [hits[0], *straight_on(hits[1:], steps[1:], does)]
    return []


def longest(hits, steps, does):
    """The longest way through the steps; of those that are as long, the one that takes the first hit it can."""
    best = []
    for place, hit in enumerate(hits):
        if steps and does(hit, steps[0]):
            way = [hit, *longest(hits[place + 1:], steps[1:], does)]
            if len(way) > len(best):
                best = way
    return best


def quartiles(numbers):
    if not numbers:
        return None
    three = statistics.quantiles(numbers, n=4, method="inclusive") if len(numbers) > 1 else numbers * 3
    return dict(zip(("lower_quartile", "median", "upper_quartile"), three))


def destinations(last_hits, seen):
    """Where those went next, in the same visit, whose last hits in the funnel these are."""
    found = []
    for hit in last_hits:
        after = [each for each in seen[seen.index(hit) + 1:] if each.visit is hit.visit]
        found.append((None, None) if not after else ("event:page", after[0].page) if after[0].name == "pageview" else ("event:name", after[0].name))
    rows = [{"dimension": dimension, "value": value, "visitors": found.count((dimension, value))} for dimension, value in set(found)]
    return sorted(rows, key=lambda row: (-row["visitors"], row["dimension"] or "", row["value"] or ""))


# ---------------------------------------------------------------------------------------------------------------------
# Retention
# ---------------------------------------------------------------------------------------------------------------------


def interval_around(time, unit, zone):
    """(its first day, its first second, the second after its last) of the day or week that a moment is in."""
    first = date.fromisoformat(label(time, unit, zone))
    return first, day_start(first, zone), day_start(first + (DAY if unit == "day" else 7 * DAY), zone)


def retention(sent, site, now, body, named=Named()):
    """Answer a question of /api/retention: {"cohorts", "intervals"}, and in "needs" whether the rotation is too short for it."""
    visits = visits_of(sent, site)
    events = [event for visit in visits for event in visit.events]
    zone, unit = site.timezone, body["interval"]
    period = period_of(body["date_range"], zone, now, events)
    in_period = [event for event in events if period.start <= event.time < period.end]
    _, _, period_end = interval_around(period.end - 1, unit, zone)

    def times_of(visitor):
        return [event.time for visit in visits if visit.visitor == visitor for event in visit.events]

    def is_chosen(visitor):
        first = next(visit for visit in visits if visit.visitor == visitor)
        inside = [event for event in first.events if event in in_period]
        return any(all(passes(event, condition, in_period, named) for condition in body.get("filters", [])) for event in inside)

    first_times = {visit.visitor: min(times_of(visit.visitor)) for visit in visits}
    arriving = sorted((time, visitor) for visitor, time in first_times.items() if period.start <= time < period.end)
    rows, before = [], None
    for time, visitor in arriving:
        first_day, start, end = interval_around(time, unit, zone)
        stretch = visitor[1] if rotation_at(time, site) > 24 else "short ones"
        if before != (first_day, stretch):
            begins = local(time, zone).date() if before and before[0] == first_day else first_day
            if not rows or rows[-1]["start"] != begins.isoformat():
                rows.append({"start": begins.isoformat(), "who": [], "after": end})
            before = first_day, stretch
        rows[-1]["who"].append(visitor)
    for row in rows:
        who, time = [visitor for visitor in row["who"] if is_chosen(visitor)], row["after"]
        row["visitors"], row["returned"] = len(who), [len(who)]
        while time < period_end:
            _, start, end = interval_around(time, unit, zone)
            is_known = end <= now and all(rotation_at(first_times[each], site) > 24 and epoch_of(end - 1, site) == each[1] for each in row["who"])
            row["returned"].append(sum(any(start <= moment < end for moment in times_of(each)) for each in who) if is_known else None)
            time = end
    columns = max((1 + place for row in rows for place, seen in enumerate(row["returned"]) if seen is not None), default=0)
    if columns < 2 and rotation_at(now, site) < {"day": 48, "week": 336}[unit]:
        return {"cohorts": [], "intervals": 0, "needs": True}
    told = [{"start": row["start"], "visitors": row["visitors"], "returned": (row["returned"] + [None] * columns)[:columns]} for row in rows if row["visitors"]]
    return {"cohorts": told, "intervals": columns, "needs": False}
