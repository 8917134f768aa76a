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

INLINE vf   load_some(const float *p, int n) { return n == VF_LANES ? vf_load(p) : vf_load_n(p, n); }
INLINE void store_some(float *p, vf x, int n) {
    if (n == VF_LANES)
        vf_store(p, x);
    else
        vf_store_n(p, x, n);
}

/* c at row r, vector v; the last vector has `tail` columns. */
INLINE void finish(const attention_product *p, float *c, int64_t j, vf sum, int tail) {
    switch (p->mode) {
    case PRODUCT_SET: vf_store(c, sum); break;
    case PRODUCT_ADD: store_some(c, load_some(c, tail) + sum, tail); break;
    case PRODUCT_BLEND:
        vf_store(c, vf_fma(vf_load(c), vf_load(p->keep + j), sum * vf_load(p->grow + j)));
        break;
    }
}

INLINE void tile(const attention_product *p, int64_t r0, int64_t j0, const int rows, const int vecs) {
    int64_t      a_row = p->a_row, a_step = p->a_step, b_row = p->b_row;
    const float *a = p->a + r0 * a_row, *b = p->b + j0;
    vf           sum[ROWS_NARROW][VECS];
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < vecs; v++) sum[r][v] = (vf){0};
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
    UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < vecs; v++) {
        int64_t j = j0 + v * VF_LANES;
        finish(p, p->c + (r0 + r) * p->c_row + j, j, sum[r][v], (int)attention_min(p->cols - j, VF_LANES));
    }
}

typedef void tile_fn(const attention_product *p, int64_t r0, int64_t j0);

#define DEFINE(r, v)                                                                                           \
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

void QK(attention_multiply)(const attention_product *p) {
    int64_t vecs = (p->cols + VF_LANES - 1) / VF_LANES;
    for (int64_t v = 0; v < vecs; v += VECS) {
        int64_t wide = attention_min(vecs - v, VECS), most = wide == 1 ? ROWS_NARROW : ROWS;
        for (int64_t r = 0; r < p->rows; r += most)
            tiles[wide][attention_min(p->rows - r, most)](p, r, v * VF_LANES);
    }
}
