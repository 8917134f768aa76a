/* What depends on the distance of a key from a query: tables [B, H, T, C] whose column is chosen by the
 * distance, read into the scores of a tile and, backward, added to. */
#include "kernels/attention_relative.h"

#define SPAN (TILE + 130) /* distances of a block at most */

typedef struct {
    int64_t place[TILE]; /* of rows */
    int64_t low;         /* smallest distance; the largest is low + count - 1 */
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

/* The columns of n distances from `from` on, up or down. */
static void columns_of(const qk_attention *a, int64_t columns, int64_t from, int step, int n, int32_t *out) {
    const qp_view *v = &a->columns;
    int64_t        reach = ((v->ndim < 0 ? columns : v->shape[0]) - 1) / 2;
    const int64_t *of = v->data;
    int32_t far = (int32_t)reach, first = (int32_t)attention_min(attention_max(from, -reach - n), reach + n);
    for (int i = 0; i < n; i++) {
        int32_t distance = first + step * i;
        out[i] = (distance < -far ? -far : distance > far ? far : distance) + far;
    }
    for (int i = 0; v->ndim >= 0 && i < n; i++) out[i] = (int32_t)of[out[i] * v->stride[0]];
}

static void open_distances(const attention_tile *t, int64_t columns, int64_t begin, int64_t end, distances *d) {
    int64_t least = INT64_MAX, most = INT64_MIN, first = key_position(t, begin),
            last = key_position(t, end - 1);
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
    columns_of(t->of, columns, d->low, 1, d->count, d->column);
}

/* Nodes of other blocks may lie beyond the span: nobody sees them here. */
static int32_t column_at(const distances *d, int64_t distance) {
    int64_t i = attention_min(attention_max(distance - d->low, 0), d->count - 1);
    return d->column[i];
}

/* x += p, or p += x, for each pair: x of the tile, p of the table. */
static inline __attribute__((always_inline)) void each_pair(const attention_tile *t, const qp_view *v,
                                                            bool keys, int64_t begin, int64_t end, float *s,
                                                            const bool scatter) {
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

/* Where every query reads the same row, the pairs of a diagonal have one value: line[(end - 1 - key) group +
 * lane], for which one element of the table stands for each query, real or not. */
typedef struct {
    float  *line;
    int     queries;
    float  *head;
    int32_t column[SPAN];
} diagonals;

static bool open_diagonals(const attention_tile *t, const qp_view *v, int64_t begin, int64_t end, float *room,
                           diagonals *d) {
    if (v->stride[2] != 0 || t->tree || t->group > ATTENTION_NEAR) return false;
    int64_t first = t->row0 - (end - 1) * t->group, last = t->row0 + t->lanes - 1 - begin * t->group;
    int64_t query = first / t->group - (first % t->group < 0);
    d->queries = (int)((last - query * t->group) / t->group + 1);
    d->line = room + (first - query * t->group);
    d->head = (float *)v->data + t->batch * v->stride[0] + t->head * t->group * v->stride[1];
    columns_of(t->of, v->shape[3], -query - t->start, -1, d->queries, d->column);
    return true;
}

const float *QK(attention_line)(const attention_tile *t, const qp_view *v, int64_t begin, int64_t end,
                                float *room) {
    diagonals d;
    if (!open_diagonals(t, v, begin, end, room, &d)) return NULL;
    for (int64_t h = 0; h < t->group; h++)
        for (int i = 0; i < d.queries; i++)
            room[i * t->group + h] = d.head[h * v->stride[1] + d.column[i] * v->stride[3]];
    return d.line + (end - 1 - begin) * t->group;
}

static bool take_line(const attention_tile *t, const qp_view *v, int64_t begin, int64_t end, const float *s) {
    float     room[ATTENTION_LINE] = {0};
    diagonals d;
    if (!open_diagonals(t, v, begin, end, room, &d)) return false;
    float *line = d.line + (end - 1 - begin) * t->group;
    for (int64_t j = begin; j < end; j++, s += t->lanes, line -= t->group)
        for (int lane = 0; lane < t->lanes; lane += VF_LANES)
            vf_store(line + lane, vf_load(line + lane) + vf_load(s + lane));
    for (int64_t h = 0; h < t->group; h++)
        for (int i = 0; i < d.queries; i++)
            d.head[h * v->stride[1] + d.column[i] * v->stride[3]] += room[i * t->group + h];
    return true;
}

void QK(attention_gather)(const attention_tile *t, const qp_view *v, bool keys, int64_t begin, int64_t end,
                          float *s) {
    each_pair(t, v, keys, begin, end, s, false);
}

void QK(attention_scatter)(const attention_tile *t, const qp_view *v, bool keys, int64_t begin, int64_t end,
                           float *s) {
    if (keys || !take_line(t, v, begin, end, s)) each_pair(t, v, keys, begin, end, s, true);
}

void QK(attention_sum_columns)(const attention_tile *t, int64_t begin, int64_t end, const float *s,
                               float *out) {
    int64_t   columns = t->of->sums.shape[3];
    distances d;
    memset(out, 0, (size_t)(columns * t->lanes) * sizeof *out);
    open_distances(t, columns, begin, end, &d);
    for (int64_t j = begin; j < end; j++, s += t->lanes) {
        int64_t position = key_position(t, j);
        for (int r = 0; r < t->rows; r++) out[column_at(&d, position - d.place[r]) * t->lanes + r] += s[r];
    }
}
