/* XXH64 (Collet's specification, seed 0 for files): guards against damage and mix-ups, not
 * against forgery. `xxh64sum FILE` prints the same. */
#ifndef QUIPU_FORMAT_CHECKSUM_H
#define QUIPU_FORMAT_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
    uint64_t lanes[4], seed, total;
    uint8_t  tail[32];
} qpi_checksum;

void qpi_checksum_begin(qpi_checksum *c, uint64_t seed);
void qpi_checksum_add(qpi_checksum *c, const void *data, size_t n);
uint64_t qpi_checksum_end(const qpi_checksum *c);
uint64_t qpi_checksum_of(uint64_t seed, const void *data, size_t n);

#endif
