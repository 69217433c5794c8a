"""What is acknowledged is on the disk, whatever happens; and what cannot be written is said so.

Contents: restarts · a database that another process holds · files that cannot be used · a file that is replaced · migrations ·
group commit · the queue · closing · readers · what other processes write · check. What befalls the whole program, kill -9 above
all, is in test_reliability.py.
"""
import contextlib
import json
import os
import random
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
from conftest import PATIENCE, ROOT, Browser, MovableClock, Site, ask, assert_visits_are_whole, make_database, pages, run_command
from hypothesis import given, settings as hypothesis_settings
from hypothesis import strategies as st

import mininumbers
from mininumbers import Busy, DatabaseError, Settings, Store, check_database, create_app, open_database

@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """Jobs run when a test says so, and passwords are not what is tested here."""
    monkeypatch.setattr(mininumbers.Scheduler, "start", lambda self: None)
    monkeypatch.setitem(mininumbers.SCRYPT, "n", 16)


@contextlib.contextmanager
def write_lock(path):
    """Another program is writing to the database, and does not finish."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("begin immediate")
        yield
        db.execute("rollback")


# ---- restarts --------------------------------------------------------------------------------------------------------

def visit_after_restart(settings, clock, minutes):
    """A hit, a new process in effect, and another hit; return the site as the new one sees it."""
    with contextlib.closing(create_app(settings, clock)) as app:
        app.setup("owner", "correct horse", "example.com")
        Site(app).send()
    clock.advance(minutes * 60)
    with contextlib.closing(create_app(settings, clock)) as app:
        site = Site(app)
        site.send()
        return site.numbers("visitors", "visits", "pageviews", date_range=["2026-03-02", "2026-03-03"])


def test_a_visit_in_progress_goes_on_after_a_restart(settings, clock):
    assert visit_after_restart(settings, clock, 20) == [1, 1, 2]


def test_a_visitor_is_the_same_after_a_restart(settings, clock):
    assert visit_after_restart(settings, clock, 40) == [1, 2, 2]


def test_a_visit_goes_on_after_a_restart_at_midnight(settings, clock):
    clock.advance(12 * 3600 - 60)
    assert visit_after_restart(settings, clock, 20) == [1, 1, 2]


def test_a_visit_in_progress_goes_on_after_kill_9(tmp_path, start_server):
    db = make_database(tmp_path / "test.db")
    for path in ("/before", "/after"):
        server = start_server(db, "--geoip", "")
        assert Browser(server.url).post(path)[0] == 202
        server.kill()
    assert pages(db) == ["/before", "/after"]
    assert len(ask(db, "select distinct salt from salts")) == len(ask(db, "select 1 from visits"))


# ---- a database that another process holds ---------------------------------------------------------------------------

@pytest.fixture
def impatient(monkeypatch):
    """Connections that wait for a lock for a moment instead of ten seconds."""
    connect = mininumbers.connect

    def impatient(*arguments, **more):
        connection = connect(*arguments, **more)
        connection.execute("pragma busy_timeout = 200")
        return connection
    monkeypatch.setattr(mininumbers, "connect", impatient)


def test_hits_wait_while_another_process_writes_and_none_is_acknowledged_before_its_commit(tmp_path, start_server):
    db = make_database(tmp_path / "test.db")
    server = start_server(db, "--geoip", "")
    with ThreadPoolExecutor(8) as pool:
        with write_lock(db):
            answers = [pool.submit(Browser(server.url, f"192.0.2.{number}").post, f"/{number}") for number in range(8)]
            time.sleep(1.5)
            assert not [answer for answer in answers if answer.done() and answer.result()[0] == 202]
            assert pages(db) == []
        statuses = [answer.result()[0] for answer in answers]
    assert sorted(pages(db)) == [f"/{number}" for number, status in enumerate(statuses) if status == 202]
    assert Browser(server.url).post("/later")[0] == 202


def test_a_hit_that_cannot_be_written_is_answered_503_with_retry_after_and_the_next_is_taken(impatient, settings, clock):
    with contextlib.closing(create_app(settings, clock)) as app:
        app.setup("owner", "correct horse", "example.com")
        site = Site(app)
        with write_lock(settings.db):
            answer = site.send("/lost", status=503)
            assert int(answer.headers["Retry-After"]) >= 1
            assert answer.json["code"] == "busy"
            assert site.web.get("/health", status=503).json["database"] == "not writable"
        site.send("/kept")
        assert site.web.get("/health").json["database"] == "writable"
    assert pages(settings.db) == ["/kept"]


def test_what_was_answered_503_is_not_written_later_so_trying_again_counts_once(app, site, monkeypatch):
    monkeypatch.setattr(mininumbers, "WRITE_TIMEOUT", 0.2)
    with held(app.store):
        site.send("/again", status=503)
    assert "X-MiniNumbers-Dropped" not in site.send("/again").headers  # the client tries again, as Retry-After told it
    assert pages(app.settings.db) == ["/again"]


def test_a_caller_is_not_kept_waiting_for_ever(monkeypatch):
    monkeypatch.setattr(mininumbers, "WRITE_TIMEOUT", 0.01)
    with pytest.raises(Busy):
        Store.wait(Future(), 0.01)


def test_a_database_that_is_locked_at_the_start_is_refused_in_one_line(impatient, tmp_path):
    db = make_database(tmp_path / "test.db")
    with contextlib.closing(sqlite3.connect(db, isolation_level=None)) as other:
        other.execute("pragma locking_mode = exclusive")
        other.execute("begin exclusive")
        other.execute("insert into texts (text) values ('x')")
        with pytest.raises(DatabaseError, match="locked by another program"):
            create_app(Settings(db=str(db), geoip=""))


# ---- files that cannot be used ---------------------------------------------------------------------------------------

# root may write to read-only files; without this capability it may not, and for others nothing changes
WITHOUT_OVERRIDE = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
for capability in (1, 2, 3):
    libc.prctl(24, capability, 0, 0, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def run_without_override(*arguments):
    return subprocess.run([sys.executable, "-c", WITHOUT_OVERRIDE, str(ROOT / "mininumbers.py"), *map(str, arguments)],
                          capture_output=True, text=True, timeout=PATIENCE)


@pytest.fixture
def folder():
    """A folder that is removed even when it was made read-only."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)
        os.chmod(name, 0o700)


