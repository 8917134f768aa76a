/* Rows of a batch that stand at places of their own, and trees of queries: the bits of what each would
 * be by itself. */
#include "harness.h"

enum { H = 4, G = 2, K = 24 };

static qp_tensor numbers(qp_ctx *ctx, int64_t a, int64_t b, int64_t c, int64_t d) {
    return qp_randn(ctx, QP_F32, 4, (int64_t[]){a, b, c, d});
}
static qp_tensor integers(qp_ctx *ctx, int ndim, const int64_t *shape, const int64_t *v) {
    return qp_from(ctx, QP_I64, ndim, shape, v);
}

/* Rows from..to-1 of batch row b. */
static qp_tensor part(qp_tensor x, int64_t b, int64_t from, int64_t to) {
    return qp_slice(qp_slice(x, 0, b, b + 1, 1), 1, from, to, 1);
}

static void expect_bits(const char *what, int64_t i, qp_tensor a, qp_tensor b) {
    array x = array_read(a), y = array_read(b);
    if (!same_bits(&x, &y))
        fail_msg("%s %lld on %s differs by %.3g from what it is alone", what, (long long)i,
                 isa_name(qp_stats_of(a.ctx).isa), relative_error(&x, &y, 1e-30));
    array_free(&x);
    array_free(&y);
}

static void all_isas(void (*check)(qp_ctx *ctx, int64_t n, int64_t window), const int64_t *n, int count) {
    for (qp_isa isa = first_isa; isa <= qpi_cpu_isa(); isa++)
        for (int i = 0; i < count; i++)
            for (int64_t window = 0; window < 100; window += 37) {
                qp_ctx  *ctx = context_of(isa, 0);
                qp_scope s = qp_enter(ctx);
                check(ctx, n[i], window);
                if (qp_failed(ctx)) fail_msg("%s", qp_error(ctx));
                qp_leave(s);
            }
}

/* Out, and gradients of q, k and v: a row of the batch against that row by itself, which has just the
 * keys up to its last query. */
static void check_starts(qp_ctx *ctx, int64_t T, int64_t window) {
    const int64_t starts[] = {0, 3, 126, 290}, S = 290 + T;
    qp_tensor     x[] = {numbers(ctx, 4, T, H, K), numbers(ctx, 4, S, G, K), numbers(ctx, 4, S, G, K)};
    qp_tensor     seed = numbers(ctx, 4, T, H, K), dx[3];
    qp_mask       mask = {.causal = true, .window = window, .starts = integers(ctx, 1, (int64_t[]){4}, starts)};
    for (int i = 0; i < 3; i++) qp_require_grad(x[i], true);
    qp_tensor out = qp_attention(x[0], x[1], x[2], mask, 0);
    qp_grad(1, &out, 3, x, dx, (qp_grad_options){.seeds = &seed});
    mask.starts = QP_NONE;
    for (int64_t b = 0; b < 4; b++) {
        int64_t   keys = starts[b] + T;
        qp_tensor one[] = {qp_contiguous(part(x[0], b, 0, T)), qp_contiguous(part(x[1], b, 0, keys)),
                           qp_contiguous(part(x[2], b, 0, keys))},
                  d[3], ready = part(seed, b, 0, T);
        for (int i = 0; i < 3; i++) qp_require_grad(one[i] = qp_detach(one[i]), true);
        qp_tensor alone = qp_attention(one[0], one[1], one[2], mask, 0);
        qp_grad(1, &alone, 3, one, d, (qp_grad_options){.seeds = &ready});
        expect_bits("row", b, part(out, b, 0, T), alone);
        expect_bits("dq of row", b, part(dx[0], b, 0, T), d[0]);
        for (int i = 1; i < 3; i++) {
            array a = array_read(part(dx[i], b, 0, keys)), e = array_read(d[i]);
            assert_true(relative_error(&a, &e, 1e-2) < 1e-5); /* sums over queries have pieces of their own */
            array_free(&a);
            array_free(&e);
        }
    }
}

static void rows_have_starts(void **state) {
    (void)state;
    all_isas(check_starts, (int64_t[]){1, 3, 20, 70}, 4);
}

