/* Stacks of parts: what a config may say and what it may not, with the words of each refusal; parts of a
 * host program where the library has none that does such a thing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "../format/in_turn.h"
#include "models/model.h"
#include "quipu/quipu.h"

static const char base[] =
    "{\"model_type\": \"quipu\", \"vocab_size\": 11, \"hidden_size\": 8, \"num_hidden_layers\": 2,"
    " \"max_position_embeddings\": 8, \"position\": {\"type\": \"none\"}, \"mixer\": {\"type\": \"attention\", "
    "\"heads\": 2},"
    " \"ffn\": {\"type\": \"mlp\"}, \"norm\": {\"type\": \"rms_norm\"}}";

/* ---- Parts of a host program ------------------------------------------------------------------------- */

static void init_nothing(void *self, qp_build *b) {
    (void)self;
    (void)qp_setting(b, "heads");
}

static void init_without(void *self, qp_build *b) { (void)self, (void)b; }

static void init_wrongly(void *self, qp_build *b) {
    (void)self;
    qp_setting(b, "absent");
}

static qp_tensor hand_through(void *self, qp_tensor x, qp_tensor residual, const qp_sequence *s) {
    (void)self, (void)s;
    return qp_is_none(residual) ? x : qp_add(x, residual);
}

static const qp_option head_options[] = {{.name = "heads", .kind = QP_OPTION_INT, .fallback = 0, .high = 8},
                                         {0}};

/* Heads, but no width of theirs to choose; and a mixer that has neither options nor heads. */
static const qp_branch_type heads_mixer = {
    .part = {.name = "heads", .options = head_options}, .init = init_nothing, .forward = hand_through};
static const qp_branch_type bare_mixer = {
    .part = {.name = "bare"}, .init = init_without, .forward = hand_through};
static const qp_branch_type wrong_mixer = {
    .part = {.name = "wrong"}, .init = init_wrongly, .forward = hand_through};

/* An input without a table that an output could share. */
static void init_ones(void *self, qp_build *b) { *(int64_t *)self = b->width; }
static qp_tensor ones(void *self, qp_tensor ids, const qp_sequence *s) {
    (void)s;
    return qp_full(ids.ctx, QP_F32, 3, (int64_t[]){qp_size(ids, 0), qp_size(ids, 1), *(int64_t *)self}, 1);
}
static const qp_input_type ones_input = {
    .part = {.name = "ones", .bytes = sizeof(int64_t)}, .init = init_ones, .forward = ones};

/* Has a parameter in wide models alone. */
static void init_wide(void *self, qp_build *b) {
    init_ones(self, b);
    if (b->width > 4) qp_param(b->module, "p", "ones", 1, &b->width);
}
static const qp_input_type wide_input = {
    .part = {.name = "wide", .bytes = sizeof(int64_t)}, .init = init_wide, .forward = ones};

/* Shared by all layers, with no hook at all. */
static const qp_position_type shared_position = {
    .part = {.name = "shared"}, .shared = true, .init = init_without};

/* A block without norms that does what `doing` says. */
static enum { HANDS_THROUGH, ADDS_SEVEN, ADDS_EIGHT } doing;

static qp_tensor run_block(const qp_block *b, qp_tensor x, const qp_sequence *s, qp_state *states) {
    char name[24];
    (void)states;
    for (int i = 0; i < (doing == ADDS_SEVEN ? 7 : doing == ADDS_EIGHT ? 8 : 0); i++) {
        snprintf(name, sizeof name, "%d.%d", b->layer, i);
        qp_sequence_add(s, name, x);
    }
    return doing == HANDS_THROUGH ? x : qp_affine(x, 2, 0);
}
static const qp_block_type plain_block = {.part = {.name = "plain"}, .forward = run_block};

