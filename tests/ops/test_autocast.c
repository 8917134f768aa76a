/* Mixed precision: which ops follow it, what their calls are told, and gradients against
 * PyTorch's (tests/golden/make_autocast.py). */
#include "harness.h"
#include "quipu/format.h"

/* ---- The block of make_autocast.py ------------------------------------------------------------- */

enum { X, QKV, OUT, UP, DOWN, HEAD, LEAVES };
static const char *const names[LEAVES] = {"x", "qkv", "out", "up", "down", "head"};
enum { B = 2, T = 12, H = 2, K = 12, D = H * K };

static qp_tensor loss_of(const qp_tensor *leaf, qp_tensor targets) {
    qp_tensor parts[3], u;
    qp_tensor qkv = qp_linear(leaf[X], leaf[QKV], QP_NONE, QP_ACT_NONE, QP_NONE);
    qp_split(qkv, -1, 3, (int64_t[]){D, D, D}, parts);
    for (int i = 0; i < 3; i++) parts[i] = qp_reshape(parts[i], 4, (int64_t[]){B, T, H, K});
    qp_tensor mixed = qp_attention(parts[0], parts[1], parts[2], (qp_mask){.causal = true}, 0);
    mixed = qp_reshape(mixed, 3, (int64_t[]){B, T, D});
    qp_tensor h = qp_linear(mixed, leaf[OUT], QP_NONE, QP_ACT_NONE, leaf[X]);
    u = qp_linear(h, leaf[UP], QP_NONE, QP_ACT_GELU, QP_NONE);
    qp_tensor y = qp_linear(u, leaf[DOWN], QP_NONE, QP_ACT_NONE, h);
    return qp_linear_cross_entropy(y, leaf[HEAD], targets, (qp_loss_options){0});
}

static qp_file *open_golden(qp_ctx *ctx) {
    return qp_file_open(ctx, SOURCE_DIR "/tests/golden/autocast.safetensors", (qp_file_options){0});
}

static double error_of(qp_tensor got, qp_tensor expected) {
    array  a = array_read(got), b = array_read(expected);
    double e = relative_error(&a, &b, 0);
    array_free(&a);
    array_free(&b);
    return e;
}

/* Relative errors of the loss and its gradients against the exact ones. */
static void errors(qp_ctx *ctx, qp_file *file, qp_dtype dtype, double *e) {
    qp_scope  s = qp_enter(ctx);
    qp_tensor leaf[LEAVES];
    char      name[32];
    for (int i = 0; i < LEAVES; i++) {
        leaf[i] = qp_file_load(ctx, file, names[i], true);
        qp_require_grad(leaf[i], true);
    }
    qp_autocast(ctx, dtype);
    qp_tensor loss = loss_of(leaf, qp_file_load(ctx, file, "targets", true));
    qp_autocast(ctx, QP_F32); /* gradients are formed as the calls were */
    e[LEAVES] = error_of(loss, qp_file_load(ctx, file, "exact.loss", true));
    qp_backward(loss);
    for (int i = 0; i < LEAVES; i++) {
        snprintf(name, sizeof name, "exact.%s", names[i]);
        e[i] = error_of(qp_grad_of(leaf[i]), qp_file_load(ctx, file, name, true));
    }
    if (qp_failed(ctx)) fail_msg("%s", qp_error(ctx));
    qp_leave(s);
}

/* No farther from the truth than torch.autocast, which rounds results too. */
static void near_pytorch(void **state) {
    (void)state;
    for (qp_isa isa = first_isa; isa <= qpi_cpu_isa(); isa++) {
        qp_ctx  *ctx = context_of(isa, 1);
        qp_file *file = open_golden(ctx);
        double   e[LEAVES + 1], low[LEAVES + 1], half[LEAVES + 1];
        assert_non_null(file);
        errors(ctx, file, QP_F32, e);
        errors(ctx, file, QP_BF16, low);
        errors(ctx, file, QP_F16, half);
        for (int i = 0; i <= LEAVES; i++) {
            char        torch_name[32], exact_name[32];
            const char *name = i < LEAVES ? names[i] : "loss";
            qp_scope    s = qp_enter(ctx);
            snprintf(torch_name, sizeof torch_name, "bf16.%s", name);
            snprintf(exact_name, sizeof exact_name, "exact.%s", name);
            double torch =
                error_of(qp_file_load(ctx, file, torch_name, true), qp_file_load(ctx, file, exact_name, true));
            qp_leave(s);
            if (!(e[i] < 5e-6 && low[i] < 1.2 * torch + 1e-4 && half[i] < 0.25 * torch + 1e-4))
                fail_msg("%s on %s: f32 %.2g, bf16 %.2g, f16 %.2g; torch.autocast %.2g", name, isa_name(isa),
                         e[i], low[i], half[i], torch);
        }
        qp_file_close(file);
    }
}

