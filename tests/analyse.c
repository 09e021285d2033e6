/* The analysis of routing: its counts against sums made directly, its choices against the model's own, and
 * what it refuses. */
#include "test.h"

#include "eval/eval.h"
#include "tiny.h"

#include <unistd.h>

/* ---- counts -------------------------------------------------------------------------------------------- */

enum { HEADS = 2, EXPERTS = 5, TOP_K = 2, WIDTH = HEADS * TOP_K, KINDS = 7, LABELS = 3, TOKENS = 500 };

/* Routing that is settled by (seed, token): two distinct experts for each head. */
static void draw(int32_t choice[WIDTH], uint64_t seed, int64_t index)
{
    for (int j = 0; j < HEADS; j++) {
        uint32_t bits[4];
        mh_random4(seed, mh_stream(MH_RANDOM_TEST, 0, 0), (uint64_t)(index * HEADS + j), bits);
        choice[j * TOP_K] = (int32_t)(bits[0] % EXPERTS);
        choice[j * TOP_K + 1] = (int32_t)((bits[0] + 1 + bits[1] % (EXPERTS - 1)) % EXPERTS);
    }
}

static mh_arena start_counts(mh_routing *r)
{
    mh_arena count = {0}, memory;
    *r = (mh_routing){.layer = 1,
                      .heads = HEADS,
                      .experts = EXPERTS,
                      .top_k = TOP_K,
                      .token.count = KINDS,
                      .label.count = LABELS};
    mh_routing_layout(r, &count);
    OK(mh_arena_init(&memory, count.used, "counts"));
    mh_routing_layout(r, &memory);
    return memory;
}

static bool holds(const int32_t *choice, int count, int expert)
{
    for (int i = 0; i < count; i++)
        if (choice[i] == expert)
            return true;
    return false;
}

static void test_counts(void **state)
{
    (void)state;
    static int32_t choice[TOKENS][WIDTH];
    mh_routing r;
    mh_arena memory = start_counts(&r);
    for (int t = 0; t < TOKENS; t++) {
        draw(choice[t], 1, t);
        mh_routing_count(&r, choice[t], t % KINDS, t % LABELS);
    }
    int64_t distinct[WIDTH + 1] = {0}, kept[HEADS] = {0};
    assert_int_equal(r.tokens, TOKENS);
    for (int e = 0; e < EXPERTS; e++) {
        int64_t load[HEADS] = {0}, by_token[KINDS] = {0}, by_label[LABELS] = {0}, together[EXPERTS] = {0};
        for (int t = 0; t < TOKENS; t++) {
            int64_t before = load[0] + load[1];
            for (int i = 0; i < WIDTH; i++)
                load[i / TOP_K] += choice[t][i] == e;
            by_token[t % KINDS] += load[0] + load[1] - before;
            by_label[t % LABELS] += load[0] + load[1] - before;
            for (int other = 0; other < EXPERTS; other++)
                together[other] += holds(choice[t], WIDTH, e) && holds(choice[t], WIDTH, other);
        }
        assert_int_equal(r.load[e], load[0] + load[1]);
        for (int j = 0; j < HEADS; j++)
            assert_int_equal(r.head_load[j * EXPERTS + e], load[j]);
        for (int i = 0; i < KINDS; i++)
            assert_int_equal(r.token.chosen[i * EXPERTS + e], by_token[i]);
        for (int i = 0; i < LABELS; i++)
            assert_int_equal(r.label.chosen[i * EXPERTS + e], by_label[i]);
        assert_memory_equal(r.together + e * EXPERTS, together, sizeof together);
    }
    for (int t = 0; t < TOKENS; t++) {
        int n = 0;
        for (int e = 0; e < EXPERTS; e++)
            n += holds(choice[t], WIDTH, e);
        distinct[n]++;
        for (int i = 0; t >= KINDS && i < WIDTH; i++)
            kept[i / TOP_K] += holds(choice[t - KINDS] + i / TOP_K * TOP_K, TOP_K, choice[t][i]);
    }
    assert_memory_equal(r.distinct, distinct, sizeof distinct);
    assert_memory_equal(r.kept, kept, sizeof kept);
    assert_int_equal(r.repeats, TOKENS - KINDS);
    mh_arena_release(&memory);
}

/* ---- measures ------------------------------------------------------------------------------------------ */

