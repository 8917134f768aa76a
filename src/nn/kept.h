/* What a part makes of its parameters alone and reads at every step: made when it is first asked for, again when the
 * parameters have changed. Whole sequences make their own, through which gradients flow. */
#ifndef QUIPU_NN_KEPT_H
#define QUIPU_NN_KEPT_H

#include "nn/part.h"

typedef struct {
    const qp_module *module;
    qp_tensor        value;
    uint64_t         stamp; /* of the parameters that it was made of */
} qpi_kept;

/* Room for a tensor of the parameters' type. */
void qpi_kept_init(qpi_kept *k, qp_build *b, int ndim, const int64_t *shape);

/* The tensor; make gives it, of any type of floats. */
qp_tensor qpi_kept_value(qpi_kept *k, qp_tensor (*make)(const void *self), const void *self);

#endif
