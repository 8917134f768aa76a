/* orthogonal:GAIN (Saxe et al. 2013, arXiv:1312.6120): rows of a weight [O, I], or columns where there are
 * fewer of these, that are orthogonal and GAIN long; every such matrix is as likely as every other. It is
 * the orthogonal factor U of the polar decomposition G = U P of a normal G, found by Newton's iteration
 * X <- X (3 - X^T X) / 2, which brings all singular values of X between 0 and sqrt(3) to 1 (Higham 1986,
 * "Computing the polar decomposition"). Axes behind the first count as one. */
#include <math.h>

#include "core/core.h"
#include "nn/part.h"

#define MOST 200 /* rounds; each takes the smallest singular value up by half of itself */

static double norm_of(qp_tensor x) { return sqrt(qp_item(qp_sum(qp_square(x), 0, NULL, false))); }

static qp_tensor polar(qp_tensor x) {
    int64_t n = qp_size(x, 0);
    x = qp_affine(x, 1 / norm_of(x), 0);
    for (int i = 0; i < MOST && !qp_failed(x.ctx); i++) {
        qp_scope  s = qp_enter(x.ctx);
        qp_tensor gram = qp_matmul(x, qp_transpose(x, 0, 1));
        qp_tensor next = qp_sub(qp_affine(x, 1.5, 0), qp_affine(qp_matmul(gram, x), 0.5, 0));
        bool      done = norm_of(qp_sub(next, x)) < 1e-6 * sqrt((double)n);
        x = qp_return(s, next);
        if (done) break;
    }
    return x;
}

static void fill(qp_tensor t, double gain) {
    int64_t shape[QP_MAX_DIMS];
    for (int i = 0; i < qp_ndim(t); i++) shape[i] = qp_size(t, i);
    if (qp_ndim(t) < 2) {
        qp_fail(t.ctx, QP_ERR_SHAPE, "init orthogonal: the tensor has %d axes, expected at least 2",
                qp_ndim(t));
        return;
    }
    if (!qp_count(t)) return;
    int64_t   rows = shape[0], columns = qp_count(t) / rows, low = rows < columns ? rows : columns;
    qp_tensor x = polar(qp_randn(t.ctx, QP_F32, 2, (int64_t[]){low, rows + columns - low}));
    if (rows > columns) x = qp_transpose(x, 0, 1);
    qp_copy_to(t, qp_reshape(qp_affine(x, gain == 0 ? 1 : gain, 0), qp_ndim(t), shape));
}

static double deviation(qp_tensor t) {
    double rows = (double)qp_size(t, 0), columns = (double)qp_count(t) / fmax(rows, 1);
    return 1 / sqrt(fmax(fmax(rows, columns), 1));
}

QP_INIT(orthogonal) = {.part = {.name = "orthogonal",
                                .source = "arXiv:1312.6120",
                                .help = "orthogonal:GAIN, rows or columns that are orthogonal and GAIN long"},
                       .fill = fill,
                       .deviation = deviation};
