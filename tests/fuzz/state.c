/* What a run is resumed from: an input that begins like JSON is a trainer_state.json, others are moments. */
#include "state.h"

static const char *read_as(bool json, const uint8_t *data, size_t size)
{
    static bool made;
    if (!made) {
        state_run("a");
        state_run("b");
        made = true;
    }
    fuzz_file(json ? "a/" STEP "/trainer_state.json" : "b/" STEP "/optimizer.safetensors", data, size);
    return fuzz_path(json ? "a" : "b");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *run = read_as(size > 0 && data[0] == '{', data, size);
    mh_text skipped = {0};
    mh_trainer_state state = state_sound;
    if (mh_state_load(run, state_model, &state_optimizer, &state, &skipped) == MH_OK) {
        hold(skipped.length == 0 && state.step == state_sound.step);
        hold(strcmp(state.recipe, state_sound.recipe) == 0 && strcmp(state.data, state_sound.data) == 0);
    }
    mh_text_release(&skipped);
    return 0;
}

/* Seals what is still JSON. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed)
{
    json_t *json;
    mh_text text = {0};
    size = LLVMFuzzerMutate(data, size, max_size);
    if (seed % 8 == 0 || mh_json_parse(&json, (const char *)data, size, "input") != MH_OK)
        return size;
    json_object_del(json, "xxh3");
    if (json_is_object(json) && mh_json_seal(json, "input") == MH_OK &&
        mh_json_dump(json, false, &text) == MH_OK && text.length <= max_size) {
        memcpy(data, text.data, text.length);
        size = text.length;
    }
    mh_text_release(&text);
    json_decref(json);
    return size;
}
