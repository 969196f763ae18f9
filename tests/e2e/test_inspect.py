# SPDX-License-Identifier: Apache-2.0
"""nibble inspect against the reference readers of both formats, and its sums against its parts."""
import json
import pathlib
import re

import pytest

TESTS = pathlib.Path(__file__).resolve().parents[1]
DIRECTORIES = sorted(p for p in (TESTS / "golden" / "models").iterdir() if (p / "model.safetensors").exists())
GGUF_FILES = sorted((TESTS / "golden" / "models").glob("*/model.gguf"))


def told(nibble, path):
    return json.loads(nibble("inspect", path, "--json", "--tensors").stdout)


def check_sums(found):
    groups, tensors = found["groups"], found["tensors"]
    assert sum(g["tensors"] for g in groups) == len(tensors)
    assert sum(g["bytes"] for g in groups) == sum(t["bytes"] for t in tensors) <= found["file_bytes"]
    assert sum(g["weights"] for g in groups) == found["weights"]
    assert found["bits_per_weight"] == pytest.approx(8 * found["file_bytes"] / found["weights"])
    quantized = [g for g in groups if g["quantized"]]
    if quantized:
        bits = 8 * sum(g["bytes"] for g in quantized) / sum(g["weights"] for g in quantized)
        assert found["bits_per_weight_quantized"] == pytest.approx(bits)
    else:
        assert found["bits_per_weight_quantized"] is None


def check_gguf(nibble, path):
    gguf = pytest.importorskip("gguf")
    reader = gguf.GGUFReader(path)
    found = told(nibble, path)
    check_sums(found)
    assert [(t["name"], t["format"], t["shape"], t["bytes"]) for t in found["tensors"]] == [
        (t.name, t.tensor_type.name, [int(d) for d in reversed(t.shape)], int(t.n_bytes)) for t in reader.tensors]
    arch = reader.fields["general.architecture"].contents()
    network = found["network"]
    windowed = f"{arch}.attention.sliding_window" in reader.fields  # OLMo 3 is called olmo2 too
    names = {"olmo2": "olmo3" if windowed else "olmo2", "mistral3": "ministral3"}
    assert network["family"] == names.get(arch, arch)
    assert network["layers"] == reader.fields[f"{arch}.block_count"].contents()
    assert network["heads"] == reader.fields[f"{arch}.attention.head_count"].contents()
    return found


@pytest.mark.parametrize("path", GGUF_FILES, ids=lambda p: p.parent.name)
def test_gguf(nibble, path):
    check_gguf(nibble, path)


def test_smollm2(nibble, smollm2):
    found = check_gguf(nibble, smollm2)
    assert found["tokenizer"] == {"kind": "gpt2", "pre": "smollm", "tokens": 49152, "adds_bos": False, "bos": 1}
    assert found["chat_template"] is True
    assert "134515008 weights, 5.85 bits per weight in the file, 5.74 in all tensors, 5.00 in the linear layers" in nibble(
        "inspect", smollm2).stdout


@pytest.mark.parametrize("dtype,head", [("bf16", 64 * 2), ("fp8", 64 + 4)])
def test_kv_cache(nibble, smollm2, dtype, head):
    """The figure is what run allocates: keys and values, FP8 scales, and the steps that integer attention keeps."""
    told = nibble("run", smollm2, "Hi", "--max-tokens", 1, "--max-model-len", 1024, "--kv-cache-dtype", dtype, "-v").stderr
    token = json.loads(nibble("inspect", smollm2, "--json").stdout)[f"kv_bytes_per_token_{dtype}"]
    assert token == 30 * 2 * 3 * (head + (4 if "attention in integers" in told else 0))
    assert f"KV cache {token * 1024 / 2**20:.1f} MiB for 1024 tokens" in told
    assert f"{token * 1024 / 2**20:.1f} MiB ({dtype})" in nibble("inspect", smollm2).stdout


def test_gemma3(nibble, gemma3):
    found = told(nibble, gemma3)  # the reference reader takes long over its 262,144 tokens
    check_sums(found)
    assert len(found["tensors"]) == 236 and found["network"]["family"] == "gemma3"
    assert found["tokenizer"]["adds_bos"] and found["tokenizer"]["tokens"] == 262144
    assert found["chat_template"] is False
    assert found["network"]["sliding_window"] == 512
    assert [i for i in range(18) if i not in found["network"]["local_layers"]] == [5, 11, 17]


@pytest.mark.parametrize("path", DIRECTORIES, ids=lambda p: p.name)
def test_directory(nibble, path):
    safetensors = pytest.importorskip("safetensors")
    found = told(nibble, path)
    check_sums(found)
    with safetensors.safe_open(path / "model.safetensors", "np") as reader:
        expected = {name: (reader.get_slice(name).get_dtype(), reader.get_slice(name).get_shape())
                    for name in reader.keys()}
    assert {t["name"]: (t["format"], t["shape"]) for t in found["tensors"]} == expected


@pytest.mark.parametrize("name,bytes_,scale", [("modelopt", 148, 0.25), ("compressed", 148, 0.25), ("mxfp4", 136, 1),
                                               ("fp8-tensor", 260, 0.5), ("fp8-rows", 288, 1)])
def test_scales_belong_to_their_tensor(nibble, name, bytes_, scale):
    """8 x 32 weights: codes, block or row scales and what else is stored for them."""
    found = told(nibble, TESTS / "golden" / "bad" / "good" / name)
    check_sums(found)
    up = next(t for t in found["tensors"] if t["group"] == "ffn_up")
    assert up["shape"] == [8, 32] and up["bytes"] == bytes_ and up["tensor_scale"] == scale


def test_a_shape_needs_no_files(nibble):
    """70 billion weights of NVFP4 do not fit on 24 GB, and the table says where they do."""
    told = nibble("inspect", "--shape", "llama3-70b", "--fit").stdout
    assert "file       none: a shape" in told and re.search(r"RTX 4090 .*does not fit: weights, activations and context take 4\d", told)
    found = json.loads(nibble("inspect", "--shape", "llama3-70b", "--fit", "--json").stdout)
    assert found["network"]["rope_theta"] == 500000  # Llama 3's, not a family's default
    assert found["format"] == "shape" and [card["gpu"] for card in found["fit"]["gpus"] if not card["fits"]] == ["RTX 4090", "RTX 5090"]
    assert nibble("inspect", "a", "--shape", "qwen3-8b", check=False).returncode == 2
    assert nibble("inspect", "--shape", "qwen4-8b", check=False).returncode == 2


def test_wrong_usage(nibble, tmp_path):
    assert nibble("inspect", check=False).returncode == 2
    assert nibble("inspect", "a", "b", check=False).returncode == 2
    missing = nibble("inspect", tmp_path / "missing.gguf", check=False)
    assert missing.returncode == 1 and "missing.gguf: cannot be opened" in missing.stderr
