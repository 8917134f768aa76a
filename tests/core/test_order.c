/* What follows what: known after two rounds, forgotten when it changes, never a region that was not given. */
#include "core/order.h"

#include "support.h"

enum { MANY = 5000 };

static qpi_region region(int i) {
    const char *at = (const char *)(uintptr_t)(4096 * (i + 1));
    return (qpi_region){{at, at + 1024}, {100 + i, 7}};
}

static bool is(qpi_region r, int i) {
    qpi_region s = region(i);
    return r.data[0] == s.data[0] && r.bytes[0] == s.bytes[0] && r.data[1] == s.data[1] &&
           r.bytes[1] == s.bytes[1];
}

static void known_after_two_rounds(void **state) {
    (void)state;
    qp_ctx *ctx = qp_open((qp_options){.threads = 1});
    for (int round = 0; round < 5; round++)
        for (int i = 0; i < 300; i++) {
            qpi_region next = qpi_order_next(ctx, region(i));
            if (round < 2) assert_null(next.data[0]);
            else assert_true(is(next, (i + 1) % 300));
        }
    qp_close(ctx);
}

static void forgotten_when_it_changes(void **state) {
    (void)state;
    qp_ctx *ctx = qp_open((qp_options){.threads = 1});
    for (int round = 0; round < 3; round++) {
        qpi_order_next(ctx, region(0));
        qpi_order_next(ctx, region(1));
    }
    assert_true(is(qpi_order_next(ctx, region(0)), 1));
    qpi_order_next(ctx, region(2));
    assert_null(qpi_order_next(ctx, region(0)).data[0]);
    qpi_order_next(ctx, region(2));
    assert_true(is(qpi_order_next(ctx, region(0)), 2));
    for (int i = 0; i < 2; i++) { /* the same place, another size */
        qpi_region other = region(2);
        other.bytes[i]++;
        qpi_order_next(ctx, other);
        assert_null(qpi_order_next(ctx, region(0)).data[0]);
        qpi_order_next(ctx, region(2));
        qpi_order_next(ctx, region(0));
        qpi_order_next(ctx, region(2));
        assert_true(is(qpi_order_next(ctx, region(0)), 2));
    }
    qp_close(ctx);
}

/* More regions than there are places: what is said is what came next. */
static void never_another(void **state) {
    (void)state;
    qp_ctx *ctx = qp_open((qp_options){.threads = 1});
    int     said = 0;
    for (int round = 0; round < 4; round++)
        for (int i = 0; i < MANY; i++) {
            qpi_region next = qpi_order_next(ctx, region(i));
            assert_true(!next.data[0] || is(next, (i + 1) % MANY));
            said += next.data[0] != NULL;
        }
    assert_true(said < 4 * MANY);
    qp_close(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(known_after_two_rounds),
                                       cmocka_unit_test(forgotten_when_it_changes),
                                       cmocka_unit_test(never_another)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
