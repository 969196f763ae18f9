# SPDX-License-Identifier: Apache-2.0
"""nibble quantize --method gptq|best: never worse than the sweep on held-out text, the same file for any
number of threads, a killed run that goes on where it was, conversations as calibration text."""
import filecmp
import json
import os
import pathlib
import re
import shutil
import signal
import struct
import subprocess
import time

import gguf
import ml_dtypes
import numpy
import pytest
import safetensors.numpy

from test_quantize import make_model, raw_tensors
from test_quantize_bounds import peak_bytes, write_deep_model

TEXT = "".join(f"{a} and then {b}; some words (of {a + b} kinds) to calibrate with, again! "
               for a in range(9) for b in range(2))


@pytest.fixture
def text(tmp_path):
    (tmp_path / "text").write_text(TEXT)
    return tmp_path / "text"


def add_json(path, **more):
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}))


def chosen(report):
    return {m["name"]: m for m in report["chosen"]}


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3_text"])
@pytest.mark.parametrize("method", ["gptq", "best"])
def test_methods(nibble, tmp_path, text, family, method):
    source = make_model(tmp_path / "source", family)
    report = json.loads(nibble("quantize", source, tmp_path / "out", "--method", method, "--calib", text, "--json").stdout)
    assert report["method"] == method and report["quantized"] == 14 and report["calibration_tokens"] > 800
    layers = chosen(report)
    assert len(layers) == 14
    for name, m in layers.items():
        if method == "best":
            assert m["held_out_error"] <= m["sweep_error"], name
        assert m["share"] in ([0, 0.5, 1] if method == "best" else [0])
        assert m["way"] in {"gptq": ["gptq"], "best": ["gptq", "local", "weighted", "sweep"]}[method]
    mean = sum(m["held_out_error"] / m["sweep_error"] for m in layers.values()) / 14
    assert mean < 1, mean
    assert not list(tmp_path.glob("*.tuning*"))
    nibble("run", tmp_path / "out", "some words", "--no-chat", "--max-tokens", "4")


def test_every_container_holds_the_same_values(nibble, tmp_path, text):
    """Rows of q and k change their order on the way into a GGUF file; the codes follow."""
    source = make_model(tmp_path / "source", "llama")
    flags = ["--method", "gptq", "--calib", text]
    nibble("quantize", source, tmp_path / "a", *flags)
    nibble("quantize", source, tmp_path / "b.gguf", *flags)
    nibble("quantize", source, tmp_path / "c", "--compressed-tensors", *flags)
    nibble("quantize", tmp_path / "b.gguf", tmp_path / "b")
    nibble("quantize", tmp_path / "c", tmp_path / "d")
    for other in ("b", "d"):
        assert filecmp.cmp(tmp_path / "a" / "model.safetensors", tmp_path / other / "model.safetensors", shallow=False)


def test_threads_do_not_matter(nibble, tmp_path, text):
    source = make_model(tmp_path / "source", "qwen3")
    for n in (1, 2, 5):
        nibble("quantize", source, tmp_path / f"{n}.gguf", "--method", "best", "--calib", text, "--threads", n)
        assert filecmp.cmp(tmp_path / "1.gguf", tmp_path / f"{n}.gguf", shallow=False)


def marks(journal, n):
    """How many matrices a journal holds: the head takes 64 bytes, a mark 64."""
    try:
        raw = journal.read_bytes()[:64 + 64 * n]
    except FileNotFoundError:
        return 0
    return sum(struct.unpack_from("<Q", raw, 64 + 64 * i)[0] for i in range(n)) if len(raw) == 64 + 64 * n else 0


@pytest.fixture
def deep(tmp_path, monkeypatch):
    """A small model of 5 layers and the number of its matrices: time enough to stop it in between."""
    monkeypatch.setattr("test_quantize.LAYERS", 5)
    return make_model(tmp_path / "source", "qwen3"), 5 * 7


