/* Progress of long work on stderr: a bar on a terminal, plain lines elsewhere. */
#include "cli/cli.h"

#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define QUIET           2.0 /* seconds in which nothing is shown */
#define BAR_INTERVAL    0.2 /* seconds between two drawings of the bar */
#define LINE_INTERVAL   10.0
#define BAR_WIDTH       30 /* at most; a narrow terminal gets a shorter bar, or none */
#define DEFAULT_COLUMNS 80

void cli_bar_init(cli_bar *bar)
{
    const char *term = getenv("TERM");
    *bar = (cli_bar){.terminal = isatty(STDERR_FILENO) && term != NULL && strcmp(term, "dumb") != 0};
}

static int columns(void)
{
    struct winsize size;
    return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : DEFAULT_COLUMNS;
}

/* " 42 %  3.1M/s  1m 20s left  note" */
static void describe(char out[256], const cli_bar *bar, double done, double total, const char *note,
                     double now)
{
    char count[32], time[32];
    double seconds = now - bar->started, rate = (done - bar->first) / seconds;
    int n = total > 0 ? snprintf(out, 256, "%3.0f %%", 100 * done / total)
                      : snprintf(out, 256, "%s", cli_count(done, count));
    if (rate > 0 && !bar->no_rate)
        n += snprintf(out + n, 256 - n, "  %s/s", cli_count(rate, count));
    if (rate > 0 && total > 0)
        n += snprintf(out + n, 256 - n, "  %s left", cli_duration((total - done) / rate, time));
    else
        n += snprintf(out + n, 256 - n, "  %s", cli_duration(seconds, time));
    if (note != NULL)
        snprintf(out + n, 256 - n, "  %s", note);
}

static void draw(const char *what, const char *text, double share)
{
    /* The last column stays free: writing it would wrap the line on some terminals. */
    int room = columns() - 1 - (int)(strlen(what) + strlen(text)) - 4;
    char line[512] = "";
    if (share >= 0 && room >= 5) {
        int width = room < BAR_WIDTH ? room : BAR_WIDTH, full = (int)(share * width);
        char bar[BAR_WIDTH + 1];
        for (int i = 0; i < width; i++)
            bar[i] = i < full ? '=' : i == full ? '>' : ' ';
        bar[width] = '\0';
        snprintf(line, sizeof line, "%s [%s] %s", what, bar, text);
    } else {
        snprintf(line, sizeof line, "%s %s", what, text);
    }
    fprintf(stderr, "\r%.*s\033[K", columns() - 1, line);
    fflush(stderr);
}

void cli_bar_report(void *context, const char *what, double done, double total, const char *note)
{
    cli_bar *bar = context;
    double now = mh_seconds();
    if (bar->what == NULL || strcmp(bar->what, what) != 0) {
        cli_bar_clear(bar);
        bar->what = what;
        bar->started = bar->shown = now;
        bar->first = done;
    }
    double interval = bar->terminal ? BAR_INTERVAL : LINE_INTERVAL;
    if (now - bar->started < QUIET || now - bar->shown < interval)
        return;
    char text[256];
    describe(text, bar, done, total, note, now);
    if (bar->terminal)
        draw(what, text, total > 0 ? done / total : -1);
    else
        fprintf(stderr, "%s %s\n", what, text);
    bar->shown = now;
    bar->drawn = bar->terminal;
}

void cli_bar_clear(cli_bar *bar)
{
    if (bar->drawn)
        fputs("\r\033[K", stderr);
    bar->drawn = false;
}
