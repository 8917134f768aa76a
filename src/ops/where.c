/* z = condition ? x : y, broadcast.   dx = condition ? dz : 0, dy = condition ? 0 : dz, each
 * summed over the axes it was broadcast along. */
#include "kernels/elementwise.h"
#include "ops/op.h"

static void row(const qp_call *c, char *const *p, int64_t n) {
    const uint8_t *m = (const uint8_t *)p[1];
    int64_t so = QK_LAST(c->out[0]), sm = QK_LAST(c->in[0]), sx = QK_LAST(c->in[1]), sy = QK_LAST(c->in[2]);
    switch (qp_dtype_bytes(c->out[0].dtype)) {
#define CASE(size, type) \
    case size: { \
        const type *x = (const type *)p[2], *y = (const type *)p[3]; \
        type       *z = (type *)p[0]; \
        if (so == 1 && sm == 1 && sx == 1 && sy == 1) \
            for (int64_t i = 0; i < n; i++) z[i] = m[i] ? x[i] : y[i]; \
        else \
            for (int64_t i = 0; i < n; i++) z[i * so] = m[i * sm] ? x[i * sx] : y[i * sy]; \
        break; \
    }
        CASE(1, uint8_t)
        CASE(2, uint16_t)
        CASE(4, uint32_t)
        CASE(8, uint64_t)
#undef CASE
    }
}

static void run(const qp_call *c) { qk_elementwise(c, row); }
static bool takes(const qp_call *c) {
    (void)c;
    return true;
}

QP_KERNEL(where) = {run, QP_ELEMENTWISE, takes};

#if QP_BODY
#include "core/core.h"

static void shape(qp_call *c) {
    if (c->in[0].dtype == QP_BOOL) qpi_broadcast_shape(c, 1);
    else qp_call_fail(c, QP_ERR_TYPE, "the condition is %s, expected bool", qp_dtype_name(c->in[0].dtype));
}

static double f(const double *x, const void *attr) {
    (void)attr;
    return x[0] != 0 ? x[1] : x[2];
}
static void plain(const qp_call *c) { qp_plain_map(c, f); }

static void backward(qp_rule *r) {
    qp_tensor dz = r->dout[0], zero = qp_scalar(r->ctx, qp_dtype_of(dz), 0);
    if (r->need[1]) r->din[1] = qp_sum_to(qp_where(r->in[0], dz, zero), r->in[1]);
    if (r->need[2]) r->din[2] = qp_sum_to(qp_where(r->in[0], zero, dz), r->in[2]);
}

static const qp_sample samples[] = {{.in = "b[3,5] x[3,5] x[3,5]"},
                                    {.in = "b[5,1] x[2,1,3] x[5,1]"},
                                    {.in = "b[67] x[] x[67]"},
                                    {.in = "b[] x[3] x[]"},
                                    {.in = "b[0] x[0] x[]"},
                                    {.in = "b[7] i9[7] i9[7]", .no_grad = true},
                                    {0}};

QP_OP(where) = {.name = "where",
                .source = "torch.where",
                .min_in = 3,
                .max_in = 3,
                .nout = 1,
                .saves = QP_SAVE_IN(0),
                .shape = shape,
                .plain = plain,
                .backward = backward,
                .elementwise = true,
                .samples = samples};

qp_tensor qp_where(qp_tensor condition, qp_tensor x, qp_tensor y) {
    return QP_CALL(where, NULL, condition, x, y);
}
#endif
