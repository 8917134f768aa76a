/* A row's state as a file: the tensors of its positions, its tokens, and what model they are of. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "infer/session.h"
#include "quipu/format.h"

qp_status qp_session_save(qp_session *s, int64_t row, const char *path) {
    (void)row; (void)path;
    return qp_fail(s->m->ctx, QP_ERR_UNSUPPORTED, "not yet");
}
qp_status qp_session_load(qp_session *s, int64_t row, const char *path) {
    (void)row; (void)path;
    return qp_fail(s->m->ctx, QP_ERR_UNSUPPORTED, "not yet");
}
