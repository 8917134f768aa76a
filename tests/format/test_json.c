/* JSON: trees, streams, and what both make of hostile documents. */
#include "support.h"

#include <math.h>

#include "format/json.h"
#include "format/json_stream.h"

static const struct {
    const char *text;
    const char *words; /* of the error; NULL: none */
} documents[] = {
    {"{}", NULL},
    {" [1, 2.5e3, -0, true, false, null, \"\\u00e9\\ud83d\\ude42\\n\", {\"a\": []}] ", NULL},
    {"\"x\"", NULL},
    {"", "expected a value, found the end"},
    {"{", "found the end"},
    {"[1", "found the end"},
    {"[1,]", "column 4: expected a value, found ']'"},
    {"[1 2]", "column 4: expected ',' or ']'"},
    {"{\"a\":1,}", "expected a key"},
    {"{\"a\" 1}", "expected ':'"},
    {"{a:1}", "expected a key"},
    {"[01]", "','"},
    {"[1.]", "malformed number"},
    {"[-]", "expected a number"},
    {"[1e]", "malformed number"},
    {"[+1]", "expected a value"},
    {"[nul]", "expected a value"},
    {"[\n\n  x]", "line 3 column 3"},
    {"\"\t\"", "control character"},
    {"\"abc", "does not end"},
    {"\"\\x\"", "bad escape"},
    {"\"\\u12\"", "bad escape"},
    {"\"\\ud800\"", "bad escape"},
    {"\"\\udc00\"", "bad escape"},
    {"\"\xFF\"", "not UTF-8"},
    {"\"\xED\xA0\x80\"", "not UTF-8"},
    {"{} {}", "expected the end"},
    {"[\x1b[31m]", "'?[31m]'"},
    {"{\"a\":[1.5E+3,1e-2,0.5],\"b\":-9223372036854775808}", NULL},
    {"[1e+]", "malformed number"},
    {"[1e5", "found the end"},
    {"\r[1,\t2 ,\r\n3]\r\n", NULL},
    {"[\"\\u00aF\\uFEff\"]", NULL},
    {"\"\\u00g0\"", "bad escape"},
    {"\"\\u0@00\"", "bad escape"},
    {"\"\\u-100\"", "bad escape"},
    {"\"\\ud83d\\u0041\"", "bad escape"},
    {"\"\\ud83d\\ue000\"", "bad escape"},
    {"\"\\ud83d\\n12345\"", "bad escape"},
    {"\"\\ud83dx\\12345\"", "bad escape"},
};

/* The reader of streams, that of trees, which is built on it, and jansson's own take the same, and
 * what is taken is the same tree. */
static void readers(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof documents / sizeof *documents; i++) {
        qpi_error   e = {0};
        const char *text = documents[i].text, *words = documents[i].words;
        size_t      n = strlen(text);
        json_t     *tree = qpi_json_parse("D", text, n, &e);
        if (words) expect_failure(&e, QP_ERR_FORMAT, words);
        json_t *other = json_loadb(text, n, JSON_DECODE_ANY, NULL);
        assert_true(words ? !tree && !other : json_equal(tree, other));
        json_decref(tree);
        json_decref(other);
        qpi_stream s = qpi_stream_over("D", text, n, &e);
        assert_int_equal(qpi_stream_skip(&s, NULL) && qpi_stream_end(&s), !words);
        if (words) expect_failure(&e, QP_ERR_FORMAT, words);
        qpi_stream_free(&s);
    }
}

