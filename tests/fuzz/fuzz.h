/* What fuzz targets share. Readers take paths, so each input becomes a file in a folder in memory. */
#ifndef MH_FUZZ_H
#define MH_FUZZ_H

#include "base/base.h"

#include <stdlib.h>
#include <string.h>

/* libFuzzer's entry: a target defines it. What must hold for what was read is asserted by `hold`. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* May be defined too: changes an input, and mends what chance would never get right, as a checksum. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size) __attribute__((weak)); /* libFuzzer's */

static char fuzz_folder[] = "/dev/shm/mhmoe-fuzz-XXXXXX";

static inline void hold(bool fact)
{
    if (fact)
        return;
    fprintf(stderr, "a promise is broken; the last failure: %s\n", mh_message());
    abort();
}

static inline void fuzz_clean(void)
{
    mh_remove_tree(fuzz_folder);
}

static inline const char *fuzz_path(const char *name)
{
    static char path[16][MH_PATH]; /* that many may be in use at once */
    static int next = -1;          /* before there is a folder */
    if (next < 0) {
        hold(mkdtemp(fuzz_folder) != NULL);
        atexit(fuzz_clean);
    }
    next = (next + 1) % 16;
    hold(mh_path_join(path[next], fuzz_folder, name) == MH_OK);
    return path[next];
}

static inline const char *fuzz_file(const char *name, const uint8_t *data, size_t size)
{
    const char *path = fuzz_path(name);
    FILE *file = fopen(path, "w");
    hold(file != NULL && fwrite(data, 1, size, file) == size);
    fclose(file);
    return path;
}

#endif