static qp_ctx *open_ctx(void) {
    qp_ctx *ctx = qp_open((qp_options){.threads = 1});
    assert_int_equal(qp_register_part(ctx, QP_PART_MIXER, &heads_mixer.part), QP_OK);
    assert_int_equal(qp_register_part(ctx, QP_PART_MIXER, &bare_mixer.part), QP_OK);
    assert_int_equal(qp_register_part(ctx, QP_PART_MIXER, &wrong_mixer.part), QP_OK);
    assert_int_equal(qp_register_part(ctx, QP_PART_INPUT, &ones_input.part), QP_OK);
    assert_int_equal(qp_register_part(ctx, QP_PART_INPUT, &wide_input.part), QP_OK);
    assert_int_equal(qp_register_part(ctx, QP_PART_POSITION, &shared_position.part), QP_OK);
    assert_int_equal(qp_register_part(ctx, QP_PART_BLOCK, &plain_block.part), QP_OK);
    return ctx;
}

/* ---- Configs ------------------------------------------------------------------------------------------- */

/* The base with these members in place of its own. */
static char *config_with(const char *members) {
    json_error_t where;
    json_t      *all = json_loads(base, 0, NULL), *other = json_loads(members, 0, &where);
    if (!other) fail_msg("%s: %s", members, where.text);
    json_object_update(all, other);
    char *text = json_dumps(all, 0);
    json_decref(all);
    json_decref(other);
    return text;
}

static qp_model *model_with(qp_ctx *ctx, const char *members) {
    char     *text = config_with(members);
    qp_model *m = qp_model_new(ctx, "test", text);
    free(text);
    return m;
}

static qp_tensor some_ids(qp_ctx *ctx) {
    return qp_from(ctx, QP_I64, 2, (int64_t[]){2, 4}, (int64_t[]){1, 2, 3, 4, 5, 6, 7, 8});
}

