/*
 * quad inspect on the folder that quad export wrote: its manifest, as a person reads it. The manifest itself is the JSON document.
 */
#include "cmd/inspect.h"

#include <stdio.h>
#include <string.h>

static const char *text_of(const json_t *object, const char *key)
{
	return json_string_value(json_object_get(object, key));
}

/* "[1,4,16,16]" */
static void print_shape(const json_t *shape)
{
	size_t i;
	json_t *dim;
	putchar('[');
	json_array_foreach(shape, i, dim) qd_print("%s%lld", i ? "," : "", (long long)json_integer_value(dim));
	putchar(']');
}

static void print_inputs(const json_t *graph)
{
	size_t i;
	json_t *input;
	json_array_foreach(json_object_get(graph, "inputs"), i, input)
	{
		qd_print("  input       %s %s ", text_of(input, "name"), text_of(input, "dtype"));
		print_shape(json_object_get(input, "shape"));
		putchar('\n');
	}
}

static void print_slots(const json_t *slots)
{
	long long least = 0, most = 0;
	size_t i;
	json_t *slot;
	json_array_foreach(slots, i, slot)
	{
		long long rank = json_integer_value(json_object_get(slot, "rank"));
		least = i == 0 || rank < least ? rank : least;
		most = rank > most ? rank : most;
	}
	qd_print("  slots       %zu of three inputs, rank %lld", json_array_size(slots), least);
	if (most > least)
		qd_print(" to %lld", most);
	putchar('\n');
}

static void print_adapters(const json_t *adapters)
{
	size_t i;
	json_t *adapter;
	json_array_foreach(adapters, i, adapter)
	{
		const json_t *db = json_object_get(adapter, "update_sqnr_db");
		qd_print("  adapter     %-20s %4lld slots", text_of(adapter, "name"),
			(long long)json_integer_value(json_object_get(adapter, "slots")));
		if (json_is_number(db))
			qd_print(", update SQNR %.1f dB\n", json_number_value(db));
		else
			puts(", update exact");
	}
}

static void print_files(const json_t *files)
{
	char digits[QD_DIGITS];
	size_t i;
	json_t *file;
	json_array_foreach(files, i, file) qd_print("  file        %14s  %s\n",
		qd_digits((uint64_t)json_integer_value(json_object_get(file, "bytes")), digits), text_of(file, "path"));
}

static void print_manifest(const char *path, const json_t *manifest)
{
	const json_t *profile = json_object_get(manifest, "profile");
	qd_print("%s: export of %s\n", path, text_of(manifest, "program"));
	qd_print("  base        %s\n", text_of(manifest, "base"));
	qd_print("  profile     %s, %s, alignment %s\n", text_of(profile, "hash"), text_of(profile, "method"),
		text_of(profile, "align"));
	print_inputs(json_object_get(manifest, "graph"));
	print_slots(json_object_get(manifest, "slots"));
	print_adapters(json_object_get(manifest, "adapters"));
	print_files(json_object_get(manifest, "files"));
}

/* Every item of a list that is printed has a text and a number (NULL: none) under these keys. */
static enum qd_status check_list(const char *file, const json_t *object, const char *list, const char *text, const char *number)
{
	const json_t *items = json_object_get(object, list);
	size_t i;
	json_t *item;
	if (!json_is_array(items))
		return qd_fail(QD_EINPUT, "'%s' is no manifest of an export: it has no list '%s'", file, list);
	json_array_foreach(items, i, item)
	{
		if (text_of(item, text) == NULL)
			return qd_fail(QD_EINPUT, "'%s': %s[%zu] has no text '%s'", file, list, i, text);
		if (number != NULL && !json_is_integer(json_object_get(item, number)))
			return qd_fail(QD_EINPUT, "'%s': %s[%zu] has no number '%s'", file, list, i, number);
	}
	return QD_OK;
}

static enum qd_status check_texts(const char *file, const json_t *object, const char *const *keys, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (text_of(object, keys[i]) == NULL)
			return qd_fail(QD_EINPUT, "'%s' is no manifest of an export: it has no text '%s'", file, keys[i]);
	return QD_OK;
}

/* All that is printed is there. */
static enum qd_status check_manifest(const char *file, const json_t *manifest)
{
	static const char *const own[] = { "program", "base" }, *const of_profile[] = { "hash", "method", "align" };
	const json_t *graph = json_object_get(manifest, "graph");
	enum qd_status st;
	QD_TRY(st, check_texts(file, manifest, own, QD_COUNT(own)));
	QD_TRY(st, check_texts(file, json_object_get(manifest, "profile"), of_profile, QD_COUNT(of_profile)));
	QD_TRY(st, check_list(file, graph, "inputs", "name", NULL));
	QD_TRY(st, check_list(file, graph, "inputs", "dtype", NULL));
	QD_TRY(st, check_list(file, manifest, "slots", "path", "rank"));
	QD_TRY(st, check_list(file, manifest, "adapters", "name", "slots"));
	QD_TRY(st, check_list(file, manifest, "files", "path", "bytes"));
out:
	return st;
}

enum qd_status qd_inspect_manifest(const char *path, const char *file, const struct qd_common *common)
{
	json_t *manifest = NULL;
	enum qd_status st;
	QD_TRY(st, qd_json_read(file, &manifest));
	QD_TRY(st, check_manifest(file, manifest));
	if (common->json)
		QD_TRY(st, qd_print_json(json_pack(
				   "{s:i,s:s,s:s,s:O}", "schema", 1, "kind", "export", "path", path, "manifest", manifest)));
	else
		print_manifest(path, manifest);
out:
	json_decref(manifest);
	return st;
}

enum qd_status qd_inspect_export(const char *path, const struct qd_common *common)
{
	char file[QD_PATH_BYTES];
	enum qd_status st = qd_path_join(file, path, "manifest.json");

	if (st == QD_OK)
		st = qd_output_update_settle(path);
	return st == QD_OK ? qd_inspect_manifest(path, file, common) : st;
}
