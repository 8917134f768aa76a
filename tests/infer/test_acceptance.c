/* Rules that accept drafts: match and rejection leave the distribution of texts as it is, by chi-square against
 * the model's own probabilities; what does not (a drafter that lies about its distribution, a rule that makes no
 * such claim) is found out by the same test. At temperature 0 all of them write what plain decoding writes. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "infer/accept.h"
#include "quipu/quipu.h"

/* ---- Chi-square ---------------------------------------------------------------------------------- */

/* How many standard deviations the statistic of counts against n p is above what it would be: Wilson and Hilferty
 * 1931. Cells that few fall into are one. */
static double surprise(const int *counts, const double *p, int cells, int n) {
    double sum = 0, rest = 0, freedom = -1;
    int    left = 0;
    for (int i = 0; i < cells; i++) {
        double expected = n * p[i];
        if (expected < 8) {
            rest += expected;
            left += counts[i];
            continue;
        }
        sum += (counts[i] - expected) * (counts[i] - expected) / expected;
        freedom++;
    }
    if (rest >= 1) {
        sum += (left - rest) * (left - rest) / rest;
        freedom++;
    } else if (left > 3) {
        return INFINITY;
    }
    assert_true(freedom >= 2);
    double scale = 2 / (9 * freedom);
    return (cbrt(sum / freedom) - (1 - scale)) / sqrt(scale);
}

#define LIKELY 3.7 /* once in 10,000 by chance; seeds are fixed */
#define UNLIKELY 8

/* ---- One node ------------------------------------------------------------------------------------ */

enum { V = 8, CHILDREN = 3, DRAWS = 20000 };

static const float target[V] = {1.2f, 0.1f, -0.5f, 2.0f, 0.7f, -1.5f, 1.0f, -3.0f};
static const float draft[V] = {0.2f, 1.5f, -0.5f, 1.1f, -2.0f, 1.0f, 0.3f, 0.8f};

static void soft(const float *logits, double temperature, double *p) {
    double sum = 0;
    for (int i = 0; i < V; i++) sum += p[i] = exp(logits[i] / temperature);
    for (int i = 0; i < V; i++) p[i] /= sum;
}

typedef struct {
    int counts[V], kept;
} outcome;

/* The root's next token, with `children` guesses drawn from q of which the rule is told that they are from `said`
 * (NULL: that they are not drawn). */
static outcome draw(qp_ctx *ctx, const char *rule, int children, const float *q, const float *said,
                    double temperature) {
    outcome     o = {0};
    qp_sampler *s = qp_sampler_new(ctx, V, (qp_sampling){.temperature = temperature}, 11);
    qpi_chances from = {said, NULL, V};
    for (int n = 0; n < DRAWS; n++) {
        float    logits[(CHILDREN + 1) * V], room[2 * V], left[V];
        qpi_tree t = {.limit = CHILDREN + 1};
        qpi_tree_add(&t, 0, -1);
        memcpy(left, q, sizeof left);
        for (int k = 0; k < children; k++) {
            int32_t id = qpi_sampler_guess(s, left, V);
            left[id] = 0;
            qpi_tree_add_drawn(&t, id, 0, said ? &from : NULL);
        }
        for (int k = 0; k <= CHILDREN; k++) memcpy(logits + k * V, target, sizeof target);
        qpi_verdict v = {.sampler = s, .tree = &t, .logits = logits, .p = room, .vocabulary = V};
        int32_t     id = qpi_acceptance_of(rule)->next(&v, 0);
        assert_in_range(id, 0, V - 1);
        o.counts[id]++;
        for (int k = 1; k < t.count; k++) o.kept += t.ids[k] == id;
    }
    qp_sampler_close(s);
    return o;
}

/* How often the token is the guess from q: it stays if p(x) > min(0.09, 0.3 e^-H), else it may be drawn all the same. */
static double typical_share(const double *p, const double *q) {
    double entropy = 0, share = 0;
    for (int i = 0; i < V; i++) entropy -= p[i] * log(p[i]);
    for (int i = 0; i < V; i++) share += q[i] * (p[i] > fmin(0.09, 0.3 * exp(-entropy)) ? 1 : p[i]);
    return share;
}

