#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Write tests/golden/text/splits.txt: where llama.cpp cuts a few texts, under each of its pre-tokenizers' names.

Builds a small program over llama.cpp's src/unicode.cpp, gives it the expressions that src/llama-vocab.cpp lists for each
name, and keeps the lengths of the pieces in bytes. A line is NAME, text in hexadecimal, lengths; read by
tests/unit/text/test_text_pieces.c. Needs g++.

usage: make_split_golden.py LLAMA_CPP VERSION > tests/golden/text/splits.txt
"""
import pathlib
import re
import subprocess
import sys
import tempfile

PROGRAM = r"""
#include "unicode.h"
#include <cstdio>
#include <iostream>
#include <sstream>

static std::string bytes_of(const std::string & hex) {
    std::string out;
    for (size_t i = 0; i + 1 < hex.size(); i += 2) out += (char) std::stoi(hex.substr(i, 2), nullptr, 16);
    return out;
}

int main() { // lines of: text, expression...; all in hexadecimal
    std::string line, field;
    while (std::getline(std::cin, line)) {
        std::stringstream fields(line);
        std::getline(fields, field, '\t');
        std::string text = bytes_of(field);
        std::vector<std::string> expressions;
        while (std::getline(fields, field, '\t')) expressions.push_back(bytes_of(field));
        for (const auto & word : unicode_regex_split(text, expressions, true))
            if (!word.empty()) printf(" %zu", unicode_cpts_from_utf8(word).size());
        printf("\n");
    }
}
"""
TEXTS = ["I'LL don't 'ſa WE'VE, 1234567 ½ it's(x)  \n\n  a!?\r\n ", "camelCaseWord HTTPServer Éa e\u0301\u0bcd  /path/to_x.c;\t\tend",
         "漢字かな 가힣ㄅ、。 “q”…！ Ⅷ₂😀\u200d ा|`$+<=>^~ ", "<sentinel:12> IMGIMGABCZ #12-3 {\n\tx += y[0];\n}\u00a0\u3000."]
KNOWN_NOT = {"afmoe", "superbpe", "tiny_aya", "cohere2moe", "whitespace"}


def rows(source):
    """{name: its expressions}"""
    escapes = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", '"': '"'}
    cut = source[source.index("switch (vocab.get_pre_type())"):source.index("std::vector<std::string> regex_exprs;")]
    of_type = {}
    for m in re.finditer(r"((?:\s*(?:case LLAMA_VOCAB_PRE_TYPE_\w+|default):(?:\s*//[^\n]*)*)+)\s*regex_exprs = \{(.*?)\n\s*\};", cut, re.S):
        body = re.sub(r"^\s*//[^\n]*$", "", m[2], flags=re.M)
        found = [re.sub(r"\\(.)", lambda x: escapes[x[1]], s) for s in re.findall(r'"((?:[^"\\]|\\.)*)"', body)]
        for name in re.findall(r"PRE_TYPE_(\w+):", m[1]) or ["DEFAULT"]:
            of_type[name] = found
    names = source[source.index("for now, only BPE models have pre-tokenizers"):]
    names = names[:names.index("LLAMA_VOCAB_TYPE_SPM")]
    out = {}
    for m in re.finditer(r'if \(((?:\s*tokenizer_pre == "[^"]+"\s*(?:\|\|)?)+)\)\s*\{(.*?)\}', names, re.S):
        kind = re.search(r"PRE_TYPE_(\w+);", m[2])[1]
        for name in re.findall(r'"([^"]+)"', m[1]):
            out[name] = of_type.get(kind, of_type["DEFAULT"])
    return out


def main():
    folder, version = pathlib.Path(sys.argv[1]) / "src", sys.argv[2]
    known = {n: e for n, e in rows((folder / "llama-vocab.cpp").read_text()).items() if n not in KNOWN_NOT}
    with tempfile.TemporaryDirectory() as scratch:
        program = pathlib.Path(scratch) / "split.cpp"
        program.write_text(PROGRAM)
        subprocess.run(["g++", "-O1", "-std=c++17", f"-I{folder}", program, folder / "unicode.cpp", folder / "unicode-data.cpp", "-o",
                        program.with_suffix("")], check=True)
        jobs = [(name, text) for name in known for text in TEXTS]
        lines = "\n".join("\t".join(x.encode().hex() for x in (text, *known[name])) for name, text in jobs) + "\n"
        done = subprocess.run([program.with_suffix("")], input=lines, capture_output=True, text=True, check=True)
    print(f"# made by tests/tools/make_split_golden.py with llama.cpp of {version}")
    for (name, text), lengths in zip(jobs, done.stdout.splitlines(), strict=True):
        print(name, text.encode().hex(), lengths.strip())


if __name__ == "__main__":
    main()
