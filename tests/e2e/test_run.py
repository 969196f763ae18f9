# SPDX-License-Identifier: Apache-2.0
"""nibble run: on a tiny random model (its text is noise, its rules are the same), and once on a real one."""
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import time

import pytest

TINY = "tests/golden/models/llama-words"


@pytest.fixture(scope="session")
def tiny(tree):
    return tree / TINY


def greedy(nibble, model, *more, prompt="the cat", **keywords):
    return nibble("run", model, prompt, "--no-chat", "--temperature", 0, "--max-tokens", 12, *more, **keywords)


def test_same_seed_same_text(nibble, tiny):
    def text(seed):
        return nibble("run", tiny, "the cat", "--no-chat", "--seed", seed, "--max-tokens", 8, "--temperature", 1.5,
                      "--top-k", 0, "--top-p", 1, "--min-p", 0, "--ignore-eos").stdout

    assert text(1) == text(1)
    assert len({text(seed) for seed in range(4)}) > 1


def test_text_does_not_depend_on_threads(nibble, tiny):
    assert greedy(nibble, tiny, "--threads", 1).stdout == greedy(nibble, tiny, "--threads", 3).stdout


def test_only_the_text_on_standard_output(nibble, tiny):
    quiet = greedy(nibble, tiny)
    assert quiet.stderr == ""
    loud = greedy(nibble, tiny, "--verbose")
    assert loud.stdout == quiet.stdout
    for line in ("model ", "compute ", "memory ", "prompt ", "answer "):
        assert re.search(rf"^{line}", loud.stderr, re.M)
    assert "KV cache bf16" in loud.stderr
    assert "\033" not in loud.stdout + loud.stderr  # no colours but on a terminal


def test_max_tokens(nibble, tiny):
    loud = greedy(nibble, tiny, "--ignore-eos", "--verbose")
    assert re.search(r"^answer +12 tokens", loud.stderr, re.M)


@pytest.mark.parametrize("flags", [["--activations", "f32"], ["--activations", "int8"], ["--kv-cache-dtype", "fp8"],
                                   ["--kv-cache-dtype", "fp32"], ["--cpu-features", "scalar"],
                                   ["--cpu-features", "avx2"]])
def test_computing_flags(nibble, tiny, flags):
    done = greedy(nibble, tiny, "--verbose", *flags)
    wanted = {"scalar": "cpu scalar", "avx2": "cpu avx2"}.get(flags[1], flags[1])
    if flags[1] == "avx2" and "avx2" not in open("/proc/cpuinfo").read():
        pytest.skip("this machine has no AVX2")
    assert wanted in done.stderr


def test_model_without_template(nibble, tiny, tmp_path):
    model = tmp_path / "base-model"
    shutil.copytree(tiny, model)
    settings = json.loads((model / "tokenizer_config.json").read_text())
    del settings["chat_template"]
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    done = nibble("run", model, "hello", "--chat", check=False)
    assert done.returncode == 1 and not done.stdout
    assert "--no-chat" in done.stderr and "template" in done.stderr
    done = nibble("run", model, "hello", "--temperature", 0, "--max-tokens", 4)
    assert done.stderr == f"nibble: {model}: the model has no chat template; it continues the prompt as it is\n"
    assert done.stdout == nibble("run", model, "hello", "--temperature", 0, "--max-tokens", 4, "--no-chat").stdout
    assert greedy(nibble, model).stdout == greedy(nibble, tiny).stdout


def test_prompt_too_long(nibble, tiny):
    done = greedy(nibble, tiny, "--max-model-len", 16, prompt="the cat " * 40, check=False)
    assert done.returncode == 1
    assert re.fullmatch(r"nibble: a prompt of \d+ tokens; with --max-model-len 16 it can have at most 15\n", done.stderr)


def test_no_longer_than_the_model(nibble, tiny):
    assert greedy(nibble, tiny, "--max-model-len", 512).returncode == 0
    done = greedy(nibble, tiny, "--max-model-len", 513, check=False)
    assert done.returncode == 1
    assert done.stderr == f"nibble: {tiny}: --max-model-len is 513, and the model was made for 512 tokens\n"


