/* What a run would be and take: all of it is made ready and a few updates are made, but nothing is written.
 */
#include "train/train.h"

#include <unistd.h>

/* Timed updates: enough for a median, or as many as these seconds have room for. */
#define UPDATES  9
#define PATIENCE 10.0

typedef struct {
    const mh_recipe *recipe;
    mh_batches *train, *valid;
    mh_tokenizer *tokenizer;
    mh_step step;
} rehearsal;

/* The first update is for caches and primitives to warm up, and does not count. */
static mh_status time_updates(rehearsal *s, const mh_progress *progress, double *seconds)
{
    double value[UPDATES], begun = mh_seconds();
    int count = 0;
    for (int64_t number = 1; count < UPDATES; number++) {
        mh_progress_report(progress, "timing", (double)count, UPDATES, NULL);
        if (mh_progress_stopped(progress))
            return mh_fail(MH_EINTERRUPTED, "stopped while updates were timed; nothing was written");
        double started = mh_seconds();
        mh_update made;
        MH_TRY(mh_step_next(&s->step, s->train, &made));
        if (number > 1)
            value[count++] = mh_seconds() - started;
        if (count > 0 && mh_seconds() - begun > PATIENCE)
            break;
    }
    *seconds = mh_spread_of(value, count).median;
    return MH_OK;
}

/* From one of the batches, of micro_batch sequences, that an evaluation goes through. */
static mh_status time_evaluation(const rehearsal *s, double *seconds)
{
    const mh_train_config *c = &s->recipe->train;
    mh_perplexity result;
    int64_t all = mh_batches_sequences(s->valid);
    int64_t sequences = c->eval_sequences > 0 && c->eval_sequences < all ? c->eval_sequences : all;
    int64_t timed = sequences < c->micro_batch ? sequences : c->micro_batch;
    MH_TRY(mh_eval_batches(s->step.model, s->step.pass, s->valid, timed, s->recipe->data.mask_documents,
                           &(mh_progress){0}, &result));
    *seconds = result.seconds * (double)sequences / (double)timed;
    return MH_OK;
}

/* How often something is done that is due every `every` updates and at the end (0: at the end alone). */
static int64_t times(int64_t steps, int64_t every)
{
    return every > 0 ? (steps + every - 1) / every : 1;
}

/* Weights and two moments, each a float; a checkpoint's other files but the tokenizer are small. */
static size_t checkpoint_bytes(const rehearsal *s)
{
    size_t bytes;
    mh_tokenizer_bytes(s->tokenizer, &bytes);
    for (int i = 0; i < s->step.model->params.count; i++)
        bytes += 3 * sizeof(float) * (size_t)mh_param_size(&s->step.model->params.list[i]);
    return bytes;
}

/* The first weights are one. */
static int64_t checkpoints_written(const mh_train_config *c)
{
    return times(c->steps, c->checkpoint_every) + 1;
}

/* A run begins with a checkpoint, and with an evaluation unless there is one at the end alone. */
static void count(const rehearsal *s, mh_rehearsal *r)
{
    const mh_train_config *c = &s->recipe->train;
    r->evaluations = times(c->steps, c->eval_every) + (c->eval_every > 0);
    r->checkpoints = checkpoints_written(c);
    if (c->keep > 0 && c->keep < r->checkpoints)
        r->checkpoints = c->keep;
    r->checkpoint_bytes = checkpoint_bytes(s);
    r->disk_available = mh_disk_available(c->run);
    r->seconds = (double)c->steps * r->update_seconds + (double)r->evaluations * r->evaluation_seconds;
}

/* Whether the run folder can be made and written. */
static mh_status check_writable(const char *run)
{
    char nearest[MH_PATH];
    mh_path_nearest(nearest, run);
    return access(nearest, W_OK | X_OK) == 0 ? MH_OK : mh_fail_errno("write the run into", nearest);
}

static mh_status check_disk(const mh_recipe *recipe, const mh_rehearsal *r)
{
    const mh_train_config *c = &recipe->train;
    int64_t most = checkpoints_written(c);
    if (c->keep > 0 && c->keep + 1 < most) /* the oldest goes when the newest is there */
        most = c->keep + 1;
    double needed = (double)most * (double)r->checkpoint_bytes, mib = 1 << 20;
    if (needed <= (double)r->disk_available)
        return MH_OK;
    return mh_fail(
        MH_EIO,
        "%lld checkpoints in %s need %.0f MiB of disk and %.0f MiB are free; keep fewer by train.keep "
        "(now %lld%s), free space, or choose another place by --set train.run=FOLDER",
        (long long)most, c->run, needed / mib, (double)r->disk_available / mib, (long long)c->keep,
        c->keep == 0 ? ": all" : "");
}

static mh_status rehearse(rehearsal *s, mh_recipe *recipe, const char *weights, const mh_progress *progress,
                          mh_rehearsal *r)
{
    s->recipe = recipe;
    MH_TRY(mh_train_open(recipe, &s->train, &s->valid, &s->tokenizer));
    r->memory_available = mh_memory_available();
    r->facts = mh_train_facts_of(recipe, s->train, s->valid);
    MH_TRY(mh_train_check_memory(recipe));
    MH_TRY(mh_train_check_folder(recipe->train.run, false));
    MH_TRY(check_writable(recipe->train.run));
    MH_TRY(mh_step_init(&s->step, recipe, s->tokenizer));
    MH_TRY(mh_train_weights(s->step.model, recipe, weights));
    MH_TRY(time_updates(s, progress, &r->update_seconds));
    MH_TRY(time_evaluation(s, &r->evaluation_seconds));
    count(s, r);
    return check_disk(recipe, r);
}

mh_status mh_train_rehearse(mh_recipe *recipe, const char *weights, const mh_progress *progress,
                            mh_rehearsal *result)
{
    rehearsal s = {0};
    *result = (mh_rehearsal){0};
    mh_status status = rehearse(&s, recipe, weights, progress, result);
    mh_step_release(&s.step);
    mh_tokenizer_free(s.tokenizer);
    mh_batches_close(s.valid);
    mh_batches_close(s.train);
    return status;
}
