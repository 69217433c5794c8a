"""Limits: how often an address, a site and a token may ask, and how guessing at the door is slowed down.

Contents: counting · collection · the door · what is kept
"""
import contextlib
import logging
import threading
import tracemalloc

import pytest

from conftest import PASSWORD, MovableClock, Person, Site
from hypothesis import given, settings as budget, strategies as st
from mininumbers import LIMITER_KEYS, OPERATOR, Attempts, Limiter, Settings, TooMany, create_app, network_of

OWNERS_BROWSER = "198.51.100.1"
pytestmark = pytest.mark.usefixtures("cheap_passwords")


# ---- counting --------------------------------------------------------------------------------------------------------

@budget(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 40)), max_size=60), st.integers(1, 4))
def test_in_the_minute_that_a_key_began_it_is_taken_so_often_and_no_more(asked, allowed):
    clock, limiter, began, taken = MovableClock(0), Limiter(lambda: clock.now), {}, {}
    for key, pause in asked:
        clock.advance(pause)
        if key not in began or clock.now >= began[key] + 60:
            began[key], taken[key] = clock.now, 0
        taken[key] += 1
        expected = 0 if taken[key] <= allowed else began[key] + 60 - clock.now
        assert limiter.take((key,), allowed) == expected


def test_zero_is_no_limit():
    limiter = Limiter(MovableClock())
    assert [limiter.take(("x",), 0) for _ in range(100)] == [0] * 100


def test_a_clock_that_is_set_back_does_not_shut_anybody_out():
    clock = MovableClock(10_000)
    limiter = Limiter(clock)
    assert [limiter.take(("x",), 1) for _ in range(2)] == [0, 60]
    clock.set(0)
    assert limiter.take(("x",), 1) == 0


@pytest.mark.parametrize("one, other, is_same", [("192.0.2.1", "192.0.2.2", False), ("2001:db8::1", "2001:db8::ffff:2", True), ("2001:db8::1", "2001:db8:0:1::1", False),
                                                 ("::1", "2001:db8::1", False), ("", "", True), ("no address", "other", False), ("fe80::1%eth0", "fe80::2%eth0", True)])
def test_an_ipv6_customer_is_one_address(one, other, is_same):
    assert (network_of(one) == network_of(other)) == is_same


# ---- collection ------------------------------------------------------------------------------------------------------

def statuses(site, count, **more):
    return [site.send(status="*", **more).status_int for _ in range(count)]


def test_an_address_may_send_a_thousand_hits_a_minute_and_is_then_told_when_to_try_again(app, site, clock):
    assert statuses(site, 1000, ip="192.0.2.1") == [202] * 1000
    clock.advance(20)
    refused = site.send(ip="192.0.2.1", status=429)
    assert refused.json["code"] == "too-many" and refused.headers["Retry-After"] == "40"
    assert refused.headers["Access-Control-Allow-Origin"] == "*"
    assert site.send(ip="192.0.2.2").status_int == 202
    clock.advance(40)
    assert site.send(ip="192.0.2.1").status_int == 202
    assert site.numbers("pageviews") == 1002


def test_the_pixel_counts_as_well(app, site):
    app.change_settings({"hits_per_address": 2})
    asked = [site.web.get("/pixel.gif?d=example.com&u=https://example.com/", headers={"X-Forwarded-For": "192.0.2.1"}, status="*").status_int for _ in range(2)]
    assert (asked, site.send(status="*").status_int) == ([200, 200], 429)


def test_a_site_may_get_so_many_hits_a_minute_from_all_addresses_together(app, site, clock):
    app.add_site("other.test")
    app.change_settings({"hits_per_site": 4, "hits_per_address": 0})
    assert [site.send(ip=f"192.0.2.{n}", status="*").status_int for n in range(6)] == [202] * 4 + [429] * 2
    assert Site(app, "other.test").send().status_int == 202
    clock.advance(60)
    assert site.send(ip="192.0.2.9").status_int == 202


def test_a_crowd_of_addresses_does_not_make_a_sites_minute_begin_anew(app, site, monkeypatch):
    monkeypatch.setattr(app.collector._address_limits, "_most", 50)
    app.change_settings({"hits_per_site": 3})
    assert [site.send(ip=f"10.0.{n // 200}.{n % 200}", status="*").status_int for n in range(150)] == [202] * 3 + [429] * 147


