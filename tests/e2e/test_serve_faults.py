# SPDX-License-Identifier: Apache-2.0
"""The harnesses of bench/serve, short: clients that behave badly, and load."""
import os
import re
import subprocess
import sys


def harness(tree, nibble_path, name, *arguments):
    return subprocess.run([sys.executable, tree / "bench" / "serve" / name, *map(str, arguments)], text=True,
                          capture_output=True, timeout=280, env={**os.environ, "NIBBLE": str(nibble_path)})


def test_faults(nibble_path, tree):
    done = harness(tree, nibble_path, "faults.py", "--model", tree / "tests/golden/models/llama-words",
                   "--requests", 200, "--clients", 32, "--different", 20)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\n0 wrong;" in done.stdout and "| sound | 200 | 160 |" in done.stdout
    assert re.search(r"\| under kill -9 \| broken off \| \d+ \|", done.stdout)


def test_load(nibble_path, tree):
    """It runs and counts; its times are for a quiet machine."""
    done = harness(tree, nibble_path, "load.py", "throughput", "--model", tree / "tests/golden/models/llama-words",
                   "--no-engine", "--requests", 96, "--rounds", 2, "--connections", 48, "--running", 8,
                   "--max-tokens", 20)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| errors of 2 x 96 requests, 48 connections | 0 | 0 |" in done.stdout
