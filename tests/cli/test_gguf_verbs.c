/* convert and quantize: against the golden GGUF files, against each other, and what they
 * refuse. */
#include "support.h"

#include <sys/stat.h>
#include <unistd.h>

#include "format/gguf.h"
#include "format/writer.h"

static const char *const names[] = {"llama-gqa-tied",
                                    "llama-mqa-headdim",
                                    "llama-bias",
                                    "llama-llama3",
                                    "llama-yarn",
                                    "llama-linear",
                                    "mistral-window",
                                    "qwen2",
                                    "gpt2",
                                    "gpt2-odd",
                                    "qwen3",
                                    "smollm3-four",
                                    "olmo2",
                                    "granite",
                                    "phi3",
                                    "phi3-partial",
                                    "gemma",
                                    "gemma2",
                                    "gemma3-six",
                                    "gemma3-old",
                                    "bert-poolerless",
                                    "mixtral"};
enum { NAMES = sizeof names / sizeof *names };

static const char *golden(const char *kind, const char *name, const char *end) {
    static char path[4][512];
    static int  turn;
    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof path[turn], SOURCE_DIR "/tests/golden/%s/%s%s", kind, name, end);
    return path[turn];
}

static qp_file *open_file(const char *path) {
    qp_file *f = qp_file_open(ctx, path, (qp_file_options){0});
    if (!f) fail_msg("%s", qp_error(ctx));
    return f;
}

static const char *type_of(qp_file *f, const char *name) {
    return qp_file_at(f, qp_file_find(f, name)).type_name;
}

/* The same names, types, shapes and bytes. */
static void expect_same_tensors(const char *a, const char *b) {
    qp_file *f = open_file(a), *g = open_file(b);
    assert_int_equal(qp_file_count(f), qp_file_count(g));
    for (int64_t i = 0; i < qp_file_count(f); i++) {
        qp_file_entry e = qp_file_at(f, i), x = qp_file_at(g, qp_file_find(g, e.name));
        if (!x.name) fail_msg("%s has no %s", b, e.name);
        assert_string_equal(e.type_name, x.type_name);
        assert_int_equal(e.bytes, x.bytes);
        for (int k = 0; k < e.ndim; k++) assert_true(e.shape[k] == x.shape[k]);
        qp_tensor s = qp_file_load(ctx, f, e.name, false), t = qp_file_load(ctx, g, e.name, false);
        if (memcmp(qp_data_of(s), qp_data_of(t), e.bytes)) fail_msg("%s differs in %s and %s", e.name, a, b);
    }
    qp_file_close(f);
    qp_file_close(g);
}

/* Every value of a, but its name, is in b; what is off may be absent. */
static void expect_values(const char *a, const char *b) {
    qp_file    *f = open_file(a), *g = open_file(b);
    const char *key, *value, *found;
    for (int64_t i = 0; qp_file_meta_at(f, i, &key, &value); i++) {
        found = qp_file_meta(g, key);
        if (!found && (!strcmp(value, "0") || !strcmp(value, "false"))) continue;
        if (!found || (strcmp(found, value) && strtod(found, NULL) != strtod(value, NULL)))
            fail_msg("%s is %s in %s, %s in %s", key, value, a, found ? found : "absent", b);
    }
    qp_file_close(f);
    qp_file_close(g);
}

/* From a folder to GGUF: what the gguf package wrote. And back: what transformers wrote. */
static void there_and_back(void **state) {
    (void)state;
    for (int i = 0; i < NAMES; i++) {
        bool written = strcmp(names[i], "gemma3-old"); /* whose layers the package's writers cannot tell */
        expect_success(run("convert", golden("models", names[i], ""), "--out", "%/there.gguf", NULL));
        if (written) expect_same_tensors(golden("gguf", names[i], ".gguf"), in_folder("there.gguf"));
        if (written) expect_values(golden("gguf", names[i], ".gguf"), in_folder("there.gguf"));
        expect_success(run("convert", "%/there.gguf", "--out", "%/back", NULL));
        json_t *o = expect_json(run("verify", "%/back", "--reference",
                                    golden("models", names[i], "/reference.safetensors"), "--tolerance", "1e-4",
                                    "--json", NULL));
        json_t *errors = json_object_get(o, "errors"), *e = json_object_get(errors, "logits");
        double  off = json_number_value(e ? e : json_object_get(errors, "hidden"));
        if (!(off <= 2e-5)) fail_msg("%s: logits differ by %g", names[i], off);
        json_decref(o);
        qpi_folder_remove(in_folder("back"));
    }
}

