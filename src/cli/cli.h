/* cli: one command a file; main.c is a table of them. Results go to stdout, messages to stderr. */
#ifndef MH_CLI_H
#define MH_CLI_H

#include "train/train.h"

enum { CLI_OK = 0, CLI_FAILURE = 1, CLI_USAGE = 2 };

/* ---- main.c: the table of commands, each in the file of its name --------------------------------------- */

typedef struct {
    const char *name, *summary;
    int (*run)(int argc, char **argv); /* argv[0] is "mhmoe NAME"; returns the exit code */
} cli_command;

/* Runs the command that argv[1] names with the words after it, its argv[0] being "PROGRAM NAME". Lists the
 * commands after --help, and on stderr where argv[1] is missing; for an unknown one it names the nearest.
 * Used by main and by commands that have commands of their own ("mhmoe data build"). */
int cli_dispatch(const char *program, const cli_command *commands, int count, int argc, char **argv);

int cli_init(int argc, char **argv);
int cli_tokenizer(int argc, char **argv);
int cli_data(int argc, char **argv);
int cli_train(int argc, char **argv);
int cli_compare(int argc, char **argv);
int cli_eval(int argc, char **argv);
int cli_report_page(int argc, char **argv);
int cli_generate(int argc, char **argv);
int cli_info(int argc, char **argv);
int cli_plan(int argc, char **argv);
int cli_presets(int argc, char **argv);
int cli_verify(int argc, char **argv);
int cli_import(int argc, char **argv);
int cli_doctor(int argc, char **argv);
int cli_config(int argc, char **argv);
int cli_analyse(int argc, char **argv);
int cli_bench(int argc, char **argv);

/* ---- version.c: what this program was made of ---------------------------------------------------------- */

/* The libraries' names and versions; the caller owns it. */
json_t *cli_libraries(void);

/* Prints them with commit, compiler and the instruction sets that the processor offers; the exit code. */
int cli_version(void);

/* ---- report.c: the page of runs ------------------------------------------------------------------------ */

/* report.html in a run's or comparison's folder that ended or was stopped. A page that cannot be written is
 * told of on stderr; the runs are none the worse. */
void cli_write_page(const char *folder);

/* ---- parse.c: argp fed from small tables --------------------------------------------------------------- */

typedef enum { CLI_FLAG, CLI_STRING, CLI_CHOICE, CLI_INT, CLI_FLOAT, CLI_LIST } cli_type;

#define CLI_LIST_MAX 1024

/* CLI_LIST: the option may be repeated. If its argument ends in "..." ("PATH...") it also takes the words
 * after it, up to the next option or "--" (--input a b c). */
typedef struct {
    const char *item[CLI_LIST_MAX];
    int count;
} cli_list;

/* value: bool*, const char**, int* or an enum's (which word of the argument "f32|bf16", from 0), int64_t*,
 * double*, cli_list*; unchanged where the option is absent. */
typedef struct {
    const char *name, *argument, *help;
    cli_type type;
    void *value;
    double min, max; /* INT and FLOAT; both 0: no bounds */
    bool required;
} cli_option;

typedef struct {
    const char *command;   /* "mhmoe train" */
    const char *arguments; /* "RECIPE.yaml", "FILE...", "" */
    const char *summary;   /* a sentence or two */
    const char *examples;  /* lines, each an example command */
    int min_arguments, max_arguments;
    const cli_option *options;
    int option_count; /* at most 64 */
} cli_usage;

/* Fills the options and `arguments` (positional words). Returns -1 to go on, or an exit code: 0 after --help,
 * 2 after a usage error (already told on stderr, with what to do next). */
int cli_parse(const cli_usage *usage, int argc, char **argv, cli_list *arguments);

/* Refuses a path that does not end as what --`option` writes does (".html"): it would replace some other
 * file. */
mh_status cli_check_ending(const char *option, const char *path, const char *ending);

/* "mhmoe: <sentence>" on stderr from mh_message(); returns CLI_USAGE for MH_EUSAGE, else CLI_FAILURE; CLI_OK
 * for MH_OK. */
int cli_report(mh_status status);

/* ---- manual.c: pages of the manual, and what a shell may complete a word to ---------------------------- */

/* Where the last two words are "--man SUMMARY" or "--complete WORD", which no help lists, cli_dispatch and
 * cli_parse end here. */

void cli_man_list(const char *program, const char *summary, const cli_command *commands, int count);
void cli_man_command(const cli_usage *usage, const char *summary);

/* `begun`: the word as far as it is typed; `before`: the one before it. */
void cli_complete_list(const char *begun, const cli_command *commands, int count);
void cli_complete_command(const cli_usage *usage, const char *before, const char *begun);

/* ---- tasks.c: the tasks of mhmoe eval ------------------------------------------------------------------ */

typedef struct {
    const char *names; /* with commas between them */
    const char *log;   /* file for a JSON line each question, or NULL */
    mh_task_options options;
} cli_tasks;

int cli_eval_tasks(const cli_tasks *tasks, const char *checkpoint, mh_precision precision, bool json);

/* ---- analysis.c: an analysis as tables ----------------------------------------------------------------- */

void cli_print_analysis(const json_t *analysis); /* the result of mh_analyse */

/* ---- progress.c: a bar on a terminal, plain lines elsewhere -------------------------------------------- */

/* For anything longer than two seconds; shows share, rate and time left. Use as mh_progress.report with a
 * cli_bar as its context. */
typedef struct {
    const char *what;      /* must outlive the bar: a literal */
    double started, first; /* when this `what` began, and its first `done` (not 0 after a resume) */
    double shown;          /* when last drawn */
    bool terminal, drawn;
    bool no_rate; /* what is done has no unit that people know */
} cli_bar;

void cli_bar_init(cli_bar *bar);
void cli_bar_report(void *bar, const char *what, double done, double total, const char *note);
void cli_bar_clear(cli_bar *bar); /* before anything else is printed to stderr, and at the end */

/* ---- signals.c: Ctrl-C --------------------------------------------------------------------------------- */

/* The first SIGINT or SIGTERM sets *flag, the second ends the process at once with the signal's default
 * action. */
const volatile int *cli_catch_signals(void);

/* ---- print.c: numbers as people read them -------------------------------------------------------------- */

const char *cli_bytes(double bytes, char out[32]);      /* "1.5 GiB" */
const char *cli_count(double count, char out[32]);      /* "12.3M" */
const char *cli_duration(double seconds, char out[32]); /* "3m 20s" */
/* "57.23" with two decimals; "1.234e+40" where these would be a row of digits */
const char *cli_real(double value, int decimals, char out[32]);
int cli_print_json(json_t *json); /* one object on stdout, consumed; returns an exit code */

#endif
