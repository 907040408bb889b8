/*
 * ONNX files to graphs. ModelProto: opset_import (8), graph (7). GraphProto: node (1), initializer (5), input (11), output (12).
 *
 * Initializers and Constant nodes become weights, other nodes become the row of ops.def with their name; a value keeps its name. An
 * input that is also an initializer is a constant, as before IR version 4 all were, unless it is a LoRA tensor (".lora_down",
 * ".lora_up", ".lora_gain", ".lora_bias"), which stays an input.
 *
 * Arithmetic in float16, bfloat16 and float64 is done in float32: inputs of these types are float32 ones and a Cast to them is one
 * to float32. A float16 graph then differs from its own rounding by about 1e-3 of the values.
 */
#include "lib/onnx/internal.h"

#include <stdlib.h>
#include <string.h>

enum { MOST_INPUTS = 1 << 16 };

/* ---- constants ---- */

static bool is_input(const Onnx__GraphProto *graph, const char *name)
{
	for (size_t i = 0; i < graph->n_input; i++)
		if (!strcmp(graph->input[i]->name, name))
			return true;
	return false;
}

static enum qd_status read_initializer(struct qd_onnx_build *b, const Onnx__TensorProto *proto)
{
	enum qd_status st;
	struct qd_tensor tensor;
	if (qd_lora_tensor_of(proto->name) != QD_LORA_NONE && is_input(b->file->model->graph, proto->name))
		return QD_OK; /* an input with a default */
	QD_TRY(st, qd_onnx_tensor(b, proto->name, proto, &tensor));
	qd_graph_weight(b->g, proto->name, &tensor);
	QD_TRY(st, qd_graph_status(b->g));
out:
	return st;
}
/* ---- nodes ---- */

/*
 * For messages: its own name, which may be left out, or its first output's. What the graph itself refuses names the node already.
 */
static const char *node_name(const Onnx__NodeProto *node)
{
	if (node->name != NULL && node->name[0] != '\0')
		return node->name;
	return node->n_output > 0 ? node->output[0] : node->op_type;
}

/* The tensor of a Constant node: `value`, or one of the short spellings. */
static enum qd_status constant_tensor(struct qd_onnx_build *b, const Onnx__NodeProto *node, struct qd_tensor *out)
{
	const char *name = node->output[0];
	const Onnx__AttributeProto *a = node->n_attribute == 1 ? node->attribute[0] : NULL;
	if (a != NULL && !strcmp(a->name, "value") && a->t != NULL)
		return qd_onnx_tensor(b, name, a->t, out);
	if (a != NULL && !strcmp(a->name, "value_float"))
		*out = qd_tensor_view(name, QD_F32, (struct qd_shape){ 0 }, &a->f);
	else if (a != NULL && !strcmp(a->name, "value_floats"))
		*out = qd_tensor_view(name, QD_F32, QD_SHAPE((int64_t)a->n_floats), a->floats);
	else if (a != NULL && !strcmp(a->name, "value_int"))
		*out = qd_tensor_view(name, QD_I64, (struct qd_shape){ 0 }, &a->i);
	else if (a != NULL && !strcmp(a->name, "value_ints"))
		*out = qd_tensor_view(name, QD_I64, QD_SHAPE((int64_t)a->n_ints), a->ints);
	else
		return qd_fail(QD_EUNSUPPORTED, "a Constant has attribute '%s'", a != NULL ? a->name : "");
	return QD_OK;
}

static enum qd_status read_constant(struct qd_onnx_build *b, const Onnx__NodeProto *node)
{
	enum qd_status st;
	struct qd_tensor tensor;
	if (node->n_output != 1)
		return qd_fail(QD_EINPUT, "a Constant has %zu outputs", node->n_output);
	QD_TRY(st, constant_tensor(b, node, &tensor));
	qd_graph_weight(b->g, node->output[0], &tensor);
	QD_TRY(st, qd_graph_status(b->g));
out:
	return st;
}

/* An ONNX data type as the graph computes with it. */
static int64_t computed_type(int64_t type)
{
	enum qd_dtype dtype = qd_dtype_by_onnx((int)type);
	return dtype == QD_DTYPE_COUNT ? type : qd_dtype_onnx(qd_onnx_dtype(dtype));
}

