/* A stack of blocks from a stack config, and its forward pass:
 *
 *   h = x + mixer(norm1(x))        each branch adds its residual in its last product
 *   y = h + ffn(norm2(h))
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "models/model.h"

typedef struct {
    qp_model     *m;
    const json_t *stack;
    const char   *where; /* file, for messages */
    char          init[32], init_residual[32];
} builder;

/* ---- Settings from JSON ------------------------------------------------------------------------ */

static const json_t *part_object(builder *b, const char *role) {
    const json_t *object = json_object_get(b->stack, role);
    if (!json_is_object(object) || !json_is_string(json_object_get(object, "type"))) {
        qp_fail(b->m->ctx, QP_ERR_FORMAT, "%s: %s: expected an object with a \"type\"", b->where, role);
        return NULL;
    }
    return object;
}

static bool read_settings(builder *b, const char *role, const json_t *object, const qp_part *part, qp_settings *s) {
    qp_ctx     *ctx = b->m->ctx;
    const char *key;
    json_t     *value;
    char        where[300];
    snprintf(where, sizeof where, "%s: %s", b->where, role);
    qpi_settings_init(s, part);
    json_object_foreach((json_t *)object, key, value) {
        if (!strcmp(key, "type")) continue;
        if (json_is_string(value)) qpi_settings_choose(ctx, s, where, key, json_string_value(value));
        else if (json_is_number(value)) qpi_settings_set(ctx, s, where, key, json_number_value(value));
        else if (json_is_boolean(value)) qpi_settings_set(ctx, s, where, key, json_is_true(value));
        else qp_fail(ctx, QP_ERR_FORMAT, "%s: %s: expected a number, a boolean or a string", where, key);
    }
    return !qp_failed(ctx);
}

static void *new_object(builder *b, const qp_part *part) {
    qp_model *m = b->m;
    void     *object = calloc(1, part->bytes ? part->bytes : 1);
    void    **objects = realloc(m->objects, ((size_t)m->object_count + 1) * sizeof *objects);
    if (objects) m->objects = objects;
    if (!object || !objects) {
        free(object);
        qp_fail(m->ctx, QP_ERR_MEMORY, "out of memory: model");
        return NULL;
    }
    objects[m->object_count++] = object;
    return object;
}

/* One part of the stack: settings, object and what its init sees. */
static void *make_part(builder *b, const char *role, const qp_part *part, void (*init)(void *, qp_build *),
                       qp_module *parent, const char *name, int layer, double head_width) {
    qp_model     *m = b->m;
    qp_settings   settings;
    const json_t *object = part_object(b, role);
    if (!object || !read_settings(b, role, object, part, &settings)) return NULL;
    if (head_width > 0 && qpi_settings_has(&settings, "head_width"))
        qpi_settings_set(m->ctx, &settings, role, "head_width", head_width);
    void *self = new_object(b, part);
    if (!self) return NULL;
    qp_build build = {.ctx = m->ctx,
                      .module = qp_module_new(m->ctx, parent, name),
                      .width = m->width,
                      .max_positions = m->positions,
                      .layer = layer,
                      .layers = (int)m->layers,
                      .init = b->init,
                      .init_residual = b->init_residual,
                      .position = &m->position,
                      .settings = &settings};
    if (build.module) init(self, &build);
    return self;
}

#define FIND(type, at, found, role)                                                               \
    do {                                                                                          \
        const json_t *object_ = part_object(b, role);                                             \
        const char   *name_ = object_ ? json_string_value(json_object_get(object_, "type")) : NULL; \
        const type   *t_;                                                                         \
        found = NULL;                                                                             \
        for (int i_ = 0; name_ && (t_ = at(i_)); i_++)                                            \
            if (!strcmp(t_->part.name, name_)) found = t_;                                        \
        if (name_ && !found)                                                                      \
            qp_fail(b->m->ctx, QP_ERR_UNSUPPORTED, "%s: %s: no part named \"%s\" (see `quipu list`)", b->where, role, name_); \
    } while (0)

