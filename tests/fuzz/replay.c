/* Feeds a target the files of its corpus: what libFuzzer's own main does, for compilers without it. */
#include "fuzz.h"

#include <dirent.h>

int main(int argc, char **argv)
{
    int count = 0;
    DIR *dir = argc == 2 ? opendir(argv[1]) : NULL;
    if (dir == NULL) {
        fprintf(stderr, "usage: %s CORPUS_FOLDER\n", argv[0]);
        return 2;
    }
    for (const struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        char path[MH_PATH];
        mh_text input;
        if (entry->d_name[0] == '.')
            continue;
        hold(mh_path_join(path, argv[1], entry->d_name) == MH_OK &&
             mh_file_read(path, 1 << 24, &input) == MH_OK);
        fprintf(stderr, "%s\n", path); /* the last one is what it failed on */
        LLVMFuzzerTestOneInput((const uint8_t *)input.data, input.length);
        mh_text_release(&input);
        count++;
    }
    closedir(dir);
    return count > 0 ? 0 : 1; /* an empty corpus proves nothing */
}
