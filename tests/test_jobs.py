"""What is done in the background: salts destroyed, visits settled, old data purged; and the scheduler that sees to it.

Contents: settling · retention · removed sites · what nobody names any more · beside collection · the file · the scheduler
"""
import contextlib
import dataclasses
import random
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from conftest import CHROME, MovableClock, Site, run_command
from hypothesis import given, settings as hypothesis_settings
from hypothesis import strategies as st

import mininumbers
from mininumbers import Busy, Scheduler, check_database, create_app, purge, rotate_salts, settle_visits

DAY, HOUR, TIMEOUT = 86_400, 3600, 1800
PATIENCE = 20  # seconds until a test gives up waiting for what must happen


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """Passwords are not what is tested here."""
    monkeypatch.setitem(mininumbers.SCRYPT, "n", 16)


@pytest.fixture
def app(app, monkeypatch):
    """An app whose jobs run when a test says so."""
    monkeypatch.setattr(app.scheduler, "start", lambda: None)
    return app


@pytest.fixture
def site(app):
    return Site(app)


def rows(app, query, *values):
    with contextlib.closing(sqlite3.connect(app.settings.db)) as db:
        return db.execute(query, values).fetchall()


def one(app, query, *values):
    return rows(app, query, *values)[0][0]


def pages(app, site_id=1):
    return [page for page, in rows(app, "select text from hits join texts on texts.id = page where site_id = ? order by hits.id", site_id)]


def add_site(app, domain="other.example", **values):
    app.add_site(domain, **values)
    return Site(app, domain)


# ---- settling --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("silence, live", [(0, 1), (TIMEOUT, 1), (TIMEOUT + 1, 0), (DAY, 0)])
def test_a_visit_is_settled_after_half_an_hour_of_silence(app, site, clock, silence, live):
    site.send()
    clock.advance(silence)
    settle_visits(app)
    assert rows(app, "select live from visits") == [(live,)]


def test_engagement_is_a_sign_of_life(app, site, clock):
    site.send()
    clock.advance(TIMEOUT)
    site.send(name="engagement", e=1000)
    clock.advance(TIMEOUT)
    settle_visits(app)
    assert rows(app, "select live from visits") == [(1,)]


@hypothesis_settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2 * TIMEOUT), st.sampled_from("abc"), st.booleans()), max_size=12))
def test_no_number_depends_on_when_visits_are_settled(tmp_path_factory, traffic):
    numbers = []
    for settling in (True, False):
        clock = MovableClock()
        settings = mininumbers.Settings(db=str(tmp_path_factory.mktemp("settling") / "test.db"), geoip="")
        with contextlib.closing(create_app(settings, clock)) as app:
            app.scheduler.start = lambda: None
            app.add_site("example.com")
            site = Site(app)
            for pause, visitor, is_pageview in traffic:
                clock.advance(pause)
                if settling:
                    settle_visits(app)
                site.send(f"/{visitor}", "pageview" if is_pageview else "engagement", ip=f"192.0.2.{ord(visitor)}", e=1000)
            query = site.query("visitors", "visits", "pageviews", "bounce_rate", "visit_duration", date_range=["2026-03-01", "2026-03-09"])
            realtime = site.web.get("/api/v1/stats/realtime/visitors?site_id=example.com", headers={"Authorization": f"Bearer {site.token}"}).json
            numbers.append((query["results"], realtime))
    assert numbers[0] == numbers[1]


# ---- retention -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "Pacific/Midway", "Asia/Kathmandu", "America/Havana"])
@pytest.mark.parametrize("days", [1, 3])
def test_retention_keeps_whole_local_days(app, clock, zone, days):
    site = add_site(app, timezone=zone, retention_days=days)
    clock.set(int(datetime(2026, 3, 5, 3, 30, tzinfo=ZoneInfo("UTC")).timestamp()))
    moments = [clock.now + number * 3 * HOUR for number in range(40)]
    for moment in moments:
        clock.set(moment)
        site.send(f"/{moment}")
    today = datetime.fromtimestamp(clock.now, ZoneInfo(zone)).date()
    kept = [moment for moment in moments if datetime.fromtimestamp(moment, ZoneInfo(zone)).date() >= today - timedelta(days=days)]
    assert purge(app) == len(moments) - len(kept) > 0
    assert pages(app, 2) == [f"/{moment}" for moment in kept]
    assert check_database(app.store) == []


