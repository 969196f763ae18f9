# SPDX-License-Identifier: Apache-2.0
"""nibble quantize --smooth: the network computes the same numbers, and loses less in four bits."""
import filecmp
import json

import pytest

from test_quantize import DIM, LAYERS, gguf, make_model, ml_dtypes, np, safetensors_numpy
from test_tuned import text  # noqa: F401 (a fixture)

SAME = ["--activations", "f32", "--kv-cache-dtype", "fp32", "--ctx", "64", "--json"]


def with_large_channels(source):
    """A few channels that norms make 32 times as large as the others, in the place of the model in SOURCE."""
    path = source / "model.safetensors"
    tensors = safetensors_numpy.load_file(path)
    for name, t in tensors.items():
        if "layernorm" in name:
            t = t.astype(np.float32)
            t[[3, 40, 77]] = 40
            tensors[name] = t.astype(ml_dtypes.bfloat16)
    safetensors_numpy.save_file(tensors, path, {"format": "pt"})
    return source


def kld(nibble, model, base, text, *flags):
    return json.loads(nibble("eval", "kld", model, "--base", base, "--text", text, *SAME, *flags).stdout)


def test_norms_of_1_plus_w_stay_out_of_directories(nibble, tmp_path, text):
    """(1 + w) / 8 - 1 is no BF16 number."""
    source = make_model(tmp_path / "source", "gemma3_text")
    done = nibble("quantize", source, tmp_path / "out", "--format", "bf16", "--smooth", "--calib", text, check=False)
    assert done.returncode == 1 and "write a .gguf file" in done.stderr and not (tmp_path / "out").exists()


@pytest.mark.parametrize("family, out", [("llama", "smooth"), ("qwen3", "smooth"), ("llama", "smooth.gguf"),
                                         ("qwen3", "smooth.gguf"), ("gemma3_text", "smooth.gguf")])
def test_the_same_numbers(nibble, tmp_path, text, family, out):
    source = with_large_channels(make_model(tmp_path / "source", family))
    told = json.loads(nibble("quantize", source, tmp_path / out, "--format", "bf16", "--smooth", "--calib", text, "--json").stdout)
    norms = told["smoothed"]
    assert len(norms) == 2 * LAYERS and all(n["error"] <= n["unsmoothed"] for n in norms)
    assert any(n["strength"] > 0 for n in norms)
    if out.endswith(".gguf"):  # which has other words than the source
        nibble("quantize", tmp_path / out, tmp_path / "back", "--format", "bf16")
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            (tmp_path / "back" / name).write_bytes((source / name).read_bytes())
        out = "back"
    found = kld(nibble, tmp_path / out, source, text)
    assert found["kld"] < 1e-9 and found["ppl"] == pytest.approx(found["ppl_base"], rel=1e-6)


def test_powers_of_two(nibble, tmp_path, text):
    """Every value is the source's times a power of two, one for a channel, and the norm's the other way."""
    source = with_large_channels(make_model(tmp_path / "source"))
    nibble("quantize", source, tmp_path / "smooth", "--format", "bf16", "--smooth", "--calib", text)
    nibble("quantize", source, tmp_path / "three", "--format", "bf16", "--smooth", "--calib", text, "--threads", 3)
    assert filecmp.cmp(tmp_path / "smooth" / "model.safetensors", tmp_path / "three" / "model.safetensors", shallow=False)
    before, after = (safetensors_numpy.load_file(d / "model.safetensors") for d in (source, tmp_path / "smooth"))
    moved = 0
    for layer in range(LAYERS):
        for norm, readers in (("input_layernorm", ["self_attn.q", "self_attn.k", "self_attn.v"]),
                              ("post_attention_layernorm", ["mlp.gate", "mlp.up"])):
            name = f"model.layers.{layer}.{norm}.weight"
            s = before[name].astype(np.float32) / after[name].astype(np.float32)
            assert (np.log2(s) == np.rint(np.log2(s))).all() and s.shape == (DIM,)
            moved += int((s != 1).sum())
            for reader in readers:
                name = f"model.layers.{layer}.{reader}_proj.weight"
                assert (before[name].astype(np.float32) * s == after[name].astype(np.float32)).all()
        for name in ("self_attn.o_proj", "mlp.down_proj"):
            name = f"model.layers.{layer}.{name}.weight"
            assert (before[name].view(np.uint16) == after[name].view(np.uint16)).all()
    assert moved > 0


