/* Runs: each is a training in a folder of its own, with a result once it is done. Whoever finds one that is not
 * done and that nobody works on takes it, so processes share them without a word. */
#define _GNU_SOURCE /* flock, nanosleep */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "cli/compare.h"
#include "cli/history.h"
#include "cli/json.h"
#include "core/core.h"
#include "format/json.h"
#include "format/os.h"
#include "models/model.h"

#define STEP_TOKENS 4096 /* of a batch, where --batch says nothing */

int64_t compare_batch(const compare *k, int64_t length) {
    int64_t B = cli_int(k->c, "batch");
    return B ? B : length < STEP_TOKENS ? STEP_TOKENS / length : 1;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Sorts x. NaN of none. */
static double median(double *x, int64_t n) {
    if (n) qsort(x, (size_t)n, sizeof *x, ascending);
    return n ? (x[(n - 1) / 2] + x[n / 2]) / 2 : NAN;
}

/* ---- Measuring a trained model ------------------------------------------------------------------- */

typedef struct {
    double loss, right, counted;
} score;

static void score_batch(qp_model *m, const qp_record *batch, score *s) {
    qp_tensor      ids = qp_record_get(batch, "input_ids"), labels = qp_record_get(batch, "labels");
    qp_tensor      logits = qp_logits(m, ids);
    double         loss = qp_item(qp_cross_entropy(logits, labels, (qp_loss_options){0}));
    int64_t        n = qp_count(labels), here = 0, *said = malloc((size_t)n * sizeof *said);
    const int64_t *wanted = qp_data_of(labels);
    if (!said) qp_fail(ids.ctx, QP_ERR_MEMORY, "out of memory: test");
    if (said && wanted && qp_read(qp_argmax(logits, -1, false), QP_I64, said, n) == QP_OK) {
        for (int64_t i = 0; i < n; i++) {
            here += wanted[i] != TASK_NOTHING;
            s->right += wanted[i] != TASK_NOTHING && wanted[i] == said[i];
        }
        s->loss += loss * (double)here;
        s->counted += (double)here;
    }
    free(said);
}

/* Over the task's tests of a length. */
static score test(const compare *k, qp_model *m, int64_t length, int64_t batch) {
    score    s = {0};
    bool     before = qp_no_grad(k->ctx, true);
    qp_data *d = task_data(&k->task, k->ctx, TASK_TEST, length, batch, cli_int(k->c, "test-samples"), 0);
    qp_set_training(qp_model_module(m), false);
    for (int64_t i = 0, n = d ? qp_data_batches(d) : 0; i < n && !qp_failed(k->ctx); i++) {
        qp_scope  scope = qp_enter(k->ctx);
        qp_record b = qp_data_next(d);
        score_batch(m, &b, &s);
        qp_leave(scope);
    }
    if (!qp_failed(k->ctx) && s.counted == 0)
        qp_fail(k->ctx, QP_ERR_ARGUMENT, "task %s: nothing is to be said in %lld rows of %lld (--test-samples)",
                k->task.type->part.name, (long long)cli_int(k->c, "test-samples"), (long long)length);
    qp_data_close(d);
    qp_no_grad(k->ctx, before);
    return s;
}

static json_t *score_json(const compare *k, int64_t length, score s) {
    double  loss = s.counted > 0 ? s.loss / s.counted : NAN, bytes = k->task.about.bytes_per_token;
    json_t *o = json_pack("{s:I, s:o, s:o}", "length", (json_int_t)length, "loss", cli_json_number(loss),
                          "accuracy", cli_json_number(s.counted > 0 ? s.right / s.counted : NAN));
    if (o && bytes > 0) json_object_set_new(o, "bits_per_byte", cli_json_number(loss / bytes / log(2)));
    return o;
}

/* The trained weights under the options that hold in tests only; NULL after storing an error. */
static qp_model *test_model(const compare *k, const compare_run *r) {
    char      path[4200], *config = compare_config(k, &k->variants[r->variant], r->length, 0, true);
    qp_model *m = config ? qp_model_new(k->ctx, "config", config) : NULL;
    free(config);
    snprintf(path, sizeof path, "%s/latest", r->folder);
    if (m && qp_model_load_weights(m, path) == QP_OK) return m;
    qp_model_close(m);
    return NULL;
}

/* Longer (or shorter) rows than those of the training; what a part cannot do is said. */
static json_t *test_lengths(const compare *k, qp_model *m, const compare_run *r) {
    json_t *all = json_array();
    for (int64_t i = 0; i < k->tests.count && m; i++) {
        int64_t T = k->tests.at[i], batch = compare_batch(k, r->length) * r->length / T;
        score   s = test(k, m, T, batch > 0 ? batch : 1);
        if (qp_error_code(k->ctx) == QP_ERR_CANCELLED) break;
        if (qp_failed(k->ctx)) {
            json_array_append_new(
                all, json_pack("{s:I, s:o}", "length", (json_int_t)T, "why", cli_json_name(qp_error(k->ctx))));
            qp_clear(k->ctx);
        } else json_array_append_new(all, score_json(k, T, s));
    }
    return all;
}

/* Bytes that a sequence of so many positions carries from step to step; -1: there is no step form. */
static double state_bytes(qp_model *m, int64_t length) {
    qp_ctx *ctx = qp_model_ctx(m);
    double  sum = 0;
    for (int64_t i = 0; i < qpi_carrier_count(m); i++) {
        qpi_carrier c = qpi_model_carrier(m, i);
        qp_state    state = {.type = QP_F32};
        if (!c.name) continue;
        if (!c.steps || !c.causal) return -1;
        qp_scope scope = qp_enter(ctx);
        c.reserve(c.self, ctx, 1, length, &state);
        for (int j = 0; j < state.count && !qp_failed(ctx); j++) {
            double bytes = (double)qp_dtype_size(qp_dtype_of(state.tensors[j]), qp_count(state.tensors[j]));
            bool   window = state.grows[j] && state.window && state.window < length;
            sum += window ? bytes / (double)qp_size(state.tensors[j], 1) * (double)state.window : bytes;
        }
        qp_leave(scope);
    }
    return qp_failed(ctx) ? -1 : sum;
}

/* ---- A run's files ------------------------------------------------------------------------------- */

static void path_in(const compare_run *r, const char *name, char path[4200]) {
    snprintf(path, 4200, "%s/%s", r->folder, name);
}

static bool make_folder(compare *k, const char *path) {
    if (mkdir(path, 0777) == 0 || errno == EEXIST) return true;
    qpi_fail_os(&k->ctx->error, path, "make");
    return false;
}

/* A result that is there, whole and final: what failed for another reason than its own numbers is tried again. */
static bool read_result(compare_run *r) {
    char      path[4200];
    qpi_error error = {0};
    path_in(r, r->file, path);
    json_t *result = qpi_json_load(path, &error);
    bool    whole =
        json_is_number(json_object_get(result, "loss")) || json_is_string(json_object_get(result, "why"));
    if (!whole || !json_is_true(json_object_get(result, "final"))) {
        json_decref(result);
        return false;
    }
    json_decref(r->result);
    r->result = result;
    return true;
}

/* -1: another process has it, or an error is stored. */
static int claim(compare *k, const compare_run *r) {
    char path[4200];
    if (!make_folder(k, r->folder)) return -1;
    path_in(r, ".claim", path);
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0) qpi_fail_os(&k->ctx->error, path, "open");
    else if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK) qpi_fail_os(&k->ctx->error, path, "lock");
        close(fd);
        fd = -1;
    }
    return fd;
}

