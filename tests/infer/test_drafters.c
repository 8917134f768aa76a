/* Drafts change how fast a text comes, never the text: with each drafter, at any temperature, the tokens and
 * their logprobs are those of plain decoding. */
#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "quipu/quipu.h"

enum { N = 300, V = 257 };

static const char config[] =
    "{\"model_type\": \"llama\", \"vocab_size\": 257, \"hidden_size\": 64, \"intermediate_size\": 160, "
    "\"num_hidden_layers\": %d, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, "
    "\"max_position_embeddings\": 512, \"tie_word_embeddings\": true, \"initializer_range\": %s%s}";

static qp_model *fresh(qp_ctx *ctx, int layers, const char *deviation, const char *more) {
    char text[1000];
    snprintf(text, sizeof text, config, layers, deviation, more);
    qp_model *m = qp_model_new(ctx, "test", text);
    if (!m) fail_msg("%s", qp_error(ctx));
    qp_set_training(qp_model_module(m), false);
    return m;
}

typedef struct {
    int32_t       ids[N];
    float         logprobs[N];
    int           count;
    qp_generation result;
} text;

static bool on_token(void *user, const qp_token *t) {
    text *x = user;
    x->logprobs[x->count] = t->logprob;
    x->ids[x->count++] = t->id;
    return true;
}

static void write_text(qp_session *s, qp_drafter *d, double temperature, text *out) {
    static const int32_t no_end = -1;
    int32_t              prompt[40];
    for (int i = 0; i < 40; i++) prompt[i] = i * i % 11 * 13;
    memset(out, 0, sizeof *out);
    qp_generate_options o = {.max_tokens = N,
                             .ends = &no_end,
                             .end_count = 1,
                             .seed = 7,
                             .logprobs = true,
                             .sampling = {.temperature = temperature, .top_p = temperature > 1 ? 0.9 : 0},
                             .on_token = on_token,
                             .user = out,
                             .drafter = d};
    if (qp_generate(s, NULL, prompt, 40, o, &out->result) != QP_OK) fail_msg("%s", qp_error(qp_session_ctx(s)));
    assert_int_equal(qp_session_truncate(s, 0, 0), QP_OK);
}

typedef enum { LOOKUP, MODEL, MEDUSA, MTP, KINDS } kind;
static const char *const names[] = {"lookup", "model", "medusa", "mtp"};

static qp_drafter *drafter_of(kind k, qp_session *s, qp_drafter_options o) {
    qp_model *m = qp_session_model(s);
    switch (k) {
    case LOOKUP: return qp_drafter_lookup(s, o);
    case MODEL: return qp_drafter_model(s, m, o); /* itself: all that it guesses is right, at temperature 0 */
    case MEDUSA: {
        qp_medusa *heads = qp_medusa_new(m, (qp_medusa_options){.heads = 4, .layers = 2});
        return heads ? qp_drafter_medusa(s, heads, o) : NULL;
    }
    default: return qp_drafter_mtp(s, NULL, o);
    }
}

static void same_text(void **state) {
    (void)state;
    static text plain, drafted;
    for (qp_isa isa = QP_ISA_BASE; isa <= QP_ISA_AVX512; isa++) {
        qp_ctx     *ctx = qp_open((qp_options){.threads = 2, .seed = 5, .isa = isa});
        qp_model   *m = fresh(ctx, 3, "0.12", ", \"num_nextn_predict_layers\": 2");
        qp_session *s = qp_session_new(m, 1, 400, (qp_session_options){.kv = isa % 2 ? QP_F32 : QP_BF16});
        for (int t = 0; t < 3; t++) {
            double temperature = (double[]){0, 0.7, 1.3}[t];
            write_text(s, NULL, temperature, &plain);
            assert_int_equal(plain.count, N);
            assert_int_equal(plain.result.calls, N - 1);
            for (kind k = LOOKUP; k < KINDS; k++)
                for (int64_t depth = 0; depth < 3; depth += 2) {
                    qp_drafter *d = drafter_of(k, s, (qp_drafter_options){.depth = depth});
                    if (!d) fail_msg("%s: %s", names[k], qp_error(ctx));
                    write_text(s, d, temperature, &drafted);
                    if (memcmp(plain.ids, drafted.ids, sizeof plain.ids))
                        fail_msg("%s: another text", names[k]);
                    if (memcmp(plain.logprobs, drafted.logprobs, sizeof plain.logprobs))
                        fail_msg("%s: other logprobs", names[k]);
                    const qp_generation *g = &drafted.result;
                    assert_int_equal(g->calls + g->accepted, N - 1);
                    assert_true(g->accepted <= g->drafted);
                    if (k == MODEL && temperature == 0) assert_true(g->accepted > N / 2);
                    if (k == LOOKUP && temperature == 0) assert_true(g->accepted > 0);
                    qp_drafter_close(d);
                }
        }
        qp_close(ctx);
    }
}

