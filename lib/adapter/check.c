/*
 * From the pieces of a file to an adapter: every layer whole, every layer in the model (diff.c), every value finite.
 *
 * Tucker's middle (LoCon's lora_mid) is collapsed here into a plain down: down'[i,c,y,x] = sum_j mid[i,j,y,x] down[j,c].
 */
#include "lib/adapter/internal.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- pieces among themselves ---- */

static enum qd_status check_whole(const struct qd_piece *piece)
{
	static const char *const words[QD_ROLES] = { "down", "up", "mid", "alpha", "gain", "grid up", "bias" };
	const struct qd_tensor *down = piece->tensor[QD_ROLE_DOWN], *up = piece->tensor[QD_ROLE_UP];

	for (int role = 0; role < QD_ROLES; role++)
		if (piece->tensor[role] != NULL && (down == NULL || up == NULL))
			return qd_fail(QD_EINPUT, "layer '%s' has %s (tensor '%s') but no %s", piece->name, words[role],
				piece->tensor[role]->name, words[down == NULL ? QD_ROLE_DOWN : QD_ROLE_UP]);
	if (piece->tensor[QD_ROLE_PLAIN_UP] != NULL && piece->tensor[QD_ROLE_GAIN] == NULL)
		return qd_fail(QD_EINPUT, "layer '%s' has grid up (tensor '%s') but no gain", piece->name,
			piece->tensor[QD_ROLE_PLAIN_UP]->name);
	return QD_OK;
}

static enum qd_status check_rank(const struct qd_piece *piece)
{
	const struct qd_tensor *down = piece->tensor[QD_ROLE_DOWN], *up = piece->tensor[QD_ROLE_UP],
			       *mid = piece->tensor[QD_ROLE_MID], *gain = piece->tensor[QD_ROLE_GAIN],
			       *bias = piece->tensor[QD_ROLE_BIAS];
	int64_t rank = down->shape.dim[0], middle = mid != NULL ? mid->shape.dim[0] : rank;
	char text[QD_SHAPE_TEXT], other[QD_SHAPE_TEXT];

	if (rank < 1)
		return qd_fail(
			QD_EINPUT, "tensor '%s' %s has rank 0, needs at least 1", down->name, qd_shape_text(&down->shape, text));
	if (mid != NULL && (mid->shape.rank != 4 || mid->shape.dim[1] != rank || middle < 1))
		return qd_fail(QD_EINPUT, "tensor '%s' %s does not fit '%s' %s, needs [R,%lld,kh,kw]", mid->name,
			qd_shape_text(&mid->shape, text), down->name, qd_shape_text(&down->shape, other), (long long)rank);
	if (up->shape.dim[1] != middle)
		return qd_fail(QD_EINPUT, "rank mismatch: tensor '%s' %s has rank %lld, '%s' %s has %lld", up->name,
			qd_shape_text(&up->shape, text), (long long)up->shape.dim[1], mid != NULL ? mid->name : down->name,
			qd_shape_text(mid != NULL ? &mid->shape : &down->shape, other), (long long)middle);
	if (gain != NULL && (gain->shape.rank != 1 || gain->shape.dim[0] != middle))
		return qd_fail(QD_EINPUT, "tensor '%s' %s, needs [%lld]", gain->name, qd_shape_text(&gain->shape, text),
			(long long)middle);
	if (bias != NULL && (bias->shape.rank != 1 || bias->shape.dim[0] != up->shape.dim[0]))
		return qd_fail(QD_EINPUT, "tensor '%s' %s, needs [%lld]", bias->name, qd_shape_text(&bias->shape, text),
			(long long)up->shape.dim[0]);
	return QD_OK;
}

static int compare_pieces(const void *a, const void *b)
{
	const struct qd_piece *x = a, *y = b;
	return (x->module > y->module) - (x->module < y->module);
}

enum qd_status qd_pieces_whole(const struct qd_reading *r)
{
	enum qd_status st = QD_OK;

	for (size_t i = 0; i < r->n; i++)
		QD_TRY(st, check_whole(&r->pieces[i]));
out:
	return st;
}

enum qd_status qd_pieces_check(struct qd_reading *r)
{
	enum qd_status st = QD_OK;

