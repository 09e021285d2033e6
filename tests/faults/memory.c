/* memory: the allocator's functions, with a count of who called them. */
#include "faults/faults.h"

#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* What stands behind: the sanitizers' own, or glibc's, under the names that they keep for this. */
#if defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__
#    define REAL(name)         __interceptor_##name
#    define REAL_ALIGNED_ALLOC __interceptor_aligned_alloc
#else
#    define REAL(name)         __libc_##name
#    define REAL_ALIGNED_ALLOC __libc_memalign
#endif
void *REAL(malloc)(size_t bytes);
void *REAL(calloc)(size_t count, size_t bytes);
void *REAL(realloc)(void *old, size_t bytes);
void *REAL_ALIGNED_ALLOC(size_t alignment, size_t bytes);
void REAL(free)(void *old);

static _Atomic int64_t live, counted[FAULTS_CALLERS], refused;
static _Atomic bool counting;
static faults_caller victim;

/* ---- whose code an address is -------------------------------------------------------------------------- */

/* Where the executable and the libraries that are told apart lie in memory; asking each time would allocate. */
typedef struct {
    uintptr_t begin, end;
} range;

static range program, onednn, openmp;

static bool within(range r, uintptr_t address)
{
    return address >= r.begin && address < r.end;
}

static int find_object(struct dl_phdr_info *info, size_t size, void *context)
{
    (void)size, (void)context;
    range *found = info->dlpi_name[0] == '\0'             ? &program
                   : strstr(info->dlpi_name, "libdnnl")   ? &onednn
                   : strstr(info->dlpi_name, "omp.so")    ? &openmp
                                                          : NULL;
    if (found == NULL || found->end > 0) /* the first nameless object is the executable */
        return 0;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &info->dlpi_phdr[i];
        uintptr_t begin = info->dlpi_addr + part->p_vaddr;
        if (part->p_type != PT_LOAD)
            continue;
        found->begin = found->end == 0 || begin < found->begin ? begin : found->begin;
        found->end = begin + part->p_memsz > found->end ? begin + part->p_memsz : found->end;
    }
    return 0;
}

/* Whether this allocation is to be refused. */
static bool refuse(void *caller)
{
    uintptr_t at = (uintptr_t)caller;
    if (!atomic_load(&counting) || within(openmp, at))
        return false;
    faults_caller who = within(program, at) ? FAULTS_OWN : within(onednn, at) ? FAULTS_ONEDNN : FAULTS_LIBRARY;
    int64_t number = atomic_fetch_add(&counted[who], 1) + 1;
    if (who != victim || number != atomic_load(&refused))
        return false;
    errno = ENOMEM;
    return true;
}

void faults_memory_begin(faults_caller caller, int64_t number)
{
    if (program.end == 0)
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
    return atomic_load(&live);
}

/* ---- what libc calls them ------------------------------------------------------------------------------ */

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
    return refuse(CALLER) ? NULL : given(REAL_ALIGNED_ALLOC(alignment, bytes));
}

int posix_memalign(void **block, size_t alignment, size_t bytes)
{
    *block = refuse(CALLER) ? NULL : given(REAL_ALIGNED_ALLOC(alignment, bytes));
    return *block != NULL ? 0 : ENOMEM;
}

void free(void *old)
{
    atomic_fetch_sub(&live, old != NULL);
    REAL(free)(old);
}
