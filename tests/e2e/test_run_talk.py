# SPDX-License-Identifier: Apache-2.0
"""nibble run with a chat template of one's own, tools and reasoning. What the model says is held by a grammar."""
import json
import shutil

import pytest

TOOLS = [{"type": "function", "function": {"name": "now", "description": "Time.", "parameters": {"type": "object", "properties": {}}}}]
ANSWER = '<think>\nso it is\n</think>\n\nI look.\n<tool_call>\n{"name": "now", "arguments": {"zone": "UTC"}}\n</tool_call>'


@pytest.fixture
def talk(nibble, tree, tmp_path):
    def call(*arguments, says=None, family="hermes", **more):
        if says:
            (tmp_path / "says.gbnf").write_text("root ::= " + json.dumps(says) + "\n")
            arguments += ("--grammar", tmp_path / "says.gbnf")
        template = tree / f"tests/golden/text/families/{family}.jinja"
        return nibble("run", tree / "tests/golden/models/llama-words", "the cat", "--temperature", 0, "--chat-template", template,
                      *arguments, **more)
    (tmp_path / "tools.json").write_text(json.dumps(TOOLS))
    return call


def test_reasoning_is_hidden_or_shown(talk):
    text = "<think>\nso it is\n</think>\n\nThe cat."
    assert talk(says=text).stdout == "The cat.\n"  # no terminal
    assert talk("--reasoning", "hide", says=text).stdout == "The cat.\n"
    assert talk("--reasoning", "show", says=text).stdout == "so it is\nThe cat.\n"


def test_reasoning_has_a_budget(talk):
    """This template's prompt opens the reasoning, which a random network never closes."""
    hidden = talk("--reasoning", "hide", "--max-tokens", 20, "--ignore-eos", family="qwen3-coder").stdout
    assert hidden == "\n"
    assert talk("--reasoning", 5, "--max-tokens", 20, "--ignore-eos", family="qwen3-coder").stdout.strip()


@pytest.mark.parametrize("begin, end", [("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("<seed:think>", "</seed:think>")])
def test_a_shape_waits_for_the_end_of_reasoning(nibble, tree, tmp_path, begin, end):
    """Whatever the family calls it: this template's prompt opens the reasoning, which a random network does not close."""
    (tmp_path / "t.jinja").write_text("{% for m in messages %}{{ m.role }}: {% if m.reasoning_content %}" + begin +
                                      "{{ m.reasoning_content }}" + end + "{% endif %}{{ m.content }}\n{% endfor %}"
                                      "{% if add_generation_prompt %}assistant: " + begin + "{% endif %}")
    (tmp_path / "says.gbnf").write_text('root ::= "yes"\n')
    flags = ["run", tree / "tests/golden/models/llama-words", "the cat", "--chat-template", tmp_path / "t.jinja", "-n", 20,
             "--grammar", tmp_path / "says.gbnf"]
    hidden = nibble(*flags, "--reasoning", "hide", check=False)
    assert hidden.stdout == "\n" and hidden.returncode == 1 and "before its shape was complete" in hidden.stderr
    assert nibble(*flags, "--reasoning", "show", check=False).stdout.strip() != "yes"


def test_calls_are_shown_and_results_taken(talk, tmp_path):
    shown = "I look.\nnow({\"zone\": \"UTC\"})\n"
    assert talk("--tools", tmp_path / "tools.json", says=ANSWER).stdout == shown  # no result: it ends
    twice = talk("--tools", tmp_path / "tools.json", says=ANSWER, stdin="noon\n").stdout
    assert twice.startswith(shown) and len(twice) > len(shown)  # the model went on


def test_without_tools_a_call_is_text(talk):
    assert talk(says=ANSWER).stdout == ANSWER.split("\n\n", 1)[1] + "\n"


def test_named_templates(nibble, tree):
    model = tree / "tests/golden/models/llama-words"
    nibble("run", model, "the cat", "--chat-template", "chatml", "--max-tokens", 2)
    done = nibble("run", model, "the cat", "--chat-template", "nothing", check=False)
    assert done.returncode == 1 and "chatml, llama3, gemma" in done.stderr


def test_templates_that_a_model_names(nibble, tree, tmp_path):
    """In tokenizer_config.json, and in files of their own."""
    model = tmp_path / "model"
    shutil.copytree(tree / "tests/golden/models/llama-words", model)
    settings = json.loads((model / "tokenizer_config.json").read_text())
    named = [{"name": "default", "template": settings["chat_template"]}, {"name": "strict", "template": "{{ raise_exception('in a list') }}"}]
    (model / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": named}))
    (model / "additional_chat_templates").mkdir()
    (model / "additional_chat_templates/rag.jinja").write_text("{{ raise_exception('in a file') }}")
    for name, words in [("strict", "in a list"), ("rag", "in a file")]:
        assert nibble("run", model, "x", "--chat-template", name, check=False).stderr == f"nibble: {words}\n"
    nibble("run", model, "x", "-n", 1)
    done = nibble("run", model, "x", "--chat-template", "../rag", check=False)
    assert done.returncode == 1 and "neither a template of the model's nor one of chatml" in done.stderr


@pytest.mark.parametrize("text, words", [("{}", "expected a JSON list of tools"), ("[", "not valid JSON"), ("[]", "expected a JSON list")])
def test_bad_tools(talk, tmp_path, text, words):
    (tmp_path / "tools.json").write_text(text)
    done = talk("--tools", tmp_path / "tools.json", check=False)
    assert done.returncode == 1 and words in done.stderr


def test_a_template_without_calls_takes_no_tools(nibble, tree, tmp_path):
    (tmp_path / "tools.json").write_text(json.dumps(TOOLS))
    done = nibble("run", tree / "tests/golden/models/llama-words", "x", "--tools", tmp_path / "tools.json", check=False)
    assert done.returncode == 1 and "calls of tools" in done.stderr


def test_the_templates_words_are_the_error(nibble, tree, tmp_path):
    (tmp_path / "t.jinja").write_text("{{ raise_exception('Not today') }}")
    done = nibble("run", tree / "tests/golden/models/llama-words", "x", "--chat-template", tmp_path / "t.jinja", check=False)
    assert done.returncode == 1 and done.stderr == "nibble: Not today\n"
