/* What a test expects of a context's error. Include it behind cmocka.h. */
#ifndef TESTS_EXPECT_H
#define TESTS_EXPECT_H

#include <string.h>

#include "quipu/core.h"

static inline void expect_ok(qp_ctx *ctx) {
    if (qp_failed(ctx)) fail_msg("%s", qp_error(ctx));
}

/* This code, and a text with these words; then it is forgotten. */
static inline void expect_error(qp_ctx *ctx, qp_code code, const char *words) {
    if (qp_error_code(ctx) != code || !strstr(qp_error(ctx), words))
        fail_msg("expected %d \"%s\", found %d: %s", code, words, qp_error_code(ctx), qp_error(ctx));
    qp_clear(ctx);
}

#endif
