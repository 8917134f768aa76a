/* In place: every element = value. */
#include "kernels/elementwise.h"
#include "ops/op.h"

typedef struct {
    double value;
} attr;

static void row(const qp_call *c, char *const *p, int64_t n) {
    float   value = (float)((const attr *)c->attr)->value, *dst = (float *)p[0];
    int64_t stride = QK_LAST(c->out[0]);
    for (int64_t i = 0; i < n; i += VF_LANES)
        qk_put(dst, stride, i, vf_set1(value), n - i < VF_LANES ? (int)(n - i) : VF_LANES);
}

static void run(const qp_call *c) { qk_elementwise(c, row); }
static bool takes(const qp_call *c) { return c->out[0].dtype == QP_F32; }

QP_KERNEL(fill) = {run, QP_ELEMENTWISE, takes};

#if QP_BODY
static double f(const double *x, const void *a) {
    (void)x;
    return ((const attr *)a)->value;
}
static void plain(const qp_call *c) { qp_plain_map(c, f); }

static const qp_sample samples[] = {
    {.in = "x[3,5]", .attr = &(attr){2.5}}, {.in = "i9[7]", .attr = &(attr){3}}, {.in = "x[0]"}, {0}};

QP_OP(fill) = {.name = "fill",
               .source = "torch.Tensor.fill_",
               .min_in = 1,
               .max_in = 1,
               .nout = 1,
               .attr_bytes = sizeof(attr),
               .plain = plain,
               .mutates = QP_SAVE_IN(0),
               .elementwise = true,
               .samples = samples};
#endif
