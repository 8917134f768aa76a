/* Models: made from a config, run on whole sequences. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "format/gguf.h"
#include "models/model.h"
#include "nn/module.h"

static void destroy(void *thing) {
    qp_model *m = thing;
    for (int i = 0; i < m->object_count; i++) free(m->objects[i]);
    free(m->objects);
    free(m->blocks);
    free(m->outputs);
    free(m->config_text);
    qpi_weights_free(m);
    json_decref(m->config);
    json_decref(m->rope);
    free(m);
}

void qp_model_close(qp_model *m) {
    if (!m) return;
    m->closed = true;
    if (m->users) return;
    if (m->module) m->module->model = false;
    qp_module_close(m->module);
    qpi_disown(m->owned);
    destroy(m);
}

void qpi_model_use(qp_model *m) { m->users++; }

void qpi_model_release(qp_model *m) {
    if (--m->users == 0 && m->closed) qp_model_close(m);
}

static const qpi_preset *find_preset(const char *model_type) {
    for (int i = 0; qpi_presets[i]; i++)
        if (!strcmp(qpi_presets[i]->name, model_type)) return qpi_presets[i];
    return NULL;
}

const char *qp_preset_config(const char *model_type) {
    const qpi_preset *p = find_preset(model_type);
    return p ? p->defaults : NULL;
}

const char *qp_preset_at(int index) {
    for (int i = 0; i <= index; i++)
        if (!qpi_presets[i]) return NULL;
    return index < 0 ? NULL : qpi_presets[index]->name;
}

/* Parameters have no elements yet. Takes over config. file: the weights, NULL where there are none:
 * a layer has at least one tensor in it. */
static bool build(qp_model *m, const char *name, const qp_file *file) {
    qp_ctx     *ctx = m->ctx;
    qpi_config  c = {.ctx = ctx, .root = qpi_json_root(name, m->config, &ctx->error)};
    const char *model_type = NULL;
    if (!qpi_json_string(&c.root, "model_type", QPI_REQUIRED, &model_type)) return false;
    m->preset = find_preset(model_type);
    if (!m->preset) {
        qpi_json at = qpi_json_member(&c.root, "model_type");
        qpi_json_fail(&at, QP_ERR_UNSUPPORTED, "no model type \"%.60s\" (see `quipu list presets`)",
                      model_type);
        return false;
    }
    m->interleaved = m->interleaved && m->preset->gguf && m->preset->gguf->interleaved;
    json_t *stack = json_object();
    bool    ok = stack && m->preset->translate(&c, stack);
    if (!ok) qp_fail(ctx, QP_ERR_MEMORY, "out of memory: model config");
    if (ok && json_object_get(c.root.value, "num_nextn_predict_layers")) /* of any model type */
        qpi_config_put(&c, stack, "num_nextn_predict_layers",
                       json_integer(qpi_config_int(&c, "num_nextn_predict_layers", 0)));
    if (ok && file && m->preset->adapt) m->preset->adapt(stack, file);
    json_int_t layers = json_integer_value(json_object_get(stack, "num_hidden_layers"));
    if (ok && file && layers > qp_file_count(file))
        ok = !qp_fail(ctx, QP_ERR_FORMAT, "%s: %lld layers, but its weights are %lld tensors", name,
                      (long long)layers, (long long)qp_file_count(file));
    if (ok && m->interleaved)
        qpi_config_put(&c, json_object_get(stack, "position"), "layout", json_string("interleaved"));
    ok = ok && qpi_config_finish(&c) && qpi_stack_build(m, stack, name);
    json_t     *position = json_object_get(stack, "position");
    const char *kind = json_string_value(json_object_get(position, "type"));
    if (kind && !strcmp(kind, "rope")) m->rope = json_incref(position);
    json_decref(stack);
    return ok;
}

qp_model *qpi_model_alloc(qp_ctx *ctx) {
    qp_model *m = calloc(1, sizeof *m);
    if (m) m->ctx = ctx;
    if (m && (m->owned = qpi_own(ctx, m, destroy))) return m;
    free(m);
    qp_fail(ctx, QP_ERR_MEMORY, "out of memory: model");
    return NULL;
}

/* host: see qp_model. Takes over config and weights, the file at `path` (NULL: fresh ones). */
static qp_model *make(qp_ctx *ctx, const char *name, json_t *config, const char *path, qp_file *weights,
                      qp_model_options options, const qp_model *host) {
    qp_model *m = qpi_model_alloc(ctx);
    if (!m) {
        json_decref(config);
        qp_file_close(weights);
        return NULL;
    }
    m->config = config;
    m->host = host;
    m->interleaved = options.as_stored && weights && qpi_file_is_gguf(weights);
    bool ok = build(m, name, weights);
    if (ok && weights && !options.empty) ok = qpi_weights_load(m, path, weights, options.as_stored);
    else if (ok && !options.empty) qp_module_fill(m->module);
    qp_file_close(weights);
    if (ok && !qp_failed(ctx)) return m;
    qp_model_close(m);
    return NULL;
}

