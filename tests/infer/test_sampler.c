/* The sampler: drawn frequencies against probabilities computed from each filter's definition,
 * in the order of transformers' logits processors. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "infer/sampler.h"

enum { N = 12, DRAWS = 20000 };

static const float logits[N] = {1.5f, -0.5f, 2.0f, 0.25f, -3.0f, 1.0f, 0.0f, 2.0f, -1.0f, 0.5f, -8.0f, 1.75f};

static qp_ctx *open_context(void) {
    qp_ctx *ctx = qp_open((qp_options){.threads = 1});
    assert_non_null(ctx);
    return ctx;
}

/* ---- The definition ------------------------------------------------------------------------------ */

static int by_probability(const void *a, const void *b) {
    double x = ((const double *)a)[0], y = ((const double *)b)[0];
    return x > y ? -1 : x<y ? 1 : ((const double *)a)[1]>((const double *)b)[1] ? 1 : -1;
}

static void normalise(double (*p)[2], int n) {
    double sum = 0;
    for (int i = 0; i < n; i++) sum += p[i][0];
    for (int i = 0; i < n; i++) p[i][0] /= sum;
}

/* Probabilities of n ids. Filters see what the ones before them left, scaled to a sum of 1. */
static void define_for(const float *l, int n, qp_sampling o, const bool *seen, double *out) {
    double (*p)[2] = malloc((size_t)n * sizeof *p), sum = 0;
    for (int i = 0; i < n; i++) {
        double x = l[i];
        if (o.repetition_penalty != 0 && seen[i])
            x = x > 0 ? x / o.repetition_penalty : x * o.repetition_penalty;
        p[i][0] = exp(x / o.temperature);
        p[i][1] = i;
    }
    qsort(p, (size_t)n, sizeof p[0], by_probability);
    for (int i = 0; i < n; i++)
        if (o.top_k && i >= o.top_k) p[i][0] = 0;
    normalise(p, n);
    for (int i = 0; i < n; i++) { /* kept: those before which less than the share lies */
        double before = sum;
        sum += p[i][0];
        if (o.top_p > 0 && o.top_p < 1 && before >= o.top_p) p[i][0] = 0;
    }
    normalise(p, n);
    for (int i = n; i-- > 0;)
        if (p[i][0] < o.min_p * p[0][0]) p[i][0] = 0;
    normalise(p, n);
    for (int i = 0; i < n; i++) out[(int)p[i][1]] = p[i][0];
    free(p);
}

static void define(qp_sampling o, const bool *seen, double out[N]) { define_for(logits, N, o, seen, out); }

/* ---- Frequencies ----------------------------------------------------------------------------------- */

static void compare(qp_sampling o, const int32_t *seen_ids, int seen_count, const double *expected) {
    qp_ctx *ctx = open_context();
    double  statistic = 0;
    int     counts[N] = {0}, kinds = 0;
    for (int d = 0; d < DRAWS;) { /* what is drawn counts as seen: with a penalty a sampler draws once */
        qp_sampler *s = qp_sampler_new(ctx, N, o, (uint64_t)d + 1);
        assert_non_null(s);
        for (int i = 0; i < seen_count; i++) qp_sampler_seen(s, seen_ids[i]);
        for (int more = 1; more && d < DRAWS; d++) {
            float copy[N];
            memcpy(copy, logits, sizeof copy);
            int32_t id = qp_sampler_draw(s, copy);
            assert_in_range(id, 0, N - 1);
            counts[id]++;
            more = o.repetition_penalty == 0;
        }
        qp_sampler_close(s);
    }
    for (int i = 0; i < N; i++) {
        double mean = expected[i] * DRAWS;
        if (expected[i] == 0 && counts[i]) fail_msg("%d was drawn and must not be", i);
        if (mean < 5) continue;
        statistic += (counts[i] - mean) * (counts[i] - mean) / mean;
        kinds++;
    }
    /* chi-square: mean kinds - 1, variance twice that; five deviations */
    double freedom = kinds - 1;
    if (statistic > freedom + 5 * sqrt(2 * freedom) + 1e-9)
        fail_msg("chi-square %g with %g degrees of freedom", statistic, freedom);
    qp_close(ctx);
}

