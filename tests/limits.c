/* limits: what docs/formats.md says of them, from both sides: as much is taken, one more is refused in a
 * sentence that names the limit. Large files are holes, which take no room on disk and read as zeros. */
#include "report/report.h"
#include "tiny.h"

#include <unistd.h>

enum { MIB = 1 << 20 };

/* A file that begins with `text` and is `bytes` long. */
static const char *file_of(const char *name, const char *text, int64_t bytes)
{
    const char *path = tiny_path(name);
    OK(mh_file_write(path, text, strlen(text)));
    assert_int_equal(truncate(path, bytes), 0);
    return path;
}

/* A file of `count` bytes `c`, and `end` behind them. */
static const char *row_of(const char *name, char c, int64_t count, const char *end)
{
    static char block[MIB];
    const char *path = tiny_path(name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    memset(block, c, sizeof block);
    for (; count > MIB; count -= MIB)
        fwrite(block, 1, MIB, file);
    fwrite(block, 1, (size_t)count, file);
    fputs(end, file);
    assert_int_equal(fclose(file), 0);
    return path;
}

static void settings(void **state)
{
    (void)state;
    static const struct {
        const char *key;
        int most;
    } table[] = {{"model.dim", 16384},       {"model.layers", 512},    {"model.attention_heads", 512},
                 {"model.context", 1 << 20}, {"model.vocab", 1 << 24}, {"moe.heads", 1024},
                 {"moe.experts", 65536},     {"moe.top_k", 64},        {"compare.seeds", 1000}};
    mh_recipe recipe;
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        char text[64], sentence[64];
        const char *setting = text;
        snprintf(text, sizeof text, "%s=%d", table[i].key, table[i].most);
        OK(mh_recipe_read(&recipe, NULL, &setting, 1));
        snprintf(text, sizeof text, "%s=%d", table[i].key, table[i].most + 1);
        snprintf(sentence, sizeof sentence, " to %d, not \"%d\"", table[i].most, table[i].most + 1);
        FAILS(MH_EUSAGE, sentence, mh_recipe_read(&recipe, NULL, &setting, 1));
    }

    mh_options_defaults(&mh_recipe_options, &recipe);
    FAILS(MH_EVALUE, "has 16777217 pieces, and a model at most 16777216; use a smaller one",
          mh_recipe_take_vocab(&recipe, MH_VOCAB_LIMIT + 1, 2));
    OK(mh_recipe_take_vocab(&recipe, MH_VOCAB_LIMIT, 2));

    /* choices of a sub-token that nobody asked for: as many as heads */
    static const char *const heads[] = {"model.vocab=400", "model.dim=1024", "model.attention_heads=8",
                                        "moe.experts=256", "moe.heads=128",  "moe.top_k=64"};
    OK(mh_recipe_read(&recipe, NULL, heads, 6));
    OK(mh_recipe_resolve(&recipe, NULL));
    OK(mh_recipe_read(&recipe, NULL, heads, 5));
    FAILS(MH_EVALUE, "moe.top_k is as many as moe.heads, 128, and at most 64",
          mh_recipe_resolve(&recipe, NULL));

    static const char *const rows[] = {"model.vocab=400", "model.context=1024", "moe.experts=8",
                                       "moe.heads=2", "train.batch=524287"}; /* 1024 2 2 (2^19 - 1) */
    OK(mh_recipe_read(&recipe, NULL, rows, 5));
    OK(mh_recipe_resolve(&recipe, NULL));
    OK(mh_recipe_read(&recipe, NULL, rows, 4));
    recipe.train.batch = 524288;
    FAILS(MH_EVALUE, "train.micro_batch 524288 of train.sequence 1024 makes 2.15e+09 rows at a time",
          mh_recipe_resolve(&recipe, NULL));
}

static mh_status ignore(void *context, const char *key, const char *value, int line)
{
    (void)context, (void)key, (void)value, (void)line;
    return MH_OK;
}

