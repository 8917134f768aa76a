/* Weights [O, I] whose variance follows from their fans, in = I and out = O (with further axes: times
 * their sizes), so that activations or gradients keep their scale from layer to layer:
 *
 *   xavier   2 / (in + out)   both, for a linear layer   (Glorot & Bengio 2010, eq. 16)
 *   kaiming  2 / in           activations, behind relu   (He et al. 2015, arXiv:1502.01852, eq. 10)
 *   lecun    1 / in           activations                (LeCun et al. 1998, "Efficient BackProp", eq. 16)
 *
 * drawn from a uniform distribution, a normal one, or a normal one cut at two standard deviations. The
 * argument is a gain, which the standard deviation is multiplied with; without one it is 1.
 */
#include <math.h>
#include <stdio.h>

#include "core/core.h"
#include "nn/part.h"

/* What is left of a normal distribution's standard deviation when it is cut at 2 of them. */
#define CUT 0.87962566103423978

static bool fans(qp_tensor t, double *in, double *out) {
    if (qp_ndim(t) < 2)
        return !qp_fail(t.ctx, QP_ERR_SHAPE, "init: a tensor with %d axes has no fans, expected at least 2",
                        qp_ndim(t));
    double field = (double)qp_count(t) / (double)(qp_size(t, 0) * qp_size(t, 1));
    *in = (double)qp_size(t, 1) * field;
    *out = (double)qp_size(t, 0) * field;
    return true;
}

static void draw(qp_tensor t, const char *name, double argument) {
    char spec[64];
    snprintf(spec, sizeof spec, "%s:%.17g", name, argument);
    qp_init(t, spec);
}

static void uniform(qp_tensor t, double deviation) { draw(t, "uniform", sqrt(3) * deviation); }
static void normal(qp_tensor t, double deviation) { draw(t, "normal", deviation); }
static void truncated(qp_tensor t, double deviation) { draw(t, "truncated_normal", deviation / CUT); }

#define FILL(family, drawn) \
    static void family##_##drawn(qp_tensor t, double gain) { \
        double deviation = family(t); \
        if (deviation > 0) drawn(t, (gain == 0 ? 1 : gain) * deviation); \
    }
#define FILLS(family, variance) \
    static double family(qp_tensor t) { \
        double in, out; \
        return qp_count(t) && fans(t, &in, &out) ? sqrt(variance) : 0; \
    } \
    FILL(family, uniform) \
    FILL(family, normal) \
    FILL(family, truncated)
FILLS(xavier, 2 / (in + out))
FILLS(kaiming, 2 / in)
FILLS(lecun, 1 / in)

#define PART(where, rule, family, drawn) \
    {.part = {.name = #family "_" #drawn, .source = where, .help = "variance " rule ", or :GAIN"}, \
     .fill = family##_##drawn, \
     .deviation = family}
#define XAVIER(drawn) PART("Glorot & Bengio 2010", "2 / (in + out)", xavier, drawn)
#define KAIMING(drawn) PART("arXiv:1502.01852", "2 / in", kaiming, drawn)
#define LECUN(drawn) PART("LeCun et al. 1998", "1 / in", lecun, drawn)

QP_INIT(xavier_uniform) = XAVIER(uniform);
QP_INIT(xavier_normal) = XAVIER(normal);
QP_INIT(xavier_truncated) = XAVIER(truncated);
QP_INIT(kaiming_uniform) = KAIMING(uniform);
QP_INIT(kaiming_normal) = KAIMING(normal);
QP_INIT(kaiming_truncated) = KAIMING(truncated);
QP_INIT(lecun_uniform) = LECUN(uniform);
QP_INIT(lecun_normal) = LECUN(normal);
QP_INIT(lecun_truncated) = LECUN(truncated);