@pytest.mark.parametrize("format", ["nvfp4", "q5_0"])
def test_a_killed_run_goes_on(nibble, nibble_path, tmp_path, text, deep, format):
    source, n = deep
    flags = ["--format", format, "--method", "gptq", "--calib", text, "--threads", "1"]
    assert "goes on" not in nibble("quantize", source, tmp_path / "whole.gguf", *flags).stderr
    out, journal = tmp_path / "out.gguf", tmp_path / "out.gguf.tuning"
    for least in (3, 15):
        process = subprocess.Popen([nibble_path, "quantize", source, out, *map(str, flags)],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while marks(journal, n) < least:
            assert process.poll() is None, "ended before it could be killed"
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert marks(journal, n) >= least and not out.exists()
    done = marks(journal, n) // 7
    assert nibble("quantize", source, out, *flags).stderr == f"goes on from {journal}: {done} of 5 layers are done\n"
    assert filecmp.cmp(tmp_path / "whole.gguf", out, shallow=False)
    assert not list(tmp_path.glob("*.tuning*"))


def test_other_work_does_not_go_on_from_a_journal(nibble, nibble_path, tmp_path, text, deep):
    source, n = deep
    out, journal = tmp_path / "out.gguf", tmp_path / "out.gguf.tuning"
    process = subprocess.Popen([nibble_path, "quantize", source, out, "--method", "gptq", "--calib", text, "--threads", "1"],
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while marks(journal, n) < 4:
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    told = process.communicate()[1]
    assert process.returncode == 130 and journal.exists() and f"kept in {journal}: the same command goes on" in told
    flags = ["--method", "gptq", "--calib", text, "--calib-tokens", "300"]
    nibble("quantize", source, tmp_path / "whole.gguf", *flags)
    nibble("quantize", source, out, *flags)
    assert filecmp.cmp(tmp_path / "whole.gguf", out, shallow=False)


def test_what_a_stopped_run_left_goes_with_the_output(nibble, nibble_path, tmp_path, text, deep):
    """Whatever the method of the run that writes it; a file of that name that is nobody's journal stays."""
    source, n = deep
    out, journal = tmp_path / "out.gguf", tmp_path / "out.gguf.tuning"
    process = subprocess.Popen([nibble_path, "quantize", source, out, "--method", "gptq", "--calib", text, "--threads", "1"],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while marks(journal, n) < 2:
        assert process.poll() is None
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert journal.exists()
    nibble("quantize", source, out, "--method", "sweep")
    assert not journal.exists()
    journal.write_text("nobody's journal")
    nibble("quantize", source, out, "--method", "sweep")
    assert journal.read_text() == "nobody's journal"


@pytest.mark.parametrize("out, head", [("out", "nvfp4"), ("out.gguf", "q5_0")])
def test_a_head_is_chosen_too(nibble, tmp_path, text, out, head):
    source = make_model(tmp_path / "source", "qwen3")
    report = json.loads(nibble("quantize", source, tmp_path / out, "--method", "best", "--head", head, "--calib", text,
                               "--json").stdout)
    heads = [m for m in report["chosen"] if "layers" not in m["name"]]
    assert len(report["chosen"]) == 15 and len(heads) == 1 and heads[0]["held_out_error"] <= heads[0]["sweep_error"]


@pytest.mark.parametrize("method", ["auto", "best"])
def test_q5_0(nibble, tmp_path, text, method):
    """Chosen layer by layer as NVFP4's codes are, better than the search of single blocks; auto is gptq."""
    source = make_model(tmp_path / "source", "llama")
    flags = ["--format", "q5_0", "--method", method, "--calib", text]
    report = json.loads(nibble("quantize", source, tmp_path / "out.gguf", *flags, "--json").stdout)
    ways = {"auto": {"gptq"}, "best": {"gptq", "local", "weighted", "sweep"}}[method]
    assert len(report["chosen"]) == 14 and {m["way"] for m in report["chosen"]} <= ways
    assert sum(m["held_out_error"] / m["sweep_error"] for m in report["chosen"]) < 14
    assert sum(t.tensor_type.name == "Q5_0" for t in gguf.GGUFReader(tmp_path / "out.gguf").tensors) == 14
    nibble("quantize", source, tmp_path / "again.gguf", *flags, "--threads", 3)
    assert filecmp.cmp(tmp_path / "out.gguf", tmp_path / "again.gguf", shallow=False)


@pytest.mark.parametrize("out, flags", [("out", []), ("out.gguf", []), ("out.gguf", ["--format", "q5_0"])])
def test_local(nibble, tmp_path, text, out, flags):
    """Codes by the inputs' blocks: the outputs lose less than by the sweep; the same bytes for any number of threads."""
    source = make_model(tmp_path / "source", "llama")
    base = tmp_path / f"base-{out}"
    nibble("quantize", source, base, "--format", "bf16")
    for name in "sweep", "local":
        nibble("quantize", source, tmp_path / f"{name}-{out}", "--method", name, *flags, *([] if name == "sweep" else ["--calib", text]))
    lost = [json.loads(nibble("eval", "kld", tmp_path / f"{name}-{out}", "--base", base, "--text", text, "--ctx", 64, "--activations",
                              "f32", "--json").stdout)["kld"] for name in ("sweep", "local")]
    assert lost[1] < 0.9 * lost[0], lost
    nibble("quantize", source, tmp_path / f"again-{out}", "--method", "local", *flags, "--calib", text, "--threads", 3)
    name = "model.safetensors" if out == "out" else ""
    assert not filecmp.cmp(tmp_path / f"sweep-{out}" / name, tmp_path / f"local-{out}" / name, shallow=False)
    assert filecmp.cmp(tmp_path / f"local-{out}" / name, tmp_path / f"again-{out}" / name, shallow=False)


def in_tiles(source, directory):
    """SOURCE's linear layers in FP8 with a scale per tile, and the same values in BF16 beside it."""
    tensors, codes, values = safetensors.numpy.load_file(source / "model.safetensors"), {}, {}
    for name, w in tensors.items():
        codes[name] = values[name] = w
        if "_proj" in name:
            scale = numpy.float32(2.0**-9)
            codes[name] = (w.astype(numpy.float32) / scale).astype(ml_dtypes.float8_e4m3fn)
            values[name] = (codes[name].astype(numpy.float32) * scale).astype(ml_dtypes.bfloat16)
            codes[f"{name}_scale_inv"] = numpy.full((-(-w.shape[0] // 128), -(-w.shape[1] // 128)), scale)
    for kind, held in ("tiles", codes), ("plain", values):
        shutil.copytree(source, directory / kind)
        safetensors.numpy.save_file(held, directory / kind / "model.safetensors", {"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    (directory / "tiles" / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("format", ["nvfp4", "q5_0"])
def test_scales_of_the_source_do_not_reach_what_stands_in(nibble, tmp_path, text, format):
    """Later layers are calibrated on what the chosen codes give: the same from a source in FP8 tiles as from its values."""
    in_tiles(make_model(tmp_path / "source", "llama"), tmp_path)
    found = []
    for kind in "tiles", "plain":
        nibble("quantize", tmp_path / kind, tmp_path / f"{kind}.gguf", "--format", format, "--method", "best", "--calib", text)
        found.append({t.name: t.data.tobytes() for t in gguf.GGUFReader(tmp_path / f"{kind}.gguf").tensors if "blk" in t.name})
    assert found[0] == found[1]


@pytest.mark.parametrize("method", ["sweep", "weighted", "best"])
def test_fp8_exact(nibble, tmp_path, text, method):
    """Every product of a code and its block scale is an E4M3 value."""
    source = make_model(tmp_path / "source", "llama")
    calib = [] if method == "sweep" else ["--calib", text]
    nibble("quantize", source, tmp_path / "out", "--method", method, "--fp8-exact", *calib)
    values = numpy.arange(256, dtype=numpy.uint8).view(ml_dtypes.float8_e4m3fn).astype(numpy.float32)
    grid = numpy.array([0, .5, 1, 1.5, 2, 3, 4, 6], dtype=numpy.float32)
    found = set()
    for name, (kind, raw) in raw_tensors(tmp_path / "out" / "model.safetensors").items():
        if name.endswith("weight_scale"):
            assert kind == "F8_E4M3"
            found |= set(raw.ravel().tolist())
    assert len(found) > 5
    for scale in found:
        assert numpy.isin(grid * values[scale], values).all(), scale
    assert "--fp8-exact chose nothing for 14 tensors" in nibble("quantize", tmp_path / "out", tmp_path / "again", "--fp8-exact").stdout


@pytest.mark.parametrize("arguments, code, words", [
    (["--fp8-exact", "--method", "rtn"], 2, "--fp8-exact does not go with --method rtn"),
    (["--fp8-exact", "--format", "mxfp4"], 2, "--fp8-exact chooses block scales of nvfp4"),
    (["--method", "gptq", "--format", "mxfp4"], 2, "--method gptq is for nvfp4"),
    (["--method", "local", "--format", "mxfp4"], 2, "--method local is for nvfp4"),
    (["--method", "sweep", "--bits", "5", "--imatrix", "absent"], 2, "--imatrix is for --method weighted and local"),
    (["--method", "sweep", "--calib-tokens", "500"], 2, "--calib and --calib-tokens are for --method weighted"),
    (["--method", "gptq", "--calib-tokens", "5"], 2, "--calib-tokens"),
    (["--method", "best", "--calib", "short"], 1, "expected 128 at least"),
    (["--method", "best", "--calib", "talk.jsonl"], 1, "conversations need a chat template"),
    (["--calib", "talk.jsonl"], 1, "conversations need a chat template"),
    (["--method", "gptq", "--calib", "absent"], 1, "absent"),
])
def test_refusals_of_tuned_methods(nibble, tmp_path, arguments, code, words):
    make_model(tmp_path / "IN", "llama")
    (tmp_path / "short").write_text("too few")
    (tmp_path / "talk.jsonl").write_text('{"messages": [{"role": "user", "content": "Hi"}]}\n')
    done = nibble("quantize", "IN", "OUT.gguf", *arguments, check=False, cwd=tmp_path)
    assert done.returncode == code and words in done.stderr, done.stderr
    assert not (tmp_path / "OUT.gguf").exists() and not list(tmp_path.glob("*.tuning*"))


def test_a_file_in_the_journal_s_place_stays(nibble, tmp_path, text):
    source = make_model(tmp_path / "source", "llama")
    (tmp_path / "out.gguf.tuning").write_text("dear")
    done = nibble("quantize", source, tmp_path / "out.gguf", "--method", "gptq", "--calib", text, check=False)
    assert done.returncode == 1 and "expected nothing there" in done.stderr
    assert (tmp_path / "out.gguf.tuning").read_text() == "dear"


def test_a_fifo_in_the_journal_s_place_stays(nibble, tmp_path):
    source = make_model(tmp_path / "source", "llama")
    os.mkfifo(tmp_path / "out.gguf.tuning")
    nibble("quantize", source, tmp_path / "out.gguf", "--method", "sweep", timeout=60)
    assert (tmp_path / "out.gguf.tuning").is_fifo()


@pytest.mark.parametrize("method", ["gptq", "weighted"])
def test_conversations(nibble, smollm2, tmp_path, method):
    """Through the model's own template; unreadable lines are told by name."""
    lines = [json.dumps({"messages": [{"role": "user", "content": f"What is {i} plus {i}?"},
                                      {"role": "assistant", "content": f"It is {2 * i}."}]}) for i in range(12)]
    talk = tmp_path / "talk.jsonl"
    talk.write_text("\n".join(lines) + "\n[1, 2\n")
    flags = ["--method", method, "--calib", talk, "--keep", "blk.[1-9]*", "--json"]
    done = nibble("quantize", smollm2, tmp_path / "out.gguf", *flags, check=False)
    assert done.returncode == 1 and f"{talk}: not valid JSON, line 13: " in done.stderr and "line 1:" not in done.stderr
    for role in ("wizard", ""):
        talk.write_text("\n".join([*lines, json.dumps({"messages": [{"role": role, "content": "Hi"}]})]))
        for command in (["quantize", smollm2, tmp_path / "out.gguf", *flags], ["calibrate", smollm2, "--text", talk, "-o", tmp_path / "out.gguf"]):
            done = nibble(*command, check=False)
            assert done.returncode == 1 and f'{talk}: line 13: message 0 of the conversation has the role "{role}"' in done.stderr
    talk.write_text("\n".join([*lines, '{"messages": [{"role": "user"}]}']))
    done = nibble("quantize", smollm2, tmp_path / "out.gguf", *flags, check=False)
    assert done.returncode == 1 and f"{talk}: line 13: " in done.stderr
    talk.write_text("\n".join(lines) + "\n\n")
    report = json.loads(nibble("quantize", smollm2, tmp_path / "out.gguf", *flags).stdout)
    assert len(report["chosen"]) == (7 if method == "gptq" else 0) and report["calibration_tokens"] > 12 * 20


def test_own_answers(nibble, smollm2, tmp_path):
    """A question is answered as `nibble run` answers it, and then it is a conversation like any other."""
    questions = ["What is the capital of France?", "What is 2 + 2?", "Say hello."]
    asked = [[{"role": "user", "content": q}] for q in questions]
    told = [[{"role": "user", "content": "Is it?"}, {"role": "assistant", "content": "It is."}]]
    answers = [json.loads(nibble("run", smollm2, "-p", q, "--seed", i + 1, "-n", 256, "--json").stdout) for i, q in enumerate(questions)]
    ended = [[*ask, {"role": "assistant", "content": a["message"]["content"]}] for ask, a in zip(asked, answers) if a["finish_reason"] == "stop"]
    assert ended
    for name, talks in (("asked", asked + told), ("answered", ended + told)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"messages": t}) + "\n" for t in talks))
        report = json.loads(nibble("quantize", smollm2, tmp_path / f"{name}.gguf", "--method", "weighted", "--keep", "blk.[1-9]*",
                                   "--calib", tmp_path / f"{name}.jsonl", "--calib-tokens", 128, "--json").stdout)
        assert [report["questions"], report["answered"]] == ([3, len(ended)] if name == "asked" else [0, 0])
    long = [[{"role": "user", "content": "word " * 9000}]]
    (tmp_path / "some.jsonl").write_text("\n" + "".join(json.dumps({"messages": t}) + "\n" for t in long + asked + long + long))
    told_of = nibble("quantize", smollm2, tmp_path / "some.gguf", "--method", "weighted", "--keep", "blk.[1-9]*",
                     "--calib", tmp_path / "some.jsonl", "--calib-tokens", 128).stderr
    assert f"{tmp_path / 'some.jsonl'}: left out, as the model reads no more by default: lines 2, 6-7\n" in told_of
    again = [json.loads(nibble("run", smollm2, "-p", q, "--seed", i + 3, "-n", 256, "--json").stdout) for i, q in enumerate(questions)]  # by line
    assert any(a["finish_reason"] != "stop" for a in again) == ("have no end within" in told_of)
    assert filecmp.cmp(tmp_path / "asked.gguf", tmp_path / "answered.gguf", shallow=False)
    nibble("calibrate", smollm2, "--text", tmp_path / "asked.jsonl", "--tokens", 128, "-o", tmp_path / "im")  # and by calibrate
    nibble("quantize", smollm2, tmp_path / "by-file.gguf", "--method", "weighted", "--keep", "blk.[1-9]*", "--imatrix", tmp_path / "im")
    assert filecmp.cmp(tmp_path / "asked.gguf", tmp_path / "by-file.gguf", shallow=False)
    report = json.loads(nibble("quantize", smollm2, tmp_path / "both.gguf", "--method", "weighted", "--keep", "blk.[1-9]*",
                               "--calib", tmp_path / "asked.jsonl", "--json").stdout)
    assert report["calibration_tokens"] > 8000  # the text inside the program as well
    assert not [p for p in tmp_path.iterdir() if p.name.endswith(".part")]


def make_talker(directory):
    """A tiny model with a chat template that ends its answers: what all tokens' embeddings have in common is what the end
    token's row of the head reads."""
    source = make_model(directory, "llama")
    tensors = safetensors.numpy.load_file(source / "model.safetensors")
    embedding = tensors["model.embed_tokens.weight"].astype(numpy.float32) + 0.05
    head = numpy.random.default_rng(3).standard_normal(embedding.shape).astype(numpy.float32) * 0.05
    head[0] = 0.04
    tensors["model.embed_tokens.weight"], tensors["lm_head.weight"] = (w.astype(ml_dtypes.bfloat16) for w in (embedding, head))
    safetensors.numpy.save_file(tensors, source / "model.safetensors", {"format": "pt"})
    add_json(source / "config.json", tie_word_embeddings=False, max_position_embeddings=1024)
    add_json(source / "tokenizer_config.json", chat_template="{% for m in messages %}{{ m.role }}: {{ m.content }}<|end|>{% endfor %}"
                                                             "{% if add_generation_prompt %}assistant: {% endif %}")
    return source


def test_the_program_s_own_questions(nibble, nibble_path, tmp_path, text):
    """A chat model answers them for `best`, the same for any number of threads, and again after a kill."""
    source, out, journal = make_talker(tmp_path / "source"), tmp_path / "out.gguf", tmp_path / "out.gguf.tuning"
    flags = ["--method", "best", "--json"]
    small = [*flags, "--calib-tokens", 2048]
    for threads in (1, 2):
        report = json.loads(nibble("quantize", source, tmp_path / f"{threads}.gguf", *small, "--threads", threads).stdout)
        assert 16 <= report["answered"] <= report["questions"] < 256 and report["answering_seconds"] > 0
        assert 1500 < report["calibration_tokens"] <= 2048
    assert filecmp.cmp(tmp_path / "1.gguf", tmp_path / "2.gguf", shallow=False)
    process = subprocess.Popen([nibble_path, "quantize", source, out, *map(str, small)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while marks(journal, 14) < 3:
        assert process.poll() is None, "ended before it could be killed"
        time.sleep(0.002)
    process.kill()
    process.wait()
    nibble("quantize", source, out, *small)
    assert filecmp.cmp(tmp_path / "1.gguf", out, shallow=False)
    assert not [p for p in tmp_path.iterdir() if p.suffix in (".tuning", ".part")]
    for given in (["--calib", text], ["--calib-tokens", 1024], ["--method", "gptq", "--calib-tokens", 2048]):
        assert json.loads(nibble("quantize", source, out, *flags, *given).stdout)["questions"] == 0


def test_who_is_not_asked(nibble, tmp_path):
    """A model without a chat template, and one whose template says no."""
    source = make_model(tmp_path / "source", "llama")
    report = json.loads(nibble("quantize", source, tmp_path / "out.gguf", "--method", "best", "--calib-tokens", 2048, "--json").stdout)
    assert report["questions"] == 0 and report["calibration_tokens"] == 2048
    add_json(source / "tokenizer_config.json", chat_template="{{ raise_exception('not I') }}")
    told = nibble("quantize", source, tmp_path / "again.gguf", "--method", "best", "--calib-tokens", 2048).stdout
    assert "the model was not asked: " in told and "not I" in told
    with open(tmp_path / "out.gguf", "rb") as a, open(tmp_path / "again.gguf", "rb") as b:
        assert a.read()[-4096:] == b.read()[-4096:]  # the metadata has the template


def test_no_question_is_one_that_files_are_judged_by():
    tree = pathlib.Path(__file__).resolve().parents[2]
    source = (tree / "src" / "eval" / "calibration_questions.c").read_text()
    own = [json.loads(line.strip().rstrip(",")) for line in source.splitlines() if line.startswith('    "')]
    judged = [json.loads(line)["messages"][0]["content"] for line in (tree / "bench" / "texts" / "asked.jsonl").read_text().splitlines()]
    for name in ("questions", "tasks"):
        judged += [line.split(" | ")[-2] for line in (tree / "tests" / "e2e" / f"{name}.txt").read_text().splitlines()]
    plain = [[re.sub(r"\W+", " ", q).strip().lower() for q in questions] for questions in (own, judged)]
    assert len(own) == len(set(plain[0])) == 256 and not set(plain[0]) & set(plain[1])


def test_questions_that_do_not_fit(nibble, smollm2, tmp_path):
    talk = tmp_path / "long.jsonl"
    talk.write_text(json.dumps([{"role": "user", "content": "word " * 9000}]) + "\n")
    done = nibble("quantize", smollm2, tmp_path / "out.gguf", "--method", "weighted", "--calib", talk, check=False)
    assert done.returncode == 1 and f"{talk}: none of its questions" in done.stderr and "longer than it reads by default" in done.stderr
    talk.write_text(talk.read_text() + json.dumps([{"role": "user", "content": "Hi"}, {"role": "asistant", "content": "Hi"}]) + "\n")
    done = nibble("quantize", smollm2, tmp_path / "out.gguf", "--method", "weighted", "--calib", talk, check=False)
    assert done.returncode == 1 and f'{talk}: line 2: message 1 of the conversation has the role "asistant"' in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["long.jsonl"]


@pytest.mark.parametrize("lines, words", [("\n", "holds no conversation"), ("", "talk.jsonl"),
                                          ('{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hi"}]}\n', "2 at least")])
def test_too_few_conversations(nibble, smollm2, tmp_path, lines, words):
    talk, out = tmp_path / "talk.jsonl", tmp_path / "out.gguf"
    talk.write_text(lines)
    commands = [["quantize", smollm2, out, "--format", "bf16", "--smooth", "--calib", talk]]
    if "2 at least" not in words:  # weighing takes one
        commands += [["calibrate", smollm2, "--text", talk, "-o", out],
                     ["quantize", smollm2, out, "--method", "weighted", "--calib", talk],
                     ["quantize", smollm2, out, "--bits", 5, "--method", "rtn", "--calib", talk]]
    for command in commands:
        done = nibble(*command, check=False)
        assert done.returncode == 1 and f"{talk}: " in done.stderr and words in done.stderr, (command, done.stderr)
        assert not out.exists()


@pytest.mark.parametrize("role, words", [("asistant", "message 1 of the conversation has the role \"asistant\", expected system, developer, user, assistant or tool"),
                                         (7, "message 1 of the conversation is no object with a role")])
def test_a_role_that_no_template_knows_is_refused(nibble, smollm2, tmp_path, role, words):
    talk, out = tmp_path / "talk.jsonl", tmp_path / "out.gguf"
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hi"}]
    talk.write_text("".join(json.dumps({"messages": [said[0], {**said[1], "role": r}]}) + "\n" for r in ("assistant", role)))
    for command in (["calibrate", smollm2, "--text", talk, "-o", out], ["quantize", smollm2, out, "--method", "gptq", "--calib", talk]):
        done = nibble(*command, check=False)
        assert done.returncode == 1 and done.stderr == f"nibble: {talk}: line 2: {words}\n", (command, done.stderr)
        assert not out.exists()


def test_memory_is_that_of_a_layer(nibble_path, tmp_path, text):
    peaks = [peak_bytes(nibble_path, write_deep_model(tmp_path / f"{n}.gguf", n), tmp_path / "out.gguf", "--method", "gptq",
                        "--calib", text, "--calib-tokens", 200, "--keep", "blk.[1-9]*", "--keep", "blk.0.ffn_down*", "--threads", 1) for n in (3, 13)]
    assert abs(peaks[1] - peaks[0]) < 20 << 20, peaks
