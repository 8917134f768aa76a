/* DeepSeek-V3's mixture of experts (arXiv:2412.19437, section 2.1.2; arXiv:2401.06066): small routed experts
 * and some that every token passes.
 *
 *   s = sigmoid(x w_router^T),   chosen: the k largest s_e + b_e, of the groups whose two best sum highest
 *   y = scale sum over the chosen of s_e / (sum of these) swiglu_e(x) + swiglu_shared(x)
 *
 * b balances loads without a loss (Wang et al. 2024, arXiv:2408.15664): it has no gradient, and after each
 * step of an optimiser b_e += rate sign(mean load - load_e) over the tokens since the last. */
#include <math.h>

#include "core/core.h"
#include "nn/experts.h"

typedef struct {
    qpi_experts   experts;
    int64_t       groups, top_groups;
    bool          normalize;
    double        scale, rate;
    qp_tensor     bias, load;       /* [E]; load: tokens since the last step */
    qp_nn_linear *gate, *up, *down; /* shared; NULL: there are none */
} deepseek_moe;

static const qp_option options[] = {QPI_EXPERT_OPTIONS(2, 65536),
                                    {.name = "shared",
                                     .kind = QP_OPTION_INT,
                                     .fallback = 1,
                                     .high = 65536,
                                     .help = "experts that every token passes"},
                                    {.name = "groups",
                                     .kind = QP_OPTION_INT,
                                     .fallback = 1,
                                     .low = 1,
                                     .high = 65536,
                                     .help = "of experts, a divisor of E"},
                                    {.name = "top_groups",
                                     .kind = QP_OPTION_INT,
                                     .fallback = 0,
                                     .high = 65536,
                                     .help = "groups that a token's experts may be of; 0: all"},
                                    {.name = "normalize",
                                     .kind = QP_OPTION_BOOL,
                                     .fallback = 1,
                                     .high = 1,
                                     .help = "weights of the chosen sum to 1"},
                                    {.name = "scale",
                                     .kind = QP_OPTION_NUMBER,
                                     .fallback = 1,
                                     .low = -1e6,
                                     .high = 1e6,
                                     .help = "times what the routed experts give"},
                                    {.name = "bias_rate",
                                     .kind = QP_OPTION_NUMBER,
                                     .fallback = 0.001,
                                     .high = 1e3,
                                     .help = "how far the balancing bias moves at a step"},
                                    {0}};

static void init_shared(deepseek_moe *f, qp_build *b, int64_t width) {
    qp_module        *m = qp_module_new(b->ctx, b->module, "shared");
    qp_linear_options in = {.init = b->init}, out = {.init = b->init_residual};
    f->gate = qp_nn_linear_new(m, "gate", b->width, width, in);
    f->up = qp_nn_linear_new(m, "up", b->width, width, in);
    f->down = qp_nn_linear_new(m, "down", width, b->width, out);
}

static void init(void *self, qp_build *b) {
    deepseek_moe *f = self;
    int64_t       shared = qp_setting_int(b, "shared"), E = qp_setting_int(b, "experts");
    f->groups = qp_setting_int(b, "groups");
    f->top_groups = qp_setting_int(b, "top_groups");
    if (!f->top_groups || f->top_groups > f->groups) f->top_groups = f->groups;
    f->normalize = qp_setting(b, "normalize") != 0;
    f->scale = qp_setting(b, "scale");
    f->rate = qp_setting(b, "bias_rate");
    qpi_experts_init(&f->experts, b, true);
    if (E % f->groups || f->experts.chosen > f->top_groups * (E / f->groups)) {
        qp_fail(
            b->ctx, QP_ERR_ARGUMENT,
            "deepseek_moe: groups %lld must divide experts %lld, and per_token %lld fit into top_groups %lld",
            (long long)f->groups, (long long)E, (long long)f->experts.chosen, (long long)f->top_groups);
        return;
    }
    f->bias = qp_zeros(b->ctx, b->ctx->param_dtype, 1, &E);
    qp_buffer(b->module, "bias", f->bias);
    f->load = qp_module_keep(b->module, qp_zeros(b->ctx, b->ctx->param_dtype, 1, &E));
    if (shared) init_shared(f, b, shared * qpi_experts_width(b));
}

