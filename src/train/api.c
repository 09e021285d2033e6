/* What the public interface adds: a trainer over a caller's batches, and the layer of a recipe. */
#include "train/train.h"

#include <stdlib.h>
#include <string.h>

struct mh_trainer {
    mh_recipe recipe; /* resolved */
    const mh_tokenizer *tokenizer;
    mh_step step;
};

static mh_status create(mh_trainer *t, const char *weights)
{
    mh_recipe *recipe = &t->recipe;
    const mh_tokenizer *tokenizer = t->tokenizer;
    if (tokenizer)
        MH_TRY(mh_recipe_take_vocab(recipe, mh_tokenizer_vocab(tokenizer), mh_tokenizer_eos(tokenizer)));
    MH_TRY(mh_recipe_resolve(recipe, NULL));
    MH_TRY(mh_train_check_memory(recipe));
    MH_TRY(mh_step_init(&t->step, recipe, tokenizer));
    return mh_train_weights(t->step.model, recipe, weights);
}

mh_status mh_trainer_create(mh_trainer **trainer, const mh_recipe *recipe, const mh_tokenizer *tokenizer,
                            const char *weights)
{
    mh_trainer *t = calloc(1, sizeof *t);
    *trainer = NULL;
    if (t == NULL)
        return mh_fail(MH_EMEMORY, "the system refused memory for a trainer");
    t->recipe = *recipe;
    t->tokenizer = tokenizer;
    mh_status status = create(t, weights);
    if (status == MH_OK)
        *trainer = t;
    else
        mh_trainer_free(t);
    return status;
}

void mh_trainer_free(mh_trainer *trainer)
{
    if (trainer == NULL)
        return;
    mh_step_release(&trainer->step);
    free(trainer);
}

int64_t mh_trainer_batch(const mh_trainer *trainer)
{
    return trainer->recipe.train.batch;
}

int64_t mh_trainer_sequence(const mh_trainer *trainer)
{
    return trainer->recipe.train.sequence;
}

int64_t mh_trainer_steps(const mh_trainer *trainer)
{
    return trainer->step.optimizer.step;
}

const mh_model *mh_trainer_model(const mh_trainer *trainer)
{
    return trainer->step.model;
}

/* Kernels take tokens as addresses: none may come to them unchecked. */
static mh_status check_batch(const mh_trainer *t, const mh_batch *batch)
{
    int64_t length = mh_trainer_sequence(t), vocab = t->recipe.model.vocab;
    bool any = false;
    for (int64_t i = 0; i < mh_trainer_batch(t) * length; i++) {
        int64_t token = batch->token[i], target = batch->target[i], at = i % length;
        int64_t first = batch->first_key ? batch->first_key[i] : 0;
        if (token < 0 || token >= vocab || target < -1 || target >= vocab)
            return mh_fail(MH_EVALUE,
                           "sequence %lld, position %lld: token %lld with target %lld; tokens are below the "
                           "vocabulary of %lld, targets too or -1",
                           (long long)(i / length), (long long)at, (long long)token, (long long)target,
                           (long long)vocab);
        if (first < 0 || first > at)
            return mh_fail(MH_EVALUE,
                           "sequence %lld, position %lld: first_key %lld; give a position from 0 to its own",
                           (long long)(i / length), (long long)at, (long long)first);
        any = any || target >= 0;
    }
    return any ? MH_OK
               : mh_fail(MH_EVALUE,
                         "all targets are -1: there is nothing to learn from this batch; leave it out");
}

mh_status mh_trainer_step(mh_trainer *trainer, const mh_batch *batch, mh_update *update)
{
    int64_t steps = trainer->recipe.train.steps;
    if (mh_trainer_steps(trainer) >= steps)
        return mh_fail(MH_ESTATE, "all %lld updates of train.steps are made; plan more before the first",
                       (long long)steps);
    MH_TRY(check_batch(trainer, batch));
    return mh_step_run(&trainer->step, batch, update);
}

mh_status mh_trainer_save(const mh_trainer *trainer, const char *path)
{
    mh_new_folder folder;
    MH_TRY(mh_new_folder_begin(&folder, path));
    mh_status status = mh_checkpoint_write(trainer->step.model, trainer->tokenizer, folder.aside);
    if (status == MH_OK)
        return mh_new_folder_commit(&folder);
    mh_new_folder_abort(&folder);
    return status;
}

/* The rest of the decoder that the recipe describes has no say in its layer. */
mh_status mh_layer_create(mh_layer **layer, const mh_recipe *recipe)
{
    mh_config config = recipe->model;
    config.layers = config.attention_heads = config.kv_heads = config.moe.every = 1;
    config.vocab = 2;
    config.bos = config.eos = -1;
    *layer = NULL;
    MH_TRY(mh_config_resolve(&config));
    return mh_layer_of(layer, &config, (mh_precision)recipe->train.precision);
}
