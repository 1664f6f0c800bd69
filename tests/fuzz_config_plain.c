/* The configuration without libyaml. */
#define PGQRS_FUZZ_WITHOUT_YAML
#include "fuzz_config.c"
