/*
 * Writing an adapter as diffusers and PEFT read it:
 *
 *   tensors   unet.PATH.lora_A.weight (down) and unet.PATH.lora_B.weight (up), four dimensions for convolutions; where a layer has a
 *             bias, unet.PATH.lora_B.bias [O] float32 for all of them, as PEFT has it, divided by alpha / R
 *   metadata  format = "pt"
 *             lora_adapter_metadata = PEFT's configuration as one flat JSON object with keys "unet.r", "unet.lora_alpha",
 *             "unet.rank_pattern", "unet.alpha_pattern", "unet.target_modules", ...
 *             quad.grid = adapter->encodings_id where there is one
 *
 * A reader computes up (alpha / R) down. How a layer's gains g_k get into that:
 *
 *   one positive number g   alpha = g R, matrices as they are
 *   any other               alpha = R, down'[k] = sqrt|g_k| down[k], up'[k] = sign(g_k) sqrt|g_k| up[k], which splits the range
 *                           evenly between the two
 *   kept                    alpha = R, down as it is, up'[k] = g_k up[k], right for every reader. This program reads what stands
 *                           beside it instead: unet.PATH.lora_grid_up, the unchanged up, and unet.PATH.lora_gain [R] float32
 */
#include "lib/adapter/internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DOWN, UP, PLAIN_UP, GAIN, BIAS, KINDS };

struct item {
	const struct qd_lora *lora;
	int kind;
	enum { UNCHANGED, HALF_GAIN, WHOLE_GAIN } fold; /* multiply by the square root of the gain, by the gain */
};

struct writing {
	const struct qd_adapter *adapter;
	enum qd_dtype dtype;
	bool keep_gain, biased;
	struct qd_tensor *tensors; /* data NULL: filled one by one */
	struct item *items;
	size_t n;
	struct qd_arena arena;
};

/* All gains are one positive number: alpha can say it. */
static bool has_common_gain(const struct qd_lora *lora)
{
	for (int64_t k = 1; k < lora->rank; k++)
		if (lora->gain[k] != lora->gain[0])
			return false;
	return lora->gain[0] > 0;
}

static double alpha_of(const struct writing *w, const struct qd_lora *lora)
{
	return (double)lora->rank * (!w->keep_gain && has_common_gain(lora) ? (double)lora->gain[0] : 1.0);
}

/* ---- metadata ---- */

/* Reals that are whole numbers are written as such: "4", not "4.0". */
static json_t *number(double value)
{
	return value == floor(value) && fabs(value) < 1e15 ? json_integer((json_int_t)value) : json_real(value);
}

/* The value most layers have, so that the patterns stay short. */
static double most_common(const struct writing *w, double (*of)(const struct writing *w, const struct qd_lora *lora))
{
	double best = of(w, &w->adapter->loras[0]);
	size_t best_count = 0;

	for (size_t i = 0; i < w->adapter->n; i++) {
		double value = of(w, &w->adapter->loras[i]);
		size_t count = 0;
		for (size_t j = 0; j < w->adapter->n; j++)
			count += of(w, &w->adapter->loras[j]) == value;
		if (count > best_count) {
			best = value;
			best_count = count;
		}
	}
	return best;
}

static double rank_of(const struct writing *w, const struct qd_lora *lora)
{
	(void)w;
	return (double)lora->rank;
}

/* Sets "unet.<name>" to the common value and "unet.<pattern>" to the layers that differ. */
static int put_values(json_t *object, const struct writing *w, const char *name, const char *pattern,
	double (*of)(const struct writing *w, const struct qd_lora *lora))
{
	double common = most_common(w, of);
	json_t *others = json_object();
	int failed = json_object_set_new(object, name, number(common));

	for (size_t i = 0; i < w->adapter->n; i++) {
		double value = of(w, &w->adapter->loras[i]);
		if (value != common)
			failed |= json_object_set_new(others, w->adapter->loras[i].path, number(value));
	}
	return failed | json_object_set_new(object, pattern, others);
}

static enum qd_status describe(const struct writing *w, char **text)
{
	json_t *object = json_object(), *targets = json_array();
	int failed = 0;
	enum qd_status st;

	failed |= put_values(object, w, "unet.r", "unet.rank_pattern", rank_of);
	failed |= put_values(object, w, "unet.lora_alpha", "unet.alpha_pattern", alpha_of);
	for (size_t i = 0; i < w->adapter->n; i++)
		failed |= json_array_append_new(targets, json_string(w->adapter->loras[i].path));
	failed |= json_object_set_new(object, "unet.target_modules", targets);
	failed |= json_object_set_new(object, "unet.peft_type", json_string("LORA"));
	failed |= json_object_set_new(object, "unet.bias", json_string("none"));
	failed |= json_object_set_new(object, "unet.lora_dropout", json_real(0));
	failed |= json_object_set_new(object, "unet.init_lora_weights", json_true());
	failed |= json_object_set_new(object, "unet.use_rslora", json_false());
	failed |= json_object_set_new(object, "unet.use_dora", json_false());
	failed |= json_object_set_new(object, "unet.lora_bias", json_boolean(w->biased));
	st = failed == 0 ? qd_json_text(object, JSON_INDENT(2) | JSON_SORT_KEYS | JSON_REAL_PRECISION(17), text)
			 : qd_fail(QD_ENOMEM, "out of memory");
	json_decref(object);
	return st;
}

/* ---- tensors ---- */

