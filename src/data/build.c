/* build: `mhmoe data build`, from text to a folder of token shards. */
#include "data/data.h"

#include <stdlib.h>
#include <string.h>

/* With fewer documents a split by document would be a lottery; then each of BLOCKS parts of the text gives
 * its middle to validation. */
enum { FEW_DOCUMENTS = 100, BLOCKS = 10 };

/* Text is encoded in pieces of about PIECE bytes, by all threads, whenever BATCH bytes have come together.
 * What is a piece depends on the text alone. */
enum { PIECE = 1 << 16, BATCH = 8 << 20 };

typedef enum { TRAIN, VALID, SIDES } side;

typedef struct {
    size_t begin, length; /* in the batch's text */
    bool start;           /* follows </s> */
    side side;
    mh_status status;
    mh_ids ids;
} text_piece;

typedef struct {
    const mh_build *build;
    const mh_progress *progress;
    mh_tokenizer *tokenizer;
    mh_corpus *corpus;
    mh_shard_writer shard[SIDES];
    mh_new_folder folder;

    bool by_blocks;
    double total;     /* bytes of text, known if by_blocks */
    int64_t position; /* bytes of text so far */
    bool inside;      /* of a document whose earlier parts were seen */
    side now;         /* of the last piece */

    mh_text text;
    text_piece *pieces;
    int64_t count, capacity;
} builder;

/* ---- the split ----------------------------------------------------------------------------------------- */

/* Counts documents, up to FEW_DOCUMENTS, and the bytes if there are fewer. */
static mh_status survey(builder *b)
{
    mh_corpus *corpus;
    MH_TRY(mh_corpus_open(&corpus, b->build->inputs, b->build->input_count));
    mh_status status;
    mh_document document;
    mh_corpus_state state = {0};
    bool end = false;
    while ((status = mh_corpus_next(corpus, &document, &end)) == MH_OK && !end) {
        state = mh_corpus_where(corpus);
        mh_progress_report(b->progress, "looking for documents", state.read, state.total, NULL);
        if (state.documents >= FEW_DOCUMENTS)
            break;
        if (mh_progress_stopped(b->progress)) {
            status = mh_fail(MH_EINTERRUPTED, "stopped; %s was not written", b->build->output);
            break;
        }
    }
    b->by_blocks = state.documents < FEW_DOCUMENTS;
    b->total = (double)state.bytes;
    mh_corpus_close(corpus);
    return status;
}

/* Where byte `position` of all text goes, and how far that holds. */
static side block_of(const builder *b, int64_t position, size_t *length)
{
    double size = b->total / BLOCKS, fraction = b->build->valid_fraction;
    double begin = ((double)(int64_t)((double)position / size) + 0.5 - fraction / 2) * size;
    double borders[] = {begin, begin + fraction * size, begin + size};
    int i = 0;
    while (i < 2 && (double)position >= borders[i])
        i++;
    *length = (size_t)(borders[i] - (double)position) + 1;
    return i == 1 ? VALID : TRAIN;
}

/* Every content goes always to the same side, so that adding documents moves none. */
static side side_of(const builder *b, const mh_document *document)
{
    double x = (double)mh_hash(document->text, document->length) * 0x1p-64;
    return x < b->build->valid_fraction ? VALID : TRAIN;
}

/* ---- pieces -------------------------------------------------------------------------------------------- */

static mh_status add_piece(builder *b, text_piece piece)
{
    if (b->count == b->capacity) {
        int64_t capacity = b->capacity * 2 + 64;
        void *grown = realloc(b->pieces, (size_t)capacity * sizeof *b->pieces);
        if (grown == NULL)
            return mh_fail(MH_EMEMORY, "the system refused memory for %lld pieces of text",
                           (long long)capacity);
        b->pieces = grown;
        b->capacity = capacity;
    }
    b->pieces[b->count++] = piece;
    return MH_OK;
}

static mh_status add_document(builder *b, const mh_document *document)
{
    if (!b->by_blocks && !b->inside)
        b->now = side_of(b, document);
    size_t base = b->text.length;
    MH_TRY(mh_text_add(&b->text, document->text, document->length));
    for (size_t at = 0, n; at < document->length; at += n) {
        size_t goal = PIECE;
        bool start = !b->inside;
        if (b->by_blocks) {
            size_t block;
            side block_side = block_of(b, b->position, &block);
            goal = block < goal ? block : goal;
            start = start || block_side != b->now;
            b->now = block_side;
        }
        n = mh_utf8_cut(document->text + at, document->length - at, goal);
        MH_TRY(add_piece(b, (text_piece){.begin = base + at, .length = n, .start = start, .side = b->now}));
        b->position += (int64_t)n;
        b->inside = true;
    }
    b->inside = document->more;
    return MH_OK;
}

