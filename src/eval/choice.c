/* choice: log-likelihoods of choices. What the choices of a question have in common is computed once and
 * stays in the KV cache; then come the first choices of a batch of questions, all second ones, and so on. */
#include "eval/eval.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BATCH_KEYS 2048 /* positions in the cache of a batch: rows enough for the products, little memory */

/* A choice as tokens id[0..count) of its question's ids, of which those from `scored` on are its answer. */
typedef struct {
    int64_t begin, count, scored;
} span;

typedef struct {
    mh_item *item;
    mh_ids ids; /* of all choices, one after the other */
    span *choice;
    int64_t prefix; /* inputs that all choices have in common */
    int64_t suffix; /* inputs of the longest choice behind these */
} question;

static const int32_t *tokens_of(const question *q, int c)
{
    return q->ids.id + q->choice[c].begin;
}

/* Inputs of a choice behind the common ones: its last token is only predicted. */
static int64_t suffix_of(const question *q, int c)
{
    return q->choice[c].count - 1 - q->prefix;
}

/* ---- tokens -------------------------------------------------------------------------------------------- */

/* The answer's tokens are those of the whole text behind as many as the context alone has; spaces at the
 * context's end count for the answer, because pieces begin with spaces. Then only the last tokens are kept:
 * a full context of inputs, and one more that is predicted. */
static mh_status encode_choice(const mh_tokenizer *tokenizer, const mh_config *config,
                               const mh_choice *choice, mh_text *work, question *q, span *out)
{
    int32_t start = (int32_t)config->bos;
    size_t length = strlen(choice->context);
    while (length > 0 && isspace((unsigned char)choice->context[length - 1]))
        length--;
    span s = {.begin = q->ids.count};
    MH_TRY(mh_ids_add(&q->ids, &start, 1));
    MH_TRY(mh_tokenizer_encode(tokenizer, choice->context, length, &q->ids));
    s.scored = q->ids.count - s.begin;

    work->length = 0;
    MH_TRY(mh_text_printf(work, "%s %s", choice->context, choice->answer));
    q->ids.count = s.begin + 1;
    MH_TRY(mh_tokenizer_encode(tokenizer, work->data, work->length, &q->ids));
    s.count = q->ids.count - s.begin;

    int64_t answer = s.count - s.scored, beyond = s.count - (config->context + 1);
    if (answer < 1)
        return mh_fail(MH_EFORMAT, "this tokenizer gives choice %d no token of its own",
                       (int)(choice - q->item->choice));
    if (answer > config->context)
        return mh_fail(MH_EFORMAT, "choice %d has %lld tokens, more than the model's context of %lld",
                       (int)(choice - q->item->choice), (long long)answer, (long long)config->context);
    if (beyond > 0) {
        q->item->truncated = true;
        s = (span){s.begin + beyond, s.count - beyond, s.scored - beyond};
    }
    *out = s;
    return MH_OK;
}

/* Inputs that all choices share, up to the first that predicts a token of an answer. */
static int64_t common_prefix(const question *q)
{
    int64_t common = q->choice[0].scored - 1;
    for (int c = 1; c < q->item->count; c++) {
        const int32_t *a = tokens_of(q, 0), *b = tokens_of(q, c);
        int64_t same = 0, most = q->choice[c].scored - 1 < common ? q->choice[c].scored - 1 : common;
        while (same < most && a[same] == b[same])
            same++;
        common = same;
    }
    return common;
}

static mh_status encode(const mh_tokenizer *tokenizer, const mh_config *config, mh_text *work, question *q)
{
    q->choice = calloc((size_t)q->item->count, sizeof *q->choice);
    if (q->choice == NULL)
        return mh_fail(MH_EMEMORY, "the system refused memory for the choices of a question");
    for (int c = 0; c < q->item->count; c++)
        MH_TRY(encode_choice(tokenizer, config, &q->item->choice[c], work, q, &q->choice[c]));
    q->prefix = common_prefix(q);
    for (int c = 0; c < q->item->count; c++)
        q->suffix = suffix_of(q, c) > q->suffix ? suffix_of(q, c) : q->suffix;
    return MH_OK;
}

