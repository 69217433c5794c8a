"""The demo generator: made-up visits that are in every row what the collector would have written, and look like a real site's."""
import contextlib
import dataclasses
import itertools
import os
import sqlite3
import statistics
import subprocess
import sys
from collections import Counter, defaultdict
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from conftest import ROOT, MovableClock, Site, run_command
from mininumbers import (DEMO_CHUNK, ENGAGEMENT, Client, Event, Hit, InvalidInput, MiniNumbersError, Origin, Sender, Settings, Store,
                         check_database, create_app, current_visitors, demo_paths, epoch_at, fill_demo, get_site, settle_visits)

NOW = 1795187640  # 16:14 in Berlin on Friday, 20 November 2026: four weeks after its clocks went back
ZONE = ZoneInfo("Europe/Berlin")
DOMAIN = "demo.example"
PAGEVIEWS, DAYS = 30_000, 200


# ---- helpers ---------------------------------------------------------------------------------------------------------

@contextlib.contextmanager
def new_app(folder, **settings):
    with contextlib.closing(create_app(Settings(db=str(folder / "test.db"), geoip="", **settings), clock=MovableClock(NOW))) as app:
        yield app


def ask(app, sql, *values):
    return app.store.reader().execute(sql, values).fetchall()


def dicts(app, table):
    """Return the rows of a table as dicts, in the order of its key."""
    cursor = app.store.reader().execute(f"select * from {table}")
    names = [column for column, *_ in cursor.description]
    return [dict(zip(names, row)) for row in cursor]


class Filled:
    """What lies in a filled database, each id of a text replaced by the text."""

    def __init__(self, app):
        text = dict(ask(app, "select id, text from texts"))
        self.clients = {row.pop("id"): {name: text[value] for name, value in row.items()} for row in dicts(app, "clients")}
        self.origins = {row.pop("id"): {name: text[value] for name, value in row.items()} for row in dicts(app, "origins")}
        self.hits = [{**row, **{name: text[row[name]] for name in ("name", "page", "hostname")}} for row in dicts(app, "hits")]
        self.visits = [{**row, **{name: text[row[name]] for name in ("entry_page", "exit_page")}, "client": self.clients[row["client_id"]],
                        "origin": self.origins[row["origin_id"]]} for row in dicts(app, "visits")]
        self.props = {(row["hit_id"], text[row["key"]]): text[row["value"]] for row in dicts(app, "props")}
        self.revenue = {row["hit_id"]: (row["amount"], row["currency"]) for row in dicts(app, "revenue")}
        self.pageviews = [hit for hit in self.hits if hit["name"] == "pageview"]
        self.hits_of = defaultdict(list)
        for hit in self.hits:
            self.hits_of[hit["visit_id"]].append(hit)


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    """An app whose demo site lies in Berlin and has 30,000 pageviews of 200 days."""
    with new_app(tmp_path_factory.mktemp("demo")) as app:
        app.add_site(DOMAIN, timezone=ZONE.key)
        assert fill_demo(app, DOMAIN, PAGEVIEWS, DAYS, seed=1) == PAGEVIEWS
        yield app


@pytest.fixture(scope="module")
def filled(app):
    return Filled(app)


def second(hit):
    return hit["id"] >> 16


def local(hit):
    return datetime.fromtimestamp(second(hit), ZONE)


def share(rows, test):
    return sum(map(bool, map(test, rows))) / len(rows)


# ---- how much, and again -------------------------------------------------------------------------------------------

@pytest.mark.parametrize("pageviews, days", [(1, 1), (7, 365), (DEMO_CHUNK * 2 + 1, 1), (3_000, 1_000)])
def test_it_writes_exactly_the_pageviews_asked_for(tmp_path, pageviews, days):
    with new_app(tmp_path) as app:
        assert fill_demo(app, DOMAIN, pageviews, days, seed=3) == pageviews
        assert ask(app, "select count(*) from hits where name = 1") == [(pageviews,)]
        assert check_database(app.store) == []


@pytest.mark.parametrize("offset", (1, 600, 4_000))
def test_the_count_is_exact_though_visits_are_still_going_on(tmp_path, offset):
    with new_app(tmp_path) as app:
        app.clock.now = NOW - NOW % 86_400 + offset  # just after midnight, when today's visits can hardly have an end
        assert fill_demo(app, DOMAIN, 1_000, 1, seed=4) == 1_000
        assert ask(app, "select count(*) from hits where name = 1") == [(1_000,)]
        assert check_database(app.store) == []


