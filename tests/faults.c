/* faults: what is left of a process when memory is refused, and of a folder when the disk is. */
#include "faults/faults.h"
#include "kernel/kernel.h"
#include "report/report.h"
#include "settings.h"
#include "tiny.h"

#include <errno.h>
#include <omp.h>
#include <unistd.h>

/* A data folder out of corpus.txt. */
static mh_status build(const char *output)
{
    const char *input = tiny_path("corpus.txt");
    mh_build how = {.tokenizer = tiny_path("tiny.model"),
                    .inputs = &input,
                    .input_count = 1,
                    .output = tiny_path(output),
                    .valid_fraction = 0.3};
    return mh_data_build(&how, NULL, NULL);
}

static int setup(void **state)
{
    tiny_setup(state);
    mh_text text, more = {0};
    OK(mh_file_read(tiny_path("text.txt"), 1 << 20, &text));
    for (int i = 0; i < 8; i++)
        OK(mh_text_add(&more, text.data, text.length));
    OK(mh_file_write(tiny_path("corpus.txt"), more.data, more.length));
    mh_text_release(&text);
    mh_text_release(&more);
    OK(build("data"));
    static const char questions[] =
        "{\"query\": \"The fox\", \"choices\": [\"jumps\", \"sang\"], \"gold\": 0}\n";
    OK(mh_file_write(tiny_path("questions.jsonl"), questions, sizeof questions - 1));
    return 0;
}

/* A run of four updates, with all that is random or has a state. */
static mh_recipe recipe_of(const char *run, const char *setting)
{
    const char *settings[] = {TINY_SETTINGS,
                              "model.dim=16",
                              "model.context=16",
                              "train.steps=4",
                              "train.warmup=1",
                              "train.log_every=2",
                              "train.eval_every=2",
                              "train.eval_sequences=2",
                              "train.checkpoint_every=2",
                              "train.keep=2",
                              setting};
    mh_recipe recipe;
    OK(mh_recipe_read(&recipe, NULL, settings, sizeof settings / sizeof *settings));
    snprintf(recipe.data.train, sizeof recipe.data.train, "%s", tiny_path("data"));
    snprintf(recipe.train.run, sizeof recipe.train.run, "%s", tiny_path(run));
    return recipe;
}

/* ---- what allocates nothing ---------------------------------------------------------------------------- */

/* All of a step's work is done in memory made ready before. oneDNN cannot be kept from allocating: its f32
 * products take buffers for packed matrices, its primitives a table of their arguments at every call. */
static void expect_none(const int64_t count[FAULTS_CALLERS], const char *what)
{
    bool portable = mh_isa_now() == MH_ISA_PORTABLE;
    int64_t ours = count[FAULTS_OWN] + count[FAULTS_LIBRARY];
    if (ours > 0 || (portable && count[FAULTS_APART] > 0))
        fail_msg("%s: %lld allocations, and %lld of oneDNN", what, (long long)ours,
                 (long long)count[FAULTS_APART]);
}

static void a_training_step_allocates_nothing(void **state)
{
    (void)state;
    static const char *const precision[] = {"train.precision=f32", "train.precision=bf16"};
    enum { WARM = 4, COUNTED = 8 };
    for (int p = 0; p < 2; p++) {
        mh_recipe recipe = recipe_of("unused", precision[p]);
        mh_batches *batches;
        mh_step step;
        mh_update update;
        int64_t count[FAULTS_CALLERS];
        OK(mh_recipe_data(&recipe, &batches));
        OK(mh_recipe_resolve(&recipe, batches));
        OK(mh_step_init(&step, &recipe, tiny_tokenizer));
        OK(mh_train_weights(step.model, &recipe, NULL));
        for (int i = 1; i <= WARM; i++)
            OK(mh_step_next(&step, batches, &update));
        faults_memory_begin(FAULTS_OWN, 0);
        for (int i = WARM + 1; i <= WARM + COUNTED; i++)
            OK(mh_step_next(&step, batches, &update));
        faults_memory_end(count);
        expect_none(count, precision[p]);
        mh_step_release(&step);
        mh_batches_close(batches);
    }
}

