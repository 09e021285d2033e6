/* base: failures, memory, random numbers, text, files, JSON, YAML, options and safetensors. */
#include "test.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* Tests work in a folder of their own, which is the current one and is removed at the end. */
static char folder[] = "/tmp/mhmoe-base-XXXXXX";

static int enter_folder(void **state)
{
    (void)state;
    return mkdtemp(folder) == NULL || chdir(folder) != 0;
}

static int leave_folder(void **state)
{
    (void)state;
    return chdir("/") != 0 || mh_remove_tree(folder) != MH_OK;
}

/* Not by mh_file_write: thousands of damaged files would each be synced to the disk. */
static void write_raw(const char *path, const void *data, size_t bytes)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(data, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
}

static void write_text(const char *path, const char *text)
{
    write_raw(path, text, strlen(text));
}

static void expect_file(const char *path, const char *text)
{
    mh_text got;
    OK(mh_file_read(path, 1 << 20, &got));
    assert_string_equal(got.data, text);
    mh_text_release(&got);
}

/* ---- status, arena, type ------------------------------------------------------------------------------- */

static void failures_are_sentences(void **state)
{
    (void)state;
    assert_int_equal(mh_fail(MH_EVALUE, "%s has %d heads", "model", 3), MH_EVALUE);
    assert_string_equal(mh_message(), "model has 3 heads");
    assert_int_equal(mh_fail_in(MH_EIO, "layer %d", 2), MH_EIO);
    assert_string_equal(mh_message(), "layer 2: model has 3 heads");
    mh_fail(MH_EIO, "again: %s", mh_message());
    assert_string_equal(mh_message(), "again: layer 2: model has 3 heads");
    mh_fail(MH_EIO, "a\033[2Jb\nc");
    assert_string_equal(mh_message(), "a?[2Jb?c");
    mh_fail(MH_EIO, "\xc2\x9b"
                    "2J\xc2\xa9\xc2"); /* a control sequence in one character; a sign; half of one */
    assert_string_equal(mh_message(), "??2J\xc2\xa9\xc2");
    mh_fail(MH_EMEMORY, "no memory for %s", "this");
    assert_string_equal(mh_message(), "no memory for this; free memory and try again");
    mh_fail(MH_EMEMORY, "no memory; shorten it");
    assert_string_equal(mh_message(), "no memory; shorten it");
    assert_string_equal(mh_status_text(MH_EFORMAT), "a file is not in the expected format");
    assert_string_equal(mh_status_text((mh_status)99), "unknown status");
}

typedef struct {
    char *a, *b, *c;
} pieces;

static void layout(pieces *p, mh_arena *arena)
{
    p->a = mh_take(arena, 1);
    p->b = mh_take(arena, 0);
    p->c = mh_take(arena, 65);
}

static void arena_measures_what_it_carves(void **state)
{
    (void)state;
    mh_arena count = {0}, arena;
    pieces p;
    layout(&p, &count);
    assert_null(p.a);
    assert_int_equal(count.used, 64 + 128);
    OK(mh_arena_init(&arena, count.used, "test pieces"));
    layout(&p, &arena);
    assert_int_equal(arena.used, count.used);
    assert_int_equal((uintptr_t)p.a % MH_ALIGN, 0);
    assert_int_equal((uintptr_t)p.c % MH_ALIGN, 0);
    assert_ptr_equal(p.b, p.c);
    for (int i = 0; i < 65; i++)
        assert_int_equal(p.c[i], 0);
    mh_arena_release(&arena);
    assert_null(arena.base);

    mh_arena huge = {0};
    mh_take(&huge, SIZE_MAX - 5);
    FAILS(MH_EMEMORY, "activations need", mh_arena_init(&arena, huge.used, "activations"));
    mh_take(&huge, SIZE_MAX / 2 + 100);
    mh_take(&huge, 100);
    FAILS(MH_EMEMORY, "activations need", mh_arena_init(&arena, huge.used, "activations"));
    OK(mh_arena_init(&arena, 0, "nothing"));
    assert_non_null(arena.base);
    mh_arena_release(&arena);
}

static void types_have_names(void **state)
{
    (void)state;
    mh_type type;
    for (int i = 0; i < MH_TYPES; i++) {
        assert_true(mh_type_from_name(mh_type_name((mh_type)i), &type));
        assert_int_equal(type, i);
    }
    assert_int_equal(mh_type_size(MH_BF16), 2);
    assert_int_equal(mh_type_size(MH_F32), 4);
    assert_false(mh_type_from_name("I64", &type));
    assert_false(mh_type_from_name("f32", &type));
}

/* ---- random -------------------------------------------------------------------------------------------- */

/* The vectors that Random123 publishes for philox4x32-10. */
static void philox_is_the_published_one(void **state)
{
    (void)state;
    static const uint32_t zeros[4] = {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8};
    static const uint32_t ones[4] = {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd};
    uint32_t r[4];
    mh_random4(0, 0, 0, r);
    assert_memory_equal(r, zeros, sizeof r);
    mh_random4(UINT64_MAX, UINT64_MAX, UINT64_MAX, r);
    assert_memory_equal(r, ones, sizeof r);
}

static void streams_differ(void **state)
{
    (void)state;
    uint64_t streams[] = {mh_stream(MH_RANDOM_INIT, 0, 0), mh_stream(MH_RANDOM_DROPOUT, 0, 0),
                          mh_stream(MH_RANDOM_DROPOUT, 1, 0), mh_stream(MH_RANDOM_DROPOUT, 0, 1),
                          mh_stream(MH_RANDOM_DROPOUT, 1, 1)};
    for (size_t i = 0; i < sizeof streams / sizeof *streams; i++)
        for (size_t j = 0; j < i; j++) {
            assert_true(streams[i] != streams[j]);
            assert_true(mh_uniform(1, streams[i], 7) != mh_uniform(1, streams[j], 7));
        }
    assert_true(mh_uniform(1, 0, 7) != mh_uniform(2, 0, 7));
    assert_true(mh_uniform(1, 0, 7) == mh_uniform(1, 0, 7));
}

/* Moments of N numbers, within six standard errors: a right generator fails one seed in 10^8. */
static void moments_are_right(void **state)
{
    (void)state;
    enum { N = 100000 };
    const uint64_t seed = 11;
    double sum = 0, normal = 0, square = 0, fourth = 0;
    for (uint64_t i = 0; i < N; i++) {
        double u = mh_uniform(seed, 1, i), x = mh_normal(seed, 2, i);
        assert_true(u >= 0 && u < 1);
        sum += u;
        normal += x;
        square += x * x;
        fourth += x * x * x * x;
    }
    double error = 6 / sqrt(N);
    if (fabs(sum / N - 0.5) > error * sqrt(1. / 12) || fabs(normal / N) > error ||
        fabs(square / N - 1) > error * sqrt(2) || fabs(fourth / N - 3) > error * sqrt(96))
        fail_msg("seed %d: uniform mean %g, normal mean %g, variance %g, fourth moment %g", (int)seed,
                 sum / N, normal / N, square / N, fourth / N);
}

static void expect_bijection(uint64_t n)
{
    bool *hit = calloc(n, sizeof *hit);
    for (uint64_t i = 0; i < n; i++) {
        uint64_t to = mh_permute(5, 3, n, i);
        if (to >= n || hit[to])
            fail_msg("n %d: %d goes to %d, which is outside or taken", (int)n, (int)i, (int)to);
        hit[to] = true;
    }
    free(hit);
}

