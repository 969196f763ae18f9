# SPDX-License-Identifier: Apache-2.0
"""nibble calibrate and quantize --imatrix: the file is llama.cpp's format by gguf's reader, quantizing with it gives the bytes of
quantizing with its text, one that gguf's writer made is taken, and a bad one, or one that lacks something, is refused in words."""
import filecmp
import json

import pytest

from test_quantize import DIM, FFN, LAYERS, LINEARS, make_joined, make_model, weights

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
    assert f"{len(LINEARS) * LAYERS + 1} layers" in told  # and the head
    names = [f"blk.{layer}.{name}" for layer in range(LAYERS) for name in LINEARS.values()] + ["output"]
    for name in names:
        cols = FFN if name.endswith("ffn_down") else DIM
        sums, counts = (tensors.pop(f"{name}.weight.{what}") for what in ("in_sum2", "counts"))
        assert sums.shape == (1, cols) and counts.shape == (1, 1)
        most = fields["imatrix.chunk_count"] * fields["imatrix.chunk_size"]
        assert (sums > 0).all() and counts[0, 0] <= most and (counts[0, 0] > 128 or name == "output")
        if name.split(".")[-1] in ("attn_k", "attn_v"):
            assert tensors.pop(f"{name}.weight.out_peak").shape == (1, 1)
        if name.split(".")[-1] not in ("attn_q", "attn_output", "ffn_gate", "ffn_down", "output"):
            continue  # which read what others read
        blocks, peaks = (tensors.pop(f"{name}.weight.{what}") for what in ("in_blocks", "in_peaks"))
        assert blocks.shape == (cols, 16) and peaks.shape == (1, 4)
        assert blocks[np.arange(cols), np.arange(cols) % 16] == pytest.approx(sums[0], rel=1e-5)
        wide = blocks.reshape(-1, 16, 16)
        assert np.allclose(wide, wide.swapaxes(1, 2), rtol=1e-5) and (np.linalg.eigvalsh(wide.astype(np.float64)) > -1e-3).all()
        most, *shares = peaks[0]
        assert 0 < shares[0] <= shares[1] <= shares[2] <= most
    assert not tensors


