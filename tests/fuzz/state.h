/* A model of a few numbers, for the targets that read files of checkpoints. */
#ifndef MH_FUZZ_STATE_H
#define MH_FUZZ_STATE_H

#include "train/train.h"

#include "fuzz.h"

#include <sys/stat.h>

static mh_recipe state_recipe;
static mh_model *state_model;
static mh_optimizer state_optimizer;
static const mh_trainer_state state_sound = {
    .step = 1, .tokens = 8, .recipe = "0123456789abcdef", .data = "fedcba9876543210"};

#define STEP "checkpoints/step-000001"

/* Writes RUN with a sound checkpoint after step 1 and returns its path. */
static inline const char *state_run(const char *run)
{
    if (state_model == NULL) {
        static const char *const sets[] = {
            "model.dim=8",   "model.layers=1", "model.attention_heads=1", "model.vocab=4", "model.context=4",
            "moe.experts=2", "moe.heads=2",    "moe.ffn_dim=2",           "moe.top_k=1",   "moe.every=1"};
        hold(mh_recipe_read(&state_recipe, NULL, sets, sizeof sets / sizeof *sets) == MH_OK);
        hold(mh_recipe_resolve(&state_recipe, NULL) == MH_OK);
        hold(mh_model_create(&state_model, &state_recipe.model, MH_PRECISION_F32, true) == MH_OK);
        hold(mh_optimizer_init(&state_optimizer, state_model) == MH_OK);
    }
    char checkpoints[MH_PATH];
    hold(mh_path_join(checkpoints, fuzz_path(run), "checkpoints") == MH_OK &&
         mh_make_dirs(checkpoints) == MH_OK);
    hold(mh_state_save(fuzz_path(run), &state_recipe, state_model, NULL, &state_optimizer, &state_sound) ==
         MH_OK);
    return fuzz_path(run);
}

#endif