static const struct {
    const char *members;
    qp_code     code;
    const char *words;
} refused[] = {
    {"{\"hidden_sizes\": 8}", QP_ERR_UNSUPPORTED, "test: hidden_sizes: unknown key"},
    {"{\"vocab_size\": null}", QP_ERR_FORMAT, "test: vocab_size: missing"},
    {"{\"vocab_size\": 0}", QP_ERR_FORMAT, "vocab_size: expected"},
    {"{\"hidden_size\": 8.5}", QP_ERR_FORMAT, "hidden_size: expected an integer from 1 to 16777216, found 8.5"},
    {"{\"hidden_size\": \"8\"}", QP_ERR_FORMAT,
     "hidden_size: expected an integer from 1 to 16777216, found \"8\""},
    {"{\"tie_word_embeddings\": 1}", QP_ERR_FORMAT, "tie_word_embeddings: expected true or false, found 1"},
    {"{\"residual_init\": \"small\"}", QP_ERR_UNSUPPORTED,
     "residual_init: found \"small\", expected plain or scaled"},
    {"{\"residual_init\": 0.5}", QP_ERR_FORMAT, "residual_init: expected a string, found 0.5"},
    {"{\"hidden_size\": 99999999999}", QP_ERR_FORMAT, "found 99999999999"},
    {"{\"mixer\": {\"type\": \"attention\", \"heads\": 0, \"head_width\": 64}}", QP_ERR_ARGUMENT,
     "heads 0 and head_width 64 of width 8 are no heads"},
    {"{\"mixer\": {\"type\": \"attention\", \"heads\": 0}}", QP_ERR_ARGUMENT,
     "heads 0 and head_width 0 of width 8 are no heads"},
    {"{\"input\": {\"type\": \"wide\"}, \"parametrization\": {\"type\": \"mup\", \"base\": 4}}",
     QP_ERR_ARGUMENT, "has other parameters at the base's width"},
    {"{\"dropout\": 1.5}", QP_ERR_FORMAT, "dropout: expected a number from 0 to 0.99, found 1.5"},
    {"{\"dropout\": -1}", QP_ERR_FORMAT, "dropout: expected a number from 0 to 0.99, found -1"},
    {"{\"dropout\": \"0.1\"}", QP_ERR_FORMAT, "dropout: expected a number from 0 to 0.99, found \"0.1\""},
    {"{\"init\": \"none\"}", QP_ERR_UNSUPPORTED, "test: init: no initialisation named \"none\""},
    {"{\"init\": 1}", QP_ERR_FORMAT, "test: init: expected a string, found 1"},
    {"{\"num_nextn_predict_layers\": 9}", QP_ERR_FORMAT,
     "num_nextn_predict_layers: expected an integer from 0 to 8, found 9"},
    {"{\"layers\": [{\"repeat\": 1.0}, {}]}", QP_ERR_FORMAT,
     "layers[0]: expected an object, its repeat from 1 to 2"},
    {"{\"position\": null}", QP_ERR_FORMAT, "position: expected an object with a \"type\""},
    {"{\"position\": {\"type\": \"nowhere\"}}", QP_ERR_UNSUPPORTED, "position: no part named \"nowhere\""},
    {"{\"position\": {\"type\": \"learned\"}, \"mixer\": {\"type\": \"attention\", \"heads\": 99999}}",
     QP_ERR_ARGUMENT, "heads of attention is 99999"},
    {"{\"position\": {\"type\": \"rope\"}, \"mixer\": {\"type\": \"attention\", \"hands\": 2}}",
     QP_ERR_ARGUMENT, "attention has no option hands (it has: heads, "},
    {"{\"mixer\": {\"type\": \"attention\", \"heads\": 2.5}}", QP_ERR_ARGUMENT,
     "heads of attention is 2.5, expected a whole number from 0 to 65536"},
    {"{\"mixer\": {\"type\": \"attention\", \"heads\": 1e300}}", QP_ERR_ARGUMENT,
     "heads of attention is 1e+300"},
    {"{\"mixer\": {\"type\": \"attention\", \"heads\": -1}}", QP_ERR_ARGUMENT, "heads of attention is -1"},
    {"{\"mixer\": {\"type\": \"attention\", \"heads\": \"two\"}}", QP_ERR_ARGUMENT,
     "heads of attention is \"two\", expected a whole number from 0 to 65536"},
    {"{\"mixer\": {\"type\": \"attention\", \"heads\": [2]}}", QP_ERR_ARGUMENT,
     "heads of attention is an array, expected a whole number"},
    {"{\"mixer\": {\"type\": \"attention\", \"heads\": true}}", QP_ERR_ARGUMENT,
     "heads of attention is true, expected a whole number"},
    {"{\"mixer\": {\"type\": \"attention\", \"causal\": \"no\"}}", QP_ERR_ARGUMENT,
     "causal of attention is \"no\", expected true or false"},
    {"{\"mixer\": {\"type\": \"attention\", \"causal\": 2}}", QP_ERR_ARGUMENT,
     "causal of attention is 2, expected true or false"},
    {"{\"ffn\": {\"type\": \"mlp\", \"act\": 99}}", QP_ERR_UNSUPPORTED, "act of mlp is 99, expected one of "},
    {"{\"mixer\": {\"type\": \"bare\", \"on\": true}}", QP_ERR_ARGUMENT, "bare has no option on (it has: )"},
    {"{\"mixer\": {\"type\": \"bare\", \"heads\": 2}}", QP_ERR_ARGUMENT, "bare has no option heads (it has: )"},
    {"{\"mixer\": {\"type\": \"bare\", \"kind\": \"x\"}}", QP_ERR_ARGUMENT, "bare has no option kind"},
    {"{\"mixer\": {\"type\": \"wrong\"}}", QP_ERR_ARGUMENT,
     "wrong asks for an option absent that its table lacks"},
    {"{\"mixer\": {\"type\": \"heads\", \"heads\": 3}}", QP_ERR_ARGUMENT, "heads 3 do not divide the width 8"},
    {"{\"position\": {\"type\": \"alibi\"}, \"layers\": [{}, {\"mixer\": {\"type\": \"attention\", \"heads\": "
     "4}}]}",
     QP_ERR_UNSUPPORTED, "alibi is the same for all layers, made for 2 heads of 4; layer 1 has 4 of 2"},
    {"{\"position\": {\"type\": \"t5\"}, \"layers\": [{}, {\"mixer\": {\"type\": \"attention\", \"heads\": 2, "
     "\"head_width\": 2}}]}",
     QP_ERR_UNSUPPORTED, "layer 1 has 2 of 2"},
    {"{\"position\": {\"type\": \"alibi\"}, \"layers\": [{\"mixer\": {\"type\": \"nosuch\"}}, {}]}",
     QP_ERR_UNSUPPORTED, "no part named \"nosuch\""},
    {"{\"mixer\": {\"type\": \"mamba2\", \"inner\": 7, \"channels\": 2}}", QP_ERR_ARGUMENT,
     "test: mixer: mamba2: channels 2 must divide inner 7"},
    {"{\"ffn\": {\"type\": \"mixtral\", \"experts\": 2, \"per_token\": 3}}", QP_ERR_ARGUMENT,
     "test: ffn: per_token 3 is more than experts 2"},
    {"{\"ffn\": {\"type\": \"deepseek_moe\", \"experts\": 8, \"groups\": 3}}", QP_ERR_ARGUMENT,
     "groups 3 must divide experts 8"},
    {"{\"mixer\": {\"type\": \"linear\", \"heads\": 2}, \"position\": {\"type\": \"alibi\"}}",
     QP_ERR_UNSUPPORTED, "test: mixer: linear: it forms no"},
    {"{\"ffn\": {\"type\": \"mlp\", \"act\": \"step\"}}", QP_ERR_UNSUPPORTED,
     "act of mlp is \"step\", expected one of "},
    {"{\"ffn\": {\"type\": \"mlp\", \"width\": 1e7, \"act\": \"\"}}", QP_ERR_UNSUPPORTED, "act of mlp is \"\""},
    {"{\"norm\": {\"type\": \"rms_norm\", \"eps\": 1e300}}", QP_ERR_ARGUMENT, "expected a number from"},
    {"{\"norm\": {\"type\": \"rms_norm\", \"eps\": -1}}", QP_ERR_ARGUMENT, "expected a number from"},
    {"{\"input\": {\"type\": \"leaves\"}}", QP_ERR_UNSUPPORTED, "input: no part named \"leaves\""},
    {"{\"input_norm\": {}}", QP_ERR_FORMAT, "test: input_norm: expected an object with a \"type\""},
    {"{\"final_norm\": \"none\"}", QP_ERR_FORMAT, "test: final_norm: expected an object with a \"type\""},
    {"{\"output\": {\"type\": \"pooler\"}}", QP_ERR_UNSUPPORTED,
     "test: output: pooler makes no logits of tokens"},
    {"{\"input_norm\": {\"type\": \"round\"}}", QP_ERR_UNSUPPORTED, "input_norm: no part named \"round\""},
    {"{\"block\": {\"type\": \"pre_norm\", \"x\": 1}}", QP_ERR_ARGUMENT, "pre_norm has no option x"},
    {"{\"output\": {\"type\": \"xy\"}}", QP_ERR_UNSUPPORTED, "test: output: no part named \"xy\""},
    {"{\"outputs\": []}", QP_ERR_FORMAT, "outputs: expected an object of at most 8"},
    {"{\"outputs\": {\"a\": 0, \"b\": 0, \"c\": 0, \"d\": 0, \"e\": 0, \"f\": 0, \"g\": 0, \"h\": 0, \"i\": "
     "0}}",
     QP_ERR_FORMAT, "outputs: expected an object of at most 8"},
    {"{\"outputs\": {\"pooled\": {\"type\": \"pooler\"}, \"other\": {\"type\": \"pool\"}}}", QP_ERR_UNSUPPORTED,
     "test: outputs.other: no part named \"pool\""},
};

