/*
 * Inputs and outputs of an ONNX file: ValueInfoProto name (1), type (2) with element type and dimensions. A dimension is a number
 * (dim_value), a name (dim_param) or nothing. Open dimensions get their sizes from the shapes that the caller gives, and named ones
 * also from another input's dimension of that name. Exporters that were told to leave every axis open leave channels and features
 * open too: these are what the first weight that reads them has,
 *
 *   Conv(x, w [O,I/group,...])                                          axis 1 of x is I
 *   MatMul(x, w [I,O]), Gemm(x, w [I,O]), Gemm(x, w [O,I]) {transB=1}   the last axis of x is I
 */
#include "lib/onnx/internal.h"

#include <stdlib.h>
#include <string.h>

struct qd_onnx_symbol {
	const char *name, *input;
	int64_t size;
};

enum qd_dtype qd_onnx_dtype(enum qd_dtype dtype)
{
	return dtype == QD_F16 || dtype == QD_BF16 || dtype == QD_F64 ? QD_F32 : dtype;
}

/* ---- what the file declares ---- */

static const Onnx__TypeProto__Tensor *tensor_type(const Onnx__ValueInfoProto *info)
{
	return info->type != NULL && info->type->value_case == ONNX__TYPE_PROTO__VALUE_TENSOR_TYPE ? info->type->tensor_type : NULL;
}

/* Open dimensions are -1; rank -1 when there is no shape at all. */
static enum qd_status declared(const Onnx__ValueInfoProto *info, enum qd_dtype *dtype, struct qd_shape *shape)
{
	const Onnx__TypeProto__Tensor *type = tensor_type(info);
	*shape = (struct qd_shape){ .rank = -1 };
	*dtype = type != NULL ? qd_dtype_by_onnx(type->elem_type) : QD_DTYPE_COUNT;
	if (*dtype == QD_DTYPE_COUNT)
		return qd_fail(QD_EUNSUPPORTED, "'%s' is not a tensor of a known type", info->name);
	if (type->shape == NULL)
		return QD_OK;
	if (type->shape->n_dim > QD_MAX_RANK)
		return qd_fail(QD_EUNSUPPORTED, "'%s' has %zu dimensions, at most %d are read", info->name, type->shape->n_dim,
			QD_MAX_RANK);
	shape->rank = (int)type->shape->n_dim;
	for (size_t i = 0; i < type->shape->n_dim; i++) {
		const Onnx__TensorShapeProto__Dimension *dim = type->shape->dim[i];
		bool known = dim->value_case == ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_VALUE;
		if (known && dim->dim_value < 0)
			return qd_fail(QD_EINPUT, "'%s' has a dimension of %lld", info->name, (long long)dim->dim_value);
		shape->dim[i] = known ? dim->dim_value : -1;
	}
	return QD_OK;
}

/* "" for a dimension without a name. */
static const char *symbol_of(const Onnx__ValueInfoProto *info, int axis)
{
	const Onnx__TensorShapeProto__Dimension *dim = tensor_type(info)->shape->dim[axis];
	bool named = dim->value_case == ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_PARAM && dim->dim_param != NULL;
	return named ? dim->dim_param : "";
}

/* "[batch,4,height,?]" */
static const char *declared_text(const Onnx__ValueInfoProto *info, const struct qd_shape *shape, char *text, size_t size)
{
	size_t at = (size_t)snprintf(text, size, "[");
	for (int i = 0; i < shape->rank && at < size; i++) {
		const char *symbol = symbol_of(info, i), *comma = i > 0 ? "," : "";
		if (shape->dim[i] >= 0)
			at += (size_t)snprintf(text + at, size - at, "%s%lld", comma, (long long)shape->dim[i]);
		else
			at += (size_t)snprintf(text + at, size - at, "%s%s", comma, symbol[0] != '\0' ? symbol : "?");
	}
	if (at < size)
		snprintf(text + at, size - at, "]");
	return text;
}

