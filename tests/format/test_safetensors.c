/* safetensors: what goes in comes out, and what hostile files get. */
#include "support.h"

#include <dirent.h>
#include <sys/stat.h>

#include "core/core.h"
#include "format/file.h"
#include "format/writer.h"
#include "quipu/ops.h"

/* header and data as a file; the length is the header's unless given. */
static void write_tensors(const char *path, const char *header, size_t data_bytes, int64_t length) {
    size_t   n = strlen(header);
    uint8_t *file = calloc(1, 8 + n + data_bytes);
    uint64_t size = length < 0 ? n : (uint64_t)length;
    for (int i = 0; i < 8; i++) file[i] = (uint8_t)(size >> 8 * i);
    memcpy(file + 8, header, n);
    for (size_t i = 0; i < data_bytes; i++) file[8 + n + i] = (uint8_t)i;
    write_bytes(path, file, 8 + n + data_bytes);
    free(file);
}

#define T(name, type, shape, begin, end) \
    "\"" name "\":{\"dtype\":\"" type "\",\"shape\":" shape ",\"data_offsets\":[" #begin "," #end "]}"

static const struct {
    const char *header;
    size_t      data;
    int64_t     length; /* -1: right */
    const char *words;  /* NULL: opens */
} files[] = {
    {"{}", 0, -1, NULL},
    {"{" T("a", "F32", "[2]", 0, 8) "}", 8, -1, NULL},
    {"{" T("a", "F32", "[2]", 0, 8) "}   ", 8, -1, NULL},
    {"{\"__metadata__\":{\"k\":\"v\"}," T("b", "U8", "[]", 8, 9) "," T("a", "F32", "[1,2]", 0, 8) "}", 9, -1,
     NULL},
    {"{" T("a", "F32", "[0,3]", 0, 0) "," T("b", "U8", "[1]", 0, 1) "," T("c", "I64", "[0]", 1, 1) "}", 1, -1,
     NULL},
    {"{" T("a", "Q9", "[77]", 0, 3) "}", 3, -1, NULL},
    {"{" T("a", "F4", "[2,3]", 0, 3) "}", 3, -1, NULL},
    {"{" T("a", "F32", "[1,1,1,1,1,1,1,1,1]", 0, 4) "}", 4, -1, NULL},
    {"{}", 0, 3, "offset 8: expected 3 bytes (header), found 2 to the end"},
    {"{}", 0, INT64_MAX, "offset 0: expected a header of at most 100000000 bytes"},
    {"{}", 1, -1, "offset 10: expected the end, found 1 bytes that belong to no tensor"},
    {"{", 0, -1, "expected a JSON object"},
    {"[]", 0, -1, "expected a safetensors file"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,\"4\"]}}", 4, -1, "expected two integers"},
    {"{ ", 0, -1, "line 1 column 3: expected a key, found the end"},
    {"{\"a\":1}", 0, -1, "a: expected an object, found an integer"},
    {"{\"a\":{}}", 0, -1, "a.dtype: missing"},
    {"{\"a\":{\"dtype\":5}}", 0, -1, "a.dtype: expected a string, found 5"},
    {"{\"a\":{\"dtype\":\"F32\"}}", 0, -1, "a.shape: missing"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2]}}", 0, -1, "a.data_offsets: missing"},
    {"{" T("a", "F32", "[-1]", 0, 4) "}", 4, -1, "a.shape[0]: expected a size"},
    {"{" T("a", "F32", "[1.5]", 0, 4) "}", 4, -1, "a.shape[0]: expected a size"},
    {"{" T("a", "F32", "{}", 0, 4) "}", 4, -1, "a.shape: expected an array, found an object"},
    {"{" T("a", "F32", "[2]", 0, 4) "}", 4, -1, "a: 4 bytes of data do not fit its shape"},
    {"{" T("a", "F32", "[4611686018427387904,4]", 0, 4) "}", 4, -1, "a: 4 bytes of data do not fit"},
    {"{" T("a", "F32", "[4294967296,4294967296,0]", 0, 0) "}", 0, -1, "do not fit"},
    {"{" T("a", "F4", "[3]", 0, 2) "}", 2, -1, "do not fit"},
    {"{" T("a", "F32", "[1]", 4, 0) "}", 4, -1, "a.data_offsets: expected 0 <= begin <= end <= 4"},
    {"{" T("a", "F32", "[1]", -4, 0) "}", 4, -1, "a.data_offsets: expected 0 <= begin"},
    {"{" T("a", "F32", "[2]", 0, 8) "}", 4, -1, "end <= 4 (bytes of data), found 0, 8"},
    {"{" T("a", "F32", "[1]", 0, 4.0) "}", 4, -1, "expected two integers"},
    {"{" T("a", "F32", "[1]", false, 4) "}", 4, -1, "expected two integers"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", 4, -1, "expected two integers"},
    {"{" T("a", "F32", "[1]", 4, 8) "}", 8, -1, "expected the data of \"a\" here"},
    {"{" T("a", "F32", "[1]", 0, 4) "," T("b", "F32", "[1]", 8, 12) "}", 12, -1,
     "expected the data of \"b\" here"},
    {"{" T("a", "F32", "[2]", 0, 8) "," T("b", "F32", "[1]", 4, 8) "}", 8, -1,
     "expected the data of \"b\" here"},
    {"{" T("a", "F32", "[1]", 0, 4) "," T("b", "F32", "[1]", 0, 4) "}", 4, -1, "expected the data of"},
    {"{" T("a", "F32", "[1]", 0, 4) "," T("a", "F32", "[1]", 4, 8) "}", 8, -1, "duplicate"},
    {"{\"__metadata__\":[]}", 0, -1, "__metadata__: expected an object"},
    {"{\"__metadata__\":{\"k\":1}}", 0, -1, "__metadata__.k: expected a string, found 1"},
};

