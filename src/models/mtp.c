/* Multi-token prediction (DeepSeek-V3, arXiv:2412.19437, section 2.2). Module k = 1 .. N reads what its
 * predecessor (for the first: the model) has for position i and the token k places further, and predicts
 * the one behind that:
 *
 *   x_i = W [norm(Emb(t_{i+k})); norm(h^{k-1}_i)],  h^k = norm(block(x)),  p(t_{i+k+1}) = softmax(head h^k_i)
 *
 * Embedding and head are the model's. The loss is 0.3 / N times the sum of the modules' cross-entropies.
 * The order within [ ; ] is that of the published weights, and h^0 is what the last norm gives, which is
 * also what servers hand to the first module. */
#include "models/model.h"

#define WEIGHT 0.3

static qp_tensor norm(const qp_norm *n, qp_tensor x) { return n->type ? n->type->forward(n->self, x) : x; }

qp_tensor qpi_mtp_forward(qp_model *m, int k, qp_tensor hidden, qp_tensor ids, const qp_sequence *s,
                          qp_state *states) {
    const qpi_mtp *p = &m->mtp[k];
    qp_record      out = {0};
    qp_scope       scope = qp_enter(m->ctx);
    qp_tensor      embedded = m->input.type->forward(m->input.self, ids, s);
    qp_tensor      both[2] = {norm(&p->embedded, embedded), norm(&p->hidden, hidden)};
    qp_tensor      x = qp_nn_linear_forward(p->project, qp_concat(2, both, 2), QP_ACT_NONE, QP_NONE);
    return qp_return(scope, norm(&p->last, qpi_stack_layer(m, m->layers + k, x, s, &out, states)));
}

static qp_tensor cut(qp_tensor t, int64_t from, int64_t to) {
    return qp_is_none(t) || qp_size(t, 1) == 1 ? t : qp_slice(t, 1, from, to, 1);
}

/* `lengths` are of no use here: what they hide comes after everything that counts. */
qp_tensor qpi_mtp_ahead(qp_model *m, int k, int64_t ahead, qp_tensor hidden, qp_tensor ids,
                        const qp_sequence *s, qp_sequence *cropped) {
    static const qp_record none;
    int64_t                T = qp_size(ids, 1), n = T - ahead;
    *cropped = (qp_sequence){.positions = cut(s->positions, 0, n),
                             .length = s->length,
                             .dropout = s->dropout,
                             .in = &none,
                             .before = &none,
                             .mask = {.segments = cut(s->mask.segments, 0, n)}};
    return qpi_mtp_forward(m, k, qp_slice(hidden, 1, 0, n, 1), qp_slice(ids, 1, ahead, T, 1), cropped, NULL);
}

qp_tensor qpi_mtp_loss(qp_model *m, qp_tensor hidden, qp_tensor ids, qp_tensor labels, const qp_sequence *s) {
    int64_t   T = qp_size(ids, 1);
    qp_tensor sum = qp_scalar(m->ctx, m->ctx->param_dtype, 0);
    for (int k = 1; k <= m->mtp_count && k < T; k++) {
        qp_sequence cropped;
        hidden = qpi_mtp_ahead(m, k - 1, k, hidden, ids, s, &cropped);
        qp_tensor loss =
            qpi_output_loss(&m->output, hidden, qp_contiguous(qp_slice(labels, 1, k, T, 1)), &cropped);
        sum = qp_add(sum, qp_affine(loss, WEIGHT / m->mtp_count, 0));
    }
    return sum;
}