/* What streams leave to their callers and trees refuse. */
static void trees_refuse(void **state) {
    (void)state;
    static const char *const texts[][2] = {
        {"{\"a\":1,\n\"a\":2}", "line 2 column 5: duplicate key \"a\""},
        {"{\"a\":{\"b\":0,\"b\":{}}}", "duplicate key \"b\""},
        {"[\"\\u0000\"]", "line 1 column 10: a string with \\u0000"},
        {"{\"x\\u0000\":1}", "a string with \\u0000"},
        {"[1e999]", "line 1 column 2: a number that is too big"},
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        qpi_error  e = {0};
        size_t     n = strlen(texts[i][0]);
        qpi_stream s = qpi_stream_over("D", texts[i][0], n, &e);
        assert_true(qpi_stream_skip(&s, NULL) && qpi_stream_end(&s));
        qpi_stream_free(&s);
        assert_null(qpi_json_parse("D", texts[i][0], n, &e));
        expect_failure(&e, QP_ERR_FORMAT, texts[i][1]);
    }
}

/* Integers beyond 64 bits are numbers. */
static void large_integers(void **state) {
    (void)state;
    qpi_error e = {0};
    json_t   *tree =
        qpi_json_parse("D", "[9223372036854775808, -99999999999999999999, 9223372036854775807]", 65, &e);
    assert_non_null(tree);
    assert_true(json_real_value(json_array_get(tree, 0)) == 0x1p63);
    assert_true(json_real_value(json_array_get(tree, 1)) == -1e20);
    assert_true(json_integer_value(json_array_get(tree, 2)) == INT64_MAX);
    json_decref(tree);
}

/* Neither reader reads beyond the bytes it was given (a sanitizer watches), and prefixes fail. */
static void prefixes(void **state) {
    (void)state;
    const char *text = documents[1].text;
    size_t      n = strlen(text) - 1; /* without the blank behind it */
    for (size_t i = 0; i < n; i++) {
        qpi_error e = {0};
        char     *copy = malloc(i + 1);
        memcpy(copy, text, i);
        assert_null(qpi_json_parse("D", copy, i, &e));
        assert_int_equal(e.code, QP_ERR_FORMAT);
        qpi_stream s = qpi_stream_over("D", copy, i, &e);
        assert_false(qpi_stream_skip(&s, NULL));
        qpi_stream_free(&s);
        free(copy);
    }
}

static void depth(void **state) {
    (void)state;
    char text[400];
    for (int n = 60; n < 70; n++) {
        qpi_error e = {0};
        memset(text, '[', (size_t)n);
        memset(text + n, ']', (size_t)n);
        json_t *tree = qpi_json_parse("D", text, (size_t)(2 * n), &e);
        assert_int_equal(tree != NULL, n <= QPI_JSON_DEPTH);
        if (!tree) expect_failure(&e, QP_ERR_FORMAT, "line 1 column 65: nested deeper than 63");
        json_decref(tree);
        qpi_stream s = qpi_stream_over("D", text, (size_t)(2 * n), &e);
        assert_int_equal(qpi_stream_skip(&s, NULL), n <= QPI_JSON_DEPTH);
        qpi_stream_free(&s);
    }
    qpi_error e = {0};
    memset(text, '[', 200);
    text[0] = text[99] = text[199] = '"'; /* brackets in strings do not count */
    text[98] = '\\';
    json_t *tree = qpi_json_parse("D", text, 200, &e);
    if (!tree) fail_msg("%s", e.text);
    json_decref(tree);
}

static void zero_bytes(void **state) {
    (void)state;
    const char *const texts[] = {"[4\0]", "\0", "[\0]", "[\"\0\"]", "1\0"};
    const size_t      sizes[] = {4, 1, 3, 5, 2};
    for (int i = 0; i < 5; i++) {
        qpi_error  e = {0};
        qpi_stream s = qpi_stream_over("D", texts[i], sizes[i], &e);
        assert_false(qpi_stream_skip(&s, NULL) && qpi_stream_end(&s));
        expect_failure(&e, QP_ERR_FORMAT, "D: line 1");
        assert_null(qpi_json_parse("D", texts[i], sizes[i], &e));
        expect_failure(&e, QP_ERR_FORMAT, "D: line 1");
        qpi_stream_free(&s);
    }
}

