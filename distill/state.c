/*
 * The state of a training run, from which a killed one goes on: a checkpoint, which is a safetensors file. Metadata: "quad.run"
 * identifies the run, "quad.step" counts the updates made, "quad.best" says step and measure of the kept state. Tensors, float32,
 * for each parameter P: "P" itself, "P#m" and "P#v" (AdamW's moments) and, where one is kept, "P#kept"; and "#hash", U8, over the
 * metadata and all of them, which lies behind them so that it is known when it is written. No state of a random generator is kept:
 * what a step draws is a function of seed and step.
 */
#include "distill/internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The tensors of one parameter, in the order of `part_of`. */
static const char *const suffixes[] = { "", "#m", "#v", "#kept" };
enum { PARTS = QD_COUNT(suffixes) };
static const char hash_name[] = "#hash";

static void print_metadata(FILE *text, const char *run, const char *step, const char *best)
{
	fprintf(text, "%s\n%s\n%s\n", run, step, best);
}

static qt_tensor part_of(const struct qd_param *p, size_t part)
{
	const qt_tensor parts[PARTS] = { p->x, p->m, p->v, p->kept };
	return parts[part];
}

char *qd_training_state_path(const char *output)
{
	char *path = NULL;
	if (asprintf(&path, "%s.ckpt", output) < 0 && qd_fail(QD_ENOMEM, "out of memory for a path") != QD_OK)
		return NULL;
	return path;
}

void qd_training_state_remove(const char *path)
{
	if (unlink(path) != 0 && errno != ENOENT)
		qd_log(QD_LOG_WARNING, "cannot remove '%s': %s", path, strerror(errno));
}

/* What qd_safetensors_write asks for tensor by tensor, so that the state is never in memory twice. */
struct listing {
	const struct qd_tensor *tensors;
	const qt_tensor *handles; /* NULL behind the last */
	struct qd_text *text;     /* what is hashed: metadata, and a line for each tensor so far */
};

static enum qd_status fill_state(void *context, size_t i, void *buffer)
{
	const struct listing *l = context;
	struct qd_tensor tensor = l->tensors[i];
	enum qd_status st;

	if (l->handles[i] == NULL) {
		st = qd_text_end(l->text);
		memset(buffer, 0, tensor.bytes);
		if (st == QD_OK)
			qd_hash_bytes(l->text->bytes, l->text->n, buffer);
		return st;
	}
	st = qt_read(l->handles[i], buffer, tensor.bytes);
	tensor.data = buffer;
	if (st == QD_OK)
		qd_tensor_print(&tensor, l->text->stream);
	return st;
}

static enum qd_status list_parameter(
	struct qd_arena *names, const struct qd_param *p, struct qd_tensor *tensors, qt_tensor *handles, size_t *n)
{
	for (size_t part = 0; part < PARTS; part++) {
		qt_tensor handle = part_of(p, part);
		struct qd_tensor *t = &tensors[*n];
		enum qd_status st;
		if (handle == NULL)
			continue;
		*t = (struct qd_tensor){ .dtype = QD_F32, .name = qd_arena_strf(names, "%s%s", p->name, suffixes[part]) };
		if (t->name == NULL)
			return QD_ENOMEM;
		st = qt_shape(handle, &t->shape);
		if (st != QD_OK)
			return st;
		t->bytes = (size_t)qd_shape_elements(&t->shape) * sizeof(float);
		handles[(*n)++] = handle;
	}
	return QD_OK;
}

enum qd_status qd_training_state_write(const struct qd_optimizer *o, const char *path, const char *run)
{
	struct qd_arena arena = { 0 };
	struct qd_tensor *tensors = qd_arena_array(&arena, o->n * PARTS + 1, sizeof(*tensors));
	qt_tensor *handles = qd_arena_array(&arena, o->n * PARTS + 1, sizeof(qt_tensor));
	char step[32], best[64];
	struct qd_text text;
	const char *const metadata[] = { "quad.best", best, "quad.run", run, "quad.step", step };
	size_t n = 0;
	enum qd_status st;

