/* Orders that are computed instead of stored. */
#ifndef QUIPU_DATA_PERMUTE_H
#define QUIPU_DATA_PERMUTE_H

#include <stdint.h>

/* Where the permutation of 0..n-1 that belongs to (seed, epoch) puts i. */
uint64_t qpi_permute(uint64_t n, uint64_t seed, uint64_t epoch, uint64_t i);

/* A number below n (n > 0) that belongs to (seed, epoch). */
uint64_t qpi_draw(uint64_t n, uint64_t seed, uint64_t epoch);

#endif
