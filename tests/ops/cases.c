/* Samples to values: the language of quipu/op.h. */
#include <ctype.h>

#include "harness.h"

static uint64_t seed;

static double uniform(void) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (double)(seed >> 11) * 0x1p-53;
}

static double normal(void) { return sqrt(-2 * log(1 - uniform())) * cos(6.283185307179586 * uniform()); }

static bool read_sizes(input *in, const char **text) {
    const char *p = *text;
    if (*p++ != '[') return false;
    while (*p != ']') {
        char *end;
        if (!isdigit((unsigned char)*p) || in->ndim == QP_MAX_DIMS) return false;
        in->shape[in->ndim++] = strtoll(p, &end, 10);
        p = end;
        if (*p == ',') p++;
        else if (*p != ']') return false;
    }
    *text = p + 1;
    return true;
}

static bool read_type(input *in, const char **text) {
    size_t n = strcspn(*text, "[");
    for (qp_dtype t = 0; t < QP_DTYPE_COUNT; t++) {
        if (strlen(qp_dtype_name(t)) != n || strncmp(qp_dtype_name(t), *text, n)) continue;
        in->type = t;
        *text += n;
        return true;
    }
    return false;
}

static bool read_input(input *in, const char **text) {
    const char *p = *text;
    *in = (input){.count = 1};
    for (; *p == '!' || *p == '^'; p++) *(*p == '!' ? &in->constant : &in->wide) = true;
    if (!*p || !strchr("xpusdiobtqw-", *p)) return false;
    in->kind = *p++;
    if (in->kind == '-') {
        in->ndim = -1;
    } else {
        if (in->kind == 'i' || in->kind == 'o') {
            char *end;
            in->limit = strtoll(p, &end, 10);
            if (end == p || in->limit < (in->kind == 'i')) return false;
            p = end;
        }
        if (in->kind == 'w' && !read_type(in, &p)) return false;
        if (!read_sizes(in, &p)) return false;
    }
    for (int i = 0; i < in->ndim; i++) in->count *= in->shape[i];
    if (*p && *p != ' ') return false;
    while (*p == ' ') p++;
    *text = p;
    return true;
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* 0.1 apart over all inputs of the kind, in random order. */
static void fill_distinct(op_case *c) {
    int64_t total = 0;
    for (int i = 0; i < c->nin; i++) total += c->in[i].kind == 'd' ? c->in[i].count : 0;
    double *v = malloc((size_t)(total + 1) * sizeof *v);
    for (int64_t i = 0; i < total; i++) v[i] = (float)(0.1 * (double)(i - total / 2) + 0.05);
    for (int64_t i = total - 1; i > 0; i--) {
        int64_t j = (int64_t)(uniform() * (double)(i + 1));
        double  t = v[i];
        v[i] = v[j];
        v[j] = t;
    }
    for (int i = 0; i < c->nin; i++) {
        if (c->in[i].kind != 'd') continue;
        total -= c->in[i].count;
        if (c->in[i].count) memcpy(c->in[i].value, v + total, (size_t)c->in[i].count * sizeof *v);
    }
    free(v);
}

static double draw(const input *in) {
    double x = 0;
    switch (in->kind) {
    case 'x':
    case 'w':
        while (fabs(x) < 0.05) x = normal();
        return (float)x;
    case 'p': return (float)(0.5 + 2 * uniform());
    case 'u': return (float)uniform();
    case 's': return (float)(0.2 * uniform() - 0.1);
    case 'b': return uniform() < 0.5;
    case 'q': return floor(uniform() * 255) - 127;
    default: return floor(uniform() * (double)(in->limit + (in->kind == 'o')));
    }
}

static void fill(op_case *c) {
    seed = 12345;
    for (const char *p = c->sample->in; *p; p++) seed = seed * 31 + (unsigned char)*p;
    for (int i = 0; i < c->nin; i++) {
        input *in = &c->in[i];
        in->value = in->ndim < 0 ? NULL : malloc((size_t)(in->count + 1) * sizeof *in->value);
        for (int64_t k = 0; k < in->count && in->ndim >= 0 && in->kind != 'd'; k++) in->value[k] = draw(in);
        for (int64_t k = 0; in->kind == 't' && k < in->count; k++) {
            int64_t at = k % in->shape[in->ndim - 1]; /* half of them continue the one before */
            in->value[k] = (double)(uniform() < 0.5 ? at : (int64_t)(uniform() * (double)(at + 1))) - 1;
        }
        if (in->kind != 'o' || in->count == 0) continue;
        in->value[0] = 0;
        if (in->count > 1) in->value[in->count - 1] = (double)in->limit;
        qsort(in->value, (size_t)in->count, sizeof *in->value, ascending);
    }
    fill_distinct(c);
}

bool case_make(op_case *c, const qp_op *op, const qp_sample *sample) {
    const char *p = sample->in;
    *c = (op_case){.op = op, .sample = sample};
    while (*p)
        if (c->nin == QP_MAX_IN || !read_input(&c->in[c->nin++], &p)) return false;
    fill(c);
    return true;
}

void case_free(op_case *c) {
    for (int i = 0; i < c->nin; i++) free(c->in[i].value);
}

bool is_float_input(const input *in) { return strchr("xpusd", in->kind) != NULL; }
bool gets_gradient(const input *in) { return is_float_input(in) && !in->constant; }

double tolerance_of(const op_case *c) {
    double t = c->sample->tolerance > 0 ? c->sample->tolerance : 2e-6;
    return c->larger ? 4 * t : t;
}

/* ---- Larger cases ------------------------------------------------------------------------------- */

/* The which-th distinct size above 1, 0 if there are fewer. */
static int64_t distinct_size(const op_case *c, int which) {
    int64_t seen[QP_MAX_IN * QP_MAX_DIMS];
    int     count = 0;
    for (int i = 0; i < c->nin; i++)
        for (int a = 0; a < c->in[i].ndim; a++) {
            bool fresh = c->in[i].shape[a] > 1;
            for (int k = 0; k < count && fresh; k++) fresh = seen[k] != c->in[i].shape[a];
            if (fresh) seen[count++] = c->in[i].shape[a];
        }
    return which < count ? seen[which] : 0;
}

/* Does the op take these shapes, at a price that the definition can pay? */
static bool affordable(const op_case *c) {
    qp_ctx *ctx = context_of(QP_ISA_BASE, 0);
    qp_view in[QP_MAX_IN], out[QP_MAX_OUT];
    char    attr[QP_MAX_ATTR] = {0};
    if (c->sample->attr) memcpy(attr, c->sample->attr, c->op->attr_bytes);
    for (int i = 0; i < c->nin; i++) {
        in[i] = (qp_view){.ndim = -1};
        if (c->in[i].ndim >= 0)
            qpi_view_init(&in[i], input_dtype(&c->in[i], PLAIN_FORM), c->in[i].ndim, c->in[i].shape);
    }
    memset(out, 0, sizeof out);
    qp_call call = {ctx, c->op, attr, c->nin, c->op->nout, in, out, NULL, QP_F32};
    if (c->op->shape) c->op->shape(&call);
    else if (c->op->mutates) out[0] = in[0];
    else qpi_broadcast_shape(&call, 0);
    bool   ok = !qp_failed(ctx);
    double cost = 0;
    qp_clear(ctx);
    for (int i = 0; i < c->op->nout && ok; i++) cost += (double)qp_view_count(&out[i]);
    if (ok && c->op->flops) cost += c->op->flops(&call);
    return ok && cost < 4e6;
}

bool case_refill(op_case *c) {
    if (!affordable(c)) return false;
    fill(c);
    return true;
}

bool case_enlarge(op_case *to, const op_case *from, int which) {
    int64_t size = distinct_size(from, which), total = 0;
    if (!size || from->op->view) return false;
    for (int i = 0; i < from->nin; i++) total += from->in[i].ndim < 0 ? 0 : from->in[i].count;
    for (int64_t factor = 50000 / (total + 1); factor > 2; factor /= 3) {
        *to = *from;
        to->larger = true;
        for (int i = 0; i < to->nin; i++) {
            input *in = &to->in[i];
            in->count = 1;
            for (int a = 0; a < in->ndim; a++) {
                if (in->shape[a] == size) in->shape[a] *= factor;
                in->count *= in->shape[a];
            }
        }
        if (case_refill(to)) return true;
    }
    return false;
}
