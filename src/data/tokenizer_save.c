#include <stdio.h>
#include <string.h>

#include "core/core.h"
#include "data/tokenizer.h"
#include "format/json.h"
#include "format/os.h"
#include "format/writer.h"

static bool put(qpi_buffer *out, const char *text) { return qpi_buffer_put(out, text, strlen(text)); }

static bool print_added(const qp_tokenizer *t, qpi_buffer *out) {
    bool ok = put(out, "\"added_tokens\":["), first = true;
    for (size_t i = 0; ok && i < t->added_count; i++) {
        const qpi_added *a = &t->added[i];
        const qpi_token *token = &t->vocab.tokens[a->id];
        char             text[200];
        snprintf(text, sizeof text, "%s{\"id\":%d,\"content\":", first ? "\n" : ",\n", (int)a->id);
        ok = put(out, text) && qpi_json_print_string(out, token->text, token->text_size);
        snprintf(text, sizeof text,
                 ",\"single_word\":%s,\"lstrip\":%s,\"rstrip\":%s,\"normalized\":%s,\"special\":%s}",
                 a->single_word ? "true" : "false", a->strip_left ? "true" : "false",
                 a->strip_right ? "true" : "false", a->normalized ? "true" : "false",
                 a->special ? "true" : "false");
        ok = ok && put(out, text);
        first = false;
    }
    return ok && put(out, "],\n");
}

static bool print_part(qpi_buffer *out, const char *key, const char *json) {
    return put(out, "\"") && put(out, key) && put(out, "\":") && put(out, json ? json : "null") &&
           put(out, ",\n");
}

bool qpi_tokenizer_print(const qp_tokenizer *t, qpi_buffer *out) {
    return put(out, "{\"version\":\"1.0\",\n\"truncation\":null,\n\"padding\":null,\n") &&
           print_added(t, out) && print_part(out, "normalizer", t->normalizer_json) &&
           print_part(out, "pre_tokenizer", t->pretokenizer_json) &&
           print_part(out, "post_processor", t->post_json) && print_part(out, "decoder", t->decoder_json) &&
           put(out, "\"model\":") && t->kind->save(t, out) && put(out, "}\n");
}

qp_status qp_tokenizer_save(qp_ctx *ctx, const qp_tokenizer *t, const char *path) {
    qpi_buffer text = {0};
    qpi_error  e = {0};
    if (!qpi_tokenizer_print(t, &text))
        qpi_fail_memory(&e, path);
    else
        qpi_write_file(path, text.data, text.count, &e);
    qpi_buffer_free(&text);
    return e.code ? qp_fail(ctx, e.code, "%s", e.text) : QP_OK;
}
