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


def test_as_llamacpp_means_them(nibble, tiny, tmp_path):
    """-n -1: as long as it goes; -c 0: all that the model was made for. An empty -f is not a prompt without it."""
    limit = json.loads((tiny / "config.json").read_text())["max_position_embeddings"]
    told = json.loads(nibble("run", tiny, "the cat", "--no-chat", "--temp", 0, "--ignore-eos", "-n", -1, "-c", 0, "--json").stdout)
    assert told["tokens"]["prompt"] + told["tokens"]["generated"] == limit, told
    (tmp_path / "empty").write_text("")
    done = nibble("run", tiny, "the cat", "-f", tmp_path / "empty", check=False)
    assert done.returncode == 1 and "empty: an empty file" in done.stderr


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


def test_top_p_zero_is_off_as_in_the_api(nibble, tiny):
    def text(*flags):
        return nibble("run", tiny, "the cat", "--no-chat", "--temp", 5, "--top-k", 0, "--min-p", 0, "-n", 12, "-s", 3, *flags).stdout

    assert text("--top-p", 0) == text("--top-p", 1) != text("--top-p", 1e-6) == greedy(nibble, tiny).stdout


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
    cut = nibble("run", tiny, "the cat", *flags[:3], "--max-tokens", "2", "--json-schema", path, check=False)
    assert cut.returncode == 1 and "after 2 tokens, before its shape was complete" in cut.stderr
    (tmp_path / "g.gbnf").write_text('root ::= [x-z]{3} " and " ("yes" | "no")')
    done = nibble("run", tiny, "the cat", *flags, "--grammar", tmp_path / "g.gbnf")
    assert re.fullmatch("[xyz]{3} and (yes|no)\n", done.stdout)


@pytest.mark.parametrize("flag, text, words", [
    ("--json-schema", '{"not": {}}', 'not at "#"'),
    ("--json-schema", "{", "not valid JSON"),
    ("--json-schema", "nowhere.json", "cannot be opened"),
    ("--grammar", "nowhere.gbnf", "cannot be opened"),
])
def test_shapes_that_are_refused(nibble, tiny, flag, text, words):
    done = nibble("run", tiny, "the cat", "--no-chat", flag, text, check=False)
    assert done.returncode == 1 and words in done.stderr and done.stdout == ""


# ---- where the prompt comes from ----

def test_piped_text_is_one_prompt(nibble, tiny, tmp_path):
    (tmp_path / "p.txt").write_text("the cat\nsat\n")
    flags = ["--no-chat", "--temperature", 0, "--max-tokens", 12]
    wanted = greedy(nibble, tiny, prompt="the cat\nsat").stdout
    assert nibble("run", tiny, *flags, stdin="the cat\nsat\n").stdout == wanted
    assert nibble("run", tiny, "-", *flags, stdin="the cat\nsat\n").stdout == wanted
    assert nibble("run", tiny, *flags, "-f", "-", stdin="the cat\nsat\n").stdout == wanted
    assert nibble("run", tiny, *flags, "-f", tmp_path / "p.txt").stdout == wanted


def test_words_first_then_the_document(nibble, tiny, tmp_path):
    (tmp_path / "d.txt").write_text("a mat\n")
    flags = ["--no-chat", "--temperature", 0, "--max-tokens", 12]
    wanted = greedy(nibble, tiny, prompt="the cat\n\na mat").stdout
    assert nibble("run", tiny, "the cat", *flags, stdin="a mat").stdout == wanted
    assert nibble("run", tiny, "the cat", *flags, "-f", tmp_path / "d.txt").stdout == wanted
    assert nibble("run", tiny, "the cat", *flags, stdin="").stdout == greedy(nibble, tiny).stdout


def test_llama_cpp_flags(nibble, tiny):
    done = nibble("run", "-m", tiny, "-p", "the cat", "-n", 12, "-c", 64, "-s", 7, "-t", 1, "--temp", 0, "--no-chat")
    assert done.stdout == greedy(nibble, tiny).stdout


