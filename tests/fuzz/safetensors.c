/* Tensor files: every byte of every tensor of an accepted one can be read. */
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    mh_tensors *tensors;
    if (mh_tensors_open(&tensors, fuzz_file("x.safetensors", data, size)) != MH_OK)
        return 0;
    size_t bytes = 0;
    for (int i = 0; i < mh_tensors_count(tensors); i++) {
        const mh_tensor *t = mh_tensors_at(tensors, i);
        size_t length = (size_t)mh_tensor_elements(t) * mh_type_size(t->type);
        hold(mh_tensors_find(tensors, t->name) == t);
        hold((uintptr_t)t->data % mh_type_size(t->type) == 0);
        mh_hash(t->data, length);
        bytes += length;
    }
    hold(bytes < size);
    mh_tensors_close(tensors);
    return 0;
}
