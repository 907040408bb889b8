/*
 * `quad distill`: one adapter learns to live with a profile. Per slot, with the shared encodings fixed,
 *
 *   student   y = Q(W) x + Q(up) (gain0 exp(s) * (Q(down) x))     every activation on its grid too, Q straight through
 *   trained   down, up, s        loss = |student - teacher|^2 / var(teacher) + w * objective
 *
 * Steps of down and up are measured in steps of an 8-bit grid over the shared range (lr_scale = high * scale / 127): AdamW moves a
 * number by about the learning rate, so 0.3 is a third of a rounding step whatever the slot's scale is. The gain is trained through
 * its logarithm, so that its steps are relative and its sign stays. After each step down and up are clamped to the grid's range:
 * what lies outside would get no gradient back. Components that are zero in down, up and gain have no gradient and stay zero, so
 * padding stays padding.
 *
 * How far there is to go depends on the start. Where the fitted update is right to 20 dB or better, rounding is to be improved:
 * learning rates 0.3 and 0.003. Below that most of it was clipped or lost under encodings that are not its own, and down, up and
 * gain must find other places: 4 and 0.1.
 *
 * The result holds the rounded numbers themselves, which fit the same grid again without changing.
 */
#include "distill/internal.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct qd_distill_options qd_distill_options_default(void)
{
	struct qd_distill_options o = { .loop = qd_loop_options_default(), .lr_gain = -1, .trajectory_steps = 8 };

	o.loop.steps = 120;
	o.loop.lr = 0;
	o.loop.beta2 = 0.99;
	o.loop.eps = 1e-12;
	o.loop.weight_decay = 0;
	o.loop.clip = 0;
	return o;
}

/* One slot's parameters. */
struct trained {
	qt_tensor start; /* gain0 [R]; NULL where nothing is trained */
	size_t first;    /* down, up and s are parameters first, first + 1 and first + 2 */
};

struct distiller {
	struct qd_loop loop;
	const struct qd_profile *profile;
	const struct qd_adapter *adapter;
	const struct qd_distill_options *options;
	struct qd_distill_result *result;
	struct qd_noising noising;
	struct qd_net net;
	struct qd_runner student, teacher; /* simulated, with gradients; float */
	struct qd_fitted fitted;
	double lr, lr_gain;    /* as given, or by the start */
	struct trained *slots; /* as net.slots */
	struct qd_pool pool;
	struct qd_tensor wanted; /* [B,O,H,W] teacher's outputs of a batch */
	float *out, *back;       /* a batch's outputs and the gradient there */
};

/* ---- parameters ---- */

/* down or up of a slot, within the range of its grid, bound to the student. */
static enum qd_status add_matrix(struct distiller *d, qd_id input, const float *data)
{
	const struct qd_value *value = &d->net.graph.values[input];
	const struct qd_encoding *e = d->net.graph.values[input].encoding;
	struct qd_tensor start = qd_tensor_view(NULL, QD_F32, value->shape, data);
	struct qd_optimizer *o = &d->loop.optimizer;
	float low, high;
	enum qd_status st;

	if (e == NULL)
		return qd_fail(QD_EINPUT, "the profile has no encoding for '%s'", value->name);
	low = (qd_encoding_low(e) - e->zero_point[0]) * e->scale[0];
	high = (qd_encoding_high(e) - e->zero_point[0]) * e->scale[0];
	QD_TRY(st, qd_optimizer_add(o, &d->net.graph, input, &start, (double)(high - low) / 255 * d->lr));
	QD_TRY(st, qd_param_bound(&o->params[o->n - 1], low, high));
	if (d->student.exec != NULL)
		QD_TRY(st, qd_exec_bind(d->student.exec, input, o->params[o->n - 1].x));
out:
	return st;
}

static enum qd_status add_gain(struct distiller *d, size_t slot)
{
	qd_id input = d->net.slots.items[slot].gain;
	const struct qd_value *value = &d->net.graph.values[input];
	struct qd_tensor start = qd_tensor_view(NULL, QD_F32, value->shape, d->fitted.slots[slot].gain), zeros = { 0 };
	enum qd_status st;

	QD_TRY(st, qt_from_tensor(&start, &d->slots[slot].start));
	QD_TRY(st, qd_tensor_new(&zeros, NULL, QD_F32, &value->shape));
	QD_TRY(st, qd_optimizer_add(&d->loop.optimizer, &d->net.graph, input, &zeros, d->lr_gain));
out:
	qd_tensor_release(&zeros);
	return st;
}

static enum qd_status add_slots(struct distiller *d)
{
	enum qd_status st = QD_OK;

