/* WordPiece: from the left, always the longest token; what does not begin a word has the prefix. A word that cannot
 * be put together so, or is too long, is unknown. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/tokenizer.h"
#include "format/json.h"
#include "format/os.h"

#define LONGEST 256 /* bytes of a token: bounds the time at each place */

typedef struct {
    qpi_trie trie;
    uint32_t inside; /* where the walk begins behind the prefix */
    bool     has_inside;
    char    *unknown, *prefix;
    int32_t  unknown_id;
    int64_t  longest; /* characters of a word */
} wordpiece;

static void free_model(void *model) {
    wordpiece *m = model;
    qpi_trie_free(&m->trie);
    free(m->unknown);
    free(m->prefix);
    free(m);
}

static bool copy(char **to, const char *from) { return (*to = strdup(from)) != NULL; }

static bool build(qp_tokenizer *t, qpi_model_options *o, qpi_error *e) {
    wordpiece *m = calloc(1, sizeof *m);
    t->model = m;
    if (!m || !copy(&m->unknown, o->unknown ? o->unknown : "[UNK]") ||
        !copy(&m->prefix, o->prefix ? o->prefix : "##"))
        return qpi_fail_memory(e, "tokenizer") == QP_OK;
    m->longest = o->longest < 0 ? 100 : o->longest;
    m->unknown_id = qpi_model_token(t, m->unknown, strlen(m->unknown));
    if (!qpi_model_trie(t, &m->trie, LONGEST + strlen(m->prefix), e)) return false;
    m->has_inside = true;
    for (const char *p = m->prefix; *p && m->has_inside; p++) {
        m->inside = qpi_trie_step(&m->trie, m->inside, (uint8_t)*p);
        m->has_inside = m->inside != 0;
    }
    return true;
}

static bool too_long(const wordpiece *m, const uint8_t *text, size_t n) {
    if ((int64_t)n <= m->longest) return false;
    int64_t characters = 0;
    for (size_t i = 0; i < n; i++) characters += (text[i] & 0xC0) != 0x80;
    return characters > m->longest;
}

static bool encode_word(const qp_tokenizer *t, qpi_encoder *w, const uint8_t *text, size_t n) {
    const wordpiece *m = t->model;
    int64_t          before = w->out->count;
    bool             whole = !too_long(m, text, n);
    if (!qpi_ids_reserve(w->out, n)) return qpi_fail_memory(&w->error, "tokenizer") == QP_OK;
    for (size_t at = 0, step; whole; at += step) {
        uint32_t node = at ? m->inside : 0;
        int32_t  id = -1;
        step = 0;
        if (at && !m->has_inside) break;
        for (size_t i = at; i < n && (node = qpi_trie_step(&m->trie, node, text[i])); i++)
            if (m->trie.value[node] >= 0) id = m->trie.value[node], step = i + 1 - at;
        whole = id >= 0;
        if (whole) w->out->data[w->out->count++] = id;
        if (whole && at + step == n) return true;
    }
    w->out->count = before;
    return m->unknown_id < 0 ? qpi_no_unknown(w, m->unknown) : qpi_put_ids(w, &m->unknown_id, 1);
}

static bool encode(const qp_tokenizer *t, qpi_encoder *w, const uint8_t *text, size_t n, bool first) {
    return qpi_encode_words(t, w, text, n, first, encode_word);
}

static void save(const qp_tokenizer *t, qpi_buffer *out) {
    const wordpiece *m = t->model;
    char             number[60];
    snprintf(number, sizeof number, ",\"max_input_chars_per_word\":%" PRId64 ",", m->longest);
    qpi_put_text(out, "{\"type\":\"WordPiece\",\"unk_token\":");
    qpi_json_print_string(out, m->unknown, strlen(m->unknown));
    qpi_put_text(out, ",\"continuing_subword_prefix\":");
    qpi_json_print_string(out, m->prefix, strlen(m->prefix));
    qpi_put_text(out, number);
    qpi_print_vocab(t, out);
    qpi_put_text(out, "}");
}

const qpi_tokenizer_kind qpi_tokenizer_wordpiece = {"wordpiece", "WordPiece", build, encode, save, free_model};
