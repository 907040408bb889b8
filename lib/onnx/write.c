/*
 * Writes a graph as an ONNX file. Protocol buffer messages are made with protobuf-c except where a weight's bytes would have to be
 * copied:
 *
 *   ModelProto      1 ir_version = 10, 2 producer_name, 3 producer_version, 8 opset_import { 1 domain "", 2 version 21 },
 *                   14 metadata_props
 *                   7 graph, written last: tag 0x3A, varint length, then
 *     GraphProto    1 node..., 2 name, 11 input..., 12 output... (packed in one piece: no weights, small)
 *                   5 initializer: tag 0x2A, varint length, then, for each weight
 *       TensorProto 1 dims, 2 data_type, 8 name, 13 external_data, 14 data_location (packed)
 *                   9 raw_data: tag 0x4A, varint length, the bytes, little-endian
 *
 * Lengths are known before the first byte is written, so that weights are made and written one at a time. External data: the bytes
 * of tensors of at least 1 KiB go to "<file>.data" at offsets aligned to 4096, and external_data holds location, offset and length.
 */
#include "lib/onnx/onnx.h"
#include "onnx.pb-c.h"

#include <stdlib.h>
#include <string.h>

enum { IR_VERSION = 10, OPSET = 21, INLINE_BELOW = 1024, ALIGNMENT = 4096 };
/* A protocol buffer message must stay below 2^31 bytes; some room is left for readers that add to it. */
static const uint64_t LARGEST_FILE = 2000000000u;

struct weight {
	qd_id value;
	const struct qd_stored_weight *stored; /* NULL: the value's own bytes, float ones as float32 */
	enum qd_dtype dtype;
	size_t bytes;
	bool external;
	uint64_t offset;
	unsigned char *header; /* the TensorProto without raw_data; in the arena */
	size_t header_bytes;
};

struct writer {
	const struct qd_graph *g;
	const struct qd_onnx_write_options *options;
	struct qd_arena arena;
	struct weight *weights;
	size_t n_weights;
	char *location; /* bare name of the data file */
	unsigned char *model, *graph;
	size_t model_bytes, graph_bytes;
};

/* ---- small parts ---- */

static size_t put_varint(unsigned char *out, uint64_t v)
{
	size_t n = 0;
	for (; v >= 0x80; v >>= 7)
		out[n++] = (unsigned char)(v | 0x80);
	out[n++] = (unsigned char)v;
	return n;
}

static size_t varint_bytes(uint64_t v)
{
	unsigned char scratch[10];
	return put_varint(scratch, v);
}

static enum qd_status write_tag(struct qd_output *out, unsigned char tag, uint64_t length)
{
	unsigned char head[11] = { tag };
	return qd_output_write(out, head, 1 + put_varint(head + 1, length));
}

/* A message's bytes in the arena. */
static enum qd_status pack(struct writer *w, const ProtobufCMessage *message, unsigned char **bytes, size_t *n)
{
	*n = protobuf_c_message_get_packed_size(message);
	*bytes = qd_arena_alloc(&w->arena, *n);
	if (*bytes == NULL)
		return QD_ENOMEM;
	protobuf_c_message_pack(message, *bytes);
	return QD_OK;
}

/* protobuf-c's structs hold `char *` for text that packing only reads. */
static char *text_of(const char *text)
{
	union {
		const char *in;
		char *out;
	} u = { .in = text };
	return u.out;
}

/* n pointers to elements of an array, as protobuf-c's repeated fields are. */
static void *pointers(struct qd_arena *arena, void *items, size_t n, size_t size)
{
	void **list = qd_arena_array(arena, n + 1, sizeof(*list));
	for (size_t i = 0; list != NULL && i < n; i++)
		list[i] = (char *)items + i * size;
	return list;
}

static enum qd_status entries(
	struct qd_arena *arena, const char *const *pairs, size_t n, Onnx__StringStringEntryProto ***out, size_t *count)
{
	Onnx__StringStringEntryProto *items = qd_arena_array(arena, n + 1, sizeof(*items));
	if (items == NULL)
		return QD_ENOMEM;
	for (size_t i = 0; i < n; i++) {
		onnx__string_string_entry_proto__init(&items[i]);
		items[i].key = text_of(pairs[2 * i]);
		items[i].value = text_of(pairs[2 * i + 1]);
	}
	*out = pointers(arena, items, n, sizeof(*items));
	*count = n;
	return *out != NULL ? QD_OK : QD_ENOMEM;
}

/* ---- weights ---- */

static bool is_float(enum qd_dtype dtype)
{
	return dtype == QD_F32 || dtype == QD_F16 || dtype == QD_BF16 || dtype == QD_F64;
}

