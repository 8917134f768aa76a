/* Opening the model of --config: its weights are mapped, not read. */
#include "cli/bench.h"

static void run(bench *b) {
    double  seconds[BENCH_MAX_REPEATS];
    int64_t tensors = 0, bytes = 0;
    char    size[32];
    if (!cli_given(b->c, "config")) qp_fail(b->ctx, QP_ERR_ARGUMENT, "bench load: --config MODEL is missing");
    for (int i = -1; i < b->repeats && !qp_failed(b->ctx); i++) { /* the first brings the file into memory */
        double    start = cli_now();
        qp_model *m = bench_model(b, true);
        if (i >= 0) seconds[i] = cli_now() - start;
        if (!m) return;
        tensors = qp_module_state(qp_model_module(m)).count;
        bytes = qp_model_info_of(m).bytes;
        qp_model_close(m);
    }
    if (qp_failed(b->ctx)) return;
    double median = bench_median(seconds, b->repeats);
    bench_row(b,
              json_pack("{s:o, s:f, s:I, s:I}", "seconds", cli_json_number(median), "fastest", seconds[0],
                        "tensors", (json_int_t)tensors, "bytes", (json_int_t)bytes),
              "%.2f ms (fastest %.2f), %lld tensors, %s", median * 1e3, seconds[0] * 1e3, (long long)tensors,
              cli_bytes((double)bytes, size));
}

const bench_kind bench_load = {"load", run};
