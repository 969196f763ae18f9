# SPDX-License-Identifier: Apache-2.0
"""nibble template: what it prints and refuses; and every template that can be had against jinja2.

The public templates are those of llama.cpp (README.md, "Data for the tests"); they are not committed.
"""
import json
import pathlib
import subprocess
import sys

import pytest

from conftest import data_path

TREE = pathlib.Path(__file__).resolve().parents[2]
TALK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi <|im_end|>"}]
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


def compare(nibble_path, folder):
    pytest.importorskip("transformers")
    script = TREE / "tests/tools/compare_templates.py"
    done = subprocess.run([sys.executable, script, "--nibble", nibble_path, folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_own_templates_equal_jinja2(nibble_path):
    compare(nibble_path, TREE / "tests/golden/text/templates")


def test_public_templates_equal_jinja2(nibble_path):
    compare(nibble_path, data_path("llama.cpp/models/templates"))
