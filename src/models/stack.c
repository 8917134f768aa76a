/* A stack of blocks from a stack config: input, positions, blocks, norm. stack_run.c runs it. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "models/model.h"
#include "nn/module.h"

typedef struct {
    qp_model     *m;
    const json_t *stack, *spec; /* spec: of the layer being built, NULL: of none */
    const char   *where;        /* file, for messages */
    int           layer;
    size_t        entry; /* of "layers", and how many layers it has described */
    int64_t       repeated;
    int64_t       heads, head_width;          /* of the layer's mixer */
    int64_t       shared_heads, shared_width; /* that the encoding of all layers has been made for */
    qp_tensor     table;                      /* for outputs, where weights are tied */
    const char   *init_name;
    double        init_scale, init_shrink; /* shrink: of what ends a branch */
    char          init[96], init_value[96], init_residual[96];
    const qp_parametrization_type *parametrization;
    qp_model *base;  /* the same at the parametrisation's base width; NULL: nothing depends on that */
    int64_t   width; /* in place of hidden_size; 0: that */
} builder;

/* ---- Parts from JSON ----------------------------------------------------------------------------- */

/* {"type": NAME, options}: the layer's own, or the stack's; NULL: none, or null. */
static const json_t *role_object(const builder *b, const char *role) {
    const json_t *own = json_object_get(b->spec, role);
    if (!own || qpi_json_is(own, JSON_NULL)) own = json_object_get(b->stack, role);
    return qpi_json_is(own, JSON_NULL) ? NULL : own;
}

/* For what the config says itself. */
static qpi_json root_of(const builder *b) {
    return qpi_json_root(b->where, (json_t *)b->stack, &b->m->ctx->error);
}

static const char *type_of(const json_t *object) { return json_string_value(json_object_get(object, "type")); }

/* Does the config say that there is no such part? */
static bool is_none(const json_t *object) {
    const char *name = type_of(object);
    return name && !strcmp(name, "none");
}

/* The part that a role names; NULL after storing an error. */
static const qp_part *find_part(const builder *b, const char *role, qp_part_kind kind, const json_t *object) {
    const char    *name = type_of(object);
    const qp_part *part = name ? qp_part_find(b->m->ctx, kind, name) : NULL;
    if (!name) qp_fail(b->m->ctx, QP_ERR_FORMAT, "%s: %s: expected an object with a \"type\"", b->where, role);
    else if (!part)
        qp_fail(b->m->ctx, QP_ERR_UNSUPPORTED, "%s: %s: no part named \"%.60s\" (see `quipu list`)", b->where,
                role, name);
    return part;
}

static bool read_settings(const builder *b, const char *role, const json_t *object, const qp_part *part,
                          qp_settings *s) {
    qp_ctx     *ctx = b->m->ctx;
    const char *key;
    json_t     *value;
    char        where[300];
    snprintf(where, sizeof where, "%s: %s", b->where, role);
    qpi_settings_init(s, part);
    qpi_json_members(object, key, value) {
        const qp_option *o = qpi_settings_option(s, key);
        bool             truth = qpi_json_is(value, JSON_TRUE);
        if (!strcmp(key, "type")) continue;
        if (qpi_json_is(value, JSON_STRING)) qpi_settings_choose(ctx, s, where, key, json_string_value(value));
        else if (qpi_json_is_number(value)) qpi_settings_set(ctx, s, where, key, json_number_value(value));
        else if ((truth || qpi_json_is(value, JSON_FALSE)) && o && o->kind == QP_OPTION_BOOL)
            qpi_settings_set(ctx, s, where, key, truth);
        else qpi_settings_refuse(ctx, s, where, key, qpi_json_kind(value));
    }
    return !qp_failed(ctx);
}

static void *new_object(qp_model *m, size_t bytes) {
    void  *object = calloc(1, bytes ? bytes : 1);
    void **objects = realloc(m->objects, ((size_t)m->object_count + 1) * sizeof *objects);
    if (objects) m->objects = objects;
    if (!object || !objects) {
        free(object);
        qp_fail(m->ctx, QP_ERR_MEMORY, "out of memory: model");
        return NULL;
    }
    objects[m->object_count++] = object;
    return object;
}

