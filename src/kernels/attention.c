/* Attention, forward. */
#include "kernels/attention_relative.h"

#define PIECES 4               /* wanted for each thread: with less, the blocks of one tile are spread */
#define GROUP 4                /* tiles of a piece at most, .. */
#define GROUP_FLOATS (1 << 16) /* .. whose queries and outputs are to stay in the second cache */

/* What a row has so far, or what one block gave it. */
typedef struct {
    float max[TILE], sum[TILE];
} state;

/* A tile on its way over the blocks. */
typedef struct {
    attention_tile tile;
    state          row;
    float         *q, *o;    /* [feature][lane] */
    int64_t        from, to; /* keys of the block */
    bool           any, masked;
} strand;

typedef struct {
    const qk_attention *of;
    int64_t             tiles, blocks;
    int64_t             group;   /* tiles that one piece takes through the blocks together */
    float              *workers; /* buffers of each */
    float              *parts;   /* split: of each (batch, head, block) max, sum and output; or NULL */
    size_t              worker_floats, part_floats;
} job;

/* A worker's; those of one block: scores, keys, values and sums of columns. */
typedef struct {
    float *q, *o, *s, *k, *v, *sums;
} buffers;

static int64_t value_width(const qk_attention *a) { return a->v.shape[3]; }
static int64_t sums_width(const qk_attention *a) { return a->sums.ndim < 0 ? 0 : a->sums.shape[3]; }
static int64_t out_width(const qk_attention *a) { return value_width(a) + sums_width(a); }
static int64_t lanes_of(const qk_attention *a) {
    int64_t rows = a->q.shape[1] * (a->q.shape[2] / a->k.shape[2]);
    return attention_padded(attention_min(rows, TILE));
}

static job plan(const qk_attention *a, int threads) {
    int64_t lanes = lanes_of(a), widths = a->q.shape[3] + out_width(a), heads = a->q.shape[0] * a->k.shape[2];
    int64_t block = attention_block(a), room = attention_room(a);
    job     j = {.of = a, .tiles = attention_tiles(a), .blocks = (a->k.shape[1] + block - 1) / block};
    int64_t pieces = (int64_t)PIECES * threads;
    bool    split = j.tiles == 1 && j.blocks > 1 && threads > 1 && heads < pieces;
    j.group = attention_min(GROUP, attention_max(GROUP_FLOATS / (TILE * widths + 1), 1));
    while (j.group > 1 && heads * ((j.tiles + j.group - 1) / j.group) < pieces) j.group--;
    j.worker_floats = (size_t)(j.group * lanes * widths + room * (lanes + widths) + lanes * sums_width(a));
    j.part_floats = split ? (size_t)(lanes * (2 + out_width(a))) : 0;
    return j;
}

static size_t part_count(const job *j) { return (size_t)(j->of->q.shape[0] * j->of->k.shape[2] * j->blocks); }

static bool empty(const qk_attention *a) { return a->q.shape[0] * a->q.shape[1] * a->q.shape[2] == 0; }

size_t QK(qk_attention_scratch)(const qk_attention *a, int threads) {
    if (empty(a)) return 0;
    job j = plan(a, threads);
    return ((size_t)threads * j.worker_floats + part_count(&j) * j.part_floats) * sizeof(float);
}

static buffers buffers_of(const job *j, int worker) {
    const qk_attention *a = j->of;
    int64_t             lanes = lanes_of(a), room = attention_room(a);
    buffers             x = {.q = j->workers + (size_t)worker * j->worker_floats};
    x.o = x.q + j->group * lanes * a->q.shape[3];
    x.s = x.o + j->group * lanes * out_width(a);
    x.k = x.s + room * lanes;
    x.v = x.k + room * a->q.shape[3];
    x.sums = x.v + room * value_width(a);
    return x;
}

static void load_queries(const attention_tile *t, float *q) {
    const qk_attention *a = t->of;
    float              *row[TILE];
    QK(attention_rows)(t, &a->q, 1, 2, row);
    QK(attention_turn)(q, t->lanes, row, t->rows, a->q.stride[3], a->q.shape[3], a->scale, false);
}

