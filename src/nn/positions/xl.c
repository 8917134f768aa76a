/* Relative positions of Transformer-XL (Dai et al. 2019, arXiv:1901.02860) and XLNet (arXiv:1906.08237):
 *
 *   score(t, s) = scale ((q_t + u) k_s + (q_t + v) W_r R(t - s))
 *
 * R: all sines, then all cosines, of the distance times theta^(-2i/D); u and v are learned for each head.
 */
#include <math.h>

#include "core/core.h"
#include "nn/heads.h"

typedef struct {
    int64_t       width, heads, head_width, clamp;
    qp_nn_linear *r;           /* [H K, D] */
    qp_tensor     u, v;        /* [H, K] */
    qp_tensor     frequencies; /* f64 [D / 2] */
} xl;

static const qp_option options[] = {{.name = "clamp",
                                     .kind = QP_OPTION_INT,
                                     .fallback = 0,
                                     .high = 1e9,
                                     .help = "distance beyond which all are one; 0: none"},
                                    {0}};

static void init(void *self, qp_build *b) {
    xl     *p = self;
    int64_t pairs = b->width / 2, shape[] = {b->heads, b->head_width};
    p->width = b->width;
    p->heads = b->heads;
    p->head_width = b->head_width;
    p->clamp = qp_setting_int(b, "clamp");
    if (b->width % 2) {
        qp_fail(b->ctx, QP_ERR_ARGUMENT, "xl: the width is %lld, expected an even one", (long long)b->width);
        return;
    }
    p->r = qp_nn_linear_new(b->module, "r", b->width, b->heads * b->head_width,
                            (qp_linear_options){.init = b->init});
    p->u = qp_param(b->module, "u", b->init, 2, shape);
    p->v = qp_param(b->module, "v", b->init, 2, shape);
    p->frequencies = qp_module_keep(b->module, qp_empty(b->ctx, QP_F64, 1, &pairs));
    double *f = qp_data_write(p->frequencies);
    for (int64_t i = 0; f && i < pairs; i++) f[i] = pow(10000, -2.0 * (double)i / (double)b->width);
}

/* W_r R of n distances from `back` down, [H, K, n]. */
static qp_tensor vectors(const xl *p, qp_ctx *ctx, int64_t back, int64_t n, qp_dtype type) {
    qp_tensor distance = qp_affine(qp_cast(qp_arange(ctx, QP_I64, n), QP_F64), -1, (double)back);
    qp_tensor angle = qp_mul(qp_reshape(distance, 2, (int64_t[]){n, 1}), p->frequencies);
    qp_tensor waves = qp_cast(qp_concat(2, (qp_tensor[]){qp_sin(angle), qp_cos(angle)}, 1), type);
    qp_tensor r = qp_nn_linear_forward(p->r, waves, QP_ACT_NONE, QP_NONE);
    return qp_permute(qp_reshape(r, 3, (int64_t[]){n, p->heads, p->head_width}), (int[]){1, 2, 0});
}

/* Causal: distances ahead are never asked for and need no columns of their own. */
static qp_tensor columns(qp_ctx *ctx, int64_t far, int64_t n) {
    int64_t   count = 2 * far + 1;
    qp_tensor t = qp_empty(ctx, QP_I64, 1, &count);
    int64_t  *column = qp_data_write(t);
    for (int64_t i = 0; column && i < count; i++) column[i] = i < n ? i : n - 1;
    return t;
}

static void bias(void *self, qp_scores *scores, const qp_sequence *s) {
    xl      *p = self;
    qp_ctx  *ctx = scores->q.ctx;
    qp_dtype type = qp_dtype_of(scores->q);
    int64_t  keys = qp_size(scores->k, 1), far = keys > 0 ? keys - 1 : 0, n;
    if (p->clamp && far > p->clamp) far = p->clamp;
    n = scores->mask.causal ? far + 1 : 2 * far + 1;
    (void)s;
    if (!qpi_heads_fit(scores, p->head_width, "xl")) return;
    qp_tensor q = qp_transpose(qp_add(scores->q, qp_cast(p->v, type)), 1, 2);
    scores->mask.relative = qp_affine(qp_matmul(q, vectors(p, ctx, far, n, type)), scores->scale, 0);
    scores->mask.columns = columns(ctx, far, n);
    scores->q = qp_add(scores->q, qp_cast(p->u, type));
}

QP_POSITION(xl) = {.part = {.name = "xl",
                            .source = "arXiv:1901.02860, arXiv:1906.08237",
                            .help = "queries meet sines of the distance, with learned biases u and v",
                            .options = options,
                            .bytes = sizeof(xl)},
                   .init = init,
                   .bias = bias};