/* ---- Who follows it ------------------------------------------------------------------------------- */

static void who_follows(void **state) {
    static const char *const expected[] = {"grouped_linear", "grouped_outer",        "grouped_outer_into",
                                           "linear",         "linear_cross_entropy", "linear_many",
                                           "matmul",         "matmul_into"};
    int                      count = 0, n = (int)(sizeof expected / sizeof *expected);
    (void)state;
    for (int i = 0; qp_op_at(i); i++)
        if (qp_op_at(i)->autocast) assert_true(count < n && !strcmp(qp_op_at(i)->name, expected[count++]));
    assert_int_equal(count, n);
}

/* ---- What calls are told: y = compute's number, and so is its gradient ---------------------------------- */

static void tell_plain(const qp_call *c) { qp_store(&c->out[0], 0, c->compute); }
static void tell_rule(qp_rule *r);
static const qp_op tell = {.name = "tell",
                           .min_in = 1,
                           .max_in = 1,
                           .nout = 1,
                           .plain = tell_plain,
                           .backward = tell_rule,
                           .autocast = true};
static const qp_op deaf = {.name = "deaf", .min_in = 1, .max_in = 1, .nout = 1, .plain = tell_plain};
static void tell_rule(qp_rule *r) { r->din[0] = qp_apply(&tell, 1, &r->dout[0], NULL); }

static double ask(const qp_op *op, qp_ctx *ctx) {
    qp_scope  s = qp_enter(ctx);
    qp_tensor x = qp_scalar(ctx, QP_F64, 1);
    double    y = qp_item(qp_apply(op, 1, &x, NULL));
    qp_leave(s);
    return y;
}

static void scopes_put_it_back(void **state) {
    (void)state;
    qp_ctx *ctx = qp_open((qp_options){.threads = 1});
    assert_int_equal(ask(&tell, ctx), QP_F32);
    assert_int_equal(qp_autocast(ctx, QP_BF16), QP_F32);
    assert_int_equal(ask(&tell, ctx), QP_BF16);
    assert_int_equal(ask(&deaf, ctx), QP_F32);
    qp_scope outer = qp_enter(ctx);
    assert_int_equal(qp_autocast(ctx, QP_F16), QP_BF16);
    assert_false(qp_no_grad(ctx, true));
    qp_scope inner = qp_enter(ctx);
    qp_autocast(ctx, QP_F32);
    qp_no_grad(ctx, false);
    qp_leave(inner);
    assert_int_equal(ask(&tell, ctx), QP_F16);
    assert_true(qp_no_grad(ctx, true));
    inner = qp_enter(ctx);
    qp_autocast(ctx, QP_F32);
    qp_leave(outer); /* an early return */
    assert_int_equal(ask(&tell, ctx), QP_BF16);
    assert_false(qp_no_grad(ctx, false));
    outer = qp_enter(ctx);
    qp_tensor y = qp_scalar(ctx, QP_F32, 3);
    qp_autocast(ctx, QP_F16);
    qp_no_grad(ctx, true);
    y = qp_return(outer, y);
    assert_int_equal(ask(&tell, ctx), QP_BF16);
    assert_false(qp_no_grad(ctx, false));
    qp_autocast(ctx, QP_F64);
    assert_int_equal(qp_error_code(ctx), QP_ERR_ARGUMENT);
    qp_clear(ctx);
    assert_int_equal(qp_autocast(ctx, QP_F32), QP_BF16);
    qp_close(ctx);
}

static void in_checkpoint(const void *data, const qp_tensor *xs, qp_tensor *ys) {
    (void)data;
    ys[0] = qp_apply(&tell, 1, xs, NULL);
}

static void rules_compute_as_the_call_did(void **state) {
    (void)state;
    qp_ctx *ctx = qp_open((qp_options){.threads = 1});
    for (int checkpoint = 0; checkpoint < 2; checkpoint++) {
        qp_tensor x = qp_scalar(ctx, QP_F64, 1), y;
        qp_require_grad(x, true);
        qp_autocast(ctx, QP_BF16);
        if (checkpoint) qp_checkpoint(ctx, in_checkpoint, NULL, 0, 1, &x, 1, &y);
        else y = qp_apply(&tell, 1, &x, NULL);
        qp_autocast(ctx, QP_F16);
        qp_backward(y);
        assert_int_equal(qp_item(qp_grad_of(x)), QP_BF16);
        assert_int_equal(qp_autocast(ctx, QP_F32), QP_F16);
    }
    assert_false(qp_failed(ctx));
    qp_close(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(near_pytorch),
        cmocka_unit_test(who_follows),
        cmocka_unit_test(scopes_put_it_back),
        cmocka_unit_test(rules_compute_as_the_call_did),
    };
    return cmocka_run_group_tests(tests, open_contexts, close_contexts);
}