static void one_node(void **state) {
    (void)state;
    qp_ctx *ctx = qp_open((qp_options){.threads = 1});
    for (int half = 0; half < 2; half++) {
        double temperature = half ? 0.6 : 1, p[V], q[V], both = 0, chance = 0;
        float  from[V], even[V];
        soft(target, temperature, p);
        soft(draft, 1, q);
        for (int i = 0; i < V; i++) {
            from[i] = (float)q[i];
            even[i] = 1;
            both += fmin(p[i], q[i]);
            chance += p[i] * q[i];
        }
        for (int children = 0; children <= CHILDREN; children++) {
            outcome drawn = draw(ctx, "rejection", children, from, from, temperature);
            outcome fixed = draw(ctx, "rejection", children, from, NULL, temperature);
            outcome match = draw(ctx, "match", children, from, from, temperature);
            assert_true(surprise(drawn.counts, p, V, DRAWS) < LIKELY);
            assert_true(surprise(fixed.counts, p, V, DRAWS) < LIKELY);
            assert_true(surprise(match.counts, p, V, DRAWS) < LIKELY);
            assert_true(drawn.kept >= match.kept);
            if (children != 1) continue;
            assert_true(fabs((double)drawn.kept / DRAWS - both) < 0.015); /* 1 - |p - q| / 2 */
            assert_true(fabs((double)match.kept / DRAWS - chance) < 0.015);
            /* guesses from q, said to be from another distribution: a rule gone wrong */
            outcome lied = draw(ctx, "rejection", 1, from, even, temperature);
            assert_true(surprise(lied.counts, p, V, DRAWS) > UNLIKELY);
            outcome typical = draw(ctx, "typical", 1, from, from, temperature);
            assert_true(typical.kept > match.kept);
            assert_true(fabs((double)typical.kept / DRAWS - typical_share(p, q)) < 0.015);
            assert_true(surprise(typical.counts, p, V, DRAWS) > UNLIKELY);
        }
    }
    double p[V], q[V]; /* of little entropy: 0.09 is the smaller of the two */
    float  from[V];
    soft(target, 0.4, p);
    soft(draft, 1, q);
    for (int i = 0; i < V; i++) from[i] = (float)q[i];
    outcome sure = draw(ctx, "typical", 1, from, from, 0.4);
    assert_true(fabs((double)sure.kept / DRAWS - typical_share(p, q)) < 0.015);
    qp_close(ctx);
}

/* ---- Texts --------------------------------------------------------------------------------------- */

enum { W = 5, LENGTH = 4, TEXTS = W * W * W, RUNS = 2000 };

static const char config[] =
    "{\"model_type\": \"llama\", \"vocab_size\": 5, \"hidden_size\": 32, \"intermediate_size\": 32, "
    "\"num_hidden_layers\": 1, \"num_attention_heads\": 2, \"max_position_embeddings\": 64, "
    "\"tie_word_embeddings\": true, \"initializer_range\": %s%s}";

static qp_model *fresh(qp_ctx *ctx, const char *deviation, const char *more) {
    char text[1000];
    snprintf(text, sizeof text, config, deviation, more);
    qp_model *m = qp_model_new(ctx, "test", text);
    if (!m) fail_msg("%s", qp_error(ctx));
    qp_set_training(qp_model_module(m), false);
    return m;
}

static const int32_t prompt[] = {1, 3, 0, 2};

/* The sampler's probabilities behind the prompt and some tokens. */
static void chances(qp_session *s, qp_sampler *sampler, const int32_t *ids, int n, float *p) {
    int32_t all[8];
    memcpy(all, prompt, sizeof prompt);
    if (n) memcpy(all + 4, ids, (size_t)n * sizeof *ids);
    assert_int_equal(qp_session_truncate(s, 0, 0), QP_OK);
    qp_scope  scope = qp_enter(qp_session_ctx(s));
    qp_tensor logits =
        qp_session_feed(s, qp_from(qp_session_ctx(s), QP_I32, 2, (int64_t[]){1, 4 + n}, all), (qp_feed){0});
    float row[W];
    assert_int_equal(qp_read(logits, QP_F32, row, W), QP_OK);
    qpi_sampler_chances(sampler, row, p);
    qp_leave(scope);
}

/* Of each text of three tokens. */
static void exact(qp_session *s, qp_sampling sampling, double *p) {
    qp_sampler *sampler = qp_sampler_new(qp_session_ctx(s), W, sampling, 0);
    float       first[W], second[W], third[W];
    chances(s, sampler, NULL, 0, first);
    for (int32_t a = 0; a < W; a++) {
        chances(s, sampler, &a, 1, second);
        for (int32_t b = 0; b < W; b++) {
            chances(s, sampler, (int32_t[]){a, b}, 2, third);
            for (int32_t c = 0; c < W; c++) p[(a * W + b) * W + c] = (double)first[a] * second[b] * third[c];
        }
    }
    assert_int_equal(qp_session_truncate(s, 0, 0), QP_OK);
    qp_sampler_close(sampler);
}

static bool on_token(void *user, const qp_token *t) {
    int32_t **at = user;
    *(*at)++ = t->id;
    return true;
}

typedef struct {
    int     counts[TEXTS];
    int64_t accepted;
} sample;

static sample write_texts(qp_session *s, qp_drafter *d, const char *rule, qp_sampling sampling) {
    sample out = {0};
    for (int i = 0; i < RUNS; i++) {
        int32_t             ids[LENGTH], *at = ids;
        qp_generation       g;
        qp_generate_options o = {.max_tokens = LENGTH,
                                 .sampling = sampling,
                                 .seed = 1000u + (unsigned)i,
                                 .on_token = on_token,
                                 .user = &at,
                                 .drafter = d,
                                 .accept = rule};
        if (qp_generate(s, NULL, prompt, 4, o, &g) != QP_OK) fail_msg("%s", qp_error(qp_session_ctx(s)));
        assert_int_equal(g.tokens, LENGTH);
        assert_int_equal(qp_session_truncate(s, 0, 0), QP_OK);
        out.counts[(ids[0] * W + ids[1]) * W + ids[2]]++;
        out.accepted += g.accepted;
    }
    return out;
}