static void recipes(void **state)
{
    (void)state;
    mh_recipe recipe;
    OK(mh_recipe_read(&recipe, row_of("long.yaml", '\n', MIB, ""), NULL, 0));
    FAILS(MH_EFORMAT, "long.yaml is larger than the 1048576 bytes allowed for such a file; name another",
          mh_recipe_read(&recipe, row_of("long.yaml", '\n', MIB, "\n"), NULL, 0));

    static const char nested[] = "{a: {a: {a: {a: {a: {a: {a: {a: {a: 1}}}}}}}}}";
    FAILS(MH_EFORMAT, "r:1: groups are nested more than 8 deep",
          mh_yaml_read("r", nested, strlen(nested), ignore, NULL));
    OK(mh_yaml_read("r", nested + 4, strlen(nested) - 5, ignore, NULL));

    char key[256 + sizeof ": 1"];
    memset(key, 'k', 256);
    strcpy(key + 256, ": 1");
    FAILS(MH_EFORMAT, "r:1: a key may have 255 bytes, and this one has more; shorten it",
          mh_yaml_read("r", key, strlen(key), ignore, NULL));
    OK(mh_yaml_read("r", key + 1, strlen(key) - 1, ignore, NULL));

    char text[MH_OPTION_TEXT + sizeof "data.train="] = "data.train=";
    const char *setting = text;
    memset(text + strlen(text), 'a', 1024);
    FAILS(MH_EUSAGE, "text of at most 1023 bytes", mh_recipe_read(&recipe, NULL, &setting, 1));
    text[strlen(text) - 1] = '\0';
    OK(mh_recipe_read(&recipe, NULL, &setting, 1));
}

static void json(void **state)
{
    (void)state;
    enum { DEPTH = 2048 };
    static char nested[2 * (DEPTH + 1)];
    json_t *json;
    memset(nested, '[', DEPTH + 1);
    memset(nested + DEPTH + 1, ']', DEPTH + 1);
    FAILS(MH_EFORMAT, "nested more than 2048 deep; nest them less",
          mh_json_parse(&json, nested, sizeof nested, "nested"));
    OK(mh_json_parse(&json, nested + 1, sizeof nested - 2, "nested"));
    json_decref(json);

    FAILS(MH_EFORMAT, "a.json is larger than the 67108864 bytes allowed for such a file; name another",
          mh_json_read(&json, file_of("a.json", "1", 64 * MIB + 1)));
    FAILS(MH_EFORMAT, "a.json is not valid JSON", mh_json_read(&json, file_of("a.json", "1", 64 * MIB)));
}

/* A tensor file of these bytes, with a header and eight bytes of data. */
static mh_status open_tensors(const char *shape)
{
    char header[200];
    mh_text file = {0};
    mh_tensors *tensors;
    snprintf(header, sizeof header, "{\"a\":{\"dtype\":\"F32\",\"shape\":%s,\"data_offsets\":[0,8]}}", shape);
    OK(mh_text_add(&file, &(uint64_t){strlen(header)}, sizeof(uint64_t)));
    OK(mh_text_printf(&file, "%s12345678", header));
    OK(mh_file_write(tiny_path("a.safetensors"), file.data, file.length));
    mh_text_release(&file);
    mh_status status = mh_tensors_open(&tensors, tiny_path("a.safetensors"));
    mh_tensors_close(tensors);
    return status;
}

static void tensors(void **state)
{
    (void)state;
    mh_tensors *t;
    OK(open_tensors("[1,1,1,2]"));
    FAILS(MH_EFORMAT, "at most 4 dimensions and less than 2^60 elements; use another file",
          open_tensors("[1,1,1,1,2]"));
    FAILS(MH_EFORMAT, "not with its size", open_tensors("[1152921504606846975]"));
    FAILS(MH_EFORMAT, "at most 4 dimensions and less than 2^60 elements",
          open_tensors("[1152921504606846976]"));

    char length[8] = {1, 0, 0x40, 6}; /* 100 MiB and a byte */
    const char *path = file_of("a.safetensors", "", 101 * MIB);
    for (int more = 1; more >= 0; more--) {
        length[0] = (char)more;
        FILE *file = fopen(path, "r+b");
        assert_non_null(file);
        assert_int_equal(fwrite(length, 1, sizeof length, file), sizeof length);
        fclose(file);
        FAILS(MH_EFORMAT,
              more ? "should have 104857601 bytes, and at most 104857600 are possible" : "the header of ",
              mh_tensors_open(&t, path));
    }
}

