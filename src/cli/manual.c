/* The pages of the manual and the shells' completions, from the tables that --help prints. Both are asked for
 * by words that no help lists: "mhmoe train --man SUMMARY" (tools/man), "mhmoe train --complete --re"
 * (tools/mhmoe.bash, tools/_mhmoe). */
#include "cli/cli.h"

#include <ctype.h>
#include <string.h>

/* ---- roff ---------------------------------------------------------------------------------------------- */

/* Text as roff takes it: of itself it makes "-" a hyphen and "'" a curly quote, which no shell understands.
 */
static void put_n(const char *text, size_t length)
{
    static const struct {
        char c;
        const char *roff;
    } special[] = {{'-', "\\-"},   {'\\', "\\e"},  {'\'', "\\(aq"},
                   {'`', "\\(ga"}, {'^', "\\(ha"}, {'~', "\\(ti"}};
    if (length > 0 && *text == '.')
        fputs("\\&", stdout);
    for (size_t i = 0; i < length; i++) {
        const char *roff = NULL;
        for (size_t j = 0; j < sizeof special / sizeof *special; j++)
            if (special[j].c == text[i])
                roff = special[j].roff;
        if (roff != NULL)
            fputs(roff, stdout);
        else
            putchar(text[i]);
    }
}

static void put(const char *text)
{
    put_n(text, strlen(text));
}

static void put_line(const char *text)
{
    put(text);
    putchar('\n');
}

/* "mhmoe data build" -> "mhmoe-data-build" */
static void page_name(char name[64], const char *command)
{
    snprintf(name, 64, "%s", command);
    for (char *space = name; (space = strchr(space, ' ')) != NULL;)
        *space = '-';
}

static void put_head(const char *command, const char *summary)
{
    char name[64], title[64];
    page_name(name, command);
    for (size_t i = 0; i == 0 || name[i - 1] != '\0'; i++)
        title[i] = (char)toupper((unsigned char)name[i]);
    fputs(".TH ", stdout);
    put(title);
    fputs(" 1 \"\" \"mhmoe " MHMOE_VERSION "\" \"mhmoe\"\n.SH NAME\n", stdout);
    put(name);
    fputs(" \\- ", stdout);
    put_line(summary);
    printf(".SH SYNOPSIS\n.B %s\n", command);
}

static void put_reference(const char *command)
{
    char name[64];
    page_name(name, command);
    fputs(".BR ", stdout);
    put(name);
    puts(" (1)");
}

static void put_options(const cli_usage *usage)
{
    puts(".SH OPTIONS");
    for (int i = 0; i < usage->option_count; i++) {
        const cli_option *option = &usage->options[i];
        fputs(".TP\n\\fB\\-\\-", stdout);
        put(option->name);
        fputs("\\fR", stdout);
        if (option->argument != NULL) {
            fputs("=\\fI", stdout);
            put(option->argument);
            fputs("\\fR", stdout);
        }
        putchar('\n');
        put_line(option->help);
    }
    puts(".TP\n\\fB\\-\\-help\\fR\nprint a summary of this and end");
}

static void put_examples(const char *examples)
{
    puts(".SH EXAMPLES\n.EX");
    for (const char *line = examples; *line != '\0';) {
        size_t length = strcspn(line, "\n");
        put_n(line, length);
        putchar('\n');
        line += length + (line[length] == '\n');
    }
    puts(".EE");
}

void cli_man_command(const cli_usage *usage, const char *summary)
{
    put_head(usage->command, summary);
    puts("[\\fIOPTION\\fR...]\\&");
    if (*usage->arguments != '\0') {
        fputs("\\fI", stdout);
        put(usage->arguments);
        puts("\\fR");
    }
    puts(".SH DESCRIPTION");
    put_line(usage->summary);
    put_options(usage);
    put_examples(usage->examples);
    puts(".SH \"SEE ALSO\"");
    put_reference("mhmoe");
}

void cli_man_list(const char *program, const char *summary, const cli_command *table, int count)
{
    char command[64];
    put_head(program, summary);
    puts("\\fICOMMAND\\fR [\\fIOPTION\\fR...]\n.SH COMMANDS");
    for (int i = 0; i < count; i++) {
        snprintf(command, sizeof command, "%s %s", program, table[i].name);
        puts(".TP");
        put_reference(command);
        put_line(table[i].summary);
    }
    puts(".SH \"EXIT STATUS\"\n0 after success, 1 after a failure, 2 where the command line is wrong.\n"
         ".SH ENVIRONMENT\n"
         ".TP\n.B OMP_NUM_THREADS\nthreads to compute with; the results do not depend on it\n"
         ".TP\n.B OMP_WAIT_POLICY\n\"active\" gains some per cent on a machine that does nothing else\n"
         ".TP\n.B MHMOE_ISA\nan instruction set to step down to; \"mhmoe doctor\" lists them");
}

/* ---- completion: a line "WORD\tWHAT IT IS" for each word that may stand here; none: files -------------- */

static void offer(const char *begun, const char *word, const char *what)
{
    if (strncmp(word, begun, strlen(begun)) == 0)
        printf("%s\t%s\n", word, what);
}

void cli_complete_list(const char *begun, const cli_command *table, int count)
{
    for (int i = 0; i < count; i++)
        offer(begun, table[i].name, table[i].summary);
}

/* Choices and recipe keys are known; other values may be files. */
static void complete_value(const cli_option *option, const char *begun)
{
    char word[128];
    if (strcmp(option->argument, "KEY=VALUE") == 0) {
        for (int s = 0; s < mh_recipe_options.count; s++) {
            const mh_section *section = &mh_recipe_options.sections[s];
            for (int i = 0; i < section->count; i++) {
                snprintf(word, sizeof word, "%s.%s=", section->name, section->rows[i].key);
                offer(begun, word, section->rows[i].help);
            }
        }
    } else if (option->type == CLI_CHOICE) {
        const char *name;
        int length;
        for (int i = 0; mh_choice_at(option->argument, i, &name, &length); i++) {
            snprintf(word, sizeof word, "%.*s", length, name);
            offer(begun, word, option->help);
        }
    }
}

void cli_complete_command(const cli_usage *usage, const char *before, const char *begun)
{
    char word[128];
    for (int i = 0; i < usage->option_count; i++) {
        const cli_option *option = &usage->options[i];
        snprintf(word, sizeof word, "--%s", option->name);
        if (option->argument != NULL && strcmp(before, word) == 0) {
            complete_value(option, begun);
            return;
        }
    }
    for (int i = 0; *begun == '-' && i < usage->option_count; i++) {
        snprintf(word, sizeof word, "--%s", usage->options[i].name);
        offer(begun, word, usage->options[i].help);
    }
    if (*begun == '-')
        offer(begun, "--help", "print a summary of this and end");
}
