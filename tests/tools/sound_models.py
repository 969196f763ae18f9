# SPDX-License-Identifier: Apache-2.0
"""The sound models of make_bad_files.py: good/, one per convention of names, shapes and quantization, and the
fuzz targets' seeds made from them.
"""
import json
import struct

from tiny_models import (ARRAY, BOOL, DIM, F32, FFN, GGML_F16, GGML_F32, GGML_Q4_0, HEADS, HEAD_DIM, I32,
                         KV_HEADS, SIZES, STRING, U16, U32, VOCAB, Directory, Gguf, entry, seed, st_bytes,
                         st_file, write)

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

    def fp8_tiles(d):
        quantized_up(d, {"weight": ("F8_E4M3", [FFN, 160], bytes(i % 0x7F for i in range(FFN * 160))),
                         "weight_scale_inv": ("F32", [1, 2], f32(0.5, 2.0))}, cols=160)
        d.config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [128, 128]}

    def fp8_tiles_4d(d):
        fp8_tiles(d)
        d.tensors[f"{UP}.weight_scale"] = ("F32", [1, 1, 2, 1], d.tensors.pop(f"{UP}.weight_scale_inv")[2])
        d.tensors = dict(sorted(d.tensors.items(), key=lambda x: -SIZES[x[1][0]]))
        d.config["quantization_config"] = {"quant_method": "modelopt", "quant_algo": "FP8_PB_WO"}

    def mxfp8(d):
        quantized_up(d, {"weight": ("F8_E4M3", [FFN, 64], bytes(i % 0x7F for i in range(FFN * 64))),
                         "weight_scale": ("U8", [FFN, 2], bytes(120 + i for i in range(2 * FFN)))}, cols=64)
        d.config["quantization_config"] = {"quant_method": "modelopt", "quant_algo": "MXFP8"}

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
                         ("fp8-tiles", fp8_tiles), ("fp8-tiles-4d", fp8_tiles_4d), ("mxfp8", mxfp8),
                         ("gemma3", gemma), ("llama", llama)):
        d = Directory()
        change(d)
        d.write(f"good/{name}")
        config = json.dumps(d.config).encode()
        seed("store/corpus_directory", name, struct.pack("<H", len(config)) + config + st_file(d.tensors))
        seed("store/corpus_config", name, config)
        seed("store/corpus_safetensors", name, st_file(d.tensors))


def config_seeds():
    """What only config.json's reader sees: every family and RoPE scaling."""
    seeds = {
        "yarn": {"model_type": "qwen3", "max_position_embeddings": 8192,
                 "rope_scaling": {"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 2048, "mscale": 1,
                                  "mscale_all_dim": 0.5, "beta_fast": 32, "truncate": False, "attention_factor": 1.1}},
        "phi3": {"model_type": "phi3", "head_dim": 4, "original_max_position_embeddings": 512,
                 "rope_scaling": {"rope_type": "longrope", "short_factor": [1, 2], "long_factor": [1, 4]}},
        "phi4-mini": {"model_type": "phi3", "head_dim": 8, "partial_rotary_factor": 0.75},
        "olmo2": {"model_type": "olmo2", "attention_bias": False},
        "gemma2": {"model_type": "gemma2", "sliding_window": 8, "attn_logit_softcapping": None, "final_logit_softcapping": 30.0},
        "olmo3": {"model_type": "olmo3", "rope_parameters": {"sliding_attention": {"rope_type": "default", "rope_theta": 500000},
                                                            "full_attention": {"rope_type": "linear", "factor": 8}}},
        "exaone4": {"model_type": "exaone4", "num_hidden_layers": 4, "sliding_window": 8, "sliding_window_pattern": "LLLG"},
        "smollm3": {"model_type": "smollm3", "num_hidden_layers": 2, "no_rope_layers": [0, 1],
                    "rope_scaling": {"rope_type": "dynamic", "factor": 2}},
        "granite": {"model_type": "granite", "embedding_multiplier": 12, "attention_multiplier": 0.01,
                    "residual_multiplier": 0.2, "logits_scaling": 8, "attention_bias": True},
        "mistral": {"model_type": "mistral", "sliding_window": 32},
        "ministral3": {"model_type": "mistral3", "text_config": {
            "model_type": "ministral3", "rope_parameters": {"type": "yarn", "original_max_position_embeddings": 16384, "factor": 16,
                                                            "mscale": 1, "mscale_all_dim": 1, "llama_4_scaling_beta": 0.1}}},
        "qwen2": {"model_type": "qwen2", "use_sliding_window": True, "max_window_layers": 3}}
    for name, config in seeds.items():
        seed("store/corpus_config", name, json.dumps(config).encode())


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

    def careless(g):
        """Metadata as people's files have it: ids outside the vocabulary, scores that nobody reads, an array of
        one number per layer, a key of nobody's."""
        qwen3(g)
        g.key("tokenizer.ggml.scores", ARRAY, (I32, [-1000] * VOCAB))
        g.key("tokenizer.ggml.padding_token_id", U32, 0xFFFFFFFF)
        g.key("tokenizer.ggml.eos_token_id", U32, VOCAB)
        g.key("tokenizer.ggml.eot_token_id", I32, -1)
        g.key("qwen3.attention.head_count_kv", ARRAY, (I32, [KV_HEADS]))
        g.key("qwen3.nobody.knows", STRING, "this")

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
        seed("convert/corpus_quantize", name, wide(change, *kind, choice))

    for name, change in (("llama", lambda g: None), ("qwen3", qwen3), ("gemma3", gemma3), ("nvfp4", nvfp4),
                         ("careless", careless)):
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
