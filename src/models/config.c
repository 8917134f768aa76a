/* Reading a Hugging Face config so that every key is accounted for. */
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

#include "format/os.h"
#include "models/model.h"

void qpi_config_use(qpi_config *c, const char *key) {
    if (c->used_count < QPI_MAX_KEYS) c->used[c->used_count++] = key;
}

int64_t qpi_config_int(qpi_config *c, const char *key, int64_t fallback) {
    qpi_config_use(c, key);
    qpi_json_integer(&c->root, key, QPI_OPTIONAL, 0, (int64_t)1 << 40, &fallback);
    return fallback;
}

int64_t qpi_config_count(qpi_config *c, const char *key, int64_t fallback) {
    qpi_config_use(c, key);
    qpi_json_integer(&c->root, key, QPI_OPTIONAL, 1, (int64_t)1 << 40, &fallback);
    return fallback;
}

double qpi_config_number(qpi_config *c, const char *key, double fallback) {
    qpi_config_use(c, key);
    qpi_json_number(&c->root, key, QPI_OPTIONAL, -1e300, 1e300, &fallback);
    return fallback;
}

bool qpi_config_bool(qpi_config *c, const char *key, bool fallback) {
    qpi_config_use(c, key);
    qpi_json_boolean(&c->root, key, QPI_OPTIONAL, &fallback);
    return fallback;
}

const char *qpi_config_text(qpi_config *c, const char *key, const char *fallback) {
    qpi_config_use(c, key);
    qpi_json_string(&c->root, key, QPI_OPTIONAL, &fallback);
    return fallback;
}

void qpi_config_only(qpi_config *c, const char *key, const char *text) {
    qpi_config_use(c, key);
    qpi_json at = qpi_json_member(&c->root, key);
    if (!at.value) return;
    char *found = json_dumps(at.value, JSON_ENCODE_ANY | JSON_COMPACT);
    if (!found) qpi_fail_memory(&c->ctx->error, key);
    else if (strcmp(found, text))
        qpi_json_fail(&at, QP_ERR_UNSUPPORTED, "found %.80s, quipu can only do %s", found, text);
    free(found);
}

const char *qpi_config_activation(qpi_config *c, const char *key, const char *fallback) {
    static const char *const names[][2] = {{"gelu_new", "gelu_tanh"}, {"gelu_pytorch_tanh", "gelu_tanh"},
                                           {"gelu", "gelu"},          {"relu", "relu"},
                                           {"silu", "silu"},          {"swish", "silu"}};
    const char              *text = qpi_config_text(c, key, fallback);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (!strcmp(text, names[i][0])) return names[i][1];
    qpi_json at = qpi_json_member(&c->root, key);
    qpi_json_fail(&at, QP_ERR_UNSUPPORTED,
                  "found \"%.40s\", expected gelu, gelu_new, gelu_pytorch_tanh, relu or silu", text);
    return "gelu";
}

void qpi_config_put(qpi_config *c, json_t *object, const char *key, json_t *value) {
    if (json_object_set_new(object, key, value) != 0) qpi_fail_memory(&c->ctx->error, key);
}

json_t *qpi_config_copy(qpi_config *c, const json_t *object) {
    const char *key;
    json_t     *copy = json_object(), *value;
    qpi_json_members(object, key, value) qpi_config_put(c, copy, key, json_incref(value));
    return copy;
}

/* ---- RoPE ------------------------------------------------------------------------------------ */

/* Hugging Face's names of options and ours. */
static const char *const rope_names[][2] = {
    {"rope_theta", "theta"},
    {"factor", "factor"},
    {"original_max_position_embeddings", "trained_positions"},
    {"beta_fast", "beta_fast"},
    {"beta_slow", "beta_slow"},
    {"attention_factor", "attention_factor"},
    {"mscale", "mscale"},
    {"mscale_all_dim", "mscale_all_dim"},
    {"truncate", "truncate"},
    {"low_freq_factor", "low_freq_factor"},
    {"high_freq_factor", "high_freq_factor"},
    {"partial_rotary_factor", "fraction"},
};

