/* Every call of the heap and of the operating system fails in turn, in tokenizers and data
 * sets: a clean error or success, and nothing leaks. */
#include "support.h"

#include <jansson.h>

#include "../format/in_turn.h"
#include "data/tokenizer.h"
#include "format/gguf.h"

#if FAULTS

/* ---- Tokenizers ---------------------------------------------------------------------------- */

static char        full[400]; /* the path of the file at hand */
static const char *path = full;
static const char *texts[4]; /* that it is used on, to NULL */
static qp_ids      spoken;   /* and ids that it decodes */

static bool use_text(qp_ctx *ctx, const qp_tokenizer *t, const char *text) {
    qp_ids      ids = {0}, types = {0};
    qp_text     out = {0};
    qp_decoding state = {0};
    size_t      n = strlen(text);
    bool        ok = qp_encode(ctx, t, text, n, (qp_encode_options){.wrap = true}, &ids) == QP_OK &&
                     qp_decode(ctx, t, ids.data, ids.count, true, &out) == QP_OK;
    for (int64_t i = 0; ok && i < ids.count; i++)
        ok = qp_decode_next(ctx, t, &state, ids.data[i], false, &out) == QP_OK;
    ok = qp_decode_end(ctx, &state, &out) == QP_OK && ok;
    ids.count = 0;
    ok = ok && (!t->pair.count || qp_encode_pair(ctx, t, text, n, "a b", 3, (qp_encode_options){.wrap = true},
                                                 &ids, &types) == QP_OK);
    qp_ids_free(&ids);
    qp_ids_free(&types);
    qp_text_free(&out);
    return ok;
}

static bool speak(qp_ctx *ctx, const qp_tokenizer *t) {
    qp_text     out = {0};
    qp_decoding state = {0};
    bool        ok = qp_decode(ctx, t, spoken.data, spoken.count, false, &out) == QP_OK;
    for (int64_t i = 0; ok && i < spoken.count; i++)
        ok = qp_decode_next(ctx, t, &state, spoken.data[i], false, &out) == QP_OK;
    ok = qp_decode_end(ctx, &state, &out) == QP_OK && ok;
    qp_text_free(&out);
    return ok;
}

/* What it writes of itself: its file, and the names of its components. */
static bool ask(qp_ctx *ctx, const qp_tokenizer *t) {
    qpi_error  e = {0};
    qpi_buffer names = {0}, file = {0};
    if (!qpi_tokenizer_print(t, &file)) e.code = QP_ERR_MEMORY;
    qpi_buffer_free(&file);
    for (qpi_part p = 0; p < QPI_PARTS; p++)
        if (t->parts[p] && !qpi_part_names(t, p, &names)) e.code = QP_ERR_MEMORY;
    qpi_buffer_free(&names);
    return e.code ? qp_fail(ctx, e.code, "memory") == QP_OK : true;
}

static bool load_and_use(qp_ctx *ctx) {
    qp_tokenizer *t = qp_tokenizer_load(ctx, path);
    bool          ok = t && ask(ctx, t) && speak(ctx, t);
    for (int i = 0; ok && texts[i]; i++) ok = use_text(ctx, t, texts[i]);
    return ok;
}

#define AS "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

static void tokenizers(void **state) {
    (void)state;
    static const char *const files[] = {
        "dropped.json",  "fused.json",     "added.json", "llama3.json", "qwen2.json",   "gaps.json",
        "bytes.json",    "wordpiece.json", "clip.json",  "llama.json",  "unigram.json", "unigram-bytes.json",
        "prefixed.json", "wordlevel.json", "gemma.json", "ignore.json", "regex.json",   "spm.gguf",
        "bpe.gguf",      "wpm.gguf",       "ugm.gguf",   "spm.model",   "unigram.model"};
    texts[0] = "It's <|endoftext|> 12 k\xC3\xA4"
               "fer, e\xCC\x81 and <l> knots; " AS;
    texts[1] = "<|endoftext|>";
    texts[2] = NULL;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(full, sizeof full, "%s%s", GOLDEN, files[i]);
        in_turn(load_and_use, 1, NULL, NULL);
    }
}

static void use_json(const char *json) {
    snprintf(full, sizeof full, "%s", temporary("made.json"));
    write_text(path, json);
    in_turn(load_and_use, 1, NULL, NULL);
    remove(path);
}

