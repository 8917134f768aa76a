/* Data sets: what is in a batch, in which order, and going back to a place. */
#include "support.h"

#include <jansson.h>

#include "data/dataset.h"
#include "data/permute.h"
#include "data/tokenizer.h"

#define CORPUS GOLDEN "corpus.txt"

static qp_ctx *open_context(void) { return qp_open((qp_options){.threads = 2}); }

static qp_data *open_one(qp_ctx *ctx, const char *path, qp_data_options options) {
    qp_data *d = qp_data_open(ctx, 1, &path, options);
    expect_ok(ctx);
    assert_non_null(d);
    return d;
}

/* The next batch's inputs and labels, [rows, length] each. */
static void take(qp_ctx *ctx, qp_data *d, int64_t n, int64_t *inputs, int64_t *labels) {
    qp_scope  s = qp_enter(ctx);
    qp_record b = qp_data_next(d);
    expect_ok(ctx);
    assert_int_equal(b.count, 2);
    assert_int_equal(qp_read(qp_record_get(&b, "input_ids"), QP_I64, inputs, n), QP_OK);
    assert_int_equal(qp_read(qp_record_get(&b, "labels"), QP_I64, labels, n), QP_OK);
    assert_true(qp_is_none(qp_record_get(&b, "pixels")));
    qp_leave(s);
}

/* ---- Orders --------------------------------------------------------------------------- */

static void permutations(void **state) {
    (void)state;
    for (uint64_t n = 1; n < 300; n += n < 20 ? 1 : 37)
        for (uint64_t epoch = 0; epoch < 20; epoch++) {
            bool seen[300] = {0};
            for (uint64_t i = 0; i < n; i++) {
                uint64_t p = qpi_permute(n, 5, epoch, i);
                assert_true(p < n && !seen[p]);
                seen[p] = true;
            }
        }
    assert_true(qpi_permute(UINT64_MAX, 5, 0, 7) < UINT64_MAX);
    /* Every element is equally likely everywhere, and so is every difference of neighbours. */
    enum { N = 13, EPOCHS = 26000 };
    int places[N][N] = {0}, steps[N] = {0};
    for (uint64_t epoch = 0; epoch < EPOCHS; epoch++)
        for (uint64_t i = 0; i < N; i++) {
            uint64_t p = qpi_permute(N, 9, epoch, i);
            places[i][p]++;
            if (i) steps[(p + N - qpi_permute(N, 9, epoch, i - 1)) % N]++;
        }
    double expected = EPOCHS / (double)N, sum = 0;
    for (int i = 0; i < N; i++)
        for (int k = 0; k < N; k++) sum += (places[i][k] - expected) * (places[i][k] - expected) / expected;
    assert_true(sum < 220); /* 144 degrees of freedom: beyond 220 once in 50000 */
    expected = EPOCHS * (N - 1) / (double)(N - 1);
    sum = 0;
    for (int k = 1; k < N; k++) sum += (steps[k] - expected) * (steps[k] - expected) / expected;
    assert_true(sum < 40 && steps[0] == 0);
}

/* Bytes 0..249 in order: an id tells its place. */
static const char *ramp(int n) {
    const char *path = temporary("ramp.txt");
    char        data[250];
    for (int i = 0; i < n; i++) data[i] = (char)i;
    write_bytes(path, data, (size_t)n);
    return path;
}

