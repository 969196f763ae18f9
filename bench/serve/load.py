#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Load on `nibble serve` over loopback: each part prints rows of a table and what is wanted of them.

  throughput   256 connections, 64 of which run: no errors; tokens per second against what the engine alone does with
               the same requests (bench/engine/bench_batch.c), in turns
  gap          16 answers being written while a long prompt is read: p99 of the time from piece to piece, alone and
               beside it
  cancelled    10,000 clients that leave, after 1,000 to warm up: resident memory in between
  llama        the same requests to llama.cpp's server, in turns, at 1 and 16 streams (it is built on the first run:
               half an hour on 2 cores)

  bench/serve/load.py throughput gap cancelled
  bench/serve/load.py llama --rounds 5

The model is SmolLM2 as NVFP4, made where it is not there. Exits 1 when a row misses what is wanted. Times need a quiet
machine.
"""
import argparse
import asyncio
import contextlib
import datetime
import importlib.machinery
import importlib.util
import json
import pathlib
import re
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request

from asking import NIBBLE, TREE, Process, ask, close, connect, percentile, read_head, request_bytes
from asking import Answer, read_pieces, take_frame

WORDS = "the quick brown fox jumps over a lazy dog while rain falls on the old stone bridge near our village".split()


def prompt(i, n_words=12):
    return " ".join(WORDS[(i * 7 + k * (1 + i % 5)) % len(WORDS)] for k in range(n_words))


def body_of(i, max_tokens, **more):
    return {"prompt": prompt(i), "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True, "stream": True,
            "stream_options": {"include_usage": True}, **more}


class Table:
    def __init__(self):
        self.missed = 0
        print("| part | what | measured | wanted |\n| --- | --- | ---: | ---: |", flush=True)

    def row(self, part, what, value, wanted="", holds=True):
        self.missed += not holds
        print(f"| {part} | {what} | {value} | {wanted}{'' if holds else ' MISSED'} |", flush=True)


class Taker(asyncio.Protocol):
    """Takes an answer's bytes as they come and looks at them when it is whole: on a machine of few cores a client that
    parses every token takes the server's time."""

    def __init__(self, body):
        self.request = request_bytes("POST", "/v1/completions", body)
        self.pieces, self.first, self.began = [], 0, time.monotonic()
        self.over = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        transport.write(self.request)

    def data_received(self, data):
        self.pieces.append(data)
        if not self.first and b"data: " in data:
            self.first = time.monotonic()

    def connection_lost(self, problem):
        self.over.set_result(problem)

    def tokens(self):
        """What the usage says; 0 where the answer is none, or not whole."""
        told = b"".join(self.pieces)
        usage = re.findall(rb'"completion_tokens": ?([0-9]+)', told)
        return int(usage[-1]) if told.startswith(b"HTTP/1.1 200 ") and b"data: [DONE]" in told and usage else 0


async def stream_all(server, n, connections, max_tokens):
    """N answers over CONNECTIONS at a time -> (seconds to the first piece of each that has one, errors, tokens per second)."""
    firsts, errors = [], []
    numbers = iter(range(n))

    async def client():
        for i in numbers:
            try:
                _, taker = await asyncio.get_running_loop().create_connection(
                    lambda i=i: Taker(body_of(i, max_tokens)), server.host, server.port)
                problem = await taker.over
                if taker.first:
                    firsts.append(taker.first - taker.began)
                if problem or taker.tokens() != max_tokens:
                    errors.append(f"{problem}, {taker.tokens()} tokens: {b''.join(taker.pieces)[:200]}")
            except OSError as problem:
                errors.append(str(problem))
    began = time.monotonic()
    await asyncio.gather(*(client() for _ in range(connections)))
    return firsts, errors, (n - len(errors)) * max_tokens / (time.monotonic() - began)


def engine_tokens_per_second(o):
    """What the engine alone does with the same requests: bench/engine/bench_batch.c."""
    build = TREE / "build" / "release"
    subprocess.run(["ninja", "-C", str(build), "bench_batch"], check=True, capture_output=True)
    prompts = "".join(prompt(i) + "\n" for i in range(o.requests))
    said = subprocess.run([str(build / "bench_batch"), str(o.model), str(o.running), str(o.max_tokens)], input=prompts,
                          check=True, capture_output=True, text=True).stdout
    return float(said.split()[-2])


