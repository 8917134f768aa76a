/* Ops over lists of tensors: inputs come in groups of equal length, one group for each tensor of
 * the list. Every tensor is cut at the same grain, and one qp_parallel runs over all pieces. */
#ifndef QUIPU_KERNELS_LIST_H
#define QUIPU_KERNELS_LIST_H

#include "quipu/op.h"

#define QK_LIST_GRAIN 65536 /* elements of a piece: below it memory speed falls (by 8% at 4096) */

/* The bits of `bits`, once for each of n groups of `length` inputs; length * n at most 63. */
#define QK_EACH_GROUP(bits, length, n) \
    ((bits) * (((UINT64_C(1) << (length) * (n)) - 1) / ((UINT64_C(1) << (length)) - 1)))

typedef struct {
    int     n;
    int64_t count[QP_MAX_IN];     /* elements of each tensor */
    int64_t first[QP_MAX_IN + 1]; /* its first piece; at n: all pieces */
} qk_list;

/* Tensors are inputs start, start + length, .. */
static inline qk_list qk_list_of(const qp_call *c, int start, int length) {
    qk_list l = {0};
    for (int i = start; i < c->nin; i += length) {
        l.count[l.n] = qp_view_count(&c->in[i]);
        l.first[l.n + 1] = l.first[l.n] + (l.count[l.n] + QK_LIST_GRAIN - 1) / QK_LIST_GRAIN;
        l.n++;
    }
    return l;
}

/* The tensor of a piece, and its elements begin..end-1. */
static inline int qk_list_piece(const qk_list *l, int64_t piece, int64_t *begin, int64_t *end) {
    int i = 0;
    while (piece >= l->first[i + 1]) i++;
    *begin = (piece - l->first[i]) * QK_LIST_GRAIN;
    *end = *begin + QK_LIST_GRAIN < l->count[i] ? *begin + QK_LIST_GRAIN : l->count[i];
    return i;
}

#endif