/* ---- what the caller gives ---- */

static const struct qd_shape *given_shape(const struct qd_onnx_build *b, const char *name)
{
	for (size_t i = 0; i < b->n_given; i++)
		if (!strcmp(b->given[i].name, name))
			return &b->given[i].shape;
	return NULL;
}

static bool has_input(const Onnx__GraphProto *graph, const char *name)
{
	for (size_t i = 0; i < graph->n_input; i++)
		if (!strcmp(graph->input[i]->name, name))
			return true;
	return false;
}

/* "" or, for a message, the first shape that was given under a name that the file does not have. */
static const char *stray_text(const struct qd_onnx_build *b, char *text, size_t size)
{
	const Onnx__GraphProto *graph = b->file->model->graph;
	text[0] = '\0';
	for (size_t i = 0; i < b->n_given && text[0] == '\0'; i++) {
		bool known = has_input(graph, b->given[i].name);
		for (size_t k = 0; k < graph->n_output; k++)
			known = known || !strcmp(graph->output[k]->name, b->given[i].name);
		if (!known)
			snprintf(text, size, "; there is no input '%s', which was given", b->given[i].name);
	}
	return text;
}

static const struct qd_onnx_symbol *find_symbol(const struct qd_onnx_build *b, const char *name)
{
	for (size_t i = 0; i < b->n_symbols; i++)
		if (!strcmp(b->symbols[i].name, name))
			return &b->symbols[i];
	return NULL;
}

/* The first use of a named dimension tells its size, all others must agree. */
static enum qd_status bind_symbol(struct qd_onnx_build *b, const Onnx__ValueInfoProto *info, int axis, int64_t size)
{
	struct qd_onnx_symbol symbol = { symbol_of(info, axis), info->name, size };
	const struct qd_onnx_symbol *known = find_symbol(b, symbol.name);
	enum qd_status st = QD_OK;
	if (symbol.name[0] == '\0')
		return QD_OK;
	if (known != NULL && known->size != size)
		return qd_fail(QD_EINPUT, "dimension '%s' is %lld of input '%s' and %lld of input '%s', needs one size",
			symbol.name, (long long)known->size, known->input, (long long)size, info->name);
	if (known == NULL)
		QD_PUSH(st, b->symbols, b->n_symbols, b->cap_symbols, symbol);
out:
	return st;
}

static bool agrees(const struct qd_shape *file, const struct qd_shape *given)
{
	bool good = file->rank < 0 || file->rank == given->rank;
	for (int i = 0; good && i < file->rank; i++)
		good = file->dim[i] < 0 || given->dim[i] < 0 || file->dim[i] == given->dim[i];
	return good;
}

/* Of what the caller leaves open, the file's. */
static const char *asked_text(const struct qd_shape *file, const struct qd_shape *given, char *text)
{
	struct qd_shape asked = *given;
	for (int i = 0; i < asked.rank && asked.rank == file->rank; i++)
		asked.dim[i] = asked.dim[i] < 0 ? file->dim[i] : asked.dim[i];
	return qd_shape_text(&asked, text);
}

/* Checks a given shape against the file's and learns the sizes of named dimensions from it. */
static enum qd_status learn(struct qd_onnx_build *b, const Onnx__ValueInfoProto *info)
{
	enum qd_status st;
	enum qd_dtype dtype;
	struct qd_shape shape;
	char found[256], needed[QD_SHAPE_TEXT], stray[256];
	const struct qd_shape *given = given_shape(b, info->name);
	QD_TRY(st, declared(info, &dtype, &shape));
	if (given == NULL || qd_graph_find(b->g, info->name) != QD_NONE)
		return QD_OK;
	if (!agrees(&shape, given))
		return qd_fail(QD_EINPUT, "input '%s' was exported as %s, asked for is %s%s", info->name,
			declared_text(info, &shape, found, sizeof(found)), asked_text(&shape, given, needed),
			stray_text(b, stray, sizeof(stray)));
	for (int i = 0; i < shape.rank; i++)
		if (shape.dim[i] < 0 && given->dim[i] >= 0)
			QD_TRY(st, bind_symbol(b, info, i, given->dim[i]));
out:
	return st;
}

