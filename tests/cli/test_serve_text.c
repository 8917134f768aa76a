/* quipu serve: what it answers with. Streams, scores, echoes, parameters, vectors, a model that fails. */
#define _GNU_SOURCE
#include "server.h"

#include <unistd.h>

static const char hello[] =
    "{\"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}], \"max_tokens\": 6, \"temperature\": 0";

static char *chat_text(const char *more) {
    char body[500];
    snprintf(body, sizeof body, "%s%s}", hello, more);
    assert_int_equal(hear(post("/v1/chat/completions", "", body)), 200);
    json_t *all = json(), *choice = json_array_get(json_object_get(all, "choices"), 0);
    char   *out = strdup(json_string_value(json_object_get(json_object_get(choice, "message"), "content")));
    assert_string_equal(json_string_value(json_object_get(choice, "finish_reason")), "length");
    assert_int_equal(json_integer_value(json_object_get(json_object_get(all, "usage"), "completion_tokens")),
                     6);
    json_decref(all);
    return out;
}

/* The pieces of a stream, together. */
static void test_stream(void **state) {
    (void)state;
    char *whole = chat_text(""), *joined = calloc(1, 1000), body[500];
    snprintf(body, sizeof body, "%s, \"stream\": true, \"stream_options\": {\"include_usage\": true}}", hello);
    assert_int_equal(hear(post("/v1/chat/completions", "", body)), 200);
    for (char *at = text; (at = strstr(at, "data: {")); at++) {
        json_t *event = json_loads(at + 6, JSON_DISABLE_EOF_CHECK, NULL),
               *choice = json_array_get(json_object_get(event, "choices"), 0);
        const char *piece = json_string_value(json_object_get(json_object_get(choice, "delta"), "content"));
        assert_non_null(event);
        if (piece) strcat(joined, piece);
        if (!choice)
            assert_int_equal(
                json_integer_value(json_object_get(json_object_get(event, "usage"), "completion_tokens")), 6);
        json_decref(event);
    }
    assert_non_null(strstr(text, "data: [DONE]"));
    assert_string_equal(joined, whole);
    free(whole);
    free(joined);
}

/* echo with logprobs: what an evaluation harness reads. The same from text and from its ids. */
static void test_scores(void **state) {
    (void)state;
    double sum[2] = {0, 0};
    for (int ids = 0; ids < 2; ids++) {
        char body[300];
        snprintf(body, sizeof body,
                 "{\"prompt\": %s, \"max_tokens\": 1, \"echo\": true, \"logprobs\": 1, \"temperature\": 0}",
                 ids ? "[[72, 105, 33]]" : "\"Hi!\"");
        assert_int_equal(hear(post("/v1/completions", "", body)), 200);
        json_t *all = json(), *choice = json_array_get(json_object_get(all, "choices"), 0),
               *l = json_object_get(choice, "logprobs");
        json_t *values = json_object_get(l, "token_logprobs");
        assert_int_equal(json_array_size(values), 4);
        assert_true(json_is_null(json_array_get(values, 0)));
        assert_int_equal(json_array_size(json_object_get(l, "top_logprobs")), 4);
        assert_string_equal(json_string_value(json_array_get(json_object_get(l, "tokens"), 1)), "i");
        assert_int_equal(strncmp(json_string_value(json_object_get(choice, "text")), "Hi!", 3), 0);
        for (size_t i = 1; i < 3; i++) {
            double p = json_real_value(json_array_get(values, i));
            assert_true(p < 0 && p > -50);
            sum[ids] += p;
        }
        json_decref(all);
    }
    assert_true(sum[0] == sum[1]);
    /* lm-eval drops the last token, which it did not ask about: it is there if the model ends, too */
    assert_int_equal(
        hear(post("/v1/completions", "",
                  "{\"prompt\": \"Hi!\", \"max_tokens\": 1, \"echo\": true, \"logprobs\": 1, \"logit_bias\": "
                  "{\"256\": 100}}")),
        200);
    json_t *all = json(), *l = json_object_get(json_array_get(json_object_get(all, "choices"), 0), "logprobs");
    assert_int_equal(json_array_size(json_object_get(l, "token_logprobs")), 4);
    assert_non_null(strstr(text, "\"text\":\"Hi!\""));
    json_decref(all);
}

/* The texts of all events, or of the one answer, together. */
static void joined_text(char *out, size_t room) {
    *out = 0;
    for (char *at = text; (at = strstr(at, "\"text\":")); at++) {
        json_t *piece = json_loads(at + 7, JSON_DISABLE_EOF_CHECK | JSON_DECODE_ANY, NULL);
        strncat(out, json_string_value(piece), room - strlen(out) - 1);
        json_decref(piece);
    }
}

/* Pieces of SentencePiece: spaces are kept, what the tokenizer puts before a text is not part of it, characters
 * of several tokens are whole; a prompt that a row holds is echoed like any other. */
