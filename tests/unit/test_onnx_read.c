/*
 * lib/onnx, reader: constants in every spelling, names and order, external data, and every refusal by its message. Models are
 * put together here with protobuf-c and read from memory.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "lib/onnx/onnx.h"
#include "onnx.pb-c.h"
#include "tests/unit/ir_help.h"
#include "tests/unit/scratch.h"

/* ---- a small model: y = Relu(x) + w, x and w [2,3] ---- */

struct model {
	Onnx__ModelProto model, *unused;
	Onnx__OperatorSetIdProto opset, *opsets[1];
	Onnx__GraphProto graph;
	Onnx__NodeProto nodes[3], *node_list[3];
	char *names[3][4];
	Onnx__AttributeProto attribute, *attributes[1];
	Onnx__TensorProto w, *initializers[1];
	int64_t dims[2];
	float values[6];
	Onnx__ValueInfoProto info[2], *inputs[1], *outputs[1];
	Onnx__TypeProto type[2];
	Onnx__TypeProto__Tensor tensor[2];
	Onnx__TensorShapeProto shape[2];
	Onnx__TensorShapeProto__Dimension dims_of[2][2], *dim_list[2][2];
};

static void make_info(struct model *m, int i, const char *name)
{
	onnx__value_info_proto__init(&m->info[i]);
	onnx__type_proto__init(&m->type[i]);
	onnx__type_proto__tensor__init(&m->tensor[i]);
	onnx__tensor_shape_proto__init(&m->shape[i]);
	for (int d = 0; d < 2; d++) {
		onnx__tensor_shape_proto__dimension__init(&m->dims_of[i][d]);
		m->dims_of[i][d].value_case = ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_VALUE;
		m->dims_of[i][d].dim_value = 2 + d;
		m->dim_list[i][d] = &m->dims_of[i][d];
	}
	m->shape[i].n_dim = 2;
	m->shape[i].dim = m->dim_list[i];
	m->tensor[i].has_elem_type = true;
	m->tensor[i].elem_type = 1;
	m->tensor[i].shape = &m->shape[i];
	m->type[i].value_case = ONNX__TYPE_PROTO__VALUE_TENSOR_TYPE;
	m->type[i].tensor_type = &m->tensor[i];
	m->info[i].name = (char *)(uintptr_t)name;
	m->info[i].type = &m->type[i];
}

static void make_node(struct model *m, int i, const char *op, const char *a, const char *b, const char *out)
{
	onnx__node_proto__init(&m->nodes[i]);
	m->names[i][0] = (char *)(uintptr_t)a;
	m->names[i][1] = (char *)(uintptr_t)b;
	m->names[i][2] = (char *)(uintptr_t)out;
	m->nodes[i].op_type = (char *)(uintptr_t)op;
	m->nodes[i].n_input = a == NULL ? 0 : b == NULL ? 1 : 2;
	m->nodes[i].input = m->names[i];
	m->nodes[i].n_output = 1;
	m->nodes[i].output = &m->names[i][2];
	m->node_list[i] = &m->nodes[i];
}

static void make_model(struct model *m)
{
	memset(m, 0, sizeof(*m));
	onnx__model_proto__init(&m->model);
	onnx__operator_set_id_proto__init(&m->opset);
	onnx__graph_proto__init(&m->graph);
	onnx__tensor_proto__init(&m->w);
	onnx__attribute_proto__init(&m->attribute);
	m->opset.has_version = true;
	m->opset.version = 21;
	m->opsets[0] = &m->opset;
	m->model.has_ir_version = true;
	m->model.ir_version = 10;
	m->model.n_opset_import = 1;
	m->model.opset_import = m->opsets;
	m->model.graph = &m->graph;
	for (int i = 0; i < 6; i++)
		m->values[i] = 0.5f * (float)i;
	m->dims[0] = 2;
	m->dims[1] = 3;
	m->w.n_dims = 2;
	m->w.dims = m->dims;
	m->w.has_data_type = true;
	m->w.data_type = 1;
	m->w.name = (char *)(uintptr_t) "w";
	m->w.has_raw_data = true;
	m->w.raw_data = (ProtobufCBinaryData){ sizeof(m->values), (uint8_t *)m->values };
	m->initializers[0] = &m->w;
	make_node(m, 0, "Relu", "x", NULL, "a");
	make_node(m, 1, "Add", "a", "w", "y");
	make_info(m, 0, "x");
	make_info(m, 1, "y");
	m->inputs[0] = &m->info[0];
	m->outputs[0] = &m->info[1];
	m->graph.n_node = 2;
	m->graph.node = m->node_list;
	m->graph.n_initializer = 1;
	m->graph.initializer = m->initializers;
	m->graph.n_input = 1;
	m->graph.input = m->inputs;
	m->graph.n_output = 1;
	m->graph.output = m->outputs;
	m->attributes[0] = &m->attribute;
}

static enum qd_status read_bytes(struct qd_onnx *onnx, const char *folder, const void *bytes, size_t n)
{
	*onnx = (struct qd_onnx){ 0 };
	enum qd_status st = qd_onnx_load_bytes(&onnx->file, "m", folder, bytes, n);
	if (st == QD_OK)
		st = qd_onnx_graph(&onnx->graph, onnx->file, NULL, 0);
	if (st != QD_OK)
		qd_onnx_release(onnx);
	return st;
}

static enum qd_status read_model(const struct model *m, const char *folder, struct qd_onnx *onnx)
{
	size_t n = onnx__model_proto__get_packed_size(&m->model);
	unsigned char *bytes = malloc(n);
	assert_non_null(bytes);
	onnx__model_proto__pack(&m->model, bytes);
	enum qd_status st = read_bytes(onnx, folder, bytes, n);
	free(bytes);
	return st;
}

