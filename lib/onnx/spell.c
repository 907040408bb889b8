/*
 * Operators that have no row because others say the same, element by element and for every number:
 *
 *   y = IsNaN(x)               y = Not(Equal(x, x))
 *   y = GreaterOrEqual(a, b)   y = Or(Greater(a, b), Equal(a, b))
 *   y = LessOrEqual(a, b)      y = Or(Less(a, b), Equal(a, b))
 */
#include "lib/onnx/internal.h"

#include <string.h>

static const struct spelling {
	const char *name;
	size_t inputs;
	enum qd_op other; /* beside Equal; QD_OP_COUNT: none, and the result is negated */
} spellings[] = {
	{ "IsNaN", 1, QD_OP_COUNT },
	{ "GreaterOrEqual", 2, QD_OP_GREATER },
	{ "LessOrEqual", 2, QD_OP_LESS },
};

static const struct spelling *find(const char *name)
{
	for (size_t i = 0; i < QD_COUNT(spellings); i++)
		if (!strcmp(spellings[i].name, name))
			return &spellings[i];
	return NULL;
}

bool qd_onnx_is_spelled(const char *op_type)
{
	return find(op_type) != NULL;
}

/* A node of two operands called after `name`. */
static qd_id compare(struct qd_graph *g, enum qd_op op, const char *name, qd_id a, qd_id b)
{
	const char *unique = qd_graph_unique(g, qd_arena_strf(&g->arena, "%s.%s", name, qd_op(op)->name));
	return unique != NULL ? qd_build_binary(g, op, unique, a, b) : QD_NONE;
}

enum qd_status qd_onnx_spell(struct qd_graph *g, const Onnx__NodeProto *node, const qd_id *in)
{
	const struct spelling *s = find(node->op_type);
	qd_id ids[3] = { QD_NONE, QD_NONE, QD_NONE };
	struct qd_node last = { .op = s->other == QD_OP_COUNT ? QD_OP_NOT : QD_OP_OR, .in = ids, .n_out = 1 };
	if (node->n_input != s->inputs || in[0] == QD_NONE || in[s->inputs - 1] == QD_NONE)
		return qd_fail(QD_EINPUT, "%s has %zu inputs, needs %zu", s->name, node->n_input, s->inputs);
	last.name = qd_onnx_node_name(g, node);
	if (last.name == NULL)
		return QD_ENOMEM;
	ids[last.n_in++] = compare(g, QD_OP_EQUAL, last.name, in[0], in[s->inputs - 1]);
	if (s->other != QD_OP_COUNT)
		ids[last.n_in++] = compare(g, s->other, last.name, in[0], in[1]);
	qd_graph_add_node(g, &last, (const char *const *)node->output, &ids[2]);
	return qd_graph_status(g);
}