static void hostile_files(void **state) {
    (void)state;
    qp_ctx     *ctx = qp_open((qp_options){.threads = 1});
    const char *path = temporary("hostile.safetensors");
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        for (int memory = 0; memory < 2; memory++) {
            write_tensors(path, files[i].header, files[i].data, files[i].length);
            qp_file *f = qp_file_open(ctx, path, (qp_file_options){.in_memory = memory});
            if (f && files[i].words) fail_msg("%s was opened", files[i].header);
            if (files[i].words) expect_error(ctx, QP_ERR_FORMAT, files[i].words);
            else expect_ok(ctx);
            qp_file_close(f);
        }
    const char *const short_files[] = {"", "1234567", "\x02\0\0\0\0\0\0\0", "GGML....x", "[]......[]"};
    for (int i = 0; i < 5; i++) {
        write_bytes(path, short_files[i], i == 2 ? 8 : strlen(short_files[i]));
        assert_null(qp_file_open(ctx, path, (qp_file_options){0}));
        expect_error(ctx, QP_ERR_FORMAT, "expected a safetensors file or GGUF");
    }
    remove(path);
    assert_null(qp_file_open(ctx, path, (qp_file_options){0}));
    expect_error(ctx, QP_ERR_IO, "cannot open");
    qp_close(ctx);
}

