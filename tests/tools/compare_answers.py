#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compare nibble with the public pairs of llama.cpp: templates and prompts (tests/test-chat-template.cpp), models' texts
and the messages in them (tests/test-chat.cpp).

usage: compare_answers.py --nibble PROGRAM LLAMA_CPP      (README.md, "Data for the tests": $NIBBLE_DATA/llama.cpp)
Prints the counts as Markdown and every difference on standard error.
"""
import argparse
import collections
import json
import pathlib
import subprocess
import sys
import tempfile

import llamacpp_cases

TALK = [("system", "You are a helpful assistant"), ("user", "Hello"), ("assistant", "Hi there"), ("user", "Who are you"),
        ("assistant", "   I am an assistant   "), ("user", "Another question")]


def run(program, folder, template, messages, *more, tools=None):
    (folder / "messages.json").write_text(json.dumps(messages))
    arguments = [program, "template", template, "--messages", folder / "messages.json", *more]
    if tools:
        (folder / "tools.json").write_text(json.dumps(tools))
        arguments += ["--tools", folder / "tools.json"]
    return subprocess.run(arguments, capture_output=True, text=True)


def compare_templates(program, root, folder, notes):
    counts = collections.Counter()
    for name, source, expected, bos, eos, extra in llamacpp_cases.templates(root / "tests/test-chat-template.cpp"):
        (folder / "t.jinja").write_text(source)
        turns = [{"role": role, "content": content} for role, content in TALK + [tuple(x) for x in extra]]
        done = run(program, folder, folder / "t.jinja", turns, "--bos", bos, "--eos", eos)
        expected = expected.replace("\r\n", "\n")
        # llama.cpp's server adds BOS when it tokenizes and takes the template's own away
        verdict = ("same prompt" if done.stdout == expected else
                   "same but for a BOS in front" if bos and done.stdout == bos + expected else
                   "refused" if done.returncode else "different")
        counts[verdict] += 1
        if verdict in ("refused", "different"):
            notes.append(f"{name}: {verdict}\n  llama.cpp: {expected!r}\n  nibble:    {done.stdout!r} {done.stderr}")
    return counts


def same_calls(expected, found):
    if len(expected) != len(found):
        return False
    for (name, arguments, call_id), call in zip(expected, found):
        got = call["function"]
        try:
            same = json.loads(arguments or "{}") == json.loads(got["arguments"])
        except ValueError:
            same = arguments == got["arguments"]
        if name != got["name"] or not same:
            return False
    return True


def judge(test, answer):
    expected, content = test["expected"], answer["content"]
    reasoning, calls = answer.get("reasoning_content", ""), answer.get("tool_calls", [])
    if not same_calls(expected["calls"], calls):
        return "other calls"
    if expected["reasoning"] == reasoning and expected["content"] == content:
        return "same message"
    if expected["reasoning"].strip() == reasoning.strip() and expected["content"].strip() == content.strip():
        return "same but for white space at the ends"
    return "other text"


def compare_answers(program, root, folder, notes):
    counts, skipped = collections.defaultdict(collections.Counter), collections.Counter()
    for test in llamacpp_cases.answers(root / "tests/test-chat.cpp"):
        template = pathlib.Path(test["template"]).stem
        why = test["skipped"]
        if not why and not test["auto"] and "think" in (test["text"] + str(test["expected"])).lower():
            why = "reasoning left in the text on purpose"
        if why:
            skipped[why] += 1
            continue
        (folder / "answer.txt").write_text(test["text"])
        done = run(program, folder, root / test["template"], [{"role": "user", "content": "Hey there!"}], "--bos", "<s>", "--eos",
                   "</s>", "--kwargs", json.dumps({"enable_thinking": test["thinking"]}), "--answer", folder / "answer.txt",
                   tools=test["tools"])
        verdict = judge(test, json.loads(done.stdout)) if done.returncode == 0 else "refused"
        counts[template][verdict] += 1
        if verdict in ("refused", "other calls", "other text"):
            notes.append(f"{template}: {verdict}\n  text:      {test['text']!r}\n  llama.cpp: {test['expected']}\n"
                         f"  nibble:    {done.stdout}{done.stderr}")
    return counts, skipped


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--nibble", required=True)
    parser.add_argument("root", type=pathlib.Path)
    a = parser.parse_args()
    notes = []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        prompts = compare_templates(a.nibble, a.root, folder, notes)
        answers, skipped = compare_answers(a.nibble, a.root, folder, notes)
    print("test-chat-template.cpp: " + ", ".join(f"{n} {what}" for what, n in prompts.most_common()) + "\n")
    kinds = ["same message", "same but for white space at the ends", "other text", "other calls", "refused"]
    print("| template of test-chat.cpp | " + " | ".join(kinds) + " |\n| --- | " + " | ".join("---:" for _ in kinds) + " |")
    total = collections.Counter()
    for template, counts in sorted(answers.items()):
        total += counts
        print(f"| {template} | " + " | ".join(str(counts[k]) for k in kinds) + " |")
    print("| **all** | " + " | ".join(f"**{total[k]}**" for k in kinds) + " |")
    print("\nnot compared: " + ", ".join(f"{n} ({why})" for why, n in skipped.most_common()))
    print("\n".join(notes), file=sys.stderr)


if __name__ == "__main__":
    main()
