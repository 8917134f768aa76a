/* Files of rows of sessions: what comes back, and what is refused; states that grow and states of fixed size. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "../expect.h"
#include "../format/in_turn.h"
#include "infer/session.h"
#include "quipu/quipu.h"

enum { D = 8, ROOM = 12, FED = 5 };

static const char config[] =
    "{\"model_type\": \"quipu\", \"vocab_size\": 17, \"hidden_size\": 8, \"num_hidden_layers\": 2, "
    "\"max_position_embeddings\": 16,"
    " \"position\": {\"type\": \"rope\"}, \"mixer\": {\"type\": \"attention\", \"heads\": 2}, \"ffn\": "
    "{\"type\": \"mlp\"},"
    " \"norm\": {\"type\": \"rms_norm\"}, \"layers\": [{}, {\"mixer\": {\"type\": \"shift\"}}]}";

/* y_t = x_t + x_{t-1}: carries the last x. */
static void shift_init(void *self, qp_build *b) { (void)self, (void)b; }
static bool shift_causal(const void *self) { return !self || true; }

static qp_tensor shifted(qp_tensor x, qp_tensor before, qp_tensor residual) {
    int64_t   n = qp_size(x, 1);
    qp_tensor parts[] = {before, qp_slice(x, 1, 0, n - 1, 1)};
    return qp_add(qp_add(x, qp_concat(2, parts, 1)), residual);
}
static qp_tensor shift_forward(void *self, qp_tensor x, qp_tensor residual, const qp_sequence *s) {
    (void)self, (void)s;
    return shifted(x, qp_zeros(x.ctx, qp_dtype_of(x), 3, (int64_t[]){qp_size(x, 0), 1, D}), residual);
}
static void shift_reserve(void *self, qp_ctx *ctx, int64_t rows, int64_t positions, qp_state *state) {
    (void)self, (void)positions;
    qp_state_add(state, ctx, false, 3, (int64_t[]){rows, 1, D});
}
static qp_tensor shift_step(void *self, qp_tensor x, qp_tensor residual, const qp_sequence *s,
                            qp_state *state) {
    (void)self, (void)s;
    int64_t n = qp_size(x, 1);
    qp_state_set(state, 0, qp_slice(x, 1, n - 1, n, 1));
    return shifted(x, state->tensors[0], residual);
}
static const qp_branch_type shift = {.part = {.name = "shift"},
                                     .causal = shift_causal,
                                     .init = shift_init,
                                     .forward = shift_forward,
                                     .reserve = shift_reserve,
                                     .step = shift_step};

static char path[100];

static qp_model *model(qp_ctx *ctx) {
    if (qp_register_part(ctx, QP_PART_MIXER, &shift.part) != QP_OK) return NULL;
    qp_set_random(ctx, 9, 0);
    return qp_model_new(ctx, "test", config);
}

static const int32_t ids[FED + 3] = {3, 1, 4, 1, 5, 9, 2, 6};

static void feed(qp_session *s, int64_t row, int from, int to, float *logits) {
    qp_ctx   *ctx = s->m->ctx;
    qp_tensor x = qp_from(ctx, QP_I32, 2, (int64_t[]){1, to - from}, ids + from);
    qp_tensor y = qp_session_feed(s, x, (qp_feed){.rows = &row});
    if (qp_failed(ctx)) fail_msg("%s", qp_error(ctx));
    if (logits) assert_int_equal(qp_read(y, QP_F32, logits, 17), QP_OK);
}

/* ---- There and back ---------------------------------------------------------------------------------- */

