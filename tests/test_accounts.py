"""People: signing in, the second factor, sessions, roles, invitations, tokens, settings of the instance, the audit trail.

Through WSGI, as browsers and programs ask; the codes of the second factor are made by a second implementation of RFC 6238 here.

Contents: passwords · sessions · the second factor · roles · invitations · tokens · settings · the audit trail · secrets · an older database
"""
import base64
import contextlib
import hashlib
import hmac
import json
import logging
import re
import sqlite3
import struct
import threading

import pytest

import mininumbers
from conftest import PASSWORD, ROOT, MovableClock, Person, run_command
from mininumbers import OPERATOR, Caller, Settings, create_app

DAY = 86_400
FIREFOX = "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:133.0) Gecko/20100101 Firefox/133.0"
NEW_PASSWORD = "staple, battery, horse"
pytestmark = pytest.mark.usefixtures("cheap_passwords")   # that hashing is slow is another file's matter


@pytest.fixture
def app(tmp_path, clock):
    """An app with two sites, an owner, and an admin, editor and viewer of example.com."""
    with contextlib.closing(create_app(Settings(db=str(tmp_path / "test.db"), geoip=""), clock=clock)) as app:
        app.setup("owner", PASSWORD, "example.com")
        app.add_site("other.test")
        for role in ("admin", "editor", "viewer"):
            app.accounts.add_user(OPERATOR, role, PASSWORD, role, ["example.com"])
        yield app


@pytest.fixture
def person(app):
    """A function that gives somebody at a browser of their own, signed in where a name is given."""
    numbers = iter(range(1, 200))

    def make(username=None, **more):
        somebody = Person(app, **{"address": f"192.0.2.{next(numbers)}", **more})
        if username:
            assert somebody.sign_in(username)[0] == 200
        return somebody
    return make


def rows(app, sql, *values):
    return app.store.reader().execute(sql, values).fetchall()


def fields(body):
    return {each["field"] for each in body["details"]}


def id_of(app, username):
    return rows(app, "select id from users where username = ?", username)[0][0]


# ---- passwords -------------------------------------------------------------------------------------------------------

def test_a_password_is_hashed_anew_when_its_parameters_have_risen(app, person, monkeypatch):
    monkeypatch.setitem(mininumbers.SCRYPT, "n", 64)
    before, = rows(app, "select password_hash from users where username = 'owner'")
    assert person().sign_in(password="wrong password")[0] == 401
    assert rows(app, "select password_hash from users where username = 'owner'") == [before]
    person("owner")
    (after,), = rows(app, "select password_hash from users where username = 'owner'")
    name, n, r, p, salt, key = after.split("$")
    assert (before[0].split("$")[1], n) == ("16", "64")
    assert bytes.fromhex(key) == hashlib.scrypt(PASSWORD.encode(), salt=bytes.fromhex(salt), n=64, r=int(r), p=int(p))
    person("owner")


def test_parameters_that_fell_leave_a_password_as_it_is(app, person, monkeypatch):
    monkeypatch.setitem(mininumbers.SCRYPT, "n", 8)
    before = rows(app, "select password_hash from users")
    person("owner")
    assert rows(app, "select password_hash from users") == before


def test_an_unknown_name_costs_what_a_wrong_password_does(app, person, monkeypatch):
    costs, really = [], mininumbers.open_password
    monkeypatch.setattr(mininumbers, "open_password", lambda password, stored: costs.append(stored.split("$")[1:4]) or really(password, stored))
    monkeypatch.setitem(mininumbers.SCRYPT, "n", 32)  # today's, which the accounts do not have yet
    for username in ("owner", "nobody", "", "x" * 64):
        person().sign_in(username, "wrong password")
    assert costs == [["16", "8", "5"]] * 3  # no name is refused before


def test_a_new_password_ends_the_other_sessions_and_the_old_password(app, person):
    here, there, other = person("owner"), person("owner"), person("admin")
    assert here.post("/api/account/password", password=PASSWORD, new_password=NEW_PASSWORD) == (200, {})
    assert (here.name, there.name, other.name) == ("owner", None, "admin")
    assert person().sign_in(password=PASSWORD)[0] == 401
    assert person().sign_in(password=NEW_PASSWORD)[0] == 200


@pytest.mark.parametrize("body, wrong", [({"password": "wrong password", "new_password": NEW_PASSWORD}, {"password"}),
                                         ({"password": PASSWORD, "new_password": "short"}, {"new_password"}),
                                         ({"password": PASSWORD, "new_password": "x" * 1025}, {"new_password"}),
                                         ({"password": PASSWORD}, {"new_password"}), ({}, {"password", "new_password"})])
def test_a_password_change_that_is_refused_changes_nothing(app, person, body, wrong):
    here, there = person("owner"), person("owner")
    status, answer = here.post("/api/account/password", **body)
    assert (status, fields(answer)) == (400, wrong)
    assert (here.name, there.name) == ("owner", "owner")
    person("owner")


