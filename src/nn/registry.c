/* The tables that the build makes from the files of each folder, behind public functions. */
#include "nn/part.h"

#define REGISTRY(type, table, at)                                                                 \
    extern const type *const table[];                                                             \
    const type *at(int index) {                                                                   \
        if (index < 0) return NULL;                                                               \
        for (int i = 0; i < index; i++)                                                           \
            if (!table[i]) return NULL;                                                           \
        return table[index];                                                                      \
    }

REGISTRY(qp_init_type, qpi_inits, qp_init_at)
REGISTRY(qp_norm_type, qpi_norms, qp_norm_at)
REGISTRY(qp_position_type, qpi_positions, qp_position_at)
REGISTRY(qp_mixer_type, qpi_mixers, qp_mixer_at)
REGISTRY(qp_ffn_type, qpi_ffns, qp_ffn_at)
