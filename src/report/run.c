/* A run as JSON for the page: recipe, size, cost, and its log thinned to what a screen can show. Nothing here
 * fails: what cannot be read becomes a sentence among the problems. */
#include "report/report.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define METRICS_LIMIT ((size_t)1 << 30)

/* Points of a curve and columns of a heat map. They are fixed shares of the run, so that runs that differ in
 * their seed have them at the same steps. */
enum { POINTS = 400, COLUMNS = 100, LINES_NAMED = 3 };

/* Means over a point's updates; the speed follows from tokens and seconds. */
static const char *const measures[] = {"loss", "balance", "z_loss", "grad_norm", "rate"};
enum { MEASURES = sizeof measures / sizeof *measures };

typedef struct {
    const char *path;
    json_t *run, *problems, *machines, *train, *valid, *experts;
    int64_t steps; /* that the run shall have; 0 where that is not known */
    int64_t step, tokens;
    double seconds, core_seconds, memory;
    double threads; /* NaN where that is not known */
    int damaged;    /* lines of metrics.jsonl */

    /* the point that is being summed up */
    double updated, sum[MEASURES]; /* tokens, and the measures weighted by them */
    json_t *load;                  /* the latest "experts" that no column shows yet */
} reader;

bool mh_report_is_run(const char *path)
{
    char checkpoints[MH_PATH], metrics[MH_PATH];
    return mh_path_join(checkpoints, path, "checkpoints") == MH_OK &&
           mh_path_join(metrics, path, "metrics.jsonl") == MH_OK &&
           (mh_path_exists(checkpoints) || mh_path_exists(metrics));
}

json_t *mh_report_text(const char *text, size_t length)
{
    mh_text clean = {0};
    int64_t invalid = 0;
    json_t *json = NULL;
    if (mh_utf8_clean(text, length, &clean, &invalid) == MH_OK)
        json = json_stringn(clean.data ? clean.data : "", clean.length);
    mh_text_release(&clean);
    return json;
}

static void complain(reader *r, const char *sentence)
{
    mh_json_append(r->problems, mh_report_text(sentence, strlen(sentence)));
}

/* ---- the recipe ---------------------------------------------------------------------------------------- */

static void add_size(reader *r, mh_recipe *recipe)
{
    if (mh_recipe_resolve(recipe, NULL) != MH_OK) {
        complain(r, mh_message());
        return;
    }
    mh_counts counts = mh_count_params(&recipe->model);
    mh_flops flops = mh_count_flops(&recipe->model, recipe->train.sequence);
    mh_json_set(r->run, "parameters", json_integer(counts.total));
    mh_json_set(r->run, "active", json_integer(counts.active));
    mh_json_set(r->run, "flops", json_real(flops.forward));
    mh_json_set(r->run, "training_flops", json_real(flops.training));
    const char *noncausal = mh_config_noncausal(&recipe->model);
    if (noncausal)
        mh_json_set(r->run, "noncausal", json_string(noncausal));
}

/* Runs of one group differ in their seeds and in what may change on resume. */
static void add_group(reader *r, const mh_recipe *recipe)
{
    mh_recipe group = *recipe;
    char identity[17];
    group.train.seed = group.train.data_seed = 0;
    if (mh_recipe_identity(&group, identity) == MH_OK)
        mh_json_set(r->run, "group", json_string(identity));
}

static void read_recipe(reader *r, const char *path)
{
    mh_text yaml;
    mh_recipe recipe;
    if (mh_file_read(path, MH_RECIPE_LIMIT, &yaml) != MH_OK) {
        complain(r, mh_message());
        return;
    }
    mh_json_set(r->run, "yaml", mh_report_text(yaml.data, yaml.length));
    mh_text_release(&yaml);
    if (mh_recipe_read(&recipe, path, NULL, 0) != MH_OK) {
        complain(r, mh_message());
        return;
    }
    mh_json_set(r->run, "recipe", mh_options_to_json(&mh_recipe_options, &recipe));
    r->steps = recipe.train.steps;
    add_group(r, &recipe);
    add_size(r, &recipe);
}

/* ---- the log ------------------------------------------------------------------------------------------- */

static double number(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return json_is_number(value) ? json_number_value(value) : NAN;
}

