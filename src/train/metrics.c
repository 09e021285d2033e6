/* The log of a run: one JSON object a line, and the same numbers for TensorBoard. */
#include "kernel/kernel.h"
#include "train/train.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define METRICS_FILE "metrics.jsonl"

/* What a line may hold, in its order. */
static const struct {
    const char *key, *tag;
    size_t offset;
    bool validation; /* there where the step was validated; the others where there were updates */
} numbers[] = {
#define NUMBER(field, group, validation)                                            \
    {                                                                               \
#        field, group "/" #        field, offsetof(mh_train_log, field), validation \
    }
    NUMBER(loss, "train", false),
    NUMBER(perplexity, "train", false),
    NUMBER(balance, "train", false),
    NUMBER(z_loss, "train", false),
    NUMBER(grad_norm, "train", false),
    NUMBER(rate, "train", false),
    NUMBER(tokens_per_second, "speed", false),
    NUMBER(flops_per_second, "speed", false),
    NUMBER(memory, "speed", false),
    NUMBER(valid_loss, "valid", true),
    NUMBER(valid_perplexity, "valid", true),
    NUMBER(valid_bits_per_byte, "valid", true),
#undef NUMBER
};
enum { NUMBERS = sizeof numbers / sizeof *numbers };

static bool has_updates(const mh_train_log *log)
{
    return !isnan(log->loss);
}

/* The value of numbers[i], and whether the log has it: NaN is none. */
static bool number_of(const mh_train_log *log, int i, double *value)
{
    *value = *(const double *)((const char *)log + numbers[i].offset);
    return (numbers[i].validation ? log->validated : has_updates(log)) && !isnan(*value);
}

static json_t *experts_of(const mh_train_log *log)
{
    json_t *layers = json_array();
    for (int i = 0; i < log->moe_layers; i++) {
        json_t *rows = json_array();
        for (int e = 0; e < log->experts; e++)
            mh_json_append(rows, json_integer(log->rows[i * log->experts + e]));
        mh_json_append(layers, json_pack("{s:I, s:o, s:o, s:o, s:o}", "layer", (json_int_t)log->moe_layer[i],
                                         "entropy", mh_json_real(log->load[i].entropy), "largest",
                                         mh_json_real(log->load[i].largest), "dropped",
                                         mh_json_real(log->load[i].dropped), "rows", rows));
    }
    return layers;
}

/* Speed and cost mean little without it. */
static json_t *machine(void)
{
    char processor[128];
    mh_processor(processor);
    return json_pack("{s:s, s:s, s:s, s:i, s:i}", "version", MHMOE_VERSION, "processor", processor, "used",
                     mh_isa_name(mh_isa_now()), "processors", (int)sysconf(_SC_NPROCESSORS_ONLN), "threads",
                     mh_threads());
}

static json_t *line_of(const mh_train_log *log)
{
    json_t *line = json_pack("{s:I, s:I}", "step", (json_int_t)log->step, "tokens", (json_int_t)log->tokens);
    double value;
    for (int i = 0; i < NUMBERS; i++)
        if (number_of(log, i, &value))
            mh_json_set(line, numbers[i].key, mh_json_real(value));
    if (has_updates(log))
        mh_json_set(line, "experts", experts_of(log));
    return line;
}

/* In one write, so that a kill leaves at most the last line unfinished. */
static mh_status append(int file, mh_text *line)
{
    MH_TRY(mh_text_add(line, "\n", 1));
    for (size_t done = 0; done < line->length;) {
        ssize_t n = write(file, line->data + done, line->length - done);
        if (n < 0 && errno != EINTR)
            return mh_fail_errno("write", METRICS_FILE);
        done += n > 0 ? (size_t)n : 0;
    }
    return MH_OK;
}

static mh_status add_events(mh_events *events, const mh_train_log *log)
{
    double value;
    for (int i = 0; i < NUMBERS; i++)
        if (number_of(log, i, &value))
            MH_TRY(mh_events_scalar(events, numbers[i].tag, log->step, value));
    for (int i = 0; has_updates(log) && i < log->moe_layers; i++) {
        const double of[] = {log->load[i].entropy, log->load[i].largest, log->load[i].dropped};
        static const char *const name[] = {"entropy", "largest", "dropped"};
        for (int j = 0; j < 3; j++) {
            char tag[64];
            snprintf(tag, sizeof tag, "experts_%s/layer_%lld", name[j], (long long)log->moe_layer[i]);
            MH_TRY(mh_events_scalar(events, tag, log->step, of[j]));
        }
    }
    return mh_events_flush(events);
}

