/* y = x, laid out in C order.   dx = dy. */
#include "kernels/copy.h"
#include "ops/op.h"

static void run(const qp_call *c) { qk_copy(c->exec, c->out[0], c->in[0]); }

QP_KERNEL(contiguous) = {run, QP_ANY, qk_copy_takes};

#if QP_BODY
#include "core/core.h"

static double f(const double *x, const void *attr) {
    (void)attr;
    return x[0];
}
static void plain(const qp_call *c) { qp_plain_map(c, f); }

static void backward(qp_rule *r) { r->din[0] = r->dout[0]; }

static const qp_sample samples[] = {{.in = "x[3,5]"},
                                    {.in = "x[]"},
                                    {.in = "x[0,4]"},
                                    {.in = "x[37,45]"},
                                    {.in = "x[2,33,3,17]"},
                                    {.in = "i9[5,7]", .no_grad = true},
                                    {.in = "b[19,18]", .no_grad = true},
                                    {0}};

QP_OP(contiguous) = {.name = "contiguous",
                     .source = "torch.Tensor.contiguous",
                     .min_in = 1,
                     .max_in = 1,
                     .nout = 1,
                     .plain = plain,
                     .backward = backward,
                     .blocks = QP_SAVE_IN(0),
                     .elementwise = true,
                     .samples = samples};

qp_tensor qp_contiguous(qp_tensor x) {
    qpi_slot *s = x.ctx ? qpi_resolve(x, "contiguous") : NULL;
    if (s && qpi_view_contiguous(&s->value.view)) return qp_alias(x);
    return QP_CALL(contiguous, NULL, x);
}
#endif