static float factor(const struct item *item, int64_t k)
{
	float gain = item->lora->gain[k], root = sqrtf(fabsf(gain));
	if (item->fold == WHOLE_GAIN)
		return gain;
	return item->kind == UP && gain < 0 ? -root : root;
}

static void compute(const struct writing *w, const struct item *item, float *out)
{
	const struct qd_lora *lora = item->lora;
	int64_t columns = item->kind == DOWN ? lora->in * lora->kh * lora->kw : lora->rank;
	int64_t rows = item->kind == DOWN ? lora->rank : lora->out;
	const float *from = item->kind == DOWN ? lora->down : lora->up;

	if (item->kind == GAIN) {
		memcpy(out, lora->gain, (size_t)lora->rank * sizeof(*out));
		return;
	}
	for (int64_t o = 0; o < lora->out && item->kind == BIAS; o++)
		out[o] = lora->bias != NULL ? (float)((double)lora->bias[o] * (double)lora->rank / alpha_of(w, lora)) : 0;
	if (item->kind == BIAS)
		return;
	memcpy(out, from, (size_t)(rows * columns) * sizeof(*out));
	for (int64_t i = 0; i < rows && item->fold != UNCHANGED; i++)
		for (int64_t j = 0; j < columns; j++)
			out[i * columns + j] *= factor(item, item->kind == DOWN ? i : j);
}

static enum qd_status fill_matrix(void *context, size_t i, void *buffer)
{
	struct writing *w = context;
	struct qd_tensor tensor = w->tensors[i];
	size_t elements = (size_t)qd_shape_elements(&tensor.shape);
	float *values = malloc((elements + 1) * sizeof(*values));
	enum qd_status st;

	if (values == NULL)
		return qd_fail(QD_ENOMEM, "out of memory");
	compute(w, &w->items[i], values);
	tensor.data = buffer;
	QD_TRY(st, qd_tensor_from_f32(&tensor, values));
	st = qd_tensor_check_finite(&tensor, qd_dtype_name(tensor.dtype));
out:
	free(values);
	return st;
}

static enum qd_status add_item(struct writing *w, const struct qd_lora *lora, int kind)
{
	static const char *const suffixes[KINDS] = { "lora_A.weight", "lora_B.weight", "lora_grid_up", "lora_gain", "lora_B.bias" };
	struct qd_tensor *tensor = &w->tensors[w->n];
	enum qd_dtype dtype = kind == GAIN || kind == BIAS ? QD_F32 : w->dtype;
	struct qd_shape shape = QD_SHAPE(kind == BIAS ? lora->out : lora->rank);
	struct item item = { .lora = lora, .kind = kind };

	if (kind == DOWN)
		shape = lora->conv ? QD_SHAPE(lora->rank, lora->in, lora->kh, lora->kw) : QD_SHAPE(lora->rank, lora->in);
	if (kind == UP || kind == PLAIN_UP)
		shape = lora->conv ? QD_SHAPE(lora->out, lora->rank, 1, 1) : QD_SHAPE(lora->out, lora->rank);
	*tensor = qd_tensor_view(qd_arena_strf(&w->arena, "unet.%s.%s", lora->path, suffixes[kind]), dtype, shape, NULL);
	if (tensor->name == NULL)
		return QD_ENOMEM;
	if (w->keep_gain)
		item.fold = kind == UP ? WHOLE_GAIN : UNCHANGED;
	else
		item.fold = has_common_gain(lora) ? UNCHANGED : HALF_GAIN;
	w->items[w->n++] = item;
	return QD_OK;
}

static enum qd_status list_items(struct writing *w)
{
	const struct qd_adapter *adapter = w->adapter;
	enum qd_status st = QD_OK;

	w->tensors = qd_arena_array(&w->arena, adapter->n, KINDS * sizeof(*w->tensors));
	w->items = qd_arena_array(&w->arena, adapter->n, KINDS * sizeof(*w->items));
	if (w->tensors == NULL || w->items == NULL)
		return QD_ENOMEM;
	for (size_t i = 0; i < adapter->n; i++)
		w->biased |= adapter->loras[i].bias != NULL;
	for (size_t i = 0; i < adapter->n; i++) {
		for (int kind = DOWN; kind < (w->keep_gain ? BIAS : PLAIN_UP); kind++)
			QD_TRY(st, add_item(w, &adapter->loras[i], kind));
		if (w->biased)
			QD_TRY(st, add_item(w, &adapter->loras[i], BIAS));
	}
out:
	return st;
}

enum qd_status qd_adapter_write(const struct qd_adapter *adapter, const char *path, enum qd_dtype dtype, bool keep_gain, bool force)
{
	struct writing w = { .adapter = adapter, .dtype = dtype, .keep_gain = keep_gain };
	char *text = NULL;
	enum qd_status st;

	if (adapter->n == 0)
		return qd_fail(QD_EINPUT, "adapter '%s' has no layers to write", adapter->name);
	if (dtype != QD_F32 && dtype != QD_F16 && dtype != QD_BF16)
		return qd_fail(QD_EINPUT, "cannot write an adapter as %s, needs F32, F16 or BF16", qd_dtype_name(dtype));
	QD_TRY(st, list_items(&w));
	QD_TRY(st, describe(&w, &text));
	st = qd_safetensors_write(path, w.tensors, w.n,
		(const char *const[]){ "format", "pt", "lora_adapter_metadata", text, "quad.grid", adapter->encodings_id },
		adapter->encodings_id != NULL ? 3 : 2, force, fill_matrix, &w);
out:
	free(text);
	qd_arena_release(&w.arena);
	return qd_prefix(st, "adapter '%s'", adapter->name);
}
