/* In place: dst = src, broadcast and converted. No gradient: it is how memory is written. */
#include "kernels/copy.h"
#include "ops/op.h"

static void run(const qp_call *c) { qk_copy(c->exec, c->out[0], c->in[1]); }
static bool takes(const qp_call *c) { return c->in[0].dtype == c->in[1].dtype; }

QP_KERNEL(copy) = {run, QP_ELEMENTWISE, takes};

#if QP_BODY
static void shape(qp_call *c) {
    qp_dtype to = c->in[0].dtype, from = c->in[1].dtype;
    c->out[0] = c->in[0];
    if (to != from && qp_dtype_block(to) > 1)
        qp_call_fail(c, QP_ERR_TYPE, "from %s to %s: qp_cast does that", qp_dtype_name(from),
                     qp_dtype_name(to));
}

static double f(const double *x, const void *attr) {
    (void)attr;
    return x[1];
}
static void plain(const qp_call *c) { qp_plain_map(c, f); }

static const qp_sample samples[] = {{.in = "x[3,5] x[3,5]"}, {.in = "x[3,5] x[5]"}, {.in = "i9[7] i9[7]"},
                                    {.in = "x[0] x[0]"},     {.in = "x[1] x[]"},    {0}};

QP_OP(copy) = {.name = "copy",
               .source = "torch.Tensor.copy_",
               .min_in = 2,
               .max_in = 2,
               .nout = 1,
               .shape = shape,
               .plain = plain,
               .blocks = QP_SAVE_IN(0) | QP_SAVE_IN(1),
               .mutates = QP_SAVE_IN(0),
               .elementwise = true,
               .samples = samples};
#endif
