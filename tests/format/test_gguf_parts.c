/* GGUF models in several files: what they say together, and parts that are missing or do not belong together. */
#include "gguf_pieces.h"

#include <sys/stat.h>

#include "format/writer.h"

enum { PARTS = 3 };

static const char *part_path(int part) {
    char name[40];
    snprintf(name, sizeof name, "p-%05d-of-%05d.gguf", part + 1, PARTS);
    return temporary(name);
}

/* What is odd about the second of three parts; SOUND: nothing; SAME_KEYS: it has the first one's, too. */
typedef enum {
    SOUND,
    MISSING,
    NO_GGUF,
    CUT,
    OTHER_NO,
    OTHER_COUNT,
    OTHER_TOTAL,
    NO_KEYS,
    NEW_KEY,
    OTHER_KEY,
    OTHER_LENGTH,
    OTHER_KIND,
    OTHER_COUNTED,
    OTHER_NUMBER,
    NO_ARRAY,
    SAME_TENSOR,
    NO_TENSOR,
    NO_COUNT,
    ALL_ODD,
    SAME_KEYS = ALL_ODD
} odd;

/* The first part holds `a`, the second `b`, the third `c`, 32 bytes each; the second's alignment is its own. */
static void write_part(int part, odd what) {
    bool     second = part == 1;
    uint32_t no = second && what == OTHER_NO ? 2 : (uint32_t)part,
             count = second && what == OTHER_COUNT ? 2 : PARTS;
    int      tensors = !(second && what == NO_TENSOR);
    bool     keys = part == 0 || what == SAME_KEYS;
    uint64_t pairs = second && what == NO_KEYS ? 1 : second && what == NO_COUNT ? 2 : 4;
    begin(3, (uint64_t)tensors, pairs + 2 * (uint64_t)keys + (second && what >= NEW_KEY && what <= NO_ARRAY));
    pair32("general.alignment", QPI_GGUF_U32, second ? 64 : 32);
    if (pairs == 2) pair32("split.no", QPI_GGUF_U32, no);
    if (pairs == 4) split(no, count, second && what == OTHER_TOTAL ? 4 : PARTS);
    if (keys)
        pair("texts", QPI_GGUF_ARRAY), put32(QPI_GGUF_TEXT), put64(2), put_text("x"), put_text("yz"),
            pair32("number", QPI_GGUF_U32, 7);
    if (second && what == NEW_KEY) pair32("more", QPI_GGUF_U32, 1);
    if (second && what == OTHER_KEY)
        pair("texts", QPI_GGUF_ARRAY), put32(QPI_GGUF_TEXT), put64(2), put_text("x"), put_text("yy");
    if (second && what == OTHER_LENGTH)
        pair("texts", QPI_GGUF_ARRAY), put32(QPI_GGUF_TEXT), put64(2), put_text("x"), put_text("y");
    if (second && what == OTHER_KIND) pair32("number", QPI_GGUF_I32, 7);
    if (second && what == OTHER_COUNTED)
        pair("texts", QPI_GGUF_ARRAY), put32(QPI_GGUF_TEXT), put64(1), put_text("x");
    if (second && what == OTHER_NUMBER) pair32("number", QPI_GGUF_U32, 8);
    if (second && what == NO_ARRAY) pair("texts", QPI_GGUF_TEXT), put_text("x");
    char name[] = {(char)('a' + (second && what == SAME_TENSOR ? 0 : part)), 0};
    if (tensors) tensor(name, AXES(8), 0, 0);
    data(second ? 64 : 32, 32);
    file[filled - 32] = (uint8_t)part;
    if (second && what == NO_GGUF) memcpy(file, "FUGG", 4);
    if (second && what == MISSING) remove(part_path(part));
    else write_bytes(part_path(part), file, second && what == CUT ? filled - 1 : filled);
}

static qp_file *open_parts(qp_ctx *ctx, odd what, bool in_memory) {
    for (int part = 0; part < PARTS; part++) write_part(part, what);
    qp_file *f = qp_file_open(ctx, part_path(0), (qp_file_options){.in_memory = in_memory});
    for (int part = 0; part < PARTS; part++) remove(part_path(part));
    return f;
}

