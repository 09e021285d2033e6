/* Trains a small MH-MoE model on a text: train TOKENIZER TEXT FOLDER
 * TOKENIZER is any SentencePiece model with byte pieces, say of `mhmoe tokenizer train`. FOLDER becomes a
 * checkpoint for `mhmoe generate` and all other commands. */
#include <mhmoe.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STEPS = 200 };

/* Of the keys that `mhmoe config` lists; they could also stand in a file for mh_recipe_load. */
static const char *const settings[] = {"model.preset=mhmoe-h2", "model.dim=64",    "model.layers=2",
                                       "model.context=64",      "train.steps=200", "train.batch=8",
                                       "train.rate=3e-3",       "train.warmup=20"};

static void must(mh_status status)
{
    if (status == MH_OK)
        return;
    fprintf(stderr, "%s\n", mh_message());
    exit(1);
}

/* The tokens of a file. */
static mh_ids read_tokens(const mh_tokenizer *tokenizer, const char *path)
{
    mh_ids ids = {0};
    FILE *file = fopen(path, "rb");
    long length = file && fseek(file, 0, SEEK_END) == 0 ? ftell(file) : -1;
    char *text = length > 0 ? malloc((size_t)length) : NULL;
    if (text == NULL || fseek(file, 0, SEEK_SET) != 0 || fread(text, (size_t)length, 1, file) != 1)
        fprintf(stderr, "%s cannot be read, or is empty\n", path), exit(1);
    must(mh_tokenizer_encode(tokenizer, text, (size_t)length, &ids));
    free(text);
    fclose(file);
    return ids;
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return fprintf(stderr, "usage: %s TOKENIZER TEXT FOLDER\n", argv[0]), 2;
    FILE *there = fopen(argv[3], "r");
    if (there) /* mh_trainer_save would say so, after all the training */
        return fprintf(stderr, "%s exists already; choose another folder\n", argv[3]), fclose(there), 1;
    mh_tokenizer *tokenizer;
    mh_recipe *recipe;
    mh_trainer *trainer;
    must(mh_tokenizer_load(&tokenizer, argv[1]));
    must(mh_recipe_load(&recipe, NULL));
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++)
        must(mh_recipe_set(recipe, settings[i]));
    must(mh_trainer_create(&trainer, recipe, tokenizer, NULL));
    mh_recipe_free(recipe);

    mh_ids text = read_tokens(tokenizer, argv[2]);
    int64_t sequences = mh_trainer_batch(trainer), length = mh_trainer_sequence(trainer);
    if (text.count <= length)
        return fprintf(stderr, "%s has only %lld tokens\n", argv[2], (long long)text.count), 1;

    /* Sequences begin anywhere in the text; the target of a token is the one after it. */
    size_t bytes = (size_t)length * sizeof(int32_t);
    int32_t *token = malloc((size_t)sequences * bytes), *target = malloc((size_t)sequences * bytes);
    mh_batch batch = {token, target, NULL};
    mh_update update;
    for (int step = 1; step <= STEPS; step++) {
        for (int64_t i = 0; i < sequences; i++) {
            const int32_t *at = text.id + rand() % (text.count - length);
            memcpy(token + i * length, at, bytes);
            memcpy(target + i * length, at + 1, bytes);
        }
        must(mh_trainer_step(trainer, &batch, &update));
        if (step % 20 == 0)
            printf("step %3d  loss %.4f\n", step, update.loss);
    }
    must(mh_trainer_save(trainer, argv[3]));
    printf("now try: mhmoe generate %s --prompt 'The'\n", argv[3]);

    free(token);
    free(target);
    mh_ids_release(&text);
    mh_trainer_free(trainer);
    mh_tokenizer_free(tokenizer);
    return 0;
}
