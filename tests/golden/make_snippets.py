"""Writes tests/golden/chat/snippets.json: small templates and what jinja2 makes of them as transformers sets it
up (null: an error), where the library agrees.   make_snippets.py LIBRARY
What it refuses on purpose, and what the two show differently, is printed and left out."""
import copy, itertools, json, os, random, sys, time, warnings
from unittest import mock
import datetime
import chat_shapes as shapes
from quipu_chat import Quipu
from transformers.utils import chat_template_utils

warnings.simplefilter("ignore")
os.environ["TZ"] = "UTC"
time.tzset()
quipu = Quipu(sys.argv[1])
VARIABLES = {"x": "abc a", "y": [3, 1, 2], "n": 7, "s": " Hello World\n", "d": {"a": 1, "b": [1, {"c": None}], "items": "q"}, "l": ["b", "A", "c", "a"],
             "o": [{"k": 2, "v": "x"}, {"k": 1, "v": "Y"}], "e": [], "z": ""}
MESSAGES = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "a\u2028b\u00e9"}]
VALUES = ["x", "s", "''", "'a-B (c1'", "'\\u00e9\\u4e00\\n\\x01'", "7", "-3", "0", "1.5", "-0.0", "1e300", "true", "false", "none", "nope", "y", "l", "e", "(1, 'a')", "d", "{}",
          "o", "range(3)", "namespace(a=1)", "y|map('string')", "d.items()", "messages", "9223372036854775807", "'12'", "' -1.5e2 '", "'%s %d %% %r'", "'<&>\\'\"'", "range", "'a\\r\\nb\\x0bc\\x1cd\\u2028e\\x85'"]
FILTERS = ["trim", "trim('ab')", "trim(chars=' ')", "upper", "lower", "title", "capitalize", "length", "count", "string", "list", "first", "last", "tojson", "tojson(indent=2)",
           "tojson(separators=(',', ':'))", "tojson(sort_keys=true)", "tojson(ensure_ascii=true)", "int", "int(5)", "int(5, 10)", "int(base=16)", "float", "float(2.5)", "default('?')",
           "default('?', true)", "d('q')", "join", "join(', ')", "join(attribute='k')", "join('-', 'k')", "replace('a', 'bb')", "replace('', '-')", "replace('a', '', 1)", "replace('', '-', 2)", "replace('a')", "replace",
           "indent(2)", "indent('> ')", "indent(1, true)", "indent(3, first=false, blank=true)", "indent(1001)", "indent(none)", "sort", "sort(reverse=true)", "sort(case_sensitive=true)",
           "sort(attribute='k')", "sort(attribute='nope')", "reverse", "reverse|list", "unique|list", "unique(true)|list", "unique(attribute='k')|list", "map('upper')|list", "map('nosuch')|list", "map|list", "map(attribute='k')|list",
           "map(attribute='k', default='z')|list", "map(attribute='v.0')|list", "map(attribute=0)|list", "map('default', 'z')|list", "map('replace', 'a', 'b')|list", "select|list", "select('odd')|list", "reject|list", "reject('none')|list",
           "select('gt', 1)|list", "selectattr('k')|list", "selectattr('k', 'eq', 1)|list", "selectattr('nope', 'defined')|list", "rejectattr('k', 'in', [1])|list", "selectattr|list", "selectattr(0)|list", "select('nosuch')|list",
           "abs", "max", "min", "max(attribute='k')", "min(case_sensitive=true)", "sum", "sum(attribute='k')", "sum(start=1.5)", "sum('k', 1)", "items|list", "dictsort", "dictsort(by='value')", "dictsort(true, reverse=true)",
           "e", "escape", "safe", "round", "round(1)", "round(method='ceil')", "round(1, 'floor')", "round(-1)", "round('x')", "attr('a')", "attr('items')", "attr(1)", "attr", "format(1)", "format('k', 2, 3)", "format", "wordcount", "batch(2)|list"]
