/*
 * quad inspect on an ONNX file: a UNet is told like its folder, of any other graph what goes in. Where all sizes are fixed the
 * graph is built, so that one which cannot be read is refused here already.
 */
#include "cmd/inspect.h"

#include <stdio.h>
#include <stdlib.h>

enum { MOST_INPUTS = 4096 };

/* "[2,?,24]" of a shape with open dimensions; "of any shape" without one. */
static const char *shape_text(const struct qd_shape *shape, char *text, size_t size)
{
	size_t at = (size_t)snprintf(text, size, shape->rank < 0 ? "of any shape" : "[");
	for (int i = 0; i < shape->rank && at < size; i++) {
		if (shape->dim[i] < 0)
			at += (size_t)snprintf(text + at, size - at, "%s?", i ? "," : "");
		else
			at += (size_t)snprintf(text + at, size - at, "%s%lld", i ? "," : "", (long long)shape->dim[i]);
	}
	if (shape->rank >= 0 && at < size)
		snprintf(text + at, size - at, "]");
	return text;
}

static json_t *input_json(const struct qd_onnx_input *input)
{
	json_t *dims = input->shape.rank < 0 ? json_null() : json_array();
	for (int i = 0; i < input->shape.rank; i++)
		json_array_append_new(dims, input->shape.dim[i] < 0 ? json_null() : json_integer(input->shape.dim[i]));
	return json_pack("{s:s,s:s,s:o}", "name", input->name, "dtype", qd_dtype_name(input->dtype), "shape", dims);
}

static enum qd_status print_inputs(
	const char *path, const struct qd_onnx_input *inputs, size_t n, const char *output, const struct qd_common *common)
{
	char text[256];
	json_t *list = json_array();
	for (size_t i = 0; i < n; i++)
		json_array_append_new(list, input_json(&inputs[i]));
	if (common->json)
		return qd_print_json(json_pack(
			"{s:i,s:s,s:s,s:o,s:s}", "schema", 1, "kind", "onnx", "path", path, "inputs", list, "output", output));
	json_decref(list);
	qd_print("%s: ONNX graph, no UNet that a LoRA could be attached to\n", path);
	for (size_t i = 0; i < n; i++)
		qd_print("  input       %s %s %s\n", inputs[i].name, qd_dtype_name(inputs[i].dtype),
			shape_text(&inputs[i].shape, text, sizeof(text)));
	qd_print("  output      %s\n", output);
	return QD_OK;
}

/* Builds the graph of a file without open dimensions. */
static enum qd_status check_graph(struct qd_onnx_file *file, const struct qd_onnx_input *inputs, size_t n)
{
	struct qd_graph g = { 0 };
	for (size_t i = 0; i < n; i++) {
		if (inputs[i].shape.rank < 0)
			return QD_OK;
		for (int d = 0; d < inputs[i].shape.rank; d++)
			if (inputs[i].shape.dim[d] < 0)
				return QD_OK;
	}
	enum qd_status st = qd_onnx_graph(&g, file, NULL, 0);
	qd_graph_release(&g);
	return st;
}

enum qd_status qd_inspect_onnx(const char *path, const struct qd_common *common)
{
	struct qd_onnx_file *file = NULL;
	struct qd_onnx_input *inputs = calloc(MOST_INPUTS, sizeof(*inputs));
	size_t n = 0;
	enum qd_status st;
	if (inputs == NULL)
		return qd_fail(QD_ENOMEM, "out of memory");
	QD_TRY(st, qd_onnx_load(&file, path));
	if (qd_onnx_is_unet(file)) {
		st = qd_inspect_model(path, common);
		goto out;
	}
	QD_TRY(st, qd_onnx_inputs(file, inputs, MOST_INPUTS, &n));
	QD_TRY(st, check_graph(file, inputs, n));
	QD_TRY(st, print_inputs(path, inputs, n, qd_onnx_output(file), common));
out:
	qd_onnx_free(file);
	free(inputs);
	return st;
}
