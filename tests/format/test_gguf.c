/* GGUF: what a file says and holds, and what hostile files get. The kinds of attack are those of
 * published flaws of other readers: sizes whose product wraps, counts beyond the file, lengths cut to
 * 32 bits, negative sizes, arrays of arrays, names twice, data outside of the file or of another
 * tensor. */
#include <sys/stat.h>

#include "gguf_pieces.h"
#include "format/writer.h"

/* ---- Sound files ------------------------------------------------------------------------------------- */

static void write_sound(uint32_t version, size_t alignment) {
    begin(version, 4, 14);
    pair32("general.alignment", QPI_GGUF_U32, (uint32_t)alignment);
    pair("text", QPI_GGUF_TEXT), put_text("caf\xC3\xA9\n");
    pair("a.u8", QPI_GGUF_U8), put("\xFF", 1);
    pair("a.i8", QPI_GGUF_I8), put("\xFF", 1);
    pair("a.u64", QPI_GGUF_U64), put64(UINT64_MAX);
    pair("a.i64", QPI_GGUF_I64), put64((uint64_t)-5);
    pair("a.f32", QPI_GGUF_F32), put(&(float){0.1f}, 4);
    pair("a.bool", QPI_GGUF_BOOL), put("\1", 1);
    pair("b.bool", QPI_GGUF_BOOL), put("\0", 1);
    pair("a.f64", QPI_GGUF_F64), put(&(double){0.1}, 8);
    pair("a.nul", QPI_GGUF_TEXT), put64(3), put("a\0b", 3);
    pair("texts", QPI_GGUF_ARRAY), put32(QPI_GGUF_TEXT), put64(3), put_text("a"), put_text(""), put64(3),
        put("b\0c", 3);
    pair("numbers", QPI_GGUF_ARRAY), put32(QPI_GGUF_F64), put64(2), put(&(double){2.5}, 8),
        put(&(double){-1}, 8);
    pair("integers", QPI_GGUF_ARRAY), put32(QPI_GGUF_I16), put64(3), put("\1\0\xFE\xFF\x03\0", 6);
    tensor("f", AXES(3, 2), 0, 0);
    tensor("q", AXES(64, 3), 2, 64);
    tensor("odd", AXES(5), 99, 64);
    tensor("none", AXES(32, 0), 8, 0);
    data(alignment, 64 + 6 * 18);
}

static void sound_files(void **state) {
    (void)state;
    qp_ctx *ctx = qp_open((qp_options){.threads = 1});
    for (uint32_t version = 2; version <= 3; version++)
        for (int way = 0; way < 4; way++) {
            size_t alignment = way & 2 ? 64 : 32;
            write_sound(version, alignment);
            qp_file *f = open_it(ctx, way & 1);
            expect_ok(ctx);
            assert_int_equal(qp_file_count(f), 4);
            qp_file_entry e = qp_file_at(f, qp_file_find(f, "q"));
            assert_true(e.loadable && e.dtype == QP_Q4_0 && e.ndim == 2 && e.shape[0] == 3 && e.shape[1] == 64);
            assert_int_equal(e.bytes, 6 * 18);
            assert_string_equal(e.type_name, "Q4_0");
            e = qp_file_at(f, qp_file_find(f, "odd"));
            assert_true(!e.loadable && !strcmp(e.type_name, "99"));
            qp_tensor q = qp_file_load(ctx, f, "q", false), x = qp_file_load(ctx, f, "f", false);
            assert_memory_equal(qp_data_of(q), file + filled - 6 * 18, 6 * 18);
            assert_int_equal(qp_size(x, 0), 2);
            assert_int_equal(qp_count(qp_file_load(ctx, f, "none", false)), 0);
            expect_ok(ctx);
            qp_file_load(ctx, f, "odd", false);
            expect_error(ctx, QP_ERR_UNSUPPORTED, "tensor \"odd\": dtype 99");
            qp_file_close(f);
            assert_int_equal(((const uint8_t *)qp_data_of(q))[5], 69); /* outlives the file */
        }
    qp_close(ctx);
}

