/* train: recipes, schedules, AdamW, metrics, state on disk, and whole runs of tiny models. */
#include "train/train.h"
#include "settings.h"
#include "test.h"

#include <dirent.h>
#include <omp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

static char folder[64]; /* of this process, removed at the end */

static const char *at(const char *name)
{
    static char path[8][MH_PATH]; /* that many may be in use at once */
    static int next;
    next = (next + 1) % 8;
    OK(mh_path_join(path[next], folder, name));
    return path[next];
}

static char *read_text(const char *path)
{
    mh_text text;
    OK(mh_file_read(path, 1 << 24, &text));
    return text.data;
}

/* Sentences of invented words. A word says much about the next, so that there is something to learn. */
static void write_corpus(const char *path, int words)
{
    uint64_t stream = mh_stream(MH_RANDOM_TEST, 0, 0);
    mh_text text = {0};
    uint32_t word = 0;
    for (int i = 0; i < words; i++) {
        uint32_t letters[4], chance[4];
        mh_random4(7, stream, word, letters);
        mh_random4(8, stream, (uint64_t)i, chance);
        for (uint32_t j = 0; j < 3 + letters[3] % 3; j++)
            OK(mh_text_printf(&text, "%c", 'a' + letters[j % 3] / 7 % 26));
        OK(mh_text_printf(&text, "%s", chance[0] % 12 == 0 ? ".\n" : " "));
        word = chance[1] % 4 ? (word * 5 + 1) % 97 : chance[2] % 97;
    }
    OK(mh_file_write(path, text.data, text.length));
    mh_text_release(&text);
}

static void build(const char *text, const char *output, double valid)
{
    mh_build_result result;
    mh_build how = {.tokenizer = at("words.model"),
                    .inputs = &text,
                    .input_count = 1,
                    .output = output,
                    .valid_fraction = valid};
    OK(mh_data_build(&how, NULL, &result));
}

static int setup(void **state)
{
    (void)state;
    omp_set_num_threads(1); /* tiny models lose by more, above all where other tests run at the same time */
    strcpy(folder, "/tmp/mhmoe-train-XXXXXX");
    assert_non_null(mkdtemp(folder));
    write_corpus(at("corpus.txt"), 12000);
    write_corpus(at("tiny.txt"), 260);
    const char *input = at("corpus.txt");
    mh_tokenizer_training training = {
        .inputs = &input, .input_count = 1, .vocab = 384, .sample_bytes = 1 << 20};
    OK(mh_tokenizer_train(&training, at("words.model"), NULL, NULL));
    build(at("corpus.txt"), at("data"), 0.1);
    build(at("tiny.txt"), at("tiny"), 0.3);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    OK(mh_remove_tree(folder));
    return 0;
}

/* ---- recipes ------------------------------------------------------------------------------------------- */

static void set(mh_recipe *recipe, const char *assignment)
{
    OK(mh_options_assign(&mh_recipe_options, recipe, assignment, "--set"));
}

/* A run on the corpus. */
static mh_recipe tiny_recipe(const char *run)
{
    static const char *const settings[] = {
        TINY_SETTINGS,        "model.context=32",        "train.steps=6",
        "train.warmup=2",     "train.eval_sequences=8",  "train.log_every=1",
        "train.eval_every=4", "train.checkpoint_every=2"};
    mh_recipe recipe;
    OK(mh_recipe_read(&recipe, NULL, settings, sizeof settings / sizeof *settings));
    snprintf(recipe.data.train, sizeof recipe.data.train, "%s", at("data"));
    snprintf(recipe.train.run, sizeof recipe.train.run, "%s", at(run));
    return recipe;
}

static void recipe_errors_are_sentences(void **state)
{
    (void)state;
    const char *path = at("bad.yaml");
    mh_recipe recipe;
    const char *unknown = "# a comment\nmoe:\n  expert: 8\n";
    OK(mh_file_write(path, unknown, strlen(unknown)));
    FAILS(MH_EVALUE, "moe.experts", mh_recipe_read(&recipe, path, NULL, 0));
    const char *range = "train:\n  steps: 10\n  beta1: 1.5\n";
    OK(mh_file_write(path, range, strlen(range)));
    FAILS(MH_EVALUE, "bad.yaml:3", mh_recipe_read(&recipe, path, NULL, 0));
    OK(mh_file_write(at("caf\xe9.yaml"), "", 0));
    FAILS(MH_EVALUE, "name another by train.run", mh_recipe_read(&recipe, at("caf\xe9.yaml"), NULL, 0));
    OK(mh_recipe_read(&recipe, at("caf\xe9.yaml"), (const char *[]){"train.run=cafe"}, 1));
    FAILS(MH_EUSAGE, "train.schedule",
          mh_recipe_read(&recipe, NULL, (const char *[]){"train.schedul=linear"}, 1));

    struct {
        const char *change, *sentence;
    } wrong[] = {
        {"moe.heads=3", "moe.heads 3 does not divide model.dim 32; the nearest that do are 2 and 4"},
        {"model.bos=100", "model.bos 100 is not below model.vocab 100"},
        {"moe.top_k=5", "moe.top_k 5 is over moe.experts 4"},
        {"moe.experts=0", "but the model has no experts that it could apply to; set moe.experts"},
        {"train.micro_batch=3", "the nearest that do are 2 and 4"},
        {"train.micro_batch=5", "the largest that does is 4"},
        {"train.sequence=33", "over model.context 32"},
        {"train.warmup=6", "train.warmup 6"},
        {"train.min_rate=1", "train.min_rate 1 is over train.rate 0.001"},
        {"train.schedule=wsd", ""},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        recipe = tiny_recipe("unused");
        set(&recipe, "model.vocab=100");
        set(&recipe, wrong[i].change);
        if (*wrong[i].sentence)
            FAILS(MH_EVALUE, wrong[i].sentence, mh_recipe_resolve(&recipe, NULL));
        else
            OK(mh_recipe_resolve(&recipe, NULL));
    }
    assert_int_equal(recipe.train.decay_steps, 2); /* a fifth of 6, rounded up */
    recipe = tiny_recipe("unused");
    FAILS(MH_EVALUE, "model.vocab", mh_recipe_resolve(&recipe, NULL));
    set(&recipe, "data.train=");
    mh_batches *batches;
    FAILS(MH_EVALUE, "data.train is not set", mh_recipe_data(&recipe, &batches));
}

static void recipe_takes_names_and_vocabulary(void **state)
{
    (void)state;
    mh_recipe recipe;
    const char *yaml = "model:\n  dim: 64\n";
    OK(mh_file_write(at("some.yaml"), yaml, strlen(yaml)));
    OK(mh_recipe_read(&recipe, at("some.yaml"), NULL, 0));
    assert_string_equal(recipe.train.run, "runs/some");

    mh_batches *batches;
    OK(mh_batches_open(&batches, at("data"), "train", 32, 1, NULL));
    recipe = tiny_recipe("unused");
    OK(mh_recipe_resolve(&recipe, batches));
    assert_int_equal(recipe.model.vocab, mh_batches_vocab(batches));
    assert_int_equal(recipe.model.bos, mh_batches_eos(batches));
    assert_int_equal(recipe.model.eos, mh_batches_eos(batches));
    assert_int_equal(recipe.train.sequence, 32);
    recipe = tiny_recipe("unused");
    set(&recipe, "model.vocab=100");
    FAILS(MH_EMISMATCH, "model.vocab is 100", mh_recipe_resolve(&recipe, batches));
    mh_batches_close(batches);
}

static void identity_ignores_what_may_change(void **state)
{
    (void)state;
    mh_recipe recipe = tiny_recipe("unused");
    char before[17], after[17];
    OK(mh_recipe_identity(&recipe, before));
    set(&recipe, "train.keep=7");
    set(&recipe, "train.run=elsewhere");
    OK(mh_recipe_identity(&recipe, after));
    assert_string_equal(before, after);
    set(&recipe, "train.rate=2e-3");
    OK(mh_recipe_identity(&recipe, after));
    assert_string_not_equal(before, after);
}

/* ---- schedule ------------------------------------------------------------------------------------------ */

static void schedules_pass_through_their_points(void **state)
{
    (void)state;
    const struct {
        int kind;
        int64_t step;
        double rate;
    } point[] = {
        {MH_SCHEDULE_COSINE, 1, 0.1},   {MH_SCHEDULE_COSINE, 10, 1.0},
        {MH_SCHEDULE_COSINE, 60, 0.6},  {MH_SCHEDULE_COSINE, 110, 0.2},
        {MH_SCHEDULE_LINEAR, 5, 0.5},   {MH_SCHEDULE_LINEAR, 35, 0.8},
        {MH_SCHEDULE_LINEAR, 110, 0.2}, {MH_SCHEDULE_WSD, 10, 1.0},
        {MH_SCHEDULE_WSD, 90, 1.0},     {MH_SCHEDULE_WSD, 100, 0.6},
        {MH_SCHEDULE_WSD, 110, 0.2},    {MH_SCHEDULE_COSINE, 35, 0.2 + 0.4 * (1 + M_SQRT1_2)},
    };
    mh_train_config c = {.steps = 110, .warmup = 10, .decay_steps = 20, .rate = 1, .min_rate = 0.2};
    for (size_t i = 0; i < sizeof point / sizeof *point; i++) {
        c.schedule = point[i].kind;
        double rate = mh_schedule_rate(&c, point[i].step);
        if (fabs(rate - point[i].rate) > 1e-12)
            fail_msg("schedule %d at step %lld: %.15g, expected %.15g", point[i].kind,
                     (long long)point[i].step, rate, point[i].rate);
    }
    c.warmup = 0;
    c.schedule = MH_SCHEDULE_WSD;
    assert_true(mh_schedule_rate(&c, 1) == 1);
}