def test_who_is_locked_out_gets_a_new_password_from_the_command_line(app, person):
    somebody = person("viewer")
    done = run_command("user", "passwd", "--db", app.settings.db, "viewer", "--password-stdin", stdin=NEW_PASSWORD + "\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert somebody.name is None
    assert person().sign_in("viewer", NEW_PASSWORD)[0] == 200
    refused = run_command("user", "passwd", "--db", app.settings.db, "nobody", "--password-stdin", stdin=NEW_PASSWORD)
    assert refused.returncode == 2 and "user list" in refused.stderr
    assert run_command("user", "passwd", "--db", app.settings.db, "viewer", "--password-stdin", stdin="short").returncode == 2
    assert person().sign_in("viewer", NEW_PASSWORD)[0] == 200


@pytest.mark.parametrize("change", ["passwd", "second factor", "removed"])
def test_a_sign_in_that_is_under_way_while_the_account_changes_comes_to_nothing(app, person, clock, monkeypatch, change):
    proven, enter = person("viewer"), app.accounts.enter

    def meanwhile(user, caller):
        if change == "passwd":
            app.accounts.reset_password("viewer", NEW_PASSWORD)
        elif change == "removed":
            app.accounts.remove_user(OPERATOR, user.id)
        else:
            secret = proven.post("/api/account/two-factor", password=PASSWORD)[1]["secret"]
            assert proven.post("/api/account/two-factor/confirm", password=PASSWORD, secret=secret, code=code_at(secret, clock.now))[0] == 200
        return enter(user, caller)
    monkeypatch.setattr(app.accounts, "enter", meanwhile)
    late = person()
    assert late.sign_in("viewer")[0] == 401
    assert late.name is None


def test_a_new_password_withdraws_what_a_stranger_may_have_left_behind(app, person):
    somebody = person("admin")
    codes = [somebody.post("/api/invites", role="admin")[1]["code"] for _ in range(2)]
    token = somebody.post("/api/tokens", name="left", sites=None)[1]
    done = run_command("user", "passwd", "--db", app.settings.db, "admin", "--password-stdin", stdin=NEW_PASSWORD)
    assert f"{token['id']} (left)" in done.stdout
    assert [person().post("/api/invites/check", code=code)[0] for code in codes] == [403, 403]
    again = person()
    again.sign_in("admin", NEW_PASSWORD)
    code = again.post("/api/invites", role="viewer", sites=None)[1]["code"]
    again.post("/api/account/password", password=NEW_PASSWORD, new_password=PASSWORD)
    assert person().post("/api/invites/check", code=code)[0] == 403


# ---- sessions --------------------------------------------------------------------------------------------------------

def test_a_session_that_somebody_else_chose_is_not_taken_up(app, person):
    attacker, victim = person("viewer"), person()
    planted = attacker.web.cookies["mininumbers"]
    victim.web.set_cookie("mininumbers", planted)
    assert victim.sign_in("owner")[0] == 200
    assert victim.web.cookies["mininumbers"] != planted
    assert attacker.name is None, "the session that the browser had before ends"
    invented = person()
    invented.web.set_cookie("mininumbers", "A" * 43)
    assert invented.sign_in()[0] == 200
    assert invented.web.cookies["mininumbers"] != "A" * 43


def test_ones_sessions_are_listed_with_where_they_are_and_when_they_were_last_seen(app, person, clock):
    there, here = person("owner", agent=FIREFOX), person("owner")
    person("admin")
    began = clock.now
    clock.advance(3600)
    sessions = here.get("/api/account")["sessions"]
    app.store.probe()
    sessions = here.get("/api/account")["sessions"]
    assert [(each["device"], each["is_current"], each["seen_at"] - began, each["expires_at"] - began) for each in sessions] == [
        ("Chrome on Linux", True, 3600, 3600 + 7 * DAY), ("Firefox on Windows", False, 0, 7 * DAY)]
    assert there.name == "owner"


def test_a_session_can_be_ended_from_another_and_nobody_elses_can(app, person):
    there, here, other = person("owner"), person("owner"), person("admin")
    theirs = other.get("/api/account")["sessions"][0]["id"]
    assert here.ask("DELETE", f"/api/account/sessions/{theirs}", {})[0] == 404
    mine = next(each["id"] for each in here.get("/api/account")["sessions"] if not each["is_current"])
    assert here.ask("DELETE", f"/api/account/sessions/{mine}", {}) == (200, {})
    assert (here.name, there.name, other.name) == ("owner", None, "admin")


@pytest.mark.parametrize("number", ["0", "-1", "9223372036854775808", "99999999999999999999999", "1.5", "x", "1%00"])
def test_a_number_that_no_session_has_is_not_found(app, person, number):
    assert person("owner").ask("DELETE", f"/api/account/sessions/{number}", {})[0] == 404


def test_signing_out_everywhere_ends_all_of_ones_sessions(app, person):
    here, there, other = person("owner"), person("owner"), person("admin")
    assert here.post("/api/logout", everywhere=True) == (200, {})
    assert (here.name, there.name, other.name) == (None, None, "admin")


def test_of_two_cookies_of_one_name_none_is_believed(app, person):
    attacker, victim = person("viewer"), person("owner")
    for values in ((attacker, victim), (victim, attacker)):
        header = "; ".join(f"mininumbers={each.web.cookies['mininumbers']}" for each in values)
        answer = Person(app).web.get("/api/session", headers={"Cookie": header})
        assert answer.json["user"] is None


def test_a_cookie_of_another_instance_opens_nothing(app, person, tmp_path):
    with contextlib.closing(create_app(Settings(db=str(tmp_path / "other.db"), geoip=""), clock=MovableClock())) as other:
        other.setup("owner", PASSWORD, "example.com")
        foreign = Person(other)
        foreign.sign_in()
        somebody = person()
        for name, value in foreign.web.cookies.items():
            somebody.web.set_cookie(name, value)
        assert somebody.name is None
        assert somebody.ask("GET", "/api/sites")[0] == 401
        assert somebody.sign_in()[0] == 200


# ---- the second factor -----------------------------------------------------------------------------------------------

def code_at(secret, now):
    """The code of RFC 6238, written anew."""
    key = base64.b32decode(secret)
    mac = hmac.new(key, struct.pack(">Q", int(now) // 30), hashlib.sha1).digest()
    offset = mac[19] & 0xF
    return str(struct.unpack(">I", mac[offset:offset + 4])[0] & 0x7FFFFFFF)[-6:].zfill(6)


@pytest.mark.parametrize("now, code", [(59, "287082"), (1111111109, "081804"), (1111111111, "050471"), (1234567890, "005924"), (2000000000, "279037"),
                                       (20000000000, "353130")])
def test_codes_are_those_of_the_standard(now, code):
    """The test vectors of RFC 6238, appendix B, shortened to six digits."""
    assert mininumbers.totp(b"12345678901234567890", now // 30) == code == code_at(base64.b32encode(b"12345678901234567890"), now)


@pytest.fixture
def guarded(app, person, clock):
    """(somebody whose account asks for codes, their secret, their recovery codes)"""
    somebody = person("owner")
    secret = somebody.post("/api/account/two-factor", password=PASSWORD)[1]["secret"]
    status, body = somebody.post("/api/account/two-factor/confirm", password=PASSWORD, secret=secret, code=code_at(secret, clock.now))
    assert status == 200
    clock.advance(60)
    return somebody, secret, body["recovery_codes"]


def test_setting_up_asks_for_the_password_and_stores_nothing_before_a_code_is_right(app, person, clock):
    somebody = person("owner")
    assert fields(somebody.post("/api/account/two-factor", password="wrong password")[1]) == {"password"}
    status, begun = somebody.post("/api/account/two-factor", password=PASSWORD)
    assert status == 200 and len(base64.b32decode(begun["secret"])) == 20
    assert begun["uri"] == f"otpauth://totp/Mini%20Numbers:owner?secret={begun['secret']}&issuer=Mini%20Numbers"
    wrong = f"{(int(code_at(begun['secret'], clock.now)) + 1) % 10 ** 6:06d}"
    for body, field in (({"code": wrong}, "code"), ({"code": "x"}, "code"), ({"secret": "AAAA"}, "secret"), ({"secret": "é" * 32}, "secret"), ({"password": "no"}, "password")):
        status, answer = somebody.post("/api/account/two-factor/confirm", **{"password": PASSWORD, "secret": begun["secret"],
                                                                             "code": code_at(begun["secret"], clock.now), **body})
        assert (status, fields(answer)) == (400, {field})
    assert somebody.get("/api/account")["two_factor"] is False
    assert person().sign_in()[0] == 200


def test_with_it_the_password_alone_opens_nothing(app, person, guarded, clock):
    _, secret, _ = guarded
    stranger = person()
    status, body = stranger.sign_in()
    assert (status, body["code"]) == (401, "two-factor")
    assert "Set-Cookie" not in stranger.answer.headers and stranger.name is None
    assert stranger.sign_in(password="wrong password", code=code_at(secret, clock.now))[1]["code"] == "unauthorized"
    assert stranger.sign_in(code="000000")[1]["code"] == "two-factor"
    assert stranger.sign_in(code=code_at(secret, clock.now))[0] == 200
    assert stranger.name == "owner"


@pytest.mark.parametrize("seconds, is_right", [(0, True), (-30, True), (30, True), (-90, False), (90, False), (600, False), (-600, False)])
def test_a_code_of_a_clock_that_is_off_is_taken_by_half_a_minute_and_else_told_of(app, person, guarded, clock, seconds, is_right):
    clock.advance(3600)
    status, body = person().sign_in(code=code_at(guarded[1], clock.now + seconds))
    assert (status == 200) == is_right
    assert is_right or "clock says 13:01:00 UTC" in body["error"]


def test_a_code_is_taken_once(app, person, guarded, clock):
    code = code_at(guarded[1], clock.now)
    assert person().sign_in(code=code)[0] == 200
    status, body = person().sign_in(code=f"{code[:3]} {code[3:]}")
    assert (status, body["code"]) == (401, "two-factor") and "used before" in body["error"]
    assert person().sign_in(code=code_at(guarded[1], clock.now - 30))[0] == 401, "nor is an older one after it"


def test_of_many_who_bring_one_code_at_once_one_comes_in(app, person, guarded, clock):
    code, statuses, barrier = code_at(guarded[1], clock.now), [], threading.Barrier(4)

    def race(somebody):
        barrier.wait()
        statuses.append(somebody.sign_in(code=code)[0])
    threads = [threading.Thread(target=race, args=(person(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses.count(200) == 1


def test_a_recovery_code_stands_in_for_a_code_once(app, person, guarded):
    somebody, _, codes = guarded
    assert len(set(codes)) == 10 and all(re.fullmatch(r"[a-z2-7]{4}(-[a-z2-7]{4}){3}", code) for code in codes)
    assert person().sign_in(code=codes[0].upper().replace("-", " "))[0] == 200
    assert person().sign_in(code=codes[0])[1]["code"] == "two-factor"
    assert person().sign_in("viewer", code=codes[1])[0] == 200, "who needs none may send what they like"
    assert somebody.get("/api/account")["recovery_codes"] == 9
    status, body = somebody.post("/api/account/recovery-codes", password=PASSWORD, code=codes[1])
    assert status == 200 and not set(body["recovery_codes"]) & set(codes)
    assert person().sign_in(code=codes[2])[0] == 401
    assert person().sign_in(code=body["recovery_codes"][0])[0] == 200


def test_it_survives_a_new_password_and_a_new_hash(app, person, guarded, clock, monkeypatch):
    somebody, secret, _ = guarded
    assert somebody.post("/api/account/password", password=PASSWORD, new_password=NEW_PASSWORD)[0] == 200
    assert person().sign_in(password=NEW_PASSWORD)[1]["code"] == "two-factor"
    monkeypatch.setitem(mininumbers.SCRYPT, "n", 64)
    assert person().sign_in(password=NEW_PASSWORD, code=code_at(secret, clock.now))[0] == 200
    clock.advance(30)
    assert person().sign_in(password=NEW_PASSWORD, code=code_at(secret, clock.now))[0] == 200


def test_wrong_codes_and_codes_of_another_time_are_told_alike(app, person, guarded, clock):
    told = {person().sign_in(code=code)[1]["error"] for code in ("000000", code_at(guarded[1], clock.now + 600), code_at(guarded[1], clock.now - 900))}
    assert len(told) == 1


def test_it_is_not_replaced_without_a_code(app, person, guarded, clock):
    somebody, secret, _ = guarded
    own = base64.b32encode(b"an attackers secret.").decode()
    assert somebody.post("/api/account/two-factor", password=PASSWORD)[0] == 409
    assert somebody.post("/api/account/two-factor/confirm", password=PASSWORD, secret=own, code=code_at(own, clock.now))[0] == 409
    assert person().sign_in(code=code_at(secret, clock.now))[0] == 200


def test_switching_it_off_takes_the_password_and_a_code(app, person, guarded, clock):
    somebody, secret, _ = guarded
    assert fields(somebody.post("/api/account/two-factor/off", password=PASSWORD, code="000000")[1]) == {"code"}
    assert fields(somebody.post("/api/account/two-factor/off", password="wrong", code=code_at(secret, clock.now))[1]) == {"password"}
    assert somebody.post("/api/account/two-factor/off", password=PASSWORD, code=code_at(secret, clock.now)) == (200, {})
    assert person().sign_in()[0] == 200


def test_a_new_password_from_the_command_line_switches_it_off_and_says_so(app, person, guarded):
    done = run_command("user", "passwd", "--db", app.settings.db, "owner", "--password-stdin", stdin=NEW_PASSWORD)
    assert "Two-factor sign-in of owner is switched off" in done.stdout
    assert person().sign_in(password=NEW_PASSWORD)[0] == 200


# ---- roles -----------------------------------------------------------------------------------------------------------

def test_who_manages_sites_sees_all_of_them_and_others_those_they_are_given(app, person):
    assert {role: person(role).sites for role in ("owner", "admin", "editor", "viewer")} == {
        "owner": ["example.com", "other.test"], "admin": ["example.com", "other.test"], "editor": ["example.com"], "viewer": ["example.com"]}


CHANGES = [("PATCH", "/api/users/{self}", {"role": "owner"}), ("PATCH", "/api/users/{viewer}", {"role": "owner"}), ("DELETE", "/api/users/{viewer}", {}),
           ("POST", "/api/invites", {"role": "owner"}), ("POST", "/api/sites", {"domain": "new.test"}), ("DELETE", "/api/sites/other.test", {}),
           ("PATCH", "/api/sites/other.test", {"mode": "strict"}), ("PATCH", "/api/settings", {"mode": "strict"}),
           ("POST", "/api/tokens", {"name": "x", "read_only": False})]


@pytest.mark.parametrize("method, path, body", CHANGES, ids=[f"{method} {path}" for method, path, _ in CHANGES])
@pytest.mark.parametrize("end", ["demoted", "removed", "signed out"])
def test_who_loses_their_rights_while_a_request_is_under_way_has_lost_them(app, person, monkeypatch, method, path, body, end):
    """As when the body of a request comes late: its guard has let somebody in who may nothing any more."""
    app.accounts.add_user(OPERATOR, "second", PASSWORD, "owner", None)
    somebody, read = person("second"), mininumbers.read_body

    def late():
        if end == "demoted":
            app.accounts.set_user(OPERATOR, id_of(app, "second"), "viewer", ["example.com"])
        elif end == "removed":
            app.accounts.remove_user(OPERATOR, id_of(app, "second"))
        else:
            app.store.transact(lambda db: db.execute("delete from sessions"))
        return read()
    monkeypatch.setattr(mininumbers, "read_body", late)
    before = [rows(app, f"select * from {table} order by 1") for table in ("sites", "invites", "tokens", "settings", "users where role = 'viewer' and username = 'viewer'")]
    status, _ = somebody.ask(method, path.format(self=id_of(app, "second"), viewer=id_of(app, "viewer")), body)
    if method != "DELETE":  # those have no body to wait for
        assert status in (401, 403, 404)
        assert [rows(app, f"select * from {table} order by 1") for table in ("sites", "invites", "tokens", "settings", "users where role = 'viewer' and username = 'viewer'")] == before
        assert rows(app, "select count(*) from users where role = 'owner'") == [(1,)] or end == "signed out"


@pytest.mark.parametrize("username", ["the command line", "The Command Line", "token deploy", "TOKEN x", "OWNER", "ｏｗｎｅｒ"])
def test_nobody_is_called_what_the_trail_calls_somebody_else(app, person, username):
    code = person("owner").post("/api/invites", role="viewer", sites=None)[1]["code"]
    status, answer = person().post("/api/invites/accept", code=code, username=username, password=PASSWORD)
    assert (status, fields(answer)) == (400, {"username"})


@pytest.mark.parametrize("path, body", [("/api/v2/query", {"site_id": "other.test", "metrics": ["visitors"], "date_range": "day"}),
                                        ("/api/v2/queries", {"queries": [{"site_id": "other.test", "metrics": ["visitors"], "date_range": "day"}]})])
def test_a_site_that_is_not_ones_own_looks_like_one_that_is_not_there(app, person, path, body):
    somebody = person("editor")
    text = json.dumps(body)
    answers = [somebody.ask("POST", path, json.loads(text.replace("other.test", domain))) for domain in ("other.test", "not-there.test")]
    assert answers[0][0] == 404 and answers[0] == answers[1]
    assert [somebody.ask("PATCH", f"/api/sites/{domain}", {"mode": "strict"})[0] for domain in ("other.test", "not-there.test", "example.com")] == [404, 404, 200]


def test_a_new_role_or_site_holds_for_sessions_that_are_open(app, person):
    owner, somebody = person("owner"), person("viewer")
    path = f"/api/users/{id_of(app, 'viewer')}"
    assert owner.ask("PATCH", path, {"role": "editor", "sites": ["other.test"]}) == (200, {})
    assert somebody.sites == ["other.test"]
    assert somebody.ask("PATCH", "/api/sites/other.test", {"mode": "strict"}) == (200, {})
    assert owner.ask("PATCH", path, {"sites": None}) == (200, {})
    assert somebody.sites == ["example.com", "other.test"]
    assert owner.ask("PATCH", path, {"role": "viewer"}) == (200, {})
    assert (somebody.sites, somebody.ask("PATCH", "/api/sites/other.test", {"mode": "strict"})[0]) == (["example.com", "other.test"], 403)
    assert owner.ask("DELETE", path, {}) == (200, {})
    assert somebody.name is None


@pytest.mark.parametrize("body, wrong", [({"role": "king"}, {"role"}), ({"role": 5}, {"role"}), ({"sites": []}, {"sites"}), ({"sites": "example.com"}, {"sites"}),
                                         ({"sites": ["not-there.test"]}, {"sites"}), ({"sites": [5]}, {"sites"}), ({"sites": {"a": 1}}, {"sites"})])
def test_access_that_makes_no_sense_is_refused_and_changes_nothing(app, person, body, wrong):
    before = rows(app, "select * from users union all select user_id, site_id, 0, 0, 0, 0, 0, 0 from user_sites")
    status, answer = person("owner").ask("PATCH", f"/api/users/{id_of(app, 'viewer')}", body)
    assert (status, fields(answer)) == (400, wrong)
    assert rows(app, "select * from users union all select user_id, site_id, 0, 0, 0, 0, 0, 0 from user_sites") == before


def test_only_owners_make_owners_or_touch_them(app, person):
    somebody = person("admin")
    owner, viewer, self = (f"/api/users/{id_of(app, name)}" for name in ("owner", "viewer", "admin"))
    for method, path, body in (("PATCH", owner, {"role": "viewer"}), ("PATCH", owner, {"sites": None}), ("DELETE", owner, {}),
                               ("PATCH", viewer, {"role": "owner"}), ("PATCH", self, {"role": "owner"}), ("POST", "/api/invites", {"role": "owner"})):
        assert somebody.ask(method, path, body)[0] == 403, (method, path)
    assert somebody.ask("PATCH", viewer, {"role": "admin"}) == (200, {})


def test_the_last_owner_stays(app, person):
    owner, path = person("owner"), f"/api/users/{id_of(app, 'owner')}"
    for method, body in (("PATCH", {"role": "admin"}), ("DELETE", {})):
        status, answer = owner.ask(method, path, body)
        assert (status, answer["code"]) == (409, "conflict")
    assert run_command("user", "remove", "--db", app.settings.db, "owner").returncode == 2
    assert run_command("user", "set", "--db", app.settings.db, "owner", "--role", "viewer").returncode == 2
    assert owner.ask("PATCH", f"/api/users/{id_of(app, 'admin')}", {"role": "owner"}) == (200, {})
    assert owner.ask("PATCH", path, {"role": "viewer"}) == (200, {})
    assert owner.get("/api/session")["user"]["role"] == "viewer"


def test_of_two_owners_who_remove_each_other_at_once_one_stays(app, person):
    app.accounts.add_user(OPERATOR, "second", PASSWORD, "owner", None)
    people, statuses, barrier = {"owner": person("owner"), "second": person("second")}, [], threading.Barrier(2)

    def race(name, other):
        barrier.wait()
        statuses.append(people[name].ask("DELETE", f"/api/users/{ids[other]}", {})[0])
    ids = {name: id_of(app, name) for name in people}
    threads = [threading.Thread(target=race, args=pair) for pair in (("owner", "second"), ("second", "owner"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses.count(200) == 1 and rows(app, "select count(*) from users where role = 'owner'") == [(1,)]


def test_the_command_line_manages_people(app, person):
    def command(*arguments, **more):
        done = run_command("user", *arguments[:1], "--db", app.settings.db, *arguments[1:], **more)
        assert done.returncode == 0, done.stderr
        return done.stdout
    command("add", "anna", "--role", "editor", "--site", "other.test", "--password-stdin", stdin=PASSWORD)
    assert person("anna").sites == ["other.test"]
    assert "anna\teditor\tother.test\tpassword\tseen " in command("list")
    command("set", "anna", "--every-site")
    assert person("anna").sites == ["example.com", "other.test"]
    command("remove", "anna")
    assert "anna" not in command("list")


# ---- invitations -----------------------------------------------------------------------------------------------------

def test_an_invitation_makes_one_account_with_what_it_grants(app, person):
    made = person("admin").post("/api/invites", role="editor", sites=["other.test"])[1]
    guest = person()
    assert guest.post("/api/invites/check", code=made["code"]) == (200, {"role": "editor", "sites": ["other.test"], "invited_by": "admin"})
    status, body = guest.post("/api/invites/accept", code=made["code"], username="guest", password=PASSWORD)
    assert (status, body) == (200, {"user": {"username": "guest", "role": "editor", "every_site": False, "two_factor": False}})
    assert (guest.name, guest.sites) == ("guest", ["other.test"])
    assert person().post("/api/invites/accept", code=made["code"], username="second", password=PASSWORD)[0] == 403
    assert person().post("/api/invites/check", code=made["code"])[0] == 403


def test_of_many_who_accept_one_invitation_at_once_one_comes_in(app, person):
    code, statuses, barrier = person("owner").post("/api/invites", role="viewer", sites=None)[1]["code"], [], threading.Barrier(3)

    def race(somebody, name):
        barrier.wait()
        statuses.append(somebody.post("/api/invites/accept", code=code, username=name, password=PASSWORD)[0])
    threads = [threading.Thread(target=race, args=(person(), f"guest{number}")) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [200, 403, 403] and len(rows(app, "select 1 from users where username like 'guest%'")) == 1


def test_an_account_that_is_refused_leaves_the_invitation_good(app, person):
    code = person("owner").post("/api/invites", role="viewer", sites=None)[1]["code"]
    for body, wrong in (({"username": "owner"}, "username"), ({"username": " x"}, "username"), ({"password": "short"}, "password")):
        status, answer = person().post("/api/invites/accept", **{"code": code, "username": "guest", "password": PASSWORD, **body})
        assert (status, fields(answer)) == (400, {wrong})
    assert person().post("/api/invites/accept", code=code, username="guest", password=PASSWORD)[0] == 200


@pytest.mark.parametrize("end", ["time", "withdrawn", "inviter removed", "inviter demoted"])
def test_an_invitation_that_is_over_opens_nothing(app, person, clock, end):
    owner = person("owner")
    made = person("admin").post("/api/invites", role="viewer", sites=None)[1]
    admin_path = f"/api/users/{id_of(app, 'admin')}"
    if end == "time":
        clock.advance(7 * DAY)
    elif end == "withdrawn":
        assert owner.ask("DELETE", f"/api/invites/{made['id']}", {}) == (200, {})
    elif end == "inviter removed":
        assert owner.ask("DELETE", admin_path, {})[0] == 200
    else:
        assert owner.ask("PATCH", admin_path, {"role": "editor"})[0] == 200
    for path, more in (("check", {}), ("accept", {"username": "guest", "password": PASSWORD})):
        assert person().post(f"/api/invites/{path}", code=made["code"], **more)[0] == 403
    assert rows(app, "select count(*) from users where username = 'guest'") == [(0,)]


def test_open_invitations_are_listed_without_their_codes(app, person):
    owner = person("owner")
    made = owner.post("/api/invites", role="viewer", sites=["example.com"])[1]
    listed, = owner.get("/api/users")["invites"]
    assert (listed["id"], listed["role"], listed["sites"], listed["created_by"]) == (made["id"], "viewer", ["example.com"], "owner")
    assert made["code"] not in owner.answer.text


# ---- tokens ----------------------------------------------------------------------------------------------------------

def test_a_token_sees_its_sites_until_it_is_revoked_or_over(app, person, clock):
    owner = person("owner")
    status, made = owner.post("/api/tokens", name="reports", sites=["other.test"], expires_in_days=2)
    program = Person(app, token=made["token"])
    assert (status, program.sites) == (200, ["other.test"])
    clock.advance(2 * DAY - 1)
    assert program.ask("GET", "/api/sites")[0] == 200
    clock.advance(1)
    assert program.ask("GET", "/api/sites")[0] == 401
    lasting = owner.post("/api/tokens", name="lasting", sites=None)[1]
    program = Person(app, token=lasting["token"])
    assert program.sites == ["example.com", "other.test"]
    assert owner.ask("DELETE", f"/api/tokens/{lasting['id']}", {}) == (200, {})
    assert program.ask("GET", "/api/sites")[0] == 401
    assert owner.ask("DELETE", f"/api/tokens/{lasting['id']}", {})[0] == 404


def test_tokens_are_listed_with_their_last_use_and_without_their_secrets(app, person, clock):
    owner = person("owner")
    made = owner.post("/api/tokens", name="reports", sites=None, read_only=False)[1]
    assert owner.get("/api/tokens")["tokens"] == [{"id": made["id"], "name": "reports", "sites": None, "read_only": False, "username": "owner",
                                                   "created_at": clock.now, "expires_at": None, "used_at": None}]
    clock.advance(1000)
    assert Person(app, token=made["token"]).ask("GET", "/api/sites")[0] == 200
    app.store.probe()
    assert owner.get("/api/tokens")["tokens"][0]["used_at"] == clock.now
    assert made["token"] not in owner.answer.text


def test_a_token_may_no_more_than_who_made_it_may_now(app, person):
    owner, somebody = person("owner"), person("editor")
    program = Person(app, token=somebody.post("/api/tokens", name="mine", sites=None, read_only=False)[1]["token"])
    change = ("PATCH", "/api/sites/example.com", {"mode": "strict"})
    assert (program.sites, program.ask(*change)[0], program.ask("POST", "/api/sites", {"domain": "new.test"})[0]) == (["example.com"], 200, 403)
    path = f"/api/users/{id_of(app, 'editor')}"
    owner.ask("PATCH", path, {"role": "viewer", "sites": ["other.test"]})
    assert (program.sites, program.ask(*change)[0]) == (["other.test"], 403)
    owner.ask("DELETE", path, {})
    assert program.ask("GET", "/api/sites")[0] == 401


@pytest.mark.parametrize("body, status", [({"name": ""}, 400), ({"name": "x", "sites": ["not-there.test"]}, 400), ({"name": "x", "sites": []}, 400),
                                          ({"name": "x", "sites": ["other.test"]}, 400), ({"name": "x", "read_only": False}, 403),
                                          ({"name": "x", "read_only": "no"}, 400), ({"name": "x", "expires_in_days": 0}, 400),
                                          ({"name": "x", "expires_in_days": "soon"}, 400), ({"name": "\x00"}, 400)])
def test_a_viewers_token_that_would_see_or_do_more_than_they_is_not_made(app, person, body, status):
    assert person("viewer").post("/api/tokens", **body)[0] == status
    assert rows(app, "select count(*) from tokens") == [(0,)]


def test_people_see_and_revoke_their_own_tokens_and_admins_everybodys(app, person):
    viewer, editor, admin = person("viewer"), person("editor"), person("admin")
    made = viewer.post("/api/tokens", name="mine", sites=None)[1]
    assert editor.get("/api/tokens")["tokens"] == []
    assert editor.ask("DELETE", f"/api/tokens/{made['id']}", {})[0] == 404
    assert [token["username"] for token in admin.get("/api/tokens")["tokens"]] == ["viewer"]
    assert admin.ask("DELETE", f"/api/tokens/{made['id']}", {}) == (200, {})


def test_a_token_is_held_to_so_many_requests_a_minute(app, person, clock):
    app.change_settings({"requests_per_token": 3})
    first, second = (Person(app, token=app.create_token(name)) for name in ("first", "second"))
    assert [first.ask("GET", "/api/sites")[0] for _ in range(5)] == [200, 200, 200, 429, 429]
    assert first.answer.headers["Retry-After"] == "60"
    assert second.ask("GET", "/api/sites")[0] == 200
    clock.advance(60)
    assert first.ask("GET", "/api/sites")[0] == 200


def test_the_command_line_lists_and_revokes_tokens(app):
    def command(*arguments):
        return run_command("token", arguments[0], "--db", app.settings.db, *arguments[1:])
    made = command("create", "--name", "both", "--site", "example.com", "--site", "other.test", "--read-only", "--expires-in-days", "30")
    assert made.returncode == 0 and Person(app, token=made.stdout.strip()).sites == ["example.com", "other.test"]
    number, *line = command("list").stdout.rstrip("\n").split("\t")
    assert line[:4] == ["both", "read", "example.com, other.test", "of the command line"]
    assert command("revoke", number).returncode == 0
    assert Person(app, token=made.stdout.strip()).ask("GET", "/api/sites")[0] == 401
    assert command("revoke", number).returncode == 2
    assert command("create", "--name", "x", "--expires-in-days", "0").returncode == 2


# ---- sites and settings ----------------------------------------------------------------------------------------------

def test_sites_are_added_changed_and_removed_in_the_browser(app, person):
    admin = person("admin")
    assert admin.post("/api/sites", domain="www.New.test", timezone="Asia/Kathmandu", hostnames=["shop.test", "*.new.example"], mode="strict",
                      rotation_hours=168, retention_days=None) == (200, {"domain": "new.test"})
    site = next(each for each in admin.get("/api/sites")["sites"] if each["domain"] == "new.test")
    assert site == {"domain": "new.test", "timezone": "Asia/Kathmandu", "hostnames": ["shop.test", "*.new.example"], "mode": "strict", "rotation_hours": 168,
                    "retention_days": 0, "gpc": "paranoid", "own": {"mode": "strict", "rotation_hours": 168, "retention_days": None, "gpc": None}}
    assert admin.ask("PATCH", "/api/sites/new.test", {"mode": None, "gpc": "drop", "hostnames": []}) == (200, {})
    site = next(each for each in admin.get("/api/sites")["sites"] if each["domain"] == "new.test")
    assert (site["mode"], site["gpc"], site["hostnames"], site["rotation_hours"]) == ("standard", "drop", [], 168)
    assert admin.ask("DELETE", "/api/sites/new.test", {}) == (200, {})
    assert admin.sites == ["example.com", "other.test"]


@pytest.mark.parametrize("body, wrong", [({"timezone": "Mars/Base"}, "timezone"), ({"mode": "loud"}, "mode"), ({"rotation_hours": 0}, "rotation_hours"),
                                         ({"rotation_hours": 8761}, "rotation_hours"), ({"retention_days": -1}, "retention_days"),
                                         ({"retention_days": "many"}, "retention_days"), ({"gpc": []}, "gpc"), ({"hostnames": "a b"}, "hostnames"),
                                         ({"hostnames": [5]}, "hostnames"), ({"timezone": 5}, "timezone"), ({"domain": "x.test"}, "domain"), ({"id": 5}, "id")])
def test_a_change_of_a_site_that_is_refused_changes_nothing(app, person, body, wrong):
    before = rows(app, "select * from sites")
    status, answer = person("editor").ask("PATCH", "/api/sites/example.com", {"mode": "strict", **body})
    assert (status, fields(answer)) == (400, {wrong})
    assert rows(app, "select * from sites") == before


def setting(somebody, name):
    return next(each for each in somebody.get("/api/settings")["settings"] if each["name"] == name)


def test_a_setting_changed_in_the_browser_holds_at_once_and_after_a_restart(app, person, clock):
    owner = person("owner")
    assert setting(owner, "mode") == {"name": "mode", "value": "standard", "default": "standard", "help": mininumbers.SETTINGS["mode"].metadata["help"],
                                      "type": "choice", "choices": ["standard", "strict", "paranoid"], "source": "default", "changeable": True}
    assert owner.ask("PATCH", "/api/settings", {"mode": "paranoid", "hits_per_site": 5})[0] == 200
    assert (setting(owner, "mode")["value"], setting(owner, "mode")["source"], setting(owner, "hits_per_site")["value"]) == ("paranoid", "stored", 5)
    assert {site["mode"] for site in owner.get("/api/sites")["sites"]} == {"paranoid"}
    with contextlib.closing(create_app(Settings(db=app.settings.db, geoip=""), clock=clock)) as again:
        assert again.settings.mode == "paranoid"
    with contextlib.closing(create_app(Settings.from_environment({}, db=app.settings.db, geoip="", mode="standard"), clock=clock)) as again:
        assert (again.settings.mode, again.settings.hits_per_site) == ("standard", 5), "what is given goes first, the default's value too"
    assert owner.ask("PATCH", "/api/settings", {"mode": None})[0] == 200
    assert (setting(owner, "mode")["value"], setting(owner, "mode")["source"]) == ("standard", "default")


@pytest.mark.parametrize("body, wrong", [({"mode": "loud"}, "mode"), ({"port": 80}, "port"), ({"db": "/etc/passwd"}, "db"), ({"geoip": ""}, "geoip"), ({"x": 1}, "x"),
                                         ({"trusted_proxies": "0.0.0.0/0"}, "trusted_proxies"), ({"retention_days": 1.5}, "retention_days"),
                                         ({"hits_per_site": True}, "hits_per_site"), ({"rotation_hours": [24]}, "rotation_hours"), ({"given": 1}, "given")])
def test_settings_that_are_refused_change_nothing(app, person, body, wrong):
    status, answer = person("owner").ask("PATCH", "/api/settings", {"gpc": "drop", **body})
    assert (status, fields(answer)) == (400, {wrong})
    assert rows(app, "select * from settings") == []


def test_what_is_given_at_the_start_is_shown_and_cannot_be_changed_in_the_browser(tmp_path, clock):
    with contextlib.closing(create_app(Settings(db=str(tmp_path / "test.db"), geoip="", rotation_hours=48), clock=clock)) as app:
        app.setup("owner", PASSWORD, "example.com")
        owner = Person(app)
        owner.sign_in()
        shown = setting(owner, "rotation_hours")
        assert (shown["value"], shown["source"], shown["changeable"]) == (48, "given", False)
        status, answer = owner.ask("PATCH", "/api/settings", {"rotation_hours": 24})
        assert (status, fields(answer)) == (400, {"rotation_hours"}) and "MININUMBERS_ROTATION_HOURS" in answer["error"]


def test_a_rotation_that_changes_for_the_instance_ends_epochs_of_the_sites_without_their_own(app, person, clock):
    app.set_site("other.test", rotation_hours=24)
    for domain in ("example.com", "other.test"):
        person().web.post_json("/api/event", {"n": "pageview", "u": f"https://{domain}/", "d": domain}, status=202)
    ends = dict(rows(app, "select domain, ends_at from salts join sites on sites.id = site_id"))
    assert person("owner").ask("PATCH", "/api/settings", {"rotation_hours": 168})[0] == 200
    after = dict(rows(app, "select domain, ends_at from salts join sites on sites.id = site_id"))
    assert after == {"example.com": clock.now, "other.test": ends["other.test"]}


# ---- the audit trail -------------------------------------------------------------------------------------------------

def test_the_trail_tells_who_changed_what_the_newest_first(app, person):
    owner, editor = person("owner"), person("editor")
    since = rows(app, "select max(id) from audit")[0][0]
    made = owner.post("/api/tokens", name="program", sites=None, read_only=False)[1]
    Person(app, token=made["token"]).post("/api/sites", domain="new.test")
    editor.ask("PATCH", "/api/sites/example.com", {"mode": "strict", "retention_days": 30})
    editor.ask("PATCH", "/api/sites/example.com", {"mode": "strict"})
    owner.ask("PATCH", f"/api/users/{id_of(app, 'viewer')}", {"role": "editor"})
    owner.ask("PATCH", "/api/settings", {"gpc": "drop"})
    owner.ask("DELETE", "/api/sites/new.test", {})
    owner.ask("DELETE", f"/api/tokens/{made['id']}", {})
    assert run_command("site", "add", "--db", app.settings.db, "shell.test").returncode == 0
    entries = [entry for entry in owner.get("/api/audit")["entries"] if entry["id"] > since]
    assert [(each["actor"], each["action"], each["object"], each["details"]) for each in reversed(entries)] == [
        ("owner", "token created", "program", "may read and write"), ("token program", "site added", "new.test", ""),
        ("editor", "site changed", "example.com", "mode standard → strict; retention_days 0 → 30"),
        ("owner", "access changed", "viewer", "role viewer → editor"), ("owner", "settings changed", "this server", "gpc paranoid → drop"),
        ("owner", "site removed", "new.test", ""), ("owner", "token revoked", "program", ""), ("the command line", "site added", "shell.test", "")]


def test_the_trail_tells_of_what_all_who_see_a_site_share_and_of_nothing_personal(app, person):
    owner, editor = person("owner"), person("editor")
    since = rows(app, "select max(id) from audit")[0][0]

    def add(path, **body):
        return f"{path}/{editor.post(path, site_id='example.com', **body)[1]['id']}"
    goal = add("/api/goals", name="Sign up", kind="event", value="signup")
    editor.ask("PATCH", goal, {"name": "Signed up"})
    editor.ask("PATCH", goal, {"name": "Signed up"})   # changes nothing
    segment = add("/api/segments", name="Here", filters=[["is", "visit:country", ["DE"]]], personal=True)
    editor.ask("PATCH", segment, {"name": "There"})
    editor.ask("PATCH", segment, {"personal": False})
    funnel = add("/api/funnels", name="Way", steps=[{"filters": [["is", "event:page", [page]]]} for page in ("/a", "/b")])
    note = add("/api/annotations", at="2026-03-02", text="a secret plan")
    editor.ask("PATCH", note, {"text": "another"})
    for path in (note, funnel, segment, goal):
        assert editor.ask("DELETE", path, {})[0] == 200
    assert person("viewer").ask("DELETE", goal, {})[0] == 403
    entries = [entry for entry in owner.get("/api/audit")["entries"] if entry["id"] > since]
    assert {each["actor"] for each in entries} == {"editor"}
    assert [(each["action"], each["object"], each["details"].removeprefix("of example.com")) for each in reversed(entries)] == [
        ("goal added", "Sign up", ""), ("goal changed", "Signed up", "; it was called Sign up"), ("segment changed", "There", ""),
        ("funnel added", "Way", ""), ("note added", "of 2026-03-02", ""), ("note changed", "of 2026-03-02", ""), ("note removed", "of 2026-03-02", ""),
        ("funnel removed", "Way", ""), ("segment removed", "There", ""), ("goal removed", "Signed up", "")]


def test_the_trail_is_read_page_by_page(app, person):
    for number in range(130):
        app.store.transact(lambda db: mininumbers.note(db, 1, OPERATOR, "counted", str(number)))
    owner = person("owner")
    first = owner.get("/api/audit")
    second = owner.get(f"/api/audit?before={first['entries'][-1]['id']}")
    assert (len(first["entries"]), first["more"], second["more"]) == (100, True, False)
    counted = [entry["object"] for entry in first["entries"] + second["entries"] if entry["action"] == "counted"]
    assert counted == [str(number) for number in reversed(range(130))]
    for before in ("x", "-1", "1" * 30, "٣"):
        assert owner.ask("GET", f"/api/audit?before={before}")[0] == 400


def test_what_was_refused_is_not_told_as_done(app, person):
    before = rows(app, "select count(*) from audit")
    person("admin").ask("DELETE", f"/api/users/{id_of(app, 'owner')}", {})
    person("owner").ask("DELETE", f"/api/users/{id_of(app, 'owner')}", {})
    person("owner").ask("PATCH", "/api/settings", {"mode": "loud"})
    person("viewer").post("/api/tokens", name="x", sites=["other.test"])
    assert rows(app, "select count(*) from audit") == before


# ---- secrets ---------------------------------------------------------------------------------------------------------

def test_no_secret_is_on_the_disk_or_in_a_log(app, person, guarded, clock, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    owner, secret, codes = guarded
    invite = owner.post("/api/invites", role="viewer", sites=None)[1]["code"]
    token = owner.post("/api/tokens", name="program", sites=None)[1]["token"]
    person().sign_in(password="a wrong password")
    person().sign_in(code=codes[0])
    owner.post("/api/account/password", password=PASSWORD, new_password=NEW_PASSWORD)
    told = [PASSWORD, NEW_PASSWORD, "a wrong password", secret, invite, token, *codes, *(code.replace("-", "") for code in codes), *owner.web.cookies.values()]
    raw = b"".join(path.read_bytes() for path in tmp_path.glob("test.db*"))
    assert b"password changed" in raw
    assert [text for text in told if text.encode() in raw or text in caplog.text] == []
    assert base64.b32decode(secret) not in raw


def test_the_second_factors_secret_opens_with_the_password_only():
    stored = mininumbers.hash_password(PASSWORD)
    key = mininumbers.open_password(PASSWORD, stored)
    secret = bytes(range(20))
    one, other = mininumbers.seal_secret(key, secret), mininumbers.seal_secret(key, secret)
    assert one != other and secret not in one
    assert mininumbers.unseal_secret(key, one) == mininumbers.unseal_secret(key, other) == secret
    known = bytes.fromhex(stored.split("$")[5])
    for wrong in (known, known[::-1], bytes(64)):
        with pytest.raises(mininumbers.Unauthorized):
            mininumbers.unseal_secret(wrong, one)
    with pytest.raises(mininumbers.Unauthorized):
        mininumbers.unseal_secret(key, one[:-1] + bytes([one[-1] ^ 1]))


# ---- an older database -----------------------------------------------------------------------------------------------

def test_who_had_an_account_before_there_were_roles_is_an_owner_and_tokens_keep_their_sites(tmp_path, clock):
    path = tmp_path / "old.db"
    versions = mininumbers.read_versions((ROOT / "schema.sql").read_text("utf-8"))
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript(versions[0][1])
        db.execute(f"pragma application_id = {mininumbers.APPLICATION_ID}")
        db.execute("pragma user_version = 1")
        db.execute("insert into sites (domain, created_at) values ('example.com', 1), ('other.test', 1)")
        db.execute("insert into users (username, password_hash, created_at) values ('owner', ?, 1)", (mininumbers.hash_password(PASSWORD),))
        db.execute("insert into sessions (token_hash, user_id, created_at, expires_at) values (?, 1, 1, 4000000000)", (hashlib.sha256(b"old").digest(),))
        for name, site_id, read_only in (("one", 2, 1), ("all", None, 0)):
            db.execute("insert into tokens (name, token_hash, site_id, read_only, created_at) values (?, ?, ?, ?, 1)",
                       (name, hashlib.sha256(name.encode()).digest(), site_id, read_only))
        db.commit()
    with contextlib.closing(create_app(Settings(db=str(path), geoip=""), clock=clock)) as app:
        owner, one, every = Person(app), Person(app, token="one"), Person(app, token="all")
        assert owner.sign_in()[1]["user"]["role"] == "owner"
        assert (one.sites, every.sites) == (["other.test"], ["example.com", "other.test"])
        assert (one.ask("POST", "/api/sites", {"domain": "x.test"})[0], every.ask("POST", "/api/sites", {"domain": "x.test"})[0]) == (403, 200)
        stale = Person(app)
        stale.web.set_cookie("mininumbers", "old")
        assert stale.name is None


def test_a_caller_keeps_their_address_to_themselves():
    assert "192.0.2.7" not in repr(Caller("192.0.2.7", "Chrome on Linux", "mark")) and "mark" not in repr(Caller("192.0.2.7", mark="mark"))
