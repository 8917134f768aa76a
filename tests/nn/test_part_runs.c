/* What holds of a model whatever its parts are: each part of the registry, with its default options and with
 * each switch, choice and number in turn, in a stack of two layers that is run as users run it.
 *
 *   threads      the same bits of loss, logits and gradients with 1 and 3
 *   checkpoint   running layers again gives the same bits of gradients
 *   rows         a session's row has the same bits alone and among others, in any order of rows, behind a fork,
 *                a file, a refused call and a fresh start
 *   trees        drafts that are chosen from give what the chosen ones alone give, or are refused
 *   segments     a sequence of two segments gives what each gives alone, or is refused
 *   files        a saved model gives the same bits when it is loaded, and nearly the same from 16 bits as
 *                stored
 *   training     resumed from a saved state it has the same bits as never stopped
 *   stops        cancelled at any op, whole sequences and steps end with that error, and are right the next time
 *   empty        no rows or no positions give as many logits
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "../text_folder.h"
#include "format/writer.h"
#include "models/model.h"
#include "parts.h"

enum { B = 3, T = 13, V = 257, MOST = 1 << 20 };

/* ---- Models --------------------------------------------------------------------------------------------- */

static const char *what; /* is tested */

static void expect_well(qp_ctx *ctx) {
    if (qp_failed(ctx)) fail_msg("%s: %s", what, qp_error(ctx));
}

static qp_ctx *open_context(int threads) {
    qp_ctx *ctx = qp_open((qp_options){.threads = threads, .seed = 4});
    assert_non_null(ctx);
    return ctx;
}

/* The walk's config with room for bytes of text and a few more positions, in two layers. */
static qp_model *build(qp_ctx *ctx, const json_t *config) {
    json_t *mine = json_deep_copy(config);
    json_object_set_new(mine, "vocab_size", json_integer(V));
    json_object_set_new(mine, "num_hidden_layers", json_integer(2));
    json_object_set_new(mine, "max_position_embeddings", json_integer(16));
    char     *text = json_dumps(mine, 0);
    qp_model *m = qp_model_new(ctx, "config", text);
    expect_well(ctx);
    free(text);
    json_decref(mine);
    return m;
}

static qp_model *build_to_read(qp_ctx *ctx, const json_t *config) {
    qp_model *m = build(ctx, config);
    qp_no_grad(ctx, true);
    qp_set_training(qp_model_module(m), false);
    return m;
}

static int64_t id_at(int64_t b, int64_t t) { return (b * 37 + t * t * 11 + t * 5 + 3) % V; }

/* Rows first to first + n - 1, positions from to to - 1. */
static qp_tensor ids_of(qp_ctx *ctx, int first, int n, int from, int to) {
    int64_t ids[B * T];
    for (int b = 0; b < n; b++)
        for (int t = from; t < to; t++) ids[b * (to - from) + t - from] = id_at(first + b, t);
    return qp_from(ctx, QP_I64, 2, (int64_t[]){n, to - from}, ids);
}

static float *read_all(qp_tensor t) {
    int64_t n = qp_count(t);
    float  *x = malloc((size_t)(n > 0 ? n : 1) * sizeof *x);
    assert_non_null(x);
    if (qp_read(t, QP_F32, x, n) != QP_OK) fail_msg("%s: %s", what, qp_error(t.ctx));
    return x;
}

static void same_bits(const char *how, const float *a, const float *b, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (memcmp(&a[i], &b[i], sizeof *a))
            fail_msg("%s: %s: number %lld is %.9g, not %.9g", what, how, (long long)i, a[i], b[i]);
}

static void near(const char *how, const float *a, const float *b, int64_t n, double tolerance) {
    double worst = 0, scale = 0;
    for (int64_t i = 0; i < n; i++) {
        if (!isfinite(a[i])) fail_msg("%s: %s: number %lld is %g", what, how, (long long)i, a[i]);
        worst = fmax(worst, fabs((double)a[i] - b[i]));
        scale = fmax(scale, fabs(b[i]));
    }
    if (!(worst <= tolerance * scale)) fail_msg("%s: %s: off by %.3g of %.3g", what, how, worst, scale);
}

/* ---- Threads, checkpoints -----------------------------------------------------------------------------------
 */

