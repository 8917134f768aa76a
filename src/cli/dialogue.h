/* What chatting verbs open: model, template, engine. */
#ifndef QUIPU_CLI_DIALOGUE_H
#define QUIPU_CLI_DIALOGUE_H

#include "cli/open.h"

typedef struct {
    cli_model m;                /* its ends also those of turns: <|im_end|> and the like */
    qp_chat_template *template; /* NULL: the model has none */
    qp_engine *engine;
    int64_t    positions; /* of a row */
} cli_dialogue;

/* Reads the options --model, --chat-template, --context and --kv. False after an error; a model without
 * template is one only if `chat`. */
bool cli_dialogue_open(cli *c, qp_ctx *ctx, int64_t rows, int64_t queue, bool chat, cli_dialogue *out);

#define CLI_DIALOGUE_OPTIONS \
    {"model", 'm', CLI_TEXT, "MODEL", NULL, "model folder or GGUF file", 0, 0, true}, \
        {"chat-template", 0, CLI_TEXT, "FILE", NULL, "Jinja template in place of the model's", 0, 0, false}, \
        {"context", 'c', CLI_INT, "N", "0", "positions of a conversation; 0: the model's, up to 8192", \
         0,         1e9, false}, \
    { \
        "kv", 0, CLI_TEXT, "TYPE", "f16", "keys and values are kept in f32, bf16, f16 or q8_0", 0, 0, false \
    }

#endif