/* ---- AdamW --------------------------------------------------------------------------------------------- */

static mh_model *create_model(mh_precision precision)
{
    mh_recipe recipe = tiny_recipe("unused");
    set(&recipe, "model.vocab=100");
    OK(mh_recipe_resolve(&recipe, NULL));
    mh_model *model;
    OK(mh_model_create(&model, &recipe.model, precision, true));
    mh_model_init(model, 3);
    return model;
}

static void fill_gradients(const mh_model *model, uint64_t seed, double scale)
{
    for (int i = 0; i < model->params.count; i++)
        for (int64_t j = 0; j < mh_param_size(&model->params.list[i]); j++)
            mh_param_grad(&model->params, i)[j] =
                (float)(scale * mh_normal(seed, mh_stream(MH_RANDOM_TEST, 1, (uint32_t)i), (uint64_t)j));
}

/* One step in double precision, over the flat arrays. */
static double reference_step(const mh_params *params, const mh_train_config *c, int64_t step, double *w,
                             double *m, double *v)
{
    double square = 0;
    for (int64_t j = 0; j < params->elements; j++)
        square += (double)params->grad[j] * (double)params->grad[j];
    double norm = sqrt(square), scale = c->clip > 0 && norm > c->clip ? c->clip / norm : 1;
    double rate = mh_schedule_rate(c, step);
    for (int i = 0; i < params->count; i++) {
        const mh_param *p = &params->list[i];
        for (int64_t j = p->offset; j < p->offset + mh_param_size(p); j++) {
            double g = scale * (double)params->grad[j];
            m[j] = c->beta1 * m[j] + (1 - c->beta1) * g;
            v[j] = c->beta2 * v[j] + (1 - c->beta2) * g * g;
            double mhat = m[j] / (1 - pow(c->beta1, (double)step)),
                   vhat = v[j] / (1 - pow(c->beta2, (double)step));
            w[j] -= rate * (mhat / (sqrt(vhat) + c->eps) + (p->flags & MH_DECAY ? c->decay * w[j] : 0));
        }
    }
    return norm;
}

static void adamw_agrees_with_double_precision(void **state)
{
    (void)state;
    mh_model *model = create_model(MH_PRECISION_F32);
    const mh_params *params = &model->params;
    size_t n = (size_t)params->elements;
    double *w = calloc(n, sizeof *w), *m = calloc(n, sizeof *m), *v = calloc(n, sizeof *v);
    float *start = malloc(n * sizeof *start), *moved = malloc(n * sizeof *moved),
          *want = malloc(n * sizeof *want);
    for (size_t j = 0; j < n; j++)
        w[j] = start[j] = params->value[j];
    mh_optimizer optimizer;
    OK(mh_optimizer_init(&optimizer, model));
    mh_train_config c = {
        .steps = 10, .rate = 0.01, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .decay = 0.1, .clip = 1};
    const double scale[] = {1e-5, 1, 0.3}; /* the first is not clipped */
    for (int step = 1; step <= 3; step++) {
        fill_gradients(model, (uint64_t)step, scale[step - 1]);
        double norm = reference_step(params, &c, step, w, m, v);
        assert_true((norm > c.clip) == (step > 1));
        assert_true(fabs(mh_optimizer_step(&optimizer, model, &c) - norm) <= 1e-6 * norm);
        for (size_t j = 0; j < n; j++)
            assert_true(params->grad[j] == 0);
    }
    assert_int_equal(optimizer.step, 3);
    for (size_t j = 0; j < n; j++) {
        moved[j] = params->value[j] - start[j];
        want[j] = (float)(w[j] - (double)start[j]);
    }
    CLOSE(moved, want, params->elements, 1e-5); /* f32: 2^-24 of weights up to 100 times what they move */
    mh_optimizer_release(&optimizer);
    mh_model_free(model);
    free(w), free(m), free(v), free(start), free(moved), free(want);
}

static void decay_shrinks_flagged_parameters_only(void **state)
{
    (void)state;
    mh_model *model = create_model(MH_PRECISION_BF16);
    const mh_params *params = &model->params;
    size_t bytes = (size_t)params->elements * sizeof(float);
    float *start = malloc(bytes);
    memcpy(start, params->value, bytes);
    mh_optimizer optimizer;
    OK(mh_optimizer_init(&optimizer, model));
    mh_train_config c = {.schedule = MH_SCHEDULE_WSD,
                         .steps = 10,
                         .rate = 0.5,
                         .beta1 = 0.9,
                         .beta2 = 0.95,
                         .eps = 1e-8,
                         .decay = 0.5};
    mh_optimizer_step(&optimizer, model, &c); /* all gradients are zero */
    int decayed = 0;
    for (int i = 0; i < params->count; i++) {
        const mh_param *p = &params->list[i];
        float factor = p->flags & MH_DECAY ? 0.75f : 1;
        decayed += p->flags & MH_DECAY ? 1 : 0;
        for (int64_t j = p->offset; j < p->offset + mh_param_size(p); j++) {
            assert_true(fabsf(params->value[j] - factor * start[j]) <= 1e-7f * fabsf(start[j]));
            if (!(p->flags &
                  MH_KEEP_F32)) { /* the bf16 copy follows: the upper half of the master, rounded */
                uint32_t bits = (uint32_t)((uint16_t *)params->work)[j] << 16;
                float half;
                memcpy(&half, &bits, sizeof half);
                assert_true(fabsf(half - params->value[j]) <= 0x1p-8f * fabsf(params->value[j]));
            }
        }
    }
    assert_true(decayed > 0 && decayed < params->count);
    mh_optimizer_release(&optimizer);
    mh_model_free(model);
    free(start);
}

static void a_gradient_that_is_not_finite_changes_nothing(void **state)
{
    (void)state;
    mh_model *model = create_model(MH_PRECISION_F32);
    mh_optimizer optimizer;
    OK(mh_optimizer_init(&optimizer, model));
    int bad = mh_params_find(&model->params, "layers.1.moe.router.weight");
    assert_true(bad >= 0);
    mh_param_grad(&model->params, bad)[5] = NAN;
    uint64_t before = mh_hash(model->params.value, (size_t)model->params.elements * sizeof(float));
    mh_train_config c = {.steps = 10, .rate = 0.5, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .decay = 0.5};
    assert_false(isfinite(mh_optimizer_step(&optimizer, model, &c)));
    assert_int_equal(mh_optimizer_find_nan(model), bad);
    assert_int_equal(optimizer.step, 0);
    assert_true(before == mh_hash(model->params.value, (size_t)model->params.elements * sizeof(float)));
    mh_optimizer_release(&optimizer);
    mh_model_free(model);
}

/* ---- metrics ------------------------------------------------------------------------------------------- */

static void metrics_go_on_after_a_kill(void **state)
{
    (void)state;
    mh_load load = {0.5, 0.25, 0};
    int64_t layer = 1, rows[] = {30, 10};
    mh_train_log log = {.loss = 2,
                        .perplexity = INFINITY,
                        .z_loss = 0.5,
                        .moe_layers = 1,
                        .moe_layer = &layer,
                        .load = &load,
                        .experts = 2,
                        .rows = rows};
    mh_metrics metrics;
    OK(mh_make_dirs(at("metrics")));
    const char *path = at("metrics/metrics.jsonl");
    OK(mh_metrics_open(&metrics, at("metrics"), 0));
    for (log.step = 1; log.step <= 4; log.step++)
        OK(mh_metrics_add(&metrics, &log));
    mh_metrics_close(&metrics);

    char *whole = read_text(path), *lines[5] = {whole};
    for (int i = 1; i < 5; i++)
        lines[i] = strchr(lines[i - 1], '\n') + 1;
    assert_int_equal(*lines[4], '\0');
    json_t *json;
    OK(mh_json_parse(&json, lines[2], (size_t)(lines[3] - lines[2]), "line 3"));
    assert_int_equal(json_integer_value(json_object_get(json, "step")), 3);
    assert_true(json_is_null(json_object_get(json, "perplexity")));
    assert_true(json_real_value(json_object_get(json, "z_loss")) == 0.5);
    assert_null(json_object_get(json, "valid_loss"));
    const json_t *expert = json_array_get(json_object_get(json, "experts"), 0);
    assert_true(json_real_value(json_object_get(expert, "largest")) == 0.25);
    assert_int_equal(json_integer_value(json_array_get(json_object_get(expert, "rows"), 1)), 10);
    json_decref(json);

    /* A kill in the middle of the fourth line; then a resume after step 2. */
    assert_int_equal(truncate(path, lines[3] - whole + 10), 0);
    OK(mh_metrics_open(&metrics, at("metrics"), 3));
    mh_metrics_close(&metrics);
    char *rest = read_text(path);
    assert_int_equal(strlen(rest), lines[3] - whole);
    assert_memory_equal(rest, whole, strlen(rest));
    free(rest);
    OK(mh_metrics_open(&metrics, at("metrics"), 2));
    log.step = 3;
    log.z_loss = NAN;
    OK(mh_metrics_add(&metrics, &log));
    mh_metrics_close(&metrics);
    rest = read_text(path);
    assert_memory_equal(rest, whole, lines[2] - whole);
    assert_null(strstr(rest + (lines[2] - whole), "z_loss"));
    /* The first line of each start names the machine. */
    const char *machine = strstr(rest, "\"machine\"");
    assert_true(machine != NULL && machine < rest + (lines[1] - whole));
    machine = strstr(machine + 1, "\"machine\"");
    assert_true(machine > rest + (lines[2] - whole));
    assert_null(strstr(machine + 1, "\"machine\""));
    free(rest);
    free(whole);
}

