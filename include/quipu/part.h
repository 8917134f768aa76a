/* quipu/part.h: the exchangeable parts of a model: initialisations, norms, inputs, position encodings,
 * mixers, feed-forwards, blocks, outputs, parametrisations. Each is one file with one descriptor; the options
 * it takes stand in a table from which reading, checking and help derive. Host programs register their own
 * through the same descriptors (qp_register_part), and configs name them like any other.
 */
#ifndef QUIPU_PART_H
#define QUIPU_PART_H

#include "nn.h"
#include "record.h"

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
typedef struct qp_state    qp_state;

/* What a part's init sees. */
typedef struct {
    qp_ctx     *ctx;
    qp_module  *module;                    /* where its parameters go */
    int64_t     width;                     /* D */
    int64_t     heads, head_width;         /* H, K of the layer's mixer; 0 where it has no heads */
    int64_t     max_positions, vocabulary; /* V */
    int         layer, layers;
    const char *init, *init_value,
        *init_residual;          /* for weights; for those that make values; that end a branch */
    const qp_position *position; /* the layer's position encoding; mixers only */
    qp_tensor          table;    /* outputs: the input's [V, D] where weights are tied */
    double scores, tied;         /* what attention's scores, and logits of that table, are multiplied by besides
                                        (parametrisation); 0: 1 */
    const qp_settings *settings;
} qp_build;

/* The value of an option: given, or its fallback. Choices give the index. ARGUMENT, 0: the table has none of
 * that name. */
QP_API double qp_setting(const qp_build *b, const char *name);
QP_API int64_t qp_setting_int(const qp_build *b, const char *name);

/* What surrounds the positions that a part works on. */
typedef struct {
    qp_tensor positions; /* i64 [B, T] or [1, T] */
    int64_t   length;    /* of the longest sequence so far: the largest position + 1 */
    int64_t   keys;      /* step by step: positions that the longest row holds */
    qp_tensor counts;    /* step by step: i64 [B], how many of the T positions are there */
    qp_mask   mask;      /* without `causal` and `window`, which are the mixer's */
    double    dropout;   /* probability; 0 outside training */
    int       layer;
    /* behind qp_sequence_get and qp_sequence_add */
    const qp_record *in, *before; /* what the caller gave; what earlier layers added */
    qp_record       *out;         /* what this layer adds */
    uint32_t        *asked;       /* bit i: somebody asked for field i of in; NULL: not watched */
} qp_sequence;

/* A field by name: what this layer or an earlier one has added, otherwise what the caller of
 * qp_forward gave (memory, token types, ..). QP_NONE: there is none. */
QP_API qp_tensor qp_sequence_get(const qp_sequence *s, const char *name);

/* Adds a field, for later layers and, of two kinds, for the model's caller: "aux.NAME" is a loss of
 * one element, summed over layers and added to the model's loss; "stat.NAME" is a statistic, the
 * last layer's stays. Errors: ARGUMENT (an aux of another size, more than 7 fields in a layer). */
QP_API void qp_sequence_add(const qp_sequence *s, const char *name, qp_tensor t);

/* ---- Initialisations (nn/init): fill a tensor ------------------------------------------------ */

typedef struct {
    qp_part part;
    void (*fill)(qp_tensor t, double argument); /* argument: behind the colon, 0 if none */
    double (*deviation)(qp_tensor t); /* what the standard deviation owes to t's shape; NULL: nothing */
} qp_init_type;

/* ---- Norms (nn/norms) -------------------------------------------------------------------------- */

typedef struct {
    qp_part part;
    void (*init)(void *self, qp_build *b);
    qp_tensor (*forward)(void *self, qp_tensor x); /* over the last axis */
} qp_norm_type;

/* ---- Position encodings (nn/positions): up to three hooks ----------------------------------------- */

/* What a mixer is about to call qp_attention with. */
typedef struct {
    qp_tensor q, k; /* q [B, T, H, K], turned; k [B, S, G, K], or the cache that mask.rows chooses from */
    qp_mask   mask;
    double    scale;
} qp_scores;

typedef struct {
    qp_part part;
    bool    shared; /* one object for all layers (s->layer tells which); otherwise each layer has its own */
    void (*init)(void *self, qp_build *b);
    /* x [B, T, D] with positions added; of shared ones only: called once, on the stack's input */
    qp_tensor (*embed)(void *self, qp_tensor x, const qp_sequence *s);
    /* q or k [B, T, H, K], turned */
    qp_tensor (*rotate)(void *self, qp_tensor x, const qp_sequence *s);
    /* What scores and values get by position: sets the mask's bias, relative, .. and may change q and scale */
    void (*bias)(void *self, qp_scores *scores, const qp_sequence *s);
    /* An `embed` that looks at other positions: does it look at earlier ones only? NULL: yes. And what a session
     * carries for it, as of mixers; NULL: nothing, embed serves as step */
    bool (*causal)(const void *self);
    void (*reserve)(void *self, qp_ctx *ctx, int64_t rows, int64_t positions, qp_state *state);
    qp_tensor (*step)(void *self, qp_tensor x, const qp_sequence *s, qp_state *state);
} qp_position_type;