async def throughput(o, table):
    served, alone, firsts, errors = [], [], [], []
    for turn in range(o.rounds):
        for which in ("server", "engine") if turn % 2 else ("engine", "server"):
            if which == "engine":
                alone += [] if o.no_engine else [engine_tokens_per_second(o)]
                continue
            with Process(o.model, "--max-num-seqs", o.running, *o.flags) as server:
                await stream_all(server, o.running, o.running, 4)  # warm
                times, problems, speed = await stream_all(server, o.requests, o.connections, o.max_tokens)
            firsts += times
            errors += problems
            served.append(speed)

    def told(speeds):
        return f"{statistics.median(speeds):.0f} ({min(speeds):.0f}, {max(speeds):.0f})"
    table.row("throughput", f"errors of {o.rounds} x {o.requests} requests, {o.connections} connections", len(errors), 0,
              not errors)
    for words in sorted(set(errors))[:5]:
        print(f"  {words}", file=sys.stderr)
    table.row("throughput", "first piece of an answer, median and p99 s",
              f"{statistics.median(firsts):.2f}, {percentile(firsts, 99):.2f}" if firsts else "no answer")
    table.row("throughput", f"tokens/s, {o.running} running, median of rounds (least, most)", told(served))
    if o.no_engine:
        return
    table.row("throughput", f"tokens/s of the engine alone, the same requests, {o.running} at a time", told(alone))
    ratios = [a / b for a, b in zip(served, alone)]
    ratio = statistics.median(ratios)
    table.row("throughput", "ratio, median of rounds (least, most)",
              f"{ratio:.3f} ({min(ratios):.3f}, {max(ratios):.3f})", ">= 0.9", ratio >= 0.9)


async def decode(server, i, max_tokens, times):
    """A long answer; the time of each piece goes into TIMES."""
    answer = Answer(0, {})
    reader, writer = await connect(server)
    pending = b""
    try:
        writer.write(request_bytes("POST", "/v1/completions", body_of(i, max_tokens)))
        answer.status, answer.headers = await read_head(reader)
        async for piece in read_pieces(reader, answer.headers):
            *frames, pending = (pending + piece).split(b"\n\n")
            for frame in frames:
                take_frame(answer, frame)
            times.extend(answer.times)
            answer.times.clear()
    finally:
        await close(writer)


def gaps(all_times, begin, end):
    return [1000 * (b - a) for times in all_times for a, b in zip(times, times[1:]) if a >= begin and b <= end]


