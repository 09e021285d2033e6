/* Tokenizer models: an accepted one gives every text back. */
#include "data/data.h"

#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char text[] =
        "Once upon  a time\n\tthere was \xe6\xbc\xa2\xe5\xad\x97 \xf0\x9f\xa6\x99: 3.14!";
    mh_tokenizer *tokenizer;
    if (mh_tokenizer_load(&tokenizer, fuzz_file("tokenizer.model", data, size)) != MH_OK)
        return 0;
    mh_ids ids = {0};
    mh_text back = {0};
    hold(mh_tokenizer_encode(tokenizer, text, strlen(text), &ids) == MH_OK);
    hold(mh_tokenizer_decode(tokenizer, ids.id, ids.count, &back) == MH_OK);
    hold(strcmp(back.data, text) == 0);
    for (int id = 0; id < mh_tokenizer_vocab(tokenizer); id++)
        hold(mh_tokenizer_piece(tokenizer, id, &back) == MH_OK);
    mh_ids_release(&ids);
    mh_text_release(&back);
    mh_tokenizer_free(tokenizer);
    return 0;
}
