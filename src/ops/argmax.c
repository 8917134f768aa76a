/* Where the maximum along one axis first stands; NaN counts as the largest. No gradient. */
#include "kernels/extreme.h"
#include "ops/axis.h"

static void one(const qp_call *c, qk_line l) { qk_max_one(c, l, NULL, c->out[0].data); }
static void many(const qp_call *c, qk_line l) { qk_max_many(c, l, NULL, c->out[0].data); }
static void run(const qp_call *c) { qk_lines(c, &c->in[0], axis_given(c), one, many); }
static bool takes(const qp_call *c) { return c->in[0].dtype == QP_F32; }

QP_KERNEL(argmax) = {run, QP_FLAT, takes};

#if QP_BODY
static void shape(qp_call *c) { axis_reduced_shape(c, (qp_dtype[]){QP_I64}); }

static void plain(const qp_call *c) {
    const qp_view *x = &c->in[0];
    qk_axis        a = qk_axis_of(x, axis_given(c));
    for (int64_t l = 0; l < a.outer * a.inner; l++) {
        int64_t at = 0;
        for (int64_t i = 1; i < a.n; i++)
            if (qk_larger(axis_load(x, a, l, i), axis_load(x, a, l, at))) at = i;
        qp_store(&c->out[0], l, (double)at);
    }
}

static const qp_sample samples[] = {
    AXIS_REDUCED_SAMPLES("x"), {.in = "i4[3,50]", .attr = &(axis_attr){-1, false}}, {0}};

QP_OP(argmax) = {.name = "argmax",
                 .source = "torch.argmax",
                 .min_in = 1,
                 .max_in = 1,
                 .nout = 1,
                 .attr_bytes = sizeof(axis_attr),
                 .shape = shape,
                 .plain = plain,
                 .flops = axis_flops,
                 .samples = samples};

qp_tensor qp_argmax(qp_tensor x, int axis, bool keep) {
    axis_attr a = {axis, keep};
    return QP_CALL(argmax, &a, x);
}
#endif