static void there_and_back(void **state) {
    (void)state;
    static const qp_dtype kinds[] = {QP_F32, QP_BF16};
    for (int k = 0; k < 2; k++) {
        float       a[17], b[17];
        qp_ctx     *ctx = qp_open((qp_options){.threads = 1});
        qp_model   *m = model(ctx);
        qp_session *s = qp_session_new(m, 2, ROOM, (qp_session_options){kinds[k]});
        feed(s, 1, 0, FED, NULL);
        assert_int_equal(qp_session_save(s, 1, path), QP_OK);
        qp_session *other = qp_session_new(m, 3, ROOM, (qp_session_options){kinds[k]});
        assert_int_equal(qp_session_load(other, 2, path), QP_OK);
        assert_int_equal(qp_session_length(other, 2), FED);
        assert_memory_equal(qp_session_tokens(other, 2), ids, FED * sizeof *ids);
        feed(s, 1, FED, FED + 3, a);
        feed(other, 2, FED, FED + 3, b);
        assert_memory_equal(a, b, sizeof a);
        /* rows that are not there, and places */
        assert_int_equal(qp_session_save(s, 2, path), QP_ERR_ARGUMENT);
        expect_error(ctx, QP_ERR_ARGUMENT, "save");
        assert_int_equal(qp_session_load(s, -1, path), QP_ERR_ARGUMENT);
        expect_error(ctx, QP_ERR_ARGUMENT, "load");
        assert_int_equal(qp_session_save(s, 1, "/nowhere/row.safetensors"), QP_ERR_IO);
        expect_error(ctx, QP_ERR_IO, "/nowhere/row.safetensors");
        assert_int_equal(qp_session_load(s, 0, "/nowhere/row.safetensors"), QP_ERR_IO);
        expect_error(ctx, QP_ERR_IO, "/nowhere/row.safetensors");
        qp_fail(ctx, QP_ERR_STATE, "as it was");
        assert_int_equal(qp_session_save(s, 1, path), QP_ERR_STATE);
        assert_int_equal(qp_session_load(s, 0, path), QP_ERR_STATE);
        expect_error(ctx, QP_ERR_STATE, "as it was");
        qp_close(ctx);
    }
    remove(path);
}

/* ---- What is no row -------------------------------------------------------------------------------------- */

/* The tensors of a sound file, of which `change` spoils one, and what is said of the result. */
typedef struct {
    qp_named list[8];
    qp_meta  meta[3];
    int      count, metas;
} row_file;

static int tensor_named(const row_file *r, const char *name) {
    for (int i = 0; i < r->count; i++)
        if (!strcmp(r->list[i].name, name)) return i;
    fail_msg("no %s", name);
    return -1;
}

static void without(row_file *r, const char *name) {
    int i = tensor_named(r, name);
    r->list[i] = r->list[--r->count];
}

static void as_another(row_file *r, const char *name, qp_tensor t) {
    r->list[tensor_named(r, name)].tensor = t;
}

static void spoil(row_file *r, qp_ctx *ctx, int how) {
    int32_t odd[FED] = {3, 1, 4, 17, -1};
    switch (how) {
    case 0: r->metas = 0; break;
    case 1: r->meta[0].value = "quipu row 0"; break;
    case 2: r->meta[1].value = "0123456789abcdef"; break;
    case 3: r->meta[2].value = "bf16"; break;
    case 4: without(r, "tokens"); break;
    case 5: as_another(r, "tokens", qp_zeros(ctx, QP_I64, 1, (int64_t[]){FED})); break;
    case 6: as_another(r, "tokens", qp_zeros(ctx, QP_I32, 2, (int64_t[]){1, FED})); break;
    case 7: as_another(r, "tokens", qp_zeros(ctx, QP_I32, 1, (int64_t[]){ROOM + 1})); break;
    case 8: as_another(r, "tokens", qp_from(ctx, QP_I32, 1, (int64_t[]){FED}, odd)); break;
    case 9: odd[3] = 0, as_another(r, "tokens", qp_from(ctx, QP_I32, 1, (int64_t[]){FED}, odd)); break;
    case 10: without(r, "state.0.0"); break;
    case 11: as_another(r, "state.0.0", qp_zeros(ctx, QP_BF16, 4, (int64_t[]){1, FED, 2, 4})); break;
    case 12: as_another(r, "state.0.0", qp_zeros(ctx, QP_F32, 3, (int64_t[]){1, FED, 8})); break;
    case 13: as_another(r, "state.0.0", qp_zeros(ctx, QP_F32, 4, (int64_t[]){1, FED + 1, 2, 4})); break;
    case 14: as_another(r, "state.0.0", qp_zeros(ctx, QP_F32, 4, (int64_t[]){2, FED, 2, 4})); break;
    case 15: as_another(r, "state.0.1", qp_zeros(ctx, QP_F32, 4, (int64_t[]){1, FED, 4, 2})); break;
    default: as_another(r, "state.2.0", qp_zeros(ctx, QP_F32, 3, (int64_t[]){1, FED, 8}));
    }
}

