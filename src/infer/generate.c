/* One text. */
#include "infer/decode.h"
#include "infer/request.h"

/* What the context holds is the result's, too. */
static qp_status end(const qp_ctx *ctx, qp_generation *result) {
    if (!qp_failed(ctx)) return QP_OK;
    result->reason = QP_STOP_ERROR;
    result->error = qp_error(ctx);
    return qp_error_code(ctx);
}

qp_status qp_generate(qp_session *session, const qp_tokenizer *t, const int32_t *ids, int64_t n,
                      qp_generate_options options, qp_generation *result) {
    qp_ctx     *ctx = qp_session_ctx(session);
    qpi_reply   reply = {0};
    qpi_decoder d = {0};
    *result = (qp_generation){.prompt_tokens = n};
    if (qp_failed(ctx)) return end(ctx, result);
    int64_t   before = session->row[0].length, chunk = options.chunk > 0 ? options.chunk : QPI_CHUNK;
    qpi_seat  seat = {.reply = &reply, .origin = before, .prompt = ids, .prompt_count = n};
    qpi_seat *seats[] = {&seat};
    char      wrong[256];
    if (qpi_prompt_wrong(ids, n, session->m->vocabulary, wrong))
        qp_fail(ctx, QP_ERR_ARGUMENT, "generate: %s", wrong);
    else if (n > session->reserved - before)
        qp_fail(ctx, QP_ERR_ARGUMENT, "generate: a prompt of %lld tokens after %lld, room for %lld",
                (long long)n, (long long)before, (long long)session->reserved);
    if (qp_failed(ctx)) return end(ctx, result);
    bool ok = qpi_reply_open(&reply, ctx, t, &options, session->m->vocabulary, ids, n) &&
              qpi_decoder_open(&d, session, options.drafter, 1);
    while (ok && !qpi_seat_writes(&d, &seat)) ok = qpi_decoder_prompt(&d, &seat, chunk);
    if (ok && session->row[0].length == session->reserved) qpi_reply_stop(&reply, QP_STOP_LENGTH);
    while (ok && !reply.stopped) ok = qpi_decoder_step(&d, 1, seats);
    qpi_reply_finish(&reply);
    *result = reply.result;
    qpi_reply_close(&reply);
    qpi_decoder_close(&d);
    return end(ctx, result);
}
