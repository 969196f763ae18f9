# SPDX-License-Identifier: Apache-2.0
"""nibble serve for who runs it: tokens, templates, metrics, what runs, ending requests."""
import concurrent.futures
import re

import pytest

from serving import Server, until, user

TEXT = "/v1/completions"


@pytest.fixture(scope="module")
def server(nibble_path, tree):
    with Server(nibble_path, tree / "tests/golden/models/llama-words", "--chat-template", "chatml") as s:
        yield s


def test_tokens_and_back(server, nibble, tree):
    ids = server.post("/tokenize", {"content": "the cat"})["tokens"]
    printed = nibble("tokenize", tree / "tests/golden/models/llama-words", "--ids", stdin="the cat").stdout
    assert ids == [int(t) for t in re.findall(r"\d+", printed)][-len(ids):]
    full = server.post("/tokenize", {"prompt": "the cat", "return_token_strs": True})
    assert full["count"] == len(full["tokens"]) and full["max_model_len"] == 512 and full["tokens"][-len(ids):] == ids
    assert "".join(full["token_strs"][-len(ids):]) == "the cat"
    pieces = server.post("/tokenize", {"content": "cat", "with_pieces": True})["tokens"]
    assert "".join(p["piece"] for p in pieces) == "cat"
    assert server.post("/detokenize", {"tokens": ids})["content"] == "the cat"
    for path, body in ("/tokenize", {"content": 1}), ("/tokenize", {}), ("/detokenize", {}), ("/detokenize", {"tokens": ["a"]}), \
            ("/detokenize", {"tokens": [99999]}), ("/tokenize", {"content": "x", "strange": 1}):
        assert server.post(path, body, status=400)["error"]["message"]


def test_conversations_are_rendered_and_counted(server):
    prompt = server.post("/apply-template", {"messages": user("the cat")})["prompt"]
    assert prompt == "<|im_start|>user\nthe cat<|im_end|>\n<|im_start|>assistant\n"
    count = server.post("/v1/chat/completions/input_tokens", {"messages": user("the cat")})["input_tokens"]
    assert count == server.post("/tokenize", {"messages": user("the cat")})["count"]
    assert count == server.post("/v1/chat/completions", {"messages": user("the cat"), "max_tokens": 1})["usage"]["prompt_tokens"]
    long = server.post("/v1/chat/completions/input_tokens", {"messages": user("the cat " * 400)})
    assert long["input_tokens"] > 512


def metrics(server, model="llama-words"):
    """name or name{label} -> value, histograms' buckets too."""
    text = server.get("/metrics").decode()
    assert text.endswith("\n")
    values = {}
    for line in text.splitlines():
        if line.startswith("#"):
            assert re.fullmatch(r"# (HELP|TYPE) [a-z:]+\w* .+", line), line
            continue
        if line.startswith("process_"):  # of the process, not of the model
            assert float(line.split()[1]) > 0
            continue
        name, labels, value = re.fullmatch(rf'([a-z]+:\w+)\{{engine="0",model_name="{model}",?(.*)\}} (\S+)', line).groups()
        values[name + (labels and "{" + labels + "}")] = float(value)
    return values


def test_metrics(server):
    before = metrics(server)
    usage = server.post(TEXT, {"prompt": "the cat", "max_tokens": 9, "ignore_eos": True})["usage"]
    server.post(TEXT, {"prompt": "the cat", "max_tokens": 5, "logit_bias": {"2": 1000}})
    server.post(TEXT, {}, status=400)
    after = metrics(server)
    gained = {name: after[name] - before.get(name, 0) for name in after}
    assert gained["vllm:generation_tokens_total"] == usage["completion_tokens"] == 9
    assert gained["vllm:prompt_tokens_total"] == 2 * usage["prompt_tokens"]
    assert gained['vllm:request_success_total{finished_reason="length"}'] == 1
    assert gained['vllm:request_success_total{finished_reason="stop"}'] == 1
    assert gained['nibble:http_requests_total{status="400"}'] == 1
    assert gained["vllm:time_to_first_token_seconds_count"] == 1 and gained["vllm:inter_token_latency_seconds_count"] == 8
    assert gained['vllm:request_generation_tokens_bucket{le="5"}'] == 0 and gained['vllm:request_generation_tokens_bucket{le="10"}'] == 1
    assert gained['vllm:request_generation_tokens_bucket{le="+Inf"}'] == 1 and gained["vllm:request_generation_tokens_sum"] == 9
    assert gained["vllm:request_max_num_generation_tokens_count"] == 1 and gained["vllm:spec_decode_num_drafts_total"] == 0
    assert after["vllm:num_requests_running"] == after["vllm:num_requests_waiting"] == 0
    assert 0 <= after["vllm:kv_cache_usage_perc"] <= 1


