/* quipu/core.h: contexts, scopes, tensors, gradients, errors.
 *
 * Everything lives in a context. An op computes at once and, where a gradient will be
 * needed, records a node; qp_backward walks the nodes in reverse order of their making.
 * Nothing is freed by hand: leaving a scope drops the tensors made inside it.
 *
 * Errors: an op returns a tensor, never a status. The first failure stores a code and a
 * text in the context and yields a poison tensor; ops on poison return poison at once.
 * Ask qp_failed where you like. What touches the world (files, processes) returns a
 * qp_status and stores its text in the same place. The library never aborts or prints.
 *
 * A context and its tensors belong to one thread at a time. What makes a tensor makes it in the current
 * scope; an argument that must be a tensor and is stale or poison is a STATE error.
 */
#ifndef QUIPU_CORE_H
#define QUIPU_CORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define QP_API __attribute__((visibility("default")))
#define QP_MUST_CHECK __attribute__((warn_unused_result))
#define QP_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))
#else
#define QP_API
#define QP_MUST_CHECK
#define QP_PRINTF(fmt, args)
#endif

#define QP_MAX_DIMS 8

/* Of these headers, and of the library that runs. Until 1.0 every second number is an interface of
 * its own (libquipu.so.0.1), and a program is built for one. */
#define QP_VERSION "0.1.0"
QP_API const char *qp_version(void);

/* ---- Errors ------------------------------------------------------------------------- */

#define QP_ERRORS(X) \
    X(OK, "ok") \
    X(ERR_ARGUMENT, "bad argument")   /* a value outside what the function takes */ \
    X(ERR_SHAPE, "shapes do not fit") /* message names both shapes */ \
    X(ERR_TYPE, "type not taken") \
    X(ERR_STATE, "wrong state")         /* stale handle, second backward, ... */ \
    X(ERR_MEMORY, "out of memory")      /* the heap or the context's cap */ \
    X(ERR_IO, "input/output failed")    /* the operating system said no */ \
    X(ERR_FORMAT, "malformed input")    /* a file or record breaks its format */ \
    X(ERR_UNSUPPORTED, "not supported") /* well-formed, but quipu has no such thing */ \
    X(ERR_CANCELLED, "cancelled")

typedef enum {
#define X(name, text) QP_##name,
    QP_ERRORS(X)
#undef X
} qp_code;

/* The result of what touches the world. QP_OK is 0; the text is qp_error(ctx). */
typedef qp_code qp_status;

/* ---- Element types ------------------------------------------------------------------ */

/* name, C storage type, bytes, safetensors name, 1 if floating */
#define QP_DTYPES(X) \
    X(F32, "f32", float, 4, "F32", 1) \
    X(F64, "f64", double, 8, "F64", 1) \
    X(BF16, "bf16", uint16_t, 2, "BF16", 1) \
    X(F16, "f16", uint16_t, 2, "F16", 1) \
    X(I64, "i64", int64_t, 8, "I64", 0) \
    X(I32, "i32", int32_t, 4, "I32", 0) \
    X(U8, "u8", uint8_t, 1, "U8", 0) \
    X(BOOL, "bool", uint8_t, 1, "BOOL", 0) \
    X(I8, "i8", int8_t, 1, "I8", 0)

/* Block types: numbers that share a scale, as GGUF files hold weights. name, text, elements and bytes
 * of a block. Shapes and strides count elements all the same; the last axis is contiguous and holds
 * whole blocks, and so does every view (ARGUMENT otherwise). Elements are read one by one and written
 * by qp_cast alone; linear and embedding take such weights, ops that do not say so (TYPE). */
#define QP_BLOCK_DTYPES(X) \
    X(Q8_0, "q8_0", 32, 34) \
    X(Q4_0, "q4_0", 32, 18) \
    X(Q4_1, "q4_1", 32, 20) \
    X(Q5_0, "q5_0", 32, 22) \
    X(Q5_1, "q5_1", 32, 24) \
    X(Q2_K, "q2_k", 256, 84) \
    X(Q3_K, "q3_k", 256, 110) \
    X(Q4_K, "q4_k", 256, 144) \
    X(Q5_K, "q5_k", 256, 176) \
    X(Q6_K, "q6_k", 256, 210) \
    X(IQ4_NL, "iq4_nl", 32, 18)

typedef enum {
#define X(name, text, type, bytes, st, is_float) QP_##name,
    QP_DTYPES(X)
#undef X
#define X(name, text, block, bytes) QP_##name,
        QP_BLOCK_DTYPES(X)
#undef X
            QP_DTYPE_COUNT
} qp_dtype;

