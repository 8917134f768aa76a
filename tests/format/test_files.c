/* The reader, the writer, checksums, paths. */
#include "support.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <sys/stat.h>

#include "format/buffer.h"
#include "format/checksum.h"
#include "format/names.h"
#include "format/os.h"
#include "format/reader.h"
#include "format/utf8.h"
#include "format/writer.h"
#include "quipu/ops.h"

static void reading(void **state) {
    (void)state;
    const uint8_t data[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
    qpi_error     e = {0};
    qpi_reader    r = qpi_reader_over("F", data, sizeof data, &e);
    assert_int_equal(qpi_read_u8(&r, "x"), 1);
    assert_int_equal(qpi_read_u8(&r, "x"), 2);
    assert_int_equal(qpi_read_u8(&r, "x"), 3);
    assert_int_equal(qpi_read_u32(&r, "x"), 0x07060504);
    assert_true(qpi_read_u64(&r, "x") == UINT64_C(0x0F0E0D0C0B0A0908));
    assert_int_equal(qpi_reader_left(&r), 1);
    assert_int_equal(qpi_read_u32(&r, "size of a page"), 0);
    assert_true(r.failed);
    assert_int_equal(qpi_read_u8(&r, "x"), 0);
    expect_failure(&e, QP_ERR_FORMAT, "F: offset 15: expected 4 bytes (size of a page), found 1 to the end");

    r = qpi_reader_over("F", data, sizeof data, &e);
    assert_non_null(qpi_read_span(&r, 16, "x"));
    assert_non_null(qpi_read_span(&r, 0, "x"));
    r = qpi_reader_over("F", data, sizeof data, &e);
    assert_null(qpi_read_span(&r, UINT64_MAX, "x"));
    expect_failure(&e, QP_ERR_FORMAT, "expected 18446744073709551615 bytes");
}

static void opening(void **state) {
    (void)state;
    qpi_error   e = {0};
    const char *path = temporary("file"), *empty = temporary("empty"), *pipe = temporary("pipe");
    write_text(path, "hello");
    write_text(empty, "");
    assert_int_equal(mkfifo(pipe, 0600), 0);
    for (int mode = QPI_MAP; mode <= QPI_READ; mode++) {
        qpi_bytes *b = qpi_bytes_open(path, (qpi_open_mode)mode, &e);
        assert_non_null(b);
        assert_int_equal(b->size, 5);
        assert_memory_equal(b->data, "hello", 5);
        assert_string_equal(b->path, path);
        assert_int_equal((uintptr_t)b->data % 64, 0);
        qpi_bytes_retain(b);
        qpi_bytes_release(b);
        assert_memory_equal(b->data, "hello", 5);
        qpi_bytes_release(b);
        b = qpi_bytes_open(empty, (qpi_open_mode)mode, &e);
        assert_non_null(b->data);
        assert_int_equal(b->size, 0);
        qpi_bytes_release(b);
        assert_null(qpi_bytes_open(P_tmpdir, (qpi_open_mode)mode, &e));
        expect_failure(&e, QP_ERR_IO, P_tmpdir ": expected a regular file, found a folder");
        assert_null(qpi_bytes_open(pipe, (qpi_open_mode)mode, &e));
        expect_failure(&e, QP_ERR_IO, "found a device or pipe");
        assert_null(qpi_bytes_open("/nowhere/at/all", (qpi_open_mode)mode, &e));
        expect_failure(&e, QP_ERR_IO, "/nowhere/at/all: cannot open: No such file");
    }
    qpi_bytes_release(NULL);
    remove(path);
    remove(empty);
    remove(pipe);
}

/* Values of the reference implementation. */
static void checksums(void **state) {
    (void)state;
    const struct {
        const char *text;
        uint64_t    sum;
    } known[] = {
        {"", UINT64_C(0xEF46DB3751D8E999)},
        {"a", UINT64_C(0xD24EC4F1A98C6E5B)},
        {"abc", UINT64_C(0x44BC2CF5AD770999)},
        {"Nobody inspects the spammish repetition", UINT64_C(0xFBCEA83C8A378BF1)},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        assert_true(qpi_checksum_of(0, known[i].text, strlen(known[i].text)) == known[i].sum);
    uint8_t data[200];
    for (size_t i = 0; i < sizeof data; i++) data[i] = (uint8_t)(7 * i);
    for (size_t n = 0; n <= sizeof data; n++)
        for (size_t cut = 0; cut <= n; cut += 1 + n / 9) {
            qpi_checksum c;
            qpi_checksum_begin(&c, 3);
            qpi_checksum_add(&c, data, cut);
            qpi_checksum_add(&c, data + cut, n - cut);
            assert_true(qpi_checksum_end(&c) == qpi_checksum_of(3, data, n));
        }
}

static int files_in(const char *folder) {
    int  n = 0;
    DIR *d = opendir(folder);
    assert_non_null(d);
    for (struct dirent *x; (x = readdir(d));) n += x->d_name[0] != '.';
    closedir(d);
    return n;
}

static void writing(void **state) {
    (void)state;
    qpi_error   e = {0};
    qpi_writer  w;
    size_t      n;
    const char *folder = temporary("folder");
    char        path[400];
    assert_int_equal(mkdir(folder, 0700), 0);
    snprintf(path, sizeof path, "%s/file", folder);
    assert_true(qpi_writer_open(&w, path, &e));
    assert_true(qpi_write(&w, "abc", 3));
    assert_int_equal(access(path, F_OK), -1);
    assert_true(qpi_write(&w, "", 0));
    assert_true(qpi_writer_finish(&w));
    assert_false(qpi_writer_finish(&w)); /* it is finished */
    assert_false(qpi_write(&w, "more", 4));
    qpi_writer_abort(&w);
    assert_true(qpi_checksum_end(&w.checksum) == qpi_checksum_of(0, "abc", 3));
    char *data = read_bytes(path, &n);
    assert_string_equal(data, "abc");
    free(data);

    size_t big = (size_t)3 << 20;
    char  *block = calloc(1, big);
    assert_true(qpi_writer_open(&w, path, &e));
    for (size_t size = 1; size < big; size *= 3) assert_true(qpi_write(&w, block, size));
    assert_true(qpi_write(&w, block, big));
    qpi_writer_abort(&w);
    assert_int_equal(files_in(folder), 1);
    data = read_bytes(path, &n);
    assert_string_equal(data, "abc");
    free(data);
    assert_true(qpi_write_file(path, block, big, &e));
    data = read_bytes(path, &n);
    assert_int_equal(n, big);
    free(data);
    free(block);

    assert_false(qpi_write_file("/nowhere/file", "x", 1, &e));
    expect_failure(&e, QP_ERR_IO, "/nowhere/file: cannot create");
    assert_false(qpi_write_file(folder, "x", 1, &e));
    expect_failure(&e, QP_ERR_IO, "expected a regular file or none, found a folder");
    assert_int_equal(files_in(folder), 1);
    remove(path);
    remove(folder);
}

/* What is no file stays what it is; a link stays one, and what it leads to is written. */
static void replaced(void **state) {
    (void)state;
    qpi_error   e = {0};
    const char *folder = temporary("replaced");
    char        pipe[400], link[400], file[400];
    struct stat s;
    size_t      n;
    assert_int_equal(mkdir(folder, 0700), 0);
    snprintf(pipe, sizeof pipe, "%s/pipe", folder);
    snprintf(link, sizeof link, "%s/link", folder);
    snprintf(file, sizeof file, "%s/file", folder);
    assert_int_equal(mkfifo(pipe, 0600), 0);
    assert_false(qpi_write_file(pipe, "x", 1, &e));
    expect_failure(&e, QP_ERR_IO, "expected a regular file or none, found a device or pipe");
    assert_true(stat(pipe, &s) == 0 && S_ISFIFO(s.st_mode));
    assert_int_equal(symlink(pipe, link), 0);
    assert_false(qpi_write_file(link, "x", 1, &e));
    expect_failure(&e, QP_ERR_IO, "found a device or pipe");
    assert_int_equal(remove(link), 0);

    assert_true(qpi_write_file(file, "old", 3, &e));
    assert_int_equal(symlink("file", link), 0);
    assert_true(qpi_write_file(link, "new", 3, &e));
    assert_true(lstat(link, &s) == 0 && S_ISLNK(s.st_mode));
    char *data = read_bytes(file, &n);
    assert_true(n == 3 && !memcmp(data, "new", 3));
    free(data);
    remove(file); /* now it leads to nothing, and makes room */
    assert_true(qpi_write_file(link, "x", 1, &e));
    assert_true(lstat(link, &s) == 0 && S_ISREG(s.st_mode));
    assert_int_equal(files_in(folder), 2);
    qpi_folder_remove(folder);
}

static void folders(void **state) {
    (void)state;
    qpi_error   e = {0};
    qpi_folder  f;
    const char *target = temporary("target");
    assert_true(qpi_folder_open(&f, target, &e));
    for (int i = 0; i < 2; i++) {
        char *path = qpi_folder_at(&f, i ? "b" : "a");
        assert_true(qpi_write_file(path, "x", 1, &e));
        free(path);
    }
    assert_int_equal(access(target, F_OK), -1);
    assert_true(qpi_folder_finish(&f));
    qpi_folder_abort(&f);
    assert_int_equal(files_in(target), 2);

    assert_true(qpi_folder_open(&f, target, &e));
    char *path = qpi_folder_at(&f, "c"), *temporary_folder = strdup(f.temporary);
    assert_true(qpi_write_file(path, "x", 1, &e));
    free(path);
    assert_false(qpi_folder_finish(&f));
    expect_failure(&e, QP_ERR_IO, "exists already");
    assert_int_equal(access(temporary_folder, F_OK), -1);
    assert_int_equal(files_in(target), 2);
    free(temporary_folder);
    assert_false(qpi_folder_open(&f, "/nowhere/x", &e));
    expect_failure(&e, QP_ERR_IO, "cannot make the folder");
    qpi_folder_remove(target);
    assert_int_equal(access(target, F_OK), -1);
}

/* What fails on the way leaves the old file, and nothing beside it. */
static void failing(void **state) {
    (void)state;
    qpi_error   e = {0};
    qpi_writer  w;
    qpi_folder  f;
    const char *folder = temporary("failing");
    char        path[400], target[400];
    assert_int_equal(mkdir(folder, 0700), 0);
    snprintf(path, sizeof path, "%s/file", folder);
    snprintf(target, sizeof target, "%s/made", folder);
    assert_true(qpi_writer_open(&w, path, &e));
    close(w.fd); /* what is written now fails, and so does closing */
    static char block[(size_t)300 << 10];
    assert_false(qpi_write(&w, block, 1) && qpi_write(&w, block, sizeof block));
    expect_failure(&e, QP_ERR_IO, "cannot write");
    assert_false(qpi_write(&w, block, 1));
    assert_false(qpi_writer_finish(&w));
    assert_false(qpi_writer_finish(&w));
    e = (qpi_error){0};
    assert_true(qpi_writer_open(&w, path, &e));
    unlink(w.temporary); /* there is nothing to rename */
    assert_false(qpi_writer_finish(&w));
    expect_failure(&e, QP_ERR_IO, "cannot rename");
    assert_true(qpi_folder_open(&f, target, &e));
    qpi_folder_remove(f.temporary);
    assert_false(qpi_folder_finish(&f));
    assert_false(qpi_folder_finish(&f));
    e = (qpi_error){0};
    snprintf(target, sizeof target, "%s///", folder); /* beside the folder, not in it */
    assert_true(qpi_folder_open(&f, target, &e));
    assert_null(strstr(f.temporary + strlen(folder), "/"));
    qpi_folder_abort(&f);
    assert_true(qpi_write_file(path, "x", 1, &e));
    assert_true(qpi_folder_open(&f, path, &e));
    assert_false(qpi_folder_finish(&f));
    expect_failure(&e, QP_ERR_IO, "exists already");
    unlink(path);
    assert_int_equal(files_in(folder), 0);

    snprintf(path, sizeof path, "%s/link", folder);
    assert_true(qpi_write_link(path, "one", &e) && qpi_write_link(path, "two", &e));
    char text[8] = "";
    assert_int_equal(readlink(path, text, sizeof text), 3);
    assert_string_equal(text, "two");
    unlink(path);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_false(qpi_write_link(path, "three", &e));
    expect_failure(&e, QP_ERR_IO, "cannot replace");
    assert_false(qpi_write_link("/nowhere/link", "x", &e));
    expect_failure(&e, QP_ERR_IO, "cannot make the link");
    assert_int_equal(files_in(folder), 1);
    qpi_folder_remove(folder);
}

static void temporary_names(void **state) {
    (void)state;
    static const char *const yes[] = {"step-3.12-0.tmp", "a.1-2.tmp"};
    static const char *const no[] = {"",           "a.tmp",        "step-3.tmp", "12-0.tmp-",
                                     "x12-0.tmp",  "longname.tmp", "a.1-x.tmp",  "a.b-1.tmp",
                                     "a.1-2x.tmp", "a-1.1.tmp"};
    for (size_t i = 0; i < sizeof yes / sizeof *yes; i++) assert_true(qpi_name_is_temporary(yes[i]));
    for (size_t i = 0; i < sizeof no / sizeof *no; i++)
        if (qpi_name_is_temporary(no[i])) fail_msg("%s", no[i]);
}

static void paths_and_names(void **state) {
    (void)state;
    const char *const folders[][2] = {{"a/b", "a"},  {"b", "."},    {"/b", "/"},
                                      {"a/b/", "a"}, {"a//b", "a"}, {"/", "/"}};
    qpi_error         e = {0};
    char              out[QPI_SHOWN], *p;
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        p = qpi_path_folder(folders[i][0], &e);
        assert_string_equal(p, folders[i][1]);
        free(p);
    }
    p = qpi_path_join("a/", "b", &e);
    assert_string_equal(p, "a/b");
    free(p);
    assert_true(qpi_name_is_plain("model-00001.safetensors"));
    for (int i = 0; i < 6; i++)
        assert_false(qpi_name_is_plain((const char *[]){"", ".", "..", "a/b", "/a", "../a"}[i]));
    assert_string_equal(qpi_shown(out, "a\x1b[31m\n\x7f", 7), "a?[31m?");
    char long_text[300];
    for (int i = 0; i < 100; i++) memcpy(long_text + 3 * i, "\xE2\x82\xAC", 3);
    qpi_shown(out, long_text, 300);
    assert_true(strlen(out) < QPI_SHOWN && strlen(out) % 3 == 0);
}

static void tables(void **state) {
    (void)state;
    qpi_names t = {0};
    qpi_arena a = {0};
    uint32_t  before;
    assert_int_equal(qpi_names_find(&t, "x", 1), QPI_NO_NAME);
    for (uint32_t i = 0; i < 5000; i++) {
        char text[20];
        int  n = snprintf(text, sizeof text, "name %u", i);
        assert_true(qpi_names_add(&t, qpi_arena_text(&a, text, (size_t)n), (size_t)n, 3 * i, &before));
        assert_int_equal(before, QPI_NO_NAME);
    }
    assert_true(qpi_names_add(&t, "name 7", 6, 1, &before));
    assert_int_equal(before, 21);
    for (uint32_t i = 0; i < 5000; i++) {
        char text[20];
        int  n = snprintf(text, sizeof text, "name %u", i);
        assert_int_equal(qpi_names_find(&t, text, (size_t)n), 3 * i);
    }
    assert_int_equal(qpi_names_find(&t, "name", 4), QPI_NO_NAME);
    assert_int_equal(qpi_names_find(&t, "", 0), QPI_NO_NAME);
    qpi_names_replace(&t, "name 8", 6, 5);
    qpi_names_replace(&t, "name", 4, 6); /* is not there, and is not made */
    qpi_names_replace(&t, "name 8", UINT32_MAX, 7);
    assert_int_equal(qpi_names_find(&t, "name 8", 6), 5);
    assert_int_equal(qpi_names_find(&t, "name", 4), QPI_NO_NAME);
    qpi_names_free(&t);
    qpi_names_replace(&t, "name 8", 6, 5);
    assert_int_equal(qpi_names_find(&t, "name 8", 6), QPI_NO_NAME);
    qpi_arena_free(&a);

    qpi_buffer b = {0};
    assert_false(qpi_buffer_reserve(&b, SIZE_MAX));
    assert_true(qpi_buffer_put(&b, "abc", 3) && b.failed); /* which stays */
    assert_false(qpi_buffer_reserve(&b, SIZE_MAX - 1));
    assert_memory_equal(b.data, "abc", 3);
    qpi_buffer_free(&b);
}

/* Texts whose hashes agree in all that the table looks at are told apart. */
static void collisions(void **state) {
    (void)state;
    static const char *const pairs[][2] = {{"0600fb", "0cfc84"},
                                           {"5e276", "0ef334"}}; /* of one length, of two */
    for (int i = 0; i < 2; i++) {
        const char *a = pairs[i][0], *b = pairs[i][1];
        uint64_t    x = qpi_checksum_of(1, a, strlen(a)), y = qpi_checksum_of(1, b, strlen(b));
        uint32_t    before;
        assert_true(x >> 32 == y >> 32 && x % 16 == y % 16);
        qpi_names t = {.seed = 1};
        assert_true(qpi_names_add(&t, a, strlen(a), 3, &before) && before == QPI_NO_NAME);
        assert_int_equal(qpi_names_find(&t, b, strlen(b)), QPI_NO_NAME);
        assert_true(qpi_names_add(&t, b, strlen(b), 4, &before) && before == QPI_NO_NAME);
        assert_int_equal(qpi_names_find(&t, a, strlen(a)), 3);
        assert_int_equal(qpi_names_find(&t, b, strlen(b)), 4);
        assert_int_equal(t.slot_count, 16);
        qpi_names_free(&t);
    }
}

/* Every code point, and the shortest wrong forms. */
static void utf8(void **state) {
    (void)state;
    uint32_t code = 0;
    for (uint32_t c = 0; c <= 0x10FFFF; c++) {
        char   text[4];
        size_t n = qpi_utf8_encode(c, text);
        bool   surrogate = c >= 0xD800 && c < 0xE000;
        assert_int_equal(qpi_utf8_decode(text, n, &code), surrogate ? 0 : n);
        if (surrogate) continue;
        assert_int_equal(code, c);
        assert_int_equal(qpi_utf8_valid(text, n - 1), 0);
        for (size_t k = 1; k < n; k++) assert_int_equal(qpi_utf8_cut(text, k), k);
        assert_int_equal(qpi_utf8_cut(text, n), 0);
    }
    const char *const wrong[] = {"\x80",
                                 "\xC0\x80",
                                 "\xC1\xBF",
                                 "\xE0\x80\x80",
                                 "\xE0\x9F\xBF",
                                 "\xF0\x80\x80\x80",
                                 "\xF0\x8F\xBF\xBF",
                                 "\xF4\x90\x80\x80",
                                 "\xF5\x80\x80\x80",
                                 "\xFF",
                                 "\xC3(",
                                 "\xE2\x82("};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_int_equal(qpi_utf8_valid(wrong[i], strlen(wrong[i])), 0);
}

/* What is too large is refused before it is asked for. */
static void limits(void **state) {
    (void)state;
    size_t    capacity = 0;
    qpi_arena a = {0};
    qpi_names t = {0};
    uint32_t  before;
    char      text[100], shown[QPI_SHOWN];
    qpi_error e = {0};
    assert_null(qpi_grown(NULL, &capacity, SIZE_MAX / 8, 16));
    assert_null(qpi_arena_take(&a, PTRDIFF_MAX));
    assert_null(qpi_arena_text(&a, "x", PTRDIFF_MAX));
    assert_int_equal(qpi_names_find(&t, "x", 1), QPI_NO_NAME);
    qpi_names full = {.count = UINT32_MAX / 2};
    assert_false(qpi_names_add(&full, "x", 1, 4, &before));
    assert_true(qpi_names_add(&t, "x", 1, 4, &before));
    assert_false(qpi_names_add(&t, "x", UINT32_MAX, 4, &before));
    assert_int_equal(qpi_names_find(&t, "x", UINT32_MAX), QPI_NO_NAME);
    qpi_names_free(&t);
    qpi_arena_free(&a);
    memset(text, 0x80, sizeof text); /* no character to cut at */
    assert_true(strlen(qpi_shown(shown, text, sizeof text)) < QPI_SHOWN);
    errno = 99999;
    qpi_fail_os(&e, "F", "read");
    expect_failure(&e, QP_ERR_IO, "F: cannot read: ");
    char *joined = qpi_path_join("", "x", &e);
    assert_string_equal(joined, "/x");
    free(joined);
    qp_ctx *ctx = qp_open((qp_options){.threads = 1});
    assert_int_equal(qp_file_find(NULL, "x"), -1);
    assert_null(qp_file_meta(NULL, "x"));
    assert_false(qp_file_meta_at(NULL, 0, NULL, NULL));
    qp_file_load(ctx, NULL, "x", false);
    expect_error(ctx, QP_ERR_ARGUMENT, "no file: no tensor \"x\"");
    qp_named none = {"a", QP_NONE};
    assert_int_equal(qp_file_save(ctx, temporary("none.safetensors"), 1, &none, (qp_save_options){0}),
                     QP_ERR_STATE);
    expect_error(ctx, QP_ERR_STATE, "a is no tensor that is there");
    assert_int_equal(qp_file_save(ctx, "x", 0, NULL, (qp_save_options){0}), QP_ERR_ARGUMENT);
    qp_clear(ctx);
    qp_close(ctx);
}

/* A name without a folder is one in the working directory. */
static void relative_paths(void **state) {
    (void)state;
    qpi_error   e = {0};
    char        before[400];
    const char *folder = temporary("relative");
    assert_non_null(getcwd(before, sizeof before));
    assert_int_equal(mkdir(folder, 0700), 0);
    assert_int_equal(chdir(folder), 0);
    assert_true(qpi_write_file("f", "abc", 3, &e));
    assert_int_equal(access("f", F_OK), 0);
    assert_int_equal(files_in("."), 1);
    qp_ctx  *ctx = qp_open((qp_options){.threads = 1});
    qp_file *f = qp_file_open(ctx, "x", (qp_file_options){0});
    assert_null(f);
    expect_error(ctx, QP_ERR_IO, "x: cannot open");
    qp_named list[] = {{"a", qp_scalar(ctx, QP_F32, 1)}, {"b", qp_scalar(ctx, QP_F32, 2)}};
    assert_int_equal(qp_file_save(ctx, "m.safetensors", 2, list, (qp_save_options){.shard_bytes = 4}), QP_OK);
    f = qp_file_open(ctx, "m.safetensors.index.json", (qp_file_options){0});
    expect_ok(ctx);
    assert_true(qp_item(qp_file_load(ctx, f, "b", false)) == 2);
    qp_file_close(f);
    qp_close(ctx);
    assert_int_equal(chdir(before), 0);
    qpi_folder_remove(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(limits),          cmocka_unit_test(reading),        cmocka_unit_test(opening),
        cmocka_unit_test(checksums),       cmocka_unit_test(writing),        cmocka_unit_test(replaced),
        cmocka_unit_test(folders),         cmocka_unit_test(failing),        cmocka_unit_test(temporary_names),
        cmocka_unit_test(paths_and_names), cmocka_unit_test(tables),         cmocka_unit_test(utf8),
        cmocka_unit_test(collisions),      cmocka_unit_test(relative_paths),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
