#include <string.h>

#include "format/json.h"
#include "format/json_stream.h"

/* What trees refuse on purpose, and streams or jansson take. */
static int refused_on_purpose(const qpi_error *e) {
    return strstr(e->text, "duplicate key") || strstr(e->text, "too big") || strstr(e->text, "u0000 in it");
}

/* The stream, the tree that is built with it, and jansson, which recurses and ends numbers at a zero. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    qpi_error  e = {0}, f = {0};
    qpi_buffer out = {0};
    json_t    *tree = qpi_json_parse("input", data, size, &e), *other = NULL;
    qpi_stream s = qpi_stream_over("input", data, size, &f);
    int        taken = qpi_stream_skip(&s, NULL) && qpi_stream_end(&s);
    qpi_stream_free(&s);
    if (taken != (tree != NULL) && !refused_on_purpose(&e)) __builtin_trap();
    if (!strstr(e.text, "nested") && !memchr(data, 0, size)) {
        json_error_t why = {0};
        other = json_loadb((const char *)data, size, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &why);
        int beyond = json_error_code(&why) == json_error_numeric_overflow; /* 64 bits: a number for trees */
        if (!beyond && ((tree != NULL) != (other != NULL) || (tree && !json_equal(tree, other))))
            __builtin_trap();
    }
    if (tree && qpi_json_print(&out, tree, 2)) {
        json_t *again = qpi_json_parse("printed", out.data, out.count, &e);
        if (!again || !json_equal(tree, again)) __builtin_trap();
        json_decref(again);
    }
    qpi_buffer_free(&out);
    json_decref(tree);
    json_decref(other);
    return 0;
}