def dump(folder, seed):
    """Return everything that a small demo of that seed is, as SQL."""
    folder.mkdir()
    with new_app(folder) as app:
        fill_demo(app, DOMAIN, 2_000, 30, seed)
        return list(app.store.reader().iterdump())


def dump_of_another_process(folder, seed):
    """Return the same, made where sets of texts come in another order."""
    folder.mkdir()
    script = (f"import sys; sys.path.insert(0, {str(ROOT)!r}); import mininumbers\n"
              f"app = mininumbers.create_app(mininumbers.Settings(db={str(folder / 'test.db')!r}, geoip=''), clock=lambda: {NOW})\n"
              f"mininumbers.fill_demo(app, {DOMAIN!r}, 2_000, 30, {seed}); app.close()")
    subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ, "PYTHONHASHSEED": "1"})
    with contextlib.closing(sqlite3.connect(folder / "test.db")) as db:
        return list(db.iterdump())


def test_the_same_seed_at_the_same_time_gives_the_same_rows(tmp_path):
    first = dump(tmp_path / "first", seed=5)
    assert len(first) > 2_000
    assert first == dump(tmp_path / "again", seed=5) == dump_of_another_process(tmp_path / "elsewhere", seed=5)
    assert first != dump(tmp_path / "other", seed=6)


# ---- the rows, recounted -----------------------------------------------------------------------------------------------

def test_the_database_is_sound(app):
    assert check_database(app.store) == []


def test_it_covers_the_whole_days_asked_for_and_today_until_now(filled):
    first = datetime(2026, 11, 20, tzinfo=ZONE) - timedelta(days=DAYS)
    days = {local(hit).date() for hit in filled.hits}
    assert days == {(first + timedelta(days=number)).date() for number in range(DAYS + 1)}
    assert max(map(second, filled.hits)) < NOW


def test_ids_count_up_from_zero_within_each_second(filled):
    places = defaultdict(list)
    for hit in filled.hits:
        places[second(hit)].append(hit["id"] & 0xFFFF)
    assert all(numbers == list(range(len(numbers))) for numbers in places.values())


def test_a_visit_is_named_after_its_first_hit_and_every_hit_has_a_visit(filled):
    assert [visit["id"] for visit in filled.visits] == sorted(filled.hits_of)
    assert all(hits[0]["id"] == visit_id for visit_id, hits in filled.hits_of.items())


def test_a_visit_agrees_with_its_hits(filled):
    for visit in filled.visits:
        hits = filled.hits_of[visit["id"]]
        pageviews = [hit for hit in hits if hit["name"] == "pageview"]
        assert visit["pageviews"] == len(pageviews) >= 1
        assert visit["entry_page"] == hits[0]["page"]
        assert (visit["exit_id"], visit["exit_page"]) == (pageviews[-1]["id"], pageviews[-1]["page"])
        assert visit["interactive"] == any(hit["name"] not in ("pageview", "newsletter shown") for hit in hits)


def test_a_visit_lasts_until_its_last_sign_of_life(filled):
    for visit in filled.visits:
        hits = filled.hits_of[visit["id"]]
        last = [hit for hit in hits if hit["name"] == "pageview"][-1]
        least, told = second(hits[-1]) - second(hits[0]), second(last) - second(hits[0]) + last["engaged"] / 1000
        assert visit["duration"] >= max(least, told) if last["engaged"] else visit["duration"] == least


def test_no_gap_within_a_visit_could_have_ended_it(filled):
    for visit in filled.visits:
        moments = [*map(second, filled.hits_of[visit["id"]]), second(visit) + visit["duration"]]
        assert all(later - earlier <= 1800 for earlier, later in itertools.pairwise(moments))


def test_nobody_is_engaged_longer_than_a_page_was_open(filled):
    for visit in filled.visits:
        pageviews = [hit for hit in filled.hits_of[visit["id"]] if hit["name"] == "pageview"]
        ends = [*map(second, pageviews[1:]), second(visit) + visit["duration"]]
        for hit, end in zip(pageviews, ends):
            assert 0 <= hit["engaged"] <= 1000 * (end - second(hit))
            assert (hit["scroll"] is None) == (hit["engaged"] == 0)
            assert hit["scroll"] is None or 0 <= hit["scroll"] <= 100