def test_every_site_has_its_own_retention(app, clock):
    sites = [Site(app), *(add_site(app, f"{days}.example", retention_days=days) for days in (0, 2, 5, "default"))]
    for day in range(8):
        for site in sites:
            site.send(f"/{day}")
        clock.advance(DAY)
    purge(app)
    counts = [len(pages(app, site_id)) for site_id in range(1, 6)]
    assert counts == [8, 8, 2, 5, 8]


def test_a_site_without_retention_of_its_own_has_the_instances(settings, clock, monkeypatch):
    with contextlib.closing(create_app(dataclasses.replace(settings, retention_days=3), clock)) as app:
        app.scheduler.start = lambda: None
        app.add_site("example.com")
        keeping = add_site(app, "keeping.example", retention_days=0)
        for _ in range(6):
            Site(app).send()
            keeping.send()
            clock.advance(DAY)
        purge(app)
        assert (len(pages(app, 1)), len(pages(app, 2))) == (3, 6)


def test_everything_that_belongs_to_a_hit_goes_with_it(app, clock):
    site = add_site(app, retention_days=2)
    for day in range(5):
        site.send(f"/{day}", p={"day": day, "plan": "gold"}, **{"$": {"amount": day + 1, "currency": "EUR"}})
        site.send("/", d="other.example", host="elsewhere.example")  # dropped
        clock.advance(DAY)
    purge(app)
    assert pages(app, 2) == ["/3", "/4"]
    assert rows(app, "select amount from revenue") == [(400,), (500,)]
    assert rows(app, "select k.text, v.text from props join texts k on k.id = key join texts v on v.id = value order by hit_id, 1") \
        == [("day", "3"), ("plan", "gold"), ("day", "4"), ("plan", "gold")]
    assert rows(app, "select day from dropped order by 1") == [("2026-03-05",), ("2026-03-06",)]
    assert one(app, "select count(*) from visits") == 2


