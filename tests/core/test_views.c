/* Views: shapes, strides, merging of axes, element types. */
#include <float.h>

#include "core/half.h"
#include "support.h"

static void init_and_count(void **state) {
    (void)state;
    qp_view v;
    assert_true(qpi_view_init(&v, QP_F32, SHAPE(2, 3, 4)));
    assert_true(v.stride[0] == 12 && v.stride[1] == 4 && v.stride[2] == 1);
    assert_int_equal(qp_view_count(&v), 24);
    assert_true(qpi_view_contiguous(&v));
    assert_true(qpi_view_init(&v, QP_F32, 0, NULL));
    assert_int_equal(qp_view_count(&v), 1);
    assert_true(qpi_view_init(&v, QP_F32, SHAPE(3, 0, 4)));
    assert_int_equal(qp_view_count(&v), 0);
    assert_true(qpi_view_contiguous(&v));
    assert_false(qpi_view_init(&v, QP_F32, SHAPE(-1)));
    assert_false(qpi_view_init(&v, QP_F32, SHAPE(INT64_MAX)));
    assert_false(qpi_view_init(&v, QP_F32, SHAPE(0, INT64_MAX)));
    assert_false(qpi_view_init(&v, QP_F32, SHAPE(INT64_C(1) << 32, INT64_C(1) << 32)));
    char text[12];
    qpi_view_init(&v, QP_BF16, SHAPE(1000000, 2000000));
    qpi_view_describe(&v, text, sizeof text);
    assert_string_equal(text, "bf16 [10000");
}

static void random_view(qp_view *v, int ndim) {
    v->dtype = QP_F64;
    v->ndim = ndim;
    v->data = NULL;
    for (int i = 0; i < ndim; i++) v->shape[i] = 1 + rand() % 4;
    int64_t n = 1;
    for (int i = ndim - 1; i >= 0; i--) {
        v->stride[i] = n;
        n *= v->shape[i];
    }
    for (int i = 0; i < ndim; i++) {
        int     j = rand() % ndim;
        int64_t s = v->stride[i];
        switch (rand() % 6) {
        case 0: v->stride[i] = 0; break;
        case 1: v->stride[i] *= 2; break;
        case 2: /* transposed */
            v->stride[i] = v->stride[j];
            v->stride[j] = s;
            s = v->shape[i];
            v->shape[i] = v->shape[j];
            v->shape[j] = s;
        }
    }
}

/* Merged axes enumerate the same offsets in the same order. */
static void merging(void **state) {
    (void)state;
    srand(5);
    int fewer = 0;
    for (int round = 0; round < 3000; round++) {
        qp_view a, b, merged[2];
        int     ndim = rand() % 5;
        random_view(&a, ndim ? ndim : 1);
        random_view(&b, ndim ? ndim : 1);
        a.ndim = b.ndim = ndim;
        memcpy(b.shape, a.shape, sizeof a.shape);
        merged[0] = a;
        merged[1] = b;
        qpi_views_merge((qp_view *[]){&merged[0], &merged[1]}, 2);
        assert_true(merged[0].ndim >= 1 && merged[0].ndim == merged[1].ndim);
        fewer += merged[0].ndim < ndim;
        assert_int_equal(qp_view_count(&merged[0]), qp_view_count(&a));
        for (int64_t i = 0; i < qp_view_count(&a); i++) {
            assert_int_equal(qp_view_offset(&merged[0], i), qp_view_offset(&a, i));
            assert_int_equal(qp_view_offset(&merged[1], i), qp_view_offset(&b, i));
        }
        bool in_order = true;
        for (int64_t i = 0; i < qp_view_count(&a); i++) in_order = in_order && qp_view_offset(&a, i) == i;
        assert_true(qpi_view_contiguous(&a) == in_order);
    }
    assert_true(fewer > 100);
}

static void expanding(void **state) {
    (void)state;
    qp_view v, w;
    qpi_view_init(&v, QP_F32, SHAPE(3, 1));
    w = v;
    assert_true(qpi_view_expand(&w, SHAPE(2, 3, 4)));
    assert_true(w.stride[0] == 0 && w.stride[1] == 1 && w.stride[2] == 0);
    w = v;
    assert_false(qpi_view_expand(&w, SHAPE(3)));
    assert_false(qpi_view_expand(&w, SHAPE(2, 4)));
    assert_true(qpi_view_expand(&w, SHAPE(3, 0)));
    assert_int_equal(qp_view_count(&w), 0);
}

