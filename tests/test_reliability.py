"""Whatever befalls the program: no acknowledged hit is lost, none counted twice, and it goes on by itself when it can.

Real processes and real sockets, but for the clock. How long it holds out is asked by bench/soak.py.

Contents: the load · kill -9 · a full disk · a file that is replaced · a database that another process
holds · a database that may only be read · the clock · the queue
"""
import contextlib
import ctypes
import dataclasses
import http.client
import itertools
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import PATIENCE, ROOT, Browser, MovableClock, Site, ask, assert_visits_are_whole, make_database, pages, run_command

import mininumbers
from mininumbers import Settings, check_database, create_app


@pytest.fixture
def rng(request):
    """Random choices that can be made again: a failing test prints the seed, MININUMBERS_SEED sets it."""
    seed = int(os.environ.get("MININUMBERS_SEED") or random.randrange(2 ** 32))
    print(f"MININUMBERS_SEED={seed}")
    return random.Random(seed)


@pytest.fixture
def db(tmp_path):
    """A database with the site example.com that nobody has open."""
    return make_database(tmp_path / "test.db")


# ---- the load --------------------------------------------------------------------------------------------------------

@dataclasses.dataclass
class Load:
    """Visitors, each on a connection of its own, who send hits with a name that no other has, until told to stop or cut off."""

    seed: int
    label: str
    url: str
    callers: int
    sent: set = dataclasses.field(default_factory=set)
    acknowledged: set = dataclasses.field(default_factory=set)
    refused: set = dataclasses.field(default_factory=set)
    answers: list = dataclasses.field(default_factory=list)  # (status, Retry-After) other than of what was acknowledged

    def __post_init__(self):
        self.lock, self.stop, self.first = threading.Lock(), threading.Event(), threading.Event()

    def run(self, caller):
        """Send hits: pageviews, events with a property, and engagement with what was seen before."""
        rng = random.Random(f"{self.seed} {self.label} {caller}")
        with contextlib.suppress(OSError, http.client.HTTPException):
            browser = Browser(self.url, ip=f"192.0.2.{caller if rng.random() < 0.5 else rng.randrange(256)}")
            for number in itertools.count():
                if self.stop.is_set():
                    break
                if rng.random() < 0.1:
                    browser.post(f"/{self.label}/{caller}/{number - 1}", n="engagement", e=1000, sd=50)
                self._send(browser, f"/{self.label}/{caller}/{number}", rng.random())

    def _send(self, browser, name, kind):
        with self.lock:
            self.sent.add(name)
        status, headers = browser.post(name, n="pageview" if kind < 0.7 else "signup", p={"of": name},
                                       **({"$": {"amount": "9.99", "currency": "EUR"}} if kind < 0.1 else {}))
        with self.lock:
            if status == 202 and "X-MiniNumbers-Dropped" not in headers:
                self.acknowledged.add(name)
                self.first.set()
            else:
                self.refused.add(name)
                self.answers.append((status, headers["Retry-After"]))

    @contextlib.contextmanager
    def running(self):
        """Have the visitors come, and in the end wait for all of them."""
        with ThreadPoolExecutor(self.callers) as pool:
            callers = [pool.submit(self.run, caller) for caller in range(self.callers)]
            try:
                yield self
            finally:
                self.stop.set()
        for caller in callers:
            caller.result()


def assert_nothing_lost_and_nothing_twice(path, *loads):
    """What was acknowledged is there; what was not may be, unless it was refused; nothing is there twice, or in part."""
    stored = pages(path)
    assert len(stored) == len(set(stored))
    for load in loads:
        of_load = {page for page in stored if page.startswith(f"/{load.label}/")}
        assert load.acknowledged - of_load == set()
        assert of_load - load.sent == set()
        assert of_load & load.refused == set()
    told = ask(path, "select t.text, v.text from props p join hits h on (h.site_id, h.id) = (p.site_id, p.hit_id) join texts t on t.id = h.page "
               "join texts v on v.id = p.value")
    assert sorted(told) == sorted(zip(stored, stored))


def assert_sound(path):
    """The database is well, by our own measure and by a recount."""
    checked = run_command("check", "--db", path)
    assert (checked.stdout, checked.stderr) == ("ok\n", "")
    assert_visits_are_whole(path)


# ---- kill -9 ---------------------------------------------------------------------------------------------------------

ROUNDS = 50


def die(server, rng):
    """End a server without a word: most often out of the blue, sometimes while it is stopping."""
    if rng.random() < 0.2:
        server.process.send_signal(signal.SIGTERM)
        time.sleep(rng.uniform(0, 0.05))
    server.kill()


