/* The pool: every index once, the same cuts with any number of threads, cancel from outside. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>

#include "support.h"

enum { MOST = 8 };

typedef struct {
    int         hits[5000];
    int64_t     grain, n;
    int         threads;
    _Atomic int bad;
} job;

static void touch(void *arg, int64_t begin, int64_t end, int worker) {
    job *j = arg;
    if (begin % j->grain || end - begin > j->grain || (end - begin < j->grain && end != j->n)) j->bad = 1;
    if (worker < 0 || worker >= j->threads) j->bad = 1;
    for (int64_t i = begin; i < end; i++) j->hits[i]++;
}

static void every_index_once(void **state) {
    (void)state;
    for (int threads = 1; threads <= MOST; threads = threads * 2 - (threads == 4)) {
        qp_pool *pool = qpi_pool_new(threads);
        assert_non_null(pool);
        qp_exec exec = {.pool = pool, .threads = qpi_pool_threads(pool)};
        job     j = {.threads = exec.threads};
        for (int round = 0; round < 300; round++) {
            memset(j.hits, 0, sizeof j.hits);
            j.n = round % 7 == 0 ? 5000 : round * 13 % 400;
            j.grain = 1 + round % 11 * (round % 3 ? 1 : 40);
            qp_parallel(&exec, j.n, j.grain, touch, &j);
            for (int64_t i = 0; i < 5000; i++) assert_int_equal(j.hits[i], i < j.n);
            assert_false(j.bad);
        }
        j.n = 0;
        qp_parallel(&exec, 0, 5, touch, &j);
        qp_parallel(&exec, -3, 5, touch, &j);
        qpi_pool_free(pool);
        if (threads == 7) break;
    }
    qpi_pool_free(NULL);
}

/* ---- Nested calls run inline, in the same worker ---- */

typedef struct {
    const qp_exec *exec;
    int64_t        sums[64];
    int            outer[64];
    _Atomic int    bad;
} nest;

typedef struct {
    nest   *n;
    int64_t row;
    int     worker;
} nest_row;

static void inner(void *arg, int64_t begin, int64_t end, int worker) {
    nest_row *r = arg;
    if (worker != r->worker) r->n->bad = 1;
    for (int64_t i = begin; i < end; i++) r->n->sums[r->row] += i;
}

static void outer(void *arg, int64_t begin, int64_t end, int worker) {
    nest *n = arg;
    for (int64_t row = begin; row < end; row++) {
        nest_row r = {n, row, worker};
        qp_parallel(n->exec, 100, 7, inner, &r);
        n->outer[row]++;
    }
}

static void nested_calls(void **state) {
    (void)state;
    qp_pool *pool = qpi_pool_new(4);
    qp_exec  exec = {.pool = pool, .threads = 4};
    for (int round = 0; round < 50; round++) {
        nest n = {.exec = &exec};
        qp_parallel(&exec, 64, 3, outer, &n);
        for (int i = 0; i < 64; i++) assert_true(n.outer[i] == 1 && n.sums[i] == 4950);
        assert_false(n.bad);
    }
    qpi_pool_free(pool);
}

/* ---- Workers that sleep, wake and are closed at any moment ---- */

static void naps(void **state) {
    (void)state;
    for (int round = 0; round < 40; round++) {
        qp_pool *pool = qpi_pool_new(1 + round % 6);
        qp_exec  exec = {.pool = pool, .threads = qpi_pool_threads(pool)};
        job      j = {.threads = exec.threads, .n = 100, .grain = 3};
        for (int i = 0; i < round % 4; i++) {
            if (round % 5 == 0) nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
            memset(j.hits, 0, sizeof j.hits);
            qp_parallel(&exec, j.n, j.grain, touch, &j);
            for (int k = 0; k < 100; k++) assert_int_equal(j.hits[k], 1);
        }
        qpi_pool_free(pool);
    }
}

/* ---- Processors taken by others: workers move, what threads may use stays ---- */

static _Atomic bool enough;

static void *stranger(void *arg) {
    while (!enough) {
    }
    return arg;
}

typedef struct {
    cpu_set_t    before;
    _Atomic long sums[2];
    _Atomic int  changed;
} neighbours;

static void look(void *arg, int64_t begin, int64_t end, int worker) {
    neighbours *n = arg;
    cpu_set_t   now;
    if (sched_getaffinity(0, sizeof now, &now) != 0 || !CPU_EQUAL(&now, &n->before)) n->changed++;
    for (volatile int spin = 0; spin < 3000; spin++) {
    }
    for (int64_t i = begin; i < end; i++) n->sums[worker] += i;
}

static void busy_processors(void **state) {
    (void)state;
    pthread_t  others[2];
    qp_pool   *pool = qpi_pool_new(2);
    qp_exec    exec = {.pool = pool, .threads = qpi_pool_threads(pool)};
    neighbours n = {.changed = 0};
    assert_int_equal(sched_getaffinity(0, sizeof n.before, &n.before), 0);
    for (int i = 0; i < 2; i++) assert_int_equal(pthread_create(&others[i], NULL, stranger, NULL), 0);
    for (int round = 0; round < 1000; round++) qp_parallel(&exec, 20, 1, look, &n);
    enough = true;
    for (int i = 0; i < 2; i++) pthread_join(others[i], NULL);
    assert_int_equal(n.sums[0] + n.sums[1], 1000 * 190);
    assert_int_equal(n.changed, 0);
    qpi_pool_free(pool);
}

