# SPDX-License-Identifier: Apache-2.0
"""Makes tests/golden/bad: model files that must be refused, each with its sentence and exit code.

usage: make_bad_files.py [OUT_DIR [SEEDS_DIR]]
       (default tests/golden/bad and tests/fuzz; Python 3 standard library only)

Every file is a small sound model with one thing wrong, so that it is refused for that thing and no other.
good/ holds sound ones, one per convention; the seeds of the fuzz targets are made from them.

EXPECTED.tsv lists: path, room that refuses (store: opening the file is enough; text: the tokenizer or the chat
template; model: only running it; quant: only writing a directory of it), command, exit code, sentence with the path as {} and its directory as {dir}.
Read by tests/unit/store/test_bad_files.c, tests/e2e/test_bad_files.py and, as a corpus, by the fuzz targets.
"""
import json
import pathlib
import shutil
import struct
import sys

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
FORMATS = {U8: "<B", I8: "<b", U16: "<H", I16: "<h", U32: "<I", I32: "<i", F32: "<f", BOOL: "<B", U64: "<Q",
           I64: "<q", F64: "<d"}
GGML_F32, GGML_F16, GGML_Q4_0, GGML_IQ2_XXS = 0, 1, 2, 16

DIM, FFN, HEADS, KV_HEADS, HEAD_DIM, VOCAB = 8, 8, 2, 1, 4, 8
TOKENS = ["<unk>", "<s>", "</s>", "<0x41>", "\u2581", "a", "b", "ab"]
TYPES = [2, 3, 3, 6, 1, 1, 1, 1]
SCORES = [0.0, 0.0, 0.0, 0.0, -1.0, -2.0, -3.0, -0.5]

NAN, INF = float("nan"), float("inf")
BIG = 1 << 63

tests = pathlib.Path(__file__).resolve().parents[1]
out = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else tests / "golden/bad"
seeds = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else tests / "fuzz"
expected = []


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


def write(name, raw):
    path = out / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw if isinstance(raw, bytes) else raw.encode())


def expect(path, sentence, room="store", command="inspect", code=1):
    assert "\t" not in sentence and "\n" not in sentence
    expected.append((path, room, command, str(code), sentence))


def gguf(name, sentence, change=None, room="store", command="inspect", raw=None, **build):
    """Sound model, CHANGEd; or RAW(bytes of the sound model) -> bytes."""
    g = Gguf()
    if change:
        change(g)
    made = g.build(**build)
    write(f"{name}.gguf", raw(made) if raw else made)
    expect(f"{name}.gguf", sentence, room, command)


def keyed(name, key, kind, item, sentence, **more):
    gguf(name, sentence, lambda g: g.key(key, kind, item), **more)


def moved(name, tensor, sentence, dims=None, kind=None, offset=None, data=None, rename=None):
    def change(g):
        t = g.find(tensor)
        t[0] = tensor if rename is None else rename
        t[1] = t[1] if dims is None else dims
        t[2] = t[2] if kind is None else kind
        t[3] = t[3] if data is None else data
        t[4] = offset
    gguf(name, sentence, change)