static void asking(void **state) {
    (void)state;
    qp_ctx     *ctx = qp_open((qp_options){.threads = 1});
    const char *path = temporary("asked.safetensors"), *key, *value;
    write_tensors(path,
                  "{\"__metadata__\":{\"k\":\"v\",\"l\":\"w\"}," T("b", "I32", "[3]", 8, 20) "," T(
                      "odd", "U8", "[1]", 20, 21) "," T("a", "F32", "[1,2]", 0,
                                                        8) "," T("x", "I16", "[1]", 21,
                                                                 23) "," T("u", "I32", "[1]", 23, 27) "}",
                  27, -1);
    qp_file *f = qp_file_open(ctx, path, (qp_file_options){0});
    expect_ok(ctx);
    assert_int_equal(qp_file_count(f), 5);
    assert_string_equal(qp_file_at(f, 0).name, "a");
    assert_string_equal(qp_file_at(f, 4).name, "u");
    assert_int_equal(qp_file_find(f, "odd"), 2);
    assert_int_equal(qp_file_find(f, "od"), -1);
    assert_null(qp_file_at(f, 5).name);
    assert_null(qp_file_at(f, -1).name);
    qp_file_entry e = qp_file_at(f, 0);
    assert_true(e.loadable && e.dtype == QP_F32 && e.ndim == 2 && e.shape[0] == 1 && e.shape[1] == 2 &&
                e.bytes == 8);
    e = qp_file_at(f, 3);
    assert_true(!e.loadable && !strcmp(e.type_name, "I16"));
    assert_string_equal(qp_file_meta(f, "l"), "w");
    assert_null(qp_file_meta(f, "m"));
    assert_true(qp_file_meta_at(f, 0, &key, &value) && !strcmp(key, "k") && !strcmp(value, "v"));
    assert_false(qp_file_meta_at(f, 2, &key, &value));
    qp_tensor b = qp_file_load(ctx, f, "b", false), c = qp_file_load(ctx, f, "b", true);
    qp_tensor u = qp_file_load(ctx, f, "u", false); /* not aligned: a copy */
    qp_file_load(ctx, f, "x", false);
    expect_error(ctx, QP_ERR_UNSUPPORTED, "tensor \"x\": dtype I16");
    qp_file_load(ctx, f, "y", false);
    expect_error(ctx, QP_ERR_ARGUMENT, "no tensor \"y\"");
    assert_false(qp_file_meta_at(f, -1, &key, &value));
    qp_file_close(f);
    int32_t x[3];
    for (int i = 0; i < 2; i++) {
        assert_int_equal(qp_read(i ? c : b, QP_I32, x, 3), QP_OK);
        assert_int_equal(x[0], 0x0B0A0908);
        assert_int_equal(x[2], 0x13121110);
    }
    assert_int_equal(qp_read(u, QP_I32, x, 1), QP_OK);
    assert_int_equal(x[0], 0x1A191817);
    assert_int_equal(qp_ndim(b), 1);
    write_tensors(path, "{" T("a", "F32", "[1,1,1,1,1,1,1,1,1]", 0, 4) "}", 4, -1);
    f = qp_file_open(ctx, path, (qp_file_options){0});
    assert_false(qp_file_at(f, 0).loadable);
    qp_file_load(ctx, f, "a", false);
    expect_error(ctx, QP_ERR_UNSUPPORTED, "tensor \"a\": dtype F32 with 9 axes");
    qp_file_close(f);
    remove(path);
    qp_close(ctx);
}

/* ---- Writing -------------------------------------------------------------------------- */

static qp_tensor numbers(qp_ctx *ctx, qp_dtype type, int64_t rows, int64_t columns, int first) {
    double    values[64];
    qp_tensor t = qp_empty(ctx, type, 2, (int64_t[]){rows, columns});
    for (int64_t i = 0; i < rows * columns; i++)
        values[i] = type == QP_BOOL ? (i + first) % 2 : (double)(i + first);
    assert_int_equal(qp_write(t, QP_F64, values, rows * columns), QP_OK);
    return t;
}

static void expect_same(qp_tensor a, qp_tensor b) {
    double x[64], y[64];
    assert_int_equal(qp_ndim(a), qp_ndim(b));
    for (int i = 0; i < qp_ndim(a); i++) assert_int_equal(qp_size(a, i), qp_size(b, i));
    assert_int_equal(qp_dtype_of(a), qp_dtype_of(b));
    assert_int_equal(qp_read(a, QP_F64, x, qp_count(a)), QP_OK);
    assert_int_equal(qp_read(b, QP_F64, y, qp_count(a)), QP_OK);
    if (qp_count(a)) assert_memory_equal(x, y, (size_t)qp_count(a) * sizeof *x);
}