@pytest.mark.parametrize("arguments, stdin, words", [
    ([], "", "the prompt is empty; expected some text"),
    ([" "], None, "the prompt is empty; expected some text"),
    (["-"], " \n", "the prompt is empty; expected some text"),
    ([], "a\0b", "standard input: expected a text in UTF-8; byte 1 is no part of one"),
    (["-f", "nowhere"], None, "nowhere: cannot be opened: No such file or directory"),
    (["--no-chat"], "the cat " * 400, "a prompt of 1602 tokens; with --max-model-len 512 it can have at most 511"),
])
def test_prompts_that_are_refused(nibble, tiny, arguments, stdin, words):
    done = nibble("run", tiny, *arguments, stdin=stdin, check=False)
    assert done.returncode == 1 and not done.stdout and done.stderr == f"nibble: {words}\n"


def test_json(nibble, tiny):
    done = nibble("run", tiny, "the cat", "--no-chat", "--temp", 0, "-n", 12, "-s", 5, "--json")
    said = json.loads(done.stdout)
    assert said["message"] == {"role": "assistant", "content": greedy(nibble, tiny).stdout.rstrip("\n")}
    assert said["finish_reason"] == "length" and said["seed"] == 5 and said["tokens"]["generated"] == 12
    said = json.loads(nibble("run", tiny, "the cat", "-n", 3, "--json").stdout)
    assert said["message"]["role"] == "assistant" and said["tokens"]["generated"] == 3


def test_stop_texts(nibble, tiny, tmp_path):
    (tmp_path / "g.gbnf").write_text('root ::= "one two three four"')
    flags = ["run", tiny, "the cat", "--no-chat", "-t", 1, "--grammar", tmp_path / "g.gbnf"]
    assert nibble(*flags).stdout == "one two three four\n"
    assert nibble(*flags, "--stop", " four", "--stop", " three").stdout == "one two\n"


def test_system_message(nibble, tiny):
    prompt = r"^prompt +(\d+) tokens"
    plain = nibble("run", tiny, "the cat", "-n", 2, "-v").stderr
    told = nibble("run", tiny, "the cat", "-n", 2, "-v", "--system", "a mat").stderr
    assert int(re.search(prompt, told, re.M)[1]) > int(re.search(prompt, plain, re.M)[1])


def test_an_answer_in_circles_is_stopped(nibble, tiny, tmp_path):
    (tmp_path / "g.gbnf").write_text('root ::= "abc"{300}')
    flags = ["run", tiny, "the cat", "--no-chat", "-t", 1, "--grammar", tmp_path / "g.gbnf"]
    done = nibble(*flags, check=False)
    assert len(done.stdout) < 300 and done.returncode == 1 and re.search(r"repeats the same \d tokens? again and again", done.stderr)
    done = nibble(*flags, "--allow-repeats", check=False)
    assert len(done.stdout) > 400 and "all that fit" in done.stderr and "before its shape was complete" in done.stderr


def test_default_bound_of_an_answer(nibble, tiny, tmp_path):
    """Not ended by a circle, the model, or what fits."""
    model = tmp_path / "model"
    shutil.copytree(tiny, model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096}))
    done = nibble("run", model, "the cat", "--no-chat", "--ignore-eos", "-t", 1, "--temp", 0)
    assert done.stderr == "(the answer ends here, after 2048 tokens; --max-tokens allows more)\n"


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
    def start(*flags, chat="--no-chat"):
        return Terminal(nibble_path, ["run", tiny, chat, "--temperature", 0, *flags], tmp_path)

    return start


@pytest.fixture
def typed(terminal):
    """All that a chat shows while LINES are typed."""

    def call(*lines, flags=(), chat="--chat"):
        session = terminal(*flags, chat=chat)
        seen = session.wait_for("> ")
        for line in lines:
            session.type(line + "\r")
            seen += session.wait_for("\n") + session.wait_for("\033[?2004h") + session.wait_for("> ")
        session.type("\\q\r")
        assert session.exit_code() == 0
        return seen

    return call


PROMPT = r"prompt +(\d+) tokens(?:, (\d+) of them known)?"


