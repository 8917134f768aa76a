/* The heap: against a model, and as a training loop sees it. */
#include "support.h"

typedef struct {
    unsigned char *p;
    size_t         bytes;
    unsigned char  mark;
} piece;

static size_t random_size(void) {
    switch (rand() % 4) {
    case 0: return (size_t)(rand() % 100);
    case 1: return (size_t)(rand() % 3000);
    case 2: return (size_t)(rand() % 100000);
    default: return (size_t)1 << rand() % 20;
    }
}

static void check(const piece *p) {
    assert_true((uintptr_t)p->p % 64 == 0);
    for (size_t i = 0; i < p->bytes; i += p->bytes > 64 ? p->bytes / 64 : 1)
        if (p->p[i] != p->mark) fail_msg("byte %zu of %zu was overwritten", i, p->bytes);
    if (p->bytes) assert_true(p->p[p->bytes - 1] == p->mark);
}

static int by_address(const void *a, const void *b) {
    const piece *x = a, *y = b;
    return x->p < y->p ? -1 : x->p > y->p;
}

static void against_a_model(void **state) {
    (void)state;
    enum { MANY = 300 };
    qp_ctx *ctx = open_context();
    piece   pieces[MANY];
    int     count = 0;
    size_t  sum = 0;
    srand(3);
    for (int step = 0; step < 30000; step++) {
        if (count < MANY && (rand() % 2 || count == 0)) {
            piece *p = &pieces[count++];
            p->bytes = random_size();
            p->p = qpi_alloc(ctx, p->bytes);
            p->mark = (unsigned char)rand();
            assert_non_null(p->p);
            memset(p->p, p->mark, p->bytes);
            sum += p->bytes;
        } else {
            int i = rand() % count;
            check(&pieces[i]);
            sum -= pieces[i].bytes;
            qpi_free(ctx, pieces[i].p);
            pieces[i] = pieces[--count];
        }
        assert_true(qp_stats_of(ctx).bytes >= sum);
        assert_true(qp_stats_of(ctx).reserved_bytes >= qp_stats_of(ctx).bytes);
        if (step % 500) continue;
        qsort(pieces, (size_t)count, sizeof *pieces, by_address);
        for (int i = 0; i < count; i++) {
            check(&pieces[i]);
            if (i) assert_true(pieces[i - 1].p + pieces[i - 1].bytes <= pieces[i].p);
        }
    }
    while (count) qpi_free(ctx, pieces[--count].p);
    assert_int_equal(qp_stats_of(ctx).bytes, 0);
    qpi_free(ctx, NULL);
    close_context(ctx);
}

/* What was cut into small pieces is one large piece again once they are free. */
static void neighbours_merge(void **state) {
    (void)state;
    enum { N = 1000, SIZE = 4000 };
    qp_ctx *ctx = open_context();
    void   *p[N], *whole = qpi_alloc(ctx, N * (SIZE + 256)); /* with room for headers */
    qpi_free(ctx, whole);
    uint64_t calls = qp_stats_of(ctx).system_calls;
    for (int order = 0; order < 3; order++) {
        for (int i = 0; i < N; i++) assert_non_null(p[i] = qpi_alloc(ctx, SIZE));
        assert_int_equal(qp_stats_of(ctx).system_calls, calls);
        for (int i = 0; i < N; i++) qpi_free(ctx, p[order == 0 ? i : order == 1 ? N - 1 - i : i * 7 % N]);
        whole = qpi_alloc(ctx, N * (SIZE + 256));
        assert_non_null(whole);
        assert_int_equal(qp_stats_of(ctx).system_calls, calls);
        qpi_free(ctx, whole);
    }
    close_context(ctx);
}

/* The same requests again and again find what the first round left. */
static void steady_loops_ask_for_nothing(void **state) {
    (void)state;
    static const size_t sizes[] = {100u << 20, 1, 5000001, 4096, 77777, 3u << 20, 65, 128, 20u << 20, 999999};
    enum { KINDS = sizeof sizes / sizeof *sizes, ROUNDS = 200 };
    qp_ctx  *ctx = open_context();
    uint64_t after_first = 0;
    size_t   reserved = 0;
    for (int round = 0; round < ROUNDS; round++) {
        void *p[KINDS];
        for (int i = 0; i < KINDS; i++) assert_non_null(p[i] = qpi_alloc(ctx, sizes[i]));
        for (int i = 0; i < KINDS; i++) qpi_free(ctx, p[(i * 3 + round) % KINDS]);
        if (round == 2) {
            after_first = qp_stats_of(ctx).system_calls;
            reserved = qp_stats_of(ctx).reserved_bytes;
        }
    }
    assert_int_equal(qp_stats_of(ctx).system_calls, after_first);
    assert_int_equal(qp_stats_of(ctx).reserved_bytes, reserved);
    for (int i = 0; i < ROUNDS; i++) qpi_free(ctx, qpi_alloc(ctx, 100u << 20));
    assert_int_equal(qp_stats_of(ctx).system_calls, after_first);
    close_context(ctx);
}

