#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Write the seeds of the text room's fuzz targets, tests/fuzz/text/corpus_*: small sound inputs of every kind.

usage: make_text_seeds.py
"""
import json
import os
import pathlib
import shutil

TREE = pathlib.Path(__file__).resolve().parents[2]
FUZZ = TREE / "tests" / "fuzz" / "text"
WORDS_1 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def letters():
    """GPT-2's letter of every byte."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    out, extra = {}, 0
    for byte in range(256):
        if byte in plain:
            out[byte] = chr(byte)
        else:
            out[byte] = chr(256 + extra)
            extra += 1
    return out


LETTER = letters()


def token(content, number, special=True, **flags):
    return {"id": number, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": special, **flags}


def byte_level(split, normalizer=None, ignore_merges=False, post=None):
    vocab = {LETTER[b]: b for b in range(256)}
    merges = [["h", "e"], ["l", "l"], ["he", "ll"], ["hell", "o"], ["\u0120", "h"], ["\u00c3", "\u00a9"], ["1", "2"]]
    for left, right in merges:
        vocab.setdefault(left + right, len(vocab))
    n = len(vocab)
    return {"version": "1.0", "added_tokens": [token("<|im_start|>", n), token("<|im_end|>", n + 1, rstrip=True),
                                               token("<think>", n + 2, special=False, lstrip=True),
                                               token("hello", vocab["hello"], special=False, normalized=True)],
            "normalizer": normalizer, "pre_tokenizer": split, "post_processor": post, "decoder": {"type": "ByteLevel"},
            "model": {"type": "BPE", "unk_token": None, "fuse_unk": False, "byte_fallback": False,
                      "ignore_merges": ignore_merges, "vocab": vocab, "merges": merges}}


def sentence_piece(normalizer, byte_fallback=True):
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2}
    if byte_fallback:
        vocab.update({f"<0x{b:02X}>": 3 + b for b in range(256)})
    merges = [["\u2581", "h"], ["e", "l"], ["\u2581h", "el"], ["l", "o"], ["\u2581", "\u2581"]]
    for c in "\u2581helowrd12":
        vocab.setdefault(c, len(vocab))
    for left, right in merges:
        vocab.setdefault(left + right, len(vocab))
    return {"added_tokens": [token("<unk>", 0), token("<s>", 1), token("</s>", 2)], "normalizer": normalizer,
            "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False},
            "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
                                                                        {"Sequence": {"id": "A", "type_id": 0}}]},
            "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": byte_fallback,
                      "vocab": vocab, "merges": [" ".join(m) for m in merges]}}


