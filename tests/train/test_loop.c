/* The training loop: resume, refusals, cancellation, and no heap call once it runs. */
#define _GNU_SOURCE /* syscall */
#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#include "../heap_calls.h"
#include "../text_folder.h"
#include "format/writer.h"
#include "quipu/quipu.h"

static int lock_error; /* not 0: what a lock fails with */
int flock(int fd, int operation) {
    if (!lock_error) return (int)syscall(SYS_flock, fd, operation);
    errno = lock_error;
    return -1;
}

/* ---- A small training ------------------------------------------------------------------------ */

typedef struct {
    qp_ctx         *ctx;
    qp_training_set set;
} small;

static const char *const config =
    "{\"model_type\": \"quipu\", \"vocab_size\": 257, \"hidden_size\": 32, \"num_hidden_layers\": 2,"
    " \"max_position_embeddings\": 64, \"tie_word_embeddings\": true, \"dropout\": 0.1,"
    " \"position\": {\"type\": \"rope\"}, \"mixer\": {\"type\": \"attention\", \"heads\": 4},"
    " \"ffn\": {\"type\": \"swiglu\"}, \"norm\": {\"type\": \"rms_norm\"}}";

static small make_small(const char *model_config, const char *text, double lr) {
    small s = {.ctx = qp_open((qp_options){.threads = 2, .seed = 5})};
    assert_non_null(s.ctx);
    qp_tokenizer *t = qp_tokenizer_bytes(s.ctx);
    s.set.tokenizer = t;
    s.set.model = qp_model_new(s.ctx, "test", model_config);
    s.set.data =
        qp_data_open(s.ctx, 1, &text,
                     (qp_data_options){.batch = 2, .length = 32, .seed = 9, .tokenizer = t, .validation = 0.1});
    if (qp_failed(s.ctx)) fail_msg("%s", qp_error(s.ctx));
    s.set.validation = qp_data_validation(s.set.data);
    s.set.optim =
        qp_adamw(qp_model_params(s.set.model), (qp_adamw_options){.lr = lr, .weight_decay = 0.1, .clip = 1});
    return s;
}

typedef struct {
    qp_ctx *ctx;
    int     steps, stop_at, cancel_at, count_from;
    double  losses[64];
} watch;

static bool on_step(void *user, const qp_train_event *e) {
    watch *w = user;
    w->losses[e->step - 1] = e->loss;
    w->steps++;
    if (w->count_from && e->step == w->count_from) atomic_store(&counting, true);
    if (e->step == w->cancel_at) qp_cancel(w->ctx);
    return e->step != w->stop_at;
}

static bool note(void *user, const qp_train_event *e) {
    *(qp_train_event *)user = *e;
    return true;
}

static qp_train_options options_of(const char *out, int steps, watch *w) {
    return (qp_train_options){.schedule = {.kind = QP_SCHEDULE_COSINE, .lr = 1e-2, .warmup = 3, .steps = steps},
                              .out = out,
                              .save_every = 5,
                              .resume = true,
                              .on_step = on_step,
                              .user = w};
}

static char *path_of(const char *name) {
    static char paths[4][160];
    static int  turn;
    char       *p = paths[turn++ % 4];
    snprintf(p, sizeof paths[0], "%s/%s", folder, name);
    return p;
}

static void check(small *s, qp_status status) {
    if (status) fail_msg("%s", qp_error(s->ctx));
}

static void test_resume(void **state) {
    (void)state;
    watch whole = {0}, parts = {0};
    small a = make_small(config, text_path, 1e-2);
    check(&a, qp_train(a.set, options_of(path_of("whole"), 20, &whole)));
    qp_close(a.ctx);
    int stops[] = {3, 4, 11, 0};
    for (int i = 0; i < 4; i++) {
        small b = make_small(config, text_path, 1e-2);
        parts.stop_at = stops[i];
        check(&b, qp_train(b.set, options_of(path_of("parts"), 20, &parts)));
        qp_close(b.ctx);
    }
    assert_int_equal(parts.steps, 20);
    assert_memory_equal(whole.losses, parts.losses, 20 * sizeof(double));
}

