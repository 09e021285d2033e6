/* data: text, tokenizers, corpora, shards, built folders and batches. */
#include "data/data.h"
#include "test.h"

#include <archive.h>
#include <archive_entry.h>
#include <omp.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SEED = 20 };

/* Tests work in a folder of their own, which is the current one and is removed at the end. */
static char folder[] = "/tmp/mhmoe-data-XXXXXX";

/* Trained once on "words.txt". */
static mh_tokenizer *words;
enum { VOCAB = 400 };

static double uniform(uint64_t index)
{
    return mh_uniform(SEED, mh_stream(MH_RANDOM_TEST, 0, 0), index);
}

static void put(const char *path, const char *text)
{
    OK(mh_file_write(path, text, strlen(text)));
}

/* `bytes` of lines made of a few hundred made-up words, different for each `number`. */
static void add_prose(mh_text *text, uint64_t number, size_t bytes)
{
    static const char *const part[] = {"ka",  "lo",  "mi", "ne", "ru",  "sta",
                                       "the", "ing", "on", "es", "qua", "der"};
    size_t end = text->length + bytes;
    for (uint64_t i = number << 32; text->length < end; i++) {
        uint64_t word = (uint64_t)(uniform(i) * uniform(~i) * 300);
        for (uint64_t w = word + 1; w > 0; w /= 12)
            OK(mh_text_printf(text, "%s", part[w % 12]));
        OK(mh_text_printf(text, "%s", i % 11 == 10 ? ".\n" : i % 7 == 6 ? ", " : " "));
    }
    text->length = end;
    text->data[end - 1] = '\n';
    text->data[end] = '\0';
}

static void put_prose(const char *path, uint64_t number, size_t bytes)
{
    mh_text text = {0};
    add_prose(&text, number, bytes);
    OK(mh_file_write(path, text.data, text.length));
    mh_text_release(&text);
}

static mh_status train_words(const char *input, int vocab, size_t sample, uint64_t seed, const char *path)
{
    mh_tokenizer_training training = {&input, 1, vocab, sample, seed};
    return mh_tokenizer_train(&training, path, NULL, NULL);
}

static int enter_folder(void **state)
{
    (void)state;
    if (mkdtemp(folder) == NULL || chdir(folder) != 0)
        return 1;
    put_prose("words.txt", 1, 100000);
    OK(train_words("words.txt", VOCAB, 1 << 20, 1, "words.model"));
    OK(mh_tokenizer_load(&words, "words.model"));
    return 0;
}

static int leave_folder(void **state)
{
    (void)state;
    mh_tokenizer_free(words);
    return chdir("/") != 0 || mh_remove_tree(folder) != MH_OK;
}

/* The path of real data; ends the test where there is none. */
static const char *real(const char *name)
{
    static char path[MH_PATH];
    const char *data = getenv("MHMOE_DATA");
    if (data == NULL) {
        print_message("MHMOE_DATA is not set\n");
        skip();
    }
    OK(mh_path_join(path, data, name));
    return path;
}

/* ---- UTF-8 --------------------------------------------------------------------------------------------- */

