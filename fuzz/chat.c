#include "quipu/chat.h"

#include <string.h>

#include "data/template.h"
#include "quipu/core.h"

/* The template; behind a byte 0 the messages. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char usual[] =
        "[{\"role\":\"system\",\"content\":\"a\"},{\"role\":\"user\",\"content\":\"b {{ c }}\"},"
        "{\"role\":\"assistant\",\"content\":\"<think>d</think>e\",\"tool_calls\":[{\"id\":\"abcdefghi\","
        "\"function\":{\"name\":\"f\",\"arguments\":{\"x\":1.5}}}]},{\"role\":\"tool\",\"content\":null}]";
    static qp_ctx *ctx;
    if (!ctx && !(ctx = qp_open((qp_options){.threads = 1}))) return 0;
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
