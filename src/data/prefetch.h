/* The queue between the thread that prepares batches and the one that takes them. A slot is
 * the memory of one batch; it goes round: free, being filled, ready, out in tensors, free. */
#ifndef QUIPU_DATA_PREFETCH_H
#define QUIPU_DATA_PREFETCH_H

#include <pthread.h>

#include "core/error.h"

typedef struct qpi_slot_memory {
    struct qpi_slot_memory *next;
    struct qpi_queue       *queue;
    int                     refs;    /* tensors that use it, under the queue's lock */
    const char             *failure; /* what fill said */
    uint8_t                *data;
} qpi_batch_slot;

typedef struct qpi_queue qpi_queue;

/* Fills data with the batch at a position; NULL or a text that says what went wrong. */
typedef const char *qpi_fill_fn(void *arg, uint64_t position, uint8_t *data);

/* ahead 0: no thread, batches are filled when they are asked for. */
qpi_queue *qpi_queue_new(size_t slot_bytes, int ahead, qpi_fill_fn *fill, void *arg, qpi_error *e);
/* Ends the thread. Slots that are out stay valid and are freed when they come back. */
void qpi_queue_close(qpi_queue *q);

/* The batch at the queue's position, which advances; NULL after storing an error. The caller
 * holds one reference. */
qpi_batch_slot *qpi_queue_next(qpi_queue *q, qpi_error *e);
void qpi_queue_seek(qpi_queue *q, uint64_t position);

void qpi_slot_retain(qpi_batch_slot *s);
void qpi_slot_drop(void *slot); /* fits a release callback */

#endif