static void test_cancel_saves(void **state) {
    (void)state;
    watch w = {.cancel_at = 2};
    small s = make_small(config, text_path, 1e-2);
    w.ctx = s.ctx;
    assert_int_equal(qp_train(s.set, options_of(path_of("cancelled"), 20, &w)), QP_ERR_CANCELLED);
    qp_close(s.ctx);
    int64_t step;
    s = make_small(config, text_path, 1e-2);
    check(&s, qp_state_restore(s.set, path_of("cancelled"), &step));
    assert_int_equal(step, w.steps);
    qp_close(s.ctx);
}

/* Restoring must fail with a message that holds `text`. */
static void refuses(small s, const char *out, const char *text) {
    int64_t step = -1;
    assert_int_not_equal(qp_state_restore(s.set, path_of(out), &step), QP_OK);
    if (!strstr(qp_error(s.ctx), text)) fail_msg("\"%s\" does not say \"%s\"", qp_error(s.ctx), text);
    assert_int_equal(step, 0);
    qp_close(s.ctx);
}

static void flip_byte(const char *path, long at) {
    FILE *f = fopen(path, "r+");
    assert_non_null(f);
    fseek(f, at, at < 0 ? SEEK_END : SEEK_SET);
    int c = fgetc(f);
    fseek(f, at, at < 0 ? SEEK_END : SEEK_SET);
    fputc(c ^ 1, f);
    fclose(f);
}

static void test_refusals(void **state) {
    (void)state;
    watch w = {0};
    small s = make_small(config, text_path, 1e-2);
    check(&s, qp_train(s.set, options_of(path_of("state"), 5, &w)));
    qp_close(s.ctx);

    char *other = path_of("other.txt");
    FILE *f = fopen(other, "w");
    for (int i = 0; i < 2000; i++) fputs("other ", f);
    fclose(f);
    refuses(make_small(config, other, 1e-2), "state", "other.txt");

    char changed[1024];
    snprintf(changed, sizeof changed, "%s", config);
    memcpy(strstr(changed, "0.1"), "0.2", 3);
    refuses(make_small(changed, text_path, 1e-2), "state", "config");

    flip_byte(path_of("state/latest/model.safetensors"), -5);
    refuses(make_small(config, text_path, 1e-2), "state", "model.safetensors: is damaged");
    flip_byte(path_of("state/latest/model.safetensors"), -5);
    truncate(path_of("state/latest/train.json"), 40);
    refuses(make_small(config, text_path, 1e-2), "state", "train.json");
}

static void test_divergence_is_an_error(void **state) {
    (void)state;
    watch            w = {0};
    small            s = make_small(config, text_path, 1e-2);
    qp_train_options o = options_of(NULL, 60, &w);
    o.schedule = (qp_schedule){.kind = QP_SCHEDULE_CONSTANT, .lr = 1e30, .steps = 60};
    assert_int_equal(qp_train(s.set, o), QP_ERR_STATE);
    assert_non_null(strstr(qp_error(s.ctx), "at step"));
    qp_close(s.ctx);
}

/* A second training into the folder of another loses nothing; nor does a link without target. */
static void test_states_are_kept(void **state) {
    (void)state;
    watch            w = {0};
    small            s = make_small(config, text_path, 1e-2);
    qp_train_options o = options_of(path_of("kept"), 5, &w);
    check(&s, qp_train(s.set, o));
    check(&s, qp_state_save(s.set, o.out, 5, 1)); /* the same step again */
    qp_close(s.ctx);
    s = make_small(config, text_path, 1e-2);
    o.resume = false;
    assert_int_equal(qp_train(s.set, o), QP_ERR_STATE);
    qp_close(s.ctx);
    qpi_folder_remove(path_of("kept/step-5"));
    refuses(make_small(config, text_path, 1e-2), "kept", "step-5/train.json");
}

