# SPDX-License-Identifier: Apache-2.0
"""The bad files of make_bad_files.py that are safetensors, alone or in a Hugging Face directory: header,
config, quantized tensors, shards, words. Each directory is the tiny Qwen3 with one thing wrong.
"""
import struct

from tiny_models import BIG, DIM, FFN, INF, NAN, Directory, entry, expect, st_bytes, st_file, write


# ---- safetensors ----

def st(name, sentence, header, data=b"", **more):
    write(f"{name}.safetensors", st_bytes(header, data))
    expect(f"{name}.safetensors", sentence, **more)


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
    st("st-metadata-number", "{}: __metadata__ is no object of texts", {"__metadata__": {"step": 4}, "a": entry()}, bytes(4))
    st("st-metadata-text", "{}: __metadata__ is no object of texts", {"__metadata__": "pt", "a": entry()}, bytes(4))
    st("st-f4-odd", "{}: tensor a has 4-bit codes that do not fill whole bytes of a row",
       {"a": entry(dtype="F4", shape=(2, 1), offsets=(0, 1))}, bytes(1))
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
    st("st-range-larger", "{}: tensor a takes 5 bytes, its shape and dtype ask for 4",
       {"a": entry(offsets=(0, 5)), "b": entry(offsets=(5, 9))}, bytes(9))
    st("st-offsets-one", "{}: tensor a has no data_offsets [from, to]", {"a": entry(offsets=(0,))}, bytes(4))
    st("st-offsets-back", "{}: tensor a has no data_offsets [from, to]", {"a": entry(offsets=(4, 0))}, bytes(4))
    st("st-offsets-negative", "{}: tensor a has no data_offsets [from, to]", {"a": entry(offsets=(-4, 0))}, bytes(4))
    st("st-offsets-past-end", "{}: tensor a ends at 4, the file holds 3 data bytes: if it was cut short, download it again", {"a": entry()}, bytes(3))
    st("st-overlap", "{}: tensor b starts at 2, expected 4: tensors overlap or leave a gap",
       {"a": entry(), "b": entry(offsets=(2, 6))}, bytes(6))
    st("st-gap", "{}: tensor b starts at 6, expected 4: tensors overlap or leave a gap",
       {"a": entry(), "b": entry(offsets=(6, 10))}, bytes(10))
    st("st-uncovered", "{}: tensors cover 4 of 5 data bytes", {"a": entry()}, bytes(5))
    st("st-name-empty", "{}: the tensor name \"\" is empty, too long or holds control characters", {"": entry()}, bytes(4))
    st("st-name-escape", "{}: the tensor name \"?[2J\" is empty, too long or holds control characters",
       {"\x1b[2J": entry()}, bytes(4))


# ---- Hugging Face directories ----

def hf(name, sentence, change, **more):
    d = Directory()
    change(d)
    d.write(name)
    expect(name, sentence, **more)


def configured(name, field, item, sentence, **more):
    hf(name, sentence, lambda d: d.config.__setitem__(field, item), **more)


def nvfp4(d, rows=FFN, cols=32, scale="F8_E4M3", scale_shape=None, second=1.0, packed=False,
          scale_data=None):
    """mlp.up_proj in NVFP4 (32 columns: the network does not fit any more, the companions come first)."""
    stem = "model.layers.0.mlp.up_proj"
    del d.tensors[f"{stem}.weight"]
    d.tensors[f"{stem}.weight_packed" if packed else f"{stem}.weight"] = ("U8", [rows, cols // 2], None)
    d.tensors[f"{stem}.weight_scale"] = (scale, scale_shape or [rows, cols // 16], scale_data)
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
    hf("hf-dims-beside-0", "{}/model.safetensors: the dimensions of tensor x.weight multiply past 2^57",
       lambda d: d.tensors.__setitem__("x.weight", ("BF16", [1 << 50, 0, 256], b"")), command="quantize")
    hf("hf-norm-of-0", "{}: tensor model.norm.weight has the shape [1, 0], expected [1, 8]",
       lambda d: d.tensors.__setitem__("model.norm.weight", ("F16", [0], b"")))
    hf("kv-scale-nan", "{}: tensor model.layers.0.self_attn.k_proj.k_scale is no single number from 6e-08 to 16000",
       lambda d: d.tensors.__setitem__("model.layers.0.self_attn.k_proj.k_scale", ("F32", [], struct.pack("<f", NAN))))
    hf("kv-scales-of-two", "{}: tensor model.layers.0.self_attn.v_scale is no single number from 6e-08 to 16000",
       lambda d: d.tensors.__setitem__("model.layers.0.self_attn.v_scale", ("F32", [2], None)))
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
    hf("nvfp4-scale-nan", s + f"tensor {up}.weight: the scale of block 1 in row 3 is no number",
       lambda d: nvfp4(d, scale_data=bytes([0x38] * 7 + [0xff] + [0x38] * 8)))
    hf("mxfp4-scale-nan", s + f"tensor {up}.weight: the scale of block 0 in row 7 is no number",
       lambda d: nvfp4(d, scale="U8", scale_shape=[FFN, 1], second=None, scale_data=bytes([0x7f] * 7 + [0xff])))
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
    configured("run-model-type", "model_type", "mamba", c + ": model_type is \"mamba\", nibble computes llama, mistral, qwen2, qwen3, gemma2, gemma3, granite, smollm3, phi3, olmo2, olmo3, exaone4 and ministral3",
               room="model", command="run")
    configured("run-act", "hidden_act", "relu", c + ": hidden_act is \"relu\", nibble computes silu", room="model",
               command="run")
    configured("run-gptq", "quantization_config", {"quant_method": "gptq"},
               "{}: quant_method is \"gptq\", nibble reads modelopt, fp8 and compressed-tensors", room="model", command="run")
    hf("run-bias-hf", "{}: tensor model.layers.0.self_attn.q_proj.bias is not part of a qwen3 network as nibble computes it",
       lambda d: d.tensors.__setitem__("model.layers.0.self_attn.q_proj.bias", ("F16", [8], None)), room="model",
       command="run")
    hf("run-no-config", "{}: has no config.json", lambda d: setattr(d, "raw_config", b""), room="model", command="run")
    hf("run-fp8-blocks", s + f"{up}.weight_scale holds neither one scale nor one per row, per 32 columns (E8M0) or per tile of 128 x 128",
       lambda d: fp8(d, ("F32", [2, 2], None)), room="model", command="run")
