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
	return (struct qd_distill_options){
		.steps = 120, .batch = 16, .lr_gain = -1, .schedule = QD_LR_COSINE, .trajectory_steps = 8
	};
}

/* One slot's parameters; all NULL where nothing is trained. */
struct trained {
	qt_tensor start;       /* gain0 [R] */
	qt_tensor factor;      /* s [R], a leaf of the optimizer */
	float low[2], high[2]; /* ranges of down and up */
	size_t first;          /* down, up and s are parameters first, first + 1 and first + 2 */
};

struct distiller {
	const struct qd_model *model;
	const struct qd_profile *profile;
	const struct qd_adapter *adapter;
	const struct qd_distill_options *options;
	struct qd_distill_result *result;
	struct qd_dataset data;
	struct qd_schedule schedule;
	struct qd_objective objective;
	struct qd_net net;
	struct qd_runner student, teacher;
	struct qd_fitted fitted;
	double lr, lr_gain;    /* as given, or by the start */
	struct trained *slots; /* as net.slots */
	struct qd_optimizer optimizer;
	struct qd_batch batch;
	struct qd_shuffle shuffle;
	struct qd_pool pool;
	int64_t *draw;           /* [B] */
	struct qd_tensor wanted; /* [B,O,H,W] teacher's outputs of a batch */
	qt_tensor scale_loss;    /* 1 / variance */
	qt_tensor scale_task;    /* task weight, or NULL */
	char run[QD_HASH_TEXT];
	char *checkpoint;
};

/* ---- parameters ---- */

static enum qd_status add_leaf(
	struct distiller *d, const char *name, const struct qd_shape *shape, const float *data, double lr_scale, qt_tensor *leaf)
{
	struct qd_tensor view = qd_tensor_view(name, QD_F32, *shape, data);
	enum qd_status st = qt_from_tensor(&view, leaf);

	return st == QD_OK ? qd_optimizer_add(&d->optimizer, name, *leaf, lr_scale) : st;
}

/* down (which = 0) or up (1) of a slot: clamped to the grid's range and bound. */
static enum qd_status add_matrix(struct distiller *d, size_t slot, int which)
{
	const struct qd_slot *s = &d->net.slots.items[slot];
	qd_id input = which == 0 ? s->down : s->up;
	const struct qd_value *value = &d->net.graph.values[input];
	const struct qd_encoding *e = d->net.graph.values[input].encoding;
	struct trained *t = &d->slots[slot];
	qt_tensor leaf = NULL;
	enum qd_status st;

	if (e == NULL)
		QD_TRY(st, qd_fail(QD_EINPUT, "the profile has no encoding for '%s'", value->name));
	t->low[which] = (qd_encoding_low(e) - e->zero_point[0]) * e->scale[0];
	t->high[which] = (qd_encoding_high(e) - e->zero_point[0]) * e->scale[0];
	QD_TRY(st, add_leaf(d, value->name, &value->shape, which == 0 ? d->fitted.slots[slot].down : d->fitted.slots[slot].up,
			   (double)(t->high[which] - t->low[which]) / 255 * d->lr, &leaf));
	QD_TRY(st, qt_clamp_(leaf, t->low[which], t->high[which]));
	if (d->optimizer.keep_best)
		QD_TRY(st, qt_clamp_(d->optimizer.params[d->optimizer.n - 1].kept, t->low[which], t->high[which]));
	QD_TRY(st, qd_exec_bind(d->student.exec, input, leaf));
out:
	qt_free(leaf);
	return st;
}

static enum qd_status add_gain(struct distiller *d, size_t slot)
{
	const struct qd_slot *s = &d->net.slots.items[slot];
	const struct qd_value *value = &d->net.graph.values[s->gain];
	struct qd_tensor start = qd_tensor_view(NULL, QD_F32, value->shape, d->fitted.slots[slot].gain);
	float *zeros = calloc((size_t)s->rank, sizeof(*zeros));
	enum qd_status st;

	if (zeros == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory for '%s'", value->name));
	QD_TRY(st, qt_from_tensor(&start, &d->slots[slot].start));
	QD_TRY(st, add_leaf(d, value->name, &value->shape, zeros, d->lr_gain, &d->slots[slot].factor));
out:
	free(zeros);
	return st;
}

static enum qd_status add_slots(struct distiller *d)
{
	enum qd_status st = QD_OK;