/* ---- what weights tell ---- */

static const Onnx__TensorProto *find_initializer(const Onnx__GraphProto *graph, const char *name)
{
	for (size_t i = 0; i < graph->n_initializer; i++)
		if (!strcmp(graph->initializer[i]->name, name))
			return graph->initializer[i];
	return NULL;
}

static int64_t int_attribute(const Onnx__NodeProto *node, const char *name, int64_t absent)
{
	for (size_t i = 0; i < node->n_attribute; i++)
		if (!strcmp(node->attribute[i]->name, name))
			return node->attribute[i]->i;
	return absent;
}

/* The size that `axis` of `rank` has of `node`'s input 0 by its weight; -1 when it does not tell. */
static int64_t size_by_weight(const Onnx__NodeProto *node, const Onnx__TensorProto *w, int rank, int axis)
{
	if (!strcmp(node->op_type, "Conv") && axis == 1 && w->n_dims >= 2)
		return w->dims[1] * int_attribute(node, "group", 1);
	if (axis != rank - 1 || w->n_dims != 2 || int_attribute(node, "transA", 0) != 0)
		return -1;
	if (!strcmp(node->op_type, "MatMul") || !strcmp(node->op_type, "Gemm"))
		return w->dims[int_attribute(node, "transB", 0) != 0 ? 1 : 0];
	return -1;
}

/* What the weights that read value `name`, or a Cast of it (`casts` of them in a row at most), say of one of its axes; -1 when none
 * does. */
static int64_t size_by_readers(const Onnx__GraphProto *graph, const char *name, int rank, int axis, int casts)
{
	for (size_t i = 0; i < graph->n_node; i++) {
		const Onnx__NodeProto *node = graph->node[i];
		const Onnx__TensorProto *w;
		int64_t size = -1;
		if (node->n_input == 0 || node->n_output == 0 || strcmp(node->input[0], name) != 0)
			continue;
		w = node->n_input > 1 ? find_initializer(graph, node->input[1]) : NULL;
		if (w != NULL)
			size = size_by_weight(node, w, rank, axis);
		else if (casts > 0 && !strcmp(node->op_type, "Cast"))
			size = size_by_readers(graph, node->output[0], rank, axis, casts - 1);
		if (size >= 0)
			return size;
	}
	return -1;
}

/* ---- inputs ---- */

static enum qd_status close_dimension(const struct qd_onnx_build *b, const Onnx__ValueInfoProto *info, const struct qd_shape *given,
	int rank, int axis, int64_t *size)
{
	const struct qd_onnx_symbol *symbol = find_symbol(b, symbol_of(info, axis));
	char stray[256];
	if (given != NULL && given->dim[axis] >= 0)
		*size = given->dim[axis];
	else if (symbol != NULL)
		*size = symbol->size;
	else if (*size < 0)
		*size = size_by_readers(b->file->model->graph, info->name, rank, axis, 2);
	if (*size >= 0)
		return QD_OK;
	return qd_fail(QD_EINPUT, "input '%s' leaves dimension %d ('%s') open, needs a size for it%s", info->name, axis,
		symbol_of(info, axis), stray_text(b, stray, sizeof(stray)));
}

