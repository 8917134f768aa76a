#ifndef QUIPU_TRAIN_STATE_H
#define QUIPU_TRAIN_STATE_H

#include "core/core.h"

/* Has a training in this folder left a state? (Also false after storing an error.) */
bool qpi_state_exists(qp_ctx *ctx, const char *out);

#endif
