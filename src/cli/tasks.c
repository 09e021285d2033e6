/* Zero-shot tasks of mhmoe eval. */
#include "cli/cli.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A task from its loading to its result. */
typedef struct {
    mh_items items;
    mh_task_result result;
    bool scored;
} entry;

/* What was left out or cut, so that no figure passes for that of the whole task. */
static void tell_gaps(const entry *e, int64_t context)
{
    const mh_items *items = &e->items;
    int64_t told = 0;
    for (const char *line = items->complaints.data; line != NULL && *line != '\0'; told++) {
        int length = (int)strcspn(line, "\n");
        fprintf(stderr, "mhmoe: %.*s\n", length, line);
        line += length + 1;
    }
    if (items->left_out > 0)
        fprintf(stderr, "mhmoe: %s: left out %lld of %lld questions%s\n", items->task.name,
                (long long)items->left_out, (long long)(items->left_out + items->count),
                items->left_out > told ? ", of which the first are named above" : "");
    if (e->result.truncated > 0)
        fprintf(stderr,
                "mhmoe: %s: %lld of %lld questions are longer than the model's context of %lld tokens, their "
                "beginnings were cut off\n",
                items->task.name, (long long)e->result.truncated, (long long)items->count,
                (long long)context);
}

static double rate(const mh_task_result *r)
{
    return r->seconds > 0 ? (double)r->items / r->seconds : 0;
}

static void print_table(const entry *entries, int count)
{
    int width = 4;
    for (int i = 0; i < count; i++)
        width =
            (int)strlen(entries[i].items.task.name) > width ? (int)strlen(entries[i].items.task.name) : width;
    printf("%-*s  questions  shots  measure   value   +-      questions/s\n", width, "task");
    for (int i = 0; i < count && entries[i].scored; i++) {
        const mh_task_result *r = &entries[i].result;
        for (int m = 0; m < r->measures; m++) {
            const mh_measured *v = &r->measured[m];
            if (m == 0)
                printf("%-*s  %9lld  %5lld", width, entries[i].items.task.name, (long long)r->items,
                       (long long)entries[i].items.shots);
            else
                printf("%-*s  %9s  %5s", width, "", "", "");
            printf("  %-8s  %.4f  ", v->name, v->mean);
            printf(isnan(v->error) ? "-     " : "%.4f", v->error);
            if (m == 0)
                printf("  %11.1f", rate(r));
            putchar('\n');
        }
    }
}

static json_t *result_json(const entry *e)
{
    const mh_task_result *r = &e->result;
    json_t *json =
        json_pack("{s:I, s:I, s:I, s:I, s:f, s:f}", "questions", (json_int_t)r->items, "left_out",
                  (json_int_t)e->items.left_out, "truncated", (json_int_t)r->truncated, "shots",
                  (json_int_t)e->items.shots, "seconds", r->seconds, "questions_per_second", rate(r));
    for (int m = 0; m < r->measures; m++) {
        char name[32];
        snprintf(name, sizeof name, "%s_stderr", r->measured[m].name);
        mh_json_set(json, r->measured[m].name, mh_json_real(r->measured[m].mean));
        mh_json_set(json, name, mh_json_real(r->measured[m].error));
    }
    return json;
}

static int print_json(const entry *entries, int count)
{
    json_t *results = json_object();
    for (int i = 0; i < count && entries[i].scored; i++)
        mh_json_set(results, entries[i].items.task.name, result_json(&entries[i]));
    return cli_print_json(json_pack("{s:o}", "results", results));
}