/* ---- Building ------------------------------------------------------------------------------------ */

static const char *const known_keys[] = {
    "model_type", "architectures", "vocab_size", "hidden_size", "num_hidden_layers", "max_position_embeddings",
    "tie_word_embeddings", "initializer_range", "residual_init", "dropout", "position", "mixer", "ffn", "norm",
    "bos_token_id", "eos_token_id", "pad_token_id", "dtype", "quipu", NULL};

static int64_t read_size(builder *b, const char *key, int64_t low, int64_t high) {
    const json_t *value = json_object_get(b->stack, key);
    int64_t       x = json_is_integer(value) ? json_integer_value(value) : -1;
    if (x < low || x > high)
        qp_fail(b->m->ctx, QP_ERR_FORMAT, "%s: %s: expected a whole number from %lld to %lld, found %lld", b->where, key,
                (long long)low, (long long)high, (long long)x);
    return x;
}

static double read_number(builder *b, const char *key, double fallback, double low, double high) {
    const json_t *value = json_object_get(b->stack, key);
    double        x = json_is_number(value) ? json_number_value(value) : fallback;
    if (!(x >= low && x <= high))
        qp_fail(b->m->ctx, QP_ERR_FORMAT, "%s: %s: %g, expected a number from %g to %g", b->where, key, x, low, high);
    return x;
}

static bool read_head(builder *b) {
    qp_model   *m = b->m;
    const char *key;
    json_t     *value;
    json_object_foreach((json_t *)b->stack, key, value) {
        bool known = false;
        for (int i = 0; known_keys[i] && !known; i++) known = !strcmp(known_keys[i], key);
        if (!known) qp_fail(m->ctx, QP_ERR_UNSUPPORTED, "%s: %s: unknown key", b->where, key);
    }
    m->vocabulary = read_size(b, "vocab_size", 1, 1 << 28);
    m->width = read_size(b, "hidden_size", 1, 1 << 24);
    m->layers = read_size(b, "num_hidden_layers", 0, 1 << 16);
    m->positions = read_size(b, "max_position_embeddings", 1, (int64_t)1 << 40);
    m->dropout = read_number(b, "dropout", 0, 0, 0.99);
    double      std = read_number(b, "initializer_range", 0.02, 0, 1e3);
    const char *residual = json_string_value(json_object_get(b->stack, "residual_init"));
    /* GPT-2 (section 2.3) shrinks what ends a branch by the number of branches */
    double shrink = residual && !strcmp(residual, "scaled") && m->layers ? 1 / sqrt(2.0 * (double)m->layers) : 1;
    snprintf(b->init, sizeof b->init, "normal:%.9g", std);
    snprintf(b->init_residual, sizeof b->init_residual, "normal:%.9g", std * shrink);
    return !qp_failed(m->ctx);
}

/* K, for encodings that work on heads: as given, or D / H. */
static double head_width(builder *b) {
    const json_t *mixer = json_object_get(b->stack, "mixer");
    double        given = json_number_value(json_object_get(mixer, "head_width"));
    double        heads = json_number_value(json_object_get(mixer, "heads"));
    return given > 0 ? given : heads > 0 ? (double)(b->m->width / (int64_t)heads) : 0;
}

static bool build_block(builder *b, qp_module *parent, int layer) {
    qp_model  *m = b->m;
    qpi_block *block = &m->blocks[layer];
    char       name[16];
    snprintf(name, sizeof name, "%d", layer);
    qp_module *module = qp_module_new(m->ctx, parent, name);
    FIND(qp_norm_type, qp_norm_at, block->norm_type, "norm");
    FIND(qp_mixer_type, qp_mixer_at, block->mixer_type, "mixer");
    FIND(qp_ffn_type, qp_ffn_at, block->ffn_type, "ffn");
    if (qp_failed(m->ctx)) return false;
    block->norm1 = make_part(b, "norm", &block->norm_type->part, block->norm_type->init, module, "norm1", layer, 0);
    block->mixer = make_part(b, "mixer", &block->mixer_type->part, block->mixer_type->init, module, "mixer", layer, 0);
    block->norm2 = make_part(b, "norm", &block->norm_type->part, block->norm_type->init, module, "norm2", layer, 0);
    block->ffn = make_part(b, "ffn", &block->ffn_type->part, block->ffn_type->init, module, "ffn", layer, 0);
    return !qp_failed(m->ctx);
}