def test_only_visits_that_may_go_on_are_live(filled):
    for visit in filled.visits:
        assert visit["live"] == (NOW - second(visit) - visit["duration"] <= 1800)


def test_some_visits_are_in_progress(tmp_path):
    with new_app(tmp_path) as app:
        fill_demo(app, DOMAIN, 3_000, 1, seed=1)
        live = Filled(app).visits[-100:]
        assert 0 < sum(visit["live"] for visit in live) < 100
        assert current_visitors(app.store.reader(), get_site(app.store.reader(), app.settings, DOMAIN), NOW) > 0


@pytest.mark.parametrize("rotation_hours", [6, 24, 168])
def test_a_visitor_comes_back_within_an_epoch_and_never_after(tmp_path, rotation_hours):
    with new_app(tmp_path) as app:
        app.add_site(DOMAIN, timezone=ZONE.key, rotation_hours=rotation_hours)
        fill_demo(app, DOMAIN, 6_000, 20, seed=2)
        visits_of = defaultdict(list)
        for visit in Filled(app).visits:
            visits_of[visit["visitor"]].append(visit)
        assert any(len(visits) > 1 for visits in visits_of.values())
        for visits in visits_of.values():
            assert len({epoch_at(second(visit), rotation_hours, ZONE)[0] for visit in visits}) == 1
            assert len({visit["client_id"] for visit in visits}) == 1, "it is the same browser"
            assert all(second(after) - second(before) - before["duration"] > 1800 for before, after in itertools.pairwise(visits))


def test_properties_and_revenue_belong_to_the_events_that_have_them(filled):
    names = {hit["id"]: hit["name"] for hit in filled.hits}
    keys = {(names[hit_id], key) for hit_id, key in filled.props}
    assert keys == {("Outbound Link: Click", "url"), ("File Download", "url"), ("signup", "plan"), ("purchase", "plan"),
                    ("newsletter shown", "place")}
    assert {hit_id for hit_id, _ in filled.props} == {hit_id for hit_id, name in names.items() if name != "pageview"}
    assert {names[hit_id] for hit_id in filled.revenue} == {"purchase"}
    assert len(filled.revenue) == Counter(names.values())["purchase"] > 0


def told(app):
    """Return all that reports are made of, in words, with visitors numbered by their first visit."""
    filled, numbers = Filled(app), {}
    visits = [{**visit, "visitor": numbers.setdefault(visit["visitor"], len(numbers)), "client_id": 0, "origin_id": 0}
              for visit in filled.visits]
    return {"visits": visits, "hits": filled.hits, "props": filled.props, "revenue": filled.revenue}


def replayed(filled, site):
    """Yield the Hits, engagement among them, that a collector must have met to write what is there."""
    for visit in filled.visits:
        sender, common = Sender(str(visit["visitor"]), "browser"), (Client(**visit["client"]), Origin(**visit["origin"]))
        hits = filled.hits_of[visit["id"]]
        pageviews = [hit for hit in hits if hit["name"] == "pageview"]
        last = (second(visit) + visit["duration"]) << 16 | 0xFFFF
        ends = dict(zip((hit["id"] for hit in pageviews), [*(hit["id"] for hit in pageviews[1:]), last]))
        for hit in hits:
            props = tuple((key, value) for (hit_id, key), value in filled.props.items() if hit_id == hit["id"])
            event = Event(hit["name"], (DOMAIN,), hit["page"], hit["hostname"], "", "", props, filled.revenue.get(hit["id"]),
                          hit["name"] != "newsletter shown", None, 0, None)
            yield (hit["id"], 1), Hit(site, second(hit), sender, event, lambda common=common: common)
            if hit["engaged"]:
                end = ends[hit["id"]]
                event = dataclasses.replace(event, name=ENGAGEMENT, scroll=hit["scroll"], engaged=hit["engaged"])
                yield (end, 0), Hit(site, end >> 16, sender, event, lambda common=common: common)


