/* base: what every other folder stands on. Sections are named after the files that implement them. */
#ifndef MH_BASE_H
#define MH_BASE_H

#include "mhmoe.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* ---- status.c: failures as sentences ------------------------------------------------------------------- */

/* Stores the formatted sentence for mh_message() and returns `status`. */
mh_status mh_fail(mh_status status, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Puts "context: " in front of the stored sentence and returns `status`. */
mh_status mh_fail_in(mh_status status, const char *format, ...) __attribute__((format(printf, 2, 3)));

#ifdef __clang_analyzer__ /* it sees one file at a time, and would think that failures may be MH_OK */
#    define mh_fail(status, ...)    (mh_fail(status, __VA_ARGS__), (status))
#    define mh_fail_in(status, ...) (mh_fail_in(status, __VA_ARGS__), (status))
#endif

/* A failed system call: "cannot DOING PATH: what errno says; remedy". Returns MH_EIO or MH_EMEMORY. */
mh_status mh_fail_errno(const char *doing, const char *path);

/* The general meaning of a status, from MH_STATUS_LIST. */
const char *mh_status_text(mh_status status);

#define MH_TRY(call)                      \
    do {                                  \
        mh_status mh_try_status = (call); \
        if (mh_try_status != MH_OK)       \
            return mh_try_status;         \
    } while (0)

/* ---- arena.c: memory measured and carved by the same function ------------------------------------------ */

/* With base NULL an arena only counts; mh_take then returns NULL. */
typedef struct {
    char *base;
    size_t used, size;
} mh_arena;

#define MH_ALIGN 64

/* Takes `bytes`, aligned to MH_ALIGN. Overrunning a real arena is a bug and aborts. */
void *mh_take(mh_arena *arena, size_t bytes);

/* Zeroed memory of `bytes` for `what` ("activations"); fails with MH_EMEMORY. Release leaves {0}. */
mh_status mh_arena_init(mh_arena *arena, size_t bytes, const char *what);
void mh_arena_release(mh_arena *arena);

/* ---- type.c: element types ----------------------------------------------------------------------------- */

typedef enum { MH_F32, MH_BF16, MH_I32, MH_TYPES } mh_type;

size_t mh_type_size(mh_type type);
const char *mh_type_name(mh_type type); /* safetensors' names: "F32", "BF16", "I32" */
bool mh_type_from_name(const char *name, mh_type *type);

/* ---- sizes --------------------------------------------------------------------------------------------- */

static inline int64_t mh_least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* n or the next multiple of `of` */
static inline int64_t mh_multiple(int64_t n, int64_t of)
{
    return (n + of - 1) / of * of;
}

/* ---- random.c: numbers that are a function of (seed, stream, index); Philox 4x32-10 -------------------- */

/* Streams keep uses apart: what the number is for, at which step (36 bits), in which layer (24 bits). */
typedef enum {
    MH_RANDOM_INIT,
    MH_RANDOM_DROPOUT,
    MH_RANDOM_BATCHES,
    MH_RANDOM_SAMPLE,
    MH_RANDOM_TEST,
    MH_RANDOM_JITTER,
    MH_RANDOM_SECOND
} mh_use;
uint64_t mh_stream(mh_use use, uint64_t step, uint32_t layer);

void mh_random4(uint64_t seed, uint64_t stream, uint64_t index, uint32_t out[4]);
double mh_uniform(uint64_t seed, uint64_t stream, uint64_t index); /* [0, 1) */
double mh_normal(uint64_t seed, uint64_t stream, uint64_t index);  /* mean 0, variance 1 */

/* A permutation of [0, n): where `i` goes under (seed, stream). Needs no memory. n >= 1. */
uint64_t mh_permute(uint64_t seed, uint64_t stream, uint64_t n, uint64_t i);

/* ---- text.c: a growing string -------------------------------------------------------------------------- */

/* mh_text and mh_text_release are public: see mhmoe.h. */
mh_status mh_text_add(mh_text *text, const void *data, size_t length);
mh_status mh_text_printf(mh_text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Edit distance of two short words (at most 63 characters each); used to name the nearest known word. */
int mh_text_distance(const char *a, const char *b);

/* The text without blanks at both ends, in place. */
char *mh_text_trim(char *text);

/* Choice number `index` of "rmsnorm|layernorm" as a pointer into it and a length; and which one `text` is.
 * False where there is none. */
bool mh_choice_at(const char *choices, int index, const char **name, int *length);
bool mh_choice_find(const char *choices, const char *text, int *index);

/* Whole-string conversions: false when anything is left over or out of range. */
bool mh_text_to_int(const char *text, int64_t *value);
bool mh_text_to_double(const char *text, double *value); /* finite only */

/* ---- utf8.c: valid text, and where to cut it ----------------------------------------------------------- */

bool mh_utf8_valid(const char *text, size_t length); /* NUL bytes count as invalid */

/* Adds `text` to `out`, replacing every invalid sequence by U+FFFD (maximal subparts, as Unicode recommends)
 * and adding the bytes so replaced to `invalid`. */
mh_status mh_utf8_clean(const char *text, size_t length, mh_text *out, int64_t *invalid);

/* Where to cut `text` at or after `goal`: behind a line's end; where none comes within MH_CUT_REACH bytes,
 * before a word's space; else between two characters. Returns length where the text is too short to need it.
 * A piece of a usual vocabulary spans neither of the first two, so such cuts change no token. */
#define MH_CUT_REACH 65536
size_t mh_utf8_cut(const char *text, size_t length, size_t goal);

/* ---- file.c: paths, whole files, files that appear only when complete, memory maps --------------------- */

#define MH_PATH 4096

/* Writes "dir/name" into out; fails where it does not fit. */
mh_status mh_path_join(char out[MH_PATH], const char *dir, const char *name);
bool mh_path_exists(const char *path);
bool mh_path_is_dir(const char *path);
bool mh_path_same(const char *a, const char *b); /* both are the same file */
/* `path`, or the nearest of the folders above it that exists: "." or "/" at the end. */
void mh_path_nearest(char out[MH_PATH], const char *path);
mh_status mh_path_check_new(const char *path); /* refuses one that exists: an output must replace nothing */
mh_status mh_make_dirs(const char *path);
mh_status mh_make_parent(const char *path); /* the folders above it */

/* Reads a whole file of at most `limit` bytes. Release `out` with mh_text_release. */
mh_status mh_file_read(const char *path, size_t limit, mh_text *out);

/* Behind the name of what is being written. What a killed process left under such a name is removed unasked,
 * so nobody else may call anything that. */
#define MH_ASIDE ".mhmoe-tmp"

/* A file that appears under its name only when complete: written aside, synced, renamed. */
typedef struct {
    FILE *file;
    char path[MH_PATH], aside[MH_PATH + sizeof MH_ASIDE];
} mh_writer;

mh_status mh_writer_open(mh_writer *writer, const char *path);
mh_status mh_writer_put(mh_writer *writer, const void *data, size_t bytes);
mh_status mh_writer_commit(mh_writer *writer); /* closes in any case; on failure the aside file is removed */
void mh_writer_abort(mh_writer *writer);       /* removes the aside file; harmless after commit */

/* The same for small contents in one call. */
mh_status mh_file_write(const char *path, const void *data, size_t bytes);

/* Makes the renaming of `path` survive a power cut. */
mh_status mh_sync_parent(const char *path);

/* Read-only memory map. An empty file gives size 0 and data NULL. */
typedef struct {
    const unsigned char *data;
    size_t size;
} mh_map;

mh_status mh_map_open(mh_map *map, const char *path);
void mh_map_close(mh_map *map);

/* ---- lock.c: one holder at a time ---------------------------------------------------------------------- */

/* An exclusive lock file naming pid and host of its holder; released by the system if the process dies.
 * A held lock fails with MH_ESTATE and names the holder. */
typedef struct {
    int fd;
    char path[MH_PATH];
} mh_lock;

mh_status mh_lock_take(mh_lock *lock, const char *path);
bool mh_lock_held(const mh_lock *lock);
void mh_lock_release(mh_lock *lock); /* the file stays; harmless if not held */
void mh_lock_remove(mh_lock *lock);  /* releases it and removes the file */

/* ---- folder.c: folders that appear only when complete -------------------------------------------------- */

/* A folder that appears only when complete: fill `aside`, emptied first, then commit syncs every
 * file in it, renames it to `path`, which must not exist, and syncs the parent. */
mh_status mh_folder_begin(char aside[MH_PATH], const char *path);
mh_status mh_folder_commit(const char *aside, const char *path);
mh_status mh_remove_tree(const char *path); /* a missing path is fine */

/* The same for a folder that must not exist at the beginning either, made by one process at a time:
 * path.mhmoe-lock is held meanwhile and then removed. Commit ends it in any case. Abort removes what was
 * begun and keeps the sentence of the failure; harmless after commit, and on {0}. */
typedef struct {
    char path[MH_PATH], aside[MH_PATH];
    mh_lock lock;
} mh_new_folder;

mh_status mh_new_folder_begin(mh_new_folder *folder, const char *path);
mh_status mh_new_folder_commit(mh_new_folder *folder);
void mh_new_folder_abort(mh_new_folder *folder);

/* ---- machine.c: hashes, memory, time and the processor ------------------------------------------------- */

/* Hash of bytes (XXH3, 64 bit), used for checksums and identities; as 16 lower-case hex digits in text. */
uint64_t mh_hash(const void *data, size_t bytes);
void mh_hash_text(uint64_t hash, char out[17]);

/* Memory of this machine and process in bytes, and seconds since an arbitrary start. */
size_t mh_memory_available(void);
size_t mh_memory_peak(void);       /* peak resident size of this process ... */
void mh_memory_restart_peak(void); /* ... since this, where Linux lets a process forget it; for all who ask */
double mh_seconds(void);

/* Bytes free for this user where `path` is or would be made; SIZE_MAX where the system does not tell. */
size_t mh_disk_available(const char *path);

/* The processor's name as Linux tells it; empty where it does not. */
void mh_processor(char name[128]);

/* ---- spread.c: median and quartiles -------------------------------------------------------------------- */

/* Of `count` values; NaN where there are none. */
typedef struct {
    double median, low, high;
    int count;
} mh_spread;

mh_spread mh_spread_of(double *value, int count); /* sorts them */

/* ---- statistics.c: means, and how far they can be trusted ---------------------------------------------- */

/* Of values added one by one; {0} has none yet. */
typedef struct {
    int count;
    double sum, squares; /* squares: of distances from the mean */
} mh_mean;

void mh_mean_add(mh_mean *mean, double value);
double mh_mean_value(const mh_mean *mean); /* NaN of no values */
double mh_mean_error(const mh_mean *mean); /* its standard error; NaN below two values */

/* Student's t: the interval mean -+ mh_student(count - 1, 0.95) * standard error holds the true mean with
 * this confidence. */
double mh_student(int freedom, double confidence);

/* ---- json.c: jansson behind limits --------------------------------------------------------------------- */

/* Parses one JSON value; `what` names the source in errors. The caller owns *json (json_decref). */
mh_status mh_json_parse(json_t **json, const char *data, size_t length, const char *what);
mh_status mh_json_read(json_t **json, const char *path); /* a file of at most 64 MiB */
mh_status mh_json_dump(const json_t *json, bool pretty, mh_text *out);

/* For the inside of an HTML page's <script type="application/json">, which no text can end: "<" is escaped.
 * Numbers have 7 digits. */
mh_status mh_json_dump_script(const json_t *json, mh_text *out);

mh_status mh_json_write(const char *path, const json_t *json); /* pretty, aside and renamed */

/* Adds `item`, which it takes over. Where memory ran out for the container, the item or this, the next dump
 * of the thread fails. */
void mh_json_append(json_t *array, json_t *item);
void mh_json_set(json_t *object, const char *key, json_t *item);

/* A JSON number, or null where it is not finite: JSON knows no infinite perplexity. */
json_t *mh_json_real(double value);

/* Adds "xxh3", the hash of all else in the object as JSON without spaces; `path` is for the error. */
mh_status mh_json_seal(json_t *object, const char *path);

/* Refuses an object whose "format_version" is missing, or newer than this program knows. */
mh_status mh_json_check_version(const json_t *object, int newest, const char *path);

/* Refuses an object whose "xxh3" is not that of the rest, and takes it out; one without is fine. */
mh_status mh_json_check_seal(json_t *object, const char *path);

/* ---- yaml.c: libyaml as a list of dotted keys ---------------------------------------------------------- */

/* Calls each("moe.experts", "8", line) for every scalar of a nested mapping, in order of appearance. A
 * sequence of scalars becomes one value joined by ", ". Aliases, tags, duplicate keys, several documents and
 * deeper nonsense are refused with path and line. Stops at the first failure of `each` and returns it. */
typedef mh_status mh_yaml_each(void *context, const char *key, const char *value, int line);
mh_status mh_yaml_read(const char *path, const char *data, size_t length, mh_yaml_each *each, void *context);

/* ---- options.c: one table of settings, many readers ---------------------------------------------------- */

typedef enum {
    MH_OPTION_BOOL,
    MH_OPTION_INT,
    MH_OPTION_FLOAT,
    MH_OPTION_STRING,
    MH_OPTION_CHOICE
} mh_option_type;

enum { MH_OPTION_RESUME = 1 /* may change when a run is resumed */ };

#define MH_OPTION_TEXT 1024 /* size of the char array behind an MH_OPTION_STRING */

/* BOOL and CHOICE are stored as int, INT as int64_t, FLOAT as double, STRING as char[MH_OPTION_TEXT]. */
typedef struct {
    const char *key;   /* within its section: "top_k" */
    const char *value; /* the default, as text */
    const char *help;  /* one line for documents and --help */
    mh_option_type type;
    size_t offset;       /* in the section's struct */
    double min, max;     /* INT and FLOAT, inclusive */
    const char *choices; /* CHOICE: "rmsnorm|layernorm", stored as index */
    unsigned flags;
} mh_option;

/* A section of a configuration: rows of one struct that starts at `offset` of the whole. */
typedef struct {
    const char *name; /* "model" */
    const char *help;
    const mh_option *rows;
    int count;
    size_t offset;
} mh_section;

/* A whole table; functions below take it with the configuration it describes. */
typedef struct {
    const mh_section *sections;
    int count;
} mh_options;

void mh_options_defaults(const mh_options *options, void *config);

/* Sets "section.key" from text. `where` ("recipe.yaml:12" or "--set") begins the error sentence, which for an
 * unknown key names the nearest known one. */
mh_status mh_options_set(const mh_options *options, void *config, const char *key, const char *text,
                         const char *where);

/* The same for "section.key=text". */
mh_status mh_options_assign(const mh_options *options, void *config, const char *assignment,
                            const char *where);

#define MH_RECIPE_LIMIT ((size_t)1 << 20) /* bytes of a file */
mh_status mh_options_read_yaml(const mh_options *options, void *config, const char *path);
mh_status mh_options_write_yaml(const mh_options *options, const void *config, mh_text *out);

/* The whole as an object of sections. */
json_t *mh_options_to_json(const mh_options *options, const void *config);

/* One section of the whole `config` as a JSON object and back; reading refuses unknown keys and wrong types,
 * missing ones keep their value. */
json_t *mh_section_to_json(const mh_section *section, const void *config);
mh_status mh_section_from_json(const mh_section *section, void *config, const json_t *json,
                               const char *where);

/* The first key whose value differs and may not change on resume, as "section.key" in `key`; false if there
 * is none. */
bool mh_options_conflict(const mh_options *options, const void *was, const void *now, char key[128]);

/* docs/config.md, and the same as aligned plain text for --help. */
mh_status mh_options_markdown(const mh_options *options, mh_text *out);
mh_status mh_options_help(const mh_options *options, mh_text *out);

/* ---- safetensors.c: named tensors in a file ------------------------------------------------------------ */

#define MH_TENSOR_RANK 4

typedef struct {
    const char *name;
    mh_type type;
    int rank;
    int64_t shape[MH_TENSOR_RANK];
    const void *data;
} mh_tensor;

int64_t mh_tensor_elements(const mh_tensor *tensor);

/* An open file: memory-mapped; tensors point into it. Everything is checked on opening: header, types,
 * bounds, overlaps, and the checksum where the file carries one of ours. */
typedef struct mh_tensors mh_tensors;

mh_status mh_tensors_open(mh_tensors **tensors, const char *path);
void mh_tensors_close(mh_tensors *tensors);
int mh_tensors_count(const mh_tensors *tensors);
const mh_tensor *mh_tensors_at(const mh_tensors *tensors, int index);
const mh_tensor *mh_tensors_find(const mh_tensors *tensors, const char *name); /* NULL if absent */
const char *mh_tensors_meta(const mh_tensors *tensors, const char *key);       /* NULL if absent */

/* Writes tensors with string metadata (`meta`: an object of strings, may be NULL; not consumed) and a
 * checksum of the data ("xxh3" in the metadata), aside and renamed. */
mh_status mh_tensors_write(const char *path, const mh_tensor *tensors, int count, const json_t *meta);

/* ---- progress.c: what long work tells its caller ------------------------------------------------------- */

/* report(context, "encoding", done, total, note): total 0 when unknown, note may be NULL. report itself may
 * be NULL. */
typedef struct {
    void (*report)(void *context, const char *what, double done, double total, const char *note);
    void *context;
    const volatile int
        *stop; /* set by a signal handler: finish cleanly, return MH_EINTERRUPTED; may be NULL */
} mh_progress;

void mh_progress_report(const mh_progress *progress, const char *what, double done, double total,
                        const char *note);
bool mh_progress_stopped(const mh_progress *progress);

#endif
