# SPDX-License-Identifier: Apache-2.0
"""nibble template: what it prints and refuses; and every template that can be had against jinja2.

The public templates are those of llama.cpp (README.md, "Data for the tests"); they are not committed.
"""
import json
import pathlib
import re
import subprocess
import sys

import pytest

from conftest import data_path

TREE = pathlib.Path(__file__).resolve().parents[2]
TALK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi <|im_end|>"}]
FAMILIES = TREE / "tests/golden/text/families"
CHATML = TREE / "tests/golden/text/templates/chatml.jinja"


def write(path, value):
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


@pytest.fixture
def talk(tmp_path):
    return write(tmp_path / "talk.json", TALK)


def test_prints_the_prompt_and_nothing_else(nibble, talk):
    expected = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi <|im_end|><|im_end|>\n"
    done = nibble("template", CHATML, "--messages", talk)
    assert done.stdout == expected + "<|im_start|>assistant\n" and done.stderr == ""
    assert nibble("template", CHATML, "--messages", talk, "--no-generation-prompt").stdout == expected
    assert nibble("template", CHATML, "--messages", "-", stdin=json.dumps(TALK)).stdout == done.stdout


def test_variables(nibble, talk, tmp_path):
    source = write(tmp_path / "t.jinja", "{{ bos_token }}{{ eos_token }}{{ tools|length }}{{ x }}{{ y is defined }}")
    tools = write(tmp_path / "tools.json", [{"type": "function"}])
    done = nibble("template", source, "--messages", talk, "--tools", tools, "--kwargs", '{"x": [1]}', "--bos", "<s>",
                  "--eos", "</s>")
    assert done.stdout == "<s></s>1[1]False"


def test_who_drops_tools_says_so(nibble, talk, tmp_path):
    tools = write(tmp_path / "tools.json", [{"type": "function", "function": {"name": "now", "parameters": {}}}])
    done = nibble("template", CHATML, "--messages", talk, "--tools", tools)
    assert done.stderr == "nibble: the chat template says nothing of tools: they are left out\n"
    assert done.stdout == nibble("template", CHATML, "--messages", talk).stdout
    assert nibble("template", FAMILIES / "hermes.jinja", "--messages", talk, "--tools", tools).stderr == ""


def test_of_a_model(nibble, talk, tree):
    model = tree / "tests/golden/models/llama-words"
    text = nibble("template", model, "--messages", talk).stdout
    assert "Be brief." in text and text == nibble("template", model, "--messages", talk, "--bos", "B").stdout


def test_the_templates_own_words(nibble, talk, tmp_path):
    source = write(tmp_path / "t.jinja", "{{ raise_exception('Only user roles, please') }}")
    done = nibble("template", source, "--messages", talk, check=False)
    assert done.returncode == 1 and done.stdout == "" and done.stderr == "nibble: Only user roles, please\n"


@pytest.mark.parametrize("source, words", [
    ("{% if %}", "chat template, line 1"),
    ("{{ messages.x.y }}", "'list object' has no attribute 'x'"),
    ("{% include 'x' %}", "'include' is not supported"),
])
def test_bad_templates(nibble, talk, tmp_path, source, words):
    done = nibble("template", write(tmp_path / "t.jinja", source), "--messages", talk, check=False)
    assert done.returncode == 1 and words in done.stderr and done.stdout == ""


@pytest.mark.parametrize("arguments, words", [
    (["--messages", "BAD"], "not valid JSON"),
    (["--messages", "TALK", "--tools", "BAD"], "not valid JSON"),
    (["--messages", "TALK", "--kwargs", "{"], "--kwargs: not valid JSON"),
    (["--messages", "TALK", "--kwargs", "[]"], "no object"),
    (["--messages", "OBJECT"], "without messages"),
])
def test_bad_inputs(nibble, tmp_path, arguments, words):
    write(tmp_path / "BAD", "{")
    write(tmp_path / "OBJECT", {})
    write(tmp_path / "TALK", TALK)
    done = nibble("template", CHATML, *arguments, check=False, cwd=tmp_path)
    assert done.returncode == 1 and words in done.stderr and done.stdout == ""


TOOLS = [{"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}]


def test_what_is_in_an_answer(nibble, talk, tmp_path):
    tools = write(tmp_path / "tools.json", TOOLS)
    text = "<think>\nso\n</think>\n\nI look.\n<tool_call>\n{\"name\": \"now\", \"arguments\": {\"a\": 1}}\n</tool_call>"
    arguments = ["template", FAMILIES / "hermes.jinja", "--messages", talk, "--answer", write(tmp_path / "a.txt", text)]
    found = json.loads(nibble(*arguments, "--tools", tools).stdout)
    assert found == {"role": "assistant", "content": "I look.", "reasoning_content": "so", "tool_calls": [
        {"id": "", "type": "function", "function": {"name": "now", "arguments": '{"a": 1}'}}]}
    assert "tool_calls" not in json.loads(nibble(*arguments).stdout)  # none was offered
    (tmp_path / "a.txt").write_bytes(b"\xff")
    assert nibble(*arguments, check=False).returncode == 1


def test_llamacpp_pairs_are_counted(nibble_path):
    root = data_path("llama.cpp")
    script = TREE / "tests/tools/compare_answers.py"
    done = subprocess.run([sys.executable, script, "--nibble", nibble_path, root], capture_output=True, text=True,
                          check=True)
    whole = done.stdout.split("| **all** |")[1].split("\n")[0]
    same, but_space, other_text, other_calls, refused = map(int, re.findall(r"\d+", whole))
    assert same + but_space >= 255 and other_text + other_calls + refused <= 45  # docs/results/templates.md says which


def compare(nibble_path, folder):
    pytest.importorskip("transformers")
    script = TREE / "tests/tools/compare_templates.py"
    done = subprocess.run([sys.executable, script, "--nibble", nibble_path, folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_own_templates_equal_jinja2(nibble_path):
    compare(nibble_path, TREE / "tests/golden/text/templates")


def test_family_templates_equal_jinja2(nibble_path):
    compare(nibble_path, FAMILIES)


def test_public_templates_equal_jinja2(nibble_path):
    compare(nibble_path, data_path("llama.cpp/models/templates"))