/* Rows that count unequally many tokens: two batches of one row are one batch of two. */
static void test_accumulation(void **state) {
    (void)state;
    char           plain[1024];
    const char    *path = path_of("short.txt");
    qp_train_event seen[2];
    FILE          *f = fopen(path, "w");
    assert_non_null(f);
    fputs("one row of thirty-two letters and one that is shorter", f);
    fclose(f);
    snprintf(plain, sizeof plain, "%s", config);
    memcpy(strstr(plain, "0.1"), "0.0", 3);
    for (int rows = 1; rows <= 2; rows++) {
        small s = make_small(plain, text_path, 1e-2);
        s.set.validation = NULL;
        s.set.data = qp_data_open(s.ctx, 1, &path,
                                  (qp_data_options){.batch = rows, .length = 32, .order = QP_SEQUENTIAL});
        check(&s, qp_train(s.set, (qp_train_options){.schedule = {.lr = 1e-3, .steps = 1},
                                                     .accumulate = 3 - rows,
                                                     .on_step = note,
                                                     .user = &seen[rows - 1]}));
        qp_close(s.ctx);
    }
    assert_true(seen[0].tokens == seen[1].tokens && seen[0].tokens > 32 && seen[0].tokens < 64);
    assert_float_equal(seen[0].loss, seen[1].loss, 1e-6);
    assert_float_equal(seen[0].norm / seen[1].norm, 1, 1e-5);
}

/* What is frozen between steps stays as it is; the rest goes on. */
static void test_frozen_later(void **state) {
    (void)state;
    small         s = make_small(config, text_path, 1e-2);
    qp_module    *module = qp_model_module(s.set.model);
    qp_state_dict params = qp_model_params(s.set.model);
    qp_tensor     w = QP_NONE, piece;
    const char   *name;
    for (int i = 0; i < params.count; i++)
        if (!strcmp(params.entries[i].name, "embed.weight")) w = params.entries[i].tensor;
    for (int step = 0; step < 3; step++) {
        qp_scope  scope = qp_enter(s.ctx);
        qp_record b = qp_data_next(s.set.data);
        if (step) assert_int_equal(qp_freeze(module, "embed.*", step == 1), 1);
        double before = qp_item(qp_sum(qp_mul(w, w), 0, NULL, false));
        qp_backward(qp_model_loss(s.set.model, qp_record_get(&b, "input_ids"), qp_record_get(&b, "labels")));
        for (int64_t i = 0; qp_model_weight(s.set.model, i, true, &name, &piece); i++)
            assert_true(qp_is_none(piece) == (step == 1 && !strcmp(name, "embed.weight")));
        qp_step(s.set.optim);
        double after = qp_item(qp_sum(qp_mul(w, w), 0, NULL, false));
        if (qp_failed(s.ctx)) fail_msg("%s", qp_error(s.ctx));
        assert_true((before == after) == (step == 1));
        qp_leave(scope);
    }
    qp_close(s.ctx);
}

static double distance(qp_tensor a, qp_tensor b) {
    return qp_item(qp_sum(qp_abs(qp_sub(a, b)), 0, NULL, false));
}

/* The first group that matches holds; without one, what has one axis does not decay. Gradients are
 * zero here, so that decay is all that moves. */
static void test_groups(void **state) {
    (void)state;
    qp_param_group groups[] = {{"a.*", 0.5, 0}, {"*.bias", 1, 0.5}, {"*", 3, 0.1}};
    double expected[][3] = {{0.9, 1, 0.9}, {1, 0.5, 0.7}}; /* a.weight, b.bias, b.weight after a step of 1 */
    for (int with = 0; with < 2; with++) {
        qp_ctx    *ctx = qp_open((qp_options){0});
        qp_module *root = qp_module_new(ctx, NULL, ""), *a = qp_module_new(ctx, root, "a"),
                  *b = qp_module_new(ctx, root, "b");
        qp_tensor w[3] = {qp_param(a, "weight", "ones", 2, (int64_t[]){2, 3}),
                          qp_param(b, "bias", "ones", 1, (int64_t[]){3}),
                          qp_param(b, "weight", "ones", 2, (int64_t[]){3, 2})};
        qp_module_fill(root);
        qp_optim *o =
            qp_adamw(qp_module_params(root),
                     (qp_adamw_options){.lr = 1, .weight_decay = 0.1, .groups = {with ? 3 : 0, groups}});
        assert_non_null(o);
        for (int i = 0; i < 3; i++) qp_backward(qp_sum(qp_affine(w[i], 0, 0), 0, NULL, false));
        qp_step(o);
        for (int i = 0; i < 3; i++)
            assert_true(distance(w[i], qp_full(ctx, QP_F32, 0, NULL, expected[with][i])) < 1e-5);
        assert_null(
            qp_sgd(qp_module_params(root), (qp_sgd_options){.groups = {1, &(qp_param_group){"c.*", 1, 0}}}));
        assert_non_null(strstr(qp_error(ctx), "c.*"));
        qp_close(ctx);
    }
}

