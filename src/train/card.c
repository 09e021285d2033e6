/* The model card: README.md of a checkpoint, in Hugging Face's manner. */
#include "train/train.h"

#include <math.h>

static mh_status write_settings(mh_text *card, const mh_recipe *recipe)
{
    mh_recipe essence; /* the run folder and the intervals are no property of the model */
    MH_TRY(mh_recipe_essence(recipe, &essence));
    mh_text yaml = {0};
    mh_status status = mh_options_write_yaml(&mh_recipe_options, &essence, &yaml);
    if (status == MH_OK)
        status = mh_text_printf(card, "```yaml\n%s```\n", yaml.data);
    mh_text_release(&yaml);
    return status;
}

static mh_status write_results(mh_text *card, const mh_trainer_state *state)
{
    MH_TRY(mh_text_printf(card, "After %lld updates over %lld tokens", (long long)state->step,
                          (long long)state->tokens));
    if (isfinite(state->loss))
        MH_TRY(mh_text_printf(card, ", training loss %.4f in the last of them", state->loss));
    if (isfinite(state->valid_loss))
        MH_TRY(mh_text_printf(
            card, ", validation loss %.4f nats a token (perplexity %.5g, %.4f bits a byte of text)",
            state->valid_loss, exp(state->valid_loss), state->valid_bits_per_byte));
    return mh_text_printf(card, ".\n");
}

static mh_status compose_card(mh_text *card, const mh_recipe *recipe, const mh_model *model,
                              const mh_trainer_state *state)
{
    const mh_config *c = &model->config;
    mh_counts counts = mh_count_params(c);
    mh_flops flops = mh_count_flops(c, recipe->train.sequence);
    MH_TRY(mh_text_printf(card, "---\nlibrary_name: mhmoe\npipeline_tag: text-generation\n---\n\n"
                                "# A language model trained by mhmoe\n\n"));
    MH_TRY(write_results(card, state));
    MH_TRY(mh_text_printf(card,
                          "\nA decoder of %lld layers, width %lld, context %lld and %lld token ids: %lld "
                          "parameters, of which %lld work on a token; %.0f FLOPs a token forward.\n",
                          (long long)c->layers, (long long)c->dim, (long long)c->context, (long long)c->vocab,
                          (long long)counts.total, (long long)counts.active, flops.forward));
    MH_TRY(mh_text_printf(card, "\n## Use\n\n"
                                "In this folder:\n\n"
                                "    mhmoe generate . --prompt \"Once upon a time\"\n"
                                "    mhmoe eval . --perplexity FILE.txt\n"
                                "    mhmoe info .\n"));
    MH_TRY(mh_text_printf(card, "\n## Data\n\n%s (identity %s, tokenizer %s)\n", recipe->data.train,
                          state->data, model->tokenizer_hash));
    MH_TRY(mh_text_printf(card, "\n## Settings\n\n"));
    return write_settings(card, recipe);
}

mh_status mh_card_write(const mh_recipe *recipe, const mh_model *model, const mh_trainer_state *state,
                        const char *folder)
{
    char path[MH_PATH];
    MH_TRY(mh_path_join(path, folder, "README.md"));
    mh_text card = {0};
    mh_status status = compose_card(&card, recipe, model, state);
    if (status == MH_OK)
        status = mh_file_write(path, card.data, card.length);
    mh_text_release(&card);
    return status;
}
