/* config.json of a checkpoint: one that does not fit its weights is refused before it costs memory. */
#include "state.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static bool made;
    if (!made)
        state_run("a");
    made = true;
    fuzz_file("a/" STEP "/config.json", data, size);
    const char *folder = fuzz_path("a/" STEP);

    mh_config config;
    char hash[17];
    if (mh_checkpoint_config(&config, hash, folder) == MH_OK) {
        hold(mh_count_params(&config).total > 0);
        hold(mh_count_flops(&config, config.context).forward > 0);
        mh_model_bytes(&config, MH_PRECISION_BF16, true);
    }
    mh_model *model;
    mh_tokenizer *tokenizer;
    if (mh_checkpoint_read(&model, &tokenizer, folder, MH_PRECISION_F32, false) == MH_OK) {
        mh_model_free(model);
        mh_tokenizer_free(tokenizer);
    }
    return 0;
}
