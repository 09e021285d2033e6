/* analyse: the routing of real text, by a model and by earlier checkpoints of its run. */
#include "eval/eval.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    COMPARED = 32768, /* tokens that other checkpoints are compared on */
    TRACED = 96,      /* tokens told one by one */
    REPLAYED = 1024   /* tokens between two looks at whether to stop */
};

typedef struct {
    const mh_analysis *request;
    const mh_progress *progress;
    char folder[MH_PATH];
    mh_model *model;
    mh_tokenizer *tokenizer;
    mh_pass *pass;
    mh_excerpts excerpts;
    mh_windows windows;
    mh_ids ids;        /* of a stretch */
    int64_t fed, done; /* tokens given to the windows, and those whose routing was seen */

    int layers;          /* MoE layers; below, they are counted among themselves */
    int *place;          /* [model's layers] of each MoE layer */
    mh_routing *routing; /* [layers] */
    mh_words words;
    int64_t width, kept; /* choices of a token in a layer; the first tokens, which are kept */
    int32_t *token;      /* [kept] */
    bool *ends;          /* [kept] whether it is the last of its text */
    int32_t *choice;     /* [kept, layers, width] */
    float *gate;         /* [TRACED, layers, width] */
    bool comparing, spoilt;
    int64_t *changed; /* [layers] choices that another checkpoint made otherwise */
    mh_arena memory;
} analysis;

/* ---- seeing the routing -------------------------------------------------------------------------------- */

static void compare(analysis *a, int layer, int64_t at, const int32_t *choice)
{
    const int32_t *before = a->choice + (at * a->layers + layer) * a->width;
    int64_t top_k = a->routing[layer].top_k;
    for (int64_t i = 0; i < a->width; i += top_k)
        a->changed[layer] += top_k - mh_routing_shared(choice + i, before + i, top_k);
}

static void keep(analysis *a, int layer, int64_t at, const int32_t *choice, const float *gate)
{
    size_t row = (size_t)((at * a->layers + layer) * a->width), width = (size_t)a->width;
    if (at < a->kept)
        memcpy(a->choice + row, choice, width * sizeof *choice);
    if (at < TRACED)
        memcpy(a->gate + row, gate, width * sizeof *gate);
    mh_words_record(&a->words, at, layer, choice);
}

/* Text's tokens are those inputs that count, but for the one that a text starts after. */
static bool counts(const analysis *a, int64_t position)
{
    const mh_windows *w = &a->windows;
    return w->target[position] >= 0 && w->token[position] != a->model->config.bos;
}

static void see_plan(void *context, int64_t model_layer, const mh_plan *plan)
{
    analysis *a = context;
    const mh_windows *w = &a->windows;
    int layer = a->place[model_layer];
    int64_t at = a->done;
    for (int64_t i = 0; i < w->batch * w->rows; i++) {
        const int32_t *choice = plan->choice + i * a->width;
        if (!counts(a, i))
            continue;
        if (a->comparing) {
            compare(a, layer, at, choice);
        } else {
            const float *gate = plan->gate + i * a->width;
            a->spoilt |= isnan(*gate);
            mh_routing_count(&a->routing[layer], choice, w->token[i], w->tag[i]);
            keep(a, layer, at, choice, gate);
        }
        at++;
    }
}

static void see_batch(mh_windows *w)
{
    analysis *a = w->context;
    mh_call call = {.token = w->token,
                    .first_key = w->first_key,
                    .batch = w->batch,
                    .rows = w->rows,
                    .on_plan = see_plan,
                    .context = a};
    mh_forward(w->pass, w->model, &call);
    for (int64_t i = 0; i < w->batch * w->rows; i++)
        a->done += counts(a, i);
}

/* ---- reading the text ---------------------------------------------------------------------------------- */

static mh_status report(const analysis *a, const char *what, double done, double total)
{
    mh_progress_report(a->progress, what, done, total, NULL);
    if (!mh_progress_stopped(a->progress))
        return MH_OK;
    return mh_fail(MH_EINTERRUPTED, "stopped while %s, before the analysis was complete", what);
}

static mh_status end_text(analysis *a)
{
    if (mh_windows_new_text(&a->windows))
        return MH_OK;
    if (a->fed <= a->kept)
        a->ends[a->fed - 1] = true;
    return mh_windows_end_text(&a->windows);
}

