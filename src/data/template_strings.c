/* What the filters and methods of templates do to texts. */
#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

#include "data/template.h"

static bool in_set(qpi_code c, const qpi_str *set) {
    if (!set) return qpi_code_is_space(c);
    for (size_t i = 0; i < set->n; i++)
        if (QPI_CODE(set->codes[i]) == QPI_CODE(c)) return true;
    return false;
}

qpi_str qpi_t_strip(qpi_str s, const qpi_str *set, bool left, bool right) {
    while (left && s.n && in_set(s.codes[0], set)) s.codes++, s.n--;
    while (right && s.n && in_set(s.codes[s.n - 1], set)) s.n--;
    return s;
}

static bool matches(qpi_str s, size_t at, qpi_str what) {
    for (size_t i = 0; i < what.n; i++)
        if (QPI_CODE(s.codes[at + i]) != QPI_CODE(what.codes[i])) return false;
    return true;
}

size_t qpi_t_search(qpi_trun *r, qpi_str s, qpi_str what, size_t from) {
    for (size_t at = from; at + what.n <= s.n; at++) {
        if (!qpi_t_work(r, 1)) break;
        size_t i = 0;
        while (i < what.n && QPI_CODE(s.codes[at + i]) == QPI_CODE(what.codes[i])) i++;
        if (i == what.n) return at;
        if (i > 16 && !qpi_t_work(r, i / 16)) break;
    }
    return SIZE_MAX;
}

qpi_tval qpi_t_replace(qpi_trun *r, qpi_str s, qpi_str old, qpi_str with, int64_t most) {
    qpi_codes b = {0};
    size_t    done = 0;
    if (!old.n) { /* between all characters */
        for (size_t i = 0; i <= s.n && !r->failed; i++) {
            if (most < 0 || (int64_t)i < most) qpi_t_put(r, &b, with);
            if (i < s.n) qpi_t_put(r, &b, (qpi_str){s.codes + i, 1});
        }
        return qpi_t_finish(r, &b);
    }
    for (int64_t count = 0; (most < 0 || count < most) && !r->failed; count++) {
        size_t at = qpi_t_search(r, s, old, done);
        if (at == SIZE_MAX) break;
        qpi_t_put(r, &b, (qpi_str){s.codes + done, at - done});
        qpi_t_put(r, &b, with);
        done = at + old.n;
    }
    qpi_t_put(r, &b, (qpi_str){s.codes + done, s.n - done});
    return qpi_t_finish(r, &b);
}

/* ---- Letters ----------------------------------------------------------------------------------- */

bool qpi_code_is_alpha(qpi_code c) {
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)QPI_CODE(c));
    return k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO;
}

static bool is_cased(qpi_code c) {
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)QPI_CODE(c));
    return k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LT;
}

typedef enum { LOWER, UPPER, TITLE } letter_case;

/* Letter by letter; Python's few that become several (as the German sharp s) stay one here. */
static qpi_code in_case(qpi_code c, letter_case to) {
    utf8proc_int32_t code = (utf8proc_int32_t)QPI_CODE(c);
    code = to == LOWER ? utf8proc_tolower(code) : to == UPPER ? utf8proc_toupper(code) : utf8proc_totitle(code);
    return (qpi_code)code | (c & QPI_FOREIGN);
}

/* Every letter: `first` for those that begin a word (or the text), `rest` for the others. */
static qpi_tval convert(qpi_trun *r, qpi_str s, letter_case first, letter_case rest, bool words) {
    qpi_code *codes = qpi_t_work(r, s.n) ? qpi_t_take(r, s.n * sizeof *codes) : NULL;
    bool      begins = true;
    for (size_t i = 0; codes && i < s.n; i++) {
        codes[i] = in_case(s.codes[i], begins ? first : rest);
        begins = words && !is_cased(s.codes[i]);
    }
    return qpi_t_string((qpi_str){codes, codes ? s.n : 0});
}

qpi_tval qpi_t_lower(qpi_trun *r, qpi_str s) { return convert(r, s, LOWER, LOWER, false); }
qpi_tval qpi_t_upper(qpi_trun *r, qpi_str s) { return convert(r, s, UPPER, UPPER, false); }
qpi_tval qpi_t_capital(qpi_trun *r, qpi_str s) { return convert(r, s, TITLE, LOWER, false); }
qpi_tval qpi_t_title(qpi_trun *r, qpi_str s) { return convert(r, s, TITLE, LOWER, true); }

static bool opens_word(qpi_code c) {
    c = QPI_CODE(c);
    return qpi_code_is_space(c) || (c < 128 && c && strchr("-({[<", (int)c));
}

/* The filter cuts words at spaces and brackets, the method at all that is no letter. */
qpi_tval qpi_t_title_words(qpi_trun *r, qpi_str s) {
    qpi_tval v = convert(r, s, LOWER, LOWER, false);
    for (size_t i = 0; i < v.str.n; i++)
        if (i == 0 || opens_word(s.codes[i - 1])) ((qpi_code *)v.str.codes)[i] = in_case(s.codes[i], UPPER);
    return v;
}

/* ---- Lines and words ----------------------------------------------------------------------------- */

