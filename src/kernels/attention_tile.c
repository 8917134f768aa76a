/* Tiles of attention: who sees which key, scores, and rows to and from the lanes. */
#include "core/blocks.h"
#include "kernels/attention_relative.h"
#include "kernels/turn.h"

static int64_t segment_at(const attention_tile *t, int64_t key) {
    return qk_integer(&t->of->segments, t->batch, key);
}

static void open_segment(attention_tile *t, int r, int64_t key) {
    int64_t segment = segment_at(t, key);
    t->segment[0][r] = (int32_t)(uint32_t)segment;
    t->segment[1][r] = (int32_t)(uint32_t)((uint64_t)segment >> 32);
    if (r == 0 || segment < t->segment_low) t->segment_low = segment;
    if (r == 0 || segment > t->segment_high) t->segment_high = segment;
}

/* The query's ancestors and itself, as far back as the window; its place. */
static int64_t open_path(attention_tile *t, int r, int64_t query) {
    const qk_attention *a = t->of;
    uint64_t            path = 0;
    int64_t             seen = 0;
    for (int64_t i = query; i >= 0; i = qk_integer(&a->parents, t->batch, i), seen++)
        if (!a->window || seen < a->window) path |= UINT64_C(1) << i;
    t->path[0][r] = (int32_t)(uint32_t)path;
    t->path[1][r] = (int32_t)(uint32_t)(path >> 32);
    return t->start + seen - 1;
}

static void open_row(attention_tile *t, int r) {
    const qk_attention *a = t->of;
    int64_t             query = (t->row0 + r) / t->group, place = t->start + query;
    int64_t             low = 0, high = t->keys;
    if (a->segments.ndim >= 0) open_segment(t, r, place);
    if (t->tree) {
        place = open_path(t, r, query);
        high = attention_min(high, t->start);
    } else if (a->causal) {
        high = attention_min(high, place + 1);
    } else if (a->window) {
        high = attention_min(high, place + a->window);
    }
    if (a->window) low = attention_max(low, place - a->window + 1);
    if (a->pattern.block) t->block[r] = place < 0 ? -1 : (int32_t)(place / a->pattern.block);
    high = attention_max(high, 0);
    t->low[r] = (int32_t)attention_min(low, high);
    t->high[r] = (int32_t)high;
}

static void open_tree(attention_tile *t) {
    int64_t queries = t->of->q.shape[1];
    for (int64_t i = 0; i < queries; i++) {
        int64_t parent = qk_integer(&t->of->parents, t->batch, i);
        t->depth[i] = (uint8_t)(parent < 0 ? 0 : t->depth[parent] + 1);
    }
}

/* Lanes beyond the rows are like row 0; rows ascend in what they see, but for trees. */
static void close_rows(attention_tile *t) {
    for (int r = t->rows; r < t->lanes; r++) {
        t->low[r] = t->low[0];
        t->high[r] = t->high[0];
        t->block[r] = t->block[0];
        for (int word = 0; word < 2; word++) {
            t->segment[word][r] = t->segment[word][0];
            t->path[word][r] = t->path[word][0];
        }
    }
    t->low_first = t->low[0];
    t->low_last = t->low[t->rows - 1];
    t->high_first = t->high[0];
    t->high_last = t->high[t->rows - 1];
    for (int r = 0; r < t->rows && t->tree; r++) {
        t->low_first = attention_min(t->low_first, t->low[r]);
        t->low_last = attention_max(t->low_last, t->low[r]);
    }
}

static const void *keys_of(const qp_view *v, int64_t row, int64_t head) {
    int64_t at = row * v->stride[0] + head * v->stride[2];
    return (const char *)v->data + qp_dtype_size(v->dtype, at);
}

void QK(attention_open)(attention_tile *t, const qk_attention *a, int64_t batch, int64_t head, int64_t row0) {
    int64_t group = a->q.shape[2] / a->k.shape[2], keys = a->k.shape[1];
    t->of = a;
    t->batch = batch;
    t->head = head;
    t->group = group;
    t->row0 = row0;
    t->rows = (int)attention_min(a->q.shape[1] * group - row0, TILE);
    t->lanes = (int)attention_padded(t->rows);
    t->keys = a->lengths.ndim < 0 ? keys : qk_integer(&a->lengths, batch, 0);
    t->prefix = attention_min(a->prefix, t->keys);
    t->start = qk_attention_start(a, batch);
    t->tree = a->parents.ndim >= 0;
    t->k = keys_of(&a->k, qk_attention_row(a, batch), head);
    t->v = keys_of(&a->v, qk_attention_row(a, batch), head);
    if (t->tree) open_tree(t);
    for (int r = 0; r < t->rows; r++) open_row(t, r);
    close_rows(t);
}

