/*
 * Named tensors from whatever holds them. Of a safetensors file, of the stored members of an .npz and of the files of a folder the
 * bytes stay mapped; deflated members (numpy.savez_compressed) are unpacked into memory when the set is opened. In an .npz and in a
 * folder every NAME.npy is a tensor NAME, in the order of the names; other members and files are left alone.
 */
#include "lib/io/io.h"
#include "lib/io/zip.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const char npy[] = ".npy";

static enum qd_status add(struct qd_tensor_set *set, const struct qd_tensor *tensor)
{
	enum qd_status st;

	if (qd_strmap_get(&set->by_name, tensor->name) != QD_NONE)
		return qd_fail(QD_EINPUT, "tensor '%s' is there twice", tensor->name);
	QD_TRY(st, qd_strmap_put(&set->by_name, tensor->name, (uint32_t)set->n));
	QD_PUSH(st, set->tensors, set->n, set->cap, *tensor);
out:
	return st;
}

/* Memory that the set owns from now on, also when it is NULL or the call fails. */
static enum qd_status keep_unpacked(struct qd_tensor_set *set, void *data)
{
	enum qd_status st = data != NULL ? QD_OK : qd_fail(QD_ENOMEM, "out of memory");

	if (st == QD_OK)
		st = qd_grow(&set->unpacked, &set->cap_unpacked, set->n_unpacked + 1, sizeof(*set->unpacked));
	if (st != QD_OK)
		free(data);
	else
		set->unpacked[set->n_unpacked++] = data;
	return st;
}

/* The array in `data`, called `name` less ".npy". */
static enum qd_status add_npy(struct qd_tensor_set *set, const char *name, const void *data, size_t bytes)
{
	struct qd_tensor tensor = { 0 };
	bool column_major;
	char *text = qd_arena_strdup(&set->arena, name);
	enum qd_status st;

	if (text == NULL)
		return QD_ENOMEM;
	QD_TRY(st, qd_npy_view(name, data, bytes, &tensor, &column_major));
	if (column_major) {
		void *turned = malloc(tensor.bytes + 1);
		QD_TRY(st, keep_unpacked(set, turned));
		qd_npy_transpose(&tensor, turned);
		tensor.data = turned;
	}
	if (qd_ends_with(text, npy))
		text[strlen(text) - (sizeof(npy) - 1)] = '\0';
	tensor.name = text;
	st = add(set, &tensor);
out:
	return st;
}

static enum qd_status map(struct qd_tensor_set *set, const char *path, struct qd_mapping *mapping)
{
	enum qd_status st;

	*mapping = (struct qd_mapping){ 0 };
	QD_TRY(st, qd_mapping_open(mapping, path));
	st = qd_grow(&set->mappings, &set->cap_mappings, set->n_mappings + 1, sizeof(*set->mappings));
	if (st != QD_OK)
		qd_mapping_release(mapping);
	else
		set->mappings[set->n_mappings++] = *mapping;
out:
	return st;
}

/* ---- .npz ---- */

static int by_member_name(const void *a, const void *b)
{
	const struct qd_zip_member *x = a, *y = b;
	return strcmp(x->name, y->name);
}

static enum qd_status add_member(struct qd_tensor_set *set, const struct qd_zip_member *member)
{
	void *data = NULL;
	enum qd_status st = QD_OK;

	if (!member->deflated)
		return add_npy(set, member->name, member->data, member->bytes);
	QD_TRY(st, qd_zip_inflate(member, &data));
	QD_TRY(st, keep_unpacked(set, data));
	st = add_npy(set, member->name, data, member->bytes);
out:
	return st;
}

static enum qd_status open_npz(struct qd_tensor_set *set, const struct qd_mapping *mapping)
{
	struct qd_zip zip = { 0 };
	enum qd_status st;

	QD_TRY(st, qd_zip_open(&zip, &set->arena, mapping->data, mapping->size));
	if (zip.n > 0)
		qsort(zip.members, zip.n, sizeof(*zip.members), by_member_name);
	for (size_t i = 0; i < zip.n; i++)
		if (qd_ends_with(zip.members[i].name, npy))
			QD_TRY(st, add_member(set, &zip.members[i]));
out:
	qd_zip_release(&zip);
	return st;
}