def test_a_read_only_file_is_refused_in_one_line_and_left_as_it_is(folder):
    db = make_database(folder / "test.db")
    os.chmod(db, 0o400)
    before = db.read_bytes()
    ended = run_without_override("site", "add", "other.example", "--db", db)
    assert ended.returncode == 2
    assert ended.stderr == f"mininumbers: {db} is read-only: make the file and its folder writable for this user\n"
    assert db.read_bytes() == before


def test_a_read_only_folder_is_refused_in_one_line(folder):
    db = make_database(folder / "test.db")
    os.chmod(folder, 0o500)
    ended = run_without_override("serve", "--db", db, "--port", "0")
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"mininumbers: {db} ")
    assert ended.stderr.count("\n") == 1
    assert "writ" in ended.stderr


def test_a_new_database_in_a_read_only_folder_is_refused_in_one_line(folder):
    os.chmod(folder, 0o500)
    ended = run_without_override("serve", "--db", folder / "new.db", "--port", "0")
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"mininumbers: {folder / 'new.db'} cannot be created")
    assert ended.stderr.count("\n") == 1


def write_foreign(path):
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript("pragma application_id = 7; create table photos (id)")


def write_newer(path):
    make_database(path)
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("pragma user_version = 1000")


@pytest.mark.parametrize("make, message", [
    (lambda path: path.write_text("dear diary, " * 1000), "not an SQLite database"),
    (write_foreign, "some other program's database"),
    (write_newer, "newer Mini Numbers"),
    (lambda path: path.mkdir(), "is a folder"),
], ids=["text", "foreign", "newer", "folder"])
def test_what_is_not_our_database_is_refused_and_left_as_it_is(tmp_path, make, message):
    make(tmp_path / "test.db")
    before = (tmp_path / "test.db").read_bytes() if (tmp_path / "test.db").is_file() else None
    with pytest.raises(DatabaseError, match=message):
        create_app(Settings(db=str(tmp_path / "test.db"), geoip=""))
    assert before is None or (tmp_path / "test.db").read_bytes() == before


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(DatabaseError, match="does its folder exist"):
        create_app(Settings(db=str(tmp_path / "nowhere" / "test.db"), geoip=""))


