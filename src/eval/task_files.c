/* task_files: questions out of files. */
#include "eval/eval.h"

#include <stdlib.h>
#include <string.h>

#define FILE_LIMIT ((size_t)256 << 20) /* uncompressed: far over any benchmark */

enum { COMPLAINTS = 10 };

/* ---- items --------------------------------------------------------------------------------------------- */

void mh_items_release(mh_items *items)
{
    for (int64_t i = 0; i < items->count; i++)
        mh_item_release(&items->item[i]);
    free(items->item);
    mh_text_release(&items->complaints);
    items->item = NULL;
    items->count = items->capacity = 0;
}

void mh_items_remove(mh_items *items, int64_t index)
{
    mh_item_release(&items->item[index]);
    items->count--;
    memmove(&items->item[index], &items->item[index + 1],
            (size_t)(items->count - index) * sizeof *items->item);
}

static mh_status add_item(mh_items *items, const mh_item *item)
{
    if (items->count == items->capacity) {
        int64_t capacity = 2 * items->capacity + 64;
        mh_item *grown = realloc(items->item, (size_t)capacity * sizeof *grown);
        if (grown == NULL)
            return mh_fail(MH_EMEMORY, "the system refused memory for %lld questions", (long long)capacity);
        items->item = grown;
        items->capacity = capacity;
    }
    items->item[items->count++] = *item;
    return MH_OK;
}

mh_status mh_items_complain(mh_items *items, int64_t number, int64_t line)
{
    if (line > 0)
        mh_fail_in(MH_EFORMAT, "%s:%lld", items->path, (long long)line);
    else
        mh_fail_in(MH_EFORMAT, "%s: question %lld", items->path, (long long)number + 1);
    items->left_out++;
    if (items->left_out > COMPLAINTS)
        return MH_OK;
    return mh_text_printf(&items->complaints, "%s\n", mh_message());
}

mh_status mh_items_refuse(const mh_items *items)
{
    const char *first = items->complaints.data;
    return mh_fail(MH_EFORMAT, "%.*s", (int)strcspn(first, "\n"), first);
}

/* ---- files --------------------------------------------------------------------------------------------- */

typedef struct {
    mh_items *items;
    int64_t limit, seen, line; /* records, and lines */
    mh_text text, work;        /* of the file; the prompt being made */
    char *rest;                /* of the text, NULL at its end */
} reader;

static mh_status read_text(reader *r, const char *path)
{
    mh_source *source;
    mh_source_kind kind;
    if (mh_path_is_dir(path))
        return mh_fail(MH_EVALUE, "%s is a folder; name a file of questions in it", path);
    MH_TRY(mh_source_open(&source, &path, 1));
    mh_status status = mh_source_next(source, &kind);
    char block[1 << 16];
    for (size_t n = 1; status == MH_OK && kind != MH_SOURCE_NONE && n > 0;) {
        status = mh_source_read(source, block, sizeof block, &n);
        if (status == MH_OK && n > FILE_LIMIT - r->text.length)
            status =
                mh_fail(MH_EFORMAT, "%s holds more than %zu MiB and is no file of questions; name another",
                        path, FILE_LIMIT >> 20);
        if (status == MH_OK)
            status = mh_text_add(&r->text, block, n);
    }
    mh_source_close(source);
    return status;
}

/* The next line, in place; NULL at the end. Fails where it is no valid text. */
static mh_status next_line(reader *r, char **line)
{
    *line = r->rest;
    if (r->rest == NULL)
        return MH_OK;
    char *end = r->text.data + r->text.length, *newline = memchr(r->rest, '\n', (size_t)(end - r->rest));
    r->rest = newline != NULL && newline + 1 < end ? newline + 1 : NULL;
    r->line++;
    if (newline == NULL)
        newline = end;
    if (newline > *line && newline[-1] == '\r')
        newline--;
    *newline = '\0';
    int64_t invalid = 0;
    r->work.length = 0;
    MH_TRY(mh_utf8_clean(*line, (size_t)(newline - *line), &r->work, &invalid));
    return invalid == 0 ? MH_OK : mh_fail(MH_EFORMAT, "it is not valid UTF-8");
}

