/* infer, and what it reads: sessions, sampling, generation, checkpoints, import. */
#include "infer/infer.h"

#include "test.h"
#include "tiny.h"

/* The cached way and the full one differ in nothing but the order in which products of other numbers of rows
 * are summed: the bound of the reference vectors, which is about that too. */
#define SAME_SUMS 1e-5

/* ---- sessions ------------------------------------------------------------------------------------------ */

enum { LONG = 300 /* more than a session's block of a prompt */ };

/* Logits of every position by one forward without cache. */
static float *full_logits(const mh_model *model, const int32_t *token, int64_t count)
{
    mh_pass *pass;
    float *logits = malloc((size_t)(count * model->config.vocab) * sizeof *logits);
    OK(mh_pass_create(&pass, model, (mh_pass_shape){.batch = 1, .rows = count, .capacity = count}));
    mh_forward(pass, model, &(mh_call){.token = token, .batch = 1, .rows = count});
    mh_logits(pass, model, 0, count, logits);
    mh_pass_free(pass);
    return logits;
}

static void check_cached_decode(int64_t experts)
{
    mh_config config = tiny_config(LONG, experts);
    mh_model *model = tiny_model(&config, MH_PRECISION_F32, 5);
    int32_t token[LONG];
    tiny_tokens(token, LONG, 6);
    float *want = full_logits(model, token, LONG);
    mh_session *session;
    OK(mh_session_create(&session, model));
    for (int64_t n = 1; n <= LONG; n++) {
        OK(mh_session_sync(session, token, n));
        CLOSE(mh_session_logits(session), want + (n - 1) * config.vocab, config.vocab, SAME_SUMS);
    }
    mh_session_free(session);
    OK(mh_session_create(&session, model));
    OK(mh_session_sync(session, token, LONG));
    CLOSE(mh_session_logits(session), want + (LONG - 1) * config.vocab, config.vocab, SAME_SUMS);
    mh_session_free(session);
    free(want);
    mh_model_free(model);
}

static void cached_decode_equals_full_forward(void **state)
{
    (void)state;
    check_cached_decode(0);
    check_cached_decode(6);
}

static void shared_prefix_equals_fresh(void **state)
{
    (void)state;
    mh_config config = tiny_config(64, 6);
    mh_model *model = tiny_model(&config, MH_PRECISION_F32, 7);
    int32_t a[40], b[30];
    tiny_tokens(a, 40, 8);
    tiny_tokens(b, 30, 9);
    memcpy(b, a, 11 * sizeof *b);
    mh_session *used, *fresh;
    OK(mh_session_create(&used, model));
    OK(mh_session_sync(used, a, 40));
    for (int64_t count = 29; count >= 1; count -= 7) { /* a fork, then shorter and shorter beginnings of it */
        OK(mh_session_sync(used, b, count));
        OK(mh_session_create(&fresh, model));
        OK(mh_session_sync(fresh, b, count));
        CLOSE(mh_session_logits(used), mh_session_logits(fresh), config.vocab, SAME_SUMS);
        assert_int_equal(mh_session_length(used), count);
        mh_session_free(fresh);
    }
    mh_session_free(used);
    mh_model_free(model);
}

static void session_refuses(void **state)
{
    (void)state;
    mh_config config = tiny_config(16, 6);
    mh_model *model = tiny_model(&config, MH_PRECISION_F32, 10);
    int32_t token[20] = {1, 5, 9};
    float kept[TINY_VOCAB];
    mh_session *session;
    OK(mh_session_create(&session, model));
    OK(mh_session_sync(session, token, 3));
    memcpy(kept, mh_session_logits(session), sizeof kept);
    FAILS(MH_EVALUE, "give at least one", mh_session_sync(session, token, 0));
    FAILS(MH_EVALUE, "20 tokens are more than the model's context of 16",
          mh_session_sync(session, token, 20));
    token[1] = TINY_VOCAB;
    FAILS(MH_EVALUE, "token 320 at position 1", mh_session_sync(session, token, 3));
    token[1] = -1;
    FAILS(MH_EVALUE, "token -1 at position 1", mh_session_sync(session, token, 3));
    assert_int_equal(mh_session_length(session), 3);
    assert_memory_equal(kept, mh_session_logits(session), sizeof kept);
    mh_session_free(session);

    model->config.moe.capacity_factor = 1.25;
    FAILS(MH_EVALUE, "cannot write text: it has a moe.capacity_factor", mh_session_create(&session, model));
    mh_model_free(model);
}

/* ---- sampling ------------------------------------------------------------------------------------------ */

enum { DRAWS = 20000 };

