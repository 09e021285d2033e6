/* A run folder: the input as the run's log, for those who draw and those who resume it, and as the other
 * files that a report shows. */
#include "report/report.h"

#include "fuzz.h"

#include <sys/stat.h>

static const char recipe[] = "train: {steps: 20}\n";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *folder = fuzz_path("runs"), *analysis = fuzz_file("analysis.json", data, size);
    hold(mkdir(folder, 0777) == 0 && mkdir(fuzz_path("runs/a"), 0777) == 0 &&
         mkdir(fuzz_path("runs/b"), 0777) == 0);
    fuzz_file("runs/compare.json", data, size);
    fuzz_file("runs/a/metrics.jsonl", data, size);
    fuzz_file("runs/b/metrics.jsonl", data, size);
    fuzz_file("runs/b/recipe.yaml", (const uint8_t *)recipe, strlen(recipe));

    /* What is damaged inside a run is told on the page. */
    json_t *summary;
    hold(mh_report_write(fuzz_path("page.html"), &folder, 1, NULL, NULL, &summary) == MH_OK);
    hold(json_integer_value(json_object_get(summary, "runs")) == 2);
    json_decref(summary);
    mh_report_write(fuzz_path("page.html"), &folder, 1, analysis, NULL, NULL);

    mh_curve curve;
    if (mh_curve_read(&curve, fuzz_path("runs/a")) == MH_OK) {
        for (int i = 1; i < curve.count; i++)
            hold(curve.point[i - 1].step < curve.point[i].step);
        mh_curve_release(&curve);
    }
    mh_metrics metrics;
    hold(mh_metrics_open(&metrics, fuzz_path("runs/b"), 10) == MH_OK);
    mh_metrics_close(&metrics);
    hold(mh_remove_tree(folder) == MH_OK);
    return 0;
}
