/* See gated.h. */
#include "nn/gated.h"

void qpi_gated_init(qpi_gated *g, qp_build *b, const char *name, int sides, const char *const *names) {
    *g = (qpi_gated){
        .position = b->position, .inner = qp_setting_int(b, "width"), .width = b->head_width, .sides = sides};
    if (!g->inner) g->inner = 2 * b->width;
    if (b->position && b->position->type && b->position->type->bias)
        qp_fail(b->ctx, QP_ERR_UNSUPPORTED,
                "%s: the position encoding %s adds to a softmax's scores, and there is none", name,
                b->position->type->part.name);
    qp_linear_options in = {.init = b->init}, value = {.init = b->init_value}, out = {.init = b->init_residual};
    g->u = qp_nn_linear_new(b->module, "u", b->width, g->inner, in);
    g->v = qp_nn_linear_new(b->module, "v", b->width, g->inner, value);
    g->z = qp_nn_linear_new(b->module, "z", b->width, g->width, in);
    g->out = qp_nn_linear_new(b->module, "out", g->inner, b->width, out);
    for (int i = 0; i < sides; i++) {
        qp_module *m = qp_module_new(b->ctx, b->module, names[i]);
        if (!m) return;
        g->scale[i] = qp_param(m, "scale", "ones", 1, &g->width);
        g->offset[i] = qp_param(m, "offset", "zeros", 1, &g->width);
    }
}

qpi_gates qpi_gated_project(const qpi_gated *g, qp_tensor x, const qp_sequence *s) {
    const qp_position *p = g->position;
    qpi_gates          t = {.u = qp_nn_linear_forward(g->u, x, QP_ACT_SILU, QP_NONE)};
    t.v = qp_nn_linear_forward(g->v, x, QP_ACT_SILU, QP_NONE);
    qp_tensor z = qp_nn_linear_forward(g->z, x, QP_ACT_SILU, QP_NONE);
    for (int i = 0; i < g->sides; i++) {
        t.side[i] = qp_add(qp_mul(z, g->scale[i]), g->offset[i]);
        if (p && p->type && p->type->rotate)
            t.side[i] = qpi_join_heads(p->type->rotate(p->self, qpi_split_heads(t.side[i], 1), s));
    }
    return t;
}

qp_tensor qpi_gated_end(const qpi_gated *g, qp_tensor u, qp_tensor mixed, qp_tensor residual) {
    return qp_nn_linear_forward(g->out, qp_mul(u, mixed), QP_ACT_NONE, residual);
}

qp_tensor qpi_square_weights(qp_tensor q, qp_tensor k, double scale, qp_tensor seen) {
    qp_tensor scores = qp_relu(qp_matmul(qp_affine(q, scale, 0), qp_transpose(k, -1, -2)));
    return qp_square(qpi_keep(scores, seen, 0));
}

qp_tensor qpi_not_behind(qp_ctx *ctx, int64_t T, int64_t N, int64_t first) {
    qp_tensor query = qp_affine(qp_cast(qp_arange(ctx, QP_I64, T), QP_F64), 1, (double)first);
    return qp_le(qp_cast(qp_arange(ctx, QP_I64, N), QP_F64), qp_reshape(query, 2, (int64_t[]){T, 1}));
}

qp_tensor qpi_counted(qp_tensor x, const qp_sequence *s) {
    if (qp_is_none(s->mask.lengths)) return qp_scalar(x.ctx, qp_dtype_of(x), (double)qp_size(x, 1));
    qp_tensor n = qp_reshape(qp_cast(s->mask.lengths, qp_dtype_of(x)), 3, (int64_t[]){qp_size(x, 0), 1, 1});
    return qp_maximum(n, qp_scalar(x.ctx, qp_dtype_of(x), 1));
}
