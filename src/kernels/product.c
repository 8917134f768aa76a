#include "kernels/product.h"

#include "kernels/block_product.h"

static void remove_axis(qk_product *p, int axis) {
    p->axes--;
    for (int i = axis; i < p->axes; i++) {
        p->size[i] = p->size[i + 1];
        for (int v = 0; v < QK_OPERANDS; v++) p->stride[i][v] = p->stride[i + 1][v];
    }
}

static void merge(qk_product *p) {
    for (int i = p->axes - 1; i >= 0; i--)
        if (p->size[i] == 1) remove_axis(p, i);
    for (int i = p->axes - 2; i >= 0; i--) {
        bool fits = true;
        for (int v = 0; v < QK_OPERANDS; v++) fits &= p->stride[i][v] == p->stride[i + 1][v] * p->size[i + 1];
        if (!fits) continue;
        p->size[i + 1] *= p->size[i];
        remove_axis(p, i);
    }
}

/* Rows of one product: B is the same along the axis and the others step on as rows do. */
static bool fold_rows(qk_product *p, int i) {
    qk_gemm_args  *g = &p->gemm;
    const int64_t *s = p->stride[i];
    if (s[QK_B] || !s[QK_C]) return false;
    if (g->m == 1) {
        g->a_row = s[QK_A];
        g->c_row = s[QK_C];
        g->residual_row = s[QK_R];
    } else if (s[QK_A] != g->m * g->a_row || s[QK_C] != g->m * g->c_row ||
               (g->residual && s[QK_R] != g->m * g->residual_row)) {
        return false;
    }
    g->m *= p->size[i];
    return true;
}

/* One longer sum. */
static bool fold_sum(qk_product *p, int i) {
    qk_gemm_args  *g = &p->gemm;
    const int64_t *s = p->stride[i];
    if (s[QK_C]) return false;
    if (g->k == 1) {
        g->a_col = s[QK_A];
        g->b_row = s[QK_B];
    } else if (s[QK_A] != g->k * g->a_col || s[QK_B] != g->k * g->b_row) {
        return false;
    }
    g->k *= p->size[i];
    return true;
}

/* The place of the longest axis that C has, -1 if there is none. */
static int longest(const qk_product *p) {
    int best = -1;
    for (int i = 0; i < p->axes; i++)
        if (p->stride[i][QK_C] && (best < 0 || p->size[i] > p->size[best])) best = i;
    return best;
}

void QK(qk_product_plan)(qk_product *p) {
    qk_gemm_args *g = &p->gemm;
    merge(p);
    if (g->m == 1) {
        int i = longest(p);
        if (i >= 0 && fold_rows(p, i)) remove_axis(p, i);
    }
    for (bool again = true; again;) {
        again = false;
        for (int i = p->axes - 1; i >= 0; i--)
            if (fold_rows(p, i) || fold_sum(p, i)) {
                remove_axis(p, i);
                again = true;
            }
    }
    int i = longest(p);
    g->batch = 1;
    if (i < 0) return;
    g->batch = p->size[i];
    g->a_batch = p->stride[i][QK_A];
    g->b_batch = p->stride[i][QK_B];
    g->c_batch = p->stride[i][QK_C];
    g->residual_batch = p->stride[i][QK_R];
    remove_axis(p, i);
}

size_t QK(qk_product_scratch)(const qk_product *p, int threads) {
    const qk_gemm_args *g = &p->gemm;
    if (qp_dtype_block(g->b_type) > 1) return block_product_scratch(g->m, g->k, threads);
    return qk_gemm_scratch(g->batch, g->m, g->n, g->k, threads);
}

void QK(qk_product_run)(const qp_exec *exec, const qk_product *p) {
    int64_t count = 1, a_bytes = (int64_t)qp_dtype_bytes(p->gemm.a_type),
            c_bytes = (int64_t)qp_dtype_bytes(p->gemm.c_type);
    for (int i = 0; i < p->axes; i++) count *= p->size[i];
    for (int64_t index = 0; index < count; index++) {
        qk_gemm_args g = p->gemm;
        int64_t      at[QK_OPERANDS] = {0}, rest = index;
        for (int i = p->axes - 1; i >= 0; i--) {
            for (int v = 0; v < QK_OPERANDS; v++) at[v] += rest % p->size[i] * p->stride[i][v];
            rest /= p->size[i];
        }
        g.a = (const char *)g.a + at[QK_A] * a_bytes;
        g.b = (const char *)g.b + (int64_t)qp_dtype_size(g.b_type, at[QK_B]);
        g.c = (char *)g.c + at[QK_C] * c_bytes;
        if (g.residual) g.residual = (const char *)g.residual + at[QK_R] * c_bytes;
        if (g.pre_act) g.pre_act = (char *)g.pre_act + at[QK_C] * c_bytes;
        QK(qk_gemm)(exec, &g);
    }
}
