/* Data sets of a host program's own kind: what they may hold, how they fail, how long batches live. */
#include "support.h"

#include "data/dataset.h"

static qp_ctx *open_context(void) { return qp_open((qp_options){.threads = 2}); }

typedef struct {
    int closed, filled, fail_at;
} counter;

static int counter_fields(void *source, qp_field *out) {
    (void)source;
    out[0] = (qp_field){"pixels", QP_F32, 2, {2, 3}};
    out[1] = (qp_field){"label", QP_I32, 0, {0}};
    out[2] = (qp_field){"mask", QP_U8, 1, {0}};
    return 3;
}
static int64_t counter_samples(void *source) { return (void)source, 10; }
static const char *counter_fill(void *source, uint64_t epoch, int64_t index, void *const *rows) {
    counter *c = source;
    if (c->filled++ == c->fail_at) return "the disk is gone";
    for (int i = 0; i < 6; i++) ((float *)rows[0])[i] = (float)(index * 6 + i);
    *(int32_t *)rows[1] = index < 0 ? -1 : (int32_t)(epoch * 10 + (uint64_t)index);
    return NULL;
}
static uint64_t counter_print(void *source) { return (void)source, 77; }
static void counter_close(void *source) { ((counter *)source)->closed++; }
static const qp_source counter_source = {"counter",     counter_fields, counter_samples, counter_fill,
                                         counter_print, NULL,           counter_close};

static void own_kind(void **state) {
    (void)state;
    qp_ctx  *ctx = open_context();
    counter  c = {.fail_at = -1};
    qp_data *d = qp_data_new(ctx, &counter_source, &c, (qp_data_options){.batch = 4, .order = QP_SEQUENTIAL});
    expect_ok(ctx);
    assert_int_equal(qp_data_batches(d), 3);
    for (int b = 0; b < 4; b++) {
        int32_t   labels[4];
        float     pixels[24];
        qp_scope  s = qp_enter(ctx);
        qp_record batch = qp_data_next(d);
        assert_int_equal(batch.count, 3);
        qp_tensor x = qp_record_get(&batch, "pixels"), m = qp_record_get(&batch, "mask");
        assert_true(qp_ndim(x) == 3 && qp_size(x, 0) == 4 && qp_size(x, 1) == 2 && qp_size(x, 2) == 3);
        assert_true(qp_ndim(m) == 2 && qp_size(m, 0) == 4 && qp_size(m, 1) == 0);
        assert_int_equal(qp_read(x, QP_F32, pixels, 24), QP_OK);
        assert_int_equal(qp_read(qp_record_get(&batch, "label"), QP_I32, labels, 4), QP_OK);
        for (int i = 0; i < 4; i++)
            assert_int_equal(labels[i], b == 3 ? 10 + i : b * 4 + i < 10 ? b * 4 + i : -1);
        if (b == 1) assert_true(pixels[23] == 47);
        qp_leave(s);
    }
    assert_non_null(qp_data_state(d));
    assert_int_equal(qp_data_restore(d, qp_data_state(d)), QP_OK); /* it has no files */
    assert_int_equal(qp_data_tokens(d), 0);
    qp_data_close(d);
    assert_int_equal(c.closed, 1);
    assert_null(qp_data_new(ctx, &counter_source, &c, (qp_data_options){.batch = -4}));
    assert_int_equal(c.closed, 2);
    qp_clear(ctx);
    qp_data_close(NULL);
    qp_close(ctx);
    assert_int_equal(c.closed, 2);
}

/* Fields of another program that cannot be. */
static const qp_field *odd_field;
static int             odd_count;
static int64_t         odd_samples_count;
static int odd_fields(void *source, qp_field *out) {
    (void)source;
    out[0] = *odd_field;
    return odd_count;
}
static int64_t odd_samples(void *source) { return (void)source, odd_samples_count; }

