/* Products of attention with a few columns (decoding): the vectors lie along A, so that keys and
 * values are read once, where they are. The order of summation is that of attention_multiply. */
#include "kernels/attention_parts.h"
#include "kernels/turn.h"

#define INLINE static inline __attribute__((always_inline))
#define AHEAD 16 /* rows of A to fetch ahead */

INLINE int lanes_of(int64_t n) { return n < VF_LANES ? (int)n : VF_LANES; }
INLINE vf load_some(const float *p, int n) { return n == VF_LANES ? vf_load(p) : vf_load_n(p, n); }

/* Sums of `rows` rows from r, one vector of rows for each column. */
INLINE void end_rows(const int cols, const attention_product *p, int64_t r, int rows, const vf *sum) {
    vf x[VF_LANES];
    for (int j = 0; j < VF_LANES; j++) x[j] = j < cols ? sum[j] : (vf){0};
    turn(x);
    for (int u = 0; u < rows; u++) {
        attention_end(p, r + u, 0, x[u], VF_LANES);
        for (int64_t j = VF_LANES; j < p->cols && p->mode == PRODUCT_SET; j += VF_LANES)
            vf_store(p->c + (r + u) * p->c_row + j, (vf){0});
    }
}

/* p contiguous in A: squares of A are turned in registers. */
INLINE void turned(const int cols, const attention_product *p) {
    for (int64_t r = 0; r < p->rows; r += VF_LANES) {
        const float *a = p->a + r * p->a_row, *b = p->b;
        int          rows = lanes_of(p->rows - r);
        vf           sum[FEW];
        for (int j = 0; j < cols; j++) sum[j] = (vf){0};
        for (int64_t i = 0; i < p->count; i += VF_LANES, a += VF_LANES) {
            int n = lanes_of(p->count - i);
            vf  x[VF_LANES];
            for (int u = 0; u < VF_LANES; u++) x[u] = u < rows ? load_some(a + u * p->a_row, n) : (vf){0};
            for (int u = 0; u < VF_LANES; u++) __builtin_prefetch(a + (AHEAD + u) * p->a_row, 0, 2);
            for (int u = 0; u < VF_LANES; u++) /* as many rows of what follows */
                if (r + u < p->ahead.rows)
                    __builtin_prefetch(p->ahead.first + (r + u) * p->ahead.row + i, 0, 2);
            turn(x);
            for (int u = 0; u < VF_LANES; u++, b += p->b_row) {
                if (u >= n) break;
                for (int j = 0; j < cols; j++) sum[j] = vf_fma(x[u], vf_set1(b[j]), sum[j]);
            }
        }
        end_rows(cols, p, r, rows, sum);
    }
}

/* r contiguous in A: whole lines of A are added to the sums. */
INLINE void lines(const int cols, const int vecs, const attention_product *p) {
    for (int64_t r = 0; r < p->rows; r += vecs * VF_LANES) {
        const float *a = p->a + r, *b = p->b;
        int          count[8], last = (int)attention_min(vecs, (p->rows - r + VF_LANES - 1) / VF_LANES);
        vf           sum[8][FEW];
        for (int v = 0; v < vecs; v++) {
            count[v] = v < last ? lanes_of(p->rows - r - v * VF_LANES) : 0;
            for (int j = 0; j < cols; j++) sum[v][j] = (vf){0};
        }
        for (int64_t i = 0; i < p->count; i++, a += p->a_step, b += p->b_row)
            for (int v = 0; v < vecs; v++) {
                vf x = load_some(a + v * VF_LANES, count[v]);
                __builtin_prefetch(a + AHEAD * p->a_step + v * VF_LANES, 0, 2);
                for (int j = 0; j < cols; j++) sum[v][j] = vf_fma(x, vf_set1(b[j]), sum[v][j]);
            }
        for (int v = 0; v < last; v++) end_rows(cols, p, r + v * VF_LANES, count[v], sum[v]);
    }
}

/* vecs: enough sums to fill the pipes, no more than there are registers */
#define CASE(cols, vecs) \
    case cols: \
        if (p->a_step == 1) turned(cols, p); \
        else lines(cols, vecs, p); \
        break;

void QK(attention_multiply_few)(const attention_product *p) {
    switch (p->real) {
        CASE(1, 8)
#if FEW >= 2
        CASE(2, 4)
#endif
#if FEW >= 4
        CASE(3, 2)
        CASE(4, 2)
#endif
#if FEW >= 8
        CASE(5, 2)
        CASE(6, 2)
        CASE(7, 2)
        CASE(8, 2)
#endif
    }
}