static void check(qp_sampling o, const int32_t *seen_ids, int seen_count) {
    bool   seen[N] = {0};
    double expected[N];
    for (int i = 0; i < seen_count; i++) seen[seen_ids[i]] = true;
    define(o, seen, expected);
    compare(o, seen_ids, seen_count, expected);
}

static void plain(void **state) {
    (void)state;
    check((qp_sampling){.temperature = 1}, NULL, 0);
    check((qp_sampling){.temperature = 0.3}, NULL, 0);
    check((qp_sampling){.temperature = 2.5}, NULL, 0);
}

static void each_filter(void **state) {
    (void)state;
    check((qp_sampling){.temperature = 1, .top_k = 1}, NULL, 0);
    check((qp_sampling){.temperature = 1, .top_k = 4}, NULL, 0);
    check((qp_sampling){.temperature = 1, .top_k = 1000}, NULL, 0);
    check((qp_sampling){.temperature = 1, .top_p = 1e-6}, NULL, 0);
    check((qp_sampling){.temperature = 1, .top_p = 0.5}, NULL, 0);
    check((qp_sampling){.temperature = 1, .top_p = 0.9}, NULL, 0);
    check((qp_sampling){.temperature = 1, .min_p = 0.2}, NULL, 0);
    check((qp_sampling){.temperature = 1, .min_p = 1}, NULL, 0);
    check((qp_sampling){.temperature = 1, .repetition_penalty = 1.8}, (int32_t[]){2, 4, 7}, 3);
    check((qp_sampling){.temperature = 1, .repetition_penalty = 0.5}, (int32_t[]){0, 1}, 2);
}

/* Each pair gives another result when exchanged: the share of top_p is of the k left, counts
 * at this temperature, and is taken before min_p. */
static void order_of_filters(void **state) {
    (void)state;
    check((qp_sampling){.temperature = 0.5, .top_p = 0.8}, NULL, 0);
    check((qp_sampling){.temperature = 2, .min_p = 0.3}, NULL, 0);
    check((qp_sampling){.temperature = 1, .top_k = 5, .top_p = 0.8}, NULL, 0);
    check((qp_sampling){.temperature = 1.2, .top_p = 0.85, .min_p = 0.4}, NULL, 0);
    check((qp_sampling){.temperature = 1, .top_p = 0.6, .min_p = 0.9}, NULL, 0);
    check((qp_sampling){.temperature = 1.5, .top_k = 7, .top_p = 0.9, .min_p = 0.45}, NULL, 0);
    check((qp_sampling){.temperature = 0.8, .top_k = 6, .top_p = 0.75, .min_p = 0.1, .repetition_penalty = 1.5},
          (int32_t[]){2, 11, 10}, 3);
}

/* What transformers' generate draws from (tests/golden/make_sampler.py). */
static void as_generate(void **state) {
    (void)state;
    static const int32_t first[] = {0, 1, 2, 3, 4};
    FILE                *f = fopen(SOURCE_DIR "/tests/golden/sampler/cases.txt", "r");
    char                 line[1000];
    int                  cases = 0;
    assert_non_null(f);
    for (; fgets(line, sizeof line, f); cases++) {
        double x[9 + N];
        char  *at = line;
        for (int i = 0; i < 9 + N; i++) x[i] = strtod(at, &at);
        qp_logit_bias bias[] = {{3, (float)x[6]}, {8, (float)x[7]}};
        compare((qp_sampling){.repetition_penalty = x[0],
                              .temperature = x[1],
                              .top_k = (int64_t)x[2],
                              .top_p = x[3],
                              .min_p = x[4],
                              .typical_p = x[5],
                              .bias = bias,
                              .bias_count = 2},
                first, (int)x[8], x + 9);
    }
    fclose(f);
    assert_int_equal(cases, 52);
}