static void sound_parts(void **state) {
    (void)state;
    qp_ctx *ctx = qp_open((qp_options){.threads = 1});
    for (int way = 0; way < 4; way++) {
        qp_file *f = open_parts(ctx, way & 2 ? SAME_KEYS : SOUND, way & 1);
        expect_ok(ctx);
        assert_int_equal(qp_file_count(f), PARTS);
        for (int part = 0; part < PARTS; part++) {
            qp_tensor t = qp_file_load(ctx, f, (char[]){(char)('a' + part), 0}, false);
            expect_ok(ctx);
            assert_int_equal(*(const uint8_t *)qp_data_of(t), part);
        }
        assert_string_equal(qp_file_meta(f, "split.no"), "0"); /* the first speaks for all */
        assert_int_equal(qpi_gguf_find(f, "texts")->count, 2);
        qp_file_close(f);
    }
    qp_close(ctx);
}

static void odd_parts(void **state) {
    (void)state;
    static const struct {
        qp_code     code;
        const char *words;
    } expected[ALL_ODD] = {
        [MISSING] = {QP_ERR_IO, "p-00002-of-00003.gguf: part 2 of 3 is missing"},
        [NO_GGUF] = {QP_ERR_FORMAT, "p-00002-of-00003.gguf: part 2 of 3 is no GGUF file"},
        [CUT] = {QP_ERR_FORMAT, "p-00002-of-00003.gguf: offset"},
        [OTHER_NO] = {QP_ERR_FORMAT, "split.no is 2, expected 1 by its name"},
        [OTHER_COUNT] = {QP_ERR_FORMAT, "split.count is 2, in the first part 3"},
        [OTHER_TOTAL] = {QP_ERR_FORMAT, "split.tensors.count is 4, in the first part 3"},
        [NO_KEYS] = {QP_ERR_FORMAT, "p-00002-of-00003.gguf: split.no: expected a whole number, found none"},
        [NEW_KEY] = {QP_ERR_FORMAT, "more is not in the first part"},
        [OTHER_KEY] = {QP_ERR_FORMAT, "texts differs from the first part's"},
        [OTHER_LENGTH] = {QP_ERR_FORMAT, "texts differs from the first part's"},
        [OTHER_KIND] = {QP_ERR_FORMAT, "number differs from the first part's"},
        [OTHER_COUNTED] = {QP_ERR_FORMAT, "texts differs from the first part's"},
        [OTHER_NUMBER] = {QP_ERR_FORMAT, "number differs from the first part's"},
        [NO_ARRAY] = {QP_ERR_FORMAT, "texts differs from the first part's"},
        [SAME_TENSOR] = {QP_ERR_FORMAT, "found \"a\" twice"},
        [NO_COUNT] = {QP_ERR_FORMAT, "p-00002-of-00003.gguf: split.count: expected a whole number, found none"},
        [NO_TENSOR] = {QP_ERR_FORMAT, "split.tensors.count is 3, the parts hold 2"}};
    qp_ctx *ctx = qp_open((qp_options){.threads = 1});
    for (int what = MISSING; what < ALL_ODD; what++)
        for (int memory = 0; memory < 2; memory++) {
            if (open_parts(ctx, (odd)what, memory)) fail_msg("opened: %s", expected[what].words);
            expect_error(ctx, expected[what].code, expected[what].words);
        }
    qp_close(ctx);
}

/* One of one is a file like others, by any name; a name must be longer than what counts parts. */
static void few_letters(void **state) {
    (void)state;
    char    here[1000];
    qp_ctx *ctx = qp_open((qp_options){.threads = 1});
    begin(3, 0, 3), split(0, 1, 0);
    qp_file *f = open_it(ctx, false);
    expect_ok(ctx);
    qp_file_close(f);
    assert_non_null(getcwd(here, sizeof here));
    const char *folder = temporary("short");
    assert_int_equal(mkdir(folder, 0700), 0);
    assert_int_equal(chdir(folder), 0);
    begin(3, 0, 3), split(0, 2, 0);
    write_bytes("-00001-of-00002.gguf", file, filled);
    assert_null(qp_file_open(ctx, "-00001-of-00002.gguf", (qp_file_options){0}));
    expect_error(ctx, QP_ERR_FORMAT, "the first of 2 parts: expected a name that ends in -00001-of-00002.gguf");
    assert_int_equal(chdir(here), 0);
    qpi_folder_remove(folder);
    qp_close(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(sound_parts), cmocka_unit_test(odd_parts),
                                       cmocka_unit_test(few_letters)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