/* A number in nested objects and arrays: path "activation.ratio" or "load.0.3". */
static double look(const json_t *json, const char *path)
{
    char copy[128], *rest = copy;
    snprintf(copy, sizeof copy, "%s", path);
    for (const char *key; (key = strsep(&rest, ".")) != NULL;)
        json = json_is_array(json) ? json_array_get(json, (size_t)atoi(key)) : json_object_get(json, key);
    if (!json_is_number(json))
        fail_msg("%s is no number", path);
    return json_number_value(json);
}

/* Numbers are rounded to 1e-6, and gates computed alone may be rounded otherwise. */
#define NEAR(json, path, expected)                                    \
    do {                                                              \
        double got_ = look(json, path), expected_ = (expected);       \
        if (!(fabs(got_ - expected_) < 2e-6))                         \
            fail_msg("%s is %g, expected %g", path, got_, expected_); \
    } while (0)

static void test_measures(void **state)
{
    (void)state;
    mh_routing r;
    mh_arena memory = start_counts(&r);
    char *labels[LABELS] = {"law", "poem", "sea"};
    /* Expert 4 takes nothing but token 2, which stands in poems alone. */
    static const int32_t usual[WIDTH] = {0, 1, 2, 3}, other[WIDTH] = {0, 1, 2, 4}, same[WIDTH] = {0, 1, 0, 1};
    for (int t = 0; t < 90; t++)
        mh_routing_count(&r, t % 9 == 1 ? other : t % 9 == 2 ? same : usual, t % 9 == 1 ? 2 : 1, t % 3);
    json_t *json = mh_routing_json(&r, 0.11, tiny_tokenizer, labels);
    assert_non_null(json);
    NEAR(json, "layer", 1);
    NEAR(json, "load.0.0", 0.5);
    NEAR(json, "load.0.4", 0);
    NEAR(json, "load.1.4", 10.0 / 180);
    NEAR(json, "head_entropy.0", log(2) / log(5));
    double p[] = {100.0 / 360, 100.0 / 360, 80.0 / 360, 70.0 / 360, 10.0 / 360}, entropy = 0;
    for (int e = 0; e < EXPERTS; e++)
        entropy -= p[e] * log(p[e]) / log(5);
    NEAR(json, "entropy", entropy);
    NEAR(json, "activation.threshold", 0.11);
    NEAR(json, "activation.ratio", 1);       /* expert 4: 10 of 90 tokens */
    NEAR(json, "activation.corrected", 0.8); /* 10 of 360 choices */
    NEAR(json, "activation.curve.11.threshold", 0.2);
    NEAR(json, "activation.curve.11.ratio", 0.8);
    NEAR(json, "activation.curve.11.corrected", 0.6);
    NEAR(json, "distinct.mean", (80 * 4 + 10 * 2) / 90.0);
    NEAR(json, "distinct.histogram.1", 10.0 / 90);
    NEAR(json, "distinct.histogram.3", 80.0 / 90);
    NEAR(json, "repeats.tokens", 88);
    /* Head 0 never changes. Head 1 of token 1 is {0, 1} in 10 of its 80 places, entered and left each time.
     */
    NEAR(json, "repeats.heads.0", 0);
    NEAR(json, "repeats.heads.1", 20.0 / 88);
    NEAR(json, "repeats.changed", 10.0 / 88);
    NEAR(json, "coactivation.0.0", 90);
    NEAR(json, "coactivation.4.2", 10);
    NEAR(json, "coactivation.4.3", 0);
    NEAR(json, "coactivation_lift.4.2", (10 + 5.0) / (10 * 80 / 90.0 + 5));
    NEAR(json, "experts.4.tokens.0.count", 10);
    NEAR(json, "experts.4.tokens.0.lift", (10 + 5.0) / (10 * 10 / 90.0 + 5));
    NEAR(json, "experts.4.labels.0.share", 1);
    NEAR(json, "experts.4.labels.0.lift", (10 + 5.0) / (30 * 10 / 90.0 + 5));
    const json_t *expert = json_array_get(json_object_get(json, "experts"), 4);
    assert_int_equal(json_array_size(json_object_get(expert, "tokens")), 1);
    assert_int_equal(json_array_size(json_object_get(expert, "labels")), 1);
    assert_string_equal(
        json_string_value(json_object_get(json_array_get(json_object_get(expert, "labels"), 0), "label")),
        "poem");
    json_decref(json);
    json = mh_routing_json(&r, -1, tiny_tokenizer, labels);
    NEAR(json, "activation.threshold", 0.1);
    json_decref(json);
    mh_arena_release(&memory);
}