/* Draws of token i. */
static void draw(const mh_sampler *sampler, const float *logits, int64_t vocab, int64_t *count)
{
    mh_candidate *work = malloc((size_t)vocab * sizeof *work);
    memset(count, 0, (size_t)vocab * sizeof *count);
    for (uint64_t i = 0; i < DRAWS; i++) {
        int32_t id = mh_sample(sampler, i, logits, vocab, work);
        assert_in_range(id, 0, vocab - 1);
        count[id]++;
    }
    free(work);
}

/* Five standard deviations of a binomial: a right sampler fails once in a million. */
static void check_shares(const int64_t *count, const double *share, int64_t vocab)
{
    for (int64_t i = 0; i < vocab; i++) {
        double expected = DRAWS * share[i], deviation = sqrt(DRAWS * share[i] * (1 - share[i]));
        if (fabs((double)count[i] - expected) > 5 * deviation)
            fail_msg("token %d drawn %d times, expected %.1f", (int)i, (int)count[i], expected);
    }
}

static void sampler_distributions(void **state)
{
    (void)state;
    /* p = .1 .4 .05 .2 .25 */
    const float logits[] = {logf(.1f), logf(.4f), logf(.05f), logf(.2f), logf(.25f)};
    int64_t count[5];
    draw(&(mh_sampler){.temperature = 1, .top_p = 1, .seed = 1}, logits, 5, count);
    check_shares(count, (double[]){.1, .4, .05, .2, .25}, 5);
    draw(&(mh_sampler){.temperature = 1, .top_p = 1, .top_k = 2, .seed = 2}, logits, 5, count);
    check_shares(count, (double[]){0, .4 / .65, 0, 0, .25 / .65}, 5);
    draw(&(mh_sampler){.temperature = 1, .top_p = .6, .seed = 3}, logits, 5, count);
    check_shares(count, (double[]){0, .4 / .65, 0, 0, .25 / .65}, 5);
    draw(&(mh_sampler){.temperature = 1, .top_p = .7, .seed = 4}, logits, 5, count);
    check_shares(count, (double[]){0, .4 / .85, 0, .2 / .85, .25 / .85}, 5);
    /* top_p is a share of what top_k leaves: .4 is over .45 of .85, though not of 1 */
    draw(&(mh_sampler){.temperature = 1, .top_p = .45, .top_k = 3, .seed = 5}, logits, 5, count);
    check_shares(count, (double[]){0, 1, 0, 0, 0}, 5);
    /* a temperature below 0 is greedy; NaN is never drawn, wherever it stands */
    draw(&(mh_sampler){.temperature = -1, .top_p = 1}, logits, 5, count);
    check_shares(count, (double[]){0, 1, 0, 0, 0}, 5);
    const float broken[] = {NAN, logf(.5f), NAN, logf(.5f), NAN};
    draw(&(mh_sampler){.temperature = 0, .top_p = 1}, broken, 5, count);
    check_shares(count, (double[]){0, 1, 0, 0, 0}, 5);
    draw(&(mh_sampler){.temperature = 1, .top_p = 1, .seed = 7}, broken, 5, count);
    check_shares(count, (double[]){0, .5, 0, .5, 0}, 5);
    double sum = .01 + .16 + .0025 + .04 + .0625; /* half the temperature squares p */
    draw(&(mh_sampler){.temperature = .5, .top_p = 1, .seed = 6}, logits, 5, count);
    check_shares(count, (double[]){.01 / sum, .16 / sum, .0025 / sum, .04 / sum, .0625 / sum}, 5);
}