/* s becomes e^(s - max), by lane. */
static void soften(float *s, int64_t keys, int lanes, state *of) {
    for (int lane = 0; lane < lanes; lane += VF_LANES) {
        vf max = -VF_INF, sum = {0};
        for (int64_t j = 0; j < keys; j++) max = vf_max(max, vf_load(s + j * lanes + lane));
        vf from = vf_select(vf_eq(max, -VF_INF), (vf){0}, max);
        for (int64_t j = 0; j < keys; j++) {
            float *p = s + j * lanes + lane;
            vf     e = vf_exp(vf_load(p) - from);
            vf_store(p, e);
            sum += e;
        }
        vf_store(of->max + lane, max);
        vf_store(of->sum + lane, sum);
    }
}

/* max and sum of a block join the row's; what is there is to be multiplied by keep, the
 * block's output by grow. */
static void fold(state *row, const float *max, const float *sum, int lanes, float *keep, float *grow) {
    for (int lane = 0; lane < lanes; lane += VF_LANES) {
        vf old = vf_load(row->max + lane), new = vf_load(max + lane), top = vf_max(old, new);
        vf from = vf_select(vf_eq(top, -VF_INF), (vf){0}, top);
        vf k = vf_exp(old - from), g = vf_exp(new - from);
        vf_store(row->max + lane, top);
        vf_store(row->sum + lane, vf_fma(vf_load(row->sum + lane), k, vf_load(sum + lane) * g));
        vf_store(keep + lane, k);
        vf_store(grow + lane, g);
    }
}

/* The keys of a block that some strands see, with their values, from key `low` on; those that
 * come after: next..end-1. */
typedef struct {
    bool         few; /* columns: each product reads in place, the second what the first has fetched */
    int64_t      low, high, next, end;
    const float *k, *v;
    int64_t      k_row, v_row;
} window;

/* Rows low.. of k or v: a few columns read them in place, others want them side by side. */
static const float *open_rows(const qp_view *v, const void *first, const window *of, float *packed,
                              int64_t *row) {
    *row = v->shape[3];
    if (of->few && v->dtype == QP_F32 && (v->stride[3] == 1 || v->shape[3] == 1)) {
        *row = v->stride[1];
        return (const float *)first + of->low * v->stride[1];
    }
    QK(attention_pack)(v, first, of->low, of->high, packed);
    return packed;
}

/* False: nobody sees any. */
static bool open_block(strand *w, int64_t n, int64_t block, const buffers *x, window *of) {
    const qk_attention *a = w->tile.of;
    of->few = n == 1 && w->tile.rows <= FEW;
    of->low = INT64_MAX;
    of->high = 0;
    for (int64_t i = 0; i < n; i++) {
        w[i].any = QK(attention_keys)(&w[i].tile, block, &w[i].from, &w[i].to, &w[i].masked);
        if (!w[i].any) continue;
        of->low = attention_min(of->low, w[i].from);
        of->high = attention_max(of->high, w[i].to);
    }
    if (of->low >= of->high) return false;
    of->k = open_rows(&a->k, w->tile.k, of, x->k, &of->k_row);
    of->v = open_rows(&a->v, w->tile.v, of, x->v, &of->v_row);
    of->next = of->high;
    of->end = of->few ? of->high : attention_min(of->high + attention_block(a), w[n - 1].tile.high_last);
    return true;
}

/* x.s = e^(scores - max) of a strand's keys. Returns the product that follows, to be given an
 * output: o[feature][lane] = values times s. */