def test_the_collector_would_have_written_the_same(tmp_path):
    for folder in ("demo", "collector"):
        (tmp_path / folder).mkdir()
    with new_app(tmp_path / "demo") as demo, new_app(tmp_path / "collector") as other:
        for app in (demo, other):
            app.add_site(DOMAIN, timezone=ZONE.key)
        fill_demo(demo, DOMAIN, 2_000, 3, seed=8)
        site = get_site(other.store.reader(), other.settings, DOMAIN)
        hits = [hit for _, hit in sorted(replayed(Filled(demo), site), key=lambda pair: pair[0])]
        reasons = other.store.transact(lambda db: other.collector.record(db, [[hit] for hit in hits]))
        assert {reason for each in reasons for reason in each} == {""}
        settle_visits(other)
        expected, found = told(other), told(demo)
        for table in expected:
            assert found[table] == expected[table]


def test_reports_find_what_was_written(app):
    site = Site(app, DOMAIN)
    assert site.numbers("pageviews", date_range="all") == PAGEVIEWS
    counted, = ask(app, "select count(*), round(100.0 * avg(pageviews = 1 and not interactive), 2) from visits where site_id = 1")
    assert site.numbers("visits", "bounce_rate", date_range="all") == list(counted)


# ---- shapes ------------------------------------------------------------------------------------------------------------

def test_about_half_of_the_visits_bounce_and_the_others_read_on(filled):
    assert 0.45 < share(filled.visits, lambda visit: visit["pageviews"] == 1 and not visit["interactive"]) < 0.55
    assert 2.6 < len(filled.pageviews) / len(filled.visits) < 3.2
    assert 60 < statistics.mean(visit["duration"] for visit in filled.visits) < 400
    assert 0.8 < share(filled.pageviews, lambda hit: hit["engaged"]) < 0.95


def test_days_off_are_quieter_than_workdays_and_nights_than_days(filled):
    weekdays = Counter(local(hit).weekday() for hit in filled.hits)
    assert max(weekdays[5], weekdays[6]) < 0.85 * min(weekdays[day] for day in range(5))
    hours = Counter(local(hit).hour for hit in filled.hits)
    assert max(hours[hour] for hour in range(6)) * 2 < min(hours[hour] for hour in range(9, 18))
    assert min(hours, key=hours.get) in (2, 3, 4), "by the site's clock"


def test_traffic_grows_and_has_spikes(filled):
    days = Counter(local(hit).date() for hit in filled.hits)
    counts = [count for _, count in sorted(days.items())]
    assert statistics.median(counts[-60:]) > 1.15 * statistics.median(counts[:60])
    assert max(counts) > 1.8 * statistics.median(counts)


def test_a_spike_comes_from_somewhere(filled):
    days = Counter(local(visit).date() for visit in filled.visits)
    busiest, _ = days.most_common(1)[0]
    then = [visit for visit in filled.visits if local(visit).date() == busiest]
    assert share(then, lambda visit: visit["origin"]["source"] in ("Hacker News", "Reddit")) > 0.3
    assert share(filled.visits, lambda visit: visit["origin"]["source"] in ("Hacker News", "Reddit")) < 0.2


def test_few_pages_have_most_of_the_views(filled):
    pages = Counter(hit["page"] for hit in filled.pageviews)
    assert pages.most_common(1)[0][0] == "/"
    ranked = sorted(pages.values(), reverse=True)
    assert 280 <= len(ranked) <= 300
    assert sum(ranked[:30]) > 0.6 * sum(ranked)
    assert ranked[0] > 5 * ranked[10] > 10 * ranked[100]


@pytest.mark.parametrize("count", [20, 300, 200_000])
def test_paths_are_all_different(count):
    assert len(set(demo_paths(count))) == len(demo_paths(count)) == count


def test_many_paths_are_not_folded_into_other(tmp_path):
    with new_app(tmp_path, new_values_per_day=100) as app:
        fill_demo(app, DOMAIN, 10_000, 10, seed=1, paths=50_000)
        pages = {hit["page"] for hit in Filled(app).hits}
        assert len(pages) > 2_500
        assert "(other)" not in pages


def test_browsers_run_on_the_systems_they_exist_for(filled):
    for client in filled.clients.values():
        if client["browser"] == "Safari":
            assert client["os"] in ("macOS", "iOS")
        if client["os"] == "iOS" and client["browser"] == "Safari":
            assert client["browser_version"] == client["os_version"].partition(".")[0]
        if client["browser"] == "Samsung Internet":
            assert client["os"] == "Android"
        if client["os"] in ("iOS", "Android"):
            assert client["device"] in ("Mobile", "Tablet")
        if client["device"] == "Mobile":
            assert client["screen"] == "Mobile"
        if client["device"] == "Desktop":
            assert client["screen"] in ("Laptop", "Desktop")


