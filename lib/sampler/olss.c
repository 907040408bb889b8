/*
 * The file of a fitted sampler: safetensors with, for k steps,
 *
 *   timesteps F64 [k]    decreasing
 *   wx        F64 [k]    coefficients of the starting noise
 *   we        F64 [k,k]  coefficients of the outputs; row i is 0 behind column i
 *
 * and the metadata (all text)
 *
 *   format            "quad.olss"
 *   version           "1"
 *   guidance          the guidance scale that the coefficients absorb
 *   reference_steps   steps of the runs they were fitted to
 *   error             mean squared error of an element of the final latents over those runs
 *   base              hash of the model, or ""
 *   notes             free text
 */
#include "lib/sampler/sampler.h"
#include "lib/io/io.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_STEPS = 1000, NUMBER_TEXT = 32 };

void qd_olss_release(struct qd_olss *olss)
{
	free(olss->timesteps);
	free(olss->wx);
	free(olss->we);
	free(olss->notes);
	*olss = (struct qd_olss){ 0 };
}

/* ---- reading ---- */

/* A tensor F64 of the given shape, copied; steps 0: any number of them, which is then set. */
static enum qd_status read_tensor(const struct qd_safetensors *file, const char *name, int rank, int *steps, double **out)
{
	char found[QD_SHAPE_TEXT];
	const struct qd_tensor *t;
	enum qd_status st = qd_safetensors_get(file, name, &t);
	bool fits = st == QD_OK && t->dtype == QD_F64 && t->shape.rank == rank;

	if (st != QD_OK)
		return st;
	if (fits && *steps == 0 && t->shape.dim[0] >= 1 && t->shape.dim[0] <= MAX_STEPS)
		*steps = (int)t->shape.dim[0];
	for (int i = 0; fits && i < rank; i++)
		fits = t->shape.dim[i] == *steps;
	if (!fits)
		return qd_fail(QD_EINPUT, "tensor '%s' is %s %s, needs F64 %s of %d steps", name, qd_dtype_name(t->dtype),
			qd_shape_text(&t->shape, found), rank == 1 ? "[k]" : "[k,k]", *steps > 0 ? *steps : MAX_STEPS);
	*out = malloc(t->bytes);
	if (*out == NULL)
		return qd_fail(QD_ENOMEM, "out of memory");
	memcpy(*out, t->data, t->bytes);
	return qd_tensor_check_finite(t, NULL);
}

static enum qd_status read_number(const struct qd_safetensors *file, const char *key, double low, double high, double *out)
{
	const char *text = qd_safetensors_metadata(file, key);
	char *end = NULL;
	double value = text != NULL ? strtod(text, &end) : 0;

	if (text == NULL || end == text || *end != '\0' || !(value >= low && value <= high))
		return qd_fail(
			QD_EINPUT, "metadata '%s' is '%s', needs a number from %g to %g", key, text != NULL ? text : "", low, high);
	*out = value;
	return QD_OK;
}

static enum qd_status read_metadata(struct qd_olss *olss, const struct qd_safetensors *file)
{
	const char *format = qd_safetensors_metadata(file, "format"), *hash = qd_safetensors_metadata(file, "base"),
		   *notes = qd_safetensors_metadata(file, "notes");
	double version = 0, reference = 0;
	enum qd_status st;

	if (format == NULL || strcmp(format, "quad.olss") != 0)
		return qd_fail(QD_EINPUT, "metadata 'format' is '%s', needs 'quad.olss'", format != NULL ? format : "");
	QD_TRY(st, read_number(file, "version", 1, 1, &version));
	QD_TRY(st, read_number(file, "guidance", 0, 1e6, &olss->guidance));
	QD_TRY(st, read_number(file, "reference_steps", 1, 1e6, &reference));
	QD_TRY(st, read_number(file, "error", 0, 1e300, &olss->error));
	olss->reference_steps = (int)reference;
	snprintf(olss->base_hash, sizeof(olss->base_hash), "%s", hash != NULL ? hash : "");
	olss->notes = strdup(notes != NULL ? notes : "");
	if (olss->notes == NULL)
		st = qd_fail(QD_ENOMEM, "out of memory");
out:
	return st;
}

static enum qd_status check_order(const struct qd_olss *olss)
{
	for (int i = 0; i < olss->steps; i++) {
		if (olss->timesteps[i] < 0 || (i > 0 && olss->timesteps[i] >= olss->timesteps[i - 1]))
			return qd_fail(QD_EINPUT, "tensor 'timesteps' has %g at %d, needs decreasing numbers from 0 up",
				olss->timesteps[i], i);
		for (int j = i + 1; j < olss->steps; j++)
			if (olss->we[(size_t)i * (size_t)olss->steps + (size_t)j] != 0)
				return qd_fail(QD_EINPUT, "tensor 'we' uses output %d at step %d, before it is known", j, i);
	}
	return QD_OK;
}

enum qd_status qd_olss_read(struct qd_olss *olss, const char *path)
{
	struct qd_safetensors file = { 0 };
	enum qd_status st;

	*olss = (struct qd_olss){ 0 };
	QD_TRY(st, qd_safetensors_open(&file, path));
	st = read_metadata(olss, &file);
	if (st == QD_OK)
		st = read_tensor(&file, "timesteps", 1, &olss->steps, &olss->timesteps);
	if (st == QD_OK)
		st = read_tensor(&file, "wx", 1, &olss->steps, &olss->wx);
	if (st == QD_OK)
		st = read_tensor(&file, "we", 2, &olss->steps, &olss->we);
	if (st == QD_OK)
		st = check_order(olss);
	st = qd_prefix(st, "'%s' is no fitted sampler", path);
out:
	qd_safetensors_release(&file);
	if (st != QD_OK)
		qd_olss_release(olss);
	return st;
}

/* ---- writing ---- */

enum qd_status qd_olss_write(const struct qd_olss *olss, const char *path, bool force)
{
	int64_t k = olss->steps;
	const struct qd_tensor tensors[] = {
		qd_tensor_view("timesteps", QD_F64, QD_SHAPE(k), olss->timesteps),
		qd_tensor_view("wx", QD_F64, QD_SHAPE(k), olss->wx),
		qd_tensor_view("we", QD_F64, QD_SHAPE(k, k), olss->we),
	};
	char guidance[NUMBER_TEXT], reference[NUMBER_TEXT], error[NUMBER_TEXT];
	const char *const metadata[] = { "format", "quad.olss", "version", "1", "guidance", guidance, "reference_steps", reference,
		"error", error, "base", olss->base_hash, "notes", olss->notes != NULL ? olss->notes : "" };

	snprintf(guidance, sizeof(guidance), "%.17g", olss->guidance);
	snprintf(reference, sizeof(reference), "%d", olss->reference_steps);
	snprintf(error, sizeof(error), "%.17g", olss->error);
	return qd_safetensors_write(path, tensors, QD_COUNT(tensors), metadata, QD_COUNT(metadata) / 2, force, NULL, NULL);
}
