# SPDX-License-Identifier: Apache-2.0
"""The public pairs in llama.cpp's tests/test-chat-template.cpp and tests/test-chat.cpp, read out of their C++ text.

templates(path) gives (name, template, expected, bos, eos, extra turns); answers(path) gives a dict per test: template's
path, the model's text, tools, settings and the message that is expected. What a test sets that has no meaning here
(partial texts, schemas, continued messages) is given as "skipped": why.
"""
import json
import re

TOKEN = re.compile(r'''
    (?P<space>\s+|//[^\n]*|/\*.*?\*/)
  | (?P<raw>(?:u8)?R"(?P<delimiter>[^()\s]*)\((?P<body>.*?)\)(?P=delimiter)")
  | (?P<string>(?:u8)?"(?:\\.|[^"\\])*")
  | (?P<name>[A-Za-z_][A-Za-z0-9_:]*)
  | (?P<number>[0-9][0-9A-Za-z.]*)
  | (?P<sign>->|::|.)
''', re.S | re.X)
ESCAPES = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\", "'": "'", "0": "\0", "b": "\b", "f": "\f", "?": "?"}


def unescape(text):
    out = bytearray()
    at = 0
    while at < len(text):
        if text[at] != "\\":
            out += text[at].encode()
            at += 1
        elif text[at + 1] in "xuU":
            digits = re.match(r"[0-9A-Fa-f]+", text[at + 2:])[0]
            digits = digits if text[at + 1] == "x" else digits[:4 if text[at + 1] == "u" else 8]
            out += bytes([int(digits, 16)]) if text[at + 1] == "x" else chr(int(digits, 16)).encode()
            at += 2 + len(digits)
        else:
            out += ESCAPES[text[at + 1]].encode()
            at += 2
    return out.decode()


def tokens(source):
    out = []
    for m in TOKEN.finditer(source):
        if m.lastgroup == "space" or m["space"]:
            continue
        if m["raw"]:
            out.append(("text", m["body"]))
        elif m["string"]:
            out.append(("text", unescape(m["string"].removeprefix("u8")[1:-1])))
        else:
            out.append(("name" if m["name"] else "sign", m[0]))
    return out


class Cpp:
    """A walk over tokens; knows the constants and functions that the tests use."""

    def __init__(self, source):
        self.all = tokens(source)
        self.constants = {}

    def closing(self, at):
        """Index of the bracket that closes the one at AT."""
        depth = 0
        while True:
            if self.all[at] in (("sign", "("), ("sign", "{"), ("sign", "[")):
                depth += 1
            elif self.all[at] in (("sign", ")"), ("sign", "}"), ("sign", "]")):
                depth -= 1
                if depth == 0:
                    return at
            at += 1

    def parts(self, begin, end):
        """The comma-separated parts between two indices, as ranges."""
        out, start, at = [], begin, begin
        while at < end:
            if self.all[at][0] == "sign" and self.all[at][1] in "({[":
                at = self.closing(at)
            elif self.all[at] == ("sign", ","):
                out.append((start, at))
                start = at + 1
            at += 1
        if start < end:
            out.append((start, end))
        return out

    def value(self, begin, end):
        """A text, a list of values, or a call as (name, arguments); None when it is anything else."""
        if begin == end:
            return None
        kind, word = self.all[begin]
        if (kind, word) == ("sign", "{"):
            return [self.value(*p) for p in self.parts(begin + 1, self.closing(begin))]
        if kind == "text" or (kind == "name" and isinstance(self.constants.get(word), str)):
            text, at = "", begin
            while at < end:
                kind, word = self.all[at]
                if kind == "text":
                    text += word
                elif kind == "name" and isinstance(self.constants.get(word), str):
                    text += self.constants[word]
                elif (kind, word) != ("sign", "+"):
                    return None
                at += 1
            return text
        if kind == "name" and begin + 1 < end and self.all[begin + 1] == ("sign", "("):
            close = self.closing(begin + 1)
            inner = [self.value(*p) for p in self.parts(begin + 2, close)]
            if word in ("std::string", "U8C"):
                return inner[0] if inner else ""
            return (word, inner)
        return self.constants.get(word, word) if kind == "name" else None

    def read_constants(self):
        """NAME = VALUE; and common_chat_tool NAME{...};"""
        for at in range(1, len(self.all) - 2):
            if self.all[at][0] != "name":
                continue
            name = self.all[at][1]
            if self.all[at + 1] == ("sign", "=") and self.all[at - 1][0] == "name":
                end = at + 2
                while self.all[end] != ("sign", ";"):
                    end = self.closing(end) + 1 if self.all[end][1] in "({[" and self.all[end][0] == "sign" else end + 1
                found = self.value(at + 2, end)
                if isinstance(found, (str, tuple)) and found != name:
                    self.constants[name] = found
            elif self.all[at - 1] == ("name", "common_chat_tool") and self.all[at + 1] == ("sign", "{"):
                self.constants[name] = ("tool", self.value(at + 1, self.closing(at + 1) + 1))