/* A path that is chosen may end anywhere: what follows a stopped text is the same as well. */
static void texts_that_stop(void **state) {
    (void)state;
    static text plain, drafted;
    qp_ctx     *ctx = qp_open((qp_options){.threads = 2, .seed = 5});
    qp_session *s = qp_session_new(fresh(ctx, 2, "0.12", ""), 1, 100, (qp_session_options){0});
    write_text(s, NULL, 0, &plain); /* until the row is full */
    write_text(s, drafter_of(MODEL, s, (qp_drafter_options){.depth = 20}), 0, &drafted);
    assert_int_equal(plain.count, 61);
    assert_int_equal(drafted.count, 61);
    assert_memory_equal(plain.ids, drafted.ids, sizeof plain.ids);
    for (int n = 1; n < 30; n++) {
        qp_drafter         *d = qp_drafter_model(s, qp_session_model(s), (qp_drafter_options){0});
        text                x = {0};
        int32_t             prompt[] = {1, 2, 3};
        qp_generate_options o = {.max_tokens = n, .on_token = on_token, .user = &x, .drafter = d};
        assert_int_equal(qp_generate(s, NULL, prompt, 3, o, &x.result), QP_OK);
        assert_int_equal(x.count, n);
        assert_int_equal(qp_session_length(s, 0), 3 + n - 1); /* the last is not read */
        assert_memory_equal(qp_session_tokens(s, 0) + 3, x.ids, (size_t)(n - 1) * sizeof *x.ids);
        assert_int_equal(qp_session_truncate(s, 0, 0), QP_OK);
        qp_drafter_close(d);
    }
    qp_close(ctx);
}

/* Fresh heads guess what the model's own head says; trained ones learn; files keep them. */
static void heads(void **state) {
    (void)state;
    char path[] = P_tmpdir "/quipu-heads-XXXXXX";
    assert_non_null(mkdtemp(path));
    char file[200];
    snprintf(file, sizeof file, "%s/medusa_lm_head.safetensors", path);
    qp_ctx    *ctx = qp_open((qp_options){.threads = 2, .seed = 5});
    qp_model  *m = fresh(ctx, 2, "0.12", "");
    qp_medusa *h = qp_medusa_new(m, (qp_medusa_options){.heads = 3, .layers = 2});
    qp_optim  *optim = qp_adamw(qp_medusa_params(h), (qp_adamw_options){.lr = 3e-3});
    double     first = 0, last = 0;
    for (int step = 0; step < 30; step++) {
        int64_t ids[4 * 33];
        for (int i = 0; i < 4 * 33; i++) ids[i] = (i % 33 + i / 33 * 5 + step) % 50; /* counting */
        qp_scope  s = qp_enter(ctx);
        qp_tensor all = qp_from(ctx, QP_I64, 2, (int64_t[]){4, 33}, ids);
        bool      before = qp_no_grad(ctx, true);
        qp_tensor hidden = qp_model_hidden(m, qp_slice(all, 1, 0, 32, 1));
        qp_no_grad(ctx, before);
        qp_tensor loss = qp_medusa_loss(h, hidden, qp_contiguous(qp_slice(all, 1, 1, 33, 1)));
        qp_backward(loss);
        qp_step(optim);
        last = qp_item(loss);
        if (!step) first = last;
        qp_leave(s);
    }
    assert_false(qp_failed(ctx));
    if (!(last < 0.5 * first)) fail_msg("loss %g -> %g", first, last);
    assert_int_equal(qp_medusa_save(h, file), QP_OK);
    qp_medusa *again = qp_medusa_load(m, file, false);
    assert_non_null(again);
    assert_int_equal(qp_medusa_heads(again), 3);
    qp_state_dict a = qp_medusa_params(h), b = qp_medusa_params(again);
    assert_int_equal(a.count, b.count);
    for (int i = 0; i < a.count; i++) {
        assert_string_equal(a.entries[i].name, b.entries[i].name);
        int64_t n = qp_count(a.entries[i].tensor);
        assert_memory_equal(qp_data_of(a.entries[i].tensor), qp_data_of(b.entries[i].tensor),
                            (size_t)n * sizeof(float));
    }
    /* heads that share the model's, of some tokens */
    qp_medusa *shared = qp_medusa_new(
        m, (qp_medusa_options){
               .heads = 2, .shared = true, .tokens = (int32_t[]){3, 50, 51, 200}, .token_count = 4});
    assert_non_null(shared);
    assert_int_equal(qp_medusa_params(shared).count, 2 * 2);
    assert_int_equal(qp_medusa_save(shared, file), QP_OK);
    again = qp_medusa_load(m, file, false);
    assert_non_null(again);
    assert_int_equal(qp_medusa_params(again).count, 2 * 2);
    qp_scope  scope = qp_enter(ctx);
    qp_tensor hidden = qp_randn(ctx, QP_F32, 3, (int64_t[]){2, 6, 64});
    int64_t   labels[12] = {3, 50, 51, 200, 4, 3, -100, 51, 51, 9, 50, 3};
    qp_tensor rows = qp_from(ctx, QP_I64, 2, (int64_t[]){2, 6}, labels);
    assert_true(fabs(qp_item(qp_medusa_loss(shared, hidden, rows)) -
                     qp_item(qp_medusa_loss(again, hidden, rows))) < 1e-6);
    assert_false(qp_failed(ctx));
    qp_leave(scope);
    assert_null(qp_medusa_new(m, (qp_medusa_options){.tokens = (int32_t[]){3, 3}, .token_count = 2}));
    assert_int_equal(qp_error_code(ctx), QP_ERR_ARGUMENT);
    qp_clear(ctx);
    assert_int_equal(qp_medusa_save(h, file), QP_OK);
    qp_model *other = qp_model_new(ctx, "test",
                                   "{\"model_type\": \"llama\", \"vocab_size\": 257, \"hidden_size\": 32, "
                                   "\"intermediate_size\": 32, \"num_hidden_layers\": 1, "
                                   "\"num_attention_heads\": 4, \"max_position_embeddings\": 64}");
    assert_null(qp_medusa_load(other, file, false));
    assert_int_equal(qp_error_code(ctx), QP_ERR_FORMAT);
    qp_clear(ctx);
    unlink(file);
    rmdir(path);
    qp_close(ctx);
}

