/* log_range, log(1), log(2), .. along the last axis: of rates that are learnt as logarithms, so that states forget
 * at 1, 2, .. N times the pace (S4D-Real, Gu et al. 2022, arXiv:2206.11893, section 4.4). */
#include <math.h>

#include "core/core.h"
#include "nn/part.h"

static void fill(qp_tensor t, double argument) {
    int64_t   n = qp_size(t, -1), shape[QP_MAX_DIMS];
    qp_tensor row = qp_log(qp_affine(qp_cast(qp_arange(t.ctx, QP_I64, n), QP_F32), 1, 1));
    (void)argument;
    for (int i = 0; i < qp_ndim(t); i++) shape[i] = qp_size(t, i);
    qp_copy_to(t, qp_expand(row, qp_ndim(t), shape));
}

QP_INIT(log_range) = {.part = {.name = "log_range",
                               .source = "arXiv:2206.11893",
                               .help = "log(1), log(2), .. along the last axis"},
                      .fill = fill};