static enum qd_status plan_weight(struct writer *w, qd_id value, struct weight *out)
{
	const struct qd_value *v = &w->g->values[value];
	enum qd_dtype dtype = is_float(v->data.dtype) ? QD_F32 : v->data.dtype;
	out->value = value;
	out->dtype = dtype;
	for (size_t i = 0; w->options->stored != NULL && i < w->options->stored->n; i++)
		if (w->options->stored->items[i].value == value)
			out->stored = &w->options->stored->items[i];
	if (out->stored == NULL && v->data.data == NULL && qd_shape_elements(&v->shape) > 0)
		return qd_fail(QD_EINPUT, "weight '%s' has no bytes", v->name);
	if (qd_dtype_onnx(dtype) == 0 ||
		qd_mul_overflow((size_t)qd_shape_elements(&v->shape), qd_dtype_bits(dtype) / 8, &out->bytes))
		return qd_fail(QD_EUNSUPPORTED, "weight '%s' is %s, which ONNX does not have", v->name, qd_dtype_name(dtype));
	return QD_OK;
}

/* The weights that live nodes read, in the order of their values. */
static enum qd_status plan_weights(struct writer *w)
{
	enum qd_status st = QD_OK;
	const struct qd_graph *g = w->g;
	bool *used = qd_arena_alloc(&w->arena, g->n_values);
	w->weights = qd_arena_array(&w->arena, g->n_values + 1, sizeof(*w->weights));
	if (used == NULL || w->weights == NULL)
		return QD_ENOMEM;
	for (size_t i = 0; i < g->n_order; i++)
		for (size_t k = 0; k < g->nodes[g->order[i]].n_in; k++)
			if (g->nodes[g->order[i]].in[k] != QD_NONE)
				used[g->nodes[g->order[i]].in[k]] = true;
	for (qd_id v = 0; v < g->n_values; v++)
		if (used[v] && g->values[v].kind == QD_WEIGHT)
			QD_TRY(st, plan_weight(w, v, &w->weights[w->n_weights++]));
out:
	return st;
}

static enum qd_status pack_header(struct writer *w, struct weight *weight)
{
	enum qd_status st;
	const struct qd_value *v = &w->g->values[weight->value];
	Onnx__TensorProto tensor = ONNX__TENSOR_PROTO__INIT;
	int64_t dims[QD_MAX_RANK];
	char *offset = qd_arena_strf(&w->arena, "%llu", (unsigned long long)weight->offset);
	char *length = qd_arena_strf(&w->arena, "%zu", weight->bytes);
	const char *const where[] = { "location", w->location, "offset", offset, "length", length };
	if (offset == NULL || length == NULL)
		return QD_ENOMEM;
	memcpy(dims, v->shape.dim, sizeof(dims));
	tensor.n_dims = (size_t)v->shape.rank;
	tensor.dims = dims;
	tensor.has_data_type = true;
	tensor.data_type = qd_dtype_onnx(weight->dtype);
	tensor.name = text_of(v->name);
	if (weight->external) {
		tensor.has_data_location = true;
		tensor.data_location = ONNX__TENSOR_PROTO__DATA_LOCATION__EXTERNAL;
		QD_TRY(st, entries(&w->arena, where, 3, &tensor.external_data, &tensor.n_external_data));
	}
	QD_TRY(st, pack(w, &tensor.base, &weight->header, &weight->header_bytes));
out:
	return st;
}

/* Bytes of the TensorProto in the file. */
static uint64_t tensor_bytes(const struct weight *weight)
{
	if (weight->external)
		return weight->header_bytes;
	return weight->header_bytes + 1 + varint_bytes(weight->bytes) + (uint64_t)weight->bytes;
}

/* Of the whole GraphProto. */
static uint64_t graph_bytes(const struct writer *w)
{
	uint64_t total = w->graph_bytes;
	for (size_t i = 0; i < w->n_weights; i++)
		total += 1 + varint_bytes(tensor_bytes(&w->weights[i])) + tensor_bytes(&w->weights[i]);
	return total;
}