static void permutations_are_bijections(void **state)
{
    (void)state;
    for (uint64_t n = 1; n <= 100; n++)
        expect_bijection(n);
    expect_bijection(1000);
    assert_true(mh_permute(5, 3, UINT64_MAX, 17) < UINT64_MAX);

    /* Where 0 goes, over many streams, is spread evenly: counts within six deviations. */
    enum { PLACES = 5, STREAMS = 10000 };
    int count[PLACES] = {0};
    for (uint64_t stream = 0; stream < STREAMS; stream++)
        count[mh_permute(1, stream, PLACES, 0)]++;
    for (int i = 0; i < PLACES; i++)
        assert_true(abs(count[i] - STREAMS / PLACES) < 6 * 40);
}

/* ---- text ---------------------------------------------------------------------------------------------- */

static void text_grows(void **state)
{
    (void)state;
    mh_text text = {0};
    OK(mh_text_add(&text, "", 0));
    assert_string_equal(text.data, "");
    for (int i = 0; i < 1000; i++)
        OK(mh_text_printf(&text, "%d,", i));
    OK(mh_text_add(&text, "a\0b", 3));
    assert_int_equal(text.length, 10 * 2 + 90 * 3 + 900 * 4 + 3);
    assert_string_equal(text.data + text.length - 5, "9,a");
    size_t before = text.length;
    FAILS(MH_EMEMORY, "cannot grow", mh_text_add(&text, "x", SIZE_MAX - 2));
    assert_int_equal(text.length, before);
    mh_text_release(&text);
    assert_null(text.data);
}

static void distances(void **state)
{
    (void)state;
    assert_int_equal(mh_text_distance("", ""), 0);
    assert_int_equal(mh_text_distance("", "abc"), 3);
    assert_int_equal(mh_text_distance("expert", "experts"), 1);
    assert_int_equal(mh_text_distance("kitten", "sitting"), 3);
    assert_int_equal(mh_text_distance("sitting", "kitten"), 3);
}

static void numbers(void **state)
{
    (void)state;
    int64_t i = 5;
    double d = 5;
    assert_true(mh_text_to_int("-9223372036854775808", &i) && i == INT64_MIN);
    assert_true(mh_text_to_int("+007", &i) && i == 7);
    static const char *const no_int[] = {"",  " 1",  "1 ",   "1.0", "9223372036854775808",
                                         "-", "--1", "0x10", "10k", "1_000"};
    for (size_t n = 0; n < sizeof no_int / sizeof *no_int; n++)
        assert_false(mh_text_to_int(no_int[n], &i));
    assert_true(mh_text_to_double("-1.5e-3", &d) && d == -1.5e-3);
    assert_true(mh_text_to_double("7", &d) && d == 7);
    assert_true(mh_text_to_double("1e-400", &d) && d < 1e-300);
    static const char *const no_double[] = {"",      " 1",  "1 ", "nan", "inf", "1e999",
                                            "0x1p3", "1,5", "e5", "1e",  "."};
    for (size_t n = 0; n < sizeof no_double / sizeof *no_double; n++)
        assert_false(mh_text_to_double(no_double[n], &d));
    assert_int_equal(i, 7);
}

/* ---- files --------------------------------------------------------------------------------------------- */

static void paths(void **state)
{
    (void)state;
    char path[MH_PATH];
    OK(mh_path_join(path, "a", "b"));
    assert_string_equal(path, "a/b");
    OK(mh_path_join(path, "/", "b"));
    assert_string_equal(path, "/b");

    OK(mh_make_dirs("dirs/a/b"));
    OK(mh_make_dirs("dirs/a/b/"));
    assert_true(mh_path_is_dir("dirs/a/b"));
    write_text("dirs/file", "");
    assert_true(mh_path_exists("dirs/file"));
    assert_false(mh_path_is_dir("dirs/file"));
    FAILS(MH_EIO, "dirs/file", mh_make_dirs("dirs/file/c"));
    OK(mh_make_parent("dirs/c/d/file"));
    assert_true(mh_path_is_dir("dirs/c/d") && !mh_path_exists("dirs/c/d/file"));
    OK(mh_make_parent("file"));

    /* The reason is that of mkdir. Root may write everywhere, so the test is nobody for a moment. */
    assert_true(mkdir("dirs/closed", 0555) == 0 && chmod(".", 0755) == 0);
    bool root = geteuid() == 0;
    assert_true(!root || seteuid(65534) == 0);
    mh_status status = mh_make_dirs("dirs/closed/a");
    assert_true(!root || seteuid(0) == 0);
    FAILS(MH_EIO, "cannot create folder dirs/closed/a: Permission denied; check", status);
    OK(mh_remove_tree("dirs"));
    assert_false(mh_path_exists("dirs"));
    OK(mh_remove_tree("dirs"));
}

static void whole_files(void **state)
{
    (void)state;
    mh_text text;
    OK(mh_file_write("whole", "hello", 5));
    expect_file("whole", "hello");
    OK(mh_file_write("whole", NULL, 0));
    expect_file("whole", "");
    write_text("whole", "hello");
    FAILS(MH_EFORMAT, "larger than the 4 bytes", mh_file_read("whole", 4, &text));
    OK(mh_file_read("whole", 5, &text));
    mh_text_release(&text);
    FAILS(MH_EIO, "cannot open absent: No such file", mh_file_read("absent", 4, &text));
    FAILS(MH_EIO, "cannot read .: Is a directory", mh_file_read(".", 4, &text));

    mh_map map;
    OK(mh_map_open(&map, "whole"));
    assert_int_equal(map.size, 5);
    assert_memory_equal(map.data, "hello", 5);
    mh_map_close(&map);
    mh_map_close(&map);
    write_text("whole", "");
    OK(mh_map_open(&map, "whole"));
    assert_true(map.size == 0 && map.data == NULL);
    mh_map_close(&map);
    FAILS(MH_EIO, "not a regular file", mh_map_open(&map, "."));
    FAILS(MH_EIO, "absent", mh_map_open(&map, "absent"));
}

/* Lets no file grow beyond `bytes`; 0 lifts the limit. */
static void limit_files(rlim_t bytes)
{
    struct rlimit limit;
    getrlimit(RLIMIT_FSIZE, &limit);
    limit.rlim_cur = bytes > 0 ? bytes : limit.rlim_max;
    setrlimit(RLIMIT_FSIZE, &limit);
    signal(SIGXFSZ, bytes > 0 ? SIG_IGN : SIG_DFL);
}

