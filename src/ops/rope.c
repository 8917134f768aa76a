/* Rotary positions. The first 2F features of x [B, T, H, K] form F pairs (a, b); with
 * u = positions[b, t] inverse_frequency[i] in f32:
 *
 *   a' = scale (a cos u - b sin u)    b' = scale (b cos u + a sin u)
 *
 * Pairs are (i, i + F) or (2i, 2i + 1). The rest passes through.   dx = dy turned by -u.
 * Su et al. 2021, arXiv:2104.09864. */
#include "ops/op.h"

typedef struct {
    int32_t layout, back; /* back: by the negative angle */
    double  scale;
} attr;

#define GRAIN 16384 /* elements of one piece of work */

/* For the pairs of one position scale cos u and scale sin u; interleaved: each twice, the
 * first sine negative. */
typedef struct {
    const qp_call *c;
    int64_t        pairs, padded; /* floats of each of the two rows in scratch */
} job;

static void angles(const job *j, float position, float *cosine, float *sine) {
    const attr  *a = j->c->attr;
    const float *frequency = j->c->in[2].data;
    float        scale = (float)a->scale, turn = a->back ? -scale : scale;
    for (int64_t i = 0; i < j->pairs; i += VF_LANES) {
        int m = j->pairs - i < VF_LANES ? (int)(j->pairs - i) : VF_LANES;
        vf  s, c;
        vf_sincos(vf_load_n(frequency + i, m) * position, &s, &c);
        vf_store(cosine + i, c * scale);
        vf_store(sine + i, s * turn);
    }
    if (a->layout == QP_ROPE_HALF) return;
    for (int64_t i = j->pairs - 1; i >= 0; i--) {
        cosine[2 * i] = cosine[2 * i + 1] = cosine[i];
        sine[2 * i + 1] = sine[i];
        sine[2 * i] = -sine[i];
    }
}

static void turn_halves(const float *x, float *y, const float *cosine, const float *sine, int64_t pairs) {
    for (int64_t i = 0; i < pairs; i += VF_LANES) {
        int m = pairs - i < VF_LANES ? (int)(pairs - i) : VF_LANES;
        vf  c = vf_load(cosine + i), s = vf_load(sine + i), a = vf_load_n(x + i, m),
            b = vf_load_n(x + pairs + i, m);
        vf_store_n(y + i, a * c - b * s, m);
        vf_store_n(y + pairs + i, b * c + a * s, m);
    }
}

