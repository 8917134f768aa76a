#include "quipu/chat.h"

#include <string.h>

#include "data/template.h"
#include "quipu/core.h"

/* Behind a byte 1: a template put together, each byte a piece of one. What opens is closed again, by a byte that
 * says so or at the end, so that most of what is made can be run. */
static size_t compose(const uint8_t *data, size_t size, char *out, size_t room) {
    static const char *const openers[][2] = {
        {"{% for x in messages %}", "{% endfor %}"},
        {"{% for x in l recursive %}{{ loop(x) if x is iterable and x is not string }}", "{% endfor %}"},
        {"{% for k, v in d.items() if v %}", "{% else %}e{% endfor %}"},
        {"{% if x %}", "{% endif %}"},
        {"{%- if not x -%}", "{% else %}y{% endif %}"},
        {"{% macro m(a, b=x) %}{{ a }}{{ caller(b) if caller }}", "{% endmacro %}"},
        {"{% call(u) m(x) %}{{ u }}", "{% endcall %}"},
        {"{% set x %}", "{% endset %}"},
        {"{% filter upper | trim %}", "{% endfilter %}"},
        {"{% with x = d, y = l %}", "{% endwith %}"},
        {"{{ (", ") }}"},
        {"{{ [", "] }}"},
        {"{{ {'a': ", "} }}"},
        {"{% set x = ", " %}"},
        {"{% set ns.a = ", " %}"},
        {"{% generation %}", "{% endgeneration %}"},
        {"{% raw %}", "{% endraw %}"},
        {"{{ '", "' }}"},
        {"(", ")"},
        {"[", "]"},
        {"[x:", "]"}};
    static const char *const pieces[] = {"x",
                                         "l",
                                         "d",
                                         "messages",
                                         "ns",
                                         "tools",
                                         "loop.index",
                                         "loop.previtem",
                                         "none",
                                         "true",
                                         "0",
                                         "-1",
                                         "7",
                                         "1.5",
                                         "'a'",
                                         "' \xC3\xA9<'",
                                         "\"{}%s\"",
                                         " + ",
                                         " - ",
                                         " * ",
                                         " // ",
                                         " % ",
                                         " ** ",
                                         " ~ ",
                                         " == ",
                                         " < ",
                                         " in ",
                                         " not in ",
                                         " and ",
                                         " or ",
                                         " not ",
                                         " if ",
                                         " else ",
                                         ", ",
                                         ".",
                                         ": ",
                                         " | tojson",
                                         " | tojson(indent=2)",
                                         " | length",
                                         " | list",
                                         " | join(', ')",
                                         " | map(attribute='role')",
                                         " | selectattr('role', 'eq', 'user')",
                                         " | sort",
                                         " | unique",
                                         " | items",
                                         " | default('z')",
                                         " | trim",
                                         " | indent(3)",
                                         " | replace('a', 'bb')",
                                         " | safe",
                                         " | e",
                                         " | int",
                                         " | reverse",
                                         " | first",
                                         " | sum",
                                         " | dictsort",
                                         " | round",
                                         " | string",
                                         " is defined",
                                         " is mapping",
                                         " is none",
                                         " is odd",
                                         " is sameas x",
                                         ".split('a')",
                                         ".strip()",
                                         ".format(x, 1, a=l)",
                                         ".items()",
                                         ".get('role')",
                                         ".replace('', 'b')",
                                         ".content",
                                         ".role",
                                         "['role']",
                                         "[0]",
                                         "[::-1]",
                                         ".startswith('a')",
                                         ".upper()",
                                         "range(5)",
                                         "m(1)",
                                         "m(x, b=l)",
                                         "namespace(a=x)",
                                         "dict(a=x)",
                                         "raise_exception(x)",
                                         "strftime_now('%Y')",
                                         "{% break %}",
                                         "{% continue %}",
                                         "{% set l = l + [x] %}",
                                         "{% set ns = namespace() %}",
                                         "{{ x }}",
                                         "{{ l }}",
                                         "{# c #}",
                                         " \n",
                                         "<|im_end|>"};
    enum { OPENERS = sizeof openers / sizeof *openers, PIECES = sizeof pieces / sizeof *pieces };
    const char *closers[32];
    int         depth = 0;
    size_t      n = 0;
    for (size_t i = 0; i < size || depth; i++) {
        uint8_t     c = i < size ? data[i] : 255;
        const char *piece = c >= 224     ? (depth ? closers[--depth] : "}")
                            : c < PIECES ? pieces[c]
                                         : openers[c % OPENERS][0];
        size_t      length = strlen(piece);
        if (c >= PIECES && c < 224) {
            if (depth == 32) continue;
            closers[depth++] = openers[c % OPENERS][1];
        }
        if (length > room - n) break;
        memcpy(out + n, piece, length);
        n += length;
    }
    return n;
}

/* The template; behind a byte 0 the messages. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char usual[] =
        "[{\"role\":\"system\",\"content\":\"a\"},{\"role\":\"user\",\"content\":\"b {{ c }}\"},"
        "{\"role\":\"assistant\",\"content\":\"<think>d</think>e\",\"tool_calls\":[{\"id\":\"abcdefghi\","
        "\"function\":{\"name\":\"f\",\"arguments\":{\"x\":1.5}}}]},{\"role\":\"tool\",\"content\":null}]";
    static qp_ctx *ctx;
    if (!ctx && !(ctx = qp_open((qp_options){.threads = 1}))) return 0;
    static char made[20000];
    if (size && *data == 1) {
        size = compose(data + 1, size - 1, made, sizeof made);
        data = (const uint8_t *)made;
    }
    const uint8_t    *zero = size ? memchr(data, 0, size) : NULL;
    size_t            n = zero ? (size_t)(zero - data) : size;
    qp_chat_template *t = qp_chat_template_new(ctx, "input", (const char *)data, n);
    if (!t != qp_failed(ctx)) __builtin_trap();
    for (int round = 0; t && round < 2; round++) {
        const char     *messages = zero ? (const char *)zero + 1 : usual;
        size_t          bytes = zero ? size - n - 1 : sizeof usual - 1, at = 0;
        qp_rendered     out = {0};
        qp_chat_options o = {
            .tools =
                round
                    ? "[{\"type\":\"function\",\"function\":{\"name\":\"g\",\"parameters\":{\"required\":[]}}}]"
                    : NULL,
            .generation_prompt = round,
            .now = 1};
        if (qp_chat_render(ctx, t, messages, bytes, o, &out) == QP_OK)
            for (size_t i = 0; i < out.foreign_count; i++) {
                if (out.foreign[i].begin < at || out.foreign[i].end <= out.foreign[i].begin ||
                    out.foreign[i].end > out.text.count)
                    __builtin_trap();
                at = out.foreign[i].end;
            }
        qp_clear(ctx);
        qp_rendered_free(&out);
    }
    qp_chat_template_close(t);
    qp_clear(ctx);
    return 0;
}
