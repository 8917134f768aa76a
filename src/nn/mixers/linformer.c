/* Linformer (Wang et al. 2020, arXiv:2006.04768): attention over M rows that learnt projections of the positions
 * make of the keys, and others of the values: softmax(q (E k)^T / sqrt(K)) (F v), E and F [M, positions].
 * Cost is linear in T; a sequence may be as long as the model's positions. Not causal: a projection mixes
 * all positions.
 */
#include <math.h>

#include "nn/heads.h"

typedef struct {
    qpi_heads heads;
    qp_tensor keys, values; /* E, F */
} linformer;

static const qp_option options[] = {
    QPI_HEADS_OPTIONS, OPTION_INT("features", 256, 1, 65536, "M, rows of the projections"), {0}};

static qp_tensor projection(qp_build *b, const char *name) {
    qp_module *m = qp_module_new(b->ctx, b->module, name);
    int64_t    shape[] = {qp_setting_int(b, "features"), b->max_positions};
    return m ? qp_param(m, "projection", b->init, 2, shape) : QP_NONE;
}

static void init(void *self, qp_build *b) {
    linformer *l = self;
    qpi_heads_init(&l->heads, b, "linformer", 0);
    l->keys = projection(b, "keys");
    l->values = projection(b, "values");
}

/* w [M, positions], x [B, T, H, n] -> [B, M, H, n] */
static qp_tensor projected(qp_tensor w, qp_tensor x) {
    int64_t   B = qp_size(x, 0), T = qp_size(x, 1), H = qp_size(x, 2), n = qp_size(x, 3);
    qp_tensor y = qp_matmul(qp_slice(w, 1, 0, T, 1), qp_reshape(x, 3, (int64_t[]){B, T, H * n}));
    return qp_reshape(y, 4, (int64_t[]){B, qp_size(w, 0), H, n});
}

static qp_tensor forward(void *self, qp_tensor x, qp_tensor residual, const qp_sequence *s) {
    linformer *l = self;
    qpi_qkv    t = qpi_heads_project(&l->heads, x, s);
    qp_tensor  present = qpi_present(x, s);
    if (qp_size(x, 1) > qp_size(l->keys, 1))
        qp_fail(x.ctx, QP_ERR_ARGUMENT, "linformer: %lld positions, its projections have %lld",
                (long long)qp_size(x, 1), (long long)qp_size(l->keys, 1));
    if (!qpi_one_segment(s, "linformer") || qp_failed(x.ctx)) return x;
    qp_tensor k = projected(l->keys, qpi_keep(t.k, present, 0)),
              v = projected(l->values, qpi_keep(t.v, present, 0));
    return qpi_heads_end(&l->heads, qp_attention(t.q, k, v, (qp_mask){0}, 1 / sqrt((double)l->heads.width)),
                         residual);
}

QP_MIXER(linformer) = {.part = {.name = "linformer",
                                .source = "arXiv:2006.04768",
                                .help = "attention over learnt projections of the positions; not causal",
                                .options = options,
                                .bytes = sizeof(linformer)},
                       .init = init,
                       .forward = forward};
