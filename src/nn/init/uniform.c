/* uniform:BOUND on [-BOUND, BOUND), and the two that derive the bound from the fans of a
 * weight [O, I]: xavier sqrt(6 / (I + O)) (Glorot & Bengio 2010, eq. 16), kaiming
 * sqrt(6 / I) (He et al. 2015, arXiv:1502.01852, for relu). */
#include <math.h>

#include "core/core.h"
#include "nn/part.h"

static void fill(qp_tensor t, double bound) {
    int64_t shape[QP_MAX_DIMS];
    for (int i = 0; i < qp_ndim(t); i++) shape[i] = qp_size(t, i);
    qp_copy_to(t, qp_affine(qp_rand(t.ctx, QP_F32, qp_ndim(t), shape), 2 * bound, -bound));
}

static bool fans(qp_tensor t, const char *name, double *in, double *out) {
    if (qp_ndim(t) < 2) {
        qp_fail(t.ctx, QP_ERR_SHAPE, "init %s: the tensor has %d axes, expected at least 2", name, qp_ndim(t));
        return false;
    }
    double field = (double)qp_count(t) / (double)(qp_size(t, 0) * qp_size(t, 1));
    *in = (double)qp_size(t, 1) * field;
    *out = (double)qp_size(t, 0) * field;
    return true;
}

static void xavier(qp_tensor t, double argument) {
    double in, out;
    (void)argument;
    if (fans(t, "xavier_uniform", &in, &out)) fill(t, sqrt(6 / (in + out)));
}

static void kaiming(qp_tensor t, double argument) {
    double in, out;
    (void)argument;
    if (fans(t, "kaiming_uniform", &in, &out)) fill(t, sqrt(6 / in));
}

QP_INIT(uniform) = {.part = {.name = "uniform", .source = "torch.nn.init.uniform_", .help = "uniform:BOUND, from -BOUND to BOUND"}, .fill = fill};
QP_INIT(xavier_uniform) = {.part = {.name = "xavier_uniform", .source = "Glorot & Bengio 2010", .help = "bound sqrt(6 / (in + out))"}, .fill = xavier};
QP_INIT(kaiming_uniform) = {.part = {.name = "kaiming_uniform", .source = "arXiv:1502.01852", .help = "bound sqrt(6 / in)"}, .fill = kaiming};
