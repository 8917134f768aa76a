/* quipu compare: the same model with one part exchanged at a time. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <string.h>

#include "cli/compare.h"
#include "cli/json.h"
#include "cli/open.h"

/* A number that whoever started the processes left in the environment; -1: there is none. */
static int number_of(const char *const *names) {
    for (; *names; names++) {
        const char *text = getenv(*names);
        char       *end;
        long        x = text ? strtol(text, &end, 10) : -1;
        if (text && *text && !*end && x >= 0 && x < 1 << 20) return (int)x;
    }
    return -1;
}

/* mpirun of Open MPI, MPICH's and others', srun. */
static void find_rank(compare *k) {
    int rank =
        number_of((const char *const[]){"OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID", NULL});
    int size = number_of((const char *const[]){"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_NTASKS", NULL});
    k->processes = size > 0 ? size : 1;
    k->rank = size > 0 && rank > 0 && rank < size ? rank : 0;
}

static int interrupted(const compare *k) {
    int done = 0;
    for (int i = 0; i < k->run_count; i++) done += k->runs[i].result != NULL;
    cli_error("interrupted with %d of %d runs done; saved in %s: the same command goes on", done, k->run_count,
              cli_text(k->c, "out"));
    return 130;
}

static int finish(compare *k) {
    if (!compare_measure(k))
        return qp_error_code(k->ctx) == QP_ERR_CANCELLED ? interrupted(k) : cli_failed(k->ctx);
    json_t *all = compare_gather(k);
    bool    ok = all && compare_save(k, all) && compare_report(k, all), any = false;
    for (int i = 0; i < k->run_count; i++) any |= json_object_get(k->runs[i].result, "loss") != NULL;
    if (!ok) {
        json_decref(all);
        return cli_failed(k->ctx);
    }
    if (!any) {
        int status = cli_error("no run succeeded; the first: %s",
                               json_string_value(json_object_get(k->runs[0].result, "why")));
        json_decref(all);
        return status;
    }
    if (cli_flag(k->c, "json")) return cli_json_print(all);
    compare_print(k, all);
    json_decref(all);
    if (k->talks)
        fprintf(stderr,
                "%s/report.html shows the curves; compare.csv and compare.json beside it are for programs\n",
                cli_text(k->c, "out"));
    return 0;
}

static int work(compare *k) {
    if (!compare_plan(k)) return qp_failed(k->ctx) ? cli_failed(k->ctx) : 2;
    if (k->talks)
        for (int i = 0; i < k->variant_count; i++) {
            const compare_variant *v = &k->variants[i];
            fprintf(stderr, "%s: ", v->name);
            if (v->why[0]) fprintf(stderr, "%s\n", v->why);
            else if (v->knob)
                fprintf(stderr, "%lld parameters with %s %lld\n", (long long)v->parameters, v->knob,
                        (long long)v->inner);
            else fprintf(stderr, "%lld parameters\n", (long long)v->parameters);
        }
    if (!compare_train(k))
        return qp_error_code(k->ctx) == QP_ERR_CANCELLED ? interrupted(k) : cli_failed(k->ctx);
    return k->rank > 0 ? 0 : finish(k);
}

static int run(cli *c) {
    compare k = {.c = c, .ctx = cli_open(c)};
    if (!k.ctx) return 1;
    find_rank(&k);
    k.talks = !cli_flag(c, "quiet") && !cli_flag(c, "json");
    int           count;
    const char  **files = cli_list(c, "data", &count), *name = cli_text(c, "tokenizer");
    qp_tokenizer *tokenizer =
        !strcmp(name, "byte") ? qp_tokenizer_bytes(k.ctx) : cli_tokenizer_open(k.ctx, name);
    bool ok = tokenizer && task_open(&k.task, k.ctx, cli_text(c, "task"), count, files, tokenizer);
    int  status = ok ? work(&k) : cli_failed(k.ctx);
    compare_free(&k);
    return status;
}

