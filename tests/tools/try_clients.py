#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Clients of other people against `nibble serve`, beyond those that the tests import (openai, anthropic):

  tests/tools/try_clients.py litellm        # chat, streams, tools, shapes, errors, embeddings; also as Anthropic's API
  tests/tools/try_clients.py lm-eval        # local-completions: log-likelihoods equal those of `nibble eval`
  tests/tools/try_clients.py schemathesis   # random requests by the server's own /openapi.json

Each is installed into build/clients/NAME on its first run, in the version given here. A small model with a template
that has calls answers (tests/golden/models/llama-words). Prints a line for each check; exits 1 when one fails.
"""
import argparse
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import venv

TREE = pathlib.Path(__file__).resolve().parents[2]
NIBBLE = pathlib.Path(os.environ.get("NIBBLE", TREE / "build" / "release" / "nibble"))
PACKAGES = {
    "litellm": ["litellm==1.110.2"],
    "lm-eval": ["lm-eval[api]==0.4.13", "transformers==5.23.0"],
    "schemathesis": ["schemathesis==4.32.5"],
}
sys.path.insert(0, str(TREE / "tests" / "e2e"))
from serving import Server, long_words, user  # noqa: E402

SCHEMA = {"type": "object", "properties": {"zone": {"enum": ["UTC", "CET"]}}, "required": ["zone"],
          "additionalProperties": False}
TOOL = {"type": "function", "function": {"name": "now", "description": "Time.", "parameters": SCHEMA}}
failed = []


def check(what, holds, got=""):
    print(f"{'ok     ' if holds else 'FAILED '} {what}{'' if holds else f': {got}'}", flush=True)
    if not holds:
        failed.append(what)


def python_of(client):
    """The Python of CLIENT's own environment, made where it is not there."""
    folder = TREE / "build" / "clients" / client
    python, stamp = folder / "bin" / "python", folder / "packages"
    wanted = "\n".join(PACKAGES[client])
    if not stamp.exists() or stamp.read_text() != wanted:
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES[client]], check=True)
        stamp.write_text(wanted)
    return python


# ---- litellm ----

def litellm_chat(litellm, ask):
    whole = litellm.completion(**ask, max_tokens=12)
    chunks = list(litellm.completion(**ask, max_tokens=12, stream=True, stream_options={"include_usage": True}))
    built = litellm.stream_chunk_builder(chunks, messages=ask["messages"])
    check("chat: a stream put together is the whole answer",
          built.choices[0].message.content == whole.choices[0].message.content and whole.usage.completion_tokens == 12,
          (built, whole))
    check("chat: usage of a stream, with cached tokens",
          built.usage.prompt_tokens == whole.usage.prompt_tokens and built.usage.prompt_tokens_details.cached_tokens is not None,
          built.usage)
    text = litellm.text_completion(model=ask["model"].replace("openai/", "text-completion-openai/"), prompt="the cat", max_tokens=4,
                                   temperature=0, api_base=ask["api_base"], api_key=ask["api_key"])
    check("a text continued", text.choices[0].finish_reason == "length" and text.usage.completion_tokens == 4, text)


def litellm_tools(litellm, ask):
    more = {**ask, "tools": [TOOL], "tool_choice": "required", "max_tokens": 400, "seed": 1, "temperature": 1}
    whole = litellm.completion(**more).choices[0]
    built = litellm.stream_chunk_builder(list(litellm.completion(**more, stream=True))).choices[0]
    calls = [[(c.function.name, json.loads(c.function.arguments)["zone"]) for c in choice.message.tool_calls]
             for choice in (whole, built)]
    check("a call that must come, whole and streamed", calls[0] == calls[1] and calls[0][0][0] == "now", calls)
    check("its finish_reason", whole.finish_reason == built.finish_reason == "tool_calls", (whole, built))
    shape = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}
    shaped = litellm.completion(**{**ask, "response_format": shape}).choices[0].message.content
    check("an answer of a shape", json.loads(shaped)["zone"] in ("UTC", "CET"), shaped)


def raises(kind, call):
    try:
        return f"no error: {call()}"
    except kind:
        return ""
    except Exception as other:  # the wrong one: said, with what it says
        return f"{type(other).__name__}: {other}"


def litellm_errors(litellm, ask):
    for what, kind, more in [
            ("a prompt that is too long", litellm.ContextWindowExceededError, {"messages": user("the cat " * 5000)}),
            ("a field that is not known", litellm.BadRequestError, {"extra_body": {"no_such_field": 1}}),
            ("a model that is not there", litellm.NotFoundError, {"model": "openai/other"}),
            ("a wrong key", litellm.AuthenticationError, {"api_key": "wrong"})]:
        said = raises(kind, lambda more=more: litellm.completion(**{**ask, "num_retries": 0, **more}))
        check(f"error: {what} is {kind.__name__}", not said, said)


