/* tokenizer_none: a tokenizer in a build without SentencePiece. What training needs of one is its file, its
 * hash and the number of its pieces; text stays text. */
#include "data/data.h"

#include <stdlib.h>

struct mh_tokenizer {
    mh_text file;
    char hash[17];
    int vocab;
};

static mh_status missing(const char *what)
{
    return mh_fail(MH_ESTATE,
                   "%s needs SentencePiece, which this mhmoe was built without; use one built with it (cmake "
                   "-DMHMOE_SENTENCEPIECE=ON)",
                   what);
}

/* ---- loading ------------------------------------------------------------------------------------------- */

/* A varint at *at; false where it does not end before `end`. */
static bool read_varint(const unsigned char **at, const unsigned char *end, uint64_t *value)
{
    *value = 0;
    for (int shift = 0; *at < end && shift < 64; shift += 7) {
        unsigned char byte = *(*at)++;
        *value |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80)
            return true;
    }
    return false;
}

/* The model is a protobuf message of messages: each a number, a length and so many bytes. Number 1 is a
 * piece. */
static int count_pieces(const unsigned char *at, const unsigned char *end)
{
    enum { LENGTH_DELIMITED = 2, PIECE = 1 };
    int count = 0;
    while (at < end) {
        uint64_t tag, length;
        if (!read_varint(&at, end, &tag) || (tag & 7) != LENGTH_DELIMITED ||
            !read_varint(&at, end, &length) || length > (uint64_t)(end - at))
            return 0;
        count += tag >> 3 == PIECE;
        at += length;
    }
    return count;
}

static mh_status load(mh_tokenizer *t, const char *what)
{
    MH_TRY(mh_tokenizer_check_seal(t->file.data, t->file.length, what));
    const unsigned char *file = (const unsigned char *)t->file.data;
    t->vocab = count_pieces(file, file + t->file.length);
    mh_hash_text(mh_hash(file, t->file.length), t->hash);
    return t->vocab > 0
               ? MH_OK
               : mh_fail(MH_EFORMAT, "%s is not a SentencePiece model; use the tokenizer of the token files",
                         what);
}

mh_status mh_tokenizer_from_bytes(mh_tokenizer **tokenizer, const void *data, size_t bytes, const char *what)
{
    *tokenizer = NULL;
    mh_tokenizer *t = calloc(1, sizeof *t);
    if (t == NULL)
        return mh_fail(MH_EMEMORY, "%s: the system refused memory for a tokenizer", what);
    mh_status status = mh_text_add(&t->file, data, bytes);
    if (status == MH_OK)
        status = load(t, what);
    if (status == MH_OK)
        *tokenizer = t;
    else
        mh_tokenizer_free(t);
    return status;
}

void mh_tokenizer_free(mh_tokenizer *tokenizer)
{
    if (tokenizer == NULL)
        return;
    mh_text_release(&tokenizer->file);
    free(tokenizer);
}

/* ---- what it is ---------------------------------------------------------------------------------------- */

int mh_tokenizer_vocab(const mh_tokenizer *tokenizer)
{
    return tokenizer->vocab;
}

int32_t mh_tokenizer_bos(const mh_tokenizer *tokenizer)
{
    (void)tokenizer;
    return -1;
}

int32_t mh_tokenizer_eos(const mh_tokenizer *tokenizer)
{
    (void)tokenizer;
    return -1;
}

const char *mh_tokenizer_hash(const mh_tokenizer *tokenizer)
{
    return tokenizer->hash;
}

const void *mh_tokenizer_bytes(const mh_tokenizer *tokenizer, size_t *bytes)
{
    *bytes = tokenizer->file.length;
    return tokenizer->file.data;
}

/* ---- what it lacks ------------------------------------------------------------------------------------- */

mh_status mh_tokenizer_encode_part(const mh_tokenizer *tokenizer, const char *text, size_t length, bool start,
                                   mh_ids *ids)
{
    (void)tokenizer, (void)text, (void)length, (void)start, (void)ids;
    return missing("turning text into tokens");
}

mh_status mh_tokenizer_encode(const mh_tokenizer *tokenizer, const char *text, size_t length, mh_ids *ids)
{
    return mh_tokenizer_encode_part(tokenizer, text, length, true, ids);
}

mh_status mh_tokenizer_piece(const mh_tokenizer *tokenizer, int32_t id, mh_text *text)
{
    (void)tokenizer, (void)id, (void)text;
    return missing("turning tokens into text");
}

mh_status mh_tokenizer_decode(const mh_tokenizer *tokenizer, const int32_t *id, int64_t count, mh_text *text)
{
    (void)tokenizer, (void)id, (void)count, (void)text;
    return missing("turning tokens into text");
}

mh_status mh_tokenizer_train(const mh_tokenizer_training *training, const char *path,
                             const mh_progress *progress, mh_tokenizer_trained *result)
{
    (void)training, (void)path, (void)progress, (void)result;
    return missing("training a tokenizer");
}
