/* quipu inspect --activations: what theory says of fresh weights. */
#include "support.h"

#define INSPECT(...) \
    run("inspect", "--activations", "quipu", "--set", "hidden_size=64", "--set", "num_hidden_layers=3", \
        "--length", "64", __VA_ARGS__, NULL)

/* The row of a layer (-1: none) and place. */
static const json_t *row_of(const json_t *all, int layer, const char *where) {
    const json_t *rows = json_object_get(all, "rows"), *layer_of;
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const json_t *row = json_array_get(rows, i);
        layer_of = json_object_get(row, "layer");
        if (!strcmp(json_string_value(json_object_get(row, "where")), where) &&
            (json_is_integer(layer_of) ? json_integer_value(layer_of) == layer : layer < 0))
            return row;
    }
    fail_msg("no row %d %s", layer, where);
    return NULL;
}

static const json_t *attention_of(const json_t *all, int layer) {
    return json_array_get(json_object_get(all, "attention"), (size_t)layer);
}

static void expect_near(double x, double wanted, double share) {
    if (!(fabs(x - wanted) <= share * wanted))
        fail_msg("%g, expected %g to within %g%%", x, wanted, 100 * share);
}

/* Queries and keys of variance 1 have products of variance K, which the scale takes back. */
static void test_scale(void **state) {
    (void)state;
    static const char *const heads[] = {"mixer={\"type\":\"attention\",\"heads\":8}",
                                        "mixer={\"type\":\"attention\",\"heads\":2}",
                                        "mixer={\"type\":\"attention\",\"heads\":2,\"scale\":1}"};
    static const double      width[] = {8, 32, 32}, variance[] = {1, 1, 32};
    double                   entropy[3];
    for (int i = 0; i < 3; i++) {
        json_t       *all = expect_json(INSPECT("--set", "init=lecun_normal", "--set", heads[i], "--json"));
        const json_t *first = attention_of(all, 0);
        assert_int_equal(json_array_size(json_object_get(all, "attention")), 3);
        assert_int_equal(number_of(first, "head_width"), width[i]);
        expect_near(number_of(first, "scale"), variance[i] > 1 ? 1 : 1 / sqrt(width[i]), 1e-6);
        expect_near(number_of(first, "product_variance"), width[i], 0.35);
        expect_near(number_of(first, "logit_variance"), variance[i], 0.35);
        entropy[i] = number_of(first, "entropy");
        assert_true(entropy[i] > 0 && entropy[i] <= 1 + 1e-9);
        json_decref(all);
    }
    assert_true(entropy[2] < entropy[1] - 0.2); /* without it few keys have all the weight */
    json_t *equal = expect_json(INSPECT("--set", "init=lecun_normal", "--set",
                                        "mixer={\"type\":\"attention\",\"heads\":2,\"scale\":1e-9}", "--json"));
    expect_near(number_of(attention_of(equal, 0), "entropy"), 1, 1e-6); /* all keys alike */
    json_decref(equal);
}

/* Branches add to the stream; with ReZero they begin at 0, and values and gradients pass all layers as they
 * are. */
static void test_blocks(void **state) {
    (void)state;
    json_t *pre = expect_json(INSPECT("--set", "init=lecun_normal", "--json")),
           *zero = expect_json(
               INSPECT("--set", "init=lecun_normal", "--set", "block={\"type\":\"rezero\"}", "--json"));
    for (int i = 0; i < 3; i++) {
        const json_t *before = i ? row_of(pre, i - 1, "stream") : row_of(pre, -1, "input"),
                     *after = row_of(pre, i, "stream");
        assert_true(number_of(after, "variance") > 1.05 * number_of(before, "variance"));
        assert_true(number_of(after, "gradient_variance") < number_of(before, "gradient_variance"));
        expect_near(number_of(row_of(pre, i, "mixer_in"), "variance"), 1, 0.05); /* behind the norm */
        assert_float_equal(number_of(row_of(zero, i, "stream"), "variance"),
                           number_of(row_of(zero, -1, "input"), "variance"), 0);
        expect_near(number_of(row_of(zero, i, "stream"), "gradient_variance"),
                    number_of(row_of(zero, -1, "input"), "gradient_variance"), 1e-5);
    }
    assert_int_equal(number_of(pre, "tokens"), 4 * 64);
    json_decref(pre);
    json_decref(zero);
}

