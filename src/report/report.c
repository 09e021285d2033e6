/* The page: the skeleton that CMake made of page/, with the runs as JSON in its middle. */
#include "report/report.h"

#include <dirent.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* page.c, which CMake writes. */
extern const char mh_report_page[];

#define MARK "{{data}}"

typedef struct {
    json_t *found; /* [path, name] of each run, in whatever bytes the system has for them */
    json_t *runs, *comparisons, *problems;
} content;

/* A folder's compare.json, where there is one. */
static void add_comparison(content *c, const char *folder)
{
    char path[MH_PATH];
    json_t *json;
    if (mh_path_join(path, folder, "compare.json") != MH_OK || !mh_path_exists(path))
        return;
    mh_status status = mh_json_read(&json, path);
    if (status == MH_OK)
        status = mh_json_check_version(json, MH_COMPARISON_VERSION, path);
    if (status == MH_OK) {
        json_t *shown = json_pack("{s:o}", "path", mh_report_text(folder, strlen(folder)));
        json_object_set(shown, "table", json_object_get(json, "table"));
        json_object_set(shown, "text", json_object_get(json, "text"));
        mh_json_append(c->comparisons, shown);
    } else {
        mh_json_append(c->problems, mh_report_text(mh_message(), strlen(mh_message())));
    }
    json_decref(json);
}

static void find(content *c, const char *path, const char *name)
{
    json_t *run = json_array();
    mh_json_append(run, json_string_nocheck(path));
    mh_json_append(run, json_string_nocheck(name));
    mh_json_append(c->found, run);
}

/* The runs in `folder` and, `deeper` times, in folders in it; each is named by what follows `prefix` bytes of
 * its path. */
static mh_status add_folder(content *c, const char *folder, size_t prefix, int deeper)
{
    struct dirent **entries;
    int count = scandir(folder, &entries, NULL, versionsort);
    if (count < 0)
        return mh_fail_errno("open folder", folder);
    mh_status status = MH_OK;
    for (int i = 0; i < count; i++) {
        char path[MH_PATH];
        bool hidden = entries[i]->d_name[0] == '.';
        if (status == MH_OK && !hidden)
            status = mh_path_join(path, folder, entries[i]->d_name);
        if (status == MH_OK && !hidden && mh_report_is_run(path))
            find(c, path, path + prefix);
        else if (status == MH_OK && !hidden && deeper > 0 && mh_path_is_dir(path))
            status = add_folder(c, path, prefix, deeper - 1);
        free(entries[i]);
    }
    free(entries);
    return status;
}

static mh_status add_runs_in(content *c, const char *folder)
{
    size_t before = json_array_size(c->found), length = strlen(folder);
    MH_TRY(add_folder(c, folder, length + (folder[length - 1] != '/'), 1));
    if (json_array_size(c->found) == before)
        return mh_fail(
            MH_EVALUE,
            "%s: neither here nor in the folders in it is a metrics.jsonl; name a run folder, such as "
            "'mhmoe train' makes",
            folder);
    add_comparison(c, folder);
    return MH_OK;
}

static mh_status add_run(content *c, const char *path)
{
    char real[PATH_MAX]; /* "runs/demo/" and "." have a name, too */
    if (realpath(path, real) == NULL)
        return mh_fail_errno("open folder", path);
    find(c, path, basename(real));
    return MH_OK;
}

static mh_status gather(content *c, const char *const *paths, int count, const mh_progress *progress)
{
    for (int i = 0; i < count; i++)
        MH_TRY(mh_report_is_run(paths[i]) ? add_run(c, paths[i]) : add_runs_in(c, paths[i]));
    size_t i, runs = json_array_size(c->found);
    const json_t *run;
    json_array_foreach(c->found, i, run) {
        const char *path = json_string_value(json_array_get(run, 0));
        mh_progress_report(progress, "reading runs", (double)i, (double)runs, NULL);
        mh_json_append(c->runs, mh_report_run(path, json_string_value(json_array_get(run, 1))));
    }
    return MH_OK;
}

static mh_status read_analysis(json_t **analysis, const char *path)
{
    MH_TRY(mh_json_read(analysis, path));
    const char *format = json_string_value(json_object_get(*analysis, "format"));
    mh_status status =
        format && strcmp(format, "mhmoe-analysis") == 0
            ? mh_json_check_version(*analysis, MH_ANALYSIS_VERSION, path)
            : mh_fail(MH_EFORMAT, "%s is no analysis; give a file made by 'mhmoe analyse'", path);
    if (status == MH_OK)
        return MH_OK;
    json_decref(*analysis);
    *analysis = NULL;
    return status;
}

/* Recipes say what differs from these. */
static json_t *defaults(void)
{
    mh_recipe recipe = {0};
    mh_options_defaults(&mh_recipe_options, &recipe);
    return mh_options_to_json(&mh_recipe_options, &recipe);
}

static mh_status put_page(mh_writer *writer, const mh_text *data)
{
    const char *mark = strstr(mh_report_page, MARK), *rest = mark + strlen(MARK);
    MH_TRY(mh_writer_put(writer, mh_report_page, (size_t)(mark - mh_report_page)));
    MH_TRY(mh_writer_put(writer, data->data, data->length));
    return mh_writer_put(writer, rest, strlen(rest));
}

static mh_status write_page(const char *output, const json_t *data)
{
    mh_text text = {0};
    mh_writer writer = {0};
    mh_status status = mh_json_dump_script(data, &text);
    if (status == MH_OK)
        status = mh_writer_open(&writer, output);
    if (status == MH_OK)
        status = put_page(&writer, &text);
    if (status == MH_OK)
        status = mh_writer_commit(&writer);
    else
        mh_writer_abort(&writer);
    mh_text_release(&text);
    return status;
}

/* The page's problems and the runs', each with the run's path in it. */
static json_t *summary_of(const char *output, const content *c)
{
    json_t *problems = json_copy(c->problems);
    const json_t *run;
    size_t i;
    json_array_foreach(c->runs, i, run)
        json_array_extend(problems, json_object_get(run, "problems"));
    return json_pack("{s:o, s:I, s:o}", "report", mh_report_text(output, strlen(output)), "runs",
                     (json_int_t)json_array_size(c->runs), "problems", problems);
}

mh_status mh_report_write(const char *output, const char *const *paths, int count, const char *analysis,
                          const mh_progress *progress, json_t **summary)
{
    content c = {json_array(), json_array(), json_array(), json_array()};
    json_t *routing = NULL;
    char written[32];
    time_t now = time(NULL);
    struct tm date;
    strftime(written, sizeof written, "%Y-%m-%d %H:%M UTC", gmtime_r(&now, &date));
    json_t *data =
        json_pack("{s:s, s:s, s:o, s:o, s:o, s:o}", "version", MHMOE_VERSION, "written", written, "defaults",
                  defaults(), "runs", c.runs, "comparisons", c.comparisons, "problems", c.problems);
    mh_status status = gather(&c, paths, count, progress);
    if (status == MH_OK && analysis)
        status = read_analysis(&routing, analysis);
    if (status == MH_OK && routing)
        mh_json_set(data, "analysis", routing);
    if (status == MH_OK)
        status = write_page(output, data);
    if (status == MH_OK && summary)
        *summary = summary_of(output, &c);
    json_decref(c.found);
    json_decref(data);
    return status;
}