def json_seeds():
    bytes_only = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    digits = {"type": "Digits", "individual_digits": True}
    gpt2 = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}

    def split(pattern):
        return {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}, bytes_only]}

    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    return {
        "smollm2": byte_level({"type": "Sequence", "pretokenizers": [digits, gpt2]}),
        "qwen3": byte_level(split(WORDS_1), normalizer={"type": "NFC"}, post=bytes_only),
        "llama3": byte_level(split(WORDS_1.replace(r"\p{N}|", r"\p{N}{1,3}|")), ignore_merges=True),
        "pattern": byte_level(split(r"\p{Lu}?\p{Ll}+|[0-9]{2}|\s+")),
        "gemma": sentence_piece(replace),
        "llama2": sentence_piece({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"}, replace]}),
        "unknowns": sentence_piece(replace, byte_fallback=False),
    }


def text(value):
    value = value.encode() if isinstance(value, str) else value
    return bytes([len(value)]) + value


def gguf_seed(flags, pieces, merges, ids=(255, 255, 255, 255, 255)):
    pieces = pieces + [("", 1, 0)] * (-len(pieces) % 4)
    out = bytes([flags, 0, *ids, len(pieces) // 4])
    for spelling, kind, score in pieces:
        out += text(spelling) + bytes([kind, score % 256])
    return out + bytes([len(merges)]) + b"".join(map(text, merges)) + b"hello  hello<|im_end|>\n\xff 12"


def gguf_seeds():
    byte_pieces = [("he", 1, 0), ("ll", 1, 0), ("hell", 1, 0), ("hello", 1, 0), ("<|im_start|>", 3, 0), ("<|im_end|>", 3, 0),
                   ("<user>", 4, 0), ("<unk>", 2, 0)]
    merges = ["h e", "l l", "he ll", "hell o"]
    scores = [("<unk>", 2, 0), ("<s>", 3, 0), ("</s>", 3, 0), *[(f"<0x{b:02X}>", 6, 0) for b in range(256)],
              *[(c, 1, -20) for c in "\u2581helo"], ("\u2581h", 1, -1), ("el", 1, -2), ("\u2581hel", 1, -3), ("lo", 1, -4),
              ("\n\n", 4, 0), ("\n", 4, 0), ("<tag>", 4, 0), ("\u2581\u2581", 1, -5)]
    return {
        "smollm": gguf_seed(32 | 0 << 1, byte_pieces, merges),
        "qwen2": gguf_seed(32 | 1 << 1, byte_pieces, merges),
        "llama-bpe": gguf_seed(32 | 2 << 1 | 16, byte_pieces, merges, ids=(4, 5, 255, 255, 255)),
        "llama": gguf_seed(1 | 8, scores, [], ids=(1, 2, 255, 0, 255)),
        "gemma": gguf_seed(1, scores, [], ids=(1, 2, 255, 0, 255)),
    }


GRAMMARS = {
    "classes": 'root ::= "a" b | "c"\nb ::= [x-z]+ # tail',
    "groups": 'root ::= ("a"\n  | "b")* "!"',
    "escapes": 'root ::= "\\x41\\n" . "\\""',
    "counts": 'root ::= x{2} x{0,1} y{,2} z{1,}\nx ::= "x"\ny ::= "y"\nz ::= "z"',
    "recursion": 'root ::= "(" root ")" | ""',
    "many": "root ::= [^a-c\\n]{3,300}",
    "left": 'root ::= root "a" | "b"',
}
PATTERNS = {
    "word": "abc", "branches": "a|bc|", "counts": "(?:ab){2,3}x{2}y{1,}z{0,2}?", "classes": "[a-c^-]+[^a-c\\d]",
    "escapes": r"\d\w\s\.\x41\u00e9\D\W\S", "properties": r"\p{L}+\p{N}", "far": r"[\u{1F600}-\u{1F64F}]",
    "empty": "(a?){3}b(a*){2,5}", "anchors": "(^a|b)c$", "refused": "(?<n>x)(?=y)",
}


def shape_seeds():
    shapes = json.loads((TREE / "tests/golden/text/shapes.json").read_text())
    named = {kind: {s["name"].replace(" ", "-"): s for s in shapes if s["kind"] == kind} for kind in ("schema", "regex", "gbnf")}
    schemas = {name: json.dumps(s["schema"], ensure_ascii=False) for name, s in named["schema"].items()}
    patterns = {**PATTERNS, **{name: s["text"] for name, s in named["regex"].items()}}
    grammars = {**GRAMMARS, **{name: s["text"] for name, s in named["gbnf"].items()}}
    return (("schema", schemas), ("regex", patterns), ("gbnf", grammars))


# per format of src/text/chat_format.c, in its order: an answer with a call
ANSWERS = [
    '<|channel|>analysis<|message|>so<|end|><|start|>assistant<|channel|>commentary to=functions.now <|constrain|>json'
    '<|message|>{"a": 1}<|call|>',
    "Hi\n<tool_call>\n<function=now>\n<parameter=a>\n1\n</parameter>\n<parameter=b>\n2\n</parameter>\n</function>\n</tool_call>",
    "<seed:tool_call>\n<function=now>\n<parameter=a>1</parameter>\n</function>\n</seed:tool_call>",
    '<think>\nso\n</think>\n\nHi\n<tool_call>\n{"name": "now", "arguments": {"a": "</tool_call>"}}\n</tool_call>',
    "<think>so</think><tool_call>now\n<arg_key>a</arg_key>\n<arg_value>1</arg_value>\n</tool_call>",
    '<\uff5cDSML\uff5ctool_calls>\n<\uff5cDSML\uff5cinvoke name="now">\n<\uff5cDSML\uff5cparameter name="b" string="false">1'
    '</\uff5cDSML\uff5cparameter>\n</\uff5cDSML\uff5cinvoke>\n</\uff5cDSML\uff5ctool_calls>',
    '<\uff5cDSML\uff5cfunction_calls>\n<\uff5cDSML\uff5cinvoke name="now">\n</\uff5cDSML\uff5cinvoke>\n</\uff5cDSML\uff5cfunction_calls>',
    "<\uff5ctool\u2581calls\u2581begin\uff5c><\uff5ctool\u2581call\u2581begin\uff5c>function<\uff5ctool\u2581sep\uff5c>now\n```json\n{}\n```"
    "<\uff5ctool\u2581call\u2581end\uff5c><\uff5ctool\u2581calls\u2581end\uff5c>",
    "<\uff5ctool\u2581calls\u2581begin\uff5c><\uff5ctool\u2581call\u2581begin\uff5c>now<\uff5ctool\u2581sep\uff5c>{}<\uff5ctool\u2581call\u2581end\uff5c>"
    "<\uff5ctool\u2581calls\u2581end\uff5c>",
    "<|tool_calls_section_begin|><|tool_call_begin|>functions.now:0<|tool_call_argument_begin|>{}<|tool_call_end|>"
    "<|tool_calls_section_end|>",
    '<|open|>response<|sep|>Hi<|close|>response<|sep|><|open|>tools<|sep|><|open|>call tool="now" index="1"<|sep|><|open|>argument '
    'key="a" type="string"<|sep|>x<|close|>argument<|sep|><|close|>call<|sep|><|close|>tools<|sep|>',
    "<tool_calls:opensource>\n<tool_call:opensource>now<tool_sep:opensource>\n</tool_call:opensource>\n</tool_calls:opensource>",
    '<minimax:tool_call>\n<invoke name="now">\n<parameter name="b">3</parameter>\n</invoke>\n</minimax:tool_call>',
    ']<]minimax[>[<tool_call>\n]<]minimax[>[<invoke name="now">]<]minimax[>[<c>]<]minimax[>[<item>1]<]minimax[>[</item>'
    ']<]minimax[>[</c>]<]minimax[>[</invoke>\n]<]minimax[>[</tool_call>',
    '<tool_calls>\n{"name": "now", "arguments": {}}\n{"name": "now"}\n</tool_calls>',
    'Hi<|tool_call>call:now{a:<|"|>x<|"|>,b:[1,{c:true}]}<tool_call|>',
    '[THINK]so[/THINK][TOOL_CALLS]now[CALL_ID]abcdefghi[ARGS]{"a": [1]}[TOOL_CALLS] [{"name": "now", "arguments": "{}"}]',
    '<|START_ACTION|>[\n    {"tool_call_id": "0", "tool_name": "now", "parameters": {}}\n]<|END_ACTION|>',
    '<TOOLCALL>[{"name": "now", "arguments": {}}]</TOOLCALL>',
    '<function=now>{"a": "</function>"}</function>',
    '<function name="now"><param name="a">1</param></function>',
    '<|function_call|>{"name": "now", "arguments": {}}',
    '{"name": "now", "parameters": {"a": 1}}',
]
MESSAGES = [
    {"messages": [{"role": "user", "content": "Hi"}]},
    {"messages": [{"role": "system", "content": [{"type": "text", "text": "a"}]},
                  {"role": "assistant", "content": None, "reasoning": "r", "tool_calls": [
                      {"id": "1", "function": {"name": "f", "arguments": '{"a": [1, 2.5, null]}'}}]}],
     "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}], "kwargs": {"x": [1, "a"]}},
]


def main():
    shapes = [(name, {k: v.encode() for k, v in seeds.items()}) for name, seeds in shape_seeds()]
    for name, seeds in (("tokenizer_json", {k: json.dumps(v, ensure_ascii=False).encode() + (
            b'\0{"bos_token": "<s>", "eos_token": {"content": "<|im_end|>"}}' if k != "qwen3" else b"")
            for k, v in json_seeds().items()}),
                        ("tokenizer_gguf", gguf_seeds()),
                        ("chat_answer", {f"{k:02}": bytes([k, 1 + 2 + 16 * (k % 6)]) + a.encode() for k, a in enumerate(ANSWERS)}),
                        ("chat_messages", {str(k): json.dumps(m).encode() for k, m in enumerate(MESSAGES)}),
                        ("chat_template", {**{p.stem: p.read_bytes() for p in (TREE / "tests/golden/text/templates").iterdir()},
                                           **{f"family_{p.stem}": p.read_bytes()
                                              for p in (TREE / "tests/golden/text/families").iterdir()}}),
                        *shapes):
        folder = FUZZ / f"corpus_{name}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for seed, data in sorted(seeds.items()):
            (folder / seed).write_bytes(data)
        for twin in ["corpus_json_lists"] * (name == "tokenizer_json"):
            if not (FUZZ / twin).is_symlink():
                os.symlink(folder.name, FUZZ / twin)


if __name__ == "__main__":
    main()
