#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Ask a running server what its own list of routes (/openapi.json) lets one ask, and what it does not: random bodies
by the schemas, damaged JSON, wrong types, strange names. A finding is an answer of 5xx, an error without its object,
or a server that is gone. Prints how many answers of each status there were; exits 1 on a finding.

usage: fuzz_http.py URL [--examples 200] [--seed 1]
"""
import argparse
import collections
import http.client
import json
import random
import sys
import urllib.parse

STRANGE = [None, True, False, 0, -1, 1.5, 1e300, 2 ** 60, "", "x", "\u0000", "\ud7ff\U0001f600", [], [[]], {}, {"a": {"b": [1]}},
           [1, 2], ["a"], [{"role": "user", "content": "hi"}], [{"role": "tool"}], "user", {"type": "function"}]


def value(schema, rng):
    kind = schema.get("type", [])
    kind = kind if isinstance(kind, list) else [kind]
    if rng.random() < 0.3 or not kind:
        return rng.choice(STRANGE)
    pick = rng.choice(kind)
    low, high = schema.get("minimum", 0), schema.get("maximum", 100)
    return {"boolean": lambda: rng.random() < 0.5, "integer": lambda: rng.randint(int(low), int(min(high, low + 40))),
            "number": lambda: rng.uniform(low, min(high, low + 4)), "string": lambda: rng.choice(["", "x", "auto", "none", "words"]),
            "object": dict, "array": list, "null": lambda: None}[pick]()


def body(schema, rng):
    names = list(schema["properties"])
    out = {name: value(schema["properties"][name], rng) for name in rng.sample(names, rng.randint(0, min(5, len(names))))}
    sound = {"messages": [{"role": "user", "content": "the cat"}], "prompt": "the cat", "input": "the cat", "content": "the cat"}
    for name, good in sound.items():
        if name in names and rng.random() < 0.7:
            out[name] = good
    if "max_tokens" in names and rng.random() < 0.9:
        out["max_tokens"] = rng.randint(1, 8)
    if "max_output_tokens" in names:
        out["max_output_tokens"] = rng.randint(1, 8)
    if rng.random() < 0.05:
        out["".join(rng.choices("abz_\u00e9", k=4))] = 1
    raw = json.dumps(out).encode()
    if rng.random() < 0.1:
        at = rng.randrange(len(raw))
        raw = raw[:at] + bytes([rng.randrange(256)]) + raw[at + rng.randint(0, 3):]
    return raw


def ask(where, method, path, raw):
    connection = http.client.HTTPConnection(where.hostname, where.port, timeout=60)
    connection.request(method, path, raw)
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, text


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--examples", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    where, rng = urllib.parse.urlparse(options.url), random.Random(options.seed)
    api = json.loads(ask(where, "GET", "/openapi.json", None)[1])
    statuses, findings = collections.Counter(), []
    for path, methods in api["paths"].items():
        for method, operation in methods.items():
            content = operation.get("requestBody", {}).get("content", {})
            for _ in range(options.examples if content else 1):
                raw = body(content["application/json"]["schema"], rng) if content else (None if method == "get" else b"")
                status, text = ask(where, method.upper(), path.replace("{name}", "x"), raw)
                statuses[status] += 1
                told = status < 400 or "error" in json.loads(text)
                if status >= 500 or not told:
                    findings.append((method, path, raw, status, text[:300]))
    for finding in findings[:10]:
        print(*finding)
    alive = ask(where, "GET", "/health", None)[0] == 200
    print("answers by status:", dict(sorted(statuses.items())), "findings:", len(findings), "alive:", alive)
    return 1 if findings or not alive else 0


if __name__ == "__main__":
    sys.exit(main())
