/* ALiBi (Press et al. 2021, arXiv:2108.12409): a key's score loses slope_h for each position that lies between
 * it and the query. Slopes are 2^(-8/n), 2^(-16/n), .. for n heads, a power of two; for other numbers those
 * of the next lower power, then every second one of the next higher. Nothing is learned. Keys behind the query
 * (where it sees them) lose as those before it.
 */
#include <math.h>

#include "core/core.h"
#include "nn/part.h"

typedef struct {
    qp_tensor slopes; /* f64 [H, 1, 1] */
} alibi;

static const qp_option options[] = {{.name = "max_bias",
                                     .kind = QP_OPTION_NUMBER,
                                     .fallback = 8,
                                     .low = 1e-3,
                                     .high = 1e3,
                                     .help = "the smallest slope is 2^-max_bias"},
                                    {0}};

static void init(void *self, qp_build *b) {
    alibi  *p = self;
    double  most = qp_setting(b, "max_bias");
    int64_t low = 1;
    while (2 * low <= b->heads) low *= 2;
    p->slopes = qp_module_keep(b->module, qp_empty(b->ctx, QP_F64, 3, (int64_t[]){b->heads, 1, 1}));
    double *slope = qp_data_write(p->slopes);
    for (int64_t h = 0; slope && h < b->heads; h++)
        slope[h] = h < low ? exp2(-most * (double)(h + 1) / (double)low)
                           : exp2(-most * (double)(2 * (h - low) + 1) / (double)(2 * low));
}

static void bias(void *self, qp_scores *scores, const qp_sequence *s) {
    alibi    *p = self;
    int64_t   keys = qp_size(scores->k, 1), far = keys > 0 ? keys - 1 : 0;
    qp_ctx   *ctx = scores->q.ctx;
    qp_tensor distance =
        qp_abs(qp_affine(qp_cast(qp_arange(ctx, QP_I64, 2 * far + 1), QP_F64), 1, (double)-far));
    (void)s;
    scores->mask.relative = qp_cast(qp_neg(qp_mul(p->slopes, distance)), qp_dtype_of(scores->q));
}

QP_POSITION(alibi) = {.part = {.name = "alibi",
                               .source = "arXiv:2108.12409",
                               .help = "scores fall with the distance, by a slope for each head",
                               .options = options,
                               .bytes = sizeof(alibi)},
                      .shared = true,
                      .init = init,
                      .bias = bias};
