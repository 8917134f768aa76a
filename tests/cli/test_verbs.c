/* What the verbs say, against the library and against each other. */
#define _GNU_SOURCE
#include "support.h"

#include <dirent.h>
#include <unistd.h>

/* ---- verify ----------------------------------------------------------------------------------------- */

static void verify_all(void **state) {
    char           path[512], reference[600];
    int            models = 0;
    struct dirent *e;
    (void)state;
    snprintf(path, sizeof path, "%s/tests/golden/models", SOURCE_DIR);
    DIR *d = opendir(path);
    assert_non_null(d);
    while ((e = readdir(d))) {
        if (e->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "%s/tests/golden/models/%s", SOURCE_DIR, e->d_name);
        snprintf(reference, sizeof reference, "%s/reference.safetensors", path);
        json_t *o =
            expect_json(run("verify", path, "--reference", reference, "--tolerance", "1e-4", "--json", NULL));
        const json_t *errors = json_object_get(o, "errors");
        bool          headless = !json_object_get(errors, "logits");
        double        off = number_of(errors, headless ? "hidden" : "logits");
        if (!(off <= 2e-5))
            fail_msg("%s: %s differ by %g", e->d_name, headless ? "hidden states" : "logits", off);
        assert_true(json_is_true(json_object_get(o, "ok")));
        assert_true(headless || integer_of(o, "compared") > 8); /* gradients too */
        json_decref(o);
        models++;
    }
    closedir(d);
    assert_true(models >= 82); /* none is missing */
}

static void verify_fails(void **state) {
    char path[512], reference[600];
    (void)state;
    snprintf(path, sizeof path, "%s/tests/golden/models/gpt2", SOURCE_DIR);
    snprintf(reference, sizeof reference, "%s/reference.safetensors", path);
    outcome o = run("verify", path, "--reference", reference, "--tolerance", "1e-12", NULL);
    assert_int_equal(o.status, 1);
    assert_non_null(strstr(o.out, "FAIL"));
    assert_non_null(strstr(o.err, "quipu: "));
    /* numbers of another model, of another shape */
    snprintf(reference, sizeof reference, "%s/tests/golden/models/llama-gqa-tied/reference.safetensors",
             SOURCE_DIR);
    o = run("verify", path, "--reference", reference, NULL);
    assert_int_equal(o.status, 1);
    assert_int_equal(o.out_bytes, 0);
}

/* ---- generate ------------------------------------------------------------------------------------------ */

static void generate_repeats(void **state) {
    char first[4096];
    (void)state;
    outcome o = run("generate", "-m", "%/bytes", "-p", "Once", "-n", "64", "--seed", "5", NULL);
    expect_success(o);
    assert_true(o.out_bytes > 20 && o.out_bytes < sizeof first);
    memcpy(first, o.out, o.out_bytes + 1);
    size_t                   n = o.out_bytes;
    static const char *const threads[] = {"1", "2", "5"};
    for (int i = 0; i < 3; i++) {
        o = run("generate", "-m", "%/bytes", "-p", "Once", "-n", "64", "--seed", "5", "-t", threads[i], NULL);
        assert_int_equal(o.out_bytes, n);
        assert_memory_equal(o.out, first, n);
    }
    o = run_with("Once", 4, "generate", "-m", "%/bytes", "-p", "-", "-n", "64", "--seed", "5", NULL);
    assert_memory_equal(o.out, first, n);
    o = run_with("Once", 4, "generate", "-m", "%/bytes", "-n", "64", "--seed", "5", NULL);
    assert_memory_equal(o.out, first, n);
    o = run("generate", "-m", "%/bytes", "-p", "Once", "-n", "64", "--seed", "6", NULL);
    expect_success(o);
    assert_true(o.out_bytes != n || memcmp(o.out, first, n));
}

