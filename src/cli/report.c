/* mhmoe report: what runs left on disk, as one page. */
#include "report/report.h"
#include "cli/cli.h"

/* A run's page stands in its folder, as `mhmoe train` writes it. */
static mh_status choose_output(char output[MH_PATH], const char *given, const cli_list *runs)
{
    if (given) {
        MH_TRY(cli_check_ending("output", given, ".html"));
        MH_TRY(mh_make_parent(given));
        return mh_path_join(output, "", given);
    }
    if (runs->count > 1)
        return mh_fail(
            MH_EUSAGE,
            "a report of several runs has no place of its own; say where it goes by --output FILE.html");
    return mh_path_join(output, runs->item[0], "report.html");
}

static int show(json_t *summary, bool json)
{
    const json_t *problem;
    size_t i;
    json_array_foreach(json_object_get(summary, "problems"), i, problem)
        fprintf(stderr, "mhmoe: %s\n", json_string_value(problem));
    if (json)
        return cli_print_json(summary);
    printf("report      %s, of %lld run%s; open it in a browser\n",
           json_string_value(json_object_get(summary, "report")),
           (long long)json_integer_value(json_object_get(summary, "runs")),
           json_integer_value(json_object_get(summary, "runs")) == 1 ? "" : "s");
    json_decref(summary);
    return CLI_OK;
}

void cli_write_page(const char *folder)
{
    char page[MH_PATH];
    mh_status status = mh_path_join(page, folder, "report.html");
    if (status == MH_OK)
        status = mh_report_write(page, &folder, 1, NULL, NULL, NULL);
    cli_report(status);
}

int cli_report_page(int argc, char **argv)
{
    const char *given = NULL, *analysis = NULL;
    bool json = false;
    cli_list runs;
    const cli_option options[] = {
        {"output", "FILE.html", "where it goes; of a single run or folder: report.html in it", CLI_STRING,
         &given, 0, 0, false},
        {"analysis", "FILE", "show this JSON file of 'mhmoe analyse', too", CLI_STRING, &analysis, 0, 0,
         false},
        {"json", NULL, "print what was done as JSON", CLI_FLAG, &json, 0, 0, false},
    };
    const cli_usage usage = {
        "mhmoe report",
        "RUN...",
        "Writes a page about runs, finished or not: curves, results, experts, recipes and cost. It is one "
        "file that opens in any browser without a network. Runs that differ only in train.seed are shown as "
        "one model with its spread. A folder that is no run, such as that of a comparison, stands for the "
        "runs in it.",
        "mhmoe report runs/demo\n"
        "mhmoe report runs/dense-* runs/mhmoe-* --output report.html\n"
        "mhmoe analyse runs/demo --input texts/ --output routing.json\n"
        "mhmoe report runs/demo --analysis routing.json --output demo.html",
        1,
        CLI_LIST_MAX,
        options,
        sizeof options / sizeof *options,
    };
    int code = cli_parse(&usage, argc, argv, &runs);
    if (code >= 0)
        return code;
    char output[MH_PATH];
    json_t *summary;
    cli_bar bar;
    cli_bar_init(&bar);
    mh_progress progress = {cli_bar_report, &bar, NULL};
    mh_status status = choose_output(output, given, &runs);
    if (status == MH_OK)
        status = mh_report_write(output, runs.item, runs.count, analysis, &progress, &summary);
    cli_bar_clear(&bar);
    return status == MH_OK ? show(summary, json) : cli_report(status);
}
