/* What happens to the sums of a block: the running total and the fused end. */
#include "kernels/activation.h"
#include "kernels/gemm_parts.h"

typedef struct {
    float        scale;
    const float *bias;            /* or NULL */
    const char  *prev, *residual; /* or NULL */
    char        *pre_act, *out;   /* pre_act or NULL */
    int64_t      prev_row, residual_row, pre_act_row, out_row;
    qp_dtype     prev_type, out_type, c_type; /* totals are f32, what lies in C may not be */
} ending;

INLINE vf end_load(qp_dtype type, const char *data, int64_t i, int n) {
    if (type == QP_F32) return vf_load_n((const float *)data + i, n);
    return gemm_load(type, data + 2 * i, n);
}

INLINE void end_store(qp_dtype type, char *data, int64_t i, vf x, int n) {
    if (type == QP_F32) vf_store_n((float *)data + i, x, n);
    else if (type == QP_BF16) vf_store_bf16_n((uint16_t *)data + i, x, n);
    else vf_store_f16_n((uint16_t *)data + i, x, n);
}

INLINE vf activate(qk_act act, vf x) {
    switch (act) {
    case QK_ACT_RELU: return vf_select(vf_lt(x, (vf){0}), (vf){0}, x); /* NaN stays */
    case QK_ACT_GELU: return qk_gelu(x);
    case QK_ACT_GELU_TANH: return qk_gelu_tanh(x);
    case QK_ACT_SILU: return qk_silu(x);
    default: return x;
    }
}

/* n columns of row i */
INLINE void finish(qk_act act, const ending *e, vf acc, int64_t i, int64_t j, int n) {
    vf scale = vf_set1(e->scale), x = scale * acc;
    if (e->prev) x = vf_fma(scale, acc, end_load(e->prev_type, e->prev, i * e->prev_row + j, n));
    if (e->bias) x += vf_load_n(e->bias + j, n);
    if (e->pre_act) end_store(e->c_type, e->pre_act, i * e->pre_act_row + j, x, n);
    x = activate(act, x);
    if (e->residual) x += end_load(e->c_type, e->residual, i * e->residual_row + j, n);
    end_store(e->out_type, e->out, i * e->out_row + j, x, n);
}

INLINE void finish_all(qk_act act, const ending *e, const gemm_piece *piece) {
    const float *acc = piece->acc;
    for (int64_t i = 0; i < piece->rows; i++, acc += piece->acc_row) {
        int64_t j = 0;
        for (; j + VF_LANES <= piece->cols; j += VF_LANES) finish(act, e, vf_load(acc + j), i, j, VF_LANES);
        int rest = (int)(piece->cols - j);
        if (rest > 0) finish(act, e, vf_load_n(acc + j, rest), i, j, rest);
    }
}

/* Sets what only the very last block does. */
static void set_end(ending *e, const gemm_item *item, const gemm_piece *piece) {
    const qk_gemm_args *g = item->g;
    if (g->bias) e->bias = g->bias + piece->j;
    if (item->pre_act) e->pre_act = gemm_of_c(g, item->pre_act, piece->i * g->c_row + piece->j);
    e->pre_act_row = g->c_row;
    if (item->residual) e->residual = gemm_of_c(g, item->residual, piece->i * g->residual_row + piece->j);
    e->residual_row = g->residual_row;
}

void QK(gemm_add)(const gemm_item *item, const gemm_piece *piece) {
    const qk_gemm_args *g = item->g;
    char               *c = gemm_of_c(g, item->c, piece->i * g->c_row + piece->j);
    ending              e = {.scale = g->scale, .c_type = g->c_type};
    bool                ends = piece->last && item->ends;
    if (!piece->first) {
        e.prev = (const char *)piece->total;
        e.prev_row = piece->total_row;
        e.prev_type = QP_F32;
    } else if (item->from_c) {
        e.prev = c;
        e.prev_row = g->c_row;
        e.prev_type = g->c_type;
    }
    e.out = piece->last ? c : (char *)piece->total;
    e.out_type = piece->last ? g->c_type : QP_F32;
    e.out_row = piece->last ? g->c_row : piece->total_row;
    if (ends) set_end(&e, item, piece);
    switch (ends ? g->act : QK_ACT_NONE) {
    case QK_ACT_RELU: finish_all(QK_ACT_RELU, &e, piece); break;
    case QK_ACT_GELU: finish_all(QK_ACT_GELU, &e, piece); break;
    case QK_ACT_GELU_TANH: finish_all(QK_ACT_GELU_TANH, &e, piece); break;
    case QK_ACT_SILU: finish_all(QK_ACT_SILU, &e, piece); break;
    default: finish_all(QK_ACT_NONE, &e, piece);
    }
}