static void no_rows(void **state) {
    (void)state;
    static const struct {
        qp_code     code;
        const char *words;
    } cases[] = {{QP_ERR_FORMAT, "no row of a session"},
                 {QP_ERR_FORMAT, "no row of a session"},
                 {QP_ERR_STATE, "a row of another model"},
                 {QP_ERR_STATE, "its keys and values are not f32"},
                 {QP_ERR_FORMAT, "tokens: expected i32 [n]"},
                 {QP_ERR_FORMAT, "tokens: expected i32 [n]"},
                 {QP_ERR_FORMAT, "tokens: expected i32 [n]"},
                 {QP_ERR_ARGUMENT, "13 positions, the session has room for 12"},
                 {QP_ERR_FORMAT, "token 17 at 3"},
                 {QP_ERR_FORMAT, "token -1 at 4"},
                 {QP_ERR_FORMAT, "state.0.0 is missing, or not"},
                 {QP_ERR_FORMAT, "state.0.0 is missing, or not"},
                 {QP_ERR_FORMAT, "state.0.0 is missing, or not"},
                 {QP_ERR_FORMAT, "state.0.0 is missing, or not"},
                 {QP_ERR_FORMAT, "state.0.0 is missing, or not"},
                 {QP_ERR_FORMAT, "state.0.1 is missing, or not"},
                 {QP_ERR_FORMAT, "state.2.0 is missing, or not"}};
    qp_ctx     *ctx = qp_open((qp_options){.threads = 1});
    qp_session *s = qp_session_new(model(ctx), 2, ROOM, (qp_session_options){QP_F32});
    feed(s, 1, 0, FED, NULL);
    assert_int_equal(qp_session_save(s, 1, path), QP_OK);
    qp_file *sound = qp_file_open(ctx, path, (qp_file_options){.in_memory = true});
    for (int how = 0; how < (int)(sizeof cases / sizeof *cases); how++) {
        row_file r = {.count = (int)qp_file_count(sound), .metas = 3};
        for (int i = 0; i < r.count; i++) {
            r.list[i].name = qp_file_at(sound, i).name;
            r.list[i].tensor = qp_file_load(ctx, sound, r.list[i].name, true);
        }
        for (int i = 0; i < 3; i++) assert_true(qp_file_meta_at(sound, i, &r.meta[i].key, &r.meta[i].value));
        assert_string_equal(r.meta[2].key, "kv");
        spoil(&r, ctx, how);
        assert_int_equal(
            qp_file_save(ctx, path, r.count, r.list, (qp_save_options){.meta = r.meta, .meta_count = r.metas}),
            QP_OK);
        assert_int_equal(qp_session_load(s, 0, path), cases[how].code);
        expect_error(ctx, cases[how].code, cases[how].words);
        assert_int_equal(qp_session_length(s, 0), 0);
    }
    qp_file_close(sound);
    qp_close(ctx);
    remove(path);
}

/* ---- Memory ------------------------------------------------------------------------------------------------- */

