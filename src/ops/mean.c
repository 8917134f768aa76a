/* y = the mean of x over axes.   dx = dy / n repeated along them, n the elements of one mean. */
#include "ops/reduce.h"

static void run(const qp_call *c) { QK(qk_sum)(c, reduce_axes(c->attr, c->in[0].ndim), 1 / reduce_depth(c)); }

QP_KERNEL(mean) = {run, QP_ANY, NULL};

#if QP_BODY
static void shape(qp_call *c) {
    if (qp_dtype_is_float(c->in[0].dtype)) reduce_shape(c, c->in[0].dtype);
    else qp_call_fail(c, QP_ERR_TYPE, "input 0 is %s, expected floats", qp_dtype_name(c->in[0].dtype));
}

static void plain(const qp_call *c) { reduce_plain(c, 1 / reduce_depth(c)); }

static void backward(qp_rule *r) {
    double n = (double)qp_count(r->in[0]) / (double)qp_count(r->dout[0]);
    r->din[0] = reduce_expand(r, qp_affine(r->dout[0], 1 / n, 0));
}

static const qp_sample samples[] = {REDUCE_SAMPLES, {0}};

QP_OP(mean) = {.name = "mean",
               .source = "torch.mean",
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

qp_tensor qp_mean(qp_tensor x, int naxes, const int *axes, bool keep) {
    reduce_attr a = reduce_over(naxes, axes, keep);
    return QP_CALL(mean, &a, x);
}
#endif