/* A tree behind `start` keys: each node's result is what its path gives, token by token. */
static void check_tree(qp_ctx *ctx, int64_t start, int64_t window) {
    enum { T = 40 };
    int64_t   parents[T], S = start + T;
    qp_tensor q = numbers(ctx, 1, T, H, K), k = numbers(ctx, 1, S, G, K), v = numbers(ctx, 1, S, G, K);
    for (int64_t i = 0; i < T; i++) parents[i] = i % 5 == 4 ? i / 2 - 1 : i % 7 == 6 ? i - 3 : i - 1;
    qp_mask mask = {.causal = true, .window = window, .parents = integers(ctx, 2, (int64_t[]){1, T}, parents)};
    qp_tensor out = qp_attention(q, k, v, mask, 0);
    mask.parents = QP_NONE;
    for (int64_t t = 0; t < T; t++) {
        qp_tensor keys[T + 1], values[T + 1];
        int64_t   path[T], n = 0, count = 0;
        for (int64_t i = t; i >= 0; i = parents[i]) path[n++] = i;
        keys[count] = part(k, 0, 0, start);
        values[count++] = part(v, 0, 0, start);
        for (; n > 0; count++) {
            int64_t at = start + path[--n];
            keys[count] = part(k, 0, at, at + 1);
            values[count] = part(v, 0, at, at + 1);
        }
        qp_tensor alone = qp_attention(part(q, 0, t, t + 1), qp_concat((int)count, keys, 1),
                                       qp_concat((int)count, values, 1), mask, 0);
        expect_bits("node", t, part(out, 0, t, t + 1), alone);
    }
}

static void trees_are_paths(void **state) {
    (void)state;
    all_isas(check_tree, (int64_t[]){0, 1, 90, 119, 127, 128, 250}, 7);
}

static void refused(qp_ctx *ctx, qp_mask mask, int64_t T, qp_code code, const char *text) {
    qp_tensor q = numbers(ctx, 2, T, H, K), k = numbers(ctx, 2, 9, G, K);
    qp_require_grad(q, true);
    qp_backward(qp_sum(qp_attention(q, k, k, mask, 0), 0, NULL, false));
    if (qp_error_code(ctx) != code || !strstr(qp_error(ctx), text))
        fail_msg("\"%s\" does not say \"%s\"", qp_error(ctx), text);
    qp_clear(ctx);
}

static void places_are_checked(void **state) {
    (void)state;
    for (qp_isa isa = first_isa; isa <= qpi_cpu_isa(); isa++) {
        qp_ctx   *ctx = context_of(isa, 0);
        qp_scope  s = qp_enter(ctx);
        int64_t   two[] = {2}, tree[] = {2, 3}, late[] = {6, 10}, far[] = {0, INT64_MIN}, good[] = {6, 0};
        int64_t   loop[] = {-1, 0, 1, -1, 1, 1}, low[] = {-1, 0, -2, -1, 0, 1}, chain[] = {-1, 0, 1, -1, 0, 1};
        qp_tensor chains = integers(ctx, 2, tree, chain);
        refused(ctx, (qp_mask){.starts = integers(ctx, 1, two, far)}, 3, QP_ERR_ARGUMENT,
                "start -9223372036854775808");
        refused(ctx, (qp_mask){.causal = true, .starts = integers(ctx, 1, two, late), .parents = chains}, 3,
                QP_ERR_ARGUMENT, "start 10 of row 1, expected 0 to 9");
        refused(ctx, (qp_mask){.causal = true, .parents = integers(ctx, 2, tree, loop)}, 3, QP_ERR_ARGUMENT,
                "parent 1 of row 1, expected -1 to 0");
        refused(ctx, (qp_mask){.causal = true, .parents = integers(ctx, 2, tree, low)}, 3, QP_ERR_ARGUMENT,
                "parent -2 of row 0, expected -1 to 1");
        refused(ctx, (qp_mask){.parents = chains}, 3, QP_ERR_ARGUMENT, "parents without causal");
        refused(ctx, (qp_mask){.causal = true, .parents = chains}, 4, QP_ERR_SHAPE, "parents is i64 [2, 3]");
        refused(ctx, (qp_mask){.starts = chains}, 3, QP_ERR_SHAPE, "i64 [B]");
        refused(ctx, (qp_mask){.causal = true, .starts = integers(ctx, 1, two, good), .parents = chains}, 3,
                QP_ERR_UNSUPPORTED, "no gradient");
        qp_leave(s);
    }
}

