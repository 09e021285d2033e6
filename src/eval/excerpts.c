/* excerpts: stretches of text spread evenly over an input, and the labels of its documents. */
#include "eval/eval.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LABELS_MAX = 4096 };

/* ---- labels -------------------------------------------------------------------------------------------- */

static bool separates(char c)
{
    return c == '/' || c == ':';
}

/* "a/b.jsonl:17" is a line of the file a/b.jsonl; "a.tar:b/c.md" lies in the folder a.tar:b. */
static mh_status set_key(mh_excerpts *s, const char *name)
{
    size_t length = strlen(name), digits = 0;
    int64_t invalid = 0;
    while (digits < length && isdigit((unsigned char)name[length - 1 - digits]))
        digits++;
    if (digits > 0 && digits < length && name[length - 1 - digits] == ':')
        length -= digits + 1;
    if (s->by == MH_LABEL_FOLDER) {
        while (length > 0 && !separates(name[length - 1]))
            length--;
        length -= length > 0;
    }
    s->key.length = 0;
    return length > 0 ? mh_utf8_clean(name, length, &s->key, &invalid) : mh_text_add(&s->key, ".", 1);
}

static mh_status add_label(mh_excerpts *s)
{
    if (s->labels == LABELS_MAX)
        return mh_fail(MH_EVALUE, "there are more than %d %s in the input, too many to tell apart; %s",
                       LABELS_MAX, s->by == MH_LABEL_FILE ? "files" : "folders",
                       s->by == MH_LABEL_FILE ? "use --label-by folder" : "leave out --label-by");
    char **grown = realloc(s->label, (size_t)(s->labels + 1) * sizeof *grown);
    if (grown != NULL) {
        s->label = grown;
        grown[s->labels] = strdup(s->key.data);
    }
    if (grown == NULL || grown[s->labels] == NULL)
        return mh_fail(MH_EMEMORY, "the system refused memory for labels");
    s->labels++;
    return MH_OK;
}

/* The label of a document's name, which is `current` for most. A new one is added in the survey alone. */
static mh_status find_label(mh_excerpts *s, const char *name, bool add)
{
    if (s->by == MH_LABEL_NONE)
        return MH_OK;
    MH_TRY(set_key(s, name));
    if (s->key.length >= s->common) {
        const char *key = s->key.data + s->common;
        if (s->current < s->labels && strcmp(s->label[s->current], key) == 0)
            return MH_OK;
        for (s->current = 0; s->current < s->labels; s->current++)
            if (strcmp(s->label[s->current], key) == 0)
                return MH_OK;
    }
    return add ? add_label(s)
               : mh_fail(MH_ESTATE, "%s was not there when the input was looked through; try again", name);
}

/* Labels lose the folders that all have in common. */
static void shorten_labels(mh_excerpts *s)
{
    size_t common = s->labels > 0 ? strlen(s->label[0]) : 0;
    for (int i = 1; i < s->labels; i++) {
        size_t same = 0;
        while (same < common && s->label[i][same] == s->label[0][same])
            same++;
        common = same;
    }
    while (common > 0 && !separates(s->label[0][common - 1]))
        common--;
    for (int i = 0; i < s->labels; i++)
        memmove(s->label[i], s->label[i] + common, strlen(s->label[i]) - common + 1);
    s->common = common;
}

/* ---- the survey ---------------------------------------------------------------------------------------- */

static mh_status report(const mh_progress *progress, const mh_corpus *corpus)
{
    mh_corpus_state where = mh_corpus_where(corpus);
    mh_progress_report(progress, "looking through the text", where.read, where.total, NULL);
    if (!mh_progress_stopped(progress))
        return MH_OK;
    return mh_fail(MH_EINTERRUPTED, "stopped in document %lld, before anything was analysed",
                   (long long)where.documents);
}

/* Counts the document's stretches. Those of number 0, 1, 2, 4, 8 ... are encoded, to learn how many bytes
 * make a token. */
static mh_status count_stretches(mh_excerpts *s, const mh_document *document, const mh_tokenizer *tokenizer,
                                 mh_ids *ids, double *encoded)
{
    for (size_t at = 0, cut; at < document->length; at += cut, s->stretches++) {
        cut = mh_utf8_cut(document->text + at, document->length - at, s->stretch);
        if ((s->stretches & (s->stretches - 1)) == 0) {
            MH_TRY(mh_tokenizer_encode(tokenizer, document->text + at, cut, ids));
            *encoded += (double)cut;
        }
    }
    return MH_OK;
}

static mh_status survey(mh_excerpts *s, mh_corpus *corpus, const mh_tokenizer *tokenizer, mh_ids *ids,
                        const mh_progress *progress)
{
    double bytes = 0, encoded = 0;
    for (;;) {
        mh_document document;
        bool end;
        MH_TRY(mh_corpus_next(corpus, &document, &end));
        if (end)
            break;
        MH_TRY(find_label(s, document.name, true));
        MH_TRY(count_stretches(s, &document, tokenizer, ids, &encoded));
        MH_TRY(report(progress, corpus));
        bytes += (double)document.length;
    }
    s->tokens = bytes * (double)ids->count / encoded;
    return MH_OK;
}

mh_status mh_excerpts_survey(mh_excerpts *s, const mh_tokenizer *tokenizer, int64_t tokens,
                             const mh_progress *progress)
{
    mh_corpus *corpus;
    mh_ids ids = {0};
    /* many short ones, where many labels wait for some; else they leave room for whole contexts */
    s->stretch = s->by == MH_LABEL_NONE ? 4096 : 1024;
    MH_TRY(mh_corpus_open(&corpus, s->inputs, s->input_count));
    mh_status status = survey(s, corpus, tokenizer, &ids, progress);
    if (status == MH_OK) {
        shorten_labels(s);
        s->taken = (int64_t)ceil((double)s->stretches * fmin(1, (double)tokens / s->tokens));
    }
    mh_ids_release(&ids);
    mh_corpus_close(corpus);
    return status;
}

bool mh_excerpts_takes(const mh_excerpts *s, int64_t stretch)
{
    int64_t half = s->stretches / 2;
    return ((stretch + 1) * s->taken + half) / s->stretches > (stretch * s->taken + half) / s->stretches;
}

mh_status mh_excerpts_label(mh_excerpts *s, const char *name)
{
    return find_label(s, name, false);
}

void mh_excerpts_release(mh_excerpts *s)
{
    for (int i = 0; i < s->labels; i++)
        free(s->label[i]);
    free(s->label);
    mh_text_release(&s->key);
}