static void training_loop(void **state) {
    (void)state;
    qp_ctx *ctx = open_context();
    enum { N = 3001 };
    qp_tensor w = qp_full(ctx, QP_F32, SHAPE(N), 0.1);
    qp_require_grad(w, true);
    uint64_t calls = 0;
    size_t   bytes = 0;
    for (int step = 0; step < 50; step++) {
        qp_scope  s = qp_enter(ctx);
        qp_tensor h = w;
        for (int i = 0; i < 20; i++) h = qp_mul(qp_exp(qp_affine(h, 0.1, 0)), w);
        qp_backward(total(h));
        qp_tensor g = qp_grad_of(w);
        qp_copy_to(w, qp_sub(w, qp_affine(g, 1e-3, 0)));
        qp_zero_grad(w);
        qp_leave(s);
        if (step == 2) {
            calls = qp_stats_of(ctx).system_calls;
            bytes = qp_stats_of(ctx).bytes;
        }
    }
    assert_int_equal(qp_stats_of(ctx).system_calls, calls);
    assert_int_equal(qp_stats_of(ctx).bytes, bytes);
    close_context(ctx);
}

static void memory_cap(void **state) {
    (void)state;
    const size_t cap = 4u << 20;
    qp_ctx      *ctx = qp_open((qp_options){.threads = 1, .memory_cap = cap});
    qp_scope     s = qp_enter(ctx);
    qp_tensor    x = qp_zeros(ctx, QP_U8, SHAPE(3 << 20));
    expect_ok(ctx);
    qp_tensor y = qp_zeros(ctx, QP_U8, SHAPE(3 << 20));
    assert_true(qpi_is_poison(y));
    assert_non_null(strstr(qp_error(ctx), "cap"));
    expect_error(ctx, QP_ERR_MEMORY);
    assert_true(qp_stats_of(ctx).reserved_bytes <= cap);
    qp_drop(x);
    y = qp_zeros(ctx, QP_U8, SHAPE(3 << 20));
    expect_ok(ctx);
    qp_leave(s);

    /* small pieces first do not spoil the room for a large one */
    for (int i = 0; i < 40; i++) qp_drop(qp_zeros(ctx, QP_U8, SHAPE(50000 + 2000 * i)));
    qp_drop(qp_zeros(ctx, QP_U8, SHAPE((7 << 20) / 2)));
    expect_ok(ctx);
    qp_close(ctx);

    /* nearly all of a small cap is there to be used */
    ctx = qp_open((qp_options){.threads = 1, .memory_cap = 1u << 20});
    int64_t count = 0;
    while (!qp_failed(ctx)) {
        qp_zeros(ctx, QP_U8, SHAPE(1000));
        count++;
    }
    expect_error(ctx, QP_ERR_MEMORY);
    assert_true(count > 750);
    qp_close(ctx);
    ctx = qp_open((qp_options){.threads = 1, .memory_cap = 1});
    qp_zeros(ctx, QP_U8, SHAPE(1));
    expect_error(ctx, QP_ERR_MEMORY);
    qp_close(ctx);
}

/* Failing in the middle of backward gives everything back. */
static void out_of_memory_in_backward(void **state) {
    (void)state;
    enum { N = 20000 };
    qp_ctx *ctx = qp_open((qp_options){.threads = 1, .memory_cap = 4u << 20});
    for (int depth = 1; depth < 40; depth++) {
        qp_scope  s = qp_enter(ctx);
        qp_tensor w = qp_full(ctx, QP_F32, SHAPE(N), 0.1), h = w;
        qp_require_grad(w, true);
        for (int i = 0; i < depth; i++) h = qp_exp(qp_affine(h, 0.1, 0));
        qp_backward(total(h));
        qp_leave(s);
        if (qp_failed(ctx)) expect_error(ctx, QP_ERR_MEMORY);
        else assert_true(depth < 40);
        assert_true(qp_stats_of(ctx).bytes < 20000); /* scratch at most */
    }
    qp_close(ctx);
}

static void peak(void **state) {
    (void)state;
    qp_ctx *ctx = open_context();
    void   *a = qpi_alloc(ctx, 1 << 20), *b = qpi_alloc(ctx, 1 << 20);
    qpi_free(ctx, a);
    assert_true(qp_stats_of(ctx).peak_bytes >= 2u << 20);
    assert_true(qp_stats_of(ctx).bytes < 3u << 19);
    qp_reset_peak(ctx);
    assert_int_equal(qp_stats_of(ctx).peak_bytes, qp_stats_of(ctx).bytes);
    qpi_free(ctx, b);
    assert_int_equal(qp_stats_of(ctx).bytes, 0);
    close_context(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(against_a_model),
        cmocka_unit_test(neighbours_merge),
        cmocka_unit_test(steady_loops_ask_for_nothing),
        cmocka_unit_test(training_loop),
        cmocka_unit_test(memory_cap),
        cmocka_unit_test(out_of_memory_in_backward),
        cmocka_unit_test(peak),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