static void failed_writes_leave_the_old_file(void **state)
{
    (void)state;
    static char block[100000];
    mh_writer writer;
    write_text("kept", "old");

    OK(mh_writer_open(&writer, "kept"));
    OK(mh_writer_put(&writer, "new", 3));
    expect_file("kept", "old");
    mh_writer_abort(&writer);
    mh_writer_abort(&writer);
    assert_false(mh_path_exists("kept.mhmoe-tmp"));
    expect_file("kept", "old");

    limit_files(1000);
    OK(mh_writer_open(&writer, "kept"));
    FAILS(MH_EIO, "cannot write kept: File too large", mh_writer_put(&writer, block, sizeof block));
    FAILS(MH_EIO, "cannot write kept", mh_writer_commit(&writer));
    FAILS(MH_EIO, "cannot write kept", mh_file_write("kept", block, sizeof block));
    limit_files(0);
    assert_false(mh_path_exists("kept.mhmoe-tmp"));
    expect_file("kept", "old");

    /* What does not fit is told only when buffers are flushed. */
    limit_files(2);
    OK(mh_writer_open(&writer, "kept"));
    OK(mh_writer_put(&writer, "new", 3));
    FAILS(MH_EIO, "raise the limit (ulimit -f)", mh_writer_commit(&writer));
    limit_files(0);
    assert_false(mh_path_exists("kept.mhmoe-tmp"));
    expect_file("kept", "old");

    /* A file of somebody else's is not written through a link that bears the name. */
    write_text("theirs", "theirs");
    assert_int_equal(symlink("theirs", "kept.mhmoe-tmp"), 0);
    FAILS(MH_EIO, "kept.mhmoe-tmp: Too many levels of symbolic links", mh_writer_open(&writer, "kept"));
    expect_file("theirs", "theirs");
    assert_int_equal(unlink("kept.mhmoe-tmp"), 0);

    mh_writer second;
    write_text("kept.mhmoe-tmp", "left by a kill, and longer");
    OK(mh_writer_open(&writer, "kept"));
    FAILS(MH_ESTATE, "kept is being written by another process", mh_writer_open(&second, "kept"));

    OK(mh_writer_put(&writer, "new", 3));
    OK(mh_writer_commit(&writer));
    mh_writer_abort(&writer);
    expect_file("kept", "new");
    assert_false(mh_path_exists("kept.mhmoe-tmp"));
    FAILS(MH_EIO, "check the path", mh_writer_open(&writer, "absent/kept"));
    FAILS(MH_EIO, "it is a folder", mh_writer_open(&writer, "."));
    FAILS(MH_EIO, "it is a device", mh_writer_open(&writer, "/dev/null"));
}

static void folders_appear_whole(void **state)
{
    (void)state;
    char aside[MH_PATH], path[MH_PATH];
    OK(mh_folder_begin(aside, "out/model/"));
    assert_string_equal(aside, "out/model.mhmoe-tmp");
    write_text("out/model.mhmoe-tmp/rest", "x");
    OK(mh_folder_begin(aside, "out/model/")); /* what an interrupted attempt left is removed */
    assert_false(mh_path_exists("out/model.mhmoe-tmp/rest"));
    OK(mh_path_join(path, aside, "first"));
    write_text(path, "x");
    OK(mh_make_dirs("out/model.mhmoe-tmp/deep/er"));
    assert_false(mh_path_exists("out/model"));
    OK(mh_folder_commit(aside, "out/model/"));
    assert_false(mh_path_exists(aside));
    expect_file("out/model/first", "x");
    assert_true(mh_path_is_dir("out/model/deep/er"));

    /* What is there stays as it is. */
    OK(mh_folder_begin(aside, "out/model"));
    FAILS(MH_ESTATE, "out/model has appeared meanwhile", mh_folder_commit(aside, "out/model"));
    expect_file("out/model/first", "x");
    OK(mh_remove_tree(aside));
    FAILS(MH_EIO, "out/model.mhmoe-tmp", mh_folder_commit(aside, "out/model"));
    FAILS(MH_EVALUE, "empty", mh_folder_begin(aside, ""));
}

static void new_folders_replace_nothing(void **state)
{
    (void)state;
    mh_new_folder first, second;
    char path[MH_PATH];
    OK(mh_new_folder_begin(&first, "new/deep/model/"));
    assert_string_equal(first.aside, "new/deep/model.mhmoe-tmp");
    OK(mh_path_join(path, first.aside, "first"));
    write_text(path, "x");
    snprintf(path, sizeof path, "new/deep/model.mhmoe-lock is held by process %ld on ", (long)getpid());
    FAILS(MH_ESTATE, path, mh_new_folder_begin(&second, "new/deep/model"));
    mh_new_folder_abort(&second);
    OK(mh_new_folder_commit(&first));
    mh_new_folder_abort(&first);
    expect_file("new/deep/model/first", "x");
    assert_false(mh_path_exists("new/deep/model.mhmoe-tmp"));
    assert_false(mh_path_exists("new/deep/model.mhmoe-lock"));
    FAILS(MH_ESTATE, "exists already", mh_new_folder_begin(&first, "new/deep/model"));
    FAILS(MH_ESTATE, "/ exists already", mh_new_folder_begin(&first, "/"));
    FAILS(MH_ESTATE, "new/itself/. exists already", mh_new_folder_begin(&first, "new/itself/."));
    assert_int_equal(symlink("nowhere", "new/link"), 0);
    FAILS(MH_ESTATE, "new/link exists already", mh_new_folder_begin(&first, "new/link"));

    /* One that appears while another is being filled stays, even if it is empty. */
    OK(mh_new_folder_begin(&first, "new/late"));
    OK(mh_make_dirs("new/late"));
    FAILS(MH_ESTATE, "new/late has appeared meanwhile", mh_new_folder_commit(&first));
    assert_true(mh_path_is_dir("new/late"));
    assert_false(mh_path_exists("new/late.mhmoe-tmp"));
    assert_false(mh_path_exists("new/late.mhmoe-lock"));

    /* A lock is not written through a link to something else. */
    write_text("new/precious", "x");
    assert_int_equal(symlink("precious", "new/linked.mhmoe-lock"), 0);
    FAILS(MH_EIO, "new/linked.mhmoe-lock", mh_new_folder_begin(&first, "new/linked"));
    expect_file("new/precious", "x");

    /* What a killed process left is no hindrance; an abort leaves nothing but the sentence. */
    OK(mh_make_dirs("new/again.mhmoe-tmp/rest"));
    write_text("new/again.mhmoe-lock", "1 on elsewhere");
    OK(mh_new_folder_begin(&first, "new/again"));
    assert_false(mh_path_exists("new/again.mhmoe-tmp/rest"));
    mh_fail(MH_EVALUE, "the reason");
    mh_new_folder_abort(&first);
    assert_string_equal(mh_message(), "the reason");
    assert_false(mh_path_exists("new/again.mhmoe-tmp"));
    assert_false(mh_path_exists("new/again.mhmoe-lock"));
}

static void locks_exclude_other_processes(void **state)
{
    (void)state;
    mh_lock lock, second;
    int ready[2], done[2];
    char byte;
    assert_true(pipe(ready) == 0 && pipe(done) == 0);
    pid_t child = fork();
    if (child == 0) {
        mh_status status = mh_lock_take(&lock, "lock");
        close(done[1]);
        bool told = status == MH_OK && write(ready[1], "x", 1) == 1;
        _exit(told && read(done[0], &byte, 1) == 0 ? 0 : 1); /* dies without releasing */
    }
    assert_int_equal(read(ready[0], &byte, 1), 1);
    char holder[64];
    snprintf(holder, sizeof holder, "lock is held by process %ld on ", (long)child);
    FAILS(MH_ESTATE, holder, mh_lock_take(&lock, "lock"));
    mh_lock_release(&lock);
    close(done[1]);
    int status;
    waitpid(child, &status, 0);
    assert_int_equal(status, 0);
    OK(mh_lock_take(&lock, "lock"));
    FAILS(MH_ESTATE, "held by process", mh_lock_take(&second, "lock"));
    mh_lock_release(&lock);
    mh_lock_release(&lock);
    OK(mh_lock_take(&lock, "lock"));
    mh_lock_release(&lock);
    FAILS(MH_EIO, "absent/lock", mh_lock_take(&lock, "absent/lock"));
    mh_lock never = {0};
    mh_lock_release(&never);
    assert_int_not_equal(lseek(0, 0, SEEK_CUR) == -1 ? errno : 0, EBADF);
    close(ready[0]), close(ready[1]), close(done[0]);
}

