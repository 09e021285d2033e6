/* source: streams of bytes out of files, folders and tars, decompressed. */
#include "data/data.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fts.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 1 << 16 };

/* Where it stands, from outside in: one of `paths`, a file below it, an entry of that file if it is a tar. */
struct mh_source {
    const char *const *paths;
    int path_count, path;
    FTS *walk;            /* over paths[path - 1], or NULL */
    struct archive *file; /* or NULL */
    char file_name[MH_PATH];
    struct archive *entry; /* undoes an entry's own compression; NULL where `file` is no tar */
    char block[BLOCK];     /* of the entry as it stands in the tar */
    mh_text name;
    double read, size, total; /* bytes of the files done, of this file, of all files */
    int64_t skipped;
};

/* ---- the walk over files ------------------------------------------------------------------------------- */

static bool ends_in(const char *name, size_t length, const char *suffix)
{
    size_t n = strlen(suffix);
    return length > n && strncasecmp(name + length - n, suffix, n) == 0;
}

/* The length of a name without the suffix of a compression. */
static size_t plain_length(const char *name)
{
    static const char *const packed[] = {".gz", ".xz", ".zst", ".bz2"};
    size_t length = strlen(name);
    for (size_t i = 0; i < sizeof packed / sizeof *packed; i++)
        if (ends_in(name, length, packed[i]))
            return length - strlen(packed[i]);
    return length;
}

/* What a name promises. */
static mh_source_kind kind_of_name(const char *name)
{
    size_t length = plain_length(name);
    if (ends_in(name, length, ".jsonl"))
        return MH_SOURCE_LINES;
    return ends_in(name, length, ".txt") || ends_in(name, length, ".md") ? MH_SOURCE_TEXT : MH_SOURCE_NONE;
}

static int by_name(const FTSENT **a, const FTSENT **b)
{
    return strcmp((*a)->fts_name, (*b)->fts_name);
}

static mh_status open_walk(mh_source *s, const char *path)
{
    char *roots[] = {(char *)path, NULL};
    s->walk = fts_open(roots, FTS_PHYSICAL | FTS_COMFOLLOW | FTS_NOCHDIR, by_name);
    return s->walk != NULL ? MH_OK : mh_fail_errno("read", path);
}

/* The next file to read, NULL after the last. */
static mh_status next_path(mh_source *s, const FTSENT **found)
{
    *found = NULL;
    for (;;) {
        if (s->walk == NULL) {
            if (s->path == s->path_count)
                return MH_OK;
            MH_TRY(open_walk(s, s->paths[s->path++]));
        }
        errno = 0;
        const FTSENT *e = fts_read(s->walk);
        if (e == NULL) {
            if (errno != 0)
                return mh_fail_errno("read", s->paths[s->path - 1]);
            fts_close(s->walk);
            s->walk = NULL;
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
            if (given || kind_of_name(e->fts_name) != MH_SOURCE_NONE) {
                *found = e;
                return MH_OK;
            }
            s->skipped++;
            break;
        default: /* links inside a folder, devices, pipes (which could not be read twice) */
            if (given)
                return mh_fail(MH_EVALUE, "%s is neither a file nor a folder; give text as one of these",
                               e->fts_path);
            s->skipped++;
        }
    }
}

/* ---- files and entries of tars ------------------------------------------------------------------------- */

static mh_status archive_failed(struct archive *a, const char *name)
{
    /* libarchive's own numbers are -1, EINVAL and EILSEQ; all others are the system's. */
    int error = archive_errno(a);
    if (error > 0 && error != EINVAL && error != EILSEQ) {
        errno = error;
        return mh_fail_errno("read", name);
    }
    const char *why = archive_error_string(a);
    return mh_fail(MH_EIO, "cannot read %s: %s; the file may be damaged or cut short: use another copy", name,
                   why != NULL ? why : "unknown error");
}

/* A warning is about a name's character set. A damaged header, after which the entry would be passed over, is
 * something else: ARCHIVE_RETRY. */
static bool usable(int result)
{
    return result == ARCHIVE_OK || result == ARCHIVE_WARN;
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
        return mh_fail(
            MH_ESTATE,
            "this system's libarchive lacks a format: %s; install one with gzip, xz, zstd and bzip2",
            archive_error_string(a));
    return MH_OK;
}

static void close_archive(struct archive **a)
{
    archive_read_free(*a);
    *a = NULL;
}

static la_ssize_t read_entry(struct archive *entry, void *context, const void **block)
{
    mh_source *s = context;
    la_ssize_t n = archive_read_data(s->file, s->block, sizeof s->block);
    if (n < 0)
        archive_set_error(entry, archive_errno(s->file), "%s", archive_error_string(s->file));
    *block = s->block;
    return n;
}

