/* Every call of the heap and of the operating system fails in turn: a clean error or success,
 * nothing leaks, no file is left half written. */
#include "support.h"

#include "format/json.h"
#include "format/reader.h"
#include "format/writer.h"
#include "in_turn.h"

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

static bool whole_folder(qp_ctx *ctx) {
    qpi_error  e = {0};
    qpi_folder f;
    char       target[300];
    snprintf(target, sizeof target, "%s/state", folder);
    qpi_folder_remove(target);
    bool ok = qpi_folder_open(&f, target, &e);
    if (ok) {
        char *file = qpi_folder_at(&f, "x.json");
        ok = file && qpi_write_file(file, "{}", 2, &e);
        free(file);
        if (ok)
            ok = qpi_folder_finish(&f);
        else
            qpi_folder_abort(&f);
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
    in_turn(whole_folder, 1, NULL, check_folder);
}

static bool trees(qp_ctx *ctx) {
    static const char text[] = "{\"a\": [1, 2.5, {\"b\": \"text\", \"c\": null}], \"d\": true}";
    qpi_error         e = {0};
    qpi_buffer        out = {0};
    json_t           *tree = qpi_json_parse("D", text, sizeof text - 1, &e);
    bool              ok = tree && qpi_json_print(&out, tree, 2);
    if (tree && !ok) qpi_fail_memory(&e, "D");
    ok = ok && qpi_json_save(path, tree, 0, &e);
    json_decref(tree);
    qpi_buffer_free(&out);
    tree = ok ? qpi_json_load(path, &e) : NULL;
    ok = ok && tree;
    json_decref(tree);
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
        cmocka_unit_test(saving),  cmocka_unit_test(loading), cmocka_unit_test(sharding),
        cmocka_unit_test(folders), cmocka_unit_test(json),
    };
    return cmocka_run_group_tests(tests, begin, end);
}
#else
int main(void) { return 0; }
#endif
