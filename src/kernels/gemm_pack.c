/* Packing: a strip of a matrix of any type and strides becomes rows of words, one for each
 * p, as the register kernels read them. */
#include "kernels/gemm_parts.h"
#include "kernels/gemm_turn.h"

#define LINES (8 / GEMM_PAIR) /* of which all panels take their part before the next ones */

/* j contiguous: `lines` words of a panel. n is the constant VF_LANES for whole vectors. */
INLINE void pack_vector(gemm_kind kind, float *out, int64_t step, const char *in, int64_t line, int64_t lines,
                        int n) {
    for (int64_t p = 0; p < lines; p++, in += GEMM_PAIR * line, out += step) {
        for (int i = 0; i < GEMM_PAIR; i++) __builtin_prefetch(in + (LINES * GEMM_PAIR + i) * line, 0, 2);
        vf_store(out, gemm_words(kind, in, in + line, n));
    }
}

INLINE void pack_lines(gemm_kind kind, float *out, int64_t step, const char *in, int64_t line, int64_t lines,
                       int64_t cols) {
    int64_t j = 0, bytes = gemm_bytes(kind);
    for (; j + VF_LANES <= cols; j += VF_LANES)
        pack_vector(kind, out + j, step, in + j * bytes, line, lines, VF_LANES);
    if (j < cols) pack_vector(kind, out + j, step, in + j * bytes, line, lines, (int)(cols - j));
}

/* Memory is read in its own order: all panels take their part of some lines before the next lines. */
INLINE void pack_across(gemm_kind kind, float *out, int64_t step, const gemm_panels *c, int64_t begin,
                        int64_t end, const gemm_source *s, int64_t p0, int64_t count, int64_t j0) {
    int64_t line = s->p_step * gemm_bytes(kind), whole = gemm_whole(s, p0, count);
    for (int64_t p = 0; p < whole; p += LINES)
        for (int64_t t = begin; t < end; t++)
            pack_lines(kind, out + (t - begin) * c->step + p * step, step,
                       gemm_at(s, p0 + p, j0 + gemm_panel_start(c, t)), line, gemm_min(LINES, whole - p),
                       gemm_panel_cols(c, t));
    if (whole == count) return;
    for (int64_t t = begin; t < end; t++, out += c->step) { /* the last word has one value */
        const char *in = gemm_at(s, p0 + whole, j0 + gemm_panel_start(c, t));
        int64_t     cols = gemm_panel_cols(c, t);
        for (int64_t j = 0; j < cols; j += VF_LANES)
            vf_store(out + whole * step + j,
                     gemm_words(kind, in + j * gemm_bytes(kind), NULL, (int)gemm_min(cols - j, VF_LANES)));
    }
}

/* any strides */
INLINE void pack_gather(float *out, int64_t step, const gemm_source *s, int64_t p0, int64_t count, int64_t j0,
                        int cols) {
    for (int64_t p = 0; p < count; p++, out += step)
        for (int j = 0; j < VF_LANES; j++) out[j] = j < cols ? gemm_word(s, p0 + p, j0 + j) : 0.0f;
}

/* p contiguous; one vector of lines */
INLINE void pack_turned(gemm_kind kind, float *out, int64_t step, const gemm_source *s, int64_t p0,
                        int64_t count, int64_t j0, int lines) {
    int64_t     bytes = gemm_bytes(kind), offset[VF_LANES], p = 0, whole = gemm_whole(s, p0, count);
    const char *in = gemm_at(s, p0, j0);
    turn_offsets(offset, s->j_step * bytes, lines);
    for (; p + TURN_STEP <= whole;
         p += TURN_STEP, in += TURN_STEP * GEMM_PAIR * bytes, out += TURN_STEP * step) {
        vf r[TURN_STEP];
        turn(kind, r, in, offset);
        for (int u = 0; u < TURN_STEP; u++) vf_store(out + u * step, r[u]);
    }
    pack_gather(out, step, s, p0 + p, count - p, j0, lines);
}

INLINE void pack(gemm_kind kind, float *out, int64_t step, const gemm_panels *c, int64_t begin, int64_t end,
                 const gemm_source *s, int64_t p0, int64_t count, int64_t j0) {
    if (s->j_step == 1) {
        pack_across(kind, out, step, c, begin, end, s, p0, count, j0);
        return;
    }
    for (int64_t t = begin; t < end; t++, out += c->step) {
        int64_t j = j0 + gemm_panel_start(c, t), cols = gemm_panel_cols(c, t);
        for (int64_t v = 0; v < cols; v += VF_LANES)
            if (s->p_step == 1)
                pack_turned(kind, out + v, step, s, p0, count, j + v, (int)gemm_min(cols - v, VF_LANES));
            else pack_gather(out + v, step, s, p0, count, j + v, (int)gemm_min(cols - v, VF_LANES));
    }
}

void QK(gemm_pack)(float *out, int64_t step, const gemm_panels *c, int64_t begin, int64_t end,
                   const gemm_source *s, int64_t p0, int64_t count, int64_t j0) {
#define CASE(kind) \
    case kind: pack(kind, out, step, c, begin, end, s, p0, count, j0); break;
    switch (s->kind) {
        EACH_KIND(CASE)
    default: break;
    }
}
