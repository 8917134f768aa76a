/* y = e^(x - max x) / sum e^(x - max x) along one axis.   dx = y (dy - sum dy y). */
#include "kernels/softmax.h"
#include "ops/axis.h"

static void one(const qp_call *c, qk_line l) {
    const float *x = (const float *)c->in[0].data + l.at;
    float       *y = (float *)c->out[0].data + l.at;
    int64_t      i = 0, n = l.n;
    float        inverse = 1 / qk_row_exp(x, n, qk_row_max(x, n), y);
    for (; i + VF_LANES <= n; i += VF_LANES) vf_store(y + i, vf_load(y + i) * inverse);
    if (i < n) vf_store_n(y + i, vf_load_n(y + i, (int)(n - i)) * inverse, (int)(n - i));
}

static void many(const qp_call *c, qk_line l) {
    const float *x = (const float *)c->in[0].data + l.at;
    float       *y = (float *)c->out[0].data + l.at, max[QK_MANY], sum[QK_MANY];
    qk_many_max(x, l, max, false);
    qk_many_exp(x, l, max, sum, y);
    for (int j = 0; j < l.m; j++) sum[j] = 1 / sum[j];
    for (int64_t i = 0; i < l.n; i++, y += l.stride)
        QK_VECTORS(j, k, l.m) qk_put(y, 1, j, qk_get(y, 1, j, k) * qk_get(sum, 1, j, k), k);
}

static void run(const qp_call *c) { qk_lines(c, &c->out[0], axis_given(c), one, many); }

QP_KERNEL(softmax) = {run, QP_FLAT, NULL};

static void grad_one(const qp_call *c, qk_line l) {
    const float *y = (const float *)c->in[0].data + l.at, *dy = (const float *)c->in[1].data + l.at;
    float       *dx = (float *)c->out[0].data + l.at;
    vf           s[2] = {{0}};
    int64_t      i = 0, n = l.n;
    for (; i + 2 * VF_LANES <= n; i += 2 * VF_LANES)
        for (int j = 0; j < 2; j++)
            s[j] = vf_fma(vf_load(y + i + j * VF_LANES), vf_load(dy + i + j * VF_LANES), s[j]);
    for (; i < n; i += VF_LANES) {
        int m = n - i < VF_LANES ? (int)(n - i) : VF_LANES;
        s[0] = vf_fma(vf_load_n(y + i, m), vf_load_n(dy + i, m), s[0]);
    }
    float dot = vf_sum(s[0] + s[1]);
    for (i = 0; i + VF_LANES <= n; i += VF_LANES) vf_store(dx + i, vf_load(y + i) * (vf_load(dy + i) - dot));
    if (i < n) {
        int m = (int)(n - i);
        vf_store_n(dx + i, vf_load_n(y + i, m) * (vf_load_n(dy + i, m) - dot), m);
    }
}

static void grad_many(const qp_call *c, qk_line l) {
    const float *y = (const float *)c->in[0].data + l.at, *dy = (const float *)c->in[1].data + l.at;
    float       *dx = (float *)c->out[0].data + l.at, dot[QK_MANY] = {0};
    int64_t      end = l.n * l.stride;
    for (int64_t i = 0; i < end; i += l.stride) QK_VECTORS(j, k, l.m)
    qk_put(dot, 1, j, vf_fma(qk_get(y + i, 1, j, k), qk_get(dy + i, 1, j, k), qk_get(dot, 1, j, k)), k);
    for (int64_t i = 0; i < end; i += l.stride) QK_VECTORS(j, k, l.m)
    qk_put(dx + i, 1, j, qk_get(y + i, 1, j, k) * (qk_get(dy + i, 1, j, k) - qk_get(dot, 1, j, k)), k);
}

static void grad_run(const qp_call *c) { qk_lines(c, &c->out[0], axis_given(c), grad_one, grad_many); }

QP_KERNEL(softmax_grad) = {grad_run, QP_FLAT, NULL};

#if QP_BODY
extern const qp_op qp_op_softmax_grad;

static void plain(const qp_call *c) {
    const qp_view *x = &c->in[0], *y = &c->out[0];
    qk_axis        a = qk_axis_of(y, axis_given(c));
    for (int64_t l = 0; l < a.outer * a.inner; l++) {
        double max = -INFINITY, sum = 0;
        for (int64_t i = 0; i < a.n; i++) max = fmax(max, axis_load(x, a, l, i));
        for (int64_t i = 0; i < a.n; i++) sum += exp(axis_load(x, a, l, i) - max);
        for (int64_t i = 0; i < a.n; i++) axis_store(y, a, l, i, exp(axis_load(x, a, l, i) - max) / sum);
    }
}

static void grad_plain(const qp_call *c) {
    const qp_view *y = &c->in[0], *dy = &c->in[1], *dx = &c->out[0];
    qk_axis        a = qk_axis_of(dx, axis_given(c));
    for (int64_t l = 0; l < a.outer * a.inner; l++) {
        double dot = 0;
        for (int64_t i = 0; i < a.n; i++) dot += axis_load(y, a, l, i) * axis_load(dy, a, l, i);
        for (int64_t i = 0; i < a.n; i++)
            axis_store(dx, a, l, i, axis_load(y, a, l, i) * (axis_load(dy, a, l, i) - dot));
    }
}

static void backward(qp_rule *r) { r->din[0] = QP_CALL(softmax_grad, r->attr, r->out[0], r->dout[0]); }

static const qp_sample samples[] = {AXIS_SAMPLES, {0}};

QP_OP(softmax) = {.name = "softmax",
                  .source = "torch.softmax",
                  .min_in = 1,
                  .max_in = 1,
                  .nout = 1,
                  .attr_bytes = sizeof(axis_attr),
                  .saves = QP_SAVE_OUT(0),
                  .shape = axis_shape,
                  .plain = plain,
                  .backward = backward,
                  .samples = samples};

static const qp_sample grad_samples[] = {AXIS_PAIR_SAMPLES, {0}};

QP_OP(softmax_grad) = {.name = "softmax_grad",
                       .source = "backward of softmax",
                       .min_in = 2,
                       .max_in = 2,
                       .nout = 1,
                       .attr_bytes = sizeof(axis_attr),
                       .shape = axis_shape,
                       .plain = grad_plain,
                       .samples = grad_samples};

qp_tensor qp_softmax(qp_tensor x, int axis) {
    axis_attr a = {.axis = axis};
    return QP_CALL(softmax, &a, x);
}
#endif