static enum qd_status pack_headers(struct writer *w, bool external)
{
	enum qd_status st = QD_OK;
	uint64_t offset = 0;
	for (size_t i = 0; i < w->n_weights; i++) {
		struct weight *weight = &w->weights[i];
		weight->external = external && weight->bytes >= INLINE_BELOW;
		weight->offset = offset;
		if (weight->external)
			offset += (weight->bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
		QD_TRY(st, pack_header(w, weight));
	}
out:
	return st;
}

/* ---- nodes ---- */

static enum qd_status make_attribute(struct qd_arena *arena, const struct qd_attr *attr, Onnx__AttributeProto *out)
{
	onnx__attribute_proto__init(out);
	out->name = text_of(attr->name);
	out->has_type = true;
	switch (attr->type) {
	case QD_ATTR_INT:
		out->type = ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INT;
		out->has_i = true;
		out->i = attr->i;
		return QD_OK;
	case QD_ATTR_FLOAT:
		out->type = ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__FLOAT;
		out->has_f = true;
		out->f = attr->f;
		return QD_OK;
	case QD_ATTR_STRING:
		out->type = ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__STRING;
		out->has_s = true;
		out->s = (ProtobufCBinaryData){ strlen(attr->s), (uint8_t *)text_of(attr->s) };
		return QD_OK;
	case QD_ATTR_INTS:
		out->type = ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INTS;
		out->n_ints = attr->n_ints;
		out->ints = qd_arena_array(arena, attr->n_ints + 1, sizeof(*out->ints));
		if (out->ints == NULL)
			return QD_ENOMEM;
		memcpy(out->ints, attr->ints, attr->n_ints * sizeof(*out->ints));
		return QD_OK;
	}
	return qd_fail(QD_EUNSUPPORTED, "attribute '%s' has type %d", attr->name, (int)attr->type);
}

/* ConstantOfShape's fill value is a tensor of one element, which the graph spells as two numbers. */
static enum qd_status make_fill_value(struct qd_arena *arena, const struct qd_node *node, Onnx__AttributeProto *out)
{
	Onnx__TensorProto *tensor = qd_arena_alloc(arena, sizeof(*tensor));
	float value = qd_node_float(node, "value", 0);
	int dtype = (int)qd_node_int(node, "dtype", 1);
	int64_t *data = qd_arena_alloc(arena, sizeof(*data) * 2);
	if (tensor == NULL || data == NULL)
		return QD_ENOMEM;
	onnx__tensor_proto__init(tensor);
	data[0] = 1;
	tensor->n_dims = 1;
	tensor->dims = data;
	tensor->has_data_type = true;
	tensor->data_type = dtype;
	tensor->has_raw_data = true;
	tensor->raw_data.data = (uint8_t *)&data[1];
	tensor->raw_data.len = dtype == ONNX__TENSOR_PROTO__DATA_TYPE__INT64 ? 8 : 4;
	if (dtype == ONNX__TENSOR_PROTO__DATA_TYPE__INT64)
		data[1] = (int64_t)value;
	else if (dtype == ONNX__TENSOR_PROTO__DATA_TYPE__FLOAT)
		memcpy(&data[1], &value, sizeof(value));
	else
		return qd_fail(QD_EUNSUPPORTED, "node '%s' fills with ONNX type %d, needs FLOAT or INT64", node->name, dtype);
	onnx__attribute_proto__init(out);
	out->name = text_of("value");
	out->has_type = true;
	out->type = ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__TENSOR;
	out->t = tensor;
	return QD_OK;
}

static enum qd_status make_attributes(struct qd_arena *arena, const struct qd_node *node, Onnx__NodeProto *out)
{
	enum qd_status st = QD_OK;
	bool fill = node->op == QD_OP_CONSTANT_OF_SHAPE;
	size_t n = fill ? 1 : node->n_attrs;
	Onnx__AttributeProto *attrs = qd_arena_array(arena, n + 1, sizeof(*attrs));
	if (attrs == NULL)
		return QD_ENOMEM;
	if (fill)
		QD_TRY(st, make_fill_value(arena, node, &attrs[0]));
	for (size_t i = 0; !fill && i < n; i++)
		QD_TRY(st, make_attribute(arena, &node->attrs[i], &attrs[i]));
	out->n_attribute = n;
	out->attribute = pointers(arena, attrs, n, sizeof(*attrs));
	if (out->attribute == NULL)
		st = QD_ENOMEM;
out:
	return st;
}

/* Names of values; an absent input is "", those at the end are left out. */
static enum qd_status make_names(struct writer *w, const qd_id *ids, size_t n, char ***names, size_t *count)
{
	while (n > 0 && ids[n - 1] == QD_NONE)
		n--;
	*names = qd_arena_array(&w->arena, n + 1, sizeof(**names));
	*count = n;
	for (size_t i = 0; *names != NULL && i < n; i++)
		(*names)[i] = text_of(ids[i] == QD_NONE ? "" : w->g->values[ids[i]].name);
	return *names != NULL ? QD_OK : QD_ENOMEM;
}

static enum qd_status make_node(struct writer *w, const struct qd_node *node, Onnx__NodeProto *out)
{
	enum qd_status st;
	onnx__node_proto__init(out);
	out->name = text_of(node->name);
	out->op_type = text_of(qd_op(node->op)->name);
	QD_TRY(st, make_names(w, node->in, node->n_in, &out->input, &out->n_input));
	QD_TRY(st, make_names(w, node->out, node->n_out, &out->output, &out->n_output));
	QD_TRY(st, make_attributes(&w->arena, node, out));
out:
	return st;
}

/* ---- the interface ---- */

/* Name, element type and dimensions of an input or output. */
struct value_info {
	Onnx__ValueInfoProto info;
	Onnx__TypeProto type;
	Onnx__TypeProto__Tensor tensor;
	Onnx__TensorShapeProto shape;
	Onnx__TensorShapeProto__Dimension dims[QD_MAX_RANK], *dim_list[QD_MAX_RANK];
};

static void make_value_info(const struct qd_value *v, struct value_info *out)
{
	onnx__value_info_proto__init(&out->info);
	onnx__type_proto__init(&out->type);
	onnx__type_proto__tensor__init(&out->tensor);
	onnx__tensor_shape_proto__init(&out->shape);
	for (int d = 0; d < v->shape.rank; d++) {
		onnx__tensor_shape_proto__dimension__init(&out->dims[d]);
		out->dims[d].value_case = ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_VALUE;
		out->dims[d].dim_value = v->shape.dim[d];
		out->dim_list[d] = &out->dims[d];
	}
	out->shape.n_dim = (size_t)v->shape.rank;
	out->shape.dim = out->dim_list;
	out->tensor.has_elem_type = true;
	out->tensor.elem_type = qd_dtype_onnx(v->dtype);
	out->tensor.shape = &out->shape;
	out->type.value_case = ONNX__TYPE_PROTO__VALUE_TENSOR_TYPE;
	out->type.tensor_type = &out->tensor;
	out->info.name = text_of(v->name);
	out->info.type = &out->type;
}

static enum qd_status make_interface(struct writer *w, const qd_id *ids, size_t n, Onnx__ValueInfoProto ***list, size_t *count)
{
	struct value_info *infos = qd_arena_array(&w->arena, n + 1, sizeof(*infos));
	if (infos == NULL)
		return QD_ENOMEM;
	for (size_t i = 0; i < n; i++)
		make_value_info(&w->g->values[ids[i]], &infos[i]);
	*list = pointers(&w->arena, infos, n, sizeof(*infos));
	*count = n;
	return *list != NULL ? QD_OK : QD_ENOMEM;
}

static enum qd_status pack_graph(struct writer *w)
{
	enum qd_status st;
	Onnx__GraphProto graph = ONNX__GRAPH_PROTO__INIT;
	const struct qd_graph *g = w->g;
	Onnx__NodeProto *nodes = qd_arena_array(&w->arena, g->n_order + 1, sizeof(*nodes));
	if (nodes == NULL)
		return QD_ENOMEM;
	for (size_t i = 0; i < g->n_order; i++)
		QD_TRY(st, make_node(w, &g->nodes[g->order[i]], &nodes[i]));
	graph.n_node = g->n_order;
	graph.node = pointers(&w->arena, nodes, g->n_order, sizeof(*nodes));
	if (graph.node == NULL)
		return QD_ENOMEM;
	graph.name = text_of(g->name);
	QD_TRY(st, make_interface(w, g->inputs, g->n_inputs, &graph.input, &graph.n_input));
	QD_TRY(st, make_interface(w, g->outputs, g->n_outputs, &graph.output, &graph.n_output));
	QD_TRY(st, pack(w, &graph.base, &w->graph, &w->graph_bytes));
out:
	return st;
}

static enum qd_status pack_model(struct writer *w)
{
	enum qd_status st;
	Onnx__ModelProto model = ONNX__MODEL_PROTO__INIT;
	Onnx__OperatorSetIdProto opset = ONNX__OPERATOR_SET_ID_PROTO__INIT, *opsets = &opset;
	opset.domain = text_of("");
	opset.has_version = true;
	opset.version = OPSET;
	model.has_ir_version = true;
	model.ir_version = IR_VERSION;
	model.producer_name = text_of("quad");
	model.n_opset_import = 1;
	model.opset_import = &opsets;
	QD_TRY(st,
		entries(&w->arena, w->options->metadata, w->options->n_metadata, &model.metadata_props, &model.n_metadata_props));
	QD_TRY(st, pack(w, &model.base, &w->model, &w->model_bytes));
out:
	return st;
}

/* ---- bytes ---- */

/* Codes of a weight. `codes` has weight->bytes bytes. */
static enum qd_status make_codes(const struct weight *weight, void *codes)
{
	enum qd_status st;
	const struct qd_tensor *source = &weight->stored->source;
	size_t n = (size_t)qd_shape_elements(&source->shape);
	float *real = malloc((n + 1) * sizeof(*real));