TESTS = ["defined", "undefined", "none", "string", "mapping", "iterable", "sequence", "number", "integer", "float", "boolean", "true", "false", "callable", "odd", "even", "divisibleby(3)", "divisibleby(0)", "divisibleby('a')",
         "divisibleby(-1)", "equalto('a')", "eq(1)", "ne(1)", "eq", "== 1", "in ['a', 1, 7]", "in 'abc'", "in {'a': 1}", "in 5", "lower", "upper", "sameas(none)", "sameas(1)", "gt(1)", "lt(1)", "ge(1.5)", "le(1.5)", "greaterthan('a')", "lessthan('b')", "not none", "not lower", "gt", "ge", "in"]
METHODS = ["strip()", "strip('a ')", "strip(none)", "strip(1)", "lstrip()", "lstrip('a')", "rstrip()", "rstrip('a')", "split()", "split(none, 1)", "split('a')", "split(' ', 1)", "split(sep='b')", "split(maxsplit=1)", "split('')", "split(1)", "rsplit('a', 1)", "rsplit()", "rsplit('a')", "rsplit('')", "rsplit(none, 1)", "splitlines()",
           "splitlines(true)", "startswith('a')", "startswith(('x', 'a'))", "startswith()", "startswith(1)", "startswith((1,))", "endswith(('b', 'a'))", "endswith('a', 1)", "upper()", "lower()", "title()", "capitalize()", "replace('a', '')", "replace('a', 'b', 1)", "replace('a')", "find('b')", "find('q')", "find()", "rfind('a')",
           "index('b')", "index('q')", "index(1)", "index(9)", "index()", "count('a')", "count('')", "count(1)", "count()", "isdigit()", "isalpha()", "isalnum()", "isspace()", "partition('b')", "partition('q')", "partition('')", "items()|list", "keys()|list", "values()|list", "get('a')", "get('zz')", "get('zz', 5)", "get()", "get(1, 2, 3)",
           "get([])", "copy()", "removeprefix('a')", "removeprefix('q')", "removesuffix('a')", "removesuffix(1)", "join(['p', 'q'])", "join([1])", "join('pq')", "join()", "join(5)", "append(1)", "update({})", "pop()", "zfill(2)", "nope()", "__class__", "a", "items", "cycle(1)", "_x"]
BINARY = ["+", "-", "*", "/", "//", "%", "**", "~", "==", "!=", "<", ">", "<=", ">=", "in", "not in", "and", "or"]
OPERANDS = ["x", "''", "7", "-3", "0", "1.5", "-2.0", "true", "none", "nope", "y", "[1]", "(1, 2)", "d", "{'a': 1, 'b': [1, {'c': none}], 'items': 'q'}", "9223372036854775807", "'%s'", "range(3)", "0.5", "-1", "[3, 2]"]
SLICES = ["[0]", "[-1]", "[true]", "[9]", "[-9]", "['a']", "['items']", "[none]", "[1.0]", "[:]", "[1:]", "[:-1]", "[-2:]", "[::2]", "[::-1]", "[2:0:-1]", "[::9]", "[::-9]", "[9:]", "[:9]", "[-9:2]", "[:-9]", "[::0]", "['a':]", "[:nope]", "[::1.5]", "[true:]", "[1:0]", "[-9::-1]", "['__class__']", "[9:0:-1]"]

random.seed(5)


def some(all, n):
    return random.sample(all, min(n, len(all)))


