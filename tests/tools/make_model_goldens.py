#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Golden models: small random checkpoints of each family and their logits by `transformers` in FP32.

    python3 tests/tools/make_model_goldens.py [OUT [CASE...]]      (default: tests/golden/models, all)

needs torch, transformers, tokenizers, safetensors and gguf; the versions used stand in OUT/VERSIONS.
Each case is a directory: config.json and model.safetensors (BF16), for some the same network as model.gguf,
and raw little-endian arrays: tokens.i32 [n], prefill.f32 [n, vocab] from one forward over all tokens,
decode.f32 [n, vocab] from one forward per token with a cache. Weights are rounded to BF16, then everything
is computed in FP32. Read by tests/unit/engine/test_model_goldens.c and tests/unit/model/test_model.c.
"""
import json
import pathlib
import platform
import sys
from importlib.metadata import version

import gguf
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (Exaone4Config, Exaone4ForCausalLM, Gemma2Config, Gemma2ForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig, GraniteConfig, GraniteForCausalLM, LlamaConfig,
                          LlamaForCausalLM, Ministral3Config, Ministral3ForCausalLM, MistralConfig, MistralForCausalLM, Olmo2Config, Olmo2ForCausalLM, Olmo3Config, Olmo3ForCausalLM, Phi3Config, Phi3ForCausalLM,
                          Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM, SmolLM3Config,
                          SmolLM3ForCausalLM)

N_TOKENS = 60  # longer than every sliding window here, shorter than one KV page
N_LONG = 150   # more than two KV pages


def randomize(model, plus_one, generator):
    """Weights of a size that makes every part matter: a default initialization hardly moves the logits."""
    for name, p in model.named_parameters():
        if p.dim() == 1:
            value = torch.empty_like(p).uniform_(-0.4, 0.4, generator=generator) + (0.0 if plus_one else 1.0)
        else:
            gain = 1.0 if "embed_tokens" in name else 1.6 / p.shape[1] ** 0.5
            value = torch.empty_like(p).normal_(0.0, gain, generator=generator)
        p.data.copy_(value.to(torch.bfloat16).to(torch.float32))
    # The published Gemma checkpoints are BF16, and so is the embedding's factor then.
    embed = model.get_input_embeddings()
    if hasattr(embed, "embed_scale"):
        embed.embed_scale.copy_(embed.embed_scale.to(torch.bfloat16).to(torch.float32))


def logits_of(model, tokens):
    with torch.no_grad():
        prefill = model(input_ids=tokens[None], use_cache=False).logits[0]
        rows, cache = [], None
        for t in tokens:
            out = model(input_ids=t.reshape(1, 1), past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            rows.append(out.logits[0, -1])
        decode = torch.stack(rows)
    distance = (prefill - decode).norm() / prefill.norm()
    assert distance < 1e-5, f"transformers disagrees with itself: {distance}"
    assert prefill.std() > 0.5, "logits that say nothing"
    return prefill, decode


# ---- GGUF: names, the Q/K row order of Llama, Gemma's +1 ----

GGUF_NAMES = {
    "model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
GGUF_LAYER_NAMES = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm", "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "self_attn.qkv_proj": "attn_qkv",
    "mlp.gate_up_proj": "ffn_up",
}
GGUF_NORM_AFTER_NAMES = {**GGUF_LAYER_NAMES, "post_attention_layernorm": "post_attention_norm",
                         "post_feedforward_layernorm": "post_ffw_norm"}
GGUF_GEMMA_NAMES = {**GGUF_LAYER_NAMES, "post_attention_layernorm": "post_attention_norm",
                    "pre_feedforward_layernorm": "ffn_norm", "post_feedforward_layernorm": "post_ffw_norm"}


GEMMAS = ("gemma2", "gemma3")
PERMUTED = ("llama", "granite", "smollm3", "mistral3")  # rows of q and k in GGUF's order


def gguf_name(arch, name):
    if name in GGUF_NAMES:
        return GGUF_NAMES[name]
    _, _, layer, rest = name.split(".", 3)
    table = (GGUF_GEMMA_NAMES if arch in GEMMAS else GGUF_NORM_AFTER_NAMES if arch in ("olmo2", "exaone4")
             else GGUF_LAYER_NAMES)
    stem, kind = rest.rsplit(".", 1)
    return f"blk.{layer}.{table[stem]}.{kind}"


def interleave_rows(w, n_heads):
    """Rows (i, i + D/2) of each head become neighbours (2i, 2i + 1): GGUF's order for Llama's q and k."""
    return w.reshape(n_heads, 2, w.shape[0] // n_heads // 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)


def write_gguf(path, arch, config, state, rope_divisors=None):
    w = gguf.GGUFWriter(str(path), arch)
    w.add_context_length(config.max_position_embeddings)
    w.add_embedding_length(config.hidden_size)
    w.add_block_count(config.num_hidden_layers)
    w.add_feed_forward_length(config.intermediate_size)
    w.add_head_count(config.num_attention_heads)
    w.add_head_count_kv(config.num_key_value_heads)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    w.add_key_length(head_dim)
    w.add_value_length(head_dim)
    if arch == "granite":
        w.add_embedding_scale(config.embedding_multiplier)
        w.add_residual_scale(config.residual_multiplier)
        w.add_attention_scale(config.attention_multiplier)
        w.add_logit_scale(config.logits_scaling)
    w.add_layer_norm_rms_eps(config.rms_norm_eps)
    w.add_vocab_size(config.vocab_size)
    rope = config.rope_parameters
    if arch == "gemma3":
        w.add_sliding_window(config.sliding_window)
        rope = rope["full_attention"]
        w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        w.add_rope_scaling_factor(rope["factor"])
    if arch == "gemma2":
        w.add_sliding_window(config.sliding_window)
        w.add_attn_logit_softcapping(config.attn_logit_softcapping)
        w.add_final_logit_softcapping(config.final_logit_softcapping)
    if "full_attention" in rope and arch == "olmo2":  # OLMo 3
        w.add_sliding_window(config.sliding_window)
        rope = rope["full_attention"]
    if arch == "exaone4":
        w.add_sliding_window(config.sliding_window)
    if arch == "phi3":
        w.add_rope_dimension_count(int(head_dim * rope["partial_rotary_factor"]))
    if rope["rope_type"] == "yarn":
        w.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        w.add_rope_scaling_factor(rope["factor"])
        w.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if arch == "mistral3":
        w.add_rope_scaling_yarn_log_mul(rope["mscale_all_dim"])
        w.add_attn_temperature_scale(rope["llama_4_scaling_beta"])
    w.add_rope_freq_base(rope["rope_theta"])
    if arch in PERMUTED:
        w.add_rope_dimension_count(head_dim)
    if rope_divisors is not None:
        w.add_tensor("rope_freqs.weight", rope_divisors.numpy())
    for name, value in state.items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        value = value.to(torch.float32).numpy()
        if arch in PERMUTED and "q_proj" in name:
            value = interleave_rows(value, config.num_attention_heads)
        if arch in PERMUTED and "k_proj" in name:
            value = interleave_rows(value, config.num_key_value_heads)
        if arch in GEMMAS and name.endswith("norm.weight"):
            value = value + np.float32(1)
        if value.ndim == 1:
            w.add_tensor(gguf_name(arch, name), value)
        else:
            data = torch.from_numpy(np.ascontiguousarray(value)).to(torch.bfloat16).view(torch.uint8).numpy()
            w.add_tensor(gguf_name(arch, name), data, raw_dtype=gguf.GGMLQuantizationType.BF16)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def llama3_divisors(model, config):
    """What GGUF's rope_freqs holds: unscaled frequency / scaled frequency."""
    half = config.head_dim // 2
    plain = config.rope_parameters["rope_theta"] ** -(torch.arange(half, dtype=torch.float64) / half)
    return (plain / model.model.rotary_emb.inv_freq.to(torch.float64)).to(torch.float32)


