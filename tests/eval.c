/* Verification against the authors' code, and that it can fail; perplexity against sums made directly. */
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

/* Loss of predicting `target` after `count` tokens, computed alone. */
static double loss_after(const mh_model *model, const int32_t *token, int64_t count, int32_t target)
{
    mh_pass *pass;
    int32_t targets[512];
    float nll[512];
    assert_true(count <= 512);
    memset(targets, -1, sizeof targets);
    targets[count - 1] = target;
    mh_call call = {.token = token, .batch = 1, .rows = count};
    OK(mh_pass_create(&pass, model, (mh_pass_shape){.batch = 1, .rows = count, .capacity = count}));
    mh_forward(pass, model, &call);
    mh_loss(pass, model, &call, targets, nll, 0);
    mh_pass_free(pass);
    return (double)nll[count - 1];
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
    };
    return cmocka_run_group_tests(tests, tiny_setup, tiny_teardown);
}
