/* Patterns that come with a file. PCRE2 stops at limits of time and memory, so a hostile
 * pattern costs an error. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>

#include "data/regex.h"
#include "format/os.h"
#include "format/utf8.h"

#define MATCH_LIMIT 1000000 /* steps of one match */
#define HEAP_LIMIT 65536    /* KiB of backtracking */
#define JIT_STACK ((size_t)1 << 20)

struct qpi_regex {
    pcre2_code *code;
};

struct qpi_regex_state {
    pcre2_match_data    *match;
    pcre2_match_context *context;
    pcre2_jit_stack     *stack; /* NULL: no compiled form here */
    qpi_buffer           valid; /* a text made UTF-8 */
};

static const char *message(int code, char *text, size_t size) {
    pcre2_get_error_message(code, (PCRE2_UCHAR *)text, size);
    return text;
}

static struct qpi_regex *compile(const char *pattern, uint32_t options, qpi_error *e) {
    int               code;
    PCRE2_SIZE        at;
    char              text[120];
    struct qpi_regex *r = malloc(sizeof *r);
    if (!r) {
        qpi_fail_memory(e, "tokenizer");
        return NULL;
    }
    r->code = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF | options, &code, &at, NULL);
    if (r->code) {
        pcre2_jit_compile(r->code, PCRE2_JIT_COMPLETE); /* without it matching is slower */
        return r;
    }
    if (code == PCRE2_ERROR_HEAP_FAILED) qpi_fail_memory(e, "tokenizer");
    else
        qpi_fail(e, QP_ERR_FORMAT, "bad pattern, offset %zu: %s", (size_t)at, message(code, text, sizeof text));
    free(r);
    return NULL;
}

struct qpi_regex *qpi_regex_new(const char *pattern, bool literal, qpi_error *e) {
    qpi_buffer        text = {0};
    struct qpi_regex *r = NULL;
    if (literal) return compile(pattern, PCRE2_LITERAL, e);
    if (qpi_regex_translate(pattern, &text, e)) r = compile(text.data, PCRE2_UCP | PCRE2_MULTILINE, e);
    qpi_buffer_free(&text);
    return r;
}

void qpi_regex_free(struct qpi_regex *r) {
    if (!r) return;
    pcre2_code_free(r->code);
    free(r);
}

struct qpi_regex_state *qpi_regex_state_new(const struct qpi_regex *r, qpi_error *e) {
    struct qpi_regex_state *s = calloc(1, sizeof *s);
    if (s) {
        s->match = pcre2_match_data_create_from_pattern(r->code, NULL);
        s->context = pcre2_match_context_create(NULL);
        s->stack = pcre2_jit_stack_create(32 << 10, JIT_STACK, NULL);
    }
    if (!s || !s->match || !s->context) {
        qpi_regex_state_free(s);
        qpi_fail_memory(e, "tokenizer");
        return NULL;
    }
    pcre2_set_match_limit(s->context, MATCH_LIMIT);
    pcre2_set_heap_limit(s->context, HEAP_LIMIT);
    pcre2_jit_stack_assign(s->context, NULL, s->stack);
    return s;
}

void qpi_regex_state_free(struct qpi_regex_state *s) {
    if (!s) return;
    pcre2_match_data_free(s->match);
    pcre2_match_context_free(s->context);
    pcre2_jit_stack_free(s->stack);
    qpi_buffer_free(&s->valid);
    free(s);
}

/* The text, with a symbol of one byte in place of each byte that is not UTF-8. NULL without
 * memory. */
static const uint8_t *as_valid(qpi_buffer *b, const uint8_t *text, size_t n) {
    b->count = 0;
    for (size_t at = 0, step; at < n; at += step) {
        step = qpi_utf8_valid(text + at, n - at);
        if (step) continue;
        if (!b->count && !qpi_buffer_put(b, text, n)) return NULL;
        b->data[at] = '~';
        step = 1;
    }
    return b->count ? (const uint8_t *)b->data : text;
}

static int match_at(qpi_finder *f, size_t *begin, size_t *end) {
    char reason[120];
    int  code = pcre2_match(f->regex->code, f->text, f->n, f->at, PCRE2_NO_UTF_CHECK, f->state->match,
                            f->state->context);
    if (code == PCRE2_ERROR_NOMATCH) return 0;
    if (code < 0) {
        qp_code kind = code == PCRE2_ERROR_NOMEMORY ? QP_ERR_MEMORY : QP_ERR_UNSUPPORTED;
        qpi_fail(f->error, kind, "tokenizer: its pattern fails at byte %zu of the text: %s", f->at,
                 message(code, reason, sizeof reason));
        return -1;
    }
    const PCRE2_SIZE *places = pcre2_get_ovector_pointer(f->state->match);
    *begin = places[0];
    *end = places[1];
    if (*begin >= f->at && *begin <= *end) return 1;
    qpi_fail(f->error, QP_ERR_UNSUPPORTED,
             "tokenizer: its pattern matches outside the text (\\K is not supported)");
    return -1;
}

bool qpi_find_in(qpi_finder *f, const struct qpi_regex *r, struct qpi_regex_state **s, const uint8_t *text,
                 size_t n, qpi_error *e) {
    if (!*s && !(*s = qpi_regex_state_new(r, e))) return false;
    *f = (qpi_finder){.regex = r, .state = *s, .n = n, .error = e};
    f->text = as_valid(&(*s)->valid, text, n);
    if (f->text) return true;
    return qpi_fail_memory(e, "tokenizer") == QP_OK;
}

int qpi_find_next(qpi_finder *f, size_t *begin, size_t *end) {
    while (f->at <= f->n) {
        int found = match_at(f, begin, end);
        if (found <= 0) return found;
        bool again = *begin == *end && f->matched && *end == f->last;
        f->at = *end;
        if (*begin == *end) {
            size_t step = qpi_utf8_valid(f->text + *end, f->n - *end);
            f->at += step ? step : 1;
        }
        if (again) continue;
        f->last = *end;
        f->matched = true;
        return 1;
    }
    return 0;
}
