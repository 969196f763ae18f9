#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Run llama.cpp's own server tests (tools/server/tests of its sources) against `nibble serve`.

  .venv/bin/python tests/tools/llamacpp_server_tests.py build/bench/llama.cpp-source/*/vendor/llama.cpp

bench/cpu_vs_llamacpp fetches these sources. The tests are copied into a temporary folder, where their ServerProcess
starts nibble with its own flags in place of llama-server. Three things differ from llama.cpp's own run:
- the model is SmolLM2, since theirs cannot be fetched everywhere, with a template that has calls where a test file has tools:
  checks of the words and token counts of theirs, and of forms in which llama.cpp differs from OpenAI, are counted where
  they fail, not held against the server ("set aside"); all others are;
- llama.cpp's own route /completion is asked as /v1/completions, and the answer is put into its form; --seed and
  --temp of its server and id_slot of its requests, which nibble has not, go into the request or are left out; /slots,
  where nibble lists what runs, is filled up with slots that are free;
- each test names a model of its own: nibble, which refuses models that it has not, is started with these names.

Prints a table in Markdown: what does not apply and why, what passes, what does not and why. Exits 1 when a test
fails that is not listed here with its reason.
"""
import argparse
import ast
import collections
import fnmatch
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import types

TREE = pathlib.Path(__file__).resolve().parents[2]

# (tests, why they do not apply); a test is FILE::NAME without .py
NOT_HERE = [
    ("test_lora::*", "no LoRA adapters"),
    ("test_infill::*", "no filling in the middle"),
    ("test_rerank::*", "no reranking models"),
    ("test_vision_api::*", "no images"),
    ("test_security::test_local_media_file", "no images"),
    ("test_compat_anthropic::test_anthropic_vision_base64*", "no images"),
    ("test_completion::test_json_prompt*", "no images"),
    ("test_router::*", "one model a server"),
    ("test_stream::*", "one model a server; streams are not resumed"),
    ("test_security::test_cors_origins_*", "one model a server"),
    ("test_mcp_servers::*", "the server runs no tools"),
    ("test_tools_builtin::*", "the server runs no tools"),
    ("test_proxy::*", "the server forwards nothing"),
    ("test_security::test_cors_proxy*", "the server forwards nothing"),
    ("test_sleep::*", "it sleeps when it is told to, not by itself"),
    ("test_slot_save::*", "no state on disk"),
    ("test_kv_keep_only_active::*", "reads llama-server's log"),
    ("test_compat_gcp::*", "no /predict of Google's"),
    ("test_speculative::*", "a draft for another model (tests/e2e/test_speculate.py has ours)"),
    ("test_ctx_shift::test_ctx_shift_enabled", "no context shift: nothing is ever cut"),
    ("test_basic::test_server_multiple_addresses", "one address a server"),
    ("test_basic::test_load_split_model", "a file that cannot be fetched"),
    ("test_basic::test_no_ui", "the page is always there"),
    ("test_basic::test_server_props", "llama-server's flags"),
    ("test_basic::test_server_slots", "a sequence has no slot of its own: /slots lists what runs"),
    ("test_basic::test_server_model_aliases_and_tags", "no tags of models"),
    ("test_security::test_access_static_assets*", "the page is one file"),
    ("test_metrics::test_metrics_disabled", "/metrics is always there"),
    ("test_metrics::test_metrics_prometheus_format", "vLLM's names (docs/server.md); few of llama.cpp's"),
    ("test_metrics::test_metrics_prompt_processed_and_cached", "vLLM's names; few of llama.cpp's"),
    ("test_metrics::test_metrics_predicted_total*", "vLLM's names; few of llama.cpp's"),
    ("test_metrics::test_metrics_embedding*", "vLLM's names; few of llama.cpp's"),
    ("test_metrics::test_metrics_timings_on_prompt_progress", "no progress events"),
    ("test_chat_completion::test_return_progress", "no progress events"),
    ("test_compat_oai_responses::test_responses_stream_with_llama_telemetry", "no progress events"),
    ("test_chat_completion::test_verbose_debug", "no __verbose in answers"),
    ("test_chat_completion::test_chat_template", "no __verbose in answers"),
    ("test_chat_completion::test_chat_template_assistant_prefill", "no __verbose in answers"),
    ("test_chat_completion::test_chat_template_continue_final_message_vllm_compat", "no __verbose in answers"),
    ("test_chat_completion::test_apply_chat_template", "a template that llama.cpp has under a name"),
    ("test_template::test_reasoning", "reasoning is a request's field (reasoning_effort), no flag"),
    ("test_compat_anthropic::test_anthropic_thinking_history_*", "reasoning is a request's field, no flag"),
    ("test_completion::test_completion", "only of llama.cpp's /completion: truncated, has_new_line"),
    ("test_completion::test_completion_stream", "only of llama.cpp's /completion: generation_settings"),
    ("test_completion::test_completion_prompt_cache", "only of llama.cpp's /completion: has_new_line"),
    ("test_completion::test_completion_response_fields", "only of llama.cpp's /completion"),
    ("test_completion::test_n_probs*", "only of llama.cpp's /completion"),
    ("test_ignore_eos::*", "only of llama.cpp's /completion: generation_settings"),
    ("test_completion::test_completion_unified", "places for all that runs are kept from the start"),
    ("test_ctx_shift::test_ctx_shift_disabled_short_prompt", "only of llama.cpp's /completion: truncated"),
    ("test_tokenize::test_tokenize_with_bos", "SmolLM2 begins with no token of its own"),
    ("test_completion::test_nocache_long_input_prompt", "in SmolLM2's tokens the prompt fits"),
    ("test_ctx_shift::test_ctx_shift_disabled_long_prompt", "in SmolLM2's tokens the prompt fits"),
    ("test_embedding::test_embedding_pooling_none*", "no vector for each token"),
]
# (tests, why they fail here and that is meant)
DIFFERS = [
    ("test_chat_completion::test_invalid_chat_completion_req", "two assistant messages in a row are the template's matter"),
    ("test_compat_anthropic::test_anthropic_tool_result_with_image", "an image is refused with 400, not 500"),
    ("test_compat_anthropic::test_anthropic_vision_format_accepted", "an image is refused with 400, not 500"),
    ("test_compat_anthropic::test_anthropic_thinking", "a thinking budget under 1024 is a 400, as Anthropic says"),
    ("test_completion::test_completion_with_tokens_input", "prompts of one kind, as OpenAI's"),
    ("test_embedding::test_embedding_mixed_input", "inputs of one kind and not empty, as OpenAI's; no objects"),
    ("test_embedding::test_embedding_error_prompt_too_long", "a 400 in other words"),
    ("test_embedding::test_embedding_content_text_same_as_string", "inputs as OpenAI's; no objects"),
    ("test_ctx_shift::test_ctx_shift_disabled_stream", "SmolLM2 ends by itself before the context is full"),
    ("test_completion::test_logit_bias", "logit_bias takes token ids; a text may be several"),
    ("test_security::test_cors_options", "OPTIONS is a 204; origins are those of --cors-allow-origins"),
    ("test_template::test_date_inside_prompt", "a template's own date_string, as with transformers"),
    ("test_compat_anthropic::test_anthropic_empty_messages", "no messages are a 400, as Anthropic says"),
]
# What these names hold is of the models of llama.cpp's tests.
OF_THEIR_MODEL = {"n_prompt", "n_predicted", "n_cache", "n_tokens", "re_content", "finish_reason"}
# llama.cpp's build number; an empty first text, which OpenAI and vLLM send as ""; how much the model says.
OF_LLAMACPP = ("startswith('b')", "['delta']['content'] is None", "delta.content is None",
               "len(choice['delta']['content']) > 0", "len(res.body['content']) > 10", "2 * 9")
# ... but here the words are what the request asks for.
SHAPED = {"test_completion_with_response_format", "test_completion_with_json_schema", "test_completion_with_grammar"}


def reason(table, test):
    return next((why for pattern, why in table if fnmatch.fnmatchcase(test, pattern)), None)


class SetAside(ast.NodeTransformer):
    """`assert WORDS_OF_ANOTHER_MODEL` becomes `assert set_aside(...)`, which counts."""

    def __init__(self):
        self.shaped = False

    def visit_FunctionDef(self, node):
        self.shaped = node.name in SHAPED
        return self.generic_visit(node)

    def visit_Assert(self, node):
        names = {n.id for n in ast.walk(node.test) if isinstance(n, ast.Name)}
        theirs = "match_regex" in names or names & OF_THEIR_MODEL
        if self.shaped or not (theirs or any(form in ast.unparse(node.test) for form in OF_LLAMACPP)):
            return node
        call = ast.Call(ast.Name("set_aside", ast.Load()), [node.test], [])
        return ast.copy_location(ast.Assert(call), node)


def copy_tests(source, folder):
    shutil.copytree(source, folder, dirs_exist_ok=True)
    for path in [folder / "utils.py", *(folder / "unit").glob("test_*.py")]:
        tree = SetAside().visit(ast.parse(path.read_text()))
        path.write_text(ast.unparse(ast.fix_missing_locations(tree)))


# ---- nibble in place of llama-server ----

def template_flags(server, theirs, test):
    if server.chat_template_file:
        return ["--chat-template", theirs / server.chat_template_file]
    if not server.chat_template:
        has_tools = test.startswith(("test_compat_anthropic", "test_tool_call"))
        return ["--chat-template", TREE / "tests/golden/text/families/hermes.jinja"] if has_tools else []
    if server.chat_template in ("chatml", "llama3", "gemma"):
        return ["--chat-template", server.chat_template]
    path = pathlib.Path("template.jinja").absolute()
    path.write_text(server.chat_template)
    return ["--chat-template", path]


def serve_flags(server, theirs, watch):
    slots = server.n_slots or 1
    context = (server.n_ctx or 4096) // (1 if server.kv_unified else slots)
    flags = ["--port", server.server_port, "--max-num-seqs", slots, "--max-model-len", context, "--threads", 1]
    if server.n_batch:
        flags += ["--max-num-batched-tokens", server.n_batch]
    if (server.n_predict or -1) > 0:
        flags += ["--max-tokens", server.n_predict]
    if server.api_key:
        flags += ["--api-key", server.api_key]
    if server.pooling in ("mean", "last"):
        flags += ["--pooling", server.pooling]
    for name in [server.model_alias, *watch.names()]:
        if name:
            flags += ["--served-model-name", name]
    return [str(f) for f in flags + template_flags(server, theirs, watch.now)]


def to_openai(server, data):
    """A request to llama.cpp's /completion as one to /v1/completions."""
    n = data.get("max_tokens", server.n_predict)
    data.pop("return_tokens", None)
    return {"seed": server.seed, "temperature": server.temperature, **data,
            "max_tokens": n if n and n > 0 else 1 << 20, "return_token_ids": True}


def without_slots(data):
    """A request without llama.cpp's words for a place and for max_tokens."""
    words = {"n_predict": "max_tokens"}
    return {words.get(k, k): v for k, v in data.items() if k != "id_slot"} if isinstance(data, dict) else data


def from_openai(choice, body):
    stop = {None: "none", "length": "limit", "stop": "eos"}[choice["finish_reason"]]
    return {"content": choice["text"], "tokens": choice["token_ids"], "stop": stop != "none", "stop_type": stop,
            "timings": body.get("timings")}


def adapt(utils, options, theirs, watch):
    """ServerProcess of llama.cpp's UTILS starts nibble; /completion is /v1/completions."""
    process = utils.ServerProcess
    request, stream = process.make_request, process.make_stream_request
    native = ("/completion", "/completions")

    def start(self, timeout_seconds=60):
        command = [str(options.nibble), "serve", str(options.model), *serve_flags(self, theirs, watch)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        utils.server_instances.add(self)
        first = self.process.stdout.readline()
        while first and "http://" not in first:
            first += self.process.stdout.readline()
            if self.process.poll() is not None:
                raise RuntimeError(f"nibble serve ended: {first}")
        end = time.monotonic() + timeout_seconds
        while request(self, "GET", "/health").status_code != 200:
            if time.monotonic() > end:
                raise TimeoutError("the model is not there")
            time.sleep(0.02)

    def make_request(self, method, path, data=None, *rest, **more):
        data = without_slots(data)
        if method != "POST" or path not in native:
            result = request(self, method, path, data, *rest, **more)
            if path == "/slots" and result.status_code == 200:
                result.body += [{"is_processing": False}] * ((self.n_slots or 1) - len(result.body))
            return result
        result = request(self, method, "/v1/completions", to_openai(self, data), *rest, **more)
        if result.status_code == 200:
            answers = [from_openai(c, result.body) for c in result.body["choices"]]
            prompt = data["prompt"]
            many = isinstance(prompt, list) and not any(isinstance(p, int) for p in prompt)
            result.body = answers if many else answers[0]
        return result

    def make_stream_request(self, method, path, data=None, *rest, **more):
        data = without_slots(data)
        if path not in native:
            yield from stream(self, method, path, data, *rest, **more)
            return
        for chunk in stream(self, method, "/v1/completions", to_openai(self, data), *rest, **more):
            yield from (from_openai(c, chunk) for c in chunk["choices"])

    process.start, process.make_request, process.make_stream_request = start, make_request, make_stream_request
    utils.ServerPreset.load_all = staticmethod(lambda: None)


# ---- what comes of it ----

class Watch:
    """A plugin of pytest: leaves out what does not apply, collects what comes of the rest."""

    def __init__(self, only):
        self.only = only
        self.left_out = collections.defaultdict(set)   # why -> tests
        self.ran = collections.defaultdict(collections.Counter)
        self.why = {}
        self.aside = collections.Counter()
        self.now, self.source = "", ""

    @staticmethod
    def name(item):
        return f"{item.path.stem}::{item.originalname}"

    def names(self):
        """Of models, that the running test asks for."""
        found = re.findall(r"""model['"]?\s*[=:]\s*['"]([^'"]+)['"]|\(['"](codellama70b)['"]""", self.source)
        return sorted({a or b for a, b in found}) if not self.now.startswith("test_basic") else []

    def set_aside(self, holds):
        self.aside[self.now] += not holds
        return True

    def pytest_collection_modifyitems(self, items):
        kept = []
        for item in items:
            test = self.name(item)
            why = reason(NOT_HERE, test) or ("a model of billions" if item.get_closest_marker("slow") else None)
            if why:
                self.left_out[why].add(test)
            elif not self.only or fnmatch.fnmatchcase(test, self.only):
                kept.append(item)
        items[:] = kept

    def pytest_runtest_setup(self, item):
        self.now, self.source = self.name(item), item.path.read_text()

    def pytest_runtest_logreport(self, report):
        test = "::".join(re.match(r".*/(\w+)\.py::(\w+)", report.nodeid).groups())
        if report.when == "call" or report.outcome != "passed":
            self.ran[test][report.outcome] += 1
        if report.failed:
            said = getattr(report.longrepr, "reprcrash", None)
            self.why.setdefault(test, (said.message if said else str(report.longrepr)).split("\n")[0][:160])
            print(f"{report.nodeid}: {self.why[test]}", file=sys.stderr, flush=True)


