"""The wheel: built from the sources, installed alone into a fresh environment, it serves from any folder."""
import contextlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import urllib.request
import zipfile

import pytest

from conftest import CHROME, PASSWORD, ROOT
from mininumbers import dashboard_file

ASSETS = ("schema.sql", "bots.txt", "tracker.js", "tracker.min.js", "dashboard.html", "GeoLite2-Country.mmdb")
VERSION = re.search('__version__ = "(.*)"', (ROOT / "mininumbers.py").read_text("utf-8"))[1]


def clean_environment():
    """The environment without what would lead to the sources or to other settings."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MININUMBERS_", "VIRTUAL_ENV"))}


def run(*command, cwd, **more):
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, env=clean_environment(), timeout=300, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy, since a build leaves files behind."""
    folder = tmp_path_factory.mktemp("build")
    source = shutil.copytree(ROOT, folder / "source", ignore=shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "*.db*", "tests"))
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, source, cwd=folder)
    built, = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The program in an environment that has nothing but the wheel and what it asks for."""
    folder = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "venv", folder, cwd=folder)
    run(folder / "bin" / "python", "-m", "pip", "install", "--quiet", wheel, cwd=folder)
    return folder / "bin" / "mininumbers"


def test_the_wheel_is_for_every_machine_and_says_what_it_needs(wheel):
    assert wheel.name == f"mininumbers-{VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(f"mininumbers-{VERSION}.dist-info/METADATA").decode()
    needed = {re.match(r"[\w.-]+(\[\w+\])?", line)[0].lower() for line in re.findall(r"^Requires-Dist: (.*)", metadata, re.MULTILINE) if "extra" not in line}
    assert needed == {"bottle", "waitress", "geoip2", "ua-parser[regex]"}
    assert re.search(r"^Requires-Python: >=3\.10$", metadata, re.MULTILINE)
    assert "# Mini Numbers" in metadata


def test_the_wheel_has_the_module_its_files_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        contents = {re.sub(r"^mininumbers-[^/]*\.(data|dist-info)/", r"\1:", name): archive.read(name) for name in archive.namelist()}
    information = {name for name in contents if name.startswith("dist-info:")}
    assert set(contents) - information == {"mininumbers.py", *(f"data:data/share/mininumbers/{name}" for name in ASSETS)}
    assert any(name.endswith("LICENSE") for name in information)
    assert contents["mininumbers.py"] == (ROOT / "mininumbers.py").read_bytes()
    assert [name for name in ASSETS if contents[f"data:data/share/mininumbers/{name}"] != (ROOT / name).read_bytes()] == []


def ask(address, body=None, **headers):
    request = urllib.request.Request(address, body and json.dumps(body).encode(), {"User-Agent": CHROME, **headers})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.status, answer.headers, answer.read()


@contextlib.contextmanager
def serving(program, folder):
    process = subprocess.Popen([program, "--db", "test.db", "--port", "0"], cwd=folder, env=clean_environment(), stdout=subprocess.PIPE, text=True)
    try:
        address = next((line.split()[1] for line in process.stdout if line.startswith("Open ")), None)
        assert address, "the program ended before it served"
        yield address
    finally:
        process.kill()
        process.communicate()


def test_the_installed_program_serves_from_any_folder(installed, tmp_path):
    run(installed, "setup", "--db", "test.db", "--username", "me", "--password-stdin", "--site", "example.com", cwd=tmp_path, input=PASSWORD)
    with serving(installed, tmp_path) as address:
        status, headers, page = ask(address)
        assert (status, page) == (200, dashboard_file().body)
        assert ask(f"{address}tracker.js")[2] == (ROOT / "tracker.min.js").read_bytes()
        assert json.loads(ask(f"{address}health")[2])["version"] == VERSION
        body = {"n": "pageview", "u": "https://example.com/", "d": "example.com"}
        status, headers, _ = ask(f"{address}api/event", body, **{"X-Forwarded-For": "8.8.8.8"})
        assert (status, headers["X-MiniNumbers-Dropped"]) == (202, None)
    with contextlib.closing(sqlite3.connect(tmp_path / "test.db")) as db:
        assert db.execute("select text from clients join texts on texts.id = country").fetchall() == [("US",)]


def test_the_installed_program_is_not_the_source(installed, tmp_path):
    where = run(installed.parent / "python", "-c", "import mininumbers; print(mininumbers.__file__)", cwd=tmp_path).strip()
    assert where.startswith(str(installed.parent.parent)) and not where.startswith(str(ROOT))
    run(installed.parent / "python", "-m", "pip", "check", cwd=tmp_path)


def test_it_runs_as_a_module_too(installed, tmp_path):
    assert run(installed.parent / "python", "-m", "mininumbers", "--version", cwd=tmp_path) == f"Mini Numbers {VERSION}\n"


def test_installing_takes_nothing_that_is_not_needed(installed, tmp_path):
    listed = json.loads(run(installed.parent / "python", "-m", "pip", "list", "--format", "json", cwd=tmp_path))
    brought = {package["name"].lower().replace("_", "-") for package in listed} - {"pip", "setuptools", "wheel"}
    assert brought >= {"mininumbers", "bottle", "waitress", "geoip2", "maxminddb", "ua-parser", "ua-parser-rs"}
    assert brought.isdisjoint({"pytest", "flask", "django", "playwright", "hypothesis", "webtest"})
