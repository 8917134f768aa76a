#include "data/pretokenize.h"

#include <stdlib.h>
#include <string.h>

#include "data/unicode.h"
#include "data/vocab.h"
#include "format/os.h"
#include "format/utf8.h"

typedef const uint8_t *place;

static bool out_of_memory(const qpi_splitting *j) {
    return qpi_fail_memory(j->state->error, "tokenizer") == QP_OK;
}

/* ---- Pieces --------------------------------------------------------------------------- */

bool qpi_pass_on(const qpi_splitting *j, int stage, qpi_stretch s, place begin, place end) {
    if (begin == end) return true;
    if (stage + 1 == j->p->count) return j->word(j->arg, begin, (size_t)(end - begin));
    return j->p->stages[stage + 1].split(j, stage + 1, (qpi_stretch){begin, end, s.first && begin == s.text});
}

static bool let_go(qpi_pieces_of *p) {
    bool ok = !p->waits || qpi_pass_on(p->j, p->stage, p->s, p->begin, p->end);
    p->waits = false;
    return ok;
}

bool qpi_put_piece(qpi_pieces_of *p, place begin, place end, bool match) {
    const qpi_split *split = &p->j->p->stages[p->stage];
    bool             joins = false, was = p->was_match;
    match = match != split->invert;
    p->was_match = match;
    switch (split->behavior) {
    case QPI_ISOLATED: return qpi_pass_on(p->j, p->stage, p->s, begin, end);
    case QPI_REMOVED: return match || qpi_pass_on(p->j, p->stage, p->s, begin, end);
    case QPI_CONTIGUOUS: joins = match == was; break;
    case QPI_WITH_BEFORE: joins = match && !was; break;
    default: joins = !match && was; /* QPI_WITH_NEXT */
    }
    if (p->waits && joins) {
        p->end = end;
        return true;
    }
    bool ok = let_go(p);
    p->begin = begin;
    p->end = end;
    p->waits = true;
    return ok;
}

bool qpi_end_pieces(qpi_pieces_of *p) { return let_go(p); }

/* ---- Stages --------------------------------------------------------------------------- */

bool qpi_split_by_next(const qpi_splitting *j, int stage, qpi_stretch s) {
    qpi_next_fn *next = j->p->stages[stage].next;
    if (stage + 1 == j->p->count) { /* straight to the model: most text goes this way */
        qpi_word_fn *word = j->word;
        void        *arg = j->arg;
        for (place p = s.text, q; p < s.end; p = q)
            if (!word(arg, p, (size_t)((q = next(p, s.end)) - p))) return false;
        return true;
    }
    for (place p = s.text, q; p < s.end; p = q)
        if (!qpi_pass_on(j, stage, s, p, q = next(p, s.end))) return false;
    return true;
}

bool qpi_split_by_pattern(const qpi_splitting *j, int stage, qpi_stretch s) {
    const qpi_split *split = &j->p->stages[stage];
    qpi_pieces_of    pieces = {j, stage, s, NULL, NULL, false, false};
    qpi_finder       f;
    size_t           done = 0, begin, end, n = (size_t)(s.end - s.text);
    int              found;
    if (!qpi_find_in(&f, split->regex, &j->state->regex[stage], s.text, n, j->state->error)) return false;
    while ((found = qpi_find_next(&f, &begin, &end)) > 0) {
        if (done != begin && !qpi_put_piece(&pieces, s.text + done, s.text + begin, false)) return false;
        if (!qpi_put_piece(&pieces, s.text + begin, s.text + end, true)) return false;
        done = end;
    }
    if (found < 0 || (done < n && !qpi_put_piece(&pieces, s.text + done, s.end, false))) return false;
    return qpi_end_pieces(&pieces);
}

/* With a space before a text that does not start with one. */
bool qpi_split_byte_level(const qpi_splitting *j, int stage, qpi_stretch s) {
    const qpi_split *split = &j->p->stages[stage];
    if (*s.text != ' ') {
        qpi_buffer *b = &j->state->texts[stage];
        b->count = 0;
        qpi_buffer_put(b, " ", 1);
        qpi_buffer_put(b, s.text, (size_t)(s.end - s.text));
        if (b->failed) return out_of_memory(j);
        s = (qpi_stretch){(place)b->data, (place)b->data + b->count, s.first};
    }
    return split->next ? qpi_split_by_next(j, stage, s) : qpi_pass_on(j, stage, s, s.text, s.end);
}

bool qpi_pretokenize(const qpi_pretokenizer *p, qpi_split_state *state, const uint8_t *text, size_t n,
                     bool first, qpi_word_fn *word, void *arg) {
    qpi_splitting j = {p, state, word, arg};
    if (n == 0) return true;
    return p->count ? p->stages[0].split(&j, 0, (qpi_stretch){text, text + n, first}) : word(arg, text, n);
}

/* ---- Where a text may be cut ------------------------------------------------------------ */

/* No word of GPT-2's pattern holds white space behind something else. In the newer ones line
 * ends may follow signs, but nothing follows a line end except white space. None looks behind
 * itself, and it makes no difference when numbers were cut apart before. */
static bool cuts_at(qpi_split_cut cut, place text, size_t n, size_t i) {
    size_t bytes;
    if (cut == QPI_CUT_SPACE) return text[i] == ' ' && text[i - 1] > ' ' && text[i - 1] < 0x7F;
    if (text[i] == ' ' || (cut == QPI_CUT_GPT2 && text[i] == '\n')) return !qpi_space_at_end(text, i);
    return cut != QPI_CUT_GPT2 && text[i - 1] == '\n' && qpi_class_at(text + i, text + n, &bytes) != QPI_SPACE;
}

size_t qpi_pretokenizer_cut(const qpi_pretokenizer *p, const uint8_t *text, size_t n, size_t from) {
    int i = 0;
    while (i < p->count && p->stages[i].cut == QPI_CUT_PASSES) i++;
    if (i == p->count || p->stages[i].cut == QPI_CUT_NEVER) return n;
    for (size_t at = from ? from : 1; at < n; at++)
        if (cuts_at(p->stages[i].cut, text, n, at)) return at;
    return n;
}

/* ---- Life ------------------------------------------------------------------------------- */

void qpi_split_state_free(qpi_split_state *s) {
    for (int i = 0; i < QPI_MAX_COMPONENTS; i++) {
        qpi_buffer_free(&s->texts[i]);
        qpi_regex_state_free(s->regex[i]);
    }
    *s = (qpi_split_state){0};
}

void qpi_pretokenizer_free(qpi_pretokenizer *p) {
    for (int i = 0; i < p->count; i++) {
        qpi_regex_free(p->stages[i].regex);
        free(p->stages[i].pattern);
    }
    *p = (qpi_pretokenizer){0};
}