static void round_trip(void **state) {
    (void)state;
    qp_ctx     *ctx = qp_open((qp_options){.threads = 1});
    const char *path = temporary("saved.safetensors");
    qp_named    list[QP_DTYPE_COUNT + 3];
    int         n = 0;
    for (int t = 0; t < QP_Q8_0; t++)
        list[n++] = (qp_named){qp_dtype_name((qp_dtype)t), numbers(ctx, (qp_dtype)t, 3, t + 1, t)};
    list[n++] = (qp_named){"empty", qp_empty(ctx, QP_I64, 2, (int64_t[]){0, 4})};
    list[n++] = (qp_named){"scalar", qp_scalar(ctx, QP_BF16, 2)};
    list[n++] = (qp_named){"n\xC3\xA4me \"quoted\"\n", qp_scalar(ctx, QP_U8, 9)};
    assert_int_equal(qp_file_save(ctx, path, n, list, (qp_save_options){0}), QP_OK);
    for (int way = 0; way < 3; way++) {
        qp_file *f = qp_file_open(ctx, path, (qp_file_options){.in_memory = way == 1});
        expect_ok(ctx);
        assert_int_equal(qp_file_count(f), n);
        assert_string_equal(qp_file_meta(f, "format"), "pt");
        for (int i = 0; i < n; i++) expect_same(list[i].tensor, qp_file_load(ctx, f, list[i].name, way == 2));
        for (int64_t i = 0; i < n; i++) { /* aligned, so that every tensor can be attached */
            const qpi_entry *e = &f->entries[i];
            assert_int_equal(e->begin % qp_dtype_bytes((qp_dtype)e->dtype), 0);
        }
        qp_file_close(f);
    }
    const qp_meta meta[] = {{"a", "1"}, {"b", "2"}};
    assert_int_equal(qp_file_save(ctx, path, 0, NULL, (qp_save_options){.meta = meta, .meta_count = 2}), QP_OK);
    qp_file *f = qp_file_open(ctx, path, (qp_file_options){0});
    assert_int_equal(qp_file_count(f), 0);
    assert_string_equal(qp_file_meta(f, "b"), "2");
    assert_null(qp_file_meta(f, "format"));
    qp_file_close(f);
    remove(path);
    qp_close(ctx);
}

static void refused(void **state) {
    (void)state;
    qp_ctx     *ctx = qp_open((qp_options){.threads = 1});
    qp_tensor   t = qp_scalar(ctx, QP_F32, 1);
    const char *path = temporary("refused.safetensors");
    const struct {
        const char *a, *b, *words;
    } cases[] = {{"x", "x", "\"x\" occurs twice"},
                 {"x", "", "tensor 1 has no proper name"},
                 {"x", NULL, "tensor 1"},
                 {"__metadata__", "x", "tensor 0"},
                 {"x", "\xFF", "tensor 1"}};
    for (int i = 0; i < 5; i++) {
        qp_named list[] = {{cases[i].a, t}, {cases[i].b, t}};
        assert_int_not_equal(qp_file_save(ctx, path, 2, list, (qp_save_options){0}), QP_OK);
        expect_error(ctx, QP_ERR_ARGUMENT, cases[i].words);
    }
    qp_named one = {"x", t};
    assert_int_not_equal(qp_file_save(ctx, P_tmpdir "/model.bin", 1, &one, (qp_save_options){0}), QP_OK);
    expect_error(ctx, QP_ERR_ARGUMENT, "must end in .safetensors");
    assert_int_not_equal(qp_file_save(ctx, "/nowhere/model.safetensors", 1, &one, (qp_save_options){0}), QP_OK);
    expect_error(ctx, QP_ERR_IO, "/nowhere/model.safetensors: cannot create");
    qp_meta bad = {"k", "\xFF"};
    assert_int_not_equal(qp_file_save(ctx, path, 1, &one, (qp_save_options){.meta = &bad, .meta_count = 1}),
                         QP_OK);
    expect_error(ctx, QP_ERR_ARGUMENT, "metadata 0");
    for (int i = 0; i < 3; i++) {
        bad = (qp_meta[]){{NULL, "v"}, {"k", NULL}, {"\xFF", "v"}}[i];
        assert_int_not_equal(qp_file_save(ctx, path, 1, &one, (qp_save_options){.meta = &bad, .meta_count = 1}),
                             QP_OK);
        expect_error(ctx, QP_ERR_ARGUMENT, "metadata 0");
    }
    int64_t  size = 32;
    qp_named others[] = {{"blocks", qp_cast(qp_full(ctx, QP_F32, 1, &size, 1), QP_Q8_0)},
                         {"later", qpi_leaf_empty(ctx, QP_F32, 1, &size)}};
    assert_int_equal(qp_file_save(ctx, path, 1, &others[0], (qp_save_options){0}), QP_ERR_TYPE);
    expect_error(ctx, QP_ERR_TYPE, "blocks is q8_0: safetensors has no block types");
    assert_int_equal(qp_file_save(ctx, path, 1, &others[1], (qp_save_options){0}), QP_ERR_STATE);
    expect_error(ctx, QP_ERR_STATE, "later has no elements yet");
    enum { LONG = 100000000 }; /* the longest header */
    char *name = malloc(LONG + 1);
    memset(name, 'n', LONG);
    name[LONG] = 0;
    assert_int_equal(qp_file_save(ctx, path, 1, &(qp_named){name, t}, (qp_save_options){0}), QP_ERR_ARGUMENT);
    expect_error(ctx, QP_ERR_ARGUMENT, "the header would exceed 100000000 bytes");
    free(name);
    qp_scope  s = qp_enter(ctx);
    qp_tensor gone = qp_scalar(ctx, QP_F32, 1);
    qp_leave(s);
    assert_int_not_equal(qp_file_save(ctx, path, 1, &(qp_named){"x", gone}, (qp_save_options){0}), QP_OK);
    qp_clear(ctx);
    qp_fail(ctx, QP_ERR_STATE, "poisoned");
    assert_int_not_equal(qp_file_save(ctx, path, 1, &one, (qp_save_options){0}), QP_OK);
    expect_error(ctx, QP_ERR_STATE, "poisoned");
    assert_int_equal(access(path, F_OK), -1);
    qp_close(ctx);
}