def test_languages_mostly_fit_their_countries(filled):
    for country, language in {"US": "en", "DE": "de", "FR": "fr", "NL": "nl", "BR": "pt", "JP": "ja"}.items():
        there = [visit["client"] for visit in filled.visits if visit["client"]["country"] == country]
        assert 0.6 < share(there, lambda client: client["language"] == language) <= 1
    assert share(filled.visits, lambda visit: visit["client"]["language"] == "en") > 0.3


CHANNELS = {  # (source, medium) → channel
    ("", ""): "Direct", ("Google", ""): "Organic Search", ("DuckDuckGo", ""): "Organic Search", ("Google", "cpc"): "Paid Search",
    ("Bing", "cpc"): "Paid Search", ("Facebook", "paid_social"): "Paid Social", ("Facebook", ""): "Organic Social",
    ("X", ""): "Organic Social", ("Hacker News", ""): "Organic Social", ("LinkedIn", "social"): "Organic Social",
    ("YouTube", ""): "Organic Video", ("ChatGPT", ""): "AI Assistants", ("Claude", ""): "AI Assistants", ("newsletter", "email"): "Email",
    ("Gmail", ""): "Email", ("GitHub", ""): "Referral", ("partners", "affiliate"): "Affiliates", ("adverts", "display"): "Display",
    ("podcast", "audio"): "Audio"}


def test_channels_and_sources_do_not_contradict_each_other(filled):
    found = defaultdict(set)
    for visit in filled.visits:
        found[visit["origin"]["source"], visit["origin"]["utm_medium"]].add(visit["origin"]["channel"])
    assert {pair: found[pair] for pair in CHANNELS} == {pair: {channel} for pair, channel in CHANNELS.items()}
    assert "Unassigned" not in set().union(*found.values())


def test_campaigns_lead_to_their_pages(filled):
    entries = defaultdict(set)
    for visit in filled.visits:
        entries[visit["origin"]["utm_campaign"]].add(visit["entry_page"])
    assert entries["digest"] == {"/changelog"}
    assert entries["rivals"] == {"/features"}
    assert len(entries[""]) > 100


def test_signups_and_purchases_happen_where_the_visit_led(filled):
    for name, pages in (("signup", ["/pricing", "/signup"]), ("purchase", ["/pricing", "/checkout"])):
        events = [hit for hit in filled.hits if hit["name"] == name]
        assert len(events) > 20
        for event in events:
            assert [hit["page"] for hit in filled.hits_of[event["visit_id"]] if hit["name"] == "pageview"][-2:] == pages
            assert event["page"] == pages[-1]


def test_people_pay_in_the_currency_of_their_country(filled):
    client_of = {visit["id"]: visit["client"] for visit in filled.visits}
    bought = {hit["id"]: client_of[hit["visit_id"]]["country"] for hit in filled.hits if hit["name"] == "purchase"}
    for hit_id, (amount, currency) in filled.revenue.items():
        assert amount in {price * months for price in (900, 2_900, 9_900) for months in (1, 10)}
        assert (currency == "EUR") == (bought[hit_id] in "DE FR NL ES IT AT BE FI PT IE GR".split())
    assert {currency for _, currency in filled.revenue.values()} == {"EUR", "USD"}


def test_every_day_has_hits_that_did_not_count(app):
    dropped = dicts(app, "dropped")
    assert {row["reason"] for row in dropped} == {"bot", "spam", "hostname", "no-visit"}
    assert len({row["day"] for row in dropped}) > 0.95 * DAYS
    assert 0.02 * PAGEVIEWS < sum(row["count"] for row in dropped) < 0.1 * PAGEVIEWS


# ---- the site and its settings -----------------------------------------------------------------------------------------

def test_a_site_is_added_where_there_is_none(tmp_path):
    with new_app(tmp_path) as app:
        fill_demo(app, "www.New.example", 100, 3, seed=1)
        assert ask(app, "select domain, timezone from sites") == [("new.example", "UTC")]


def test_a_site_with_data_is_refused_and_left_as_it_was(app):
    before = ask(app, "select count(*), max(id) from hits")
    with pytest.raises(MiniNumbersError, match="has data"):
        fill_demo(app, DOMAIN, 100, 3, seed=1)
    assert ask(app, "select count(*), max(id) from hits") == before