def test_less_is_lost_in_four_bits(nibble, tmp_path, text):
    source = with_large_channels(make_model(tmp_path / "source"))
    nibble("quantize", source, tmp_path / "smooth", "--format", "bf16", "--smooth", "--calib", text)
    lost = []
    for model in ("source", "smooth"):
        nibble("quantize", tmp_path / model, tmp_path / f"{model}-4", "--method", "weighted", "--calib", text)
        lost.append(kld(nibble, tmp_path / f"{model}-4", source, text, "--activations", "nvfp4")["kld"])
    assert lost[1] < 0.9 * lost[0], lost


@pytest.mark.parametrize("source, out, flags", [("hf", "out", ["--method", "best"]), ("hf", "out.gguf", ["--method", "weighted"]),
                                                ("gguf", "out.gguf", ["--method", "gptq", "--bits", "4.75"]), ("hf", "out", ["--format", "fp8"])])
def test_one_command_is_two(nibble, tmp_path, text, source, out, flags):
    model = with_large_channels(make_model(tmp_path / "hf"))
    if source == "gguf":
        nibble("quantize", model, tmp_path / "in.gguf", "--format", "q8_0")
        model = tmp_path / "in.gguf"
    first, second, kind = tmp_path / f"first-{out}", tmp_path / f"second-{out}", tmp_path / "wide" / model.name
    calibrated = ["--calib", text] if "fp8" not in flags else []
    told = json.loads(nibble("quantize", model, first, "--smooth", *flags, "--calib", text, "--json").stdout)
    kind.parent.mkdir()
    nibble("quantize", model, kind, "--format", "bf16", "--smooth", "--calib", text)
    nibble("quantize", kind, second, *flags, *calibrated)
    name = "" if out.endswith(".gguf") else "model.safetensors"
    assert filecmp.cmp(first / name, second / name, shallow=False)
    assert len(told["smoothed"]) == 2 * LAYERS
    assert told["bytes_before"] == json.loads(nibble("quantize", model, tmp_path / f"third-{out}", "--json").stdout)["bytes_before"]
    assert sorted(p.name for p in tmp_path.iterdir() if ".part" in p.name) == []


@pytest.mark.parametrize("part, words", [
    ({"tensors": ["model.norm.weight"], "format": "bf16"}, "names model.norm.weight, which is no linear layer of source "),
    ({"tensors": ["model.layers.0.mlp.up_proj.weight"], "format": "fp8"}, "cannot hold FP8"),
])
def test_a_plan_is_looked_at_first(nibble, tmp_path, part, words):
    """Before anything is smoothed, which this text would not do for; and with the names that were given."""
    make_model(tmp_path / "source")
    (tmp_path / "short").write_text("too few")
    (tmp_path / "plan").write_text(json.dumps({"nibble_plan": 1, "parts": [part]}))
    done = nibble("quantize", "source", "out.gguf", "--smooth", "--plan", "plan", "--calib", "short", check=False, cwd=tmp_path)
    assert done.returncode == 1 and words in done.stderr and ".part" not in done.stderr, done.stderr
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_a_plan_names_the_source_or_its_copy(nibble, tmp_path, text, family):
    """Which of a network with norms of 1 + w is a GGUF file: what --save-plan wrote is read again."""
    source = make_model(tmp_path / "source", family)
    for name in "model.layers.1.mlp.down_proj.weight", "blk.1.ffn_down.weight":
        (tmp_path / "plan").write_text(json.dumps({"nibble_plan": 1, "parts": [{"tensors": [name], "format": "q8_0"}]}))
        nibble("quantize", source, tmp_path / "out.gguf", "--smooth", "--plan", tmp_path / "plan", "--method", "sweep", "--calib", text)
        kinds = {t.name: t.tensor_type.name for t in gguf.GGUFReader(tmp_path / "out.gguf").tensors if t.name.startswith("blk.")}
        assert [n for n, kind in kinds.items() if kind == "Q8_0"] == ["blk.1.ffn_down.weight"]


@pytest.mark.parametrize("flags", [["--smooth", "--imatrix", "a"], ["--format", "bf16", "--smooth", "--keep", "a"]])
def test_wrong_usage(nibble, tmp_path, flags):
    done = nibble("quantize", "in", "out", *flags, check=False, cwd=tmp_path)
    assert done.returncode == 2 and "--smooth goes without --keep and --imatrix" in done.stderr
