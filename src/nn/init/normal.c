/* normal:STD, mean 0. */
#include "nn/part.h"

static void fill(qp_tensor t, double std) {
    int64_t shape[QP_MAX_DIMS];
    for (int i = 0; i < qp_ndim(t); i++) shape[i] = qp_size(t, i);
    qp_copy_to(t, qp_affine(qp_randn(t.ctx, QP_F32, qp_ndim(t), shape), std, 0));
}

QP_INIT(normal) = {.part = {.name = "normal", .source = "torch.nn.init.normal_", .help = "normal:STD, mean 0"},
                   .fill = fill};