/* ---- Element types ---- */

static void stores_saturate(void **state) {
    (void)state;
    int64_t buffer = 0;
    static const struct {
        qp_dtype dtype;
        double   in, out;
    } cases[] = {
        {QP_I32, 1e300, INT32_MAX},
        {QP_I32, -1e300, INT32_MIN},
        {QP_I32, -2.9, -2},
        {QP_I32, NAN, 0},
        {QP_U8, 300, 255},
        {QP_U8, -5, 0},
        {QP_U8, 254.99, 254},
        {QP_BOOL, -0.5, 1},
        {QP_I8, 300, 127},
        {QP_I8, -300, -128},
        {QP_I8, -2.9, -2},
        {QP_I8, NAN, 0},
        {QP_BOOL, 0, 0},
        {QP_I64, 1e300, 0x1p63},
        {QP_I64, -INFINITY, -0x1p63},
        {QP_I64, 1e15, 1e15},
        {QP_BF16, 1, 1},
        {QP_F16, 1e9, INFINITY},
        {QP_F32, 1e300, INFINITY},
        {QP_F64, 1e300, 1e300},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        qp_view v = {.data = &buffer, .dtype = cases[i].dtype};
        qp_store(&v, 0, cases[i].in);
        assert_true(qp_load(&v, 0) == cases[i].out);
    }
}

/* Every half float survives; rounding is to nearest, ties to even, against C's arithmetic. */
static void half_floats(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float f = qpi_f16_to_f32((uint16_t)h), b = qpi_bf16_to_f32((uint16_t)h);
        if (f == f) assert_int_equal(qpi_f32_to_f16(f), h);
        else assert_true(isnan(qpi_f16_to_f32(qpi_f32_to_f16(f))));
        if (b == b) assert_int_equal(qpi_f32_to_bf16(b), h);
        else assert_true(isnan(qpi_bf16_to_f32(qpi_f32_to_bf16(b))));
        /* between this one and the next: the nearer, and of two the even */
        if ((h & 0x7fff) >= 0x7bff) continue;
        float next = qpi_f16_to_f32((uint16_t)(h + 1)), middle = (f + next) / 2;
        assert_int_equal(qpi_f32_to_f16(middle), h & 1 ? h + 1 : h);
        assert_int_equal(qpi_f32_to_f16(nextafterf(middle, f)), h);
        assert_int_equal(qpi_f32_to_f16(nextafterf(middle, next)), h + 1);
        float bnext = qpi_bf16_to_f32((uint16_t)(h + 1)), bmiddle = b / 2 + bnext / 2;
        if (fabsf(b) < 4 * FLT_MIN) continue;
        assert_int_equal(qpi_f32_to_bf16(bmiddle), h & 1 ? h + 1 : h);
        assert_int_equal(qpi_f32_to_bf16(nextafterf(bmiddle, b)), h);
        assert_int_equal(qpi_f32_to_bf16(nextafterf(bmiddle, bnext)), h + 1);
    }
    assert_int_equal(qpi_f32_to_f16(65520), 0x7c00);
    assert_int_equal(qpi_f32_to_f16(65519), 0x7bff);
    assert_int_equal(qpi_f32_to_bf16(FLT_MAX), 0x7f80);
}

static void type_table(void **state) {
    (void)state;
    assert_string_equal(qp_dtype_name(QP_BF16), "bf16");
    assert_int_equal(qp_dtype_bytes(QP_I64), 8);
    assert_true(qp_dtype_is_float(QP_F16));
    assert_false(qp_dtype_is_float(QP_U8));
    assert_int_equal(qp_dtype_bytes(QP_DTYPE_COUNT), 0);
    assert_string_equal(qp_dtype_name(QP_DTYPE_COUNT), "?");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(init_and_count),  cmocka_unit_test(merging),     cmocka_unit_test(expanding),
        cmocka_unit_test(stores_saturate), cmocka_unit_test(half_floats), cmocka_unit_test(type_table),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