/* ---- the analysis of a model --------------------------------------------------------------------------- */

/* A checkpoint folder of a tiny model whose weights are those of `seed`; its name lasts. */
static const char *make_checkpoint(const char *name, int64_t context, int64_t experts, uint64_t seed)
{
    mh_config config = tiny_config(context, experts);
    mh_model *model = tiny_model(&config, MH_PRECISION_F32, seed);
    static char folders[16][MH_PATH];
    static int made;
    assert_true(made < 16);
    char *folder = strcpy(folders[made++], tiny_path(name));
    OK(mh_make_dirs(folder));
    OK(mh_checkpoint_write(model, tiny_tokenizer, folder));
    mh_model_free(model);
    return folder;
}

static mh_status analyse(const char *checkpoint, const char *input, mh_analysis analysis, json_t **result)
{
    if (analysis.checkpoints == NULL) {
        analysis.checkpoints = &checkpoint;
        analysis.checkpoint_count = 1;
    }
    analysis.inputs = &input;
    analysis.input_count = 1;
    if (analysis.tokens == 0)
        analysis.tokens = 1 << 20;
    return mh_analyse(&analysis, NULL, result);
}

/* The choices and gates of the last of `count` tokens, computed alone. */
static void choose_last(const mh_model *model, const int32_t *token, int64_t count, int32_t choice[4],
                        float gate[4])
{
    mh_pass *pass;
    mh_call call = {.token = token, .batch = 1, .rows = count};
    OK(mh_pass_create(&pass, model,
                      (mh_pass_shape){.batch = 1, .rows = count, .capacity = count, .training = true}));
    mh_forward(pass, model, &call);
    const mh_plan *plan = &mh_pass_ffn(pass, 1)->plan;
    memcpy(choice, plan->choice + (count - 1) * 4, 4 * sizeof *choice);
    memcpy(gate, plan->gate + (count - 1) * 4, 4 * sizeof *gate);
    mh_pass_free(pass);
}

static const char passage[] =
    "Once upon a time there was a dog on a ship at sea. The fox wrote about the people "
    "who sang at night, and the dog knows the sea well, one after another.";

/* Each token of a text, within the context or longer, is told what it chose in the window where it has most
 * context; and the counts are those of these choices. */
static void check_passage(int64_t context)
{
    enum { SHOWN = 96 };
    const char *path = tiny_path("passage.txt"), *folder = make_checkpoint("one", context, 6, 31);
    OK(mh_file_write(path, passage, strlen(passage)));
    mh_model *model;
    mh_ids ids = {0};
    json_t *json;
    OK(mh_model_load(&model, NULL, folder, MH_PRECISION_F32));
    OK(mh_tokenizer_encode(tiny_tokenizer, passage, strlen(passage), &ids));
    assert_in_range(ids.count, context > 64 ? 20 : context + 1, context > 64 ? context : SHOWN);
    int32_t token[SHOWN + 1] = {(int32_t)model->config.bos};
    memcpy(token + 1, ids.id, (size_t)ids.count * sizeof *ids.id);

    OK(analyse(folder, path, (mh_analysis){.threshold = -1}, &json));
    NEAR(json, "tokens", (double)ids.count);
    int64_t load[2][6] = {0}, stride = (context + 1) / 2;
    for (int64_t i = 0; i < ids.count; i++) {
        int32_t choice[4];
        float gate[4];
        int64_t count = i + 2, beyond = count - context;
        int64_t start = beyond > 0 ? (beyond + stride - 1) / stride * stride : 0;
        choose_last(model, token + start, count - start, choice, gate);
        for (int c = 0; c < 4; c++) {
            char experts[96], gates[96];
            snprintf(experts, sizeof experts, "trace.tokens.%d.layers.0.heads.%d.experts.%d", (int)i, c / 2,
                     c % 2);
            snprintf(gates, sizeof gates, "trace.tokens.%d.layers.0.heads.%d.gates.%d", (int)i, c / 2, c % 2);
            NEAR(json, experts, choice[c]);
            NEAR(json, gates, (double)gate[c]);
            load[c / 2][choice[c]]++;
        }
    }
    for (int e = 0; e < 6; e++)
        for (int j = 0; j < 2; j++) {
            char name[64];
            snprintf(name, sizeof name, "layers.0.load.%d.%d", j, e);
            NEAR(json, name, (double)load[j][e] / (double)(2 * ids.count));
        }
    json_decref(json);
    mh_ids_release(&ids);
    mh_model_free(model);
}

