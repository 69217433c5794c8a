"""Notes on the chart: who may write them, what they hold, and where they go with their site."""
import contextlib

import pytest

from conftest import PASSWORD, Person, ask
from mininumbers import OPERATOR, Settings, create_app

PATH = "/api/annotations"
pytestmark = pytest.mark.usefixtures("cheap_passwords")


@pytest.fixture
def app(tmp_path, clock):
    """An app with two sites, an owner, and an editor and a viewer of example.com."""
    with contextlib.closing(create_app(Settings(db=str(tmp_path / "test.db"), geoip=""), clock=clock)) as app:
        app.setup("owner", PASSWORD, "example.com")
        app.add_site("other.test")
        for role in ("editor", "viewer"):
            app.accounts.add_user(OPERATOR, role, PASSWORD, role, ["example.com"])
        yield app


class Writer(Person):
    """Somebody who is signed in, and writes notes."""

    def __init__(self, app, username):
        super().__init__(app)
        assert self.sign_in(username)[0] == 200

    def write(self, at="2026-03-02", text="Launch", domain="example.com"):
        """Write a note and return its id."""
        status, body = self.post(PATH, site_id=domain, at=at, text=text)
        assert status == 200, body
        return body["id"]

    def notes(self, first="2026-01-01", last="2026-12-31", domain="example.com"):
        """The notes of some days as [(id, at, text, author)]."""
        status, body = self.ask("GET", f"{PATH}?site_id={domain}&from={first}&to={last}")
        assert status == 200, body
        return [tuple(note[name] for name in ("id", "at", "text", "author")) for note in body["annotations"]]


@pytest.fixture
def editor(app):
    return Writer(app, "editor")


@pytest.fixture
def viewer(app):
    return Writer(app, "viewer")


def test_a_note_is_written_changed_and_removed_by_an_editor_and_read_by_a_viewer(editor, viewer):
    note = editor.write("2026-03-02", "  Launch  ")
    assert viewer.notes() == [(note, "2026-03-02", "Launch", "editor")]
    assert editor.ask("PATCH", f"{PATH}/{note}", {"text": "The launch"}) == (200, {})
    assert editor.ask("PATCH", f"{PATH}/{note}", {"at": "2026-03-03 14:00:00"}) == (200, {})
    assert viewer.notes() == [(note, "2026-03-03 14:00:00", "The launch", "editor")]
    assert editor.ask("PATCH", f"{PATH}/{note}", {}) == (200, {})
    assert editor.ask("DELETE", f"{PATH}/{note}") == (200, {})
    assert viewer.notes() == []


def test_the_notes_of_some_days_come_in_their_order_the_hours_of_the_last_day_among_them(editor):
    for at in ("2026-03-03 23:00:00", "2026-03-04", "2026-03-01", "2026-03-03", "2026-03-02 00:00:00"):
        editor.write(at, at)
    assert [at for _, at, *_ in editor.notes("2026-03-02", "2026-03-03")] == ["2026-03-02 00:00:00", "2026-03-03", "2026-03-03 23:00:00"]
    assert len(editor.notes("1970-01-01", "2100-12-31")) == 5


def test_a_viewer_is_told_that_they_may_not_write_and_cannot(editor, viewer):
    note = editor.write()
    days = f"{PATH}?site_id=example.com&from=2026-03-02&to=2026-03-02"
    assert [person.ask("GET", days)[1]["may_edit"] for person in (editor, viewer)] == [True, False]
    assert viewer.post(PATH, site_id="example.com", at="2026-03-02", text="x")[0] == 403
    assert viewer.ask("PATCH", f"{PATH}/{note}", {"text": "x"})[0] == 403
    assert viewer.ask("DELETE", f"{PATH}/{note}")[0] == 403
    assert editor.notes() == [(note, "2026-03-02", "Launch", "editor")]


def test_the_notes_of_a_site_one_may_not_see_are_not_there(app, editor):
    note = Writer(app, "owner").write(domain="other.test")
    assert editor.ask("GET", f"{PATH}?site_id=other.test")[0] == 404
    assert editor.post(PATH, site_id="other.test", at="2026-03-02", text="x")[0] == 404
    assert editor.ask("PATCH", f"{PATH}/{note}", {"text": "x"})[0] == 404
    assert editor.ask("DELETE", f"{PATH}/{note}")[0] == 404
    assert Writer(app, "owner").notes(domain="other.test") == [(note, "2026-03-02", "Launch", "owner")]


def test_notes_go_with_their_site(app, editor):
    editor.write()
    app.remove_site("example.com")
    assert ask(app.settings.db, "select * from annotations") == []
    app.add_site("example.com")
    assert Writer(app, "owner").notes() == []


@pytest.mark.parametrize("field, value", [
    ("at", ""), ("at", None), ("at", 20260302), ("at", "2026-02-30"), ("at", "2026-3-2"), ("at", "2026-03-02T14:00"), ("at", "2026-03-02 14:30:00"),
    ("at", "2026-03-02 24:00:00"), ("at", "٢٠٢٦-٠٣-٠٢"), ("at", "9999-12-31"), ("at", ["2026-03-02"]), ("text", ""), ("text", "   "), ("text", None),
    ("text", "x" * 501), ("text", "x" * 100_000), ("text", "one\ntwo"), ("text", "nul\0"), ("text", {"a": 1}), ("site_id", ""), ("site_id", None)])
def test_what_will_not_do_is_named_and_nothing_is_written(editor, field, value):
    body = {"site_id": "example.com", "at": "2026-03-02", "text": "Launch", field: value}
    status, answer = editor.post(PATH, **body)
    assert status in (400, 413)
    assert status == 413 or [each["field"] for each in answer["details"]] == [field]
    note = editor.write()
    if field != "site_id":
        assert editor.ask("PATCH", f"{PATH}/{note}", {field: value})[0] == status
    assert editor.notes() == [(note, "2026-03-02", "Launch", "editor")]


@pytest.mark.parametrize("text", ["<img src=x onerror=alert(1)>", "\u202eabc", "\u0645\u0631\u062d\u0628\u0627", "\U0001f680" * 500, "'; drop table annotations; --"])
def test_any_text_comes_back_as_it_went_in(editor, text):
    note = editor.write(text=text)
    assert editor.notes() == [(note, "2026-03-02", text, "editor")]


def test_a_note_that_is_gone_can_be_neither_changed_nor_removed(editor):
    note = editor.write()
    editor.ask("DELETE", f"{PATH}/{note}")
    assert editor.ask("PATCH", f"{PATH}/{note}", {"text": "x"})[0] == 404
    assert editor.ask("DELETE", f"{PATH}/{note}")[0] == 404
    assert editor.write() != note
