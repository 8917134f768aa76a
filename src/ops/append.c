/* cache[rows[b], starts[b] + t] = x[b, t] for t < counts[b]: the next positions of sequences that each
 * have a row and a length of their own. */
#include "core/blocks.h"
#include "ops/op.h"

enum { CACHE, X, ROWS, STARTS, COUNTS };

#define GRAIN 16384 /* elements of one piece of work */

static int64_t integer(const qp_view *v, int64_t i) { return ((const int64_t *)v->data)[i * v->stride[0]]; }

/* Are the places of sequence b there? Stores an error if not. */
static bool fits(const qp_call *c, int64_t b) {
    int64_t row = integer(&c->in[ROWS], b), start = integer(&c->in[STARTS], b),
            count = integer(&c->in[COUNTS], b);
    int64_t R = c->in[CACHE].shape[0], S = c->in[CACHE].shape[1], T = c->in[X].shape[1];
    bool    ok = row >= 0 && row < R && count >= 0 && count <= T && start >= 0 && start <= S - count;
    for (int64_t i = 0; i < b; i++) ok = ok && integer(&c->in[ROWS], i) != row;
    if (!ok)
        qp_call_fail(
            c, QP_ERR_ARGUMENT,
            "sequence %lld: %lld of %lld positions at %lld of row %lld; the cache has %lld rows of %lld",
            (long long)b, (long long)count, (long long)T, (long long)start, (long long)row, (long long)R,
            (long long)S);
    return ok;
}

static bool all_fit(const qp_call *c) {
    for (int64_t b = 0; b < c->in[X].shape[0]; b++)
        if (!fits(c, b)) return false;
    return true;
}

/* Where position t of sequence b lies in both. */
static int64_t from_of(const qp_call *c, int64_t b, int64_t t) {
    return b * c->in[X].stride[0] + t * c->in[X].stride[1];
}
static int64_t to_of(const qp_call *c, int64_t b, int64_t t) {
    const qp_view *cache = &c->in[CACHE];
    return integer(&c->in[ROWS], b) * cache->stride[0] + (integer(&c->in[STARTS], b) + t) * cache->stride[1];
}

static void convert(qp_dtype type, void *cache, int64_t to, const float *x, int64_t n) {
    int64_t   i = 0;
    uint16_t *half = (uint16_t *)cache + to;
    if (type == QP_F32) memcpy((float *)cache + to, x, (size_t)n * sizeof *x);
    else if (type == QP_Q8_0) qpi_blocks_encode(type, x, n, (char *)cache + qp_dtype_size(type, to));
    else if (type == QP_BF16) {
        for (; i + VF_LANES <= n; i += VF_LANES) vf_store_bf16(half + i, vf_load(x + i));
        for (; i < n; i++) half[i] = qpi_f32_to_bf16(x[i]);
    } else {
        for (; i + VF_LANES <= n; i += VF_LANES) vf_store_f16(half + i, vf_load(x + i));
        for (; i < n; i++) half[i] = qpi_f32_to_f16(x[i]);
    }
}

static void pieces(void *arg, int64_t begin, int64_t end, int worker) {
    const qp_call *c = arg;
    const qp_view *cache = &c->in[CACHE], *x = &c->in[X];
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        int64_t b = i / x->shape[1], t = i % x->shape[1];
        if (t >= integer(&c->in[COUNTS], b)) continue;
        for (int64_t line = 0; line < x->shape[2]; line++)
            convert(cache->dtype, cache->data, to_of(c, b, t) + line * cache->stride[2],
                    (const float *)x->data + from_of(c, b, t) + line * x->stride[2], x->shape[3]);
    }
}

static void run(const qp_call *c) {
    const qp_view *x = &c->in[X];
    int64_t        positions = x->shape[0] * x->shape[1], count = qp_view_count(x);
    if (all_fit(c) && count)
        qp_parallel(c->exec, positions, GRAIN / (count / positions) + 1, pieces, (void *)(uintptr_t)c);
}

/* Keys and values, [.., .., G, K]. */
static bool takes(const qp_call *c) {
    qp_dtype type = c->in[CACHE].dtype;
    return c->in[X].dtype == QP_F32 && c->in[X].ndim == 4 &&
           (type == QP_F32 || type == QP_BF16 || type == QP_F16 || type == QP_Q8_0);
}

