# SPDX-License-Identifier: Apache-2.0
"""A server process and a plain asyncio HTTP client, for load.py and faults.py.

Every request has a connection of its own and reads its answer to the end of the connection: what a server does to a
connection is part of what is measured.
"""
import asyncio
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import time

TREE = pathlib.Path(__file__).resolve().parents[2]
NIBBLE = pathlib.Path(os.environ.get("NIBBLE", TREE / "build" / "release" / "nibble"))


class Process:
    """`nibble serve MODEL FLAGS`, or any COMMAND that prints its address as its first line."""

    def __init__(self, model, *flags, port=0, program=NIBBLE):
        self.command = [str(program), "serve", str(model), "--port", str(port), *map(str, flags)]
        self.start()

    def start(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, text=True)
        url = self.process.stdout.readline().strip()
        if not url:
            raise SystemExit(f"the server does not start: {' '.join(self.command)}")
        self.host, port = url.split("//")[1].rsplit(":", 1)
        self.port = int(port)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        code = self.end(signal.SIGTERM)
        if code != 0 and not kind:
            raise SystemExit(f"the server ended with {code}")

    def end(self, number):
        """Its exit code. What it says, and what a sanitizer says of it, is on standard error."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.process.stdout.close()
        return self.process.wait(60)

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def threads(self):
        return len(os.listdir(f"/proc/{self.process.pid}/task"))

    def resident_bytes(self):
        pages = pathlib.Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


@dataclasses.dataclass
class Answer:
    status: int
    headers: dict
    text: str = ""        # of the first choice
    finish: str = ""      # its finish_reason; "" when the answer broke off
    tokens: int = 0       # completion_tokens, where usage came
    times: list = dataclasses.field(default_factory=list)  # of the frames with text, seconds of time.monotonic
    began: float = 0
    body: bytes = b""


def request_bytes(method, path, body=None, headers=()):
    raw = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    head = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close", "Content-Type: application/json",
            f"Content-Length: {len(raw)}", *headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + raw


async def read_head(reader):
    """(status, headers); ConnectionError where none comes."""
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError) as problem:
        raise ConnectionError(f"no answer: {problem}") from None
    lines = raw.decode("latin-1").split("\r\n")
    headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:] if line)}
    return int(lines[0].split()[1]), headers


async def read_pieces(reader, headers):
    """The body as it comes."""
    if headers.get("transfer-encoding") != "chunked":
        while piece := await reader.read(65536):
            yield piece
        return
    while True:
        try:
            size = int(await reader.readline() or b"x", 16)
            piece = await reader.readexactly(size + 2)
        except (ValueError, asyncio.IncompleteReadError):
            raise ConnectionError("the answer broke off") from None
        if size == 0:
            return
        yield piece[:-2]


def take_choices(answer, chunk):
    """A chunk in OpenAI's form."""
    if usage := chunk.get("usage"):
        answer.tokens = usage["completion_tokens"]
    for choice in chunk["choices"]:
        said = choice.get("delta") or choice.get("message") or choice
        text = said.get("text") or said.get("content") or ""
        if text:
            answer.text += text
            answer.times.append(time.monotonic())
        answer.finish = choice.get("finish_reason") or answer.finish


def take_event(answer, event):
    """An event of the Responses or the Messages API; true: it was the last."""
    kind = event["type"]
    if kind == "response.output_text.delta":
        answer.text += event["delta"]
    elif kind == "content_block_delta":
        answer.text += event["delta"].get("text", "")
    elif kind == "message_delta":
        answer.finish = event["delta"]["stop_reason"]
    elif kind in ("response.completed", "response.incomplete"):
        answer.finish = event["response"]["status"]
    return kind in ("response.completed", "response.incomplete", "message_stop")


def take_frame(answer, frame):
    """One SSE frame; true: it was the last."""
    data = b"".join(line[6:] for line in frame.split(b"\n") if line.startswith(b"data: "))
    if not data or data == b"[DONE]":
        return bool(data)
    chunk = json.loads(data)
    if chunk.get("error"):
        raise ConnectionError(chunk["error"]["message"])
    if "choices" not in chunk:
        return take_event(answer, chunk)
    return bool(take_choices(answer, chunk))


def take_whole(answer, body):
    if "choices" in body:
        take_choices(answer, {**body, "choices": body["choices"][:1]})
    elif "output" in body:
        answer.text = "".join(part["text"] for item in body["output"] if item["type"] == "message" for part in item["content"])
        answer.finish = body["status"]
    elif body.get("type") == "message":
        answer.text = "".join(block.get("text", "") for block in body["content"])
        answer.finish = body["stop_reason"]
    elif "data" in body:
        answer.text, answer.finish = json.dumps(body["data"]), "stop"


async def read_answer(reader, answer, pause=0.0):
    """Reads all of it; PAUSE seconds between pieces. ConnectionError where it is not whole."""
    answer.status, answer.headers = await read_head(reader)
    is_stream = answer.headers.get("content-type", "").startswith("text/event-stream")
    pending, over = b"", not is_stream
    async for piece in read_pieces(reader, answer.headers):
        if not is_stream:
            answer.body += piece
        else:
            *frames, pending = (pending + piece).split(b"\n\n")
            for frame in frames:
                over = take_frame(answer, frame) or over
        if pause:
            await asyncio.sleep(pause)
    if not over:
        raise ConnectionError("the stream has no end")
    if answer.status == 200 and not is_stream and answer.headers.get("content-type") == "application/json":
        take_whole(answer, json.loads(answer.body))
    return answer


async def connect(server, **more):
    return await asyncio.open_connection(server.host, server.port, **more)


async def close(writer):
    writer.close()
    try:
        await writer.wait_closed()
    except OSError:
        pass


async def ask(server, method, path, body=None, pause=0.0, **more):
    """The Answer. ConnectionError or OSError where there is none, or half of one."""
    answer = Answer(0, {}, began=time.monotonic())
    reader, writer = await connect(server, **more)
    try:
        writer.write(request_bytes(method, path, body))
        await writer.drain()
        return await read_answer(reader, answer, pause)
    finally:
        await close(writer)


async def get_json(server, path):
    answer = await ask(server, "GET", path)
    if answer.status != 200:
        raise SystemExit(f"GET {path}: {answer.status} {answer.body[:200]}")
    return json.loads(answer.body)


def percentile(values, p):
    values = sorted(values)
    return values[min(len(values) - 1, int(p / 100 * len(values)))]