static void types(void **state) {
    (void)state;
    expect_success(
        run("convert", golden("models", "qwen2", ""), "--out", "%/half.gguf", "--type", "f16", NULL));
    qp_file *f = open_file(in_folder("half.gguf"));
    assert_string_equal(qp_file_at(f, qp_file_find(f, "blk.0.attn_q.weight")).type_name, "F16");
    assert_string_equal(qp_file_at(f, qp_file_find(f, "blk.0.attn_q.bias")).type_name, "F32");
    assert_string_equal(qp_file_meta(f, "general.file_type"), "1");
    qp_file_close(f);
    expect_success(run("convert", "%/half.gguf", "--out", "%/halves", NULL));
    f = open_file(in_folder("halves"));
    assert_string_equal(type_of(f, "model.layers.0.self_attn.q_proj.weight"), "F16");
    assert_string_equal(type_of(f, "model.layers.0.self_attn.q_proj.bias"), "F32");
    qp_file_close(f);
    expect_message(run("convert", golden("models", "qwen2", ""), "--out", "%/x.gguf", "--type", "q4_0", NULL),
                   2, "quantize");
    expect_message(run("convert", golden("models", "llama-dynamic", ""), "--out", "%/x.gguf", NULL), 1,
                   "no rope scaling \"dynamic\"");
    static const char *const lost[][2] = {{"roformer", "no roformer in GGUF files"},
                                          {"gemma3", "query_pre_attn_scalar"},
                                          {"smollm3", "no_rope_layers"},
                                          {"smollm3-window", "no_rope_layer"},
                                          {"qwen2-window", "use_sliding_window"},
                                          {"bert-published", "hidden_act"},
                                          {"gpt2-untied-gelu", "activation_function"},
                                          {"gpt2-inverse-layer", "scale_attn_by_inverse_layer_idx"}};
    for (size_t i = 0; i < sizeof lost / sizeof *lost; i++)
        expect_message(run("convert", golden("models", lost[i][0], ""), "--out", "%/x.gguf", NULL), 1,
                       lost[i][1]);
    expect_message(run("convert", "%/nothing", "--out", "%/x.gguf", NULL), 1, "cannot open");
    assert_int_not_equal(fopen(in_folder("x.gguf"), "rb") != NULL, 1);
}

/* What would compute something else once it is read back is not written. */
static void no_place(void **state) {
    (void)state;
    static const char *const models[][2] = {
        {"{\"model_type\": \"gpt2\", \"vocab_size\": 16, \"n_positions\": 8, \"n_embd\": 8, \"n_layer\": 1, "
         "\"n_head\": 2, \"scale_attn_weights\": false}",
         "scale_attn_weights"},
        {"{\"model_type\": \"gpt2\", \"vocab_size\": 16, \"n_positions\": 8, \"n_embd\": 8, \"n_layer\": 1, "
         "\"n_head\": 2, \"n_inner\": 12, \"activation_function\": \"relu\"}",
         "activation_function"},
        {"{\"model_type\": \"llama\", \"vocab_size\": 16, \"hidden_size\": 8, \"intermediate_size\": 8, "
         "\"num_hidden_layers\": 1, \"num_attention_heads\": 2, \"num_nextn_predict_layers\": 1}",
         "num_nextn_predict_layers"},
        /* the slowest pair has not the whole factor, which nothing tells then */
        {"{\"model_type\": \"llama\", \"vocab_size\": 16, \"hidden_size\": 16, \"intermediate_size\": 8, "
         "\"num_hidden_layers\": 1, \"num_attention_heads\": 2, \"rope_theta\": 10.0, \"rope_scaling\": "
         "{\"rope_type\": \"llama3\", "
         "\"factor\": 8.0, \"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0, "
         "\"original_max_position_embeddings\": 60}}",
         "cannot be told from its divisors"}};
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        assert_int_equal(save_model("lost", models[i][0]), 0);
        expect_message(run("convert", "%/lost", "--out", "%/x.gguf", NULL), 1, models[i][1]);
        expect_message(run("quantize", "%/lost", "--type", "F16", "--out", "%/x.gguf", NULL), 1, models[i][1]);
    }
}

