#include "data/normalize.h"

#include <stdlib.h>
#include <string.h>

#include "format/os.h"

/* A chain may make a text this much longer and no more: files do not decide how much memory a text takes. */
#define MOST_GROWTH 64
#define FREE_GROWTH 65536

bool qpi_is_ascii(const uint8_t *text, size_t n) {
    size_t i = 0;
    for (uint64_t x; i + 8 <= n; i += 8) {
        memcpy(&x, text + i, 8);
        if (x & UINT64_C(0x8080808080808080)) return false;
    }
    for (; i < n; i++)
        if (text[i] >= 0x80) return false;
    return true;
}

static bool make_room(const qpi_normalizer *z, qpi_normal_state *s) {
    if (s->regex_count == z->count) return true;
    s->regex = calloc(z->count, sizeof *s->regex);
    if (!s->regex) return qpi_fail_memory(s->error, "tokenizer") == QP_OK;
    s->regex_count = z->count;
    return true;
}

bool qpi_normalize(const qpi_normalizer *z, qpi_normal_state *s, const uint8_t **text, size_t *n, bool *first) {
    if (!z->count) return true;
    if (!make_room(z, s)) return false;
    size_t most = *n + FREE_GROWTH / MOST_GROWTH; /* in units of MOST_GROWTH bytes */
    bool   ascii = qpi_is_ascii(*text, *n);
    for (size_t i = 0, turn = 0; i < z->count && *n; i++) {
        const qpi_normal_step *step = &z->steps[i];
        if (ascii && step->type->ascii) continue;
        qpi_buffer *out = &s->texts[turn];
        size_t      lead = 0;
        out->count = 0;
        step->type->apply(step, s, i, *text, *n, out, &lead);
        if (out->failed) qpi_fail_memory(s->error, "tokenizer");
        if (s->error->code) return false;
        if (out->count / MOST_GROWTH > most)
            return qpi_fail(s->error, QP_ERR_UNSUPPORTED,
                            "tokenizer: its normalizer makes a text of %zu bytes out of %zu", out->count,
                            *n) == QP_OK;
        *text = (const uint8_t *)out->data;
        *n = out->count;
        if (lead) *first = false;
        ascii = ascii && qpi_is_ascii(*text, *n);
        turn = !turn;
    }
    return true;
}

void qpi_normal_state_free(qpi_normal_state *s) {
    for (int i = 0; i < 4; i++) qpi_buffer_free(&s->texts[i]);
    for (size_t i = 0; i < s->regex_count; i++) qpi_regex_state_free(s->regex[i]);
    free(s->regex);
    *s = (qpi_normal_state){0};
}

void qpi_normalizer_free(qpi_normalizer *z) {
    for (size_t i = 0; i < z->count; i++) {
        free(z->steps[i].pattern);
        free(z->steps[i].content);
        qpi_regex_free(z->steps[i].regex);
        qpi_charsmap_free(&z->steps[i].map);
    }
    free(z->steps);
    *z = (qpi_normalizer){0};
}