static void test_every_token_where_it_has_most_context(void **state)
{
    (void)state;
    check_passage(256);
    check_passage(16);
    check_passage(7);
}

static void test_checkpoints(void **state)
{
    (void)state;
    static const char texts[] =
        "{\"text\": \"A dog and a ship.\"}\n{\"text\": \"The lazy fox sang at night.\"}\n"
        "{\"text\": \"Once upon a time there was a model.\"}\n";
    const char *path = tiny_path("several.jsonl");
    OK(mh_file_write(path, texts, strlen(texts)));
    const char *list[] = {make_checkpoint("step-000010", 64, 6, 41),
                          make_checkpoint("step-000020", 64, 6, 42), make_checkpoint("last", 64, 6, 41)};
    json_t *json, *again;
    mh_analysis analysis = {.threshold = -1, .checkpoints = list, .checkpoint_count = 3};
    OK(analyse(NULL, path, analysis, &json));
    NEAR(json, "checkpoints.0.step", 10);
    NEAR(json, "checkpoints.0.changed.0", 0); /* the same weights */
    NEAR(json, "checkpoints.1.step", 20);
    double changed = look(json, "checkpoints.1.changed.0");
    assert_true(changed > 0.2 && changed < 1); /* by chance 2/3: two of six experts are chosen */
    NEAR(json, "checkpoints.2.changed.0", 0);
    assert_true(
        json_is_null(json_object_get(json_array_get(json_object_get(json, "checkpoints"), 2), "step")));
    OK(analyse(list[2], path, (mh_analysis){.threshold = -1}, &again));
    assert_int_equal(json_array_size(json_object_get(again, "checkpoints")), 0);
    assert_true(json_equal(json_object_get(json, "layers"), json_object_get(again, "layers")));
    json_decref(json);
    json_decref(again);

    list[0] = make_checkpoint("wide", 64, 8, 41);
    FAILS(MH_EMISMATCH, "moe.experts differ", analyse(NULL, path, analysis, &json));
    assert_null(json);
    FAILS(MH_EVALUE, "is a dense model",
          analyse(make_checkpoint("dense", 64, 0, 41), path, (mh_analysis){0}, &json));
}

/* ---- words --------------------------------------------------------------------------------------------- */

static const char *string_at(const json_t *json, size_t word, size_t i, const char *key)
{
    json = json_object_get(json_array_get(json_object_get(json, "words"), word), "occurrences");
    const char *text = json_string_value(json_object_get(json_array_get(json, i), key));
    return text ? text : "(none)";
}

