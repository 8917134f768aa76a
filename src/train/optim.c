#include "train/optim.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void destroy(void *thing) {
    qp_optim *o = thing;
    for (int i = 0; i < o->params.count; i++) free((char *)o->params.entries[i].name);
    free((qp_entry *)o->params.entries);
    free(o->states);
    free(o);
}

static bool copy_params(qp_optim *o, qp_state_dict params) {
    qp_entry *entries = calloc((size_t)params.count + 1, sizeof *entries);
    o->params.entries = entries;
    for (int i = 0; entries && i < params.count; i++) {
        entries[i] = params.entries[i];
        if (!(entries[i].name = strdup(params.entries[i].name))) return false;
        o->params.count++;
    }
    return entries != NULL;
}

qp_optim *qpi_optim_new(const qpi_optim_type *type, qp_state_dict params, double lr, double clip) {
    qp_ctx *ctx = params.count > 0 ? params.entries[0].tensor.ctx : NULL;
    if (!ctx || qp_failed(ctx)) return NULL;
    qp_optim *o = calloc(1, sizeof *o);
    if (o) o->states = calloc((size_t)(params.count * type->state_count) + 1, sizeof *o->states);
    if (!o || !o->states || !copy_params(o, params) || !qpi_own(ctx, o, destroy)) {
        if (o) destroy(o);
        qp_fail(ctx, QP_ERR_MEMORY, "out of memory: %s", type->name);
        return NULL;
    }
    o->ctx = ctx;
    o->type = type;
    o->lr = lr;
    o->clip = clip;
    for (int i = 0; i < params.count * type->state_count; i++) {
        qp_tensor w = params.entries[i / type->state_count].tensor;
        int64_t   shape[QP_MAX_DIMS];
        for (int axis = 0; axis < qp_ndim(w); axis++) shape[axis] = qp_size(w, axis);
        o->states[i] = qp_keep(qp_zeros(ctx, QP_F32, qp_ndim(w), shape));
    }
    o->step_tensor = qp_keep(qp_zeros(ctx, QP_I64, 1, (int64_t[]){1}));
    o->square_sum = qp_keep(qp_zeros(ctx, QP_F64, 1, (int64_t[]){1}));
    return qp_failed(ctx) ? NULL : o;
}

/* None for what was frozen since. */
static qp_tensor gradient(qp_tensor w) { return qp_requires_grad(w) ? qp_grad_of(w) : QP_NONE; }

static void measure(qp_optim *o) {
    qp_write(o->square_sum, QP_F64, (double[]){0}, 1);
    for (int i = 0; i < o->params.count; i++) {
        qp_tensor g = gradient(o->params.entries[i].tensor);
        if (!qp_is_none(g)) qp_apply(&qp_op_add_square_sum, 2, (qp_tensor[]){o->square_sum, g}, NULL);
        qp_drop(g);
    }
    o->norm = sqrt(qp_item(o->square_sum));
    if (!qp_failed(o->ctx) && !isfinite(o->norm))
        qp_fail(o->ctx, QP_ERR_STATE, "%s: the gradient's norm is %g at step %lld: nothing was changed", o->type->name,
                o->norm, (long long)o->steps + 1);
}

static void update(qp_optim *o, int index, const qp_tensor numbers[2]) {
    qp_tensor w = o->params.entries[index].tensor, g = gradient(w);
    qp_tensor in[5] = {w};
    int       n = 1;
    if (qp_is_none(g)) return;
    for (int i = 0; i < o->type->state_count; i++) in[n++] = o->states[index * o->type->state_count + i];
    in[n++] = g;
    in[n++] = numbers[qp_ndim(w) >= 2];
    qp_apply(o->type->op, n, in, NULL);
    qp_drop(g);
    qp_zero_grad(w);
}

void qp_step(qp_optim *o) {
    qp_ctx *ctx = o->ctx;
    if (qp_failed(ctx)) return;
    qp_scope scope = qp_enter(ctx);
    bool     before = qp_no_grad(ctx, true);
    measure(o);
    double    clip = o->clip > 0 ? fmin(1, o->clip / (o->norm + 1e-6)) : 1;
    qp_tensor numbers[2];
    for (int decays = 0; decays < 2; decays++) {
        float h[QPI_MAX_NUMBERS];
        o->type->numbers(o, o->steps + 1, decays, h);
        h[o->type->clip_number] = (float)clip;
        numbers[decays] = qp_from(ctx, QP_F32, 1, (int64_t[]){o->type->number_count}, h);
    }
    for (int i = 0; i < o->params.count && !qp_failed(ctx); i++) update(o, i, numbers);
    if (!qp_failed(ctx)) qp_write(o->step_tensor, QP_I64, &(int64_t){++o->steps}, 1);
    qp_no_grad(ctx, before);
    qp_leave(scope);
}

void   qp_optim_set_lr(qp_optim *o, double lr) { o->lr = lr; }
double qp_optim_norm(const qp_optim *o) { return o->norm; }

bool qp_optim_state(qp_optim *o, int index, char name[256], qp_tensor *t) {
    int count = o->type->state_count, all = o->params.count * count;
    if (index < 0 || index > all) return false;
    if (index == all) {
        snprintf(name, 256, "step");
        *t = o->step_tensor;
    } else {
        snprintf(name, 256, "%s.%s", o->type->state_names[index % count], o->params.entries[index / count].name);
        *t = o->states[index];
    }
    return true;
}

void qp_optim_restored(qp_optim *o) { o->steps = (int64_t)qp_item(o->step_tensor); }
