/* What the tests of chat templates share: a context, and small templates rendered in it. */
#ifndef TESTS_DATA_SMALL_TEMPLATE_H
#define TESTS_DATA_SMALL_TEMPLATE_H

#include "support.h"

#include <time.h>

#include "data/template.h"
#include "quipu/chat.h"

static qp_ctx *ctx;

static inline int open_context(void **state) {
    (void)state;
    setenv("TZ", "UTC", 1);
    tzset();
    ctx = qp_open((qp_options){.threads = 1});
    return ctx ? 0 : -1;
}

static inline int close_context(void **state) {
    (void)state;
    qp_close(ctx);
    return 0;
}

/* The text, valid until the next call; NULL after an error, which stays in the context. */
static inline const char *render_with(const char *source, const char *messages, qp_rendered *out) {
    qp_chat_template *t = qp_chat_template_new(ctx, "small", source, strlen(source));
    qp_status status = t ? qp_chat_render(ctx, t, messages, strlen(messages), (qp_chat_options){.now = 1}, out)
                         : QP_ERR_FORMAT;
    qp_chat_template_close(t);
    if (status == QP_OK) out->text.data[out->text.count] = 0; /* there is room: four bytes for each and one */
    return status == QP_OK ? out->text.data : NULL;
}

static inline void expect_text(const char *source, const char *want) {
    qp_rendered out = {0};
    const char *got = render_with(source, "[{\"role\": \"user\", \"content\": \"hi\"}]", &out);
    if (!got || strcmp(got, want))
        fail_msg("%s: expected \"%s\", found \"%s\" %s", source, want, got ? got : "", qp_error(ctx));
    qp_rendered_free(&out);
}

static inline void expect_refusal(const char *source, qp_code code, const char *words) {
    qp_rendered out = {0};
    if (render_with(source, "[]", &out)) fail_msg("%.60s: expected an error", source);
    expect_error(ctx, code, words);
    qp_rendered_free(&out);
}

static inline qpi_tbudget plenty(void) {
    return (qpi_tbudget){.memory = 64 << 20, .steps = 10000000, .most = 4 << 20};
}

#endif
