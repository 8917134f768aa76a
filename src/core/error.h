/* An error record for code that has no context at hand (formats, tokenizers, threads). The
 * first failure stays. A context holds one. */
#ifndef QUIPU_CORE_ERROR_H
#define QUIPU_CORE_ERROR_H

#include "quipu/core.h"

typedef struct {
    qp_code code;
    char    text[504];
} qpi_error;

/* Stores code and text unless a failure is stored already; returns code. e may be NULL. */
qp_status qpi_fail(qpi_error *e, qp_code code, const char *format, ...) QP_PRINTF(3, 4);

#endif
