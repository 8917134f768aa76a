#include "cli/config.h"

#include <string.h>

#include "format/json.h"
#include "models/model.h"

static bool set_key(json_t *config, const char *pair) {
    const char *equals = strchr(pair, '=');
    char        key[200];
    if (!equals || equals == pair || (size_t)(equals - pair) >= sizeof key) {
        cli_error("--set %s: expected KEY=VALUE", pair);
        return false;
    }
    memcpy(key, pair, (size_t)(equals - pair));
    key[equals - pair] = 0;
    json_t *object = config;
    char   *name = key;
    for (char *dot; (dot = strchr(name, '.')); name = dot + 1) {
        *dot = 0;
        json_t *inner = json_object_get(object, name);
        if (!json_is_object(inner)) {
            cli_error("--set %s: the config has no object %s", pair, name);
            return false;
        }
        object = inner;
    }
    json_t *value = qpi_json_parse("--set", equals + 1, strlen(equals + 1), NULL);
    if (!value) value = json_string(equals + 1);
    if (!value || json_object_set_new(object, name, value) != 0) {
        cli_error("--set %s: not UTF-8", pair);
        return false;
    }
    return true;
}

bool cli_config_set(const cli *c, json_t *config) {
    int          count;
    const char **pairs = cli_list(c, "set", &count);
    for (int i = 0; i < count; i++)
        if (!set_key(config, pairs[i])) return false;
    return true;
}

json_t *cli_config_read(const cli *c, const char *usual) {
    const char *preset = cli_text(c, "preset"), *path = cli_text(c, "config");
    json_t     *config = NULL;
    if (path) {
        qpi_error error = {0};
        config = qpi_json_load(path, &error);
        if (!config) cli_error("%s", error.text);
        else if (!json_is_object(config)) cli_error("%s: expected an object", path);
    } else {
        const char *text = preset ? qp_preset_config(preset) : usual;
        config = text ? qpi_json_parse("preset", text, strlen(text), NULL) : NULL;
        if (!config) cli_error("no preset \"%s\" (see `quipu list presets`)", preset);
    }
    if (json_is_object(config) && cli_config_set(c, config)) return config;
    json_decref(config);
    return NULL;
}

json_t *cli_config_stack(qp_ctx *ctx, const char *name, json_t *config) {
    qpi_config        c = {.ctx = ctx, .root = qpi_json_root(name, config, &ctx->error)};
    const qpi_preset *preset = NULL;
    const char       *type;
    if (!qpi_json_string(&c.root, "model_type", QPI_REQUIRED, &type)) return NULL;
    for (int i = 0; qpi_presets[i]; i++)
        if (!strcmp(qpi_presets[i]->name, type)) preset = qpi_presets[i];
    if (!preset) {
        qpi_json at = qpi_json_member(&c.root, "model_type");
        qpi_json_fail(&at, QP_ERR_UNSUPPORTED, "no model type \"%.60s\" (see `quipu list presets`)", type);
        return NULL;
    }
    json_t *stack = json_object();
    if (stack && preset->translate(&c, stack) && qpi_config_finish(&c)) return stack;
    json_decref(stack);
    return NULL;
}
