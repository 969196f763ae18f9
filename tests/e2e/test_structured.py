# SPDX-License-Identifier: Apache-2.0
"""Structured output against Python's jsonschema and re (tests/tools/check_structured.py): the documents of
tests/golden/text/shapes.json, and random answers over real vocabularies, which all must have their shape."""
import subprocess
import sys

import pytest

from conftest import TREE, data_path, model_path

WORDS = {"smollm2": lambda: model_path("smollm2"), "qwen3": lambda: data_path("qwen3-tokenizer")}


@pytest.fixture(scope="session")
def check():
    built = subprocess.run([TREE / "scripts/build", "release", "bench_structured"], capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr

    def call(*arguments):
        command = [sys.executable, TREE / "tests/tools/check_structured.py", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return call


def test_documents(check):
    assert check("docs").endswith(" documents, 0 findings\n")


@pytest.mark.parametrize("words", list(WORDS))
def test_random_answers_have_their_shape(check, words):
    assert ": 0 findings" in check("walks", WORDS[words](), 600, 7)