static int names_in(const char *folder) {
    int  n = 0;
    DIR *d = opendir(folder);
    for (struct dirent *x; (x = readdir(d));) n += x->d_name[0] != '.';
    closedir(d);
    return n;
}

static const char *in(const char *folder, const char *name) {
    static char path[2][500];
    static int  turn;
    turn = !turn;
    snprintf(path[turn], sizeof path[turn], "%s/%s", folder, name);
    return path[turn];
}

static void shards(void **state) {
    (void)state;
    qp_ctx     *ctx = qp_open((qp_options){.threads = 1});
    const char *folder = temporary("shards");
    qp_named    list[5] = {{"e", numbers(ctx, QP_F32, 2, 2, 1)},
                           {"d", numbers(ctx, QP_F32, 4, 4, 2)},
                           {"c", numbers(ctx, QP_U8, 1, 3, 3)},
                           {"b", numbers(ctx, QP_F64, 1, 1, 4)},
                           {"a", numbers(ctx, QP_F32, 1, 2, 5)}};
    assert_int_equal(mkdir(folder, 0700), 0);
    assert_null(qp_file_open(ctx, folder, (qp_file_options){0}));
    expect_error(ctx, QP_ERR_IO, "holds neither");
    const struct {
        uint64_t limit;
        int      files;
    } limits[] = {{0, 1}, {20, 4}, {1, 6}, {1000, 1}, {80, 3}};
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        qpi_folder_remove(folder);
        assert_int_equal(mkdir(folder, 0700), 0);
        write_text(in(folder, i % 2 ? "model.safetensors" : "model.safetensors.index.json"), "old");
        const char *path = in(folder, "model.safetensors");
        assert_int_equal(qp_file_save(ctx, path, 5, list, (qp_save_options){.shard_bytes = limits[i].limit}),
                         QP_OK);
        assert_int_equal(names_in(folder), limits[i].files);
        qp_file *f = qp_file_open(ctx, folder, (qp_file_options){0});
        expect_ok(ctx);
        assert_int_equal(qp_file_count(f), 5);
        for (int k = 0; k < 5; k++) expect_same(list[k].tensor, qp_file_load(ctx, f, list[k].name, false));
        assert_string_equal(qp_file_meta(f, "format"), "pt");
        qp_file_close(f);
    }
    qpi_folder_remove(folder);
    qp_close(ctx);
}

