/* The templates' language: what small ones mean, and sources and values that nobody sane writes. */
#include "small_template.h"

#include <jansson.h>

#include "../format/in_turn.h"

/* ---- Small templates ------------------------------------------------------------------------------ */

static void test_meaning(void **state) {
    (void)state;
    /* each of these was found by comparing with jinja2 (tests/golden/fuzz_chat.py) or is easily got wrong */
    expect_text("{% set x = 1 %}{% for m in [1, 2] %}{% set x = m %}{% endfor %}{{ x }}", "1");
    expect_text("{% set ns = namespace(x=1) %}{% for m in [1, 2] %}{% set ns.x = m %}{% endfor %}{{ ns.x }}",
                "2");
    expect_text("a\n  {% if true %}\nb\n  {% endif %}\nc\n", "a\nb\nc");
    expect_text("a \n  {%- if true -%} \n b {%+ endif +%}\nc", "ab \nc");
    expect_text("{{ 7 // -2 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 2 ** 3 }} {{ 1e20 }} {{ 0.1 }}",
                "-4 2 3.5 8 1e+20 0.1");
    expect_text("{{ 1 < 2 < 3 }} {{ 'a' in 'ba' not in ['x'] }} {{ not 1 == 2 }}", "True True True");
    expect_text("{{ [1, 'it''s', none, {'a': 1.0}] }} {{ (1,) }}", "[1, 'its', None, {'a': 1.0}] (1,)");
    expect_text("{{ nope }}{{ nope is defined }}{{ messages.nope is none }}", "FalseFalse");
    expect_text("{{ messages[0].items() | list }}", "[('role', 'user'), ('content', 'hi')]");
    expect_text("{% for k, v in {'a': 1}.items() if v %}{{ loop.index }}{{ k }}{% else %}none{% endfor %}",
                "1a");
    expect_text("{{ 'abc'[::-1] }}{{ 'abc'[-2:] }}{{ [1, 2, 3][1:] | join('+') }}", "cbabc2+3");
    expect_text("{{ {'b': '\\u00e9<', 'a': [1, 2.5]} | tojson }}", "{\"b\": \"\xC3\xA9<\", \"a\": [1, 2.5]}");
    expect_text("{% raw %}{{ x }}{% endraw %}{# {{ y }} #}|{% generation %}g{% endgeneration %}", "{{ x }}|g");
    expect_text("{% macro f(a, b=a ~ '!') %}{{ a }}{{ b }}{% endmacro %}{{ f('x') }}{{ f('y', b=1) }}",
                "xx!y1");
    expect_text("{{ strftime_now('%Y-%m-%d') }}", "1970-01-01");
    expect_text("{% for x in [[1, [2]], 3] recursive %}{% if x is iterable %}({{ loop(x) }}){% else %}"
                "{{ x }}@{{ loop.depth }}{% endif %}{% endfor %}",
                "(1@2(2@3))3@1");
    expect_text("{% macro m(a) %}[{{ caller(a) }}{{ caller('z') }}]{% endmacro %}{% set y = 5 %}"
                "{% call(u, v=6) m(1) %}{{ u }}{{ v }}{{ y }}.{% endcall %}",
                "[165.z65.]");
    expect_text(
        "{% macro m() %}{{ 'yes' if caller else 'no' }}{% endmacro %}{{ m() }}{% call m() %}{% endcall %}",
        "noyes");
    expect_text("{{ '{}|{}'.format(1, none) }}{{ '{1}{0}{{}}{k}'.format('a', 'b', k=[1]) }}", "1|Noneba{}[1]");
    expect_text("{{ none | selectattr('x') | list }}{{ 0 | map('upper') | list }}", "[][]");
    expect_text("{{ '<'|safe + '&' + ('<' | e) }}", "<&amp;&lt;");
    expect_text("{% if nope %}{{ 1 | nosuch }}{% elif nope is defined and nope is nosuch %}{% endif %}.", ".");
}

