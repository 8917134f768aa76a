/* Performer, FAVOR+ (Choromanski et al. 2021, arXiv:2009.14794): linear attention whose features stand for the
 * softmax in the mean. With x' = x K^(-1/4) and M rows w of a random matrix,
 *
 *   f(x)[i] = exp(w[i] x' - |x'|^2 / 2 - c) + eps,   E f(q) f(k) = exp(q k / sqrt(K)) up to a factor
 *
 * Rows are orthogonal in blocks of K and as long as normal ones: that lowers the variance. c keeps the
 * exponential in range and falls out of the quotient: for a query the largest w x'; for keys that of all
 * positions or, causal, 0, as what comes must not change what was (w x' - |x'|^2 / 2 <= |w|^2 / 2 then
 * bounds it: enough for K up to 150 or so). The kernel relu, max(w x', 0) + eps, stands for no softmax.
 *
 * The matrix is a buffer, saved with the model. State: the sums S [H, M, V + 1].
 */
#include <math.h>

#include "nn/heads.h"

typedef struct {
    qpi_heads heads;
    bool      causal, relu, orthogonal;
    double    eps;
    int64_t   redraw;
    qp_tensor projection, steps; /* [M, K]; f32 [1], of training since it was drawn */
} performer;

static const qp_option options[] = {
    QPI_HEADS_OPTIONS,
    OPTION_BOOL("causal", 1, "a position sees itself and earlier ones only"),
    OPTION_INT("features", 256, 1, 65536, "M, rows of the random matrix"),
    OPTION_CHOICE("kernel", 1, "softmax|relu", "what the features stand for"),
    OPTION_BOOL("orthogonal", 1, "rows are orthogonal in blocks of K"),
    OPTION_INT("redraw", 0, 0, 1e6, "training steps after which the matrix is drawn anew; 0: never"),
    OPTION_NUMBER("eps", 1e-6, 1e-12, 1, "added to each feature"),
    {0}};

/* Rows of a normal matrix or, orthogonal ones as long as those. */
static void draw(const performer *p) {
    int64_t  M = qp_size(p->projection, 0), K = p->heads.width;
    qp_ctx  *ctx = p->projection.ctx;
    qp_scope s = qp_enter(ctx);
    qp_no_grad(ctx, true);
    qp_tensor normal = qp_randn(ctx, QP_F32, 2, (int64_t[]){M, K});
    for (int64_t at = 0; at < M; at += K) {
        int64_t   rows = M - at < K ? M - at : K;
        qp_tensor own = qp_slice(normal, 0, at, at + rows, 1),
                  unit = qp_empty(ctx, QP_F32, 2, (int64_t[]){rows, K});
        if (!p->orthogonal) break;
        qp_init(unit, "orthogonal");
        qp_copy_to(own, qp_mul(unit, qp_sqrt(qp_sum(qp_square(own), 1, (int[]){1}, true))));
    }
    qp_copy_to(p->projection, normal);
    qp_leave(s);
}

static void init(void *self, qp_build *b) {
    performer *p = self;
    int64_t    one = 1;
    p->causal = qp_setting(b, "causal") != 0;
    p->relu = qp_setting_int(b, "kernel") == 1;
    p->orthogonal = qp_setting(b, "orthogonal") != 0;
    p->redraw = qp_setting_int(b, "redraw");
    p->eps = qp_setting(b, "eps");
    qpi_heads_init(&p->heads, b, "performer", 0);
    p->projection =
        qp_zeros(b->ctx, b->ctx->param_dtype, 2, (int64_t[]){qp_setting_int(b, "features"), p->heads.width});
    qp_buffer(b->module, "projection", p->projection);
    draw(p);
    if (!p->redraw) return;
    p->steps = qp_zeros(b->ctx, QP_F32, 1, &one);
    qp_buffer(b->module, "steps", p->steps);
}

static bool causal(const void *self) { return ((const performer *)self)->causal; }

typedef enum { QUERY, KEY } side;

static qp_tensor features_of(const performer *p, qp_tensor matrix, qp_tensor x, side side, qp_tensor present) {
    x = qp_affine(x, pow((double)p->heads.width, -0.25), 0);
    qp_tensor y = qp_linear(x, matrix, QP_NONE, QP_ACT_NONE, QP_NONE);
    if (p->relu) return qpi_keep(qp_affine(qp_relu(y), 1, p->eps), present, 0);
    qp_tensor shift = qp_affine(qp_sum(qp_square(x), 1, (int[]){-1}, true), 0.5, 0);
    if (side == QUERY) shift = qp_add(shift, qp_max(y, -1, true));
    else if (!p->causal && qp_size(y, 1))
        shift = qp_add(shift, qp_max(qp_max(qpi_keep(y, present, -1e30), -1, true), 1, true));
    return qpi_keep(qp_affine(qp_exp(qp_sub(y, shift)), 1, p->eps), present, 0);
}

static qp_tensor mix(const performer *p, qp_tensor x, qp_tensor residual, const qp_sequence *s,
                     qp_state *state) {
    qpi_qkv   t = qpi_heads_project(&p->heads, x, s);
    qp_tensor w = p->projection, present = p->causal ? QP_NONE : qpi_present(x, s), end, y;
    qp_tensor q = features_of(p, w, t.q, QUERY, QP_NONE), k = features_of(p, w, t.k, KEY, present);
    qp_linear_attention_options o = {.normalize = true, .state = state ? state->tensors[0] : QP_NONE};
    if (p->causal) y = qp_linear_attention(q, k, t.v, o, state ? &end : NULL);
    else y = qpi_see_all(q, k, t.v, 0);
    if (state) qp_state_set(state, 0, end);
    return qpi_heads_end(&p->heads, y, residual);
}

static qp_tensor forward(void *self, qp_tensor x, qp_tensor residual, const qp_sequence *s) {
    qpi_one_segment(s, "performer");
    return mix(self, x, residual, s, NULL);
}

static void reserve(void *self, qp_ctx *ctx, int64_t rows, int64_t positions, qp_state *state) {
    performer *p = self;
    (void)positions;
    qp_state_add(state, ctx, false, 4,
                 (int64_t[]){rows, p->heads.heads, qp_size(p->projection, 0), p->heads.values + 1});
}

static qp_tensor step(void *self, qp_tensor x, qp_tensor residual, const qp_sequence *s, qp_state *state) {
    return mix(self, x, residual, s, state);
}

static void stepped(void *self, bool taken) {
    performer *p = self;
    if (!p->redraw || !taken) return;
    double steps = qp_item(p->steps) + 1;
    bool   due = steps >= (double)p->redraw;
    if (due) draw(p);
    qp_copy_to(p->steps, qp_full(p->steps.ctx, QP_F32, 0, NULL, due ? 0 : steps));
}

QP_MIXER(performer) = {.part = {.name = "performer",
                                .source = "arXiv:2009.14794",
                                .help = "attention by positive orthogonal random features (FAVOR+)",
                                .options = options,
                                .bytes = sizeof(performer)},
                       .causal = causal,
                       .init = init,
                       .forward = forward,
                       .reserve = reserve,
                       .step = step,
                       .stepped = stepped};
