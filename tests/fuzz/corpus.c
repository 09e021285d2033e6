/* Corpus files: the same bytes as text and as .jsonl; what is packed or a tar is known by its content.
 * Documents are valid text, and an archive is only read. */
#include "data/data.h"

#include "fuzz.h"

/* A small file may stand for gigabytes; what follows is more of the same. */
enum { ENOUGH = 1 << 26 };

static void read_all(const char *path)
{
    mh_corpus *corpus;
    mh_document document;
    bool end = false;
    hold(mh_corpus_open(&corpus, &path, 1) == MH_OK);
    while (mh_corpus_where(corpus).bytes < ENOUGH && mh_corpus_next(corpus, &document, &end) == MH_OK &&
           !end) {
        mh_text clean = {0};
        int64_t invalid = 0;
        hold(document.length > 0 && document.length <= MH_DOCUMENT_PART + MH_CUT_REACH);
        hold(mh_utf8_clean(document.text, document.length, &clean, &invalid) == MH_OK && invalid == 0);
        hold(strncmp(document.name, path, strlen(path)) == 0);
        mh_text_release(&clean);
    }
    mh_corpus_check(corpus);
    mh_corpus_close(corpus);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    read_all(fuzz_file("x.txt", data, size));
    read_all(fuzz_file("x.jsonl", data, size));
    return 0;
}