/* CRC-32C bit by bit, unlike the writer's table. */
static uint32_t masked_crc(const unsigned char *data, size_t bytes)
{
    uint32_t crc = UINT32_MAX;
    for (size_t i = 0; i < 8 * bytes; i++) {
        bool odd = (crc ^ data[i / 8] >> i % 8) & 1;
        crc = crc >> 1 ^ (odd ? 0x82f63b78u : 0);
    }
    crc = ~crc;
    return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
}

static uint64_t little_endian(const unsigned char *p, int bytes)
{
    uint64_t value = 0;
    for (int i = 0; i < bytes; i++)
        value |= (uint64_t)p[i] << 8 * i;
    return value;
}

static void event_files_have_the_format(void **state)
{
    (void)state;
    assert_true(masked_crc((const unsigned char *)"123456789", 9) ==
                ((0xe3069283u >> 15 | 0xe3069283u << 17) + 0xa282ead8u)); /* RFC 3720's check value */
    mh_events *events;
    OK(mh_make_dirs(at("events")));
    OK(mh_events_open(&events, at("events"), 299));
    OK(mh_events_scalar(events, "train/loss", 300, 1.5));
    OK(mh_events_flush(events));
    mh_events_close(events);

    char name[300] = "";
    DIR *dir = opendir(at("events"));
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
        if (strncmp(entry->d_name, "events.out.tfevents.", 20) == 0)
            snprintf(name, sizeof name, "events/%s", entry->d_name);
    closedir(dir);
    mh_text file;
    OK(mh_file_read(at(name), 1 << 16, &file));

    const unsigned char *record[3], *p = (unsigned char *)file.data;
    for (int i = 0; i < 3; i++) {
        size_t length = little_endian(p, 8);
        assert_true(length < 100);
        assert_int_equal(little_endian(p + 8, 4), masked_crc(p, 8));
        assert_int_equal(little_endian(p + 12 + length, 4), masked_crc(p + 12, length));
        record[i] = p + 12;
        p += 16 + length;
    }
    assert_ptr_equal(p, file.data + file.length);
    /* 0x09 wall_time, 0x10 step; 0x1a file_version; 0x3a session_log { 0x08 status START };
     * 0x2a summary { 0x0a value { 0x0a tag, 0x15 simple_value } } */
    assert_memory_equal(record[0] + 9,
                        "\x10\x00\x1a\x0d"
                        "brain.Event:2",
                        17);
    assert_memory_equal(record[1] + 9, "\x10\xac\x02\x3a\x02\x08\x01", 7);
    assert_memory_equal(record[2] + 9, "\x10\xac\x02\x2a\x13\x0a\x11\x0a\x0atrain/loss\x15\x00\x00\xc0\x3f",
                        24);
    mh_text_release(&file);
}

/* ---- whole runs ---------------------------------------------------------------------------------------- */

typedef struct {
    int64_t stop_at;            /* raise the flag in this step */
    int64_t stop_in_evaluation; /* in the evaluation after this step, where `stops_evaluation` */
    bool stops_evaluation;
    volatile int stop;
    mh_train_log last;
    double first_valid, last_valid;
    mh_text messages;
} watcher;

static void on_step(void *context, const mh_train_log *log)
{
    watcher *w = context;
    w->last = *log;
    w->stop = log->step == w->stop_at;
}

static void on_progress(void *context, const char *what, double done, double total, const char *note)
{
    watcher *w = context;
    (void)note;
    assert_string_equal(what, "evaluating");
    assert_true(done <= total);
    if (w->stops_evaluation && w->last.step == w->stop_in_evaluation)
        w->stop = 1;
}

static void on_log(void *context, const mh_train_log *log)
{
    watcher *w = context;
    if (log->validated && log->step == 0)
        w->first_valid = log->valid_loss;
    if (log->validated)
        w->last_valid = log->valid_loss;
}

static void on_message(void *context, const char *sentence)
{
    OK(mh_text_printf(&((watcher *)context)->messages, "%s\n", sentence));
}

static mh_status run(mh_recipe recipe, mh_train_mode mode, const char *init_from, watcher *w)
{
    mh_train_watch watch = {.context = w,
                            .step = on_step,
                            .log = on_log,
                            .message = on_message,
                            .progress = on_progress,
                            .stop = &w->stop};
    w->stop = 0;
    return mh_train(&recipe, mode, init_from, &watch);
}

/* A new run that must succeed. */
static void run_new(mh_recipe recipe)
{
    watcher w = {0};
    OK(run(recipe, MH_TRAIN_NEW, NULL, &w));
    mh_text_release(&w.messages);
}

static const char *step_path(const char *run_name, int step, const char *file)
{
    char name[128];
    snprintf(name, sizeof name, "%s/checkpoints/step-%06d%s%s", run_name, step, *file ? "/" : "", file);
    return at(name);
}

static void same_checkpoint(const char *run_a, const char *run_b, int step)
{
    static const char *const files[] = {"config.json",        "model.safetensors", "optimizer.safetensors",
                                        "trainer_state.json", "tokenizer.model",   "README.md"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        mh_text a, b;
        OK(mh_file_read(step_path(run_a, step, files[i]), 1 << 26, &a));
        OK(mh_file_read(step_path(run_b, step, files[i]), 1 << 26, &b));
        if (a.length != b.length || memcmp(a.data, b.data, a.length) != 0)
            fail_msg("%s and %s differ after step %d in %s", run_a, run_b, step, files[i]);
        mh_text_release(&a);
        mh_text_release(&b);
    }
}

static void flip_byte(const char *path)
{
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    fseek(file, -5, SEEK_END);
    int byte = fgetc(file);
    fseek(file, -5, SEEK_END);
    fputc(byte ^ 4, file);
    fclose(file);
}

static void stop_and_resume_equals_uninterrupted(void **state)
{
    (void)state;
    run_new(tiny_recipe("whole"));
    for (int stop = 1; stop <= 5; stop += 2) {
        watcher w = {.stop_at = stop};
        FAILS(MH_EINTERRUPTED, "--resume", run(tiny_recipe("parts"), MH_TRAIN_NEW, NULL, &w));
        assert_true(mh_path_exists(step_path("parts", stop, "")));
        FAILS(MH_ESTATE, "--resume", run(tiny_recipe("parts"), MH_TRAIN_NEW, NULL, &w));
        w.stop_at = 0;
        OK(run(tiny_recipe("parts"), MH_TRAIN_RESUME, NULL, &w));
        same_checkpoint("whole", "parts", 6);
        mh_text_release(&w.messages);
        OK(mh_remove_tree(at("parts")));
    }
}

/* Also in the middle of an evaluation, twice: it is made again, and the weights are not lost. */
static void stop_in_an_evaluation_and_resume(void **state)
{
    (void)state;
    for (int stop = 0; stop <= 6; stop += stop ? 2 : 4) {
        watcher w = {.stop_at = -1, .stop_in_evaluation = stop, .stops_evaluation = true};
        mh_recipe recipe = tiny_recipe("parts");
        FAILS(MH_EINTERRUPTED, "--resume", run(recipe, MH_TRAIN_NEW, NULL, &w));
        assert_true(mh_path_exists(step_path("parts", stop, "")));
        FAILS(MH_EINTERRUPTED, "--resume", run(recipe, MH_TRAIN_RESUME, NULL, &w));
        w.stops_evaluation = false;
        OK(run(recipe, MH_TRAIN_RESUME, NULL, &w));
        for (int step = 2; step <= 6; step += 2)
            same_checkpoint("whole", "parts", step);
        char *log = read_text(at("parts/metrics.jsonl"));
        int evaluations = 0;
        for (const char *line = log; (line = strstr(line, "\"valid_loss\"")) != NULL; line++)
            evaluations++;
        assert_int_equal(evaluations, 3); /* of steps 0, 4 and 6 */
        free(log);
        mh_text_release(&w.messages);
        OK(mh_remove_tree(at("parts")));
    }
}