/* ---- Early stopping, means, loss scaling --------------------------------------------------------- */

/* A learning rate that is far too high: the loss rises, the best state stays, and a resumed run stops
 * at once. */
static void test_patience(void **state) {
    (void)state;
    char link[64] = "";
    for (int turn = 0; turn < 2; turn++) {
        watch            w = {0};
        small            s = make_small(config, text_path, 1e-2);
        qp_train_options o = options_of(path_of("patient"), 60, &w);
        o.schedule = (qp_schedule){.kind = QP_SCHEDULE_LINEAR, .lr = 1e-3, .steps = 60, .floor = 1000};
        o.validate_every = 2;
        o.patience = 3;
        o.save_every = 0;
        o.keep = 1;
        check(&s, qp_train(s.set, o));
        assert_true(turn ? w.steps == 0 : w.steps < 60);
        qp_close(s.ctx);
        if (turn) break;
        assert_true(readlink(path_of("patient/best"), link, sizeof link - 1) > 0);
        assert_int_equal(strtol(link + 5, NULL, 10), w.steps - 2 * o.patience);
        assert_int_equal(access(path_of("patient/best/model.safetensors"), R_OK), 0);
    }
}

/* The mean against its definition, and as a model of its own; the weights come back unchanged. */
static void test_ema(void **state) {
    (void)state;
    small         s = make_small(config, text_path, 1e-2);
    qp_state_dict params = qp_model_params(s.set.model);
    qp_tensor     w = params.entries[0].tensor;
    double        expected, first, now, mean;
    watch         watched = {0};
    assert_int_equal(
        qp_read(qp_slice(qp_reshape(w, 1, (int64_t[]){qp_count(w)}), 0, 0, 1, 1), QP_F64, &first, 1), QP_OK);
    s.set.ema = qp_ema_new(s.set.model, 0.28); /* reached at the third step */
    assert_non_null(s.set.ema);
    expected = first;
    for (int step = 1; step <= 3; step++) {
        check(&s, qp_train(s.set, options_of(path_of("mean"), step, &watched)));
        assert_int_equal(
            qp_read(qp_slice(qp_reshape(w, 1, (int64_t[]){qp_count(w)}), 0, 0, 1, 1), QP_F64, &now, 1), QP_OK);
        double decay = fmin(0.28, (1.0 + step) / (10 + step));
        expected += (1 - decay) * (now - expected);
    }
    qp_ctx   *other = qp_open((qp_options){0});
    qp_model *m = qp_model_load(other, path_of("mean/latest/ema"), (qp_model_options){0});
    assert_non_null(m);
    qp_tensor e = qp_model_params(m).entries[0].tensor;
    assert_int_equal(
        qp_read(qp_slice(qp_reshape(e, 1, (int64_t[]){qp_count(e)}), 0, 0, 1, 1), QP_F64, &mean, 1), QP_OK);
    assert_float_equal(mean, expected, 1e-3 * fabs(now - first));
    assert_true(mean != now);
    qp_close(other);
    qp_close(s.ctx);
}

/* A lock that is held and one that the file system does not have are two things. */
static void test_locks(void **state) {
    (void)state;
    small s = make_small(config, text_path, 1e-2);
    watch w = {0};
    lock_error = EWOULDBLOCK;
    assert_int_equal(qp_train(s.set, options_of(path_of("locked"), 1, &w)), QP_ERR_STATE);
    assert_non_null(strstr(qp_error(s.ctx), "another training is writing there"));
    qp_clear(s.ctx);
    lock_error = ENOLCK;
    assert_int_equal(qp_train(s.set, options_of(path_of("locked"), 1, &w)), QP_ERR_IO);
    assert_non_null(strstr(qp_error(s.ctx), "/.lock: cannot lock"));
    lock_error = 0;
    qp_close(s.ctx);
}

static double total(qp_tensor t) {
    qp_scope s = qp_enter(t.ctx);
    double   x = qp_item(qp_sum(t, 0, NULL, false));
    qp_leave(s);
    return x;
}

/* Whoever exchanges twice has the weights back, also where a cancel or a failure came in between; a state that cannot
 * be written leaves them, and one that is being written does not heed a cancel. */
