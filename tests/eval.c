/* Verification against the authors' code, and that it can fail; perplexity and scores of choices against sums
 * made directly; files of questions, good and bad. */
#include "test.h"

#include "eval/eval.h"
#include "tiny.h"

#include <dirent.h>
#include <stdlib.h>
#include <unistd.h>

static void verify_all(mh_precision precision, int expected)
{
    DIR *dir = opendir(TEST_GOLDEN);
    int files = 0;
    assert_non_null(dir);
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        char path[MH_PATH];
        mh_verify_result r;
        if (strstr(entry->d_name, ".safetensors") == NULL)
            continue;
        OK(mh_path_join(path, TEST_GOLDEN, entry->d_name));
        OK(mh_verify(path, precision, &r));
        for (int i = 0; i < r.count; i++)
            if (!(r.tensor[i].error <= r.tensor[i].bound))
                fail_msg("%s: %s has relative error %.3g over %.3g", entry->d_name, r.tensor[i].name,
                         r.tensor[i].error, r.tensor[i].bound);
        assert_true(r.passed);
        if (precision == MH_PRECISION_F32)
            assert_int_equal(r.flips, 0);
        assert_int_equal(r.drops, 0);
        files++;
        mh_verify_release(&r);
    }
    closedir(dir);
    assert_int_equal(files, expected);
}

static void test_golden_f32(void **state)
{
    (void)state;
    verify_all(MH_PRECISION_F32, 16);
}

static void test_golden_bf16(void **state)
{
    (void)state;
    verify_all(MH_PRECISION_BF16, 16);
}

/* Rewrites a reference file with tensor `name` multiplied, and the width of an expert in its metadata
 * replaced where `ffn_dim` is given. */
static void rewrite(const char *from, const char *to, const char *name, float factor, const char *ffn_dim)
{
    mh_tensors *file;
    OK(mh_tensors_open(&file, from));
    int n = mh_tensors_count(file);
    mh_tensor *list = calloc((size_t)n, sizeof *list);
    void *changed = NULL;
    for (int i = 0; i < n; i++) {
        list[i] = *mh_tensors_at(file, i);
        if (strcmp(list[i].name, name) != 0)
            continue;
        size_t bytes = (size_t)mh_tensor_elements(&list[i]) * 4;
        changed = malloc(bytes);
        memcpy(changed, list[i].data, bytes);
        for (int64_t j = 0; j < mh_tensor_elements(&list[i]); j++)
            if (list[i].type == MH_F32)
                ((float *)changed)[j] *= factor;
        if (list[i].type == MH_I32)
            ((int32_t *)changed)[0] ^= 1;
        list[i].data = changed;
    }
    assert_non_null(changed);
    static const char *const keys[] = {
        "kind", "dim",    "heads",    "experts",      "top_k",      "ffn_dim",          "activation",
        "bias", "router", "capacity", "weight_quant", "aux_weight", "renormalize_gates"};
    json_t *meta = json_object();
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        json_object_set_new(meta, keys[i], json_string(mh_tensors_meta(file, keys[i])));
    if (ffn_dim != NULL)
        json_object_set_new(meta, "ffn_dim", json_string(ffn_dim));
    OK(mh_tensors_write(to, list, n, meta));
    json_decref(meta);
    mh_tensors_close(file);
    free(changed);
    free(list);
}

static void test_verify_can_fail(void **state)
{
    (void)state;
    char path[] = "/tmp/mhmoe-verify-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    static const char *const golden = TEST_GOLDEN "/layer_mhmoe_h4_top2_capacity.safetensors";
    static const char *const names[] = {"expect.y", "expect.d.router.weight", "expect.topk", "expect.kept"};
    mh_verify_result r;
    for (int i = 0; i < 4; i++) {
        rewrite(golden, path, names[i], 1.01f, NULL);
        OK(mh_verify(path, MH_PRECISION_F32, &r));
        assert_false(r.passed);
        mh_verify_release(&r);
    }
    rewrite(golden, path, "expect.y", 1, NULL);
    OK(mh_verify(path, MH_PRECISION_F32, &r));
    assert_true(r.passed);
    mh_verify_release(&r);
    double before = (double)mh_memory_peak();
    rewrite(golden, path, "expect.y", 1, "1000000");
    FAILS(MH_EFORMAT, "its metadata ask for", mh_verify(path, MH_PRECISION_F32, &r));
    assert_true((double)mh_memory_peak() - before < 0x1p28);
    unlink(path);
    FAILS(MH_EIO, path, mh_verify(path, MH_PRECISION_F32, &r));
}

/* ---- perplexity ---------------------------------------------------------------------------------------- */

/* The same numbers by products of other numbers of rows, in another order of summation. */
#define SAME_SUMS 1e-5

/* Loss of predicting the targets that are not -1, of a sequence computed alone. */
static double loss_of(const mh_model *model, const int32_t *token, int64_t count, const int32_t *target)
{
    mh_pass *pass;
    float nll[512];
    double sum = 0;
    assert_true(count <= 512);
    mh_call call = {.token = token, .batch = 1, .rows = count};
    OK(mh_pass_create(&pass, model, (mh_pass_shape){.batch = 1, .rows = count, .capacity = count}));
    mh_forward(pass, model, &call);
    mh_loss(pass, model, &call, target, nll, 0);
    mh_pass_free(pass);
    for (int64_t i = 0; i < count; i++)
        sum += (double)nll[i];
    return sum;
}

