# SPDX-License-Identifier: Apache-2.0
"""Kinds of files that people have, one small input each: nibble's perplexity against FP64 by numpy (small_llama.py), or
the sentence that refuses what is wrong. docs/results/files.md has the same list, printed by tests/tools/report_files.py.
"""
import json
import pathlib
import shutil
import struct
import sys

import numpy as np
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tools"))
import small_llama as small  # noqa: E402

W = small.weights()
DOWN = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture
def measure(nibble, tmp_path):
    """The perplexity of a model, or the sentence that refuses it."""
    text = tmp_path / "text.txt"
    text.write_text(small.TEXT)

    def run(model):
        done = nibble("eval", "ppl", model, "--text", text, "--ctx", small.CONTEXT, "--chunks", 2, "--json", "--activations", "f32",
                      "--kv-cache-dtype", "fp32", check=False)
        return json.loads(done.stdout)["ppl"] if done.returncode == 0 else done.stderr
    return run


@pytest.fixture(scope="session")
def ids(nibble, tmp_path_factory):
    folder = small.directory(tmp_path_factory.mktemp("ids") / "m", W)
    return [int(x) for x in nibble("tokenize", folder, "--ids", "--no-bos", stdin=small.TEXT).stdout.split()]


@pytest.fixture(scope="session")
def plain(ids):
    return small.perplexity(W, ids)


def same(got, want):
    assert isinstance(got, float), got
    assert got == pytest.approx(want, rel=1e-4)


# ---- formats of directories ----

def quantized(method, layer):
    """LAYER(stem, weight) gives the tensors stored for a linear layer, and its values."""
    stored, values = {}, dict(W)
    for name, weight in W.items():
        if small.is_linear(name):
            tensors, values[name] = layer(name[:-7], weight)
            stored.update(tensors)
        else:
            stored[name] = weight
    return stored, values, small.config(quantization_config=method)