	d->slots = calloc(d->net.slots.n + 1, sizeof(*d->slots));
	if (d->slots == NULL)
		return qd_fail(QD_ENOMEM, "out of memory for %zu slots", d->net.slots.n);
	for (size_t i = 0; i < d->net.slots.n; i++) {
		d->slots[i].first = d->loop.optimizer.n;
		if (d->fitted.slots[i].rank == 0)
			continue;
		QD_TRY(st, add_matrix(d, d->net.slots.items[i].down, d->fitted.slots[i].down));
		QD_TRY(st, add_matrix(d, d->net.slots.items[i].up, d->fitted.slots[i].up));
		QD_TRY(st, add_gain(d, i));
	}
out:
	return st;
}

/* gain0 exp(s) of a slot. */
static enum qd_status gain_of(const struct distiller *d, size_t slot, qt_tensor s, qt_tensor *gain)
{
	qt_tensor factor = NULL;
	enum qd_status st;

	QD_TRY(st, qt_unary(QT_EXP, s, &factor));
	QD_TRY(st, qt_binary(QT_MUL, d->slots[slot].start, factor, gain));
out:
	qt_free(factor);
	return st;
}

static enum qd_status read_gain(const struct distiller *d, size_t slot, qt_tensor s, float *out)
{
	qt_tensor gain = NULL;
	enum qd_status st = gain_of(d, slot, s, &gain);

	if (st == QD_OK)
		st = qt_read(gain, out, (size_t)d->net.slots.items[slot].rank * sizeof(*out));
	qt_free(gain);
	return st;
}

/* For the run that follows. */
static enum qd_status bind_gains(struct distiller *d)
{
	enum qd_status st = QD_OK;

	for (size_t i = 0; st == QD_OK && i < d->net.slots.n; i++) {
		qt_tensor gain = NULL;
		if (d->slots[i].start == NULL)
			continue;
		st = gain_of(d, i, d->loop.optimizer.params[d->slots[i].first + 2].x, &gain);
		if (st == QD_OK)
			st = qd_exec_bind(d->student.exec, d->net.slots.items[i].gain, gain);
		qt_free(gain);
	}
	return st;
}

/* ---- preparing ---- */

static enum qd_status choose_rates(struct distiller *d)
{
	double db = 0;
	enum qd_status st = qd_update_sqnr(d->adapter, &d->fitted, d->profile, &db);

	d->lr = d->options->loop.lr > 0 ? d->options->loop.lr : db < 20 ? 4 : 0.3;
	d->lr_gain = d->options->lr_gain >= 0 ? d->options->lr_gain : db < 20 ? 0.1 : 0.003;
	return st;
}

static enum qd_status build_net(struct distiller *d, const struct qd_model *model)
{
	struct qd_sizes sizes = qd_dataset_sizes(&d->loop.data, d->options->loop.batch);
	enum qd_status st;

	QD_TRY(st, qd_net_build(&d->net, model, &sizes, &d->profile->slots));
	QD_TRY(st, qd_profile_apply(d->profile, &d->net));
	QD_TRY(st, qd_prefix(qd_fit_adapter(&d->fitted, d->adapter, d->profile, d->profile->options.align, true), "adapter '%s'",
			   d->adapter->name));
	st = choose_rates(d);
out:
	return st;
}

/* In the engine; on libtorch's operators where it is asked for, on another device, or where the engine has no gradient. */
static enum qd_status open_student(struct distiller *d)
{
	bool *trained = calloc(d->net.graph.n_values + 1, sizeof(*trained));
	const struct qd_run_options options = {
		.engine = { .simulate = true, .trained = trained, .coarse = !d->options->exact_gradients },
		.libtorch = d->options->libtorch
	};
	enum qd_status st;

	if (trained == NULL)
		return qd_fail(QD_ENOMEM, "out of memory");
	for (size_t i = 0; i < d->net.slots.n; i++) {
		const struct qd_slot *slot = &d->net.slots.items[i];
		if (d->fitted.slots[i].rank > 0)
			trained[slot->down] = trained[slot->up] = trained[slot->gain] = true;
	}
	QD_TRY(st, qd_runner_open(&d->student, &d->net.graph, &options));
	QD_TRY(st, qd_runner_feed_fitted(&d->student, &d->net.slots, &d->fitted));
	QD_TRY(st, add_slots(d));
out:
	free(trained);
	return st;
}

