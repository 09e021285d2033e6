/* Perplexity: how well a model predicts text, per token and per byte. */
#include "eval/eval.h"

#include <math.h>

#define PIECE 8192 /* bytes of text measured between two looks at whether to stop */

/* Adds the batch to the sums, in order of position. */
static void measure(mh_windows *w, bool masked)
{
    mh_perplexity *sum = w->context;
    mh_call call = {
        .token = w->token, .first_key = masked ? w->first_key : NULL, .batch = w->batch, .rows = w->rows};
    mh_forward(w->pass, w->model, &call);
    mh_loss(w->pass, w->model, &call, w->target, w->nll, 0);
    for (int64_t i = 0; i < w->batch * w->rows; i++) {
        sum->nll += (double)w->nll[i];
        sum->tokens += w->target[i] >= 0;
    }
}

static void measure_windows(mh_windows *w)
{
    measure(w, true);
}

typedef struct {
    const mh_tokenizer *tokenizer;
    mh_ids ids; /* of a piece */
    const mh_progress *progress;
    double from, to, total; /* bytes of input read before the document at hand, with it, and in all */
} reading;

static mh_status report(const reading *r, double share, int64_t documents)
{
    mh_progress_report(r->progress, "measuring", r->from + share * (r->to - r->from), r->total, NULL);
    if (!mh_progress_stopped(r->progress))
        return MH_OK;
    return mh_fail(MH_EINTERRUPTED, "stopped in document %lld, before the measure was complete",
                   (long long)documents + 1);
}

/* A document, or a part of one, in pieces that give the tokens of the whole. */
static mh_status measure_document(mh_windows *w, reading *r, const mh_document *document)
{
    mh_perplexity *sum = w->context;
    for (size_t at = 0; at < document->length;) {
        size_t cut = mh_utf8_cut(document->text + at, document->length - at, PIECE);
        r->ids.count = 0;
        MH_TRY(mh_tokenizer_encode_part(r->tokenizer, document->text + at, cut, mh_windows_new_text(w),
                                        &r->ids));
        MH_TRY(mh_windows_add(w, r->ids.id, r->ids.count));
        at += cut;
        MH_TRY(report(r, (double)at / (double)document->length, sum->documents));
    }
    sum->bytes += (int64_t)document->length;
    if (document->more)
        return MH_OK;
    sum->documents++;
    return mh_windows_end_text(w);
}

static mh_status measure_documents(mh_windows *w, reading *r, mh_corpus *corpus)
{
    for (;;) {
        mh_document document;
        bool end;
        MH_TRY(mh_corpus_next(corpus, &document, &end));
        if (end)
            break;
        mh_corpus_state where = mh_corpus_where(corpus);
        r->from = r->to;
        r->to = where.read;
        r->total = where.total;
        MH_TRY(measure_document(w, r, &document));
    }
    mh_windows_flush(w);
    return mh_corpus_check(corpus);
}

static void finish(mh_perplexity *result, double started)
{
    result->perplexity = exp(result->nll / (double)result->tokens);
    result->bits_per_byte = result->nll / log(2) / (double)result->bytes;
    result->seconds = mh_seconds() - started;
}

mh_status mh_eval_check(const mh_model *model, const mh_tokenizer *tokenizer)
{
    const mh_config *config = &model->config;
    if (config->bos < 0)
        return mh_fail(MH_EVALUE,
                       "model.bos is unset, so there is nothing to predict a text's first token from; set "
                       "it in the checkpoint's config.json");
    if (mh_tokenizer_vocab(tokenizer) != config->vocab)
        return mh_fail(
            MH_EMISMATCH,
            "the tokenizer has %d pieces, but the model's vocabulary is %lld; use the model's own tokenizer",
            mh_tokenizer_vocab(tokenizer), (long long)config->vocab);
    return MH_OK;
}

static mh_status check_stride(int64_t stride, int64_t context)
{
    if (stride < 0 || stride > context)
        return mh_fail(MH_EVALUE,
                       "stride is %lld; it must be from 1 to the context of %lld, or 0 for half of it",
                       (long long)stride, (long long)context);
    return MH_OK;
}

mh_status mh_eval_perplexity(const mh_model *model, const mh_tokenizer *tokenizer, const char *const *paths,
                             int count, int64_t stride, const mh_progress *progress, mh_perplexity *result)
{
    double started = mh_seconds();
    *result = (mh_perplexity){0};
    MH_TRY(mh_eval_check(model, tokenizer));
    MH_TRY(check_stride(stride, model->config.context));
    mh_windows w = {.model = model,
                    .stride = stride ? stride : (model->config.context + 1) / 2,
                    .measure = measure_windows,
                    .context = result};
    mh_corpus *corpus = NULL;
    reading r = {.tokenizer = tokenizer, .progress = progress};
    mh_status status = mh_pass_create(&w.pass, model, mh_windows_shape(model));
    if (status == MH_OK)
        status = mh_windows_init(&w);
    if (status == MH_OK)
        status = mh_corpus_open(&corpus, paths, count);
    if (status == MH_OK)
        status = measure_documents(&w, &r, corpus);
    finish(result, started);
    if (status == MH_OK && isnan(result->nll))
        status = mh_fail(MH_EVALUE, "the model predicts no numbers but NaN: its weights are spoilt; use an "
                                    "older checkpoint, or precision f32");
    mh_ids_release(&r.ids);
    mh_corpus_close(corpus);
    mh_windows_release(&w);
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
    mh_windows w = {.model = model, .pass = pass, .context = result};
    *result = (mh_perplexity){0};
    mh_status status = mh_windows_init(&w);
    for (int64_t next = 0; status == MH_OK && next < sequences;) {
        mh_windows_clear(&w);
        for (int64_t at = 0; at < w.batch * w.rows && next < sequences; at += w.rows, next++)
            mh_batches_in_order(batches, next, w.token + at, w.target + at, w.first_key + at);
        measure(&w, mask_documents);
        mh_progress_report(progress, "evaluating", (double)next, (double)sequences, NULL);
        if (next < sequences && mh_progress_stopped(progress))
            status = mh_fail(MH_EINTERRUPTED, "stopped after %lld of %lld sequences of the evaluation",
                             (long long)next, (long long)sequences);
    }
    result->bytes = (int64_t)((double)result->tokens * mh_batches_bytes_per_token(batches) + 0.5);
    finish(result, started);
    mh_windows_release(&w);
    return status;
}
