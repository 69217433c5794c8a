"""Sites, users, tokens, sessions: what is accepted, what is stored, and who may do what.

Contents: domains · hostnames · settings of a site · the command line · passwords · users · tokens and sessions
"""
import contextlib
import dataclasses
import hashlib
import random
import sqlite3
import string

import pytest
from conftest import PASSWORD, Site, password_is_right
from hypothesis import given, settings as hypothesis_settings
from hypothesis import strategies as st

import mininumbers
from mininumbers import InvalidInput, MiniNumbersError, NotFound, create_app, hash_password, host_of, open_password

DAY = 86_400


@pytest.fixture(autouse=True)
def cheap_passwords(monkeypatch):
    """The parameters of scrypt are looked at by one test; elsewhere they only take time."""
    monkeypatch.setitem(mininumbers.SCRYPT, "n", 16)


def rows(app, query, *values):
    with contextlib.closing(sqlite3.connect(app.settings.db)) as db:
        return db.execute(query, values).fetchall()


def domains(app):
    return [domain for domain, in rows(app, "select domain from sites order by 1")]


def stored(app, domain="example.com"):
    """The row of a site, as a dict."""
    names = [name for _, name, *_ in rows(app, "pragma table_info(sites)")]
    return dict(zip(names, rows(app, "select * from sites where domain = ?", domain)[0]))


# ---- domains ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("given, domain", [
    ("example.org", "example.org"),
    ("EXAMPLE.Org", "example.org"),
    ("www.example.org", "example.org"),
    ("WWW.Example.Org", "example.org"),
    ("example.org.", "example.org"),
    ("www.example.org.", "example.org"),
    ("  example.org\n", "example.org"),
    ("blog.example.org", "blog.example.org"),
    ("www2.example.org", "www2.example.org"),
    ("wwwexample.org", "wwwexample.org"),
    ("a.b.c.d.example", "a.b.c.d.example"),
    ("my_shop.example", "my_shop.example"),
    ("xn--bcher-kva.example", "xn--bcher-kva.example"),
    ("bücher.example", "xn--bcher-kva.example"),
    ("BÜCHER.example", "xn--bcher-kva.example"),
    ("www.bücher.example", "xn--bcher-kva.example"),
    ("пример.испытание", "xn--e1afmkfd.xn--80akhbyknj4f"),
    ("例え。テスト", "xn--r8jz45g.xn--zckzah"),
    ("localhost", "localhost"),
    ("192.0.2.1", "192.0.2.1"),
    ("2001:db8::1", "2001:db8::1"),
    ("www", "www"),
    (f"{'a' * 63}.example", f"{'a' * 63}.example"),
])
def test_a_domain_is_stored_in_one_spelling(app, given, domain):
    app.add_site(given)
    assert domains(app) == sorted(["example.com", domain])


@pytest.mark.parametrize("given", [
    "", " ", ".", "..", "https://example.org", "http://example.org/", "//example.org", "example.org/", "example.org/path", "example.org:8080",
    "example.org:", "user@example.org", "exa mple.org", "example..org", ".example.org", "-example.org", "example-.org", "a." * 130 + "org",
    f"{'a' * 64}.example", "example.org?x", "example.org#x", "*.example.org", "*", "exämple..org", "example.org,example.net", "exa\0mple.org",
    "example.org\n.evil", "[2001:db8::1]", "<script>", "xn--\u200b", "\u2028", "::g",
])
def test_what_is_not_a_domain_is_refused(app, given):
    with pytest.raises(InvalidInput) as refused:
        app.add_site(given)
    assert refused.value.details[0]["field"] == "domain"
    assert domains(app) == ["example.com"]


@pytest.mark.parametrize("again", ["example.com", "EXAMPLE.com", "www.example.com", "example.com."])
def test_a_domain_is_added_once(app, again):
    with pytest.raises(InvalidInput, match="exists already"):
        app.add_site(again)
    assert domains(app) == ["example.com"]


@pytest.mark.parametrize("spelling", ["example.com", "www.example.com", "EXAMPLE.COM", "example.com."])
def test_a_site_is_found_by_any_spelling(app, site, spelling):
    assert "X-MiniNumbers-Dropped" not in site.send(d=spelling).headers
    assert site.query("visitors", site_id=spelling)["results"][0]["metrics"] == [1]
    app.set_site(spelling, mode="strict")
    assert stored(app)["mode"] == "strict"
    app.remove_site(spelling)
    assert domains(app) == []


