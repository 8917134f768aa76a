/* A template's source cut into tokens. White space around tags is settled here: `-` on either side of a
 * tag, trim_blocks (a line's end behind a block or comment goes) and lstrip_blocks (so do blanks
 * before one that begins its line). Source: Jinja 3.1, whose tokens these are. */
#include <stdio.h>
#include <string.h>

#include "data/template.h"
#include "format/os.h"

typedef struct {
    qpi_template   *t;
    const qpi_code *p;
    size_t          n, at;
    int             line;
    bool            failed, line_starting; /* starting: what was read last ended with a line's end */
    char            open[64];              /* brackets that wait for their match */
    int             open_count;
    qpi_toks       *out;
    qpi_error      *error;
} lexer;

static bool fail(lexer *x, const char *text) {
    return qpi_fail(x->error, QP_ERR_FORMAT, "%s: line %d: %s", x->t->name, x->line, text) == QP_OK;
}

static bool here(const lexer *x, size_t at, const char *text) {
    for (size_t i = 0; text[i]; i++)
        if (at + i >= x->n || x->p[at + i] != (qpi_code)text[i]) return false;
    return true;
}

/* A failure stays, and ends the tag that is read: no caller asks. */
static void emit(lexer *x, qpi_tok_kind kind, size_t begin, size_t end, uint32_t op) {
    qpi_tok *items =
        x->failed ? NULL : qpi_grown(x->out->items, &x->out->capacity, x->out->count + 1, sizeof *items);
    if (!items) {
        if (!x->failed) qpi_fail_memory(x->error, x->t->name);
        x->failed = true;
        return;
    }
    x->out->items = items;
    items[x->out->count++] =
        (qpi_tok){.kind = (uint8_t)kind, .line = x->line, .op = op, .text = {x->p + begin, end - begin}};
}

static void move(lexer *x, size_t to) {
    for (; x->at < to; x->at++)
        if (x->p[x->at] == '\n') x->line++;
    x->line_starting = x->p[to - 1] == '\n';
}

static size_t spaces(const lexer *x, size_t at) {
    while (at < x->n && qpi_code_is_space(x->p[at])) at++;
    return at;
}

/* Text up to a tag at `tag`, whose mark (- or + or 0) and kind say what white space goes. */
static void emit_text(lexer *x, size_t tag, qpi_code mark, bool print) {
    size_t begin = x->at, end = tag;
    if (mark == '-') {
        while (end > begin && qpi_code_is_space(x->p[end - 1])) end--;
    } else if (mark != '+' && !print) {
        size_t line = tag;
        while (line > begin && qpi_code_is_space(x->p[line - 1]) && x->p[line - 1] != '\n') line--;
        bool starts = line > begin ? x->p[line - 1] == '\n' : x->line_starting;
        if (starts) end = line;
    }
    if (end > begin) emit(x, QPI_TOK_TEXT, begin, end, 0);
}

/* The end of a block or comment, whose last two characters are at `at`: what follows that goes too. */
static size_t after_end(const lexer *x, size_t at, qpi_code mark, bool print) {
    at += 2;
    if (mark == '-') return spaces(x, at);
    if (mark != '+' && !print && at < x->n && x->p[at] == '\n') at++;
    return at;
}

static qpi_code mark_at(const lexer *x, size_t at) {
    return at < x->n && (x->p[at] == '-' || x->p[at] == '+') ? x->p[at] : 0;
}

static bool comment(lexer *x, size_t tag) {
    qpi_code mark = mark_at(x, tag + 2);
    emit_text(x, tag, mark, false);
    size_t begin = tag + 2 + (mark != 0), end = begin;
    while (end < x->n && !here(x, end, "#}")) end++;
    if (end >= x->n) return fail(x, "the comment {# has no end");
    mark = end > begin ? mark_at(x, end - 1) : 0;
    move(x, after_end(x, end, mark, false));
    return true;
}

/* Is the block at `tag` {% WORD %}? Then *end is behind it. */
static bool bare_block(const lexer *x, size_t tag, const char *word, bool raw, size_t *end) {
    size_t at = spaces(x, tag + 2 + (mark_at(x, tag + 2) != 0));
    if (!here(x, at, word)) return false;
    at = spaces(x, at + strlen(word));
    qpi_code mark = mark_at(x, at);
    if (mark == '+' && raw) return false;
    if (mark) at++;
    if (!here(x, at, "%}")) return false;
    *end = raw && !mark ? at + 2 : after_end(x, at, mark, false);
    return true;
}

static bool raw(lexer *x, size_t tag, size_t begin) {
    size_t end, stop = 0;
    emit_text(x, tag, mark_at(x, tag + 2), false);
    move(x, begin);
    for (end = begin; end < x->n; end++)
        if (here(x, end, "{%") && bare_block(x, end, "endraw", false, &stop)) break;
    if (end >= x->n) return fail(x, "{% raw %} has no {% endraw %}");
    emit_text(x, end, mark_at(x, end + 2), false);
    move(x, stop);
    return true;
}

/* ---- Within tags --------------------------------------------------------------------------- */

static bool is_digit(qpi_code c) { return c >= '0' && c <= '9'; }
static bool is_letter(qpi_code c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }

static size_t digits(const lexer *x, size_t at) {
    while (at < x->n && (is_digit(x->p[at]) || (x->p[at] == '_' && at + 1 < x->n && is_digit(x->p[at + 1]))))
        at++;
    return at;
}

