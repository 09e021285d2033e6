/* memory: the allocator's functions, with a count of who called them. */
#include "faults/faults.h"

#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* What stands behind: the sanitizers' own, or glibc's, under the names that they keep for this. */
#ifndef __has_feature /* clang's way to tell */
#    define __has_feature(name) 0
#endif
#if defined __SANITIZE_ADDRESS__ || __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#    define REAL(name) __interceptor_##name
enum { SANITIZED = 1 };
#else
#    define REAL(name) __libc_##name
enum { SANITIZED = 0 };
#endif
void *REAL(malloc)(size_t bytes);
void *REAL(calloc)(size_t count, size_t bytes);
void *REAL(realloc)(void *old, size_t bytes);
void *REAL(memalign)(size_t alignment, size_t bytes);
void REAL(free)(void *old);

static _Atomic int64_t live, counted[FAULTS_CALLERS], refused;
static _Atomic bool counting;
static faults_caller victim;

/* ---- whose code an address is -------------------------------------------------------------------------- */

/* Where the executable and the libraries that are told apart lie in memory; asking each time would allocate.
 */
typedef struct {
    const char *name; /* a part of the file's */
    faults_caller caller;
    uintptr_t begin, end;
} object;

enum { PROGRAM, OBJECTS = 7 };
static object objects[OBJECTS] = {
    [PROGRAM] = {.name = "", .caller = FAULTS_OWN},  {.name = "libsentencepiece", .caller = FAULTS_APART},
    {.name = "libprotobuf", .caller = FAULTS_APART}, {.name = "libdnnl", .caller = FAULTS_APART},
    {.name = "libstdc++", .caller = FAULTS_APART},   {.name = "libarchive", .caller = FAULTS_APART},
    {.name = "omp.so", .caller = FAULTS_OPENMP}};

static int find_object(struct dl_phdr_info *info, size_t size, void *context)
{
    (void)size, (void)context;
    bool nameless = info->dlpi_name[0] == '\0';
    for (int i = PROGRAM; i < OBJECTS; i++) {
        object *o = &objects[i];
        if (o->end > 0 || (i == PROGRAM) != nameless || strstr(info->dlpi_name, o->name) == NULL)
            continue; /* of the nameless ones the first is the executable */
        o->begin = UINTPTR_MAX;
        for (int j = 0; j < info->dlpi_phnum; j++) {
            const ElfW(Phdr) *part = &info->dlpi_phdr[j];
            uintptr_t begin = info->dlpi_addr + part->p_vaddr, end = begin + part->p_memsz;
            if (part->p_type != PT_LOAD)
                continue;
            o->begin = begin < o->begin ? begin : o->begin;
            o->end = end > o->end ? end : o->end;
        }
        return 0;
    }
    return 0;
}

static faults_caller caller_of(uintptr_t address)
{
    for (int i = PROGRAM; i < OBJECTS; i++)
        if (address >= objects[i].begin && address < objects[i].end)
            return objects[i].caller;
    return FAULTS_LIBRARY;
}

/* Whether this allocation is to be refused. */
static bool refuse(void *caller)
{
    if (!atomic_load(&counting))
        return false;
    faults_caller who = caller_of((uintptr_t)caller);
    int64_t number = atomic_fetch_add(&counted[who], 1) + 1;
    if (who != victim || number != atomic_load(&refused))
        return false;
    errno = ENOMEM;
    return true;
}

void faults_memory_begin(faults_caller caller, int64_t number)
{
    if (objects[PROGRAM].end == 0)
        dl_iterate_phdr(find_object, NULL);
    for (int i = 0; i < FAULTS_CALLERS; i++)
        atomic_store(&counted[i], 0);
    victim = caller;
    atomic_store(&refused, number);
    atomic_store(&counting, true);
}

void faults_memory_end(int64_t count[FAULTS_CALLERS])
{
    atomic_store(&counting, false);
    for (int i = 0; i < FAULTS_CALLERS; i++)
        count[i] = atomic_load(&counted[i]);
}

int64_t faults_memory_live(void)
{
    /* Sanitizers hand out blocks of their own (strdup), which come back here; but they count leaks, too. */
    return SANITIZED ? 0 : atomic_load(&live);
}

/* ---- what libc and C++ call them ----------------------------------------------------------------------- */

static void *given(void *block)
{
    atomic_fetch_add(&live, block != NULL);
    return block;
}

#define CALLER __builtin_return_address(0)

void *malloc(size_t bytes)
{
    return refuse(CALLER) ? NULL : given(REAL(malloc)(bytes));
}

void *faults_memory_new(size_t bytes, void *caller)
{
    return refuse(caller) ? NULL : given(REAL(malloc)(bytes));
}

void *calloc(size_t count, size_t bytes)
{
    return refuse(CALLER) ? NULL : given(REAL(calloc)(count, bytes));
}

void *realloc(void *old, size_t bytes)
{
    if (refuse(CALLER))
        return NULL;
    void *block = REAL(realloc)(old, bytes);
    atomic_fetch_add(&live, (block != NULL) - (old != NULL && (block != NULL || bytes == 0)));
    return block;
}

void *aligned_alloc(size_t alignment, size_t bytes)
{
    return refuse(CALLER) ? NULL : given(REAL(memalign)(alignment, bytes));
}

void *memalign(size_t alignment, size_t bytes)
{
    return refuse(CALLER) ? NULL : given(REAL(memalign)(alignment, bytes));
}

int posix_memalign(void **block, size_t alignment, size_t bytes)
{
    *block = refuse(CALLER) ? NULL : given(REAL(memalign)(alignment, bytes));
    return *block != NULL ? 0 : ENOMEM;
}

void free(void *old)
{
    atomic_fetch_sub(&live, old != NULL);
    REAL(free)(old);
}
