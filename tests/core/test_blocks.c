/* Block types: bytes and values of ggml's (tests/golden/make_blocks.py), views, and what is refused. */
#include "core/blocks.h"
#include "support.h"

static void read_golden(const char *name, void *out, size_t bytes) {
    char path[512];
    snprintf(path, sizeof path, SOURCE_DIR "/tests/golden/blocks/%s.bin", name);
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    assert_int_equal(fread(out, 1, bytes, f), bytes);
    assert_int_equal(fgetc(f), EOF);
    fclose(f);
}

static uint64_t fnv(const void *data, size_t n) {
    uint64_t h = UINT64_C(0xCBF29CE484222325);
    for (const uint8_t *p = data; n > 0; n--) h = (h ^ *p++) * UINT64_C(0x100000001B3);
    return h;
}

enum { ROWS = 16, LENGTH = 256, COUNT = ROWS * LENGTH };
static float x[COUNT];

static void bytes_are_ggmls(void **state) {
    (void)state;
    qp_ctx *ctx = open_context();
    read_golden("x", x, sizeof x);
    for (qp_dtype t = QP_Q8_0; t < QP_DTYPE_COUNT; t++) {
        uint8_t   golden[COUNT * 2], mine[COUNT * 2];
        size_t    n = qp_dtype_size(t, COUNT);
        float     back[COUNT];
        qp_tensor blocks = qp_cast(qp_from(ctx, QP_F32, SHAPE(ROWS, LENGTH), x), t);
        read_golden(qp_dtype_name(t), golden, n + 8);
        assert_int_equal(qp_dtype_of(blocks), t);
        assert_int_equal(qp_read(blocks, t, mine, COUNT), QP_OK);
        for (size_t i = 0; i < n; i++)
            if (mine[i] != golden[i])
                fail_msg("%s: byte %zu of %zu is %d, ggml's %d", qp_dtype_name(t), i, n, mine[i], golden[i]);
        uint64_t expected;
        memcpy(&expected, golden + n, 8);
        assert_int_equal(qp_read(qp_cast(blocks, QP_F32), QP_F32, back, COUNT), QP_OK);
        assert_true(fnv(back, sizeof back) == expected);
        for (int i = 0; i < COUNT; i++) assert_true(qpi_blocks_at(t, mine, i) == back[i]);
    }
    close_context(ctx);
}

/* Values that are not finite, or on the edge of half precision, end in some block. */
static void odd_values_are_harmless(void **state) {
    (void)state;
    static const float odd[] = {NAN, INFINITY, -INFINITY, 3e38f, -3e38f, 1e-45f, 0, 65519, 70000, -1e-30f};
    for (qp_dtype t = QP_Q8_0; t < QP_DTYPE_COUNT; t++)
        for (int k = 0; k < 100; k++) {
            float   y[256], back[256];
            uint8_t blocks[512];
            for (int i = 0; i < 256; i++) y[i] = (i * 7 + k) % 5 ? 1.5f : odd[(i + k) % 10];
            qpi_blocks_encode(t, y, 256, blocks);
            qpi_blocks_decode(t, blocks, 256, back);
        }
}

/* Slices, reshapes and copies on whole blocks are those of the floats; others are errors. */
static void views(void **state) {
    (void)state;
    qp_ctx *ctx = open_context();
    read_golden("x", x, sizeof x);
    for (qp_dtype t = QP_Q8_0; t < QP_DTYPE_COUNT; t++) {
        int64_t   block = qp_dtype_block(t), length = 4 * block, rows = 3;
        qp_tensor w = qp_cast(qp_from(ctx, QP_F32, SHAPE(rows, length), x), t), f = qp_cast(w, QP_F32);
        float     a[5 * 1024], b[5 * 1024];
        struct {
            qp_tensor blocks, floats;
        } pair[] = {
            {qp_slice(w, 0, 1, 3, 1), qp_slice(f, 0, 1, 3, 1)},
            {qp_slice(w, 0, 0, 3, 2), qp_slice(f, 0, 0, 3, 2)},
            {qp_slice(w, 1, block, 3 * block, 1), qp_slice(f, 1, block, 3 * block, 1)},
            {qp_contiguous(qp_slice(w, 1, 2 * block, 3 * block, 1)), qp_slice(f, 1, 2 * block, 3 * block, 1)},
            {qp_reshape(w, SHAPE(rows, 2, 2 * block)), qp_reshape(f, SHAPE(rows, 2, 2 * block))},
            {qp_transpose(qp_reshape(w, SHAPE(rows, 2, 2 * block)), 0, 1),
             qp_transpose(qp_reshape(f, SHAPE(rows, 2, 2 * block)), 0, 1)},
            {qp_contiguous(qp_transpose(qp_reshape(w, SHAPE(rows, 4, block)), 0, 1)),
             qp_transpose(qp_reshape(f, SHAPE(rows, 4, block)), 0, 1)},
            {qp_expand(qp_slice(w, 0, 2, 3, 1), SHAPE(5, length)),
             qp_expand(qp_slice(f, 0, 2, 3, 1), SHAPE(5, length))}};
        for (size_t i = 0; i < sizeof pair / sizeof *pair; i++) {
            int64_t n = qp_count(pair[i].floats);
            assert_int_equal(qp_dtype_of(pair[i].blocks), t);
            assert_int_equal(qp_read(pair[i].blocks, QP_F32, a, n), QP_OK);
            assert_int_equal(qp_read(pair[i].floats, QP_F32, b, n), QP_OK);
            assert_memory_equal(a, b, (size_t)n * 4);
            assert_int_equal(qp_read(qp_cast(pair[i].blocks, QP_F32), QP_F32, a, n), QP_OK);
            assert_memory_equal(a, b, (size_t)n * 4);
        }
        qp_tensor copy = qp_empty(ctx, t, SHAPE(rows, length)),
                  there = qp_empty(ctx, QP_F32, SHAPE(rows, length));
        assert_int_equal(qp_copy_to(copy, w), QP_OK);
        assert_int_equal(qp_copy_to(there, copy), QP_OK);
        assert_int_equal(qp_read(there, QP_F32, a, rows * length), QP_OK);
        assert_int_equal(qp_read(f, QP_F32, b, rows * length), QP_OK);
        assert_memory_equal(a, b, (size_t)(rows * length) * 4);

        qp_transpose(w, 0, 1);
        expect_error(ctx, QP_ERR_ARGUMENT);
        qp_slice(w, 1, 1, block + 1, 1);
        expect_error(ctx, QP_ERR_ARGUMENT);
        qp_slice(w, 1, 0, block - 1, 1);
        expect_error(ctx, QP_ERR_ARGUMENT);
        qp_slice(w, 1, 0, 4 * block, 2);
        expect_error(ctx, QP_ERR_ARGUMENT);
        qp_reshape(w, SHAPE(length, rows));
        expect_error(ctx, QP_ERR_ARGUMENT);
        qp_reshape(w, SHAPE(rows, length, 1));
        expect_error(ctx, QP_ERR_ARGUMENT);
    }
    close_context(ctx);
}