/* Loss of predicting `target` after `count` tokens, computed alone. */
static double loss_after(const mh_model *model, const int32_t *token, int64_t count, int32_t target)
{
    int32_t targets[512];
    assert_true(count <= 512);
    memset(targets, -1, sizeof targets);
    targets[count - 1] = target;
    return loss_of(model, token, count, targets);
}

/* Every token by itself, each after the part of its window that stands before it. */
static double direct_sum(const mh_model *model, const char *text, int64_t stride, int64_t *tokens)
{
    mh_ids ids = {0};
    int32_t token[512] = {(int32_t)model->config.bos};
    OK(mh_tokenizer_encode(tiny_tokenizer, text, strlen(text), &ids));
    assert_true(ids.count + 2 <= 512);
    memcpy(token + 1, ids.id, (size_t)ids.count * sizeof *ids.id);
    int64_t count = ids.count + 1; /* predictions: the text and </s> */
    token[count] = (int32_t)model->config.eos;
    mh_ids_release(&ids);
    double sum = 0;
    for (int64_t i = 0; i < count; i++) {
        int64_t beyond = i + 1 - model->config.context;
        int64_t start = beyond > 0 ? (beyond + stride - 1) / stride * stride : 0;
        sum += loss_after(model, token + start, i + 1 - start, token[i + 1]);
    }
    *tokens += count;
    return sum;
}

static void check_perplexity(int64_t context, int64_t stride, int64_t experts, const char *const *texts,
                             int count)
{
    mh_config config = tiny_config(context, experts);
    mh_model *model = tiny_model(&config, MH_PRECISION_F32, 21);
    mh_text lines = {0};
    int64_t tokens = 0, bytes = 0;
    double sum = 0;
    for (int i = 0; i < count; i++) {
        json_t *line = json_pack("{s:s}", "text", texts[i]);
        OK(mh_json_dump(line, false, &lines));
        OK(mh_text_add(&lines, "\n", 1));
        json_decref(line);
        sum += direct_sum(model, texts[i], stride ? stride : (context + 1) / 2, &tokens);
        bytes += (int64_t)strlen(texts[i]);
    }
    const char *path = tiny_path("texts.jsonl");
    OK(mh_file_write(path, lines.data, lines.length));
    mh_text_release(&lines);

    mh_perplexity result, again;
    OK(mh_eval_perplexity(model, tiny_tokenizer, &path, 1, stride, NULL, &result));
    assert_int_equal(result.documents, count);
    assert_int_equal(result.tokens, tokens);
    assert_int_equal(result.bytes, bytes);
    assert_true(fabs(result.nll - sum) < SAME_SUMS * sum);
    assert_true(fabs(result.perplexity - exp(sum / (double)tokens)) < SAME_SUMS * result.perplexity);
    assert_true(fabs(result.bits_per_byte - sum / log(2) / (double)bytes) < SAME_SUMS * result.bits_per_byte);
    OK(mh_eval_perplexity(model, tiny_tokenizer, &path, 1, stride, NULL, &again));
    assert_true(result.nll == again.nll);
    mh_model_free(model);
}

static const char *const documents[] = {
    "The fox.", "A dog and a ship.", "Once upon a time there was a quick brown dog that sang at night.", "x",
    "It wrote about the sea, and about the ships on the sea, one after another, and the lazy fox."};

static void test_perplexity_of_short_documents(void **state)
{
    (void)state;
    check_perplexity(256, 0, 0, documents, 5);
    check_perplexity(256, 0, 6, documents, 5);
}

static void test_perplexity_by_windows(void **state)
{
    (void)state;
    for (int64_t stride = 0; stride <= 16; stride += 4)
        check_perplexity(16, stride, 0, documents, 5);
    check_perplexity(7, 0, 6, documents, 5); /* an odd context */
    check_perplexity(1, 1, 0, documents, 2);
}

/* Batches of any size, the last one not full, give the sum over sequences. */
static void test_perplexity_of_batches(void **state)
{
    (void)state;
    enum { LENGTH = 24 };
    mh_config config = tiny_config(LENGTH, 6);
    mh_model *model = tiny_model(&config, MH_PRECISION_F32, 22);
    const char *input = tiny_path("text.txt"), *folder = tiny_path("data");
    mh_build build = {
        .tokenizer = tiny_path("tiny.model"), .inputs = &input, .input_count = 1, .output = folder};
    OK(mh_data_build(&build, NULL, NULL));
    mh_batches *batches;
    OK(mh_batches_open(&batches, folder, "train", LENGTH, 1, NULL));
    int64_t sequences = mh_batches_sequences(batches);
    assert_true(sequences >= 4);
    if (sequences % 3 == 0)
        sequences--;

    double sum = 0;
    for (int64_t i = 0; i < sequences; i++) {
        int32_t token[LENGTH], target[LENGTH];
        mh_batches_in_order(batches, i, token, target, NULL);
        for (int64_t n = 0; n < LENGTH; n++)
            sum += loss_after(model, token, n + 1, target[n]);
    }
    mh_pass *pass;
    mh_perplexity result;
    OK(mh_pass_create(&pass, model, (mh_pass_shape){.batch = 3, .rows = LENGTH, .capacity = LENGTH}));
    int stop = 1; /* seen before the last batch only */
    mh_progress progress = {.stop = &stop};
    FAILS(MH_EINTERRUPTED, "stopped after 3 of",
          mh_eval_batches(model, pass, batches, sequences, false, &progress, &result));
    OK(mh_eval_batches(model, pass, batches, 3, false, &progress, &result));
    OK(mh_eval_batches(model, pass, batches, sequences, false, NULL, &result));
    assert_int_equal(result.tokens, sequences * LENGTH);
    assert_true(fabs(result.nll - sum) < SAME_SUMS * sum);
    assert_true(result.bytes > 0);
    mh_pass_free(pass);
    mh_batches_close(batches);
    mh_model_free(model);
}

