/* y = x broadcast to a shape: a view with stride 0.   dx = dy summed over what was broadcast. */
#include "ops/op.h"

#if QP_BODY
#include "ops/shape.h"

static void shape(qp_call *c) {
    int64_t size[QP_MAX_DIMS];
    int     ndim = shape_decode(c->attr, size);
    char    x[96], y[96];
    qp_view v = c->in[0];
    if (!qpi_view_expand(&v, ndim, size)) {
        qpi_view_describe(&c->in[0], x, sizeof x);
        qp_call_fail(c, QP_ERR_SHAPE, "%s does not broadcast to %s", x, shape_text(ndim, size, y, sizeof y));
        return;
    }
    shape_set(c, 0, c->in[0].dtype, ndim, size);
}

static void view(qp_call *c) {
    qp_view v = c->in[0];
    qpi_view_expand(&v, c->out[0].ndim, c->out[0].shape);
    c->out[0] = v;
}

static void backward(qp_rule *r) { r->din[0] = qp_sum_to(r->dout[0], r->in[0]); }

#define SIZES(...) &(shape_sizes){{__VA_ARGS__}}
static const qp_sample samples[] = {{.in = "x[3,1]", .attr = SIZES(3 + 2, 5 + 2)},
                                    {.in = "x[3]", .attr = SIZES(2 + 2, 4 + 2, 3 + 2)},
                                    {.in = "x[]", .attr = SIZES(3 + 2)},
                                    {.in = "x[1,3]", .attr = SIZES(0 + 2, 3 + 2)},
                                    {.in = "x[2,3]", .attr = SIZES(2 + 2, 3 + 2)},
                                    {.in = "i9[1]", .attr = SIZES(7 + 2), .no_grad = true},
                                    {0}};

QP_OP(expand) = {.name = "expand",
                 .source = "torch.Tensor.expand",
                 .min_in = 1,
                 .max_in = 1,
                 .nout = 1,
                 .attr_bytes = sizeof(shape_sizes),
                 .shape = shape,
                 .view = view,
                 .blocks = QP_SAVE_IN(0),
                 .backward = backward,
                 .samples = samples};

qp_tensor qp_expand(qp_tensor x, int ndim, const int64_t *new_shape) {
    shape_sizes a;
    if (!x.ctx || shape_encode(&a, ndim, new_shape)) return QP_CALL(expand, &a, x);
    qp_fail(x.ctx, QP_ERR_ARGUMENT, "expand: %d axes (at most %d) or a negative size", ndim, QP_MAX_DIMS);
    return qpi_poison(x.ctx);
}
#endif
