/* data: from files of text to batches of tokens. */
#ifndef MH_DATA_H
#define MH_DATA_H

#include "base/base.h"

/* ---- tokenizer.cc: SentencePiece behind a C face; tokenizer_none.c: what is left without it ------------ */

/* Loading, encoding and decoding are public: see mhmoe.h. A model must give every text back: one without byte
 * pieces is refused, and a normalisation stored in it is not applied. Encoding is lossless for all valid
 * UTF-8 (U+2581, SentencePiece's own sign for a space, becomes three byte pieces); decoding may end within a
 * character. A loaded tokenizer is immutable and shared between threads. Without SentencePiece one loads, so
 * that models train on token files and carry it along, but neither encodes nor decodes. */
mh_status mh_tokenizer_from_bytes(mh_tokenizer **tokenizer, const void *data, size_t bytes, const char *what);

/* Identity: 16 hex digits of the file's bytes; and the file itself, for checkpoints. */
const char *mh_tokenizer_hash(const mh_tokenizer *tokenizer);
const void *mh_tokenizer_bytes(const mh_tokenizer *tokenizer, size_t *bytes);

/* mh_tokenizer_encode for a text that comes in parts: only the first is at the `start` and gets the space
 * that LLaMA puts before every text. Parts cut by mh_utf8_cut give the tokens of the whole. */
mh_status mh_tokenizer_encode_part(const mh_tokenizer *tokenizer, const char *text, size_t length, bool start,
                                   mh_ids *ids);

/* ---- tokenizer_train.cc: a tokenizer out of a sample of text ------------------------------------------- */

typedef struct {
    const char *const *inputs;
    int input_count;
    int vocab;
    size_t sample_bytes; /* at most this much text is held, lines drawn by `seed` over all documents */
    uint64_t seed;
} mh_tokenizer_training;

typedef struct {
    int64_t documents, bytes, sample_bytes; /* in the corpus; and in the sample */
    double bytes_per_token; /* on lines not trained on, 1 in 100; on all where there are few */
    double seconds;
} mh_tokenizer_trained;

/* Trains a BPE model with byte fallback, identity normalisation, newlines and runs of spaces kept, LLaMA's
 * control pieces (<unk> 0, <s> 1, </s> 2), and writes it to `path`. `result` may be NULL. */
mh_status mh_tokenizer_train(const mh_tokenizer_training *training, const char *path,
                             const mh_progress *progress, mh_tokenizer_trained *result);

/* For `catch (...)` of the C++ behind these functions, which no exception leaves: what was thrown, as a
 * sentence about `what`. */
mh_status mh_tokenizer_caught(const char *what);

/* ---- tokenizer_file.c: reading it; the hash at its end ------------------------------------------------- */

/* What `tokenizer train` puts behind a model: a field that others pass over, with a hash of all before it. A
 * model that ends in such a field is refused where the hash is wrong. */
#define MH_TOKENIZER_SEAL 12
void mh_tokenizer_seal(const void *model, size_t bytes, char seal[MH_TOKENIZER_SEAL]);
mh_status mh_tokenizer_check_seal(const void *file, size_t bytes, const char *what);

/* ---- source.c: streams of bytes out of files, folders and tars, decompressed --------------------------- */

/* A stream over what `paths` hold: files, folders (walked in byte order of their names, without following
 * links) or tars, each also compressed by gzip, xz, zstd or bzip2, known by content. In folders and tars,
 * only names ending in .txt, .md or .jsonl (and then perhaps .gz, .xz, .zst or .bz2) are read; a file among
 * `paths` is read whatever its name. The paths must outlive it. */
typedef struct mh_source mh_source;

typedef enum { MH_SOURCE_NONE, MH_SOURCE_TEXT, MH_SOURCE_LINES /* .jsonl */ } mh_source_kind;

mh_status mh_source_open(mh_source **source, const char *const *paths, int count);
void mh_source_close(mh_source *source);

/* Goes to the next stream; MH_SOURCE_NONE behind the last. */
mh_status mh_source_next(mh_source *source, mh_source_kind *kind);
mh_status mh_source_read(mh_source *source, void *block, size_t size, size_t *got); /* got 0 at the end */
const char *mh_source_name(const mh_source *source); /* "books.tar.xz:a/b.md" */

/* Bytes of files consumed so far, their total, and the number of files passed over for their names. */
double mh_source_where(const mh_source *source, double *total, int64_t *skipped);

/* ---- corpus.c: documents out of streams of text -------------------------------------------------------- */

/* The documents of a source: a .txt or .md is one, and each line of a .jsonl (its string "text", or else
 * "content"). A byte order mark is dropped, \r\n becomes \n, empty documents are left out. Memory is bounded:
 * a .txt or .md longer than MH_DOCUMENT_PART comes in several parts. */
typedef struct mh_corpus mh_corpus;

#define MH_DOCUMENT_PART (16 << 20)

typedef struct {
    const char *text; /* valid UTF-8; valid until the next call */
    size_t length;    /* at least 1 */
    bool more;        /* the next part continues this document */
    const char *name; /* "books.tar.xz:a/b.md" or "c.jsonl:17" */
} mh_document;