/* Each component of parts.json with a model of few words. */
static void components(void **state) {
    (void)state;
    static const char model[] =
        "\"model\":{\"type\":\"WordLevel\",\"unk_token\":\"<unk>\",\"vocab\":{\"<unk>\":0,\"a\":1,\"b\":2,"
        "\"\xC3\xA9\":3,"
        "\"<0xC3>\":4,\"<0xA9>\":5,\" \":6,\"e</w>\":7,\"n't\":8,\".\":9,\"\":10,\"c d </w>\":11}}";
    json_t *root = json_load_file(GOLDEN "parts.json", 0, NULL), *entries = json_object_get(root, "entries"),
           *entry;
    size_t i;
    assert_non_null(root);
    texts[0] = "a b. \xE2\x96\x81"
               "e, \xC3\xA9 12\n[CLS] It's \xFF \xE7\xB5\x90 "
               "\xC4\xB0\xC4\xB0\xC4\xB0\xC4\xB0\xC4\xB0\xC4\xB0\xC4\xB0\xC4\xB0"
               " q\xCC\x87\xCC\xA3\xCC\x87\xCC\xA3\xCC\x87\xCC\xA3\xCC\x87\xCC\xA3\xCC\x87\xCC\xA3\xCC\x87\xCC"
               "\xA3\xCC\x87\xCC\xA3\xCC\x87\xCC\xA3\xCC\x87\xCC\xA3 aaa";
    texts[1] = "  aa";
    texts[2] = NULL;
    json_array_foreach(entries, i, entry) {
        char *json = json_dumps(json_object_get(entry, "json"), JSON_COMPACT | JSON_ENCODE_ANY),
             *all = malloc(strlen(json) + 2000);
        sprintf(all, "{\"added_tokens\":[{\"id\":12,\"content\":\"A\"}],\"%s\":%s,%s}",
                json_string_value(json_object_get(entry, "part")), json, model);
        spoken.count = 0;
        for (int32_t k = 0; k < 40; k++) {
            assert_true(qpi_ids_reserve(&spoken, 1));
            spoken.data[spoken.count++] = (int32_t[]){6, 1, 2, 4, 5, 8, 9, 11, 7, 3, 6, 6, 1, 1, 10}[k % 15];
        }
        use_json(all);
        free(json);
        free(all);
    }
    assert_true(i > 100);
    qp_ids_free(&spoken);
    json_decref(root);
}

#define LEVEL "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}"
#define ABC \
    "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\" \":3},\"merges\":[[\"a\",\"b\"]]"

static void odd_files(void **state) {
    (void)state;
    static const char *const files[] = {
        "{" ABC ",\"unk_token\":\"\\u0061\"}}",
        "{" ABC "},\"post_processor\":{\"type\":\"RobertaProcessing\",\"cls\":[\"a\",0],\"sep\":[\"b\",1]}}",
        "{" ABC "},\"post_processor\":{\"type\":\"BertProcessing\",\"cls\":[\"a\",0],\"sep\":[\"b\",1]}}",
        "{" ABC "},\"normalizer\":{\"type\":\"Lowercase\"},\"added_tokens\":[{\"id\":5,\"content\":\"A\","
        "\"normalized\":true},"
        "{\"id\":6,\"content\":\"!\",\"special\":true,\"rstrip\":true}]}",
        "{" ABC "},\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(a|ab)(c|bcd)*\\\\C\"},"
        "\"behavior\":\"Isolated\"}}",
        "{\"model\":{\"type\":\"WordPiece\",\"vocab\":{\"[UNK]\":0,\"a\":1,\"##b\":2}}}",
        "{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"<unk>\":0,\"a\":1}}}",
    };
    texts[0] = "!ab !  abab a" AS;
    texts[1] = "a!b!a!b!a!b!a!b!a!b!a!b!a!b!a!b!a!b!a!b!a!b!a!b!a!b!a!b!a!b!a!b!a!b";
    texts[2] = "aabbab!";
    texts[3] = NULL;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) use_json(files[i]);
}

