#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compare `nibble template` with jinja2 as transformers sets it up, template by template, text for text.

usage: compare_templates.py --nibble PROGRAM [--verbose] TEMPLATE.jinja|DIRECTORY...
Prints a Markdown table and exits 1 when a text differs. Needs: jinja2 and transformers.

Public templates: `pip download --no-binary llama-cpp-python --no-deps llama-cpp-python` gives an archive whose
vendor/llama.cpp/models/templates holds some seventy.
"""
import argparse
import collections
import contextlib
import json
import pathlib
import subprocess
import sys
import tempfile

import jinja2
import jinja2.sandbox
import transformers
from transformers.utils import chat_template_utils

from conversations import CONVERSATIONS

BOS, EOS = "<BOS>", "<EOS>"


def oracle(source, talk):
    """(text, None), or (None, what was raised)."""
    try:
        template = chat_template_utils._compile_jinja_template(source)
        messages = chat_template_utils._alias_reasoning_fields(talk["messages"])
        variables = {"bos_token": BOS, "eos_token": EOS, **talk.get("kwargs", {})}
        return template.render(messages=messages, tools=talk.get("tools"), documents=None,
                               add_generation_prompt=not talk.get("no_generation_prompt", False), **variables), None
    except Exception as problem:  # whatever a template raises
        return None, problem


@contextlib.contextmanager
def changing_values():
    """jinja2 without the ban of transformers' sandbox on list.append and its like."""
    ban, jinja2.sandbox.modifies_known_mutable = jinja2.sandbox.modifies_known_mutable, lambda *_: False
    try:
        yield
    finally:
        jinja2.sandbox.modifies_known_mutable = ban


def nibble(program, template, talk, folder):
    messages = folder / "messages.json"
    messages.write_text(json.dumps(talk["messages"], ensure_ascii=False))
    arguments = [program, "template", template, "--messages", messages, "--bos", BOS, "--eos", EOS]
    if "tools" in talk:
        (folder / "tools.json").write_text(json.dumps(talk["tools"], ensure_ascii=False))
        arguments += ["--tools", folder / "tools.json"]
    if "kwargs" in talk:
        arguments += ["--kwargs", json.dumps(talk["kwargs"])]
    if talk.get("no_generation_prompt"):
        arguments.append("--no-generation-prompt")
    done = subprocess.run(arguments, capture_output=True, timeout=60)
    if done.returncode == 0:
        return done.stdout.decode(), None
    return None, (done.returncode, done.stderr.decode())


def judge(expected, raised, text, said):
    if text is not None:
        return "same text" if raised is None and text == expected else "different"
    if raised is None or said[0] != 1:
        return "different"
    own = isinstance(raised, jinja2.exceptions.TemplateError) and type(raised) is jinja2.exceptions.TemplateError
    if own:  # raise_exception
        words = " ".join(str(raised).split())[:300]
        return "same refusal" if words in " ".join(said[1].split()) else "different"
    return "both fail"


def compare(program, path, verbose):
    source = path.read_text()
    counts, notes = collections.Counter(), []
    with tempfile.TemporaryDirectory() as folder:
        for talk in CONVERSATIONS:
            expected, raised = oracle(source, talk)
            beyond = isinstance(raised, jinja2.exceptions.SecurityError)
            if beyond:
                with changing_values():
                    expected, raised = oracle(source, talk)
            text, said = nibble(program, path, talk, pathlib.Path(folder))
            verdict = judge(expected, raised, text, said)
            if beyond and verdict == "same text":
                verdict = "beyond the sandbox"
            counts[verdict] += 1
            if verdict == "different" or (verbose and verdict == "both fail"):
                notes.append(f"{path.name}: {talk['name']}: {verdict}\n  jinja2: {raised!r} {expected!r}\n"
                             f"  nibble: {said!r} {text!r}")
    return counts, notes


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--nibble", required=True)
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("templates", nargs="+", type=pathlib.Path)
    a = parser.parse_args()
    paths = [p for given in a.templates for p in (sorted(given.glob("*.jinja")) if given.is_dir() else [given])]
    total = collections.Counter()
    kinds = ["same text", "beyond the sandbox", "same refusal", "both fail", "different"]
    print(f"jinja2 {jinja2.__version__}, transformers {transformers.__version__}, {len(paths)} templates, "
          f"{len(CONVERSATIONS)} conversations\n")
    print("| template | " + " | ".join(kinds) + " |\n| --- | " + " | ".join("---:" for _ in kinds) + " |")
    all_notes = []
    for path in paths:
        counts, notes = compare(a.nibble, path, a.verbose)
        total += counts
        all_notes += notes
        print(f"| {path.stem} | " + " | ".join(str(counts[k]) for k in kinds) + " |")
    print("| **all** | " + " | ".join(f"**{total[k]}**" for k in kinds) + " |")
    for note in all_notes:
        print(note, file=sys.stderr)
    return 1 if total["different"] else 0


if __name__ == "__main__":
    sys.exit(main())