def test_kill_9_at_random_moments_under_load_loses_no_acknowledged_hit_and_counts_none_twice(db, start_server, rng):
    """The moments are what is drawn here: nothing waits for the clock but the hand on the trigger."""
    loads = []
    for number in range(ROUNDS):
        server = start_server(db, "--geoip", "")  # recovers what the last one left, before anybody else has looked at it
        if loads:
            assert_nothing_lost_and_nothing_twice(db, loads[-1])
        loads.append(Load(rng.random(), f"{number}", server.url, callers=rng.choice((1, 4, 16))))
        with loads[-1].running() as load:
            assert load.first.wait(PATIENCE)
            time.sleep(rng.uniform(0.05, 0.4))
            die(server, rng)
    assert_sound(db)
    assert_nothing_lost_and_nothing_twice(db, *loads)


def kill_in_the_middle(rng, *arguments, seconds):
    """Run a command and kill it some time after it began to work; return whether it was killed before it was done."""
    process = subprocess.Popen([sys.executable, str(ROOT / "mininumbers.py"), *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    time.sleep(rng.uniform(*seconds))
    process.kill()
    process.communicate()
    return process.returncode == -signal.SIGKILL


def test_kill_9_while_made_up_visits_are_written_leaves_a_sound_file_in_which_they_can_be_made_anew(db, rng):
    demo = ("demo", "--db", db, "--pageviews", 200_000, "--site")
    assert any([kill_in_the_middle(rng, *demo, f"{number}.example", seconds=(0.3, 1.5)) for number in range(4)])
    assert run_command("check", "--db", db).stdout == "ok\n"
    begun = [domain for domain, in ask(db, "select domain from sites where domain <> 'example.com'")]
    for domain in begun:
        assert run_command("site", "remove", domain, "--db", db).returncode == 0
    assert run_command("demo", "--db", db, "--pageviews", 1000).stdout == "Wrote 1000 pageviews of demo.example.\n"
    assert_sound(db)


def test_kill_9_in_a_purge_leaves_what_the_next_purge_finishes(db, rng):
    assert run_command("demo", "--db", db, "--pageviews", 100_000, "--days", 60).returncode == 0
    kept, = ask(db, "select count(*) from hits where id >= (select max(id) from hits) - (? << 16)", 20 * 86_400)[0]
    purge = ("purge", "--db", db, "--retention-days", 30)
    assert any([kill_in_the_middle(rng, *purge, seconds=(0.2, 0.6)) for _ in range(4)])
    assert run_command("check", "--db", db).stdout == "ok\n"
    assert run_command(*purge).returncode == 0
    assert run_command(*purge).stdout == "Deleted 0 hits.\n"
    assert run_command("check", "--db", db).stdout == "ok\n"
    assert ask(db, "select count(*) from hits where id >= (select max(id) from hits) - (? << 16)", 20 * 86_400) == [(kept,)]
    assert ask(db, "select count(*) from texts where id > 2 and text like '/%' and id not in (select page from hits)"
               " and id not in (select entry_page from visits) and id not in (select exit_page from visits)") == [(0,)]


# ---- a full disk -----------------------------------------------------------------------------------------------------

def limit_files(server, size=resource.RLIM_INFINITY):
    """Let no file of a server grow beyond `size` bytes, as when the disk is full; without one, there is room again."""
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def until(condition):
    """Wait for what must happen, asking now and then."""
    for _ in range(PATIENCE * 20):
        if condition():
            return
        time.sleep(0.05)
    pytest.fail(f"not within {PATIENCE} seconds: {condition}")


@pytest.mark.parametrize("room", [0, 5_000, 200_000], ids=["none at all", "a little", "some"])
def test_a_full_disk_is_answered_503_and_when_there_is_room_again_all_goes_on_by_itself(db, start_server, rng, room):
    server = start_server(db, "--geoip", "")
    visitor = Browser(server.url)
    with Load(rng.random(), "filling", server.url, callers=8).running() as filling:
        assert filling.first.wait(PATIENCE)
        limit_files(server, os.path.getsize(f"{db}-wal") + room)
        until(lambda: len(filling.refused) > 100)
        assert visitor.get("/")[0] == visitor.get("/api/session")[0] == 200  # who only looks is not turned away
        limit_files(server)
        until(lambda: visitor.get("/health")[0] == 200)
        acknowledged = len(filling.acknowledged)
        until(lambda: len(filling.acknowledged) > acknowledged + 20)
    assert set(filling.answers) == {(503, "1")}
    server.kill()
    assert_sound(db)
    assert_nothing_lost_and_nothing_twice(db, filling)


def test_health_tells_that_the_disk_is_full(db, start_server):
    server = start_server(db, "--geoip", "")
    visitor = Browser(server.url)
    assert visitor.get("/health")[0] == 200
    limit_files(server, 1)
    assert visitor.post()[0] == visitor.get("/health")[0] == 503
    limit_files(server)
    assert visitor.get("/health")[0] == 200


def test_a_server_that_is_killed_while_the_disk_is_full_has_kept_what_it_acknowledged(db, start_server, rng):
    server = start_server(db, "--geoip", "")
    with Load(rng.random(), "filling", server.url, callers=8).running() as filling:
        assert filling.first.wait(PATIENCE)
        limit_files(server, os.path.getsize(f"{db}-wal") + 20_000)
        until(lambda: len(filling.refused) > 20)
        server.kill()
    assert_sound(db)
    assert_nothing_lost_and_nothing_twice(db, filling)


# ---- a file that is replaced -----------------------------------------------------------------------------------------

def move_with_its_log(db, to):
    for suffix in ("", "-wal", "-shm"):
        os.rename(f"{db}{suffix}", f"{to}{suffix}")


def copy_slowly(backup, db):
    """As `cp` of a large file from a slow disk."""
    with open(backup, "rb") as source, open(db, "wb") as target:
        while piece := source.read(65_536):
            target.write(piece)
            target.flush()
            time.sleep(0.3)


def put_a_photo_album(_, db):
    with contextlib.closing(sqlite3.connect(db)) as album:
        album.executescript("pragma application_id = 7; create table photos (id)")


AWAY = {
    "moved": lambda db, to: os.rename(db, to),
    "moved with its log": move_with_its_log,
    "removed": lambda db, to: os.unlink(db),
    "replaced at once": lambda db, to: None,
}
INSTEAD = {
    "a backup": lambda backup, db: os.replace(backup, db),
    "a backup, slowly": copy_slowly,
    "nothing, then a backup": lambda backup, db: (time.sleep(1), os.replace(backup, db)),
    "an empty file, then a backup": lambda backup, db: (db.touch(), time.sleep(3), os.replace(backup, db)),
    "another program's file, then a backup": lambda backup, db: (put_a_photo_album(backup, db), time.sleep(3), os.replace(backup, db)),
}


@pytest.fixture
def backup(tmp_path):
    """A database in which the number of our site is another site's."""
    path = tmp_path / "backup.db"
    for arguments in (["demo", "--pageviews", 20_000, "--site", "other.example"], ["site", "add", "example.com"]):
        assert run_command(*arguments, "--db", path).returncode == 0
    return path


def look_on(server, stop):
    """Ask what needs no account until told to stop; return the statuses."""
    visitor, seen = Browser(server.url), set()
    while not stop.is_set():
        seen.add(visitor.get("/api/session")[0])
    return seen


@pytest.mark.parametrize("away, instead", [
    ("moved", "a backup"), ("moved", "a backup, slowly"), ("moved with its log", "nothing, then a backup"),
    ("removed", "an empty file, then a backup"), ("moved", "another program's file, then a backup"), ("replaced at once", "a backup"),
])
def test_a_server_goes_on_by_itself_with_the_database_that_was_put_in_the_place_of_its_own(db, backup, start_server, rng, tmp_path, away, instead):
    made_up, = ask(backup, "select count(*) from hits")[0]
    server, old = start_server(db, "--geoip", ""), tmp_path / "old.db"
    with ThreadPoolExecutor(1) as pool, Load(rng.random(), "x", server.url, callers=8).running() as load:
        looking = pool.submit(look_on, server, load.stop)
        assert load.first.wait(PATIENCE)
        time.sleep(rng.uniform(0, 0.2))
        AWAY[away](db, old)
        INSTEAD[instead](backup, db)
        refused = len(load.refused)
        until(lambda: len(load.refused) > refused)
        acknowledged = len(load.acknowledged)
        until(lambda: len(load.acknowledged) > acknowledged + 20)
    assert set(load.answers) == {(503, "1")}
    assert looking.result() <= {200, 503}
    server.kill()
    assert_sound(db)
    of_new = {page for page in pages(db) if page.startswith("/x/")}
    of_old = set(pages(old)) if old.exists() else load.acknowledged - of_new
    assert ask(db, "select count(*) from hits where site_id = 1") == [(made_up,)]
    assert of_old & of_new == set()
    assert load.acknowledged <= of_old | of_new <= load.sent - load.refused
    assert len(of_new) >= 20
    if old.exists():
        assert ask(old, "pragma integrity_check") == [("ok",)]
        assert_visits_are_whole(old)


def test_a_database_that_is_put_back_is_gone_on_with(db, start_server, rng, tmp_path):
    server = start_server(db, "--geoip", "")
    with Load(rng.random(), "x", server.url, callers=8).running() as load:
        for suffixes in [("",), ("", "-wal", "-shm")]:
            until(lambda: len(load.acknowledged) > 20)
            for suffix in suffixes:
                os.rename(f"{db}{suffix}", tmp_path / f"away{suffix}")
            refused = len(load.refused)
            until(lambda: len(load.refused) > refused + 20)
            assert not db.exists(), "no empty one came in its place"
            for suffix in reversed(suffixes):
                os.rename(tmp_path / f"away{suffix}", f"{db}{suffix}")
            acknowledged = len(load.acknowledged)
            until(lambda: len(load.acknowledged) > acknowledged + 20)
    assert set(load.answers) == {(503, "1")}
    server.kill()
    assert_sound(db)
    assert_nothing_lost_and_nothing_twice(db, load)


def test_a_log_that_is_removed_takes_nothing_acknowledged_with_it(db, start_server, rng):
    """It holds what was committed of late; the open file of that name is all that is left of it."""
    server = start_server(db, "--geoip", "")
    with Load(rng.random(), "x", server.url, callers=8).running() as load:
        until(lambda: len(load.acknowledged) > 20)
        os.unlink(f"{db}-wal")
        until(lambda: load.refused)
        acknowledged = len(load.acknowledged)
        until(lambda: len(load.acknowledged) > acknowledged + 20)
    server.kill()
    assert_sound(db)
    assert_nothing_lost_and_nothing_twice(db, load)


def test_a_server_that_waits_for_its_file_says_so_once_a_minute_and_when_it_goes_on(db, start_server, tmp_path):
    server = start_server(db, "--geoip", "")
    visitor = Browser(server.url)
    os.rename(db, tmp_path / "away")
    for _ in range(30):
        assert visitor.post()[0] == visitor.get("/health")[0] == 503
    os.rename(tmp_path / "away", db)
    until(lambda: visitor.post()[0] == 202)
    assert visitor.get("/health")[0] == 200
    lines = [line for line in server.stop()[1].splitlines()[2:] if "job" not in line]
    assert len(lines) == len(set(lines)) <= 5
    assert f"ERROR mininumbers: writing failed: {db} is gone: put it back" in lines
    assert lines[-2:] == [f"WARNING mininumbers: {db} was replaced; going on with the file that is there now", "WARNING mininumbers: writing works again"]


# ---- a database that another process holds ---------------------------------------------------------------------------

HOLD = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=20)
db.execute(sys.argv[2])
print("held", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def held_by_another_process(db, how):
    """Another program has begun to write and does not finish."""
    with subprocess.Popen([sys.executable, "-c", HOLD, str(db), how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield
        process.stdin.close()


@pytest.mark.parametrize("how", ["begin immediate", "begin exclusive"])
def test_a_lock_of_ten_seconds_makes_hits_late_or_refused_but_none_lost_or_doubled_and_readers_are_answered(db, start_server, rng, how):
    """With more visitors than the server has threads, so that waiting hits alone could take them all."""
    server = start_server(db, "--geoip", "", "--threads", "8")
    onlooker = Browser(server.url)
    with Load(rng.random(), "x", server.url, callers=24).running() as load:
        assert load.first.wait(PATIENCE)
        with held_by_another_process(db, how):
            released = time.monotonic() + 10
            acknowledged, answers = len(load.acknowledged), []
            while time.monotonic() < released:
                asked = time.monotonic()
                answers.append((onlooker.get("/api/session")[0], time.monotonic() < released))
                time.sleep(max(0, asked + 0.2 - time.monotonic()))
            assert len(load.acknowledged) <= acknowledged + 24, "what is not committed is not acknowledged"
        until(lambda: len(load.acknowledged) > acknowledged + 100)
    assert answers.count((200, True)) >= 5, "whoever looks is answered while the lock is held"
    assert set(load.answers) <= {(503, "1")}
    assert Browser(server.url).post("/after", p={"of": "/after"})[0] == 202
    server.kill()
    assert_sound(db)
    assert_nothing_lost_and_nothing_twice(db, load)


# ---- a database that may only be read --------------------------------------------------------------------------------

@pytest.fixture
def nobody(monkeypatch):
    """Make what is started from now on bow to permissions, as root does not: without CAP_DAC_OVERRIDE and its like."""
    start = subprocess.Popen

    def bow():
        libc = ctypes.CDLL(None)
        for capability in (1, 2, 3):
            libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP: gone with the exec() that follows; denied to who has none of them
    monkeypatch.setattr(subprocess, "Popen", lambda *arguments, **more: start(*arguments, preexec_fn=bow, **more))


def test_a_file_that_may_only_be_read_is_answered_503_until_it_may_be_written(db, start_server, rng, tmp_path, nobody):
    """As a backup that was put in place by another user, or with the permissions of an archive."""
    backup = make_database(tmp_path / "backup.db")
    server = start_server(db, "--geoip", "")
    with Load(rng.random(), "x", server.url, callers=8).running() as load:
        assert load.first.wait(PATIENCE)
        os.chmod(backup, 0o400)
        os.replace(backup, db)
        until(lambda: load.refused)
        time.sleep(2 * mininumbers.SETTLED + 1)  # time enough to have opened it, were that possible
        refused, acknowledged = len(load.refused), len(load.acknowledged)
        until(lambda: len(load.refused) > refused + 20)
        assert len(load.acknowledged) == acknowledged
        os.chmod(db, 0o600)
        until(lambda: len(load.acknowledged) > acknowledged + 20)
    assert set(load.answers) == {(503, "1")}
    assert f"writing failed: {db} is read-only" in server.stop()[1]
    assert_sound(db)
    assert set(pages(db)) <= load.acknowledged


def test_permissions_that_are_taken_away_stop_nothing_that_is_open_or_are_told(db, start_server, rng, nobody):
    server = start_server(db, "--geoip", "")
    with Load(rng.random(), "x", server.url, callers=8).running() as load:
        assert load.first.wait(PATIENCE)
        for path, mode in ((db, 0o400), (db.parent, 0o000)):
            before = os.stat(path).st_mode & 0o777
            os.chmod(path, mode)
            answered = len(load.acknowledged) + len(load.refused)
            until(lambda: len(load.acknowledged) + len(load.refused) > answered + 20)
            os.chmod(path, before)
            acknowledged = len(load.acknowledged)
            until(lambda: len(load.acknowledged) > acknowledged + 20)
    assert set(load.answers) <= {(503, "1")}
    server.kill()
    assert_sound(db)
    assert_nothing_lost_and_nothing_twice(db, load)


# ---- the clock -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("start", [1772452800, 1772495700 + 600], ids=["at noon", "back over midnight"])
@pytest.mark.parametrize("jobs", [True, False], ids=["with jobs", "without"])
def test_a_clock_that_is_set_back_an_hour_loses_nothing_and_all_goes_on_when_it_comes_forward(tmp_path, monkeypatch, start, jobs):
    monkeypatch.setattr(mininumbers.Scheduler, "start", lambda self: None)
    clock, sent = MovableClock(start), []
    with contextlib.closing(create_app(Settings(db=str(tmp_path / "test.db"), geoip="", rotation_hours=1), clock)) as app:
        app.setup("owner", "correct horse", "example.com")
        site = Site(app)
        for step in (0, 1, 600, -3600, 0, 1, 60, 1800, 1800, -3600, -86_400, 86_400, 3600):
            clock.advance(step)
            if jobs:
                app.run_jobs()
            for visitor in range(3):
                for _ in range(2):
                    sent.append(f"/{len(sent)}")
                    site.send(sent[-1], ip=f"192.0.2.{visitor}", p={"of": sent[-1]})
                site.send(sent[-1], name="engagement", ip=f"192.0.2.{visitor}", e=500, sd=10)
        assert site.numbers("pageviews", date_range=["2026-02-01", "2026-04-01"]) == len(sent)
        assert check_database(app.store) == []
    assert sorted(pages(tmp_path / "test.db")) == sorted(sent)
    assert_visits_are_whole(tmp_path / "test.db")
    assert ask(tmp_path / "test.db", "select count(*) from visits where duration < 0 or duration > 86400") == [(0,)]


# ---- the queue -------------------------------------------------------------------------------------------------------

def test_a_full_queue_refuses_and_writes_nothing_by_halves(db, start_server, rng):
    server = start_server(db, "--geoip", "", "--queue", "1")
    with Load(rng.random(), "x", server.url, callers=24).running() as load:
        assert load.first.wait(PATIENCE)
        with held_by_another_process(db, "begin immediate"):
            until(lambda: len(load.refused) > 100)
        acknowledged = len(load.acknowledged)
        until(lambda: len(load.acknowledged) > acknowledged + 100)
    assert set(load.answers) == {(503, "1")}
    server.kill()
    assert_sound(db)
    assert_nothing_lost_and_nothing_twice(db, load)