qp_model *qpi_mtp_new(qp_model *host) {
    json_t *config = qp_failed(host->ctx) ? NULL : json_deep_copy(host->config);
    if (config && json_object_set_new(config, "num_nextn_predict_layers", json_integer(1)) == 0)
        return make(host->ctx, "mtp", config, NULL, NULL, (qp_model_options){.empty = true}, host);
    json_decref(config);
    qp_fail(host->ctx, QP_ERR_MEMORY, "out of memory: model config");
    return NULL;
}

qp_model *qp_model_new(qp_ctx *ctx, const char *name, const char *config) {
    if (!ctx || qp_failed(ctx)) return NULL;
    json_t *json = qpi_json_parse(name, config, strlen(config), &ctx->error);
    return json ? make(ctx, name, json, NULL, NULL, (qp_model_options){0}, NULL) : NULL;
}

qp_model *qp_model_load(qp_ctx *ctx, const char *path, qp_model_options options) {
    struct stat st;
    char        name[4096];
    if (!ctx || qp_failed(ctx)) return NULL;
    bool folder = stat(path, &st) == 0 && S_ISDIR(st.st_mode), gguf = !folder && qpi_path_is_gguf(path);
    if (snprintf(name, sizeof name, folder ? "%s/config.json" : "%s", path) >= (int)sizeof name) {
        qp_fail(ctx, QP_ERR_ARGUMENT, "model: the path is too long: %.100s...", path);
        return NULL;
    }
    bool     wanted = gguf || (folder && !options.empty);
    json_t  *json = gguf ? NULL : qpi_json_load(name, &ctx->error);
    qp_file *file = !wanted || qp_failed(ctx)
                        ? NULL
                        : qp_file_open(ctx, path, (qp_file_options){.in_memory = options.in_memory});
    if (gguf && file) json = qpi_gguf_config(ctx, path, file);
    if (json && (file || !wanted)) return make(ctx, name, json, path, file, options, NULL);
    json_decref(json);
    qp_file_close(file);
    return NULL;
}

void qp_model_stepped(qp_model *m, bool taken) {
    if (qp_failed(m->ctx)) return;
    qp_scope scope = qp_enter(m->ctx);
    qp_no_grad(m->ctx, true);
    for (int64_t i = 0; i < m->layers + m->mtp_count; i++) {
        const qp_branch *branches[] = {&m->blocks[i].block.mixer, &m->blocks[i].block.ffn};
        for (int k = 0; k < 2; k++)
            if (branches[k]->type && branches[k]->type->stepped)
                branches[k]->type->stepped(branches[k]->self, taken);
    }
    qp_leave(scope);
}

void qp_set_grad_checkpoint(qp_model *m, bool on) { m->checkpoint = on; }

qp_ctx *qp_model_ctx(const qp_model *m) { return m->ctx; }
qp_module *qp_model_module(qp_model *m) { return m->module; }
qp_state_dict qp_model_params(qp_model *m) { return qp_module_params(m->module); }

const char *qp_model_config(qp_model *m) {
    if (!m->config_text) {
        qpi_buffer text = {0};
        if (!qpi_json_print(&text, m->config, 2) || !qpi_buffer_put(&text, "\n", 2)) {
            qpi_buffer_free(&text);
            qp_fail(m->ctx, QP_ERR_MEMORY, "out of memory: model config");
            return "";
        }
        m->config_text = text.data;
    }
    return m->config_text;
}

qpi_carrier qpi_model_carrier(const qp_model *m, int64_t i) {
    if (i == 2 * m->layers) {
        const qp_position_type *t = m->position.type;
        if (!t || !t->reserve) return (qpi_carrier){0};
        return (qpi_carrier){t->part.name, m->position.self, true, !t->causal || t->causal(m->position.self),
                             t->reserve};
    }
    const qp_block  *block = &m->blocks[i / 2].block;
    const qp_branch *b = i % 2 ? &block->ffn : &block->mixer;
    if (!b->type || b->type->pointwise) return (qpi_carrier){0};
    return (qpi_carrier){b->type->part.name, b->self, b->type->step != NULL,
                         !b->type->causal || b->type->causal(b->self), b->type->reserve};
}

