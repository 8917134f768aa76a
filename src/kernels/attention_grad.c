/* Attention, backward. With P = e^(S - lse), D = rowsum(dO O) - dlse:
 *
 *   dV = P^T dO,  dS = P (dO V^T - D),  dbias = dS,  dK = scale dS^T Q,  dQ = scale dS K
 *
 * where, for dK and dQ, dS is multiplied by the slope of the soft cap, if there is one.
 *
 * One pass: a piece takes tiles of one key head in ascending order, keeps a tile's dQ until
 * it has met all keys and adds to dK and dV as it goes. Where there are few heads, pieces
 * share one: each then has a dK and dV of its own, which are summed in order. Pieces that
 * meet in an element of dbias are one piece, and so with the tables of distances: dS adds up in their
 * gradients, and what came to the sums of columns is read into dO V^T, as they are into the scores. */
#include "kernels/attention_relative.h"

#define PIECES 16 /* wanted before heads are shared */
#define SHARES 8  /* of one head at most */

typedef struct {
    const qk_attention_grad *of;
    int64_t                  batches, heads; /* that pieces are made of; the rest are loops within */
    int64_t                  shares, tiles, blocks;
    bool                     own; /* pieces have a dK and dV of their own */
    float                   *workers, *parts;
    int64_t                  worker_floats, part_floats;
} job;

/* What a tile carries over all blocks of keys; [feature][lane] and, with `rows`, [row][feature]. */
typedef struct {
    float *q, *dout, *q_rows, *dout_rows, *dq;
    float *s, *ds, *k, *v, *slope; /* of one block; slope: of the soft cap, if there is one */
    float  lse[TILE], d[TILE];
} buffers;

static bool wanted(const qp_view *v) { return v->ndim >= 0; }
static bool unit(const qp_view *v) { return !wanted(v) || v->shape[3] <= 1 || v->stride[3] == 1; }

static job plan(const qk_attention_grad *g) {
    const qk_attention *a = &g->of;
    int64_t             width = a->q.shape[3], values = a->v.shape[3], keys = a->k.shape[1];
    const qp_view      *onto[] = {&g->dbias, &g->drelative, &g->drelative_keys};
    bool                meet = wanted(&g->drelative_keys);
    job                 j = {
        .of = g, .batches = a->q.shape[0], .heads = a->k.shape[2], .shares = 1, .tiles = attention_tiles(a)};
    int64_t block = attention_block(a);
    j.blocks = (keys + block - 1) / block;
    bool grouped = a->k.shape[2] > 0 && a->q.shape[2] > a->k.shape[2]; /* tiles of several query heads */
    for (int i = 0; i < 3; i++) {
        if (!wanted(onto[i])) continue;
        if (onto[i]->stride[0] == 0) j.batches = attention_min(j.batches, 1);
        if (onto[i]->stride[1] == 0) j.heads = attention_min(j.heads, 1);
        meet |= onto[i]->stride[2] == 0 || (grouped && onto[i]->stride[1] == 0);
    }
    int64_t pieces = j.batches * j.heads;
    if (pieces > 0 && pieces < PIECES && !meet)
        j.shares = attention_min(attention_min((PIECES + pieces - 1) / pieces, SHARES), j.tiles);
    j.own = j.shares > 1 || !unit(&g->dk) || !unit(&g->dv);
    j.worker_floats = TILE * (3 * attention_padded(width) + 2 * attention_padded(values) +
                              attention_max(2 * block, attention_padded(values))) +
                      block * (width + values + (a->softcap > 0 ? TILE : 0));
    j.part_floats = j.own ? keys * (attention_padded(width) + attention_padded(values)) : 0;
    return j;
}

static bool empty(const qk_attention *a) {
    return a->q.shape[0] * a->q.shape[1] * a->q.shape[2] * a->k.shape[1] == 0;
}

/* Every (batch, head) has parts of its own, so that loops within a piece need not clear them. */
static int64_t part_count(const job *j) { return j->of->of.q.shape[0] * j->of->of.k.shape[2] * j->shares; }

size_t QK(qk_attention_grad_scratch)(const qk_attention_grad *g, int threads) {
    if (empty(&g->of)) return 0;
    job j = plan(g);
    return (size_t)(threads * j.worker_floats + part_count(&j) * j.part_floats) * sizeof(float);
}

