# SPDX-License-Identifier: Apache-2.0
"""nibble bench: its tests, formats and counts, on a tiny model."""
import csv
import io
import json
import shutil
import signal
import subprocess

import pytest


@pytest.fixture(scope="session")
def tiny(tree):
    return tree / "tests" / "golden" / "models" / "llama-words"


QUICK = ["-r", 2, "-p", 8, "-n", 4]


def test_json(nibble, tiny):
    rows = json.loads(nibble("bench", tiny, "-p", "8,16", "-n", "4", "-d", "0,8", "-r", 3, "-o", "json").stdout)
    assert [row["test"] for row in rows] == ["pp8", "pp16", "tg4", "pp8 @ d8", "pp16 @ d8", "tg4 @ d8"]
    for row in rows:
        assert row["avg_ts"] > 0 and row["stddev_ts"] >= 0 and row["repetitions"] == 3
        assert row["bytes_per_token"] > 0 and row["read_bandwidth_gb_per_s"] > 0
        moved = row["bytes_per_token"] * row["avg_ts"] / 1e9
        assert row["gb_per_s"] == pytest.approx(moved, abs=2e-3)
    assert rows[5]["bytes_per_token"] > rows[2]["bytes_per_token"]  # deeper: more keys and values
    assert rows[0]["bytes_per_token"] < rows[2]["bytes_per_token"]  # one pass over the weights for 8 tokens


def test_answers_side_by_side(nibble, tiny):
    rows = json.loads(nibble("bench", tiny, "-p", 0, "-n", 4, "-b", "1,3", "-d", 8, "-r", 2, "-o", "json").stdout)
    assert [(row["test"], row["n_seqs"]) for row in rows] == [("tg4 @ d8", 1), ("tg4 x 3 @ d8", 3)]
    assert rows[1]["bytes_per_token"] < rows[0]["bytes_per_token"]  # one pass over the weights for three tokens
    few = nibble("bench", tiny, "-b", 8, "--max-num-batched-tokens", 4, check=False)
    assert few.returncode == 2 and "a step of --batch-size 8 has more" in few.stderr


def test_csv_and_markdown(nibble, tiny):
    rows = list(csv.DictReader(io.StringIO(nibble("bench", tiny, *QUICK, "-o", "csv").stdout)))
    assert [row["test"] for row in rows] == ["pp8", "tg4"]
    lines = nibble("bench", tiny, *QUICK).stdout.splitlines()
    assert len(lines) == 4 and len({len(line) for line in lines}) == 1
    assert "t/s" in lines[0] and " ± " in lines[2] and "llama-words" in lines[2]


def test_zero_skips(nibble, tiny):
    rows = json.loads(nibble("bench", tiny, "-p", 0, "-n", 4, "-r", 1, "-o", "json").stdout)
    assert [row["test"] for row in rows] == ["tg4"]


def test_profile(nibble, tiny):
    done = nibble("bench", tiny, *QUICK, "--profile")
    assert "\npp8:\n" in done.stdout and "\ntg4:\n" in done.stdout and "| matmul " in done.stdout
    done = nibble("bench", tiny, *QUICK, "--profile", "-o", "json")
    json.loads(done.stdout)  # the profile is on standard error
    assert "| matmul " in done.stderr


def test_several_models_and_thread_counts(nibble, tiny):
    rows = json.loads(nibble("bench", tiny, tiny, *QUICK, "-t", "1,2", "-r", 1, "-o", "json").stdout)
    assert [(row["n_threads"], row["test"]) for row in rows] == [(t, test) for _ in "ab" for t in (1, 2) for test in ("pp8", "tg4")]


def test_a_shape_needs_no_files(nibble):
    rows = json.loads(nibble("bench", "--shape", "smollm2-135m", *QUICK, "-r", 1, "-o", "json").stdout)
    assert {(row["model"], row["model_n_params"]) for row in rows} == {("smollm2-135m", 162826560)}
    done = nibble("bench", "--shape", "qwen9-8b", check=False)
    assert done.returncode == 2 and "no shape 'qwen9-8b'; expected smollm2-135m, llama3-1b, qwen3-8b, llama3-8b" in done.stderr and not done.stdout
    done = nibble("bench", "--shape", "smollm2-135m", "-p", 1, "-n", 1, "-d", 100000, "-b", "1024", "--kv-cache-dtype", "fp32",
                  "--device", "cpu", check=False)  # 9 TB of keys and values
    assert done.returncode == 1 and "smollm2-135m: takes " in done.stderr and "GB are available" in done.stderr
    done = nibble("bench", "--shape", "smollm2-135m", "--server-load", check=False)
    assert done.returncode == 2 and "a shape has no words" in done.stderr


def test_words_are_not_needed(nibble, tiny, tmp_path):
    shutil.copytree(tiny, tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").unlink()
    assert "holds no tokenizer" in nibble("run", tmp_path / "model", "-p", "a", check=False).stderr
    rows = json.loads(nibble("bench", tmp_path / "model", *QUICK, "-r", 1, "-o", "json").stdout)
    assert [row["test"] for row in rows] == ["pp8", "tg4"]


def test_longer_than_the_model(nibble, tiny):
    done = nibble("bench", tiny, "-p", 600, "-n", 0, "-r", 1, "-t", 1)
    assert done.stderr == f"nibble: note: {tiny} was made for 512 tokens, and a test has 600\n"


def test_more_than_the_memory_gives_is_explained(nibble, tiny):
    """Where it happens; a model of 38 KiB sits in any cache."""
    done = nibble("bench", tiny, "-p", 0, "-n", 64, "-r", 5, "-t", 1)
    share = float(done.stdout.splitlines()[2].split("|")[-4].strip(" %"))
    assert ("sit in the processor's cache" in done.stdout) == (share > 100)


def test_threads_and_modes(nibble, tiny):
    rows = json.loads(nibble("bench", tiny, *QUICK, "-t", 1, "--activations", "f32", "-o", "json").stdout)
    assert rows[0]["n_threads"] == 1 and rows[0]["activations"] == "f32"


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_ended_by_a_signal(nibble_path, tiny, until_it_catches, stop):
    process = subprocess.Popen([nibble_path, "bench", tiny, "-r", "1000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               text=True)
    until_it_catches(process, stop)
    process.send_signal(stop)
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, out, errors) == (128 + stop, "", "nibble: interrupted\n")
