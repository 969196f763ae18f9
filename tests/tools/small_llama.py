# SPDX-License-Identifier: Apache-2.0
"""A small random Llama in the forms that people's files have, and its perplexity computed in FP64 by numpy alone: what
tests/e2e/test_file_kinds.py compares nibble with. Nothing of nibble computes an expected value here.
"""
import json
import struct

import ml_dtypes
import numpy as np

BF16, E4M3 = ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn
DIM, FFN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, VOCAB = 64, 128, 2, 4, 2, 16, 264
THETA, EPS, CONTEXT = 1e4, 1e-5, 128
SPECIAL = ["<|bos|>", "<|eos|>", "<|im_start|>", "<|im_end|>"]
MERGES = [("Ġ", "t"), ("h", "e")]
GRID = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
TEXT = "".join(f"In line {i} a cat sat on the mat and counted to {i * i}. " for i in range(40))
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def letters():
    """GPT-2's letter of every byte."""
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    out = {b: chr(b) for b in own}
    out.update({b: chr(256 + i) for i, b in enumerate(b for b in range(256) if b not in own)})
    return out


LETTER = letters()


def config(**more):
    return {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": DIM, "intermediate_size": FFN,
            "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM,
            "vocab_size": VOCAB, "rope_theta": THETA, "max_position_embeddings": 512, "rms_norm_eps": EPS, "hidden_act": "silu",
            "tie_word_embeddings": False, "torch_dtype": "bfloat16", **more}


def weights(seed=0):
    """{name: BF16 array}, of a size that makes every part move the logits."""
    random = np.random.default_rng(seed)

    def matrix(rows, cols, gain=0.8):
        return (random.standard_normal((rows, cols)) * gain / cols ** 0.5).astype(BF16)

    def norm():
        return (1 + 0.1 * random.standard_normal(DIM)).astype(BF16)

    out = {"model.embed_tokens.weight": matrix(VOCAB, DIM, 8), "model.norm.weight": norm(), "lm_head.weight": matrix(VOCAB, DIM, 2.4)}
    q, kv = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
    for i in range(LAYERS):
        for name, shape in {"self_attn.q_proj": (q, DIM), "self_attn.k_proj": (kv, DIM), "self_attn.v_proj": (kv, DIM),
                            "self_attn.o_proj": (DIM, q), "mlp.gate_proj": (FFN, DIM), "mlp.up_proj": (FFN, DIM),
                            "mlp.down_proj": (DIM, FFN)}.items():
            out[f"model.layers.{i}.{name}.weight"] = matrix(*shape)
        for name in ("input_layernorm", "post_attention_layernorm"):
            out[f"model.layers.{i}.{name}.weight"] = norm()
    return out


def is_linear(name):
    return "_proj" in name


# ---- FP64 ----

