/* mhmoe compare: several models on the same batches, with several seeds, and what that says. */
#include "cli/cli.h"

#include <math.h>
#include <string.h>

enum { WIDTH = 110 }; /* of the printed table; what is over goes below */

typedef struct {
    cli_bar bar;
    double started, first; /* when training began, and what was done by then: see mh_comparison */
    int runs;              /* 0 before the plan is made */
    char folder[MH_PATH];
} view;

/* ---- while it runs ------------------------------------------------------------------------------------- */

static void show_plan(void *context, const mh_comparison *c)
{
    view *v = context;
    char params[32], active[32], flops[32], speed[32], time[32];
    int finished = 0, width = 5;
    double left = c->total;
    cli_bar_clear(&v->bar);
    for (int i = 0; i < c->arms; i++)
        width = width > (int)strlen(c->arm[i].name) ? width : (int)strlen(c->arm[i].name);
    fprintf(stderr, "%-*s  parameters      active  FLOPs/token    tokens/s     updates       a run\n", width,
            "model");
    for (int i = 0; i < c->arms; i++) {
        const mh_arm *arm = &c->arm[i];
        fprintf(stderr, "%-*s  %10s  %10s  %11s  %10s  %10lld  %10s\n", width, arm->name,
                cli_count((double)arm->params.total, params), cli_count((double)arm->params.active, active),
                cli_count(arm->flops.forward, flops), cli_count(arm->tokens / arm->update_seconds, speed),
                (long long)arm->recipe.train.steps,
                cli_duration((double)arm->recipe.train.steps * arm->update_seconds, time));
    }
    for (int i = 0; i < c->runs; i++)
        if (c->run[i].state == MH_RUN_FINISHED) {
            const mh_arm *arm = &c->arm[c->run[i].arm];
            finished++;
            left -= (double)arm->recipe.train.steps * arm->update_seconds;
        }
    fprintf(stderr, "\n%d runs in %s, %d of them finished; about %s for the rest\n\n", c->runs, c->folder,
            finished, cli_duration(left > 0 ? left : 0, time));
    v->runs = c->runs;
    snprintf(v->folder, sizeof v->folder, "%s", c->folder);
    v->started = mh_seconds();
}

static double done_at(const mh_comparison *c, int64_t step)
{
    return c->done + (double)step * c->arm[c->run[c->current].arm].update_seconds;
}

static int describe_run(const mh_comparison *c, const mh_compare_run *run, char out[128])
{
    return snprintf(out, 128, "%s, seed %lld (run %d of %d)", c->arm[run->arm].name, (long long)run->seed,
                    (int)(run - c->run) + 1, c->runs);
}

static void show_step(void *context, const mh_comparison *c, const mh_train_log *log)
{
    view *v = context;
    char run[128], note[192], loss[32];
    if (v->first == 0)
        v->first = done_at(c, log->step - 1);
    if (!v->bar.terminal)
        return;
    describe_run(c, &c->run[c->current], run);
    snprintf(note, sizeof note, "%s  step %lld/%lld  loss %s", run, (long long)log->step,
             (long long)log->steps, cli_real(log->loss, 3, loss));
    cli_bar_report(&v->bar, "comparing", done_at(c, log->step), c->total, note);
}

/* Evaluations, for a file: the bar shows the rest on a terminal. */
static void show_log(void *context, const mh_comparison *c, const mh_train_log *log)
{
    view *v = context;
    char run[128], loss[32], perplexity[32], speed[32], left[32];
    if (v->bar.terminal || !log->validated || log->step == 0)
        return;
    describe_run(c, &c->run[c->current], run);
    double done = done_at(c, log->step), pace = (mh_seconds() - v->started) / (done - v->first);
    fprintf(stderr, "  %s: step %lld/%lld, loss %s, validation perplexity %s, %s tokens/s; %s left in all\n",
            run, (long long)log->step, (long long)log->steps, cli_real(log->loss, 4, loss),
            cli_real(log->valid_perplexity, 2, perplexity), cli_count(log->tokens_per_second, speed),
            cli_duration((c->total - done) * pace, left));
}

static void show_run(void *context, const mh_comparison *c, const mh_compare_run *run)
{
    view *v = context;
    char text[128], perplexity[32];
    describe_run(c, run, text);
    cli_bar_clear(&v->bar);
    fprintf(stderr, "%s: ", text);
    if (run->state == MH_RUN_FAILED)
        fprintf(stderr, "failed: %s\n", run->message);
    for (int i = 0; i < c->sets && run->state == MH_RUN_FINISHED; i++)
        fprintf(stderr, "%sperplexity %s on %s%s", i > 0 ? ", " : "",
                cli_real(exp(run->loss[i]), 2, perplexity), c->set[i].name, i + 1 == c->sets ? "\n" : "");
}

