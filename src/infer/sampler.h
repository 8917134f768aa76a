#ifndef QUIPU_INFER_SAMPLER_H
#define QUIPU_INFER_SAMPLER_H

#include "core/core.h"
#include "quipu/infer.h"

/* Which option is out of its range; NULL: none is. */
const char *qpi_sampling_wrong(int64_t n, const qp_sampling *o);

#endif
