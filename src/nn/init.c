/* Initialisation by name: "normal:0.02" is the descriptor `normal` with the argument 0.02. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/core.h"
#include "nn/part.h"

void qp_init(qp_tensor t, const char *spec) {
    if (qp_is_none(t) || qp_failed(t.ctx)) return;
    const char *colon = strchr(spec, ':');
    size_t      length = colon ? (size_t)(colon - spec) : strlen(spec);
    double      argument = 0;
    if (colon) {
        char *end;
        argument = strtod(colon + 1, &end);
        if (end == colon + 1 || *end) {
            qp_fail(t.ctx, QP_ERR_ARGUMENT, "init \"%s\": expected a number behind the colon", spec);
            return;
        }
    }
    char name[64];
    snprintf(name, sizeof name, "%.*s", (int)length, spec);
    const void *type = length < sizeof name ? qp_part_find(t.ctx, QP_PART_INIT, name) : NULL;
    if (!type) {
        qp_fail(t.ctx, QP_ERR_ARGUMENT, "init \"%s\": no such initialisation (see `quipu list init`)", spec);
        return;
    }
    bool     before = qp_no_grad(t.ctx, true);
    qp_scope s = qp_enter(t.ctx);
    ((const qp_init_type *)type)->fill(t, argument);
    qp_leave(s);
    qp_no_grad(t.ctx, before);
}
