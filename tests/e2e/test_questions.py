# SPDX-License-Identifier: Apache-2.0
"""The ten questions of bench/questions, asked of a file that `nibble quantize` makes: it answers them.

How often, beside the source and other 4-bit files, is what the bench measures (docs/results/questions.md). Here a file
that rambles is told from one that answers.
"""
import re
import subprocess
import sys


def test_a_quantized_file_answers(nibble, smollm2_weighted, tree):
    lines = (tree / "tests" / "e2e" / "questions.txt").read_text().splitlines()
    assert len(lines) == 10
    facts = 0
    for question, fact in (line.split(" | ", 1) for line in lines):
        answer = nibble("run", smollm2_weighted, question, "--temperature", 0, "--max-tokens", 64).stdout
        facts += re.search(fact, answer, re.IGNORECASE) is not None
    assert facts >= 5  # 7 where this was written, 9 of the source


def test_the_bench_goes_on_where_it_was(nibble_path, smollm2, tree, tmp_path):
    """Answers that were kept are not asked for again; one that was cut off is, and comes out as it was."""
    command = [sys.executable, str(tree / "bench" / "questions"), "--methods", "", "--seeds", "1", "--task-seeds", "0", "--no-write",
               "--nibble", str(nibble_path), "--work", str(tmp_path), "--llama-build", str(tmp_path), "--threads", "2"]
    log = tmp_path / "answers.jsonl"
    first = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines = [line for line in log.read_text().splitlines() if line]
    assert len(lines) == 20  # greedy, and one seed
    log.write_text("\n".join(lines[:18]) + "\n" + lines[18][:40])
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == first
    assert [line for line in log.read_text().splitlines() if line] == [*lines[:18], lines[18][:40], *lines[18:]]
