/* windows: texts of any length as batches of the model's context, each token counted once. */
#include "eval/eval.h"

#include <string.h>

#define PASS_ROWS 2048 /* positions computed at once, where the context leaves room for several sequences */

mh_pass_shape mh_windows_shape(const mh_model *model)
{
    int64_t context = model->config.context;
    return (mh_pass_shape){
        .batch = context < PASS_ROWS ? PASS_ROWS / context : 1, .rows = context, .capacity = context};
}

static void layout(mh_windows *w, mh_arena *arena)
{
    size_t positions = (size_t)(w->batch * w->rows);
    w->token = mh_take(arena, positions * sizeof *w->token);
    w->target = mh_take(arena, positions * sizeof *w->target);
    w->first_key = mh_take(arena, positions * sizeof *w->first_key);
    w->tag = mh_take(arena, positions * sizeof *w->tag);
    w->nll = mh_take(arena, positions * sizeof *w->nll);
}

void mh_windows_clear(mh_windows *w)
{
    size_t positions = (size_t)(w->batch * w->rows);
    memset(w->token, 0, positions * sizeof *w->token);
    memset(w->first_key, 0, positions * sizeof *w->first_key);
    memset(w->target, -1, positions * sizeof *w->target);
    w->sequence = w->used = 0;
}

mh_status mh_windows_init(mh_windows *w)
{
    mh_arena count = {0};
    w->batch = w->pass->shape.batch;
    w->rows = w->pass->shape.rows;
    layout(w, &count);
    MH_TRY(mh_arena_init(&w->memory, count.used, "a batch of text"));
    layout(w, &w->memory);
    mh_windows_clear(w);
    return MH_OK;
}

void mh_windows_release(mh_windows *w)
{
    mh_ids_release(&w->ids);
    mh_arena_release(&w->memory);
}

void mh_windows_flush(mh_windows *w)
{
    if (w->sequence > 0 || w->used > 0)
        w->measure(w);
    mh_windows_clear(w);
}

/* Adds a window of `length` inputs id[0..length), which predict id[1..length]; the first `seen` of these were
 * counted by the window before. */
static void add_window(mh_windows *w, const int32_t *id, int64_t length, int64_t seen)
{
    if (w->used + length > w->rows) {
        w->sequence++;
        w->used = 0;
        if (w->sequence == w->batch)
            mh_windows_flush(w);
    }
    int64_t at = w->sequence * w->rows + w->used;
    memcpy(w->token + at, id, (size_t)length * sizeof *id);
    memcpy(w->target + at + seen, id + 1 + seen, (size_t)(length - seen) * sizeof *id);
    for (int64_t i = 0; i < length; i++) {
        w->first_key[at + i] = (int32_t)w->used;
        w->tag[at + i] = w->text;
    }
    w->used += length;
}

mh_status mh_windows_add(mh_windows *w, const int32_t *id, int64_t count)
{
    int32_t bos = (int32_t)w->model->config.bos;
    int64_t start = 0;
    if (mh_windows_new_text(w))
        MH_TRY(mh_ids_add(&w->ids, &bos, 1));
    MH_TRY(mh_ids_add(&w->ids, id, count));
    while (w->ids.count - 1 - start >= w->rows) {
        add_window(w, w->ids.id + start, w->rows, w->seen);
        w->seen = w->rows - w->stride;
        start += w->stride;
    }
    w->ids.count -= start;
    memmove(w->ids.id, w->ids.id + start, (size_t)w->ids.count * sizeof *w->ids.id);
    return MH_OK;
}

mh_status mh_windows_end_text(mh_windows *w)
{
    int32_t eos = (int32_t)w->model->config.eos;
    if (eos >= 0)
        MH_TRY(mh_windows_add(w, &eos, 1));
    if (w->ids.count - 1 > w->seen)
        add_window(w, w->ids.id, w->ids.count - 1, w->seen);
    w->ids.count = w->seen = 0;
    return MH_OK;
}