	if (real == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "cannot quantize '%s'", source->name));
	QD_TRY(st, qd_tensor_to_f32(source, real));
	QD_TRY(st, qd_encode(weight->stored->encoding, &source->shape, real, codes));
out:
	free(real);
	return st;
}

static enum qd_status write_bytes(const struct writer *w, const struct weight *weight, struct qd_output *out)
{
	enum qd_status st;
	const struct qd_tensor *data = &w->g->values[weight->value].data;
	void *made = NULL;
	if (weight->stored == NULL && data->dtype == weight->dtype)
		return qd_output_write(out, data->data, weight->bytes);
	made = malloc(weight->bytes + 1);
	if (made == NULL)
		return qd_fail(QD_ENOMEM, "cannot hold weight '%s'", w->g->values[weight->value].name);
	QD_TRY(st, weight->stored != NULL ? make_codes(weight, made) : qd_tensor_to_f32(data, made));
	QD_TRY(st, qd_output_write(out, made, weight->bytes));
out:
	free(made);
	return st;
}

static enum qd_status write_model(const struct writer *w, const char *path)
{
	enum qd_status st;
	struct qd_output out = { 0 };
	QD_TRY(st, qd_output_open(&out, path, true));
	QD_TRY(st, qd_output_write(&out, w->model, w->model_bytes));
	QD_TRY(st, write_tag(&out, 0x3A, graph_bytes(w)));
	QD_TRY(st, qd_output_write(&out, w->graph, w->graph_bytes));
	for (size_t i = 0; i < w->n_weights; i++) {
		const struct weight *weight = &w->weights[i];
		qd_progress("writing weights", i, w->n_weights, NULL);
		QD_TRY(st, write_tag(&out, 0x2A, tensor_bytes(weight)));
		QD_TRY(st, qd_output_write(&out, weight->header, weight->header_bytes));
		if (weight->external)
			continue;
		QD_TRY(st, write_tag(&out, 0x4A, weight->bytes));
		QD_TRY(st, write_bytes(w, weight, &out));
	}
	QD_TRY(st, qd_output_commit(&out));
out:
	qd_output_release(&out);
	return st;
}