static void a_decoding_step_allocates_nothing(void **state)
{
    (void)state;
    mh_config config = tiny_config(32, 4);
    for (int p = 0; p < 2; p++) {
        mh_model *model = tiny_model(&config, (mh_precision)p, 1);
        mh_session *session;
        int32_t token[32];
        int64_t count[FAULTS_CALLERS];
        mh_candidate work[TINY_VOCAB];
        const mh_sampler sampler = {.temperature = 1, .top_k = 40, .top_p = 0.9};
        tiny_tokens(token, 32, 1);
        OK(mh_session_create(&session, model));
        OK(mh_session_sync(session, token, 8));
        OK(mh_session_sync(session, token, 9));
        faults_memory_begin(FAULTS_OWN, 0);
        for (int i = 10; i <= 32; i++) {
            OK(mh_session_sync(session, token, i));
            mh_sample(&sampler, (uint64_t)i, mh_session_logits(session), TINY_VOCAB, work);
        }
        faults_memory_end(count);
        expect_none(count, p == MH_PRECISION_F32 ? "f32" : "bf16");
        mh_session_free(session);
        mh_model_free(model);
    }
}

/* ---- memory that is refused ---------------------------------------------------------------------------- */

/* A call with all that belongs to it. It adds what it made to `made`: a call that succeeds in spite of a
 * refused allocation must have made the same. `prepare` puts its folders in order before each try. */
typedef struct {
    const char *name;
    mh_status (*call)(mh_text *made);
    const char *prepare; /* for the shell, in the tests' folder */
    const char *output;  /* the one file that it writes */
    /* Only this program's own allocations are refused: it reads text, and glibc's fts_open uses what it was
     * refused, or JSON, and jansson's reader then leaves out characters or aborts. */
    bool own;
} faulty;

static mh_status add_file(mh_text *made, const char *name)
{
    mh_text file = {0};
    mh_status status = mh_file_read(tiny_path(name), 1 << 26, &file);
    if (status == MH_OK)
        status = mh_text_add(made, file.data, file.length);
    mh_text_release(&file);
    return status;
}

static mh_status add_json(mh_text *made, json_t *json)
{
    mh_status status = mh_json_dump(json, false, made);
    json_decref(json);
    return status;
}

static mh_status encode_and_decode(mh_text *made)
{
    static const char text[] = "The fox sang \xc3\xa9t\xc3\xa9 at night.";
    mh_ids ids = {0};
    mh_status status = mh_ids_add(&ids, (const int32_t[]){1, 2}, 2);
    if (status == MH_OK)
        status = mh_tokenizer_encode(tiny_tokenizer, text, sizeof text - 1, &ids);
    for (int64_t i = 2; i < ids.count && status == MH_OK; i++)
        status = mh_tokenizer_piece(tiny_tokenizer, ids.id[i], made);
    if (status == MH_OK)
        status = mh_tokenizer_decode(tiny_tokenizer, ids.id, ids.count, made);
    mh_ids_release(&ids);
    return status;
}

static mh_status load_tokenizer(mh_text *made)
{
    mh_tokenizer *tokenizer;
    MH_TRY(mh_tokenizer_load(&tokenizer, tiny_path("tiny.model")));
    mh_status status =
        mh_text_printf(made, "%d %s", mh_tokenizer_vocab(tokenizer), mh_tokenizer_hash(tokenizer));
    mh_tokenizer_free(tokenizer);
    return status;
}

static mh_status train_tokenizer(mh_text *made)
{
    const char *input = tiny_path("text.txt");
    mh_tokenizer_training training = {
        .inputs = &input, .input_count = 1, .vocab = TINY_VOCAB, .sample_bytes = 1 << 20};
    MH_TRY(mh_tokenizer_train(&training, tiny_path("new.model"), NULL, NULL));
    return add_file(made, "new.model");
}

static bool tell(void *context, const char *text, size_t length)
{
    return mh_text_add(context, text, length) == MH_OK;
}