async def gap(o, table):
    with Process(o.model, "--max-num-seqs", o.decoders + 1, *o.flags) as server:
        all_times = [[] for _ in range(o.decoders)]
        tasks = [asyncio.ensure_future(decode(server, i, o.long_answer, times)) for i, times in enumerate(all_times)]
        while not all(all_times):
            await asyncio.sleep(0.05)
        begin = time.monotonic()
        await asyncio.sleep(o.alone_seconds)
        middle = time.monotonic()
        late = await ask(server, "POST", "/v1/completions",
                         body_of(1, 1, prompt=prompt(3, o.long_prompt), cache_prompt=False))
        end = time.monotonic()
        over = [t for t in tasks if t.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    alone, beside = gaps(all_times, begin, middle), gaps(all_times, middle, end)
    if over or not alone or not beside or late.status != 200:
        sys.exit(f"gap: {len(over)} answers ended too early, or the long prompt was refused ({late.status} "
                 f"{late.body[:200]}): change --long-answer, --long-prompt, --alone-seconds")
    table.row("gap", f"{o.decoders} answers alone, median and p99 ms",
              f"{statistics.median(alone):.1f}, {percentile(alone, 99):.1f}")
    table.row("gap", f"beside a prompt of {o.long_prompt} words, {end - middle:.1f} s, median and p99 ms",
              f"{statistics.median(beside):.1f}, {percentile(beside, 99):.1f}")
    ratio = percentile(beside, 99) / percentile(alone, 99)
    table.row("gap", "p99 beside / p99 alone", f"{ratio:.2f}", "<= 2", ratio <= 2)


async def cancelled(o, table):
    with Process(o.model, *o.flags, "--max-waiting", 4096) as server:
        seen = []

        async def leave(i):
            reader, writer = await connect(server)
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                writer.write(request_bytes("POST", "/v1/completions", body_of(i, 200)))
                await writer.drain()
                if i % 2:
                    await reader.readexactly(1 + i % 500)
            writer.transport.abort()
            if i % max(1, o.cancels // 10) == 0:
                seen.append(server.resident_bytes())

        async def all_leave(n):
            numbers = iter(range(n))

            async def client():
                for i in numbers:
                    await leave(i)
            await asyncio.gather(*(client() for _ in range(64)))
        await all_leave(max(500, o.cancels // 10))  # threads, pages and heaps come into being
        seen.clear()
        began = time.monotonic()
        await all_leave(o.cancels)
        half = len(seen) // 2
        grown = (statistics.median(seen[half:]) - statistics.median(seen[:half])) / 1e6
        table.row("cancelled", f"resident MB at each tenth of {o.cancels}, {time.monotonic() - began:.0f} s",
                  " ".join(f"{b / 1e6:.0f}" for b in seen))
        table.row("cancelled", "median of the second half less that of the first, MB", f"{grown:+.1f}", "<= 2",
                  grown <= 2)


# ---- llama.cpp's server ----

def comparison():
    """bench/cpu_vs_llamacpp, which fetches and builds llama.cpp and makes the model files."""
    loader = importlib.machinery.SourceFileLoader("cpu_vs_llamacpp", str(TREE / "bench" / "cpu_vs_llamacpp"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


class LlamaServer:
    """llama-server with SLOTS sequences of CONTEXT tokens each."""

    def __init__(self, program, model, slots, context, threads):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.host, self.port = free.getsockname()
        self.process = subprocess.Popen(
            [str(program), "-m", str(model), "--host", self.host, "--port", str(self.port), "-np", str(slots), "-c",
             str(slots * context), *threads], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __enter__(self):
        for _ in range(600):
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                urllib.request.urlopen(f"http://{self.host}:{self.port}/health", timeout=5).close()
                return self
            if self.process.poll() is not None:
                sys.exit(f"llama-server ended with {self.process.returncode}")
            time.sleep(0.1)
        sys.exit("llama-server does not begin to answer")

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(30)


async def measure(server, streams, o):
    await stream_all(server, streams, streams, 4)
    _, errors, speed = await stream_all(server, o.each * streams, streams, o.max_tokens)
    if errors:
        sys.exit(errors[0])
    return speed


async def llama(o, table):
    module = comparison()
    tools = o.llama_build or module.build_llama("llama.cpp-server", ("llama-server", "llama-quantize"), "ON")
    program = tools / "bin" / "llama-server"
    files = module.make_files("smollm2", tools, ["nvfp4-head"], o.llama_formats)
    ours = files["nibble", "nvfp4-head"]
    for form in o.llama_formats:
        for streams in o.streams:
            speeds = {"nibble": [], "llama.cpp": []}
            for turn in range(o.rounds):
                for which in ("nibble", "llama.cpp") if turn % 2 else ("llama.cpp", "nibble"):
                    with (Process(ours, "--max-num-seqs", streams, *o.flags) if which == "nibble" else
                          LlamaServer(program, files["llama", form], streams, 1024, o.threads)) as server:
                        speeds[which].append(await measure(server, streams, o))
            for which, values in speeds.items():
                name = "nibble, NVFP4" if which == "nibble" else f"llama.cpp, {form}"
                table.row("llama", f"{name}: tokens/s, {streams} streams, median of {o.rounds} (least, most)",
                          f"{statistics.median(values):.1f} ({min(values):.1f}, {max(values):.1f})")
            ratio = statistics.median(a / b for a, b in zip(speeds["nibble"], speeds["llama.cpp"]))
            wanted = 3 if streams >= 16 else 2.5
            is_same = form == "NVFP4"
            table.row("llama", f"nibble / llama.cpp {form}, {streams} streams, median of rounds", f"{ratio:.2f}",
                      f">= {wanted}" if is_same else "", ratio >= wanted or not is_same)


PARTS = {"throughput": throughput, "gap": gap, "cancelled": cancelled, "llama": llama}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=PARTS)
    parser.add_argument("--model", type=pathlib.Path, help="of all parts but llama (default: SmolLM2 as NVFP4)")
    parser.add_argument("--threads", help="of both servers (default: their own)")
    parser.add_argument("--max-tokens", type=int, default=128, help="of an answer")
    parser.add_argument("--connections", type=int, default=256)
    parser.add_argument("--running", type=int, default=64)
    parser.add_argument("--requests", type=int, default=192, help="of a round of throughput")
    parser.add_argument("--no-engine", action="store_true", help="throughput without the engine's own figure")
    parser.add_argument("--decoders", type=int, default=16)
    parser.add_argument("--long-prompt", type=int, default=2800, help="words")
    parser.add_argument("--long-answer", type=int, default=1000, help="tokens")
    parser.add_argument("--alone-seconds", type=float, default=5)
    parser.add_argument("--cancels", type=int, default=10000)
    parser.add_argument("--rounds", type=int, default=5, help="of throughput and llama")
    parser.add_argument("--each", type=int, default=4, help="requests of a stream, of llama")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--llama-formats", nargs="+", default=["NVFP4", "Q4_0"])
    parser.add_argument("--llama-build", type=pathlib.Path, help="a build of llama.cpp with llama-server, llama-quantize")
    o = parser.parse_args()
    o.model = o.model or comparison().make_nibble_file("smollm2", "NVFP4")
    o.threads = ["--threads", o.threads] if o.threads else []
    o.flags = o.threads
    version = subprocess.run([NIBBLE, "--version"], check=True, capture_output=True, text=True).stdout.strip()
    print(f"{datetime.date.today()}, {comparison().machine()}, {version}\n")
    table = Table()
    for part in o.parts:
        asyncio.run(PARTS[part](o, table))
    sys.exit(1 if table.missed else 0)


if __name__ == "__main__":
    main()
