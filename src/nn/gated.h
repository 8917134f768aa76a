/* What gated attention units share (Hua et al. 2022, arXiv:2202.10447):
 *
 *   u = silu(x w_u^T), v = silu(x w_v^T) [B, T, E], z = silu(x w_z^T) [B, T, S]
 *   queries and keys: scale * z + offset, each with its own, turned by the position encoding
 *   o = (u * mixed v) w_out^T
 */
#ifndef QUIPU_NN_GATED_H
#define QUIPU_NN_GATED_H

#include "nn/heads.h"

#define QPI_MAX_SIDES 4

#define QPI_GATED_OPTIONS \
    OPTION_INT("heads", 1, 1, 1, "one head"), \
        OPTION_INT("head_width", 128, 1, 65536, "S, features of queries and keys"), \
        OPTION_INT("width", 0, 0, 1e9, "E, features of values and gates; 0: 2 D"), \
        OPTION_BOOL("causal", 1, "a position sees itself and earlier ones only")

typedef struct {
    const qp_position *position;
    int64_t            inner, width; /* E, S */
    int                sides;
    qp_tensor          scale[QPI_MAX_SIDES], offset[QPI_MAX_SIDES]; /* [S] */
    qp_nn_linear      *u, *v, *z, *out;
} qpi_gated;

typedef struct {
    qp_tensor u, v, side[QPI_MAX_SIDES]; /* [B, T, E], [B, T, S] */
} qpi_gates;

/* names: of the queries and keys, as modules under b->module. */
void qpi_gated_init(qpi_gated *g, qp_build *b, const char *name, int sides, const char *const *names);
qpi_gates qpi_gated_project(const qpi_gated *g, qp_tensor x, const qp_sequence *s);
qp_tensor qpi_gated_end(const qpi_gated *g, qp_tensor u, qp_tensor mixed, qp_tensor residual);

/* max(scale q k^T, 0)^2, 0 where `seen` (broadcast, QP_NONE: everywhere) says no: q [.., T, S], k [.., N, S]. */
qp_tensor qpi_square_weights(qp_tensor q, qp_tensor k, double scale, qp_tensor seen);

/* bool [T, N]: key s is not behind query t, which is the `first` + t-th key. */
qp_tensor qpi_not_behind(qp_ctx *ctx, int64_t T, int64_t N, int64_t first);

/* How many positions there are, [B, 1, 1] or one number, of x's type. */
qp_tensor qpi_counted(qp_tensor x, const qp_sequence *s);

#endif