/* As the second run of a comparison does. */
static void a_run_tells_its_own_memory(void **state)
{
    (void)state;
    size_t once = 128 << 20;
    if (access("/proc/self/clear_refs", W_OK) != 0)
        skip();
    void *pages = mmap(NULL, once, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    assert_true(pages != MAP_FAILED && munmap(pages, once) == 0);
    double peak = (double)mh_memory_peak();
    watcher w = {0};
    OK(run(tiny_recipe("memory"), MH_TRAIN_NEW, NULL, &w));
    assert_true(w.last.memory > 0 && w.last.memory < peak);
    mh_text_release(&w.messages);
}

static void a_run_without_checkpoint_begins_anew(void **state)
{
    (void)state;
    watcher w = {.stop_at = 2};
    FAILS(MH_EINTERRUPTED, "--resume", run(tiny_recipe("bare"), MH_TRAIN_NEW, NULL, &w));
    OK(mh_remove_tree(at("bare/checkpoints")));
    FAILS(MH_ESTATE, "start the run without --resume", run(tiny_recipe("bare"), MH_TRAIN_RESUME, NULL, &w));
    w.stop_at = 0;
    OK(run(tiny_recipe("bare"), MH_TRAIN_NEW, NULL, &w));
    same_checkpoint("whole", "bare", 6);
    char *log = read_text(at("bare/metrics.jsonl"));
    assert_non_null(strstr(log, "\"step\":0,"));
    assert_null(strstr(strstr(log, "\"step\":0,") + 1, "\"step\":0,"));
    free(log);
    mh_text_release(&w.messages);
}

static void what_may_change_on_resume(void **state)
{
    (void)state;
    watcher w = {.stop_at = 3};
    FAILS(MH_EINTERRUPTED, "", run(tiny_recipe("changes"), MH_TRAIN_NEW, NULL, &w));
    w.stop_at = 0;
    mh_recipe recipe = tiny_recipe("changes");
    set(&recipe, "train.steps=7");
    FAILS(MH_EMISMATCH, "train.steps may not change when a run is resumed: it was 6",
          run(recipe, MH_TRAIN_RESUME, NULL, &w));
    assert_non_null(strstr(mh_message(), "now 7"));

    /* The folder moves, the intervals change. */
    OK(rename(at("changes"), at("moved")) == 0 ? MH_OK : MH_EIO);
    recipe = tiny_recipe("moved");
    set(&recipe, "train.keep=1");
    set(&recipe, "train.checkpoint_every=0");
    OK(run(recipe, MH_TRAIN_RESUME, NULL, &w));
    same_checkpoint("whole", "moved", 6);
    assert_false(mh_path_exists(step_path("moved", 3, "")));

    /* A recipe.yaml edited to agree does not help: the checkpoint knows. */
    recipe = tiny_recipe("moved");
    set(&recipe, "train.rate=2e-3");
    mh_text yaml = {0};
    mh_recipe resolved = recipe;
    mh_batches *batches;
    OK(mh_batches_open(&batches, at("data"), "train", 32, 1, NULL));
    OK(mh_recipe_resolve(&resolved, batches));
    OK(mh_options_write_yaml(&mh_recipe_options, &resolved, &yaml));
    OK(mh_file_write(at("moved/recipe.yaml"), yaml.data, yaml.length));
    FAILS(MH_EMISMATCH, "another recipe", run(recipe, MH_TRAIN_RESUME, NULL, &w));
    mh_batches_close(batches);
    mh_text_release(&yaml);

    FAILS(MH_ESTATE, "no such run folder", run(tiny_recipe("nowhere"), MH_TRAIN_RESUME, NULL, &w));
    assert_false(mh_path_exists(at("nowhere")));
    OK(mh_make_dirs(at("empty")));
    OK(mh_file_write(at("empty/recipe.yaml"), "", 0));
    assert_int_not_equal(run(tiny_recipe("empty"), MH_TRAIN_RESUME, NULL, &w), MH_OK);
    mh_text_release(&w.messages);
}

/* Folders made of the same texts in another order, as large as before. */
static void data_that_is_rebuilt_is_noticed(void **state)
{
    (void)state;
    watcher w = {.stop_at = 2};
    char identity[2][17];
    for (int i = 0; i < 2; i++) {
        mh_text text = {0};
        mh_batches *batches;
        for (int j = 0; j < 400; j++)
            OK(mh_text_printf(&text, "{\"text\": \"This is number %d of them.\"}\n", i == 0 ? j : 399 - j));
        OK(mh_file_write(at("lines.jsonl"), text.data, text.length));
        mh_text_release(&text);
        OK(mh_remove_tree(at("rebuilt")));
        build(at("lines.jsonl"), at("rebuilt"), 0.2);
        OK(mh_batches_open(&batches, at("rebuilt"), "train", 32, 1, NULL));
        mh_tokenizer *tokenizer;
        OK(mh_tokenizer_load(&tokenizer, at("words.model")));
        mh_recipe_data_identity(batches, tokenizer, identity[i]);
        mh_tokenizer_free(tokenizer);
        mh_batches_close(batches);
        mh_recipe recipe = tiny_recipe("on-rebuilt");
        snprintf(recipe.data.train, sizeof recipe.data.train, "%s", at("rebuilt"));
        if (i == 0)
            FAILS(MH_EINTERRUPTED, "", run(recipe, MH_TRAIN_NEW, NULL, &w));
        else
            FAILS(MH_EMISMATCH, "another data", run(recipe, MH_TRAIN_RESUME, NULL, &w));
    }
    assert_string_not_equal(identity[0], identity[1]);
    mh_text_release(&w.messages);
}

/* A folder of a name that no checkpoint has is none, whatever is in it. */
static void a_step_has_one_folder(void **state)
{
    (void)state;
    watcher w = {.stop_at = 3};
    FAILS(MH_EINTERRUPTED, "", run(tiny_recipe("twin"), MH_TRAIN_NEW, NULL, &w));
    OK(mh_make_dirs(at("twin/checkpoints/step-3")));
    OK(mh_make_dirs(at("twin/checkpoints/step-0000003")));
    w.stop_at = 0;
    mh_recipe recipe = tiny_recipe("twin");
    set(&recipe, "train.keep=1");
    OK(run(recipe, MH_TRAIN_RESUME, NULL, &w));
    same_checkpoint("whole", "twin", 6);
    assert_true(mh_path_exists(at("twin/checkpoints/step-3")));
    mh_text_release(&w.messages);
}

static void damaged_checkpoints_are_passed_over(void **state)
{
    (void)state;
    static const char *const files[] = {"model.safetensors", "optimizer.safetensors", "trainer_state.json",
                                        "config.json"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        watcher w = {.stop_at = 4};
        FAILS(MH_EINTERRUPTED, "", run(tiny_recipe("damaged"), MH_TRAIN_NEW, NULL, &w));
        w.stop_at = 0;
        flip_byte(step_path("damaged", 4, files[i]));
        mh_recipe recipe = tiny_recipe("damaged");
        set(&recipe, "train.keep=1"); /* must not count the damaged one */
        OK(run(recipe, MH_TRAIN_RESUME, NULL, &w));
        assert_non_null(strstr(w.messages.data, "step 4 is passed over"));
        assert_non_null(strstr(w.messages.data, "resumed after step 2"));
        assert_true(mh_path_exists(at("damaged/checkpoints/step-000004.damaged")));
        same_checkpoint("whole", "damaged", 6);
        mh_text_release(&w.messages);
        OK(mh_remove_tree(at("damaged")));
    }
    watcher w = {.stop_at = 1};
    FAILS(MH_EINTERRUPTED, "", run(tiny_recipe("damaged"), MH_TRAIN_NEW, NULL, &w));
    flip_byte(step_path("damaged", 0, "model.safetensors"));
    flip_byte(step_path("damaged", 1, "model.safetensors"));
    FAILS(MH_EFORMAT, "none of its 2 checkpoints", run(tiny_recipe("damaged"), MH_TRAIN_RESUME, NULL, &w));
    assert_true(mh_path_exists(step_path("damaged", 1, ""))); /* nothing was moved */
    mh_text_release(&w.messages);
}

static void retention_keeps_the_newest(void **state)
{
    (void)state;
    mh_recipe recipe = tiny_recipe("kept");
    set(&recipe, "train.checkpoint_every=1");
    set(&recipe, "train.keep=2");
    OK(mh_make_dirs(step_path("kept", 9, "")));
    OK(rename(step_path("kept", 9, ""), at("kept/checkpoints/step-000009.mhmoe-tmp")) == 0 ? MH_OK : MH_EIO);
    run_new(recipe);
    for (int step = 0; step <= 6; step++)
        assert_int_equal(mh_path_exists(step_path("kept", step, "")), step >= 5);
    assert_false(mh_path_exists(at("kept/checkpoints/step-000009.mhmoe-tmp")));
    same_checkpoint("whole", "kept", 6);
}

static void a_run_folder_has_one_trainer(void **state)
{
    (void)state;
    mh_lock lock;
    watcher w = {0};
    OK(mh_make_dirs(at("locked")));
    OK(mh_lock_take(&lock, at("locked/lock")));
    char pid[32];
    snprintf(pid, sizeof pid, "%ld", (long)getpid());
    FAILS(MH_ESTATE, pid, run(tiny_recipe("locked"), MH_TRAIN_NEW, NULL, &w));
    mh_lock_release(&lock);
}

static void nothing_half_written_on_a_full_disk(void **state)
{
    (void)state;
    watcher w = {0};
    struct rlimit was, small = {16384, RLIM_INFINITY}; /* writing beyond fails, as on a full disk */
    getrlimit(RLIMIT_FSIZE, &was);
    small.rlim_max = was.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    mh_status status = run(tiny_recipe("full"), MH_TRAIN_NEW, NULL, &w);
    setrlimit(RLIMIT_FSIZE, &was);
    assert_int_equal(status, MH_EIO);
    assert_false(mh_path_exists(step_path("full", 0, "")));
    assert_false(mh_path_exists(at("full/checkpoints/step-000000.mhmoe-tmp")));
    OK(run(tiny_recipe("full"), MH_TRAIN_NEW, NULL, &w)); /* and the same command works once there is room */
    same_checkpoint("whole", "full", 6);
    mh_text_release(&w.messages);
}

/* Weights of a fresh model with one parameter made huge, as a checkpoint folder. */
static void write_weights(const char *name, const char *param, float value)
{
    mh_recipe recipe = tiny_recipe("unused");
    mh_batches *batches;
    OK(mh_batches_open(&batches, at("data"), "train", 32, 1, NULL));
    OK(mh_recipe_resolve(&recipe, batches));
    mh_batches_close(batches);
    mh_model *model;
    OK(mh_model_create(&model, &recipe.model, MH_PRECISION_F32, false));
    mh_model_init(model, 1);
    mh_mat w = mh_param_value(&model->params, mh_params_find(&model->params, param));
    for (int64_t i = 0; i < w.rows * w.cols; i++)
        ((float *)w.p)[i] = value;
    OK(mh_make_dirs(at(name)));
    OK(mh_checkpoint_write(model, NULL, at(name)));
    mh_model_free(model);
}

static void a_loss_that_is_no_number_stops_the_run(void **state)
{
    (void)state;
    watcher w = {0};
    write_weights("huge", "layers.1.attn_norm.weight", 1e19f);
    mh_recipe recipe = tiny_recipe("nan");
    set(&recipe, "train.eval_every=0");
    FAILS(MH_ESTATE, "step 1: the loss is not a finite number, first in the output of layer 1",
          run(recipe, MH_TRAIN_NEW, at("huge"), &w));
    assert_null(strstr(mh_message(), "train.precision f32")); /* which it is */
    assert_true(mh_path_exists(step_path("nan", 0, "")));
    assert_false(mh_path_exists(step_path("nan", 1, "")));
    recipe = tiny_recipe("nan-bf16");
    set(&recipe, "train.eval_every=0");
    set(&recipe, "train.precision=bf16");
    FAILS(MH_ESTATE, "or with train.precision f32", run(recipe, MH_TRAIN_NEW, at("huge"), &w));

    recipe = tiny_recipe("nan-free");
    set(&recipe, "train.clip=0"); /* which is as low as it goes */
    set(&recipe, "train.eval_every=0");
    FAILS(MH_ESTATE, "with a lower train.rate or train.clip over 0",
          run(recipe, MH_TRAIN_NEW, at("huge"), &w));

    recipe = tiny_recipe("nan2"); /* the evaluation before the first step sees it earlier */
    FAILS(MH_ESTATE, "or begin with other weights, no update was made",
          run(recipe, MH_TRAIN_NEW, at("huge"), &w));
    assert_ptr_equal(strstr(mh_message(), "step 0: the validation loss"), mh_message());
    assert_null(strstr(mh_message(), "last good checkpoint"));
    assert_false(mh_path_exists(at("nan2")));

    write_weights("poison", "layers.1.attn_norm.weight", NAN);
    FAILS(MH_EVALUE, "layers.1.attn_norm.weight", run(tiny_recipe("nan3"), MH_TRAIN_NEW, at("poison"), &w));
    mh_text_release(&w.messages);
}

static void weights_of_another_model_are_refused(void **state)
{
    (void)state;
    watcher w = {0};
    mh_recipe recipe = tiny_recipe("other");
    set(&recipe, "model.attention_heads=4");
    set(&recipe, "model.kv_heads=4");
    FAILS(MH_EMISMATCH, "its model.attention_heads is 2, that of the recipe 4",
          run(recipe, MH_TRAIN_NEW, at("whole"), &w));
    recipe = tiny_recipe("other");
    set(&recipe, "model.dim=64");
    FAILS(MH_EMISMATCH, "but the recipe asks for [", run(recipe, MH_TRAIN_NEW, at("whole"), &w));
    OK(run(tiny_recipe("other"), MH_TRAIN_NEW, at("whole"), &w));
    mh_text_release(&w.messages);
}

static void too_little_memory_is_known_before(void **state)
{
    (void)state;
    watcher w = {0};
    mh_recipe recipe = tiny_recipe("large");
    set(&recipe, "model.dim=16384");
    set(&recipe, "model.layers=512");
    set(&recipe, "model.attention_heads=16");
    FAILS(MH_EMEMORY, "MiB are free; lower train.micro_batch", run(recipe, MH_TRAIN_NEW, NULL, &w));
    assert_false(mh_path_exists(at("large")));
}

static void memory_estimate_is_the_sum_of_the_parts(void **state)
{
    (void)state;
    mh_recipe recipe = tiny_recipe("unused");
    mh_batches *batches;
    OK(mh_batches_open(&batches, at("data"), "train", 32, 1, NULL));
    OK(mh_recipe_resolve(&recipe, batches));
    mh_step step;
    OK(mh_step_init(&step, &recipe, NULL));
    mh_pass_shape shape = {.batch = 2, .rows = 32, .capacity = 32, .training = true};
    size_t taken = step.model->memory.used + step.optimizer.memory.used + 2 * step.memory.used +
                   mh_pass_bytes(&recipe.model, MH_PRECISION_F32, shape);
    assert_int_equal(mh_train_bytes(&recipe), taken);
    mh_step_release(&step);
    mh_batches_close(batches);
}

/* Losses and gradient norm of the first update, and the biases on the choice of experts after it. */
static mh_update first_update(int micro_batch, float bias[4])
{
    mh_recipe recipe = tiny_recipe("unused");
    char text[64];
    snprintf(text, sizeof text, "train.micro_batch=%d", micro_batch);
    set(&recipe, text);
    set(&recipe, "model.dropout=0");
    set(&recipe, "moe.jitter=0"); /* noise is another in each micro-batch */
    set(&recipe, "moe.second_expert=all");
    set(&recipe, "moe.score=softmax");
    set(&recipe, "moe.z_weight=0.1");
    mh_batches *batches;
    OK(mh_batches_open(&batches, at("data"), "train", 32, 1, NULL));
    OK(mh_recipe_resolve(&recipe, batches));
    mh_step step;
    mh_update update;
    OK(mh_step_init(&step, &recipe, NULL));
    OK(mh_train_weights(step.model, &recipe, NULL));
    OK(mh_step_next(&step, batches, &update));
    const mh_params *params = &step.model->params;
    memcpy(bias, mh_param_value(params, mh_params_find(params, "layers.1.moe.router.bias")).p,
           4 * sizeof *bias);
    mh_step_release(&step);
    mh_batches_close(batches);
    return update;
}

static void micro_batches_add_up(void **state)
{
    (void)state;
    float bias[4], same[4];
    mh_update whole = first_update(4, bias);
    assert_true(bias[0] != 0 || bias[1] != 0);
    assert_true(whole.z_loss > 1); /* log(4)^2 where all logits are 0 */
    for (int micro_batch = 1; micro_batch <= 2; micro_batch++) {
        mh_update parts = first_update(micro_batch, same);
        assert_memory_equal(bias, same, sizeof bias);
        assert_true(fabs(parts.loss - whole.loss) < 1e-6 * whole.loss); /* f32 in another order */
        assert_true(fabs(parts.z_loss - whole.z_loss) < 1e-6 * whole.z_loss);
        assert_true(fabs(parts.grad_norm - whole.grad_norm) < 1e-5 * whole.grad_norm);
    }
}

static void any_number_of_threads_gives_the_same_bytes(void **state)
{
    (void)state;
    static const char *const precision[] = {"f32", "bf16"};
    for (int p = 0; p < 2; p++) {
        for (int threads = 1; threads <= 4; threads *= 2) {
            char name[32], text[64];
            snprintf(name, sizeof name, "%s-%d", precision[p], threads);
            snprintf(text, sizeof text, "train.precision=%s", precision[p]);
            mh_recipe recipe = tiny_recipe(name);
            set(&recipe, text);
            set(&recipe, "model.context=128");
            set(&recipe, "train.batch=32"); /* 4096 rows, 8192 routed */
            set(&recipe, "train.micro_batch=32");
            set(&recipe, "train.steps=3");
            set(&recipe, "train.eval_every=0");
            omp_set_num_threads(threads);
            run_new(recipe);
        }
        char one[32], two[32], four[32];
        snprintf(one, sizeof one, "%s-1", precision[p]);
        snprintf(two, sizeof two, "%s-2", precision[p]);
        snprintf(four, sizeof four, "%s-4", precision[p]);
        same_checkpoint(one, two, 3);
        same_checkpoint(one, four, 3);
    }
    omp_set_num_threads(1);
}

static void a_tiny_corpus_is_learnt_by_heart(void **state)
{
    (void)state;
    watcher w = {0};
    mh_recipe recipe = tiny_recipe("overfit");
    snprintf(recipe.data.train, sizeof recipe.data.train, "%s", at("tiny"));
    set(&recipe, "data.mask_documents=false");
    set(&recipe, "model.dim=64");
    set(&recipe, "model.dropout=0");
    set(&recipe, "moe.ffn_dim=64");
    set(&recipe, "train.steps=300");
    set(&recipe, "train.warmup=20");
    set(&recipe, "train.rate=5e-3");
    set(&recipe, "train.batch=8");
    set(&recipe, "train.micro_batch=8");
    set(&recipe, "train.decay=0");
    set(&recipe, "train.log_every=20");
    set(&recipe, "train.eval_every=300");
    set(&recipe, "train.checkpoint_every=0");
    OK(run(recipe, MH_TRAIN_NEW, NULL, &w));
    assert_true(fabs(w.first_valid - log(384)) < 1); /* untrained: near uniform over the pieces */
    if (!(w.last.loss < 0.05))
        fail_msg("loss %.4f after 300 steps", w.last.loss);
    mh_text_release(&w.messages);
}

/* ---- comparisons --------------------------------------------------------------------------------------- */

/* Two MoE layers' worth of settings are left to the models. */
static mh_recipe comparison_recipe(const char *output, const char *models)
{
    mh_recipe recipe = tiny_recipe("unused");
    static const char *const settings[] = {
        "moe.heads=0",      "moe.experts=0",          "moe.top_k=0",           "moe.ffn_dim=0",
        "model.ffn_dim=64", "moe.baseline_experts=4", "moe.second_expert=all", "compare.seeds=2"};
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++)
        set(&recipe, settings[i]);
    snprintf(recipe.compare.models, sizeof recipe.compare.models, "%s", models);
    snprintf(recipe.compare.output, sizeof recipe.compare.output, "%s", at(output));
    return recipe;
}

