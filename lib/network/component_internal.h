/*
 * What component.c (opening folders), taesd.c (folders without config.json) and component_init.c (random weights) share; the
 * parsing is apart from files for fuzzing.
 */
#ifndef QUAD_LIB_NETWORK_COMPONENT_INTERNAL_H
#define QUAD_LIB_NETWORK_COMPONENT_INTERNAL_H

#include "lib/network/network.h"

/* Kind and configuration of `component`, which is zeroed. */
QD_CHECK enum qd_status qd_component_config_parse(struct qd_component *component, const char *what, const json_t *json);

/* qd_unet_init's work, for the parameters of several graphs in one file; and how many those of a graph are, added. (init.c) */
QD_CHECK enum qd_status qd_init_weights(
	const struct qd_graph *const *graphs, size_t n, uint64_t seed, enum qd_dtype dtype, const char *path, bool force);
void qd_count_parameters(const struct qd_graph *g, uint64_t *parameters, uint64_t *tensors);

/* Whether `folder` has the original files of TAESD. */
bool qd_original_taesd(const char *folder);
/* Opens those of component->folder. */
QD_CHECK enum qd_status qd_original_taesd_open(struct qd_component *component);

/* ---- fields that several classes have (component.c) ---- */
enum { QD_FIELD_MAX_CHANNELS = 1 << 16 };
/* An activation function: QD_OP_SIGMOID stands for silu. */
enum qd_op qd_config_act(struct qd_fields *r, const char *name, enum qd_op absent);
/* A native size, which nothing but inspect and defaults depend on: a number or [height, width]; 0 when absent or null. */
int64_t qd_config_size(struct qd_fields *r, const char *name);
/* Groups of the norms, 32 when absent. A null means "no final norm" to diffusers, which no published model uses. */
int64_t qd_config_groups(struct qd_fields *r, const char *name);

#endif