QP_API const char *qp_dtype_name(qp_dtype t);       /* "f32" */
QP_API int qp_dtype_block(qp_dtype t);              /* elements of a block; 1: no block type */
QP_API size_t qp_dtype_bytes(qp_dtype t);           /* of one element, or block */
QP_API size_t qp_dtype_size(qp_dtype t, int64_t n); /* bytes of n elements, whole blocks */
QP_API bool qp_dtype_is_float(qp_dtype t);          /* takes gradients: block types do not */

/* ---- Context ------------------------------------------------------------------------ */

typedef struct qp_ctx qp_ctx;

typedef enum { QP_ISA_BEST, QP_ISA_BASE, QP_ISA_AVX2, QP_ISA_AVX512 } qp_isa;

typedef struct {
    int      threads;       /* worker threads with the caller; 0: one per processor */
    uint64_t seed;          /* of every random draw of this context */
    size_t   memory_cap;    /* bytes of tensors, nodes and scratch; 0: none */
    qp_isa   isa;           /* most capable instruction set to use */
    qp_ctx  *share_threads; /* borrow this context's threads; it must outlive this one. Work
                               that finds them busy runs in the caller's thread alone */
} qp_options;

/* A new context, or NULL when there is not even memory for that. Close with qp_close. NULL in place of a
 * context is one that has failed: qp_failed(NULL) is true, and calls do nothing. */
QP_API qp_ctx *qp_open(qp_options options);

/* Frees the context and everything in it. NULL is allowed. */
QP_API void qp_close(qp_ctx *ctx);

QP_API bool qp_failed(const qp_ctx *ctx);        /* has a failure been stored? */
QP_API qp_code qp_error_code(const qp_ctx *ctx); /* QP_OK when there is none */
QP_API const char *qp_error(const qp_ctx *ctx);  /* its text, the context's; "" when there is none */
QP_API void qp_clear(qp_ctx *ctx);               /* forget it; the context is usable again */

/* Stores a failure (the first one stays) and returns code. For code built on the library. */
QP_API qp_status qp_fail(qp_ctx *ctx, qp_code code, const char *format, ...) QP_PRINTF(3, 4);

typedef struct {
    size_t   bytes, peak_bytes; /* held now / at most, by tensors, nodes and scratch */
    size_t   reserved_bytes;    /* obtained from the system */
    uint64_t system_calls;      /* times the pool asked the system for memory */
    int      threads;
    qp_isa   isa;
} qp_stats;
QP_API qp_stats qp_stats_of(const qp_ctx *ctx);
QP_API void qp_reset_peak(qp_ctx *ctx); /* peak_bytes counts from now */

/* Ops, backward and long work poll the flag and fail with QP_ERR_CANCELLED, until qp_clear has
 * cleared that very failure. What must not be left half done (a step of an optimiser, saving) is
 * finished first. Callable from any thread and from a signal handler. */
QP_API void qp_cancel(qp_ctx *ctx);

/* The position in the context's stream of random draws (Philox 4x32-10, Salmon et al. 2011): save it, set it
 * to repeat. Each random op takes one position, however many elements it draws. */
QP_API uint64_t qp_random_position(const qp_ctx *ctx);
QP_API void qp_set_random(qp_ctx *ctx, uint64_t seed, uint64_t position);

/* ---- Tensors ------------------------------------------------------------------------ */

/* A handle: copy it freely. C order, up to 8 axes. {0} is "no tensor" (an absent optional
 * argument). A handle whose scope has been left is a reported error when used. */
typedef struct {
    qp_ctx  *ctx;
    uint32_t slot, generation;
} qp_tensor;

#ifdef __cplusplus
#define QP_NONE (qp_tensor{})
#else
#define QP_NONE ((qp_tensor){0})
#endif

/* Shapes are given as arrays: qp_zeros(ctx, QP_F32, 2, (int64_t[]){B, T}). The value of
 * qp_empty's elements is undefined. Errors: ARGUMENT (axes, negative or overflowing
 * sizes, a last axis of no whole blocks), MEMORY, TYPE (of a block type, which only qp_cast makes). */
QP_API qp_tensor qp_empty(qp_ctx *ctx, qp_dtype dtype, int ndim, const int64_t *shape);
QP_API qp_tensor qp_zeros(qp_ctx *ctx, qp_dtype dtype, int ndim, const int64_t *shape);
QP_API qp_tensor qp_full(qp_ctx *ctx, qp_dtype dtype, int ndim, const int64_t *shape, double value);
QP_API qp_tensor qp_scalar(qp_ctx *ctx, qp_dtype dtype, double value); /* ndim 0 */
QP_API qp_tensor qp_arange(qp_ctx *ctx, qp_dtype dtype, int64_t n);    /* 0, 1, .. n-1 */
QP_API qp_tensor qp_randn(qp_ctx *ctx, qp_dtype dtype, int ndim, const int64_t *shape);
QP_API qp_tensor qp_rand(qp_ctx *ctx, qp_dtype dtype, int ndim, const int64_t *shape); /* [0,1) */