def test_nobody_else_on_the_machine_may_read_the_files(tmp_path):
    before = os.umask(0)
    try:
        with contextlib.closing(create_app(Settings(db=str(tmp_path / "test.db"), geoip=""))) as app:
            app.setup("owner", "correct horse", "example.com")
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert modes == {"test.db": 0o600, "test.db-wal": 0o600, "test.db-shm": 0o600}


# ---- a file that is replaced -----------------------------------------------------------------------------------------

@pytest.fixture
def backup(tmp_path, clock):
    """Another database, as an operator would put it in the place of the one in use."""
    path = tmp_path / "backup.db"
    with contextlib.closing(create_app(Settings(db=str(path), geoip=""), clock)) as app:
        app.setup("owner", "correct horse", "example.com")
        for number in range(100):
            Site(app).send(f"/of-the-backup/{number}", ip=f"192.0.2.{number}")
    return path


@pytest.mark.parametrize("replace", [
    lambda db, backup: os.replace(backup, db),
    lambda db, backup: (os.rename(db, f"{db}.old"), os.replace(backup, db)),
    lambda db, backup: os.unlink(db),
], ids=["replaced", "renamed and replaced", "removed"])
def test_no_hit_is_acknowledged_that_is_not_in_the_file_of_that_name(settings, clock, backup, replace):
    with contextlib.closing(create_app(settings, clock)) as app:
        app.setup("owner", "correct horse", "example.com")
        site = Site(app)
        site.send("/before")
        app.store.truncate_log()
        replace(settings.db, backup)
        answer = site.send("/after", status="*")
    assert answer.status_int == 503 or os.path.exists(settings.db) and "/after" in pages(settings.db)


def test_a_database_put_in_the_place_of_the_one_in_use_is_not_damaged(settings, clock, backup):
    with contextlib.closing(create_app(settings, clock)) as app:
        app.setup("owner", "correct horse", "example.com")
        site = Site(app)
        site.send("/before")
        app.store.truncate_log()
        os.replace(backup, settings.db)
        for number in range(50):
            site.send(f"/{number}", status="*")
    assert ask(settings.db, "pragma integrity_check") == [("ok",)]
    assert set(pages(settings.db)) >= {f"/of-the-backup/{number}" for number in range(100)}


def replace_and_wait(store, backup):
    """Put another database in the place of the one in use, and wait until it is gone on with."""
    os.replace(backup, store.path)
    for _ in range(PATIENCE * 10):
        time.sleep(0.1)
        with contextlib.suppress(Busy):
            return store.probe()
    pytest.fail("the other file was not opened")


def test_what_was_read_in_one_file_is_not_written_to_the_next(app, site, backup):
    """The number of a site, say, is another site's there."""
    site.send("/before")
    app.store.reader()
    replaced = threading.Thread(target=replace_and_wait, args=(app.store, backup))
    replaced.start()
    replaced.join()
    with pytest.raises(Busy, match="being replaced"):
        app.store.transact(lambda db: db.execute("delete from hits"))
    with pytest.raises(Busy, match="being replaced"):
        app.store.reader()
    app.store.begin()
    assert app.store.reader().execute("select count(*) from hits").fetchone() == (100,)


def test_a_file_is_not_left_while_a_report_is_read_from_it(app, site, backup):
    site.send("/before")
    with app.store.snapshot() as db:
        os.replace(backup, app.settings.db)
        with pytest.raises(Busy):
            app.store.probe()
        assert db.execute("select count(*) from hits").fetchone() == (1,)