static void hostile_indexes(void **state) {
    (void)state;
    qp_ctx     *ctx = qp_open((qp_options){.threads = 1});
    const char *folder = temporary("indexes"), *index;
    assert_int_equal(mkdir(folder, 0700), 0);
    write_tensors(in(folder, "one.safetensors"),
                  "{" T("a", "F32", "[1]", 0, 4) "," T("b", "F32", "[1]", 4, 8) "}", 8, -1);
    write_tensors(in(folder, "two.safetensors"),
                  "{" T("c", "F32", "[1]", 0, 4) "," T("a", "F32", "[1]", 4, 8) "}", 8, -1);
    const struct {
        const char *text;
        qp_code     code;
        const char *words;
        int         count;
    } cases[] = {
        {"{\"weight_map\":{\"a\":\"one.safetensors\",\"c\":\"two.safetensors\"}}", QP_OK, "", 2},
        {"{\"weight_map\":{\"a\":\"two.safetensors\",\"b\":\"one.safetensors\",\"c\":\"two.safetensors\"}}",
         QP_OK, "", 3},
        {"{\"weight_map\":{}}", QP_OK, "", 0},
        {"[]", QP_ERR_FORMAT, "weight_map: missing", 0},
        {"{\"weight_map\":{\"z\":\"one.safetensors\"}}", QP_ERR_FORMAT,
         "weight_map.z: there is no such tensor in one.safetensors", 0},
        {"{\"weight_map\":{\"b\":\"two.safetensors\"}}", QP_ERR_FORMAT,
         "weight_map.b: there is no such tensor in two", 0},
        {"{\"weight_map\":{\"a\":\"../one.safetensors\"}}", QP_ERR_FORMAT,
         "weight_map.a: expected a file name without a path", 0},
        {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", QP_ERR_FORMAT, "without a path", 0},
        {"{\"weight_map\":{\"a\":\"..\"}}", QP_ERR_FORMAT, "without a path", 0},
        {"{\"weight_map\":{\"a\":\"\"}}", QP_ERR_FORMAT, "without a path", 0},
        {"{\"weight_map\":{\"a\":3}}", QP_ERR_FORMAT, "found an integer", 0},
        {"{\"weight_map\":{\"a\":\"none.safetensors\"}}", QP_ERR_IO, "none.safetensors: cannot open", 0},
        {"{\"weight_map\":{\"a\":\"model.safetensors.index.json\"}}", QP_ERR_FORMAT,
         "expected a safetensors file", 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        index = in(folder, "model.safetensors.index.json");
        write_text(index, cases[i].text);
        qp_file *f = qp_file_open(ctx, i % 2 ? folder : index, (qp_file_options){0});
        if (cases[i].code) expect_error(ctx, cases[i].code, cases[i].words);
        else expect_ok(ctx);
        assert_int_equal(qp_file_count(f), cases[i].count);
        if (f && !cases[i].count) {
            qp_file_load(ctx, f, "a", false);
            expect_error(ctx, QP_ERR_ARGUMENT, "no tensor \"a\"");
        }
        qp_file_close(f);
    }
    qpi_folder_remove(folder);
    qp_close(ctx);
}

/* Every prefix of a good file fails, and no changed byte does worse. */
static void damaged_files(void **state) {
    (void)state;
    qp_ctx     *ctx = qp_open((qp_options){.threads = 1});
    const char *path = temporary("damaged.safetensors");
    qp_named    list[] = {{"weight", numbers(ctx, QP_F32, 2, 2, 1)}, {"b", numbers(ctx, QP_U8, 1, 3, 3)}};
    size_t      n;
    assert_int_equal(qp_file_save(ctx, path, 2, list, (qp_save_options){0}), QP_OK);
    char *data = read_bytes(path, &n);
    for (size_t i = 0; i < n; i++) {
        write_bytes(path, data, i);
        assert_null(qp_file_open(ctx, path, (qp_file_options){0}));
        expect_error(ctx, QP_ERR_FORMAT, "damaged.safetensors");
    }
    for (size_t i = 0; i < n; i++)
        for (int k = 0; k < 8; k++) {
            data[i] ^= (char)(1 << k);
            write_bytes(path, data, n);
            data[i] ^= (char)(1 << k);
            qp_file *f = qp_file_open(ctx, path, (qp_file_options){0});
            assert_int_equal(f == NULL, qp_failed(ctx));
            for (int64_t x = 0; x < qp_file_count(f); x++)
                qp_drop(qp_file_load(ctx, f, qp_file_at(f, x).name, x & 1));
            qp_file_close(f);
            qp_clear(ctx);
        }
    free(data);
    remove(path);
    qp_close(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hostile_files), cmocka_unit_test(asking), cmocka_unit_test(round_trip),
        cmocka_unit_test(refused),       cmocka_unit_test(shards), cmocka_unit_test(hostile_indexes),
        cmocka_unit_test(damaged_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
