/* Every allocation fails in turn: of the system, of the context's heap, of threads. The linker
 * hands those calls to the functions __wrap_*. */
#include <pthread.h>

#include "support.h"

static long countdown, held;
static bool hit, sticky; /* sticky: from then on all fail */

static bool fails(void) {
    if (countdown && --countdown == 0) {
        hit = true;
        if (sticky) countdown = 1;
        return true;
    }
    return false;
}

static void *got(void *p) {
    held += p != NULL;
    return p;
}

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t m);
void *__real_realloc(void *p, size_t n);
void *__real_aligned_alloc(size_t a, size_t n);
void __real_free(void *p);
void *__real_qpi_alloc(qp_ctx *ctx, size_t n);
int __real_pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*f)(void *), void *arg);

void *__wrap_malloc(size_t n) { return fails() ? NULL : got(__real_malloc(n)); }
void *__wrap_calloc(size_t n, size_t m) { return fails() ? NULL : got(__real_calloc(n, m)); }
void *__wrap_aligned_alloc(size_t a, size_t n) { return fails() ? NULL : got(__real_aligned_alloc(a, n)); }
void *__wrap_realloc(void *p, size_t n) {
    if (fails()) return NULL;
    void *q = __real_realloc(p, n);
    return p ? q : got(q);
}
void __wrap_free(void *p) {
    held -= p != NULL;
    __real_free(p);
}
void *__wrap_qpi_alloc(qp_ctx *ctx, size_t n) {
    if (!fails()) return __real_qpi_alloc(ctx, n);
    qp_fail(ctx, QP_ERR_MEMORY, "out of memory: a test");
    return NULL;
}
int __wrap_pthread_create(pthread_t *t, const pthread_attr_t *a, void *(*f)(void *), void *arg) {
    return fails() ? 11 : __real_pthread_create(t, a, f, arg);
}

/* ---- A program that uses what the core has ---------------------------------------------------------- */

static int attached, released, hooked;

static void count_release(void *user) {
    (void)user;
    released++;
}
static void count_hook(void *user, qp_tensor grad) {
    (void)user;
    hooked += qp_count(grad) > 0;
}

static void block(const void *data, const qp_tensor *xs, qp_tensor *ys) {
    qp_tensor *w = *(qp_tensor *const *)data;
    ys[0] = qp_softmax(qp_matmul(xs[0], *w), -1);
    ys[1] = qp_exp(ys[0]);
}

static float values[64];

static void step(qp_ctx *ctx, qp_tensor w, int depth) {
    qp_scope  s = qp_enter(ctx);
    qp_tensor x = qp_attach(ctx, QP_F32, SHAPE(8, 8), values, true, count_release, NULL), y[2], d[2];
    attached++;
    for (int i = 0; i < depth; i++) qp_enter(ctx);
    for (int i = 0; i < depth * 8; i++) qp_alias(x);
    qp_tensor h = qp_layer_norm(qp_matmul(x, w), QP_NONE, QP_NONE, 1e-5);
    h = qp_add(h, qp_slice(w, 0, 3, 4, 1));
    h = qp_reshape(qp_transpose(h, 0, 1), SHAPE(8, 8)); /* a copy */
    qp_checkpoint(ctx, block, &(qp_tensor *){&w}, sizeof(qp_tensor *), 1, &h, 2, y);
    qp_tensor parts[2] = {qp_slice(y[0], 1, 0, 3, 1), qp_slice(y[1], 1, 3, 8, 2)};
    qp_tensor all = qp_concat(2, parts, 1), loss = total(qp_mul(all, all));
    qp_grad(1, &loss, 2, (qp_tensor[]){w, h}, d, (qp_grad_options){.retain = true});
    if (qp_error_code(ctx) == QP_ERR_UNSUPPORTED) qp_clear(ctx); /* not through a checkpoint */
    loss = total(qp_mul(qp_exp(qp_slice(w, 1, 0, 4, 1)), qp_slice(w, 1, 4, 8, 1)));
    qp_grad(1, &loss, 1, &w, d, (qp_grad_options){.retain = true});
    qp_backward(loss);
    qp_backward(total(qp_mul(all, all)));
    bool      before = qp_no_grad(ctx, true);
    qp_tensor g = qp_grad_of(w);
    if (!qp_is_none(g)) qp_copy_to(w, qp_sub(w, qp_affine(g, 0.1, 0)));
    qp_copy_to(qp_slice(w, 0, 1, 8, 1), qp_slice(w, 0, 0, 7, 1)); /* overlap */
    qp_no_grad(ctx, before);
    qp_item(loss);
    if (!qp_failed(ctx)) qp_zero_grad(w);
    d[1] = qp_return(s, qp_cast(loss, QP_F64));
    qp_drop(d[1]);
}

/* The code of the first failure. */
static qp_code program(void) {
    qp_ctx *ctx = qp_open((qp_options){.threads = 2, .seed = 1});
    if (!ctx) return QP_ERR_MEMORY;
    qp_tensor w = qp_keep(qp_from(ctx, QP_F32, SHAPE(8, 8), values));
    qp_require_grad(w, true);
    if (qp_requires_grad(w)) qp_on_grad(w, count_hook, NULL);
    step(ctx, w, 0);
    step(ctx, w, 100);
    qp_code code = qp_error_code(ctx);
    countdown = 0; /* there is memory again */
    qp_clear(ctx);
    if (qp_requires_grad(w)) {
        qp_zero_grad(w);
        assert_int_equal(qp_write(w, QP_F32, values, 64), QP_OK);
        step(ctx, w, 0);
        expect_ok(ctx);
    }
    qp_close(ctx);
    return code;
}

static void each_in_turn(void **state) {
    (void)state;
    for (int i = 0; i < 64; i++) values[i] = (float)sin(i);
    program(); /* what libraries keep for themselves is held from now on */
    assert_true(hooked > 0);
    long before = held, n = 0;
    do {
        n++;
        hit = false;
        countdown = n;
        qp_code code = program();
        countdown = 0;
        if (code != QP_OK && code != QP_ERR_MEMORY) fail_msg("failure %ld: code %d", n, code);
        if (held != before) fail_msg("failure %ld: %ld blocks stay behind", n, held - before);
        if (attached != released)
            fail_msg("failure %ld: %d of %d attached buffers released", n, released, attached);
    } while (hit);
    assert_true(n > 150);
    print_message("%ld allocations\n", n - 1);
}

static void one(void **state) {
    sticky = false;
    each_in_turn(state);
}

static void all_from_there_on(void **state) {
    sticky = true;
    each_in_turn(state);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(one), cmocka_unit_test(all_from_there_on)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
