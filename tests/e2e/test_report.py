# SPDX-License-Identifier: Apache-2.0
"""nibble report: its numbers are numpy's, it needs nothing but itself, a stranger's names are text in it, and a browser
shows it in light, in dark, on a phone and on paper. With NIBBLE_SCREENSHOTS=FOLDER it leaves pictures there."""
import base64
import json
import os
import pathlib
import re
import shutil

import pytest
import safetensors.numpy

from browser import open_browser, screen
from test_quantize import LAYERS, LINEARS, directory_values, make_model, raw_tensors, weights

np = pytest.importorskip("numpy")

EVAL = {"model": "/some/where/<b>&\"name\"-SmolLM2-135M-Instruct-NVFP4.gguf", "activations": "nvfp4", "kv_cache_dtype": "fp8",
        "ppl": 12.5, "ppl_error": 0.5, "kld": 0.1234, "kld_error": 0.002, "ppl_base": 11.875, "same_top": 0.815}

SPEED = {"model": "/x/<i>tiny.gguf", "activations": "int8", "kv_cache_dtype": "bf16", "n_threads": 2, "test": "tg128", "avg_ts": 66.94,
         "stddev_ts": 0.25, "gb_per_s": 6.461, "bandwidth_percent": 65.96}
COSTS = {f"model.layers.{layer}.{linear}.weight": 0.001 * (1 + layer) for layer in range(LAYERS) for linear in LINEARS}
TEXT = "".join(f"{a}and{b}/then;" for a in range(20) for b in range(3))


@pytest.fixture(scope="module")
def made(nibble, tmp_path_factory):
    root = tmp_path_factory.mktemp("report")
    source = make_model(root / "source")
    nibble("quantize", source, root / "out", "--method", "sweep")
    nibble("quantize", source, root / "out.gguf", "--method", "sweep")
    (root / "kld.json").write_text(json.dumps(EVAL))
    (root / "ppl.json").write_text(json.dumps({key: EVAL[key] for key in ("model", "activations", "ppl", "ppl_error")}))
    (root / "bench.json").write_text(json.dumps([SPEED, {**SPEED, "test": "pp512", "avg_ts": 1868}]))
    (root / "plan.json").write_text(json.dumps({"nibble_plan": 1, "parts": [{"tensors": [name], "format": "nvfp4", "kld": kld}
                                                                            for name, kld in COSTS.items()]}))
    for name in ("out", "out.gguf"):
        told = nibble("report", root / name, "--source", source, "--eval", root / "kld.json", "--eval", root / "ppl.json",
                      "--bench", root / "bench.json", "--plan", root / "plan.json", "-o", root / f"{name}.html").stdout
        assert f"{1 + len(LINEARS) * LAYERS} matrices" in told
    (root / "text").write_text(TEXT)
    for name in ("out", "out.gguf", "source"):
        nibble("report", root / name, "--source", source, "--text", root / "text", "-o", root / f"{name}-outputs.html")
    return root


def titles(page):
    """What the map's cells say: tensor -> percent."""
    return {name: float(value) for name, value in re.findall(r"<title>([\w.]+): ([\d.]+) %</title>", page)
            if name.endswith(".weight")}


def test_errors_are_numpys(made):
    found = titles((made / "out.html").read_text())
    source = {name: array.astype(np.float32) for name, array in weights("llama").items()}
    for stem, values in directory_values(made / "out").items():
        if stem.endswith("_proj"):
            w = source[f"{stem}.weight"].astype(np.float64)
            want = 100 * np.linalg.norm(values - w) / np.linalg.norm(w)
            assert found.pop(f"{stem}.weight") == pytest.approx(want, abs=6e-4)
    assert not found


