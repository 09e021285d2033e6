/* memory: how much each level of it holds for the threads in use, and how fast they read it. */
#include "bench/bench.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LANES = 16, SAMPLES = 5, LEAST = 32 << 20 /* bytes of a sample: about a millisecond */ };

static const char *const names[MH_MEMORIES] = {"L2", "L3", "DRAM"};

const char *mh_memory_name(mh_memory level)
{
    return names[level];
}

/* ---- what the system tells ----------------------------------------------------------------------------- */

/* The first word of a cache's property, such as "1024K" of "size"; empty where there is none. */
static void read_property(int cache, const char *name, char out[256])
{
    char path[96];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/%s", cache, name);
    FILE *file = fopen(path, "re");
    if (file == NULL || fscanf(file, "%255s", out) != 1)
        out[0] = '\0';
    if (file != NULL)
        fclose(file);
}

/* Processors that share the cache, by its mask in hexadecimal digits: "00000000,00000003". */
static int sharers(const char *mask)
{
    int count = 0;
    for (; *mask != '\0'; mask++)
        if (*mask != ',')
            count += __builtin_popcountl(strtoul((char[]){*mask, '\0'}, NULL, 16));
    return count > 0 ? count : 1;
}

/* Bytes of all caches of a level that the threads use; 0 where the system does not tell. (sysconf() would be
 * shorter, but glibc makes the L3 of some virtual machines ten times too large.) */
static double cache_bytes(int level)
{
    char text[256];
    for (int i = 0; read_property(i, "level", text), text[0] != '\0'; i++) {
        bool ours = atoi(text) == level;
        read_property(i, "type", text);
        if (!ours || strcmp(text, "Instruction") == 0)
            continue;
        read_property(i, "size", text);
        double size = 1024 * strtod(text, NULL);
        read_property(i, "shared_cpu_map", text);
        int each = sharers(text);
        int copies = (mh_threads() + each - 1) / each;
        return size * copies;
    }
    return 0;
}

/* ---- reading ------------------------------------------------------------------------------------------- */

typedef struct {
    const uint64_t *word;
    size_t count;
    int times;
} reading;

/* In lanes that do not wait for one another, which compilers keep in vectors. */
static uint64_t read_words(const uint64_t *word, size_t count)
{
    uint64_t lane[LANES] = {0}, all = 0;
    for (size_t i = 0; i < count; i += LANES)
        for (int j = 0; j < LANES; j++)
            lane[j] |= word[i + (size_t)j];
    for (int j = 0; j < LANES; j++)
        all |= lane[j];
    return all;
}

/* Each thread reads its part again and again. */
static void read_part(const void *context)
{
    const reading *r = context;
    size_t part = r->count / (size_t)omp_get_num_threads() / LANES * LANES;
    for (int t = 0; t < r->times; t++) {
        uint64_t all = read_words(r->word + part * (size_t)omp_get_thread_num(), part);
        __asm__ volatile("" : : "r"(all) : "memory"); /* makes the compiler read them each time */
    }
}

static void read_level(mh_memory_level *level, const uint64_t *word, double bytes)
{
    reading r = {word, (size_t)bytes / sizeof *word, 1 + (int)(LEAST / bytes)};
    for (int i = 0; i < SAMPLES; i++)
        level->rate = fmax(level->rate, bytes * r.times / mh_time_together(read_part, &r));
}

mh_status mh_memory_measure(mh_memory_level level[MH_MEMORIES])
{
    double l2 = cache_bytes(2), l3 = cache_bytes(3);
    l2 = l2 > 0 ? l2 : 0x1p20 * mh_threads();
    l3 = l3 > l2 ? l3 : l2; /* without an L3, what is too large for L2 comes from DRAM */
    /* Half of a cache stays in it whatever else runs; twice the last one does not. */
    const double holds[MH_MEMORIES] = {l2, l3, 0x1p60};
    const double read[MH_MEMORIES] = {l2 / 2, l3 / 2 > 2 * l2 ? l3 / 2 : 2 * l2, 2 * l3 + 2 * l2};
    size_t bytes = (size_t)read[MH_DRAM];
    uint64_t *word = malloc(bytes);
    if (word == NULL)
        return mh_fail(MH_EMEMORY, "no memory for a benchmark: %zu bytes", bytes);
    memset(word, 1, bytes); /* untouched pages would all be one, of zeros */
    for (int i = 0; i < MH_MEMORIES; i++) {
        level[i].holds = holds[i];
        read_level(&level[i], word, read[i]);
    }
    free(word);
    return MH_OK;
}

double mh_memory_seconds(const mh_memory_level level[MH_MEMORIES], double held, double moved)
{
    int i = 0;
    while (held > level[i].holds)
        i++;
    return moved / level[i].rate;
}