static void test_echo(void **state) {
    static const char prompt[] = "the quick \xF0\x9F\xA6\x99 fox \xC3\xA9 is";
    char              body[300], got[300];
    (void)state;
    stop();
    start("pieces", "", "2");
    for (int i = 0; i < 6; i++) {
        snprintf(body, sizeof body,
                 "{\"prompt\": \"%s\", \"echo\": true, \"max_tokens\": %d, \"temperature\": 0%s%s}", prompt,
                 i % 3, i & 1 ? ", \"stream\": true" : "", i > 3 ? ", \"logprobs\": 1" : "");
        assert_int_equal(hear(post("/v1/completions", "", body)), 200);
        joined_text(got, sizeof got);
        if (strncmp(got, prompt, strlen(prompt))) fail_msg("%s: found \"%s\"", body, got);
    }
    assert_int_equal(
        hear(post("/v1/completions", "",
                  "{\"prompt\": \"the \xF0\x9F\xA6\x99 quick  fox\", \"echo\": true, \"max_tokens\": 0, "
                  "\"logprobs\": 0}")),
        200);
    json_t *all = json(), *choice = json_array_get(json_object_get(all, "choices"), 0),
           *l = json_object_get(choice, "logprobs"), *tokens = json_object_get(l, "tokens"),
           *offsets = json_object_get(l, "text_offset");
    assert_string_equal(json_string_value(json_array_get(tokens, 0)), "<s>");
    *got = 0;
    for (size_t i = 1; i < json_array_size(tokens); i++) { /* a byte is a token, no text alone: _ here */
        const char *one = json_string_value(json_array_get(tokens, i));
        bool        half = !strcmp(one, "\xEF\xBF\xBD"), second = half && strchr(got, '_');
        assert_int_equal(json_integer_value(json_array_get(offsets, i)), strlen(got) - second);
        if (!second) strcat(got, half ? "_" : one);
    }
    assert_string_equal(got, "the _ quick  fox");
    json_decref(all);
    stop();
    start("long", "", "2");
}

static void test_parameters(void **state) {
    (void)state;
    assert_int_equal(
        hear(post("/v1/completions", "",
                  "{\"prompt\": \"x\", \"max_tokens\": 3, \"logit_bias\": {\"65\": 100}, \"n\": 1}")),
        200);
    assert_non_null(strstr(text, "\"text\":\"AAA\""));
    assert_int_equal(
        hear(post(
            "/v1/completions", "",
            "{\"prompt\": \"x\", \"max_tokens\": 9, \"logit_bias\": {\"65\": 100}, \"stop\": [\"AAAA\"]}")),
        200);
    assert_non_null(strstr(text, "\"text\":\"\",\"logprobs\":null,\"finish_reason\":\"stop\""));
    /* A is 1 ahead of B and loses 2, once or each time */
    static const char penalised[] = "{\"prompt\": \"x\", \"max_tokens\": 6, \"temperature\": 0, "
                                    "\"logit_bias\": {\"65\": 100, \"66\": 99}, ";
    char              body[300];
    snprintf(body, sizeof body, "%s\"presence_penalty\": 2}", penalised);
    assert_int_equal(hear(post("/v1/completions", "", body)), 200);
    assert_non_null(strstr(text, "\"text\":\"ABAAAA\""));
    snprintf(body, sizeof body, "%s\"frequency_penalty\": 2}", penalised);
    assert_int_equal(hear(post("/v1/completions", "", body)), 200);
    assert_non_null(strstr(text, "\"text\":\"ABABAB\""));
    char first[2000];
    for (int i = 0; i < 2; i++) { /* a seed decides */
        assert_int_equal(
            hear(post("/v1/completions", "", "{\"prompt\": \"x\", \"max_tokens\": 9, \"seed\": 7}")), 200);
        char *at = strstr(text, "\"choices\"");
        at[strcspn(at, "}")] = 0;
        if (i) assert_string_equal(first, at);
        snprintf(first, sizeof first, "%s", at);
    }
    assert_int_equal(hear(post("/tokenize", "", "{\"prompt\": \"Hi\"}")), 200);
    assert_non_null(strstr(text, "\"tokens\":[72,105]"));
    assert_int_equal(get("/", ""), 200);
    assert_non_null(strstr(text, "<!doctype html>"));
    assert_null(strstr(text, "https:")); /* it needs no network */
}

