/* A config.json: the model it describes is built without elements. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "quipu/quipu.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char  path[] = "/tmp/quipu-fuzz-XXXXXX"; /* named, not in memory: the error names it */
    int   fd = mkstemp(path);
    FILE *f = fd >= 0 ? fdopen(fd, "wb") : NULL;
    if (!f || fwrite(data, 1, size, f) != size || fclose(f) != 0) abort();
    qp_ctx   *ctx = qp_open((qp_options){.threads = 1, .memory_cap = 64 << 20});
    qp_model *m = qp_model_load(ctx, path, (qp_model_options){.empty = true});
    if (m) {
        const char *name;
        qp_tensor   t;
        for (int64_t i = 0; i < 100; i++) {
            qp_scope s = qp_enter(ctx);
            bool     more = qp_model_weight(m, i, true, &name, &t);
            qp_leave(s);
            if (!more) break;
        }
        qp_model_close(m);
    } else if (!qp_failed(ctx)) {
        __builtin_trap();
    }
    qp_close(ctx);
    unlink(path);
    return 0;
}