static bool ends_line(qpi_code c) {
    c = QPI_CODE(c);
    return (c >= 10 && c <= 13) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

qpi_tval qpi_t_lines(qpi_trun *r, qpi_str s, bool keep) {
    qpi_tval list = qpi_t_list(r, QPI_F_LIST, 0);
    for (size_t begin = 0; begin < s.n && !r->failed;) {
        size_t end = begin, next;
        while (end < s.n && !ends_line(s.codes[end])) end++;
        next = end < s.n ? end + 1 : end;
        if (next < s.n && QPI_CODE(s.codes[end]) == '\r' && QPI_CODE(s.codes[next]) == '\n') next++;
        qpi_t_append(r, list, qpi_t_string((qpi_str){s.codes + begin, (keep ? next : end) - begin}));
        begin = next;
    }
    return list;
}

qpi_tval qpi_t_words(qpi_trun *r, qpi_str s, int64_t most) {
    qpi_tval list = qpi_t_list(r, QPI_F_LIST, 0);
    size_t   at = 0;
    while (!r->failed) {
        while (at < s.n && qpi_code_is_space(s.codes[at])) at++;
        if (at == s.n) break;
        size_t end = at;
        if (most >= 0 && (int64_t)list.list->count == most) {
            qpi_str rest = qpi_t_strip((qpi_str){s.codes + at, s.n - at}, NULL, false, true);
            qpi_t_append(r, list, qpi_t_string(rest));
            break;
        }
        while (end < s.n && !qpi_code_is_space(s.codes[end])) end++;
        qpi_t_append(r, list, qpi_t_string((qpi_str){s.codes + at, end - at}));
        at = end;
    }
    return list;
}

qpi_tval qpi_t_split(qpi_trun *r, qpi_str s, qpi_str by, int64_t most) {
    qpi_tval list = qpi_t_list(r, QPI_F_LIST, 0);
    size_t   begin = 0;
    if (!by.n) return qpi_t_fail(r, QP_ERR_ARGUMENT, "split by an empty text");
    while (!r->failed && (most < 0 || (int64_t)list.list->count < most)) {
        size_t at = qpi_t_search(r, s, by, begin);
        if (at == SIZE_MAX) break;
        qpi_t_append(r, list, qpi_t_string((qpi_str){s.codes + begin, at - begin}));
        begin = at + by.n;
    }
    if (!r->failed) qpi_t_append(r, list, qpi_t_string((qpi_str){s.codes + begin, s.n - begin}));
    return list;
}

/* From the right: at most `most` cuts. */
qpi_tval qpi_t_split_right(qpi_trun *r, qpi_str s, qpi_str by, int64_t most) {
    qpi_tval list = qpi_t_list(r, QPI_F_LIST, 0);
    size_t   end = s.n;
    if (!by.n) return qpi_t_fail(r, QP_ERR_ARGUMENT, "split by an empty text");
    for (size_t at = s.n; at >= by.n && most != 0 && qpi_t_work(r, 1);) {
        if (!matches(s, at - by.n, by)) {
            at--;
            continue;
        }
        qpi_t_append(r, list, qpi_t_string((qpi_str){s.codes + at, end - at}));
        end = at -= by.n;
        most--;
    }
    if (r->failed) return list;
    qpi_t_append(r, list, qpi_t_string((qpi_str){s.codes, end}));
    for (size_t i = 0, n = list.list->count; !r->failed && i < n / 2; i++) {
        qpi_tval v = list.list->items[i];
        list.list->items[i] = list.list->items[n - 1 - i];
        list.list->items[n - 1 - i] = v;
    }
    return list;
}

/* ---- Escapes ---------------------------------------------------------------------------------------- */

qpi_tval qpi_t_escape(qpi_trun *r, qpi_tval v) {
    static const struct {
        char        c;
        const char *as;
    } marks[] = {{'&', "&amp;"}, {'<', "&lt;"}, {'>', "&gt;"}, {'\'', "&#39;"}, {'"', "&#34;"}};
    qpi_str   s = qpi_t_str(r, v);
    qpi_codes b = {0};
    if (v.kind == QPI_T_STRING && v.flavour == QPI_F_SAFE) return v;
    for (size_t i = 0; i < s.n && !r->failed; i++) {
        size_t k = 0;
        while (k < 5 && QPI_CODE(s.codes[i]) != (qpi_code)marks[k].c) k++;
        if (k < 5) qpi_t_put_ascii(r, &b, marks[k].as);
        else qpi_t_put(r, &b, (qpi_str){s.codes + i, 1});
    }
    v = qpi_t_finish(r, &b);
    v.flavour = QPI_F_SAFE;
    return v;
}

/* ---- "%s" ----------------------------------------------------------------------------------------- */

qpi_tval qpi_t_format(qpi_trun *r, qpi_str pattern, const qpi_tval *items, size_t n) {
    qpi_codes b = {0};
    size_t    next = 0;
    for (size_t i = 0; i < pattern.n && !r->failed; i++) {
        if (QPI_CODE(pattern.codes[i]) != '%') {
            qpi_t_put(r, &b, (qpi_str){pattern.codes + i, 1});
            continue;
        }
        qpi_code c = ++i < pattern.n ? QPI_CODE(pattern.codes[i]) : 0;
        if (c == '%') qpi_t_put_ascii(r, &b, "%");
        else if (c != 's' && c != 'd' && c != 'i' && c != 'r')
            qpi_t_fail(r, QP_ERR_UNSUPPORTED, "a format other than %%s, %%d and %%r");
        else if (next == n) qpi_t_fail(r, QP_ERR_ARGUMENT, "a format with more places than values");
        else if (c == 's') qpi_t_print(r, &b, items[next++]);
        else if (c == 'r') qpi_t_repr(r, &b, items[next++]);
        else if (qpi_t_is_number(items[next]) && items[next].kind != QPI_T_FLOAT)
            qpi_t_repr(r, &b, qpi_t_int(items[next].kind == QPI_T_INT ? items[next].i : items[next].b)), next++;
        else qpi_t_fail(r, QP_ERR_ARGUMENT, "%%d of %s", qpi_t_kind(items[next]));
    }
    if (next < n && !r->failed) qpi_t_fail(r, QP_ERR_ARGUMENT, "a format with fewer places than values");
    return qpi_t_finish(r, &b);
}
