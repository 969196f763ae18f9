# SPDX-License-Identifier: Apache-2.0
"""nibble serve: routes, keys, errors, chat and completions in OpenAI's words, whole and streamed."""
import socket

import pytest

from serving import Server, user

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


@pytest.fixture(scope="module")
def server(nibble_path, tree):
    template = tree / "tests/golden/text/families/hermes.jinja"
    with Server(nibble_path, tree / "tests/golden/models/llama-words", "--chat-template", template,
                "--max-body-bytes", 200000, "--served-model-name", "words", "--served-model-name", "other") as s:
        yield s


def chat(**more):
    return {"messages": user("the cat"), "temperature": 0, "max_tokens": 12, **more}


def text(**more):
    return {"prompt": "the cat", "temperature": 0, "max_tokens": 12, **more}


# ---- routes ----

def test_facts(server):
    assert server.get("/health") == server.get("/v1/health") == {"status": "ok"}
    models = server.get("/v1/models")
    assert models["object"] == "list" and [m["id"] for m in models["data"]] == ["words", "other"]
    assert models["data"][0]["max_model_len"] == 512 and models["data"][0]["object"] == "model"
    assert server.get("/v1/models/other")["id"] == "other"
    assert server.ask("GET", "/v1/models/none")[0] == 404
    status, headers, body = server.ask("HEAD", "/health")
    assert status == 200 and body == b"" and headers["Content-Length"] == "15"
    assert server.ask("OPTIONS", CHAT)[0] == 204


def test_what_is_not_there(server):
    status, _, body = server.ask("GET", "/nothing")
    assert status == 404 and body["error"]["type"] == "not_found_error"
    assert "did you mean /completions?" in server.ask("POST", "/completion", text())[2]["error"]["message"]
    status, headers, body = server.ask("GET", CHAT)
    assert status == 405 and headers["Allow"] == "POST" and body["error"]["code"] == 405


@pytest.mark.parametrize("body, param, words", [
    ("{", None, "not valid JSON"),
    ("[]", None, "must be a JSON object"),
    ('{"messages": "a\\u0000b"}', None, "a text holds \\u0000"),
    ({}, "messages", "at least one message"),
    (chat(messages=[]), "messages", "at least one message"),
    (chat(messages=[{"role": "user"}]), "messages[0].content", "must be a string"),
    (chat(messages=[{"content": "x"}]), "messages[0]", "with a role"),
    (chat(messages=[{"role": "user", "content": "x", "strange": 1}]), "messages[0].strange", "unrecognized"),
    (chat(messages=[{"role": "user", "content": [{"type": "text", "text": "x", "strange": 1}]}]), "messages[0].content.strange",
     "unrecognized"),
    (chat(messages=[{"role": "assistant", "tool_calls": [{"function": {"name": "f", "strange": 1}}]}]),
     "messages[0].tool_calls[0].function.strange", "unrecognized"),
    (chat(messages=[{"role": "assistant", "tool_calls": [{}]}]), "messages[0].tool_calls[0]", "function with a name"),
    (chat(messages=[{"role": "user", "content": [{"type": "image_url"}]}]), "messages[0].content", "takes text alone"),
    (chat(strange=1), "strange", "unrecognized"),
    (chat(top_logprob=1), "top_logprob", "did you mean 'top_logprobs'?"),
    (chat(messages=[{"role": "asistant", "content": "x"}]), "messages[0].role", "did you mean 'assistant'?"),
    (chat(stream_options={"strange": 1}, stream=True), "stream_options.strange", "unrecognized"),
    (chat(guided_json={}), "guided_json", "response_format"),
    (chat(temperature="hot"), "temperature", "must be a number"),
    (chat(temperature=-1), "temperature", "from 0 to 100"),
    (chat(n=0), "n", "from 1 to 128"),
    (chat(max_tokens=0), "max_tokens", "from 1 to"),
    (chat(top_logprobs=2), "top_logprobs", "needs 'logprobs'"),
    (chat(top_logprobs=21, logprobs=True), "top_logprobs", "from 0 to 20"),
    (chat(stop=[1]), "stop", "strings"),
    (chat(stop=[""]), None, "stop text 0"),
    (chat(logit_bias={"x": 1}), "logit_bias", "token ids"),
    (chat(logit_bias={"9999": 1}), None, "the vocabulary has 280"),
    (chat(min_tokens=20), "min_tokens", "more than max_tokens"),
    (chat(allowed_token_ids=[]), "allowed_token_ids", "is empty"),
    (chat(allowed_token_ids=[9999]), "allowed_token_ids", "the vocabulary has 280"),
    (chat(bad_words="x"), "bad_words", "a list of strings"),
    (chat(bad_words=["x", " "]), "bad_words", "number 1 is empty"),
    (chat(prompt_logprobs=21), "prompt_logprobs", "from 0 to 20"),
    (chat(best_of=2, n=2, stream=True, tools=7), "tools", "must be a list"),
    (chat(tools=[{"type": "function"}]), "tools[0]", "have a name"),
    (chat(tool_choice="required"), "tool_choice", "no tools"),
    (chat(response_format={"type": "xml"}), "response_format.type", "json_schema"),
    (chat(response_format={"type": "json_schema", "json_schema": {"schema": {"not": {}}}}), None, 'not at "#"'),
    (chat(seed=1.5), "seed", "whole number"),
    (chat(stream_options={"include_usage": True}), "stream_options", "without 'stream'"),
])
def test_bad_requests(server, body, param, words):
    status, _, answer = server.ask("POST", CHAT, body)
    error = answer["error"]
    assert status == 400 and error["type"] == "invalid_request_error" and error["param"] == param, answer
    assert words in error["message"], error


