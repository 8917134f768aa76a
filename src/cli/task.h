/* Tasks: what `quipu compare` trains models on. Each is one file in src/cli/tasks with one descriptor. A sample
 * is a row of T ids and of T labels, -100 where nothing is to be said: the same form for the next token of a
 * text, for a token to recall and for the class of an image (an id at the last position). */
#ifndef QUIPU_CLI_TASK_H
#define QUIPU_CLI_TASK_H

#include "cli/cli.h"
#include "nn/part.h"

#define TASK_NOTHING (-100) /* the label of positions that do not count */

/* Numbers of one sample: the same for the same seed and sample, whatever was drawn before. */
typedef struct {
    uint64_t seed, sample, count;
} task_random;

uint32_t task_draw(task_random *r, uint32_t below);
double task_uniform(task_random *r); /* 0 <= u < 1 */

typedef enum { TASK_TRAINING, TASK_TEST } task_split;

/* What a task's open sees and sets. */
typedef struct {
    qp_build            build; /* for qp_setting */
    const char *const  *files; /* of --data */
    int                 file_count;
    const qp_tokenizer *tokenizer;
    int64_t             vocabulary;      /* ids are below it */
    double              bytes_per_token; /* of the test text; 0: it is none */
    uint64_t            fingerprint;     /* of what was read from files */
} task_build;

typedef struct {
    qp_part part;       /* bytes: of the object, given zeroed to open */
    bool    files;      /* needs --data */
    bool    reveals;    /* a label is a later input: whoever sees it need not predict it */
    bool    both_sides; /* parts that can see what follows should */
    int64_t length;     /* usual T */
    /* False after storing an error. */
    bool (*open)(void *self, task_build *b);
    void (*close)(void *self); /* NULL: nothing to free */
    /* NULL, or why rows cannot have T positions. */
    const char *(*refuses)(const void *self, int64_t length);
    /* Samples that there are of rows of T; NULL: any number. */
    int64_t (*samples)(const void *self, task_split split, int64_t length);
    /* Fills a row; called from several threads at once. Of those without `samples`, r says which. */
    void (*fill)(const void *self, task_random *r, task_split split, int64_t index, int64_t length,
                 int64_t *ids, int64_t *labels);
} cli_task;

#define QP_TASK(name) \
    extern const cli_task cli_task_##name; \
    const cli_task        cli_task_##name
extern const cli_task *const cli_tasks[];

/* An opened task. */
typedef struct {
    const cli_task *type;
    void           *self;
    qp_settings     settings;
    task_build      about;
} task;

/* spec: NAME or NAME:option=value:... False after storing an error. */
bool task_open(task *t, qp_ctx *ctx, const char *spec, int file_count, const char *const *files,
               const qp_tokenizer *tokenizer);
void task_close(task *t);

/* Reads NAME:option=value:... into settings of the part. */
bool task_settings(qp_ctx *ctx, qp_settings *s, const qp_part *part, const char *where, const char *options);

/* Rows of T as a data set: `samples` of an epoch at most (0: as many as there are, or as are usual). NULL after
 * storing an error. The task must outlive it. */
qp_data *task_data(const task *t, qp_ctx *ctx, task_split split, int64_t length, int64_t batch, int64_t samples,
                   uint64_t seed);

#endif
