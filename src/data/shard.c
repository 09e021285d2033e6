/* shard: token files. */
#include "data/data.h"

#include <string.h>

#define REMEDY "build it anew with `mhmoe data build`"

_Static_assert(sizeof(mh_shard_header) == 64 && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "a shard is read and written as it lies in memory");

static uint64_t checksum(const mh_shard_header *header, const void *tokens)
{
    mh_shard_header sealed = *header;
    sealed.checksum = mh_hash(tokens, header->tokens * header->width);
    return mh_hash(&sealed, sizeof sealed);
}

static uint32_t width_of(uint32_t vocab)
{
    return vocab <= 65536 ? 2 : 4;
}

/* The largest token of the shard. */
static uint32_t largest(const mh_shard *shard)
{
    uint32_t largest = 0;
    if (shard->header->width == 2) {
        const uint16_t *token = (const uint16_t *)shard->tokens;
        for (uint64_t i = 0; i < shard->header->tokens; i++)
            largest = token[i] > largest ? token[i] : largest;
    } else {
        const uint32_t *token = (const uint32_t *)shard->tokens;
        for (uint64_t i = 0; i < shard->header->tokens; i++)
            largest = token[i] > largest ? token[i] : largest;
    }
    return largest;
}

static mh_status check(const mh_shard *shard, const char *path)
{
    const mh_shard_header *h = shard->header;
    if (memcmp(h->magic, MH_SHARD_MAGIC, sizeof h->magic) != 0)
        return mh_fail(MH_EFORMAT, "%s is not a token shard; " REMEDY, path);
    if (h->version != MH_SHARD_VERSION)
        return mh_fail(MH_EFORMAT, "%s has version %u of the shard format and this program reads %d; " REMEDY,
                       path, h->version, MH_SHARD_VERSION);
    uint64_t bytes = shard->map.size - sizeof *h;
    if (h->vocab == 0 || h->vocab > INT32_MAX || h->eos >= h->vocab || h->width != width_of(h->vocab))
        return mh_fail(MH_EFORMAT, "%s has a damaged header; " REMEDY, path);
    if (bytes % h->width != 0 || h->tokens != bytes / h->width)
        return mh_fail(MH_EFORMAT,
                       "%s holds %llu bytes of tokens and its header says %llu tokens of %u; " REMEDY, path,
                       (unsigned long long)bytes, (unsigned long long)h->tokens, h->width);
    if (h->checksum != checksum(h, shard->tokens))
        return mh_fail(MH_EFORMAT, "%s is damaged: its checksum does not match; " REMEDY, path);
    uint32_t token = largest(shard);
    if (token >= h->vocab)
        return mh_fail(MH_EFORMAT, "%s holds token %u, outside its vocabulary of %u; " REMEDY, path, token,
                       h->vocab);
    return MH_OK;
}

mh_status mh_shard_open(mh_shard *shard, const char *path)
{
    *shard = (mh_shard){0};
    MH_TRY(mh_map_open(&shard->map, path));
    mh_status status = MH_OK;
    if (shard->map.size < sizeof *shard->header) {
        status = mh_fail(MH_EFORMAT, "%s is not a token shard or was cut short; " REMEDY, path);
    } else {
        shard->header = (const mh_shard_header *)shard->map.data;
        shard->tokens = shard->map.data + sizeof *shard->header;
        status = check(shard, path);
    }
    if (status != MH_OK)
        mh_shard_close(shard);
    return status;
}

void mh_shard_close(mh_shard *shard)
{
    mh_map_close(&shard->map);
    *shard = (mh_shard){0};
}

void mh_shard_read(const mh_shard *shard, int64_t first, int64_t count, int32_t *out)
{
    if (shard->header->width == 2) {
        const uint16_t *token = (const uint16_t *)shard->tokens + first;
        for (int64_t i = 0; i < count; i++)
            out[i] = token[i];
    } else {
        memcpy(out, (const int32_t *)shard->tokens + first, (size_t)count * sizeof *out);
    }
}

mh_status mh_shard_create(mh_shard_writer *writer, const char *path, const mh_tokenizer *tokenizer)
{
    writer->out.file = NULL; /* for mh_shard_abort */
    size_t bytes;
    const void *file = mh_tokenizer_bytes(tokenizer, &bytes);
    int32_t eos = mh_tokenizer_eos(tokenizer);
    if (eos < 0)
        return mh_fail(MH_EVALUE, "the tokenizer has no </s> to put between documents; use one that has");
    writer->header = (mh_shard_header){.magic = MH_SHARD_MAGIC,
                                       .version = MH_SHARD_VERSION,
                                       .width = width_of((uint32_t)mh_tokenizer_vocab(tokenizer)),
                                       .tokenizer = mh_hash(file, bytes),
                                       .vocab = (uint32_t)mh_tokenizer_vocab(tokenizer),
                                       .eos = (uint32_t)eos};
    MH_TRY(mh_writer_open(&writer->out, path));
    return mh_writer_put(&writer->out, &writer->header, sizeof writer->header);
}

mh_status mh_shard_put(mh_shard_writer *writer, const int32_t *id, int64_t count)
{
    writer->header.tokens += (uint64_t)count;
    if (writer->header.width == 4)
        return mh_writer_put(&writer->out, id, (size_t)count * sizeof *id);
    uint16_t block[4096];
    enum { ROOM = sizeof block / sizeof *block };
    for (int64_t done = 0, n; done < count; done += n) {
        n = count - done < ROOM ? count - done : ROOM;
        for (int64_t i = 0; i < n; i++)
            block[i] = (uint16_t)id[done + i];
        MH_TRY(mh_writer_put(&writer->out, block, (size_t)n * sizeof *block));
    }
    return MH_OK;
}

mh_status mh_shard_commit(mh_shard_writer *writer)
{
    /* The checksum is made of what stands in the file. */
    mh_map map = {0};
    mh_status status = fflush(writer->out.file) == 0 ? mh_map_open(&map, writer->out.aside)
                                                     : mh_fail_errno("write", writer->out.path);
    if (status == MH_OK && map.size != sizeof writer->header + writer->header.tokens * writer->header.width)
        status = mh_fail(MH_EIO, "%s is not as it was written: another process changes it; stop that one",
                         writer->out.aside);
    if (status == MH_OK) {
        writer->header.checksum = checksum(&writer->header, map.data + sizeof writer->header);
        rewind(writer->out.file);
        status = mh_writer_put(&writer->out, &writer->header, sizeof writer->header);
    }
    mh_map_close(&map);
    if (status == MH_OK)
        return mh_writer_commit(&writer->out);
    mh_shard_abort(writer);
    return status;
}

void mh_shard_abort(mh_shard_writer *writer)
{
    mh_writer_abort(&writer->out);
}