static void refusals(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        qp_ctx *ctx = open_ctx();
        assert_null(model_with(ctx, refused[i].members));
        if (qp_error_code(ctx) != refused[i].code || !strstr(qp_error(ctx), refused[i].words))
            fail_msg("%s: %d \"%s\", expected %d \"%s\"", refused[i].members, qp_error_code(ctx), qp_error(ctx),
                     refused[i].code, refused[i].words);
        qp_close(ctx);
    }
}

/* Encodings with vectors for queries of a width, beside a mixer whose queries have another. */
static void queries_of_another_width(void **state) {
    (void)state;
    static const char *const names[] = {"shaw", "xl", "deberta"};
    for (int i = 0; i < 3; i++) {
        char    members[200];
        qp_ctx *ctx = open_ctx();
        snprintf(members, sizeof members,
                 "{\"position\": {\"type\": \"%s\"}, \"mixer\": {\"type\": \"mla\", \"heads\": 2}}", names[i]);
        qp_model *m = model_with(ctx, members);
        if (!m) fail_msg("%s: %s", names[i], qp_error(ctx));
        qp_logits(m, some_ids(ctx));
        snprintf(members, sizeof members, "%s: the mixer's queries have 8 features, its heads 4", names[i]);
        if (!strstr(qp_error(ctx), members)) fail_msg("%s: \"%s\"", names[i], qp_error(ctx));
        qp_close(ctx);
    }
}