static void test_clean(void **state)
{
    (void)state;
#define BAD "\xef\xbf\xbd"
    static const struct {
        const char *raw, *clean;
        size_t length;
        int64_t invalid;
    } cases[] = {
        {"", "", 0, 0},
        {"caf\xc3\xa9 \xf0\x9f\xa6\x99" BAD, "caf\xc3\xa9 \xf0\x9f\xa6\x99" BAD, 13, 0},
        {"caf\xe9 ol\xe9", "caf" BAD " ol" BAD, 8, 2}, /* Latin-1 */
        {"a\0b", "a" BAD "b", 3, 1},
        {"\xc0\xaf\xc1\xbf", BAD BAD BAD BAD, 4, 4},        /* overlong */
        {"\xe0\x80\xaf", BAD BAD BAD, 3, 3},                /* overlong */
        {"\xed\xa0\x80", BAD BAD BAD, 3, 3},                /* surrogate */
        {"\xf4\x90\x80\x80", BAD BAD BAD BAD, 4, 4},        /* over U+10FFFF */
        {"\xf1\x80\x80\xe1\x80\xc2", BAD BAD BAD, 6, 6},    /* maximal subparts of Unicode's table 3-8 */
        {"\xf0\x9f\xa6", BAD, 3, 3},                        /* cut short */
        {"\xe6\xbc\xa2\xe5\xad", "\xe6\xbc\xa2" BAD, 5, 2}, /* cut short */
        {"\xf4\x8f\xbf\xbf\xed\x9f\xbf\xee\x80\x80", "\xf4\x8f\xbf\xbf\xed\x9f\xbf\xee\x80\x80", 10, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        mh_text out = {0};
        int64_t invalid = 0;
        OK(mh_utf8_clean(cases[i].raw, cases[i].length, &out, &invalid));
        assert_string_equal(out.data, cases[i].clean);
        assert_int_equal(invalid, cases[i].invalid);
        mh_text_release(&out);
    }
}

static void test_cut(void **state)
{
    (void)state;
    const char *lines = "one two\nthree\n\n\nfour";
    assert_int_equal(mh_utf8_cut(lines, 20, 0), 8);
    assert_int_equal(mh_utf8_cut(lines, 20, 8), 8);
    assert_int_equal(mh_utf8_cut(lines, 20, 9), 16);
    assert_int_equal(mh_utf8_cut(lines, 20, 15), 16);
    assert_int_equal(mh_utf8_cut(lines, 20, 17), 20);
    assert_int_equal(mh_utf8_cut(lines, 20, 99), 20);

    enum { LONG = 3 * MH_CUT_REACH };
    char *text = malloc(LONG);
    memset(text, 'x', LONG);
    memcpy(text + 5000, "  ", 2);
    assert_int_equal(mh_utf8_cut(text, LONG, 100), 5000);
    assert_int_equal(mh_utf8_cut(text, LONG, 5001), 5001); /* within the run no cut is better than another */
    memcpy(text + 7000, "\xf0\x9f\xa6\x99", 4);
    for (size_t goal = 7001; goal < 7004; goal++)
        assert_int_equal(mh_utf8_cut(text, LONG, goal), 7004);
    text[7000 + MH_CUT_REACH - 1] = '\n';
    assert_int_equal(mh_utf8_cut(text, LONG, 7002), 7000 + MH_CUT_REACH);
    free(text);
}

/* ---- the tokenizer ------------------------------------------------------------------------------------- */

static void check_round_trip(const mh_tokenizer *t, const char *text, size_t length, const char *name)
{
    mh_ids ids = {0};
    mh_text back = {0};
    OK(mh_tokenizer_encode(t, text, length, &ids));
    OK(mh_tokenizer_decode(t, ids.id, ids.count, &back));
    if (back.length != length || memcmp(back.data, text, length) != 0)
        fail_msg("%s: %zu bytes came back as %zu, \"%.80s\" as \"%.80s\"", name, length, back.length, text,
                 back.data);
    for (int64_t i = 0; i < ids.count; i++)
        assert_in_range(ids.id[i], 3, mh_tokenizer_vocab(t) - 1); /* no control piece, no <unk> */
    mh_ids_release(&ids);
    mh_text_release(&back);
}

static const char *const hard_texts[] = {
    "",
    " ",
    "  ",
    "   a",
    "a   ",
    "\n",
    "\n\n\n",
    "\t",
    " \n \n",
    "\r\n",
    "\r",
    "a\tb\t\tc",
    "a  b   c    d",
    "\n a",
    "kalo mine ru\n  the staing\n",
    "1234567890 3.14",
    "\xef\xbf\xbd",
    "\xef\xbb\xbf bom",
    "caf\xc3\xa9 \xe6\xbc\xa2\xe5\xad\x97",
    "\xf0\x9f\xa6\x99\xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x9a\x80",
    "\x01\x02\x7f\x1b[0m",
    "\xc2\xa0 \xe3\x80\x80 \xe2\x80\xa8",
    "e\xcc\x81 \xc3\xa9" /* not normalised */,
    "\xef\xac\x81 \xef\xbc\xa1",
    "\xe2\x96\x81",
    " \xe2\x96\x81 \xe2\x96\x81\xe2\x96\x81z",
    "\xe2\x96\x85 \xe2\x96\x85",
    "<s> </s> <unk> <0x0A> <pad>",
    " \xe2\x81\x87 ",
    "\xf4\x8f\xbf\xbf",
};
enum { HARD_TEXTS = sizeof hard_texts / sizeof *hard_texts };

static void test_round_trip(void **state)
{
    (void)state;
    for (int i = 0; i < HARD_TEXTS; i++)
        check_round_trip(words, hard_texts[i], strlen(hard_texts[i]), hard_texts[i]);

    /* Random characters, biased towards what tokenizers treat apart. */
    for (uint64_t n = 0; n < 300; n++) {
        mh_text text = {0}, clean = {0};
        int64_t invalid = 0;
        for (uint64_t i = 0; i < 1 + n; i++) {
            uint64_t k = n << 32 | i;
            if (uniform(k) < 0.3) {
                OK(mh_text_add(&text, &" \n\tkalo"[(int)(uniform(~k) * 7)], 1));
            } else if (uniform(k) < 0.4) {
                OK(mh_text_add(&text, "\xe2\x96\x81", 3));
            } else {
                unsigned char byte = (unsigned char)(uniform(~k) * 256);
                OK(mh_text_add(&text, &byte, 1));
            }
        }
        OK(mh_utf8_clean(text.data, text.length, &clean, &invalid));
        char name[64];
        snprintf(name, sizeof name, "seed %d text %d", SEED, (int)n);
        check_round_trip(words, clean.data, clean.length, name);
        mh_text_release(&text);
        mh_text_release(&clean);
    }

    /* Longer than any segment, with and without places to cut at. */
    for (int space = 0; space < 2; space++) {
        enum { LONG = 300000 };
        char *text = malloc(LONG);
        for (int i = 0; i < LONG; i++)
            text[i] = space && i % 9 == 8 ? ' ' : (char)('a' + i % 7);
        check_round_trip(words, text, LONG, "a line of 300000");
        free(text);
    }
}

static void test_pieces(void **state)
{
    (void)state;
    assert_int_equal(mh_tokenizer_vocab(words), VOCAB);
    assert_int_equal(mh_tokenizer_bos(words), 1);
    assert_int_equal(mh_tokenizer_eos(words), 2);

    /* A newline is always the same one token, and nothing comes of control pieces. */
    mh_ids ids = {0};
    OK(mh_tokenizer_encode_part(words, "\n\n\n", 3, false, &ids));
    assert_int_equal(ids.count, 3);
    for (int i = 0; i < 3; i++)
        assert_int_equal(ids.id[i], 3 + '\n'); /* LLaMA's 13 */
    mh_text text = {0};
    const int32_t control[] = {1, 2, 3 + '\n', 2};
    OK(mh_tokenizer_decode(words, control, 4, &text));
    assert_string_equal(text.data, "\n");
    text.length = 0;
    OK(mh_tokenizer_piece(words, 3 + 0xe2, &text));
    assert_string_equal(text.data, "\xe2");
    FAILS(MH_EVALUE, "token 400", mh_tokenizer_piece(words, VOCAB, &text));
    FAILS(MH_EVALUE, "token -1", mh_tokenizer_decode(words, &(int32_t){-1}, 1, &text));

    /* Parts cut by mh_utf8_cut have the tokens of the whole. */
    mh_text prose = {0};
    add_prose(&prose, 7, 50000);
    for (int i = 0; i < HARD_TEXTS; i++)
        OK(mh_text_add(&prose, hard_texts[i], strlen(hard_texts[i])));
    mh_ids parts = {0};
    ids.count = 0;
    OK(mh_tokenizer_encode(words, prose.data, prose.length, &ids));
    for (size_t at = 0, n; at < prose.length; at += n) {
        n = mh_utf8_cut(prose.data + at, prose.length - at, 1 + (size_t)(uniform(at) * 900));
        OK(mh_tokenizer_encode_part(words, prose.data + at, n, at == 0, &parts));
    }
    assert_int_equal(parts.count, ids.count);
    assert_memory_equal(parts.id, ids.id, (size_t)ids.count * sizeof *ids.id);
    mh_ids_release(&ids);
    mh_ids_release(&parts);
    mh_text_release(&text);
    mh_text_release(&prose);
}

static void same_files(const char *a, const char *b, bool same)
{
    mh_text x = {0}, y = {0};
    OK(mh_file_read(a, 1 << 30, &x));
    OK(mh_file_read(b, 1 << 30, &y));
    assert_int_equal(x.length == y.length && memcmp(x.data, y.data, x.length) == 0, same);
    mh_text_release(&x);
    mh_text_release(&y);
}

/* Lines without a place to cut at, and words longer than the 16 bits in which SentencePiece counts. */
static void test_training_long_words(void **state)
{
    (void)state;
    static const char *const unit[] = {"abcdefg", "a", " ", "\xe6\xbc\xa2\xe5\xad\x97", "\xf0\x9f\xa6\x99"};
    for (size_t u = 0; u < sizeof unit / sizeof *unit; u++) {
        static const size_t lengths[] = {4097, 32800, 65530, 70000, 140000, 1000000};
        for (size_t l = 0; l < sizeof lengths / sizeof *lengths; l++) {
            mh_text text = {0};
            add_prose(&text, 11, 1999);
            size_t newlines = 0, prose = text.length;
            for (size_t i = 0; i < prose; i++)
                newlines += text.data[i] == '\n';
            while (text.length < prose + lengths[l])
                OK(mh_text_add(&text, unit[u], strlen(unit[u])));
            OK(mh_file_write("long.txt", text.data, text.length));
            mh_tokenizer_trained trained;
            mh_tokenizer_training training = {&(const char *){"long.txt"}, 1, 300, 1 << 22, 1};
            OK(mh_tokenizer_train(&training, "long.model", NULL, &trained));
            assert_int_equal(trained.sample_bytes, text.length - newlines); /* nothing was dropped */
            mh_tokenizer *t;
            OK(mh_tokenizer_load(&t, "long.model"));
            check_round_trip(t, text.data, text.length, "a long word");
            mh_tokenizer_free(t);
            mh_text_release(&text);
        }
    }
}

static void count_reports(void *context, const char *what, double done, double total, const char *note)
{
    (void)what, (void)done, (void)total, (void)note;
    ++*(int *)context;
}

static void test_training(void **state)
{
    (void)state;
    OK(train_words("words.txt", VOCAB, 20000, 1, "a.model"));
    OK(train_words("words.txt", VOCAB, 20000, 1, "b.model"));
    OK(train_words("words.txt", VOCAB, 20000, 2, "c.model"));
    same_files("a.model", "b.model", true);
    same_files("a.model", "c.model", false);

    const char *input = "words.txt";
    mh_tokenizer_training training = {&input, 1, VOCAB, 30000, 1};
    mh_tokenizer_trained trained;
    OK(mh_tokenizer_train(&training, "d.model", NULL, &trained));
    assert_int_equal(trained.documents, 1);
    assert_int_equal(trained.bytes, 100000);
    assert_in_range(trained.sample_bytes, 29000, 30000);
    assert_true(trained.bytes_per_token > 1.5 && trained.bytes_per_token < 10);

    FAILS(MH_EVALUE, "choose at least", train_words("words.txt", 270, 1 << 20, 1, "no.model"));
    FAILS(MH_EVALUE, "choose at most", train_words("words.txt", 30000, 1 << 20, 1, "no.model"));
    int most = atoi(strstr(mh_message(), "choose at most ") + 15);
    OK(train_words("words.txt", most, 1 << 20, 1, "new/folder/most.model"));
    put("empty.txt", "\n\n\n");
    FAILS(MH_EVALUE, "no line of text", train_words("empty.txt", 300, 1 << 20, 1, "no.model"));
    FAILS(MH_EIO, "nowhere.txt", train_words("nowhere.txt", 300, 1 << 20, 1, "no.model"));
    int stop = 1;
    FAILS(MH_EINTERRUPTED, "no tokenizer was written",
          mh_tokenizer_train(&training, "no.model", &(mh_progress){.stop = &stop}, NULL));
    assert_false(mh_path_exists("no.model"));
    assert_false(mh_path_exists("no.model.mhmoe-tmp"));

    /* That the model cannot be written is found before any text is read. */
    int reports = 0;
    OK(mh_file_write("file", "", 0));
    FAILS(MH_EIO, "cannot create folder file",
          mh_tokenizer_train(&training, "file/no.model",
                             &(mh_progress){.report = count_reports, .context = &reports}, NULL));
    assert_int_equal(reports, 0);

    /* What SentencePiece keeps for itself in the text is no reason to drop the line, or to fail. */
    put("signs.txt", "\xe2\x96\x85qzqz \xe2\x96\x81qzqz </s>qzqz <0x0A>qzqz \tqzqz\xe2\x96\x85qzqz\n");
    OK(train_words("signs.txt", 263, 1 << 20, 1, "signs.model"));
    mh_tokenizer *signs;
    OK(mh_tokenizer_load(&signs, "signs.model"));
    for (int i = 0; i < HARD_TEXTS; i++)
        check_round_trip(signs, hard_texts[i], strlen(hard_texts[i]), hard_texts[i]);
    mh_tokenizer_free(signs);
}

/* Every bit of a model of ours, but for those that mark its seal. */
static void test_damaged_seal(void **state)
{
    (void)state;
    size_t bytes;
    const unsigned char *file = mh_tokenizer_bytes(words, &bytes);
    unsigned char *damaged = malloc(bytes);
    memcpy(damaged, file, bytes);
    for (size_t bit = 0; bit < 8 * bytes; bit++) {
        size_t at = bit / 8, mark = bytes - MH_TOKENIZER_SEAL;
        if (at >= mark && at < mark + 4)
            continue;
        damaged[at] ^= (unsigned char)(1 << bit % 8);
        mh_tokenizer *t;
        FAILS(MH_EFORMAT, "its checksum is wrong", mh_tokenizer_from_bytes(&t, damaged, bytes, "x.model"));
        damaged[at] = file[at];
    }
    free(damaged);
}

/* A tenth of all bits of a small model as others make it, one at a time and a few together: refused or
 * usable, never a crash. */
static void test_damaged_model(void **state)
{
    (void)state;
    size_t bytes;
    const unsigned char *file = mh_tokenizer_bytes(words, &bytes);
    bytes -= MH_TOKENIZER_SEAL;
    unsigned char *damaged = malloc(bytes);
    int refused = 0;
    enum { TRIES = 400 };
    for (uint64_t n = 0; n < TRIES; n++) {
        memcpy(damaged, file, bytes);
        for (uint64_t k = 0; k < 1 + n % 3; k++)
            damaged[(size_t)(uniform(n << 8 | k) * (double)bytes)] ^=
                (unsigned char)(1 << (int)(uniform(~(n << 8 | k)) * 8));
        mh_tokenizer *t;
        if (mh_tokenizer_from_bytes(&t, damaged, bytes, "damaged.model") != MH_OK) {
            assert_null(t);
            assert_non_null(strstr(mh_message(), "damaged.model"));
            refused++;
            continue;
        }
        assert_string_not_equal(mh_tokenizer_hash(t), mh_tokenizer_hash(words));
        for (int i = 0; i < HARD_TEXTS; i++) {
            mh_ids ids = {0};
            mh_text back = {0};
            OK(mh_tokenizer_encode(t, hard_texts[i], strlen(hard_texts[i]), &ids));
            OK(mh_tokenizer_decode(t, ids.id, ids.count, &back));
            assert_int_equal(back.length, strlen(hard_texts[i]));
            assert_memory_equal(back.data ? back.data : "", hard_texts[i], back.length);
            mh_text_release(&back);
            mh_ids_release(&ids);
        }
        mh_tokenizer_free(t);
    }
    print_message("seed %d: %d of %d damaged models were refused, the others gave every text back\n", SEED,
                  refused, TRIES);
    assert_true(refused > TRIES / 2);

    mh_tokenizer *t;
    for (size_t n = 0; n < bytes; n += 1 + bytes / 50)
        FAILS(MH_EFORMAT, "cut.model", mh_tokenizer_from_bytes(&t, file, n, "cut.model"));
    FAILS(MH_EFORMAT, "not a usable", mh_tokenizer_from_bytes(&t, "hello", 5, "hello"));
    FAILS(MH_EIO, "nowhere.model", mh_tokenizer_load(&t, "nowhere.model"));
    free(damaged);
}

static void test_llama(void **state)
{
    (void)state;
    const char *path = real("tokenizers/llama/sentencepiece.bpe.model");
    mh_tokenizer *llama;
    OK(mh_tokenizer_load(&llama, path));
    mh_text in = {0}, out = {0};
    OK(mh_file_read(real("tokenizers/llama/ggml-vocab-llama-spm.gguf.inp"), 1 << 20, &in));
    OK(mh_file_read(real("tokenizers/llama/ggml-vocab-llama-spm.gguf.out"), 1 << 20, &out));
    static const char border[] = "\n__ggml_vocab_test__\n";
    int cases = 0;
    char *line = out.data;
    for (char *text = in.data, *end; (end = strstr(text, border)) != NULL;
         text = end + strlen(border), cases++) {
        mh_ids ids = {0};
        OK(mh_tokenizer_encode(llama, text, (size_t)(end - text), &ids));
        char *line_end = strchr(line, '\n');
        assert_non_null(line_end);
        for (int64_t i = 0; i < ids.count; i++)
            assert_int_equal(ids.id[i], strtol(line, &line, 10));
        line += strspn(line, " ");
        assert_ptr_equal(line, line_end);
        line++;
        mh_ids_release(&ids);
        check_round_trip(llama, text, (size_t)(end - text), "golden text");
    }
    assert_true(cases > 40);
    for (int i = 0; i < HARD_TEXTS; i++)
        check_round_trip(llama, hard_texts[i], strlen(hard_texts[i]), hard_texts[i]);
    mh_text_release(&in);
    mh_text_release(&out);
    mh_tokenizer_free(llama);
}

/* ---- corpora ------------------------------------------------------------------------------------------- */

static struct archive *begin_archive(const char *path, int filter, bool tar)
{
    struct archive *a = archive_write_new();
    assert_int_equal(archive_write_add_filter(a, filter), ARCHIVE_OK);
    assert_int_equal(tar ? archive_write_set_format_pax_restricted(a) : archive_write_set_format_raw(a),
                     ARCHIVE_OK);
    assert_int_equal(archive_write_open_filename(a, path), ARCHIVE_OK);
    return a;
}

static void add_entry(struct archive *a, const char *name, const char *data, size_t length)
{
    struct archive_entry *e = archive_entry_new();
    archive_entry_set_pathname(e, name);
    archive_entry_set_filetype(e, AE_IFREG);
    archive_entry_set_perm(e, 0644);
    archive_entry_set_size(e, (int64_t)length);
    assert_int_equal(archive_write_header(a, e), ARCHIVE_OK);
    assert_int_equal(archive_write_data(a, data, length), length);
    archive_entry_free(e);
}

static void put_packed(const char *path, int filter, const char *text)
{
    struct archive *a = begin_archive(path, filter, false);
    add_entry(a, "data", text, strlen(text));
    assert_int_equal(archive_write_close(a), ARCHIVE_OK);
    archive_write_free(a);
}

/* A tar of name, text, name, text, ..., NULL; "@file" stands for that file's contents. */
static void put_tar(const char *path, int filter, const char *const *entries)
{
    struct archive *a = begin_archive(path, filter, true);
    for (; *entries != NULL; entries += 2) {
        mh_text text = {0};
        if (entries[1][0] == '@')
            OK(mh_file_read(entries[1] + 1, 1 << 28, &text));
        else
            OK(mh_text_add(&text, entries[1], strlen(entries[1])));
        add_entry(a, entries[0], text.data, text.length);
        mh_text_release(&text);
    }
    assert_int_equal(archive_write_close(a), ARCHIVE_OK);
    archive_write_free(a);
}

/* All documents as "name=text|", in order. */
static mh_status list_paths(const char *const *paths, int count, mh_text *out, mh_corpus_state *seen)
{
    mh_corpus *corpus;
    out->length = 0;
    OK(mh_text_add(out, "", 0));
    MH_TRY(mh_corpus_open(&corpus, paths, count));
    mh_document d;
    bool end = false;
    mh_status status;
    while ((status = mh_corpus_next(corpus, &d, &end)) == MH_OK && !end)
        OK(mh_text_printf(out, "%s=%.*s%s|", d.name, (int)d.length, d.text, d.more ? "..." : ""));
    if (status == MH_OK)
        status = mh_corpus_check(corpus);
    if (seen != NULL)
        *seen = mh_corpus_where(corpus);
    mh_corpus_close(corpus);
    return status;
}

static mh_status list(const char *path, mh_text *out)
{
    return list_paths(&path, 1, out, NULL);
}

static const struct {
    int code;
    const char *suffix;
} filters[] = {{ARCHIVE_FILTER_NONE, ""},
               {ARCHIVE_FILTER_GZIP, ".gz"},
               {ARCHIVE_FILTER_XZ, ".xz"},
               {ARCHIVE_FILTER_ZSTD, ".zst"},
               {ARCHIVE_FILTER_BZIP2, ".bz2"}};

static void test_compression(void **state)
{
    (void)state;
    mh_text got = {0}, want = {0};
    const char *plain = "plain text\n", *jsonl = "{\"text\": \"one\"}\n\n{\"content\": \"two\"}";
    for (size_t f = 0; f < sizeof filters / sizeof *filters; f++) {
        char path[64];
        snprintf(path, sizeof path, "c.txt%s", filters[f].suffix);
        put_packed(path, filters[f].code, plain);
        want.length = 0;
        OK(mh_text_printf(&want, "%s=plain text\n|", path));
        OK(list(path, &got));
        assert_string_equal(got.data, want.data);

        /* The content counts, not the name. */
        put_packed("odd.name", filters[f].code, plain);
        OK(list("odd.name", &got));
        assert_string_equal(got.data, "odd.name=plain text\n|");

        snprintf(path, sizeof path, "c.jsonl%s", filters[f].suffix);
        put_packed(path, filters[f].code, jsonl);
        want.length = 0;
        OK(mh_text_printf(&want, "%s:1=one|%s:3=two|", path, path));
        OK(list(path, &got));
        assert_string_equal(got.data, want.data);

        snprintf(path, sizeof path, "@c.txt%s", filters[f].suffix);
        const char *const entries[] = {"b/../z.md", "last",    "b/c.txt.gz", path,         "b/d.jsonl",
                                       jsonl,       "b/e.png", "none",       "b/empty.md", "",
                                       "a.txt",     "A",       NULL};
        put_tar("tar", filters[f].code, entries);
        OK(list("tar", &got));
        assert_string_equal(got.data, "tar:b/../z.md=last|tar:b/c.txt.gz=plain text\n|tar:b/d.jsonl:1=one|"
                                      "tar:b/d.jsonl:3=two|tar:a.txt=A|");
    }
    mh_text_release(&got);
    mh_text_release(&want);
}

static void test_folders(void **state)
{
    (void)state;
    OK(mh_make_dirs("walk/b/c"));
    OK(mh_make_dirs("walk/empty"));
    put("walk/b.txt", "2");
    put("walk/B.md", "1");
    put("walk/b/c/deep.TXT", "3");
    put("walk/b/none.txt", "");
    put("walk/b/picture.png", "x");
    put("walk/c.jsonl", "{\"text\": \"4\"}\n");
    assert_int_equal(symlink("..", "walk/b/loop"), 0);
    OK(mh_make_dirs("outside"));
    put("outside/secret.txt", "x");
    assert_int_equal(symlink("../../outside", "walk/b/out"), 0);
    assert_int_equal(symlink("walk/b.txt", "link.dat"), 0);
    mh_text got = {0};
    mh_corpus_state seen;
    const char *const paths[] = {"walk", "link.dat"};
    OK(list_paths(paths, 2, &got, &seen));
    assert_string_equal(got.data,
                        "walk/B.md=1|walk/b/c/deep.TXT=3|walk/b.txt=2|walk/c.jsonl:1=4|link.dat=2|");
    assert_int_equal(seen.documents, 5);
    assert_int_equal(seen.bytes, 5);
    assert_int_equal(seen.skipped, 3);
    assert_true(seen.read == seen.total && seen.total == 3 + 14 + 1);

    FAILS(MH_EVALUE, "there is no text in walk/empty", list("walk/empty", &got));
    FAILS(MH_EVALUE, "there is no text", list("walk/b/none.txt", &got));
    FAILS(MH_EIO, "nowhere", list("nowhere", &got));
    FAILS(MH_EVALUE, "neither a file nor a folder", list("/dev/null", &got));
    FAILS(MH_EVALUE, "no input", list_paths(paths, 0, &got, NULL));
    mh_text_release(&got);
}

static void test_lines(void **state)
{
    (void)state;
    mh_text got = {0};
    put("windows.txt", "\xef\xbb\xbfone\r\ntwo\rthree\r\r\n");
    OK(list("windows.txt", &got));
    assert_string_equal(got.data, "windows.txt=one\ntwo\rthree\r\n|");

    put("j.jsonl",
        "\xef\xbb\xbf{\"text\": \"a\\r\\nb\", \"content\": \"no\"}\r\n \t\r\n{\"content\": \"\xc3\xa9\"}\n"
        "{\"text\": 5, \"content\": \"c\"}\n{\"text\": \"\"}\n");
    OK(list("j.jsonl", &got));
    assert_string_equal(got.data, "j.jsonl:1=a\nb|j.jsonl:3=\xc3\xa9|j.jsonl:4=c|");

    /* Escapes of what is no character; pairs and escaped backslashes are left alone. */
    mh_corpus_state seen;
    put("e.jsonl", "{\"text\": \"a\\u0000b\\ud800c\\uDC00\\ud83e\\udd99\\\\u0000\\ud800\\ud83E\\uDD99\"}\n"
                   "{\"te\\u0000\": 1, \"text\": \"\\ud83e\"}\n");
    FAILS(MH_EFORMAT, "6 of ", list_paths(&(const char *){"e.jsonl"}, 1, &got, &seen));
    assert_string_equal(got.data, "e.jsonl:1=a" BAD "b" BAD "c" BAD "\xf0\x9f\xa6\x99\\u0000" BAD
                                  "\xf0\x9f\xa6\x99|e.jsonl:2=" BAD "|");
    assert_int_equal(seen.invalid, 6);
    put("bad.jsonl", "{\"text\": \"\\u00");
    FAILS(MH_EFORMAT, "bad.jsonl:1", list("bad.jsonl", &got));
    put("bad.jsonl", "{\"text\": \"\\");
    FAILS(MH_EFORMAT, "bad.jsonl:1", list("bad.jsonl", &got));

    put("bad.jsonl", "{\"text\": \"a\"}\n{\"text\": \n");
    FAILS(MH_EFORMAT, "bad.jsonl:2", list("bad.jsonl", &got));
    put("bad.jsonl", "{\"text\": \"a\"}\n\n[1]\n");
    FAILS(MH_EFORMAT, "bad.jsonl:3", list("bad.jsonl", &got));
    put("bad.jsonl", "{\"title\": \"a\"}");
    FAILS(MH_EFORMAT, "no object with a string \"text\"", list("bad.jsonl", &got));

    mh_text deep = {0};
    OK(mh_text_printf(&deep, "{\"text\": "));
    for (int i = 0; i < 100000; i++)
        OK(mh_text_add(&deep, "[", 1));
    put("bad.jsonl", deep.data);
    FAILS(MH_EFORMAT, "bad.jsonl:1", list("bad.jsonl", &got));
    mh_text_release(&deep);
    mh_text_release(&got);
}

static void test_damaged_text(void **state)
{
    (void)state;
    mh_text got = {0}, text = {0};
    mh_corpus_state seen;
    add_prose(&text, 3, 20000);
    for (int i = 0; i < 20; i++)
        text.data[1000 * i + 500] = '\xe9';
    OK(mh_file_write("few.txt", text.data, text.length));
    OK(list_paths(&(const char *){"few.txt"}, 1, &got, &seen));
    assert_int_equal(seen.invalid, 20);
    text.data[3] = '\xe9';
    OK(mh_file_write("latin1.txt", text.data, text.length));
    const char *const paths[] = {"walk/b.txt", "latin1.txt", "walk/c.jsonl"};
    FAILS(MH_EFORMAT, "are in latin1.txt", list_paths(paths, 3, &got, NULL));

    /* Cut short in every compression; tars of damaged entries. */
    mh_text file = {0};
    text.length = 0;
    add_prose(&text, 4, 20000);
    for (size_t f = 1; f < sizeof filters / sizeof *filters; f++) {
        put_packed("whole", filters[f].code, text.data);
        OK(mh_file_read("whole", 1 << 20, &file));
        OK(mh_file_write("cut.txt", file.data, file.length * 2 / 3));
        FAILS(MH_EIO, "cut.txt", list("cut.txt", &got));
        assert_non_null(strstr(mh_message(), "damaged or cut short"));
        mh_text_release(&file);
        put_tar("tar", filters[f].code, (const char *const[]){"x/y.txt", "@cut.txt", NULL});
        FAILS(MH_EIO, "tar:x/y.txt", list("tar", &got));
        OK(mh_file_read("tar", 1 << 20, &file));
        OK(mh_file_write("cut.tar", file.data, file.length / 2));
        FAILS(MH_EIO, "cut.tar", list("cut.tar", &got));
        mh_text_release(&file);
    }

    /* One flipped bit in the header of the second entry, then of the first. */
    put_tar("flip.tar", ARCHIVE_FILTER_NONE, (const char *const[]){"a.txt", "A", "b.txt", "B", NULL});
    OK(list("flip.tar", &got));
    assert_string_equal(got.data, "flip.tar:a.txt=A|flip.tar:b.txt=B|");
    OK(mh_file_read("flip.tar", 1 << 20, &file));
    file.data[1024] ^= 1;
    OK(mh_file_write("flip.tar", file.data, file.length));
    FAILS(MH_EIO, "flip.tar", list("flip.tar", &got));
    file.data[0] ^= 1;
    OK(mh_file_write("flip.tar", file.data, file.length));
    FAILS(MH_EFORMAT, "flip.tar is named a tar but does not begin as one", list("flip.tar", &got));
    mh_text_release(&file);

    /* Root may read everything, so the test is nobody for a moment. */
    put("closed.txt", "x");
    assert_true(chmod("closed.txt", 0) == 0 && chmod(".", 0755) == 0);
    bool root = geteuid() == 0;
    assert_true(!root || seteuid(65534) == 0);
    mh_status status = list("closed.txt", &got);
    assert_true(!root || seteuid(0) == 0);
    FAILS(MH_EIO, "cannot read closed.txt: Permission denied", status);
    mh_text_release(&got);
    mh_text_release(&text);
}

/* A compressed document of 200 MB is read in parts, and does not stay in memory. */
static void test_huge_document(void **state)
{
    (void)state;
    enum { LINE = 1 << 16, LINES = 3200 };
    for (int newlines = 0; newlines < 2; newlines++) {
        struct archive *a = begin_archive("huge.zst", ARCHIVE_FILTER_ZSTD, false);
        struct archive_entry *e = archive_entry_new();
        archive_entry_set_filetype(e, AE_IFREG);
        assert_int_equal(archive_write_header(a, e), ARCHIVE_OK);
        char *line = malloc(LINE);
        memset(line, 'y', LINE);
        memcpy(line, "\xf0\x9f\xa6\x99", 4);
        line[LINE - 1] = newlines ? '\n' : ' ';
        for (int i = 0; i < LINES; i++)
            assert_int_equal(archive_write_data(a, line, LINE), LINE);
        archive_entry_free(e);
        archive_write_free(a);

        mh_corpus *corpus;
        mh_document d;
        bool end;
        const char *path = "huge.zst";
        size_t before = mh_memory_peak();
        int64_t at = 0, parts = 0;
        OK(mh_corpus_open(&corpus, &path, 1));
        for (;;) {
            OK(mh_corpus_next(corpus, &d, &end));
            if (end)
                break;
            for (size_t i = 0; i < d.length;) { /* line by line, from within one */
                size_t from = (size_t)(at % LINE),
                       n = LINE - from < d.length - i ? LINE - from : d.length - i;
                assert_memory_equal(d.text + i, line + from, n);
                i += n;
                at += (int64_t)n;
            }
            parts++;
            assert_int_equal(d.more, at < (int64_t)LINE * LINES);
            if (d.more)
                assert_int_equal(d.text[d.length - 1], newlines ? '\n' : 'y');
        }
        assert_int_equal(at, (int64_t)LINE * LINES);
        assert_in_range(parts, 12, 13);
        assert_int_equal(mh_corpus_where(corpus).documents, 1);
        mh_corpus_close(corpus);
#ifndef __SANITIZE_ADDRESS__ /* which keeps what was freed */
        assert_true(mh_memory_peak() - before < (size_t)100 << 20);
#endif
        (void)before;
        free(line);
    }
}

/* What is read ahead ends just at a place to cut, and the document does not. */
static void test_part_border(void **state)
{
    (void)state;
    enum { AHEAD = MH_DOCUMENT_PART + MH_CUT_REACH };
    char *text = malloc(AHEAD + 4);
    memset(text, 'x', AHEAD);
    text[AHEAD - 1] = '\n';
    memcpy(text + AHEAD, "tail", 4);
    for (size_t length = AHEAD - 1; length <= AHEAD + 4; length++) {
        OK(mh_file_write("border.txt", text, length));
        mh_corpus *corpus;
        mh_document d = {0};
        bool end, more = true;
        const char *path = "border.txt";
        size_t seen = 0;
        OK(mh_corpus_open(&corpus, &path, 1));
        for (;; more = d.more) {
            OK(mh_corpus_next(corpus, &d, &end));
            if (end)
                break;
            assert_true(more);
            assert_memory_equal(d.text, text + seen, d.length);
            seen += d.length;
        }
        assert_false(more);
        assert_int_equal(seen, length);
        mh_corpus_close(corpus);
    }
    free(text);
}

/* A long text without a place to cut, of characters of three bytes: none is cut in two. */
static void test_part_of_characters(void **state)
{
    (void)state;
    enum { CHARACTERS = (MH_DOCUMENT_PART + 2 * MH_CUT_REACH) / 3 };
    char *text = malloc(3 * CHARACTERS);
    for (int i = 0; i < CHARACTERS; i++)
        memcpy(text + (size_t)3 * i, "\xe4\xb8\x80", 3);
    OK(mh_file_write("characters.txt", text, 3 * CHARACTERS));
    mh_corpus *corpus;
    mh_document d;
    bool end;
    const char *path = "characters.txt";
    OK(mh_corpus_open(&corpus, &path, 1));
    for (size_t seen = 0; seen < 3 * CHARACTERS; seen += d.length) {
        OK(mh_corpus_next(corpus, &d, &end));
        assert_false(end);
        assert_int_equal(d.length % 3, 0);
        assert_memory_equal(d.text, text + seen, d.length);
    }
    OK(mh_corpus_next(corpus, &d, &end));
    assert_true(end);
    assert_int_equal(mh_corpus_where(corpus).invalid, 0);
    mh_corpus_close(corpus);
    free(text);
}

static void test_books(void **state)
{
    (void)state;
    const char *path = real("english/books.tar.xz");
    mh_corpus *corpus;
    mh_document d;
    bool end;
    OK(mh_corpus_open(&corpus, &path, 1));
    static const struct {
        const char *name;
        size_t length;
    } first[] = {{"books/Adalbert Stifter__Rock Crystal.md", 95125},
                 {"books/Adam Smith__The Wealth of Nations.md", 2205557},
                 {"books/Aesop__Aesop's Fables.md", 197130}};
    for (int i = 0; i < 3; i++) {
        OK(mh_corpus_next(corpus, &d, &end));
        assert_false(end);
        assert_string_equal(strrchr(d.name, ':') + 1, first[i].name);
        assert_int_equal(d.length, first[i].length);
    }
    mh_corpus_close(corpus);
}

/* ---- shards -------------------------------------------------------------------------------------------- */

static void put_shard(const char *path, const mh_tokenizer *tokenizer, const int32_t *id, int64_t count)
{
    mh_shard_writer writer;
    OK(mh_shard_create(&writer, path, tokenizer));
    writer.header.documents = 1;
    writer.header.bytes = 2 * (uint64_t)count;
    OK(mh_shard_put(&writer, id, count / 2));
    OK(mh_shard_put(&writer, id + count / 2, count - count / 2));
    OK(mh_shard_commit(&writer));
    mh_shard_abort(&writer);
}

static void test_shard(void **state)
{
    (void)state;
    enum { COUNT = 10001 };
    int32_t *id = malloc(COUNT * sizeof *id), *back = malloc(COUNT * sizeof *back);
    for (int i = 0; i < COUNT; i++)
        id[i] = (int32_t)(uniform((uint64_t)i) * VOCAB);
    put_shard("a.tokens", words, id, COUNT);
    mh_shard shard;
    OK(mh_shard_open(&shard, "a.tokens"));
    assert_int_equal(shard.header->tokens, COUNT);
    assert_int_equal(shard.header->width, 2);
    assert_int_equal(shard.header->vocab, VOCAB);
    assert_int_equal(shard.header->eos, 2);
    mh_shard_read(&shard, 0, COUNT, back);
    assert_memory_equal(back, id, COUNT * sizeof *id);
    mh_shard_read(&shard, 77, 5, back);
    assert_memory_equal(back, id + 77, 5 * sizeof *id);
    mh_shard_close(&shard);

    /* Any changed byte, any missing or additional one. */
    mh_text file = {0};
    OK(mh_file_read("a.tokens", 1 << 20, &file));
    for (size_t i = 0; i < file.length; i += i < 64 ? 1 : 997) {
        file.data[i] ^= 1;
        OK(mh_file_write("b.tokens", file.data, file.length));
        FAILS(MH_EFORMAT, "b.tokens", mh_shard_open(&shard, "b.tokens"));
        file.data[i] ^= 1;
    }
    for (size_t cut = 0; cut < file.length; cut += cut < 70 ? 3 : 4001) {
        OK(mh_file_write("b.tokens", file.data, cut));
        FAILS(MH_EFORMAT, "b.tokens", mh_shard_open(&shard, "b.tokens"));
    }
    OK(mh_file_write("b.tokens", file.data, file.length + 1));
    FAILS(MH_EFORMAT, "b.tokens", mh_shard_open(&shard, "b.tokens"));
    file.data[8]++;
    OK(mh_file_write("b.tokens", file.data, file.length));
    FAILS(MH_EFORMAT, "version 2", mh_shard_open(&shard, "b.tokens"));
    mh_text_release(&file);
    FAILS(MH_EIO, "nowhere", mh_shard_open(&shard, "nowhere"));

    /* A file that another process has put in the place of the one being written. */
    mh_shard_writer writer;
    OK(mh_shard_create(&writer, "c.tokens", words));
    OK(mh_shard_put(&writer, id, COUNT));
    put("c.tokens.mhmoe-tmp", "short");
    FAILS(MH_EIO, "another process", mh_shard_commit(&writer));
    assert_false(mh_path_exists("c.tokens"));

    /* A right checksum over a token that no embedding has. */
    id[5000] = VOCAB;
    put_shard("b.tokens", words, id, COUNT);
    FAILS(MH_EFORMAT, "token 400", mh_shard_open(&shard, "b.tokens"));
    free(id);
    free(back);
}

/* ---- building ------------------------------------------------------------------------------------------ */

static mh_status build_data(const char *const *inputs, int count, const char *output, double fraction,
                            mh_build_result *result)
{
    mh_build build = {"words.model", inputs, count, output, fraction};
    return mh_data_build(&build, NULL, result);
}

/* The texts between the </s> of a shard, which begins and ends with one, as "text|text|". */
static void read_texts(const char *dir, const char *split, mh_text *out)
{
    char path[MH_PATH];
    OK(mh_path_join(path, dir, split));
    mh_shard shard;
    OK(mh_shard_open(&shard, path));
    int64_t count = (int64_t)shard.header->tokens, begin = 1;
    int32_t *id = malloc((size_t)count * sizeof *id);
    mh_shard_read(&shard, 0, count, id);
    out->length = 0;
    uint64_t texts = 0;
    assert_int_equal(id[0], 2);
    assert_int_equal(id[count - 1], 2);
    for (int64_t i = 1; i < count; i++)
        if (id[i] == 2) {
            OK(mh_tokenizer_decode(words, id + begin, i - begin, out));
            OK(mh_text_add(out, "|", 1));
            begin = i + 1;
            texts++;
        }
    assert_int_equal(texts, shard.header->documents);
    assert_int_equal(out->length - texts, shard.header->bytes);
    free(id);
    mh_shard_close(&shard);
}

static int count_lines(const char *text, const char *part)
{
    int n = 0;
    for (; (text = strstr(text, part)) != NULL; text++)
        n++;
    return n;
}

/* 400 documents, each beginning with its number; then one more in front of them. */
static void test_split_by_document(void **state)
{
    (void)state;
    FILE *f = fopen("many.jsonl", "w");
    for (int i = 0; i < 400; i++)
        fprintf(f, "{\"text\": \"  #%d#\\n\\nka lo%smine\"}\n", i, i % 3 ? " " : "\\n\\t");
    fclose(f);
    mh_build_result r;
    OK(build_data((const char *const[]){"many.jsonl"}, 1, "many", 0.1, &r));
    assert_false(r.by_blocks);
    assert_int_equal(r.documents, 400);
    assert_in_range(r.valid_documents, 20, 60);
    mh_text train = {0}, valid = {0}, valid2 = {0};
    read_texts("many", "train.tokens", &train);
    read_texts("many", "valid.tokens", &valid);
    for (int i = 0; i < 400; i++) {
        char text[64];
        snprintf(text, sizeof text, "  #%d#\n\nka lo%smine|", i, i % 3 ? " " : "\n\t");
        assert_int_equal(count_lines(train.data, text) + count_lines(valid.data, text), 1);
    }
    assert_int_equal(count_lines(valid.data, "|"), r.valid_documents);

    put("new.txt", "#new# a document more\n");
    OK(build_data((const char *const[]){"new.txt", "many.jsonl"}, 2, "many2", 0.1, &r));
    read_texts("many2", "valid.tokens", &valid2);
    char *rest = strncmp(valid2.data, "#new#", 5) == 0 ? strchr(valid2.data, '|') + 1 : valid2.data;
    assert_string_equal(rest, valid.data);

    json_t *json;
    OK(mh_json_read(&json, "many2/data.json"));
    assert_string_equal(json_string_value(json_object_get(json, "tokenizer")), mh_tokenizer_hash(words));
    assert_int_equal(json_integer_value(json_object_get(json, "documents")), 401);
    assert_string_equal(json_string_value(json_object_get(json, "split")), "documents");
    json_decref(json);
    same_files("many2/tokenizer.model", "words.model", true);
    mh_text_release(&train);
    mh_text_release(&valid);
    mh_text_release(&valid2);
}

/* One document of 3 MB: the stretches of both parts, put together again, are the text; and any number of
 * threads gives the same bytes. */
static void test_split_by_blocks(void **state)
{
    (void)state;
    put_prose("one.txt", 5, 3000000);
    mh_build_result r;
    omp_set_num_threads(1);
    OK(build_data((const char *const[]){"one.txt"}, 1, "one", 0.05, &r));
    omp_set_num_threads(4);
    OK(build_data((const char *const[]){"one.txt"}, 1, "one4", 0.05, NULL));
    same_files("one/train.tokens", "one4/train.tokens", true);
    same_files("one/valid.tokens", "one4/valid.tokens", true);
    same_files("one/data.json", "one4/data.json", true);
    assert_true(r.by_blocks);
    assert_int_equal(r.documents, 1);
    assert_int_equal(r.valid_documents, 10);
    assert_int_equal(r.bytes, 3000000);
    assert_in_range(r.valid_bytes, 149000, 151000);

    mh_text train = {0}, valid = {0}, whole = {0}, want = {0};
    read_texts("one", "train.tokens", &train);
    read_texts("one", "valid.tokens", &valid);
    char *t = train.data, *v = valid.data;
    for (int i = 0; i < 21; i++) {
        char **part = i % 2 ? &v : &t;
        size_t n = strcspn(*part, "|");
        OK(mh_text_add(&whole, *part, n));
        *part += n + 1;
    }
    OK(mh_file_read("one.txt", 1 << 30, &want));
    assert_int_equal(whole.length, want.length);
    assert_memory_equal(whole.data, want.data, want.length);
    mh_text_release(&train);
    mh_text_release(&valid);
    mh_text_release(&whole);
    mh_text_release(&want);

    /* Without a validation part, the tokens are those of the whole text. */
    OK(build_data((const char *const[]){"one.txt", "words.txt"}, 2, "none", 0, &r));
    assert_false(mh_path_exists("none/valid.tokens"));
    assert_int_equal(r.documents, 2);
    mh_ids ids = {0};
    mh_text one = {0};
    OK(mh_file_read("one.txt", 1 << 30, &one));
    OK(mh_tokenizer_encode(words, one.data, one.length, &ids));
    mh_shard shard;
    OK(mh_shard_open(&shard, "none/train.tokens"));
    int32_t *id = malloc((size_t)(ids.count + 2) * sizeof *id);
    mh_shard_read(&shard, 0, ids.count + 2, id);
    assert_memory_equal(id + 1, ids.id, (size_t)ids.count * sizeof *id);
    assert_true(id[0] == 2 && id[ids.count + 1] == 2);
    free(id);
    mh_shard_close(&shard);
    mh_ids_release(&ids);
    mh_text_release(&one);
}

static void test_build_refusals(void **state)
{
    (void)state;
    const char *one[] = {"words.txt"};
    assert_int_equal(mkdir("taken", 0777), 0);
    FAILS(MH_ESTATE, "taken exists already", build_data(one, 1, "taken", 0.1, NULL));
    FAILS(MH_EVALUE, "from 0 to 0.5", build_data(one, 1, "no", 0.7, NULL));
    FAILS(MH_EVALUE, "from 0 to 0.5", build_data(one, 1, "no", NAN, NULL));
    FAILS(MH_EIO, "nowhere", build_data((const char *const[]){"nowhere"}, 1, "no", 0.1, NULL));
    FAILS(MH_EFORMAT, "latin1.txt", build_data((const char *const[]){"latin1.txt"}, 1, "no", 0.1, NULL));
    put("tiny.txt", "kalo\n");
    FAILS(MH_EVALUE, "validation part would be empty: there is 1 document of 5 bytes",
          build_data((const char *const[]){"tiny.txt"}, 1, "no", 0.01, NULL));
    mh_build build = {"one.txt", one, 1, "no", 0.1};
    FAILS(MH_EFORMAT, "one.txt", mh_data_build(&build, NULL, NULL));
    int stop = 1;
    build.tokenizer = "words.model";
    FAILS(MH_EINTERRUPTED, "no was not written", mh_data_build(&build, &(mh_progress){.stop = &stop}, NULL));
    assert_false(mh_path_exists("no"));
    assert_false(mh_path_exists("no.mhmoe-tmp"));
    assert_false(mh_path_exists("no.mhmoe-lock"));

    mh_new_folder other;
    OK(mh_new_folder_begin(&other, "both"));
    OK(mh_make_dirs("both.mhmoe-tmp/of the other"));
    FAILS(MH_ESTATE, "both.mhmoe-lock is held by process ", build_data(one, 1, "both/", 0.1, NULL));
    assert_true(mh_path_is_dir("both.mhmoe-tmp/of the other"));
    mh_new_folder_abort(&other);
}

/* ---- batches ------------------------------------------------------------------------------------------- */

/* A data folder whose train part counts up from `first` in steps of 1, modulo VOCAB. */
static void put_folder(const char *name, int64_t tokens, int32_t first)
{
    char path[MH_PATH];
    OK(mh_make_dirs(name));
    OK(mh_path_join(path, name, "train.tokens"));
    int32_t *id = malloc((size_t)tokens * sizeof *id);
    for (int64_t i = 0; i < tokens; i++)
        id[i] = (int32_t)((first + i) % VOCAB);
    put_shard(path, words, id, tokens);
    free(id);
}

static void test_batches(void **state)
{
    (void)state;
    enum { T = 7, A = 100, B = 13 };
    put_folder("fa", A * T + 6, 0);  /* 100 sequences, and 5 tokens that no sequence has */
    put_folder("fb", B * T + 1, 50); /* 13 */
    mh_batches *b;
    OK(mh_batches_open(&b, " fa , fb", "train", T, 3, mh_tokenizer_hash(words)));
    assert_int_equal(mh_batches_sequences(b), A + B);
    assert_int_equal(mh_batches_tokens(b), A * T + 6 + B * T + 1);
    assert_int_equal(mh_batches_vocab(b), VOCAB);
    assert_int_equal(mh_batches_eos(b), 2);
    assert_true(mh_batches_bytes_per_token(b) == 2);
    assert_string_equal(mh_batches_tokenizer(b), "fa/tokenizer.model");

    int32_t token[T], target[T], key[T];
    for (int64_t i = 0; i < A + B; i++) {
        mh_batches_in_order(b, i, token, target, key);
        int32_t last = 0;
        for (int32_t j = 0; j < T; j++) {
            int64_t at = i < A ? i * T + j : 50 + (i - A) * T + j;
            assert_int_equal(token[j], at % VOCAB);
            assert_int_equal(target[j], (at + 1) % VOCAB);
            last = token[j] == 2 ? j : last;
            assert_int_equal(key[j], last);
        }
    }

    /* Each pass draws every sequence once, each in another order; the same seed draws the same. */
    mh_batches *same, *other;
    OK(mh_batches_open(&same, "fa,fb", "train", T, 3, NULL));
    OK(mh_batches_open(&other, "fa,fb", "train", T, 4, NULL));
    int32_t order[3][A + B];
    int moved = 0;
    for (int pass = 0; pass < 3; pass++) {
        int drawn[A + B] = {0};
        for (int i = 0; i < A + B; i++) {
            int32_t token2[T], token3[T];
            mh_batches_get(b, pass * (A + B) + i, token, target, NULL);
            mh_batches_get(same, pass * (A + B) + i, token2, target, key);
            mh_batches_get(other, pass * (A + B) + i, token3, target, NULL);
            assert_memory_equal(token, token2, sizeof token);
            moved += memcmp(token, token3, sizeof token) != 0;
            /* fa's sequences begin at multiples of T, in two rounds of VOCAB; fb's at 50 + multiples */
            int number = -1;
            for (int n = 0; n < A + B; n++) {
                mh_batches_in_order(b, n, token2, target, NULL);
                if (memcmp(token, token2, sizeof token) == 0 && (number < 0 || !drawn[n]))
                    number = n;
            }
            assert_in_range(number, 0, A + B - 1);
            drawn[number]++;
            order[pass][i] = number;
        }
        for (int n = 0; n < A + B; n++)
            assert_int_equal(drawn[n], 1);
        assert_true(pass == 0 || memcmp(order[pass], order[0], sizeof order[0]) != 0);
    }
    assert_true(moved > 2 * (A + B));
    mh_batches_close(b);
    mh_batches_close(same);
    mh_batches_close(other);
}

static void test_mixture(void **state)
{
    (void)state;
    enum { T = 10, BLOCK = 1024 };
    /* Told apart by their tokens' last digit at the start of a sequence. */
    put_folder("m0", 30 * T + 1, 0);
    put_folder("m1", 500 * T + 1, 1);
    put_folder("m2", 4 * T + 1, 2);
    mh_batches *b;
    OK(mh_batches_open(&b, "m0=5, m1 = 3,m2=2", "train", T, 9, NULL));
    int32_t token[T], target[T];
    int mixed = 0, before = 0;
    for (int block = 0; block < 5; block++) {
        int seen[3] = {0};
        for (int i = 0; i < BLOCK; i++) {
            mh_batches_get(b, (int64_t)block * BLOCK + i, token, target, NULL);
            int corpus = token[0] % 10;
            assert_in_range(corpus, 0, 2);
            seen[corpus]++;
            mixed += corpus != before;
            before = corpus;
        }
        assert_int_equal(seen[0], 512);
        assert_int_equal(seen[1], 307); /* 307.2 */
        assert_int_equal(seen[2], 205); /* 204.8 */
    }
    assert_true(mixed > BLOCK);
    mh_batches_close(b);

    OK(mh_batches_open(&b, "m0=1,m1=1", "train", T, 9, NULL));
    int seen[2] = {0};
    for (int i = 0; i < BLOCK; i++) {
        mh_batches_get(b, 777777LL * BLOCK + i, token, target, NULL);
        seen[token[0] % 10]++;
    }
    assert_true(seen[0] == 512 && seen[1] == 512);
    mh_batches_close(b);
}

static void test_batches_refusals(void **state)
{
    (void)state;
    mh_batches *b;
    FAILS(MH_EIO, "no data folder nowhere", mh_batches_open(&b, "fa,nowhere", "train", 7, 1, NULL));
    FAILS(MH_EIO, "fa has no valid.tokens", mh_batches_open(&b, "fa", "valid", 7, 1, NULL));
    FAILS(MH_EVALUE, "too few", mh_batches_open(&b, "fb", "train", 92, 1, NULL));
    FAILS(MH_EMISMATCH, "0123456789abcdef", mh_batches_open(&b, "fa", "train", 7, 1, "0123456789abcdef"));
    FAILS(MH_EVALUE, "fb differs", mh_batches_open(&b, "fa=1,fb", "train", 7, 1, NULL));
    FAILS(MH_EVALUE, "above 0", mh_batches_open(&b, "fa=1,fb=-1", "train", 7, 1, NULL));
    FAILS(MH_EVALUE, "smallest share", mh_batches_open(&b, "fa=1,fb=0.0001", "train", 7, 1, NULL));
    FAILS(MH_EVALUE, "name is missing", mh_batches_open(&b, "", "train", 7, 1, NULL));
    FAILS(MH_EVALUE, "name is missing", mh_batches_open(&b, "fa,=3", "train", 7, 1, NULL));

    mh_tokenizer *other;
    OK(mh_tokenizer_load(&other, "new/folder/most.model"));
    OK(mh_make_dirs("fo"));
    put_shard("fo/train.tokens", other, (const int32_t[]){2, 5, 6, 7, 8, 9, 10, 2}, 8);
    FAILS(MH_EMISMATCH, "fo/train.tokens was made with another tokenizer",
          mh_batches_open(&b, "fa,fo", "train", 7, 1, NULL));
    assert_null(b);
    mh_tokenizer_free(other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_clean),
        cmocka_unit_test(test_cut),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_training),
        cmocka_unit_test(test_training_long_words),
        cmocka_unit_test(test_damaged_seal),
        cmocka_unit_test(test_damaged_model),
        cmocka_unit_test(test_llama),
        cmocka_unit_test(test_compression),
        cmocka_unit_test(test_folders),
        cmocka_unit_test(test_lines),
        cmocka_unit_test(test_damaged_text),
        cmocka_unit_test(test_huge_document),
        cmocka_unit_test(test_part_border),
        cmocka_unit_test(test_part_of_characters),
        cmocka_unit_test(test_books),
        cmocka_unit_test(test_shard),
        cmocka_unit_test(test_split_by_document),
        cmocka_unit_test(test_split_by_blocks),
        cmocka_unit_test(test_build_refusals),
        cmocka_unit_test(test_batches),
        cmocka_unit_test(test_mixture),
        cmocka_unit_test(test_batches_refusals),
    };
    return cmocka_run_group_tests(tests, enter_folder, leave_folder);
}
