# SPDX-License-Identifier: Apache-2.0
"""nibble quantize --bits and --plan: the budget holds, what costs most comes first, a plan is followed as written,
and a bad one is refused in words."""
import json

import pytest

import test_quantize
from test_quantize import gguf, make_joined, make_model, np, raw_tensors, safetensors_numpy, weights

FORMATS = {"U8": "nvfp4", "F8_E4M3": "fp8", "BF16": "bf16"}


@pytest.fixture(scope="module")
def planned(nibble, tmp_path_factory):
    root = tmp_path_factory.mktemp("plan")
    source = make_model(root / "source")
    (root / "text").write_text("some words to calibrate with, " * 40)
    (root / "out.base-kld").write_text("mine")
    (root / ".out.nibble-999999-0.part").mkdir()  # as a killed run leaves it
    (root / ".out.nibble-999999-0.part" / "base.kld").write_text("left")
    told = nibble("quantize", source, root / "out", "--bits", 5.5, "--save-plan", root / "plan.json", "--calib", root / "text").stdout
    return root, json.loads((root / "plan.json").read_text()), told


def test_files_beside_the_output_stay(planned):
    root, _, _ = planned
    assert (root / "out.base-kld").read_text() == "mine" and not list(root.glob(".*"))


def stored(directory):
    """Linear layer -> format, by the file."""
    found = raw_tensors(directory / "model.safetensors")
    return {name: FORMATS[kind] for name, (kind, _) in found.items() if name.endswith("_proj.weight")}


def test_the_budget_holds(planned):
    root, plan, told = planned
    bits = {"nvfp4": 4.5, "fp8": 8, "bf16": 16}
    weights = sum(part["weights"] for part in plan["parts"])
    used = sum(bits[part["format"]] * part["weights"] for part in plan["parts"]) / weights
    assert used == pytest.approx(plan["bits"], abs=1e-5) and 4.5 < used <= 5.5
    assert f"{used:.3f} bits a weight" in told
    assert len(plan["parts"]) == 8 and all(part["kld_nvfp4"] > part["kld_8bit"] > 0 for part in plan["parts"])
    assert plan["kld_sum"] < plan["kld_sum_nvfp4"]


def test_what_costs_most_comes_first(planned):
    """The plan is what the greedy choice gives from its own divergences: the step with the most for its bits, while one fits."""
    _, plan, _ = planned
    parts, steps = plan["parts"], {"nvfp4": (4.5, "fp8"), "fp8": (8, "bf16"), "bf16": (16, None)}
    chosen, left = ["nvfp4"] * len(parts), sum(part["weights"] for part in parts) * (5.5 - 4.5)
    while True:
        best = None
        for i, part in enumerate(parts):
            bits, after = steps[chosen[i]]
            cost = (steps[after][0] - bits) * part["weights"] if after else float("inf")
            gain = part["kld_nvfp4"] - part["kld_8bit"] if after == "fp8" else part["kld_8bit"]
            if cost <= left and (best is None or gain / cost > best[0]):
                best = gain / cost, cost, i, after
        if best is None:
            break
        left, chosen[best[2]] = left - best[1], best[3]
    assert chosen == [part["format"] for part in parts] and {"nvfp4", "fp8"} <= set(chosen)


def test_the_file_is_as_planned(planned, nibble):
    root, plan, _ = planned
    wanted = {name: part["format"] for part in plan["parts"] for name in part["tensors"]}
    assert stored(root / "out") == wanted and "fp8" in wanted.values()
    config = json.loads((root / "out" / "config.json").read_text())["quantization_config"]
    assert config["quant_algo"] == "MIXED_PRECISION"
    nibble("quantize", root / "source", root / "again", "--plan", root / "plan.json", "--calib", root / "text")
    assert (root / "again" / "model.safetensors").read_bytes() == (root / "out" / "model.safetensors").read_bytes()
    assert nibble("run", root / "out", "a", "--no-chat", "-n", 2).returncode == 0