/* The nodes whose positions lie within start..stop-1 join the keys *from..*to-1. Their keys lie
 * no earlier, as a node comes after its ancestors. */
static void add_nodes(attention_tile *t, int64_t start, int64_t stop, int64_t *from, int64_t *to) {
    int64_t queries = attention_min(t->of->q.shape[1], t->keys - t->start);
    t->nodes = 0;
    for (int64_t i = 0; i < queries; i++) {
        int64_t position = t->start + t->depth[i], key = t->start + i;
        if (position < start || position >= stop || key < t->prefix) continue;
        t->nodes |= UINT64_C(1) << i;
        if (*from >= *to) *from = *to = key;
        *to = attention_max(*to, key + 1);
    }
}

/* Are all segments of the keys one, that of all rows? False in *some: none is any row's. */
static bool one_segment(const attention_tile *t, int64_t from, int64_t to, bool *some) {
    int64_t low = segment_at(t, from), high = low;
    for (int64_t j = from + 1; j < to; j++) {
        int64_t s = segment_at(t, j);
        low = attention_min(low, s);
        high = attention_max(high, s);
    }
    *some = high >= t->segment_low && low <= t->segment_high;
    return low == high && low == t->segment_low && low == t->segment_high;
}

/* qb -1: places before the first. */
static bool block_sees(const attention_tile *t, int64_t qb, int64_t kb) {
    return qb >= 0 && qk_pattern_sees(&t->of->pattern, t->of->causal, qb, kb);
}

/* Leaves of the keys what begins and ends with a block of the pattern that some row sees (the prefix
 * counts); false: nothing. *masked: some row does not see all of what is left. */
static bool some_blocks(const attention_tile *t, int64_t *from, int64_t *to, bool *masked) {
    int64_t size = t->of->pattern.block, begin = INT64_MAX, end = 0;
    bool    hole = false; /* between two blocks that are seen */
    for (int64_t block = *from / size; block * size < *to; block++) {
        int64_t first = attention_max(*from, block * size), last = attention_min(*to, (block + 1) * size);
        bool    any = first < t->prefix, all = true;
        for (int64_t qb = t->block[0]; qb <= t->block[t->rows - 1] && last > t->prefix; qb++) {
            bool sees = block_sees(t, qb, block);
            any |= sees;
            all &= sees;
        }
        if (!any) hole = begin < end;
        if (!any) continue;
        *masked |= hole || !all;
        begin = attention_min(begin, first);
        end = last;
    }
    *from = begin;
    *to = end;
    return begin < end;
}

bool QK(attention_keys)(attention_tile *t, int64_t block, int64_t *begin, int64_t *end, bool *masked) {
    int64_t size = attention_block(t->of), start = block * size, stop = start + size;
    int64_t last = attention_min(stop, t->keys);
    int64_t from = attention_max(start, t->low_first), to = attention_min(last, t->high_last);
    if (start < t->prefix) {
        from = start;
        to = attention_max(to, attention_min(last, t->prefix));
    }
    int64_t before = to;
    if (t->tree) add_nodes(t, start, stop, &from, &to);
    if (from >= to) return false;
    int64_t seen = from < t->prefix ? attention_max(t->prefix, t->low_last <= t->prefix ? t->high_first : 0)
                   : from >= t->low_last ? t->high_first
                                         : 0;
    *masked = to > seen || to > before;
    if (t->of->pattern.block && !some_blocks(t, &from, &to, masked)) return false;
    *begin = from;
    *end = to;
    if (t->of->segments.ndim < 0) return true;
    bool some;
    if (!one_segment(t, from, to, &some)) *masked = true;
    return some;
}

/* Which rows see a node's key? Nobody, if its block is another. */
static vm on_path(const attention_tile *t, int64_t node, int lane) {
    if (!(t->nodes >> node & 1)) return vm_first(0);
    vi bit = vi_set1((int32_t)(UINT32_C(1) << node % 32));
    return vi_eq(vi_load(t->path[node / 32] + lane) & bit, bit);
}