static void values(void **state) {
    (void)state;
    qp_ctx *ctx = qp_open((qp_options){.threads = 1});
    write_sound(3, 32);
    qp_file *f = open_it(ctx, false);
    expect_ok(ctx);
    static const char *const as_text[][2] = {{"text", "caf\xC3\xA9\n"},
                                             {"a.u8", "255"},
                                             {"a.i8", "-1"},
                                             {"a.u64", "18446744073709551615"},
                                             {"a.i64", "-5"},
                                             {"a.f32", "0.100000001"},
                                             {"a.bool", "true"},
                                             {"b.bool", "false"},
                                             {"a.f64", "0.10000000000000001"},
                                             {"general.alignment", "32"}};
    for (size_t i = 0; i < sizeof as_text / sizeof *as_text; i++)
        assert_string_equal(qp_file_meta(f, as_text[i][0]), as_text[i][1]);
    assert_null(qp_file_meta(f, "texts"));
    assert_null(qp_file_meta(f, "a.nul"));
    assert_true(qpi_gguf_find(f, "a.nul")->count == 1);
    int64_t i = 7;
    double  x = 7;
    assert_true(qpi_gguf_integer(qpi_gguf_find(f, "a.i8"), 0, &i) && i == -1);
    assert_false(qpi_gguf_integer(qpi_gguf_find(f, "a.u64"), 0, &i));
    assert_false(qpi_gguf_integer(qpi_gguf_find(f, "a.f32"), 0, &i));
    assert_false(qpi_gguf_integer(qpi_gguf_find(f, "a.i8"), 1, &i));
    assert_false(qpi_gguf_integer(NULL, 0, &i) || qpi_gguf_number(NULL, 0, &x));
    assert_true(i == -1 && !qpi_gguf_number(qpi_gguf_find(f, "text"), 0, &x) && x == 7);
    assert_true(qpi_gguf_number(qpi_gguf_find(f, "a.f32"), 0, &x) && x == 0.1f);
    assert_true(qpi_gguf_number(qpi_gguf_find(f, "numbers"), 1, &x) && x == -1);
    const qpi_gguf_value *v = qpi_gguf_find(f, "integers");
    assert_true(v->array && v->count == 3 && qpi_gguf_integer(v, 1, &i) && i == -2);
    assert_false(qpi_gguf_number(v, 3, &x));
    assert_true(x == -1 && qpi_gguf_at(f, 13) && !qpi_gguf_at(f, 14));
    assert_null(qpi_gguf_at(NULL, 0));
    assert_null(qpi_gguf_find(NULL, "text"));
    const char    *text;
    size_t         n;
    qpi_gguf_texts t = qpi_gguf_texts_of(qpi_gguf_find(f, "texts"));
    assert_true(qpi_gguf_text(&t, &text, &n) && n == 1 && *text == 'a');
    assert_true(qpi_gguf_text(&t, &text, &n) && n == 0);
    assert_true(qpi_gguf_text(&t, &text, &n) && n == 3 && !memcmp(text, "b\0c", 3));
    assert_false(qpi_gguf_text(&t, &text, &n));
    t = qpi_gguf_texts_of(v);
    assert_false(qpi_gguf_text(&t, &text, &n));
    t = qpi_gguf_texts_of(NULL);
    assert_false(qpi_gguf_text(&t, &text, &n));
    qp_file_close(f);
    qp_close(ctx);
}

