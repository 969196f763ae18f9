# SPDX-License-Identifier: Apache-2.0
"""nibble serve: flags from files and the environment, TLS, other origins, the list of routes."""
import json
import os
import ssl
import subprocess
import sys
import urllib.request

import pytest

from serving import Server


@pytest.fixture(scope="module")
def words(tree):
    return tree / "tests/golden/models/llama-words"


def test_where_flags_come_from(nibble_path, words, tmp_path):
    """The command line goes before the environment, that before the file."""
    (tmp_path / "c").write_text('# ours\nserved-model-name = "from file"\nmax-model-len: 100\nallow-anonymous = false\napi-key=k\n')
    env = {**os.environ, "NIBBLE_MAX_MODEL_LEN": "90", "NIBBLE_ALLOW_ANONYMOUS": "1"}
    for flags, expected in ((), 90), (("--max-model-len", 80), 80):
        with Server(nibble_path, words, "--config", tmp_path / "c", *flags, env=env) as s:
            model = s.get("/v1/models", Authorization="Bearer k")["data"][0]
            assert (model["id"], model["max_model_len"]) == ("from file", expected)


@pytest.mark.parametrize("text, words_said", [
    ("nothing = 1", "line 1: 'nothing' is no setting; expected a flag's name"),
    ("prot = 1", "line 1: 'prot' is no setting; did you mean 'port'?"), ("\nport", "line 2: expected 'port = VALUE'"),
    ("allow-anonymous = perhaps", "true or false"), ("config = x", "no setting")])
def test_bad_files(nibble, words, tmp_path, text, words_said):
    (tmp_path / "c").write_text(text)
    done = nibble("serve", words, "--config", tmp_path / "c", check=False)
    assert done.returncode == 1 and words_said in done.stderr


def test_bad_values_are_wrong_usage(nibble, words, tmp_path):
    done = nibble("serve", words, check=False, env={"NIBBLE_PORT": "many"})
    assert done.returncode == 2 and "NIBBLE_PORT: --port takes a whole number" in done.stderr
    (tmp_path / "c").write_text("# ours\nmax-num-seqs = 4\nport = many\n")
    done = nibble("serve", words, "--config", tmp_path / "c", check=False)
    assert done.returncode == 2 and f"{tmp_path / 'c'}, line 3: --port takes a whole number" in done.stderr
    done = nibble("serve", words, "--port", "many", check=False)
    assert "serve: --port takes" in done.stderr
    done = nibble("serve", words, "--tensor-parallel-size", 2, check=False)
    assert done.returncode == 2 and "nibble uses one GPU today" in done.stderr
    assert nibble("serve", words, "--ssl-certfile", "x", check=False).returncode == 2
    assert nibble("serve", words, "--config", tmp_path / "none", check=False).returncode == 1


def test_mistyped_names_in_the_environment(nibble, words):
    env = {"NIBBLE_PROT": "8000", "NIBBLE_STRANGE": "1", "NIBBLE_SERVICE_HOST": "10.0.0.1", "NIBBLE_PORT_80_TCP": "x",
           "NIBBLE_SSL_CERTFILE": "none", "NIBBLE_DATA": "x"}
    said = nibble("serve", words, check=False, env=env).stderr
    assert "NIBBLE_PROT in the environment is no setting; did you mean NIBBLE_PORT?" in said
    assert "NIBBLE_STRANGE in the environment is no setting\n" in said and "SERVICE" not in said and "80_TCP" not in said
    assert "NIBBLE_DATA" not in said


def test_tls(nibble_path, nibble, words, tmp_path):
    made = subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                           "-keyout", tmp_path / "key", "-out", tmp_path / "cert", "-days", "2", "-subj", "/CN=localhost",
                           "-addext", "subjectAltName=IP:127.0.0.1"], capture_output=True)
    assert made.returncode == 0, made.stderr
    with Server(nibble_path, words, "--ssl-certfile", tmp_path / "cert", "--ssl-keyfile", tmp_path / "key") as s:
        assert s.url.startswith("https://")
        trust = ssl.create_default_context(cafile=tmp_path / "cert")
        with urllib.request.urlopen(s.url + "/health", context=trust) as answer:
            assert json.load(answer) == {"status": "ok"}
        body = json.dumps({"prompt": "the cat", "max_tokens": 20, "stream": True}).encode()
        with urllib.request.urlopen(s.url + "/v1/completions", body, context=trust) as answer:
            assert answer.read().endswith(b"data: [DONE]\n\n")
    done = nibble("serve", words, "--port", 0, "--ssl-certfile", tmp_path / "key", "--ssl-keyfile", tmp_path / "cert", check=False)
    assert done.returncode == 1 and "certificate and its key" in done.stderr


def test_other_origins(nibble_path, words):
    with Server(nibble_path, words, "--cors-allow-origins", "https://a.example", "--api-key", "k") as s:
        status, headers, _ = s.ask("OPTIONS", "/v1/chat/completions", None, {"Origin": "https://a.example"})
        assert status == 204 and headers["Access-Control-Allow-Origin"] == "https://a.example"
        assert {"Authorization", "Content-Type"} <= set(headers["Access-Control-Allow-Headers"].split(", "))
        assert s.ask("POST", "/v1/completions", {}, {})[1]["Access-Control-Allow-Origin"] == "https://a.example"
    with Server(nibble_path, words) as s:
        assert "Access-Control-Allow-Origin" not in s.ask("GET", "/health")[1]


def test_the_list_of_routes(nibble_path, words):
    with Server(nibble_path, words, "--chat-template", "chatml") as s:
        api = s.get("/openapi.json")
        chat = api["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert chat["properties"]["min_p"] == {"type": ["number", "null"], "minimum": 0, "maximum": 1}
        assert chat["properties"]["max_tokens"]["maximum"] == 1 << 30
        assert chat["required"] == ["messages"] and chat["properties"]["messages"]["items"]["required"] == ["role", "content"]
        for path, methods in api["paths"].items():
            for method, operation in methods.items():
                status, _, body = s.ask(method.upper(), path.replace("{name}", "llama-words"), "{}" if method == "post" else None)
                assert status in (200, 400), (method, path, body)


def test_no_body_is_a_fault_of_the_server(nibble_path, words, tree):
    """Random bodies by the list of routes, sound and not: none is answered with 5xx."""
    with Server(nibble_path, words, "--chat-template", "chatml") as s:
        done = subprocess.run([sys.executable, tree / "tests/tools/fuzz_http.py", s.url, "--examples", "40"],
                              capture_output=True, text=True, timeout=120)
        assert done.returncode == 0 and "findings: 0 alive: True" in done.stdout, done.stdout + done.stderr