def test_the_limits_are_ten_times_as_high_for_a_site_as_for_an_address_and_can_be_given(tmp_path):
    defaults = Settings()
    assert (defaults.hits_per_address, defaults.hits_per_site) == (1_000, 10_000)
    with contextlib.closing(create_app(Settings(db=str(tmp_path / "test.db"), geoip="", hits_per_address=1), clock=MovableClock())) as app:
        app.setup("owner", PASSWORD, "example.com")
        assert statuses(Site(app), 3) == [202, 429, 429]


def test_hits_over_a_limit_are_shown_as_not_counted(app, site, clock):
    app.change_settings({"hits_per_address": 2})
    statuses(site, 7)
    clock.advance(60)
    app.run_jobs()
    dropped = site.web.get("/api/dropped?site_id=example.com", headers={"Authorization": f"Bearer {site.token}"}).json
    assert [(each["reason"], each["count"]) for each in dropped["results"]] == [("limit", 5)]
    assert "limit" in dropped["reasons"]
    app.run_jobs()
    clock.advance(60)
    app.run_jobs()
    assert site.web.get("/api/dropped?site_id=example.com", headers={"Authorization": f"Bearer {site.token}"}).json == dropped


def test_a_forged_forwarded_header_is_no_way_around(app):
    app.change_settings({"hits_per_address": 2})
    site = Site(app)
    site.web.extra_environ["REMOTE_ADDR"] = "203.0.113.5"  # no proxy of ours
    assert [site.send(ip=f"192.0.2.{n}", status="*").status_int for n in range(4)] == [202, 202, 429, 429]


# ---- the door --------------------------------------------------------------------------------------------------------

@pytest.fixture
def door(app, clock):
    """A function that tries to sign in from an address, and returns (status, seconds to wait)."""
    def knock(password="wrong password", address="192.0.2.1", username="owner", somebody=None):
        somebody = somebody or Person(app, address=address)
        status, _ = somebody.sign_in(username, password)
        return status, int(somebody.answer.headers.get("Retry-After", 0))
    return knock


def test_an_address_that_fails_waits_ever_longer_and_the_wait_is_true(door, clock):
    assert [door() for _ in range(5)] == [(401, 0)] * 5
    waits = []
    for _ in range(12):
        status, wait = door()
        assert status == 429
        waits.append(wait)
        clock.advance(wait - 0.5)
        assert door()[0] == 429
        clock.advance(0.5)
        assert door()[0] == 401
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900]
    assert door(address="192.0.2.2", username="nobody")[0] == 401, "others do not wait"


def test_the_right_password_is_not_heard_either_while_the_wait_lasts(door, clock):
    for _ in range(5):
        door()
    assert door(PASSWORD)[0] == 429
    clock.advance(1)
    assert door(PASSWORD)[0] == 200


def test_an_hour_later_all_is_forgotten(door, clock):
    for _ in range(5):
        door()
    clock.advance(3600)
    assert [door() for _ in range(5)] == [(401, 0)] * 5


def test_signing_in_to_an_account_of_ones_own_does_not_make_failures_forgotten(app, door):
    app.accounts.add_user(OPERATOR, "attacker", PASSWORD, "viewer", None)
    answers = []
    for _ in range(5):
        answers += [door()[0], door(PASSWORD, username="attacker")[0]]
    assert answers[:8] == [401, 200] * 4 and answers[9] == 429


