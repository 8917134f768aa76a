#include <string.h>

#include "core/core.h"

static void *cpu_alloc(qp_ctx *ctx, size_t bytes) { return qpi_alloc(ctx, bytes); }
static void cpu_copy(qp_ctx *ctx, void *dst, const void *src, size_t bytes) {
    (void)ctx;
    memcpy(dst, src, bytes);
}
static void cpu_zero(qp_ctx *ctx, void *dst, size_t bytes) {
    (void)ctx;
    memset(dst, 0, bytes);
}
static const qp_kernel *cpu_kernel(qp_ctx *ctx, const qp_op *op) {
    qpi_known_kernel *known = &ctx->kernels[(uintptr_t)op / 32 % QPI_KNOWN_KERNELS];
    if (known->op == op) return known->kernel;
    const qp_kernel *kernel = qpi_kernel_for(op, ctx->options.isa);
    if (qpi_registered(op)) *known = (qpi_known_kernel){op, kernel}; /* a host program's may change */
    return kernel;
}

const qp_device qpi_cpu = {"cpu", true, cpu_alloc, qpi_free, cpu_copy, cpu_copy, cpu_zero, cpu_kernel};

/* On the CPU elements stand behind what is said of them. */
qpi_storage *qpi_storage_new(qp_ctx *ctx, const qp_device *device, size_t bytes) {
    bool         beside = device == &qpi_cpu && bytes < SIZE_MAX - sizeof(qpi_storage);
    qpi_storage *s = qpi_alloc(ctx, sizeof *s + (beside ? bytes : 0));
    if (!s) return NULL;
    *s = (qpi_storage){.count = 1, .device = device, .bytes = bytes, .owned = !beside, .data = s + 1};
    if (beside) return s;
    s->data = device->alloc(ctx, bytes);
    if (!s->data) {
        qpi_free(ctx, s);
        return NULL;
    }
    return s;
}

qpi_storage *qpi_storage_map(qp_ctx *ctx, size_t bytes) {
    qpi_storage *s = qpi_alloc(ctx, sizeof *s);
    if (!s) return NULL;
    *s = (qpi_storage){
        .count = 1, .device = &qpi_cpu, .bytes = bytes, .mapped = true, .data = qpi_map(ctx, bytes)};
    if (s->data) return s;
    qpi_free(ctx, s);
    return NULL;
}

qpi_storage *qpi_storage_attach(qp_ctx *ctx, void *data, size_t bytes, bool read_only, void (*release)(void *),
                                void *user) {
    qpi_storage *s = qpi_alloc(ctx, sizeof *s);
    if (!s) return NULL;
    *s = (qpi_storage){.count = 1,
                       .device = &qpi_cpu,
                       .data = data,
                       .bytes = bytes,
                       .read_only = read_only,
                       .release = release,
                       .user = user};
    return s;
}

void qpi_storage_release(qp_ctx *ctx, qpi_storage *s) {
    if (!s || --s->count) return;
    if (s->owned) s->device->free(ctx, s->data);
    else if (s->mapped) qpi_unmap(ctx, s->data, s->bytes);
    else if (s->release) s->release(s->user);
    qpi_free(ctx, s);
}

qpi_value qpi_value_new(qp_ctx *ctx, const qp_device *device, const qp_view *shape) {
    qpi_value v = {.view = *shape};
    int64_t   n = 1;
    for (int i = shape->ndim - 1; i >= 0; i--) {
        v.view.stride[i] = n;
        n *= shape->shape[i];
    }
    v.storage = qpi_storage_new(ctx, device, qp_dtype_size(shape->dtype, n));
    v.view.data = v.storage ? v.storage->data : NULL;
    return v;
}

void qpi_value_release(qp_ctx *ctx, qpi_value *v) {
    qpi_storage_release(ctx, v->storage);
    *v = (qpi_value){0};
}
