/* Multi-head attention, for mixers that differ from `attention` in who sees whom. */
#ifndef QUIPU_NN_MIXERS_ATTENTION_H
#define QUIPU_NN_MIXERS_ATTENTION_H

#include "nn/part.h"

typedef enum { QPI_QK_NO_NORM, QPI_QK_NORM_OF_HEAD, QPI_QK_NORM_OF_ALL } qpi_qk_norm;

typedef struct {
    int64_t            heads, groups, width; /* H, G, K */
    double             scale, softcap, log_n;
    bool               causal;
    qpi_qk_norm        norm;
    bool               unit_offset, rotate_values;
    double             norm_eps;
    qp_tensor          q_norm, k_norm;
    int64_t            window;
    qp_pattern         pattern; /* of blocks; zero for `attention` itself */
    const qp_position *position;
    qp_nn_linear      *q, *k, *v, *out;
} qpi_attention;

#define QPI_INT(n, f, lo, hi, h) {.name = n, .kind = QP_OPTION_INT, .fallback = f, .low = lo, .high = hi, .help = h}
#define QPI_NUMBER(n, f, hi, h) {.name = n, .kind = QP_OPTION_NUMBER, .fallback = f, .high = hi, .help = h}
#define QPI_BOOL(n, f, h) {.name = n, .kind = QP_OPTION_BOOL, .fallback = f, .high = 1, .help = h}

/* The options that the reading of `init` expects. */
#define QPI_ATTENTION_OPTIONS \
    QPI_INT("heads", 8, 1, 65536, "H, query heads"), \
    QPI_INT("kv_heads", 0, 0, 65536, "G, key and value heads, a divisor of H; 0: H"), \
    QPI_INT("head_width", 0, 0, 65536, "K; 0: D / H"), \
    QPI_BOOL("causal", 1, "a position sees itself and earlier ones only"), \
    QPI_INT("window", 0, 0, 1e15, "how many positions back are seen, the own one included; 0: all"), \
    QPI_BOOL("bias", 0, "bias of the query, key and value products"), \
    QPI_BOOL("out_bias", 0, "bias of the output product"), \
    QPI_BOOL("scale_by_layer", 0, "scores are also divided by the layer's number, from 1"), \
    QPI_NUMBER("scale", 0, 1e9, "of scores; 0: 1 / sqrt(K)"), \
    QPI_NUMBER("softcap", 0, 1e9, "c: scores become c tanh(x / c); 0: they stay"), \
    {.name = "qk_norm", .kind = QP_OPTION_CHOICE, .high = 2, .choices = "none|head|all", .help = "RMS norm of queries and keys before they turn, of each head or of all together"}, \
    QPI_NUMBER("qk_norm_eps", 1e-6, 1, "added to the mean square"), \
    QPI_BOOL("qk_norm_unit_offset", 0, "its gains are 1 + weight"), \
    QPI_NUMBER("log_n", 0, 1e12, "n: queries beyond n positions are multiplied by log(positions) / log n; 0: none"), \
    QPI_BOOL("rotate_values", 0, "values turn by their position, too")

/* The functions of the part, of a qpi_attention or what begins with one. */
void      qpi_attention_init(void *self, qp_build *b);
bool      qpi_attention_causal(const void *self);
qp_tensor qpi_attention_forward(void *self, qp_tensor x, qp_tensor residual, const qp_sequence *s);
void      qpi_attention_reserve(void *self, qp_ctx *ctx, int64_t rows, int64_t positions, qp_state *state);
qp_tensor qpi_attention_step(void *self, qp_tensor x, qp_tensor residual, const qp_sequence *s, qp_state *state);

#endif