/* ---- a folder of .npy ---- */

static int is_npy(const struct dirent *entry)
{
	return qd_ends_with(entry->d_name, npy);
}

static enum qd_status open_folder(struct qd_tensor_set *set, const char *path)
{
	struct dirent **entries = NULL;
	int n = scandir(path, &entries, is_npy, alphasort);
	enum qd_status st = QD_OK;

	if (n < 0)
		return qd_fail(QD_EIO, "cannot read the folder: %s", strerror(errno));
	if (n == 0)
		st = qd_fail(QD_EINPUT, "the folder holds no .npy file");
	for (int i = 0; i < n && st == QD_OK; i++) {
		struct qd_mapping mapping;
		const char *file = qd_arena_strf(&set->arena, "%s/%s", path, entries[i]->d_name);
		st = file != NULL ? map(set, file, &mapping) : QD_ENOMEM;
		if (st == QD_OK)
			st = add_npy(set, entries[i]->d_name, mapping.data, mapping.size);
	}
	for (int i = 0; i < n; i++)
		free(entries[i]);
	free(entries);
	return st;
}

/* ---- all of them ---- */

static enum qd_status open_safetensors(struct qd_tensor_set *set, const char *path)
{
	enum qd_status st = qd_safetensors_open(&set->safetensors, path);

	for (size_t i = 0; st == QD_OK && i < set->safetensors.n; i++)
		st = add(set, &set->safetensors.tensors[i]);
	return st;
}

static enum qd_status open_file(struct qd_tensor_set *set, const char *path)
{
	struct qd_mapping mapping;
	const char *slash = strrchr(path, '/');
	enum qd_status st = map(set, path, &mapping);

	if (st != QD_OK)
		return st;
	switch (qd_file_kind(mapping.data, mapping.size)) {
	case QD_FILE_ZIP:
		return qd_prefix(open_npz(set, &mapping), "cannot read '%s'", path);
	case QD_FILE_NPY:
		return qd_prefix(
			add_npy(set, slash != NULL ? slash + 1 : path, mapping.data, mapping.size), "cannot read '%s'", path);
	default:
		return open_safetensors(set, path);
	}
}

enum qd_status qd_tensor_set_open(struct qd_tensor_set *set, const char *path)
{
	enum qd_status st = QD_OK;

	*set = (struct qd_tensor_set){ .path = strdup(path) };
	if (set->path == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
	if (qd_is_directory(path))
		st = qd_prefix(open_folder(set, path), "cannot read '%s'", path);
	else
		st = open_file(set, path);
out:
	if (st != QD_OK)
		qd_tensor_set_release(set);
	return st;
}

const struct qd_tensor *qd_tensor_set_find(const struct qd_tensor_set *set, const char *name)
{
	uint32_t i = qd_strmap_get(&set->by_name, name);
	return i == QD_NONE ? NULL : &set->tensors[i];
}

enum qd_status qd_tensor_set_get(const struct qd_tensor_set *set, const char *name, const struct qd_tensor **out)
{
	*out = qd_tensor_set_find(set, name);
	return *out != NULL ? QD_OK : qd_fail(QD_EINPUT, "'%s' has no tensor '%s'", set->path, name);
}

void qd_tensor_set_print(const struct qd_tensor_set *set, FILE *text)
{
	for (size_t i = 0; i < set->n; i++)
		qd_tensor_print(&set->tensors[i], text);
}

void qd_tensor_set_release(struct qd_tensor_set *set)
{
	qd_safetensors_release(&set->safetensors);
	for (size_t i = 0; i < set->n_mappings; i++)
		qd_mapping_release(&set->mappings[i]);
	for (size_t i = 0; i < set->n_unpacked; i++)
		free(set->unpacked[i]);
	free(set->mappings);
	free(set->unpacked);
	free(set->tensors);
	free(set->path);
	qd_strmap_release(&set->by_name);
	qd_arena_release(&set->arena);
	*set = (struct qd_tensor_set){ 0 };
}
