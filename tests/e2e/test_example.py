# SPDX-License-Identifier: Apache-2.0
"""examples/hello.c, built against nibble.h and libnibble alone, answers with a tiny model and fails in words."""
import subprocess

import pytest


@pytest.fixture(scope="module")
def hello(tree, nibble_path, tmp_path_factory):
    program = tmp_path_factory.mktemp("example") / "hello"
    build = nibble_path.parent
    command = ["cc", "-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I", tree / "include",
               tree / "examples/hello.c", "-L", build, "-lnibble", "-Wl,-rpath," + str(build), "-o", program]
    subprocess.run([str(word) for word in command], check=True, timeout=60)

    def call(*arguments):
        return subprocess.run([program, *map(str, arguments)], capture_output=True, timeout=120)

    return call


def test_it_answers(hello, tree):
    done = hello(tree / "tests/golden/models/llama-words", "the ring")
    assert done.returncode == 0, done.stderr
    done.stdout.decode()  # whole UTF-8 characters, whatever a random network says
    assert b" tokens, " in done.stderr and b"failed" not in done.stderr


def test_it_fails_in_words(hello):
    done = hello("there-is-no-such-model", "the ring")
    assert done.returncode == 1 and b"there-is-no-such-model" in done.stderr
    assert hello().returncode == 2