def litellm_other_routes(litellm, ask, server):
    claude = {**ask, "model": "anthropic/words", "api_base": server.url, "max_tokens": 12}
    whole = litellm.completion(**claude)
    built = litellm.stream_chunk_builder(list(litellm.completion(**claude, stream=True)))
    check("as Anthropic's API, whole and streamed", whole.choices[0].message.content == built.choices[0].message.content,
          (whole, built))
    done = litellm.responses(model=ask["model"], input="the cat", max_output_tokens=16, temperature=0,
                             api_base=ask["api_base"], api_key=ask["api_key"])
    check("the Responses API", done.usage.output_tokens == 16, done)
    if "/v1/embeddings" in server.get("/openapi.json")["paths"]:
        many = litellm.embedding(model=ask["model"], input=["the cat", "a mat"], api_base=ask["api_base"], api_key=ask["api_key"])
        lengths = [math.fsum(x * x for x in e["embedding"]) for e in many.data]
        check("embeddings, of length 1", len(lengths) == 2 and all(abs(n - 1) < 1e-3 for n in lengths), lengths)


def try_litellm(server):
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # asks nobody outside
    import litellm
    litellm.suppress_debug_info = True
    ask = {"model": "openai/words", "messages": user("the cat"), "temperature": 0, "api_base": server.base, "api_key": "key"}
    litellm_chat(litellm, ask)
    litellm_tools(litellm, ask)
    litellm_errors(litellm, ask)
    litellm_other_routes(litellm, ask, server)


# ---- lm-eval ----

TASK = """task: nibble_words
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{data}"}}}}
test_split: test
output_type: loglikelihood
doc_to_text: "{{{{context}}}}"
doc_to_target: "{{{{continuation}}}}"
target_delimiter: ""
metric_list: [{{metric: perplexity, aggregation: perplexity, higher_is_better: false}}]
"""


def try_lm_eval(server):
    """The log-likelihood that lm-eval gets of half a text, by echo and logprobs, is what `nibble eval` computes of it."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager
    from transformers import AutoTokenizer
    model, n = server.model, 64
    tokenizer = AutoTokenizer.from_pretrained(model)
    text = "the cat sat on the mat and the dog ran to the old stone bridge near our village while rain fell " * 20
    ids = tokenizer(text, add_special_tokens=False).input_ids
    half, rest = tokenizer.decode(ids[: n // 2 + 1]), tokenizer.decode(ids[n // 2 + 1 : n])
    assert tokenizer(half + rest, add_special_tokens=False).input_ids == ids[:n]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "text").write_text(text)
        (folder / "data.json").write_text(json.dumps([{"context": half, "continuation": rest}]))
        (folder / "task.yaml").write_text(TASK.format(data=folder / "data.json"))
        os.environ |= {"OPENAI_API_KEY": "key", "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(folder / "cache")}
        result = simple_evaluate(
            model="local-completions", tasks=["nibble_words"], bootstrap_iters=0, log_samples=True,
            model_args=f"model=words,base_url={server.base}/completions,tokenizer={model},tokenizer_backend=huggingface",
            task_manager=TaskManager(include_path=str(folder), include_defaults=False))
        theirs, greedy = result["samples"]["nibble_words"][0]["filtered_resps"][0]
        ours = json.loads(subprocess.run([NIBBLE, "eval", "ppl", model, "--text", folder / "text", "--ctx", str(n), "--chunks", "1",
                                          "--json"], check=True, capture_output=True, text=True).stdout)
    scored = n - n // 2 - 1
    print(f"log-likelihood of {scored} tokens: lm-eval {theirs:.6f}, nibble eval {-scored * math.log(ours['ppl']):.6f}; greedy: {greedy}")
    check("lm-eval's log-likelihood is nibble eval's", abs(theirs / scored + math.log(ours["ppl"])) < 1e-4)


# ---- schemathesis ----

def try_schemathesis(server):
    command = [pathlib.Path(sys.executable).parent / "schemathesis", "run", f"{server.url}/openapi.json", "--header", "Authorization: Bearer key",
               "--suppress-health-check", "too_slow",  # that is a busy machine
               "--exclude-path-regex", "^/(pause|sleep)$", "--max-examples", "50", "--seed", "1", "--generation-database", "none", "--request-timeout", "60", "--no-color",
               "--checks", "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,"
               "negative_data_rejection,ignored_auth,unsupported_method"]
    done = subprocess.run(command, cwd=server.model)  # it leaves files
    check("schemathesis finds nothing", done.returncode == 0)
    check("the server is alive", server.ask("GET", "/health")[0] == 200)


FLAGS = {"schemathesis": ["--max-model-len", "256"]}  # no answer goes on for long
TRIALS = {"litellm": try_litellm, "lm-eval": try_lm_eval, "schemathesis": try_schemathesis}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("client", choices=TRIALS)
    client = parser.parse_args().client
    python = python_of(client)
    if pathlib.Path(sys.prefix) != TREE / "build" / "clients" / client:
        os.execv(python, [str(python), __file__, client])
    with tempfile.TemporaryDirectory() as folder:
        model = long_words(TREE, pathlib.Path(folder))
        with Server(NIBBLE, model, "--chat-template", TREE / "tests/golden/text/families/hermes.jinja",
                    "--served-model-name", "words", "--api-key", "key", *FLAGS.get(client, [])) as server:
            server.model = model
            TRIALS[client](server)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