/* What a gradient is added to has the shape of its input, or kernels would write beyond it. */
static void gradients_are_checked(void **state) {
    (void)state;
    static const char *name[] = {"dq", "dk", "dv", "dbias", "drelative", "drelative_keys"};
    enum { B = 2, T = 3, S = 5, GRADIENTS = 6, FORWARD = 12, INPUTS = 12 };
    extern const qp_op qp_op_attention_grad;
    /* the longest attributes that there are: zeros */
    static const uint64_t attr[64];
    qp_ctx               *ctx = qp_open((qp_options){.threads = 1, .seed = 1});
    qp_tensor             in[FORWARD + INPUTS], q = numbers(ctx, B, T, H, K), k = numbers(ctx, B, S, G, K);
    for (int i = 0; i < FORWARD + INPUTS; i++) in[i] = QP_NONE;
    qp_tensor *of[] = {&in[12], &in[13], &in[14], &in[15], &in[21], &in[22]};
    *of[0] = q;
    *of[1] = *of[2] = k;
    *of[3] = numbers(ctx, 1, H, T, S);
    *of[4] = numbers(ctx, B, H, T, 3);
    *of[5] = numbers(ctx, B, H, S, 3);
    in[6] = in[9] = numbers(ctx, B, T, H, K);
    in[7] = qp_zeros(ctx, QP_F32, 3, (int64_t[]){B, H, T});
    for (int odd = -1; odd < GRADIENTS; odd++) {
        for (int i = 0; i < GRADIENTS; i++)
            in[i] = qp_zeros(ctx, QP_F32, 4,
                             (int64_t[]){qp_size(*of[i], 0), qp_size(*of[i], 1), qp_size(*of[i], 2),
                                         qp_size(*of[i], 3) - (i == odd)});
        qp_apply(&qp_op_attention_grad, FORWARD + INPUTS, in, attr);
        if (qp_error_code(ctx) != (odd < 0 ? QP_OK : QP_ERR_SHAPE))
            fail_msg("%s: \"%s\"", odd < 0 ? "all as they should be" : name[odd], qp_error(ctx));
        qp_clear(ctx);
    }
    qp_close(ctx);
}

static void note_flops(void *user, const qp_call *call, double seconds) {
    (void)seconds;
    if (!strcmp(call->op->name, "attention")) *(double *)user = qp_call_flops(call);
}

/* Two flops for each pair that meets and each feature of its key and of its value. */
static void costs(void **state) {
    (void)state;
    enum { B = 2, T = 5, S = 7, L = 3 };
    double    flops = 0, of_a_pair = 2 * (K + L), heads = B * H;
    qp_ctx   *ctx = qp_open((qp_options){.threads = 1, .seed = 1});
    qp_tensor q = numbers(ctx, B, T, H, K), k = numbers(ctx, B, S, G, K), v = numbers(ctx, B, S, G, L);
    qp_observe(ctx, note_flops, &flops);
    qp_attention(q, k, v, (qp_mask){0}, 0);
    assert_float_equal(flops, heads * T * S * of_a_pair, 0);
    qp_attention(q, k, v, (qp_mask){.causal = true}, 0); /* 3 to 7 keys */
    assert_float_equal(flops, heads * (3 + 4 + 5 + 6 + 7) * of_a_pair, 0);
    qp_attention(q, k, v, (qp_mask){.causal = true, .window = 4}, 0);
    assert_float_equal(flops, heads * (3 + 4 + 4 + 4 + 4) * of_a_pair, 0);
    assert_false(qp_failed(ctx));
    qp_close(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_have_starts),
        cmocka_unit_test(trees_are_paths),
        cmocka_unit_test(places_are_checked),
        cmocka_unit_test(gradients_are_checked),
        cmocka_unit_test(costs),
    };
    return cmocka_run_group_tests(tests, open_contexts, close_contexts);
}