/* Types that are not ours, of the same size. */
static void foreign_types(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"\"tokens\":{\"dtype\":\"I32\"", "tokens: expected i32 [n]"},
        {"\"state.0.0\":{\"dtype\":\"F32\"", "state.0.0 is missing, or not"}};
    qp_ctx     *ctx = qp_open((qp_options){.threads = 1});
    qp_session *s = qp_session_new(model(ctx), 2, ROOM, (qp_session_options){QP_F32});
    feed(s, 1, 0, FED, NULL);
    for (int i = 0; i < 2; i++) {
        static char bytes[20000];
        size_t      n = strlen(cases[i][0]), at = 0;
        assert_int_equal(qp_session_save(s, 1, path), QP_OK);
        FILE  *f = fopen(path, "rb");
        size_t size = fread(bytes, 1, sizeof bytes, f);
        fclose(f);
        while (at + n < size && memcmp(bytes + at, cases[i][0], n)) at++;
        assert_true(at + n < size);
        bytes[at + n - 4] = 'U';
        f = fopen(path, "wb");
        assert_int_equal(fwrite(bytes, 1, size, f), size);
        fclose(f);
        assert_int_equal(qp_session_load(s, 0, path), QP_ERR_FORMAT);
        expect_error(ctx, QP_ERR_FORMAT, cases[i][1]);
    }
    qp_close(ctx);
    remove(path);
}

/* A model whose weights are not there has no rows to save. */
static void empty_model(void **state) {
    (void)state;
    qp_ctx   *ctx = qp_open((qp_options){.threads = 1});
    qp_model *m = qp_model_load(ctx, SOURCE_DIR "/tests/golden/models/llama-mha/config.json",
                                (qp_model_options){.empty = true});
    assert_non_null(m);
    qp_session *s = qp_session_new(m, 1, ROOM, (qp_session_options){0});
    if (!s) fail_msg("%s", qp_error(ctx));
    assert_int_equal(qp_session_save(s, 0, path), QP_ERR_STATE);
    expect_error(ctx, QP_ERR_STATE, "has no elements yet");
    assert_int_equal(access(path, F_OK), -1);
    qp_close(ctx);
}

#if FAULTS
static float expected[17];

/* A row that goes through a file, and what follows it. */
static bool through_a_file(qp_ctx *ctx, qp_dtype type) {
    float       logits[17];
    int64_t     row = 0;
    qp_model   *m = model(ctx);
    qp_session *s = m ? qp_session_new(m, 1, ROOM, (qp_session_options){type}) : NULL;
    if (!s) return false;
    qp_session_feed(s, qp_from(ctx, QP_I32, 2, (int64_t[]){1, FED}, ids), (qp_feed){.rows = &row});
    if (qp_failed(ctx) || qp_session_save(s, 0, path) != QP_OK) return false;
    qp_session *other = qp_session_new(m, 1, ROOM, (qp_session_options){type});
    if (!other || qp_session_load(other, 0, path) != QP_OK) return false;
    qp_tensor y =
        qp_session_feed(other, qp_from(ctx, QP_I32, 2, (int64_t[]){1, 3}, ids + FED), (qp_feed){.rows = &row});
    if (qp_failed(ctx) || qp_read(y, QP_F32, logits, 17) != QP_OK) return false;
    if (expected[0] == 0) memcpy(expected, logits, sizeof logits);
    if (memcmp(expected, logits, sizeof logits)) fail_msg("another row");
    return true;
}

static bool floats(qp_ctx *ctx) { return through_a_file(ctx, QP_F32); }
static bool halves(qp_ctx *ctx) { return through_a_file(ctx, QP_BF16); }

static void memory(void **state) {
    (void)state;
    in_turn(floats, 1, NULL, NULL);
    expected[0] = 0;
    in_turn(halves, 1, NULL, NULL);
    remove(path);
}
#endif

static int begin(void **state) {
    (void)state;
    snprintf(path, sizeof path, P_tmpdir "/quipu-snapshot-%ld.safetensors", (long)getpid());
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(there_and_back), cmocka_unit_test(no_rows),
        cmocka_unit_test(empty_model),    cmocka_unit_test(foreign_types),
#if FAULTS
        cmocka_unit_test(memory),
#endif
    };
    return cmocka_run_group_tests(tests, begin, NULL);
}
