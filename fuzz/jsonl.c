#include "data/documents.h"

static bool touch(void *arg, const qpi_document *documents, size_t n) {
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < documents[i].size; k++) *(unsigned *)arg += documents[i].text[k];
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    qpi_error e = {0};
    unsigned  sum = 0;
    if (!qpi_documents_parse("input", data, size, size & 1 ? "text" : "content", touch, &sum, &e) !=
        (e.code != QP_OK))
        __builtin_trap();
    return 0;
}
