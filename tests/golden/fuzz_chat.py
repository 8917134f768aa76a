"""Random small templates through the library and through jinja2 as transformers sets it up: equal texts, or an
error in both.   fuzz_chat.py LIBRARY [SECONDS] [SEED]"""
import random, sys, time, warnings
import chat_shapes as shapes
from quipu_chat import Quipu, reference

warnings.simplefilter("ignore")
quipu = Quipu(sys.argv[1])
seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 20
seed = int(sys.argv[3]) if len(sys.argv) > 3 else int(time.time())
R = random.Random(seed)
NAMES = ["messages", "m", "x", "y", "ns", "tools", "nope", "bos_token", "n", "s", "d", "l", "add_generation_prompt"]
ATTRS = ["role", "content", "name", "items", "a", "b", "length", "index0", "nope", "keys"]
TESTS = ["defined", "undefined", "none", "string", "mapping", "iterable", "sequence", "number", "integer", "float", "boolean", "true", "false",
         "odd", "even", "divisibleby(3)", "equalto('a')", "eq(1)", "in ['a', 1]", "lower", "upper", "callable", "sameas(none)", "gt(1)", "ne('')"]
FILTERS = ["trim", "upper", "lower", "title", "capitalize", "length", "string", "list", "first", "last", "tojson", "int", "float", "default('?')",
           "default('?', true)", "join(', ')", "join", "replace('a', 'bb')", "replace('', '-')", "indent(2)", "indent(1, true)", "indent(3, first=false, blank=true)",
           "sort", "sort(reverse=true)", "reverse", "unique", "map('upper')", "map(attribute='role')", "map('trim')", "select", "reject('none')",
           "select('string')", "selectattr('role', 'equalto', 'user')", "rejectattr('content')", "selectattr('nope', 'defined')", "abs", "max", "min", "sum",
           "items", "dictsort", "tojson(indent=2)", "tojson(separators=(',', ':'))", "tojson(sort_keys=true)", "e", "safe", "trim('ab')", "round", "round(1)",
           "map('default', 'z')", "batch(2)", "wordcount", "count", "d", "attr('a')", "format('k')", "tojson(ensure_ascii=true)"]
METHODS = ["strip()", "lstrip()", "rstrip()", "strip('ab ')", "split()", "split('a')", "split(' ', 1)", "rsplit('a', 1)", "splitlines()", "startswith('a')", "endswith(('b', 'c'))",
           "upper()", "lower()", "title()", "capitalize()", "replace('a', '')", "find('b')", "rfind('a')", "count('a')", "isdigit()", "isalpha()", "isspace()", "partition('b')",
           "items()", "keys()", "values()", "get('a')", "get('zz', 5)", "index(1)", "copy()", "removeprefix('a')", "removesuffix('c')", "join(['p', 'q'])", "append(1)", "nope()"]
STRINGS = ["''", "'a'", '"b\\n c"', "' ab\\tc '", "'\\u00e9\\x41'", "'%s|%d'", "'<|im_end|>'", "'A1 b-c (d'", "'x' 'y'", "'日本'", "'aAbBa\\r\\nb'"]


def const():
    return R.choice([lambda: str(R.randint(0, 12)), lambda: R.choice(STRINGS), lambda: R.choice(["true", "false", "none", "1.5", "0.1", "2e3", "1e20", "-0.0"])])()


def expr(depth=3):
    if depth <= 0 or R.random() < 0.3:
        return const() if R.random() < 0.45 else R.choice(NAMES)
    e = lambda: expr(depth - 1)
    k = R.randrange(20)
    if k < 2: return f"{e()} {R.choice(['+', '-', '*', '/', '//', '%', '~'])} {e()}"
    if k == 2: return f"{e()} {R.choice(['==', '!=', '<', '>', '<=', '>=', 'in', 'not in'])} {e()}"
    if k == 3: return f"{e()} {R.choice(['and', 'or'])} {e()}"
    if k == 4: return f"not {e()}"
    if k == 5: return f"({e()})"
    if k == 6: return f"({e()}).{R.choice(ATTRS)}"
    if k == 7: return f"{R.choice(NAMES)}[{R.choice([e(), str(R.randint(-3, 3)), repr(R.choice(ATTRS))])}]"
    if k == 8:
        b = lambda: R.choice(["", "", str(R.randint(-4, 4)), "1"])
        return f"({e()})[{b()}:{b()}" + (f":{R.choice(['-1', '2', '', '-2'])}]" if R.random() < 0.4 else "]")
    if k in (9, 10, 11): return f"{e()}|{R.choice(FILTERS)}" if R.random() < 0.6 else f"({e()})|{R.choice(FILTERS)}|{R.choice(FILTERS)}"
    if k in (12, 13): return f"({e()}).{R.choice(METHODS)}"
    if k == 14: return f"{e()} is {R.choice(['', 'not '])}{R.choice(TESTS)}"
    if k == 15: return f"{e()} if {e()}" + (f" else {e()}" if R.random() < 0.7 else "")
    if k == 16: return "[" + ", ".join(e() for _ in range(R.randint(0, 3))) + "]"
    if k == 17: return "{" + ", ".join(f"{R.choice(STRINGS + ['1', 'x'])}: {e()}" for _ in range(R.randint(0, 3))) + "}"
    if k == 18: return R.choice([f"range({R.randint(0, 4)})", f"range({e()})", "dict(a=1, b=x)", f"namespace(a={e()})", f"mac({e()})", f"mac({e()}, b={e()})"])
    return f"-{e()}"