static void expect_refusal(const struct model *m, enum qd_status code, const char *message)
{
	struct qd_onnx onnx;
	assert_int_equal(read_model(m, NULL, &onnx), code);
	assert_string_equal(qd_message(), message);
}

/* The weight `w` as the reader gives it must be 0, 0.5, 1, ... */
static void expect_w(const struct model *m, const char *folder)
{
	struct qd_onnx onnx;
	float found[6];
	if (read_model(m, folder, &onnx) != QD_OK)
		fail_msg("%s", qd_message());
	qd_id w = qd_graph_find(&onnx.graph, "w");
	assert_int_not_equal(w, QD_NONE);
	assert_int_equal(onnx.graph.values[w].kind, QD_WEIGHT);
	assert_int_equal(qd_tensor_to_f32(&onnx.graph.values[w].data, found), QD_OK);
	for (int i = 0; i < 6; i++)
		assert_true(found[i] == 0.5f * (float)i);
	assert_string_equal(onnx.graph.values[onnx.graph.outputs[0]].name, "y");
	assert_int_equal(onnx.graph.n_inputs, 1);
	qd_onnx_release(&onnx);
}

/* ---- constants ---- */

static void reads_raw_data(void **state)
{
	struct model m;
	(void)state;
	make_model(&m);
	expect_w(&m, NULL);
}

static void reads_typed_data(void **state)
{
	struct model m;
	double doubles[6];
	int32_t halves[6];
	(void)state;
	for (int i = 0; i < 6; i++) {
		doubles[i] = 0.5 * i;
		halves[i] = qd_f32_to_f16(0.5f * (float)i);
	}
	make_model(&m);
	m.w.has_raw_data = false;
	m.w.n_float_data = 6;
	m.w.float_data = m.values;
	expect_w(&m, NULL);
	m.w.n_float_data = 0;
	m.w.data_type = 11;
	m.w.n_double_data = 6;
	m.w.double_data = doubles;
	expect_w(&m, NULL);
	m.w.n_double_data = 0;
	m.w.data_type = 10;
	m.w.n_int32_data = 6;
	m.w.int32_data = halves;
	expect_w(&m, NULL);
}

/* An initializer among the inputs is a constant. */
static void reads_an_initializer_that_is_an_input(void **state)
{
	struct model m;
	Onnx__ValueInfoProto extra, *inputs[2];
	(void)state;
	make_model(&m);
	extra = m.info[0];
	extra.name = (char *)(uintptr_t) "w";
	inputs[0] = &extra;
	inputs[1] = &m.info[0];
	m.graph.n_input = 2;
	m.graph.input = inputs;
	expect_w(&m, NULL);
}

/* Unless it is a LoRA tensor: then it stays an input. */
static void reads_a_lora_default_as_an_input(void **state)
{
	struct model m;
	struct qd_onnx onnx;
	Onnx__ValueInfoProto extra, *inputs[2];
	(void)state;
	make_model(&m);
	extra = m.info[0];
	extra.name = m.w.name = m.names[1][1] = (char *)(uintptr_t) "l.lora_down";
	inputs[0] = &m.info[0];
	inputs[1] = &extra;
	m.graph.n_input = 2;
	m.graph.input = inputs;
	assert_int_equal(read_model(&m, NULL, &onnx), QD_OK);
	assert_int_equal(onnx.graph.n_inputs, 2);
	assert_int_equal(onnx.graph.values[qd_graph_find(&onnx.graph, "l.lora_down")].kind, QD_INPUT);
	qd_onnx_release(&onnx);
}

static void reads_constant_nodes(void **state)
{
	struct model m;
	(void)state;
	make_model(&m);
	make_node(&m, 2, "Add", "a", "w", "y");
	make_node(&m, 1, "Constant", NULL, NULL, "w");
	m.attribute.name = (char *)(uintptr_t) "value";
	m.attribute.has_type = true;
	m.attribute.type = ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__TENSOR;
	m.attribute.t = &m.w;
	m.nodes[1].n_attribute = 1;
	m.nodes[1].attribute = m.attributes;
	m.graph.n_node = 3;
	m.graph.n_initializer = 0;
	expect_w(&m, NULL);
	m.attribute.name = (char *)(uintptr_t) "sparse_value";
	expect_refusal(&m, QD_EUNSUPPORTED, "'m': node 'w': a Constant has attribute 'sparse_value'");
}

/* ---- external data ---- */

struct external {
	Onnx__StringStringEntryProto entries[3], *list[3];
};

static void make_external(struct model *m, struct external *e, const char *location, const char *offset, const char *length)
{
	static const char *const keys[] = { "location", "offset", "length" };
	const char *const values[] = { location, offset, length };
	for (int i = 0; i < 3; i++) {
		onnx__string_string_entry_proto__init(&e->entries[i]);
		e->entries[i].key = (char *)(uintptr_t)keys[i];
		e->entries[i].value = (char *)(uintptr_t)values[i];
		e->list[i] = &e->entries[i];
	}
	m->w.has_raw_data = false;
	m->w.has_data_location = true;
	m->w.data_location = ONNX__TENSOR_PROTO__DATA_LOCATION__EXTERNAL;
	m->w.n_external_data = 3;
	m->w.external_data = e->list;
}

static void reads_external_data(void **state)
{
	struct model m;
	struct external e;
	unsigned char file[32] = { 0 };
	(void)state;
	make_model(&m);
	memcpy(file + 8, m.values, sizeof(m.values));
	scratch_file("w.bin", file, sizeof(file));
	make_external(&m, &e, "w.bin", "8", "24");
	expect_w(&m, scratch_dir());
}