/* Divisors of Llama 3's scaling of which none lies between the bounds. */
static void scaling_beyond(void **state) {
    (void)state;
    static const struct {
        double theta;
        int    trained;
    } cases[] = {{1e4, 32}, {1e6, 32768}};
    for (int i = 0; i < 2; i++) {
        char config[500], words[80];
        snprintf(
            config, sizeof config,
            "{\"model_type\": \"llama\", \"vocab_size\": 16, \"hidden_size\": 16, \"intermediate_size\": 8, "
            "\"num_hidden_layers\": 1, \"num_attention_heads\": 2, \"rope_theta\": %.1f, \"rope_scaling\": "
            "{\"rope_type\": \"llama3\", \"factor\": 8.0, \"low_freq_factor\": 1.0, \"high_freq_factor\": "
            "4.0, \"original_max_position_embeddings\": %d}}",
            cases[i].theta, cases[i].trained);
        snprintf(words, sizeof words, "\"original_max_position_embeddings\": %d", cases[i].trained);
        assert_int_equal(save_model("beyond", config), 0);
        expect_success(run("convert", "%/beyond", "--out", "%/beyond.gguf", NULL));
        qp_model *m = qp_model_load(ctx, in_folder("beyond.gguf"), (qp_model_options){0});
        if (!m) fail_msg("%s", qp_error(ctx));
        assert_non_null(strstr(qp_model_config(m), words));
        qp_model_close(m);
    }
}

/* ---- Folders ------------------------------------------------------------------------------------------------ */

/* Weights keep the type that each of them has. */
static void mixed_types(void **state) {
    (void)state;
    enum { MANY = 40 };
    qp_named    named[MANY];
    const char *name;
    qp_tensor   t;
    int64_t     n = 0;
    assert_int_equal(save_model("mixed", byte_config), 0);
    qp_model *m = qp_model_load(ctx, in_folder("mixed"), (qp_model_options){0});
    for (; n < MANY && qp_model_weight(m, n, false, &name, &t); n++)
        named[n] = (qp_named){name, n % 2 ? t : qp_cast(t, QP_BF16)};
    assert_int_equal(qp_file_save(ctx, in_folder("mixed/model.safetensors"), n, named, (qp_save_options){0}),
                     QP_OK);
    qp_model_close(m);
    expect_success(run("convert", "%/mixed", "--out", "%/mixed-copy", NULL));
    expect_same_tensors(in_folder("mixed"), in_folder("mixed-copy"));
    m = qp_model_load(ctx, in_folder("mixed-copy"), (qp_model_options){0});
    assert_non_null(strstr(qp_model_config(m), "\"dtype\": \"float32\""));
    qp_model_close(m);
}

