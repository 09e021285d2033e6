/* How long an update of each model takes: short runs in turns, for the machine drifts. */
#include "train/train.h"

#include <string.h>

/* A run's first update is for caches and primitives to warm up, and does not count. */
enum { ROUNDS = 5, UPDATES = 3 };

#define KEY "update_seconds"

/* On the run's own first batches, from its own first weights. */
static mh_status run_short(const mh_arm *arm, const mh_batches *data, json_t *seconds)
{
    const mh_recipe *r = &arm->recipe;
    mh_step step;
    mh_update made;
    mh_status status = mh_step_init(&step, r, NULL);
    if (status == MH_OK)
        status = mh_train_weights(step.model, r, NULL);
    for (int64_t number = 1; status == MH_OK && number <= 1 + UPDATES; number++) {
        double started = mh_seconds();
        status = mh_step_next(&step, data, &made);
        if (number > 1)
            mh_json_append(seconds, json_real(mh_seconds() - started));
    }
    mh_step_release(&step);
    return status == MH_OK ? MH_OK : mh_fail_in(status, "model %s", arm->name);
}

static mh_status measure(const mh_arm *arm, int count, const mh_batches *data, json_t *all,
                         const mh_progress *progress)
{
    for (int i = 0; i < count; i++)
        mh_json_set(all, arm[i].name, json_array());
    for (int n = 0; n < ROUNDS * count; n++) {
        mh_progress_report(progress, "timing", n, ROUNDS * count, arm[n % count].name);
        if (mh_progress_stopped(progress))
            return mh_fail(MH_EINTERRUPTED, "stopped while the models' speed was measured; start again with "
                                            "--resume");
        MH_TRY(run_short(&arm[n % count], data, json_object_get(all, arm[n % count].name)));
    }
    return MH_OK;
}

/* False where the file does not have this arm. */
static bool take_median(mh_arm *arm, const json_t *all)
{
    double value[ROUNDS * UPDATES];
    const json_t *seconds = json_object_get(all, arm->name);
    if (json_array_size(seconds) != ROUNDS * UPDATES)
        return false;
    for (size_t i = 0; i < ROUNDS * UPDATES; i++)
        value[i] = json_number_value(json_array_get(seconds, i));
    arm->update_seconds = mh_spread_of(value, ROUNDS * UPDATES).median;
    return arm->update_seconds > 0;
}

static bool take_medians(mh_arm *arm, int count, const json_t *all)
{
    bool have = true;
    for (int i = 0; i < count; i++)
        have = take_median(&arm[i], all) && have;
    return have;
}

static mh_status write(json_t *all, const char *path)
{
    json_t *file = json_pack("{s:O}", KEY, all);
    mh_status status = mh_json_seal(file, path);
    if (status == MH_OK)
        status = mh_json_write(path, file);
    json_decref(file);
    return status;
}

mh_status mh_arms_time(mh_arm *arm, int count, const mh_batches *data, const char *path,
                       const mh_progress *progress)
{
    json_t *file = NULL;
    mh_status status = MH_OK;
    if (mh_path_exists(path) && (status = mh_json_read(&file, path)) == MH_OK)
        status = mh_json_check_seal(file, path);
    if (status == MH_EFORMAT)
        status = mh_fail_in(status, "the speed is measured again without this file");
    json_t *all = json_incref(json_object_get(file, KEY));
    json_decref(file);
    if (status == MH_OK && !take_medians(arm, count, all)) {
        json_decref(all);
        all = json_object();
        status = measure(arm, count, data, all, progress);
        if (status == MH_OK)
            status = write(all, path);
        if (status == MH_OK)
            take_medians(arm, count, all);
    }
    json_decref(all);
    return status;
}