/* Loss and gradients of a step, one behind the other. */
static float *gradients(const json_t *config, int threads, bool again, int64_t *n) {
    qp_ctx   *ctx = open_context(threads);
    qp_model *m = build(ctx, config);
    float    *all = malloc(MOST * sizeof *all);
    qp_set_grad_checkpoint(m, again);
    qp_tensor loss = qp_model_loss(m, ids_of(ctx, 0, B, 0, T), ids_of(ctx, 0, B, 0, T));
    qp_backward(loss);
    expect_well(ctx);
    all[0] = (float)qp_item(loss);
    *n = 1;
    qp_state_dict params = qp_model_params(m);
    for (int i = 0; i < params.count; i++) {
        qp_tensor g = qp_grad_of(params.entries[i].tensor);
        int64_t   count = qp_is_none(g) ? 0 : qp_count(g);
        assert_true(*n + count <= MOST);
        if (count) assert_int_equal(qp_read(g, QP_F32, all + *n, count), QP_OK);
        *n += count;
    }
    qp_close(ctx);
    return all;
}

static void check_gradients(json_t *config) {
    int64_t n, others;
    float  *one = gradients(config, 1, false, &n), *three = gradients(config, 3, false, &others);
    assert_int_equal(n, others);
    same_bits("three threads", three, one, n);
    float *again = gradients(config, 1, true, &others);
    assert_int_equal(n, others);
    same_bits("gradient checkpoints", again, one, n);
    free(one);
    free(three);
    free(again);
}

/* ---- Sessions ---------------------------------------------------------------------------------------- */

/* Positions from to to - 1 of sequence b into a row; the last one's logits. */
static float *feed(qp_session *s, int64_t row, int b, int from, int to) {
    qp_ctx  *ctx = qp_session_ctx(s);
    qp_scope scope = qp_enter(ctx);
    float   *x = read_all(qp_session_feed(s, ids_of(ctx, b, 1, from, to), (qp_feed){.rows = &row}));
    qp_leave(scope);
    expect_well(ctx);
    return x;
}

static void expect_row(const char *how, qp_session *s, int64_t row, int b, int from, int to,
                       const float *expected) {
    float *x = feed(s, row, b, from, to);
    same_bits(how, x, expected, V);
    free(x);
}

/* Three sequences in the rows 2, 0 and 1 of one session, in two calls; then each alone. */
static void check_rows(qp_model *m) {
    qp_ctx     *ctx = qp_model_ctx(m);
    qp_session *s = qp_session_new(m, B + 1, T, (qp_session_options){0}),
               *other = qp_session_new(m, 1, T, (qp_session_options){0});
    int64_t       none = B;
    const int64_t rows[] = {2, 0, 1};
    float        *last;
    char          path[96];
    snprintf(path, sizeof path, "%s/row.safetensors", folder);
    expect_well(ctx);
    qp_session_feed(s, ids_of(ctx, 0, B, 0, 7), (qp_feed){.rows = rows});
    last = read_all(qp_session_feed(s, ids_of(ctx, 0, B, 7, 9), (qp_feed){.rows = rows}));
    for (int b = 0; b < B; b++) {
        assert_int_equal(qp_session_truncate(other, 0, 0), QP_OK);
        free(feed(other, 0, b, 0, 7));
        expect_row("a row alone", other, 0, b, 7, 9, last + b * V);
    }
    free(last);
    assert_int_equal(qp_session_fork(s, 0, none, 9), QP_OK);
    assert_int_equal(qp_session_save(s, 0, path), QP_OK);
    assert_int_equal(qp_session_truncate(other, 0, 0), QP_OK);
    assert_int_equal(qp_session_load(other, 0, path), QP_OK);
    qp_session_feed(s, qp_full(ctx, QP_I64, 2, (int64_t[]){1, 1}, V), (qp_feed){.rows = (int64_t[]){0}});
    assert_true(qp_failed(ctx)); /* no such token */
    qp_clear(ctx);
    last = feed(s, 0, 1, 9, 12);
    expect_row("a forked row", s, none, 1, 9, 12, last);
    expect_row("a row from a file", other, 0, 1, 9, 12, last);
    free(last);
    qp_session_close(s);
    qp_session_close(other);
}

