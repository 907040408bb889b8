/*
 * ONNX files to graphs. ModelProto: opset_import (8), graph (7). GraphProto: node (1), initializer (5), input (11), output (12).
 *
 * Initializers and Constant nodes become weights, other nodes become the row of ops.def with their name; a value keeps its name. An
 * input that is also an initializer is a constant, as before IR version 4 all were, unless it is a LoRA tensor (".lora_down",
 * ".lora_up", ".lora_gain"), which stays an input.
 */
#include "lib/model/onnx_internal.h"

#include <stdlib.h>
#include <string.h>

enum { OLDEST_OPSET = 13, NEWEST_OPSET = 25, MOST_INPUTS = 1 << 16 };

static bool is_lora(const char *name)
{
	return qd_ends_with(name, ".lora_down") || qd_ends_with(name, ".lora_up") || qd_ends_with(name, ".lora_gain");
}

/* Other nodes carry operators of other sets: refused when one is met. */
static enum qd_status check_opset(const Onnx__ModelProto *model, int64_t *version)
{
	*version = 0;
	for (size_t i = 0; i < model->n_opset_import; i++) {
		const char *domain = model->opset_import[i]->domain;
		if (domain == NULL || domain[0] == '\0' || !strcmp(domain, "ai.onnx"))
			*version = model->opset_import[i]->version;
	}
	if (*version < OLDEST_OPSET || *version > NEWEST_OPSET)
		return qd_fail(
			QD_EUNSUPPORTED, "operator set %lld: %d to %d are read", (long long)*version, OLDEST_OPSET, NEWEST_OPSET);
	return QD_OK;
}

/* ---- inputs and constants ---- */

static enum qd_status read_type(const Onnx__ValueInfoProto *info, enum qd_dtype *dtype, struct qd_shape *shape, bool *fixed)
{
	const Onnx__TypeProto__Tensor *type = info->type != NULL && info->type->value_case == ONNX__TYPE_PROTO__VALUE_TENSOR_TYPE
						      ? info->type->tensor_type
						      : NULL;
	*fixed = type != NULL && type->shape != NULL;
	*dtype = type != NULL ? qd_dtype_by_onnx(type->elem_type) : QD_DTYPE_COUNT;
	*shape = (struct qd_shape){ 0 };
	if (*dtype == QD_DTYPE_COUNT)
		return qd_fail(QD_EUNSUPPORTED, "'%s' is not a tensor of a known type", info->name);
	if (!*fixed)
		return QD_OK;
	if (type->shape->n_dim > QD_MAX_RANK)
		return qd_fail(QD_EUNSUPPORTED, "'%s' has %zu dimensions, at most %d are read", info->name, type->shape->n_dim,
			QD_MAX_RANK);
	shape->rank = (int)type->shape->n_dim;
	for (size_t i = 0; i < type->shape->n_dim; i++) {
		const Onnx__TensorShapeProto__Dimension *dim = type->shape->dim[i];
		bool known = dim->value_case == ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_VALUE;
		*fixed = *fixed && known;
		shape->dim[i] = known ? dim->dim_value : 0;
	}
	return QD_OK;
}

static enum qd_status read_input(struct qd_onnx *onnx, const Onnx__ValueInfoProto *info)
{
	enum qd_status st;
	enum qd_dtype dtype;
	struct qd_shape shape;
	bool fixed;
	if (qd_graph_find(&onnx->graph, info->name) != QD_NONE)
		return QD_OK; /* its initializer was read as a constant */
	QD_TRY(st, read_type(info, &dtype, &shape, &fixed));
	if (!fixed)
		return qd_fail(QD_EUNSUPPORTED, "input '%s' has dimensions that are not fixed: export it for one size", info->name);
	qd_graph_input(&onnx->graph, info->name, dtype, shape);
	QD_TRY(st, qd_graph_status(&onnx->graph));
out:
	return st;
}

static bool is_input(const Onnx__GraphProto *graph, const char *name)
{
	for (size_t i = 0; i < graph->n_input; i++)
		if (!strcmp(graph->input[i]->name, name))
			return true;
	return false;
}