def test_settings(server):
    props = server.get("/props")
    assert props["default_generation_settings"]["n_ctx"] == 512 and props["total_slots"] == 16
    assert props["model_alias"] == "llama-words" and "activations" in props["compute_path"]
    assert server.post("/reset_prefix_cache", "") == {"success": True}


def test_ending_requests(nibble_path, smollm2):
    long = {"prompt": "Once", "max_tokens": 3000, "ignore_eos": True, "temperature": 0}
    with Server(nibble_path, smollm2, "--max-num-seqs", 2) as s:
        streams = [s.open_stream(TEXT, {**long, "request_id": name}) for name in ("one", "two")]
        assert all(response.read1(1) for _, response in streams)
        assert {slot["request_id"] for slot in s.get("/slots")} == {"one", "two"}
        assert s.post("/abort_request", {"request_id": "none"}) == {"aborted": 0}
        assert s.post("/abort_request", {"request_id": "one"}) == {"aborted": 1}
        assert b'"finish_reason":"abort"' in streams[0][1].read()
        until(lambda: len(s.get("/slots")) == 1)  # its connection is told before it is forgotten
        assert s.post("/abort_request", {"abort_all": True}) == {"aborted": 1}
        assert b'"finish_reason":"abort"' in streams[1][1].read()
        until(lambda: s.get("/slots") == [])
        assert s.post("/abort_request", {}, status=400)["error"]["param"] == "request_id"


def resident_bytes(server):
    return int(re.search(rb"^process_resident_memory_bytes (\d+)$", server.get("/metrics"), re.M).group(1))


def test_resting(nibble_path, smollm2):
    """Paused, nothing is computed and requests wait; asleep, memory is given back and the same model wakes."""
    ask = {"prompt": "Once upon a time", "max_tokens": 24, "ignore_eos": True, "temperature": 0, "cache_prompt": False}
    with Server(nibble_path, smollm2) as s:
        text = s.post(TEXT, ask)["choices"][0]["text"]
        assert s.get("/is_paused") == {"is_paused": False} and s.get("/is_sleeping") == {"is_sleeping": False}
        assert s.post("/pause?mode=keep", "") == {"status": "paused"}
        with concurrent.futures.ThreadPoolExecutor() as pool:
            waits = pool.submit(s.post, TEXT, ask)
            until(lambda: s.get("/load")["waiting"] == 1)
            assert s.get("/is_paused") == {"is_paused": True} and not waits.done()
            assert s.post("/resume", "") == {"status": "resumed"}
            assert waits.result()["choices"][0]["text"] == text
        assert s.post("/pause?mode=maybe", "", status=400)["error"]["param"] == "mode"
        assert s.post("/sleep?level=3", "", status=400)["error"]["param"] == "level"
        assert "?mode" in s.post("/pause?mod=keep", "", status=400)["error"]["message"]
        assert "?mode" in s.post("/pause", {"mode": "keep"}, status=400)["error"]["message"]
        assert s.get("/is_paused") == {"is_paused": False}
        _, response = s.open_stream(TEXT, {**ask, "max_tokens": 3000})
        assert response.read1(1)
        awake = resident_bytes(s)
        assert s.post("/sleep", "") == {"status": "asleep"}
        assert b'"finish_reason":"abort"' in response.read()
        assert awake - resident_bytes(s) > 60e6  # the weights alone are more
        assert s.get("/is_sleeping") == {"is_sleeping": True} and s.ask("GET", "/health")[0] == 200
        assert "wake_up" in s.post(TEXT, ask, status=503)["error"]["message"]
        assert "sleeps" in s.post("/resume", "", status=400)["error"]["message"]
        assert "sleeps" in s.post("/pause", "", status=400)["error"]["message"]
        assert metrics(s, smollm2.stem)['vllm:engine_sleep_state{sleep_state="discard_all"}'] == 1
        assert s.post("/wake_up", "") == {"status": "awake"}
        assert s.post(TEXT, ask)["choices"][0]["text"] == text
