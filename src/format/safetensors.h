/* What safetensors' reader and writer share. */
#ifndef QUIPU_FORMAT_SAFETENSORS_H
#define QUIPU_FORMAT_SAFETENSORS_H

#include "core/error.h"

#define QPI_SAFETENSORS_HEADER UINT64_C(100000000) /* most bytes of header, as elsewhere */

typedef struct {
    const char *name;
    int         bits;  /* of one element */
    int         dtype; /* qp_dtype, -1: not one of ours */
} qpi_safetensors_type;

/* NULL for a name that the format does not know. */
const qpi_safetensors_type *qpi_safetensors_type_find(const char *name);

#endif
