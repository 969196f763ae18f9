# SPDX-License-Identifier: Apache-2.0
"""The program as a whole: help, usage errors, exit codes; man page and completion say what --help says."""
import json
import os
import re
import shutil
import subprocess

import pytest


def commands(nibble):
    """Names of the commands, from nibble --help."""
    text = nibble("--help").stdout
    return re.findall(r"^  ([a-z]+) ", text.split("Commands:")[1].split("\n\n")[0], re.M)


def flags(help_text):
    """Long flags of a command's --help, argp's own left out."""
    lines = re.findall(r"^ +(?:-\S, )?--.*", help_text, re.M)
    found = [flag for line in lines for flag in re.findall(r"(?:^ +(?:-\S, )?|, )--([a-z0-9-]+)", line)]
    return set(found) - {"help", "usage"}


def test_version(nibble):
    assert re.fullmatch(r"nibble \d+\.\d+\.\d+\n", nibble("--version").stdout)


def test_help_lists_commands_with_examples(nibble):
    names = commands(nibble)
    assert {"run", "eval", "bench"} <= set(names)
    text = nibble("--help").stdout
    for name in names:
        assert f"  nibble {name} " in text.split("Examples:")[1]
        own = nibble(name, "--help").stdout
        assert own.startswith(f"Usage: nibble {name} ")
        examples = re.split("Examples?:\n", own)[1].splitlines()
        assert all(line.startswith(("  nibble ", "  echo ")) for line in examples), examples
        assert nibble("help", name).stdout == nibble(name, "-h").stdout == own
    assert nibble("-h").stdout == text
    assert max(map(len, text.splitlines())) < 100


@pytest.mark.parametrize("arguments", [
    [],
    ["walk"],
    ["help", "walk"],
    ["run"],
    ["run", "m", "a", "b"],
    ["run", "m", "x", "--temperature", "-1"],
    ["run", "m", "x", "--temperature", "nan"],
    ["run", "m", "x", "--top-p", "1.5"],
    ["run", "m", "x", "--min-p", "2"],
    ["run", "m", "x", "--top-k", "-1"],
    ["run", "m", "x", "--max-tokens", "0"],
    ["run", "m", "x", "--max-tokens", "99999999999999999999"],
    ["run", "m", "x", "--seed", "-1"],
    ["run", "m", "x", "--repeat-penalty", "0"],
    ["run", "m", "x", "--chat", "--no-chat"],
    ["run", "m", "x", "--no-chat", "--tools", "t"],
    ["run", "m", "x", "--no-chat", "--reasoning", "hide"],
    ["run", "m", "x", "--reasoning", "0"],
    ["run", "m", "x", "--reasoning", "some"],
    ["run", "m", "x", "--json-schema", "{}", "--grammar", "g"],
    ["run", "m", "x", "--json-schema", "{}", "--ignore-eos"],
    ["run", "m", "x", "--activations", "fp2"],
    ["run", "m", "x", "--kv-cache-dtype", "int3"],
    ["run", "m", "x", "--threads", "0"],
    ["run", "m", "x", "--threads", "two"],
    ["run", "m", "x", "--cpu-features", "mmx"],
    ["run", "m", "x", "--cpu-features", "0"],
    ["run", "m", "x", "--max-model-len", "-5"],
    ["run", "m", "x", "--gpu-memory-utilization", "1.5"],
    ["run", "m", "x", "--no-such-flag"],
    ["eval"],
    ["eval", "ppl"],
    ["eval", "ppl", "m"],
    ["eval", "bleu", "m", "--text", "t"],
    ["eval", "ppl", "m", "n", "--text", "t"],
    ["eval", "ppl", "m", "--text", "t", "--base", "b"],
    ["eval", "kld", "m", "--text", "t"],
    ["eval", "kld", "m", "--text", "t", "--base", "b", "--save-base", "s"],
    ["eval", "ppl", "m", "--text", "t", "--ctx", "2"],
    ["eval", "ppl", "m", "--text", "t", "--chunks", "0"],
    ["eval", "ppl", "m", "--text", "t", "--ctx", "512", "--max-model-len", "256"],
    ["template"],
    ["template", "m"],
    ["template", "m", "n", "--messages", "t"],
    ["bench"],
    ["bench", "m", "-t", "1,0"],
    ["bench", "m", "n", "--server-load"],
    ["run", "m", "--stop", ""],
    ["run", "-m", "m", "-p", "a", "b"],
    ["run", "m", "x", "--no-chat", "--system", "a"],
    ["tokenize", "m", "a", "b"],
    ["tokenize", "m", "a", "--text", "t"],
    ["bench", "m", "-p", "1,,2"],
    ["bench", "m", "-p", "x"],
    ["bench", "m", "-r", "0"],
    ["bench", "m", "-o", "xml"],
    ["bench", "m", "-p", "0", "-n", "0"],
    ["bench", "m", "-n", "64", "-d", "4096", "--max-model-len", "256"],
    ["eval", "ppl", "m", "--text", "t", "--max-model-len", "256"],
    ["eval", "ppl", "m", "--text", "t", "--weights", "fp4"],
    ["eval", "ppl", "m", "--text", "t", "--rotate-qk"],
    ["eval", "ppl", "m", "--text", "t", "--kv-cache-dtype", "nvfp4", "--rotate-qk=12"],
    ["eval", "ppl", "m", "--text", "t", "--kv-cache-dtype", "nvfp4", "--rotate-qk", "12"],
    ["eval", "ppl", "m", "--text", "t", "--kv-cache-dtype", "nvfp4", "--activations", "int8"],
    ["eval", "ppl", "m", "--text", "t", "--kv-cache-dtype", "nvfp4", "--device", "cuda"],
    ["eval", "ppl", "m", "--text", "t", "--activations", "mxfp4", "--device", "cuda:0"],
    ["quantize", "m", "n", "--imatrix", "i", "--method", "gptq"],
    ["quantize", "m", "n", "--imatrix", "i", "--calib", "c"],
    ["report", "m"],
    ["report", "m", "n", "-o", "o"],
    ["calibrate", "m"],
    ["calibrate", "-o", "o"],
    ["calibrate", "m", "n", "-o", "o"],
    ["quantize", "m", "n", "--bits", "4"],
    ["quantize", "m", "n", "--bits", "5", "--plan", "p"],
    ["quantize", "m", "n", "--save-plan", "p"],
    ["quantize", "m", "n.gguf", "--bits", "5", "--save-plan", "./n.gguf"],
    ["quantize", "m", "n/", "--bits", "5", "--save-plan", "n/plan.json"],
    ["quantize", "m", "n", "--apart"],
    ["quantize", "m", "n", "--bits", "5", "--format", "fp8"],
])
def test_wrong_usage(nibble, arguments):
    done = nibble(*arguments, check=False)
    assert done.returncode == 2
    assert done.stderr.strip() and not done.stdout


