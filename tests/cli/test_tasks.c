/* Rows of the tasks, whose labels are found anew from their ids. */
#include "support.h"

#include "cli/open.h"
#include "cli/task.h"

enum { MOST = 1024 };

/* What task_text reads files with, in the command. */
bool cli_read_text(qp_ctx *c, const char *path, qp_text *text) {
    size_t bytes;
    (void)c;
    text->data = read_file(path, &bytes);
    text->count = text->capacity = bytes;
    return true;
}

/* Calls check for each of n rows of both splits. */
static void each_row(const char *spec, int files, const char *const *paths, int64_t T, int n,
                     void (*check)(const task *t, const int64_t *ids, const int64_t *labels, int64_t T)) {
    task          t;
    qp_tokenizer *bytes = qp_tokenizer_bytes(ctx);
    if (!task_open(&t, ctx, spec, files, paths, bytes)) fail_msg("%s: %s", spec, qp_error(ctx));
    for (int split = 0; split < 2; split++) {
        qp_data *d = task_data(&t, ctx, (task_split)split, T, 1, 0, 5);
        if (!d) fail_msg("%s: %s", spec, qp_error(ctx));
        for (int i = 0; i < n && i < qp_data_batches(d); i++) {
            qp_scope       s = qp_enter(ctx);
            qp_record      b = qp_data_next(d);
            const int64_t *ids = qp_data_of(qp_record_get(&b, "input_ids")),
                          *labels = qp_data_of(qp_record_get(&b, "labels"));
            int64_t counted = 0;
            assert_int_equal(qp_count(qp_record_get(&b, "input_ids")), T);
            for (int64_t k = 0; k < T; k++) {
                assert_in_range(ids[k], 0, t.about.vocabulary - 1);
                if (labels[k] == TASK_NOTHING) continue;
                assert_in_range(labels[k], 0, t.about.vocabulary - 1);
                counted++;
            }
            assert_true(counted > 0);
            check(&t, ids, labels, T);
            qp_leave(s);
        }
        qp_data_close(d);
    }
    task_close(&t);
}

/* ---- Made tasks ---------------------------------------------------------------------------------- */

static int64_t first_places; /* rows whose tokens all stand at the beginning */

static void check_copy(const task *t, const int64_t *ids, const int64_t *labels, int64_t T) {
    int64_t found = 0, M = 5;
    (void)t;
    for (int64_t i = 0; i < T - M; i++) {
        assert_int_equal(labels[i], TASK_NOTHING);
        if (ids[i] >= 2) assert_int_equal(labels[T - M + found++], ids[i]);
        else assert_int_equal(ids[i], 0);
    }
    assert_int_equal(found, M);
    for (int64_t i = T - M; i < T; i++) assert_int_equal(ids[i], 1);
    int64_t run = 0;
    while (run < M && ids[run] >= 2) run++;
    first_places += run == M;
}

static void test_copying(void **state) {
    (void)state;
    first_places = 0;
    each_row("selective_copying:tokens=5", 0, NULL, 64, 100, check_copy);
    assert_in_range(first_places, 0, 2);
    first_places = 0;
    each_row("selective_copying:tokens=5:selective=false", 0, NULL, 64, 100, check_copy);
    assert_int_equal(first_places, 200);
    each_row("selective_copying:tokens=5:vocab=3", 0, NULL, 10, 20, check_copy);
}

static void check_induction(const task *t, const int64_t *ids, const int64_t *labels, int64_t T) {
    int64_t mark = t->about.vocabulary - 1, marks = 0;
    for (int64_t i = 0; i < T - 1; i++) {
        assert_int_equal(labels[i], TASK_NOTHING);
        if (ids[i] != mark) continue;
        marks++;
        assert_int_equal(labels[T - 1], ids[i + 1]);
    }
    assert_int_equal(marks, 1);
    assert_int_equal(ids[T - 1], mark);
}

