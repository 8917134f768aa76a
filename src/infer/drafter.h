/* What the files of src/infer/drafters share. A drafter fills trees: node 0 is the token that was drawn
 * last and that the model has yet to read; each other node is a guess of what follows its parent. */
#ifndef QUIPU_INFER_DRAFTER_H
#define QUIPU_INFER_DRAFTER_H

#include "infer/session.h"
#include "quipu/infer.h"

typedef struct {
    int64_t row;
    int     count, limit; /* nodes; at most */
    int32_t ids[QPI_MAX_DRAFTS];
    int64_t parents[QPI_MAX_DRAFTS];
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
};

/* A drafter of `bytes`, zeroed behind its first member. NULL after storing an error. */
void *qpi_drafter_new(const qpi_drafter_type *type, size_t bytes, qp_session *target, qp_drafter_options options);

/* Adds a node; false: the tree is full. */
bool qpi_tree_add(qpi_tree *t, int32_t id, int64_t parent);

#endif
