#include "core/error.h"

#include <stdarg.h>
#include <stdio.h>

#include "core/core.h"

static qp_status store(qpi_error *e, qp_code code, const char *format, va_list args) {
    if (!e || e->code != QP_OK) return code;
    e->code = code;
    vsnprintf(e->text, sizeof e->text, format, args);
    return code;
}

qp_status qpi_fail(qpi_error *e, qp_code code, const char *format, ...) {
    va_list args;
    va_start(args, format);
    store(e, code, format, args);
    va_end(args);
    return code;
}

qp_status qp_fail(qp_ctx *ctx, qp_code code, const char *format, ...) {
    if (!ctx) return code;
    va_list args;
    va_start(args, format);
    store(&ctx->error, code, format, args);
    va_end(args);
    return code;
}

bool qp_failed(const qp_ctx *ctx) { return !ctx || ctx->error.code != QP_OK; }
qp_code qp_error_code(const qp_ctx *ctx) { return ctx ? ctx->error.code : QP_ERR_MEMORY; }
const char *qp_error(const qp_ctx *ctx) { return ctx ? ctx->error.text : "no context: out of memory"; }

void qp_clear(qp_ctx *ctx) {
    if (!ctx) return;
    if (ctx->error.code == QP_ERR_CANCELLED) ctx->cancelled = 0;
    ctx->error = (qpi_error){0};
}

void qp_cancel(qp_ctx *ctx) {
    if (ctx) ctx->cancelled = 1;
}