static void generate_is_argmax(void **state) {
    enum { N = 40, P = 7 };
    static const char prompt[P + 1] = "In the ";
    (void)state;
    json_t *o =
        expect_json(run("generate", "-m", "%/bytes", "-p", prompt, "-n", "40", "--temp", "0", "--json", NULL));
    assert_int_equal(integer_of(o, "prompt_tokens"), P);
    assert_int_equal(integer_of(o, "tokens"), N);
    assert_string_equal(text_of(o, "reason"), "length");
    qp_ctx   *ctx = qp_open((qp_options){.threads = 1});
    qp_model *m = qp_model_load(ctx, in_folder("bytes"), (qp_model_options){0});
    assert_non_null(m);
    qp_set_training(qp_model_module(m), false);
    int32_t ids[P + N];
    for (int i = 0; i < P; i++) ids[i] = (unsigned char)prompt[i];
    for (int i = 0; i < N; i++)
        ids[P + i] = (int32_t)json_integer_value(json_array_get(json_object_get(o, "ids"), (size_t)i));
    qp_no_grad(ctx, true);
    qp_tensor best = qp_argmax(qp_logits(m, qp_from(ctx, QP_I32, 2, (int64_t[]){1, P + N}, ids)), 2, false);
    int64_t   expected[P + N];
    assert_int_equal(qp_read(best, QP_I64, expected, P + N), QP_OK);
    for (int i = 0; i < N; i++) assert_int_equal(ids[P + i], expected[P + i - 1]);
    qp_close(ctx);
    json_decref(o);
}

/* A model whose logits are NaN writes nothing, whatever draws, and says so. */
static void generate_no_numbers(void **state) {
    (void)state;
    qp_ctx   *ctx = qp_open((qp_options){.threads = 1});
    qp_model *m = qp_model_load(ctx, in_folder("bytes"), (qp_model_options){0});
    assert_non_null(m);
    qp_state_dict all = qp_module_state(qp_model_module(m));
    float         nan[64] = {NAN};
    for (int i = 0; i < all.count; i++) {
        qp_tensor t = all.entries[i].tensor;
        if (!strcmp(all.entries[i].name, "norm.weight"))
            assert_int_equal(qp_write(t, QP_F32, nan, qp_count(t)), QP_OK);
    }
    assert_int_equal(qp_model_save(m, in_folder("spoilt")), QP_OK);
    qp_close(ctx);
    static const char *const how[][4] = {{"--temp", "0"},
                                         {"--temp", "0.8"},
                                         {"--top-k", "5"},
                                         {"--json", "--logprobs", "2"},
                                         {"--draft", "lookup", "--accept", "rejection"},
                                         {"--draft", "lookup", "--accept", "typical"}};
    for (size_t i = 0; i < sizeof how / sizeof *how; i++)
        expect_message(run("generate", "-m", "%/spoilt", "-p", "In In In", how[i][0], how[i][1], how[i][2],
                           how[i][3], NULL),
                       1, "token 0: the model's logits are no numbers");
}

