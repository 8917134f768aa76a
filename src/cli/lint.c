/* quipu verify without a reference: what can be told from a model's files alone. */
#include "cli/lint.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "cli/gguf_target.h"
#include "cli/json.h"
#include "core/core.h"
#include "format/checksum.h"
#include "format/json.h"
#include "format/reader.h"

typedef struct {
    cli        *c;
    qp_ctx     *ctx;
    const char *path;
    json_t     *checks; /* {"check", "ok", "what"} */
    int         failed;
} lint;

static void note(lint *l, const char *check, bool ok, const char *format, ...) QP_PRINTF(4, 5);
static void note(lint *l, const char *check, bool ok, const char *format, ...) {
    char    text[900];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    l->failed += !ok;
    if (!cli_flag(l->c, "json")) printf("%-10s %s  %s\n", check, ok ? "ok  " : "FAIL", cli_shown(text));
    json_array_append_new(l->checks,
                          json_pack("{s:s, s:b, s:o}", "check", check, "ok", ok, "what", cli_json_name(text)));
}

/* The context's failure as a finding. */
static void note_failure(lint *l, const char *check) {
    note(l, check, false, "%s", qp_error(l->ctx));
    if (qp_error_code(l->ctx) != QP_ERR_CANCELLED) qp_clear(l->ctx);
}

/* ---- Weights: names, shapes and types against the config, and elements ---------------------------------- */

static void check_elements(lint *l, qp_model *m) {
    const char  *name;
    qp_tensor    t;
    int64_t      tensors = 0, odd = 0, n;
    char         worst[200] = "";
    cli_progress progress = cli_progress_start(l->c, qp_module_state(qp_model_module(m)).count);
    for (bool more = true; more && !cli_interrupted();) {
        qp_scope s = qp_enter(l->ctx);
        more = qp_model_weight(m, tensors, false, &name, &t);
        if (more && (n = gguf_count_odd(t)) > 0) {
            if (!odd) snprintf(worst, sizeof worst, "; the first in %.150s", name);
            odd += n;
        }
        if (more) cli_progress_show(&progress, tensors, "%.60s", name);
        tensors += more;
        qp_leave(s);
    }
    cli_progress_end(&progress);
    if (qp_failed(l->ctx)) note_failure(l, "elements");
    else
        note(l, "elements", odd == 0, "%" PRId64 " tensors, %" PRId64 " elements are no finite numbers%s",
             tensors, odd, worst);
}

static void check_weights(lint *l, qp_model *m) {
    qp_model_info info = qp_model_info_of(m);
    char          bytes[32];
    note(l, "weights", true,
         "%s, %" PRId64 " layers, %" PRId64 " parameters in %s: names, shapes and types are the config's",
         info.model_type, info.layers, info.parameters, cli_bytes((double)info.bytes, bytes));
    check_elements(l, m);
}

/* ---- Tokens ------------------------------------------------------------------------------------------------ */

static void check_id(lint *l, const qp_tokenizer *t, const char *where, const char *key, const json_t *value,
                     int64_t vocabulary) {
    json_int_t id = json_integer_value(value);
    if (!json_is_integer(value))
        note(l, "tokens", false, "%s: %s: expected a whole number or a list of them, found %s", where, key,
             qpi_json_kind(value));
    else if (id >= vocabulary)
        note(l, "tokens", false, "%s: %s is %" JSON_INTEGER_FORMAT ", the vocabulary has %" PRId64, where, key,
             id, vocabulary);
    else if (id >= 0 && !qp_tokenizer_token(t, (int32_t)id))
        note(l, "tokens", false, "%s: %s is %" JSON_INTEGER_FORMAT ", which is no token", where, key, id);
}

static void check_ids(lint *l, const qp_tokenizer *t, const char *where, const json_t *config,
                      int64_t vocabulary) {
    static const char *const keys[] = {"bos_token_id", "eos_token_id", "pad_token_id"};
    for (size_t k = 0; k < sizeof keys / sizeof *keys; k++) {
        const json_t *value = json_object_get(config, keys[k]);
        for (size_t i = 0; i < json_array_size(value); i++)
            check_id(l, t, where, keys[k], json_array_get(value, i), vocabulary);
        if (value && !json_is_array(value) && !json_is_null(value))
            check_id(l, t, where, keys[k], value, vocabulary);
    }
}

/* A token is named by its text, or by {"content": TEXT}. */
static void check_texts(lint *l, const qp_tokenizer *t, const char *where, const json_t *config) {
    static const char *const keys[] = {"bos_token", "eos_token", "pad_token"};
    for (size_t k = 0; k < sizeof keys / sizeof *keys; k++) {
        const json_t *value = json_object_get(config, keys[k]);
        const char *text = json_string_value(json_is_object(value) ? json_object_get(value, "content") : value);
        if (text && qp_tokenizer_id(t, text) < 0)
            note(l, "tokens", false, "%s: %s is \"%.100s\", which is no token", where, keys[k], text);
    }
}