static void models_of_a_comparison_are_refused_by_name(void **state)
{
    (void)state;
    static const struct {
        mh_status status;
        const char *models, *sentence;
    } wrong[] = {
        {MH_EVALUE, "", "no models are named"},
        {MH_EVALUE, "dense,smoe", "model smoe: model.preset \"smoe\" is not known"},
        {MH_EVALUE, "dense, dense", "two models are called dense"},
        {MH_EVALUE, "dense, smoe-top1 moe.experts=2", "another name; write NAME=smoe-top1 moe.experts=2"},
        {MH_EVALUE, "dense, b=dense moe.head=on", "model b: moe.head and model.preset dense contradict"},
        {MH_EVALUE, "smoe-top1, b=smoe-top1 moe.heads=2",
         "model.preset smoe-top1 and moe.heads 2 contradict"},
        {MH_EVALUE, "a/b=dense", "\"a/b\" cannot be the name of a model"},
        {MH_EVALUE, "dense,", "\"\" cannot be the name"},
        {MH_EVALUE, "a=dense moe.heads", "model a: \"moe.heads\" is no setting"},
        {MH_EVALUE, "a=dense moe.head=4", "model a: moe.head must be one of auto, off, on"},
        {MH_EVALUE, "a=mhmoe-h2 moe.haeds=3", "moe.heads"},
        {MH_EVALUE, "dense,b=dense train.warmup=6", "model b: train.warmup 6 leaves none"},
        {MH_EMISMATCH, "dense,b=dense data.train=tiny",
         "model b cannot be compared with the others: its data.train"},
        {MH_EMISMATCH, "dense,b=dense train.batch=8", "its train.batch is 8 and theirs 4"},
        {MH_EMISMATCH, "dense,b=dense train.sequence=16", "its train.sequence is 16 and theirs 32"},
        {MH_EMISMATCH, "dense,b=dense train.data_seed=5", "its train.data_seed is 5 and theirs 1"},
        {MH_EMISMATCH, "dense,b=dense model.vocab=300", "model b: model.vocab is 300, but the tokenizer"},
    };
    mh_batches *batches;
    OK(mh_batches_open(&batches, at("data"), "train", 32, 1, NULL));
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        mh_recipe recipe = comparison_recipe("unused", wrong[i].models);
        mh_arm *arms;
        int count;
        FAILS(wrong[i].status, wrong[i].sentence, mh_arms_read(&arms, &count, &recipe, batches));
        free(arms);
    }
    mh_batches_close(batches);
}