static void mask(const attention_tile *t, int64_t begin, int64_t end, float *s) {
    bool    segments = t->of->segments.ndim >= 0;
    int64_t block = t->of->pattern.block;
    int32_t sees[TILE] = {0}; /* the pattern's block of the key in hand */
    for (int64_t j = begin; j < end; j++) {
        bool near = j < t->prefix || (j >= t->low_last && j < t->high_first);
        bool node = t->tree && !near && j >= t->start;
        bool pattern = block && j >= t->prefix;
        for (int r = 0; pattern && (j == begin || j == t->prefix || j % block == 0) && r < t->lanes; r++)
            sees[r] =
                r && t->block[r] == t->block[r - 1] ? sees[r - 1] : -block_sees(t, t->block[r], j / block);
        if (near && !segments && !pattern) continue;
        uint64_t segment = segments ? (uint64_t)segment_at(t, j) : 0;
        vi       key = vi_set1((int32_t)j), first = vi_set1((int32_t)(uint32_t)segment);
        vi       second = vi_set1((int32_t)(uint32_t)(segment >> 32));
        for (int lane = 0; lane < t->lanes; lane += VF_LANES) {
            float *p = s + (j - begin) * t->lanes + lane;
            vm     seen = vm_first(VF_LANES);
            if (node) seen = on_path(t, j - t->start, lane);
            else if (!near) seen = vi_lt(vi_load(t->low + lane), key + 1) & vi_lt(key, vi_load(t->high + lane));
            if (segments) {
                seen &= vi_eq(vi_load(t->segment[0] + lane), first);
                seen &= vi_eq(vi_load(t->segment[1] + lane), second);
            }
            if (pattern) seen &= vi_eq(vi_load(sees + lane), vi_set1(-1));
            vf_store(p, vf_select(seen, vf_load(p), -VF_INF));
        }
    }
}

static void add_bias(const attention_tile *t, int64_t begin, int64_t end, float *s) {
    const qp_view *bias = &t->of->bias;
    int64_t        step = bias->stride[3];
    float         *row[TILE];
    QK(attention_rows)(t, bias, 2, 1, row);
    if (bias->stride[2] == 0 && (bias->stride[1] == 0 || t->group == 1)) { /* the same for all rows */
        for (int64_t j = begin; j < end; j++)
            for (int lane = 0; lane < t->lanes; lane += VF_LANES) {
                float *p = s + (j - begin) * t->lanes + lane;
                vf_store(p, vf_load(p) + row[0][j * step]);
            }
        return;
    }
    for (int r = 0; r < t->rows; r++) row[r] += begin * step;
    QK(attention_turn)(s, t->lanes, row, t->rows, step, end - begin, 1, true);
}

/* s becomes c tanh(s / c), slope 1 - tanh^2. */
static void cap(float c, int64_t n, float *s, float *slope) {
    for (int64_t i = 0; i < n; i += VF_LANES) {
        vf t = vf_tanh(vf_load(s + i) * (1 / c));
        vf_store(s + i, t * c);
        if (slope) vf_store(slope + i, 1.0f - t * t);
    }
}

/* The loop for one type: a vector of it as f32, and one element. */
#define PACK(type, vector, element) \
    for (int64_t j = begin; j < end; j++, out += width) { \
        const type *row = (const type *)first + j * v->stride[1]; \
        int64_t     i = 0; \
        for (; step == 1 && i + VF_LANES <= width; i += VF_LANES) vf_store(out + i, vector(row + i)); \
        for (; i < width; i++) out[i] = element(row[i * step]); \
    }

/* n blocks from `at` on, 32 elements each. */
static void unpack_q8(const void *first, int64_t at, int64_t n, float *out) {
    const qpi_q8_0 *block = (const qpi_q8_0 *)first + at;
    for (int64_t i = 0; i < n; i++, out += 32) {
        float d = qpi_f16_to_f32(block[i].d);
        for (int k = 0; k < 32; k++) out[k] = d * (float)block[i].q[k];
    }
}

void QK(attention_pack)(const qp_view *v, const void *first, int64_t begin, int64_t end, float *out) {
    int64_t width = v->shape[3], step = v->stride[3];
    switch (v->dtype) {
    case QP_Q8_0:
        for (int64_t j = begin; j < end; j++, out += width)
            unpack_q8(first, j * v->stride[1] / 32, width / 32, out);
        break;
    case QP_BF16: PACK(uint16_t, vf_load_bf16, qpi_bf16_to_f32) break;
    case QP_F16: PACK(uint16_t, vf_load_f16, qpi_f16_to_f32) break;
    default: PACK(float, vf_load, ) break;
    }
}

