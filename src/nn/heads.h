/* What mixers with heads of one width share: products to queries, keys and values, their rotation, and the
 * product that ends them. */
#ifndef QUIPU_NN_HEADS_H
#define QUIPU_NN_HEADS_H

#include "core/core.h"
#include "nn/part.h"

#define QPI_HEADS_OPTIONS \
    OPTION_INT("heads", 8, 0, 65536, "H; 0: D / head_width"), \
        OPTION_INT("head_width", 0, 0, 65536, "K; 0: D / H"), \
        OPTION_BOOL("bias", 0, "bias of the query, key and value products"), \
        OPTION_BOOL("out_bias", 0, "bias of the output product")

typedef struct {
    const char        *name;                 /* of the part, for messages */
    int64_t            heads, width, values; /* H, K, V */
    const qp_position *position;
    qp_nn_linear      *q, *k, *v, *out;
} qpi_heads;

typedef struct {
    qp_tensor q, k, v; /* [B, T, H, K], [B, T, H, V] */
} qpi_qkv;

/* q, k, v and out under b->module; values of `values` features a head, 0: K. The part forms no scores that a
 * position encoding could add to, and refuses one that wants it. */
void qpi_heads_init(qpi_heads *h, qp_build *b, const char *name, int64_t values);

/* [B, T, H, n] -> [B, T, H n] and back. */
qp_tensor qpi_join_heads(qp_tensor x);
qp_tensor qpi_split_heads(qp_tensor x, int64_t heads);

/* Are the scores' queries as wide as the heads that a position encoding was made for? Otherwise an error is stored. */
bool qpi_heads_fit(const qp_scores *s, int64_t width, const char *name);

qpi_qkv qpi_heads_project(const qpi_heads *h, qp_tensor x, const qp_sequence *s);
qp_tensor qpi_heads_end(const qpi_heads *h, qp_tensor o, qp_tensor residual);

/* Positions that are there: bool [B, T, 1, 1], or QP_NONE where all are. */
qp_tensor qpi_present(qp_tensor x, const qp_sequence *s);

/* x, and zeros (or `value`) where `present` (QP_NONE: all) says no. */
qp_tensor qpi_keep(qp_tensor x, qp_tensor present, double value);

/* Over all positions s: sum of (q[t] k[s]) v[s]; and that over (the sum of the weights + eps). */
qp_tensor qpi_sum_all(qp_tensor q, qp_tensor k, qp_tensor v);
qp_tensor qpi_see_all(qp_tensor q, qp_tensor k, qp_tensor v, double eps);

#endif