def test_a_relative_name_means_the_same_file_after_the_process_changed_its_folder(tmp_path, monkeypatch, clock):
    """As a host application may that runs as a daemon."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    with contextlib.closing(create_app(Settings(db="test.db", geoip=""), clock)) as app:
        app.setup("owner", "correct horse", "example.com")
        site = Site(app)
        monkeypatch.chdir(tmp_path / "elsewhere")
        with ThreadPoolExecutor(1) as another_thread:
            assert another_thread.submit(site.send, "/", status="*").result().status_int == 202
    assert pages(tmp_path / "test.db") == ["/"]
    assert os.listdir(tmp_path / "elsewhere") == []


# ---- migrations ------------------------------------------------------------------------------------------------------

VERSION_1 = """-- A schema for tests; words before the first version are its manual.
-- version 1
create table notes (id integer primary key, text text not null);  -- a comment; with a semicolon
insert into notes (text) values ('one;two');
"""
VERSION_2 = VERSION_1 + """
-- version 2
alter table notes add column length integer;
update notes set length = length(text);
create trigger measure after insert on notes begin
    update notes set length = length(text) where id = new.id;
end;
"""
VERSION_3 = VERSION_2 + """
-- version 3
create table tags (name text primary key);
"""


def state(path):
    """Everything in a database: its versions, tables and rows."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        return [db.execute("pragma user_version").fetchone()[0], db.execute("pragma application_id").fetchone()[0], *db.iterdump()]


def open_and_close(path, schema):
    open_database(str(path), schema).close()


@pytest.mark.parametrize("steps", [[VERSION_1, VERSION_2, VERSION_3], [VERSION_1, VERSION_3], [VERSION_2, VERSION_3], [VERSION_3]],
                         ids=["1 2 3", "1 3", "2 3", "3"])
def test_a_database_of_any_version_becomes_what_a_new_one_is(tmp_path, steps):
    for schema in steps:
        open_and_close(tmp_path / "test.db", schema)
    open_and_close(tmp_path / "new.db", VERSION_3)
    columns = "select name, (select group_concat(name) from pragma_table_info(m.name)) from sqlite_master m order by 1"
    assert ask(tmp_path / "test.db", columns) == ask(tmp_path / "new.db", columns)
    assert ask(tmp_path / "test.db", "select * from notes") == ask(tmp_path / "new.db", "select * from notes") == [(1, "one;two", 7)]
    assert state(tmp_path / "test.db")[0] == 3


def test_what_was_written_before_a_migration_is_there_after_it(tmp_path):
    store = Store(str(tmp_path / "test.db"), VERSION_1)
    store.transact(lambda db: db.execute("insert into notes (text) values ('mine')"))
    store.close()
    open_and_close(tmp_path / "test.db", VERSION_2)
    assert ask(tmp_path / "test.db", "select text, length from notes") == [("one;two", 7), ("mine", 4)]


@pytest.mark.parametrize("broken", [
    VERSION_1 + "\n-- version 2\ncreate table a (x);\nalter table nothing add column y;\n",
    VERSION_1 + "\n-- version 2\ndelete from notes;\ninsert into notes (id, text) values (1, null);\n",
    VERSION_2 + "\n-- version 3\ncreate table a (x);\nselect raise_the_moon();\n",
    VERSION_1 + "\n-- version 2\ncreate table a (x);\nthis is not SQL;\n",
], ids=["no such table", "constraint", "the second of two", "syntax"])
def test_a_migration_that_fails_leaves_the_old_database_untouched(tmp_path, broken):
    open_and_close(tmp_path / "test.db", VERSION_1)
    before = state(tmp_path / "test.db")
    with pytest.raises(DatabaseError):
        open_database(str(tmp_path / "test.db"), broken)
    assert state(tmp_path / "test.db") == before
    open_and_close(tmp_path / "test.db", VERSION_3)


KILLED_IN_A_MIGRATION = """
import os, sqlite3, sys
sys.path.insert(0, sys.argv[1])
import mininumbers
connect = mininumbers.connect
def connect_and_die(path, *more):
    connection = connect(path, *more)
    connection.create_function("die", 0, lambda: os.kill(os.getpid(), 9))
    return connection
mininumbers.connect = connect_and_die
mininumbers.open_database(sys.argv[2], sys.argv[3])
"""


def test_kill_9_in_a_migration_leaves_the_old_database_untouched(tmp_path):
    db = tmp_path / "test.db"
    open_and_close(db, VERSION_1)
    before = state(db)
    deadly = VERSION_1 + "\n-- version 2\ndelete from notes;\ncreate table a (x);\nselect die();\n"
    assert subprocess.run([sys.executable, "-c", KILLED_IN_A_MIGRATION, str(ROOT), str(db), deadly], timeout=PATIENCE).returncode == -9
    assert state(db) == before


