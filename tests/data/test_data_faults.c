/* Every call of the heap and of the operating system fails in turn, in tokenizers and data
 * sets: a clean error or success, and nothing leaks. */
#include "support.h"

#include "../format/in_turn.h"

#if FAULTS

static const char *name; /* of the golden tokenizer at hand */

static bool load_and_use(qp_ctx *ctx) {
    static const char text[] =
        "It's <|endoftext|> 12 k\xC3\xA4"
        "fer, e\xCC\x81 and <l> knots; aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    char    path[400];
    qp_ids  ids = {0};
    qp_text out = {0};
    snprintf(path, sizeof path, "%s%s.json", GOLDEN, name);
    qp_tokenizer *t = qp_tokenizer_load(ctx, path);
    bool ok = t && qp_encode(ctx, t, text, sizeof text - 1, (qp_encode_options){.wrap = true}, &ids) == QP_OK &&
              qp_decode(ctx, t, ids.data, ids.count, true, &out) == QP_OK &&
              qp_tokenizer_save(ctx, t, temporary("faults.json")) == QP_OK;
    qp_ids_free(&ids);
    qp_text_free(&out);
    return ok;
}

static void tokenizers(void **state) {
    (void)state;
    const char *const names[] = {"dropped", "fused", "added", "llama3", "qwen2", "gaps", "bytes"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        name = names[i];
        in_turn(load_and_use, 1, NULL, NULL);
    }
    remove(temporary("faults.json"));
}

static bool encode_long(qp_ctx *ctx) {
    size_t        n = 200000;
    char         *text = __libc_malloc(n); /* this one does not fail */
    qp_ids        ids = {0};
    qp_tokenizer *t = qp_tokenizer_load(ctx, GOLDEN "gpt2.json");
    for (size_t i = 0; i < n; i++) text[i] = "knots and cords "[i % 16];
    bool ok = t && qp_encode(ctx, t, text, n, (qp_encode_options){0}, &ids) == QP_OK;
    __libc_free(text);
    qp_ids_free(&ids);
    return ok;
}

static void encoding_in_threads(void **state) {
    (void)state;
    in_turn(encode_long, 3, NULL, NULL);
}

static bool train(qp_ctx *ctx) {
    const char    *path = GOLDEN "corpus.txt", *pattern = "llama3";
    qp_bpe_options options = {.size = 400, .pattern = pattern};
    return qp_tokenizer_train(ctx, 1, &path, options) != NULL;
}

static void training(void **state) {
    (void)state;
    in_turn(train, 1, NULL, NULL);
    in_turn(train, 2, NULL, NULL);
}

static int ahead;

static bool read_data(qp_ctx *ctx) {
    const char     *path = GOLDEN "corpus.txt";
    qp_data_options o = {.batch = 2, .length = 16, .validation = 0.2, .ahead = ahead};
    qp_data        *d = qp_data_open(ctx, 1, &path, o);
    for (int i = 0; d && i < 5; i++) {
        qp_scope s = qp_enter(ctx);
        qp_data_next(i % 2 ? d : qp_data_validation(d));
        qp_leave(s);
    }
    const char *text = d ? qp_data_state(d) : NULL;
    if (text && qp_data_restore(d, text) != QP_OK) return false;
    qp_record b = {0};
    if (d) b = qp_data_next(d); /* still out when the context closes */
    return b.count > 0 && !qp_failed(ctx);
}

static void data_sets(void **state) {
    (void)state;
    for (ahead = -1; ahead < 3; ahead += 3) in_turn(read_data, 1, NULL, NULL);
}

static bool read_lines(qp_ctx *ctx) {
    const char     *path = temporary("faults.jsonl");
    qp_data_options o = {.length = 4, .ahead = -1};
    return qp_data_open(ctx, 1, &path, o) != NULL;
}

static void json_lines(void **state) {
    (void)state;
    write_text(temporary("faults.jsonl"), "{\"text\":\"one \\u00e9\"}\n{\"text\":\"two\"}\n");
    in_turn(read_lines, 1, NULL, NULL);
    remove(temporary("faults.jsonl"));
}

/* Once batches go round, none costs a call of the heap. */
static void no_calls_in_the_loop(void **state) {
    (void)state;
    const char *path = GOLDEN "corpus.txt";
    for (ahead = -1; ahead < 3; ahead += 3) {
        qp_ctx  *ctx = qp_open((qp_options){.threads = 1});
        qp_data *d = qp_data_open(ctx, 1, &path, (qp_data_options){.batch = 2, .length = 16, .ahead = ahead});
        for (int i = 0; i < 200; i++) {
            if (i == 20) faults_begin(INT64_MAX);
            qp_scope s = qp_enter(ctx);
            qp_record b = qp_data_next(d);
            if (!b.count) break;
            qp_leave(s);
        }
        faults_end();
        expect_ok(ctx);
        assert_int_equal(atomic_load(&faults_calls), 0);
        qp_close(ctx);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokenizers), cmocka_unit_test(encoding_in_threads),
        cmocka_unit_test(training),   cmocka_unit_test(data_sets),
        cmocka_unit_test(json_lines), cmocka_unit_test(no_calls_in_the_loop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
#else
int main(void) { return 0; }
#endif
