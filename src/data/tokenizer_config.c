/* What stands beside a tokenizer in a model's folder: tokenizer_config.json, special_tokens_map.json and
 * generation_config.json name the tokens that begin and end a text. */
#include <stdlib.h>
#include <string.h>

#include "data/made.h"
#include "format/json.h"
#include "format/os.h"

/* A token by its text, or by {"content": TEXT}; -1: none. */
static int64_t token_of(const qp_tokenizer *t, const json_t *root, const char *key) {
    const json_t *value = json_object_get(root, key);
    if (json_is_object(value)) value = json_object_get(value, "content");
    return qpi_json_is(value, JSON_STRING) ? qp_tokenizer_id(t, json_string_value(value)) : -1;
}

static int64_t id_of(const json_t *value) { return json_is_integer(value) ? json_integer_value(value) : -1; }

/* The beginning and the end that the config asks for, where tokenizer.json puts nothing around a text. */
static bool wrap(qp_tokenizer *t, const json_t *config, qpi_error *e) {
    bool     begin = qpi_json_is(json_object_get(config, "add_bos_token"), JSON_TRUE);
    bool     end = qpi_json_is(json_object_get(config, "add_eos_token"), JSON_TRUE);
    qpi_made m = {.t = t, .name = "tokenizer_config.json", .error = e};
    if (t->parts[QPI_PART_POST] || (!begin && !end)) return true;
    qpi_around_free(&t->single);
    qpi_around_free(&t->pair);
    bool ok = qpi_made_around(&m, begin ? t->begin : -1, end ? t->end : -1, false) &&
              (t->single.count || qpi_around_default(&t->single, &t->pair, e));
    qpi_buffer_free(&m.json);
    return ok;
}

bool qpi_tokenizer_configure(qp_tokenizer *t, const char *folder, qpi_error *e) {
    json_t       *config = qpi_json_load_in(folder, "tokenizer_config.json", e);
    json_t       *map = qpi_json_load_in(folder, "special_tokens_map.json", e);
    json_t       *generation = qpi_json_load_in(folder, "generation_config.json", e);
    const json_t *ends = json_object_get(generation, "eos_token_id");
    int64_t       begin = token_of(t, config, "bos_token"), end = token_of(t, config, "eos_token");
    if (begin < 0) begin = token_of(t, map, "bos_token");
    if (begin < 0) begin = id_of(json_object_get(generation, "bos_token_id"));
    if (end < 0) end = token_of(t, map, "eos_token");
    if (qpi_vocab_at(&t->vocab, begin)) t->begin = (int32_t)begin;
    if (end < 0) end = id_of(json_is_array(ends) ? json_array_get(ends, 0) : ends);
    if (qpi_vocab_at(&t->vocab, end)) qp_tokenizer_set_end(t, (int32_t)end);
    for (size_t i = 0; i < json_array_size(ends); i++) qpi_tokenizer_add_end(t, id_of(json_array_get(ends, i)));
    qpi_tokenizer_add_end(t, id_of(ends));
    bool ok = !e->code && wrap(t, config, e);
    json_decref(config);
    json_decref(map);
    json_decref(generation);
    return ok;
}
