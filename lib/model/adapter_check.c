/*
 * From the pieces of a file to an adapter: every layer whole, every layer in the model, every value finite. A misfit is told as a
 * difference: how many layers fit, the first that does not, and which models the file looks made for.
 *
 * Tucker's middle (LoCon's lora_mid) is collapsed here into a plain down: down'[i,c,y,x] = sum_j mid[i,j,y,x] down[j,c].
 */
#include "lib/model/adapter_internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- pieces among themselves ---- */

static enum qd_status check_whole(const struct qd_piece *piece)
{
	static const char *const words[QD_PARTS] = { "down", "up", "mid", "alpha", "gain" };
	const struct qd_tensor *down = piece->part[QD_PART_DOWN], *up = piece->part[QD_PART_UP];

	for (int part = 0; part < QD_PARTS; part++)
		if (piece->part[part] != NULL && (down == NULL || up == NULL))
			return qd_fail(QD_EINPUT, "layer '%s' has %s (tensor '%s') but no %s", piece->name, words[part],
				piece->part[part]->name, words[down == NULL ? QD_PART_DOWN : QD_PART_UP]);
	return QD_OK;
}

/* rows x columns x kh x kw of a tensor of two or four dimensions. */
static bool matrix_dims(const struct qd_tensor *tensor, int64_t dims[4])
{
	const struct qd_shape *shape = &tensor->shape;

	if (shape->rank != 2 && shape->rank != 4)
		return false;
	for (int i = 0; i < 4; i++)
		dims[i] = i < shape->rank ? shape->dim[i] : 1;
	return true;
}

static enum qd_status check_rank(const struct qd_piece *piece)
{
	const struct qd_tensor *down = piece->part[QD_PART_DOWN], *up = piece->part[QD_PART_UP], *mid = piece->part[QD_PART_MID],
			       *gain = piece->part[QD_PART_GAIN];
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
	return QD_OK;
}

/* ---- pieces and the model ---- */

/* NULL when the piece fits its layer, else the tensor that does not. */
static const struct qd_tensor *misfit(const struct qd_piece *piece, const struct qd_module *module)
{
	const struct qd_tensor *down = piece->part[QD_PART_DOWN], *up = piece->part[QD_PART_UP], *mid = piece->part[QD_PART_MID];
	int64_t d[4], u[4], kh, kw;

	if (!matrix_dims(down, d) || d[1] != module->in)
		return down;
	kh = mid != NULL && mid->shape.rank == 4 ? mid->shape.dim[2] : d[2];
	kw = mid != NULL && mid->shape.rank == 4 ? mid->shape.dim[3] : d[3];
	if (kh != module->kh || kw != module->kw || (mid != NULL && (d[2] != 1 || d[3] != 1)))
		return mid != NULL ? mid : down;
	return !matrix_dims(up, u) || u[0] != module->out || u[2] != 1 || u[3] != 1 ? up : NULL;
}

/* Which models have cross-attention over contexts of `width` features. */
static const char *family_of_width(int64_t width)
{
	return width == 768 ? "Stable Diffusion 1.x" : width == 1024 ? "Stable Diffusion 2.x" : width == 2048 ? "SDXL" : NULL;
}

/* The piece's module path where it has one (positional files have no names), else the file's name of it. */
static const char *layer_name(const struct qd_reading *r, const struct qd_piece *piece)
{
	return piece->module != QD_NONE ? r->modules->items[piece->module].path : piece->name;
}

static const char *family_of(const struct qd_reading *r)
{
	for (size_t i = 0; i < r->n; i++) {
		const struct qd_tensor *down = r->pieces[i].part[QD_PART_DOWN];
		const char *name = layer_name(r, &r->pieces[i]);
		bool cross = strstr(name, "attn2.to_k") != NULL || strstr(name, "attn2_to_k") != NULL;
		if (cross && down->shape.rank >= 2 && family_of_width(down->shape.dim[1]) != NULL)
			return family_of_width(down->shape.dim[1]);
	}
	for (size_t i = 0; i < r->n; i++) {
		const struct qd_tensor *down = r->pieces[i].part[QD_PART_DOWN];
		const char *name = layer_name(r, &r->pieces[i]);
		if (strstr(name, "input_blocks_") != NULL || strstr(name, "output_blocks_") != NULL)
			return "SDXL";
		if (strstr(name, "blocks_0_attentions_") != NULL || strstr(name, "blocks.0.attentions.") != NULL)
			if (down->shape.rank >= 2 && down->shape.dim[1] == 320)
				return "Stable Diffusion 1.x or 2.x";
	}
	return NULL;
}

