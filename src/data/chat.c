/* Chat templates: where they come from, and rendering. */
#include "quipu/chat.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/core.h"
#include "data/template.h"
#include "data/tokenizer.h"
#include "format/gguf.h"
#include "format/json.h"
#include "format/os.h"
#include "format/reader.h"
#include "format/utf8.h"

typedef struct {
    char *name, *text;
} variable;

struct qp_chat_template {
    qpi_owned    *owned;
    qpi_template *usual, *with_tools; /* with_tools may be NULL */
    char         *source;
    variable     *variables;
    size_t        count, capacity;
};

/* ---- Life ------------------------------------------------------------------------------------- */

static void destroy(void *thing) {
    qp_chat_template *t = thing;
    qpi_template_free(t->usual);
    qpi_template_free(t->with_tools);
    for (size_t i = 0; i < t->count; i++) {
        free(t->variables[i].name);
        free(t->variables[i].text);
    }
    free(t->variables);
    free(t->source);
    free(t);
}

void qp_chat_template_close(qp_chat_template *t) {
    if (!t) return;
    qpi_disown(t->owned);
    destroy(t);
}

const char *qp_chat_template_source(const qp_chat_template *t) { return t->source; }

static char *copy_text(const char *text, size_t n, qpi_error *e) {
    char *p = malloc(n + 1);
    if (!p) {
        qpi_fail_memory(e, "chat template");
        return NULL;
    }
    if (n) memcpy(p, text, n);
    p[n] = 0;
    return p;
}

static bool set_variable(qp_chat_template *t, const char *name, const char *text, qpi_error *e) {
    variable *p = qpi_grown(t->variables, &t->capacity, t->count + 1, sizeof *p), v;
    if (!p) return qpi_fail_memory(e, "chat template") == QP_OK;
    t->variables = p;
    v = (variable){copy_text(name, strlen(name), e), copy_text(text, strlen(text), e)};
    if (v.name && v.text) {
        p[t->count++] = v;
        return true;
    }
    free(v.name);
    free(v.text);
    return false;
}

static qp_chat_template *make(const char *name, const char *source, size_t bytes, qpi_error *e) {
    qp_chat_template *t = calloc(1, sizeof *t);
    if (!t) return qpi_fail_memory(e, "chat template"), NULL;
    if ((t->source = copy_text(source, bytes, e)) && (t->usual = qpi_template_parse(name, source, bytes, e)))
        return t;
    destroy(t);
    return NULL;
}

/* To the context; NULL stays NULL. */
static qp_chat_template *give(qp_ctx *ctx, qp_chat_template *t, const qpi_error *e) {
    if (e->code) qp_fail(ctx, e->code, "%s", e->text);
    if (t && !e->code && (t->owned = qpi_own(ctx, t, destroy))) return t;
    if (t) destroy(t);
    return NULL;
}

qp_chat_template *qp_chat_template_new(qp_ctx *ctx, const char *name, const char *source, size_t bytes) {
    qpi_error e = {0};
    if (qp_failed(ctx)) return NULL;
    return give(ctx, make(name, source, bytes, &e), &e);
}

qp_status qp_chat_template_set(qp_ctx *ctx, qp_chat_template *t, const char *name, const char *text) {
    qpi_error e = {0};
    if (!qpi_utf8_text(text)) return qp_fail(ctx, QP_ERR_ARGUMENT, "chat template: %s is not UTF-8", name);
    return set_variable(t, name, text, &e) ? QP_OK : qp_fail(ctx, e.code, "%s", e.text);
}

/* ---- Files ------------------------------------------------------------------------------------- */

/* The template that a list of {name, template} has under a name. */
static const char *named(const qpi_json *list, const char *name) {
    for (size_t i = 0; i < json_array_size(list->value); i++) {
        qpi_json    item = qpi_json_item(list, i);
        const char *found = json_string_value(json_object_get(item.value, "name"));
        const char *text = json_string_value(json_object_get(item.value, "template"));
        if (found && text && !strcmp(found, name)) return text;
    }
    return NULL;
}

static bool read_tokens(qp_chat_template *t, const json_t *config, qpi_error *e) {
    static const char *const names[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                        "pad_token", "cls_token", "mask_token"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const json_t *v = json_object_get(config, names[i]);
        const char   *text = json_string_value(qpi_json_is(v, JSON_OBJECT) ? json_object_get(v, "content") : v);
        if (text && !set_variable(t, names[i], text, e)) return false;
    }
    return true;
}