static mh_status write_piece(builder *b, const text_piece *p)
{
    /* Its sentence is known to the thread that failed only. */
    if (p->status != MH_OK)
        return mh_fail(p->status, "a piece of the text could not be encoded: %s; use another tokenizer",
                       mh_status_text(p->status));
    mh_shard_writer *shard = &b->shard[p->side];
    int32_t eos = mh_tokenizer_eos(b->tokenizer);
    if (p->start)
        MH_TRY(mh_shard_put(shard, &eos, 1));
    shard->header.documents += p->start;
    shard->header.bytes += p->length;
    return mh_shard_put(shard, p->ids.id, p->ids.count);
}

/* Encodes the batch and writes it in order. */
static mh_status flush(builder *b)
{
#pragma omp parallel for schedule(dynamic, 1)
    for (int64_t i = 0; i < b->count; i++) {
        text_piece *p = &b->pieces[i];
        p->status =
            mh_tokenizer_encode_part(b->tokenizer, b->text.data + p->begin, p->length, p->start, &p->ids);
    }
    mh_status status = MH_OK;
    for (int64_t i = 0; i < b->count; i++) {
        if (status == MH_OK)
            status = write_piece(b, &b->pieces[i]);
        mh_ids_release(&b->pieces[i].ids);
    }
    b->count = 0;
    b->text.length = 0;
    return status;
}

static mh_status encode_all(builder *b)
{
    mh_document document;
    bool end;
    MH_TRY(mh_corpus_next(b->corpus, &document, &end));
    while (!end) {
        MH_TRY(add_document(b, &document));
        if (b->text.length >= BATCH) {
            MH_TRY(flush(b));
            mh_corpus_state state = mh_corpus_where(b->corpus);
            mh_progress_report(b->progress, "encoding", state.read, state.total, NULL);
        }
        if (mh_progress_stopped(b->progress))
            return mh_fail(MH_EINTERRUPTED, "stopped; %s was not written", b->build->output);
        MH_TRY(mh_corpus_next(b->corpus, &document, &end));
    }
    MH_TRY(flush(b));
    return mh_corpus_check(b->corpus);
}

/* ---- the folder ---------------------------------------------------------------------------------------- */

static const char *const shard_names[SIDES] = {"train.tokens", "valid.tokens"};

static mh_status open_shards(builder *b)
{
    for (int s = TRAIN; s < (b->build->valid_fraction > 0 ? SIDES : VALID); s++) {
        char path[MH_PATH];
        MH_TRY(mh_path_join(path, b->folder.aside, shard_names[s]));
        MH_TRY(mh_shard_create(&b->shard[s], path, b->tokenizer));
    }
    return MH_OK;
}

static mh_status close_shards(builder *b)
{
    static const char *const parts[SIDES] = {"training", "validation"};
    int32_t eos = mh_tokenizer_eos(b->tokenizer);
    int64_t documents = mh_corpus_where(b->corpus).documents;
    bool one = documents == 1;
    for (int s = TRAIN; s < SIDES; s++) {
        if (b->shard[s].out.file == NULL)
            continue;
        if (b->shard[s].header.documents == 0)
            return mh_fail(MH_EVALUE,
                           "the %s part would be empty: there %s %lld document%s of %lld bytes together, and "
                           "the fraction for validation is %g; choose another --valid-fraction (0: no "
                           "validation part) or add text",
                           parts[s], one ? "is" : "are", (long long)documents, one ? "" : "s",
                           (long long)b->position, b->build->valid_fraction);
        MH_TRY(mh_shard_put(&b->shard[s], &eos, 1));
        MH_TRY(mh_shard_commit(&b->shard[s]));
    }
    return MH_OK;
}

/* Paths need not be UTF-8; JSON must be. */
static json_t *json_path(const char *path)
{
    mh_text clean = {0};
    int64_t invalid = 0;
    json_t *json = NULL;
    if (mh_utf8_clean(path, strlen(path), &clean, &invalid) == MH_OK)
        json = json_stringn(clean.data, clean.length);
    mh_text_release(&clean);
    return json;
}

