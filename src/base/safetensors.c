/* safetensors: named tensors in a file. Eight bytes with the length of the header (little-endian), the header
 * in JSON, the data: the format of https://github.com/huggingface/safetensors, with a checksum of the data as
 * "xxh3" in its metadata. */
#include "base/base.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the format is little-endian, and so is this code");

#define HEADER_LIMIT ((size_t)100 << 20)
#define METADATA     "__metadata__"
#define CHECKSUM     "xxh3"

struct mh_tensors {
    mh_map map;
    json_t *header; /* owns the names and the metadata */
    mh_tensor *list;
    int count;
    mh_arena copies; /* of tensors whose place in the file is not aligned for their type */
};

int64_t mh_tensor_elements(const mh_tensor *tensor)
{
    int64_t n = 1;
    for (int i = 0; i < tensor->rank; i++)
        n *= tensor->shape[i];
    return n;
}

static size_t bytes_of(const mh_tensor *tensor)
{
    return (size_t)mh_tensor_elements(tensor) * mh_type_size(tensor->type);
}

/* ---- reading ------------------------------------------------------------------------------------------- */

/* Sets rank and shape; false for anything that is not a shape of less than 2^60 elements. */
static bool read_shape(mh_tensor *tensor, const json_t *shape)
{
    if (!json_is_array(shape) || json_array_size(shape) > MH_TENSOR_RANK)
        return false;
    tensor->rank = (int)json_array_size(shape);
    int64_t n = 1;
    for (int i = 0; i < tensor->rank; i++) {
        const json_t *size = json_array_get(shape, (size_t)i);
        tensor->shape[i] = json_integer_value(size);
        if (!json_is_integer(size) || tensor->shape[i] < 0 ||
            __builtin_mul_overflow(n, tensor->shape[i], &n) || n >> 60 != 0)
            return false;
    }
    return true;
}

/* One entry of the header: {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}. */
static mh_status read_tensor(mh_tensor *tensor, const char *name, const json_t *entry,
                             const unsigned char *data, size_t size, const char *path)
{
    tensor->name = name;
    const char *type = json_string_value(json_object_get(entry, "dtype"));
    if (type == NULL || !mh_type_from_name(type, &tensor->type))
        return mh_fail(MH_EFORMAT, "%s: tensor \"%s\" has type \"%s\"; F32, BF16 and I32 are understood",
                       path, name, type ? type : "");
    if (!read_shape(tensor, json_object_get(entry, "shape")))
        return mh_fail(MH_EFORMAT,
                       "%s: tensor \"%s\" has no valid shape, which is at most %d dimensions and less than "
                       "2^60 elements; use another file",
                       path, name, MH_TENSOR_RANK);
    /* An end before its begin wraps around to a size that no tensor has. */
    const json_t *offsets = json_object_get(entry, "data_offsets");
    const json_t *from = json_array_get(offsets, 0), *to = json_array_get(offsets, 1);
    json_int_t begin = json_integer_value(from), end = json_integer_value(to);
    if (json_array_size(offsets) != 2 || !json_is_integer(from) || !json_is_integer(to) || begin < 0 ||
        (uint64_t)end > size || (uint64_t)(end - begin) != bytes_of(tensor))
        return mh_fail(MH_EFORMAT,
                       "%s: tensor \"%s\" does not lie within the data, or not with its size; use another "
                       "copy of the file",
                       path, name);
    tensor->data = data + begin;
    return MH_OK;
}

/* By place in the file; empty tensors come before what begins at the same byte. */
static int by_place(const void *a, const void *b)
{
    const mh_tensor *x = a, *y = b;
    if (x->data != y->data)
        return (const char *)x->data < (const char *)y->data ? -1 : 1;
    size_t p = bytes_of(x), q = bytes_of(y);
    return p != q ? (p < q ? -1 : 1) : strcmp(x->name, y->name);
}

static mh_status read_metadata(const json_t *meta, const unsigned char *data, size_t size, const char *path)
{
    if (meta != NULL && !json_is_object(meta))
        return mh_fail(MH_EFORMAT, "%s: the metadata is no object; use another copy of the file", path);
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)meta, key, value) {
        if (!json_is_string(value))
            return mh_fail(MH_EFORMAT, "%s: the metadata \"%s\" is no string; use another copy of the file",
                           path, key);
    }
    const char *expected = json_string_value(json_object_get(meta, CHECKSUM));
    if (expected == NULL)
        return MH_OK;
    char found[17];
    mh_hash_text(mh_hash(data, size), found);
    if (strcmp(expected, found) != 0)
        return mh_fail(MH_EFORMAT,
                       "%s is damaged: its data have checksum %s instead of %s; use another copy of the file",
                       path, found, expected);
    return MH_OK;
}

