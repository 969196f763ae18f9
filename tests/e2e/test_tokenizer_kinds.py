# SPDX-License-Identifier: Apache-2.0
"""Small tokenizer.json files of every kind, id by id against the package `tokenizers`."""
import json

import pytest
from tokenizers import Regex, Tokenizer, pre_tokenizers

BYTES = {b: chr(b) for b in [*range(33, 127), *range(161, 173), *range(174, 256)]}
BYTES.update({b: chr(256 + i) for i, b in enumerate(b for b in range(256) if b not in BYTES)})
MARK = "▁"
SPECIAL = ["<s>", "</s>", "<|im_end|>"]
TEXT = ("The cat's 12 345  hats,\tI'LL sIt\n\n\r\n on ABCdef Éa e\u0301 \u00bd\u0663 ſ'ſ K\u212a ßSs ﬀ 漢字かな {x}{2} a-b_c [ok] ^$ aaa "
        "\u2167\u00a0\u3000 end  \U000105c0\U00031350\U0001f600\u200d")


def write(folder, pre_tokenizer, vocab, merges, model=None, **root):
    tokens = [{"id": len(vocab) + i, "content": s, "single_word": False, "lstrip": False, "rstrip": False,
               "normalized": False, "special": s != "<|im_end|>"} for i, s in enumerate(SPECIAL)]
    data = {"version": "1.0", "added_tokens": tokens, "normalizer": None, "pre_tokenizer": pre_tokenizer,
            "post_processor": None, "decoder": None,
            "model": {"type": "BPE", "unk_token": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                      "vocab": vocab, "merges": merges, **(model or {})}, **root}
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(data, ensure_ascii=False))
    return folder


def byte_level(folder, steps, **root):
    vocab = {BYTES[b]: b for b in range(256)}
    merges = [["a", "a"], ["Ġ", "c"], ["a", "t"], ["Ġc", "at"], ["'", "s"], ["1", "2"], ["Ġ", "Ġ"], ["Ċ", "Ċ"], ["A", "B"],
              ["AB", "C"], ["d", "e"], ["de", "f"], ["ABC", "def"], ["I", "t"], ["-", "b"], ["a", "-b"]]
    for left, right in merges:
        vocab.setdefault(left + right, len(vocab))
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return write(folder, {"type": "Sequence", "pretokenizers": [*steps, level]}, vocab, merges, **root)


def split(pattern, behavior="Isolated", invert=False, kind="Regex"):
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}


def check(nibble, folder, text=TEXT, front=()):
    """What is cut is seen through ids: no merge crosses a cut."""
    expected = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text, add_special_tokens=False).ids
    done = nibble("tokenize", folder, "--ids", stdin=text)
    assert [int(x) for x in done.stdout.split()] == [*front, *expected]


# Each is read otherwise by PCRE2, Python or JavaScript, or by an older table of Unicode.
DIALECT = [
    r"[a-z&&[^aeiou]]+", r"[\p{L}&&[^\p{Lu}]]+", r"a{2}{1}|\S", r"(?:a{1,2}){2}|[^a]+", r"a{,2}", r"\h+|\H", r"[[:upper:]]+",
    r"^.|.$", r"\A.+|\n", r"\S+\Z", r"(?m:T.+?s)", r"(?i:ss|the)", r"(?i)[k]+", r"(?i:'s|'t|'ll)|\p{L}+", r"\w+|\W", r"\bs?\w",
    r"\p{^L}+", r"\P{N}+", r"[^\P{L}]+", r"\d{1,3}|\D+", r"[\]x]+", r"[]x]+", r"[\d\p{Lu}]+", r"\x41\x{42}C", r"\p{Han}+|\p{Hiragana}",
    r"(?>a+)a|.", r"a++|.", r"a*+b|a", r"(?<=c)at|(?<!c)a", r"(?=\d)", r"(?:)", r"\p{M}|\p{Nl}|\p{Zs}+", r"\u{0041}|x", r"\R|x",
    r"[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}|.",
]