static enum qd_status tell_misfit(
	const struct qd_reading *r, const struct qd_piece *piece, const struct qd_tensor *tensor, size_t fits)
{
	const char *family = family_of(r), *looks = family != NULL ? "; the adapter looks made for " : "";
	const struct qd_module *module;
	char found[QD_SHAPE_TEXT], needed[96];

	if (tensor == NULL)
		return qd_fail(QD_EINPUT, "%zu of %zu layers fit the model; '%s' is no layer of it%s%s", fits, r->n, piece->name,
			looks, family != NULL ? family : "");
	module = &r->modules->items[piece->module];
	if (tensor == piece->part[QD_PART_UP])
		snprintf(needed, sizeof(needed), "[%lld,R]", (long long)module->out);
	else if (module->kh == 1 && module->kw == 1)
		snprintf(needed, sizeof(needed), "[R,%lld]", (long long)module->in);
	else
		snprintf(needed, sizeof(needed), "[R,%lld,%lld,%lld]", (long long)module->in, (long long)module->kh,
			(long long)module->kw);
	return qd_fail(QD_EINPUT, "%zu of %zu layers fit the model; tensor '%s' is %s, layer '%s' needs %s%s%s", fits, r->n,
		tensor->name, qd_shape_text(&tensor->shape, found), module->path, needed, looks, family != NULL ? family : "");
}

static enum qd_status check_fit(const struct qd_reading *r)
{
	const struct qd_piece *first = NULL;
	const struct qd_tensor *wrong = NULL;
	size_t fits = 0;

	for (size_t i = 0; i < r->n; i++) {
		const struct qd_piece *piece = &r->pieces[i];
		const struct qd_tensor *tensor = piece->module != QD_NONE ? misfit(piece, &r->modules->items[piece->module]) : NULL;
		if (piece->module != QD_NONE && tensor == NULL) {
			fits++;
		} else if (first == NULL) {
			first = piece;
			wrong = tensor;
		}
	}
	return first == NULL ? QD_OK : tell_misfit(r, first, wrong, fits);
}

static int compare_pieces(const void *a, const void *b)
{
	const struct qd_piece *x = a, *y = b;
	return (x->module > y->module) - (x->module < y->module);
}

enum qd_status qd_pieces_check(struct qd_reading *r)
{
	enum qd_status st = QD_OK;

	for (size_t i = 0; i < r->n; i++)
		QD_TRY(st, check_whole(&r->pieces[i]));
	QD_TRY(st, check_fit(r));
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
	if (piece->part[QD_PART_GAIN] != NULL)
		QD_TRY(st, to_floats(adapter, piece->part[QD_PART_GAIN], &stored));
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

/* All of a layer but its matrices. */
static enum qd_status describe(struct qd_reading *r, const struct qd_piece *piece, double multiplier, struct qd_lora *lora)
{
	static const enum qd_part parts[] = { QD_PART_DOWN, QD_PART_UP, QD_PART_MID, QD_PART_GAIN };
	const struct qd_module *module = &r->modules->items[piece->module];
	enum qd_status st;

	*lora = (struct qd_lora){ .path = qd_arena_strdup(&r->adapter->arena, module->path),
		.rank = piece->part[QD_PART_UP]->shape.dim[1],
		.out = module->out,
		.in = module->in,
		.kh = module->kh,
		.kw = module->kw,
		.conv = module->conv };
	if (lora->path == NULL)
		return QD_ENOMEM;
	for (size_t i = 0; i < QD_COUNT(parts); i++)
		QD_TRY(st, check_numbers(piece->part[parts[i]]));
	st = fill_gain(r->adapter, piece, multiplier, lora);
out:
	return st;
}

static enum qd_status load(struct qd_adapter *adapter, const struct qd_piece *piece, struct qd_lora *lora)
{
	const struct qd_tensor *mid = piece->part[QD_PART_MID];
	enum qd_status st;

	QD_TRY(st, to_floats(adapter, piece->part[QD_PART_DOWN], &lora->down));
	QD_TRY(st, to_floats(adapter, piece->part[QD_PART_UP], &lora->up));
	if (mid != NULL)
		QD_TRY(st, collapse_middle(adapter, mid, lora));
out:
	return st;
}

enum qd_status qd_pieces_load(struct qd_adapter *adapter, const struct qd_piece *pieces)
{
	enum qd_status st = QD_OK;

	for (size_t i = 0; i < adapter->n; i++)
		QD_TRY(st, load(adapter, &pieces[i], &adapter->loras[i]));
out:
	return st;
}

enum qd_status qd_pieces_describe(struct qd_reading *r, double multiplier)
{
	struct qd_adapter *adapter = r->adapter;
	enum qd_status st = QD_OK;

	if (r->n == 0)
		return qd_fail(QD_EINPUT, "adapts no layer of the UNet (%zu tensors of text encoders, %zu embeddings)",
			adapter->text_tensors, adapter->embeddings);
	adapter->loras = qd_arena_array(&adapter->arena, r->n, sizeof(*adapter->loras));
	if (adapter->loras == NULL)
		return QD_ENOMEM;
	for (size_t i = 0; i < r->n; i++, adapter->n++)
		QD_TRY(st, describe(r, &r->pieces[i], multiplier, &adapter->loras[i]));
	st = qd_adapter_index(adapter);
out:
	return st;
}
