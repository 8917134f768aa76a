/* The linear recurrent unit (Orvieto et al. 2023, arXiv:2303.06349): a complex diagonal recurrence of all channels
 * together, between dense products.
 *
 *   h_t = lambda h_{t-1} + gamma B x_t     y = gelu(Re(C h) + d x) w^T
 *   lambda = exp(-exp(nu) + i exp(theta)), drawn from a ring; gamma = sqrt(1 - |lambda|^2) at first, then learnt
 *
 * B [2N, D] has the rows of its real parts and then those of its imaginary parts; C [D, 2N] the columns of the real
 * parts and those of the imaginary parts, negative.
 *
 * State: h, complex [N]. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "nn/state_space.h"

typedef struct {
    int64_t       state;                        /* N */
    qp_tensor     nu_log, theta_log, gamma_log; /* [N] */
    qpi_kept      ring;                         /* of the step */
    qp_nn_linear *b, *c;
    qpi_gate      gate;
} lru;

static const qp_option options[] = {{.name = "state",
                                     .kind = QP_OPTION_INT,
                                     .fallback = 0,
                                     .high = 1e6,
                                     .help = "N, complex numbers in the state; 0: D"},
                                    {.name = "r_min",
                                     .kind = QP_OPTION_NUMBER,
                                     .fallback = 0,
                                     .high = 0.9999,
                                     .help = "the ring's inner radius.."},
                                    {.name = "r_max",
                                     .kind = QP_OPTION_NUMBER,
                                     .fallback = 0.99,
                                     .low = 1e-3,
                                     .high = 0.9999,
                                     .help = "..and its outer one"},
                                    {.name = "max_phase",
                                     .kind = QP_OPTION_NUMBER,
                                     .fallback = 2 * M_PI,
                                     .low = 1e-6,
                                     .high = 2 * M_PI,
                                     .help = "angles are drawn from 0 to this"},
                                    QPI_GATE_OPTION,
                                    {0}};

/* Radii so that the ring is filled evenly. */
static void init_ring(lru *m, qp_build *b, double *v) {
    int64_t  N = m->state;
    double   low = qp_setting(b, "r_min"), high = fmax(qp_setting(b, "r_max"), low),
             phase = qp_setting(b, "max_phase");
    qp_scope s = qp_enter(b->ctx);
    bool     ok = qp_read(qp_rand(b->ctx, QP_F64, 1, (int64_t[]){2 * N}), QP_F64, v, 2 * N) == QP_OK;
    qp_leave(s);
    for (int64_t n = 0; n < N && ok; n++) {
        double square = fmax(low * low + v[n] * (high * high - low * low), 1e-12);
        v[n] = log(-0.5 * log(square));
        v[N + n] = log(phase * fmax(v[N + n], 1e-9));
        v[2 * N + n] = 0.5 * log(1 - square);
    }
    m->nu_log = qpi_param_of(b, "nu_log", 1, &N, v);
    m->theta_log = qpi_param_of(b, "theta_log", 1, &N, v + N);
    m->gamma_log = qpi_param_of(b, "gamma_log", 1, &N, v + 2 * N);
}

static void init(void *self, qp_build *b) {
    lru *m = self;
    char spread[2][40];
    m->state = qp_setting_int(b, "state");
    if (!m->state) m->state = b->width;
    double *v = calloc((size_t)m->state, 3 * sizeof *v);
    if (v) init_ring(m, b, v);
    else qp_fail(b->ctx, QP_ERR_MEMORY, "out of memory: lru");
    free(v);
    snprintf(spread[0], sizeof spread[0], "normal:%.9g", sqrt(0.5 / (double)b->width));
    snprintf(spread[1], sizeof spread[1], "normal:%.9g", sqrt(1 / (double)m->state));
    m->b = qp_nn_linear_new(b->module, "b", b->width, 2 * m->state, (qp_linear_options){.init = spread[0]});
    m->c = qp_nn_linear_new(b->module, "c", 2 * m->state, b->width, (qp_linear_options){.init = spread[1]});
    qpi_kept_init(&m->ring, b, 2, (int64_t[]){3, m->state});
    qpi_gate_init(&m->gate, b);
}

/* lambda's real and imaginary parts and gamma, [3, N]; in f64: powers of lambda are taken. */
static qp_tensor ring(const void *self) {
    const lru *m = self;
    qp_tensor  size = qp_exp(qp_neg(qp_exp(qp_cast(m->nu_log, QP_F64)))),
               angle = qp_exp(qp_cast(m->theta_log, QP_F64)), gamma = qp_exp(qp_cast(m->gamma_log, QP_F64));
    qp_tensor  rows[] = {qp_mul(size, qp_cos(angle)), qp_mul(size, qp_sin(angle)), gamma};
    return qp_reshape(qp_concat(3, rows, 0), 2, (int64_t[]){3, m->state});
}

static qp_tensor states(const lru *m, qp_tensor x, qp_tensor ring, qp_tensor h0) {
    qp_tensor u = qp_nn_linear_forward(m->b, x, QP_ACT_NONE, QP_NONE), parts[2];
    qp_split(qpi_like(ring, u), 0, 2, (int64_t[]){2, 1}, parts);
    u = qp_reshape(u, 4, (int64_t[]){qp_size(x, 0), qp_size(x, 1), 2, m->state});
    return qp_diagonal_scan(qp_mul(u, parts[1]), parts[0], h0);
}

static qp_tensor finish(const lru *m, qp_tensor h, qp_tensor x, qp_tensor residual) {
    qp_tensor both = qp_reshape(h, 3, (int64_t[]){qp_size(x, 0), qp_size(x, 1), 2 * m->state});
    return qpi_gate_forward(&m->gate, qp_nn_linear_forward(m->c, both, QP_ACT_NONE, QP_NONE), x, residual);
}

static qp_tensor forward(void *self, qp_tensor x, qp_tensor residual, const qp_sequence *s) {
    qpi_one_segment(s, "lru");
    return finish(self, states(self, x, ring(self), QP_NONE), x, residual);
}

static void reserve(void *self, qp_ctx *ctx, int64_t rows, int64_t positions, qp_state *state) {
    lru *m = self;
    (void)positions;
    qpi_kept_value(&m->ring, ring, m);
    qp_state_add(state, ctx, false, 3, (int64_t[]){rows, 2, m->state});
}

static qp_tensor step(void *self, qp_tensor x, qp_tensor residual, const qp_sequence *s, qp_state *state) {
    lru      *m = self;
    qp_tensor h = states(m, x, qpi_kept_value(&m->ring, ring, m), state->tensors[0]);
    int64_t   T = qp_size(x, 1);
    (void)s;
    if (T)
        qp_state_set(state, 0,
                     qp_reshape(qp_slice(h, 1, T - 1, T, 1), 3, (int64_t[]){qp_size(x, 0), 2, m->state}));
    return finish(m, h, x, residual);
}

QP_MIXER(lru) = {.part = {.name = "lru",
                          .source = "arXiv:2303.06349",
                          .help = "a complex diagonal recurrence between dense products",
                          .options = options,
                          .bytes = sizeof(lru)},
                 .causal = qpi_state_space_causal,
                 .init = init,
                 .forward = forward,
                 .reserve = reserve,
                 .step = step};
