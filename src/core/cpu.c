#include <string.h>

#include "core/core.h"
#include "core/isa.h"

qp_isa qpi_cpu_isa(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (avx2 && avx512) return QP_ISA_AVX512;
    if (avx2) return QP_ISA_AVX2;
#endif
    return QP_ISA_BASE;
}

static bool without_extras;

void qpi_cpu_without_extras(void) { without_extras = true; }

#if defined(__x86_64__)
bool qpi_cpu_bf16(void) { return !without_extras && __builtin_cpu_supports("avx512bf16"); }
bool qpi_cpu_vnni(void) { return !without_extras && __builtin_cpu_supports("avx512vnni"); }
#else
bool qpi_cpu_bf16(void) { return false; }
bool qpi_cpu_vnni(void) { return false; }
#endif

static const qpi_op_entry *entry_of(const qp_op *op) {
    for (int i = 0; i < qpi_op_count; i++)
        if (qpi_ops[i].op == op) return &qpi_ops[i];
    return NULL;
}

bool qpi_registered(const qp_op *op) { return entry_of(op) != NULL; }

const qp_kernel *qpi_kernel_for(const qp_op *op, qp_isa isa) {
    const qpi_op_entry *e = entry_of(op);
    if (e) return e->kernels[isa];
    return op->kernel.run ? &op->kernel : NULL;
}

const qp_op *qp_op_at(int index) { return index >= 0 && index < qpi_op_count ? qpi_ops[index].op : NULL; }

const qp_op *qp_op_find(const char *name) {
    for (int i = 0; i < qpi_op_count; i++)
        if (!strcmp(qpi_ops[i].op->name, name)) return qpi_ops[i].op;
    return NULL;
}