/* The loss that the model gives for these ids. */
static double loss_of(const char *words) {
    int64_t   ids[129];
    qp_ctx   *ctx = qp_open((qp_options){.threads = 1});
    qp_model *m = qp_model_load(ctx, in_folder("bytes"), (qp_model_options){0});
    for (int i = 0; i < 129; i++) ids[i] = (unsigned char)words[i];
    double loss = qp_item(qp_model_loss(m, qp_from(ctx, QP_I64, 2, (int64_t[]){4, 32}, ids),
                                        qp_from(ctx, QP_I64, 2, (int64_t[]){4, 32}, ids + 1)));
    qp_close(ctx);
    return loss;
}

/* And a page that needs no other. */
static void test_model(void **state) {
    (void)state;
    char words[4 * 32 + 1];
    for (int i = 0; i < (int)sizeof words; i++) words[i] = (char)('a' + i * i % 19);
    write_file("words", words, sizeof words);
    json_t *all = expect_json(run("inspect", "--activations", "%/bytes", "--text", "%/words", "--length", "32",
                                  "--plot", "%/page.html", "--json", NULL));
    assert_int_equal(number_of(all, "tokens"), 128);
    expect_near(number_of(all, "loss"), loss_of(words), 1e-5);
    json_decref(all);
    size_t                   bytes;
    char                    *page = read_file(in_folder("page.html"), &bytes);
    static const char *const figures[] = {"Variance of activations", "Variance of their gradients",
                                          "Mean of activations", "Mean of their gradients"};
    for (int i = 0; i < 4; i++) { /* a figure with all three curves, the other axis or not */
        const char *figure = strstr(page, figures[i]);
        if (!figure) fail_msg("no figure \"%s\"", figures[i]);
        const char *end = strstr(figure, "</figure>");
        int         curves = 0;
        for (const char *at = figure; (at = strstr(at, "class=\"curve")) && at < end; at++) curves++;
        if (curves != 3) fail_msg("%s: %d curves, expected 3", figures[i], curves);
    }
    const char *outside[] = {"<script", "http:", "https:", "src=", "url(", ">nan", ">inf"};
    for (int i = 0; i < 7; i++)
        if (strstr(page, outside[i])) fail_msg("the page holds \"%s\"", outside[i]);
    free(page);
    outcome o = run("inspect", "--activations", "%/bytes", NULL);
    assert_int_equal(o.status, 0);
    assert_non_null(strstr(o.out, "layer where"));
    assert_non_null(strstr(o.out, "largest weight"));
}

static void test_usage(void **state) {
    (void)state;
    expect_message(run("inspect", "%/bytes", "--text", "x", NULL), 2, "--text goes with --activations");
    expect_message(run("inspect", "--activations", "%/none", NULL), 1, "none");
    expect_message(INSPECT("--set", "mixer=3"), 1, "mixer");
    expect_message(run("inspect", "--activations", "bert", "--text", "%/none", NULL), 1, "none");
    write_text("short", "a");
    expect_message(run("inspect", "--activations", "%/bytes", "--text", "%/short", NULL), 1,
                   "tokens, expected 3 at least");
    expect_message(run("inspect", "--activations", "%/bytes", "--set", "hidden_size=8", NULL), 2,
                   "--set goes with");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_scale), cmocka_unit_test(test_blocks),
                                       cmocka_unit_test(test_model), cmocka_unit_test(test_usage)};
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
