# SPDX-License-Identifier: Apache-2.0
"""The sound tiny models that the bad files are changed from, in GGUF and in safetensors, and what was written:
the files under `out`, the fuzz targets' seeds under `seeds`, and in `expected` the rows of EXPECTED.tsv.
make_bad_files.py sets `out` and `seeds`; bad_gguf.py, bad_safetensors.py and sound_models.py write.
"""
import json
import shutil
import struct

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
FORMATS = {U8: "<B", I8: "<b", U16: "<H", I16: "<h", U32: "<I", I32: "<i", F32: "<f", BOOL: "<B", U64: "<Q",
           I64: "<q", F64: "<d"}
GGML_F32, GGML_F16, GGML_Q4_0, GGML_Q8_K = 0, 1, 2, 15

DIM, FFN, HEADS, KV_HEADS, HEAD_DIM, VOCAB = 8, 8, 2, 1, 4, 8
TOKENS = ["<unk>", "<s>", "</s>", "<0x41>", "\u2581", "a", "b", "ab"]
TYPES = [2, 3, 3, 6, 1, 1, 1, 1]
SCORES = [0.0, 0.0, 0.0, 0.0, -1.0, -2.0, -3.0, -0.5]

NAN, INF = float("nan"), float("inf")
BIG = 1 << 63
SIZES = {"F16": 2, "F32": 4, "U8": 1, "F8_E4M3": 1, "BF16": 2}

out = seeds = None  # folders
expected = []


def write(name, raw):
    path = out / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw if isinstance(raw, bytes) else raw.encode())


def expect(path, sentence, room="store", command="inspect", code=1):
    assert "\t" not in sentence and "\n" not in sentence
    expected.append((path, room, command, str(code), sentence))


def seed(corpus, name, raw):
    (seeds / corpus).mkdir(parents=True, exist_ok=True)
    (seeds / corpus / name).write_bytes(raw)


# ---- GGUF ----

def text(value):
    raw = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(raw)) + raw


def scalar(kind, value):
    return text(value) if kind == STRING else struct.pack(FORMATS[kind], value)


def value(kind, item):
    """A key's type and value; a tuple (item_type, items) is an array, bytes are taken as they are."""
    if isinstance(item, bytes) and kind != STRING:
        return struct.pack("<I", kind) + item
    if kind == ARRAY:
        item_type, items = item
        return struct.pack("<IIQ", ARRAY, item_type, len(items)) + b"".join(scalar(item_type, x) for x in items)
    return struct.pack("<I", kind) + scalar(kind, item)


class Gguf:
    """A tiny Llama: keys {name: (type, value)}, tensors [[name, dims (contiguous first), type, data, offset]]."""

    def __init__(self):
        self.version, self.alignment = 3, 32
        self.keys = {
            "general.architecture": (STRING, "llama"),
            "llama.block_count": (U32, 1), "llama.context_length": (U32, 64), "llama.embedding_length": (U32, DIM),
            "llama.feed_forward_length": (U32, FFN), "llama.attention.head_count": (U32, HEADS),
            "llama.attention.head_count_kv": (U32, KV_HEADS),
            "llama.attention.layer_norm_rms_epsilon": (F32, 1e-5), "llama.rope.freq_base": (F32, 10000.0),
            "tokenizer.ggml.model": (STRING, "llama"), "tokenizer.ggml.tokens": (ARRAY, (STRING, TOKENS)),
            "tokenizer.ggml.scores": (ARRAY, (F32, SCORES)), "tokenizer.ggml.token_type": (ARRAY, (I32, TYPES)),
            "tokenizer.ggml.bos_token_id": (U32, 1), "tokenizer.ggml.eos_token_id": (U32, 2),
        }
        self.extra_keys = []  # raw (name bytes, type and value bytes), for what a dict cannot say
        self.tensors = []
        q, kv = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
        self.tensor("token_embd.weight", [DIM, VOCAB])
        self.tensor("output_norm.weight", [DIM])
        for name, dims in [("attn_norm", [DIM]), ("attn_q", [DIM, q]), ("attn_k", [DIM, kv]), ("attn_v", [DIM, kv]),
                           ("attn_output", [q, DIM]), ("ffn_norm", [DIM]), ("ffn_gate", [DIM, FFN]),
                           ("ffn_up", [DIM, FFN]), ("ffn_down", [FFN, DIM])]:
            self.tensor(f"blk.0.{name}.weight", dims)

    def tensor(self, name, dims, kind=GGML_F16, data=None):
        n = 1
        for d in dims:
            n *= d
        if data is None:
            data = b"".join(struct.pack("<e", ((i * 7 + len(name)) % 13 - 6) / 16) for i in range(n))
        self.tensors.append([name, dims, kind, data, None])

    def find(self, name):
        return next(t for t in self.tensors if t[0] == name)

    def key(self, name, kind, item):
        self.keys[name] = (kind, item)

    def drop(self, name):
        self.keys.pop(name, None)
        self.tensors = [t for t in self.tensors if t[0] != name]

    def build(self, n_tensors=None, n_keys=None):
        keys = [(k.encode(), value(*v)) for k, v in self.keys.items()] + self.extra_keys
        head = b"GGUF" + struct.pack("<IQQ", self.version, len(self.tensors) if n_tensors is None else n_tensors,
                                     len(keys) if n_keys is None else n_keys)
        for name, raw in keys:
            head += text(name) + raw
        data = b""
        for name, dims, kind, raw, offset in self.tensors:
            data += bytes(-len(data) % self.alignment)
            head += text(name) + struct.pack("<I", len(dims)) + b"".join(struct.pack("<Q", d) for d in dims)
            head += struct.pack("<IQ", kind, len(data) if offset is None else offset)
            data += raw
        return head + bytes(-len(head) % self.alignment) + data


