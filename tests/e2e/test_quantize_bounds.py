# SPDX-License-Identifier: Apache-2.0
"""nibble quantize: how much memory and time it takes, and that neither grows with what it should not grow with."""
import json
import resource
import subprocess

from test_quantize import DIM, LINEARS, VOCAB, gguf, make_model, ml_dtypes, np, safetensors_numpy, weights


def peak_bytes(nibble_path, *arguments):
    """Most memory that `nibble quantize ARGUMENTS` had, by its own report; started by a small process, because a
    program inherits the peak of the one that starts it."""
    script = "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))"
    done = subprocess.run(["python3", "-c", script, nibble_path, "quantize", *map(str, arguments), "--json"],
                          capture_output=True, text=True, check=True, timeout=120)
    return json.loads(done.stdout)["peak_bytes"]


def test_memory_stays_small(nibble_path, tmp_path):
    """768 MiB of source, one tensor at a time: resident memory stays far below it."""
    source = make_model(tmp_path / "source")
    config = json.loads((source / "config.json").read_text())
    tensors = weights("llama")
    rows = 1 << 20  # an embedding of 256 MiB, and 256 MiB of unused tensors beside it
    tensors["model.embed_tokens.weight"] = np.zeros((rows, DIM), ml_dtypes.bfloat16)
    tensors["extra.one"], tensors["extra.two"] = (np.ones((rows, DIM), ml_dtypes.bfloat16) for _ in range(2))
    config["vocab_size"] = rows
    (source / "config.json").write_text(json.dumps(config))
    safetensors_numpy.save_file(tensors, source / "model.safetensors", {"format": "pt"})
    assert peak_bytes(nibble_path, source, tmp_path / "out", "--method", "sweep") < 200 << 20


def write_deep_model(path, n_layers):
    """A Llama of 4.5 MiB a layer in Q8_0, which the CPU backend does not compute in place: it packs a copy."""
    dim, ffn = 512, 2048
    out = gguf.GGUFWriter(path, "llama")
    out.add_block_count(n_layers)
    out.add_context_length(512)
    out.add_embedding_length(dim)
    out.add_feed_forward_length(ffn)
    out.add_head_count(8)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_vocab_size(VOCAB)
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("smollm")
    out.add_token_list(["<|end|>"] + [chr(c) for c in range(33, 127)] + ["ab"] + [f"<{i}>" for i in range(96, VOCAB)])
    out.add_token_merges(["a b"])
    out.add_eos_token_id(0)
    values = (np.random.default_rng(9).standard_normal(ffn * dim) * 0.02).astype(np.float32)
    q8_0 = gguf.GGMLQuantizationType.Q8_0
    blocks = gguf.quantize(values, q8_0)

    def add(name, rows, cols):
        out.add_tensor(name, blocks[:rows * cols // 32 * 34].reshape(rows, -1), raw_dtype=q8_0)

    add("token_embd.weight", VOCAB, dim)
    out.add_tensor("output_norm.weight", np.ones(dim, np.float32))
    for i in range(n_layers):
        for name in ("attn_norm", "ffn_norm"):
            out.add_tensor(f"blk.{i}.{name}.weight", np.ones(dim, np.float32))
        for name, rows, cols in (("attn_q", dim, dim), ("attn_k", dim, dim), ("attn_v", dim, dim),
                                 ("attn_output", dim, dim), ("ffn_gate", ffn, dim), ("ffn_up", ffn, dim),
                                 ("ffn_down", dim, ffn)):
            add(f"blk.{i}.{name}.weight", rows, cols)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return path


def write_many_tensors(directory, n, n_quantized):
    """N tensors of a network that nibble does not know, N_QUANTIZED of them by the names of linear layers."""
    names = [f"{prefix}layers.{layer}.{linear}.weight" for layer in range(256) for linear in LINEARS
             for prefix in ("model.", "language_model.", "model.language_model.", "language_model.model.", "")]
    names = names[:n_quantized] + [f"model.layers.0.x{i}.weight" for i in range(n - n_quantized)]
    header = json.dumps({name: {"dtype": "BF16", "shape": [1, 64], "data_offsets": [128 * i, 128 * i + 128]}
                         for i, name in enumerate(names)}).encode()
    header += b" " * (-len(header) % 8)
    directory.mkdir()
    (directory / "config.json").write_text('{"model_type": "mystery"}')
    (directory / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\x80\x3f" * 64 * n)
    return directory


def test_time_grows_with_the_tensors(nibble_path, tmp_path):
    """Every tensor costs the same, however many there are: most of them quantized take little more than few."""
    seconds = []
    for n in (80, 8960):
        arguments = [write_many_tensors(tmp_path / str(n), 60000, n), tmp_path / f"out{n}", "--method", "sweep"]
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        subprocess.run([nibble_path, "quantize", *arguments, "--threads", "1"], check=True, capture_output=True)
        seconds.append(resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before)
    assert seconds[1] < 2 * seconds[0], seconds


def test_calibration_is_streamed_too(nibble_path, tmp_path):
    """The network runs by halves of layers: memory is the same for six layers (27 MiB) and for 30 (134 MiB)."""
    (tmp_path / "text").write_text("some words to calibrate with, " * 10)
    peaks = [peak_bytes(nibble_path, write_deep_model(tmp_path / f"{n}.gguf", n), tmp_path / "out.gguf", "--method", "weighted",
                        "--calib", tmp_path / "text", "--keep", "blk.[1-9]*", "--threads", 2) for n in (6, 30)]
    assert abs(peaks[1] - peaks[0]) < 20 << 20, peaks
