/* HiPPO matrices (Gu et al. 2020, arXiv:2008.07669): dx/dt = A x + B u, whose state are the coefficients of the
 * input's past in a basis of orthogonal functions. */
#ifndef QUIPU_NN_HIPPO_H
#define QUIPU_NN_HIPPO_H

#include <stdbool.h>
#include <stdint.h>

typedef enum {
    QPI_LEGS, /* Legendre polynomials over all of the past, scaled */
    QPI_LAGT, /* Laguerre functions: the past fades */
    QPI_LEGT, /* Legendre polynomials over a window of fixed length; at half the pace, as the authors of S4 have it */
} qpi_hippo;

/* Columns of P, at most 2. */
int qpi_hippo_rank(qpi_hippo kind);

/* A [N, N], B [N] and the P, stored [rank, N], with which A + P P^T is normal: a multiple of I plus a skew matrix. */
void qpi_hippo_fill(qpi_hippo kind, int64_t N, double *A, double *B, double *P);

/* The half of the eigenvalues of A + P P^T whose imaginary parts are positive, smallest first, and B and P in the
 * basis of their eigenvectors; N even, each array has N / 2, those of P [rank, N / 2]. False: no memory. */
typedef struct {
    double *re, *im, *b_re, *b_im, *p_re, *p_im;
} qpi_poles;
bool qpi_hippo_poles(qpi_hippo kind, int64_t N, qpi_poles out);

#endif
