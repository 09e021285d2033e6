/* report: what runs left on disk, as one page that opens offline. */
#ifndef MH_REPORT_H
#define MH_REPORT_H

#include "train/train.h"

/* ---- run.c: a run as JSON for the page ----------------------------------------------------------------- */

/* Whether a folder holds metrics or checkpoints. A recipe is in a comparison's folder, too. */
bool mh_report_is_run(const char *path);

/* All that is readable of a run; its "problems" say in sentences what is not. page/data.js reads this. */
json_t *mh_report_run(const char *path, const char *name);

/* A JSON string of any bytes: what is not valid UTF-8 in them becomes U+FFFD. */
json_t *mh_report_text(const char *text, size_t length);

/* ---- report.c: the page -------------------------------------------------------------------------------- */

/* Writes the page about `paths`: run folders, and folders of them such as `mhmoe compare` makes, whose
 * compare.json stands on top. `analysis` is a file of `mhmoe analyse` or NULL. Damage inside a run is shown
 * on the page and fails nothing; a path without a run, or an analysis that cannot be read, does. `summary`
 * (may be NULL) becomes {"report": output, "runs": number, "problems": [sentences]}, owned by the caller. */
mh_status mh_report_write(const char *output, const char *const *paths, int count, const char *analysis,
                          const mh_progress *progress, json_t **summary);

#endif