/* A token that cannot come has a logarithm that JSON does not: the run goes on. */
static void generate_impossible(void **state) {
    static const char config[] =
        "{\"model_type\": \"quipu\", \"vocab_size\": 257, \"hidden_size\": 8, \"num_hidden_layers\": 1, "
        "\"max_position_embeddings\": 64, \"position\": {\"type\": \"none\"}, \"mixer\": {\"type\": "
        "\"attention\", \"heads\": 2}, \"ffn\": {\"type\": \"mlp\"}, \"norm\": {\"type\": \"layer_norm\"}}";
    (void)state;
    qp_ctx   *ctx = qp_open((qp_options){.threads = 1, .seed = 3});
    qp_model *m = qp_model_new(ctx, "test", config);
    assert_non_null(m);
    qp_state_dict all = qp_module_state(qp_model_module(m));
    float         zeros[8] = {0}, ones[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    int           found = 0;
    for (int i = 0; i < all.count; i++) {
        const char *name = all.entries[i].name;
        qp_tensor   t = all.entries[i].tensor;
        qp_scope    s = qp_enter(ctx);
        qp_no_grad(ctx, true);
        if (!strcmp(name, "norm.weight") && ++found) assert_int_equal(qp_write(t, QP_F32, zeros, 8), QP_OK);
        if (!strcmp(name, "norm.bias") && ++found) assert_int_equal(qp_write(t, QP_F32, ones, 8), QP_OK);
        if (!strcmp(name, "head.weight") && ++found)
            assert_int_equal(
                qp_copy_to(qp_slice(t, 0, 65, 66, 1), qp_full(ctx, QP_F32, 2, (int64_t[]){1, 8}, -3e38)),
                QP_OK);
        qp_leave(s);
    }
    assert_int_equal(found, 3);
    assert_int_equal(qp_model_save(m, in_folder("never")), QP_OK);
    qp_close(ctx);
    json_t *o = expect_json(run("generate", "-m", "%/never", "-p", "In", "-n", "3", "--temp", "0", "--no-end",
                                "--json", "--logprobs", "257", NULL));
    assert_string_equal(text_of(o, "reason"), "length");
    json_t *top = json_object_get(json_array_get(json_object_get(o, "logprobs"), 0), "top");
    assert_int_equal(integer_of(json_array_get(top, 256), "id"), 65);
    assert_true(number_of(json_array_get(top, 256), "logprob") == -9999);
    json_decref(o);
}

/* What drafts were worth is told where it is asked for; without them nothing of theirs is. */
static void generate_compares(void **state) {
    (void)state;
    outcome o =
        run("generate", "-m", "%/bytes", "-p", "In In In", "-n", "9", "--draft", "lookup", "--compare", NULL);
    assert_int_equal(o.status, 0);
    assert_non_null(strstr(o.err, "quipu: drafts: "));
    assert_non_null(strstr(o.err, " times as fast; the same text\n"));
    expect_success(run("generate", "-m", "%/bytes", "-p", "In In In", "-n", "9", "--draft", "lookup", NULL));
    json_t *j = expect_json(
        run("generate", "-m", "%/bytes", "-p", "In In In", "-n", "9", "--draft", "lookup", "--json", NULL));
    assert_true(json_is_null(json_object_get(json_object_get(j, "draft"), "same_text")));
    json_decref(j);
    expect_message(run("generate", "-m", "%/bytes", "-p", "x", "--compare", NULL), 2,
                   "--compare goes with --draft");
    expect_message(run("generate", "-m", "%/bytes", "-p", "x", "--accept", "typical", NULL), 2,
                   "--accept goes with --draft");
    expect_message(run("generate", "-m", "%/bytes", "-p", "x", "--draft-depth", "3", NULL), 2,
                   "--draft-depth goes with --draft");
    expect_message(run("generate", "-m", "%/bytes", "-p", "x", "--kv", "q8_0", NULL), 1,
                   "--kv q8_0 needs heads whose width is a multiple of 32: state: 8 features");
    expect_message(run("generate", "-m", "%/bytes", "-p", "x", "--logprobs", "3", NULL), 2,
                   "--logprobs goes with --json");
}

/* ids in, ids out: without a tokenizer */
static void generate_ids(void **state) {
    char path[512];
    (void)state;
    snprintf(path, sizeof path, "%s/tests/golden/models/gpt2", SOURCE_DIR);
    outcome o = run("generate", "-m", path, "--ids", "-p", "3 1 4 1 5", "-n", "6", "--temp", "0", NULL);
    expect_success(o);
    int ids[6], n = 0, at = 0, more;
    for (; n < 6 && sscanf(o.out + at, "%d%n", &ids[n], &more) == 1; n++) at += more;
    assert_true(n == 6 && !strcmp(o.out + at, "\n"));
    /* GPT-2's table of positions ends at 40 */
    json_t *j = expect_json(
        run("generate", "-m", path, "--ids", "-p", "3 1 4 1 5", "-n", "100", "--no-end", "--json", NULL));
    assert_int_equal(integer_of(j, "tokens"), 36);
    json_decref(j);
    /* so do other tables */
    qp_ctx   *ctx = qp_open((qp_options){.threads = 1});
    qp_model *m =
        qp_model_new(ctx, "test",
                     "{\"model_type\": \"quipu\", \"vocab_size\": 9, \"hidden_size\": 8, "
                     "\"num_hidden_layers\": 1, \"max_position_embeddings\": 12, \"position\": {\"type\": "
                     "\"multiplicative\"}, \"mixer\": {\"type\": \"attention\", \"heads\": 2}, \"ffn\": "
                     "{\"type\": \"mlp\"}, \"norm\": {\"type\": \"rms_norm\"}}");
    assert_true(m && qp_model_save(m, in_folder("table")) == QP_OK);
    qp_close(ctx);
    j = expect_json(run("generate", "-m", "%/table", "--ids", "-p", "3 1 4 1 5", "-n", "100", "--json", NULL));
    assert_int_equal(integer_of(j, "tokens"), 8);
    json_decref(j);
    /* an empty prompt is the token that begins a text */
    j = expect_json(run("generate", "-m", path, "--ids", "-p", "", "-n", "3", "--json", NULL));
    assert_int_equal(integer_of(j, "prompt_tokens"), 1);
    json_decref(j);
}

static void generate_stops(void **state) {
    (void)state;
    json_t     *all = expect_json(run("generate", "-m", "%/bytes", "-p", "Once", "-n", "64", "--json", NULL));
    const char *whole = text_of(all, "text");
    char        stop[4] = {0}; /* three plain characters of the text */
    size_t      at = 8;
    while (whole[at] && ((whole[at] | whole[at + 1] | whole[at + 2]) & 0x80 || whole[at] == '-')) at++;
    memcpy(stop, whole + at, 3);
    if (strlen(stop) == 3) {
        json_t *o = expect_json(run("generate", "-m", "%/bytes", "-p", "Once", "-n", "64", "--json", "--stop",
                                    "nowhere", stop, NULL));
        assert_string_equal(text_of(o, "reason"), "stop");
        assert_int_equal(strlen(text_of(o, "text")), strstr(whole, stop) - whole);
        assert_memory_equal(text_of(o, "text"), whole, strlen(text_of(o, "text")));
        json_decref(o);
    }
    /* the end token of the config */
    json_t    *ids = json_object_get(all, "ids");
    char       config[64];
    int        n = 0;
    json_int_t end = json_integer_value(json_array_get(ids, 12));
    while (json_integer_value(json_array_get(ids, (size_t)n)) != end) n++;
    snprintf(config, sizeof config, "{\"eos_token_id\": [300, %d]}", (int)end);
    write_text("bytes/generation_config.json", config);
    json_t *o = expect_json(run("generate", "-m", "%/bytes", "-p", "Once", "-n", "64", "--json", NULL));
    assert_string_equal(text_of(o, "reason"), "end");
    assert_int_equal(integer_of(o, "tokens"), n);
    json_decref(o);
    o = expect_json(run("generate", "-m", "%/bytes", "-p", "Once", "-n", "64", "--json", "--no-end", NULL));
    assert_int_equal(integer_of(o, "tokens"), 64);
    assert_string_equal(text_of(o, "text"), whole);
    json_decref(o);
    remove(in_folder("bytes/generation_config.json"));
    json_decref(all);
}

/* ---- eval -------------------------------------------------------------------------------------------- */

static int32_t token_at(const char *data, int64_t i) { return i ? (unsigned char)data[i - 1] : 256; }

/* The summed loss of n bytes behind a first token under windows, by the definition; *counted: how many. */
static double windowed_loss(qp_model *m, const char *data, int64_t n, int64_t length, int64_t stride,
                            int *counted) {
    int64_t V = 257, seen = 1;
    double  sum = 0;
    *counted = 0;
    for (int64_t begin = 0, end; seen <= n; begin += stride, seen = end) {
        end = begin + length <= n ? begin + length : n + 1;
        int64_t count = end - begin;
        int32_t ids[256];
        for (int64_t i = 0; i < count; i++) ids[i] = token_at(data, begin + i);
        qp_ctx   *ctx = qp_model_ctx(m);
        qp_scope  s = qp_enter(ctx);
        float    *logits = malloc((size_t)(count * V) * sizeof *logits);
        qp_tensor y = qp_logits(m, qp_from(ctx, QP_I32, 2, (int64_t[]){1, count}, ids));
        assert_int_equal(qp_read(y, QP_F32, logits, count * V), QP_OK);
        for (int64_t i = seen > begin ? seen : begin + 1; i < end; i++, ++*counted) {
            const float *row = logits + (i - 1 - begin) * V;
            double       norm = 0;
            for (int64_t v = 0; v < V; v++) norm += exp((double)row[v]);
            sum += log(norm) - row[token_at(data, i)];
        }
        free(logits);
        qp_leave(s);
    }
    return sum;
}

static void eval(void **state) {
    static const struct {
        const char *length, *stride, *batch;
    } cases[] = {
        {"16", "16", "1"}, {"16", "5", "3"}, {"64", "1", "16"}, {"200", "100", "4"}, {"256", "256", "4"}};
    char data[150];
    (void)state;
    for (size_t i = 0; i < sizeof data; i++) data[i] = (char)(i * i * 7 + i % 11);
    write_file("data.txt", data, sizeof data);
    qp_ctx   *ctx = qp_open((qp_options){.threads = 1});
    qp_model *m = qp_model_load(ctx, in_folder("bytes"), (qp_model_options){0});
    assert_non_null(m);
    qp_set_training(qp_model_module(m), false);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        json_t *o =
            expect_json(run("eval", "-m", "%/bytes", "--data", "%/data.txt", "--length", cases[i].length,
                            "--stride", cases[i].stride, "--batch", cases[i].batch, "--json", NULL));
        int n, disjoint = !strcmp(cases[i].length, cases[i].stride); /* first tokens of windows do not count */
        double mean = windowed_loss(m, data, sizeof data, atoi(cases[i].length), atoi(cases[i].stride), &n) / n;
        assert_int_equal(integer_of(o, "tokens"), n);
        assert_true(n == sizeof data || (disjoint && n < (int)sizeof data));
        assert_int_equal(integer_of(o, "bytes"), sizeof data);
        if (!(fabs(number_of(o, "loss") - mean) < 2e-5 * mean))
            fail_msg("length %s, stride %s: %g, expected %g", cases[i].length, cases[i].stride,
                     number_of(o, "loss"), mean);
        assert_true(fabs(number_of(o, "perplexity") / exp(mean) - 1) < 1e-3);
        assert_true(fabs(number_of(o, "bits_per_byte") - mean / log(2)) < 1e-3);
        json_decref(o);
    }
    qp_close(ctx);
    /* without a token before the text, its first byte only helps */
    json_t *o =
        expect_json(run("eval", "-m", "%/bytes", "--data", "%/data.txt", "--no-special", "--json", NULL));
    assert_int_equal(integer_of(o, "tokens"), sizeof data - 1);
    assert_int_equal(integer_of(o, "bytes"), sizeof data - 1);
    json_decref(o);
    o = expect_json(run("eval", "-m", "%/bytes", "--data", "%/data.txt", "--length", "7", "--json", NULL));
    assert_int_equal(integer_of(o, "stride"), 4); /* half, rounded up */
    json_decref(o);
}

