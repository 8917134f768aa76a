/* In place: dst += src, broadcast. No gradient: it is how gradients are summed. */
#include "kernels/elementwise.h"
#include "ops/op.h"

static void row(const qp_call *c, char *const *p, int64_t n) {
    float       *dst = (float *)p[0];
    const float *src = (const float *)p[2];
    int64_t      sd = QK_LAST(c->out[0]), ss = QK_LAST(c->in[1]);
    for (int64_t i = 0; i < n; i += VF_LANES) {
        int m = n - i < VF_LANES ? (int)(n - i) : VF_LANES;
        qk_put(dst, sd, i, qk_get(dst, sd, i, m) + qk_get(src, ss, i, m), m);
    }
}

static void run(const qp_call *c) { qk_elementwise(c, row); }

QP_KERNEL(accumulate) = {run, QP_ELEMENTWISE, NULL};

#if QP_BODY
static double f(const double *x, const void *attr) {
    (void)attr;
    return x[0] + x[1];
}
static void plain(const qp_call *c) { qp_plain_map(c, f); }

static const qp_sample samples[] = {{.in = "x[3,5] x[3,5]"}, {.in = "x[3,35] x[35]"}, {.in = "x[0] x[0]"}, {0}};

QP_OP(accumulate) = {.name = "accumulate",
                     .source = "torch.Tensor.add_",
                     .min_in = 2,
                     .max_in = 2,
                     .nout = 1,
                     .plain = plain,
                     .mutates = QP_SAVE_IN(0),
                     .elementwise = true,
                     .samples = samples};
#endif
