/* quipu/part.h: the exchangeable parts of a model: initialisations, norms, position encodings,
 * mixers, feed-forwards. Each is one file with one descriptor; the options it takes stand in
 * a table from which reading, checking and help derive.
 */
#ifndef QUIPU_PART_H
#define QUIPU_PART_H

#include "nn.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum { QP_OPTION_INT, QP_OPTION_NUMBER, QP_OPTION_BOOL, QP_OPTION_CHOICE } qp_option_kind;

typedef struct {
    const char    *name;
    qp_option_kind kind;
    double         fallback; /* of a choice: its index */
    double         low, high;
    const char    *choices; /* "relu|gelu": the value is the index */
    const char    *help;
} qp_option;

/* What every descriptor begins with. */
typedef struct {
    const char      *name, *source, *help;
    const qp_option *options; /* ends with {0}; NULL: none */
    size_t           bytes;   /* of the object, given zeroed to init */
} qp_part;

typedef struct qp_settings qp_settings;
typedef struct qp_position qp_position;

/* What a part's init sees. */
typedef struct {
    qp_ctx            *ctx;
    qp_module         *module; /* where its parameters go */
    int64_t            width;  /* D */
    int64_t            max_positions;
    int                layer, layers;
    const char        *init, *init_residual; /* for weights; for those that end a branch */
    const qp_position *position;             /* the stack's position encoding; mixers only */
    const qp_settings *settings;
} qp_build;

/* The value of an option: given, or its fallback. Choices give the index. */
QP_API double  qp_setting(const qp_build *b, const char *name);
QP_API int64_t qp_setting_int(const qp_build *b, const char *name);

/* What surrounds the sequence that a part works on. */
typedef struct {
    qp_tensor positions; /* i64 [B, T] or [1, T] */
    int64_t   length;    /* of the whole sequence so far: the largest position + 1 */
    qp_mask   mask;      /* without `causal`, which is the mixer's */
    double    dropout;   /* probability; 0 outside training */
} qp_stream;

/* ---- Initialisations (nn/init): fill a tensor ------------------------------------------------ */

typedef struct {
    const char *name, *source, *help;
    void (*fill)(qp_tensor t, double argument); /* argument: behind the colon, 0 if none */
} qp_init_type;

/* ---- Norms (nn/norms) -------------------------------------------------------------------------- */

typedef struct {
    qp_part part;
    void (*init)(void *self, qp_build *b);
    qp_tensor (*forward)(void *self, qp_tensor x); /* over the last axis */
} qp_norm_type;

/* ---- Position encodings (nn/positions): up to three hooks ----------------------------------------- */

typedef struct {
    qp_part part;
    void (*init)(void *self, qp_build *b); /* settings include head_width of the mixer */
    /* x [B, T, D] with positions added */
    qp_tensor (*embed)(void *self, qp_tensor x, const qp_stream *s);
    /* q or k [B, T, H, K], turned */
    qp_tensor (*rotate)(void *self, qp_tensor x, const qp_stream *s);
    /* added to the scores [.., H, T, S] */
    qp_tensor (*bias)(void *self, const qp_stream *s, int64_t keys);
} qp_position_type;

struct qp_position {
    const qp_position_type *type;
    void                   *self;
};

/* ---- Mixers (nn/mixers) ------------------------------------------------------------------------------ */

/* What a mixer carries from position to position, for B rows. */
typedef struct {
    qp_tensor tensors[4]; /* kept; axis 0 is B */
    int       count;
    int       grows[4];   /* the axis that `length` counts along, -1: a state of fixed size */
    int64_t   length, reserved;
} qp_state;

typedef struct {
    qp_part part;
    bool    causal; /* claims that outputs depend on earlier positions alone */
    void (*init)(void *self, qp_build *b);
    /* x [B, T, D] -> [B, T, D], + residual where given: the whole sequence */
    qp_tensor (*forward)(void *self, qp_tensor x, qp_tensor residual, const qp_stream *s);
    /* Makes the state for `batch` rows and at most `positions` positions. NULL: no step. */
    void (*reserve)(void *self, qp_ctx *ctx, int64_t batch, int64_t positions, qp_state *state);
    /* The same for the next T positions, given the state, which moves on. */
    qp_tensor (*step)(void *self, qp_tensor x, qp_tensor residual, const qp_stream *s, qp_state *state);
} qp_mixer_type;

/* ---- Feed-forwards (nn/ffn) ------------------------------------------------------------------------------ */

typedef struct {
    qp_part part;
    void (*init)(void *self, qp_build *b);
    qp_tensor (*forward)(void *self, qp_tensor x, qp_tensor residual, const qp_stream *s);
} qp_ffn_type;

/* ---- Registries: by index (NULL past the end) and by name (NULL if unknown) ------------------------------- */

QP_API const qp_init_type     *qp_init_at(int index);
QP_API const qp_norm_type     *qp_norm_at(int index);
QP_API const qp_position_type *qp_position_at(int index);
QP_API const qp_mixer_type    *qp_mixer_at(int index);
QP_API const qp_ffn_type      *qp_ffn_at(int index);

#ifdef __cplusplus
}
#endif
#endif
