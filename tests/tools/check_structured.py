#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Check structured output against Python's jsonschema and re. Prints one line per finding and a sum; exits 1 when
there is a finding. Needs build/release/bench_structured and the package jsonschema.

usage: check_structured.py docs                       the documents of tests/golden/text/shapes.json
       check_structured.py walks MODEL N [SEED]       N random answers over MODEL's vocabulary
       check_structured.py calls MODEL N [SEED]       N random calls of tools in each format, read back and judged
       check_structured.py suite DIRECTORY [-v]       JSON-Schema-Test-Suite, a draft's folder (such as
                                                      json/tests/draft2020-12 in the sdist of jsonschema)
"""
import collections
import json
import pathlib
import re
import subprocess
import sys
import tempfile

TREE = pathlib.Path(__file__).resolve().parents[2]
SHAPES = TREE / "tests/golden/text/shapes.json"
PROGRAM = TREE / "build/release/bench_structured"


def run(*arguments):
    done = subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True)
    if done.returncode:
        sys.exit(done.stderr.decode())
    return [json.loads(line) for line in done.stdout.splitlines()]


def validator(schema):
    import jsonschema

    return jsonschema.Draft202012Validator(schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)


class Judge:
    """Whether a text has a shape, by other means than nibble's."""

    def __init__(self, shape):
        self.shape = shape
        self.schema = validator(shape["schema"]) if shape["kind"] == "schema" else None
        if self.schema and "definitions" in shape["schema"]:
            import jsonschema

            self.schema = jsonschema.Draft7Validator(shape["schema"])

    def __call__(self, text):
        kind = self.shape["kind"]
        if kind in ("schema", "object"):
            try:
                value = json.loads(text)
            except ValueError:
                return False
            return self.schema.is_valid(value) if self.schema else isinstance(value, dict)
        if kind == "regex":
            return re.fullmatch(self.shape["text"], text, re.ASCII) is not None
        if kind == "choice":
            return text in json.loads(self.shape["text"])
        return None  # GBNF: nothing else here reads it


def check_docs():
    """Nibble allows the documents and refuses the bad ones; so do jsonschema and re, but for what nibble keeps
    narrower on purpose (white space, order, spelling)."""
    findings = n = 0
    for shape, got in zip(json.loads(SHAPES.read_text()), run("check", SHAPES)):
        judge = Judge(shape)
        if "error" in got:
            print(f"{shape['name']}: {got['error']}")
            findings += 1
            continue
        for text, allowed in zip(shape["docs"], got["docs"]):
            n += 1
            if not allowed or judge(text) is False:
                print(f"{shape['name']}: {text} is {'allowed, but wrong' if allowed else 'refused'}")
                findings += 1
        for text, allowed in zip(shape["bad"], got["bad"]):
            n += 1
            if allowed:
                print(f"{shape['name']}: {text} is allowed")
                findings += 1
    print(f"{n} documents, {findings} findings")
    return findings


def check_walks(model, n, seed=1):
    shapes = json.loads(SHAPES.read_text())
    judges = [Judge(shape) for shape in shapes]
    findings, lengths = 0, []
    for answer in run("walk", SHAPES, model, n, seed):
        shape = shapes[answer["shape"]]
        text = answer.get("text")
        if text is None or judges[answer["shape"]](text) is False:
            print(f"{shape['name']}: {answer.get('error') or text}")
            findings += 1
        else:
            lengths.append(len(text.encode()))
    print(f"{len(lengths)} answers of {min(lengths)} to {max(lengths)} bytes (mean {sum(lengths) / len(lengths):.0f}) "
          f"over {len(shapes)} shapes: {findings} findings")
    return findings


def tool(name, properties, required, **more):
    schema = {"type": "object", "properties": properties, "required": required, **more}
    return {"type": "function", "function": {"name": name, "parameters": schema}}


NUMBER_OR_CODE = {"anyOf": [{"type": "number", "minimum": 3}, {"type": "string", "pattern": "^[0-9a-f]{1,6}$"}]}
TOOLS = [
    tool("get_weather", {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1, "maximum": 14},
                         "unit": {"enum": ["C", "F", "5", None]}}, ["city"], additionalProperties=False),
    tool("write_file", {"path": {"type": "string", "minLength": 1, "maxLength": 40}, "text": {"type": "string"},
                        "mode": {"type": ["string", "null"]}}, ["path", "text"]),
    tool("book", {"when": {"type": "string", "format": "date"}, "who": {"type": "array", "items": {"$ref": "#/$defs/p"},
                                                                        "maxItems": 3}, "code": NUMBER_OR_CODE},
         ["when", "code"], **{"$defs": {"p": {"type": "object", "properties": {"name": {"type": "string"}, "age": {
             "type": "integer"}}, "required": ["name"], "additionalProperties": False}}}),
    tool("set", {"key": {"$ref": "#/$defs/key"}, "value": {"type": ["string", "object", "boolean"], "maxLength": 9},
                 "any": {}}, ["value"], **{"$defs": {"key": {"type": "string", "pattern": "^[A-Z][a-z]{0,3}$"}}}),
    tool("now", {}, [], additionalProperties=False),
]
FORMATS = re.findall(r'\{\.name = "([^"]+)"', (TREE / "src/text/chat_format.c").read_text())