static void machine(void **state)
{
    (void)state;
    char text[17];
    mh_hash_text(mh_hash("", 0), text);
    assert_string_equal(text, "2d06800538d394c2"); /* as published for XXH3 */
    mh_hash_text(0xab, text);
    assert_string_equal(text, "00000000000000ab");
    assert_true(mh_memory_available() > 1 << 20);
    assert_true(mh_disk_available("no/such/folder") > 0); /* of the nearest folder that is there */
    assert_true(mh_disk_available("/no/such/folder") > 0);
    assert_true(mh_disk_available("/proc/no/such/folder") == SIZE_MAX); /* which has no size */
    size_t peak = mh_memory_peak(), more = 64 << 20;
    assert_true(peak > 1 << 19);
    void *pages = mmap(NULL, more, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    assert_true(pages != MAP_FAILED && munmap(pages, more) == 0);
    assert_true(mh_memory_peak() > more);
    if (access("/proc/self/clear_refs", W_OK) == 0) {
        size_t before = mh_memory_peak();
        mh_memory_restart_peak();
        assert_true(mh_memory_peak() < before - more / 2);
    }
    double t = mh_seconds();
    assert_true(mh_seconds() >= t);
}

/* ---- statistics ---------------------------------------------------------------------------------------- */

static void students_t_agrees_with_the_tables(void **state)
{
    (void)state;
    const struct {
        int freedom;
        double confidence, t;
    } table[] = {{1, 0.95, 12.7062}, {2, 0.95, 4.3027},  {3, 0.95, 3.1824},   {4, 0.95, 2.7764},
                 {9, 0.95, 2.2622},  {30, 0.95, 2.0423}, {999, 0.95, 1.9623}, {1, 0.99, 63.6567},
                 {4, 0.99, 4.6041},  {5, 0.99, 4.0321},  {10, 0.5, 0.6998}};
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        double t = mh_student(table[i].freedom, table[i].confidence);
        if (fabs(t - table[i].t) > 5.1e-5) /* four decimals */
            fail_msg("t of %d, %g: %.6f, the table has %.4f", table[i].freedom, table[i].confidence, t,
                     table[i].t);
    }
}

static void means_and_their_errors(void **state)
{
    (void)state;
    const double value[] = {2, 4, 4, 4, 5, 5, 7, 9}; /* sum of squares about the mean: 32 */
    mh_mean mean = {0}, even = {0};
    assert_true(isnan(mh_mean_value(&mean)) && isnan(mh_mean_error(&mean)));
    for (int i = 0; i < 8; i++) {
        mh_mean_add(&mean, value[i]);
        mh_mean_add(&even, 0.1);
        assert_true(i > 0 ? mh_mean_error(&even) < 1e-16 : isnan(mh_mean_error(&even)));
    }
    assert_true(mh_mean_value(&mean) == 5);
    assert_true(fabs(mh_mean_error(&mean) - sqrt(32.0 / 7 / 8)) < 1e-15); /* rounding */
}

/* ---- JSON ---------------------------------------------------------------------------------------------- */

static void json(void **state)
{
    (void)state;
    json_t *value, *back;
    static const char text[] = "{\"b\": [1, 0.1, 1e-5, true], \"a\": \"\\u00e9\"}";
    static const char nul[] = "\"a\\u0000b\"";
    FAILS(MH_EFORMAT, "\\u0000 is not allowed in a string",
          mh_json_parse(&value, nul, sizeof nul - 1, "text"));
    OK(mh_json_parse(&value, text, sizeof text - 1, "text"));
    OK(mh_json_write("v.json", value));
    expect_file("v.json",
                "{\n  \"b\": [\n    1,\n    0.1,\n    1e-5,\n    true\n  ],\n  \"a\": \"\xc3\xa9\"\n}\n");
    OK(mh_json_read(&back, "v.json"));
    assert_true(json_equal(value, back));
    json_decref(value);
    json_decref(back);

    mh_text out = {0};
    value = json_real(1. / 3);
    OK(mh_json_dump(value, true, &out));
    OK(mh_json_parse(&back, out.data, out.length, "text"));
    assert_true(json_real_value(back) == 1. / 3);
    json_decref(value);
    json_decref(back);
    mh_text_release(&out);

    FAILS(MH_EFORMAT, "c.json is not valid JSON: line 2", mh_json_parse(&value, "{\n]", 3, "c.json"));
    assert_null(value);
    FAILS(MH_EFORMAT, "duplicate", mh_json_parse(&value, "{\"a\":1,\"a\":2}", 13, "c.json"));
    FAILS(MH_EFORMAT, "not valid JSON", mh_json_parse(&value, "", 0, "c.json"));
    FAILS(MH_EIO, "absent.json", mh_json_read(&value, "absent.json"));
    static char deep[100000];
    memset(deep, '[', sizeof deep);
    FAILS(MH_EFORMAT, "nested more than 2048 deep", mh_json_parse(&value, deep, sizeof deep, "deep.json"));
}

/* ---- YAML ---------------------------------------------------------------------------------------------- */

static mh_status collect(void *context, const char *key, const char *value, int line)
{
    return strcmp(value, "stop") == 0 ? mh_fail(MH_EVALUE, "stopped at %s", key)
                                      : mh_text_printf(context, "%d %s=%s;", line, key, value);
}

static mh_status read_yaml(const char *yaml, mh_text *out)
{
    return mh_yaml_read("r.yaml", yaml, strlen(yaml), collect, out);
}

static void yaml_is_flattened(void **state)
{
    (void)state;
    mh_text out = {0};
    OK(read_yaml("# a recipe\nmodel:\n  dim: 64   # wide\n  moe: {experts: 8, names: [a, 'b c']}\n"
                 "data: \"\\u00e9: \"\nempty: ''\nlist:\n- 1\n- 2\n",
                 &out));
    assert_string_equal(out.data, "3 model.dim=64;4 model.moe.experts=8;4 model.moe.names=a, b c;"
                                  "5 data=\xc3\xa9: ;6 empty=;8 list=1, 2;");
    out.length = 0;
    OK(read_yaml("", &out));
    OK(read_yaml("# nothing\n", &out));
    assert_int_equal(out.length, 0);
    mh_text_release(&out);
}