/* A JSON file of the folder; NULL: there is none, or it is none, which is a finding. */
static json_t *load(lint *l, const char *check, const char *name) {
    json_t *json = qpi_path_is_folder(l->path) ? qpi_json_load_in(l->path, name, &l->ctx->error) : NULL;
    if (qp_failed(l->ctx)) note_failure(l, check);
    return json;
}

static void check_special(lint *l, const qp_tokenizer *t, qp_model *m) {
    static const char *const names[] = {"tokenizer_config.json", "special_tokens_map.json"};
    const char              *text = qp_model_config(m);
    int64_t                  vocabulary = qp_model_info_of(m).vocabulary;
    json_t                  *config = qpi_json_parse("config", text, strlen(text), &l->ctx->error);
    check_ids(l, t, "config", config, vocabulary);
    json_decref(config);
    config = load(l, "tokens", "generation_config.json");
    check_ids(l, t, "generation_config.json", config, vocabulary);
    json_decref(config);
    for (int i = 0; i < 2; i++) {
        config = load(l, "tokens", names[i]);
        check_texts(l, t, names[i], config);
        json_decref(config);
    }
}

static void check_template(lint *l) {
    qp_chat_template *t = qp_chat_template_load(l->ctx, l->path);
    if (t) note(l, "template", true, "the chat template is understood");
    else if (strstr(qp_error(l->ctx), "no chat template")) qp_clear(l->ctx);
    else note_failure(l, "template");
    qp_chat_template_close(t);
}

static void check_tokens(lint *l, qp_model *m) {
    int64_t       vocabulary = qp_model_info_of(m).vocabulary, missing = 0, first = -1;
    qp_tokenizer *t = cli_tokenizer_open(l->ctx, l->path);
    if (!t) {
        note_failure(l, "tokenizer");
        return;
    }
    for (int32_t i = 0; i < qp_tokenizer_size(t) && i < vocabulary; i++) {
        bool none = !qp_tokenizer_token(t, i);
        missing += none;
        if (none && first < 0) first = i;
    }
    if (qp_tokenizer_size(t) > vocabulary)
        note(l, "tokenizer", false, "%" PRId64 " tokens, the model has a vocabulary of %" PRId64,
             qp_tokenizer_size(t), vocabulary);
    else if (missing)
        note(l, "tokenizer", false,
             "of its ids up to %" PRId64 " %" PRId64 " have no token, the first is %" PRId64,
             qp_tokenizer_size(t) - 1, missing, first);
    else
        note(l, "tokenizer", true,
             "%" PRId64 " tokens, %" PRId64 " ids without one, of a vocabulary of %" PRId64,
             qp_tokenizer_size(t), vocabulary - qp_tokenizer_size(t), vocabulary);
    check_special(l, t, m);
    qp_tokenizer_close(t);
}

/* ---- Checksums: of a training state ------------------------------------------------------------------ */

static void check_sum(lint *l, const char *name, const char *expected) {
    char      *path = qpi_path_join(l->path, name, &l->ctx->error), found[17] = "";
    qpi_bytes *b = path ? qpi_bytes_open(path, QPI_MAP, &l->ctx->error) : NULL;
    if (b) snprintf(found, sizeof found, "%016" PRIx64, qpi_checksum_of(0, b->data, (size_t)b->size));
    if (!b) note_failure(l, "checksum");
    else note(l, "checksum", !strcmp(found, expected), "%s", name);
    qpi_bytes_release(b);
    free(path);
}

static void check_sums(lint *l) {
    json_t     *state = load(l, "checksum", "train.json"), *entry;
    const char *name;
    json_object_foreach(json_object_get(state, "files"), name, entry) {
        const char *sum = json_string_value(json_object_get(entry, "xxh64"));
        if (sum && *name != '/' && !strstr(name, "..")) check_sum(l, name, sum);
    }
    json_decref(state);
}

/* ---- All of it -------------------------------------------------------------------------------------------------- */

int cli_lint(cli *c, qp_ctx *ctx, const char *path) {
    lint      l = {.c = c, .ctx = ctx, .path = path, .checks = json_array()};
    qp_model *m = qp_model_load(ctx, path, (qp_model_options){.as_stored = true});
    if (!m) note_failure(&l, "weights");
    else check_weights(&l, m);
    if (m && !qp_failed(ctx)) check_tokens(&l, m);
    if (m && !qp_failed(ctx)) check_template(&l);
    if (!qp_failed(ctx)) check_sums(&l);
    if (qp_failed(ctx)) {
        json_decref(l.checks);
        return cli_failed(ctx);
    }
    if (!cli_flag(c, "json")) json_decref(l.checks);
    else if (cli_json_print(json_pack("{s:b, s:o}", "ok", l.failed == 0, "checks", l.checks))) return 1;
    return l.failed ? cli_error("%d of the checks failed", l.failed) : 0;
}