static void (*init_of(qp_part_kind kind, const qp_part *part))(void *, qp_build *) {
    const void *p = part;
    switch (kind) {
    case QP_PART_INPUT: return ((const qp_input_type *)p)->init;
    case QP_PART_OUTPUT: return ((const qp_output_type *)p)->init;
    case QP_PART_NORM: return ((const qp_norm_type *)p)->init;
    case QP_PART_POSITION: return ((const qp_position_type *)p)->init;
    case QP_PART_BLOCK: return ((const qp_block_type *)p)->init;
    default: return ((const qp_branch_type *)p)->init;
    }
}

/* What a part's init refused, with the place in front. */
static void name_place(const builder *b, const char *role) {
    qp_ctx *ctx = b->m->ctx;
    qp_code code = qp_error_code(ctx);
    char    text[sizeof ctx->error.text];
    if (code != QP_ERR_ARGUMENT && code != QP_ERR_UNSUPPORTED) return;
    memcpy(text, ctx->error.text, sizeof text);
    qp_clear(ctx);
    qp_fail(ctx, code, "%s: %s: %s", b->where, role, text);
}

/* (how many times as wide as the base)^power */
static double scaled(int64_t width, int64_t base, double power) {
    return base > 0 ? pow((double)width / (double)base, power) : 1;
}

/* A part from its object: settings, memory, parameters in a module of that name (NULL: in the parent
 * itself). *type: the part. */
static void *make_object(const builder *b, const char *role, const json_t *object, qp_part_kind kind,
                         qp_module *parent, const char *name, const qp_position *position, const void **type) {
    qp_model      *m = b->m;
    qp_settings    settings;
    const qp_part *part = qp_failed(m->ctx) ? NULL : find_part(b, role, kind, object);
    if (!part || !read_settings(b, role, object, part, &settings)) return NULL;
    void *self = new_object(m, part->bytes);
    if (!self) return NULL;
    *type = part;
    qp_build build = {.ctx = m->ctx,
                      .module = name ? qp_module_new(m->ctx, parent, name) : parent,
                      .width = m->width,
                      .heads = b->heads,
                      .head_width = b->head_width,
                      .max_positions = m->positions,
                      .vocabulary = m->vocabulary,
                      .layer = b->layer,
                      .layers = (int)m->layers,
                      .init = kind == QP_PART_FFN ? b->init_value : b->init,
                      .init_value = b->init_value,
                      .init_residual = b->init_residual,
                      .position = position && position->type ? position : NULL,
                      .table = b->table,
                      .settings = &settings};
    if (b->base) {
        build.scores = scaled(b->head_width, b->base->blocks[b->layer].head_width, b->parametrization->scores);
        build.tied = scaled(m->width, b->base->width, b->parametrization->tied);
    }
    if (build.module && init_of(kind, part)) init_of(kind, part)(self, &build);
    name_place(b, role);
    return qp_failed(m->ctx) ? NULL : self;
}

/* The same for a role of the layer or the stack. */
static void *make_part(const builder *b, const char *role, qp_part_kind kind, qp_module *parent,
                       const char *name, const qp_position *position, const void **type) {
    return make_object(b, role, role_object(b, role), kind, parent, name, position, type);
}

/* ---- Building ------------------------------------------------------------------------------------ */

static const char *const known_keys[] = {"model_type",
                                         "architectures",
                                         "vocab_size",
                                         "hidden_size",
                                         "num_hidden_layers",
                                         "max_position_embeddings",
                                         "tie_word_embeddings",
                                         "init",
                                         "initializer_range",
                                         "residual_init",
                                         "dropout",
                                         "position",
                                         "mixer",
                                         "ffn",
                                         "norm",
                                         "input",
                                         "input_norm",
                                         "final_norm",
                                         "output",
                                         "outputs",
                                         "parametrization",
                                         "block",
                                         "layers",
                                         "num_nextn_predict_layers",
                                         "bos_token_id",
                                         "eos_token_id",
                                         "pad_token_id",
                                         "dtype",
                                         "quipu",
                                         NULL};

static int64_t read_size(const builder *b, const char *key, int64_t low, int64_t high) {
    qpi_json root = root_of(b);
    int64_t  x = 0;
    qpi_json_integer(&root, key, QPI_REQUIRED, low, high, &x);
    return x;
}

static double read_number(const builder *b, const char *key, double fallback, double low, double high) {
    qpi_json root = root_of(b);
    qpi_json_number(&root, key, QPI_OPTIONAL, low, high, &fallback);
    return fallback;
}