static void read_rope_object(qpi_config *c, qpi_json object, json_t *out) {
    const char *key;
    json_t     *value;
    if (!object.value) return;
    if (!qpi_json_is(object.value, JSON_OBJECT)) {
        qpi_json_fail(&object, QP_ERR_FORMAT, "expected an object, found %s", qpi_json_kind(object.value));
        return;
    }
    qpi_json_members(object.value, key, value) {
        qpi_json    at = qpi_json_member(&object, key);
        const char *ours = NULL;
        if (qpi_json_is(value, JSON_NULL)) continue;
        if (!strcmp(key, "type") || !strcmp(key, "rope_type")) {
            if (qpi_json_is(value, JSON_STRING)) qpi_config_put(c, out, "scaling", json_incref(value));
            else qpi_json_fail(&at, QP_ERR_FORMAT, "expected a string, found %s", qpi_json_kind(value));
            continue;
        }
        for (size_t i = 0; i < sizeof rope_names / sizeof rope_names[0]; i++)
            if (!strcmp(key, rope_names[i][0])) ours = rope_names[i][1];
        if (!ours) qpi_json_fail(&at, QP_ERR_UNSUPPORTED, "unknown key: it may change the mathematics");
        else if (!qpi_json_is_number(value) && !qpi_json_is(value, JSON_TRUE) &&
                 !qpi_json_is(value, JSON_FALSE))
            qpi_json_fail(&at, QP_ERR_FORMAT, "expected a number, found %s", qpi_json_kind(value));
        else qpi_config_put(c, out, ours, json_incref(value));
    }
}

json_t *qpi_config_rope_of(qpi_config *c, double theta, const qpi_json *objects, int count) {
    json_t *rope = json_pack("{s:s, s:f}", "type", "rope", "theta", theta);
    if (!rope) {
        qpi_fail_memory(&c->ctx->error, "rope");
        return NULL;
    }
    for (int i = 0; i < count; i++) read_rope_object(c, objects[i], rope);
    /* of these, only yarn and llama3 look at the trained length given here */
    const char *scaling = json_string_value(json_object_get(rope, "scaling"));
    bool        trained = scaling && (!strcmp(scaling, "yarn") || !strcmp(scaling, "llama3"));
    if (!trained) json_object_del(rope, "trained_positions");
    if (scaling && strcmp(scaling, "default") && !json_object_get(rope, "factor")) {
        double length = json_number_value(json_object_get(rope, "trained_positions"));
        double all = (double)qpi_config_int(c, "max_position_embeddings", 0);
        if (length > 0 && all > 0) qpi_config_put(c, rope, "factor", json_real(all / length));
        else qpi_json_fail(&c->root, QP_ERR_FORMAT, "rope type %s without a factor", scaling);
    }
    return rope;
}

json_t *qpi_config_rope(qpi_config *c, double theta) {
    double fraction = qpi_config_number(c, "partial_rotary_factor", 1);
    theta = qpi_config_number(c, "rope_theta", theta);
    qpi_config_use(c, "rope_scaling");
    qpi_config_use(c, "rope_parameters");
    /* as transformers reads them: the older one, unless it is empty, stands for all of the newer one */
    qpi_json older = qpi_json_member(&c->root, "rope_scaling"),
             newer = qpi_json_member(&c->root, "rope_parameters");
    bool     empty = !older.value || (qpi_json_is(older.value, JSON_OBJECT) && !json_object_size(older.value));
    json_t  *rope = qpi_config_rope_of(c, theta, empty ? &newer : &older, 1);
    if (rope && fraction != 1 && !json_object_get(rope, "fraction"))
        qpi_config_put(c, rope, "fraction", json_real(fraction));
    return rope;
}

/* ---- The keys that are left --------------------------------------------------------------------- */

static const char *const harmless[] = {"_*",
                                       "architectures",
                                       "model_type",
                                       "dtype",
                                       "torch_dtype",
                                       "transformers_version",
                                       "use_cache",
                                       "*_token_id",
                                       "initializer_range",
                                       "initializer_factor",
                                       "name_or_path",
                                       "output_*",
                                       "return_dict*",
                                       "id2label",
                                       "label2id",
                                       "num_labels",
                                       "problem_type",
                                       "task_specific_params",
                                       "tokenizer_class",
                                       "auto_map",
                                       "chunk_size_feed_forward",
                                       "gradient_checkpointing",
                                       "transformers.js_config",
                                       "cache_implementation",
                                       "quipu",
                                       NULL};

bool qpi_config_finish(qpi_config *c) {
    const char *key;
    json_t     *value;
    qpi_json_members(c->root.value, key, value) {
        bool known = qpi_json_is(value, JSON_NULL) || qpi_json_is(value, JSON_FALSE);
        for (int i = 0; i < c->used_count && !known; i++) known = !strcmp(c->used[i], key);
        for (int i = 0; harmless[i] && !known; i++) known = fnmatch(harmless[i], key, 0) == 0;
        if (known) continue;
        qpi_json at = qpi_json_member(&c->root, key);
        qpi_json_fail(&at, QP_ERR_UNSUPPORTED, "unknown key: it may change the mathematics");
    }
    return !qp_failed(c->ctx);
}
