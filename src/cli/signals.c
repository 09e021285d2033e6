/* Ctrl-C: once to finish cleanly, twice to end at once. */
#include "cli/cli.h"

#include <signal.h>

static volatile sig_atomic_t stop;

static void on_signal(int number)
{
    (void)number;
    stop = 1;
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
}

const volatile int *cli_catch_signals(void)
{
    /* SA_RESTART: a write of a checkpoint must not fail because of the signal that asks for it. */
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    return &stop;
}