single = some([f"({v})|{f}" for v in VALUES for f in FILTERS], 9999) + some([f"({v}) is {t}" for v in VALUES for t in TESTS], 9999)
single += some([f"({v}).{m}" for v in VALUES for m in METHODS], 9999)
single += some([f"({a}) {op} ({b})" for a, b in itertools.product(OPERANDS, OPERANDS) for op in BINARY if op != "**" or not b.startswith("9")], 2500)
single += some([f"({v}){s}" for v in VALUES for s in SLICES], 9999) + [f"{sign}({v})" for v in VALUES for sign in ("-", "+")]
single += [f"{a} {o} {b} {p} {c}" for a, b, c in (("1", "2", "3"), ("3", "2", "1"), ("1", "nope", "2")) for o in ("<", ">", "==", "in") for p in ("<", "<=", "!=")]
single += ["1 if true", "1 if false", "1 if x else 2", "1 if nope else 2", "(1 if false)|default('q')", "range(1, 5)|list", "range(5, 1, -2)|list", "range(0)|list", "range(1, 2, 0)|list", "range()", "range(1, 2, 3, 4)", "range('a')", "range(true)|list",
           "range(-3, 3, 2)|list", "dict(a=1, b=2)", "dict({'a': 1}, b=2)", "dict([['a', 1], ('b', 2)])", "dict([1])", "dict(5)", "dict([[1, 2, 3]])", "dict({}, {})", "dict([[[], 1]])", "namespace(a=1).a", "namespace().a", "namespace({'a': 2}).a", "namespace(__x=1).a", "raise_exception('x')",
           "raise_exception()", "strftime_now('%Y')", "strftime_now('')", "strftime_now()", "strftime_now(1)", "x is defined and x", "not not x", "1 + 2 * 3 ** 2 ** 0", "2 ** -1", "0 ** -1", "0 ** 0", "1 ** 99", "(-1) ** 3", "(-1) ** 4", "2 ** 62", "2 ** 63", "2.5 ** 2", "1e308 ** 2.0", "-2 ** 2",
           "7 % -3", "-7 // 2", "-7.5 // 2", "7.5 % -2", "1 / 3", "1e16", "1e15", "123456789012345678", "1e-5", "0.0001", "1_000", "0x1f", "0b11", "0o7", "1.5e3", "'a' 'b'", "'a' ~ 1 ~ none ~ 1.5 ~ [true]", "[1, 'a', none, 1.5, [], {}, ()]", "{'a': 1, 2: 'b', none: [], 1.5: (), true: 0}", "{[]: 1}", "{{}: 1}", "{(1, 2): 3}",
           "(1,)", "()", "1, 2", "x.y.z", "nope.x", "nope['x']", "nope()", "x()", "nope|length", "d.b[1].c", "d['b'][1]['c']", "d.items", "d|attr('items')", "l|join(',')|upper", "['b', 'a']|sort|first", "x|upper is upper", "x is string and n is number", "y|sort(reverse=true)|list", "[[1, 2], [1]]|sort", "[[2], [1, 5]]|sort", "[1, 'a']|sort",
           "[[1, [2]], [1, [1]]]|sort", "[1, 1.0, true, 'a', 'A']|unique|list", "[none]|sort", "[nope]|list", "[1, 2]|sum", "['a']|sum", "[[1]]|sum(start=[])", "'\\\\ \\' \\t \\r \\u00e9 \\x41 \\U0001F600 \\a \\b \\f \\v \\0 \\101 \\N'", "'\\q'", "\"it's\"", "[\"it's\", 'say \"x\"', \"'\\\"\"]", "['\\u200b\\ufeff\\xa0\\xad\\x7f\\x80\\u2028\\u3000\\U000e0001']", "'a\\\nb'",
           "'abc'|format", "'%s'|format(1, 2)", "'%d'|format('a')", "'%d %i'|format(1, true)", "'%x'|format(1)", "'%'|format(1)", "'%s' % 1", "'%s %s' % (1, 2)", "'%s' % (1, 2)", "'%s %s' % 1", "'%d' % 1.5", "'%r' % 'a'", "'a' * 3", "3 * 'a'", "[1] * 2", "2 * (1, 2)", "'a' * -1", "'a' * true", "true * 'a'", "[1] + [2]", "(1,) + (2,)", "[1] + (2,)", "true + true",
           "true - 1", "-true", "+true", "- 'a'", "not nope", "nope == nope", "nope < 1", "1 < none", "[1] < [2]", "(1,) < (1, 2)", "'a' < 'b' < 'c'", "1 == 1.0 == true", "{} == {}", "{'a': 1} == {'a': 1}", "{'a': 1} == {'b': 1}", "{'a': 1} == {'a': 2}", "[1] == (1,)", "range(2) == range(2)", "range == range", "d == d", "none == none", "none == false", "1e999", "1e999 == 1e999", "-1e999", "1e999 - 1e999 == 0",
           "(1e999 - 1e999) < 1", "'a' in 'abc'", "1 in 'abc'", "none in [none]", "[1] in [[1]]", "'a' in d", "'a' in nope", "1 in 5", "'' in ''", "l is iterable", "loop", "self", "true and x or y", "false and x or z", "x.upper().lower().title()", "x.upper", "'{}'.format(1)", "x.split|string", "range|string is string", "d.get('a') is number",
           "'a\\tb c'.title()", "'hELLO wORLD'|title", "'x-y(z'|title", "'\\u01c6'|title", "'\\u00df'|upper", "'\\u0130'|lower", "'\\u01c5'|lower", "'a1b'.title()", "'١'.isdigit()", "'²'.isalpha()", "'日本'.isalpha()", "'aä'.isalnum()", "'\\u2003'.isspace()", "'\\u1680\\u205f\\u202f\\u2029\\u3000'|trim|length", "'\\u180e'|trim|length"]
