/* corpus: documents out of files, folders and archives. */
#include "data/data.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fts.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 1 << 16, LINE_LIMIT = 64 << 20 };

typedef enum { NO_DOCUMENT, TEXT, LINES } kind;

/* Where the stream stands, from outside in: a path of `paths`, a file below it, an entry of that file if it
 * is a tar, and in `raw` the bytes read from there. */
struct mh_corpus {
    const char *const *paths;
    int path_count, path;
    FTS *walk;            /* over paths[path - 1], or NULL */
    struct archive *file; /* or NULL */
    char file_name[MH_PATH];
    double file_size;
    struct archive *entry; /* undoes an entry's own compression; NULL where `file` is no tar */
    char block[BLOCK];     /* of the entry as it stands in the tar */

    kind kind; /* of the open stream of text; NO_DOCUMENT: none is open */
    mh_text name;
    bool end; /* of this stream */
    int64_t line, stream_invalid;
    mh_text raw; /* bytes not yet given, from `taken` on */
    size_t taken;
    mh_text text, label; /* of the document given last */

    mh_corpus_state state; /* but for state.read, which counts whole files here */
    int64_t raw_bytes, worst_invalid;
    mh_text worst; /* name of the stream with most invalid bytes */
};

/* ---- files: the walk -------------------------------------------------------------------------------- */

static bool ends_in(const char *name, size_t length, const char *suffix)
{
    size_t n = strlen(suffix);
    return length > n && strncasecmp(name + length - n, suffix, n) == 0;
}

/* What a name promises, whatever suffix of a compression stands behind it. */
static kind kind_of_name(const char *name)
{
    static const char *const packed[] = {".gz", ".xz", ".zst", ".bz2"};
    size_t length = strlen(name);
    for (size_t i = 0; i < sizeof packed / sizeof *packed; i++)
        if (ends_in(name, length, packed[i])) {
            length -= strlen(packed[i]);
            break;
        }
    if (ends_in(name, length, ".jsonl"))
        return LINES;
    return ends_in(name, length, ".txt") || ends_in(name, length, ".md") ? TEXT : NO_DOCUMENT;
}

static int by_name(const FTSENT **a, const FTSENT **b)
{
    return strcmp((*a)->fts_name, (*b)->fts_name);
}

static mh_status open_walk(mh_corpus *c, const char *path)
{
    char *roots[] = {(char *)path, NULL};
    c->walk = fts_open(roots, FTS_PHYSICAL | FTS_COMFOLLOW | FTS_NOCHDIR, by_name);
    return c->walk != NULL ? MH_OK : mh_fail_errno("read", path);
}

/* The next file to read, NULL after the last. */
static mh_status next_path(mh_corpus *c, const FTSENT **found)
{
    *found = NULL;
    for (;;) {
        if (c->walk == NULL) {
            if (c->path == c->path_count)
                return MH_OK;
            MH_TRY(open_walk(c, c->paths[c->path++]));
        }
        errno = 0;
        const FTSENT *e = fts_read(c->walk);
        if (e == NULL) {
            if (errno != 0)
                return mh_fail_errno("read", c->paths[c->path - 1]);
            fts_close(c->walk);
            c->walk = NULL;
            continue;
        }
        bool given = e->fts_level == FTS_ROOTLEVEL;
        switch (e->fts_info) {
        case FTS_D:
        case FTS_DP:
            break;
        case FTS_DNR:
        case FTS_ERR:
        case FTS_NS:
            errno = e->fts_errno;
            return mh_fail_errno("read", e->fts_path);
        case FTS_F:
            if (given || kind_of_name(e->fts_name) != NO_DOCUMENT) {
                *found = e;
                return MH_OK;
            }
            c->state.skipped++;
            break;
        default: /* links inside a folder, devices, pipes: a pipe could not be read twice */
            if (given)
                return mh_fail(MH_EVALUE, "%s is neither a file nor a folder; give text as one of these",
                               e->fts_path);
            c->state.skipped++;
        }
    }
}

/* ---- streams: files, or entries of tars ------------------------------------------------------------- */

static mh_status archive_failed(struct archive *a, const char *name)
{
    const char *why = archive_error_string(a);
    return mh_fail(MH_EIO, "cannot read %s: %s; the file may be damaged or cut short", name,
                   why != NULL ? why : "unknown error");
}