/* One more value of a column; JSON's arrays by name are what charts are drawn from. */
static void push(json_t *columns, const char *key, double value)
{
    if (!json_object_get(columns, key))
        mh_json_set(columns, key, json_array());
    mh_json_append(json_object_get(columns, key), mh_json_real(value));
}

static void push_place(const reader *r, json_t *columns)
{
    push(columns, "step", (double)r->step);
    push(columns, "tokens", (double)r->tokens);
    push(columns, "seconds", r->seconds);
}

static void end_point(reader *r)
{
    if (r->updated > 0) {
        push_place(r, r->train);
        for (int i = 0; i < MEASURES; i++)
            push(r->train, measures[i], r->sum[i] / r->updated);
    }
    r->updated = 0;
    memset(r->sum, 0, sizeof r->sum);
}

static void end_column(reader *r)
{
    if (r->load)
        mh_json_append(r->experts, json_pack("{s:I, s:o}", "step", (json_int_t)r->step, "layers", r->load));
    r->load = NULL;
}

/* Which of `count` equal shares of the run a step belongs to. */
static double share_of(const reader *r, int64_t step, int count)
{
    return floor(((double)step - 1) * count / (double)r->steps);
}

static json_t *rows_of(const json_t *layer)
{
    const json_t *rows = json_object_get(layer, "rows"), *item;
    size_t i;
    json_t *copy = json_array();
    json_array_foreach(rows, i, item)
        mh_json_append(copy, json_integer(json_is_integer(item) ? json_integer_value(item) : 0));
    return copy;
}

static json_t *load_of(const json_t *experts)
{
    static const char *const keys[] = {"layer", "entropy", "largest", "dropped"};
    json_t *layers = json_array();
    const json_t *layer;
    size_t i;
    json_array_foreach(experts, i, layer) {
        json_t *copy = json_object();
        for (int k = 0; k < 4; k++)
            mh_json_set(copy, keys[k], mh_json_real(number(layer, keys[k])));
        mh_json_set(copy, "rows", rows_of(layer)); /* none in files of earlier versions */
        mh_json_append(layers, copy);
    }
    return layers;
}

/* Each machine once, however often the run was resumed there. */
static void enter_machine(reader *r, const json_t *machine)
{
    json_t *known = json_object();
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)machine, key, value) {
        if (json_is_string(value) || json_is_integer(value))
            mh_json_set(known, key, json_incref(value));
    }
    r->threads = number(known, "threads");
    size_t i;
    const json_t *other;
    bool is_new = true;
    json_array_foreach(r->machines, i, other) {
        is_new = is_new && !json_equal(other, known);
    }
    if (is_new)
        mh_json_append(r->machines, json_incref(known));
    json_decref(known);
}

static void add_updates(reader *r, const json_t *line, int64_t tokens)
{
    double seconds = (double)tokens / number(line, "tokens_per_second");
    if (isfinite(seconds) && seconds > 0) {
        r->seconds += seconds;
        r->core_seconds += seconds * r->threads;
    }
    r->updated += (double)tokens;
    for (int i = 0; i < MEASURES; i++)
        r->sum[i] += (double)tokens * number(line, measures[i]);
}

static void add_line(reader *r, const json_t *line, int64_t step, int64_t tokens)
{
    int64_t new_tokens = tokens - r->tokens;
    if (share_of(r, step, POINTS) != share_of(r, r->step, POINTS))
        end_point(r);
    if (share_of(r, step, COLUMNS) != share_of(r, r->step, COLUMNS))
        end_column(r);
    r->step = step;
    r->tokens = tokens;
    if (json_is_object(json_object_get(line, "machine")))
        enter_machine(r, json_object_get(line, "machine"));
    if (new_tokens > 0)
        add_updates(r, line, new_tokens);
    r->memory = fmax(r->memory, number(line, "memory"));
    if (json_is_number(json_object_get(line, "valid_loss"))) {
        push_place(r, r->valid);
        push(r->valid, "loss", number(line, "valid_loss"));
        push(r->valid, "bits_per_byte", number(line, "valid_bits_per_byte"));
    }
    if (json_array_size(json_object_get(line, "experts")) > 0) {
        json_decref(r->load);
        r->load = load_of(json_object_get(line, "experts"));
    }
}