static void shuffled_windows(void **state) {
    (void)state;
    enum { T = 8, B = 3 };
    qp_ctx     *ctx = open_context();
    const char *path = ramp(250);
    qp_data    *d = open_one(ctx, path, (qp_data_options){.batch = B, .length = T, .seed = 3});
    int64_t     inputs[B * T], labels[B * T], n = qp_data_samples(d);
    assert_int_equal(n, (250 - T) / T);
    assert_int_equal(qp_data_batches(d), (n + B - 1) / B);
    assert_int_equal(qp_data_tokens(d), 250);
    assert_int_equal(qp_data_bytes(d), 250);
    int  offsets[T] = {0}, sorted = 0;
    bool seen[40] = {0};
    for (int64_t sample = 0; sample < n * 60; sample++) {
        int64_t row = sample % B;
        if (row == 0) take(ctx, d, B * T, inputs, labels);
        for (int i = 0; i < T; i++) {
            assert_int_equal(labels[row * T + i], inputs[row * T + i] + 1);
            assert_int_equal(inputs[row * T + i], inputs[row * T] + i);
        }
        if (sample % n == 0) memset(seen, 0, sizeof seen);
        assert_false(seen[inputs[row * T] / T]); /* each window once an epoch */
        seen[inputs[row * T] / T] = true;
        if (sample % n == 0) offsets[inputs[row * T] % T]++;
        sorted += row > 0 && inputs[row * T] > inputs[row * T - T];
    }
    int used = 0;
    for (int i = 0; i < T; i++) used += offsets[i] > 0;
    assert_int_equal(used, T);
    assert_true(sorted > 40 * n / 3 && sorted < 80 * n / 3 / 2 * 3);
    remove(path);
    qp_close(ctx);
}

/* In order every id but the first is a label exactly once. */
static void in_order(void **state) {
    (void)state;
    for (int size = 2; size < 60; size++)
        for (int T = 1; T < 9; T += 3) {
            enum { B = 2 };
            qp_ctx         *ctx = open_context();
            const char     *path = ramp(size);
            qp_data_options options = {.batch = B, .length = T, .order = QP_SEQUENTIAL, .ahead = size % 3 - 1};
            qp_data        *d = open_one(ctx, path, options);
            int64_t         inputs[B * 8], labels[B * 8], next = 0;
            assert_int_equal(qp_data_samples(d), (size - 1 + T - 1) / T);
            for (int64_t b = 0; b < qp_data_batches(d); b++) {
                take(ctx, d, B * T, inputs, labels);
                for (int i = 0; i < B * T; i++)
                    if (labels[i] != -100) {
                        assert_int_equal(inputs[i], next);
                        assert_int_equal(labels[i], ++next);
                    } else {
                        assert_int_equal(next, size - 1);
                        assert_int_equal(inputs[i], 0);
                    }
            }
            assert_int_equal(next, size - 1);
            take(ctx, d, B * T, inputs, labels); /* and from the start again */
            assert_int_equal(inputs[0], 0);
            assert_int_equal(labels[0], 1);
            remove(path);
            qp_close(ctx);
        }
}

static void streams(void **state) {
    (void)state;
    enum { T = 5, B = 4 };
    qp_ctx     *ctx = open_context();
    const char *path = ramp(203);
    qp_data    *d = open_one(ctx, path, (qp_data_options){.batch = B, .length = T, .order = QP_STREAMS});
    int64_t     inputs[B * T], labels[B * T], last[B];
    assert_int_equal(qp_data_batches(d), 41 / B);
    for (int64_t b = 0; b < qp_data_batches(d); b++) {
        take(ctx, d, B * T, inputs, labels);
        for (int row = 0; row < B; row++) {
            assert_int_equal(inputs[row * T], b ? last[row] : row * 10 * T);
            last[row] = labels[row * T + T - 1];
        }
    }
    remove(path);
    qp_close(ctx);
}

/* Together the processes see what one alone sees. */
static void processes(void **state) {
    (void)state;
    enum { T = 4, B = 2, P = 3 };
    qp_ctx     *ctx = open_context();
    const char *path = ramp(250);
    for (int order = QP_SHUFFLED; order <= QP_STREAMS; order++) {
        qp_data_options o = {.batch = B * P, .length = T, .seed = 1, .order = (qp_order)order};
        qp_data        *alone = open_one(ctx, path, o), *parts[P];
        int64_t         all[B * P * T], all_labels[B * P * T], some[B * T], some_labels[B * T];
        for (int p = 0; p < P; p++) {
            o = (qp_data_options){
                .batch = B, .length = T, .seed = 1, .order = (qp_order)order, .process = p, .processes = P};
            parts[p] = open_one(ctx, path, o);
            assert_int_equal(qp_data_batches(parts[p]), qp_data_batches(alone));
        }
        for (int b = 0; b < 20; b++) {
            take(ctx, alone, B * P * T, all, all_labels);
            for (int p = 0; p < P; p++) {
                take(ctx, parts[p], B * T, some, some_labels);
                assert_memory_equal(some, all + p * B * T, sizeof some);
                assert_memory_equal(some_labels, all_labels + p * B * T, sizeof some);
            }
        }
    }
    remove(path);
    qp_close(ctx);
}

