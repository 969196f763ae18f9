# SPDX-License-Identifier: Apache-2.0
"""nibble serve when clients leave, when too many come, and when it is told to end. With a model that takes a while."""
import concurrent.futures
import json
import signal
import socket
import threading
import time

import pytest

from serving import Server, until

TEXT = "/v1/completions"
LONG = {"prompt": "Once upon a time", "temperature": 0, "max_tokens": 3000, "ignore_eos": True}


@pytest.fixture(scope="module")
def server(nibble_path, smollm2):
    with Server(nibble_path, smollm2, "--max-num-seqs", 1, "--max-waiting", 2, "--max-num-batched-tokens", 64) as s:
        yield s


def load(server):
    return tuple(server.get("/load")[key] for key in ("running", "waiting"))


def close(connection, response=None):
    connection.sock and connection.sock.close()
    if response:
        response.close()


def send(server, body):
    """A request that is not waited for."""
    connection = server.connect()
    connection.request("POST", TEXT, json.dumps(body))
    return connection


def test_leaving_while_it_is_written(server):
    connection, response = server.open_stream(TEXT, LONG)
    assert response.read1(10)
    assert load(server) == (1, 0)
    close(connection, response)
    until(lambda: load(server) == (0, 0), 5)


def test_leaving_without_a_stream_and_in_the_queue(server):
    first = send(server, LONG)
    until(lambda: load(server) == (1, 0))
    second = send(server, {**LONG, "stream": True})  # nothing to write yet
    until(lambda: load(server) == (1, 1))
    close(second)
    until(lambda: load(server) == (1, 0), 5)
    close(first)
    until(lambda: load(server) == (0, 0), 5)


def test_leaving_in_prefill(server):
    prompt = "Once upon a time there was a king. " * 400
    request = send(server, {**LONG, "prompt": prompt, "max_tokens": 1, "cache_prompt": False})
    until(lambda: load(server) == (1, 0))
    close(request)
    until(lambda: load(server) == (0, 0), 5)
    assert server.post(TEXT, {"prompt": "a", "max_tokens": 1})["usage"]["completion_tokens"] == 1


def test_leaving_with_many_choices(server):
    connection, response = server.open_stream(TEXT, {**LONG, "n": 2, "prompt": ["a"]})
    until(lambda: sum(load(server)) == 2)
    close(connection, response)
    until(lambda: load(server) == (0, 0), 5)


def test_a_full_queue(server):
    held = [send(server, LONG)]
    until(lambda: load(server) == (1, 0))
    held += [send(server, LONG) for _ in range(2)]
    until(lambda: load(server) == (1, 2))
    status, headers, answer = server.ask("POST", TEXT, LONG)
    assert status == 429 and answer["error"]["type"] == "rate_limit_error" and int(headers["Retry-After"]) >= 1
    for connection in held:
        close(connection)
    until(lambda: load(server) == (0, 0), 5)


def test_priority(server):
    """With one place, the lower number goes first whoever came first."""
    held = send(server, LONG)
    until(lambda: load(server) == (1, 0))
    order = []

    def ask(name, priority):
        server.post(TEXT, {"prompt": name, "max_tokens": 1, "priority": priority})
        order.append(name)
    threads = []
    for i, (name, priority) in enumerate([("late", 9), ("soon", 1)]):
        threads.append(threading.Thread(target=ask, args=(name, priority)))
        threads[-1].start()
        until(lambda: load(server) == (1, i + 1))
    close(held)
    for thread in threads:
        thread.join()
    assert order == ["soon", "late"]


def test_free_places_are_no_queue(nibble_path, tree):
    """As many as may run and as many as may wait are taken, also when all come at once to a server that is idle."""
    with Server(nibble_path, tree / "tests/golden/models/llama-words", "--max-num-seqs", 4, "--max-waiting", 2) as s, \
            concurrent.futures.ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: s.ask("POST", TEXT, {"prompt": "a", "max_tokens": 300, "ignore_eos": True})[0], range(6)))
    assert answers == [200] * 6


def test_half_a_request_is_shut(nibble_path, tree):
    with Server(nibble_path, tree / "tests/golden/models/llama-words", "--receive-timeout", 1) as s:
        for begin in b"POST /v1/comp", b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{":
            with socket.create_connection((s.host, int(s.port))) as slow:
                slow.sendall(begin)
                slow.settimeout(5)
                started = time.monotonic()
                slow.sendall(begin[:0] + b" ")
                assert slow.recv(1) == b"" and time.monotonic() - started < 4


def test_silence_is_broken_and_time_limited(nibble_path, smollm2):
    with Server(nibble_path, smollm2, "--max-num-seqs", 1, "--sse-keep-alive-interval", 1, "--request-timeout", 3) as s:
        connection, response = s.open_stream(TEXT, LONG)
        until(lambda: load(s) == (1, 0))
        waiting, answer = s.open_stream(TEXT, {"prompt": "a", "max_tokens": 1})
        lines = answer.read().decode().split("\n\n")
        assert ":" in lines and lines[-2] == "data: [DONE]"
        status, headers, late = s.ask("POST", TEXT, LONG)
        assert status == 504 and headers["x-should-retry"] == "false" and "3 seconds" in late["error"]["message"]
        tail = response.read().decode().split("\n\n")
        assert "timeout_error" in tail[-3] and tail[-2] == "data: [DONE]"


def test_what_runs_is_answered_before_the_end(nibble_path, smollm2):
    s = Server(nibble_path, smollm2)
    connection, response = s.open_stream(TEXT, {**LONG, "max_tokens": 30})
    assert response.read1(1)
    s.process.send_signal(signal.SIGTERM)
    text = response.read().decode()
    assert text.endswith("data: [DONE]\n\n") and '"finish_reason":"length"' in text
    _, said = s.process.communicate(timeout=60)
    assert s.process.returncode == 0 and "cut off" not in said


def test_what_takes_too_long_is_cut_off(nibble_path, smollm2):
    s = Server(nibble_path, smollm2, "--drain-timeout", 0)
    connection, response = s.open_stream(TEXT, LONG)
    assert response.read1(1)
    s.process.send_signal(signal.SIGTERM)
    tail = response.read().decode().split("\n\n")  # in words, not by a connection that is gone
    assert "going down" in json.loads(tail[-3][6:])["error"]["message"] and tail[-2] == "data: [DONE]"
    _, said = s.process.communicate(timeout=60)
    assert s.process.returncode == 0 and "cut off" in said


def test_the_paused_do_not_drain(nibble_path, smollm2):
    """What waits would not be answered, however long one waits for it."""
    s = Server(nibble_path, smollm2)
    s.post("/pause", "")
    connection, response = s.open_stream(TEXT, LONG)
    until(lambda: load(s) == (0, 1))
    started = time.monotonic()
    s.process.send_signal(signal.SIGTERM)
    assert "going down" in response.read().decode()
    _, said = s.process.communicate(timeout=60)
    assert time.monotonic() - started < 10 and s.process.returncode == 0 and "cut off" in said  # --drain-timeout is 30