/* Begins to read a tar's entry, if it is a document; an empty one is none. */
static mh_status begin_entry(mh_source *s, struct archive_entry *e, mh_source_kind *kind)
{
    if (archive_entry_filetype(e) == AE_IFDIR)
        return MH_OK;
    const char *name = archive_entry_pathname_utf8(e);
    if (name == NULL) /* not UTF-8 */
        name = archive_entry_pathname(e);
    if (archive_entry_filetype(e) == AE_IFREG && archive_entry_hardlink(e) == NULL && name != NULL)
        *kind = kind_of_name(name);
    if (*kind == MH_SOURCE_NONE) {
        s->skipped++;
        return MH_OK;
    }
    MH_TRY(mh_text_printf(&s->name, "%s:%s", s->file_name, name));
    MH_TRY(new_archive(&s->entry, false));
    if (archive_read_open(s->entry, s, NULL, read_entry, NULL) != ARCHIVE_OK)
        return archive_failed(s->entry, s->name.data);
    int result = archive_read_next_header(s->entry, &e);
    if (result == ARCHIVE_EOF)
        *kind = MH_SOURCE_NONE;
    else if (!usable(result))
        return archive_failed(s->entry, s->name.data);
    return MH_OK;
}

static mh_status open_file(mh_source *s, const FTSENT *path)
{
    MH_TRY(mh_path_join(s->file_name, "", path->fts_path));
    s->size = (double)path->fts_statp->st_size;
    MH_TRY(new_archive(&s->file, true));
    if (archive_read_open_filename(s->file, path->fts_accpath, BLOCK) != ARCHIVE_OK)
        return archive_failed(s->file, s->file_name);
    return MH_OK;
}

mh_status mh_source_next(mh_source *s, mh_source_kind *kind)
{
    *kind = MH_SOURCE_NONE;
    while (*kind == MH_SOURCE_NONE) {
        s->name.length = 0;
        close_archive(&s->entry);
        if (s->file == NULL) {
            const FTSENT *path;
            MH_TRY(next_path(s, &path));
            if (path == NULL)
                return MH_OK;
            MH_TRY(open_file(s, path));
        }
        /* A file that is no tar has one nameless entry. */
        struct archive_entry *e;
        int result = archive_read_next_header(s->file, &e);
        if (result == ARCHIVE_EOF) {
            close_archive(&s->file);
            s->read += s->size;
        } else if (!usable(result)) {
            return archive_failed(s->file, s->file_name);
        } else if ((archive_format(s->file) & ARCHIVE_FORMAT_BASE_MASK) == ARCHIVE_FORMAT_TAR) {
            MH_TRY(begin_entry(s, e, kind));
        } else if (ends_in(s->file_name, plain_length(s->file_name), ".tar")) {
            return mh_fail(
                MH_EFORMAT,
                "%s is named a tar but does not begin as one; use another copy, or rename it if it is no tar",
                s->file_name);
        } else {
            MH_TRY(mh_text_printf(&s->name, "%s", s->file_name));
            *kind = kind_of_name(s->file_name) == MH_SOURCE_LINES ? MH_SOURCE_LINES : MH_SOURCE_TEXT;
        }
    }
    return MH_OK;
}

mh_status mh_source_read(mh_source *s, void *block, size_t size, size_t *got)
{
    struct archive *a = s->entry != NULL ? s->entry : s->file;
    la_ssize_t n = archive_read_data(a, block, size);
    if (n < 0)
        return archive_failed(a, s->name.data);
    *got = (size_t)n;
    return MH_OK;
}

/* ---- the whole ----------------------------------------------------------------------------------------- */

const char *mh_source_name(const mh_source *source)
{
    return source->name.data;
}

double mh_source_where(const mh_source *source, double *total, int64_t *skipped)
{
    *total = source->total;
    *skipped = source->skipped;
    return source->read + (source->file != NULL ? (double)archive_filter_bytes(source->file, -1) : 0);
}

/* Walks over all files once before, to know their sizes and to find a missing one early. */
static mh_status measure(mh_source *s)
{
    const FTSENT *path;
    MH_TRY(next_path(s, &path));
    while (path != NULL) {
        s->total += (double)path->fts_statp->st_size;
        MH_TRY(next_path(s, &path));
    }
    s->path = 0;
    s->skipped = 0;
    return MH_OK;
}

mh_status mh_source_open(mh_source **source, const char *const *paths, int count)
{
    *source = NULL;
    if (count <= 0)
        return mh_fail(MH_EVALUE, "no input was named; give files, folders or tars of text");
    mh_source *s = calloc(1, sizeof *s);
    if (s == NULL)
        return mh_fail(MH_EMEMORY, "the system refused memory for reading text");
    s->paths = paths;
    s->path_count = count;
    mh_status status = measure(s);
    if (status == MH_OK)
        *source = s;
    else
        mh_source_close(s);
    return status;
}

void mh_source_close(mh_source *source)
{
    if (source == NULL)
        return;
    if (source->walk != NULL)
        fts_close(source->walk);
    close_archive(&source->entry);
    close_archive(&source->file);
    mh_text_release(&source->name);
    free(source);
}