/* More options than settings have room for. */
static void too_many_options(void **state) {
    (void)state;
    static char      names[40][8];
    static qp_option options[40];
    qp_branch_type   many = {
        .part = {.name = "many", .options = options}, .init = init_without, .forward = hand_through};
    qp_ctx *ctx = open_ctx();
    for (int i = 0; i < 33; i++) {
        snprintf(names[i], sizeof names[i], "o%d", i);
        options[i].name = names[i];
    }
    assert_int_equal(qp_register_part(ctx, QP_PART_MIXER, &many.part), QP_ERR_ARGUMENT);
    assert_non_null(strstr(qp_error(ctx), "many has more than 32 options"));
    qp_clear(ctx);
    options[32].name = NULL;
    assert_int_equal(qp_register_part(ctx, QP_PART_MIXER, &many.part), QP_OK);
    char *members = "{\"mixer\": {\"type\": \"many\", \"none\": 1}}"; /* whose list is cut, not overrun */
    assert_null(model_with(ctx, members));
    assert_non_null(strstr(qp_error(ctx), "(it has: o0, o1, "));
    qp_clear(ctx);
    for (int i = 0; i < 32; i++) {
        memset(names[i], 'x', 7);
        names[i][0] = (char)('A' + i);
    }
    assert_null(model_with(ctx, members));
    assert_non_null(strstr(qp_error(ctx), "many has no option none (it has: Axxxxxx, "));
    qp_close(ctx);
    for (int kind = 0; kind < QP_PART_KIND_COUNT; kind++) { /* the library's own, which are not asked */
        const qp_part *p;
        for (int i = 0; (p = qp_part_at(NULL, (qp_part_kind)kind, i)); i++)
            for (int k = 0; p->options && p->options[k].name; k++) assert_true(k < 32);
    }
}

static void check_shapes(qp_ctx *ctx, qp_model *m, const char *what) {
    qp_tensor y = qp_logits(m, some_ids(ctx));
    if (qp_failed(ctx)) fail_msg("%s: %s", what, qp_error(ctx));
    assert_true(qp_size(y, 0) == 2 && qp_size(y, 1) == 4 && qp_size(y, 2) == 11);
}