static attention_product soft_block(const strand *w, const buffers *x, const window *of, state *block) {
    const attention_tile *t = &w->tile;
    const qk_attention   *a = t->of;
    attention_ahead       ahead =
        of->few ? attention_next(&a->v, t->v, w->from, w->to) : attention_next(&a->k, t->k, of->next, of->end);
    QK(attention_scores)(t, w->q, of->k + (w->from - of->low) * of->k_row, of->k_row, w->from, w->to, w->masked,
                         ahead, x->s, NULL);
    soften(x->s, w->to - w->from, t->lanes, block);
    return (attention_product){.rows = value_width(a),
                               .cols = t->lanes,
                               .real = t->rows,
                               .count = w->to - w->from,
                               .a = of->v + (w->from - of->low) * of->v_row,
                               .a_row = 1,
                               .a_step = of->v_row,
                               .b = x->s,
                               .b_row = t->lanes,
                               .c_row = t->lanes,
                               .ahead = attention_next(&a->v, t->v, of->next, of->end)};
}

/* o[column][lane] behind the values: keep o + grow times the block's sums of columns. */
static void blend_sums(const strand *w, const buffers *x, float *o, const float *keep, const float *grow) {
    const attention_tile *t = &w->tile;
    int64_t               n = sums_width(t->of) * t->lanes;
    if (!n) return;
    QK(attention_sum_columns)(t, w->from, w->to, x->s, x->sums);
    o += value_width(t->of) * t->lanes;
    for (int64_t i = 0; i < n; i += VF_LANES) {
        int64_t lane = i % t->lanes;
        vf_store(o + i,
                 vf_fma(vf_load(o + i), vf_load(keep + lane), vf_load(x->sums + i) * vf_load(grow + lane)));
    }
}

static void start(state *row, float *o, int64_t floats) {
    for (int i = 0; i < TILE; i++) {
        row->max[i] = -__builtin_inff();
        row->sum[i] = 0;
    }
    memset(o, 0, (size_t)floats * sizeof *o);
}

/* out = O / L, lse = M + log L; a row that has seen nothing gives 0 and -inf. */
static void finish(const attention_tile *t, const state *row, const float *o) {
    const qk_attention *a = t->of;
    float              *out[TILE], *lse[TILE], scale[TILE], logs[TILE];
    for (int lane = 0; lane < t->lanes; lane += VF_LANES) {
        vf sum = vf_load(row->sum + lane);
        vf_store(scale + lane, vf_select(vf_eq(sum, (vf){0}), (vf){0}, 1.0f / sum));
        vf_store(logs + lane, vf_load(row->max + lane) + vf_log(sum));
    }
    QK(attention_rows)(t, &a->out, 1, 2, out);
    QK(attention_rows)(t, &a->lse, 2, 1, lse);
    QK(attention_return)(out, t->rows, 1, o, t->lanes, value_width(a), scale, false);
    if (sums_width(a)) {
        QK(attention_rows)(t, &a->sums, 1, 2, out);
        QK(attention_return)(out, t->rows, 1, o + value_width(a) * t->lanes, t->lanes, sums_width(a), scale,
                             false);
    }
    for (int r = 0; r < t->rows; r++) *lse[r] = logs[r];
}

static void group_block(strand *w, int64_t n, int64_t block, const buffers *x) {
    window of;
    state  part;
    float  keep[TILE], grow[TILE];
    if (!open_block(w, n, block, x, &of)) return;
    for (int64_t i = 0; i < n; i++) {
        if (!w[i].any) continue;
        attention_product p = soft_block(&w[i], x, &of, &part);
        fold(&w[i].row, part.max, part.sum, w[i].tile.lanes, keep, grow);
        p.c = w[i].o;
        p.mode = PRODUCT_BLEND;
        p.keep = keep;
        p.grow = grow;
        QK(attention_multiply)(&p);
        blend_sums(&w[i], x, w[i].o, keep, grow);
        of.next = of.end; /* once is enough */
    }
}

