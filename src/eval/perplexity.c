/* Perplexity: how well a model predicts text, per token and per byte. */
#include "eval/eval.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define PASS_ROWS 2048 /* positions computed at once, where the context leaves room for several sequences */

/* A batch of windows. Short ones share a sequence: first_key keeps each from seeing its neighbours, and
 * rotary positions count only as differences. */
typedef struct {
    const mh_model *model;
    mh_pass *pass;
    int64_t batch, rows;                 /* sequences, and positions in each */
    int64_t sequence, used;              /* where the next window goes */
    int32_t *token, *target, *first_key; /* [batch * rows] */
    float *nll;
    mh_arena memory;
    mh_perplexity *sum;
} windows;

static void layout(windows *w, mh_arena *arena)
{
    size_t positions = (size_t)(w->batch * w->rows);
    w->token = mh_take(arena, positions * sizeof *w->token);
    w->target = mh_take(arena, positions * sizeof *w->target);
    w->first_key = mh_take(arena, positions * sizeof *w->first_key);
    w->nll = mh_take(arena, positions * sizeof *w->nll);
}

static mh_status allocate(windows *w)
{
    mh_arena count = {0};
    layout(w, &count);
    MH_TRY(mh_arena_init(&w->memory, count.used, "a batch of text"));
    layout(w, &w->memory);
    return MH_OK;
}

/* Adds the batch to the sums, in order of position. */
static void measure(windows *w, bool masked)
{
    mh_call call = {
        .token = w->token, .first_key = masked ? w->first_key : NULL, .batch = w->batch, .rows = w->rows};
    mh_forward(w->pass, w->model, &call);
    mh_loss(w->pass, w->model, &call, w->target, w->nll, 0);
    for (int64_t i = 0; i < w->batch * w->rows; i++) {
        w->sum->nll += (double)w->nll[i];
        w->sum->tokens += w->target[i] >= 0;
    }
}

/* Empties the batch: token 0 without target where nothing is put. */
static void clear(windows *w)
{
    size_t positions = (size_t)(w->batch * w->rows);
    memset(w->token, 0, positions * sizeof *w->token);
    memset(w->first_key, 0, positions * sizeof *w->first_key);
    memset(w->target, -1, positions * sizeof *w->target);
    w->sequence = w->used = 0;
}

static void flush(windows *w)
{
    if (w->sequence > 0 || w->used > 0)
        measure(w, true);
    clear(w);
}

/* Adds a window of `length` inputs id[0..length), which predict id[1..length]; the first `seen` of these were
 * counted by the window before. */
static void add_window(windows *w, const int32_t *id, int64_t length, int64_t seen)
{
    if (w->used + length > w->rows) {
        w->sequence++;
        w->used = 0;
        if (w->sequence == w->batch)
            flush(w);
    }
    int64_t at = w->sequence * w->rows + w->used;
    memcpy(w->token + at, id, (size_t)length * sizeof *id);
    memcpy(w->target + at + seen, id + 1 + seen, (size_t)(length - seen) * sizeof *id);
    for (int64_t i = 0; i < length; i++)
        w->first_key[at + i] = (int32_t)w->used;
    w->used += length;
}

/* The part of a document that is not measured yet. */
typedef struct {
    mh_ids ids;
    int64_t seen; /* of its predictions that are counted already */
    const mh_progress *progress;
    double from, to, total; /* bytes of input read before it, with it, and in all */
} pending;

static mh_status add_token(mh_ids *ids, int64_t token)
{
    if (ids->count == ids->capacity) {
        int64_t capacity = 2 * ids->capacity + 1024;
        int32_t *id = realloc(ids->id, (size_t)capacity * sizeof *id);
        if (id == NULL)
            return mh_fail(MH_EMEMORY, "no memory left for %lld tokens", (long long)capacity);
        ids->id = id;
        ids->capacity = capacity;
    }
    ids->id[ids->count++] = (int32_t)token;
    return MH_OK;
}

static mh_status report(const pending *p, double share, int64_t documents)
{
    mh_progress_report(p->progress, "measuring", p->from + share * (p->to - p->from), p->total, NULL);
    if (!mh_progress_stopped(p->progress))
        return MH_OK;
    return mh_fail(MH_EINTERRUPTED, "stopped in document %lld, before the measure was complete",
                   (long long)documents + 1);
}

/* Cuts full windows off the document, each `stride` after the one before, and at its end a shorter one. */
static mh_status cut(windows *w, pending *p, int64_t stride, bool at_end)
{
    int64_t start = 0;
    while (p->ids.count - 1 - start >= w->rows) {
        add_window(w, p->ids.id + start, w->rows, p->seen);
        p->seen = w->rows - stride;
        start += stride;
        MH_TRY(report(p, (double)start / (double)p->ids.count, w->sum->documents));
    }
    int64_t rest = p->ids.count - 1 - start;
    if (at_end && rest > p->seen)
        add_window(w, p->ids.id + start, rest, p->seen);
    p->ids.count -= start;
    memmove(p->ids.id, p->ids.id + start, (size_t)p->ids.count * sizeof *p->ids.id);
    if (at_end)
        p->ids.count = p->seen = 0;
    return report(p, 1, w->sum->documents);
}