/* data.json tells what was done, without times: the same input gives the same bytes. */
static mh_status write_json(const builder *b, const mh_build_result *r)
{
    char path[MH_PATH];
    MH_TRY(mh_path_join(path, b->folder.aside, "data.json"));
    json_t *inputs = json_array();
    for (int i = 0; i < b->build->input_count; i++)
        mh_json_append(inputs, json_path(b->build->inputs[i]));
    json_t *json = json_pack(
        "{s:s, s:i, s:s, s:i, s:o, s:f, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "format", "mhmoe data",
        "format_version", MH_SHARD_VERSION, "tokenizer", mh_tokenizer_hash(b->tokenizer), "vocab",
        mh_tokenizer_vocab(b->tokenizer), "inputs", inputs, "valid_fraction", b->build->valid_fraction,
        "split", r->by_blocks ? "blocks" : "documents", "documents", (json_int_t)r->documents, "tokens",
        (json_int_t)r->tokens, "bytes", (json_int_t)r->bytes, "valid_documents",
        (json_int_t)r->valid_documents, "valid_tokens", (json_int_t)r->valid_tokens, "valid_bytes",
        (json_int_t)r->valid_bytes, "invalid_bytes", (json_int_t)r->invalid, "skipped_files",
        (json_int_t)r->skipped);
    if (json == NULL)
        return mh_fail(MH_EMEMORY, "the system refused memory for %s", path);
    mh_status status = mh_json_write(path, json);
    json_decref(json);
    return status;
}

static mh_build_result count(const builder *b)
{
    const mh_shard_header *train = &b->shard[TRAIN].header, *valid = &b->shard[VALID].header;
    mh_corpus_state state = mh_corpus_where(b->corpus);
    return (mh_build_result){.documents = state.documents,
                             .tokens = (int64_t)(train->tokens + valid->tokens),
                             .bytes = (int64_t)(train->bytes + valid->bytes),
                             .valid_documents = (int64_t)valid->documents,
                             .valid_tokens = (int64_t)valid->tokens,
                             .valid_bytes = (int64_t)valid->bytes,
                             .invalid = state.invalid,
                             .skipped = state.skipped,
                             .by_blocks = b->by_blocks};
}

/* Fills the folder aside. */
static mh_status fill(builder *b, mh_build_result *result)
{
    MH_TRY(survey(b));
    MH_TRY(open_shards(b));
    MH_TRY(mh_corpus_open(&b->corpus, b->build->inputs, b->build->input_count));
    MH_TRY(encode_all(b));
    MH_TRY(close_shards(b));
    *result = count(b);
    char path[MH_PATH];
    size_t bytes;
    const void *file = mh_tokenizer_bytes(b->tokenizer, &bytes);
    MH_TRY(mh_path_join(path, b->folder.aside, "tokenizer.model"));
    MH_TRY(mh_file_write(path, file, bytes));
    return write_json(b, result);
}

static mh_status run(builder *b, mh_build_result *result)
{
    const mh_build *build = b->build;
    if (!(build->valid_fraction >= 0 && build->valid_fraction <= 0.5))
        return mh_fail(MH_EVALUE, "the fraction for validation is %g; choose one from 0 to 0.5",
                       build->valid_fraction);
    MH_TRY(mh_tokenizer_load(&b->tokenizer, build->tokenizer));
    /* Without SentencePiece the sentence about that is to come now, not in a thread. */
    MH_TRY(mh_tokenizer_encode(b->tokenizer, "", 0, &(mh_ids){0}));
    MH_TRY(mh_new_folder_begin(&b->folder, build->output));
    mh_status status = fill(b, result);
    if (status == MH_OK)
        return mh_new_folder_commit(&b->folder);
    mh_shard_abort(&b->shard[TRAIN]);
    mh_shard_abort(&b->shard[VALID]);
    mh_new_folder_abort(&b->folder);
    return status;
}

mh_status mh_data_build(const mh_build *build, const mh_progress *progress, mh_build_result *result)
{
    double started = mh_seconds();
    mh_build_result unused;
    result = result != NULL ? result : &unused;
    builder *b = calloc(1, sizeof *b); /* its paths are large for a stack */
    if (b == NULL)
        return mh_fail(MH_EMEMORY, "the system refused memory for building data");
    b->build = build;
    b->progress = progress;
    mh_status status = run(b, result);
    result->seconds = mh_seconds() - started;
    mh_tokenizer_free(b->tokenizer);
    mh_corpus_close(b->corpus);
    mh_text_release(&b->text);
    free(b->pieces);
    free(b);
    return status;
}
