/*
 * What a command line says about an adapter:
 *
 *   spec := [NAME "="] file ("+" file)*       file := PATH ["@" SCALE]
 *
 * Several files are one adapter: their ranks are joined, which is exact, because up1 down1 + up2 down2 = [up1 up2] [down1; down2],
 * and biases are added.
 * A "+" separates only behind the path of something that exists, so that file names may hold one. "=" separates only before the
 * first "/". Without NAME the adapter is called after the first path, without folder and ".safetensors".
 */
#include "lib/adapter/internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct spec_file {
	char *path;
	double scale;
};

struct spec_files {
	struct spec_file *items;
	size_t n, cap;
	struct qd_arena arena;
};

/* "PATH@SCALE": cuts the path at the last '@' when a number, and nothing else, follows. */
static double cut_scale(char *text)
{
	char *at = strrchr(text, '@'), *end;
	double scale;

	if (at == NULL || at[1] == '\0' || strspn(at + 1, "+-.0123456789eE") != strlen(at + 1))
		return 1;
	scale = strtod(at + 1, &end);
	if (*end != '\0')
		return 1;
	*at = '\0';
	return scale;
}

static bool exists(const char *path)
{
	return qd_is_file(path) || qd_is_directory(path);
}

/* Takes the shortest beginning of `text` that ends at a "+" and exists, else all of it; `*rest` is what follows, or NULL. */
static enum qd_status take_file(struct spec_files *files, const char *text, const char **rest)
{
	struct spec_file file = { 0 };
	enum qd_status st = QD_OK;

	for (const char *plus = strchr(text, '+'); plus != NULL; plus = strchr(plus + 1, '+')) {
		char *path = qd_arena_strf(&files->arena, "%.*s", (int)(plus - text), text);
		double scale = path != NULL ? cut_scale(path) : 1;
		if (path == NULL)
			return QD_ENOMEM;
		if (exists(path) && plus[1] != '\0') {
			file = (struct spec_file){ path, scale };
			*rest = plus + 1;
			break;
		}
	}
	if (file.path == NULL) {
		file.path = qd_arena_strdup(&files->arena, text);
		if (file.path == NULL)
			return QD_ENOMEM;
		file.scale = exists(file.path) ? 1 : cut_scale(file.path);
		if (*file.path == '\0')
			return qd_fail(QD_EINPUT, "'%s' has no path before its strength", text);
		*rest = NULL;
	}
	QD_PUSH(st, files->items, files->n, files->cap, file);
out:
	return st;
}

const char *qd_adapter_spec_path(const char *spec)
{
	size_t before = strcspn(spec, "=/");

	return spec[before] == '=' && !exists(spec) ? spec + before + 1 : spec;
}

/* NAME, or the first path's stem; and where the files begin. */
static enum qd_status split_name(struct spec_files *files, const char *spec, const char **name, const char **rest)
{
	*rest = qd_adapter_spec_path(spec);
	*name = *rest != spec ? qd_arena_strf(&files->arena, "%.*s", (int)(*rest - spec - 1), spec) : NULL;
	if (*rest != spec && *name == NULL)
		return QD_ENOMEM;
	if (*name != NULL && **name == '\0')
		return qd_fail(QD_EINPUT, "adapter '%s' has an empty name before '='", spec);
	if (**rest == '\0')
		return qd_fail(QD_EINPUT, "adapter '%s' has no path", spec);
	return QD_OK;
}

/* The files of a spec, of which there is at least one. */
static enum qd_status split(struct spec_files *files, const char *spec, const char **name, const char **path)
{
	const char *rest;
	enum qd_status st;

	QD_TRY(st, split_name(files, spec, name, &rest));
	for (*path = rest; rest != NULL;)
		QD_TRY(st, take_file(files, rest, &rest));
out:
	return st;
}

static void release_files(struct spec_files *files)
{
	free(files->items);
	qd_arena_release(&files->arena);
}

enum qd_status qd_adapter_spec_each(const char *spec, enum qd_status (*each)(void *context, const char *path), void *context)
{
	struct spec_files files = { 0 };
	const char *name, *path;
	enum qd_status st;

	QD_TRY(st, split(&files, spec, &name, &path));
	for (size_t i = 0; i < files.n; i++)
		QD_TRY(st, each(context, files.items[i].path));
out:
	release_files(&files);
	return st;
}

static const char *stem_of(struct qd_arena *arena, const char *path)
{
	size_t n = strlen(path), start, end;

	while (n > 1 && path[n - 1] == '/')
		n--;
	for (start = n; start > 0 && path[start - 1] != '/';)
		start--;
	end = n;
	if (n - start > strlen(".safetensors") &&
		strncmp(path + n - strlen(".safetensors"), ".safetensors", strlen(".safetensors")) == 0)
		end = n - strlen(".safetensors");
	return qd_arena_strf(arena, "%.*s", (int)(end - start), path + start);
}

/* ---- joining ---- */

/* Appends `from`'s components to `to`, which has room for them behind its own `*at`. */
static void append(struct qd_lora *to, const struct qd_lora *from, int64_t *at)
{
	size_t columns = (size_t)(to->in * to->kh * to->kw), r = (size_t)from->rank;

	memcpy(to->down + (size_t)*at * columns, from->down, r * columns * sizeof(float));
	memcpy(to->gain + *at, from->gain, r * sizeof(float));
	for (int64_t o = 0; o < to->out; o++)
		memcpy(to->up + o * to->rank + *at, from->up + o * from->rank, r * sizeof(float));
	for (int64_t o = 0; o < to->out && from->bias != NULL; o++)
		to->bias[o] += from->bias[o];
	*at += from->rank;
}

