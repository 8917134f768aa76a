/* Every call of the heap and of the operating system fails in turn: a clean error or success,
 * nothing leaks, no file is left half written. */
#include "support.h"

#include "format/events.h"
#include "format/gguf.h"
#include "format/json.h"
#include "format/json_stream.h"
#include "format/reader.h"
#include "format/writer.h"
#include "in_turn.h"
#include "quipu/ops.h"

#if FAULTS

static char folder[200], path[300];

static qp_tensor ones(qp_ctx *ctx, int64_t n) { return qp_full(ctx, QP_F32, 1, (int64_t[]){n}, 1); }

static bool save_one(qp_ctx *ctx) {
    qp_named list[] = {{"a", ones(ctx, 5)}, {"b", ones(ctx, 3)}};
    return qp_file_save(ctx, path, 2, list, (qp_save_options){0}) == QP_OK;
}

/* The target is whole, old or new, and nothing lies beside it. */
static void check_saved(bool succeeded) {
    (void)succeeded;
    qp_ctx  *ctx = qp_open((qp_options){.threads = 1});
    qp_file *f = qp_file_open(ctx, path, (qp_file_options){0});
    expect_ok(ctx);
    assert_int_equal(qp_file_count(f), 2);
    qp_file_close(f);
    qp_close(ctx);
    assert_int_equal(files_in(folder), 1);
}

static void saving(void **state) {
    (void)state;
    in_turn(save_one, 1, NULL, check_saved);
}

static bool save_shards(qp_ctx *ctx) {
    qp_named list[] = {{"a", ones(ctx, 5)}, {"b", ones(ctx, 3)}};
    return qp_file_save(ctx, path, 2, list, (qp_save_options){.shard_bytes = 8}) == QP_OK;
}

static void check_no_rest(bool succeeded) {
    DIR *d = opendir(folder);
    for (struct dirent *x; (x = readdir(d));)
        if (strstr(x->d_name, ".tmp")) fail_msg("%s was left", x->d_name);
    closedir(d);
    if (succeeded) assert_int_equal(files_in(folder), 3);
}

static bool load_all(qp_ctx *ctx) {
    bool ok = true;
    for (int way = 0; ok && way < 4; way++) {
        qp_file *f = qp_file_open(ctx, way & 2 ? folder : path, (qp_file_options){.in_memory = way & 1});
        for (int64_t i = 0; i < qp_file_count(f); i++) qp_file_load(ctx, f, qp_file_at(f, i).name, way & 1);
        ok = f && !qp_failed(ctx);
        qp_file_close(f);
    }
    return ok;
}

static bool open_only(qp_ctx *ctx) {
    qp_file *f = qp_file_open(ctx, path, (qp_file_options){0});
    bool     ok = f;
    qp_file_close(f);
    return ok;
}

static void loading(void **state) {
    (void)state;
    qp_ctx *ctx = qp_open((qp_options){.threads = 1});
    assert_true(save_one(ctx));
    qp_close(ctx);
    in_turn(load_all, 1, NULL, NULL);
}

static void sharding(void **state) {
    (void)state;
    qpi_folder_remove(folder);
    assert_int_equal(mkdir(folder, 0700), 0);
    in_turn(save_shards, 1, NULL, check_no_rest);
    char single[300];
    snprintf(single, sizeof single, "%s", path);
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", folder);
    in_turn(load_all, 1, NULL, NULL);
    snprintf(path, sizeof path, "%s", single);
}

static void no_state(void) {
    char target[300];
    snprintf(target, sizeof target, "%s/state", folder);
    qpi_folder_remove(target);
}

static bool whole_folder(qp_ctx *ctx) {
    qpi_error  e = {0};
    qpi_folder f;
    char       target[300];
    snprintf(target, sizeof target, "%s/state", folder);
    bool ok = qpi_folder_open(&f, target, &e);
    if (ok) {
        char *file = qpi_folder_at(&f, "x.json");
        ok = file && qpi_write_file(file, "{}", 2, &e);
        free(file);
        if (ok) ok = qpi_folder_finish(&f);
        else qpi_folder_abort(&f);
    }
    if (e.code) qp_fail(ctx, e.code, "%s", e.text);
    return ok;
}