static qp_chat_template *from_config(const char *path, json_t *config, qpi_error *e) {
    qpi_json          root = qpi_json_root(path, config, e), at = qpi_json_member(&root, "chat_template");
    bool              several = qpi_json_is(at.value, JSON_ARRAY);
    const char       *usual = several ? named(&at, "default") : json_string_value(at.value);
    const char       *tools = several ? named(&at, "tool_use") : NULL;
    qp_chat_template *t = NULL;
    if (usual) t = make(path, usual, strlen(usual), e);
    else
        qpi_json_fail(&at, QP_ERR_FORMAT, "expected a template, or a list with one named \"default\", found %s",
                      qpi_json_kind(at.value));
    if (t && tools) t->with_tools = qpi_template_parse(path, tools, strlen(tools), e);
    return t;
}

/* Text number `index` of a list of them. */
static bool text_at(const qpi_gguf_value *v, int64_t index, const char **text, size_t *n) {
    qpi_gguf_texts texts = qpi_gguf_texts_of(v);
    for (int64_t i = 0; i <= index; i++)
        if (!qpi_gguf_text(&texts, text, n)) return false;
    return index >= 0;
}

static bool read_gguf_tokens(qp_chat_template *t, const qp_file *f, qpi_error *e) {
    static const char *const keys[][2] = {{"bos_token", "tokenizer.ggml.bos_token_id"},
                                          {"eos_token", "tokenizer.ggml.eos_token_id"},
                                          {"unk_token", "tokenizer.ggml.unknown_token_id"},
                                          {"pad_token", "tokenizer.ggml.padding_token_id"}};
    const qpi_gguf_value    *tokens = qpi_gguf_find(f, "tokenizer.ggml.tokens");
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        int64_t     id = -1;
        const char *text;
        size_t      n;
        if (!qpi_gguf_integer(qpi_gguf_find(f, keys[i][1]), 0, &id) || !text_at(tokens, id, &text, &n))
            continue;
        char *copy = copy_text(text, n, e);
        bool  ok = copy && (!qpi_utf8_text(copy) || set_variable(t, keys[i][0], copy, e));
        free(copy);
        if (!ok) return false;
    }
    return true;
}

static qp_chat_template *from_gguf(const char *path, qpi_error *e) {
    qp_file          *f = qpi_file_open(path, QPI_MAP, e);
    qp_chat_template *t = NULL;
    const char       *text;
    size_t            n;
    if (f && text_at(qpi_gguf_find(f, "tokenizer.chat_template"), 0, &text, &n)) t = make(path, text, n, e);
    else if (f) qpi_fail(e, QP_ERR_FORMAT, "%s: no chat template (tokenizer.chat_template)", path);
    if (t && text_at(qpi_gguf_find(f, "tokenizer.chat_template.tool_use"), 0, &text, &n))
        t->with_tools = qpi_template_parse(path, text, n, e);
    if (t && !e->code) read_gguf_tokens(t, f, e);
    qp_file_close(f);
    return t;
}

static qp_chat_template *from_file(const char *path, qpi_error *e) {
    qpi_bytes        *bytes = qpi_bytes_open(path, QPI_MAP, e);
    qp_chat_template *t = NULL;
    if (bytes && bytes->size >= 4 && !memcmp(bytes->data, "GGUF", 4)) t = from_gguf(path, e);
    else if (bytes) t = make(path, (const char *)bytes->data, (size_t)bytes->size, e);
    qpi_bytes_release(bytes);
    return t;
}

static qp_chat_template *from_folder(const char *folder, qpi_error *e) {
    char             *file = qpi_path_join(folder, "chat_template.jinja", e);
    char             *config_file = qpi_path_join(folder, "tokenizer_config.json", e);
    json_t           *config = NULL;
    qp_chat_template *t = NULL;
    if (file && config_file) {
        if (qpi_path_exists(config_file)) config = qpi_json_load(config_file, e);
        if (!e->code && qpi_path_exists(file)) t = from_file(file, e);
        else if (!e->code && json_object_get(config, "chat_template")) t = from_config(config_file, config, e);
        else
            qpi_fail(e, QP_ERR_FORMAT,
                     "%s: no chat template (chat_template.jinja, or chat_template in tokenizer_config.json)",
                     folder);
    }
    if (t) read_tokens(t, config, e);
    json_decref(config);
    free(file);
    free(config_file);
    return t;
}

qp_chat_template *qp_chat_template_load(qp_ctx *ctx, const char *path) {
    qpi_error e = {0};
    if (qp_failed(ctx)) return NULL;
    return give(ctx, qpi_path_is_folder(path) ? from_folder(path, &e) : from_file(path, &e), &e);
}

