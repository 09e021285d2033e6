/* machine: hashes, memory, time and the processor. */
#include "base/base.h"

#include <inttypes.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <time.h>
#include <xxhash.h>

uint64_t mh_hash(const void *data, size_t bytes)
{
    return XXH3_64bits(data, bytes);
}

void mh_hash_text(uint64_t hash, char out[17])
{
    snprintf(out, 17, "%016" PRIx64, hash);
}

/* The number after `name` in a file of lines "name number"; false without such a line. */
static bool number_in(const char *path, const char *name, size_t *value)
{
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return false;
    bool found = false;
    char line[256];
    size_t n = strlen(name);
    while (!found && fgets(line, sizeof line, file) != NULL)
        found = strncmp(line, name, n) == 0 && sscanf(line + n, "%zu", value) == 1;
    fclose(file);
    return found;
}

/* What the kernel thinks can be had without swapping, or less where a container's limit is nearer; page
 * cache counts as free in both. */
size_t mh_memory_available(void)
{
    size_t available = SIZE_MAX, limit, used, cache;
    if (number_in("/proc/meminfo", "MemAvailable:", &available))
        available *= 1024;
    if (number_in("/sys/fs/cgroup/memory.max", "", &limit) &&
        number_in("/sys/fs/cgroup/memory.current", "", &used) &&
        number_in("/sys/fs/cgroup/memory.stat", "file ", &cache)) {
        size_t taken = used > cache ? used - cache : 0, free = limit > taken ? limit - taken : 0;
        available = free < available ? free : available;
    }
    return available;
}

size_t mh_disk_available(const char *path)
{
    char folder[MH_PATH];
    mh_path_nearest(folder, path);
    struct statvfs s;
    bool told = statvfs(folder, &s) == 0 && s.f_blocks > 0; /* some file systems have no sizes */
    return told ? (size_t)s.f_bavail * s.f_frsize : SIZE_MAX;
}

size_t mh_memory_peak(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (size_t)usage.ru_maxrss * 1024;
}

void mh_memory_restart_peak(void)
{
    FILE *file = fopen("/proc/self/clear_refs", "we");
    if (file == NULL)
        return;
    fputs("5", file);
    fclose(file);
}

double mh_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void mh_processor(char name[128])
{
    name[0] = '\0';
    FILE *file = fopen("/proc/cpuinfo", "r");
    char line[512];
    while (file != NULL && fgets(line, sizeof line, file) != NULL)
        if (sscanf(line, "model name : %127[^\n]", name) == 1)
            break;
    if (file != NULL)
        fclose(file);
}
