# SPDX-License-Identifier: Apache-2.0
"""nibble quantize: what it writes is opened by safetensors, transformers' config classes and gguf, and holds the
same values in every container; exit codes, the report, kills and full disks."""
import filecmp
import json
import shutil
import os
import pathlib
import re
import resource
import signal
import subprocess
import time

import pytest

np = pytest.importorskip("numpy")
ml_dtypes = pytest.importorskip("ml_dtypes")
gguf = pytest.importorskip("gguf")
safetensors = pytest.importorskip("safetensors")
safetensors_numpy = pytest.importorskip("safetensors.numpy")

DIM, FFN, HEADS, KV, HEAD_DIM, LAYERS, VOCAB = 128, 256, 4, 2, 32, 2, 160
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
LINEARS = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
           "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
           "mlp.down_proj": "ffn_down"}


def weights(family):
    rng = np.random.default_rng(7)
    norm_at = 0.0 if family == "gemma3_text" else 1.0

    def matrix(rows, cols):
        return (rng.standard_normal((rows, cols)) * 0.05).astype(ml_dtypes.bfloat16)

    def norm(n):
        return (norm_at + rng.standard_normal(n) * 0.1).astype(ml_dtypes.bfloat16)

    out = {"model.embed_tokens.weight": matrix(VOCAB, DIM), "model.norm.weight": norm(DIM)}
    rows = {"q": HEADS * HEAD_DIM, "k": KV * HEAD_DIM, "v": KV * HEAD_DIM}
    for i in range(LAYERS):
        p = f"model.layers.{i}."
        for name, n in rows.items():
            out[f"{p}self_attn.{name}_proj.weight"] = matrix(n, DIM)
        out[f"{p}self_attn.o_proj.weight"] = matrix(DIM, HEADS * HEAD_DIM)
        out[f"{p}mlp.gate_proj.weight"], out[f"{p}mlp.up_proj.weight"] = matrix(FFN, DIM), matrix(FFN, DIM)
        out[f"{p}mlp.down_proj.weight"] = matrix(DIM, FFN)
        out[f"{p}input_layernorm.weight"], out[f"{p}post_attention_layernorm.weight"] = norm(DIM), norm(DIM)
        if family != "llama":
            out[f"{p}self_attn.q_norm.weight"], out[f"{p}self_attn.k_norm.weight"] = norm(HEAD_DIM), norm(HEAD_DIM)
        if family == "gemma3_text":
            out[f"{p}pre_feedforward_layernorm.weight"] = norm(DIM)
            out[f"{p}post_feedforward_layernorm.weight"] = norm(DIM)
    return out