def test_top_p_zero_is_the_strictest(nibble, tiny):
    strict = nibble("run", tiny, "the cat", "--no-chat", "--temperature", 5, "--top-k", 0, "--min-p", 0, "--top-p", 0,
                    "--max-tokens", 12, "--seed", 3)
    assert strict.stdout == greedy(nibble, tiny).stdout


SCHEMA = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 8}, "n": {"type": "integer", "minimum": 3}},
          "required": ["name", "n"], "additionalProperties": False}


def test_answers_have_the_shape(nibble, tiny, tmp_path):
    """A model of random weights writes what the schema allows; the file says the same as the flag."""
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(SCHEMA))
    flags = ["--no-chat", "--seed", "5", "--max-tokens", "200"]
    done = nibble("run", tiny, "the cat", *flags, "--json-schema", json.dumps(SCHEMA))
    document = json.loads(done.stdout)
    assert list(document) == ["name", "n"] and len(document["name"]) <= 8 and document["n"] >= 3
    assert nibble("run", tiny, "the cat", *flags, "--json-schema", path).stdout == done.stdout
    (tmp_path / "g.gbnf").write_text('root ::= [x-z]{3} " and " ("yes" | "no")')
    done = nibble("run", tiny, "the cat", *flags, "--grammar", tmp_path / "g.gbnf")
    assert re.fullmatch("[xyz]{3} and (yes|no)\n", done.stdout)


@pytest.mark.parametrize("flag, text, words", [
    ("--json-schema", '{"not": {}}', 'not at ""'),
    ("--json-schema", "{", "not valid JSON"),
    ("--json-schema", "nowhere.json", "cannot be opened"),
    ("--grammar", "nowhere.gbnf", "cannot be opened"),
])
def test_shapes_that_are_refused(nibble, tiny, flag, text, words):
    done = nibble("run", tiny, "the cat", "--no-chat", flag, text, check=False)
    assert done.returncode == 1 and words in done.stderr and done.stdout == ""


def test_failed_turn_does_not_end_the_chat(nibble, tiny):
    done = nibble("run", tiny, "--no-chat", "--temperature", 0, "--max-tokens", 12, "--max-model-len", 64,
                  stdin="the cat " * 100 + "\nthe cat\n")
    assert done.stdout == greedy(nibble, tiny).stdout
    assert re.match(r"nibble: .* 64 ", done.stderr)


def test_lines_from_a_pipe(nibble, tiny):
    """Without a terminal each line is a prompt; \\q ends."""
    one = greedy(nibble, tiny).stdout
    done = nibble("run", tiny, "--no-chat", "--temperature", 0, "--max-tokens", 12,
                  stdin="the cat\n\nthe cat\n\\q\nthe cat\n")
    assert done.stdout == one * 2


def test_chat_keeps_the_conversation(nibble, tiny):
    """The second prompt holds the first turn and its answer."""
    done = nibble("run", tiny, "--chat", "--temperature", 0, "--max-tokens", 5, "--ignore-eos", "--verbose",
                  stdin="the cat\nthe cat\n")
    first, second = (int(n) for n in re.findall(r"^prompt +(\d+) tokens", done.stderr, re.M))
    assert second >= 2 * first


def test_long_chat_drops_old_turns(nibble, tiny):
    done = nibble("run", tiny, "--chat", "--temperature", 0, "--max-tokens", 8, "--ignore-eos", "--max-model-len", 200,
                  stdin="the cat sat on the mat\n" * 8)
    assert "left out: 200 tokens are all that fit" in done.stderr


# ---- on a terminal ----