/* Neighbouring stretches are one text. */
static mh_status feed(analysis *a, const char *text, size_t length)
{
    mh_windows *w = &a->windows;
    a->ids.count = 0;
    MH_TRY(mh_tokenizer_encode_part(a->tokenizer, text, length, mh_windows_new_text(w), &a->ids));
    int64_t count = mh_least(a->ids.count, a->request->tokens - a->fed);
    if (a->fed < a->kept)
        memcpy(a->token + a->fed, a->ids.id, (size_t)mh_least(count, a->kept - a->fed) * sizeof *a->token);
    w->text = a->excerpts.current;
    MH_TRY(mh_words_find(&a->words, a->tokenizer, a->ids.id, count, a->fed, w->text));
    MH_TRY(mh_windows_add(w, a->ids.id, count));
    a->fed += count;
    return report(a, "analysing", (double)a->fed, fmin((double)a->request->tokens, a->excerpts.tokens));
}

static mh_status read_document(analysis *a, const mh_document *document, int64_t *stretch)
{
    MH_TRY(mh_excerpts_label(&a->excerpts, document->name));
    for (size_t at = 0, cut; at < document->length && a->fed < a->request->tokens; at += cut) {
        cut = mh_utf8_cut(document->text + at, document->length - at, a->excerpts.stretch);
        if (mh_excerpts_takes(&a->excerpts, (*stretch)++))
            MH_TRY(feed(a, document->text + at, cut));
        else
            MH_TRY(end_text(a));
    }
    return document->more ? MH_OK : end_text(a);
}

static mh_status read_documents(analysis *a, mh_corpus *corpus)
{
    for (int64_t stretch = 0; a->fed < a->request->tokens;) {
        mh_document document;
        bool end;
        MH_TRY(mh_corpus_next(corpus, &document, &end));
        if (end)
            break;
        MH_TRY(read_document(a, &document, &stretch));
    }
    MH_TRY(end_text(a));
    mh_windows_flush(&a->windows);
    return mh_corpus_check(corpus);
}

static mh_status read_text(analysis *a)
{
    mh_corpus *corpus;
    MH_TRY(mh_corpus_open(&corpus, a->request->inputs, a->request->input_count));
    mh_status status = read_documents(a, corpus);
    mh_corpus_close(corpus);
    return status;
}

/* The kept tokens once more, as the texts they were. `before` of `total` comparisons are done. */
static mh_status replay(analysis *a, int64_t tokens, int before, int total)
{
    a->done = 0;
    for (int64_t first = 0, end; first < tokens; first = end) {
        for (end = first + 1; end < tokens && end < first + REPLAYED && !a->ends[end - 1];)
            end++;
        MH_TRY(mh_windows_add(&a->windows, a->token + first, end - first));
        if (end == tokens || a->ends[end - 1])
            MH_TRY(mh_windows_end_text(&a->windows));
        MH_TRY(report(a, "comparing checkpoints", (double)(before * tokens + end), (double)(total * tokens)));
    }
    mh_windows_flush(&a->windows);
    return MH_OK;
}

/* ---- before it ----------------------------------------------------------------------------------------- */

static const char *last_checkpoint(const analysis *a)
{
    return a->request->checkpoints[a->request->checkpoint_count - 1];
}

static mh_status check_model(const analysis *a)
{
    const mh_config *config = &a->model->config;
    if (a->layers == 0)
        return mh_fail(
            MH_EVALUE,
            "%s is a dense model: it has no experts and routes nothing, so there is nothing to analyse; give "
            "a checkpoint that was trained with moe.experts or a preset such as mhmoe-h2",
            a->folder);
    if (config->bos < 0 || config->eos < 0)
        return mh_fail(MH_EVALUE,
                       "%s: model.%s is unset, so a text has no %s; set it in the checkpoint's config.json",
                       a->folder, config->bos < 0 ? "bos" : "eos", config->bos < 0 ? "start" : "end");
    return MH_OK;
}

/* Choices can be compared between models of one shape alone. */
static mh_status check_others(const analysis *a)
{
    for (int i = 0; i + 1 < a->request->checkpoint_count; i++) {
        char folder[MH_PATH], hash[17], key[128];
        mh_config config;
        MH_TRY(mh_checkpoint_locate(a->request->checkpoints[i], folder));
        MH_TRY(mh_checkpoint_config(&config, hash, folder));
        if (mh_options_conflict(&mh_config_options, &config, &a->model->config, key))
            return mh_fail(MH_EMISMATCH,
                           "%s cannot be compared with %s: their %s differ; give checkpoints of one run",
                           folder, a->folder, key);
    }
    return MH_OK;
}

