#include "kernels/norm.h"

#include <math.h>
#include <string.h>

#include "core/simd.h"

#define GRAIN 16384 /* elements of one piece of work */
#define INLINE static inline __attribute__((always_inline))

static const float *row_of(const qp_view *v, int64_t row) {
    return v ? (const float *)v->data + qk_row_offset(v, row) : NULL;
}
static float *data_of(const qp_view *v) { return v ? v->data : NULL; }
static float of_row(const qp_view *v, int64_t row) {
    return v ? ((const float *)v->data)[qp_view_offset(v, row)] : 0;
}

/* ---- Forward ------------------------------------------------------------------------------ */

typedef struct {
    const float *x, *residual, *weight, *bias;
    float       *sum, *y, mean, rstd;
} row;

typedef vf term(const row *r, int64_t i, int m);

INLINE float add_up(const row *r, int64_t n, term *f) {
    vf      s[4] = {{0}};
    int64_t i = 0;
    for (; i + 4 * VF_LANES <= n; i += 4 * VF_LANES)
        for (int j = 0; j < 4; j++) s[j] += f(r, i + j * VF_LANES, VF_LANES);
    for (; i < n; i += VF_LANES) s[0] += f(r, i, n - i < VF_LANES ? (int)(n - i) : VF_LANES);
    return vf_sum((s[0] + s[1]) + (s[2] + s[3]));
}

/* x, or x + residual, which is stored on the way. */
INLINE vf value(const row *r, int64_t i, int m) {
    vf v = vf_load_n(r->x + i, m);
    if (!r->residual) return v;
    v += vf_load_n(r->residual + i, m);
    vf_store_n(r->sum + i, v, m);
    return v;
}
INLINE vf square(const row *r, int64_t i, int m) {
    vf v = value(r, i, m);
    return v * v;
}
INLINE vf deviation(const row *r, int64_t i, int m) {
    vf v = vf_select(vm_first(m), vf_load_n(r->x + i, m) - r->mean, (vf){0});
    return v * v;
}

INLINE void normalise(const row *r, int64_t i, int m) {
    vf v = (vf_load_n(r->x + i, m) - r->mean) * r->rstd;
    if (r->weight) v *= vf_load_n(r->weight + i, m);
    if (r->bias) v += vf_load_n(r->bias + i, m);
    vf_store_n(r->y + i, v, m);
}

INLINE void forward_row(row *r, int64_t n, bool centred, double eps) {
    float squares;
    r->mean = 0;
    if (centred) r->mean = add_up(r, n, value) / (float)n;
    else squares = add_up(r, n, square);
    if (r->residual) r->x = r->sum;
    if (centred) squares = add_up(r, n, deviation);
    r->rstd = 1 / sqrtf(squares / (float)n + (float)eps);
    int64_t i = 0;
    for (; i + VF_LANES <= n; i += VF_LANES) normalise(r, i, VF_LANES);
    if (i < n) normalise(r, i, (int)(n - i));
}

static void forward_piece(void *arg, int64_t begin, int64_t end, int worker) {
    const qk_norm *f = arg;
    int64_t        n = f->y->shape[f->y->ndim - 1];
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        row r = {.x = row_of(f->x, i),
                 .residual = row_of(f->residual, i),
                 .weight = data_of(f->weight),
                 .bias = data_of(f->bias),
                 .sum = f->sum ? data_of(f->sum) + i * n : NULL,
                 .y = data_of(f->y) + i * n};
        if (f->mean) forward_row(&r, n, true, f->eps);
        else forward_row(&r, n, false, f->eps);
        if (f->mean) data_of(f->mean)[i] = r.mean;
        data_of(f->rstd)[i] = r.rstd;
    }
}

void QK(qk_norm_run)(const qp_exec *exec, const qk_norm *f) {
    int64_t rows = qp_view_count(f->rstd), n = f->y->shape[f->y->ndim - 1];
    if (n) qp_parallel(exec, rows, (GRAIN + n - 1) / n, forward_piece, (void *)f);
}

/* ---- Gradient ------------------------------------------------------------------------------- */

typedef struct {
    const float *dy, *x, *dsum;
    float       *dx, mean, rstd, mean_g, mean_gx; /* g = dy weight; means over the row */
} grad_row;

INLINE void row_means(grad_row *r, const float *weight, int64_t n, bool centred) {
    vf      g_sum[2] = {{0}}, gx_sum[2] = {{0}};
    int64_t i = 0;
#define STEP(j, m) \
    vf g = vf_load_n(r->dy + i, m), x = vf_load_n(r->x + i, m) - r->mean; \
    if (weight) g *= vf_load_n(weight + i, m); \
    if (centred) g_sum[j] += g; \
    gx_sum[j] = vf_fma(g, x, gx_sum[j]);
    for (; i + 2 * VF_LANES <= n; i += VF_LANES) {
        {STEP(0, VF_LANES)} i += VF_LANES;
        {
            STEP(1, VF_LANES)
        }
    }
    for (; i < n; i += VF_LANES) {
        int m = n - i < VF_LANES ? (int)(n - i) : VF_LANES;
        STEP(0, m)
    }
#undef STEP
    r->mean_g = centred ? vf_sum(g_sum[0] + g_sum[1]) / (float)n : 0;
    r->mean_gx = vf_sum(gx_sum[0] + gx_sum[1]) * r->rstd / (float)n;
}

