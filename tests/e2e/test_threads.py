# SPDX-License-Identifier: Apache-2.0
"""More threads than the system gives: one sentence and exit code 1, whoever makes the team. The limit is one of
address space, since one of processes does not bind root."""
import pathlib
import re
import resource
import subprocess

import pytest

TINY = pathlib.Path(__file__).resolve().parents[1] / "golden" / "models" / "llama-words"
THREADS = 512
STACK = 8 << 20
ROOM = 768 << 20


def limit():
    resource.setrlimit(resource.RLIMIT_STACK, (STACK, resource.getrlimit(resource.RLIMIT_STACK)[1]))
    resource.setrlimit(resource.RLIMIT_AS, (ROOM, ROOM))


@pytest.mark.parametrize("arguments", [
    ["run", TINY, "ab", "--no-chat", "--max-tokens", "1"],
    ["bench", TINY, "--n-prompt", "8", "--n-gen", "1", "--repetitions", "1"],
    ["quantize", TINY, "{out}"],
], ids=lambda arguments: arguments[0])
def test_refused_in_words(nibble_path, tmp_path, arguments):
    if b"__asan_init" in nibble_path.read_bytes():
        pytest.skip("sanitizers take all address space")
    if 0 <= resource.getrlimit(resource.RLIMIT_STACK)[1] < STACK:
        pytest.skip("stacks are limited here, so more threads fit")
    command = [nibble_path, *[str(a).format(out=tmp_path / "out") for a in arguments], "--threads", str(THREADS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, preexec_fn=limit)
    words = re.fullmatch(rf"nibble: {THREADS} threads were asked for and the system gives (\d+) \(.*\); ask for no more "
                         r"than that\n", done.stderr)
    assert words, done.stderr
    assert 1 <= int(words[1]) <= ROOM // STACK
    assert (done.returncode, done.stdout, list(tmp_path.iterdir())) == (1, "", [])
