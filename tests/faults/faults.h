/* Faults put under a program: allocations that are refused, and calls to the file system that fail or never
 * return. The files define functions of libc, and C++'s operator new, which then are the process's own,
 * whichever library calls them. */
#ifndef FAULTS_H
#define FAULTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- memory.c ------------------------------------------------------------------------------------------ */

/* Who asks for memory: this program itself; a library, the C library above all, on its behalf; and those
 * apart that do not survive a refusal. libarchive and OpenMP end the process, protobuf in SentencePiece reads
 * what it has not set (the C++ library may be making a string for it), oneDNN does both, and takes memory in
 * every step. */
typedef enum { FAULTS_OWN, FAULTS_LIBRARY, FAULTS_APART, FAULTS_OPENMP, FAULTS_CALLERS } faults_caller;

/* Counts all threads' allocations from now on, and refuses number `refused` of those that `caller` makes
 * (from 1; 0: none). */
void faults_memory_begin(faults_caller caller, int64_t refused);

/* Ends that, and tells how many there were. */
void faults_memory_end(int64_t count[FAULTS_CALLERS]);

/* Blocks that are allocated and not freed, since the process began; 0 under sanitizers, which count them too.
 */
int64_t faults_memory_live(void);

/* For new.cc: memory for operator new, which `caller` called; NULL where that is refused. */
void *faults_memory_new(size_t bytes, void *caller);

/* ---- files.c ------------------------------------------------------------------------------------------- */

/* Lets call number `number` (from 1; 0: none) of those that change what is on disk fail with `error`, a write
 * in its middle; 0: kills the process there. One thread. */
void faults_files_begin(int64_t number, int error);

/* Ends that, and tells how many there were. */
int64_t faults_files_end(void);

#ifdef __cplusplus
}
#endif
#endif
