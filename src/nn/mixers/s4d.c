/* S4D, diagonal state spaces (Gu, Gupta, Goel, Re 2022, arXiv:2206.11893): S4 without P.
 *
 *   K_l = 2 Re sum_n C_n Bbar_n exp(l dt A_n)     y = gelu(K * x + d x) w^T
 *
 * B is 1, a part of C. Made discrete by holding x over a step (zoh), Bbar = (exp(dt A) - 1) / A, or bilinearly.
 * Poles at first: lin -1/2 + i pi n; inv -1/2 + i N/pi (N / (2n + 1) - 1), N of 2N numbers; legs: those of HiPPO.
 *
 * State: h, complex [D, N]. */
#include <math.h>

#include "nn/hippo.h"
#include "nn/state_space.h"

enum { LEGS, LIN, INV };

static const qp_option options[] = {QPI_STATE_SPACE_OPTIONS,
                                    {.name = "poles",
                                     .kind = QP_OPTION_CHOICE,
                                     .high = 2,
                                     .choices = "legs|lin|inv",
                                     .help = "at first: HiPPO's, evenly apart, or inversely"},
                                    {.name = "discrete",
                                     .kind = QP_OPTION_CHOICE,
                                     .high = 1,
                                     .choices = "zoh|bilinear",
                                     .help = "how time is made discrete"},
                                    {0}};

static bool fill(int64_t N, int choice, qpi_pole_values v) {
    if (choice == LEGS)
        return qpi_hippo_poles(QPI_LEGS, 2 * N, (qpi_poles){v.re, v.im, v.b_re, v.b_im, v.p_re, v.p_im});
    for (int64_t n = 0; n < N; n++) {
        double states = 2 * (double)N;
        v.re[n] = -0.5;
        v.im[n] = choice == LIN ? M_PI * (double)n : states / M_PI * (states / (2 * (double)n + 1) - 1);
        v.b_re[n] = 1;
        v.b_im[n] = 0;
    }
    return true;
}

static void init(void *self, qp_build *b) {
    qpi_state_space *s = self;
    s->bilinear = qp_setting_int(b, "discrete") == 1;
    qpi_state_space_init(s, b, fill, (int)qp_setting_int(b, "poles"));
}

QP_MIXER(s4d) = {.part = {.name = "s4d",
                          .source = "arXiv:2206.11893",
                          .help = "a diagonal state space for each channel: a convolution, or steps",
                          .options = options,
                          .bytes = sizeof(qpi_state_space)},
                 .causal = qpi_state_space_causal,
                 .init = init,
                 .forward = qpi_state_space_forward,
                 .reserve = qpi_state_space_reserve,
                 .step = qpi_state_space_step};
