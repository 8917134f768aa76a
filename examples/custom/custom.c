/* A program with an op and a mixer of its own: a model that a config puts together from them learns a
 * text, with whole sequences and step by step.   custom TEXT [STEPS] */
#include <math.h>
#include <quipu/quipu.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- The op: softsign, y = x / (1 + |x|), dx = dy / (1 + |x|)^2 ---------------------------------- */

/* The definition, in double precision, for any type and layout. */
static double softsign_f(const double *x, const void *attr) {
    (void)attr;
    return x[0] / (1 + fabs(x[0]));
}
static void softsign_plain(const qp_call *call) { qp_plain_map(call, softsign_f); }

/* The fast form for contiguous f32, in pieces that the context's threads share. It may be left out. */
static void softsign_piece(void *arg, int64_t begin, int64_t end, int worker) {
    (void)worker;
    const qp_call *call = arg;
    const float   *x = call->in[0].data;
    float         *y = call->out[0].data;
    for (int64_t i = begin; i < end; i++) y[i] = x[i] / (1 + fabsf(x[i]));
}
static void softsign_run(const qp_call *call) {
    qp_parallel(call->exec, qp_view_count(&call->out[0]), 16384, softsign_piece, (void *)call);
}
static bool softsign_takes(const qp_call *call) {
    return call->in[0].dtype == QP_F32 && call->out[0].dtype == QP_F32;
}

/* The gradient, written with ops. */
static void softsign_backward(qp_rule *r) {
    r->din[0] = qp_div(r->dout[0], qp_square(qp_affine(qp_abs(r->in[0]), 1, 1)));
}

static const qp_op softsign_op = {.name = "softsign",
                                  .source = "torch.nn.functional.softsign",
                                  .min_in = 1,
                                  .max_in = 1,
                                  .nout = 1,
                                  .saves = QP_SAVE_IN(0),
                                  .plain = softsign_plain,
                                  .backward = softsign_backward,
                                  .elementwise = true,
                                  .kernel = {softsign_run, QP_FLAT, softsign_takes}};

static qp_tensor softsign(qp_tensor x) { return qp_apply(&softsign_op, 1, &x, NULL); }

/* Gradients against differences, in double precision: the largest error. */
static double softsign_error(qp_ctx *ctx) {
    enum { N = 7 };
    const int64_t n = N;
    const double  h = 1e-5, points[N] = {-3, -1, -0.2, 0.1, 0.5, 2, 8};
    double        dx[N] = {0}, worst = 0;
    qp_scope      s = qp_enter(ctx);
    qp_tensor     x = qp_from(ctx, QP_F64, 1, &n, points);
    qp_require_grad(x, true);
    qp_backward(qp_sum(softsign(x), 0, NULL, false));
    if (qp_read(qp_grad_of(x), QP_F64, dx, N) != QP_OK) worst = INFINITY;
    qp_leave(s);
    for (int i = 0; i < N; i++) {
        double up = points[i] + h, down = points[i] - h;
        worst = fmax(worst, fabs(dx[i] - (softsign_f(&up, NULL) - softsign_f(&down, NULL)) / (2 * h)));
    }
    return worst;
}

/* ---- The mixer: the mean of all positions so far, through two products ----------------------------- */

typedef struct {
    qp_nn_linear *in, *out;
    double        gain;
    int64_t       width;
} mean_mixer;

static const qp_option mean_options[] = {
    {.name = "gain", .kind = QP_OPTION_NUMBER, .fallback = 1, .low = 0, .high = 100, .help = "before softsign"},
    {0}};

static void mean_init(void *self, qp_build *b) {
    mean_mixer *m = self;
    m->gain = qp_setting(b, "gain");
    m->width = b->width;
    m->in = qp_nn_linear_new(b->module, "in", b->width, b->width, (qp_linear_options){.init = b->init});
    m->out =
        qp_nn_linear_new(b->module, "out", b->width, b->width, (qp_linear_options){.init = b->init_residual});
}

/* sums [B, T, D]: of the positions up to each. */
static qp_tensor mean_of(const mean_mixer *m, qp_tensor sums, qp_tensor positions, qp_tensor residual) {
    int64_t   shape[] = {qp_size(positions, 0), qp_size(positions, 1), 1};
    qp_tensor counts = qp_affine(qp_cast(positions, qp_dtype_of(sums)), 1, 1);
    qp_tensor mean = qp_div(sums, qp_reshape(counts, 3, shape));
    return qp_nn_linear_forward(m->out, softsign(qp_affine(mean, m->gain, 0)), QP_ACT_NONE, residual);
}

static qp_tensor mean_forward(void *self, qp_tensor x, qp_tensor residual, const qp_sequence *s) {
    mean_mixer *m = self;
    return mean_of(m, qp_cumsum(qp_nn_linear_forward(m->in, x, QP_ACT_NONE, QP_NONE), 1), s->positions,
                   residual);
}

