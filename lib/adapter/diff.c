/*
 * What of an adapter fits a model and what does not, by names and shapes alone. A layer fits when the model has it and
 *
 *   down is [R,I] or [R,I,kh,kw]     up is [O,R] or [O,R,1,1]     mid, where there is one, [R,R,kh,kw] and down [R,I,1,1]
 *
 * with the I, O, kh and kw of the model's layer. A misfit is told as a difference: in one line how many layers fit, the first that
 * does not, and which models the file looks made for; or layer by layer.
 */
#include "lib/adapter/internal.h"
#include "lib/weights/weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

/* NULL when the piece fits its layer, else the tensor that does not. */
static const struct qd_tensor *misfit(const struct qd_piece *piece, const struct qd_module *module)
{
	const struct qd_tensor *down = piece->tensor[QD_ROLE_DOWN], *up = piece->tensor[QD_ROLE_UP],
			       *mid = piece->tensor[QD_ROLE_MID];
	int64_t d[4], u[4], kh, kw;

	if (!matrix_dims(down, d) || d[1] != module->in)
		return down;
	kh = mid != NULL && mid->shape.rank == 4 ? mid->shape.dim[2] : d[2];
	kw = mid != NULL && mid->shape.rank == 4 ? mid->shape.dim[3] : d[3];
	if (kh != module->kh || kw != module->kw || (mid != NULL && (d[2] != 1 || d[3] != 1)))
		return mid != NULL ? mid : down;
	return !matrix_dims(up, u) || u[0] != module->out || u[2] != 1 || u[3] != 1 ? up : NULL;
}

/* The piece's module path where it has one (positional files have no names), else the file's name of it. */
static const char *layer_name(const struct qd_reading *r, const struct qd_piece *piece)
{
	return piece->module != QD_NONE ? r->modules->items[piece->module].path : piece->name;
}

/* By the width of the context, else by spelling and the width of the first level; NULL: by neither. */
static const char *family_of(const struct qd_reading *r)
{
	for (size_t i = 0; i < r->n; i++) {
		const struct qd_tensor *down = r->pieces[i].tensor[QD_ROLE_DOWN];
		const char *name = layer_name(r, &r->pieces[i]);
		bool cross = strstr(name, "attn2.to_k") != NULL || strstr(name, "attn2_to_k") != NULL;
		const struct qd_family *family = cross && down->shape.rank >= 2 ? qd_family_of_context(down->shape.dim[1]) : NULL;
		if (family != NULL)
			return family->full_name;
	}
	for (size_t i = 0; i < r->n; i++) {
		const struct qd_tensor *down = r->pieces[i].tensor[QD_ROLE_DOWN];
		const char *name = layer_name(r, &r->pieces[i]);
		if (strstr(name, "input_blocks_") != NULL || strstr(name, "output_blocks_") != NULL)
			return qd_families[QD_FAMILY_SDXL].full_name;
		if (strstr(name, "blocks_0_attentions_") != NULL || strstr(name, "blocks.0.attentions.") != NULL)
			if (down->shape.rank >= 2 && down->shape.dim[1] == qd_families[QD_FAMILY_SD1].channels)
				return "Stable Diffusion 1.x or 2.x";
	}
	return NULL;
}

/* What a layer asks of the tensor that does not fit it. */
static void needed_of(
	const struct qd_piece *piece, const struct qd_module *module, const struct qd_tensor *tensor, char *out, size_t n)
{
	if (tensor == piece->tensor[QD_ROLE_UP])
		snprintf(out, n, "[%lld,R]", (long long)module->out);
	else if (tensor == piece->tensor[QD_ROLE_MID])
		snprintf(out, n, "[R,R,%lld,%lld]", (long long)module->kh, (long long)module->kw);
	else if (module->kh == 1 && module->kw == 1)
		snprintf(out, n, "[R,%lld]", (long long)module->in);
	else
		snprintf(out, n, "[R,%lld,%lld,%lld]", (long long)module->in, (long long)module->kh, (long long)module->kw);
}

static struct qd_layer_fit fit_of(const struct qd_reading *r, const struct qd_piece *piece)
{
	struct qd_layer_fit fit = { .name = piece->name };
	const struct qd_module *module = piece->module != QD_NONE ? &r->modules->items[piece->module] : NULL;
	const struct qd_tensor *tensor = module != NULL ? misfit(piece, module) : NULL;

	fit.path = module != NULL ? module->path : NULL;
	fit.fits = module != NULL && tensor == NULL;
	if (tensor == NULL)
		return fit;
	fit.tensor = tensor->name;
	fit.found = tensor->shape;
	needed_of(piece, module, tensor, fit.needed, sizeof(fit.needed));
	return fit;
}

enum qd_status qd_pieces_fit(const struct qd_reading *r)
{
	struct qd_layer_fit first = { 0 };
	const char *family = family_of(r), *looks = family != NULL ? "; the adapter looks made for " : "";
	char found[QD_SHAPE_TEXT];
	size_t fits = 0;

	for (size_t i = 0; i < r->n; i++) {
		struct qd_layer_fit fit = fit_of(r, &r->pieces[i]);
		fits += fit.fits;
		if (!fit.fits && first.name == NULL)
			first = fit;
	}
	if (first.name == NULL)
		return QD_OK;
	if (first.tensor == NULL)
		return qd_fail(QD_EINPUT, "%zu of %zu layers fit the model; '%s' is no layer of it%s%s", fits, r->n, first.name,
			looks, family != NULL ? family : "");
	return qd_fail(QD_EINPUT, "%zu of %zu layers fit the model; tensor '%s' is %s, layer '%s' needs %s%s%s", fits, r->n,
		first.tensor, qd_shape_text(&first.found, found), first.path, first.needed, looks, family != NULL ? family : "");
}

/* ---- the whole list ---- */

static enum qd_status list(struct qd_adapter_diff *diff, const struct qd_reading *r)
{
	diff->layers = qd_arena_array(&diff->arena, r->n, sizeof(*diff->layers));
	if (diff->layers == NULL)
		return QD_ENOMEM;
	diff->family = family_of(r);
	for (size_t i = 0; i < r->n; i++) {
		struct qd_layer_fit *fit = &diff->layers[diff->n++];
		*fit = fit_of(r, &r->pieces[i]);
		/* names lie in what is about to be closed */
		fit->name = qd_arena_strdup(&diff->arena, fit->name);
		fit->tensor = fit->tensor != NULL ? qd_arena_strdup(&diff->arena, fit->tensor) : NULL;
		if (fit->name == NULL)
			return QD_ENOMEM;
		diff->fits += fit->fits;
	}
	return QD_OK;
}

enum qd_status qd_adapter_compare(struct qd_adapter_diff *diff, const char *path, const struct qd_modules *modules)
{
	struct qd_adapter adapter = { 0 };
	struct qd_reading r = { .adapter = &adapter, .modules = modules };
	enum qd_status st;

	*diff = (struct qd_adapter_diff){ 0 };
	QD_TRY(st, qd_reading_open(&r, path));
	QD_TRY(st, qd_pieces_whole(&r));
	st = list(diff, &r);
out:
	qd_reading_release(&r);
	qd_adapter_release(&adapter);
	if (st != QD_OK)
		qd_adapter_diff_release(diff);
	return st;
}

void qd_adapter_diff_release(struct qd_adapter_diff *diff)
{
	qd_arena_release(&diff->arena);
	*diff = (struct qd_adapter_diff){ 0 };
}