def test_a_last_statement_without_a_semicolon_is_not_lost(tmp_path):
    open_and_close(tmp_path / "test.db", VERSION_1 + "\n-- version 2\ncreate table last (x)")
    assert ask(tmp_path / "test.db", "select count(*) from last") == [(0,)]


@pytest.mark.parametrize("before", [None, VERSION_1], ids=["new", "older"])
def test_processes_that_start_together_agree_on_one_schema(tmp_path, before):
    for attempt in range(6):
        path, together = tmp_path / f"{attempt}.db", threading.Barrier(4)
        if before:
            open_and_close(path, before)

        def start():
            together.wait()
            open_and_close(path, VERSION_3)
        with ThreadPoolExecutor(4) as pool:
            for started in [pool.submit(start) for _ in range(4)]:
                started.result()
        assert ask(path, "select count(*) from notes") == [(1,)]


def test_the_shipped_schema_opens_again_as_it_is(settings):
    make_database(settings.db)
    before = state(settings.db)
    create_app(settings).close()
    assert state(settings.db) == before


# ---- group commit ----------------------------------------------------------------------------------------------------

NOTES = "-- version 1\ncreate table notes (id integer primary key, text text unique);\n"


@pytest.fixture
def store(tmp_path):
    store = Store(str(tmp_path / "notes.db"), NOTES)
    yield store
    store.close()


@contextlib.contextmanager
def held(store):
    """Keep the writer busy, so that what is submitted meanwhile waits and then shares one transaction."""
    busy, free = threading.Event(), threading.Event()

    def hold(db, items):
        busy.set()
        free.wait(PATIENCE)
        return items
    done = store.submit(hold, None)
    busy.wait(PATIENCE)
    try:
        yield
    finally:
        free.set()
    done.result(PATIENCE)


def write_notes(db, items):
    """Insert each text; one that begins with "!" fails after it was inserted."""
    for text in items:
        db.execute("insert into notes (text) values (?)", (text,))
        if text.startswith("!"):
            raise ValueError(text)
    return [text.upper() for text in items]


def write_in_capitals(db, items):
    return [write_notes(db, [text.upper()])[0] for text in items]


def notes(store):
    return [text for text, in ask(store.path, "select text from notes order by id")]


@pytest.mark.parametrize("fault, error", [("!", ValueError), ("taken", sqlite3.IntegrityError)])
def test_one_failing_piece_of_work_does_not_fail_its_neighbours(store, fault, error):
    store.write(write_notes, "taken")
    with held(store):
        answers = [store.submit(write_notes, text) for text in ("a", "b", fault, "c")]
    assert [answer.result(PATIENCE) for answer in (*answers[:2], answers[3])] == ["A", "B", "C"]
    assert isinstance(answers[2].exception(PATIENCE), error)
    assert notes(store) == ["taken", "a", "b", "c"]


@hypothesis_settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([write_notes, write_in_capitals]), st.booleans()), max_size=30), st.integers(0, 2 ** 32))
def test_whatever_shares_a_transaction_is_done_in_order_and_each_told_its_own_result(plan, seed):
    with tempfile.TemporaryDirectory() as name, contextlib.closing(Store(f"{name}/notes.db", NOTES)) as store:
        items = [(work, f"{'!' if fails else ''}x{number}") for number, (work, fails) in enumerate(plan)]
        with held(store):
            answers = [store.submit(work, text) for work, text in items]
        expected = [text.upper() if work is write_in_capitals else text for work, text in items if not text.startswith("!")]
        for (work, text), answer in zip(items, answers):
            if text.startswith("!"):
                assert isinstance(answer.exception(PATIENCE), ValueError)
            else:
                assert answer.result(PATIENCE) == text.upper()
        assert notes(store) == expected


def test_what_waits_together_is_one_transaction(store):
    commits = []
    store._writer.set_trace_callback(lambda statement: commits.append(statement) if statement == "commit" else None)
    with held(store):
        answers = [store.submit(write_notes, f"{number}") for number in range(100)]
    for answer in answers:
        answer.result(PATIENCE)
    assert len(commits) == 2  # of the work that held the writer, and of the hundred


