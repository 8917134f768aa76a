/* See linear_attention.h. */
#include <math.h>

#include "kernels/attention_parts.h"
#include "kernels/linear_attention.h"

#define STRETCH 512 /* positions */
#define MANY 16     /* heads that keep all threads busy */
#define FEW_ROWS 8  /* positions that are taken one after the other */
#define BLOCK 16    /* rows of a tile whose keys end together */

typedef struct {
    const qk_linear_attention *of;
    int64_t                    B, T, H, K, V;   /* K: with the extra feature */
    int64_t                    columns, padded; /* of S: V and the denominator; rounded up */
    int64_t                    wide;            /* floats from one row of queries to the next */
    int64_t                    stretch, stretches;
    float                     *sums; /* [B, H, stretches] of S */
    float                     *workers;
    int64_t                    worker_floats;
} job;

/* What one worker holds. */
typedef struct {
    float *x;                               /* [K + 64, padded]: S, then v */
    float *q;                               /* [64, wide]: q, then scores */
    float *k;                               /* [64, K padded] */
    float *turned;                          /* [K, 64] */
    float *out;                             /* [64, padded] */
    float  power[TILE + 1], back[2 * TILE]; /* g^i; g^(63 - i), zeros behind */
} buffers;

static int64_t features(const qk_linear_attention *a) {
    return a->q.shape[3] + (a->q_more.ndim >= 0 || a->k_more.ndim >= 0);
}

static int64_t state_floats(const job *j) { return j->K * j->padded; }

static job plan(const qk_linear_attention *a) {
    job     j = {.of = a,
                 .B = a->q.shape[0],
                 .T = a->q.shape[1],
                 .H = a->q.shape[2],
                 .K = features(a),
                 .V = a->v.shape[3]};
    int64_t chunk = a->chunk ? a->chunk : TILE;
    j.columns = j.V + a->normalize;
    j.padded = attention_padded(j.columns);
    j.wide = attention_padded(j.K) + TILE;
    j.stretch = j.H < MANY ? (STRETCH + chunk - 1) / chunk * chunk : attention_max(j.T, 1);
    j.stretches = (j.T + j.stretch - 1) / j.stretch;
    j.worker_floats = (j.K + 2 * TILE) * j.padded + TILE * (j.wide + attention_padded(j.K) + j.K);
    return j;
}

size_t QK(qk_linear_attention_scratch)(const qk_linear_attention *a, int threads) {
    job     j = plan(a);
    int64_t sums = j.stretches > 1 ? j.B * j.H * j.stretches * state_floats(&j) : 0;
    return (size_t)(sums + threads * j.worker_floats) * sizeof(float);
}

static buffers buffers_of(const job *j, int worker) {
    buffers b;
    b.x = j->workers + worker * j->worker_floats;
    b.out = b.x + (j->K + TILE) * j->padded;
    b.q = b.out + TILE * j->padded;
    b.k = b.q + TILE * j->wide;
    b.turned = b.k + TILE * attention_padded(j->K);
    return b;
}

/* ---- Tiles --------------------------------------------------------------------------------------- */

/* Rows of a tile, in the order in which they see each other. */
typedef struct {
    int64_t batch, head, first;
    int     rows;
} span;

static int64_t position(const job *j, const span *s, int i) {
    return j->of->reverse ? s->first + s->rows - 1 - i : s->first + i;
}

static float *row_of(const qp_view *v, int64_t b, int64_t t, int64_t h) {
    return (float *)v->data + b * v->stride[0] + t * v->stride[1] + h * v->stride[2];
}

static float more(const qp_view *v, const job *j, const span *s, int i) {
    return v->ndim < 0 ? 1 : *row_of(v, s->batch, position(j, s, i), s->head);
}

static void set_powers(const job *j, int64_t head, buffers *b) {
    const qp_view *decay = &j->of->decay;
    double g = decay->ndim < 0 ? 1 : (double)((const float *)decay->data)[head * decay->stride[0]], p = 1;
    for (int i = 0; i <= TILE; i++, p *= g) {
        b->power[i] = (float)p;
        if (i < TILE) b->back[TILE - 1 - i] = (float)p;
        if (i < TILE) b->back[TILE + i] = 0;
    }
}

static void scale_row(float *to, const float *from, float by, int64_t n) {
    int64_t i = 0;
    for (; i + VF_LANES <= n; i += VF_LANES) vf_store(to + i, vf_load(from + i) * by);
    for (; i < n; i++) to[i] = from[i] * by;
}

static void load_queries(const job *j, const span *s, buffers *b) {
    int64_t width = j->of->q.shape[3];
    for (int i = 0; i < s->rows; i++) {
        float *to = b->q + i * j->wide;
        memcpy(to, row_of(&j->of->q, s->batch, position(j, s, i), s->head), (size_t)width * sizeof *to);
        if (width < j->K) to[width] = more(&j->of->q_more, j, s, i);
    }
}

