#include "data/added.h"

#include <stdlib.h>
#include <string.h>

#include "format/names.h"
#include "format/os.h"

static bool gather(const qpi_added *list, size_t n, bool normalized, qpi_trie_text *texts, size_t *count) {
    qpi_names seen = {0};
    bool      ok = true;
    for (size_t i = 0; ok && i < n; i++) {
        uint32_t before;
        if (list[i].normalized != normalized) continue;
        ok = qpi_names_add(&seen, list[i].text, list[i].size, (uint32_t)i, &before);
        if (ok && before == QPI_NO_NAME)
            texts[(*count)++] = (qpi_trie_text){list[i].text, list[i].size, (int32_t)i};
    }
    qpi_names_free(&seen);
    return ok;
}

bool qpi_matcher_make(qpi_matcher *m, const qpi_added *list, size_t n, bool normalized, qpi_error *e) {
    size_t         count = 0;
    qpi_trie_text *texts = malloc((n + 1) * sizeof *texts);
    bool ok = texts && gather(list, n, normalized, texts, &count) && qpi_trie_make(&m->trie, texts, count);
    free(texts);
    if (!ok) return qpi_fail_memory(e, "added tokens") == QP_OK;
    m->any = count > 0;
    m->only = -1;
    int bytes = 0;
    for (int b = 0; b < 256; b++)
        if (m->trie.root[b]) m->only = b, bytes++;
    if (bytes != 1) m->only = -1;
    return true;
}

static size_t longest_at(const qpi_trie *t, const uint8_t *p, size_t n, uint32_t *value) {
    uint32_t at = 0;
    size_t   length = 0;
    for (size_t i = 0; i < n && (at = qpi_trie_step(t, at, p[i])); i++)
        if (t->value[at] >= 0) length = i + 1, *value = (uint32_t)t->value[at];
    return length;
}

bool qpi_matcher_next(const qpi_matcher *m, const uint8_t *text, size_t n, size_t from, size_t *begin,
                      size_t *end, uint32_t *value) {
    if (!m->any) return false;
    for (size_t at = from; at < n; at++) {
        if (m->only >= 0) {
            const uint8_t *p = memchr(text + at, m->only, n - at);
            if (!p) return false;
            at = (size_t)(p - text);
        } else if (!m->trie.root[text[at]]) {
            continue;
        }
        size_t length = longest_at(&m->trie, text + at, n - at, value);
        if (!length) continue;
        *begin = at;
        *end = at + length;
        return true;
    }
    return false;
}

void qpi_matcher_free(qpi_matcher *m) {
    qpi_trie_free(&m->trie);
    *m = (qpi_matcher){0};
}