@pytest.mark.parametrize("pattern", DIALECT)
def test_split_patterns_mean_the_same(nibble, tmp_path, pattern):
    """Or are refused in words: never other ids."""
    folder = byte_level(tmp_path / "t", [split(pattern)])
    try:
        pre_tokenizers.Split(Regex(pattern), "isolated")
    except Exception:  # noqa: BLE001 (tokenizers raises no other kind)
        done = nibble("tokenize", folder, "--ids", stdin=TEXT, check=False)
        assert done.returncode == 1 and "Split pattern" in done.stderr
        return
    check(nibble, folder)


@pytest.mark.parametrize("pattern, why", [(r"(?i:\p{Lu}+)", "case is ignored"), (r"a\Kb", r"\K"), (r"\Ga", r"\G"), (r"(?x: a b)", "an option"),
                                          (r"(?<n>a)\k<n>", "named")])
def test_split_patterns_refused_in_words(nibble, tmp_path, pattern, why):
    done = nibble("tokenize", byte_level(tmp_path / "t", [split(pattern)]), "--ids", stdin="a", check=False)
    assert done.returncode == 1 and why in done.stderr and "Split pattern" in done.stderr


@pytest.mark.parametrize("invert", [False, True])
@pytest.mark.parametrize("behavior", ["Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"])
def test_what_becomes_of_matches(nibble, tmp_path, behavior, invert):
    check(nibble, byte_level(tmp_path / "t", [split(r"\s|a", behavior, invert), split("c", behavior, kind="String")]),
          TEXT + " aa caaat  cat")


def sentence_piece(folder, scheme, cut, **more):
    names = ["<unk>", *(f"<0x{b:02X}>" for b in range(256)), MARK, "a", "c", "t", "e", "h", f"{MARK}t", "he", f"{MARK}the", f"{MARK}c", "at",
             MARK + MARK, f"a{MARK}"]
    merges = [[MARK, "t"], ["h", "e"], [f"{MARK}t", "he"], [MARK, "c"], ["a", "t"], [MARK, MARK], ["a", MARK]]
    step = {"type": "Metaspace", "replacement": MARK, "prepend_scheme": scheme, "split": cut}
    return write(folder, step, {t: i for i, t in enumerate(names)}, merges,
                 {"unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True}, **more)


@pytest.mark.parametrize("cut", [True, False])
@pytest.mark.parametrize("scheme", ["first", "always", "never"])
def test_metaspace(nibble, tmp_path, scheme, cut):
    """What transformers makes of Llama 2's tokenizer when it saves it again."""
    folder = sentence_piece(tmp_path / "t", scheme, cut)
    for text in ("the cat", " the  cata c", "</s>the cat<|im_end|> a", f"{MARK}the{MARK}", "é a", ""):
        check(nibble, folder, text)
    back = nibble("tokenize", folder, "--decode", stdin=nibble("tokenize", folder, "--ids", stdin="the cat").stdout).stdout
    assert back == "the cat"


def template(*single):
    parts = [{"Sequence": {"id": "A", "type_id": 0}} if s == "A" else {"SpecialToken": {"id": s, "type_id": 0}} for s in single]
    ids = {s: {"id": s, "ids": [257 + 15 + SPECIAL.index(s)], "tokens": [s]} for s in SPECIAL[:2]}
    return {"type": "TemplateProcessing", "single": parts, "pair": [*parts, {"Sequence": {"id": "B", "type_id": 1}}], "special_tokens": ids}


@pytest.mark.parametrize("single, front", [(("<s>", "A"), 1), (("<s>", "A", "</s>"), 1), (("A", "</s>"), 0)])
def test_an_end_behind_the_text_is_no_part_of_a_prompt(nibble, tmp_path, single, front):
    folder = byte_level(tmp_path / "t", [split(r"\s+|\S+")], post_processor=template(*single))
    begin = Tokenizer.from_file(str(folder / "tokenizer.json")).token_to_id("<s>")
    check(nibble, folder, "Hi", [begin] * front)
