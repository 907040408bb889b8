/*
 * quad inspect on a single-file checkpoint: what lies beside its UNet.
 */
#include "cmd/inspect.h"

#include <stdio.h>

void qd_print_beside(const struct qd_model *model)
{
	struct qd_checkpoint_content contents[QD_CHECKPOINT_SECTIONS];
	char digits[QD_DIGITS];
	qd_checkpoint_contents(&model->weights.files[0], contents);
	for (int section = 0; section < QD_CHECKPOINT_SECTIONS; section++) {
		const struct qd_checkpoint_content *c = &contents[section];
		if (section == QD_CHECKPOINT_UNET || c->tensors == 0)
			continue;
		qd_print("  beside      %s: %s parameters in %zu tensors, %.3f GB", qd_checkpoint_section_name(section),
			qd_digits(c->parameters, digits), c->tensors, (double)c->bytes / 1e9);
		if (section == QD_CHECKPOINT_OTHER || section == QD_CHECKPOINT_EMA)
			qd_print(", not used");
		qd_print(section >= QD_CHECKPOINT_SCHEDULE || section == QD_CHECKPOINT_EMA ? " ('%s', ...)\n" : "\n", c->first);
	}
}

json_t *qd_beside_json(const struct qd_model *model)
{
	struct qd_checkpoint_content contents[QD_CHECKPOINT_SECTIONS];
	json_t *list = json_array();
	qd_checkpoint_contents(&model->weights.files[0], contents);
	for (int section = 0; section < QD_CHECKPOINT_SECTIONS; section++) {
		const struct qd_checkpoint_content *c = &contents[section];
		if (section == QD_CHECKPOINT_UNET || c->tensors == 0)
			continue;
		json_array_append_new(list, json_pack("{s:s,s:I,s:I,s:I,s:s}", "part", qd_checkpoint_section_name(section),
						    "tensors", (json_int_t)c->tensors, "parameters", (json_int_t)c->parameters,
						    "bytes", (json_int_t)c->bytes, "first", c->first));
	}
	return list;
}