static void yaml_refusals_name_the_line(void **state)
{
    (void)state;
    mh_text out = {0};
    FAILS(MH_EVALUE, "stopped at b", read_yaml("a: 1\nb: stop\nc: 2\n", &out));
    assert_string_equal(out.data, "1 a=1;");
    FAILS(MH_EFORMAT, "r.yaml:2: \"a\" stands here again, after line 1", read_yaml("a: 1\na: 2\n", &out));
    FAILS(MH_EFORMAT, "r.yaml:3: \"m\" stands here again", read_yaml("m:\n  a: 1\nm:\n  b: 2\n", &out));
    FAILS(MH_EFORMAT, "r.yaml:3: \"m.a\" stands here again", read_yaml("m:\n  a: 1\nm.a: 2\n", &out));
    FAILS(MH_EFORMAT, "r.yaml:2: a value is missing", read_yaml("a: 1\nb:\n", &out));
    FAILS(MH_EFORMAT, "r.yaml:1: a value is missing", read_yaml("a: ~\n", &out));
    FAILS(MH_EFORMAT, "r.yaml:1: a value is missing", read_yaml("a: [1, null]\n", &out));
    FAILS(MH_EFORMAT, "r.yaml:2: aliases", read_yaml("a: 1\nb: &x 2\n", &out));
    FAILS(MH_EFORMAT, "r.yaml:1: aliases", read_yaml("a: *x\n", &out));
    FAILS(MH_EFORMAT, "r.yaml:1: aliases", read_yaml("a: !!int 3\n", &out));
    FAILS(MH_EFORMAT, "r.yaml:1: aliases", read_yaml("a: &m {b: 3}\n", &out));
    FAILS(MH_EFORMAT, "r.yaml:1: aliases", read_yaml("a: !t [3]\n", &out));
    FAILS(MH_EFORMAT, "r.yaml:2: a second document", read_yaml("a: 1\n---\nb: 2\n", &out));
    FAILS(MH_EFORMAT, "r.yaml:1: lines of \"key: value\"", read_yaml("just words\n", &out));
    FAILS(MH_EFORMAT, "r.yaml:1: lines of \"key: value\"", read_yaml("- 1\n", &out));
    FAILS(MH_EFORMAT, "r.yaml:1: a single value", read_yaml("a: [[1]]\n", &out));
    FAILS(MH_EFORMAT, "r.yaml:1: a single value", read_yaml("? [a]\n: 1\n", &out));
    FAILS(MH_EFORMAT, "r.yaml:1: a value must not contain", read_yaml("a: \"x\\0y\"\n", &out));
    FAILS(MH_EFORMAT, "r.yaml:2: not valid YAML", read_yaml("a: 1\n\tb: 2\n", &out));
    FAILS(MH_EFORMAT, "r.yaml:3: not valid YAML", read_yaml("a: 1\nb: 2\nc: \xff\n", &out));
    static char large[1 << 20];
    memset(large, '[', sizeof large - 1);
    assert_int_equal(read_yaml(large, &out), MH_EFORMAT);
    mh_text_release(&out);
}

/* ---- options ------------------------------------------------------------------------------------------- */

typedef struct {
    int on, norm;
    int64_t top_k, seed;
    double rate;
} model;

typedef struct {
    char before[8];
    model model;
    struct {
        char run[MH_OPTION_TEXT];
        int64_t steps;
    } train;
} config;

static const mh_option model_rows[] = {
    {"on", "true", "whether", MH_OPTION_BOOL, offsetof(model, on), 0, 0, NULL, 0},
    {"top_k", "2", "choices of each row", MH_OPTION_INT, offsetof(model, top_k), 1, 64, NULL, 0},
    {"seed", "0", "random numbers", MH_OPTION_INT, offsetof(model, seed), 0, 9e18, NULL, 0},
    {"rate", "0.1", "learning rate", MH_OPTION_FLOAT, offsetof(model, rate), 0, 1, NULL, 0},
    {"norm", "layernorm", "kind", MH_OPTION_CHOICE, offsetof(model, norm), 0, 0, "rmsnorm|layernorm", 0},
};
static const mh_option train_rows[] = {
    {"run", "", "the run folder", MH_OPTION_STRING, 0, 0, 0, NULL, MH_OPTION_RESUME},
    {"steps", "100", "of training", MH_OPTION_INT, MH_OPTION_TEXT, 1, 1e9, NULL, MH_OPTION_RESUME},
};
static const mh_section sections[] = {
    {"model", "What it is.", model_rows, 5, offsetof(config, model)},
    {"train", "How it learns.", train_rows, 2, offsetof(config, train)},
};
static const mh_options options = {sections, 2};

static void options_are_set(void **state)
{
    (void)state;
    config c;
    mh_options_defaults(&options, &c);
    assert_true(c.model.on == 1 && c.model.norm == 1 && c.model.top_k == 2 && c.model.rate == 0.1);
    assert_true(c.train.run[0] == '\0' && c.train.steps == 100);
    OK(mh_options_assign(&options, &c, "model.on=off", "--set"));
    OK(mh_options_assign(&options, &c, "model.norm=rmsnorm", "--set"));
    OK(mh_options_assign(&options, &c, "model.rate=1e-3", "--set"));
    OK(mh_options_assign(&options, &c, "train.run=a=b, c", "--set"));
    OK(mh_options_set(&options, &c, "model.top_k", "64", "here"));
    assert_true(c.model.on == 0 && c.model.norm == 0 && c.model.top_k == 64 && c.model.rate == 1e-3);
    assert_string_equal(c.train.run, "a=b, c");
}

static void option_errors_name_the_remedy(void **state)
{
    (void)state;
    config c;
    mh_options_defaults(&options, &c);
    FAILS(MH_EVALUE, "r.yaml:3: unknown key \"model.topk\"; did you mean \"model.top_k\"?",
          mh_options_set(&options, &c, "model.topk", "1", "r.yaml:3"));
    FAILS(MH_EVALUE, "did you mean \"train.steps\"?", mh_options_set(&options, &c, "stesp", "1", "r"));
    FAILS(MH_EVALUE, "did you mean \"train.run\"?", mh_options_set(&options, &c, "model.run", "1", "r"));
    FAILS(MH_EVALUE, "r: model.top_k must be a whole number from 1 to 64, not \"many\"",
          mh_options_set(&options, &c, "model.top_k", "many", "r"));
    FAILS(MH_EVALUE, "not \"0\"", mh_options_set(&options, &c, "model.top_k", "0", "r"));
    FAILS(MH_EVALUE, "not \"65\"", mh_options_set(&options, &c, "model.top_k", "65", "r"));
    FAILS(MH_EVALUE, "a whole number of at least 0", mh_options_set(&options, &c, "model.seed", "-1", "r"));
    FAILS(MH_EVALUE, "a number from 0 to 1, not \"nan\"",
          mh_options_set(&options, &c, "model.rate", "nan", "r"));
    FAILS(MH_EVALUE, "one of rmsnorm, layernorm, not \"rms\"",
          mh_options_set(&options, &c, "model.norm", "rms", "r"));
    FAILS(MH_EVALUE, "true or false, not \"1\"", mh_options_set(&options, &c, "model.on", "1", "r"));
    FAILS(MH_EVALUE, "valid UTF-8", mh_options_set(&options, &c, "train.run", "\xff", "r"));
    FAILS(MH_EVALUE, "--set takes section.key=value", mh_options_assign(&options, &c, "model.on", "--set"));
    FAILS(MH_EVALUE, "--set: unknown key \"\"", mh_options_assign(&options, &c, "=3", "--set"));
    char text[MH_OPTION_TEXT + 1];
    memset(text, 'x', MH_OPTION_TEXT);
    text[MH_OPTION_TEXT] = '\0';
    FAILS(MH_EVALUE, "at most 1023 bytes", mh_options_set(&options, &c, "train.run", text, "r"));
    OK(mh_options_set(&options, &c, "train.run", text + 1, "r"));
    assert_int_equal(c.model.top_k, 2);

    write_text("r.yaml", "model:\n  top_k: 3\n  experts: 8\n");
    FAILS(MH_EVALUE, "r.yaml:3: unknown key \"model.experts\"", mh_options_read_yaml(&options, &c, "r.yaml"));
    FAILS(MH_EIO, "absent.yaml", mh_options_read_yaml(&options, &c, "absent.yaml"));
}

