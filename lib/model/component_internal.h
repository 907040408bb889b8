/*
 * What component.c (opening folders) and taesd.c (folders without config.json) share; the parsing is apart from files for fuzzing.
 */
#ifndef QUAD_LIB_MODEL_COMPONENT_INTERNAL_H
#define QUAD_LIB_MODEL_COMPONENT_INTERNAL_H

#include "lib/model/component.h"

/* What a config.json describes. QD_EUNSUPPORTED names the class, QD_EINPUT what is missing. */
QD_CHECK enum qd_status qd_component_kind_of(const char *what, const json_t *json, enum qd_component_kind *kind);
/* Kind and configuration of `component`, which is zeroed. */
QD_CHECK enum qd_status qd_component_config_parse(struct qd_component *component, const char *what, const json_t *json);

/* Whether `folder` has the original files of TAESD. */
bool qd_original_taesd(const char *folder);
/* Opens those of component->folder. */
QD_CHECK enum qd_status qd_original_taesd_open(struct qd_component *component);

#endif