/* As much would be read, and copied by SentencePiece a few times. */
static void tokenizers(void **state)
{
    (void)state;
    mh_tokenizer *tokenizer;
    FAILS(MH_EFORMAT, "a.model is larger than the 268435456 bytes allowed for such a file; name another",
          mh_tokenizer_load(&tokenizer, file_of("a.model", "", 256 * MIB + 1)));
}

/* Blank lines are no documents, and take no parser. */
static mh_status read_lines(const char *path, int64_t *documents)
{
    mh_corpus *corpus;
    mh_document document;
    bool end = false;
    OK(mh_corpus_open(&corpus, &path, 1));
    mh_status status;
    while ((status = mh_corpus_next(corpus, &document, &end)) == MH_OK && !end)
        continue;
    *documents = mh_corpus_where(corpus).documents;
    mh_corpus_close(corpus);
    return status;
}

static void documents(void **state)
{
    (void)state;
    int64_t count;
    static const char second[] = "\n{\"text\": \"a\"}";
    OK(read_lines(row_of("a.jsonl", ' ', 64 * MIB, second), &count));
    assert_int_equal(count, 1);
    FAILS(MH_EFORMAT,
          "a.jsonl:1: this line is longer than 64 MiB; a line of .jsonl is one document: split it",
          read_lines(row_of("a.jsonl", ' ', 64 * MIB + 1, second), &count));
    FAILS(MH_EFORMAT, "a.jsonl:1: this line is longer",
          read_lines(row_of("a.jsonl", ' ', 64 * MIB + 1, ""), &count));
}

/* The whole file is read for its first question. */
static void questions(void **state)
{
    (void)state;
    static const char question[] = "{\"query\": \"Q\", \"choices\": [\"a\", \"b\"], \"gold\": 0}\n";
    const mh_task_options first = {.limit = 1};
    mh_items items;
    FAILS(MH_EFORMAT, "q.jsonl holds more than 256 MiB and is no file of questions; name another",
          mh_task_load(&items, file_of("q.jsonl", question, 256 * MIB + 1), &first));
    OK(mh_task_load(&items, file_of("q.jsonl", question, 256 * MIB), &first));
    assert_int_equal(items.count, 1);
    mh_items_release(&items);
}

/* As much would be read for nothing. */
static void logs(void **state)
{
    (void)state;
    file_of("metrics.jsonl", "", ((int64_t)1 << 30) + 1);
    json_t *run = mh_report_run(tiny_folder, "run");
    mh_text problems = {0};
    OK(mh_json_dump(json_object_get(run, "problems"), false, &problems));
    assert_non_null(strstr(problems.data, "metrics.jsonl is larger than the 1073741824 bytes allowed"));
    mh_text_release(&problems);
    json_decref(run);
}

static void paths(void **state)
{
    (void)state;
    char path[MH_PATH], name[4096 + 1];
    memset(name, 'x', 4096);
    name[4096] = '\0';
    FAILS(MH_EVALUE, "is longer than 4095 characters; use shorter names", mh_path_join(path, "", name));
    OK(mh_path_join(path, "", name + 1));
}

/* What an analysis tells apart: files here, all of them the same one. */
static void labels(void **state)
{
    (void)state;
    const char *folder = tiny_path("many"), *text = tiny_path("text.txt");
    char name[MH_PATH];
    OK(mh_make_dirs(folder));
    for (int i = 0; i <= 4096; i++) {
        snprintf(name, sizeof name, "%.100s/%d.txt", folder, i);
        assert_int_equal(link(text, name), 0);
    }
    for (int more = 1; more >= 0; more--) {
        mh_excerpts excerpts = {.inputs = &folder, .input_count = 1, .by = MH_LABEL_FILE};
        mh_status status = mh_excerpts_survey(&excerpts, tiny_tokenizer, 100, NULL);
        if (more)
            FAILS(MH_EVALUE,
                  "more than 4096 files in the input, too many to tell apart; use --label-by folder", status);
        else
            OK(status);
        mh_excerpts_release(&excerpts);
        remove(name); /* the last one */
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(settings),  cmocka_unit_test(recipes),    cmocka_unit_test(json),
        cmocka_unit_test(tensors),   cmocka_unit_test(tokenizers), cmocka_unit_test(documents),
        cmocka_unit_test(questions), cmocka_unit_test(logs),       cmocka_unit_test(paths),
        cmocka_unit_test(labels),
    };
    return cmocka_run_group_tests(tests, tiny_setup, tiny_teardown);
}