@pytest.mark.parametrize("host", ["bücher.example", "xn--bcher-kva.example", "www.xn--bcher-kva.example", "BÜCHER.example."])
def test_an_international_domain_takes_hits_in_either_form(app, host):
    app.add_site("bücher.example")
    site = Site(app, "bücher.example")
    assert "X-MiniNumbers-Dropped" not in site.send(host=host).headers
    assert rows(app, "select text from hits join texts on texts.id = hostname") == [("xn--bcher-kva.example",)]


@hypothesis_settings(max_examples=300, deadline=None)
@given(st.text(max_size=40) | st.text(alphabet=string.ascii_letters + string.digits + "-_.:*/@ äß。", max_size=40))
def test_normal_form_of_a_host_is_stable_and_harmless(text):
    host = host_of(text)
    assert host_of(host) == host
    assert set(host) <= set(string.ascii_lowercase + string.digits + "-_.:")


def test_a_domain_that_www_is_part_of_is_not_cut_to_a_top_level_domain(app):
    app.add_site("www.de")
    assert domains(app) == ["example.com", "www.de"]


# ---- hostnames -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("hostnames, host, counts", [
    ("", "example.com", True),
    ("", "www.example.com", True),
    ("", "blog.example.com", True),
    ("", "a.b.example.com", True),
    ("", "EXAMPLE.com", True),
    ("", "example.com:8443", True),
    ("", "example.org", False),
    ("", "notexample.com", False),
    ("", "example.com.evil.org", False),
    ("", "localhost", False),
    ("shop.example", "shop.example", True),
    ("shop.example", "www.shop.example", True),
    ("shop.example", "de.shop.example", False),
    ("shop.example", "example.com", True),
    ("*.shop.example", "de.shop.example", True),
    ("*.shop.example", "shop.example", False),
    ("*.shop.example", "evilshop.example", False),
    ("a.example, b.example", "b.example", True),
    ("a.example,b.example", "c.example", False),
    ("bücher.example", "xn--bcher-kva.example", True),
    ("192.0.2.1", "192.0.2.1", True),
    ("*", "anything.test", True),
    ("*", "localhost", True),
])
def test_a_hit_counts_only_for_a_host_the_site_allows(app, site, hostnames, host, counts):
    app.set_site("example.com", hostnames=hostnames)
    assert site.send(host=host).headers.get("X-MiniNumbers-Dropped") == (None if counts else "hostname")
    assert len(rows(app, "select 1 from hits")) == counts
    assert rows(app, "select reason, count from dropped") == ([] if counts else [("hostname", 1)])


@pytest.mark.parametrize("given, kept", [
    ("", ""), ("Shop.Example", "shop.example"), ("www.shop.example", "shop.example"), (" a.example , , b.example,", "a.example,b.example"),
    ("*", "*"), ("*.A.example", "*.a.example"), ("bücher.example", "xn--bcher-kva.example"),
])
def test_hostnames_are_stored_in_one_spelling(app, given, kept):
    app.set_site("example.com", hostnames=given)
    assert stored(app)["hostnames"] == kept


@pytest.mark.parametrize("given", ["https://a.example", "a.example/", "a.example:80", "*a.example", "a.*.example", "**", "*.", "a b", "a;b"])
def test_what_is_not_a_hostname_is_refused(app, given):
    with pytest.raises(InvalidInput) as refused:
        app.set_site("example.com", hostnames=given)
    assert refused.value.details[0]["field"] == "hostnames"


# ---- settings of a site ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name, value, kept", [
    ("mode", "strict", "strict"), ("mode", "paranoid", "paranoid"), ("mode", "standard", "standard"),
    ("rotation_hours", 1, 1), ("rotation_hours", "8760", 8760), ("retention_days", 0, 0), ("retention_days", "30", 30),
    ("gpc", "drop", "drop"), ("gpc", "ignore", "ignore"), ("timezone", "Asia/Kathmandu", "Asia/Kathmandu"),
    ("mode", None, None), ("mode", "default", None), ("rotation_hours", "default", None), ("retention_days", "default", None), ("gpc", "default", None),
])
def test_a_setting_of_a_site_is_kept(app, name, value, kept):
    app.set_site("example.com", **{name: value})
    assert stored(app)[name] == kept
    app.add_site("other.example", **{name: value})
    assert stored(app, "other.example")[name] == kept


