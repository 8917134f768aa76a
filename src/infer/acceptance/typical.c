/* Typical acceptance (Cai et al. 2024, arXiv:2401.10774, section 2.3.1; after Hewitt et al. 2022,
 * arXiv:2210.15191): a guess x stays if it is not improbable where the model is sure,
 *
 *   p(x) > min(epsilon, delta e^(-H(p))),   H the entropy of p
 *
 * and of all paths of such guesses the longest stays. More is kept than by the other rules, but the text is no
 * draw from the model's distribution: it favours what was guessed. At temperature 0 it is plain decoding. */
#include <math.h>

#include "infer/accept.h"

#define EPSILON 0.09f
#define DELTA 0.3f

/* Which nodes stay, and of the paths that they form the deepest node. */
static uint64_t choose(qpi_verdict *v) {
    const qpi_tree *t = v->tree;
    int64_t         V = v->vocabulary;
    uint64_t        stays = 1, along = 0;
    int             depth[QPI_MAX_DRAFTS] = {0}, best = 0;
    for (int node = 0; node < t->count; node++) {
        double entropy = 0, sum = 0;
        bool   parent = false;
        if (!(stays >> node & 1)) continue;
        for (int k = node + 1; k < t->count; k++) parent |= t->parents[k] == node;
        if (!parent) continue;
        qpi_sampler_chances(v->sampler, v->logits + node * V, v->p);
        for (int64_t i = 0; i < V; i++) sum += v->p[i];
        for (int64_t i = 0; i < V; i++)
            if (v->p[i] > 0) entropy -= v->p[i] / sum * log(v->p[i] / sum);
        double least = fmin(EPSILON, DELTA * exp(-entropy));
        for (int k = node + 1; k < t->count; k++) {
            if (t->parents[k] != node || !(v->p[t->ids[k]] / sum > least)) continue;
            stays |= UINT64_C(1) << k;
            depth[k] = depth[node] + 1;
            if (depth[k] > depth[best]) best = k;
        }
    }
    for (int64_t k = best; k >= 0; k = t->parents[k]) along |= UINT64_C(1) << k;
    return along;
}

static int32_t next(qpi_verdict *v, int node) {
    const qpi_tree *t = v->tree;
    if (!node) v->along = choose(v);
    for (int k = node + 1; k < t->count; k++)
        if (t->parents[k] == node && v->along >> k & 1) return qpi_sampler_take(v->sampler, t->ids[k]);
    return qp_sampler_draw(v->sampler, v->logits + node * v->vocabulary);
}

QP_ACCEPT(typical) = {.name = "typical", .next = next, .room = true};
