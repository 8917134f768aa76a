/* Average attention (Zhang, Xiong & Su 2018, arXiv:1805.00631, section 3): every earlier position weighs the same.
 *
 *   m[t] = mean of x[s], s <= t;  g = relu(m w_up^T) w_down^T;  (i, f) = sigmoid([x, g] w_gate^T);  y = i x + f g
 *
 * State: the sum of all positions so far [1, D].
 */
#include "nn/part.h"

typedef struct {
    int64_t       width; /* D */
    qp_nn_linear *up, *down, *gate;
} average;

static const qp_option options[] = {
    {.name = "width", .kind = QP_OPTION_INT, .fallback = 0, .high = 1e9, .help = "F, inner width; 0: D"}, {0}};

static void init(void *self, qp_build *b) {
    average          *a = self;
    qp_linear_options o = {.bias = true, .init = b->init};
    int64_t           inner = qp_setting_int(b, "width");
    a->width = b->width;
    if (!inner) inner = b->width;
    a->up = qp_nn_linear_new(b->module, "up", b->width, inner, o);
    a->down = qp_nn_linear_new(b->module, "down", inner, b->width, o);
    a->gate = qp_nn_linear_new(b->module, "gate", 2 * b->width, 2 * b->width, o);
}

static bool causal(const void *self) { return (void)self, true; }

/* sums [B, T, D]: of the positions up to each. */
static qp_tensor mix(const average *a, qp_tensor x, qp_tensor sums, qp_tensor residual, const qp_sequence *s) {
    int64_t   per_position[] = {qp_size(s->positions, 0), qp_size(s->positions, 1), 1}, D = a->width;
    qp_tensor count = qp_affine(qp_cast(qp_reshape(s->positions, 3, per_position), qp_dtype_of(x)), 1, 1);
    qp_tensor g = qp_nn_linear_forward(a->up, qp_div(sums, count), QP_ACT_RELU, QP_NONE);
    g = qp_nn_linear_forward(a->down, g, QP_ACT_NONE, QP_NONE);
    qp_tensor both = qp_concat(2, (qp_tensor[]){x, g}, -1);
    qp_tensor gates = qp_sigmoid(qp_nn_linear_forward(a->gate, both, QP_ACT_NONE, QP_NONE));
    qp_tensor y = qp_mul(gates, both);
    y = qp_add(qp_slice(y, -1, 0, D, 1), qp_slice(y, -1, D, 2 * D, 1));
    return qp_is_none(residual) ? y : qp_add(residual, y);
}

static qp_tensor forward(void *self, qp_tensor x, qp_tensor residual, const qp_sequence *s) {
    qpi_one_segment(s, "average");
    return mix(self, x, qp_cumsum(x, 1), residual, s);
}

static void reserve(void *self, qp_ctx *ctx, int64_t rows, int64_t positions, qp_state *state) {
    (void)positions; /* however many: the state is as large */
    qp_state_add(state, ctx, false, 3, (int64_t[]){rows, 1, ((average *)self)->width});
}

static qp_tensor step(void *self, qp_tensor x, qp_tensor residual, const qp_sequence *s, qp_state *state) {
    qp_tensor sums = qp_add(qp_cumsum(x, 1), state->tensors[0]);
    int64_t   T = qp_size(x, 1);
    qp_state_set(state, 0, qp_slice(sums, 1, T - 1, T, 1));
    return mix(self, x, sums, residual, s);
}

QP_MIXER(average) = {.part = {.name = "average",
                              .source = "arXiv:1805.00631",
                              .help = "the mean of all positions so far, a feed-forward, a gate",
                              .options = options,
                              .bytes = sizeof(average)},
                     .causal = causal,
                     .init = init,
                     .forward = forward,
                     .reserve = reserve,
                     .step = step};
