/* Speculative sampling (Leviathan et al. 2023, arXiv:2211.17192; Chen et al. 2023, arXiv:2302.01318): a guess
 * x that was drawn from q stays with probability min(1, p(x) / q(x)), and where it does not, p becomes what q
 * has too little of, max(0, p - q) to the sum of 1. So the text has the model's distribution, though it is
 * another text than without a drafter, and a guess stays with 1 - |p - q| / 2, more than its own probability.
 *
 * Siblings are tried one after the other, each against what is left of p (Miao et al. 2023, arXiv:2305.09781).
 * They were drawn without putting back, so behind each q lacks it (Jeon et al. 2024, arXiv:2402.14160). A
 * guess that is not drawn has q(x) = 1. */
#include <string.h>

#include "infer/accept.h"

static double sum_of(const float *p, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += p[i];
    return sum;
}

/* q as it was when x was drawn, siblings taken out: its sum. */
static double open_guess(float *q, const qpi_chances *from, int64_t V) {
    memset(q, 0, (size_t)V * sizeof *q);
    for (int64_t i = 0; i < from->count; i++) q[from->ids ? from->ids[i] : i] = from->p[i];
    return sum_of(q, V);
}

/* x has been refused: p, of sum *left, is what q (over `mass`) has too little of. */
static void refuse(float *p, const float *q, double mass, double *left, int32_t x, int64_t V) {
    for (int64_t i = 0; i < V && q; i++) {
        double rest = p[i] / *left - q[i] / mass;
        p[i] = rest > 0 ? (float)rest : 0;
    }
    if (!q) p[x] = 0;
    *left = sum_of(p, V);
}

static int32_t next(qpi_verdict *v, int node) {
    const qpi_tree    *t = v->tree;
    const qpi_chances *from = NULL;
    int64_t            V = v->vocabulary;
    float             *p = v->p, *q = v->p + V;
    double             mass = 1, left;
    qpi_sampler_chances(v->sampler, v->logits + node * V, p);
    left = sum_of(p, V);
    for (int k = node + 1; k < t->count; k++) {
        if (t->parents[k] != node) continue;
        int32_t x = t->ids[k];
        if (t->from[k] && t->from[k] != from) mass = open_guess(q, t->from[k], V);
        from = t->from[k];
        double chance = p[x] / left, guess = from ? q[x] / mass : 1;
        if (qpi_sampler_uniform(v->sampler) * guess < chance) return qpi_sampler_take(v->sampler, x);
        refuse(p, from ? q : NULL, mass, &left, x, V);
        if (!(left > 0)) return qpi_sampler_take(v->sampler, x); /* p is q, but for rounding */
        if (!from) continue;
        mass -= q[x];
        q[x] = 0;
    }
    return qpi_sampler_take(v->sampler, qpi_sampler_pick(v->sampler, p));
}

QP_ACCEPT(rejection) = {.name = "rejection", .next = next, .room = true, .draws = true};