static void shared_pool(void **state) {
    (void)state;
    qp_ctx *a = qp_open((qp_options){.threads = 3}),
           *b = qp_open((qp_options){.threads = 1, .share_threads = a});
    assert_int_equal(qp_stats_of(b).threads, 3);
    qp_tensor x = qp_full(a, QP_F32, SHAPE(100000), 1), y = qp_full(b, QP_F32, SHAPE(100000), 1);
    for (int i = 0; i < 20; i++) {
        assert_true(qp_item(total(x)) == 100000);
        assert_true(qp_item(total(y)) == 100000);
    }
    close_context(b);
    assert_true(qp_item(total(x)) == 100000);
    close_context(a);
}

/* Contexts that share threads and compute at the same moment. */
static void *sums(void *arg) {
    for (int i = 0; i < 300; i++) {
        qp_scope s = qp_enter(arg);
        if (qp_item(total(qp_full(arg, QP_F32, SHAPE(100000), 1))) != 100000) return arg;
        qp_leave(s);
    }
    return NULL;
}

static void shared_pool_at_once(void **state) {
    (void)state;
    qp_ctx   *a = qp_open((qp_options){.threads = 3}), *b = qp_open((qp_options){.share_threads = a});
    pthread_t thread;
    void     *wrong;
    assert_int_equal(pthread_create(&thread, NULL, sums, a), 0);
    assert_null(sums(b));
    assert_int_equal(pthread_join(thread, &wrong), 0);
    assert_null(wrong);
    close_context(b);
    close_context(a);
}

/* Contexts of their own, one for each thread of the program. */
static void *own_context(void *arg) {
    double *out = arg;
    qp_ctx *ctx = qp_open((qp_options){.threads = 2, .seed = 1});
    for (int i = 0; i < 30; i++) {
        qp_scope  s = qp_enter(ctx);
        qp_tensor x = qp_full(ctx, QP_F32, SHAPE(40000), 0.5);
        qp_require_grad(x, true);
        qp_backward(total(qp_exp(qp_mul(x, x))));
        *out = qp_item(qp_slice(qp_grad_of(x), 0, 39999, 40000, 1));
        qp_leave(s);
    }
    if (qp_failed(ctx)) *out = NAN;
    qp_close(ctx);
    return NULL;
}

static void contexts_in_parallel(void **state) {
    (void)state;
    pthread_t thread[3];
    double    out[3];
    for (int i = 0; i < 3; i++) assert_int_equal(pthread_create(&thread[i], NULL, own_context, &out[i]), 0);
    for (int i = 0; i < 3; i++) pthread_join(thread[i], NULL);
    for (int i = 0; i < 3; i++) assert_true(fabs(out[i] - exp(0.25)) < 1e-6);
}

/* One read-only storage under several contexts at once. */
static float common[30000];
static void *read_common(void *arg) {
    double *out = arg;
    qp_ctx *ctx = qp_open((qp_options){.threads = 1});
    *out = qp_item(total(qp_attach(ctx, QP_F32, SHAPE(30000), common, true, NULL, NULL)));
    qp_close(ctx);
    return NULL;
}

static void storage_in_common(void **state) {
    (void)state;
    pthread_t thread[3];
    double    out[3];
    for (int i = 0; i < 30000; i++) common[i] = 2;
    for (int i = 0; i < 3; i++) assert_int_equal(pthread_create(&thread[i], NULL, read_common, &out[i]), 0);
    for (int i = 0; i < 3; i++) pthread_join(thread[i], NULL);
    for (int i = 0; i < 3; i++) assert_true(out[i] == 60000);
}

static void *cancel_later(void *ctx) {
    sched_yield();
    qp_cancel(ctx);
    return NULL;
}

static void cancel_from_outside(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    qp_tensor x = parameter(ctx, 100, 0);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, cancel_later, ctx), 0);
    for (int i = 0; i < 1000000 && !qp_failed(ctx); i++) {
        qp_scope  s = qp_enter(ctx);
        qp_tensor h = x;
        for (int k = 0; k < 20; k++) h = qp_affine(h, 0.5, 0);
        qp_backward(total(h));
        qp_leave(s);
    }
    pthread_join(thread, NULL);
    expect_error(ctx, QP_ERR_CANCELLED);
    close_context(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_index_once),
        cmocka_unit_test(nested_calls),
        cmocka_unit_test(naps),
        cmocka_unit_test(busy_processors),
        cmocka_unit_test(shared_pool),
        cmocka_unit_test(shared_pool_at_once),
        cmocka_unit_test(contexts_in_parallel),
        cmocka_unit_test(storage_in_common),
        cmocka_unit_test(cancel_from_outside),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