def write_words(directory):
    """A byte-level tokenizer of the 256 bytes' letters that fit and one control token."""
    vocab = {"<|end|>": 0}
    for c in map(chr, list(range(33, 127))):
        vocab[c] = len(vocab)
    (directory / "tokenizer.json").write_text(json.dumps({
        "version": "1.0", "normalizer": None, "post_processor": None,
        "added_tokens": [{"id": 0, "content": "<|end|>", "special": True, "single_word": False, "lstrip": False,
                          "rstrip": False, "normalized": False}],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": True},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}]},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "vocab": vocab,
                  "merges": []}}))
    (directory / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>"}))


def make_model(directory, family="llama"):
    directory.mkdir()
    config = {"model_type": family, "architectures": ["X"], "torch_dtype": "bfloat16", "hidden_size": DIM,
              "intermediate_size": FFN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
              "num_key_value_heads": KV, "head_dim": HEAD_DIM, "vocab_size": VOCAB, "max_position_embeddings": 128,
              "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True, "eos_token_id": 0}
    if family == "gemma3_text":
        config.update(query_pre_attn_scalar=HEAD_DIM, sliding_window=64,
                      layer_types=["sliding_attention", "full_attention"])
    (directory / "config.json").write_text(json.dumps(config))
    write_words(directory)
    safetensors_numpy.save_file(weights(family), directory / "model.safetensors", {"format": "pt"})
    return directory


def make_joined(directory):
    """As Phi 3 stores it: q, k and v in one matrix, gate and up in one."""
    make_model(directory)
    tensors = weights("llama")
    for layer in range(LAYERS):
        for joined, names in (("self_attn.qkv", "qkv"), ("mlp.gate_up", ("gate", "up"))):
            at, half = f"model.layers.{layer}.", joined.split(".")[0]
            tensors[f"{at}{joined}_proj.weight"] = np.concatenate(
                [tensors.pop(f"{at}{half}.{name}_proj.weight") for name in names])
    safetensors_numpy.save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    config = {**json.loads((directory / "config.json").read_text()), "model_type": "phi3", "pad_token_id": 0}
    (directory / "config.json").write_text(json.dumps(config))
    return directory


def raw_tensors(path):
    """Name -> (dtype name, array) straight from the file, FP8 as bytes."""
    data = path.read_bytes()
    n = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + n])
    kinds = {"U8": np.uint8, "F8_E4M3": np.uint8, "F32": np.float32, "BF16": ml_dtypes.bfloat16, "F16": np.float16}
    out = {}
    for name, t in header.items():
        if name != "__metadata__":
            a, b = t["data_offsets"]
            assert (8 + n + a) % np.dtype(kinds[t["dtype"]]).itemsize == 0, f"{name} is not aligned"
            out[name] = t["dtype"], np.frombuffer(data[8 + n + a:8 + n + b], kinds[t["dtype"]]).reshape(t["shape"])
    return out


def directory_values(directory):
    """Module -> FP32 values, by the two conventions' definitions."""
    found = raw_tensors(directory / "model.safetensors")
    out = {}
    for name, (kind, array) in found.items():
        stem, last = name.rsplit(".", 1)
        if last not in ("weight", "weight_packed"):
            continue
        if kind != "U8":
            out[stem] = array.astype(np.float32)
            continue
        values = np.stack([E2M1[array & 15], E2M1[array >> 4]], -1).reshape(len(array), -1)
        scales = found[f"{stem}.weight_scale"][1].view(ml_dtypes.float8_e4m3fn).astype(np.float32)
        if last == "weight":
            tensor_scale = found[f"{stem}.weight_scale_2"][1]
        else:
            tensor_scale = np.float32(1) / found[f"{stem}.weight_global_scale"][1]
        out[stem] = values * np.repeat(scales, 16, axis=1) * tensor_scale
    return out


def gguf_values(path):
    reader = gguf.GGUFReader(path)
    side = {t.name[:-6]: t.data[0] for t in reader.tensors if t.name.endswith(".scale")}
    out = {}
    for t in reader.tensors:
        if t.name.endswith(".weight"):
            v = gguf.dequantize(t.data, t.tensor_type).reshape([int(d) for d in reversed(t.shape)])
            out[t.name[:-7]] = v * np.float32(side.get(t.name[:-7], 1))
    return reader, out


def halves(w, heads):
    """Llama's q and k rows of a GGUF file, back in Hugging Face's order."""
    return w.reshape(heads, -1, 2, w.shape[-1]).swapaxes(1, 2).reshape(w.shape)


@pytest.fixture(scope="module", params=["llama", "qwen3", "gemma3_text"])
def converted(request, nibble, tmp_path_factory):
    root = tmp_path_factory.mktemp(request.param)
    source = make_model(root / "source", request.param)
    nibble("quantize", source, root / "modelopt", "--method", "sweep")
    nibble("quantize", source, root / "ct", "--method", "sweep", "--compressed-tensors")
    gemma = request.param == "gemma3_text"  # a GGUF file made from its source has other scales: test_gemma_gguf
    nibble("quantize", root / "modelopt" if gemma else source, root / "model.gguf", "--method", "sweep")
    return request.param, root