static mh_status new_archive(struct archive **out, bool tar)
{
    struct archive *a = *out = archive_read_new();
    if (a == NULL)
        return mh_fail(MH_EMEMORY, "the system refused memory for reading a file");
    if (archive_read_support_filter_gzip(a) != ARCHIVE_OK ||
        archive_read_support_filter_xz(a) != ARCHIVE_OK ||
        archive_read_support_filter_zstd(a) != ARCHIVE_OK ||
        archive_read_support_filter_bzip2(a) != ARCHIVE_OK ||
        (tar && archive_read_support_format_tar(a) != ARCHIVE_OK) ||
        archive_read_support_format_raw(a) != ARCHIVE_OK ||
        archive_read_support_format_empty(a) != ARCHIVE_OK)
        return mh_fail(MH_ESTATE, "this build of libarchive lacks a format: %s", archive_error_string(a));
    return MH_OK;
}

static void close_archive(struct archive **a)
{
    archive_read_free(*a);
    *a = NULL;
}

static la_ssize_t read_entry(struct archive *entry, void *context, const void **block)
{
    mh_corpus *c = context;
    la_ssize_t n = archive_read_data(c->file, c->block, sizeof c->block);
    if (n < 0)
        archive_set_error(entry, archive_errno(c->file), "%s", archive_error_string(c->file));
    *block = c->block;
    return n;
}

/* Reads until `want` bytes stand in raw from `taken` on, or to the end of the stream. */
static mh_status fill(mh_corpus *c, size_t want)
{
    struct archive *a = c->entry != NULL ? c->entry : c->file;
    char block[BLOCK];
    if (c->taken > 0) {
        c->raw.length -= c->taken;
        memmove(c->raw.data, c->raw.data + c->taken, c->raw.length);
        c->taken = 0;
    }
    while (!c->end && c->raw.length < want) {
        la_ssize_t n = archive_read_data(a, block, sizeof block);
        if (n < 0)
            return archive_failed(a, c->name.data);
        c->end = n == 0;
        c->raw_bytes += n;
        MH_TRY(mh_text_add(&c->raw, block, (size_t)n));
    }
    return MH_OK;
}

/* Begins the stream of text called c->name. */
static mh_status begin_stream(mh_corpus *c, kind kind)
{
    c->kind = kind;
    c->end = false;
    c->line = c->stream_invalid = 0;
    c->raw.length = c->taken = 0;
    MH_TRY(fill(c, 3));
    if (c->raw.length >= 3 && memcmp(c->raw.data, "\xef\xbb\xbf", 3) == 0)
        c->taken = 3; /* a byte order mark */
    return MH_OK;
}

static mh_status end_stream(mh_corpus *c)
{
    if (c->stream_invalid > c->worst_invalid) {
        c->worst_invalid = c->stream_invalid;
        c->worst.length = 0;
        MH_TRY(mh_text_add(&c->worst, c->name.data, c->name.length));
    }
    c->kind = NO_DOCUMENT;
    close_archive(&c->entry);
    return MH_OK;
}

/* Begins the stream of a tar's entry, if it is a document. */
static mh_status begin_entry(mh_corpus *c, struct archive_entry *e)
{
    if (archive_entry_filetype(e) == AE_IFDIR)
        return MH_OK;
    const char *name = archive_entry_pathname_utf8(e);
    if (name == NULL) /* not UTF-8 */
        name = archive_entry_pathname(e);
    bool file = archive_entry_filetype(e) == AE_IFREG && archive_entry_hardlink(e) == NULL;
    kind kind = file && name != NULL ? kind_of_name(name) : NO_DOCUMENT;
    if (kind == NO_DOCUMENT) {
        c->state.skipped++;
        return MH_OK;
    }
    c->name.length = 0;
    MH_TRY(mh_text_printf(&c->name, "%s:%s", c->file_name, name));
    MH_TRY(new_archive(&c->entry, false));
    if (archive_read_open(c->entry, c, NULL, read_entry, NULL) != ARCHIVE_OK)
        return archive_failed(c->entry, c->name.data);
    int result = archive_read_next_header(c->entry, &e);
    if (result == ARCHIVE_EOF) { /* empty */
        close_archive(&c->entry);
        return MH_OK;
    }
    return result < ARCHIVE_WARN ? archive_failed(c->entry, c->name.data) : begin_stream(c, kind);
}