static mh_status load_and_generate(mh_text *made)
{
    mh_model *model = NULL;
    mh_tokenizer *tokenizer = NULL;
    mh_session *session = NULL;
    mh_generation how = {.prompt = "The fox", .max_tokens = 6, .sampler = {.temperature = 1, .top_p = 0.9}};
    mh_generated result;
    mh_status status = mh_model_load(&model, &tokenizer, tiny_path("whole"), MH_PRECISION_F32);
    if (status == MH_OK)
        status = mh_session_create(&session, model);
    if (status == MH_OK)
        status = mh_generate(session, tokenizer, &how, tell, made, &result);
    if (status == MH_OK && strcmp(result.reason, "interrupted") == 0) /* by us, who had no memory */
        status = MH_EMEMORY;
    mh_session_free(session);
    mh_tokenizer_free(tokenizer);
    mh_model_free(model);
    return status;
}

/* A model of llama2.c's: dim 8, hidden 12, 1 layer, 2 heads, 1 kv head, the tiny vocabulary, context 4. */
static mh_status import(mh_text *made)
{
    static const int32_t header[7] = {8, 12, 1, 2, 1, TINY_VOCAB, 4};
    static float data[7 + TINY_VOCAB * 8 + 8 + 64 + 32 + 32 + 64 + 8 + 3 * 96 + 8 + 4 * 4];
    memcpy(data, header, sizeof header);
    if (!mh_path_exists(tiny_path("model.bin")))
        MH_TRY(mh_file_write(tiny_path("model.bin"), data, sizeof data));
    mh_status status =
        mh_import_llama2c(tiny_path("model.bin"), tiny_path("tiny.model"), tiny_path("imported"));
    if (status == MH_ESTATE) /* as in build_data */
        assert_non_null(strstr(mh_message(), "imported exists already"));
    else
        MH_TRY(status);
    return add_file(made, "imported/model.safetensors");
}

static mh_status read_recipe(mh_text *made)
{
    mh_recipe recipe;
    char identity[17];
    MH_TRY(mh_recipe_read(&recipe, tiny_path("whole/recipe.yaml"), (const char *[]){"train.steps=7"}, 1));
    MH_TRY(mh_recipe_resolve(&recipe, NULL));
    MH_TRY(mh_recipe_identity(&recipe, identity));
    MH_TRY(mh_text_printf(made, "%s", identity));
    MH_TRY(mh_options_write_yaml(&mh_recipe_options, &recipe, made));
    return mh_options_help(&mh_recipe_options, made);
}

static mh_status open_batches(mh_text *made)
{
    mh_batches *batches;
    char folders[2 * MH_PATH];
    snprintf(folders, sizeof folders, "%s=0.7, %s=0.3", tiny_path("data"), tiny_path("data"));
    MH_TRY(mh_batches_open(&batches, folders, "train", 16, 1, mh_tokenizer_hash(tiny_tokenizer)));
    int32_t token[16], target[16];
    mh_batches_get(batches, 5, token, target, NULL);
    mh_batches_close(batches);
    return mh_text_add(made, token, sizeof token);
}

static mh_status build_fresh(mh_text *made)
{
    (void)made;
    return build("fresh");
}

static mh_status build_data(mh_text *made)
{
    mh_status status = build("built");
    if (status == MH_ESTATE) /* one that could not be synced at last is there, and whole */
        assert_non_null(strstr(mh_message(), "built exists already"));
    else
        MH_TRY(status);
    MH_TRY(add_file(made, "built/train.tokens"));
    return add_file(made, "built/data.json");
}

/* What a fault leaves is never taken for a checkpoint. */
static void nothing_is_damaged(void *context, const char *sentence)
{
    (void)context;
    if (strstr(sentence, "passed over"))
        fail_msg("%s", sentence);
}

static mh_status train(mh_text *made, const char *run, mh_train_mode mode)
{
    static const char *const files[] = {"model.safetensors", "optimizer.safetensors", "config.json",
                                        "trainer_state.json", "README.md"};
    mh_recipe recipe = recipe_of(run, "train.precision=f32");
    MH_TRY(mh_train(&recipe, mode, NULL, &(mh_train_watch){.message = nothing_is_damaged}));
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char path[MH_PATH];
        snprintf(path, sizeof path, "%s/checkpoints/step-000004/%s", run, files[i]);
        MH_TRY(add_file(made, path));
    }
    return MH_OK;
}