@pytest.mark.parametrize("name, value", [
    ("mode", "lax"), ("mode", ""), ("rotation_hours", 0), ("rotation_hours", 8761), ("rotation_hours", "often"), ("rotation_hours", 1.5),
    ("rotation_hours", -24), ("retention_days", -1), ("retention_days", 36_501), ("gpc", "maybe"), ("timezone", "Mars/Olympus"), ("timezone", ""),
    ("timezone", "../../etc/passwd"), ("timezone", "/etc/localtime"), ("timezone", "Europe"), ("timezone", "Europe/Berlin\0"),
])
def test_a_setting_out_of_its_range_is_refused_by_name_and_changes_nothing(app, name, value):
    before = stored(app)
    with pytest.raises(InvalidInput) as refused:
        app.set_site("example.com", mode="strict", **{name: value}) if name != "mode" else app.set_site("example.com", mode=value)
    assert refused.value.details[0]["field"] == name
    assert stored(app) == before
    with pytest.raises(InvalidInput):
        app.add_site("other.example", **{name: value})
    assert domains(app) == ["example.com"]


@pytest.mark.parametrize("name, instance, own", [("mode", "strict", "paranoid"), ("rotation_hours", 6, 12), ("retention_days", 10, 0),
                                                 ("gpc", "drop", "ignore")])
def test_an_override_stands_before_the_instance_until_it_is_default_again(settings, clock, name, instance, own):
    with contextlib.closing(create_app(dataclasses.replace(settings, **{name: instance}), clock)) as app:
        app.add_site("example.com")

        def effective():
            return getattr(mininumbers.get_site(app.store.reader(), app.settings, "example.com"), name)
        assert effective() == instance
        app.set_site("example.com", **{name: own})
        assert effective() == own
        app.set_site("example.com", **{name: "default"})
        assert effective() == instance


def test_the_dashboard_and_programs_are_told_what_is_in_effect(app, site):
    app.add_site("other.example", mode="strict", timezone="Asia/Tokyo", hostnames="a.example,*.b.example")
    sites = site.web.get("/api/sites", headers={"Authorization": f"Bearer {site.token}"}).json["sites"]
    assert [(each["domain"], each["timezone"], each["mode"], each["hostnames"]) for each in sites] == [
        ("example.com", "UTC", "standard", []), ("other.example", "Asia/Tokyo", "strict", ["a.example", "*.b.example"])]


@pytest.mark.parametrize("act", [lambda app: app.set_site("nobody.example", mode="strict"), lambda app: app.remove_site("nobody.example"),
                                 lambda app: app.create_token("name", "nobody.example")], ids=["set", "remove", "token"])
def test_what_is_asked_of_a_site_that_is_not_there_is_refused(app, act):
    with pytest.raises(NotFound):
        act(app)


def test_removing_a_site_leaves_the_others_and_frees_its_domain(app, site):
    app.add_site("other.example")
    Site(app, "other.example").send()
    site.send()
    app.remove_site("other.example")
    app.add_site("other.example")
    assert domains(app) == ["example.com", "other.example"]
    assert [len(rows(app, "select 1 from hits where site_id = ?", site_id)) for site_id in (1, 2, 3)] == [1, 0, 0]


# ---- the command line ------------------------------------------------------------------------------------------------

@pytest.fixture
def command(tmp_path, capsys):
    """A function that runs `mininumbers site …`, and returns (exit status, standard output, standard error)."""
    def run(*arguments, db=tmp_path / "test.db"):
        status = mininumbers.main(["site", *arguments, "--db", str(db)])
        return (status, *capsys.readouterr())
    return run


def test_the_command_line_adds_changes_lists_and_removes_sites(command):
    assert command("add", "WWW.Example.com", "--timezone", "Asia/Tokyo", "--hostnames", "a.example, *.b.example", "--rotation-hours", "6",
                   "--mode", "strict", "--retention-days", "30", "--gpc", "drop") == (0, "", "")
    assert command("list") == (0, "example.com\tAsia/Tokyo\tstrict\trotation 6 h\tretention 30 days\tgpc drop\talso a.example, *.b.example\n", "")
    assert command("set", "example.com", "--mode", "default", "--retention-days", "default") == (0, "", "")
    assert command("list") == (0, "example.com\tAsia/Tokyo\tstandard\trotation 6 h\tretention for ever\tgpc drop\talso a.example, *.b.example\n", "")
    assert command("remove", "www.example.com") == (0, "", "")
    assert command("list") == (0, "", "")


