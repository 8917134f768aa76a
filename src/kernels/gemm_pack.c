/* Packing: a strip of a matrix of any type and strides becomes rows of floats, one for each
 * p, as the register kernels read them. */
#include "kernels/gemm_parts.h"
#include "kernels/gemm_turn.h"

INLINE int lanes_of(int64_t n) { return n < 0 ? 0 : n < VF_LANES ? (int)n : VF_LANES; }

/* j contiguous */
INLINE void pack_rows(qp_dtype type, float *out, int64_t step, int vecs, const gemm_source *s, int64_t p0,
                      int64_t count, int64_t j0, int cols)
{
    int64_t     bytes = gemm_bytes(type);
    const char *in = gemm_at(s, p0, j0);
    int         whole = cols / VF_LANES, rest = cols % VF_LANES;
    for (int64_t p = 0; p < count; p++, in += s->p_step * bytes, out += step) {
        const char *x = in;
        int         v = 0;
        for (; v < whole; v++, x += VF_LANES * bytes) vf_store(out + v * VF_LANES, gemm_load(type, x, VF_LANES));
        if (rest) vf_store(out + v++ * VF_LANES, gemm_load(type, x, rest));
        for (; v < vecs; v++) vf_store(out + v * VF_LANES, (vf){0});
    }
}

/* p contiguous: squares are turned; `lines` of the VF_LANES values of j exist. */
INLINE void pack_turned(qp_dtype type, float *out, int64_t step, const char *in, int64_t j_bytes,
                        int64_t count, int lines)
{
    int64_t bytes = gemm_bytes(type);
    for (int64_t p = 0; p < count; p += VF_LANES, in += VF_LANES * bytes, out += VF_LANES * step) {
        int n = lanes_of(count - p);
        vf  r[VF_LANES];
        if (n == VF_LANES && lines == VF_LANES) {
            for (int i = 0; i < VF_LANES; i++) r[i] = gemm_load(type, in + i * j_bytes, VF_LANES);
            turn(r);
            for (int i = 0; i < VF_LANES; i++) vf_store(out + i * step, r[i]);
        } else {
            for (int i = 0; i < VF_LANES; i++) r[i] = i < lines ? gemm_load(type, in + i * j_bytes, n) : (vf){0};
            turn(r);
            for (int i = 0; i < n; i++) vf_store(out + i * step, r[i]);
        }
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

INLINE void pack(qp_dtype type, float *out, int64_t step, int vecs, const gemm_source *s, int64_t p0,
                 int64_t count, int64_t j0, int cols)
{
    int64_t bytes = gemm_bytes(type);
    if (s->j_step == 1) {
        pack_rows(type, out, step, vecs, s, p0, count, j0, cols);
    } else if (s->p_step == 1) {
        for (int v = 0; v < vecs; v++)
            pack_turned(type, out + v * VF_LANES, step, gemm_at(s, p0, j0 + v * VF_LANES),
                        s->j_step * bytes, count, lanes_of(cols - v * VF_LANES));
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