static void test_refusals(void **state) {
    (void)state;
    expect_refusal("a\nb\n{% include 'x' %}", QP_ERR_UNSUPPORTED,
                   "small: line 3: templates here have no statement 'include'");
    expect_refusal("{{ x | nosuch }}", QP_ERR_UNSUPPORTED, "no filter 'nosuch'");
    expect_refusal("{{ x is nosuch }}", QP_ERR_UNSUPPORTED, "no test 'nosuch'");
    expect_refusal("{% if true %}{{ 1 | nosuch }}{% endif %}", QP_ERR_UNSUPPORTED, "no filter 'nosuch'");
    expect_refusal("{% if 1 is nosuch %}{% endif %}", QP_ERR_UNSUPPORTED, "no test 'nosuch'");
    expect_refusal("{% for x in [1] %}{{ loop([2]) }}{% endfor %}", QP_ERR_ARGUMENT, "recursive");
    expect_refusal("{% for x in [1] recursive %}{{ loop([2]) }}{% endfor %}", QP_ERR_ARGUMENT, "too deep");
    expect_refusal("{% macro m() %}{% endmacro %}{% call m() %}{% endcall %}", QP_ERR_ARGUMENT, "not take");
    expect_refusal("{% call range(3) %}{% endcall %}", QP_ERR_ARGUMENT, "expected a macro");
    expect_refusal("{% for x in [1] %}{% call m() %}{% break %}{% endcall %}{% endfor %}", QP_ERR_FORMAT,
                   "a loop around break");
    expect_refusal("{{ '{0.real}'.format(1) }}", QP_ERR_UNSUPPORTED, "a place other than");
    expect_refusal("{{ '{}{}'.format(1) }}", QP_ERR_ARGUMENT, "no value for {}");
    expect_refusal("{% if x %}", QP_ERR_FORMAT, "expected elif, found the end");
    expect_refusal("{{ a b }}", QP_ERR_FORMAT, "expected }}, found 'b'");
    expect_refusal("\n{{ nope.x }}", QP_ERR_ARGUMENT, "line 2: 'nope' is undefined");
    expect_refusal("{{ raise_exception('told ' ~ 'you') }}", QP_ERR_ARGUMENT, "told you");
    expect_refusal("{{ messages.append(1) }}", QP_ERR_UNSUPPORTED, "no method 'append' of list");
    expect_refusal("{{ ''.__class__.__mro__ }}", QP_ERR_ARGUMENT, "'__class__' is undefined");
    expect_refusal("{{ messages.__len__() }}", QP_ERR_ARGUMENT, "is undefined");
    expect_refusal("{% set messages.x = 1 %}", QP_ERR_ARGUMENT, "only a namespace");
    expect_refusal("\xFF", QP_ERR_FORMAT, "expected UTF-8");
}

