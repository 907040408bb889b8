/*
 * Constants that hold the same bytes under the same type and shape become one: shapes of reshapes, attention's scale, axes. Only
 * small ones (64 bytes at most) without an encoding are looked at, so weights keep their names.
 */
#include "export/pass/pass.h"

#include <stdlib.h>
#include <string.h>

enum { LARGEST = 64 };

static bool is_small_constant(const struct qd_graph *g, qd_id value)
{
	const struct qd_value *v = &g->values[value];
	return !v->dead && v->kind == QD_WEIGHT && v->encoding == NULL && v->data.data != NULL && v->data.bytes > 0 &&
	       v->data.bytes <= LARGEST;
}

/* Type, shape and bytes as text: equal exactly for constants that may stand for each other. */
static void key_of(const struct qd_value *v, char *key)
{
	char shape[QD_SHAPE_TEXT];
	int n = sprintf(key, "%s%s", qd_dtype_name(v->data.dtype), qd_shape_text(&v->shape, shape));
	for (size_t i = 0; i < v->data.bytes; i++)
		n += sprintf(key + n, "%02x", ((const unsigned char *)v->data.data)[i]);
}

static enum qd_status run(struct qd_graph *g, void *context, size_t *changes)
{
	enum qd_status st = QD_OK;
	struct qd_strmap first = { 0 };
	char key[32 + QD_SHAPE_TEXT + 2 * LARGEST];
	(void)context;
	for (qd_id v = 0; v < g->n_values; v++) {
		if (!is_small_constant(g, v))
			continue;
		key_of(&g->values[v], key);
		uint32_t same = qd_strmap_get(&first, key);
		if (same == QD_NONE)
			QD_TRY(st, qd_strmap_put(&first, key, v));
		else if (qd_graph_replace(g, v, same, QD_NONE) > 0)
			(*changes)++;
	}
out:
	qd_strmap_release(&first);
	return st;
}

const struct qd_pass qd_pass_share_constants = { "share_constants", "equal small constants become one", run };