static enum qd_status make_pool(struct distiller *d)
{
	const struct qd_distill_options *o = d->options;
	struct qd_teacher teacher = { &d->loop.data, &d->noising, &d->teacher, o->trajectory, o->trajectory_steps, o->loop.seed };
	const struct qd_value *out = &d->net.graph.values[d->net.graph.outputs[0]];
	int64_t taken = o->loop.steps * o->loop.batch, all = taken < 64 ? 64 : taken < 512 ? taken : 512;
	double start = qd_now();
	enum qd_status st;

	/* Its weights are let go before the student's come. */
	QD_TRY(st, qd_runner_open(&d->teacher, &d->net.graph, NULL));
	QD_TRY(st, qd_runner_feed_adapter(&d->teacher, &d->net.slots, d->adapter));
	QD_TRY(st, qd_pool_make(&d->pool, &teacher, &d->loop.batch, o->pool, all));
	qd_runner_release(&d->teacher);
	d->result->teacher_seconds = qd_now() - start;
	d->result->draws = d->pool.n_train;
	d->result->held_out = d->pool.n - d->pool.n_train;
	QD_TRY(st, qd_tensor_new(&d->wanted, "teacher", QD_F32, &out->shape));
	d->out = malloc(2 * (size_t)qd_shape_elements(&out->shape) * sizeof(*d->out));
	if (d->out == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory for a batch's outputs"));
	d->back = d->out + qd_shape_elements(&out->shape);
out:
	return st;
}

/* ---- the objective ---- */

static enum qd_status identify_distillation(void *context, FILE *text)
{
	const struct distiller *d = context;
	char hash[QD_HASH_TEXT];
	enum qd_status st = qd_profile_run_hash(d->profile, hash);

	if (st != QD_OK)
		return st;
	fprintf(text, "profile %s\n", hash);
	fprintf(text, "adapter %s %s\n", d->adapter->hash, d->adapter->name);
	fprintf(text, "distill %a %a %a %" PRId64 " %" PRId64 "\n", d->lr, d->lr_gain, d->options->task_weight, d->pool.n_train,
		d->pool.n);
	fprintf(text, "gradients %s\n", d->student.engine == NULL ? "torch" : d->options->exact_gradients ? "f32" : "bf16");
	if (d->options->trajectory != NULL) {
		qd_schedule_hash(&d->loop.schedule, hash);
		fprintf(text, "trajectory %s %d %s\n", d->options->trajectory, d->options->trajectory_steps, hash);
	}
	return QD_OK;
}

/* The present parameters, into the fitted tensors and from there to the student. */
static enum qd_status feed_student(struct distiller *d)
{
	enum qd_status st = QD_OK;

	for (size_t i = 0; i < d->net.slots.n; i++) {
		const struct qd_slot *slot = &d->net.slots.items[i];
		const struct qd_param *params = d->loop.optimizer.params + d->slots[i].first;
		struct qd_fitted_slot *f = &d->fitted.slots[i];
		if (d->slots[i].start == NULL)
			continue;
		QD_TRY(st, qt_read(params[0].x, f->down, (size_t)(slot->rank * slot->in * slot->kh * slot->kw) * sizeof(float)));
		QD_TRY(st, qt_read(params[1].x, f->up, (size_t)(slot->rank * slot->out) * sizeof(float)));
		QD_TRY(st, read_gain(d, i, params[2].x, f->gain));
		QD_TRY(st, qd_runner_feed_slot(&d->student, slot, f->down, f->up, f->gain, f->bias));
	}
out:
	return st;
}

static const struct qd_value *output_of(const struct distiller *d)
{
	return &d->net.graph.values[d->net.graph.outputs[0]];
}

/* The student's answer to the draws `draw` [B], in d->out; the teacher's is in d->wanted. `y` is kept where libtorch answers. */
static enum qd_status run_student(struct distiller *d, const int64_t *draw, qt_tensor *y)
{
	size_t n = (size_t)qd_shape_elements(&output_of(d)->shape);
	enum qd_status st;

	*y = NULL;
	QD_TRY(st, qd_pool_take(&d->pool, &d->loop.data, draw, &d->loop.batch, d->wanted.data));
	QD_TRY(st, qd_batch_feed(&d->loop.batch, &d->student));
	if (d->student.exec != NULL) {
		QD_TRY(st, bind_gains(d));
		QD_TRY(st, qd_exec_run(d->student.exec, y));
		QD_TRY(st, qt_read(*y, d->out, n * sizeof(*d->out)));
	} else {
		QD_TRY(st, qd_runner_run(&d->student));
		QD_TRY(st, qd_runner_read(&d->student, output_of(d)->name, n, d->out));
	}
out:
	return st;
}

static double mean_square(const float *a, const float *b, size_t n)
{
	double sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
	return sum / (double)n;
}

/* Mean squared error of the quantized student on the draws that judge. */
static enum qd_status held_out_error(void *context, double *mean)
{
	struct distiller *d = context;
	int64_t batch = d->loop.batch.n;
	double sum = 0;
	qt_tensor y = NULL;
	enum qd_status st = QD_OK;

