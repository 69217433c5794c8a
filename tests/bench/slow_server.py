"""The real server under harder circumstances than this machine's: `python slow_server.py DELAY BUSY serve …`.

DELAY is how many milliseconds each commit takes longer, as the disk of a small VPS does; BUSY 1 keeps a thread in Python code,
as a large report does. Everything else is mininumbers.py as it is.
"""
import pathlib
import sys
import threading
import time
from collections import Counter

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

import mininumbers  # noqa: E402


def slow_connection(seconds):
    """Return a kind of connection whose commits take that much longer."""
    class Slow(mininumbers._Connection):
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
        mininumbers._Connection = slow_connection(float(delay) / 1000)
    if int(busy):
        threading.Thread(target=count_for_ever, daemon=True).start()
    sys.exit(mininumbers.main(arguments))
