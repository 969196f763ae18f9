#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Ids of the reference tokenizers, for the golden file and for a comparison with nibble, id by id.

References: llama.cpp's llama-tokenize on the GGUF files (and on GGUF files made here of Qwen3's vocabulary, once with
the pre-tokenizer qwen2, once with llama-bpe), and the package tokenizers on tokenizer.json files (Qwen3's own; those
of SmolLM2 and Gemma 3 made here of the GGUF files' vocabularies, Llama 3's pipeline on Qwen3's vocabulary).

usage: make_tokenizer_golden.py --llama-tokenize PROGRAM --smollm2 GGUF --gemma3 GGUF --qwen3 DIRECTORY
                                --wikitext FILE --work DIRECTORY [--nibble PROGRAM] [--out GOLDEN.json]

WORK keeps the models that are made. Without --out only the comparison is printed; its exit code is 1 when ids differ.
Needs: tokenizers, gguf, transformers (for generate_merges).
"""
import argparse
import hashlib
import json
import pathlib
import subprocess
import sys
import time

import gguf
import tokenizers
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers.convert_slow_tokenizer import generate_merges

HERE = pathlib.Path(__file__).resolve().parent


def gguf_field(reader, name):
    return reader.fields["tokenizer.ggml." + name].contents()


def add_tokens(tok, tokens, types):
    for token, kind in zip(tokens, types):
        if kind in (2, 3):
            tok.add_special_tokens([AddedToken(token, normalized=False, special=True)])
        elif kind == 4:
            tok.add_tokens([AddedToken(token, normalized=False, special=False)])


def smollm2_json(path, folder):
    reader = gguf.GGUFReader(path)
    tokens, types = gguf_field(reader, "tokens"), gguf_field(reader, "token_type")
    merges = [tuple(m.split(" ")) for m in gguf_field(reader, "merges")]
    tok = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                 pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tok.decoder = decoders.ByteLevel()
    add_tokens(tok, tokens, types)
    return save(tok, folder)


def gemma3_json(path, folder):
    reader = gguf.GGUFReader(path)
    tokens, types = gguf_field(reader, "tokens"), gguf_field(reader, "token_type")
    vocab, scores = {t: i for i, t in enumerate(tokens)}, gguf_field(reader, "scores")
    # control and byte pieces take no part in merges; user-defined ones are found before
    apart = {t for t, kind in zip(tokens, types) if kind in (2, 3, 6)}
    merges = generate_merges(vocab, dict(zip(tokens, scores)), skip_tokens=apart)
    tok = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tok.normalizer = normalizers.Replace(" ", "\u2581")
    tok.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tok.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    add_tokens(tok, tokens, types)
    return save(tok, folder)


def llama3_root(qwen3):
    """Llama 3's pipeline (ignore_merges, groups of three digits, no normalizer) on Qwen3's vocabulary, to which
    pieces of two, three and four digits are added (Qwen3 has none, Llama 3 has all up to three)."""
    root = json.load(open(pathlib.Path(qwen3) / "tokenizer.json"))
    root["normalizer"] = None
    root["model"]["ignore_merges"] = True
    split = root["pre_tokenizer"]["pretokenizers"][0]["pattern"]
    split["Regex"] = split["Regex"].replace(r"|\p{N}|", r"|\p{N}{1,3}|")
    vocab, merges = root["model"]["vocab"], root["model"]["merges"]
    for digits, count in ((2, 100), (3, 1000), (4, 2000)):
        for n in range(count):
            piece = f"{n:0{digits}}"
            assert piece not in vocab
            vocab[piece] = len(vocab)
            merges.append([piece[:-1], piece[-1]])
    for k, token in enumerate(root["added_tokens"]):
        token["id"] = len(vocab) + k
    return root


def llama3_json(qwen3, folder):
    return save(Tokenizer.from_str(json.dumps(llama3_root(qwen3))), folder)


def flags_json(qwen3, folder):
    """Qwen3's pipeline with added tokens of every flag."""
    root = json.load(open(pathlib.Path(qwen3) / "tokenizer.json"))
    number = max(t["id"] for t in root["added_tokens"])
    for k, (content, lstrip, rstrip, normalized, special) in enumerate([
            ("<L>", 1, 0, 0, 1), ("<R>", 0, 1, 0, 1), ("<LR>", 1, 1, 0, 0), ("the", 0, 0, 1, 0), ("e\u0301t", 1, 0, 1, 1),
            ("\u212B", 0, 1, 1, 0), ("<", 0, 0, 0, 0), (" \n", 0, 1, 0, 0)]):
        root["added_tokens"].append({"id": number + 1 + k, "content": content, "single_word": False,
                                     "lstrip": bool(lstrip), "rstrip": bool(rstrip), "normalized": bool(normalized),
                                     "special": bool(special)})
    return save(Tokenizer.from_str(json.dumps(root)), folder)


def save(tok, folder):
    folder.mkdir(parents=True, exist_ok=True)
    tok.save(str(folder / "tokenizer.json"))
    return folder


def vocab_gguf(root, path, pre):
    """A GGUF file with nothing but the vocabulary of a tokenizer.json, as llama.cpp's converter writes it."""
    by_id = {i: (t, 1) for t, i in root["model"]["vocab"].items()}
    by_id.update({t["id"]: (t["content"], 3 if t["special"] else 4) for t in root["added_tokens"]})
    pieces = [by_id[i] for i in range(len(by_id))]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(64)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list([t for t, _ in pieces])
    writer.add_token_types([k for _, k in pieces])
    writer.add_token_merges([" ".join(m) for m in root["model"]["merges"]])
    writer.add_bos_token_id(151643)
    writer.add_eos_token_id(151645)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def ids_by_llama_cpp(program, model, data, special):
    command = [program, "-m", str(model), "--stdin", "--ids", "--no-bos", "--no-escape", "--log-disable"]
    done = subprocess.run(command + ([] if special else ["--no-parse-special"]), input=data, capture_output=True)
    if done.returncode:
        sys.exit(done.stderr.decode())
    return json.loads(done.stdout)


def ids_by_tokenizers(folder, data, special):
    tok = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tok.encode_special_tokens = not special
    text = data.decode("utf-8", errors="replace")
    start = time.perf_counter()
    ids = tok.encode(text, add_special_tokens=False).ids
    return ids, len(data) / 1e6 / (time.perf_counter() - start)


def ids_by_nibble(program, model, data, special):
    command = [program, "tokenize", str(model), "--ids", "--no-bos"] + ([] if special else ["--no-special"])
    done = subprocess.run(command, input=data, capture_output=True)
    if done.returncode:
        sys.exit(done.stderr.decode())
    return [int(x) for x in done.stdout.split()]


def entry(ids):
    return {"n": len(ids), "sha256": hashlib.sha256(" ".join(map(str, ids)).encode()).hexdigest()}


def differences(mine, reference):
    if mine == reference:
        return 0
    return abs(len(mine) - len(reference)) + sum(a != b for a, b in zip(mine, reference))


def main():
    parser = argparse.ArgumentParser()
    for name in ("llama-tokenize", "smollm2", "gemma3", "qwen3", "wikitext", "work"):
        parser.add_argument("--" + name, required=True)
    parser.add_argument("--nibble")
    parser.add_argument("--out")
    a = parser.parse_args()
    work = pathlib.Path(a.work)
    work.mkdir(parents=True, exist_ok=True)
    stress = subprocess.run([sys.executable, str(HERE / "make_stress_text.py")], check=True, capture_output=True).stdout
    texts = {"wikitext-2 test": pathlib.Path(a.wikitext).read_bytes(), "stress": stress}
    qwen3 = json.load(open(pathlib.Path(a.qwen3) / "tokenizer.json"))
    cases = [
        ("smollm2", "llama.cpp", a.smollm2),
        ("smollm2-json", "tokenizers", smollm2_json(a.smollm2, work / "smollm2-json")),
        ("gemma3", "llama.cpp", a.gemma3),
        ("gemma3-json", "tokenizers", gemma3_json(a.gemma3, work / "gemma3-json")),
        ("qwen3", "tokenizers", pathlib.Path(a.qwen3)),
        ("qwen3-gguf", "llama.cpp", vocab_gguf(qwen3, work / "qwen3.gguf", "qwen2")),
        ("llama3-gguf", "llama.cpp", vocab_gguf(llama3_root(a.qwen3), work / "llama3.gguf", "llama-bpe")),
        ("llama3-json", "tokenizers", llama3_json(a.qwen3, work / "llama3-json")),
        ("flags-json", "tokenizers", flags_json(a.qwen3, work / "flags-json")),
    ]
    golden = {"script": "tests/tools/make_tokenizer_golden.py",
              "versions": {"tokenizers": tokenizers.__version__, "transformers": transformers.__version__,
                           "gguf": "0.19.0", "llama.cpp": "sdist of llama-cpp-python 0.3.36"},
              "texts": {name: {"bytes": len(t), "sha256": hashlib.sha256(t).hexdigest()} for name, t in texts.items()},
              "ids": {}}
    worst = 0
    print("| model | reference | text | control tokens | ids | differences |\n| --- | --- | --- | --- | ---: | ---: |")
    for model, reference, path in cases:
        for text, data in texts.items():
            for special in (True, False):
                if reference == "tokenizers":
                    ids, _ = ids_by_tokenizers(path, data, special)
                else:
                    ids = ids_by_llama_cpp(a.llama_tokenize, path, data, special)
                mode = "parsed" if special else "as text"
                golden["ids"].setdefault(model, {}).setdefault(text, {})[mode] = {"reference": reference, **entry(ids)}
                found = "-"
                if a.nibble:
                    found = differences(ids_by_nibble(a.nibble, path, data, special), ids)
                    worst = max(worst, found)
                print(f"| {model} | {reference} | {text} | {mode} | {len(ids)} | {found} |", flush=True)
    if a.out:
        pathlib.Path(a.out).write_text(json.dumps(golden, indent=1) + "\n")
    sys.exit(1 if worst else 0)


if __name__ == "__main__":
    main()
