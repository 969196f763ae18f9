#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Write tests/golden/text/chat.json: conversations as jinja2 renders them with each chat template.

The templates are those of tests/golden/text/templates (written for the tests) and two models' own: SmolLM2's out of
its GGUF file and Qwen3's out of tokenizer_config.json, with the ids that their tokenizers give.

usage: make_chat_golden.py --smollm2 GGUF --qwen3 DIRECTORY
Needs: jinja2, tokenizers, gguf, transformers.
"""
import argparse
import json
import pathlib
import random

import gguf
import jinja2
import tokenizers
from jinja2.sandbox import ImmutableSandboxedEnvironment

TREE = pathlib.Path(__file__).resolve().parents[2]
PIECES = ["Hello", " world", "\n", "\n\n", "  ", "\u00e9", "<think>\nwhy\n</think>\n\nso", "<think></think>x", "</think>",
          "<tool_response>", "a</tool_response>", "123", "\u00a0", "\t", "What?", "", '"q"', "{% x %}", "\u3000end"]


def conversations():
    rng = random.Random(5)

    def content():
        return "".join(rng.choice(PIECES) for _ in range(rng.randrange(6)))

    out = [[{"role": "user", "content": "Hello"}], [{"role": "system", "content": "Be brief."}],
           [{"role": "assistant", "content": "first"}, {"role": "user", "content": "x"}]]
    for k in range(37):
        turns = [{"role": "system", "content": content()}] if rng.random() < 0.4 else []
        turns += [{"role": ("user", "assistant")[i % 2], "content": content()} for i in range(rng.randint(1, 5))]
        if k % 12 == 11:
            turns = [turns[-1], *turns]
        out.append(turns)
    return out


def environment():
    # as transformers sets it up
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)

    def refuse(message):
        raise jinja2.exceptions.TemplateError(message)

    env.globals["raise_exception"] = refuse
    return env


def render(template, turns):
    try:
        return environment().from_string(template).render(messages=turns, add_generation_prompt=True, bos_token="<bos>",
                                                          eos_token="</s>")
    except jinja2.exceptions.TemplateError:
        return None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--smollm2", required=True)
    parser.add_argument("--qwen3", required=True)
    a = parser.parse_args()
    talks = conversations()
    golden = {"script": "tests/tools/make_chat_golden.py",
              "versions": {"jinja2": jinja2.__version__, "tokenizers": tokenizers.__version__},
              "conversations": talks, "texts": {}, "ids": {}}
    for path in sorted((TREE / "tests/golden/text/templates").iterdir()):
        golden["texts"][path.stem] = [render(path.read_text(), t) for t in talks]
    reader = gguf.GGUFReader(a.smollm2)
    qwen3 = pathlib.Path(a.qwen3)
    own = {"smollm2": reader.fields["tokenizer.chat_template"].contents(),
           "qwen3": json.loads((qwen3 / "tokenizer_config.json").read_text())["chat_template"]}
    tok = {"qwen3": tokenizers.Tokenizer.from_file(str(qwen3 / "tokenizer.json")), "smollm2": smollm2(a.smollm2)}
    for name, template in own.items():
        golden["ids"][name] = [tok[name].encode(render(template, t), add_special_tokens=False).ids for t in talks]
    text = json.dumps(golden, separators=(",", ":")).replace('],[', '],\n[').replace('","', '",\n"')
    (TREE / "tests/golden/text/chat.json").write_text(text + "\n")


def smollm2(path):
    import make_tokenizer_golden as golden  # beside this file
    import tempfile
    with tempfile.TemporaryDirectory() as folder:
        golden.smollm2_json(path, pathlib.Path(folder))
        return tokenizers.Tokenizer.from_file(str(pathlib.Path(folder) / "tokenizer.json"))


if __name__ == "__main__":
    main()
