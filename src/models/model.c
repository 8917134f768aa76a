/* Models: made from a config, run on whole sequences. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "models/model.h"

static void destroy(void *thing) {
    qp_model *m = thing;
    for (int i = 0; i < m->object_count; i++) free(m->objects[i]);
    free(m->objects);
    free(m->blocks);
    free(m->config_text);
    free(m->piece_names);
    json_decref(m->config);
    free(m);
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

/* Takes over config. */
static qp_model *build(qp_ctx *ctx, const char *name, json_t *config) {
    qp_model *m = calloc(1, sizeof *m);
    if (!m || !qpi_own(ctx, m, destroy)) {
        free(m);
        json_decref(config);
        qp_fail(ctx, QP_ERR_MEMORY, "out of memory: model");
        return NULL;
    }
    m->ctx = ctx;
    m->config = config;
    qpi_config  c = {.ctx = ctx, .root = qpi_json_root(name, config, &ctx->error)};
    const char *model_type = NULL;
    if (!qpi_json_string(&c.root, "model_type", QPI_REQUIRED, &model_type)) return NULL;
    m->preset = find_preset(model_type);
    if (!m->preset) {
        qpi_json at = qpi_json_member(&c.root, "model_type");
        qpi_json_fail(&at, QP_ERR_UNSUPPORTED, "no model type \"%.60s\" (see `quipu list presets`)", model_type);
        return NULL;
    }
    json_t *stack = json_object();
    bool    ok = stack && m->preset->translate(&c, stack);
    if (!ok) qp_fail(ctx, QP_ERR_MEMORY, "out of memory: model config");
    ok = ok && qpi_config_finish(&c) && qpi_stack_build(m, stack, name);
    json_decref(stack);
    return ok ? m : NULL;
}

qp_model *qp_model_new(qp_ctx *ctx, const char *name, const char *config) {
    if (!ctx || qp_failed(ctx)) return NULL;
    json_t *json = qpi_json_parse(name, config, strlen(config), &ctx->error);
    return json ? build(ctx, name, json) : NULL;
}

qp_model *qp_model_load(qp_ctx *ctx, const char *path) {
    struct stat st;
    char        file[4096];
    if (!ctx || qp_failed(ctx)) return NULL;
    bool folder = stat(path, &st) == 0 && S_ISDIR(st.st_mode);
    if (snprintf(file, sizeof file, folder ? "%s/config.json" : "%s", path) >= (int)sizeof file) {
        qp_fail(ctx, QP_ERR_ARGUMENT, "model: the path is too long: %.100s...", path);
        return NULL;
    }
    json_t *json = qpi_json_load(file, &ctx->error);
    if (!json) return NULL;
    qp_model *m = build(ctx, file, json);
    if (m && folder && qp_model_load_weights(m, path) != QP_OK) return NULL;
    return m;
}

qp_ctx       *qp_model_ctx(const qp_model *m) { return m->ctx; }
qp_module    *qp_model_module(qp_model *m) { return m->module; }
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

qp_model_info qp_model_info_of(qp_model *m) {
    return (qp_model_info){.model_type = m->preset->name,
                           .vocabulary = m->vocabulary,
                           .width = m->width,
                           .layers = m->layers,
                           .positions = m->positions,
                           .parameters = qp_param_count(m->module, false),
                           .position = m->position.type->part.name,
                           .mixer = m->layers ? m->blocks[0].mixer_type->part.name : "none",
                           .ffn = m->layers ? m->blocks[0].ffn_type->part.name : "none",
                           .norm = m->norm_type->part.name};
}

/* ---- Whole sequences ------------------------------------------------------------------------- */

qp_tensor qp_model_hidden(qp_model *m, qp_tensor ids) {
    qp_scope scope = qp_enter(m->ctx);
    int64_t  length = qp_ndim(ids) == 2 ? qp_size(ids, 1) : -1;
    if (length < 0) {
        if (!qp_failed(m->ctx)) qp_fail(m->ctx, QP_ERR_SHAPE, "model: ids have %d axes, expected [B, T]", qp_ndim(ids));
        qp_leave(scope);
        return qpi_poison(m->ctx);
    }
    qp_stream s = {.length = length, .dropout = qp_training(m->module) ? m->dropout : 0};
    s.positions = qp_reshape(qp_arange(m->ctx, QP_I64, length), 2, (int64_t[]){1, length});
    return qp_return(scope, qpi_stack_forward(m, ids, &s, NULL));
}

qp_tensor qp_logits(qp_model *m, qp_tensor ids) {
    qp_scope scope = qp_enter(m->ctx);
    return qp_return(scope, qp_linear(qp_model_hidden(m, ids), m->head, QP_NONE, QP_ACT_NONE, QP_NONE));
}

qp_tensor qp_model_loss(qp_model *m, qp_tensor ids, qp_tensor labels) {
    qp_scope scope = qp_enter(m->ctx);
    return qp_return(scope, qp_linear_cross_entropy(qp_model_hidden(m, ids), m->head, labels, (qp_loss_options){0}));
}
