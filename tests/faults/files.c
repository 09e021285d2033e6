/* files: the calls that change what is on disk. In a test one of them fails; in a process that has this file
 * as LD_PRELOAD, and FAULTS_KILL=N in its environment, call number N is the last thing that happens. */
#include "faults/faults.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool counting;
static int64_t counted, failing;
static int error; /* 0: the process dies */

void faults_files_begin(int64_t number, int what)
{
    counted = 0;
    failing = number;
    error = what;
    counting = true;
}

int64_t faults_files_end(void)
{
    counting = false;
    return counted;
}

__attribute__((constructor)) static void begin_by_environment(void)
{
    const char *number = getenv("FAULTS_KILL");
    if (number != NULL)
        faults_files_begin(atoll(number), 0);
}

/* Whether this call is to fail. A write does half of its work before. */
static bool due(void)
{
    return counting && ++counted == failing;
}

static void fail(void)
{
    if (error == 0)
        kill(getpid(), SIGKILL);
    errno = error;
}

#define REAL(type, name) ((type)dlsym(RTLD_NEXT, name))

/* Those that do all or nothing. */
#define CALL(result, failure, name, parameters, ...)           \
    result name parameters                                     \
    {                                                          \
        if (due()) {                                           \
            fail();                                            \
            return failure;                                    \
        }                                                      \
        return REAL(result(*) parameters, #name)(__VA_ARGS__); \
    }

CALL(int, -1, rename, (const char *from, const char *to), from, to)
CALL(int, -1, ftruncate, (int fd, off_t length), fd, length)
CALL(int, -1, mkdir, (const char *path, mode_t mode), path, mode)
CALL(int, -1, unlink, (const char *path), path)
CALL(int, -1, remove, (const char *path), path)
CALL(int, EOF, fflush, (FILE * file), file)

/* Nobody pulls the plug here, and this takes most of a test's time. */
int fsync(int fd)
{
    (void)fd;
    if (due()) {
        fail();
        return -1;
    }
    return 0;
}

int open(const char *path, int flags, ...)
{
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = flags & O_CREAT ? va_arg(arguments, mode_t) : 0;
    va_end(arguments);
    if (flags & O_CREAT && due()) {
        fail();
        return -1;
    }
    return REAL(int (*)(const char *, int, ...), "open")(path, flags, mode);
}

FILE *fopen(const char *path, const char *mode)
{
    if (mode[0] != 'r' && due()) {
        fail();
        return NULL;
    }
    return REAL(FILE * (*)(const char *, const char *), "fopen")(path, mode);
}

ssize_t write(int fd, const void *data, size_t bytes)
{
    ssize_t (*real)(int, const void *, size_t) = REAL(ssize_t(*)(int, const void *, size_t), "write");
    if (fd <= STDERR_FILENO || !due())
        return real(fd, data, bytes);
    if (real(fd, data, bytes / 2) >= 0)
        fail();
    return -1;
}

size_t fwrite(const void *data, size_t size, size_t count, FILE *file)
{
    size_t (*real)(const void *, size_t, size_t, FILE *) =
        REAL(size_t(*)(const void *, size_t, size_t, FILE *), "fwrite");
    if (file == stdout || file == stderr || !due())
        return real(data, size, count, file);
    size_t written = real(data, size, count / 2, file);
    REAL(int (*)(FILE *), "fflush")(file);
    fail();
    return written;
}
