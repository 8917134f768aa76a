/* What module.c, state_dict.c and linear.c share. */
#ifndef QUIPU_NN_MODULE_H
#define QUIPU_NN_MODULE_H

#include "core/core.h"
#include "quipu/part.h"

typedef struct {
    char     *name, *init; /* init NULL: not drawn */
    qp_tensor tensor;
    bool      buffer, tied, unsaved; /* unsaved: has no name and is in no list */
    qp_rates  rates;
    double    gain; /* what is drawn is multiplied by; 0: 1 */
} qpi_own_entry;

typedef struct qpi_held {
    struct qpi_held *next;
    void            *thing;
    void (*release)(void *thing);
} qpi_held;

struct qp_module {
    qp_ctx          *ctx;
    qpi_owned       *owned; /* of a root */
    qp_module       *parent, **children;
    uint32_t        *hashes; /* of the children's names */
    char            *name;
    qpi_own_entry   *entries;
    int              child_count, entry_count;
    bool             training, model; /* model: the root of one, which closes it */
    qp_nn_linear    *linear;          /* if it is that of one */
    qp_nn_embedding *embedding;
    qpi_held        *held;           /* by qp_module_own, last first */
    qp_entry        *state, *params; /* lists, made when asked for */
    int              state_count;
    bool             stale;
    char           **names; /* full names of state */
};

/* Longest full name, its end included. */
#define QPI_MAX_NAME 256

/* Has the parameter elements yet? */
bool qpi_has_elements(qp_tensor p);

/* Of the memory that the parameters below m have and of what was written to it: another number when they change. */
uint64_t qpi_module_stamp(const qp_module *m);

/* p's elements become those of value, converted to p's type: in place, or in fresh memory where p
 * has none yet. */
qp_status qpi_param_copy(qp_tensor p, qp_tensor value);

/* Gives the parameters below m the gains and rates by which they differ from those of base, a module of the same
 * parts at another width (parametrization.c). False after storing an error. */
bool qpi_parametrize(qp_module *m, const qp_module *base, const qp_parametrization_type *type);

/* What the standard deviation of an initialisation owes to t's shape; 1: nothing. */
double qpi_init_deviation(qp_tensor t, const char *spec);

void qpi_module_free_lists(qp_module *m);
void qpi_linear_free(qp_nn_linear *l);

#endif