static mh_status measure_documents(windows *w, const mh_tokenizer *tokenizer, mh_corpus *corpus,
                                   int64_t stride, pending *p)
{
    const mh_config *config = &w->model->config;
    for (;;) {
        mh_document document;
        bool end;
        MH_TRY(mh_corpus_next(corpus, &document, &end));
        if (end)
            break;
        mh_corpus_state where = mh_corpus_where(corpus);
        p->from = p->to;
        p->to = where.read;
        p->total = where.total;
        bool start = p->ids.count == 0; /* a document may come in parts */
        if (start)
            MH_TRY(add_token(&p->ids, config->bos));
        MH_TRY(mh_tokenizer_encode_part(tokenizer, document.text, document.length, start, &p->ids));
        if (!document.more && config->eos >= 0)
            MH_TRY(add_token(&p->ids, config->eos));
        MH_TRY(cut(w, p, stride, !document.more));
        w->sum->documents += !document.more;
        w->sum->bytes += (int64_t)document.length;
    }
    flush(w);
    return mh_corpus_check(corpus);
}

static void finish(mh_perplexity *result, double started)
{
    result->perplexity = exp(result->nll / (double)result->tokens);
    result->bits_per_byte = result->nll / log(2) / (double)result->bytes;
    result->seconds = mh_seconds() - started;
}

static mh_status check(const mh_model *model, const mh_tokenizer *tokenizer, int64_t stride)
{
    const mh_config *config = &model->config;
    if (config->bos < 0)
        return mh_fail(MH_EVALUE,
                       "model.bos is unset, so there is nothing to predict a text's first token from; set "
                       "it in the checkpoint's config.json");
    if (stride < 0 || stride > config->context)
        return mh_fail(MH_EVALUE,
                       "stride is %lld; it must be from 1 to the context of %lld, or 0 for half of it",
                       (long long)stride, (long long)config->context);
    if (mh_tokenizer_vocab(tokenizer) != config->vocab)
        return mh_fail(MH_EMISMATCH, "the tokenizer has %d pieces, but the model's vocabulary is %lld",
                       mh_tokenizer_vocab(tokenizer), (long long)config->vocab);
    return MH_OK;
}

mh_status mh_eval_perplexity(const mh_model *model, const mh_tokenizer *tokenizer, const char *const *paths,
                             int count, int64_t stride, const mh_progress *progress, mh_perplexity *result)
{
    int64_t context = model->config.context;
    double started = mh_seconds();
    *result = (mh_perplexity){0};
    MH_TRY(check(model, tokenizer, stride));
    windows w = {.model = model,
                 .batch = context < PASS_ROWS ? PASS_ROWS / context : 1,
                 .rows = context,
                 .sum = result};
    mh_pass_shape shape = {.batch = w.batch, .rows = w.rows, .capacity = w.rows};
    mh_corpus *corpus = NULL;
    pending rest = {.progress = progress};
    mh_status status = mh_pass_create(&w.pass, model, shape);
    if (status == MH_OK)
        status = allocate(&w);
    if (status == MH_OK)
        status = mh_corpus_open(&corpus, paths, count);
    if (status == MH_OK) {
        clear(&w);
        status = measure_documents(&w, tokenizer, corpus, stride ? stride : (context + 1) / 2, &rest);
    }
    finish(result, started);
    if (status == MH_OK && isnan(result->nll))
        status = mh_fail(MH_EVALUE, "the model predicts no numbers but NaN: its weights are spoilt; use an "
                                    "older checkpoint, or precision f32");
    mh_ids_release(&rest.ids);
    mh_corpus_close(corpus);
    mh_arena_release(&w.memory);
    mh_pass_free(w.pass);
    return status;
}

mh_status mh_eval_batches(const mh_model *model, mh_pass *pass, const mh_batches *batches, int64_t sequences,
                          bool mask_documents, const mh_progress *progress, mh_perplexity *result)
{
    double started = mh_seconds();
    int64_t available = mh_batches_sequences(batches);
    if (sequences == 0 || sequences > available)
        sequences = available;
    windows w = {
        .model = model, .pass = pass, .batch = pass->shape.batch, .rows = pass->shape.rows, .sum = result};
    *result = (mh_perplexity){0};
    mh_status status = allocate(&w);
    for (int64_t next = 0; status == MH_OK && next < sequences;) {
        clear(&w);
        for (; w.sequence < w.batch && next < sequences; w.sequence++, next++) {
            int64_t at = w.sequence * w.rows;
            mh_batches_in_order(batches, next, w.token + at, w.target + at, w.first_key + at);
        }
        measure(&w, mask_documents);
        mh_progress_report(progress, "evaluating", (double)next, (double)sequences, NULL);
        if (next < sequences && mh_progress_stopped(progress))
            status = mh_fail(MH_EINTERRUPTED, "stopped after %lld of %lld sequences of the evaluation",
                             (long long)next, (long long)sequences);
    }
    result->bytes = (int64_t)((double)result->tokens * mh_batches_bytes_per_token(batches) + 0.5);
    finish(result, started);
    mh_arena_release(&w.memory);
    return status;
}
