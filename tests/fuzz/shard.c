/* Token shards: an accepted one holds tokens of its vocabulary alone. */
#include "data/data.h"

#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    mh_shard shard;
    if (mh_shard_open(&shard, fuzz_file("train.tokens", data, size)) != MH_OK)
        return 0;
    int64_t count = (int64_t)shard.header->tokens;
    int32_t *token = malloc((size_t)count * sizeof *token + 1);
    hold(token != NULL);
    mh_shard_read(&shard, 0, count, token);
    for (int64_t i = 0; i < count; i++)
        hold(token[i] >= 0 && (uint32_t)token[i] < shard.header->vocab);
    free(token);
    mh_shard_close(&shard);
    return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed)
{
    mh_shard_header header;
    size = LLVMFuzzerMutate(data, size, max_size);
    if (size >= sizeof header && seed % 8 != 0) {
        memcpy(&header, data, sizeof header);
        if (seed % 2)
            header.tokens = header.width ? (size - sizeof header) / header.width : 0;
        header.checksum = mh_hash(data + sizeof header, size - sizeof header);
        header.checksum = mh_hash(&header, sizeof header);
        memcpy(data, &header, sizeof header);
    }
    return size;
}