static void test_bounds(void **state) {
    (void)state;
    struct timespec begin, end;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    expect_refusal("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
                   QP_ERR_ARGUMENT, "too m");
    expect_refusal(
        "{% set ns = namespace(s='x') %}{% for a in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        QP_ERR_ARGUMENT, "");
    expect_refusal("{{ 'x' * 999999999999 }}", QP_ERR_ARGUMENT, "longer than");
    expect_refusal("{{ ['x'] * 999999999999 }}", QP_ERR_ARGUMENT, "too m");
    expect_refusal("{% for a in range(9999) %}{{ 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx' * "
                   "9999 }}{% endfor %}",
                   QP_ERR_ARGUMENT, "");
    expect_refusal("{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}", QP_ERR_ARGUMENT, "nests too deep");
    expect_refusal("{{ range(100001) }}", QP_ERR_ARGUMENT, "range: more than");
    expect_refusal("{{ 9223372036854775807 + 1 }}", QP_ERR_ARGUMENT, "beyond 64 bits");
    expect_refusal("{{ 2 ** 9999999999 }}", QP_ERR_ARGUMENT, "beyond 64 bits");
    expect_refusal(
        "{{ ('a' * 300000).replace('aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab', 'x') * 1000 }}",
        QP_ERR_ARGUMENT, "");
    clock_gettime(CLOCK_MONOTONIC, &end);
    assert_true(end.tv_sec - begin.tv_sec < 30);
}

static void test_nesting(void **state) {
    (void)state;
    enum { N = 200000 };
    char *source = malloc(N + 100);
    assert_non_null(source);
    for (int kind = 0; kind < 4; kind++) {
        const char *part[] = {"(", "-", "{%if 1%}", "x+"};
        size_t      n = strlen(part[kind]), at = 0;
        if (kind != 2) at = (size_t)sprintf(source, "{{");
        while (at + n < N) memcpy(source + at, part[kind], n), at += n;
        strcpy(source + at, kind == 3 ? "x}}" : "");
        qp_rendered out = {0};
        assert_null(render_with(source, "[]", &out));
        assert_true(qp_failed(ctx));
        qp_clear(ctx);
        qp_rendered_free(&out);
    }
    free(source);
}

/* ---- Odd sources and values ------------------------------------------------------------------------------- */

/* Nearly all that the reader knows, for tests that cut it. */
static const char everything[] =
    "{# a -#}{##}{% raw -%} {{ x }} {% x %}{%- endraw +%}a\r\nb\rc { {\xC3\xA9 {% set ns = namespace(a=1, "
    "b='x') %}{% set ns.a = 2 %}"
    "{% macro f(a, b=2) -%}{{ a ~ b ~ caller() }}{%- endmacro %}{% call(u) f(1, b=2,) %}x{% endcall %}"
    "{% for a, in [(1,), (2,)] if a is not none recursive %}{{ loop.index }}{% continue %}{% break %}{% else "
    "%}{% endfor %}"
    "{% if not 1 > 2 and 1_0 != 2.5e+3 or 1E5 not in [1e2, 2.5, ] %}{% elif x is in {'a': (), 2: (1, 2)} %}{% "
    "else %}{% endif %}"
    "{% with a = 1, b = 'q' %}{{ a if b else -2 ** +3 // 4 % 5 }}{% endwith %}{% generation %}{% endgeneration "
    "%}"
    "{% filter upper | replace('A', \"b\") %}a{% endfilter %}{% set v | trim %} x {% endset %}{% set a, b = 1, "
    "2 %}"
    "{{ '\\x4a\\u00e9\\U0001F600\\07\\n\\q' 'b' | default('x') }}{{ [1, 2][0:1:1].1 }}{{ x.y[0] <= 1 < 2 >= 3 "
    "== 4 }}{{+ 1 -}} z";

/* A source in memory that ends where it ends: read as a template or refused with a text. */
static void read_exactly(const char *source, size_t n) {
    char *copy = malloc(n ? n : 1);
    assert_non_null(copy);
    memcpy(copy, source, n);
    qp_chat_template *t = qp_chat_template_new(ctx, "part", copy, n);
    assert_true((t != NULL) == !qp_failed(ctx));
    if (!t && !strstr(qp_error(ctx), "part: line ")) fail_msg("%.*s: %s", (int)n, source, qp_error(ctx));
    qp_clear(ctx);
    qp_chat_template_close(t);
    free(copy);
}

/* Each beginning, and the whole with each place missing, or with another character there. */
static void test_cut(void **state) {
    (void)state;
    static const char others[] = "\x01{}%#'\"()[],.:=|-+~1ea ";
    char              changed[sizeof everything];
    size_t            n = strlen(everything);
    qp_chat_template *t = qp_chat_template_new(ctx, "everything", everything, n);
    expect_ok(ctx);
    qp_chat_template_close(t);
    for (size_t i = 0; i <= n; i++) read_exactly(everything, i);
    for (size_t i = 0; i < n; i++) {
        memcpy(changed, everything, i);
        memcpy(changed + i, everything + i + 1, n - i - 1);
        read_exactly(changed, n - 1);
        memcpy(changed, everything, n);
        for (const char *c = others; *c; c++) changed[i] = *c, read_exactly(changed, n);
    }
}

static void test_refused_sources(void **state) {
    (void)state;
    static const char *const odd[] = {
        "{% raw x %}{% endraw %}",
        "{% raw %}{% endraw x",
        "{% raw +%}",
        "{{ \xC3\xA9 }}",
        "{{ \x01 }}",
        "{{ ! }}",
        "{{ 0x }}",
        "{{ 1 +}}",
        "{{ a.1_ }}",
        "{{ [1 2] }}",
        "{{ varargs }}",
        "{{ kwargs }}",
        "{{ f(1 2) }}",
        "{{ f(a b) }}",
        "{{ f(a (b }}",
        "{{ f(*a) }}",
        "{{ f(**a) }}",
        "{{ f(1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17) }}",
        "{{ x[) }}",
        "{{ x[] }}",
        "{{ x[1:2:3:4] }}",
        "{{ 1 not 2 }}",
        "{{ 1 not x }}",
        "{{ 1 not in }}",
        "{{ 1 ~ 2[ }}",
        "{{ 1 ~ }}",
        "{{ 1, 2[) }}",
        "{{ 1, ~ }}",
        "{{ 1, 2(~) }}",
        "{{ '\\x4' }}",
        "{{ '\\x4g' }}",
        "{{ '\\xG0' }}",
        "{{ '\\x:0' }}",
        "{{ '\\x`0' }}",
        "{{ '\\x@0' }}",
        "{{ '\\U00110000' }}",
        "{{ '\\ud800' }}",
        "{{ '\\x00' }}",
        "{{ '\\N' }}",
        "{{ 99999999999999999999 }}",
        "{{ 0.1111111111111111111111111111111111111111111111111111111111111111111111 }}",
        "{{ 1111111111111111111111111111111111111111111111111111111111111111111111 }}",
        "{{ 1.5 is is }}",
        "{{ 1 is 2 }}",
        "{{ 1 | 2 }}",
        "{% for 1 in x %}",
        "{% for a of x %}",
        "{% for a in ~ %}",
        "{% for a in x if ~ %}",
        "{% for a in x %}{% else x %}",
        "{% for () in x %}{% endfor ~ %}",
        "{% set a.1 = 2 %}",
        "{% set ~ %}",
        "{% macro 1 %}",
        "{% macro a %}",
        "{% macro a(1) %}",
        "{% macro a(b c) %}",
        "{% macro a(b=1, c) %}",
        "{% macro a(a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q) %}",
        "{% call 1 %}",
        "{% call ~ %}",
        "{% call(1) f() %}",
        "{% generation x %}",
        "{% with 1 %}",
        "{% with a 1 %}",
        "{% with a = 1 b = 2 %}",
        "{% set a | %}",
        "{% set a (1) %}",
        "{% filter %}",
        "{% break %}",
        "{% include 'x' %}",
        "{% 1 %}",
        "{% if %}",
        "{% if 1 %}{% endfor %}"};
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        qp_chat_template *t = qp_chat_template_new(ctx, "odd", odd[i], strlen(odd[i]));
        if (t) fail_msg("%s: expected an error", odd[i]);
        if (!strstr(qp_error(ctx), "odd: line 1: ")) fail_msg("%s: %s", odd[i], qp_error(ctx));
        qp_clear(ctx);
    }
    assert_null(qp_chat_template_new(ctx, "odd", "a\0b", 3));
    expect_error(ctx, QP_ERR_FORMAT, "odd: line 1: expected UTF-8, found the byte 0x00");
    char *large = calloc(1, QPI_TEMPLATE_BYTES + 1);
    assert_non_null(large);
    assert_null(qp_chat_template_new(ctx, "odd", large, QPI_TEMPLATE_BYTES + 1));
    expect_error(ctx, QP_ERR_FORMAT, "at most 1048576");
    free(large);
}