/* Vocabularies of many sizes, where most tokens are not looked at one by one: the definition's probabilities. */
static void large_vocabularies(void **state) {
    static const int         sizes[] = {1, 3, 63, 64, 65, 200, 1000, 4099, 49152};
    static const qp_sampling options[] = {{.temperature = 1},
                                          {.temperature = 0.6, .min_p = 0.02},
                                          {.temperature = 0.8, .top_k = 1},
                                          {.temperature = 1.3, .top_k = 40},
                                          {.temperature = 2, .top_k = 700},
                                          {.temperature = 1, .top_k = 63, .top_p = 0.8, .min_p = 0.1},
                                          {.temperature = 0.7, .top_p = 0.95},
                                          {.temperature = 2, .top_p = 0.5},
                                          {.temperature = 1, .top_p = 0.999, .min_p = 0.001},
                                          {.temperature = 1, .top_p = 1e-5}};
    qp_ctx                  *ctx = open_context();
    (void)state;
    for (size_t z = 0; z < sizeof sizes / sizeof *sizes; z++) {
        int     n = sizes[z];
        float  *l = malloc((size_t)n * sizeof *l), *p = malloc((size_t)n * sizeof *p);
        double *expected = malloc((size_t)n * sizeof *expected);
        for (int i = 0; i < n; i++) {
            double x = fmod(i * 0.6180339887498949 + 0.1, 1);
            l[i] = (float)(-2 * log(x + 1e-9) * (1 + sin(i)) - 20 * (i % 3 == 1));
        }
        for (size_t k = 0; k < sizeof options / sizeof *options; k++) {
            qp_sampler *s = qp_sampler_new(ctx, n, options[k], 1);
            double      worst = 0;
            define_for(l, n, options[k], NULL, expected);
            qpi_sampler_chances(s, l, p);
            for (int i = 0; i < n; i++) worst = fmax(worst, fabs(p[i] - expected[i]));
            if (!(worst < 2e-6)) fail_msg("%d tokens, options %d: %g apart", n, (int)k, worst);
            for (int draws = 0; draws < 20; draws++) {
                memcpy(p, l, (size_t)n * sizeof *p);
                int32_t id = qp_sampler_draw(s, p);
                if (!(expected[id] > 0)) fail_msg("%d tokens, options %d: %d was drawn", n, (int)k, (int)id);
            }
            qp_sampler_close(s);
        }
        free(l);
        free(p);
        free(expected);
    }
    qp_close(ctx);
}

/* logit - count frequency - (count > 0) presence, of what was drawn, not of what was seen. */
static void penalties_count(void **state) {
    (void)state;
    qp_ctx     *ctx = open_context();
    qp_sampler *s =
        qp_sampler_new(ctx, 4, (qp_sampling){.frequency_penalty = 0.5, .presence_penalty = 0.25}, 1);
    static const int32_t expected[] = {0, 1, 0, 0, 1, 2}; /* 1 .5 -.3; .25 .5; .25 -.25; -.25 -.25; .. */
    qp_sampler_seen(s, 0);
    for (int i = 0; i < 6; i++) {
        float x[4] = {1.0f, 0.5f, -0.3f, -2.0f};
        assert_int_equal(qp_sampler_draw(s, x), expected[i]);
    }
    float x[4] = {0, 0, 0, 0};
    qp_sampler_draw(s, x); /* what it took away: drawn 3, 2, 1 and 0 times */
    assert_float_equal(x[3], 0, 1e-6);
    assert_float_equal(x[0] + x[1] + x[2], -(6 * 0.5f + 3 * 0.25f), 1e-6);
    qp_close(ctx);
}

static void logprobs(void **state) {
    (void)state;
    qp_logprob out[6];
    double     sum = 0;
    for (int i = 0; i < N; i++) sum += exp(logits[i]);
    qp_logprobs(logits, N, 4, 5, out);
    static const int32_t order[] = {4, 2, 7, 11, 0, 5};
    for (int i = 0; i < 6; i++) {
        assert_int_equal(out[i].id, order[i]);
        assert_float_equal(out[i].logprob, logits[order[i]] - log(sum), 1e-5);
    }
    qp_logprobs(logits, N, 10, 0, out);
    assert_float_equal(out[0].logprob, logits[10] - log(sum), 1e-5);
}

/* ---- The rest ---------------------------------------------------------------------------------------- */

static void greedy(void **state) {
    (void)state;
    qp_ctx     *ctx = open_context();
    qp_sampler *s = qp_sampler_new(ctx, N, (qp_sampling){.temperature = 0, .top_k = 3, .top_p = 0.1}, 1);
    float       copy[N];
    memcpy(copy, logits, sizeof copy);
    assert_int_equal(qp_sampler_draw(s, copy), 2); /* the first of two equals */
    /* a penalty acts before: 2 is seen, so the next is 7, then 11 */
    s = qp_sampler_new(ctx, N, (qp_sampling){.temperature = 0, .repetition_penalty = 2}, 1);
    int32_t expected[] = {2, 7, 11, 0};
    for (int i = 0; i < 4; i++) {
        memcpy(copy, logits, sizeof copy);
        assert_int_equal(qp_sampler_draw(s, copy), expected[i]);
    }
    qp_close(ctx);
}

