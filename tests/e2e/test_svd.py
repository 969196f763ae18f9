# SPDX-License-Identifier: Apache-2.0
"""nibble quantize --svd-rank: codes beside a low-rank branch, which the file names as ModelOpt does and the engine
runs; the same file for any number of threads and after a kill; ranks and formats that cannot be are refused."""
import filecmp
import json
import signal
import subprocess
import time

import gguf
import ml_dtypes
import numpy
import pytest

from test_quantize import VOCAB, make_model, raw_tensors, safetensors_numpy
from test_tuned import deep, marks, text  # noqa: F401 (deep and text are fixtures)

LAYERS = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]


def stored(path):
    return {t.name: t for t in gguf.GGUFReader(path).tensors}


def branch(tensors, name):
    """[rows, cols] that the two thin matrices of NAME make."""
    a, b = (tensors[f"{name}.svdquant_lora_{half}"] for half in "ab")
    down, up = (numpy.array(t.data).view(ml_dtypes.bfloat16).astype(float).reshape(t.shape[::-1]) for t in (a, b))
    return up @ down


def nvfp4(tensors, name):
    """[rows, cols] of GGUF's NVFP4: per 64 columns four E4M3 scales, then codes, low nibbles first in each 16."""
    t = tensors[f"{name}.weight"]
    cols, rows = (int(n) for n in t.shape)
    raw = numpy.array(t.data).reshape(rows, cols // 64, 36)
    scales = (raw[..., :4] & 0x7f).view(ml_dtypes.float8_e4m3fn).astype(float) / 2
    codes = raw[..., 4:].reshape(rows, cols // 64, 4, 8)
    grid = numpy.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12])
    values = numpy.concatenate([grid[codes & 15], grid[codes >> 4]], axis=-1) * scales[..., None]
    return values.reshape(rows, cols) * float(tensors[f"{name}.scale"].data[0])