@pytest.mark.parametrize("arguments, said", [
    (["add", "https://example.com"], "is not a domain"), (["add", "b.example", "--timezone", "Mars"], "not a known time zone"),
    (["set", "nobody.example", "--mode", "strict"], "no site"), (["add", "b.example", "--rotation-hours", "x"], "whole number"),
    (["remove", "nobody.example"], "no site"), (["set", "example.com", "--gpc", "maybe"], "must be one of paranoid, drop, ignore"),
])
def test_a_mistake_is_told_in_one_line(app, command, arguments, said):
    status, printed, error = command(*arguments, db=app.settings.db)
    assert (status, printed) == (2, "")
    assert error.startswith("mininumbers: ")
    assert error.count("\n") == 1
    assert said in error


# ---- passwords -------------------------------------------------------------------------------------------------------

def test_a_password_is_stored_as_scrypt_with_its_parameters_and_a_salt_of_its_own(monkeypatch):
    monkeypatch.undo()
    one, other = hash_password(PASSWORD), hash_password(PASSWORD)
    name, n, r, p, salt, key = one.split("$")
    assert (name, int(n), int(r), int(p)) == ("scrypt", 2 ** 14, 8, 5)
    assert len(bytes.fromhex(salt)) >= 16
    assert bytes.fromhex(key) == hashlib.scrypt(PASSWORD.encode(), salt=bytes.fromhex(salt), n=2 ** 14, r=8, p=5)
    assert one != other


def test_a_password_stored_under_other_parameters_still_matches(monkeypatch):
    monkeypatch.setitem(mininumbers.SCRYPT, "n", 32)
    kept = hash_password(PASSWORD)
    monkeypatch.setitem(mininumbers.SCRYPT, "n", 64)
    assert open_password(PASSWORD, kept)
    assert open_password(PASSWORD + "x", kept) is None


@pytest.mark.parametrize("password", ["eight ch", "пароль длинный", "🔑" * 8, " leading and trailing ", "x" * 1024, "nul\0 inside it", "a$b$c$d$e$f"])
def test_a_password_matches_itself_and_no_other(app, password):
    app.setup("anna", password)
    assert password_is_right(app, "anna", password)
    for wrong in (password[:-1], password + " ", password.swapcase() + "x", password[::-1] + "x", "", PASSWORD):
        assert not password_is_right(app, "anna", wrong)
    assert not password_is_right(app, "Anna", password)
    assert not password_is_right(app, "nobody", password)


@pytest.mark.parametrize("password", ["", "short", "1234567", "x" * 1025, "x" * 1_000_000])
def test_a_password_too_short_or_absurdly_long_is_refused_and_creates_nothing(app, password):
    with pytest.raises(InvalidInput) as refused:
        app.setup("anna", password, "anna.example")
    assert refused.value.details[0]["field"] == "password"
    assert domains(app) == ["example.com"]
    assert rows(app, "select username from users") == [("owner",)]


def test_a_password_that_is_not_text_is_refused_like_any_other_mistake(app):
    with pytest.raises(MiniNumbersError):
        app.setup("anna", "\ud800" * 10)


def login(site, username, password, status):
    return site.web.post_json("/api/login", {"username": username, "password": password}, status=status)


@pytest.mark.parametrize("username, password, status", [("owner", PASSWORD, 200), ("owner", PASSWORD.upper(), 401), ("owner", "x" * 1024, 401),
                                                        ("Owner", PASSWORD, 401), ("nobody", PASSWORD, 401), ("owner", "", 400), ("", PASSWORD, 400)])
def test_signing_in_takes_the_right_name_and_password(app, site, username, password, status):
    answer = login(site, username, password, status)
    assert ("Set-Cookie" in answer.headers) == (status == 200)


def test_a_wrong_name_and_a_wrong_password_are_told_alike(app, site):
    assert login(site, "owner", "wrong password", 401).json == login(site, "nobody", "wrong password", 401).json


# ---- users -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("username", ["", " ", " anna", "anna ", "an\nna", "an\0na", "x" * 65, "owner", "an\u200bna"])
def test_a_username_that_is_taken_or_cannot_be_seen_is_refused_and_creates_nothing(app, username):
    with pytest.raises(InvalidInput) as refused:
        app.setup(username, PASSWORD, "anna.example")
    assert refused.value.details[0]["field"] == "username"
    assert domains(app) == ["example.com"]


def test_an_account_whose_site_is_refused_is_not_created_either(app):
    with pytest.raises(InvalidInput):
        app.setup("anna", PASSWORD, "https://anna.example")
    assert rows(app, "select username from users") == [("owner",)]


