"""dashboard.html as code: its pure part under Node, the types of its whole script."""
import os
import re
import shutil
import subprocess

from conftest import ROOT


def run(*command, **env):
    """Run a program and return (whether it ended well, what it said)."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, env={**os.environ, **env})
    return done.returncode == 0, done.stdout + done.stderr


def test_the_pure_part_does_what_its_own_tests_say():
    node = shutil.which("node")
    assert node, "node is missing: tests/run brings it"
    passed, said = run(node, "--test", "tests/dashboard.test.mjs", LC_ALL="en_GB.UTF-8", TZ="Europe/Berlin")
    assert passed, said


def test_the_types_of_the_script_are_right(node_packages, tmp_path):
    script = re.search(r'<script type="module">(.*?)</script>', (ROOT / "dashboard.html").read_text("utf-8"), re.DOTALL)[1]
    (tmp_path / "dashboard.mjs").write_text(script, "utf-8")
    passed, said = run(shutil.which("node"), str(node_packages / "typescript" / "bin" / "tsc"), "--allowJs", "--checkJs", "--noEmit", "--target", "esnext",
                       "--module", "esnext", "--lib", "esnext,dom,dom.iterable", str(tmp_path / "dashboard.mjs"))
    assert passed, said