/* Integers of each kind, at both ends. */
static void integers(void **state) {
    (void)state;
    static const struct {
        uint32_t    kind;
        int         bytes;
        uint64_t    stored;
        int64_t     is;
        const char *name;
    } cases[] = {{QPI_GGUF_U8, 1, 255, 255, "u8"},
                 {QPI_GGUF_I8, 1, 128, -128, "i8"},
                 {QPI_GGUF_U16, 2, 65535, 65535, "u16"},
                 {QPI_GGUF_I16, 2, 32768, -32768, "i16"},
                 {QPI_GGUF_U32, 4, UINT32_MAX, UINT32_MAX, "u32"},
                 {QPI_GGUF_I32, 4, 0x80000000u, INT32_MIN, "i32"},
                 {QPI_GGUF_U64, 8, INT64_MAX, INT64_MAX, "u64"},
                 {QPI_GGUF_I64, 8, UINT64_C(1) << 63, INT64_MIN, "i64"}};
    qp_ctx *ctx = qp_open((qp_options){.threads = 1});
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        int64_t i = 0;
        double  x = 0;
        begin(3, 0, 1), pair("k", cases[k].kind), put(&cases[k].stored, (size_t)cases[k].bytes);
        qp_file *f = open_it(ctx, false);
        expect_ok(ctx);
        const qpi_gguf_value *v = qpi_gguf_find(f, "k");
        assert_true(qpi_gguf_integer(v, 0, &i) && i == cases[k].is);
        assert_true(qpi_gguf_number(v, 0, &x) && x == (double)cases[k].is);
        assert_string_equal(qpi_gguf_kind_name(v->kind), cases[k].name);
        assert_int_equal(qpi_gguf_kind_bytes(v->kind), cases[k].bytes);
        qp_file_close(f);
    }
    assert_string_equal(qpi_gguf_kind_name(QPI_GGUF_KINDS), "?");
    assert_int_equal(qpi_gguf_kind_bytes(QPI_GGUF_KINDS), 0);
    qp_close(ctx);
}

static void types(void **state) {
    (void)state;
    assert_int_equal(qpi_gguf_type_of(QP_Q4_K)->id, 12);
    assert_null(qpi_gguf_type_of(QP_BOOL));
}

/* ---- Written files ------------------------------------------------------------------------------------- */

static const float   row_f32[3] = {1, 2, 3};
static const uint8_t row_q8[34] = {7};

static const void *data_at(void *user, int64_t i) {
    if (i == *(int64_t *)user) return NULL;
    return i ? (const void *)row_q8 : row_f32;
}

/* What one file says, another says that was made from its values. */
static void written(void **state) {
    (void)state;
    qp_ctx         *ctx = qp_open((qp_options){.threads = 1});
    const char     *path = temporary("written.gguf");
    qpi_error       e = {0};
    qpi_gguf_pairs  pairs = {0};
    qpi_gguf_tensor tensors[] = {{"a", QP_F32, 1, {3}}, {"b", QP_Q8_0, 2, {1, 32}}};
    int64_t         never = -1, second = 1;
    write_sound(3, 32);
    qp_file              *f = open_it(ctx, true), *g;
    const qpi_gguf_value *v, *w;
    for (size_t i = 0; (v = qpi_gguf_at(f, i)); i++) qpi_gguf_put_value(&pairs, v);
    assert_true(qpi_gguf_save(path, &pairs, 2, tensors, data_at, &never, &e));
    g = qp_file_open(ctx, path, (qp_file_options){0});
    expect_ok(ctx);
    for (size_t i = 0; (v = qpi_gguf_at(f, i)); i++) {
        size_t bytes = (size_t)v->count * (size_t)qpi_gguf_kind_bytes(v->kind);
        w = qpi_gguf_at(g, i);
        assert_true(!strcmp(v->key, w->key) && v->kind == w->kind && v->array == w->array &&
                    v->count == w->count);
        if (bytes) assert_memory_equal(v->data, w->data, bytes);
        const char    *text, *other;
        size_t         n, m;
        qpi_gguf_texts t = qpi_gguf_texts_of(v), u = qpi_gguf_texts_of(w);
        while (qpi_gguf_text(&t, &text, &n))
            assert_true(qpi_gguf_text(&u, &other, &m) && n == m && !memcmp(text, other, n));
    }
    assert_memory_equal(qp_data_of(qp_file_load(ctx, g, "a", false)), row_f32, sizeof row_f32);
    assert_memory_equal(qp_data_of(qp_file_load(ctx, g, "b", false)), row_q8, sizeof row_q8);
    qp_file_close(f);
    qp_file_close(g);
    remove(path);
    assert_false(
        qpi_gguf_save(path, &pairs, 2, tensors, data_at, &second, &e)); /* whose data are not to be had */
    assert_int_equal(access(path, F_OK), -1);
    tensors[1].dtype = QP_BOOL;
    assert_false(qpi_gguf_save(path, &pairs, 2, tensors, data_at, &never, &e));
    expect_failure(&e, QP_ERR_TYPE, "b is bool: GGUF has no such type");
    assert_false(qpi_gguf_save("/nowhere/x.gguf", &pairs, 1, tensors, data_at, &never, &e));
    expect_failure(&e, QP_ERR_IO, "/nowhere/x.gguf: cannot create");
    qpi_gguf_pairs_free(&pairs);
    qp_close(ctx);
}