/* The modules' loss goes through the model, and their names are DeepSeek's. */
static void modules(void **state) {
    (void)state;
    qp_ctx   *ctx = qp_open((qp_options){.threads = 2, .seed = 5});
    qp_model *m = fresh(ctx, 2, "0.05", ", \"num_nextn_predict_layers\": 2");
    qp_set_training(qp_model_module(m), true);
    const char              *name;
    qp_tensor                t;
    bool                     found[4] = {0};
    static const char *const expected[] = {"model.layers.2.enorm.weight", "model.layers.3.eh_proj.weight",
                                           "model.layers.2.self_attn.q_proj.weight",
                                           "model.layers.3.shared_head.norm.weight"};
    for (int64_t i = 0; qp_model_weight(m, i, false, &name, &t); i++)
        for (int k = 0; k < 4; k++) found[k] |= !strcmp(name, expected[k]);
    for (int k = 0; k < 4; k++)
        if (!found[k]) fail_msg("no weight %s", expected[k]);
    qp_optim *optim = qp_adamw(qp_model_params(m), (qp_adamw_options){.lr = 3e-3});
    double    first = 0, last = 0, loss_alone = 0;
    for (int step = 0; step < 40; step++) {
        int64_t ids[4 * 33];
        for (int i = 0; i < 4 * 33; i++) ids[i] = (i % 33 * (1 + i / 33) + step) % 50;
        qp_scope  s = qp_enter(ctx);
        qp_tensor all = qp_from(ctx, QP_I64, 2, (int64_t[]){4, 33}, ids);
        qp_record in = {0};
        qp_record_set(&in, "input_ids", qp_slice(all, 1, 0, 32, 1));
        qp_record_set(&in, "labels", qp_contiguous(qp_slice(all, 1, 1, 33, 1)));
        qp_record out = qp_forward(m, in);
        if (qp_failed(ctx)) fail_msg("%s", qp_error(ctx));
        last = qp_item(qp_record_get(&out, "aux.mtp"));
        loss_alone = qp_item(qp_record_get(&out, "loss"));
        if (!step) first = last;
        qp_backward(qp_record_get(&out, "loss"));
        qp_step(optim);
        qp_leave(s);
    }
    assert_false(qp_failed(ctx));
    assert_true(fabs(first - 0.3 * log(V)) < 0.1);
    assert_true(loss_alone > last);
    if (!(last < 0.6 * first)) fail_msg("loss %g -> %g", first, last);
    qp_set_training(qp_model_module(m), false); /* what validation measures is the model's own loss */
    qp_record in = {0};
    qp_record_set(&in, "input_ids", qp_zeros(ctx, QP_I64, 2, (int64_t[]){1, 5}));
    qp_record_set(&in, "labels", qp_zeros(ctx, QP_I64, 2, (int64_t[]){1, 5}));
    qp_record out = qp_forward(m, in);
    assert_true(qp_is_none(qp_record_get(&out, "aux.mtp")));
    qp_close(ctx);
}