/* Values as they are, keys with what they will have lost at the tile's end. */
static void load_keys(const job *j, const span *s, buffers *b) {
    int64_t width = j->of->k.shape[3], step = attention_padded(j->K);
    for (int i = 0; i < s->rows; i++) {
        int64_t t = position(j, s, i);
        float   by = b->power[s->rows - 1 - i], *to = b->k + i * step, *v = b->x + (j->K + i) * j->padded;
        scale_row(to, row_of(&j->of->k, s->batch, t, s->head), by, width);
        if (width < j->K) to[width] = more(&j->of->k_more, j, s, i) * by;
        memcpy(v, row_of(&j->of->v, s->batch, t, s->head), (size_t)j->V * sizeof *v);
        for (int64_t c = j->V; c < j->padded; c++) v[c] = c < j->columns ? 1 : 0;
    }
}

/* turned[p][i] = k[i][p], and zeros behind the rows. */
static void turn_keys(const job *j, const span *s, buffers *b) {
    int64_t width = j->of->k.shape[3];
    float  *row[TILE];
    for (int i = 0; i < s->rows; i++) row[i] = row_of(&j->of->k, s->batch, position(j, s, i), s->head);
    QK(attention_turn)(b->turned, TILE, row, s->rows, 1, width, 1, false);
    if (width == j->K) return;
    for (int i = 0; i < TILE; i++)
        b->turned[width * TILE + i] = i < s->rows ? more(&j->of->k_more, j, s, i) : 0;
}

/* Scores of rows i0.. with keys 0..keys-1 of the tile. */
static void score(const job *j, buffers *b, int i0, int rows, int keys) {
    float *scores = b->q + i0 * j->wide + j->K;
    QK(attention_multiply)(&(attention_product){.rows = rows,
                                                .cols = keys,
                                                .count = j->K,
                                                .a = b->q + i0 * j->wide,
                                                .a_row = j->wide,
                                                .a_step = 1,
                                                .b = b->turned,
                                                .b_row = TILE,
                                                .c = scores,
                                                .c_row = j->wide});
    for (int i = 0; i < rows; i++)
        for (int at = 0; at < keys; at += VF_LANES) {
            float *p = scores + i * j->wide + at;
            vm     seen = vi_lt(vi_iota() + at, vi_set1(i0 + i + 1));
            vf     g = vf_load(b->back + TILE - 1 - (i0 + i) + at);
            vf_store(p, vf_select(seen, vf_load(p) * g, (vf){0}));
        }
}

/* out = [q g^(i+1) | scores] [S ; v] for rows i0.. */
static void multiply(const job *j, buffers *b, int i0, int rows, int64_t count) {
    for (int i = i0; i < i0 + rows && j->of->decay.ndim >= 0; i++)
        scale_row(b->q + i * j->wide, b->q + i * j->wide, b->power[i + 1], j->K);
    QK(attention_multiply)(&(attention_product){.rows = rows,
                                                .cols = j->padded,
                                                .count = count,
                                                .a = b->q + i0 * j->wide,
                                                .a_row = j->wide,
                                                .a_step = 1,
                                                .b = b->x,
                                                .b_row = j->padded,
                                                .c = b->out + i0 * j->padded,
                                                .c_row = j->padded});
}

static void store_row(const job *j, int64_t b, int64_t t, int64_t h, const float *from) {
    const qk_linear_attention *a = j->of;
    int64_t                    at = (b * j->T + t) * j->H + h;
    float                     *to = (float *)a->out.data + at * j->V, sum = 1;
    if (a->normalize) ((float *)a->denominator.data)[at] = sum = from[j->V] + a->eps;
    scale_row(to, from, 1 / sum, j->V);
}

static void outputs(const job *j, const span *s, buffers *b) {
    load_queries(j, s, b);
    for (int i0 = 0; i0 < s->rows; i0 += BLOCK) {
        int rows = s->rows - i0 < BLOCK ? s->rows - i0 : BLOCK;
        if (!j->of->chunk) score(j, b, i0, rows, i0 + BLOCK);
        multiply(j, b, i0, rows, j->K + (j->of->chunk ? 0 : i0 + rows));
    }
    for (int i = 0; i < s->rows; i++)
        store_row(j, s->batch, position(j, s, i), s->head, b->out + i * j->padded);
}