	QD_TRY(st, qd_pieces_whole(r));
	for (size_t i = 0; i < r->n; i++)
		if (r->pieces[i].tensor[QD_ROLE_PLAIN_UP] != NULL)
			r->pieces[i].tensor[QD_ROLE_UP] = r->pieces[i].tensor[QD_ROLE_PLAIN_UP];
	QD_TRY(st, qd_pieces_fit(r));
	for (size_t i = 0; i < r->n; i++)
		QD_TRY(st, check_rank(&r->pieces[i]));
	if (r->n > 0)
		qsort(r->pieces, r->n, sizeof(*r->pieces), compare_pieces);
	for (size_t i = 1; i < r->n; i++)
		if (r->pieces[i].module == r->pieces[i - 1].module) {
			st = qd_fail(QD_EINPUT, "'%s' and '%s' are the same layer", r->pieces[i - 1].name, r->pieces[i].name);
			goto out;
		}
out:
	return st;
}

/* ---- conversion ---- */

/* What can be said of a tensor's elements where they lie. */
static enum qd_status check_numbers(const struct qd_tensor *tensor)
{
	if (tensor == NULL)
		return QD_OK;
	if (tensor->dtype != QD_F32 && tensor->dtype != QD_F16 && tensor->dtype != QD_BF16 && tensor->dtype != QD_F64)
		return qd_fail(QD_EUNSUPPORTED, "tensor '%s' is %s, needs F32, F16, BF16 or F64", tensor->name,
			qd_dtype_name(tensor->dtype));
	return qd_tensor_check_finite(tensor, NULL);
}

/* A tensor's elements in the adapter's arena, all finite (a large F64 becomes infinite). */
static enum qd_status to_floats(struct qd_adapter *adapter, const struct qd_tensor *tensor, float **out)
{
	struct qd_tensor view;
	enum qd_status st;

	*out = qd_arena_array(&adapter->arena, (size_t)qd_shape_elements(&tensor->shape), sizeof(**out));
	if (*out == NULL)
		return QD_ENOMEM;
	QD_TRY(st, qd_tensor_to_f32(tensor, *out));
	view = qd_tensor_view(tensor->name, QD_F32, tensor->shape, *out);
	st = qd_tensor_check_finite(&view, NULL);
out:
	return st;
}

static enum qd_status collapse_middle(struct qd_adapter *adapter, const struct qd_tensor *mid, struct qd_lora *lora)
{
	int64_t inner = mid->shape.dim[1], kernel = lora->kh * lora->kw;
	size_t columns, elements;
	float *middle = NULL, *flat = lora->down;
	struct qd_tensor view;
	enum qd_status st;

	if (qd_mul_overflow((size_t)lora->in, (size_t)kernel, &columns) || qd_mul_overflow(columns, (size_t)lora->rank, &elements))
		return qd_fail(QD_EINPUT, "tensor '%s': sizes overflow", mid->name);
	QD_TRY(st, to_floats(adapter, mid, &middle));
	lora->down = qd_arena_array(&adapter->arena, elements, sizeof(*lora->down));
	if (lora->down == NULL)
		return QD_ENOMEM;
	for (int64_t i = 0; i < lora->rank; i++)
		for (int64_t j = 0; j < inner; j++)
			for (int64_t c = 0; c < lora->in; c++)
				for (int64_t k = 0; k < kernel; k++)
					lora->down[(i * lora->in + c) * kernel + k] +=
						middle[(i * inner + j) * kernel + k] * flat[j * lora->in + c];
	view = qd_tensor_view(mid->name, QD_F32, QD_SHAPE(lora->rank, lora->in, lora->kh, lora->kw), lora->down);
	st = qd_tensor_check_finite(&view, "collapsed");
out:
	return st;
}

static enum qd_status fill_gain(struct qd_adapter *adapter, const struct qd_piece *piece, double multiplier, struct qd_lora *lora)
{
	float *stored = NULL;
	enum qd_status st = QD_OK;

	lora->gain = qd_arena_array(&adapter->arena, (size_t)lora->rank, sizeof(*lora->gain));
	if (lora->gain == NULL)
		return QD_ENOMEM;
	if (piece->tensor[QD_ROLE_GAIN] != NULL)
		QD_TRY(st, to_floats(adapter, piece->tensor[QD_ROLE_GAIN], &stored));
	for (int64_t k = 0; k < lora->rank; k++) {
		lora->gain[k] = (float)(multiplier * piece->scale * (stored != NULL ? (double)stored[k] : 1.0));
		if (!isfinite(lora->gain[k])) {
			st = qd_fail(QD_EINPUT, "layer '%s' has scale %g times strength %g, needs a finite number", piece->name,
				piece->scale, multiplier);
			goto out;
		}
	}
out:
	return st;
}

static enum qd_status fill_bias(struct qd_adapter *adapter, const struct qd_piece *piece, double multiplier, struct qd_lora *lora)
{
	const struct qd_tensor *bias = piece->tensor[QD_ROLE_BIAS];
	enum qd_status st;