static bool is_causal(const qp_model *m) {
    const qp_position *p = &m->position;
    if (p->type && p->type->causal && !p->type->causal(p->self)) return false;
    for (int64_t i = 0; i < m->layers; i++) {
        const qp_branch *mixer = &m->blocks[i].block.mixer;
        if (mixer->type && !(mixer->type->causal && mixer->type->causal(mixer->self))) return false;
    }
    return true;
}

qp_model_info qp_model_info_of(qp_model *m) {
    const qpi_layer *first = m->layers ? &m->blocks[0] : NULL;
    const qp_norm   *norm = first && first->block.norms[0].type ? &first->block.norms[0] : &m->norm;
    qp_state_dict    dict = qp_module_state(m->module);
    int64_t          bytes = 0;
    for (int i = 0; i < dict.count; i++)
        if (!dict.entries[i].tied && !dict.entries[i].buffer)
            bytes +=
                (int64_t)qp_dtype_size(qp_dtype_of(dict.entries[i].tensor), qp_count(dict.entries[i].tensor));
    return (qp_model_info){.model_type = m->preset->name,
                           .vocabulary = m->vocabulary,
                           .width = m->width,
                           .layers = m->layers,
                           .positions = m->positions,
                           .causal = is_causal(m),
                           .parameters = qp_param_count(m->module, false),
                           .bytes = bytes,
                           .position = first && first->position.type ? first->position.type->part.name : "none",
                           .block = first ? first->type->part.name : "none",
                           .mixer =
                               first && first->block.mixer.type ? first->block.mixer.type->part.name : "none",
                           .ffn = first && first->block.ffn.type ? first->block.ffn.type->part.name : "none",
                           .norm = norm && norm->type ? norm->type->part.name : "none"};
}

/* ---- Whole sequences ------------------------------------------------------------------------- */

static bool check_ids(qp_model *m, qp_tensor ids, qp_tensor labels) {
    if (qp_ndim(ids) != 2 && !qp_failed(m->ctx))
        qp_fail(m->ctx, QP_ERR_SHAPE, "model: ids have %d axes, expected [B, T]", qp_ndim(ids));
    if (!qp_is_none(labels) && !qp_failed(m->ctx) &&
        (qp_ndim(labels) != 2 || qp_size(labels, 0) != qp_size(ids, 0) ||
         qp_size(labels, 1) != qp_size(ids, 1)))
        qp_fail(m->ctx, QP_ERR_SHAPE, "model: labels have not the shape of ids");
    return !qp_failed(m->ctx);
}

qp_tensor qpi_output_loss(const qpi_output *o, qp_tensor hidden, qp_tensor labels, const qp_sequence *s) {
    qp_tensor loss = o->type->loss ? o->type->loss(o->self, hidden, labels) : QP_NONE;
    return qp_is_none(loss)
               ? qp_cross_entropy(o->type->forward(o->self, hidden, s), labels, (qp_loss_options){0})
               : loss;
}

/* That of the model's output and what parts ask for on top. Of further outputs those count that have
 * a loss of their own. */
static qp_tensor whole_loss(qp_model *m, qp_tensor hidden, qp_tensor labels, const qp_sequence *s,
                            qp_record *out) {
    for (int i = 0; i < m->output_count; i++) {
        const qpi_output *o = &m->outputs[i];
        char              name[80];
        snprintf(name, sizeof name, "aux.%.70s", o->name);
        if (o->type->loss) qp_record_set(out, name, o->type->loss(o->self, hidden, labels));
    }
    if (m->mtp_count && qp_training(m->module))
        qp_record_set(out, "aux.mtp", qpi_mtp_loss(m, hidden, qp_record_get(s->in, "input_ids"), labels, s));
    qp_tensor loss = qpi_output_loss(&m->output, hidden, labels, s);
    for (int i = 0; i < out->count; i++)
        if (!strncmp(out->names[i], "aux.", 4)) loss = qp_add(loss, out->tensors[i]);
    return loss;
}

/* What the outputs make of hidden. */
static void read_outputs(qp_model *m, qp_tensor hidden, const qp_sequence *s, qp_record *out) {
    if (m->output.type) qp_record_set(out, m->output.name, m->output.type->forward(m->output.self, hidden, s));
    for (int i = 0; i < m->output_count; i++)
        qp_record_set(out, m->outputs[i].name, m->outputs[i].type->forward(m->outputs[i].self, hidden, s));
}