def test_conventions_hold_equal_values(converted):
    family, root = converted
    modelopt, ct = directory_values(root / "modelopt"), directory_values(root / "ct")
    reader, there = gguf_values(root / "model.gguf")
    assert reader.fields["general.file_type"].contents() == 39
    assert reader.fields["general.quantization_version"].contents() == 2
    assert modelopt.keys() == ct.keys()
    for name in modelopt:
        assert np.array_equal(modelopt[name], ct[name]), name
    checked = 0
    for i in range(LAYERS):
        for hf, short in LINEARS.items():
            w = there[f"blk.{i}.{short}"]
            if family == "llama" and short in ("attn_q", "attn_k"):
                w = halves(w, HEADS if short == "attn_q" else KV)
            assert np.array_equal(modelopt[f"model.layers.{i}.{hf}"], w), hf
            checked += w.size
        shift = np.float32(1 if family == "gemma3_text" else 0)
        assert np.array_equal(modelopt[f"model.layers.{i}.input_layernorm"] + shift, there[f"blk.{i}.attn_norm"])
    assert np.array_equal(modelopt["model.embed_tokens"], there["token_embd"])
    assert np.array_equal(modelopt["model.embed_tokens"],
                          weights(family)["model.embed_tokens.weight"].astype(np.float32))
    assert checked == LAYERS * sum(w.size for n, w in weights(family).items() if "layers.0" in n and w.ndim == 2)