/* gain: of the layer's block. */
static void write_inits(builder *b, double gain) {
    snprintf(b->init, sizeof b->init, "%s:%.9g", b->init_name, b->init_scale);
    snprintf(b->init_value, sizeof b->init_value, "%s:%.9g", b->init_name, b->init_scale * gain);
    snprintf(b->init_residual, sizeof b->init_residual, "%s:%.9g", b->init_name,
             b->init_scale * b->init_shrink * gain);
}

/* How weights are drawn: "init", or normal:initializer_range. */
static void read_init(builder *b) {
    qp_model   *m = b->m;
    qpi_json    root = root_of(b), at = qpi_json_member(&root, "residual_init");
    const char *residual = "plain", *name = NULL;
    qpi_json_string(&root, "residual_init", QPI_OPTIONAL, &residual);
    qpi_json_string(&root, "init", QPI_OPTIONAL, &name);
    bool shrink = !strcmp(residual, "scaled");
    if (!shrink && strcmp(residual, "plain"))
        qpi_json_fail(&at, QP_ERR_UNSUPPORTED, "found \"%.60s\", expected plain or scaled", residual);
    b->init_scale = read_number(b, "initializer_range", name ? 1 : 0.02, 0, 1e3);
    /* GPT-2 (section 2.3) shrinks what ends a branch by the number of branches */
    b->init_shrink = shrink && m->layers ? 1 / sqrt(2.0 * (double)m->layers) : 1;
    b->init_name = name ? name : "normal";
    if (!qp_part_find(m->ctx, QP_PART_INIT, b->init_name))
        qp_fail(m->ctx, QP_ERR_UNSUPPORTED,
                "%s: init: no initialisation named \"%.60s\" (see `quipu list init`)", b->where, b->init_name);
    write_inits(b, 1);
}

static bool read_head(builder *b) {
    qp_model   *m = b->m;
    const char *key;
    json_t     *value;
    qpi_json_members(b->stack, key, value) {
        bool known = false;
        for (int i = 0; known_keys[i] && !known; i++) known = !strcmp(known_keys[i], key);
        if (!known) qp_fail(m->ctx, QP_ERR_UNSUPPORTED, "%s: %s: unknown key", b->where, key);
    }
    m->vocabulary = read_size(b, "vocab_size", 1, 1 << 28);
    m->width = read_size(b, "hidden_size", 1, 1 << 24);
    if (b->width) m->width = b->width;
    m->layers = read_size(b, "num_hidden_layers", 0, 1 << 16);
    if (json_object_get(b->stack, "num_nextn_predict_layers"))
        m->mtp_count = (int)read_size(b, "num_nextn_predict_layers", 0, QPI_MAX_MTP);
    m->positions = read_size(b, "max_position_embeddings", 1, (int64_t)1 << 40);
    m->dropout = read_number(b, "dropout", 0, 0, 0.99);
    read_init(b);
    return !qp_failed(m->ctx);
}

/* The entry of "layers" that describes the next layer: each stands for `repeat` of them. NULL: all
 * alike. */
static const json_t *next_spec(builder *b) {
    const json_t *list = json_object_get(b->stack, "layers"), *spec = json_array_get(list, b->entry);
    const json_t *repeat = json_object_get(spec, "repeat");
    if (spec && ++b->repeated == (repeat ? json_integer_value(repeat) : 1)) {
        b->entry++;
        b->repeated = 0;
    }
    return spec;
}

static bool check_layers(const builder *b) {
    static const char *const keys[] = {"repeat", "block", "position", "mixer", "ffn", "norm"};
    const json_t            *list = json_object_get(b->stack, "layers");
    qp_ctx                  *ctx = b->m->ctx;
    int64_t                  total = 0;
    if (!list) return true;
    if (!qpi_json_is(list, JSON_ARRAY))
        return qp_fail(ctx, QP_ERR_FORMAT, "%s: layers: expected a list", b->where), false;
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *spec = json_array_get(list, i), *repeat = json_object_get(spec, "repeat");
        const char   *key;
        json_t       *value;
        if (!qpi_json_is(spec, JSON_OBJECT) ||
            (repeat && (!qpi_json_is(repeat, JSON_INTEGER) || json_integer_value(repeat) < 1 ||
                        json_integer_value(repeat) > b->m->layers)))
            return qp_fail(ctx, QP_ERR_FORMAT, "%s: layers[%zu]: expected an object, its repeat from 1 to %lld",
                           b->where, i, (long long)b->m->layers),
                   false;
        qpi_json_members(spec, key, value) {
            bool known = false;
            for (size_t k = 0; k < sizeof keys / sizeof keys[0]; k++) known |= !strcmp(key, keys[k]);
            if (!known)
                return qp_fail(ctx, QP_ERR_UNSUPPORTED, "%s: layers[%zu].%s: unknown key", b->where, i, key),
                       false;
        }
        total += repeat ? json_integer_value(repeat) : 1;
    }
    if (total == b->m->layers) return true;
    return qp_fail(ctx, QP_ERR_FORMAT, "%s: layers: %lld of them, num_hidden_layers is %lld", b->where,
                   (long long)total, (long long)b->m->layers),
           false;
}

