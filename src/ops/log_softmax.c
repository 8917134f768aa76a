/* y = x - max x - log sum e^(x - max x) along one axis.   dx = dy - e^y sum dy. */
#include "kernels/softmax.h"
#include "ops/axis.h"

static void one(const qp_call *c, qk_line l) {
    const float *x = (const float *)c->in[0].data + l.at;
    float       *y = (float *)c->out[0].data + l.at;
    int64_t      i = 0, n = l.n;
    float        max = qk_row_max(x, n), rest = logf(qk_row_exp(x, n, max, NULL));
    for (; i + VF_LANES <= n; i += VF_LANES) vf_store(y + i, vf_load(x + i) - max - rest);
    if (i < n) vf_store_n(y + i, vf_load_n(x + i, (int)(n - i)) - max - rest, (int)(n - i));
}

static void many(const qp_call *c, qk_line l) {
    const float *x = (const float *)c->in[0].data + l.at;
    float       *y = (float *)c->out[0].data + l.at, max[QK_MANY], rest[QK_MANY];
    qk_many_max(x, l, max, false);
    qk_many_exp(x, l, max, rest, NULL);
    for (int j = 0; j < l.m; j++) rest[j] = logf(rest[j]);
    for (int64_t i = 0; i < l.n; i++, x += l.stride, y += l.stride) QK_VECTORS(j, k, l.m)
    qk_put(y, 1, j, qk_get(x, 1, j, k) - qk_get(max, 1, j, k) - qk_get(rest, 1, j, k), k);
}

static void run(const qp_call *c) { qk_lines(c, &c->out[0], axis_given(c), one, many); }

QP_KERNEL(log_softmax) = {run, QP_FLAT, NULL};

static void grad_one(const qp_call *c, qk_line l) {
    const float *y = (const float *)c->in[0].data + l.at, *dy = (const float *)c->in[1].data + l.at;
    float       *dx = (float *)c->out[0].data + l.at;
    vf           s[2] = {{0}};
    int64_t      i = 0, n = l.n;
    for (; i + 2 * VF_LANES <= n; i += 2 * VF_LANES)
        for (int j = 0; j < 2; j++) s[j] += vf_load(dy + i + j * VF_LANES);
    for (; i < n; i += VF_LANES) s[0] += vf_load_n(dy + i, n - i < VF_LANES ? (int)(n - i) : VF_LANES);
    float sum = -vf_sum(s[0] + s[1]);
    for (i = 0; i + VF_LANES <= n; i += VF_LANES)
        vf_store(dx + i, vf_fma(vf_exp(vf_load(y + i)), vf_set1(sum), vf_load(dy + i)));
    if (i < n) {
        int m = (int)(n - i);
        vf_store_n(dx + i, vf_fma(vf_exp(vf_load_n(y + i, m)), vf_set1(sum), vf_load_n(dy + i, m)), m);
    }
}

static void grad_many(const qp_call *c, qk_line l) {
    const float *y = (const float *)c->in[0].data + l.at, *dy = (const float *)c->in[1].data + l.at;
    float       *dx = (float *)c->out[0].data + l.at, sum[QK_MANY] = {0};
    int64_t      end = l.n * l.stride;
    for (int64_t i = 0; i < end; i += l.stride)
        QK_VECTORS(j, k, l.m) qk_put(sum, 1, j, qk_get(sum, 1, j, k) - qk_get(dy + i, 1, j, k), k);
    for (int64_t i = 0; i < end; i += l.stride) QK_VECTORS(j, k, l.m) {
            vf p = vf_exp(qk_get(y + i, 1, j, k));
            qk_put(dx + i, 1, j, vf_fma(p, qk_get(sum, 1, j, k), qk_get(dy + i, 1, j, k)), k);
        }
}

static void grad_run(const qp_call *c) { qk_lines(c, &c->out[0], axis_given(c), grad_one, grad_many); }

QP_KERNEL(log_softmax_grad) = {grad_run, QP_FLAT, NULL};

#if QP_BODY
extern const qp_op qp_op_log_softmax_grad;

static void plain(const qp_call *c) {
    const qp_view *x = &c->in[0], *y = &c->out[0];
    qk_axis        a = qk_axis_of(y, axis_given(c));
    for (int64_t l = 0; l < a.outer * a.inner; l++) {
        double max = -INFINITY, sum = 0;
        for (int64_t i = 0; i < a.n; i++) max = fmax(max, axis_load(x, a, l, i));
        for (int64_t i = 0; i < a.n; i++) sum += exp(axis_load(x, a, l, i) - max);
        for (int64_t i = 0; i < a.n; i++) axis_store(y, a, l, i, axis_load(x, a, l, i) - max - log(sum));
    }
}

static void grad_plain(const qp_call *c) {
    const qp_view *y = &c->in[0], *dy = &c->in[1], *dx = &c->out[0];
    qk_axis        a = qk_axis_of(dx, axis_given(c));
    for (int64_t l = 0; l < a.outer * a.inner; l++) {
        double sum = 0;
        for (int64_t i = 0; i < a.n; i++) sum += axis_load(dy, a, l, i);
        for (int64_t i = 0; i < a.n; i++)
            axis_store(dx, a, l, i, axis_load(dy, a, l, i) - exp(axis_load(y, a, l, i)) * sum);
    }
}

static void backward(qp_rule *r) { r->din[0] = QP_CALL(log_softmax_grad, r->attr, r->out[0], r->dout[0]); }

static const qp_sample samples[] = {AXIS_SAMPLES, {0}};

QP_OP(log_softmax) = {.name = "log_softmax",
                      .source = "torch.log_softmax",
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

QP_OP(log_softmax_grad) = {.name = "log_softmax_grad",
                           .source = "backward of log_softmax",
                           .min_in = 2,
                           .max_in = 2,
                           .nout = 1,
                           .attr_bytes = sizeof(axis_attr),
                           .shape = axis_shape,
                           .plain = grad_plain,
                           .samples = grad_samples};

qp_tensor qp_log_softmax(qp_tensor x, int axis) {
    axis_attr a = {.axis = axis};
    return QP_CALL(log_softmax, &a, x);
}
#endif
