/* Initialisation by name: "normal:0.02" is the descriptor `normal` with the argument 0.02. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/core.h"
#include "nn/module.h"
#include "nn/part.h"

/* The descriptor that a spec names, and its argument; NULL after storing an error. */
static const qp_init_type *find(qp_ctx *ctx, const char *spec, double *argument) {
    const char *colon = strchr(spec, ':');
    size_t      length = colon ? (size_t)(colon - spec) : strlen(spec);
    *argument = 0;
    if (colon) {
        char *end;
        *argument = strtod(colon + 1, &end);
        if (end == colon + 1 || *end) {
            qp_fail(ctx, QP_ERR_ARGUMENT, "init \"%s\": expected a number behind the colon", spec);
            return NULL;
        }
    }
    char name[64];
    snprintf(name, sizeof name, "%.*s", (int)length, spec);
    const void *type = length < sizeof name ? qp_part_find(ctx, QP_PART_INIT, name) : NULL;
    if (!type)
        qp_fail(ctx, QP_ERR_ARGUMENT, "init \"%s\": no such initialisation (see `quipu list init`)", spec);
    return type;
}

void qp_init(qp_tensor t, const char *spec) {
    double argument;
    if (qp_is_none(t) || qp_failed(t.ctx)) return;
    const qp_init_type *type = find(t.ctx, spec, &argument);
    if (!type) return;
    bool     before = qp_no_grad(t.ctx, true);
    qp_scope s = qp_enter(t.ctx);
    type->fill(t, argument);
    qp_leave(s);
    qp_no_grad(t.ctx, before);
}

double qpi_init_deviation(qp_tensor t, const char *spec) {
    double              argument;
    const qp_init_type *type = find(t.ctx, spec, &argument);
    return type && type->deviation ? type->deviation(t) : 1;
}
