/* In place: dst += scale * src, broadcast. No gradient: it is how scaled gradients are summed. */
#include "kernels/elementwise.h"
#include "ops/op.h"

static void row(const qp_call *c, char *const *p, int64_t n) {
    float       *dst = (float *)p[0];
    const float *src = (const float *)p[2], *scale = (const float *)p[3];
    int64_t      sd = QK_LAST(c->out[0]), ss = QK_LAST(c->in[1]), sc = QK_LAST(c->in[2]);
    for (int64_t i = 0; i < n; i += VF_LANES) {
        int m = n - i < VF_LANES ? (int)(n - i) : VF_LANES;
        vf  sum = vf_fma(qk_get(scale, sc, i, m), qk_get(src, ss, i, m), qk_get(dst, sd, i, m));
        qk_put(dst, sd, i, sum, m);
    }
}

static void run(const qp_call *c) { qk_elementwise(c, row); }

static bool takes(const qp_call *c) {
    return c->out[0].dtype == QP_F32 && c->in[1].dtype == QP_F32 && c->in[2].dtype == QP_F32;
}

QP_KERNEL(add_scaled) = {run, QP_ELEMENTWISE, takes};

#if QP_BODY
static double f(const double *x, const void *attr) {
    (void)attr;
    return x[0] + x[2] * x[1];
}
static void plain(const qp_call *c) { qp_plain_map(c, f); }

static const qp_sample samples[] = {{.in = "x[3,5] x[3,5] x[]"},
                                    {.in = "x[67] x[67] x[1]"},
                                    {.in = "x[4,3] x[3] x[4,1]"},
                                    {.in = "x[0,3] x[0,3] x[]"},
                                    {0}};

QP_OP(add_scaled) = {.name = "add_scaled",
                     .source = "torch.Tensor.addcmul_",
                     .min_in = 3,
                     .max_in = 3,
                     .nout = 1,
                     .plain = plain,
                     .mutates = QP_SAVE_IN(0),
                     .elementwise = true,
                     .samples = samples};
#endif