/* ---- Rendering ----------------------------------------------------------------------------------- */

/* Roles that everybody uses count as the template's own words: some write the mark of a role as
 * '<|' + role + '|>'. Any other is a stranger's text. */
static void trust_roles(qpi_trun *r, qpi_tval messages) {
    static const char *const known[] = {"system",    "user",     "assistant", "tool",
                                        "developer", "function", "model"};
    qpi_tval                 role, key = qpi_t_text(r, "role");
    for (size_t i = 0; !r->failed && i < messages.list->count; i++) {
        qpi_tval m = messages.list->items[i];
        if (m.kind != QPI_T_DICT) {
            qpi_t_fail(r, QP_ERR_ARGUMENT, "message %zu is %s, expected an object", i, qpi_t_kind(m));
            return;
        }
        if (!qpi_t_find(r, m.dict, key, &role) || role.kind != QPI_T_STRING) continue;
        for (size_t k = 0; k < sizeof known / sizeof *known; k++)
            if (qpi_str_is(role.str, known[k])) qpi_t_store(r, m.dict, key, qpi_t_text(r, known[k]));
    }
}

static void define(qpi_trun *r, const char *name, qpi_tval value) {
    qpi_t_define(r, r->scope, qpi_t_text(r, name).str, value);
}

/* A JSON argument; absent: none. */
static json_t *parse(const char *name, const char *text, size_t n, json_type type, qpi_error *e) {
    json_t *value = text ? qpi_json_parse(name, text, n, e) : NULL;
    if (value && json_typeof(value) != type) {
        qpi_fail(e, QP_ERR_FORMAT, "%s: expected %s, found %s", name,
                 type == JSON_ARRAY ? "an array" : "an object", qpi_json_kind(value));
        json_decref(value);
        return NULL;
    }
    return value;
}

/* Reasoning goes by several names; templates read the first two, as transformers gives them. */
static void name_reasoning(qpi_trun *r, qpi_tval messages) {
    static const char *const names[] = {"reasoning_content", "thinking", "reasoning"};
    for (size_t i = 0; !r->failed && i < messages.list->count; i++) {
        qpi_tval *m = &messages.list->items[i], value = qpi_t_none, all;
        for (size_t k = 0; k < 3 && value.kind == QPI_T_NONE; k++)
            if (!qpi_t_find(r, m->dict, qpi_t_text(r, names[k]), &value)) value = qpi_t_none;
        if (value.kind == QPI_T_NONE) continue;
        all = qpi_t_dict(r);
        if (r->failed) return;
        qpi_t_store(r, all.dict, qpi_t_text(r, names[1]), value);
        for (size_t k = 0; k < m->dict->count && !r->failed; k++)
            qpi_t_store(r, all.dict, m->dict->keys[k], m->dict->values[k]);
        qpi_t_store(r, all.dict, qpi_t_text(r, names[0]), value);
        *m = all;
    }
}

typedef struct {
    json_t *messages, *tools, *documents, *variables;
} input;

static void define_all(qpi_trun *r, const qp_chat_template *t, const input *in, const qp_chat_options *o) {
    const char *name;
    json_t     *value;
    qpi_tval    messages = qpi_t_from_json(r, in->messages, QPI_FOREIGN);
    if (!r->failed) trust_roles(r, messages);
    if (!r->failed) name_reasoning(r, messages);
    define(r, "messages", messages);
    define(r, "tools", in->tools ? qpi_t_from_json(r, in->tools, QPI_FOREIGN) : qpi_t_none);
    define(r, "documents", in->documents ? qpi_t_from_json(r, in->documents, QPI_FOREIGN) : qpi_t_none);
    define(r, "add_generation_prompt", qpi_t_bool(o->generation_prompt));
    for (size_t i = 0; i < t->count; i++) define(r, t->variables[i].name, qpi_t_text(r, t->variables[i].text));
    qpi_json_members(in->variables, name, value) define(r, name, qpi_t_from_json(r, value, QPI_FOREIGN));
}

static bool put_span(qp_rendered *out, size_t begin, size_t end) {
    if (out->foreign_count && out->foreign[out->foreign_count - 1].end == begin) {
        out->foreign[out->foreign_count - 1].end = end;
        return true;
    }
    qp_span *p = qpi_grown(out->foreign, &out->foreign_capacity, out->foreign_count + 1, sizeof *p);
    if (!p) return false;
    out->foreign = p;
    p[out->foreign_count++] = (qp_span){begin, end};
    return true;
}

