/* Training against the trainer of the `tokenizers` package (golden files). */
#include "support.h"

#include <pthread.h>

#include "core/core.h"
#include "data/tokenizer.h"
#include "data/words.h"

#define LLAMA3 \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*" \
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
    assert_null(qp_tokenizer_train_text(ctx, text, n, (qp_bpe_options){.size = INT64_MAX}));
    expect_error(ctx, QP_ERR_ARGUMENT, "size 9223372036854775807");
    qp_close(ctx);
}

static void special_tokens(void **state) {
    (void)state;
    qp_ctx           *ctx = qp_open((qp_options){.threads = 1});
    char              longest[514];
    const char *const bad[] = {"", longest};
    memset(longest, 'x', 513);
    longest[513] = 0;
    for (int i = 0; i < 2; i++) {
        assert_null(qp_tokenizer_train_text(
            ctx, "a", 1, (qp_bpe_options){.size = 300, .special = bad + i, .special_count = 1}));
        expect_error(ctx, QP_ERR_ARGUMENT, "special token 0: expected 1 to 512 bytes");
    }
    /* One that is named twice is one; one that is a byte's text is that; what merges to one becomes it. */
    const char *const special[] = {"<a>", "<a>", "b", "no"};
    const char        text[] = " no no no no";
    qp_ids            ids = {0};
    qp_tokenizer     *t = qp_tokenizer_train_text(
        ctx, text, sizeof text - 1, (qp_bpe_options){.size = 259, .special = special, .special_count = 4});
    expect_ok(ctx);
    assert_int_equal(qp_tokenizer_size(t), 259);
    assert_int_equal(qp_tokenizer_id(t, "<a>"), 0);
    assert_int_equal(qp_tokenizer_id(t, "b"), 1);
    assert_int_equal(qp_tokenizer_id(t, "no"), 2);
    assert_int_equal(t->added_count, 3);
    assert_int_equal(qp_encode(ctx, t, text, sizeof text - 1, (qp_encode_options){.literal = true}, &ids),
                     QP_OK);
    assert_int_equal(ids.count, 4);
    for (int i = 0; i < 4; i++) assert_int_equal(ids.data[i], 258); /* a space and "no" */
    qp_ids_free(&ids);
    qp_close(ctx);
}

/* ---- Against counting all pairs anew for each merge ------------------------------------------ */

static uint32_t random_state = 1;
static uint32_t draw(uint32_t n) {
    random_state = random_state * 1664525 + 1013904223;
    return (uint32_t)((uint64_t)random_state * n >> 32);
}

#define DIFFERENT 3000 /* words, of a space and letters that are all different: no pair overlaps itself */
#define LETTERS 6
#define MERGES 400
#define SIZE (257 + MERGES)

typedef struct {
    int32_t ids[LETTERS + 1];
    int     n;
} plain_word;

static void merge_plain(plain_word *w, int32_t a, int32_t b, int32_t id) {
    int out = 0;
    for (int i = 0; i < w->n; out++) {
        bool hit = i + 1 < w->n && w->ids[i] == a && w->ids[i + 1] == b;
        w->ids[out] = hit ? id : w->ids[i];
        i += 1 + hit;
    }
    w->n = out;
}

