/*
 * An adapter's tensors as the exported graph takes them, per slot: "<path>.lora_down" [R,I] or [R,I,kh,kw], ".lora_up" [O,R] or
 * [O,R,1,1] as codes of the shared encodings, ".lora_gain" [R] float32 (codes where the profile gives it an encoding), in a biased
 * slot ".lora_bias" [O] float32. A slot that the adapter does not fill is zeros.
 */
#include "export/file/file.h"

#include <string.h>

/* Adds one tensor: `real` as codes of `e`, or as it is where that is NULL. */
static enum qd_status add_tensor(struct qd_adapter_tensors *out, const struct qd_slot *slot, enum qd_lora_tensor tensor,
	struct qd_shape shape, const float *real, const struct qd_encoding *e, bool as_float)
{
	struct qd_tensor *t = &out->items[out->n];

	*t = (struct qd_tensor){ .name = qd_arena_strf(&out->arena, "%s%s", slot->path, qd_lora_suffix(tensor)),
		.dtype = e == NULL || as_float ? QD_F32 : qd_encoding_dtype(e),
		.shape = shape };
	if (t->name == NULL)
		return QD_ENOMEM;
	if (t->dtype == QD_DTYPE_COUNT)
		return qd_fail(QD_EUNSUPPORTED, "tensor '%s' has %d bits: codes have at most 16", t->name, e->bits);
	t->bytes = (size_t)qd_shape_elements(&shape) * qd_dtype_bits(t->dtype) / 8;
	t->data = qd_arena_alloc(&out->arena, t->bytes);
	if (t->data == NULL)
		return QD_ENOMEM;
	out->n++;
	if (t->dtype != QD_F32)
		return qd_encode(e, &shape, real, t->data);
	if (e != NULL)
		qd_quantize(e, &shape, real, NULL, t->data);
	else
		memcpy(t->data, real, t->bytes);
	return QD_OK;
}

static enum qd_status add_slot(struct qd_adapter_tensors *out, const struct qd_slot *slot, const struct qd_slot_encodings *e,
	const struct qd_fitted_slot *fitted, bool as_float)
{
	struct qd_shape down = QD_SHAPE(slot->rank, slot->in, slot->kh, slot->kw), up = QD_SHAPE(slot->out, slot->rank, 1, 1);
	enum qd_status st;

	down.rank = up.rank = slot->conv ? 4 : 2;
	QD_TRY(st, add_tensor(out, slot, QD_LORA_DOWN, down, fitted->down, e->down, as_float));
	QD_TRY(st, add_tensor(out, slot, QD_LORA_UP, up, fitted->up, e->up, as_float));
	QD_TRY(st, add_tensor(out, slot, QD_LORA_GAIN, QD_SHAPE(slot->rank), fitted->gain, e->gain, as_float));
	if (slot->biased)
		QD_TRY(st, add_tensor(out, slot, QD_LORA_BIAS, QD_SHAPE(slot->out), fitted->bias, NULL, as_float));
out:
	return st;
}

enum qd_status qd_adapter_tensors_make(
	struct qd_adapter_tensors *out, const struct qd_fitted *fitted, const struct qd_profile *profile, bool as_float)
{
	enum qd_status st = QD_OK;

	memset(out, 0, sizeof(*out));
	out->items = qd_arena_array(&out->arena, QD_LORA_NONE * profile->slots.n + 1, sizeof(*out->items));
	if (out->items == NULL)
		return QD_ENOMEM;
	for (size_t i = 0; i < profile->slots.n; i++)
		QD_TRY(st, add_slot(out, &profile->slots.items[i], &profile->slot_encodings[i], &fitted->slots[i], as_float));
out:
	if (st != QD_OK)
		qd_adapter_tensors_release(out);
	return st;
}

void qd_adapter_tensors_release(struct qd_adapter_tensors *tensors)
{
	qd_arena_release(&tensors->arena);
	memset(tensors, 0, sizeof(*tensors));
}