static void test_perplexity_refuses(void **state)
{
    (void)state;
    mh_config config = tiny_config(16, 0);
    mh_model *model = tiny_model(&config, MH_PRECISION_F32, 23);
    const char *path = tiny_path("text.txt"), *missing = tiny_path("no-such.txt");
    mh_perplexity result;
    FAILS(MH_EVALUE, "stride is 17", mh_eval_perplexity(model, tiny_tokenizer, &path, 1, 17, NULL, &result));
    FAILS(MH_EIO, "no-such.txt", mh_eval_perplexity(model, tiny_tokenizer, &missing, 1, 0, NULL, &result));
    int stop = 1;
    mh_progress progress = {.stop = &stop};
    FAILS(MH_EINTERRUPTED, "stopped in document 1",
          mh_eval_perplexity(model, tiny_tokenizer, &path, 1, 0, &progress, &result));
    model->config.bos = -1;
    FAILS(MH_EVALUE, "model.bos is unset",
          mh_eval_perplexity(model, tiny_tokenizer, &path, 1, 0, NULL, &result));
    model->config.vocab--;
    model->config.bos = 1;
    FAILS(MH_EMISMATCH, "320 pieces", mh_eval_perplexity(model, tiny_tokenizer, &path, 1, 0, NULL, &result));
    model->config.vocab++;
    model->params.value[model->params.list[model->norm].offset] = NAN;
    FAILS(MH_EVALUE, "NaN", mh_eval_perplexity(model, tiny_tokenizer, &path, 1, 0, NULL, &result));
    model->params.value[model->params.list[model->norm].offset] = 1e30f;
    OK(mh_eval_perplexity(model, tiny_tokenizer, &path, 1, 0, NULL, &result));
    assert_true(isinf(result.perplexity));
    mh_model_free(model);
}

/* ---- zero-shot tasks ----------------------------------------------------------------------------------- */

static const char *task_folder(void)
{
    const char *folder = tiny_path("bench");
    OK(mh_make_dirs(folder));
    return folder;
}

static const char *put_file(const char *folder, const char *name, const char *text)
{
    static char path[MH_PATH];
    OK(mh_path_join(path, folder, name));
    OK(mh_file_write(path, text, strlen(text)));
    return path;
}

static void expect_choice(const mh_items *items, int64_t i, int c, const char *context, const char *answer,
                          bool correct)
{
    assert_true(i < items->count && c < items->item[i].count);
    assert_string_equal(items->item[i].choice[c].context, context);
    assert_string_equal(items->item[i].choice[c].answer, answer);
    assert_int_equal(items->item[i].choice[c].correct, correct);
}

