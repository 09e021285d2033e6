/* faults: what is left of a process when memory is refused, and of a folder when the disk is. */
#include "faults/faults.h"
#include "report/report.h"
#include "tiny.h"

#include <omp.h>

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
    const char *input = tiny_path("corpus.txt");
    mh_build build = {.tokenizer = tiny_path("tiny.model"),
                      .inputs = &input,
                      .input_count = 1,
                      .output = tiny_path("data"),
                      .valid_fraction = 0.3};
    OK(mh_data_build(&build, NULL, NULL));
    return 0;
}

/* A run of four updates, with all that is random or has a state. */
static mh_recipe recipe_of(const char *run, const char *setting)
{
    const char *settings[] = {"model.dim=16",        "model.layers=2",
                              "model.attention_heads=2", "model.context=16",
                              "model.dropout=0.1",   "moe.heads=2",
                              "moe.experts=4",       "moe.top_k=2",
                              "moe.ffn_dim=16",      "moe.score=sigmoid",
                              "moe.balance=bias",    "moe.second_expert=random",
                              "moe.jitter=0.1",      "data.mask_documents=true",
                              "train.steps=4",       "train.batch=4",
                              "train.micro_batch=2", "train.warmup=1",
                              "train.log_every=2",   "train.eval_every=2",
                              "train.eval_sequences=2", "train.checkpoint_every=2",
                              "train.keep=2",        setting};
    mh_recipe recipe;
    OK(mh_recipe_read(&recipe, NULL, settings, sizeof settings / sizeof *settings));
    snprintf(recipe.data.train, sizeof recipe.data.train, "%s", tiny_path("data"));
    snprintf(recipe.train.run, sizeof recipe.train.run, "%s", tiny_path(run));
    return recipe;
}

/* ---- what allocates nothing ---------------------------------------------------------------------------- */

static void a_training_step_allocates_nothing(void **state)
{
    (void)state;
    static const char *const precision[] = {"train.precision=f32", "train.precision=bf16"};
    enum { WARM = 4, COUNTED = 8 };
    for (int p = 0; p < 2; p++) {
        mh_recipe recipe = recipe_of("unused", precision[p]);
        mh_batches *batches;
        mh_model *model;
        mh_step step;
        mh_update update;
        OK(mh_recipe_data(&recipe, &batches));
        OK(mh_recipe_resolve(&recipe, batches));
        OK(mh_model_create(&model, &recipe.model, (mh_precision)p, true));
        mh_model_init(model, 1);
        OK(mh_step_init(&step, &recipe, model, batches));
        for (int i = 1; i <= WARM; i++)
            OK(mh_step_run(&step, i, &update));
        int64_t count[FAULTS_CALLERS];
        for (int i = WARM + 1; i <= WARM + COUNTED; i++) {
            faults_memory_begin(FAULTS_OWN, 0);
            OK(mh_step_run(&step, i, &update));
            faults_memory_end(count);
            print_message("%s own %lld library %lld onednn %lld\n", precision[p], (long long)count[0], (long long)count[1], (long long)count[2]);
        }
        mh_step_release(&step);
        mh_model_free(model);
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
        tiny_tokens(token, 32, 1);
        OK(mh_session_create(&session, model));
        OK(mh_session_sync(session, token, 8));
        OK(mh_session_sync(session, token, 9));
        int64_t count[FAULTS_CALLERS];
        for (int i = 10; i <= 32; i++) {
            faults_memory_begin(FAULTS_OWN, 0);
            OK(mh_session_sync(session, token, i));
            faults_memory_end(count);
            print_message("decode %d own %lld library %lld onednn %lld\n", p, (long long)count[0], (long long)count[1], (long long)count[2]);
        }
        mh_session_free(session);
        mh_model_free(model);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_training_step_allocates_nothing),
        cmocka_unit_test(a_decoding_step_allocates_nothing),
    };
    return cmocka_run_group_tests(tests, setup, tiny_teardown);
}
