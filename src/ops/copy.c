/* In place: dst = src, broadcast and converted. No gradient: it is how memory is written. */
#include "kernels/elementwise.h"
#include "ops/op.h"

static void row(const qp_call *c, char *const *p, int64_t n) {
    int64_t     sd = QK_LAST(c->out[0]), ss = QK_LAST(c->in[1]);
    size_t      bytes = qp_dtype_bytes(c->out[0].dtype);
    char       *dst = p[0];
    const char *src = p[2];
    if (sd == 1 && ss == 1) {
        memcpy(dst, src, (size_t)n * bytes);
        return;
    }
    switch (bytes) {
#define CASE(size, type)                                                                          \
    case size:                                                                                    \
        for (int64_t i = 0; i < n; i++) ((type *)dst)[i * sd] = ((const type *)src)[i * ss];      \
        break;
        CASE(1, uint8_t)
        CASE(2, uint16_t)
        CASE(4, uint32_t)
        CASE(8, uint64_t)
#undef CASE
    }
}

static void run(const qp_call *c) { qk_elementwise(c, row); }
static bool takes(const qp_call *c) { return c->in[0].dtype == c->in[1].dtype; }

QP_KERNEL(copy) = {run, QP_ELEMENTWISE, takes};

#if QP_BODY
static double f(const double *x, const void *attr) {
    (void)attr;
    return x[1];
}
static void plain(const qp_call *c) { qp_plain_map(c, f); }

static const qp_sample samples[] = {
    {.in = "x[3,5] x[3,5]"}, {.in = "x[3,5] x[5]"}, {.in = "i9[7] i9[7]"}, {.in = "x[0] x[0]"}, {.in = "x[] x[1]"}, {0}};

QP_OP(copy) = {.name = "copy",
               .source = "torch.Tensor.copy_",
               .min_in = 2,
               .max_in = 2,
               .nout = 1,
               .plain = plain,
               .mutates = true,
               .elementwise = true,
               .samples = samples};
#endif
