#include <stdlib.h>
#include <string.h>

#include "data/tokenizer.h"

#define COUNT 5
static const char *const names[COUNT] = {"gpt2", "llama3", "digits", "regex", "whole"};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static qp_ctx       *ctx;
    static qp_tokenizer *tokenizers[COUNT];
    if (!ctx) ctx = qp_open((qp_options){.threads = 1});
    for (int i = 0; i < COUNT; i++) {
        char    path[100] = "tests/golden/tokenizers/";
        qp_ids  ids = {0};
        qp_text out = {0};
        if (!tokenizers[i]) tokenizers[i] = qp_tokenizer_load(ctx, strcat(strcat(path, names[i]), ".json"));
        if (!tokenizers[i]) abort(); /* run it from the root of the repository */
        if (qp_encode(ctx, tokenizers[i], (const char *)data, size, (qp_encode_options){0}, &ids) ||
            qp_decode(ctx, tokenizers[i], ids.data, ids.count, false, &out) || out.count != size ||
            (size && memcmp(out.data, data, size) != 0))
            __builtin_trap();
        qp_ids_free(&ids);
        qp_text_free(&out);
    }
    return 0;
}
