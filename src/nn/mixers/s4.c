/* S4, structured state spaces (Gu, Goel, Re 2021, arXiv:2111.00396). HiPPO's matrix as a normal one less P P^* (of rank 1; legt's of 2), in the
 * basis of its eigenvectors; the kernel by Cauchy sums and a transform, the step by the bilinear rule:
 *
 *   K_l = C Abar^l Bbar     y = gelu(K * x + d x) w^T
 *
 * C is that of the state space itself, not what is left of it at the kernel's length: a kernel of any length can be
 * made, and steps need nothing undone (ops/dplr_kernel.c).
 *
 * State: h, complex [D, N]. */
#include "nn/hippo.h"
#include "nn/state_space.h"

static const qp_option options[] = {QPI_STATE_SPACE_OPTIONS,
                                    OPTION_CHOICE("hippo", 2, "legs|lagt|legt",
                                                  "the matrix at first: Legendre polynomials of the past, "
                                                  "Laguerre functions, Legendre polynomials of a window"),
                                    {0}};

static bool fill(int64_t N, int choice, qpi_pole_values v) {
    return qpi_hippo_poles((qpi_hippo)choice, 2 * N, (qpi_poles){v.re, v.im, v.b_re, v.b_im, v.p_re, v.p_im});
}

static void init(void *self, qp_build *b) {
    qpi_state_space *s = self;
    int              choice = (int)qp_setting_int(b, "hippo"); /* in the order of qpi_hippo */
    s->rank = qpi_hippo_rank((qpi_hippo)choice);
    s->bilinear = true;
    qpi_state_space_init(s, b, fill, choice);
}

QP_MIXER(s4) = {
    .part = {.name = "s4",
             .source = "arXiv:2111.00396",
             .help = "a state space for each channel, normal plus rank one: a convolution, or steps",
             .options = options,
             .bytes = sizeof(qpi_state_space)},
    .causal = qpi_state_space_causal,
    .init = init,
    .forward = qpi_state_space_forward,
    .reserve = qpi_state_space_reserve,
    .step = qpi_state_space_step};