/* More than a table or a block of memory holds at first: merges of all pairs of letters, tokens of 40 kB. */
static void large_files(void **state) {
    (void)state;
    static const char *const tails[] = {"\"pre_tokenizer\":" LEVEL ",\"decoder\":" LEVEL, "\"decoder\":null"};
    char                    *json = malloc(200000);
    for (size_t kind = 0; kind < 2; kind++) {
        size_t n = (size_t)sprintf(json, "{%s,\"model\":{\"type\":\"BPE\",\"vocab\":{", tails[kind]);
        for (int i = 0; i < 26; i++) n += (size_t)sprintf(json + n, "\"%c\":%d,", 'a' + i, i);
        for (int i = 0; i < 676; i++)
            n += (size_t)sprintf(json + n, "\"%c%c\":%d,", 'a' + i / 26, 'a' + i % 26, 26 + i);
        for (int i = 0; i < 2; i++) {
            n += (size_t)sprintf(json + n, "\"");
            memset(json + n, 'a' + i, 40000);
            n += 40000 + (size_t)sprintf(json + n + 40000, "\":%d%s", 702 + i, i ? "" : ",");
        }
        n += (size_t)sprintf(json + n, "},\"merges\":[");
        for (int i = 0; i < 676; i++)
            n += (size_t)sprintf(json + n, "%s\"%c %c\"", i ? "," : "", 'a' + i / 26, 'a' + i % 26);
        strcpy(json + n, "]}}");
        texts[0] = "abyz" AS;
        texts[1] = NULL;
        use_json(json);
    }
    /* Added tokens whose texts fill blocks of memory, so that copies of them begin new ones. */
    size_t n = (size_t)sprintf(
        json, "{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"a\":0},\"unk_token\":\"a\"},\"added_tokens\":[");
    for (int i = 1; i <= 70; i++)
        n += (size_t)sprintf(json + n, "%s{\"id\":%d,\"content\":\"%0511d\"}", i > 1 ? "," : "", i, i);
    strcpy(json + n, "]}");
    use_json(json);
    free(json);
}

/* The same in GGUF files: many merges, long tokens, a long map of replacements. */
static void large_gguf(void **state) {
    (void)state;
    static const char *const models[] = {"gpt2", "llama", "t5"};
    char                     longest[3002], text[3100];
    uint8_t                  map[4000] = {4, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF};
    qpi_error                e = {0};
    memset(longest, 'a', 3001);
    longest[3001] = 0;
    memset(map + 8, 'x', sizeof map - 8);
    texts[0] = "abyz" AS;
    texts[1] = NULL;
    for (int kind = 0; kind < 3; kind++) {
        qpi_gguf_pairs p = {0};
        qpi_gguf_put_text(&p, "tokenizer.ggml.model", models[kind], strlen(models[kind]));
        qpi_gguf_put_array(&p, "tokenizer.ggml.tokens", QPI_GGUF_TEXT, kind == 2 ? 702 : 704);
        for (int i = 0; i < 26; i++) qpi_gguf_add_text(&p, (char[]){(char)('a' + i)}, 1);
        for (int i = 0; i < 676; i++)
            qpi_gguf_add_text(&p, (char[]){(char)('a' + i / 26), (char)('a' + i % 26)}, 2);
        for (size_t i = 0; i < 2 && kind < 2; i++)
            qpi_gguf_add_text(&p, longest, 3000 + i); /* longer than Unigram's may be */
        qpi_gguf_put_array(&p, "tokenizer.ggml.scores", QPI_GGUF_F32, 704);
        for (int i = 0; i < 704; i++) qpi_gguf_add_f32(&p, (float)-i);
        if (kind == 0) {
            qpi_gguf_put_array(&p, "tokenizer.ggml.merges", QPI_GGUF_TEXT, 677);
            for (int i = 0; i < 676; i++)
                qpi_gguf_add_text(&p, (char[]){(char)('a' + i / 26), ' ', (char)('a' + i % 26)}, 3);
            snprintf(text, sizeof text, "%.3000s a", longest);
            qpi_gguf_add_text(&p, text, strlen(text));
        }
        qpi_gguf_value bytes = {.key = "tokenizer.ggml.precompiled_charsmap",
                                .kind = QPI_GGUF_U8,
                                .array = true,
                                .count = sizeof map,
                                .data = map};
        if (kind) qpi_gguf_put_value(&p, &bytes);
        qpi_gguf_put_integer(&p, "tokenizer.ggml.unknown_token_id", QPI_GGUF_U32, 0);
        qpi_gguf_put_integer(&p, "tokenizer.ggml.bos_token_id", QPI_GGUF_U32, 1);
        qpi_gguf_put_integer(&p, "tokenizer.ggml.add_bos_token", QPI_GGUF_BOOL, 1);
        snprintf(full, sizeof full, "%s", temporary("made.gguf"));
        if (!qpi_gguf_save(path, &p, 0, NULL, NULL, NULL, &e)) fail_msg("%s", e.text);
        qpi_gguf_pairs_free(&p);
        in_turn(load_and_use, 1, NULL, NULL);
        remove(path);
    }
}