	d->slots = calloc(d->net.slots.n + 1, sizeof(*d->slots));
	if (d->slots == NULL)
		return qd_fail(QD_ENOMEM, "out of memory for %zu slots", d->net.slots.n);
	for (size_t i = 0; i < d->net.slots.n; i++) {
		d->slots[i].first = d->optimizer.n;
		if (d->fitted.slots[i].rank == 0)
			continue;
		QD_TRY(st, add_matrix(d, i, 0));
		QD_TRY(st, add_matrix(d, i, 1));
		QD_TRY(st, add_gain(d, i));
	}
out:
	return st;
}

/* gain0 exp(s), for the run that follows. */
static enum qd_status bind_gain(struct distiller *d, size_t slot, qt_tensor log_factor)
{
	qt_tensor factor = NULL, gain = NULL;
	enum qd_status st;

	QD_TRY(st, qt_unary(QT_EXP, log_factor, &factor));
	QD_TRY(st, qt_binary(QT_MUL, d->slots[slot].start, factor, &gain));
	QD_TRY(st, qd_exec_bind(d->student.exec, d->net.slots.items[slot].gain, gain));
out:
	qt_free(factor);
	qt_free(gain);
	return st;
}

static enum qd_status bind_gains(struct distiller *d)
{
	enum qd_status st = QD_OK;

	for (size_t i = 0; st == QD_OK && i < d->net.slots.n; i++)
		if (d->slots[i].factor != NULL)
			st = bind_gain(d, i, d->slots[i].factor);
	return st;
}

static enum qd_status clamp(struct distiller *d)
{
	enum qd_status st = QD_OK;

	for (size_t i = 0; i < d->net.slots.n; i++)
		for (size_t which = 0; d->slots[i].factor != NULL && which < 2; which++)
			QD_TRY(st, qt_clamp_(d->optimizer.params[d->slots[i].first + which].x, d->slots[i].low[which],
					   d->slots[i].high[which]));
out:
	return st;
}

/* ---- preparing ---- */

static enum qd_status choose_rates(struct distiller *d)
{
	double db = 0;
	enum qd_status st = qd_update_sqnr(d->adapter, &d->fitted, d->profile, &db);

	d->lr = d->options->lr > 0 ? d->options->lr : db < 20 ? 4 : 0.3;
	d->lr_gain = d->options->lr_gain >= 0 ? d->options->lr_gain : db < 20 ? 0.1 : 0.003;
	return st;
}

static enum qd_status build(struct distiller *d)
{
	struct qd_sizes sizes = qd_dataset_sizes(&d->data, d->options->batch);
	enum qd_status st;

	QD_TRY(st, qd_net_build(&d->net, d->model, &sizes, &d->profile->slots));
	QD_TRY(st, qd_profile_apply(d->profile, &d->net));
	QD_TRY(st, qd_runner_open(&d->teacher, &d->net.graph, NULL));
	QD_TRY(st, qd_runner_feed_adapter(&d->teacher, &d->net.slots, d->adapter));
	QD_TRY(st, qd_runner_open(&d->student, &d->net.graph, &qd_sim_options));
	QD_TRY(st, qd_fit_adapter(&d->fitted, d->adapter, d->profile, d->profile->options.align));
	QD_TRY(st, choose_rates(d));
	QD_TRY(st, qd_runner_feed_fitted(&d->student, &d->net.slots, &d->fitted));
	QD_TRY(st, add_slots(d));
out:
	return st;
}

/* All that a profile says of the numbers: one line per tensor. */
static void print_profile(FILE *f, const struct qd_profile *profile)
{
	char scale[QD_HASH_TEXT], zero[QD_HASH_TEXT];

	for (size_t i = 0; i < profile->n_entries; i++) {
		const struct qd_encoding *e = profile->entries[i].encoding;
		qd_hash_bytes(e->scale, e->n * sizeof(*e->scale), scale);
		qd_hash_bytes(e->zero_point, e->n * sizeof(*e->zero_point), zero);
		fprintf(f, "%s %d %d %d %s %s\n", profile->entries[i].name, e->bits, e->is_signed, e->axis, scale, zero);
	}
}

/* The run's identity: everything that shapes its bytes, but not where they go nor how often it saves. */
static enum qd_status identify(struct distiller *d)
{
	const struct qd_distill_options *o = d->options;
	char hash[QD_HASH_TEXT], *text = NULL;
	size_t bytes = 0;
	FILE *f = open_memstream(&text, &bytes);
	enum qd_status st = QD_OK;