/* Every format, with the prompts of the harness (tests/interop compares them with its own). */
static void test_task_prompts(void **state)
{
    (void)state;
    const char *folder = task_folder();
    const mh_task_options options = {.data = folder};
    mh_items items;

    put_file(
        folder, "arc_easy.jsonl",
        "\xef\xbb\xbf{\"query\": \"Question: Why?\", \"choices\": [\"a\", \"b c\", \"d\"], \"gold\": 1}\r\n"
        "\n"
        "{\"id\": 7, \"gold\": 0, \"query\": \"Question: \\u00c9?\", \"choices\": [\"x\", \"y\"]}");
    OK(mh_task_load(&items, "arc_easy", &options));
    assert_int_equal(items.count, 2);
    assert_int_equal(items.item[1].line, 3);
    assert_int_equal(items.item[1].number, 1);
    expect_choice(&items, 0, 0, "Question: Why?\nAnswer:", "a", false);
    expect_choice(&items, 0, 1, "Question: Why?\nAnswer:", "b c", true);
    expect_choice(&items, 1, 0, "Question: \xc3\x89?\nAnswer:", "x", true);
    assert_ptr_equal(items.item[0].choice[0].context, items.item[0].choice[2].context);
    mh_items_release(&items);

    put_file(folder, "piqa.jsonl",
             "{\"query\": \"Question: dry\\n\", \"choices\": [\"a\", \"b\"], \"gold\": 0}\n");
    OK(mh_task_load(&items, "piqa", &options));
    expect_choice(&items, 0, 0, "Question: dry\nAnswer:", "a", true);
    mh_items_release(&items);

    put_file(folder, "boolq.jsonl",
             "{\"query\": \"Passage: P.\\nQuestion: q?\", \"choices\": [\"no\", \"yes\"], \"gold\": 1}\n");
    OK(mh_task_load(&items, "boolq", &options));
    expect_choice(&items, 0, 1, "P.\nQuestion: q?\nAnswer:", "yes", true);
    mh_items_release(&items);

    put_file(folder, "winogrande.jsonl",
             "{\"context_options\": [\"A saw B so A\", \"A saw B so B\"], \"continuation\": \"ran.\", "
             "\"gold\": 1}\n");
    OK(mh_task_load(&items, "winogrande", &options));
    expect_choice(&items, 0, 0, "A saw B so A", "ran.", false);
    expect_choice(&items, 0, 1, "A saw B so B", "ran.", true);
    mh_items_release(&items);

    put_file(folder, "hellaswag_val_full.txt",
             "Skiing: She skis. the  man\n2\nruns.\nfalls [x] down.\n one \n[a]t    w   [b]o [c\n"
             "How to [b] ski: Go \"there.\" you [to.\n0\na\nb\nc\nd\n"
             "Golf: He hits. \"what now!\" 5 men\n0\na\nb\nc\nd\n\n");
    OK(mh_task_load(&items, "hellaswag", &options));
    assert_int_equal(items.count, 3);
    assert_int_equal(items.item[1].line, 7);
    expect_choice(&items, 0, 0, "Skiing: She skis. The man", "runs.", false);
    expect_choice(&items, 0, 1, "Skiing: She skis. The man", "falls down.", false);
    expect_choice(&items, 0, 2, "Skiing: She skis. The man", "one", true);
    expect_choice(&items, 0, 3, "Skiing: She skis. The man", "t  w  o [c", false);
    expect_choice(&items, 1, 0, "How to ski: Go \"there.\" you [to.", "a", true);
    expect_choice(&items, 2, 0, "Golf: He hits. \"what now!\" 5 men", "a", true);
    mh_items_release(&items);

    put_file(folder, "rte_dev.tsv",
             "sentence1\tsentence2\tlabel\tidx\n"
             "A fox.\tAn animal.\t0\t0\n"
             "\"He said \"\"no\"\" twice.\"\t\"\"\"No\"\" it is.\"\t1\t1\r\n");
    OK(mh_task_load(&items, "rte", &options));
    expect_choice(&items, 0, 0, "A fox.\nQuestion: An animal. True or False?\nAnswer:", "True", true);
    expect_choice(&items, 1, 1,
                  "He said \"no\" twice.\nQuestion: \"No\" it is. True or False?\nAnswer:", "False", true);
    mh_items_release(&items);

    put_file(folder, "truthfulqa_mc.json",
             "[{\"question\": \"Why?\", \"mc1_targets\": {\"So.\": 1, \"Not.\": 0},\n"
             "  \"mc2_targets\": {\"So.\": 1, \"Not.\": 0, \"It is.\": 1}}]");
    OK(mh_task_load(&items, "truthfulqa_mc2", &options));
    const char *context = items.item[0].choice[2].context;
    assert_memory_equal(context, "Q: What is human life", 21);
    const char *end = "held in Barcelona, Spain.\n\nQ: Why?\nA:";
    assert_string_equal(context + strlen(context) - strlen(end), end);
    mh_items_release(&items);

    OK(mh_task_load(
        &items,
        put_file(folder, "own.jsonl", "{\"query\": \"Q:\", \"choices\": [\"a\", \"b\"], \"gold\": 0}"),
        &(mh_task_options){0}));
    expect_choice(&items, 0, 1, "Q:", "b", false);
    mh_items_release(&items);
}

