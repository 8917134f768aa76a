/* What the op tests share. They are driven by the registry: each op is run on its samples, and
 * no op is named here.
 *
 * A sample becomes a case (values on the host); a case becomes tensors of some type and memory
 * layout, in attached buffers whose every other byte is watched. */
#ifndef TESTS_OPS_HARNESS_H
#define TESTS_OPS_HARNESS_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/core.h"
#include "quipu/quipu.h"

/* ---- Values on the host -------------------------------------------------------------------- */

typedef struct {
    char     kind;     /* x p u d i o b t q w -, see quipu/op.h */
    qp_dtype type;     /* of w */
    bool     constant; /* ! */
    bool     wide;     /* ^ */
    int64_t  limit;    /* N of iN and oN */
    int      ndim;
    int64_t  shape[QP_MAX_DIMS], count;
    double  *value; /* each one is an f32 */
} input;

typedef struct {
    const qp_op     *op;
    const qp_sample *sample;
    int              nin;
    bool             larger; /* sizes were scaled up: differences may grow */
    input            in[QP_MAX_IN];
} op_case;

/* The sample's values; false if its text breaks the language. Values depend on the text only. */
bool case_make(op_case *c, const qp_op *op, const qp_sample *sample);
void case_free(op_case *c);

/* New values for the case's shapes; false if the op does not take them, or the definition would
 * be too slow for it. */
bool case_refill(op_case *c);

/* The same with the which-th distinct size scaled up, so that work is cut into pieces; false if
 * there is no such size or the op does not take it (or is too slow for it). */
bool case_enlarge(op_case *to, const op_case *from, int which);

bool is_float_input(const input *in); /* kinds x p u d */
bool gets_gradient(const input *in);  /* and no constant */
double tolerance_of(const op_case *c);

/* ---- Tensors --------------------------------------------------------------------------------- */

typedef enum {
    LAYOUT_FLAT,
    LAYOUT_OFFSET,   /* contiguous, one element off alignment */
    LAYOUT_ROWS,     /* gaps between rows */
    LAYOUT_STEPS,    /* every second element */
    LAYOUT_REVERSED, /* axes in reverse order in memory */
    LAYOUT_MIXED,    /* pairs of axes swapped, gaps everywhere */
    LAYOUT_COUNT
} layout;

typedef struct {
    qp_dtype floats;   /* type of float inputs that are not constant or wide */
    qp_dtype integers; /* QP_I64 or QP_I32 */
    layout   layout;
    int      only; /* only this input has the layout; -1: all */
} form;
#define PLAIN_FORM ((form){QP_F32, QP_I64, LAYOUT_FLAT, -1})

qp_dtype input_dtype(const input *in, form f);

/* Memory with watched surroundings. */
typedef struct {
    unsigned char *buffer, *before; /* before: a copy as it was filled */
    size_t         bytes;
    qp_view        view;
} guarded;

guarded guarded_make(const input *in, qp_dtype dtype, layout layout); /* value NULL: elements unset */
void guarded_free(guarded *g);
bool guarded_intact(const guarded *g, bool written); /* written: the elements may differ */
qp_tensor guarded_tensor(qp_ctx *ctx, const guarded *g);

typedef struct {
    int       n;
    guarded   memory[QP_MAX_IN];
    qp_tensor tensor[QP_MAX_IN];
} inputs;

void inputs_make(inputs *x, qp_ctx *ctx, const op_case *c, form f);
void inputs_free(inputs *x);
bool inputs_intact(const inputs *x, const qp_op *op);

/* ---- Running ----------------------------------------------------------------------------------- */

typedef struct {
    qp_dtype dtype;
    int      ndim;
    int64_t  shape[QP_MAX_DIMS], count;
    double  *value;
    void    *bits;
} array;

array array_read(qp_tensor t);
void array_free(array *a);

/* Outputs, then what a mutating op has written besides. */
typedef struct {
    int     n;
    bool    failed;
    qp_code code;
    char    error[512];
    array   a[QP_MAX_OUT + QP_MAX_IN];
} results;

void results_free(results *r);

/* The op without its kernels: the definition runs. */
qp_op definition_of(const qp_op *op);

/* Runs a case in a scope of its own; a failure is kept in the results and cleared. */
results run_case(qp_ctx *ctx, const qp_op *op, const op_case *c, form f);

/* ---- Judging ------------------------------------------------------------------------------------- */

/* Counts a complaint about the current op, and prints the first few. */
void complain(const op_case *c, const char *format, ...) QP_PRINTF(2, 3);

/* max|a-b| / max(max|b|, least); infinity for other shapes, or NaN and inf in other places. */
double relative_error(const array *a, const array *b, double least);
bool same_bits(const array *a, const array *b);
/* Integers and truth values must be equal, floats within tolerance; least as above. */
void compare_from(const op_case *c, const char *what, const results *got, const results *expected,
                  double tolerance, double least);
void compare(const op_case *c, const char *what, const results *got, const results *expected, double tolerance);
void compare_bits(const op_case *c, const char *what, const results *got, const results *expected);

/* ---- Contexts and the program ---------------------------------------------------------------------- */

enum { THREAD_COUNTS = 3 };
extern const int thread_counts[THREAD_COUNTS]; /* 1, 2, 5 */

/* Those that are tested go from here to qpi_cpu_isa(). With QUIPU_TEST_WITHOUT_EXTRAS in the environment
 * only AVX-512, as on a processor that has neither BF16 nor VNNI. */
extern qp_isa first_isa;

/* A context for an instruction set (QP_ISA_BASE ..) and the which-th number of threads; NULL if
 * the machine has no such instructions. */
qp_ctx *context_of(qp_isa isa, int which);
const char *isa_name(qp_isa isa);

int open_contexts(void **state); /* a group's setup and teardown */
int close_contexts(void **state);

/* Runs test(op) for each op of the registry, or only those named on the command line. */
int run_ops(int argc, char **argv, void (*test)(const qp_op *op));

/* Calls test for each sample of op as a case. */
void each_case(const qp_op *op, void (*test)(const op_case *c));

#endif
