/* batches: packed sequences in an order that is a function of the seed. */
#include "data/data.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A mixture's shares are exact in every block of this many consecutive indices. */
enum { MIX_BLOCK = 1024 };

/* One folder. Sequence i of its shard is the length+1 tokens from i*length on. */
typedef struct {
    mh_shard shard;
    double weight;            /* 0: none was given */
    int64_t first, sequences; /* numbers of its sequences in file order */
} corpus;

/* Sequences that are drawn from together: a folder of a mixture, or all folders. */
typedef struct {
    int64_t first, sequences;
    int64_t before, quota; /* its indices in each block of MIX_BLOCK, before these are shuffled */
} pool;

struct mh_batches {
    int64_t length, sequences, tokens, bytes;
    uint64_t seed;
    corpus *corpora;
    pool *pools;
    int count, pool_count;
    char tokenizer[MH_PATH];
};

/* ---- opening ------------------------------------------------------------------------------------------- */

/* Splits "folder=0.7" in place; a weight of 0 stands for none. */
static mh_status parse(char *word, char **folder, double *weight)
{
    *folder = mh_text_trim(word);
    *weight = 0;
    char *equals = strrchr(*folder, '=');
    if (equals != NULL && mh_text_to_double(mh_text_trim(equals + 1), weight)) {
        if (*weight <= 0)
            return mh_fail(MH_EVALUE,
                           "the weight of data folder %s must be above 0; leave the folder out instead",
                           *folder);
        *equals = '\0';
        *folder = mh_text_trim(*folder);
    }
    return **folder != '\0' ? MH_OK
                            : mh_fail(MH_EVALUE, "a data folder's name is missing; write \"a=0.7, b=0.3\"");
}

static mh_status open_corpus(mh_batches *b, corpus *c, const char *folder, const char *split,
                             const char *tokenizer_hash)
{
    char name[32], path[MH_PATH], hash[17];
    snprintf(name, sizeof name, "%s.tokens", split);
    MH_TRY(mh_path_join(path, folder, name));
    bool there = mh_path_exists(path);
    if (!there && errno == EACCES) /* it may well have one */
        return mh_fail_errno("open", path);
    if (!mh_path_is_dir(folder))
        return mh_fail(MH_EIO, "there is no data folder %s%s; make it with `mhmoe data build`", folder,
                       folder[0] == '/' ? "" : ", seen from the current folder");
    if (!there)
        return mh_fail(
            MH_EIO,
            "data folder %s has no %s; build it anew, for a validation part with --valid-fraction over 0",
            folder, name);
    MH_TRY(mh_shard_open(&c->shard, path));

    const mh_shard_header *h = c->shard.header;
    mh_hash_text(h->tokenizer, hash);
    if (tokenizer_hash != NULL && strcmp(hash, tokenizer_hash) != 0)
        return mh_fail(MH_EMISMATCH,
                       "%s was made with tokenizer %s, and tokenizer %s is expected; build it anew with that",
                       path, hash, tokenizer_hash);
    const mh_shard_header *first = b->corpora->shard.header;
    if (h->tokenizer != first->tokenizer || h->vocab != first->vocab || h->eos != first->eos)
        return mh_fail(MH_EMISMATCH,
                       "%s was made with another tokenizer than the first data folder; build both with one",
                       path);
    c->first = b->sequences;
    c->sequences = ((int64_t)h->tokens - 1) / b->length;
    if (h->tokens == 0 || c->sequences == 0)
        return mh_fail(MH_EVALUE,
                       "%s holds %llu tokens, too few for one sequence of %lld and the token after it; add "
                       "text or choose shorter sequences",
                       path, (unsigned long long)h->tokens, (long long)b->length);
    b->sequences += c->sequences;
    b->tokens += (int64_t)h->tokens;
    b->bytes += (int64_t)h->bytes;
    if (c == b->corpora)
        MH_TRY(mh_path_join(b->tokenizer, folder, "tokenizer.model"));
    return MH_OK;
}

static mh_status open_corpora(mh_batches *b, char *folders, const char *split, const char *tokenizer_hash)
{
    int words = 1;
    for (const char *comma = folders; (comma = strchr(comma, ',')) != NULL; comma++)
        words++;
    b->corpora = calloc((size_t)words, sizeof *b->corpora);
    b->pools = calloc((size_t)words, sizeof *b->pools);
    if (b->corpora == NULL || b->pools == NULL)
        return mh_fail(MH_EMEMORY, "the system refused memory for %d data folders", words);
    for (char *word; (word = strsep(&folders, ",")) != NULL;) {
        corpus *c = &b->corpora[b->count++];
        char *folder;
        MH_TRY(parse(word, &folder, &c->weight));
        if ((c->weight > 0) != (b->corpora->weight > 0))
            return mh_fail(MH_EVALUE,
                           "either all data folders have a weight or none; %s differs from the first",
                           folder);
        MH_TRY(open_corpus(b, c, folder, split, tokenizer_hash));
    }
    return MH_OK;
}