QP_KERNEL(append) = {run, QP_ROWS, takes};

#if QP_BODY
#include "core/core.h"

static void shape(qp_call *c) {
    const qp_view *cache = &c->in[CACHE], *x = &c->in[X];
    char           at[96], bt[96];
    bool           blocks = cache->dtype == QP_Q8_0;
    bool           fit = (qp_dtype_is_float(cache->dtype) || blocks) && x->ndim >= 2 && x->ndim == cache->ndim;
    fit = fit && (x->dtype == QP_F32 || x->dtype == cache->dtype || (x->dtype == QP_F64 && blocks));
    for (int i = 2; i < x->ndim && fit; i++) fit = x->shape[i] == cache->shape[i];
    for (int i = ROWS; i <= COUNTS && fit; i++)
        fit = c->in[i].dtype == QP_I64 && c->in[i].ndim == 1 && c->in[i].shape[0] == x->shape[0];
    c->out[0] = *cache;
    if (fit) return;
    qpi_view_describe(cache, at, sizeof at);
    qpi_view_describe(x, bt, sizeof bt);
    qp_call_fail(c, QP_ERR_SHAPE,
                 "cache is %s, x is %s: expected floats or q8_0 [R, S, ..] and floats [B, T, ..], and i64 [B] "
                 "rows, starts and counts",
                 at, bt);
}

static void plain(const qp_call *c) {
    const qp_view *x = &c->in[X];
    qp_view        from = *x, to = c->in[CACHE];
    if (!all_fit(c)) return;
    from.shape[0] = from.shape[1] = to.shape[0] = to.shape[1] = 1;
    int64_t n = qp_view_count(&from), step = qp_dtype_block(to.dtype);
    for (int64_t i = 0; i < x->shape[0] * x->shape[1]; i++) {
        int64_t b = i / x->shape[1], t = i % x->shape[1];
        for (int64_t e = 0; e < n && t < integer(&c->in[COUNTS], b); e += step) {
            int64_t at = to_of(c, b, t) + qp_view_offset(&to, e);
            float   block[32];
            for (int k = 0; k < step; k++) {
                double value = qp_load(x, from_of(c, b, t) + qp_view_offset(&from, e + k));
                if (step == 1) qp_store(&to, at, value);
                else block[k] = (float)value;
            }
            if (step > 1)
                qpi_blocks_encode(to.dtype, block, step, (char *)to.data + qp_dtype_size(to.dtype, at));
        }
    }
}

static double bytes(const qp_call *c) {
    size_t both = qp_dtype_bytes(c->in[X].dtype) + qp_dtype_bytes(c->in[CACHE].dtype);
    return (double)qp_view_count(&c->in[X]) * (double)both;
}

static const qp_sample samples[] = {{.in = "x[2,5,2,3] x[1,3,2,3] i2[1] i3[1] i4[1]"},
                                    {.in = "x[1,6,1,20] x[1,2,1,20] i1[1] i5[1] i3[1]"},
                                    {.in = "wq8_0[2,5,2,32] x[1,3,2,32] i2[1] i3[1] i4[1]"},
                                    {.in = "x[3,4] x[1,1] i3[1] i3[1] i2[1]"},
                                    {.in = "x[3,4,5] x[0,1,5] i3[0] i3[0] i2[0]"},
                                    {.in = "x[3,4,5] x[1,0,5] i3[1] i3[1] i1[1]"},
                                    {.in = "x[3,4,2,0] x[1,1,2,0] i3[1] i3[1] i2[1]"},
                                    {0}};

QP_OP(append) = {.name = "append",
                 .source = "caches of keys and values",
                 .min_in = 5,
                 .max_in = 5,
                 .nout = 1,
                 .shape = shape,
                 .plain = plain,
                 .bytes = bytes,
                 .mutates = QP_SAVE_IN(CACHE),
                 .blocks = QP_SAVE_IN(CACHE),
                 .samples = samples};

void qp_append(qp_tensor cache, qp_tensor x, qp_tensor rows, qp_tensor starts, qp_tensor counts) {
    (void)QP_CALL(append, NULL, cache, x, rows, starts, counts);
}
#endif