def test_too_many_answers(server):
    status, _, answer = server.ask("POST", TEXT, text(prompt=["a"] * 5, n=128))
    assert status == 400 and "more than 512 answers" in answer["error"]["message"]


@pytest.mark.parametrize("prompt", [None, 7, [], [1, "x"], ["x", 1], [[1], ["x"]], {}, [[]], [-1], [99999]])
def test_bad_prompts(server, prompt):
    status, _, answer = server.ask("POST", TEXT, text(prompt=prompt))
    assert status == 400 and answer["error"]["param"] == "prompt"


def test_too_long_is_said_not_cut(server):
    status, _, answer = server.ask("POST", TEXT, text(prompt="the " * 2000))
    error = answer["error"]
    assert status == 400 and error["type"] == "exceed_context_size_error"
    assert "exceeds the available context size" in error["message"]  # what LiteLLM looks for
    assert error["n_prompt_tokens"] >= 2000 and error["n_ctx"] == 512 and error["code"] == "context_length_exceeded"


def test_too_large(server):
    status, _, answer = server.ask("POST", CHAT, b" " * 300000)  # read to its end
    assert status == 413 and answer["error"]["type"] == "invalid_request_error"
    with socket.create_connection((server.host, int(server.port))) as s:  # not even asked for
        s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 300000\r\nExpect: 100-continue\r\n\r\n")
        assert s.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_model_names(server):
    assert server.post(CHAT, chat(model="other"))["model"] == "other"
    assert server.post(CHAT, chat())["model"] == "words"
    missing = server.post(CHAT, chat(model="gpt-9"), status=404)["error"]
    assert missing["code"] == "model_not_found" and "it is 'words'" in missing["message"]
    assert "did you mean 'other'?" in server.post(CHAT, chat(model="othr"), status=404)["error"]["message"]


# ---- answers ----

def test_chat(server):
    answer = server.post(CHAT, chat(user="me", metadata={}, store=False, seed=None))
    assert answer["object"] == "chat.completion" and answer["id"].startswith("chatcmpl-")
    choice, usage = answer["choices"][0], answer["usage"]
    assert choice["message"]["role"] == "assistant" and choice["message"]["content"] and choice["finish_reason"] == "length"
    assert usage["completion_tokens"] == 12 and usage["total_tokens"] == usage["prompt_tokens"] + 12
    assert usage["prompt_tokens_details"]["cached_tokens"] == 0
    assert answer["timings"]["predicted_n"] == 12


