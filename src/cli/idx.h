/* IDX files, as MNIST's are (LeCun, Cortes & Burges): 0 0 TYPE AXES, the sizes, then the elements, all
 * big-endian. Only those of bytes are read, the type of all such images and labels. */
#ifndef QUIPU_CLI_IDX_H
#define QUIPU_CLI_IDX_H

#include "core/error.h"
#include "format/reader.h"

#define IDX_MAX_AXES 4

typedef struct {
    int            axes;
    int64_t        size[IDX_MAX_AXES];
    const uint8_t *data; /* of the bytes that were read */
    int64_t        count;
} idx;

/* False after storing an error that begins with name. */
bool idx_read(idx *x, const char *name, const uint8_t *bytes, size_t size, qpi_error *e);

#endif