@pytest.mark.parametrize("arguments", [
    ["eval", "ppl", "none", "--text", __file__, "--kv-cache-dtype", "nvfp4", "--rotate-qk", "64"],
    ["eval", "ppl", "--rotate-qk", "64", "none", "--text", __file__, "--kv-cache-dtype", "nvfp4"],
    ["eval", "ppl", "--kv-cache-dtype", "nvfp4", "--rotate-qk", "none", "--text", __file__],
    ["bench", "--server-load", "2", "none"],
    ["bench", "none", "--server-load", "2"],
])
def test_a_value_that_may_be_left_out_may_be_a_word_of_its_own(nibble, arguments):
    done = nibble(*arguments, check=False)
    assert done.returncode == 1 and "none: " in done.stderr


@pytest.mark.parametrize("flag, wrong, allowed", [("-n", "-2", "-1"), ("-c", "-1", "0")])
def test_a_range_names_what_lies_beside_it(nibble, flag, wrong, allowed):
    done = nibble("run", "m", "hi", flag, wrong, check=False)
    assert done.returncode == 2 and f"(but for {allowed}) takes a whole number" in done.stderr


@pytest.mark.parametrize("arguments", [
    ["run", "MODEL", "Hello", "--max-model-len", "100000"],
    ["run", "MODEL", "the cat " * 400, "--no-chat"],
    ["bench", "MODEL", "--max-model-len", "100000"],
    ["eval", "ppl", "MODEL", "--text", "SHORT"],
    ["eval", "ppl", "MODEL", "--text", "MISSING"],
    ["eval", "kld", "MODEL", "--text", "SHORT", "--save-base", "."],
    ["eval", "kld", "MODEL", "--text", "SHORT", "--base", "MODEL", "--max-model-len", "256"],
    ["quantize", "MODEL", "MODEL"],
    ["quantize", "MODEL", "SHORT"],
    ["quantize", "MODEL", "."],
    ["quantize", "MODEL", "OUT", "--calib", "SHORT"],
    ["quantize", "MODEL", "OUT", "--keep", "nothing"],
    ["eval", "ppl", "MODEL", "--text", "MODEL/model.safetensors"],
    ["tokenize", "SHORT"],
    ["inspect", "SHORT"],
    ["template", "SHORT", "--messages", "SHORT"],
    ["template", "MODEL", "--messages", "SHORT"],
    ["template", "MODEL", "--messages", "MISSING"],
])
def test_bad_input(nibble, tree, tmp_path, arguments):
    """What depends on a file is bad input, whatever flag it contradicts."""
    (tmp_path / "MODEL").symlink_to(tree / "tests/golden/models/llama-words")
    (tmp_path / "SHORT").write_text("the cat")
    done = nibble(*arguments, check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert re.fullmatch(r"nibble: .*\n", done.stderr) and not done.stdout
    assert sorted(p.name for p in tmp_path.iterdir()) == ["MODEL", "SHORT"]


def test_usage_errors_name_flag_and_range(nibble):
    done = nibble("run", "m", "x", "--top-p", "7", check=False)
    assert done.stderr.splitlines()[0] == "nibble run: --top-p takes a number from 0 to 1, not '7'"
    done = nibble("run", "m", "x", "--activations", "fp2", check=False)
    said = "nibble run: --activations takes one of auto, f32, int8, bf16, fp8, fp4, not 'fp2'"
    assert done.stderr.splitlines()[0] == said


@pytest.mark.parametrize("arguments, meant", [
    (["rnu"], "'run'"),
    (["help", "tokenise"], "'tokenize'"),
    (["run", "m", "--temprature", "1"], "--temperature"),
    (["run", "m", "-p", "--stpo", "--tmep=1"], "--temp"),  # a flag's value is none itself
    (["bench", "--prof", "--outptu", "md"], "--output"),
    (["run", "m", "hi", "-ngl", "99"], "--device"),  # llama.cpp's
    (["run", "m", "--n-predict", "9"], "--max-tokens"),
    (["run", "m", "--ctx-size=512"], "--max-model-len"),
    (["chat", "m"], "'run'"),
    (["wlkkk"], None),
    (["run", "m", "--something-else"], None),
])
def test_misspelled(nibble, arguments, meant):
    done = nibble(*arguments, check=False)
    said = done.stderr.splitlines()[0]
    assert done.returncode == 2 and not done.stdout
    assert said.endswith(f"; did you mean {meant}?") if meant else "did you mean" not in said and "there is no " in said


@pytest.mark.parametrize("arguments", [
    ["run", "/nowhere/model.gguf", "Hello"],
    ["eval", "ppl", "/nowhere/model.gguf", "--text", __file__],
    ["bench", "/nowhere/model.gguf"],
])
def test_missing_file(nibble, arguments):
    done = nibble(*arguments, check=False)
    assert done.returncode == 1
    assert re.fullmatch(r"nibble: .*/nowhere/model\.gguf.*\n", done.stderr)


def test_full_disk_behind_standard_output(nibble_path):
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full on this system")
    with open("/dev/full", "w") as full:
        done = subprocess.run([nibble_path, "--help"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert "standard output" in done.stderr


# ---- devices ----

def test_devices_and_refusals(nibble, tree):
    """The CPU is always there; what no device of this machine does is refused in words."""
    done = nibble("devices", "--quick")
    assert re.match(r"cpu     \d+ cores\n", done.stdout)
    model = tree / "tests/golden/models/llama-words"
    done = nibble("run", model, "a", "--device", "gpu", check=False)
    assert done.returncode == 2 and "device 'gpu'; expected auto, cpu, cuda" in done.stderr
    done = nibble("run", model, "a", "--device", "cpu", "--activations", "fp8", check=False)
    assert done.returncode == 1 and "a CPU has f32 and int8" in done.stderr
    done = nibble("run", model, "a", "--device", "cuda:0,1", check=False)
    assert done.returncode == 1 and "one GPU is all that nibble takes yet" in done.stderr


def test_gpu_library_that_cannot_be_loaded(nibble_path, tree, tmp_path):
    """Where a library lies beside the program, what is wrong with it is said, not that others are missing."""
    program = shutil.copy(nibble_path, tmp_path / "nibble")
    (tmp_path / "libnibble_cuda.so").write_bytes(b"no library")
    done = subprocess.run([program, "run", tree / "tests/golden/models/llama-words", "a", "--device", "cuda"],
                          stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"no GPU backend: {tmp_path}/libnibble_cuda.so: " in done.stderr
    assert "No such file" not in done.stderr


def test_fit_needs_no_gpu(nibble, tree):
    done = nibble("inspect", tree / "tests/golden/models/llama-words", "--fit")
    rows = [line for line in done.stdout.splitlines() if line.startswith("| RTX 4090")]
    assert len(rows) == 1 and "fits: " in rows[0]
    told = json.loads(nibble("inspect", tree / "tests/golden/models/llama-words", "--fit", "--json").stdout)["fit"]
    card = next(card for card in told["gpus"] if card["gpu"] == "RTX 4090")
    assert card["fits"] and card["plan"].startswith("fits: ") and card["tokens_per_s"] >= card["tokens_per_s_full"] > 0
    assert told["weight_bytes"] > 0 and card["memory_bytes"] == 24e9


def test_inspect_tells_what_computes(nibble, tree):
    model = tree / "tests/golden/models/llama-words"
    told = json.loads(nibble("inspect", model, "--json").stdout)["computed"]
    assert told and f"\ncomputed   {told}\n" in nibble("inspect", model).stdout
    assert f"compute  {told}, KV cache " in nibble("run", model, "-p", "a", "-n", "1", "--verbose").stderr


def test_a_file_that_may_not_grow(nibble_path, tree, tmp_path):
    done = subprocess.run(["bash", "-c", 'ulimit -f 1; exec "$0" inspect "$1" --tensors > "$2"', nibble_path,
                           tree / "tests/golden/models/llama-words", tmp_path / "out"], capture_output=True, text=True)
    assert done.returncode == 1 and "standard output: File too large" in done.stderr


# ---- the man page ----

def man_sections(tree):
    """Command -> flags named in its part of the man page; "" -> those of HOW IT COMPUTES."""
    text = (tree / "docs" / "man" / "nibble.1").read_text()
    plain = text.replace("\\-", "-")
    parts = {"": plain.split(".SH HOW IT COMPUTES")[1].split(".SH COMMANDS")[0]}
    for part in plain.split(".SH COMMANDS")[1].split(".SH EXIT STATUS")[0].split("\n.SS ")[1:]:
        name, body = part.split("\n", 1)
        parts[name] = body
    entry = re.compile(r"^\.TP\n\.BR? (.*)$", re.M)
    return {name: {flag for line in entry.findall(body) for flag in re.findall(r"--([a-z0-9-]+)", line)}
            for name, body in parts.items()}


def test_man_page_matches_help(nibble, tree):
    man = man_sections(tree)
    names = commands(nibble)
    assert set(man) - {""} == set(names)
    for name in names:
        shown = flags(nibble(name, "--help").stdout)
        computes = man[""] <= shown  # has the flags of HOW IT COMPUTES, or one of them in its own way
        assert man[name] == (shown - (man[""] - man[name]) if computes else shown), name


def test_man_page_renders(tree):
    page = tree / "docs" / "man" / "nibble.1"
    try:
        done = subprocess.run(["groff", "-man", "-Tutf8", "-ww", page], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("groff is not installed")
    assert done.returncode == 0 and not done.stderr
    assert "nibble" in done.stdout


# ---- bash completion ----

def complete(tree, nibble_path, *words):
    """What bash offers for the last of WORDS (the first is the program)."""
    script = """
        source "$1"; shift
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
        _nibble
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    done = subprocess.run(["bash", "-c", script, "bash", tree / "docs" / "completion" / "nibble.bash", nibble_path,
                           *words], capture_output=True, text=True, check=True)
    assert not done.stderr
    return set(done.stdout.split())


def test_completion_matches_help(nibble, nibble_path, tree):
    names = set(commands(nibble))
    assert complete(tree, nibble_path, "") == names | {"--help", "--version"}
    assert complete(tree, nibble_path, "ru") == {"run"}
    for name in names:
        offered = complete(tree, nibble_path, name, "model", "--")
        assert {flag[2:] for flag in offered} - {"help", "usage"} == flags(nibble(name, "--help").stdout)


def test_completion_of_values(nibble_path, tree):
    assert complete(tree, nibble_path, "run", "m", "--activations", "") == {"auto", "f32", "int8", "bf16", "fp8", "fp4"}
    assert complete(tree, nibble_path, "run", "m", "--kv-cache-dtype", "=", "f") == {"fp8", "fp32"}
    assert complete(tree, nibble_path, "bench", "m", "--output", "=") == {"md", "json", "csv"}
    assert complete(tree, nibble_path, "bench", "m", "-o", "") == {"md", "json", "csv"}
    assert complete(tree, nibble_path, "quantize", "m", "o", "--method", "=", "l") == {"local"}
    assert complete(tree, nibble_path, "quantize", "m", "o", "--head", "") == {"keep", "nvfp4", "fp8", "q5_0", "q8_0"}
    assert complete(tree, nibble_path, "help", "in") == {"inspect"}
    assert complete(tree, nibble_path, "eval", "") == {"ppl", "kld", "--help"}
