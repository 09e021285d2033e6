/* mhmoe: the table of commands. */
#include "cli/cli.h"
#include "kernel/kernel.h"

#include <limits.h>
#include <omp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const cli_command commands[] = {
    {"init", "begin an experiment: a recipe that explains itself", cli_init},
    {"tokenizer", "train a tokenizer, encode and decode text", cli_tokenizer},
    {"data", "turn text into token files", cli_data},
    {"train", "train a model as a recipe says, or resume", cli_train},
    {"compare", "train several models alike, with several seeds, and compare them", cli_compare},
    {"eval", "measure perplexity and bits a byte, or answer zero-shot tasks", cli_eval},
    {"analyse", "show which experts text goes to", cli_analyse},
    {"report", "show runs on a page that opens offline", cli_report_page},
    {"generate", "continue a text", cli_generate},
    {"info", "parameters, FLOPs and memory of a checkpoint or recipe", cli_info},
    {"plan", "MH-MoE shapes that match a baseline's FLOPs and parameters", cli_plan},
    {"presets", "the layers a recipe knows by name, and what they cost", cli_presets},
    {"verify", "compare the layer or decoder with reference vectors", cli_verify},
    {"import", "convert other programs' checkpoints", cli_import},
    {"doctor", "show processor, kernels and libraries, and check them", cli_doctor},
    {"config", "list the keys of a recipe", cli_config},
    {"bench", "measure kernels, layers and steps against probe and rivals", cli_bench},
};
enum { COMMANDS = sizeof commands / sizeof commands[0] };

static void list_commands(FILE *out, const char *program, const cli_command *table, int count)
{
    fprintf(out, "Usage: %s COMMAND [OPTION...]\n\nCommands:\n", program);
    for (int i = 0; i < count; i++)
        fprintf(out, "  %-10s %s\n", table[i].name, table[i].summary);
    fprintf(out, "\n'%s COMMAND --help' tells more about a command.\n", program);
}

static void tell_unknown(const char *program, const cli_command *table, int count, const char *name)
{
    const char *nearest = NULL;
    int least = strlen(name) < 4 ? (int)strlen(name) : 4; /* further than that is no misspelling */
    for (int i = 0; i < count; i++) {
        int distance = mh_text_distance(table[i].name, name);
        if (distance < least) {
            least = distance;
            nearest = table[i].name;
        }
    }
    fprintf(stderr, "mhmoe: there is no command '%s %s'", program, name);
    if (nearest != NULL)
        fprintf(stderr, ", the nearest is '%s'", nearest);
    fprintf(stderr, "; '%s --help' lists the commands\n", program);
}

int cli_dispatch(const char *program, const cli_command *table, int count, int argc, char **argv)
{
    if (argc < 2) {
        list_commands(stderr, program, table, count);
        return CLI_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        list_commands(stdout, program, table, count);
        return CLI_OK;
    }
    if (argc == 3 && strcmp(argv[1], "--man") == 0) {
        cli_man_list(program, argv[2], table, count);
        return CLI_OK;
    }
    if (argc == 3 && strcmp(argv[1], "--complete") == 0) {
        cli_complete_list(argv[2], table, count);
        return CLI_OK;
    }
    for (int i = 0; i < count; i++)
        if (strcmp(argv[1], table[i].name) == 0) {
            char name[64];
            snprintf(name, sizeof name, "%s %s", program, table[i].name);
            argv[1] = name;
            return table[i].run(argc - 1, argv + 1);
        }
    tell_unknown(program, table, count, argv[1]);
    return CLI_USAGE;
}

/* Whether a write to this pipe would fail because its reader went away. */
static bool reader_left(int fd)
{
    struct pollfd state = {.fd = fd, .events = POLLOUT};
    return poll(&state, 1, 0) == 1 && (state.revents & POLLERR) != 0;
}

/* Results that could not be written (disk full) are a failure, though every printf looked fine. A reader who
 * went away ("| head") knows it, so only the exit code tells. */
static void close_output(void)
{
    bool left = reader_left(STDOUT_FILENO), lost = ferror(stdout) != 0;
    if (fclose(stdout) == 0 && !lost)
        return;
    if (!left)
        fputs("mhmoe: standard output could not be written (is the disk full?); the results are incomplete\n",
              stderr);
    _exit(CLI_FAILURE);
}

/* OMP_PROC_BIND has bound this thread to the first of its places before main; a program that it turns into
 * would find no other processor. */
static void unbind(void)
{
    cpu_set_t all;
    CPU_ZERO(&all);
    for (int place = 0; place < omp_get_num_places(); place++) {
        int processor[CPU_SETSIZE], count = omp_get_place_num_procs(place);
        if (count > CPU_SETSIZE)
            continue;
        omp_get_place_proc_ids(place, processor);
        for (int i = 0; i < count; i++)
            CPU_SET(processor[i], &all);
    }
    if (CPU_COUNT(&all) > 0)
        sched_setaffinity(0, sizeof all, &all);
}

/* Threads of OpenMP wait for each other by spinning unless told otherwise before the process starts. Where
 * another program has one of the processors, the spinning holds up the very thread that is waited for:
 * measured on two cores with two other processes, an update took 4 times as long. Sleeping instead costs some
 * microseconds a wait. */
static void wait_asleep(char **argv)
{
    char program[PATH_MAX]; /* resolved: of /proc/self/exe itself, the process would be called "exe" */
    if (getenv("OMP_WAIT_POLICY") == NULL && setenv("OMP_WAIT_POLICY", "passive", 1) == 0 &&
        realpath("/proc/self/exe", program) != NULL) {
        unbind();
        omp_pause_resource_all(omp_pause_hard); /* else clang's leaves its file in /dev/shm */
        execv(program, argv);                   /* comes back only where there is no /proc: then spin */
    }
}

int main(int argc, char **argv)
{
    wait_asleep(argv);
    atexit(close_output);
    /* Neither a broken pipe nor a limit on the size of files (ulimit -f) ends a training between two
     * checkpoints: writing fails instead, with a sentence. */
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);

    mh_status status = mh_isa_init();
    if (status != MH_OK)
        return cli_report(status);
    if (argc == 2 && (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-v") == 0))
        return cli_version();
    if (argc > 1 && strcmp(argv[1], "help") == 0) {
        /* "help COMMAND" is "COMMAND --help", "help" is "--help" */
        char *as_option[] = {argv[0], argc > 2 ? argv[2] : "--help", argc > 2 ? "--help" : NULL, NULL};
        return cli_dispatch("mhmoe", commands, COMMANDS, argc > 2 ? 3 : 2, as_option);
    }
    return cli_dispatch("mhmoe", commands, COMMANDS, argc, argv);
}