static void options_survive_yaml(void **state)
{
    (void)state;
    static const double rates[] = {0, 1, 0.1, 0.1 + 0.2, 1. / 3, 1e-5, 3e-4, 5e-324, 0x1.fffffffffffffp-1};
    static const char *const runs[] = {"",
                                       "~",
                                       "null",
                                       "a b",
                                       " a ",
                                       "#x",
                                       "a: b",
                                       "\"q\" 'r' \\",
                                       "-",
                                       "[x]",
                                       "&a",
                                       "%",
                                       "line\nbreak\ttab",
                                       "\x01\x7f",
                                       "\xc2\x85\xe2\x80\xa8\xef\xbb\xbf",
                                       "\xc3\xa9\xf0\x9f\x98\x80",
                                       "\xef\xbf\xbe"};
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        config was, now;
        memset(&was, 0, sizeof was);
        mh_options_defaults(&options, &was);
        was.model.rate = rates[i % (sizeof rates / sizeof *rates)];
        was.model.seed = INT64_MAX / 2 + (int64_t)i;
        was.model.on = (int)i % 2;
        OK(mh_options_set(&options, &was, "train.run", runs[i], "test"));
        mh_text out = {0};
        OK(mh_options_write_yaml(&options, &was, &out));
        assert_null(strstr(out.data, "\xe2\x80\xa8")); /* a line separator, which YAML readers may fold */
        assert_null(strstr(out.data, "\xef\xbb\xbf")); /* a byte order mark */
        write_text("out.yaml", out.data);
        memset(&now, 0, sizeof now);
        OK(mh_options_read_yaml(&options, &now, "out.yaml"));
        assert_memory_equal(&was, &now, sizeof was);
        mh_text_release(&out);
    }
}

static void options_read_well_as_yaml(void **state)
{
    (void)state;
    config c;
    mh_options_defaults(&options, &c);
    mh_text out = {0};
    OK(mh_options_write_yaml(&options, &c, &out));
    assert_string_equal(out.data, "# What it is.\nmodel:\n"
                                  "  # whether\n  on: true\n"
                                  "  # choices of each row\n  top_k: 2\n"
                                  "  # random numbers\n  seed: 0\n"
                                  "  # learning rate\n  rate: 0.1\n"
                                  "  # kind\n  norm: layernorm\n\n"
                                  "# How it learns.\ntrain:\n"
                                  "  # the run folder\n  run: \"\"\n"
                                  "  # of training\n  steps: 100\n");
    out.length = 0;
    OK(mh_options_markdown(&options, &out));
    assert_non_null(strstr(out.data,
                           "\n| `model.top_k` | `2` | a whole number from 1 to 64 | fixed | choices of "
                           "each row |\n"));
    assert_non_null(strstr(out.data, "| `train.run` |  | "));
    assert_non_null(strstr(out.data, "| may change | of training |"));
    out.length = 0;
    OK(mh_options_help(&options, &out));
    assert_non_null(strstr(out.data, "train: How it learns.\n"));
    assert_non_null(
        strstr(out.data, "  model.norm=layernorm               kind; one of rmsnorm, layernorm\n"));
    mh_text_release(&out);
}

static mh_status section_from(const char *text, config *c)
{
    json_t *value;
    MH_TRY(mh_json_parse(&value, text, strlen(text), "c.json"));
    mh_status status = mh_section_from_json(&sections[0], c, value, "c.json");
    json_decref(value);
    return status;
}

static void options_survive_json(void **state)
{
    (void)state;
    config was, now;
    memset(&was, 0, sizeof was);
    mh_options_defaults(&options, &was);
    now = was;
    was.model = (model){.on = 0, .norm = 0, .top_k = 7, .seed = INT64_MAX / 3, .rate = 1. / 3};
    json_t *value = mh_section_to_json(&sections[0], &was);
    OK(mh_section_from_json(&sections[0], &now, value, "c.json"));
    assert_memory_equal(&was, &now, sizeof was);
    json_decref(value);
    strcpy(was.train.run, "a\nb");
    value = mh_section_to_json(&sections[1], &was);
    OK(mh_section_from_json(&sections[1], &now, value, "c.json"));
    assert_memory_equal(&was, &now, sizeof was);
    json_decref(value);

    OK(section_from("{\"rate\": 1, \"top_k\": 9}", &now));
    assert_true(now.model.rate == 1 && now.model.top_k == 9 && now.model.seed == was.model.seed);
    FAILS(MH_EVALUE, "c.json: unknown key \"model.topk\"; did you mean \"model.top_k\"?",
          section_from("{\"topk\": 9}", &now));
    FAILS(MH_EVALUE, "model.top_k must be a whole number", section_from("{\"top_k\": \"9\"}", &now));
    FAILS(MH_EVALUE, "not \"9.5\"", section_from("{\"top_k\": 9.5}", &now));
    FAILS(MH_EVALUE, "not \"[1]\"", section_from("{\"rate\": [1]}", &now));
    FAILS(MH_EVALUE, "not \"null\"", section_from("{\"norm\": null}", &now));
    FAILS(MH_EVALUE, "true or false", section_from("{\"on\": 1}", &now));
    FAILS(MH_EFORMAT, "an object with the settings of \"model\"", section_from("[]", &now));
    assert_int_equal(now.model.top_k, 9);
}

static void resuming_finds_conflicts(void **state)
{
    (void)state;
    config was, now;
    char key[128];
    memset(&was, 0, sizeof was);
    mh_options_defaults(&options, &was);
    now = was;
    now.train.steps = 5;
    strcpy(now.train.run, "elsewhere");
    assert_false(mh_options_conflict(&options, &was, &now, key));
    now.model.norm = 0;
    assert_true(mh_options_conflict(&options, &was, &now, key));
    assert_string_equal(key, "model.norm");
    now.model.rate = 0.2;
    assert_true(mh_options_conflict(&options, &was, &now, key));
    assert_string_equal(key, "model.rate");
}

/* ---- safetensors --------------------------------------------------------------------------------------- */

static const float weight[6] = {1, 2, 3, 4, 5, 6};
static const uint16_t half[3] = {0x3f80, 0x4000, 0x4040};
static const int32_t ids[2] = {-1, 7};

static void write_sample(const char *path)
{
    const mh_tensor list[] = {
        {"half", MH_BF16, 1, {3}, half},    {"weight", MH_F32, 2, {2, 3}, weight},
        {"empty", MH_F32, 2, {0, 9}, NULL}, {"ids", MH_I32, 1, {2}, ids},
        {"scalar", MH_F32, 0, {0}, weight},
    };
    json_t *meta = json_pack("{s:s}", "kind", "test");
    OK(mh_tensors_write(path, list, 5, meta));
    assert_int_equal(json_object_size(meta), 1);
    json_decref(meta);
}

