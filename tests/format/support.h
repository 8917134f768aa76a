/* What the tests of formats share. */
#ifndef TESTS_FORMAT_SUPPORT_H
#define TESTS_FORMAT_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/error.h"
#include "quipu/format.h"

static inline const char *temporary(const char *name) {
    static char path[4][300];
    static int  turn;
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof path[turn], P_tmpdir "/quipu-test-%ld-%s", (long)getpid(), name);
    return path[turn];
}

static inline void write_bytes(const char *path, const void *data, size_t n) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}
static inline void write_text(const char *path, const char *text) { write_bytes(path, text, strlen(text)); }

/* malloc'ed. */
static inline char *read_bytes(const char *path, size_t *n) {
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    fseek(f, 0, SEEK_END);
    *n = (size_t)ftell(f);
    rewind(f);
    char *data = malloc(*n + 1);
    assert_int_equal(fread(data, 1, *n, f), *n);
    data[*n] = 0;
    fclose(f);
    return data;
}

static inline void expect_failure(qpi_error *e, qp_code code, const char *words) {
    if (e->code != code || !strstr(e->text, words))
        fail_msg("expected error %d with \"%s\", found %d: %s", code, words, e->code, e->text);
    *e = (qpi_error){0};
}
static inline void expect_error(qp_ctx *ctx, qp_code code, const char *words) {
    if (qp_error_code(ctx) != code || !strstr(qp_error(ctx), words))
        fail_msg("expected error %d with \"%s\", found %d: %s", code, words, qp_error_code(ctx), qp_error(ctx));
    qp_clear(ctx);
}
static inline void expect_ok(qp_ctx *ctx) {
    if (qp_failed(ctx)) fail_msg("%s", qp_error(ctx));
}

#endif
