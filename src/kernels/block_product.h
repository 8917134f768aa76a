/* Products of rows with weights of block types, as they lie in files.
 *
 *   C[i,j] = end( sum_p A[i,p] W[j,p] ),  end as in gemm.h
 *
 * Rows of A are rounded to 8 bits, 16 values to a scale: a = s q with |q| <= 127. 32 values of W
 * are w = d (u - zero) + low, u whole and below 256; d and low stand for 16 or for all 32 of them. One order of
 * summation for every number of rows, of threads and every instruction set:
 *
 *   total = d (the two s sum q (u - zero)) + total,  total = low (s sum q) + total,  for each 32 in order;
 *
 * sums of whole numbers are exact. So a token decoded alone equals the same token in a prompt or
 * among other requests, and prompts have no second path: none would be faster. */
#ifndef QUIPU_KERNELS_BLOCK_PRODUCT_H
#define QUIPU_KERNELS_BLOCK_PRODUCT_H

#include "kernels/gemm_parts.h"

/* W's rows are the columns of B, contiguous along p; k is whole blocks. Several, all of one A: m at most FEW_BLOCK_ROWS,
 * n at least MAX_LANES. */
void QK(block_product)(const qp_exec *exec, const gemm_item *items, int count);

#define FEW_BLOCK_ROWS 8 /* rows for which memory takes longer than the product: one panel at a time */

/* Bytes of exec->scratch with `threads` workers; the same for every instruction set. */
size_t block_product_scratch(int64_t m, int64_t k, int threads);

#endif
