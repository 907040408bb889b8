/*
 * What a command line says about an adapter:
 *
 *   spec := [NAME "="] part ("+" part)*       part := PATH ["@" SCALE]
 *
 * Several parts are one adapter: their ranks are joined, which is exact, because up1 down1 + up2 down2 = [up1 up2] [down1; down2].
 * A "+" separates only behind the path of something that exists, so that file names may hold one. "=" separates only before the
 * first "/". Without NAME the adapter is called after the first path, without folder and ".safetensors".
 */
#include "lib/adapter/internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct part {
	char *path;
	double scale;
};

struct parts {
	struct part *items;
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
static enum qd_status take_part(struct parts *parts, const char *text, const char **rest)
{
	struct part part = { 0 };
	enum qd_status st = QD_OK;

	for (const char *plus = strchr(text, '+'); plus != NULL; plus = strchr(plus + 1, '+')) {
		char *path = qd_arena_strf(&parts->arena, "%.*s", (int)(plus - text), text);
		double scale = path != NULL ? cut_scale(path) : 1;
		if (path == NULL)
			return QD_ENOMEM;
		if (exists(path) && plus[1] != '\0') {
			part = (struct part){ path, scale };
			*rest = plus + 1;
			break;
		}
	}
	if (part.path == NULL) {
		part.path = qd_arena_strdup(&parts->arena, text);
		if (part.path == NULL)
			return QD_ENOMEM;
		part.scale = exists(part.path) ? 1 : cut_scale(part.path);
		*rest = NULL;
	}
	QD_PUSH(st, parts->items, parts->n, parts->cap, part);
out:
	return st;
}

/* NAME, or the first path's stem; and where the parts begin. */
static enum qd_status split_name(struct parts *parts, const char *spec, const char **name, const char **rest)
{
	size_t before = strcspn(spec, "=/");

	*rest = spec[before] == '=' && !exists(spec) ? spec + before + 1 : spec;
	*name = *rest != spec ? qd_arena_strf(&parts->arena, "%.*s", (int)before, spec) : NULL;
	if (*rest != spec && *name == NULL)
		return QD_ENOMEM;
	if (*name != NULL && **name == '\0')
		return qd_fail(QD_EINPUT, "adapter '%s' has an empty name before '='", spec);
	if (**rest == '\0')
		return qd_fail(QD_EINPUT, "adapter '%s' has no path", spec);
	return QD_OK;
}

/* The parts of a spec, of which there is at least one. */
static enum qd_status split(struct parts *parts, const char *spec, const char **name, const char **path)
{
	const char *rest;
	enum qd_status st;

	QD_TRY(st, split_name(parts, spec, name, &rest));
	for (*path = rest; rest != NULL;)
		QD_TRY(st, take_part(parts, rest, &rest));
out:
	return st;
}

static void release_parts(struct parts *parts)
{
	free(parts->items);
	qd_arena_release(&parts->arena);
}

enum qd_status qd_adapter_spec_each(const char *spec, enum qd_status (*each)(void *context, const char *path), void *context)
{
	struct parts parts = { 0 };
	const char *name, *path;
	enum qd_status st;

	QD_TRY(st, split(&parts, spec, &name, &path));
	for (size_t i = 0; i < parts.n; i++)
		QD_TRY(st, each(context, parts.items[i].path));
out:
	release_parts(&parts);
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
	*at += from->rank;
}

static enum qd_status join_layer(
	struct qd_adapter *joined, const struct qd_adapter *parts, size_t n, const char *path, struct qd_lora *lora)
{
	int64_t rank = 0, at = 0;

	for (size_t i = 0; i < n; i++) {
		const struct qd_lora *one = qd_adapter_find(&parts[i], path);
		if (one == NULL)
			continue;
		rank += one->rank;
		*lora = *one;
	}
	lora->rank = rank;
	lora->path = qd_arena_strdup(&joined->arena, path);
	lora->down = qd_arena_array(&joined->arena, (size_t)(lora->in * lora->kh * lora->kw), (size_t)rank * sizeof(float));
	lora->up = qd_arena_array(&joined->arena, (size_t)lora->out, (size_t)rank * sizeof(float));
	lora->gain = qd_arena_array(&joined->arena, (size_t)rank, sizeof(float));
	if (lora->path == NULL || lora->down == NULL || lora->up == NULL || lora->gain == NULL)
		return QD_ENOMEM;
	for (size_t i = 0; i < n; i++) {
		const struct qd_lora *one = qd_adapter_find(&parts[i], path);
		if (one != NULL)
			append(lora, one, &at);
	}
	return QD_OK;
}

/* What is known of the parts beside their layers. */
static enum qd_status join_facts(struct qd_adapter *joined, const struct qd_adapter *parts, size_t n)
{
	char text[16 * QD_HASH_TEXT] = "";
	enum qd_status st = QD_OK;

	joined->format = parts[0].format;
	for (size_t i = 0; i < n; i++) {
		size_t used = strlen(text);
		joined->text_tensors += parts[i].text_tensors;
		joined->embeddings += parts[i].embeddings;
		/* hashed as it goes, so that any number of parts fits */
		snprintf(text + used, sizeof(text) - used, "%s+", parts[i].hash);
		qd_hash_bytes(text, strlen(text), joined->hash);
		snprintf(text, sizeof(text), "%s", joined->hash);
		for (size_t k = 0; k < parts[i].n_notes; k++)
			QD_TRY(st, qd_adapter_note(joined, "%s: %s", parts[i].path, parts[i].notes[k]));
	}
out:
	return st;
}

static enum qd_status join(struct qd_adapter *joined, const char *name, const char *path, const struct qd_adapter *parts, size_t n,
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
			any |= qd_adapter_find(&parts[i], modules->items[m].path) != NULL;
		if (any)
			QD_TRY(st, join_layer(joined, parts, n, modules->items[m].path, &joined->loras[joined->n++]));
	}
	QD_TRY(st, qd_adapter_index(joined));
	st = join_facts(joined, parts, n);
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
	struct parts parts = { 0 };
	struct qd_adapter *opened = NULL;
	const char *name, *path;
	enum qd_status st;

	*adapter = (struct qd_adapter){ 0 };
	QD_TRY(st, split(&parts, spec, &name, &path));
	if (name == NULL)
		name = stem_of(&parts.arena, parts.items[0].path);
	opened = calloc(parts.n, sizeof(*opened));
	if (name == NULL || opened == NULL) {
		st = qd_fail(QD_ENOMEM, "out of memory");
		goto out;
	}
	if (parts.n == 1) {
		st = qd_adapter_map(adapter, name, parts.items[0].path, parts.items[0].scale, modules);
		goto out;
	}
	for (size_t i = 0; i < parts.n; i++)
		QD_TRY(st, qd_adapter_open(&opened[i], name, parts.items[i].path, parts.items[i].scale, modules));
	st = join(adapter, name, path, opened, parts.n, modules);
out:
	for (size_t i = 0; i < parts.n && opened != NULL; i++)
		qd_adapter_release(&opened[i]);
	free(opened);
	release_parts(&parts);
	if (st != QD_OK)
		qd_adapter_release(adapter);
	return st;
}