/* ---- A run --------------------------------------------------------------------------------------- */

typedef struct {
    compare        *k;
    compare_run    *r;
    qp_training_set set;
    cli_progress    progress;
} running;

static bool on_step(void *user, const qp_train_event *e) {
    running *x = user;
    cli_progress_show(&x->progress, e->step, "%s, T %lld: loss %.4f ", x->k->variants[x->r->variant].name,
                      (long long)x->r->length, e->loss);
    return true;
}

/* False after storing an error. */
static bool prepare(running *x) {
    compare               *k = x->k;
    const compare_variant *v = &k->variants[x->r->variant];
    int64_t                batch = compare_batch(k, x->r->length);
    char                  *config = compare_config(k, v, x->r->length, 0, false);
    qp_set_random(k->ctx, (uint64_t)x->r->seed, 0);
    if (config) x->set.model = qp_model_new(k->ctx, "config", config);
    free(config);
    if (!x->set.model) return !qp_fail(k->ctx, QP_ERR_MEMORY, "out of memory: config");
    if (k->task.type->reveals && !qp_model_info_of(x->set.model).causal)
        return !qp_fail(k->ctx, QP_ERR_UNSUPPORTED,
                        "it sees the tokens that it is to predict: it is not causal");
    x->set.optim = qp_adamw(qp_model_params(x->set.model),
                            (qp_adamw_options){.lr = x->r->lr,
                                               .beta1 = 0.9,
                                               .beta2 = 0.98,
                                               .weight_decay = cli_number(k->c, "weight-decay"),
                                               .clip = cli_number(k->c, "clip")});
    x->set.data = task_data(&k->task, k->ctx, TASK_TRAINING, x->r->length, batch, 0, (uint64_t)x->r->seed);
    x->set.validation =
        task_data(&k->task, k->ctx, TASK_TEST, x->r->length, batch, cli_int(k->c, "test-samples"), 0);
    return !qp_failed(k->ctx);
}