static void models_take_settings_of_their_own(void **state)
{
    (void)state;
    mh_recipe recipe =
        comparison_recipe("unused", " dense ,smoe-top1, plain=mhmoe-h2  moe.head=off moe.merge=off");
    mh_batches *batches;
    mh_arm *arm;
    int count;
    OK(mh_recipe_data(&recipe, &batches));
    OK(mh_arms_read(&arm, &count, &recipe, batches));
    assert_int_equal(count, 3);
    assert_string_equal(arm[1].name, "smoe-top1");
    assert_string_equal(arm[2].name, "plain");
    assert_int_equal(arm[0].recipe.model.moe.experts, 0);
    assert_int_equal(arm[2].recipe.model.moe.head, MH_OFF);
    assert_int_equal(arm[2].recipe.model.moe.heads, 2);
    assert_true(arm[2].flops.head_merge == 0 && arm[2].flops.experts < arm[1].flops.experts);
    assert_string_equal(arm[2].recipe.compare.models, ""); /* a run has no comparison in it */
    free(arm);

    /* Matched, the experts get what head and merge layers left. */
    set(&recipe, "compare.match=params,flops");
    OK(mh_arms_read(&arm, &count, &recipe, batches));
    assert_int_equal(arm[1].recipe.model.moe.ffn_dim, 64);
    assert_int_equal(arm[2].recipe.model.moe.ffn_dim, 32); /* two heads, two choices: half of 64 each */
    assert_int_equal(arm[2].recipe.model.moe.experts, 16); /* of half the width in and half within */
    assert_true(arm[2].flops.experts == arm[1].flops.experts);
    assert_int_equal(arm[2].params.experts, arm[1].params.experts);
    OK(mh_recipe_resolve(&arm[2].recipe, NULL));
    free(arm);

    /* Shared experts are paid for by routed ones. */
    snprintf(recipe.compare.models, sizeof recipe.compare.models,
             "smoe-top2, shared=smoe-top2+shared moe.shared_ffn_dim=32");
    OK(mh_arms_read(&arm, &count, &recipe, batches));
    assert_int_equal(arm[1].recipe.model.moe.ffn_dim, 48);
    assert_true(arm[1].flops.experts + arm[1].flops.shared == arm[0].flops.experts);
    free(arm);

    set(&recipe, "compare.match=flops");
    snprintf(recipe.compare.models, sizeof recipe.compare.models, "small=smoe-top1 moe.ffn_dim=8,mhmoe-h2");
    FAILS(MH_EVALUE, "model mhmoe-h2 cannot match the FLOPs of small",
          mh_arms_read(&arm, &count, &recipe, batches));
    free(arm);
    mh_batches_close(batches);
}

static void recipes_for_comparisons_have_models(void **state)
{
    (void)state;
    static const char *const recipes[] = {"paper-b-small", "ablation-head-merge", "confounds", "heads",
                                          "experts",       "overnight",           "bitnet",    "paper-b"};
    mh_batches *batches;
    OK(mh_batches_open(&batches, at("data"), "train", 256, 1, NULL));
    for (size_t i = 0; i < sizeof recipes / sizeof *recipes; i++) {
        char path[MH_PATH];
        mh_recipe recipe;
        mh_arm *arm;
        int count;
        snprintf(path, sizeof path, "%s/../../recipes/%s.yaml", TEST_GOLDEN, recipes[i]);
        OK(mh_recipe_read(&recipe, path, (const char *[]){"model.vocab=0"}, 1)); /* that of the test's data */
        OK(mh_arms_read(&arm, &count, &recipe, batches));
        assert_true(count >= 3);
        double first = arm[0].flops.forward - arm[0].flops.router;
        for (int a = 0; a < count; a++) { /* none is favoured, as paper B counts */
            double ratio = (arm[a].flops.forward - arm[a].flops.router) / first;
            if (fabs(ratio - 1) > 0.01)
                fail_msg("%s: %s has %.3f times the FLOPs of %s", recipes[i], arm[a].name, ratio,
                         arm[0].name);
        }
        free(arm);
    }
    mh_batches_close(batches);
}

static int64_t steps_of(const char *budget)
{
    mh_recipe recipe = tiny_recipe("unused");
    mh_budget what;
    snprintf(recipe.compare.budget, sizeof recipe.compare.budget, "%s", budget);
    mh_arm arm = {.recipe = recipe, .tokens = 128, .flops.training = 1000, .update_seconds = 0.5};
    arm.recipe.model.vocab = 384;
    OK(mh_budget_read(&what, &recipe));
    OK(mh_arm_set_length(&arm, &what));
    return arm.recipe.train.steps;
}

