/* The thread pool. qp_parallel (quipu/op.h) runs on it. */
#ifndef QUIPU_CORE_THREADS_H
#define QUIPU_CORE_THREADS_H

#include "quipu/op.h"

/* A pool of `threads` workers, the caller being one. NULL when memory or threads fail;
 * fewer threads than asked for is not a failure. */
qp_pool *qpi_pool_new(int threads);
void qpi_pool_free(qp_pool *pool);
int qpi_pool_threads(const qp_pool *pool);

#endif