/* Statements and expressions that nest to one less than the bound and beyond, whatever meets it. */
static void test_depths(void **state) {
    (void)state;
    static const char *const inner[] = {"",         "{{ 1 }}",  "{{ not 1 }}", "{{ not not 1 }}",
                                        "{{ -1 }}", "{{ [1] }}"};
    char                     source[12000];
    for (size_t k = 0; k < sizeof inner / sizeof *inner; k++)
        for (int depth = 190, read = 0; depth < 205; depth++) {
            int at = 0;
            for (int i = 0; i < depth; i++) at += sprintf(source + at, "{%%generation%%}");
            at += sprintf(source + at, "%s", inner[k]);
            for (int i = 0; i < depth; i++) at += sprintf(source + at, "{%%endgeneration%%}");
            qp_chat_template *t = qp_chat_template_new(ctx, "deep", source, (size_t)at);
            if (!t) expect_error(ctx, QP_ERR_FORMAT, "nested less deep");
            assert_true(depth > 190 ? read || !t : t != NULL); /* once refused, always refused */
            read = t != NULL;
            qp_chat_template_close(t);
        }
}

static void test_odd_values(void **state) {
    (void)state;
    static const char *const pairs[][2] = {
        {"{##}a{# b #}", "a"},
        {"{% raw %}{% x %}{% endraw +%}\nb", "{% x %}\nb"},
        {"a {", "a {"},
        {"{\xC3\xA9", "{\xC3\xA9"},
        {"a\rb\r", "a\nb"},
        {"{{ 1_0 }} {{ 1_000.5 }}", "10 1000.5"},
        {"{{ '\\x4a\\x4A\\xe9\\u00E9\\1\\18\\1a\\1!\\377\\9\\ ' | length }}", "16"},
        {"{{ '\\\xC3\xA9' | length }}", "2"},
        {"{{ f(1,) if nope }}", ""},
        {"{{ '\\\n' }}", ""},
        {"{% for x in 1, %}{{ x }}{% endfor %}{% for x in (1,) recursive %}{{ x }}{% endfor %}{% for x in 1, "
         "recursive %}{{ x }}{% endfor %}",
         "111"},
        {"{{ 1, }}", "(1,)"},
        {"{{ '1\\0' | int(7) }}{{ '\\0' | tojson }}{{ ['\\0'] }}{{ '\\0a' | title | length }}{{ '\\0' | trim | "
         "length }}",
         "7\"\\u0000\"['\\x00']21"},
        {"{% for (a, ) in [(1,)] %}{{ a }}{% endfor %}", "1"},
        {"{{ 'abc'.startswith(('a', 'b')) }}", "True"},
        {"{{ {}.items() == {'a': 1}.items() }}", "False"},
        {"{{ [1, 2] < [1] }}", "False"},
        {"{{ '\\u0378'.isalpha() }}{{ '\\u0378a'.title() | length }}", "False2"},
        {"{{ 'a' | trim(none) }}{{ 'aa' | replace('a', 'b', none) }}{{ ('x' * 70) | int(3) }}", "abb3"},
        {"{{ 2.5 | round(400) }} {{ 2.5 | round(-400) }} {{ 1e300 | round(20) }}", "2.5 0.0 1e+300"},
        {"{{ {} | attr('items') is callable }}{{ {'a': 1} | attr('a') }}{{ ['a', 'b'] | join('-', none) }}",
         "Truea-b"},
        {"{% for k, v in [('thinking', 1)] %}{{ k }}{% endfor %}{{ 1.5 }}", "thinking1.5"},
        {"{{ 6 is divisibleby 3 }}{{ 1.5 is eq 1.5 }}{{ 'a' is in {'a': 1} }}{{ 'a' is eq 'a' }}",
         "TrueTrueTrueTrue"},
        {"{{ [{'': {'': 1}}] | map(attribute='.') | first }}", "1"},
        {"{{ [{'0x': 1, '1-': 2, '123456789012345678901': 3}] | map(attribute='0x') | first }}", "1"},
        {"{{ [{'0x': 1, '1-': 2, '123456789012345678901': 3}] | map(attribute='1-') | first }}", "2"},
        {"{{ [{'123456789012345678901': 3}] | map(attribute='123456789012345678901') | first }}", "3"},
        {"{% set i = 1e308 * 10 %}{{ i ** 2.0 }} {{ 2.0 ** i }} {{ -i }} {{ i - i }}", "inf inf -inf nan"},
        {"{% set i = 1e308 * 10 %}{{ i | tojson }} {{ (-i) | tojson }} {{ (i - i) | tojson }}",
         "Infinity -Infinity NaN"},
        {"{{ 'a\\U0001F600\\x7f' | tojson(ensure_ascii=true) }} {{ '\\x7f' | tojson }}",
         "\"a\\ud83d\\ude00\\u007f\" \"\x7f\""},
        {"{{ [1] | tojson(separators=none) }} {{ [1] | tojson(indent=none) }} {{ [] | tojson(indent='x') }}",
         "[1] [1] []"},
        {"{% set i = 1e308 * 10 %}{{ (i - i) <= 1 }}{{ 2.5 > 1 }}{{ 1.0 < 2 }}{{ 1.0 >= 1 }}",
         "FalseTrueTrueTrue"},
        {"{{ 'abc'.startswith(()) }}{{ 'abc'.removeprefix('') }}", "Falseabc"},
        {"{{ '{}{{}}{a}'.format(1, a=2) }} {{ '{0}{0}'.format(1) }}", "1{}2 11"},
        {"{{ 'x'.partition('') | length if nope else 1 }}", "1"},
        {"{% for i in [1, 1, 2] %}{{ loop.changed(i) }}{% endfor %}", "TrueFalseTrue"},
        {"{{ namespace({1: 2, '': 3}) is defined }}", "True"},
        {"{{ strftime_now('%p') | length > 0 }}{{ strftime_now('') }}", "True"},
        {"{{ ['\\x01\\t\\n\\r\\x7f\\x85\\xad\\u200b\\u200f\\u2010\\ufeff\\u3000\\\\'] | string | length }}",
         "53"},
        {"{{ '\\u1680\\u2000\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000\\x85\\xa0\\x1c\\u200b\\u2010' | trim | "
         "length }}",
         "2"},
        {"{{ 'a\\x0bb\\x0cc\\x1cd\\x1ee\\x1ff\\x85g\\u2028h\\u2029i\\r\\nj\\rk' | string | list | length }} {{ "
         "'a\\x0bb\\x1ec\\x1fd\\u2028e\\u2029f\\r\\ng\\rh\\r'.splitlines() | length }}",
         "22 7"},
        {"{{ '-1.5' | int }} {{ ' 12 ' | int }} {{ '' | int(7) }} {{ '1 2' | int(7) }} {{ '\\x0112' | int(7) "
         "}} {{ '-' | int(7) }} {{ '99999999999999999999' | int(7) }} {{ 'e' | float }}",
         "-1 12 7 7 7 7 7 0.0"},
        {"{{ '\xC3\xA9' | int(3) }}{{ 1e19 | int(4) }}{{ none | int(5) }}{{ true | int }}{{ '1' * 70 | int }}",
         "3451"
         "1111111111111111111111111111111111111111111111111111111111111111111111"},
        {"{{ 2.567 | round(2) }} {{ 2.5 | round(1, 'common') }} {{ 7 | round }} {{ true | round }} {{ -3 | abs "
         "}} {{ true | abs }} {{ 1.25 | round(1, 'ceil') }} {{ 1.25 | round(0, 'floor') }}",
         "2.57 2.5 7 1 3 1 1.3 1.0"},
        {"{{ {'b': 1, 'a': 2} | dictsort(by='value') }} {{ {'b': 1, 'a': 2} | dictsort(by='key') }}",
         "[('b', 1), ('a', 2)] [('a', 2), ('b', 1)]"},
        {"{{ 'aaaaaaaaaaaaaaaaaaaaaaaaab'.find('aaaaaaaaaaaaaaaaaaaaaac') }}", "-1"},
        {"{{ messages == messages }}{{ messages[0].items() == 1 }}{{ range == range }}{{ 'a'.upper == "
         "'a'.upper }}{% set f = 'a'.upper %}{{ f == f }}",
         "TrueFalseTrueFalseTrue"},
        {"{% for i in [] %}{% else %}e{% endfor %}{% for i in [] %}{% endfor %}", "e"},
        {"{% with %}a{% endwith %}{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}", "a3"},
        {"{{ 'foo'|title }}{{ '\\u01c5'.title() }}{{ 'a(b' | title }}", "Foo\xC7\x85"
                                                                        "A(B"},
        {"{{ '%d' % true }}{{ '%i' % 3 }}", "13"},
        {"{{ '%s' % 1.5 }}", "1.5"},
        {"{{ [1, 2].index(2) }}{{ [1, 1].count(1) }}{{ [].count(1) }}", "120"}};
    static const char *const errors[] = {
        "{{ (-9223372036854775807 - 1) // -1 }}",
        "{{ 1.5 / 0 }}",
        "{{ 1.5 % 0.0 }}",
        "{{ 2.5 ** 1e9 }}",
        "{{ {}.items() + {}.items() }}",
        "{{ {}.items() < {}.items() }}",
        "{{ {}.items() }}",
        "{{ range }}",
        "{{ nope[0] }}",
        "{{ (1 // 0)[0] }}",
        "{% macro f(a,b,c,d,e,f,g,h,i,j,k,l,m,n,o) %}{% endmacro %}{% call "
        "f(a=1,b=1,c=1,d=1,e=1,f=1,g=1,h=1,i=1,j=1,k=1,l=1,m=1,n=1,o=1,p=1) %}{% endcall %}",
        "{% call range(1) %}{% endcall %}",
        "{{ 'a' | upper() (1) }}",
        "{{ 'a'.startswith(['a']) }}",
        "{{ 'x'.partition('') }}",
        "{{ [1].count() }}",
        "{{ strftime_now('%c%c%c%c%c%99999Y') }}",
        "{{ raise_exception('\\x7f') }}",
        "{{ [1] | map('string') | length }}",
        "{% with a = nope.x, b = 1 %}{% endwith %}",
        "{{ 2.5 | round('x') }}",
        "{{ 2.5 | round(1, none) }}",
        "{{ ['a'] | join(range) }}",
        "{{ {} | dictsort(false, 5) }}",
        "{{ {} | dictsort(by='x') }}",
        "{{ {(): 1} | tojson }}",
        "{{ {nope: 1} | tojson }}",
        "{{ {[]: 1} | tojson }}",
        "{{ [1] | tojson(separators=(',', 1)) }}",
        "{{ [1] | tojson(separators=(1, ',')) }}",
        "{{ [1] | tojson(separators=(',',)) }}",
        "{{ [1] | tojson(separators=5) }}",
        "{{ [1] | tojson(indent=65) }}",
        "{{ [1] | tojson(indent=1.5) }}",
        "{{ [1] | tojson(indent={}) }}",
        "{{ 'a'.split('a', 'b') }}",
        "{{ 'a'.split('a', 1, 2) }}",
        "{{ 'a b'.rsplit(none, 1) }}",
        "{{ 'a'.startswith() }}",
        "{{ 'a'.startswith('a', 'b') }}",
        "{{ 'a'.replace('a') }}",
        "{{ 'a'.replace(1, 'b') }}",
        "{{ 'a'.find('a', 1) }}",
        "{{ 'a'.find(1) }}",
        "{{ 'a'.rfind(1) }}",
        "{{ 'a'.rfind() }}",
        "{{ 'a'.join() | length / 0 }}",
        "{{ '{'.format(1) }}",
        "{{ '{0'.format(1) }}",
        "{{ '{a.b}'.format(1) }}",
        "{{ '{\xC3\xA9}'.format(1) }}",
        "{{ '}'.format(1) }}",
        "{{ '{} {0}'.format(1) }}",
        "{{ '{0} {}'.format(1) }}",
        "{{ '{1}'.format(1) }}",
        "{{ '{12345}'.format(1) }}",
        "{{ '{0a}'.format(1) }}",
        "{{ '{b}'.format(1, a=2) }}",
        "{{ '{}'.format(a=2) }}",
        "{{ 'a'.partition(1) }}",
        "{{ [1].index(2) }}",
        "{{ [1].index() }}",
        "{{ namespace({'_a': 1}) }}",
        "{{ dict([1]) }}",
        "{{ "
        "strftime_now('"
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
        "aaaaa') }}",
        "{{ 1 is ne(1, 2) }}",
        "{{ 1 is lt }}",
        "{{ 1 is le }}",
        "{{ 1 is sameas }}",
        "{{ 1 is divisibleby }}",
        "{{ 1 is gt }}",
        "{{ 'a' | replace('a') }}",
        "{{ '1' | int(base=16) }}",
        "{{ '1' | int(0, 1.5) }}",
        "{{ (-9223372036854775807 - 1) | abs }}",
        "{{ 'a' | abs }}",
        "{{ [1] | map | list | last | last }}",
        "{{ [1] | map('string') | last }}",
        "{{ 5 | join }}",
        "{{ [1] | select(1) | list }}",
        "{{ [1] | map(1) | list }}",
        "{{ [1] | map('nosuch') | list }}",
        "{{ ['a'] | sum }}",
        "{{ '%d' % 1.5 }}",
        "{{ '%d' % none }}",
        "{% set ns = namespace() %}{% set ns._a = 1 %}",
        "{% set x = 1 %}{% set x.a = 1 %}",
        "{% set a | trim|trim|trim|trim|trim|trim|trim|trim|trim|trim|trim|trim|trim|trim|trim|trim|trim %}x{% "
        "endset %}",
        "{% for i in [1] recursive %}{{ loop() }}{% endfor %}",
        "{% for i in [1] recursive %}{{ loop([], a=1) }}{% endfor %}",
        "{% for i in [1] %}{{ loop([]) }}{% endfor %}",
        "{% macro f() %}{{ caller() }}{% endmacro %}{{ f(x=1) }}",
        "{{ 1 | nosuch if 0 else 2 | nosuch }}"};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) expect_text(pairs[i][0], pairs[i][1]);
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++) {
        qp_rendered out = {0};
        const char *text = render_with(errors[i], "[]", &out);
        if (text) fail_msg("%s: expected an error, found %s", errors[i], text);
        assert_true(strstr(qp_error(ctx), "small: line 1: ") != NULL);
        qp_clear(ctx);
        qp_rendered_free(&out);
    }
}