static void test_induction(void **state) {
    (void)state;
    each_row("induction_heads", 0, NULL, 40, 100, check_induction);
    each_row("induction_heads:vocab=2", 0, NULL, 3, 20, check_induction);
}

static void check_recall(const task *t, const int64_t *ids, const int64_t *labels, int64_t T) {
    int64_t P = 6, asked = 0;
    (void)t;
    for (int64_t i = 0; i < 2 * P; i += 2)
        for (int64_t k = 0; k < i; k += 2) assert_int_not_equal(ids[i], ids[k]);
    for (int64_t i = 0; i < T; i++) {
        if (labels[i] == TASK_NOTHING) {
            if (i >= 2 * P) assert_int_equal(ids[i], 0);
            continue;
        }
        int64_t k = 0;
        while (k < 2 * P && ids[k] != ids[i]) k += 2;
        assert_in_range(k, 0, 2 * P - 2);
        assert_int_equal(labels[i], ids[k + 1]);
        asked++;
    }
    assert_int_equal(asked, P);
}

static void test_recall(void **state) {
    (void)state;
    each_row("associative_recall:pairs=6:keys=6:values=3", 0, NULL, 18, 50, check_recall);
    each_row("associative_recall:pairs=6", 0, NULL, 100, 50, check_recall);
}

/* Another evaluator: with a stack, from the left. */
static void check_list(const task *t, const int64_t *ids, const int64_t *labels, int64_t T) {
    int values[MOST], starts[MOST], kinds[MOST], n = 0, open = 0;
    (void)t;
    for (int64_t i = 0; i < T; i++) {
        if (ids[i] == 0) assert_int_equal(n + open, 0); /* padding stands before */
        else if (ids[i] <= 10) values[n++] = (int)ids[i] - 1;
        else if (ids[i] < 15) {
            starts[open] = n;
            kinds[open++] = (int)ids[i] - 11;
        } else {
            int from = starts[--open], count = n - from, sum = 0, value = 0;
            assert_true(count >= 2);
            for (int k = from; k < n; k++) sum += values[k];
            for (int k = from; k < n; k++) { /* the value that so many are below, by rank */
                int below = 0, equal = 0;
                for (int j = from; j < n; j++) below += values[j] < values[k], equal += values[j] == values[k];
                if (kinds[open] == 0 && below + equal == count) value = values[k];
                if (kinds[open] == 1 && below == 0) value = values[k];
            }
            if (kinds[open] == 2) {
                int twice = 0; /* the two in the middle, which may be one */
                for (int middle = (count - 1) / 2; middle <= count / 2; middle++)
                    for (int k = from; k < n; k++) {
                        int below = 0, equal = 0;
                        for (int j = from; j < n; j++)
                            below += values[j] < values[k], equal += values[j] == values[k];
                        if (below <= middle && middle < below + equal) {
                            twice += values[k] * (count % 2 ? 2 : 1);
                            break;
                        }
                    }
                value = twice / 2;
            }
            if (kinds[open] == 3) value = sum % 10;
            n = from;
            values[n++] = value;
        }
    }
    assert_int_equal(n, 1);
    assert_int_equal(open, 0);
    assert_int_equal(labels[T - 1], values[0] + 1);
}

static void test_listops(void **state) {
    (void)state;
    each_row("listops", 0, NULL, 200, 200, check_list);
    each_row("listops:depth=1:arguments=32", 0, NULL, 8, 50, check_list);
    each_row("listops:depth=20", 0, NULL, 1000, 20, check_list);
}

/* ---- Tasks with files ---------------------------------------------------------------------------- */

static char text[4000];

static void check_text(const task *t, const int64_t *ids, const int64_t *labels, int64_t T) {
    char row[MOST + 2];
    (void)t;
    for (int64_t i = 0; i < T; i++) {
        row[i] = (char)ids[i];
        assert_int_equal(labels[i], i + 1 < T ? ids[i + 1] : labels[i]);
    }
    row[T] = (char)labels[T - 1];
    row[T + 1] = 0;
    assert_non_null(strstr(text, row));
}