def test_the_first_account_through_the_browser_is_the_only_one_by_its_link(settings, clock):
    with contextlib.closing(create_app(settings, clock)) as app:
        code, web = app.accounts.setup_code, Site(app).web
        body = {"code": code, "username": "anna", "password": PASSWORD, "domain": "anna.example", "timezone": "Europe/Berlin"}
        assert web.post_json("/api/setup", {**body, "code": "guess"}, status=403)
        assert web.post_json("/api/setup", body).json == {"user": {"username": "anna", "role": "owner", "every_site": True, "two_factor": False}}
        assert web.post_json("/api/setup", {**body, "username": "eve", "domain": "eve.example"}, status=403)
        assert domains(app) == ["anna.example"]


# ---- tokens and sessions ---------------------------------------------------------------------------------------------

def files(app, tmp_path):
    return b"".join(path.read_bytes() for path in tmp_path.glob("test.db*"))


def test_only_the_hash_of_a_token_is_stored(app, tmp_path):
    token = app.create_token("reports")
    assert len(token) >= 43  # 256 bits
    assert rows(app, "select token_hash from tokens") == [(hashlib.sha256(token.encode()).digest(),)]
    assert token.encode() not in files(app, tmp_path)


def test_only_the_hash_of_a_session_is_stored(app, site, tmp_path):
    login(site, "owner", PASSWORD, 200)
    secret = site.web.cookies["mininumbers"]
    assert rows(app, "select token_hash from sessions") == [(hashlib.sha256(secret.encode()).digest(),)], secret
    assert secret.encode() not in files(app, tmp_path)


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(app, site):
    attributes = login(site, "owner", PASSWORD, 200).headers["Set-Cookie"].lower()
    assert "httponly" in attributes
    assert "samesite=strict" in attributes


def session(site):
    return site.web.get("/api/session").json["user"]


def test_a_session_lasts_for_thirty_days_and_ends_at_signing_out(app, site, clock):
    login(site, "owner", PASSWORD, 200)
    for _ in range(5):
        clock.advance(6 * DAY - 1)
        assert session(site)["username"] == "owner"
        app.store.probe()  # what is noted of it is written without anybody waiting for that
    clock.advance(5)
    assert session(site) is None
    login(site, "owner", PASSWORD, 200)
    cookie = site.web.cookies["mininumbers"]
    site.web.post_json("/api/logout", {})
    site.web.set_cookie("mininumbers", cookie)
    assert session(site) is None


def test_an_account_that_is_deleted_has_no_sessions(app, site):
    login(site, "owner", PASSWORD, 200)
    app.store.transact(lambda db: db.execute("delete from users"))
    assert rows(app, "select count(*) from sessions") == [(0,)]


def ask(site, token, domain, status):
    return site.web.post_json("/api/v2/query", {"site_id": domain, "metrics": ["visitors"], "date_range": "day"},
                              headers={"Authorization": f"Bearer {token}"}, status=status)


def test_a_token_of_one_site_sees_that_site_and_learns_nothing_of_another(app, site):
    app.add_site("other.example")
    token = app.create_token("for one", "example.com")
    ask(site, token, "example.com", 200)
    assert ask(site, token, "other.example", 404).json == ask(site, token, "nobody.example", 404).json
    headers = {"Authorization": f"Bearer {token}"}
    assert [each["domain"] for each in site.web.get("/api/sites", headers=headers).json["sites"]] == ["example.com"]
    assert site.web.get("/api/dropped?site_id=other.example", headers=headers, status=404)
    assert site.web.get("/api/v1/stats/realtime/visitors?site_id=other.example", headers=headers, status=404)


def test_a_token_of_one_site_goes_with_the_site(app, site):
    app.add_site("other.example")
    token, every = app.create_token("for one", "other.example"), app.create_token("for all")
    app.remove_site("other.example")
    app.add_site("other.example")
    ask(site, token, "other.example", 401)
    ask(site, every, "other.example", 200)


@pytest.mark.parametrize("token", ["", " ", "guess", "\u00e9", "x" * 10_000])
def test_a_wrong_token_is_refused(app, site, token):
    ask(site, token, "example.com", 401)


def test_a_token_that_differs_in_one_character_is_refused(app, site):
    token, chance = app.create_token("name"), random.Random(1)
    for position in chance.sample(range(len(token)), 10):
        ask(site, token[:position] + ("A" if token[position] != "A" else "B") + token[position + 1:], "example.com", 401)


@pytest.mark.parametrize("name", ["", "  ", "x" * 101])
def test_a_token_must_have_a_name(app, name):
    with pytest.raises(InvalidInput):
        app.create_token(name)
