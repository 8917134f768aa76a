/* What mixtures of experts have in common (nn/ffn: switch, mixtral, deepseek_moe): a router's product, the
 * experts' weights, and their products without padding. Each part decides who is chosen, and with what weight. */
#ifndef QUIPU_NN_EXPERTS_H
#define QUIPU_NN_EXPERTS_H

#include "nn/part.h"

typedef struct {
    qp_module    *module;
    int64_t       count, chosen;  /* E; k of them for each token */
    double        balance, z;     /* coefficients of the losses; 0: none */
    qp_nn_linear *router;         /* [E, D] */
    qp_tensor     gate, up, down; /* [E, F, D], [E, F, D], [E, D, F]; gate QP_NONE: relu between up and down */
} qpi_experts;

/* What a router decided, for N tokens. */
typedef struct {
    qp_tensor index, weight; /* [N, k] */
    int64_t   capacity;      /* tokens that an expert takes; 0: all */
} qpi_routing;

#define QPI_EXPERT_OPTIONS(chosen_, highest) \
    {.name = "experts", \
     .kind = QP_OPTION_INT, \
     .fallback = 8, \
     .low = 1, \
     .high = 65536, \
     .help = "E, how many there are"}, \
        {.name = "per_token", \
         .kind = QP_OPTION_INT, \
         .fallback = chosen_, \
         .low = 1, \
         .high = highest, \
         .help = "k, experts for each token"}, \
        {.name = "width", \
         .kind = QP_OPTION_INT, \
         .fallback = 0, \
         .high = 1e9, \
         .help = "F, inner width of an expert; 0: 8 D / 3, a multiple of 32"}
#define QPI_BALANCE_OPTION \
    {.name = "balance", \
     .kind = QP_OPTION_NUMBER, \
     .fallback = 0.01, \
     .high = 1e3, \
     .help = "coefficient of the loss that wants equal loads, over the layers; 0: none"}, \
        {.name = "z_loss", \
         .kind = QP_OPTION_NUMBER, \
         .high = 1e3, \
         .help = "coefficient of the loss that wants small logits (arXiv:2202.08906: 0.001); 0: none"}

/* From the options `experts`, `per_token` and `width`, and `balance` and `z_loss` where the part has them. */
void qpi_experts_init(qpi_experts *e, qp_build *b, bool gated);

/* F. */
int64_t qpi_experts_width(const qp_build *b);

/* x [N, D] -> logits [N, E], in f32 whatever autocast says. */
qp_tensor qpi_experts_logits(const qpi_experts *e, qp_tensor x);

/* Tokens that each expert is given, f32 [E], before any capacity. */
qp_tensor qpi_experts_load(const qpi_experts *e, qp_tensor index);

/* Adds in training
 *   aux.balance  E sum_e f_e P_e, f the share of tokens that are given to e, P the mean of its probability; 1 where all
 *                are equal and k is 1 (arXiv:2101.03961, equations 4 to 6)
 *   aux.z_loss   the mean over tokens of log^2 sum_e exp(logit_e) (ST-MoE, arXiv:2202.08906, equation 5) */
void qpi_experts_losses(const qpi_experts *e, qp_tensor logits, qp_tensor index, const qp_sequence *s);

/* x [N, D] -> sum over the chosen of weight times expert(x), + residual. Adds stat.load and stat.dropped. */
qp_tensor qpi_experts_forward(const qpi_experts *e, qp_tensor x, qpi_routing r, qp_tensor residual,
                              const qp_sequence *s);

/* [B, T, D] as [N, D]; QP_NONE stays. And back, to like's shape. */
qp_tensor qpi_experts_rows(qp_tensor x);
qp_tensor qpi_experts_back(qp_tensor y, qp_tensor like);

#endif
