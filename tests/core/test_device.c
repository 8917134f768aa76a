/* The seam for accelerators, kept honest by a device that is none: its pointers are scrambled, so
 * that whoever reads its memory as the host's own crashes. Its kernels are the definitions of
 * the ops behind a translation of pointers; it has none for softmax. */
#include "support.h"

#define SCRAMBLE ((uintptr_t)0x5a << 56)

static void *scrambled(const void *p) { return (void *)((uintptr_t)p ^ SCRAMBLE); }

static int held; /* blocks */

static void *fake_alloc(qp_ctx *ctx, size_t bytes) {
    void *p = aligned_alloc(64, (bytes + 64) & ~(size_t)63);
    (void)ctx;
    memset(p, 0xff, (bytes + 64) & ~(size_t)63);
    held++;
    return scrambled(p);
}
static void fake_free(qp_ctx *ctx, void *p) {
    (void)ctx;
    free(scrambled(p));
    held--;
}
static void fake_to_host(qp_ctx *ctx, void *dst, const void *src, size_t bytes) {
    (void)ctx;
    memcpy(dst, scrambled(src), bytes);
}
static void fake_from_host(qp_ctx *ctx, void *dst, const void *src, size_t bytes) {
    (void)ctx;
    memcpy(scrambled(dst), src, bytes);
}
static void fake_zero(qp_ctx *ctx, void *dst, size_t bytes) {
    (void)ctx;
    memset(scrambled(dst), 0, bytes);
}

static int launched;

static void launch(const qp_call *c) {
    qp_view in[QP_MAX_IN], out[QP_MAX_OUT];
    qp_exec exec = *c->exec;
    qp_call call = *c;
    for (int i = 0; i < c->nin; i++) {
        in[i] = c->in[i];
        if (in[i].ndim >= 0) in[i].data = scrambled(in[i].data);
    }
    for (int i = 0; i < c->nout; i++) {
        out[i] = c->out[i];
        out[i].data = scrambled(out[i].data);
    }
    if (exec.scratch) exec.scratch = scrambled(exec.scratch);
    call.in = in;
    call.out = out;
    call.exec = &exec;
    c->op->plain(&call);
    launched++;
}
static bool takes_all(const qp_call *c) { return c->out[0].dtype != QP_F16; }

static const qp_kernel *fake_kernel(qp_ctx *ctx, const qp_op *op) {
    static const qp_kernel elementwise = {launch, QP_ELEMENTWISE, takes_all}, any = {launch, QP_ANY, takes_all};
    (void)ctx;
    if (!strcmp(op->name, "softmax")) return NULL;
    return op->elementwise ? &elementwise : &any;
}

static const qp_device fake = {"fake",       false,          fake_alloc, fake_free,
                               fake_to_host, fake_from_host, fake_zero,  fake_kernel};

static void close_all(qp_ctx *ctx) {
    close_context(ctx);
    assert_int_equal(held, 0);
}

static void there_and_back(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    qp_tensor x = qp_reshape(counting(ctx, 6, 1), SHAPE(2, 3)), y = qp_to(qp_transpose(x, 0, 1), &fake);
    assert_ptr_equal(qp_device_of(x), qp_cpu());
    assert_ptr_equal(qp_device_of(y), &fake);
    assert_ptr_equal(qp_device_of(QP_NONE), qp_cpu());
    EXPECT(y, 1, 4, 2, 5, 3, 6);
    EXPECT(qp_transpose(y, 0, 1), 1, 2, 3, 4, 5, 6); /* a view that lies there */
    EXPECT(qp_to(y, qp_cpu()), 1, 4, 2, 5, 3, 6);
    qp_tensor same = qp_to(y, &fake);
    assert_ptr_equal(qpi_resolve(same, "")->value.storage, qpi_resolve(y, "")->value.storage);
    assert_null(qp_data_of(y));
    expect_error(ctx, QP_ERR_STATE);
    assert_null(qp_data_write(y));
    expect_error(ctx, QP_ERR_STATE);
    assert_int_equal(qp_write(y, QP_I64, (int64_t[]){6, 5, 4, 3, 2, 1}, 6), QP_OK);
    EXPECT(y, 6, 5, 4, 3, 2, 1);
    assert_int_equal(qp_write(qp_transpose(y, 0, 1), QP_F64, (double[]){1, 2, 3, 4, 5, 6}, 6), QP_OK);
    EXPECT(y, 1, 4, 2, 5, 3, 6);
    assert_true(isnan(qp_item(y)));
    expect_error(ctx, QP_ERR_SHAPE);
    assert_true(qp_item(qp_to(qp_scalar(ctx, QP_F32, 7), &fake)) == 7);
    assert_int_equal(qp_count(qp_to(qp_zeros(ctx, QP_F32, SHAPE(0, 3)), &fake)), 0);
    close_all(ctx);
}

