/* Rotary positions in general (Su 2022, kexue.fm/archives/9403): what is linear in a query, continuous, and makes
 * scores depend on differences of positions alone is R(m) = exp(sum over axes a of m_a B_a) with skew B_a that
 * commute. Commuting skew matrices have a common basis,
 *
 *   B_a = Q blockdiag(f_a,i J) Q^T,   Q = exp(A - A^T),   J = [0 -1; 1 0],
 *
 * so R(m) = Q blockdiag(turn by sum over a of m_a f_a,i) Q^T, R(m)^T R(n) = R(n - m). The basis A and the
 * frequencies are learned; they begin near those of rope (of a grid: rows have the even pairs, columns the odd).
 */
#include <math.h>

#include "nn/positions/grid.h"

#define SQUARINGS 3
#define DEGREE 14 /* of the series: its error is below that of f32 for norms up to 16 */

typedef struct {
    int64_t   grid, pairs, axes;
    qp_tensor basis, change; /* [K, K]; [axes, K / 2], added to: */
    qp_tensor frequencies;   /* f64 [axes, K / 2] */
} general;

static const qp_option options[] = {{.name = "grid_width",
                                     .kind = QP_OPTION_INT,
                                     .fallback = 0,
                                     .high = 1e9,
                                     .help = "places of a row of a grid; 0: a sequence"},
                                    {.name = "theta",
                                     .kind = QP_OPTION_NUMBER,
                                     .fallback = 10000,
                                     .low = 1e-3,
                                     .high = 1e12,
                                     .help = "base of the first frequencies"},
                                    {0}};

static void init(void *self, qp_build *b) {
    general *r = self;
    int64_t  K = b->head_width;
    r->grid = qp_setting_int(b, "grid_width");
    r->axes = r->grid ? 2 : 1;
    r->pairs = K / 2;
    if (K < 2 || K % 2) {
        qp_fail(b->ctx, QP_ERR_ARGUMENT, "rope_general: a head has %lld features, expected an even number",
                (long long)K);
        return;
    }
    int64_t shape[] = {r->axes, r->pairs};
    r->basis = qp_param(b->module, "basis", b->init, 2, (int64_t[]){K, K});
    r->change = qp_param(b->module, "frequencies", "zeros", 2, shape);
    r->frequencies = qp_module_keep(b->module, qp_zeros(b->ctx, QP_F64, 2, shape));
    double *f = qp_data_write(r->frequencies);
    for (int64_t i = 0; f && i < r->pairs; i++)
        f[i % r->axes * r->pairs + i] = pow(qp_setting(b, "theta"), -2.0 * (double)i / (double)K);
}

/* exp of a matrix: the series of x / 2^s by Horner, squared s times. */
static qp_tensor exponential(qp_tensor x) {
    int64_t   K = qp_size(x, 0);
    qp_tensor one = qp_one_hot(qp_arange(x.ctx, QP_I64, K), K, qp_dtype_of(x)), y = one;
    x = qp_affine(x, exp2(-SQUARINGS), 0);
    for (int k = DEGREE; k > 0; k--) y = qp_add(one, qp_affine(qp_matmul(x, y), 1.0 / k, 0));
    for (int i = 0; i < SQUARINGS; i++) y = qp_matmul(y, y);
    return y;
}

/* [B, T, 1, K / 2] */
static qp_tensor angles(const general *r, const qp_sequence *s) {
    qp_tensor f = qp_add(r->frequencies, qp_cast(r->change, QP_F64)), sum = QP_NONE;
    for (int axis = 0; axis < r->axes; axis++) {
        qp_tensor at = r->grid ? grid_axis(s->positions, r->grid, axis) : s->positions;
        at = qp_reshape(qp_cast(at, QP_F64), 4,
                        (int64_t[]){qp_size(s->positions, 0), qp_size(s->positions, 1), 1, 1});
        qp_tensor turned = qp_mul(at, qp_slice(f, 0, axis, axis + 1, 1));
        sum = axis ? qp_add(sum, turned) : turned;
    }
    return sum;
}

static qp_tensor rotate(void *self, qp_tensor x, const qp_sequence *s) {
    general  *r = self;
    qp_dtype  type = qp_dtype_of(x);
    qp_tensor a = qp_cast(r->basis, type), q = exponential(qp_sub(a, qp_transpose(a, 0, 1)));
    qp_tensor angle = angles(r, s), cos = qp_cast(qp_cos(angle), type), sin = qp_cast(qp_sin(angle), type);
    qp_tensor y = qp_matmul(x, q), one = qp_slice(y, 3, 0, r->pairs, 1),
              two = qp_slice(y, 3, r->pairs, 2 * r->pairs, 1);
    qp_tensor turned[] = {qp_sub(qp_mul(one, cos), qp_mul(two, sin)),
                          qp_add(qp_mul(two, cos), qp_mul(one, sin))};
    return qp_matmul(qp_concat(2, turned, 3), qp_transpose(q, 0, 1));
}

QP_POSITION(rope_general) = {
    .part = {.name = "rope_general",
             .source = "kexue.fm/archives/9403",
             .help = "rope in a learned basis, with learned frequencies: exponentials of commuting generators",
             .options = options,
             .bytes = sizeof(general)},
    .init = init,
    .rotate = rotate};
