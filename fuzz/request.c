#include <stdlib.h>

#include "cli/serve.h"
#include "format/json.h"

/* The body of a request for a chat or, where it begins with a blank, for a completion. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char    source[] = "{% for m in messages %}{{ m.role }}{{ m.content }}{{ m.tool_calls }}{% "
                                    "endfor %}{{ tools | tojson }}{{ x }}";
    static qp_ctx       *ctx;
    static qp_tokenizer *t;
    static qp_chat_template *chat;
    if (!ctx && !(ctx = qp_open((qp_options){.threads = 1}))) return 0;
    if (!t) t = qp_tokenizer_bytes(ctx);
    if (!chat) chat = qp_chat_template_new(ctx, "chat", source, sizeof source - 1);
    if (!t || !chat) return 0;
    qpi_error    e = {0};
    serve_error  error = {0};
    serve_params p;
    json_t      *root = qpi_json_parse("request", data, size, &e);
    if (!root || !serve_params_read(root, !(size && data[0] == ' '), &p, &error)) {
        if (root && error.status < 400) __builtin_trap();
        return 0;
    }
    serve_prompt *prompts = calloc(SERVE_MOST_PROMPTS, sizeof *prompts);
    int           count;
    if (!prompts) return serve_params_free(&p), 0;
    bool ok = serve_params_prompts(&p, ctx, t, chat, 257, 256, prompts, &count, &error);
    if (p.n < 1 || p.n > SERVE_MOST_CHOICES || count < 0 || count > SERVE_MOST_PROMPTS ||
        (!ok && error.status < 400))
        __builtin_trap();
    for (int i = 0; i < count; i++) {
        const serve_prompt *one = &prompts[i];
        if (one->before < 0 || one->after < 0 || one->before + one->after > one->ids.count) __builtin_trap();
        for (int64_t k = 0; k < one->ids.count; k++)
            if (one->ids.data[k] < 0 || one->ids.data[k] > 256) __builtin_trap();
    }
    serve_prompts_free(prompts, count);
    serve_params_free(&p);
    if (qp_failed(ctx)) __builtin_trap();
    return 0;
}
