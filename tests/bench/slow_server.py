"""The real server under harder circumstances than this machine's: `python slow_server.py DELAY BUSY serve …`.

DELAY is how many milliseconds each commit takes longer, as the disk of a small VPS does; BUSY 1 keeps a thread in Python code,
as a large report does. Everything else is mininumbers.py as it is.
"""
import pathlib
import sqlite3
import sys
import threading
import time
from collections import Counter

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

import mininumbers  # noqa: E402


def slow_connection(seconds):
    """Return a kind of connection whose commits take that much longer."""
    class Slow(sqlite3.Connection):
        def execute(self, sql, *parameters):
            if sql == "commit":
                time.sleep(seconds)
            return super().execute(sql, *parameters)
    return Slow


def count_for_ever():
    """Do what reports do, without an end."""
    while True:
        Counter(range(10_000))


if __name__ == "__main__":
    delay, busy, *arguments = sys.argv[1:]
    if float(delay):
        plain, kind = sqlite3.connect, slow_connection(float(delay) / 1000)
        sqlite3.connect = lambda *given, **more: plain(*given, factory=kind, **more)
    if int(busy):
        threading.Thread(target=count_for_ever, daemon=True).start()
    sys.exit(mininumbers.main(arguments))