/* Texts are never joined: two files count as the sum of each, and so do lines of JSON. */
static void eval_texts(void **state) {
    double loss[3];
    (void)state;
    write_text("a.txt", "The first text.");
    write_text("b.txt", "And another one, which is longer.");
    write_text("c.jsonl", "{\"t\": \"The first text.\"}\n\n"
                          "{\"t\": \"And another one, which is longer.\", \"u\": 1}\n{\"t\": \"\"}\n");
    const char *const files[] = {"%/a.txt", "%/b.txt"};
    for (int i = 0; i < 2; i++) {
        json_t *o = expect_json(run("eval", "-m", "%/bytes", "--data", files[i], "--json", NULL));
        loss[i] = number_of(o, "loss") * (double)integer_of(o, "tokens");
        json_decref(o);
    }
    json_t *o = expect_json(run("eval", "-m", "%/bytes", "--data", "%/a.txt", "%/b.txt", "--json", NULL));
    assert_int_equal(integer_of(o, "tokens"), 48);
    assert_int_equal(integer_of(o, "documents"), 2);
    assert_true(fabs(number_of(o, "loss") * 48 - loss[0] - loss[1]) < 1e-3);
    loss[2] = number_of(o, "loss");
    json_decref(o);
    o = expect_json(run("eval", "-m", "%/bytes", "--data", "%/c.jsonl", "--field", "t", "--json", NULL));
    assert_int_equal(integer_of(o, "tokens"), 48);
    assert_true(fabs(number_of(o, "loss") - loss[2]) < 1e-6);
    json_decref(o);
}

