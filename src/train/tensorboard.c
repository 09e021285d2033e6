/* TensorBoard's event files: protocol buffers by hand (tensorflow/core/util/event.proto,
 * framework/summary.proto) in the frames of TFRecord. */
#include "train/train.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { TAG_MAX = 127, MESSAGE_MAX = 256 };

struct mh_events {
    FILE *file;
    char path[MH_PATH];
    uint32_t crc[256];
};

/* ---- TFRecord: length u64, its masked CRC-32C, data, its masked CRC-32C -------------------------------- */

static void make_crc_table(uint32_t table[256])
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t crc = i;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78 : 0); /* Castagnoli's polynomial, bits reversed */
        table[i] = crc;
    }
}

static uint32_t masked_crc(const uint32_t table[256], const uint8_t *data, size_t bytes)
{
    uint32_t crc = ~0u;
    for (size_t i = 0; i < bytes; i++)
        crc = crc >> 8 ^ table[(crc ^ data[i]) & 255];
    crc = ~crc;
    return (crc >> 15 | crc << 17) + 0xa282ead8;
}

static void put_le(uint8_t *out, uint64_t value, int bytes)
{
    for (int i = 0; i < bytes; i++)
        out[i] = (uint8_t)(value >> 8 * i);
}

static mh_status write_record(mh_events *events, const uint8_t *data, size_t bytes)
{
    uint8_t head[12], tail[4];
    put_le(head, bytes, 8);
    put_le(head + 8, masked_crc(events->crc, head, 8), 4);
    put_le(tail, masked_crc(events->crc, data, bytes), 4);
    if (fwrite(head, 1, sizeof head, events->file) != sizeof head ||
        fwrite(data, 1, bytes, events->file) != bytes ||
        fwrite(tail, 1, sizeof tail, events->file) != sizeof tail)
        return mh_fail_errno("write", events->path);
    return MH_OK;
}

/* ---- protocol buffers ---------------------------------------------------------------------------------- */

/* A message under construction. Its callers' fields fit by their bounds. */
typedef struct {
    uint8_t data[MESSAGE_MAX];
    size_t length;
} message;

typedef enum { VARINT = 0, FIXED64 = 1, BYTES = 2, FIXED32 = 5 } wire_type;

static void put_varint(message *m, uint64_t value)
{
    for (; value >= 128; value >>= 7)
        m->data[m->length++] = (uint8_t)(value | 128);
    m->data[m->length++] = (uint8_t)value;
}

static void put_key(message *m, int field, wire_type type)
{
    put_varint(m, (uint64_t)field << 3 | type);
}

static void put_bytes(message *m, int field, const void *data, size_t bytes)
{
    put_key(m, field, BYTES);
    put_varint(m, bytes);
    memcpy(m->data + m->length, data, bytes);
    m->length += bytes;
}

/* Event { double wall_time = 1; int64 step = 2; ... } */
static message begin_event(int64_t step)
{
    message event = {.length = 0};
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    double seconds = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
    uint64_t bits;
    memcpy(&bits, &seconds, sizeof bits);
    put_key(&event, 1, FIXED64);
    put_le(event.data + event.length, bits, 8);
    event.length += 8;
    put_key(&event, 2, VARINT);
    put_varint(&event, (uint64_t)step);
    return event;
}

/* Event.summary = 5: Summary { repeated Value value = 1 { string tag = 1; float simple_value = 2 } } */
mh_status mh_events_scalar(mh_events *events, const char *tag, int64_t step, double value)
{
    float single = (float)value;
    uint32_t bits;
    memcpy(&bits, &single, sizeof bits);
    message one = {.length = 0}, summary = {.length = 0}, event = begin_event(step);
    put_bytes(&one, 1, tag, strnlen(tag, TAG_MAX));
    put_key(&one, 2, FIXED32);
    put_le(one.data + one.length, bits, 4);
    one.length += 4;
    put_bytes(&summary, 1, one.data, one.length);
    put_bytes(&event, 5, summary.data, summary.length);
    return write_record(events, event.data, event.length);
}

/* The first record names the format: Event.file_version = 3. The second, Event.session_log = 7 with
 * SessionLog { SessionStatus status = 1 } START, makes TensorBoard forget what an earlier file says from its
 * step on: those updates are made again. */
static mh_status write_start(mh_events *events, int64_t step)
{
    static const char version[] = "brain.Event:2";
    static const uint8_t start[] = {1 << 3 | VARINT, 1};
    message event = begin_event(0);
    put_bytes(&event, 3, version, sizeof version - 1);
    MH_TRY(write_record(events, event.data, event.length));
    event = begin_event(step);
    put_bytes(&event, 7, start, sizeof start);
    MH_TRY(write_record(events, event.data, event.length));
    return mh_events_flush(events);
}

mh_status mh_events_open(mh_events **events, const char *folder, int64_t step)
{
    *events = NULL;
    mh_events *e = calloc(1, sizeof *e);
    if (e == NULL)
        return mh_fail(MH_EMEMORY, "%s: the system refused memory for an event file", folder);
    char host[65] = "", name[160];
    gethostname(host, sizeof host - 1);
    /* TensorBoard reads a folder's files in the order of their names; the pid tells two starts within a
     * second apart. */
    snprintf(name, sizeof name, "events.out.tfevents.%lld.%s.%ld", (long long)time(NULL), host,
             (long)getpid());
    make_crc_table(e->crc);
    mh_status status = mh_path_join(e->path, folder, name);
    if (status == MH_OK && (e->file = fopen(e->path, "abe")) == NULL)
        status = mh_fail_errno("write", e->path);
    if (status == MH_OK)
        status = write_start(e, step + 1);
    if (status != MH_OK) {
        mh_events_close(e);
        return status;
    }
    *events = e;
    return MH_OK;
}

mh_status mh_events_flush(mh_events *events)
{
    return fflush(events->file) == 0 ? MH_OK : mh_fail_errno("write", events->path);
}

void mh_events_close(mh_events *events)
{
    if (events == NULL)
        return;
    if (events->file)
        fclose(events->file);
    free(events);
}
