/* The feed-forward of RWKV: the square of relu, of the position mixed with the one before it.
 *
 *   4, 5:  x_k = token_shift(x, 1 - time_mix_k), x_r = token_shift(x, 1 - time_mix_r)
 *          sigmoid(receptance(x_r)) value(relu(key(x_k))^2)         (arXiv:2305.13048)
 *   6:     the same with token_shift(x, time_maa_k)                 (arXiv:2404.05892)
 *   7:     value(relu(key(token_shift(x, x_k)))^2)                  (arXiv:2503.14456)
 *
 * State: x of the position before. Names of parameters are the authors'.
 */
#include "nn/rwkv.h"

typedef enum { MIX, MAA, PLAIN } form;

typedef struct {
    form          form;
    qp_tensor     mix_k, mix_r;
    qp_nn_linear *key, *receptance, *value; /* receptance NULL: not gated */
    int64_t       width;
} channel_mix;

static const qp_option options[] = {
    {.name = "width", .kind = QP_OPTION_INT, .fallback = 0, .high = 1e9, .help = "F, inner width; 0: 4 D"},
    {.name = "form",
     .kind = QP_OPTION_CHOICE,
     .fallback = PLAIN,
     .high = PLAIN,
     .choices = "rwkv4|rwkv6|rwkv7",
     .help = "of versions 4 and 5, of 6, or of 7 (no gate)"},
    {0}};

static void init(void *self, qp_build *b) {
    static const char *const names[][2] = {
        {"time_mix_k", "time_mix_r"}, {"time_maa_k", "time_maa_r"}, {"x_k", NULL}};
    channel_mix      *m = self;
    int64_t           inner = qp_setting_int(b, "width"), row[3] = {1, 1, b->width};
    qp_linear_options in = {.init = b->init}, out = {.init = b->init_residual};
    m->form = (form)qp_setting_int(b, "form");
    m->width = b->width;
    const char *ramp = m->form == MIX ? "rwkv_share" : "rwkv_back";
    if (!inner) inner = 4 * b->width;
    m->mix_k = rwkv_param(b, names[m->form][0], ramp, 3, row);
    m->key = qp_nn_linear_new(b->module, "key", b->width, inner, in);
    if (m->form != PLAIN) {
        m->mix_r = rwkv_param(b, names[m->form][1], ramp, 3, row);
        m->receptance = qp_nn_linear_new(b->module, "receptance", b->width, b->width, in);
    }
    m->value = qp_nn_linear_new(b->module, "value", inner, b->width, out);
}

static qp_tensor mixed(const channel_mix *m, const rwkv_shift *s, qp_tensor p) {
    return m->form == MIX ? rwkv_mixed_by_share(s, p) : rwkv_mixed(s, p);
}

static qp_tensor step(void *self, qp_tensor x, qp_tensor residual, const qp_sequence *s, qp_state *state) {
    channel_mix *m = self;
    rwkv_shift   shift = rwkv_shift_open(x, state, 0);
    (void)s;
    qp_tensor k = qp_square(qp_nn_linear_forward(m->key, mixed(m, &shift, m->mix_k), QP_ACT_RELU, QP_NONE));
    if (!m->receptance) return qp_nn_linear_forward(m->value, k, QP_ACT_NONE, residual);
    qp_tensor r =
        qp_sigmoid(qp_nn_linear_forward(m->receptance, mixed(m, &shift, m->mix_r), QP_ACT_NONE, QP_NONE));
    qp_tensor y = qp_mul(r, qp_nn_linear_forward(m->value, k, QP_ACT_NONE, QP_NONE));
    return qp_is_none(residual) ? y : qp_add(y, residual);
}

static qp_tensor forward(void *self, qp_tensor x, qp_tensor residual, const qp_sequence *s) {
    qpi_one_segment(s, "channel_mix");
    return step(self, x, residual, s, NULL);
}

static void reserve(void *self, qp_ctx *ctx, int64_t rows, int64_t positions, qp_state *state) {
    (void)positions;
    qp_state_add(state, ctx, false, 2, (int64_t[]){rows, ((channel_mix *)self)->width});
}

QP_FFN(channel_mix) = {.part = {.name = "channel_mix",
                                .source = "arXiv:2305.13048",
                                .help = "RWKV's: square of relu, mixed with the position before",
                                .options = options,
                                .bytes = sizeof(channel_mix)},
                       .init = init,
                       .forward = forward,
                       .reserve = reserve,
                       .step = step};