struct qp_position {
    const qp_position_type *type;
    void                   *self;
};

/* ---- Mixers (nn/mixers) and feed-forwards (nn/ffn): the branches of a block -------------------------- */

#define QP_MAX_STATE 8

/* What a branch carries from position to position. Tensors that grow hold all rows of the session, and
 * a call appends to the rows that its sequences have (qp_append; the sequence's mask says which, and
 * where); those of fixed size hold the B sequences of the call, and only change through qp_state_set.
 * So a call that fails halfway leaves the state as it was. */
struct qp_state {
    qp_tensor tensors[QP_MAX_STATE]; /* axis 0: rows or sequences */
    qp_tensor next[QP_MAX_STATE];    /* what qp_state_set gave, taken over when all layers are done */
    int       count;
    bool      grows[QP_MAX_STATE]; /* along axis 1, positions; false: of fixed size */
    qp_dtype  type;                /* that the session asks of those that grow */
    int64_t   window;          /* `reserve` may say: of those that grow, only the last so many positions (the
                                        newest included) are ever read; 0: all */
    int64_t   spare;           /* then tensors have so many places more than that at most; 0: all */
    qp_tensor starts, lengths; /* in a step, with a window: where its positions lie, in place of s->mask's .. */
    int64_t   keys;            /* .. and s->keys; QP_NONE: these hold */
};

/* For `reserve`: one tensor more, of zeros. One that grows is of state->type, its memory is not there before
 * it is written, and where there is a window it has no more places than that and state->spare. Errors:
 * ARGUMENT (more than QP_MAX_STATE, too few axes, features that are no whole blocks), MEMORY. */
QP_API void qp_state_add(qp_state *state, qp_ctx *ctx, bool grows, int ndim, const int64_t *shape);

/* Tensor i (of fixed size) after these positions: the shape and type of tensors[i]; anything else is
 * an ARGUMENT error. */
QP_API void qp_state_set(qp_state *state, int i, qp_tensor value);

typedef struct {
    qp_part part;
    /* Does it claim that outputs depend on earlier positions alone? NULL: no. */
    bool (*causal)(const void *self);
    void (*init)(void *self, qp_build *b);
    /* x [B, T, D] -> [B, T, D], + residual where given: the whole sequence */
    qp_tensor (*forward)(void *self, qp_tensor x, qp_tensor residual, const qp_sequence *s);
    /* Makes the state for so many rows of at most `positions` positions, by qp_state_add. NULL:
     * nothing is carried. */
    void (*reserve)(void *self, qp_ctx *ctx, int64_t rows, int64_t positions, qp_state *state);
    /* The same for the next T positions of B sequences, given the state: s->mask has their rows, starts
     * (positions so far), lengths (with those that are added) and, of drafts, parents. NULL: no step
     * form, unless pointwise. */
    qp_tensor (*step)(void *self, qp_tensor x, qp_tensor residual, const qp_sequence *s, qp_state *state);
    bool pointwise;                          /* works on each position alone: forward serves as step */
    void (*stepped)(void *self, bool taken); /* qp_model_stepped, without gradients; NULL: nothing */
} qp_branch_type;

/* ---- Blocks (nn/blocks): how norms and branches join --------------------------------------------------- */

/* A part with its object. */
typedef struct {
    const qp_norm_type *type;
    void               *self;
} qp_norm;
typedef struct {
    const qp_branch_type *type; /* NULL: the block has no such branch */
    void                 *self;
} qp_branch;

#define QP_MAX_NORMS 4

typedef struct {
    qp_norm   norms[QP_MAX_NORMS];
    qp_branch mixer, ffn;
    void     *self; /* the block part's own object */
    int       layer;
} qp_block;

typedef struct {
    qp_part part;
    int     norms, ffn_norms;              /* that the block wants; ffn_norms: behind those, if it has an ffn */
    void (*init)(void *self, qp_build *b); /* NULL: nothing */
    /* x [B, T, D] -> [B, T, D]; written with the functions below. states: mixer's and ffn's, or
     * NULL for whole sequences */
    qp_tensor (*forward)(const qp_block *b, qp_tensor x, const qp_sequence *s, qp_state *states);
    /* What initial weights of feed-forwards, of values and of what ends a branch are times; NULL: 1 */
    double (*gain)(const void *self);
} qp_block_type;

