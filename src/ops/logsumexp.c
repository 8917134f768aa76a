/* y = log sum e^x along one axis.   dx = dy e^(x - y). */
#include "kernels/softmax.h"
#include "ops/axis.h"

static void one(const qp_call *c, qk_line l) {
    ((float *)c->out[0].data)[l.reduced] = (float)qk_row_logsumexp((const float *)c->in[0].data + l.at, l.n);
}

static void many(const qp_call *c, qk_line l) {
    const float *x = (const float *)c->in[0].data + l.at;
    float       *y = (float *)c->out[0].data + l.reduced, max[QK_MANY], sum[QK_MANY];
    qk_many_max(x, l, max, true);
    qk_many_exp(x, l, max, sum, NULL);
    for (int j = 0; j < l.m; j++) y[j] = max[j] + logf(sum[j]);
}

static void run(const qp_call *c) { qk_lines(c, &c->in[0], axis_given(c), one, many); }

QP_KERNEL(logsumexp) = {run, QP_FLAT, NULL};

static void grad_one(const qp_call *c, qk_line l) {
    const float *x = (const float *)c->in[0].data + l.at;
    float       *dx = (float *)c->out[0].data + l.at;
    float        y = ((const float *)c->in[1].data)[l.reduced], dy = ((const float *)c->in[2].data)[l.reduced];
    int64_t      i = 0;
    for (; i + VF_LANES <= l.n; i += VF_LANES) vf_store(dx + i, dy * vf_exp(vf_load(x + i) - y));
    if (i < l.n) vf_store_n(dx + i, dy * vf_exp(vf_load_n(x + i, (int)(l.n - i)) - y), (int)(l.n - i));
}

static void grad_many(const qp_call *c, qk_line l) {
    const float *x = (const float *)c->in[0].data + l.at;
    const float *y = (const float *)c->in[1].data + l.reduced, *dy = (const float *)c->in[2].data + l.reduced;
    float       *dx = (float *)c->out[0].data + l.at;
    for (int64_t i = 0; i < l.n * l.stride; i += l.stride) QK_VECTORS(j, k, l.m) {
            vf p = vf_exp(qk_get(x + i, 1, j, k) - qk_get(y, 1, j, k));
            qk_put(dx + i, 1, j, qk_get(dy, 1, j, k) * p, k);
        }
}

static void grad_run(const qp_call *c) { qk_lines(c, &c->out[0], axis_given(c), grad_one, grad_many); }

QP_KERNEL(logsumexp_grad) = {grad_run, QP_FLAT, NULL};

#if QP_BODY
extern const qp_op qp_op_logsumexp_grad;

static void shape(qp_call *c) { axis_reduced_shape(c, &c->in[0].dtype); }

static void plain(const qp_call *c) {
    const qp_view *x = &c->in[0];
    qk_axis        a = qk_axis_of(x, axis_given(c));
    for (int64_t l = 0; l < a.outer * a.inner; l++) {
        double max = -INFINITY, sum = 0;
        for (int64_t i = 0; i < a.n; i++) max = fmax(max, axis_load(x, a, l, i));
        if (max == -INFINITY) max = 0;
        for (int64_t i = 0; i < a.n; i++) sum += exp(axis_load(x, a, l, i) - max);
        qp_store(&c->out[0], l, max + log(sum));
    }
}

static void grad_shape(qp_call *c) {
    if (!shape_check_axis(c, axis_given(c))) return;
    qk_axis a = qk_axis_of(&c->in[0], axis_given(c));
    for (int i = 1; i < 3; i++)
        if (qp_view_count(&c->in[i]) != a.outer * a.inner) {
            qp_call_fail(c, QP_ERR_SHAPE, "input %d has not one element for each line of input 0", i);
            return;
        }
    shape_set(c, 0, c->in[0].dtype, c->in[0].ndim, c->in[0].shape);
}

static void grad_plain(const qp_call *c) {
    const qp_view *x = &c->in[0], *y = &c->in[1], *dy = &c->in[2];
    qk_axis        a = qk_axis_of(x, axis_given(c));
    for (int64_t l = 0; l < a.outer * a.inner; l++)
        for (int64_t i = 0; i < a.n; i++)
            axis_store(&c->out[0], a, l, i,
                       qp_load(dy, qp_view_offset(dy, l)) *
                           exp(axis_load(x, a, l, i) - qp_load(y, qp_view_offset(y, l))));
}

static void backward(qp_rule *r) {
    r->din[0] = QP_CALL(logsumexp_grad, r->attr, r->in[0], r->out[0], r->dout[0]);
}

static const qp_sample samples[] = {AXIS_REDUCED_SAMPLES("x"), {0}};

QP_OP(logsumexp) = {.name = "logsumexp",
                    .source = "torch.logsumexp",
                    .min_in = 1,
                    .max_in = 1,
                    .nout = 1,
                    .attr_bytes = sizeof(axis_attr),
                    .saves = QP_SAVE_IN(0) | QP_SAVE_OUT(0),
                    .shape = shape,
                    .plain = plain,
                    .backward = backward,
                    .samples = samples};

static const qp_sample grad_samples[] = {{.in = "x[3,5] x[3] x[3]", .attr = &(axis_attr){-1, false}},
                                         {.in = "x[3,35] x[1,35] x[1,35]", .attr = &(axis_attr){0, true}},
                                         {0}};

QP_OP(logsumexp_grad) = {.name = "logsumexp_grad",
                         .source = "backward of logsumexp",
                         .min_in = 3,
                         .max_in = 3,
                         .nout = 1,
                         .attr_bytes = sizeof(axis_attr),
                         .shape = grad_shape,
                         .plain = grad_plain,
                         .samples = grad_samples};

qp_tensor qp_logsumexp(qp_tensor x, int axis, bool keep) {
    axis_attr a = {axis, keep};
    return QP_CALL(logsumexp, &a, x);
}
#endif