void QK(attention_scores)(const attention_tile *t, const float *q, const float *k, int64_t k_row, int64_t begin,
                          int64_t end, bool masked, attention_ahead ahead, float *s, float *slope) {
    const qp_view *relative = &t->of->relative;
    float          room[ATTENTION_LINE];
    const float   *line = NULL;
    if (relative->ndim >= 0 && !(t->of->softcap > 0)) line = QK(attention_line)(t, relative, begin, end, room);
    QK(attention_multiply)(&(attention_product){.rows = end - begin,
                                                .cols = t->lanes,
                                                .real = t->rows,
                                                .count = t->of->k.shape[3],
                                                .a = k,
                                                .a_row = k_row,
                                                .a_step = 1,
                                                .b = q,
                                                .b_row = t->lanes,
                                                .c = s,
                                                .c_row = t->lanes,
                                                .from = line,
                                                .from_row = -t->group,
                                                .ahead = ahead});
    if (t->of->softcap > 0) cap(t->of->softcap, (end - begin) * t->lanes, s, slope);
    if (t->of->bias.ndim >= 0) add_bias(t, begin, end, s);
    if (relative->ndim >= 0 && !line) QK(attention_gather)(t, relative, false, begin, end, s);
    if (t->of->relative_keys.ndim >= 0) QK(attention_gather)(t, &t->of->relative_keys, true, begin, end, s);
    if (masked) mask(t, begin, end, s);
}

void QK(attention_rows)(const attention_tile *t, const qp_view *v, int t_axis, int h_axis, float **row) {
    float *base = (float *)v->data + t->batch * v->stride[0] + t->head * t->group * v->stride[h_axis];
    for (int r = 0; r < t->rows; r++) {
        int64_t i = t->row0 + r;
        row[r] = base + i / t->group * v->stride[t_axis] + i % t->group * v->stride[h_axis];
    }
}

static int lanes_of(int64_t n) { return n < 0 ? 0 : n < VF_LANES ? (int)n : VF_LANES; }

static void fetch_rows(float *const *row, int rows, int64_t count) {
    for (int r = 0; r < rows; r++)
        for (int64_t i = 0; i < count; i += LINE) __builtin_prefetch(row[r] + i);
}

/* A square of VF_LANES rows and VF_LANES columns from i, turned; rows and columns beyond are 0. */
static inline __attribute__((always_inline)) void square(vf x[VF_LANES], float *const *row, int rows, int64_t i,
                                                         int n) {
    if (rows == VF_LANES && n == VF_LANES)
        for (int u = 0; u < VF_LANES; u++) x[u] = vf_load(row[u] + i);
    else
        for (int u = 0; u < VF_LANES; u++) x[u] = u < rows ? vf_load_n(row[u] + i, n) : (vf){0};
    turn(x);
}

void QK(attention_turn)(float *out, int lanes, float *const *row, int rows, int64_t step, int64_t count,
                        float scale, bool add) {
    if (step != 1) {
        for (int64_t i = 0; i < count; i++)
            for (int lane = 0; lane < lanes; lane++) {
                float x = lane < rows ? scale * row[lane][i * step] : 0;
                out[i * lanes + lane] = add ? out[i * lanes + lane] + x : x;
            }
        return;
    }
    fetch_rows(row, rows, count);
    for (int64_t i = 0; i < count; i += VF_LANES)
        for (int lane = 0; lane < lanes; lane += VF_LANES) {
            vf  x[VF_LANES];
            int n = lanes_of(count - i);
            square(x, row + lane, lanes_of(rows - lane), i, n);
            for (int u = 0; u < n; u++) {
                float *p = out + (i + u) * lanes + lane;
                vf_store(p, add ? vf_fma(x[u], vf_set1(scale), vf_load(p)) : x[u] * scale);
            }
        }
}

void QK(attention_return)(float *const *row, int rows, int64_t step, const float *in, int lanes, int64_t count,
                          const float *scale, bool add) {
    if (step != 1) {
        for (int64_t i = 0; i < count; i++)
            for (int lane = 0; lane < rows; lane++) {
                float x = scale[lane] * in[i * lanes + lane], *p = row[lane] + i * step;
                *p = add ? *p + x : x;
            }
        return;
    }
    fetch_rows(row, rows, count);
    for (int64_t i = 0; i < count; i += VF_LANES)
        for (int lane = 0; lane < rows; lane += VF_LANES) {
            vf  x[VF_LANES], by = vf_load(scale + lane);
            int n = lanes_of(count - i);
            for (int u = 0; u < VF_LANES; u++)
                x[u] = u < n ? by * vf_load(in + (i + u) * lanes + lane) : (vf){0};
            turn(x);
            for (int u = 0; u < lanes_of(rows - lane); u++) {
                float *p = row[lane + u] + i;
                vf_store_n(p, add ? vf_load_n(p, n) + x[u] : x[u], n);
            }
        }
}
