/* truncated_normal:STD, a normal distribution of mean 0 of which only what lies within two standard
 * deviations is drawn: STD times the inverse of the distribution function, at a uniform place between
 * its values at -2 and 2. STD is that of the distribution before it is cut. */
#include <math.h>

#include "core/core.h"
#include "nn/part.h"

#define WITHIN 0.95449973610364158 /* erf(2 / sqrt(2)) */

/* The inverse of erf for |x| <= WITHIN: a polynomial in w = -log(1 - x^2), which is below 5 there (Giles
 * 2010, "Approximating the erfinv function", table 1; relative error below 4e-7). */
static double inverse_erf(double x) {
    static const double c[] = {2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087,
                               -0.00125372503, -0.00417768164, 0.246640727,    1.50140941};
    double              w = -log1p(-x * x) - 2.5, p = 0;
    for (int i = 0; i < 9; i++) p = p * w + c[i];
    return p * x;
}

static void fill(qp_tensor t, double std) {
    int64_t shape[QP_MAX_DIMS], n = qp_count(t);
    for (int i = 0; i < qp_ndim(t); i++) shape[i] = qp_size(t, i);
    qp_tensor drawn = qp_rand(t.ctx, QP_F32, qp_ndim(t), shape);
    float    *x = qp_data_write(drawn);
    for (int64_t i = 0; x && i < n; i++) x[i] = (float)(std * M_SQRT2 * inverse_erf((2 * x[i] - 1) * WITHIN));
    qp_copy_to(t, drawn);
}

QP_INIT(truncated_normal) = {.part = {.name = "truncated_normal",
                                      .source = "torch.nn.init.trunc_normal_",
                                      .help = "truncated_normal:STD, mean 0, cut at two deviations"},
                             .fill = fill};
