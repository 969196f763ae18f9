# SPDX-License-Identifier: Apache-2.0
"""Guesses: an answer with them is the answer without, and what cannot guess is refused."""
import pytest


@pytest.fixture(scope="session")
def tiny(tree):
    return tree / "tests/golden/models/llama-words"


@pytest.mark.parametrize("temperature", [0, 1])
def test_the_same_answer(nibble, tiny, temperature):
    def answer(*more):
        return nibble("run", tiny, "the cat the cat the", "--no-chat", "--temperature", temperature, "--seed", 5,
                      "--max-tokens", 60, "--ignore-eos", *more).stdout

    plain = answer()
    assert len(plain) > 20
    assert answer("--speculate", "lookup") == plain
    assert answer("--draft", tiny) == plain


def test_refusals(nibble, tiny, tree):
    done = nibble("run", tiny, "a", "--draft", tiny, "--speculate", "lookup", check=False)
    assert done.returncode == 2 and "two ways to guess" in done.stderr
    done = nibble("run", tiny, "a", "--draft", tree / "README.md", check=False)
    assert done.returncode == 1 and "README.md" in done.stderr
