/* What the files of attention share: the register product, tiles and their masks. */
#ifndef QUIPU_KERNELS_ATTENTION_PARTS_H
#define QUIPU_KERNELS_ATTENTION_PARTS_H

#include "core/simd.h"
#include "kernels/attention.h"

#define TILE 64 /* rows */
#define LINE 16 /* floats that rows of scratch are padded to */

static inline int64_t attention_min(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t attention_max(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t attention_padded(int64_t n) { return (n + LINE - 1) / LINE * LINE; }

/* Keys of a block: it is to stay in the second cache. */
static inline int64_t attention_block(const qk_attention *a) {
    return a->q.shape[3] + a->v.shape[3] <= 256 ? 128 : 64;
}

/* Keys that are taken at once at most: nodes of a tree may lie behind their block. */
static inline int64_t attention_room(const qk_attention *a) {
    return attention_block(a) + (a->parents.ndim < 0 ? 0 : QK_ATTENTION_TREE);
}

/* Rows of floats that will be wanted next: fetched during a product. */
typedef struct {
    const float *first;
    int64_t      rows, row, width;
} attention_ahead;

/* Rows begin..end-1 of a view's [row][feature] from `first`; those of 16-bit types are not fetched. */
static inline attention_ahead attention_next(const qp_view *v, const void *first, int64_t begin, int64_t end) {
    if (v->dtype != QP_F32) return (attention_ahead){0};
    return (attention_ahead){(const float *)first + begin * v->stride[1], v->stride[3] == 1 ? end - begin : 0,
                             v->stride[1], v->shape[3]};
}

/* C = A B for r < rows, j < cols: A[r,p] = a[r * a_row + p * a_step]; B[p,j] = b[p * b_row + j],
 * rows padded to whole vectors. Every sum starts from 0 and takes p ascending, with any kernel. */
typedef struct {
    int64_t      rows, cols, count; /* count: of p */
    int64_t      real;              /* columns without padding, if that is known; 0 otherwise */
    const float *a, *b;
    int64_t      a_row, a_step, b_row;
    float       *c;
    int64_t      c_row;
    enum { PRODUCT_SET, PRODUCT_ADD, PRODUCT_BLEND } mode; /* SET, BLEND: C is padded too */
    const float    *from; /* SET: c[r,j] = sum + from[r * from_row + j], or NULL */
    int64_t         from_row;
    const float    *keep, *grow; /* BLEND: c[r,j] = keep[j] c[r,j] + grow[j] sum */
    attention_ahead ahead;
} attention_product;
void QK(attention_multiply)(const attention_product *p);

/* For a few real columns, where A is contiguous one way: it is read in place, once. */
#define FEW (VF_LANES / 2)
void QK(attention_multiply_few)(const attention_product *p);

/* The end of a product at row r, columns j.. of one vector, of which n count (ADD). */
static inline void attention_end(const attention_product *p, int64_t r, int64_t j, vf sum, int n) {
    float *c = p->c + r * p->c_row + j;
    if (p->mode == PRODUCT_SET) vf_store(c, p->from ? sum + vf_load(p->from + r * p->from_row + j) : sum);
    else if (p->mode == PRODUCT_BLEND)
        vf_store(c, vf_fma(vf_load(c), vf_load(p->keep + j), sum * vf_load(p->grow + j)));
    else if (n == VF_LANES) vf_store(c, vf_load(c) + sum);
    else vf_store_n(c, vf_load_n(c, n) + sum, n);
}

typedef struct {
    const qk_attention *of;
    int64_t             batch, head, group, row0; /* head: of the keys; group: rows per query */
    int                 rows, lanes;              /* lanes: rows padded to LINE */
    int64_t             keys, prefix;             /* that exist; of these, seen by all */
    int64_t             start;                    /* key position of query 0 */
    const void         *k, *v;                    /* of this batch row and head */
    int32_t             low[TILE], high[TILE];    /* keys that a row sees besides the prefix */
    int64_t             low_first, low_last, high_first, high_last;
    int64_t             segment_low, segment_high;
    int32_t             segment[2][TILE]; /* low and high words */
    int32_t             block[TILE];      /* of the pattern, that a row stands in */

    /* Trees: the node of query i has key start + i and position start + depth[i]. */
    bool     tree;
    uint8_t  depth[QK_ATTENTION_TREE];
    int32_t  path[2][TILE]; /* nodes that a row sees, a bit each: low and high words */
    uint64_t nodes;         /* those of the block in hand */
} attention_tile;

/* Rows of the tile from row0 of (batch, head). */
void QK(attention_open)(attention_tile *t, const qk_attention *a, int64_t batch, int64_t head, int64_t row0);

/* Keys *begin..*end-1 of a block are those that some row may see; false: there are none.
 * *masked: not every row sees all of them. The block is in hand from now on. */
bool QK(attention_keys)(attention_tile *t, int64_t block, int64_t *begin, int64_t *end, bool *masked);

/* out[key - begin][feature] = x[key][feature], x from `first` on with v's strides and type: rows that
 * lie far apart would drive each other out of the caches. */
void QK(attention_pack)(const qp_view *v, const void *first, int64_t begin, int64_t end, float *out);

/* s[key - begin][lane] = q k, capped, + bias + relative, -inf where masked; q[feature][lane] is scaled; k: rows of
 * the keys from `begin` on. slope, if not NULL, gets the derivative of the cap where there is one. */
void QK(attention_scores)(const attention_tile *t, const float *q, const float *k, int64_t k_row, int64_t begin,
                          int64_t end, bool masked, attention_ahead ahead, float *s, float *slope);

/* Element 0 of each row of a [B, T, H, ..] or [B, H, T, ..] view. */
void QK(attention_rows)(const attention_tile *t, const qp_view *v, int t_axis, int h_axis, float **row);

/* out[i][lane] = scale * row[lane][i * step], 0 beyond the rows; or added to what is there. */
void QK(attention_turn)(float *out, int lanes, float *const *row, int rows, int64_t step, int64_t count,
                        float scale, bool add);

/* row[lane][i * step] = scale[lane] * in[i][lane], or added. */
void QK(attention_return)(float *const *row, int rows, int64_t step, const float *in, int lanes, int64_t count,
                          const float *scale, bool add);

static inline int64_t attention_tiles(const qk_attention *a) {
    int64_t heads = a->k.shape[2], rows = heads ? a->q.shape[1] * (a->q.shape[2] / heads) : 0;
    return (rows + TILE - 1) / TILE;
}

#endif
