#include "data/trie.h"

#include <stdlib.h>
#include <string.h>

static int by_text(const void *a, const void *b) {
    const qpi_trie_text *x = a, *y = b;
    size_t               n = x->size < y->size ? x->size : y->size;
    int                  order = memcmp(x->text, y->text, n);
    return order ? order : (x->size > y->size) - (x->size < y->size);
}

/* A node stands for the sorted texts [from, to), which share their first `depth` bytes. Nodes are numbered level by
 * level, so the children of one stand together and those of the next behind them. */
typedef struct {
    uint32_t from, to;
} range;

static size_t count_nodes(const qpi_trie_text *texts, size_t n) {
    size_t count = 1;
    for (size_t i = 0; i < n; i++) {
        size_t shared = 0;
        if (i)
            while (shared < texts[i - 1].size && texts[i - 1].text[shared] == texts[i].text[shared]) shared++;
        count += texts[i].size - shared;
    }
    return count;
}

/* The texts that go on behind `depth` bytes with the same byte as text i. */
static uint32_t same_until(const qpi_trie_text *texts, uint32_t i, uint32_t to, size_t depth) {
    uint32_t end = i + 1;
    while (end < to && texts[end].text[depth] == texts[i].text[depth]) end++;
    return end;
}

static void fill(qpi_trie *t, const qpi_trie_text *texts, range *ranges, size_t n) {
    uint32_t next = 1, level_end = 1;
    size_t   depth = 0;
    ranges[0] = (range){0, (uint32_t)n};
    t->byte[0] = 0;
    for (uint32_t node = 0; node < t->count; node++) {
        if (node == level_end) level_end = next, depth++;
        uint32_t i = ranges[node].from, to = ranges[node].to;
        t->first[node] = next;
        t->value[node] = -1;
        if (i < to && texts[i].size == depth) t->value[node] = texts[i++].value;
        for (uint32_t end; i < to; i = end, next++) {
            end = same_until(texts, i, to, depth);
            ranges[next] = (range){i, end};
            t->byte[next] = (uint8_t)texts[i].text[depth];
            if (node == 0) t->root[t->byte[next]] = next;
        }
    }
    t->first[t->count] = next;
}

bool qpi_trie_make(qpi_trie *t, qpi_trie_text *texts, size_t n) {
    if (n) qsort(texts, n, sizeof *texts, by_text);
    *t = (qpi_trie){.count = count_nodes(texts, n)};
    if (t->count >= UINT32_MAX) return false; /* cannot: gigabytes of tokens */
    range *ranges = malloc(t->count * sizeof *ranges);
    t->first = malloc((t->count + 1) * sizeof *t->first);
    t->byte = malloc(t->count);
    t->value = malloc(t->count * sizeof *t->value);
    bool ok = ranges && t->first && t->byte && t->value;
    if (ok) fill(t, texts, ranges, n);
    free(ranges);
    if (!ok) qpi_trie_free(t);
    return ok;
}

void qpi_trie_free(qpi_trie *t) {
    free(t->first);
    free(t->byte);
    free(t->value);
    *t = (qpi_trie){0};
}
