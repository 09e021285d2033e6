/* Command lines: argp fed from a table of options, with our own sentences for what is wrong. */
#include "cli/cli.h"

#include <argp.h>
#include <errno.h>
#include <string.h>

/* argp's keys over 255 have no short form. */
enum { KEY_HELP = 256, KEY_OPTION /* + index of the option */, OPTIONS_MAX = 64 };

typedef struct {
    const cli_usage *usage;
    const struct argp *argp;
    cli_list *arguments;
    const cli_option *last;   /* whose value the last word was, or NULL */
    const cli_option *greedy; /* the last whose list took more than one word, or NULL */
    uint64_t seen;            /* bit i: option i was given */
    mh_status excess;         /* of the first plain word too many: --help may come after it */
    mh_status status;
    bool helped;
} parsing;

static mh_status add_item(cli_list *list, const char *word)
{
    if (list->count == CLI_LIST_MAX)
        return mh_fail(MH_EUSAGE, "'%s' is one word too many; give at most %d", word, CLI_LIST_MAX);
    list->item[list->count++] = word;
    return MH_OK;
}

static mh_status set_number(const cli_option *option, const char *text)
{
    int64_t whole = 0;
    double number = 0;
    bool is_int = option->type == CLI_INT;
    bool good = is_int ? mh_text_to_int(text, &whole) : mh_text_to_double(text, &number);
    if (is_int)
        number = (double)whole;
    bool bounded = option->min != 0 || option->max != 0;
    if (good && bounded)
        good = number >= option->min && number <= option->max;
    const char *kind = is_int ? "whole number" : "number";
    if (!good && bounded)
        return mh_fail(MH_EUSAGE, "--%s takes a %s from %.12g to %.12g, not '%s'", option->name, kind,
                       option->min, option->max, text);
    if (!good)
        return mh_fail(MH_EUSAGE, "--%s takes a %s, not '%s'", option->name, kind, text);
    if (is_int)
        *(int64_t *)option->value = whole;
    else
        *(double *)option->value = number;
    return MH_OK;
}

static bool takes_many(const cli_option *option)
{
    size_t length = strlen(option->argument);
    return option->type == CLI_LIST && length > 3 && strcmp(option->argument + length - 3, "...") == 0;
}

/* A word that was meant for an option: KEY=VALUE without --set before it. */
static mh_status check_assignment(const parsing *p, const char *word)
{
    size_t key = strcspn(word, "=");
    bool assigns = word[key] == '=' && memchr(word, '.', key) != NULL && memchr(word, '/', key) == NULL;
    for (int i = 0; i < p->usage->option_count && assigns; i++) {
        const cli_option *option = &p->usage->options[i];
        if (option->type == CLI_LIST && !takes_many(option))
            return mh_fail(MH_EUSAGE, "'%s' is one word too many; write --%s before each %s", word,
                           option->name, option->argument);
    }
    return MH_OK;
}

/* Another: NAME,... with blanks instead of commas. */
static mh_status refuse_word(const parsing *p, const char *word)
{
    const cli_option *last = p->last;
    for (int a = 0; a < p->arguments->count; a++)
        MH_TRY(check_assignment(p, p->arguments->item[a]));
    MH_TRY(check_assignment(p, word));
    if (last != NULL && last->type == CLI_STRING && strchr(last->argument, ',') != NULL)
        return mh_fail(MH_EUSAGE, "'%s' is one word too many; --%s takes one, %s without blanks", word,
                       last->name, last->argument);
    return mh_fail(MH_EUSAGE, "'%s' is one word too many", word);
}

static mh_status add_word(parsing *p, const char *word)
{
    if (p->last != NULL && takes_many(p->last)) {
        p->greedy = p->last;
        return add_item(p->last->value, word);
    }
    if (p->arguments->count < p->usage->max_arguments || p->arguments->count == CLI_LIST_MAX)
        MH_TRY(add_item(p->arguments, word));
    else if (p->excess == MH_OK)
        p->excess = refuse_word(p, word);
    p->last = NULL;
    return MH_OK;
}

static mh_status set_option(parsing *p, int index, const char *text)
{
    const cli_option *option = &p->usage->options[index];
    p->seen |= UINT64_C(1) << index;
    p->last = option->type == CLI_FLAG ? NULL : option;
    switch (option->type) {
    case CLI_FLAG:
        *(bool *)option->value = true;
        return MH_OK;
    case CLI_STRING:
        *(const char **)option->value = text;
        return MH_OK;
    case CLI_CHOICE:
        return mh_choice_find(option->argument, text, option->value)
                   ? MH_OK
                   : mh_fail(MH_EUSAGE, "--%s takes one of %s, not '%s'", option->name, option->argument,
                             text);
    case CLI_LIST:
        return add_item(option->value, text);
    default:
        return set_number(option, text);
    }
}

/* What argp could not make sense of: a value missing or too many, or a name that is none. */
static mh_status explain(const cli_usage *usage, const char *word)
{
    char name[64];
    const char *start = word + strspn(word, "-");
    snprintf(name, sizeof name, "%.*s", (int)strcspn(start, "="), start);
    const cli_option *nearest = NULL;
    int least = strlen(name) < 4 ? (int)strlen(name) : 4; /* further than that is no misspelling */
    for (int i = 0; i < usage->option_count; i++) {
        const cli_option *option = &usage->options[i];
        if (strcmp(option->name, name) == 0)
            return option->type == CLI_FLAG
                       ? mh_fail(MH_EUSAGE, "--%s takes no value", option->name)
                       : mh_fail(MH_EUSAGE, "--%s needs a value: %s", option->name, option->argument);
        int distance = mh_text_distance(option->name, name);
        if (distance < least) {
            least = distance;
            nearest = option;
        }
    }
    if (nearest != NULL)
        return mh_fail(MH_EUSAGE, "there is no option '%s', the nearest is --%s", word, nearest->name);
    return mh_fail(MH_EUSAGE, "there is no option '%s'", word);
}

