/* ids: lists of tokens that grow. */
#include "data/data.h"

#include <stdlib.h>

mh_status mh_ids_add(mh_ids *ids, const int32_t *id, int64_t count)
{
    if (ids->count + count > ids->capacity) {
        int64_t capacity = ids->capacity * 2 + count + 16;
        int32_t *grown = realloc(ids->id, (size_t)capacity * sizeof *grown);
        if (grown == NULL)
            return mh_fail(MH_EMEMORY, "the system refused memory for %lld tokens", (long long)capacity);
        ids->id = grown;
        ids->capacity = capacity;
    }
    for (int64_t i = 0; i < count; i++)
        ids->id[ids->count++] = id[i];
    return MH_OK;
}

void mh_ids_release(mh_ids *ids)
{
    free(ids->id);
    *ids = (mh_ids){0};
}
