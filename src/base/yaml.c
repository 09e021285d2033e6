/* yaml: libyaml's events as a list of dotted keys. A recipe needs nested mappings, scalars and lists of
 * scalars; all else in YAML is refused. */
#include "base/base.h"

#include <string.h>
#include <yaml.h>

enum { DEPTH_LIMIT = 8, KEY_LIMIT = 255 /* bytes */ };

typedef struct {
    yaml_parser_t parser;
    yaml_event_t event; /* the current one */
    const char *path, *data;
    size_t length;
    json_t *seen;            /* every full key and its line: finds duplicates */
    char key[KEY_LIMIT + 1]; /* the mapping being read: "moe" */
    size_t key_length;
    mh_yaml_each *each;
    void *context;
} reader;

static int line(const reader *r)
{
    return (int)r->event.start_mark.line + 1;
}

static mh_status refuse(const reader *r, const char *why)
{
    return mh_fail(MH_EFORMAT, "%s:%d: %s", r->path, line(r), why);
}

/* The reader works ahead of the parser and gives the place of a bad character as an offset only. */
static mh_status not_yaml(const reader *r)
{
    const yaml_parser_t *p = &r->parser;
    if (p->error == YAML_MEMORY_ERROR)
        return mh_fail(MH_EMEMORY, "%s: the system refused memory to read it", r->path);
    size_t at = p->problem_mark.line;
    if (p->error == YAML_READER_ERROR) {
        at = 0;
        for (size_t i = 0; i < p->problem_offset && i < r->length; i++)
            at += r->data[i] == '\n';
    }
    return mh_fail(MH_EFORMAT, "%s:%zu: not valid YAML: %s%s%s; correct the line", r->path, at + 1,
                   p->problem, p->context ? " " : "", p->context ? p->context : "");
}

static mh_status next(reader *r)
{
    yaml_event_delete(&r->event);
    if (!yaml_parser_parse(&r->parser, &r->event))
        return not_yaml(r);
    const yaml_event_t *e = &r->event;
    bool marked = e->type == YAML_ALIAS_EVENT;
    if (e->type == YAML_SCALAR_EVENT)
        marked = e->data.scalar.anchor != NULL || e->data.scalar.tag != NULL;
    if (e->type == YAML_MAPPING_START_EVENT)
        marked = e->data.mapping_start.anchor != NULL || e->data.mapping_start.tag != NULL;
    if (e->type == YAML_SEQUENCE_START_EVENT)
        marked = e->data.sequence_start.anchor != NULL || e->data.sequence_start.tag != NULL;
    return marked ? refuse(r, "aliases, anchors and tags are not understood; write the value itself") : MH_OK;
}

/* The text of a scalar that must have one. */
static mh_status scalar(const reader *r, const char **text)
{
    const yaml_event_t *e = &r->event;
    if (e->type != YAML_SCALAR_EVENT)
        return refuse(r, "a single value is expected here, not a list or a group; write key: value");
    *text = (const char *)e->data.scalar.value;
    if (strlen(*text) != e->data.scalar.length)
        return refuse(r, "a value must not contain the character NUL; take it out");
    static const char *const nulls[] = {"", "~", "null", "Null", "NULL"};
    for (size_t i = 0; i < sizeof nulls / sizeof *nulls; i++)
        if (e->data.scalar.style == YAML_PLAIN_SCALAR_STYLE && strcmp(*text, nulls[i]) == 0)
            return refuse(r, "a value is missing; write \"\" for an empty one, or leave out the line");
    return MH_OK;
}

/* Appends the current scalar to the key and notes it. */
static mh_status enter(reader *r)
{
    const char *name;
    MH_TRY(scalar(r, &name));
    size_t room = sizeof r->key - r->key_length;
    int n = snprintf(r->key + r->key_length, room, "%s%s", r->key_length > 0 ? "." : "", name);
    if ((size_t)n >= room)
        return mh_fail(MH_EFORMAT, "%s:%d: a key may have %d bytes, and this one has more; shorten it",
                       r->path, line(r), KEY_LIMIT);
    r->key_length += (size_t)n;
    json_t *first = json_object_get(r->seen, r->key);
    if (first != NULL)
        return mh_fail(MH_EFORMAT, "%s:%d: \"%s\" stands here again, after line %d; keep one of them",
                       r->path, line(r), r->key, (int)json_integer_value(first));
    if (json_object_set_new(r->seen, r->key, json_integer(line(r))) != 0)
        return mh_fail(MH_EMEMORY, "%s: the system refused memory for its keys", r->path);
    return MH_OK;
}

static mh_status list(reader *r)
{
    mh_text joined = {0};
    int first_line = line(r);
    mh_status status = mh_text_add(&joined, "", 0);
    while (status == MH_OK && (status = next(r)) == MH_OK && r->event.type != YAML_SEQUENCE_END_EVENT) {
        const char *item;
        if ((status = scalar(r, &item)) == MH_OK)
            status = mh_text_printf(&joined, "%s%s", joined.length > 0 ? ", " : "", item);
    }
    if (status == MH_OK)
        status = r->each(r->context, r->key, joined.data, first_line);
    mh_text_release(&joined);
    return status;
}

static mh_status mapping(reader *r, int depth)
{
    if (depth > DEPTH_LIMIT)
        return mh_fail(MH_EFORMAT,
                       "%s:%d: groups are nested more than %d deep; recipes have sections and keys", r->path,
                       line(r), DEPTH_LIMIT);
    size_t outer = r->key_length;
    for (;;) {
        MH_TRY(next(r));
        if (r->event.type == YAML_MAPPING_END_EVENT)
            return MH_OK;
        MH_TRY(enter(r));
        MH_TRY(next(r));
        if (r->event.type == YAML_MAPPING_START_EVENT) {
            MH_TRY(mapping(r, depth + 1));
        } else if (r->event.type == YAML_SEQUENCE_START_EVENT) {
            MH_TRY(list(r));
        } else {
            const char *value;
            MH_TRY(scalar(r, &value));
            MH_TRY(r->each(r->context, r->key, value, line(r)));
        }
        r->key_length = outer;
        r->key[outer] = '\0';
    }
}

static mh_status document(reader *r)
{
    MH_TRY(next(r)); /* the start of the stream */
    MH_TRY(next(r));
    if (r->event.type == YAML_STREAM_END_EVENT)
        return MH_OK; /* nothing but comments */
    MH_TRY(next(r));
    if (r->event.type != YAML_MAPPING_START_EVENT)
        return refuse(r, "lines of \"key: value\" are expected; 'mhmoe init' writes an example");
    MH_TRY(mapping(r, 1));
    MH_TRY(next(r)); /* the end of the document */
    MH_TRY(next(r));
    return r->event.type == YAML_STREAM_END_EVENT
               ? MH_OK
               : refuse(r, "a second document is not understood; remove what follows ---");
}

mh_status mh_yaml_read(const char *path, const char *data, size_t length, mh_yaml_each *each, void *context)
{
    reader r = {.path = path,
                .data = data,
                .length = length,
                .seen = json_object(),
                .each = each,
                .context = context};
    mh_status status;
    if (r.seen != NULL && yaml_parser_initialize(&r.parser)) {
        yaml_parser_set_input_string(&r.parser, (const unsigned char *)data, length);
        status = document(&r);
        yaml_event_delete(&r.event);
        yaml_parser_delete(&r.parser);
    } else {
        status = mh_fail(MH_EMEMORY, "%s: the system refused memory to read it", path);
    }
    json_decref(r.seen);
    return status;
}
