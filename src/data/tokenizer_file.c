/* tokenizer_file: reads a tokenizer's file, and seals it with a hash at its end. */
#include "data/data.h"

#include <string.h>

/* Files larger than this are no tokenizers. */
static const size_t MODEL_LIMIT = (size_t)256 << 20;

/* Of the seal: number 2048, of those that the format leaves to others, and its length. */
static const char FIELD[] = {'\x82', '\x80', '\x01', '\x08'};

void mh_tokenizer_seal(const void *model, size_t bytes, char seal[MH_TOKENIZER_SEAL])
{
    uint64_t hash = mh_hash(model, bytes);
    memcpy(seal, FIELD, sizeof FIELD);
    memcpy(seal + sizeof FIELD, &hash, sizeof hash);
}

/* SentencePiece loads a third of all damaged models, with other pieces or scores: only a hash can tell. */
mh_status mh_tokenizer_check_seal(const void *file, size_t bytes, const char *what)
{
    if (bytes < MH_TOKENIZER_SEAL)
        return MH_OK;
    char right[MH_TOKENIZER_SEAL];
    const char *seal = (const char *)file + bytes - MH_TOKENIZER_SEAL;
    mh_tokenizer_seal(file, bytes - MH_TOKENIZER_SEAL, right);
    if (memcmp(seal, right, sizeof FIELD) == 0 && memcmp(seal, right, sizeof right) != 0)
        return mh_fail(MH_EFORMAT, "%s is damaged: its checksum is wrong; use another copy of the file",
                       what);
    return MH_OK;
}

mh_status mh_tokenizer_load(mh_tokenizer **tokenizer, const char *path)
{
    *tokenizer = NULL;
    mh_text file = {0};
    MH_TRY(mh_file_read(path, MODEL_LIMIT, &file));
    mh_status status = mh_tokenizer_from_bytes(tokenizer, file.data, file.length, path);
    mh_text_release(&file);
    return status;
}
