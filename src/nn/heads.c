/* See heads.h. */
#include "nn/heads.h"

bool qpi_heads_fit(const qp_scores *s, int64_t width, const char *name) {
    if (qp_failed(s->q.ctx) || qp_size(s->q, 3) == width) return !qp_failed(s->q.ctx);
    return !qp_fail(s->q.ctx, QP_ERR_UNSUPPORTED,
                    "%s: the mixer's queries have %lld features, its heads %lld, of which it has vectors", name,
                    (long long)qp_size(s->q, 3), (long long)width);
}

void qpi_heads_init(qpi_heads *h, qp_build *b, const char *name, int64_t values) {
    *h = (qpi_heads){.name = name, .heads = b->heads, .width = b->head_width, .position = b->position};
    h->values = values ? values : h->width;
    if (b->position && b->position->type && b->position->type->bias)
        qp_fail(b->ctx, QP_ERR_UNSUPPORTED, "%s: it forms no scores for the position encoding %s to add to",
                name, b->position->type->part.name);
    qp_linear_options in = {.bias = qp_setting(b, "bias") != 0, .init = b->init}, value = in;
    qp_linear_options out = {.bias = qp_setting(b, "out_bias") != 0, .init = b->init_residual};
    value.init = b->init_value;
    h->q = qp_nn_linear_new(b->module, "q", b->width, h->heads * h->width, in);
    h->k = qp_nn_linear_new(b->module, "k", b->width, h->heads * h->width, in);
    h->v = qp_nn_linear_new(b->module, "v", b->width, h->heads * h->values, value);
    h->out = qp_nn_linear_new(b->module, "out", h->heads * h->values, b->width, out);
}

qp_tensor qpi_join_heads(qp_tensor x) {
    return qp_reshape(x, 3, (int64_t[]){qp_size(x, 0), qp_size(x, 1), qp_size(x, 2) * qp_size(x, 3)});
}

qp_tensor qpi_split_heads(qp_tensor x, int64_t heads) {
    return qp_reshape(x, 4, (int64_t[]){qp_size(x, 0), qp_size(x, 1), heads, qp_size(x, 2) / heads});
}

qpi_qkv qpi_heads_project(const qpi_heads *h, qp_tensor x, const qp_sequence *s) {
    qp_tensor y[3];
    qp_nn_linear_forward_many(3, (const qp_nn_linear *[]){h->q, h->k, h->v}, x, y);
    qpi_qkv            t = {qpi_split_heads(y[0], h->heads), qpi_split_heads(y[1], h->heads),
                            qpi_split_heads(y[2], h->heads)};
    const qp_position *p = h->position;
    if (p && p->type && p->type->rotate) {
        t.q = p->type->rotate(p->self, t.q, s);
        t.k = p->type->rotate(p->self, t.k, s);
    }
    return t;
}

qp_tensor qpi_heads_end(const qpi_heads *h, qp_tensor o, qp_tensor residual) {
    return qp_nn_linear_forward(h->out, qpi_join_heads(o), QP_ACT_NONE, residual);
}

qp_tensor qpi_present(qp_tensor x, const qp_sequence *s) {
    if (qp_is_none(s->mask.lengths)) return QP_NONE;
    qp_tensor places =
        qp_reshape(qp_arange(x.ctx, QP_I64, qp_size(x, 1)), 4, (int64_t[]){1, qp_size(x, 1), 1, 1});
    return qp_lt(places, qp_reshape(s->mask.lengths, 4, (int64_t[]){qp_size(x, 0), 1, 1, 1}));
}

qp_tensor qpi_keep(qp_tensor x, qp_tensor present, double value) {
    if (qp_is_none(present)) return x;
    return qp_where(present, x, qp_scalar(x.ctx, qp_dtype_of(x), value));
}

/* What each position of x [B, T, H, n] has as [B, H, T, n]. */
static qp_tensor by_head(qp_tensor x) { return qp_transpose(x, 1, 2); }

qp_tensor qpi_sum_all(qp_tensor q, qp_tensor k, qp_tensor v) {
    qp_tensor sum = qp_matmul(qp_transpose(by_head(k), 2, 3), by_head(v));
    return qp_transpose(qp_matmul(by_head(q), sum), 1, 2);
}

qp_tensor qpi_see_all(qp_tensor q, qp_tensor k, qp_tensor v, double eps) {
    qp_tensor weights = qp_sum(qp_mul(q, qp_sum(k, 1, (int[]){1}, true)), 1, (int[]){-1}, true);
    return qp_div(qpi_sum_all(q, k, v), qp_affine(weights, 1, eps));
}