static void by_its_beginning(void **state) {
    (void)state;
    static const struct {
        const char *text;
        bool        is;
    } cases[] = {{"GGUF", true}, {"GGUF\3", true}, {"GGU", false}, {"", false}, {"GGML", false}};
    const char *path = temporary("magic");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_text(path, cases[i].text);
        assert_int_equal(qpi_path_is_gguf(path), cases[i].is);
    }
    if (geteuid()) {
        assert_int_equal(chmod(path, 0), 0);
        assert_false(qpi_path_is_gguf(path));
    }
    remove(path);
    assert_false(qpi_path_is_gguf(path));
    assert_false(qpi_path_is_gguf(P_tmpdir));
}

/* Every prefix of a sound file is refused, but what lacks only bytes that nobody names. */
static void cut_short(void **state) {
    (void)state;
    qp_ctx *ctx = qp_open((qp_options){.threads = 1});
    write_sound(3, 32);
    size_t whole = filled;
    for (filled = 0; filled < whole; filled++) {
        assert_null(open_it(ctx, filled & 1));
        assert_int_equal(qp_error_code(ctx), QP_ERR_FORMAT);
        qp_clear(ctx);
    }
    qp_close(ctx);
}

/* ---- Hostile files ----------------------------------------------------------------------------------- */

