/* Ctrl-C: once to finish cleanly, twice to end at once. */
#include "cli/cli.h"

#include <errno.h>
#include <signal.h>
#include <unistd.h>

static volatile sig_atomic_t stop;

static void on_signal(int number)
{
    (void)number;
    stop = 1;
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    static const char text[] =
        "\nmhmoe: stopping as soon as the work allows; a second signal ends it at once\n";
    int error = errno;
    ssize_t told = write(STDERR_FILENO, text, sizeof text - 1); /* work inside a library may take long */
    (void)told;
    errno = error;
}

const volatile int *cli_catch_signals(void)
{
    /* SA_RESTART: a write of a checkpoint must not fail because of the signal that asks for it. */
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    return &stop;
}