static void streaming(void **state) {
    (void)state;
    const char *text = "{\"a\\u0062\": \"x\\ty\", \"n\": -12, \"list\": [1, 2, 3], \"rest\": {\"deep\": [[]]}, "
                       "\"z\": \"\\u0000\"}";
    qpi_error   e = {0};
    qpi_stream  s = qpi_stream_over("D", text, strlen(text), &e);
    qpi_span    key, value;
    int64_t     number, sum = 0;
    assert_int_equal(qpi_stream_peek(&s), '{');
    assert_true(qpi_stream_open(&s, '{'));
    assert_true(qpi_stream_key(&s, &key) && qpi_span_is(key, "ab"));
    assert_true(qpi_stream_string(&s, &value) && qpi_span_is(value, "x\ty"));
    assert_true(qpi_stream_key(&s, &key) && qpi_span_is(key, "n") && !qpi_span_is(key, "m") &&
                !qpi_span_is(key, "nn"));
    assert_int_equal(qpi_stream_peek(&s), '0');
    assert_true(qpi_stream_integer(&s, &number) && number == -12);
    assert_true(qpi_stream_key(&s, &key) && qpi_stream_open(&s, '['));
    while (qpi_stream_item(&s)) assert_true(qpi_stream_integer(&s, &number)), sum += number;
    assert_int_equal(sum, 6);
    assert_true(qpi_stream_key(&s, &key) && qpi_stream_skip(&s, &value) &&
                qpi_span_is(value, "{\"deep\": [[]]}"));
    assert_true(qpi_stream_key(&s, &key) && qpi_stream_string(&s, &value) && value.size == 1 && !value.data[0]);
    assert_false(qpi_stream_key(&s, &key));
    assert_true(qpi_stream_end(&s) && !s.failed);
    qpi_stream_free(&s);
    s = qpi_stream_over("D", "[9999999999999999999]", 21, &e);
    assert_true(qpi_stream_open(&s, '[') && qpi_stream_item(&s));
    assert_false(qpi_stream_integer(&s, &number));
    expect_failure(&e, QP_ERR_FORMAT, "18 digits");
    assert_false(qpi_stream_item(&s));
    assert_int_equal(qpi_stream_peek(&s), 0);
    qpi_stream_free(&s);
    s = qpi_stream_over("D", "[]", 2, &e);
    assert_false(qpi_stream_string(&s, &value));
    expect_failure(&e, QP_ERR_FORMAT, "expected a string, found '[]'");
    qpi_stream_free(&s);
    static const char *const no_integers[][2] = {{"-", "expected a number"},
                                                 {"1.", "malformed number"},
                                                 {"1.5", "an integer of at most 18 digits"},
                                                 {"1e5", "an integer of at most 18 digits"},
                                                 {"\"1\"", "expected an integer"}};
    for (size_t i = 0; i < sizeof no_integers / sizeof *no_integers; i++) {
        s = qpi_stream_over("D", no_integers[i][0], strlen(no_integers[i][0]), &e);
        assert_false(qpi_stream_integer(&s, &number));
        expect_failure(&e, QP_ERR_FORMAT, no_integers[i][1]);
        s.at = s.size;
        assert_false(qpi_stream_end(&s)); /* what has failed does not end well */
        qpi_stream_free(&s);
    }
}