/* m columns at i of a block of rows: dx, and what they add to dweight and dbias. */
INLINE void grad_columns(const grad_row *r, int rows, const float *weight, float *dweight, float *dbias,
                         int64_t i, int m) {
    vf w = weight ? vf_load_n(weight + i, m) : vf_set1(1);
    vf dw = dweight ? vf_load_n(dweight + i, m) : (vf){0}, db = dbias ? vf_load_n(dbias + i, m) : (vf){0};
    for (int j = 0; j < rows; j++) {
        vf dy = vf_load_n(r[j].dy + i, m), x = (vf_load_n(r[j].x + i, m) - r[j].mean) * r[j].rstd;
        vf dx = (dy * w - r[j].mean_g - x * r[j].mean_gx) * r[j].rstd;
        if (r[j].dsum) dx += vf_load_n(r[j].dsum + i, m);
        vf_store_n(r[j].dx + i, dx, m);
        dw = vf_fma(dy, x, dw);
        db += dy;
    }
    if (dweight) vf_store_n(dweight + i, dw, m);
    if (dbias) vf_store_n(dbias + i, db, m);
}

INLINE void grad_block(grad_row *r, int rows, const float *weight, float *dweight, float *dbias, int64_t n,
                       bool centred) {
    int64_t i = 0;
    for (int j = 0; j < rows; j++) row_means(&r[j], weight, n, centred);
    for (; i + VF_LANES <= n; i += VF_LANES) grad_columns(r, rows, weight, dweight, dbias, i, VF_LANES);
    if (i < n) grad_columns(r, rows, weight, dweight, dbias, i, (int)(n - i));
}

typedef struct {
    const qk_norm_grad *g;
    int64_t             n, grain, pieces;
    float              *sums; /* for each piece dweight, then dbias */
} grad_job;

static void grad_piece(void *arg, int64_t begin, int64_t end, int worker) {
    const grad_job     *job = arg;
    const qk_norm_grad *g = job->g;
    int64_t             n = job->n;
    float              *sums = job->sums + begin / job->grain * 2 * n;
    float              *dweight = g->dweight ? sums : NULL, *dbias = g->dbias ? sums + n : NULL;
    (void)worker;
    memset(sums, 0, 2 * (size_t)n * sizeof *sums);
    for (int64_t i = begin; i < end;) {
        int      rows = end - i < QK_NORM_BLOCK ? 1 : QK_NORM_BLOCK;
        grad_row r[QK_NORM_BLOCK];
        for (int j = 0; j < rows; j++, i++)
            r[j] = (grad_row){.dy = row_of(g->dy, i),
                              .x = row_of(g->x, i),
                              .dsum = row_of(g->dsum, i),
                              .dx = data_of(g->dx) + i * n,
                              .mean = of_row(g->mean, i),
                              .rstd = of_row(g->rstd, i)};
        if (g->mean && rows == 1) grad_block(r, 1, data_of(g->weight), dweight, dbias, n, true);
        else if (g->mean) grad_block(r, QK_NORM_BLOCK, data_of(g->weight), dweight, dbias, n, true);
        else if (rows == 1) grad_block(r, 1, data_of(g->weight), dweight, dbias, n, false);
        else grad_block(r, QK_NORM_BLOCK, data_of(g->weight), dweight, dbias, n, false);
    }
}

static void add_pieces(void *arg, int64_t begin, int64_t end, int worker) {
    const grad_job *job = arg;
    float          *to[2] = {data_of(job->g->dweight), data_of(job->g->dbias)};
    (void)worker;
    for (int k = 0; k < 2; k++) {
        if (!to[k]) continue;
        for (int64_t i = begin; i < end; i++) to[k][i] = 0;
        for (int64_t p = 0; p < job->pieces; p++) {
            const float *sums = job->sums + (2 * p + k) * job->n;
            for (int64_t i = begin; i < end; i++) to[k][i] += sums[i];
        }
    }
}

void QK(qk_norm_grad_run)(const qp_exec *exec, const qk_norm_grad *g) {
    int64_t  rows = qp_view_count(g->rstd), n = g->dx->shape[g->dx->ndim - 1], grain = qk_norm_grain(rows, n);
    grad_job job = {g, n, grain, (rows + grain - 1) / grain, exec->scratch};
    if (!n) return;
    qp_parallel(exec, rows, grain, grad_piece, &job);
    if (g->dweight || g->dbias) qp_parallel(exec, n, 512, add_pieces, &job);
}
