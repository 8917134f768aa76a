#include <string.h>

#include "format/json.h"
#include "format/json_stream.h"

/* What one takes and the other refuses on purpose: duplicate keys, depth, numbers out of range,
 * NUL in a string. */
static int refused_on_purpose(const qpi_error *e) {
    return strstr(e->text, "duplicate") || strstr(e->text, "nested") || strstr(e->text, "too big") ||
           strstr(e->text, "overflow") || strstr(e->text, "0000") || strstr(e->text, "NUL byte");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    qpi_error  e = {0}, f = {0};
    qpi_buffer out = {0};
    json_t    *tree = qpi_json_parse("input", data, size, &e);
    qpi_stream s = qpi_stream_over("input", data, size, &f);
    int        taken = qpi_stream_skip(&s, NULL) && qpi_stream_end(&s);
    qpi_stream_free(&s);
    if (taken != (tree != NULL) && !refused_on_purpose(&e) && !refused_on_purpose(&f)) __builtin_trap();
    if (tree && qpi_json_print(&out, tree, 2)) {
        json_t *again = qpi_json_parse("printed", out.data, out.count, &e);
        if (!again || !json_equal(tree, again)) __builtin_trap();
        json_decref(again);
    }
    qpi_buffer_free(&out);
    json_decref(tree);
    return 0;
}
