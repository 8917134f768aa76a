/* What attention is, in double precision: ops/attention.c has the formulas. */
#ifndef QUIPU_OPS_ATTENTION_PLAIN_H
#define QUIPU_OPS_ATTENTION_PLAIN_H

#include "kernels/attention.h"

/* Fill p's out, lse and sums; add to d's gradients. cap: of scores, 0: none. score: room for S + C numbers. */
void qpo_attention_plain(const qk_attention *p, double scale, double cap, double *score);
void qpo_attention_plain_grad(const qk_attention_grad *d, double scale, double cap, double *score);

#endif