/* A file of tensors that lie there is that of their copies here. */
static void saving(void **state) {
    (void)state;
    qp_ctx     *ctx = open_context();
    const char *paths[] = {P_tmpdir "/quipu-test-here.safetensors", P_tmpdir "/quipu-test-there.safetensors"};
    for (int i = 0; i < 2; i++) {
        qp_tensor x = qp_reshape(counting(ctx, 6, 1), SHAPE(2, 3));
        if (i) x = qp_to(x, &fake);
        qp_named list[] = {{"a", x}, {"b", qp_transpose(x, 0, 1)}, {"c", qp_slice(x, 0, 1, 2, 1)}};
        assert_int_equal(qp_file_save(ctx, paths[i], 3, list, (qp_save_options){0}), QP_OK);
    }
    qp_file *here = qp_file_open(ctx, paths[0], (qp_file_options){0}),
            *there = qp_file_open(ctx, paths[1], (qp_file_options){0});
    for (int i = 0; i < 3; i++) {
        const char *name = qp_file_at(here, i).name;
        qp_tensor   a = qp_file_load(ctx, here, name, false), b = qp_file_load(ctx, there, name, false);
        assert_memory_equal(qp_data_of(a), qp_data_of(b), qp_file_at(here, i).bytes);
    }
    EXPECT(qp_file_load(ctx, there, "b", false), 1, 4, 2, 5, 3, 6);
    qp_file_close(here);
    qp_file_close(there);
    for (int i = 0; i < 2; i++) remove(paths[i]);
    close_all(ctx);
}

static void two_places(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    qp_tensor x = counting(ctx, 3, 1), y = qp_to(x, &fake);
    qp_add(x, y);
    assert_string_equal(qp_error(ctx), "add: input 0 is on cpu, input 1 on fake");
    expect_error(ctx, QP_ERR_STATE);
    qp_softmax(y, 0);
    assert_string_equal(qp_error(ctx), "softmax has no fake kernel");
    expect_error(ctx, QP_ERR_UNSUPPORTED);
    qp_cast(y, QP_F16);
    assert_string_equal(qp_error(ctx), "cast has no fake kernel for these types and layouts");
    expect_error(ctx, QP_ERR_UNSUPPORTED);
    assert_int_not_equal(qp_copy_to(x, y), QP_OK);
    expect_error(ctx, QP_ERR_STATE);
    close_all(ctx);
}

/* A block of a model: products, an activation, a norm, slices, a loss. */
static qp_tensor work(qp_tensor x, qp_tensor w, qp_tensor scale, qp_tensor targets) {
    qp_tensor h = qp_linear(qp_rms_norm(x, scale, 1e-5), w, QP_NONE, QP_ACT_GELU, QP_NONE), parts[2];
    qp_split(h, -1, 2, (int64_t[]){4, 4}, parts);
    qp_tensor y = qp_add(x, qp_mul(parts[0], qp_transpose(qp_transpose(parts[1], 0, 1), 0, 1)));
    y = qp_add(y, qp_matmul(qp_exp(y), qp_slice(w, 0, 0, 4, 1)));
    return qp_cross_entropy(y, targets, (qp_loss_options){0});
}

static void a_step(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    qp_tensor on[4], off[4], loss[2];
    double    values[32];
    on[0] = qp_affine(qp_reshape(counting(ctx, 12, -6), SHAPE(3, 4)), 0.1, 0);
    on[1] = qp_affine(qp_reshape(counting(ctx, 32, -16), SHAPE(8, 4)), 0.03, 0);
    on[2] = counting(ctx, 4, 1);
    on[3] = qp_from(ctx, QP_I64, SHAPE(3), (int64_t[]){2, 0, 3});
    for (int i = 0; i < 4; i++) off[i] = qp_to(on[i], &fake);
    for (int i = 0; i < 3; i++) {
        qp_require_grad(on[i], true);
        qp_require_grad(off[i], true);
    }
    loss[0] = work(on[0], on[1], on[2], on[3]);
    launched = 0;
    loss[1] = work(off[0], off[1], off[2], off[3]);
    assert_true(launched > 5);
    EXPECT(loss[1], qp_item(loss[0]));
    launched = 0;
    for (int i = 0; i < 2; i++) qp_backward(loss[i]);
    assert_true(launched > 8);
    for (int i = 0; i < 3; i++) {
        qp_tensor g = qp_grad_of(off[i]);
        assert_ptr_equal(qp_device_of(g), &fake);
        assert_int_equal(qp_read(qp_grad_of(on[i]), QP_F64, values, qp_count(g)), QP_OK);
        expect_values(g, qp_count(g), values);
    }
    /* qp_grad, with zeros for what the loss did not come from */
    qp_tensor y = total(qp_mul(off[0], off[0])), d[2];
    qp_grad(1, &y, 2, (qp_tensor[]){off[0], off[2]}, d, (qp_grad_options){0});
    EXPECT(d[1], 0, 0, 0, 0);
    assert_ptr_equal(qp_device_of(d[1]), &fake);
    close_all(ctx);
}

/* A leaf here, the work there: the gradient comes home. */
static void across(void **state) {
    (void)state;
    qp_ctx   *ctx = open_context();
    qp_tensor x = parameter(ctx, 3, 1);
    qp_tensor y = total(qp_mul(qp_to(x, &fake), qp_to(x, &fake)));
    qp_tensor z = total(qp_mul(qp_to(qp_exp(x), &fake), qp_full(ctx, QP_F64, SHAPE(3), 2)));
    expect_error(ctx, QP_ERR_STATE);
    z = total(qp_mul(qp_to(qp_to(qp_exp(x), &fake), qp_cpu()), qp_full(ctx, QP_F64, SHAPE(3), 2)));
    qp_backward(qp_add(qp_to(y, qp_cpu()), z));
    assert_ptr_equal(qp_device_of(qp_grad_of(x)), qp_cpu());
    EXPECT(qp_grad_of(x), 2 + 2 * exp(1), 4 + 2 * exp(2), 6 + 2 * exp(3));
    close_all(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(there_and_back), cmocka_unit_test(saving), cmocka_unit_test(two_places),
        cmocka_unit_test(a_step),         cmocka_unit_test(across),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