static int64_t said, masked, rows_seen;

static void check_masks(const task *t, const int64_t *ids, const int64_t *labels, int64_t T) {
    for (int64_t i = 0; i < T; i++) {
        if (labels[i] == TASK_NOTHING) assert_true(ids[i] < 256);
        else assert_true(labels[i] < 256), said++, masked += ids[i] == t->about.vocabulary - 1;
    }
    rows_seen++;
}

static void test_texts(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof text - 1; i++) text[i] = (char)('a' + i * i % 23);
    write_file("text", text, sizeof text - 1);
    const char *path = in_folder("text");
    each_row("lm", 1, &path, 50, 100, check_text);
    each_row("mlm:share=0.3", 1, &path, 50, 100, check_masks);
    double share = (double)said / (double)(50 * rows_seen), mask = (double)masked / (double)said;
    assert_true(share > 0.25 && share < 0.37);
    assert_true(mask > 0.7 && mask < 0.9);
    /* no window of the training reaches into the tests, and these are all there is of the last tenth */
    task          t;
    qp_tokenizer *bytes = qp_tokenizer_bytes(ctx);
    assert_true(task_open(&t, ctx, "lm", 1, &path, bytes));
    assert_int_equal(t.type->samples(t.self, TASK_TEST, 50), (399 - 1) / 50);
    assert_null(task_data(&t, ctx, TASK_TEST, 500, 1, 0, 0));
    assert_non_null(strstr(qp_error(ctx), "too short"));
    qp_clear(ctx);
    task_close(&t);
}

static void check_image(const task *t, const int64_t *ids, const int64_t *labels, int64_t T) {
    (void)t;
    assert_int_equal(T, 4);
    for (int i = 0; i < 4; i++)
        assert_int_equal(ids[i], labels[3] == i ? 31 : 0); /* class i: quarter i is white */
}

/* Images of 4 x 4 with one white quarter. */
static void write_images(int n) {
    unsigned char images[16 + 64 * 16] = {0, 0, 8, 3, 0, 0, 0, (unsigned char)n, 0, 0, 0, 4, 0, 0, 0, 4},
                                   labels[8 + 64] = {0, 0, 8, 1, 0, 0, 0, (unsigned char)n};
    for (int i = 0; i < n; i++) {
        labels[8 + i] = (unsigned char)(i * 7 % 4);
        for (int p = 0; p < 16; p++) images[16 + 16 * i + p] = p / 8 * 2 + p % 4 / 2 == labels[8 + i] ? 255 : 0;
    }
    write_file("images", images, 16 + 16 * (size_t)n);
    write_file("labels", labels, 8 + (size_t)n);
}

static void expect_refusal(const char *spec, int files, const char *const *paths, const char *part) {
    task          t;
    qp_tokenizer *bytes = qp_tokenizer_bytes(ctx);
    assert_false(task_open(&t, ctx, spec, files, paths, bytes));
    if (!strstr(qp_error(ctx), part)) fail_msg("\"%s\" has no \"%s\"", qp_error(ctx), part);
    qp_clear(ctx);
    task_close(&t);
}

static void test_pixels(void **state) {
    (void)state;
    write_images(40);
    const char *paths[] = {in_folder("images"), in_folder("labels")};
    each_row("pixels", 2, paths, 4, 40, check_image);
    task          t;
    qp_tokenizer *bytes = qp_tokenizer_bytes(ctx);
    assert_true(task_open(&t, ctx, "pixels:levels=2", 2, paths, bytes));
    assert_int_equal(t.about.vocabulary, 4); /* the classes are more than the levels */
    assert_non_null(t.type->refuses(t.self, 5));
    assert_non_null(t.type->refuses(t.self, 25));
    assert_null(t.type->refuses(t.self, 16));
    assert_int_equal(t.type->samples(t.self, TASK_TRAINING, 4), 36);
    assert_int_equal(t.type->samples(t.self, TASK_TEST, 4), 4);
    task_close(&t);
}