/* Every budget of steps and memory up to what a template needs: it is refused, or fits. */
static void test_every_budget(void **state) {
    (void)state;
    static const char *const sources[] = {
        "{% set a = "
        "'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa'"
        " %}{% set b = a + 'c' %}{% set c = a + 'd' %}"
        "{{ b == c }}{{ b < c }}{{ c.find(b) }}{% for i in [] %}{% else %}e{% endfor %}{{ {'B': 1, 'a': 2} | "
        "dictsort }}{{ messages }}{{ dict({'a': 1, 'b': 2}) }}{{ 'abc' | reverse }}"};
    const char *messages = "[{\"role\": \"user\", \"content\": \"x\", \"reasoning\": \"r\"}, {\"role\": "
                           "\"user\", \"thinking\": \"s\"}, {\"reasoning_content\": null}]";
    qp_chat_template *t = qp_chat_template_new(ctx, "budget", sources[0], strlen(sources[0]));
    qp_rendered       out = {0};
    qpi_tbudget       left = plenty(), used;
    assert_int_equal(qpi_chat_render(ctx, t, messages, strlen(messages), (qp_chat_options){0}, &left, &out),
                     QP_OK);
    used = (qpi_tbudget){.memory = plenty().memory - left.memory, .steps = plenty().steps - left.steps};
    for (int64_t k = 0; k < used.steps + (int64_t)used.memory / 8; k++) {
        qpi_tbudget budget = plenty();
        if (k < used.steps) budget.steps = k;
        else budget.memory = (size_t)(k - used.steps) * 8;
        assert_int_equal(
            qpi_chat_render(ctx, t, messages, strlen(messages), (qp_chat_options){0}, &budget, &out),
            QP_ERR_ARGUMENT);
        qp_clear(ctx);
    }
    qp_rendered_free(&out);
    qp_chat_template_close(t);
}