/* out[row][i] = scale * row[i], padded with zeros */
static void copy_rows(float *out, int64_t out_row, float *const *row, int rows, int64_t step, int64_t count,
                      float scale) {
    for (int r = 0; r < rows; r++) {
        float *p = out + r * out_row;
        for (int64_t i = 0; i < count; i++) p[i] = scale * row[r][i * step];
        for (int64_t i = count; i < out_row; i++) p[i] = 0;
    }
}

/* The part of D that the sums of columns have. */
static void add_sums(const attention_tile *t, const qk_attention_grad *g, float *d) {
    float *sums[TILE], *dsums[TILE];
    QK(attention_rows)(t, &g->of.sums, 1, 2, sums);
    QK(attention_rows)(t, &g->dsums, 1, 2, dsums);
    for (int r = 0; r < t->rows; r++)
        for (int64_t i = 0; i < g->dsums.shape[3]; i++)
            d[r] += sums[r][i * g->of.sums.stride[3]] * dsums[r][i * g->dsums.stride[3]];
}

static void load_tile(const attention_tile *t, const qk_attention_grad *g, buffers *x) {
    const qk_attention *a = &g->of;
    int64_t             width = a->q.shape[3], values = a->v.shape[3];
    float              *q[TILE], *dout[TILE], *out[TILE], *lse[TILE], *dlse[TILE];
    QK(attention_rows)(t, &a->q, 1, 2, q);
    QK(attention_rows)(t, &g->dout, 1, 2, dout);
    QK(attention_rows)(t, &a->out, 1, 2, out);
    QK(attention_rows)(t, &a->lse, 2, 1, lse);
    if (wanted(&g->dlse)) QK(attention_rows)(t, &g->dlse, 2, 1, dlse);
    QK(attention_turn)(x->q, t->lanes, q, t->rows, a->q.stride[3], width, a->scale, false);
    QK(attention_turn)(x->dout, t->lanes, dout, t->rows, g->dout.stride[3], values, 1, false);
    copy_rows(x->q_rows, attention_padded(width), q, t->rows, a->q.stride[3], width, a->scale);
    copy_rows(x->dout_rows, attention_padded(values), dout, t->rows, g->dout.stride[3], values, 1);
    memset(x->dq, 0, (size_t)(width * t->lanes) * sizeof *x->dq);
    QK(attention_turn)(x->s, t->lanes, out, t->rows, a->out.stride[3], values, 1, false);
    for (int lane = 0; lane < t->lanes; lane += VF_LANES) {
        vf d = {0};
        for (int64_t i = lane; i < values * t->lanes; i += t->lanes)
            d = vf_fma(vf_load(x->dout + i), vf_load(x->s + i), d);
        vf_store(x->d + lane, d);
    }
    if (wanted(&g->dsums)) add_sums(t, g, x->d);
    for (int r = 0; r < t->lanes; r++) {
        if (r < t->rows && wanted(&g->dlse)) x->d[r] -= *dlse[r];
        /* a row that saw nothing has lse -inf: P is to be 0 */
        x->lse[r] = r < t->rows && *lse[r] != -__builtin_inff() ? *lse[r] : __builtin_inff();
    }
}

/* s becomes P, ds (dO V^T so far) becomes dS. */
static void slopes(const attention_tile *t, const buffers *x, int64_t keys) {
    for (int lane = 0; lane < t->lanes; lane += VF_LANES) {
        vf lse = vf_load(x->lse + lane), d = vf_load(x->d + lane);
        for (int64_t j = 0; j < keys; j++) {
            float *s = x->s + j * t->lanes + lane, *ds = x->ds + j * t->lanes + lane;
            vf     p = vf_exp(vf_load(s) - lse);
            vf_store(s, p);
            vf_store(ds, p * (vf_load(ds) - d));
        }
    }
}

static void add_dbias(const attention_tile *t, const qk_attention_grad *g, const float *ds, int64_t begin,
                      int64_t end) {
    int64_t step = g->dbias.stride[3];
    float  *row[TILE];
    QK(attention_rows)(t, &g->dbias, 2, 1, row);
    for (int r = 0; r < t->rows; r++)
        for (int64_t j = begin; j < end; j++) row[r][j * step] += ds[(j - begin) * t->lanes + r];
}

/* dst[key][feature] += sum over rows of s[key][row] x[row][feature] */
static void add_to_keys(const attention_tile *t, int64_t keys, const float *s, const float *x, int64_t features,
                        float *dst, int64_t dst_row) {
    QK(attention_multiply)(&(attention_product){.rows = keys,
                                                .cols = features,
                                                .count = t->rows,
                                                .a = s,
                                                .a_row = t->lanes,
                                                .a_step = 1,
                                                .b = x,
                                                .b_row = attention_padded(features),
                                                .c = dst,
                                                .c_row = dst_row,
                                                .mode = PRODUCT_ADD});
}