@pytest.mark.parametrize("method", ["gptq", "best"])
def test_branch_takes_what_is_large(nibble, tmp_path, text, method):
    source = make_model(tmp_path / "source", "llama")
    flags = ["--method", method, "--calib", text]
    plain = json.loads(nibble("quantize", source, tmp_path / "plain.gguf", *flags, "--json").stdout)
    report = json.loads(nibble("quantize", source, tmp_path / "out.gguf", *flags, "--svd-rank", "8", "--json").stdout)
    nibble("quantize", source, tmp_path / "wide.gguf", "--format", "bf16")
    lost = [[m["held_out_error"] for m in r["chosen"]] for r in (plain, report)]
    assert numpy.exp(numpy.mean(numpy.log(numpy.array(lost[1]) / lost[0]))) < 0.9
    was, now = stored(tmp_path / "wide.gguf"), stored(tmp_path / "out.gguf")
    better = []
    for layer in range(2):
        for name in (f"blk.{layer}.{x}" for x in LAYERS):
            t = was[f"{name}.weight"]
            want = numpy.array(t.data).view(ml_dtypes.bfloat16).astype(float).reshape(t.shape[::-1])
            got = nvfp4(now, name) + branch(now, name)
            assert numpy.linalg.norm(got - want) < 0.2 * numpy.linalg.norm(want), name
            better.append(numpy.linalg.norm(want - branch(now, name)) < numpy.linalg.norm(want))
    assert all(better)
    linear = [g for g in json.loads(nibble("inspect", tmp_path / "out.gguf", "--json").stdout)["groups"]
              if g["branch_rank"]]
    assert len(linear) == 7 and {g["branch_rank"] for g in linear} == {8}
    found = json.loads(nibble("inspect", tmp_path / "out.gguf", "--json").stdout)
    assert found["bits_per_weight_linear"] == pytest.approx(report["bits_per_weight_linear"], abs=1e-3)
    assert report["bits_per_weight_linear"] > plain["bits_per_weight_linear"] + 1
    assert "rank 8" in nibble("inspect", tmp_path / "out.gguf").stdout
    nibble("report", tmp_path / "out.gguf", "--source", source, "-o", tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text().count("NVFP4 (GGUF), rank 8") + \
        (tmp_path / "page.html").read_text().count("NVFP4, rank 8") == 14


@pytest.mark.parametrize("head", ["keep", "fp8"])
def test_a_directory(nibble, tmp_path, text, head):
    """By ModelOpt's name for it, which loaders that do not run branches refuse; it computes what the GGUF file does, whose rows of
    q and k lie in another order."""
    source = make_model(tmp_path / "source", "llama")
    flags = ["--method", "gptq", "--calib", text, "--svd-rank", "8"]
    nibble("quantize", source, tmp_path / "out.gguf", *flags)
    nibble("quantize", source, tmp_path / "out", *flags, "--head", head)
    for name, at in (("config.json", "quantization_config"), ("hf_quant_config.json", "quantization")):
        words = json.loads((tmp_path / "out" / name).read_text())[at]
        assert words["lora_rank"] == 8
        layer = words["quantized_layers"]["model.layers.0.mlp.up_proj"] if head == "fp8" else words
        assert layer["quant_algo"] == "NVFP4_SVD" and words["quant_algo"] == ("MIXED_PRECISION" if head == "fp8" else "NVFP4_SVD")
    there = raw_tensors(tmp_path / "out" / "model.safetensors")
    for half, shape in (("a", (8, 256)), ("b", (128, 8))):
        kind, values = there[f"model.layers.1.mlp.down_proj.svdquant_lora_{half}"]
        assert kind == "BF16" and values.shape == shape
    if head == "keep":
        base = tmp_path / "base.kld"
        nibble("eval", "kld", tmp_path / "out.gguf", "--save-base", base, "--text", text, "--ctx", "64")
        found = nibble("eval", "kld", tmp_path / "out", "--base", base, "--text", text, "--activations", "f32", "--json").stdout
        assert abs(json.loads(found)["kld"]) < 1e-5


def test_engine_runs_the_branch(nibble, tmp_path, text):
    """With half of all ranks in branches far less is left to be lost."""
    source = make_model(tmp_path / "source", "qwen3")
    nibble("quantize", source, tmp_path / "wide.gguf", "--format", "bf16")
    base = tmp_path / "base.kld"
    nibble("eval", "kld", tmp_path / "wide.gguf", "--save-base", base, "--text", text, "--ctx", "64")
    klds = []
    for rank in (0, 63):
        flags = ["--svd-rank", rank] if rank else []
        nibble("quantize", source, tmp_path / "out.gguf", "--method", "gptq", "--calib", text, *flags)
        klds.append(json.loads(nibble("eval", "kld", tmp_path / "out.gguf", "--base", base, "--text", text, "--activations", "f32", "--json").stdout))
    assert klds[1]["kld"] < 0.4 * klds[0]["kld"], klds
    assert gguf.GGUFReader(tmp_path / "out.gguf").fields["general.file_type"].contents() == 39  # NVFP4, though more is BF16


def test_threads_and_a_kill_do_not_matter(nibble, nibble_path, tmp_path, text, deep):  # noqa: F811
    source, n = deep
    flags = ["--method", "gptq", "--calib", text, "--svd-rank", "5"]
    for threads in (1, 3):
        nibble("quantize", source, tmp_path / f"{threads}.gguf", *flags, "--threads", threads)
    assert filecmp.cmp(tmp_path / "1.gguf", tmp_path / "3.gguf", shallow=False)
    out, journal = tmp_path / "out.gguf", tmp_path / "out.gguf.tuning"
    process = subprocess.Popen([nibble_path, "quantize", source, out, *map(str, flags), "--threads", "1"],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while marks(journal, n) < 9:
        assert process.poll() is None, "ended before it could be killed"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    nibble("quantize", source, out, *flags)
    assert filecmp.cmp(tmp_path / "1.gguf", out, shallow=False)


@pytest.mark.parametrize("flags, words", [
    (["--method", "gptq", "--svd-rank", "0"], "--svd-rank"),
    (["--method", "gptq", "--svd-rank", "257"], "--svd-rank"),
    (["--method", "local", "--svd-rank", "8"], "--svd-rank goes with --method gptq or best"),
    (["--imatrix", "x", "--svd-rank", "8"], "--svd-rank goes with --method gptq or best"),
    (["--method", "gptq", "--format", "q5_0", "--svd-rank", "8"], "--format nvfp4"),
    (["--method", "gptq", "--bits", "5", "--svd-rank", "8"], "without --compressed-tensors, --bits"),
    (["--method", "gptq", "--compressed-tensors", "--svd-rank", "8"], "without --compressed-tensors"),
])
def test_refused_flags(nibble, tmp_path, flags, words):
    source = make_model(tmp_path / "source", "llama")
    out = tmp_path / ("out" if "--compressed-tensors" in flags else "out.gguf")
    done = nibble("quantize", source, out, *flags, check=False)
    assert done.returncode == 2 and words in done.stderr and not out.exists()


def test_refused_ranks_and_sources(nibble, tmp_path, text):
    source = make_model(tmp_path / "source", "llama")
    done = nibble("quantize", source, tmp_path / "out.gguf", "--method", "gptq", "--calib", text, "--svd-rank", "200", check=False)
    assert done.returncode == 1 and "a low-rank branch beside it has a rank below" in done.stderr
    report = json.loads(nibble("quantize", source, tmp_path / "out.gguf", "--calib", text, "--svd-rank", "4", "--json").stdout)
    assert report["method"] == "gptq"  # what auto is then
    done = nibble("quantize", tmp_path / "out.gguf", tmp_path / "again.gguf", check=False)
    assert done.returncode == 1 and "has a low-rank branch; quantize what the file was made from" in done.stderr


def test_codes_that_are_cast_get_no_branch(nibble, tmp_path, text):
    """MXFP4's values are NVFP4's: nothing is lost that a branch could hold, and no codes are chosen."""
    source = make_model(tmp_path / "source", "llama")
    flags = ["--method", "gptq", "--calib", text, "--svd-rank", "8"]
    nibble("quantize", source, tmp_path / "cast", "--format", "mxfp4", "--method", "rtn")
    done = nibble("quantize", tmp_path / "cast", tmp_path / "out.gguf", *flags, check=False)
    assert done.returncode == 1 and "no matrix gets a low-rank branch" in done.stderr, done.stderr
    nibble("quantize", source, tmp_path / "some", "--format", "mxfp4", "--method", "rtn", "--keep", "*down_proj*")
    nibble("quantize", tmp_path / "some", tmp_path / "out.gguf", *flags)
    assert {n.rsplit(".", 1)[0] for n in stored(tmp_path / "out.gguf") if "svdquant" in n} == {"blk.0.ffn_down", "blk.1.ffn_down"}


def test_half_a_branch_is_refused(nibble, tmp_path, text):
    source = make_model(tmp_path / "source", "llama")
    nibble("quantize", source, tmp_path / "out.gguf", "--method", "gptq", "--calib", text, "--svd-rank", "4")
    raw = (tmp_path / "out.gguf").read_bytes()
    (tmp_path / "half.gguf").write_bytes(raw.replace(b"blk.1.attn_v.svdquant_lora_b", b"blk.1.attn_v.svdquant_lora_c"))
    done = nibble("inspect", tmp_path / "half.gguf", check=False)
    assert done.returncode == 1 and 'attn_v.svdquant_lora_a has no svdquant_lora_b beside it' in done.stderr


def bf16(*shape):
    return numpy.full(shape, 0.01, ml_dtypes.bfloat16)


@pytest.mark.parametrize("down, up, words", [
    (bf16(4, 128).astype(numpy.float16), bf16(128, 4), 'q_proj.svdquant_lora_a is F16 [4, 128]'),
    (bf16(4, 128), bf16(128, 4).astype(numpy.float32), 'is F32 [128, 4], expected BF16 [128, 4]'),
    (bf16(4, 128), bf16(128, 5), 'q_proj.svdquant_lora_b is BF16 [128, 5], expected BF16 [128, 4]'),
    (bf16(4, 64), bf16(128, 4), 'expected BF16 [4, 128]'),
    (bf16(512), bf16(128, 4), 'q_proj.svdquant_lora_a has 1 dimensions, expected BF16 [1, 128]'),
    (bf16(129, 128), bf16(128, 129), 'has a rank of 129, expected no more than the smaller side of [128, 128]'),
    (None, bf16(128, 4), 'q_proj.svdquant_lora_b has no svdquant_lora_a beside it'),
])
def test_refused_branches(nibble, tmp_path, down, up, words):
    with_branch(tmp_path / "source", "model.layers.0.self_attn.q_proj", down, up)
    done = nibble("inspect", tmp_path / "source", check=False)
    assert done.returncode == 1 and words in done.stderr, done.stderr


def with_branch(directory, stem, down, up):
    """A model with the matrices of a low-rank branch beside one of its own."""
    stored = dict(safetensors_numpy.load_file(make_model(directory, "llama") / "model.safetensors"))
    stored.update({f"{stem}.svdquant_lora_{half}": m for half, m in (("a", down), ("b", up)) if m is not None})
    safetensors_numpy.save_file(stored, directory / "model.safetensors", {"format": "pt"})


def test_a_branch_as_wide_as_its_matrix_runs(nibble, tmp_path, text):
    with_branch(tmp_path / "source", "model.layers.0.self_attn.q_proj", bf16(128, 128), bf16(128, 128))
    nibble("eval", "ppl", tmp_path / "source", "--text", text, "--ctx", "64")


def test_a_branch_of_the_embedding_is_refused(nibble, tmp_path, text):
    with_branch(tmp_path / "source", "model.embed_tokens", bf16(4, 128), bf16(VOCAB, 4))
    done = nibble("eval", "ppl", tmp_path / "source", "--text", text, "--ctx", "64", check=False)
    assert done.returncode == 1 and "the token embedding model.embed_tokens.weight has a low-rank branch" in done.stderr
