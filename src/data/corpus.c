/* corpus: documents out of streams of text. */
#include "data/data.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 1 << 16, LINE_LIMIT = 64 << 20 };

struct mh_corpus {
    mh_source *source;
    const char *first_path;
    int path_count;

    mh_source_kind kind; /* of the open stream; MH_SOURCE_NONE: none is open */
    bool end;            /* of this stream was read */
    bool binary;         /* it begins with what no text has */
    int64_t line, stream_invalid;
    mh_text raw; /* bytes of it not yet given, from `taken` on */
    size_t taken;
    mh_text text, label; /* of the document given last */

    int64_t documents, bytes, raw_bytes, invalid, worst_invalid;
    mh_text worst;     /* name of the stream with most invalid bytes */
    bool worst_binary; /* and whether it is */
};

/* ---- streams ------------------------------------------------------------------------------------------- */

/* Reads until `want` bytes stand in raw from `taken` on, or to the end of the stream. */
static mh_status fill(mh_corpus *c, size_t want)
{
    char block[BLOCK];
    if (c->taken > 0) {
        c->raw.length -= c->taken;
        memmove(c->raw.data, c->raw.data + c->taken, c->raw.length);
        c->taken = 0;
    }
    while (!c->end && c->raw.length < want) {
        size_t n;
        MH_TRY(mh_source_read(c->source, block, sizeof block, &n));
        c->end = n == 0;
        c->raw_bytes += (int64_t)n;
        MH_TRY(mh_text_add(&c->raw, block, n));
    }
    return MH_OK;
}

static mh_status begin_stream(mh_corpus *c)
{
    MH_TRY(mh_source_next(c->source, &c->kind));
    if (c->kind == MH_SOURCE_NONE)
        return MH_OK;
    c->end = false;
    c->line = c->stream_invalid = 0;
    c->raw.length = c->taken = 0;
    MH_TRY(fill(c, 3));
    if (c->raw.length >= 3 && memcmp(c->raw.data, "\xef\xbb\xbf", 3) == 0)
        c->taken = 3; /* a byte order mark */
    if (c->raw.length >= 2 &&
        (memcmp(c->raw.data, "\xff\xfe", 2) == 0 || memcmp(c->raw.data, "\xfe\xff", 2) == 0))
        return mh_fail(MH_EFORMAT, "%s is UTF-16, not UTF-8; convert it with `iconv -f utf-16 -t utf-8`",
                       mh_source_name(c->source));
    c->binary = c->raw.length > 0 && memchr(c->raw.data, '\0', c->raw.length) != NULL;
    return MH_OK;
}

static mh_status end_stream(mh_corpus *c)
{
    c->kind = MH_SOURCE_NONE;
    c->invalid += c->stream_invalid;
    if (c->stream_invalid <= c->worst_invalid)
        return MH_OK;
    c->worst_invalid = c->stream_invalid;
    c->worst_binary = c->binary;
    c->worst.length = 0;
    return mh_text_printf(&c->worst, "%s", mh_source_name(c->source));
}

/* ---- documents ----------------------------------------------------------------------------------------- */

/* Makes c->text of raw bytes: valid UTF-8, lines ended by \n alone. */
static mh_status set_text(mh_corpus *c, const char *raw, size_t length)
{
    c->text.length = 0;
    MH_TRY(mh_utf8_clean(raw, length, &c->text, &c->stream_invalid));
    char *to = memchr(c->text.data, '\r', c->text.length);
    if (to == NULL)
        return MH_OK;
    for (const char *from = to; *from != '\0'; from++) /* clean text holds no other NUL than its last */
        if (from[0] != '\r' || from[1] != '\n')
            *to++ = *from;
    *to = '\0';
    c->text.length = (size_t)(to - c->text.data);
    return MH_OK;
}

/* The next part of a .txt or .md. */
static mh_status next_part(mh_corpus *c, bool *more)
{
    MH_TRY(fill(c, MH_DOCUMENT_PART + MH_CUT_REACH + 1));
    const char *raw = c->raw.data + c->taken;
    size_t length = c->raw.length - c->taken, cut = length;
    /* One byte is held back until the end was seen: a part that promises more must be followed by some. */
    if (length > MH_DOCUMENT_PART)
        cut = mh_utf8_cut(raw, length - !c->end, MH_DOCUMENT_PART);
    c->taken += cut;
    *more = cut < length;
    return set_text(c, raw, cut);
}

/* The next line's bytes, which stay in raw; NULL at the end of the stream. */
static mh_status next_line(mh_corpus *c, const char **line, size_t *length)
{
    *line = NULL;
    const char *newline = NULL;
    for (size_t seen = 0, held;; seen = held) {
        held = c->raw.length - c->taken;
        newline = memchr(c->raw.data + c->taken + seen, '\n', held - seen);
        if (newline != NULL || c->end || held > LINE_LIMIT)
            break;
        MH_TRY(fill(c, held + BLOCK));
    }
    size_t held = c->raw.length - c->taken;
    if (held == 0)
        return MH_OK;
    *line = c->raw.data + c->taken;
    *length = newline != NULL ? (size_t)(newline - *line) : held;
    if (*length > LINE_LIMIT)
        return mh_fail(MH_EFORMAT,
                       "%s:%lld: this line is longer than %d MiB; a line of .jsonl is one document: split it",
                       mh_source_name(c->source), (long long)c->line + 1, LINE_LIMIT >> 20);
    c->taken += *length + (newline != NULL);
    c->line++;
    return MH_OK;
}

