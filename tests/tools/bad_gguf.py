# SPDX-License-Identifier: Apache-2.0
"""The bad files of make_bad_files.py that are GGUF: header, keys, tensors, hyper-parameters, words, splits, and
networks that are not computed. Each is the tiny Llama with one thing wrong.
"""
import struct

from tiny_models import (ARRAY, BIG, BOOL, DIM, F32, F64, GGML_F16, GGML_F32, GGML_Q4_0, GGML_Q8_K,
                         HEAD_DIM, I32, INF, KV_HEADS, NAN, SCORES, STRING, TOKENS, TYPES, U16, U32, U64, U8, VOCAB,
                         Gguf, expect, text, value, write)


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
    gguf("gguf-cut-in-header", "{}: the file ends inside the key count: if it was cut short, download it again", raw=lambda b: b[:20])
    for version, sentence in [(1, "{}: GGUF version 1, nibble reads 2 and 3"), (4, "{}: GGUF version 4, nibble reads 2 and 3"),
                              (0x03000000, "{}: a big-endian GGUF file, nibble reads little-endian ones")]:
        gguf(f"gguf-version-{version:x}", sentence, lambda g, v=version: setattr(g, "version", v))
    gguf("gguf-keys-2-63", f"{{}}: {BIG} metadata keys do not fit into the file: if it was cut short, download it again", n_keys=BIG)
    gguf("gguf-keys-too-many", "{}: 1000 metadata keys do not fit into the file: if it was cut short, download it again", n_keys=1000)
    gguf("gguf-tensors-2-63", f"{{}}: {BIG} tensors do not fit into the file: if it was cut short, download it again", n_tensors=BIG)
    gguf("gguf-tensors-one-more", "{}: the name of tensor 11 is empty or not plain ASCII", n_tensors=12,
         change=lambda g: g.tensors[0].__setitem__(3, bytes(400)))

    # keys
    def extra(name, raw):
        return lambda g: g.extra_keys.append((name, raw))

    def tail(raw):
        """RAW instead of everything behind the header's counts."""
        return lambda b: b[:24] + raw

    gguf("key-name-2-63", f"{{}}: the name of a key has a length of {BIG} where 40 bytes are left: if it was cut short, download it again",
         raw=tail(struct.pack("<Q", BIG) + bytes(40)), n_keys=1, n_tensors=0)
    gguf("key-name-empty", "{}: the name of key 15 is empty or not plain ASCII", extra(b"", value(U8, 1)))
    gguf("key-name-control", "{}: the name of key 15 is empty or not plain ASCII", extra(b"a\nb", value(U8, 1)))
    gguf("key-name-not-utf8", "{}: the name of key 15 is empty or not plain ASCII", extra(b"a\xff", value(U8, 1)))
    gguf("key-type-13", "{}: key odd has value type 13, expected 0 to 12", extra(b"odd", struct.pack("<II", 13, 0)))
    gguf("key-bool-2", "{}: key odd is a bool of value 2, expected 0 or 1", extra(b"odd", struct.pack("<IB", BOOL, 2)))
    gguf("key-twice", "{}: key llama.block_count is there twice", extra(b"llama.block_count", value(U32, 1)))
    gguf("key-cut", "{}: the file ends inside the value of key k: if it was cut short, download it again", raw=tail(text("k") + struct.pack("<IH", U32, 1)),
         n_keys=1, n_tensors=0)
    gguf("text-2-63", f"{{}}: a string value has a length of {BIG} where 8 bytes are left: if it was cut short, download it again",
         raw=tail(text("k") + struct.pack("<IQ", STRING, BIG) + bytes(8)), n_keys=1, n_tensors=0)
    gguf("text-past-end", "{}: a string value has a length of 9 where 8 bytes are left: if it was cut short, download it again",
         raw=tail(text("k") + struct.pack("<IQ", STRING, 9) + bytes(8)), n_keys=1, n_tensors=0)
    gguf("array-2-63", f"{{}}: key k is an array of {BIG} items where 8 bytes are left: if it was cut short, download it again",
         raw=tail(text("k") + struct.pack("<IIQ", ARRAY, U32, BIG) + bytes(8)), n_keys=1, n_tensors=0)
    gguf("array-wraps", f"{{}}: key k is an array of {1 << 61} items where 64 bytes are left: if it was cut short, download it again",
         raw=tail(text("k") + struct.pack("<IIQ", ARRAY, U64, 1 << 61) + bytes(64)), n_keys=1, n_tensors=0)
    gguf("array-of-arrays", "{}: key k is an array of element type 9, expected a number or string type",
         extra(b"k", struct.pack("<IIQ", ARRAY, ARRAY, 0)))
    gguf("array-of-99", "{}: key k is an array of element type 99, expected a number or string type",
         extra(b"k", struct.pack("<IIQ", ARRAY, 99, 0)))
    gguf("array-text-past-end", "{}: a string of an array has a length of 100 where 8 bytes are left: if it was cut short, download it again",
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
          "{}: tensor output_norm.weight (16 bytes at 1048576) leaves the file's 992 data bytes: if it was cut short, download it again", offset=1 << 20)
    moved("offset-2-63", "output_norm.weight",
          f"{{}}: tensor output_norm.weight (16 bytes at {BIG}) leaves the file's 992 data bytes: if it was cut short, download it again", offset=BIG)
    moved("offset-wraps", "output_norm.weight",
          f"{{}}: tensor output_norm.weight (16 bytes at {(1 << 64) - 32}) leaves the file's 992 data bytes: if it was cut short, download it again",
          offset=(1 << 64) - 32)
    moved("offset-overlap", "output_norm.weight",
          "{}: tensors token_embd.weight and output_norm.weight overlap", offset=32)
    moved("offset-overlap-by-one", "output_norm.weight",
          "{}: tensors output_norm.weight and blk.0.attn_norm.weight overlap", dims=[33], kind=GGML_F32 + 24)
    gguf("data-cut", "{}: tensor blk.0.ffn_down.weight (128 bytes at 864) leaves the file's 928 data bytes: if it was cut short, download it again",
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
    keyed("eos-of-a-text", t + "eos_token_id", STRING, "2", "{}: key tokenizer.ggml.eos_token_id is of type string, expected an integer")
    keyed("kv-heads-by-layer", p + "attention.head_count_kv", ARRAY, (U32, [KV_HEADS, 2 * KV_HEADS]),
          "{}: key llama.attention.head_count_kv differs by layer, which nibble does not compute", room="model",
          command="run")
    keyed("kv-heads-of-texts", p + "attention.head_count_kv", ARRAY, (STRING, ["1"]),
          "{}: key llama.attention.head_count_kv is neither an integer nor an array of them")
    keyed("kv-heads-none", p + "attention.head_count_kv", ARRAY, (U32, []),
          "{}: key llama.attention.head_count_kv is neither an integer nor an array of them")
    keyed("kv-heads-2000", p + "attention.head_count_kv", ARRAY, (U32, [2000]),
          "{}: key llama.attention.head_count_kv is out of bounds, expected 1 to 1024")
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

    # sound but for a template that is no Jinja: told, and --no-chat runs
    brackets = "chat template, line 1: brackets nested too deep"
    for name, template, why in (
            ("100k", "{" * 100000, brackets), ("open", "{" * 60000, brackets), ("pairs", "{{" * 30000, brackets),
            ("blocks", "{%" * 30000, brackets),
            ("closed", "{{}}" * 15000, "chat template, line 1: unexpected '}}', expected an expression"),
            ("quoted", "{{'" + "{" * 1000, "chat template, line 1: a string has no end"),
            ("not-utf8", b"{{ \xff\xc3( }}", "the chat template is no UTF-8 text")):
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
    gguf("run-q8-k", "{}: tensor blk.0.ffn_up.weight is stored as Q8_K, which nibble does not decode",
         wide, room="model", command="run")
    gguf("run-architecture", "{}: architecture \"rwkv7\", nibble computes llama, mistral, qwen2, qwen3, gemma2, gemma3, granite, smollm3, phi3, olmo2, olmo3, exaone4 and ministral3",
         lambda g: g.key("general.architecture", STRING, "rwkv7"), room="model", command="run")
    gguf("run-bias", "{}: tensor blk.0.ffn_up.bias is not part of a llama network as nibble computes it",
         lambda g: g.tensor("blk.0.ffn_up.bias", [8]), room="model", command="run")
    gguf("bias-of-q-alone", "{}: tensor blk.0.attn_k.bias is missing", lambda g: g.tensor("blk.0.attn_q.bias", [8]))
    keyed("run-experts", p + "expert_count", U32, 8, "{}: a mixture of 8 experts, which nibble does not compute",
          room="model", command="run")
    keyed("run-rope-kind", p + "rope.scaling.type", STRING, "xpos",
          "{}: RoPE scaling \"xpos\", nibble computes linear, yarn, longrope, and llama3 by rope_freqs.weight",
          room="model", command="run")
    keyed("rope-longrope-bare", p + "rope.scaling.type", STRING, "longrope",
          "{}: longrope scaling asks for a tensor rope_factors_short.weight of at most 256 divisors")


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
            g.tensor(name, dims, GGML_Q8_K, bytes(8 * 292))
        else:
            g.tensor(name, dims, GGML_F16, bytes(2 * dims[0] * (dims[1] if len(dims) > 1 else 1)))
