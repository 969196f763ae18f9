#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Write tests/golden/text/jinja.json: small templates and what jinja2, set up as transformers does, makes of them.

Each row is [template, text], or [template, null] where jinja2 raises. All are rendered with VARIABLES.
usage: make_jinja_golden.py        Needs: jinja2, transformers.
"""
import json
import pathlib

import jinja2
import transformers
from transformers.utils import chat_template_utils

TREE = pathlib.Path(__file__).resolve().parents[2]
VARIABLES = {
    "s": "Hello World", "u": "\u00e9\u4e2d\U0001F600 na\u00efve", "w": " \t\u00a0x\u3000\n", "e": "", "n": 7, "f": 2.5, "z": 0, "t": True,
    "no": None, "xs": [3, 1, 2], "ws": ["b", "A", "c", "a"], "empty": [], "d": {"b": 1, "a": [1, {"c": None}], "items": 3},
    "ms": [{"role": "user", "content": "hi", "k": {"v": 1}}, {"role": "tool", "content": None}, {"role": "user", "content": "q"}],
    "q": "it's \"q\" \\ \n \u2028 \x7f \u00ad",
}

EXPRESSIONS = """
s|upper, s|lower, u|upper, u|capitalize, s|title, "they're o'neil-smith (x) [y]"|title, s.title(), "they're"|title
s|length, u|length, u[1], u[-1], u[2:5], u[::-1], s[::2], s[8:2:-2], s[-100:100], s[5:], s[:-3], xs[::-1], xs[1:], xs[-1:5]
w|trim, w.strip()|length, "xxaxx".strip("x"), "xxaxx"|trim("x"), "xxaxx".lstrip("x"), w.rstrip(), "abcba".strip("ab")
s.split(), s.split("o"), s.split("o", 1), w.split(), "a,b,,c".split(","), s.rsplit("o", 1), "a b c".split(" ", 1), "  a  b ".split(None, 1)
s.startswith("He"), s.endswith(("x", "ld")), s.find("o"), s.rfind("o"), s.find("q"), u.find("na"), s.count("l"), s.replace("l", "L", 2)
s|replace("o", "0"), "aaa"|replace("a", "b", 2), s.replace("", "-"), "x"|replace("x", none), 12|replace("1", "3")
s.partition("o"), s.rpartition("o"), s.partition("q"), "a\\nb\\r\\nc".splitlines(), "a\\n\\n".splitlines(), "-".join(ws), "x".join([1])
"{} and {}".format(1, "b"), "{1}{0}".format(1, 2), "{a}".format(a=s), "{{}}{}".format(3), "%s-%d-%5.2f-%%" % ("a", 3, 2.5), "%s" % s, "%r" % s
"%x" % 255, "%05d" % 42, "%s" % xs, "%s %s" % (1,), "%d" % "a", "%s|%s"|format("a", 2)
"abc".isalpha(), "12".isdigit(), "a1".isalnum(), "  ".isspace(), "Abc".swapcase(), "abc".removeprefix("ab"), "abc".removesuffix("bc"), "\u00df".upper()
1 + 2, 7 // 2, -7 // 2, 7 % 3, -7 % 3, 7 / 2, 2 ** 10, 2 ** -1, 1.5 + 1, 0.1 + 0.2, 1e16, 1e-5, 123456789.0, 1.0, -0.0, 1e100, 5e-324
"a" + "b", "a" * 3, 3 * "ab", [1] + [2], [0] * 3, (1,) + (2,), "a" ~ 1 ~ none ~ true ~ 2.0 ~ xs, -n, +f, not t, - - n
1 / 0, 1 % 0, 1 // 0, "a" + 1, 1 + "a", none + 1, [] + "a", -s, no.x, no["x"], missing.x, missing["x"], missing + 1, "a" * "b"
9223372036854775807, 9223372036854775807 + 0, 1_000, 0x1F, 1_0.5, 10.5e-3
1 < 2 < 3, 1 < 3 < 2, 1 == 1.0, true == 1, "a" < "b", [1, 2] < [1, 3], none == none, "a" == 1, xs == [3, 1, 2], d == d, 1 != 2, "a" < 1, none < 1
"o" in s, "q" not in s, 3 in xs, "b" in d, "z" in d, 1 in s, "a" in missing, "a" in no, none in [none], 2 in (1, 2), "user" in ms[0].values()
t and s, e or s, not e, t or missing.x, z and missing.x, e and s, no or "d", xs and xs[0]
"a" if t else "b", "a" if z, ("a" if z) is defined, "a" if z else "b" if z else "c", (1, 2) if t else 3
xs, ws, d, (1,), (1, 2), (), [], {}, {"a": 1, 2: "b"}, true, false, none, True, None, 1.5, ["a'b", 'a"b', "a'\\"b"], q, [q], {"x": none}, [u]
missing, missing|string, missing|length, missing|default("x"), no|default("x"), no|default("x", true), e|default("x", true), s|d("x"), missing|list
xs|sort, ws|sort, ws|sort(case_sensitive=true), ws|sort(reverse=true), ms|sort(attribute="role")|map(attribute="content")|list, [1, "a"]|sort
xs|min, xs|max, empty|min, ws|min, ws|max(case_sensitive=true), xs|sum, [1.5, 2]|sum, ms|map(attribute="k.v")|list, empty|sum, ["a"]|sum
xs|first, xs|last, empty|first, empty|last, s|first, s|last, xs|reverse|list, s|reverse, xs|list, s|list, d|list, (xs|map("string"))|join("-")
xs|join, xs|join(", "), ms|join(",", attribute="role"), s|join("."), [none, true, 1.0]|join("|"), ["a", missing]|join("-"), 5|join
xs|unique|list, ["a", "A", "b"]|unique|list, ["a", "A"]|unique(case_sensitive=true)|list, [1, 1, 2]|unique|join
xs|map("string")|list, ws|map("upper")|join, ms|map(attribute="content", default="-")|list, ms|map(attribute="zz", default="-")|list, xs|map("nofilter")|list
xs|select("odd")|list, xs|select("gt", 1)|list, xs|reject("odd")|list, ["", "a"]|select|list, ms|selectattr("role", "equalto", "user")|list|length
ms|selectattr("content")|map(attribute="content")|list, ms|rejectattr("content", "none")|list|length, ms|selectattr("k", "defined")|list|length, ms|rejectattr("k")|list|length
ms|selectattr("role", "in", ["tool"])|list, xs|select("nosuch")|list, xs|select("==", 3)|list, xs|select|length, (xs|select)|first, none|selectattr("a")|list
d|items|list, d.items()|list, d.keys()|list, d.values()|list, d.get("a"), d.get("zz"), d.get("zz", 5), d["items"], d.items is callable, d|dictsort, {"b": 2, "A": 1}|dictsort
{"b": 1, "a": 2}|dictsort(by="value"), {"b": 1, "a": 2}|dictsort(reverse=true), {"B": 1, "a": 2}|dictsort(true), xs|items|list, missing|items|list, xs|dictsort
d|tojson, u|tojson, q|tojson, q|tojson(ensure_ascii=true), u|tojson(true), d|tojson(indent=2), []|tojson(indent=4), {}|tojson(indent=1), [[], {}, [1]]|tojson(indent=0)
d|tojson(separators=(",", ":")), d|tojson(sort_keys=true), {"a": 1}|tojson(indent="--"), 1.5|tojson, true|tojson, none|tojson, missing|tojson, (1, 2)|tojson, {1: 2, none: 3}|tojson
"</s>&<x>'"|tojson, 1e22|tojson, 0.1|tojson, "a\\tb\\bc\\fd\\u0001"|tojson, range(3)|list|tojson, xs|map("string")|tojson
"5"|int, "5.7"|int, "x"|int, "x"|int(3), 5.9|int, -5.9|int, none|int, true|int, " 42 "|int, "5.5"|float, "x"|float, 3|float, "1e3"|float, missing|int, "-3"|int
2.5|round, 3.5|round, 2.567|round(2), 2.1|round(0, "ceil"), 2.9|round(0, "floor"), 7|round, -5|abs, -5.5|abs, "a"|abs, 2|string, xs|string
"a\\nb\\n\\nc"|indent, "a\\nb"|indent(2), "a\\nb"|indent(2, true), "a\\n\\nb"|indent(2, false, true), "a\\nb"|indent("> "), ""|indent, "a\\n"|indent(first=true)
s is string, n is number, t is number, t is integer, n is integer, f is float, xs is iterable, s is iterable, n is iterable, xs is sequence, d is sequence, d is mapping, xs is mapping
missing is defined, s is defined, no is none, no is defined, missing is none, t is true, n is true, z is false, t is boolean, no is string, missing is iterable, missing is sequence, missing is mapping
3 is odd, 4 is even, 9 is divisibleby 3, 9 is divisibleby(2), 1 is sameas 1, t is sameas true, xs is sameas xs, 1 is eq 1, 1 is ne 2, 2 is gt 1, 1 is in [1], "a" is lower, "A" is upper, "1" is lower
"a" is not string, missing is not defined, 1 is not in [2], "upper" is filter, "odd" is test, range is callable, s is callable, xs|map("string") is iterable, (xs|map("string")) is sequence
s is nosuch, s|nosuch, s.nosuch, s.nosuch(), s.nosuch is defined, xs.append is defined, xs.append(1), d.pop("a"), d.update({}), xs.index(1), xs.count(3), xs.index(9), d.copy()
range(5)|list, range(2, 8, 3)|list, range(5, 0, -2)|list, range(0)|list, range(1, 2, 0), range(200000), range(3)[1], range("a")
xs[0], xs[5], xs[-3], xs["0"], xs.0, xs[true], s[0], s[99], d["b"], d.b, d["zz"], d.a[1].c, d.a.1, ms[0]["k"].v, ms[-1].role, xs[1.0], xs[none], no[0], d[xs], s["upper"]()
dict(a=1), dict(d, z=2), dict({"a": 1}), namespace(a=1).a, namespace().x, namespace({"b": 2}).b, namespace(_a=1)
"a" 'b' "c", "\\x41\\u00e9\\n\\t\\\\\\'\\"", 'a\\qb', "\\101", '\\U0001F600', "a\\
b"
"<"|safe + "<", "<" + "&"|safe, ("<"|safe) ~ "<", "<"|safe, ("<"|safe)|upper, (s|attr("upper"))(), d|attr("b"), ({"x": "a"}|attr("items"))()|list
"a" ~ -1, -1|abs, 2 + 3 * 4 ** 2 // 5 % 7, not 1 == 2, 1 + 1 if t else 2, "a" in "abc" and not "z" in "abc", 1 - -1, 2 * -3, -2 ** 2, n|string + "a", n ~ "a"|upper
s|upper|lower|title, xs|first|string ~ "x", (xs|length) > 2, xs|length > 2, xs|length == 3 and t, ms|map(attribute="role")|unique|list|length, s.upper().lower().strip("h")
xs is iterable and xs is not string, missing is defined or t, 1 is number == true, ws|join(",")|length, s.split()[-1], s.split(" ")[0][1:3]|upper, ms[1:]|length, ms[0:1][0].role
"a,b"|list, {"a": 1}.items()|list, {"a": {"b": [1, 2, {"c": 3}]}}.a.b[2].c, [1, [2, [3]]][1][1][0], "abc"[1:][0], (1, 2, 3)[1], (1, 2, 3)[1:], "a"|default, "é"|length
raise_exception("no"), s(), n(), s|upper(1), s|replace("a"), xs|join(1, 2, 3), s|default(zz=1), range(), s.strip(1), s.split(1), s.startswith(1)
"abc" > "abd", [1] == (1,), {} == {}, [[]] == [[]], "1" == 1, 1.5 > 1, true > false, [1, 2] > [1], (1, 2) <= (1, 2), none != 0, missing == missing, missing == none, missing != 1
"\\r\\n"|tojson, "a\\rb"|string|length, u|tojson|length, q|string, xs|string|length, 1.0|string, 100000000000000000000.0, 12345678901234567.0, 1e15, 0.0001, 0.00001
loop is defined, varargs is defined, caller is defined, messages is defined, true is defined
"".join(["a", "b"]), "".join("abc"), ["a", "b"]|join("\\n"), s|trim|length, n|trim, none|trim, missing|trim, xs|trim, no|upper, missing|upper, no|length, n|length, t|length
"ab"|first|upper, [xs, ws]|map("length")|list, [xs, ws]|map("first")|list, [[1, 2], [3]]|sum(start=[]), ws|map("lower")|sort|join, ws|map("replace", "a", "x")|join
"a b"|capitalize, "ABC def"|capitalize, "a-b c"|title, "A"|lower, "1a"|title, "élan vital"|title, "ñ"|upper
(missing|default({})).x is defined, (missing|default([]))|length, (no or {}).get("a", "z"), (d.zz or []) | length, d.get("b") + 1, d.get("zz") is none, d.zz is defined, d.zz is none
""" + "\n"

TEMPLATES = [
    "a\n{% if t %}\nb\n{% endif %}\nc\n", "a\n  {% if t %}\n  b\n  {% endif %}\nc", "a {%- if t -%} b {%- endif -%} c",
    "a\n  {{ 1 }}\n  b", "  {%+ if t %}x{% endif %}", "a\n{#- c -#}\n b", "a\n  {# c #}\n b", "{{ 1 }}\n", "{{ 1 }}\n\n", "x\r\ny\rz\r\n",
    "{% if t %}\n\n x{% endif +%}\ny", "{%- raw -%} {{ x }} {% endraw %}\nb", "{% raw %}\n {{ x }}\n{%- endraw %}\nb", "{{- 1 -}} a", "a {{- 1 }} b",
    "\t{% if t %}x{% endif %}\n\t{{ 2 }}", "a{{ '{{ }}' }}b", "{{ {'a': {'b': 1}}['a']['b'] }}", "{% set x = {'a': 1} %}{{ x }}",
    "{% for x in xs %}{{ x }}{% if not loop.last %}, {% endif %}{% endfor %}",
    "{% for x in xs %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.depth }} {% endfor %}",
    "{% for x in xs %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }} {{ loop.previtem is defined }}{% endfor %}",
    "{% for x in xs %}{% for y in ws %}{{ loop.index }}{% endfor %}{{ loop.index }}{{ loop.depth0 }}{% endfor %}",
    "{% for x in empty %}a{% else %}none{% endfor %}", "{% for x in missing %}a{% else %}none{% endfor %}", "{% for x in no %}a{% endfor %}",
    "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}", "{% for k, v in d|dictsort %}{{ k }}{% endfor %}", "{% for k in d %}{{ k }}{% endfor %}",
    "{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}", "{% for a, b in [(1, 2, 3)] %}{% endfor %}", "{% for c in 'aé' %}[{{ c }}]{% endfor %}",
    "{% for x in xs if x > 1 %}{{ loop.index }}:{{ x }}/{{ loop.length }} {% endfor %}", "{% for x in xs if x > 9 %}{% else %}none{% endfor %}",
    "{% for x in xs %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endfor %}", "{% for x in xs %}{% if x == 1 %}{% break %}{% endif %}{{ x }}{% endfor %}z",
    "{% for x in xs %}{% for y in xs %}{% if y == 1 %}{% break %}{% endif %}{{ y }}{% endfor %}-{% endfor %}", "{% for x in xs %}{{ loop.cycle('a', 'b') }}{% endfor %}",
    "{% for x in [1, 1, 2] %}{{ loop.changed(x) }}{% endfor %}", "{% break %}", "{% set i = 0 %}{% for x in xs %}{% set i = i + 1 %}{{ i }}{% endfor %}{{ i }}",
    "{% set ns = namespace(i=0, l=[]) %}{% for x in xs %}{% set ns.i = ns.i + x %}{% set ns.l = ns.l + [x] %}{% endfor %}{{ ns.i }}{{ ns.l }}",
    "{% if t %}{% set y = 1 %}{% endif %}{{ y }}", "{% if z %}{% set y = 1 %}{% endif %}{{ y }}", "{% if z %}{% set s = 1 %}{% endif %}{{ s }}",
    "{% for x in xs %}{% if loop.first %}{% set y = x %}{% endif %}{{ y }}{% endfor %}", "{% set x = 1 %}{% for x in xs %}{{ x }}{% endfor %}{{ x }}",
    "{% for x in xs %}{% set s = s ~ x %}{{ s }} {% endfor %}{{ s }}", "{% set a, b = 1, 2 %}{{ a }}{{ b }}", "{% set a = 1, 2 %}{{ a }}", "{% set a, b = 1 %}",
    "{% set d.x = 1 %}", "{% set missing.x = 1 %}", "{% set ns = namespace(a=1) %}{{ ns.a }}{{ ns.b }}{{ ns['a'] }}", "{% set x %}a{{ n }}{% endset %}{{ x }}{{ x is string }}",
    "{% set x | upper %}a{{ s }}{% endset %}{{ x }}", "{% set x | replace('a', 'b') | upper %}aa{% endset %}{{ x }}", "{% filter upper %}a{{ s }}{% endfilter %}",
    "{% set x %}{% set y = 2 %}{{ y }}{% endset %}{{ x }}{{ y }}", "{% with a = 1, b = n %}{{ a }}{{ b }}{% set c = 3 %}{% endwith %}{{ a }}{{ c }}",
    "{% macro m(a, b=2, c='x') %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(c=1, a=0) }}{{ m() }}",
    "{% macro m(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(b=2) }}",
    "{% macro m() %}{{ n }}{{ y }}{% endmacro %}{% set y = 5 %}{{ m() }}", "{{ m() }}{% macro m() %}x{% endmacro %}", "{% macro m() %}{% set y = 1 %}{% endmacro %}{{ m() }}{{ y }}",
    "{% macro f(n) %}{% if n > 0 %}{{ n }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(5) }}", "{% for x in xs %}{% macro m() %}{{ x }}{% endmacro %}{{ m() }}{% endfor %}",
    "{% macro m() %}{{ loop is defined }}{% endmacro %}{% for x in xs %}{{ m() }}{% endfor %}", "{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, a=3) }}",
    "{% macro m() %}[{{ caller() }}]{% endmacro %}{% call m() %}x{{ n }}{% endcall %}", "{% macro m() %}{{ caller(1, 2) }}{% endmacro %}{% call(a, b) m() %}{{ a }}{{ b }}{% endcall %}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(*[1]) }}{{ m(**{'a': 2}) }}{{ m.name }}", "{% macro m() %} x {% endmacro %}{{ m()|trim }}{{ m()|length }}",
    "{% generation %}x{% set y = 1 %}{% endgeneration %}{{ y }}", "{% print 1, 2 %}", "{% if t %}a{% elif missing.x %}b{% else %}c{% endif %}", "{% if z %}a{% elif t %}b{% else %}c{% endif %}",
    "{% if z %}a{% elif z %}b{% else %}c{% endif %}", "{% if missing %}a{% endif %}{{ missing is defined }}", "{% for x in xs|sort %}{{ x }}{% endfor %}{{ xs }}",
    "{% set it = xs|map('string') %}{% for x in it %}{{ x }}{% endfor %}{% for x in it %}{{ x }}{% endfor %}", "{% set x = missing %}{{ x is defined }}", "{{ x }}{% set x = 1 %}{{ x }}",
    "{% for m in ms %}{{ m.role }}{{ m['content'] }}{{ m.get('k', {}).get('v', '-') }}|{% endfor %}", "{% for i in range(3) %}{{ i }}{{ ms[i].role }}{% endfor %}",
    "{{ 'a' if t }}{{ 'b' if z }}", "{%if t%}a{%endif%}", "{{1+1}}", "{{ xs [ 0 ] }}", "{{ s . upper ( ) }}", "{{ s|upper | lower }}", "{{ (1, 2,) }}{{ 1, 2 }}", "{{ [1, 2,] }}{{ {'a': 1,} }}",
    "{{ }}", "{% %}", "{% foo %}", "{% if %}", "{% for %}", "{% endif %}", "{% if t %}", "{{ 'a }}", "{{ 1 ", "{# ", "{{ a b }}", "{{ (1 }}", "{{ 1) }}", "{% set 1 = 2 %}", "{% for x in xs %}", "{{ @ }}",
    "{{ a. }}", "{{ a| }}", "{{ a is }}", "{{ f(a=1, 2) }}", "{{ not }}", "{% macro m(a=1, b) %}{% endmacro %}", "{% set true = 1 %}", "{{ {1} }}", "{{ a[ }}", "{{ '\\x4' }}", "{% raw %}", "}} %} #}", "{", "{ {", "%}",
    "a {%- set x = 1 %}\n b {{- x }} c", "{%- for x in xs %}\n{{ x }}\n{%- endfor %}\nend", "{%- if t %}\n    {{- 'x' }}\n{%- else %}\n    {{- 'y' }}\n{%- endif %}\n",
    "line\n    {%- if t %} a {%- endif %}\n    next\n", "{% if t -%}\n   x\n   {%- endif %} y", "{% for x in xs -%}\n {{ x }}\n{%- endfor -%}\n.", "\n\n{{ s }}\n\n", "  {% set a = 1 %}  \nb", "a  {% set a = 1 %}  b",
    "{% set a = s ~ 'y' %}{% set b = a ~ 1 %}{% set c = a ~ 2 ~ a %}{{ a }}|{{ b }}|{{ c }}|{{ a + a }}|{{ b ~ b + b }}|{{ a[1:] ~ a }}",
    "{% set ns = namespace(o='') %}{% for x in xs %}{% set p = ns.o %}{% set ns.o = ns.o ~ x %}{% set ns.o = ns.o + 'é' %}{{ p }};{{ p ~ 9 }};{% endfor %}{{ ns.o }}",
    "{{ strftime_now('%%') }}{{ strftime_now('x') }}", "{{ raise_exception('Roles must ' ~ 'alternate') }}", "{% if t %}{{ raise_exception('a') }}{% endif %}", "{% set q = s.split('o') %}{{ q[0] + q[-1] }}",
    "{% set content = ms[0].content %}{% set ms = ms[1:] %}{{ content }}{{ ms|length }}", "{% for x in xs recursive %}{% endfor %}x", "{{ xs|select('odd') is iterable }}", "{{ d.items()|first }}",
]


def render(source):
    try:
        return chat_template_utils._compile_jinja_template(source).render(**VARIABLES)
    except Exception:  # whatever it raises
        return None


def expressions():
    """The expressions of EXPRESSIONS, one each: split at the commas outside brackets and quotes."""
    for line in EXPRESSIONS.strip().split("\n"):
        depth, quote, start, at = 0, None, 0, 0
        while at < len(line):
            c = line[at]
            if quote:
                at += c == "\\"
                quote = None if c == quote else quote
            elif c in "\"'":
                quote = c
            elif c in "([{":
                depth += 1
            elif c in ")]}":
                depth -= 1
            elif c == "," and depth == 0:
                yield line[start:at].strip()
                start = at + 1
            at += 1
        yield line[start:].strip()


def main():
    rows = [[t, render(t)] for t in ["{{ " + e + " }}" for e in expressions()] + TEMPLATES]
    golden = {"script": "tests/tools/make_jinja_golden.py",
              "versions": {"jinja2": jinja2.__version__, "transformers": transformers.__version__},
              "variables": VARIABLES, "rows": rows}
    text = json.dumps(golden, separators=(",", ":")).replace('],["', '],\n["')
    (TREE / "tests/golden/text/jinja.json").write_text(text + "\n")
    print(len(rows), "templates,", sum(text is None for _, text in rows), "that raise")


if __name__ == "__main__":
    main()