def message(value):
    """An expected message: {content, reasoning, calls: [(name, arguments, id)]}; None: not understood."""
    if not isinstance(value, tuple):
        return None
    name, given = value
    given = [x if isinstance(x, str) else "" for x in given]
    if name == "message_with_tool_calls":
        given = ["", "", given[0], given[1]]
    elif name == "message_with_tool_calls_and_reasoning":
        given = ["", given[2], given[0], given[1]]
    elif name == "message_with_content_and_tool_call":
        given = [given[0], "", given[1], given[2]]
    elif name == "message_with_reasoning_and_tool_call":
        given = ["", given[0], given[1], given[2]]
    elif name != "simple_assist_msg":
        return None
    given += [""] * (5 - len(given))
    calls = [(given[2], given[3], given[4])] if given[2] else []
    return {"content": given[0], "reasoning": given[1], "calls": calls}


def tool(value):
    name, description, parameters = (value[1] + ["", "", ""])[:3]
    return {"type": "function", "function": {"name": name, "description": description,
                                             "parameters": json.loads(parameters) if parameters else {}}}


SKIP = {"is_partial": "a text that breaks off", "json_schema": "a schema for the answer", "continue_final_message": "continues an answer",
        "messages": "its own conversation"}


def answers(path):
    cpp = Cpp(path.read_text())
    cpp.read_constants()
    template, at = None, 0
    while at < len(cpp.all):
        if cpp.all[at] == ("name", "peg_tester") and cpp.all[at + 2][0] == "text":
            template = cpp.all[at + 2][1]
        if cpp.all[at] == ("name", "tst") and cpp.all[at + 2] == ("name", "test") and template:
            close = cpp.closing(at + 3)
            test = {"template": template, "text": cpp.value(at + 4, close), "tools": [], "thinking": True, "auto": False,
                    "expected": {"content": "", "reasoning": "", "calls": []}, "skipped": None}
            at = close + 1
            while cpp.all[at] == ("sign", "."):
                name, begin, close = cpp.all[at + 1][1], at + 3, cpp.closing(at + 2)
                at = close + 1
                if name == "run":
                    break
                apply(test, name, cpp.value(begin, close))
            if test["text"] is None:
                test["skipped"] = "its text is computed"
            yield test
        at += 1


def apply(test, name, value):
    expected = test["expected"]
    if name == "tools":
        test["tools"] = [tool(v) for v in value if isinstance(v, tuple)] if isinstance(value, list) else []
        if not isinstance(value, list) or len(test["tools"]) != len(value):
            test["skipped"] = "its tools are computed"
    elif name == "enable_thinking":
        test["thinking"] = value == "true"
    elif name == "reasoning_format":
        test["auto"] = value not in ("COMMON_REASONING_FORMAT_NONE", None)
    elif name == "expect":
        test["expected"] = message(value)
        if test["expected"] is None:
            test["skipped"] = "its message is computed"
    elif name == "expect_content":
        expected["content"] = value
    elif name == "expect_reasoning":
        expected["reasoning"] = value
    elif name == "expect_tool_calls":
        expected["calls"] = [tuple(x if isinstance(x, str) else "" for x in c) for c in value]
    elif name in SKIP and value != "false":
        test["skipped"] = SKIP[name]


def templates(path):
    cpp = Cpp(path.read_text())
    at = next(i for i in range(len(cpp.all)) if cpp.all[i:i + 2] == [("name", "test_cases"), ("sign", "{")])
    for case in cpp.value(at + 1, cpp.closing(at + 1) + 1):
        name, source, legacy, expected, *rest = [*case]
        rest += [""] * (4 - len(rest))
        if rest[2] != "false":
            yield name, source, expected or legacy, rest[0], rest[1], rest[3] or []
