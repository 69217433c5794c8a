"""Settings: one declaration makes the field, its bounds, the flag, the variable, the help and the README's row."""
import dataclasses
import re

import pytest

from conftest import ROOT
from mininumbers import SETTINGS, InvalidInput, Settings, build_parser, parse_setting

NUMBERS = [name for name, setting in SETTINGS.items() if type(setting.default) is int]
TEXTS = [name for name, setting in SETTINGS.items() if type(setting.default) is str]
CHOICES = [name for name, setting in SETTINGS.items() if "choices" in setting.metadata]


def flag_of(name):
    return "--" + name.replace("_", "-")


def variable_of(name):
    return "MININUMBERS_" + name.upper()


def another_value(name):
    """Return the text of a valid value that is not the default."""
    setting = SETTINGS[name]
    if name in NUMBERS:
        return str(setting.default + 1)
    return {**{each: SETTINGS[each].metadata["choices"][-1] for each in CHOICES},
            "db": "other.db", "host": "127.0.0.1", "geoip": "", "trusted_proxies": "10.0.0.0/8"}[name]


# ---- what each declaration says --------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_says_in_one_line_what_it_means(name):
    help = SETTINGS[name].metadata["help"]
    assert re.fullmatch(r"[^\n]{10,120}", help) and not help.endswith(".")


@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_has_bounds_with_the_default_inside(name):
    limits = SETTINGS[name].metadata
    assert limits["least"] <= SETTINGS[name].default <= limits["most"]


@pytest.mark.parametrize("name", CHOICES)
def test_every_choice_offers_its_default(name):
    assert SETTINGS[name].default in SETTINGS[name].metadata["choices"]


def test_every_setting_is_a_number_or_text():
    assert sorted(NUMBERS + TEXTS) == sorted(SETTINGS) == sorted({field.name for field in dataclasses.fields(Settings)} - {"given"})


def test_the_defaults_are_valid_and_cannot_be_changed_afterwards():
    settings = Settings()
    assert {name: getattr(settings, name) for name in SETTINGS} == {name: setting.default for name, setting in SETTINGS.items()}
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.port = 1


# ---- bounds ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_may_be_its_least_and_its_most_and_nothing_beyond(name):
    least, most = SETTINGS[name].metadata["least"], SETTINGS[name].metadata["most"]
    assert getattr(Settings(**{name: least}), name) == least
    assert getattr(Settings(**{name: most}), name) == most
    for value in (least - 1, most + 1):
        with pytest.raises(InvalidInput, match=f"{name}: .*{least}.*{most}.*{value}"):
            Settings(**{name: value})


@pytest.mark.parametrize("name", CHOICES)
def test_a_choice_is_one_of_those_offered(name):
    for value in SETTINGS[name].metadata["choices"]:
        assert getattr(Settings(**{name: value}), name) == value
    for value in ("", "other", SETTINGS[name].default.upper()):
        with pytest.raises(InvalidInput, match=name):
            Settings(**{name: value})


@pytest.mark.parametrize("name, value", [*((name, value) for name in NUMBERS for value in ("1", 1.0, True, None)),
                                         *((name, value) for name in TEXTS for value in (1, b"x", None))])
def test_a_value_of_another_type_is_refused(name, value):
    with pytest.raises(InvalidInput, match=name):
        Settings(**{name: value})


def test_the_mistake_is_told_to_programs_too():
    with pytest.raises(InvalidInput) as caught:
        Settings(port=-1)
    assert [detail["field"] for detail in caught.value.details] == ["port"]


@pytest.mark.parametrize("text, networks", [
    ("", []), ("127.0.0.1", ["127.0.0.1/32"]), (" ::1 , 10.0.0.0/8,", ["::1/128", "10.0.0.0/8"]), ("127.0.0.0/8,::1", ["127.0.0.0/8", "::1/128"]),
])
def test_trusted_proxies_are_addresses_and_networks(text, networks):
    assert [str(network) for network in Settings(trusted_proxies=text).trusted_networks] == networks


@pytest.mark.parametrize("text", ["everyone", "*", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.1 10.0.0.2", "10.0.0.1:80", "localhost"])
def test_trusted_proxies_that_are_no_networks_are_refused_at_once(text):
    with pytest.raises(InvalidInput, match="trusted_proxies"):
        Settings(trusted_proxies=text)


# ---- flag, variable, default -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_can_come_from_its_variable_and_a_flag_wins(name):
    text = another_value(name)
    value = parse_setting(name, text)
    assert value != SETTINGS[name].default
    assert getattr(Settings.from_environment({variable_of(name): text}), name) == value
    assert getattr(Settings.from_environment({variable_of(name): text}, **{name: SETTINGS[name].default}), name) == SETTINGS[name].default
    assert getattr(Settings.from_environment({variable_of(name): text}, **{name: None}), name) == value


def test_variables_that_are_not_ours_change_nothing():
    assert Settings.from_environment({"PORT": "1", "MININUMBERS_": "x", "mininumbers_port": "1", "MININUMBERS_PORTS": "1"}) == Settings()


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("text", ["", "many", "1.5", "0x10", "1e3"])
def test_a_number_that_is_none_is_refused_by_name(name, text):
    with pytest.raises(InvalidInput, match=name):
        Settings.from_environment({variable_of(name): text})


@pytest.mark.parametrize("name", SETTINGS)
def test_serve_has_a_flag_for_every_setting(name):
    given = build_parser().parse_args(["serve", flag_of(name), another_value(name)])
    assert getattr(given, name) == another_value(name)
    assert [other for other in SETTINGS if other != name and getattr(given, other) is not None] == []


# ---- the README ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", SETTINGS)
def test_the_readme_has_the_row_of_every_setting(name):
    setting = SETTINGS[name]
    row = f"| `{flag_of(name)}` | `{variable_of(name)}` | `{setting.default}` | {setting.metadata['help']} |"
    assert row in (ROOT / "README.md").read_text("utf-8").splitlines()


def test_the_readme_has_no_row_of_a_setting_that_is_gone():
    rows = re.findall(r"^\| `--[\w-]+` \| `MININUMBERS_(\w+)` ", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    assert sorted(row.lower() for row in rows) == sorted(SETTINGS)