def test_opened_by_the_reference_readers(converted):
    transformers = pytest.importorskip("transformers")
    family, root = converted
    for name in ("modelopt", "ct"):
        config = transformers.AutoConfig.from_pretrained(root / name)
        assert config.model_type == family
        assert config.quantization_config["ignore"] == ["lm_head"]
        with safetensors.safe_open(root / name / "model.safetensors", "np") as f:
            assert f.metadata()["format"] == "pt"
            shapes = {key: f.get_slice(key).get_shape() for key in f.keys()}
        stem = "model.layers.0.mlp.up_proj."
        if name == "modelopt":
            assert shapes[stem + "weight"] == [FFN, DIM // 2] and shapes[stem + "weight_scale_2"] == []
            quant = json.loads((root / name / "hf_quant_config.json").read_text())["quantization"]
            assert quant["group_size"] == 16 and quant["exclude_modules"] == ["lm_head"]
            assert quant["kv_cache_quant_algo"] is None
        else:
            assert shapes[stem + "weight_packed"] == [FFN, DIM // 2] and shapes[stem + "weight_global_scale"] == [1]
        assert shapes[stem + "weight_scale"] == [FFN, DIM // 16]
    fields = gguf.GGUFReader(root / "model.gguf").fields
    assert fields["tokenizer.ggml.pre"].contents() == "smollm"
    assert len(fields["tokenizer.ggml.tokens"].contents()) == VOCAB


def test_round_trips_give_the_same_bytes(converted, nibble):
    _, root = converted
    nibble("quantize", root / "model.gguf", root / "from-gguf", "--compressed-tensors")
    nibble("quantize", root / "from-gguf", root / "back")
    report = json.loads(nibble("quantize", root / "modelopt", root / "again.gguf", "--json").stdout)
    assert (report["quantized"], report["repacked"], report["scales_rounded"]) == (0, 7 * LAYERS, 0)
    assert report["method"] == "repacked"
    for name in ("modelopt", "back"):
        assert (root / name / "model.safetensors").stat().st_size
    before, after = directory_values(root / "modelopt"), directory_values(root / "back")
    assert all(np.array_equal(before[n], after[n]) for n in before) and before.keys() == after.keys()
    a, b = gguf_values(root / "model.gguf")[1], gguf_values(root / "again.gguf")[1]
    assert all(np.array_equal(a[n], b[n]) for n in a) and a.keys() == b.keys()


def test_tied_head(nibble, tmp_path):
    """In a GGUF file the embedding, which is the head, becomes NVFP4 without a scale beside it (llama.cpp has no
    place for one); in a directory the head is stored apart and the embedding as it was."""
    transformers = pytest.importorskip("transformers")
    source = make_model(tmp_path / "source")
    embedding = weights("llama")["model.embed_tokens.weight"].astype(np.float32)
    done = nibble("quantize", source, tmp_path / "model.gguf", "--method", "sweep", "--head", "nvfp4")
    assert "The embedding is quantized as well: it is the head too (tied)." in done.stdout
    names = {t.name: t.tensor_type for t in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    assert names["token_embd.weight"] == gguf.GGMLQuantizationType.NVFP4
    assert "output.weight" not in names and "token_embd.scale" not in names
    there = gguf_values(tmp_path / "model.gguf")[1]["token_embd"]
    assert 0.05 < np.linalg.norm(there - embedding) / np.linalg.norm(embedding) < 0.15

    report = json.loads(nibble("quantize", source, tmp_path / "out", "--method", "sweep", "--head", "nvfp4",
                               "--json").stdout)
    assert (report["tied_embedding_quantized"], report["head_untied"]) == (False, True)
    config = transformers.AutoConfig.from_pretrained(tmp_path / "out")
    assert not config.tie_word_embeddings and config.quantization_config["ignore"] == []
    values = directory_values(tmp_path / "out")
    assert np.array_equal(values["model.embed_tokens"], embedding)
    assert 0.05 < np.linalg.norm(values["lm_head"] - embedding) / np.linalg.norm(embedding) < 0.15

    nibble("quantize", tmp_path / "model.gguf", tmp_path / "back")  # every value of the quantized embedding stays
    assert np.array_equal(directory_values(tmp_path / "back")["model.embed_tokens"], there)


def test_gemma_gguf(nibble, tmp_path):
    """llama.cpp computes Gemma's gate and up without the scales beside them, so these are 1 in a GGUF file."""
    source = make_model(tmp_path / "source", "gemma3_text")
    nibble("quantize", source, tmp_path / "model.gguf", "--method", "sweep")
    scales = {t.name: float(t.data[0]) for t in gguf.GGUFReader(tmp_path / "model.gguf").tensors
              if t.name.endswith(".scale")}
    for name, scale in scales.items():
        assert (scale == 1) == ("ffn_gate" in name or "ffn_up" in name), name
    assert len(scales) == 7 * LAYERS
    nibble("quantize", source, tmp_path / "modelopt", "--method", "sweep")
    done = nibble("quantize", tmp_path / "modelopt", tmp_path / "moved.gguf")
    assert f"{2 * LAYERS} tensors came with a scale that nibble reads and llama.cpp does not" in done.stdout


def test_growing_queries_keep_their_length(nibble, tmp_path):
    """By which queries grow without YaRN too: through both containers, where llama.cpp looks for it."""
    source = make_model(tmp_path / "source")
    config = json.loads((source / "config.json").read_text())
    grows = {"rope_type": "default", "llama_4_scaling_beta": 0.5, "original_max_position_embeddings": 32}
    (source / "config.json").write_text(json.dumps({**config, "model_type": "ministral3", "rope_parameters": grows}))
    nibble("quantize", source, tmp_path / "model.gguf", "--method", "rtn")
    fields = gguf.GGUFReader(tmp_path / "model.gguf").fields
    assert fields["mistral3.rope.scaling.original_context_length"].contents() == 32
    assert "mistral3.rope.scaling.type" not in fields
    nibble("quantize", tmp_path / "model.gguf", tmp_path / "back")
    assert json.loads((tmp_path / "back" / "config.json").read_text())["rope_scaling"] == grows


def test_report(nibble, tmp_path):
    source = make_model(tmp_path / "source")
    out = tmp_path / "out"
    report = json.loads(nibble("quantize", source, out, "--method", "rtn", "--json", "--keep", "*.v_proj").stdout)
    groups = {g["group"]: g for g in report["groups"]}
    assert groups["attn_q"]["to"] == "NVFP4" and 0.07 < groups["attn_q"]["relative_error"] < 0.12
    assert groups["attn_v"]["to"] == "BF16" and groups["attn_v"]["relative_error"] is None
    assert report["bytes_after"] == (out / "model.safetensors").stat().st_size
    assert report["bits_per_weight_linear"] == pytest.approx(4.5 + 11.5 / 18, abs=0.01)  # v is an 18th
    assert set(json.loads((out / "hf_quant_config.json").read_text())["quantization"]["exclude_modules"]) == {
        "lm_head", "model.layers.0.self_attn.v_proj", "model.layers.1.self_attn.v_proj"}
    text = nibble("quantize", source, out, "--method", "sweep").stdout  # a model is replaced
    assert "bits per weight" in text and "nvfp4, sweep" in text
    assert not list(tmp_path.glob(".*"))


def test_auto_is_gptq_for_small_models(nibble, tmp_path):
    source = make_model(tmp_path / "source")
    (tmp_path / "text").write_text("some words to calibrate with, " * 30)
    report = json.loads(nibble("quantize", source, tmp_path / "a.gguf", "--calib", tmp_path / "text", "--json").stdout)
    assert report["method"] == "gptq" and report["calibration_tokens"] > 100
    report = json.loads(nibble("quantize", source, tmp_path / "a.gguf", "--format", "mxfp4", "--calib", tmp_path / "text",
                               "--json").stdout)
    assert report["method"] == "weighted"
    assert all(g["weighted_error"] > 0 for g in report["groups"] if g["to"].startswith("MXFP4"))


@pytest.mark.parametrize("arguments, code, words", [
    (["IN"], 2, "expected IN and OUT"),
    (["IN", "OUT", "--format", "int4"], 2, "--format takes one of nvfp4, mxfp4, fp8, q5_0, q8_0, bf16"),
    (["IN", "OUT.gguf", "--format", "fp8"], 2, "cannot hold FP8"),
    (["IN", "OUT.gguf", "--compressed-tensors"], 2, "writes a directory"),
    (["IN", "OUT", "--method", "rtn", "--calib", "x"], 2, "--calib and --calib-tokens are for --method weighted"),
    (["IN", "OUT", "--format", "fp8", "--method", "sweep"], 2, "has none"),
    (["no-such-model", "OUT"], 1, "cannot be opened"),
    (["IN", "no/such/place/OUT"], 1, "cannot be created"),
    (["IN", "IN"], 1, "is the source"),
    (["IN", "MINE"], 1, "is not a model directory"),
    (["IN", "OUT", "--calib", "no-such-text"], 1, "no-such-text"),
    (["IN", "OUT", "--keep", "lm_hed*"], 1, "no tensor has a name like"),
    (["IN", "OUT", "--calib", "IN/model.safetensors"], 1, "IN/model.safetensors: expected a text in UTF-8; byte "),
    (["IN", "OUT", "--calib", "LATIN1"], 1, "nibble: LATIN1: expected a text in UTF-8; byte 3 is no part of one\n"),
    (["LONE.safetensors", "OUT"], 1, "give the directory with its config.json"),
    (["LONE.safetensors", "OUT.gguf"], 1, "give the directory with its config.json"),
    (["BARE", "OUT"], 1, "BARE: has no config.json"),
    (["IN", "MINE/letter.txt"], 1, "name ends in .gguf"),
])
def test_refusals(nibble, tmp_path, arguments, code, words):
    make_model(tmp_path / "IN")
    (tmp_path / "MINE").mkdir()
    (tmp_path / "MINE" / "letter.txt").write_text("dear")
    (tmp_path / "LATIN1").write_bytes("caf\xe9 au lait ".encode("latin-1") * 100)
    shutil.copy(tmp_path / "IN" / "model.safetensors", tmp_path / "LONE.safetensors")
    (make_model(tmp_path / "BARE") / "config.json").unlink()
    before = sorted(p.name for p in tmp_path.iterdir())
    done = nibble("quantize", *arguments, check=False, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert words in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == before
    assert (tmp_path / "MINE" / "letter.txt").read_text() == "dear"


def part_bytes(directory, left):
    """Bytes written so far under names that are not the final ones, but for what is LEFT of a run before."""
    total = 0
    for path in set(directory.glob(".*")) - left:
        for root, _, names in os.walk(path) if path.is_dir() else [(directory, (), [path.name])]:
            for name in names:
                try:
                    total += (pathlib.Path(root) / name).stat().st_size
                except FileNotFoundError:  # gone since it was listed
                    pass
    return total


@pytest.mark.parametrize("out", ["out", "out.gguf"])
def test_killed_leaves_nothing(nibble_path, nibble, smollm2, tmp_path, out):
    command = [nibble_path, "quantize", smollm2, tmp_path / out, "--method", "sweep"]
    for stop in (signal.SIGKILL, signal.SIGINT, signal.SIGTERM):
        left = set(tmp_path.iterdir())
        running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 200
        while part_bytes(tmp_path, left) < 1 << 20 and time.monotonic() < deadline:
            time.sleep(0.02)
        running.send_signal(stop)
        _, words = running.communicate(timeout=200)
        assert running.returncode != 0
        assert not (tmp_path / out).exists()
        if stop != signal.SIGKILL:  # asked, not killed: it cleans up
            assert running.returncode == 128 + stop, words
            assert not list(tmp_path.iterdir())
        else:
            assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("out", ["out", "out.gguf"])
def test_source_cut_short_leaves_nothing(nibble_path, smollm2, tmp_path, out):
    source = tmp_path / "source.gguf"
    shutil.copy(smollm2, source)
    running = subprocess.Popen([nibble_path, "quantize", source, tmp_path / out, "--method", "sweep"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 200
    while part_bytes(tmp_path, set()) < 1 << 20 and time.monotonic() < deadline:
        time.sleep(0.02)
    running.send_signal(signal.SIGSTOP)
    os.truncate(source, 4096)
    running.send_signal(signal.SIGCONT)
    told, words = running.communicate(timeout=200)
    assert (running.returncode, told) == (1, ""), words
    assert words.startswith("nibble: ") and words.count("\n") == 1 and "was cut short, or could not be read" in words
    assert [p.name for p in tmp_path.iterdir()] == ["source.gguf"]


@pytest.mark.parametrize("out", ["out", "out.gguf"])
def test_full_disk_is_reported(nibble_path, tmp_path, out):
    source = make_model(tmp_path / "source")

    def small_disk():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (60000, 60000))

    done = subprocess.run([nibble_path, "quantize", source, tmp_path / out, "--method", "sweep"], capture_output=True,
                          text=True, preexec_fn=small_disk, timeout=60)
    assert done.returncode == 1
    assert "cannot be written" in done.stderr and "size limit" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["source"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system takes root")
def test_full_file_system_is_reported(nibble, tmp_path):
    source = make_model(tmp_path / "source")
    small = tmp_path / "small"
    small.mkdir()
    nibble("quantize", source, tmp_path / "whole.gguf", "--method", "sweep")
    room = (tmp_path / "whole.gguf").stat().st_size - 4096  # enough for the tensors, whose sizes are known before
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={room}", "tmpfs", small], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        done = nibble("quantize", source, small / "out.gguf", "--method", "sweep", check=False)
        assert (done.returncode, list(small.iterdir())) == (1, [])
        assert "the disk is full" in done.stderr
    finally:
        subprocess.run(["umount", small], check=True)


def test_layers_of_an_unknown_network(nibble, tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "mystery")
    for layer in (255, 256):
        writer.add_tensor(f"blk.{layer}.attn_q.weight", np.ones((1, 64), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    done = nibble("quantize", tmp_path / "model.gguf", tmp_path / "out.gguf", check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (f"nibble: {tmp_path}/model.gguf: tensor blk.256.attn_q.weight is of layer 256; "
                           "expected 256 layers at most\n")


def test_bits_are_those_of_the_linear_layers(nibble, smollm2, tmp_path):
    """Kept ones too; not those of an embedding that is kept in blocks."""
    said = nibble("quantize", smollm2, tmp_path / "a.gguf", "--method", "rtn", "--keep", "blk.[1-9]*").stdout
    linears = [t for t in gguf.GGUFReader(tmp_path / "a.gguf").tensors if t.name.startswith("blk.") and "norm" not in t.name
               and t.name.endswith(".weight")]
    bits = 8 * sum(int(t.n_bytes) for t in linears) / sum(int(t.n_elements) for t in linears)
    assert float(re.search(r"([0-9.]+) in the linear layers", said)[1]) == pytest.approx(bits, abs=0.006)


def test_embedding(nibble, tree, smollm2, tmp_path):
    """A directory is no larger than it has to be; every value is kept where that is asked for."""
    sizes = {}
    for kind in ("auto", "f32"):
        nibble("quantize", smollm2, tmp_path / kind, "--format", "bf16", "--keep", "blk.*", "--embedding", kind)
        rows = [line for line in nibble("inspect", tmp_path / kind).stdout.splitlines() if line.startswith("| embed")]
        sizes[kind] = "BF16" in rows[0], "F32" in rows[0]
    assert sizes == {"auto": (True, False), "f32": (False, True)}
    out = tmp_path / "b.gguf"
    nibble("quantize", tree / "tests/golden/models/llama-words", out, "--method", "rtn", "--embedding", "f32")
    assert re.search(r"| embed.*F32", nibble("inspect", out).stdout)


@pytest.mark.parametrize("room, words, flags", [("1", "1.0", []), ("120", "125.8", []), ("200", "209.7", ["--smooth"])])
def test_room_is_asked_for_first(nibble, smollm2, tmp_path, room, words, flags):
    """Also for the codes that are kept beside the output until it is written: 120 MiB hold the output alone, 200 no smoothed copy."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={room}m", "tmpfs", tmp_path], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        done = nibble("quantize", smollm2, tmp_path / "out.gguf", "--method", "best", *flags, check=False, timeout=30)
    finally:
        subprocess.run(["umount", tmp_path], check=True)
    assert done.returncode == 1 and not done.stdout
    beside = r" with .*/out.gguf.tuning meanwhile" if room != "200" else ""
    of = rf"\.out\.gguf\.nibble-\S*/{smollm2.name}" if room == "200" else "out.gguf"
    assert re.fullmatch(rf"nibble: .*/{of}: takes at least \d+\.\d MB{beside}, and its file system has {words} MB left\n", done.stderr)


def test_a_limit_of_file_sizes(nibble_path, smollm2, tmp_path):
    """A write past it fails in words, and nothing stays behind."""
    done = subprocess.run(["bash", "-c", 'ulimit -f 20000; exec "$@"', "-", nibble_path, "quantize", smollm2, tmp_path / "out.gguf", "--method", "rtn"],
                          capture_output=True, text=True)
    assert done.returncode == 1 and "File too large" in done.stderr, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_nohup_is_heeded(nibble_path, smollm2, tmp_path):
    """A program that nohup started goes on when its terminal closes."""
    with subprocess.Popen(["nohup", nibble_path, "quantize", smollm2, tmp_path / "out.gguf", "--method", "gptq"],
                          stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as running:
        while not (tmp_path / "out.gguf.tuning").exists():
            assert running.poll() is None
            time.sleep(0.05)
        running.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        assert running.poll() is None, running.stderr.read()
        running.send_signal(signal.SIGTERM)
        assert "interrupted" in running.stderr.read()


@pytest.mark.parametrize("name", ["out.safetensors", "out.BIN"])
def test_a_directory_is_not_called_like_a_file(nibble, smollm2, tmp_path, name):
    done = nibble("quantize", smollm2, tmp_path / name, "--method", "rtn", check=False)
    assert done.returncode == 2 and "would be a directory; a file is written where OUT ends in .gguf" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_real_model_goes_round(nibble, smollm2, tmp_path):
    done = nibble("quantize", smollm2, tmp_path / "a", "--method", "sweep")
    assert "1 tensor (embedding, head) rounded to BF16; --embedding f32 keeps every value" in done.stdout
    nibble("quantize", tmp_path / "a", tmp_path / "b.gguf")
    nibble("quantize", tmp_path / "b.gguf", tmp_path / "c", "--compressed-tensors")
    nibble("quantize", tmp_path / "c", tmp_path / "d")
    assert filecmp.cmp(tmp_path / "a" / "model.safetensors", tmp_path / "d" / "model.safetensors", shallow=False)


def test_words_of_real_models(nibble, smollm2, tmp_path, wikitext_test):
    """GGUF -> directory -> GGUF: the same ids, and tokenizers agrees."""
    tokenizers = pytest.importorskip("tokenizers")
    text = wikitext_test.read_bytes()[:200000].decode("utf-8", "ignore")
    (tmp_path / "text").write_text(text)
    nibble("quantize", smollm2, tmp_path / "there", "--method", "rtn")
    nibble("quantize", tmp_path / "there", tmp_path / "back.gguf")
    ids = [nibble("tokenize", model, "--text", tmp_path / "text", "--ids", "--no-bos").stdout
           for model in (smollm2, tmp_path / "there", tmp_path / "back.gguf")]
    assert ids[0] == ids[1] == ids[2]
    tokenizer = tokenizers.Tokenizer.from_file(str(tmp_path / "there" / "tokenizer.json"))
    assert tokenizer.encode(text, add_special_tokens=False).ids == [int(i) for i in ids[0].split()]


def test_other_models_are_not_replaced(nibble, tree, tmp_path):
    tiny = tree / "tests/golden/models/llama-words"
    out = tmp_path / "mine"
    shutil.copytree(tiny, out, ignore=lambda _, names: [n for n in names if not n.endswith((".json", ".safetensors"))])
    before = (out / "model.safetensors").read_bytes()
    done = nibble("quantize", tiny, out, "--method", "rtn", check=False)
    assert done.returncode == 1 and "has no nibble.json, which says that nibble wrote it" in done.stderr
    assert (out / "model.safetensors").read_bytes() == before


def test_without_a_tokenizer_auto_sweeps(nibble, tree, tmp_path):
    model = make_model(tmp_path / "model")  # of a checkpoint that has tokenizer.model alone
    (model / "tokenizer.json").rename(model / "tokenizer.model")
    for source in (model, tree / "tests/golden/models/qwen3-tied/model.gguf"):
        text = nibble("quantize", source, tmp_path / "out").stdout
        assert "nvfp4, sweep)" in text
        assert f"Method sweep, because nibble cannot run the model: {source}: holds no tokenizer (no " in text
        report = json.loads(nibble("quantize", source, tmp_path / "out", "--json").stdout)
        assert report["method"] == "sweep" and "holds no tokenizer" in report["sweep_because"]
        done = nibble("quantize", source, tmp_path / "weighted", "--method", "weighted", check=False)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == f"nibble: {source}: holds no tokenizer (no tokenizer.json, no tokenizer.ggml.tokens)\n"
        assert not (tmp_path / "weighted").exists()


@pytest.mark.parametrize("flags", [[], ["--compressed-tensors"]], ids=["modelopt", "compressed-tensors"])
@pytest.mark.parametrize("form", ["nvfp4", "mxfp4", "fp8", "bf16"])
def test_what_nibble_wrote_is_replaced(nibble, tree, tmp_path, form, flags):
    transformers = pytest.importorskip("transformers")
    out = tmp_path / "out"
    for _ in range(2):
        nibble("quantize", tree / "tests/golden/models/llama-words", out, "--method", "rtn", "--format", form, *flags)
    assert transformers.AutoConfig.from_pretrained(out).model_type == "llama"
    shutil.copytree(out, tmp_path / "saved", ignore=lambda *_: ["nibble.json"])  # as another program saves it again
    done = nibble("quantize", out, tmp_path / "saved", check=False)
    assert done.returncode == 1 and "which says that nibble wrote it" in done.stderr