static void finish(running *x) {
    qp_data_close(x->set.data);
    qp_data_close(x->set.validation);
    qp_optim_close(x->set.optim);
    qp_model_close(x->set.model);
}

static bool learn(running *x) {
    compare  *k = x->k;
    int64_t   steps = cli_int(k->c, "steps");
    qp_status status =
        qp_train(x->set, (qp_train_options){.schedule = {.kind = QP_SCHEDULE_COSINE,
                                                         .lr = x->r->lr,
                                                         .warmup = steps / 10,
                                                         .steps = steps,
                                                         .floor = 0.1},
                                            .validate_every = steps / 10 > 0 ? steps / 10 : 1,
                                            .save_every = cli_int(k->c, "save-every"),
                                            .keep = 1,
                                            .out = x->r->folder,
                                            .resume = true,
                                            .precision = cli_choice(k->c, "precision") ? QP_BF16 : QP_F32,
                                            .on_step = on_step,
                                            .user = x});
    return status == QP_OK && !qp_failed(k->ctx);
}

/* Speed and memory of the steps, whichever process made them. */
static void add_log(const running *x, json_t *result) {
    char    path[4200];
    history h = {0};
    path_in(x->r, "log.jsonl", path);
    if (history_read(&h, path, x->k->ctx)) {
        double loss = h.count ? h.value[HISTORY_LOSS][h.count - 1] : NAN, seconds;
        seconds = median(h.value[HISTORY_SECONDS], h.count);
        json_object_set_new(result, "train_loss", cli_json_number(loss));
        json_object_set_new(result, "step_seconds", cli_json_number(seconds));
        json_object_set_new(
            result, "tokens_per_second",
            cli_json_number((double)(compare_batch(x->k, x->r->length) * x->r->length) / seconds));
        json_object_set_new(result, "peak_bytes", json_integer((json_int_t)h.peak_bytes));
    }
    history_free(&h);
}

static json_t *measure(running *x) {
    compare *k = x->k;
    score    s = test(k, x->set.model, x->r->length, compare_batch(k, x->r->length));
    json_t  *result = score_json(k, x->r->length, s);
    double   state = qp_failed(k->ctx) ? -1 : state_bytes(x->set.model, x->r->length);
    json_object_set_new(result, "state_bytes", state < 0 ? json_null() : json_integer((json_int_t)state));
    qp_model *tested = x->set.model;
    if (!qp_failed(k->ctx) && k->variants[x->r->variant].test) tested = test_model(k, x->r);
    if (!qp_failed(k->ctx)) json_object_set_new(result, "tests", test_lengths(k, tested, x->r));
    if (tested != x->set.model) qp_model_close(tested);
    if (!qp_failed(k->ctx)) add_log(x, result);
    if (!qp_failed(k->ctx)) return result;
    json_decref(result);
    return NULL;
}