/* Texts are measured while the bar stands at a run's end. */
static void show_progress(void *context, const char *what, double done, double total, const char *note)
{
    view *v = context;
    if (v->runs == 0)
        cli_bar_report(&v->bar, what, done, total, note);
}

/* ---- what came out ------------------------------------------------------------------------------------- */

/* Columns that a text takes on a terminal: characters of UTF-8. */
static int width_of(const char *text)
{
    int width = 0;
    for (; *text; text++)
        width += ((unsigned char)*text & 0xc0) != 0x80;
    return width;
}

static const char *cell(const json_t *row, size_t i)
{
    return json_string_value(json_array_get(row, i));
}

/* The first column to the left, the others to the right. */
static void print_cells(const json_t *row, const int *width, size_t from, size_t to)
{
    printf("%s%*s", cell(row, 0), width[0] - width_of(cell(row, 0)), "");
    for (size_t i = from; i < to; i++)
        printf("  %*s%s", width[i] - width_of(cell(row, i)), "", cell(row, i));
    putchar('\n');
}

/* In parts of at most WIDTH, each with the models' names before it. */
static void print_table(const json_t *table)
{
    const json_t *columns = json_object_get(table, "columns"), *rows = json_object_get(table, "rows");
    enum { COLUMNS_MAX = MH_OPTION_TEXT }; /* two for each text, whose name and path take four characters */
    int width[COLUMNS_MAX];
    size_t count = json_array_size(columns);
    for (size_t i = 0; i < count; i++) {
        width[i] = width_of(cell(columns, i));
        for (size_t r = 0; r < json_array_size(rows); r++) {
            int own = width_of(cell(json_array_get(rows, r), i));
            width[i] = own > width[i] ? own : width[i];
        }
    }
    for (size_t from = 1, to; from < count; from = to) {
        int used = width[0];
        for (to = from; to < count && (to == from || used + 2 + width[to] <= WIDTH); to++)
            used += 2 + width[to];
        print_cells(columns, width, from, to);
        for (size_t r = 0; r < json_array_size(rows); r++)
            print_cells(json_array_get(rows, r), width, from, to);
        putchar('\n');
    }
}

static int print_results(json_t *results, bool json)
{
    const json_t *text = json_object_get(results, "text");
    const char *folder = json_string_value(json_object_get(results, "folder"));
    int failed = (int)json_integer_value(json_object_get(results, "failed"));
    mh_status status = MH_OK;
    if (failed > 0)
        status = mh_fail(MH_ESTATE, "%d of %d runs failed; --resume tries them again", failed,
                         (int)json_integer_value(json_object_get(results, "runs")));
    if (json) {
        int code = cli_report(status), printed = cli_print_json(results);
        return code ? code : printed;
    }
    print_table(json_object_get(results, "table"));
    for (size_t i = 0; i < json_array_size(text); i++)
        printf("%s\n", json_string_value(json_array_get(text, i)));
    printf("\nThe same stands in %s/compare.md, compare.json and, with curves, report.html.\n", folder);
    json_decref(results);
    return cli_report(status);
}

/* ---- the command --------------------------------------------------------------------------------------- */

/* Options of the command line are keys of the recipe. */
typedef struct {
    const char *models, *baseline, *match, *budget, *output;
    int64_t seeds; /* 0: the recipe's */
    cli_list valid, sets;
    bool resume, json;
} request;

static mh_status set_key(mh_recipe *recipe, const char *name, const char *text)
{
    char key[64], where[64];
    if (text == NULL)
        return MH_OK;
    snprintf(key, sizeof key, "compare.%s", name);
    snprintf(where, sizeof where, "--%s", name);
    mh_status status = mh_options_set(&mh_recipe_options, recipe, key, text, where);
    return status == MH_EVALUE ? MH_EUSAGE : status;
}

static mh_status set_valid(mh_recipe *recipe, const cli_list *list)
{
    mh_text joined = {0};
    mh_status status = MH_OK;
    for (int i = 0; i < list->count && status == MH_OK; i++)
        status = mh_text_printf(&joined, "%s%s", i > 0 ? ", " : "", list->item[i]);
    if (status == MH_OK)
        status = set_key(recipe, "valid", joined.data);
    mh_text_release(&joined);
    return status;
}

