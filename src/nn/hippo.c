#include "nn/hippo.h"

#include <complex.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

int qpi_hippo_rank(qpi_hippo kind) { return kind == QPI_LEGT ? 2 : 1; }

static double root(int64_t n) { return sqrt(2.0 * (double)n + 1); }

/* Row n, column k. */
static double element(qpi_hippo kind, int64_t n, int64_t k) {
    if (kind == QPI_LEGT) return -0.5 * root(n) * root(k) * (n < k && (k - n) % 2 ? -1 : 1);
    if (k > n) return 0;
    if (kind == QPI_LEGS) return k == n ? -(double)(n + 1) : -root(n) * root(k);
    return k == n ? -0.5 : -1;
}

void qpi_hippo_fill(qpi_hippo kind, int64_t N, double *A, double *B, double *P) {
    for (int64_t n = 0; n < N; n++) {
        B[n] = kind == QPI_LEGS ? root(n) : kind == QPI_LAGT ? 1 : 0.5 * root(n);
        P[n] = kind == QPI_LEGS ? sqrt((double)n + 0.5) : kind == QPI_LAGT || n % 2 ? sqrt(0.5) : 0;
        if (kind == QPI_LEGT) { /* odd n, even n */
            P[n] *= root(n);
            P[N + n] = n % 2 ? 0 : sqrt(0.5) * root(n);
        }
        for (int64_t k = 0; k < N; k++) A[n * N + k] = element(kind, n, k);
    }
}

/* ---- Eigenvectors of a Hermitian matrix by Jacobi's rotations -------------------------------------------- */

/* (a, b) times [[c, s], [-s w, c w]] */
static inline void turn(double complex *a, double complex *b, double c, double s, double complex w) {
    double complex x = *a, y = *b * w;
    *a = c * x - s * y;
    *b = s * x + c * y;
}

/* The rows p and q of m [N, N], which lie side by side in memory as columns do not. */
static void turn_rows(double complex *m, int64_t N, int64_t p, int64_t q, double c, double s,
                      double complex w) {
    for (int64_t k = 0; k < N; k++) turn(&m[p * N + k], &m[q * N + k], c, s, conj(w));
}

/* One rotation, after which h[p, q] is 0. */
static void rotate(double complex *h, double complex *v, int64_t N, int64_t p, int64_t q) {
    double size = cabs(h[p * N + q]);
    if (size == 0) return;
    double         tau = creal(h[q * N + q] - h[p * N + p]) / (2 * size);
    double         t = copysign(1, tau) / (fabs(tau) + hypot(1, tau)), c = 1 / hypot(1, t), s = t * c;
    double complex w = conj(h[p * N + q]) / size;
    turn_rows(h, N, p, q, c, s, w);
    turn_rows(v, N, p, q, c, s, w);
    turn(&h[p * N + p], &h[p * N + q], c, s, w);
    turn(&h[q * N + p], &h[q * N + q], c, s, w);
    for (int64_t k = 0; k < N; k++) { /* the other columns are the rows, conjugate */
        if (k == p || k == q) continue;
        h[k * N + p] = conj(h[p * N + k]);
        h[k * N + q] = conj(h[q * N + k]);
    }
}

/* h becomes diagonal; v, the unit matrix at first, has the eigenvectors as rows, conjugate. */
static void diagonalise(double complex *h, double complex *v, int64_t N) {
    for (int sweep = 0; sweep < 60; sweep++) {
        double off = 0, all = 0;
        for (int64_t i = 0; i < N * N; i++) {
            double square = creal(h[i]) * creal(h[i]) + cimag(h[i]) * cimag(h[i]);
            all += square;
            if (i / N != i % N) off += square;
        }
        if (off <= 1e-30 * all) return;
        for (int64_t p = 0; p < N; p++)
            for (int64_t q = p + 1; q < N; q++) rotate(h, v, N, p, q);
    }
}

/* Row `row` of v times x. */
static double complex project(const double complex *v, int64_t N, int64_t row, const double *x) {
    double complex sum = 0;
    for (int64_t k = 0; k < N; k++) sum += v[row * N + k] * x[k];
    return sum;
}

/* Where the (rank + 1)-th smallest positive eigenvalue stands. */
static int64_t place_of(const double complex *h, int64_t N, int64_t rank) {
    for (int64_t i = 0; i < N; i++) {
        int64_t below = 0;
        for (int64_t k = 0; k < N; k++)
            below += creal(h[k * N + k]) > 0 && creal(h[k * N + k]) < creal(h[i * N + i]);
        if (creal(h[i * N + i]) > 0 && below == rank) return i;
    }
    return 0;
}

bool qpi_hippo_poles(qpi_hippo kind, int64_t N, qpi_poles out) {
    int             rank = qpi_hippo_rank(kind);
    double         *A = malloc((size_t)(N * N + 3 * N) * sizeof *A), *B = A + N * N, *P = B + N;
    double complex *h = malloc((size_t)(2 * N * N) * sizeof *h), *v = h + N * N;
    bool            ok = A && h;
    if (ok) {
        qpi_hippo_fill(kind, N, A, B, P);
        double real = 0;
        for (int r = 0; r < rank; r++)
            for (int64_t i = 0; i < N * N; i++) A[i] += P[r * N + i / N] * P[r * N + i % N];
        for (int64_t i = 0; i < N; i++) real += A[i * N + i] / (double)N;
        for (int64_t i = 0; i < N; i++)
            for (int64_t k = 0; k < N; k++) { /* -i times the skew part */
                h[i * N + k] = i == k ? 0 : -I * A[i * N + k];
                v[i * N + k] = i == k;
            }
        diagonalise(h, v, N);
        for (int64_t n = 0; n < N / 2; n++) {
            int64_t        at = place_of(h, N, n);
            double complex b = project(v, N, at, B);
            out.re[n] = real, out.im[n] = creal(h[at * N + at]);
            out.b_re[n] = creal(b), out.b_im[n] = cimag(b);
            for (int r = 0; r < rank; r++) {
                double complex p = project(v, N, at, P + r * N);
                out.p_re[r * N / 2 + n] = creal(p), out.p_im[r * N / 2 + n] = cimag(p);
            }
        }
    }
    free(A);
    free(h);
    return ok;
}
