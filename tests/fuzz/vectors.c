/* Reference vectors: whatever the metadata ask for, the layer or decoder runs, or a sentence says why not. */
#include "eval/eval.h"

#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *path = fuzz_file("layer.safetensors", data, size);
    for (int precision = MH_PRECISION_F32; precision <= MH_PRECISION_BF16; precision++) {
        mh_verify_result result;
        if (mh_verify(path, (mh_precision)precision, &result) == MH_OK)
            mh_verify_release(&result);
    }
    return 0;
}
