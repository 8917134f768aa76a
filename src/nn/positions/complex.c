/* Complex embeddings (Wang et al. 2019, arXiv:1912.12333), frequencies shared by all words: feature j of a word at
 * position m is r_j e^(i (w_j m + p_j)), of which the sum of the real and the imaginary part goes on, as in the
 * authors' classifier: r_j (cos(w_j m + p_j) + sin(w_j m + p_j)). r is the word's embedding; w and p are learned.
 */
#include "core/core.h"
#include "nn/part.h"

typedef struct {
    qp_tensor frequencies, phases; /* [D] */
} complex_;

static void init(void *self, qp_build *b) {
    complex_ *p = self;
    p->frequencies = qp_param(b->module, "frequencies", "normal:0.02", 1, &b->width);
    p->phases = qp_param(b->module, "phases", "zeros", 1, &b->width);
}

/* Angles in f64: those of far positions turn often. */
static qp_tensor embed(void *self, qp_tensor x, const qp_sequence *s) {
    complex_ *p = self;
    qp_tensor at = qp_reshape(qp_cast(s->positions, QP_F64), 3,
                              (int64_t[]){qp_size(s->positions, 0), qp_size(s->positions, 1), 1});
    qp_tensor angle = qp_add(qp_mul(at, qp_cast(p->frequencies, QP_F64)), qp_cast(p->phases, QP_F64));
    return qp_mul(x, qp_cast(qp_add(qp_cos(angle), qp_sin(angle)), qp_dtype_of(x)));
}

QP_POSITION(complex) = {
    .part = {.name = "complex",
             .source = "arXiv:1912.12333",
             .help = "each feature of the input is a wave in the position, of learned frequency and phase",
             .bytes = sizeof(complex_)},
    .shared = true,
    .init = init,
    .embed = embed};
