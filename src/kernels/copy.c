#include "kernels/copy.h"

#include <string.h>

#include "core/core.h"

#define GRAIN_BYTES 65536 /* of one piece of work */
#define TILE 16           /* elements on a side: whole cache lines both ways for 4-byte types */

/* Both views with merged axes, rows along the last one. A transposition exchanges the last
 * axis with `across`, along which src is contiguous. */
typedef struct {
    qp_view dst, src;
    size_t  bytes;
    int     across;
    int64_t cut, cuts;        /* a row is cut into pieces of `cut` elements, or .. */
    int64_t tiles_a, tiles_b; /* .. tiles of TILE across by TILE along */
} job;

/* Offsets of the index-th combination of the axes before `last` other than `skip`. */
static void offsets(const job *j, int64_t index, int skip, int64_t *dst, int64_t *src) {
    *dst = *src = 0;
    for (int i = j->dst.ndim - 2; i >= 0; i--) {
        if (i == skip) continue;
        int64_t at = index % j->dst.shape[i];
        index /= j->dst.shape[i];
        *dst += at * j->dst.stride[i];
        *src += at * j->src.stride[i];
    }
}

static void copy_row(size_t bytes, char *dst, int64_t sd, const char *src, int64_t ss, int64_t n) {
    if (sd == 1 && ss == 1) {
        memcpy(dst, src, (size_t)n * bytes);
        return;
    }
    switch (bytes) {
#define CASE(size, type) \
    case size: \
        for (int64_t i = 0; i < n; i++) ((type *)dst)[i * sd] = ((const type *)src)[i * ss]; \
        break;
        CASE(1, uint8_t)
        CASE(2, uint16_t)
        CASE(4, uint32_t)
        CASE(8, uint64_t)
#undef CASE
    default: /* blocks */
        for (int64_t i = 0; i < n; i++)
            memcpy(dst + i * sd * (int64_t)bytes, src + i * ss * (int64_t)bytes, bytes);
    }
}

static void copy_rows(void *arg, int64_t begin, int64_t end, int worker) {
    const job *j = arg;
    int        last = j->dst.ndim - 1;
    int64_t    n = j->dst.shape[last], sd = j->dst.stride[last], ss = j->src.stride[last];
    int64_t    bytes = (int64_t)j->bytes, dst = 0, src = 0, row = -1;
    (void)worker;
    for (int64_t piece = begin; piece < end; piece++) {
        int64_t start = piece % j->cuts * j->cut, m = n - start < j->cut ? n - start : j->cut;
        if (piece / j->cuts != row) {
            row = piece / j->cuts;
            offsets(j, row, -1, &dst, &src);
        }
        copy_row(j->bytes, (char *)j->dst.data + (dst + start * sd) * bytes, sd,
                 (const char *)j->src.data + (src + start * ss) * bytes, ss, m);
    }
}

/* 4 by 4 elements of 4 bytes: dst row i = src column i; strides in elements. */
typedef uint32_t quad __attribute__((vector_size(16)));
static inline void transpose_4x4(uint32_t *dst, int64_t sd, const uint32_t *src, int64_t ss) {
    quad r0, r1, r2, r3;
    memcpy(&r0, src, 16);
    memcpy(&r1, src + ss, 16);
    memcpy(&r2, src + 2 * ss, 16);
    memcpy(&r3, src + 3 * ss, 16);
    quad a = __builtin_shufflevector(r0, r1, 0, 4, 1, 5), b = __builtin_shufflevector(r2, r3, 0, 4, 1, 5);
    quad c = __builtin_shufflevector(r0, r1, 2, 6, 3, 7), d = __builtin_shufflevector(r2, r3, 2, 6, 3, 7);
    r0 = __builtin_shufflevector(a, b, 0, 1, 4, 5);
    r1 = __builtin_shufflevector(a, b, 2, 3, 6, 7);
    r2 = __builtin_shufflevector(c, d, 0, 1, 4, 5);
    r3 = __builtin_shufflevector(c, d, 2, 3, 6, 7);
    memcpy(dst, &r0, 16);
    memcpy(dst + sd, &r1, 16);
    memcpy(dst + 2 * sd, &r2, 16);
    memcpy(dst + 3 * sd, &r3, 16);
}

