#include "core/core.h"
#include "quipu/train.h"
#include "train/list.h"

#include <math.h>
#include <stdlib.h>

extern const qp_op qp_op_lerp;

struct qp_ema {
    qp_ctx    *ctx;
    qpi_owned *owned;
    int        count;
    double     decay;
    qp_tensor *weights, *means;
    qp_tensor  share;
};

static void destroy(void *thing) {
    qp_ema *e = thing;
    free(e->weights);
    free(e->means);
    free(e);
}

qp_ema *qp_ema_new(qp_model *m, double decay) {
    qp_ctx       *ctx = qp_model_ctx(m);
    qp_state_dict params = qp_model_params(m);
    if (qp_failed(ctx)) return NULL;
    if (!(decay > 0 && decay < 1))
        return qp_fail(ctx, QP_ERR_ARGUMENT, "ema: decay %g, expected 0 < decay < 1", decay), NULL;
    qp_ema *e = calloc(1, sizeof *e);
    bool    made = e && (e->weights = calloc((size_t)params.count + 1, sizeof *e->weights)) &&
                   (e->means = calloc((size_t)params.count + 1, sizeof *e->means)) &&
                   (e->owned = qpi_own(ctx, e, destroy));
    if (!made) {
        if (e) destroy(e);
        qp_fail(ctx, QP_ERR_MEMORY, "out of memory: ema");
        return NULL;
    }
    e->ctx = ctx;
    e->decay = decay;
    e->share = qp_keep(qp_zeros(ctx, QP_F32, 1, (int64_t[]){1}));
    for (int i = 0; i < params.count && !qp_failed(ctx); i++) {
        int64_t   shape[QP_MAX_DIMS];
        qp_tensor w = e->weights[i] = params.entries[i].tensor;
        for (int axis = 0; axis < qp_ndim(w); axis++) shape[axis] = qp_size(w, axis);
        e->means[e->count++] = qp_keep(qp_empty(ctx, QP_F32, qp_ndim(w), shape));
        qp_copy_to(e->means[i], w);
    }
    return qp_failed(ctx) ? NULL : e;
}

void qp_ema_close(qp_ema *e) {
    if (!e) return;
    for (int i = 0; i < e->count; i++) qp_drop(e->means[i]);
    qp_drop(e->share);
    qpi_disown(e->owned);
    destroy(e);
}

void qp_ema_update(qp_ema *e, int64_t step) {
    qpi_list l = {.op = &qp_op_lerp};
    qp_scope s = qp_enter(e->ctx);
    double   decay = fmin(e->decay, (1 + (double)step) / (10 + (double)step));
    qp_no_grad(e->ctx, true);
    qp_write(e->share, QP_F32, (float[]){(float)(1 - decay)}, 1);
    for (int i = 0; i < e->count; i++) qpi_list_add(&l, 3, (qp_tensor[]){e->means[i], e->weights[i], e->share});
    qpi_list_run(&l);
    qp_leave(s);
}

double qp_ema_decay(const qp_ema *e) { return e->decay; }

/* The storages change places. Nothing is copied, so nothing fails half way, whatever the context's state. */
static void exchange(qp_tensor weight, qp_tensor mean) {
    qpi_slot *w = qpi_resolve(weight, "ema"), *m = qpi_resolve(mean, "ema");
    if (!w || !m) return;
    qpi_value before = w->value;
    w->value = m->value;
    m->value = before;
    if (!w->node) return;
    w->node->saved[0].value.view = w->value.view;
    w->node->device = w->value.storage->device;
}

void qp_ema_swap(qp_ema *e) {
    for (int i = 0; i < e->count; i++) exchange(e->weights[i], e->means[i]);
}