/* ---- inspect, list, bench ---------------------------------------------------------------------------- */

static void inspect(void **state) {
    char path[512];
    (void)state;
    json_t *o = expect_json(run("inspect", "%/bytes", "--json", NULL));
    assert_string_equal(text_of(o, "kind"), "model");
    assert_true(json_is_true(json_object_get(o, "runs")));
    assert_string_equal(text_of(json_object_get(o, "tokenizer"), "type"), "byte");
    json_int_t parameters = integer_of(o, "parameters");
    json_decref(o);
    o = expect_json(run("inspect", "%/bytes/config.json", "--json", NULL)); /* counted without weights */
    assert_string_equal(text_of(o, "kind"), "config");
    assert_int_equal(integer_of(o, "parameters"), parameters);
    json_decref(o);
    o = expect_json(run("inspect", "%/bytes/model.safetensors", "--json", NULL));
    assert_string_equal(text_of(o, "kind"), "tensors");
    assert_int_equal(integer_of(o, "parameters"), parameters);
    assert_int_equal(json_array_size(json_object_get(o, "tensors")), integer_of(o, "count"));
    assert_string_equal(text_of(json_object_get(o, "metadata"), "format"), "pt");
    json_decref(o);
    snprintf(path, sizeof path, "%s/tests/golden/models/llama-sharded", SOURCE_DIR);
    o = expect_json(run("inspect", path, "--json", NULL));
    assert_true(integer_of(json_object_get(o, "weights"), "count") == 21);
    assert_true(json_is_null(json_object_get(o, "tokenizer")));
    json_decref(o);
    /* a model that quipu cannot run is shown all the same */
    write_text("other.json", "{\"model_type\": \"no-such-model\", \"width\": 3}");
    o = expect_json(run("inspect", "%/other.json", "--json", NULL));
    assert_true(json_is_false(json_object_get(o, "runs")));
    assert_non_null(strstr(text_of(o, "why"), "no-such-model"));
    json_decref(o);
    /* names from files reach a terminal without their control bytes */
    qp_ctx  *ctx = qp_open((qp_options){.threads = 1});
    qp_named odd = {"a\x1b[31m\nb", qp_zeros(ctx, QP_F32, 2, (int64_t[]){2, 3})};
    assert_int_equal(qp_file_save(ctx, in_folder("odd.safetensors"), 1, &odd, (qp_save_options){0}), QP_OK);
    qp_close(ctx);
    outcome p = run("inspect", "%/odd.safetensors", NULL);
    expect_success(p);
    assert_non_null(strstr(p.out, "a?[31m?b"));
    assert_null(strchr(p.out, '\x1b'));
}