def test_another_site_in_the_same_database_is_left_alone(app, filled):
    fill_demo(app, "second.example", 500, 5, seed=1)
    assert ask(app, "select count(*) from hits where site_id = 1") == [(len(filled.hits),)]
    assert ask(app, "select count(*) from hits where site_id = 2 and name = 1") == [(500,)]
    assert check_database(app.store) == []


@pytest.mark.parametrize("arguments", [
    {"pageviews": 0}, {"pageviews": 2_000_000_000}, {"days": 0}, {"days": 4_000}, {"paths": 19}, {"paths": 200_001}], ids=str)
def test_a_number_out_of_range_is_refused_before_anything_is_written(tmp_path, arguments):
    with new_app(tmp_path) as app:
        with pytest.raises(InvalidInput, match=next(iter(arguments))):
            fill_demo(app, DOMAIN, **{"pageviews": 10, "days": 3, "seed": 1, **arguments})
        assert ask(app, "select * from sites") == []


def test_a_paranoid_site_stores_nothing_of_the_client_and_only_hosts_of_referrers(tmp_path):
    with new_app(tmp_path, mode="paranoid") as app:
        fill_demo(app, DOMAIN, 3_000, 10, seed=1)
        filled = Filled(app)
        assert list(filled.clients.values()) == [dataclasses.asdict(Client())]
        assert not any("/" in origin["referrer"] for origin in filled.origins.values())


def test_visitors_who_send_gpc_are_counted_as_in_paranoid(filled):
    private = [visit for visit in filled.visits if not any(visit["client"].values())]
    assert 0.02 < len(private) / len(filled.visits) < 0.06
    assert not any("/" in visit["origin"]["referrer"] for visit in private)
    assert any("/" in visit["origin"]["referrer"] for visit in filled.visits)


@pytest.mark.parametrize("gpc", ["drop", "ignore"])
def test_where_gpc_is_treated_otherwise_every_visit_has_its_client(tmp_path, gpc):
    with new_app(tmp_path, gpc=gpc) as app:
        fill_demo(app, DOMAIN, 3_000, 10, seed=1)
        assert all(client["country"] for client in Filled(app).clients.values())
        assert bool(ask(app, "select 1 from dropped where reason = 'gpc'")) == (gpc == "drop")


def test_transactions_are_short(tmp_path, monkeypatch):
    written, transact = [], Store.transact

    def counting(store, function):
        def counted(db):
            before = db.total_changes
            result = function(db)
            written.append(db.total_changes - before)
            return result
        return transact(store, counted)
    monkeypatch.setattr(Store, "transact", counting)
    with new_app(tmp_path) as app:
        fill_demo(app, DOMAIN, 3 * DEMO_CHUNK, 1, seed=1)
    assert max(written) < 2 * DEMO_CHUNK
    assert sum(written) > 3 * DEMO_CHUNK


def test_no_text_client_or_origin_is_there_that_nothing_names(app):
    columns = {"hits": ("name", "page", "hostname"), "props": ("key", "value"),
               "clients": [each.name for each in dataclasses.fields(Client)], "origins": [each.name for each in dataclasses.fields(Origin)]}
    used = " union ".join(f"select {column} from {table}" for table in columns for column in columns[table])
    assert ask(app, f"select text from texts where id > 2 and id not in ({used})") == []
    for table, column in (("clients", "client_id"), ("origins", "origin_id")):
        assert ask(app, f"select id from {table} where id not in (select {column} from visits)") == []


# ---- the command -------------------------------------------------------------------------------------------------------

def test_the_command_fills_a_site_once(tmp_path):
    arguments = ("demo", "--db", tmp_path / "new.db", "--site", "shop.example", "--pageviews", 1_500, "--days", 20, "--seed", 7,
                 "--paths", 50)
    done = run_command(*arguments)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "Wrote 1500 pageviews of shop.example.\n")
    assert run_command("check", "--db", tmp_path / "new.db").stdout == "ok\n"
    again = run_command(*arguments)
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr.startswith("mininumbers: site: shop.example has data")


@pytest.mark.parametrize("flag, value", [("--pageviews", "many"), ("--days", "0"), ("--paths", "3")])
def test_the_command_says_in_one_line_what_is_wrong(tmp_path, flag, value):
    done = run_command("demo", "--db", tmp_path / "new.db", flag, value)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert flag.strip("-") in done.stderr