def test_many_guesses_at_once_are_no_way_around(app):
    statuses, barrier = [], threading.Barrier(12)

    def race():
        barrier.wait()
        statuses.append(Person(app).sign_in("owner", "wrong password")[0])
    threads = [threading.Thread(target=race) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(statuses) == {401, 429} and statuses.count(401) <= 5


def test_strangers_without_number_do_not_lock_the_owner_out(app, door, clock):
    known = Person(app, address=OWNERS_BROWSER)
    assert door(PASSWORD, somebody=known)[0] == 200
    known.ask("POST", "/api/logout", {})
    for number in range(300):
        assert door(address=f"10.0.{number // 200}.{number % 200}")[0] == 401
    assert door(address="10.0.0.1")[0] == 429, "who failed waits for the others' failures too"
    assert door(PASSWORD, address="203.0.113.9")[0] == 200, "a first try from elsewhere is heard"
    for _ in range(20):
        door(address=OWNERS_BROWSER)
    assert door(PASSWORD, address=OWNERS_BROWSER)[0] == 429
    assert door(PASSWORD, somebody=known)[0] == 200, "a browser that was here before is known, even at a stranger's address"


def test_others_failures_do_not_make_the_owners_own_wait_longer_and_longer(door, clock):
    for number in range(12):
        door(address=f"10.0.0.{number}")
    assert door(address="203.0.113.9")[0] == 401, "a slip of the owner's"
    status, wait = door(PASSWORD, address="203.0.113.9")
    assert status == 429
    for number in range(wait):
        clock.advance(1)
        door(address=f"10.0.1.{number}")
    assert door(PASSWORD, address="203.0.113.9")[0] == 429, "of more failures the wait is longer …"
    clock.advance(60)
    door(address="10.0.2.1")
    assert door(PASSWORD, address="203.0.113.9")[0] == 200, "… but it counts from one's own last"


def test_a_known_browser_is_slowed_down_by_its_own_failures(app, door, clock):
    known = Person(app, address=OWNERS_BROWSER)
    door(PASSWORD, somebody=known)
    assert [door(somebody=known)[0] for _ in range(7)] == [401] * 5 + [429] * 2
    clock.advance(60)
    assert door(PASSWORD, somebody=known)[0] == 200


@pytest.mark.parametrize("mark", ["", "x", "x.y", "é.é", "0123456789abcdef." + "0" * 64, "." * 1000])
def test_a_mark_that_is_not_ours_makes_no_browser_known(app, door, mark):
    forger = Person(app)
    forger.web.set_cookie("mininumbers-device", mark if mark.isascii() else "x")
    assert [door(somebody=forger)[0] for _ in range(6)] == [401] * 5 + [429]


def test_a_mark_is_for_one_account_and_ends_with_the_password(app, door):
    app.accounts.add_user(OPERATOR, "anna", PASSWORD, "viewer", None)
    known = Person(app)
    door(PASSWORD, username="anna", somebody=known)
    assert [door(somebody=known)[0] for _ in range(6)] == [401] * 5 + [429]
    app.accounts.reset_password("anna", "another password")
    assert door(username="anna", somebody=known)[0] == 429


def test_names_that_nobody_has_are_slowed_down_alike(door):
    answers = {username: [door(address=f"192.0.2.{number % 3}", username=username) for number in range(30)] for username in ("owner",)}
    other = [door(address=f"198.51.100.{number % 3}", username="nobody") for number in range(30)]
    assert answers["owner"] == other and (429, 1) in other


def test_codes_of_the_second_factor_are_guessed_at_no_faster(app, door, clock):
    owner = Person(app, address=OWNERS_BROWSER)
    door(PASSWORD, somebody=owner)
    secret = owner.post("/api/account/two-factor", password=PASSWORD)[1]["secret"]
    from test_accounts import code_at
    owner.post("/api/account/two-factor/confirm", password=PASSWORD, secret=secret, code=code_at(secret, clock.now))
    guesser = Person(app)
    assert [guesser.sign_in(code="000000")[0] for _ in range(6)] == [401] * 5 + [429]
    asking = Person(app, address="192.0.2.77")
    assert [asking.sign_in()[1]["code"] for _ in range(8)] == ["two-factor"] * 8, "being asked for the code is no failure"


# ---- what is kept ----------------------------------------------------------------------------------------------------

def test_a_flood_of_addresses_takes_no_more_memory_than_so_many(clock):
    limiter, attempts = Limiter(clock), Attempts(clock)
    tracemalloc.start()
    try:
        sizes = []
        for start in range(0, 6 * LIMITER_KEYS, LIMITER_KEYS):
            for number in range(start, start + LIMITER_KEYS):
                limiter.take(("address", str(number)), 10)
                with contextlib.suppress(TooMany):
                    attempts.begin(f"10.0.0.{number}", f"name{number}")
            sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert max(sizes[1:]) < 16_000_000 and sizes[-1] < sizes[1] * 1.2
    assert len(limiter._seen) == LIMITER_KEYS and len(attempts._failures) <= LIMITER_KEYS + 2


def test_no_address_is_kept_or_logged(app, site, door, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    app.change_settings({"hits_per_address": 1})
    address = "203.0.113.77"
    statuses(site, 3, ip=address)
    for _ in range(7):
        door(address=address)
    app.run_jobs()
    held = repr([vars(app.collector._address_limits), vars(app.collector._site_limits), vars(app.accounts._attempts), vars(app.token_limits)])
    raw = b"".join(path.read_bytes() for path in tmp_path.glob("test.db*"))
    assert address not in held and address not in caplog.text and address.encode() not in raw