static void complain_of_line(reader *r, const char *where, const char *why)
{
    char sentence[2 * MH_PATH];
    snprintf(sentence, sizeof sentence, "%s%s; the line is left out", where, why);
    if (r->damaged++ < LINES_NAMED)
        complain(r, sentence);
}

static void read_line(reader *r, const char *text, size_t length, const char *where)
{
    json_t *line;
    if (mh_json_parse(&line, text, length, where) != MH_OK) {
        complain_of_line(r, "", mh_message());
        return;
    }
    const json_t *step = json_object_get(line, "step"), *tokens = json_object_get(line, "tokens");
    if (!json_is_integer(step) || !json_is_integer(tokens))
        complain_of_line(r, where, " has no numbers \"step\" and \"tokens\"");
    else if (json_integer_value(step) < r->step || json_integer_value(tokens) < r->tokens)
        complain_of_line(r, where, " goes back in \"step\" or \"tokens\"");
    else if (json_integer_value(step) > r->steps)
        complain_of_line(r, where, " is of a step beyond train.steps");
    else
        add_line(r, line, json_integer_value(step), json_integer_value(tokens));
    json_decref(line);
}

/* The last step of a log whose recipe is lost: the run is then shown in shares of that. */
static int64_t last_step(const mh_text *log)
{
    const char *at = log->data, *last = NULL;
    while ((at = strstr(at, "{\"step\":")) != NULL)
        last = at += strlen("{\"step\":");
    return last ? strtoll(last, NULL, 10) : 0;
}

static void read_log(reader *r, const char *path)
{
    mh_text log;
    if (mh_file_read(path, METRICS_LIMIT, &log) != MH_OK) {
        complain(r, mh_message());
        return;
    }
    r->steps = r->steps ? r->steps : last_step(&log);
    r->steps = r->steps > 0 ? r->steps : 1;
    const char *at = log.data, *end = log.data + log.length;
    for (int number = 1; at < end; number++) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        const char *stop = newline ? newline : end;
        char where[MH_PATH + 16];
        snprintf(where, sizeof where, "%s:%d", path, number);
        read_line(r, at, (size_t)(stop - at), where);
        at = stop + 1;
    }
    mh_text_release(&log);
    end_point(r);
    end_column(r);
    if (r->damaged > LINES_NAMED) {
        char sentence[2 * MH_PATH];
        snprintf(sentence, sizeof sentence, "%s: %d more lines are left out for such reasons", path,
                 r->damaged - LINES_NAMED);
        complain(r, sentence);
    }
}

/* ---- the run ------------------------------------------------------------------------------------------- */

static void read_folder(reader *r)
{
    char file[MH_PATH];
    if (mh_path_join(file, r->path, "recipe.yaml") == MH_OK)
        read_recipe(r, file);
    if (mh_path_join(file, r->path, "metrics.jsonl") == MH_OK)
        read_log(r, file);
    mh_json_set(r->run, "steps", json_integer(r->steps));
    mh_json_set(r->run, "step", json_integer(r->step));
    mh_json_set(r->run, "tokens", json_integer(r->tokens));
    mh_json_set(r->run, "seconds", mh_json_real(r->seconds));
    mh_json_set(r->run, "core_seconds", mh_json_real(r->core_seconds));
    mh_json_set(r->run, "memory", mh_json_real(r->memory));
}

json_t *mh_report_run(const char *path, const char *name)
{
    reader r = {.path = path,
                .run = json_object(),
                .problems = json_array(),
                .machines = json_array(),
                .train = json_object(),
                .valid = json_object(),
                .experts = json_array(),
                .memory = NAN,
                .threads = NAN};
    mh_json_set(r.run, "name", mh_report_text(name, strlen(name)));
    mh_json_set(r.run, "path", mh_report_text(path, strlen(path)));
    read_folder(&r);
    mh_json_set(r.run, "problems", r.problems);
    mh_json_set(r.run, "machines", r.machines);
    mh_json_set(r.run, "train", r.train);
    mh_json_set(r.run, "valid", r.valid);
    mh_json_set(r.run, "experts", r.experts);
    return r.run;
}