/* How a sentence encoder makes a vector goes along. */
static void encoders(void **state) {
    (void)state;
    qp_embed_options options;
    expect_success(run("convert", golden("models", "bert-poolerless", ""), "--out", "%/encoder", NULL));
    assert_int_equal(mkdir(in_folder("encoder/1_Pooling"), 0700), 0);
    write_text("encoder/1_Pooling/config.json", "{\"pooling_mode_cls_token\": true}");
    write_text("encoder/sentence_bert_config.json", "{\"max_seq_length\": 7}");
    write_text("encoder/modules.json",
               "[{\"path\": \"\", \"type\": \"m.Transformer\"}, {\"path\": \"1_Pooling\", \"type\": "
               "\"m.Pooling\"}, {\"path\": \"2_Normalize\", \"type\": \"m.Normalize\"}]");
    expect_success(run("convert", "%/encoder", "--out", "%/encoder-copy", NULL));
    qp_model *m = qp_model_load(ctx, in_folder("encoder-copy"), (qp_model_options){0});
    assert_int_equal(qp_embed_options_load(m, in_folder("encoder-copy"), &options), QP_OK);
    assert_true(options.pooling == QP_POOL_CLS && options.normalize && options.max_tokens == 7);
    qp_model_close(m);
    /* through a file, which has a place for the pooling */
    expect_success(run("convert", "%/encoder", "--out", "%/encoder.gguf", NULL));
    expect_success(run("convert", "%/encoder.gguf", "--out", "%/encoder-back", NULL));
    m = qp_model_load(ctx, in_folder("encoder-back"), (qp_model_options){0});
    assert_int_equal(qp_embed_options_load(m, in_folder("encoder-back"), &options), QP_OK);
    assert_int_equal(options.pooling, QP_POOL_CLS);
    qp_model_close(m);
    /* what fails leaves nothing */
    write_text("encoder/modules.json", "[{\"path\": \"../x\", \"type\": \"m.Pooling\"}]");
    expect_message(run("convert", "%/encoder", "--out", "%/encoder-odd", NULL), 1,
                   "\"../x\" is no folder's name");
    assert_int_not_equal(access(in_folder("encoder-odd"), F_OK), 0);
}

/* A folder that holds something stays as it is. */
static void taken_folder(void **state) {
    (void)state;
    size_t before, after;
    assert_int_equal(save_model("taken", byte_config), 0);
    free(read_file(in_folder("taken/config.json"), &before));
    expect_message(run("convert", golden("models", "qwen2", ""), "--out", "%/taken", NULL), 1,
                   "exists already");
    expect_message(run("convert", "%/taken", "--out", "%/taken/config.json", NULL), 1, "exists already");
    free(read_file(in_folder("taken/config.json"), &after));
    assert_int_equal(before, after);
    assert_int_equal(mkdir(in_folder("empty"), 0700), 0);
    expect_success(run("convert", "%/taken", "--out", "%/empty", NULL));
}

/* ---- Vocabularies ------------------------------------------------------------------------------------------ */

static void copy_golden(const char *name, const char *to) {
    size_t n;
    char  *bytes = read_file(golden("tokenizers", name, ".json"), &n);
    write_file(to, bytes, n);
    free(bytes);
}

/* A fresh model whose tokenizer is the golden one. */
static void make_speaker(const char *name) {
    static const char shape[] =
        "{\"model_type\": \"llama\", \"vocab_size\": 800, \"hidden_size\": 16, \"intermediate_size\": 16, "
        "\"num_hidden_layers\": 1, \"num_attention_heads\": 2, \"rms_norm_eps\": 1e-5}";
    qp_model *m = qp_model_new(ctx, "test", shape);
    assert_non_null(m);
    assert_int_equal(qp_model_save(m, in_folder("speaker")), QP_OK);
    qp_model_close(m);
    copy_golden(name, "speaker/tokenizer.json");
}

/* How many texts of the golden cases have other ids. */
static int count_other(const char *name, const char *a, const char *b) {
    qp_tokenizer *t = qp_tokenizer_load(ctx, a), *u = qp_tokenizer_load(ctx, b);
    json_t       *cases = json_load_file(golden("tokenizers", name, ".cases.json"), 0, NULL), *one;
    size_t        i;
    int           other = 0;
    if (!t || !u) fail_msg("%s: %s", name, qp_error(ctx));
    assert_true(json_array_size(cases) > 20);
    json_array_foreach(cases, i, one) {
        const char *text = json_string_value(json_object_get(one, "text"));
        qp_ids      x = {0}, y = {0};
        assert_int_equal(qp_encode(ctx, t, text, strlen(text), (qp_encode_options){0}, &x), QP_OK);
        assert_int_equal(qp_encode(ctx, u, text, strlen(text), (qp_encode_options){0}, &y), QP_OK);
        bool same =
            x.count == y.count && (!x.count || !memcmp(x.data, y.data, (size_t)x.count * sizeof *x.data));
        if (!same) print_message("%s: %s\n", name, text);
        other += !same;
        qp_ids_free(&x);
        qp_ids_free(&y);
    }
    json_decref(cases);
    qp_tokenizer_close(t);
    qp_tokenizer_close(u);
    return other;
}