/* A copy of the caller's elements (C order, of the given type; of block types the blocks). Errors: ARGUMENT,
 * MEMORY. */
QP_API qp_tensor qp_from(qp_ctx *ctx, qp_dtype dtype, int ndim, const int64_t *shape, const void *data);

/* The caller's memory itself, without a copy; release(user) is called once no tensor uses it, at once if
 * attaching fails (release may be NULL). A read-only storage may be attached to several contexts. Errors:
 * ARGUMENT, MEMORY. */
QP_API qp_tensor qp_attach(qp_ctx *ctx, qp_dtype dtype, int ndim, const int64_t *shape, void *data,
                           bool read_only, void (*release)(void *), void *user);

QP_API bool qp_is_none(qp_tensor t);
/* Of poison and QP_NONE: 0, and QP_F32; to ask is no failure. */
QP_API int qp_ndim(qp_tensor t);
QP_API int64_t qp_size(qp_tensor t, int axis); /* axis may be negative: -1 is the last; ARGUMENT, 0 beyond */
QP_API int64_t qp_count(qp_tensor t);          /* elements */
QP_API qp_dtype qp_dtype_of(qp_tensor t);

/* Reading. qp_item: the one element of a tensor of one element, NaN on error. qp_read:
 * copies all elements in C order, converted to dtype, into out (count elements, which must
 * be qp_count(t)). qp_write: the reverse, into t itself, and counts as a change of t. A context that has
 * failed reads and writes nothing. Errors: SHAPE (another number of elements), STATE (no elements yet;
 * qp_write: read-only memory), ARGUMENT (qp_write: an expanded tensor), TYPE (into a block type from
 * another). */
QP_API double qp_item(qp_tensor t);
QP_API QP_MUST_CHECK qp_status qp_read(qp_tensor t, qp_dtype dtype, void *out, int64_t count);
QP_API qp_status qp_write(qp_tensor t, qp_dtype dtype, const void *data, int64_t count);

/* The elements themselves if t is on the CPU and contiguous, otherwise NULL (STATE); valid
 * as long as t. qp_data_write is for writing, counts as a change of t and refuses read-only
 * memory: ask again for each round of writing. */
QP_API const void *qp_data_of(qp_tensor t);
QP_API void *qp_data_write(qp_tensor t);

/* dst's elements become src's (shape equal up to broadcasting, types converted); in place,
 * no gradient. Errors: SHAPE, STATE (dst is read-only, either is poison), TYPE (into a block type). */
QP_API qp_status qp_copy_to(qp_tensor dst, qp_tensor src);

/* ---- Devices ------------------------------------------------------------------------ */

/* Where elements live and ops on them run. Tensors are made on the CPU; all inputs of an op
 * are on one device. qp_item, qp_read and qp_write copy to and from the others. */
typedef struct qp_device qp_device;

QP_API const qp_device *qp_cpu(void);
QP_API const qp_device *qp_device_of(qp_tensor t); /* the CPU for QP_NONE and poison */

/* t on a device: another handle to t where it is there already, otherwise a contiguous copy,
 * whose gradient goes back to t's. */
QP_API qp_tensor qp_to(qp_tensor t, const qp_device *device);

/* ---- Scopes ------------------------------------------------------------------------- */

typedef struct {
    qp_ctx  *ctx;
    uint32_t depth, serial;
} qp_scope;

/* From here on tensors are the new scope's. Error: MEMORY (leaving the scope then drops nothing). */
QP_API qp_scope qp_enter(qp_ctx *ctx);

/* Drops every tensor made since the scope was entered, inner scopes included. qp_no_grad and
 * qp_autocast are again what they were when it was entered. Error: STATE (it has been left already). */
QP_API void qp_leave(qp_scope s);

/* Leaves the scope and hands y to the outer one, also y of an outer scope or QP_NONE. qp_return_many does it
 * for n tensors, which it replaces where they are lost (MEMORY). */
QP_API qp_tensor qp_return(qp_scope s, qp_tensor y);
QP_API void qp_return_many(qp_scope s, qp_tensor *ys, int n);

/* Takes t out of its scope: it lives until qp_drop or qp_close. Returns t. */
QP_API qp_tensor qp_keep(qp_tensor t);

/* Releases one handle early. QP_NONE is allowed. */
QP_API void qp_drop(qp_tensor t);

/* A second handle to the same value, in the current scope. */
QP_API qp_tensor qp_alias(qp_tensor t);