/* What stands in result.json; NULL: interrupted, the error stays. */
static json_t *result_of(running *x) {
    compare *k = x->k;
    qp_scope scope = qp_enter(k->ctx);
    qp_reset_peak(k->ctx);
    json_t *result = prepare(x) && learn(x) ? measure(x) : NULL;
    qp_code code = qp_error_code(k->ctx);
    finish(x);
    qp_leave(scope);
    if (code == QP_ERR_CANCELLED) return NULL;
    bool ok = result && !qp_failed(k->ctx);
    if (!result)
        result =
            json_pack("{s:I, s:o}", "length", (json_int_t)x->r->length, "why", cli_json_name(qp_error(k->ctx)));
    json_object_set_new(result, "status", json_string(ok ? "done" : "failed"));
    json_object_set_new(result, "final",
                        json_boolean(ok || code == QP_ERR_STATE)); /* STATE: its numbers are none */
    if (!ok) qp_clear(k->ctx);
    return result;
}

static bool run_one(compare *k, compare_run *r, int done) {
    char    path[4200], words[64];
    running x = {.k = k, .r = r};
    if (k->variants[r->variant].why[0]) {
        r->result = json_pack("{s:I, s:s, s:o, s:b}", "length", (json_int_t)r->length, "status", "failed",
                              "why", cli_json_name(k->variants[r->variant].why), "final", 0);
    } else {
        x.progress = cli_progress_start(k->c, cli_int(k->c, "steps"));
        json_t *result = result_of(&x);
        cli_progress_end(&x.progress);
        if (!result) return false;
        json_decref(r->result);
        r->result = result;
    }
    path_in(r, r->file, path);
    if (!qpi_json_save(path, r->result, 2, &k->ctx->error)) return false;
    snprintf(words, sizeof words, "[%d/%d]", done + 1, k->run_count);
    const char *why = json_string_value(json_object_get(r->result, "why"));
    if (k->talks && why)
        fprintf(stderr, "%s %s, T %lld: %s\n", words, k->variants[r->variant].name, (long long)r->length, why);
    else if (k->talks)
        fprintf(stderr, "%s %s, T %lld: loss %.4f, accuracy %.1f%%, %.0f tokens/s\n", words,
                k->variants[r->variant].name, (long long)r->length,
                json_number_value(json_object_get(r->result, "loss")),
                100 * json_number_value(json_object_get(r->result, "accuracy")),
                json_number_value(json_object_get(r->result, "tokens_per_second")));
    return true;
}

/* One round over all runs, beginning at this process's own; *busy: others are at some. */
static bool round_of(compare *k, bool *busy) {
    *busy = false;
    for (int i = 0; i < k->run_count; i++) {
        int          at = (i + (int)((int64_t)k->rank * k->run_count / k->processes)) % k->run_count, fd;
        compare_run *r = &k->runs[at];
        if (r->result || read_result(r)) continue;
        if ((fd = claim(k, r)) < 0) {
            if (qp_failed(k->ctx)) return false;
            *busy = true;
            continue;
        }
        bool ok = read_result(r) || run_one(k, r, at); /* it may have been done meanwhile */
        close(fd);
        if (!ok) return false;
    }
    return true;
}

bool compare_train(compare *k) {
    char path[4200];
    bool busy = true;
    snprintf(path, sizeof path, "%.3000s/runs", cli_text(k->c, "out"));
    if (!make_folder(k, cli_text(k->c, "out")) || !make_folder(k, path)) return false;
    while (busy) {
        if (!round_of(k, &busy)) return false;
        if (k->rank > 0) return true;
        if (busy) nanosleep(&(struct timespec){0, 200000000}, NULL);
        if (cli_interrupted()) return !qp_fail(k->ctx, QP_ERR_CANCELLED, "cancelled");
    }
    return true;
}