def test_work_that_its_caller_gave_up_is_not_done_and_stops_nobody(store):
    with held(store):
        given_up, kept = store.submit(write_notes, "given up"), store.submit(write_notes, "kept")
        given_up.cancel()
    assert kept.result(PATIENCE) == "KEPT"
    assert notes(store) == ["kept"]


def test_a_failing_transaction_acknowledges_nothing(store, tmp_path):
    def fail_like_a_disk(db, items):
        raise sqlite3.OperationalError("disk I/O error")
    with held(store):
        answers = [store.submit(write_notes, "a"), store.submit(fail_like_a_disk, None), store.submit(write_notes, "b")]
    assert all(isinstance(answer.exception(PATIENCE), Busy) for answer in answers)
    assert notes(store) == []
    assert store.write(write_notes, "c") == "C"


def test_hits_of_one_batch_are_the_visits_they_would_be_one_by_one(tmp_path):
    """The same traffic, once in one transaction and once in many."""
    seen = []
    for together in (True, False):
        settings = Settings(db=str(tmp_path / f"{together}.db"), geoip="", threads=64)
        with contextlib.closing(create_app(settings, MovableClock())) as app:
            app.setup("owner", "correct horse", "example.com")
            site = Site(app)
            with ThreadPoolExecutor(64) as pool, held(app.store) if together else contextlib.nullcontext():
                for number in range(60):
                    answer = pool.submit(site.send, f"/{number % 7}", name="pageview" if number % 5 else "Sign up", ip=f"192.0.2.{number % 4}",
                                         r="https://t.co/" if number < 4 else "")
                    while together and app.store._queue.qsize() <= number or not together and not answer.done():
                        time.sleep(0.0005)  # until it has taken its place in the queue
        seen.append(ask(settings.db, """
            select n.text, pageviews, interactive, e.text, x.text, count(*) from visits v join hits h on h.visit_id = v.id
            join texts e on e.id = entry_page join texts x on x.id = exit_page join origins o on o.id = v.origin_id join texts n on n.id = o.source
            group by v.id order by v.id"""))
    assert len(seen[0]) == 4
    assert seen[0] == seen[1]


# ---- texts that are remembered ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("cache", [0, 1, 3, 10, 17])
def test_hits_keep_their_texts_when_the_memory_for_texts_is_full(app, site, monkeypatch, cache):
    monkeypatch.setattr(mininumbers.Texts, "CACHE", cache)
    for number in range(30):
        site.send(f"/{number % 20}", p={"number": number})
    assert pages(app.settings.db) == [f"/{number % 20}" for number in range(30)]
    assert {name for name, in ask(app.settings.db, "select text from hits join texts on texts.id = name")} == {"pageview"}


def test_a_transaction_that_is_undone_leaves_no_text_that_is_not_there(app, site, monkeypatch):
    record = app.collector.record

    def fail_at_the_end(db, hits):
        record(db, hits)
        raise ValueError("after all was written")
    monkeypatch.setattr(app.collector, "record", fail_at_the_end)
    site.send("/new", status=500)
    monkeypatch.undo()
    site.send("/new")
    site.send("/newer")
    assert pages(app.settings.db) == ["/new", "/newer"]
    assert check_database(app.store) == []


# ---- the queue -------------------------------------------------------------------------------------------------------

def test_a_full_queue_refuses_and_keeps_what_it_took(tmp_path):
    with contextlib.closing(Store(str(tmp_path / "notes.db"), NOTES, queue_size=3)) as store:
        with held(store):
            for number in range(3):
                store.submit(write_notes, f"{number}")
            with pytest.raises(Busy, match="waiting"):
                store.submit(write_notes, "too many")
        assert store.write(write_notes, "later") == "LATER"
        assert notes(store) == ["0", "1", "2", "later"]


