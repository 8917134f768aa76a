/* Sparse attention: attention of which only some blocks of places see each other, so that time and memory traffic
 * go with what is seen, not with the square of the length.
 *
 *   block qb of queries sees block kb <= qb of keys if
 *     (qb - kb) is a multiple of `dilation` and less than `local` times it,  or          the last ones
 *     (qb - kb) is a multiple of `stride`,                                   or          strided (Child et al. 2019)
 *     kb mod `section` >= `section` - `summary`,                             or          fixed (the same)
 *     kb < `globals`,                                                        or          Beltagy et al. 2020
 *     the seed chose it: `random` blocks for each qb                                     BigBird, Zaheer et al. 2020
 *
 * Not causal, local blocks lie on both sides and the first `globals` blocks see everything. Sources: Child et al.,
 * arXiv:1904.10509, section 4; Longformer, arXiv:2004.05150; BigBird, arXiv:2007.14062. Patterns are of blocks, as
 * in their GPU kernels; a `window` of single places may cut the local ones further.
 *
 * State: as attention's, all positions; a step reads the blocks that its position sees.
 */
#include "nn/mixers/attention.h"

static const qp_option options[] = {
    QPI_ATTENTION_OPTIONS,
    OPTION_INT("block", 64, 1, 1 << 20, "places of a block"),
    OPTION_INT("local", 4, 0, 1 << 20, "the last so many blocks, the own one included"),
    OPTION_INT("dilation", 1, 1, 1 << 20, "of the local ones: every so manieth"),
    OPTION_INT("stride", 0, 0, 1 << 20, "every so manieth block, counted back from the own one; 0: none"),
    OPTION_INT("section", 0, 0, 1 << 20, "blocks of a section, of which the last `summary` are seen; 0: none"),
    OPTION_INT("summary", 1, 0, 1 << 20, "last blocks of each section"),
    OPTION_INT("globals", 0, 0, 1 << 20, "the first so many blocks"),
    OPTION_INT("random", 0, 0, 64, "blocks that the seed chooses for each block of queries"),
    OPTION_INT("pattern_seed", 0, 0, 1 << 20, "of the random ones; the layer's number is added"),
    {0}};

static void init(void *self, qp_build *b) {
    qpi_attention *a = self;
    qpi_attention_init(a, b);
    int32_t section = (int32_t)qp_setting_int(b, "section"), summary = (int32_t)qp_setting_int(b, "summary");
    a->pattern = (qp_pattern){.block = (int32_t)qp_setting_int(b, "block"),
                              .local = (int32_t)qp_setting_int(b, "local"),
                              .dilation = (int32_t)qp_setting_int(b, "dilation"),
                              .stride = (int32_t)qp_setting_int(b, "stride"),
                              .section = section,
                              .summary = section ? summary : 0,
                              .globals = (int32_t)qp_setting_int(b, "globals"),
                              .random = (int32_t)qp_setting_int(b, "random"),
                              .seed = (int32_t)qp_setting_int(b, "pattern_seed") + b->layer};
    if (section && summary > section)
        qp_fail(b->ctx, QP_ERR_ARGUMENT, "sparse: summary %d of a section of %d blocks", (int)summary,
                (int)section);
}

QP_MIXER(sparse) = {
    .part = {.name = "sparse",
             .source = "arXiv:1904.10509, arXiv:2004.05150, arXiv:2007.14062",
             .help = "attention by a pattern of blocks: local, dilated, strided, summaries, globals, random",
             .options = options,
             .bytes = sizeof(qpi_attention)},
    .causal = qpi_attention_causal,
    .init = init,
    .forward = qpi_attention_forward,
    .reserve = qpi_attention_reserve,
    .step = qpi_attention_step};