static void test_ema_survives(void **state) {
    (void)state;
    small     s = make_small(config, text_path, 1e-2);
    watch     watched = {0};
    qp_tensor w = qp_model_params(s.set.model).entries[0].tensor;
    s.set.ema = qp_ema_new(s.set.model, 0.28);
    assert_non_null(s.set.ema);
    check(&s, qp_train(s.set, options_of(NULL, 2, &watched)));
    double now = total(w);
    qp_ema_swap(s.set.ema);
    double mean = total(w);
    assert_true(mean != now);
    qp_cancel(s.ctx);
    assert_true(isnan(total(w)));
    assert_int_equal(qp_error_code(s.ctx), QP_ERR_CANCELLED);
    qp_ema_swap(s.set.ema);
    qp_clear(s.ctx);
    assert_true(total(w) == now);
    qp_cancel(s.ctx);
    qp_ema_swap(s.set.ema);
    assert_int_equal(qp_error_code(s.ctx), QP_OK);
    assert_true(isnan(total(w)));
    qp_clear(s.ctx);
    assert_true(total(w) == mean);
    qp_ema_swap(s.set.ema);
    qp_cancel(s.ctx);
    assert_int_equal(qp_state_save(s.set, path_of("survives"), 1, 0), QP_OK);
    assert_true(isnan(total(w)));
    qp_clear(s.ctx);
    assert_int_equal(qp_state_save(s.set, text_path, 2, 0), QP_ERR_IO);
    qp_clear(s.ctx);
    assert_true(total(w) == now);
    qp_close(s.ctx);
}

static void one_step(small *s, double scale) {
    qp_scope  scope = qp_enter(s->ctx);
    qp_record b = qp_data_next(s->set.data);
    qp_tensor loss = qp_model_loss(s->set.model, qp_record_get(&b, "input_ids"), qp_record_get(&b, "labels"));
    qp_backward(qp_affine(qp_optim_scaled(s->set.optim, loss), scale, 0));
    qp_step(s->set.optim);
    if (qp_failed(s->ctx)) fail_msg("%s", qp_error(s->ctx));
    qp_leave(scope);
}

/* Scaled and unscaled steps are equal (powers of two are exact); one that is not finite changes
 * nothing and halves the scale; so many good ones double it. */
static void test_loss_scale(void **state) {
    (void)state;
    double norms[2], sums[2];
    for (int scaled = 0; scaled < 2; scaled++) {
        small s = make_small(config, text_path, 1e-2);
        qp_optim_scale_losses(s.set.optim, scaled);
        qp_tensor w = qp_model_params(s.set.model).entries[0].tensor;
        for (int i = 0; i < 3; i++) one_step(&s, 1);
        norms[scaled] = qp_optim_norm(s.set.optim);
        sums[scaled] = qp_item(qp_sum(w, 0, NULL, false));
        if (scaled) {
            assert_true(qp_optim_scale(s.set.optim) == 65536);
            one_step(&s, 1e38);
            assert_true(qp_optim_skipped(s.set.optim) && qp_optim_scale(s.set.optim) == 32768);
            assert_true(qp_item(qp_sum(w, 0, NULL, false)) == sums[1]);
            char      name[256];
            qp_tensor t, scale = QP_NONE;
            for (int i = 0; qp_optim_state(s.set.optim, i, name, &t); i++)
                if (!strcmp(name, "scale")) scale = t;
            qp_write(scale, QP_F64, (double[]){32768, 1999}, 2);
            qp_optim_restored(s.set.optim);
            one_step(&s, 1);
            assert_true(!qp_optim_skipped(s.set.optim) && qp_optim_scale(s.set.optim) == 65536);
        }
        qp_optim_close(s.set.optim);
        qp_close(s.ctx);
    }
    assert_true(norms[0] == norms[1] && sums[0] == sums[1]);
}