/* What is wrong with a question is told with file and line and counted; the others are asked. */
static void test_task_files_with_errors(void **state)
{
    (void)state;
    static const struct {
        const char *task, *file, *text;
        int64_t left_out;
        const char *complaint;
    } cases[] = {
        {"arc_easy", "arc_easy.jsonl",
         "{\"query\": \"Question: a\", \"choices\": [\"x\", \"y\"], \"gold\": 0}\n"
         "{\"query\": \"Question: a\", \"choices\": [\"x\", \"y\"], \"gold\": 0\n"
         "{\"query\": \"Why?\", \"choices\": [\"x\", \"y\"], \"gold\": 0}\n"
         "{\"query\": \"Question: a\", \"choices\": [\"x\", \"y\"], \"gold\": 2}\n"
         "{\"query\": \"Question: a\", \"choices\": [\"x\", \"y\"], \"gold\": \"1\"}\n"
         "{\"query\": \"Question: a\", \"choices\": [\"x\", 3], \"gold\": 0}\n"
         "{\"query\": \"Question: a\", \"choices\": [\"x\", \"\"], \"gold\": 0}\n"
         "{\"query\": \"Question: a\", \"choices\": [\"x\"], \"gold\": 0}\n"
         "{\"choices\": [\"x\", \"y\"], \"gold\": 0}\n"
         "{\"query\": \"Question: \xff\", \"choices\": [\"x\", \"y\"], \"gold\": 0}\n"
         "[]\n",
         10,
         "arc_easy.jsonl:2: it is not valid JSON|arc_easy.jsonl:3: its \"query\" does not begin with "
         "\"Question: \"|"
         "arc_easy.jsonl:4: \"gold\" is 2, but its 2 choices|arc_easy.jsonl:5: it has no whole number "
         "\"gold\"|"
         "arc_easy.jsonl:6: choice 1 is no string|arc_easy.jsonl:7: choice 1 is empty|"
         "arc_easy.jsonl:8: it has no list \"choices\"|arc_easy.jsonl:9: it has no string \"query\"|"
         "arc_easy.jsonl:10: it is not valid UTF-8|arc_easy.jsonl:11: it has no string \"query\""},
        {"piqa", "piqa.jsonl",
         "{\"query\": \"Question: a\\n\", \"choices\": [\"x\", \"y\"], \"gold\": 0}\n"
         "{\"query\": \"Question: a\", \"choices\": [\"x\", \"y\"], \"gold\": 0}",
         1, "piqa.jsonl:2: its \"query\" does not end in a newline"},
        {"winogrande", "winogrande.jsonl",
         "{\"context_options\": [\"A\", \"B\"], \"continuation\": \"x\", \"gold\": 0}\n"
         "{\"context_options\": [\"A\", \"B\"], \"gold\": 0}",
         1, "winogrande.jsonl:2: it has no string \"continuation\""},
        {"hellaswag", "hellaswag_val_full.txt", "c\n0\na\nb\nc\nd\nc\n4\na\nb\nc\nd\nc\n0\na\n", 2,
         "full.txt:7: its second line must be|full.txt:13: the file ends after 3 of this question's 6 lines"},
        {"rte", "rte_dev.tsv",
         "sentence1\tsentence2\tlabel\tidx\na\tb\t0\t0\na\tb\na\tb\tentailment\t0\n\"a\tb\t0\t0\n\"a\"x\tb\t0"
         "\t0\n",
         4,
         "rte_dev.tsv:3: it has less than three fields|rte_dev.tsv:4: its label is \"entailment\"|"
         "rte_dev.tsv:5: it has less than|rte_dev.tsv:6: it has less than"},
        {"truthfulqa_mc1", "truthfulqa_mc.json",
         "[{\"question\": \"a\", \"mc1_targets\": {\"b\": 1, \"c\": 0}}, {\"question\": \"a\"}, 3,\n"
         "{\"question\": \"a\", \"mc1_targets\": {\"b\": 1, \"c\": 2}}, "
         "{\"question\": \"a\", \"mc1_targets\": {\"b\": 0, \"c\": 0}}]",
         4,
         "mc.json: question 2: \"mc1_targets\" has no true answer|mc.json: question 3: it has no string|"
         "mc.json: question 4: an answer in \"mc1_targets\" is neither|mc.json: question 5: \"mc1_targets\" "
         "has no true"},
    };
    const char *folder = task_folder();
    const mh_task_options options = {.data = folder};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        mh_items items;
        put_file(folder, cases[i].file, cases[i].text);
        OK(mh_task_load(&items, cases[i].task, &options));
        assert_int_equal(items.count, 1);
        assert_int_equal(items.left_out, cases[i].left_out);
        char wanted[2048], *rest = wanted, *said = items.complaints.data;
        snprintf(wanted, sizeof wanted, "%s", cases[i].complaint);
        for (char *part; (part = strsep(&rest, "|")) != NULL;) {
            char *line = strsep(&said, "\n");
            if (strstr(line, part) == NULL)
                fail_msg("\"%s\", expected \"%s\"", line, part);
        }
        assert_string_equal(said, "");
        mh_items_release(&items);
    }
}

static void test_task_load_refuses(void **state)
{
    (void)state;
    const char *folder = task_folder();
    mh_task_options options = {.data = folder};
    mh_items items;
    FAILS(MH_EUSAGE, "there is no task 'arc_eazy', the nearest is arc_easy;",
          mh_task_load(&items, "arc_eazy", &options));
    FAILS(MH_EUSAGE, "add --data DIR", mh_task_load(&items, "rte", &(mh_task_options){0}));
    FAILS(MH_EIO, "has no arc_challenge.jsonl", mh_task_load(&items, "arc_challenge", &options));
    FAILS(MH_EIO, "absent.jsonl", mh_task_load(&items, tiny_path("absent.jsonl"), &options));
    FAILS(MH_EFORMAT, "it is empty", mh_task_load(&items, put_file(folder, "own.jsonl", ""), &options));
    FAILS(MH_EFORMAT, "holds no question that can be asked; correct it or name another: ",
          mh_task_load(&items, put_file(folder, "own.jsonl", "{}\n{\n"), &options));
    FAILS(MH_EFORMAT, "own.jsonl:1: it has no string",
          mh_task_load(&items, put_file(folder, "own.jsonl", "{}"), &options));
    put_file(folder, "rte_dev.tsv", "index\tsentence1\tsentence2\tlabel\n0\ta\tb\t0\n");
    FAILS(MH_EFORMAT, "its columns must be", mh_task_load(&items, "rte", &options));
    put_file(folder, "truthfulqa_mc.json", "{\"question\": \"a\"}");
    FAILS(MH_EFORMAT, "is no list of questions", mh_task_load(&items, "truthfulqa_mc1", &options));
    FAILS(MH_EVALUE, "is a folder", mh_task_load(&items, folder, &options));
}

