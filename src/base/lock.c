/* lock: one holder at a time, found dead by the system if it dies. */
#include "base/base.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

mh_status mh_lock_take(mh_lock *lock, const char *path)
{
    lock->fd = -1;
    MH_TRY(mh_path_join(lock->path, "", path));
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (fd < 0)
        return mh_fail_errno("lock", path);
    mh_status status = MH_OK;
    char holder[128], host[64] = "";
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK) {
            status = mh_fail_errno("lock", path);
        } else {
            ssize_t n = read(fd, holder, sizeof holder - 1);
            holder[n > 0 ? n : 0] = '\0';
            status = mh_fail(MH_ESTATE, "%s is held by process %s; wait for it to end, or stop it", path,
                             n > 0 ? holder : "unknown");
        }
        goto fail;
    }
    struct stat held, named;
    if (fstat(fd, &held) != 0 || stat(path, &named) != 0 || held.st_dev != named.st_dev ||
        held.st_ino != named.st_ino) { /* its holder has removed it since we opened it */
        status = mh_fail(MH_ESTATE, "%s was held until this moment; try again", path);
        goto fail;
    }
    gethostname(host, sizeof host - 1);
    int n = snprintf(holder, sizeof holder, "%ld on %s", (long)getpid(), host);
    if (ftruncate(fd, 0) != 0 || write(fd, holder, (size_t)n) != n) {
        status = mh_fail_errno("write", path);
        unlink(path); /* nobody else holds it */
        goto fail;
    }
    lock->fd = fd;
    return MH_OK;
fail:
    close(fd);
    return status;
}

/* A lock that is {0} was never taken, and descriptor 0 is not its own. */
bool mh_lock_held(const mh_lock *lock)
{
    return lock->path[0] != '\0' && lock->fd >= 0;
}

void mh_lock_release(mh_lock *lock)
{
    if (mh_lock_held(lock))
        close(lock->fd);
    lock->fd = -1;
}

/* Removed while held: afterwards the name may be another's. */
void mh_lock_remove(mh_lock *lock)
{
    if (mh_lock_held(lock))
        unlink(lock->path);
    mh_lock_release(lock);
}