/* S = g^rows S + k^T v */
static void add_keys(const job *j, const span *s, buffers *b) {
    if (j->of->decay.ndim >= 0) scale_row(b->x, b->x, b->power[s->rows], state_floats(j));
    QK(attention_multiply)(&(attention_product){.rows = j->K,
                                                .cols = j->padded,
                                                .count = s->rows,
                                                .a = b->k,
                                                .a_row = 1,
                                                .a_step = attention_padded(j->K),
                                                .b = b->x + j->K * j->padded,
                                                .b_row = j->padded,
                                                .c = b->x,
                                                .c_row = j->padded,
                                                .mode = PRODUCT_ADD});
}

/* ---- Chunks and stretches -------------------------------------------------------------------------- */

/* Tiles of positions first..last-1 in the order of the walk. */
static span tile_of(const job *j, const span *head, int64_t first, int64_t last, int64_t index) {
    span    s = *head;
    int64_t tiles = (last - first + TILE - 1) / TILE;
    s.first = first + (j->of->reverse ? tiles - 1 - index : index) * TILE;
    s.rows = (int)attention_min(last - s.first, TILE);
    return s;
}

static void chunk(const job *j, const span *head, int64_t first, int64_t last, bool write, buffers *b) {
    int64_t tiles = (last - first + TILE - 1) / TILE;
    bool    apart = j->of->chunk; /* outputs of all come before any of its keys */
    for (int64_t i = 0; i < tiles && write && apart; i++) {
        span s = tile_of(j, head, first, last, i);
        outputs(j, &s, b);
    }
    for (int64_t i = 0; i < tiles; i++) {
        span s = tile_of(j, head, first, last, i);
        load_keys(j, &s, b);
        if (write && !apart) {
            turn_keys(j, &s, b);
            outputs(j, &s, b);
        }
        add_keys(j, &s, b);
    }
}

/* The chunks of a stretch, in the order of the walk, from S in b->x on. */
static void walk(const job *j, const span *head, int64_t stretch, bool write, buffers *b) {
    int64_t size = j->of->chunk ? j->of->chunk : TILE, begin = stretch * j->stretch;
    int64_t end = attention_min(begin + j->stretch, j->T), chunks = (end - begin + size - 1) / size;
    for (int64_t i = 0; i < chunks; i++) {
        int64_t first = begin + (j->of->reverse ? chunks - 1 - i : i) * size;
        chunk(j, head, first, attention_min(first + size, end), write, b);
    }
}

static void load_state(const job *j, const span *head, float *x) {
    const qp_view *v = &j->of->state;
    memset(x, 0, (size_t)state_floats(j) * sizeof *x);
    for (int64_t p = 0; v->ndim >= 0 && p < j->K; p++)
        memcpy(x + p * j->padded, row_of(v, head->batch, head->head, p), (size_t)j->columns * sizeof *x);
}

static void store_state(const job *j, const span *head, const float *x) {
    int64_t index = head->batch * j->H + head->head;
    float  *to = (float *)j->of->end.data + index * j->K * j->columns;
    for (int64_t p = 0; qp_view_count(&j->of->end) && p < j->K; p++)
        memcpy(to + p * j->columns, x + p * j->padded, (size_t)j->columns * sizeof *x);
}

static span head_of(const job *j, int64_t index) { return (span){.batch = index / j->H, .head = index % j->H}; }

static float *sum_of(const job *j, int64_t head, int64_t stretch) {
    return j->sums + (head * j->stretches + stretch) * state_floats(j);
}

/* A stretch's own sum. */
static void sum_piece(void *arg, int64_t begin, int64_t end, int worker) {
    const job *j = arg;
    buffers    b = buffers_of(j, worker);
    for (int64_t i = begin; i < end; i++) {
        span head = head_of(j, i / j->stretches);
        set_powers(j, head.head, &b);
        memset(b.x, 0, (size_t)state_floats(j) * sizeof *b.x);
        walk(j, &head, i % j->stretches, false, &b);
        memcpy(sum_of(j, i / j->stretches, i % j->stretches), b.x, (size_t)state_floats(j) * sizeof *b.x);
    }
}

/* Sums become what lies before each stretch. */
static void join_piece(void *arg, int64_t begin, int64_t end, int worker) {
    const job *j = arg;
    buffers    b = buffers_of(j, worker);
    for (int64_t i = begin; i < end; i++) {
        span head = head_of(j, i);
        load_state(j, &head, b.x);
        for (int64_t k = 0; k < j->stretches; k++) {
            int64_t at = j->of->reverse ? j->stretches - 1 - k : k,
                    positions = attention_min(j->T - at * j->stretch, j->stretch);
            float  *own = sum_of(j, i, at), g = 1;
            if (j->of->decay.ndim >= 0)
                g = (float)pow((double)((const float *)j->of->decay.data)[head.head * j->of->decay.stride[0]],
                               (double)positions);
            for (int64_t f = 0; f < state_floats(j); f += VF_LANES) {
                vf before = vf_load(b.x + f);
                vf_store(b.x + f, vf_fma(before, vf_set1(g), vf_load(own + f)));
                vf_store(own + f, before);
            }
        }
        store_state(j, &head, b.x);
    }
}