static void tensors_come_back(void **state)
{
    (void)state;
    mh_tensors *t;
    write_sample("t.safetensors");
    assert_false(mh_path_exists("t.safetensors.mhmoe-tmp"));
    OK(mh_tensors_open(&t, "t.safetensors"));
    assert_int_equal(mh_tensors_count(t), 5);
    assert_string_equal(mh_tensors_meta(t, "kind"), "test");
    assert_null(mh_tensors_meta(t, "other"));
    assert_null(mh_tensors_find(t, "other"));
    const mh_tensor *w = mh_tensors_find(t, "weight");
    assert_true(w->type == MH_F32 && w->rank == 2 && w->shape[0] == 2 && w->shape[1] == 3);
    assert_ptr_equal(mh_tensors_at(t, 0), w);
    assert_int_equal((uintptr_t)w->data % MH_ALIGN, 0);
    assert_memory_equal(w->data, weight, sizeof weight);
    assert_memory_equal(mh_tensors_find(t, "half")->data, half, sizeof half);
    assert_memory_equal(mh_tensors_find(t, "ids")->data, ids, sizeof ids);
    assert_int_equal(mh_tensor_elements(mh_tensors_find(t, "empty")), 0);
    assert_int_equal(mh_tensor_elements(mh_tensors_find(t, "scalar")), 1);
    mh_tensors_close(t);
    mh_tensors_close(NULL);

    OK(mh_tensors_write("none.safetensors", NULL, 0, NULL));
    OK(mh_tensors_open(&t, "none.safetensors"));
    assert_int_equal(mh_tensors_count(t), 0);
    mh_tensors_close(t);

    const mh_tensor twice[] = {{"a", MH_I32, 1, {2}, ids}, {"a", MH_I32, 1, {2}, ids}};
    FAILS(MH_EVALUE, "two tensors are called \"a\"", mh_tensors_write("twice.safetensors", twice, 2, NULL));
    const mh_tensor odd = {"\xff", MH_I32, 1, {2}, ids};
    FAILS(MH_EVALUE, "no name for a tensor", mh_tensors_write("twice.safetensors", &odd, 1, NULL));
    assert_false(mh_path_exists("twice.safetensors"));
    FAILS(MH_EIO, "check the path", mh_tensors_write("absent/t.safetensors", &odd, 0, NULL));
    FAILS(MH_EIO, "absent.safetensors", mh_tensors_open(&t, "absent.safetensors"));
}

/* Reads every byte, for the address sanitizer to see. */
static void touch(const mh_tensor *tensor)
{
    size_t bytes = (size_t)mh_tensor_elements(tensor) * mh_type_size(tensor->type);
    for (size_t i = 0; i < bytes; i++)
        (void)((const volatile unsigned char *)tensor->data)[i];
}

/* Every length short of the whole and every single bit: refused in the data, never a crash in the header.
 * A changed header may still be a valid one of other names or shapes; what it describes must be readable. */
static void damaged_files_are_refused(void **state)
{
    (void)state;
    mh_text file;
    mh_tensors *t;
    write_sample("t.safetensors");
    OK(mh_file_read("t.safetensors", 1 << 20, &file));
    uint64_t header;
    memcpy(&header, file.data, sizeof header);
    for (size_t length = 0; length < file.length; length++) {
        write_raw("bad.safetensors", file.data, length);
        FAILS(MH_EFORMAT,
              length < 8            ? "has only"
              : length < 8 + header ? "is truncated"
                                    : "or not with its size",
              mh_tensors_open(&t, "bad.safetensors"));
        assert_null(t);
    }
    for (size_t bit = 0; bit < 8 * file.length; bit++) {
        file.data[bit / 8] ^= (char)(1 << bit % 8);
        write_raw("bad.safetensors", file.data, file.length);
        mh_status status = mh_tensors_open(&t, "bad.safetensors");
        if (bit / 8 >= 8 + header && (status != MH_EFORMAT || strstr(mh_message(), "is damaged") == NULL))
            fail_msg("bit %zu of the data flipped: status %d, \"%s\"", bit, status, mh_message());
        for (int i = 0; status == MH_OK && i < mh_tensors_count(t); i++)
            touch(mh_tensors_at(t, i));
        mh_tensors_close(t);
        file.data[bit / 8] ^= (char)(1 << bit % 8);
    }
    mh_text_release(&file);
}

/* A file with this header, `pad` bytes of spaces and `size` bytes of data 0, 1, 2, ... */
static mh_status open_with(mh_tensors **t, const char *header, size_t pad, size_t size)
{
    mh_text file = {0};
    uint64_t length = strlen(header) + pad;
    OK(mh_text_add(&file, &length, sizeof length));
    OK(mh_text_printf(&file, "%s%*s", header, (int)pad, ""));
    for (size_t i = 0; i < size; i++)
        OK(mh_text_add(&file, &(unsigned char){(unsigned char)i}, 1));
    write_raw("h.safetensors", file.data, file.length);
    mh_text_release(&file);
    return mh_tensors_open(t, "h.safetensors");
}

#define ENTRY(type, shape, from, to) \
    "{\"dtype\":\"" type "\",\"shape\":" shape ",\"data_offsets\":[" #from "," #to "]}"

static void hostile_headers_are_refused(void **state)
{
    (void)state;
    mh_tensors *t;
    static const struct {
        const char *header, *why;
    } bad[] = {
        {"[]", "no JSON object"},
        {"{", "not valid JSON"},
        {"{\"a\":1,\"a\":1}", "duplicate"},
        {"{\"a\":1}", "\"a\" has type \"\""},
        {"{\"a\":" ENTRY("I64", "[1]", 0, 8) "}", "has type \"I64\"; F32, BF16 and I32"},
        {"{\"a\":" ENTRY("F32", "[1,1,1,1,2]", 0, 8) "}", "no valid shape"},
        {"{\"a\":" ENTRY("F32", "[-2]", 0, 8) "}", "no valid shape"},
        {"{\"a\":" ENTRY("F32", "[2.0]", 0, 8) "}", "no valid shape"},
        {"{\"a\":" ENTRY("F32", "2", 0, 8) "}", "no valid shape"},
        {"{\"a\":" ENTRY("F32", "[4294967296,4294967296,2]", 0, 8) "}", "no valid shape"},
        {"{\"a\":" ENTRY("F32", "[4611686018427387906]", 0, 8) "}", "no valid shape"},
        {"{\"a\":" ENTRY("F32", "[2]", 0, 4) "}", "does not lie within"},
        {"{\"a\":" ENTRY("F32", "[3]", 0, 12) "}", "does not lie within"},
        {"{\"a\":" ENTRY("F32", "[2]", 8, 0) "}", "does not lie within"},
        {"{\"a\":" ENTRY("F32", "[2]", -8, 0) "}", "does not lie within"},
        {"{\"a\":" ENTRY("F32", "[2]", 0.0, 8) "}", "does not lie within"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2]}}", "does not lie within"},
        {"{\"a\":" ENTRY("F32", "[1]", 0, 4) "}", "4 bytes after the last tensor"},
        {"{\"a\":" ENTRY("F32", "[1]", 4, 8) "}", "leaves a gap or overlaps"},
        {"{\"a\":" ENTRY("F32", "[2]", 0, 8) ",\"b\":" ENTRY("F32", "[1]", 4, 8) "}",
         "leaves a gap or overlaps"},
        {"{\"__metadata__\":[],\"a\":" ENTRY("F32", "[2]", 0, 8) "}", "the metadata is no object"},
        {"{\"__metadata__\":{\"x\":1},\"a\":" ENTRY("F32", "[2]", 0, 8) "}",
         "the metadata \"x\" is no string"},
        {"{\"__metadata__\":{\"xxh3\":\"\"},\"a\":" ENTRY("F32", "[2]", 0, 8) "}", "is damaged: its data"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        mh_status status = open_with(&t, bad[i].header, 0, 8);
        if (status != MH_EFORMAT || strstr(mh_message(), bad[i].why) == NULL)
            fail_msg("%s: status %d, \"%s\", expected \"%s\"", bad[i].header, status, mh_message(),
                     bad[i].why);
    }
    write_raw("h.safetensors", "\377\377\377\377\377\377\377\377{}", 10);
    FAILS(MH_EFORMAT, "truncated", mh_tensors_open(&t, "h.safetensors"));
}

