#ifndef QUIPU_CORE_HANDLES_H
#define QUIPU_CORE_HANDLES_H

#include "core/core.h"

/* Releases every tensor, kept ones too, so that attached memory is given back. */
void qpi_handles_close(qp_ctx *ctx);

#endif
