/* What definitions of ops share. */
#include "core/core.h"

void qp_plain_map(const qp_call *call, double (*f)(const double *x, const void *attr)) {
    int64_t n = qp_view_count(&call->out[0]);
    double  x[QP_MAX_IN];
    for (int64_t i = 0; i < n; i++) {
        for (int j = 0; j < call->nin; j++)
            x[j] = call->in[j].ndim < 0 ? 0 : qp_load(&call->in[j], qp_view_offset(&call->in[j], i));
        qp_store(&call->out[0], qp_view_offset(&call->out[0], i), f(x, call->attr));
    }
}

#define UNARY_SAMPLES(kind) \
    {{.in = kind "[3,5]"}, {.in = kind "[]"},       {.in = kind "[0,4]"}, \
     {.in = kind "[1]"},   {.in = kind "[2,3,35]"}, {0}}

const qp_sample qp_unary_samples[] = UNARY_SAMPLES("x");
const qp_sample qp_unary_positive_samples[] = UNARY_SAMPLES("p");

const qp_sample qp_binary_samples[] = {{.in = "x[3,5] x[3,5]"},
                                       {.in = "x[4,1,5] x[3,1]"},
                                       {.in = "x[] x[2,3]"},
                                       {.in = "x[0,3] x[3]"},
                                       {.in = "x[67] x[67]"},
                                       {.in = "i9[5] i9[5]", .no_grad = true},
                                       {0}};
