/* Rotary position embedding (Su et al. 2021, arXiv:2104.09864): feature pair i of a query or
 * key at position m turns by m f_i, f_i = theta^(-2i/R). To reach beyond the trained length L
 * with factor s:
 *   linear   f_i / s                                         arXiv:2306.15595
 *   ntk      theta s^(R/(R-2)): the slowest pair as linear, the fastest as it is
 *   dynamic  theta (s n/L - (s - 1))^(R/(R-2)), n = max(length, L)   "dynamic NTK"
 *   yarn     between f_i / s and f_i by a ramp over pairs, cos and sin times
 *            0.1 ln s + 1                                     arXiv:2309.00071
 *   llama3   wavelengths above L/low divided by s, below L/high kept, smooth between
 */
#include <math.h>

#include "core/core.h"
#include "nn/part.h"

enum { DEFAULT, LINEAR, DYNAMIC, YARN, LLAMA3, NTK };

typedef struct {
    int            type;
    int64_t        rotated; /* R, even */
    double         theta, factor, trained;
    double         scale; /* of cos and sin */
    qp_rope_layout layout;
    qp_tensor      frequencies; /* f32 [R / 2]; those of the trained length */
} rope;

static const qp_option options[] = {
    {.name = "scaling",
     .kind = QP_OPTION_CHOICE,
     .high = 5,
     .choices = "default|linear|dynamic|yarn|llama3|ntk",
     .help = "how it reaches beyond the trained length"},
    {.name = "layout",
     .kind = QP_OPTION_CHOICE,
     .high = 1,
     .choices = "half|interleaved",
     .help = "which features form a pair"},
    OPTION_NUMBER("theta", 10000, 1e-3, 1e12, "base of the frequencies"),
    OPTION_NUMBER("fraction", 1, 0, 1, "share of the features that turn"),
    OPTION_NUMBER("factor", 1, 1e-3, 1e6, "s, how many times the trained length"),
    OPTION_NUMBER("trained_positions", 0, 0, 1e12, "L; 0: the model's positions"),
    OPTION_NUMBER("beta_fast", 32, 1e-6, 1e6, "yarn: turns over L above which a pair is kept"),
    OPTION_NUMBER("beta_slow", 1, 1e-6, 1e6, "yarn: turns over L below which a pair is divided by s"),
    OPTION_NUMBER("attention_factor", 0, 0, 1e6, "yarn: scale of cos and sin; 0: from s"),
    OPTION_NUMBER("mscale", 0, 0, 1e6, "yarn: numerator of the scale (with mscale_all_dim)"),
    OPTION_NUMBER("mscale_all_dim", 0, 0, 1e6, "yarn: its denominator"),
    {.name = "truncate",
     .kind = QP_OPTION_BOOL,
     .fallback = 1,
     .high = 1,
     .help = "yarn: bounds of the ramp are whole pairs"},
    OPTION_NUMBER("low_freq_factor", 1, 1e-6, 1e6, "llama3"),
    OPTION_NUMBER("high_freq_factor", 4, 1e-6, 1e6, "llama3"),
    {0}};

/* The pair that turns `turns` times over the trained length. */
static double pair_of(const rope *r, double turns) {
    return (double)r->rotated * log(r->trained / (turns * 2 * M_PI)) / (2 * log(r->theta));
}

static double yarn_scale(double factor, double m) { return factor <= 1 ? 1 : 0.1 * m * log(factor) + 1; }

static double frequency(const rope *r, int64_t pair, double theta) {
    return pow(theta, -2.0 * (double)pair / (double)r->rotated);
}

