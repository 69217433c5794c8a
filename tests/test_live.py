"""What happens just now: GET /api/live, and the view that shows it."""
from conftest import Site

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:132.0) Gecko/20100101 Firefox/132.0"


def live(site, status=200):
    return site.web.get("/api/live", {"site_id": site.domain}, headers={"Authorization": f"Bearer {site.token}"}, status=status).json


def test_a_site_without_hits_is_empty_and_still_has_its_minutes(site):
    assert live(site) == {"visitors": 0, "minutes": [[0, 0]] * 30, "pages": [], "sources": [], "countries": [], "hits": [], "is_cut": False}


def test_the_lists_are_of_the_current_visitors_by_the_page_they_saw_last(site, clock):
    site.send("/old", ip="192.0.2.9", r="https://t.co/x")
    clock.advance(301)
    site.send("/a", r="https://www.google.com/")
    clock.advance(10)
    site.send("/b")
    site.send("/b", ip="192.0.2.2")
    answer = live(site)
    assert answer["visitors"] == 2
    assert answer["pages"] == [["/b", 2]]
    assert sorted(answer["sources"]) == [["Direct", 1], ["Google", 1]]
    assert answer["countries"] == [["(not set)", 2]]


def test_who_only_reads_on_is_current_without_a_new_hit(site, clock):
    site.send("/long")
    clock.advance(1500)
    site.send("/long", "engagement", e=1000)
    clock.advance(299)
    assert live(site)["visitors"] == 1
    assert live(site)["pages"] == [["/long", 1]]
    clock.advance(2)
    assert live(site)["visitors"] == 0


def test_minutes_are_counted_back_from_now_and_a_visitor_once_in_each(site, clock):
    for second in (0, 30, 59, 60):
        site.send(f"/{second}")
        clock.advance({0: 30, 30: 29, 59: 1, 60: 0}[second])
    site.send("/", "signup")
    site.send("/", ip="192.0.2.2")
    minutes = live(site)["minutes"]
    assert len(minutes) == 30
    assert minutes[-2:] == [[1, 1], [2, 4]]   # 60 seconds ago is the minute before
    assert sum(visitors for visitors, _ in minutes[:-2]) == 0
    clock.advance(28 * 60)
    assert live(site)["minutes"][0] == [1, 1]
    clock.advance(60)
    assert live(site)["minutes"][0] == [2, 4]
    clock.advance(60)
    assert live(site)["minutes"] == [[0, 0]] * 30


def test_the_feed_has_the_newest_hits_first_with_nothing_that_joins_two(site, clock):
    site.send("/a", agent=FIREFOX, r="https://www.google.com/")
    clock.advance(7)
    site.send("/a", "signup", agent=FIREFOX, p={"plan": "secret"})
    assert live(site)["hits"] == [
        {"age": 0, "name": "signup", "page": "/a", "source": "Google", "country": "(not set)", "browser": "Firefox"},
        {"age": 7, "name": "pageview", "page": "/a", "source": "Google", "country": "(not set)", "browser": "Firefox"}]
    for number in range(40):
        site.send(f"/{number}")
    assert [hit["page"] for hit in live(site)["hits"]] == [f"/{number}" for number in range(39, 9, -1)]


def test_the_privacy_mode_holds_here_too(app, site):
    app.set_site("example.com", mode="paranoid")
    site.send("/", r="https://news.example/secret/path")
    assert live(site)["hits"] == [{"age": 0, "name": "pageview", "page": "/", "source": "news.example", "country": "(not set)", "browser": "(not set)"}]


def test_lists_are_short_and_hostile_text_stays_as_it_is(site):
    for number in range(12):
        site.send(f"/<b>{number}", ip=f"192.0.2.{number}")
    answer = live(site)
    assert len(answer["pages"]) == 10 and answer["visitors"] == 12
    assert all(page.startswith("/<b>") for page, _ in answer["pages"])


def test_of_too_many_hits_the_newest_are_told_and_that_it_is_so(site, clock, monkeypatch):
    monkeypatch.setattr("mininumbers.LIVE_HITS", 3)
    for number in range(4):
        site.send(f"/{number}")
        clock.advance(61)
    answer = live(site)
    assert answer["is_cut"] and sum(views for _, views in answer["minutes"]) == 3


def test_another_site_s_hits_are_not_told(app, site):
    app.add_site("other.test", hostnames="")
    Site(app, "other.test").send("/theirs")
    assert live(site)["hits"] == []


def test_only_who_may_read_the_site_is_told(app, site):
    app.add_site("other.test")
    site.token = app.create_token("one", "other.test")
    assert live(site, status=404)["code"] == "not-found"
    site.token = "guess"
    assert live(site, status=401)["code"] == "unauthorized"
