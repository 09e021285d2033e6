/* file: paths, whole files, files that appear only when complete, and memory maps. */
#include "base/base.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

mh_status mh_path_join(char out[MH_PATH], const char *dir, const char *name)
{
    size_t n = strlen(dir);
    const char *slash = n > 0 && dir[n - 1] != '/' ? "/" : "";
    if (snprintf(out, MH_PATH, "%s%s%s", dir, slash, name) >= MH_PATH)
        return mh_fail(MH_EVALUE, "the path %.100s.../%.100s is longer than %d characters; use shorter names",
                       dir, name, MH_PATH - 1);
    return MH_OK;
}

bool mh_path_exists(const char *path)
{
    return access(path, F_OK) == 0;
}

bool mh_path_is_dir(const char *path)
{
    struct stat s;
    return stat(path, &s) == 0 && S_ISDIR(s.st_mode);
}

bool mh_path_same(const char *a, const char *b)
{
    struct stat s, t;
    return stat(a, &s) == 0 && stat(b, &t) == 0 && s.st_dev == t.st_dev && s.st_ino == t.st_ino;
}

void mh_path_nearest(char out[MH_PATH], const char *path)
{
    char copy[MH_PATH], *nearest = copy;
    snprintf(copy, sizeof copy, "%s", path);
    while (!mh_path_exists(nearest) && strcmp(nearest, ".") != 0 && strcmp(nearest, "/") != 0)
        nearest = dirname(nearest);
    snprintf(out, MH_PATH, "%s", nearest);
}

mh_status mh_path_check_new(const char *path)
{
    struct stat s;
    if (lstat(path, &s) != 0) /* a link to nothing exists */
        return MH_OK;
    return mh_fail(MH_ESTATE, "%s exists already; choose another output or remove it first", path);
}

mh_status mh_make_dirs(const char *path)
{
    char part[MH_PATH] = "";
    MH_TRY(mh_path_join(part, path, ""));
    for (char *slash = part + 1; (slash = strchr(slash, '/')) != NULL; slash++) {
        *slash = '\0';
        int error = mkdir(part, 0777) == 0 ? 0 : errno; /* of mkdir: stat sets its own */
        /* A folder that stands already may answer EROFS or EACCES instead of EEXIST. */
        if (error != 0 && !mh_path_is_dir(part)) {
            errno = error;
            return mh_fail_errno("create folder", part);
        }
        mh_status status = error == 0 ? mh_sync_parent(part) : MH_OK;
        if (status != MH_OK) {
            rmdir(part); /* what stands already is not synced by the next attempt */
            return status;
        }
        *slash = '/';
    }
    return MH_OK;
}

mh_status mh_make_parent(const char *path)
{
    char parent[MH_PATH];
    MH_TRY(mh_path_join(parent, "", path));
    return mh_make_dirs(dirname(parent));
}

mh_status mh_file_read(const char *path, size_t limit, mh_text *out)
{
    *out = (mh_text){0};
    mh_status status = MH_OK;
    FILE *file = fopen(path, "rbe");
    if (file == NULL)
        return mh_fail_errno("open", path);
    char block[1 << 16];
    size_t n;
    struct stat s;
    /* Known before it is read, unless it is a pipe or grows. */
    bool larger = fstat(fileno(file), &s) == 0 && S_ISREG(s.st_mode) && s.st_size > (off_t)limit;
    while (status == MH_OK && !larger && (n = fread(block, 1, sizeof block, file)) > 0) {
        larger = n > limit - out->length;
        if (!larger)
            status = mh_text_add(out, block, n);
    }
    if (larger)
        status = mh_fail(MH_EFORMAT, "%s is larger than the %zu bytes allowed for such a file; name another",
                         path, limit);
    if (status == MH_OK && ferror(file))
        status = mh_fail_errno("read", path);
    if (status == MH_OK)
        status = mh_text_add(out, "", 0); /* an empty file is an empty string, too */
    fclose(file);
    if (status != MH_OK)
        mh_text_release(out);
    return status;
}

