/* What the files of src/infer/drafters share. A drafter fills trees: node 0 is the token that was drawn
 * last and that the model has yet to read; each other node is a guess of what follows its parent. */
#ifndef QUIPU_INFER_DRAFTER_H
#define QUIPU_INFER_DRAFTER_H

#include "infer/session.h"
#include "quipu/infer.h"

/* Probabilities of `count` tokens: ids, NULL: 0, 1, .. */
typedef struct {
    const float   *p;
    const int32_t *ids;
    int64_t        count;
} qpi_chances;

typedef struct {
    int64_t row;
    int     count, limit; /* nodes; at most */
    int32_t ids[QPI_MAX_DRAFTS];
    int64_t parents[QPI_MAX_DRAFTS];
    /* What a node was drawn from, siblings from the same one after the other without putting back, the drafter's
     * until its next call; NULL: it was not drawn. Whether there is a further sibling or child may depend on
     * what was drawn before, not on its own token. */
    const qpi_chances *from[QPI_MAX_DRAFTS];
    qp_sampler        *sampler; /* guesses may be drawn with it; NULL: they may not */
} qpi_tree;

typedef struct {
    const char *name;
    /* Adds nodes to n trees, of different rows. The row's text is what the target session holds, and
     * then node 0. A failure is stored. */
    void (*draft)(qp_drafter *d, int n, qpi_tree *const *trees);
    /* The target has read `count` positions of a row, up to its present length: hidden [count, D] is the
     * last norm's output at them. NULL: it does not matter. */
    void (*read)(qp_drafter *d, int64_t row, int64_t count, qp_tensor hidden);
    void (*close)(qp_drafter *d);   /* before destroy, unless the context goes: what is the context's */
    void (*destroy)(qp_drafter *d); /* its memory */
} qpi_drafter_type;

/* The first member of each drafter. */
struct qp_drafter {
    const qpi_drafter_type *type;
    qp_session             *target;
    qp_drafter_options      options;
    qpi_owned              *owned;
    float                  *p;    /* [rows, depth, count]: what guesses were drawn from */
    qpi_chances            *from; /* [rows, depth], these */
};

/* A drafter of `bytes`, zeroed behind its first member. NULL after storing an error. */
void *qpi_drafter_new(const qpi_drafter_type *type, size_t bytes, qp_session *target,
                      qp_drafter_options options);

/* Room for `depth` distributions of each row, each over `count` tokens (ids, NULL: 0, 1, ..); kept from the first
 * call on, which all others are like. False: no memory, stored. */
bool qpi_drafter_room(qp_drafter *d, int64_t depth, int64_t count, const int32_t *ids);
/* The token that each tree is to go on with by its row of logits [n, V] at depth k: the likeliest, or one drawn
 * with its sampler, and *from, what from. What is not wanted (NULL: all is) gets the likeliest. */
bool qpi_drafter_guess(qp_drafter *d, int n, qpi_tree *const *trees, int64_t k, int64_t depth, qp_tensor logits,
                       const int64_t *wanted, int32_t *ids, const qpi_chances **from);

/* Adds a node; false: the tree is full. */
bool qpi_tree_add(qpi_tree *t, int32_t id, int64_t parent);
bool qpi_tree_add_drawn(qpi_tree *t, int32_t id, int64_t parent, const qpi_chances *from);

#endif