/* What is written cuts text as the tokenizer.json does; how files cannot cut is refused. */
static void vocabularies(void **state) {
    (void)state;
    static const char *const same[] = {"wordpiece", "gpt2", "llama3", "digits", "gemma", "llama"};
    static const char *const refused[] = {"gaps",   "regex", "wordpiece-cased", "unigram", "wordlevel",
                                          "prefix", "clip"};
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        make_speaker(same[i]);
        expect_success(run("convert", "%/speaker", "--out", "%/speaker.gguf", NULL));
        assert_int_equal(count_other(same[i], in_folder("speaker"), in_folder("speaker.gguf")), 0);
    }
    make_speaker("qwen2"); /* whose normaliser has no place in such files */
    expect_success(run("convert", "%/speaker", "--out", "%/speaker.gguf", NULL));
    qp_file *f = open_file(in_folder("speaker.gguf"));
    assert_string_equal(qp_file_meta(f, "tokenizer.ggml.pre"), "qwen2");
    qp_file_close(f);
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        make_speaker(refused[i]);
        expect_message(run("convert", "%/speaker", "--out", "%/x.gguf", NULL), 1, "GGUF");
    }
}

/* A folder whose tokenizer is SentencePiece's keeps it, in a folder and in a file. */
static void pieces(void **state) {
    (void)state;
    size_t n;
    char  *bytes = read_file(golden("tokenizers", "spm", ".model"), &n);
    make_speaker("llama");
    write_file("speaker/tokenizer.model", bytes, n);
    free(bytes);
    remove(in_folder("speaker/tokenizer.json"));
    expect_success(run("convert", "%/speaker", "--out", "%/pieces.gguf", NULL));
    assert_int_equal(count_other("spm", in_folder("speaker"), in_folder("pieces.gguf")), 0);
    expect_success(run("convert", "%/speaker", "--out", "%/pieces", NULL));
    assert_int_equal(count_other("spm", in_folder("speaker"), in_folder("pieces")), 0);
}

/* ---- quantize ---------------------------------------------------------------------------------------------- */

/* A model whose rows hold whole blocks of 256, with a tokenizer of bytes. */
static const char config[] =
    "{\"model_type\": \"llama\", \"vocab_size\": 257, \"hidden_size\": 256, "
    "\"intermediate_size\": 512, \"num_hidden_layers\": 8, \"num_attention_heads\": 4, "
    "\"num_key_value_heads\": 1, \"rms_norm_eps\": 1e-5, \"max_position_embeddings\": 64, "
    "\"tie_word_embeddings\": true}";

static void make_model(void) { assert_int_equal(save_model("blocks", config), 0); }

/* Errors fall with the bits, and models made of blocks run. */
static void errors_and_bits(void **state) {
    (void)state;
    static const char *const kinds[] = {"Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K"};
    double                   last = 0;
    make_model();
    for (int k = 0; k < 6; k++) {
        json_t *o = expect_json(
                   run("quantize", "%/blocks", "--type", kinds[k], "--out", "%/q.gguf", "--json", NULL)),
               *t;
        double worst = 0;
        size_t i;
        json_array_foreach(json_object_get(o, "tensors"), i, t) worst =
            fmax(worst, json_number_value(json_object_get(t, "error")));
        if (!(worst > last * 1.2)) fail_msg("%s: an error of %g, with more bits %g", kinds[k], worst, last);
        assert_true(json_number_value(json_object_get(o, "bytes")) <
                    json_number_value(json_object_get(o, "bytes_before")) / 3);
        last = worst;
        json_decref(o);
        qp_model *m = qp_model_load(ctx, in_folder("q.gguf"), (qp_model_options){.as_stored = true});
        if (!m) fail_msg("%s", qp_error(ctx));
        int64_t   ids[] = {1, 2, 3};
        qp_tensor y = qp_logits(m, qp_from(ctx, QP_I64, 2, (int64_t[]){1, 3}, ids));
        assert_true(isfinite(qp_item(qp_max(qp_reshape(y, 1, (int64_t[]){-1}), 0, false))));
        qp_model_close(m);
    }
}

