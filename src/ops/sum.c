/* y = x summed over axes.   dx = dy repeated along them. */
#include "ops/reduce.h"

static void run(const qp_call *c) { QK(qk_sum)(c, reduce_axes(c->attr, c->in[0].ndim), 1); }

QP_KERNEL(sum) = {run, QP_ANY, NULL};

#if QP_BODY
/* Integers add up in i64, as in PyTorch. */
static void shape(qp_call *c) {
    qp_dtype t = c->in[0].dtype;
    reduce_shape(c, qp_dtype_is_float(t) ? t : QP_I64);
}

static void plain(const qp_call *c) { reduce_plain(c, 1); }
static void backward(qp_rule *r) { r->din[0] = reduce_expand(r, r->dout[0]); }

static const qp_sample samples[] = {
    REDUCE_SAMPLES, {.in = "i9[2,3]", .no_grad = true}, {.in = "b[7]", .no_grad = true}, {0}};

QP_OP(sum) = {.name = "sum",
              .source = "torch.sum",
              .min_in = 1,
              .max_in = 1,
              .nout = 1,
              .attr_bytes = sizeof(reduce_attr),
              .shape = shape,
              .plain = plain,
              .backward = backward,
              .scratch = reduce_scratch,
              .flops = reduce_flops,
              .samples = samples};

qp_tensor qp_sum(qp_tensor x, int naxes, const int *axes, bool keep) {
    reduce_attr a = reduce_over(naxes, axes, keep);
    return QP_CALL(sum, &a, x);
}
#endif