/* What goes into the stack, from the fields of in. */
static qp_sequence sequence_of(qp_model *m, const qp_record *in, int64_t length) {
    qp_sequence s = {.length = length, .dropout = qp_training(m->module) ? m->dropout : 0, .in = in};
    s.positions = qp_record_get(in, "positions");
    s.mask.segments = qp_record_get(in, "segments");
    s.mask.lengths = qp_record_get(in, "lengths");
    if (qp_is_none(s.positions))
        s.positions = qp_reshape(qp_arange(m->ctx, QP_I64, length), 2, (int64_t[]){1, length});
    else if (qp_count(s.positions)) {
        qp_tensor flat = qp_reshape(s.positions, 1, (int64_t[]){-1});
        s.length = (int64_t)qp_item(qp_max(qp_cast(flat, QP_F64), 0, false)) + 1;
    }
    return s;
}

static bool has_logits(qp_model *m) {
    return m->output.type || !qp_fail(m->ctx, QP_ERR_UNSUPPORTED,
                                      "model: %s has no output: it gives hidden states", m->preset->name);
}

typedef enum { HIDDEN, OUTPUTS, LOSS } wanted;

/* A field that nobody asked for is a mistake: a name misspelt, or a model that has no use for it. */
static void check_fields(qp_model *m, const qp_record *in, uint32_t asked) {
    static const char *const own[] = {"input_ids", "labels", "positions", "segments", "lengths"};
    for (int i = 0; i < in->count; i++) {
        bool known = asked >> i & 1;
        for (size_t k = 0; k < sizeof own / sizeof *own; k++) known |= !strcmp(in->names[i], own[k]);
        if (!known)
            qp_fail(m->ctx, QP_ERR_ARGUMENT, "model: no part of it asks for the field \"%.60s\"", in->names[i]);
    }
}

static qp_record run(qp_model *m, const qp_record *in, wanted what) {
    qp_record out = {0}, all = {0};
    qp_tensor ids = qp_record_get(in, "input_ids"), labels = qp_record_get(in, "labels");
    if (qp_failed(m->ctx) || !check_ids(m, ids, what == LOSS ? labels : QP_NONE)) return out;
    if (what == LOSS && !has_logits(m)) return out;
    qp_scope    scope = qp_enter(m->ctx);
    uint32_t    asked = 0;
    qp_sequence s = sequence_of(m, in, qp_size(ids, 1));
    s.asked = &asked;
    qp_tensor hidden = qpi_stack_forward(m, ids, &s, &all, NULL);
    for (int i = 0; i < all.count; i++)
        if (!strncmp(all.names[i], "aux.", 4) || !strncmp(all.names[i], "stat.", 5))
            qp_record_set(&out, all.names[i], all.tensors[i]);
    if (what == OUTPUTS) read_outputs(m, hidden, &s, &out);
    else if (what == LOSS) qp_record_set(&out, "loss", whole_loss(m, hidden, labels, &s, &out));
    qp_record_set(&out, "hidden", hidden);
    check_fields(m, in, asked);
    if (qp_failed(m->ctx)) out.count = 0;
    qp_return_many(scope, out.tensors, out.count);
    return out;
}

qp_record qp_forward(qp_model *m, qp_record in) {
    return run(m, &in, qp_is_none(qp_record_get(&in, "labels")) ? OUTPUTS : LOSS);
}

/* One field of what a run gives; the others are let go. */
static qp_tensor field_of(qp_model *m, const qp_record *in, wanted what, const char *name) {
    qp_scope  scope = qp_enter(m->ctx);
    qp_record out = run(m, in, what);
    qp_tensor found = qp_record_get(&out, name);
    if (qp_is_none(found)) has_logits(m);
    return qp_return(scope, qp_is_none(found) ? qpi_poison(m->ctx) : found);
}

static qp_tensor field(qp_model *m, qp_tensor ids, qp_tensor labels, wanted what, const char *name) {
    qp_record in = {0};
    if (!qp_is_none(ids)) qp_record_set(&in, "input_ids", ids);
    qp_record_set(&in, "labels", labels);
    return field_of(m, &in, what, name);
}

qp_tensor qpi_model_hidden(qp_model *m, const qp_record *in) { return field_of(m, in, HIDDEN, "hidden"); }

qp_tensor qp_model_hidden(qp_model *m, qp_tensor ids) { return field(m, ids, QP_NONE, HIDDEN, "hidden"); }
qp_tensor qp_logits(qp_model *m, qp_tensor ids) { return field(m, ids, QP_NONE, OUTPUTS, "logits"); }
qp_tensor qp_model_loss(qp_model *m, qp_tensor ids, qp_tensor labels) {
    return field(m, ids, labels, LOSS, "loss");
}

qp_tensor qp_model_head(qp_model *m, qp_tensor hidden) {
    if (qp_failed(m->ctx) || !has_logits(m)) return qpi_poison(m->ctx);
    return m->output.type->forward(m->output.self, hidden, NULL);
}
