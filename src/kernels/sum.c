/* Sums over axes. Axes are merged as far as they go; then one of two forms runs:
 *
 *   rows     the axis that lies contiguous in memory is summed over: each output is a sum of rows
 *   columns  it is kept: rows are added to rows
 *
 * Both cut the summed elements into pieces at fixed places, sum a piece in float vectors and
 * the pieces, in their order, in double: the bits depend on shape and strides alone, and one
 * output element keeps all threads busy. */
#include "kernels/sum.h"

#include "core/core.h"
#include "kernels/elementwise.h"

#define PIECE 8192 /* elements of a piece, rows form */
#define DEEP 64    /* rows of a piece, columns form */
#define WIDE 1024  /* its columns */

typedef struct {
    qp_view        kept, out, reduced; /* kept and out: equal shapes */
    const qp_exec *exec;
    double         scale;
    bool           columns;
    int64_t        outputs, depth; /* elements of kept and of reduced */
    /* rows */
    int64_t n, group, cuts; /* row length, rows of a piece, cuts of a row */
    /* columns */
    int64_t width, blocks; /* columns, blocks of columns */
    int64_t pieces;        /* of each output (rows) or block (columns) */
    void   *partial;       /* double [outputs, pieces] or float [outputs / width, pieces, width] */
} sum_plan;

/* Makes the axis of unit stride the last one; false if there is none. `other` moves along. */
static bool unit_last(qp_view *v, qp_view *other) {
    int last = v->ndim - 1;
    for (int i = last; i >= 0; i--) {
        if (v->stride[i] != 1 || v->shape[i] == 1) continue;
        qp_view *views[2] = {v, other};
        for (int j = 0; j < (other ? 2 : 1); j++) {
            int64_t size = views[j]->shape[i], stride = views[j]->stride[i];
            views[j]->shape[i] = views[j]->shape[last];
            views[j]->stride[i] = views[j]->stride[last];
            views[j]->shape[last] = size;
            views[j]->stride[last] = stride;
        }
        return true;
    }
    return false;
}

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

static void split(const qp_view *x, uint32_t axes, qp_view *kept, qp_view *reduced) {
    *kept = *reduced = (qp_view){.data = x->data, .dtype = x->dtype};
    for (int i = 0; i < x->ndim; i++) {
        qp_view *v = axes >> i & 1 ? reduced : kept;
        v->shape[v->ndim] = x->shape[i];
        v->stride[v->ndim++] = x->stride[i];
    }
}

static void make_plan(sum_plan *s, const qp_call *c, uint32_t axes) {
    *s = (sum_plan){.exec = c->exec};
    split(&c->in[0], axes, &s->kept, &s->reduced);
    qpi_view_init(&s->out, QP_F32, s->kept.ndim, s->kept.shape);
    s->out.data = c->out[0].data;
    s->outputs = qp_view_count(&s->kept);
    s->depth = qp_view_count(&s->reduced);
    if (s->outputs == 0 || s->depth == 0) return;
    qp_view *kept[2] = {&s->kept, &s->out}, *reduced[1] = {&s->reduced};
    qpi_views_merge(kept, 2);
    qpi_views_merge(reduced, 1);
    s->columns = !unit_last(&s->reduced, NULL) && unit_last(&s->kept, &s->out);
    if (s->columns) {
        s->width = s->kept.shape[s->kept.ndim - 1];
        s->blocks = ceil_div(s->width, WIDE);
        s->pieces = ceil_div(s->depth, DEEP);
    } else {
        s->n = s->reduced.shape[s->reduced.ndim - 1];
        s->group = s->n < PIECE ? PIECE / s->n : 1;
        s->cuts = ceil_div(s->n, PIECE);
        s->pieces = ceil_div(s->depth / s->n, s->group) * s->cuts;
    }
}

/* ---- Rows ------------------------------------------------------------------------------- */

static float row_sum(const float *x, int64_t stride, int64_t n) {
    vf      a[4] = {{0}};
    int64_t i = 0;
    if (stride == 1)
        for (; i + 4 * VF_LANES <= n; i += 4 * VF_LANES)
            for (int j = 0; j < 4; j++) a[j] += vf_load(x + i + j * VF_LANES);
    for (int j = 0; i < n; i += VF_LANES, j = (j + 1) % 4) {
        int m = n - i < VF_LANES ? (int)(n - i) : VF_LANES;
        a[j] += vf_select(vm_first(m), qk_get(x, stride, i, m), (vf){0}); /* stride 0 fills all lanes */
    }
    return vf_sum((a[0] + a[1]) + (a[2] + a[3]));
}

static double row_piece(const sum_plan *s, int64_t output, int64_t piece) {
    int64_t first = piece / s->cuts * s->group, start = piece % s->cuts * PIECE;
    int64_t rows = s->depth / s->n, last = first + s->group < rows ? first + s->group : rows;
    int64_t n = s->n - start < PIECE ? s->n - start : PIECE, stride = s->reduced.stride[s->reduced.ndim - 1];
    const float *x = (const float *)s->kept.data + qp_view_offset(&s->kept, output) + start * stride;
    double       sum = 0;
    for (int64_t r = first; r < last; r++) sum += row_sum(x + qp_view_offset(&s->reduced, r * s->n), stride, n);
    return sum;
}

static void put_row(const sum_plan *s, int64_t output, double sum) {
    ((float *)s->out.data)[qp_view_offset(&s->out, output)] = (float)(s->scale * sum);
}

static void whole_rows(void *arg, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const sum_plan *s = arg;
    for (int64_t i = begin; i < end; i++) put_row(s, i, row_piece(s, i, 0));
}