def test_parts_of_a_content_are_one_text(server):
    parts = [{"type": "text", "text": "the"}, {"type": "text", "text": "cat"}]
    joined = server.post(CHAT, chat(messages=user("the\ncat")))
    assert server.post(CHAT, chat(messages=user(parts)))["choices"] == joined["choices"]
    system = server.post(CHAT, chat(messages=[{"role": "system", "content": "cat"}, *user("x")]))
    assert server.post(CHAT, chat(messages=[{"role": "developer", "content": "cat"}, *user("x")]))["usage"] == system["usage"]


def test_a_streamed_chat_is_the_whole_one(server):
    options = chat(logprobs=True, top_logprobs=2, return_token_ids=True)
    whole = server.post(CHAT, options)
    frames = server.stream(CHAT, {**options, "stream_options": {"include_usage": True}})
    assert len({(f["id"], f["created"], f["model"]) for f in frames}) == 1
    assert all(f["object"] == "chat.completion.chunk" for f in frames)
    assert frames[-1]["choices"] == [] and frames[-1]["usage"] == whole["usage"]
    assert all(f["usage"] is None for f in frames[:-1])
    choices = [f["choices"][0] for f in frames[:-1]]
    assert choices[0]["delta"] == {"role": "assistant", "content": ""}
    assert choices[-1]["delta"] == {} and choices[-1]["finish_reason"] == "length"
    assert all(c["finish_reason"] is None for c in choices[:-1])
    expected = whole["choices"][0]
    assert "".join(c["delta"].get("content", "") for c in choices) == expected["message"]["content"]
    assert [t for c in choices if c["logprobs"] for t in c["logprobs"]["content"]] == expected["logprobs"]["content"]
    assert [t for c in choices for t in c.get("token_ids", [])] == expected["token_ids"]


def test_usage_in_every_chunk(server):
    frames = server.stream(CHAT, chat(stream_options={"continuous_usage_stats": True}))
    assert frames[-1]["usage"]["completion_tokens"] == 12 and frames[0]["usage"]["prompt_tokens"] > 0
    assert all("usage" not in f for f in server.stream(CHAT, chat()))


def test_logprobs(server):
    choice = server.post(CHAT, chat(logprobs=True, top_logprobs=3))["choices"][0]
    for token in choice["logprobs"]["content"]:
        assert token["logprob"] <= 0 and len(token["top_logprobs"]) == 3
        assert token["top_logprobs"][0]["logprob"] == pytest.approx(token["logprob"])  # greedy
    raw = b"".join(bytes(t["bytes"]) for t in choice["logprobs"]["content"])
    assert raw.decode(errors="replace").rstrip("\ufffd") == choice["message"]["content"].rstrip("\ufffd")


def test_completions_of_lists(server):
    one, two = (server.post(TEXT, text(prompt=p))["choices"][0] for p in ("the cat", "a dog"))
    both = server.post(TEXT, text(prompt=["the cat", "a dog"]))
    assert both["object"] == "text_completion"
    assert [(c["index"], c["text"]) for c in both["choices"]] == [(0, one["text"]), (1, two["text"])]
    assert both["usage"]["completion_tokens"] == 24
    ids = [server.post(TEXT, text(prompt=p, return_token_ids=True))["choices"][0]["prompt_token_ids"] for p in ("the cat", "a dog")]
    assert server.post(TEXT, text(prompt=ids))["choices"] == both["choices"]
    assert server.post(TEXT, text(prompt=ids[1]))["choices"][0]["text"] == two["text"]