/* A run's folder where its recipe is meant. */
static mh_status check_recipe(const parsing *p)
{
    char recipe[MH_PATH];
    const char *path = p->arguments->item[0];
    if (strcmp(p->usage->arguments, "RECIPE.yaml") != 0 || !mh_path_is_dir(path))
        return MH_OK;
    MH_TRY(mh_path_join(recipe, path, "recipe.yaml"));
    if (!mh_path_exists(recipe))
        return mh_fail(MH_EUSAGE, "%s is a folder; name a recipe, a YAML file", path);
    return mh_fail(MH_EUSAGE, "%s is a folder; name the recipe, %s", path, recipe);
}

static mh_status check_complete(const parsing *p)
{
    const cli_usage *usage = p->usage;
    MH_TRY(p->excess);
    for (int i = 0; i < usage->option_count; i++)
        if (usage->options[i].required && (p->seen >> i & 1) == 0)
            return mh_fail(MH_EUSAGE, "--%s %s is missing", usage->options[i].name,
                           usage->options[i].argument);
    for (int a = 0; a < p->arguments->count; a++)
        if (!mh_path_exists(p->arguments->item[a]))
            MH_TRY(check_assignment(p, p->arguments->item[a]));
    if (p->arguments->count >= usage->min_arguments)
        return p->arguments->count > 0 ? check_recipe(p) : MH_OK;
    if (p->greedy != NULL)
        return mh_fail(MH_EUSAGE, "%s is missing: --%s takes all words behind it; put %s before it",
                       usage->arguments, p->greedy->name, usage->arguments);
    return mh_fail(MH_EUSAGE, "%s is missing", usage->arguments);
}

static void print_help(const parsing *p)
{
    argp_help(p->argp, stdout, ARGP_HELP_SHORT_USAGE | ARGP_HELP_PRE_DOC | ARGP_HELP_LONG,
              (char *)p->usage->command);
    puts("\nExamples:");
    /* not through argp, which would break long lines */
    for (const char *line = p->usage->examples; *line != '\0';) {
        int length = (int)strcspn(line, "\n");
        printf("  %.*s\n", length, line);
        line += length + (line[length] == '\n');
    }
}

static error_t on_key(int key, char *text, struct argp_state *state)
{
    parsing *p = state->input;
    if (key == KEY_HELP) {
        print_help(p);
        p->helped = true;
        return ECANCELED;
    } else if (key == ARGP_KEY_ARG) {
        if (state->quoted > 0) /* after "--" */
            p->last = NULL;
        p->status = add_word(p, text);
    } else if (key == ARGP_KEY_END) {
        p->status = check_complete(p);
    } else if (key == ARGP_KEY_ERROR && p->status == MH_OK && !p->helped) {
        p->status = explain(p->usage, state->argv[state->next - 1]);
    } else if (key >= KEY_OPTION && key < KEY_OPTION + OPTIONS_MAX) {
        p->status = set_option(p, key - KEY_OPTION, text);
    } else {
        return ARGP_ERR_UNKNOWN;
    }
    return p->status == MH_OK ? 0 : EINVAL;
}

/* Whether the last two words ask for a page of the manual or a completion, which is then printed. */
static bool asked_by_tools(const cli_usage *usage, int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "--man") == 0)
        cli_man_command(usage, argv[2]);
    else if (argc >= 3 && strcmp(argv[argc - 2], "--complete") == 0)
        cli_complete_command(usage, argv[argc - 3], argv[argc - 1]);
    else
        return false;
    return true;
}

int cli_parse(const cli_usage *usage, int argc, char **argv, cli_list *arguments)
{
    if (asked_by_tools(usage, argc, argv))
        return CLI_OK;
    struct argp_option options[OPTIONS_MAX + 2] = {0};
    int count = usage->option_count;
    for (int i = 0; i < count; i++)
        options[i] =
            (struct argp_option){usage->options[i].name, KEY_OPTION + i, usage->options[i].argument, 0,
                                 usage->options[i].help, i + 1};
    options[count] = (struct argp_option){"help", KEY_HELP, NULL, 0, "print this and end", count + 1};
    const struct argp argp = {options, on_key, usage->arguments, usage->summary, NULL, NULL, NULL};
    *arguments = (cli_list){0};
    parsing p = {.usage = usage, .argp = &argp, .arguments = arguments};
    /* In order, because a plain word may belong to the list before it. Long options only, so that the word
     * argp stumbled over is always the one before state->next. */
    unsigned flags = ARGP_IN_ORDER | ARGP_LONG_ONLY | ARGP_NO_ERRS | ARGP_NO_EXIT | ARGP_NO_HELP;
    if (argp_parse(&argp, argc, argv, flags, NULL, &p) == 0)
        return -1;
    if (p.helped)
        return CLI_OK;
    fprintf(stderr, "mhmoe: %s; try '%s --help'\n", mh_message(), usage->command);
    return CLI_USAGE;
}

mh_status cli_check_ending(const char *option, const char *path, const char *ending)
{
    size_t length = strlen(path), n = strlen(ending);
    if (length > n && strcmp(path + length - n, ending) == 0)
        return MH_OK;
    return mh_fail(MH_EUSAGE, "--%s takes a file whose name ends in %s, not '%s'", option, ending, path);
}

int cli_report(mh_status status)
{
    if (status == MH_OK)
        return CLI_OK;
    fprintf(stderr, "mhmoe: %s\n", mh_message());
    return status == MH_EUSAGE ? CLI_USAGE : CLI_FAILURE;
}
