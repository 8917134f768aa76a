/* Packing: a strip of a matrix of any type and strides becomes rows of floats, one for each
 * p, as the register kernels read them. */
#include "kernels/gemm_parts.h"
#include "kernels/gemm_turn.h"

/* j contiguous */
INLINE void pack_rows(qp_dtype type, float *out, int64_t step, const gemm_source *s, int64_t p0,
                      int64_t count, int64_t j0, int cols)
{
    int64_t     bytes = gemm_bytes(type);
    const char *in = gemm_at(s, p0, j0);
    int         whole = cols / VF_LANES, rest = cols % VF_LANES;
    for (int64_t p = 0; p < count; p++, in += s->p_step * bytes, out += step) {
        const char *x = in;
        int         v = 0;
        for (; v < whole; v++, x += VF_LANES * bytes) vf_store(out + v * VF_LANES, gemm_load(type, x, VF_LANES));
        if (rest) vf_store(out + v * VF_LANES, gemm_load(type, x, rest));
    }
}

/* any strides */
INLINE void pack_gather(qp_dtype type, float *out, int64_t step, int vecs, const gemm_source *s, int64_t p0,
                        int64_t count, int64_t j0, int cols)
{
    for (int64_t p = 0; p < count; p++, out += step)
        for (int j = 0; j < vecs * VF_LANES; j++)
            out[j] = j < cols ? gemm_load(type, gemm_at(s, p0 + p, j0 + j), 1)[0] : 0.0f;
}

/* p contiguous; one vector of lines */
INLINE void pack_turned(qp_dtype type, float *out, int64_t step, const gemm_source *s, int64_t p0, int64_t count,
                        int64_t j0, int lines)
{
    int64_t     bytes = gemm_bytes(type), offset[VF_LANES], p = 0;
    const char *in = gemm_at(s, p0, j0);
    turn_offsets(offset, s->j_step * bytes, lines);
    for (; p + TURN_STEP <= count; p += TURN_STEP, in += TURN_STEP * bytes, out += TURN_STEP * step) {
        vf r[TURN_STEP];
        turn(type, r, in, offset);
        for (int u = 0; u < TURN_STEP; u++) vf_store(out + u * step, r[u]);
    }
    pack_gather(type, out, step, 1, s, p0 + p, count - p, j0, lines);
}

INLINE void pack(qp_dtype type, float *out, int64_t step, int vecs, const gemm_source *s, int64_t p0,
                 int64_t count, int64_t j0, int cols)
{
    if (s->j_step == 1) {
        pack_rows(type, out, step, s, p0, count, j0, cols);
    } else if (s->p_step == 1) {
        for (int v = 0; v < vecs; v++)
            pack_turned(type, out + v * VF_LANES, step, s, p0, count, j0 + v * VF_LANES,
                        (int)gemm_min(cols - v * VF_LANES, VF_LANES));
    } else {
        pack_gather(type, out, step, vecs, s, p0, count, j0, cols);
    }
}

void QK(gemm_pack)(float *out, int64_t step, int vecs, const gemm_source *s, int64_t p0, int64_t count,
                   int64_t j0, int cols)
{
    if (s->type == QP_F32)
        pack(QP_F32, out, step, vecs, s, p0, count, j0, cols);
    else if (s->type == QP_BF16)
        pack(QP_BF16, out, step, vecs, s, p0, count, j0, cols);
    else
        pack(QP_F16, out, step, vecs, s, p0, count, j0, cols);
}