#define OWN(query, gold) "{\"query\": \"" query "\", \"choices\": [\"x\", \"y\"], \"gold\": " #gold "}\n"

/* The first of the file come before each question, and no question is its own example. */
static void test_task_shots(void **state)
{
    (void)state;
    const char *folder = task_folder(), *path = tiny_path("bench/own.jsonl"),
               *few = tiny_path("bench/few.jsonl");
    put_file(folder, "own.jsonl", OWN("A", 0) OWN("B", 1) OWN("C", 1));
    mh_task_options options = {.shots = 2, .shots_path = path};
    mh_items items;
    OK(mh_task_load(&items, path, &options));
    assert_int_equal(items.shots, 2);
    expect_choice(&items, 0, 1, "B y\n\nC y\n\nA", "y", false);
    expect_choice(&items, 1, 0, "A x\n\nC y\n\nB", "x", false);
    expect_choice(&items, 2, 1, "A x\n\nB y\n\nC", "y", true);
    mh_items_release(&items);

    options.limit = 2;
    OK(mh_task_load(&items, path, &options));
    assert_int_equal(items.count, 2);
    mh_items_release(&items);

    options.shots = 3;
    FAILS(MH_EVALUE, "holds only 2 examples besides the question itself, not 3",
          mh_task_load(&items, path, &options));
    put_file(folder, "few.jsonl", OWN("A", 0) "{}\n");
    options.shots = 1;
    options.shots_path = few;
    FAILS(MH_EFORMAT, "few.jsonl:2: it has no string", mh_task_load(&items, path, &options));

    put_file(folder, "winogrande.jsonl",
             "{\"context_options\": [\"A\", \"B\"], \"continuation\": \"x\", \"gold\": 0}\n"
             "{\"context_options\": [\"C\", \"D\"], \"continuation\": \"y\", \"gold\": 1}");
    options = (mh_task_options){.data = folder, .shots = 1, .shots_path = folder};
    OK(mh_task_load(&items, "winogrande", &options));
    expect_choice(&items, 0, 0, "D y\n\nA", "x", true);
    expect_choice(&items, 0, 1, "D y\n\nB", "x", false);
    expect_choice(&items, 1, 1, "A x\n\nD", "y", true);
    mh_items_release(&items);

    put_file(folder, "truthfulqa_mc.json", "[{\"question\": \"a\", \"mc1_targets\": {\"b\": 1, \"c\": 0}}]");
    OK(mh_task_load(&items, "truthfulqa_mc1", &options)); /* has examples of its own */
    assert_int_equal(items.shots, 0);
    mh_items_release(&items);
}

/* The log-likelihood of a choice by the harness' rules, from its text alone. */
static double direct_score(const mh_model *model, const mh_choice *choice)
{
    int64_t context = model->config.context;
    mh_ids whole = {0}, before = {0};
    char text[1024];
    size_t length = strlen(choice->context);
    while (length > 0 && strchr(" \n", choice->context[length - 1]) != NULL)
        length--;
    snprintf(text, sizeof text, "%s %s", choice->context, choice->answer);
    OK(mh_ids_add(&whole, &(int32_t){(int32_t)model->config.bos}, 1));
    OK(mh_tokenizer_encode(tiny_tokenizer, text, strlen(text), &whole));
    OK(mh_tokenizer_encode(tiny_tokenizer, choice->context, length, &before));
    int64_t start = whole.count > context + 1 ? whole.count - context - 1 : 0;
    int32_t target[512];
    assert_true(whole.count <= 512);
    for (int64_t i = start; i < whole.count - 1; i++)
        target[i - start] = i + 1 > before.count ? whole.id[i + 1] : -1;
    double score = -loss_of(model, whole.id + start, whole.count - 1 - start, target);
    mh_ids_release(&whole);
    mh_ids_release(&before);
    return score;
}

/* Questions of many shapes: 2 to 5 choices, answers and contexts of all lengths, some alike in their
 * beginnings, spaces and newlines at the end of contexts, and contexts for each choice. */
static const char *put_questions(const char *folder, int count)
{
    static const char *const words[] = {"the",   "fox",     "ships",    "at",
                                        "night", "The sea", "who sang", "\\u00e9"};
    static const char *const ends[] = {"", " ", "\\n", "?"};
    mh_text text = {0};
    uint64_t index = 0;
#define PICK(n) ((int)(mh_uniform(24, mh_stream(MH_RANDOM_TEST, 0, 0), index++) * (n)))
    for (int i = 0; i < count; i++) {
        int choices = 2 + PICK(4);
        OK(mh_text_printf(&text, "{\"query\": \""));
        for (int n = PICK(20); n >= 0; n--)
            OK(mh_text_printf(&text, "%s ", words[PICK(8)]));
        if (i == 5)
            text.length -= strlen("the "); /* may leave an odd end, or nothing */
        OK(mh_text_printf(&text, "%s\", \"choices\": [", ends[PICK(4)]));
        for (int c = 0; c < choices; c++) {
            OK(mh_text_printf(&text, "%s\"", c ? ", " : ""));
            for (int n = PICK(6); n >= 0; n--)
                OK(mh_text_printf(&text, "%s%s", words[PICK(8)], n ? " " : "\""));
        }
        OK(mh_text_printf(&text, "], \"gold\": %d}\n", PICK(choices)));
    }
#undef PICK
    const char *path = put_file(folder, "many.jsonl", text.data);
    mh_text_release(&text);
    return path;
}

