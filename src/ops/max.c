/* y = the maximum along one axis and, a second output, where it first stands; NaN counts as the
 * largest.   dx = dy there, 0 elsewhere. */
#include "kernels/extreme.h"
#include "ops/axis.h"

static void one(const qp_call *c, qk_line l) { qk_max_one(c, l, c->out[0].data, c->out[1].data); }
static void many(const qp_call *c, qk_line l) { qk_max_many(c, l, c->out[0].data, c->out[1].data); }
static void run(const qp_call *c) { qk_lines(c, &c->in[0], axis_given(c), one, many); }

QP_KERNEL(max) = {run, QP_FLAT, NULL};

#if QP_BODY
static void shape(qp_call *c) { axis_reduced_shape(c, (qp_dtype[]){c->in[0].dtype, QP_I64}); }

static void plain(const qp_call *c) {
    const qp_view *x = &c->in[0];
    qk_axis        a = qk_axis_of(x, axis_given(c));
    for (int64_t l = 0; l < a.outer * a.inner; l++) {
        int64_t at = 0;
        for (int64_t i = 1; i < a.n; i++)
            if (qk_larger(axis_load(x, a, l, i), axis_load(x, a, l, at))) at = i;
        qp_store(&c->out[0], l, axis_load(x, a, l, at));
        qp_store(&c->out[1], l, (double)at);
    }
}

static void backward(qp_rule *r) {
    int     ndim = qp_ndim(r->in[0]);
    int64_t size[QP_MAX_DIMS];
    for (int i = 0; i < ndim; i++) size[i] = qp_size(r->in[0], i);
    qp_tensor zero = qp_zeros(r->ctx, qp_dtype_of(r->dout[0]), ndim, size);
    r->din[0] = qp_scatter_add(zero, ((const axis_attr *)r->attr)->axis, axis_unreduce(r, r->out[1]),
                               axis_unreduce(r, r->dout[0]));
}

static const qp_sample samples[] = {
    AXIS_REDUCED_SAMPLES("d"), {.in = "i4[3,50]", .attr = &(axis_attr){-1, false}, .no_grad = true}, {0}};

QP_OP(max) = {.name = "max",
              .source = "torch.max over one axis",
              .min_in = 1,
              .max_in = 1,
              .nout = 2,
              .attr_bytes = sizeof(axis_attr),
              .saves = QP_SAVE_OUT(1),
              .shape = shape,
              .plain = plain,
              .backward = backward,
              .flops = axis_flops,
              .samples = samples};

qp_tensor qp_max(qp_tensor x, int axis, bool keep) {
    axis_attr a = {axis, keep};
    qp_tensor y[2];
    QP_CALL_MANY(max, &a, y, x);
    qp_drop(y[1]);
    return y[0];
}
#endif