def test_chat_keeps_the_conversation(typed):
    """The second prompt holds the first turn and its answer, and their pages are not computed again."""
    seen = typed("the cat " * 20, "the cat", flags=["--max-tokens", 5, "--ignore-eos", "--verbose"])
    (first, _), (second, known) = re.findall(PROMPT, seen)
    assert int(second) > int(first) > int(known) >= 64 * (int(first) // 64)


def test_failed_turn_does_not_end_the_chat(typed):
    seen = typed("the cat " * 100, "the cat", chat="--no-chat", flags=["--max-model-len", 64, "--max-tokens", 5, "--verbose"])
    assert "nibble: a prompt of 402 tokens; with --max-model-len 64 it can have at most 63" in seen
    assert len(re.findall(PROMPT, seen)) == 1


def test_long_chat_drops_old_turns_but_the_system_message(typed):
    flags = ["--max-tokens", 8, "--ignore-eos", "--max-model-len", 200, "--verbose", "--system", "a mat"]
    seen = typed(*["the cat sat on the mat"] * 5, "\\clear", "the cat", flags=flags)
    assert "left out: 200 tokens are all that fit" in seen
    plain = typed("the cat", flags=[*flags[:-2]])
    assert int(re.findall(PROMPT, seen)[-1][0]) > int(re.findall(PROMPT, plain)[-1][0])


def test_commands_of_a_chat(typed, tmp_path):
    path = tmp_path / "talk.json"
    seen = typed("\\help", "\\regen", "the cat", "\\regen", "\\system a mat", f"\\save {path}", "\\clear", f"\\load {path}",
                 "\\save", "\\clear now", "\\leave", flags=["--max-tokens", 4, "--seed", 6])
    for text in ("there is no question yet", "(seed 7)", "(3 messages)", "\\save takes FILE", "\\clear takes nothing behind it",
                 "there is no command \\leave: \\help lists them", "write the conversation"):
        assert text in seen, seen
    assert seen.count("KV cache") == 1 and "seed 6" in seen  # what computes is said once, and so is the seed
    talk = json.loads(path.read_text())
    assert [m["role"] for m in talk] == ["system", "user", "assistant"] and talk[1]["content"] == "the cat"


def test_loading_what_is_no_conversation(typed, tmp_path):
    (tmp_path / "bad.json").write_text('[{"role": 3}]')
    seen = typed(f"\\load {tmp_path}/bad.json", f"\\load {tmp_path}/nowhere")
    assert "expected a JSON list of messages" in seen and "cannot be opened" in seen


@pytest.mark.parametrize("keys", [
    "\033[200~the cat\rsat\r\033[201~\r",  # pasted; terminals send \r for newlines
    '"""the cat\rsat"""\r',
    '"""\rthe cat\rsat\r"""\r',
    "the cat\\\rsat\r",
])
def test_texts_of_several_lines(terminal, tmp_path, keys):
    session = terminal("--max-tokens", 2, chat="--chat")
    session.wait_for("> ")
    session.type(keys)
    session.type(f"\\save {tmp_path}/talk.json\r\\q\r")
    assert session.exit_code() == 0
    assert json.loads((tmp_path / "talk.json").read_text())[0]["content"] == "the cat\nsat"


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
    assert session.exit_code(typing="\x04") == 0


def test_terminal_interrupt_twice_leaves(terminal):
    session = terminal()
    session.wait_for("text> ")
    session.wait_for("(Ctrl-C again leaves)", typing="\x03")
    session.wait_for("text> ")
    assert session.exit_code(typing="\x03") == 0


def test_terminal_leaves_by_a_key_typed_early(terminal):
    session = terminal("--max-tokens", 4)
    session.type("\x04")
    assert session.exit_code() == 0


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupt_of_one_prompt(nibble_path, smollm2, stop):
    process = subprocess.Popen([nibble_path, "run", smollm2, "Tell me a long story.", "--ignore-eos"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               preexec_fn=lambda: signal.signal(stop, signal.SIG_DFL))  # the tests may be under nohup
    process.stdout.read(8)  # it has begun
    process.send_signal(stop)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + stop
    assert errors.decode().strip() == "nibble: interrupted"


def test_model_cut_short_while_in_use(nibble_path, tiny, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(tiny, model)
    session = Terminal(nibble_path, ["run", model, "--no-chat", "--max-tokens", 4, "--verbose"], tmp_path)
    session.wait_for("text> ")  # it is open and waits for a prompt
    os.truncate(model / "model.safetensors", 0)
    session.type("the cat\r")
    session.wait_for("answer   4 tokens")  # the engine keeps nothing of the file
    session.type("\\q\r")
    assert session.exit_code() == 0


# ---- a real model ----

def test_real_model_answers(nibble, smollm2):
    done = nibble("run", smollm2, "How many days are there in a week?", "--temperature", 0, "--max-tokens", 32)
    assert "7 days" in done.stdout