def test_echo_scores_the_prompt(server):
    """A text that was generated, given as a prompt, has the log-probabilities that it had."""
    options = {"logprobs": 2, "return_token_ids": True, "max_tokens": 20}
    first = server.post(TEXT, text(**options))["choices"][0]
    ids = first["prompt_token_ids"] + first["token_ids"]
    echoed = server.post(TEXT, text(prompt=ids, echo=True, max_tokens=0, logprobs=2))["choices"][0]
    n = len(first["prompt_token_ids"])
    assert echoed["finish_reason"] == "length" and echoed["logprobs"]["token_logprobs"][0] is None
    assert echoed["logprobs"]["token_logprobs"][n:] == pytest.approx(first["logprobs"]["token_logprobs"], abs=1e-4)
    assert echoed["logprobs"]["tokens"][n:] == first["logprobs"]["tokens"]
    assert echoed["text"].startswith("the cat")
    more = server.post(TEXT, text(echo=True, logprobs=0, max_tokens=3))["choices"][0]
    assert len(more["logprobs"]["tokens"]) == n + 3 and more["text"].startswith("the cat")
    frames = server.stream(TEXT, text(echo=True, logprobs=0, max_tokens=3))
    assert "".join(f["choices"][0]["text"] for f in frames) == more["text"]
    assert [t for f in frames for t in f["choices"][0]["logprobs"]["text_offset"]] == more["logprobs"]["text_offset"]


def test_choices(server):
    options = text(n=3, temperature=1, seed=5)
    whole = server.post(TEXT, options)["choices"]
    assert [c["index"] for c in whole] == [0, 1, 2] and len({c["text"] for c in whole}) == 3
    assert server.post(TEXT, options)["choices"] == whole  # a seed repeats it
    assert server.post(TEXT, text(temperature=1, seed=5))["choices"][0] == whole[0]
    texts = ["", "", ""]
    for frame in server.stream(TEXT, options):
        texts[frame["choices"][0]["index"]] += frame["choices"][0]["text"]
    assert texts == [c["text"] for c in whole]
    best = server.post(TEXT, text(n=1, best_of=3, temperature=1, seed=5, logprobs=0))["choices"]
    means = [sum(c["logprobs"]["token_logprobs"]) / len(c["logprobs"]["tokens"])
             for c in server.post(TEXT, {**options, "logprobs": 0})["choices"]]
    assert len(best) == 1 and best[0]["text"] == whole[means.index(max(means))]["text"]


def test_where_an_answer_ends(server):
    plain = server.post(TEXT, text(return_token_ids=True))["choices"][0]
    stop, token = plain["text"][4:6], plain["token_ids"][5]
    stopped = server.post(TEXT, text(stop=stop))["choices"][0]
    assert (stopped["text"], stopped["finish_reason"], stopped["stop_reason"]) == (plain["text"].split(stop)[0], "stop", stop)
    assert server.post(TEXT, text(stop=["nowhere", stop], include_stop_str_in_output=True))["choices"][0]["text"] == stopped["text"] + stop
    at = plain["token_ids"].index(token)
    by_id = server.post(TEXT, text(stop_token_ids=[token], return_token_ids=True))["choices"][0]
    assert by_id["token_ids"] == plain["token_ids"][:at] and by_id["stop_reason"] == token
    later = server.post(TEXT, text(stop_token_ids=[token], min_tokens=10, return_token_ids=True))["choices"][0]
    assert len(later["token_ids"]) >= 10 and token not in later["token_ids"][:10]


def test_what_may_come(server):
    plain = server.post(TEXT, text(return_token_ids=True))["choices"][0]["token_ids"]
    never = server.post(TEXT, text(logit_bias={str(plain[0]): False}, return_token_ids=True))["choices"][0]["token_ids"]
    always = server.post(TEXT, text(logit_bias={"100": 1000}, return_token_ids=True))["choices"][0]["token_ids"]
    assert plain[0] not in never and set(always) == {100}
    apart = server.post(TEXT, text(presence_penalty=100, return_token_ids=True))["choices"][0]["token_ids"]
    assert len(set(apart)) == len(apart)
    ended = server.post(TEXT, text(logit_bias={"2": 1000}))["choices"][0]  # the model's end
    assert ended["finish_reason"] == "stop" and ended["text"] == ""
    assert len(server.post(TEXT, text(logit_bias={"2": 1000}, ignore_eos=True, return_token_ids=True))["choices"][0]["token_ids"]) == 12


def test_only_some_tokens_may_come(server):
    may = [50, 60, 70]
    body = text(allowed_token_ids=may, temperature=50, seed=3, max_tokens=40, return_token_ids=True)
    came = server.post(TEXT, body)["choices"][0]["token_ids"]
    assert len(came) == 40 and set(came) == set(may)
    assert server.post(TEXT, text(allowed_token_ids=[2]))["choices"][0]["finish_reason"] == "stop"  # the model's end


