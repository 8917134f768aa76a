/* What becomes of a drafter's tree: which token follows a node, given the model's logits there. If it is that
 * of a child, the walk goes on from the child. The rules are the files of src/infer/acceptance. */
#ifndef QUIPU_INFER_ACCEPT_H
#define QUIPU_INFER_ACCEPT_H

#include "infer/drafter.h"
#include "infer/sampler.h"

typedef struct {
    qp_sampler     *sampler;
    const qpi_tree *tree;
    float          *logits; /* [nodes, V], as the model gave them; a rule may overwrite those of its node */
    float          *p;      /* [2, V], for the rule */
    int64_t         vocabulary;
    uint64_t        along; /* typical: bit k: node k is on the path that was chosen at the root */
} qpi_verdict;

typedef struct {
    const char *name;
    /* The token behind a node; the sampler counts it as drawn. Nodes come as they are walked, the root first. */
    int32_t (*next)(qpi_verdict *v, int node);
    bool room;  /* it needs p */
    bool draws; /* drafters may draw their guesses, and say from what */
} qpi_acceptance;

#define QP_ACCEPT(id) const qpi_acceptance qpi_accept_##id

/* NULL means "match"; NULL is the answer if there is no such rule. */
const qpi_acceptance *qpi_acceptance_of(const char *name);

#endif