def check_calls(model, n, seed=1):
    """Every walk ends in calls of the tools, nothing beside them, with arguments of their schemas."""
    judges = {t["function"]["name"]: validator(t["function"]["parameters"]) for t in TOOLS}
    shapes = [{"kind": "call", "schema": {"tools": TOOLS, "format": name}} for name in FORMATS]
    findings, counts, calls = 0, collections.Counter(), 0
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(shapes, file)
        file.flush()
        answers = run("walk", file.name, model, n * len(shapes), seed)
    for answer in answers:
        name = FORMATS[answer["shape"]]
        read = answer.get("calls") or [answer.get("error", "no call")]
        bad = [c for c in read if isinstance(c, str) or not judges[c[0]].is_valid(json.loads(c[1]))]
        counts[name] += not bad
        calls += len(read)
        findings += bool(bad)
        for c in bad[:1]:
            print(f"{name}: {c} of {answer.get('text')!r}")
    print(f"{len(FORMATS)} formats, {min(counts[name] for name in FORMATS)} to {max(counts.values())} answers of each, "
          f"{calls} calls: {findings} findings")
    return findings


def in_order(value, schema):
    """VALUE with its properties in the schema's order, as answers have them."""
    if isinstance(value, list):
        return [in_order(item, {}) for item in value]
    if not isinstance(value, dict) or not isinstance(schema, dict):
        return value
    names = list(schema.get("const", {})) if isinstance(schema.get("const"), dict) else []
    names += schema.get("required", [])[:0] + list(schema.get("properties", {}))
    for branch in schema.get("allOf", []):
        names += list(branch.get("properties", {})) if isinstance(branch, dict) else []
    rank = {name: i for i, name in reversed(list(enumerate(names)))}
    return dict(sorted(value.items(), key=lambda item: rank.get(item[0], len(names))))


def check_suite(folder, verbose=False):
    """Wrong: an invalid document is allowed. Missed: a valid one is refused. Refused: the schema is."""
    groups = []
    nul = "\\u0000"  # jansson's strings have none, so schemas cannot name it
    for path in [*sorted(folder.glob("*.json")), *sorted((folder / "optional/format").glob("*.json"))]:
        groups += [(path.stem, group) for group in json.loads(path.read_text()) if nul not in json.dumps(group)]
    shapes = [{"kind": "schema", "schema": group["schema"],
               "docs": [json.dumps(in_order(test["data"], group["schema"]), ensure_ascii=False) for test in group["tests"]]}
              for _, group in groups]
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(shapes, file)
        file.flush()
        results = run("check", file.name)
    counts = collections.defaultdict(collections.Counter)
    for (stem, group), shape, got in zip(groups, shapes, results):
        if "error" in got:
            counts[stem]["refused"] += len(group["tests"])
            if verbose:
                print(f"refused {stem}: {group['description']}: {got['error']}")
            continue
        for test, text, allowed in zip(group["tests"], shape["docs"], got["docs"]):
            what = "right" if allowed == test["valid"] else "wrong" if allowed else "missed"
            counts[stem][what] += 1
            if what == "wrong" or (what == "missed" and verbose):
                print(f"{what} {stem}: {group['description']}: {text[:100]}")
    total = collections.Counter()
    for stem, count in counts.items():
        total += count
        print(f"{stem:24} right {count['right']:4} missed {count['missed']:3} wrong {count['wrong']:3} refused {count['refused']:3}")
    print(f"all: right {total['right']}, missed {total['missed']}, wrong {total['wrong']}, refused {total['refused']}")
    return total["wrong"]


def main():
    arguments = sys.argv[1:]
    if arguments[:1] == ["docs"] and len(arguments) == 1:
        return 1 if check_docs() else 0
    if arguments[:1] == ["walks"] and len(arguments) in (3, 4):
        return 1 if check_walks(arguments[1], int(arguments[2]), *map(int, arguments[3:])) else 0
    if arguments[:1] == ["calls"] and len(arguments) in (3, 4):
        return 1 if check_calls(arguments[1], int(arguments[2]), *map(int, arguments[3:])) else 0
    if arguments[:1] == ["suite"] and len(arguments) in (2, 3):
        return 1 if check_suite(pathlib.Path(arguments[1]), arguments[2:] == ["-v"]) else 0
    print(__doc__.partition("usage: ")[2], file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