static void yarn(rope *r, const qp_build *b, float *f) {
    double low = pair_of(r, qp_setting(b, "beta_fast")), high = pair_of(r, qp_setting(b, "beta_slow"));
    if (qp_setting(b, "truncate")) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0);
    high = fmin(high, (double)r->rotated - 1);
    if (low == high) high += 0.001;
    for (int64_t i = 0; i < r->rotated / 2; i++) {
        double ramp = fmin(fmax(((double)i - low) / (high - low), 0), 1), whole = frequency(r, i, r->theta);
        f[i] = (float)(whole / r->factor * ramp + whole * (1 - ramp));
    }
    double m = qp_setting(b, "mscale"), all = qp_setting(b, "mscale_all_dim");
    r->scale = qp_setting(b, "attention_factor");
    if (r->scale == 0)
        r->scale = m != 0 && all != 0 ? yarn_scale(r->factor, m) / yarn_scale(r->factor, all)
                                      : yarn_scale(r->factor, 1);
}

static void llama3(const rope *r, const qp_build *b, float *f) {
    double low = qp_setting(b, "low_freq_factor"), high = qp_setting(b, "high_freq_factor");
    for (int64_t i = 0; i < r->rotated / 2; i++) {
        double whole = frequency(r, i, r->theta), turns = r->trained * whole / (2 * M_PI);
        double smooth = fmin(fmax((turns - low) / (high - low), 0), 1);
        f[i] = (float)((1 - smooth) * whole / r->factor + smooth * whole);
    }
}

static void init(void *self, qp_build *b) {
    rope *r = self;
    r->type = (int)qp_setting_int(b, "scaling");
    r->layout = qp_setting_int(b, "layout") ? QP_ROPE_INTERLEAVED : QP_ROPE_HALF;
    r->rotated = (int64_t)((double)b->head_width * qp_setting(b, "fraction"));
    r->theta = qp_setting(b, "theta");
    r->factor = qp_setting(b, "factor");
    r->trained = qp_setting(b, "trained_positions");
    if (r->trained == 0) r->trained = (double)b->max_positions;
    r->scale = 1;
    if (r->rotated < 2 || r->rotated % 2) {
        qp_fail(b->ctx, QP_ERR_ARGUMENT,
                "rope: %lld of %lld features of a head turn, expected an even number from 2",
                (long long)r->rotated, (long long)b->head_width);
        return;
    }
    if (r->type == NTK && r->rotated > 2)
        r->theta *= pow(r->factor, (double)r->rotated / ((double)r->rotated - 2));
    int64_t pairs = r->rotated / 2;
    r->frequencies = qp_module_keep(b->module, qp_empty(b->ctx, QP_F32, 1, &pairs));
    float *f = qp_data_write(r->frequencies);
    if (!f) return;
    for (int64_t i = 0; i < pairs; i++)
        f[i] = (float)(frequency(r, i, r->theta) / (r->type == LINEAR ? r->factor : 1));
    if (r->type == YARN) yarn(r, b, f);
    if (r->type == LLAMA3) llama3(r, b, f);
}

static qp_tensor frequencies(const rope *r, const qp_sequence *s) {
    if (r->type != DYNAMIC || (double)s->length <= r->trained) return r->frequencies;
    double    growth = r->factor * (double)s->length / r->trained - (r->factor - 1);
    double    theta = r->theta * pow(growth, (double)r->rotated / ((double)r->rotated - 2));
    int64_t   pairs = r->rotated / 2;
    qp_tensor t = qp_empty(s->positions.ctx, QP_F32, 1, &pairs);
    float    *f = qp_data_write(t);
    for (int64_t i = 0; f && i < pairs; i++) f[i] = (float)frequency(r, i, theta);
    return t;
}

static qp_tensor rotate(void *self, qp_tensor x, const qp_sequence *s) {
    rope *r = self;
    return qp_rope(x, s->positions, frequencies(r, s), r->layout, r->scale);
}

QP_POSITION(rope) = {.part = {.name = "rope",
                              .source = "arXiv:2104.09864",
                              .help = "queries and keys turn by their position",
                              .options = options,
                              .bytes = sizeof(rope)},
                     .init = init,
                     .rotate = rotate};