static void no_tensors_many(void) { begin(3, UINT64_MAX, 0); }
static void many_tensors(void) { begin(3, UINT64_C(1) << 32, 0); } /* 0 in 32 bits */
static void many_pairs(void) { begin(3, 0, UINT64_C(0x4000000000000000)); }
static void version_1(void) { begin(1, 0, 0); }
static void big_endian(void) { begin(0x03000000, 0, 0); }
static void long_key(void) { begin(3, 0, 1), put64(UINT64_MAX - 3), put("abcd", 4), put32(0), put32(0); }
static void key_of_2_32(void) {
    begin(3, 0, 1), put64((UINT64_C(1) << 32) + 1), put("a", 1), put32(0), put("123456789", 9);
}
static void key_with_del(void) { begin(3, 0, 1), pair("a\177", 0), put("\0", 1); }
static void version_0(void) { begin(0, 0, 0); }
static void empty_key(void) { begin(3, 0, 1), pair("", 0), put("\0", 1); }
static void key_with_nul(void) { begin(3, 0, 1), put64(3), put("a\0b", 3), put32(0), put("1234", 4); }
static void key_twice(void) { begin(3, 0, 2), pair32("k", QPI_GGUF_U32, 1), pair32("k", QPI_GGUF_U32, 2); }
static void odd_kind(void) { begin(3, 0, 1), pair32("k", 13, 0); }
static void odd_bool(void) { begin(3, 0, 1), pair32("k", QPI_GGUF_BOOL, 2); }
static void odd_bools(void) {
    begin(3, 0, 1), pair("k", QPI_GGUF_ARRAY), put32(QPI_GGUF_BOOL), put64(3), put("\1\2\1", 3);
}
static void broken_texts(void) {
    begin(3, 0, 1), pair("k", QPI_GGUF_ARRAY), put32(QPI_GGUF_TEXT), put64(3), put64(99), put64(0), put64(0);
}
static void array_alignment(void) {
    begin(3, 0, 1), pair("general.alignment", QPI_GGUF_ARRAY), put32(QPI_GGUF_U32), put64(1), put32(32);
}
static void long_text(void) { begin(3, 0, 1), pair("k", QPI_GGUF_TEXT), put64(UINT64_MAX); }
static void text_of_2_32(void) {
    begin(3, 0, 1), pair("k", QPI_GGUF_TEXT), put64(UINT64_C(1) << 32), put("aaaa", 4);
}
static void long_array(void) {
    begin(3, 0, 1), pair("k", QPI_GGUF_ARRAY), put32(QPI_GGUF_U32), put64((UINT64_C(1) << 62) + 1), put32(0);
}
static void long_texts(void) {
    begin(3, 0, 1), pair("k", QPI_GGUF_ARRAY), put32(QPI_GGUF_TEXT), put64(UINT64_C(1) << 61), put64(0);
}
static void nested(void) {
    begin(3, 0, 1), pair("k", QPI_GGUF_ARRAY);
    for (int i = 0; i < 1000; i++) put32(QPI_GGUF_ARRAY), put64(1);
}
static void odd_elements(void) { begin(3, 0, 1), pair("k", QPI_GGUF_ARRAY), put32(77), put64(0); }
static void no_alignment(void) { begin(3, 0, 1), pair32("general.alignment", QPI_GGUF_U32, 0); }
static void odd_alignment(void) { begin(3, 0, 1), pair32("general.alignment", QPI_GGUF_U32, 48); }
static void text_alignment(void) { begin(3, 0, 1), pair("general.alignment", QPI_GGUF_TEXT), put_text("a"); }
static void huge_alignment(void) { begin(3, 0, 1), pair32("general.alignment", QPI_GGUF_U32, 0x80000000u); }
static void parts(void) { begin(3, 0, 1), pair("split.count", QPI_GGUF_U16), put("\2\0", 2); }
static void no_parts(void) { begin(3, 0, 3), split(0, 0, 0); }
static void many_parts(void) { begin(3, 0, 3), split(0, UINT32_MAX, 0); }
static void negative_parts(void) { begin(3, 0, 1), pair32("split.count", QPI_GGUF_I32, (uint32_t)-2); }
static void array_parts(void) {
    begin(3, 0, 1), pair("split.count", QPI_GGUF_ARRAY), put32(QPI_GGUF_U16), put64(1), put("\2\0", 2);
}
static void text_parts(void) { begin(3, 0, 1), pair("split.count", QPI_GGUF_TEXT), put_text("2"); }
static void part_beyond(void) { begin(3, 0, 3), split(3, 3, 0); }
static void later_part(void) { begin(3, 0, 3), split(1, 3, 0); }
static void other_name(void) { begin(3, 0, 3), split(0, 3, 0); }
static void many_axes(void) { begin(3, 1, 0), put_text("t"), put32(1000000000), data(32, 64); }
static void negative(void) { begin(3, 1, 0), tensor("t", AXES((uint64_t)-4), 0, 0), data(32, 64); }
static void product_wraps(void) {
    begin(3, 1, 0), tensor("t", AXES(UINT64_C(1) << 32, UINT64_C(1) << 32), 0, 0), data(32, 64);
}
static void bytes_wrap(void) {
    begin(3, 1, 0), tensor("t", AXES(UINT64_C(0x4000000000000000)), 0, 0), data(32, 64);
}
static void bytes_wrap_in_blocks(void) {
    begin(3, 1, 0), tensor("t", AXES(256, UINT64_C(1) << 55), 14, 0), data(32, 256);
}
static void zero_hides(void) {
    begin(3, 1, 0), tensor("t", AXES(UINT64_C(1) << 40, UINT64_C(1) << 40, 0), 0, 0), data(32, 64);
}
static void broken_blocks(void) { begin(3, 1, 0), tensor("t", AXES(33), 2, 0), data(32, 64); }
static void block_scalar(void) { begin(3, 1, 0), tensor("t", 0, NULL, 2, 0), data(32, 64); }
static void beyond(void) { begin(3, 1, 0), tensor("t", AXES(17), 0, 0), data(32, 64); }
static void far_offset(void) { begin(3, 1, 0), tensor("t", AXES(1), 0, UINT64_MAX - 31), data(32, 64); }
static void offset_beyond(void) { begin(3, 1, 0), tensor("t", AXES(1), 0, 64), data(32, 64); }
static void unaligned(void) { begin(3, 1, 0), tensor("t", AXES(1), 0, 4), data(32, 64); }
static void overlap(void) {
    begin(3, 2, 0), tensor("t", AXES(16), 0, 0), tensor("u", AXES(8), 0, 32), data(32, 64);
}
static void same_place(void) {
    begin(3, 2, 0), tensor("t", AXES(8), 0, 0), tensor("u", AXES(8), 0, 0), data(32, 64);
}
static void one_tensor(void) { begin(3, 1, 0), tensor("t", AXES(8), 0, 0), data(32, 32); }
static void same_name(void) {
    begin(3, 2, 0), tensor("t", AXES(8), 0, 0), tensor("t", AXES(8), 0, 32), data(32, 64);
}
static void long_name(void) { begin(3, 1, 0), put64(UINT64_C(1) << 40), put("t", 1), data(32, 64); }
static void nameless(void) { begin(3, 1, 0), tensor("", AXES(1), 0, 0), data(32, 64); }
static void no_data(void) { begin(3, 1, 0), tensor("t", AXES(1), 0, 0); }