def report(watch):
    """Prints the tables; how many failures have no reason."""
    passed = sum(c["passed"] for c in watch.ran.values())
    tests = sum(sum(c.values()) for c in watch.ran.values())
    unknown = 0
    print("| test | passed | set aside | why not |\n| --- | ---: | ---: | --- |")
    for test, counts in sorted(watch.ran.items()):
        why = ""
        if counts["failed"]:
            meant = reason(DIFFERS, test)
            unknown += not meant
            why = meant or f"NOT LISTED: {watch.why.get(test, '')}".replace("|", "\\|")
        elif counts["skipped"]:
            why = "skips itself"
        print(f"| {test.replace('::', ' ')} | {counts['passed']} of {sum(counts.values())} | {watch.aside[test] or ''} | {why} |")
    print("\n| left out | tests | why |\n| --- | ---: | --- |")
    for why, names in sorted(watch.left_out.items(), key=lambda pair: sorted(pair[1])):
        print(f"| {', '.join(sorted({name.split('::')[0] for name in names}))} | {len(names)} | {why} |")
    left_out = sum(len(n) for n in watch.left_out.values())
    print(f"\n{len(watch.ran)} tests apply ({passed} of {tests} cases pass), {left_out} do not; "
          f"{unknown} fail without a reason given here.")
    return unknown


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("llamacpp", type=pathlib.Path, help="llama.cpp's sources")
    parser.add_argument("--model", type=pathlib.Path, default=TREE / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--nibble", type=pathlib.Path, default=TREE / "build" / "release" / "nibble")
    parser.add_argument("--only", help="tests, as test_tokenize::*")
    parser.add_argument("--log", type=pathlib.Path, help="pytest's output goes there")
    options = parser.parse_args()
    theirs = options.llamacpp.resolve() / "tools" / "server" / "tests"
    if not (theirs / "utils.py").exists():
        parser.error(f"{theirs}/utils.py is not there: expected llama.cpp's sources")
    import pytest
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        os.environ["PORT"] = str(free.getsockname()[1])
    sys.dont_write_bytecode = True
    sys.modules.setdefault("wget", types.ModuleType("wget"))  # fetches models there
    options.model, options.nibble = options.model.resolve(), options.nibble.resolve()
    watch = Watch(options.only)
    with tempfile.TemporaryDirectory() as folder:
        copy_tests(theirs, pathlib.Path(folder))
        os.chdir(folder)
        sys.path.insert(0, folder)
        import utils
        utils.set_aside = watch.set_aside
        adapt(utils, options, theirs, watch)
        kept = os.dup(1)
        with open(options.log or os.devnull, "w") as log:
            os.dup2(log.fileno(), 1)
            pytest.main(["-q", "-p", "no:cacheprovider", "--tb=short", "unit"], plugins=[watch])
            sys.stdout.flush()
            os.dup2(kept, 1)
        os.chdir(TREE)
    sys.exit(1 if report(watch) else 0)


if __name__ == "__main__":
    main()