/* ds[key][lane] = sum over features of v[key][feature] dout[feature][lane]; the keys behind are
 * fetched. */
static void dout_times_v(const attention_tile *t, int64_t begin, int64_t end, const buffers *x) {
    int64_t values = t->of->v.shape[3];
    QK(attention_multiply)(&(attention_product){
        .rows = end - begin,
        .cols = t->lanes,
        .real = t->rows,
        .count = values,
        .a = x->v,
        .a_row = values,
        .a_step = 1,
        .b = x->dout,
        .b_row = t->lanes,
        .c = x->ds,
        .c_row = t->lanes,
        .ahead =
            attention_next(&t->of->k, t->k, end, attention_min(end + attention_block(t->of), t->high_last))});
}

/* dq[feature][lane] += sum over keys of k[key][feature] ds[key][lane] */
static void add_dq(const attention_tile *t, int64_t keys, const buffers *x) {
    int64_t width = t->of->k.shape[3];
    QK(attention_multiply)(&(attention_product){.rows = width,
                                                .cols = t->lanes,
                                                .real = t->rows,
                                                .count = keys,
                                                .a = x->k,
                                                .a_row = 1,
                                                .a_step = width,
                                                .b = x->ds,
                                                .b_row = t->lanes,
                                                .c = x->dq,
                                                .c_row = t->lanes,
                                                .mode = PRODUCT_ADD});
}

/* Where a piece adds dK and dV of (batch, head). */
typedef struct {
    float  *k, *v; /* NULL: not wanted */
    int64_t k_row, v_row;
} targets;

static void add_block(attention_tile *t, const qk_attention_grad *g, buffers *x, int64_t index,
                      const targets *to) {
    const qk_attention *a = &g->of;
    int64_t             begin, end;
    bool                masked;
    if (!QK(attention_keys)(t, index, &begin, &end, &masked)) return;
    QK(attention_pack)(&a->k, t->k, begin, end, x->k);
    QK(attention_scores)(t, x->q, x->k, a->k.shape[3], begin, end, masked,
                         attention_next(&a->v, t->v, begin, end), x->s, x->slope);
    QK(attention_pack)(&a->v, t->v, begin, end, x->v);
    dout_times_v(t, begin, end, x);
    if (wanted(&g->dsums)) {
        qp_view by_head = g->dsums; /* [B, T, H, C] as [B, H, T, C] */
        by_head.stride[1] = g->dsums.stride[2];
        by_head.stride[2] = g->dsums.stride[1];
        QK(attention_gather)(t, &by_head, false, begin, end, x->ds);
    }
    slopes(t, x, end - begin);
    if (to->v)
        add_to_keys(t, end - begin, x->s, x->dout_rows, a->v.shape[3], to->v + begin * to->v_row, to->v_row);
    if (wanted(&g->dbias)) add_dbias(t, g, x->ds, begin, end);
    if (wanted(&g->drelative)) QK(attention_scatter)(t, &g->drelative, false, begin, end, x->ds);
    if (wanted(&g->drelative_keys)) QK(attention_scatter)(t, &g->drelative_keys, true, begin, end, x->ds);
    for (int64_t i = 0; a->softcap > 0 && i < (end - begin) * t->lanes; i += VF_LANES)
        vf_store(x->ds + i, vf_load(x->ds + i) * vf_load(x->slope + i));
    if (to->k)
        add_to_keys(t, end - begin, x->ds, x->q_rows, a->k.shape[3], to->k + begin * to->k_row, to->k_row);
    if (wanted(&g->dq)) add_dq(t, end - begin, x);
}

static void store_dq(const attention_tile *t, const qk_attention_grad *g, const buffers *x) {
    float *row[TILE], scale[TILE];
    for (int r = 0; r < TILE; r++) scale[r] = g->of.scale;
    QK(attention_rows)(t, &g->dq, 1, 2, row);
    QK(attention_return)(row, t->rows, g->dq.stride[3], x->dq, t->lanes, g->dq.shape[3], scale, true);
}

