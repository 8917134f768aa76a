/* y_i = x_0 + .. + x_i along one axis, or from the end.   dx is the same sum of dy the other way.
 * Sums are carried in double. */
#include "ops/axis.h"

typedef struct {
    int  axis;
    bool reverse;
} cumsum_attr;

static bool reversed(const qp_call *c) { return ((const cumsum_attr *)c->attr)->reverse; }

/* Four sums within a group of four wait for each other, groups only for one. */
static void one(const qp_call *c, qk_line l) {
    int64_t      first = reversed(c) ? l.n - 1 : 0, step = reversed(c) ? -1 : 1, i = 0;
    const float *x = (const float *)c->in[0].data + l.at + first;
    float       *y = (float *)c->out[0].data + l.at + first;
    double       sum = 0;
    for (; i + 4 <= l.n; i += 4, x += 4 * step, y += 4 * step) {
        double a = x[0], b = a + x[step], d = b + x[2 * step], e = d + x[3 * step];
        y[0] = (float)(sum + a);
        y[step] = (float)(sum + b);
        y[2 * step] = (float)(sum + d);
        y[3 * step] = (float)(sum += e);
    }
    for (; i < l.n; i++, x += step, y += step) *y = (float)(sum += *x);
}

static void many(const qp_call *c, qk_line l) {
    int64_t      first = reversed(c) ? (l.n - 1) * l.stride : 0, step = reversed(c) ? -l.stride : l.stride;
    const float *x = (const float *)c->in[0].data + l.at + first;
    float       *y = (float *)c->out[0].data + l.at + first;
    double       sum[QK_MANY] = {0};
    for (int64_t i = 0; i < l.n; i++)
        for (int j = 0; j < l.m; j++) y[i * step + j] = (float)(sum[j] += x[i * step + j]);
}

static void run(const qp_call *c) { qk_lines(c, &c->in[0], axis_given(c), one, many); }
static bool takes(const qp_call *c) { return c->in[0].dtype == QP_F32; }

QP_KERNEL(cumsum) = {run, QP_FLAT, takes};

#if QP_BODY
extern const qp_op qp_op_cumsum;

static void shape(qp_call *c) {
    qp_dtype t = c->in[0].dtype;
    if (shape_check_axis(c, axis_given(c)))
        shape_set(c, 0, qp_dtype_is_float(t) ? t : QP_I64, c->in[0].ndim, c->in[0].shape);
}

static void plain(const qp_call *c) {
    const qp_view *x = &c->in[0];
    qk_axis        a = qk_axis_of(x, axis_given(c));
    for (int64_t l = 0; l < a.outer * a.inner; l++) {
        double sum = 0;
        for (int64_t k = 0; k < a.n; k++) {
            int64_t i = reversed(c) ? a.n - 1 - k : k;
            sum += axis_load(x, a, l, i);
            axis_store(&c->out[0], a, l, i, sum);
        }
    }
}

static void backward(qp_rule *r) {
    cumsum_attr a = *(const cumsum_attr *)r->attr;
    a.reverse = !a.reverse;
    r->din[0] = QP_CALL(cumsum, &a, r->dout[0]);
}

static const qp_sample samples[] = {AXIS_SAMPLES,
                                    {.in = "x[3,5]", .attr = &(cumsum_attr){1, true}},
                                    {.in = "x[2,7,3]", .attr = &(cumsum_attr){1, true}},
                                    {.in = "i9[3,5]", .no_grad = true},
                                    {0}};

QP_OP(cumsum) = {.name = "cumsum",
                 .source = "torch.cumsum",
                 .min_in = 1,
                 .max_in = 1,
                 .nout = 1,
                 .attr_bytes = sizeof(cumsum_attr),
                 .shape = shape,
                 .plain = plain,
                 .backward = backward,
                 .samples = samples};

qp_tensor qp_cumsum(qp_tensor x, int axis) {
    cumsum_attr a = {.axis = axis};
    return QP_CALL(cumsum, &a, x);
}
#endif