static const struct {
    void (*make)(void);
    qp_code     code;
    const char *words;
} hostile[] = {
    {no_tensors_many, QP_ERR_FORMAT, "18446744073709551615 tensors do not fit"},
    {many_tensors, QP_ERR_FORMAT, "4294967296 tensors do not fit"},
    {many_pairs, QP_ERR_FORMAT, "metadata entries do not fit"},
    {version_1, QP_ERR_UNSUPPORTED, "GGUF version 1, expected 2 or 3"},
    {big_endian, QP_ERR_UNSUPPORTED, "(big-endian)"},
    {long_key, QP_ERR_FORMAT, "offset 24: expected a key of 1 to 65535 bytes"},
    {key_of_2_32, QP_ERR_FORMAT, "expected a key of 1 to 65535 bytes"},
    {version_0, QP_ERR_UNSUPPORTED, "GGUF version 0, expected 2 or 3"},
    {key_with_del, QP_ERR_FORMAT, "no control bytes"},
    {odd_bools, QP_ERR_FORMAT, "offset 50: expected 0 or 1 (bool), found 2"},
    {broken_texts, QP_ERR_FORMAT, "expected 99 bytes (text), found 16"},
    {array_alignment, QP_ERR_FORMAT, "general.alignment to be a power of 2"},
    {empty_key, QP_ERR_FORMAT, "expected a key of 1 to 65535 bytes"},
    {key_with_nul, QP_ERR_FORMAT, "no control bytes"},
    {key_twice, QP_ERR_FORMAT, "found \"k\" twice"},
    {odd_kind, QP_ERR_FORMAT, "expected a kind of value of 0 to 12, found 13"},
    {odd_bool, QP_ERR_FORMAT, "expected 0 or 1 (bool), found 2"},
    {long_text, QP_ERR_FORMAT, "expected 18446744073709551615 bytes (text), found 0"},
    {text_of_2_32, QP_ERR_FORMAT, "expected 4294967296 bytes (text)"},
    {long_array, QP_ERR_FORMAT, "expected 4611686018427387905 elements of u32, found 4 bytes"},
    {long_texts, QP_ERR_FORMAT, "elements of text, found 8 bytes"},
    {nested, QP_ERR_UNSUPPORTED, "\"k\" is an array of arrays"},
    {odd_elements, QP_ERR_FORMAT, "expected a kind of elements of 0 to 12, found 77"},
    {no_alignment, QP_ERR_FORMAT, "general.alignment to be a power of 2"},
    {odd_alignment, QP_ERR_FORMAT, "general.alignment to be a power of 2"},
    {text_alignment, QP_ERR_FORMAT, "general.alignment to be a power of 2"},
    {huge_alignment, QP_ERR_FORMAT, "general.alignment to be a power of 2"},
    {parts, QP_ERR_FORMAT, "split.no: expected a whole number, found none"},
    {no_parts, QP_ERR_FORMAT, "split.no 0 of split.count 0"},
    {many_parts, QP_ERR_FORMAT, "split.count 4294967295, expected at most 99999"},
    {negative_parts, QP_ERR_FORMAT, "split.count: expected a whole number, found something else"},
    {array_parts, QP_ERR_FORMAT, "split.count: expected a whole number, found something else"},
    {text_parts, QP_ERR_FORMAT, "split.count: expected a whole number, found something else"},
    {part_beyond, QP_ERR_FORMAT, "split.no 3 of split.count 3"},
    {later_part, QP_ERR_ARGUMENT, "part 2 of 3 of a model: open the first, which ends in -00001-of-00003.gguf"},
    {other_name, QP_ERR_FORMAT, "expected a name that ends in -00001-of-00003.gguf"},
    {many_axes, QP_ERR_FORMAT, "expected at most 8 axes of \"t\", found 1000000000"},
    {negative, QP_ERR_FORMAT, "negative or too large"},
    {product_wraps, QP_ERR_FORMAT, "negative or too large"},
    {bytes_wrap, QP_ERR_FORMAT, "negative or too large"},
    {bytes_wrap_in_blocks, QP_ERR_FORMAT, "negative or too large"},
    {zero_hides, QP_ERR_FORMAT, "negative or too large"},
    {broken_blocks, QP_ERR_FORMAT, "rows of 33 elements, blocks of Q4_0 have 32"},
    {block_scalar, QP_ERR_FORMAT, "rows of 1 elements"},
    {beyond, QP_ERR_FORMAT, "expected 68 bytes of \"t\" at 0 of the data, found 64"},
    {far_offset, QP_ERR_FORMAT, "at 18446744073709551584 of the data, found 0"},
    {offset_beyond, QP_ERR_FORMAT, "expected 4 bytes of \"t\" at 64 of the data, found 0"},
    {unaligned, QP_ERR_FORMAT, "at a multiple of 32, found 4"},
    {overlap, QP_ERR_FORMAT, "\"t\" and \"u\" lie at the same place"},
    {same_place, QP_ERR_FORMAT, "lie at the same place"},
    {same_name, QP_ERR_FORMAT, "found \"t\" twice"},
    {long_name, QP_ERR_FORMAT, "expected the name of a tensor of 1 to 65535 bytes"},
    {nameless, QP_ERR_FORMAT, "expected the name of a tensor"},
    {no_data, QP_ERR_FORMAT, "expected 4 bytes of \"t\""},
};

