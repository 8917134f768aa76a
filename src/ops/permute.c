/* y's axis i is x's axis axes[i]: a view.   dx = dy under the inverse permutation. */
#include "ops/op.h"

#if QP_BODY
#include "ops/shape.h"

typedef struct {
    int32_t axes[QP_MAX_DIMS];
} attr;

static void shape(qp_call *c) {
    const attr    *a = c->attr;
    const qp_view *x = &c->in[0];
    qp_view       *y = &c->out[0];
    unsigned       seen = 0;
    *y = (qp_view){.dtype = x->dtype, .ndim = x->ndim};
    for (int i = 0; i < x->ndim; i++) {
        int from = shape_axis(a->axes[i], x->ndim);
        if (from < 0 || from >= x->ndim || seen >> from & 1) {
            qp_call_fail(c, QP_ERR_ARGUMENT, "axis %d at place %d: expected each of the %d axes once",
                         a->axes[i], i, x->ndim);
            return;
        }
        seen |= 1u << from;
        y->shape[i] = x->shape[from];
    }
}

static void view(qp_call *c) {
    const attr *a = c->attr;
    for (int i = 0; i < c->in[0].ndim; i++)
        c->out[0].stride[i] = c->in[0].stride[shape_axis(a->axes[i], c->in[0].ndim)];
    c->out[0].data = c->in[0].data;
}

static void backward(qp_rule *r) {
    const attr *a = r->attr;
    int         ndim = qp_ndim(r->in[0]), inverse[QP_MAX_DIMS];
    for (int i = 0; i < ndim; i++) inverse[shape_axis(a->axes[i], ndim)] = i;
    r->din[0] = qp_permute(r->dout[0], inverse);
}

static const qp_sample samples[] = {{.in = "x[3,5]", .attr = &(attr){{1, 0}}},
                                    {.in = "x[2,3,4]", .attr = &(attr){{1, 2, 0}}},
                                    {.in = "x[2,3,1,4]", .attr = &(attr){{0, -2, 1, -1}}},
                                    {.in = "x[0,3]", .attr = &(attr){{1, 0}}},
                                    {.in = "x[]"},
                                    {.in = "i9[2,3]", .attr = &(attr){{1, 0}}, .no_grad = true},
                                    {0}};

QP_OP(permute) = {.name = "permute",
                  .source = "torch.permute",
                  .min_in = 1,
                  .max_in = 1,
                  .nout = 1,
                  .attr_bytes = sizeof(attr),
                  .shape = shape,
                  .view = view,
                  .blocks = QP_SAVE_IN(0),
                  .backward = backward,
                  .region = true,
                  .samples = samples};

qp_tensor qp_permute(qp_tensor x, const int *axes) {
    attr a = {{0}};
    int  ndim = qp_ndim(x);
    for (int i = 0; i < ndim; i++) a.axes[i] = axes[i];
    return QP_CALL(permute, &a, x);
}

qp_tensor qp_transpose(qp_tensor x, int axis0, int axis1) {
    int axes[QP_MAX_DIMS], ndim = qp_ndim(x), a = shape_axis(axis0, ndim), b = shape_axis(axis1, ndim);
    if (!x.ctx || qp_failed(x.ctx)) return x;
    if (a < 0 || a >= ndim || b < 0 || b >= ndim) {
        qp_fail(x.ctx, QP_ERR_ARGUMENT, "transpose: axes %d and %d of a tensor with %d axes", axis0, axis1,
                ndim);
        return qpi_poison(x.ctx);
    }
    for (int i = 0; i < ndim; i++) axes[i] = i == a ? b : i == b ? a : i;
    return qp_permute(x, axes);
}
#endif
