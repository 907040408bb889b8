/*
 * Large tensors of an ONNX file stay where they are mapped. Unpacking copies what it reads; so the bytes of large initializers
 * (ModelProto.graph (7), GraphProto.initializer (5), TensorProto.raw_data (9)) are left out of what is unpacked, and put in after
 * as pointers into the file:
 *
 *   before  tag length [ name, dims, raw_data ]
 *   after   tag length [ name, dims ]              raw_data -> file
 *
 * Tensors come in the order of their fields. A file with several graph fields, which merge, is unpacked as it is.
 */
#include "lib/onnx/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { MODEL_GRAPH = 7, GRAPH_INITIALIZER = 5, TENSOR_RAW_DATA = 9, LARGE_BYTES = 1 << 16 };

struct bytes {
	unsigned char *data;
	size_t n, cap;
};

static enum qd_status append(struct bytes *out, const void *data, size_t n)
{
	enum qd_status st = qd_grow(&out->data, &out->cap, out->n + n, 1);
	if (st != QD_OK)
		return st;
	if (n > 0)
		memcpy(out->data + out->n, data, n);
	out->n += n;
	return QD_OK;
}

/* A length-delimited field. */
static enum qd_status append_field(struct bytes *out, unsigned field, const struct bytes *body)
{
	unsigned char head[20];
	uint64_t numbers[] = { (uint64_t)field << 3 | 2, body->n };
	size_t n = 0;
	for (size_t i = 0; i < 2; i++) {
		for (; numbers[i] >= 0x80; numbers[i] >>= 7)
			head[n++] = (unsigned char)(numbers[i] | 0x80);
		head[n++] = (unsigned char)numbers[i];
	}
	enum qd_status st = append(out, head, n);
	return st == QD_OK ? append(out, body->data, body->n) : st;
}

/* A TensorProto without its raw_data, where that is large: then `raw` receives it. */
static enum qd_status split_tensor(struct qd_onnx_cursor c, struct bytes *out, struct qd_onnx_cursor *raw)
{
	struct qd_onnx_cursor body;
	unsigned field;
	enum qd_status st = QD_OK;
	*raw = (struct qd_onnx_cursor){ 0 };
	for (const unsigned char *at = c.at; qd_onnx_field(&c, &field, &body); at = c.at) {
		if (field == TENSOR_RAW_DATA && body.end - body.at >= LARGE_BYTES)
			*raw = body;
		else
			QD_TRY(st, append(out, at, (size_t)(c.at - at)));
	}
	/* what is malformed is left to the unpacking */
	st = append(out, c.at, (size_t)(c.end - c.at));
out:
	return st;
}

static enum qd_status split_graph(struct qd_onnx_file *file, struct qd_onnx_cursor c, struct bytes *out)
{
	struct qd_onnx_cursor body;
	struct bytes tensor = { 0 };
	unsigned field;
	size_t index = 0;
	enum qd_status st = QD_OK;
	for (const unsigned char *at = c.at; qd_onnx_field(&c, &field, &body); at = c.at) {
		struct qd_onnx_raw raw = { .index = index };
		if (field != GRAPH_INITIALIZER) {
			QD_TRY(st, append(out, at, (size_t)(c.at - at)));
			continue;
		}
		index++;
		tensor.n = 0;
		QD_TRY(st, split_tensor(body, &tensor, &raw.bytes));
		QD_TRY(st, append_field(out, GRAPH_INITIALIZER, &tensor));
		if (raw.bytes.at != NULL)
			QD_PUSH(st, file->raw, file->n_raw, file->cap_raw, raw);
	}
	st = append(out, c.at, (size_t)(c.end - c.at));
out:
	free(tensor.data);
	return st;
}

static size_t count_graphs(struct qd_onnx_cursor c)
{
	struct qd_onnx_cursor body;
	unsigned field;
	size_t n = 0;
	while (qd_onnx_field(&c, &field, &body))
		n += field == MODEL_GRAPH;
	return n;
}

static enum qd_status split_model(struct qd_onnx_file *file, struct qd_onnx_cursor c, struct bytes *out)
{
	struct qd_onnx_cursor body;
	struct bytes graph = { 0 };
	unsigned field;
	enum qd_status st = QD_OK;
	for (const unsigned char *at = c.at; qd_onnx_field(&c, &field, &body); at = c.at) {
		if (field != MODEL_GRAPH) {
			QD_TRY(st, append(out, at, (size_t)(c.at - at)));
			continue;
		}
		QD_TRY(st, split_graph(file, body, &graph));
		QD_TRY(st, append_field(out, MODEL_GRAPH, &graph));
	}
	st = append(out, c.at, (size_t)(c.end - c.at));
out:
	free(graph.data);
	return st;
}

/* Gives the tensors back their bytes, or (before the message is freed) takes them out. */
static void set_raw(struct qd_onnx_file *file, bool set)
{
	const Onnx__GraphProto *graph = file->model->graph;
	for (size_t i = 0; graph != NULL && i < file->n_raw && file->raw[i].index < graph->n_initializer; i++) {
		Onnx__TensorProto *tensor = graph->initializer[file->raw[i].index];
		const struct qd_onnx_cursor *bytes = &file->raw[i].bytes;
		tensor->has_raw_data = set;
		tensor->raw_data.len = set ? (size_t)(bytes->end - bytes->at) : 0;
		tensor->raw_data.data = set ? (uint8_t *)(uintptr_t)bytes->at : NULL;
	}
}

enum qd_status qd_onnx_unpack(struct qd_onnx_file *file, const void *bytes, size_t size, bool kept)
{
	struct qd_onnx_cursor whole = { bytes, (const unsigned char *)bytes + size };
	struct bytes rest = { 0 };
	enum qd_status st = QD_OK;
	if (kept && size >= LARGE_BYTES && count_graphs(whole) == 1) {
		QD_TRY(st, split_model(file, whole, &rest));
		bytes = rest.data;
		size = rest.n;
	}
	errno = 0;
	file->model = onnx__model_proto__unpack(NULL, size, bytes);
	if (file->model == NULL && errno == ENOMEM)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
	if (file->model == NULL || !file->model->has_ir_version)
		QD_TRY(st, qd_fail(QD_EINPUT, "is not an ONNX file"));
	set_raw(file, true);
out:
	free(rest.data);
	return st;
}

void qd_onnx_unpacked_free(struct qd_onnx_file *file)
{
	if (file->model != NULL) {
		set_raw(file, false);
		onnx__model_proto__free_unpacked(file->model, NULL);
	}
	free(file->raw);
}