static mh_status read_request(mh_recipe *recipe, const char *path, const request *r)
{
    char seeds[32];
    snprintf(seeds, sizeof seeds, "%lld", (long long)r->seeds);
    MH_TRY(mh_recipe_read(recipe, path, r->sets.item, r->sets.count));
    MH_TRY(set_key(recipe, "models", r->models));
    MH_TRY(set_key(recipe, "baseline", r->baseline));
    MH_TRY(set_key(recipe, "seeds", r->seeds ? seeds : NULL));
    MH_TRY(set_key(recipe, "match", r->match));
    MH_TRY(set_key(recipe, "budget", r->budget));
    MH_TRY(set_key(recipe, "output", r->output));
    return set_valid(recipe, &r->valid);
}

static int run(const char *path, const request *r)
{
    mh_recipe recipe;
    view v = {0};
    json_t *results = NULL;
    mh_status status = read_request(&recipe, path, r);
    cli_bar_init(&v.bar);
    v.bar.no_rate = true;
    mh_compare_watch watch = {.context = &v,
                              .plan = show_plan,
                              .step = show_step,
                              .log = show_log,
                              .run = show_run,
                              .progress = show_progress,
                              .stop = cli_catch_signals()};
    if (status == MH_OK)
        status = mh_compare(&recipe, r->resume, &watch, &results);
    cli_bar_clear(&v.bar);
    if (status != MH_OK)
        json_decref(results);
    int code = status == MH_OK ? print_results(results, r->json) : cli_report(status);
    if (v.runs > 0)
        cli_write_page(v.folder);
    return code;
}

int cli_compare(int argc, char **argv)
{
    request r = {0};
    const cli_option options[] = {
        {"models", "LIST",
         "presets with commas between; a model with settings of its own is NAME=PRESET KEY=VALUE ...",
         CLI_STRING, &r.models, 0, 0, false},
        {"baseline", "NAME", "the model that the others are compared with (the first)", CLI_STRING,
         &r.baseline, 0, 0, false},
        {"seeds", "N", "runs of each model (3); one gives no interval", CLI_INT, &r.seeds, 1, MH_SEEDS_MAX,
         false},
        {"match", "params,flops",
         "give models with experts the first one's parameters (by the number of experts), FLOPs (by their "
         "width), or both",
         CLI_STRING, &r.match, 0, 0, false},
        {"budget", "WHAT=N",
         "length of each run: steps=N, tokens=N, flops=N or seconds=N (steps=train.steps of the recipe)",
         CLI_STRING, &r.budget, 0, 0, false},
        {"valid", "NAME=PATH...", "texts to measure at the end beside the validation part", CLI_LIST,
         &r.valid, 0, 0, false},
        {"set", "KEY=VALUE", "change a key of the recipe, for all models; 'mhmoe config' lists them",
         CLI_LIST, &r.sets, 0, 0, false},
        {"output", "DIR", "the folder of all runs (train.run of the recipe with -compare behind it)",
         CLI_STRING, &r.output, 0, 0, false},
        {"resume", NULL, "go on where it was stopped; models and seeds may be added", CLI_FLAG, &r.resume, 0,
         0, false},
        {"json", NULL, "print one JSON object", CLI_FLAG, &r.json, 0, 0, false},
    };
    const cli_usage usage = {
        "mhmoe compare",
        "RECIPE.yaml",
        "Trains several models, each with several seeds, on the same batches in the same order, and says "
        "what differs by more than noise, per update, FLOP and second. What the options say may stand in the "
        "recipe, under compare:. Ctrl-C once saves and stops; stopped or killed, it goes on with --resume.",
        "mhmoe compare recipes/paper-b-small.yaml\n"
        "mhmoe compare my.yaml --models dense,smoe-top1,mhmoe-h2 --seeds 3 --budget tokens=10e6\n"
        "mhmoe compare my.yaml --models 'mhmoe-h2, head-only=mhmoe-h2 moe.merge=off' --match params,flops\n"
        "mhmoe compare my.yaml --models dense,smoe-top1 --valid wiki=wiki.txt plays=shakespeare.txt\n"
        "mhmoe compare runs/my-compare/recipe.yaml --resume",
        1,
        1,
        options,
        sizeof options / sizeof *options,
    };
    cli_list arguments;
    int code = cli_parse(&usage, argc, argv, &arguments);
    return code >= 0 ? code : run(arguments.item[0], &r);
}
