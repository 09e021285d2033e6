/* json: jansson behind limits. */
#include "base/base.h"

#include <math.h>
#include <string.h>

#define FILE_LIMIT ((size_t)64 << 20)
#define FLAGS      (JSON_DECODE_ANY | JSON_REJECT_DUPLICATES)

mh_status mh_json_parse(json_t **json, const char *data, size_t length, const char *what)
{
    json_error_t error;
    *json = json_loadb(data, length, FLAGS, &error);
    if (*json == NULL) /* to jansson, a token that got no memory is a wrong one; what is wrong is so again */
        *json = json_loadb(data, length, FLAGS, &error);
    if (*json != NULL)
        return MH_OK;
    if (error.text[0] == '\0' || json_error_code(&error) == json_error_out_of_memory)
        return mh_fail(MH_EMEMORY, "%s: the system refused memory to read it", what);
    /* Two of jansson's sentences: one tells the programmer which flag to set, one lacks the limit. */
    _Static_assert(JSON_PARSER_MAX_DEPTH == 2048, "docs/formats.md says so, too");
    const char *why = error.text;
    if (json_error_code(&error) == json_error_null_character)
        why = "\\u0000 is not allowed in a string";
    else if (json_error_code(&error) == json_error_stack_overflow)
        why = "arrays and objects are nested more than 2048 deep; nest them less";
    char line[32] = ""; /* of several; `what` tells which one a text of one line is */
    if (memchr(data, '\n', length) != NULL)
        snprintf(line, sizeof line, "line %d, ", error.line);
    return mh_fail(MH_EFORMAT, "%s is not valid JSON: %scolumn %d: %s; correct it, or use another copy", what,
                   line, error.column, why);
}

mh_status mh_json_read(json_t **json, const char *path)
{
    *json = NULL;
    mh_text text;
    MH_TRY(mh_file_read(path, FILE_LIMIT, &text));
    mh_status status = mh_json_parse(json, text.data, text.length, path);
    mh_text_release(&text);
    return status;
}

/* What an array or object could not take would just be missing in the file; the next dump of this thread
 * fails instead. A builder that got no memory passes NULL on, json_pack too, so no caller needs to look. */
static _Thread_local bool lost;

void mh_json_append(json_t *array, json_t *item)
{
    lost |= json_array_append_new(array, item) != 0;
}

void mh_json_set(json_t *object, const char *key, json_t *item)
{
    lost |= json_object_set_new(object, key, item) != 0;
}

typedef struct {
    mh_text *text;
    bool failed; /* jansson does not look at all its answers */
} sink;

static int add(const char *data, size_t length, void *context)
{
    sink *s = context;
    s->failed = s->failed || mh_text_add(s->text, data, length) != MH_OK;
    return s->failed ? -1 : 0;
}

static mh_status dump(const json_t *json, size_t flags, mh_text *out)
{
    size_t before = out->length;
    sink to = {out, lost};
    lost = false;
    if (json_dump_callback(json, add, &to, flags | JSON_ENCODE_ANY) == 0 && !to.failed)
        return MH_OK;
    out->length = before;
    return mh_fail(MH_EMEMORY, "the system refused memory for a JSON text");
}

/* A double needs 17 digits in general, but 15 give back what people write: 0.1 and not
 * 0.10000000000000001. So for readers 15 are used where reading them back gives the same values. */
mh_status mh_json_dump(const json_t *json, bool pretty, mh_text *out)
{
    if (!pretty)
        return dump(json, JSON_COMPACT, out);
    size_t before = out->length;
    MH_TRY(dump(json, JSON_INDENT(2) | JSON_REAL_PRECISION(15), out));
    json_t *back;
    MH_TRY(mh_json_parse(&back, out->data + before, out->length - before, "a JSON text"));
    bool same = json_equal(json, back);
    json_decref(back);
    if (same)
        return MH_OK;
    out->length = before;
    return dump(json, JSON_INDENT(2), out);
}

mh_status mh_json_dump_script(const json_t *json, mh_text *out)
{
    mh_text plain = {0};
    mh_status status = dump(json, JSON_COMPACT | JSON_REAL_PRECISION(7), &plain);
    /* Outside its strings JSON has no "<". */
    for (size_t at = 0; status == MH_OK && at < plain.length;) {
        size_t n = strcspn(plain.data + at, "<");
        status = mh_text_add(out, plain.data + at, n);
        at += n;
        if (status == MH_OK && at < plain.length) {
            status = mh_text_add(out, "\\u003c", 6);
            at++;
        }
    }
    mh_text_release(&plain);
    return status;
}

mh_status mh_json_write(const char *path, const json_t *json)
{
    mh_text text = {0};
    mh_status status = mh_json_dump(json, true, &text);
    if (status == MH_OK)
        status = mh_text_add(&text, "\n", 1);
    if (status == MH_OK)
        status = mh_file_write(path, text.data, text.length);
    mh_text_release(&text);
    return status;
}

json_t *mh_json_real(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

#define SEAL "xxh3"

static mh_status hash_of(const json_t *object, char hash[17])
{
    mh_text text = {0};
    mh_status status = mh_json_dump(object, false, &text);
    if (status == MH_OK)
        mh_hash_text(mh_hash(text.data, text.length), hash);
    mh_text_release(&text);
    return status;
}

mh_status mh_json_seal(json_t *object, const char *path)
{
    char hash[17];
    MH_TRY(hash_of(object, hash));
    if (json_object_set_new(object, SEAL, json_string(hash)) != 0)
        return mh_fail(MH_EMEMORY, "%s: no memory left to write it", path);
    return MH_OK;
}

mh_status mh_json_check_version(const json_t *object, int newest, const char *path)
{
    const json_t *version = json_object_get(object, "format_version");
    if (!json_is_integer(version) || json_integer_value(version) < 1)
        return mh_fail(MH_EFORMAT, "%s: no \"format_version\"; this file was not written by mhmoe", path);
    if (json_integer_value(version) > newest)
        return mh_fail(MH_EFORMAT, "%s: format version %lld, this program reads up to %d; use a newer mhmoe",
                       path, (long long)json_integer_value(version), newest);
    return MH_OK;
}

mh_status mh_json_check_seal(json_t *object, const char *path)
{
    char stored[17], hash[17];
    const json_t *seal = json_object_get(object, SEAL);
    if (seal == NULL)
        return MH_OK;
    const char *text = json_string_value(seal);
    snprintf(stored, sizeof stored, "%s", text ? text : "");
    json_object_del(object, SEAL);
    MH_TRY(hash_of(object, hash));
    if (strcmp(stored, hash) != 0)
        return mh_fail(
            MH_EFORMAT,
            "%s: its checksum is wrong: the file is damaged, or was edited; if that was meant, remove its "
            "line \"" SEAL "\"",
            path);
    return MH_OK;
}
