#include "cli/dialogue.h"

#include <string.h>

#define USUAL_POSITIONS 8192

/* Tokens that end a turn, whatever a model's configs say. */
static void add_turn_ends(cli_model *m) {
    static const char *const names[] = {"<|im_end|>",    "<|eot_id|>", "<|eom_id|>",
                                        "<end_of_turn>", "<|end|>",    "<|END_OF_TURN_TOKEN|>"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        int32_t id = qp_tokenizer_id(m->tokenizer, names[i]);
        bool    known = id < 0 || !qp_tokenizer_is_special(m->tokenizer, id) || m->end_count == CLI_MAX_ENDS;
        for (int k = 0; k < m->end_count && !known; k++) known = m->ends[k] == id;
        if (!known) m->ends[m->end_count++] = id;
    }
}

bool cli_dialogue_open(cli *c, qp_ctx *ctx, int64_t rows, int64_t queue, bool chat, cli_dialogue *out) {
    char               buffer[4096];
    const char        *path = cli_text(c, "model"), *file = cli_text(c, "chat-template");
    qp_session_options session = {0};
    *out = (cli_dialogue){0};
    if (!cli_kv_type(ctx, cli_text(c, "kv"), &session)) return false;
    /* the template first: weights take a while */
    out->template = qp_chat_template_load(ctx, file ? file : cli_model_path(path, buffer));
    if (!out->template && !chat && !file && qp_error_code(ctx) == QP_ERR_FORMAT &&
        strstr(qp_error(ctx), "no chat template"))
        qp_clear(ctx);
    if (qp_failed(ctx) || !cli_model_open(ctx, path, true, &out->m)) return false;
    cli_round_products(ctx, out->m.model);
    add_turn_ends(&out->m);
    int64_t most = out->m.info.positions > 0 ? out->m.info.positions : USUAL_POSITIONS;
    out->positions = cli_int(c, "context");
    if (!out->positions || out->positions > most)
        out->positions = most < USUAL_POSITIONS || out->positions ? most : USUAL_POSITIONS;
    out->engine = qp_engine_new(
        out->m.model, out->m.tokenizer,
        (qp_engine_options){.rows = rows, .positions = out->positions, .queue = queue, .kv = session.kv});
    /* encoders write no text, but a server has other uses for them */
    if (!out->engine && !chat && qp_error_code(ctx) == QP_ERR_UNSUPPORTED) qp_clear(ctx);
    return !qp_failed(ctx);
}