/* Halves are rounded, too. */
static void halves(void **state) {
    (void)state;
    double  worst = 0;
    json_t *t;
    size_t  i;
    make_model();
    json_t *o = expect_json(run("quantize", "%/blocks", "--type", "BF16", "--out", "%/q.gguf", "--json", NULL));
    json_array_foreach(json_object_get(o, "tensors"), i, t) worst =
        fmax(worst, json_number_value(json_object_get(t, "error")));
    assert_true(worst > 1e-3 && worst < 4e-3);
    json_decref(o);
}

/* Layers 0, 3, 6 and 7 of 8 are sensitive; the embedding is the output, too. */
static void mixtures(void **state) {
    (void)state;
    make_model();
    expect_success(run("quantize", "%/blocks", "--type", "q4_k", "--out", "%/q.gguf", NULL));
    qp_file *f = open_file(in_folder("q.gguf"));
    assert_string_equal(qp_file_meta(f, "general.file_type"), "15");
    for (int layer = 0; layer < 8; layer++) {
        char name[64];
        bool more = layer == 0 || layer == 3 || layer == 6 || layer == 7;
        snprintf(name, sizeof name, "blk.%d.attn_v.weight", layer);
        assert_string_equal(type_of(f, name), more ? "Q6_K" : "Q4_K");
        snprintf(name, sizeof name, "blk.%d.ffn_down.weight", layer);
        assert_string_equal(type_of(f, name), more ? "Q6_K" : "Q4_K");
        snprintf(name, sizeof name, "blk.%d.ffn_up.weight", layer);
        assert_string_equal(type_of(f, name), "Q4_K");
        snprintf(name, sizeof name, "blk.%d.attn_norm.weight", layer);
        assert_string_equal(type_of(f, name), "F32");
    }
    assert_string_equal(type_of(f, "token_embd.weight"), "Q6_K");
    qp_file_close(f);
    /* rows that hold no whole blocks */
    expect_success(
        run("quantize", golden("models", "llama-gqa-tied", ""), "--type", "Q4_K_M", "--out", "%/q.gguf", NULL));
    f = open_file(in_folder("q.gguf"));
    assert_string_equal(type_of(f, "blk.0.ffn_up.weight"), "F16");
    qp_file_close(f);
    expect_message(run("quantize", "%/blocks", "--type", "Q7", "--out", "%/q.gguf", NULL), 2, "Q7 is none of");
}

/* From a GGUF file as from the folder: the same blocks and values. What was said of its own types and parts
 * does not stay. */
static void from_files(void **state) {
    (void)state;
    static const char *const types[] = {"Q8_0", "Q4_K_M", "F16"};
    make_model();
    expect_success(run("convert", "%/blocks", "--out", "%/f.gguf", "--type", "f32", NULL));
    for (int i = 0; i < 3; i++) {
        expect_success(run("quantize", "%/f.gguf", "--type", types[i], "--out", "%/a.gguf", NULL));
        expect_success(run("quantize", "%/blocks", "--type", types[i], "--out", "%/b.gguf", NULL));
        expect_same_tensors(in_folder("a.gguf"), in_folder("b.gguf"));
        expect_values(in_folder("a.gguf"), in_folder("b.gguf"));
        expect_values(in_folder("b.gguf"), in_folder("a.gguf"));
    }
    expect_success(run("quantize", golden("gguf/split", "qwen2-00001-of-00002", ".gguf"), "--type", "F32",
                       "--out", "%/a.gguf", NULL));
    qp_file *f = open_file(in_folder("a.gguf"));
    assert_null(qp_file_meta(f, "split.count"));
    assert_string_equal(qp_file_meta(f, "general.file_type"), "0");
    qp_file_close(f);
    expect_message(
        run("quantize", golden("models", "qwen2", "/config.json"), "--type", "F32", "--out", "%/a.gguf", NULL),
        1, "config.json");
}

