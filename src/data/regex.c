/* Patterns that come with a file. PCRE2 stops at limits of time and memory, so a hostile
 * pattern costs an error. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>

#include "data/pretokenize.h"
#include "format/os.h"

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
};

static const char *message(int code, char *text, size_t size) {
    pcre2_get_error_message(code, (PCRE2_UCHAR *)text, size);
    return text;
}

struct qpi_regex *qpi_regex_new(const char *pattern, qpi_error *e) {
    int               code;
    PCRE2_SIZE        at;
    char              text[120];
    struct qpi_regex *r = malloc(sizeof *r);
    if (!r) {
        qpi_fail_memory(e, "tokenizer");
        return NULL;
    }
    r->code =
        pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP, &code, &at, NULL);
    if (!r->code) {
        if (code == PCRE2_ERROR_HEAP_FAILED)
            qpi_fail_memory(e, "tokenizer");
        else
            qpi_fail(e, QP_ERR_FORMAT, "bad pattern, offset %zu: %s", (size_t)at,
                     message(code, text, sizeof text));
        free(r);
        return NULL;
    }
    pcre2_jit_compile(r->code, PCRE2_JIT_COMPLETE); /* without it matching is slower */
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
    free(s);
}

int qpi_regex_next(const struct qpi_regex *r, struct qpi_regex_state *s, const uint8_t *text, size_t n,
                   size_t from, size_t *begin, size_t *end, qpi_error *e) {
    char reason[120];
    int  code = pcre2_match(r->code, text, n, from, PCRE2_NO_UTF_CHECK, s->match, s->context);
    if (code == PCRE2_ERROR_NOMATCH) return 0;
    if (code < 0) {
        qp_code kind = code == PCRE2_ERROR_NOMEMORY ? QP_ERR_MEMORY : QP_ERR_UNSUPPORTED;
        qpi_fail(e, kind, "tokenizer: its pattern fails at byte %zu of the text: %s", from,
                 message(code, reason, sizeof reason));
        return -1;
    }
    const PCRE2_SIZE *places = pcre2_get_ovector_pointer(s->match);
    *begin = places[0];
    *end = places[1];
    if (*begin >= from && *begin <= *end && *end <= n) return 1;
    qpi_fail(e, QP_ERR_UNSUPPORTED, "tokenizer: its pattern matches outside the text (\\K is not supported)");
    return -1;
}