static void odd_kinds(void **state) {
    (void)state;
    static const qp_field good = {"x", QP_F32, 1, {4}};
    static const qp_field odd[] = {{NULL, QP_F32, 1, {4}},
                                   {"x", (qp_dtype)99, 1, {4}},
                                   {"x", QP_F32, -1, {4}},
                                   {"x", QP_F32, QP_MAX_DIMS, {4}},
                                   {"x", QP_F32, 1, {-4}},
                                   {"x", QP_F32, 3, {INT64_MAX, 3, 1}},
                                   {"x", QP_F32, 1, {INT64_MAX / 8}},
                                   {"x", QP_F32, 1, {INT64_MAX / 2}},
                                   {"x", QP_Q4_0, 1, {32}}};
    qp_source             source = counter_source;
    qp_ctx               *ctx = open_context();
    counter               c = {.fail_at = -1};
    source.fields = odd_fields;
    source.samples = odd_samples;
    odd_samples_count = 4;
    odd_count = 1;
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) {
        odd_field = &odd[i];
        assert_null(qp_data_new(ctx, &source, &c, (qp_data_options){.batch = 4}));
        expect_error(ctx, QP_ERR_ARGUMENT, "");
    }
    odd_field = &good;
    for (odd_count = 0; odd_count <= QP_MAX_FIELDS + 1; odd_count += QP_MAX_FIELDS + 1) {
        assert_null(qp_data_new(ctx, &source, &c, (qp_data_options){.batch = 4}));
        expect_error(ctx, QP_ERR_ARGUMENT, "");
    }
    odd_count = 1;
    odd_samples_count = 0;
    assert_null(qp_data_new(ctx, &source, &c, (qp_data_options){.batch = 4}));
    expect_error(ctx, QP_ERR_ARGUMENT, "no samples");
    odd_samples_count = 4;
    source.close = NULL;
    assert_null(qp_data_new(ctx, &source, &c, (qp_data_options){.batch = (int64_t)1 << 40}));
    expect_error(ctx, QP_ERR_ARGUMENT, "");
    assert_null(qp_data_new(ctx, &source, &c, (qp_data_options){.process = 2, .processes = 2}));
    expect_error(ctx, QP_ERR_ARGUMENT, "");
    qp_data *d = qp_data_new(ctx, &source, &c, (qp_data_options){.batch = 4, .ahead = -1});
    assert_true(d && qp_data_bytes(d) == 0);
    qp_data_close(d);
    qp_close(ctx);
}

static void failing_kind(void **state) {
    (void)state;
    for (int ahead = -1; ahead < 3; ahead += 2) {
        qp_ctx  *ctx = open_context();
        counter  c = {.fail_at = 9};
        qp_data *d = qp_data_new(ctx, &counter_source, &c, (qp_data_options){.batch = 2, .ahead = ahead});
        for (int i = 0; i < 4; i++) assert_int_equal(qp_data_next(d).count, 3);
        assert_int_equal(qp_data_next(d).count, 0);
        expect_error(ctx, QP_ERR_FORMAT, "data: batch 4: the disk is gone");
        assert_int_equal(qp_data_position(d), 4);
        assert_int_equal(qp_data_next(d).count, 3); /* and it may be tried again */
        qp_close(ctx);
        assert_int_equal(c.closed, 1);
    }
}

/* All slots are out or being filled: whoever asks waits for the one that is coming. */
static const char *slow_fill(void *source, uint64_t epoch, int64_t index, void *const *rows) {
    usleep(20000);
    return counter_fill(source, epoch, index, rows);
}

static void waiting(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    counter   c = {.fail_at = -1};
    qp_source source = counter_source;
    source.fill = slow_fill;
    qp_data *d =
        qp_data_new(ctx, &source, &c, (qp_data_options){.batch = 1, .order = QP_SEQUENTIAL, .ahead = 1});
    for (int i = 0; i < 4; i++) {
        int32_t label;
        usleep(5000); /* the thread has begun with the next one */
        qp_record b = qp_data_next(d);
        assert_int_equal(qp_read(qp_record_get(&b, "label"), QP_I32, &label, 1), QP_OK);
        assert_int_equal(label, i);
    }
    qp_close(ctx);
}

/* Batches may be kept, even beyond the data set's life. */
static void kept_batches(void **state) {
    (void)state;
    for (int ahead = -1; ahead < 3; ahead += 2) {
        qp_ctx   *ctx = open_context();
        counter   c = {.fail_at = -1};
        qp_data  *d = qp_data_new(ctx, &counter_source, &c,
                                  (qp_data_options){.batch = 2, .order = QP_SEQUENTIAL, .ahead = ahead});
        qp_tensor kept[20];
        for (int i = 0; i < 20; i++) {
            qp_record b = qp_data_next(d);
            kept[i] = qp_keep(qp_record_get(&b, "label"));
            qp_drop(qp_record_get(&b, "pixels"));
            qp_drop(qp_record_get(&b, "mask"));
        }
        for (int i = 0; i < 10; i++) qp_drop(kept[2 * i]);
        qp_data_close(d);
        for (int i = 0; i < 10; i++) {
            int32_t labels[2];
            assert_int_equal(qp_read(kept[2 * i + 1], QP_I32, labels, 2), QP_OK);
            assert_int_equal(labels[1], 2 * (2 * i + 1) + 1);
        }
        expect_ok(ctx);
        qp_close(ctx);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(own_kind), cmocka_unit_test(odd_kinds),
                                       cmocka_unit_test(failing_kind), cmocka_unit_test(waiting),
                                       cmocka_unit_test(kept_batches)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
