/* Names of the inputs that carry an adapter's tensors. */
#include "lib/ir/ir.h"

static const char *const suffixes[] = {
#define QD_LORA_TENSOR_SUFFIX(id, suffix) suffix,
	QD_LORA_TENSOR_LIST(QD_LORA_TENSOR_SUFFIX)
#undef QD_LORA_TENSOR_SUFFIX
};

const char *qd_lora_suffix(enum qd_lora_tensor tensor)
{
	return suffixes[tensor];
}

enum qd_lora_tensor qd_lora_tensor_of(const char *name)
{
	int tensor = 0;

	while (tensor < QD_LORA_NONE && !qd_ends_with(name, suffixes[tensor]))
		tensor++;
	return (enum qd_lora_tensor)tensor;
}

bool qd_graph_has_lora_inputs(const struct qd_graph *g)
{
	for (size_t i = 0; i < g->n_inputs; i++)
		if (qd_lora_tensor_of(g->values[g->inputs[i]].name) != QD_LORA_NONE)
			return true;
	return false;
}