/* ---- embed -------------------------------------------------------------------------------------------- */

static void embed(void **state) {
    static const char texts[] = "one\nanother line\r\none\n";
    float             x[2][3 * 512];
    size_t            bytes;
    (void)state;
    json_t *o = expect_json(run_with(texts, strlen(texts), "embed", "-m", "%/bytes", "--json", NULL)),
           *rows = json_object_get(o, "embeddings");
    int D = (int)integer_of(o, "dimensions");
    assert_true(integer_of(o, "texts") == 3 && json_array_size(rows) == 3 && D <= 512);
    assert_true(json_equal(json_array_get(rows, 0), json_array_get(rows, 2)));
    assert_false(json_equal(json_array_get(rows, 0), json_array_get(rows, 1)));
    write_text("lines.txt", texts);
    expect_success(run("embed", "-m", "%/bytes", "--data", "%/lines.txt", "--out", "%/v.npy", NULL));
    expect_success(run("embed", "-m", "%/bytes", "--data", "%/lines.txt", "--out", "%/v.safetensors", NULL));
    char *npy = read_file(in_folder("v.npy"), &bytes);
    assert_int_equal(bytes, 128 + 4 * 3 * D);
    assert_non_null(strstr(npy + 10, "'descr': '<f4', 'fortran_order': False, 'shape': (3, "));
    memcpy(x[0], npy + 128, bytes - 128);
    free(npy);
    qp_ctx  *ctx = qp_open((qp_options){.threads = 1});
    qp_file *file = qp_file_open(ctx, in_folder("v.safetensors"), (qp_file_options){0});
    assert_int_equal(qp_read(qp_file_load(ctx, file, "embeddings", true), QP_F32, x[1], 3 * D), QP_OK);
    assert_memory_equal(x[0], x[1], sizeof(float) * 3 * (size_t)D);
    for (int k = 0; k < D; k++)
        assert_float_equal(x[0][k], json_number_value(json_array_get(json_array_get(rows, 0), (size_t)k)),
                           1e-6);
    qp_file_close(file);
    qp_close(ctx);
    json_decref(o);
    outcome p = run_with("a\n", 2, "embed", "-m", "%/bytes", "--pool", "cls", "--normalize", NULL);
    double  square = 0;
    expect_success(p);
    for (char *at = p.out; *at && *at != '\n';) square += pow(strtod(at, &at), 2);
    assert_float_equal(square, 1, 1e-5);
    write_text("gap.txt", "a\n\nb\n");
    expect_message(run("embed", "-m", "%/bytes", "--data", "%/lines.txt", "%/gap.txt", NULL), 1,
                   "gap.txt: text 2 is empty");
    expect_message(run("embed", "-m", "%/bytes", "--out", "%/v.bin", NULL), 2,
                   "expected a name that ends in .npy");
    expect_message(run("embed", "-m", "%/bytes", "--pool", "max", NULL), 2, "expected mean, cls or last");
}

