# SPDX-License-Identifier: Apache-2.0
"""nibble tokenize against the reference tokenizers' ids: WikiText-2 test and the stress text, three models.

The references' ids are kept as hashes (tests/golden/text/tokenizers.json, written by tests/tools/make_tokenizer_golden.py,
which also compares id by id), so no reference needs to be installed here.
"""
import hashlib
import json
import pathlib
import subprocess
import sys

import pytest
from conftest import data_path, model_path

TREE = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = json.loads((TREE / "tests/golden/text/tokenizers.json").read_text())
MODELS = {"smollm2": lambda: model_path("smollm2"), "gemma3": lambda: model_path("gemma3-270m"),
          "qwen3": lambda: data_path("qwen3-tokenizer")}


@pytest.fixture(scope="session")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    stress = folder / "stress.txt"
    done = subprocess.run([sys.executable, str(TREE / "tests/tools/make_stress_text.py")], check=True, capture_output=True)
    stress.write_bytes(done.stdout)
    return {"stress": stress}


def text_path(name, texts):
    path = texts.get(name) or data_path("wikitext-2/test.raw.txt")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == GOLDEN["texts"][name]["sha256"], f"{path} is another text"
    return path


@pytest.mark.parametrize("mode", ["parsed", "as text"])
@pytest.mark.parametrize("text", list(GOLDEN["texts"]))
@pytest.mark.parametrize("model", list(MODELS))
def test_ids_equal_the_reference(nibble, texts, model, text, mode):
    flags = ["--no-special"] if mode == "as text" else []
    done = nibble("tokenize", MODELS[model](), "--ids", "--no-bos", *flags, "--text", text_path(text, texts))
    expected = GOLDEN["ids"][model][text][mode]
    assert done.stdout.count(" ") + 1 == expected["n"]
    assert hashlib.sha256(done.stdout.strip().encode()).hexdigest() == expected["sha256"]


@pytest.mark.parametrize("model", list(MODELS))
def test_text_comes_back(nibble, model, texts):
    """WikiText-2 is valid UTF-8 in normal form C: decoding its ids gives the same bytes."""
    path = text_path("wikitext-2 test", texts)
    ids = nibble("tokenize", MODELS[model](), "--ids", "--text", path).stdout
    back = nibble("tokenize", MODELS[model](), "--decode", stdin=ids.encode(), text=False).stdout
    assert back == path.read_bytes()


def test_what_is_printed(nibble, smollm2):
    done = nibble("tokenize", smollm2, stdin="Hi \"x\"\n<|im_end|>")
    assert done.stdout == '26843\t"Hi"\n476\t" \\""\n104\t"x"\n18\t"\\""\n198\t"\\n"\n2\t"<|im_end|>"\n'
    as_text = nibble("tokenize", smollm2, "--ids", "--no-special", stdin="<|im_end|>").stdout.split()
    assert len(as_text) > 1 and "2" not in as_text
    assert nibble("tokenize", smollm2, "--ids", stdin="").stdout == "\n"
    assert nibble("tokenize", smollm2, "Hi \"x\"\n<|im_end|>").stdout == done.stdout


def test_bos(nibble, gemma3):
    assert nibble("tokenize", gemma3, "--ids", stdin="a").stdout == "2 236746\n"
    assert nibble("tokenize", gemma3, "--ids", "--no-bos", stdin="a").stdout == "236746\n"
    assert nibble("tokenize", gemma3, "--decode", stdin="2 236746").stdout == "a"
    assert nibble("tokenize", gemma3, "--decode", "--no-bos", stdin="2 236746").stdout == "<bos>a"
    assert nibble("tokenize", gemma3, "--decode", "--no-bos", "--no-special", stdin="[2, 236746]\n").stdout == "a"


@pytest.mark.parametrize("ids", ["x", "1 -2", "99999999999999999999", "49152", "1.5", "1 2 3x"])
def test_bad_ids_are_refused(nibble, smollm2, ids):
    done = nibble("tokenize", smollm2, "--decode", stdin=ids, check=False)
    assert done.returncode == 1
    assert "is no id below 49152" in done.stderr


def test_wrong_usage(nibble, smollm2, tmp_path):
    assert nibble("tokenize", check=False).returncode == 2
    assert nibble("tokenize", smollm2, "--ids", "--decode", check=False).returncode == 2
    missing = nibble("tokenize", smollm2, "--text", tmp_path / "none", check=False)
    assert missing.returncode == 1 and "none: cannot be opened" in missing.stderr
    empty = nibble("tokenize", tmp_path, check=False)
    assert empty.returncode == 1 and str(tmp_path) in empty.stderr


def test_a_directory_with_only_a_tokenizer(nibble, tmp_path):
    seed = (TREE / "tests/fuzz/text/corpus_tokenizer_json/qwen3").read_bytes()
    (tmp_path / "tokenizer.json").write_bytes(seed)
    assert nibble("tokenize", tmp_path, "--ids", stdin="hello 12").stdout == "259 32 49 50\n"


CONVERSE = """
import ctypes, json, sys
library, model = sys.argv[1:]


class Message(ctypes.Structure):
    _fields_ = [("role", ctypes.c_char_p), ("content", ctypes.c_char_p)]


lib = ctypes.CDLL(library)
lib.nib_free.argtypes = [ctypes.c_void_p]
lib.nib_close.argtypes = [ctypes.c_void_p]
engine, error = ctypes.c_void_p(), ctypes.create_string_buffer(512)
assert lib.nib_open(ctypes.byref(engine), model.encode(), None, error) == 0, error.value
out = []
for turns in json.load(sys.stdin):
    messages = (Message * len(turns))(*[(t["role"].encode(), t["content"].encode()) for t in turns])
    ids, n = ctypes.POINTER(ctypes.c_int32)(), ctypes.c_size_t()
    status = lib.nib_chat_tokens(engine, messages, ctypes.c_size_t(len(turns)), ctypes.byref(ids), ctypes.byref(n), error)
    assert status == 0, error.value
    out.append(ids[:n.value])
    lib.nib_free(ids)
lib.nib_close(engine)
print(json.dumps(out))
"""


def test_conversations_of_smollm2(nibble_path, smollm2):
    """nib_chat_tokens with the model's own template against jinja2 and tokenizers (tests/golden/text/chat.json). In a
    process of its own: a model in this one would weigh on the memory that other tests measure."""
    library = nibble_path.parent / "libnibble.so"
    if not library.exists():
        pytest.skip(f"{library} is not built")
    golden = json.loads((TREE / "tests/golden/text/chat.json").read_text())
    done = subprocess.run([sys.executable, "-c", CONVERSE, str(library), str(smollm2)], capture_output=True, text=True,
                          input=json.dumps(golden["conversations"]))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == golden["ids"]["smollm2"]
