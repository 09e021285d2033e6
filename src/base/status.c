/* status: failures as sentences, one a thread. */
#include "base/base.h"

#include <errno.h>
#include <stdarg.h>
#include <string.h>

#undef mh_fail
#undef mh_fail_in

/* Room for two long paths and what is to be said about them. */
#define MESSAGE (2 * MH_PATH + 1024)

static _Thread_local char message[MESSAGE];

const char *mh_message(void)
{
    return message;
}

/* Sentences quote names and values from files that nobody checked; none may steer the reader's terminal. */
static void store(const char *sentence)
{
    size_t n = strnlen(sentence, MESSAGE - 1);
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)sentence[i], next = (unsigned char)sentence[i + 1];
        bool control = c < 0x20 || c == 0x7f || (c == 0xc2 && next >= 0x80 && next < 0xa0);
        message[i] = control ? '?' : sentence[i];
        if (control && c == 0xc2) /* U+0080 to U+009F: two bytes */
            message[++i] = '?';
    }
    message[n] = '\0';
}

mh_status mh_fail(mh_status status, const char *format, ...)
{
    char sentence[MESSAGE]; /* the arguments may include mh_message() itself */
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(sentence, sizeof sentence, format, arguments);
    va_end(arguments);
    size_t n = strlen(sentence);
    if (status == MH_EMEMORY && strchr(sentence, ';') == NULL) /* whatever it was for, the same helps */
        snprintf(sentence + n, sizeof sentence - n, "; free memory and try again");
    store(sentence);
    return status;
}

mh_status mh_fail_in(mh_status status, const char *format, ...)
{
    char context[MESSAGE];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(context, sizeof context, format, arguments);
    va_end(arguments);
    return mh_fail(status, "%s: %s", context, message);
}

static const char *remedy(int error)
{
    switch (error) {
    case ENOSPC:
    case EDQUOT:
        return "; the disk is full: free space or choose another place";
    case EFBIG:
        return "; files may not grow that large here: raise the limit (ulimit -f) or choose another place";
    case EROFS:
        return "; the file system is read-only: choose another place";
    case EACCES:
    case EPERM:
        return "; check the permissions or choose another place";
    case ENOENT:
    case ENOTDIR:
    case ELOOP:
        return "; check the path";
    case ENAMETOOLONG:
        return "; choose a shorter one";
    case EISDIR:
        return "; name a file in it";
    case EMFILE:
    case ENFILE:
        return "; raise the limit on open files (ulimit -n)";
    case EIO:
        return "; the device may be failing: choose another place";
    case ENOMEM:
        return ""; /* mh_fail knows */
    default:
        return "; remove the cause and try again";
    }
}

mh_status mh_fail_errno(const char *doing, const char *path)
{
    int error = errno;
    return mh_fail(error == ENOMEM ? MH_EMEMORY : MH_EIO, "cannot %s %s: %s%s", doing, path, strerror(error),
                   remedy(error));
}

const char *mh_status_text(mh_status status)
{
#define MH_STATUS_CASE(name, text) \
    case name:                     \
        return text;
    switch (status) {
        MH_STATUS_LIST(MH_STATUS_CASE)
    }
#undef MH_STATUS_CASE
    return "unknown status";
}
