/* folder: folders that appear only when complete. */
#include "base/base.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { OPEN_FOLDERS = 16 }; /* that nftw may hold open at once */

/* path, without slashes at its end, and `suffix`: those would name something inside it. */
static mh_status beside(char out[MH_PATH], const char *path, const char *suffix)
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    if (n == 0 || n + strlen(suffix) >= MH_PATH)
        return mh_fail(MH_EVALUE, "\"%.100s\" is empty or too long for the name of a folder; choose another",
                       path);
    memcpy(out, path, n);
    strcpy(out + n, suffix);
    return MH_OK;
}

static int remove_entry(const char *path, const struct stat *s, int kind, struct FTW *walk)
{
    (void)s, (void)kind, (void)walk;
    return remove(path) == 0 ? 0 : (int)mh_fail_errno("remove", path);
}

static int sync_entry(const char *path, const struct stat *s, int kind, struct FTW *walk)
{
    (void)s, (void)walk;
    if (kind != FTW_F && kind != FTW_DP)
        return 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return (int)mh_fail_errno("open", path);
    int failed = fsync(fd) != 0 && errno != EINVAL; /* a pipe, or a folder on some file systems */
    mh_status status = failed ? mh_fail_errno("sync", path) : MH_OK;
    close(fd);
    return (int)status;
}

/* Contents before their folder. An error of the walk itself is -1, one of `each` its status. */
static mh_status walk_tree(const char *path, __nftw_func_t each)
{
    int result = nftw(path, each, OPEN_FOLDERS, FTW_DEPTH | FTW_PHYS);
    return result == -1 ? mh_fail_errno("read folder", path) : (mh_status)result;
}

mh_status mh_remove_tree(const char *path)
{
    struct stat s;
    if (lstat(path, &s) != 0 && errno == ENOENT)
        return MH_OK;
    return walk_tree(path, remove_entry);
}

mh_status mh_folder_begin(char aside[MH_PATH], const char *path)
{
    MH_TRY(beside(aside, path, MH_ASIDE));
    MH_TRY(mh_remove_tree(aside));
    return mh_make_dirs(aside);
}

mh_status mh_folder_commit(const char *aside, const char *path)
{
    char final[MH_PATH];
    MH_TRY(beside(final, path, ""));
    MH_TRY(walk_tree(aside, sync_entry));
    if (mh_path_exists(final))
        return mh_fail(
            MH_ESTATE,
            "%s has appeared meanwhile and is not replaced; choose another output or remove it first", final);
    /* Should it appear just here, rename itself refuses a folder that holds something. */
    if (rename(aside, final) != 0)
        return mh_fail_errno("rename to", final);
    return mh_sync_parent(final);
}

mh_status mh_new_folder_begin(mh_new_folder *folder, const char *path)
{
    char lock[MH_PATH];
    folder->lock = (mh_lock){0}; /* for mh_new_folder_abort */
    MH_TRY(beside(folder->path, path, ""));
    MH_TRY(beside(lock, path, ".mhmoe-lock"));
    MH_TRY(mh_make_parent(folder->path));
    MH_TRY(mh_path_check_new(folder->path)); /* now: the parent of "new/." is "new" */
    MH_TRY(mh_lock_take(&folder->lock, lock));
    mh_status status = mh_folder_begin(folder->aside, path);
    if (status != MH_OK)
        mh_lock_remove(&folder->lock);
    return status;
}

void mh_new_folder_abort(mh_new_folder *folder)
{
    if (!mh_lock_held(&folder->lock))
        return;
    char why[2 * MH_PATH];
    snprintf(why, sizeof why, "%s", mh_message());
    mh_remove_tree(folder->aside);
    mh_lock_remove(&folder->lock);
    mh_fail(MH_OK, "%s", why); /* not what hindered the removal */
}

mh_status mh_new_folder_commit(mh_new_folder *folder)
{
    mh_status status = mh_folder_commit(folder->aside, folder->path);
    if (status == MH_OK)
        mh_lock_remove(&folder->lock);
    else
        mh_new_folder_abort(folder);
    return status;
}
