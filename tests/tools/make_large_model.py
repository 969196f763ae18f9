#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes a Llama of random BF16 weights, as large as asked for, with a tokenizer of single bytes: for measuring
memory (docs/results/quantizer.md). Needs numpy.

usage: make_large_model.py DIRECTORY [--layers 24] [--dim 2048] [--ffn 8192] [--vocab 32000]
"""
import argparse
import json
import pathlib

import numpy as np

HEAD_DIM = 64


def shapes(args):
    """Name -> shape, in file order."""
    kv = args.dim // 4
    out = {"model.embed_tokens.weight": (args.vocab, args.dim), "model.norm.weight": (args.dim,)}
    for i in range(args.layers):
        p = f"model.layers.{i}."
        out.update({f"{p}input_layernorm.weight": (args.dim,), f"{p}post_attention_layernorm.weight": (args.dim,),
                    f"{p}self_attn.q_proj.weight": (args.dim, args.dim), f"{p}self_attn.k_proj.weight": (kv, args.dim),
                    f"{p}self_attn.v_proj.weight": (kv, args.dim), f"{p}self_attn.o_proj.weight": (args.dim, args.dim),
                    f"{p}mlp.gate_proj.weight": (args.ffn, args.dim), f"{p}mlp.up_proj.weight": (args.ffn, args.dim),
                    f"{p}mlp.down_proj.weight": (args.dim, args.ffn)})
    return out


def write_weights(path, tensors):
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in tensors.items():
        n = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [end, end + n]}
        end += n
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    rng = np.random.default_rng(1)
    with open(path, "wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for shape in tensors.values():
            rows = shape[0] if len(shape) == 2 else 1
            for row in range(0, rows, 1024):
                n = (min(rows, row + 1024) - row) * shape[-1]
                values = np.ones(n, np.float32) if len(shape) == 1 else rng.standard_normal(n, np.float32) * np.float32(.02)
                out.write((values.view(np.uint32) >> 16).astype(np.uint16).tobytes())


def write_words(directory, vocab):
    tokens = {"<|end|>": 0}
    for c in [*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324)]:  # GPT-2's letters for the bytes
        tokens[chr(c)] = len(tokens)
    assert len(tokens) <= vocab
    (directory / "tokenizer.json").write_text(json.dumps({
        "version": "1.0", "normalizer": None, "post_processor": None,
        "added_tokens": [{"id": 0, "content": "<|end|>", "special": True, "single_word": False, "lstrip": False,
                          "rstrip": False, "normalized": False}],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "vocab": tokens, "merges": []}}))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=pathlib.Path)
    for name, default in (("layers", 24), ("dim", 2048), ("ffn", 8192), ("vocab", 32000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    args.directory.mkdir(parents=True)
    (args.directory / "config.json").write_text(json.dumps({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "torch_dtype": "bfloat16", "hidden_size": args.dim,
        "intermediate_size": args.ffn, "num_hidden_layers": args.layers, "num_attention_heads": args.dim // HEAD_DIM,
        "num_key_value_heads": args.dim // HEAD_DIM // 4, "head_dim": HEAD_DIM, "vocab_size": args.vocab,
        "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True,
        "eos_token_id": 0}))
    write_words(args.directory, args.vocab)
    write_weights(args.directory / "model.safetensors", shapes(args))


if __name__ == "__main__":
    main()