bool qpi_stack_build(qp_model *m, const json_t *stack, const char *where) {
    builder  builder_ = {.m = m, .stack = stack, .where = where};
    builder *b = &builder_;
    if (!read_head(b)) return false;
    m->module = qp_module_new(m->ctx, NULL, "");
    m->embed = qp_nn_embedding_new(m->module, "embed", m->vocabulary, m->width, b->init);
    FIND(qp_position_type, qp_position_at, m->position.type, "position");
    if (qp_failed(m->ctx)) return false;
    m->position.self = make_part(b, "position", &m->position.type->part, m->position.type->init, m->module, "position", 0,
                                 head_width(b));
    m->blocks = calloc((size_t)m->layers + 1, sizeof *m->blocks);
    if (!m->blocks) return qp_fail(m->ctx, QP_ERR_MEMORY, "out of memory: model"), false;
    qp_module *blocks = qp_module_new(m->ctx, m->module, "blocks");
    for (int i = 0; i < m->layers; i++)
        if (!build_block(b, blocks, i)) return false;
    FIND(qp_norm_type, qp_norm_at, m->norm_type, "norm");
    if (qp_failed(m->ctx)) return false;
    m->norm = make_part(b, "norm", &m->norm_type->part, m->norm_type->init, m->module, "norm", 0, 0);
    qp_module *head = qp_module_new(m->ctx, m->module, "head");
    if (!head || qp_failed(m->ctx)) return false;
    if (json_is_true(json_object_get(stack, "tie_word_embeddings"))) {
        m->head = m->embed.weight;
        qp_tie(head, "weight", m->head);
    } else {
        m->head = qp_param(head, "weight", b->init, 2, (int64_t[]){m->vocabulary, m->width});
    }
    return !qp_failed(m->ctx);
}

/* ---- Running --------------------------------------------------------------------------------------- */

static qp_tensor drop(qp_tensor x, const qp_stream *s) { return s->dropout > 0 ? qp_dropout(x, s->dropout) : x; }

/* A branch's output joins the residual in its last product, unless dropout comes between. */
static qp_tensor run_block(const qpi_block *k, qp_tensor x, const qp_stream *s, qp_state *state) {
    qp_scope  scope = qp_enter(x.ctx);
    bool      fused = s->dropout <= 0;
    qp_tensor n = k->norm_type->forward(k->norm1, x), residual = fused ? x : QP_NONE;
    qp_tensor h = state ? k->mixer_type->step(k->mixer, n, residual, s, state)
                        : k->mixer_type->forward(k->mixer, n, residual, s);
    if (!fused) h = qp_add(x, drop(h, s));
    qp_tensor y = k->ffn_type->forward(k->ffn, k->norm_type->forward(k->norm2, h), fused ? h : QP_NONE, s);
    if (!fused) y = qp_add(h, drop(y, s));
    return qp_return(scope, y);
}

qp_tensor qpi_stack_forward(qp_model *m, qp_tensor ids, const qp_stream *s, qp_state *states) {
    qp_scope  scope = qp_enter(m->ctx);
    qp_tensor x = qp_embedding(m->embed.weight, ids);
    if (m->position.type->embed) x = m->position.type->embed(m->position.self, x, s);
    x = drop(x, s);
    for (int64_t i = 0; i < m->layers && !qp_failed(m->ctx); i++) {
        qp_tensor y = run_block(&m->blocks[i], x, s, states ? &states[i] : NULL);
        qp_drop(x);
        x = y;
    }
    return qp_return(scope, m->norm_type->forward(m->norm, x));
}
