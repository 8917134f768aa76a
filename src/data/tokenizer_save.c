#include <stdio.h>
#include <string.h>

#include "core/core.h"
#include "data/tokenizer.h"
#include "format/json.h"
#include "format/os.h"
#include "format/writer.h"

static void print_added(const qp_tokenizer *t, qpi_buffer *out) {
    qpi_put_text(out, "\"added_tokens\":[");
    for (size_t i = 0; i < t->added_count; i++) {
        const qpi_added *a = &t->added[i];
        const qpi_token *token = &t->vocab.tokens[a->id];
        char             text[200];
        snprintf(text, sizeof text, "%s{\"id\":%d,\"content\":", i ? ",\n" : "\n", (int)a->id);
        qpi_put_text(out, text);
        qpi_json_print_string(out, token->text, token->text_size);
        snprintf(text, sizeof text,
                 ",\"single_word\":%s,\"lstrip\":%s,\"rstrip\":%s,\"normalized\":%s,\"special\":%s}",
                 a->single_word ? "true" : "false", a->strip_left ? "true" : "false",
                 a->strip_right ? "true" : "false", a->normalized ? "true" : "false",
                 a->special ? "true" : "false");
        qpi_put_text(out, text);
    }
    qpi_put_text(out, "],\n");
}

static void print_part(qpi_buffer *out, const char *key, const char *json) {
    qpi_put_text(out, "\"");
    qpi_put_text(out, key);
    qpi_put_text(out, "\":");
    qpi_put_text(out, json ? json : "null");
    qpi_put_text(out, ",\n");
}

bool qpi_tokenizer_print(const qp_tokenizer *t, qpi_buffer *out) {
    qpi_put_text(out, "{\"version\":\"1.0\",\n");
    for (qpi_part part = 0; part < QPI_PARTS; part++) {
        if (part == QPI_PART_ADDED) print_added(t, out);
        else print_part(out, qpi_part_keys[part], t->parts[part]);
    }
    qpi_put_text(out, "\"model\":");
    t->kind->save(t, out);
    qpi_put_text(out, "}\n");
    return !out->failed;
}

qp_status qp_tokenizer_save(qp_ctx *ctx, const qp_tokenizer *t, const char *path) {
    qpi_buffer text = {0};
    qpi_error  e = {0};
    if (!qpi_tokenizer_print(t, &text)) qpi_fail_memory(&e, path);
    else qpi_write_file(path, text.data, text.count, &e);
    qpi_buffer_free(&text);
    return e.code ? qp_fail(ctx, e.code, "%s", e.text) : QP_OK;
}