static void refusals(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    qp_tensor w = qp_cast(qp_zeros(ctx, QP_F32, SHAPE(2, 32)), QP_Q4_0),
              f = qp_zeros(ctx, QP_F32, SHAPE(2, 32));
    float     v[64] = {0};
    qp_add(w, w);
    expect_error(ctx, QP_ERR_TYPE);
    qp_matmul(f, w);
    expect_error(ctx, QP_ERR_TYPE);
    qp_linear(w, f, QP_NONE, QP_ACT_NONE, QP_NONE);
    expect_error(ctx, QP_ERR_TYPE);
    qp_zeros(ctx, QP_Q4_0, SHAPE(2, 32));
    expect_error(ctx, QP_ERR_TYPE);
    qp_randn(ctx, QP_Q4_0, SHAPE(2, 32));
    expect_error(ctx, QP_ERR_TYPE);
    qp_one_hot(qp_zeros(ctx, QP_I64, SHAPE(3)), 32, QP_Q4_0);
    expect_error(ctx, QP_ERR_TYPE);
    qp_arange(ctx, QP_Q4_0, 32);
    expect_error(ctx, QP_ERR_TYPE);
    qp_scalar(ctx, QP_Q4_0, 1);
    expect_error(ctx, QP_ERR_ARGUMENT);
    qp_empty(ctx, QP_Q4_0, SHAPE(32, 31));
    expect_error(ctx, QP_ERR_ARGUMENT);
    qp_empty(ctx, QP_Q4_K, SHAPE(2, 32));
    expect_error(ctx, QP_ERR_ARGUMENT);
    qp_cast(f, QP_Q4_K);
    expect_error(ctx, QP_ERR_SHAPE);
    qp_cast(qp_zeros(ctx, QP_I64, SHAPE(32)), QP_Q4_0);
    expect_error(ctx, QP_ERR_TYPE);
    qp_require_grad(w, true);
    expect_error(ctx, QP_ERR_TYPE);
    assert_int_equal(qp_write(w, QP_F32, v, 64), QP_ERR_TYPE);
    expect_error(ctx, QP_ERR_TYPE);
    assert_int_equal(qp_read(f, QP_Q4_0, v, 64), QP_ERR_TYPE);
    expect_error(ctx, QP_ERR_TYPE);
    assert_int_equal(qp_copy_to(w, f), QP_ERR_TYPE);
    expect_error(ctx, QP_ERR_TYPE);
    assert_int_equal(qp_dtype_size(QP_Q6_K, 512), 420);
    assert_int_equal(qp_dtype_block(QP_DTYPE_COUNT), 1);
    close_context(ctx);
}

/* The input's gradient through weights of blocks is that through the same weights as floats. */
static void gradients(void **state) {
    (void)state;
    qp_ctx *ctx = open_context();
    for (qp_dtype t = QP_Q8_0; t < QP_DTYPE_COUNT; t++) {
        qp_tensor w = qp_cast(qp_randn(ctx, QP_F32, SHAPE(5, 256)), t), f = qp_cast(w, QP_F32);
        qp_tensor in = qp_randn(ctx, QP_F32, SHAPE(3, 256)), both[2], y[2];
        float     a[2][768], b[2][15];
        qp_require_grad(in, true);
        for (int k = 0; k < 2; k++) {
            y[k] = qp_linear(in, k ? f : w, QP_NONE, QP_ACT_GELU, QP_NONE);
            qp_tensor loss = qp_sum(qp_square(y[k]), 2, (int[]){0, 1}, false);
            qp_grad(1, &loss, 1, &in, &both[k], (qp_grad_options){0});
            assert_int_equal(qp_read(y[k], QP_F32, b[k], 15), QP_OK);
            assert_int_equal(qp_read(both[k], QP_F32, a[k], 768), QP_OK);
        }
        assert_memory_equal(a[0], a[1], sizeof a[0]);
        assert_memory_equal(b[0], b[1], sizeof b[0]);
    }
    close_context(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_are_ggmls), cmocka_unit_test(odd_values_are_harmless),
        cmocka_unit_test(views),           cmocka_unit_test(refusals),
        cmocka_unit_test(gradients),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
