/*
 * Reading the config.json of a component field by field, as diffusers and transformers do: an absent key means the default of the
 * class; a key that is there with null passes null; names in `_use_default_values` are dropped in favour of the defaults; keys that
 * start with an underscore and unknown keys are ignored. Values that this program does not implement are refused by name.
 */
#ifndef QUAD_LIB_MODEL_FIELDS_H
#define QUAD_LIB_MODEL_FIELDS_H

#include "lib/model/model.h"

enum { QD_FIELD_MAX_CHANNELS = 1 << 16 };

struct qd_fields {
	const char *what; /* the file, for messages */
	const json_t *json;
};

/* A field that the file gives and `_use_default_values` does not drop; NULL when absent. A null stays a null. */
const json_t *qd_field(const struct qd_fields *r, const char *name);
/* "'unet/config.json': field 'act_fn' is "x", needs NEED". */
QD_CHECK enum qd_status qd_field_refuse(
	const struct qd_fields *r, enum qd_status code, const char *name, const json_t *found, const char *need);
/* `value`, which is field `name` or an item of it, as a whole number. */
QD_CHECK enum qd_status qd_field_read_int(
	const struct qd_fields *r, const char *name, const json_t *value, int64_t low, int64_t high, int64_t *out);
/* One value: absent gives `absent`, and so does null (false for booleans). */
QD_CHECK enum qd_status qd_field_int(
	const struct qd_fields *r, const char *name, int64_t low, int64_t high, int64_t absent, int64_t *out);
QD_CHECK enum qd_status qd_field_number(const struct qd_fields *r, const char *name, double absent, double *out);
QD_CHECK enum qd_status qd_field_bool(const struct qd_fields *r, const char *name, bool absent, bool *out);
/* The same where null is no value. */
QD_CHECK enum qd_status qd_field_needed_int(
	const struct qd_fields *r, const char *name, int64_t low, int64_t high, int64_t absent, int64_t *out);
/* Item `i` of a list field of `blocks` items; the value itself when it is no list. QD_EINPUT when the length is wrong. */
QD_CHECK enum qd_status qd_field_item(
	const struct qd_fields *r, const char *name, const json_t *value, int blocks, int i, const json_t **out);
/* One number for every block, or a list of one for each, from 1 to `high`. */
QD_CHECK enum qd_status qd_field_ints(
	const struct qd_fields *r, const char *name, int blocks, int64_t high, int64_t absent, int64_t *out);
bool qd_field_is(const json_t *value, const char *text);

/* A field of which one or two values are implemented. `also` may be NULL; null in the file counts as the first when `null_too`. */
struct qd_field_choice {
	const char *name;
	const char *value, *also;
	bool null_too;
};
QD_CHECK enum qd_status qd_field_check_choice(const struct qd_fields *r, const struct qd_field_choice *choice);
/* An activation function: QD_OP_SIGMOID stands for silu. */
QD_CHECK enum qd_status qd_field_act(const struct qd_fields *r, const char *name, enum qd_op absent, enum qd_op *out);

#endif