def test_an_edited_plan(planned, nibble):
    root, plan, _ = planned
    plan = {**plan, "parts": [{"tensors": ["model.layers.1.mlp.down_proj.weight"], "format": "bf16"}]}
    (root / "edited.json").write_text(json.dumps(plan))
    told = json.loads(nibble("quantize", root / "source", root / "edited", "--method", "rtn", "--plan", root / "edited.json",
                             "--json").stdout)
    assert told["plan"] == {"file": str(root / "edited.json")}
    found = stored(root / "edited")
    assert found.pop("model.layers.1.mlp.down_proj.weight") == "bf16" and set(found.values()) == {"nvfp4"}


def test_a_gguf_file_holds_no_fp8(planned, nibble):
    root, _, _ = planned
    nibble("quantize", root / "source", root / "out.gguf", "--bits", 7, "--apart", "--save-plan", root / "gguf.json", "--calib", root / "text")
    plan = json.loads((root / "gguf.json").read_text())
    formats = {name: part["format"] for part in plan["parts"] for name in part["tensors"]}
    assert len(plan["parts"]) == len(formats) == 14
    assert {"nvfp4", "q5_0", "q8_0"} >= set(formats.values()) >= {"q5_0", "q8_0"} and plan["bits"] <= 7
    assert all(part["kld_nvfp4"] > part["kld_5bit"] > part["kld_8bit"] > 0 for part in plan["parts"])
    found = {t.name: t for t in gguf.GGUFReader(root / "out.gguf").tensors}
    tensors = weights("llama")
    for name, kind in formats.items():
        layer, at = name.split(".")[2], name.split(".", 3)[3].removesuffix(".weight")
        t = found[f"blk.{layer}.{test_quantize.LINEARS[at]}.weight"]
        assert t.tensor_type.name.lower() == kind
        if at in ("self_attn.q_proj", "self_attn.k_proj"):  # whose rows change places
            continue
        if kind == "q5_0":
            wanted = tensors[name].astype(np.float32)
            assert 0 < np.linalg.norm(gguf.dequantize(t.data, t.tensor_type) - wanted) < 0.1 * np.linalg.norm(wanted)
        if kind == "q8_0":
            assert (t.data == gguf.quantize(tensors[name].astype(np.float32), gguf.GGMLQuantizationType.Q8_0)).all()
    nibble("quantize", root / "source", root / "again.gguf", "--plan", root / "gguf.json", "--calib", root / "text")
    assert (root / "again.gguf").read_bytes() == (root / "out.gguf").read_bytes()
    done = nibble("quantize", root / "source", root / "no.gguf", "--plan", root / "plan.json", check=False)
    assert done.returncode == 1 and "cannot hold FP8" in done.stderr and not (root / "no.gguf").exists()
    done = nibble("quantize", root / "source", root / "no", "--plan", root / "gguf.json", check=False)
    assert done.returncode == 1 and "by the plan, which only GGUF files hold" in done.stderr and not (root / "no").exists()


@pytest.mark.parametrize("out", ["sized.gguf", "sized"])
def test_a_size(nibble, tmp_path, monkeypatch, out):
    """As many bits as a size leaves, and no byte more."""
    monkeypatch.setattr(test_quantize, "VOCAB", 2500)  # the least size is 1 MB
    monkeypatch.setattr(test_quantize, "LAYERS", 5)
    source = make_model(tmp_path / "source")
    (tmp_path / "text").write_text("some words to calibrate with, " * 40)

    def size(path):
        return sum(f.stat().st_size for f in ([path] if path.is_file() else path.glob("*.safetensors")))

    nibble("quantize", source, tmp_path / f"least-{out}", "--method", "rtn")
    least = size(tmp_path / f"least-{out}")
    wanted = least + 125000
    told = nibble("quantize", source, tmp_path / out, "--size", wanted, "--calib", tmp_path / "text", "--save-plan",
                  tmp_path / "plan.json").stdout
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert wanted - 40000 < size(tmp_path / out) <= wanted and f"{plan['bits']:.3f} bits a weight" in told
    assert not list(tmp_path.glob(".*"))
    done = nibble("quantize", source, tmp_path / f"no-{out}", "--size", max(10**6, least - 5000), "--calib", tmp_path / "text",
                  check=False)
    assert done.returncode == 1 and f"takes {least} bytes with all linear layers in NVFP4" in done.stderr
    assert not (tmp_path / f"no-{out}").exists() and not list(tmp_path.glob(".*"))
    nibble("quantize", source, tmp_path / f"just-{out}", "--size", least, "--calib", tmp_path / "text", "--method", "rtn")
    assert size(tmp_path / f"just-{out}") == least
    done = nibble("quantize", source, tmp_path / f"all-{out}", "--size", "100mb", "--calib", tmp_path / "text", check=False)
    assert done.returncode == 1 and "room for all linear layers in BF16" in done.stderr and "100000000" in done.stderr