static void refuses_external_data_elsewhere(void **state)
{
	static const struct {
		const char *location, *offset, *length, *message;
	} cases[] = {
		{ "../w.bin", "0", "24", "'m': tensor 'w': external location '../w.bin' is not a file name in the model's folder" },
		{ "/etc/passwd", "0", "24",
			"'m': tensor 'w': external location '/etc/passwd' is not a file name in the model's folder" },
		{ "..", "0", "24", "'m': tensor 'w': external location '..' is not a file name in the model's folder" },
		{ "", "0", "24", "'m': tensor 'w': external location '' is not a file name in the model's folder" },
		{ "w.bin", "-1", "24", "'m': tensor 'w': external offset is '-1', needs a number" },
		{ "w.bin", "0", "24x", "'m': tensor 'w': external length is '24x', needs a number" },
		{ "w.bin", "0", "20", "'m': tensor 'w': external length is 20 bytes, the shape needs 24" },
		{ "w.bin", "16", "24", "'m': tensor 'w': bytes 16 to 40 are past the end of 'w.bin' (32 bytes)" },
		{ "w.bin", "18446744073709551600", "24",
			"'m': tensor 'w': bytes 18446744073709551600 to 8 are past the end of 'w.bin' (32 bytes)" },
	};
	unsigned char file[32] = { 0 };
	(void)state;
	scratch_file("w.bin", file, sizeof(file));
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		struct model m;
		struct external e;
		struct qd_onnx onnx;
		make_model(&m);
		make_external(&m, &e, cases[i].location, cases[i].offset, cases[i].length);
		assert_int_equal(read_model(&m, scratch_dir(), &onnx), QD_EINPUT);
		assert_string_equal(qd_message(), cases[i].message);
	}
}

/* ---- refusals ---- */

static void refuses_what_is_no_model(void **state)
{
	struct qd_onnx onnx;
	(void)state;
	assert_int_equal(read_bytes(&onnx, NULL, "hello, world", 12), QD_EINPUT);
	assert_string_equal(qd_message(), "'m': is not an ONNX file");
	assert_int_equal(read_bytes(&onnx, NULL, "", 0), QD_EINPUT);
	assert_string_equal(qd_message(), "'m': is not an ONNX file");
	assert_int_equal(qd_onnx_open(&onnx, "/nonexistent/m.onnx", NULL, 0), QD_EIO);
}

static void refuses_other_operator_sets(void **state)
{
	struct model m;
	(void)state;
	make_model(&m);
	m.opset.version = 12;
	expect_refusal(&m, QD_EUNSUPPORTED, "'m': operator set 12: 13 to 25 are read");
	m.opset.version = 21;
	m.opset.domain = (char *)(uintptr_t) "com.microsoft";
	expect_refusal(&m, QD_EUNSUPPORTED, "'m': operator set 0: 13 to 25 are read");
}

static void refuses_unknown_operators(void **state)
{
	struct model m;
	(void)state;
	make_model(&m);
	m.nodes[0].op_type = (char *)(uintptr_t) "Hardmax";
	expect_refusal(&m, QD_EUNSUPPORTED, "'m': node 'a': operator 'Hardmax' is not read");
	m.nodes[0].op_type = (char *)(uintptr_t) "Relu";
	m.nodes[0].domain = (char *)(uintptr_t) "com.microsoft";
	expect_refusal(&m, QD_EUNSUPPORTED, "'m': node 'a': operator 'Relu' of domain 'com.microsoft' is not read");
}

/* Converters append the nodes that they add. */
static void sorts_nodes(void **state)
{
	struct model m;
	struct qd_onnx onnx;
	(void)state;
	make_model(&m);
	m.node_list[0] = &m.nodes[1];
	m.node_list[1] = &m.nodes[0];
	assert_int_equal(read_model(&m, NULL, &onnx), QD_OK);
	assert_int_equal(onnx.graph.n_order, 2);
	assert_int_equal(onnx.graph.nodes[onnx.graph.order[0]].op, QD_OP_RELU);
	assert_int_equal(onnx.graph.nodes[onnx.graph.order[1]].op, QD_OP_ADD);
	qd_onnx_release(&onnx);
}

static void refuses_cycles_and_undefined_inputs(void **state)
{
	struct model m;
	(void)state;
	make_model(&m);
	m.names[0][0] = (char *)(uintptr_t) "y";
	expect_refusal(&m, QD_EINPUT, "'m': node 'y': its input 'a' comes from itself, through a cycle of nodes");
	m.names[0][0] = (char *)(uintptr_t) "a";
	expect_refusal(&m, QD_EINPUT, "'m': node 'a': its input 'a' comes from itself, through a cycle of nodes");
	m.names[0][0] = (char *)(uintptr_t) "nowhere";
	expect_refusal(&m, QD_EINPUT, "'m': node 'a': input 'nowhere' is not defined");
}

static void refuses_a_name_defined_twice(void **state)
{
	struct model m;
	(void)state;
	make_model(&m);
	m.names[0][2] = m.names[1][0] = (char *)(uintptr_t) "w";
	expect_refusal(&m, QD_EINPUT, "'m': node 'w': value name 'w' is taken");
}

static void refuses_data_of_another_length(void **state)
{
	struct model m;
	(void)state;
	make_model(&m);
	m.w.raw_data.len = 20;
	expect_refusal(&m, QD_EINPUT, "'m': tensor 'w': has 20 bytes, its shape needs 24");
	m.w.has_raw_data = false;
	m.w.n_float_data = 5;
	m.w.float_data = m.values;
	expect_refusal(&m, QD_EINPUT, "'m': tensor 'w': has 5 elements, its shape needs 6");
}