	if (d->student.engine != NULL)
		QD_TRY(st, feed_student(d));
	for (int64_t first = d->pool.n_train; first < d->pool.n; first += batch) {
		for (int64_t b = 0; b < batch; b++)
			d->loop.index[b] = first + b;
		QD_TRY(st, run_student(d, d->loop.index, &y));
		qt_free(y);
		y = NULL;
		sum += mean_square(d->out, d->wanted.data, (size_t)qd_shape_elements(&output_of(d)->shape)) * (double)batch;
	}
	*mean = sum / (double)(d->pool.n - d->pool.n_train);
out:
	qt_free(y);
	return st;
}

/*
 * loss = |y - teacher|^2 / (n variance) + weight |y - target|^2 / n, and its gradient at y in d->back:
 *
 *   2 / n ((y - teacher) / variance + weight (y - target))
 */
static double loss_at_output(struct distiller *d)
{
	size_t n = (size_t)qd_shape_elements(&output_of(d)->shape);
	bool task = d->options->task_weight > 0 && d->loop.data.has[QD_FIELD_LATENTS];
	const float *teacher = d->wanted.data, *target = d->loop.batch.target.data;
	double by = 1 / d->pool.variance, weight = task ? d->options->task_weight : 0, loss;

	loss = by * mean_square(d->out, teacher, n);
	if (task)
		loss += weight * mean_square(d->out, target, n);
	for (size_t i = 0; i < n; i++) {
		double g = by * ((double)d->out[i] - (double)teacher[i]);
		if (task)
			g += weight * ((double)d->out[i] - (double)target[i]);
		d->back[i] = (float)(2 * g / (double)n);
	}
	return loss;
}

/* The gradient of one input, put to its parameter. By its logarithm that of a gain is as many times the gain. */
static enum qd_status take_gradient(struct distiller *d, qd_id input, const struct qd_param *p, const float *gain)
{
	size_t n = (size_t)qd_shape_elements(&d->net.graph.values[input].shape);
	float *g = malloc((n + 1) * sizeof(*g));
	enum qd_status st;

	if (g == NULL)
		return qd_fail(QD_ENOMEM, "out of memory for a gradient");
	QD_TRY(st, qd_engine_gradient(d->student.engine, input, g));
	for (size_t i = 0; gain != NULL && i < n; i++)
		g[i] *= gain[i];
	QD_TRY(st, qt_put_grad(p->x, g));
out:
	free(g);
	return st;
}

static enum qd_status take_gradients(struct distiller *d)
{
	enum qd_status st = QD_OK;

	for (size_t i = 0; i < d->net.slots.n; i++) {
		const struct qd_slot *slot = &d->net.slots.items[i];
		const struct qd_param *params = d->loop.optimizer.params + d->slots[i].first;
		if (d->slots[i].start == NULL)
			continue;
		QD_TRY(st, take_gradient(d, slot->down, &params[0], NULL));
		QD_TRY(st, take_gradient(d, slot->up, &params[1], NULL));
		QD_TRY(st, take_gradient(d, slot->gain, &params[2], d->fitted.slots[i].gain));
	}
out:
	return st;
}

/* Backward through libtorch, from sum(y gradient), whose gradient at y is that one. */
static enum qd_status go_back_in_libtorch(struct distiller *d, qt_tensor y)
{
	struct qd_tensor view = qd_tensor_view(NULL, QD_F32, output_of(d)->shape, d->back);
	qt_tensor back = NULL, product = NULL, sum = NULL;
	enum qd_status st;

	QD_TRY(st, qt_from_tensor(&view, &back));
	QD_TRY(st, qt_binary(QT_MUL, y, back, &product));
	QD_TRY(st, qt_reduce_sum(product, 0, NULL, false, &sum));
	QD_TRY(st, qt_backward(sum));
out:
	qt_free(back);
	qt_free(product);
	qt_free(sum);
	return st;
}

static enum qd_status learn(void *context, int64_t step, const int64_t *index, double *loss)
{
	struct distiller *d = context;
	qt_tensor y = NULL;
	enum qd_status st = QD_OK;