/* Some file systems cannot sync a folder and say EINVAL. */
mh_status mh_sync_parent(const char *path)
{
    char copy[MH_PATH];
    snprintf(copy, sizeof copy, "%s", path);
    const char *parent = dirname(copy);
    int fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 && errno == EACCES) /* a folder may be written that may not be read */
        return MH_OK;
    if (fd < 0)
        return mh_fail_errno("open folder", parent);
    int failed = fsync(fd) != 0 && errno != EINVAL;
    mh_status status = failed ? mh_fail_errno("sync folder", parent) : MH_OK;
    close(fd);
    return status;
}

/* Two processes that write one file: each would rename what the other has begun. Where locks are unknown,
 * that is the user's care. */
static mh_status take_alone(int fd, const mh_writer *writer)
{
    struct stat held, named;
    bool taken = flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
    if (taken || fstat(fd, &held) != 0 || stat(writer->aside, &named) != 0 || held.st_ino != named.st_ino)
        return mh_fail(MH_ESTATE,
                       "%s is being written by another process; wait for it, or choose another name",
                       writer->path);
    return MH_OK;
}

mh_status mh_writer_open(mh_writer *writer, const char *path)
{
    writer->file = NULL;
    MH_TRY(mh_path_join(writer->path, "", path));
    snprintf(writer->aside, sizeof writer->aside, "%s" MH_ASIDE, path);
    struct stat s;
    if (stat(path, &s) == 0 && !S_ISREG(s.st_mode)) /* renaming onto /dev/null would replace it */
        return mh_fail(MH_EIO, "cannot write %s: it is a %s; choose the name of a file", path,
                       S_ISDIR(s.st_mode) ? "folder" : "device, a pipe or the like");
    int fd = open(writer->aside, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (fd < 0)
        return mh_fail_errno("write", errno == EISDIR || errno == ELOOP ? writer->aside : path);
    mh_status status = take_alone(fd, writer);
    if (status == MH_OK && (ftruncate(fd, 0) != 0 || (writer->file = fdopen(fd, "wb")) == NULL)) {
        status = mh_fail_errno("write", path);
        unlink(writer->aside);
    }
    if (status != MH_OK)
        close(fd);
    return status;
}

mh_status mh_writer_put(mh_writer *writer, const void *data, size_t bytes)
{
    if (bytes > 0 && fwrite(data, 1, bytes, writer->file) != bytes)
        return mh_fail_errno("write", writer->path);
    return MH_OK;
}

void mh_writer_abort(mh_writer *writer)
{
    if (writer->file == NULL)
        return;
    unlink(writer->aside); /* while the lock is held */
    fclose(writer->file);
    writer->file = NULL;
}

mh_status mh_writer_commit(mh_writer *writer)
{
    FILE *file = writer->file;
    /* ferror: an earlier failed write whose status the caller did not look at */
    if (ferror(file) || fflush(file) != 0 || fsync(fileno(file)) != 0 ||
        rename(writer->aside, writer->path) != 0) {
        mh_status status = mh_fail_errno("write", writer->path);
        mh_writer_abort(writer);
        return status;
    }
    fclose(file);
    writer->file = NULL;
    return mh_sync_parent(writer->path);
}

mh_status mh_file_write(const char *path, const void *data, size_t bytes)
{
    mh_writer writer;
    MH_TRY(mh_writer_open(&writer, path));
    mh_status status = mh_writer_put(&writer, data, bytes);
    if (status == MH_OK)
        return mh_writer_commit(&writer);
    mh_writer_abort(&writer);
    return status;
}

mh_status mh_map_open(mh_map *map, const char *path)
{
    *map = (mh_map){0};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return mh_fail_errno("open", path);
    mh_status status = MH_OK;
    struct stat s;
    if (fstat(fd, &s) != 0) {
        status = mh_fail_errno("open", path);
    } else if (!S_ISREG(s.st_mode)) {
        status = mh_fail(MH_EIO, "%s is not a regular file; name one", path);
    } else if (s.st_size > 0) {
        void *data = mmap(NULL, (size_t)s.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (data == MAP_FAILED)
            status = mh_fail_errno("map", path);
        else
            *map = (mh_map){data, (size_t)s.st_size};
    }
    close(fd);
    return status;
}

void mh_map_close(mh_map *map)
{
    if (map->data != NULL)
        munmap((void *)map->data, map->size);
    *map = (mh_map){0};
}
