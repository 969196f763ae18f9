# SPDX-License-Identifier: Apache-2.0
"""nibble quantize --input-scale: static scales of inputs are what the largest input of the calibration needs, in every
container, with room above it; layers that are multiplied as one have one; an evaluation computes under them."""
import json

import pytest

from test_quantize import HEAD_DIM, KV, LAYERS, LINEARS, make_joined, make_model, np, raw_tensors, weights

TEXT = "".join(f"{a}and{b}/then;" for a in range(20) for b in range(3))


@pytest.fixture
def text(tmp_path):
    (tmp_path / "text").write_text(TEXT)
    return tmp_path / "text"


def scales_of(directory, suffix=".input_scale"):
    return {name[:-len(suffix)]: float(array.reshape(())) for name, (_, array) in raw_tensors(directory / "model.safetensors").items()
            if name.endswith(suffix)}


@pytest.mark.parametrize("format, most, algo", [("nvfp4", 2688, "NVFP4"), ("fp8", 448, "FP8")])
def test_a_directory(nibble, tmp_path, text, format, most, algo):
    source = make_model(tmp_path / "source")
    told = nibble("quantize", source, tmp_path / "out", "--format", format, "--input-scale", 2, "--calib", text, "--json").stdout
    assert json.loads(told)["input_scales"] == len(LINEARS) * LAYERS
    found = scales_of(tmp_path / "out")
    assert len(found) == len(LINEARS) * LAYERS
    tensors = {name: array.astype(np.float64) for name, array in weights("llama").items()}
    ids = [int(i) for i in nibble("tokenize", source, "--ids", TEXT).stdout.split()]
    x = tensors["model.embed_tokens.weight"][ids]
    x *= tensors["model.layers.0.input_layernorm.weight"] / np.sqrt((x ** 2).mean(1, keepdims=True) + 1e-5)
    assert found["model.layers.0.self_attn.q_proj"] == pytest.approx(2 * np.abs(x).max() / most, rel=1e-5)
    for layer in range(LAYERS):
        for joined in (("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), ("mlp.gate_proj", "mlp.up_proj")):
            assert len({found[f"model.layers.{layer}.{name}"] for name in joined}) == 1
    assert json.loads((tmp_path / "out" / "hf_quant_config.json").read_text())["quantization"]["quant_algo"] == algo
    plain = nibble("quantize", source, tmp_path / "plain", "--format", format, *(["--calib", text] if format == "nvfp4" else [])).stdout
    assert "input_scale" not in plain and not scales_of(tmp_path / "plain")


def test_every_container_has_them(nibble, tmp_path, text):
    source = make_model(tmp_path / "source", "qwen3")
    flags = ["--method", "rtn", "--input-scale", 1.5, "--calib", text]
    for out in ("out", "out.gguf"):
        nibble("quantize", source, tmp_path / out, *flags)
    nibble("quantize", source, tmp_path / "ct", *flags, "--compressed-tensors")
    nibble("quantize", tmp_path / "out.gguf", tmp_path / "again")
    found = scales_of(tmp_path / "out")
    assert len(found) == len(LINEARS) * LAYERS and scales_of(tmp_path / "again") == found
    divisors = scales_of(tmp_path / "ct", ".input_global_scale")
    assert divisors.keys() == found.keys()
    assert all(1 / divisors[name] == pytest.approx(found[name], rel=1e-6) for name in found)


def test_an_evaluation_computes_under_them(nibble, tmp_path, text):
    """With room enough they change little; without any room nothing of the calibration saturates."""
    source = make_model(tmp_path / "source")
    kld = {}
    for room in (None, 1, 64):
        out = tmp_path / f"room-{room}"
        nibble("quantize", source, out, "--method", "rtn", *([] if room is None else ["--input-scale", room, "--calib", text]))
        kld[room] = json.loads(nibble("eval", "kld", out, "--base", source, "--text", text, "--ctx", 32, "--activations", "nvfp4",
                                      "--json").stdout)["kld"]
    assert len(set(kld.values())) == 3 and kld[1] < 1.5 * kld[None] and kld[64] < 3 * kld[None], kld


def turned(x, positions, theta=10000.0):
    """RoPE of heads [rows, heads, dim], pairs (i, i + dim / 2)."""
    half = x.shape[-1] // 2
    angle = positions[:, None] * theta ** (-np.arange(half) / half)
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


@pytest.mark.parametrize("flags, quantization", [(["--format", "bf16"], None), (["--format", "bf16", "--smooth"], None), ([], "hf"), (["--compressed-tensors"], "ct")])
def test_scales_of_a_cache(nibble, tmp_path, text, flags, quantization):
    """The first layer's are numpy's, of keys as they are stored; an FP8 cache is computed under them."""
    source = make_model(tmp_path / "source")
    told = nibble("quantize", source, tmp_path / "out", "--kv-scales", "--calib", text, "--json", *flags).stdout
    assert json.loads(told)["kv_scales"] == LAYERS
    keys, values = (scales_of(tmp_path / "out", suffix) for suffix in (".k_scale", ".v_scale"))
    assert len(keys) == len(values) == LAYERS and not scales_of(tmp_path / "out")
    tensors = {name: array.astype(np.float64) for name, array in weights("llama").items()}
    ids = [int(i) for i in nibble("tokenize", source, "--ids", TEXT).stdout.split()]
    x = tensors["model.embed_tokens.weight"][ids]
    x *= tensors["model.layers.0.input_layernorm.weight"] / np.sqrt((x ** 2).mean(1, keepdims=True) + 1e-5)
    window = len(ids) // 8
    k = (x @ tensors["model.layers.0.self_attn.k_proj.weight"].T).reshape(len(ids), KV, HEAD_DIM)
    v = x @ tensors["model.layers.0.self_attn.v_proj.weight"].T
    assert keys["model.layers.0.self_attn.k_proj"] == pytest.approx(np.abs(turned(k, np.arange(len(ids)) % window)).max() / 448, rel=1e-4)
    assert values["model.layers.0.self_attn.v_proj"] == pytest.approx(np.abs(v).max() / 448, rel=1e-5)
    if quantization == "hf":
        assert json.loads((tmp_path / "out" / "hf_quant_config.json").read_text())["quantization"]["kv_cache_quant_algo"] == "FP8"
        again = scales_of(tmp_path / "again", ".k_scale") if nibble("quantize", tmp_path / "out", tmp_path / "again") else {}
        assert again == keys  # a source's are carried
        nibble("quantize", source, tmp_path / "plain", "--method", "weighted", "--calib", text)
        kld = [json.loads(nibble("eval", "kld", tmp_path / name, "--base", source, "--text", text, "--ctx", 32, "--activations", "f32",
                                 "--kv-cache-dtype", "fp8", "--json").stdout)["kld"] for name in ("plain", "out")]
        assert kld[0] != kld[1] < 2 * kld[0]
    if quantization == "ct":
        scheme = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]["kv_cache_scheme"]
        assert scheme["num_bits"] == 8 and scheme["dynamic"] is False


@pytest.mark.parametrize("family", ["qwen3", "gemma3_text"])
def test_norms_of_keys_count(nibble, tmp_path, text, family):
    """Normed keys have the size that the norm gives them: an element is at most sqrt(dim) times its weights' largest."""
    source = make_model(tmp_path / "source", family)
    out = tmp_path / "out"
    nibble("quantize", source, out, "--kv-scales", "--calib", text, "--format", "fp8")
    for stem, scale in scales_of(out, ".k_scale").items():
        norm = weights(family)[f"{stem.replace('k_proj', 'k_norm')}.weight"].astype(np.float64) + (family == "gemma3_text")
        assert 0.3 < scale * 448 < HEAD_DIM ** 0.5 * np.abs(norm).max() * 2 ** 0.5


@pytest.mark.parametrize("flags", [["--format", "mxfp4", "--input-scale", "2"], ["--input-scale", "0.5"], ["--input-scale", "x"]])
def test_wrong_usage(nibble, flags):
    done = nibble("quantize", "in", "out", *flags, check=False)
    assert done.returncode == 2 and "--input-scale" in done.stderr
    done = nibble("quantize", "in", "out.gguf", "--kv-scales", check=False)
    assert done.returncode == 2 and "--kv-scales is for a directory" in done.stderr


def test_joined_matrices_have_no_place_for_scales_of_a_cache(nibble, tmp_path):
    """Said before anything is calibrated, for which this text would not do."""
    (tmp_path / "short").write_text("too few")
    source = make_joined(tmp_path / "source")
    for flags in ([], ["--smooth"], ["--method", "best"]):
        done = nibble("quantize", source, tmp_path / "out", "--kv-scales", "--calib", tmp_path / "short", *flags, check=False)
        assert done.returncode == 1 and "q, k and v are one matrix here" in done.stderr and not (tmp_path / "out").exists(), done.stderr