/* H and K of the mixer, by its options `heads` and `head_width` (0: D / H). */
static bool read_heads(builder *b) {
    const json_t  *object = role_object(b, "mixer");
    qp_settings    settings;
    const qp_part *part;
    b->heads = b->head_width = 0;
    if (is_none(object)) return true;
    if (!(part = find_part(b, "mixer", QP_PART_MIXER, object))) return false;
    if (!read_settings(b, "mixer", object, part, &settings)) return false;
    if (!qpi_settings_option(&settings, "heads")) return true;
    qp_build build = {.ctx = b->m->ctx, .settings = &settings};
    b->heads = qp_setting_int(&build, "heads");
    if (qpi_settings_option(&settings, "head_width")) b->head_width = qp_setting_int(&build, "head_width");
    if (!b->heads && b->head_width) b->heads = b->m->width / b->head_width;
    if (b->heads < 1 ? !qpi_settings_option(&settings, "head_width") : b->head_width > 0) return true;
    if (b->heads < 1)
        return !qp_fail(b->m->ctx, QP_ERR_ARGUMENT,
                        "%s: mixer: heads 0 and head_width %lld of width %lld are no heads", b->where,
                        (long long)b->head_width, (long long)b->m->width);
    b->head_width = b->m->width / b->heads;
    if (b->m->width % b->heads == 0) return true;
    return !qp_fail(b->m->ctx, QP_ERR_ARGUMENT,
                    "%s: mixer: heads %lld do not divide the width %lld (give head_width)", b->where,
                    (long long)b->heads, (long long)b->m->width);
}

/* The layer's encoding: the one that all share, or its own; a mixer without heads has no use for
 * the stack's. */
static bool build_position(builder *b, qp_module *module, qp_position *position) {
    qp_model   *m = b->m;
    const void *type = m->position.type;
    if (type && !json_object_get(b->spec, "position")) {
        *position = m->position;
        if (!m->position.type->bias || !b->heads) return true;
        if (b->heads == b->shared_heads && b->head_width == b->shared_width) return true;
        return !qp_fail(m->ctx, QP_ERR_UNSUPPORTED,
                        "%s: position: %s is the same for all layers, made for %lld heads of %lld; layer %d "
                        "has %lld of %lld",
                        b->where, m->position.type->part.name, (long long)b->shared_heads,
                        (long long)b->shared_width, b->layer, (long long)b->heads, (long long)b->head_width);
    }
    if (!b->heads && !json_object_get(b->spec, "position")) return true;
    position->self = make_part(b, "position", QP_PART_POSITION, module, "position", NULL, &type);
    position->type = type;
    return position->self;
}

static bool build_branch(builder *b, const char *role, qp_part_kind kind, qp_module *module,
                         const qp_position *position, qp_branch *branch) {
    const void *type = NULL;
    if (is_none(role_object(b, role))) return true;
    branch->self = make_part(b, role, kind, module, role, position, &type);
    branch->type = type;
    return branch->self;
}

/* role: "norm", or one that stands in for it where it is given. */
static bool build_norm(builder *b, const char *role, qp_module *module, const char *name, qp_norm *norm) {
    const void *type = NULL;
    norm->self = make_part(b, role_object(b, role) ? role : "norm", QP_PART_NORM, module, name, NULL, &type);
    norm->type = type;
    return norm->self;
}

/* Which block part; pre_norm where the config says nothing. */
static bool build_block_part(builder *b, qp_module *module, qpi_layer *layer) {
    const void *type = NULL;
    if (role_object(b, "block"))
        layer->block.self = make_part(b, "block", QP_PART_BLOCK, module, "block", NULL, &type);
    else type = qp_part_find(b->m->ctx, QP_PART_BLOCK, "pre_norm");
    layer->type = type;
    return !qp_failed(b->m->ctx);
}

