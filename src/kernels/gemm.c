/* The matrix product: chooses the family and walks the batch. */
#include "kernels/block_product.h"

#define BIG_ITEM 5e7 /* flops from which one product is worth all threads */
#define PIECE 1e6    /* flops worth claiming */

extern qk_gemm_fn qk_gemm_avx512bf16;
void qk_gemm_many_avx512bf16(const qp_exec *exec, const qk_gemm_args *g, int count);

/* bf16 in both places is what the instructions for bf16 take; f64 is no type to compute in. */
static qp_dtype compute_of(const qk_gemm_args *g) {
    if (qp_dtype_block(g->b_type) > 1) return QP_F32;
    if (g->compute == QP_F16 || g->compute == QP_BF16) return g->compute;
    return g->a_type == QP_BF16 && g->b_type == QP_BF16 ? QP_BF16 : QP_F32;
}

static gemm_item item_of(const qk_gemm_args *g, int64_t index) {
    gemm_item item = {.g = g, .k = gemm_parts(g->k, GEMM_PAIR), .from_c = g->accumulate, .ends = true};
    gemm_kind a = gemm_kind_of(g->a_type, compute_of(g)), b = gemm_kind_of(g->b_type, compute_of(g));
    item.a = (gemm_source){g->a, a, g->a_col, g->a_row, g->k};
    item.b = (gemm_source){g->b, b, g->b_row, g->b_col, g->k};
    item.a.data = (const char *)g->a + index * g->a_batch * gemm_bytes(a);
    item.b.data = (const char *)g->b + (int64_t)qp_dtype_size(g->b_type, index * g->b_batch);
    item.c = gemm_of_c(g, g->c, index * g->c_batch);
    if (g->pre_act) item.pre_act = gemm_of_c(g, g->pre_act, index * g->c_batch);
    if (g->residual) item.residual = gemm_of_c(g, g->residual, index * g->residual_batch);
    return item;
}

static void run_item(const qp_exec *exec, const qk_gemm_args *g, int64_t index) {
    gemm_item item = item_of(g, index);
    if (QK(gemm_rows_takes)(&item)) QK(gemm_rows)(exec, &item, 1);
    else if (QK(gemm_flip_takes)(&item)) QK(gemm_flip)(exec, &item);
    else QK(gemm_strips)(exec, &item);
}

#if !QP_PAIRS
static void run_blocks(const qp_exec *exec, const qk_gemm_args *g, int64_t index) {
    gemm_item item = item_of(g, index);
    QK(block_product)(exec, &item, 1);
}
#endif

/* Can they be shared out as one? */
static bool joined(const qk_gemm_args *g, const gemm_item *items, int count) {
    bool yes = g->m > 0 && g->m <= FEW_BLOCK_ROWS;
    for (int i = 0; i < count; i++) {
        yes = yes && g[i].n >= MAX_LANES;
        if (qp_dtype_block(g->b_type) == 1) yes = yes && g->b_row == 1 && QK(gemm_rows_takes)(&items[i]);
    }
    return yes;
}

typedef struct {
    const qk_gemm_args *g;
    char               *scratch;
    size_t              worker_bytes;
} batch_job;

static void run_items(void *arg, int64_t begin, int64_t end, int worker) {
    const batch_job *job = arg;
    qp_exec          alone = {.threads = 1, .scratch = job->scratch + (size_t)worker * job->worker_bytes};
    for (int64_t i = begin; i < end; i++) run_item(&alone, job->g, i);
}

#if QP_BODY
size_t qk_gemm_scratch(int64_t batch, int64_t m, int64_t n, int64_t k, int threads) {
    if (batch <= 0 || m <= 0 || n <= 0) return 0;
    size_t most = 0;
    for (int pair = 1; pair <= 2; pair++) {
        int64_t words = gemm_parts(k, pair);
        size_t  shared = gemm_item_bytes(m, words, threads),
                alone = gemm_item_bytes(m, words, 1) * (size_t)threads;
        if (shared > most) most = shared;
        if (batch > 1 && alone > most) most = alone;
    }
    return most;
}
#endif

void QK(qk_gemm)(const qp_exec *exec, const qk_gemm_args *g) {
    if (g->batch <= 0 || g->m <= 0 || g->n <= 0) return;
#if !QP_PAIRS
    if (qp_dtype_block(g->b_type) > 1) {
        for (int64_t i = 0; i < g->batch; i++) run_blocks(exec, g, i);
        return;
    }
#endif
#if VF_LANES == 16 && !QP_PAIRS
    if (compute_of(g) == QP_BF16 && qpi_cpu_bf16()) {
        qk_gemm_avx512bf16(exec, g);
        return;
    }
#endif
    double flops = 2.0 * (double)g->m * (double)g->n * (double)gemm_max(g->k, 1);
    if (g->batch > 1 && flops < BIG_ITEM) {
        batch_job job = {g, exec->scratch, gemm_item_bytes(g->m, gemm_parts(g->k, GEMM_PAIR), 1)};
        qp_parallel(exec, g->batch, gemm_max(1, (int64_t)(PIECE / flops)), run_items, &job);
        return;
    }
    for (int64_t i = 0; i < g->batch; i++) run_item(exec, g, i);
}

void QK(qk_gemm_many)(const qp_exec *exec, const qk_gemm_args *g, int count) {
#if VF_LANES == 16 && !QP_PAIRS
    if (qp_dtype_block(g->b_type) == 1 && compute_of(g) == QP_BF16 && qpi_cpu_bf16()) {
        qk_gemm_many_avx512bf16(exec, g, count);
        return;
    }
#endif
    gemm_item items[QK_GEMM_MANY];
    for (int i = 0; i < count; i++) items[i] = item_of(&g[i], 0);
    if (!joined(g, items, count))
        for (int i = 0; i < count; i++) QK(qk_gemm)(exec, &g[i]);
#if !QP_PAIRS
    else if (qp_dtype_block(g->b_type) > 1) QK(block_product)(exec, items, count);
#endif
    else QK(gemm_rows)(exec, items, count);
}