static void refuses_wild_dimensions(void **state)
{
	struct model m;
	(void)state;
	make_model(&m);
	m.dims[0] = -2;
	expect_refusal(&m, QD_EINPUT, "'m': tensor 'w': dimension 0 is -2");
	m.dims[0] = INT64_MAX;
	expect_refusal(&m, QD_EINPUT, "'m': tensor 'w': dimension 0 is 9223372036854775807");
	m.dims[0] = 2;
	m.w.data_type = 22;
	expect_refusal(&m, QD_EUNSUPPORTED, "'m': tensor 'w': has ONNX data type 22");
}

static void refuses_dynamic_dimensions(void **state)
{
	struct model m;
	(void)state;
	make_model(&m);
	m.dims_of[0][0].value_case = ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_PARAM;
	m.dims_of[0][0].dim_param = (char *)(uintptr_t) "batch";
	expect_refusal(&m, QD_EINPUT, "'m': input 'x' leaves dimension 0 ('batch') open, needs a size for it");
}

/* Two inputs x and z, y = Relu(x) + z, their first dimension and y's called "batch". */
static void make_open(struct model *m, Onnx__ValueInfoProto *z, Onnx__ValueInfoProto **inputs)
{
	make_model(m);
	*z = m->info[0];
	z->name = m->names[1][1] = (char *)(uintptr_t) "z";
	inputs[0] = &m->info[0];
	inputs[1] = z;
	m->graph.n_input = 2;
	m->graph.input = inputs;
	m->graph.n_initializer = 0;
	for (int i = 0; i < 2; i++) {
		m->dims_of[i][0].value_case = ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_PARAM;
		m->dims_of[i][0].dim_param = (char *)(uintptr_t) "batch";
	}
}

static enum qd_status build_open(const struct model *m, struct qd_graph *g, const struct qd_tensor *given, size_t n)
{
	struct qd_onnx_file *file;
	size_t bytes = onnx__model_proto__get_packed_size(&m->model);
	unsigned char *packed = malloc(bytes);
	assert_non_null(packed);
	onnx__model_proto__pack(&m->model, packed);
	assert_int_equal(qd_onnx_load_bytes(&file, "m", NULL, packed, bytes), QD_OK);
	free(packed);
	enum qd_status st = qd_onnx_graph(g, file, given, n);
	qd_onnx_free(file);
	return st;
}

/* A size that is told of one input serves every dimension of its name. */
static void closes_open_dimensions(void **state)
{
	struct model m;
	Onnx__ValueInfoProto z, *inputs[2];
	const struct qd_tensor given[] = { { .name = "z", .shape = QD_SHAPE(5, -1) }, { .name = "other", .shape = QD_SHAPE(1) } };
	struct qd_graph g;
	(void)state;
	make_open(&m, &z, inputs);
	assert_int_equal(build_open(&m, &g, given, 2), QD_OK);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(g.values[g.inputs[i]].shape.dim[0], 5);
		assert_int_equal(g.values[g.inputs[i]].shape.dim[1], 3);
	}
	assert_int_equal(g.values[g.outputs[0]].shape.dim[0], 5);
	qd_graph_release(&g);
}

/* y = Cast(x) w with x [2,?] and w [2,3] or, for Gemm with transB, [3,2]: the weight has the size that is open. */
static void weights_close_open_dimensions(void **state)
{
	(void)state;
	for (int transposed = 0; transposed < 2; transposed++) {
		struct model m;
		struct qd_onnx onnx;
		Onnx__AttributeProto to, *tos[] = { &to };
		make_model(&m);
		make_node(&m, 0, "Cast", "x", NULL, "a");
		make_node(&m, 1, transposed ? "Gemm" : "MatMul", "a", "w", "y");
		onnx__attribute_proto__init(&to);
		to.name = (char *)(uintptr_t) "to";
		to.has_type = to.has_i = true;
		to.type = ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INT;
		to.i = 1;
		m.nodes[0].n_attribute = 1;
		m.nodes[0].attribute = tos;
		m.attribute.name = (char *)(uintptr_t) "transB";
		m.attribute.has_type = m.attribute.has_i = true;
		m.attribute.type = ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INT;
		m.attribute.i = 1;
		m.nodes[1].n_attribute = transposed ? 1 : 0;
		m.nodes[1].attribute = m.attributes;
		m.dims[0] = transposed ? 3 : 2;
		m.dims[1] = transposed ? 2 : 3;
		m.dims_of[0][1].value_case = ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE__NOT_SET;
		if (read_model(&m, NULL, &onnx) != QD_OK)
			fail_msg("%s", qd_message());
		assert_int_equal(onnx.graph.values[onnx.graph.inputs[0]].shape.dim[1], 2);
		qd_onnx_release(&onnx);
	}
}

static void refuses_sizes_that_do_not_fit(void **state)
{
	const struct {
		struct qd_tensor given[2];
		size_t n;
		const char *message;
	} cases[] = {
		{ { { .name = "x" } }, 0, "'m': input 'x' leaves dimension 0 ('batch') open, needs a size for it" },
		{ { { .name = "x", .shape = QD_SHAPE(2, 4) } }, 1, "'m': input 'x' was exported as [batch,3], asked for is [2,4]" },
		{ { { .name = "x", .shape = QD_SHAPE(2) } }, 1, "'m': input 'x' was exported as [batch,3], asked for is [2]" },
		{ { { .name = "x", .shape = QD_SHAPE(2, 3) }, { .name = "z", .shape = QD_SHAPE(4, 3) } }, 2,
			"'m': dimension 'batch' is 2 of input 'x' and 4 of input 'z', needs one size" },
	};
	struct model m;
	Onnx__ValueInfoProto z, *inputs[2];
	(void)state;
	make_open(&m, &z, inputs);
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		struct qd_graph g;
		assert_int_equal(build_open(&m, &g, cases[i].given, cases[i].n), QD_EINPUT);
		assert_string_equal(qd_message(), cases[i].message);
		qd_graph_release(&g);
	}
}

