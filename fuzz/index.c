/* NAME.safetensors.index.json beside the shards of a golden model. */
#define _GNU_SOURCE
#include "fuzz.h"

#include "quipu/format.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static qp_ctx     *ctx;
    static const char *folder;
    char               path[200];
    if (!ctx) {
        ctx = qp_open((qp_options){.threads = 1});
        folder = fuzz_folder();
        for (int i = 1; i <= 3; i++) {
            char shard[40], target[400];
            snprintf(shard, sizeof shard, "model-%05d-of-00003.safetensors", i);
            snprintf(path, sizeof path, "%s/%s", folder, shard);
            snprintf(target, sizeof target, "%s/tests/golden/models/llama-sharded/%s", fuzz_root(), shard);
            if (symlink(target, path) != 0) abort();
        }
    }
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", folder);
    fuzz_write(path, data, size);
    qp_file *f = qp_file_open(ctx, path, (qp_file_options){0});
    if (!f != qp_failed(ctx)) __builtin_trap();
    for (int64_t i = 0; i < qp_file_count(f); i++) {
        qp_scope s = qp_enter(ctx);
        qp_file_load(ctx, f, qp_file_at(f, i).name, false);
        qp_leave(s);
    }
    qp_file_close(f);
    qp_clear(ctx);
    return 0;
}