static inline vf swap_pairs(vf x) {
#if VF_LANES == 16
    return __builtin_shufflevector(x, x, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
#elif VF_LANES == 8
    return __builtin_shufflevector(x, x, 1, 0, 3, 2, 5, 4, 7, 6);
#else
    return __builtin_shufflevector(x, x, 1, 0, 3, 2);
#endif
}

static void turn_neighbours(const float *x, float *y, const float *cosine, const float *sine, int64_t pairs) {
    for (int64_t i = 0; i < 2 * pairs; i += VF_LANES) {
        int m = 2 * pairs - i < VF_LANES ? (int)(2 * pairs - i) : VF_LANES;
        vf  v = vf_load_n(x + i, m);
        vf_store_n(y + i, v * vf_load(cosine + i) + swap_pairs(v) * vf_load(sine + i), m);
    }
}

/* Pieces of positions: one may serve every row of the batch. */
static void piece(void *arg, int64_t begin, int64_t end, int worker) {
    const job     *j = arg;
    const qp_view *x = &j->c->in[0], *y = &j->c->out[0], *at = &j->c->in[1];
    bool           halves = ((const attr *)j->c->attr)->layout == QP_ROPE_HALF;
    int64_t        T = x->shape[1], H = x->shape[2], K = x->shape[3], shared = at->shape[0] == 1;
    float         *cosine = (float *)j->c->exec->scratch + worker * 2 * j->padded, *sine = cosine + j->padded;
    for (int64_t i = begin; i < end; i++) {
        int64_t t = i % T, last = shared ? x->shape[0] : i / T + 1;
        angles(j, (float)((const int64_t *)at->data)[i / T * at->stride[0] + t * at->stride[1]], cosine, sine);
        for (int64_t b = i / T; b < last; b++)
            for (int64_t h = 0; h < H; h++) {
                const float *from =
                    (const float *)x->data + b * x->stride[0] + t * x->stride[1] + h * x->stride[2];
                float *to = (float *)y->data + ((b * T + t) * H + h) * K;
                if (halves) turn_halves(from, to, cosine, sine, j->pairs);
                else turn_neighbours(from, to, cosine, sine, j->pairs);
                if (K > 2 * j->pairs)
                    memcpy(to + 2 * j->pairs, from + 2 * j->pairs, (size_t)(K - 2 * j->pairs) * sizeof *to);
            }
    }
}

static int64_t padded(const qp_call *c) { return (2 * c->in[2].shape[0] + 63) / 16 * 16; }

static void run(const qp_call *c) {
    const qp_view *x = &c->in[0], *at = &c->in[1];
    job            j = {c, c->in[2].shape[0], padded(c)};
    int64_t        positions = at->shape[0] * at->shape[1], count = qp_view_count(x);
    if (!count) return;
    int64_t each = count / positions;
    qp_parallel(c->exec, positions, (GRAIN + each - 1) / each, piece, &j);
}

QP_KERNEL(rope) = {run, QP_ROWS, NULL};

#if QP_BODY
#include "core/core.h"

static size_t scratch(const qp_call *c, int threads) {
    return (size_t)threads * 2 * (size_t)padded(c) * sizeof(float);
}

static void shape(qp_call *c) {
    const qp_view *x = &c->in[0], *at = &c->in[1], *f = &c->in[2];
    char           text[96];
    if (x->ndim != 4 || !qp_dtype_is_float(x->dtype)) {
        qpi_view_describe(x, text, sizeof text);
        qp_call_fail(c, QP_ERR_SHAPE, "x is %s, expected floats [B, T, H, K]", text);
    } else if (at->dtype != QP_I64 || at->ndim != 2 || (at->shape[0] != 1 && at->shape[0] != x->shape[0]) ||
               at->shape[1] != x->shape[1]) {
        qpi_view_describe(at, text, sizeof text);
        qp_call_fail(c, QP_ERR_SHAPE, "positions are %s, expected i64 [%lld or 1, %lld]", text,
                     (long long)x->shape[0], (long long)x->shape[1]);
    } else if (f->dtype != QP_F32 || f->ndim != 1 || f->shape[0] > x->shape[3] / 2) {
        qpi_view_describe(f, text, sizeof text);
        qp_call_fail(c, QP_ERR_SHAPE, "inverse_frequency is %s, expected f32 [at most %lld]", text,
                     (long long)x->shape[3] / 2);
    } else {
        qpi_view_init(&c->out[0], x->dtype, x->ndim, x->shape);
    }
}

static void plain(const qp_call *c) {
    const attr    *a = c->attr;
    const qp_view *x = &c->in[0], *y = &c->out[0], *at = &c->in[1], *f = &c->in[2];
    int64_t        n = qp_view_count(x), T = x->shape[1], H = x->shape[2], K = x->shape[3], F = f->shape[0];
    int64_t        first = a->layout == QP_ROPE_HALF ? 1 : 2, second = a->layout == QP_ROPE_HALF ? F : 1;
    for (int64_t i = 0; i < n; i++) qp_store(y, qp_view_offset(y, i), qp_load(x, qp_view_offset(x, i)));
    for (int64_t row = 0; row < n / (K ? K : 1); row++) {
        int64_t b = row / (T * H), t = row / H % T, place = (at->shape[0] == 1 ? 0 : b) * T + t;
        float   position = (float)qp_load(at, qp_view_offset(at, place));
        for (int64_t i = 0; i < F; i++) {
            int64_t p = row * K + first * i, q = p + second;
            float   angle = position * (float)qp_load(f, qp_view_offset(f, i));
            double  u = a->back ? -(double)angle : (double)angle;
            double  v = qp_load(x, qp_view_offset(x, p)), w = qp_load(x, qp_view_offset(x, q));
            qp_store(y, qp_view_offset(y, p), a->scale * (v * cos(u) - w * sin(u)));
            qp_store(y, qp_view_offset(y, q), a->scale * (w * cos(u) + v * sin(u)));
        }
    }
}

extern const qp_op qp_op_rope;
static void backward(qp_rule *r) {
    attr a = *(const attr *)r->attr;
    a.back = !a.back;
    r->din[0] = QP_CALL(rope, &a, r->dout[0], r->in[1], r->in[2]);
}

static double flops(const qp_call *c) { return 3.0 * (double)qp_view_count(&c->out[0]); }

static const attr      halves = {QP_ROPE_HALF, 0, 1}, neighbours = {QP_ROPE_INTERLEAVED, 0, 1};
static const qp_sample samples[] = {
    {.in = "x[2,3,2,8] i50[2,3] !u[4]", .attr = &halves},
    {.in = "x[2,3,2,8] i50[2,3] !u[4]", .attr = &neighbours},
    {.in = "x[3,5,1,70] i900[1,5] !u[35]", .attr = &halves},
    {.in = "x[2,5,2,70] i900[1,5] !u[35]", .attr = &neighbours},
    {.in = "x[1,4,3,9] i9[1,4] !u[2]", .attr = &(attr){QP_ROPE_HALF, 1, 1.5}},
    {.in = "x[1,4,3,9] i9[1,4] !u[2]", .attr = &(attr){QP_ROPE_INTERLEAVED, 1, 1.5}},
    {.in = "x[1,1,1,2] i9[1,1] !u[1]", .attr = &halves},
    {.in = "x[2,0,3,4] i9[1,0] !u[2]", .attr = &halves},
    {0}};

QP_OP(rope) = {.name = "rope",
               .source = "arXiv:2104.09864",
               .min_in = 3,
               .max_in = 3,
               .nout = 1,
               .attr_bytes = sizeof(attr),
               .saves = QP_SAVE_IN(1) | QP_SAVE_IN(2),
               .shape = shape,
               .plain = plain,
               .backward = backward,
               .scratch = scratch,
               .flops = flops,
               .samples = samples};

qp_tensor qp_rope(qp_tensor x, qp_tensor positions, qp_tensor inverse_frequency, qp_rope_layout layout,
                  double scale) {
    return QP_CALL(rope, (&(attr){layout, 0, scale}), x, positions, inverse_frequency);
}
#endif
