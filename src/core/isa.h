/* Files in src/kernels and src/ops are compiled once per instruction set, with QP_ISA set
 * to base, avx2 or avx512. QK(name) is this copy's own name for a shared function.
 *
 * An op's file has two parts: loops (every copy), then, under `#if QP_BODY`, the op itself
 * (the base copy only):
 *
 *     static void run(const qp_call *c) { ... }
 *     QP_KERNEL(softmax) = { run, QP_ROWS };
 *     #if QP_BODY
 *     ...
 *     QP_OP(softmax) = { .name = "softmax", ... };
 *     #endif
 *
 * The build finds the lines that begin with QP_OP( and QP_KERNEL( and makes the registry.
 */
#ifndef QUIPU_CORE_ISA_H
#define QUIPU_CORE_ISA_H

#include <stdbool.h>

/* Instructions beyond those of the instruction sets: some processors with AVX-512 have them. */
bool qpi_cpu_bf16(void);
bool qpi_cpu_vnni(void);
void qpi_cpu_without_extras(void); /* for tests: from now on as if the processor had none of them */

#ifndef QP_ISA
#define QP_ISA base
#endif
/* The copy of the matrix product for BF16 instructions (kernels/gemm_parts.h). */
#ifndef QP_PAIRS
#define QP_PAIRS 0
#endif
#ifndef QP_BODY
#define QP_BODY 0
#endif

#define QP_CAT_(a, b) a##_##b
#define QP_CAT(a, b) QP_CAT_(a, b)
#define QK(name) QP_CAT(name, QP_ISA)

#define QP_KERNEL(op) \
    extern const qp_kernel QK(qp_kernel_##op); \
    const qp_kernel QK(qp_kernel_##op)
#define QP_OP(op) \
    extern const qp_op qp_op_##op; \
    const qp_op        qp_op_##op

#endif
