/* The trainer: everything that can fail is made ready, then the loop. */
#include "train/train.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

/* Sums over some updates. */
typedef struct {
    int64_t updates;
    double loss, balance, z_loss, grad_norm, seconds;
} window;

static void add(window *sum, const mh_update *update, double seconds)
{
    sum->updates++;
    sum->loss += update->loss;
    sum->balance += update->balance;
    sum->z_loss += update->z_loss;
    sum->grad_norm += update->grad_norm;
    sum->seconds += seconds;
}

typedef struct {
    mh_recipe *recipe;
    const mh_train_watch *watch;
    const char *run;
    mh_lock lock;
    bool begun;                  /* there is a checkpoint */
    bool made_folder, made_lock; /* by this call, which removes them where no run begins */
    mh_batches *train, *valid;
    mh_tokenizer *tokenizer;
    mh_step step;
    mh_trainer_state state;
    mh_metrics metrics;
    window since_line, since_start;
    mh_flops flops; /* of a token */
    int moe_layers;

    mh_arena memory;
    int64_t *moe_layer; /* [moe_layers] their numbers */
    mh_load *load;      /* [moe_layers] */
    int64_t *rows;      /* [moe_layers, experts] */
} trainer;

static void tell(const trainer *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void tell(const trainer *t, const char *format, ...)
{
    char sentence[2 * MH_PATH];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(sentence, sizeof sentence, format, arguments);
    va_end(arguments);
    if (t->watch->message)
        t->watch->message(t->watch->context, sentence);
}

/* ---- the log ------------------------------------------------------------------------------------------- */

/* The means since the last line; NaN where nothing was trained yet. */
static mh_train_log log_of(const trainer *t)
{
    const mh_train_config *c = &t->recipe->train;
    const window *w = &t->since_line;
    double n = (double)w->updates, tokens = n * (double)(c->batch * c->sequence);
    double pace = t->since_start.seconds / (double)t->since_start.updates;
    return (mh_train_log){.step = t->state.step,
                          .steps = c->steps,
                          .tokens = t->state.tokens,
                          .loss = w->loss / n,
                          .perplexity = exp(w->loss / n),
                          .balance = w->balance / n,
                          .z_loss = t->recipe->model.moe.z_weight > 0 ? w->z_loss / n : NAN,
                          .grad_norm = w->grad_norm / n,
                          .rate = mh_schedule_rate(c, t->state.step),
                          .tokens_per_second = tokens / w->seconds,
                          .flops_per_second = tokens / w->seconds * t->flops.training,
                          .memory = (double)mh_memory_peak(),
                          .seconds_left = (double)(c->steps - t->state.step) * pace,
                          .moe_layers = t->moe_layers,
                          .moe_layer = t->moe_layer,
                          .load = t->load,
                          .experts = (int)t->recipe->model.moe.experts,
                          .rows = t->rows};
}

static void measure_load(trainer *t)
{
    for (int i = 0; i < t->moe_layers; i++) {
        const mh_plan *plan = &mh_pass_ffn(t->step.pass, t->moe_layer[i])->plan;
        t->load[i] = mh_plan_load(plan);
        for (int e = 0; e < plan->experts; e++)
            t->rows[i * plan->experts + e] = plan->begin[e + 1] - plan->begin[e];
    }
}

/* A failure of the numbers, with the place of what is left. */
static mh_status where_good(const trainer *t, mh_status status)
{
    if (status == MH_OK)
        return MH_OK;
    if (!t->begun)
        return mh_fail(status, "%s; or begin with other weights, no update was made", mh_message());
    return mh_fail(status,
                   "%s. The last good checkpoint is kept in %s/checkpoints; another run starts from it by "
                   "mhmoe train --init-from",
                   mh_message(), t->run);
}

/* Where it is stopped the log is not validated, and the state has the evaluation still to come. */
static mh_status validate(trainer *t, mh_train_log *log)
{
    const mh_recipe *r = t->recipe;
    mh_progress progress = {t->watch->progress, t->watch->context, t->watch->stop};
    mh_perplexity result;
    t->state.valid_loss = t->state.valid_bits_per_byte = NAN;
    mh_status status = mh_eval_batches(t->step.model, t->step.pass, t->valid, r->train.eval_sequences,
                                       r->data.mask_documents, &progress, &result);
    if (status == MH_EINTERRUPTED)
        return MH_OK;
    MH_TRY(status);
    log->validated = true;
    log->valid_loss = result.nll / (double)result.tokens;
    log->valid_perplexity = result.perplexity;
    log->valid_bits_per_byte = result.bits_per_byte;
    MH_TRY(where_good(t, mh_step_check(&t->step, t->state.step, "the validation loss", log->valid_loss)));
    t->state.valid_loss = log->valid_loss;
    t->state.valid_bits_per_byte = log->valid_bits_per_byte;
    return MH_OK;
}

static mh_status write_line(trainer *t, const mh_train_log *log)
{
    MH_TRY(mh_metrics_add(&t->metrics, log));
    if (t->watch->log)
        t->watch->log(t->watch->context, log);
    t->since_line = (window){0};
    return MH_OK;
}

static mh_status report(trainer *t, bool evaluate)
{
    measure_load(t); /* before an evaluation, which routes its own rows through the same pass */
    mh_train_log log = log_of(t);
    if (evaluate)
        MH_TRY(validate(t, &log));
    return write_line(t, &log);
}

/* The log first: what it lacks, a run that goes on from the checkpoint does not add. */
static mh_status checkpoint(trainer *t)
{
    MH_TRY(mh_metrics_sync(&t->metrics));
    MH_TRY(mh_state_save(t->run, t->recipe, t->step.model, t->tokenizer, &t->step.optimizer, &t->state));
    MH_TRY(mh_state_prune(t->run, t->recipe->train.keep));
    tell(t, "checkpoint of step %lld written to %s/checkpoints", (long long)t->state.step, t->run);
    return MH_OK;
}

/* ---- the loop ------------------------------------------------------------------------------------------ */

static bool due(int64_t step, int64_t every)
{
    return every > 0 && step % every == 0;
}

static bool evaluation_due(const trainer *t)
{
    return t->state.step == t->recipe->train.steps || due(t->state.step, t->recipe->train.eval_every);
}

static bool owes_evaluation(const trainer *t)
{
    return evaluation_due(t) && isnan(t->state.valid_loss);
}

static bool stopped(const trainer *t)
{
    return t->watch->stop && *t->watch->stop;
}

/* Fails where the run was stopped with something left to do; its checkpoint is written. */
static mh_status check_stopped(const trainer *t)
{
    int64_t steps = t->recipe->train.steps;
    if (!stopped(t) || (t->state.step == steps && !owes_evaluation(t)))
        return MH_OK;
    return mh_fail(MH_EINTERRUPTED, "stopped after step %lld of %lld; nothing is lost: --resume goes on",
                   (long long)t->state.step, (long long)steps);
}

static mh_status update(trainer *t, int64_t step)
{
    const mh_train_config *c = &t->recipe->train;
    double started = mh_seconds();
    mh_update made;
    MH_TRY(where_good(t, mh_step_next(&t->step, t->train, &made)));
    double seconds = mh_seconds() - started;
    add(&t->since_line, &made, seconds);
    add(&t->since_start, &made, seconds);
    t->state.step = step;
    t->state.tokens = step * c->batch * c->sequence;
    t->state.loss = made.loss;
    if (t->watch->step) {
        mh_train_log log = log_of(t);
        t->watch->step(t->watch->context, &log);
    }
    return MH_OK;
}

static mh_status loop(trainer *t)
{
    const mh_train_config *c = &t->recipe->train;
    for (int64_t step = t->state.step + 1; step <= c->steps; step++) {
        MH_TRY(update(t, step));
        bool evaluate = evaluation_due(t);
        if (evaluate || due(step, c->log_every))
            MH_TRY(report(t, evaluate));
        bool stop = stopped(t); /* once: what stops after this has no checkpoint yet */
        if (step == c->steps || stop || due(step, c->checkpoint_every))
            MH_TRY(checkpoint(t));
        if (stop)
            MH_TRY(check_stopped(t));
    }
    return MH_OK;
}

/* ---- making ready -------------------------------------------------------------------------------------- */

/* The folder is locked before it is looked into. Without a checkpoint there is nothing to resume, and nothing
 * lost by a new run in its place. */
static mh_status enter_run(trainer *t, mh_train_mode mode)
{
    char lock[MH_PATH];
    MH_TRY(mh_path_join(lock, t->run, "lock"));
    t->made_folder = !mh_path_exists(t->run);
    t->made_lock = !mh_path_exists(lock);
    if (mode == MH_TRAIN_NEW)
        MH_TRY(mh_make_dirs(t->run));
    else if (!mh_path_is_dir(t->run))
        return mh_fail(MH_ESTATE, "%s: there is no such run folder to resume; start the run without --resume",
                       t->run);
    MH_TRY(mh_lock_take(&t->lock, lock));
    return mh_train_check_folder(t->run, mode == MH_TRAIN_RESUME);
}

static void layout(trainer *t, mh_arena *arena)
{
    const mh_config *c = &t->recipe->model;
    size_t layers = (size_t)c->layers;
    t->moe_layer = mh_take(arena, layers * sizeof *t->moe_layer);
    t->load = mh_take(arena, layers * sizeof *t->load);
    t->rows = mh_take(arena, layers * (size_t)c->moe.experts * sizeof *t->rows);
}

static mh_status create_model(trainer *t)
{
    const mh_recipe *r = t->recipe;
    MH_TRY(mh_step_init(&t->step, r, t->tokenizer));
    mh_arena count = {0};
    layout(t, &count);
    MH_TRY(mh_arena_init(&t->memory, count.used, "the log"));
    layout(t, &t->memory);
    for (int64_t i = 0; i < r->model.layers; i++)
        if (mh_config_is_moe(&r->model, i))
            t->moe_layer[t->moe_layers++] = i;
    t->flops = mh_count_flops(&r->model, r->train.sequence);
    return MH_OK;
}

static mh_status write_recipe(const trainer *t, const char *path)
{
    mh_text yaml = {0};
    mh_status status = mh_options_write_yaml(&mh_recipe_options, t->recipe, &yaml);
    if (status == MH_OK)
        status = mh_file_write(path, yaml.data, yaml.length);
    mh_text_release(&yaml);
    return status;
}

static void tell_facts(const trainer *t)
{
    mh_train_facts facts = mh_train_facts_of(t->recipe, t->train, t->valid);
    if (t->watch->facts)
        t->watch->facts(t->watch->context, t->recipe, &facts);
}

/* A run begins with a checkpoint: one that cannot be written is known now, and --resume always finds one. */
static mh_status begin(trainer *t, const char *recipe_path, const char *weights)
{
    MH_TRY(mh_train_weights(t->step.model, t->recipe, weights));
    tell_facts(t);
    mh_train_log log = log_of(t);
    if (t->recipe->train.eval_every > 0)
        MH_TRY(validate(t, &log));
    MH_TRY(write_recipe(t, recipe_path));
    MH_TRY(mh_metrics_open(&t->metrics, t->run, -1));
    if (log.validated)
        MH_TRY(write_line(t, &log));
    MH_TRY(checkpoint(t));
    t->begun = true;
    return MH_OK;
}

/* The evaluation that the run was stopped in, so that all is written as if it had not been. */
static mh_status make_up(trainer *t)
{
    mh_train_log log = log_of(t);
    MH_TRY(validate(t, &log));
    if (!log.validated)
        return MH_OK;
    MH_TRY(write_line(t, &log));
    return checkpoint(t);
}

static mh_status resume(trainer *t, const char *recipe_path)
{
    MH_TRY(mh_recipe_compare(t->recipe, recipe_path));
    char valid[sizeof t->state.valid];
    strcpy(valid, t->state.valid);
    mh_text skipped = {0};
    mh_status status = mh_state_load(t->run, t->step.model, &t->step.optimizer, &t->state, &skipped);
    if (status == MH_OK && skipped.length)
        tell(t, "%s", skipped.data);
    mh_text_release(&skipped);
    MH_TRY(status);
    t->begun = true;
    if (strcmp(t->state.valid, valid) != 0) { /* the last loss is one of other sequences */
        strcpy(t->state.valid, valid);
        t->state.valid_loss = t->state.valid_bits_per_byte = NAN;
    }
    tell(t, "resumed after step %lld", (long long)t->state.step);
    tell_facts(t);
    MH_TRY(write_recipe(t, recipe_path));
    MH_TRY(mh_metrics_open(&t->metrics, t->run, t->state.step));
    return owes_evaluation(t) ? make_up(t) : MH_OK;
}

static mh_status train(trainer *t, mh_train_mode mode, const char *weights)
{
    char recipe_path[MH_PATH];
    mh_memory_restart_peak(); /* what a comparison did before is not this run's */
    MH_TRY(mh_train_open(t->recipe, &t->train, &t->valid, &t->tokenizer));
    t->run = t->recipe->train.run;
    MH_TRY(mh_path_join(recipe_path, t->run, "recipe.yaml"));
    MH_TRY(mh_train_check_memory(t->recipe));
    MH_TRY(enter_run(t, mode));
    MH_TRY(create_model(t));
    MH_TRY(mh_recipe_identity(t->recipe, t->state.recipe));
    mh_recipe_data_identity(t->train, t->tokenizer, t->state.data);
    mh_recipe_valid_identity(t->recipe, t->valid, t->tokenizer, t->state.valid);
    MH_TRY(mode == MH_TRAIN_NEW ? begin(t, recipe_path, weights) : resume(t, recipe_path));
    MH_TRY(check_stopped(t));
    return loop(t);
}

/* A folder with a lock alone would pass for a run. */
static void leave_run(trainer *t)
{
    if (!t->begun && t->made_lock)
        mh_lock_remove(&t->lock);
    mh_lock_release(&t->lock);
    if (!t->begun && t->made_folder)
        rmdir(t->run); /* which keeps one that holds something */
}

mh_status mh_train(mh_recipe *recipe, mh_train_mode mode, const char *weights, const mh_train_watch *watch)
{
    trainer t = {.recipe = recipe,
                 .watch = watch,
                 .state = {.loss = NAN, .valid_loss = NAN, .valid_bits_per_byte = NAN},
                 .metrics = {.file = -1}};
    mh_status status = train(&t, mode, weights);
    mh_metrics_close(&t.metrics);
    mh_arena_release(&t.memory);
    mh_step_release(&t.step);
    mh_tokenizer_free(t.tokenizer);
    mh_batches_close(t.valid);
    mh_batches_close(t.train);
    leave_run(&t);
    return status;
}
