/* config.json: a model is built from it, without elements, or an error is stored. */
#define _GNU_SOURCE
#include "fuzz.h"

#include "quipu/model.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static qp_ctx *ctx;
    static char    path[200];
    if (!ctx) {
        ctx = qp_open((qp_options){.threads = 1, .memory_cap = 64 << 20});
        snprintf(path, sizeof path, "%s/config.json", fuzz_folder());
    }
    fuzz_write(path, data, size);
    qp_scope  s = qp_enter(ctx);
    qp_model *m = qp_model_load(ctx, path, (qp_model_options){.empty = true});
    if (!m != qp_failed(ctx)) __builtin_trap();
    const char *name;
    qp_tensor   t;
    for (int64_t i = 0; m && i < 100 && qp_model_weight(m, i, true, &name, &t); i++);
    qp_leave(s);
    qp_model_close(m);
    qp_clear(ctx);
    return 0;
}