static void check_scores(const char *path, int64_t context, int64_t experts, int64_t *truncated)
{
    mh_config config = tiny_config(context, experts);
    mh_model *model = tiny_model(&config, MH_PRECISION_F32, 25);
    mh_items items;
    mh_task_result result;
    OK(mh_task_load(&items, path, &(mh_task_options){0}));
    OK(mh_task_score(model, tiny_tokenizer, &items, NULL, &result));
    assert_int_equal(result.items, items.count);
    *truncated = result.truncated;
    double n = (double)items.count, right = 0;
    for (int64_t i = 0; i < items.count; i++) {
        const mh_item *item = &items.item[i];
        int best = 0;
        for (int c = 0; c < item->count; c++) {
            double score = item->choice[c].score, direct = direct_score(model, &item->choice[c]);
            if (!(fabs(score - direct) < SAME_SUMS * fabs(direct)))
                fail_msg("question %lld, choice %d: %.9g, expected %.9g", (long long)i, c, score, direct);
            best = score > item->choice[best].score ? c : best;
        }
        right += item->choice[best].correct;
    }
    double mean = right / n;
    assert_true(mean > 0 && mean < 1);
    assert_int_equal(result.measures, 2);
    assert_string_equal(result.measured[0].name, "acc");
    assert_string_equal(result.measured[1].name, "acc_norm");
    assert_true(fabs(result.measured[0].mean - mean) < 1e-12);
    assert_true(fabs(result.measured[0].error - sqrt(mean * (1 - mean) / (n - 1))) < 1e-12);
    mh_items_release(&items);
    mh_model_free(model);
}

static void test_choice_scores(void **state)
{
    (void)state;
    int64_t truncated;
    const char *folder = task_folder();
    check_scores(put_questions(folder, 40), 256, 6, &truncated); /* several batches */
    assert_int_equal(truncated, 0);
    check_scores(put_questions(folder, 8), 256, 0, &truncated);
    check_scores(put_questions(folder, 12), 48, 6, &truncated); /* contexts are cut */
    assert_true(truncated > 3 && truncated < 12);
    put_file(folder, "winogrande.jsonl",
             "{\"context_options\": [\"\", \"The fox\", \"The sea\"], \"continuation\": \"sang.\", "
             "\"gold\": 1}\n");
    mh_config config = tiny_config(64, 0);
    mh_model *model = tiny_model(&config, MH_PRECISION_F32, 26);
    mh_items items;
    mh_task_result result;
    OK(mh_task_load(&items, "winogrande", &(mh_task_options){.data = folder}));
    OK(mh_task_score(model, tiny_tokenizer, &items, NULL, &result));
    assert_true(isnan(result.measured[0].error)); /* of a single question */
    for (int c = 0; c < 3; c++)
        assert_true(fabs(items.item[0].choice[c].score - direct_score(model, &items.item[0].choice[c])) <
                    1e-4);
    mh_items_release(&items);
    mh_model_free(model);
}

/* acc takes the likeliest, acc_norm the likeliest a character and not a byte; of equal ones the first. mc2 is
 * the true answers' share of the probability, wherever the scores lie. */
static void test_task_measures(void **state)
{
    (void)state;
    mh_choice choices[] = {{.answer = "\xc3\xa9\xc3\xa9", .score = -4, .correct = true},
                           {.answer = "abc", .score = -4.5},
                           {.answer = "abc", .score = -4.5}};
    mh_item item = {.choice = choices, .count = 3};
    const mh_measure *measure = mh_tasks[0].measure;
    assert_true(measure[0].of(&item) == 1);
    assert_true(measure[1].of(&item) == 0);
    choices[2].score = -4;
    assert_true(measure[0].of(&item) == 1);
    choices[1].correct = true;
    choices[2].score = -4.5;
    assert_true(measure[1].of(&item) == 1);

    const mh_task *mc2 = &mh_tasks[MH_TASKS - 1];
    assert_string_equal(mc2->name, "truthfulqa_mc2");
    for (int shift = 0; shift <= 5000; shift += 5000) {
        choices[0].score = -1 - shift;
        choices[1].score = -2 - shift;
        choices[2].score = -3 - shift;
        double share = (exp(-1) + exp(-2)) / (exp(-1) + exp(-2) + exp(-3));
        assert_true(fabs(mc2->measure[0].of(&item) - share) < 1e-12);
    }
}

