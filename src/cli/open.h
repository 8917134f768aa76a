/* What verbs open: a model's folder, its tokenizer, texts. All store errors in the context. */
#ifndef QUIPU_CLI_OPEN_H
#define QUIPU_CLI_OPEN_H

#include "cli/cli.h"

#define CLI_MAX_ENDS 64

typedef struct {
    qp_model     *model; /* not training */
    qp_model_info info;
    qp_tokenizer *tokenizer;          /* NULL where none was asked for */
    int32_t       ends[CLI_MAX_ENDS]; /* tokens that end a text */
    int           end_count;
    int32_t       begin; /* the token that begins a text, -1: none */
} cli_model;

/* Where the model itself is: path, or the newest state of a training's output. Errors come
 * later, from what reads it. */
const char *cli_model_path(const char *path, char buffer[4096]);

/* Ends and beginning come from generation_config.json, config.json or the tokenizer, in this
 * order. */
bool cli_model_open(qp_ctx *ctx, const char *folder, bool with_tokenizer, cli_model *out);

/* From now on products of this context round rows to bf16 if the model's matrices are bf16: the speed of
 * memory and of 16-bit instructions, for writing text. Figures about a model are made without. */
void cli_round_products(qp_ctx *ctx, qp_model *m);

/* That of a folder (without tokenizer.json: bytes, if config.json's vocabulary is theirs) or a
 * tokenizer.json. */
qp_tokenizer *cli_tokenizer_open(qp_ctx *ctx, const char *path);

/* Appends ids below limit, separated by blanks; where begins the error's text. Cuts text up. */
bool cli_parse_ids(qp_ctx *ctx, char *text, int64_t limit, const char *where, qp_ids *out);
/* What --kv asks keys and values to be kept in. */
bool cli_kv_type(qp_ctx *ctx, const char *name, qp_session_options *options);
/* A session that keeps them so. NULL: an error is stored. */
qp_session *cli_session(qp_model *m, int64_t rows, int64_t positions, const char *kv);
bool cli_append_id(qp_ctx *ctx, qp_ids *ids, int32_t id);
bool cli_append(qp_ctx *ctx, qp_text *text, const void *data, size_t bytes);

/* A whole file, or stdin for "-", appended to text. */
bool cli_read_text(qp_ctx *ctx, const char *path, qp_text *text);

#endif
