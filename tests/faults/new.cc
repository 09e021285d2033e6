/* new: C++'s allocator, so that memory.c learns who calls it: of malloc that is always the C++ library. */
#include "faults/faults.h"

#include <cstdlib>
#include <new>

void *operator new(size_t bytes)
{
    void *block = faults_memory_new(bytes, __builtin_return_address(0));
    if (block == nullptr)
        throw std::bad_alloc();
    return block;
}

void operator delete(void *block) noexcept
{
    free(block);
}

void operator delete(void *block, size_t) noexcept
{
    free(block);
}