/* What is allowed, and runs. */
static void allowed(void **state) {
    (void)state;
    static const char *const members[] = {
        "{\"dropout\": 0.5, \"residual_init\": \"plain\", \"eos_token_id\": 3}",
        "{\"residual_init\": \"scaled\", \"num_hidden_layers\": 0}",
        "{\"init\": \"orthogonal\", \"residual_init\": \"scaled\"}",
        "{\"init\": \"lecun_truncated\", \"initializer_range\": 0.5}",
        "{\"mixer\": {\"type\": \"none\"}, \"position\": {\"type\": \"learned\"}}",
        "{\"mixer\": {\"type\": \"none\"}, \"position\": {\"type\": \"rope\"}, \"ffn\": {\"type\": \"none\"}}",
        "{\"mixer\": {\"type\": \"heads\"}, \"position\": {\"type\": \"rope\"}}",
        "{\"mixer\": {\"type\": \"heads\", \"heads\": 4}, \"position\": {\"type\": \"rope\"}}",
        "{\"mixer\": {\"type\": \"bare\"}, \"position\": {\"type\": \"shared\"}}",
        "{\"position\": {\"type\": \"shared\"}, \"layers\": [{\"position\": {\"type\": \"rope\"}}, {}]}",
        "{\"mixer\": {\"type\": \"bare\"}, \"layers\": [{\"position\": {\"type\": \"rope\"}, \"mixer\": "
        "{\"type\": \"attention\", \"heads\": 2}}, {}]}",
        "{\"mixer\": {\"type\": \"heads\"}, \"layers\": [{\"position\": {\"type\": \"none\"}}, {}]}",
        "{\"mixer\": {\"type\": \"bare\"}, \"position\": {\"type\": \"alibi\"}}",
        "{\"mixer\": {\"type\": \"bare\"}, \"position\": {\"type\": \"t5\"}, \"layers\": [{}, {\"mixer\": "
        "{\"type\": \"attention\", \"heads\": 4}}]}",
        "{\"position\": {\"type\": \"learned\"}, \"layers\": [{}, {\"mixer\": {\"type\": \"attention\", "
        "\"heads\": 4}}]}",
        "{\"mixer\": {\"type\": \"attention\", \"heads\": 2, \"bias\": true}, \"ffn\": {\"type\": \"mlp\", "
        "\"bias\": false, \"act\": \"relu\"}}",
        "{\"block\": {\"type\": \"plain\"}}",
        "{\"mixer\": {\"type\": \"bare\"}, \"parametrization\": {\"type\": \"ntk\", \"base\": 4}}",
        "{\"input\": {\"type\": \"ones\"}, \"tie_word_embeddings\": true}",
        "{\"final_norm\": {\"type\": \"none\"}, \"num_nextn_predict_layers\": 1, \"dropout\": null}",
        "{\"residual_init\": \"scaled\", \"tie_word_embeddings\": true, \"final_norm\": null, \"init\": null, "
        "\"layers\": [{\"mixer\": null}, {}]}",
        "{\"mixer\": {\"type\": \"attention\", \"heads\": 3, \"head_width\": 4}}",
        "{\"mixer\": {\"type\": \"attention\", \"heads\": 0, \"head_width\": 4}}",
        "{\"initializer_range\": 0, \"input_norm\": {\"type\": \"none\"}}",
    };
    for (size_t i = 0; i < sizeof members / sizeof *members; i++) {
        qp_ctx   *ctx = open_ctx();
        qp_model *m = model_with(ctx, members[i]);
        if (!m) fail_msg("%s: %s", members[i], qp_error(ctx));
        check_shapes(ctx, m, members[i]);
        qp_close(ctx);
    }
}

/* Choices are told apart from their beginnings and from each other. */
static void choices(void **state) {
    (void)state;
    static const qp_option options[] = {
        {.name = "kind", .kind = QP_OPTION_CHOICE, .choices = "ab|abc|b", .high = 2}, {0}};
    static const qp_part part = {.name = "part", .options = options};
    static const struct {
        const char *text;
        double      value; /* -1: refused */
    } cases[] = {{"ab", 0}, {"abc", 1}, {"b", 2}, {"a", -1}, {"abcd", -1}, {"", -1}, {"ab|abc", -1}};
    qp_ctx *ctx = open_ctx();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        qp_settings s;
        qpi_settings_init(&s, &part);
        bool     ok = qpi_settings_choose(ctx, &s, "here", "kind", cases[i].text) == QP_OK;
        qp_build b = {.ctx = ctx, .settings = &s};
        assert_int_equal(ok, cases[i].value >= 0);
        assert_int_equal(s.given[0], ok);
        qp_clear(ctx);
        if (ok) assert_true(qp_setting(&b, "kind") == cases[i].value);
    }
    qp_close(ctx);
}