static enum qd_status read_input(struct qd_onnx_build *b, const Onnx__ValueInfoProto *info)
{
	enum qd_status st;
	enum qd_dtype dtype;
	struct qd_shape shape;
	const struct qd_shape *given = given_shape(b, info->name);
	if (qd_graph_find(b->g, info->name) != QD_NONE)
		return QD_OK; /* its initializer was read as a constant */
	QD_TRY(st, declared(info, &dtype, &shape));
	if (shape.rank < 0 && given == NULL)
		return qd_fail(QD_EINPUT, "input '%s' has no shape in the file, needs one", info->name);
	for (int i = 0; i < shape.rank; i++)
		QD_TRY(st, close_dimension(b, info, given, shape.rank, i, &shape.dim[i]));
	qd_graph_input(b->g, info->name, qd_onnx_dtype(dtype), shape.rank < 0 ? *given : shape);
	QD_TRY(st, qd_graph_status(b->g));
out:
	return st;
}

enum qd_status qd_onnx_read_inputs(struct qd_onnx_build *b)
{
	const Onnx__GraphProto *graph = b->file->model->graph;
	enum qd_status st = QD_OK;
	for (size_t i = 0; i < graph->n_input; i++)
		QD_TRY(st, learn(b, graph->input[i]));
	for (size_t i = 0; i < graph->n_input; i++)
		QD_TRY(st, read_input(b, graph->input[i]));
out:
	free(b->symbols);
	b->symbols = NULL;
	return st;
}

static bool is_constant(const Onnx__GraphProto *graph, const char *name)
{
	for (size_t i = 0; i < graph->n_initializer && qd_lora_tensor_of(name) == QD_LORA_NONE; i++)
		if (!strcmp(graph->initializer[i]->name, name))
			return true;
	return false;
}

enum qd_status qd_onnx_inputs(const struct qd_onnx_file *file, struct qd_onnx_input *out, size_t max, size_t *n)
{
	const Onnx__GraphProto *graph = file->model->graph;
	enum qd_status st = QD_OK;
	*n = 0;
	for (size_t i = 0; i < graph->n_input && *n < max; i++) {
		struct qd_onnx_input input = { .name = graph->input[i]->name };
		if (is_constant(graph, input.name))
			continue;
		QD_TRY(st, qd_prefix(declared(graph->input[i], &input.dtype, &input.shape), "'%s'", file->name));
		out[(*n)++] = input;
	}
out:
	return st;
}

bool qd_onnx_has_constant(const struct qd_onnx_file *file, const char *suffix)
{
	const Onnx__GraphProto *graph = file->model->graph;
	for (size_t i = 0; i < graph->n_initializer; i++)
		if (qd_ends_with(graph->initializer[i]->name, suffix))
			return true;
	return false;
}

/* ---- outputs ---- */

const char *qd_onnx_output(const struct qd_onnx_file *file)
{
	const Onnx__GraphProto *graph = file->model->graph;
	return graph->n_output > 0 ? graph->output[0]->name : "";
}

static enum qd_status read_output(struct qd_onnx_build *b, const Onnx__ValueInfoProto *info)
{
	enum qd_status st;
	enum qd_dtype dtype;
	struct qd_shape shape;
	char found[QD_SHAPE_TEXT], needed[256];
	qd_id value = qd_graph_find(b->g, info->name);
	if (value == QD_NONE)
		return qd_fail(QD_EINPUT, "output '%s' is not defined", info->name);
	QD_TRY(st, declared(info, &dtype, &shape));
	if (!agrees(&shape, &b->g->values[value].shape))
		return qd_fail(QD_EINPUT, "output '%s' is declared as %s, the nodes give %s", info->name,
			declared_text(info, &shape, needed, sizeof(needed)), qd_shape_text(&b->g->values[value].shape, found));
	qd_graph_output(b->g, value);
	QD_TRY(st, qd_graph_status(b->g));
out:
	return st;
}

enum qd_status qd_onnx_read_outputs(struct qd_onnx_build *b)
{
	const Onnx__GraphProto *graph = b->file->model->graph;
	enum qd_status st = QD_OK;
	for (size_t i = 0; i < graph->n_output; i++)
		QD_TRY(st, read_output(b, graph->output[i]));
out:
	return st;
}