/* A module beside a model that stays as it is learns what that writes; then most of its guesses stay, and the text is
 * that without. */
static void module_beside(void **state) {
    (void)state;
    static text plain, drafted;
    char        path[] = P_tmpdir "/quipu-module-XXXXXX", file[200];
    assert_non_null(mkdtemp(path));
    snprintf(file, sizeof file, "%s/mtp.safetensors", path);
    qp_ctx     *ctx = qp_open((qp_options){.threads = 2, .seed = 5});
    qp_model   *m = fresh(ctx, 2, "0.12", "");
    qp_session *s = qp_session_new(m, 1, 400, (qp_session_options){0});
    write_text(s, NULL, 0, &plain);
    qp_mtp   *module = qp_mtp_new(m, (qp_mtp_options){0});
    qp_optim *optim = qp_adamw(qp_mtp_params(module), (qp_adamw_options){.lr = 3e-3});
    double    first = 0, last = 0;
    for (int step = 0; step < 40; step++) {
        int64_t ids[4 * 49];
        for (int i = 0; i < 4 * 49; i++) ids[i] = plain.ids[i / 49 * 60 + step % 10 + i % 49];
        qp_scope  scope = qp_enter(ctx);
        qp_tensor all = qp_from(ctx, QP_I64, 2, (int64_t[]){4, 49}, ids), in = qp_slice(all, 1, 0, 48, 1);
        bool      before = qp_no_grad(ctx, true);
        qp_tensor hidden = qp_model_hidden(m, in);
        qp_no_grad(ctx, before);
        qp_tensor loss = qp_mtp_loss(module, hidden, in, qp_contiguous(qp_slice(all, 1, 1, 49, 1)), 3);
        qp_backward(loss);
        qp_step(optim);
        last = qp_item(loss);
        if (!step) first = last;
        qp_leave(scope);
    }
    if (qp_failed(ctx)) fail_msg("%s", qp_error(ctx));
    if (!(last < 0.3 * first)) fail_msg("loss %g -> %g", first, last);
    write_text(s, qp_drafter_mtp(s, module, (qp_drafter_options){0}), 0, &drafted);
    assert_memory_equal(plain.ids, drafted.ids, sizeof plain.ids);
    if (drafted.result.calls > N / 2) fail_msg("%d calls for %d tokens", (int)drafted.result.calls, N);
    /* as a file, on the same and another model */
    assert_int_equal(qp_mtp_save(module, file), QP_OK);
    qp_mtp *again = qp_mtp_load(m, file, false);
    assert_non_null(again);
    qp_mtp *further = qp_mtp_load(m, file, true);
    assert_non_null(further);
    qp_state_dict a = qp_mtp_params(module), b = qp_mtp_params(further);
    assert_int_equal(a.count, b.count);
    for (int i = 0; i < a.count; i++)
        assert_memory_equal(qp_data_of(a.entries[i].tensor), qp_data_of(b.entries[i].tensor),
                            (size_t)qp_count(a.entries[i].tensor) * sizeof(float));
    qp_generation trained = drafted.result;
    write_text(s, qp_drafter_mtp(s, again, (qp_drafter_options){0}), 0, &drafted);
    assert_memory_equal(plain.ids, drafted.ids, sizeof plain.ids);
    assert_int_equal(drafted.result.accepted, trained.accepted);
    qp_model   *other = fresh(ctx, 2, "0.1", ""), *deeper = fresh(ctx, 3, "0.1", "");
    qp_session *theirs = qp_session_new(other, 1, 400, (qp_session_options){0});
    assert_null(qp_drafter_mtp(theirs, module, (qp_drafter_options){0}));
    assert_int_equal(qp_error_code(ctx), QP_ERR_ARGUMENT);
    qp_clear(ctx);
    assert_null(qp_mtp_load(deeper, file, false)); /* its module stands behind three layers */
    assert_non_null(strstr(qp_error(ctx), "model.layers.3."));
    qp_clear(ctx);
    /* of some tokens */
    int32_t tokens[60];
    for (int i = 0; i < 60; i++) tokens[i] = i * 4;
    qp_mtp *some = qp_mtp_new(m, (qp_mtp_options){.tokens = tokens, .token_count = 60});
    assert_int_equal(qp_mtp_save(some, file), QP_OK);
    again = qp_mtp_load(m, file, false);
    assert_non_null(again);
    assert_int_equal(qp_mtp_params(again).count, 0); /* what is loaded does not train */
    qp_scope  scope = qp_enter(ctx);
    qp_tensor hidden = qp_randn(ctx, QP_F32, 3, (int64_t[]){2, 6, 64}),
              ids = qp_zeros(ctx, QP_I64, 2, (int64_t[]){2, 6});
    int64_t   labels[12] = {3, 4, 8, 200, 5, 3, -100, 8, 8, 12, 52, 3};
    qp_tensor rows = qp_from(ctx, QP_I64, 2, (int64_t[]){2, 6}, labels);
    assert_true(qp_item(qp_mtp_loss(some, hidden, ids, rows, 2)) ==
                qp_item(qp_mtp_loss(again, hidden, ids, rows, 2)));
    assert_true(qp_failed(ctx) == false);
    qp_mtp_loss(some, hidden, ids, rows, 0);
    assert_int_equal(qp_error_code(ctx), QP_ERR_ARGUMENT);
    qp_clear(ctx);
    qp_leave(scope);
    write_text(s, qp_drafter_mtp(s, again, (qp_drafter_options){.depth = 2}), 0, &drafted);
    assert_memory_equal(plain.ids, drafted.ids, sizeof plain.ids);
    assert_null(qp_mtp_new(m, (qp_mtp_options){.tokens = (int32_t[]){5, 2}, .token_count = 2}));
    assert_int_equal(qp_error_code(ctx), QP_ERR_ARGUMENT);
    qp_clear(ctx);
    /* a map with too many tokens, and one that does not ascend */
    for (int wrong = 0; wrong < 2; wrong++) {
        int32_t  map[300] = {2, 1};
        int64_t  count = wrong ? 2 : 300;
        qp_named entry = {"token_map", qp_from(ctx, QP_I32, 1, &count, map)};
        assert_int_equal(qp_file_save(ctx, file, 1, &entry, (qp_save_options){0}), QP_OK);
        assert_null(qp_mtp_load(m, file, false));
        assert_int_equal(qp_error_code(ctx), wrong ? QP_ERR_ARGUMENT : QP_ERR_FORMAT);
        qp_clear(ctx);
    }
    unlink(file);
    rmdir(path);
    qp_mtp_close(some);
    qp_close(ctx);
}