static void layout(analysis *a, mh_arena *arena)
{
    size_t choices = (size_t)(a->layers * a->width);
    a->place = mh_take(arena, (size_t)a->model->config.layers * sizeof *a->place);
    a->routing = mh_take(arena, (size_t)a->layers * sizeof *a->routing);
    a->changed = mh_take(arena, (size_t)a->layers * sizeof *a->changed);
    a->choice = mh_take(arena, (size_t)a->kept * choices * sizeof *a->choice);
    a->token = mh_take(arena, (size_t)a->kept * sizeof *a->token);
    a->ends = mh_take(arena, (size_t)a->kept * sizeof *a->ends);
    a->gate = mh_take(arena, TRACED * choices * sizeof *a->gate);
    mh_words_layout(&a->words, arena);
    for (int64_t i = 0, layer = 0; i < a->model->config.layers; i++) {
        const mh_moe_config *m = &a->model->config.moe;
        mh_routing r = {.layer = i, .heads = m->heads, .experts = m->experts, .top_k = m->top_k};
        r.token.count = a->model->config.vocab;
        r.label.count = a->excerpts.labels;
        if (!mh_config_is_moe(&a->model->config, i))
            continue;
        mh_routing_layout(&r, arena);
        if (a->routing != NULL) {
            a->routing[layer] = r;
            a->place[i] = (int)layer;
        }
        layer++;
    }
}

static mh_status prepare(analysis *a)
{
    const mh_analysis *request = a->request;
    MH_TRY(mh_checkpoint_locate(last_checkpoint(a), a->folder));
    MH_TRY(mh_model_load(&a->model, &a->tokenizer, a->folder, request->precision));
    const mh_config *config = &a->model->config;
    for (int64_t i = 0; i < config->layers; i++)
        a->layers += mh_config_is_moe(config, i);
    MH_TRY(check_model(a));
    MH_TRY(check_others(a));
    if (request->words != NULL)
        MH_TRY(mh_words_parse(&a->words, request->words));
    a->excerpts = (mh_excerpts){
        .inputs = request->inputs, .input_count = request->input_count, .by = request->label_by};
    MH_TRY(mh_excerpts_survey(&a->excerpts, a->tokenizer, request->tokens, a->progress));

    a->words.heads = config->moe.heads;
    a->words.top_k = config->moe.top_k;
    a->words.layers = a->layers;
    a->width = config->moe.heads * config->moe.top_k;
    a->kept = request->checkpoint_count > 1 ? COMPARED : TRACED;
    mh_arena count = {0};
    layout(a, &count);
    MH_TRY(mh_arena_init(&a->memory, count.used, "the counts of the analysis"));
    layout(a, &a->memory);

    MH_TRY(mh_pass_create(&a->pass, a->model, mh_windows_shape(a->model)));
    a->windows = (mh_windows){.model = a->model,
                              .pass = a->pass,
                              .stride = (config->context + 1) / 2,
                              .measure = see_batch,
                              .context = a};
    return mh_windows_init(&a->windows);
}

/* ---- results ------------------------------------------------------------------------------------------- */

static json_t *layers_json(const analysis *a)
{
    json_t *layers = json_array();
    for (int l = 0; l < a->layers; l++)
        mh_json_append(
            layers, mh_routing_json(&a->routing[l], a->request->threshold, a->tokenizer, a->excerpts.label));
    return layers;
}

static json_t *labels_json(const analysis *a)
{
    json_t *labels = json_array();
    for (int i = 0; i < a->excerpts.labels; i++)
        mh_json_append(labels, json_pack("{s:s, s:I}", "label", a->excerpts.label[i], "tokens",
                                         (json_int_t)a->routing[0].label.seen[i]));
    return labels;
}

