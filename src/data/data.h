/* data: from files of text to batches of tokens. */
#ifndef MH_DATA_H
#define MH_DATA_H

#include "base/base.h"

/* ---- tokenizer.cc: SentencePiece behind a C face ----------------------------------------------------------
 */

typedef struct mh_tokenizer mh_tokenizer; /* immutable once loaded, shared between threads */

typedef struct {
    int32_t *id;
    int64_t count, capacity;
} mh_ids;

void mh_ids_release(mh_ids *ids);

/* Loads a .model file, checking it piece by piece: SentencePiece itself accepts many damaged ones. */
mh_status mh_tokenizer_load(mh_tokenizer **tokenizer, const char *path);
mh_status mh_tokenizer_from_bytes(mh_tokenizer **tokenizer, const void *data, size_t bytes, const char *what);
void mh_tokenizer_free(mh_tokenizer *tokenizer);

int mh_tokenizer_vocab(const mh_tokenizer *tokenizer);
int32_t mh_tokenizer_bos(const mh_tokenizer *tokenizer); /* <s>, or -1 */
int32_t mh_tokenizer_eos(const mh_tokenizer *tokenizer); /* </s>, or -1 */
const char *
mh_tokenizer_hash(const mh_tokenizer *tokenizer); /* identity: 16 hex digits of the file's bytes */
const void *mh_tokenizer_bytes(const mh_tokenizer *tokenizer,
                               size_t *bytes); /* the file itself, for checkpoints */

/* Appends the ids of `text` (UTF-8) to `ids`; no <s> or </s> is added. */
mh_status mh_tokenizer_encode(const mh_tokenizer *tokenizer, const char *text, size_t length, mh_ids *ids);

/* Appends the text of `count` ids; control pieces give nothing. decode(encode(x)) = x. */
mh_status mh_tokenizer_decode(const mh_tokenizer *tokenizer, const int32_t *id, int64_t count, mh_text *text);

/* The bytes that one id adds in the middle of a text (streaming); a byte piece gives one byte. */
mh_status mh_tokenizer_piece(const mh_tokenizer *tokenizer, int32_t id, mh_text *text);

typedef struct {
    const char *const *inputs;
    int input_count;
    int vocab;
    size_t sample_bytes; /* at most this much text is looked at, drawn by `seed` over all documents */
    uint64_t seed;
    int threads;
} mh_tokenizer_training;

/* Trains a BPE model with byte fallback, identity normalisation, newlines and runs of spaces kept, LLaMA's
 * control pieces
 * (<unk> 0, <s> 1, </s> 2), and writes it to `path`. */
mh_status mh_tokenizer_train(const mh_tokenizer_training *training, const char *path,
                             const mh_progress *progress, int64_t *documents, int64_t *bytes);

/* ---- utf8.c
 * ------------------------------------------------------------------------------------------------- */

/* Copies `text`, replacing every invalid sequence by U+FFFD (maximal subparts, as Unicode recommends) and
 * counting the bytes so replaced. NUL bytes count as invalid. */
mh_status mh_utf8_clean(const char *text, size_t length, mh_text *out, int64_t *invalid);

/* ---- corpus.c: documents out of files, folders and archives
 * ------------------------------------------------------ */

/* A stream over the documents of `paths`: files, folders (walked in byte order of their names) or tars, of
 * .txt .md .jsonl, each also compressed by gzip, xz, zstd or bzip2 (known by content). A .txt or .md file is
 * one document; a line of .jsonl is one (field "text" or "content"). One document is held at a time. */
typedef struct mh_corpus mh_corpus;

typedef struct {
    const char *text; /* valid UTF-8; valid until the next call */
    size_t length;
    const char *name; /* "books.tar.xz:a/b.md" or "c.jsonl:17" */
} mh_document;

mh_status mh_corpus_open(mh_corpus **corpus, const char *const *paths, int count);
mh_status mh_corpus_next(mh_corpus *corpus, mh_document *document, bool *end);
void mh_corpus_close(mh_corpus *corpus);