static mh_status score_all(const cli_tasks *tasks, const char *checkpoint, mh_precision precision,
                           entry *entries, int count, mh_writer *log)
{
    mh_model *model;
    mh_tokenizer *tokenizer;
    cli_bar bar;
    mh_progress progress = {.report = cli_bar_report, .context = &bar, .stop = cli_catch_signals()};
    MH_TRY(mh_model_load(&model, &tokenizer, checkpoint, precision));
    mh_status status = MH_OK;
    cli_bar_init(&bar);
    for (int i = 0; status == MH_OK && i < count; i++) {
        status = mh_task_score(model, tokenizer, &entries[i].items, &progress, &entries[i].result);
        cli_bar_clear(&bar);
        if (status == MH_OK && tasks->log != NULL)
            status = mh_task_log(&entries[i].items, log);
        entries[i].scored = status == MH_OK;
        tell_gaps(&entries[i], mh_model_context(model));
    }
    mh_tokenizer_free(tokenizer);
    mh_model_free(model);
    return status;
}

static mh_status split(const char *names, char **copy, cli_list *list)
{
    *copy = strdup(names);
    if (*copy == NULL)
        return mh_fail(MH_EMEMORY, "the system refused memory for the names of tasks");
    char *rest = *copy;
    for (char *name; (name = strsep(&rest, ",")) != NULL;) {
        name = mh_text_trim(name);
        if (*name == '\0')
            return mh_fail(MH_EUSAGE, "--tasks is \"%s\"; it takes names with single commas between them",
                           names);
        if (list->count == CLI_LIST_MAX)
            return mh_fail(MH_EUSAGE, "--tasks names more than %d tasks; ask them in several commands",
                           CLI_LIST_MAX);
        list->item[list->count++] = name;
    }
    return MH_OK;
}

/* The log of one evaluation may replace that of another, but never the questions. */
static mh_status check_log(const cli_tasks *tasks, const cli_list *names)
{
    const char *shots = tasks->options.shots_path;
    bool input = shots != NULL && mh_path_same(tasks->log, shots);
    for (int i = 0; i < names->count; i++)
        input |= mh_path_same(tasks->log, names->item[i]);
    if (input)
        return mh_fail(MH_EUSAGE, "--log-samples %s is what is read; choose another file", tasks->log);
    return cli_check_ending("log-samples", tasks->log, ".jsonl");
}

int cli_eval_tasks(const cli_tasks *tasks, const char *checkpoint, mh_precision precision, bool json)
{
    cli_list names = {0};
    char *copy = NULL;
    entry *entries = NULL;
    mh_writer log = {0};
    mh_status status = MH_OK;
    if ((tasks->options.shots > 0) != (tasks->options.shots_path != NULL))
        status =
            mh_fail(MH_EUSAGE, "--shots N and --shots-file PATH go together; add the one that is missing");
    if (status == MH_OK)
        status = split(tasks->names, &copy, &names);
    if (status == MH_OK && (entries = calloc((size_t)names.count, sizeof *entries)) == NULL)
        status = mh_fail(MH_EMEMORY, "the system refused memory for %d tasks", names.count);
    if (status == MH_OK && tasks->log != NULL)
        status = check_log(tasks, &names);
    /* All files are read before the first is scored: what is wrong with the last is told at once. */
    for (int i = 0; status == MH_OK && i < names.count; i++)
        status = mh_task_load(&entries[i].items, names.item[i], &tasks->options);
    if (status == MH_OK && tasks->log != NULL)
        status = mh_make_parent(tasks->log);
    if (status == MH_OK && tasks->log != NULL)
        status = mh_writer_open(&log, tasks->log);
    if (status == MH_OK)
        status = score_all(tasks, checkpoint, precision, entries, names.count, &log);

    int code = cli_report(status); /* tasks that were complete before it was stopped still count */
    if (status == MH_OK || (status == MH_EINTERRUPTED && entries != NULL && entries[0].scored)) {
        if (tasks->log != NULL && mh_writer_commit(&log) != MH_OK)
            code = cli_report(MH_EIO);
        if (!json)
            print_table(entries, names.count);
        else if (print_json(entries, names.count) != CLI_OK)
            code = CLI_FAILURE;
    }
    mh_writer_abort(&log);
    for (int i = 0; entries != NULL && i < names.count; i++)
        mh_items_release(&entries[i].items);
    free(entries);
    free(copy);
    return code;
}
