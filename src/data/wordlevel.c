/* A word is a token, or it is unknown. */
#include <stdlib.h>
#include <string.h>

#include "data/tokenizer.h"
#include "format/json.h"
#include "format/os.h"

typedef struct {
    char   *unknown;
    int32_t unknown_id;
} wordlevel;

static void free_model(void *model) {
    wordlevel *m = model;
    free(m->unknown);
    free(m);
}

static bool build(qp_tokenizer *t, qpi_model_options *o, qpi_error *e) {
    wordlevel *m = calloc(1, sizeof *m);
    t->model = m;
    if (!m) return qpi_fail_memory(e, "tokenizer") == QP_OK;
    m->unknown = strdup(o->unknown ? o->unknown : "<unk>");
    if (!m->unknown) return qpi_fail_memory(e, "tokenizer") == QP_OK;
    m->unknown_id = qpi_model_token(t, m->unknown, strlen(m->unknown));
    return true;
}

static bool encode_word(const qp_tokenizer *t, qpi_encoder *w, const uint8_t *text, size_t n) {
    const wordlevel *m = t->model;
    int32_t          id = qpi_model_token(t, (const char *)text, n);
    if (id < 0) id = m->unknown_id;
    return id < 0 ? qpi_no_unknown(w, m->unknown) : qpi_put_ids(w, &id, 1);
}

static bool encode(const qp_tokenizer *t, qpi_encoder *w, const uint8_t *text, size_t n, bool first) {
    return qpi_encode_words(t, w, text, n, first, encode_word);
}

static void save(const qp_tokenizer *t, qpi_buffer *out) {
    const wordlevel *m = t->model;
    qpi_put_text(out, "{\"type\":\"WordLevel\",");
    qpi_print_vocab(t, out);
    qpi_put_text(out, ",\"unk_token\":");
    qpi_json_print_string(out, m->unknown, strlen(m->unknown));
    qpi_put_text(out, "}");
}

const qpi_tokenizer_kind qpi_tokenizer_wordlevel = {"wordlevel", "WordLevel", build, encode, save, free_model};
