/* What depends on the distance of a key from a query: tables [B, H, T, C] whose column is chosen by the
 * distance, read into the scores of a tile and, backward, added to. */
#include "kernels/attention_relative.h"

#define NEAR 8                          /* query heads of a key head up to which rows share a line */
#define LINE_LENGTH (TILE + 128 * NEAR) /* keys of a block: 128 at most */
#define SPAN (TILE + 128)               /* distances of a block at most */

typedef struct {
    int64_t place[TILE];  /* of rows */
    int64_t low;          /* smallest distance; the largest is low + count - 1 */
    int     count;
    int32_t column[SPAN]; /* of each distance */
} distances;

static int64_t key_position(const attention_tile *t, int64_t key) {
    int64_t node = key - t->start;
    return t->tree && node >= 0 && node < t->of->q.shape[1] ? t->start + t->depth[node] : key;
}

static int64_t row_place(const attention_tile *t, int r) {
    int64_t query = (t->row0 + r) / t->group;
    return t->start + (t->tree ? t->depth[query] : query);
}

static int32_t column_of(const qk_attention *a, int64_t columns, int64_t distance) {
    int64_t reach = ((a->columns.ndim < 0 ? columns : a->columns.shape[0]) - 1) / 2;
    int64_t i = attention_min(attention_max(distance, -reach), reach) + reach;
    return (int32_t)(a->columns.ndim < 0 ? i : qk_integer(&a->columns, i, 0));
}

static void open_distances(const attention_tile *t, int64_t columns, int64_t begin, int64_t end, distances *d) {
    int64_t least = INT64_MAX, most = INT64_MIN, first = key_position(t, begin), last = key_position(t, end - 1);
    for (int r = 0; r < t->rows; r++) {
        d->place[r] = row_place(t, r);
        least = attention_min(least, d->place[r]);
        most = attention_max(most, d->place[r]);
    }
    for (int64_t j = begin; j < end && t->tree; j++) {
        first = attention_min(first, key_position(t, j));
        last = attention_max(last, key_position(t, j));
    }
    d->low = first - most;
    d->count = (int)attention_min(last - first + most - least + 1, SPAN);
    for (int i = 0; i < d->count; i++) d->column[i] = column_of(t->of, columns, d->low + i);
}

/* Nodes of other blocks may lie beyond the span: nobody sees them here. */
static int32_t column_at(const distances *d, int64_t distance) {
    int64_t i = attention_min(attention_max(distance - d->low, 0), d->count - 1);
    return d->column[i];
}

/* x += p, or p += x, for each pair: x of the tile, p of the table. */
static inline __attribute__((always_inline)) void each_pair(const attention_tile *t, const qp_view *v, bool keys,
                                                            int64_t begin, int64_t end, float *s, const bool scatter) {
    distances d;
    float    *row[TILE];
    int64_t   along = keys ? v->stride[2] : 0;
    qp_view   of = *v;
    if (keys) of.stride[2] = 0;
    open_distances(t, of.shape[3], begin, end, &d);
    QK(attention_rows)(t, &of, 2, 1, row);
    for (int64_t j = begin; j < end; j++, s += t->lanes) {
        int64_t position = key_position(t, j);
        for (int r = 0; r < t->rows; r++) {
            float *p = row[r] + j * along + column_at(&d, position - d.place[r]) * of.stride[3];
            if (scatter) *p += s[r];
            else s[r] += *p;
        }
    }
}

/* Does every query read the same row, so that the tile's diagonals are of one value? */
static bool shares_line(const attention_tile *t, const qp_view *v) {
    return v->stride[2] == 0 && !t->tree && t->group <= NEAR;
}

/* line[u], u = lane + (end - 1 - key) group, stands for the pairs of a diagonal: it is set from the table's
 * element, or that gets it. */
static inline __attribute__((always_inline)) void each_diagonal(const attention_tile *t, const qp_view *v,
                                                                int64_t begin, int64_t end, float *line,
                                                                const bool scatter) {
    float  *head = (float *)v->data + t->batch * v->stride[0] + t->head * t->group * v->stride[1];
    int64_t first = t->row0 - (end - 1) * t->group, count = t->lanes + (end - 1 - begin) * t->group;
    int64_t query = first / t->group - (first % t->group < 0), member = first - query * t->group;
    for (int64_t u = 0; u < count; query++, member = 0) {
        float *p = head + column_of(t->of, v->shape[3], -query - t->start) * v->stride[3];
        for (; member < t->group && u < count; member++, u++)
            if (scatter) p[member * v->stride[1]] += line[u];
            else line[u] = p[member * v->stride[1]];
    }
}

static void add_line(const attention_tile *t, const qp_view *v, int64_t begin, int64_t end, float *s) {
    float line[LINE_LENGTH];
    each_diagonal(t, v, begin, end, line, false);
    for (int64_t j = begin; j < end; j++, s += t->lanes)
        for (int lane = 0; lane < t->lanes; lane += VF_LANES)
            vf_store(s + lane, vf_load(s + lane) + vf_load(line + (end - 1 - j) * t->group + lane));
}

static void take_line(const attention_tile *t, const qp_view *v, int64_t begin, int64_t end, const float *s) {
    float line[LINE_LENGTH] = {0};
    for (int64_t j = begin; j < end; j++, s += t->lanes)
        for (int lane = 0; lane < t->lanes; lane += VF_LANES) {
            float *p = line + (end - 1 - j) * t->group + lane;
            vf_store(p, vf_load(p) + vf_load(s + lane));
        }
    each_diagonal(t, v, begin, end, line, true);
}

void QK(attention_gather)(const attention_tile *t, const qp_view *v, bool keys, int64_t begin, int64_t end, float *s) {
    if (!keys && shares_line(t, v)) {
        add_line(t, v, begin, end, s);
        return;
    }
    each_pair(t, v, keys, begin, end, s, false);
}

void QK(attention_scatter)(const attention_tile *t, const qp_view *v, bool keys, int64_t begin, int64_t end,
                           float *s) {
    if (!keys && shares_line(t, v)) {
        take_line(t, v, begin, end, s);
        return;
    }
    each_pair(t, v, keys, begin, end, s, true);
}

void QK(attention_sum_columns)(const attention_tile *t, int64_t begin, int64_t end, const float *s, float *out) {
    int64_t   columns = t->of->sums.shape[3];
    distances d;
    memset(out, 0, (size_t)(columns * t->lanes) * sizeof *out);
    open_distances(t, columns, begin, end, &d);
    for (int64_t j = begin; j < end; j++, s += t->lanes) {
        int64_t position = key_position(t, j);
        for (int r = 0; r < t->rows; r++) out[column_at(&d, position - d.place[r]) * t->lanes + r] += s[r];
    }
}