static mh_status parse_line(const mh_task *task, const char *line, mh_item *item, mh_text *work)
{
    json_t *json;
    MH_TRY(mh_json_parse(&json, line, strlen(line), "it"));
    mh_status status = task->format->parse_json(task, json, item, work);
    json_decref(json);
    return status;
}

/* Keeps an item if it was parsed, and leaves it out if the file is to blame. */
static mh_status take(reader *r, mh_status status, mh_item *item)
{
    r->seen++;
    if (status == MH_OK)
        status = add_item(r->items, item);
    if (status == MH_OK)
        return MH_OK;
    mh_item_release(item);
    return status == MH_EFORMAT ? mh_items_complain(r->items, item->number, item->line) : status;
}

static bool wants_more(const reader *r)
{
    return r->limit == 0 || r->seen < r->limit;
}

static mh_status read_records(reader *r)
{
    const mh_task *task = &r->items->task;
    int lines = task->format->lines;
    const char *header = task->format->header;
    char *line[MH_RECORD_LINES];
    if (header != NULL && (next_line(r, &line[0]) != MH_OK || strncmp(line[0], header, strlen(header)) != 0))
        return mh_fail(MH_EFORMAT,
                       "%s:1: its columns must be sentence1, sentence2 and label, between tabs; give the "
                       "file as it is published",
                       r->items->path);
    while (r->rest != NULL && wants_more(r)) {
        mh_item item = {.number = r->seen, .line = r->line + 1};
        mh_status status = MH_OK;
        int n = 0;
        do { /* all of them, so that the next record starts behind */
            mh_status of_line = next_line(r, &line[n++]);
            status = status == MH_OK ? of_line : status;
        } while (n < lines && r->rest != NULL);
        if (status == MH_OK && n == 1 && line[0][strspn(line[0], " \t")] == '\0')
            continue; /* a blank line is no question */
        if (status == MH_OK && n < lines)
            status = mh_fail(MH_EFORMAT, "the file ends after %d of this question's %d lines", n, lines);
        if (status == MH_OK)
            status = task->format->parse_json ? parse_line(task, line[0], &item, &r->work)
                                              : task->format->parse_lines(task, line, &item, &r->work);
        MH_TRY(take(r, status, &item));
    }
    return MH_OK;
}

static mh_status read_list(reader *r)
{
    const mh_task *task = &r->items->task;
    json_t *list;
    MH_TRY(mh_json_parse(&list, r->rest, r->text.length - (size_t)(r->rest - r->text.data), r->items->path));
    mh_status status = MH_OK;
    if (json_array_size(list) == 0)
        status = mh_fail(MH_EFORMAT, "%s is no list of questions; give the file as it is published",
                         r->items->path);
    for (size_t i = 0; status == MH_OK && i < json_array_size(list) && wants_more(r); i++) {
        mh_item item = {.number = r->seen};
        status = take(r, task->format->parse_json(task, json_array_get(list, i), &item, &r->work), &item);
    }
    json_decref(list);
    return status;
}

mh_status mh_items_read(mh_items *items, const mh_task *task, const char *path, int64_t limit)
{
    *items = (mh_items){.task = *task};
    reader r = {.items = items, .limit = limit};
    mh_status status = mh_path_join(items->path, "", path);
    if (status == MH_OK)
        status = read_text(&r, path);
    if (status == MH_OK && r.text.length > 0) {
        bool mark = r.text.length >= 3 && memcmp(r.text.data, "\xef\xbb\xbf", 3) == 0;
        r.rest = r.text.data + (mark ? 3 : 0);
        status = task->format->lines > 0 ? read_records(&r) : read_list(&r);
    }
    if (status == MH_OK && items->count == 0) {
        status = items->left_out ? mh_items_refuse(items) : mh_fail(MH_EFORMAT, "it is empty");
        mh_fail_in(status, "%s holds no question that can be asked; correct it or name another", path);
    }
    mh_text_release(&r.text);
    mh_text_release(&r.work);
    if (status != MH_OK)
        mh_items_release(items);
    return status;
}
