/*
 * AdamW (Loshchilov & Hutter 2019) over a list of named leaves, with the gradient's global norm clipped, bounds on what a parameter
 * may be and, when asked for, an exponential average of the parameters:
 *
 *   g <- g min(1, clip / |g|)     over all parameters together
 *   x <- AdamW's step, then min(max(x, low), high)
 *   ema <- d ema + (1 - d) x      d = min(decay, (1 + step)/(10 + step)), so that the first steps do not linger
 */
#include "distill/internal.h"

#include <math.h>
#include <stdlib.h>

static void free_param(struct qd_param *p)
{
	qt_free(p->x);
	qt_free(p->m);
	qt_free(p->v);
	qt_free(p->kept);
}

enum qd_status qd_optimizer_add(
	struct qd_optimizer *o, const struct qd_graph *g, qd_id value, const struct qd_tensor *start, double lr_scale)
{
	struct qd_param param = { .name = g->values[value].name,
		.value = value,
		.lr_scale = lr_scale,
		.decay = start->shape.rank > 1 ? 1 : 0,
		.low = -INFINITY,
		.high = INFINITY };
	enum qd_status st;

	QD_TRY(st, qd_grow(&o->params, &o->cap, o->n + 1, sizeof(*o->params)));
	QD_TRY(st, qt_from_tensor(start, &param.x));
	QD_TRY(st, qt_zeros(&start->shape, &param.m));
	QD_TRY(st, qt_zeros(&start->shape, &param.v));
	if (o->ema > 0 || o->keep_best)
		QD_TRY(st, qt_clone(param.x, &param.kept));
	QD_TRY(st, qt_requires_grad(param.x, true));
	o->params[o->n++] = param;
	return QD_OK;
out:
	free_param(&param);
	return st;
}

enum qd_status qd_param_bound(struct qd_param *p, float low, float high)
{
	enum qd_status st;

	p->low = low;
	p->high = high;
	QD_TRY(st, qt_clamp_(p->x, low, high));
	if (p->kept != NULL)
		st = qt_clamp_(p->kept, low, high);
out:
	return st;
}

/* The global norm before clipping; gradients are scaled when it is above the limit. */
static enum qd_status clip_gradients(struct qd_optimizer *o, double *norm)
{
	double sum = 0;
	enum qd_status st = QD_OK;

	for (size_t i = 0; st == QD_OK && i < o->n; i++) {
		double one = 0;
		st = qt_grad_norm2(o->params[i].x, &one);
		sum += one;
	}
	*norm = sqrt(sum);
	if (st != QD_OK || o->clip <= 0 || *norm <= o->clip)
		return st;
	for (size_t i = 0; st == QD_OK && i < o->n; i++)
		st = qt_scale_grad(o->params[i].x, o->clip / *norm);
	return st;
}

enum qd_status qd_optimizer_step(struct qd_optimizer *o, double lr, double *norm)
{
	double found = 0, decay = fmin(o->ema, (1.0 + (double)o->step) / (10.0 + (double)o->step));
	enum qd_status st = QD_OK;

	if (o->clip > 0 || norm != NULL)
		QD_TRY(st, clip_gradients(o, &found));
	o->step++;
	for (size_t i = 0; i < o->n; i++) {
		struct qd_param *p = &o->params[i];
		QD_TRY(st, qt_adamw(p->x, p->m, p->v, o->step, lr * p->lr_scale, o->beta1, o->beta2, o->eps,
				   o->weight_decay * p->decay));
		QD_TRY(st, qt_zero_grad(p->x));
		if (isfinite(p->low) || isfinite(p->high))
			QD_TRY(st, qt_clamp_(p->x, p->low, p->high));
		if (o->ema > 0)
			QD_TRY(st, qt_lerp_(p->kept, p->x, decay));
	}
	if (norm != NULL)
		*norm = found;
out:
	return st;
}

enum qd_status qd_optimizer_keep(struct qd_optimizer *o, double measure)
{
	enum qd_status st = QD_OK;

	o->best = measure;
	o->best_step = o->step;
	for (size_t i = 0; st == QD_OK && i < o->n; i++)
		st = qt_lerp_(o->params[i].kept, o->params[i].x, 0);
	return st;
}

qt_tensor qd_param_kept(const struct qd_param *p)
{
	return p->kept != NULL ? p->kept : p->x;
}

int64_t qd_optimizer_parameters(const struct qd_optimizer *o)
{
	int64_t sum = 0;
	for (size_t i = 0; i < o->n; i++) {
		struct qd_shape shape;
		if (qt_shape(o->params[i].x, &shape) == QD_OK)
			sum += qd_shape_elements(&shape);
	}
	return sum;
}

void qd_optimizer_release(struct qd_optimizer *o)
{
	for (size_t i = 0; i < o->n; i++)
		free_param(&o->params[i]);
	free(o->params);
	*o = (struct qd_optimizer){ 0 };
}
