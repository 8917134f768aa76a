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

/* The options that the reading of `init` expects. */
#define QPI_ATTENTION_OPTIONS \
    OPTION_INT("heads", 8, 0, 65536, "H, query heads; 0: D / head_width"), \
        OPTION_INT("kv_heads", 0, 0, 65536, "G, key and value heads, a divisor of H; 0: H"), \
        OPTION_INT("head_width", 0, 0, 65536, "K; 0: D / H"), \
        OPTION_BOOL("causal", 1, "a position sees itself and earlier ones only"), \
        OPTION_INT("window", 0, 0, 1e15, "how many positions back are seen, the own one included; 0: all"), \
        OPTION_BOOL("bias", 0, "bias of the query, key and value products"), \
        OPTION_BOOL("out_bias", 0, "bias of the output product"), \
        OPTION_BOOL("scale_by_layer", 0, "scores are also divided by the layer's number, from 1"), \
        OPTION_NUMBER("scale", 0, 0, 1e9, "of scores; 0: 1 / sqrt(K)"), \
        OPTION_BOOL("unscaled", 0, \
                    "of scores 1, and the queries' initial weights over sqrt(K) (T5, arXiv:1910.10683)"), \
        OPTION_NUMBER("softcap", 0, 0, 1e9, "c: scores become c tanh(x / c); 0: they stay"), \
        OPTION_CHOICE("qk_norm", 2, "none|head|all", \
                      "RMS norm of queries and keys before they turn, of each head or of all together"), \
        OPTION_NUMBER("qk_norm_eps", 1e-6, 0, 1, "added to the mean square"), \
        OPTION_BOOL("qk_norm_unit_offset", 0, "its gains are 1 + weight"), \
        OPTION_NUMBER("log_n", 0, 0, 1e12, \
                      "n: queries beyond n positions are multiplied by log(positions) / log n; 0: none"), \
        OPTION_BOOL("rotate_values", 0, "values turn by their position, too")

/* The functions of the part, of a qpi_attention or what begins with one. */
void qpi_attention_init(void *self, qp_build *b);
bool qpi_attention_causal(const void *self);
qp_tensor qpi_attention_forward(void *self, qp_tensor x, qp_tensor residual, const qp_sequence *s);
void qpi_attention_reserve(void *self, qp_ctx *ctx, int64_t rows, int64_t positions, qp_state *state);
qp_tensor qpi_attention_step(void *self, qp_tensor x, qp_tensor residual, const qp_sequence *s,
                             qp_state *state);

#endif