static void test_words(void **state)
{
    (void)state;
    static const char text[] =
        "The sea was wide. Season after\nseason, a SEA-dog sang! Overseas, undersea.\n\nNo end of the sea";
    const char *path = tiny_path("sea.txt"), *folder = make_checkpoint("words", 256, 6, 51);
    OK(mh_file_write(path, text, strlen(text)));
    json_t *json;
    OK(analyse(folder, path, (mh_analysis){.threshold = -1, .words = "sea, dog ,moon"}, &json));
    NEAR(json, "words.0.found", 3);
    NEAR(json, "words.1.found", 1);
    NEAR(json, "words.2.found", 0);
    assert_string_equal(string_at(json, 0, 0, "before"), "The ");
    assert_string_equal(string_at(json, 0, 0, "text"), "sea");
    assert_string_equal(string_at(json, 0, 0, "after"), " was wide.");
    assert_string_equal(string_at(json, 0, 1, "before"), "Season after season, a ");
    assert_string_equal(string_at(json, 0, 1, "text"), "SEA");
    assert_string_equal(string_at(json, 0, 1, "after"), "-dog sang!");
    assert_string_equal(string_at(json, 0, 2, "before"), "No end of the ");
    assert_string_equal(string_at(json, 0, 2, "after"), "");
    assert_string_equal(string_at(json, 1, 0, "before"), "Season after season, a SEA-");

    /* The experts are those of the word's last token, and "changed" is the mean over pairs of sentences. */
    static const char *const upto[] = {"The sea", "The sea was wide. Season after\nseason, a SEA", text};
    int32_t choice[3][4];
    mh_model *model;
    OK(mh_model_load(&model, NULL, folder, MH_PRECISION_F32));
    for (int i = 0; i < 3; i++) {
        mh_ids ids = {0};
        float gate[4];
        int32_t token[256] = {(int32_t)model->config.bos};
        OK(mh_tokenizer_encode(tiny_tokenizer, upto[i], strlen(upto[i]), &ids));
        memcpy(token + 1, ids.id, (size_t)ids.count * sizeof *ids.id);
        choose_last(model, token, ids.count + 1, choice[i], gate);
        mh_ids_release(&ids);
        for (int c = 0; c < 4; c++) {
            char name[96];
            snprintf(name, sizeof name, "words.0.occurrences.%d.layers.0.heads.%d.%d", i, c / 2, c % 2);
            NEAR(json, name, choice[i][c]);
        }
    }
    for (int j = 0; j < 2; j++) {
        int same = 0;
        char name[64];
        for (int a = 0; a < 3; a++)
            for (int b = 0; b < a; b++)
                for (int c = 2 * j; c < 2 * j + 2; c++)
                    same += holds(choice[b] + 2 * j, 2, choice[a][c]);
        snprintf(name, sizeof name, "words.0.layers.0.heads.%d", j);
        NEAR(json, name, 1 - same / 6.0);
    }
    json_decref(json);
    mh_model_free(model);
    FAILS(MH_EUSAGE, "--words takes", analyse(folder, path, (mh_analysis){.words = "sea,,dog"}, &json));
    FAILS(MH_EUSAGE, "--words takes",
          analyse(folder, path, (mh_analysis){.words = "a,b,c,d,e,f,g,h,i,j,k,l,m,n,o,p,q"}, &json));
}

/* A text that is cut within a character ends in U+FFFD, which is longer than the byte it stands for: the last
 * token is then a word's last all the same. */
static void test_word_longer_than_its_token(void **state)
{
    (void)state;
    mh_words w = {.heads = 2, .top_k = 2, .layers = 1};
    mh_arena count = {0}, memory;
    mh_ids ids = {0};
    OK(mh_words_parse(&w, "\xef\xbf\xbd"));
    mh_words_layout(&w, &count);
    OK(mh_arena_init(&memory, count.used, "a word"));
    mh_words_layout(&w, &memory);
    OK(mh_tokenizer_encode(tiny_tokenizer, "at \xf0\x9f\xa6\x8a", 7, &ids));
    int64_t cut = ids.count - 3; /* with the first of its four bytes */
    OK(mh_words_find(&w, tiny_tokenizer, ids.id, cut, 100, 0));
    assert_int_equal(w.kept, 1);
    assert_int_equal(w.list[0].at, 100 + cut - 1);
    mh_ids_release(&ids);
    mh_words_release(&w);
    mh_arena_release(&memory);
}

/* ---- excerpts and labels ------------------------------------------------------------------------------- */

static const char *label_at(const json_t *json, size_t i)
{
    return json_string_value(json_object_get(json_array_get(json_object_get(json, "labels"), i), "label"));
}

static void test_labels(void **state)
{
    (void)state;
    static const char *const names[] = {"texts/law/a.txt", "texts/law/b.txt", "texts/sea/c.jsonl"};
    static const char *const contents[] = {"The dog knows it well.", "A fox is not a dog.",
                                           "{\"text\": \"ships\"}\n{\"text\": \"people on ships\"}\n"};
    const char *folder = make_checkpoint("labels", 64, 6, 61);
    OK(mh_make_dirs(tiny_path("texts/law")));
    OK(mh_make_dirs(tiny_path("texts/sea")));
    for (int i = 0; i < 3; i++)
        OK(mh_file_write(tiny_path(names[i]), contents[i], strlen(contents[i])));
    json_t *json;
    OK(analyse(folder, tiny_path("texts"), (mh_analysis){.label_by = MH_LABEL_FILE}, &json));
    assert_int_equal(json_array_size(json_object_get(json, "labels")), 3);
    assert_string_equal(label_at(json, 0), "law/a.txt");
    assert_string_equal(label_at(json, 2), "sea/c.jsonl");
    double tokens = look(json, "tokens");
    for (int i = 0; i < 2; i++) {
        mh_ids ids = {0};
        char name[64];
        OK(mh_tokenizer_encode(tiny_tokenizer, contents[i], strlen(contents[i]), &ids));
        snprintf(name, sizeof name, "labels.%d.tokens", i);
        NEAR(json, name, (double)ids.count);
        tokens -= (double)ids.count;
        mh_ids_release(&ids);
    }
    NEAR(json, "labels.2.tokens", tokens);
    json_decref(json);
    OK(analyse(folder, tiny_path("texts"), (mh_analysis){.label_by = MH_LABEL_FOLDER}, &json));
    assert_int_equal(json_array_size(json_object_get(json, "labels")), 2);
    assert_string_equal(label_at(json, 0), "law");
    assert_string_equal(label_at(json, 1), "sea");
    json_decref(json);
    OK(analyse(folder, tiny_path("texts"), (mh_analysis){.label_by = MH_LABEL_NONE}, &json));
    assert_int_equal(json_array_size(json_object_get(json, "labels")), 0);
    assert_true(look(json, "tokens") > tokens);
    json_decref(json);
}