wholes = ["{% for m in y %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.depth }}{{ loop.depth0 }}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.nope }}{{ loop.cycle('p', 'q') }}{{ loop.changed(m > 1) }};{% endfor %}",
          "{% for m in y %}{{ loop.cycle() }}{% endfor %}", "{% for a, b in [[1, 2], (3, 4)] %}{{ a }}{{ b }}{% endfor %}", "{% for a, b in [[1]] %}{% endfor %}", "{% for a, b in [[1, 2, 3]] %}{% endfor %}", "{% for a, b in [5] %}{% endfor %}", "{% for a, b in ['xy'] %}{{ b }}{% endfor %}", "{% for (a, b), c in [[[1, 2], 3]] %}{{ c }}{% endfor %}",
          "{% for m in [] %}{% else %}none{% endfor %}", "{% for m in y if m > 1 %}{{ m }}{{ loop.length }}{% else %}x{% endfor %}", "{% for m in y if m > 9 %}{{ m }}{% else %}x{% endfor %}", "{% for m in y if nope.x %}{% endfor %}", "{% for m in nope %}{% else %}q{% endfor %}", "{% for m in 5 %}{% endfor %}", "{% for m in none %}{% endfor %}", "{% for m in 'ab' %}{{ m }}{% endfor %}",
          "{% for m in d %}{{ m }}{% endfor %}", "{% for m in y recursive %}{% endfor %}", "{% for m in y %}{% if m == 1 %}{% break %}{% endif %}{{ m }}{% endfor %}", "{% for m in y %}{% if m == 1 %}{% continue %}{% endif %}{{ m }}{% endfor %}", "{% for m in y %}{% for k in y %}{% break %}{% endfor %}{{ m }}{% endfor %}", "{% break %}", "{% continue %}", "{% for m in y %}{{ loop }}{% endfor %}", "{% for loop in y %}{{ loop }}{% endfor %}",
          "{% for m in y %}{% for k in [1] %}{{ loop.depth }}{% endfor %}{% endfor %}", "{% set a = 1 %}{% if true %}{% set a = 2 %}{% endif %}{{ a }}", "{% set a, b = 1, 2 %}{{ a }}{{ b }}", "{% set a, b = 1 %}", "{% set a, b = [1, 2, 3] %}", "{% set a, b = 'xy' %}{{ a }}{{ b }}", "{% set a %}x{{ 1 }}{% endset %}{{ a }}", "{% set a | upper %}x{% endset %}{{ a }}", "{% set a | replace('x', 'y') | trim %} x {% endset %}{{ a }}", "{% set a | nosuch %}x{% endset %}",
          "{% set a | abs %}x{% endset %}", "{% set a.b = 1 %}", "{% set d.a = 1 %}", "{% set ns = namespace() %}{% set ns.a = 1 %}{{ ns.a }}{{ ns.b }}{{ ns }}", "{% set ns = namespace() %}{% set ns._a = 1 %}", "{% set ns.a = 1 %}", "{% set 1 = 2 %}", "{% set true = 2 %}", "{% set x = %}", "{% set x 1 %}", "{% set %}", "{% set (a, b) = (1, 2) %}{{ a }}", "{% set [a] = 1 %}", "{% set _a = 1 %}{{ _a }}",
          "{% if x %}a{% elif y %}b{% else %}c{% endif %}", "{% if z %}a{% elif y %}b{% else %}c{% endif %}", "{% if z %}a{% elif e %}b{% else %}c{% endif %}", "{% if nope.a %}{% endif %}", "{% if %}{% endif %}", "{% if x %}{% else %}{% elif y %}{% endif %}", "{% if x %}{% else %}", "{% endif %}", "{% elif x %}", "{% if x %}{% endfor %}", "{% for m y %}{% endfor %}", "{% for in y %}{% endfor %}", "{% for m in %}{% endfor %}", "{% for m in y %}", "{% for m in y %}{% else %}",
          "{% macro f(a, b=2, c=a) %}[{{ a }}{{ b }}{{ c }}]{% endmacro %}{{ f(1) }}{{ f(1, 3) }}{{ f(a=1, c=4) }}{{ f() }}", "{% macro f(a) %}{{ a }}{% endmacro %}{{ f(1, 2) }}", "{% macro f(a) %}{{ a }}{% endmacro %}{{ f(b=2) }}", "{% macro f(a) %}{{ a }}{% endmacro %}{{ f(1, a=2) }}", "{% macro f(a) %}{{ nope.x }}{% endmacro %}{{ f(1) }}", "{% macro f(a=nope.x) %}{% endmacro %}{{ f() }}", "{% macro f() %}{{ caller() }}{% endmacro %}{{ f() }}",
          "{% macro f() %}{{ x }}{% set x = 1 %}{{ x }}{% endmacro %}{{ f() }}{{ x }}", "{% macro f %}{% endmacro %}", "{% macro f( %}{% endmacro %}", "{% macro f(1) %}{% endmacro %}", "{% macro f(a=1, b) %}{% endmacro %}", "{% macro f(a b) %}{% endmacro %}", "{% macro 1() %}{% endmacro %}", "{% macro f() %}", "{% macro f() %}{% endif %}", "{{ f }}{% macro f() %}{% endmacro %}", "{% macro f() %}a{% endmacro %}{{ f }}", "{% macro f() %}a{% endmacro %}{{ f is callable }}{{ f == f }}{{ f is sameas(f) }}",
          "{% filter upper %}a{{ x }}{% endfilter %}", "{% filter trim | upper %} a {% endfilter %}", "{% filter %}{% endfilter %}", "{% filter nosuch %}{% endfilter %}", "{% filter upper %}", "{% filter abs %}a{% endfilter %}", "{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}{{ a }}", "{% with %}{{ x }}{% endwith %}", "{% with a = nope.x %}{% endwith %}", "{% with a %}{% endwith %}", "{% with a = 1 b = 2 %}{% endwith %}", "{% with a = 1 %}", "{% generation %}a{% endgeneration %}", "{% generation %}",
          "{% generation x %}{% endgeneration %}", "{% raw %}{{ x }}{% endraw %}", "{% raw %}", "{%- raw -%} a {%- endraw -%} b", "{# a #}b", "{#- a -#} b", "a {#- b #}", "{# a", "{{ x", "{% if x", "{{", "{%", "{{ }}", "{% %}", "{{ x }", "{{ x %}", "{% if x }}", "}}", "%}", "{ {", "{{ 'a }}", "{{ \"a }}", "{{ @ }}", "{{ $x }}", "{{ x ! y }}", "{{ x = 1 }}", "{{ ) }}", "{{ (1 }}", "{{ [1 }}", "{{ [1,, 2] }}", "{{ [1, 2,] }}", "{{ {1} }}", "{{ {1: 2, } }}", "{{ {1: } }}", "{{ {'a' 1} }}", "{{ {a: 1} }}", "{{ (1, 2 }}", "{{ x[ }}", "{{ x[1 }}", "{{ x[] }}",
          "{{ x[1:2:3:4] }}", "{{ x[1, 2] }}", "{{ x. }}", "{{ x.1 }}", "{{ y.0 }}", "{{ x.'a' }}", "{{ x| }}", "{{ x|1 }}", "{{ x|upper( }}", "{{ x|upper(1 }}", "{{ x is }}", "{{ x is 1 }}", "{{ x is not }}", "{{ x is not 5 }}", "{{ x is nosuch }}", "{{ x is defined is true }}", "{{ x is in }}", "{{ f(1, a=2, 3) }}", "{{ dict(a=1, a=2) }}", "{{ dict(1=2) }}", "{{ f(*x) }}", "{{ f(**x) }}", "{{ dict(,) }}", "{{ dict(a=) }}", "{{ range(1,) }}", "{{ range(1 2) }}", "{{ x if }}", "{{ x if y else }}", "{{ if x }}",
          "{{ x else y }}", "{{ not }}", "{{ x and }}", "{{ or x }}", "{{ x not y }}", "{{ x not in }}", "{{ x in }}", "{{ 1 + }}", "{{ * 2 }}", "{{ 1 == }}", "{{ == 1 }}", "{{ x ~ }}", "{{ 1 ** }}", "{{ - }}", "{{ true.x }}", "{{ none.x }}", "{{ 1.x }}", "{{ 'a'.upper() }}", "{{ [1][0] }}", "{{ (1, 2)[1] }}", "{{ {'a': 1}.a }}", "{{ 'a' 'b'[0] }}", "{{ x|upper.lower }}", "{{ x|upper|lower }}", "{{ -x|abs }}", "{{ -7|abs }}", "{{ 2 ** 3|string }}", "{{ x.upper()|lower }}", "{{ True }}{{ False }}{{ None }}", "{{ true }}{{ none }}",
          "{{ not x is defined }}", "{{ x is not defined }}", "{{ 1 is lessthan 2 }}", "{{ 7 is divisibleby 7 }}", "{{ 'a' is in ['a'] }}", "{{ x is eq x }}", "{{ 1 is gt -1 }}", "{{ y is eq [3, 1, 2] }}", "{{ d is eq {'a': 1} }}", "{{ 7 is divisibleby(7) and true }}", "{{ x is defined and y is defined or z }}", "{{ x is string else 1 }}", "{{ 1 is defined if x else 2 }}", "{{ (1 if z) }}", "{{ 1 if z else 2 if z else 3 }}", "{{ x ~ y }}", "{{ 'a' + 'b' ~ 'c' }}", "{% include 'a' %}", "{% import 'a' as b %}", "{% extends 'a' %}", "{% block a %}{% endblock %}", "{% call f() %}{% endcall %}", "{% do x %}", "{% nosuch %}", "{% 1 %}", "{% autoescape true %}{% endautoescape %}", "{% trans %}{% endtrans %}",
          "a\n{%- if x -%}\n b \n{%- endif -%}\n c", "a\n  {%+ if x %}\nb\n  {%+ endif %}\nc", "a\n  {{- x -}}  \nb", "  {% set a = 1 %}\nb", "x  {% set a = 1 %}  \nb", "{% set a = 1 %}\n\nb", "a\r\nb\r\n{% if x %}\r\nc\r\n{% endif %}\r\n", "\n", "", " ", "a\n\n", "\t{% if x %}\t\nb{% endif %}", "{{ '{{' }}{{ '%}' }}", "{{ \"a\nb\" }}", "{{ x\n}}", "{{\tx }}", "{% if x -%} a {%- endif %}", "{{ '\\u12' }}", "{{ '\\x1' }}", "{{ 'é' }}é", "{{ 1.2.3 }}", "{{ 1e }}", "{{ 1.e3 }}", "{{ .5 }}", "{{ 00 }}", "{{ 01 }}", "{{ 1__0 }}", "{{ 99999999999999999999 }}", "{{ 1.5_0 }}", "{{ 0xg }}", "{{ é }}", "{{ messages[0]['role'] }}{{ messages[-1].content }}{{ messages|length }}",
          "{% for m in messages %}{{ m.role }}{{ m['content'] }}{{ m.nope }}{% endfor %}", "{{ bos_token }}{{ eos_token }}{{ add_generation_prompt }}{{ tools }}{{ documents }}", "{{ x[1:][:-1][::-1] }}", "{% set a = [] %}{% for m in y %}{% set a = a + [m] %}{% endfor %}{{ a }}", "{{ [1, [2, [3, {'a': [4]}]]]|tojson }}", "{{ {'b': 1, 'a': {'d': none, 'c': 1.5}}|tojson(indent=1) }}", "{{ []|tojson(indent=2) }}{{ {}|tojson(indent=2) }}", "{{ nope|tojson }}", "{{ (1, 2)|tojson }}", "{{ range(2)|tojson }}", "{{ '\\u2028\\x01\\t\"\\\\/<é😀'|tojson }}", "{{ {1: 2, none: 3, true: 4, 1.5: 5}|tojson }}", "{{ {(1, 2): 3}|tojson }}",
          "{{ 1e999|tojson }}", "{{ namespace(a=1)|tojson }}", "{{ d|tojson(indent='ab') }}", "{{ d|tojson(separators=(1, 2)) }}", "{{ d|tojson(separators=',') }}", "{{ d|tojson(true) }}", "{{ d|tojson(indent=-1) }}", "{{ d|tojson(indent=0) }}", "{{ d|tojson(nosuch=1) }}", "{{ {'z': 1, 'a': 2}|tojson(sort_keys=true, indent=2, separators=('; ', ' = ')) }}"]

