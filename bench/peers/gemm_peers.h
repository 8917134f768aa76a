/* The matrix product of other libraries, opened at run time: OpenBLAS, BLIS, oneDNN. */
#ifndef QUIPU_BENCH_GEMM_PEERS_H
#define QUIPU_BENCH_GEMM_PEERS_H

#include <stdbool.h>
#include <stdint.h>

/* C [m, n] (+)= op(A) op(B), row-major and dense: A is stored [k, m] if ta, B [n, k] if tb. */
typedef struct {
    int64_t     m, n, k;
    bool        ta, tb, accumulate, bf16; /* bf16: A and B are */
    const void *a, *b;
    float      *c;
} peer_product;

/* ONEDNN_PACKED: B is brought into oneDNN's own layout beforehand, outside of what is timed. */
enum { OPENBLAS, BLIS, ONEDNN, ONEDNN_PACKED, PEERS };
extern const char *const peer_names[PEERS];

void peers_load(int threads);
bool peer_takes(int peer, const peer_product *p);
/* What is made once for a product; peer_run does not need it for the f32 product of a BLAS. */
void peer_prepare(int peer, const peer_product *p);
void peer_run(int peer, const peer_product *p);
void peer_finish(int peer, const peer_product *p);

#endif
