#include "data/component.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/os.h"
#include "format/utf8.h"

bool qpi_unsupported(const qpi_json *at, const char *what) {
    char shown[QPI_SHOWN];
    qpi_json_fail(at, QP_ERR_UNSUPPORTED, "%s is not supported", qpi_shown(shown, what, strlen(what)));
    return false;
}

bool qpi_json_copy(const qpi_json *at, const char *key, char **text, size_t *n) {
    const char *value;
    if (!qpi_json_string(at, key, QPI_REQUIRED, &value)) return false;
    *n = strlen(value);
    free(*text);
    *text = malloc(*n + 1);
    if (!*text) return qpi_fail_memory(at->error, "tokenizer") == QP_OK;
    memcpy(*text, value, *n + 1);
    return true;
}

bool qpi_json_character(const qpi_json *at, const char *key, uint32_t *code) {
    const char *text;
    if (!qpi_json_string(at, key, QPI_REQUIRED, &text)) return false;
    size_t n = strlen(text);
    if (n && qpi_utf8_decode(text, n, code) == n) return true;
    qpi_json member = qpi_json_member(at, key);
    qpi_json_fail(&member, QP_ERR_FORMAT, "expected one character");
    return false;
}

bool qpi_json_pattern(const qpi_json *at, char **text, size_t *n, bool *literal) {
    qpi_json pattern;
    if (!qpi_json_object(at, "pattern", QPI_REQUIRED, &pattern)) return false;
    *literal = !json_object_get(pattern.value, "Regex");
    return qpi_json_copy(&pattern, *literal ? "String" : "Regex", text, n);
}

struct qpi_regex *qpi_json_compile(const qpi_json *at, const char *text, bool literal) {
    qpi_error         e = {0};
    struct qpi_regex *regex = qpi_regex_new(text, literal, &e);
    if (!regex) qpi_json_fail(at, e.code, "pattern: %s", e.text);
    return regex;
}

bool qpi_json_each(const qpi_json *at, const char *key, void *to, bool (*read)(void *to, const qpi_json *at)) {
    qpi_json list;
    if (!qpi_json_array(at, key, QPI_REQUIRED, &list)) return false;
    for (size_t i = 0; i < json_array_size(list.value); i++) {
        qpi_json item = qpi_json_item(&list, i);
        if (!read(to, &item)) return false;
    }
    return true;
}

static double power_of_ten(int n) {
    char text[8] = "1e";
    snprintf(text + 2, sizeof text - 2, "%d", n);
    return strtod(text, NULL);
}

static bool is_digit(const char *p, const char *end) { return p < end && *p >= '0' && *p <= '9'; }

/* Takes digits until the next would not fit; returns where it stopped. */
static const char *digits(const char *p, const char *end, uint64_t *value, int64_t *count) {
    for (; is_digit(p, end); p++, ++*count) {
        uint64_t digit = (uint64_t)(*p - '0');
        if (*value > (UINT64_MAX - digit) / 10) break;
        *value = *value * 10 + digit;
    }
    return p;
}

static double scaled(uint64_t value, int64_t exponent) {
    double x = (double)value;
    for (; exponent < -308 && x != 0; exponent += 308) x /= 1e308;
    if (x == 0 || exponent > 308) return x == 0 ? 0 : INFINITY;
    return exponent < 0 ? x / power_of_ten((int)-exponent) : x * power_of_ten((int)exponent);
}

double qpi_decimal(const char *text, size_t n) {
    const char *p = text, *end = text + n;
    bool        negative = *p == '-';
    uint64_t    value = 0;
    int64_t     exponent = 0, places = 0;
    p = digits(p + negative, end, &value, &places);
    for (; is_digit(p, end); p++) exponent++;
    if (p < end && *p == '.') {
        places = 0;
        p = digits(p + 1, end, &value, &places);
        exponent -= places;
        while (is_digit(p, end)) p++;
    }
    if (p < end) { /* e, perhaps a sign, and digits */
        bool     down = *++p == '-';
        uint64_t power = 0;
        digits(p + (down || *p == '+'), end, &power, &places);
        if (power > INT32_MAX) power = INT32_MAX;
        exponent += down ? -(int64_t)power : (int64_t)power;
    }
    double x = scaled(value, exponent);
    return negative ? -x : x;
}