/* score with -inf for experts of groups that are not among the best. */
static qp_tensor limited(const deepseek_moe *f, qp_tensor score) {
    int64_t   N = qp_size(score, 0), members = f->experts.count / f->groups;
    qp_tensor best, index;
    if (f->top_groups == f->groups) return score;
    qp_tensor by_group = qp_reshape(score, 3, (int64_t[]){N, f->groups, members});
    qp_topk(by_group, members < 2 ? members : 2, -1, true, &best, &index);
    qp_topk(qp_sum(best, 1, (int[]){-1}, false), f->top_groups, -1, true, &best, &index);
    qp_tensor kept = qp_sum(qp_one_hot(index, f->groups, qp_dtype_of(score)), 1, (int[]){1}, false);
    qp_tensor zero = qp_full(score.ctx, qp_dtype_of(score), 0, NULL, 0),
              none = qp_full(score.ctx, qp_dtype_of(score), 0, NULL, -INFINITY);
    kept = qp_reshape(qp_gt(kept, zero), 3, (int64_t[]){N, f->groups, 1});
    return qp_reshape(qp_where(kept, by_group, none), 2, (int64_t[]){N, f->experts.count});
}

static qpi_routing route(deepseek_moe *f, qp_tensor rows) {
    qp_tensor   score = qp_sigmoid(qpi_experts_logits(&f->experts, rows)), best;
    bool        before = qp_no_grad(rows.ctx, true);
    qpi_routing r = {0};
    qp_topk(limited(f, qp_add(score, qp_cast(f->bias, qp_dtype_of(score)))), f->experts.chosen, -1, true, &best,
            &r.index);
    if (!before && qp_training(f->experts.module))
        qp_copy_to(f->load,
                   qp_add(f->load, qp_cast(qpi_experts_load(&f->experts, r.index), qp_dtype_of(f->load))));
    qp_no_grad(rows.ctx, before);
    r.weight = qp_gather(score, 1, r.index);
    if (f->normalize) r.weight = qp_div(r.weight, qp_affine(qp_sum(r.weight, 1, (int[]){-1}, true), 1, 1e-20));
    if (f->scale != 1) r.weight = qp_affine(r.weight, f->scale, 0);
    return r;
}

static qp_tensor forward(void *self, qp_tensor x, qp_tensor residual, const qp_sequence *s) {
    deepseek_moe *f = self;
    qp_tensor     rows = qpi_experts_rows(x), sum = qpi_experts_rows(residual);
    if (f->down) {
        qp_tensor y[2];
        qp_nn_linear_forward_many(2, (const qp_nn_linear *[]){f->gate, f->up}, rows, y);
        sum = qp_nn_linear_forward(f->down, qp_swiglu(y[0], y[1]), QP_ACT_NONE, sum);
    }
    return qpi_experts_back(qpi_experts_forward(&f->experts, rows, route(f, rows), sum, s), x);
}

static void stepped(void *self, bool taken) {
    deepseek_moe *f = self;
    qp_dtype      type = qp_dtype_of(f->bias);
    qp_tensor     mean = qp_mean(f->load, 0, NULL, false);
    qp_tensor     sign = qp_sub(qp_cast(qp_lt(f->load, mean), type), qp_cast(qp_gt(f->load, mean), type));
    bool          moves = taken && f->rate > 0 && qp_requires_grad(qp_nn_linear_weight(f->experts.router));
    if (moves) qp_copy_to(f->bias, qp_add(f->bias, qp_affine(sign, f->rate, 0)));
    qp_copy_to(f->load, qp_full(f->load.ctx, type, 0, NULL, 0));
}

QP_FFN(deepseek_moe) = {.part = {.name = "deepseek_moe",
                                 .source = "arXiv:2412.19437, arXiv:2408.15664",
                                 .help = "mixture of small and shared experts, balanced by a bias",
                                 .options = options,
                                 .bytes = sizeof(deepseek_moe)},
                        .init = init,
                        .forward = forward,
                        .stepped = stepped,
                        .pointwise = true};
