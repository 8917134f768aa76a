/* Training against the trainer of the `tokenizers` package (golden files). */
#include "support.h"

#include "data/tokenizer.h"

#define LLAMA3                                                                                                 \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"    \
    "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

/* The model as text: vocabulary and merges. */
static void print_model(const qp_tokenizer *t, qpi_buffer *out) {
    out->count = 0;
    t->kind->save(t, out);
    assert_true(qpi_buffer_put(out, "", 1) && !out->failed);
}

static void like_the_package(void **state) {
    (void)state;
    static const char *const begin_end[] = {"<|begin|>", "<|end_of_text|>"};
    const struct {
        const char    *name;
        qp_bpe_options options;
    } cases[] = {
        {"gpt2", {.size = 500}},
        {"gpt2", {.size = 500, .pattern = "gpt2", .min_count = 1}},
        {"llama3", {.size = 500, .pattern = "llama3", .special = begin_end, .special_count = 2}},
        {"llama3", {.size = 500, .pattern = LLAMA3, .special = begin_end, .special_count = 2}},
    };
    const char *path = GOLDEN "corpus.txt";
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int threads = 1; threads <= 5; threads += 2) {
            char          golden[400];
            qpi_buffer    mine = {0}, theirs = {0};
            qp_ctx       *ctx = qp_open((qp_options){.threads = threads});
            qp_tokenizer *t = qp_tokenizer_train(ctx, 1, &path, cases[i].options);
            expect_ok(ctx);
            snprintf(golden, sizeof golden, "%s%s.json", GOLDEN, cases[i].name);
            qp_tokenizer *u = qp_tokenizer_load(ctx, golden);
            print_model(t, &mine);
            print_model(u, &theirs);
            assert_string_equal(strstr(mine.data, "\"vocab\""), strstr(theirs.data, "\"vocab\""));
            qpi_buffer_free(&mine);
            qpi_buffer_free(&theirs);
            qp_close(ctx);
        }
}

/* Long texts are cut for threads; many documents are as good as one file of each. */
static void cuts_change_nothing(void **state) {
    (void)state;
    size_t n, times = 600;
    char  *corpus = read_bytes(GOLDEN "corpus.txt", &n);
    char  *text = malloc(n * times);
    for (size_t i = 0; i < times; i++) memcpy(text + i * n, corpus, n);
    qpi_buffer first = {0}, other = {0};
    for (int threads = 1; threads <= 5; threads += 2) {
        qp_ctx       *ctx = qp_open((qp_options){.threads = threads});
        qp_tokenizer *t = qp_tokenizer_train_text(ctx, text, n * times, (qp_bpe_options){.size = 700});
        expect_ok(ctx);
        print_model(t, threads == 1 ? &first : &other);
        if (threads > 1) assert_string_equal(first.data, other.data);
        qp_close(ctx);
    }
    qpi_buffer_free(&first);
    qpi_buffer_free(&other);
    free(text);
    free(corpus);
}

static void files_and_lines(void **state) {
    (void)state;
    qp_ctx     *ctx = qp_open((qp_options){.threads = 2});
    qpi_buffer  a = {0}, b = {0};
    const char *lines = temporary("lines.jsonl"), *first = temporary("first.txt"),
               *second = temporary("second.txt");
    write_text(first, "low lower lowest\n\xC3\xA9t\xC3\xA9");
    write_text(second, "new newer newest");
    write_text(lines, "{\"body\":\"low lower lowest\\n\\u00e9t\\u00E9\",\"x\":[1,{\"body\":2}]}\n\n "
                      "{\"body\":\"new newer newest\"}");
    print_model(qp_tokenizer_train(ctx, 2, (const char *[]){first, second}, (qp_bpe_options){.size = 280}), &a);
    print_model(qp_tokenizer_train(ctx, 1, &lines, (qp_bpe_options){.size = 280, .field = "body"}), &b);
    assert_string_equal(a.data, b.data);
    assert_null(qp_tokenizer_train(ctx, 1, &lines, (qp_bpe_options){.size = 280}));
    expect_error(ctx, QP_ERR_FORMAT, "line 1 column 1: expected a string under \"text\"");
    assert_null(qp_tokenizer_train(ctx, 1, (const char *[]){"/nowhere"}, (qp_bpe_options){.size = 280}));
    expect_error(ctx, QP_ERR_IO, "/nowhere: cannot open");
    remove(lines);
    remove(first);
    remove(second);
    qpi_buffer_free(&a);
    qpi_buffer_free(&b);
    qp_close(ctx);
}

static void limits(void **state) {
    (void)state;
    qp_ctx       *ctx = qp_open((qp_options){.threads = 1});
    const char   *text = "aaaa aaaa aaab";
    size_t        n = strlen(text);
    qp_tokenizer *t = qp_tokenizer_train_text(ctx, text, n, (qp_bpe_options){.size = 5000});
    assert_true(qp_tokenizer_size(t) < 270); /* nothing more to merge */
    t = qp_tokenizer_train_text(ctx, text, n, (qp_bpe_options){.size = 5000, .min_count = 1000});
    assert_int_equal(qp_tokenizer_size(t), 257);
    t = qp_tokenizer_train_text(ctx, "", 0, (qp_bpe_options){.size = 300});
    assert_int_equal(qp_tokenizer_size(t), 257);
    t = qp_tokenizer_train_text(ctx, text, n, (qp_bpe_options){.size = 256, .special = (const char *[]){NULL}});
    assert_int_equal(qp_tokenizer_size(t), 256);
    assert_int_equal(qp_tokenizer_end(t), -1);
    assert_null(qp_tokenizer_train_text(ctx, text, n, (qp_bpe_options){.size = 255}));
    expect_error(ctx, QP_ERR_ARGUMENT, "size 255");
    assert_null(qp_tokenizer_train_text(ctx, text, n, (qp_bpe_options){.size = 300, .pattern = "("}));
    expect_error(ctx, QP_ERR_FORMAT, "bad pattern");
    const char *bad[] = {"\xFF"};
    assert_null(qp_tokenizer_train_text(ctx, text, n,
                                        (qp_bpe_options){.size = 300, .special = bad, .special_count = 1}));
    expect_error(ctx, QP_ERR_ARGUMENT, "special token 0");
    qp_close(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(like_the_package),
        cmocka_unit_test(cuts_change_nothing),
        cmocka_unit_test(files_and_lines),
        cmocka_unit_test(limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