/* ---- Gradients ---------------------------------------------------------------------- */

/* Makes t a leaf whose gradient is accumulated by qp_backward (or stops that, and drops gradient and
 * hooks). Errors: STATE (a result, not a leaf), TYPE (no float). */
QP_API void qp_require_grad(qp_tensor t, bool on);
QP_API bool qp_requires_grad(qp_tensor t); /* a leaf, or computed from one */

/* The accumulated gradient of a leaf, a handle of the current scope to the leaf's own memory: QP_NONE before
 * the first, and for what is no leaf. */
QP_API qp_tensor qp_grad_of(qp_tensor t);
QP_API void qp_zero_grad(qp_tensor t); /* back to QP_NONE */

/* t's gradient is now g, of t's shape, in t's type; QP_NONE: none. g's memory is taken over if
 * nothing but the handle g holds it, otherwise copied. Errors: STATE (no leaf), SHAPE. */
QP_API void qp_set_grad(qp_tensor t, qp_tensor g);

/* Gradients of loss (one element) for every leaf it came from, added to what they hold. The record is freed
 * on the way, by a call that fails, too: a second call on the same loss is an error. After a failure leaves
 * may hold part of a sum: qp_zero_grad. Errors: SHAPE (more than one element), STATE (nothing requires a
 * gradient, the record is gone, or a saved value was changed since), CANCELLED, and those of ops. */
QP_API void qp_backward(qp_tensor loss);

typedef struct {
    bool             retain; /* keep the record for another walk */
    const qp_tensor *seeds;  /* gradient of each y; NULL: ones, and each y has one element */
} qp_grad_options;

/* dxs[i] = sum over ys of the gradient with respect to xs[i]; leaves' gradients stay as
 * they are. xs that ys do not depend on get zeros. At most 64 ys and xs. Errors: as qp_backward, ARGUMENT (too
 * many, one missing or of another context), SHAPE (a seed); then all dxs are poison. */
QP_API void qp_grad(int ny, const qp_tensor *ys, int nx, const qp_tensor *xs, qp_tensor *dxs,
                    qp_grad_options options);

/* qp_no_grad(ctx, true) stops recording; returns what it was before, to be put back. Leaving
 * a scope puts it back, too. */
QP_API bool qp_no_grad(qp_ctx *ctx, bool on);

/* Mixed precision: products of f32 (not those within attention) round their operands to QP_BF16 or
 * QP_F16, add up in f32 and give f32; all else computes as it did, and no value is stored in the
 * smaller type. QP_F32: off, as at first. Gradients are formed as the forward call was. Returns what
 * it was before; leaving a scope puts it back. f16 gradients want their loss scaled. Error: ARGUMENT
 * (another type). */
QP_API qp_dtype qp_autocast(qp_ctx *ctx, qp_dtype dtype);

/* Another handle to the same value without its history: no gradient flows through it. */
QP_API qp_tensor qp_detach(qp_tensor t);

/* Runs ys = fn(data, xs) without recording and again during backward, so that what lies
 * between is never stored (Chen et al. 2016, arXiv:1604.06174). The second run sees the same
 * random position and autocast and must do the same (STATE where it gives fewer results or a parameter that
 * it used has changed). xs (at most 24, QP_NONE allowed) are all
 * tensors with a history that fn may use; leaves it may use as it likes. fn sets ys[0..ny-1], ny
 * at most 8; those at the end that it leaves alone are QP_NONE. data: `bytes` bytes, at most
 * QP_CHECKPOINT_DATA, which are copied. qp_backward goes through it, qp_grad does not
 * (UNSUPPORTED). */
#define QP_CHECKPOINT_DATA 32
typedef void (*qp_checkpoint_fn)(const void *data, const qp_tensor *xs, qp_tensor *ys);
QP_API void qp_checkpoint(qp_ctx *ctx, qp_checkpoint_fn fn, const void *data, size_t bytes, int nx,
                          const qp_tensor *xs, int ny, qp_tensor *ys);

/* fn(user, grad) is called when the gradient of leaf t is complete in a qp_backward: after the
 * last contribution, or, if the loss did not come from t, at the end, with what t holds or zeros.
 * What it writes into grad counts. Several hooks of a leaf run in order of making. Returns the
 * number that takes it off again, 0 on failure (STATE: no leaf; MEMORY). Hooks go with the leaf
 * (qp_require_grad(t, false)). qp_off_grad of another number is an ARGUMENT error. */
QP_API int qp_on_grad(qp_tensor t, void (*fn)(void *user, qp_tensor grad), void *user);
QP_API void qp_off_grad(qp_tensor t, int hook);

#ifdef __cplusplus
}
#endif
#endif
