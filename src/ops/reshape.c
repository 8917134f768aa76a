/* y = x's elements in C order under another shape: a view where x's strides allow it.
 * dx = dy with x's shape. */
#include "ops/op.h"

#if QP_BODY
#include "ops/shape.h"

static void shape(qp_call *c) {
    int64_t size[QP_MAX_DIMS], known = 1, count = qp_view_count(&c->in[0]);
    int     ndim = shape_decode(c->attr, size), free_axis = -1;
    char    x[96], y[96];
    bool    fits = true;
    for (int i = 0; i < ndim; i++) {
        if (size[i] >= 0) fits &= !__builtin_mul_overflow(known, size[i], &known);
        else if (free_axis < 0) free_axis = i;
        else fits = false; /* two sizes left open */
    }
    if (fits && free_axis >= 0 && known > 0) size[free_axis] = count / known;
    if (free_axis >= 0) fits &= known > 0 && count % known == 0;
    else fits &= known == count;
    if (fits) {
        shape_set(c, 0, c->in[0].dtype, ndim, size);
        return;
    }
    qpi_view_describe(&c->in[0], x, sizeof x);
    shape_decode(c->attr, size);
    qp_call_fail(c, QP_ERR_SHAPE, "%s does not reshape to %s", x, shape_text(ndim, size, y, sizeof y));
}

/* Strides for v's shape over x's elements. Runs of x's axes that lie in one piece of memory
 * are cut anew; false if a new axis would cross a gap. */
static bool restride(const qp_view *x, qp_view *v) {
    qp_view merged = *x, *one[1] = {&merged};
    if (qp_view_count(x) == 0) return true;
    qpi_views_merge(one, 1);
    int     axis = merged.ndim - 1;
    int64_t left = merged.shape[axis], stride = merged.stride[axis];
    for (int i = v->ndim - 1; i >= 0; i--) {
        if (v->shape[i] == 1) {
            v->stride[i] = stride;
            continue;
        }
        if (left == 1 && axis > 0) {
            left = merged.shape[--axis];
            stride = merged.stride[axis];
        }
        if (left % v->shape[i]) return false;
        v->stride[i] = stride;
        stride *= v->shape[i];
        left /= v->shape[i];
    }
    return true;
}

/* data stays NULL where no view is possible. */
static void view(qp_call *c) {
    if (restride(&c->in[0], &c->out[0])) c->out[0].data = c->in[0].data;
}

static void backward(qp_rule *r) {
    int64_t size[QP_MAX_DIMS];
    int     ndim = qp_ndim(r->in[0]);
    for (int i = 0; i < ndim; i++) size[i] = qp_size(r->in[0], i);
    r->din[0] = qp_reshape(r->dout[0], ndim, size);
}

#define SIZES(...) &(shape_sizes){{__VA_ARGS__}}
static const qp_sample samples[] = {{.in = "x[6,4]", .attr = SIZES(2 + 2, 3 + 2, 4 + 2)},
                                    {.in = "x[2,3,4]", .attr = SIZES(6 + 2, -1 + 2)},
                                    {.in = "x[4,6]", .attr = SIZES(8 + 2, 3 + 2)},
                                    {.in = "x[1]", .attr = SIZES(0)},
                                    {.in = "x[]", .attr = SIZES(1 + 2, 1 + 2)},
                                    {.in = "x[0,3]", .attr = SIZES(5 + 2, 0 + 2)},
                                    {.in = "i9[6]", .attr = SIZES(2 + 2, 3 + 2), .no_grad = true},
                                    {0}};

QP_OP(reshape) = {.name = "reshape",
                  .source = "torch.reshape",
                  .min_in = 1,
                  .max_in = 1,
                  .nout = 1,
                  .attr_bytes = sizeof(shape_sizes),
                  .shape = shape,
                  .view = view,
                  .blocks = QP_SAVE_IN(0),
                  .backward = backward,
                  .region = true,
                  .samples = samples};

qp_tensor qp_reshape(qp_tensor x, int ndim, const int64_t *new_shape) {
    shape_sizes a;
    if (!x.ctx || shape_encode(&a, ndim, new_shape)) return QP_CALL(reshape, &a, x);
    qp_fail(x.ctx, QP_ERR_ARGUMENT, "reshape: %d axes (at most %d) or a size below -1", ndim, QP_MAX_DIMS);
    return qpi_poison(x.ctx);
}
#endif