def test_bad_words_do_not_come(server):
    ids = {c: server.post("/tokenize", {"content": c})["tokens"] for c in "xyz"}
    assert all(len(i) == 1 for i in ids.values()) and len(server.post("/tokenize", {"content": "xy"})["tokens"]) == 2
    body = text(allowed_token_ids=[i[0] for i in ids.values()], temperature=50, seed=1, max_tokens=300)
    plain = server.post(TEXT, body)["choices"][0]["text"]
    assert "xy" in plain and "xyz" in plain and "z" in plain
    came = server.post(TEXT, {**body, "bad_words": ["xy"]})["choices"][0]["text"]
    assert "xy" not in came and "yx" in came and "xz" in came and len(came) == 300
    came = server.post(TEXT, {**body, "bad_words": [" xyz"]})["choices"][0]["text"]
    assert "xyz" not in came and "xy" in came and "yz" in came
    for wrong, words in ({"bad_words": ["x", "y", "z"]}, "no token is left"), ({"bad_words": ["x"] * 65}, "at most 64"), \
            ({"allowed_token_ids": [2], "min_tokens": 3}, "'min_tokens' forbids"):
        assert words in server.post(TEXT, {**body, **wrong}, status=400)["error"]["message"]


def test_tokens_that_may_come_are_no_shape(server):
    for more in {"allowed_token_ids": [50]}, {"bad_words": ["cat"]}:
        status, _, answer = server.ask("POST", CHAT, chat(response_format={"type": "json_object"}, **more))
        assert status == 400 and answer["error"]["param"] == next(iter(more))


def test_prompt_logprobs(server):
    """As echo and logprobs tell them; the most probable ranked, the prompt's own among them."""
    body = text(prompt="the cat sat on the mat", max_tokens=1)
    told = server.post(TEXT, {**body, "echo": True, "logprobs": 3, "return_token_ids": True})["choices"][0]
    ids, echoed = told["prompt_token_ids"], told["logprobs"]["token_logprobs"]
    got = server.post(TEXT, {**body, "prompt_logprobs": 3})["choices"][0]["prompt_logprobs"]
    assert got[0] is None and len(got) == len(ids)
    for token, logprob, one in zip(ids[1:], echoed[1:], got[1:]):
        own = one[str(token)]
        assert own["logprob"] == pytest.approx(logprob, abs=1e-5) and 3 <= len(one) <= 4
        best = sorted(one.values(), key=lambda t: -t["logprob"])
        assert [t["rank"] for t in best[:3]] == [1, 2, 3] and [t["rank"] for t in best[3:]] in ([], [None])
    assert got[-1][str(ids[-1])]["decoded_token"] in told["text"]
    only = server.post(TEXT, {**body, "prompt_logprobs": 0})["choices"][0]
    assert all(len(one) == 1 for one in only["prompt_logprobs"][1:]) and only["logprobs"] is None
    both = server.post(TEXT, {**body, "prompt": ["the cat", "a dog"], "n": 2, "prompt_logprobs": 0})["choices"]
    assert ["prompt_logprobs" in choice for choice in both] == [True, False, True, False]
    many = {**body, "prompt": ["the cat " * 60] * 60, "prompt_logprobs": 20}
    assert "at most 250000" in server.post(TEXT, many, status=400)["error"]["message"]
    of_chat = server.post(CHAT, chat(prompt_logprobs=1))
    assert len(of_chat["prompt_logprobs"]) == of_chat["usage"]["prompt_tokens"]
    for more in {"stream": True}, {"echo": True, "logprobs": 1}:
        assert server.post(TEXT, {**body, "prompt_logprobs": 1, **more}, status=400)["error"]["param"] == "prompt_logprobs"


