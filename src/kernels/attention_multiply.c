/* The register product of attention: ROWS x up to VECS vectors of sums at a time. */
#include "kernels/attention_parts.h"

#if VF_LANES == 16
#define VECS 4
#else
#define VECS 2
#endif
#define ROWS 6         /* of a register tile */
#define ROWS_NARROW 12 /* of one that is one vector wide: enough sums to fill the pipes */

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 12")
#define EACH UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < vecs; v++)

INLINE void tile(const attention_product *p, int64_t r0, int64_t j0, const int rows, const int vecs) {
    int64_t      a_row = p->a_row, a_step = p->a_step, b_row = p->b_row, c_row = p->c_row;
    const float *a = p->a + r0 * a_row, *b = p->b + j0;
    vf           sum[ROWS_NARROW][VECS];
    EACH         sum[r][v] = (vf){0};
    for (int64_t i = 0; i < p->count; i++) {
        vf y[VECS];
        UNROLL for (int v = 0; v < vecs; v++) y[v] = vf_load(b + v * VF_LANES);
        UNROLL for (int r = 0; r < rows; r++) {
            vf x = vf_set1(a[r * a_row]);
            UNROLL for (int v = 0; v < vecs; v++) sum[r][v] = vf_fma(x, y[v], sum[r][v]);
        }
        a += a_step;
        b += b_row;
    }
    float *c = p->c + r0 * c_row + j0;
    if (p->mode == PRODUCT_BLEND) { /* here keep and grow stay in registers */
        vf keep[VECS], grow[VECS];
        UNROLL for (int v = 0; v < vecs; v++) keep[v] = vf_load(p->keep + j0 + v * VF_LANES);
        UNROLL for (int v = 0; v < vecs; v++) grow[v] = vf_load(p->grow + j0 + v * VF_LANES);
        EACH {
            float *to = c + r * c_row + v * VF_LANES;
            vf_store(to, vf_fma(vf_load(to), keep[v], sum[r][v] * grow[v]));
        }
    } else {
        int  tail = (int)attention_min(p->cols - j0 - (vecs - 1) * VF_LANES, VF_LANES);
        EACH attention_end(p, r0 + r, j0 + v * VF_LANES, sum[r][v], v == vecs - 1 ? tail : VF_LANES);
    }
}

typedef void tile_fn(const attention_product *p, int64_t r0, int64_t j0);

#define DEFINE(r, v) \
    static void tile_##r##_##v(const attention_product *p, int64_t r0, int64_t j0) { tile(p, r0, j0, r, v); }
#define EACH_WIDE(X, v) X(1, v) X(2, v) X(3, v) X(4, v) X(5, v) X(6, v)
#define EACH_NARROW(X) EACH_WIDE(X, 1) X(7, 1) X(8, 1) X(9, 1) X(10, 1) X(11, 1) X(12, 1)
#define NAME(r, v) tile_##r##_##v,
EACH_NARROW(DEFINE)
EACH_WIDE(DEFINE, 2)
#if VECS == 4
EACH_WIDE(DEFINE, 3)
EACH_WIDE(DEFINE, 4)
#endif

static tile_fn *const tiles[][ROWS_NARROW + 1] = {{NULL},
                                                  {NULL, EACH_NARROW(NAME)},
                                                  {NULL, EACH_WIDE(NAME, 2)},
#if VECS == 4
                                                  {NULL, EACH_WIDE(NAME, 3)},
                                                  {NULL, EACH_WIDE(NAME, 4)}
#endif
};

/* Rows begin..end-1 into the second cache. */
static void fetch(const attention_ahead *a, int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++)
        for (int64_t i = 0; i < a->width; i += LINE) __builtin_prefetch(a->first + r * a->row + i, 0, 2);
}

void QK(attention_multiply)(const attention_product *p) {
    if (p->real > 0 && p->real <= FEW && (p->a_step == 1 || p->a_row == 1)) {
        QK(attention_multiply_few)(p);
        return;
    }
    int64_t vecs = (p->cols + VF_LANES - 1) / VF_LANES, done = 0, all = p->rows * ((vecs + VECS - 1) / VECS);
    for (int64_t v = 0; v < vecs; v += VECS) {
        int64_t wide = attention_min(vecs - v, VECS), most = wide == 1 ? ROWS_NARROW : ROWS;
        for (int64_t r = 0; r < p->rows; r += most) {
            int64_t rows = attention_min(p->rows - r, most);
            fetch(&p->ahead, done * p->ahead.rows / all, (done + rows) * p->ahead.rows / all);
            done += rows;
            tiles[wide][rows](p, r, v * VF_LANES);
        }
    }
}