static mh_status open_file(mh_corpus *c, const FTSENT *path)
{
    MH_TRY(mh_path_join(c->file_name, "", path->fts_path));
    c->file_size = (double)path->fts_statp->st_size;
    MH_TRY(new_archive(&c->file, true));
    if (archive_read_open_filename(c->file, path->fts_accpath, BLOCK) != ARCHIVE_OK)
        return archive_failed(c->file, c->file_name);
    return MH_OK;
}

/* Goes to the next stream of text: leaves c->kind at NO_DOCUMENT behind the last. */
static mh_status next_stream(mh_corpus *c)
{
    while (c->kind == NO_DOCUMENT) {
        if (c->file == NULL) {
            const FTSENT *path;
            MH_TRY(next_path(c, &path));
            if (path == NULL)
                return MH_OK;
            MH_TRY(open_file(c, path));
        }
        /* A file that is no tar has one nameless entry. */
        struct archive_entry *e;
        int result = archive_read_next_header(c->file, &e);
        if (result == ARCHIVE_EOF) {
            close_archive(&c->file);
            c->state.read += c->file_size;
        } else if (result < ARCHIVE_WARN) {
            return archive_failed(c->file, c->file_name);
        } else if ((archive_format(c->file) & ARCHIVE_FORMAT_BASE_MASK) == ARCHIVE_FORMAT_TAR) {
            MH_TRY(begin_entry(c, e));
        } else {
            c->name.length = 0;
            MH_TRY(mh_text_add(&c->name, c->file_name, strlen(c->file_name)));
            MH_TRY(begin_stream(c, kind_of_name(c->file_name) == LINES ? LINES : TEXT));
        }
    }
    return MH_OK;
}

/* ---- documents -------------------------------------------------------------------------------------- */

/* Makes c->text of raw bytes: valid UTF-8, lines ended by \n alone. */
static mh_status set_text(mh_corpus *c, const char *raw, size_t length)
{
    c->text.length = 0;
    MH_TRY(mh_utf8_clean(raw, length, &c->text, &c->stream_invalid));
    char *to = memchr(c->text.data, '\r', c->text.length);
    if (to == NULL)
        return MH_OK;
    const char *end = c->text.data + c->text.length;
    for (const char *from = to; from < end; from++)
        if (*from != '\r' || from[1] != '\n')
            *to++ = *from;
    c->text.length = (size_t)(to - c->text.data);
    return MH_OK;
}

/* The next part of a .txt or .md into c->text; nothing at the end of the stream. */
static mh_status next_part(mh_corpus *c, bool *more)
{
    MH_TRY(fill(c, MH_DOCUMENT_PART + MH_CUT_REACH));
    const char *raw = c->raw.data + c->taken;
    size_t length = c->raw.length - c->taken;
    /* One byte is held back until the end is seen, so that a part that has more is followed by one. */
    size_t cut = length > MH_DOCUMENT_PART ? mh_utf8_cut(raw, length - !c->end, MH_DOCUMENT_PART) : length;
    *more = cut < length;
    c->taken += cut;
    return set_text(c, raw, cut);
}

/* The next line's bytes, which stay in raw; NULL at the end of the stream. */
static mh_status next_line(mh_corpus *c, const char **line, size_t *length)
{
    *line = NULL;
    size_t seen = 0;
    const char *newline;
    for (;;) {
        size_t held = c->raw.length - c->taken;
        newline = memchr(c->raw.data + c->taken + seen, '\n', held - seen);
        if (newline != NULL || c->end)
            break;
        if (held > LINE_LIMIT)
            return mh_fail(MH_EFORMAT,
                           "%s:%lld: this line is longer than %d MiB; a line of .jsonl is one document",
                           c->name.data, (long long)c->line + 1, LINE_LIMIT >> 20);
        seen = held;
        MH_TRY(fill(c, held + BLOCK));
    }
    size_t held = c->raw.length - c->taken;
    if (held == 0)
        return MH_OK;
    *line = c->raw.data + c->taken;
    *length = newline != NULL ? (size_t)(newline - *line) : held;
    c->taken += *length + (newline != NULL);
    c->line++;
    return MH_OK;
}

