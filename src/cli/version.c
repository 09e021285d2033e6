/* mhmoe --version: what this program was made of. */
#include "cli/cli.h"
#include "commit.h"
#include "kernel/kernel.h"

#include <archive.h>
#include <string.h>
#include <xxhash.h>
#include <yaml.h>
#ifdef MHMOE_ONEDNN
#    include <oneapi/dnnl/dnnl.h>
#endif

json_t *cli_libraries(void)
{
    json_t *list = json_object();
#ifdef MHMOE_ONEDNN
    const dnnl_version_t *dnnl = dnnl_version();
    mh_json_set(list, "oneDNN", json_sprintf("%d.%d.%d", dnnl->major, dnnl->minor, dnnl->patch));
#endif
    mh_json_set(list, "OpenMP", json_sprintf("%d", _OPENMP));
#ifdef SENTENCEPIECE_VERSION
    mh_json_set(list, "SentencePiece", json_string(SENTENCEPIECE_VERSION));
#endif
    mh_json_set(list, "jansson", json_string(jansson_version_str()));
    mh_json_set(list, "libyaml", json_string(yaml_get_version_string()));
    mh_json_set(list, "libarchive", json_string(archive_version_string() + strlen("libarchive ")));
    unsigned xxhash = XXH_versionNumber();
    mh_json_set(list, "xxHash", json_sprintf("%u.%u.%u", xxhash / 10000, xxhash / 100 % 100, xxhash % 100));
    return list;
}

int cli_version(void)
{
    printf("mhmoe %s (commit %s)\n", MHMOE_VERSION, MHMOE_COMMIT);
    printf("%-17s %s\n", "compiler", MHMOE_COMPILER);
    printf("%-17s", "instruction sets");
    for (int isa = 0; isa <= (int)mh_isa_best(); isa++)
        printf(" %s", mh_isa_name((mh_isa)isa));
    puts("");
    json_t *libraries = cli_libraries(), *version;
    const char *name;
    json_object_foreach(libraries, name, version)
        printf("%-17s %s\n", name, json_string_value(version));
    json_decref(libraries);
    return CLI_OK;
}