/* As numbers and as base64 (what OpenAI's client asks for); a text's vector does not depend on the others. */
static void test_embeddings(void **state) {
    (void)state;
    assert_int_equal(hear(post("/v1/embeddings", "", "{\"input\": [\"Hi\", \"there\"]}")), 200);
    json_t *both = json(), *data = json_object_get(both, "data"),
           *second = json_object_get(json_array_get(data, 1), "embedding");
    assert_int_equal(json_array_size(data), 2);
    assert_int_equal(json_array_size(second), 32);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(both, "usage"), "prompt_tokens")), 7);
    assert_int_equal(hear(post("/v1/embeddings", "", "{\"input\": \"there\"}")), 200);
    json_t *one = json();
    assert_true(
        json_equal(second, json_object_get(json_array_get(json_object_get(one, "data"), 0), "embedding")));
    assert_int_equal(
        hear(post("/v1/embeddings", "", "{\"input\": \"there\", \"encoding_format\": \"base64\"}")), 200);
    json_t *coded = json();
    assert_int_equal(
        json_string_length(json_object_get(json_array_get(json_object_get(coded, "data"), 0), "embedding")),
        172);
    json_decref(one);
    json_decref(coded);
    assert_int_equal(hear(post("/v1/embeddings", "", "{\"input\": [[72, 105], [116, 104, 101, 114, 101]]}")),
                     200);
    json_t *ids = json();
    assert_true(
        json_equal(second, json_object_get(json_array_get(json_object_get(ids, "data"), 1), "embedding")));
    assert_int_equal(hear(post("/v1/embeddings", "", "{\"input\": [\"x\", [116, 104, 101, 114, 101], \"y\"]}")),
                     200);
    json_t *mixed = json();
    assert_true(
        json_equal(second, json_object_get(json_array_get(json_object_get(mixed, "data"), 1), "embedding")));
    assert_int_equal(hear(post("/v1/embeddings", "", "{\"input\": [116, 104, 101, 114, 101]}")), 200);
    json_t *alone = json();
    assert_true(
        json_equal(second, json_object_get(json_array_get(json_object_get(alone, "data"), 0), "embedding")));
    json_decref(ids);
    json_decref(mixed);
    json_decref(alone);
    json_decref(both);
    expect_error_code(hear(post("/v1/embeddings", "", "{\"input\": [1, 300]}")), 400, "token 1");
    expect_error_code(hear(post("/v1/embeddings", "", "{\"input\": [[1], []]}")), 400, "input");
    expect_error_code(hear(post("/v1/embeddings", "", "{\"input\": [[1], [-1]]}")), 400, "token 0");
    expect_error_code(hear(post("/v1/embeddings", "", "{\"input\": [1, \"x\"]}")), 400, "token 1");
    expect_error_code(hear(post("/v1/embeddings", "", "{\"input\": [\"x\", 1]}")), 400, "input");
    expect_error_code(hear(post("/v1/embeddings", "", "{}")), 400, "input");
    expect_error_code(hear(post("/v1/embeddings", "", "{\"input\": \"\"}")), 400, "");
    expect_error_code(hear(post("/v1/embeddings", "", "{\"input\": \"x\", \"dimensions\": 5}")), 400,
                      "dimensions");
}

/* A model that fails says so, each way. */
static void test_spoilt(void **state) {
    (void)state;
    stop();
    start("spoilt", "", "2");
    expect_error_code(hear(post("/v1/embeddings", "", "{\"input\": [\"x\", \"y\"]}")), 500, "not finite");
    expect_error_code(hear(post("/v1/embeddings", "", "{\"input\": [[7]], \"encoding_format\": \"base64\"}")),
                      500, "not finite");
    expect_error_code(hear(post("/v1/completions", "", "{\"prompt\": \"x\"}")), 500, "the model failed");
    expect_error_code(hear(post("/v1/completions", "", "{\"prompt\": \"x\", \"stream\": true}")), 200,
                      "the model failed");
    stop();
    start("long", "", "2");
}

static bool make_spoilt(void) {
    qp_ctx       *ctx = qp_open((qp_options){.threads = 1});
    qp_model     *m = qp_model_load(ctx, in_folder("bytes"), (qp_model_options){0});
    qp_state_dict all = m ? qp_module_state(qp_model_module(m)) : (qp_state_dict){0};
    float         nan[64] = {NAN};
    for (int i = 0; i < all.count; i++) {
        qp_tensor t = all.entries[i].tensor;
        if (!strcmp(all.entries[i].name, "norm.weight") && qp_write(t, QP_F32, nan, qp_count(t)) != QP_OK)
            break;
    }
    bool ok = m && qp_model_save(m, in_folder("spoilt")) == QP_OK;
    qp_close(ctx);
    return ok;
}

static bool make_pieces(void) {
    static const char config[] =
        "{\"model_type\": \"llama\", \"vocab_size\": 520, \"hidden_size\": 32, \"intermediate_size\": 64, "
        "\"num_hidden_layers\": 1, \"num_attention_heads\": 4, \"max_position_embeddings\": 2000}";
    size_t bytes;
    char  *vocabulary = read_file(SOURCE_DIR "/tests/golden/tokenizers/llama.json", &bytes);
    bool   ok = !save_model("pieces", config);
    write_file("pieces/tokenizer.json", vocabulary, bytes);
    free(vocabulary);
    return ok;
}

static int make(void **state) {
    if (make_server(state)) return -1;
    return make_pieces() && make_spoilt() ? 0 : (end_server(state), -1);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_stream),     cmocka_unit_test(test_scores),
                                       cmocka_unit_test(test_echo),       cmocka_unit_test(test_parameters),
                                       cmocka_unit_test(test_embeddings), cmocka_unit_test(test_spoilt)};
    return cmocka_run_group_tests(tests, make, end_server);
}