/* ---- Text ----------------------------------------------------------------------------- */

static void documents(void **state) {
    (void)state;
    qp_ctx     *ctx = open_context();
    const char *first = temporary("first.txt"), *lines = temporary("lines.jsonl");
    int64_t     inputs[32], labels[32];
    write_text(first, "ab");
    write_text(lines, "{\"text\": \"c\"}\n{\"text\": \"\"}\n\n{\"id\": 7, \"text\": \"<|endoftext|>d\"}\n");
    for (int special = 0; special < 2; special++) {
        qp_data_options o = {.length = 32, .order = QP_SEQUENTIAL, .special = special};
        qp_data        *d = qp_data_open(ctx, 2, (const char *[]){first, lines}, o);
        expect_ok(ctx);
        const int64_t text[] = {'a', 'b', 256, 'c', 256, 256, special ? 256 : '<', special ? 'd' : '|'};
        assert_int_equal(qp_data_tokens(d), special ? 8 : 20);
        assert_int_equal(qp_data_bytes(d), special ? 4 : 17);
        take(ctx, d, 32, inputs, labels);
        for (int i = 0; i < 7; i++) {
            assert_int_equal(inputs[i], text[i]);
            assert_int_equal(labels[i], text[i + 1]);
        }
    }
    remove(first);
    remove(lines);
    qp_close(ctx);
}

static void wrapped(void **state) {
    (void)state;
    qp_ctx       *ctx = open_context();
    qp_tokenizer *t = qp_tokenizer_load(ctx, GOLDEN "llama3.json");
    const char   *lines = temporary("wrapped.jsonl");
    int64_t       inputs[8], labels[8];
    write_text(lines, "{\"t\":\"a\"}\n{\"t\":\"b\"}");
    qp_data *d = open_one(
        ctx, lines,
        (qp_data_options){.length = 8, .order = QP_SEQUENTIAL, .tokenizer = t, .field = "t", .wrap = true});
    take(ctx, d, 8, inputs, labels);
    const int64_t ids[] = {0, qp_tokenizer_id(t, "a"), 1, 0, qp_tokenizer_id(t, "b")};
    assert_int_equal(qp_data_tokens(d), 5);
    assert_memory_equal(inputs, ids, 4 * sizeof *ids);
    assert_memory_equal(labels, ids + 1, 4 * sizeof *ids);
    assert_int_equal(labels[4], -100);
    d = open_one(ctx, lines,
                 (qp_data_options){.length = 8, .order = QP_SEQUENTIAL, .tokenizer = t, .field = "t"});
    assert_int_equal(qp_data_tokens(d), 3); /* the end between them alone */
    remove(lines);
    qp_close(ctx);
}

static void validation(void **state) {
    (void)state;
    qp_ctx     *ctx = open_context();
    const char *path = ramp(200), *other = temporary("other.txt"), *lines = temporary("some.jsonl");
    qp_data    *d = open_one(ctx, path, (qp_data_options){.batch = 2, .length = 8, .validation = 0.25});
    qp_data    *v = qp_data_validation(d);
    int64_t     inputs[16], labels[16];
    assert_int_equal(qp_data_tokens(d), 150);
    assert_int_equal(qp_data_tokens(v), 50);
    take(ctx, v, 16, inputs, labels);
    assert_int_equal(inputs[0], 150);
    assert_true(qp_data_fingerprint(d) != qp_data_fingerprint(v));
    assert_null(qp_data_validation(v));
    for (int i = 0; i < 100; i++) {
        take(ctx, d, 16, inputs, labels);
        for (int k = 0; k < 16; k++) assert_true(labels[k] < 150);
    }
    write_text(other, "xyz");
    d = open_one(ctx, path, (qp_data_options){.length = 2, .validation_paths = &other, .validation_count = 1});
    assert_int_equal(qp_data_tokens(d), 200);
    take(ctx, qp_data_validation(d), 2, inputs, labels);
    assert_int_equal(inputs[0], 'x');
    assert_int_equal(labels[1], 'z');
    qp_data_close(d);
    /* Documents stay whole. */
    write_text(lines, "{\"text\":\"aaaaaaaa\"}\n{\"text\":\"bbbbbbbb\"}\n{\"text\":\"cccc\"}");
    d = open_one(ctx, lines, (qp_data_options){.length = 2, .validation = 0.4});
    assert_int_equal(qp_data_tokens(d), 18);
    take(ctx, qp_data_validation(d), 2, inputs, labels);
    assert_int_equal(inputs[0], 'c');
    remove(path);
    remove(other);
    remove(lines);
    qp_close(ctx);
}

