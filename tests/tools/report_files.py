#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The table of docs/results/files.md: what of people's files is read, each against somebody else's values. It runs the
tests that hold them and prints a line for each; exits 1 when one fails.

    kinds          tests/e2e/test_file_kinds.py           numpy in FP64
    words          tests/e2e/test_tokenizer_kinds.py      the package tokenizers
    blocks         test_gguf_blocks                       the package gguf
    families       test_model_goldens                     transformers in FP32
    vocabularies   tests/tools/compare_vocabularies.py    llama.cpp (with --vocabularies)

usage: report_files.py [--build build/release] [--vocabularies LLAMA_CPP/models]
"""
import argparse
import collections
import os
import pathlib
import re
import subprocess
import sys

TREE = pathlib.Path(__file__).resolve().parents[2]
failed = []


def result(name, ok, why=""):
    if not ok:
        failed.append(name)
    return why or ("pass" if ok else "FAILS")


def table(title, *head):
    print(f"\n### {title}\n\n| {' | '.join(head)} |\n|{' --- |' * len(head)}", flush=True)


def pytest_lines(file, build):
    """-> [(test, parameter or "", outcome)]"""
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-rA", "--tb=no", "-p", "no:cacheprovider", str(TREE / file)],
                          capture_output=True, text=True, cwd=TREE, env={**os.environ, "NIBBLE": str(build / "nibble")})
    found = re.findall(r"^(PASSED|FAILED|ERROR|SKIPPED) \S+?::(\w+)(?:\[(.*?)\])?(?: - .*)?$", done.stdout, re.M)
    if not found:
        sys.exit(done.stdout + done.stderr)
    return [(test, parameter, outcome) for outcome, test, parameter in found]


def kinds(build):
    table("Kinds of files, perplexity against FP64 by numpy (1e-4), or the right sentence", "kind", "result")
    for test, parameter, outcome in pytest_lines("tests/e2e/test_file_kinds.py", build):
        name = test.removeprefix("test_").replace("_", " ") + (f": {parameter}" if parameter else "")
        print(f"| {name} | {result(name, outcome == 'PASSED')} |")


def words(build):
    table("tokenizer.json, id by id against tokenizers", "kind", "inputs", "result")
    counts = collections.defaultdict(list)
    for test, _, outcome in pytest_lines("tests/e2e/test_tokenizer_kinds.py", build):
        counts[test.removeprefix("test_").replace("_", " ")].append(outcome == "PASSED")
    for name, outcomes in counts.items():
        print(f"| {name} | {len(outcomes)} | {result(name, all(outcomes))} |")


def run(build, program):
    done = subprocess.run([str(build / program)], capture_output=True, text=True)
    return done.stdout + done.stderr, done.returncode == 0


def blocks(build):
    table("GGUF's block formats, values bit by bit against gguf", "format", "random blocks", "result")
    listed = [line.split()[0] for line in (TREE / "tests/golden/num/gguf_blocks.txt").read_text().splitlines() if line[0] != "#"]
    text, _ = run(build, "test_gguf_blocks")
    equal = dict(re.findall(r"^(\w+): (\d+) random blocks equal the gguf package", text, re.M))
    for name in listed:
        print(f"| {name} | {equal.get(name, '')} | {result(name, name in equal)} |")


def families(build):
    table("Families, logits against transformers (relative L2, at most 1e-4; the worst of every rung, batch and cut)",
          "network", "file", "distance", "result")
    text, sound = run(build, "test_model_goldens")
    worst = collections.OrderedDict()
    for name, file, *distances in re.findall(r"^\S+\s+(\S+)\s+(GGUF|HF)\s+prefill (\S+)\s+chunks of 7 (\S+)\s+token by token (\S+)", text, re.M):
        worst[name, file] = max(worst.get((name, file), 0), *map(float, distances))
    for (name, file), distance in worst.items():
        print(f"| {name} | {file} | {distance:.1e} | {result(name, distance <= 1e-4)} |")
    if not sound:
        failed.append("test_model_goldens")


def vocabularies(build, folder):
    table("llama.cpp's vocabularies, id by id against its own .out files", "vocabulary", "texts with the same ids", "result")
    done = subprocess.run([sys.executable, str(TREE / "tests/tools/compare_vocabularies.py"), str(build / "nibble"), folder],
                          capture_output=True, text=True)
    print(done.stdout.rsplit("\n", 2)[0] + "\n\n" + done.stdout.rsplit("\n", 2)[1])
    if done.returncode:
        failed.append("vocabularies")


def main():
    parser = argparse.ArgumentParser(usage=__doc__.split("usage: ")[1])
    parser.add_argument("--build", default=str(TREE / "build/release"))
    parser.add_argument("--vocabularies")
    a = parser.parse_args()
    build = pathlib.Path(a.build).resolve()
    kinds(build)
    words(build)
    blocks(build)
    families(build)
    if a.vocabularies:
        vocabularies(build, a.vocabularies)
    print(f"\nFailed: {', '.join(failed) if failed else 'none'}.")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
