#include "data/added.h"

#include <stdlib.h>
#include <string.h>

#include "format/os.h"

/* Children form a list; node 0 is the root, so 0 also ends a list. */
typedef struct qpi_trie_node {
    uint32_t child, sibling, value; /* value + 1 of the text that ends here, 0: none */
    uint8_t  byte;
} node;

static uint32_t new_node(qpi_matcher *m, uint8_t byte) {
    node *p = m->count < UINT32_MAX ? qpi_grown(m->nodes, &m->capacity, m->count + 1, sizeof *p) : NULL;
    if (!p) return 0;
    m->nodes = p;
    p[m->count] = (node){.byte = byte};
    return (uint32_t)m->count++;
}

static uint32_t child_of(const qpi_matcher *m, uint32_t at, uint8_t byte) {
    uint32_t c = m->nodes[at].child;
    while (c && m->nodes[c].byte != byte) c = m->nodes[c].sibling;
    return c;
}

bool qpi_matcher_add(qpi_matcher *m, const char *text, size_t n, uint32_t value, qpi_error *e) {
    if (!m->count) {
        m->only = (uint8_t)text[0];
        new_node(m, 0);
        if (!m->count) return qpi_fail_memory(e, "added tokens") == QP_OK;
    }
    uint32_t at = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t next = child_of(m, at, (uint8_t)text[i]);
        if (!next) {
            next = new_node(m, (uint8_t)text[i]);
            if (!next) return qpi_fail_memory(e, "added tokens") == QP_OK;
            m->nodes[next].sibling = m->nodes[at].child;
            m->nodes[at].child = next;
        }
        at = next;
    }
    m->nodes[at].value = value + 1;
    m->first[(uint8_t)text[0]] = true;
    if (m->only != (uint8_t)text[0]) m->only = -1;
    return true;
}

static size_t longest_at(const qpi_matcher *m, const uint8_t *p, size_t n, uint32_t *value) {
    uint32_t at = 0;
    size_t   length = 0;
    for (size_t i = 0; i < n && (at = child_of(m, at, p[i])); i++)
        if (m->nodes[at].value) length = i + 1, *value = m->nodes[at].value - 1;
    return length;
}

bool qpi_matcher_next(const qpi_matcher *m, const uint8_t *text, size_t n, size_t from, size_t *begin,
                      size_t *end, uint32_t *value) {
    if (!m->count) return false;
    for (size_t at = from; at < n; at++) {
        if (m->only >= 0) {
            const uint8_t *p = memchr(text + at, m->only, n - at);
            if (!p) return false;
            at = (size_t)(p - text);
        } else if (!m->first[text[at]]) {
            continue;
        }
        size_t length = longest_at(m, text + at, n - at, value);
        if (!length) continue;
        *begin = at;
        *end = at + length;
        return true;
    }
    return false;
}

void qpi_matcher_free(qpi_matcher *m) {
    free(m->nodes);
    *m = (qpi_matcher){0};
}