/* Float16 is computed in float32: inputs, and what is cast to it. */
static void computes_float16_in_float32(void **state)
{
	struct model m;
	struct qd_onnx onnx;
	(void)state;
	make_model(&m);
	m.tensor[0].elem_type = m.tensor[1].elem_type = 10;
	m.nodes[0].op_type = (char *)(uintptr_t) "Cast";
	m.attribute.name = (char *)(uintptr_t) "to";
	m.attribute.has_type = m.attribute.has_i = true;
	m.attribute.type = ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INT;
	m.attribute.i = 10;
	m.nodes[0].n_attribute = 1;
	m.nodes[0].attribute = m.attributes;
	assert_int_equal(read_model(&m, NULL, &onnx), QD_OK);
	for (qd_id i = 0; i < onnx.graph.n_values; i++)
		assert_int_equal(onnx.graph.values[i].dtype, QD_F32);
	qd_onnx_release(&onnx);
}

/* Before operator set 18 the axes of ReduceMean were an attribute. */
static void reads_axes_that_are_an_attribute(void **state)
{
	struct model m;
	struct qd_onnx onnx;
	int64_t axes[] = { 1 };
	unsigned found;
	(void)state;
	make_model(&m);
	m.nodes[0].op_type = (char *)(uintptr_t) "ReduceMean";
	m.attribute.name = (char *)(uintptr_t) "axes";
	m.attribute.has_type = true;
	m.attribute.type = ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INTS;
	m.attribute.n_ints = 1;
	m.attribute.ints = axes;
	m.nodes[0].n_attribute = 1;
	m.nodes[0].attribute = m.attributes;
	assert_int_equal(read_model(&m, NULL, &onnx), QD_OK);
	assert_int_equal(qd_reduced_axes(&onnx.graph, &onnx.graph.nodes[0], &found), QD_OK);
	assert_int_equal(found, 2);
	qd_onnx_release(&onnx);
}

/* ---- names of nodes ---- */

/* A StringStringEntryProto as bytes of field 9: what an older schema keeps as an unknown field. */
static void add_metadata(Onnx__NodeProto *node, ProtobufCMessageUnknownField *field, const char *key, const char *value)
{
	static uint8_t bytes[512];
	Onnx__StringStringEntryProto entry = ONNX__STRING_STRING_ENTRY_PROTO__INIT;
	entry.key = (char *)(uintptr_t)key;
	entry.value = (char *)(uintptr_t)value;
	size_t n = onnx__string_string_entry_proto__get_packed_size(&entry);
	assert_true(n < sizeof(bytes) - 2);
	bytes[0] = (uint8_t)(n % 128 + 128);
	bytes[1] = (uint8_t)(n / 128);
	onnx__string_string_entry_proto__pack(&entry, bytes + 2);
	*field = (ProtobufCMessageUnknownField){ 9, PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED, n + 2, bytes };
	node->base.n_unknown_fields = 1;
	node->base.unknown_fields = field;
}

static void nodes_carry_their_module_paths(void **state)
{
	static const struct {
		const char *name, *key, *value, *found;
	} cases[] = {
		{ "/mid_block/proj/Relu", "", "", "/mid_block/proj/Relu" },
		{ "", "", "", "a" },
		{ "node_relu", "pkg.torch.onnx.name_scopes", "['', 'mid_block', 'mid_block.proj', 'relu']",
			"mid_block.proj/node_relu" },
		{ "node_relu", "pkg.torch.onnx.name_scopes", "['relu']", "node_relu" },
		{ "node_relu", "pkg.torch.onnx.name_scopes", "['', 'relu']", "node_relu" },
		{ "node_relu", "namespace", ": UNet/mid_block: Mid/mid_block.proj: Linear/relu: aten.relu.default",
			"mid_block.proj/node_relu" },
		{ "node_relu", "namespace", "nothing of the kind", "node_relu" },
		{ "node_relu", "other", "['', 'mid_block', 'relu']", "node_relu" },
	};
	(void)state;
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		struct model m;
		struct qd_onnx onnx;
		ProtobufCMessageUnknownField field;
		make_model(&m);
		m.nodes[0].name = (char *)(uintptr_t)cases[i].name;
		if (cases[i].key[0] != '\0')
			add_metadata(&m.nodes[0], &field, cases[i].key, cases[i].value);
		assert_int_equal(read_model(&m, NULL, &onnx), QD_OK);
		assert_string_equal(onnx.graph.nodes[0].name, cases[i].found);
		qd_onnx_release(&onnx);
	}
}