/* A model's folder: the files beside the tokenizer, and a SentencePiece model in its place. */
static void folders(void **state) {
    (void)state;
    static const char *const files[][2] = {
        {"tokenizer_config.json", "{\"bos_token\":\"a\",\"eos_token\":{\"content\":\"b\"},\"add_bos_token\":"
                                  "true,\"add_eos_token\":true}"},
        {"special_tokens_map.json", "{\"bos_token\":\"a\"}"},
        {"generation_config.json", "{\"eos_token_id\":[0,1]}"},
        {"tokenizer.json", "{" ABC "}}"},
    };
    char folder[300], command[900];
    snprintf(folder, sizeof folder, "%s", temporary("folder"));
    assert_int_equal(mkdir(folder, 0700), 0);
    texts[0] = "ab";
    texts[1] = NULL;
    for (size_t i = 0; i < 4; i++) {
        snprintf(full, sizeof full, "%s/%s", folder, files[i][0]);
        write_text(path, files[i][1]);
    }
    snprintf(full, sizeof full, "%s", folder);
    in_turn(load_and_use, 1, NULL, NULL);
    /* A beginning is asked for, and there is no token for it. */
    snprintf(command, sizeof command, "echo '{\"add_bos_token\":true}' >'%s/%s' && rm '%s/%s'", folder,
             files[0][0], folder, files[1][0]);
    assert_int_equal(system(command), 0);
    in_turn(load_and_use, 1, NULL, NULL);
    snprintf(command, sizeof command, "rm '%s/tokenizer.json' && cp '" GOLDEN "spm.model' '%s/tokenizer.model'",
             folder, folder);
    assert_int_equal(system(command), 0);
    in_turn(load_and_use, 1, NULL, NULL);
    snprintf(command, sizeof command, "rm -r '%s'", folder);
    assert_int_equal(system(command), 0);
}

static bool save_bytes(qp_ctx *ctx) {
    qp_tokenizer *t = qp_tokenizer_bytes(ctx);
    return t && qp_tokenizer_save(ctx, t, temporary("saved.json")) == QP_OK;
}
static void bytes(void **state) {
    (void)state;
    in_turn(save_bytes, 1, NULL, NULL);
    remove(temporary("saved.json"));
}

static bool encode_long(qp_ctx *ctx) {
    size_t        n = 200000;
    char         *text = __libc_malloc(n); /* this one does not fail */
    qp_ids        ids = {0};
    qp_tokenizer *t = qp_tokenizer_load(ctx, GOLDEN "gpt2.json");
    for (size_t i = 0; i < n; i++) text[i] = "knots and cords "[i % 16];
    bool ok = t && qp_encode(ctx, t, text, n, (qp_encode_options){0}, &ids) == QP_OK;
    __libc_free(text);
    qp_ids_free(&ids);
    return ok;
}

static void encoding_in_threads(void **state) {
    (void)state;
    in_turn(encode_long, 3, NULL, NULL);
    /* The number of calls depends on who works how much, the last one puts the threads' ids together:
     * some rounds, so that a busy machine meets it, too. */
    bool succeeded;
    for (int round = 0; round < 6; round++) {
        faults_record_begin();
        warm(encode_long, 3);
        long count = faults_record_end();
        for (long n = count > 25 ? count - 25 : 0; n < count + 25; n++)
            with_fault(encode_long, 3, n + 1, &succeeded);
    }
}

static qp_bpe_options train_options;

static bool train(qp_ctx *ctx) { return qp_tokenizer_train(ctx, 1, &path, train_options) != NULL; }

static char *different_words; /* JSON lines, each pair of letters in words of its own */

static bool train_text(qp_ctx *ctx) {
    return qp_tokenizer_train_text(ctx, different_words, strlen(different_words), train_options) != NULL;
}