/* Excerpts are spread over the whole text, and never more tokens than asked for. */
static void test_excerpts(void **state)
{
    (void)state;
    mh_excerpts e = {.stretches = 1000, .taken = 37};
    int64_t taken = 0, last = -1;
    for (int64_t i = 0; i < e.stretches; i++)
        if (mh_excerpts_takes(&e, i)) {
            assert_in_range(i - last, taken == 0 ? 1 : 1000 / 37, 1000 / 37 + 1);
            last = i;
            taken++;
        }
    assert_int_equal(taken, e.taken);
    e.taken = e.stretches;
    for (int64_t i = 0; i < e.stretches; i++)
        assert_true(mh_excerpts_takes(&e, i));

    mh_text text = {0};
    for (int i = 0; i < 3000; i++)
        OK(mh_text_printf(&text, "The fox number %d wrote about the sea.\n", i));
    const char *path = tiny_path("foxes.txt"), *folder = make_checkpoint("excerpts", 64, 6, 71);
    OK(mh_file_write(path, text.data, text.length));
    mh_text_release(&text);
    static const int64_t limits[] = {1, 50, 2000};
    for (int i = 0; i < 3; i++) {
        json_t *json;
        OK(analyse(folder, path, (mh_analysis){.tokens = limits[i]}, &json));
        NEAR(json, "tokens", (double)limits[i]);
        json_decref(json);
    }
    json_t *json;
    OK(analyse(folder, path, (mh_analysis){.tokens = 20000}, &json)); /* of about 50000 */
    assert_true(look(json, "tokens") > 18000 && look(json, "tokens") <= 20000);
    json_decref(json);
}

static void test_refusals(void **state)
{
    (void)state;
    json_t *json;
    const char *folder = make_checkpoint("refused", 64, 6, 81), *missing = tiny_path("no-such.txt");
    FAILS(MH_EIO, "no-such.txt", analyse(folder, missing, (mh_analysis){0}, &json));
    int stop = 1;
    mh_progress progress = {.stop = &stop};
    const char *path = tiny_path("text.txt");
    mh_analysis analysis = {
        .checkpoints = &folder, .checkpoint_count = 1, .inputs = &path, .input_count = 1, .tokens = 10};
    FAILS(MH_EINTERRUPTED, "stopped", mh_analyse(&analysis, &progress, &json));
    assert_null(json);

    mh_config config = tiny_config(64, 6);
    mh_model *model = tiny_model(&config, MH_PRECISION_F32, 82);
    model->params.value[model->params.list[model->blocks[0].ffn_norm].offset] = NAN;
    OK(mh_checkpoint_write(model, tiny_tokenizer, folder));
    FAILS(MH_EVALUE, "NaN", analyse(folder, path, (mh_analysis){0}, &json));
    config.eos = -1;
    model->config = config;
    OK(mh_checkpoint_write(model, tiny_tokenizer, folder));
    FAILS(MH_EVALUE, "model.eos is unset", analyse(folder, path, (mh_analysis){0}, &json));
    mh_model_free(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counts),
        cmocka_unit_test(test_measures),
        cmocka_unit_test(test_every_token_where_it_has_most_context),
        cmocka_unit_test(test_checkpoints),
        cmocka_unit_test(test_words),
        cmocka_unit_test(test_word_longer_than_its_token),
        cmocka_unit_test(test_labels),
        cmocka_unit_test(test_excerpts),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, tiny_setup, tiny_teardown);
}
