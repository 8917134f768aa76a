#include "nn/short_conv.h"

#include <math.h>
#include <stdio.h>

#include "core/core.h"

void qpi_short_conv_init(qpi_short_conv *c, qp_build *b, int64_t channels, int64_t length, bool bias) {
    qp_module *m = qp_module_new(b->ctx, b->module, "conv");
    char       init[40];
    snprintf(init, sizeof init, "uniform:%.9g", 1 / sqrt((double)length));
    *c = (qpi_short_conv){.channels = channels, .length = length, .act = qp_silu};
    if (!m) return;
    c->weight = qp_param(m, "weight", init, 3, (int64_t[]){channels, 1, length});
    if (bias) c->bias = qp_param(m, "bias", "zeros", 1, &channels);
}

qp_tensor qpi_short_conv_forward(const qpi_short_conv *c, qp_tensor x) {
    qp_tensor w = qp_reshape(qpi_like(c->weight, x), 2, (int64_t[]){c->channels, c->length});
    qp_tensor y = qp_causal_conv1d(x, qp_transpose(w, 0, 1), qpi_like(c->bias, x));
    return c->act ? c->act(y) : y;
}

void qpi_short_conv_reserve(const qpi_short_conv *c, qp_ctx *ctx, int64_t rows, qp_state *state) {
    qp_state_add(state, ctx, false, 3, (int64_t[]){rows, c->length - 1, c->channels});
}

qp_tensor qpi_short_conv_step(const qpi_short_conv *c, qp_tensor x, qp_state *state, int i) {
    int64_t   before = c->length - 1, T = qp_size(x, 1);
    qp_tensor all = qp_concat(2, (qp_tensor[]){state->tensors[i], x}, 1);
    qp_state_set(state, i, qp_contiguous(qp_slice(all, 1, T, T + before, 1)));
    return qp_slice(qpi_short_conv_forward(c, all), 1, before, before + T, 1);
}