static void group_piece(void *arg, int64_t begin, int64_t end, int worker) {
    const job          *j = arg;
    const qk_attention *a = j->of;
    buffers             x = buffers_of(j, worker);
    strand              w[GROUP];
    int64_t             groups = (j->tiles + j->group - 1) / j->group, heads = a->k.shape[2];
    int64_t             index = begin / groups, first = (groups - 1 - begin % groups) * j->group;
    int64_t             n = attention_min(j->group, j->tiles - first), lanes = lanes_of(a);
    (void)end;
    for (int64_t i = 0; i < n; i++) {
        w[i].q = x.q + i * lanes * a->q.shape[3];
        w[i].o = x.o + i * lanes * out_width(a);
        QK(attention_open)(&w[i].tile, a, index / heads, index % heads, (first + i) * TILE);
        load_queries(&w[i].tile, w[i].q);
        start(&w[i].row, w[i].o, lanes * out_width(a));
    }
    for (int64_t b = 0; b < j->blocks; b++) group_block(w, n, b, &x);
    for (int64_t i = 0; i < n; i++) finish(&w[i].tile, &w[i].row, w[i].o);
}

/* One block of one tile: max, sum and output to its part. */
static void block_piece(void *arg, int64_t begin, int64_t end, int worker) {
    const job          *j = arg;
    const qk_attention *a = j->of;
    buffers             x = buffers_of(j, worker);
    float              *part = j->parts + (size_t)begin * j->part_floats;
    strand              w = {.q = x.q};
    int64_t             heads = a->k.shape[2], index = begin / j->blocks;
    window              of;
    state               sums;
    (void)end;
    QK(attention_open)(&w.tile, a, index / heads, index % heads, 0);
    if (!open_block(&w, 1, begin % j->blocks, &x, &of)) return;
    load_queries(&w.tile, w.q);
    attention_product p = soft_block(&w, &x, &of, &sums);
    memcpy(part, sums.max, (size_t)w.tile.lanes * sizeof *part);
    memcpy(part + w.tile.lanes, sums.sum, (size_t)w.tile.lanes * sizeof *part);
    p.c = part + 2 * w.tile.lanes;
    QK(attention_multiply)(&p);
    if (sums_width(a))
        QK(attention_sum_columns)(&w.tile, w.from, w.to, x.s, p.c + value_width(a) * w.tile.lanes);
}

/* The parts of one tile, blocks ascending: the arithmetic of PRODUCT_BLEND. */
static void join_piece(void *arg, int64_t begin, int64_t end, int worker) {
    const job          *j = arg;
    const qk_attention *a = j->of;
    float              *o = buffers_of(j, worker).o, keep[TILE], grow[TILE];
    (void)end;
    attention_tile t;
    state          row;
    QK(attention_open)(&t, a, begin / a->k.shape[2], begin % a->k.shape[2], 0);
    start(&row, o, t.lanes * out_width(a));
    for (int64_t b = 0; b < j->blocks; b++) {
        const float *part = j->parts + (size_t)(begin * j->blocks + b) * j->part_floats;
        int64_t      from, to;
        bool         masked;
        if (!QK(attention_keys)(&t, b, &from, &to, &masked)) continue;
        fold(&row, part, part + t.lanes, t.lanes, keep, grow);
        part += 2 * t.lanes;
        for (int64_t i = 0; i < out_width(a) * t.lanes; i += VF_LANES) {
            int64_t lane = i % t.lanes;
            vf_store(o + i,
                     vf_fma(vf_load(o + i), vf_load(keep + lane), vf_load(part + i) * vf_load(grow + lane)));
        }
    }
    finish(&t, &row, o);
}

void QK(qk_attention_run)(const qp_exec *exec, const qk_attention *a) {
    if (empty(a)) return;
    job     j = plan(a, exec->threads);
    int64_t pieces = a->q.shape[0] * a->k.shape[2];
    j.workers = exec->scratch;
    if (!j.part_floats) {
        qp_parallel(exec, pieces * ((j.tiles + j.group - 1) / j.group), 1, group_piece, &j);
        return;
    }
    j.parts = j.workers + (size_t)exec->threads * j.worker_floats;
    qp_parallel(exec, pieces * j.blocks, 1, block_piece, &j);
    qp_parallel(exec, pieces, 1, join_piece, &j);
}
