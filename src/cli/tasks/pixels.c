/* Images pixel by pixel (sequential MNIST: Le et al. 2015, arXiv:1504.00941; the Long Range Arena: Tay et al.
 * 2020, arXiv:2011.04006): row after row of grey levels; the class is to be said at the last pixel. A row of T
 * = S^2 holds the image at S x S: cells of the mean of what they cover. --data: files of images and of labels
 * in IDX, in pairs; the first pair trains, a second one tests (without it the last tenth of the first). */
#include <math.h>

#include "cli/idx.h"
#include "cli/task.h"
#include "core/core.h"
#include "format/checksum.h"

typedef struct {
    qpi_bytes *images_file, *labels_file;
    idx        images, labels;
} set;

typedef struct {
    set     train, test; /* test without files: the last tenth of train */
    int64_t levels;
} pixels;

static const qp_option options[] = {{.name = "levels",
                                     .kind = QP_OPTION_INT,
                                     .fallback = 32,
                                     .low = 2,
                                     .high = 256,
                                     .help = "of grey, each a token"},
                                    {0}};

static bool open_set(set *s, const char *const *files, qp_ctx *ctx) {
    qpi_error *e = &ctx->error;
    if (!(s->images_file = qpi_bytes_open(files[0], QPI_MAP, e)) ||
        !(s->labels_file = qpi_bytes_open(files[1], QPI_MAP, e)) ||
        !idx_read(&s->images, files[0], s->images_file->data, s->images_file->size, e) ||
        !idx_read(&s->labels, files[1], s->labels_file->data, s->labels_file->size, e))
        return false;
    if (s->images.axes == 3 && s->labels.axes == 1 && s->images.size[0] == s->labels.size[0]) return true;
    return !qp_fail(ctx, QP_ERR_FORMAT, "%s, %s: expected images [N, H, W] and as many labels [N]", files[0],
                    files[1]);
}

static int64_t classes_of(const set *s) {
    int64_t most = 0;
    for (int64_t i = 0; i < s->labels.count; i++)
        if (s->labels.data[i] >= most) most = s->labels.data[i] + 1;
    return most;
}

static uint64_t fingerprint_of(const set *s, uint64_t hash) {
    hash = qpi_checksum_of(hash, s->images.data, (size_t)s->images.count);
    return qpi_checksum_of(hash, s->labels.data, (size_t)s->labels.count);
}

static bool open(void *self, task_build *b) {
    pixels *p = self;
    qp_ctx *ctx = b->build.ctx;
    p->levels = qp_setting_int(&b->build, "levels");
    if (b->file_count != 2 && b->file_count != 4)
        return !qp_fail(ctx, QP_ERR_ARGUMENT,
                        "task pixels: %d files, expected --data IMAGES LABELS [IMAGES LABELS]", b->file_count);
    if (!open_set(&p->train, b->files, ctx) || (b->file_count == 4 && !open_set(&p->test, b->files + 2, ctx)))
        return false;
    for (int i = 1; i < 3 && b->file_count == 4; i++)
        if (p->test.images.size[i] != p->train.images.size[i])
            return !qp_fail(ctx, QP_ERR_FORMAT, "%s: images of %lld x %lld, those of %s are %lld x %lld",
                            b->files[2], (long long)p->test.images.size[1], (long long)p->test.images.size[2],
                            b->files[0], (long long)p->train.images.size[1],
                            (long long)p->train.images.size[2]);
    int64_t classes = classes_of(&p->train), others = classes_of(&p->test);
    if (others > classes) classes = others;
    b->vocabulary = classes > p->levels ? classes : p->levels;
    b->fingerprint = fingerprint_of(&p->test, fingerprint_of(&p->train, 0));
    return true;
}

static void close(void *self) {
    pixels *p = self;
    qpi_bytes_release(p->train.images_file);
    qpi_bytes_release(p->train.labels_file);
    qpi_bytes_release(p->test.images_file);
    qpi_bytes_release(p->test.labels_file);
}

static int64_t side_of(int64_t length) { return (int64_t)(sqrt((double)length) + 0.5); }

static const char *refuses(const void *self, int64_t length) {
    const pixels *p = self;
    int64_t       side = side_of(length);
    if (side * side != length) return "no square number";
    return side > p->train.images.size[1] || side > p->train.images.size[2] ? "more pixels than the images have"
                                                                            : NULL;
}

static int64_t samples(const void *self, task_split split, int64_t length) {
    const pixels *p = self;
    int64_t       all = p->train.labels.count, kept = p->test.labels.count ? 0 : all / 10;
    (void)length;
    if (split == TASK_TRAINING) return all - kept;
    return kept ? kept : p->test.labels.count;
}

/* The mean of the pixels that cell i of n covers of each axis. */
static double cell(const uint8_t *image, int64_t height, int64_t width, int64_t y, int64_t x, int64_t n) {
    int64_t y0 = y * height / n, y1 = (y + 1) * height / n, x0 = x * width / n, x1 = (x + 1) * width / n;
    double  sum = 0;
    for (int64_t i = y0; i < y1; i++)
        for (int64_t k = x0; k < x1; k++) sum += image[i * width + k];
    return sum / (double)((y1 - y0) * (x1 - x0));
}

static void fill(const void *self, task_random *r, task_split split, int64_t index, int64_t length,
                 int64_t *ids, int64_t *labels) {
    const pixels *p = self;
    bool          own = split == TASK_TEST && p->test.labels.count;
    const set    *s = own ? &p->test : &p->train;
    int64_t       side = side_of(length), height = s->images.size[1], width = s->images.size[2];
    (void)r;
    if (split == TASK_TEST && !own) index += samples(p, TASK_TRAINING, length);
    const uint8_t *image = s->images.data + index * height * width;
    for (int64_t i = 0; i < length; i++)
        ids[i] = (int64_t)(cell(image, height, width, i / side, i % side, side) * (double)p->levels / 256);
    labels[length - 1] = s->labels.data[index];
}

QP_TASK(pixels) = {.part = {.name = "pixels",
                            .source = "arXiv:1504.00941, arXiv:2011.04006",
                            .help = "the class of an image, read pixel by pixel (--data, IDX)",
                            .options = options,
                            .bytes = sizeof(pixels)},
                   .files = true,
                   .length = 196,
                   .open = open,
                   .close = close,
                   .refuses = refuses,
                   .samples = samples,
                   .fill = fill};