/* As the sentence of a run that failed says. */
static mh_status begin_or_resume(mh_text *made)
{
    bool exists;
    MH_TRY(mh_state_exists(tiny_path("run"), &exists));
    return train(made, "run", exists ? MH_TRAIN_RESUME : MH_TRAIN_NEW);
}

static mh_status rehearse(mh_text *made)
{
    mh_recipe recipe = recipe_of("run", "train.precision=f32");
    mh_rehearsal rehearsal;
    MH_TRY(mh_train_rehearse(&recipe, NULL, NULL, &rehearsal));
    return mh_text_printf(made, "%lld", (long long)rehearsal.facts.memory);
}

static mh_status compare(mh_text *made)
{
    static const char *const settings[] = {"compare.seeds=1",        "compare.models=plain=dense, smoe-top1",
                                           "moe.baseline_experts=2", "moe.heads=0",
                                           "moe.experts=0",          "moe.top_k=0",
                                           "moe.ffn_dim=0",          "moe.second_expert=all"};
    mh_recipe recipe = recipe_of("unused", "model.ffn_dim=16");
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++)
        MH_TRY(mh_options_assign(&mh_recipe_options, &recipe, settings[i], "settings"));
    snprintf(recipe.compare.output, sizeof recipe.compare.output, "%s", tiny_path("comparison"));
    json_t *result;
    bool begun = mh_path_exists(tiny_path("comparison/recipe.yaml"));
    mh_status status = mh_compare(&recipe, begun, &(mh_compare_watch){0}, &result);
    if (status == MH_OK && json_integer_value(json_object_get(result, "failed")) > 0)
        status = MH_EMEMORY; /* of one model, which does not keep the others from being trained */
    json_decref(result);
    return status == MH_OK ? add_file(made, "comparison/plain/seed-1/result.json") : status;
}

static mh_status measure_perplexity(mh_text *made)
{
    mh_model *model;
    mh_perplexity result;
    const char *input = tiny_path("text.txt");
    MH_TRY(mh_model_load(&model, NULL, tiny_path("whole"), MH_PRECISION_F32));
    mh_status status = mh_eval_perplexity(model, tiny_tokenizer, &input, 1, 0, NULL, &result);
    mh_model_free(model);
    return status == MH_OK ? mh_text_printf(made, "%a", result.nll) : status;
}

static mh_status answer_questions(mh_text *made)
{
    mh_items items = {0};
    mh_model *model = NULL;
    mh_task_result result;
    mh_writer log = {0};
    mh_status status = mh_task_load(&items, tiny_path("questions.jsonl"), &(mh_task_options){0});
    if (status == MH_OK)
        status = mh_model_load(&model, NULL, tiny_path("whole"), MH_PRECISION_F32);
    if (status == MH_OK)
        status = mh_task_score(model, tiny_tokenizer, &items, NULL, &result);
    if (status == MH_OK)
        status = mh_writer_open(&log, tiny_path("answers.jsonl"));
    if (status == MH_OK)
        status = mh_task_log(&items, &log);
    if (status == MH_OK)
        status = mh_writer_commit(&log);
    mh_writer_abort(&log);
    mh_items_release(&items);
    mh_model_free(model);
    return status == MH_OK ? add_file(made, "answers.jsonl") : status;
}

static mh_status analyse(mh_text *made)
{
    const char *checkpoint = tiny_path("whole"), *input = tiny_path("text.txt");
    mh_analysis analysis = {.checkpoints = &checkpoint,
                            .checkpoint_count = 1,
                            .inputs = &input,
                            .input_count = 1,
                            .label_by = MH_LABEL_FILE,
                            .threshold = -1,
                            .words = "fox,sea",
                            .tokens = 100};
    json_t *result;
    MH_TRY(mh_analyse(&analysis, NULL, &result));
    return add_json(made, result);
}

