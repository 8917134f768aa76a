/* Relative positions of Shaw et al. 2018 (arXiv:1803.02155): a learned vector for each distance, clipped to
 * -clip..clip, joins each key and, another, each value; heads share them:
 *
 *   score(t, s) = scale q_t (k_s + a_K(s - t)),   out_t = sum over s of p(t, s) (v_s + a_V(s - t))
 *
 * q a_K^T is [B, H, T, 2 clip + 1], and so are the sums of p by distance that a_V is multiplied with: nothing
 * of the size T^2 is held.
 */
#include "core/core.h"
#include "nn/heads.h"

typedef struct {
    qp_tensor keys, values; /* [2 clip + 1, K] */
} shaw;

static const qp_option options[] = {{.name = "clip",
                                     .kind = QP_OPTION_INT,
                                     .fallback = 16,
                                     .low = 1,
                                     .high = 1e5,
                                     .help = "distance beyond which all are one"},
                                    {.name = "values",
                                     .kind = QP_OPTION_BOOL,
                                     .fallback = 1,
                                     .high = 1,
                                     .help = "values have vectors of distances, too"},
                                    {0}};

static void init(void *self, qp_build *b) {
    shaw   *p = self;
    int64_t shape[] = {2 * qp_setting_int(b, "clip") + 1, b->head_width};
    p->keys = qp_param(b->module, "keys", b->init, 2, shape);
    p->values = qp_setting(b, "values") ? qp_param(b->module, "values", b->init, 2, shape) : QP_NONE;
}

static void bias(void *self, qp_scores *scores, const qp_sequence *s) {
    shaw    *p = self;
    qp_dtype type = qp_dtype_of(scores->q);
    (void)s;
    if (!qpi_heads_fit(scores, qp_size(p->keys, 1), "shaw")) return;
    qp_tensor of = qp_matmul(scores->q, qp_transpose(qp_cast(p->keys, type), 0, 1)); /* [B, T, H, C] */
    scores->mask.relative = qp_transpose(qp_affine(of, scores->scale, 0), 1, 2);
    if (!qp_is_none(p->values)) scores->mask.relative_values = qp_cast(p->values, type);
}

QP_POSITION(shaw) = {.part = {.name = "shaw",
                              .source = "arXiv:1803.02155",
                              .help = "keys and values have a learned vector for each distance, clipped",
                              .options = options,
                              .bytes = sizeof(shaw)},
                     .init = init,
                     .bias = bias};