static void getters(void **state) {
    (void)state;
    const char *text = "{\"i\": 7, \"r\": 7.0, \"f\": 0.5, \"s\": \"text\", \"b\": true, \"n\": null, \"o\": "
                       "{\"list\": [1, {\"x\": \"y\"}]}}";
    qpi_error   e = {0};
    json_t     *tree = qpi_json_parse("D", text, strlen(text), &e);
    qpi_json    root = qpi_json_root("D", tree, &e), o, list;
    int64_t     i = -1;
    double      f = -1;
    bool        b = false;
    const char *s = NULL;
    assert_true(qpi_json_integer(&root, "i", QPI_REQUIRED, 0, 10, &i) && i == 7);
    assert_true(qpi_json_integer(&root, "r", QPI_REQUIRED, 0, 10, &i) && i == 7);
    assert_true(qpi_json_number(&root, "f", QPI_REQUIRED, 0, 1, &f) && f == 0.5);
    assert_true(qpi_json_number(&root, "i", QPI_REQUIRED, 0, 10, &f) && f == 7);
    assert_true(qpi_json_boolean(&root, "b", QPI_REQUIRED, &b) && b);
    assert_true(qpi_json_string(&root, "s", QPI_REQUIRED, &s) && !strcmp(s, "text"));
    i = 3;
    assert_true(qpi_json_integer(&root, "n", QPI_OPTIONAL, 0, 1, &i) && i == 3);
    assert_true(qpi_json_integer(&root, "absent", QPI_OPTIONAL, 0, 1, &i) && i == 3);
    assert_false(qpi_json_integer(&root, "n", QPI_REQUIRED, 0, 1, &i));
    expect_failure(&e, QP_ERR_FORMAT, "D: n: missing");
    assert_false(qpi_json_integer(&root, "i", QPI_OPTIONAL, 8, 9, &i));
    expect_failure(&e, QP_ERR_FORMAT, "D: i: expected an integer from 8 to 9, found 7");
    assert_false(qpi_json_integer(&root, "f", QPI_OPTIONAL, 0, 9, &i));
    expect_failure(&e, QP_ERR_FORMAT, "found 0.5");
    assert_false(qpi_json_number(&root, "f", QPI_OPTIONAL, 1, 9, &f));
    expect_failure(&e, QP_ERR_FORMAT, "D: f: expected a number from 1 to 9, found 0.5");
    assert_false(qpi_json_string(&root, "b", QPI_OPTIONAL, &s));
    expect_failure(&e, QP_ERR_FORMAT, "D: b: expected a string, found true");
    assert_false(qpi_json_boolean(&root, "s", QPI_OPTIONAL, &b));
    expect_failure(&e, QP_ERR_FORMAT, "expected true or false, found \"text\"");
    assert_false(qpi_json_array(&root, "o", QPI_REQUIRED, &o));
    expect_failure(&e, QP_ERR_FORMAT, "D: o: expected an array, found an object");
    assert_true(qpi_json_object(&root, "o", QPI_REQUIRED, &o) &&
                qpi_json_array(&o, "list", QPI_REQUIRED, &list));
    qpi_json item = qpi_json_item(&list, 1);
    assert_false(qpi_json_integer(&item, "x", QPI_REQUIRED, 0, 1, &i));
    expect_failure(&e, QP_ERR_FORMAT, "D: o.list[1].x: expected an integer from 0 to 1, found \"y\"");
    f = 2;
    assert_false(qpi_json_number(&root, "absent", QPI_REQUIRED, 0, 1, &f) || f != 2);
    expect_failure(&e, QP_ERR_FORMAT, "D: absent: missing");
    assert_false(qpi_json_boolean(&root, "absent", QPI_REQUIRED, &b));
    expect_failure(&e, QP_ERR_FORMAT, "D: absent: missing");
    qpi_json_fail(&root, QP_ERR_FORMAT, "expected an object, found %s", qpi_json_kind(NULL));
    expect_failure(&e, QP_ERR_FORMAT, "D: expected an object, found nothing");
    json_decref(tree);
}