static void perplexities(void **state) {
    (void)state;
    make_model();
    write_text("some.txt", "It was the best of times, it was the worst of times, it was the age of wisdom.");
    json_t *o = expect_json(run("quantize", "%/blocks", "--type", "Q8_0", "--out", "%/blocks/q.gguf", "--json",
                                "--data", "%/some.txt", NULL));
    double  before = json_number_value(json_object_get(o, "perplexity_before"));
    assert_true(before > 100 && before < 600);
    json_decref(o);
}

/* The model of blocks with this among its elements. */
static void make_spoilt(double x) {
    const char *name;
    qp_tensor   t;
    make_model();
    qp_model *m = qp_model_load(ctx, in_folder("blocks"), (qp_model_options){0});
    assert_true(qp_model_weight(m, 3, false, &name, &t));
    ((float *)qp_data_write(t))[2] = (float)x;
    assert_int_equal(qp_model_save(m, in_folder("odd")), QP_OK);
    qp_model_close(m);
}

/* Elements that are no numbers, or are none in the type that is asked for, are told with their tensor. */
static void spoilt(void **state) {
    (void)state;
    static const char *const types[] = {"Q8_0", "Q4_K_M", "F16"};
    const double             odd[] = {NAN, INFINITY, 70000};
    write_text("some.txt", "It was the best of times.");
    for (int i = 0; i < 3; i++) {
        make_spoilt(odd[i]);
        const char *words = i < 2 ? ": 1 of its elements are no finite numbers"
                                  : ": 1 of its elements are beyond what f16 holds";
        for (int k = i < 2 ? 0 : 2; k < 3; k++)
            expect_message(run("quantize", "%/odd", "--type", types[k], "--out", "%/o.gguf", NULL), 1, words);
        expect_message(run("convert", "%/odd", "--type", "F16", "--out", "%/o.gguf", NULL), 1, words);
        expect_message(run("convert", "%/odd", "--type", "F16", "--out", "%/o", NULL), 1, words);
        expect_success(run("convert", "%/odd", "--type", "F32", "--out", "%/o", NULL));
        qpi_folder_remove(in_folder("o"));
    }
    assert_int_not_equal(access(in_folder("o.gguf"), F_OK), 0);
    make_spoilt(NAN);
    expect_message(run("quantize", "%/odd", "--type", "F32", "--data", "%/some.txt", "--out", "%/o.gguf", NULL),
                   1, "its loss is no finite number");
}

/* What cannot be written to is told before the work. */
static void outputs(void **state) {
    (void)state;
    make_model();
    expect_message(run("quantize", "%/blocks", "--type", "Q8_0", "--out", "", NULL), 1,
                   "expected a file's name");
    expect_message(run("quantize", "%/blocks", "--type", "Q8_0", "--out", "%/blocks", NULL), 1,
                   "expected a file's name");
    expect_message(run("convert", "%/blocks", "--out", "%/nowhere/o.gguf", NULL), 1, "there is no folder");
    expect_message(run("convert", "%/blocks", "--out", "", NULL), 2, "--out: expected a name");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(there_and_back),  cmocka_unit_test(types),        cmocka_unit_test(no_place),
        cmocka_unit_test(scaling_beyond),  cmocka_unit_test(mixed_types),  cmocka_unit_test(encoders),
        cmocka_unit_test(taken_folder),    cmocka_unit_test(vocabularies), cmocka_unit_test(pieces),
        cmocka_unit_test(errors_and_bits), cmocka_unit_test(halves),       cmocka_unit_test(from_files),
        cmocka_unit_test(mixtures),        cmocka_unit_test(perplexities), cmocka_unit_test(spoilt),
        cmocka_unit_test(outputs),
    };
    return cmocka_run_group_tests(tests, make_context, remove_context);
}