	if (f == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory for the options' text"));
	print_profile(f, d->profile);
	fprintf(f, "distill 1 %s %s %s %d ", d->profile->base_hash, d->adapter->hash, d->adapter->name,
		(int)d->profile->options.align);
	fprintf(f, "%" PRId64 " %" PRId64 " %" PRId64 " %a %a %a %d %" PRId64 " %s %d %" PRId64 " %" PRIu64, o->steps, o->batch,
		o->pool, d->lr, d->lr_gain, o->task_weight, (int)o->schedule, o->warmup,
		o->trajectory != NULL ? o->trajectory : "-", o->trajectory_steps, o->evaluate_every, o->seed);
	QD_TRY(st, qd_dataset_hash(&d->data, hash));
	fprintf(f, " %s", hash);
	fflush(f);
	qd_hash_bytes(text, bytes, d->run);
out:
	if (f != NULL)
		fclose(f);
	free(text);
	return st;
}

static enum qd_status make_pool(struct distiller *d)
{
	const struct qd_distill_options *o = d->options;
	struct qd_teacher teacher = { &d->data, &d->objective, &d->net.graph, d->teacher.exec, o->trajectory, o->trajectory_steps,
		o->seed };
	const struct qd_value *out = &d->net.graph.values[d->net.graph.outputs[0]];
	int64_t draws = o->pool > 0 ? o->pool : o->steps * o->batch < 512 ? o->steps * o->batch : 512;
	double start = qd_now();
	enum qd_status st;

	qt_set_grad(false);
	QD_TRY(st, qd_pool_make(&d->pool, &teacher, &d->batch, draws < 64 ? 64 : draws));
	d->result->teacher_seconds = qd_now() - start;
	d->result->draws = d->pool.n_train;
	d->result->held_out = d->pool.n - d->pool.n_train;
	QD_TRY(st, qd_shuffle_init(&d->shuffle, d->pool.n_train, o->seed));
	QD_TRY(st, qd_tensor_new(&d->wanted, "teacher", QD_F32, &out->shape));
	QD_TRY(st, qt_full(&QD_SHAPE(1), (float)(1 / d->pool.variance), &d->scale_loss));
	if (o->task_weight > 0 && d->data.has[QD_FIELD_LATENTS])
		QD_TRY(st, qt_full(&QD_SHAPE(1), (float)o->task_weight, &d->scale_task));
out:
	qt_set_grad(true);
	return st;
}

static enum qd_status prepare(struct distiller *d, const char *const *data, size_t n_data)
{
	const struct qd_distill_options *o = d->options;
	struct qd_output probe = { 0 };
	enum qd_status st;

	d->optimizer = (struct qd_optimizer){ .beta1 = 0.9, .beta2 = 0.99, .eps = 1e-12, .keep_best = true };
	QD_TRY(st, qd_output_open(&probe, o->output, o->force));
	qd_output_release(&probe);
	QD_TRY(st, qd_profile_check_base(d->profile, d->model));
	QD_TRY(st, qd_dataset_open(&d->data, data, n_data, &d->model->config, QD_DATA_TRAIN));
	QD_TRY(st, qd_schedule_read(&d->schedule, d->model->root));
	d->objective = (struct qd_objective){ .schedule = &d->schedule };
	QD_TRY(st, build(d));
	QD_TRY(st, qd_batch_init(&d->batch, &d->data, o->batch));
	d->draw = calloc((size_t)o->batch, sizeof(*d->draw));
	d->checkpoint = qd_checkpoint_path(o->output);
	if (d->draw == NULL || d->checkpoint == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory for a batch"));
	QD_TRY(st, identify(d));
	QD_TRY(st, make_pool(d));
	d->result->parameters = qd_optimizer_parameters(&d->optimizer);
out:
	return st;
}

/* ---- running ---- */

/* The student's answer to the batch in `draw`, and the reconstruction error of it. */
static enum qd_status run_student(struct distiller *d, qt_tensor *out, qt_tensor *error)
{
	qt_tensor wanted = NULL;
	enum qd_status st;

	*out = *error = NULL;
	QD_TRY(st, qd_pool_take(&d->pool, &d->data, d->draw, &d->batch, d->wanted.data));
	QD_TRY(st, qd_batch_bind(&d->batch, &d->net.graph, d->student.exec));
	QD_TRY(st, bind_gains(d));
	QD_TRY(st, qd_exec_run(d->student.exec, out));
	QD_TRY(st, qt_from_tensor(&d->wanted, &wanted));
	QD_TRY(st, qt_mse(*out, wanted, error));
out:
	qt_free(wanted);
	return st;
}

/* Mean squared error of the quantized student on the draws that judge. */
static enum qd_status judge(struct distiller *d, double *mean)
{
	double sum = 0, value;
	qt_tensor out = NULL, error = NULL;
	enum qd_status st = QD_OK;