/* Float pointers must be aligned; files of other programs need not be. */
static void copy_misaligned(mh_tensors *t)
{
    for (int i = 0; i < t->count; i++) {
        mh_tensor *tensor = &t->list[i];
        if ((uintptr_t)tensor->data % mh_type_size(tensor->type) == 0)
            continue;
        void *copy = mh_take(&t->copies, bytes_of(tensor));
        if (copy != NULL)
            tensor->data = memcpy(copy, tensor->data, bytes_of(tensor));
    }
}

static mh_status read_tensors(mh_tensors *t, const unsigned char *data, size_t size, const char *path)
{
    t->list = calloc(json_object_size(t->header) + 1, sizeof *t->list);
    if (t->list == NULL)
        return mh_fail(MH_EMEMORY, "%s: the system refused memory for %zu tensors", path,
                       json_object_size(t->header));
    const char *name;
    json_t *entry;
    json_object_foreach(t->header, name, entry) {
        if (strcmp(name, METADATA) != 0)
            MH_TRY(read_tensor(&t->list[t->count++], name, entry, data, size, path));
    }
    qsort(t->list, (size_t)t->count, sizeof *t->list, by_place);
    const unsigned char *end = data;
    for (int i = 0; i < t->count; i++) {
        if (t->list[i].data != end)
            return mh_fail(
                MH_EFORMAT,
                "%s: tensor \"%s\" leaves a gap or overlaps the one before; use another copy of the file",
                path, t->list[i].name);
        end += bytes_of(&t->list[i]);
    }
    if (end != data + size)
        return mh_fail(MH_EFORMAT,
                       "%s: %zu bytes after the last tensor belong to none; use another copy of the file",
                       path, (size_t)(data + size - end));
    MH_TRY(read_metadata(json_object_get(t->header, METADATA), data, size, path));
    copy_misaligned(t); /* counts */
    size_t need = t->copies.used;
    if (need == 0)
        return MH_OK;
    MH_TRY(mh_arena_init(&t->copies, need, "copies of misaligned tensors"));
    copy_misaligned(t);
    return MH_OK;
}

static mh_status read_file(mh_tensors *t, const char *path)
{
    uint64_t length;
    MH_TRY(mh_map_open(&t->map, path));
    if (t->map.size < sizeof length)
        return mh_fail(MH_EFORMAT, "%s has only %zu bytes and is no safetensors file; use another copy of it",
                       path, t->map.size);
    memcpy(&length, t->map.data, sizeof length);
    size_t rest = t->map.size - sizeof length;
    size_t most = rest < HEADER_LIMIT ? rest : HEADER_LIMIT;
    if (length > most)
        return mh_fail(MH_EFORMAT,
                       "%s is truncated or no safetensors file: its header should have %llu bytes, and at "
                       "most %zu are possible; use another copy of the file",
                       path, (unsigned long long)length, most);
    const unsigned char *header = t->map.data + sizeof length;
    char what[MH_PATH + 16];
    snprintf(what, sizeof what, "the header of %s", path);
    MH_TRY(mh_json_parse(&t->header, (const char *)header, length, what));
    if (!json_is_object(t->header))
        return mh_fail(MH_EFORMAT, "%s: the header is no JSON object; use another copy of the file", path);
    return read_tensors(t, header + length, rest - length, path);
}

mh_status mh_tensors_open(mh_tensors **tensors, const char *path)
{
    *tensors = NULL;
    mh_tensors *t = calloc(1, sizeof *t);
    if (t == NULL)
        return mh_fail(MH_EMEMORY, "%s: the system refused memory to open it", path);
    mh_status status = read_file(t, path);
    if (status == MH_OK)
        *tensors = t;
    else
        mh_tensors_close(t);
    return status;
}

void mh_tensors_close(mh_tensors *tensors)
{
    if (tensors == NULL)
        return;
    mh_arena_release(&tensors->copies);
    free(tensors->list);
    json_decref(tensors->header);
    mh_map_close(&tensors->map);
    free(tensors);
}

int mh_tensors_count(const mh_tensors *tensors)
{
    return tensors->count;
}

const mh_tensor *mh_tensors_at(const mh_tensors *tensors, int index)
{
    return &tensors->list[index];
}

