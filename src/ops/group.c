/* Sorts choices by group: index holds, for each of N rows, k groups of G. Slot m of the sorted order holds
 * row source[m]; row n's j-th choice stands in slot place[n, j]; group g has the slots offsets[g] to
 * offsets[g + 1]. Within a group rows stand in their order. With a capacity, what a group has no place for
 * goes behind offsets[G]. */
#include "ops/index.h"
#include "ops/op.h"

typedef struct {
    int64_t groups, capacity; /* capacity 0: none */
} attr;

enum { SOURCE, PLACE, OFFSETS };

#if QP_BODY
#include "ops/shape.h"

extern const qp_op qp_op_group;

static void shape(qp_call *c) {
    const attr    *a = c->attr;
    const qp_view *index = &c->in[0];
    if (!index_check_type(c, 0)) return;
    if (index->ndim < 1 || a->groups < 1 || a->groups > 1 << 24 || a->capacity < 0) {
        qp_call_fail(c, QP_ERR_ARGUMENT,
                     "%d axes, %lld groups, capacity %lld: expected [.., k], 1 to 2^24, 0 or more", index->ndim,
                     (long long)a->groups, (long long)a->capacity);
        return;
    }
    shape_set(c, SOURCE, QP_I64, 1, (int64_t[]){qp_view_count(index)});
    shape_set(c, PLACE, QP_I64, index->ndim, index->shape);
    shape_set(c, OFFSETS, QP_I64, 1, (int64_t[]){a->groups + 1});
}

static void plain(const qp_call *c) {
    const attr    *a = c->attr;
    const qp_view *index = &c->in[0];
    int64_t        n = qp_view_count(index), G = a->groups, k = n ? index->shape[index->ndim - 1] : 1;
    int64_t       *source = c->out[SOURCE].data, *place = c->out[PLACE].data, *offsets = c->out[OFFSETS].data;
    int64_t        room = a->capacity ? a->capacity : n, *next = c->exec->scratch;
    if (!index_check(c, 0, G)) return;
    memset(offsets, 0, (size_t)(G + 1) * sizeof *offsets);
    for (int64_t i = 0; i < n; i++) {
        int64_t *count = &offsets[(place[i] = index_at(index, qp_view_offset(index, i))) + 1];
        *count += *count < room;
    }
    for (int64_t g = 0; g < G; g++) offsets[g + 1] += offsets[g];
    int64_t behind = offsets[G];
    memcpy(next, offsets, (size_t)G * sizeof *next);
    for (int64_t i = 0; i < n; i++) {
        int64_t g = place[i];
        place[i] = next[g] < offsets[g + 1] ? next[g]++ : behind++;
        source[place[i]] = i / k;
    }
}

static size_t scratch(const qp_call *c, int threads) {
    (void)threads;
    return (size_t)((const attr *)c->attr)->groups * sizeof(int64_t);
}

static const qp_sample samples[] = {
    {.in = "i4[9,2]", .attr = &(attr){4, 0}},    {.in = "i3[20]", .attr = &(attr){3, 5}},
    {.in = "i1[0,2]", .attr = &(attr){1, 0}},    {.in = "i5[2,3,4]", .attr = &(attr){7, 2}},
    {.in = "i64[70,6]", .attr = &(attr){64, 0}}, {0}};

QP_OP(group) = {.name = "group",
                .source = "arXiv:2006.16668, section 3.2",
                .min_in = 1,
                .max_in = 1,
                .nout = 3,
                .attr_bytes = sizeof(attr),
                .shape = shape,
                .plain = plain,
                .scratch = scratch,
                .samples = samples};

void qp_group(qp_tensor index, int64_t groups, int64_t capacity, qp_tensor *source, qp_tensor *place,
              qp_tensor *offsets) {
    qp_tensor outs[3];
    QP_CALL_MANY(group, (&(attr){groups, capacity}), outs, index);
    *source = outs[SOURCE];
    *place = outs[PLACE];
    *offsets = outs[OFFSETS];
}
#endif