static mh_status verify(mh_text *made)
{
    mh_verify_result result;
    MH_TRY(mh_verify(TEST_GOLDEN "/layer_mhmoe_h2_top2.safetensors", MH_PRECISION_F32, &result));
    mh_status status = mh_text_printf(made, "%d %d", result.count, result.passed);
    mh_verify_release(&result);
    return status;
}

static mh_status write_report(mh_text *made)
{
    const char *run = tiny_path("whole");
    json_t *summary;
    MH_TRY(mh_report_write(tiny_path("report.html"), &run, 1, NULL, NULL, &summary));
    return add_json(made, summary);
}

static mh_status train_by_hand(mh_text *made)
{
    mh_recipe recipe = recipe_of("unused", "train.precision=f32");
    mh_trainer *trainer;
    mh_update update;
    int32_t token[4 * 16 + 1];
    tiny_tokens(token, 4 * 16 + 1, 1);
    MH_TRY(mh_trainer_create(&trainer, &recipe, tiny_tokenizer, NULL));
    mh_status status = mh_trainer_step(trainer, &(mh_batch){token, token + 1, NULL}, &update);
    if (status == MH_OK)
        status = mh_trainer_save(trainer, tiny_path("by-hand"));
    mh_trainer_free(trainer);
    if (status == MH_ESTATE) /* as in build_data */
        assert_non_null(strstr(mh_message(), "by-hand exists already"));
    else
        MH_TRY(status);
    return add_file(made, "by-hand/model.safetensors");
}

static mh_status create_layer(mh_text *made)
{
    mh_recipe *recipe;
    mh_layer *layer = NULL;
    MH_TRY(mh_recipe_load(&recipe, tiny_path("whole/recipe.yaml")));
    mh_status status = mh_recipe_set(recipe, "train.steps=7");
    if (status == MH_OK)
        status = mh_layer_create(&layer, recipe);
    if (status == MH_OK)
        status = mh_text_printf(made, "%lld", (long long)mh_layer_floats(layer));
    mh_layer_free(layer);
    mh_recipe_free(recipe);
    return status;
}

static const faulty calls[] = {
    {"mh_tokenizer_load", .call = load_tokenizer},
    {"mh_tokenizer_encode", .call = encode_and_decode},
    {"mh_generate", .call = load_and_generate, .own = true},
    {"mh_import_llama2c", .call = import, .prepare = "rm -rf imported"},
    {"mh_recipe_read", .call = read_recipe},
    {"mh_trainer_create", .call = train_by_hand, .prepare = "rm -rf by-hand", .own = true},
    {"mh_layer_create", .call = create_layer},
    {"mh_batches_open", .call = open_batches},
    {"mh_data_build", .call = build_data, .prepare = "rm -rf built", .own = true},
    {"mh_train", .call = begin_or_resume, .prepare = "rm -rf run", .own = true},
    {"mh_train, resumed", .call = begin_or_resume, .prepare = "rm -rf run && cp -r half run", .own = true},
    {"mh_train_rehearse", .call = rehearse, .prepare = "rm -rf run"},
    {"mh_compare", .call = compare, .prepare = "rm -rf comparison", .own = true},
    {"mh_eval_perplexity", .call = measure_perplexity, .own = true},
    {"mh_task_score", .call = answer_questions, .prepare = "rm -f answers.jsonl", .output = "answers.jsonl",
     .own = true},
    {"mh_analyse", .call = analyse, .own = true},
    {"mh_verify", .call = verify, .own = true},
    {"mh_report_write", .call = write_report, .prepare = "rm -f report.html", .output = "report.html",
     .own = true},
    {"mh_tokenizer_train", .call = train_tokenizer, .prepare = "rm -f new.model", .output = "new.model",
     .own = true},
};

