/*
 * The one training loop. An objective (train.c, distill.c) says what is learned, what a batch costs and what is written:
 *
 *   where the best state counts: measure the start
 *   go on from the state that a killed run left
 *   update           the next samples of shuffled passes (shuffle.c); loss and gradients; AdamW and averages (optimizer.c) at the
 *                    schedule's rate
 *   every so often   measure, and keep the best state; write the state (state.c); say how far it is
 *   write what was learned, and drop the state
 *
 * What update i does is a function of seed and i, so that a run that goes on ends in the bytes of one that was never stopped.
 */
#include "distill/internal.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

struct qd_loop_options qd_loop_options_default(void)
{
	return (struct qd_loop_options){ .steps = 1000,
		.batch = 16,
		.lr = 1e-3,
		.schedule = QD_LR_COSINE,
		.beta1 = 0.9,
		.beta2 = 0.999,
		.eps = 1e-8,
		.weight_decay = 0.01,
		.clip = 1 };
}

enum qd_status qd_loop_open(struct qd_loop *loop, const struct qd_objective *objective, void *context,
	const struct qd_loop_options *options, const struct qd_model *model, const char *const *data, size_t n_data)
{
	enum qd_status st;

	*loop = (struct qd_loop){ .objective = objective, .context = context, .options = options, .measure = NAN };
	loop->optimizer = (struct qd_optimizer){ .beta1 = options->beta1,
		.beta2 = options->beta2,
		.eps = options->eps,
		.weight_decay = options->weight_decay,
		.clip = options->clip,
		.keep_best = objective->keep_best };
	loop->evaluate_every = options->evaluate_every;
	if (loop->evaluate_every == 0 && objective->keep_best)
		loop->evaluate_every = (options->steps + 7) / 8;
	QD_TRY(st, qd_dataset_open(&loop->data, data, n_data, &model->config, QD_DATA_TRAIN));
	QD_TRY(st, qd_model_schedule(&loop->schedule, model));
	QD_TRY(st, qd_dataset_check_timesteps(&loop->data, loop->schedule.train_steps));
	QD_TRY(st, qd_batch_init(&loop->batch, &loop->data, options->batch));
	loop->index = calloc((size_t)options->batch, sizeof(*loop->index));
	if (loop->index == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory for a batch of %" PRId64 " samples", options->batch));
	loop->state = qd_training_state_path(options->output);
	st = loop->state != NULL ? QD_OK : QD_ENOMEM;
out:
	return st;
}

void qd_loop_release(struct qd_loop *loop)
{
	qd_optimizer_release(&loop->optimizer);
	qd_dataset_release(&loop->data);
	qd_schedule_release(&loop->schedule);
	qd_batch_release(&loop->batch);
	qd_shuffle_release(&loop->shuffle);
	free(loop->index);
	free(loop->state);
}

/* ---- a batch's way into a runner ---- */

enum qd_status qd_batch_feed(const struct qd_batch *batch, struct qd_runner *runner)
{
	const struct qd_tensor *inputs[] = { &batch->sample, &batch->timestep, &batch->context, &batch->text_embeds,
		&batch->time_ids, &batch->time_cond };
	enum qd_status st = QD_OK;

	for (size_t i = 0; st == QD_OK && i < QD_COUNT(inputs); i++)
		if (inputs[i]->data != NULL && qd_graph_find(runner->graph, inputs[i]->name) != QD_NONE)
			st = qd_runner_feed(runner, inputs[i]);
	return st;
}

/* ---- the run's identity ---- */

/*
 * Everything that shapes what is learned, as text, and the hash of it: neither where it goes and how often the run saves, nor what
 * is only looked at (validation) or done at the end (the type that is written), nor the machine's part, threads and libtorch.
 */
static enum qd_status identify_run(struct qd_loop *loop)
{
	const struct qd_loop_options *o = loop->options;
	const struct qd_optimizer *adam = &loop->optimizer;
	char hash[QD_HASH_TEXT], *text = NULL;
	size_t bytes = 0;
	FILE *f = open_memstream(&text, &bytes);
	enum qd_status st;

	if (f == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory for the run's description"));
	QD_TRY(st, qd_dataset_hash(&loop->data, hash));
	fprintf(f, "%s 2\ndata %s\n", loop->objective->name, hash);
	qd_hash_bytes(loop->schedule.alphas_cumprod, (size_t)loop->schedule.train_steps * sizeof(double), hash);
	fprintf(f, "noise %s %d\n", hash, (int)loop->schedule.prediction);
	fprintf(f, "updates %" PRId64 " %" PRId64 " %" PRIu64 " %d %" PRId64 "\n", o->steps, o->batch, o->seed, (int)o->schedule,
		o->warmup);
	fprintf(f, "adamw %a %a %a %a %a %a\n", adam->beta1, adam->beta2, adam->eps, adam->weight_decay, adam->clip, adam->ema);
	if (loop->objective->one_rate)
		fprintf(f, "lr %a\n", o->lr);
	if (loop->objective->keep_best)
		fprintf(f, "evaluate %" PRId64 "\n", loop->evaluate_every);
	QD_TRY(st, loop->objective->identify(loop->context, f));
	if (fflush(f) != 0)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory for the run's description"));
	qd_hash_bytes(text, bytes, loop->run);
out:
	if (f != NULL)
		fclose(f);
	free(text);
	return st;
}

/* ---- running ---- */

/* How good the present state is; it is kept when it is the best so far and that counts. */
static enum qd_status measure_state(struct qd_loop *loop)
{
	struct qd_optimizer *optimizer = &loop->optimizer;
	enum qd_status st;

	qt_set_grad(false);
	st = loop->objective->measure(loop->context, &loop->measure);
	qt_set_grad(true);
	if (st == QD_OK && optimizer->keep_best && (optimizer->step == 0 || loop->measure < optimizer->best))
		st = qd_optimizer_keep(optimizer, loop->measure);
	return st;
}

/* The start is measured in every process: one that goes on reports it too. */
static enum qd_status start_run(struct qd_loop *loop)
{
	bool found = false;
	enum qd_status st = QD_OK;

	if (loop->objective->keep_best)
		QD_TRY(st, measure_state(loop));
	loop->start = loop->measure;
	QD_TRY(st, qd_training_state_read(&loop->optimizer, loop->state, loop->run, loop->options->force, &found));
	if (found)
		qd_log(QD_LOG_INFO, "resuming from '%s' at step %" PRId64 " of %" PRId64, loop->state, loop->optimizer.step,
			loop->options->steps);
	loop->resumed_at = loop->optimizer.step;
out:
	return st;
}

static enum qd_status update_once(struct qd_loop *loop)
{
	const struct qd_loop_options *o = loop->options;
	int64_t step = loop->optimizer.step;
	double rate = (loop->objective->one_rate ? o->lr : 1) * qd_lr_factor(o->schedule, step, o->steps, o->warmup);
	enum qd_status st;

	qd_shuffle_take(&loop->shuffle, step * o->batch, o->batch, loop->index);
	QD_TRY(st, loop->objective->learn(loop->context, step, loop->index, &loop->loss));
	if (!isfinite(loop->loss) && loop->objective->one_rate)
		QD_TRY(st, qd_fail(QD_EINPUT, "the loss is not finite at step %" PRId64 ": a lower learning rate than %g is needed",
				   step, o->lr));
	if (!isfinite(loop->loss))
		QD_TRY(st, qd_fail(QD_EINPUT, "the loss is not finite at step %" PRId64, step));
	QD_TRY(st, qd_optimizer_step(&loop->optimizer, rate, NULL));
out:
	return st;
}

static enum qd_status after_update(struct qd_loop *loop)
{
	const struct qd_loop_options *o = loop->options;
	int64_t done = loop->optimizer.step;
	bool last = done == o->steps;
	char note[96];
	enum qd_status st = QD_OK;

	loop->smooth = done == loop->resumed_at + 1 ? loop->loss : 0.98 * loop->smooth + 0.02 * loop->loss;
	if (done > o->steps - (o->steps + 9) / 10) {
		loop->late_loss += loop->loss;
		loop->late_steps++;
	}
	if (last || (loop->evaluate_every > 0 && done % loop->evaluate_every == 0))
		QD_TRY(st, measure_state(loop));
	if (!last && o->checkpoint_every > 0 && done % o->checkpoint_every == 0)
		QD_TRY(st, qd_training_state_write(&loop->optimizer, loop->state, loop->run));
	loop->objective->note(loop->context, note, sizeof(note));
	qd_progress(loop->objective->name, (uint64_t)done, (uint64_t)o->steps, note);
out:
	return st;
}

enum qd_status qd_loop_run(struct qd_loop *loop, int64_t samples)
{
	bool grad = qt_get_grad();
	double start;
	enum qd_status st;

	qt_set_grad(true);
	QD_TRY(st, qd_shuffle_init(&loop->shuffle, samples, loop->options->seed));
	QD_TRY(st, identify_run(loop));
	start = qd_now();
	QD_TRY(st, start_run(loop));
	while (loop->optimizer.step < loop->options->steps) {
		QD_TRY(st, update_once(loop));
		QD_TRY(st, after_update(loop));
	}
	loop->seconds = qd_now() - start;
	loop->late_loss = loop->late_steps > 0 ? loop->late_loss / (double)loop->late_steps : NAN;
	qt_set_grad(false);
	QD_TRY(st, loop->objective->write(loop->context));
	qd_training_state_remove(loop->state);
out:
	qt_set_grad(grad);
	return st;
}
