/* Unicode normalisation before tokenising. */
#ifndef QUIPU_DATA_NORMALIZE_H
#define QUIPU_DATA_NORMALIZE_H

#include "core/error.h"
#include "format/buffer.h"

typedef enum { QPI_NFC = 1, QPI_NFD, QPI_NFKC, QPI_NFKD } qpi_normal_form;

#define QPI_MAX_FORMS 4

typedef struct { /* forms applied one after the other */
    qpi_normal_form forms[QPI_MAX_FORMS];
    int             count;
} qpi_normalizer;

/* The normalised text: text itself if nothing changes, otherwise out's bytes. Bytes that are
 * not UTF-8 stay as they are. False: no memory. */
bool qpi_normalize(const qpi_normalizer *z, const uint8_t **text, size_t *n, qpi_buffer *out);

#endif
