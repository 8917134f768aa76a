/* IDX files of images and labels. */
#include <stdint.h>

#include "cli/idx.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    qpi_error error = {0};
    idx       x;
    int64_t   product = 1, sum = 0;
    if (!idx_read(&x, "fuzz", data, size, &error)) {
        if (!error.code) __builtin_trap();
        return 0;
    }
    for (int i = 0; i < x.axes; i++) product *= x.size[i];
    for (int64_t i = 0; i < x.count; i++) sum += x.data[i];
    if (product != x.count || x.count < 1 || sum < 0) __builtin_trap();
    return 0;
}
