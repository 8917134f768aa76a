/* quipu compare in its stages: a plan of variants and runs, the runs, what length costs, tables and the page.
 */
#ifndef QUIPU_CLI_COMPARE_H
#define QUIPU_CLI_COMPARE_H

#include <jansson.h>

#include "cli/task.h"

#define COMPARE_MOST 64 /* variants, lengths, learning rates */

/* A model that differs from the base in one part. */
typedef struct {
    char       *name;   /* as given: "mixer=linear:features=relu" */
    json_t     *config; /* a stack */
    const char *role;   /* that was exchanged; part of the name */
    json_t     *test;   /* options of that part that hold in tests at other lengths only; NULL: none */
    const char *knob;   /* what was adjusted for equal parameters, NULL: nothing */
    int64_t     inner, parameters; /* the knob's value */
    char        why[400];          /* it cannot be made; "": it can */
} compare_variant;

typedef struct {
    int64_t count, at[COMPARE_MOST];
} compare_lengths;

typedef struct {
    int     variant;
    int64_t length, seed;
    double  lr;
    char    folder[4096], file[32]; /* where it is trained; what its result is called there */
    json_t *result;                 /* NULL: not there yet */
} compare_run;

typedef struct {
    cli             *c;
    qp_ctx          *ctx;
    task             task;
    bool             talks;
    compare_variant *variants; /* the first one that mixes by attention, or else the first, is the reference */
    int              variant_count, reference;
    compare_lengths  lengths, tests, costs;
    int              rate_count;
    double           rates[COMPARE_MOST];
    compare_run     *runs;
    int              run_count;
    int              rank, processes; /* of those that mpirun started */
    json_t          *cost;            /* rows of compare_measure */
} compare;

/* compare_plan.c: variants and runs from the options. False after a message or storing an error. */
bool compare_plan(compare *k);
void compare_free(compare *k);
/* The variant's config for training at a length, or for tests of what was; malloc'ed text. positions 0: those
 * of the longest row. */
char *compare_config(const compare *k, const compare_variant *v, int64_t length, int64_t positions, bool test);

/* compare_run.c: the runs, each once whatever the number of processes. False after storing an error:
 * interrupted, or the folder cannot be written to. What is wrong with one run stands in its result. */
bool compare_train(compare *k);
/* Rows of a batch of a run. */
int64_t compare_batch(const compare *k, int64_t length);

/* compare_cost.c: k->cost, seconds and flops of variants by length. */
bool compare_measure(compare *k);
/* The length from which a variant's `key` ("seconds", "flops") is below the reference's: NaN where it is at
 * none that was measured, 0 where at all. */
double compare_crossover(const compare *k, int variant, const char *key);
/* A variant's costs as points. */
struct compare_points {
    int    n;
    double length[COMPARE_MOST], value[COMPARE_MOST];
};
struct compare_points compare_costs(const compare *k, int variant, const char *key);

/* compare_table.c: the result as JSON, its table as text and as CSV. */
json_t *compare_gather(const compare *k);
void compare_print(const compare *k, const json_t *all);
bool compare_save(const compare *k, const json_t *all); /* compare.json, compare.csv */

/* compare_report.c: report.html. */
bool compare_report(const compare *k, const json_t *all);

#endif
