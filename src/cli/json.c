#include "cli/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "format/json.h"
#include "format/utf8.h"

int cli_json_print(json_t *value) {
    qpi_buffer text = {0};
    bool       ok = value && qpi_json_print(&text, value, 0);
    if (ok) {
        fwrite(text.data, 1, text.count, stdout);
        putchar('\n');
    }
    qpi_buffer_free(&text);
    json_decref(value);
    return ok ? 0 : cli_error("out of memory: JSON");
}

json_t *cli_json_number(double x) { return isfinite(x) ? json_real(x) : json_null(); }

json_t *cli_json_logprob(float x) { return isinf(x) ? json_real(-9999) : cli_json_number(x); }

json_t *cli_json_text(const char *text, size_t bytes) {
    char  *copy = malloc(3 * bytes + 1);
    size_t n = 0;
    for (size_t at = 0; copy && at < bytes;) {
        size_t length = text[at] ? qpi_utf8_valid(text + at, bytes - at) : 0; /* readers refuse \u0000 */
        memcpy(copy + n, length ? text + at : "\xEF\xBF\xBD", length ? length : 3);
        n += length ? length : 3;
        at += length ? length : 1;
    }
    json_t *value = copy ? json_stringn_nocheck(copy, n) : NULL;
    free(copy);
    return value;
}

json_t *cli_json_name(const char *name) { return name ? cli_json_text(name, strlen(name)) : json_null(); }

const char *cli_json_text_in(const json_t *object, const char *key) {
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

double cli_json_number_in(const json_t *object, const char *key) {
    const json_t *x = json_object_get(object, key);
    return json_is_number(x) ? json_number_value(x) : NAN;
}