class Fixed(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(shapes.NOW, tz)


environment = chat_template_utils._compile_jinja_template("").environment  # one for all, as transformers makes it


def reference(template):
    with mock.patch.object(chat_template_utils, "datetime", Fixed):
        try:
            return environment.from_string(template).render(messages=copy.deepcopy(MESSAGES), tools=None, documents=None, add_generation_prompt=False,
                                                            **shapes.TOKENS, **copy.deepcopy(VARIABLES)), None
        except Exception as e:  # noqa: BLE001 whatever Python raises is a refusal
            return None, f"{type(e).__name__}: {e}"


def both(template):
    return reference(template), quipu.render(template, MESSAGES, shapes.TOKENS, variables=VARIABLES, now=shapes.NOW)



cases, good, left_out = [], [], 0
def add(template, value=None):
    global left_out
    (theirs, error), (ours, our_error) = both(template)
    if theirs != ours:
        left_out += 1
        if "-v" in sys.argv:
            print(f"--- {template!r}\n theirs {theirs!r} {error}\n ours   {ours!r} {our_error}")
    elif theirs is None:
        cases.append([template, None])
    elif value is None:
        cases.append([template, theirs])
    else:
        good.append(value)

for value in single:
    add("{{ " + value + " }}", value)
# where nothing fails, many values to a template
for i in range(0, len(good), 12):
    template = "\u00a6".join("{{ " + v + " }}" for v in good[i:i + 12])
    cases.append([template, both(template)[0][0]])
for template in wholes:
    add(template)
errors = [c for c in cases if c[1] is None]
kept = [c for c in cases if c[1] is not None] + some(errors[:-260], 1200) + errors[-260:]
with open(f"{shapes.FOLDER}/snippets.json", "w") as f:
    json.dump({"variables": VARIABLES, "messages": MESSAGES, "tokens": shapes.TOKENS, "now": shapes.NOW, "cases": kept}, f, ensure_ascii=False, separators=(",", ":\n")[0:1] + (":",))
print(len(single) + len(wholes), "snippets,", len(kept), "cases,", len(errors), "errors,", left_out, "left out")