def test_it_is_what_numpy_computes(made, nibble):
    """Of the first layer's input, whose rows are the normed embeddings of the text's tokens; and its values."""
    root, _ = made
    found = {t.name.removeprefix("blk.0."): t.data for t in gguf.GGUFReader(root / "im.gguf").tensors if t.name.startswith("blk.0.")}
    stored = {name: array.astype(np.float64) for name, array in weights("llama").items()}
    ids = [int(i) for i in nibble("tokenize", root / "source", "--ids", (root / "text").read_text()).stdout.split()]
    x = stored["model.embed_tokens.weight"][ids]
    x *= stored["model.layers.0.input_layernorm.weight"] / np.sqrt((x ** 2).mean(1, keepdims=True) + 1e-5)
    assert found["attn_q.weight.counts"][0, 0] == len(ids)
    assert found["attn_q.weight.in_sum2"][0] == pytest.approx((x ** 2).sum(0), rel=1e-5)
    for block in range(DIM // 16):
        of = x[:, 16 * block:16 * block + 16]
        assert np.allclose(found["attn_q.weight.in_blocks"][16 * block:16 * block + 16], of.T @ of, rtol=1e-4, atol=1e-3)
    largest, *shares = found["attn_q.weight.in_peaks"][0]
    assert largest == pytest.approx(np.abs(x).max(), rel=1e-6)
    for peak, share in zip(shares, (0.99, 0.999, 0.9999)):
        assert (np.abs(x) <= peak * (1 + 1e-6)).mean() >= share and peak <= np.quantile(np.abs(x), share, method="inverted_cdf") * (1 + 1 / 127)
    values = x @ stored["model.layers.0.self_attn.v_proj.weight"].T
    assert found["attn_v.weight.out_peak"][0, 0] == pytest.approx(np.abs(values).max(), rel=1e-5)


@pytest.mark.parametrize("flags", [
    ["--method", "weighted"], ["--method", "weighted", "--head", "nvfp4"], ["--method", "local"], ["--method", "local", "--head", "nvfp4"],
    ["--method", "local", "--fp8-exact", "--compressed-tensors"], ["--method", "rtn", "--input-scale", "4"],
    ["--format", "fp8", "--input-scale", "2", "--kv-scales"], ["--method", "weighted", "--input-scale", "1", "--kv-scales"]])
def test_it_is_the_calibration(made, nibble, tmp_path, flags):
    root, _ = made
    for name, by in (("by-text", ["--calib", root / "text"]), ("by-file", ["--imatrix", root / "im.gguf"])):
        report = json.loads(nibble("quantize", root / "source", tmp_path / name, *flags, *by, "--json").stdout)
        assert report["calibration_tokens"] >= 1000
    assert filecmp.cmp(tmp_path / "by-text" / "model.safetensors", tmp_path / "by-file" / "model.safetensors", shallow=False)


@pytest.mark.parametrize("method, family", [("local", "gemma3_text"), ("weighted", "phi3"), ("local", "phi3")])
def test_it_is_the_calibration_in_a_file(made, nibble, tmp_path, method, family):
    root, _ = made
    source = make_joined(tmp_path / "source") if family == "phi3" else make_model(tmp_path / "source", family)
    nibble("calibrate", source, "--text", root / "text", "-o", tmp_path / "im.gguf", "--threads", 3)
    for name, by in (("text.gguf", ["--calib", root / "text"]), ("file.gguf", ["--imatrix", tmp_path / "im.gguf"])):
        nibble("quantize", source, tmp_path / name, "--method", method, "--head", "nvfp4", *by)
    assert filecmp.cmp(tmp_path / "text.gguf", tmp_path / "file.gguf", shallow=False)
    nibble("quantize", source, tmp_path / "five.gguf", "--method", method, "--format", "q5_0", "--imatrix", tmp_path / "im.gguf")
    assert {t.tensor_type.name for t in gguf.GGUFReader(tmp_path / "five.gguf").tensors if ".ffn_" in t.name and "norm" not in t.name} == {"Q5_0"}


@pytest.mark.parametrize("without, flags, words", [
    ("in_blocks", ["--method", "local"], "has no second moments inside blocks (.in_blocks) of model.layers.1.mlp.gate_proj.weight, which --method local needs"),
    ("in_peaks", ["--input-scale", "2"], "has no largest inputs (.in_peaks) of model.layers.1.mlp.gate_proj.weight, which --input-scale needs"),
    ("out_peak", ["--kv-scales"], "has no largest key or value (.out_peak) of model.layers.1.self_attn.k_proj.weight, which --kv-scales needs")])
def test_what_is_missing_is_told(made, nibble, tmp_path, without, flags, words):
    """As in a file of llama.cpp's; nothing else is taken in its place."""
    root, _ = made
    left = {"in_blocks": "ffn_gate", "in_peaks": "ffn_gate", "out_peak": "attn_k"}[without]
    rewrite(root / "im.gguf", tmp_path / "less.gguf", lambda name, data: None if name == f"blk.1.{left}.weight.{without}" else data)
    done = nibble("quantize", root / "source", tmp_path / "out", "--imatrix", tmp_path / "less.gguf", *flags, check=False)
    assert done.returncode == 1 and words in done.stderr and "expected a file of nibble calibrate" in done.stderr, done.stderr
    assert not (tmp_path / "out").exists()
    nibble("quantize", root / "source", tmp_path / "out", "--imatrix", tmp_path / "less.gguf", "--method", "weighted")


@pytest.mark.parametrize("name, change, words", [
    ("in_blocks", lambda a: a * np.where(np.eye(16, dtype=bool)[np.arange(len(a)) % 16], 0.1, 1), "holds no sums of products of inputs"),
    ("in_blocks", lambda a: a * np.nan, "holds no sums of products of inputs"),
    ("in_blocks", lambda a: a[:, :8], "8 columns and 4096 bytes; expected F32 [128, 16]"),
    ("in_blocks", lambda a: a[:64], "16 columns and 4096 bytes; expected F32 [128, 16]"),
    ("in_peaks", lambda a: a[:, ::-1], "holds no magnitudes in order"),
    ("in_peaks", lambda a: a * np.inf, "holds no magnitudes in order"),
    ("in_peaks", lambda a: -a, "holds no magnitudes in order"),
    ("in_peaks", lambda a: a[:, :3], "expected F32 [1, 4]")])
def test_bad_numbers(made, nibble, tmp_path, name, change, words):
    root, _ = made
    full = f"blk.0.attn_q.weight.{name}"
    rewrite(root / "im.gguf", tmp_path / "bad.gguf", lambda n, data: np.ascontiguousarray(change(data), np.float32) if n == full else data)
    done = nibble("quantize", root / "source", tmp_path / "out", "--imatrix", tmp_path / "bad.gguf", check=False)
    assert done.returncode == 1 and words in done.stderr and full in done.stderr and not (tmp_path / "out").exists(), done.stderr


@pytest.mark.parametrize("flags, words", [
    (["--method", "gptq"], "--method gptq chooses codes by how all inputs of a layer go together"),
    (["--method", "best"], "give the text itself by --calib"), (["--method", "sweep"], "--imatrix is for --method weighted and local"),
    (["--format", "fp8"], "--imatrix is for"), (["--method", "local", "--calib", "x"], "takes the place of a calibration")])
def test_wrong_usage(nibble, tmp_path, flags, words):
    done = nibble("quantize", "in", "out", "--imatrix", "im", *flags, check=False, cwd=tmp_path)
    assert done.returncode == 2 and words in done.stderr


def test_inspect(made, nibble):
    root, _ = made
    path = root / "im.gguf"
    told = json.loads(nibble("inspect", path, "--json", "--tensors").stdout)
    inputs = told.pop("inputs")
    assert told == {"type": "imatrix", "bytes": path.stat().st_size, "datasets": [str(root / "text")], "windows": 8, "window_tokens": 512,
                    "rows": 1000, "mean_squares": 15, "blocks": 9, "peaks": 9, "keys": 4}
    peaks = {t.name: t.data[0] for t in gguf.GGUFReader(path).tensors if t.name.endswith(".in_peaks")}
    assert {f"{i['input_of']}.in_peaks": pytest.approx([i["largest"], i["p99"], i["p99_9"], i["p99_99"]], rel=1e-5) for i in inputs} == \
        {name: list(p) for name, p in peaks.items()}
    text = nibble("inspect", path).stdout
    assert "importance matrix" in text and "9          inputs with second moments" in text and "largest |" not in text
    write(root / "plain.gguf")
    assert "0          inputs with second moments" in nibble("inspect", root / "plain.gguf").stdout
    rewrite(path, root / "cut.gguf", lambda name, data: data[:, :2] if name.endswith("in_peaks") else data)
    done = nibble("inspect", root / "cut.gguf", check=False)
    assert done.returncode == 1 and "in_peaks holds no F32 numbers" in done.stderr


def rewrite(path, out, change):
    """Through gguf's writer, each tensor by CHANGE(name, data), None: left out."""
    writer = gguf.GGUFWriter(out, "", use_temp_file=False)
    writer.add_string("general.type", "imatrix")
    for t in gguf.GGUFReader(path).tensors:
        data = change(t.name, t.data)
        if data is not None:
            writer.add_tensor(t.name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


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
    assert "with what an imatrix of " in told and "calibrated" not in told


@pytest.mark.parametrize("bad, words", [
    ({"kind": "model"}, "no importance matrix"),
    ({"cols": DIM + 16}, "144 columns and 576 bytes; expected F32 [1, 128]"),
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