static void texts(void **state) {
    (void)state;
    static const char *const names[] = {"model", "medusa", "mtp"};
    qp_ctx                  *ctx = qp_open((qp_options){.threads = 1, .seed = 5});
    qp_model   *m = fresh(ctx, "0.35", ", \"num_nextn_predict_layers\": 1"), *small = fresh(ctx, "0.2", "");
    qp_session *s = qp_session_new(m, 1, 16, (qp_session_options){0});
    qp_medusa  *heads = qp_medusa_new(
        m, (qp_medusa_options){.shared = true, .tokens = (int32_t[]){0, 1, 3, 4}, .token_count = 4});
    qp_drafter *drafters[] = {qp_drafter_model(s, small, (qp_drafter_options){0}),
                              qp_drafter_medusa(s, heads, (qp_drafter_options){0}),
                              qp_drafter_mtp(s, NULL, (qp_drafter_options){0})};
    qp_sampling samplings[] = {{.temperature = 1}, {.temperature = 0.8, .top_k = 4}};
    double      p[2][TEXTS];
    if (qp_failed(ctx)) fail_msg("%s", qp_error(ctx));
    for (int k = 0; k < 2; k++) {
        exact(s, samplings[k], p[k]);
        sample plain = write_texts(s, NULL, NULL, samplings[k]);
        assert_true(surprise(plain.counts, p[k], TEXTS, RUNS) < LIKELY);
        for (int d = 0; d < 3; d++) {
            sample match = write_texts(s, drafters[d], "match", samplings[k]);
            sample rejection = write_texts(s, drafters[d], "rejection", samplings[k]);
            sample typical = write_texts(s, drafters[d], "typical", samplings[k]);
            assert_memory_equal(match.counts, plain.counts, sizeof plain.counts); /* the same texts */
            double by = surprise(rejection.counts, p[k], TEXTS, RUNS),
                   off = surprise(typical.counts, p[k], TEXTS, RUNS);
            if (!(by < LIKELY)) fail_msg("%s: rejection is %g off", names[d], by);
            assert_true(rejection.accepted > 0);
            if (d == 2) continue; /* an untrained module guesses nothing that is typical */
            if (!(off > UNLIKELY)) fail_msg("%s: typical is not found out: %g", names[d], off);
            assert_true(typical.accepted > match.accepted);
        }
    }
    sample plain = write_texts(s, NULL, NULL, samplings[0]); /* a false claim */
    assert_true(surprise(plain.counts, p[1], TEXTS, RUNS) > UNLIKELY);
    for (int d = 0; d < 3; d++) qp_drafter_close(drafters[d]);
    qp_close(ctx);
}

/* Without chance there is one text, by whatever rule; a seed gives the same text again. */
static void no_chance(void **state) {
    (void)state;
    qp_ctx     *ctx = qp_open((qp_options){.threads = 1, .seed = 5});
    qp_model   *m = fresh(ctx, "0.35", ", \"num_nextn_predict_layers\": 1");
    qp_session *s = qp_session_new(m, 1, 64, (qp_session_options){0});
    qp_medusa  *heads = qp_medusa_new(m, (qp_medusa_options){.shared = true});
    qp_drafter *drafters[] = {
        qp_drafter_lookup(s, (qp_drafter_options){0}), qp_drafter_model(s, m, (qp_drafter_options){0}),
        qp_drafter_medusa(s, heads, (qp_drafter_options){0}), qp_drafter_mtp(s, NULL, (qp_drafter_options){0})};
    static const char *const rules[] = {"match", "rejection", "typical"};
    for (int hot = 0; hot < 2; hot++)
        for (int d = 0; d < 4; d++)
            for (int r = 0; r < 3; r++) {
                int32_t ids[2][50], *at = ids[0];
                for (int again = 0; again < 2; again++) {
                    at = ids[again];
                    qp_generation       g;
                    qp_generate_options o = {.max_tokens = 50,
                                             .sampling = {.temperature = hot},
                                             .seed = 3,
                                             .on_token = on_token,
                                             .user = &at,
                                             .drafter = again || hot ? drafters[d] : NULL,
                                             .accept = rules[r]};
                    assert_int_equal(qp_generate(s, NULL, prompt, 4, o, &g), QP_OK);
                    assert_int_equal(qp_session_truncate(s, 0, 0), QP_OK);
                }
                assert_memory_equal(ids[0], ids[1], sizeof ids[0]);
            }
    qp_generation       g;
    qp_generate_options o = {.max_tokens = 3, .accept = "wishful"};
    assert_int_equal(qp_generate(s, NULL, prompt, 4, o, &g), QP_ERR_ARGUMENT);
    assert_non_null(strstr(qp_error(ctx), "wishful"));
    qp_close(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(one_node), cmocka_unit_test(texts),
                                       cmocka_unit_test(no_chance)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