def logits_of(values, ids, head="lm_head.weight"):
    def get(name):
        return np.asarray(values[name]).astype(np.float64)

    def normed(x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPS) * get(name)

    n = len(ids)
    angles = np.outer(np.arange(n), THETA ** (-np.arange(0, HEAD_DIM, 2) / HEAD_DIM))[:, None]

    def turned(x):
        a, b = x[..., :HEAD_DIM // 2], x[..., HEAD_DIM // 2:]
        return np.concatenate([a * np.cos(angles) - b * np.sin(angles), b * np.cos(angles) + a * np.sin(angles)], -1)

    x = get("model.embed_tokens.weight")[ids]
    for i in range(LAYERS):
        at = f"model.layers.{i}."
        h = normed(x, at + "input_layernorm.weight")
        q, k, v = ((h @ get(f"{at}self_attn.{p}_proj.weight").T).reshape(n, -1, HEAD_DIM) for p in "qkv")
        q, k = turned(q), np.repeat(turned(k), HEADS // KV_HEADS, 1)
        v = np.repeat(v, HEADS // KV_HEADS, 1)
        scores = np.einsum("qhd,khd->hqk", q, k) / HEAD_DIM ** 0.5
        scores[:, ~np.tri(n, dtype=bool)] = -np.inf
        p = np.exp(scores - scores.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        x = x + np.einsum("hqk,khd->qhd", p, v).reshape(n, -1) @ get(at + "self_attn.o_proj.weight").T
        h = normed(x, at + "post_attention_layernorm.weight")
        gate = h @ get(at + "mlp.gate_proj.weight").T
        x = x + (gate / (1 + np.exp(-gate)) * (h @ get(at + "mlp.up_proj.weight").T)) @ get(at + "mlp.down_proj.weight").T
    return normed(x, "model.norm.weight") @ get(head).T


def perplexity(values, ids, head="lm_head.weight", chunks=2):
    """As llama.cpp counts: of windows of CONTEXT tokens the second half."""
    losses = []
    for w in range(chunks):
        window = np.array(ids[w * CONTEXT:(w + 1) * CONTEXT])
        logits = logits_of(values, window, head)
        peak = logits.max(-1, keepdims=True)
        log_p = logits - peak - np.log(np.exp(logits - peak).sum(-1, keepdims=True))
        losses += [-log_p[t, window[t + 1]] for t in range(CONTEXT // 2, CONTEXT - 1)]
    return float(np.exp(np.mean(losses)))


# ---- formats ----

def e2m1(x):
    """Codes of the nearest values of the grid."""
    return np.abs(np.asarray(x)[..., None] - GRID).argmin(-1).astype(np.uint8)


def paired(codes):
    return codes[:, ::2] | codes[:, 1::2] << 4


def nvfp4(weight):
    """-> codes [rows, cols / 2], block scales E4M3, tensor scale, the values they stand for"""
    w = np.asarray(weight).astype(np.float32)
    scale = np.float32(np.abs(w).max() / 2688)
    blocks = w.reshape(w.shape[0], -1, 16)
    block_scales = np.clip(np.abs(blocks).max(-1) / (6 * scale), 2 ** -9, 448).astype(E4M3)
    steps = block_scales.astype(np.float32)[..., None] * scale
    codes = e2m1(blocks / steps)
    return paired(codes.reshape(w.shape)), block_scales, scale, (GRID[codes] * steps).reshape(w.shape).astype(np.float32)


def mxfp4(weight):
    """-> codes [rows, cols], exponents U8 [rows, cols / 32], values"""
    w = np.asarray(weight).astype(np.float32)
    blocks = w.reshape(w.shape[0], -1, 32)
    exponents = np.floor(np.log2(np.abs(blocks).max(-1))).astype(int) - 2
    codes = e2m1(blocks / 2.0 ** exponents[..., None])
    return codes.reshape(w.shape), (exponents + 127).astype(np.uint8), (GRID[codes] * 2.0 ** exponents[..., None]).reshape(w.shape)


def fp8(weight, scale):
    """-> codes E4M3, values; SCALE broadcasts over the weight."""
    codes = (np.asarray(weight).astype(np.float32) / scale).astype(E4M3)
    return codes, codes.astype(np.float32) * scale


# ---- files ----

def safetensors(path, tensors, pad=None, front=b"", metadata=None):
    """tensors: {name: array, or (dtype, shape, bytes)}; the header ends in PAD blanks (None: to a multiple of 8)."""
    names = {np.dtype(BF16): "BF16", np.dtype(np.float32): "F32", np.dtype(np.uint8): "U8", np.dtype(E4M3): "F8_E4M3"}
    header, data = {"__metadata__": metadata or {"format": "pt"}}, b""
    for name, value in tensors.items():
        if not isinstance(value, tuple):
            value = (names[value.dtype], value.shape, np.ascontiguousarray(value).tobytes())
        header[name] = {"dtype": value[0], "shape": list(value[1]), "data_offsets": [len(data), len(data) + len(value[2])]}
        data += value[2]
    raw = front + json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8 if pad is None else pad)
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + data)


def vocabulary():
    return {t: i for i, t in enumerate([LETTER[b] for b in range(256)] + [a + b for a, b in MERGES])}


def directory(folder, tensors, configuration=None, **how):
    folder.mkdir(parents=True, exist_ok=True)
    words = vocabulary()
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": WORDS}, "behavior": "Isolated", "invert": False}
    tokenizer = {"version": "1.0", "normalizer": None, "post_processor": None, "decoder": level,
                 "added_tokens": [{"id": len(words) + i, "content": s, "single_word": False, "lstrip": False, "rstrip": False,
                                   "normalized": False, "special": True} for i, s in enumerate(SPECIAL)],
                 "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]},
                 "model": {"type": "BPE", "unk_token": None, "fuse_unk": False, "byte_fallback": False, "vocab": words,
                           "merges": [list(m) for m in MERGES]}}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False))
    (folder / "config.json").write_text(json.dumps(configuration or config()))
    safetensors(folder / "model.safetensors", tensors, **how)
    return folder


GGUF_NAMES = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
              "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
              "post_attention_layernorm": "ffn_norm"}


def gguf(path, values, keys=None, types=None):
    """keys: {name: (value, GGUFValueType[, type of items])}, beside and instead of the usual ones."""
    from gguf import GGUFValueType as V
    from gguf import GGUFWriter
    w = GGUFWriter(str(path), "llama")
    tokens = [*vocabulary(), *SPECIAL]
    tokens += [f"[PAD{i}]" for i in range(VOCAB - len(tokens))]
    usual = {"llama.context_length": (512, V.UINT32), "llama.embedding_length": (DIM, V.UINT32), "llama.block_count": (LAYERS, V.UINT32),
             "llama.feed_forward_length": (FFN, V.UINT32), "llama.attention.head_count": (HEADS, V.UINT32),
             "llama.attention.head_count_kv": (KV_HEADS, V.UINT32), "llama.attention.layer_norm_rms_epsilon": (EPS, V.FLOAT32),
             "llama.rope.freq_base": (THETA, V.FLOAT32), "tokenizer.ggml.model": ("gpt2", V.STRING), "tokenizer.ggml.pre": ("qwen2", V.STRING),
             "tokenizer.ggml.tokens": (tokens, V.ARRAY, V.STRING), "tokenizer.ggml.merges": ([" ".join(m) for m in MERGES], V.ARRAY, V.STRING),
             "tokenizer.ggml.token_type": (types or [1] * 258 + [3] * 4 + [5] * 2, V.ARRAY, V.INT32),
             "tokenizer.ggml.eos_token_id": (259, V.UINT32), "tokenizer.ggml.add_bos_token": (False, V.BOOL)}
    for name, value in {**usual, **(keys or {})}.items():
        w.add_key_value(name, *value)
    outside = {"model.embed_tokens.weight": "token_embd", "model.norm.weight": "output_norm", "lm_head.weight": "output"}
    for name, value in values.items():
        value = np.asarray(value).astype(np.float32)
        for part, heads in (("q_proj", HEADS), ("k_proj", KV_HEADS)):
            if part in name:  # neighbours turn together in GGUF
                value = value.reshape(heads, 2, -1, value.shape[1]).swapaxes(1, 2).reshape(value.shape)
        if name not in outside:
            _, _, layer, *rest = name.split(".")
            outside[name] = f"blk.{layer}.{GGUF_NAMES['.'.join(rest[:-1])]}"
        w.add_tensor(outside[name] + ".weight", np.ascontiguousarray(value))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return path
