#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Clients that behave badly among clients that do not: what the latter get must not change, and nothing may leak.

One request in five is a fault: a slow reader, half a connection closed, a client that leaves, a malformed request, an
oversized one, one that comes a byte at a time and never ends. All others, and the slow readers, must get the text
that the same request got when it was alone. Afterwards no request, page, descriptor or thread may be left. Then one
server is killed under load and started again on its port, and a small queue is overrun.

  bench/serve/faults.py                              # 10,000 requests; the model of `make demo`
  bench/serve/faults.py --model tests/golden/models/llama-words --requests 200 --no-kill
  NIBBLE=build/asan/nibble bench/serve/faults.py --model tests/golden/models/llama-words   # or build/tsan/nibble

Prints a table; exits 1 when anything is wrong.
"""
import argparse
import asyncio
import collections
import random
import signal
import socket
import sys
import time

from asking import TREE, Process, ask, close, connect, get_json, read_answer, read_head, request_bytes
from asking import Answer

FAULTS = ["slow reader", "half-closed", "left", "malformed", "oversized", "slowloris"]
BODY_LIMIT = 65536
RECEIVE_SECONDS = 2
FLAGS = ["--max-body-bytes", BODY_LIMIT, "--receive-timeout", RECEIVE_SECONDS, "--max-num-seqs", 16, "--max-waiting", 4096]
MALFORMED = [  # (bytes, the statuses that are right; 0: the connection is closed)
    (b"\x00\xff\x13garbage\r\n\r\n", {0, 400}),
    (b"GET\r\n\r\n", {0, 400}),
    (b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: x\r\n\r\n", {0, 400}),
    (request_bytes("POST", "/v1/completions", b"{"), {400}),
    (request_bytes("POST", "/v1/completions", b"[1]"), {400}),
    (request_bytes("POST", "/v1/completions", b'{"prompt": "\xff\xfe"}'), {400}),
    (request_bytes("POST", "/v1/completions", b'{"prompt": ' + b"[" * 5000), {400}),
    (request_bytes("POST", "/v1/completions", {"prompt": "a", "temperature": "hot"}), {400}),
    (request_bytes("POST", "/v1/completions", {"prompt": "a", "no_such_field": 1}), {400}),
    (request_bytes("POST", "/v1/completions", {"prompt": "a", "max_tokens": -1}), {400}),
    (request_bytes("POST", "/v1/chat/completions", {"messages": [{"role": 1}]}), {400}),
    (request_bytes("PUT", "/v1/completions", {"prompt": "a"}), {405}),
    (request_bytes("POST", "/nowhere", {}), {404}),
    (b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + b"X: y\r\n" * 20000 + b"\r\n", {0, 400, 413, 431}),
]


def make_requests(rng, n, max_tokens):
    """N different requests: (path, body)."""
    made = []
    for i in range(n):
        body = {"max_tokens": rng.randint(1, max_tokens), "ignore_eos": True, "stream": i % 2 == 0}
        if i % 3:
            body |= {"temperature": 0.8, "top_p": 0.95, "seed": i}
        else:
            body["temperature"] = 0
        words = " ".join(rng.choice(["a", "the", "cat", "sat", "on", "mat", "and", "ran"]) for _ in range(rng.randint(1, 40)))
        turns = [{"role": "user", "content": words}]
        made.append([("/v1/completions", body | {"prompt": words}), ("/v1/chat/completions", body | {"messages": turns}),
                     ("/v1/responses", body | {"input": words}), ("/v1/messages", body | {"messages": turns}),
                     ("/v1/embeddings", {"input": [words, "a cat"]})][i % 5])
    return made


class Run:
    def __init__(self, server, requests, rng):
        self.server, self.requests, self.rng = server, requests, rng
        self.expected = {}
        self.counts = collections.Counter()
        self.wrong = []

    def blame(self, what):
        if len(self.wrong) < 20:
            print(f"WRONG  {what}", file=sys.stderr)
        self.wrong.append(what)

    async def alone(self):
        for i, (path, body) in enumerate(self.requests):
            answer = await ask(self.server, "POST", path, body)
            if answer.status != 200 or not answer.finish:
                raise SystemExit(f"{body}: {answer.status} {answer.body}")
            self.expected[i] = (answer.text, answer.finish)

    async def sound(self, i, name="sound", **how):
        path, body = self.requests[i]
        try:
            answer = await ask(self.server, "POST", path, body, **how)
        except OSError as problem:
            self.blame(f"{name}: {body}: {problem}")
            return
        self.counts[name, answer.status] += 1
        if answer.status != 200 or (answer.text, answer.finish) != self.expected[i]:
            self.blame(f"{name}: {body}: {answer.status} {answer.text!r}, alone {self.expected[i]}")

    # ---- faults ----

    async def slow_reader(self):
        path, body = self.requests[i := self.rng.randrange(len(self.requests))]
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (self.server.host, self.server.port))
        reader, writer = await asyncio.open_connection(sock=sock, limit=1024)
        try:
            writer.write(request_bytes("POST", path, body))
            answer = await read_answer(reader, Answer(0, {}), pause=0.02)
            self.counts["slow reader", answer.status] += 1
            if (answer.text, answer.finish) != self.expected[i]:
                self.blame(f"slow reader: {body}: {answer.text!r}, alone {self.expected[i]}")
        except OSError as problem:
            self.blame(f"slow reader: {body}: {problem}")
        finally:
            await close(writer)

    async def half_closed(self):
        """The server may cancel it, or have been quicker."""
        path, body = self.rng.choice(self.requests)
        reader, writer = await connect(self.server)
        writer.write(request_bytes("POST", path, body))
        await writer.drain()
        writer.write_eof()
        try:
            await asyncio.wait_for(reader.read(), 60)
            self.counts["half-closed", "ended"] += 1
        except ConnectionError:
            self.counts["half-closed", "reset"] += 1
        except TimeoutError:
            self.blame("half-closed: nothing ended it in 60 seconds")
        await close(writer)

    async def left(self):
        path, body = self.rng.choice(self.requests)
        reader, writer = await connect(self.server)
        raw = request_bytes("POST", path, body)
        writer.write(raw[: self.rng.randrange(1, len(raw))] if self.rng.random() < 0.3 else raw)
        await writer.drain()
        if self.rng.random() < 0.5:
            await asyncio.sleep(self.rng.random() * 0.05)
        writer.transport.abort()
        self.counts["left", "gone"] += 1

    async def malformed(self):
        raw, right = self.rng.choice(MALFORMED)
        reader, writer = await connect(self.server)
        status = 0
        try:
            writer.write(raw)
            await writer.drain()
            writer.write_eof()
            status, _ = await asyncio.wait_for(read_head(reader), 60)
        except OSError:
            pass
        except TimeoutError:
            self.blame(f"malformed: {raw[:60]}: no answer in 60 seconds")
        self.counts["malformed", status] += 1
        if status not in right and not (status == 0 and raw.endswith(b"\r\n\r\n")):
            self.blame(f"malformed: {raw[:60]}: {status}, expected {right}")
        await close(writer)

    async def oversized(self):
        """Announced or not, as large as it says or not."""
        size = BODY_LIMIT + self.rng.randrange(1, 3 * BODY_LIMIT)
        chunked = self.rng.random() < 0.5
        head = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {size}"
        reader, writer = await connect(self.server)
        status = 0
        try:
            writer.write(f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{head}\r\n\r\n".encode())
            for _ in range(0, size, 16384):
                piece = b"x" * 16384
                writer.write(b"4000\r\n" + piece + b"\r\n" if chunked else piece)
                await writer.drain()
            if chunked:
                writer.write(b"0\r\n\r\n")
            status, _ = await asyncio.wait_for(read_head(reader), 60)
        except OSError:  # the server closes while more comes
            pass
        except TimeoutError:
            self.blame("oversized: no answer in 60 seconds")
        self.counts["oversized", status] += 1
        if status not in (0, 413):
            self.blame(f"oversized: {status}, expected 413")
        await close(writer)

    async def slowloris(self):
        """A byte now and then; the server must end it by itself."""
        raw = request_bytes("POST", *self.rng.choice(self.requests))
        reader, writer = await connect(self.server)
        began = time.monotonic()
        ended = asyncio.ensure_future(reader.read())
        try:
            for i in range(len(raw) - 1):
                if ended.done() or time.monotonic() - began > 60:
                    break
                writer.write(raw[i : i + 1])
                await asyncio.wait([ended], timeout=0.2)
        except OSError:
            pass
        if time.monotonic() - began > 60:
            self.blame("slowloris: not ended in 60 seconds")
        ended.cancel()
        await asyncio.wait([ended])
        self.counts["slowloris", "shut"] += 1
        await close(writer)

    async def one(self, k):
        if k % 5:
            await self.sound(self.rng.randrange(len(self.requests)))
        else:
            await getattr(self, FAULTS[k // 5 % len(FAULTS)].replace(" ", "_").replace("-", "_"))()

    async def all(self, n, clients):
        numbers = iter(range(n))

        async def client():
            for k in numbers:
                await self.one(k)
        await asyncio.gather(*(client() for _ in range(clients)))

    async def settle(self, descriptors, threads):
        """Nothing may be left."""
        left = {}
        for _ in range(100):
            load = await get_json(self.server, "/load")
            left = {"requests": load["server_load"], "running": load["running"], "waiting": load["waiting"],
                    "pages": load["kv_pages"] - load["kv_pages_free"],
                    "descriptors": self.server.descriptors() - descriptors, "threads": self.server.threads() - threads}
            if not any(max(0, n) for n in left.values()):
                return
            await asyncio.sleep(0.1)
        self.blame(f"left behind: {left}")


async def kill_and_restart(run, clients):
    """Clients of a server that is killed see an error or their whole answer, and the next one answers as before."""
    counts = collections.Counter()

    async def client(i):
        path, body = run.requests[i % len(run.requests)]
        try:
            answer = await ask(run.server, "POST", path, body)
            counts["answered"] += 1
            if (answer.text, answer.finish) != run.expected[i % len(run.requests)]:
                run.blame(f"killed: {body}: {answer.text!r} is no error and not the answer")
        except OSError:
            counts["broken off"] += 1
    tasks = [asyncio.ensure_future(client(i)) for i in range(clients)]
    while not counts:  # the first has its answer, the others are on their way
        await asyncio.sleep(0)
    run.server.end(signal.SIGKILL)
    await asyncio.gather(*tasks)
    run.server.command[run.server.command.index("--port") + 1] = str(run.server.port)
    run.server.start()
    for i in range(min(8, len(run.requests))):
        await run.sound(i, "after kill -9")
    return counts


async def overrun(model, requests, expected, blame):
    """A queue of 4 behind 2 places: each of 64 is answered rightly, or told to come again."""
    counts = collections.Counter()
    with Process(model, "--max-num-seqs", 2, "--max-waiting", 4) as server:
        async def client(i):
            path, body = requests[i % len(requests)]
            try:
                answer = await ask(server, "POST", path, body)
            except OSError as problem:
                blame(f"full queue: {problem}")
                return
            counts[answer.status] += 1
            if answer.status == 429 and int(answer.headers.get("retry-after", 0)) >= 1:
                return
            if answer.status != 200 or (answer.text, answer.finish) != expected[i % len(requests)]:
                blame(f"full queue: {answer.status} {answer.text!r}")
        for _ in range(20):
            await asyncio.gather(*(client(i) for i in range(64)))
            if counts[429]:
                break
    if not counts[429] or not counts[200]:
        blame(f"full queue: {dict(counts)}; expected both 200 and 429")
    return counts


async def work(options):
    rng = random.Random(options.seed)
    requests = make_requests(rng, options.different, options.max_tokens)
    began = time.monotonic()
    with Process(options.model, *FLAGS) as server:
        run = Run(server, requests, rng)
        await run.alone()
        await run.all(options.clients, options.clients)  # what is allocated once
        await run.settle(server.descriptors(), server.threads())
        run.counts.clear()
        descriptors, threads, memory = server.descriptors(), server.threads(), server.resident_bytes()
        await run.all(options.requests, options.clients)
        await run.settle(descriptors, threads)
        grown = server.resident_bytes() - memory
    killed = {}
    if not options.no_kill:  # another server: the first has ended by itself, and looked for leaks where it can
        with Process(options.model, *FLAGS) as run.server:
            for _ in range(5):
                killed = await kill_and_restart(run, options.clients)
                if killed["broken off"]:
                    break
            else:
                run.blame("killed: always after the last answer")
    full = await overrun(options.model, requests, run.expected, run.blame)
    print("| request | came to | times |\n| --- | --- | ---: |")
    for (name, how), n in sorted(run.counts.items(), key=str):
        print(f"| {name} | {how} | {n} |")
    for how, n in killed.items():
        print(f"| under kill -9 | {how} | {n} |")
    for status, n in sorted(full.items()):
        print(f"| to a full queue | {status} | {n} |")
    print(f"\n{len(run.wrong)} wrong; {options.clients} clients, {len(requests)} different requests, "
          f"{grown / 1e6:+.1f} MB resident, {time.monotonic() - began:.1f} s")
    return 1 if run.wrong else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=TREE / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--requests", type=int, default=10000)
    parser.add_argument("--different", type=int, default=60, help="of them")
    parser.add_argument("--max-tokens", type=int, default=24, help="of an answer")
    parser.add_argument("--clients", type=int, default=64, help="at a time")
    parser.add_argument("--no-kill", action="store_true", help="without kill -9 and restart")
    parser.add_argument("--seed", type=int, default=1)
    sys.exit(asyncio.run(work(parser.parse_args())))


if __name__ == "__main__":
    main()