def test_reports_of_what_is_kept_do_not_change(app, clock):
    site, chance = add_site(app, retention_days=3), random.Random(1)
    for _ in range(6):
        for _ in range(12):
            site.send(f"/{chance.randrange(5)}", chance.choice(["pageview", "pageview", "Sign up"]), ip=f"192.0.2.{chance.randrange(4)}",
                      r=chance.choice(["", "https://t.co/a", "https://news.example/b"]), p={"plan": chance.choice("ab")})
            clock.advance(chance.choice([60, 600, 2000]))
        clock.set((clock.now // DAY + 1) * DAY + DAY // 2)

    def reports():
        kept = ["2026-03-05", "2026-03-08"]
        return [site.rows("visitors", "visits", "pageviews", "bounce_rate", "visit_duration", dimensions=[dimension], date_range=kept)
                for dimension in ("time:day", "event:page", "visit:source", "event:props:plan", "visit:entry_page", "visit:exit_page", "event:name")]
    before = reports()
    assert purge(app) > 0
    assert reports() == before


def test_a_visit_across_the_edge_of_retention_stays_with_the_hits_that_do(app, clock):
    site = add_site(app, retention_days=1)
    clock.set(int(datetime(2026, 3, 2, 23, 45, tzinfo=ZoneInfo("UTC")).timestamp()))
    for page in ("/entry", "/before", "/after"):
        site.send(page)
        clock.advance(600)
    clock.set(int(datetime(2026, 3, 4, 12, tzinfo=ZoneInfo("UTC")).timestamp()))
    purge(app)
    assert pages(app, 2) == ["/after"]
    assert site.rows("visitors", "visits", "pageviews", "visit_duration", dimensions=["visit:entry_page"], date_range=["2026-03-01", "2026-03-04"]) \
        == [("/entry", 1, 1, 1, 1200)]
    assert check_database(app.store) == []
    clock.advance(DAY)
    purge(app)
    assert one(app, "select count(*) from visits") == 0


def test_a_visit_in_progress_is_never_purged(app, clock):
    site = add_site(app, retention_days=1)
    for _ in range(3 * 48 + 1):
        site.send()
        clock.advance(TIMEOUT)
    purge(app)
    site.send()
    assert rows(app, "select count(*) from visits") == [(1,)]
    assert check_database(app.store) == []


def test_purging_twice_deletes_nothing_more(app, clock):
    site = add_site(app, retention_days=1)
    for _ in range(5):
        site.send()
        clock.advance(DAY)
    assert purge(app) == 4
    assert purge(app) == 0


def test_the_command_line_purges_by_the_retention_it_is_given(tmp_path, settings):
    clock = MovableClock(datetime.now().timestamp() - 10 * DAY)
    with contextlib.closing(create_app(settings, clock)) as app:
        app.add_site("example.com")
        for _ in range(10):
            Site(app).send()
            clock.advance(DAY)
    assert run_command("purge", "--db", settings.db).stdout == "Deleted 0 hits.\n"
    assert run_command("purge", "--db", settings.db, "--retention-days", "4").stdout == "Deleted 6 hits.\n"
    assert run_command("check", "--db", settings.db).stdout == "ok\n"


# ---- removed sites ---------------------------------------------------------------------------------------------------

TABLES = ("hits", "visits", "props", "revenue", "dropped", "salts")


def visit_and_leave(app):
    """A site with a row in every table."""
    site = add_site(app)
    site.send("/only-here", p={"only": "here"}, r="https://only.example/", **{"$": {"amount": 1, "currency": "EUR"}})
    site.send("/", host="elsewhere.example")
    assert all(one(app, f"select count(*) from {table} where site_id = 2") for table in TABLES)


def test_removing_a_site_removes_all_it_collected(app, site):
    site.send("/kept", p={"kept": "too"})
    visit_and_leave(app)
    app.remove_site("other.example")
    assert [one(app, f"select count(*) from {table} where site_id = 2") for table in TABLES] == [0] * len(TABLES)
    assert pages(app) == ["/kept"]
    assert rows(app, "select text from texts where text like '%only%' or text = 'here'") == []
    assert check_database(app.store) == []


def test_what_a_crash_left_of_a_removed_site_is_purged_later(app, site):
    visit_and_leave(app)
    app.store.transact(lambda db: db.execute("delete from sites where domain = 'other.example'"))
    purge(app)
    assert [one(app, f"select count(*) from {table} where site_id = 2") for table in TABLES if table != "salts"] == [0] * (len(TABLES) - 1)
    assert rows(app, "select text from texts where text like '%only%' or text = 'here'") == []


def test_a_new_site_of_the_same_domain_begins_empty(app):
    visit_and_leave(app)
    app.store.transact(lambda db: mininumbers.remove_site(db, app.settings, "other.example"))  # before any purge
    site = add_site(app)
    assert site.numbers("visitors", "pageviews") == [0, 0]
    site.send()
    purge(app)
    assert site.numbers("visitors", "pageviews") == [1, 1]


def test_what_is_unknown_to_any_site_stays_counted(app, site):
    site.send(d="nobody.example")
    purge(app)
    assert rows(app, "select site_id, reason, count from dropped") == [(0, "unknown-site", 1)]


# ---- what nobody names any more --------------------------------------------------------------------------------------

def texts(app):
    return {text for text, in rows(app, "select text from texts")}


def make_old(app, clock, number=6):
    """Hits of a site that keeps one day, from two days ago; returns the site."""
    site = add_site(app, retention_days=1)
    for index in range(number):
        site.send(f"/old/{index}", f"event {index}", ip=f"192.0.2.{index}", r=f"https://old{index}.example/", p={f"key {index}": f"value {index}"},
                  agent=CHROME.replace("130", f"{131 + index}"))
    clock.advance(3 * DAY)
    return site


def test_texts_clients_and_origins_go_with_the_last_hit_that_names_them(app, clock):
    make_old(app, clock)
    purge(app)
    assert texts(app) == {"", "pageview", "(other)"}
    assert one(app, "select count(*) from clients") == one(app, "select count(*) from origins") == 0


def test_what_another_site_names_stays(app, site, clock):
    make_old(app, clock)
    site.send("/old/1", "event 2", r="https://old3.example/", p={"key 4": "value 5"})
    purge(app)
    assert {"/old/1", "event 2", "old3.example", "key 4", "value 5"} <= texts(app)
    assert not {"/old/2", "event 3", "old4.example", "key 5", "value 1"} & texts(app)
    assert check_database(app.store) == []


def send_what_is_old(site, index):
    """A new hit that names everything an old one named."""
    site.send(f"/old/{index}", f"event {index}", ip=f"198.51.100.{index}", r=f"https://old{index}.example/", p={f"key {index}": f"value {index}"},
              agent=CHROME.replace("130", f"{131 + index}"))


@pytest.mark.parametrize("set_back", [0, -TIMEOUT])
@pytest.mark.parametrize("table", ["clients", "origins", "texts"])
def test_what_is_named_again_between_the_search_and_the_deletion_stays(app, site, clock, monkeypatch, table, set_back):
    make_old(app, clock)
    delete_unused = mininumbers._delete_unused

    def use_first(store, unused_of, unused, spared):
        if unused_of == table:
            assert len(unused) > 5
            clock.advance(set_back)
            for index in (1, 3, 5):
                send_what_is_old(site, index)
        delete_unused(store, unused_of, unused, spared)
    monkeypatch.setattr(mininumbers, "_delete_unused", use_first)
    purge(app)
    assert check_database(app.store) == []
    assert site.rows("visitors", dimensions=["event:page", "event:name", "visit:referrer", "event:props:key 3", "visit:browser_version"]) == [
        (f"/old/{index}", f"event {index}", f"old{index}.example", "value 3" if index == 3 else "(none)", f"{131 + index}", 1) for index in (1, 3, 5)]


def test_what_is_named_again_right_after_the_deletion_is_stored_anew(app, site, clock):
    old = make_old(app, clock)
    purge(app)
    send_what_is_old(old, 2)
    assert pages(app, 2) == ["/old/2"]
    assert check_database(app.store) == []


def test_another_process_that_purges_is_noticed_by_the_server(settings):
    clock = MovableClock(datetime.now().timestamp() - 3 * DAY)
    with contextlib.closing(create_app(settings, clock)) as app:
        app.scheduler.start = lambda: None
        old = make_old(app, clock)
        assert run_command("purge", "--db", settings.db).stdout == "Deleted 6 hits.\n"
        send_what_is_old(old, 2)
        assert pages(app, 1) == ["/old/2"]
        assert check_database(app.store) == []


def test_collection_and_purge_beside_each_other_lose_nothing(app, clock, monkeypatch):
    """Threads bring back what is just being deleted, round after round."""
    monkeypatch.setattr(mininumbers, "PURGE_ROWS", 7)
    keeping, passing = add_site(app, "keeping.example"), add_site(app, "passing.example", retention_days=1)
    sent = []

    def collect(seed):
        chance = random.Random(seed)
        for _ in range(25):
            page = f"/{chance.randrange(60)}"
            keeping.send(page, ip=f"192.0.2.{seed % 250}", r=f"https://r{chance.randrange(30)}.example/", p={"page": page})
            sent.append(page)
    for round_ in range(4):
        for index in range(60):
            passing.send(f"/{index}", ip=f"198.51.100.{index}", r=f"https://r{index % 30}.example/", p={"page": f"/{index}"})
        clock.advance(3 * DAY)
        with ThreadPoolExecutor(4) as pool:
            work = [pool.submit(collect, round_ * 10 + seed) for seed in range(3)] + [pool.submit(purge, app)]
            for done in work:
                done.result()
    assert check_database(app.store) == []
    stored = rows(app, "select t.text, v.text from hits h join texts t on t.id = h.page join props p on p.hit_id = h.id and p.site_id = h.site_id "
                  "join texts v on v.id = p.value where h.site_id = 2")
    assert sorted(stored) == sorted(zip(sent, sent))
    assert pages(app, 3) == []


def test_two_purges_at_once_do_no_harm(app, clock):
    make_old(app, clock, number=40)
    with ThreadPoolExecutor(3) as pool:
        assert sum(pool.map(lambda _: purge(app), range(3))) == 40
    assert texts(app) == {"", "pageview", "(other)"}
    assert check_database(app.store) == []


def test_a_purge_that_was_cut_short_is_finished_by_the_next(app, clock, monkeypatch):
    make_old(app, clock)

    def fail(*arguments):
        raise Busy("the power went")
    monkeypatch.setattr(mininumbers, "_delete_unused", fail)
    with pytest.raises(Busy):
        purge(app)
    monkeypatch.undo()
    purge(app)
    assert texts(app) == {"", "pageview", "(other)"}


# ---- beside collection -----------------------------------------------------------------------------------------------

@pytest.fixture
def changes_per_transaction(app):
    """A list that fills with the number of rows each transaction of the writer changed."""
    counts, writer = [], app.store._writer
    before = [writer.total_changes]

    def note(statement):
        if statement == "commit":
            counts.append(writer.total_changes - before[0])
            before[0] = writer.total_changes
    writer.set_trace_callback(note)
    return counts


def test_purge_works_in_short_transactions(app, clock, changes_per_transaction):
    clock.advance(-3 * DAY)
    add_site(app, retention_days=1)
    start = clock.now << 16

    def fill(db):
        numbers = "with recursive n(i) as (select 1 union all select i + 1 from n where i < 5000)"
        db.execute(f"{numbers} insert into texts (id, text) select 100 + i, 'text ' || i from n")
        db.execute(f"{numbers} insert into clients select i, 100 + i, 0, 0, 0, 0, 0, 0, 0, 0, 0 from n")
        db.execute(f"{numbers} insert into origins select i, 100 + i, 0, 0, 0, 0, 0, 0, 0, 0 from n")
        db.execute(f"{numbers} insert into visits select 2, ? + i, i, i, i, 100 + i, 0, 0, 1, 0, 0, 0 from n", (start,))
        db.execute(f"{numbers} insert into hits select 2, ? + i, 0, 1, 100 + i, 0, 0, null from n", (start,))
        for key in range(3):
            db.execute(f"{numbers} insert into props select 2, ? + i, ?, 100 + i from n", (start, key))
        db.execute(f"{numbers} insert into revenue select 2, ? + i, 1, 'EUR' from n", (start,))
    app.store.transact(fill)
    clock.advance(3 * DAY)
    del changes_per_transaction[:]
    assert purge(app) == 5000
    assert sum(changes_per_transaction) == 9 * 5000
    assert max(changes_per_transaction) <= mininumbers.PURGE_ROWS + mininumbers.PROPS_LIMIT


def test_hits_get_their_turn_between_the_steps_of_a_purge(app, site, clock, monkeypatch):
    monkeypatch.setattr(mininumbers, "PURGE_ROWS", 2)
    make_old(app, clock, number=40)
    transact, sent = app.store.transact, []

    def transact_and_hit(function):
        done = transact(function)
        if len(sent) < 20:
            sent.append(f"/{len(sent)}")
            site.send(sent[-1])
        return done
    monkeypatch.setattr(app.store, "transact", transact_and_hit)
    assert purge(app) == 40
    assert pages(app) == sent
    assert check_database(app.store) == []


# ---- the file --------------------------------------------------------------------------------------------------------

def fill_pages(app, clock, number=3000):
    """Much data that retention no longer covers."""
    clock.advance(-3 * DAY)
    add_site(app, retention_days=1)

    def fill(db):
        numbers = f"with recursive n(i) as (select 1 union all select i + 1 from n where i < {number})"
        db.execute(f"{numbers} insert into texts (id, text) select 100 + i, hex(randomblob(100)) from n")
        db.execute(f"{numbers} insert into hits select 2, ? + i, 0, 1, 100 + i, 0, 0, null from n", (clock.now << 16,))
    app.store.transact(fill)
    clock.advance(3 * DAY)
    app.store.truncate_log()


def test_the_file_shrinks(app, site, clock, tmp_path):
    site.send("/kept")
    fill_pages(app, clock)
    before = (tmp_path / "test.db").stat().st_size
    purge(app)
    assert (tmp_path / "test.db").stat().st_size < before / 4
    assert (tmp_path / "test.db-wal").stat().st_size == 0
    assert one(app, "pragma freelist_count") == 0
    assert pages(app) == ["/kept"]
    assert check_database(app.store) == []


def test_purge_ends_though_a_file_cannot_shrink(app, clock, monkeypatch):
    """An owner may have turned off what lets it."""
    fill_pages(app, clock)
    app.store._writer.execute("pragma auto_vacuum = none")
    app.store._writer.execute("vacuum")
    vacuum, calls = app.store.vacuum, []

    def counted(*arguments):
        calls.append(1)
        if len(calls) > 500:
            raise RecursionError("it does not end")
        return vacuum(*arguments)
    monkeypatch.setattr(app.store, "vacuum", counted)
    assert purge(app) == 3000


def test_a_long_read_does_not_stop_a_purge(app, clock, tmp_path):
    fill_pages(app, clock)
    with app.store.snapshot() as db:
        assert db.execute("select count(*) from hits").fetchone() == (3000,)
        done = threading.Thread(target=purge, args=(app,))
        done.start()
        done.join(PATIENCE)
        assert not done.is_alive()
        assert db.execute("select count(*) from hits").fetchone() == (3000,)
    rotate_salts(app)
    assert (tmp_path / "test.db-wal").stat().st_size == 0


# ---- the scheduler ---------------------------------------------------------------------------------------------------

@pytest.fixture
def ran(monkeypatch):
    """Jobs that note when they ran, in place of the true ones: one every minute, one every hour."""
    ran = []
    monkeypatch.setattr(mininumbers, "JOBS", (("often", lambda app: ran.append(("often", app.clock())), 60),
                                              ("seldom", lambda app: ran.append(("seldom", app.clock())), HOUR)))
    return ran


def test_jobs_run_at_the_start_and_then_when_they_are_due(app, clock, ran):
    scheduler, start = Scheduler(app), clock.now
    for _ in range(2 * 60 * 6):
        scheduler.run_due()
        clock.advance(10)
    assert [now - start for name, now in ran if name == "often"] == [minute * 60 for minute in range(120)]
    assert [now - start for name, now in ran if name == "seldom"] == [0, HOUR]


def test_after_a_long_pause_a_job_runs_once(app, clock, ran):
    scheduler = Scheduler(app)
    scheduler.run_due()
    clock.advance(30 * DAY)
    scheduler.run_due()
    scheduler.run_due()
    assert [name for name, _ in ran] == ["often", "seldom"] * 2


@pytest.mark.parametrize("jump", [-61, -HOUR - 61, -DAY, -365 * DAY])
def test_a_clock_that_is_set_back_does_not_silence_the_jobs(app, clock, ran, jump):
    scheduler = Scheduler(app)
    scheduler.run_due()
    clock.advance(jump)
    del ran[:]
    for _ in range(2 * 60 * 6):
        scheduler.run_due()
        clock.advance(10)
    assert len([name for name, _ in ran if name == "often"]) in (119, 120)
    assert len([name for name, _ in ran if name == "seldom"]) == 2


def test_a_job_that_fails_stops_no_other_and_is_tried_again(app, clock, monkeypatch, caplog):
    ran = []

    def fail(app):
        ran.append("failing")
        raise ValueError("192.0.2.77 Mozilla/5.0 /zq-path?token=zq-query")
    monkeypatch.setattr(mininumbers, "JOBS", (("fail", fail, 60), ("work", lambda app: ran.append("working"), 60)))
    scheduler = Scheduler(app)
    for _ in range(2):
        scheduler.run_due()
        clock.advance(60)
    assert ran == ["failing", "working"] * 2
    assert caplog.text.count("job fail failed: ValueError at") == 2
    for quoted in ("192.0.2.77", "Mozilla", "zq-path", "zq-query", "Traceback"):
        assert quoted not in caplog.text


def test_a_database_that_is_busy_only_delays_the_jobs(app, site, clock, monkeypatch, caplog):
    site.send()
    clock.advance(2 * DAY)

    def busy(work, item=None):
        raise Busy("The database did not answer in time.")
    monkeypatch.setattr(app.store, "write", busy)
    app.run_jobs()
    assert "job rotate salts failed: Busy" in caplog.text
    monkeypatch.undo()
    clock.advance(60)
    app.run_jobs()
    assert rows(app, "select * from salts") == []


def test_the_jobs_do_what_their_names_say(app, site, clock):
    other = add_site(app, retention_days=1)
    site.send()
    other.send()
    clock.advance(3 * DAY)
    app.run_jobs()
    assert rows(app, "select * from salts") == []
    assert rows(app, "select live from visits") == [(0,)]
    assert pages(app, 2) == []


def job_threads():
    return [thread for thread in threading.enumerate() if thread.name == "mininumbers-jobs"]


def test_no_thread_runs_before_the_first_request_and_none_after_closing(settings, clock):
    app = create_app(settings, clock)
    assert job_threads() == []
    Site(app, "nobody.example").send()
    assert len(job_threads()) == 1
    app.close()
    assert job_threads() == []
    app.scheduler.start()
    assert job_threads() == []


def test_the_thread_runs_the_jobs_at_once(settings, clock, monkeypatch):
    happened = threading.Event()
    monkeypatch.setattr(mininumbers, "JOBS", (("tell", lambda app: happened.set(), 60),))
    with contextlib.closing(create_app(settings, clock)) as app:
        app.scheduler.start()
        assert happened.wait(PATIENCE)


def test_closing_waits_for_the_job_that_is_running(settings, clock, monkeypatch):
    begun, go_on, ended = threading.Event(), threading.Event(), []

    def work(app):
        begun.set()
        go_on.wait(PATIENCE)
        app.store.transact(lambda db: ended.append(db.execute("select 1").fetchone()))
    monkeypatch.setattr(mininumbers, "JOBS", (("work", work, 60),))
    app = create_app(settings, clock)
    app.scheduler.start()
    begun.wait(PATIENCE)
    closing = threading.Thread(target=app.close)
    closing.start()
    closing.join(0.1)
    assert closing.is_alive()
    go_on.set()
    closing.join(PATIENCE)
    assert ended == [(1,)]
    assert not closing.is_alive()


def test_a_rotation_that_waits_for_its_turn_ends_no_epoch_that_began_meanwhile(app, site, clock, monkeypatch):
    site.send("/")
    transact = app.store.transact

    def late(function):
        clock.set(1772496000 + 60)  # a minute after the next midnight
        site.send("/first")
        return transact(function)
    with monkeypatch.context() as patch:
        patch.setattr(app.store, "transact", late)
        rotate_salts(app)
    site.send("/second")
    assert site.numbers("visitors", "visits", "pageviews") == [1, 1, 2]