static void training(void **state) {
    (void)state;
    strcpy(full, GOLDEN "corpus.txt");
    train_options = (qp_bpe_options){.size = 400, .pattern = "llama3"};
    in_turn(train, 1, NULL, NULL);
    in_turn(train, 2, NULL, NULL);
    /* More words, pairs and merges than tables have room for at first; several documents. */
    size_t n = 0;
    different_words = malloc(200000);
    for (uint32_t i = 0, x = 1; i < 2500; i++) {
        n += (size_t)sprintf(different_words + n, i % 500 ? " " : i ? "\"}\n{\"text\":\"" : "{\"text\":\"");
        for (int k = 0; k < 6; k++)
            x = x * 1664525 + 1013904223,
            different_words[n++] = (char)('A' + (x >> 16) % 2 * 32 + (x >> 24) % 26);
    }
    strcpy(different_words + n, "\"}\n");
    snprintf(full, sizeof full, "%s", temporary("words.jsonl"));
    write_text(path, different_words);
    train_options = (qp_bpe_options){.size = 1000};
    in_turn(train, 1, NULL, NULL);
    in_turn(train_text, 1, NULL, NULL);
    remove(path);
    free(different_words);
}

/* ---- Data sets ------------------------------------------------------------------------------- */

static int ahead;

static bool read_data(qp_ctx *ctx) {
    qp_data_options o = {.batch = 2, .length = 16, .validation = 0.2, .ahead = ahead};
    qp_data        *d = qp_data_open(ctx, 1, &path, o);
    for (int i = 0; d && i < 5; i++) {
        qp_scope s = qp_enter(ctx);
        qp_data_next(i % 2 ? d : qp_data_validation(d));
        qp_leave(s);
    }
    const char *text = d ? qp_data_state(d) : NULL;
    if (text && qp_data_restore(d, text) != QP_OK) return false;
    qp_record b = {0};
    for (int i = 0; d && i < 4; i++) b = qp_data_next(d); /* still out when the context closes */
    return b.count > 0 && !qp_failed(ctx);
}

static void data_sets(void **state) {
    (void)state;
    strcpy(full, GOLDEN "corpus.txt");
    for (ahead = -1; ahead < 3; ahead += 3) in_turn(read_data, 1, NULL, NULL);
    /* A name that JSON cannot hold. */
    snprintf(full, sizeof full, "%s", temporary("\xFF.txt"));
    write_text(path,
               "Some text that is long enough for rows of sixteen, two of them, and a part for validation.");
    in_turn(read_data, 1, NULL, NULL);
    remove(path);
}

static const char *tokenizer_path; /* NULL: bytes */

static bool read_lines(qp_ctx *ctx) {
    qp_data_options o = {.length = 4, .ahead = -1, .wrap = true};
    if (tokenizer_path && !(o.tokenizer = qp_tokenizer_load(ctx, tokenizer_path))) return false;
    return qp_data_open(ctx, 1, &path, o) != NULL;
}

static void json_lines(void **state) {
    (void)state;
    snprintf(full, sizeof full, "%s", temporary("faults.jsonl"));
    static const char *const lines[] = {"{\"text\":\"one \\u00e9\"}\n{\"text\":\"two\"}\n",
                                        "{\"text\":\"\"}\n{\"text\":\"two or more\"}\n"};
    for (int i = 0; i < 4; i++) {
        tokenizer_path = i < 2 ? NULL : GOLDEN "wordpiece.json";
        write_text(path, lines[i % 2]);
        in_turn(read_lines, 1, NULL, NULL);
    }
    remove(path);
}

/* Once batches go round, none costs a call of the heap. */
static void no_calls_in_the_loop(void **state) {
    (void)state;
    const char *path = GOLDEN "corpus.txt";
    for (ahead = -1; ahead < 3; ahead += 3) {
        qp_ctx  *ctx = qp_open((qp_options){.threads = 1});
        qp_data *d = qp_data_open(ctx, 1, &path, (qp_data_options){.batch = 2, .length = 16, .ahead = ahead});
        for (int i = 0; i < 200; i++) {
            if (i == 20) faults_begin(INT64_MAX);
            qp_scope  s = qp_enter(ctx);
            qp_record b = qp_data_next(d);
            if (!b.count) break;
            qp_leave(s);
        }
        faults_end();
        expect_ok(ctx);
        assert_int_equal(atomic_load(&faults_calls), 0);
        qp_close(ctx);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokenizers), cmocka_unit_test(components),
        cmocka_unit_test(odd_files),  cmocka_unit_test(large_files),
        cmocka_unit_test(large_gguf), cmocka_unit_test(folders),
        cmocka_unit_test(bytes),      cmocka_unit_test(encoding_in_threads),
        cmocka_unit_test(training),   cmocka_unit_test(data_sets),
        cmocka_unit_test(json_lines), cmocka_unit_test(no_calls_in_the_loop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
#else
int main(void) { return 0; }
#endif