	(void)step;
	if (d->student.engine != NULL)
		QD_TRY(st, feed_student(d));
	QD_TRY(st, run_student(d, index, &y));
	*loss = loss_at_output(d);
	if (d->student.engine != NULL) {
		QD_TRY(st, qd_engine_backward(d->student.engine, 0, d->back));
		QD_TRY(st, take_gradients(d));
	} else {
		QD_TRY(st, go_back_in_libtorch(d, y));
	}
out:
	qt_free(y);
	return st;
}

static double decibels(const struct distiller *d, double error)
{
	return error > 0 ? 10 * log10(d->pool.energy / error) : INFINITY;
}

static void note_best(const void *context, char *text, size_t size)
{
	const struct distiller *d = context;
	snprintf(text, size, "loss %.3e best %.2f dB", d->loop.loss, decibels(d, d->loop.optimizer.best));
}

/* ---- writing ---- */

/* The best state of down or up, rounded, over the fitted tensor. */
static enum qd_status read_matrix(const struct distiller *d, const struct qd_param *p, float *out)
{
	const struct qd_shape *shape = &d->net.graph.values[p->value].shape;
	enum qd_status st = qt_read(qd_param_kept(p), out, (size_t)qd_shape_elements(shape) * sizeof(*out));

	if (st == QD_OK)
		qd_quantize(d->net.graph.values[p->value].encoding, shape, out, NULL, out);
	return st;
}

static enum qd_status write_distilled(void *context)
{
	struct distiller *d = context;
	struct qd_adapter out = { 0 };
	char id[QD_HASH_TEXT];
	enum qd_status st;

	for (size_t i = 0; i < d->net.slots.n; i++) {
		const struct qd_param *params = d->loop.optimizer.params + d->slots[i].first;
		if (d->slots[i].start == NULL)
			continue;
		QD_TRY(st, read_matrix(d, &params[0], d->fitted.slots[i].down));
		QD_TRY(st, read_matrix(d, &params[1], d->fitted.slots[i].up));
		QD_TRY(st, read_gain(d, i, qd_param_kept(&params[2]), d->fitted.slots[i].gain));
	}
	QD_TRY(st, qd_profile_encodings_id(d->profile, id));
	QD_TRY(st, qd_fitted_to_adapter(&d->fitted, d->profile, d->adapter->name, &out));
	out.encodings_id = id;
	QD_TRY(st, qd_adapter_write(&out, d->options->loop.output, QD_F32, true, d->options->loop.force));
out:
	qd_adapter_release(&out);
	return st;
}

/* ---- the whole ---- */

static const struct qd_objective taught = { .name = "distill",
	.keep_best = true,
	.identify = identify_distillation,
	.learn = learn,
	.measure = held_out_error,
	.note = note_best,
	.write = write_distilled };

static void release_distiller(struct distiller *d)
{
	for (size_t i = 0; d->slots != NULL && i < d->net.slots.n; i++)
		qt_free(d->slots[i].start);
	free(d->slots);
	qd_loop_release(&d->loop);
	qd_runner_release(&d->student);
	qd_runner_release(&d->teacher);
	qd_fitted_release(&d->fitted);
	qd_net_release(&d->net);
	qd_pool_release(&d->pool);
	qd_tensor_release(&d->wanted);
	free(d->out);
}

enum qd_status qd_distill(const struct qd_model *model, const struct qd_profile *profile, const struct qd_adapter *adapter,
	const char *const *data, size_t n_data, const struct qd_distill_options *options, struct qd_distill_result *result)
{
	struct distiller d = { .profile = profile, .adapter = adapter, .options = options, .result = result };
	struct qd_output probe = { 0 };
	enum qd_status st;

	*result = (struct qd_distill_result){ 0 };
	QD_TRY(st, qd_output_open(&probe, options->loop.output, options->loop.force));
	qd_output_release(&probe);
	QD_TRY(st, qd_profile_check_base(profile, model));
	QD_TRY(st, qd_loop_open(&d.loop, &taught, &d, &options->loop, model, data, n_data));
	d.noising = (struct qd_noising){ .schedule = &d.loop.schedule };
	QD_TRY(st, build_net(&d, model));
	QD_TRY(st, make_pool(&d));
	QD_TRY(st, open_student(&d));
	QD_TRY(st, qd_loop_run(&d.loop, d.pool.n_train));
	result->parameters = qd_optimizer_parameters(&d.loop.optimizer);
	result->resumed_at = d.loop.resumed_at;
	result->best_step = d.loop.optimizer.best_step;
	result->before = d.loop.start / d.pool.variance;
	result->before_db = decibels(&d, d.loop.start);
	result->after = d.loop.optimizer.best / d.pool.variance;
	result->after_db = decibels(&d, d.loop.optimizer.best);
	result->seconds = d.loop.seconds;
out:
	release_distiller(&d);
	return st;
}
