/* words: the experts of a word in each of its sentences. */
#include "eval/eval.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { REACH = 150 /* bytes of a sentence told on either side of the word */ };

mh_status mh_words_parse(mh_words *w, const char *list)
{
    for (const char *at = list; *at != '\0';) {
        at += strspn(at, " ");
        size_t span = strcspn(at, ","), length = span;
        while (length > 0 && at[length - 1] == ' ')
            length--;
        if (length == 0 || length >= MH_WORD_BYTES || w->count == MH_WORDS)
            return mh_fail(MH_EUSAGE,
                           "--words takes up to %d words of up to %d bytes such as bank,spring, not '%s'",
                           MH_WORDS, MH_WORD_BYTES - 1, list);
        memcpy(w->word[w->count++], at, length);
        at += span + (at[span] == ',');
    }
    return MH_OK;
}

void mh_words_layout(mh_words *w, mh_arena *arena)
{
    size_t most = (size_t)w->count * MH_OCCURRENCES;
    w->list = mh_take(arena, most * sizeof *w->list);
    w->choice = mh_take(arena, most * (size_t)(w->layers * w->heads * w->top_k) * sizeof *w->choice);
}

/* ---- finding ------------------------------------------------------------------------------------------- */

static bool in_word(char c)
{
    return isalnum((unsigned char)c) || (unsigned char)c >= 0x80;
}

static bool continues_character(char c)
{
    return ((unsigned char)c & 0xc0) == 0x80;
}

/* Whether text[at] is the last byte of a sentence. */
static bool ends_sentence(const char *text, size_t length, size_t at)
{
    bool blank = at + 1 == length || isspace((unsigned char)text[at + 1]);
    return (strchr(".!?", text[at]) != NULL && blank) || (text[at] == '\n' && blank);
}

/* What stands around text[begin, end), on one line. */
static void copy_sentence(mh_occurrence *o, const char *text, size_t length, size_t begin, size_t end)
{
    size_t from = begin, to = end;
    while (from > 0 && begin - from < REACH && !ends_sentence(text, length, from - 1))
        from--;
    while (from < begin && (continues_character(text[from]) || isspace((unsigned char)text[from])))
        from++;
    while (to < length && to - end < REACH && !ends_sentence(text, length, to - 1))
        to++;
    while (to > end && to < length && continues_character(text[to]))
        to--;
    for (size_t i = from; i < to; i++)
        o->sentence[i - from] = isspace((unsigned char)text[i]) ? ' ' : text[i];
    o->begin = begin - from;
    o->end = end - from;
    o->length = to - from;
}

/* The listed word that begins at text[at], or -1. */
static int word_at(const mh_words *w, const char *text, size_t length, size_t at)
{
    if (at > 0 && in_word(text[at - 1]))
        return -1;
    for (int i = 0; i < w->count; i++) {
        size_t end = at + strlen(w->word[i]);
        if (end <= length && strncasecmp(text + at, w->word[i], end - at) == 0 &&
            (end == length || !in_word(text[end])))
            return i;
    }
    return -1;
}

/* A token that ends two words is told of the first alone. */
static void keep(mh_words *w, int word, int64_t at, int32_t label, size_t begin, size_t end)
{
    if (w->kept > 0 && w->list[w->kept - 1].at == at)
        return;
    if (w->found[word]++ >= MH_OCCURRENCES)
        return;
    mh_occurrence *o = &w->list[w->kept++];
    *o = (mh_occurrence){.word = word, .at = at, .label = label};
    copy_sentence(o, w->text.data, w->text.length, begin, end);
}

mh_status mh_words_find(mh_words *w, const mh_tokenizer *tokenizer, const int32_t *id, int64_t count,
                        int64_t first, int32_t label)
{
    int64_t invalid = 0;
    w->piece.length = w->text.length = 0;
    for (int64_t i = 0; i < count; i++)
        MH_TRY(mh_tokenizer_piece(tokenizer, id[i], &w->piece));
    /* the last token may end within a character */
    MH_TRY(mh_utf8_clean(w->piece.data, w->piece.length, &w->text, &invalid));
    size_t ends = 0; /* where the tokens up to `token` end in the text */
    int64_t token = -1;
    for (size_t at = 0; at < w->text.length;) {
        int word = word_at(w, w->text.data, w->text.length, at);
        if (word < 0) {
            at++;
            continue;
        }
        size_t end = at + strlen(w->word[word]);
        /* cleaning may have made the text longer than its pieces */
        for (; ends < end && token + 1 < count; ends += w->piece.length) {
            w->piece.length = 0;
            MH_TRY(mh_tokenizer_piece(tokenizer, id[++token], &w->piece));
        }
        keep(w, word, first + token, label, at, end);
        at = end;
    }
    return MH_OK;
}