MODELOPT = {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head"]}


def nvfp4_layer(stem, weight):
    codes, block_scales, scale, values = small.nvfp4(weight)
    return {f"{stem}.weight": codes, f"{stem}.weight_scale": block_scales, f"{stem}.weight_scale_2": np.array(scale, np.float32)}, values


def compressed_layer(stem, weight):
    codes, block_scales, scale, _ = small.nvfp4(weight)
    divisor = np.array([1 / scale], np.float32)
    steps = np.repeat(block_scales.astype(np.float32), 16, 1) / divisor
    both = np.stack([codes & 15, codes >> 4], -1).reshape(codes.shape[0], -1)
    return {f"{stem}.weight_packed": codes, f"{stem}.weight_scale": block_scales, f"{stem}.weight_global_scale": divisor}, small.GRID[both] * steps


def mxfp4_layer(kind):
    def layer(stem, weight):
        codes, exponents, values = small.mxfp4(weight)
        packed = small.paired(codes)
        if kind == "F4":
            return {f"{stem}.weight_packed": ("F4", codes.shape, packed.tobytes()),
                    f"{stem}.weight_scale": ("F8_E8M0", exponents.shape, exponents.tobytes())}, values
        return {f"{stem}.weight_packed": packed, f"{stem}.weight_scale": exponents}, values
    return layer


def fp8_layer(kind):
    def layer(stem, weight):
        w = np.abs(np.asarray(weight).astype(np.float32))
        if kind in ("tensor", "static"):
            scale = np.array(w.max() / 448, np.float32)
            over = scale
        elif kind == "rows":
            scale = (w.max(1, keepdims=True) / 448).astype(np.float32)
            over = scale
        elif kind == "mx":
            exponents = np.ceil(np.log2(w.reshape(w.shape[0], -1, 32).max(-1) / 448)).astype(int)
            codes, values = small.fp8(weight, np.repeat(2.0 ** exponents, 32, 1).astype(np.float32))
            return {f"{stem}.weight": codes, f"{stem}.weight_scale": (exponents + 127).astype(np.uint8)}, values
        else:  # tiles of 128 x 128: every matrix here is one tile
            scale = np.full((1, 1) if kind == "tiles" else (1, 1, 1, 1), w.max() / 448, np.float32)
            over = scale.reshape(())
        codes, values = small.fp8(weight, over)
        if kind == "static":
            return {f"{stem}.weight": codes, f"{stem}.weight_scale_inv": scale, f"{stem}.activation_scale": np.array(0.05, np.float32)}, values
        name = "weight_scale_inv" if kind == "tiles" else "weight_scale"
        return {f"{stem}.weight": codes, f"{stem}.{name}": scale}, values
    return layer


def mixed_layer(stem, weight):
    return fp8_layer("tensor")(stem, weight) if "self_attn" in stem else nvfp4_layer(stem, weight)


MIXED = {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION",
         "quantized_layers": {f"model.layers.{i}.{n}": {"quant_algo": a} for i in range(small.LAYERS)
                              for n, a in (("self_attn.qkv_proj", "FP8"), ("self_attn.o_proj", "FP8"), ("mlp", "NVFP4"))}}
FORMATS = {
    "ModelOpt NVFP4": (MODELOPT, nvfp4_layer),
    "compressed-tensors NVFP4": ({"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"}, compressed_layer),
    "compressed-tensors MXFP4": ({"quant_method": "compressed-tensors", "format": "mxfp4-pack-quantized"}, mxfp4_layer("U8")),
    "MXFP4 codes of type F4, scales F8_E8M0": ({"quant_method": "compressed-tensors", "format": "mxfp4-pack-quantized"}, mxfp4_layer("F4")),
    "FP8, a scale per tensor": ({"quant_method": "modelopt", "quant_algo": "FP8"}, fp8_layer("tensor")),
    "FP8, a scale per tensor and of activations (Ministral 3)": (
        {"quant_method": "fp8", "activation_scheme": "static", "weight_block_size": None}, fp8_layer("static")),
    "FP8, a scale per row": ({"quant_method": "modelopt", "quant_algo": "FP8_PER_CHANNEL_PER_TOKEN"}, fp8_layer("rows")),
    "FP8 in tiles (weight_scale_inv)": ({"quant_method": "fp8", "weight_block_size": [128, 128]}, fp8_layer("tiles")),
    "FP8 in tiles (4-D weight_scale)": ({"quant_method": "modelopt", "quant_algo": "FP8_PB_WO"}, fp8_layer("tiles-4d")),
    "MXFP8": ({"quant_method": "modelopt", "quant_algo": "MXFP8"}, fp8_layer("mx")),
    "MIXED_PRECISION: attention FP8, MLP NVFP4": (MIXED, mixed_layer),
}


@pytest.mark.parametrize("name", FORMATS)
def test_format(measure, tmp_path, ids, name):
    stored, values, config = quantized(*FORMATS[name])
    same(measure(small.directory(tmp_path / "m", stored, config)), small.perplexity(values, ids))


@pytest.mark.parametrize("names", [("k_proj.k_scale", "v_proj.v_scale"), ("kv_scale",), ("k_proj.output_scale", "v_proj.output_scale"),
                                   ("q_scale", "prob_scale")], ids=lambda n: n[0])
def test_scales_of_an_fp8_cache(measure, nibble, tmp_path, ids, names):
    """inspect says what run does."""
    stored, values, config = quantized(MODELOPT, nvfp4_layer)
    for i in range(small.LAYERS):
        stored.update({f"model.layers.{i}.self_attn.{n}": np.array(1, np.float32) for n in names})
    folder = small.directory(tmp_path / "m", stored, config)
    same(measure(folder), small.perplexity(values, ids))
    assert "to run" in nibble("inspect", folder).stdout


# ---- heads ----

def test_a_head_of_its_own_though_config_ties_it(measure, nibble, tmp_path, plain):
    folder = small.directory(tmp_path / "m", W, small.config(tie_word_embeddings=True))
    same(measure(folder), plain)
    assert "is stored with other values" in nibble("inspect", folder).stdout


def test_only_the_head_of_a_tied_pair(measure, tmp_path, ids):
    stored = dict(W)
    stored["lm_head.weight"] = stored.pop("model.embed_tokens.weight")
    want = small.perplexity(W, ids, "model.embed_tokens.weight")
    same(measure(small.directory(tmp_path / "m", stored, small.config(tie_word_embeddings=True))), want)


# ---- what safetensors allows ----

@pytest.mark.parametrize("how", [{"pad": 0}, {"pad": 1}, {"front": b"\n"}], ids=["no padding", "odd offsets", "white space in front"])
def test_headers_of_any_length(measure, tmp_path, plain, how):
    same(measure(small.directory(tmp_path / "m", W, **how)), plain)


def test_a_tensor_of_no_elements(measure, tmp_path, plain):
    same(measure(small.directory(tmp_path / "m", {**W, "unused.empty": ("F32", (0,), b"")})), plain)


# ---- GGUF metadata ----

def metadata():
    from gguf import GGUFValueType as V
    return {"scores of INT32 beside byte pairs": {"tokenizer.ggml.scores": ([-1000] * small.VOCAB, V.ARRAY, V.INT32)},
            "padding id 2^32 - 1": {"tokenizer.ggml.padding_token_id": (2 ** 32 - 1, V.UINT32)},
            "padding id past the end": {"tokenizer.ggml.padding_token_id": (small.VOCAB, V.UINT32)},
            "eos id past the end": {"tokenizer.ggml.eos_token_id": (32000, V.UINT32)},
            "head_count_kv as a list": {"llama.attention.head_count_kv": ([small.KV_HEADS] * 2, V.ARRAY, V.INT32)},
            "a key of nobody's": {"llama.nobody.knows": ("this", V.STRING)}}


@pytest.mark.parametrize("what", list(metadata()))
def test_metadata_that_others_load(measure, tmp_path, plain, what):
    same(measure(small.gguf(tmp_path / "m.gguf", W, metadata()[what])), plain)


def test_another_name_of_a_pre_tokenizer(nibble, tmp_path):
    from gguf import GGUFValueType as V
    files = [small.gguf(tmp_path / f"{pre}.gguf", W, {"tokenizer.ggml.pre": (pre, V.STRING)}) for pre in ("falcon3", "llama-bpe")]
    one, other = (nibble("tokenize", f, "--ids", "--no-bos", stdin=small.TEXT).stdout for f in files)
    assert one == other != ""


# ---- ends of turns ----

CHATML = ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
          "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")