static void draft_for(const char *path) {
    text      plain, drafted;
    qp_ctx   *ctx = qp_open((qp_options){.threads = 1, .seed = 5});
    qp_model *m = qp_model_load(ctx, path, (qp_model_options){.as_stored = true});
    if (!m) fail_msg("%s: %s", path, qp_error(ctx));
    qp_set_training(qp_model_module(m), false);
    qp_mtp *module = qp_mtp_new(m, (qp_mtp_options){0});
    if (!module) { /* gives hidden states, or its head is of another width */
        if (qp_error_code(ctx) != QP_ERR_UNSUPPORTED) fail_msg("%s: %s", path, qp_error(ctx));
        qp_close(ctx);
        return;
    }
    qp_scope  scope = qp_enter(ctx);
    qp_tensor ids = qp_zeros(ctx, QP_I64, 2, (int64_t[]){2, 7});
    qp_tensor loss = qp_mtp_loss(module, qp_detach(qp_model_hidden(m, ids)), ids, ids, 3);
    qp_backward(loss);
    if (qp_error_code(ctx) == QP_ERR_UNSUPPORTED) { /* a part that is made for so many layers */
        qp_close(ctx);
        return;
    }
    if (qp_failed(ctx) || !(qp_item(loss) > 0)) fail_msg("%s: loss %g, %s", path, qp_item(loss), qp_error(ctx));
    qp_leave(scope);
    qp_session *s = qp_session_new(m, 1, 64, (qp_session_options){0});
    qp_drafter *d = s ? qp_drafter_mtp(s, module, (qp_drafter_options){.depth = 3}) : NULL;
    if (d) {
        qp_generate_options o = {.max_tokens = 14, .on_token = on_token};
        for (int k = 0; k < 2; k++) {
            text *x = o.user = k ? &drafted : &plain;
            o.drafter = k ? d : NULL;
            memset(x, 0, sizeof *x);
            if (qp_generate(s, NULL, (int32_t[]){1, 2, 3}, 3, o, &x->result) != QP_OK)
                fail_msg("%s: %s", path, qp_error(ctx));
            assert_int_equal(qp_session_truncate(s, 0, 0), QP_OK);
        }
        assert_int_equal(plain.count, drafted.count);
        if (memcmp(plain.ids, drafted.ids, sizeof(int32_t) * (size_t)plain.count))
            fail_msg("%s: another text", path);
    } else if (qp_error_code(ctx) != QP_ERR_UNSUPPORTED) { /* states of a fixed size, no step form */
        fail_msg("%s: %s", path, qp_error(ctx));
    }
    qp_close(ctx);
}