static void test_task_log(void **state)
{
    (void)state;
    const char *folder = task_folder(), *path = tiny_path("bench/own.jsonl");
    put_file(folder, "own.jsonl", "{}\n" OWN("A", 1));
    mh_items items;
    OK(mh_task_load(&items, path, &(mh_task_options){0}));
    items.item[0].choice[0].score = -2;
    items.item[0].choice[1].score = -1.5;
    mh_writer log;
    OK(mh_writer_open(&log, tiny_path("log")));
    OK(mh_task_log(&items, &log));
    OK(mh_writer_commit(&log));
    json_t *got, *want = json_pack("{s:s, s:i, s:[[s, s], [s, s]], s:[f, f], s:[i], s:b, s:f, s:f}", "task",
                                   path, "doc_id", 1, "arguments", "A", " x", "A", " y", "loglikelihoods",
                                   -2.0, -1.5, "target", 1, "truncated", 0, "acc", 1.0, "acc_norm", 1.0);
    OK(mh_json_read(&got, tiny_path("log")));
    assert_true(json_equal(got, want));
    json_decref(got);
    json_decref(want);
    mh_items_release(&items);
}

static void test_task_score_refuses(void **state)
{
    (void)state;
    const char *folder = task_folder(), *path = tiny_path("bench/own.jsonl");
    put_file(folder, "own.jsonl",
             OWN("A", 0) "{\"query\": \"B\", \"gold\": 0, \"choices\": [\"x\", "
                         "\"The quick brown fox jumps over the lazy dog and the people on the ships.\"]}\n");
    mh_config config = tiny_config(8, 0);
    mh_model *model = tiny_model(&config, MH_PRECISION_F32, 27);
    mh_items items;
    mh_task_result result;
    OK(mh_task_load(&items, path, &(mh_task_options){0}));
    OK(mh_task_score(model, tiny_tokenizer, &items, NULL, &result)); /* a choice longer than the context */
    assert_int_equal(result.items, 1);
    assert_int_equal(items.left_out, 1);
    assert_non_null(strstr(items.complaints.data, "own.jsonl:2: choice 1 has "));

    model->config.context = 1;
    FAILS(MH_EVALUE,
          "holds no question for this model: ", mh_task_score(model, tiny_tokenizer, &items, NULL, &result));
    mh_items_release(&items);
    model->config.context = 8;

    OK(mh_task_load(&items, path, &(mh_task_options){.limit = 1}));
    model->config.moe.experts = 4, model->config.moe.capacity_factor = 1;
    FAILS(MH_EVALUE, "cannot score choices", mh_task_score(model, tiny_tokenizer, &items, NULL, &result));
    model->config.moe.experts = 0, model->config.moe.capacity_factor = 0;
    model->config.bos = -1;
    FAILS(MH_EVALUE, "model.bos is unset", mh_task_score(model, tiny_tokenizer, &items, NULL, &result));
    model->config.bos = 1;
    model->params.value[model->params.list[model->norm].offset] = NAN;
    FAILS(MH_EVALUE, "NaN for question 1 of", mh_task_score(model, tiny_tokenizer, &items, NULL, &result));
    mh_items_release(&items);
    mh_model_free(model);

    config = tiny_config(256, 0);
    model = tiny_model(&config, MH_PRECISION_F32, 27);
    OK(mh_task_load(&items, put_questions(folder, 60), &(mh_task_options){0}));
    int stop = 1;
    FAILS(MH_EINTERRUPTED, "stopped after ",
          mh_task_score(model, tiny_tokenizer, &items, &(mh_progress){.stop = &stop}, &result));
    mh_items_release(&items);
    mh_model_free(model);
}

/* The real files are read to the last question. */
static void test_real_tasks(void **state)
{
    (void)state;
    static const int64_t counts[MH_TASKS] = {2376, 1172, 1838, 500, 3270, 1267, 10042, 277, 817, 817};
    const char *data = getenv("MHMOE_DATA");
    if (data == NULL) {
        print_message("skipped: MHMOE_DATA is not set, so there are no real tasks to read\n");
        skip();
    }
    char folder[MH_PATH];
    OK(mh_path_join(folder, data, "bench"));
    for (int i = 0; i < MH_TASKS; i++) {
        mh_items items;
        OK(mh_task_load(&items, mh_tasks[i].name, &(mh_task_options){.data = folder}));
        assert_int_equal(items.count, counts[i]);
        assert_int_equal(items.left_out, 0);
        mh_items_release(&items);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_f32),
        cmocka_unit_test(test_golden_bf16),
        cmocka_unit_test(test_verify_can_fail),
        cmocka_unit_test(test_perplexity_of_short_documents),
        cmocka_unit_test(test_perplexity_by_windows),
        cmocka_unit_test(test_perplexity_of_batches),
        cmocka_unit_test(test_perplexity_refuses),
        cmocka_unit_test(test_task_prompts),
        cmocka_unit_test(test_task_files_with_errors),
        cmocka_unit_test(test_task_load_refuses),
        cmocka_unit_test(test_task_shots),
        cmocka_unit_test(test_choice_scores),
        cmocka_unit_test(test_task_measures),
        cmocka_unit_test(test_task_log),
        cmocka_unit_test(test_task_score_refuses),
        cmocka_unit_test(test_real_tasks),
    };
    return cmocka_run_group_tests(tests, tiny_setup, tiny_teardown);
}