static void budgets_buy_updates(void **state)
{
    (void)state;
    assert_int_equal(steps_of(""), 6);
    assert_int_equal(steps_of("steps=17"), 17);
    assert_int_equal(steps_of("tokens=1.28e4"), 100);
    assert_int_equal(steps_of("flops=1e6"), 8); /* 7.8 */
    assert_int_equal(steps_of("seconds=60"), 120);
    static const char *const wrong[] = {"hours=3", "steps=0", "steps=1.5", "steps=-1",
                                        "steps=x", "17",      "steps"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        mh_recipe recipe = tiny_recipe("unused");
        mh_budget what;
        snprintf(recipe.compare.budget, sizeof recipe.compare.budget, "%s", wrong[i]);
        FAILS(MH_EVALUE, "compare.budget is steps=N", mh_budget_read(&what, &recipe));
    }
}

/* The order of the data is a function of data_seed, the first weights of seed. */
static void seeds_of_weights_and_data_are_apart(void **state)
{
    (void)state;
    int32_t token[3][32], target[32];
    static const char *const seeds[3][2] = {{"train.seed=1", "train.data_seed=9"},
                                            {"train.seed=2", "train.data_seed=9"},
                                            {"train.seed=2", "train.data_seed=-1"}};
    for (int i = 0; i < 3; i++) {
        mh_recipe recipe = tiny_recipe("unused");
        mh_batches *batches;
        set(&recipe, seeds[i][0]);
        set(&recipe, seeds[i][1]);
        OK(mh_recipe_data(&recipe, &batches));
        OK(mh_recipe_resolve(&recipe, batches));
        mh_batches_get(batches, 3, token[i], target, NULL);
        mh_batches_close(batches);
        assert_int_equal(recipe.train.data_seed, i < 2 ? 9 : 2);
    }
    assert_memory_equal(token[0], token[1], sizeof token[0]);
    assert_memory_not_equal(token[0], token[2], sizeof token[0]);
}

static const json_t *model_of(const json_t *result, int index)
{
    return json_array_get(json_object_get(result, "models"), (size_t)index);
}

/* The loss whose perplexity is that of `loss` and `more`. */
static double log_of_sum(double loss, double more)
{
    return log(exp(loss) + more);
}

/* A finished run with this log. */
static void hand_made_run(mh_compare_run *run, int arm, int seed, double *loss, const char *log)
{
    char name[32];
    snprintf(name, sizeof name, "hand/%d/seed-%d", arm, seed);
    *run = (mh_compare_run){.arm = arm, .seed = seed, .state = MH_RUN_FINISHED, .loss = loss};
    snprintf(run->folder, sizeof run->folder, "%s", at(name));
    OK(mh_make_dirs(run->folder));
    char path[MH_PATH];
    OK(mh_path_join(path, run->folder, "metrics.jsonl"));
    OK(mh_file_write(path, log, strlen(log)));
}

/* Two models, two seeds, and logs whose means are known. */
static void results_are_what_the_logs_say(void **state)
{
    (void)state;
    static const char *const log[4] = {
        "{\"step\":0,\"valid_loss\":6}\n{\"step\":10,\"loss\":5}\n{\"step\":100,\"valid_loss\":3.5}\n"
        "{\"step\":200,\"valid_loss\":3.25}\n",
        "{\"step\":0,\"valid_loss\":6}\n{\"step\":100,\"valid_loss\":3}\n{\"step\":200,\"valid_loss\":2.75}"
        "\n",
        "{\"step\":0,\"valid_loss\":6}\n{\"step\":100,\"valid_loss\":3.5}\n{\"step\":150,\"valid_loss\":9}\n"
        "{\"step\":200,\"valid_loss\":7}\n{\"step\":200,\"valid_loss\":3.25}\n",
        "{\"step\":0,\"valid_loss\":6}\n{\"step\":100,\"valid_loss\":3}\n{\"step\":200,\"valid_loss\":2.25}\n"
        "{\"step\":300,\"valid_lo"};
    double loss[4] = {3.25, 2.75, 3.25, 2.25};
    mh_arm arm[2] = {
        {.name = "base", .tokens = 10, .update_seconds = 0.5, .flops = {.forward = 1e9, .training = 3e9}},
        {.name = "other", .tokens = 10, .update_seconds = 2, .flops = {.forward = 2e9, .training = 6e9}}};
    mh_compare_set set = {.name = "valid"};
    mh_compare_run run[4];
    mh_comparison c = {.arm = arm, .set = &set, .run = run, .arms = 2, .sets = 1, .runs = 4};
    c.recipe.compare.seeds = 2;
    arm[0].recipe.train.steps = arm[1].recipe.train.steps = 200;
    for (int i = 0; i < 4; i++)
        hand_made_run(&run[i], i % 2, 1 + i / 2, &loss[i], log[i]);
    snprintf(c.folder, sizeof c.folder, "%s", at("hand"));
    json_t *result;
    OK(mh_compare_results(&c, &result));
    assert_true(json_number_value(json_object_get(result, "baseline_loss")) == 3.25);
    /* other: 6, 3, 2.5: at 3.25 between steps 0 and 100, eleven twelfths of the way down */
    const json_t *reached = json_object_get(model_of(result, 1), "to_baseline_loss");
    double updates = 100 * 2.75 / 3;
    assert_true(fabs(json_number_value(json_object_get(reached, "updates")) - updates) < 1e-9);
    assert_true(fabs(json_number_value(json_object_get(reached, "seconds")) - 2 * updates) < 1e-9);
    assert_true(fabs(json_number_value(json_object_get(reached, "flops")) / (6e10 * updates) - 1) < 1e-12);
    assert_true(json_number_value(json_object_get(json_object_get(model_of(result, 0), "to_baseline_loss"),
                                                  "updates")) == 200);
    assert_true(json_is_true(json_object_get(model_of(result, 0), "causal")));
    json_decref(result);

    /* The other way round the loss is not reached; a run that failed takes its pair with it. */
    c.baseline = 1;
    arm[1].recipe.model.moe = (mh_moe_config){.experts = 4, .capacity_factor = 1};
    run[3].state = MH_RUN_FAILED;
    strcpy(run[3].message, "it had to");
    OK(mh_compare_results(&c, &result));
    assert_true(json_number_value(json_object_get(result, "baseline_loss")) == 2.75);
    assert_true(
        json_is_false(json_object_get(json_object_get(model_of(result, 0), "to_baseline_loss"), "reached")));
    mh_text text = {0};
    OK(mh_compare_markdown(result, &text));
    static const char *const sentences[] = {"| not reached | not reached |",
                                            "* base: perplexity higher by 10.15",
                                            " \u2020 | - | ",
                                            "* \u2020 other has a moe.capacity_factor",
                                            "in one pair of runs, which gives no interval",
                                            "* base spends 0.50 times the FLOPs of other",
                                            "* other, seed 2, failed and is in no figure: it had to."};
    for (size_t i = 0; i < sizeof sentences / sizeof *sentences; i++)
        if (strstr(text.data, sentences[i]) == NULL)
            fail_msg("no \"%s\" in:\n%s", sentences[i], text.data);
    mh_text_release(&text);
    json_decref(result);

    /* Differences of 10 and of 0.1 are noise, of 10 and 10 are not. */
    run[3].state = MH_RUN_FINISHED;
    loss[0] = log_of_sum(loss[1], 10);
    loss[2] = log_of_sum(loss[3], 0.1);
    OK(mh_compare_results(&c, &result));
    OK(mh_compare_markdown(result, &text));
    assert_non_null(strstr(text.data,
                           "* base: its difference from other on valid, +5.05, is inside the noise: the "
                           "interval -57.85 to +67.95 contains 0."));
    mh_text_release(&text);
    json_decref(result);
    loss[2] = log_of_sum(loss[3], 10.02);
    OK(mh_compare_results(&c, &result));
    OK(mh_compare_markdown(result, &text));
    assert_non_null(strstr(text.data, "* base: perplexity higher by 10.01 than other's on valid"));
    mh_text_release(&text);
    json_decref(result);
}

/* Stops once it has seen so many updates. */
typedef struct {
    int updates, stop_at, finished, failed;
    volatile int stop;
} compare_watcher;

static void count_update(void *context, const mh_comparison *comparison, const mh_train_log *log)
{
    (void)comparison, (void)log;
    compare_watcher *w = context;
    w->stop = ++w->updates == w->stop_at;
}

static void count_run(void *context, const mh_comparison *comparison, const mh_compare_run *run)
{
    (void)comparison;
    compare_watcher *w = context;
    w->finished += run->state == MH_RUN_FINISHED;
    w->failed += run->state == MH_RUN_FAILED;
}

static mh_status compare(mh_recipe recipe, bool resume, compare_watcher *w, json_t **result)
{
    mh_compare_watch watch = {.context = w, .step = count_update, .run = count_run, .stop = &w->stop};
    return mh_compare(&recipe, resume, &watch, result);
}

static double final_loss(const json_t *model, int run)
{
    const json_t *runs = json_object_get(model, "runs");
    return json_number_value(
        json_object_get(json_object_get(json_array_get(runs, (size_t)run), "loss"), "valid"));
}