static void like_counting_anew(void **state) {
    (void)state;
    qp_ctx           *ctx = qp_open((qp_options){.threads = 2});
    static plain_word words[DIFFERENT];
    static int32_t    counts[SIZE][SIZE];
    char             *text = malloc(DIFFERENT * (LETTERS + 1) + 1);
    size_t            n = 0;
    for (int i = 0; i < DIFFERENT; i++) {
        char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
        text[n++] = ' ';
        for (uint32_t k = 0; k < LETTERS; k++) {
            uint32_t at = k + draw(52 - k);
            char     c = letters[at];
            letters[at] = letters[k];
            letters[k] = c;
            text[n++] = c;
        }
    }
    qp_tokenizer *t = qp_tokenizer_train_text(ctx, text, n, (qp_bpe_options){.size = SIZE});
    expect_ok(ctx);
    assert_int_equal(qp_tokenizer_size(t), SIZE);
    for (int i = 0; i < DIFFERENT; i++)
        for (words[i].n = 0; words[i].n <= LETTERS; words[i].n++) {
            char c = text[i * (LETTERS + 1) + words[i].n];
            words[i].ids[words[i].n] = qp_tokenizer_id(t, c == ' ' ? "\xC4\xA0" : (char[]){c, 0});
        }
    for (int32_t id = 257; id < SIZE; id++) {
        int32_t a = 0, b = 0;
        memset(counts, 0, sizeof counts);
        for (int i = 0; i < DIFFERENT; i++)
            for (int k = 0; k + 1 < words[i].n; k++) counts[words[i].ids[k]][words[i].ids[k + 1]]++;
        for (int32_t x = 0; x < id; x++)
            for (int32_t y = 0; y < id; y++)
                if (counts[x][y] > counts[a][b]) a = x, b = y;
        char joined[40];
        snprintf(joined, sizeof joined, "%s%s", qp_tokenizer_token(t, a), qp_tokenizer_token(t, b));
        assert_string_equal(qp_tokenizer_token(t, id), joined);
        for (int i = 0; i < DIFFERENT; i++) merge_plain(&words[i], a, b, id);
    }
    free(text);
    qp_close(ctx);
}

/* Some of so many words have the same 32 bits of hash. */
static void every_word_is_counted(void **state) {
    (void)state;
    enum { N = 400000 };
    qp_ctx          *ctx = qp_open((qp_options){.threads = 1});
    char            *text = malloc((size_t)N * 10);
    qpi_document    *documents = malloc(N * sizeof *documents);
    qpi_words        words = {0};
    qpi_error        e = {0};
    qpi_pretokenizer none = {0};
    for (int i = 0; i < N; i++) {
        char *word = text + (size_t)i * 10;
        documents[i] = (qpi_document){(uint8_t *)word, (size_t)sprintf(word, i % 2 ? "%08d" : "%07d", i)};
    }
    assert_true(qpi_words_count(&words, &none, &ctx->exec, documents, N, &e));
    assert_int_equal(words.count, N);
    for (size_t i = 0; i < N; i++) assert_int_equal(words.items[i].count, 1);
    qpi_words_free(&words);
    free(documents);
    free(text);
    qp_close(ctx);
}

static void *cancel_soon(void *ctx) {
    usleep(30000);
    qp_cancel(ctx);
    return NULL;
}

static void cancelled(void **state) {
    (void)state;
    qp_ctx   *ctx = qp_open((qp_options){.threads = 1});
    size_t    n = 4000000;
    char     *text = malloc(n);
    pthread_t thread;
    for (size_t i = 0; i < n; i++) text[i] = i % 9 ? (char)('a' + draw(26)) : ' ';
    qp_cancel(ctx);
    assert_null(qp_tokenizer_train_text(ctx, text, n, (qp_bpe_options){.size = 100000}));
    expect_error(ctx, QP_ERR_CANCELLED, "training a tokenizer: cancelled");
    /* In the middle of it, which takes seconds. */
    assert_int_equal(pthread_create(&thread, NULL, cancel_soon, ctx), 0);
    assert_null(qp_tokenizer_train_text(ctx, text, n, (qp_bpe_options){.size = 100000}));
    expect_error(ctx, QP_ERR_CANCELLED, "training a tokenizer: cancelled");
    pthread_join(thread, NULL);
    free(text);
    qp_close(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(like_the_package),      cmocka_unit_test(cuts_change_nothing),
        cmocka_unit_test(files_and_lines),       cmocka_unit_test(limits),
        cmocka_unit_test(special_tokens),        cmocka_unit_test(like_counting_anew),
        cmocka_unit_test(every_word_is_counted), cmocka_unit_test(cancelled),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