/* Values made deeper than any text could say. */
static void test_deep_values(void **state) {
    (void)state;
    static const char *const uses[] = {"{{ n.v | tojson }}", "{{ n.v }}", "{{ n.v == n.w }}",
                                       "{{ n.v < n.x }}"};
    for (size_t i = 0; i < sizeof uses / sizeof *uses; i++) {
        char source[400];
        snprintf(source, sizeof source,
                 "{%% set n = namespace(v=[], w=[], x=[1]) %%}{%% for i in range(1000) %%}{%% set n.v = [n.v] "
                 "%%}{%% set n.w = [n.w] %%}"
                 "{%% set n.x = [n.x, 1] %%}{%% endfor %%}%s",
                 uses[i]);
        expect_refusal(source, QP_ERR_ARGUMENT, i ? "values nested too deep" : "tojson: nested deeper");
    }
}

/* What no template brings: a longer text of the program's own, one that is not UTF-8, a year that is none. */
static void test_own_texts(void **state) {
    (void)state;
    qpi_error    e = {0};
    qpi_template t = {.name = "own"};
    qpi_trun     r = {.t = &t, .steps = 1000, .most = 1000, .memory = 1000, .error = &e};
    qpi_codes    out = {0};
    qpi_tval     v;
    char         text[200] = "";
    memset(text, 'a', 150);
    assert_true(qpi_t_put_ascii(&r, &out, text));
    assert_int_equal(out.count, 150);
    assert_false(qpi_t_from_utf8(&r, "\xFF", 1, 0, &v));
    assert_int_equal(e.code, QP_ERR_FORMAT);
    free(out.codes);
    qpi_arena_free(&r.arena);
    const char       *source = "{{ strftime_now('%Y') }}";
    qp_chat_template *c = qp_chat_template_new(ctx, "now", source, strlen(source));
    qp_rendered       rendered = {0};
    qp_ids            ids = {0};
    assert_int_equal(qp_chat_render(ctx, c, "[]", 2, (qp_chat_options){.now = INT64_MAX}, &rendered),
                     QP_ERR_ARGUMENT);
    expect_error(ctx, QP_ERR_ARGUMENT, "strftime_now");
    qp_rendered_free(&rendered);
    qp_chat_template_close(c);
    qp_tokenizer *bytes = qp_tokenizer_bytes(ctx);
    assert_int_equal(qp_chat_encode(ctx, bytes, &(qp_rendered){0}, &ids), QP_OK);
    assert_int_equal(ids.count, 0);
    qp_ids_free(&ids);
    qp_tokenizer_close(bytes);
}

