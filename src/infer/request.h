/* A request to the engine: what the host asked for, copied, and how far it is. */
#ifndef QUIPU_INFER_REQUEST_H
#define QUIPU_INFER_REQUEST_H

#include <stdatomic.h>

#include "infer/decode.h"

typedef struct qpi_request {
    struct qpi_request *next; /* in the queue */
    uint64_t            number;
    qp_request          of; /* what it points to is the request's own */
    _Atomic bool        cancelled;
    qpi_reply           reply;
    qpi_seat            seat;
} qpi_request;

/* What is wrong with a prompt of n ids, as a sentence into error; false: nothing. */
bool qpi_prompt_wrong(const int32_t *ids, int64_t n, int64_t vocabulary, char error[256]);
/* What is wrong with a request for rows of so many positions, as a sentence into error; false: nothing. */
bool qpi_request_wrong(const qp_request *r, const qp_model *m, int64_t positions, char error[256]);
/* NULL: no memory. */
qpi_request *qpi_request_new(const qp_request *r);
void qpi_request_free(qpi_request *r);

#endif