static void test_schedules(void **state) {
    (void)state;
    qp_schedule s = {.kind = QP_SCHEDULE_COSINE, .lr = 2, .warmup = 4, .steps = 24, .floor = 0.25};
    assert_float_equal(qp_schedule_at(&s, 0), 0.5, 1e-12);
    assert_float_equal(qp_schedule_at(&s, 3), 2, 1e-12);
    assert_float_equal(qp_schedule_at(&s, 4), 2, 1e-12);
    assert_float_equal(qp_schedule_at(&s, 23), 0.5, 1e-12);
    assert_float_equal(qp_schedule_at(&s, 14), 2 * (0.25 + 0.75 * (1 + cos(M_PI * 10 / 19)) / 2), 1e-12);
    s.kind = QP_SCHEDULE_LINEAR;
    assert_float_equal(qp_schedule_at(&s, 14), 2 * (0.25 + 0.75 * 9 / 19), 1e-12);
    s.floor = 0;
    assert_float_equal(qp_schedule_at(&s, 23), 0, 1e-12);
    s.kind = QP_SCHEDULE_WSD;
    s.decay = 10;
    assert_float_equal(qp_schedule_at(&s, 13), 2, 1e-12);
    assert_float_equal(qp_schedule_at(&s, 23), 0, 1e-12);
    assert_float_equal(qp_schedule_at(&s, 18), 2 * 5.0 / 9, 1e-12);
    s.decay = 0; /* a fifth of the steps */
    assert_float_equal(qp_schedule_at(&s, 20), 2, 1e-12);
    assert_float_equal(qp_schedule_at(&s, 21), 2 * 2.0 / 3, 1e-12);
    for (int64_t i = 1; i < 24; i++)
        if (i > 4) assert_true(qp_schedule_at(&s, i) <= qp_schedule_at(&s, i - 1));
}

/* After the first steps nothing is asked of the system, neither by the pool nor by anyone. */
static void test_no_heap_calls(void **state) {
    (void)state;
    if (!COUNTS_HEAP) skip();
    watch            w = {.count_from = 6};
    small            s = make_small(config, text_path, 1e-2);
    qp_train_options o = options_of(NULL, 40, &w);
    o.save_every = 0;
    s.set.validation = NULL;
    check(&s, qp_train(s.set, o));
    atomic_store(&counting, false);
    assert_int_equal(atomic_load(&heap_calls), 0);
    qp_close(s.ctx);
}

/* 64 classes of equal width: of 0, 2, .. 126, doubled by half, one number is in each. What stands behind the key and
 * the length of the packed doubles of field 7 (TensorFlow's HistogramProto). */
static void test_histogram(void **state) {
    (void)state;
    static unsigned char data[20000];
    qp_ctx              *ctx = qp_open((qp_options){.threads = 1});
    qp_board            *b = qp_board_open(ctx, path_of("events"), 0);
    assert_non_null(b);
    qp_board_histogram(b, "w", 1, qp_affine(qp_cast(qp_arange(ctx, QP_I64, 64), QP_F32), 2, 0), 0.5);
    qp_board_close(b);
    assert_false(qp_failed(ctx));
    DIR           *d = opendir(path_of("events"));
    struct dirent *e;
    size_t         n = 0;
    assert_non_null(d);
    while ((e = readdir(d))) {
        char path[600];
        if (e->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "%s/%s", path_of("events"), e->d_name);
        FILE *f = fopen(path, "rb");
        assert_non_null(f);
        n = fread(data, 1, sizeof data, f);
        fclose(f);
    }
    closedir(d);
    size_t at = 0;
    while (at + 3 + 512 <= n && memcmp(data + at, "\x3a\x80\x04", 3) != 0) at++;
    assert_true(at + 3 + 512 <= n);
    for (int i = 0; i < 64; i++) {
        double count;
        memcpy(&count, data + at + 3 + 8 * i, 8);
        assert_true(count == 1);
    }
    qp_close(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_resume),
                                       cmocka_unit_test(test_cancel_saves),
                                       cmocka_unit_test(test_refusals),
                                       cmocka_unit_test(test_states_are_kept),
                                       cmocka_unit_test(test_accumulation),
                                       cmocka_unit_test(test_groups),
                                       cmocka_unit_test(test_patience),
                                       cmocka_unit_test(test_ema),
                                       cmocka_unit_test(test_ema_survives),
                                       cmocka_unit_test(test_locks),
                                       cmocka_unit_test(test_loss_scale),
                                       cmocka_unit_test(test_frozen_later),
                                       cmocka_unit_test(test_schedules),
                                       cmocka_unit_test(test_histogram),
                                       cmocka_unit_test(test_divergence_is_an_error),
                                       cmocka_unit_test(test_no_heap_calls)};
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
