#include "nn/experts.h"

#include "core/core.h"

int64_t qpi_experts_width(const qp_build *b) {
    int64_t width = qp_setting_int(b, "width");
    return width ? width : (8 * b->width / 3 + 31) / 32 * 32;
}

void qpi_experts_init(qpi_experts *e, qp_build *b, bool gated) {
    int64_t width = qpi_experts_width(b);
    e->module = b->module;
    if (qpi_settings_option(b->settings, "balance")) {
        e->balance = qp_setting(b, "balance") / b->layers;
        e->z = qp_setting(b, "z_loss") / b->layers;
    }
    e->count = qp_setting_int(b, "experts");
    e->chosen = qp_setting_int(b, "per_token");
    if (e->chosen > e->count) {
        qp_fail(b->ctx, QP_ERR_ARGUMENT, "per_token %lld is more than experts %lld", (long long)e->chosen,
                (long long)e->count);
        return;
    }
    int64_t    into[] = {e->count, width, b->width}, out[] = {e->count, b->width, width};
    qp_module *m = qp_module_new(b->ctx, b->module, "experts");
    e->router = qp_nn_linear_new(b->module, "router", b->width, e->count, (qp_linear_options){.init = b->init});
    if (gated) e->gate = qp_param(m, "gate", b->init, 3, into);
    e->up = qp_param(m, "up", b->init, 3, into);
    e->down = qp_param(m, "down", b->init_residual, 3, out);
}

qp_tensor qpi_experts_logits(const qpi_experts *e, qp_tensor x) {
    qp_dtype  before = qp_autocast(x.ctx, QP_F32);
    qp_tensor logits = qp_nn_linear_forward(e->router, x, QP_ACT_NONE, QP_NONE);
    qp_autocast(x.ctx, before);
    return logits;
}

/* Rows of each group. */
static qp_tensor counts(qp_tensor offsets, qp_dtype type) {
    int64_t   groups = qp_size(offsets, 0) - 1;
    qp_tensor ends = qp_cast(offsets, type);
    return qp_sub(qp_slice(ends, 0, 1, groups + 1, 1), qp_slice(ends, 0, 0, groups, 1));
}

qp_tensor qpi_experts_load(const qpi_experts *e, qp_tensor index) {
    qp_tensor source, place, offsets;
    qp_group(index, e->count, 0, &source, &place, &offsets);
    return counts(offsets, QP_F32);
}

static void balance(const qpi_experts *e, qp_tensor logits, qp_tensor index, const qp_sequence *s) {
    double    tokens = (double)qp_size(logits, 0);
    qp_tensor load = qp_cast(qpi_experts_load(e, index), qp_dtype_of(logits));
    qp_tensor mean = qp_mean(qp_softmax(logits, -1), 1, (int[]){0}, false);
    qp_tensor loss = qp_sum(qp_mul(load, mean), 0, NULL, false);
    qp_sequence_add(s, "aux.balance",
                    qp_affine(loss, e->balance * (double)e->count / (tokens > 0 ? tokens : 1), 0));
}

void qpi_experts_losses(const qpi_experts *e, qp_tensor logits, qp_tensor index, const qp_sequence *s) {
    if (!qp_training(e->module)) return;
    if (e->balance > 0) balance(e, logits, index, s);
    if (e->z > 0)
        qp_sequence_add(
            s, "aux.z_loss",
            qp_affine(qp_mean(qp_square(qp_logsumexp(logits, -1, false)), 0, NULL, false), e->z, 0));
}

/* What a layer says joins what those before it said, a row for each; layers of another kind begin anew. */
static void add_statistic(const qp_sequence *s, const char *name, qp_tensor row) {
    qp_tensor before = qp_sequence_get(s, name);
    bool      same = !qp_is_none(before) && qp_ndim(before) == 2 && qp_size(before, 1) == qp_size(row, 1);
    qp_sequence_add(s, name, same ? qp_concat(2, (qp_tensor[]){before, row}, 0) : row);
}

/* Shares of the choices: each expert's, and of those that none had a place for. */
static void add_statistics(const qpi_experts *e, qp_tensor offsets, double choices, const qp_sequence *s) {
    qp_tensor load = qp_affine(counts(offsets, QP_F32), choices > 0 ? 1 / choices : 0, 0);
    load = qp_reshape(load, 2, (int64_t[]){1, e->count});
    add_statistic(s, "stat.load", load);
    add_statistic(s, "stat.dropped", qp_affine(qp_sum(load, 1, (int[]){1}, true), -1, choices > 0 ? 1 : 0));
}

qp_tensor qpi_experts_forward(const qpi_experts *e, qp_tensor x, qpi_routing r, qp_tensor residual,
                              const qp_sequence *s) {
    qp_tensor source, place, offsets;
    qp_group(r.index, e->count, r.capacity, &source, &place, &offsets);
    if (qp_training(e->module)) add_statistics(e, offsets, (double)qp_count(r.index), s);
    qp_tensor rows = qp_embedding(x, source), inner = qp_grouped_linear(rows, e->up, offsets);
    inner = qp_is_none(e->gate) ? qp_relu(inner) : qp_swiglu(qp_grouped_linear(rows, e->gate, offsets), inner);
    return qp_combine(qp_grouped_linear(inner, e->down, offsets), place, r.weight, residual);
}

qp_tensor qpi_experts_rows(qp_tensor x) {
    return qp_is_none(x) ? x : qp_reshape(x, 2, (int64_t[]){-1, qp_size(x, -1)});
}

qp_tensor qpi_experts_back(qp_tensor y, qp_tensor like) {
    return qp_reshape(y, 3, (int64_t[]){qp_size(like, 0), qp_size(like, 1), qp_size(y, -1)});
}