/* ---- batches ------------------------------------------------------------------------------------------- */

/* A batch of questions in falling order of their numbers of choices. Common inputs are set flush right, so
 * that every choice goes on at the same place; first_key hides what stands left of them. */
typedef struct {
    const mh_model *model;
    mh_pass *pass;
    const question *question;
    int64_t count, prefix, suffix;       /* the longest of the questions' */
    int32_t *token, *target, *first_key; /* [count * rows] */
    float *nll;
} batch;

static void layout(batch *b, mh_arena *arena)
{
    size_t positions = (size_t)(b->count * (b->prefix > b->suffix ? b->prefix : b->suffix));
    b->token = mh_take(arena, positions * sizeof *b->token);
    b->target = mh_take(arena, positions * sizeof *b->target);
    b->first_key = mh_take(arena, positions * sizeof *b->first_key);
    b->nll = mh_take(arena, positions * sizeof *b->nll);
}

static void read_prefixes(batch *b)
{
    for (int64_t i = 0; i < b->count; i++) {
        const question *q = &b->question[i];
        int64_t at = i * b->prefix, empty = b->prefix - q->prefix;
        for (int64_t j = 0; j < b->prefix; j++) {
            b->token[at + j] = j < empty ? 0 : tokens_of(q, 0)[j - empty];
            b->first_key[at + j] = (int32_t)(j < empty ? j : empty);
        }
    }
    mh_forward(
        b->pass, b->model,
        &(mh_call){.token = b->token, .first_key = b->first_key, .batch = b->count, .rows = b->prefix});
}

/* Choice c of all questions that have so many. */
static void score_choice(batch *b, int c)
{
    int64_t count = 0, rows = 0;
    for (; count < b->count && b->question[count].item->count > c; count++)
        rows = suffix_of(&b->question[count], c) > rows ? suffix_of(&b->question[count], c) : rows;
    for (int64_t i = 0; i < count; i++) {
        const question *q = &b->question[i];
        const int32_t *id = tokens_of(q, c);
        for (int64_t j = 0; j < rows; j++) {
            int64_t input = q->prefix + j, at = i * rows + j;
            bool used = j < suffix_of(q, c);
            b->token[at] = used ? id[input] : 0;
            b->target[at] = used && input + 1 >= q->choice[c].scored ? id[input + 1] : -1;
            b->first_key[at] = (int32_t)(b->prefix - q->prefix);
        }
    }
    mh_call call = {
        .token = b->token, .first_key = b->first_key, .batch = count, .rows = rows, .past = b->prefix};
    mh_forward(b->pass, b->model, &call);
    mh_loss(b->pass, b->model, &call, b->target, b->nll, 0);
    for (int64_t i = 0; i < count; i++) {
        double *score = &b->question[i].item->choice[c].score;
        *score = 0;
        for (int64_t j = 0; j < rows; j++)
            *score -= (double)b->nll[i * rows + j];
    }
}

static mh_status score_batch(const mh_model *model, const question *questions, int64_t count, int64_t prefix,
                             int64_t suffix)
{
    batch b = {.model = model, .question = questions, .count = count, .prefix = prefix, .suffix = suffix};
    mh_arena measure = {0}, memory;
    layout(&b, &measure);
    MH_TRY(mh_arena_init(&memory, measure.used, "a batch of questions"));
    layout(&b, &memory);
    mh_pass_shape shape = {
        .batch = count, .rows = prefix > suffix ? prefix : suffix, .capacity = prefix + suffix};
    mh_status status = mh_pass_create(&b.pass, model, shape);
    if (status == MH_OK) {
        if (prefix > 0)
            read_prefixes(&b);
        for (int c = 0; c < questions[0].item->count; c++)
            score_choice(&b, c);
        mh_pass_free(b.pass);
    }
    mh_arena_release(&memory);
    return status;
}

/* ---- the whole ----------------------------------------------------------------------------------------- */

/* Most choices first, as a batch needs them; then the longest, so that those of a batch are alike and memory
 * runs out at the start or not at all. */