static const cli_option options[] = {
    {"parts", 0, CLI_LIST, "KEY=NAME,...", NULL,
     "what is exchanged: mixer=attention,linear ffn=mlp,swiglu; options as linear:heads=8, or JSON", 0, 0,
     true},
    {"task", 0, CLI_TEXT, "NAME", NULL, "what is learnt (quipu list tasks); options as listops:depth=4", 0, 0,
     true},
    {"data", 0, CLI_LIST, "FILE", NULL, "of tasks that read files", 0, 0, false},
    {"tokenizer", 0, CLI_TEXT, "WHAT", "byte", "of texts: byte, a tokenizer.json or a model's folder", 0, 0,
     false},
    {"length", 0, CLI_TEXT, "T,...", NULL, "positions of a row; several: one model for each [the task's usual]",
     0, 0, false},
    {"test-length", 0, CLI_TEXT, "T,...", NULL, "lengths at which the trained models are tested, too", 0, 0,
     false},
    {"cost-length", 0, CLI_TEXT, "T,...", NULL,
     "lengths whose cost is measured [doublings from 64 to four times the longest]", 0, 0, false},
    {"cost-seconds", 0, CLI_NUMBER, "S", "2",
     "beyond a step of S seconds no longer rows are measured; 0: no costs", 0, 1e6, false},
    {"match", 0, CLI_CHOICE, "parameters|none", "parameters",
     "adjust an inner width so that all have as many parameters", 0, 0, false},
    {"preset", 0, CLI_TEXT, "NAME", NULL,
     "the model: a preset [two layers of width 64, attention of 4 heads, mlp]", 0, 0, false},
    {"config", 0, CLI_TEXT, "FILE", NULL, "the model: a config.json", 0, 0, false},
    {"set", 0, CLI_LIST, "KEY=VALUE", NULL, "change a key of its config", 0, 0, false},
    {"out", 0, CLI_TEXT, "DIR", "comparison", "folder of runs, report.html, compare.csv, compare.json", 0, 0,
     false},
    {"steps", 'n', CLI_INT, "N", "500", "of each training", 1, 1e12, false},
    {"batch", 'b', CLI_INT, "B", "0", "rows of a step; 0: 4096 tokens of them", 0, 1e6, false},
    {"lr", 0, CLI_TEXT, "X,...", "2e-3", "peak learning rates: of several each part has its best", 0, 0, false},
    {"weight-decay", 0, CLI_NUMBER, "X", "0.01", "of matrices", 0, 1e6, false},
    {"clip", 0, CLI_NUMBER, "X", "1", "largest gradient norm; 0: any", 0, 1e9, false},
    {"seeds", 0, CLI_INT, "N", "1", "trainings of each, from --seed on: means and spreads", 1, 1000, false},
    {"test-samples", 0, CLI_INT, "N", "256", "rows of a test", 1, 1e9, false},
    {"precision", 0, CLI_CHOICE, "fp32|bf16", "fp32", "that matrix products round their inputs to", 0, 0,
     false},
    {"save-every", 0, CLI_INT, "N", "200", "steps; an interrupted run saves in any case", 0, 1e12, false},
    {0}};

QP_VERB(compare) = {
    .name = "compare",
    .summary = "the same model with one part exchanged at a time",
    .arguments = "",
    .options = options,
    .examples = "  quipu compare --parts mixer=attention,linear --task selective_copying --length 128,256\n"
                "  quipu compare --parts ffn=mlp,swiglu,geglu position=rope,none --task lm --data book.txt\n"
                "  quipu compare --parts position=rope,sinusoidal,learned --task lm --data book.txt \\\n"
                "      --length 128 --test-length 64,128,256,512\n"
                "  mpirun -n 4 quipu compare -t 1 --parts norm=rms_norm,layer_norm --task listops --seeds 4\n",
    .run = run};
