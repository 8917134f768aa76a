/* Sines and cosines of the position, added to the input (Vaswani et al. 2017, arXiv:1706.03762, section
 * 3.5): features 2i and 2i + 1 of position m are sin(m f_i) and cos(m f_i), f_i = theta^(-2i/D); in the
 * layout `half` all sines stand before all cosines (Marian, RoFormer). Angles are made in f64: at the
 * millionth position those of f32 are off by a twentieth of a radian.
 */
#include <math.h>

#include "core/core.h"
#include "nn/part.h"

typedef struct {
    int64_t   pairs;
    bool      half;
    qp_tensor frequencies; /* f64 [D / 2] */
} sinusoidal;

static const qp_option options[] = {{.name = "layout",
                                     .kind = QP_OPTION_CHOICE,
                                     .high = 1,
                                     .choices = "interleaved|half",
                                     .help = "where the sine and the cosine of a frequency stand"},
                                    {.name = "theta",
                                     .kind = QP_OPTION_NUMBER,
                                     .fallback = 10000,
                                     .low = 1e-3,
                                     .high = 1e12,
                                     .help = "base of the frequencies"},
                                    {0}};

static void init(void *self, qp_build *b) {
    sinusoidal *p = self;
    double      theta = qp_setting(b, "theta");
    p->pairs = b->width / 2;
    p->half = qp_setting_int(b, "layout") == 1;
    if (b->width % 2) {
        qp_fail(b->ctx, QP_ERR_ARGUMENT, "sinusoidal: the width is %lld, expected an even one",
                (long long)b->width);
        return;
    }
    p->frequencies = qp_module_keep(b->module, qp_empty(b->ctx, QP_F64, 1, &p->pairs));
    double *f = qp_data_write(p->frequencies);
    for (int64_t i = 0; f && i < p->pairs; i++) f[i] = pow(theta, -2.0 * (double)i / (double)b->width);
}

static qp_tensor embed(void *self, qp_tensor x, const qp_sequence *s) {
    sinusoidal *p = self;
    int64_t     B = qp_size(s->positions, 0), T = qp_size(s->positions, 1);
    int64_t     shape[] = {B, T, p->half ? 1 : p->pairs, p->half ? p->pairs : 1};
    qp_tensor   at = qp_reshape(qp_cast(s->positions, QP_F64), 3, (int64_t[]){B, T, 1});
    qp_tensor   angle = qp_reshape(qp_mul(at, p->frequencies), 4, shape);
    qp_tensor   both = qp_concat(2, (qp_tensor[]){qp_sin(angle), qp_cos(angle)}, p->half ? 2 : 3);
    return qp_add(x, qp_cast(qp_reshape(both, 3, (int64_t[]){B, T, 2 * p->pairs}), qp_dtype_of(x)));
}

QP_POSITION(sinusoidal) = {.part = {.name = "sinusoidal",
                                    .source = "arXiv:1706.03762",
                                    .help = "sines and cosines of the position, added to the input",
                                    .options = options,
                                    .bytes = sizeof(sinusoidal)},
                           .shared = true,
                           .init = init,
                           .embed = embed};
