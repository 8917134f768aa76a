/* A short causal convolution, each channel for itself; step by step its state is the last K - 1 inputs. */
#ifndef QUIPU_NN_SHORT_CONV_H
#define QUIPU_NN_SHORT_CONV_H

#include "nn/part.h"

typedef struct {
    qp_tensor weight, bias;      /* [D, 1, K]; [D] or QP_NONE */
    int64_t   channels, length;  /* D; K, at least 2 */
    qp_tensor (*act)(qp_tensor); /* behind it; NULL: nothing */
} qpi_short_conv;

/* Parameters "conv.weight" and "conv.bias"; silu behind it. */
void qpi_short_conv_init(qpi_short_conv *c, qp_build *b, int64_t channels, int64_t length, bool bias);

/* x [B, T, D] -> act(conv(x)) */
qp_tensor qpi_short_conv_forward(const qpi_short_conv *c, qp_tensor x);

/* Its state becomes tensor state->count of the state. */
void qpi_short_conv_reserve(const qpi_short_conv *c, qp_ctx *ctx, int64_t rows, qp_state *state);

/* The same for the next positions, with tensor i of the state. */
qp_tensor qpi_short_conv_step(const qpi_short_conv *c, qp_tensor x, qp_state *state, int i);

#endif