/* ---- Memory -------------------------------------------------------------------------------------------------- */

#if FAULTS
/* A source whose tokens, nodes and strings need blocks of their own. */
static bool long_source(qp_ctx *c) {
    enum { A = 20000, N = 2000 };
    static char source[A + 8 * N + 100];
    size_t      at = (size_t)sprintf(source, "{{ '");
    memset(source + at, 'a', A);
    at += A;
    at += (size_t)sprintf(source + at, "' }}");
    for (int i = 0; i < N; i++) at += (size_t)sprintf(source + at, "{{x}}.");
    qp_chat_template *t = qp_chat_template_new(c, "long", source, at);
    qp_chat_template_close(t);
    return t != NULL;
}

static void test_long_source(void **state) {
    (void)state;
    in_turn(long_source, 1, NULL, NULL);
}
#endif

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_meaning),      cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_bounds),       cmocka_unit_test(test_nesting),
        cmocka_unit_test(test_cut),          cmocka_unit_test(test_refused_sources),
        cmocka_unit_test(test_depths),       cmocka_unit_test(test_odd_values),
        cmocka_unit_test(test_every_budget), cmocka_unit_test(test_deep_values),
#if FAULTS
        cmocka_unit_test(test_long_source),
#endif
        cmocka_unit_test(test_own_texts)};
    return cmocka_run_group_tests(tests, open_context, close_context);
}
