/* progress: what long work tells its caller, and how the caller stops it. */
#include "base/base.h"

void mh_progress_report(const mh_progress *progress, const char *what, double done, double total,
                        const char *note)
{
    if (progress != NULL && progress->report != NULL)
        progress->report(progress->context, what, done, total, note);
}

bool mh_progress_stopped(const mh_progress *progress)
{
    return progress != NULL && progress->stop != NULL && *progress->stop != 0;
}