static void refused(void **state) {
    (void)state;
    qp_ctx     *ctx = open_context();
    const char *path = ramp(1), *lines = temporary("bad.jsonl");
    const struct {
        qp_data_options options;
        qp_code         code;
        const char     *words;
    } cases[] = {
        {{.length = 4}, QP_ERR_ARGUMENT, "1 ids are too few"},
        {{.length = -1}, QP_ERR_ARGUMENT, "a length of at least 1"},
        {{.validation = 1.5}, QP_ERR_ARGUMENT, "share below 1"},
        {{.validation_paths = (const char *[]){"/nowhere.txt"}, .validation_count = 1},
         QP_ERR_IO,
         "/nowhere.txt"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_null(qp_data_open(ctx, 1, &path, cases[i].options));
        expect_error(ctx, cases[i].code, cases[i].words);
    }
    path = ramp(100);
    const qp_data_options bad[] = {{.batch = -1},
                                   {.process = 2, .processes = 2},
                                   {.process = -1},
                                   {.order = (qp_order)9},
                                   {.batch = 50, .length = 50, .order = QP_STREAMS},
                                   {.validation = 0.001}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_null(qp_data_open(ctx, 1, &path, bad[i]));
        expect_error(ctx, QP_ERR_ARGUMENT, "data");
    }
    assert_null(qp_data_open(ctx, 0, NULL, (qp_data_options){0}));
    expect_error(ctx, QP_ERR_ARGUMENT, "expected files");
    const char *const broken[] = {"{\"text\":1}", "{\"text\":\"a\"}\n{", "7", "{\"text\":\"a\",\"text\":\"b\"}",
                                  "{}",           "{\"text\":\"a\"} x"};
    const char *const words[] = {"line 1 column 9: expected a string",  "line 2 column 2",
                                 "line 1 column 1: expected an object", "\"text\" twice",
                                 "expected a string under \"text\"",    "expected the end"};
    for (int i = 0; i < 6; i++) {
        write_text(lines, broken[i]);
        assert_null(qp_data_open(ctx, 1, &lines, (qp_data_options){0}));
        expect_error(ctx, QP_ERR_FORMAT, words[i]);
    }
    remove(path);
    remove(lines);
    qp_close(ctx);
}

/* ---- Places --------------------------------------------------------------------------- */

static void seeking(void **state) {
    (void)state;
    enum { T = 16, B = 4, N = 60 };
    static int64_t batches[N][B * T], inputs[B * T], labels[B * T];
    for (int ahead = -1; ahead < 5; ahead += 2) {
        qp_ctx         *ctx = open_context();
        qp_data_options o = {.batch = B, .length = T, .seed = 11, .ahead = ahead};
        qp_data        *d = open_one(ctx, CORPUS, o), *e = open_one(ctx, CORPUS, o);
        for (int i = 0; i < N; i++) {
            int64_t again[B * T];
            take(ctx, d, B * T, again, labels);
            if (ahead < 0) memcpy(batches[i], again, sizeof again);
            assert_memory_equal(batches[i], again, sizeof again); /* the same with any number ahead */
            assert_int_equal(qp_data_position(d), i + 1);
        }
        for (int i = 0; i < 200; i++) {
            uint64_t at = (uint64_t)(i * 7919) % N;
            if (i % 3) assert_int_equal(qp_data_seek(e, at), QP_OK);
            else at = qp_data_position(e) < N ? qp_data_position(e) : 0;
            if (at == 0) assert_int_equal(qp_data_seek(e, at), QP_OK);
            take(ctx, e, B * T, inputs, labels);
            assert_memory_equal(inputs, batches[at], sizeof inputs);
        }
        /* A state is taken up by another data set of the same kind. */
        assert_int_equal(qp_data_seek(d, 17), QP_OK);
        char *text = strdup(qp_data_state(d));
        assert_int_equal(qp_data_restore(e, text), QP_OK);
        assert_int_equal(qp_data_position(e), 17);
        take(ctx, e, B * T, inputs, labels);
        assert_memory_equal(inputs, batches[17], sizeof inputs);
        assert_true(qp_data_fingerprint(d) == qp_data_fingerprint(e));
        free(text);
        qp_close(ctx);
    }
}

static void changes_are_named(void **state) {
    (void)state;
    qp_ctx               *ctx = open_context();
    const char           *path = temporary("changing.txt"), *other = temporary("unchanged.txt");
    const char           *both[] = {other, path};
    const qp_data_options o = {.batch = 2, .length = 8, .seed = 1};
    write_text(path, "some text that will change after a while");
    write_text(other, "some text that will not");
    qp_data *d = qp_data_open(ctx, 2, both, o);
    char    *text = strdup(qp_data_state(d));
    const struct {
        qp_data_options options;
        int             files;
        const char     *words;
    } cases[] = {
        {{.batch = 4, .length = 8, .seed = 1}, 2, "batch was 2 when the state was saved and is 4"},
        {{.batch = 2, .length = 9, .seed = 1},
         2,
         "a row of input_ids had 8 entries when the state was saved and has 9"},
        {{.batch = 2, .length = 8, .seed = 2}, 2, "seed was 0000000000000001"},
        {{.batch = 2, .length = 8, .seed = 1, .order = QP_SEQUENTIAL}, 2, "order was shuffled"},
        {{.batch = 2, .length = 8, .seed = 1, .validation = 0.3},
         2,
         "an option (field, special, wrap, validation)"},
        {{.batch = 2, .length = 8, .seed = 1, .processes = 2}, 2, "processes was 1"},
        {{.batch = 2, .length = 8, .seed = 1}, 1, "changing.txt was part of it"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        qp_data *e = qp_data_open(ctx, cases[i].files, both, cases[i].options);
        expect_ok(ctx);
        assert_true(qp_data_fingerprint(e) != qp_data_fingerprint(d));
        assert_int_not_equal(qp_data_restore(e, text), QP_OK);
        expect_error(ctx, QP_ERR_STATE, cases[i].words);
    }
    write_text(path, "some text that has changed after a while");
    qp_data *e = qp_data_open(ctx, 2, both, o);
    assert_int_not_equal(qp_data_restore(e, text), QP_OK);
    expect_error(ctx, QP_ERR_STATE, "changing.txt has changed since the state was saved: 40 bytes, xxh64");
    e = qp_data_open(ctx, 3, (const char *[]){other, path, other}, o);
    assert_int_not_equal(qp_data_restore(e, text), QP_OK);
    expect_error(ctx, QP_ERR_STATE, "changing.txt has changed");
    const char *const broken[] = {"", "{}", "[]", "{\"kind\":\"text\",\"files\":7}", "{\"kind\":\"images\"}"};
    const qp_code     codes[] = {QP_ERR_FORMAT, QP_ERR_FORMAT, QP_ERR_FORMAT, QP_ERR_FORMAT, QP_ERR_STATE};
    for (int i = 0; i < 5; i++) {
        assert_int_not_equal(qp_data_restore(d, broken[i]), QP_OK);
        expect_error(ctx, codes[i], i < 4 ? "data state" : "kind was images");
    }
    free(text);
    remove(path);
    remove(other);
    qp_close(ctx);
}

/* States that nobody wrote, made of one that was. */
static void odd_states(void **state) {
    (void)state;
    qp_ctx     *ctx = open_context();
    const char *path = temporary("here.txt");
    write_text(path, "some text");
    qp_data *d = open_one(ctx, path, (qp_data_options){.batch = 2, .length = 4});
    char    *text = strdup(qp_data_state(d));
    static const struct {
        const char *member, *value; /* value NULL: gone */
        qp_code     code;
        const char *words;
    } cases[] = {
        {"files", "[]", QP_ERR_STATE, "here.txt is new since the state was saved"},
        {"files", "[{}]", QP_ERR_FORMAT, "files[0].xxh64: missing"},
        {"files", "[{\"xxh64\":7}]", QP_ERR_FORMAT, "files[0].xxh64"},
        {"files", "[{\"xxh64\":\"0\",\"bytes\":\"9\"}]", QP_ERR_FORMAT, "files[0].bytes"},
        {"files[0].bytes", "8", QP_ERR_STATE, "here.txt has changed since the state was saved: 8 bytes"},
        {"files+", "{}", QP_ERR_STATE, "a file was part of it"},
        {"files+", "{\"path\":7}", QP_ERR_FORMAT, "files[1].path"},
        {"shapes", NULL, QP_ERR_FORMAT, "shapes: missing"},
        {"shapes", "{}", QP_ERR_FORMAT, "shapes.input_ids: missing"},
        {"shapes", "{\"input_ids\":[4,1]}", QP_ERR_STATE, "input_ids had another shape"},
        {"batch", NULL, QP_ERR_FORMAT, "batch: missing"},
        {"seed", NULL, QP_ERR_FORMAT, "seed: missing"},
        {"order", "7", QP_ERR_FORMAT, "order"},
        {"content", "\"0\"", QP_ERR_STATE, "the same files give other samples"},
        {"position", "-1", QP_ERR_FORMAT, "position"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *root = json_loads(text, 0, NULL), *files = json_object_get(root, "files");
        json_t *value = cases[i].value ? json_loads(cases[i].value, JSON_DECODE_ANY, NULL) : NULL;
        if (strcmp(cases[i].member, "files+") == 0) json_array_append_new(files, value);
        else if (strcmp(cases[i].member, "files[0].bytes") == 0)
            json_object_set_new(json_array_get(files, 0), "bytes", value);
        else if (value) json_object_set_new(root, cases[i].member, value);
        else json_object_del(root, cases[i].member);
        char *odd = json_dumps(root, JSON_COMPACT);
        assert_int_not_equal(qp_data_restore(d, odd), QP_OK);
        expect_error(ctx, cases[i].code, cases[i].words);
        free(odd);
        json_decref(root);
    }
    assert_int_equal(qp_data_restore(d, text), QP_OK);
    free(text);
    remove(path);
    qp_close(ctx);
}

/* More tokens than 16 bits number: ids come out as they are. */
static void wide_ids(void **state) {
    (void)state;
    qp_ctx *ctx = open_context();
    char   *json = malloc((size_t)2 << 20);
    size_t  n =
        (size_t)sprintf(json, "{\"model\":{\"type\":\"WordLevel\",\"unk_token\":\"w0\",\"vocab\":{\"w0\":0");
    for (int i = 1; i < 70000; i++) n += (size_t)sprintf(json + n, ",\"w%d\":%d", i, i);
    strcpy(json + n, "}},\"pre_tokenizer\":{\"type\":\"WhitespaceSplit\"}}");
    qpi_error     e = {0};
    qp_tokenizer *t = qpi_tokenizer_give(ctx, qpi_tokenizer_parse("x", json, strlen(json), &e), &e);
    expect_ok(ctx);
    const char *path = temporary("wide.txt");
    write_text(path, "w1 w69999 w65536 w2 w65535");
    int64_t  inputs[4], labels[4];
    qp_data *d = open_one(
        ctx, path, (qp_data_options){.length = 4, .tokenizer = t, .order = QP_SEQUENTIAL, .validation = 0});
    take(ctx, d, 4, inputs, labels);
    const int64_t want[] = {1, 69999, 65536, 2, 65535};
    assert_memory_equal(inputs, want, sizeof inputs);
    assert_memory_equal(labels, want + 1, sizeof labels);
    assert_int_not_equal(qp_data_fingerprint(d), 0);
    /* It has no token that ends a text, so a part for validation begins anywhere. */
    d = open_one(ctx, path, (qp_data_options){.length = 1, .tokenizer = t, .validation = 0.4});
    assert_int_equal(qp_data_tokens(qp_data_validation(d)), 2);
    remove(path);
    free(json);
    qp_close(ctx);
}

static void write_lines(const char *path, int n, size_t bytes) {
    FILE *f = fopen(path, "wb");
    char *text = malloc(bytes);
    memset(text, 'x', bytes);
    assert_non_null(f);
    for (int i = 0; i < n; i++) {
        fputs("{\"text\":\"", f);
        fwrite(text, 1, bytes, f);
        fputs(i % 2 ? "\"}\n\t\r\n" : "\"}\n \n", f);
    }
    fclose(f);
    free(text);
}

static void odd_files(void **state) {
    (void)state;
    qp_ctx                  *ctx = open_context();
    qp_data_options          o = {.length = 4, .order = QP_SEQUENTIAL};
    static const char *const names[] = {"none.jsonl", "none.txt"};
    for (int i = 0; i < 2; i++) {
        const char *path = temporary(names[i]);
        write_text(path, "");
        assert_null(qp_data_open(ctx, 1, &path, o));
        expect_error(ctx, QP_ERR_ARGUMENT, "0 ids are too few");
        remove(path);
    }
    /* More than is encoded at once, in lines with blanks between them. */
    const char *path = temporary("long.ndjson");
    write_lines(path, 9, (size_t)1 << 20);
    assert_int_equal(qp_data_tokens(open_one(ctx, path, o)), (9 << 20) + 8);
    qp_cancel(ctx);
    assert_null(qp_data_open(ctx, 1, &path, o));
    expect_error(ctx, QP_ERR_CANCELLED, "cancelled");
    remove(path);
    path = temporary("lines.jsonl");
    write_text(path, "{\"text\":\"a\",\"x\":tru}");
    assert_null(qp_data_open(ctx, 1, &path, o));
    expect_error(ctx, QP_ERR_FORMAT, "line 1");
    /* Shuffled windows where there is room for one and a half. */
    write_text(path, "{\"text\":\"abcdef\"}");
    assert_int_equal(qp_data_samples(open_one(ctx, path, (qp_data_options){.length = 4})), 1);
    /* A list of no files for validation is none. */
    assert_null(
        qp_data_validation(open_one(ctx, path, (qp_data_options){.length = 4, .validation_paths = &path})));
    remove(path);
    path = temporary("without-a-dot");
    write_text(path, "{\"text\":7}");
    assert_int_equal(qp_data_tokens(open_one(ctx, path, o)), 10);
    const qp_data_options refused[] = {{.length = -1},
                                       {.length = (int64_t)1 << 32},
                                       {.validation = 1},
                                       {.validation = -0.5},
                                       {.processes = -1}};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        assert_null(qp_data_open(ctx, 1, &path, refused[i]));
        expect_error(ctx, QP_ERR_ARGUMENT, "data: ");
    }
    assert_null(qp_data_open(ctx, 0, &path, o));
    expect_error(ctx, QP_ERR_ARGUMENT, "expected files");
    /* The part for validation goes with the whole. */
    qp_data *d = open_one(ctx, path, (qp_data_options){.length = 2, .validation = 0.4}),
            *v = qp_data_validation(d);
    qp_data_close(v);
    assert_int_equal(qp_data_next(v).count, 2);
    remove(path);
    qp_close(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(permutations), cmocka_unit_test(shuffled_windows), cmocka_unit_test(in_order),
        cmocka_unit_test(streams),      cmocka_unit_test(processes),        cmocka_unit_test(documents),
        cmocka_unit_test(wrapped),      cmocka_unit_test(validation),       cmocka_unit_test(refused),
        cmocka_unit_test(seeking),      cmocka_unit_test(odd_states),       cmocka_unit_test(changes_are_named),
        cmocka_unit_test(wide_ids),     cmocka_unit_test(odd_files)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