/* Two more positions of two rows of other lengths; then each alone. */
static void check_lengths(qp_model *m) {
    static const int64_t from[] = {6, 3};
    qp_ctx              *ctx = qp_model_ctx(m);
    qp_session          *s = qp_session_new(m, 2, T, (qp_session_options){0}),
               *other = qp_session_new(m, 1, T, (qp_session_options){0});
    int64_t ids[4];
    expect_well(ctx);
    for (int b = 0; b < 2; b++) free(feed(s, b, b, 0, (int)from[b]));
    for (int i = 0; i < 4; i++) ids[i] = id_at(i / 2, from[i / 2] + i % 2);
    float *last = read_all(qp_session_feed(s, qp_from(ctx, QP_I64, 2, (int64_t[]){2, 2}, ids), (qp_feed){0}));
    for (int b = 0; b < 2; b++) {
        assert_int_equal(qp_session_truncate(other, 0, 0), QP_OK);
        free(feed(other, 0, b, 0, (int)from[b]));
        expect_row("a longer row beside it", other, 0, b, (int)from[b], (int)from[b] + 2, last + b * V);
    }
    free(last);
    qp_session_close(s);
    qp_session_close(other);
}

/* A tree of four drafts behind five positions, of which the second path is chosen. */
static void check_trees(qp_model *m) {
    static const int64_t parents[] = {-1, 0, -1, 2}, chosen[] = {2, 3};
    qp_ctx              *ctx = qp_model_ctx(m);
    qp_session          *s = qp_session_new(m, 2, T, (qp_session_options){0});
    int64_t              drafts[4], width = qp_model_info_of(m).width;
    qp_feed              how = {.rows = (int64_t[]){0}, .parents = parents};
    free(feed(s, 0, 0, 0, 5));
    free(feed(s, 1, 0, 0, 5));
    for (int i = 0; i < 4; i++) drafts[i] = i < 2 ? (7 * i + 1) % V : id_at(0, 3 + i);
    qp_tensor tree = qp_session_hidden(s, qp_from(ctx, QP_I64, 2, (int64_t[]){1, 4}, drafts), how);
    if (qp_error_code(ctx) == QP_ERR_UNSUPPORTED) {
        qp_clear(ctx);
        qp_session_close(s);
        return;
    }
    float *got = read_all(tree),
          *expected =
              read_all(qp_session_hidden(s, ids_of(ctx, 0, 1, 5, 7), (qp_feed){.rows = (int64_t[]){1}}));
    expect_well(ctx);
    near("drafts", got + 2 * width, expected, 2 * width, 1e-5);
    free(got);
    free(expected);
    assert_int_equal(qp_session_choose(s, 0, 2, chosen), QP_OK);
    got = feed(s, 0, 0, 7, 9), expected = feed(s, 1, 0, 7, 9);
    near("behind drafts", got, expected, V, 1e-5);
    free(got);
    free(expected);
    qp_session_close(s);
}

/* ---- Segments ---------------------------------------------------------------------------------------- */

enum { CUT = 8 }; /* whole blocks of patterns, which are counted from the sequence's first place */

static qp_record segmented(qp_ctx *ctx) {
    int64_t   positions[T], segments[T];
    qp_record in = {0};
    for (int t = 0; t < T; t++) {
        positions[t] = t < CUT ? t : t - CUT;
        segments[t] = t >= CUT;
    }
    qp_record_set(&in, "input_ids", ids_of(ctx, 0, 1, 0, T));
    qp_record_set(&in, "positions", qp_from(ctx, QP_I64, 2, (int64_t[]){1, T}, positions));
    qp_record_set(&in, "segments", qp_from(ctx, QP_I64, 2, (int64_t[]){1, T}, segments));
    return in;
}

static void check_segments(qp_model *m) {
    qp_ctx   *ctx = qp_model_ctx(m);
    qp_record out = qp_forward(m, segmented(ctx));
    if (qp_error_code(ctx) == QP_ERR_UNSUPPORTED) return qp_clear(ctx);
    expect_well(ctx);
    float *both = read_all(qp_record_get(&out, "logits")),
          *first = read_all(qp_logits(m, ids_of(ctx, 0, 1, 0, CUT)));
    float *second = read_all(qp_logits(m, ids_of(ctx, 0, 1, CUT, T)));
    near("the first segment", both, first, CUT * V, 1e-5);
    near("the second segment", both + CUT * V, second, (T - CUT) * V, 1e-5);
    free(both);
    free(first);
    free(second);
}

/* ---- Files ------------------------------------------------------------------------------------------- */

static qp_model *loaded(qp_ctx *ctx, const char *path, bool as_stored) {
    qp_model *m = qp_model_load(ctx, path, (qp_model_options){.as_stored = as_stored});
    expect_well(ctx);
    qp_set_training(qp_model_module(m), false);
    return m;
}

