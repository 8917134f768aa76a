/* The register kernels: one function for each number of rows. The sums are variables of
 * their own, not an array, because compilers differ in what they keep in registers. */
#include "kernels/gemm_parts.h"

/* Rows with the pointer they hang on: three rows share one, the others are reached by index. */
#if TILE_ROWS == 14
#define EACH_POINTER(X) X(0) X(1) X(2) X(3) X(4)
#define EACH_ROW(X) \
    X(0, 0) \
    X(1, 0) X(2, 0) X(3, 1) X(4, 1) X(5, 1) X(6, 2) X(7, 2) X(8, 2) X(9, 3) X(10, 3) X(11, 3) X(12, 4) \
        X(13, 4)
#define EACH_COUNT(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14)
#elif TILE_ROWS == 6
#define EACH_POINTER(X) X(0) X(1)
#define EACH_ROW(X) X(0, 0) X(1, 0) X(2, 0) X(3, 1) X(4, 1) X(5, 1)
#define EACH_COUNT(X) X(1) X(2) X(3) X(4) X(5) X(6)
#else
#define EACH_POINTER(X) X(0) X(1)
#define EACH_ROW(X) X(0, 0) X(1, 0) X(2, 0) X(3, 1)
#define EACH_COUNT(X) X(1) X(2) X(3) X(4)
#endif

#define LATE 64 /* p that are left when the last row is fetched: before, others would displace it */

/* Keeps the compiler from gathering pointers into vectors, whose registers the sums need. */
#define IN_REGISTER(pointer) __asm__("" : "+r"(pointer))

#define POINTER(g) \
    const float *a##g = t->a + 3 * g * a_step; \
    IN_REGISTER(a##g);
#define ZERO(i, g) vf s##i = {0}, r##i = {0};
#define ADD(i, g) \
    if (i < rows) { \
        vf x = word_at(by_rows ? &a##g[(i - 3 * g) * a_step + u] : &a0[u * a_step + i]); \
        s##i = word_fma(x, y, s##i); \
        if (vecs == 2) r##i = word_fma(x, z, r##i); \
    }
#define STEP(number) \
    { \
        const int u = number; \
        vf        y = vf_load(b + u * b_step); \
        vf        z = vecs == 2 ? vf_load(b + u * b_step + VF_LANES) : y; \
        EACH_ROW(ADD) \
    }
#define ADVANCE(g) \
    if (by_rows || g == 0) { \
        a##g += by_rows ? steps : steps * a_step; \
        IN_REGISTER(a##g); \
    }
#define STORE(i, g) \
    if (i < rows) { \
        vf_store(t->c + i * t->c_row, scale * s##i); \
        if (vecs == 2) vf_store(t->c + i * t->c_row + VF_LANES, scale * r##i); \
    }
#define STORE_FAR(i, g) \
    if (i < rows) { \
        gemm_store_far(t->c + i * t->c_row, scale * s##i); \
        if (vecs == 2) gemm_store_far(t->c + i * t->c_row + VF_LANES, scale * r##i); \
    }
#define ADD_STORE(i, g) \
    if (i < rows) { \
        vf_store(t->c + i * t->c_row, vf_fma(scale, s##i, vf_load(t->prev + i * t->prev_row))); \
        if (vecs == 2) \
            vf_store(t->c + i * t->c_row + VF_LANES, \
                     vf_fma(scale, r##i, vf_load(t->prev + i * t->prev_row + VF_LANES))); \
    }

INLINE void fetch(gemm_ahead *ahead) {
    for (int i = 0; i < ahead->rate; i++) {
        __builtin_prefetch(ahead->next, 0, 2);
        ahead->next += ahead->step;
        if (--ahead->left == 0) {
            ahead->next += ahead->wrap;
            ahead->left = ahead->run;
        }
    }
}

INLINE void fetch_row(const gemm_tile *t, int64_t row) {
    for (const gemm_soon *s = t->soon; s < t->soon + GEMM_SOON && s->at; s++) {
        __builtin_prefetch(s->at + row * s->row, 1);
        __builtin_prefetch(s->at + row * s->row + s->bytes - 1, 1);
    }
}

INLINE void tile(const gemm_tile *t, const int vecs, const int rows, const int by_rows) {
    const float *b = t->b;
    int64_t      a_step = t->a_step, b_step = t->b_step, p = t->count, row = 0;
    gemm_ahead   ahead_a = *t->ahead_a, ahead_b = *t->ahead_b;
    EACH_POINTER(POINTER)
    EACH_ROW(ZERO)
    for (; p >= 4; p -= 4) {
        const int steps = 4;
        fetch(&ahead_a);
        fetch(&ahead_b);
        if (row < rows && p <= 4 * (rows - row) + LATE) fetch_row(t, row++);
        STEP(0) STEP(1) STEP(2) STEP(3) EACH_POINTER(ADVANCE) b += steps * b_step;
    }
    for (; p > 0; p--) {
        const int steps = 1;
        STEP(0)
        EACH_POINTER(ADVANCE)
        b += b_step;
    }
    *t->ahead_a = ahead_a;
    *t->ahead_b = ahead_b;
    vf scale = vf_set1(t->scale);
    if (t->prev) {
        EACH_ROW(ADD_STORE)
    } else if (GEMM_FAR && t->far) {
        EACH_ROW(STORE_FAR)
    } else {
        EACH_ROW(STORE)
    }
}

#define DEFINE(n) \
    static void by_rows_1_##n(const gemm_tile *t) { tile(t, 1, n, 1); } \
    static void by_rows_2_##n(const gemm_tile *t) { tile(t, 2, n, 1); } \
    static void by_cols_1_##n(const gemm_tile *t) { tile(t, 1, n, 0); } \
    static void by_cols_2_##n(const gemm_tile *t) { tile(t, 2, n, 0); }
EACH_COUNT(DEFINE)

#define BY_ROWS_1(n) by_rows_1_##n,
#define BY_ROWS_2(n) by_rows_2_##n,
#define BY_COLS_1(n) by_cols_1_##n,
#define BY_COLS_2(n) by_cols_2_##n,
gemm_tile_fn *const QK(gemm_tile_by_rows)[][TILE_ROWS + 1] = {{NULL, EACH_COUNT(BY_ROWS_1)},
                                                              {NULL, EACH_COUNT(BY_ROWS_2)}};
gemm_tile_fn *const QK(gemm_tile_by_cols)[][TILE_ROWS + 1] = {{NULL, EACH_COUNT(BY_COLS_1)},
                                                              {NULL, EACH_COUNT(BY_COLS_2)}};