static void draw_many(qp_ctx *ctx, uint64_t seed, int32_t *out, int n) {
    qp_sampler *s = qp_sampler_new(ctx, N, (qp_sampling){.temperature = 1, .top_p = 0.95}, seed);
    for (int i = 0; i < n; i++) {
        float copy[N];
        memcpy(copy, logits, sizeof copy);
        out[i] = qp_sampler_draw(s, copy);
    }
}

static void same_seed_same_draws(void **state) {
    (void)state;
    qp_ctx *ctx = open_context(), *other = open_context();
    int32_t a[200], b[200], c[200];
    draw_many(ctx, 7, a, 200);
    qp_set_random(other, 99, 12345); /* the context's own stream has no part in it */
    draw_many(other, 7, b, 200);
    draw_many(ctx, 8, c, 200);
    assert_memory_equal(a, b, sizeof a);
    assert_memory_not_equal(a, c, sizeof a);
    qp_close(ctx);
    qp_close(other);
}

static void odd_logits(void **state) {
    (void)state;
    qp_ctx *ctx = open_context();
    float   cases[][3] = {{-INFINITY, -INFINITY, -INFINITY},
                          {0, INFINITY, 1},
                          {-INFINITY, 1, -INFINITY},
                          {NAN, 1, -INFINITY},
                          {3e38f, -3e38f, 0}};
    int32_t expected[] = {0, 1, 1, 1, 0};
    for (int i = 0; i < 5; i++)
        for (int k = 0; k < 2; k++) {
            qp_sampler *s = qp_sampler_new(ctx, 3, (qp_sampling){.temperature = 1, .top_k = k ? 2 : 0}, 1);
            float       copy[3];
            memcpy(copy, cases[i], sizeof copy);
            assert_int_equal(qp_sampler_draw(s, copy), expected[i]);
        }
    for (int i = 0; i < 5; i++) /* probabilities to a sum of 1, of the least temperature, too */
        for (int k = 0; k < 4; k++) {
            qp_sampler *s = qp_sampler_new(
                ctx, 3, (qp_sampling){.temperature = k % 2 ? 1e-60 : 1, .top_k = k / 2 ? 2 : 0}, 1);
            float p[3];
            qpi_sampler_chances(s, cases[i], p);
            assert_true(fabsf(p[0] + p[1] + p[2] - 1) < 1e-6f && p[expected[i]] >= 0.5f);
        }
    float       one = 0;
    qp_sampler *s = qp_sampler_new(ctx, 1, (qp_sampling){.temperature = 1, .top_p = 0.5}, 1);
    assert_int_equal(qp_sampler_draw(s, &one), 0);
    qp_sampler_seen(s, 5);
    qp_sampler_seen(s, -1); /* beyond the vocabulary: passed over */
    qp_close(ctx);
}

static void refusals(void **state) {
    (void)state;
    qp_ctx           *ctx = open_context();
    const qp_sampling wrong[] = {{.temperature = -1},
                                 {.temperature = NAN},
                                 {.temperature = 1, .top_k = -1},
                                 {.temperature = 1, .top_p = 1.5},
                                 {.temperature = 1, .top_p = NAN},
                                 {.temperature = 1, .min_p = -0.1},
                                 {.temperature = 1, .repetition_penalty = -2}};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        assert_null(qp_sampler_new(ctx, N, wrong[i], 0));
        assert_int_equal(qp_error_code(ctx), QP_ERR_ARGUMENT);
        qp_clear(ctx);
    }
    assert_null(qp_sampler_new(ctx, 0, (qp_sampling){.temperature = 1}, 0));
    qp_close(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain),
        cmocka_unit_test(each_filter),
        cmocka_unit_test(order_of_filters),
        cmocka_unit_test(as_generate),
        cmocka_unit_test(large_vocabularies),
        cmocka_unit_test(penalties_count),
        cmocka_unit_test(logprobs),
        cmocka_unit_test(greedy),
        cmocka_unit_test(same_seed_same_draws),
        cmocka_unit_test(odd_logits),
        cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
