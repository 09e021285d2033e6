/* Recipes. One that is accepted says the same when it is written and read again, and can be measured; so can
 * the models that it compares. */
#include "train/train.h"

#include "fuzz.h"

static void compare(const mh_recipe *recipe)
{
    mh_arm *arm;
    int arms;
    mh_budget budget;
    if (mh_arms_read(&arm, &arms, recipe, NULL) == MH_OK && mh_budget_read(&budget, recipe) == MH_OK)
        for (int i = 0; i < arms; i++) {
            hold(arm[i].params.total > 0 && arm[i].flops.forward > 0 && arm[i].memory > 0);
            if (budget.kind != MH_BUDGET_SECONDS && mh_arm_set_length(&arm[i], &budget) == MH_OK)
                hold(arm[i].recipe.train.steps > 0);
        }
    free(arm);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    mh_recipe recipe, again;
    if (mh_recipe_read(&recipe, fuzz_file("recipe.yaml", data, size), NULL, 0) != MH_OK)
        return 0;
    mh_text yaml = {0};
    hold(mh_options_write_yaml(&mh_recipe_options, &recipe, &yaml) == MH_OK);
    hold(mh_recipe_read(&again, fuzz_file("again.yaml", (uint8_t *)yaml.data, yaml.length), NULL, 0) ==
         MH_OK);
    json_t *first = mh_options_to_json(&mh_recipe_options, &recipe);
    json_t *second = mh_options_to_json(&mh_recipe_options, &again);
    hold(json_equal(first, second));
    json_decref(first);
    json_decref(second);
    mh_text_release(&yaml);

    if (recipe.model.vocab == 0)
        recipe.model.vocab = 1000; /* what data would tell */
    compare(&recipe);
    if (mh_recipe_resolve(&recipe, NULL) == MH_OK) {
        hold(mh_count_params(&recipe.model).total > 0);
        hold(mh_count_flops(&recipe.model, recipe.train.sequence).forward > 0);
        mh_train_check_memory(&recipe);
    }
    return 0;
}
