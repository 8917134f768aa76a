/* What the files of nn/positions, nn/mixers, ... include: descriptor macros that the build
 * finds, and the settings behind qp_setting. */
#ifndef QUIPU_NN_PART_H
#define QUIPU_NN_PART_H

#include "quipu/part.h"

#define QPI_PART(type, symbol) \
    extern const type symbol; \
    const type        symbol
#define QP_INIT(name) QPI_PART(qp_init_type, qp_init_##name)
#define QP_NORM(name) QPI_PART(qp_norm_type, qp_norm_##name)
#define QP_INPUT(name) QPI_PART(qp_input_type, qp_input_##name)
#define QP_POSITION(name) QPI_PART(qp_position_type, qp_position_##name)
#define QP_MIXER(name) QPI_PART(qp_branch_type, qp_mixer_##name)
#define QP_FFN(name) QPI_PART(qp_branch_type, qp_ffn_##name)
#define QP_BLOCK(name) QPI_PART(qp_block_type, qp_block_##name)
#define QP_PARAMETRIZATION(name) QPI_PART(qp_parametrization_type, qp_parametrization_##name)
#define QP_OUTPUT(name) QPI_PART(qp_output_type, qp_output_##name)

/* Rows of an option table. */
#define OPTION_INT(n, f, lo, hi, h) \
    {.name = n, .kind = QP_OPTION_INT, .fallback = f, .low = lo, .high = hi, .help = h}
#define OPTION_NUMBER(n, f, lo, hi, h) \
    {.name = n, .kind = QP_OPTION_NUMBER, .fallback = f, .low = lo, .high = hi, .help = h}
#define OPTION_BOOL(n, f, h) {.name = n, .kind = QP_OPTION_BOOL, .fallback = f, .high = 1, .help = h}
#define OPTION_CHOICE(n, last, c, h) \
    {.name = n, .kind = QP_OPTION_CHOICE, .high = last, .choices = c, .help = h}

#define QPI_MAX_SETTINGS 32

struct qp_settings {
    const qp_part *part;
    double         values[QPI_MAX_SETTINGS]; /* in the order of part->options */
    bool           given[QPI_MAX_SETTINGS];
};

/* All fallbacks. */
void qpi_settings_init(qp_settings *s, const qp_part *part);
/* Sets one value; an unknown name or a value out of range is an error that begins with
 * `where`. A choice is set by its index or, through qpi_settings_choose, by its text; what was found otherwise is
 * refused. */
qp_status qpi_settings_set(qp_ctx *ctx, qp_settings *s, const char *where, const char *name, double value);
qp_status qpi_settings_choose(qp_ctx *ctx, qp_settings *s, const char *where, const char *name,
                              const char *text);
qp_status qpi_settings_refuse(qp_ctx *ctx, const qp_settings *s, const char *where, const char *name,
                              const char *found);
/* Stores an error and gives false where the sequence has segments, which the part cannot tell apart. */
bool qpi_one_segment(const qp_sequence *s, const char *name);

/* A parameter as an operand beside activations x: weights kept in other types are cast. */
qp_tensor qpi_like(qp_tensor parameter, qp_tensor x);

/* The part's option of that name; NULL: it has none. */
const qp_option *qpi_settings_option(const qp_settings *s, const char *name);

#endif
