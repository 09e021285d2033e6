/* arena: memory measured and carved by the same function. */
#include "base/base.h"

#include <stdlib.h>
#include <string.h>

/* More than any machine has. Counting stops here instead of wrapping around, and mh_arena_init refuses. */
#define MOST ((size_t)1 << 60)

void *mh_take(mh_arena *arena, size_t bytes)
{
    size_t begin = arena->used;
    arena->used = bytes < MOST - begin ? (begin + bytes + MH_ALIGN - 1) / MH_ALIGN * MH_ALIGN : MOST;
    if (arena->base == NULL)
        return NULL;
    if (arena->used > arena->size)
        abort(); /* carved more than was counted: nothing sensible can follow */
    return arena->base + begin;
}

mh_status mh_arena_init(mh_arena *arena, size_t bytes, const char *what)
{
    *arena = (mh_arena){0};
    size_t available = mh_memory_available();
    /* Zeroing touches every page, so without this test the system would kill the process instead. */
    if (bytes >= MOST || bytes > available)
        return mh_fail(MH_EMEMORY, "%s need %.1f MiB of memory and %.1f MiB are available", what,
                       (double)bytes / 0x1p20, (double)available / 0x1p20);
    size_t size = (bytes + MH_ALIGN) / MH_ALIGN * MH_ALIGN; /* never 0 */
    arena->base = aligned_alloc(MH_ALIGN, size);
    if (arena->base == NULL)
        return mh_fail(MH_EMEMORY, "the system refused %.1f MiB of memory for %s", (double)bytes / 0x1p20,
                       what);
    memset(arena->base, 0, size);
    arena->size = size;
    return MH_OK;
}

void mh_arena_release(mh_arena *arena)
{
    free(arena->base);
    *arena = (mh_arena){0};
}