mh_status mh_metrics_add(mh_metrics *metrics, const mh_train_log *log)
{
    json_t *json = line_of(log);
    if (!metrics->started)
        mh_json_set(json, "machine", machine());
    metrics->started = true;
    mh_text line = {0};
    mh_status status = mh_json_dump(json, false, &line);
    json_decref(json);
    if (status == MH_OK)
        status = append(metrics->file, &line);
    mh_text_release(&line);
    return status == MH_OK ? add_events(metrics->events, log) : status;
}

mh_status mh_metrics_sync(const mh_metrics *metrics)
{
    return fsync(metrics->file) == 0 ? MH_OK : mh_fail_errno("sync", METRICS_FILE);
}

/* The step of a line, or -1 where it is no line of ours. */
static mh_status step_of(const char *line, size_t length, int64_t *number)
{
    json_t *json;
    *number = -1;
    mh_status status = mh_json_parse(&json, line, length, METRICS_FILE);
    if (status != MH_OK)
        return status == MH_EFORMAT ? MH_OK : status;
    const json_t *step = json_object_get(json, "step");
    if (json_is_integer(step))
        *number = json_integer_value(step);
    json_decref(json);
    return MH_OK;
}

/* Bytes of the leading lines that are whole and of steps up to `step`. */
static mh_status measure(const char *path, int64_t step, size_t *bytes)
{
    mh_map map;
    MH_TRY(mh_map_open(&map, path));
    mh_status status = MH_OK;
    size_t at = 0;
    while (at < map.size) {
        const char *line = (const char *)map.data + at, *end = memchr(line, '\n', map.size - at);
        int64_t number = -1;
        if (end)
            status = step_of(line, (size_t)(end - line), &number);
        if (number < 0 || number > step)
            break;
        at += (size_t)(end - line) + 1;
    }
    *bytes = at;
    mh_map_close(&map);
    return status;
}

mh_status mh_metrics_open(mh_metrics *metrics, const char *run, int64_t step)
{
    *metrics = (mh_metrics){.file = -1};
    char path[MH_PATH];
    size_t bytes;
    MH_TRY(mh_path_join(path, run, METRICS_FILE));
    metrics->file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (metrics->file < 0)
        return mh_fail_errno("write", path);
    mh_status status = measure(path, step, &bytes);
    if (status == MH_OK && ftruncate(metrics->file, (off_t)bytes) != 0)
        status = mh_fail_errno("shorten", path);
    if (status == MH_OK)
        status = mh_sync_parent(path);
    if (status == MH_OK)
        status = mh_events_open(&metrics->events, run, step);
    if (status != MH_OK)
        mh_metrics_close(metrics);
    return status;
}

/* Adds the evaluation of a line, in place of an earlier one of the same step: that was made again. */
static mh_status add_point(mh_text *points, const json_t *line)
{
    const json_t *step = json_object_get(line, "step"), *loss = json_object_get(line, "valid_loss");
    if (!json_is_integer(step) || !json_is_number(loss))
        return MH_OK;
    mh_point point = {json_integer_value(step), json_number_value(loss)}, last;
    if (points->length > 0) {
        memcpy(&last, points->data + points->length - sizeof last, sizeof last);
        if (point.step < last.step)
            return MH_OK;
        if (point.step == last.step)
            points->length -= sizeof last;
    }
    return mh_text_add(points, &point, sizeof point);
}

mh_status mh_curve_read(mh_curve *curve, const char *run)
{
    *curve = (mh_curve){0};
    char path[MH_PATH];
    mh_map map;
    mh_text points = {0};
    MH_TRY(mh_path_join(path, run, METRICS_FILE));
    MH_TRY(mh_map_open(&map, path));
    mh_status status = MH_OK;
    int number = 1;
    for (size_t at = 0; status == MH_OK && at < map.size; number++) {
        const char *line = (const char *)map.data + at, *end = memchr(line, '\n', map.size - at);
        json_t *json;
        char where[MH_PATH + 16];
        if (end == NULL) /* a kill left it unfinished */
            break;
        snprintf(where, sizeof where, "%s:%d", path, number);
        status = mh_json_parse(&json, line, (size_t)(end - line), where);
        if (status == MH_OK)
            status = add_point(&points, json);
        json_decref(json);
        at += (size_t)(end - line) + 1;
    }
    mh_map_close(&map);
    if (status != MH_OK) {
        mh_text_release(&points);
        return status;
    }
    *curve = (mh_curve){(mh_point *)points.data, (int)(points.length / sizeof *curve->point)};
    return MH_OK;
}

void mh_curve_release(mh_curve *curve)
{
    free(curve->point);
    *curve = (mh_curve){0};
}

void mh_metrics_close(mh_metrics *metrics)
{
    if (metrics->file >= 0)
        close(metrics->file);
    mh_events_close(metrics->events);
    *metrics = (mh_metrics){.file = -1};
}
