/* A small tokenizer, small models and a folder to write to, for tests of what works on whole models. */
#ifndef MH_TINY_H
#define MH_TINY_H

#include "model/model.h"
#include "test.h"

#include <stdlib.h>

static char tiny_folder[64];
static mh_tokenizer *tiny_tokenizer;

enum { TINY_VOCAB = 320 };

static inline const char *tiny_path(const char *name)
{
    static char path[4][MH_PATH]; /* that many may be in use at once */
    static int next;
    next = (next + 1) % 4;
    OK(mh_path_join(path[next], tiny_folder, name));
    return path[next];
}

/* For cmocka_run_group_tests. Letters beyond ASCII are left out: they become byte pieces. */
static inline int tiny_setup(void **state)
{
    (void)state;
    static const char text[] =
        "The quick brown fox jumps over the lazy dog. A dog is not a fox, and the fox knows it well.\n"
        "Once upon a time there was a small model that learned to write, one token after another.\n"
        "It wrote about the sea, the ships on the sea, and the people on the ships who sang at night.\n";
    strcpy(tiny_folder, "/tmp/mhmoe-test-XXXXXX");
    assert_non_null(mkdtemp(tiny_folder));
    OK(mh_file_write(tiny_path("text.txt"), text, strlen(text)));
    const char *input = tiny_path("text.txt"), *model = tiny_path("tiny.model");
    mh_tokenizer_training training = {
        .inputs = &input, .input_count = 1, .vocab = TINY_VOCAB, .sample_bytes = 1 << 20};
    OK(mh_tokenizer_train(&training, model, NULL, NULL));
    OK(mh_tokenizer_load(&tiny_tokenizer, model));
    return 0;
}

static inline int tiny_teardown(void **state)
{
    (void)state;
    mh_tokenizer_free(tiny_tokenizer);
    OK(mh_remove_tree(tiny_folder));
    return 0;
}

/* Two layers of width 32; with experts, the second is MH-MoE with two heads. */
static inline mh_config tiny_config(int64_t context, int64_t experts)
{
    mh_config config;
    json_t *json =
        json_pack("{s:{s:i, s:i, s:i, s:i, s:I, s:i, s:i, s:i, s:b}, s:{s:I, s:i, s:i}}", "model", "dim", 32,
                  "layers", 2, "attention_heads", 4, "kv_heads", 2, "context", (json_int_t)context, "vocab",
                  TINY_VOCAB, "bos", 1, "eos", 2, "tied_embeddings", experts > 0, "moe", "experts",
                  (json_int_t)experts, "heads", experts ? 2 : 0, "top_k", experts ? 2 : 0);
    OK(mh_config_from_json(&config, json, "tiny_config"));
    json_decref(json);
    return config;
}

static inline mh_model *tiny_model(const mh_config *config, mh_precision precision, uint64_t seed)
{
    mh_model *model;
    OK(mh_model_create(&model, config, precision, false));
    mh_model_init(model, seed);
    return model;
}

static inline void tiny_tokens(int32_t *token, int64_t count, uint64_t seed)
{
    for (int64_t i = 0; i < count; i++)
        token[i] = (int32_t)(mh_uniform(seed, mh_stream(MH_RANDOM_TEST, 0, 0), (uint64_t)i) * TINY_VOCAB);
}

#endif