class Terminal:
    """nibble on a pseudo-terminal."""

    def __init__(self, program, arguments, data_home):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ.update(XDG_DATA_HOME=str(data_home), TERM="xterm", NO_COLOR="1", LC_ALL="C.UTF-8")
            os.execv(program, [str(program), *map(str, arguments)])
        self.seen = ""

    def wait_for(self, text, seconds=60, typing=""):
        """What came up to and with TEXT; TYPING is typed now and every two seconds: a key may fall between answer
        and prompt and be lost."""
        end, due = time.monotonic() + seconds, 0
        while text not in self.seen:
            if typing and time.monotonic() > due:
                due = time.monotonic() + 2
                self.type(typing)
            ready, _, _ = select.select([self.fd], [], [], max(0, min(1, end - time.monotonic())))
            assert time.monotonic() < end, f"waited for {text!r}, saw {self.seen!r}"
            if not ready:
                continue
            try:
                self.seen += os.read(self.fd, 4096).decode(errors="replace")
            except OSError:
                pytest.fail(f"ended before {text!r}: {self.seen!r}")
        head, _, self.seen = self.seen.partition(text)
        return head + text

    def type(self, text):
        os.write(self.fd, text.encode())

    def exit_code(self, seconds=30, typing=""):
        """TYPING is typed every second: a key that comes before the prompt listens is lost."""
        end, due = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            try:
                if typing and time.monotonic() > due:
                    due = time.monotonic() + 1
                    self.type(typing)
                if select.select([self.fd], [], [], 0.1)[0]:
                    os.read(self.fd, 4096)
            except OSError:
                pass
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                os.close(self.fd)
                return os.waitstatus_to_exitcode(status)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        pytest.fail("did not end")


@pytest.fixture
def terminal(nibble_path, tiny, tmp_path):
    def start(*flags):
        return Terminal(nibble_path, ["run", tiny, "--no-chat", "--temperature", 0, *flags], tmp_path)

    return start


def test_terminal_prompt_history_and_quit(terminal, tmp_path):
    session = terminal("--max-tokens", 4)
    session.wait_for("text> ")
    session.type("the cat\n")
    session.wait_for("the cat")
    session.wait_for("text> ")
    session.type("\\q\n")
    assert session.exit_code() == 0
    assert "cat" in (tmp_path / "nibble" / "history").read_text()
    again = terminal("--max-tokens", 4)
    again.wait_for("text> ")
    again.type("\033[A\033[A")  # the line before \q
    again.wait_for("the cat")
    again.type("\x15\x04")  # Ctrl-U clears it, Ctrl-D leaves
    assert again.exit_code() == 0


def test_terminal_interrupt_stops_the_answer_only(terminal):
    session = terminal("--ignore-eos", "--max-tokens", 1000000, "--max-model-len", 500)
    session.wait_for("text> ")
    session.type("the\n")
    time.sleep(0.2)
    session.wait_for("text> ", typing="\x03")
    session.wait_for("text> ", typing="\x03")  # at the prompt: a new line
    assert session.exit_code(typing="\x04") == 0


def test_terminal_leaves_by_a_key_typed_early(terminal):
    session = terminal("--max-tokens", 4)
    session.type("\x04")
    assert session.exit_code() == 0


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupt_of_one_prompt(nibble_path, smollm2, stop):
    process = subprocess.Popen([nibble_path, "run", smollm2, "Tell me a long story.", "--ignore-eos"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.read(8)  # it has begun
    process.send_signal(stop)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + stop
    assert errors.decode().strip() == "nibble: interrupted"


def test_model_cut_short_while_in_use(nibble_path, tiny, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(tiny, model)
    process = subprocess.Popen([nibble_path, "run", model, "--no-chat", "--verbose"], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not process.stderr.readline().startswith("seed"):  # then it is open and waits for a prompt
        pass
    os.truncate(model / "model.safetensors", 0)
    out, errors = process.communicate("the cat\n", timeout=30)
    assert process.returncode == 0 and out, errors  # the engine keeps nothing of the file


# ---- a real model ----

def test_real_model_answers(nibble, smollm2):
    done = nibble("run", smollm2, "What is the capital of France?", "--temperature", 0, "--max-tokens", 32)
    assert "Paris" in done.stdout