def test_file_type_is_that_of_most_weights(nibble, tmp_path):
    source = make_model(tmp_path / "source")
    types = {}
    for wide in (0, 1, 14):
        names = [f"model.layers.{i}.{x}_proj.weight" for i in range(2) for x in
                 ("mlp.gate", "mlp.up", "mlp.down", "self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o")][:wide]
        (tmp_path / "plan").write_text(json.dumps({"nibble_plan": 1, "bits": 5, "parts":
                                                   [{"tensors": names, "format": "Q5_0"}] if names else []}))
        nibble("quantize", source, tmp_path / "out.gguf", "--plan", tmp_path / "plan", "--method", "sweep")
        types[wide] = gguf.GGUFReader(tmp_path / "out.gguf").fields["general.file_type"].contents()
    assert types == {0: 39, 1: 39, 14: 8}
    nibble("quantize", source, tmp_path / "out.gguf", "--format", "Q8_0", "--head", "KEEP")
    assert gguf.GGUFReader(tmp_path / "out.gguf").fields["general.file_type"].contents() == 7


@pytest.mark.parametrize("flags, words", [
    (["--size", "5"], "--size takes bytes"), (["--size", "3XB"], "--size takes bytes"), (["--size", "nan"], "--size takes bytes"),
    (["--size", "5MB", "--bits", "5"], "expected one of them"), (["--size", "5MB", "--format", "fp8"], "--size gives layers"),
    (["--head", "q8_0"], "only a .gguf file"), (["--head", "q5_0"], "only a .gguf file holds Q5_0"), (["--format", "q8_0"], "only a .gguf file"),
    (["--format", "q5_0", "--method", "gptq"], "only a .gguf file holds Q5_0"),
    (["--bits", "5", "--keep", "*q_proj*"], "--keep does not go with --bits"), (["--plan", "p", "--format", "fp8"], "leave --format out"),
])
def test_wrong_usage(nibble, tmp_path, flags, words):
    done = nibble("quantize", "in", "out", *flags, check=False, cwd=tmp_path)
    assert done.returncode == 2 and words in done.stderr


def test_it_is_measured_on_the_calibration(nibble, tmp_path):
    """Conversations as well as texts; the report says which, and how much of it."""
    source = make_model(tmp_path / "source")
    talk, words = tmp_path / "talk.jsonl", json.loads((source / "tokenizer_config.json").read_text())
    words["chat_template"] = "{% for m in messages %}{{ m['role'] }}:{{ m['content'] }}{% endfor %}"
    (source / "tokenizer_config.json").write_text(json.dumps(words))
    turn = [{"role": "user", "content": "What is " + "good " * 20}, {"role": "assistant", "content": "That is."}]

    def plan(turns, *flags, check=True):
        talk.write_text(json.dumps({"messages": turn * turns}) + "\n")
        return nibble("quantize", source, tmp_path / "out", "--bits", 5, "--calib", talk, *flags, check=check)

    for flags, tokens in ([], 768), (["--calib-tokens", 600], 512):
        told = json.loads(plan(20, "--json", *flags).stdout)["plan"]
        assert told["text"] == str(talk) and told["tokens"] == tokens
    assert f"on 768 tokens of {talk}" in plan(20).stdout
    few = plan(2, "--method", "weighted", check=False)  # gptq wants a window to hold out as well
    assert few.returncode == 1 and f"{talk}: the conversations give" in few.stderr
    few = plan(20, "--calib-tokens", 300, check=False)
    assert few.returncode == 2 and "--calib-tokens is 300" in few.stderr