static enum qd_status write_data(const struct writer *w, const char *path)
{
	enum qd_status st;
	struct qd_output out = { 0 };
	static const unsigned char zeros[ALIGNMENT];
	QD_TRY(st, qd_output_open(&out, path, true));
	for (size_t i = 0; i < w->n_weights; i++) {
		const struct weight *weight = &w->weights[i];
		qd_progress("writing weights", i, w->n_weights, NULL);
		if (!weight->external)
			continue;
		QD_TRY(st, qd_output_write(&out, zeros, (size_t)(weight->offset - out.written)));
		QD_TRY(st, write_bytes(w, weight, &out));
	}
	QD_TRY(st, qd_output_commit(&out));
out:
	qd_output_release(&out);
	return st;
}

enum qd_status qd_onnx_write(
	const struct qd_graph *g, const char *path, const struct qd_onnx_write_options *options, bool *external)
{
	enum qd_status st;
	struct writer w = { .g = g, .options = options };
	const char *slash = strrchr(path, '/');
	char *data_path = qd_arena_strf(&w.arena, "%s.data", path);
	w.location = qd_arena_strf(&w.arena, "%s.data", slash != NULL ? slash + 1 : path);
	if (data_path == NULL || w.location == NULL) {
		st = QD_ENOMEM;
		goto out;
	}
	QD_TRY(st, plan_weights(&w));
	QD_TRY(st, pack_model(&w));
	QD_TRY(st, pack_graph(&w));
	QD_TRY(st, pack_headers(&w, false));
	bool aside = options->external || w.model_bytes + graph_bytes(&w) > LARGEST_FILE;
	if (aside) {
		QD_TRY(st, pack_headers(&w, true));
		QD_TRY(st, write_data(&w, data_path));
	}
	QD_TRY(st, write_model(&w, path));
	qd_progress("writing weights", w.n_weights, w.n_weights, NULL);
	if (external != NULL)
		*external = aside;
out:
	qd_arena_release(&w.arena);
	return st;
}

void qd_stored_weights_release(struct qd_stored_weights *weights)
{
	free(weights->items);
	*weights = (struct qd_stored_weights){ 0 };
}