const mh_tensor *mh_tensors_find(const mh_tensors *tensors, const char *name)
{
    for (int i = 0; i < tensors->count; i++)
        if (strcmp(tensors->list[i].name, name) == 0)
            return &tensors->list[i];
    return NULL;
}

const char *mh_tensors_meta(const mh_tensors *tensors, const char *key)
{
    return json_string_value(json_object_get(json_object_get(tensors->header, METADATA), key));
}

/* ---- writing ------------------------------------------------------------------------------------------- */

/* Calls in the order of the file: wide types first, so that every tensor is aligned for its type. */
typedef mh_status visit(void *context, const mh_tensor *tensor);

static mh_status in_file_order(const mh_tensor *tensors, int count, visit *each, void *context)
{
    for (size_t size = 4; size > 0; size /= 2)
        for (int i = 0; i < count; i++)
            if (mh_type_size(tensors[i].type) == size)
                MH_TRY(each(context, &tensors[i]));
    return MH_OK;
}

typedef struct {
    json_t *header;
    size_t offset;
    XXH3_state_t *hash;
    const char *path;
} plan;

static mh_status plan_tensor(void *context, const mh_tensor *tensor)
{
    plan *p = context;
    if (strcmp(tensor->name, METADATA) == 0 || json_object_get(p->header, tensor->name) != NULL)
        return mh_fail(MH_EVALUE, "cannot write %s: two tensors are called \"%s\"; rename one", p->path,
                       tensor->name);
    if (!mh_utf8_valid(tensor->name, strlen(tensor->name)))
        return mh_fail(MH_EVALUE, "cannot write %s: \"%s\" is no name for a tensor; give it one in UTF-8",
                       p->path, tensor->name);
    json_t *shape = json_array();
    for (int i = 0; i < tensor->rank; i++)
        mh_json_append(shape, json_integer(tensor->shape[i]));
    size_t end = p->offset + bytes_of(tensor);
    json_t *entry = json_pack("{s:s, s:o, s:[I, I]}", "dtype", mh_type_name(tensor->type), "shape", shape,
                              "data_offsets", (json_int_t)p->offset, (json_int_t)end);
    mh_json_set(p->header, tensor->name, entry);
    p->offset = end;
    if (bytes_of(tensor) > 0)
        XXH3_64bits_update(p->hash, tensor->data, bytes_of(tensor));
    return MH_OK;
}

static mh_status put_tensor(void *context, const mh_tensor *tensor)
{
    return mh_writer_put(context, tensor->data, bytes_of(tensor));
}

/* The header as text, padded so that the data begin at a multiple of MH_ALIGN. */
static mh_status make_header(const char *path, const mh_tensor *tensors, int count, const json_t *meta,
                             mh_text *out)
{
    mh_status status;
    plan p = {.header = json_object(), .path = path, .hash = XXH3_createState()};
    json_t *strings = json_object();
    if (p.header == NULL || p.hash == NULL || strings == NULL) {
        status = mh_fail(MH_EMEMORY, "cannot write %s: the system refused memory", path);
        goto done;
    }
    XXH3_64bits_reset(p.hash);
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)meta, key, value)
        mh_json_set(strings, key, json_incref(value));
    mh_json_set(p.header, METADATA, json_incref(strings)); /* first in the file; filled in below */
    if ((status = in_file_order(tensors, count, plan_tensor, &p)) != MH_OK)
        goto done;
    char checksum[17];
    mh_hash_text(XXH3_64bits_digest(p.hash), checksum);
    mh_json_set(strings, CHECKSUM, json_string(checksum));
    status = mh_json_dump(p.header, false, out);
    while (status == MH_OK && (sizeof(uint64_t) + out->length) % MH_ALIGN != 0)
        status = mh_text_add(out, " ", 1);
done:
    json_decref(strings);
    json_decref(p.header);
    XXH3_freeState(p.hash);
    return status;
}

mh_status mh_tensors_write(const char *path, const mh_tensor *tensors, int count, const json_t *meta)
{
    mh_text header = {0};
    mh_writer writer = {0};
    mh_status status = make_header(path, tensors, count, meta, &header);
    uint64_t length = header.length;
    if (status == MH_OK)
        status = mh_writer_open(&writer, path);
    if (status == MH_OK)
        status = mh_writer_put(&writer, &length, sizeof length);
    if (status == MH_OK)
        status = mh_writer_put(&writer, header.data, header.length);
    if (status == MH_OK)
        status = in_file_order(tensors, count, put_tensor, &writer);
    if (status == MH_OK)
        status = mh_writer_commit(&writer);
    mh_writer_abort(&writer);
    mh_text_release(&header);
    return status;
}
