# SPDX-License-Identifier: Apache-2.0
"""Embeddings: the vectors that transformers' hidden states make, in OpenAI's and llama.cpp's words."""
import base64
import json
import struct

import numpy
import pytest

from serving import Server, long_words

PATH = "/v1/embeddings"
EXACT = "--activations", "f32", "--kv-cache-dtype", "fp32"


@pytest.fixture(scope="module")
def model(tree):
    return tree / "tests/golden/models/llama-words"


@pytest.fixture(scope="module")
def server(nibble_path, model):
    with Server(nibble_path, model, *EXACT, "--served-model-name", "words") as s:
        yield s


@pytest.fixture(scope="module")
def of_means(nibble_path, model):
    with Server(nibble_path, model, *EXACT, "--pooling", "mean") as s:
        yield s


def tensor(model, name):
    """A BF16 matrix of model.safetensors as FP64."""
    raw = (model / "model.safetensors").read_bytes()
    n = struct.unpack("<Q", raw[:8])[0]
    about = json.loads(raw[8:8 + n])[name]
    begin, end = about["data_offsets"]
    assert about["dtype"] == "BF16"
    halves = numpy.frombuffer(raw[8 + n + begin:8 + n + end], "<u2").astype("<u4") << 16
    return halves.view("<f4").astype(numpy.float64).reshape(about["shape"])


@pytest.fixture(scope="module")
def hidden(model):
    """transformers' hidden states: what its logits (golden files) must have been made of, for the head has more rows
    than columns."""
    tied = json.loads((model / "config.json").read_text())["tie_word_embeddings"]
    head = tensor(model, "model.embed_tokens.weight" if tied else "lm_head.weight")
    logits = numpy.fromfile(model / "prefill.f32", "<f4").reshape(-1, len(head)).astype(numpy.float64)
    found, _, rank, _ = numpy.linalg.lstsq(head, logits.T, rcond=None)
    assert rank == head.shape[1] and numpy.abs(head @ found - logits.T).max() < 1e-4
    return found.T


def unit(vector):
    return vector / numpy.linalg.norm(vector)


def vectors(server, given, **more):
    answer = server.post(PATH, {"input": given, **more})
    assert answer["object"] == "list" and [d["index"] for d in answer["data"]] == list(range(len(answer["data"])))
    assert all(d["object"] == "embedding" for d in answer["data"])
    return [d["embedding"] for d in answer["data"]]


def test_transformers_agrees(server, of_means, model, hidden):
    ids = numpy.fromfile(model / "tokens.i32", "<i4").tolist()
    for n in 1, 7, len(ids):
        assert vectors(server, ids[:n])[0] == pytest.approx(unit(hidden[n - 1]), abs=2e-6)
        assert vectors(of_means, ids[:n])[0] == pytest.approx(unit(hidden[:n].mean(axis=0)), abs=2e-6)


def test_inputs(server):
    one, two = vectors(server, ["the cat", "a dog"])
    assert one != two and numpy.linalg.norm(one) == pytest.approx(1, abs=1e-6)
    assert vectors(server, "the cat") == [one]
    ids = [server.post("/tokenize", {"prompt": text})["tokens"] for text in ("the cat", "a dog")]
    assert vectors(server, ids[0]) == [one] and vectors(server, ids) == [one, two]
    answer = server.post(PATH, {"input": ids, "model": "words", "user": "me"})
    n = len(ids[0]) + len(ids[1])
    assert answer["model"] == "words" and answer["usage"] == {"prompt_tokens": n, "total_tokens": n}


def test_what_closes_a_text(nibble_path, tree, tmp_path):
    """Models of embeddings read an end behind the text; answers go on without."""
    model = long_words(tree, tmp_path)
    words = json.loads((model / "tokenizer.json").read_text())
    words["post_processor"] = {"type": "TemplateProcessing", "single": [
        {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}]}
    (model / "tokenizer.json").write_text(json.dumps(words))
    with Server(nibble_path, model, *EXACT) as s:
        ids = s.post("/tokenize", {"prompt": "the cat"})["tokens"]
        assert 0 not in ids and vectors(s, "the cat") == vectors(s, [ids + [0]]) != vectors(s, [ids])


def test_many_inputs_keep_their_order(server):
    texts = [f"the cat {i}" for i in range(150)]
    assert [vectors(server, text)[0] for text in (texts[0], texts[77], texts[149])] == [
        vectors(server, texts)[i] for i in (0, 77, 149)]


def test_texts_wait_for_a_place_in_the_queue(nibble_path, model):
    with Server(nibble_path, model, "--max-waiting", 8, "--max-num-seqs", 2) as s:
        texts = [f"the cat {i}" for i in range(150)]
        assert len(vectors(s, texts)) == 150


def test_forms(server):
    one = vectors(server, "the cat")[0]
    packed = base64.b64decode(vectors(server, "the cat", encoding_format="base64")[0], validate=True)
    assert list(struct.unpack(f"<{len(one)}f", packed)) == pytest.approx(one, rel=1e-7)
    short = vectors(server, "the cat", dimensions=5, encoding_format="float")[0]
    assert len(short) == 5 and short == pytest.approx(unit(numpy.array(one[:5])), abs=1e-6)
    assert vectors(server, "the cat", dimensions=len(one)) == [one]
    assert server.post("/embeddings", {"input": "the cat"})["data"][0]["embedding"] == one
    llama = server.post("/embedding", {"content": ["the cat", "a dog"]})
    assert [v["index"] for v in llama] == [0, 1] and llama[0]["embedding"] == [one]


@pytest.mark.parametrize("body, param, words", [
    ({}, "input", "must be a string"),
    ({"input": 7}, "input", "must be a string"),
    ({"input": []}, "input", "must be a string"),
    ({"input": ["x", 1]}, "input", "must be a string"),
    ({"input": [[]]}, "input", "is empty"),
    ({"input": [-1]}, "input", "the vocabulary has 280"),
    ({"input": ["x"] * 2049}, "input", "at most 2048"),
    ({"input": "x", "content": "y"}, None, "two names"),
    ({"input": "x", "encoding_format": "hex"}, "encoding_format", "float or base64"),
    ({"input": "x", "dimensions": 0}, "dimensions", "from 1 to"),
    ({"input": "x", "dimensions": 25}, "dimensions", "have 24"),
    ({"input": "x", "truncate_prompt_tokens": 3}, "truncate_prompt_tokens", "never cut"),
    ({"input": "x", "temperature": 1}, "temperature", "unrecognized"),
    ({"input": "the " * 2000}, None, "nothing of it is left out"),
])
def test_bad_requests(server, body, param, words):
    status, _, answer = server.ask("POST", PATH, body)
    assert status == 400 and words in answer["error"]["message"], answer
    assert param is None or answer["error"]["param"] == param


def test_openai_client(server):
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=server.base, api_key="none", max_retries=0, timeout=60) as client:
        answer = client.embeddings.create(model="words", input=["the cat", "a dog"])  # asks for base64
        assert answer.data[0].embedding == pytest.approx(vectors(server, "the cat")[0], rel=1e-6)
        assert client.embeddings.create(model="words", input="the cat", dimensions=5).data[0].embedding == pytest.approx(
            vectors(server, "the cat", dimensions=5)[0], rel=1e-6)
        with pytest.raises(openai.BadRequestError, match="have 24"):
            client.embeddings.create(model="words", input="x", dimensions=99)
