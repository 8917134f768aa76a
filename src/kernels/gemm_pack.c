/* Packing: a strip of a matrix of any type and strides becomes rows of words, one for each
 * p, as the register kernels read them. */
#include "kernels/gemm_parts.h"
#include "kernels/gemm_turn.h"

/* j contiguous: one p */
INLINE void pack_row(gemm_kind kind, float *out, const char *first, const char *second, int cols)
{
    int64_t bytes = gemm_bytes(kind), v = 0;
    for (; v + VF_LANES <= cols; v += VF_LANES)
        vf_store(out + v, gemm_words(kind, first + v * bytes, second ? second + v * bytes : NULL, VF_LANES));
    int rest = (int)(cols - v);
    if (rest)
        vf_store(out + v, gemm_words(kind, first + v * bytes, second ? second + v * bytes : NULL, rest));
}

INLINE void pack_rows(gemm_kind kind, float *out, int64_t step, const gemm_source *s, int64_t p0,
                      int64_t count, int64_t j0, int cols)
{
    int64_t     line = s->p_step * gemm_bytes(kind), whole = gemm_whole(s, p0, count), p = 0;
    const char *in = gemm_at(s, p0, j0);
    for (; p < whole; p++, in += GEMM_PAIR * line, out += step) pack_row(kind, out, in, in + line, cols);
    if (p < count) pack_row(kind, out, in, NULL, cols);
}

/* any strides */
INLINE void pack_gather(gemm_kind kind, float *out, int64_t step, int vecs, const gemm_source *s, int64_t p0,
                        int64_t count, int64_t j0, int cols)
{
    for (int64_t p = 0; p < count; p++, out += step)
        for (int j = 0; j < vecs * VF_LANES; j++) out[j] = j < cols ? turn_word(kind, s, p0 + p, j0 + j) : 0.0f;
}

/* p contiguous; one vector of lines */
INLINE void pack_turned(gemm_kind kind, float *out, int64_t step, const gemm_source *s, int64_t p0, int64_t count,
                        int64_t j0, int lines)
{
    int64_t     bytes = gemm_bytes(kind), offset[VF_LANES], p = 0, whole = gemm_whole(s, p0, count);
    const char *in = gemm_at(s, p0, j0);
    turn_offsets(offset, s->j_step * bytes, lines);
    for (; p + TURN_STEP <= whole; p += TURN_STEP, in += TURN_STEP * GEMM_PAIR * bytes, out += TURN_STEP * step) {
        vf r[TURN_STEP];
        turn(kind, r, in, offset);
        for (int u = 0; u < TURN_STEP; u++) vf_store(out + u * step, r[u]);
    }
    pack_gather(kind, out, step, 1, s, p0 + p, count - p, j0, lines);
}

INLINE void pack(gemm_kind kind, float *out, int64_t step, int vecs, const gemm_source *s, int64_t p0,
                 int64_t count, int64_t j0, int cols)
{
    if (s->j_step == 1) {
        pack_rows(kind, out, step, s, p0, count, j0, cols);
    } else if (s->p_step == 1) {
        for (int v = 0; v < vecs; v++)
            pack_turned(kind, out + v * VF_LANES, step, s, p0, count, j0 + v * VF_LANES,
                        (int)gemm_min(cols - v * VF_LANES, VF_LANES));
    } else {
        pack_gather(kind, out, step, vecs, s, p0, count, j0, cols);
    }
}

void QK(gemm_pack)(float *out, int64_t step, int vecs, const gemm_source *s, int64_t p0, int64_t count,
                   int64_t j0, int cols)
{
#define CASE(kind) \
    case kind: pack(kind, out, step, vecs, s, p0, count, j0, cols); break;
    switch (s->kind) {
        EACH_KIND(CASE)
    default: break;
    }
}