/* To UTF-8, and which bytes are strangers'. */
static bool write_out(const qpi_codes *codes, qp_rendered *out) {
    char *p =
        qpi_grown(out->text.data, &out->text.capacity, 4 * codes->count + 1, 1); /* count: within the budget */
    if (!p) return false;
    out->text.data = p;
    for (size_t i = 0; i < codes->count; i++) {
        size_t begin = out->text.count;
        out->text.count += qpi_utf8_encode(QPI_CODE(codes->codes[i]), p + begin);
        if ((codes->codes[i] & QPI_FOREIGN) && !put_span(out, begin, out->text.count)) return false;
    }
    return true;
}

static void run(const qp_chat_template *t, const input *in, const qp_chat_options *o, qpi_tbudget *budget,
                qp_rendered *out, qpi_error *e) {
    const qpi_template *template = in->tools && t->with_tools ? t->with_tools : t->usual;
    qpi_codes           codes = {0};
    qpi_trun            r = {.t = template,
                             .memory = budget->memory,
                             .steps = budget->steps,
                             .most = budget->most,
                             .now = o->now ? o->now : (int64_t)time(NULL),
                             .out = &codes,
                             .error = e};
    if ((r.scope = qpi_t_scope(&r, NULL))) define_all(&r, t, in, o);
    if (!r.failed)
        r.scope = qpi_t_scope(&r, r.scope); /* what the template sets stands before what it is given */
    if (!r.failed) qpi_t_run(&r, template->body);
    if (!r.failed && !write_out(&codes, out)) qpi_fail_memory(e, "chat template");
    budget->memory = r.memory;
    budget->steps = r.steps;
    free(codes.codes);
    qpi_arena_free(&r.arena);
}

qp_status qp_chat_render(qp_ctx *ctx, const qp_chat_template *t, const char *messages, size_t bytes,
                         qp_chat_options options, qp_rendered *out) {
    return qpi_chat_render(ctx, t, messages, bytes, options, NULL, out);
}

qp_status qpi_chat_render(qp_ctx *ctx, const qp_chat_template *t, const char *messages, size_t bytes,
                          qp_chat_options options, qpi_tbudget *budget, qp_rendered *out) {
    qpi_error e = {0};
    input     in = {0};
    size_t    tools = options.tools ? strlen(options.tools) : 0,
              documents = options.documents ? strlen(options.documents) : 0,
              variables = options.variables ? strlen(options.variables) : 0;
    out->text.count = out->foreign_count = 0;
    if (qp_failed(ctx)) return qp_error_code(ctx);
    in.messages = parse("messages", messages, bytes, JSON_ARRAY, &e);
    if (!e.code) in.tools = parse("tools", options.tools, tools, JSON_ARRAY, &e);
    if (!e.code) in.documents = parse("documents", options.documents, documents, JSON_ARRAY, &e);
    if (!e.code) in.variables = parse("variables", options.variables, variables, JSON_OBJECT, &e);
    size_t      all = bytes + tools + documents + variables;
    qpi_tbudget usual = {((size_t)64 << 20) + 64 * all, 10000000 + 20 * (int64_t)all,
                         ((size_t)4 << 20) + 16 * all};
    if (!e.code) run(t, &in, &options, budget ? budget : &usual, out, &e);
    json_decref(in.messages);
    json_decref(in.tools);
    json_decref(in.documents);
    json_decref(in.variables);
    if (e.code) out->text.count = out->foreign_count = 0;
    return e.code ? qp_fail(ctx, e.code, "%s", e.text) : QP_OK;
}

qp_status qp_chat_encode(qp_ctx *ctx, const qp_tokenizer *t, const qp_rendered *r, qp_ids *out) {
    qpi_error      e = {0};
    const uint8_t *text = (const uint8_t *)(r->text.data ? r->text.data : "");
    qpi_foreign    foreign = {text, r->foreign, r->foreign_count};
    qpi_pieces     pieces = {.foreign = &foreign};
    bool           ok = qpi_pieces_add(t, &pieces, text, r->text.count, false, &e) &&
                        qpi_pieces_encode(t, &ctx->exec, &pieces, false, out, &e);
    qpi_pieces_free(&pieces);
    return ok ? QP_OK : qp_fail(ctx, e.code, "%s", e.text);
}

void qp_rendered_free(qp_rendered *r) {
    qp_text_free(&r->text);
    free(r->foreign);
    *r = (qp_rendered){0};
}