static buffers buffers_of(const job *j, int worker) {
    const qk_attention *a = &j->of->of;
    int64_t width = TILE * attention_padded(a->q.shape[3]), values = TILE * attention_padded(a->v.shape[3]);
    int64_t block = attention_block(a);
    buffers x;
    x.q = j->workers + worker * j->worker_floats;
    x.q_rows = x.q + width;
    x.dq = x.q_rows + width;
    x.dout = x.dq + width;
    x.dout_rows = x.dout + values;
    x.s = x.dout_rows + values;
    x.ds = x.s + TILE * block;
    x.k = x.s + TILE * attention_max(2 * block, attention_padded(a->v.shape[3]));
    x.v = x.k + block * a->k.shape[3];
    x.slope = x.v + block * a->v.shape[3];
    return x;
}

static float *part_of(const job *j, int64_t batch, int64_t head, int64_t share) {
    return j->parts + ((batch * j->of->of.k.shape[2] + head) * j->shares + share) * j->part_floats;
}

static float *at_head(const qp_view *v, int64_t batch, int64_t head) {
    return wanted(v) ? (float *)v->data + batch * v->stride[0] + head * v->stride[2] : NULL;
}

/* One share of the tiles of one (batch, head). */
static void head_share(const job *j, int64_t batch, int64_t head, int64_t share, buffers *x) {
    const qk_attention_grad *g = j->of;
    int64_t                  width = attention_padded(g->of.q.shape[3]);
    attention_tile           t;
    targets to = {at_head(&g->dk, batch, head), at_head(&g->dv, batch, head), g->dk.stride[1], g->dv.stride[1]};
    if (j->own) {
        float *part = part_of(j, batch, head, share);
        memset(part, 0, (size_t)j->part_floats * sizeof *part);
        if (to.k) to.k = part;
        if (to.v) to.v = part + g->of.k.shape[1] * width;
        to.k_row = width;
        to.v_row = attention_padded(g->of.v.shape[3]);
    }
    for (int64_t tile = share; tile < j->tiles; tile += j->shares) {
        QK(attention_open)(&t, &g->of, batch, head, tile * TILE);
        load_tile(&t, g, x);
        for (int64_t b = 0; b < j->blocks; b++) add_block(&t, g, x, b, &to);
        if (wanted(&g->dq)) store_dq(&t, g, x);
    }
}

static void piece(void *arg, int64_t begin, int64_t end, int worker) {
    const job          *j = arg;
    const qk_attention *a = &j->of->of;
    int64_t             share = begin % j->shares, index = begin / j->shares;
    int64_t             batch = index / j->heads, head = index % j->heads;
    int64_t             last_batch = j->batches < a->q.shape[0] ? a->q.shape[0] : batch + 1;
    int64_t             last_head = j->heads < a->k.shape[2] ? a->k.shape[2] : head + 1;
    buffers             x = buffers_of(j, worker);
    (void)end;
    for (int64_t b = batch; b < last_batch; b++)
        for (int64_t h = head; h < last_head; h++) head_share(j, b, h, share, &x);
}

/* Rows of dst += the parts' rows, shares ascending. */
static void join(const job *j, const qp_view *dst, int64_t batch, int64_t head, int64_t offset) {
    if (!wanted(dst)) return;
    int64_t row = attention_padded(dst->shape[3]);
    float  *to = at_head(dst, batch, head);
    for (int64_t share = 0; share < j->shares; share++) {
        const float *from = part_of(j, batch, head, share) + offset;
        for (int64_t key = 0; key < dst->shape[1]; key++)
            for (int64_t i = 0; i < dst->shape[3]; i++)
                to[key * dst->stride[1] + i * dst->stride[3]] += from[key * row + i];
    }
}

static void join_piece(void *arg, int64_t begin, int64_t end, int worker) {
    const job          *j = arg;
    const qk_attention *a = &j->of->of;
    int64_t             batch = begin / a->k.shape[2], head = begin % a->k.shape[2];
    (void)end;
    (void)worker;
    join(j, &j->of->dk, batch, head, 0);
    join(j, &j->of->dv, batch, head, a->k.shape[1] * attention_padded(a->q.shape[3]));
}

void QK(qk_attention_grad_run)(const qp_exec *exec, const qk_attention_grad *g) {
    if (empty(&g->of)) return;
    job j = plan(g);
    j.workers = exec->scratch;
    j.parts = j.workers + exec->threads * j.worker_floats;
    qp_parallel(exec, j.batches * j.heads * j.shares, 1, piece, &j);
    if (j.own) qp_parallel(exec, g->of.q.shape[0] * g->of.k.shape[2], 1, join_piece, &j);
}
