/* Disentangled attention (He et al. 2020, arXiv:2006.03654): with a learned vector P for each distance, shared
 * by all layers, and projections of it in each,
 *
 *   score(t, s) = (q_t k_s + q_t W_k P(t - s) + k_s W_q P(t - s)) / sqrt(3 K)
 *
 * (content to content, to position, position to content; 3: the number of terms). Distances are clipped to
 * -span..span - 1; with buckets they grow logarithmically beyond half of them (DeBERTa v2), span being the
 * number of buckets. Where the cache is read step by step, position to content is made anew for all keys.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/core.h"
#include "nn/heads.h"

enum { BOTH, C2P, P2C };

typedef struct {
    int            terms, layers;
    int64_t        heads, head_width, span, far;
    qp_tensor      table; /* [2 span, D] */
    qp_tensor      columns;
    qp_nn_linear **keys, **queries; /* [H K, D] of each layer, or NULL */
} deberta;

static const qp_option options[] = {{.name = "terms",
                                     .kind = QP_OPTION_CHOICE,
                                     .high = 2,
                                     .choices = "both|c2p|p2c",
                                     .help = "beside content to content"},
                                    {.name = "max_distance",
                                     .kind = QP_OPTION_INT,
                                     .fallback = 0,
                                     .high = 1e6,
                                     .help = "beyond which all are one; 0: the model's positions"},
                                    {.name = "buckets",
                                     .kind = QP_OPTION_INT,
                                     .fallback = 0,
                                     .high = 1e5,
                                     .help = "of distances, to each side; 0: one for each distance"},
                                    {.name = "bias",
                                     .kind = QP_OPTION_BOOL,
                                     .fallback = 1,
                                     .high = 1,
                                     .help = "the projections of P have a bias"},
                                    {0}};

/* A distance in buckets, in f32 as DeBERTa was trained. */
static int64_t bucket(int64_t distance, int64_t buckets, int64_t far) {
    int64_t mid = buckets / 2, size = distance < 0 ? -distance : distance;
    if (size <= mid || mid < 1 || far - 1 <= mid) return distance; /* no bucket holds more than one */
    float   grown = logf((float)size / (float)mid) / logf((float)(far - 1) / (float)mid) * (float)(mid - 1);
    int64_t place = (int64_t)ceilf(grown) + mid;
    return distance < 0 ? -place : place;
}

static qp_nn_linear **projections(deberta *p, const qp_build *b, const char *name, bool bias) {
    qp_module     *m = qp_module_new(b->ctx, b->module, name);
    qp_nn_linear **all = calloc((size_t)b->layers + 1, sizeof *all);
    if (!m || !all || qp_module_own(m, all, free) != QP_OK) return NULL;
    for (int i = 0; i < b->layers; i++) {
        char layer[16];
        snprintf(layer, sizeof layer, "%d", i);
        all[i] = qp_nn_linear_new(m, layer, b->width, p->heads * p->head_width,
                                  (qp_linear_options){.bias = bias, .init = b->init});
    }
    return all;
}

static void init_columns(deberta *p, const qp_build *b, int64_t buckets) {
    int64_t count = 2 * p->far + 1;
    p->columns = qp_module_keep(b->module, qp_empty(b->ctx, QP_I64, 1, &count));
    int64_t *column = qp_data_write(p->columns);
    for (int64_t d = -p->far; column && d <= p->far; d++) {
        int64_t at = (buckets ? bucket(-d, buckets, p->far) : -d) + p->span;
        column[d + p->far] = at < 0 ? 0 : at >= 2 * p->span ? 2 * p->span - 1 : at;
    }
}

static void init(void *self, qp_build *b) {
    deberta *p = self;
    int64_t  buckets = qp_setting_int(b, "buckets");
    bool     bias = qp_setting(b, "bias") != 0;
    p->terms = (int)qp_setting_int(b, "terms");
    p->layers = b->layers;
    p->heads = b->heads;
    p->head_width = b->head_width;
    p->far = qp_setting_int(b, "max_distance");
    if (!p->far) p->far = b->max_positions;
    if (p->far > 1000000) {
        qp_fail(b->ctx, QP_ERR_ARGUMENT, "deberta: %lld distances, at most 1000000 (give max_distance)",
                (long long)p->far);
        return;
    }
    p->span = buckets ? buckets : p->far;
    p->table = qp_param(b->module, "weight", b->init, 2, (int64_t[]){2 * p->span, b->width});
    if (p->terms != P2C) p->keys = projections(p, b, "keys", bias);
    if (p->terms != C2P) p->queries = projections(p, b, "queries", bias);
    init_columns(p, b, buckets);
}

/* W P as [H, K, C]. */
static qp_tensor vectors(const deberta *p, const qp_nn_linear *w, qp_dtype type) {
    qp_tensor y = qp_nn_linear_forward(w, qp_cast(p->table, type), QP_ACT_NONE, QP_NONE);
    return qp_permute(qp_reshape(y, 3, (int64_t[]){2 * p->span, p->heads, p->head_width}), (int[]){1, 2, 0});
}

/* Keys as [B, H, S, K] of the queries' type. */
static qp_tensor keys_of(const deberta *p, const qp_scores *scores) {
    qp_tensor k = scores->k, rows = scores->mask.rows;
    if (qp_failed(k.ctx)) return k; /* of no heads */
    int64_t S = qp_size(k, 1), G = qp_size(k, 2), R = qp_size(k, 0),
            B = qp_is_none(rows) ? R : qp_size(rows, 0);
    k = qp_reshape(qp_contiguous(k), 2, (int64_t[]){R, S * G * p->head_width});
    if (!qp_is_none(rows)) k = qp_embedding(k, rows);
    k = qp_reshape(qp_cast(k, qp_dtype_of(scores->q)), 5, (int64_t[]){B, S, G, 1, p->head_width});
    k = qp_expand(k, 5, (int64_t[]){B, S, G, p->heads / G, p->head_width});
    return qp_transpose(qp_reshape(k, 4, (int64_t[]){B, S, p->heads, p->head_width}), 1, 2);
}

static void bias(void *self, qp_scores *scores, const qp_sequence *s) {
    deberta *p = self;
    qp_dtype type = qp_dtype_of(scores->q);
    if (s->layer >= p->layers) {
        qp_fail(scores->q.ctx, QP_ERR_UNSUPPORTED,
                "deberta: layer %d: it projects for %d (no multi-token prediction)", s->layer, p->layers);
        return;
    }
    if (!qpi_heads_fit(scores, p->head_width, "deberta")) return;
    scores->scale /= sqrt(p->terms == BOTH ? 3 : 2);
    scores->mask.columns = p->columns;
    if (p->keys)
        scores->mask.relative = qp_affine(
            qp_matmul(qp_transpose(scores->q, 1, 2), vectors(p, p->keys[s->layer], type)), scores->scale, 0);
    if (p->queries)
        scores->mask.relative_keys =
            qp_affine(qp_matmul(keys_of(p, scores), vectors(p, p->queries[s->layer], type)), scores->scale, 0);
}

QP_POSITION(deberta) = {
    .part = {.name = "deberta",
             .source = "arXiv:2006.03654",
             .help = "queries and keys meet learned vectors of the distance (disentangled attention)",
             .options = options,
             .bytes = sizeof(deberta)},
    .shared = true,
    .init = init,
    .bias = bias};