/* ConstantOfShape's tensor of one element, spelled as `dtype` and `value`. */
static enum qd_status fill_value(struct qd_onnx_build *b, const Onnx__AttributeProto *a, struct qd_attr attrs[2])
{
	enum qd_status st;
	struct qd_tensor tensor;
	float value;
	if (a->t == NULL)
		return qd_fail(QD_EINPUT, "attribute 'value' holds no tensor");
	QD_TRY(st, qd_onnx_tensor(b, "value", a->t, &tensor));
	if (qd_shape_elements(&tensor.shape) != 1)
		return qd_fail(
			QD_EINPUT, "attribute 'value' has %lld elements, needs 1", (long long)qd_shape_elements(&tensor.shape));
	QD_TRY(st, qd_tensor_to_f32(&tensor, &value));
	attrs[0] = QD_AI("dtype", computed_type(a->t->data_type));
	attrs[1] = QD_AF("value", value);
out:
	return st;
}

static enum qd_status read_attribute(struct qd_onnx_build *b, const Onnx__AttributeProto *a, struct qd_attr *out)
{
	struct qd_attr attr = { .name = a->name };
	switch (a->type) {
	case ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INT:
		attr.type = QD_ATTR_INT;
		attr.i = a->i;
		break;
	case ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__FLOAT:
		attr.type = QD_ATTR_FLOAT;
		attr.f = a->f;
		break;
	case ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INTS:
		attr.type = QD_ATTR_INTS;
		attr.ints = a->ints;
		attr.n_ints = a->n_ints;
		break;
	case ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__STRING: {
		char *text = qd_arena_alloc(&b->g->arena, a->s.len + 1);
		if (text == NULL)
			return QD_ENOMEM;
		if (a->s.len > 0)
			memcpy(text, a->s.data, a->s.len);
		attr.type = QD_ATTR_STRING;
		attr.s = text;
		break;
	}
	default:
		return qd_fail(QD_EUNSUPPORTED, "attribute '%s' has type %d", a->name, (int)a->type);
	}
	*out = attr;
	return QD_OK;
}

/* Attributes that exporters write although the mode that would read them is not chosen, or with the value they have anyway. */
static bool without_effect(const Onnx__NodeProto *node, const Onnx__AttributeProto *a)
{
	if (strcmp(node->op_type, "Resize") != 0)
		return false;
	bool zero = !strcmp(a->name, "exclude_outside") || !strcmp(a->name, "antialias");
	bool stretch = !strcmp(a->name, "keep_aspect_ratio_policy") && a->s.len == 7 && !memcmp(a->s.data, "stretch", 7);
	return !strcmp(a->name, "cubic_coeff_a") || !strcmp(a->name, "extrapolation_value") || (zero && a->i == 0) || stretch;
}

/* Until operator set 17 ReduceMean's axes were an attribute: they become the input that they are since. */
static enum qd_status axes_input(struct qd_onnx_build *b, const Onnx__AttributeProto *a, struct qd_node *node)
{
	node->in[node->n_in++] = qd_graph_const_i64(b->g, qd_graph_unique(b->g, "axes"), a->n_ints, a->ints);
	return qd_graph_status(b->g);
}

static enum qd_status read_attributes(struct qd_onnx_build *b, const Onnx__NodeProto *proto, struct qd_node *node)
{
	enum qd_status st = QD_OK;
	for (size_t i = 0; i < proto->n_attribute; i++) {
		const Onnx__AttributeProto *a = proto->attribute[i];
		if (without_effect(proto, a))
			continue;
		if (node->op == QD_OP_CONSTANT_OF_SHAPE && !strcmp(a->name, "value")) {
			QD_TRY(st, fill_value(b, a, &node->attrs[node->n_attrs]));
			node->n_attrs += 2;
		} else if (node->op == QD_OP_REDUCE_MEAN && !strcmp(a->name, "axes") && node->n_in == 1) {
			QD_TRY(st, axes_input(b, a, node));
		} else {
			struct qd_attr *attr = &node->attrs[node->n_attrs++];
			QD_TRY(st, read_attribute(b, a, attr));
			if (node->op == QD_OP_CAST && !strcmp(attr->name, "to"))
				attr->i = computed_type(attr->i);
		}
	}
out:
	return st;
}

static enum qd_status read_inputs(struct qd_onnx_build *b, const Onnx__NodeProto *node, qd_id *in)
{
	for (size_t i = 0; i < node->n_input; i++) {
		in[i] = node->input[i][0] == '\0' ? QD_NONE : qd_graph_find(b->g, node->input[i]);
		if (in[i] == QD_NONE && node->input[i][0] != '\0')
			return qd_fail(QD_EINPUT, "input '%s' is not defined", node->input[i]);
	}
	return QD_OK;
}