static void list(void **state) {
    static const char *const sections[] = {"ops", "presets", "verbs",  "init",      "positions", "mixers",
                                           "ffn", "norms",   "blocks", "schedules", "tokenizers"};
    (void)state;
    json_t *all = expect_json(run("list", "--json", NULL));
    for (size_t i = 0; i < sizeof sections / sizeof sections[0]; i++) {
        json_t *one = expect_json(run("list", sections[i], "--json", NULL)), *entry;
        size_t  k;
        assert_true(json_equal(json_object_get(one, sections[i]), json_object_get(all, sections[i])));
        outcome o = run("list", sections[i], NULL);
        expect_success(o);
        json_array_foreach(json_object_get(all, sections[i]), k,
                           entry) if (!strstr(o.out, text_of(entry, "name")))
            fail_msg("%s is not in the list of %s", text_of(entry, "name"), sections[i]);
        assert_true(json_array_size(json_object_get(all, sections[i])) > 0);
        json_decref(one);
    }
    json_decref(all);
    json_t *parts = expect_json(run("list", "parts", "--json", NULL));
    assert_int_equal(json_object_size(parts), QP_PART_KIND_COUNT);
    json_decref(parts);
}

/* The first row is the step's. Ops and what is outside of them make up the whole. */
static void check_profile(const json_t *rows) {
    double ops = 0, outside = 0, all = 0;
    for (size_t i = 1; i < json_array_size(rows); i++) {
        json_t     *row = json_array_get(rows, i);
        const char *op = json_string_value(json_object_get(row, "op")),
                   *phase = json_string_value(json_object_get(row, "phase"));
        double seconds = number_of(row, "seconds");
        assert_true(seconds >= 0);
        if (!strcmp(phase, "all")) all += seconds;
        else if (!strcmp(op, "outside")) outside += seconds;
        else if (strcmp(op, "all ops") != 0) {
            ops += seconds;
            assert_true(number_of(row, "calls") >= 1 && number_of(row, "gbytes") > 0);
        }
    }
    assert_true(ops > 0 && outside > 0 && fabs(ops + outside - all) < 1e-9);
}

static void bench(void **state) {
    (void)state;
    write_text("config.json", byte_config);
    json_t *o = expect_json(run("bench", "gemm", "--shape", "8x8x8", "65x33x17", "-r", "1", "--json", NULL));
    assert_int_equal(json_array_size(json_object_get(o, "rows")) % 4,
                     0); /* for each type; few rows: no backward */
    assert_true(number_of(o, "peak_gflops") > 0);
    json_decref(o);
    expect_message(run("bench", "ops", "--only", "nosuch", NULL), 1, "--only nosuch");
    o = expect_json(run("bench", "step", "--config", "%/config.json", "--steps", "3", "--length", "16", "-r",
                        "1", "--json", NULL));
    json_t *row = json_array_get(json_object_get(o, "rows"), 0);
    assert_true(number_of(row, "seconds") > 0 && number_of(row, "tokens_per_second") > 0 &&
                integer_of(row, "peak_bytes") > 0);
    json_decref(o);
    o = expect_json(run("bench", "step", "--config", "%/config.json", "--steps", "3", "--length", "16", "-r",
                        "1", "--profile", "--json", NULL));
    check_profile(json_object_get(o, "rows"));
    json_decref(o);
    o = expect_json(
        run("bench", "generate", "--config", "%/config.json", "--steps", "20", "-r", "1", "--json", NULL));
    row = json_array_get(json_object_get(o, "rows"), 0);
    assert_int_equal(integer_of(row, "system_calls"), 0);
    json_decref(o);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(verify_all),
        cmocka_unit_test(verify_fails),
        cmocka_unit_test(generate_repeats),
        cmocka_unit_test(generate_is_argmax),
        cmocka_unit_test(generate_no_numbers),
        cmocka_unit_test(generate_impossible),
        cmocka_unit_test(generate_compares),
        cmocka_unit_test(generate_ids),
        cmocka_unit_test(generate_stops),
        cmocka_unit_test(eval),
        cmocka_unit_test(eval_texts),
        cmocka_unit_test(inspect),
        cmocka_unit_test(embed),
        cmocka_unit_test(list),
        cmocka_unit_test(bench),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
