/* z = x^y, broadcast.   dx = dz y x^(y - 1), 0 where y is; dy = dz z log x, 0 where x is not
 * positive; each summed over the axes it was broadcast along. */
#include "kernels/elementwise.h"
#include "ops/op.h"

typedef struct {
    bool exponent; /* dy instead of dx */
} grad_attr;

/* Accuracy and special cases are those of the C library. */
static void row(const qp_call *c, char *const *p, int64_t n) {
    float       *z = (float *)p[0];
    const float *x = (const float *)p[1], *y = (const float *)p[2];
    int64_t      so = QK_LAST(c->out[0]), sx = QK_LAST(c->in[0]), sy = QK_LAST(c->in[1]);
    if (sy == 0 && *y == 2)
        for (int64_t i = 0; i < n; i++) z[i * so] = x[i * sx] * x[i * sx];
    else
        for (int64_t i = 0; i < n; i++) z[i * so] = powf(x[i * sx], y[i * sy]);
}
static void run(const qp_call *c) { qk_elementwise(c, row); }

QP_KERNEL(pow) = {run, QP_ELEMENTWISE, NULL};

static inline float dbase(float x, float y, float dz) { return y == 0 ? 0 : dz * y * powf(x, y - 1); }
static inline float dexponent(float x, float y, float dz) { return x > 0 ? dz * powf(x, y) * logf(x) : 0; }

static void grad_row(const qp_call *c, char *const *p, int64_t n) {
    float       *d = (float *)p[0];
    const float *x = (const float *)p[1], *y = (const float *)p[2], *dz = (const float *)p[3];
    int64_t so = QK_LAST(c->out[0]), sx = QK_LAST(c->in[0]), sy = QK_LAST(c->in[1]), sz = QK_LAST(c->in[2]);
    if (((const grad_attr *)c->attr)->exponent)
        for (int64_t i = 0; i < n; i++) d[i * so] = dexponent(x[i * sx], y[i * sy], dz[i * sz]);
    else
        for (int64_t i = 0; i < n; i++) d[i * so] = dbase(x[i * sx], y[i * sy], dz[i * sz]);
}
static void grad_run(const qp_call *c) { qk_elementwise(c, grad_row); }

QP_KERNEL(pow_grad) = {grad_run, QP_ELEMENTWISE, NULL};

#if QP_BODY
extern const qp_op qp_op_pow_grad;

static double f(const double *x, const void *attr) {
    (void)attr;
    return pow(x[0], x[1]);
}
static void plain(const qp_call *c) { qp_plain_map(c, f); }

static double df(const double *x, const void *attr) {
    if (((const grad_attr *)attr)->exponent) return x[0] > 0 ? x[2] * pow(x[0], x[1]) * log(x[0]) : 0;
    return x[1] == 0 ? 0 : x[2] * x[1] * pow(x[0], x[1] - 1);
}
static void grad_plain(const qp_call *c) { qp_plain_map(c, df); }

static void backward(qp_rule *r) {
    for (int i = 0; i < 2; i++) {
        if (!r->need[i]) continue;
        qp_tensor full = QP_CALL(pow_grad, &(grad_attr){i == 1}, r->in[0], r->in[1], r->dout[0]);
        r->din[i] = qp_sum_to(full, r->in[i]);
    }
}

static const qp_sample samples[] = {{.in = "p[3,5] x[3,5]"},
                                    {.in = "p[4,1,5] x[3,1]"},
                                    {.in = "p[] x[2,3]"},
                                    {.in = "p[0,3] x[3]"},
                                    {.in = "p[67] x[67]"},
                                    {.in = "i9[5] i3[5]", .no_grad = true},
                                    {0}};

QP_OP(pow) = {.name = "pow",
              .source = "torch.pow",
              .min_in = 2,
              .max_in = 2,
              .nout = 1,
              .saves = QP_SAVE_IN(0) | QP_SAVE_IN(1),
              .plain = plain,
              .backward = backward,
              .elementwise = true,
              .samples = samples};

static const qp_sample grad_samples[] = {
    {.in = "p[3,5] x[3,5] x[3,5]"}, {.in = "p[3,5] x[5] x[3,5]", .attr = &(grad_attr){true}}, {0}};

QP_OP(pow_grad) = {.name = "pow_grad",
                   .source = "backward of pow",
                   .min_in = 3,
                   .max_in = 3,
                   .nout = 1,
                   .attr_bytes = sizeof(grad_attr),
                   .plain = grad_plain,
                   .elementwise = true,
                   .samples = grad_samples};

qp_tensor qp_pow(qp_tensor x, qp_tensor y) { return QP_CALL(pow, NULL, x, y); }
#endif
