/* Positions by a convolution along the text: x + act(conv(x) + b), each feature for itself (Chu et al. 2021,
 * arXiv:2102.10882, section 3; with gelu: wav2vec 2.0, arXiv:2006.11477, section 2). Nothing says where a position is but
 * the zeros that stand in for what lies beyond the ends: those that see them know, and tell others in the layers behind
 * (Islam et al. 2020, arXiv:2001.08248). So a causal one counts from the first position, and any length goes on.
 *
 *   conv(x)[t] = sum over k of w[k] x[t - before + k],  k = 0 .. K - 1;  before: K - 1, or (K - 1) / 2 where not causal
 *
 * State: the last K - 1 inputs. */
#include "core/core.h"
#include "nn/heads.h"
#include "nn/short_conv.h"

typedef struct {
    qpi_short_conv conv;
    bool           causal;
} convolutional;

enum { NONE, GELU };

static const qp_option options[] = {
    OPTION_INT("kernel", 3, 2, 4096, "K, inputs that a position sees"),
    OPTION_BOOL("causal", 1, "these are its own and earlier ones; otherwise of both sides"),
    OPTION_CHOICE("act", 1, "none|gelu", "of what is added"),
    {0}};

static void init(void *self, qp_build *b) {
    convolutional *c = self;
    qpi_short_conv_init(&c->conv, b, b->width, qp_setting_int(b, "kernel"), true);
    c->conv.act = qp_setting_int(b, "act") == GELU ? qp_gelu : NULL;
    c->causal = qp_setting(b, "causal") != 0;
}

static bool causal(const void *self) { return ((const convolutional *)self)->causal; }

/* Where both sides are seen, a position's K inputs end behind it, and what is not there is 0. */
static qp_tensor embed(void *self, qp_tensor x, const qp_sequence *s) {
    convolutional *c = self;
    if (!qpi_one_segment(s, "convolutional")) return qpi_poison(x.ctx);
    if (c->causal) return qp_add(x, qpi_short_conv_forward(&c->conv, x));
    int64_t   T = qp_size(x, 1), behind = c->conv.length / 2;
    qp_tensor there = qpi_present(x, s);
    if (!qp_is_none(there)) there = qp_reshape(there, 3, (int64_t[]){qp_size(there, 0), T, 1});
    qp_tensor longer = qp_pad(qpi_keep(x, there, 0), 1, 0, behind, 0);
    return qp_add(x, qp_slice(qpi_short_conv_forward(&c->conv, longer), 1, behind, behind + T, 1));
}

static void reserve(void *self, qp_ctx *ctx, int64_t rows, int64_t positions, qp_state *state) {
    (void)positions;
    qpi_short_conv_reserve(&((convolutional *)self)->conv, ctx, rows, state);
}

static qp_tensor step(void *self, qp_tensor x, const qp_sequence *s, qp_state *state) {
    (void)s;
    return qp_add(x, qpi_short_conv_step(&((convolutional *)self)->conv, x, state, 0));
}

QP_POSITION(convolutional) = {
    .part = {.name = "convolutional",
             .source = "arXiv:2102.10882, arXiv:2001.08248",
             .help = "a convolution of the input is added, whose zero padding tells where the ends are",
             .options = options,
             .bytes = sizeof(convolutional)},
    .shared = true,
    .init = init,
    .embed = embed,
    .causal = causal,
    .reserve = reserve,
    .step = step};