/* Each getter takes its own kind alone, and numbers from low to high. */
static void kinds(void **state) {
    (void)state;
    static const char *const values[] = {"true", "false", "5", "5.0", "5.5", "\"5\"", "[]",
                                         "{}",   "3",     "9", "3.0", "9.0", "1e300"};
    static const char *const takers[] = {"b", "b", "in", "in", "n", "s", "a", "o", "", "", "", "", ""};
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        char        text[40];
        qpi_error   e = {0};
        qpi_json    out;
        int64_t     whole;
        double      number;
        bool        truth;
        const char *string;
        snprintf(text, sizeof text, "{\"k\": %s}", values[i]);
        json_t  *tree = qpi_json_parse("D", text, strlen(text), &e);
        qpi_json root = qpi_json_root("D", tree, &e);
        bool     got[] = {qpi_json_boolean(&root, "k", QPI_REQUIRED, &truth),
                          qpi_json_integer(&root, "k", QPI_REQUIRED, 4, 6, &whole),
                          qpi_json_number(&root, "k", QPI_REQUIRED, 4, 6, &number),
                          qpi_json_string(&root, "k", QPI_REQUIRED, &string),
                          qpi_json_array(&root, "k", QPI_REQUIRED, &out),
                          qpi_json_object(&root, "k", QPI_REQUIRED, &out)};
        for (int k = 0; k < 6; k++)
            if (got[k] != (strchr(takers[i], "binsao"[k == 0 ? 0 : k]) != NULL))
                fail_msg("%s: getter %d", text, k);
        if (got[0]) assert_int_equal(truth, i == 0);
        json_decref(tree);
    }
}

static void printing(void **state) {
    (void)state;
    const char *text = "{\"a\":[1,-2,0.1,1e-05,1e300,0.3333333333333333,100.0],\"b\":{},\"c\":[],"
                       "\"d\":\"\\\"\\\\\\n\\u001b\\u007f\xC3\xA9/\",\"e\":[true,false,null]}";
    qpi_error   e = {0};
    qpi_buffer  out = {0};
    json_t     *tree = qpi_json_parse("D", text, strlen(text), &e);
    assert_true(qpi_json_print(&out, tree, 0) && qpi_buffer_put(&out, "", 1));
    const char *want = "{\"a\":[1,-2,0.1,1e-05,1e+300,0.3333333333333333,100.0],";
    assert_memory_equal(out.data, want, strlen(want));
    json_t *again = qpi_json_parse("D", out.data, out.count - 1, &e);
    assert_true(json_equal(tree, again));
    json_decref(again);
    out.count = 0;
    assert_true(qpi_json_print(&out, tree, 2) && qpi_buffer_put(&out, "", 1));
    assert_non_null(strstr(out.data, "\n  \"b\": {},\n  \"c\": [],\n"));
    assert_non_null(strstr(out.data, "\n    true,\n"));
    again = qpi_json_parse("D", out.data, out.count - 1, &e);
    assert_true(json_equal(tree, again));
    json_decref(again);
    static const double most_digits[] = {0.1 + 0.2, 5e-324, 0x1.fffffffffffffp1023, -0.0};
    for (size_t i = 0; i < sizeof most_digits / sizeof *most_digits; i++) {
        out.count = 0;
        assert_true(qpi_json_print_real(&out, most_digits[i]) && qpi_buffer_put(&out, "", 1));
        assert_true(strtod(out.data, NULL) == most_digits[i]);
    }
    out.count = 0;
    assert_false(qpi_json_print_real(&out, NAN) || qpi_json_print_real(&out, -INFINITY));
    assert_int_equal(out.count, 0);
    const char *path = temporary("printed.json");
    assert_true(qpi_json_save(path, tree, 2, &e));
    again = qpi_json_load(path, &e);
    assert_true(json_equal(tree, again));
    json_decref(again);
    json_decref(tree);
    remove(path);
    assert_null(qpi_json_load(path, &e));
    expect_failure(&e, QP_ERR_IO, "cannot open");
    qpi_buffer_free(&out);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(readers),   cmocka_unit_test(trees_refuse), cmocka_unit_test(large_integers),
        cmocka_unit_test(prefixes),  cmocka_unit_test(depth),        cmocka_unit_test(zero_bytes),
        cmocka_unit_test(streaming), cmocka_unit_test(getters),      cmocka_unit_test(kinds),
        cmocka_unit_test(printing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