def test_ways_to_draw_that_are_off(server):
    off = {"typical_p": 1, "mirostat": 0, "mirostat_tau": 5.0, "xtc_probability": 0.0, "dry_multiplier": 0, "dry_base": 1.75,
           "dynatemp_range": 0, "top_n_sigma": 0, "repeat_last_n": 32, "use_beam_search": False, "early_stopping": False, "length_penalty": 2, "tfs_z": 1, "n_probs": 0, "n_keep": 3, "id_slot": -1,
           "add_special_tokens": True}
    assert server.post(TEXT, text(**off))["choices"] == server.post(TEXT, text())["choices"]
    assert server.post(TEXT, text(top_k=10**9))["choices"] == server.post(TEXT, text())["choices"]
    for name, value in ("typical_p", 0.9), ("mirostat", 2), ("use_beam_search", True), ("xtc_probability", 0.1), ("mirostat", "0"), ("top_n_sigma", 1), ("post_sampling_probs", 0):
        error = server.post(TEXT, text(**{name: value}), status=400)["error"]
        assert error["param"] == name and "must be" in error["message"]
    assert server.post(TEXT, text(repeat_last_n=32, repeat_penalty=1.1), status=400)["error"]["param"] == "repeat_last_n"
    assert server.post(TEXT, {"prompt": "a", "n_predict": 3, "ignore_eos": True})["usage"]["completion_tokens"] == 3
    assert server.post(TEXT, {"prompt": "a", "n_predict": -1, "ignore_eos": True})["usage"]["completion_tokens"] > 400
    assert server.post(TEXT, text(n_predict=3), status=400)["error"]["param"] == "max_tokens"


def test_cached_tokens(server):
    prompt = "the cat " * 60
    first = server.post(TEXT, text(prompt=prompt, cache_salt="mine"))["usage"]
    again = server.post(TEXT, text(prompt=prompt, cache_salt="mine"))["usage"]
    other = server.post(TEXT, text(prompt=prompt, cache_salt="yours"))["usage"]
    cached = again["prompt_tokens_details"]["cached_tokens"]
    assert first["prompt_tokens_details"]["cached_tokens"] == other["prompt_tokens_details"]["cached_tokens"] == 0
    assert cached % 64 == 0 and cached > again["prompt_tokens"] - 65


# ---- who may ask ----

def test_keys(nibble_path, tree):
    with Server(nibble_path, tree / "tests/golden/models/llama-words", "--api-key", "open", "--api-key", "sesame") as s:
        assert s.get("/health") == {"status": "ok"}
        for headers in {}, {"Authorization": "Bearer opens"}, {"Authorization": "Bearer ope"}, {"x-api-key": ""}:
            status, answered, body = s.ask("GET", "/v1/models", None, headers)
            assert status == 401 and body["error"]["type"] == "authentication_error"
            assert s.ask("POST", TEXT, text(), headers)[0] == 401
        for headers in {"Authorization": "Bearer open"}, {"authorization": "bearer sesame"}, {"x-api-key": "open"}:
            assert s.ask("POST", TEXT, text(), headers)[0] == 200
        prompt = text(prompt="the cat " * 60)
        for key in "open", "sesame":  # nobody learns what others asked
            usage = s.ask("POST", TEXT, prompt, {"x-api-key": key})[2]["usage"]
            assert usage["prompt_tokens_details"]["cached_tokens"] == 0
        assert s.ask("POST", TEXT, prompt, {"x-api-key": key})[2]["usage"]["prompt_tokens_details"]["cached_tokens"] > 0


def test_not_beyond_this_machine(nibble, tree):
    model = tree / "tests/golden/models/llama-words"
    done = nibble("serve", model, "--host", "0.0.0.0", "--port", 0, check=False)
    assert done.returncode == 1 and "--api-key, or --allow-anonymous" in done.stderr
    done = nibble("serve", model, "--host", "no.such.host.invalid", check=False)
    assert done.returncode == 1 and "no.such.host.invalid is no address here" in done.stderr
    done = nibble("serve", tree / "nothing", "--port", 0, check=False)
    assert done.returncode == 1 and "nothing" in done.stderr


def test_a_port_that_is_taken(server, nibble, tree):
    done = nibble("serve", tree / "tests/golden/models/llama-words", "--port", server.port, check=False)
    assert done.returncode == 1 and "in use; --port takes another" in done.stderr
