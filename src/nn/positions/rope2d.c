/* Rotary positions of a grid (Su 2021, kexue.fm/archives/8397; the vision towers of Qwen2-VL and Pixtral): the
 * first half of the pairs of a head turns by the row, the other by the column. Pairs are features (i, i + K/2).
 * Frequencies, i < K/4: theta^(-4i/K) for both (own: each axis has all), or theta^(-2(2i)/K) for rows and
 * theta^(-2(2i+1)/K) for columns (shared, Pixtral's).
 */
#include <math.h>

#include "nn/positions/grid.h"

typedef struct {
    int64_t   grid;
    qp_tensor frequencies[2]; /* f32 [K / 2] of rows, of columns: 0 where the pair is the other's */
} rope2d;

static const qp_option options[] = {{.name = "grid_width",
                                     .kind = QP_OPTION_INT,
                                     .fallback = 0,
                                     .high = 1e9,
                                     .help = "places of a row; 0: the root of the model's positions"},
                                    {.name = "theta",
                                     .kind = QP_OPTION_NUMBER,
                                     .fallback = 10000,
                                     .low = 1e-3,
                                     .high = 1e12,
                                     .help = "base of the frequencies"},
                                    {.name = "frequencies",
                                     .kind = QP_OPTION_CHOICE,
                                     .high = 1,
                                     .choices = "own|shared",
                                     .help = "each axis has all, or every second one"},
                                    {0}};

static void init(void *self, qp_build *b) {
    rope2d *r = self;
    int64_t pairs = b->head_width / 2, half = pairs / 2, shared = qp_setting_int(b, "frequencies");
    double  theta = qp_setting(b, "theta");
    r->grid = qp_setting_int(b, "grid_width");
    if (!r->grid) r->grid = (int64_t)ceil(sqrt((double)b->max_positions));
    if (b->head_width < 4 || b->head_width % 4) {
        qp_fail(b->ctx, QP_ERR_ARGUMENT, "rope2d: a head has %lld features, expected a multiple of 4",
                (long long)b->head_width);
        return;
    }
    for (int column = 0; column < 2; column++) {
        r->frequencies[column] = qp_module_keep(b->module, qp_zeros(b->ctx, QP_F32, 1, &pairs));
        float *f = qp_data_write(r->frequencies[column]);
        for (int64_t i = 0; f && i < half; i++) {
            int64_t at = shared ? 2 * i + column : 2 * i; /* of K / 2 */
            f[column * half + i] = (float)pow(theta, -2.0 * (double)at / (double)b->head_width);
        }
    }
}

static qp_tensor rotate(void *self, qp_tensor x, const qp_sequence *s) {
    rope2d *r = self;
    for (int column = 0; column < 2; column++)
        x = qp_rope(x, grid_axis(s->positions, r->grid, column), r->frequencies[column], QP_ROPE_HALF, 1);
    return x;
}

QP_POSITION(rope2d) = {.part = {.name = "rope2d",
                                .source = "kexue.fm/archives/8397",
                                .help = "queries and keys turn by their row and their column in a grid",
                                .options = options,
                                .bytes = sizeof(rope2d)},
                       .init = init,
                       .rotate = rotate};
