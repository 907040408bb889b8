/*
 * quad inspect on the folder that quad export wrote: its manifest, as a person reads it. The manifest itself is the JSON document.
 */
#include "cmd/inspect.h"

#include <stdio.h>
#include <string.h>

static const char *text_of(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));
	return text ? text : "?";
}

/* "[1,4,16,16]" */
static void print_shape(const json_t *shape)
{
	size_t i;
	json_t *dim;
	putchar('[');
	json_array_foreach(shape, i, dim) printf("%s%lld", i ? "," : "", (long long)json_integer_value(dim));
	putchar(']');
}

static void print_inputs(const json_t *graph)
{
	size_t i;
	json_t *input;
	json_array_foreach(json_object_get(graph, "inputs"), i, input)
	{
		printf("  input       %s %s ", text_of(input, "name"), text_of(input, "dtype"));
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
	printf("  slots       %zu of three inputs, rank %lld", json_array_size(slots), least);
	if (most > least)
		printf(" to %lld", most);
	putchar('\n');
}

static void print_adapters(const json_t *adapters)
{
	size_t i;
	json_t *adapter;
	json_array_foreach(adapters, i, adapter)
	{
		const json_t *db = json_object_get(adapter, "update_sqnr_db");
		printf("  adapter     %-20s %4lld slots", text_of(adapter, "name"),
			(long long)json_integer_value(json_object_get(adapter, "slots")));
		if (json_is_number(db))
			printf(", update SQNR %.1f dB\n", json_number_value(db));
		else
			puts(", update exact");
	}
}

static void print_files(const json_t *files)
{
	char digits[QD_DIGITS];
	size_t i;
	json_t *file;
	json_array_foreach(files, i, file) printf("  file        %14s  %s\n",
		qd_digits((uint64_t)json_integer_value(json_object_get(file, "bytes")), digits), text_of(file, "path"));
}

static void print_manifest(const char *path, const json_t *manifest)
{
	const json_t *profile = json_object_get(manifest, "profile");
	printf("%s: export of %s\n", path, text_of(manifest, "program"));
	printf("  base        %s\n", text_of(manifest, "base"));
	printf("  profile     %s, %s, alignment %s\n", text_of(profile, "hash"), text_of(profile, "method"),
		text_of(profile, "align"));
	print_inputs(json_object_get(manifest, "graph"));
	print_slots(json_object_get(manifest, "slots"));
	print_adapters(json_object_get(manifest, "adapters"));
	print_files(json_object_get(manifest, "files"));
}

enum qd_status qd_inspect_export(const char *path, const struct qd_common *common)
{
	char file[4096];
	json_t *manifest = NULL;
	enum qd_status st;
	snprintf(file, sizeof(file), "%s/manifest.json", path);
	QD_TRY(st, qd_json_read(file, &manifest));
	if (!json_is_object(manifest) || !json_is_array(json_object_get(manifest, "slots")))
		QD_TRY(st, qd_fail(QD_EINPUT, "'%s' is no manifest of an export: it has no list 'slots'", file));
	if (common->json)
		QD_TRY(st, qd_print_json(json_pack(
				   "{si, ss, ss, sO}", "schema", 1, "kind", "export", "path", path, "manifest", manifest)));
	else
		print_manifest(path, manifest);
out:
	json_decref(manifest);
	return st;
}
