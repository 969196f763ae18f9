# SPDX-License-Identifier: Apache-2.0
"""nibble calibrate and quantize --imatrix: the file is llama.cpp's format by gguf's reader, quantizing with it is quantizing
with its text, one that gguf's writer made is taken, and a bad one is refused in words."""
import json

import pytest

from test_quantize import DIM, FFN, LAYERS, LINEARS, make_model, raw_tensors

np = pytest.importorskip("numpy")
gguf = pytest.importorskip("gguf")


@pytest.fixture(scope="module")
def made(nibble, tmp_path_factory):
    root = tmp_path_factory.mktemp("imatrix")
    source = make_model(root / "source")
    (root / "text").write_text("some words to calibrate with, " * 40)
    told = nibble("calibrate", source, "--text", root / "text", "-o", root / "im.gguf").stdout
    return root, told


def test_the_file(made):
    root, told = made
    reader = gguf.GGUFReader(root / "im.gguf")
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.type"] == "imatrix" and fields["imatrix.datasets"] == [str(root / "text")]
    tensors = {t.name: t.data for t in reader.tensors}
    assert f"{len(LINEARS) * LAYERS} layers" in told
    for layer in range(LAYERS):
        for name in LINEARS.values():
            sums, counts = (tensors.pop(f"blk.{layer}.{name}.weight.{what}") for what in ("in_sum2", "counts"))
            assert sums.shape == (1, FFN if name == "ffn_down" else DIM) and counts.shape == (1, 1)
            assert (sums > 0).all() and 128 < counts[0, 0] <= fields["imatrix.chunk_count"] * fields["imatrix.chunk_size"]
    assert not tensors


def test_it_is_the_calibration(made, nibble):
    root, _ = made
    by = {}
    for name, flags in (("by-text", ["--calib", root / "text"]), ("by-file", ["--imatrix", root / "im.gguf"])):
        report = json.loads(nibble("quantize", root / "source", root / name, "--method", "weighted", *flags, "--json").stdout)
        assert report["method"] == "weighted" and report["calibration_tokens"] > 128
        by[name] = raw_tensors(root / name / "model.safetensors")
    differ = sum((a != by["by-file"][name][1]).sum() for name, (_, a) in by["by-text"].items())  # means pass through FP32 sums
    assert differ <= 1e-4 * sum(a.size for _, a in by["by-text"].values())


def write(path, kind="imatrix", cols=DIM, value=1.0, count=10.0, counts=True, name="blk.0.attn_q.weight"):
    writer = gguf.GGUFWriter(path, "", use_temp_file=False)
    writer.add_string("general.type", kind)
    sums = np.full((1, cols), value, np.float32)
    sums[0, :8] *= 1e6
    writer.add_tensor(f"{name}.in_sum2", sums)
    if counts:
        writer.add_tensor(f"{name}.counts", np.full((1, 1), count, np.float32))
    writer.add_tensor("blk.0.ffn_gate_exps.weight.in_sum2", np.ones((4, 8), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_another_writers_file(made, nibble):
    root, _ = made
    write(root / "other.gguf")
    report = json.loads(nibble("quantize", root / "source", root / "other", "--imatrix", root / "other.gguf", "--json").stdout)
    assert report["method"] == "weighted"
    weighted = {g["group"] for g in report["groups"] if g["weighted_error"]}
    assert weighted == {"attn_q"}  # the one layer that it knows
    told = nibble("quantize", root / "source", root / "other", "--imatrix", root / "other.gguf").stdout
    assert "weighed by an imatrix of " in told and "calibrated" not in told


@pytest.mark.parametrize("bad, words", [
    ({"kind": "model"}, "no importance matrix"),
    ({"cols": DIM + 16}, "144 columns, and the model's inputs 128"),
    ({"value": -1.0}, "no sum of squares"),
    ({"value": float("nan")}, "no sum of squares"),
    ({"count": float("inf")}, "counts inf rows"),
    ({"counts": False}, "has no .counts"),
    ({"count": 0.0}, "none of the linear layers"),
    ({"name": "blk.7.attn_q.weight"}, "none of the linear layers"),
])
def test_bad_files(made, nibble, bad, words):
    root, _ = made
    write(root / "bad.gguf", **bad)
    done = nibble("quantize", root / "source", root / "bad", "--imatrix", root / "bad.gguf", check=False)
    assert done.returncode == 1 and words in done.stderr and "bad.gguf" in done.stderr and not (root / "bad").exists()


def test_no_half_file(made, nibble):
    root, _ = made
    done = nibble("calibrate", root / "source", "--text", root / "none", "-o", root / "half.gguf", check=False)
    assert done.returncode == 1 and "none" in done.stderr and not (root / "half.gguf").exists()


def test_an_output_that_cannot_be_written_is_told_first(made, nibble, smollm2, tmp_path):
    """Before what would take a minute is computed."""
    root, _ = made
    done = nibble("calibrate", smollm2, "-o", tmp_path / "none" / "im.gguf", check=False, timeout=5)
    assert done.returncode == 1 and "im.gguf: cannot be created" in done.stderr
    done = nibble("quantize", smollm2, tmp_path / "out.gguf", "--bits", 5, "--save-plan", tmp_path / "none" / "p.json",
                  check=False, timeout=5)
    assert done.returncode == 1 and "p.json: cannot be created" in done.stderr and not list(tmp_path.iterdir())
