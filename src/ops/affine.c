/* y = scale x + shift.   dx = scale dy. */
#include "kernels/elementwise.h"
#include "ops/op.h"

typedef struct {
    double scale, shift;
} affine_attr;

static void row(const qp_call *c, char *const *p, int64_t n) {
    const affine_attr *a = c->attr;
    vf                 scale = vf_set1((float)a->scale), shift = vf_set1((float)a->shift);
    float             *out = (float *)p[0];
    const float       *in = (const float *)p[1];
    int64_t            so = QK_LAST(c->out[0]), si = QK_LAST(c->in[0]), i = 0;
    if (so == 1 && si == 1)
        for (; i + VF_LANES <= n; i += VF_LANES) vf_store(out + i, vf_fma(vf_load(in + i), scale, shift));
    for (; i < n; i += VF_LANES) {
        int m = n - i < VF_LANES ? (int)(n - i) : VF_LANES;
        qk_put(out, so, i, vf_fma(qk_get(in, si, i, m), scale, shift), m);
    }
}
static void run(const qp_call *c) { qk_elementwise(c, row); }

QP_KERNEL(affine) = {run, QP_ELEMENTWISE, NULL};

#if QP_BODY
static double f(const double *x, const void *attr) {
    const affine_attr *a = attr;
    return a->scale * x[0] + a->shift;
}
static void plain(const qp_call *c) { qp_plain_map(c, f); }

static void backward(qp_rule *r) {
    r->din[0] = qp_affine(r->dout[0], ((const affine_attr *)r->attr)->scale, 0);
}

static const qp_sample samples[] = {{.in = "x[3,5]", .attr = &(affine_attr){2.5, -1}},
                                    {.in = "x[]", .attr = &(affine_attr){-0.1, 0}},
                                    {.in = "x[0,4]", .attr = &(affine_attr){1, 1}},
                                    {.in = "x[2,67]", .attr = &(affine_attr){0, 3}},
                                    {.in = "i9[5]", .attr = &(affine_attr){2, 1}, .no_grad = true},
                                    {0}};

QP_OP(affine) = {.name = "affine",
                 .source = "alpha x + beta",
                 .min_in = 1,
                 .max_in = 1,
                 .nout = 1,
                 .attr_bytes = sizeof(affine_attr),
                 .plain = plain,
                 .backward = backward,
                 .elementwise = true,
                 .samples = samples};

qp_tensor qp_affine(qp_tensor x, double scale, double shift) {
    affine_attr a = {scale, shift};
    return QP_CALL(affine, &a, x);
}
#endif