/* The model's tensors in 16 bits, in place of those in the folder. */
static void halve(qp_model *m, const char *path) {
    qp_ctx   *ctx = qp_model_ctx(m);
    qp_named  named[256];
    int64_t   n = 0;
    qp_tensor t;
    char      file[128];
    snprintf(file, sizeof file, "%s/model.safetensors", path);
    for (; n < 256 && qp_model_weight(m, n, false, &named[n].name, &t); n++)
        named[n].tensor = qp_cast(t, QP_BF16);
    assert_int_equal(qp_file_save(ctx, file, n, named, (qp_save_options){0}), QP_OK);
}

static void check_files(qp_model *m) {
    qp_ctx *ctx = qp_model_ctx(m);
    char    path[96];
    snprintf(path, sizeof path, "%s/model", folder);
    assert_int_equal(qp_model_save(m, path), QP_OK);
    float    *expected = read_all(qp_logits(m, ids_of(ctx, 0, B, 0, T)));
    qp_model *again = loaded(ctx, path, false);
    float    *got = read_all(qp_logits(again, ids_of(ctx, 0, B, 0, T)));
    same_bits("saved and loaded", got, expected, B * T * V);
    free(got);
    halve(m, path);
    qp_model_close(again);
    again = loaded(ctx, path, false);
    free(expected);
    expected = read_all(qp_logits(again, ids_of(ctx, 0, B, 0, T)));
    qp_model_close(again);
    again = loaded(ctx, path, true);
    got = read_all(qp_logits(again, ids_of(ctx, 0, B, 0, T)));
    near("16 bits as stored", got, expected, B * T * V, 2e-2);
    free(got);
    free(expected);
    if (qp_model_info_of(again).causal) {
        qp_session *s = qp_session_new(again, 1, T, (qp_session_options){0});
        if (s) free(feed(s, 0, 0, 0, 5)), free(feed(s, 0, 0, 5, 6));
        else if (qp_error_code(ctx) == QP_ERR_UNSUPPORTED) qp_clear(ctx);
    }
    expect_well(ctx);
    qp_model_close(again);
    qpi_folder_remove(path);
}

/* ---- Training ---------------------------------------------------------------------------------------- */

static bool stop_at_two(void *user, const qp_train_event *e) {
    (void)user;
    return e->step != 2;
}

/* Trains four steps, or what a state leaves of them; all tensors of the model, buffers included. */
static float *trained(json_t *config, const char *out, bool stop, int64_t *n) {
    qp_ctx         *ctx = open_context(2);
    const char     *text = text_path;
    qp_training_set set = {.tokenizer = qp_tokenizer_bytes(ctx), .model = build(ctx, config)};
    set.data = qp_data_open(ctx, 1, &text,
                            (qp_data_options){.batch = 2, .length = 9, .seed = 9, .tokenizer = set.tokenizer});
    set.optim =
        qp_adamw(qp_model_params(set.model), (qp_adamw_options){.lr = 1e-2, .weight_decay = 0.1, .clip = 1});
    qp_train_options o = {
        .schedule = {.kind = QP_SCHEDULE_COSINE, .lr = 1e-2, .steps = 4}, .out = out, .resume = true};
    if (stop) o.on_step = stop_at_two;
    if (qp_train(set, o) != QP_OK) fail_msg("%s: %s", what, qp_error(ctx));
    float        *all = malloc(MOST * sizeof *all);
    qp_state_dict dict = qp_module_state(qp_model_module(set.model));
    *n = 0;
    for (int i = 0; i < dict.count; i++) {
        int64_t count = qp_count(dict.entries[i].tensor);
        assert_true(*n + count <= MOST);
        assert_int_equal(qp_read(dict.entries[i].tensor, QP_F32, all + *n, count), QP_OK);
        *n += count;
    }
    qp_close(ctx);
    return all;
}

static void check_training(json_t *config) {
    char    whole[96], parts[96];
    int64_t n, others;
    snprintf(whole, sizeof whole, "%s/whole", folder);
    snprintf(parts, sizeof parts, "%s/parts", folder);
    float *a = trained(config, whole, false, &n), *first = trained(config, parts, true, &others);
    float *b = trained(config, parts, false, &others);
    assert_int_equal(n, others);
    same_bits("resumed", b, a, n);
    assert_memory_not_equal(first, b, (size_t)n * sizeof *b);
    free(a);
    free(b);
    free(first);
    qpi_folder_remove(whole);
    qpi_folder_remove(parts);
}

/* ---- Stops ------------------------------------------------------------------------------------------- */

typedef struct {
    qp_ctx *ctx;
    int     calls, stop; /* ops so far, and behind which one it is cancelled */
} stops;