# ---- safetensors and Hugging Face directories ----

def st_bytes(header, data=b""):
    if isinstance(header, bytes):
        raw = header
    else:
        raw = json.dumps(header, separators=(",", ":")).encode()
        raw += b" " * (-len(raw) % 8)
    return struct.pack("<Q", len(raw)) + raw + data


def st_file(tensors):
    """tensors: {name: (dtype, shape, bytes or None)}"""
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, (dtype, shape, raw) in tensors.items():
        n = SIZES[dtype]
        for d in shape:
            n *= d
        raw = bytes(n) if raw is None else raw
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    return st_bytes(header, data)


def entry(dtype="U8", shape=(4,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


class Directory:
    """A tiny Qwen3: config, tensors {name: (dtype, shape, bytes)}, other files."""

    def __init__(self):
        self.config = {"model_type": "qwen3", "hidden_size": DIM, "intermediate_size": FFN, "num_hidden_layers": 1,
                       "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM,
                       "vocab_size": VOCAB, "max_position_embeddings": 64, "rms_norm_eps": 1e-6,
                       "rope_theta": 10000.0, "tie_word_embeddings": True}
        self.raw_config, self.files = None, {}
        q, kv = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
        shapes = {"embed_tokens": [VOCAB, DIM], "norm": [DIM], "layers.0.input_layernorm": [DIM],
                  "layers.0.post_attention_layernorm": [DIM], "layers.0.self_attn.q_proj": [q, DIM],
                  "layers.0.self_attn.k_proj": [kv, DIM], "layers.0.self_attn.v_proj": [kv, DIM],
                  "layers.0.self_attn.o_proj": [DIM, q], "layers.0.self_attn.q_norm": [HEAD_DIM],
                  "layers.0.self_attn.k_norm": [HEAD_DIM], "layers.0.mlp.gate_proj": [FFN, DIM],
                  "layers.0.mlp.up_proj": [FFN, DIM], "layers.0.mlp.down_proj": [DIM, FFN]}
        self.tensors = {f"model.{k}.weight": ("F16", s, None) for k, s in shapes.items()}
        self.index = None

    def write(self, name):
        shutil.rmtree(out / name, ignore_errors=True)
        config = json.dumps(self.config, indent=1) if self.raw_config is None else self.raw_config
        if config:
            write(f"{name}/config.json", config)
        if self.tensors is None:
            pass
        elif self.index is None:
            write(f"{name}/model.safetensors", st_file(self.tensors))
        else:
            write(f"{name}/model.safetensors.index.json", json.dumps(self.index))
        for file, raw in self.files.items():
            write(f"{name}/{file}", raw)