static void partial_rows(void *arg, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const sum_plan *s = arg;
    for (int64_t i = begin; i < end; i++)
        ((double *)s->partial)[i] = row_piece(s, i / s->pieces, i % s->pieces);
}

static void finish_rows(void *arg, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const sum_plan *s = arg;
    for (int64_t i = begin; i < end; i++) {
        double sum = 0;
        for (int64_t p = 0; p < s->pieces; p++) sum += ((double *)s->partial)[i * s->pieces + p];
        put_row(s, i, sum);
    }
}

static void run_rows(sum_plan *s) {
    if (s->pieces == 1) {
        qp_parallel(s->exec, s->outputs, 1 + PIECE / s->depth, whole_rows, s);
        return;
    }
    qp_parallel(s->exec, s->outputs * s->pieces, 2, partial_rows, s);
    qp_parallel(s->exec, s->outputs, 1 + PIECE / s->pieces, finish_rows, s);
}

/* ---- Columns ---------------------------------------------------------------------------- */

/* sum[0..n-1] = rows first..last-1, four at a time. */
static void add_rows(const sum_plan *s, const float *x, int64_t first, int64_t last, float *sum, int64_t n) {
    for (int64_t r = first; r < last; r += 4) {
        const float *row[4];
        int64_t      have = last - r < 4 ? last - r : 4;
        for (int64_t k = 0; k < have; k++) row[k] = x + qp_view_offset(&s->reduced, r + k);
        for (int64_t i = 0; i < n; i += VF_LANES) {
            int m = n - i < VF_LANES ? (int)(n - i) : VF_LANES;
            vf  v;
            if (have == 4 && m == VF_LANES)
                v = (vf_load(row[0] + i) + vf_load(row[1] + i)) + (vf_load(row[2] + i) + vf_load(row[3] + i));
            else {
                vf zero = {0};
                v = (vf_load_n(row[0] + i, m) + (have > 1 ? vf_load_n(row[1] + i, m) : zero)) +
                    ((have > 2 ? vf_load_n(row[2] + i, m) : zero) +
                     (have > 3 ? vf_load_n(row[3] + i, m) : zero));
            }
            vf_store_n(sum + i, r == first ? v : vf_load_n(sum + i, m) + v, m);
        }
    }
}

/* The part of a block's output that lies at one outer index. */
static int64_t block_of(const sum_plan *s, int64_t index, int64_t *outer, int64_t *start) {
    *outer = index / s->blocks;
    *start = index % s->blocks * WIDE;
    return s->width - *start < WIDE ? s->width - *start : WIDE;
}

static void column_piece(void *arg, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const sum_plan *s = arg;
    int64_t         outer, start, so = s->out.stride[s->out.ndim - 1];
    for (int64_t i = begin; i < end; i++) {
        int64_t n = block_of(s, i / s->pieces, &outer, &start), piece = i % s->pieces, first = piece * DEEP;
        int64_t last = first + DEEP < s->depth ? first + DEEP : s->depth;
        const float *x = (const float *)s->kept.data + qp_view_offset(&s->kept, outer * s->width) + start;
        if (s->pieces > 1) {
            add_rows(s, x, first, last, (float *)s->partial + (outer * s->pieces + piece) * s->width + start,
                     n);
            continue;
        }
        float sum[WIDE], *out = (float *)s->out.data + qp_view_offset(&s->out, outer * s->width) + start * so;
        add_rows(s, x, first, last, sum, n);
        for (int64_t j = 0; j < n; j++) out[j * so] = (float)(s->scale * sum[j]);
    }
}

static void finish_columns(void *arg, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const sum_plan *s = arg;
    int64_t         outer, start, so = s->out.stride[s->out.ndim - 1];
    for (int64_t i = begin; i < end; i++) {
        int64_t n = block_of(s, i, &outer, &start);
        double  sum[WIDE] = {0};
        float  *out = (float *)s->out.data + qp_view_offset(&s->out, outer * s->width) + start * so;
        for (int64_t p = 0; p < s->pieces; p++) {
            const float *part = (const float *)s->partial + (outer * s->pieces + p) * s->width + start;
            for (int64_t j = 0; j < n; j++) sum[j] += part[j];
        }
        for (int64_t j = 0; j < n; j++) out[j * so] = (float)(s->scale * sum[j]);
    }
}

static void run_columns(sum_plan *s) {
    int64_t blocks = s->outputs / s->width * s->blocks, wide = s->width < WIDE ? s->width : WIDE;
    int64_t deep = s->depth < DEEP ? s->depth : DEEP;
    qp_parallel(s->exec, blocks * s->pieces, 1 + QK_GRAIN / (wide * deep), column_piece, s);
    if (s->pieces > 1) qp_parallel(s->exec, blocks, 1 + QK_GRAIN / (wide * s->pieces), finish_columns, s);
}

void QK(qk_sum)(const qp_call *c, uint32_t axes, double scale) {
    sum_plan s;
    make_plan(&s, c, axes);
    s.scale = scale;
    s.partial = c->exec->scratch;
    if (s.depth == 0)
        for (int64_t i = 0; i < s.outputs; i++) ((float *)s.out.data)[i] = (float)(scale * 0);
    else if (s.outputs == 0) return;
    else if (s.columns) run_columns(&s);
    else run_rows(&s);
}

#if QP_BODY
size_t qk_sum_scratch(const qp_call *c, uint32_t axes) {
    sum_plan s;
    make_plan(&s, c, axes);
    if (s.pieces < 2) return 0;
    return (size_t)(s.outputs * s.pieces) * (s.columns ? sizeof(float) : sizeof(double));
}

void qk_sum_split(const qp_view *x, uint32_t axes, qp_view *kept, qp_view *reduced) {
    split(x, axes, kept, reduced);
}
#endif