/* The experts and gates of each head. */
static json_t *trace_heads(const analysis *a, int64_t token, int layer)
{
    int64_t top_k = a->routing[layer].top_k, first = (token * a->layers + layer) * a->width;
    json_t *heads = json_array();
    for (int64_t i = first; i < first + a->width; i += top_k) {
        json_t *gates = json_array();
        for (int64_t c = 0; c < top_k; c++)
            mh_json_append(gates, mh_rounded((double)a->gate[i + c]));
        mh_json_append(
            heads, json_pack("{s:o, s:o}", "experts", mh_experts_json(a->choice + i, top_k), "gates", gates));
    }
    return heads;
}

static json_t *trace_json(const analysis *a)
{
    json_t *tokens = json_array();
    for (int64_t t = 0; t < TRACED && t < a->done; t++) {
        json_t *layers = json_array();
        for (int l = 0; l < a->layers; l++)
            mh_json_append(layers, json_pack("{s:I, s:o}", "layer", (json_int_t)a->routing[l].layer, "heads",
                                             trace_heads(a, t, l)));
        mh_json_append(tokens, json_pack("{s:o, s:o}", "text", mh_token_json(a->tokenizer, a->token[t]),
                                         "layers", layers));
    }
    return json_pack("{s:o}", "tokens", tokens);
}

static json_t *change_json(const analysis *a, const char *folder, int64_t tokens)
{
    int64_t step = mh_checkpoint_step(folder);
    json_t *changed = json_array();
    for (int l = 0; l < a->layers; l++)
        mh_json_append(changed, mh_rounded((double)a->changed[l] / (double)(tokens * a->width)));
    return json_pack("{s:s, s:o, s:o}", "checkpoint", folder, "step",
                     step < 0 ? json_null() : json_integer((json_int_t)step), "changed", changed);
}

/* The weights of each other checkpoint in turn take the place of the last one's. */
static mh_status compare_others(analysis *a, json_t *list)
{
    int others = a->request->checkpoint_count - 1;
    int64_t tokens = mh_least(a->done, a->kept);
    a->comparing = true;
    for (int i = 0; i < others; i++) {
        char folder[MH_PATH];
        memset(a->changed, 0, (size_t)a->layers * sizeof *a->changed);
        MH_TRY(mh_checkpoint_locate(a->request->checkpoints[i], folder));
        MH_TRY(mh_checkpoint_weights(a->model, folder));
        MH_TRY(replay(a, tokens, i, others));
        mh_json_append(list, change_json(a, folder, tokens));
    }
    memset(a->changed, 0, (size_t)a->layers * sizeof *a->changed);
    mh_json_append(list, change_json(a, a->folder, tokens));
    return MH_OK;
}

static mh_status analyse(analysis *a, json_t **result)
{
    MH_TRY(prepare(a));
    MH_TRY(read_text(a));
    if (a->spoilt)
        return mh_fail(MH_EVALUE,
                       "%s: its routers give no numbers but NaN: the weights are spoilt; use an older "
                       "checkpoint, or precision f32",
                       a->folder);
    json_t *checkpoints = json_array();
    *result =
        json_pack("{s:s, s:i, s:s, s:I, s:o, s:o, s:o, s:o, s:o}", "format", "mhmoe-analysis",
                  "format_version", MH_ANALYSIS_VERSION, "checkpoint", a->folder, "tokens",
                  (json_int_t)a->done, "layers", layers_json(a), "labels", labels_json(a), "words",
                  mh_words_json(&a->words, a->routing, a->excerpts.labels > 0 ? a->excerpts.label : NULL),
                  "trace", trace_json(a), "checkpoints", checkpoints);
    if (*result == NULL)
        return mh_fail(MH_EVALUE, "the analysis cannot be written as JSON: %s is not UTF-8; rename it",
                       a->folder);
    return a->request->checkpoint_count > 1 ? compare_others(a, checkpoints) : MH_OK;
}

mh_status mh_analyse(const mh_analysis *request, const mh_progress *progress, json_t **result)
{
    analysis a = {.request = request, .progress = progress};
    *result = NULL;
    mh_status status = analyse(&a, result);
    if (status != MH_OK) {
        json_decref(*result);
        *result = NULL;
    }
    mh_windows_release(&a.windows);
    mh_pass_free(a.pass);
    mh_arena_release(&a.memory);
    mh_words_release(&a.words);
    mh_excerpts_release(&a.excerpts);
    mh_ids_release(&a.ids);
    mh_tokenizer_free(a.tokenizer);
    mh_model_free(a.model);
    return status;
}
