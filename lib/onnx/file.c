/*
 * Opening ONNX files: the bytes are scanned, unpacked and asked for an operator set that is read; large tensors stay in the mapped
 * file, external data is mapped when the first tensor in it is asked for.
 */
#include "lib/onnx/internal.h"

#include <stdlib.h>
#include <string.h>

enum { OLDEST_OPSET = 13, NEWEST_OPSET = 25 };

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

static enum qd_status parse(struct qd_onnx_file *file, const void *bytes, size_t size, bool kept)
{
	enum qd_status st;
	if (qd_is_lfs_pointer(bytes, size))
		return qd_fail(QD_EINPUT, "is a Git-LFS pointer, not the file itself");
	QD_TRY(st, qd_onnx_scan(bytes, size));
	QD_TRY(st, qd_onnx_unpack(file, bytes, size, kept));
	QD_TRY(st, check_names(file->model));
	if (file->model->graph == NULL)
		return qd_fail(QD_EINPUT, "holds no graph");
	QD_TRY(st, check_opset(file->model, &file->opset));
out:
	return st;
}

/* A file without bytes yet. */
static enum qd_status file_new(struct qd_onnx_file **out, const char *name, const char *folder)
{
	struct qd_onnx_file *file = calloc(1, sizeof(*file));
	*out = NULL;
	if (file == NULL)
		return qd_fail(QD_ENOMEM, "out of memory");
	file->name = qd_arena_strdup(&file->arena, name);
	file->folder = folder != NULL ? qd_arena_strdup(&file->arena, folder) : NULL;
	if (file->name == NULL || (folder != NULL && file->folder == NULL)) {
		qd_onnx_free(file);
		return QD_ENOMEM;
	}
	*out = file;
	return QD_OK;
}

enum qd_status qd_onnx_load_bytes(struct qd_onnx_file **out, const char *name, const char *folder, const void *bytes, size_t size)
{
	enum qd_status st;
	QD_TRY(st, file_new(out, name, folder));
	QD_TRY(st, qd_prefix(parse(*out, bytes, size, false), "'%s'", name));
	return QD_OK;
out:
	qd_onnx_free(*out);
	*out = NULL;
	return st;
}

enum qd_status qd_onnx_load(struct qd_onnx_file **out, const char *path)
{
	enum qd_status st;
	struct qd_onnx_file *file = NULL;
	const char *slash = strrchr(path, '/');
	char *folder = slash == NULL ? strdup(".") : strndup(path, slash == path ? 1 : (size_t)(slash - path));
	*out = NULL;
	if (folder == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
	QD_TRY(st, file_new(&file, path, folder));
	QD_TRY(st, qd_mapping_open(&file->mapping, path));
	QD_TRY(st, qd_prefix(parse(file, file->mapping.data, file->mapping.size, true), "'%s'", path));
	*out = file;
	file = NULL;
out:
	qd_onnx_free(file);
	free(folder);
	return st;
}

void qd_onnx_free(struct qd_onnx_file *file)
{
	if (file == NULL)
		return;
	qd_onnx_unpacked_free(file);
	for (size_t i = 0; i < file->n_beside; i++)
		qd_mapping_release(&file->beside[i].mapping);
	free(file->beside);
	qd_mapping_release(&file->mapping);
	qd_arena_release(&file->arena);
	free(file);
}

/* ---- a file and its graph ---- */

enum qd_status qd_onnx_open(struct qd_onnx *onnx, const char *path, const struct qd_tensor *given, size_t n)
{
	enum qd_status st;
	*onnx = (struct qd_onnx){ 0 };
	QD_TRY(st, qd_onnx_load(&onnx->file, path));
	QD_TRY(st, qd_onnx_graph(&onnx->graph, onnx->file, given, n));
out:
	if (st != QD_OK)
		qd_onnx_release(onnx);
	return st;
}

void qd_onnx_release(struct qd_onnx *onnx)
{
	qd_graph_release(&onnx->graph);
	qd_onnx_free(onnx->file);
	*onnx = (struct qd_onnx){ 0 };
}
