"""The benchmarks run and tell what they should; how fast anything is, no test says."""
import json
import subprocess
import sys

from conftest import ROOT


def test_the_benchmark_of_collection_finds_every_acknowledged_hit_again(tmp_path):
    told = tmp_path / "told.json"
    flags = "--seconds 0.2 --rounds 1 --connections 4 --delays 2 --no-busy".split()
    command = [sys.executable, str(ROOT / "tests" / "bench" / "ingest.py"), *flags, "--folder", str(tmp_path), "--json", str(told)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    result, = json.loads(told.read_text())["results"]
    assert result["acknowledged"] == result["found"] > 0
    assert result["refused"] == 0
    assert {"hits_per_second", "empty_per_second", "ratio", "p50_ms", "p99_ms", "commit_delay_ms"} <= set(result)
