# SPDX-License-Identifier: Apache-2.0
"""A server to test, and plain HTTP to ask it with."""
import http.client
import json
import shutil
import signal
import subprocess
import time


class Server:
    """`with Server(nibble_path, MODEL, FLAGS...) as s:`; it listens on a free port of this machine."""

    def __init__(self, program, model, *flags, env=None):
        command = [str(program), "serve", str(model), "--port", "0", "--threads", "2", *map(str, flags)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
        self.url = self.process.stdout.readline().strip()
        assert self.url, self.process.stderr.read()
        self.host, self.port = self.url.split("//")[1].rsplit(":", 1)
        self.base = self.url + "/v1"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self, number=signal.SIGTERM):
        """Ends it; its exit code and what it said."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        _, said = self.process.communicate(timeout=60)
        return self.process.returncode, said

    def connect(self):
        return http.client.HTTPConnection(self.host, int(self.port), timeout=120)

    def ask(self, method, path, body=None, headers={}):
        """(status, headers, body): JSON where it is."""
        connection = self.connect()
        raw = body if isinstance(body, (bytes, str, type(None))) else json.dumps(body)
        connection.request(method, path, raw, headers)
        response = connection.getresponse()
        text = response.read()
        connection.close()
        is_json = "json" in response.headers.get("Content-Type", "") and text
        return response.status, response.headers, json.loads(text) if is_json else text

    def get(self, path, **headers):
        return self.ask("GET", path, None, headers)[2]

    def post(self, path, body, status=200):
        got, _, answer = self.ask("POST", path, body)
        assert got == status, answer
        return answer

    def open_stream(self, path, body):
        """(connection, response) of a request whose answer has begun."""
        connection = self.connect()
        connection.request("POST", path, json.dumps({**body, "stream": True}))
        return connection, connection.getresponse()

    def stream(self, path, body):
        """The frames' JSON. Checks what every stream must be: its headers, its frames, its end."""
        connection, response = self.open_stream(path, body)
        assert response.status == 200, response.read()
        assert response.headers["Content-Type"] == "text/event-stream"
        assert response.headers["Cache-Control"] == "no-cache" and response.headers["X-Accel-Buffering"] == "no"
        frames = response.read().decode().split("\n\n")
        connection.close()
        assert frames.pop() == "" and frames.pop() == "data: [DONE]"
        assert all(frame.startswith("data: ") for frame in frames if frame != ":")
        return [json.loads(frame[6:]) for frame in frames if frame != ":"]


def long_words(tree, folder, template=True):
    """The model llama-words, made to take 4096 tokens; without its chat template where that is not wanted."""
    for file in (tree / "tests/golden/models/llama-words").iterdir():
        if file.suffix in (".json", ".safetensors"):
            shutil.copy(file, folder / file.name)
    for name, change in ("config.json", {"max_position_embeddings": 4096}), ("tokenizer_config.json", {}):
        settings = json.loads((folder / name).read_text()) | change
        if not template:
            settings.pop("chat_template", None)
        (folder / name).write_text(json.dumps(settings))
    return folder


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def user(text):
    return [{"role": "user", "content": text}]