static int by_falling(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

/* Of many candidates, exactly the k likeliest. */
static void sampler_large_vocabulary(void **state)
{
    (void)state;
    enum { VOCAB = 1000, K = 17 };
    float logits[VOCAB], sorted[VOCAB];
    int64_t count[VOCAB];
    for (int i = 0; i < VOCAB; i++)
        sorted[i] = logits[i] = (float)mh_normal(7, mh_stream(MH_RANDOM_TEST, 0, 0), (uint64_t)i);
    qsort(sorted, VOCAB, sizeof *sorted, by_falling);
    draw(&(mh_sampler){.temperature = 2, .top_p = 1, .top_k = K, .seed = 8}, logits, VOCAB, count);
    for (int i = 0; i < VOCAB; i++)
        assert_true((count[i] > 0) == (logits[i] >= sorted[K - 1]));
}

static void sampler_edges(void **state)
{
    (void)state;
    mh_candidate work[4];
    const float ties[] = {1, 3, 3, 2}, broken[] = {NAN, NAN, NAN, NAN}, infinite[] = {0, INFINITY, 0, 0};
    mh_sampler greedy = {.top_p = 1}, narrow = {.temperature = 1, .top_k = 1, .top_p = 1},
               cold = {.temperature = 1e-300, .top_p = 1};
    assert_int_equal(mh_sample(&greedy, 0, ties, 4, work), 1);
    assert_int_equal(mh_sample(&narrow, 0, ties, 4, work), 1);
    assert_in_range(mh_sample(&cold, 0, ties, 4, work), 1, 2);
    assert_in_range(mh_sample(&narrow, 0, broken, 4, work), 0, 3);
    assert_int_equal(mh_sample(&narrow, 0, infinite, 4, work), 1);
    assert_int_equal(mh_sample(&narrow, 0, ties, 1, work), 0);
}

/* ---- generation ---------------------------------------------------------------------------------------- */

/* A model that writes `script`, whose tokens all differ: token i has the embedding e_i, and the output
 * weights answer e_i with token i+1. */
static mh_model *scripted_model(const int32_t *script, int64_t count, int64_t context)
{
    mh_config config = tiny_config(context, 0);
    assert_true(count <= config.dim);
    mh_model *model;
    OK(mh_model_create(&model, &config, MH_PRECISION_F32, false));
    mh_mat embed = mh_param_value(&model->params, model->embed);
    mh_mat output = mh_param_value(&model->params, model->output);
    float *norm = mh_param_value(&model->params, model->norm).p;
    for (int64_t i = 0; i < config.dim; i++)
        norm[i] = 1;
    for (int64_t i = 0; i < count; i++) {
        ((float *)mh_mat_row(embed, script[i]))[i] = 1;
        if (i + 1 < count)
            ((float *)mh_mat_row(output, script[i + 1]))[i] = 1;
    }
    return model;
}

typedef struct {
    mh_text text;
    int pieces, limit; /* ends after so many pieces of text; 0: never */
    bool ended;
} listener;

static bool listen(void *context, const char *text, size_t length)
{
    listener *l = context;
    mh_text clean = {0};
    int64_t invalid = 0;
    OK(mh_utf8_clean(text, length, &clean, &invalid));
    assert_int_equal(invalid, 0);
    mh_text_release(&clean);
    OK(mh_text_add(&l->text, text, length));
    assert_false(l->ended);
    l->pieces += length > 0;
    l->ended = l->limit > 0 && l->pieces >= l->limit;
    return !l->ended;
}

/* Runs a greedy generation and compares its text and its reason. */
static void check_text(const mh_model *model, mh_generation generation, int limit, const char *want,
                       const char *reason)
{
    mh_session *session;
    mh_generated result;
    listener l = {.limit = limit};
    generation.sampler.top_p = 1;
    OK(mh_session_create(&session, model));
    OK(mh_generate(session, tiny_tokenizer, &generation, listen, &l, &result));
    assert_string_equal(l.text.data ? l.text.data : "", want);
    assert_string_equal(result.reason, reason);
    mh_text_release(&l.text);
    mh_session_free(session);
}

/* The token whose text is one byte. */
static int32_t byte_token(unsigned char byte)
{
    for (int32_t id = 3; id < TINY_VOCAB; id++) {
        mh_text text = {0};
        OK(mh_tokenizer_piece(tiny_tokenizer, id, &text));
        bool found = text.length == 1 && (unsigned char)text.data[0] == byte;
        mh_text_release(&text);
        if (found)
            return id;
    }
    fail_msg("no token for byte %d", byte);
    return -1;
}

/* <s>, the tokens of `text`, whose bytes must all differ, and </s>. */
static int64_t script_of(const char *text, int32_t *script)
{
    int64_t count = 0;
    script[count++] = 1;
    for (; *text != '\0'; text++)
        script[count++] = byte_token((unsigned char)*text);
    script[count++] = 2;
    return count;
}

static void generation_streams_whole_characters(void **state)
{
    (void)state;
    int32_t script[32];
    const char *text = "a\xC3\xA9z\xE2\x82\xAC \xF0\x9F\x98\x80q"; /* é, €, a smiley: 2, 3 and 4 bytes */
    mh_model *model = scripted_model(script, script_of(text, script), 64);
    check_text(model, (mh_generation){.prompt = "", .max_tokens = 50}, 0, text, "end of text");
    check_text(model, (mh_generation){.prompt = "", .max_tokens = 4}, 0, "a\xC3\xA9z", "length");
    check_text(model, (mh_generation){.prompt = "", .max_tokens = 50}, 2, "a\xC3\xA9", "interrupted");
    /* an unfinished character at the end becomes U+FFFD, and so does one that never was */
    check_text(model, (mh_generation){.prompt = "", .max_tokens = 2}, 0, "a\xEF\xBF\xBD", "length");
    mh_model_free(model);
    text = "\xE2x\x80y";
    model = scripted_model(script, script_of(text, script), 64);
    check_text(model, (mh_generation){.prompt = "", .max_tokens = 50}, 0, "\xEF\xBF\xBDx\xEF\xBF\xBDy",
               "end of text");
    mh_model_free(model);
}

static void generation_stops_before_stop(void **state)
{
    (void)state;
    int32_t script[32];
    mh_model *model = scripted_model(script, script_of("abc\xC3\xA9 defg", script), 64);
    mh_generation generation = {.prompt = "", .max_tokens = 50};
    static const struct {
        const char *stop, *text, *reason;
    } cases[] = {
        {"cX", "abc\xC3\xA9 defg", "end of text"}, /* begun, and then told after all */
        {"c\xC3\xA9 d", "ab", "stop"},
        {"\xC3\xA9", "abc", "stop"},
        {"a", "", "stop"},
        {"g", "abc\xC3\xA9 def", "stop"},
        {"gh", "abc\xC3\xA9 defg", "end of text"}, /* held to the end */
        {"", "abc\xC3\xA9 defg", "end of text"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        generation.stop = cases[i].stop;
        check_text(model, generation, 0, cases[i].text, cases[i].reason);
    }
    generation.max_tokens = 3;
    generation.stop = "cd";
    check_text(model, generation, 0, "abc", "length");
    mh_model_free(model);
}

/* The space that the tokenizer puts before a text is no text, but after a prompt it is. */
static void generation_keeps_spaces(void **state)
{
    (void)state;
    const char *text = "the sea";
    mh_ids ids = {0};
    int32_t script[32] = {1};
    OK(mh_tokenizer_encode(tiny_tokenizer, text, strlen(text), &ids));
    memcpy(script + 1, ids.id, (size_t)ids.count * sizeof *ids.id);
    script[ids.count + 1] = 2;
    mh_model *model = scripted_model(script, ids.count + 2, 64);
    check_text(model, (mh_generation){.prompt = "", .max_tokens = 50}, 0, text, "end of text");
    mh_model_free(model);

    /* the last token of a prompt, then the same script */
    mh_ids prompt = {0};
    OK(mh_tokenizer_encode(tiny_tokenizer, "fox", 3, &prompt));
    script[0] = prompt.id[prompt.count - 1];
    mh_text after = {0};
    for (int64_t i = 0; i < ids.count; i++)
        OK(mh_tokenizer_piece(tiny_tokenizer, ids.id[i], &after));
    model = scripted_model(script, ids.count + 2, 64);
    check_text(model, (mh_generation){.prompt = "fox", .max_tokens = 50}, 0, after.data, "end of text");
    mh_model_free(model);
    mh_text_release(&after);
    mh_ids_release(&ids);
    mh_ids_release(&prompt);
}

static void generation_ends_with_the_context(void **state)
{
    (void)state;
    int32_t script[32];
    mh_model *model = scripted_model(script, script_of("abcdefghij", script), 6);
    check_text(model, (mh_generation){.prompt = "", .max_tokens = 50}, 0, "abcdef", "context full");

    mh_session *session;
    mh_generated result;
    listener l = {0};
    OK(mh_session_create(&session, model));
    mh_generation long_prompt = {.prompt = "0123456789", .max_tokens = 1, .sampler.top_p = 1};
    FAILS(MH_EVALUE, "the model's context is 6",
          mh_generate(session, tiny_tokenizer, &long_prompt, listen, &l, &result));
    mh_generation none = {.prompt = "", .sampler.top_p = 1}, no_share = {.prompt = "", .max_tokens = 1},
                  cold = {.prompt = "", .max_tokens = 1, .sampler = {.temperature = -1, .top_p = 1}};
    mh_generation one = {.prompt = "", .max_tokens = 1, .sampler.top_p = 1};
    strcpy(model->tokenizer_hash, "0123456789abcdef");
    FAILS(MH_EMISMATCH, "not the one that the model of vocabulary 320 was trained with",
          mh_generate(session, tiny_tokenizer, &one, listen, &l, &result));
    model->tokenizer_hash[0] = '\0';
    FAILS(MH_EVALUE, "max_tokens is 0", mh_generate(session, tiny_tokenizer, &none, listen, &l, &result));
    FAILS(MH_EVALUE, "top_p is 0", mh_generate(session, tiny_tokenizer, &no_share, listen, &l, &result));
    FAILS(MH_EVALUE, "temperature is -1", mh_generate(session, tiny_tokenizer, &cold, listen, &l, &result));
    mh_session_free(session);
    mh_model_free(model);
}

/* ---- checkpoints --------------------------------------------------------------------------------------- */

static void save(const mh_model *model, const mh_tokenizer *tokenizer, const char *folder)
{
    OK(mh_remove_tree(folder));
    OK(mh_make_dirs(folder));
    OK(mh_checkpoint_write(model, tokenizer, folder));
}

static void check_round_trip(int64_t experts, mh_precision precision)
{
    mh_config config = tiny_config(16, experts);
    mh_model *model = tiny_model(&config, precision, 11), *read;
    mh_tokenizer *tokenizer;
    const char *folder = tiny_path("round");
    save(model, tiny_tokenizer, folder);
    OK(mh_checkpoint_read(&read, &tokenizer, folder, precision, false));
    assert_memory_equal(read->params.value, model->params.value,
                        (size_t)model->params.elements * sizeof *model->params.value);
    if (precision == MH_PRECISION_BF16)
        assert_memory_equal(read->params.work, model->params.work,
                            (size_t)model->params.elements * sizeof(uint16_t));
    assert_string_equal(read->tokenizer_hash, mh_tokenizer_hash(tiny_tokenizer));
    assert_string_equal(mh_tokenizer_hash(tokenizer), mh_tokenizer_hash(tiny_tokenizer));
    json_t *a = mh_config_to_json(&config), *b = mh_config_to_json(&read->config);
    assert_true(json_equal(a, b));
    json_decref(a);
    json_decref(b);
    mh_model_free(read);
    mh_tokenizer_free(tokenizer);
    mh_model_free(model);
}

static void checkpoint_round_trip(void **state)
{
    (void)state;
    check_round_trip(0, MH_PRECISION_F32);
    check_round_trip(6, MH_PRECISION_F32);
    check_round_trip(6, MH_PRECISION_BF16);
}

/* Reads it and throws it away. */
static mh_status try(const char *folder)
{
    mh_model *model;
    mh_tokenizer *tokenizer;
    mh_status status = mh_checkpoint_read(&model, &tokenizer, folder, MH_PRECISION_F32, false);
    mh_model_free(model);
    mh_tokenizer_free(tokenizer);
    return status;
}

static void set_config(const char *folder, const char *key, json_t *value)
{
    char path[MH_PATH];
    json_t *json;
    OK(mh_path_join(path, folder, "config.json"));
    OK(mh_json_read(&json, path));
    json_object_del(json, "xxh3");
    json_object_set_new(json, key, value);
    OK(mh_json_write(path, json));
    json_decref(json);
}

static void checkpoint_of_others(void **state)
{
    (void)state;
    mh_config config = tiny_config(16, 6);
    mh_model *model = tiny_model(&config, MH_PRECISION_F32, 12);
    const char *folder = tiny_path("others");
    save(model, tiny_tokenizer, folder);
    set_config(folder, "model_type", json_string("llama"));
    FAILS(MH_EFORMAT, "architecture \"llama\"", try(folder));
    set_config(folder, "model_type", json_string("mhmoe"));
    set_config(folder, "format_version", json_integer(2));
    FAILS(MH_EFORMAT, "format version 2, this program reads up to 1", try(folder));
    set_config(folder, "format_version", json_integer(1));
    set_config(folder, "tokenizer_hash", json_string("0123456789abcdef"));
    FAILS(MH_EMISMATCH, "trained with tokenizer 0123456789abcdef", try(folder));
    set_config(folder, "tokenizer_hash", json_string(mh_tokenizer_hash(tiny_tokenizer)));
    OK(try(folder));

    strcpy(model->tokenizer_hash, "fedcba9876543210");
    FAILS(MH_EMISMATCH, "the model's is fedcba9876543210", mh_checkpoint_weights(model, folder));
    model->tokenizer_hash[0] = '\0';
    OK(mh_checkpoint_weights(model, folder));

    mh_model *wider;
    mh_config other = config;
    other.vocab++;
    OK(mh_model_create(&wider, &other, MH_PRECISION_F32, false));
    FAILS(MH_EMISMATCH, "\"embed.weight\" has shape [320, 32], but the recipe asks for [321, 32]",
          mh_checkpoint_weights(wider, folder));
    save(wider, tiny_tokenizer, folder);
    FAILS(MH_EMISMATCH, "320 pieces, but the model's vocabulary 321", try(folder));
    mh_model_free(wider);
    mh_model_free(model);
}

/* Rewrites the weights without their last tensor, or with one more, or as bf16. */
static void rewrite(const char *folder, int change, mh_type type)
{
    char path[MH_PATH];
    mh_tensors *tensors;
    mh_tensor list[64];
    static uint16_t half[TINY_VOCAB * 32 * 64];
    size_t used = 0;
    OK(mh_path_join(path, folder, "model.safetensors"));
    OK(mh_tensors_open(&tensors, path));
    int count = mh_tensors_count(tensors);
    assert_true(count < 64);
    for (int i = 0; i < count; i++) {
        list[i] = *mh_tensors_at(tensors, i);
        if (type == MH_F32)
            continue;
        int64_t n = mh_tensor_elements(&list[i]);
        assert_true(used + (size_t)n <= sizeof half / sizeof *half);
        for (int64_t j = 0; j < n; j++)
            half[used + (size_t)j] = (uint16_t)(((const uint32_t *)list[i].data)[j] >> 16);
        list[i].data = half + used;
        list[i].type = type;
        used += (size_t)n;
    }
    if (change > 0) {
        list[count] = list[count - 1];
        list[count].name = "layers.9.surplus";
    }
    OK(mh_tensors_write(path, list, count + change, NULL));
    mh_tensors_close(tensors);
}

static void checkpoint_tensors(void **state)
{
    (void)state;
    mh_config config = tiny_config(16, 6);
    mh_model *model = tiny_model(&config, MH_PRECISION_F32, 13), *read;
    const char *folder = tiny_path("tensors");
    char path[MH_PATH];
    save(model, NULL, folder);
    rewrite(folder, +1, MH_F32);
    FAILS(MH_EMISMATCH, "\"layers.9.surplus\" has no place", try(folder));
    rewrite(folder, -1, MH_F32);
    OK(try(folder));
    rewrite(folder, -1, MH_F32);
    FAILS(MH_EMISMATCH, "is missing", try(folder));

    save(model, NULL, folder);
    rewrite(folder, 0, MH_BF16);
    OK(mh_checkpoint_read(&read, NULL, folder, MH_PRECISION_F32, false));
    /* cut to 8 bits of significand */
    CLOSE(read->params.value, model->params.value, model->params.elements, 1.0 / 128);
    mh_model_free(read);

    OK(mh_path_join(path, folder, "model.safetensors"));
    OK(mh_remove_tree(path));
    FAILS(MH_EIO, "model.safetensors", try(folder));
    FAILS(MH_EIO, "so it is not a checkpoint", try(tiny_path("nowhere")));
    mh_model_free(model);
}

/* Of weights that are not in the file, 1.2 GiB. */
static void a_config_costs_no_memory_before_it_is_checked(void **state)
{
    (void)state;
    mh_config config = tiny_config(16, 6);
    mh_model *model = tiny_model(&config, MH_PRECISION_F32, 13);
    const char *folder = tiny_path("hostile");
    save(model, NULL, folder);
    mh_model_free(model);
    config.moe.ffn_dim = 1 << 20;
    json_t *json = mh_config_to_json(&config);
    set_config(folder, "moe", json_incref(json_object_get(json, "moe")));
    json_decref(json);
    double before = (double)mh_memory_peak();
    FAILS(MH_EMISMATCH, "but config.json asks for [6, 1048576, 16]", try(folder));
    assert_true((double)mh_memory_peak() - before < 0x1p28);
}

/* Every damage must give a sentence, or, where it changed nothing that counts (a space in the JSON), a model.
 */
static void check_damage(const char *folder, const char *file, bool must_fail)
{
    char path[MH_PATH];
    mh_text good = {0};
    OK(mh_path_join(path, folder, file));
    OK(mh_file_read(path, 1 << 24, &good));
    for (int i = 0; i < 60; i++) {
        uint64_t stream = mh_stream(MH_RANDOM_TEST, (uint64_t)must_fail, 1);
        size_t at = (size_t)(mh_uniform(14, stream, (uint64_t)i) * (double)good.length);
        OK(mh_file_write(path, good.data, at)); /* truncated */
        if (try(folder) == MH_OK)
            fail_msg("%s of %zu bytes is accepted after %zu", file, good.length, at);
        good.data[at] ^= (char)(1 << i % 8);
        OK(mh_file_write(path, good.data, good.length));
        mh_status status = try(folder);
        if (must_fail && status == MH_OK)
            fail_msg("%s: bit %d of byte %zu can be changed", file, i % 8, at);
        good.data[at] ^= (char)(1 << i % 8);
    }
    OK(mh_file_write(path, good.data, good.length));
    OK(try(folder));
    mh_text_release(&good);
}

static void damaged_checkpoint(void **state)
{
    (void)state;
    mh_config config = tiny_config(16, 6);
    mh_model *model = tiny_model(&config, MH_PRECISION_F32, 15);
    const char *folder = tiny_path("damaged");
    save(model, tiny_tokenizer, folder);
    check_damage(folder, "model.safetensors", true);
    check_damage(folder, "tokenizer.model", true);
    check_damage(folder, "config.json", false);
    mh_model_free(model);
}

static void newest_of_a_run(void **state)
{
    (void)state;
    char folder[MH_PATH];
    mh_config config = tiny_config(16, 0);
    mh_model *model = tiny_model(&config, MH_PRECISION_F32, 16);
    FAILS(MH_EIO, "neither a checkpoint", mh_checkpoint_locate(tiny_path("run"), folder));
    OK(mh_make_dirs(tiny_path("run/checkpoints")));
    FAILS(MH_ESTATE, "no checkpoint in it yet", mh_checkpoint_locate(tiny_path("run"), folder));
    OK(mh_make_dirs(tiny_path("several")));
    OK(mh_file_write(tiny_path("several/compare.json"), "{}", 2));
    FAILS(MH_EIO, "several/MODEL/seed-N", mh_checkpoint_locate(tiny_path("several"), folder));
    static const char *const names[] = {"step-000009", "step-000100", "step-1000000.mhmoe-tmp", "step-x",
                                        "step-000099"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char name[64];
        snprintf(name, sizeof name, "run/checkpoints/%s", names[i]);
        save(model, NULL, tiny_path(name));
    }
    OK(mh_make_dirs(tiny_path("run/checkpoints/step-999998"))); /* no checkpoint, and half of one */
    OK(mh_make_dirs(tiny_path("run/checkpoints/step-999999")));
    OK(mh_file_write(tiny_path("run/checkpoints/step-999999/config.json"), "{}", 2));
    OK(mh_checkpoint_locate(tiny_path("run"), folder));
    assert_string_equal(folder, tiny_path("run/checkpoints/step-000100"));
    OK(mh_checkpoint_locate(tiny_path("run/checkpoints/step-000009"), folder));
    assert_string_equal(folder, tiny_path("run/checkpoints/step-000009"));

    mh_model *loaded;
    mh_tokenizer *tokenizer;
    OK(mh_model_load(&loaded, NULL, tiny_path("run"), MH_PRECISION_F32));
    assert_int_equal(mh_model_vocab(loaded), TINY_VOCAB);
    assert_int_equal(mh_model_context(loaded), 16);
    mh_model_free(loaded);
    FAILS(MH_EIO, "no tokenizer.model",
          mh_model_load(&loaded, &tokenizer, tiny_path("run"), MH_PRECISION_F32));
    mh_model_free(model);
}

/* ---- import -------------------------------------------------------------------------------------------- */

/* dim 8, hidden 12, 1 layer, 2 heads, 1 kv head, the tiny vocabulary, context 4; weight number i is i. */
static size_t llama2c_file(float *data, bool apart)
{
    int32_t header[7] = {8, 12, 1, 2, 1, apart ? -TINY_VOCAB : TINY_VOCAB, 4};
    memcpy(data, header, sizeof header);
    size_t count = TINY_VOCAB * 8 * (apart ? 2 : 1) + 8 + 64 + 32 + 32 + 64 + 8 + 3 * 96 + 8 + 4 * 4;
    for (size_t i = 0; i < count; i++)
        data[7 + i] = (float)i;
    return 7 + count;
}

static float weight(const mh_model *model, const char *name, int64_t row, int64_t col)
{
    return (
        (float *)mh_mat_row(mh_param_value(&model->params, mh_params_find(&model->params, name)), row))[col];
}

static void import_places_every_tensor(void **state)
{
    (void)state;
    static float data[8192];
    const char *file = tiny_path("model.bin"), *output = tiny_path("imported"),
               *pieces = tiny_path("tiny.model");
    for (int apart = 0; apart < 2; apart++) {
        size_t count = llama2c_file(data, apart);
        OK(mh_remove_tree(output));
        OK(mh_file_write(file, data, count * sizeof *data));
        OK(mh_import_llama2c(file, pieces, output));
        mh_model *model;
        OK(mh_checkpoint_read(&model, NULL, output, MH_PRECISION_F32, false));
        const float at = TINY_VOCAB * 8; /* after the embedding */
        assert_true(weight(model, "embed.weight", 1, 2) == 10);
        assert_true(weight(model, "layers.0.attn_norm.weight", 0, 3) == at + 3);
        /* heads of width 4: pairs (0, 1), (2, 3) of the file become (0, 2), (1, 3) */
        static const int row_of[] = {0, 2, 1, 3, 4, 6, 5, 7};
        for (int row = 0; row < 8; row++)
            assert_true(weight(model, "layers.0.attn.q.weight", row, 1) ==
                        at + 8 + (float)row_of[row] * 8 + 1);
        for (int row = 0; row < 4; row++)
            assert_true(weight(model, "layers.0.attn.k.weight", row, 1) ==
                        at + 72 + (float)row_of[row] * 8 + 1);
        assert_true(weight(model, "layers.0.attn.v.weight", 1, 0) == at + 104 + 8);
        assert_true(weight(model, "layers.0.attn.o.weight", 1, 0) == at + 136 + 8);
        assert_true(weight(model, "layers.0.ffn_norm.weight", 0, 0) == at + 200);
        assert_true(weight(model, "layers.0.ffn.gate.weight", 1, 0) == at + 208 + 8);
        assert_true(weight(model, "layers.0.ffn.down.weight", 1, 0) == at + 304 + 12);
        assert_true(weight(model, "layers.0.ffn.up.weight", 1, 0) == at + 400 + 8);
        assert_true(weight(model, "norm.weight", 0, 0) == at + 496);
        assert_true((model->output == model->embed) == !apart);
        if (apart)
            assert_true(weight(model, "output.weight", 0, 0) == at + 504 + 16);
        mh_model_free(model);
    }
    FAILS(MH_ESTATE, "exists already", mh_import_llama2c(file, pieces, output));
}

static void import_refuses(void **state)
{
    (void)state;
    static float data[8192];
    const char *file = tiny_path("bad.bin"), *output = tiny_path("refused"),
               *pieces = tiny_path("tiny.model");
    size_t bytes = llama2c_file(data, false) * sizeof *data;
    static const struct {
        int field;
        int32_t value;
        const char *sentence;
    } cases[] = {{0, 0, "dim"},
                 {0, 9, "attention_heads"},
                 {1, INT32_MAX, "ffn_dim"},
                 {2, -1, "layers"},
                 {3, 3, "attention_heads"},
                 {5, INT32_MIN, "vocab"},
                 {6, 8, "header announces"},
                 {5, 319, "header announces"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        llama2c_file(data, false);
        memcpy(data + cases[i].field, &cases[i].value, sizeof cases[i].value);
        OK(mh_file_write(file, data, bytes));
        mh_status status = mh_import_llama2c(file, pieces, output);
        if (status == MH_OK || strstr(mh_message(), cases[i].sentence) == NULL)
            fail_msg("case %zu: %d, \"%s\"", i, status, mh_message());
    }
    llama2c_file(data, false);
    OK(mh_file_write(file, data, bytes - 1));
    FAILS(MH_EFORMAT, "header announces", mh_import_llama2c(file, pieces, output));
    OK(mh_file_write(file, data, 10));
    FAILS(MH_EFORMAT, "too few", mh_import_llama2c(file, pieces, output));
    OK(mh_file_write(file, data, bytes));
    FAILS(MH_EIO, "no-such", mh_import_llama2c(file, tiny_path("no-such.model"), output));
    assert_false(mh_path_exists(output));
    assert_false(mh_path_exists(tiny_path("refused.mhmoe-tmp")));
}

/* The greedy story printed in stories260K.md, word for word. */
static void import_tells_the_story(void **state)
{
    (void)state;
    const char *data = getenv("MHMOE_DATA");
    if (data == NULL) {
        print_message("skipped: MHMOE_DATA is not set, so stories260K is not there to import\n");
        skip();
    }
    char folder[MH_PATH], file[MH_PATH], pieces[MH_PATH], text[MH_PATH];
    OK(mh_path_join(folder, data, "checkpoints/stories260K"));
    OK(mh_path_join(file, folder, "stories260K.bin"));
    OK(mh_path_join(pieces, folder, "tok512.model"));
    OK(mh_path_join(text, folder, "stories260K.md"));
    mh_text document = {0};
    OK(mh_file_read(text, 1 << 20, &document));
    char *story = strstr(document.data, "Once upon a time");
    assert_non_null(story);
    *strstr(story, "\n```") = '\0';

    const char *output = tiny_path("stories260K");
    OK(mh_import_llama2c(file, pieces, output));
    mh_model *model;
    mh_tokenizer *tokenizer;
    mh_session *session;
    mh_generated result;
    listener l = {0};
    OK(mh_model_load(&model, &tokenizer, output, MH_PRECISION_F32));
    OK(mh_session_create(&session, model));
    /* run.c takes 256 steps where it is not told otherwise */
    mh_generation generation = {.prompt = "", .max_tokens = 256, .sampler.top_p = 1};
    OK(mh_generate(session, tokenizer, &generation, listen, &l, &result));
    assert_string_equal(l.text.data, story);
    mh_text_release(&l.text);
    mh_text_release(&document);
    mh_session_free(session);
    mh_tokenizer_free(tokenizer);
    mh_model_free(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cached_decode_equals_full_forward),
        cmocka_unit_test(shared_prefix_equals_fresh),
        cmocka_unit_test(session_refuses),
        cmocka_unit_test(sampler_distributions),
        cmocka_unit_test(sampler_large_vocabulary),
        cmocka_unit_test(sampler_edges),
        cmocka_unit_test(generation_streams_whole_characters),
        cmocka_unit_test(generation_stops_before_stop),
        cmocka_unit_test(generation_keeps_spaces),
        cmocka_unit_test(generation_ends_with_the_context),
        cmocka_unit_test(checkpoint_round_trip),
        cmocka_unit_test(checkpoint_of_others),
        cmocka_unit_test(checkpoint_tensors),
        cmocka_unit_test(a_config_costs_no_memory_before_it_is_checked),
        cmocka_unit_test(damaged_checkpoint),
        cmocka_unit_test(newest_of_a_run),
        cmocka_unit_test(import_places_every_tensor),
        cmocka_unit_test(import_refuses),
        cmocka_unit_test(import_tells_the_story),
    };
    return cmocka_run_group_tests(tests, tiny_setup, tiny_teardown);
}