def test_layers_without_blocks_count(planned, nibble, tmp_path, monkeypatch):
    root, _, _ = planned
    monkeypatch.setattr(test_quantize, "FFN", 200)  # down has rows of 200
    source = make_model(tmp_path / "source")
    down, others = 128 * 200, 128 * (128 + 64 + 64 + 128 + 2 * 200)
    least = (16 * down + 4.5 * others) / (down + others)
    for asked, told in ((5, True), (9, False)):
        text = nibble("quantize", source, tmp_path / "out", "--bits", asked, "--save-plan", tmp_path / "plan.json", "--calib",
                      root / "text").stdout
        bits = json.loads((tmp_path / "plan.json").read_text())["bits"]
        assert bits == pytest.approx(least) if told else least < bits <= asked
        assert ("more than was asked for: " in text) == told


def write_mixed(source, path):
    """The GGUF file SOURCE with down and v in Q8_0, and its other linear layers in Q4_0."""
    reader, Type = gguf.GGUFReader(source), gguf.GGMLQuantizationType
    writer = gguf.GGUFWriter(path, "llama", use_temp_file=False)
    for field in reader.fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            value = field.contents()
            if field.name == "tokenizer.ggml.tokens":
                value[-1] = "!!"
            if field.name == "tokenizer.ggml.merges":  # there are none, which the writer does not take
                value = ["! !"]
            writer.add_key_value(field.name, value, *field.types[:2])
    for t in reader.tensors:
        data, kind = t.data, t.tensor_type
        if t.name.startswith("blk.") and "norm" not in t.name:
            kind = Type.Q8_0 if "down" in t.name or "attn_v" in t.name else Type.Q4_0
            data = gguf.quantize(gguf.dequantize(t.data, t.tensor_type), kind)
        writer.add_tensor(t.name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def linear_bits(path):
    linears = [t for t in gguf.GGUFReader(path).tensors if t.name.startswith("blk.") and t.name.endswith(".weight")
               and "norm" not in t.name]
    return 8 * sum(int(t.n_bytes) for t in linears) / sum(int(t.n_elements) for t in linears)


def test_a_part_is_kept_for_what_it_takes(planned, nibble):
    """Q4_0 takes as many bits as NVFP4 and is kept for nothing, Q8_0 takes four more."""
    root, _, _ = planned
    nibble("quantize", root / "source", root / "plain.gguf", "--format", "bf16")
    write_mixed(root / "plain.gguf", root / "mixed.gguf")
    nibble("quantize", root / "mixed.gguf", root / "kept.gguf", "--bits", 4.8, "--save-plan", root / "kept.json", "--calib",
           root / "text")
    plan = json.loads((root / "kept.json").read_text())
    formats = {part["tensors"][0]: part["format"] for part in plan["parts"]}
    for layer in range(2):
        assert formats[f"blk.{layer}.attn_output.weight"] == formats[f"blk.{layer}.ffn_gate.weight"] == "keep"
        assert formats[f"blk.{layer}.ffn_down.weight"] == "nvfp4"  # each would take 0.44 bits of all
    assert plan["bits"] == pytest.approx(linear_bits(root / "kept.gguf"), abs=1e-4) and plan["bits"] <= 4.8


def test_matrices_apart(planned, nibble):
    root, joined, _ = planned
    told = nibble("quantize", root / "source", root / "apart", "--bits", 5, "--apart", "--save-plan", root / "apart.json",
                  "--calib", root / "text").stdout
    plan = json.loads((root / "apart.json").read_text())
    assert len(plan["parts"]) == 14 and all(len(part["tensors"]) == 1 for part in plan["parts"])
    whole = {tuple(part["tensors"]): part["kld_nvfp4"] for part in joined["parts"]}
    for part in plan["parts"]:  # a matrix that is a part either way costs the same
        assert whole.get(tuple(part["tensors"]), part["kld_nvfp4"]) == part["kld_nvfp4"]
    formats = {name: part["format"] for part in plan["parts"] for name in part["tensors"]}
    assert stored(root / "apart") == formats
    joints = [[formats[f"model.layers.{layer}.{name}_proj.weight"] for name in names] for layer in range(2)
              for names in (["self_attn.q", "self_attn.k", "self_attn.v"], ["mlp.gate", "mlp.up"])]
    differ = sum(len(set(joint)) > 1 for joint in joints)
    assert differ > 0 and f"In {differ} places q, k and v of a layer, or gate and up, differ" in told


def test_a_file_that_grows_is_told(planned, nibble):
    root, _, _ = planned
    nibble("quantize", root / "source", root / "four", "--method", "rtn")
    words = "the output is larger and no better"
    assert words in nibble("quantize", root / "four", root / "five.gguf", "--format", "q5_0", "--method", "sweep").stdout
    assert words not in nibble("quantize", root / "source", root / "five.gguf", "--format", "q5_0", "--method", "sweep").stdout


def test_fp8_beside_nvfp4_is_told(planned, nibble):
    root, _, _ = planned
    (root / "beside.json").write_text(json.dumps({"nibble_plan": 1, "parts": [
        {"tensors": ["model.layers.0.self_attn.q_proj.weight"], "format": "fp8"},
        {"tensors": ["model.layers.1.mlp.gate_proj.weight", "model.layers.1.mlp.up_proj.weight"], "format": "fp8"}]}))
    told = json.loads(nibble("quantize", root / "source", root / "beside", "--method", "rtn", "--plan", root / "beside.json",
                             "--json").stdout)
    assert told["split"] == 1


def test_joined_matrices_and_an_imatrix(planned, nibble, tmp_path):
    """What Phi 3 stores as one matrix is weighted by an importance matrix as by the calibration that made it."""
    root, _, _ = planned
    source = make_joined(tmp_path / "phi3")
    nibble("calibrate", source, "--text", root / "text", "-o", tmp_path / "im")
    kld = []
    for flags in (["--calib", root / "text"], ["--imatrix", tmp_path / "im"]):
        nibble("quantize", source, tmp_path / "out", "--bits", 8, *flags, "--save-plan", tmp_path / "plan.json")
        parts = json.loads((tmp_path / "plan.json").read_text())["parts"]
        kld.append([part["kld_8bit"] / part["kld_nvfp4"] for part in parts])  # the weighted errors' ratio
    assert len(kld[0]) == 8 and kld[1] == pytest.approx(kld[0], rel=1e-3)


def test_what_is_read_is_not_replaced(planned, nibble):
    root, _, _ = planned
    plan, source = root / "read.gguf", root / "source"
    plan.write_text('{"nibble_plan": 1, "parts": []}')
    for words in ([root / "no", "--bits", 5, "--imatrix", plan, "--save-plan", plan],
                  [root / "no", "--bits", 5, "--calib", plan, "--save-plan", plan],
                  [plan, "--method", "rtn", "--plan", plan]):
        done = nibble("quantize", source, *words, check=False)
        assert done.returncode == 1 and f"{plan}: is " in done.stderr and "write the output elsewhere" in done.stderr
        assert plan.read_text() == '{"nibble_plan": 1, "parts": []}'


@pytest.mark.parametrize("text, words", [
    ("[]", "no plan"),
    ("{\"nibble_plan\": 2, \"parts\": []}", "no plan"),
    ("{\"nibble_plan\": 1, \"parts\": [{\"format\": \"int4\", \"tensors\": []}]}", "part 0: \"format\" is int4"),
    ("{\"nibble_plan\": 1, \"parts\": [{\"format\": \"fp8\"}]}", "part 0: \"tensors\" is no list"),
    ("{\"nibble_plan\": 1, \"parts\": [{\"format\": \"fp8\", \"tensors\": [\"model.norm.weight\"]}]}", "is no linear layer"),
    ("{\"nibble_plan\": 1, \"parts\": [{\"format\": \"fp8\", \"tensors\": [7]}]}", "what is no string"),
    ("{", "bad.json"),
])
def test_bad_plans(planned, nibble, text, words):
    root, _, _ = planned
    (root / "bad.json").write_text(text)
    done = nibble("quantize", root / "source", root / "bad", "--plan", root / "bad.json", check=False)
    assert done.returncode == 1 and words in done.stderr and str(root / "bad.json") in done.stderr
    assert not (root / "bad").exists()
