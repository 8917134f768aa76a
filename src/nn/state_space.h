/* What S4 and S4D have in common: each channel of x [B, T, D] passes a linear state space of its own,
 *
 *   dh/dt = A h + B x     y = 2 Re(C h) + d x,
 *
 * made discrete with a step dt. Whole sequences are convolved with what it answers to an impulse, steps carry h; then
 * y -> gelu(y) w^T, or with `glu` twice as wide and one half gating the other. A is diagonal (N complex poles, each
 * standing for itself and its conjugate), for S4 less P P^*, of rank 1 or 2. */
#ifndef QUIPU_NN_STATE_SPACE_H
#define QUIPU_NN_STATE_SPACE_H

#include "nn/kept.h"

typedef struct {
    qp_tensor re, im;
} qpi_complex;

qpi_complex qpi_complex_mul(qpi_complex a, qpi_complex b);
qpi_complex qpi_complex_inverse(qpi_complex a);

/* A parameter whose elements are these at first. */
qp_tensor qpi_param_of(qp_build *b, const char *name, int ndim, const int64_t *shape, const double *v);

/* What follows a state space: y + skip x -> gelu -> the product, gated where it is twice as wide -> + residual. */
typedef struct {
    int64_t       width;
    bool          glu;
    qp_tensor     skip; /* [D] */
    qp_nn_linear *out;
} qpi_gate;
void qpi_gate_init(qpi_gate *g, qp_build *b);
qp_tensor qpi_gate_forward(const qpi_gate *g, qp_tensor y, qp_tensor x, qp_tensor residual);

/* Initial values of N poles; n-th pole of a channel. b [N] and p [2, N]: zeros where there are none. */
typedef struct {
    double *re, *im, *b_re, *b_im, *p_re, *p_im;
} qpi_pole_values;

typedef struct {
    int64_t   width, poles; /* D, N */
    int       rank;         /* of P; 0: diagonal */
    bool      bilinear;
    qp_tensor log_dt;                                   /* [D] */
    qp_tensor log_real, imag;                           /* [D, N]: the poles are -exp(log_real) + i imag */
    qp_tensor c_re, c_im, b_re, b_im, p_re[2], p_im[2]; /* [D, N]; b and p of S4 only */
    qpi_kept  planes;                                   /* of the step */
    qpi_gate  gate;
} qpi_state_space;

#define QPI_GATE_OPTION \
    {.name = "glu", \
     .kind = QP_OPTION_BOOL, \
     .fallback = 1, \
     .high = 1, \
     .help = "the output is twice as wide, one half gates the other"}

/* Options that both have; N = state / 2. Poles are found in a time that grows with the cube of the state: 256 take a
 * second. The authors' rates: 0.001 where the rest has 0.004, no weight decay. */
#define QPI_STATE_SPACE_OPTIONS \
    QPI_GATE_OPTION, \
        OPTION_NUMBER("rate", 1, 1e-6, 1e6, "learning rate of poles, B, P and steps, times that of the rest"), \
        {.name = "state", \
         .kind = QP_OPTION_INT, \
         .fallback = 64, \
         .low = 2, \
         .high = 256, \
         .help = "real numbers in a channel's state, even"}, \
        {.name = "dt_min", \
         .kind = QP_OPTION_NUMBER, \
         .fallback = 1e-3, \
         .low = 1e-9, \
         .high = 0.1, \
         .help = "steps are drawn from here.."}, \
        {.name = "dt_max", \
         .kind = QP_OPTION_NUMBER, \
         .fallback = 0.1, \
         .low = 1e-9, \
         .high = 0.2, \
         .help = "..to here, evenly on a logarithmic scale"}

/* fill gives the poles' values; false: no memory. */
void qpi_state_space_init(qpi_state_space *s, qp_build                               *b,
                          bool (*fill)(int64_t N, int choice, qpi_pole_values v), int choice);

qp_tensor qpi_state_space_forward(void *self, qp_tensor x, qp_tensor residual, const qp_sequence *s);
void qpi_state_space_reserve(void *self, qp_ctx *ctx, int64_t rows, int64_t positions, qp_state *state);
qp_tensor qpi_state_space_step(void *self, qp_tensor x, qp_tensor residual, const qp_sequence *s,
                               qp_state *state);
bool qpi_state_space_causal(const void *self);

#endif