static void check_folder(bool succeeded) {
    char target[300];
    snprintf(target, sizeof target, "%s/state", folder);
    int n = files_in(target);
    assert_true(n == 0 || n == 1);
    if (succeeded) assert_int_equal(n, 1);
    assert_int_equal(files_in(folder), access(target, F_OK) == 0 ? 1 : 0);
}

static void folders(void **state) {
    (void)state;
    qpi_folder_remove(folder);
    assert_int_equal(mkdir(folder, 0700), 0);
    in_turn(whole_folder, 1, no_state, check_folder);
}

/* A link is there always, and names what it named or what it shall name. */
static bool link_state(qp_ctx *ctx) {
    char      target[300];
    qpi_error e = {0};
    snprintf(target, sizeof target, "%s/latest", folder);
    bool ok = qpi_write_link(target, "new", &e);
    if (e.code) qp_fail(ctx, e.code, "%s", e.text);
    return ok;
}

static void check_link(bool succeeded) {
    char target[300], named[8] = "";
    snprintf(target, sizeof target, "%s/latest", folder);
    assert_int_equal(readlink(target, named, sizeof named), 3);
    assert_true(!strcmp(named, "new") || (!succeeded && !strcmp(named, "old")));
    assert_int_equal(files_in(folder), 1);
    unlink(target);
    assert_int_equal(symlink("old", target), 0);
}

static void links(void **state) {
    (void)state;
    qpi_folder_remove(folder);
    assert_int_equal(mkdir(folder, 0700), 0);
    in_turn(link_state, 1, NULL, check_link);
}

/* Other reasons: file systems that cannot sync folders (EINVAL), names that are taken (EEXIST). */
static void reasons(void **state) {
    (void)state;
    static const int errors[] = {EINVAL, EEXIST, ENOTDIR, EINTR};
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++) {
        atomic_store(&faults_error, errors[i]);
        qpi_folder_remove(folder);
        assert_int_equal(mkdir(folder, 0700), 0);
        in_turn(whole_folder, 1, no_state, check_folder);
        qpi_folder_remove(folder);
        assert_int_equal(mkdir(folder, 0700), 0);
        in_turn(save_one, 1, NULL, NULL);
    }
    atomic_store(&faults_error, 0);
}