static void hostile_files(void **state) {
    (void)state;
    qp_ctx *ctx = qp_open((qp_options){.threads = 1});
    for (size_t i = 0; i < sizeof hostile / sizeof *hostile; i++)
        for (int memory = 0; memory < 2; memory++) {
            hostile[i].make();
            if (open_it(ctx, memory)) fail_msg("opened: %s", hostile[i].words);
            expect_error(ctx, hostile[i].code, hostile[i].words);
        }
    qp_close(ctx);
}

/* A GGUF file as what an index of safetensors files lists: one will do, two are none. */
static void in_an_index(void **state) {
    (void)state;
    static const struct {
        void (*make)(void);
        const char *map;
        const char *words; /* NULL: opens */
    } cases[] = {{one_tensor, "{\"t\":\"1.gguf\"}", NULL},
                 {same_name, "{\"t\":\"1.gguf\"}", "1.gguf: expected each tensor once, found \"t\" twice"},
                 {one_tensor, "{\"t\":\"1.gguf\",\"u\":\"2.gguf\"}", "2.gguf: a GGUF file cannot be a part"}};
    qp_ctx     *ctx = qp_open((qp_options){.threads = 1});
    const char *folder = temporary("index");
    assert_int_equal(mkdir(folder, 0700), 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char path[400], text[200];
        cases[i].make();
        for (int k = 1; k <= 2; k++) {
            snprintf(path, sizeof path, "%s/%d.gguf", folder, k);
            write_bytes(path, file, filled);
        }
        snprintf(path, sizeof path, "%s/model.safetensors.index.json", folder);
        snprintf(text, sizeof text, "{\"weight_map\":%s}", cases[i].map);
        write_text(path, text);
        qp_file *f = qp_file_open(ctx, folder, (qp_file_options){0});
        if (cases[i].words) expect_error(ctx, QP_ERR_FORMAT, cases[i].words);
        else assert_int_equal(qp_file_count(f), 1);
        qp_file_close(f);
    }
    qpi_folder_remove(folder);
    qp_close(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sound_files),      cmocka_unit_test(values),
        cmocka_unit_test(integers),         cmocka_unit_test(types),
        cmocka_unit_test(written),          cmocka_unit_test(in_an_index),
        cmocka_unit_test(by_its_beginning), cmocka_unit_test(cut_short),
        cmocka_unit_test(hostile_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
