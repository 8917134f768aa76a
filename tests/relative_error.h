/* How far a result is from what it should be. */
#ifndef TESTS_RELATIVE_ERROR_H
#define TESTS_RELATIVE_ERROR_H

#include <math.h>
#include <stdlib.h>

#include "quipu/quipu.h"

/* max|a - b| / max|b|; infinite where a is no number. For cmocka's tests. */
static inline double relative_error(qp_tensor a, qp_tensor b) {
    int64_t n = qp_count(b);
    double *x = calloc((size_t)(2 * n + 1), sizeof *x), most = 0, scale = 0;
    assert_non_null(x);
    assert_int_equal(qp_count(a), n);
    if (qp_read(a, QP_F64, x, n) != QP_OK || qp_read(b, QP_F64, x + n, n) != QP_OK)
        fail_msg("%s", qp_error(a.ctx));
    for (int64_t i = 0; i < n; i++) {
        most = fmax(most, isfinite(x[i]) ? fabs(x[i] - x[n + i]) : INFINITY);
        scale = fmax(scale, fabs(x[n + i]));
    }
    free(x);
    return most / scale;
}

#endif