/* Shares MIX_BLOCK out by weight: rounded down, what is left to the largest remainders. */
static mh_status share_out(mh_batches *b)
{
    double sum = 0;
    for (int i = 0; i < b->count; i++)
        sum += b->corpora[i].weight;
    int64_t left = MIX_BLOCK;
    for (int i = 0; i < b->count; i++) {
        b->pools[i].quota = (int64_t)(b->corpora[i].weight / sum * MIX_BLOCK);
        left -= b->pools[i].quota;
    }
    for (; left > 0; left--) {
        int best = 0;
        double most = -MIX_BLOCK;
        for (int i = 0; i < b->count; i++) {
            double short_of = b->corpora[i].weight / sum * MIX_BLOCK - (double)b->pools[i].quota;
            if (short_of > most) {
                most = short_of;
                best = i;
            }
        }
        b->pools[best].quota++;
    }
    int64_t before = 0;
    for (int i = 0; i < b->count; i++) {
        pool *p = &b->pools[i];
        if (p->quota == 0)
            return mh_fail(MH_EVALUE,
                           "data folder %d has weight %g of %g, less than the smallest share of 1/%d; raise "
                           "it or leave the folder out",
                           i + 1, b->corpora[i].weight, sum, MIX_BLOCK);
        *p = (pool){b->corpora[i].first, b->corpora[i].sequences, before, p->quota};
        before += p->quota;
    }
    b->pool_count = b->count;
    return MH_OK;
}

mh_status mh_batches_open(mh_batches **batches, const char *folders, const char *split, int64_t length,
                          uint64_t seed, const char *tokenizer_hash)
{
    *batches = NULL;
    mh_batches *b = calloc(1, sizeof *b);
    char *words = strdup(folders);
    mh_status status = MH_OK;
    if (b == NULL || words == NULL) {
        status = mh_fail(MH_EMEMORY, "the system refused memory for batches");
        goto done;
    }
    b->length = length;
    b->seed = seed;
    status = open_corpora(b, words, split, tokenizer_hash);
    if (status != MH_OK)
        goto done;
    if (b->corpora->weight > 0) {
        status = share_out(b);
    } else {
        b->pools[0] = (pool){0, b->sequences, 0, MIX_BLOCK};
        b->pool_count = 1;
    }
done:
    free(words);
    if (status == MH_OK)
        *batches = b;
    else
        mh_batches_close(b);
    return status;
}

void mh_batches_close(mh_batches *batches)
{
    if (batches == NULL)
        return;
    for (int i = 0; i < batches->count; i++)
        mh_shard_close(&batches->corpora[i].shard);
    free(batches->corpora);
    free(batches->pools);
    free(batches);
}

/* ---- what there is ------------------------------------------------------------------------------------- */

int mh_batches_vocab(const mh_batches *batches)
{
    return (int)batches->corpora->shard.header->vocab;
}

int32_t mh_batches_eos(const mh_batches *batches)
{
    return (int32_t)batches->corpora->shard.header->eos;
}

const char *mh_batches_tokenizer(const mh_batches *batches)
{
    return batches->tokenizer;
}

int64_t mh_batches_sequences(const mh_batches *batches)
{
    return batches->sequences;
}

int64_t mh_batches_tokens(const mh_batches *batches)
{
    return batches->tokens;
}

uint64_t mh_batches_checksum(const mh_batches *batches)
{
    uint64_t sum[2] = {0};
    for (int i = 0; i < batches->count; i++) {
        sum[1] = batches->corpora[i].shard.header->checksum;
        sum[0] = mh_hash(sum, sizeof sum);
    }
    return sum[0];
}

double mh_batches_bytes_per_token(const mh_batches *batches)
{
    return (double)batches->bytes / (double)batches->tokens;
}

void mh_batches_passes(const mh_batches *b, double drawn, double *least, double *most)
{
    *least = INFINITY;
    *most = 0;
    for (int i = 0; i < b->pool_count; i++) {
        double passes = drawn * (double)b->pools[i].quota / MIX_BLOCK / (double)b->pools[i].sequences;
        *least = fmin(*least, passes);
        *most = fmax(*most, passes);
    }
}

/* ---- sequences ----------------------------------------------------------------------------------------- */

void mh_batches_in_order(const mh_batches *b, int64_t index, int32_t *token, int32_t *target,
                         int32_t *first_key)
{
    const corpus *c = b->corpora;
    while (index >= c->first + c->sequences)
        c++;
    int64_t begin = (index - c->first) * b->length;
    mh_shard_read(&c->shard, begin, b->length, token);
    mh_shard_read(&c->shard, begin + 1, b->length, target);
    if (first_key == NULL)
        return;
    int32_t eos = mh_batches_eos(b), first = 0;
    for (int32_t i = 0; i < b->length; i++) {
        if (token[i] == eos)
            first = i;
        first_key[i] = first;
    }
}

void mh_batches_get(const mh_batches *b, int64_t index, int32_t *token, int32_t *target, int32_t *first_key)
{
    int64_t block = index / MIX_BLOCK, slot = index % MIX_BLOCK;
    int k = 0;
    if (b->pool_count > 1) {
        /* The pools' own streams are 0 .. pool_count-1. */
        uint64_t stream = mh_stream(MH_RANDOM_BATCHES, (uint64_t)block, (uint32_t)b->pool_count);
        slot = (int64_t)mh_permute(b->seed, stream, MIX_BLOCK, (uint64_t)slot);
        while (slot >= b->pools[k].before + b->pools[k].quota)
            k++;
    }
    const pool *p = &b->pools[k];
    int64_t drawn = block * p->quota + slot - p->before; /* from this pool until now */
    uint64_t pass = (uint64_t)(drawn / p->sequences), i = (uint64_t)(drawn % p->sequences);
    uint64_t stream = mh_stream(MH_RANDOM_BATCHES, pass, (uint32_t)k);
    int64_t number = p->first + (int64_t)mh_permute(b->seed, stream, (uint64_t)p->sequences, i);
    mh_batches_in_order(b, number, token, target, first_key);
}