static void test_hostile_images(void **state) {
    (void)state;
    static const struct {
        unsigned char head[16];
        size_t        bytes;
        const char   *says;
    } all[] = {{{0x1f, 0x8b, 8, 3}, 16, "gunzip"},
               {{0, 0, 8}, 3, "no IDX file"},
               {{1, 0, 8, 3}, 16, "no IDX file"},
               {{0, 0, 13, 3}, 16, "0x0d"},
               {{0, 0, 8, 0}, 16, "0 axes"},
               {{0, 0, 8, 9}, 16, "9 axes"},
               {{0, 0, 8, 3}, 15, "3 axes"},
               {{0, 0, 8, 3, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255}, 16, "axis 0"},
               {{0, 0, 8, 3, 0, 0, 0, 0}, 16, "axis 0"},
               {{0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1}, 16, "1 elements, but 0 bytes"},
               {{0, 0, 8, 1, 0, 0, 0, 8}, 16, "as many labels"}};
    write_images(8);
    const char *paths[] = {in_folder("odd"), in_folder("labels")};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        write_file("odd", all[i].head, all[i].bytes);
        expect_refusal("pixels", 2, paths, all[i].says);
    }
    expect_refusal("pixels", 1, paths, "expected --data IMAGES LABELS");
    /* images to test on are of those to train on's size */
    static const unsigned char one[] = {0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 9},
                               label[] = {0, 0, 8, 1, 0, 0, 0, 1, 0};
    write_file("one", one, sizeof one);
    write_file("label", label, sizeof label);
    const char *pairs[] = {in_folder("images"), in_folder("labels"), in_folder("one"), in_folder("label")};
    expect_refusal("pixels", 4, pairs, "images of 1 x 1");
}

/* ---- Specifications ------------------------------------------------------------------------------ */

static void test_specs(void **state) {
    (void)state;
    expect_refusal("nothing", 0, NULL, "no task \"nothing\"");
    expect_refusal("listops:depth", 0, NULL, "expected option=value");
    expect_refusal("listops:deep=2", 0, NULL, "has no option deep");
    expect_refusal("listops:depth=99", 0, NULL, "from 1 to 20");
    expect_refusal("associative_recall:pairs=9:keys=8", 0, NULL, "9 pairs of 8 keys");
    expect_refusal("lm", 0, NULL, "give --data");
    expect_refusal("listops", 1, (const char *[]){"x"}, "leave --data out");
}

/* The same seed gives the same rows, another one others; tests do not depend on it. */
static void test_seeds(void **state) {
    (void)state;
    int64_t rows[4][64];
    task    t;
    assert_true(task_open(&t, ctx, "induction_heads", 0, NULL, NULL));
    for (int i = 0; i < 4; i++) {
        qp_scope  s = qp_enter(ctx);
        qp_data  *d = task_data(&t, ctx, i < 2 ? TASK_TRAINING : TASK_TEST, 64, 1, 0, (uint64_t)(i % 2));
        qp_record b = qp_data_next(d);
        assert_int_equal(qp_read(qp_record_get(&b, "input_ids"), QP_I64, rows[i], 64), QP_OK);
        qp_data_close(d);
        qp_leave(s);
    }
    assert_memory_not_equal(rows[0], rows[1], sizeof rows[0]);
    assert_memory_not_equal(rows[0], rows[2], sizeof rows[0]);
    assert_memory_equal(rows[2], rows[3], sizeof rows[0]);
    task_close(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_copying),        cmocka_unit_test(test_induction), cmocka_unit_test(test_recall),
        cmocka_unit_test(test_listops),        cmocka_unit_test(test_texts),     cmocka_unit_test(test_pixels),
        cmocka_unit_test(test_hostile_images), cmocka_unit_test(test_specs),     cmocka_unit_test(test_seeds)};
    return cmocka_run_group_tests(tests, make_context, remove_context);
}