def gguf_files():
    # the header
    gguf("gguf-magic", "{}: neither a GGUF nor a safetensors file (2464 bytes)", raw=lambda b: b"GGML" + b[4:])
    gguf("gguf-empty", "{}: is an empty file", raw=lambda b: b"")
    gguf("gguf-three-bytes", "{}: neither a GGUF nor a safetensors file (3 bytes)", raw=lambda b: b[:3])
    gguf("gguf-cut-in-header", "{}: the file ends inside the key count", raw=lambda b: b[:20])
    for version, sentence in [(1, "{}: GGUF version 1, nibble reads 2 and 3"), (4, "{}: GGUF version 4, nibble reads 2 and 3"),
                              (0x03000000, "{}: a big-endian GGUF file, nibble reads little-endian ones")]:
        gguf(f"gguf-version-{version:x}", sentence, lambda g, v=version: setattr(g, "version", v))
    gguf("gguf-keys-2-63", f"{{}}: {BIG} metadata keys do not fit into the file", n_keys=BIG)
    gguf("gguf-keys-too-many", "{}: 1000 metadata keys do not fit into the file", n_keys=1000)
    gguf("gguf-tensors-2-63", f"{{}}: {BIG} tensors do not fit into the file", n_tensors=BIG)
    gguf("gguf-tensors-one-more", "{}: the name of tensor 11 is empty or not plain ASCII", n_tensors=12,
         change=lambda g: g.tensors[0].__setitem__(3, bytes(400)))

    # keys
    def extra(name, raw):
        return lambda g: g.extra_keys.append((name, raw))

    def tail(raw):
        """RAW instead of everything behind the header's counts."""
        return lambda b: b[:24] + raw

    gguf("key-name-2-63", f"{{}}: the name of a key has a length of {BIG} where 40 bytes are left",
         raw=tail(struct.pack("<Q", BIG) + bytes(40)), n_keys=1, n_tensors=0)
    gguf("key-name-empty", "{}: the name of key 15 is empty or not plain ASCII", extra(b"", value(U8, 1)))
    gguf("key-name-control", "{}: the name of key 15 is empty or not plain ASCII", extra(b"a\nb", value(U8, 1)))
    gguf("key-name-not-utf8", "{}: the name of key 15 is empty or not plain ASCII", extra(b"a\xff", value(U8, 1)))
    gguf("key-type-13", "{}: key odd has value type 13, expected 0 to 12", extra(b"odd", struct.pack("<II", 13, 0)))
    gguf("key-bool-2", "{}: key odd is a bool of value 2, expected 0 or 1", extra(b"odd", struct.pack("<IB", BOOL, 2)))
    gguf("key-twice", "{}: key llama.block_count is there twice", extra(b"llama.block_count", value(U32, 1)))
    gguf("key-cut", "{}: the file ends inside the value of key k", raw=tail(text("k") + struct.pack("<IH", U32, 1)),
         n_keys=1, n_tensors=0)
    gguf("text-2-63", f"{{}}: a string value has a length of {BIG} where 8 bytes are left",
         raw=tail(text("k") + struct.pack("<IQ", STRING, BIG) + bytes(8)), n_keys=1, n_tensors=0)
    gguf("text-past-end", "{}: a string value has a length of 9 where 8 bytes are left",
         raw=tail(text("k") + struct.pack("<IQ", STRING, 9) + bytes(8)), n_keys=1, n_tensors=0)
    gguf("array-2-63", f"{{}}: key k is an array of {BIG} items where 8 bytes are left",
         raw=tail(text("k") + struct.pack("<IIQ", ARRAY, U32, BIG) + bytes(8)), n_keys=1, n_tensors=0)
    gguf("array-wraps", f"{{}}: key k is an array of {1 << 61} items where 64 bytes are left",
         raw=tail(text("k") + struct.pack("<IIQ", ARRAY, U64, 1 << 61) + bytes(64)), n_keys=1, n_tensors=0)
    gguf("array-of-arrays", "{}: key k is an array of element type 9, expected a number or string type",
         extra(b"k", struct.pack("<IIQ", ARRAY, ARRAY, 0)))
    gguf("array-of-99", "{}: key k is an array of element type 99, expected a number or string type",
         extra(b"k", struct.pack("<IIQ", ARRAY, 99, 0)))
    gguf("array-text-past-end", "{}: a string of an array has a length of 100 where 8 bytes are left",
         raw=tail(text("k") + struct.pack("<IIQQ", ARRAY, STRING, 2, 100) + bytes(8)), n_keys=1, n_tensors=0)

    # alignment
    for alignment in (0, 3, 4, 1 << 30):
        keyed(f"alignment-{alignment}", "general.alignment", U32, alignment,
              f"{{}}: general.alignment is {alignment}, expected a power of two from 8 to 65536")
    keyed("alignment-u64", "general.alignment", U64, 32, "{}: general.alignment is of type u64, expected u32")

    # tensors
    moved("tensor-name-empty", "token_embd.weight", "{}: the name of tensor 0 is empty or not plain ASCII", rename="")
    moved("tensor-name-long", "token_embd.weight", "{}: the name of a tensor has a length of 300, more than 255",
          rename="x" * 300)
    moved("tensor-name-escape", "token_embd.weight", "{}: the name of tensor 0 is empty or not plain ASCII",
          rename="\x1b[2J")
    moved("tensor-five-dims", "token_embd.weight",
          "{}: tensor token_embd.weight has 5 dimensions, expected at most 4", dims=[DIM, VOCAB, 1, 1, 1])
    moved("tensor-dims-wrap", "token_embd.weight",
          "{}: the dimensions of tensor token_embd.weight multiply past 2^63", dims=[1 << 33, 1 << 33])
    moved("tensor-dims-wrap-to-64", "token_embd.weight",
          "{}: the dimensions of tensor token_embd.weight multiply past 2^63", dims=[(1 << 61) + 8, 8])
    moved("tensor-dim-2-63", "token_embd.weight",
          "{}: the dimensions of tensor token_embd.weight multiply past 2^63", dims=[BIG])
    moved("tensor-dim-0", "token_embd.weight", "{}: tensor token_embd.weight has a dimension of 0", dims=[DIM, 0])
    moved("tensor-bytes-wrap", "token_embd.weight",
          "{}: the size of tensor token_embd.weight wraps", dims=[1 << 62], kind=GGML_F32 + 28)
    for kind in (4, 99, (1 << 31) + 5):
        moved(f"tensor-type-{kind}", "token_embd.weight",
              f"{{}}: tensor token_embd.weight has ggml type {kind}, which nibble does not know", kind=kind)
    moved("tensor-half-block", "token_embd.weight",
          "{}: tensor token_embd.weight has rows of 8 elements, no multiple of 32 as Q4_0 asks for", kind=GGML_Q4_0)
    moved("offset-unaligned", "output_norm.weight",
          "{}: tensor output_norm.weight starts at 4, no multiple of the alignment 32", offset=4)
    moved("offset-past-end", "output_norm.weight",
          "{}: tensor output_norm.weight (16 bytes at 1048576) leaves the file's 992 data bytes", offset=1 << 20)
    moved("offset-2-63", "output_norm.weight",
          f"{{}}: tensor output_norm.weight (16 bytes at {BIG}) leaves the file's 992 data bytes", offset=BIG)
    moved("offset-wraps", "output_norm.weight",
          f"{{}}: tensor output_norm.weight (16 bytes at {(1 << 64) - 32}) leaves the file's 992 data bytes",
          offset=(1 << 64) - 32)
    moved("offset-overlap", "output_norm.weight",
          "{}: tensors token_embd.weight and output_norm.weight overlap", offset=32)
    gguf("data-cut", "{}: tensor blk.0.ffn_down.weight (128 bytes at 864) leaves the file's 928 data bytes",
         raw=lambda b: b[:-64])
    gguf("tensor-twice", "{}: tensor blk.0.attn_q.weight is there twice", lambda g: g.tensor("blk.0.attn_q.weight", [8]))
    gguf("tensor-missing", "{}: tensor blk.0.ffn_up.weight is missing", lambda g: g.drop("blk.0.ffn_up.weight"))
    gguf("embedding-missing", "{}: tensor token_embd.weight is missing", lambda g: g.drop("token_embd.weight"))
    moved("tensor-misshapen", "blk.0.attn_q.weight",
          "{}: tensor blk.0.attn_q.weight has the shape [4, 16], expected [8, 8]", dims=[16, 4])
    gguf("norm-in-blocks", "{}: tensor output_norm.weight has the shape [1, 32], expected [1, 8]",
         lambda g: (g.drop("output_norm.weight"), g.tensor("output_norm.weight", [32], GGML_Q4_0, bytes(18))))
    gguf("scale-nan", "{}: scale blk.0.attn_q.scale is nan, expected a finite number >= 0",
         lambda g: g.tensor("blk.0.attn_q.scale", [1], GGML_F32, struct.pack("<f", NAN)))
    gguf("scale-of-two", "{}: tensor blk.0.attn_q.scale is no single floating-point number",
         lambda g: g.tensor("blk.0.attn_q.scale", [2], GGML_F32, bytes(8)))

    # hyper-parameters
    p = "llama."
    gguf("architecture-missing", "{}: key general.architecture is missing", lambda g: g.drop("general.architecture"))
    keyed("architecture-number", "general.architecture", U32, 7,
          "{}: key general.architecture is of type u32, expected string")
    gguf("layers-missing", "{}: key llama.block_count is missing", lambda g: g.drop("llama.block_count"))
    for n in (0, 257, 0xFFFFFFFF):
        keyed(f"layers-{n}", p + "block_count", U32, n, "{}: key llama.block_count is out of bounds, expected 1 to 256")
    keyed("layers-negative", p + "block_count", I32, -1, "{}: key llama.block_count is out of bounds, expected 1 to 256")
    keyed("layers-text", p + "block_count", STRING, "1", "{}: key llama.block_count is of type string, expected an integer")
    keyed("layers-more-than-tensors", p + "block_count", U32, 2, "{}: tensor blk.1.attn_norm.weight is missing")
    for n in (0, 1 << 20):
        keyed(f"heads-{n}", p + "attention.head_count", U32, n,
              "{}: key llama.attention.head_count is out of bounds, expected 1 to 1024")
    keyed("heads-not-dividing", p + "attention.head_count", U32, 3,
          "{}: embedding_length 8 is no multiple of head_count 3")
    keyed("kv-heads-0", p + "attention.head_count_kv", U32, 0,
          "{}: key llama.attention.head_count_kv is out of bounds, expected 1 to 1024")
    keyed("kv-heads-not-dividing", p + "attention.head_count_kv", U32, 3,
          "{}: 2 attention heads are no multiple of 3 key-value heads")
    gguf("head-dim-odd", "{}: a head dimension of 3, expected an even number from 2 to 1024",
         lambda g: (g.key(p + "attention.key_length", U32, 3), g.key(p + "attention.value_length", U32, 3)))
    keyed("dim-2-30", p + "embedding_length", U32, 1 << 30,
          "{}: key llama.embedding_length is out of bounds, expected 1 to 1048576")
    keyed("dim-u64-2-63", p + "embedding_length", U64, BIG,
          "{}: key llama.embedding_length is out of bounds, expected 1 to 1048576")
    keyed("ffn-0", p + "feed_forward_length", U32, 0,
          "{}: key llama.feed_forward_length is out of bounds, expected 1 to 1048576")
    keyed("context-0", p + "context_length", U32, 0,
          "{}: key llama.context_length is out of bounds, expected 1 to 134217728")
    eps = p + "attention.layer_norm_rms_epsilon"
    keyed("eps-nan", eps, F32, NAN, f"{{}}: key {eps} is not a finite number")
    keyed("eps-negative", eps, F32, -1.0, f"{{}}: key {eps} is -1, expected 1e-12 to 0.1")
    keyed("eps-integer", eps, U32, 1, f"{{}}: key {eps} is of type u32, expected f32 or f64")
    gguf("eps-missing", f"{{}}: key {eps} is missing", lambda g: g.drop(eps))
    keyed("rope-base-nan", p + "rope.freq_base", F32, NAN, "{}: key llama.rope.freq_base is not a finite number")
    keyed("rope-base-0", p + "rope.freq_base", F32, 0.0, "{}: key llama.rope.freq_base is 0, expected 1 to 1e+12")
    keyed("rope-factor-inf", p + "rope.scaling.factor", F32, INF,
          "{}: key llama.rope.scaling.factor is not a finite number")
    keyed("rope-factor-f64", p + "rope.scaling.factor", F64, 1e300,
          "{}: key llama.rope.scaling.factor is not a finite number")

    def as_gemma(g):
        g.keys = {k.replace("llama.", "gemma3."): v for k, v in g.keys.items()}
        g.key("general.architecture", STRING, "gemma3")
        g.key("gemma3.attention.sliding_window", U32, 16)
    for name, kind, items in (("short", BOOL, []), ("of-numbers", U32, [1])):
        gguf(f"windows-{name}", "{}: key gemma3.attention.sliding_window_pattern is no list of 1 bools",
             lambda g, k=kind, i=items: (as_gemma(g), g.key("gemma3.attention.sliding_window_pattern", ARRAY, (k, i))))

    # words
    t = "tokenizer.ggml."
    keyed("tokens-text", t + "tokens", STRING, "a", "{}: key tokenizer.ggml.tokens is no array of string")
    keyed("tokens-of-numbers", t + "tokens", ARRAY, (U32, [1] * 8), "{}: key tokenizer.ggml.tokens is no array of string")

    def more_tokens(g):
        g.key(t + "tokens", ARRAY, (STRING, TOKENS + ["c"]))
        g.key(t + "scores", ARRAY, (F32, SCORES + [0.0]))
        g.key(t + "token_type", ARRAY, (I32, TYPES + [1]))
    gguf("tokens-too-many", "{}: 9 tokens for an embedding of 8 rows", more_tokens)
    keyed("scores-short", t + "scores", ARRAY, (F32, SCORES[:7]), "{}: key tokenizer.ggml.scores has 7 items for 8 tokens")
    keyed("scores-of-integers", t + "scores", ARRAY, (I32, [0] * 8), "{}: key tokenizer.ggml.scores is no array of f32")
    keyed("scores-of-bytes", t + "scores", ARRAY, (U8, [0] * 8), "{}: key tokenizer.ggml.scores is no array of f32")
    keyed("scores-nan", t + "scores", ARRAY, (F32, SCORES[:7] + [NAN]),
          "{}: tokenizer.ggml.scores of piece 7 is not a number, expected a score", room="text")
    keyed("types-short", t + "token_type", ARRAY, (I32, TYPES[:7]),
          "{}: key tokenizer.ggml.token_type has 7 items for 8 tokens")
    keyed("types-of-texts", t + "token_type", ARRAY, (STRING, TOKENS),
          "{}: key tokenizer.ggml.token_type is no array of i32")
    keyed("types-7", t + "token_type", ARRAY, (I32, TYPES[:7] + [7]),
          "{}: tokenizer.ggml.token_type of piece 7 is 7, expected 0 to 6", room="text")
    for name, kind, item in (("bos", U32, 8), ("eos", U32, 0xFFFFFFFF), ("eot", I32, -1), ("unknown", U64, BIG),
                             ("padding", U32, 8), ("eom", U32, 1 << 31)):
        keyed(f"{name}-outside", f"{t}{name}_token_id", kind, item,
              f"{{}}: key tokenizer.ggml.{name}_token_id is out of bounds, expected 0 to 7")
    keyed("add-bos-number", t + "add_bos_token", U32, 1, "{}: key tokenizer.ggml.add_bos_token is of type u32, expected bool")
    for name, spelling in (("minus", "<0x-1>"), ("long", "<0x0041>"), ("empty", "<0x>"), ("space", "<0x 4>")):
        keyed(f"byte-token-{name}", t + "tokens", ARRAY, (STRING, TOKENS[:3] + [spelling] + TOKENS[4:]),
              f"{{}}: piece 3 is a byte spelled \"{spelling}\", expected <0x00> to <0xFF>", room="text")
    keyed("tokens-alike", t + "tokens", ARRAY, (STRING, TOKENS[:7] + ["a"]),
          "{}: pieces 5 and 7 of the vocabulary are spelled alike, expected each once", room="text")
    gguf("merges-missing", "{}: has no tokenizer.ggml.merges", lambda g: (g.key(t + "model", STRING, "gpt2"),
         g.key(t + "pre", STRING, "smollm")), room="text")
    keyed("template-number", "tokenizer.chat_template", U32, 1,
          "{}: key tokenizer.chat_template is of type u32, expected string")

    # sound but for a template that no family has: told, and --no-chat runs
    unknown = "the model's chat template is none of those nibble knows (ChatML, Gemma, Llama 2, Llama 3, Qwen3)"
    for name, template, why in (
            ("100k", "{" * 100000, "the model's chat template is longer than 64 KiB"),
            ("open", "{" * 60000, unknown), ("pairs", "{{" * 30000, unknown), ("blocks", "{%" * 30000, unknown),
            ("closed", "{{}}" * 15000, unknown), ("quoted", "{{'" + "{" * 1000, unknown),
            ("not-utf8", b"{{ \xff\xc3( }}", unknown)):
        keyed(f"template-{name}", "tokenizer.chat_template", STRING, template,
              f"{{}}: {why}; use --no-chat to let it continue a text", room="text", command="run --chat")

    # text that only GGUF holds, and pieces that no tokenizer takes
    no_json = "{{}}: {} is no UTF-8 text; tokenizer.json cannot hold it, write a GGUF file instead".format
    for name, piece, seen in (("surrogate", b"\xed\xa0\x80", "???"), ("overlong", b"\xe0\x80\xaf", "???"),
                              ("past-unicode", b"\xf4\x90\x80\x80", "????"), ("zero", b"a\0", "a?"),
                              ("cut", b"a\xe2\x96", "a??")):
        keyed(f"quantize-token-{name}", t + "tokens", ARRAY, (STRING, TOKENS[:6] + [piece, "ab"]),
              no_json(f"item 6 of tokenizer.ggml.tokens ({seen})"), room="quant", command="quantize")
    keyed("quantize-merge-not-utf8", t + "merges", ARRAY, (STRING, ["a b", b"a \xff"]),
          no_json("item 1 of tokenizer.ggml.merges (a ?)"), room="quant", command="quantize")
    keyed("quantize-template-not-utf8", "tokenizer.chat_template", STRING, b"\xff{{ x }}",
          no_json("tokenizer.chat_template").replace("tokenizer.json", "tokenizer_config.json"),
          room="quant", command="quantize")
    keyed("token-65536", t + "tokens", ARRAY, (STRING, TOKENS[:7] + ["a" * 65536]),
          "{}: item 7 of tokenizer.ggml.tokens has 65536 bytes, expected at most 65535")

    # split files
    keyed("split-name", "split.count", U16, 3,
          "{}: the first of 3 parts must be named ...-00001-of-00003.gguf")
    gguf("split-00001-of-00002", "{dir}/split-00002-of-00002.gguf: cannot be opened: No such file or directory",
         lambda g: g.key("split.count", U16, 2))
    gguf("split-second", "{}: part 2 of a split file, give the first part",
         lambda g: (g.key("split.count", U16, 2), g.key("split.no", U16, 1)))
    keyed("split-2-20", "split.count", U32, 1 << 20, "{}: key split.count is out of bounds, expected 0 to 1024")

    # sound files whose network is not computed: inspect tells, run refuses
    gguf("run-iq2", "{}: tensor blk.0.ffn_up.weight is stored as IQ2_XXS, which nibble does not decode",
         wide, room="model", command="run")
    gguf("run-architecture", "{}: architecture \"rwkv7\", nibble computes llama, qwen3 and gemma3",
         lambda g: g.key("general.architecture", STRING, "rwkv7"), room="model", command="run")
    gguf("run-bias", "{}: tensor blk.0.attn_q.bias is not part of a llama network as nibble computes it",
         lambda g: g.tensor("blk.0.attn_q.bias", [8]), room="model", command="run")
    keyed("run-experts", p + "expert_count", U32, 8, "{}: a mixture of 8 experts, which nibble does not compute",
          room="model", command="run")
    keyed("run-yarn", p + "rope.scaling.type", STRING, "yarn",
          "{}: RoPE scaling \"yarn\", nibble computes linear, and llama3 by rope_freqs.weight", room="model",
          command="run")