static mh_status attempt(const faulty *f, faults_caller caller, int64_t refused, mh_text *made,
                         int64_t count[FAULTS_CALLERS], int64_t *leaked)
{
    char command[MH_PATH];
    snprintf(command, sizeof command, "cd %s && %s", tiny_folder, f->prepare ? f->prepare : ":");
    assert_int_equal(system(command), 0);
    OK(mh_text_add(made, "", 0)); /* once it has a block, that one only grows */
    made->length = 0;
    int64_t before = faults_memory_live();
    faults_memory_begin(caller, refused);
    mh_status status = f->call(made);
    faults_memory_end(count);
    *leaked = faults_memory_live() - before;
    return status;
}

/* The report is made of what can be read, and says what could not. */
static bool acceptable(mh_status status, const mh_text *made, const mh_text *should)
{
    if (status != MH_OK)
        return status == MH_EMEMORY && mh_message()[0] != '\0';
    return (made->length == should->length && memcmp(made->data, should->data, made->length) == 0) ||
           strstr(made->data, "the system refused") != NULL;
}

/* Every call with its first, second, third ... allocation refused. There are thousands, so that without
 * FAULTS_ALL in the environment only some of them are tried, others in each of `calls`. */
static void refused_memory_is_told(void **state)
{
    (void)state;
    enum { TRIES = 12 };
    long long tries = 0;
    for (size_t c = 0; c < sizeof calls / sizeof *calls; c++) {
        const faulty *f = &calls[c];
        mh_text should = {0}, made = {0};
        int64_t total[FAULTS_CALLERS], count[FAULTS_CALLERS], leaked;
        for (int i = 0; i < 2; i++) /* the first fills what libraries keep */
            OK(attempt(f, FAULTS_OWN, 0, &should, total, &leaked));
        assert_int_equal(leaked, 0);
        for (faults_caller caller = FAULTS_OWN; caller <= (f->own ? FAULTS_OWN : FAULTS_LIBRARY); caller++) {
            int64_t stride = getenv("FAULTS_ALL") ? 1 : total[caller] / TRIES + 1;
            for (int64_t n = 1 + (int64_t)c % stride; n <= total[caller]; n += stride, tries++) {
                mh_status status = attempt(f, caller, n, &made, count, &leaked);
                if (!acceptable(status, &made, &should) || leaked != 0)
                    fail_msg(
                        "%s, allocation %lld of %lld by %s refused: status %d, %lld blocks leaked, \"%s\"",
                        f->name, (long long)n, (long long)total[caller],
                        caller == FAULTS_OWN ? "this program" : "a library", status, (long long)leaked,
                        mh_message());
            }
        }
        mh_text_release(&should);
        mh_text_release(&made);
    }
    print_message("%lld allocations were refused\n", tries);
    assert_true(tries > 10 * (long long)(sizeof calls / sizeof *calls)); /* else nothing was intercepted */
}

/* ---- a disk that refuses ------------------------------------------------------------------------------- */

/* The file that a call writes; empty where there is none. */
static void read_output(const faulty *f, mh_text *file)
{
    file->length = 0;
    if (f->output != NULL && mh_path_exists(tiny_path(f->output)))
        OK(mh_file_read(tiny_path(f->output), 1 << 26, file));
}

/* Every call that changes something on disk fails, one after the other: with a sentence that tells why, or
 * without harm; and the same command again then makes what it should. */