typedef struct {
    int64_t documents, bytes, invalid; /* bytes of clean text; invalid bytes replaced */
    double read, total;                /* bytes of input files consumed so far and in all, for progress */
} mh_corpus_state;

mh_corpus_state mh_corpus_where(const mh_corpus *corpus);

/* Fails when more than 0.1 % of the bytes seen were invalid, naming the file with the most. */
mh_status mh_corpus_check(const mh_corpus *corpus);

/* ---- shard.c: token files
 * ----------------------------------------------------------------------------------------- */

#define MH_SHARD_MAGIC   "MHTOKENS"
#define MH_SHARD_VERSION 1

/* Little-endian, 64 bytes, then the tokens (u16 where the vocabulary allows, else u32). */
typedef struct {
    char magic[8];
    uint32_t version, width; /* bytes a token: 2 or 4 */
    uint64_t tokens;
    uint64_t tokenizer; /* hash of the tokenizer's bytes */
    uint64_t checksum;  /* XXH3 of the tokens */
    uint32_t vocab, eos;
    uint64_t documents, bytes; /* of text */
} mh_shard_header;

typedef struct {
    mh_map map;
    const mh_shard_header *header;
    const unsigned char *tokens;
} mh_shard;

mh_status mh_shard_open(mh_shard *shard, const char *path); /* checks size, header and checksum */
void mh_shard_close(mh_shard *shard);
void mh_shard_read(const mh_shard *shard, int64_t first, int64_t count, int32_t *out);

/* ---- build.c: `mhmoe data build`
 * ---------------------------------------------------------------------------------- */

typedef struct {
    const char *tokenizer;
    const char *const *inputs;
    int input_count;
    const char *output; /* a new folder: train.tokens, valid.tokens, tokenizer.model, data.json */
    double valid_fraction;
} mh_build;

typedef struct {
    int64_t documents, valid_documents, tokens, valid_tokens, bytes, valid_bytes, invalid;
    double seconds;
    bool by_blocks; /* fewer than 100 documents: contiguous blocks were split off instead of documents */
} mh_build_result;

/* Documents are separated by </s>. The split is decided by each document's content hash alone. Memory is
 * bounded. */
mh_status mh_data_build(const mh_build *build, const mh_progress *progress, mh_build_result *result);

/* ---- batches.c: packed sequences in an order that is a function of the seed
 * ----------------------------------------- */

typedef struct mh_batches mh_batches;

/* `folders`: "a" or "a=0.7, b=0.3" (weights of a mixture, by tokens drawn; without weights, in proportion to
 * size). `split`: "train" or "valid". All folders must share the tokenizer, and its hash must be
 * `tokenizer_hash` unless that is NULL. Fails where a folder is missing or holds no full sequence of
 * `length`+1 tokens. */
mh_status mh_batches_open(mh_batches **batches, const char *folders, const char *split, int64_t length,
                          uint64_t seed, const char *tokenizer_hash);
void mh_batches_close(mh_batches *batches);

int mh_batches_vocab(const mh_batches *batches);
int32_t mh_batches_eos(const mh_batches *batches);
const char *mh_batches_tokenizer(const mh_batches *batches); /* path of the first folder's tokenizer.model */
int64_t mh_batches_sequences(const mh_batches *batches);     /* sequences in one pass over everything */
int64_t mh_batches_tokens(const mh_batches *batches);
double mh_batches_bytes_per_token(const mh_batches *batches);

/* Sequence number `index` of the run (any index >= 0): token [length] and target [length] (the next tokens).
 * first_key [length], if not NULL, gets the position in this sequence at which each token's document starts.
 * A function of (seed, index) alone. */
void mh_batches_get(const mh_batches *batches, int64_t index, int32_t *token, int32_t *target,
                    int32_t *first_key);

/* The same in file order without shuffling, for validation. index < mh_batches_sequences(). */
void mh_batches_in_order(const mh_batches *batches, int64_t index, int32_t *token, int32_t *target,
                         int32_t *first_key);

#endif
