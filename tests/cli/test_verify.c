/* verify: what can be told from files alone, and agreement over long texts. */
#include "support.h"

#include "quipu/ops.h"

static const json_t *finding(const json_t *all, const char *check) {
    json_t *one;
    size_t  i;
    json_array_foreach(json_object_get(all, "checks"), i,
                       one) if (!strcmp(json_string_value(json_object_get(one, "check")), check) &&
                                !json_is_true(json_object_get(one, "ok"))) return one;
    return NULL;
}

static void lint(void **state) {
    (void)state;
    json_t *o = expect_json(run("verify", "%/bytes", "--json", NULL));
    assert_true(json_is_true(json_object_get(o, "ok")));
    json_decref(o);
    /* an element that is no number */
    assert_int_equal(save_model("blocks", byte_config), 0);
    qp_model   *m = qp_model_load(ctx, in_folder("blocks"), (qp_model_options){0});
    const char *name;
    qp_tensor   t;
    assert_true(qp_model_weight(m, 3, false, &name, &t));
    ((float *)qp_data_write(t))[2] = NAN;
    assert_int_equal(qp_model_save(m, in_folder("odd")), QP_OK);
    outcome r = run("verify", "%/odd", "--json", NULL);
    assert_int_equal(r.status, 1);
    o = json_loads(r.out, 0, NULL);
    assert_non_null(strstr(json_string_value(json_object_get(finding(o, "elements"), "what")), "1 elements"));
    json_decref(o);
    /* a missing tensor */
    r = run("verify", SOURCE_DIR "/tests/golden/models/gpt2", "--json", NULL);
    assert_int_equal(r.status, 1); /* it has no tokenizer */
    o = json_loads(r.out, 0, NULL);
    assert_non_null(finding(o, "tokenizer"));
    assert_null(finding(o, "weights"));
    json_decref(o);
    qp_model_close(m);
}

/* What of a folder's other files the verbs would stumble over. */
static void companions(void **state) {
    (void)state;
    static const char *const files[][4] = {
        {"generation_config.json", "{\"eos_token_id\": 999999}", "tokens", "eos_token_id is 999999"},
        {"generation_config.json", "{\"eos_token_id\": [256, \"x\"]}", "tokens", "found a string"},
        {"generation_config.json", "{", "tokens", "line 1"},
        {"tokenizer_config.json", "{\"eos_token\": {\"content\": \"<|nope|>\"}}", "tokens", "<|nope|>"},
        {"special_tokens_map.json", "{\"bos_token\": \"<|nope|>\"}", "tokens", "<|nope|>"},
        {"chat_template.jinja", "{% for", "template", "chat_template.jinja"},
        {"generation_config.json", "{\"eos_token_id\": [256], \"pad_token_id\": null}", NULL, NULL}};
    assert_int_equal(save_model("beside", byte_config), 0);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char path[100];
        snprintf(path, sizeof path, "beside/%s", files[i][0]);
        write_text(path, files[i][1]);
        outcome r = run("verify", "%/beside", "--json", NULL);
        json_t *o = json_loads(r.out, 0, NULL);
        assert_int_equal(r.status, files[i][2] != NULL);
        if (files[i][2] &&
            !strstr(json_string_value(json_object_get(finding(o, files[i][2]), "what")), files[i][3]))
            fail_msg("%s: %s", files[i][1], r.out);
        json_decref(o);
        remove(in_folder(path));
    }
}

/* Top-1 and likelihood of long texts, computed here. */
static void agreement(void **state) {
    (void)state;
    enum { B = 2, T = 20, V = 257 };
    assert_int_equal(save_model("blocks", byte_config), 0);
    qp_model *m = qp_model_load(ctx, in_folder("blocks"), (qp_model_options){0});
    int64_t   ids[B * T], top[B * T];
    float     nll[B * (T - 1)], x[B * T * V];
    for (int i = 0; i < B * T; i++) ids[i] = i * 37 % 256;
    qp_tensor in = qp_from(ctx, QP_I64, 2, (int64_t[]){B, T}, ids),
              logits = qp_log_softmax(qp_logits(m, in), -1);
    assert_int_equal(qp_read(logits, QP_F32, x, B * T * V), QP_OK);
    assert_int_equal(qp_read(qp_argmax(logits, -1, false), QP_I64, top, B * T), QP_OK);
    for (int b = 0; b < B; b++)
        for (int i = 0; i + 1 < T; i++) nll[b * (T - 1) + i] = -x[(b * T + i) * V + ids[b * T + i + 1]];
    top[3] = (top[3] + 1) % V; /* one of forty differs */
    qp_named list[] = {{"input_ids", in},
                       {"top1", qp_from(ctx, QP_I64, 2, (int64_t[]){B, T}, top)},
                       {"nll", qp_from(ctx, QP_F32, 2, (int64_t[]){B, T - 1}, nll)}};
    assert_int_equal(qp_file_save(ctx, in_folder("texts.safetensors"), 3, list, (qp_save_options){0}), QP_OK);
    json_t *o = expect_json(run("verify", "%/blocks", "--reference", "%/texts.safetensors", "--json", NULL));
    assert_true(fabs(json_number_value(json_object_get(o, "top1_agreement")) - 39.0 / 40) < 1e-9);
    assert_true(fabs(json_number_value(json_object_get(o, "error"))) < 1e-5);
    json_decref(o);
    qp_model_close(m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lint),
        cmocka_unit_test(companions),
        cmocka_unit_test(agreement),
    };
    return cmocka_run_group_tests(tests, make_context, remove_context);
}