/* What the escape \uXXXX at `s` stands for; -1 if there is none. */
static int escaped(const char *s)
{
    int unit = 0;
    if (s[0] != '\\' || s[1] != 'u')
        return -1;
    for (int i = 2; i < 6; i++) {
        if (!isxdigit((unsigned char)s[i]))
            return -1;
        unit =
            unit * 16 + (isdigit((unsigned char)s[i]) ? s[i] - '0' : tolower((unsigned char)s[i]) - 'a' + 10);
    }
    return unit;
}

/* Cleans what is written as escapes: NUL and halves of surrogate pairs, which jansson refuses, become \ufffd.
 */
static void mend_escapes(char *line, int64_t *invalid)
{
    for (char *at = line; (at = strchr(at, '\\')) != NULL && at[1] != '\0';) {
        int unit = escaped(at);
        bool surrogate = (unit & ~0x7ff) == 0xd800, high = (unit & ~0x3ff) == 0xd800;
        if (high && (escaped(at + 6) & ~0x3ff) == 0xdc00) {
            at += 12;
            continue;
        }
        if (unit == 0 || surrogate) {
            memcpy(at, "\\ufffd", 6);
            ++*invalid;
        }
        at += unit < 0 ? 2 : 6;
    }
}

/* The text of the next line of a .jsonl, nothing for an empty line; *end behind the last. */
static mh_status next_object(mh_corpus *c, bool *end)
{
    const char *line;
    size_t length = 0;
    MH_TRY(next_line(c, &line, &length));
    *end = line == NULL;
    c->text.length = 0;
    if (line == NULL)
        return MH_OK;
    MH_TRY(set_text(c, line, length)); /* JSON is UTF-8 as well */
    if (c->text.data[strspn(c->text.data, " \t\r")] == '\0') {
        c->text.length = 0;
        return MH_OK;
    }
    c->label.length = 0;
    MH_TRY(mh_text_printf(&c->label, "%s:%lld", mh_source_name(c->source), (long long)c->line));
    mend_escapes(c->text.data, &c->stream_invalid);
    json_t *object;
    MH_TRY(mh_json_parse(&object, c->text.data, c->text.length, c->label.data));
    const json_t *text = json_object_get(object, "text");
    if (!json_is_string(text))
        text = json_object_get(object, "content");
    mh_status status = json_is_string(text) ? set_text(c, json_string_value(text), json_string_length(text))
                                            : mh_fail(MH_EFORMAT,
                                                      "%s: this line is no object with a string \"text\" or "
                                                      "\"content\"; give it one, or take the line out",
                                                      c->label.data);
    json_decref(object);
    return status;
}

mh_status mh_corpus_next(mh_corpus *c, mh_document *document, bool *end)
{
    *end = false;
    for (;;) {
        if (c->kind == MH_SOURCE_NONE)
            MH_TRY(begin_stream(c));
        if (c->kind == MH_SOURCE_NONE)
            break;
        bool lines = c->kind == MH_SOURCE_LINES, more = false, last;
        if (lines) {
            MH_TRY(next_object(c, &last));
        } else {
            MH_TRY(next_part(c, &more));
            last = !more;
        }
        if (last)
            MH_TRY(end_stream(c));
        if (c->text.length > 0) {
            c->documents += !more;
            c->bytes += (int64_t)c->text.length;
            *document = (mh_document){c->text.data, c->text.length, more,
                                      lines ? c->label.data : mh_source_name(c->source)};
            return MH_OK;
        }
    }
    *end = true;
    if (c->documents > 0)
        return MH_OK;
    return mh_fail(MH_EVALUE,
                   "there is no text in %s%s: looked for .txt, .md and .jsonl that are not empty, also as "
                   ".gz, .xz, .zst or .bz2, in files, folders and tars, and passed over %lld other files; "
                   "name other inputs",
                   c->first_path, c->path_count > 1 ? " and the other inputs" : "",
                   (long long)mh_corpus_where(c).skipped);
}

/* ---- the whole ----------------------------------------------------------------------------------------- */

mh_status mh_corpus_open(mh_corpus **corpus, const char *const *paths, int count)
{
    *corpus = NULL;
    mh_source *source;
    MH_TRY(mh_source_open(&source, paths, count));
    mh_corpus *c = calloc(1, sizeof *c);
    if (c == NULL) {
        mh_source_close(source);
        return mh_fail(MH_EMEMORY, "the system refused memory for reading text");
    }
    c->source = source;
    c->first_path = paths[0];
    c->path_count = count;
    *corpus = c;
    return MH_OK;
}

void mh_corpus_close(mh_corpus *corpus)
{
    if (corpus == NULL)
        return;
    mh_source_close(corpus->source);
    mh_text_release(&corpus->raw);
    mh_text_release(&corpus->text);
    mh_text_release(&corpus->label);
    mh_text_release(&corpus->worst);
    free(corpus);
}

mh_corpus_state mh_corpus_where(const mh_corpus *corpus)
{
    mh_corpus_state state = {corpus->documents, corpus->bytes, corpus->invalid, 0, 0, 0};
    if (corpus->kind != MH_SOURCE_NONE)
        state.invalid += corpus->stream_invalid;
    state.read = mh_source_where(corpus->source, &state.total, &state.skipped);
    return state;
}

mh_status mh_corpus_check(const mh_corpus *corpus)
{
    if (corpus->invalid <= corpus->raw_bytes / 1000)
        return MH_OK;
    return mh_fail(
        MH_EFORMAT, "%lld of %lld bytes are not valid UTF-8, more than 0.1 %%; most of them are in %s: %s",
        (long long)corpus->invalid, (long long)corpus->raw_bytes, corpus->worst.data,
        corpus->worst_binary ? "with its NUL bytes it is no text; leave it out"
                             : "convert it (for example with `iconv -f latin1 -t utf8`) or leave it out");
}