/* ---- their experts ------------------------------------------------------------------------------------- */

static int by_place(const void *at, const void *occurrence)
{
    int64_t a = *(const int64_t *)at, b = ((const mh_occurrence *)occurrence)->at;
    return (a > b) - (a < b);
}

void mh_words_record(mh_words *w, int64_t at, int layer, const int32_t *choice)
{
    const mh_occurrence *o = w->kept > 0 ? bsearch(&at, w->list, (size_t)w->kept, sizeof *o, by_place) : NULL;
    if (o != NULL)
        memcpy(w->choice + ((o - w->list) * w->layers + layer) * w->heads * w->top_k, choice,
               (size_t)(w->heads * w->top_k) * sizeof *choice);
}

static const int32_t *choices(const mh_words *w, int occurrence, int layer, int64_t head)
{
    return w->choice + ((occurrence * w->layers + layer) * w->heads + head) * w->top_k;
}

static json_t *experts(const mh_words *w, int occurrence, int layer)
{
    json_t *heads = json_array();
    for (int64_t j = 0; j < w->heads; j++)
        mh_json_append(heads, mh_experts_json(choices(w, occurrence, layer, j), w->top_k));
    return heads;
}

/* Share of the choices of a head, or of all (head -1), that differ between two sentences: the mean over all
 * pairs of them. */
static double change(const mh_words *w, int word, int layer, int64_t head)
{
    int64_t shared = 0, all = 0;
    for (int a = 0; a < w->kept; a++)
        for (int b = 0; b < a; b++)
            for (int64_t j = 0; j < w->heads; j++)
                if (w->list[a].word == word && w->list[b].word == word && (head < 0 || j == head)) {
                    shared += mh_routing_shared(choices(w, a, layer, j), choices(w, b, layer, j), w->top_k);
                    all += w->top_k;
                }
    return 1 - (double)shared / (double)all;
}

static json_t *occurrence_json(const mh_words *w, int i, const mh_routing *routing, char *const *label)
{
    const mh_occurrence *o = &w->list[i];
    json_t *layers = json_array(), *json = json_pack("{s:s%, s:s%, s:s%}", "before", o->sentence, o->begin,
                                                     "text", o->sentence + o->begin, o->end - o->begin,
                                                     "after", o->sentence + o->end, o->length - o->end);
    if (label != NULL)
        mh_json_set(json, "label", json_string(label[o->label]));
    for (int l = 0; l < w->layers; l++)
        mh_json_append(layers, json_pack("{s:I, s:o}", "layer", (json_int_t)routing[l].layer, "heads",
                                         experts(w, i, l)));
    mh_json_set(json, "layers", layers);
    return json;
}

static json_t *word_json(const mh_words *w, int word, const mh_routing *routing, char *const *label)
{
    json_t *occurrences = json_array(), *layers = json_array();
    for (int i = 0; i < w->kept; i++)
        if (w->list[i].word == word)
            mh_json_append(occurrences, occurrence_json(w, i, routing, label));
    for (int l = 0; l < w->layers; l++) {
        json_t *heads = json_array();
        for (int64_t j = 0; j < w->heads; j++)
            mh_json_append(heads, mh_rounded(change(w, word, l, j)));
        mh_json_append(layers, json_pack("{s:I, s:o, s:o}", "layer", (json_int_t)routing[l].layer, "changed",
                                         mh_rounded(change(w, word, l, -1)), "heads", heads));
    }
    return json_pack("{s:s, s:I, s:o, s:o}", "word", w->word[word], "found", (json_int_t)w->found[word],
                     "occurrences", occurrences, "layers", layers);
}

json_t *mh_words_json(const mh_words *w, const mh_routing *routing, char *const *label)
{
    json_t *words = json_array();
    for (int i = 0; i < w->count; i++)
        mh_json_append(words, word_json(w, i, routing, label));
    return words;
}

void mh_words_release(mh_words *w)
{
    mh_text_release(&w->text);
    mh_text_release(&w->piece);
}