/* A model of weights next to 0 finds all tokens as likely: each place costs log V, and counts 0.8 times as much as the
 * one before it. */
static void places_count_less(void **state) {
    (void)state;
    qp_ctx    *ctx = qp_open((qp_options){.threads = 1, .seed = 5});
    qp_model  *m = fresh(ctx, 1, "1e-9", "");
    qp_medusa *heads = qp_medusa_new(m, (qp_medusa_options){.heads = 3});
    qp_mtp    *module = qp_mtp_new(m, (qp_mtp_options){0});
    qp_tensor  ids = qp_reshape(qp_arange(ctx, QP_I64, 12), 2, (int64_t[]){1, 12});
    qp_tensor  hidden = qp_model_hidden(m, ids);
    double     sum = 0, expected[3];
    for (int k = 0; k < 3; k++) expected[k] = sum += pow(0.8, k) * log(V);
    assert_float_equal(qp_item(qp_medusa_loss(heads, hidden, ids)), expected[2], 1e-3);
    for (int k = 0; k < 3; k++)
        assert_float_equal(qp_item(qp_mtp_loss(module, hidden, ids, ids, k + 1)), expected[k], 1e-3);
    assert_false(qp_failed(ctx));
    qp_close(ctx);
}

/* A module can stand beside whatever model there is, of its own kind of layer. */
static void every_model(void **state) {
    (void)state;
    char           path[600];
    struct dirent *e;
    int            count = 0;
    DIR           *d = opendir(SOURCE_DIR "/tests/golden/models");
    assert_non_null(d);
    while ((e = readdir(d))) {
        if (e->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "%s/tests/golden/models/%s", SOURCE_DIR, e->d_name);
        draft_for(path);
        count++;
    }
    closedir(d);
    assert_true(count >= 82); /* none is missing */
}

static void refusals(void **state) {
    (void)state;
    qp_ctx     *ctx = qp_open((qp_options){.threads = 1, .seed = 5});
    qp_model   *m = fresh(ctx, 1, "0.1", "");
    qp_session *s = qp_session_new(m, 1, 50, (qp_session_options){0}),
               *other = qp_session_new(m, 1, 50, (qp_session_options){0});
    assert_null(qp_drafter_mtp(s, NULL, (qp_drafter_options){0}));
    assert_int_equal(qp_error_code(ctx), QP_ERR_UNSUPPORTED);
    qp_clear(ctx);
    assert_null(qp_drafter_lookup(s, (qp_drafter_options){.depth = 64}));
    assert_int_equal(qp_error_code(ctx), QP_ERR_ARGUMENT);
    qp_clear(ctx);
    assert_null(qp_medusa_new(m, (qp_medusa_options){.heads = 17}));
    assert_int_equal(qp_error_code(ctx), QP_ERR_ARGUMENT);
    qp_clear(ctx);
    qp_generation       g;
    qp_generate_options o = {.max_tokens = 3, .drafter = qp_drafter_lookup(other, (qp_drafter_options){0})};
    assert_int_equal(qp_generate(s, NULL, (int32_t[]){1}, 1, o, &g), QP_ERR_ARGUMENT);
    assert_non_null(strstr(qp_error(ctx), "another session"));
    qp_close(ctx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_text), cmocka_unit_test(texts_that_stop),   cmocka_unit_test(heads),
        cmocka_unit_test(modules),   cmocka_unit_test(module_beside),     cmocka_unit_test(every_model),
        cmocka_unit_test(refusals),  cmocka_unit_test(places_count_less),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