/* Comparisons that are written with others. */
static void reads_comparisons_that_have_no_row(void **state)
{
	static const struct {
		const char *op;
		int wants[6]; /* for 0, 0.5, 1, 1.5, 2, 2.5 against 1 */
	} cases[] = { { "GreaterOrEqual", { 0, 0, 1, 1, 1, 1 } }, { "LessOrEqual", { 1, 1, 1, 0, 0, 0 } }, { "IsNaN", { 0 } } };
	(void)state;
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		struct model m;
		struct qd_onnx onnx;
		struct ir_run run;
		float one[6] = { 1, 1, 1, 1, 1, 1 };
		Onnx__TensorProto w2, *both[2];
		make_model(&m);
		w2 = m.w;
		w2.name = (char *)(uintptr_t) "one";
		w2.raw_data.data = (uint8_t *)one;
		both[0] = &m.w;
		both[1] = &w2;
		m.graph.n_initializer = 2;
		m.graph.initializer = both;
		make_node(&m, 0, cases[i].op, "w", i < 2 ? "one" : NULL, "a");
		make_node(&m, 1, "Where", "a", "one", "y");
		m.names[1][2] = (char *)(uintptr_t) "x";
		m.names[1][3] = (char *)(uintptr_t) "y";
		m.nodes[1].n_input = 3;
		m.nodes[1].output = &m.names[1][3];
		assert_int_equal(read_model(&m, NULL, &onnx), QD_OK);
		assert_int_equal(ir_run(&onnx.graph, 1, &run), QD_OK);
		const int64_t *found = run.value[qd_graph_find(&onnx.graph, "a")].data;
		for (int k = 0; k < 6; k++)
			assert_int_equal(found[k], cases[i].wants[k]);
		ir_run_release(&run);
		qd_onnx_release(&onnx);
	}
}

/* ---- attention ---- */

enum { HEADS = 2, QUERIES = 2, KEYS = 3, SIZE = 2 };

/* y = softmax(q k^T / sqrt(2) + m) v in double, all [HEADS,L,SIZE]. */
static void plain_attention(const float *q, const float *k, const float *v, const float *mask, double *y)
{
	for (int h = 0; h < HEADS; h++)
		for (int i = 0; i < QUERIES; i++) {
			double weights[KEYS], sum = 0;
			for (int j = 0; j < KEYS; j++) {
				double score = 0;
				for (int d = 0; d < SIZE; d++)
					score += (double)q[(h * QUERIES + i) * SIZE + d] * (double)k[(h * KEYS + j) * SIZE + d];
				weights[j] = exp(score / sqrt(SIZE) + (mask != NULL ? (double)mask[i * KEYS + j] : 0));
				sum += weights[j];
			}
			for (int d = 0; d < SIZE; d++) {
				double value = 0;
				for (int j = 0; j < KEYS; j++)
					value += weights[j] / sum * (double)v[(h * KEYS + j) * SIZE + d];
				y[(h * QUERIES + i) * SIZE + d] = value;
			}
		}
}

/* A model of one Attention over constants q, k, v and m (with `masked`), of rank 4 or 3. */
struct attention_model {
	Onnx__ModelProto model;
	Onnx__OperatorSetIdProto opset, *opsets[1];
	Onnx__GraphProto graph;
	Onnx__NodeProto node, *nodes[1];
	Onnx__TensorProto tensors[4], *list[4];
	Onnx__AttributeProto attributes[2], *attribute_list[2];
	Onnx__ValueInfoProto info, *outputs[1];
	Onnx__TypeProto type;
	Onnx__TypeProto__Tensor tensor;
	int64_t dims[4][4];
	float data[4][HEADS * KEYS * SIZE];
	char *inputs[4], *output;
};

/* Numbers in [-1,1]; in rank 3 the same heads lie side by side in a token's features. */
static void make_attention(struct attention_model *m, int rank, bool masked, float plain[4][HEADS * KEYS * SIZE])
{
	static const char *const names[] = { "q", "k", "v", "m" }, *const heads[] = { "q_num_heads", "kv_num_heads" };
	memset(m, 0, sizeof(*m));
	onnx__model_proto__init(&m->model);
	onnx__operator_set_id_proto__init(&m->opset);
	onnx__graph_proto__init(&m->graph);
	onnx__node_proto__init(&m->node);
	for (int t = 0; t < 4; t++) {
		int length = t == 0 ? QUERIES : KEYS, n = t == 3 ? QUERIES * KEYS : HEADS * length * SIZE;
		for (int i = 0; i < n; i++)
			plain[t][i] = (float)sin(1.7 * i + t);
		for (int i = 0; i < n; i++) {
			int h = i / (length * SIZE), l = i / SIZE % length, d = i % SIZE;
			m->data[t][rank == 3 && t < 3 ? (l * HEADS + h) * SIZE + d : i] = plain[t][i];
		}
		int64_t four[] = { 1, HEADS, length, SIZE }, three[] = { 1, length, HEADS * SIZE }, two[] = { QUERIES, KEYS };
		memcpy(m->dims[t], t == 3 ? two : rank == 4 ? four : three, (t == 3 ? 2 : (size_t)rank) * sizeof(int64_t));
		onnx__tensor_proto__init(&m->tensors[t]);
		m->tensors[t].n_dims = t == 3 ? 2 : (size_t)rank;
		m->tensors[t].dims = m->dims[t];
		m->tensors[t].has_data_type = m->tensors[t].has_raw_data = true;
		m->tensors[t].data_type = 1;
		m->tensors[t].name = m->inputs[t] = (char *)(uintptr_t)names[t];
		m->tensors[t].raw_data = (ProtobufCBinaryData){ (size_t)n * sizeof(float), (uint8_t *)m->data[t] };
		m->list[t] = &m->tensors[t];
	}
	for (int i = 0; i < 2; i++) {
		onnx__attribute_proto__init(&m->attributes[i]);
		m->attributes[i].name = (char *)(uintptr_t)heads[i];
		m->attributes[i].has_type = m->attributes[i].has_i = true;
		m->attributes[i].type = ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__INT;
		m->attributes[i].i = HEADS;
		m->attribute_list[i] = &m->attributes[i];
	}
	onnx__value_info_proto__init(&m->info);
	onnx__type_proto__init(&m->type);
	onnx__type_proto__tensor__init(&m->tensor);
	m->tensor.has_elem_type = true;
	m->tensor.elem_type = 1;
	m->type.value_case = ONNX__TYPE_PROTO__VALUE_TENSOR_TYPE;
	m->type.tensor_type = &m->tensor;
	m->info.type = &m->type;
	m->info.name = m->output = (char *)(uintptr_t) "y";
	m->outputs[0] = &m->info;
	m->node.op_type = (char *)(uintptr_t) "Attention";
	m->node.n_input = masked ? 4 : 3;
	m->node.input = m->inputs;
	m->node.n_output = 1;
	m->node.output = &m->output;
	m->node.n_attribute = rank == 3 ? 2 : 0;
	m->node.attribute = m->attribute_list;
	m->nodes[0] = &m->node;
	m->opset.has_version = m->model.has_ir_version = true;
	m->opset.version = 23;
	m->model.ir_version = 10;
	m->opsets[0] = &m->opset;
	m->model.n_opset_import = 1;
	m->model.opset_import = m->opsets;
	m->model.graph = &m->graph;
	m->graph.n_node = m->graph.n_output = 1;
	m->graph.node = m->nodes;
	m->graph.output = m->outputs;
	m->graph.n_initializer = 4;
	m->graph.initializer = m->list;
}

