/* quipu/chat.h: chat templates: messages to the text, or the tokens, that a model was trained on.
 *
 * A template is what transformers' apply_chat_template takes: Jinja, of which the part is understood
 * that chat templates use (docs/chat-templates.md); anything else is an error when the template is
 * read, with its line. Templates are not trusted: the steps, memory and output of a rendering are
 * bounded by a multiple of its input, and a template can reach nothing but what it is given. Nor are
 * messages: what they say is data to the template, and of every place of the result it is known
 * whether the template wrote it or a message did, so that a token such as <|im_end|> within a message
 * is encoded as the text that it is. */
#ifndef QUIPU_CHAT_H
#define QUIPU_CHAT_H

#include "data.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct qp_chat_template qp_chat_template;

/* A template from its source (UTF-8; name stands in messages). The context's; it does not change when
 * used, so threads may share it, each with its own context for errors. NULL after storing an error:
 * FORMAT (malformed; the line and what was found), UNSUPPORTED (a construct that quipu has not), MEMORY. */
QP_API qp_chat_template *qp_chat_template_new(qp_ctx *ctx, const char *name, const char *source, size_t bytes);

/* That of a model: a folder with chat_template.jinja or tokenizer_config.json (whose chat_template
 * may be a text or a list of named ones: "tool_use" serves where tools are given), a GGUF file, or the
 * file of a template itself. bos_token, eos_token and the others come from tokenizer_config.json or the
 * GGUF file. FORMAT if there is no template; else as of qp_chat_template_new, and IO. */
QP_API qp_chat_template *qp_chat_template_load(qp_ctx *ctx, const char *path);

/* Frees it early. NULL is allowed. */
QP_API void qp_chat_template_close(qp_chat_template *t);

/* A token's text under the name that templates know: "bos_token", "eos_token". Before any other use. Errors:
 * ARGUMENT (not UTF-8), MEMORY. */
QP_API QP_MUST_CHECK qp_status qp_chat_template_set(qp_ctx *ctx, qp_chat_template *t, const char *name,
                                                    const char *text);

QP_API const char *qp_chat_template_source(const qp_chat_template *t); /* ended by 0 */

typedef struct {
    const char *tools;             /* JSON array of tools, as in OpenAI's API; NULL: none */
    const char *documents;         /* JSON array; NULL: none */
    const char *variables;         /* JSON object: further names for the template, as enable_thinking */
    bool        generation_prompt; /* ends where the assistant's reply begins */
    int64_t     now;               /* seconds since 1970, for templates that ask for the date; 0: the clock */
} qp_chat_options;

typedef struct {
    size_t begin, end; /* bytes */
} qp_span;

/* Start with {0}; rendering appends to nothing: what was there is replaced. */
typedef struct {
    qp_text  text;
    qp_span *foreign; /* what comes from messages, tools, documents or variables, in order */
    size_t   foreign_count, foreign_capacity;
} qp_rendered;
QP_API void qp_rendered_free(qp_rendered *r);

/* messages: a JSON array of objects, [{"role": "user", "content": ".."}, ..], with whatever else the
 * template reads. Errors: FORMAT (JSON), ARGUMENT (what the template raises: the name and line; also
 * beyond its bounds), UNSUPPORTED, MEMORY. */
QP_API QP_MUST_CHECK qp_status qp_chat_render(qp_ctx *ctx, const qp_chat_template *t, const char *messages,
                                              size_t bytes, qp_chat_options options, qp_rendered *out);

/* Appends the ids of what was rendered: as qp_encode of the text, without wrapping, and special tokens
 * are found only where the template wrote all of them. Errors as of qp_encode. */
QP_API QP_MUST_CHECK qp_status qp_chat_encode(qp_ctx *ctx, const qp_tokenizer *t, const qp_rendered *r,
                                              qp_ids *out);

#ifdef __cplusplus
}
#endif
#endif