def mark(): return R.choice(["", "", "", "-", "-", "+"])
def endmark(): return R.choice(["", "", "", "-"])
def block(text): return "{%" + mark() + " " + text + " " + endmark() + "%}"
def text(): return R.choice(["", " ", "\n", "  \n  ", "a\n", "\n\n", "x ", " y", "\t", "{ }", "\r\n"])


def body(depth):
    return "".join(stmt(depth) for _ in range(R.randint(1, 3)))


def stmt(depth=2):
    t = text()
    k = R.randrange(12)
    if k < 4 or depth <= 0: return t + "{{" + R.choice(["", "", "-"]) + " " + expr() + " " + endmark() + "}}" + text()
    if k == 4: return t + block(f"if {expr(2)}") + body(depth - 1) + (block(f"elif {expr(1)}") + body(depth - 1) if R.random() < 0.3 else "") + (block("else") + body(depth - 1) if R.random() < 0.5 else "") + block("endif") + text()
    if k == 5 and R.random() < 0.3:
        return t + block(f"for x in {R.choice(['d.b', 'tree', 'y', expr(1)])} recursive") + body(depth - 1) + "{{ loop.depth }}{% if x is mapping %}{{ x.n }}{{ loop(x.c) }}{% endif %}" + block("endfor") + text()
    if k == 9 and R.random() < 0.4:
        return t + block(f"call{R.choice(['', '(u)', '(u, v=3)'])} {R.choice(['mac(1)', 'mac(x, b=2)', 'cal(y)', 'cal(1)', 'cal(x)'])}") + body(depth - 1) + "{{ u }}{{ v }}" + block("endcall") + text()
    if k in (5, 6): return t + block(f"for {R.choice(['m', 'x', 'x, y', 'm'])} in {expr(2)}" + (f" if {expr(1)}" if R.random() < 0.3 else "")) + body(depth - 1) + R.choice(["", "{{ loop.index }}{{ loop.last }}", "{{ loop.previtem }}", block("break"), "{{ loop.cycle('p', 'q') }}", block("if loop.first") + block("continue") + block("endif")]) + (block("else") + body(depth - 1) if R.random() < 0.3 else "") + block("endfor") + text()
    if k == 7: return t + block(f"set {R.choice(['x', 'y', 'n', 'ns.a', 'x, y', 'm'])} = {expr(2)}") + text()
    if k == 8: return t + block(f"set {R.choice(['x', 's'])}" + R.choice(["", "", " | trim", " | upper"])) + body(depth - 1) + block("endset") + text()
    if k == 9: return t + block(f"macro mac(a, b={expr(1)})") + body(depth - 1) + "{{ a }}{{ b }}" + block("endmacro") + text()
    if k == 10: return t + "{#" + mark() + " c " + endmark() + "#}" + text()
    return t + R.choice([block("set ns = namespace(a=1)"), block("raw") + "{{ x }}" + block("endraw"), block("generation") + body(depth - 1) + block("endgeneration"), block("filter trim") + body(depth - 1) + block("endfilter"), block(f"with x = {expr(1)}") + body(depth - 1) + block("endwith")]) + text()


CALL = "{% macro cal(a) %}<{{ caller(a) if a else caller() }}>{% endmacro %}"
VARIABLES = {"tree": [{"n": "a", "c": [{"n": "b", "c": []}]}, {"n": 1, "c": []}], "x": "abc a", "y": [3, 1, 2], "n": 7, "s": " Hello World\n", "d": {"a": 1, "b": [1, {"c": None}], "items": "q"}, "l": ["b", "A", "c"]}
end = time.time() + seconds
count = wrong = refused = same_error = 0
while time.time() < end and wrong < 15:
    template = R.choice(["", CALL]) + "".join(stmt() for _ in range(R.randint(1, 3)))
    messages = R.choice([m for m in shapes.MESSAGES.values() if m])
    theirs, error = reference(template, messages, shapes.TOKENS, variables=VARIABLES, now=shapes.NOW)
    ours, our_error = quipu.render(template, messages, shapes.TOKENS, variables=VARIABLES, now=shapes.NOW)
    count += 1
    if ours == theirs:
        same_error += ours is None
        continue
    # what is refused on purpose: said so, what Python shows of objects, and errors that Jinja puts off
    # until a generator is walked through or hides by folding constants
    if ours is None and (any(w in our_error for w in ("a slice of", "items of", "walked through", "fewer places")) or "templates here have no" in our_error or "is printed" in our_error or "64 bits" in our_error or "a format other" in our_error
                         or (theirs and "<generator" in theirs.lower())):
        refused += 1
        continue
    wrong += 1
    print(f"--- {template!r}\n theirs {theirs!r} {error}\n ours   {ours!r} {our_error}")
print(f"{count} templates, seed {seed}: {wrong} differ, {refused} refused on purpose, {same_error} errors in both")
sys.exit(wrong > 0)