static bool number(lexer *x) {
    size_t   at = digits(x, x->at), end = at;
    qpi_code before = x->p[x->at - 1];
    bool     real = false;
    if (before != '.') {
        if (at + 1 < x->n && x->p[at] == '.' && is_digit(x->p[at + 1])) end = digits(x, at + 1), real = true;
        if (end < x->n && (x->p[end] == 'e' || x->p[end] == 'E')) {
            size_t exponent = end + 1;
            if (exponent < x->n && (x->p[exponent] == '+' || x->p[exponent] == '-')) exponent++;
            if (exponent < x->n && is_digit(x->p[exponent])) end = digits(x, exponent), real = true;
        }
    }
    if (!real && end == x->at + 1 && x->p[x->at] == '0' && end < x->n && is_letter(x->p[end]))
        return fail(x, "numbers are written in decimal");
    emit(x, real ? QPI_TOK_FLOAT : QPI_TOK_INT, x->at, end, 0);
    move(x, end);
    return true;
}

static bool string(lexer *x) {
    qpi_code quote = x->p[x->at];
    size_t   end = x->at + 1;
    while (end < x->n && x->p[end] != quote) end += x->p[end] == '\\' ? 2 : 1;
    if (end >= x->n) return fail(x, "a string has no end");
    emit(x, QPI_TOK_STRING, x->at, end + 1, 0);
    move(x, end + 1);
    return true;
}

static bool punctuation(lexer *x) {
    static const char *const two[] = {"//", "**", "==", "!=", ">=", "<="};
    qpi_code                 c = x->p[x->at];
    for (size_t i = 0; i < sizeof two / sizeof *two; i++)
        if (here(x, x->at, two[i])) {
            emit(x, QPI_TOK_OP, x->at, x->at + 2, QPI_OP(two[i][0], two[i][1]));
            move(x, x->at + 2);
            return true;
        }
    if (c > 126 || c < 33 || !strchr("+-/*%~[](){}><=.:|,", (int)c)) {
        char text[32];
        snprintf(text, sizeof text, c > 32 && c < 127 ? "unexpected '%c'" : "unexpected character %#x",
                 (int)QPI_CODE(c));
        return fail(x, text);
    }
    const char *pair = c == '(' ? ")" : c == '[' ? "]" : c == '{' ? "}" : NULL;
    if (pair) {
        if (x->open_count == (int)sizeof x->open) return fail(x, "brackets nested too deep");
        x->open[x->open_count++] = *pair;
    } else if (c == ')' || c == ']' || c == '}') {
        if (!x->open_count || x->open[--x->open_count] != (char)c)
            return fail(x, "a closing bracket without its opening one");
    }
    emit(x, QPI_TOK_OP, x->at, x->at + 1, QPI_OP(0, c));
    move(x, x->at + 1);
    return true;
}

static bool token(lexer *x) {
    qpi_code c = x->p[x->at];
    if (is_digit(c)) return number(x);
    if (c == '"' || c == '\'') return string(x);
    if (!is_letter(c)) return punctuation(x);
    size_t end = x->at;
    while (end < x->n && (is_letter(x->p[end]) || is_digit(x->p[end]))) end++;
    emit(x, QPI_TOK_NAME, x->at, end, 0);
    move(x, end);
    return true;
}

static bool tag(lexer *x, size_t at, bool print) {
    qpi_code    mark = mark_at(x, at + 2);
    const char *close = print ? "}}" : "%}";
    emit_text(x, at, mark, print);
    move(x, at + 2 + (mark != 0));
    emit(x, print ? QPI_TOK_PRINT : QPI_TOK_BLOCK, at, at + 2, 0);
    for (x->open_count = 0; !x->failed;) {
        move(x, spaces(x, x->at));
        if (x->at >= x->n) return fail(x, print ? "{{ has no }}" : "{% has no %}");
        mark = mark_at(x, x->at);
        size_t end = x->at + (mark != 0);
        if (!x->open_count && here(x, end, close) && !(print && mark == '+')) {
            emit(x, print ? QPI_TOK_PRINT_END : QPI_TOK_BLOCK_END, x->at, end + 2, 0);
            move(x, after_end(x, end, mark, print));
            return true;
        }
        if (!token(x)) return false;
    }
    return false;
}

bool qpi_template_lex(qpi_template *t, qpi_toks *out, qpi_error *e) {
    lexer x = {.t = t,
               .p = t->source.codes,
               .n = t->source.n,
               .line = 1,
               .line_starting = true,
               .out = out,
               .error = e};
    while (x.at < x.n) {
        size_t at = x.at, end;
        while (at < x.n &&
               !(x.p[at] == '{' && at + 1 < x.n && x.p[at + 1] < 128 && strchr("{%#", (int)x.p[at + 1])))
            at++;
        bool ok = true;
        if (at >= x.n) {
            emit(&x, QPI_TOK_TEXT, x.at, x.n, 0);
            x.at = x.n;
        } else if (x.p[at + 1] == '#') {
            ok = comment(&x, at);
        } else if (x.p[at + 1] == '%' && bare_block(&x, at, "raw", true, &end)) {
            ok = raw(&x, at, end);
        } else {
            ok = tag(&x, at, x.p[at + 1] == '{');
        }
        if (!ok) return false;
    }
    emit(&x, QPI_TOK_END, x.n, x.n, 0);
    return !x.failed;
}