/* The text of the next object of a .jsonl into c->text; *end at the end of the stream. */
static mh_status next_object(mh_corpus *c, bool *end)
{
    const char *line;
    size_t length;
    MH_TRY(next_line(c, &line, &length));
    *end = line == NULL;
    c->text.length = 0;
    if (line == NULL)
        return MH_OK;
    MH_TRY(set_text(c, line, length));
    if (strspn(c->text.data, " \t\r") == c->text.length) {
        c->text.length = 0;
        return MH_OK;
    }
    c->label.length = 0;
    MH_TRY(mh_text_printf(&c->label, "%s:%lld", c->name.data, (long long)c->line));
    json_t *object;
    MH_TRY(mh_json_parse(&object, c->text.data, c->text.length, c->label.data));
    const json_t *text = json_object_get(object, "text");
    if (!json_is_string(text))
        text = json_object_get(object, "content");
    mh_status status =
        json_is_string(text)
            ? set_text(c, json_string_value(text), json_string_length(text))
            : mh_fail(MH_EFORMAT, "%s: this line is no object with a string \"text\" or \"content\"",
                      c->label.data);
    json_decref(object);
    return status;
}

mh_status mh_corpus_next(mh_corpus *c, mh_document *document, bool *end)
{
    *end = false;
    for (;;) {
        MH_TRY(next_stream(c));
        if (c->kind == NO_DOCUMENT)
            break;
        bool more = false, over;
        int64_t invalid = c->stream_invalid;
        if (c->kind == TEXT) {
            MH_TRY(next_part(c, &more));
            over = !more;
        } else {
            MH_TRY(next_object(c, &over));
        }
        c->state.invalid += c->stream_invalid - invalid;
        *document =
            (mh_document){c->text.data, c->text.length, more, c->kind == TEXT ? c->name.data : c->label.data};
        if (over)
            MH_TRY(end_stream(c));
        if (c->text.length > 0) {
            c->state.documents += !more;
            c->state.bytes += (int64_t)c->text.length;
            return MH_OK;
        }
    }
    *end = true;
    if (c->state.documents == 0)
        return mh_fail(
            MH_EVALUE,
            "there is no text in %s%s: looked for .txt, .md and .jsonl that are not empty, also as "
            ".gz, .xz, .zst or .bz2, in files, folders and tars, and passed over %lld other files",
            c->paths[0], c->path_count > 1 ? " and the other inputs" : "", (long long)c->state.skipped);
    return MH_OK;
}

/* ---- the whole -------------------------------------------------------------------------------------- */

/* Sums the sizes of what there is to read: the walk is done once before. */
static mh_status measure(mh_corpus *c)
{
    const FTSENT *path;
    MH_TRY(next_path(c, &path));
    for (; path != NULL;) {
        c->state.total += (double)path->fts_statp->st_size;
        MH_TRY(next_path(c, &path));
    }
    c->path = 0;
    c->state.skipped = 0;
    return MH_OK;
}

mh_status mh_corpus_open(mh_corpus **corpus, const char *const *paths, int count)
{
    mh_corpus *c = *corpus = calloc(1, sizeof *c);
    if (c == NULL)
        return mh_fail(MH_EMEMORY, "the system refused memory for reading text");
    c->paths = paths;
    c->path_count = count;
    mh_status status = count > 0
                           ? measure(c)
                           : mh_fail(MH_EVALUE, "no input was named; give files, folders or tars of text");
    if (status != MH_OK) {
        mh_corpus_close(c);
        *corpus = NULL;
    }
    return status;
}

void mh_corpus_close(mh_corpus *c)
{
    if (c == NULL)
        return;
    if (c->walk != NULL)
        fts_close(c->walk);
    close_archive(&c->entry);
    close_archive(&c->file);
    mh_text_release(&c->name);
    mh_text_release(&c->raw);
    mh_text_release(&c->text);
    mh_text_release(&c->label);
    mh_text_release(&c->worst);
    free(c);
}

mh_corpus_state mh_corpus_where(const mh_corpus *corpus)
{
    mh_corpus_state state = corpus->state;
    if (corpus->file != NULL)
        state.read += (double)archive_filter_bytes(corpus->file, -1);
    return state;
}

mh_status mh_corpus_check(const mh_corpus *corpus)
{
    if (corpus->state.invalid <= corpus->raw_bytes / 1000)
        return MH_OK;
    return mh_fail(MH_EFORMAT,
                   "%lld of %lld bytes are not valid UTF-8, over 0.1 %%; most of them in %s: convert it (for "
                   "example with `iconv -f latin1 -t utf8`) or leave it out",
                   (long long)corpus->state.invalid, (long long)corpus->raw_bytes, corpus->worst.data);
}