static int by_shape(const void *a, const void *b)
{
    const question *p = a, *q = b;
    int64_t longer = q->prefix + q->suffix - p->prefix - p->suffix;
    if (p->item->count != q->item->count)
        return q->item->count - p->item->count;
    if (longer != 0)
        return longer > 0 ? 1 : -1;
    return p->item->number < q->item->number ? -1 : 1;
}

static mh_status score_all(const mh_model *model, const question *questions, int64_t count,
                           const mh_items *items, const mh_progress *progress)
{
    for (int64_t next = 0; next < count;) {
        int64_t n = 0, prefix = 0, suffix = 0;
        while (next + n < count) {
            const question *q = &questions[next + n];
            int64_t wider = q->prefix > prefix ? q->prefix : prefix;
            int64_t longer = q->suffix > suffix ? q->suffix : suffix;
            if (n > 0 && (n + 1) * (wider + longer) > BATCH_KEYS)
                break;
            prefix = wider;
            suffix = longer;
            n++;
        }
        MH_TRY(score_batch(model, questions + next, n, prefix, suffix));
        next += n;
        mh_progress_report(progress, items->task.name, (double)next, (double)count, NULL);
        if (next < count && mh_progress_stopped(progress))
            return mh_fail(MH_EINTERRUPTED, "stopped after %lld of the %lld questions of %s", (long long)next,
                           (long long)count, items->task.name);
    }
    return MH_OK;
}

static mh_status check_scores(const mh_items *items)
{
    for (int64_t i = 0; i < items->count; i++)
        for (int c = 0; c < items->item[i].count; c++)
            if (isnan(items->item[i].choice[c].score))
                return mh_fail(
                    MH_EVALUE,
                    "the model predicts no numbers but NaN for question %lld of %s: its weights are "
                    "spoilt; use an older checkpoint, or precision f32",
                    (long long)items->item[i].number + 1, items->path);
    return MH_OK;
}

/* Tokens of every item; those that cannot be scored are taken out of `items`. */
static mh_status encode_all(const mh_tokenizer *tokenizer, const mh_config *config, mh_items *items,
                            question *questions, int64_t *count, const mh_progress *progress)
{
    mh_text work = {0};
    mh_status status = MH_OK;
    for (int64_t i = 0; status == MH_OK && i < items->count; i++) {
        mh_progress_report(progress, "encoding", (double)i, (double)items->count, items->task.name);
        question *q = &questions[*count];
        *q = (question){.item = &items->item[i]};
        status = encode(tokenizer, config, &work, q);
        if (status == MH_OK) {
            (*count)++;
            continue;
        }
        mh_ids_release(&q->ids);
        free(q->choice);
        if (status == MH_EFORMAT) {
            status = mh_items_complain(items, q->item->number, q->item->line);
            mh_items_remove(items, i--);
        }
    }
    mh_text_release(&work);
    if (status == MH_OK && items->count == 0) {
        mh_items_refuse(items);
        status = mh_fail_in(MH_EVALUE, "%s holds no question for this model", items->path);
    }
    return status;
}

mh_status mh_score_choices(const mh_model *model, const mh_tokenizer *tokenizer, mh_items *items,
                           const mh_progress *progress)
{
    MH_TRY(mh_eval_check(model, tokenizer));
    if (mh_config_noncausal(&model->config))
        return mh_fail(MH_EVALUE, "this model cannot score choices: it %s; train with moe.capacity_factor 0",
                       mh_config_noncausal(&model->config));
    question *questions = calloc((size_t)items->count, sizeof *questions);
    if (questions == NULL)
        return mh_fail(MH_EMEMORY, "the system refused memory for %lld questions", (long long)items->count);
    int64_t count = 0;
    mh_status status = encode_all(tokenizer, &model->config, items, questions, &count, progress);
    if (status == MH_OK) {
        qsort(questions, (size_t)count, sizeof *questions, by_shape);
        status = score_all(model, questions, count, items, progress);
    }
    for (int64_t i = 0; i < count; i++) {
        mh_ids_release(&questions[i].ids);
        free(questions[i].choice);
    }
    free(questions);
    return status == MH_OK ? check_scores(items) : status;
}
