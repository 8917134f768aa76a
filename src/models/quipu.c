/* A stack of quipu's own, whatever its parts: the config is the stack config itself and names
 * are the stack's. */
#include "models/model.h"

static bool translate(qpi_config *c, json_t *stack) {
    const char *key;
    json_t     *value;
    json_object_foreach(c->root.value, key, value) {
        qpi_config_use(c, key);
        if (json_object_set(stack, key, value) != 0) return false;
    }
    return true;
}

QP_PRESET(quipu) = {
    .name = "quipu",
    .source = "docs/models.md",
    .defaults = "{\"model_type\": \"quipu\", \"vocab_size\": 4096, \"hidden_size\": 256, "
                "\"num_hidden_layers\": 6, \"max_position_embeddings\": 1024, \"tie_word_embeddings\": true, "
                "\"position\": {\"type\": \"rope\"}, \"mixer\": {\"type\": \"attention\", \"heads\": 8}, "
                "\"ffn\": {\"type\": \"swiglu\"}, \"norm\": {\"type\": \"rms_norm\"}}",
    .prefix = "",
    .translate = translate};