/* Files that are said to be larger than they are, or than memory can be. */
static void wrong_sizes(void **state) {
    (void)state;
    qpi_error e = {0};
    assert_true(qpi_write_file(path, "{}", 2, &e));
    static const struct {
        long long   size;
        const char *words;
    } cases[] = {{3, "offset 2: expected 3 bytes, the file shrank"},
                 {INT64_MAX, "more than this machine can address"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        atomic_store(&faults_size, cases[i].size);
        assert_null(qpi_json_load(path, &e));
        expect_failure(&e, QP_ERR_IO, cases[i].words);
    }
    atomic_store(&faults_size, 0);
}

/* Names of unfinished files that other processes have left: another one is taken, but not for ever. */
static void taken_names(void **state) {
    (void)state;
    char      name[400];
    qpi_error e = {0};
    for (int most = 4000; most >= 0; most -= 4000) {
        for (int i = 0; i < 5000; i++) {
            snprintf(name, sizeof name, "%s.%ld-%d.tmp", path, (long)getpid(), i);
            int fd =
                i < most || i % 2 ? (int)syscall(SYS_openat, AT_FDCWD, name, O_CREAT | O_WRONLY, 0600) : -1;
            if (fd >= 0) syscall(SYS_close, fd);
            else unlink(name);
        }
        assert_int_equal(qpi_write_file(path, "x", 1, &e), most == 0);
        if (most) expect_failure(&e, QP_ERR_IO, "model.safetensors: cannot create");
        qpi_folder f;
        assert_int_equal(qpi_folder_open(&f, path, &e), most == 0);
        if (most) expect_failure(&e, QP_ERR_IO, "cannot make the folder");
        else qpi_folder_abort(&f);
    }
    qpi_folder_remove(folder);
    assert_int_equal(mkdir(folder, 0700), 0);
}

static bool events(qp_ctx *ctx) {
    static const double limits[] = {0, 1}, counts[] = {2, 3};
    qpi_histogram       h = {.limits = limits, .counts = counts, .classes = 2};
    bool                ok = true;
    for (int i = 0; ok && i < 5; i++) {
        qpi_buffer out = {0};
        ok = i == 0   ? qpi_events_version(&out, 1)
             : i == 1 ? qpi_events_start(&out, 1, 7)
             : i == 2 ? qpi_events_scalar(&out, 1, 7, "a tag", 3)
             : i == 3 ? qpi_events_text(&out, 1, 7, "a tag", "a text that is longer than the first buffer")
                      : qpi_events_histogram(&out, 1, 7, "a tag", &h);
        assert_true(ok != out.failed || !ok);
        qpi_buffer_free(&out);
    }
    if (!ok) qp_fail(ctx, QP_ERR_MEMORY, "out of memory");
    return ok;
}

static void of_events(void **state) {
    (void)state;
    in_turn(events, 1, NULL, NULL);
}

/* A tensor that is not as it lies in memory, and names, types and shapes longer than what is taken from
 * the system at once. */
enum { WIDE = 40000 };
static bool save_wide(qp_ctx *ctx) {
    static char name[300000]; /* longer than the writer's buffer, as are the turned tensor's bytes */
    memset(name, 'n', sizeof name - 1);
    qp_tensor x = qp_reshape(qp_arange(ctx, QP_F32, 2 * WIDE), 2, (int64_t[]){2, WIDE});
    qp_named  list[] = {{"turned", qp_transpose(x, 0, 1)}, {name, ones(ctx, 3)}, {"b", ones(ctx, 20000)}};
    return qp_file_save(ctx, path, 3, list, (qp_save_options){0}) == QP_OK;
}

static void wide(void **state) {
    (void)state;
    static char header[400000], shape[300000], type[70001];
    qpi_error   e = {0};
    in_turn(save_wide, 1, NULL, NULL);
    qp_ctx      *ctx = qp_open((qp_options){.threads = 1});
    qp_file     *f = qp_file_open(ctx, path, (qp_file_options){0});
    static float x[2 * WIDE];
    assert_int_equal(qp_read(qp_file_load(ctx, f, "turned", false), QP_F32, x, 2 * WIDE), QP_OK);
    for (int i = 0; i < WIDE; i++) assert_true(x[2 * i] == i && x[2 * i + 1] == i + WIDE);
    qp_file_close(f);
    qp_close(ctx);
    in_turn(load_all, 1, NULL, NULL);
    for (size_t i = 0; i < 40000; i++) memcpy(shape + 2 * i, i ? ",1" : " 1", 2);
    memset(type, 'T', 70000);
    uint64_t n =
        8 + (uint64_t)snprintf(header + 8, 90000,
                               "{\"a\":{\"dtype\":\"F32\",\"shape\":[%s],\"data_offsets\":[0,4]}}", shape);
    memcpy(header, &(uint64_t){n - 8}, 8);
    memset(header + n, 0, 4);
    assert_true(qpi_write_file(path, header, n + 4, &e));
    ctx = qp_open((qp_options){.threads = 1});
    f = qp_file_open(ctx, path, (qp_file_options){0});
    expect_ok(ctx);
    assert_false(qp_file_at(f, 0).loadable);
    qp_file_close(f);
    qp_close(ctx);
    in_turn(open_only, 1, NULL, NULL);
    n = 8 + (uint64_t)snprintf(header + 8, 90000,
                               "{\"a\":{\"dtype\":\"%s\",\"shape\":[1],\"data_offsets\":[0,4]}}", type);
    memcpy(header, &(uint64_t){n - 8}, 8);
    assert_true(qpi_write_file(path, header, n + 4, &e));
    in_turn(open_only, 1, NULL, NULL);
}

/* A GGUF file with values of all kinds, read and written again. */
static const void *zeros_of(void *user, int64_t i) {
    static const uint8_t zeros[300000]; /* longer than the writer's buffer */
    (void)user, (void)i;
    return zeros;
}

static bool copy_gguf(qp_ctx *ctx) {
    static const qpi_gguf_tensor tensors[] = {{"a", QP_F32, 1, {75000}}, {"b", QP_F32, 2, {2, 3}}};
    qpi_gguf_pairs               pairs = {0};
    qpi_error                    e = {0};
    const qpi_gguf_value        *v;
    char                         copy[320];
    qp_file                     *f = qp_file_open(ctx, path, (qp_file_options){0});
    for (size_t i = 0; (v = qpi_gguf_at(f, i)); i++) qpi_gguf_put_value(&pairs, v);
    snprintf(copy, sizeof copy, "%s.copy", path);
    bool ok = f && qpi_gguf_save(copy, &pairs, 2, tensors, zeros_of, NULL, &e);
    if (e.code) qp_fail(ctx, e.code, "%s", e.text);
    qpi_gguf_pairs_free(&pairs);
    qp_file_close(f);
    return ok;
}

static void put_number(qpi_buffer *b, uint64_t x, size_t bytes) { assert_true(qpi_buffer_put(b, &x, bytes)); }

static void put_name(qpi_buffer *b, const char *text, size_t n) {
    put_number(b, n, 8);
    assert_true(qpi_buffer_put(b, text, n));
}

/* So many pairs and tensors that each table grows while the file is read, and what is kept of them needs
 * memory anew at any of its parts: at which, is a matter of `shift`. */
static void write_gguf(size_t shift) {
    enum { PAIRS = 40, TENSORS = 200 };
    static char text[70000];
    char        name[32];
    qpi_error   e = {0};
    qpi_buffer  b = {0};
    memset(text, 't', sizeof text);
    qpi_put_text(&b, "GGUF");
    put_number(&b, 3, 4);
    put_number(&b, TENSORS, 8);
    put_number(&b, PAIRS, 8);
    for (size_t i = 0; i < PAIRS; i++) {
        snprintf(name, sizeof name, "k%zu", i);
        put_name(&b, name, strlen(name));
        put_number(&b, i < 2 ? QPI_GGUF_TEXT : QPI_GGUF_U32, 4);
        if (i < 2) put_name(&b, text, 60000 + 8 * shift);
        else put_number(&b, i, 4);
    }
    for (size_t i = 0; i < TENSORS; i++) {
        snprintf(name, sizeof name, "t%zu", i);
        put_name(&b, name, strlen(name));
        put_number(&b, 1, 4);
        put_number(&b, 3, 8);
        put_number(&b, 99, 4); /* no known type */
        put_number(&b, 0, 8);
    }
    assert_true(qpi_write_file(path, b.data, b.count, &e));
    qpi_buffer_free(&b);
}

static void gguf(void **state) {
    (void)state;
    for (size_t shift = 0; shift < 4; shift++) {
        write_gguf(shift);
        in_turn(copy_gguf, 1, NULL, NULL);
    }
}

static bool trees(qp_ctx *ctx) {
    static const char        text[] = "{\"a\": [1, 2.5, {\"b\": \"text\", \"c\": null}], \"d\": true}";
    static const char *const strings[] = {
        "\"\\n\"", "\"a longer run before an escape\\t, and behind it one that is longer still\""};
    qpi_error  e = {0};
    qpi_buffer out = {0};
    json_t    *tree = qpi_json_parse("D", text, sizeof text - 1, &e);
    bool       ok = tree && qpi_json_print(&out, tree, 2);
    if (tree && !ok) qpi_fail_memory(&e, "D");
    ok = ok && qpi_json_save(path, tree, 0, &e);
    json_decref(tree);
    qpi_buffer_free(&out);
    tree = ok ? qpi_json_load(path, &e) : NULL;
    ok = ok && tree;
    json_decref(tree);
    for (int i = 0; ok && i < 2; i++) {
        qpi_span   escaped;
        qpi_stream s = qpi_stream_over("D", strings[i], strlen(strings[i]), &e);
        ok = qpi_stream_string(&s, &escaped) && escaped.size == strlen(strings[i]) - 3;
        qpi_stream_free(&s);
    }
    if (e.code) qp_fail(ctx, e.code, "%s", e.text);
    return ok;
}

static void json(void **state) {
    (void)state;
    in_turn(trees, 1, NULL, NULL);
}

static int begin(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "%s", temporary("faults"));
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    return mkdir(folder, 0700);
}

static int end(void **state) {
    (void)state;
    qpi_folder_remove(folder);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(saving),      cmocka_unit_test(loading),     cmocka_unit_test(sharding),
        cmocka_unit_test(folders),     cmocka_unit_test(json),        cmocka_unit_test(reasons),
        cmocka_unit_test(wrong_sizes), cmocka_unit_test(taken_names), cmocka_unit_test(of_events),
        cmocka_unit_test(wide),        cmocka_unit_test(gguf),        cmocka_unit_test(links),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
#else
int main(void) { return 0; }
#endif
