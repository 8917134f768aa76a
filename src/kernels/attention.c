/* Attention, forward. */
#include "kernels/attention_parts.h"

#define SPLIT 4 /* pieces wanted for each thread before the blocks of one tile are spread */

/* What a row has so far, or what one block gave it. */
typedef struct {
    float max[TILE], sum[TILE];
} state;

typedef struct {
    const qk_attention *of;
    int64_t             tiles, blocks;
    float              *workers; /* q, scores and output of each worker */
    float              *parts;   /* split: of each (batch, head, block) max, sum and output; or NULL */
    size_t              worker_floats, part_floats;
} job;

static int64_t value_width(const qk_attention *a) { return a->v.shape[3]; }
static int64_t lanes_of(const qk_attention *a) {
    int64_t rows = a->q.shape[1] * (a->q.shape[2] / a->k.shape[2]);
    return attention_padded(attention_min(rows, TILE));
}

static job plan(const qk_attention *a, int threads) {
    int64_t lanes = lanes_of(a), keys = a->k.shape[1];
    job     j = {.of = a, .tiles = attention_tiles(a), .blocks = (keys + BLOCK - 1) / BLOCK};
    bool    split =
        j.tiles == 1 && j.blocks > 1 && threads > 1 && a->q.shape[0] * a->k.shape[2] < (int64_t)SPLIT * threads;
    j.worker_floats = (size_t)(lanes * (a->q.shape[3] + BLOCK + value_width(a)));
    j.part_floats = split ? (size_t)(lanes * (2 + value_width(a))) : 0;
    return j;
}

static size_t part_count(const job *j) { return (size_t)(j->of->q.shape[0] * j->of->k.shape[2] * j->blocks); }

static bool empty(const qk_attention *a) { return a->q.shape[0] * a->q.shape[1] * a->q.shape[2] == 0; }

size_t QK(qk_attention_scratch)(const qk_attention *a, int threads) {
    if (empty(a)) return 0;
    job j = plan(a, threads);
    return ((size_t)threads * j.worker_floats + part_count(&j) * j.part_floats) * sizeof(float);
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

static attention_product values(const attention_tile *t, int64_t begin, int64_t end, const float *s, float *o) {
    const qp_view *v = &t->of->v;
    return (attention_product){.rows = v->shape[3],
                               .cols = t->lanes,
                               .count = end - begin,
                               .a = t->v + begin * v->stride[1],
                               .a_row = v->stride[3],
                               .a_step = v->stride[1],
                               .b = s,
                               .b_row = t->lanes,
                               .c = o,
                               .c_row = t->lanes};
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
    for (int r = 0; r < t->rows; r++) *lse[r] = logs[r];
}

static void tile_piece(void *arg, int64_t begin, int64_t end, int worker) {
    const job          *j = arg;
    const qk_attention *a = j->of;
    float              *q = j->workers + (size_t)worker * j->worker_floats;
    (void)end;
    int64_t        heads = a->k.shape[2], index = begin / j->tiles, tile = j->tiles - 1 - begin % j->tiles;
    attention_tile t;
    state          row, block;
    float          keep[TILE], grow[TILE];
    QK(attention_open)(&t, a, index / heads, index % heads, tile * TILE);
    float *s = q + t.lanes * a->q.shape[3], *o = s + t.lanes * BLOCK;
    load_queries(&t, q);
    start(&row, o, t.lanes * value_width(a));
    for (int64_t b = 0; b < j->blocks; b++) {
        int64_t from, to;
        bool    masked;
        if (!QK(attention_keys)(&t, b, &from, &to, &masked)) continue;
        QK(attention_scores)(&t, q, from, to, masked, s);
        soften(s, to - from, t.lanes, &block);
        fold(&row, block.max, block.sum, t.lanes, keep, grow);
        attention_product p = values(&t, from, to, s, o);
        p.mode = PRODUCT_BLEND;
        p.keep = keep;
        p.grow = grow;
        QK(attention_multiply)(&p);
    }
    finish(&t, &row, o);
}

/* One block of one tile: max, sum and output to its part. */
static void block_piece(void *arg, int64_t begin, int64_t end, int worker) {
    const job          *j = arg;
    const qk_attention *a = j->of;
    float              *q = j->workers + (size_t)worker * j->worker_floats;
    float              *part = j->parts + (size_t)begin * j->part_floats;
    (void)end;
    int64_t        heads = a->k.shape[2], index = begin / j->blocks, from, to;
    attention_tile t;
    state          block;
    bool           masked;
    QK(attention_open)(&t, a, index / heads, index % heads, 0);
    float *s = q + t.lanes * a->q.shape[3];
    if (!QK(attention_keys)(&t, begin % j->blocks, &from, &to, &masked)) return;
    load_queries(&t, q);
    QK(attention_scores)(&t, q, from, to, masked, s);
    soften(s, to - from, t.lanes, &block);
    memcpy(part, block.max, (size_t)t.lanes * sizeof *part);
    memcpy(part + t.lanes, block.sum, (size_t)t.lanes * sizeof *part);
    attention_product p = values(&t, from, to, s, part + 2 * t.lanes);
    QK(attention_multiply)(&p);
}

/* The parts of one tile, blocks ascending: the arithmetic of PRODUCT_BLEND. */
static void join_piece(void *arg, int64_t begin, int64_t end, int worker) {
    const job          *j = arg;
    const qk_attention *a = j->of;
    float              *o = j->workers + (size_t)worker * j->worker_floats, keep[TILE], grow[TILE];
    (void)end;
    attention_tile t;
    state          row;
    QK(attention_open)(&t, a, begin / a->k.shape[2], begin % a->k.shape[2], 0);
    start(&row, o, t.lanes * value_width(a));
    for (int64_t b = 0; b < j->blocks; b++) {
        const float *part = j->parts + (size_t)(begin * j->blocks + b) * j->part_floats;
        int64_t      from, to;
        bool         masked;
        if (!QK(attention_keys)(&t, b, &from, &to, &masked)) continue;
        fold(&row, part, part + t.lanes, t.lanes, keep, grow);
        part += 2 * t.lanes;
        for (int64_t i = 0; i < value_width(a) * t.lanes; i += VF_LANES) {
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
        qp_parallel(exec, pieces * j.tiles, 1, tile_piece, &j);
        return;
    }
    j.parts = j.workers + (size_t)exec->threads * j.worker_floats;
    qp_parallel(exec, pieces * j.blocks, 1, block_piece, &j);
    qp_parallel(exec, pieces, 1, join_piece, &j);
}