	QD_TRY(st, qd_text_open(&text));
	if (tensors == NULL || handles == NULL)
		QD_TRY(st, QD_ENOMEM);
	snprintf(step, sizeof(step), "%" PRId64, o->step);
	snprintf(best, sizeof(best), "%" PRId64 " %a", o->best_step, o->best);
	for (size_t i = 0; i < o->n; i++)
		QD_TRY(st, list_parameter(&arena, &o->params[i], tensors, handles, &n));
	print_metadata(text.stream, run, step, best);
	tensors[n++] =
		(struct qd_tensor){ .name = hash_name, .dtype = QD_U8, .shape = QD_SHAPE(QD_HASH_TEXT), .bytes = QD_HASH_TEXT };
	struct listing listing = { tensors, handles, &text };
	QD_TRY(st, qd_safetensors_write(path, tensors, n, metadata, QD_COUNT(metadata) / 2, true, fill_state, &listing));
out:
	qd_text_release(&text);
	qd_arena_release(&arena);
	return st;
}

/* Whether the bytes are those that were written. */
static enum qd_status check_hash(const struct qd_safetensors *file, const char *run, const char *step, const char *best)
{
	const struct qd_tensor *said = qd_safetensors_find(file, hash_name);
	char hash[QD_HASH_TEXT] = { 0 };
	struct qd_text text;
	enum qd_status st;

	QD_TRY(st, qd_text_open(&text));
	print_metadata(text.stream, run, step, best);
	for (size_t i = 0; i < file->n; i++)
		if (&file->tensors[i] != said)
			qd_tensor_print(&file->tensors[i], text.stream);
	QD_TRY(st, qd_text_end(&text));
	qd_hash_bytes(text.bytes, text.n, hash);
	if (said == NULL || said->bytes != sizeof(hash) || memcmp(said->data, hash, sizeof(hash)) != 0)
		st = qd_fail(QD_EINPUT, "it is damaged, its hash is not that of its content: remove it or give --force");
out:
	qd_text_release(&text);
	return st;
}

static enum qd_status read_parameter(const struct qd_safetensors *file, struct qd_param *p)
{
	for (size_t part = 0; part < PARTS; part++) {
		qt_tensor handle = part_of(p, part);
		const struct qd_tensor *stored;
		char name[512];
		enum qd_status st;
		if (handle == NULL)
			continue;
		snprintf(name, sizeof(name), "%s%s", p->name, suffixes[part]);
		st = qd_safetensors_get(file, name, &stored);
		if (st == QD_OK && stored->dtype != QD_F32)
			st = qd_fail(QD_EINPUT, "tensor '%s' is %s, needs F32", name, qd_dtype_name(stored->dtype));
		if (st == QD_OK)
			st = qt_write(handle, stored->data, stored->bytes);
		if (st != QD_OK)
			return st;
	}
	return QD_OK;
}

static enum qd_status read_state(struct qd_optimizer *o, const struct qd_safetensors *file)
{
	const char *step = qd_safetensors_metadata(file, "quad.step"), *best = qd_safetensors_metadata(file, "quad.best");
	enum qd_status st =
		check_hash(file, qd_safetensors_metadata(file, "quad.run"), step != NULL ? step : "", best != NULL ? best : "");

	if (st != QD_OK)
		return st;
	if (step == NULL || sscanf(step, "%" SCNd64, &o->step) != 1 || o->step < 0)
		return qd_fail(QD_EINPUT, "has no step count");
	if (best == NULL || sscanf(best, "%" SCNd64 " %la", &o->best_step, &o->best) != 2)
		return qd_fail(QD_EINPUT, "does not say how good its kept state is");
	for (size_t i = 0; st == QD_OK && i < o->n; i++)
		st = read_parameter(file, &o->params[i]);
	return st;
}

enum qd_status qd_training_state_read(struct qd_optimizer *o, const char *path, const char *run, bool force, bool *found)
{
	struct qd_safetensors file = { 0 };
	const char *of;
	enum qd_status st = QD_OK;

	*found = false;
	if (!qd_is_file(path))
		return QD_OK;
	QD_TRY(st, qd_safetensors_open(&file, path));
	of = qd_safetensors_metadata(&file, "quad.run");
	if (of == NULL || strcmp(of, run) != 0) {
		if (!force)
			st = qd_fail(
				QD_EEXIST, "'%s' is of a run with other options: repeat those, remove it or give --force", path);
		goto out;
	}
	st = qd_prefix(read_state(o, &file), "cannot resume from '%s'", path);
	*found = st == QD_OK;
	if (st == QD_EINPUT && force) {
		qd_log(QD_LOG_WARNING, "%s; the run begins anew", qd_message());
		st = QD_OK;
	}
out:
	qd_safetensors_release(&file);
	return st;
}