	if (bias == NULL)
		return QD_OK;
	QD_TRY(st, to_floats(adapter, bias, &lora->bias));
	for (int64_t o = 0; o < lora->out; o++) {
		lora->bias[o] = (float)(multiplier * piece->scale * (double)lora->bias[o]);
		if (!isfinite(lora->bias[o]))
			return qd_fail(QD_EINPUT, "tensor '%s' times scale %g times strength %g is beyond float32", bias->name,
				piece->scale, multiplier);
	}
out:
	return st;
}

/* All of a layer but its matrices. */
static enum qd_status describe(struct qd_reading *r, const struct qd_piece *piece, double multiplier, struct qd_lora *lora)
{
	static const enum qd_lora_role roles[] = { QD_ROLE_DOWN, QD_ROLE_UP, QD_ROLE_MID, QD_ROLE_GAIN, QD_ROLE_BIAS };
	const struct qd_module *module = &r->modules->items[piece->module];
	enum qd_status st;

	*lora = (struct qd_lora){ .path = qd_arena_strdup(&r->adapter->arena, module->path),
		.rank = piece->tensor[QD_ROLE_UP]->shape.dim[1],
		.out = module->out,
		.in = module->in,
		.kh = module->kh,
		.kw = module->kw,
		.conv = module->conv };
	if (lora->path == NULL)
		return QD_ENOMEM;
	for (size_t i = 0; i < QD_COUNT(roles); i++)
		QD_TRY(st, check_numbers(piece->tensor[roles[i]]));
	QD_TRY(st, fill_gain(r->adapter, piece, multiplier, lora));
	st = fill_bias(r->adapter, piece, multiplier, lora);
out:
	return st;
}

static enum qd_status load(struct qd_adapter *adapter, const struct qd_piece *piece, struct qd_lora *lora)
{
	const struct qd_tensor *mid = piece->tensor[QD_ROLE_MID];
	enum qd_status st;

	QD_TRY(st, to_floats(adapter, piece->tensor[QD_ROLE_DOWN], &lora->down));
	QD_TRY(st, to_floats(adapter, piece->tensor[QD_ROLE_UP], &lora->up));
	if (mid != NULL)
		QD_TRY(st, collapse_middle(adapter, mid, lora));
out:
	return st;
}

double qd_lora_bound(const struct qd_lora *lora)
{
	int64_t columns = lora->in * lora->kh * lora->kw;
	double bound = 0;

	for (int64_t k = 0; k < lora->rank; k++) {
		double up = 0, down = 0;
		for (int64_t o = 0; o < lora->out; o++)
			up = fmax(up, fabs((double)lora->up[o * lora->rank + k]));
		for (int64_t c = 0; c < columns; c++)
			down = fmax(down, fabs((double)lora->down[k * columns + c]));
		bound += fabs((double)lora->gain[k]) * up * down;
	}
	return bound;
}

enum qd_status qd_pieces_load(struct qd_adapter *adapter, const struct qd_piece *pieces)
{
	enum qd_status st = QD_OK;

	for (size_t i = 0; i < adapter->n; i++) {
		double bound;
		QD_TRY(st, load(adapter, &pieces[i], &adapter->loras[i]));
		bound = qd_lora_bound(&adapter->loras[i]);
		if (!(bound <= (double)FLT_MAX))
			QD_TRY(st,
				qd_fail(QD_EINPUT, "layer '%s' changes weights by up to %g, float32 holds %g: lower the strength",
					adapter->loras[i].path, bound, (double)FLT_MAX));
	}
out:
	return st;
}

enum qd_status qd_pieces_describe(struct qd_reading *r, double multiplier)
{
	struct qd_adapter *adapter = r->adapter;
	size_t biases = 0;
	enum qd_status st = QD_OK;

	if (r->n == 0)
		return qd_fail(QD_EINPUT, "adapts no layer of the UNet (%zu tensors of text encoders, %zu embeddings)",
			adapter->text_tensors, adapter->embeddings);
	adapter->loras = qd_arena_array(&adapter->arena, r->n, sizeof(*adapter->loras));
	if (adapter->loras == NULL)
		return QD_ENOMEM;
	for (size_t i = 0; i < r->n; i++, adapter->n++)
		QD_TRY(st, describe(r, &r->pieces[i], multiplier, &adapter->loras[i]));
	for (size_t i = 0; i < adapter->n; i++)
		biases += adapter->loras[i].bias != NULL;
	if (biases > 0)
		QD_TRY(st, qd_adapter_note(adapter, "%zu layers have a bias (lora_B.bias)", biases));
	st = qd_adapter_index(adapter);
out:
	return st;
}