static void refused_writes_are_told(void **state)
{
    (void)state;
    static const int errors[] = {ENOSPC, EROFS, EACCES, EIO, EFBIG};
    enum { TRIES = 25, ERRORS = sizeof errors / sizeof *errors };
    long long tries = 0;
    for (size_t c = 0; c < sizeof calls / sizeof *calls; c++) {
        const faulty *f = &calls[c];
        mh_text should = {0}, made = {0}, whole = {0};
        int64_t count[FAULTS_CALLERS], leaked;
        faults_files_begin(0, 0);
        OK(attempt(f, FAULTS_OWN, 0, &should, count, &leaked));
        read_output(f, &whole);
        int64_t total = faults_files_end(), stride = getenv("FAULTS_ALL") ? 1 : total / TRIES + 1;
        for (int64_t n = 1 + (int64_t)c % stride; n <= total; n += stride, tries++) {
            int error = errors[n % ERRORS];
            faults_files_begin(n, error);
            mh_status status = attempt(f, FAULTS_OWN, 0, &made, count, &leaked);
            faults_files_end();
            bool told = status == MH_EIO && strstr(mh_message(), strerror(error)) != NULL;
            if ((status != MH_OK && !told) || leaked != 0)
                fail_msg("%s, write %lld of %lld: status %d, %lld blocks leaked, \"%s\" instead of \"%s\"",
                         f->name, (long long)n, (long long)total, status, (long long)leaked, mh_message(),
                         strerror(error));
            mh_text file = {0};
            read_output(f, &file);
            if (f->output != NULL && mh_path_exists(tiny_path(f->output)) &&
                (file.length != whole.length || memcmp(file.data, whole.data, file.length) != 0))
                fail_msg("%s after write %lld of %lld had failed has left a half %s", f->name, (long long)n,
                         (long long)total, f->output);
            mh_text_release(&file);
            made.length = status == MH_OK ? made.length : 0;
            if (status != MH_OK && f->call(&made) != MH_OK)
                fail_msg("%s after write %lld of %lld had failed: \"%s\"", f->name, (long long)n,
                         (long long)total, mh_message());
            if (made.length != should.length || memcmp(made.data, should.data, made.length) != 0)
                fail_msg("%s after write %lld of %lld had failed makes something else", f->name, (long long)n,
                         (long long)total);
        }
        mh_text_release(&should);
        mh_text_release(&whole);
        mh_text_release(&made);
    }
    print_message("%lld writes were refused\n", tries);
    assert_true(tries > 5 * (long long)(sizeof calls / sizeof *calls)); /* else nothing was intercepted */
}

/* ---- two processes ------------------------------------------------------------------------------------- */

/* The second is told who the first is. flock holds a file that was opened again, so this process is both. */
static void a_folder_has_one_process(void **state)
{
    (void)state;
    static const struct {
        const char *lock;
        mh_status (*call)(mh_text *made);
    } table[] = {
        {"run/lock", begin_or_resume}, {"comparison/lock", compare}, {"fresh.mhmoe-lock", build_fresh}};
    char host[64] = "", sentence[256];
    gethostname(host, sizeof host - 1);
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        mh_lock lock;
        mh_text made = {0};
        snprintf(sentence, sizeof sentence, "%s is held by process %ld on %s; wait for it to end, or stop it",
                 table[i].lock, (long)getpid(), host);
        OK(mh_make_dirs(tiny_path("run")));
        OK(mh_make_dirs(tiny_path("comparison")));
        OK(mh_lock_take(&lock, tiny_path(table[i].lock)));
        FAILS(MH_ESTATE, sentence, table[i].call(&made));
        mh_lock_remove(&lock);
        mh_text_release(&made);
    }
}

static void stop_it(void *context, const mh_train_log *log)
{
    *(volatile int *)context = log->step == 2;
}

/* One run that is through, and one that was stopped half way. */
static void runs(void **state)
{
    (void)state;
    volatile int stop = 0;
    mh_recipe recipe = recipe_of("whole", "train.precision=f32");
    OK(mh_train(&recipe, MH_TRAIN_NEW, NULL, &(mh_train_watch){0}));
    recipe = recipe_of("half", "train.precision=f32");
    mh_train_watch watch = {.context = (void *)&stop, .step = stop_it, .stop = &stop};
    FAILS(MH_EINTERRUPTED, "--resume", mh_train(&recipe, MH_TRAIN_NEW, NULL, &watch));
}

int main(int argc, char **argv)
{
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    omp_set_num_threads(1);
    /* oneDNN keeps what it has made, and gives way to other products, thus other bits, where it gets no
     * memory. */
    setenv("MHMOE_ISA", "portable", 0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_training_step_allocates_nothing),
        cmocka_unit_test(a_decoding_step_allocates_nothing),
        cmocka_unit_test(runs),
        cmocka_unit_test(refused_memory_is_told),
        cmocka_unit_test(refused_writes_are_told),
        cmocka_unit_test(a_folder_has_one_process),
    };
    return cmocka_run_group_tests(tests, setup, tiny_teardown);
}