def test_a_hit_for_which_the_queue_has_no_room_is_answered_503_with_retry_after(settings, clock):
    with contextlib.closing(create_app(Settings(db=settings.db, geoip="", queue=1), clock)) as app:
        app.setup("owner", "correct horse", "example.com")
        site = Site(app)
        with held(app.store):
            waiting = app.store.submit(write_nothing, None)
            assert site.send("/refused", status=503).headers["Retry-After"] == "1"
        waiting.result(PATIENCE)
        site.send("/taken")
    assert pages(settings.db) == ["/taken"]


def write_nothing(db, items):
    return items


# ---- closing ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("size", [50, 51, 1000])
def test_closing_writes_what_is_queued(tmp_path, size):
    store = Store(str(tmp_path / "notes.db"), NOTES, queue_size=size)
    with held(store):
        answers = [store.submit(write_notes, f"{number}") for number in range(50)]
        closing = threading.Thread(target=store.close)
        closing.start()
        closing.join(0.1)
    closing.join(PATIENCE)
    assert not closing.is_alive()
    assert [answer.result(0) for answer in answers] == notes(store) == [f"{number}" for number in range(50)]


def test_nothing_is_taken_after_closing_and_closing_twice_is_no_mistake(store):
    store.write(write_notes, "a")
    store.close()
    store.close()
    with pytest.raises(Busy):
        store.submit(write_notes, "b")


def test_work_that_comes_while_the_store_closes_is_done_or_refused_but_never_forgotten(store, monkeypatch):
    entered, go_on = threading.Event(), threading.Event()
    store.write(write_notes, "before")
    queue = store._queue

    def put_late(job):
        entered.set()
        go_on.wait(PATIENCE)
        queue.put(job)
    monkeypatch.setattr(store, "_queue", SimpleNamespace(put=put_late, get=queue.get, get_nowait=queue.get_nowait, qsize=queue.qsize))
    with ThreadPoolExecutor(2) as pool:
        late = pool.submit(store.submit, write_notes, "late")
        entered.wait(PATIENCE)
        closing = pool.submit(store.close)
        wait([closing], 0.2)
        go_on.set()
        closing.result(PATIENCE)
        try:
            told = late.result(PATIENCE).result(2)
        except Busy:
            told = "refused"
    assert (told, notes(store)) in [("LATE", ["before", "late"]), ("refused", ["before"])]


# ---- readers ---------------------------------------------------------------------------------------------------------

def test_a_snapshot_sees_one_state_of_the_database(store):
    store.write(write_notes, "a")
    with store.snapshot() as db:
        assert db.execute("select count(*) from notes").fetchone() == (1,)
        store.write(write_notes, "b")
        assert db.execute("select count(*) from notes").fetchone() == (1,)
    with store.snapshot() as db:
        assert db.execute("select count(*) from notes").fetchone() == (2,)


def test_a_reader_cannot_write(store):
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        store.reader().execute("insert into notes (text) values ('x')")


ENDLESS = "with recursive n(i) as (select 1 union all select i + 1 from n) select count(*) from n"


def test_a_question_that_takes_too_long_is_given_up_and_the_reader_is_as_good_as_new(store):
    with pytest.raises(Busy, match="longer than"):
        with store.snapshot(0.01) as db:
            db.execute(ENDLESS).fetchone()
    with store.snapshot() as db:
        assert db.execute(ENDLESS.replace("from n)", "from n where i < 300000)")).fetchone() == (300_000,)


def test_an_error_of_a_snapshot_is_told_as_it_is_even_where_it_ended_the_transaction(store):
    with pytest.raises(sqlite3.OperationalError, match="disk is full"):
        with store.snapshot() as db:
            db.execute("rollback")  # what SQLite does by itself when a temporary file fills the disk
            raise sqlite3.OperationalError("database or disk is full")
    with store.snapshot() as db:
        assert db.execute("select count(*) from notes").fetchone() == (0,)


def open_files(path):
    links = (os.path.join("/proc/self/fd", number) for number in os.listdir("/proc/self/fd"))
    return sum(os.path.lexists(link) and os.readlink(link).startswith(str(path)) for link in links)


def test_a_thread_that_ends_leaves_no_file_open(store):
    """A host such as Django's development server has a new thread for every request."""
    store.reader().execute("select 1")
    before = open_files(store.path)
    for _ in range(40):
        thread = threading.Thread(target=lambda: store.reader().execute("select count(*) from notes").fetchone())
        thread.start()
        thread.join()
    assert open_files(store.path) <= before + 6