def test_outputs_errors_are_numpys(made, nibble):
    """Of what the first layer's q, k and v give, whose inputs are the norm of the embeddings."""
    found = titles((made / "out-outputs.html").read_text())
    source = {name: array.astype(np.float64) for name, array in weights("llama").items()}
    ids = [int(i) for i in nibble("tokenize", made / "source", "--ids", TEXT).stdout.split()]
    stride = -(-len(ids) // 128)
    x = source["model.embed_tokens.weight"][ids][stride // 2::stride]
    x *= source["model.layers.0.input_layernorm.weight"] / np.sqrt((x ** 2).mean(1, keepdims=True) + 1e-5)
    values = directory_values(made / "out")
    for part in "qkv":
        stem = f"model.layers.0.self_attn.{part}_proj"
        want = x @ source[f"{stem}.weight"].T
        assert found[f"{stem}.weight"] == pytest.approx(
            100 * np.linalg.norm(want - x @ values[stem].T) / np.linalg.norm(want), abs=2e-3)


def test_outputs_errors_of_containers_and_of_the_source_itself(made):
    directory, file, same = (titles((made / f"{name}-outputs.html").read_text()) for name in ("out", "out.gguf", "source"))
    assert len(directory) == len(file) == len(LINEARS) * LAYERS and not any(same.values())
    for layer in range(LAYERS):
        for hf, name in LINEARS.items():
            assert file[f"blk.{layer}.{name}.weight"] == pytest.approx(directory[f"model.layers.{layer}.{hf}.weight"], abs=2e-3)


def test_outputs_that_are_no_numbers_are_said(made, nibble):
    """A weight that is NaN: what its matrix gives, and everything behind it; the mean is of what is before."""
    tensors = safetensors.numpy.load_file(made / "source" / "model.safetensors")
    down = tensors["model.layers.0.mlp.down_proj.weight"] = tensors["model.layers.0.mlp.down_proj.weight"].copy()
    down[3, 5] = np.nan
    shutil.copytree(made / "source", made / "no-number")
    safetensors.numpy.save_file(tensors, made / "no-number" / "model.safetensors", {"format": "pt"})
    told = nibble("report", made / "out", "--source", made / "no-number", "--text", made / "text", "-o", made / "no-number.html").stdout
    lost = len(LINEARS) * (LAYERS - 1) + 1 + 1  # down, the layers behind it, the head
    page = (made / "no-number.html").read_text()
    assert told == f"{made / 'no-number.html'}: {1 + len(LINEARS) * LAYERS} matrices, outputs of {lost} are no numbers\n"
    assert f"<dt>outputs are no numbers</dt><dd>of {lost} of {1 + len(LINEARS) * LAYERS} matrices" in page
    assert len(re.findall("<title>[^<]*: no number</title>", page)) == lost - 1 and page.count("<td>no number</td>") == lost + 1  # of weights: down's
    whole = titles((made / "out-outputs.html").read_text())
    seen = titles(page)
    assert len(seen) == len(LINEARS) - 1 and all(seen[name] == whole[name] for name in seen)


def test_outputs_say_who_lost_less(made, nibble):
    """gptq gives up some of the weights for the outputs."""
    means = {}
    for method in ("rtn", "gptq"):
        nibble("quantize", made / "source", made / method, "--method", method, *(["--calib", made / "text"] if method == "gptq" else []))
        nibble("report", made / method, "--source", made / "source", "--text", made / "text", "-o", made / "method.html")
        means[method] = {what: float(mean) for what, mean in re.findall(r"error of (\w+)</dt><dd>([\d.]+) %", (made / "method.html").read_text())}
    assert means["gptq"]["outputs"] < 0.9 * means["rtn"]["outputs"], means
    assert means["gptq"]["weights"] > means["rtn"]["weights"], means


def test_speeds_and_costs_are_those_of_the_files(made):
    """A plan names matrices in the source's words, also for a file of the other container."""
    for name in ("out", "out.gguf"):
        page = (made / f"{name}.html").read_text()
        assert "<td>&lt;i&gt;tiny.gguf (int8, cache bf16)</td><td>tg128</td><td>2</td><td>66.9</td><td>0.2</td><td>6.46</td><td>66.0</td>" in page
        assert "<td>pp512</td><td>2</td><td>1868.0</td>" in page
        found = re.findall(r"<title>([\w.]+): (0\.00\d+)</title>", page)
        assert len(found) == len(COSTS) and sorted({float(kld) for _, kld in found}) == [0.001, 0.002]
        assert all(float(kld) == COSTS[tensor] for tensor, kld in found if name == "out")


def test_bits_are_those_of_inspect(made, nibble):
    told = re.search("bits per weight</dt><dd>(.*?)</dd>", (made / "out.gguf.html").read_text())[1]
    assert told in nibble("inspect", made / "out.gguf").stdout and told.endswith("4.50 in the linear layers")


def test_containers_tell_the_same(made):
    """q and k lie in another order of rows in a GGUF file."""
    directory, file = (titles((made / name).read_text()) for name in ("out.html", "out.gguf.html"))
    for layer in range(LAYERS):
        for hf, name in LINEARS.items():
            assert file[f"blk.{layer}.{name}.weight"] == directory[f"model.layers.{layer}.{hf}.weight"]


def test_counts_are_numpys(made):
    page = (made / "out.html").read_text()
    tensors = raw_tensors(made / "out" / "model.safetensors")
    codes = np.concatenate([a.ravel() for kind, a in tensors.values() if kind == "U8"])
    counts = np.bincount(np.concatenate([codes & 15, codes >> 4]), minlength=16) / codes.size / 2
    shown = dict(re.findall(r"<title>(-?[\d.]+): ([\d.]+) %</title></rect><text", page))
    for code, value in enumerate([0, 0.5, 1, 1.5, 2, 3, 4, 6]):
        assert float(shown[f"{value:g}"]) == pytest.approx(100 * counts[code], abs=6e-3)
        assert float(shown[f"-{value:g}"]) == pytest.approx(100 * counts[code + 8], abs=6e-3)


def test_it_stands_alone(made):
    page = (made / "out.html").read_text()
    assert not re.search(r"\b(src|href)=|url\(|@import|<script", page)
    assert "&lt;b&gt;&amp;&quot;name&quot;-SmolLM2-135M-Instruct-NVFP4.gguf (nvfp4, cache fp8)" in page and "<b>" not in page
    assert page.count("<svg") == page.count("</svg>") and "nan" not in re.sub("<[^>]*>", "", page).lower()


@pytest.mark.parametrize("arguments, words", [
    (["out", "--source", "out/config.json"], "config.json"),
    (["out", "--eval", "source/config.json"], "no result of nibble eval"),
    (["out.gguf", "-o", "out.gguf"], "is what is read"),
    (["none"], "none"),
    (["out", "--bench", "kld.json"], "no result of nibble bench"),
    (["out", "--bench", "source/config.json"], "no result of nibble bench"),
    (["out", "--plan", "kld.json"], "no plan of quantize --save-plan"),
    (["out.gguf", "--plan", "plan.json"], "--source says what it was made for"),
    (["out", "--source", "source", "--text", "source/tokenizer_config.json"], "tokenizer_config.json: the calibration text has"),
])
def test_refusals(made, nibble, arguments, words):
    before = (made / "out.gguf").read_bytes()
    flags = [] if "-o" in arguments else ["-o", "bad.html"]
    done = nibble("report", *arguments, *flags, check=False, cwd=made)
    assert done.returncode == 1 and words in done.stderr and not (made / "bad.html").exists()
    assert (made / "out.gguf").read_bytes() == before


def test_a_text_needs_a_source(made, nibble):
    done = nibble("report", "out", "--text", "text", "-o", "bad.html", check=False, cwd=made)
    assert done.returncode == 2 and "--text belongs to --source" in done.stderr


def test_in_a_browser(made):
    browser = open_browser()
    pictures = os.environ.get("NIBBLE_SCREENSHOTS")
    colours = set()
    try:
        for name, width, dark in (("light", 1280, False), ("dark", 1280, True), ("phone", 390, False)):
            screen(browser, width, 900, dark)
            browser.get((made / "out.html").as_uri())
            ask = browser.execute_script
            assert ask("return document.documentElement.scrollWidth") <= width
            assert ask("return [...document.querySelectorAll('section')].map(s => s.id)") == [
                "kld", "speed", "map", "costs", "codes", "scales", "tensors"]
            assert ask("return [...document.querySelectorAll('svg')].every(s => s.getBoundingClientRect().height > 15)")
            assert ask("return document.querySelectorAll('#tensors tbody tr').length") == 1 + len(LINEARS) * LAYERS
            assert width < 1280 or ask("return (t => t.scrollWidth <= t.parentNode.clientWidth)(document.querySelector('#kld table'))")
            assert "11.875" in ask("return document.querySelector('#kld table').innerText")
            assert ask("""return [...document.querySelectorAll('#kld text')].every(t => {
                const at = t.getBBox(), whole = t.ownerSVGElement.viewBox.baseVal;
                return at.x >= 0 && at.x + at.width <= whole.width; })""")
            # text does not run into text
            assert ask("""return [...document.querySelectorAll('#scales svg')].every(s => {
                const at = [...s.querySelectorAll('text')].slice(1).map(t => t.getBoundingClientRect());
                return at.every((r, i) => !i || r.left >= at[i - 1].right); })""")
            colours.add(ask("return getComputedStyle(document.body).backgroundColor"))
            if pictures:
                screen(browser, width, ask("return document.documentElement.scrollHeight"), dark)
                browser.save_screenshot(str(pathlib.Path(pictures) / f"report-{name}.png"))
        paper = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"])
        assert paper.startswith(b"%PDF") and len(paper) > 10000
        assert len(colours) == 2 and not browser.get_log("browser")
    finally:
        browser.quit()
