# SPDX-License-Identifier: Apache-2.0
"""Writes a GGUF file of one of `nibble bench --shape`'s networks: random NVFP4 in every matrix, as llama.cpp reads it
(block of 64: four E4M3 scales, 32 bytes of codes), without a vocabulary. For measuring llama.cpp beside nibble. With a
RANK each matrix of a layer has a low-rank branch beside it, as `nibble quantize --svd-rank RANK` writes it.

usage: shape_gguf.py qwen3-8b|gemma3-27b FILE [RANK]
"""
import os
import struct
import sys

ALIGNMENT, F32, BF16, NVFP4 = 32, 0, 30, 40  # general.alignment's default; ggml.h: enum ggml_type
PIECE = 36 << 20  # random bytes, repeated: what differs in place is what costs time
SHAPES = {
    "qwen3-8b": dict(arch="qwen3", dim=4096, layers=36, heads=32, kv_heads=8, head_dim=128, ffn=12288, vocab=151936),
    "gemma3-27b": dict(arch="gemma3", dim=5376, layers=62, heads=32, kv_heads=16, head_dim=128, ffn=21504, vocab=262208,
                       window=1024, tied=True),
}


def metadata(shape):
    arch = shape["arch"]
    values = {
        "general.architecture": arch, f"{arch}.block_count": shape["layers"], f"{arch}.context_length": 131072,
        f"{arch}.embedding_length": shape["dim"], f"{arch}.feed_forward_length": shape["ffn"],
        f"{arch}.attention.head_count": shape["heads"], f"{arch}.attention.head_count_kv": shape["kv_heads"],
        f"{arch}.attention.key_length": shape["head_dim"], f"{arch}.attention.value_length": shape["head_dim"],
        f"{arch}.attention.layer_norm_rms_epsilon": 1e-6, f"{arch}.rope.freq_base": 1e6,
        f"{arch}.vocab_size": shape["vocab"], "tokenizer.ggml.model": "no_vocab",
    }
    if "window" in shape:
        values[f"{arch}.attention.sliding_window"] = shape["window"]
    return values


def tensors(shape, rank):
    """Name -> (columns, rows, format); a vector has one row."""
    dim, q, kv = shape["dim"], shape["heads"] * shape["head_dim"], shape["kv_heads"] * shape["head_dim"]
    out = {"token_embd.weight": (dim, shape["vocab"]), "output_norm.weight": (dim, 1)}
    if not shape.get("tied"):
        out["output.weight"] = (dim, shape["vocab"])
    for i in range(shape["layers"]):
        layer = {"attn_norm": (dim, 1), "attn_q": (dim, q), "attn_k": (dim, kv), "attn_v": (dim, kv),
                 "attn_q_norm": (shape["head_dim"], 1), "attn_k_norm": (shape["head_dim"], 1), "attn_output": (q, dim),
                 "ffn_norm": (dim, 1), "ffn_gate": (dim, shape["ffn"]), "ffn_up": (dim, shape["ffn"]),
                 "ffn_down": (shape["ffn"], dim)}
        if shape["arch"] == "gemma3":
            layer |= {"post_attention_norm": (dim, 1), "post_ffw_norm": (dim, 1)}
        out |= {f"blk.{i}.{name}.weight": size for name, size in layer.items()}
        for name, (cols, rows) in layer.items() if rank else ():
            if rows > 1:
                out |= {f"blk.{i}.{name}.svdquant_lora_a": (cols, rank, BF16), f"blk.{i}.{name}.svdquant_lora_b": (rank, rows, BF16)}
    return {name: (*size, F32 if size[1] == 1 else NVFP4)[:3] for name, size in out.items()}


def string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def value(v):
    if isinstance(v, str):
        return struct.pack("<I", 8) + string(v)
    return struct.pack("<If", 6, v) if isinstance(v, float) else struct.pack("<II", 4, v)


def random_bytes():
    """Format -> PIECE bytes: codes of any value under scales of 2^-6 to 2^-5 (weights of about 0.06); BF16 of 2^-9 to
    2^-7; ones."""
    data = bytearray(os.urandom(PIECE))
    for at in range(4):
        data[at::36] = bytes(8 + (b & 7) for b in data[at::36])
    narrow = bytearray(os.urandom(PIECE))
    narrow[1::2] = bytes(0x3b | b & 0x80 for b in narrow[1::2])
    return {NVFP4: bytes(data), BF16: bytes(narrow), F32: struct.pack("<f", 1) * (PIECE // 4)}


def n_bytes(cols, rows, form):
    return cols * rows // 64 * 36 if form == NVFP4 else cols * rows * (4 if form == F32 else 2)


def padded(n):
    return -(-n // ALIGNMENT) * ALIGNMENT


def write(path, shape, rank):
    values, sizes = metadata(shape), tensors(shape, rank)
    head, offset = b"GGUF" + struct.pack("<IQQ", 3, len(sizes), len(values)), 0
    for key, v in values.items():
        head += string(key) + value(v)
    for name, (cols, rows, form) in sizes.items():
        dims = (cols,) if rows == 1 else (cols, rows)
        head += string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, form, offset)
        offset += padded(n_bytes(cols, rows, form))
    pieces = random_bytes()
    with open(path, "wb") as out:
        out.write(head.ljust(padded(len(head)), b"\0"))
        for size in sizes.values():
            left = n_bytes(*size)
            for at in range(0, left, PIECE):
                out.write(memoryview(pieces[size[2]])[:min(PIECE, left - at)])
            out.write(bytes(padded(left) - left))


def main():
    if len(sys.argv) not in (3, 4) or sys.argv[1] not in SHAPES or not all(n.isdigit() for n in sys.argv[3:]):
        sys.exit(__doc__)
    write(sys.argv[2] + ".part", SHAPES[sys.argv[1]], int(sys.argv[3]) if sys.argv[3:] else 0)
    os.rename(sys.argv[2] + ".part", sys.argv[2])


if __name__ == "__main__":
    main()