static void count_down(void *user, const qp_call *call, double seconds) {
    stops *s = user;
    (void)call, (void)seconds;
    if (s->calls++ == s->stop) qp_cancel(s->ctx);
}

/* A pass of the kind, with gradients where there is no session; its loss or the logits of a step. */
static qp_tensor pass(qp_model *m, qp_session *s) {
    qp_ctx *ctx = qp_model_ctx(m);
    if (s) return qp_session_feed(s, ids_of(ctx, 0, 1, qp_session_length(s, 0), 9), (qp_feed){0});
    qp_tensor loss = qp_model_loss(m, ids_of(ctx, 0, B, 0, T), ids_of(ctx, 0, B, 0, T));
    qp_backward(loss);
    return loss;
}

/* at: positions that the session has before the pass; -1: no session. */
static void stop_everywhere(const json_t *config, int at) {
    qp_ctx     *ctx = open_context(1);
    qp_model   *m = at < 0 ? build(ctx, config) : build_to_read(ctx, config);
    qp_session *s = at < 0 ? NULL : qp_session_new(m, 1, T, (qp_session_options){0});
    stops       count = {ctx, 0, -1};
    expect_well(ctx);
    for (int stop = -1, all = 1; stop < all; stop += at < 0 ? 3 : 1) { /* the first one counts ops */
        qp_scope scope = qp_enter(ctx);
        if (s && qp_session_length(s, 0) > at) assert_int_equal(qp_session_truncate(s, 0, 0), QP_OK);
        if (s && qp_session_length(s, 0) < at) free(feed(s, 0, 0, 0, at));
        count = (stops){ctx, 0, stop};
        qp_observe(ctx, count_down, &count);
        pass(m, s);
        qp_observe(ctx, NULL, NULL);
        if (stop < 0) all = count.calls - 1;
        bool over = count.calls <= stop + 1; /* it has fewer ops than at first: what was solved then is kept */
        if (stop < 0) expect_well(ctx);
        else if (qp_error_code(ctx) != QP_ERR_CANCELLED && !over)
            fail_msg("%s: stopped at op %d: %s", what, stop, qp_error(ctx));
        if (stop >= 0) qp_clear(ctx);
        ctx->cancelled = 0;
        qp_leave(scope);
    }
    expect_well(ctx);
    qp_close(ctx);
}

static void check_empty(qp_model *m) {
    qp_ctx *ctx = qp_model_ctx(m);
    for (int rows = 0; rows < 2; rows++) {
        qp_tensor y = qp_logits(m, qp_empty(ctx, QP_I64, 2, (int64_t[]){rows ? 2 : 0, rows ? 0 : 4}));
        if (qp_failed(ctx)) fail_msg("%s: of nothing: %s", what, qp_error(ctx));
        if (qp_ndim(y) != 3 || qp_size(y, 0) != (rows ? 2 : 0) || qp_size(y, 1) != (rows ? 0 : 4) ||
            qp_size(y, 2) != V)
            fail_msg("%s: logits of nothing have another shape", what);
    }
}

/* ---- All of it --------------------------------------------------------------------------------------- */

static int visited;

static void visit(json_t *config, const char *name) {
    what = name;
    visited++;
    check_gradients(config);
    /* states are synced, which takes its time: defaults, and what changes from step to step */
    if (!strstr(name, " with ") || strstr(name, "redraw")) check_training(config);
    qp_ctx   *ctx = open_context(2);
    qp_model *m = build_to_read(ctx, config);
    check_files(m);
    check_segments(m);
    check_empty(m);
    stop_everywhere(config, -1);
    if (qp_model_info_of(m).causal) {
        check_rows(m);
        check_lengths(m);
        check_trees(m);
        stop_everywhere(config, 0);
        stop_everywhere(config, 6);
    }
    expect_well(ctx);
    qp_close(ctx);
}

static void positions(void **state) {
    (void)state;
    parts_walk(QP_PART_POSITION, "position", visit);
}
static void mixers(void **state) {
    (void)state;
    parts_walk(QP_PART_MIXER, "mixer", visit);
}
static void ffns(void **state) {
    (void)state;
    parts_walk(QP_PART_FFN, "ffn", visit);
}
static void others(void **state) {
    (void)state;
    parts_walk(QP_PART_NORM, "norm", visit);
    parts_walk(QP_PART_BLOCK, "block", visit);
    assert_true(visited > 100);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(positions), cmocka_unit_test(mixers),
                                       cmocka_unit_test(ffns), cmocka_unit_test(others)};
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