/* Other programs' files: without checksum, in any order, at odd places. */
static void foreign_files_are_read(void **state)
{
    (void)state;
    mh_tensors *t;
    static const char header[] = "{\"b\":" ENTRY("F32", "[1]", 2, 6) ",\"a\":" ENTRY(
        "BF16", "[1]", 0, 2) ",\"z\":" ENTRY("I32", "[0]", 2, 2) "}";
    for (size_t pad = 0; pad < 8; pad++) {
        OK(open_with(&t, header, pad, 6));
        assert_string_equal(mh_tensors_at(t, 0)->name, "a");
        assert_string_equal(mh_tensors_at(t, 1)->name, "z");
        const mh_tensor *b = mh_tensors_at(t, 2), *a = mh_tensors_at(t, 0);
        assert_int_equal((uintptr_t)b->data % 4, 0);
        assert_int_equal((uintptr_t)a->data % 2, 0);
        assert_memory_equal(b->data, "\2\3\4\5", 4);
        assert_memory_equal(a->data, "\0\1", 2);
        mh_tensors_close(t);
    }
}

static void reference_vectors_are_read(void **state)
{
    (void)state;
    mh_tensors *t;
    OK(mh_tensors_open(&t, TEST_GOLDEN "/model_dense.safetensors"));
    assert_string_equal(mh_tensors_meta(t, "kind"), "decoder_lm");
    const mh_tensor *tokens = mh_tensors_find(t, "tokens");
    assert_true(tokens != NULL && tokens->type == MH_I32 && tokens->rank == 2);
    mh_tensors_close(t);
}

/* ---- progress ------------------------------------------------------------------------------------------ */

static void note_progress(void *context, const char *what, double done, double total, const char *note)
{
    snprintf(context, 64, "%s %g/%g %s", what, done, total, note);
}

static void progress(void **state)
{
    (void)state;
    char text[64] = "";
    volatile int stop = 0;
    mh_progress silent = {0}, p = {note_progress, text, &stop};
    mh_progress_report(NULL, "a", 1, 2, "b");
    mh_progress_report(&silent, "a", 1, 2, "b");
    mh_progress_report(&p, "encoding", 1, 2, "fast");
    assert_string_equal(text, "encoding 1/2 fast");
    assert_false(mh_progress_stopped(NULL));
    assert_false(mh_progress_stopped(&silent));
    assert_false(mh_progress_stopped(&p));
    stop = 1;
    assert_true(mh_progress_stopped(&p));
}

static void json_seals(void **state)
{
    (void)state;
    json_t *json = json_pack("{s:i, s:f, s:{s:s}}", "a", 1, "b", 1e-5, "c", "d", "e");
    OK(mh_json_seal(json, "x.json"));
    OK(mh_json_write("x.json", json));
    json_decref(json);

    OK(mh_json_read(&json, "x.json")); /* the hash survives the way through a file */
    OK(mh_json_check_seal(json, "x.json"));
    assert_null(json_object_get(json, "xxh3"));
    OK(mh_json_check_seal(json, "x.json"));
    json_decref(json);

    OK(mh_json_read(&json, "x.json"));
    json_object_set_new(json, "b", json_real(2e-5));
    FAILS(MH_EFORMAT, "x.json: its checksum is wrong", mh_json_check_seal(json, "x.json"));
    json_decref(json);
}

static void json_versions(void **state)
{
    (void)state;
    static const struct {
        const char *text, *sentence;
    } cases[] = {
        {"{\"format_version\": 2}", NULL},
        {"{\"format_version\": 1}", NULL},
        {"{\"format_version\": 3}",
         "x.json: format version 3, this program reads up to 2; use a newer mhmoe"},
        {"{\"format_version\": 0}", "x.json: no \"format_version\""},
        {"{\"format_version\": \"1\"}", "no \"format_version\""},
        {"{\"version\": 1}", "no \"format_version\""},
        {"[1]", "no \"format_version\""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *json;
        OK(mh_json_parse(&json, cases[i].text, strlen(cases[i].text), "x.json"));
        if (cases[i].sentence)
            FAILS(MH_EFORMAT, cases[i].sentence, mh_json_check_version(json, 2, "x.json"));
        else
            OK(mh_json_check_version(json, 2, "x.json"));
        json_decref(json);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(failures_are_sentences),
        cmocka_unit_test(arena_measures_what_it_carves),
        cmocka_unit_test(types_have_names),
        cmocka_unit_test(philox_is_the_published_one),
        cmocka_unit_test(streams_differ),
        cmocka_unit_test(moments_are_right),
        cmocka_unit_test(permutations_are_bijections),
        cmocka_unit_test(text_grows),
        cmocka_unit_test(distances),
        cmocka_unit_test(numbers),
        cmocka_unit_test(paths),
        cmocka_unit_test(whole_files),
        cmocka_unit_test(failed_writes_leave_the_old_file),
        cmocka_unit_test(folders_appear_whole),
        cmocka_unit_test(new_folders_replace_nothing),
        cmocka_unit_test(locks_exclude_other_processes),
        cmocka_unit_test(machine),
        cmocka_unit_test(students_t_agrees_with_the_tables),
        cmocka_unit_test(means_and_their_errors),
        cmocka_unit_test(json),
        cmocka_unit_test(json_seals),
        cmocka_unit_test(json_versions),
        cmocka_unit_test(yaml_is_flattened),
        cmocka_unit_test(yaml_refusals_name_the_line),
        cmocka_unit_test(options_are_set),
        cmocka_unit_test(option_errors_name_the_remedy),
        cmocka_unit_test(options_survive_yaml),
        cmocka_unit_test(options_read_well_as_yaml),
        cmocka_unit_test(options_survive_json),
        cmocka_unit_test(resuming_finds_conflicts),
        cmocka_unit_test(tensors_come_back),
        cmocka_unit_test(damaged_files_are_refused),
        cmocka_unit_test(hostile_headers_are_refused),
        cmocka_unit_test(foreign_files_are_read),
        cmocka_unit_test(reference_vectors_are_read),
        cmocka_unit_test(progress),
    };
    return cmocka_run_group_tests(tests, enter_folder, leave_folder);
}