static enum qd_status read_attention(const struct attention_model *m, struct qd_onnx *onnx)
{
	size_t n = onnx__model_proto__get_packed_size(&m->model);
	unsigned char *bytes = malloc(n);
	assert_non_null(bytes);
	onnx__model_proto__pack(&m->model, bytes);
	enum qd_status st = read_bytes(onnx, NULL, bytes, n);
	free(bytes);
	return st;
}

static void reads_attention(void **state)
{
	(void)state;
	for (int kind = 0; kind < 4; kind++) {
		int rank = kind / 2 == 0 ? 4 : 3;
		bool masked = kind % 2 == 1;
		struct attention_model m;
		struct qd_onnx onnx;
		struct ir_run run;
		float plain[4][HEADS * KEYS * SIZE];
		double want[HEADS * QUERIES * SIZE];
		make_attention(&m, rank, masked, plain);
		plain_attention(plain[0], plain[1], plain[2], masked ? plain[3] : NULL, want);
		if (read_attention(&m, &onnx) != QD_OK)
			fail_msg("%s", qd_message());
		assert_int_equal(ir_run(&onnx.graph, 1, &run), QD_OK);
		const float *y = run.value[qd_graph_find(&onnx.graph, "y")].data;
		for (int i = 0; i < HEADS * QUERIES * SIZE; i++) {
			int h = i / (QUERIES * SIZE), l = i / SIZE % QUERIES, d = i % SIZE;
			double found = (double)y[rank == 3 ? (l * HEADS + h) * SIZE + d : i];
			assert_true(fabs(found - want[i]) < 1e-6);
		}
		ir_run_release(&run);
		qd_onnx_release(&onnx);
	}
}

static void refuses_other_attention(void **state)
{
	struct attention_model m;
	struct qd_onnx onnx;
	float plain[4][HEADS * KEYS * SIZE];
	(void)state;
	make_attention(&m, 3, false, plain);
	m.attributes[1].i = 1;
	assert_int_equal(read_attention(&m, &onnx), QD_EUNSUPPORTED);
	assert_string_equal(
		qd_message(), "'m': node 'y': Attention of 2 heads of queries and 1 of keys over 4 features is not read");
	m.attributes[1].i = HEADS;
	m.attributes[0].name = (char *)(uintptr_t) "is_causal";
	assert_int_equal(read_attention(&m, &onnx), QD_EUNSUPPORTED);
	assert_string_equal(qd_message(), "'m': node 'y': Attention with 'is_causal' is not read");
	make_attention(&m, 4, false, plain);
	m.node.n_input = 2;
	assert_int_equal(read_attention(&m, &onnx), QD_EINPUT);
	assert_string_equal(qd_message(), "'m': node 'y': Attention has 2 inputs, needs 3");
}

static void refuses_an_output_of_another_shape(void **state)
{
	struct model m;
	(void)state;
	make_model(&m);
	m.dims_of[1][1].dim_value = 4;
	expect_refusal(&m, QD_EINPUT, "'m': output 'y' is declared as [2,4], the nodes give [2,3]");
	m.info[1].name = (char *)(uintptr_t) "z";
	expect_refusal(&m, QD_EINPUT, "'m': output 'z' is not defined");
}

static void refuses_subgraphs(void **state)
{
	struct model m;
	Onnx__GraphProto inner = ONNX__GRAPH_PROTO__INIT;
	(void)state;
	make_model(&m);
	m.attribute.name = (char *)(uintptr_t) "body";
	m.attribute.has_type = true;
	m.attribute.type = ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__GRAPH;
	m.attribute.g = &inner;
	m.nodes[0].n_attribute = 1;
	m.nodes[0].attribute = m.attributes;
	expect_refusal(&m, QD_EUNSUPPORTED, "'m': node '' (Relu): subgraphs are not read");
}

/* A graph in an attribute of a graph in an attribute..., 100,000 deep: each level is four tags and lengths. Unpacking it would need
 * as many calls. */