static bool build_layer(builder *b, qp_module *parent, int i) {
    qp_model  *m = b->m;
    qpi_layer *layer = &m->blocks[i];
    char       name[16];
    snprintf(name, sizeof name, "%d", i);
    b->spec = next_spec(b);
    b->layer = layer->block.layer = i;
    qp_module *module = layer->module = qp_module_new(m->ctx, parent, name);
    if (!module || !read_heads(b) || !build_block_part(b, module, layer)) return false;
    if (layer->type->gain) write_inits(b, layer->type->gain(layer->block.self));
    layer->head_width = b->head_width;
    if (!m->head_width) m->head_width = b->head_width;
    if (!build_position(b, module, &layer->position)) return false;
    if (layer->type->norms > 0 && !build_norm(b, "norm", module, "norm1", &layer->block.norms[0])) return false;
    if (!build_branch(b, "mixer", QP_PART_MIXER, module, &layer->position, &layer->block.mixer)) return false;
    int norms = layer->type->norms + (is_none(role_object(b, "ffn")) ? 0 : layer->type->ffn_norms);
    for (int n = 1; n < norms; n++) {
        snprintf(name, sizeof name, "norm%d", n + 1);
        if (!build_norm(b, "norm", module, name, &layer->block.norms[n])) return false;
    }
    bool ok = build_branch(b, "ffn", QP_PART_FFN, module, &layer->position, &layer->block.ffn);
    write_inits(b, 1);
    return ok;
}

/* What stands around the block of module k: the block itself is the stack's next. */
static bool build_mtp(builder *b, qp_module *blocks, int k) {
    qp_model *m = b->m;
    qpi_mtp  *p = &m->mtp[k];
    int       i = (int)m->layers + k;
    if (!build_layer(b, blocks, i)) return false;
    qp_module *module = m->blocks[i].module;
    p->project =
        qp_nn_linear_new(module, "eh_proj", 2 * m->width, m->width, (qp_linear_options){.init = b->init});
    return build_norm(b, "norm", module, "enorm", &p->embedded) &&
           build_norm(b, "norm", module, "hnorm", &p->hidden) &&
           build_norm(b, "norm", module, "shared_head_norm", &p->last);
}

/* H and K for an encoding of all layers: those of the first mixer that has heads. */
static bool read_shared_heads(builder *b) {
    const json_t *list = json_object_get(b->stack, "layers");
    size_t        i = 0;
    do {
        b->spec = json_array_get(list, i);
        if (!read_heads(b)) return false;
    } while (!b->heads && ++i < json_array_size(list));
    b->spec = NULL;
    b->shared_heads = b->heads;
    b->shared_width = b->head_width;
    return true;
}

/* The stack's encoding, if one object serves all layers. Without heads nobody has a use for what is not added to the
 * input. */
static bool build_shared_position(builder *b) {
    qp_model      *m = b->m;
    const void    *type = NULL;
    const qp_part *part = find_part(b, "position", QP_PART_POSITION, role_object(b, "position"));
    if (!part) return false;
    const qp_position_type *shared = (const void *)part;
    if (!shared->shared) return true;
    if (!read_shared_heads(b)) return false;
    if (!b->heads && !shared->embed) return true;
    m->position.self = make_part(b, "position", QP_PART_POSITION, m->module, "position", NULL, &type);
    m->position.type = type;
    return m->position.self;
}

/* Its parameters stand in the stack itself: embed.weight. "tokens" where the config says nothing. */
static bool build_input(builder *b) {
    qp_model     *m = b->m;
    const void   *type = NULL;
    json_t       *usual = json_pack("{s:s}", "type", "tokens");
    const json_t *given = role_object(b, "input");
    m->input.self = make_object(b, "input", given ? given : usual, QP_PART_INPUT, m->module, NULL, NULL, &type);
    m->input.type = type;
    json_decref(usual);
    return m->input.self;
}

/* module NULL: in the stack itself. */
static bool build_output(builder *b, const char *role, const json_t *object, const char *module,
                         const char *field, qpi_output *out) {
    qp_model   *m = b->m;
    const void *type = NULL;
    out->self = make_object(b, role, object, QP_PART_OUTPUT, m->module, module, NULL, &type);
    out->type = type;
    out->name = field;
    return out->self;
}

