# SPDX-License-Identifier: Apache-2.0
"""What a client cannot make the server do, and what the server owes it until the end."""
import json
import pathlib
import signal
import threading
import time

import pytest

from serving import Server, long_words, user

TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]


@pytest.fixture(scope="module")
def model(tree, tmp_path_factory):
    return long_words(tree, tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module")
def server(nibble_path, model):
    with Server(nibble_path, model, "--max-num-seqs", 1, "--sse-keep-alive-interval", 1) as s:
        yield s


@pytest.mark.parametrize("more, named", [
    ({"min_tokens": 3, "structured_outputs": {"regex": "a"}}, "min_tokens"),
    ({"ignore_eos": True, "structured_outputs": {"regex": "a"}}, "ignore_eos"),
    ({"chat_template_kwargs": {"messages": []}}, "messages"),
    ({"chat_template_kwargs": {"bos_token": "x"}}, "bos_token"),
    ({"n": 1000}, "'n'"),
    ({"max_completion_tokens": 9}, "max_completion_tokens"),
    ({"continue_final_message": True}, "last message must be the assistant's"),
    ({"continue_final_message": True, "add_generation_prompt": True}, "add_generation_prompt"),
])
def test_refused(server, more, named):
    error = server.post("/v1/chat/completions", {"messages": user("hi"), "max_tokens": 8, **more}, 400)["error"]
    assert named in error["message"]


@pytest.mark.parametrize("headers, status", [
    ({"Host": "evil.example"}, 403),
    ({"Host": "127.0.0.1.evil.example"}, 403),
    ({"Origin": "http://evil.example"}, 403),
    ({"Origin": "null"}, 403),
    ({"Host": "localhost:8000", "Origin": "http://localhost:8000"}, 200),
    ({"Host": "[::1]:8000"}, 200),
    ({}, 200),
])
def test_pages_of_other_sites(server, headers, status):
    assert server.ask("GET", "/v1/models", None, headers)[0] == status


def test_a_key_is_enough(nibble_path, model):
    with Server(nibble_path, model, "--api-key", "k") as s:
        own = {"Authorization": "Bearer k", "Origin": "http://other.example", "Host": "other.example"}
        assert s.ask("GET", "/v1/models", None, own)[0] == 200


def test_more_answers_than_the_queue_holds(nibble_path, model):
    with Server(nibble_path, model, "--max-waiting", 2) as s:
        error = s.post("/v1/completions", {"prompt": ["a", "b", "c"], "max_tokens": 2}, 400)["error"]
        assert "more than 2 answers" in error["message"]


def test_comments_keep_their_interval(server):
    """Beside a long answer, in a server of one place: two choices that wait are silent but for the interval."""
    busy, response = server.open_stream("/v1/completions", {"prompt": "a", "max_tokens": 4000, "ignore_eos": True})
    response.readline()
    connection, waiting = server.open_stream("/v1/completions", {"prompt": "b", "n": 2, "max_tokens": 2})
    connection.sock.settimeout(0.2)
    said, until = b"", time.monotonic() + 2.5
    while time.monotonic() < until:
        try:
            said += waiting.read1(4096)
        except TimeoutError:
            waiting = None
            break
    busy.close()
    connection.close()
    assert said.count(b":\n") <= 3, said


def test_sigterm_waits_for_the_last_byte(nibble_path, model):
    """Whole answers, large and read slowly: each arrives complete though the server was told to go."""
    s = Server(nibble_path, model)
    try:
        body = json.dumps({"prompt": "a", "n": 4, "max_tokens": 200, "ignore_eos": True, "logprobs": 5})
        got = [None] * 4

        def ask(i):
            connection = s.connect()
            connection.request("POST", "/v1/completions", body)
            response = connection.getresponse()
            time.sleep(0.5)
            got[i] = (response.status, len(json.loads(response.read())["choices"]))

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(got))]
        for thread in threads:
            thread.start()
        while s.get("/load").get("server_load", 0) < len(got):
            time.sleep(0.01)
        code, _ = s.stop(signal.SIGTERM)
        for thread in threads:
            thread.join(30)
        assert code == 0 and got == [(200, 4)] * len(got)
    finally:
        s.stop(signal.SIGKILL)


def test_what_is_drawn_unless_said(server):
    """Nothing said of it: as `nibble run`; anything said: the rest is off."""
    def text(**more):
        body = {"prompt": "the cat", "max_tokens": 24, "seed": 3, "ignore_eos": True, **more}
        return server.post("/v1/completions", body)["choices"][0]["text"]

    assert text() == text(temperature=0.8, top_k=40, top_p=0.95, min_p=0.05)
    assert text() != text(temperature=1)
    assert text(temperature=1) == text(temperature=1, top_k=0, top_p=1, min_p=0)


def test_the_file_is_a_name(server, model):
    body = {"prompt": "a", "max_tokens": 1}
    assert server.post("/v1/completions", {**body, "model": model.name})
    server.post("/v1/completions", {**body, "model": model.name + "x"}, 404)


def test_scoring_a_prompt_has_a_time_limit_too(nibble_path, model):
    with Server(nibble_path, model, "--request-timeout", 1, "--max-num-seqs", 1) as s:
        status, _, answer = s.ask("POST", "/v1/completions", {
            "prompt": [[5] * 4000] * 100, "echo": True, "logprobs": 0, "max_tokens": 0})
        assert status == 504 and "1 seconds" in answer["error"]["message"]


def test_a_large_body_is_not_kept(nibble_path, model):
    """Requests of 8 MiB that wait for their turn: what nothing will be told of is freed."""
    def megabytes():
        pages = pathlib.Path(f"/proc/{s.process.pid}/statm").read_text().split()[1]
        return int(pages) * 4096 >> 20
    with Server(nibble_path, model, "--max-num-seqs", 1) as s:
        before, held = megabytes(), []
        for body in [{"prompt": "a", "n": 100, "max_tokens": 4000, "ignore_eos": True}, *[{"prompt": "a", "user": "x" * (1 << 23)}] * 6]:
            held.append(s.open_stream("/v1/completions", body))
        grown = megabytes() - before
        for connection, response in held:
            connection.sock and connection.sock.close()
            response.close()
    assert grown < 16