/* Outputs that are left out, and the statistics behind a normalization's first output, which only training uses. */
static size_t wanted_outputs(const Onnx__NodeProto *node, enum qd_op op)
{
	size_t n = node->n_output;
	if (op == QD_OP_LAYER_NORM)
		return 1;
	while (n > 1 && node->output[n - 1][0] == '\0')
		n--;
	return n;
}

static bool is_standard(const Onnx__NodeProto *node)
{
	return node->domain == NULL || node->domain[0] == '\0' || !strcmp(node->domain, "ai.onnx");
}

static enum qd_status check_node(const Onnx__NodeProto *node, int64_t opset, enum qd_op op)
{
	if (!is_standard(node))
		return qd_fail(QD_EUNSUPPORTED, "operator '%s' of domain '%s' is not read", node->op_type, node->domain);
	if (op == QD_OP_COUNT)
		return qd_fail(QD_EUNSUPPORTED, "operator '%s' is not read", node->op_type);
	/* before 21 its scale and bias had one element per group */
	if (op == QD_OP_GROUP_NORM && opset < 21)
		return qd_fail(QD_EUNSUPPORTED, "GroupNormalization of operator set %lld is not read, needs 21", (long long)opset);
	if (node->n_output == 0 || node->output[0][0] == '\0' || node->n_input > MOST_INPUTS || node->n_output > MOST_INPUTS)
		return qd_fail(QD_EINPUT, "has %zu inputs and %zu outputs", node->n_input, node->n_output);
	if (qd_op(op)->outputs == 1 && wanted_outputs(node, op) != 1)
		return qd_fail(QD_EUNSUPPORTED, "has %zu outputs, one is read", node->n_output);
	return QD_OK;
}

/* Inputs and attributes of a node as the graph takes them. */
static enum qd_status translate(struct qd_onnx_build *b, const Onnx__NodeProto *proto, struct qd_node *node)
{
	enum qd_status st;
	QD_TRY(st, check_node(proto, b->file->opset, node->op));
	QD_TRY(st, read_inputs(b, proto, node->in));
	node->n_in = proto->n_input;
	QD_TRY(st, read_attributes(b, proto, node));
	node->n_out = wanted_outputs(proto, node->op);
	node->name = qd_onnx_node_name(b->g, proto);
	if (node->name == NULL)
		st = QD_ENOMEM;
out:
	return qd_prefix(st, "node '%s'", node_name(proto));
}