/* The paths must outlive the corpus. */
mh_status mh_corpus_open(mh_corpus **corpus, const char *const *paths, int count);
/* Fails at the end if there was no document at all. */
mh_status mh_corpus_next(mh_corpus *corpus, mh_document *document, bool *end);
void mh_corpus_close(mh_corpus *corpus);

typedef struct {
    int64_t documents, bytes, invalid; /* bytes of clean text; invalid bytes replaced */
    int64_t skipped;                   /* files in folders and tars passed over for their names */
    double read, total;                /* bytes of input files consumed so far and in all, for progress */
} mh_corpus_state;

mh_corpus_state mh_corpus_where(const mh_corpus *corpus);

/* Fails when more than 0.1 % of the bytes seen were invalid, naming the file with the most. */
mh_status mh_corpus_check(const mh_corpus *corpus);

/* ---- shard.c: token files ------------------------------------------------------------------------------ */

#define MH_SHARD_MAGIC   "MHTOKENS"
#define MH_SHARD_VERSION 1

/* Little-endian, 64 bytes, then the tokens (u16 where the vocabulary allows, else u32). */
typedef struct {
    char magic[8];
    uint32_t version, width; /* bytes a token: 2 or 4 */
    uint64_t tokens;
    uint64_t tokenizer; /* hash of the tokenizer's bytes */
    uint64_t checksum;  /* XXH3 of this header with the XXH3 of the tokens in place of this field */
    uint32_t vocab, eos;
    uint64_t documents, bytes; /* stretches of text between </s>, and their bytes */
} mh_shard_header;

typedef struct {
    mh_map map;
    const mh_shard_header *header;
    const unsigned char *tokens;
} mh_shard;

/* Checks size, header, checksum, and that every token is below the vocabulary. */
mh_status mh_shard_open(mh_shard *shard, const char *path);
void mh_shard_close(mh_shard *shard);
void mh_shard_read(const mh_shard *shard, int64_t first, int64_t count, int32_t *out);

/* Writes a shard; the caller counts header.documents and header.bytes. The file appears on commit, which ends
 * the writer in any case. */
typedef struct {
    mh_writer out;
    mh_shard_header header;
} mh_shard_writer;

mh_status mh_shard_create(mh_shard_writer *writer, const char *path, const mh_tokenizer *tokenizer);
mh_status mh_shard_put(mh_shard_writer *writer, const int32_t *id, int64_t count);
mh_status mh_shard_commit(mh_shard_writer *writer);
void mh_shard_abort(mh_shard_writer *writer); /* harmless after commit */

/* ---- build.c: `mhmoe data build` ----------------------------------------------------------------------- */

typedef struct {
    const char *tokenizer;
    const char *const *inputs;
    int input_count;
    const char *output;    /* a new folder: train.tokens, valid.tokens, tokenizer.model, data.json */
    double valid_fraction; /* 0 to 0.5; 0: no valid.tokens */
} mh_build;

typedef struct {
    int64_t documents, tokens, bytes;                   /* in all */
    int64_t valid_documents, valid_tokens, valid_bytes; /* of which for validation */
    int64_t invalid, skipped;                           /* as in mh_corpus_state */
    double seconds;
    bool by_blocks; /* fewer than 100 documents: contiguous blocks were split off instead of documents */
} mh_build_result;

/* Every document stands between two </s>. It goes to validation if the hash of its text (of its first part)
 * says so, whatever other documents there are. Below 100 documents the middle of each tenth of the text goes
 * there instead, and valid_documents counts these blocks. Memory is bounded. `result` may be NULL. */
mh_status mh_data_build(const mh_build *build, const mh_progress *progress, mh_build_result *result);

/* ---- batches.c: packed sequences in an order that is a function of the seed ---------------------------- */

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
uint64_t mh_batches_checksum(const mh_batches *batches); /* of all tokens, folder after folder */
double mh_batches_bytes_per_token(const mh_batches *batches);

/* How often the first `drawn` indices go through the folder of a mixture that is repeated least, and most;
 * without weights both are drawn / mh_batches_sequences(). */
void mh_batches_passes(const mh_batches *batches, double drawn, double *least, double *most);

/* Sequence number `index` of the run (any index >= 0): token [length] and target [length] (the next tokens).
 * first_key [length], if not NULL, gets for each token the position in this sequence of the last </s> at or
 * before it, or 0: a document is predicted from the </s> before it, which is thus its first visible token. A
 * function of (seed, index) alone. Each pass over a folder draws every sequence once; with weights, every
 * 1024 consecutive indices hold each folder's share exactly, rounded by largest remainder. */
void mh_batches_get(const mh_batches *batches, int64_t index, int32_t *token, int32_t *target,
                    int32_t *first_key);

/* The same in file order without shuffling, for validation. index < mh_batches_sequences(). */
void mh_batches_in_order(const mh_batches *batches, int64_t index, int32_t *token, int32_t *target,
                         int32_t *first_key);

#endif
