/* type: element types, under the names that safetensors files use. */
#include "base/base.h"

#include <string.h>

static const struct {
    const char *name;
    size_t size;
} types[MH_TYPES] = {
    [MH_F32] = {"F32", 4},
    [MH_BF16] = {"BF16", 2},
    [MH_I32] = {"I32", 4},
};

size_t mh_type_size(mh_type type)
{
    return types[type].size;
}

const char *mh_type_name(mh_type type)
{
    return types[type].name;
}

bool mh_type_from_name(const char *name, mh_type *type)
{
    for (int i = 0; i < MH_TYPES; i++)
        if (strcmp(types[i].name, name) == 0) {
            *type = (mh_type)i;
            return true;
        }
    return false;
}