# ---- what other processes write --------------------------------------------------------------------------------------

def test_a_site_added_by_the_command_line_is_served_without_a_restart(tmp_path, start_server):
    db = make_database(tmp_path / "test.db")
    server = start_server(db, "--geoip", "")
    browser = Browser(server.url)
    other = {"d": "other.example", "u": "https://other.example/"}
    assert browser.post("/", **other)[1]["X-MiniNumbers-Dropped"] == "unknown-site"
    assert run_command("site", "add", "other.example", "--db", db).returncode == 0
    assert browser.post("/", **other)[1]["X-MiniNumbers-Dropped"] is None
    assert run_command("site", "set", "other.example", "--gpc", "drop", "--db", db).returncode == 0
    browser.headers["DNT"] = "1"
    assert browser.post("/", **other)[1]["X-MiniNumbers-Dropped"] == "gpc"
    assert run_command("site", "remove", "other.example", "--db", db).returncode == 0
    assert browser.post("/", **other)[1]["X-MiniNumbers-Dropped"] == "unknown-site"


def test_texts_that_another_process_removed_or_renumbered_are_noticed(app, site):
    site.send("/a")
    with contextlib.closing(sqlite3.connect(app.settings.db)) as other, other:
        number, = other.execute("select id from texts where text = '/a'").fetchone()
        for table in ("hits", "visits"):
            other.execute(f"delete from {table}")
        other.execute("delete from texts where text = '/a'")
        other.execute("insert into texts (id, text) values (?, '/b')", (number,))
    site.send("/a")
    assert pages(app.settings.db) == ["/a"]
    assert check_database(app.store) == []


def test_two_servers_on_one_file_lose_nothing_and_number_no_hit_twice(tmp_path):
    """Not how it is meant to run, but a restart by a service manager overlaps like this."""
    settings, clock = Settings(db=str(make_database(tmp_path / "test.db")), geoip=""), MovableClock()
    with contextlib.closing(create_app(settings, clock)) as one, contextlib.closing(create_app(settings, clock)) as two:
        with ThreadPoolExecutor(8) as pool:
            sites = [Site(one), Site(two)]
            for answer in [pool.submit(sites[number % 2].send, f"/{number}", ip=f"192.0.2.{number % 5}") for number in range(200)]:
                answer.result()
        assert check_database(one.store) == []
    assert sorted(pages(settings.db)) == sorted(f"/{number}" for number in range(200))
    assert ask(settings.db, "select count(*) from visits") == [(5,)]
    assert_visits_are_whole(settings.db)


# ---- check -----------------------------------------------------------------------------------------------------------

def test_check_finds_nothing_wrong_with_a_healthy_database(app, site, clock):
    for number in range(20):
        site.send(f"/{number % 3}", ip=f"192.0.2.{number % 4}", p={"a": "b"})
        clock.advance(600)
    assert check_database(app.store) == []


@pytest.mark.parametrize("damage", [
    "delete from visits", "update visits set pageviews = 0", "insert into props values (1, 99, 1, 1)", "update hits set page = 999",
    "update hits set since = 1", "update visits set client_id = 999", "update visits set origin_id = 999",
    "insert into revenue values (1, 99, 1, 'EUR')", "update visits set entry_page = 999", "update props set value = 999",
    "update clients set browser = 999", "update origins set source = 999",
])
def test_check_names_what_is_wrong(app, site, damage):
    site.send("/a", p={"a": "b"})
    app.store.transact(lambda db: db.execute(damage))
    assert check_database(app.store)


def test_the_command_line_tells_of_a_damaged_database_in_one_line(tmp_path):
    db = make_database(tmp_path / "test.db")
    with contextlib.closing(sqlite3.connect(db)) as other, other:
        other.execute("insert into hits (site_id, id, since, name, page, hostname) values (1, 1, 0, 1, 1, 1)")
    ended = run_command("check", "--db", db)
    assert ended.returncode == 2
    assert ended.stderr == "mininumbers: 1 hits belong to no visit: restore the database from a backup\n"
