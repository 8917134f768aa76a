/* y = x's elements start, start + step, .. below end along one axis: a view.
 * dx = 0 but for the slice, where it is dy: added into that region of x's gradient. */
#include "ops/op.h"

#if QP_BODY
#include "ops/shape.h"

typedef struct {
    int32_t axis;
    int64_t start, end, step;
} attr;

static int64_t clip(int64_t at, int64_t size) {
    if (at < 0) at += size;
    return at < 0 ? 0 : at > size ? size : at;
}

static void shape(qp_call *c) {
    const attr *a = c->attr;
    if (!shape_check_axis(c, a->axis)) return;
    if (a->step < 1) {
        qp_call_fail(c, QP_ERR_ARGUMENT, "step %lld, expected at least 1", (long long)a->step);
        return;
    }
    int     axis = shape_axis(a->axis, c->in[0].ndim), block = qp_dtype_block(c->in[0].dtype);
    int64_t size = c->in[0].shape[axis], start = clip(a->start, size), end = clip(a->end, size);
    if (axis == c->in[0].ndim - 1 && start % block) {
        qp_call_fail(c, QP_ERR_ARGUMENT, "start %lld of %s: blocks have %d elements", (long long)start,
                     qp_dtype_name(c->in[0].dtype), block);
        return;
    }
    c->out[0] = c->in[0];
    c->out[0].shape[axis] = end > start ? (end - start - 1) / a->step + 1 : 0;
}

static void view(qp_call *c) {
    const attr    *a = c->attr;
    const qp_view *x = &c->in[0];
    int            axis = shape_axis(a->axis, x->ndim);
    int64_t        offset = c->out[0].shape[axis] ? clip(a->start, x->shape[axis]) * x->stride[axis] : 0;
    for (int i = 0; i < x->ndim; i++) c->out[0].stride[i] = x->stride[i];
    if (c->out[0].shape[axis] > 1) c->out[0].stride[axis] *= a->step;
    c->out[0].data = (char *)x->data + qp_dtype_size(x->dtype, offset);
}

static void backward(qp_rule *r) {
    const attr *a = r->attr;
    r->din[0] = qp_grad_into(r, 0);
    QP_CALL(accumulate, NULL, qp_slice(r->din[0], a->axis, a->start, a->end, a->step), r->dout[0]);
}

static const qp_sample samples[] = {{.in = "x[5,7]", .attr = &(attr){1, 2, 6, 1}},
                                    {.in = "x[5,7]", .attr = &(attr){0, -4, -1, 2}},
                                    {.in = "x[2,9,3]", .attr = &(attr){-2, 1, 100, 3}},
                                    {.in = "x[4]", .attr = &(attr){0, 3, 1, 1}},
                                    {.in = "x[0,4]", .attr = &(attr){1, 1, 3, 1}},
                                    {.in = "i9[6]", .attr = &(attr){0, 0, 6, 5}, .no_grad = true},
                                    {0}};

QP_OP(slice) = {.name = "slice",
                .source = "x[:, start:end:step]",
                .min_in = 1,
                .max_in = 1,
                .nout = 1,
                .attr_bytes = sizeof(attr),
                .shape = shape,
                .view = view,
                .backward = backward,
                .blocks = QP_SAVE_IN(0),
                .region = true,
                .samples = samples};

qp_tensor qp_slice(qp_tensor x, int axis, int64_t start, int64_t end, int64_t step) {
    return QP_CALL(slice, (&(attr){axis, start, end, step}), x);
}

void qp_split(qp_tensor x, int axis, int n, const int64_t *sizes, qp_tensor *ys) {
    int64_t sum = 0;
    bool    ok = x.ctx && !qp_failed(x.ctx);
    for (int i = 0; i < n; i++) {
        ys[i] = x.ctx ? qpi_poison(x.ctx) : QP_NONE;
        ok = ok && sizes[i] >= 0 && !__builtin_add_overflow(sum, sizes[i], &sum);
    }
    if (!x.ctx || qp_failed(x.ctx)) return;
    int64_t size = qp_size(x, axis);
    if (qp_failed(x.ctx)) return;
    if (!ok || sum != size) {
        qp_fail(x.ctx, QP_ERR_SHAPE, "split: %d sizes with sum %lld (or a negative one), axis %d has %lld", n,
                (long long)sum, axis, (long long)size);
        return;
    }
    for (int64_t i = 0, start = 0; i < n; start += sizes[i++])
        ys[i] = qp_slice(x, axis, start, start + sizes[i], 1);
}
#endif