/* rows x columns of dst, whose rows are contiguous, from src, whose columns are. */
static void copy_tile(size_t bytes, char *dst, int64_t sd, const char *src, int64_t ss, int64_t rows,
                      int64_t columns) {
    if (bytes == 4 && rows == TILE && columns == TILE) {
        for (int64_t a = 0; a < TILE; a += 4)
            for (int64_t b = 0; b < TILE; b += 4)
                transpose_4x4((uint32_t *)dst + a * sd + b, sd, (const uint32_t *)src + b * ss + a, ss);
        return;
    }
    for (int64_t a = 0; a < rows; a++)
        copy_row(bytes, dst + a * sd * (int64_t)bytes, 1, src + a * (int64_t)bytes, ss, columns);
}

static void copy_tiles(void *arg, int64_t begin, int64_t end, int worker) {
    const job *j = arg;
    int        last = j->dst.ndim - 1;
    int64_t    bytes = (int64_t)j->bytes, per_outer = j->tiles_a * j->tiles_b;
    int64_t    sd = j->dst.stride[j->across], ss = j->src.stride[last];
    (void)worker;
    for (int64_t tile = begin; tile < end; tile++) {
        int64_t dst, src, a = tile % per_outer / j->tiles_b * TILE, b = tile % j->tiles_b * TILE;
        int64_t rows = j->dst.shape[j->across] - a, columns = j->dst.shape[last] - b;
        offsets(j, tile / per_outer, j->across, &dst, &src);
        copy_tile(j->bytes, (char *)j->dst.data + (dst + a * sd + b) * bytes, sd,
                  (const char *)j->src.data + (src + b * ss + a) * bytes, ss, rows < TILE ? rows : TILE,
                  columns < TILE ? columns : TILE);
    }
}

/* Counts blocks instead of elements. */
static void count_blocks(qp_view *v) {
    int block = qp_dtype_block(v->dtype), last = v->ndim - 1;
    if (block == 1) return;
    v->shape[last] /= block;
    for (int i = 0; i < last; i++) v->stride[i] /= block;
}

void qk_copy(const qp_exec *exec, qp_view dst, qp_view src) {
    count_blocks(&dst);
    count_blocks(&src);
    int64_t count = qp_view_count(&dst);
    if (count == 0) return;
    qp_view *both[2] = {&dst, &src};
    qpi_views_merge(both, 2);
    job     j = {.dst = dst, .src = src, .bytes = qp_dtype_bytes(dst.dtype), .across = -1};
    int     last = dst.ndim - 1;
    int64_t grain = GRAIN_BYTES / (int64_t)j.bytes;
    for (int i = 0; i < last; i++)
        if (src.stride[i] == 1 && src.stride[last] != 1 && dst.stride[last] == 1) j.across = i;
    if (j.across >= 0) {
        j.tiles_a = (dst.shape[j.across] + TILE - 1) / TILE;
        j.tiles_b = (dst.shape[last] + TILE - 1) / TILE;
        int64_t outer = count / dst.shape[j.across] / dst.shape[last];
        qp_parallel(exec, outer * j.tiles_a * j.tiles_b, grain / (TILE * TILE), copy_tiles, &j);
        return;
    }
    j.cut = grain;
    j.cuts = (dst.shape[last] + j.cut - 1) / j.cut;
    qp_parallel(exec, count / dst.shape[last] * j.cuts,
                j.cuts > 1 ? 1 : (grain + dst.shape[last] - 1) / dst.shape[last], copy_rows, &j);
}