static enum qd_status add_node(struct qd_onnx_build *b, const Onnx__NodeProto *proto, enum qd_op op)
{
	enum qd_status st;
	struct qd_node node = { .op = op };
	qd_id *ids = calloc(proto->n_input + proto->n_output + 2, sizeof(*ids));
	struct qd_attr *attrs = calloc(proto->n_attribute + 2, sizeof(*attrs));
	if (ids == NULL || attrs == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
	node.in = ids;
	node.attrs = attrs;
	QD_TRY(st, translate(b, proto, &node));
	qd_graph_add_node(b->g, &node, (const char *const *)proto->output, ids + node.n_in);
	QD_TRY(st, qd_graph_status(b->g));
out:
	free(ids);
	free(attrs);
	return st;
}

static enum qd_status spell_node(struct qd_onnx_build *b, const Onnx__NodeProto *node)
{
	enum qd_status st;
	qd_id in[QD_ONNX_SPELLED_INPUTS];
	for (size_t i = 0; i < QD_ONNX_SPELLED_INPUTS; i++)
		in[i] = QD_NONE;
	if (node->n_input > QD_ONNX_SPELLED_INPUTS || node->n_output == 0 || wanted_outputs(node, QD_OP_COUNT) != 1)
		return qd_fail(QD_EINPUT, "has %zu inputs and %zu outputs", node->n_input, node->n_output);
	QD_TRY(st, read_inputs(b, node, in));
	QD_TRY(st, qd_onnx_spell(b->g, node, in));
out:
	return st;
}

static enum qd_status read_node(struct qd_onnx_build *b, const Onnx__NodeProto *node)
{
	if (!strcmp(node->op_type, "Constant"))
		return qd_prefix(read_constant(b, node), "node '%s'", node_name(node));
	if (is_standard(node) && qd_onnx_is_spelled(node->op_type))
		return qd_prefix(spell_node(b, node), "node '%s'", node_name(node));
	return add_node(b, node, qd_op_by_name(node->op_type));
}

/* ---- the order of nodes ---- */

/*
 * ONNX wants nodes in topological order, but converters append what they add. Nodes are visited in the file's order, each after
 * those that make its inputs: a file that is in order stays as it is.
 */
struct sorting {
	const Onnx__GraphProto *graph;
	struct qd_strmap makers; /* output name -> node */
	unsigned char *state;    /* by node */
	size_t *path, depth;     /* nodes being visited: each waits for the next */
	size_t *next;            /* by node: the input to look at next */
	size_t *order, n;
};
enum { UNSEEN, WAITING, DONE };

/* The node that a waiting one needs first; n_node when all are done. */
static size_t needed_first(struct sorting *s, size_t at)
{
	const Onnx__NodeProto *node = s->graph->node[at];
	for (; s->next[at] < node->n_input; s->next[at]++) {
		uint32_t maker = qd_strmap_get(&s->makers, node->input[s->next[at]]);
		if (node->input[s->next[at]][0] != '\0' && maker != QD_NONE && s->state[maker] != DONE)
			return maker;
	}
	return s->graph->n_node;
}

static enum qd_status visit_node(struct sorting *s, size_t first)
{
	s->path[s->depth++] = first;
	s->state[first] = WAITING;
	while (s->depth > 0) {
		size_t at = s->path[s->depth - 1], need = needed_first(s, at);
		if (need < s->graph->n_node && s->state[need] == WAITING)
			return qd_fail(QD_EINPUT, "node '%s': its input '%s' comes from itself, through a cycle of nodes",
				node_name(s->graph->node[at]), s->graph->node[at]->input[s->next[at]]);
		if (need < s->graph->n_node) {
			s->path[s->depth++] = need;
			s->state[need] = WAITING;
			continue;
		}
		s->state[at] = DONE;
		s->order[s->n++] = at;
		s->depth--;
	}
	return QD_OK;
}

/* order [n_node], in the arena: the nodes' indices, each after those that it reads from. */
static enum qd_status sort_nodes(struct qd_onnx_build *b, const size_t **order)
{
	struct sorting s = { .graph = b->file->model->graph };
	size_t n = s.graph->n_node;
	enum qd_status st = QD_OK;
	s.order = qd_arena_array(&b->g->arena, n, sizeof(*s.order));
	s.path = malloc((n + 1) * sizeof(*s.path));
	s.next = calloc(n + 1, sizeof(*s.next));
	s.state = calloc(n + 1, sizeof(*s.state));
	if (s.order == NULL || s.path == NULL || s.next == NULL || s.state == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
	for (size_t i = 0; i < n; i++)
		for (size_t k = 0; k < s.graph->node[i]->n_output; k++)
			if (s.graph->node[i]->output[k][0] != '\0')
				QD_TRY(st, qd_strmap_put(&s.makers, s.graph->node[i]->output[k], (uint32_t)i));
	for (size_t i = 0; i < n; i++)
		if (s.state[i] == UNSEEN)
			QD_TRY(st, visit_node(&s, i));
	*order = s.order;
out:
	free(s.path);
	free(s.next);
	free(s.state);
	qd_strmap_release(&s.makers);
	return st;
}

/* ---- the whole ---- */

static enum qd_status build(struct qd_onnx_build *b)
{
	enum qd_status st;
	const Onnx__GraphProto *graph = b->file->model->graph;
	const size_t *order;
	QD_TRY(st, qd_graph_status(b->g));
	for (size_t i = 0; i < graph->n_initializer; i++)
		QD_TRY(st, read_initializer(b, graph->initializer[i]));
	QD_TRY(st, qd_onnx_read_inputs(b));
	QD_TRY(st, sort_nodes(b, &order));
	for (size_t i = 0; i < graph->n_node; i++)
		QD_TRY(st, read_node(b, graph->node[order[i]]));
	QD_TRY(st, qd_onnx_read_outputs(b));
	QD_TRY(st, qd_graph_verify(b->g));
out:
	return st;
}

enum qd_status qd_onnx_graph(struct qd_graph *g, struct qd_onnx_file *file, const struct qd_tensor *given, size_t n)
{
	struct qd_onnx_build b = { .g = g, .file = file, .given = given, .n_given = n };
	qd_graph_init(g, file->name);
	return qd_prefix(build(&b), "'%s'", file->name);
}