@pytest.mark.parametrize("kind", [3, 4, 1], ids=["control", "user-defined", "normal"])
def test_an_end_of_turn_of_any_type(nibble, tmp_path, kind):
    """A model that says <|im_end|> whatever it is asked."""
    from gguf import GGUFValueType as V
    values = {k: np.zeros_like(v) if small.is_linear(k) else np.ones_like(v) for k, v in W.items()}
    values["lm_head.weight"] = np.zeros_like(W["lm_head.weight"])
    values["lm_head.weight"][261] = 1
    model = small.gguf(tmp_path / "m.gguf", values, {"tokenizer.chat_template": (CHATML, V.STRING)},
                       [1] * 258 + [3, 3, kind, kind, 5, 5])
    assert nibble("run", "--chat", "--max-tokens", 3, model, "hi").stdout.strip() == ""
    assert nibble("run", "--no-chat", "--temperature", 0, "--max-tokens", 3, model, "hi").stdout.strip() == ""


# ---- numbers ----

def test_a_block_scale_that_is_no_number_is_named(measure, nibble, tmp_path):
    stored, _, config = quantized(MODELOPT, nvfp4_layer)
    scales = stored[DOWN[:-7] + ".weight_scale"].view(np.uint8).copy()
    scales[3, 0] = 0x7F
    stored[DOWN[:-7] + ".weight_scale"] = scales.view(small.E4M3)
    folder = small.directory(tmp_path / "m", stored, config)
    sentence = f"tensor {DOWN}: the scale of block 0 in row 3 is no number"
    assert sentence in measure(folder)
    copied = nibble("quantize", folder, tmp_path / "out", check=False)
    assert copied.returncode == 1 and sentence in copied.stderr and not (tmp_path / "out").exists()


def read_stored(path):
    raw = path.read_bytes()
    n = struct.unpack("<Q", raw[:8])[0]
    kinds = {"BF16": small.BF16, "F32": np.float32, "U8": np.uint8, "F8_E4M3": small.E4M3}
    return {k: np.frombuffer(raw[8 + n:][slice(*v["data_offsets"])], kinds[v["dtype"]]).reshape(v["shape"])
            for k, v in json.loads(raw[8:8 + n]).items() if k != "__metadata__"}


@pytest.mark.parametrize("method", ["rtn", "sweep", "weighted", "4over6"])
@pytest.mark.parametrize("factor", [1e-24, 1e-36])
def test_weights_of_any_magnitude_quantize_as_well(nibble, tmp_path, factor, method):
    values = dict(W)
    values[DOWN] = (values[DOWN].astype(np.float32) * factor).astype(small.BF16)
    folder, out = small.directory(tmp_path / "m", values), tmp_path / "out"
    shutil.rmtree(out, ignore_errors=True)
    nibble("quantize", folder, out, "--method", method)
    stored, stem = read_stored(out / "model.safetensors"), DOWN[:-7]
    codes = stored[DOWN]
    both = small.GRID[np.stack([codes & 15, codes >> 4], -1).reshape(codes.shape[0], -1)]
    scales = stored[f"{stem}.weight_scale"].astype(np.float64)
    got = both * np.repeat(scales, 16, 1) * np.float64(stored[f"{stem}.weight_scale_2"])
    w = values[DOWN].astype(np.float64)
    assert not np.isnan(scales).any()
    assert np.linalg.norm(got - w) / np.linalg.norm(w) < 0.105  # round to nearest at 1 gives 0.096