def wide(g):
    """ffn_up in a format that nibble counts but does not decode, which asks for rows of 256."""
    old = g.tensors
    g.tensors = []
    g.key("llama.embedding_length", U32, 256)
    g.key("llama.attention.key_length", U32, HEAD_DIM)
    g.key("llama.attention.value_length", U32, HEAD_DIM)
    for name, dims, *_ in old:
        outputs = name in ("blk.0.attn_output.weight", "blk.0.ffn_down.weight")
        dims = [dims[0], 256] if outputs else [256] + dims[1:]
        if name == "blk.0.ffn_up.weight":
            g.tensor(name, dims, GGML_IQ2_XXS, bytes(8 * 66))
        else:
            g.tensor(name, dims, GGML_F16, bytes(2 * dims[0] * (dims[1] if len(dims) > 1 else 1)))


# ---- safetensors ----

SIZES = {"F16": 2, "F32": 4, "U8": 1, "F8_E4M3": 1, "BF16": 2}


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


def st(name, sentence, header, data=b"", **more):
    write(f"{name}.safetensors", st_bytes(header, data))
    expect(f"{name}.safetensors", sentence, **more)


def entry(dtype="U8", shape=(4,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def safetensors_files():
    write("st-short.safetensors", b"\x02\0\0\0")
    expect("st-short.safetensors", "{}: neither a GGUF nor a safetensors file (4 bytes)")
    write("st-header-2-63.safetensors", struct.pack("<Q", BIG) + b"{}")
    expect("st-header-2-63.safetensors", f"{{}}: a header of {BIG} bytes in a file of 10")
    write("st-header-past-end.safetensors", struct.pack("<Q", 3) + b"{}")
    expect("st-header-past-end.safetensors", "{}: a header of 3 bytes in a file of 10")
    st("st-not-json", "{}: not valid JSON, line 1: string or '}' expected near 'x'", b"{x}")
    st("st-depth-bomb", "{}: not valid JSON, line 1: maximum parsing depth reached near '['",
       b'{"a":' + b"[" * 4000 + b"]" * 4000 + b"}")
    st("st-value-bomb", "{}: 10002 JSON values in 20011 bytes is more than such a file holds",
       b'{"a":[' + b"0," * 10001 + b"0]}")
    st("st-not-utf8", "{}: not valid JSON, line 1: unable to decode byte 0xff near '\"'", b'{"\xff":1}')
    st("st-trailing", "{}: not valid JSON, line 1: end of file expected near '}'", b'{}}')
    st("st-nul-name", "{}: not valid JSON, line 1: NUL byte in object key not supported near '\"\\u0000\"'",
       b'{"\\u0000":1}')
    st("st-twice", "{}: not valid JSON, line 1: duplicate object key near '\"a\"'",
       b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}',
       bytes(4))
    st("st-no-object", "{}: tensor a is no {dtype, shape, data_offsets}", {"a": 1})
    st("st-extra-field", "{}: tensor a is no {dtype, shape, data_offsets}", {"a": {**entry(), "more": 1}}, bytes(4))
    st("st-dtype-number", "{}: tensor a has no dtype", {"a": entry(dtype=4)}, bytes(4))
    st("st-dtype-unknown", "{}: tensor a has dtype Q9, which nibble does not know", {"a": entry(dtype="Q9")}, bytes(4))
    st("st-dim-negative", "{}: tensor a has a dimension that is no count", {"a": entry(shape=(-4,))}, bytes(4))
    st("st-dim-fraction", "{}: tensor a has a dimension that is no count", {"a": entry(shape=(4.0,))}, bytes(4))
    st("st-nine-dims", "{}: tensor a has no shape of at most 8 dimensions", {"a": entry(shape=(1,) * 8 + (4,))}, bytes(4))
    st("st-dims-wrap", "{}: the dimensions of tensor a multiply past 2^57",
       {"a": entry(shape=(1 << 32, 1 << 32, 4))}, bytes(4))
    st("st-dim-2-63", "{}: tensor a has a dimension that is no count",
       b'{"a":{"dtype":"U8","shape":[9223372036854775808],"data_offsets":[0,4]}}', bytes(4))
    st("st-size", "{}: tensor a takes 4 bytes, its shape and dtype ask for 8", {"a": entry(dtype="F16")}, bytes(4))
    st("st-offsets-one", "{}: tensor a has no data_offsets [from, to]", {"a": entry(offsets=(0,))}, bytes(4))
    st("st-offsets-back", "{}: tensor a has no data_offsets [from, to]", {"a": entry(offsets=(4, 0))}, bytes(4))
    st("st-offsets-negative", "{}: tensor a has no data_offsets [from, to]", {"a": entry(offsets=(-4, 0))}, bytes(4))
    st("st-offsets-past-end", "{}: tensor a ends at 4, the file holds 3 data bytes", {"a": entry()}, bytes(3))
    st("st-overlap", "{}: tensor b starts at 2, expected 4: tensors overlap or leave a gap",
       {"a": entry(), "b": entry(offsets=(2, 6))}, bytes(6))
    st("st-gap", "{}: tensor b starts at 6, expected 4: tensors overlap or leave a gap",
       {"a": entry(), "b": entry(offsets=(6, 10))}, bytes(10))
    st("st-uncovered", "{}: tensors cover 4 of 5 data bytes", {"a": entry()}, bytes(5))
    st("st-name-empty", "{}: the tensor name \"\" is empty, too long or holds control characters", {"": entry()}, bytes(4))
    st("st-name-escape", "{}: the tensor name \"?[2J\" is empty, too long or holds control characters",
       {"\x1b[2J": entry()}, bytes(4))


# ---- Hugging Face directories ----

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


def hf(name, sentence, change, **more):
    d = Directory()
    change(d)
    d.write(name)
    expect(name, sentence, **more)


def configured(name, field, item, sentence, **more):
    hf(name, sentence, lambda d: d.config.__setitem__(field, item), **more)


def nvfp4(d, rows=FFN, cols=32, scale="F8_E4M3", scale_shape=None, second=1.0, packed=False):
    """mlp.up_proj in NVFP4 (32 columns: the network does not fit any more, the companions come first)."""
    stem = "model.layers.0.mlp.up_proj"
    del d.tensors[f"{stem}.weight"]
    d.tensors[f"{stem}.weight_packed" if packed else f"{stem}.weight"] = ("U8", [rows, cols // 2], None)
    d.tensors[f"{stem}.weight_scale"] = (scale, scale_shape or [rows, cols // 16], None)
    if second is not None:
        name = "weight_global_scale" if packed else "weight_scale_2"
        d.tensors[f"{stem}.{name}"] = ("F32", [1] if packed else [], struct.pack("<f", second))


def directories():
    c = "{}/config.json"
    hf("hf-no-tensors", "{}: holds neither model.safetensors nor model.safetensors.index.json",
       lambda d: setattr(d, "tensors", None))
    for name, raw, sentence in (
            ("config-nan", b'{"model_type":"qwen3","rms_norm_eps":NaN}', "not valid JSON, line 1: invalid token near 'NaN'"),
            ("config-overflow", b'{"model_type":"qwen3","rms_norm_eps":1e999}',
             "not valid JSON, line 1: real number overflow near '1e999'"),
            ("config-depth-bomb", b'{"model_type":' + b"[" * 4000 + b"]" * 4000 + b"}",
             "not valid JSON, line 1: maximum parsing depth reached near '['"),
            ("config-value-bomb", b'{"model_type":[' + b"0," * 10000 + b"0]}",
             "10001 JSON values in 20018 bytes is more than such a file holds"),
            ("config-not-utf8", b'{"model_type":"qw\xc3\x28"}', "not valid JSON, line 1: unable to decode byte 0xc3 near '\"qw'"),
            ("config-array", b"[]", "expected a JSON object"),
            ("config-twice", b'{"model_type":"qwen3","model_type":"llama"}',
             "not valid JSON, line 1: duplicate object key near '\"model_type\"'"),
            ("config-cut", b'{"model_type":"qwen3"', "not valid JSON, line 1: '}' expected near end of file")):
        hf(name, f"{c}: {sentence}", lambda d, r=raw: setattr(d, "raw_config", r))
    configured("config-eps-text", "rms_norm_eps", "1e-6", c + ": rms_norm_eps is no number from 1e-12 to 0.1")
    configured("config-eps-0", "rms_norm_eps", 0, c + ": rms_norm_eps is no number from 1e-12 to 0.1")
    for n in (0, -1, 257, 10**9, 10**30, 1.5):
        configured(f"config-layers-{n}", "num_hidden_layers", n, c + ": num_hidden_layers is no integer from 1 to 256")
    configured("config-heads-2-20", "num_attention_heads", 1 << 20, c + ": num_attention_heads is no integer from 1 to 1024")
    configured("config-kv-heads-3", "num_key_value_heads", 3, c + ": 2 attention heads are no multiple of 3 key-value heads")
    configured("config-head-dim-odd", "head_dim", 5, c + ": a head dimension of 5, expected an even number from 2 to 1024")
    configured("config-dim-2-40", "hidden_size", 1 << 40, c + ": hidden_size is no integer from 1 to 1048576")
    configured("config-vocab-2-31", "vocab_size", 1 << 31, c + ": vocab_size is no integer from 1 to 4194304")
    configured("config-theta-0", "rope_theta", 0, c + ": rope_theta is no number from 1 to 1e+12")
    configured("config-rope-no-factor", "rope_scaling", {"rope_type": "linear"}, c + ": RoPE scaling without a factor")
    configured("config-rope-list", "rope_scaling", [], c + ": rope_scaling is no object")
    configured("config-rope-llama3", "rope_scaling",
               {"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 1},
               c + ": llama3 RoPE scaling asks for low_freq_factor < high_freq_factor")
    configured("config-layer-types-short", "layer_types", [], c + ": layer_types is no list of 1 layers")
    configured("config-tie-text", "tie_word_embeddings", "yes", c + ": tie_word_embeddings is neither true nor false")
    configured("config-misfit", "hidden_size", 16,
               "{}: tensor model.embed_tokens.weight has the shape [8, 8], expected [8, 16]")
    configured("config-eos-outside", "eos_token_id", 8, "{}/config.json: eos_token_id is no id below 8")
    hf("generation-eos-list", "{}/generation_config.json: eos_token_id is no id below 8",
       lambda d: d.files.__setitem__("generation_config.json", '{"eos_token_id":[1,-1]}'))
    hf("hf-missing", "{}: tensor model.layers.0.mlp.up_proj.weight is missing",
       lambda d: d.tensors.pop("model.layers.0.mlp.up_proj.weight"))
    hf("hf-untied", "{}: tensor lm_head.weight is missing", lambda d: d.config.__setitem__("tie_word_embeddings", False))
    hf("hf-two-prefixes", "{}: tensors model.norm.weight and language_model.model.norm.weight are the same part of the network",
       lambda d: d.tensors.__setitem__("language_model.model.norm.weight", ("F16", [DIM], None)))

    # quantized tensors
    up = "model.layers.0.mlp.up_proj"
    s = "{}/model.safetensors: "
    hf("nvfp4-scales-shape", s + f"block scales {up}.weight_scale do not match the shape [8, 32] in blocks of 16",
       lambda d: nvfp4(d, scale_shape=[FFN, 3]))
    hf("nvfp4-scales-flat", s + f"block scales {up}.weight_scale do not match the shape [8, 32] in blocks of 16",
       lambda d: nvfp4(d, scale_shape=[FFN * 2]))
    hf("nvfp4-half-block", s + f"block scales {up}.weight_scale do not match the shape [8, 8] in blocks of 16",
       lambda d: nvfp4(d, cols=8, scale_shape=[FFN, 1]))
    hf("nvfp4-no-second", s + f"{up}.weight has no weight_scale_2 beside it", lambda d: nvfp4(d, second=None))
    hf("nvfp4-second-nan", s + f"scale {up}.weight_scale_2 is nan, expected a finite number >= 0",
       lambda d: nvfp4(d, second=NAN))
    hf("nvfp4-second-negative", s + f"scale {up}.weight_scale_2 is -1, expected a finite number >= 0",
       lambda d: nvfp4(d, second=-1.0))
    hf("nvfp4-no-global", s + f"{up}.weight_packed has no weight_global_scale beside it",
       lambda d: nvfp4(d, second=None, packed=True))
    hf("nvfp4-global-0", s + f"scale {up}.weight_global_scale divides and is 0", lambda d: nvfp4(d, second=0.0, packed=True))
    hf("nvfp4-global-inf", s + f"scale {up}.weight_global_scale is inf, expected a finite number >= 0",
       lambda d: nvfp4(d, second=INF, packed=True))
    hf("mxfp4-scales-shape", s + f"block scales {up}.weight_scale do not match the shape [8, 32] in blocks of 32",
       lambda d: nvfp4(d, scale="U8", second=None))

    def fp8(d, scale):
        d.tensors[f"{up}.weight"] = ("F8_E4M3", [FFN, DIM], None)
        d.tensors[f"{up}.weight_scale"] = scale
    hf("fp8-row-nan", s + f"scale 3 of {up}.weight_scale is nan, expected a finite number >= 0",
       lambda d: fp8(d, ("F32", [FFN, 1], struct.pack("<8f", 1, 1, 1, NAN, 1, 1, 1, 1))))

    # shards
    def sharded(names, weight_map):
        def change(d):
            d.index = {"weight_map": weight_map}
            for name, tensors in names.items():
                d.files[name] = st_file({t: ("F16", [4], None) for t in tensors})
        return change
    for name, file in (("up", "../good/qwen3/model.safetensors"), ("root", "/etc/passwd"), ("hidden", ".profile"),
                       ("empty", "")):
        hf(f"index-{name}", "{}: the index names no plain file for tensor a", sharded({}, {"a": file}))
    hf("index-number", "{}: the index names no plain file for tensor a", sharded({}, {"a": 1}))
    hf("index-empty-map", "{}: model.safetensors.index.json has no weight_map", sharded({}, {}))
    hf("index-no-file", "{}/x.safetensors: cannot be opened: No such file or directory",
       sharded({}, {"a": "x.safetensors"}))
    hf("index-wrong-file", "{}/x.safetensors: does not hold tensor b, as the index says",
       sharded({"x.safetensors": ["a"]}, {"a": "x.safetensors", "b": "x.safetensors"}))
    hf("index-twice", "{}/y.safetensors: tensor a is there twice, also in {}/x.safetensors",
       sharded({"x.safetensors": ["a"], "y.safetensors": ["a", "b"]}, {"a": "x.safetensors", "b": "y.safetensors"}))

    # words
    for name, raw, sentence in (
            ("depth-bomb", b"[" * 4000 + b"]" * 4000,
             "{}/tokenizer.json: not valid JSON, line 1: maximum parsing depth reached near '['"),
            ("not-utf8", b'{"model":"\xff"}',
             "{}/tokenizer.json: not valid JSON, line 1: unable to decode byte 0xff near '\"'"),
            ("empty", b"", "{}/tokenizer.json: is an empty file")):
        hf(f"tokenizer-{name}", sentence, lambda d, r=raw: d.files.__setitem__("tokenizer.json", r),
           room="store" if name == "empty" else "text")
    hf("tokenizer-config-bomb", "{}/tokenizer_config.json: not valid JSON, line 1: maximum parsing depth reached near '['",
       lambda d: d.files.__setitem__("tokenizer_config.json", b'{"a":' + b"[" * 4000))

    # sound, not computed
    configured("run-model-type", "model_type", "mamba", c + ": model_type is \"mamba\", nibble computes llama, qwen3 and gemma3",
               room="model", command="run")
    configured("run-act", "hidden_act", "relu", c + ": hidden_act is \"relu\", nibble computes silu", room="model",
               command="run")
    configured("run-gptq", "quantization_config", {"quant_method": "gptq"},
               "{}: quant_method is \"gptq\", nibble reads modelopt and compressed-tensors", room="model", command="run")
    hf("run-bias-hf", s + "tensor model.layers.0.self_attn.q_proj.bias is not part of a qwen3 network as nibble computes it",
       lambda d: d.tensors.__setitem__("model.layers.0.self_attn.q_proj.bias", ("F16", [8], None)), room="model",
       command="run")
    hf("run-no-config", "{}: has no config.json", lambda d: setattr(d, "raw_config", b""), room="model", command="run")
    hf("run-fp8-blocks", s + f"{up}.weight_scale holds neither one scale nor one per row",
       lambda d: fp8(d, ("F32", [2, 2], None)), room="model", command="run")


# ---- sound models ----

UP = "model.layers.0.mlp.up_proj"


def codes(n):
    return bytes((i * 37 + 11) % 256 for i in range(n))


def quantized_up(d, tensors, rows=FFN, cols=32):
    """A Qwen3 of 32 columns whose mlp.up_proj is TENSORS {suffix: (dtype, shape, bytes)}."""
    d.config["hidden_size"] = cols
    for name, (dtype, shape, raw) in list(d.tensors.items()):
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            d.tensors[name] = (dtype, [cols, shape[1]], raw)
        elif shape[-1] == DIM and not name.endswith(("q_norm.weight", "k_norm.weight")):
            d.tensors[name] = (dtype, shape[:-1] + [cols], raw)
    del d.tensors[f"{UP}.weight"]
    # scalars last and four bytes first, so that everything is aligned
    for suffix, tensor in sorted(tensors.items(), key=lambda x: -SIZES[x[1][0]]):
        d.tensors[f"{UP}.{suffix}"] = tensor
    d.tensors = dict(sorted(d.tensors.items(), key=lambda x: -SIZES[x[1][0]]))


def f32(*values):
    return struct.pack(f"<{len(values)}f", *values)


def sound_directories():
    block_scales = ("F8_E4M3", [FFN, 2], bytes(0x30 + i for i in range(2 * FFN)))

    def modelopt(d):
        quantized_up(d, {"weight": ("U8", [FFN, 16], codes(FFN * 16)), "weight_scale": block_scales,
                         "weight_scale_2": ("F32", [], f32(0.25)), "input_scale": ("F32", [], f32(0.5))})
        d.tensors["model.layers.0.self_attn.k_proj.k_scale"] = ("F32", [], f32(1.0))
        d.tensors = dict(sorted(d.tensors.items(), key=lambda x: -SIZES[x[1][0]]))
        d.files["hf_quant_config.json"] = json.dumps({"quantization": {"quant_algo": "NVFP4", "group_size": 16,
                                                      "kv_cache_quant_algo": None, "exclude_modules": ["lm_head"]}})

    def compressed(d):
        quantized_up(d, {"weight_packed": ("U8", [FFN, 16], codes(FFN * 16)), "weight_scale": block_scales,
                         "weight_global_scale": ("F32", [1], f32(4.0)), "input_global_scale": ("F32", [1], f32(2.0))})
        d.config["quantization_config"] = {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized",
                                           "ignore": ["lm_head"]}

    def mxfp4(d):
        quantized_up(d, {"weight_packed": ("U8", [FFN, 16], codes(FFN * 16)),
                         "weight_scale": ("U8", [FFN, 1], bytes(120 + i for i in range(FFN)))})
        d.config["quantization_config"] = {"quant_method": "compressed-tensors", "format": "mxfp4-pack-quantized"}

    def fp8(scale):
        def change(d):
            quantized_up(d, {"weight": ("F8_E4M3", [FFN, 32], bytes(i % 0x7F for i in range(FFN * 32))),
                             "weight_scale": scale, "input_scale": ("F32", [], f32(0.125))})
            d.config["quantization_config"] = {"quant_method": "modelopt", "quant_algo": "FP8"}
        return change

    def gemma(d):
        d.config = {"model_type": "gemma3", "dtype": "bfloat16", "vision_config": {"model_type": "siglip"},
                    "text_config": {"hidden_size": DIM, "intermediate_size": FFN, "num_hidden_layers": 1,
                                    "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS,
                                    "head_dim": HEAD_DIM, "vocab_size": VOCAB, "sliding_window": 16,
                                    "rope_scaling": {"factor": 8.0, "rope_type": "linear"}}}
        d.tensors = {f"language_model.{k}": v for k, v in d.tensors.items()}
        for norm in ("pre_feedforward_layernorm", "post_feedforward_layernorm"):
            d.tensors[f"language_model.model.layers.0.{norm}.weight"] = ("F16", [DIM], None)
        d.tensors["vision_tower.vision_model.post_layernorm.weight"] = ("F16", [3], None)

    def llama(d):
        d.config.update(model_type="llama", tie_word_embeddings=False, head_dim=None, eos_token_id=[1, 2],
                        rope_parameters={"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0,
                                         "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                         "original_max_position_embeddings": 32})
        d.tensors = {k: v for k, v in d.tensors.items() if "_norm." not in k}
        d.tensors["lm_head.weight"] = ("F16", [VOCAB, DIM], None)
        d.files["generation_config.json"] = '{"eos_token_id": [2, 3]}'
        d.files["tokenizer_config.json"] = json.dumps({"chat_template": [{"name": "tool", "template": "no"},
                                                                         {"name": "default", "template": "yes"}]})

    for name, change in (("qwen3", lambda d: None), ("modelopt", modelopt), ("compressed", compressed),
                         ("mxfp4", mxfp4), ("fp8-tensor", fp8(("F32", [], f32(0.5)))),
                         ("fp8-rows", fp8(("BF16", [FFN, 1], struct.pack("<8H", *(0x3F80 + 16 * i for i in range(8)))))),
                         ("gemma3", gemma), ("llama", llama)):
        d = Directory()
        change(d)
        d.write(f"good/{name}")
        config = json.dumps(d.config).encode()
        seed("store/corpus_directory", name, struct.pack("<H", len(config)) + config + st_file(d.tensors))
        seed("store/corpus_config", name, config)
        seed("store/corpus_safetensors", name, st_file(d.tensors))


def sound_gguf_files():
    def qwen3(g):
        g.keys = {k.replace("llama.", "qwen3."): v for k, v in g.keys.items()}
        g.key("general.architecture", STRING, "qwen3")
        g.key("tokenizer.ggml.model", STRING, "gpt2")
        g.key("tokenizer.ggml.pre", STRING, "qwen2")
        g.key("tokenizer.ggml.merges", ARRAY, (STRING, ["a b"]))
        for name in ("attn_q_norm", "attn_k_norm"):
            g.tensor(f"blk.0.{name}.weight", [HEAD_DIM], GGML_F32, f32(*[1.0] * HEAD_DIM))

    def gemma3(g):
        g.version, g.alignment = 2, 64
        g.keys = {k.replace("llama.", "gemma3."): v for k, v in g.keys.items()}
        for key, kind, item in (("general.architecture", STRING, "gemma3"), ("general.alignment", U32, 64),
                                ("gemma3.attention.sliding_window", U32, 16),
                                ("gemma3.attention.sliding_window_pattern", ARRAY, (BOOL, [1])),
                                ("gemma3.rope.scaling.type", STRING, "linear"),
                                ("gemma3.rope.scaling.factor", F32, 8.0), ("tokenizer.ggml.add_bos_token", BOOL, 1)):
            g.key(key, kind, item)
        for name in ("attn_q_norm", "attn_k_norm"):
            g.tensor(f"blk.0.{name}.weight", [HEAD_DIM])
        for name in ("post_attention_norm", "post_ffw_norm"):
            g.tensor(f"blk.0.{name}.weight", [DIM])

    def nvfp4(g):
        g.key("llama.feed_forward_length", U32, 64)
        for name in ("gate", "up"):
            g.drop(f"blk.0.ffn_{name}.weight")
            g.tensor(f"blk.0.ffn_{name}.weight", [DIM, 64])
        g.drop("blk.0.ffn_down.weight")
        g.tensor("blk.0.ffn_down.weight", [64, DIM], 40, codes(36 * DIM))
        g.tensor("blk.0.ffn_down.scale", [1], GGML_F32, f32(0.25))
        g.tensor("blk.0.ffn_down.input_scale", [1], GGML_F32, f32(0.5))
        g.tensor("rope_freqs.weight", [HEAD_DIM // 2], GGML_F32, f32(1.0, 8.0))

    def wide(change, kind, scale, choice):
        """Blocks of 64 fit, so that something is quantized; CHOICE is what fuzz_quantize reads in the last byte."""
        g = Gguf()
        for key, n in (("embedding_length", 64), ("feed_forward_length", 64), ("attention.head_count", 1),
                       ("attention.head_count_kv", 1), ("attention.key_length", HEAD_DIM),
                       ("attention.value_length", HEAD_DIM)):
            g.key(f"llama.{key}", U32, n)
        g.key("tokenizer.chat_template", STRING, "{{ x }}")
        g.tensors = [[name, [64 if d == DIM and i == 0 or "ffn" in name and len(dims) == 2 else d
                             for i, d in enumerate(dims)], GGML_F16, None, None] for name, dims, *_ in g.tensors]
        g.find("blk.0.attn_output.weight")[1] = [HEADS * HEAD_DIM // 2, 64]
        g.find("blk.0.attn_q.weight")[1] = [64, HEAD_DIM]
        change(g)
        for t in g.tensors:
            n = 1
            for d in t[1]:
                n *= d
            if t[1] == [DIM] and t[0] != "rope_freqs.weight":
                t[1], t[3], n = [64], None, 64
            if scale and len(t[1]) == 2 and t[1][0] % 32 == 0 and "blk" in t[0]:
                t[2], t[3] = kind, (scale + codes(16)) * (n // 32)
            t[3] = t[3] or b"".join(struct.pack("<e", ((i * 7) % 13 - 6) / 16) for i in range(n))
        raw = g.build()
        return raw[:-1] + bytes([choice])

    mxfp4, q4_0, f16 = (39, b"\x79"), (GGML_Q4_0, struct.pack("<e", 0.05)), (GGML_F16, None)
    for name, change, kind, choice in (
            ("llama-q4-modelopt", lambda g: None, q4_0, 0x04), ("llama-q4-gguf", lambda g: None, q4_0, 0x44),
            ("llama-mxfp4-ct", lambda g: None, mxfp4, 0x84), ("llama-mxfp4-head", lambda g: None, mxfp4, 0x54),
            ("qwen3-4over6", qwen3, f16, 0x08), ("qwen3-mxfp4", qwen3, f16, 0x45),
            ("gemma3-fp8", gemma3, q4_0, 0x06), ("gemma3-bf16-gguf", gemma3, q4_0, 0x43)):
        seed("quant/corpus_quantize", name, wide(change, *kind, choice))

    for name, change in (("llama", lambda g: None), ("qwen3", qwen3), ("gemma3", gemma3), ("nvfp4", nvfp4)):
        g = Gguf()
        change(g)
        write(f"good/{name}.gguf", g.build())
        seed("store/corpus_gguf", f"{name}.gguf", g.build())

    def part(number, names):
        g = Gguf()
        g.tensors = [t for t in g.tensors if (t[0] in names) == (number == 1)]
        if number:
            g.keys = {}
        g.key("split.no", U16, number)
        g.key("split.count", U16, 2)
        g.key("split.tensors.count", I32, 11)
        write(f"good/split-0000{number + 1}-of-00002.gguf", g.build())
    for number in (0, 1):
        part(number, ("blk.0.ffn_up.weight", "output_norm.weight"))
    write("good/lone.safetensors", st_bytes({"a": entry()}, bytes(4)))


def seed(corpus, name, raw):
    (seeds / corpus).mkdir(parents=True, exist_ok=True)
    (seeds / corpus / name).write_bytes(raw)


def main():
    shutil.rmtree(out, ignore_errors=True)
    sound_gguf_files()
    sound_directories()
    gguf_files()
    safetensors_files()
    directories()
    assert len({row[0] for row in expected}) == len(expected)
    write("EXPECTED.tsv", "".join("\t".join(row) + "\n" for row in expected))
    print(f"{len(expected)} bad files")


main()