/* The block's norm i of x; ARGUMENT: it has declared none. */
QP_API qp_tensor qp_block_norm(const qp_block *b, int i, qp_tensor x);
/* residual + dropout(branch(x)), residual QP_NONE: without; where the block has no such branch,
 * residual. */
QP_API qp_tensor qp_block_mixer(const qp_block *b, qp_tensor x, qp_tensor residual, const qp_sequence *s,
                                qp_state *states);
QP_API qp_tensor qp_block_ffn(const qp_block *b, qp_tensor x, qp_tensor residual, const qp_sequence *s,
                              qp_state *states);

/* ---- Inputs (nn/inputs) and outputs (nn/outputs): the ends of a stack ------------------------------------ */

typedef struct {
    qp_part part;
    void (*init)(void *self, qp_build *b);
    /* ids [B, T] and further fields (qp_sequence_get) -> x [B, T, D]; the position encoding's `embed`
     * and the input norm follow */
    qp_tensor (*forward)(void *self, qp_tensor ids, const qp_sequence *s);
    qp_tensor (*table)(const void *self); /* [V, D], what an output with tied weights takes; NULL: none */
} qp_input_type;

typedef struct {
    qp_part part;
    bool    whole; /* reads whole sequences [B, T, D]; otherwise each position alone: [.., D] -> [.., V] */
    void (*init)(void *self, qp_build *b);
    /* What the last norm gives -> what the output is called for; s is NULL where hidden is positions
     * picked by hand (qp_model_head) */
    qp_tensor (*forward)(void *self, qp_tensor hidden, const qp_sequence *s);
    /* The mean cross-entropy of what forward gives, without holding it; NULL or QP_NONE: from forward */
    qp_tensor (*loss)(void *self, qp_tensor hidden, qp_tensor labels);
} qp_output_type;

/* ---- Parametrisations (nn/parametrizations): how scales of weights follow the width -------------------- */

/* Powers of how many times as wide the model is as its base: of what the initial deviation is multiplied by,
 * and the learning rates of Adam and of SGD. */
typedef struct {
    double init, adam, sgd;
} qp_powers;

/* `hidden`: weights of products both of whose sides follow the width; `output`: those that only read such a
 * side; `input`: all others that have one (embeddings, gains, biases). The ratio is that of the side read; of
 * `input` that of the one written. */
typedef struct {
    qp_part   part; /* has the option "base", the width at which nothing is changed; none: never is */
    qp_powers input, hidden, output;
    double    scores; /* of attention's scores: the ratio is that of the heads' widths */
    double    tied;   /* of logits of the input's table */
} qp_parametrization_type;

/* ---- Registries ---------------------------------------------------------------------------------------- */

/* kind, folder, descriptor */
#define QP_PART_KINDS(X) \
    X(INIT, "init", qp_init_type) \
    X(NORM, "norms", qp_norm_type) \
    X(INPUT, "inputs", qp_input_type) \
    X(POSITION, "positions", qp_position_type) \
    X(MIXER, "mixers", qp_branch_type) \
    X(FFN, "ffn", qp_branch_type) \
    X(BLOCK, "blocks", qp_block_type) \
    X(OUTPUT, "outputs", qp_output_type) \
    X(PARAMETRIZATION, "parametrizations", qp_parametrization_type)

typedef enum {
#define X(kind, folder, type) QP_PART_##kind,
    QP_PART_KINDS(X)
#undef X
        QP_PART_KIND_COUNT
} qp_part_kind;

/* The library's parts and then those registered with ctx (which may be NULL: none), by index, NULL
 * past the end; or by name, NULL if unknown. Each points to the descriptor of its kind, whose
 * first member it is: (const qp_norm_type *)qp_part_at(ctx, QP_PART_NORM, 0). */
QP_API const qp_part *qp_part_at(qp_ctx *ctx, qp_part_kind kind, int index);
QP_API const qp_part *qp_part_find(qp_ctx *ctx, qp_part_kind kind, const char *name);

/* Makes a host program's part known to ctx. The descriptor (part = &mine.part) must outlive ctx.
 * ARGUMENT: the name is taken or empty, a function is missing, or there are more than 32 options. */
QP_API QP_MUST_CHECK qp_status qp_register_part(qp_ctx *ctx, qp_part_kind kind, const qp_part *part);

#ifdef __cplusplus
}
#endif
#endif