# ---- Hugging Face directories ----

def write_tokenizer(where):
    """A byte-level BPE of 256 bytes and a few merges, pre-split as SmolLM2's, with ChatML's control tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "t"), ("h", "e"), ("i", "n"), ("r", "e"), ("o", "n"), ("Ġt", "he"), ("e", "r"), ("Ġ", "a"),
              ("a", "t"), ("in", "g"), ("e", "s"), ("o", "r"), ("Ġ", "s"), ("Ġ", "o"), ("e", "n"), ("a", "n")]
    control = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    pieces = control + alphabet + [a + b for a, b in merges]
    t = Tokenizer(models.BPE(vocab={p: i for i, p in enumerate(pieces)}, merges=merges))
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                               pre_tokenizers.ByteLevel(add_prefix_space=False)])
    t.decoder = decoders.ByteLevel()
    t.add_special_tokens([AddedToken(c, special=True) for c in control])
    t.save(str(where / "tokenizer.json"))
    template = ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + "
                "'<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}"
                "{{ '<|im_start|>assistant\n' }}{% endif %}")
    settings = {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<|im_start|>", "eos_token": "<|im_end|>",
                "unk_token": "<|endoftext|>", "chat_template": template}
    (where / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    return len(pieces)


def older_config(where):
    """The spelling of checkpoints before transformers 5: rope_theta and rope_scaling side by side."""
    config = json.loads((where / "config.json").read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = {"type": rope.pop("rope_type"), **rope}
    config["torch_dtype"] = config.pop("dtype")
    (where / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def nested_config(where):
    """The spelling of multimodal Gemma checkpoints: text_config without its defaults, prefixed names, and
    tensors of a vision tower that are none of the text network's business."""
    config = json.loads((where / "config.json").read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope["full_attention"]["rope_theta"]
    config["rope_scaling"] = None
    for key in ("architectures", "dtype", "transformers_version", "rms_norm_eps", "vocab_size_per_layer_input",
                "max_position_embeddings", "tie_word_embeddings", "attention_bias", "hidden_activation"):
        config.pop(key, None)
    outer = {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "text_config": config,
             "vision_config": {"model_type": "siglip_vision_model"}, "dtype": "bfloat16"}
    (where / "config.json").write_text(json.dumps(outer, indent=2) + "\n")
    state = load_file(where / "model.safetensors")
    state = {"language_model." + k: v for k, v in state.items()}
    state["vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.bias"] = torch.zeros(8, dtype=torch.bfloat16)
    state["multi_modal_projector.mm_soft_emb_norm.weight"] = torch.zeros(8, dtype=torch.bfloat16)
    save_file(state, where / "model.safetensors", metadata={"format": "pt"})


def nested_ministral(where):
    """The spelling of published Ministral 3 checkpoints: a Mistral 3 around the text network."""
    config = json.loads((where / "config.json").read_text())
    for key in ("architectures", "dtype", "transformers_version"):
        config.pop(key, None)
    outer = {"architectures": ["Mistral3ForConditionalGeneration"], "model_type": "mistral3", "text_config": config,
             "vision_config": {"model_type": "pixtral"}, "dtype": "bfloat16"}
    (where / "config.json").write_text(json.dumps(outer, indent=2) + "\n")
    state = {"language_model." + k: v for k, v in load_file(where / "model.safetensors").items()}
    state["vision_tower.ln_pre.weight"] = torch.zeros(8, dtype=torch.bfloat16)
    save_file(state, where / "model.safetensors", metadata={"format": "pt"})


def write_case(out, name, model_class, config, n_tokens=N_TOKENS, arch=None, rewrite=None, divisors=False):
    if sys.argv[2:] and name not in sys.argv[2:]:
        return
    where = out / name
    where.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(sum(name.encode()))
    config._attn_implementation = "eager"
    model = model_class(config).eval().to(torch.float32)
    plus_one = "Gemma" in model_class.__name__
    randomize(model, plus_one, generator)
    tokens = torch.randint(0, config.vocab_size, (n_tokens,), generator=generator)
    prefill, decode = logits_of(model, tokens)
    tokens.numpy().astype("<i4").tofile(where / "tokens.i32")
    prefill.numpy().astype("<f4").tofile(where / "prefill.f32")
    decode.numpy().astype("<f4").tofile(where / "decode.f32")
    state = dict(model.state_dict())
    if arch:
        write_gguf(where / "model.gguf", arch, config, state, llama3_divisors(model, config) if divisors else None)
    model.to(torch.bfloat16).save_pretrained(where)
    (where / "generation_config.json").unlink(missing_ok=True)
    if rewrite:
        rewrite(where)
    size = sum(f.stat().st_size for f in where.iterdir())
    print(f"{name}: {n_tokens} tokens, logits std {prefill.std():.2f}, {size} bytes")


def main():
    out = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "tests/golden/models")
    torch.set_num_threads(1)
    small = dict(vocab_size=40, hidden_size=24, num_hidden_layers=2, intermediate_size=40, head_dim=16,
                 num_attention_heads=3, num_key_value_heads=1, max_position_embeddings=512)

    write_case(out, "llama-untied", LlamaForCausalLM,
               LlamaConfig(**small, rms_norm_eps=1e-5, tie_word_embeddings=False,
                           rope_parameters={"rope_type": "default", "rope_theta": 10000.0}), arch="llama")
    llama3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
              "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    write_case(out, "llama-llama3-rope", LlamaForCausalLM,
               LlamaConfig(**{**small, "hidden_size": 30, "num_attention_heads": 5, "num_key_value_heads": 5,
                              "head_dim": 6, "vocab_size": 24},
                           rms_norm_eps=1e-5, tie_word_embeddings=True, rope_parameters=llama3),
               n_tokens=N_LONG, arch="llama", divisors=True)
    write_case(out, "llama-linear-rope", LlamaForCausalLM,
               LlamaConfig(**{**small, "num_hidden_layers": 1}, rms_norm_eps=1e-6, tie_word_embeddings=True,
                           rope_parameters={"rope_type": "linear", "rope_theta": 5000.0, "factor": 4.0}),
               rewrite=older_config)
    write_case(out, "qwen3-tied", Qwen3ForCausalLM,
               Qwen3Config(**{**small, "head_dim": 32}, rms_norm_eps=1e-6, tie_word_embeddings=True,
                           rope_parameters={"rope_type": "default", "rope_theta": 1e6}), arch="qwen3")
    write_case(out, "qwen3-untied", Qwen3ForCausalLM,
               Qwen3Config(**{**small, "num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 10,
                              "num_hidden_layers": 3}, rms_norm_eps=1e-6, tie_word_embeddings=False,
                           rope_parameters={"rope_type": "default", "rope_theta": 1e6}))
    # Past the original context of 32, so that what YaRN stretches counts.
    yarn = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32}
    write_case(out, "qwen3-yarn", Qwen3ForCausalLM,
               Qwen3Config(**{**small, "head_dim": 16, "num_hidden_layers": 1, "vocab_size": 24,
                              "max_position_embeddings": 128}, rms_norm_eps=1e-6, tie_word_embeddings=True,
                           rope_parameters=yarn), n_tokens=100, arch="qwen3")
    gemma_rope = {"sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
                  "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0}}
    # Seven layers: six local and one global by the rule of six. Window 12 of 60 tokens.
    # Three layers: the first and the third see the last 7 of 60 tokens. Caps that nearly all scores and logits feel.
    write_case(out, "gemma2", Gemma2ForCausalLM,
               Gemma2Config(**{**small, "num_hidden_layers": 3}, rms_norm_eps=1e-6, tie_word_embeddings=True,
                            query_pre_attn_scalar=16, sliding_window=7, attn_logit_softcapping=3.0,
                            final_logit_softcapping=2.0,
                            rope_parameters={"rope_type": "default", "rope_theta": 10000.0}), arch="gemma2")
    write_case(out, "gemma3", Gemma3ForCausalLM,
               Gemma3TextConfig(**{**small, "num_hidden_layers": 7},
                                sliding_window=12, query_pre_attn_scalar=16, rms_norm_eps=1e-6,
                                rope_parameters=gemma_rope), arch="gemma3")
    plain_rope = {**gemma_rope, "full_attention": {"rope_type": "default", "rope_theta": 1e6}}
    write_case(out, "gemma3-nested", Gemma3ForCausalLM,
               Gemma3TextConfig(**{**small, "hidden_size": 36, "num_hidden_layers": 3},
                                layer_types=["sliding_attention", "full_attention", "sliding_attention"], sliding_window=5,
                                query_pre_attn_scalar=20, rope_parameters=plain_rope), rewrite=nested_config)
    plain = {"rope_type": "default", "rope_theta": 10000.0}
    tiny = {**small, "num_hidden_layers": 1, "vocab_size": 24}
    del tiny["head_dim"]
    write_case(out, "qwen2", Qwen2ForCausalLM,
               Qwen2Config(**{**tiny, "num_attention_heads": 2, "num_hidden_layers": 2}, rms_norm_eps=1e-6,
                           tie_word_embeddings=True, rope_parameters=plain), arch="qwen2")
    # Both layers see the last 9 of 60 tokens.
    write_case(out, "mistral-window", MistralForCausalLM,
               MistralConfig(**{**tiny, "head_dim": 6, "num_hidden_layers": 2}, sliding_window=9, rms_norm_eps=1e-5,
                             tie_word_embeddings=False, rope_parameters=plain))
    # Queries grow twice on the way: 40 tokens beyond the original context of 20.
    ministral = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 20,
                 "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.4}
    write_case(out, "ministral3", Ministral3ForCausalLM,
               Ministral3Config(**{**tiny, "head_dim": 8, "num_hidden_layers": 2, "max_position_embeddings": 80},
                                rms_norm_eps=1e-5, tie_word_embeddings=False, rope_parameters=ministral),
               arch="mistral3", rewrite=nested_ministral)
    # What says llama in config.json: Yi (grouped heads, a large base), TinyLlama (its older spelling), Falcon 3
    # (head_dim of its own, an untied head and a base of a million).
    write_case(out, "yi", LlamaForCausalLM,
               LlamaConfig(**{**tiny, "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
                           rms_norm_eps=1e-5, tie_word_embeddings=False, rope_parameters={**plain, "rope_theta": 5e6}))
    write_case(out, "tinyllama", LlamaForCausalLM,
               LlamaConfig(**{**tiny, "num_attention_heads": 4, "num_hidden_layers": 2}, rms_norm_eps=1e-5,
                           tie_word_embeddings=False, rope_parameters=plain), rewrite=older_config)
    write_case(out, "falcon3", LlamaForCausalLM,
               LlamaConfig(**{**tiny, "head_dim": 16, "num_key_value_heads": 3}, rms_norm_eps=1e-6,
                           tie_word_embeddings=False, rope_parameters={**plain, "rope_theta": 1000042.0}))
    write_case(out, "granite", GraniteForCausalLM,
               GraniteConfig(**{**tiny, "num_attention_heads": 2, "num_hidden_layers": 2}, rms_norm_eps=1e-5,
                             tie_word_embeddings=True, embedding_multiplier=3.0, attention_multiplier=0.2,
                             residual_multiplier=0.4, logits_scaling=0.7, rope_parameters=plain), arch="granite")
    # Five layers: the fourth has no RoPE.
    write_case(out, "smollm3", SmolLM3ForCausalLM,
               SmolLM3Config(**{**tiny, "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 5,
                                "intermediate_size": 24}, pad_token_id=0, bos_token_id=1, eos_token_id=2, rms_norm_eps=1e-6, tie_word_embeddings=True,
                             rope_parameters=plain), arch="smollm3")
    write_case(out, "llama-biases", LlamaForCausalLM,
               LlamaConfig(**{**tiny, "num_attention_heads": 2}, rms_norm_eps=1e-5, tie_word_embeddings=True,
                           attention_bias=True, rope_parameters=plain))
    # As long as it was trained for: the short divisors; two heads of 12 in one tensor with k and v.
    longrope = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1 + 0.2 * i for i in range(6)],
                "long_factor": [4.0 + i for i in range(6)], "original_max_position_embeddings": 512}
    write_case(out, "phi3", Phi3ForCausalLM,
               Phi3Config(**{**tiny, "num_attention_heads": 2, "num_hidden_layers": 2}, pad_token_id=0, bos_token_id=1, eos_token_id=2, rms_norm_eps=1e-5,
                          original_max_position_embeddings=512, tie_word_embeddings=False, rope_parameters=longrope))
    # Phi 4 mini: three quarters of each head turn; the embedding is the head.
    write_case(out, "phi4-mini", Phi3ForCausalLM,
               Phi3Config(**{**tiny, "hidden_size": 32, "num_attention_heads": 2}, pad_token_id=0, bos_token_id=1, eos_token_id=2,
                          rms_norm_eps=1e-5, tie_word_embeddings=True, sliding_window=None,
                          rope_parameters={**plain, "partial_rotary_factor": 0.75}), arch="phi3")
    # Norms behind the halves; q and k normed over all their heads, of which there are not as many.
    write_case(out, "olmo2", Olmo2ForCausalLM,
               Olmo2Config(**{**tiny, "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2}, rms_norm_eps=1e-6,
                           pad_token_id=0, eos_token_id=1, tie_word_embeddings=False, rope_parameters=plain), arch="olmo2")
    # Four layers: three see the last 7 of 60 tokens, the fourth all of them, by YaRN past an original context of 32.
    write_case(out, "olmo3", Olmo3ForCausalLM,
               Olmo3Config(**{**tiny, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_hidden_layers": 4,
                              "max_position_embeddings": 128},
                           rms_norm_eps=1e-6, pad_token_id=0, eos_token_id=1, tie_word_embeddings=False, sliding_window=7,
                           rope_parameters={"sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
                                            "full_attention": yarn}), arch="olmo2")
    # Four layers: three see the last 7 of 60 tokens, the fourth all of them, without RoPE.
    write_case(out, "exaone4", Exaone4ForCausalLM,
               Exaone4Config(**{**tiny, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_hidden_layers": 4},
                             head_dim=8, rms_norm_eps=1e-5, bos_token_id=0, eos_token_id=1, tie_word_embeddings=True, sliding_window=7,
                             sliding_window_pattern=4, rope_parameters=plain), arch="exaone4")
    # One with words, for the engine's tests.
    where = out / "llama-words"
    where.mkdir(parents=True, exist_ok=True)
    vocab = write_tokenizer(where)
    write_case(out, "llama-words", LlamaForCausalLM,
               LlamaConfig(**{**small, "vocab_size": vocab + 5, "num_hidden_layers": 2}, rms_norm_eps=1e-5,
                           tie_word_embeddings=True, bos_token_id=1, eos_token_id=2,
                           rope_parameters={"rope_type": "default", "rope_theta": 10000.0}), n_tokens=10)

    packages = ("torch", "transformers", "tokenizers", "safetensors", "gguf", "numpy")
    lines = [f"{p} {version(p)}" for p in packages] + [f"python {platform.python_version()}"]
    (out / "VERSIONS").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