static void survives_deep_nesting(void **state)
{
	enum { LEVELS = 100000, ROOM = LEVELS * 24 };
	unsigned char *bytes = malloc(ROOM);
	size_t at = ROOM;
	struct qd_onnx onnx;
	static const unsigned char tags[] = { 0x32, 0x2A, 0x0A }; /* AttributeProto.g, NodeProto.attribute, GraphProto.node */
	(void)state;
	assert_non_null(bytes);
	for (int level = 0; level < LEVELS; level++)
		for (int t = 0; t < 4; t++) {
			size_t length = ROOM - at;
			unsigned char varint[10];
			size_t n = 0;
			if (t == 3 && level + 1 < LEVELS)
				break;
			for (; length >= 0x80; length >>= 7)
				varint[n++] = (unsigned char)(length | 0x80);
			varint[n++] = (unsigned char)length;
			at -= n;
			memcpy(bytes + at, varint, n);
			bytes[--at] = t == 3 ? 0x3A : tags[t]; /* ModelProto.graph */
		}
	assert_int_equal(read_bytes(&onnx, NULL, bytes + at, ROOM - at), QD_EUNSUPPORTED);
	assert_string_equal(qd_message(), "'m': node '' (): subgraphs are not read");
	free(bytes);
}

static void refuses_an_unknown_attribute(void **state)
{
	struct model m;
	struct qd_onnx onnx;
	(void)state;
	make_model(&m);
	m.attribute.name = (char *)(uintptr_t) "slope";
	m.attribute.has_type = m.attribute.has_f = true;
	m.attribute.type = ONNX__ATTRIBUTE_PROTO__ATTRIBUTE_TYPE__FLOAT;
	m.nodes[0].n_attribute = 1;
	m.nodes[0].attribute = m.attributes;
	assert_int_not_equal(read_model(&m, NULL, &onnx), QD_OK);
	assert_non_null(strstr(qd_message(), "'slope'"));
}

/* ---- golden ---- */

static void refuses_golden_files(void **state)
{
	static const char *const cases[][2] = {
		{ "cycle", "node '/m/Add': its input 'a' comes from itself, through a cycle of nodes" },
		{ "dims_overflow", "tensor 'W': dimension 0 is 4611686018427387904" },
		{ "external_past_end", "tensor 'W': bytes 4096 to 4288 are past the end of 'ext.bin' (192 bytes)" },
		{ "initializer_short", "tensor 'W': has 188 bytes, its shape needs 192" },
		{ "missing_external", "No such file or directory" },
		{ "no_opset", "operator set 0: 13 to 25 are read" },
		{ "not_protobuf", "is not an ONNX file" },
		{ "opset9", "operator set 9: 13 to 25 are read" },
		{ "shape_mismatch", "'W' has 7" },
		{ "truncated", "is not an ONNX file" },
		{ "unsupported_op", "operator 'Hardmax' is not read" },
	};
	(void)state;
	if (golden_path("onnx/refuse") == NULL)
		skip();
	for (size_t i = 0; i < QD_COUNT(cases); i++) {
		char name[64];
		struct qd_onnx onnx;
		snprintf(name, sizeof(name), "onnx/refuse/%s.onnx", cases[i][0]);
		assert_int_not_equal(qd_onnx_open(&onnx, golden_path(name), NULL, 0), QD_OK);
		if (!qd_ends_with(qd_message(), cases[i][1]))
			fail_msg("%s: %s", cases[i][0], qd_message());
	}
}

/* Out of order, which other readers refuse: read all the same, since converters write such files. */
static void sorts_a_golden_file(void **state)
{
	struct qd_onnx onnx;
	(void)state;
	if (golden_path("onnx/refuse/unsorted.onnx") == NULL)
		skip();
	if (qd_onnx_open(&onnx, golden_path("onnx/refuse/unsorted.onnx"), NULL, 0) != QD_OK)
		fail_msg("%s", qd_message());
	qd_onnx_release(&onnx);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_raw_data),
		cmocka_unit_test(reads_typed_data),
		cmocka_unit_test(reads_an_initializer_that_is_an_input),
		cmocka_unit_test(reads_a_lora_default_as_an_input),
		cmocka_unit_test(reads_constant_nodes),
		cmocka_unit_test(reads_external_data),
		cmocka_unit_test(refuses_external_data_elsewhere),
		cmocka_unit_test(refuses_what_is_no_model),
		cmocka_unit_test(refuses_other_operator_sets),
		cmocka_unit_test(refuses_unknown_operators),
		cmocka_unit_test(sorts_nodes),
		cmocka_unit_test(refuses_cycles_and_undefined_inputs),
		cmocka_unit_test(refuses_a_name_defined_twice),
		cmocka_unit_test(refuses_data_of_another_length),
		cmocka_unit_test(refuses_wild_dimensions),
		cmocka_unit_test(refuses_dynamic_dimensions),
		cmocka_unit_test(closes_open_dimensions),
		cmocka_unit_test(weights_close_open_dimensions),
		cmocka_unit_test(refuses_sizes_that_do_not_fit),
		cmocka_unit_test(computes_float16_in_float32),
		cmocka_unit_test(reads_axes_that_are_an_attribute),
		cmocka_unit_test(nodes_carry_their_module_paths),
		cmocka_unit_test(reads_comparisons_that_have_no_row),
		cmocka_unit_test(reads_attention),
		cmocka_unit_test(refuses_other_attention),
		cmocka_unit_test(refuses_an_output_of_another_shape),
		cmocka_unit_test(refuses_subgraphs),
		cmocka_unit_test(survives_deep_nesting),
		cmocka_unit_test(refuses_an_unknown_attribute),
		cmocka_unit_test(refuses_golden_files),
		cmocka_unit_test(sorts_a_golden_file),
	};
	return cmocka_run_group_tests_name("onnx_read", tests, NULL, NULL);
}