static enum qd_status read_initializer(struct qd_onnx *onnx, const Onnx__TensorProto *proto)
{
	enum qd_status st;
	struct qd_tensor tensor;
	if (is_lora(proto->name) && is_input(onnx->data->model->graph, proto->name))
		return QD_OK; /* an input with a default */
	QD_TRY(st, qd_onnx_tensor(onnx, proto->name, proto, &tensor));
	qd_graph_weight(&onnx->graph, proto->name, &tensor);
	QD_TRY(st, qd_graph_status(&onnx->graph));
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
static enum qd_status constant_tensor(struct qd_onnx *onnx, const Onnx__NodeProto *node, struct qd_tensor *out)
{
	const char *name = node->output[0];
	const Onnx__AttributeProto *a = node->n_attribute == 1 ? node->attribute[0] : NULL;
	if (a != NULL && !strcmp(a->name, "value") && a->t != NULL)
		return qd_onnx_tensor(onnx, name, a->t, out);
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

static enum qd_status read_constant(struct qd_onnx *onnx, const Onnx__NodeProto *node)
{
	enum qd_status st;
	struct qd_tensor tensor;
	if (node->n_output != 1)
		return qd_fail(QD_EINPUT, "a Constant has %zu outputs", node->n_output);
	QD_TRY(st, constant_tensor(onnx, node, &tensor));
	qd_graph_weight(&onnx->graph, node->output[0], &tensor);
	QD_TRY(st, qd_graph_status(&onnx->graph));
out:
	return st;
}

/* ConstantOfShape's tensor of one element, spelled as `dtype` and `value`. */
static enum qd_status fill_value(struct qd_onnx *onnx, const Onnx__AttributeProto *a, struct qd_attr attrs[2])
{
	enum qd_status st;
	struct qd_tensor tensor;
	float value;
	if (a->t == NULL)
		return qd_fail(QD_EINPUT, "attribute 'value' holds no tensor");
	QD_TRY(st, qd_onnx_tensor(onnx, "value", a->t, &tensor));
	if (qd_shape_elements(&tensor.shape) != 1)
		return qd_fail(
			QD_EINPUT, "attribute 'value' has %lld elements, needs 1", (long long)qd_shape_elements(&tensor.shape));
	QD_TRY(st, qd_tensor_to_f32(&tensor, &value));
	attrs[0] = QD_AI("dtype", a->t->data_type);
	attrs[1] = QD_AF("value", value);
out:
	return st;
}

static enum qd_status read_attribute(struct qd_onnx *onnx, const Onnx__AttributeProto *a, struct qd_attr *out)
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
		char *text = qd_arena_alloc(&onnx->graph.arena, a->s.len + 1);
		if (text == NULL)
			return QD_ENOMEM;
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

/* Attributes that exporters write although the mode that would read them is not chosen. */
static bool without_effect(const Onnx__NodeProto *node, const Onnx__AttributeProto *a)
{
	if (strcmp(node->op_type, "Resize") != 0)
		return false;
	return !strcmp(a->name, "cubic_coeff_a") || !strcmp(a->name, "extrapolation_value") ||
	       (!strcmp(a->name, "exclude_outside") && a->i == 0);
}

static enum qd_status read_attributes(
	struct qd_onnx *onnx, const Onnx__NodeProto *node, enum qd_op op, struct qd_attr *attrs, size_t *n)
{
	enum qd_status st = QD_OK;
	*n = 0;
	for (size_t i = 0; i < node->n_attribute; i++) {
		const Onnx__AttributeProto *a = node->attribute[i];
		if (without_effect(node, a))
			continue;
		if (op == QD_OP_CONSTANT_OF_SHAPE && !strcmp(a->name, "value")) {
			QD_TRY(st, fill_value(onnx, a, &attrs[*n]));
			*n += 2;
		} else {
			QD_TRY(st, read_attribute(onnx, a, &attrs[(*n)++]));
		}
	}
out:
	return st;
}

static enum qd_status read_inputs(struct qd_onnx *onnx, const Onnx__NodeProto *node, qd_id *in)
{
	for (size_t i = 0; i < node->n_input; i++) {
		in[i] = node->input[i][0] == '\0' ? QD_NONE : qd_graph_find(&onnx->graph, node->input[i]);
		if (in[i] == QD_NONE && node->input[i][0] != '\0')
			return qd_fail(QD_EINPUT, "input '%s' is not defined before it", node->input[i]);
	}
	return QD_OK;
}

/* A node with several outputs names them after itself; they get the file's names. */
static enum qd_status add_outputs(struct qd_onnx *onnx, const Onnx__NodeProto *node, enum qd_op op, const qd_id *in,
	const struct qd_attr *attrs, size_t n_attrs)
{
	enum qd_status st;
	struct qd_graph *g = &onnx->graph;
	qd_id *out = calloc(node->n_output, sizeof(*out));
	const char *name = qd_graph_unique(g, node->name != NULL && node->name[0] != '\0' ? node->name : node->output[0]);
	if (out == NULL || name == NULL) {
		st = qd_fail(QD_ENOMEM, "out of memory");
		goto out;
	}
	qd_graph_node_outputs(g, op, name, node->n_input, in, n_attrs, attrs, node->n_output, out);
	QD_TRY(st, qd_graph_status(g));
	for (size_t i = 0; i < node->n_output; i++)
		if (strcmp(g->values[out[i]].name, node->output[i]) != 0)
			QD_TRY(st, qd_graph_rename(g, out[i], node->output[i]));
out:
	free(out);
	return st;
}

static enum qd_status add_node(struct qd_onnx *onnx, const Onnx__NodeProto *node, enum qd_op op)
{
	enum qd_status st;
	size_t n_attrs;
	qd_id *in = calloc(node->n_input + 1, sizeof(*in));
	struct qd_attr *attrs = calloc(node->n_attribute + 2, sizeof(*attrs));
	if (in == NULL || attrs == NULL) {
		st = qd_fail(QD_ENOMEM, "out of memory");
		goto out;
	}
	QD_TRY(st, qd_prefix(read_inputs(onnx, node, in), "node '%s'", node_name(node)));
	QD_TRY(st, qd_prefix(read_attributes(onnx, node, op, attrs, &n_attrs), "node '%s'", node_name(node)));
	if (qd_op(op)->outputs == 1) {
		qd_graph_node(&onnx->graph, op, node->output[0], node->n_input, in, n_attrs, attrs);
		QD_TRY(st, qd_graph_status(&onnx->graph));
	} else {
		QD_TRY(st, add_outputs(onnx, node, op, in, attrs, n_attrs));
	}
out:
	free(in);
	free(attrs);
	return st;
}

static enum qd_status check_node(const Onnx__NodeProto *node, int64_t opset, enum qd_op op)
{
	if (node->domain != NULL && node->domain[0] != '\0' && strcmp(node->domain, "ai.onnx") != 0)
		return qd_fail(QD_EUNSUPPORTED, "operator '%s' of domain '%s' is not read", node->op_type, node->domain);
	if (op == QD_OP_COUNT)
		return qd_fail(QD_EUNSUPPORTED, "operator '%s' is not read", node->op_type);
	/* before 21 its scale and bias had one element per group */
	if (op == QD_OP_GROUP_NORM && opset < 21)
		return qd_fail(QD_EUNSUPPORTED, "GroupNormalization of operator set %lld is not read, needs 21", (long long)opset);
	if (node->n_output == 0 || node->output[0][0] == '\0' || node->n_input > MOST_INPUTS || node->n_output > MOST_INPUTS)
		return qd_fail(QD_EINPUT, "has %zu inputs and %zu outputs", node->n_input, node->n_output);
	if (qd_op(op)->outputs == 1 && node->n_output != 1)
		return qd_fail(QD_EUNSUPPORTED, "has %zu outputs, one is read", node->n_output);
	return QD_OK;
}

static enum qd_status read_node(struct qd_onnx *onnx, const Onnx__NodeProto *node, int64_t opset)
{
	enum qd_status st;
	if (!strcmp(node->op_type, "Constant"))
		return qd_prefix(read_constant(onnx, node), "node '%s'", node_name(node));
	enum qd_op op = qd_op_by_name(node->op_type);
	QD_TRY(st, qd_prefix(check_node(node, opset, op), "node '%s'", node_name(node)));
	QD_TRY(st, add_node(onnx, node, op));
out:
	return st;
}

/* ---- the whole ---- */

static enum qd_status read_output(struct qd_onnx *onnx, const Onnx__ValueInfoProto *info)
{
	enum qd_status st;
	enum qd_dtype dtype;
	struct qd_shape shape;
	bool fixed;
	char found[QD_SHAPE_TEXT], needed[QD_SHAPE_TEXT];
	qd_id value = qd_graph_find(&onnx->graph, info->name);
	if (value == QD_NONE)
		return qd_fail(QD_EINPUT, "output '%s' is not defined", info->name);
	QD_TRY(st, read_type(info, &dtype, &shape, &fixed));
	const struct qd_value *v = &onnx->graph.values[value];
	if (fixed && !qd_shape_equal(&shape, &v->shape))
		return qd_fail(QD_EINPUT, "output '%s' is declared as %s, the nodes give %s", info->name,
			qd_shape_text(&shape, needed), qd_shape_text(&v->shape, found));
	qd_graph_output(&onnx->graph, value);
	QD_TRY(st, qd_graph_status(&onnx->graph));
out:
	return st;
}

static enum qd_status read_graph(struct qd_onnx *onnx)
{
	enum qd_status st;
	const Onnx__GraphProto *graph = onnx->data->model->graph;
	int64_t opset;
	if (graph == NULL)
		return qd_fail(QD_EINPUT, "holds no graph");
	QD_TRY(st, check_opset(onnx->data->model, &opset));
	for (size_t i = 0; i < graph->n_initializer; i++)
		QD_TRY(st, read_initializer(onnx, graph->initializer[i]));
	for (size_t i = 0; i < graph->n_input; i++)
		QD_TRY(st, read_input(onnx, graph->input[i]));
	for (size_t i = 0; i < graph->n_node; i++)
		QD_TRY(st, read_node(onnx, graph->node[i], opset));
	for (size_t i = 0; i < graph->n_output; i++)
		QD_TRY(st, read_output(onnx, graph->output[i]));
	QD_TRY(st, qd_graph_verify(&onnx->graph));
out:
	return st;
}

/* Names and operators are read without asking whether they are there. */
static enum qd_status check_names(const Onnx__ModelProto *model)
{
	const Onnx__GraphProto *g = model->graph;
	bool good = true;
	for (size_t i = 0; g != NULL && i < g->n_initializer; i++)
		good = good && g->initializer[i]->name != NULL;
	for (size_t i = 0; g != NULL && i < g->n_input; i++)
		good = good && g->input[i]->name != NULL;
	for (size_t i = 0; g != NULL && i < g->n_output; i++)
		good = good && g->output[i]->name != NULL;
	for (size_t i = 0; g != NULL && i < g->n_node; i++) {
		good = good && g->node[i]->op_type != NULL;
		for (size_t k = 0; k < g->node[i]->n_attribute; k++)
			good = good && g->node[i]->attribute[k]->name != NULL;
	}
	return good ? QD_OK : qd_fail(QD_EINPUT, "holds something without a name");
}

static enum qd_status parse(struct qd_onnx *onnx, const char *name, const char *folder, const void *bytes, size_t size)
{
	enum qd_status st;
	qd_graph_init(&onnx->graph, name);
	onnx->data = qd_arena_alloc(&onnx->graph.arena, sizeof(*onnx->data));
	if (onnx->data == NULL)
		return QD_ENOMEM;
	if (qd_is_lfs_pointer(bytes, size))
		return qd_fail(QD_EINPUT, "is a Git-LFS pointer, not the file itself");
	QD_TRY(st, qd_onnx_scan(bytes, size));
	onnx->data->folder = folder != NULL ? qd_arena_strdup(&onnx->graph.arena, folder) : NULL;
	onnx->data->model = onnx__model_proto__unpack(NULL, size, bytes);
	if (onnx->data->model == NULL || !onnx->data->model->has_ir_version)
		return qd_fail(QD_EINPUT, "is not an ONNX file");
	QD_TRY(st, check_names(onnx->data->model));
	QD_TRY(st, read_graph(onnx));
out:
	return st;
}

enum qd_status qd_onnx_parse(struct qd_onnx *onnx, const char *name, const char *folder, const void *bytes, size_t size)
{
	memset(onnx, 0, sizeof(*onnx));
	enum qd_status st = qd_prefix(parse(onnx, name, folder, bytes, size), "'%s'", name);
	if (st != QD_OK)
		qd_onnx_release(onnx);
	return st;
}

enum qd_status qd_onnx_open(struct qd_onnx *onnx, const char *path)
{
	enum qd_status st;
	struct qd_mapping mapping = { 0 };
	const char *slash = strrchr(path, '/');
	char *folder = slash == NULL ? strdup(".") : strndup(path, slash == path ? 1 : (size_t)(slash - path));
	memset(onnx, 0, sizeof(*onnx));
	if (folder == NULL) {
		st = qd_fail(QD_ENOMEM, "out of memory");
		goto out;
	}
	QD_TRY(st, qd_mapping_open(&mapping, path));
	QD_TRY(st, qd_onnx_parse(onnx, path, folder, mapping.data, mapping.size));
out:
	qd_mapping_release(&mapping);
	free(folder);
	return st;
}

void qd_onnx_release(struct qd_onnx *onnx)
{
	if (onnx->data != NULL) {
		if (onnx->data->model != NULL)
			onnx__model_proto__free_unpacked(onnx->data->model, NULL);
		for (size_t i = 0; i < onnx->data->n_files; i++)
			qd_mapping_release(&onnx->data->files[i].mapping);
		free(onnx->data->files);
	}
	qd_graph_release(&onnx->graph);
	memset(onnx, 0, sizeof(*onnx));
}

const char *qd_onnx_metadata(const struct qd_onnx *onnx, const char *key)
{
	const Onnx__ModelProto *model = onnx->data->model;
	for (size_t i = 0; i < model->n_metadata_props; i++)
		if (model->metadata_props[i]->key != NULL && !strcmp(model->metadata_props[i]->key, key))
			return model->metadata_props[i]->value;
	return NULL;
}