/* ---- Running ------------------------------------------------------------------------------------------------ */

/* Layers that add as many fields as they may, run again in backward or not: the same loss. One more field
 * than that, and more fields than a checkpoint takes, are errors in either case. */
static void fields(void **state) {
    (void)state;
    double loss[2];
    for (int again = 0; again < 2; again++) {
        qp_ctx   *ctx = open_ctx();
        qp_model *m = model_with(ctx, "{\"block\": {\"type\": \"plain\"}, \"initializer_range\": 0.4}");
        qp_set_grad_checkpoint(m, again);
        doing = ADDS_SEVEN;
        qp_tensor l = qp_model_loss(m, some_ids(ctx), some_ids(ctx));
        loss[again] = qp_item(l);
        qp_backward(l);
        if (qp_failed(ctx)) fail_msg("%s", qp_error(ctx));
        qp_no_grad(ctx, true);
        assert_true(qp_item(qp_model_loss(m, some_ids(ctx), some_ids(ctx))) == loss[again]);
        qp_no_grad(ctx, false);
        doing = ADDS_EIGHT;
        qp_model_loss(m, some_ids(ctx), some_ids(ctx));
        assert_non_null(strstr(qp_error(ctx), "layer 0 adds more than 7 fields"));
        qp_clear(ctx);
        doing = HANDS_THROUGH;
        assert_true(qp_item(qp_model_loss(m, some_ids(ctx), some_ids(ctx))) > 0);
        qp_close(ctx);
    }
    assert_true(loss[0] == loss[1]);
    qp_ctx   *ctx = open_ctx();
    qp_model *m = model_with(ctx, "{\"block\": {\"type\": \"plain\"}}");
    qp_record in = {0};
    qp_set_grad_checkpoint(m, true);
    qp_record_set(&in, "input_ids", some_ids(ctx));
    qp_record_set(&in, "labels", some_ids(ctx));
    for (int i = 2; i < QP_MAX_FIELDS; i++) {
        char name[24];
        snprintf(name, sizeof name, "field%d", i);
        qp_record_set(&in, name, some_ids(ctx));
    }
    doing = ADDS_SEVEN;
    assert_int_equal(qp_forward(m, in).count, 0);
    if (!strstr(qp_error(ctx), "gradient checkpoint: layers see 23 fields, at most 20"))
        fail_msg("%s", qp_error(ctx));
    doing = HANDS_THROUGH;
    qp_close(ctx);
}

/* ---- Memory ------------------------------------------------------------------------------------------------- */

#if FAULTS
static const char *const whole[] = {
    "{\"position\": {\"type\": \"learned\"}, \"num_nextn_predict_layers\": 1, \"input_norm\": {\"type\": "
    "\"layer_norm\"},"
    " \"num_hidden_layers\": 1, \"outputs\": {\"pooled\": {\"type\": \"pooler\"}}}",
    "{\"num_hidden_layers\": 0, \"final_norm\": {\"type\": \"none\"}, \"output\": {\"type\": \"none\"}}",
    "{\"block\": {\"type\": \"post_norm\"}, \"position\": {\"type\": \"rope\"}, \"num_hidden_layers\": 1,"
    " \"layers\": [{\"ffn\": {\"type\": \"none\"}}]}",
    "{\"parametrization\": {\"type\": \"mup\", \"base\": 4}, \"num_hidden_layers\": 1}"};
static char *text;

static bool build(qp_ctx *ctx) { return qp_model_new(ctx, "test", text) != NULL; }

static void memory(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof whole / sizeof *whole; i++) {
        text = config_with(whole[i]);
        in_turn(build, 1, NULL, NULL);
        free(text);
    }
}
#endif

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refusals),         cmocka_unit_test(queries_of_another_width),
        cmocka_unit_test(too_many_options), cmocka_unit_test(allowed),
        cmocka_unit_test(choices),          cmocka_unit_test(fields),
#if FAULTS
        cmocka_unit_test(memory),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