	qt_set_grad(false);
	for (int64_t first = d->pool.n_train; first < d->pool.n; first += d->batch.n) {
		for (int64_t b = 0; b < d->batch.n; b++)
			d->draw[b] = first + b;
		QD_TRY(st, run_student(d, &out, &error));
		QD_TRY(st, qt_item(error, &value));
		qt_free(out);
		qt_free(error);
		out = error = NULL;
		sum += value * (double)d->batch.n;
	}
	*mean = sum / (double)(d->pool.n - d->pool.n_train);
out:
	qt_free(out);
	qt_free(error);
	qt_set_grad(true);
	return st;
}

/* Keeps the present state when it is the best so far. */
static enum qd_status keep_if_better(struct distiller *d)
{
	double error = 0;
	enum qd_status st = judge(d, &error);

	if (st == QD_OK && (d->optimizer.step == 0 || error < d->optimizer.best))
		st = qd_optimizer_keep(&d->optimizer, error);
	if (d->optimizer.step == 0)
		d->result->before = error;
	return st;
}

/* reconstruction / variance + weight * objective */
static enum qd_status total_loss(struct distiller *d, qt_tensor out, qt_tensor error, qt_tensor *loss)
{
	qt_tensor target = NULL, task = NULL, scaled = NULL, weighted = NULL;
	enum qd_status st;

	*loss = NULL;
	QD_TRY(st, qt_binary(QT_MUL, error, d->scale_loss, &scaled));
	if (d->scale_task == NULL) {
		QD_TRY(st, qt_retain(scaled, loss));
	} else {
		QD_TRY(st, qt_from_tensor(&d->batch.target, &target));
		QD_TRY(st, qt_mse(out, target, &task));
		QD_TRY(st, qt_binary(QT_MUL, task, d->scale_task, &weighted));
		QD_TRY(st, qt_binary(QT_ADD, scaled, weighted, loss));
	}
out:
	qt_free(target);
	qt_free(task);
	qt_free(scaled);
	qt_free(weighted);
	return st;
}

static enum qd_status distill_step(struct distiller *d, double *value)
{
	const struct qd_distill_options *o = d->options;
	int64_t step = d->optimizer.step;
	qt_tensor out = NULL, error = NULL, loss = NULL;
	enum qd_status st;

	qd_shuffle_take(&d->shuffle, step * o->batch, o->batch, d->draw);
	QD_TRY(st, run_student(d, &out, &error));
	QD_TRY(st, total_loss(d, out, error, &loss));
	QD_TRY(st, qt_item(loss, value));
	if (!isfinite(*value))
		QD_TRY(st, qd_fail(QD_EINPUT, "the loss is not finite at step %" PRId64, step));
	QD_TRY(st, qt_backward(loss));
	QD_TRY(st, qd_optimizer_step(&d->optimizer, qd_lr_factor(o->schedule, step, o->steps, o->warmup), NULL));
	QD_TRY(st, clamp(d));
out:
	qt_free(out);
	qt_free(error);
	qt_free(loss);
	return st;
}

static double decibels(const struct distiller *d, double error)
{
	return error > 0 ? 10 * log10(d->pool.energy / error) : INFINITY;
}

static enum qd_status after_step(struct distiller *d, double loss)
{
	const struct qd_distill_options *o = d->options;
	int64_t done = d->optimizer.step, every = o->evaluate_every > 0 ? o->evaluate_every : (o->steps + 7) / 8;
	bool last = done == o->steps;
	char note[96];
	enum qd_status st = QD_OK;

	if (last || done % every == 0)
		st = keep_if_better(d);
	if (st == QD_OK && !last && o->checkpoint_every > 0 && done % o->checkpoint_every == 0)
		st = qd_checkpoint_write(&d->optimizer, d->checkpoint, d->run);
	snprintf(note, sizeof(note), "loss %.3e best %.2f dB", loss, decibels(d, d->optimizer.best));
	qd_progress("distill", (uint64_t)done, (uint64_t)o->steps, note);
	return st;
}

/* The starting point is judged in every process: a resumed one reports it too. */
static enum qd_status run_steps(struct distiller *d)
{
	double start = qd_now(), loss = 0;
	bool found = false;
	enum qd_status st;

