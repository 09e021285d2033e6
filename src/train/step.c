/* One update: forward, backward, AdamW. Nothing of ours allocates in it (OpenMP and oneDNN do, a little). */
#include "train/train.h"

#include <math.h>

static void layout(mh_step *s, mh_arena *arena, const mh_train_config *c)
{
    size_t positions = (size_t)(c->batch * c->sequence);
    s->token = mh_take(arena, positions * sizeof *s->token);
    s->target = mh_take(arena, positions * sizeof *s->target);
    s->first_key = mh_take(arena, positions * sizeof *s->first_key);
    s->nll = mh_take(arena, positions * sizeof *s->nll);
}

static mh_pass_shape pass_shape(const mh_train_config *c)
{
    return (mh_pass_shape){
        .batch = c->micro_batch, .rows = c->sequence, .capacity = c->sequence, .training = true};
}

size_t mh_train_bytes(const mh_recipe *recipe)
{
    const mh_train_config *c = &recipe->train;
    size_t trained = mh_model_bytes(&recipe->model, (mh_precision)c->precision, true);
    size_t gradients = trained - mh_model_bytes(&recipe->model, (mh_precision)c->precision, false);
    mh_step shell;
    mh_arena buffers = {0};
    layout(&shell, &buffers, c);
    /* Each of the two moments is as large as the gradients; an evaluation has at most such buffers again. */
    return trained + 2 * gradients + 2 * buffers.used +
           mh_pass_bytes(&recipe->model, (mh_precision)c->precision, pass_shape(c));
}

mh_status mh_train_check_memory(const mh_recipe *recipe)
{
    double needed = (double)mh_train_bytes(recipe), available = (double)mh_memory_available(), mib = 1 << 20;
    if (needed <= available)
        return MH_OK;
    return mh_fail(
        MH_EMEMORY,
        "this run needs %.0f MiB of memory and %.0f MiB are free; lower train.micro_batch (now %lld) "
        "or model.dim%s",
        needed / mib, available / mib, (long long)recipe->train.micro_batch,
        recipe->train.precision == MH_PRECISION_F32 ? ", or set train.precision bf16" : "");
}

mh_status mh_step_init(mh_step *step, const mh_recipe *recipe, const mh_tokenizer *tokenizer)
{
    *step = (mh_step){.recipe = recipe};
    MH_TRY(mh_model_create(&step->model, &recipe->model, (mh_precision)recipe->train.precision, true));
    if (tokenizer)
        snprintf(step->model->tokenizer_hash, sizeof step->model->tokenizer_hash, "%s",
                 mh_tokenizer_hash(tokenizer));
    MH_TRY(mh_optimizer_init(&step->optimizer, step->model));
    MH_TRY(mh_pass_create(&step->pass, step->model, pass_shape(&recipe->train)));
    mh_arena count = {0};
    layout(step, &count, &recipe->train);
    MH_TRY(mh_arena_init(&step->memory, count.used, "batches"));
    layout(step, &step->memory, &recipe->train);
    return MH_OK;
}

void mh_step_release(mh_step *step)
{
    mh_arena_release(&step->memory);
    mh_pass_free(step->pass);
    mh_optimizer_release(&step->optimizer);
    mh_model_free(step->model);
    *step = (mh_step){0};
}

static mh_status not_finite(const mh_step *s, int64_t step, const char *what, const char *where)
{
    return mh_fail(MH_ESTATE,
                   "step %lld: %s is not a finite number, first in %s; train with a lower train.rate or "
                   "%s%s",
                   (long long)step, what, where,
                   s->recipe->train.clip > 0 ? "train.clip" : "train.clip over 0, for example 1",
                   s->model->precision == MH_PRECISION_F32 ? "" : ", or with train.precision f32");
}

mh_status mh_step_check(const mh_step *s, int64_t step, const char *what, double value)
{
    if (isfinite(value))
        return MH_OK;
    char where[64] = "the output layer";
    int64_t layer = mh_pass_find_nan(s->pass);
    if (layer >= 0)
        snprintf(where, sizeof where, "the output of layer %lld", (long long)layer);
    return not_finite(s, step, what, where);
}

static mh_status check_gradient(const mh_step *s, int64_t step, double norm)
{
    if (isfinite(norm))
        return MH_OK;
    char where[160];
    int index = mh_optimizer_find_nan(s->model);
    snprintf(where, sizeof where, "the gradient of %s",
             index >= 0 ? s->model->params.list[index].name : "all parameters together");
    return not_finite(s, step, "the gradient's norm", where);
}

static double sum_of(const float *x, int64_t n)
{
    double sum = 0; /* in order: the same bits for any number of threads */
    for (int64_t i = 0; i < n; i++)
        sum += (double)x[i];
    return sum;
}

static int64_t count_targets(const mh_batch *batch, int64_t positions)
{
    int64_t count = 0;
    for (int64_t i = 0; i < positions; i++)
        count += batch->target[i] >= 0;
    return count;
}

/* Gradients of: mean nll of the update's targets + balance_weight and z_weight times the means over its
 * micro-batches of balance and z-losses' sums. */
static mh_status run(mh_step *s, const mh_batch *batch, mh_update *update)
{
    const mh_train_config *c = &s->recipe->train;
    int64_t step = s->optimizer.step + 1;
    int64_t micros = c->batch / c->micro_batch, rows = c->micro_batch * c->sequence;
    double share = 1 / (double)micros, scale = 1 / (double)count_targets(batch, micros * rows);
    *update = (mh_update){0};
    for (int64_t i = 0; i < micros; i++) {
        mh_call call = {.token = batch->token + i * rows,
                        .first_key = batch->first_key ? batch->first_key + i * rows : NULL,
                        .batch = c->micro_batch,
                        .rows = c->sequence,
                        .train = true,
                        .seed = (uint64_t)c->seed,
                        .step = (uint64_t)((step - 1) * micros + i)};
        mh_forward(s->pass, s->model, &call);
        mh_balance_count(s->pass, s->model);
        mh_loss(s->pass, s->model, &call, batch->target + i * rows, s->nll, (float)scale);
        update->loss += scale * sum_of(s->nll, rows);
        mh_auxiliary auxiliary = mh_pass_auxiliary(s->pass);
        update->balance += share * auxiliary.balance;
        update->z_loss += share * auxiliary.z_loss;
        MH_TRY(mh_step_check(s, step, "the loss", update->loss));
        mh_backward(s->pass, s->model, &call, share);
    }
    update->grad_norm = mh_optimizer_step(&s->optimizer, s->model, c);
    MH_TRY(check_gradient(s, step, update->grad_norm));
    mh_balance_update(s->pass, s->model);
    return MH_OK;
}

/* What a failed update has added up must not be found by another. */
mh_status mh_step_run(mh_step *s, const mh_batch *batch, mh_update *update)
{
    mh_status status = run(s, batch, update);
    if (status != MH_OK) {
        mh_params_clear(&s->model->params);
        mh_balance_clear(s->pass, s->model);
    }
    return status;
}

mh_status mh_step_next(mh_step *s, const mh_batches *batches, mh_update *update)
{
    const mh_train_config *c = &s->recipe->train;
    for (int64_t i = 0; i < c->batch; i++) {
        int64_t at = i * c->sequence;
        mh_batches_get(batches, s->optimizer.step * c->batch + i, s->token + at, s->target + at,
                       s->first_key + at);
    }
    mh_batch batch = {s->token, s->target, s->recipe->data.mask_documents ? s->first_key : NULL};
    return mh_step_run(s, &batch, update);
}