/* Step by step the sum so far is all there is to carry: [B, 1, D], however long the text. */
static void mean_reserve(void *self, qp_ctx *ctx, int64_t rows, int64_t positions, qp_state *state) {
    (void)positions;
    qp_state_add(state, ctx, false, 3, (int64_t[]){rows, 1, ((mean_mixer *)self)->width});
}

static qp_tensor mean_step(void *self, qp_tensor x, qp_tensor residual, const qp_sequence *s, qp_state *state) {
    mean_mixer *m = self;
    qp_tensor   values = qp_nn_linear_forward(m->in, x, QP_ACT_NONE, QP_NONE);
    qp_tensor   sums = qp_add(qp_cumsum(values, 1), state->tensors[0]);
    int64_t     length = qp_size(x, 1);
    qp_state_set(state, 0, qp_slice(sums, 1, length - 1, length, 1));
    return mean_of(m, sums, s->positions, residual);
}

static bool mean_causal(const void *self) {
    (void)self;
    return true;
}

static const qp_branch_type mean_type = {.part = {.name = "mean",
                                                  .source = "this example",
                                                  .help = "the mean so far",
                                                  .options = mean_options,
                                                  .bytes = sizeof(mean_mixer)},
                                         .causal = mean_causal,
                                         .init = mean_init,
                                         .forward = mean_forward,
                                         .reserve = mean_reserve,
                                         .step = mean_step};

/* ---- The model -------------------------------------------------------------------------------------- */

static const char config[] =
    "{\"model_type\": \"quipu\", \"vocab_size\": 257, \"hidden_size\": 64,"
    " \"num_hidden_layers\": 2, \"max_position_embeddings\": 128,"
    " \"position\": {\"type\": \"none\"}, \"mixer\": {\"type\": \"mean\", \"gain\": 2},"
    " \"ffn\": {\"type\": \"swiglu\"}, \"norm\": {\"type\": \"rms_norm\"}}";

/* The largest difference between the logits of a whole sequence and of its positions one by one. */
static double step_error(qp_model *model) {
    enum { T = 9, V = 257 };
    static float whole[T * V], one[V];
    double       worst = 0;
    qp_ctx      *ctx = qp_model_ctx(model);
    qp_session  *session = qp_session_new(model, 1, T, (qp_session_options){0});
    qp_scope     s = qp_enter(ctx);
    qp_tensor    ids = qp_reshape(qp_arange(ctx, QP_I64, T), 2, (int64_t[]){1, T});
    if (qp_read(qp_logits(model, ids), QP_F32, whole, T * V) != QP_OK) worst = INFINITY;
    for (int t = 0; t < T && isfinite(worst); t++) {
        if (qp_read(qp_session_feed(session, qp_slice(ids, 1, t, t + 1, 1), (qp_feed){0}), QP_F32, one, V) !=
            QP_OK)
            worst = INFINITY;
        for (int v = 0; v < V; v++) worst = fmax(worst, fabs(one[v] - whole[t * V + v]));
    }
    qp_leave(s);
    qp_session_close(session);
    return worst;
}

/* First and last loss. */
static void learn(qp_model *model, const char *file, int steps, double loss[2]) {
    qp_ctx   *ctx = qp_model_ctx(model);
    qp_data  *data = qp_data_open(ctx, 1, &file, (qp_data_options){.batch = 8, .length = 64});
    qp_optim *optim = qp_adamw(qp_model_params(model), (qp_adamw_options){.lr = 3e-3, .clip = 1});
    for (int i = 0; i < steps && !qp_failed(ctx); i++) {
        qp_scope  s = qp_enter(ctx);
        qp_record b = qp_data_next(data);
        qp_tensor l = qp_model_loss(model, qp_record_get(&b, "input_ids"), qp_record_get(&b, "labels"));
        qp_backward(l);
        qp_step(optim);
        loss[i > 0] = qp_item(l);
        qp_leave(s);
    }
}

int main(int argc, char **argv) {
    if (argc < 2) return fprintf(stderr, "usage: custom TEXT [STEPS]\n"), 2;
    qp_ctx *ctx = qp_open((qp_options){.seed = 1});
    if (!ctx) return fprintf(stderr, "out of memory\n"), 1;
    double gradient = softsign_error(ctx), loss[2] = {0}, steps = INFINITY;
    if (qp_register_part(ctx, QP_PART_MIXER, &mean_type.part) == QP_OK) {
        qp_model *model = qp_model_new(ctx, "custom", config);
        if (model) learn(model, argv[1], argc > 2 ? atoi(argv[2]) : 100, loss);
        if (model) steps = step_error(model);
    }
    bool failed = qp_failed(ctx);
    if (failed) fprintf(stderr, "%s\n", qp_error(ctx));
    qp_close(ctx);
    printf("softsign: gradient within %.1e of differences\n", gradient);
    printf("mean: loss %.3f -> %.3f; step by step within %.1e of the whole sequence\n", loss[0], loss[1],
           steps);
    return failed || !(gradient < 1e-8) || !(steps < 1e-4) || !(loss[1] < 0.9 * loss[0]);
}
