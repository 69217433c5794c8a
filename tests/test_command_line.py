"""The command line as a person, a script and a service manager meet it: real processes, what they print, how they end."""
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from urllib.parse import urlsplit

import pytest

from conftest import CHROME, PASSWORD, ROOT, Site, password_is_right, run_command
from mininumbers import SETTINGS, Settings, create_app

PROGRAM = [sys.executable, str(ROOT / "mininumbers.py")]
COMMANDS = ("serve", "setup", "site add", "site list", "site set", "site remove", "token create", "demo", "purge", "check")
ROW_TABLES = ("hits", "visits", "props", "revenue", "salts", "dropped")


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    """Whoever runs the tests may have variables of their own."""
    for name in [name for name in os.environ if name.startswith("MININUMBERS_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    path = tmp_path_factory.mktemp("template") / "template.db"
    with contextlib.closing(create_app(Settings(db=str(path), geoip=""))) as app:
        app.setup("owner", PASSWORD, "example.com")
    return path


@pytest.fixture
def db(template, tmp_path):
    """A database with the account "owner" and the site example.com."""
    return shutil.copy(template, tmp_path / "test.db")


def rows(db, sql, *values):
    with contextlib.closing(sqlite3.connect(db)) as connection:
        return connection.execute(sql, values).fetchall()


def everything(db):
    with contextlib.closing(sqlite3.connect(db)) as connection:
        return list(connection.iterdump())


def files_of(db):
    """All bytes on the disk that belong to a database."""
    return b"".join(path.read_bytes() for path in db.parent.glob(db.name + "*"))


def works(*arguments, **more):
    """Run a command that must succeed and say nothing on standard error; return what it printed."""
    done = run_command(*arguments, **more)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def fails(*arguments, says, **more):
    """Run a command that must fail as every command does: exit status 2, and one line on standard error that says why."""
    assert_failed(run_command(*arguments, **more), says)


def assert_failed(done, says):
    assert re.fullmatch(r"mininumbers[^\n]*\n", done.stderr), done.stderr
    assert says in done.stderr
    assert (done.returncode, done.stdout) == (2, "")


@contextlib.contextmanager
def running(*arguments, env=()):
    """Start the program with exactly these arguments and give (its process, its address) once it can be opened."""
    process = subprocess.Popen([*PROGRAM, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env={**os.environ, **dict(env)})
    try:
        address = next((line.split()[1] for line in process.stdout if line.startswith("Open ")), None)
        assert address, "the program ended before it served"
        yield process, address
    finally:
        process.kill()
        process.communicate()


def ask(address, body=None, headers=()):
    """GET, or POST of a JSON body; return (status, body of the answer)."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json", "Sec-Fetch-Site": "same-origin", "User-Agent": CHROME, **dict(headers)})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def pageview(path="/", domain="example.com", **more):
    return {"n": "pageview", "u": f"https://{domain}{path}", "d": domain, **more}


# ---- help ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_every_command_has_help(command):
    assert works(*command.split(), "--help").startswith(f"usage: mininumbers {command}".rstrip())


def test_the_help_of_serve_names_every_setting_with_its_variable_and_default():
    text = works("serve", "--help", env={"COLUMNS": "500"})
    for name, setting in SETTINGS.items():
        flag, default, variable = name.replace("_", "-"), re.escape(str(setting.default)), f"MININUMBERS_{name.upper()}"
        assert re.search(rf"^  --{flag} [A-Z]+\s+[^\n]*\b{re.escape(setting.metadata['help'])}[^\n]*{default}[^\n]*\b{variable}\b", text, re.MULTILINE)


def test_the_help_names_every_command():
    text = works("--help")
    assert all(re.search(rf"^    {command.split()[0]}  ", text, re.MULTILINE) for command in COMMANDS)


def test_version_is_that_of_the_module():
    assert works("--version") == f"Mini Numbers {re.search('__version__ = .(.*).', (ROOT / 'mininumbers.py').read_text())[1]}\n"


@pytest.mark.parametrize("arguments, says", [
    (["dance"], "dance"), (["site"], "ACTION"), (["token", "dance"], "dance"), (["--dance"], "--dance"), (["serve", "now"], "now"),
    (["token", "create"], "--name"), (["check", "--port", "0"], "--port"),
])
def test_what_is_not_understood_is_told_in_one_line(arguments, says):
    fails(*arguments, says=says)


# ---- a first walk ----------------------------------------------------------------------------------------------------

def test_every_command_does_its_work_on_the_database_it_is_given(tmp_path):
    db = tmp_path / "walk.db"
    printed = works("setup", "--db", db, "--username", "me", "--password-stdin", "--site", "www.Example.com", "--timezone", "Asia/Tokyo",
                    stdin=f"{PASSWORD}\n")
    assert "me" in printed and "example.com" in printed and PASSWORD not in printed
    works("site", "add", "--db", db, "example.org")
    works("site", "set", "--db", db, "example.org", "--mode", "strict")
    assert [line.split("\t")[:3] for line in works("site", "list", "--db", db).splitlines()] == [
        ["example.com", "Asia/Tokyo", "standard"], ["example.org", "UTC", "strict"]]
    assert works("token", "create", "--db", db, "--name", "script").strip()
    works("site", "remove", "--db", db, "example.org")
    assert works("purge", "--db", db) == "Deleted 0 hits.\n"
    assert works("check", "--db", db) == "ok\n"
    assert rows(db, "select domain from sites") == [("example.com",)]


# ---- setup -----------------------------------------------------------------------------------------------------------

def test_the_password_is_kept_only_as_a_slow_hash_and_opens_the_account(tmp_path):
    db = tmp_path / "test.db"
    works("setup", "--db", db, "--username", "me", "--password-stdin", stdin="pässwörd no 1\n")
    assert rows(db, "select domain from sites") == []
    assert b"rd no 1" not in files_of(db)
    with contextlib.closing(create_app(Settings(db=str(db), geoip=""))) as app:
        assert password_is_right(app, "me", "pässwörd no 1")
        assert not password_is_right(app, "me", "pässwörd no 1\n")


def test_a_second_person_can_have_an_account(db):
    works("setup", "--db", db, "--username", "other", "--password-stdin", stdin=PASSWORD)
    assert rows(db, "select username from users order by id") == [("owner",), ("other",)]


@pytest.mark.parametrize("arguments, stdin, says", [
    (["--username", "me"], "seven77\n", "8"),
    (["--username", "owner"], PASSWORD, "owner"),
    (["--username", " "], PASSWORD, "username"),
    (["--username", "me", "--site", "https://example.org/"], PASSWORD, "domain"),
    (["--username", "me", "--site", "example.com"], PASSWORD, "example.com exists already"),
    (["--username", "me", "--site", "example.org", "--timezone", "Mars/Base"], PASSWORD, "Mars/Base"),
    (["--username", "owner", "--site", "example.org"], PASSWORD, "owner"),
    ([], PASSWORD, "--username"),
])
def test_a_setup_that_is_refused_creates_nothing(db, arguments, stdin, says):
    before = everything(db)
    fails("setup", "--db", db, "--password-stdin", *arguments, says=says, stdin=stdin)
    assert everything(db) == before


def test_setup_without_a_terminal_asks_for_the_flags_that_replace_it(db):
    fails("setup", "--db", db, "--username", "me", says="--password-stdin", stdin=PASSWORD)


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])  # as Python reads standard input in most locales, and in C
def test_a_password_that_is_no_text_is_refused_in_one_line(db, errors):
    done = subprocess.run([*PROGRAM, "setup", "--db", db, "--username", "me", "--password-stdin"], input=b"long enough \xff\n", capture_output=True,
                          env={**os.environ, "PYTHONIOENCODING": f"utf-8:{errors}"})
    assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)


@pytest.mark.parametrize("arguments", [["setup", "--username", "me", "--password-stdin", "--site", "no domain"], ["site", "add", "no domain"]])
def test_what_is_refused_leaves_no_database_behind(tmp_path, arguments):
    fails(*arguments, "--db", tmp_path / "new.db", says="domain", stdin=PASSWORD)
    assert list(tmp_path.iterdir()) == []


# ---- site ------------------------------------------------------------------------------------------------------------

def test_a_site_takes_every_setting_and_default_gives_it_back_to_the_instance(db):
    works("site", "add", "--db", db, "b.example", "--timezone", "Europe/Berlin", "--hostnames", "c.example, *.d.example", "--mode", "paranoid",
          "--rotation-hours", "1", "--retention-days", "90", "--gpc", "drop")
    sql = "select timezone, hostnames, mode, rotation_hours, retention_days, gpc from sites where domain = 'b.example'"
    assert rows(db, sql) == [("Europe/Berlin", "c.example,*.d.example", "paranoid", 1, 90, "drop")]
    works("site", "set", "--db", db, "www.B.example", "--mode", "default", "--rotation-hours", "default", "--hostnames", "")
    assert rows(db, sql) == [("Europe/Berlin", "", None, None, 90, "drop")]
    listed = works("site", "list", "--db", db, env={"MININUMBERS_MODE": "strict", "MININUMBERS_ROTATION_HOURS": "48"}).splitlines()[0]
    assert all(each in listed for each in ("b.example", "Europe/Berlin", "strict", "48", "90", "drop"))


@pytest.mark.parametrize("arguments, says", [
    (["www.EXAMPLE.com"], "exists already"), (["https://new.example"], "domain"), ([""], "domain"),
    (["new.example", "--timezone", "../UTC"], "timezone"), (["new.example", "--hostnames", "*.*.org"], "hostnames"),
    (["new.example", "--mode", "secret"], "mode"), (["new.example", "--rotation-hours", "1.5"], "rotation_hours"),
    (["new.example", "--retention-days", "-1"], "retention_days"), (["new.example", "--gpc", "maybe"], "gpc"),
])
def test_a_site_with_a_wrong_value_is_not_added(db, arguments, says):
    fails("site", "add", "--db", db, *arguments, says=says)
    assert rows(db, "select domain from sites") == [("example.com",)]


@pytest.mark.parametrize("arguments, says", [
    (["other.example", "--mode", "strict"], "other.example"), (["example.com", "--mode", "strict", "--gpc", "maybe"], "gpc"),
])
def test_a_change_that_is_wrong_in_part_changes_nothing(db, arguments, says):
    before = everything(db)
    fails("site", "set", "--db", db, *arguments, says=says)
    assert everything(db) == before


@pytest.mark.parametrize("hostnames, counts", [
    ("shop.example,*.blog.example", {"shop.example": True, "a.shop.example": False, "workshop.example": False, "blog.example": False,
                                     "a.blog.example": True, "a.b.blog.example": True, "ablog.example": False, "sub.example.com": True}),
    ("*", {"anything.example": True}),
])
def test_hostnames_decide_which_other_hosts_may_report(app, hostnames, counts):
    works("site", "set", "--db", app.settings.db, "example.com", "--hostnames", hostnames)
    dropped = {host: Site(app).send(host=host).headers.get("X-MiniNumbers-Dropped") for host in counts}
    assert dropped == {host: None if counted else "hostname" for host, counted in counts.items()}


def test_removing_a_site_deletes_every_row_and_text_of_it_and_of_no_other(db):
    with contextlib.closing(create_app(Settings(db=str(db), geoip=""))) as app:
        app.add_site("gone.example")
        gone, kept = Site(app, "gone.example"), Site(app)
        for site in (gone, kept):
            site.send(f"/of-{site.domain}", p={"plan": site.domain}, **{"$": {"amount": "9.99", "currency": "EUR"}})
            site.send("/", host="elsewhere.example")
        gone_id, kept_id = (rows(db, "select id from sites where domain = ?", site.domain)[0][0] for site in (gone, kept))
        token = app.create_token("bound", "gone.example")
    before = {table: rows(db, f"select * from {table} where site_id = ?", kept_id) for table in ROW_TABLES}
    assert all(before.values()) and all(rows(db, f"select * from {table} where site_id = ?", gone_id) for table in ROW_TABLES)

    works("site", "remove", "--db", db, "gone.example")
    assert {table: rows(db, f"select * from {table} where site_id = ?", gone_id) for table in ROW_TABLES} == dict.fromkeys(ROW_TABLES, [])
    assert {table: rows(db, f"select * from {table} where site_id = ?", kept_id) for table in ROW_TABLES} == before
    assert b"/of-gone.example" not in files_of(db)
    assert {line.split("(")[0] for line in everything(db) if "gone.example" in line} == {'INSERT INTO "audit" VALUES'}

    works("site", "add", "--db", db, "gone.example")
    with contextlib.closing(create_app(Settings(db=str(db), geoip=""))) as app:
        assert Site(app, "gone.example").numbers("visitors", "events", date_range="all") == [0, 0]
        assert Site(app).numbers("visitors", "events", date_range="all") == [1, 1]
        Site(app).web.get("/api/sites", headers={"Authorization": f"Bearer {token}"}, status=401)
    assert rows(db, "select id from sites where domain = 'gone.example'") != [(gone_id,)]


def test_only_a_site_that_exists_can_be_removed(db):
    fails("site", "remove", "--db", db, "other.example", says="other.example")


# ---- token -----------------------------------------------------------------------------------------------------------

def test_a_token_is_printed_alone_works_and_is_stored_only_as_a_hash(db):
    token = works("token", "create", "--db", db, "--name", "script").removesuffix("\n")
    assert re.fullmatch(r"[\w-]{43,}", token)
    assert token.encode() not in files_of(db)
    with contextlib.closing(create_app(Settings(db=str(db), geoip=""))) as app:
        answer = Site(app).web.get("/api/sites", headers={"Authorization": f"Bearer {token}"})
    assert [site["domain"] for site in answer.json["sites"]] == ["example.com"]


def test_a_token_can_be_bound_to_one_site(db):
    works("site", "add", "--db", db, "example.org")
    token = works("token", "create", "--db", db, "--name", "script", "--site", "example.org", "--read-only").strip()
    with contextlib.closing(create_app(Settings(db=str(db), geoip=""))) as app:
        answer = Site(app).web.get("/api/sites", headers={"Authorization": f"Bearer {token}"})
    assert [site["domain"] for site in answer.json["sites"]] == ["example.org"]


@pytest.mark.parametrize("arguments, says", [
    (["--name", "x", "--site", "other.example"], "other.example"), (["--name", " "], "name"), (["--name", "x" * 101], "name"),
    (["--name", os.fsdecode(b"\xff")], "name"),
])
def test_a_token_that_is_refused_is_not_created(db, arguments, says):
    fails("token", "create", "--db", db, *arguments, says=says)
    assert rows(db, "select * from tokens") == []


# ---- purge and check -------------------------------------------------------------------------------------------------

def test_purge_deletes_what_retention_no_longer_covers_and_the_salts_that_are_over(db, clock):
    with contextlib.closing(create_app(Settings(db=str(db), geoip=""), clock=clock)) as app:
        Site(app).send("/from-long-ago")
    assert rows(db, "select count(*) from salts") == [(1,)]
    assert works("purge", "--db", db) == "Deleted 0 hits.\n"
    assert rows(db, "select count(*) from salts") == [(0,)]
    assert works("purge", "--db", db, "--retention-days", "1") == "Deleted 1 hits.\n"
    assert rows(db, "select count(*) from hits") == [(0,)]
    assert b"/from-long-ago" not in files_of(db)


def damage(db, page):
    """Overwrite a page of the file, as a failing disk does."""
    with open(db, "r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xff" * 3000)


def root_page(db, table):
    return rows(db, "select rootpage from sqlite_master where name = ?", table)[0][0]


@pytest.mark.parametrize("table", ["texts", "hits"])
def test_check_finds_a_damaged_file(db, table):
    damage(db, root_page(db, table))
    fails("check", "--db", db, says="backup")


@pytest.mark.parametrize("sql, says", [
    ("insert into hits (site_id, id, since, name, page, hostname) values (1, 1, 0, 1, 0, 0)", "belong to no visit"),
    ("insert into props (site_id, hit_id, key, value) values (1, 1, 0, 0)", "belong to no hit"),
    ("insert into visits values (1, 1, 1, 77, 88, 0, 0, 0, 0, 0, 0, 0)", "client"),
    ("insert into sessions values (1, x'00', 99, '', 0, 0, 0)", "sessions"),
])
def test_check_finds_rows_that_do_not_fit_together(db, sql, says):
    with contextlib.closing(sqlite3.connect(db)) as connection, connection:
        connection.execute(sql)
    fails("check", "--db", db, says=says)


# ---- serve -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("arguments", [[], ["--geoip", ""], ["serve"]], ids=["alone", "flags", "serve"])
def test_without_a_command_it_serves(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with running(*arguments, env={"MININUMBERS_PORT": "0"}) as (process, address):
        assert ask(f"{address}health")[0] == 200
    assert rows(tmp_path / "mininumbers.db", "select count(*) from users") == [(0,)]


def ipv6_works():
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


@pytest.mark.parametrize("host", ["*", "127.0.0.1", *(["::1"] if ipv6_works() else [])])
def test_the_address_it_prints_can_be_opened(db, host):
    with running("--db", db, "--host", host, "--port", "0", "--geoip", "") as (process, address):
        assert urlsplit(address).port, "a browser wants an IPv6 address in brackets"
        assert b"<title>" in ask(address)[1]


def end(process):
    """End the program as a service manager does; return (exit status, what it printed since)."""
    process.terminate()
    printed = process.stdout.read()
    return process.wait(30), printed


def test_the_setup_link_is_printed_only_while_nobody_has_an_account(tmp_path):
    arguments = ["--db", str(tmp_path / "new.db"), "--port", "0", "--geoip", ""]
    wanted = {"username": "me", "password": PASSWORD, "domain": "example.com", "timezone": "UTC"}
    with running(*arguments) as (process, address):
        assert ask(f"{address}api/setup", {**wanted, "code": "guess"})[0] == 403
        first = re.search(rf"{address}#setup=(\S{{20,}})\n", end(process)[1])[1]
    with running(*arguments) as (process, address):
        process.stdout.readline()
        code = re.search(r"#setup=(\S+)\n", process.stdout.readline())[1]
        assert code != first
        assert ask(f"{address}api/setup", {**wanted, "code": first})[0] == 403
        assert ask(f"{address}api/setup", {**wanted, "code": code})[0] == 200
        assert ask(f"{address}api/setup", {**wanted, "username": "second", "code": code})[0] == 403
    with running(*arguments) as (process, address):
        assert end(process) == (0, "")


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly_and_every_acknowledged_hit_is_there(db, ending):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have told us, and so our children, to ignore it
    acknowledged = []
    enough = threading.Event()

    def send(address):
        with contextlib.suppress(OSError):
            while ask(f"{address}api/event", pageview(f"/{len(acknowledged)}"))[0] == 202:
                acknowledged.append(1)
                if len(acknowledged) == 100:
                    enough.set()
    try:
        with running("--db", db, "--port", "0", "--geoip", "") as (process, address):
            senders = [threading.Thread(target=send, args=(address,)) for _ in range(4)]
            for sender in senders:
                sender.start()
            assert enough.wait(30)
            process.send_signal(ending)
            assert process.wait(30) == 0
            for sender in senders:
                sender.join()
    finally:
        signal.signal(signal.SIGINT, before)
    written, = rows(db, "select count(*) from hits")[0]
    assert len(acknowledged) <= written <= len(acknowledged) + len(senders)
    assert works("check", "--db", db) == "ok\n"


@pytest.mark.parametrize("host", ["*", "127.0.0.1"])
def test_a_port_that_is_taken_is_told(db, host):
    with socket.create_server(("127.0.0.1" if host != "*" else "", 0)) as other:
        port = other.getsockname()[1]
        fails("serve", "--db", db, "--host", host, "--port", port, "--geoip", "", says=str(port))


@pytest.mark.parametrize("host", ["192.0.2.1", "two words"])
def test_an_address_that_is_not_this_machines_is_told(db, host):
    fails("serve", "--db", db, "--host", host, "--port", "0", "--geoip", "", says="cannot listen on")


@pytest.mark.parametrize("flag, value, says", [
    ("--port", "http", "port"), ("--port", "65536", "65535"), ("--threads", "0", "512"), ("--mode", "secret", "paranoid"),
    ("--trusted-proxies", "everyone", "trusted_proxies"),
])
def test_a_bad_setting_is_told_before_anything_is_made(tmp_path, flag, value, says):
    fails("serve", "--db", tmp_path / "none.db", flag, value, says=says)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["serve", "site list"])
def test_a_bad_variable_is_told_before_anything_is_made(tmp_path, command):
    fails(*command.split(), "--db", tmp_path / "none.db", says="rotation_hours", env={"MININUMBERS_ROTATION_HOURS": "8761"})
    assert list(tmp_path.iterdir()) == []


def test_flags_win_over_variables_and_variables_over_defaults(db, tmp_path):
    other = tmp_path / "other.db"
    variables = {"MININUMBERS_DB": str(other), "MININUMBERS_PORT": "0", "MININUMBERS_GEOIP": "", "MININUMBERS_MODE": "strict"}
    with running(env=variables) as (process, address):
        assert ask(f"{address}health")[0] == 200
    assert other.exists()
    assert "standard" in works("site", "list", "--db", db)
    with running("--db", str(db), "--mode", "paranoid", env=variables) as (process, address):
        ask(f"{address}api/event", pageview())
    assert rows(db, "select count(*) from hits") == [(1,)]
    assert rows(db, "select text from clients join texts on texts.id = browser") == [("",)]
    assert rows(other, "select count(*) from hits") == [(0,)]


# ---- databases that cannot be used -----------------------------------------------------------------------------------

def junk(db):
    db.write_bytes(b"This is a letter to my aunt, not a database." * 100)


def cut_short(db):
    db.write_bytes(db.read_bytes()[:5000])


def foreign(db):
    db.unlink()
    with contextlib.closing(sqlite3.connect(db)) as connection:
        connection.execute("create table recipes (name text)")


def newer(db):
    with contextlib.closing(sqlite3.connect(db)) as connection:
        connection.execute("pragma user_version = 9999")


def folder(db):
    db.unlink()
    db.mkdir()


@pytest.mark.parametrize("command, spoil, says", [
    ("serve", junk, "damaged"), ("serve", cut_short, "damaged"), ("serve", foreign, "other program"), ("serve", newer, "newer"),
    ("serve", folder, "folder"), ("check", junk, "damaged"), ("site list", foreign, "other program"),
])
def test_a_database_that_is_none_of_ours_is_left_alone(db, command, spoil, says):
    spoil(db)
    before = db.is_file() and db.read_bytes()
    fails(*command.split(), "--db", db, says=says)
    assert (db.is_file() and db.read_bytes()) == before


@pytest.mark.parametrize("command, table", [
    ("serve", "sqlite_autoindex_users_1"), ("site list", "sites"), ("token create --name x", "tokens"), ("purge", "salts"),
])
def test_a_damaged_page_is_told_in_one_line(db, command, table):
    damage(db, root_page(db, table))
    fails(*command.split(), "--db", db, says="damaged")


@pytest.mark.parametrize("name", ["no/such/folder/test.db", "test.db/inside.db"])
def test_a_database_that_cannot_be_made_is_told(db, name):
    fails("serve", "--db", db.parent / name, says="cannot be created")


def test_no_name_is_no_database(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fails("serve", "--db", "", says="--db")
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_sqlite_would_read_in_its_own_way_is_a_file_as_any_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    works("site", "add", "--db", ":memory:", "example.com")
    assert "example.com" in works("site", "list", "--db", ":memory:")


@pytest.mark.parametrize("command", ["site list", "site set example.com", "token create --name x", "check"])
def test_a_misspelt_database_is_not_made(tmp_path, command):
    fails(*command.split(), "--db", tmp_path / "misspelt.db", says="does not exist")
    assert list(tmp_path.iterdir()) == []


def run_bound_by_permissions(*arguments):
    """Run the program so that a file's permissions bind it, which for root means to give up the right to ignore them."""
    rights = "-dac_override,-dac_read_search"
    return subprocess.run([*(["setpriv", "--bounding-set", rights] if os.geteuid() == 0 else []), *PROGRAM, *arguments],
                          capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("command", ["serve --port 0", "purge"])
@pytest.mark.parametrize("which, permissions", [("file", 0o444), ("folder", 0o555)])
def test_a_read_only_database_is_told_before_a_hit_is_lost(tmp_path, template, command, which, permissions):
    db = shutil.copy(template, tmp_path / "test.db")
    target = db if which == "file" else tmp_path
    target.chmod(permissions)
    try:
        done = run_bound_by_permissions(*command.split(), "--db", str(db))
    finally:
        target.chmod(0o755)
    assert_failed(done, "read-only")


def test_a_new_database_is_readable_by_its_owner_only(tmp_path):
    works("site", "add", "--db", tmp_path / "new.db", "example.com")
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


# ---- GeoIP files that cannot be used ---------------------------------------------------------------------------------

GEOIP = ROOT / "GeoLite2-Country.mmdb"


def of_networks(path):
    """A GeoIP database of another kind: it knows networks, not countries."""
    path.write_bytes(GEOIP.read_bytes().replace(b"GeoLite2-Country", b"GeoLite2-Network"))


def half(path):
    path.write_bytes(GEOIP.read_bytes()[:2_000_000])


@pytest.mark.parametrize("spoil", [lambda path: None, junk, lambda path: path.write_bytes(b""), lambda path: path.mkdir(), half, of_networks],
                         ids=["missing", "junk", "empty", "folder", "half", "another kind"])
def test_a_geoip_file_that_cannot_be_used_is_told_before_it_serves(db, tmp_path, spoil):
    spoil(tmp_path / "places.mmdb")
    fails("serve", "--db", db, "--port", "0", "--geoip", tmp_path / "places.mmdb", says="--geoip")