static void output_piece(void *arg, int64_t begin, int64_t end, int worker) {
    const job *j = arg;
    buffers    b = buffers_of(j, worker);
    for (int64_t i = begin; i < end; i++) {
        span head = head_of(j, i / j->stretches);
        set_powers(j, head.head, &b);
        if (j->stretches > 1)
            memcpy(b.x, sum_of(j, i / j->stretches, i % j->stretches), (size_t)state_floats(j) * sizeof *b.x);
        else load_state(j, &head, b.x);
        walk(j, &head, i % j->stretches, true, &b);
        if (j->stretches == 1) store_state(j, &head, b.x);
    }
}

/* ---- A few positions: one after the other ---------------------------------------------------------- */

/* Rows of S before and after a position. */
typedef struct {
    const float *from; /* NULL: zeros */
    float       *to;
    int64_t      from_row, to_row;
} passage;

/* to = g from + k v^T, out = q to, of position i; v has its one behind it. */
static void step(const job *j, const span *s, const passage *at, const float *v, float g, float *out) {
    const qk_linear_attention *a = j->of;
    const float               *q = row_of(&a->q, s->batch, s->first, s->head),
                *k = row_of(&a->k, s->batch, s->first, s->head);
    int64_t width = a->k.shape[3];
    memset(out, 0, (size_t)j->padded * sizeof *out);
    for (int64_t p = 0; p < j->K; p++) {
        vf           key = vf_set1(p < width ? k[p] : more(&a->k_more, j, s, 0));
        vf           query = vf_set1(p < width ? q[p] : more(&a->q_more, j, s, 0));
        const float *from = at->from ? at->from + p * at->from_row : NULL;
        float       *to = at->to + p * at->to_row;
        for (int64_t c = 0; c < j->columns; c += VF_LANES) {
            int n = (int)attention_min(j->columns - c, VF_LANES);
            vf  state = key * vf_load(v + c);
            if (from)
                state = vf_fma(n == VF_LANES ? vf_load(from + c) : vf_load_n(from + c, n), vf_set1(g), state);
            if (n == VF_LANES) vf_store(to + c, state);
            else vf_store_n(to + c, state, n);
            vf_store(out + c, vf_fma(query, state, vf_load(out + c)));
        }
    }
}

static void few_piece(void *arg, int64_t begin, int64_t end, int worker) {
    const job                 *j = arg;
    const qk_linear_attention *a = j->of;
    buffers                    b = buffers_of(j, worker);
    float                     *v = b.x + j->K * j->padded;
    for (int64_t i = begin; i < end; i++) {
        span    s = head_of(j, i);
        bool    kept = qp_view_count(&a->end) > 0;
        passage at = {.to = kept ? (float *)a->end.data + i * j->K * j->columns : b.x,
                      .to_row = kept ? j->columns : j->padded};
        s.rows = 1;
        set_powers(j, s.head, &b);
        if (a->state.ndim >= 0) at.from = row_of(&a->state, s.batch, s.head, 0);
        if (a->state.ndim >= 0) at.from_row = a->state.stride[2];
        for (int64_t t = 0; t < j->T; t++) {
            s.first = a->reverse ? j->T - 1 - t : t;
            memcpy(v, row_of(&a->v, s.batch, s.first, s.head), (size_t)j->V * sizeof *v);
            for (int64_t c = j->V; c < j->padded; c++) v[c] = c < j->columns ? 1 : 0;
            step(j, &s, &at, v, b.power[1], b.out);
            store_row(j, s.batch, s.first, s.head, b.out);
            at.from = at.to;
            at.from_row = at.to_row;
        }
    }
}

void QK(qk_linear_attention_run)(const qp_exec *exec, const qk_linear_attention *a) {
    job j = plan(a);
    if (!j.B || !j.H) return;
    j.sums = exec->scratch;
    j.workers = j.sums + (j.stretches > 1 ? j.B * j.H * j.stretches * state_floats(&j) : 0);
    if (j.T > 0 && j.T <= FEW_ROWS && !a->chunk) {
        qp_parallel(exec, j.B * j.H, 1, few_piece, &j);
        return;
    }
    if (j.stretches != 1) {
        qp_parallel(exec, j.B * j.H * j.stretches, 1, sum_piece, &j);
        qp_parallel(exec, j.B * j.H, 1, join_piece, &j);
    }
    qp_parallel(exec, j.B * j.H * j.stretches, 1, output_piece, &j);
}