static bool build_further(builder *b) {
    qp_model   *m = b->m;
    json_t     *all = json_object_get(b->stack, "outputs"), *object;
    const char *name;
    char        role[100];
    if (!all) return true;
    if (!qpi_json_is(all, JSON_OBJECT) || json_object_size(all) > QP_MAX_OUT)
        return qp_fail(m->ctx, QP_ERR_FORMAT, "%s: outputs: expected an object of at most %d outputs", b->where,
                       QP_MAX_OUT),
               false;
    m->outputs = calloc(json_object_size(all) + 1, sizeof *m->outputs);
    if (!m->outputs) return qp_fail(m->ctx, QP_ERR_MEMORY, "out of memory: model"), false;
    qpi_json_members(all, name, object) {
        char *kept = new_object(m, strlen(name) + 1);
        snprintf(role, sizeof role, "outputs.%.80s", name);
        if (!kept || !build_output(b, role, object, name, strcpy(kept, name), &m->outputs[m->output_count]))
            return false;
        m->output_count++;
    }
    return true;
}

/* The logits, "lm" where the config says nothing, then what else is asked for. */
static bool build_outputs(builder *b) {
    qp_model     *m = b->m;
    const json_t *given = role_object(b, "output");
    qpi_json      root = root_of(b);
    bool          tied = false;
    if (!qpi_json_boolean(&root, "tie_word_embeddings", QPI_OPTIONAL, &tied)) return false;
    if (tied && m->input.type->table) b->table = m->input.type->table(m->input.self);
    if (!is_none(given)) {
        json_t *usual = json_pack("{s:s}", "type", "lm");
        bool    ok = build_output(b, "output", given ? given : usual, NULL, "logits", &m->output);
        json_decref(usual);
        if (!ok) return false;
        if (m->output.type->whole)
            return qp_fail(m->ctx, QP_ERR_UNSUPPORTED,
                           "%s: output: %s makes no logits of tokens (it may be one of `outputs`)", b->where,
                           m->output.type->part.name),
                   false;
    }
    return build_further(b);
}

static bool build_parts(builder *b) {
    qp_model *m = b->m;
    if (!read_head(b) || !check_layers(b)) return false;
    m->module = qp_module_new(m->ctx, NULL, "");
    if (m->module) m->module->model = true;
    m->blocks = calloc((size_t)(m->layers + m->mtp_count) + 1, sizeof *m->blocks);
    if (!m->blocks) return qp_fail(m->ctx, QP_ERR_MEMORY, "out of memory: model"), false;
    if (m->host) m->input = m->host->input;
    else if (!build_input(b)) return false;
    if (!build_shared_position(b)) return false;
    if (!m->host && role_object(b, "input_norm") &&
        !build_norm(b, "input_norm", m->module, "input_norm", &m->input_norm))
        return false;
    qp_module *blocks = qp_module_new(m->ctx, m->module, "blocks");
    for (int i = 0; i < m->layers && !m->host; i++)
        if (!build_layer(b, blocks, i)) return false;
    b->spec = NULL;
    for (int k = 0; k < m->mtp_count; k++)
        if (!build_mtp(b, blocks, k)) return false;
    b->spec = NULL;
    if (m->host) return m->output = m->host->output, true;
    return build_norm(b, "final_norm", m->module, "norm", &m->norm) && build_outputs(b);
}

/* The same model at the width to which the parametrisation refers, for its shapes. What it draws is drawn again. */
static bool build_base(builder *b) {
    qp_ctx        *ctx = b->m->ctx;
    const json_t  *object = role_object(b, "parametrization");
    qp_settings    settings;
    char           where[300];
    const qp_part *part = object ? find_part(b, "parametrization", QP_PART_PARAMETRIZATION, object) : NULL;
    if (!part || !read_settings(b, "parametrization", object, part, &settings)) return !object;
    if (!qpi_settings_option(&settings, "base")) return true;
    b->parametrization = (const void *)part;
    snprintf(where, sizeof where, "%s: parametrization's base", b->where);
    builder  small = {.m = qpi_model_alloc(ctx), .stack = b->stack, .where = where};
    uint64_t drawn = qp_random_position(ctx);
    small.width = qp_setting_int(&(qp_build){.ctx = ctx, .settings = &settings}, "base");
    b->base = small.m;
    if (small.m) small.m->host = b->m->host;
    bool ok = small.m && build_parts(&small);
    qp_set_random(ctx, ctx->seed, drawn);
    return ok;
}

bool qpi_stack_build(qp_model *m, const json_t *stack, const char *where) {
    builder b = {.m = m, .stack = stack, .where = where};
    bool    ok = build_base(&b) && build_parts(&b) &&
                 (!b.base || qpi_parametrize(m->module, b.base->module, b.parametrization));
    qp_model_close(b.base);
    return ok;
}