static void a_comparison_pairs_by_seed(void **state)
{
    (void)state;
    compare_watcher w = {0};
    json_t *result;
    OK(compare(comparison_recipe("compared", "dense,smoe-top1"), false, &w, &result));
    assert_int_equal(w.updates, 4 * 6);
    assert_int_equal(w.finished, 4);
    const json_t *dense = model_of(result, 0), *smoe = model_of(result, 1);
    double difference[2], value[2];
    for (int i = 0; i < 2; i++) {
        value[i] = exp(final_loss(smoe, i));
        difference[i] = value[i] - exp(final_loss(dense, i));
    }
    assert_true(value[0] != value[1]);
    const json_t *measure = json_object_get(json_object_get(smoe, "perplexity"), "valid");
    double low = json_number_value(json_object_get(measure, "low"));
    double high = json_number_value(json_object_get(measure, "high"));
    double middle = (difference[0] + difference[1]) / 2, half = 12.7062 * fabs(difference[0] - middle);
    assert_true(fabs(json_number_value(json_object_get(measure, "mean")) - (value[0] + value[1]) / 2) < 1e-9);
    assert_true(fabs((low + high) / 2 - middle) < 1e-9);
    assert_true(fabs((high - low) / 2 - half) < 1e-4 * half);
    assert_true(json_is_boolean(json_object_get(measure, "inside_noise")));
    assert_true(json_is_true(json_object_get(measure, "inside_noise")) == (low <= 0 && high >= 0));

    /* The loss that others are to reach is the baseline's own: it gets there with its last update at the
     * latest. */
    double target = json_number_value(json_object_get(result, "baseline_loss"));
    assert_true(fabs(target - (final_loss(dense, 0) + final_loss(dense, 1)) / 2) < 1e-12);
    const json_t *reached = json_object_get(dense, "to_baseline_loss");
    assert_true(json_is_true(json_object_get(reached, "reached")));
    assert_true(json_number_value(json_object_get(reached, "updates")) <= 6);
    json_decref(result);

    /* Runs are what `mhmoe train` makes of their recipes. */
    mh_recipe alone;
    OK(mh_recipe_read(&alone, at("compared/smoe-top1/seed-2/recipe.yaml"), NULL, 0));
    assert_int_equal(alone.train.seed, 2);
    assert_int_equal(alone.train.data_seed, 1);
    snprintf(alone.train.run, sizeof alone.train.run, "%s", at("alone"));
    run_new(alone);
    same_checkpoint("compared/smoe-top1/seed-2", "alone", 6);
    FAILS(MH_ESTATE, "this is the folder of a single run",
          compare(comparison_recipe("alone", "dense"), true, &w, &result));
    FAILS(MH_ESTATE, "is in this folder already",
          compare(comparison_recipe("compared", "dense"), false, &w, &result));
    snprintf(alone.train.run, sizeof alone.train.run, "%s", at("compared"));
    FAILS(MH_ESTATE, "a comparison is in this folder",
          mh_train(&alone, MH_TRAIN_NEW, NULL, &(mh_train_watch){0}));
}

static void a_stopped_comparison_goes_on(void **state)
{
    (void)state;
    json_t *result;
    compare_watcher first = {.stop_at = 15}, rest = {0};
    mh_recipe recipe = comparison_recipe("interrupted", "dense,smoe-top1");
    FAILS(MH_EINTERRUPTED, "dense, seed 2: stopped after step 3 of 6",
          compare(recipe, false, &first, &result));
    assert_non_null(result);
    assert_int_equal(json_integer_value(json_object_get(result, "finished")), 2);
    json_decref(result);
    OK(compare(recipe, true, &rest, &result));
    assert_int_equal(rest.updates, 24 - 15);
    json_decref(result);
    same_checkpoint("compared/smoe-top1/seed-2", "interrupted/smoe-top1/seed-2", 6);
    same_checkpoint("compared/dense/seed-2", "interrupted/dense/seed-2", 6);

    /* A finished run is taken from its result, and not made again. */
    rest = (compare_watcher){0};
    OK(mh_remove_tree(at("interrupted/dense/seed-1/checkpoints")));
    OK(compare(recipe, true, &rest, &result));
    assert_int_equal(rest.updates, 0);
    json_decref(result);

    /* It is of these settings alone, and what was refused is not remembered. */
    mh_recipe other = recipe;
    set(&other, "compare.budget=steps=7");
    FAILS(MH_EMISMATCH, "train.steps may not change", compare(other, true, &rest, &result));
    other = recipe;
    set(&other, "compare.seeds=1");
    FAILS(MH_EMISMATCH, "dense/seed-2 is a run of this comparison that is asked for no more",
          compare(other, true, &rest, &result));
    other = recipe;
    set(&other, "compare.models=smoe-top1");
    FAILS(MH_EMISMATCH, "dense/seed-1 is a run of this comparison that is asked for no more",
          compare(other, true, &rest, &result));
    OK(mh_recipe_read(&other, at("interrupted/recipe.yaml"), NULL, 0));
    assert_string_equal(other.compare.budget, "");
    OK(compare(other, true, &rest, &result));
    assert_int_equal(rest.updates, 0);
    json_decref(result);
}

static void unfit_texts_are_found_before_training(void **state)
{
    (void)state;
    json_t *result;
    compare_watcher w = {0};
    char valid[2 * MH_PATH];
    mh_recipe recipe = comparison_recipe("unfit", "dense");
    OK(mh_file_write(at("unfit.txt"), "\xfd\xfc\xfb", 3));
    snprintf(valid, sizeof valid, "compare.valid=x=%s", at("unfit.txt"));
    set(&recipe, valid);
    FAILS(MH_EFORMAT, "are not valid UTF-8", compare(recipe, false, &w, &result));
    assert_int_equal(w.updates, 0);
    assert_false(mh_path_exists(at("unfit")));
}

static void a_model_that_fails_leaves_the_others(void **state)
{
    (void)state;
    json_t *result;
    compare_watcher w = {0};
    mh_recipe recipe = comparison_recipe(
        "failing",
        "dense, wild=smoe-top1 train.rate=10 train.min_rate=10 train.clip=0 train.decay=10,mhmoe-h2");
    set(&recipe, "train.steps=40");
    set(&recipe, "train.eval_every=0");
    set(&recipe, "compare.seeds=1");
    OK(compare(recipe, false, &w, &result));
    assert_int_equal(w.finished, 2);
    assert_int_equal(w.failed, 1);
    assert_int_equal(json_integer_value(json_object_get(result, "failed")), 1);
    mh_text text = {0};
    OK(mh_compare_markdown(result, &text));
    assert_non_null(strstr(text.data, "wild, seed 1, failed and is in no figure: step "));
    assert_non_null(strstr(text.data, "One seed gives no interval"));
    assert_non_null(strstr(text.data, "mhmoe-h2: perplexity"));
    mh_text_release(&text);
    json_decref(result);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(recipe_errors_are_sentences),
        cmocka_unit_test(recipe_takes_names_and_vocabulary),
        cmocka_unit_test(identity_ignores_what_may_change),
        cmocka_unit_test(schedules_pass_through_their_points),
        cmocka_unit_test(adamw_agrees_with_double_precision),
        cmocka_unit_test(decay_shrinks_flagged_parameters_only),
        cmocka_unit_test(a_gradient_that_is_not_finite_changes_nothing),
        cmocka_unit_test(metrics_go_on_after_a_kill),
        cmocka_unit_test(event_files_have_the_format),
        cmocka_unit_test(stop_and_resume_equals_uninterrupted), /* its "whole" is what others compare with */
        cmocka_unit_test(stop_in_an_evaluation_and_resume),
        cmocka_unit_test(a_run_tells_its_own_memory),
        cmocka_unit_test(a_run_without_checkpoint_begins_anew),
        cmocka_unit_test(what_may_change_on_resume),
        cmocka_unit_test(data_that_is_rebuilt_is_noticed),
        cmocka_unit_test(a_step_has_one_folder),
        cmocka_unit_test(damaged_checkpoints_are_passed_over),
        cmocka_unit_test(retention_keeps_the_newest),
        cmocka_unit_test(a_run_folder_has_one_trainer),
        cmocka_unit_test(nothing_half_written_on_a_full_disk),
        cmocka_unit_test(a_loss_that_is_no_number_stops_the_run),
        cmocka_unit_test(weights_of_another_model_are_refused),
        cmocka_unit_test(too_little_memory_is_known_before),
        cmocka_unit_test(memory_estimate_is_the_sum_of_the_parts),
        cmocka_unit_test(micro_batches_add_up),
        cmocka_unit_test(any_number_of_threads_gives_the_same_bytes),
        cmocka_unit_test(a_tiny_corpus_is_learnt_by_heart),
        cmocka_unit_test(models_of_a_comparison_are_refused_by_name),
        cmocka_unit_test(models_take_settings_of_their_own),
        cmocka_unit_test(recipes_for_comparisons_have_models),
        cmocka_unit_test(budgets_buy_updates),
        cmocka_unit_test(seeds_of_weights_and_data_are_apart),
        cmocka_unit_test(results_are_what_the_logs_say),
        cmocka_unit_test(a_comparison_pairs_by_seed), /* its runs are what the next compares with */
        cmocka_unit_test(a_stopped_comparison_goes_on),
        cmocka_unit_test(unfit_texts_are_found_before_training),
        cmocka_unit_test(a_model_that_fails_leaves_the_others),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