static enum qd_status join_layer(
	struct qd_adapter *joined, const struct qd_adapter *opened, size_t n, const char *path, struct qd_lora *lora)
{
	int64_t rank = 0, at = 0;
	bool biased = false;

	for (size_t i = 0; i < n; i++) {
		const struct qd_lora *one = qd_adapter_find(&opened[i], path);
		if (one == NULL)
			continue;
		rank += one->rank;
		biased |= one->bias != NULL;
		*lora = *one;
	}
	lora->rank = rank;
	lora->path = qd_arena_strdup(&joined->arena, path);
	lora->down = qd_arena_array(&joined->arena, (size_t)(lora->in * lora->kh * lora->kw), (size_t)rank * sizeof(float));
	lora->up = qd_arena_array(&joined->arena, (size_t)lora->out, (size_t)rank * sizeof(float));
	lora->gain = qd_arena_array(&joined->arena, (size_t)rank, sizeof(float));
	lora->bias = biased ? qd_arena_array(&joined->arena, (size_t)lora->out, sizeof(float)) : NULL;
	if (lora->path == NULL || lora->down == NULL || lora->up == NULL || lora->gain == NULL || (biased && lora->bias == NULL))
		return QD_ENOMEM;
	for (size_t i = 0; i < n; i++) {
		const struct qd_lora *one = qd_adapter_find(&opened[i], path);
		if (one != NULL)
			append(lora, one, &at);
	}
	return QD_OK;
}

/* What is known of the adapters beside their layers. */
static enum qd_status join_facts(struct qd_adapter *joined, const struct qd_adapter *opened, size_t n)
{
	char text[16 * QD_HASH_TEXT] = "";
	enum qd_status st = QD_OK;

	joined->format = opened[0].format;
	for (size_t i = 0; i < n; i++) {
		size_t used = strlen(text);
		joined->text_tensors += opened[i].text_tensors;
		joined->embeddings += opened[i].embeddings;
		/* hashed as it goes, so that any number of them fits */
		snprintf(text + used, sizeof(text) - used, "%s+", opened[i].hash);
		qd_hash_bytes(text, strlen(text), joined->hash);
		snprintf(text, sizeof(text), "%s", joined->hash);
		for (size_t k = 0; k < opened[i].n_notes; k++)
			QD_TRY(st, qd_adapter_note(joined, "%s: %s", opened[i].path, opened[i].notes[k]));
	}
out:
	return st;
}

static enum qd_status join(struct qd_adapter *joined, const char *name, const char *path, const struct qd_adapter *opened, size_t n,
	const struct qd_modules *modules)
{
	enum qd_status st = QD_OK;

	*joined = (struct qd_adapter){ 0 };
	joined->name = qd_arena_strdup(&joined->arena, name);
	joined->path = qd_arena_strdup(&joined->arena, path);
	joined->loras = qd_arena_array(&joined->arena, modules->n, sizeof(*joined->loras));
	if (joined->name == NULL || joined->path == NULL || joined->loras == NULL)
		return QD_ENOMEM;
	for (size_t m = 0; m < modules->n; m++) {
		bool any = false;
		for (size_t i = 0; i < n; i++)
			any |= qd_adapter_find(&opened[i], modules->items[m].path) != NULL;
		if (any)
			QD_TRY(st, join_layer(joined, opened, n, modules->items[m].path, &joined->loras[joined->n++]));
	}
	QD_TRY(st, qd_adapter_index(joined));
	st = join_facts(joined, opened, n);
out:
	return st;
}

enum qd_status qd_adapter_open_spec(struct qd_adapter *adapter, const char *spec, const struct qd_modules *modules)
{
	enum qd_status st;

	QD_TRY(st, qd_adapter_map_spec(adapter, spec, modules));
	st = qd_adapter_load(adapter);
out:
	if (st != QD_OK)
		qd_adapter_release(adapter);
	return st;
}

enum qd_status qd_adapter_map_spec(struct qd_adapter *adapter, const char *spec, const struct qd_modules *modules)
{
	struct spec_files files = { 0 };
	struct qd_adapter *opened = NULL;
	const char *name, *path;
	enum qd_status st;

	*adapter = (struct qd_adapter){ 0 };
	QD_TRY(st, split(&files, spec, &name, &path));
	if (name == NULL)
		name = stem_of(&files.arena, files.items[0].path);
	opened = calloc(files.n, sizeof(*opened));
	if (name == NULL || opened == NULL) {
		st = qd_fail(QD_ENOMEM, "out of memory");
		goto out;
	}
	if (files.n == 1) {
		st = qd_adapter_map(adapter, name, files.items[0].path, files.items[0].scale, modules);
		goto out;
	}
	for (size_t i = 0; i < files.n; i++)
		QD_TRY(st, qd_adapter_open(&opened[i], name, files.items[i].path, files.items[i].scale, modules));
	st = join(adapter, name, path, opened, files.n, modules);
out:
	for (size_t i = 0; i < files.n && opened != NULL; i++)
		qd_adapter_release(&opened[i]);
	free(opened);
	release_files(&files);
	if (st != QD_OK)
		qd_adapter_release(adapter);
	return st;
}
