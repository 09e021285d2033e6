/* llama2.c's models. The tokenizer is missing, so that none is written: the weights are read before it. */
#include "model/model.h"

#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *file = fuzz_file("stories.bin", data, size);
    hold(mh_import_llama2c(file, fuzz_path("tokenizer.model"), fuzz_path("model")) != MH_OK);
    hold(!mh_path_exists(fuzz_path("model")));
    return 0;
}
