/* uniform:BOUND on [-BOUND, BOUND). */
#include "nn/part.h"

static void fill(qp_tensor t, double bound) {
    int64_t shape[QP_MAX_DIMS];
    for (int i = 0; i < qp_ndim(t); i++) shape[i] = qp_size(t, i);
    qp_copy_to(t, qp_affine(qp_rand(t.ctx, QP_F32, qp_ndim(t), shape), 2 * bound, -bound));
}

QP_INIT(uniform) = {.part = {.name = "uniform",
                             .source = "torch.nn.init.uniform_",
                             .help = "uniform:BOUND, from -BOUND to BOUND"},
                    .fill = fill};
