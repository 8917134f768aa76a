/* log_step, x with softplus(x) between 0.001 and 0.1, uniform in its logarithm: the bias of step sizes (Gu and Dao
 * 2023, arXiv:2312.00752, section 3.6). The inverse of softplus: y + log(1 - e^-y). */
#include "core/core.h"
#include "nn/part.h"

#define LOWEST -6.907755278982137  /* log 0.001 */
#define HIGHEST -2.302585092994046 /* log 0.1 */

static void fill(qp_tensor t, double argument) {
    int64_t shape[QP_MAX_DIMS];
    (void)argument;
    for (int i = 0; i < qp_ndim(t); i++) shape[i] = qp_size(t, i);
    qp_tensor y = qp_exp(qp_affine(qp_rand(t.ctx, QP_F32, qp_ndim(t), shape), HIGHEST - LOWEST, LOWEST));
    qp_copy_to(t, qp_add(y, qp_log(qp_affine(qp_exp(qp_neg(y)), -1, 1))));
}

QP_INIT(log_step) = {.part = {.name = "log_step",
                              .source = "arXiv:2312.00752",
                              .help = "softplus of it is 0.001 to 0.1, uniform in its logarithm"},
                     .fill = fill};