	QD_TRY(st, keep_if_better(d));
	QD_TRY(st, qd_checkpoint_read(&d->optimizer, d->checkpoint, d->run, d->options->force, &found));
	if (found)
		qd_log(QD_LOG_INFO, "resuming from '%s' at step %" PRId64 " of %" PRId64, d->checkpoint, d->optimizer.step,
			d->options->steps);
	d->result->resumed_at = d->optimizer.step;
	while (d->optimizer.step < d->options->steps) {
		QD_TRY(st, distill_step(d, &loss));
		QD_TRY(st, after_step(d, loss));
	}
	d->result->seconds = qd_now() - start;
out:
	return st;
}

/* ---- writing ---- */

/* The best state, rounded, over the fitted tensors. */
static enum qd_status read_matrix(struct distiller *d, size_t slot, size_t which, qd_id input, float *out)
{
	const struct qd_value *value = &d->net.graph.values[input];
	enum qd_status st = qt_read(qd_param_kept(&d->optimizer.params[d->slots[slot].first + which]), out,
		(size_t)qd_shape_elements(&value->shape) * sizeof(*out));

	if (st == QD_OK)
		qd_quantize(d->net.graph.values[input].encoding, &value->shape, out, NULL, out);
	return st;
}

static enum qd_status read_gain(struct distiller *d, size_t slot, float *out)
{
	qt_tensor factor = NULL, gain = NULL;
	enum qd_status st;

	QD_TRY(st, qt_unary(QT_EXP, qd_param_kept(&d->optimizer.params[d->slots[slot].first + 2]), &factor));
	QD_TRY(st, qt_binary(QT_MUL, d->slots[slot].start, factor, &gain));
	QD_TRY(st, qt_read(gain, out, (size_t)d->net.slots.items[slot].rank * sizeof(*out)));
out:
	qt_free(factor);
	qt_free(gain);
	return st;
}

static enum qd_status write_adapter(struct distiller *d)
{
	struct qd_adapter out = { 0 };
	char grid[QD_HASH_TEXT];
	enum qd_status st;

	qt_set_grad(false);
	for (size_t i = 0; i < d->net.slots.n; i++) {
		const struct qd_slot *slot = &d->net.slots.items[i];
		if (d->slots[i].factor == NULL)
			continue;
		QD_TRY(st, read_matrix(d, i, 0, slot->down, d->fitted.slots[i].down));
		QD_TRY(st, read_matrix(d, i, 1, slot->up, d->fitted.slots[i].up));
		QD_TRY(st, read_gain(d, i, d->fitted.slots[i].gain));
	}
	QD_TRY(st, qd_profile_grid(d->profile, grid));
	QD_TRY(st, qd_fitted_to_adapter(&d->fitted, d->profile, d->adapter->name, &out));
	out.grid = grid;
	QD_TRY(st, qd_adapter_write(&out, d->options->output, QD_F32, true, d->options->force));
out:
	qd_adapter_release(&out);
	return st;
}

static void release(struct distiller *d)
{
	for (size_t i = 0; d->slots != NULL && i < d->net.slots.n; i++) {
		qt_free(d->slots[i].start);
		qt_free(d->slots[i].factor);
	}
	free(d->slots);
	qd_optimizer_release(&d->optimizer);
	qd_runner_release(&d->student);
	qd_runner_release(&d->teacher);
	qd_fitted_release(&d->fitted);
	qd_net_release(&d->net);
	qd_dataset_release(&d->data);
	qd_schedule_release(&d->schedule);
	qd_batch_release(&d->batch);
	qd_shuffle_release(&d->shuffle);
	qd_pool_release(&d->pool);
	qd_tensor_release(&d->wanted);
	qt_free(d->scale_loss);
	qt_free(d->scale_task);
	free(d->draw);
	free(d->checkpoint);
}

enum qd_status qd_distill(const struct qd_model *model, const struct qd_profile *profile, const struct qd_adapter *adapter,
	const char *const *data, size_t n_data, const struct qd_distill_options *options, struct qd_distill_result *result)
{
	struct distiller d = { .model = model, .profile = profile, .adapter = adapter, .options = options, .result = result };
	enum qd_status st;

	*result = (struct qd_distill_result){ 0 };
	QD_TRY(st, prepare(&d, data, n_data));
	QD_TRY(st, run_steps(&d));
	QD_TRY(st, write_adapter(&d));
	result->best_step = d.optimizer.best_step;
	result->after = d.optimizer.best / d.pool.variance;
	result->after_db = decibels(&d, d.optimizer.best);
	result->before_db = decibels(&d, result->before);
	result->before /= d.pool.variance;
	qd_checkpoint_remove(d.checkpoint);
out:
	release(&d);
	return st;
}
