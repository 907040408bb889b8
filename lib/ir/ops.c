/*
 * The operator table of ops.def as data, and the checks that follow from a row: arity, attribute names and types, then the shape
 * rule.
 */
#include "lib/ir/internal.h"

#include <string.h>

#define A(type, name) { name, QD_ATTR_##type },
#define NONE
/* A last entry that is not counted keeps rows without attributes from being empty arrays. */
#define OP(id, name, opset, min, max, outputs, flags, rule, attributes)                                                            \
	static const struct qd_attr_spec attrs_##id[] = { attributes{ NULL, QD_ATTR_INT } };
#include "lib/ir/ops.def"
#undef OP

#define PLAIN 0
#define EW QD_OPF_ELEMENTWISE
#define VIEW QD_OPF_VIEW
#define WGT QD_OPF_WEIGHT
#define FOLD QD_OPF_FOLD
static const struct qd_op_info table[QD_OP_COUNT] = {
#define OP(id, name, opset, min, max, outputs, flags, rule, attributes)                                                            \
	[QD_OP_##id] = { #id, name, opset, min, max, outputs, flags, qd_rule_##rule, attrs_##id, QD_COUNT(attrs_##id) - 1 },
#include "lib/ir/ops.def"
#undef OP
};

const struct qd_op_info *qd_op(enum qd_op op)
{
	return &table[op];
}

enum qd_op qd_op_by_name(const char *onnx_name)
{
	for (int op = 0; op < QD_OP_COUNT; op++)
		if (strcmp(table[op].name, onnx_name) == 0)
			return (enum qd_op)op;
	return QD_OP_COUNT;
}

static const char *attr_type_name(enum qd_attr_type type)
{
	static const char *const names[] = { "an integer", "a float", "a list of integers", "a string" };
	return names[type];
}

/* ---- checks of one node ---- */

static enum qd_status check_arity(const struct qd_node *node, const struct qd_op_info *info)
{
	size_t min = (size_t)info->min_inputs;
	if (node->n_in < min)
		return qd_fail(QD_EINPUT, "%s has %zu inputs, needs at least %zu", info->name, node->n_in, min);
	if (info->max_inputs >= 0 && node->n_in > (size_t)info->max_inputs)
		return qd_fail(QD_EINPUT, "%s has %zu inputs, takes at most %d", info->name, node->n_in, info->max_inputs);
	if (info->outputs >= 0 && node->n_out != (size_t)info->outputs)
		return qd_fail(QD_EINPUT, "%s has %zu outputs, needs %d", info->name, node->n_out, info->outputs);
	if (node->n_out == 0)
		return qd_fail(QD_EINPUT, "%s has no outputs, needs at least 1", info->name);
	return QD_OK;
}

static enum qd_status check_inputs(const struct qd_graph *g, const struct qd_node *node, const struct qd_op_info *info)
{
	for (size_t i = 0; i < node->n_in; i++) {
		qd_id id = node->in[i];
		bool optional = info->max_inputs >= 0 && i >= (size_t)info->min_inputs;
		if (id == QD_NONE && !optional)
			return qd_fail(QD_EINPUT, "input %zu of %s is absent, which only optional inputs may be", i, info->name);
		if (id == QD_NONE)
			continue;
		if (id >= g->n_values)
			return qd_fail(QD_EINPUT, "input %zu is value %u of only %zu", i, id, g->n_values);
		if (g->values[id].dead)
			return qd_fail(QD_EINPUT, "input %zu is '%s', which was removed", i, g->values[id].name);
	}
	return QD_OK;
}

static const struct qd_attr_spec *find_spec(const struct qd_op_info *info, const char *name)
{
	for (size_t i = 0; i < info->n_attrs; i++)
		if (strcmp(info->attrs[i].name, name) == 0)
			return &info->attrs[i];
	return NULL;
}

static enum qd_status check_attrs(const struct qd_node *node, const struct qd_op_info *info)
{
	for (size_t i = 0; i < node->n_attrs; i++) {
		const struct qd_attr *attr = &node->attrs[i];
		const struct qd_attr_spec *spec = find_spec(info, attr->name);
		if (spec == NULL)
			return qd_fail(QD_EINPUT, "%s has no attribute '%s'", info->name, attr->name);
		if (spec->type != attr->type)
			return qd_fail(QD_EINPUT, "attribute '%s' is %s, needs %s", attr->name, attr_type_name(attr->type),
				attr_type_name(spec->type));
		if (qd_node_attr(node, attr->name) != attr)
			return qd_fail(QD_EINPUT, "attribute '%s' is given twice", attr->name);
	}
	return QD_OK;
}

static enum qd_status infer(const struct qd_graph *g, struct qd_node *node, struct qd_shape *out, enum qd_dtype *dtype)
{
	const struct qd_op_info *info = qd_op(node->op);
	enum qd_status st;

	QD_TRY(st, check_arity(node, info));
	QD_TRY(st, check_inputs(g, node, info));
	QD_TRY(st, check_attrs(node, info));
	QD_TRY(st, info->shape(g, node, out, dtype));
	for (size_t i = 0; i < node->n_out; i++)
		QD_TRY(st, qd_shape_check(&out[i]));
out:
	return st;
}

enum qd_status qd_node_infer(const struct qd_graph *g, struct qd_node *node, struct qd_shape *out, enum qd_dtype *dtype)
{
	enum qd_status st = infer(g, node, out, dtype);
	return qd_prefix(st, "node '%s'", node->name);
}

/* ---- attributes of a node ---- */

const struct qd_attr *qd_node_attr(const struct qd_node *node, const char *name)
{
	for (size_t i = 0; i < node->n_attrs; i++)
		if (strcmp(node->attrs[i].name, name) == 0)
			return &node->attrs[i];
	return NULL;
}

int64_t qd_node_int(const struct qd_node *node, const char *name, int64_t absent)
{
	const struct qd_attr *attr = qd_node_attr(node, name);
	return attr != NULL ? attr->i : absent;
}

float qd_node_float(const struct qd_node *node, const char *name, float absent)
{
	const struct qd_attr *attr = qd_node_attr(node, name);
	return attr != NULL ? attr->f : absent;
}

const char *qd_node_string(const struct qd_node *node, const char *name, const char *absent)
{
	const struct qd_attr *attr = qd_node_attr(node, name);
	return attr != NULL ? attr->s : absent;
}
