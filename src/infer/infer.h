/* infer: loading for inference (api.c), sessions (session.c), sampling (sampler.c) and text from a prompt
 * (generate.c). All of it is public and declared in include/mhmoe.h. */
#ifndef MH_INFER_H
#define MH_INFER_H

#include "model/model.h"

#endif
