/*
 * `quad train`: noise-prediction training of all weights of a model, or of an adapter's down and up on a frozen model. The graph is
 * the one that is quantized and shipped; what is trained is put in place of its weights, or bound to its adapter inputs, as leaves.
 * Weights that stay frozen record no gradient, so backward computes input gradients only, and none before the first adapted layer.
 *
 * A step draws from generator streams STREAM_STEP + step, validation from STREAM_VALIDATION + batch, fresh adapters from
 * STREAM_INIT; passes over the data use the streams below 2^62 (dataset.c).
 */
#include "distill/internal.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define STREAM_STEP qd_stream(QD_STREAM_STEP, 0)
#define STREAM_VALIDATION qd_stream(QD_STREAM_VALIDATION, 0)
#define STREAM_INIT qd_stream(QD_STREAM_FRESH, 0)

struct qd_train_options qd_train_options_default(void)
{
	return (struct qd_train_options){ .steps = 1000,
		.batch = 16,
		.lr = 1e-3,
		.beta1 = 0.9,
		.beta2 = 0.999,
		.eps = 1e-8,
		.weight_decay = 0.01,
		.clip = 1,
		.schedule = QD_LR_COSINE,
		.slots = "attention",
		.dtype = QD_F32 };
}

struct trainer {
	const struct qd_model *model;
	const struct qd_modules *modules;
	const struct qd_train_options *options;
	struct qd_train_result *result;
	struct qd_dataset data, validation;
	struct qd_schedule schedule;
	struct qd_objective objective;
	struct qd_graph graph;
	struct qd_slots slots;
	struct qd_adapter adapter;
	struct qd_exec *exec;
	struct qd_optimizer optimizer;
	qd_id *values; /* the graph's value that each parameter stands for */
	size_t n_values, cap_values;
	struct qd_batch batch;
	struct qd_shuffle shuffle;
	char run[QD_HASH_TEXT];
	char *checkpoint;
	double late_loss; /* sum over the last tenth of the steps */
	int64_t late_steps;
};

static bool trains_adapter(const struct trainer *t)
{
	return t->options->lora > 0 || t->options->init_adapter != NULL;
}

/* ---- what is trained ---- */

/* `data` becomes a leaf that stands for `value`. */
static enum qd_status add_leaf(struct trainer *t, qd_id value, const struct qd_tensor *data)
{
	const struct qd_value *v = &t->graph.values[value];
	qt_tensor leaf = NULL;
	enum qd_status st;

	QD_TRY(st, qt_from_tensor(data, &leaf));
	QD_TRY(st, qd_optimizer_add(&t->optimizer, v->name, leaf, 1));
	QD_PUSH(st, t->values, t->n_values, t->cap_values, value);
out:
	qt_free(leaf);
	return st;
}

static enum qd_status add_weights(struct trainer *t)
{
	for (size_t i = 0; i < t->model->weights.n; i++) {
		qd_id value = qd_graph_find(&t->graph, t->model->weights.tensors[i]->name);
		enum qd_status st;
		if (value == QD_NONE || t->graph.values[value].kind != QD_WEIGHT)
			continue;
		st = add_leaf(t, value, &t->graph.values[value].data);
		if (st != QD_OK)
			return st;
	}
	return QD_OK;
}

/* down uniform in +-1/sqrt(fan in), which is Kaiming's rule with a = sqrt(5) (He et al. 2015); up stays zero, so the first step is
 * the base model. */
static void start_adapter(struct qd_adapter *adapter, uint64_t seed)
{
	struct qd_random random;

	qd_random_init(&random, seed, STREAM_INIT);
	for (size_t i = 0; i < adapter->n; i++) {
		struct qd_lora *lora = &adapter->loras[i];
		int64_t fan_in = lora->in * lora->kh * lora->kw;
		double bound = 1 / sqrt((double)fan_in);
		for (int64_t k = 0; k < lora->rank * fan_in; k++)
			lora->down[k] = (float)((2 * qd_random_uniform(&random) - 1) * bound);
	}
}

static enum qd_status fresh_adapter(struct trainer *t)
{
	double alpha = t->options->alpha > 0 ? t->options->alpha : (double)t->options->lora;
	const struct qd_module **list = NULL;
	enum qd_status st;

	QD_TRY(st, qd_slots_choose(&t->slots, t->modules, NULL, 0, t->options->slots, t->options->lora));
	if (t->slots.n == 0)
		QD_TRY(st, qd_fail(QD_EINPUT, "'%s' selects no layer of this model", t->options->slots));
	list = calloc(t->slots.n, sizeof(*list));
	if (list == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory for %zu layers", t->slots.n));
	for (size_t i = 0; i < t->slots.n; i++)
		list[i] = qd_modules_find(t->modules, t->slots.items[i].path);
	QD_TRY(st,
		qd_adapter_new(&t->adapter, "lora", list, t->slots.n, t->options->lora, (float)(alpha / (double)t->options->lora)));
	start_adapter(&t->adapter, t->options->seed);
out:
	free(list);
	return st;
}

static enum qd_status given_adapter(struct trainer *t)
{
	const struct qd_adapter *list[] = { &t->adapter };
	enum qd_status st = qd_adapter_open_spec(&t->adapter, t->options->init_adapter, t->modules);

	if (st == QD_OK)
		st = qd_slots_choose(&t->slots, t->modules, list, 1, NULL, 0);
	return st;
}

/* Leaves for a layer's down and up; its gain is bound once. */
static enum qd_status add_lora(struct trainer *t, const struct qd_slot *slot, const struct qd_lora *lora)
{
	const struct qd_value *values = t->graph.values;
	struct qd_tensor down = qd_tensor_view(NULL, QD_F32, values[slot->down].shape, lora->down);
	struct qd_tensor up = qd_tensor_view(NULL, QD_F32, values[slot->up].shape, lora->up);
	struct qd_tensor gain = qd_tensor_view(NULL, QD_F32, values[slot->gain].shape, lora->gain);
	enum qd_status st = add_leaf(t, slot->down, &down);

	if (st == QD_OK)
		st = add_leaf(t, slot->up, &up);
	if (st == QD_OK)
		st = qd_exec_bind_tensor(t->exec, values[slot->gain].name, &gain);
	return st;
}

static enum qd_status add_adapter(struct trainer *t)
{
	enum qd_status st = QD_OK;

	for (size_t i = 0; st == QD_OK && i < t->slots.n; i++)
		st = add_lora(t, &t->slots.items[i], qd_adapter_find(&t->adapter, t->slots.items[i].path));
	return st;
}

/* Puts the leaves, or their averages, where the graph reads them. */
static enum qd_status use_parameters(struct trainer *t, bool averaged)
{
	enum qd_status st = QD_OK;

	for (size_t i = 0; st == QD_OK && i < t->n_values; i++) {
		const struct qd_param *p = &t->optimizer.params[i];
		qt_tensor x = averaged ? qd_param_kept(p) : p->x;
		if (t->graph.values[t->values[i]].kind == QD_WEIGHT)
			st = qd_exec_set_weight(t->exec, t->values[i], x);
		else
			st = qd_exec_bind(t->exec, t->values[i], x);
	}
	return st;
}

/* ---- preparing ---- */

static enum qd_status open_data(struct trainer *t, const char *const *data, size_t n)
{
	const struct qd_train_options *o = t->options;
	enum qd_status st = qd_dataset_open(&t->data, data, n, &t->model->config, QD_DATA_TRAIN);

	if (st == QD_OK && !t->data.has[QD_FIELD_LATENTS])
		st = qd_fail(QD_EINPUT, "cannot use '%s': tensor 'latents' is missing", data[0]);
	if (st == QD_OK && o->validation != NULL)
		st = qd_dataset_open(&t->validation, &o->validation, 1, &t->model->config, QD_DATA_TRAIN);
	if (st != QD_OK || o->validation == NULL)
		return st;
	for (int f = 0; f < QD_FIELD_COUNT; f++)
		if (t->data.has[f] != t->validation.has[f] || !qd_shape_equal(&t->data.shape[f], &t->validation.shape[f]))
			return qd_fail(QD_EINPUT, "cannot use '%s': tensor '%s' is not as in '%s'", o->validation,
				qd_data_field_name((enum qd_data_field)f), data[0]);
	return QD_OK;
}

static enum qd_status build_graph(struct trainer *t)
{
	struct qd_sizes sizes = qd_dataset_sizes(&t->data, t->options->batch);
	enum qd_status st = QD_OK;

	qd_graph_init(&t->graph, "unet");
	QD_TRY(st, qd_model_graph(&t->graph, t->model, &sizes));
	if (t->options->init_adapter != NULL)
		QD_TRY(st, given_adapter(t));
	else if (t->options->lora > 0)
		QD_TRY(st, fresh_adapter(t));
	if (trains_adapter(t))
		QD_TRY(st, qd_slots_attach(&t->slots, &t->graph));
	QD_TRY(st, qd_exec_new(&t->exec, &t->graph, &(struct qd_exec_options){ 0 }));
	QD_TRY(st, trains_adapter(t) ? add_adapter(t) : add_weights(t));
	QD_TRY(st, use_parameters(t, false));
out:
	return st;
}

/* The run's identity: everything that shapes its bytes, but not where they go nor how often it saves. */
static enum qd_status identify(struct trainer *t)
{
	const struct qd_train_options *o = t->options;
	char hash[QD_HASH_TEXT], *text = NULL;
	size_t bytes = 0;
	FILE *f = open_memstream(&text, &bytes);
	enum qd_status st = QD_OK;

	if (f == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory for the options' text"));
	QD_TRY(st, qd_model_hash(t->model, hash));
	fprintf(f, "train 1 %s %" PRId64 " %" PRId64 " %a %a %a %a %a %a %d %" PRId64 " %a %" PRIu64 " %a %a ", hash, o->steps,
		o->batch, o->lr, o->beta1, o->beta2, o->eps, o->weight_decay, o->clip, (int)o->schedule, o->warmup, o->ema, o->seed,
		o->snr_gamma, o->prompt_dropout);
	fprintf(f, "%d %" PRId64 " %a %s %s", o->bfloat16, o->lora, o->alpha, o->slots, t->adapter.hash);
	QD_TRY(st, qd_dataset_hash(&t->data, hash));
	fprintf(f, " %s", hash);
	fflush(f);
	qd_hash_bytes(text, bytes, t->run);
out:
	if (f != NULL)
		fclose(f);
	free(text);
	return st;
}

/* Fails before anything is computed when the output cannot be written. */
static enum qd_status probe_output(const struct trainer *t)
{
	struct qd_output file = { 0 };
	struct qd_output_folder folder = { 0 };
	enum qd_status st = trains_adapter(t) ? qd_output_open(&file, t->options->output, t->options->force)
					      : qd_output_folder_open(&folder, t->options->output, t->options->force);

	qd_output_release(&file);
	qd_output_folder_release(&folder);
	return st;
}

static enum qd_status prepare(struct trainer *t, const char *const *data, size_t n_data)
{
	const struct qd_train_options *o = t->options;
	bool found = false;
	enum qd_status st;

	t->optimizer = (struct qd_optimizer){
		.beta1 = o->beta1, .beta2 = o->beta2, .eps = o->eps, .weight_decay = o->weight_decay, .clip = o->clip, .ema = o->ema
	};
	QD_TRY(st, probe_output(t));
	QD_TRY(st, open_data(t, data, n_data));
	QD_TRY(st, qd_schedule_read(&t->schedule, t->model->root, t->model->pipeline.class_name));
	t->objective = (struct qd_objective){ &t->schedule, o->snr_gamma, o->prompt_dropout };
	QD_TRY(st, build_graph(t));
	QD_TRY(st, qd_batch_init(&t->batch, &t->data, o->batch));
	QD_TRY(st, qd_shuffle_init(&t->shuffle, t->data.n, o->seed));
	QD_TRY(st, identify(t));
	t->checkpoint = qd_checkpoint_path(o->output);
	if (t->checkpoint == NULL)
		QD_TRY(st, QD_ENOMEM);
	QD_TRY(st, qd_checkpoint_read(&t->optimizer, t->checkpoint, t->run, o->force, &found));
	if (found)
		qd_log(QD_LOG_INFO, "resuming from '%s' at step %" PRId64 " of %" PRId64, t->checkpoint, t->optimizer.step,
			o->steps);
	t->result->resumed_at = t->optimizer.step;
	t->result->parameters = qd_optimizer_parameters(&t->optimizer);
out:
	return st;
}

/* ---- running ---- */

/* The batch's loss, a scalar that backward can start from. */
static enum qd_status batch_loss(struct trainer *t, qt_tensor *loss)
{
	qt_tensor out = NULL, target = NULL, weight = NULL, weighted = NULL;
	enum qd_status st;

	*loss = NULL;
	QD_TRY(st, qd_batch_bind(&t->batch, &t->graph, t->exec));
	QD_TRY(st, qd_exec_run(t->exec, &out));
	QD_TRY(st, qt_from_tensor(&t->batch.target, &target));
	if (t->objective.snr_gamma > 0) {
		QD_TRY(st, qt_from_tensor(&t->batch.root_weight, &weight));
		QD_TRY(st, qt_binary(QT_MUL, out, weight, &weighted));
	}
	QD_TRY(st, qt_mse(weighted != NULL ? weighted : out, target, loss));
out:
	qt_free(out);
	qt_free(target);
	qt_free(weight);
	qt_free(weighted);
	return st;
}

static enum qd_status train_step(struct trainer *t, double *value)
{
	const struct qd_train_options *o = t->options;
	int64_t step = t->optimizer.step;
	double lr = o->lr * qd_lr_factor(o->schedule, step, o->steps, o->warmup);
	struct qd_random random;
	qt_tensor loss = NULL;
	enum qd_status st;

	qd_random_init(&random, o->seed, STREAM_STEP + (uint64_t)step);
	qd_shuffle_take(&t->shuffle, step * o->batch, o->batch, t->batch.index);
	QD_TRY(st, qd_batch_fill(&t->batch, &t->data, &t->objective, &random));
	QD_TRY(st, batch_loss(t, &loss));
	QD_TRY(st, qt_item(loss, value));
	if (!isfinite(*value))
		QD_TRY(st, qd_fail(QD_EINPUT, "the loss is not finite at step %" PRId64 ": a lower learning rate than %g is needed",
				   step, o->lr));
	QD_TRY(st, qt_backward(loss));
	QD_TRY(st, qd_optimizer_step(&t->optimizer, lr, NULL));
out:
	qt_free(loss);
	return st;
}

/* Mean loss over the validation file, the same draws every time, with the averaged weights where there are any. */
static enum qd_status validate(struct trainer *t, double *mean)
{
	struct qd_objective objective = { .schedule = &t->schedule, .snr_gamma = t->objective.snr_gamma };
	int64_t batch = t->options->batch, batches = (t->validation.n + batch - 1) / batch;
	double sum = 0, value;
	qt_tensor loss = NULL;
	enum qd_status st;

	qt_set_grad(false);
	QD_TRY(st, use_parameters(t, true));
	for (int64_t b = 0; b < batches; b++) {
		struct qd_random random;
		qd_random_init(&random, t->options->seed, STREAM_VALIDATION + (uint64_t)b);
		for (int64_t i = 0; i < batch; i++)
			t->batch.index[i] = (b * batch + i) % t->validation.n;
		QD_TRY(st, qd_batch_fill(&t->batch, &t->validation, &objective, &random));
		QD_TRY(st, batch_loss(t, &loss));
		QD_TRY(st, qt_item(loss, &value));
		qt_free(loss);
		loss = NULL;
		sum += value;
	}
	*mean = sum / (double)batches;
	st = use_parameters(t, false);
out:
	qt_free(loss);
	qt_set_grad(true);
	return st;
}

/* After step `done`: late losses, validation, checkpoint, progress. `smooth` is a running mean of the loss. */
static enum qd_status after_step(struct trainer *t, int64_t done, double loss, double smooth)
{
	const struct qd_train_options *o = t->options;
	bool last = done == o->steps;
	char note[96];
	enum qd_status st = QD_OK;

	if (done > o->steps - (o->steps + 9) / 10) {
		t->late_loss += loss;
		t->late_steps++;
	}
	if (o->validation != NULL && (last || (o->validate_every > 0 && done % o->validate_every == 0)))
		st = validate(t, &t->result->validation);
	if (st == QD_OK && !last && o->checkpoint_every > 0 && done % o->checkpoint_every == 0)
		st = qd_checkpoint_write(&t->optimizer, t->checkpoint, t->run);
	if (isnan(t->result->validation))
		snprintf(note, sizeof(note), "loss %.5f", smooth);
	else
		snprintf(note, sizeof(note), "loss %.5f validation %.5f", smooth, t->result->validation);
	qd_progress("train", (uint64_t)done, (uint64_t)o->steps, note);
	return st;
}

static enum qd_status run_steps(struct trainer *t)
{
	double start = qd_now(), smooth = NAN, loss = 0;
	enum qd_status st = QD_OK;

	qt_set_grad(true);
	while (st == QD_OK && t->optimizer.step < t->options->steps) {
		st = train_step(t, &loss);
		smooth = isnan(smooth) ? loss : 0.98 * smooth + 0.02 * loss;
		if (st == QD_OK)
			st = after_step(t, t->optimizer.step, loss, smooth);
	}
	t->result->seconds = qd_now() - start;
	t->result->loss = t->late_steps > 0 ? t->late_loss / (double)t->late_steps : NAN;
	return st;
}

/* ---- writing ---- */

static const struct qd_param *param_of(const struct trainer *t, const char *name)
{
	for (size_t i = 0; i < t->optimizer.n; i++)
		if (strcmp(t->optimizer.params[i].name, name) == 0)
			return &t->optimizer.params[i];
	return NULL;
}

/* Float32 values of what is kept of a parameter: its average where there is one. */
static enum qd_status read_param(const struct qd_param *p, size_t floats, float *out)
{
	return qt_read(qd_param_kept(p), out, floats * sizeof(*out));
}

/* Tensor i of the base model's file, trained where it was trained, in the output's dtype. */
static enum qd_status fill_weight(void *context, size_t i, void *buffer)
{
	const struct trainer *t = context;
	const struct qd_tensor *stored = t->model->weights.tensors[i];
	const struct qd_param *p = param_of(t, stored->name);
	size_t n = (size_t)qd_shape_elements(&stored->shape);
	struct qd_tensor out = qd_tensor_view(stored->name, t->options->dtype, stored->shape, buffer);
	float *values = malloc((n + 1) * sizeof(*values));
	enum qd_status st;

	if (values == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory for tensor '%s'", stored->name));
	QD_TRY(st, p != NULL ? read_param(p, n, values) : qd_tensor_to_f32(stored, values));
	QD_TRY(st, qd_tensor_from_f32(&out, values));
out:
	free(values);
	return st;
}

static enum qd_status write_weights(struct trainer *t, const char *path)
{
	const struct qd_weights *weights = &t->model->weights;
	const char *const metadata[] = { "format", "pt" };
	struct qd_tensor *tensors = calloc(weights->n, sizeof(*tensors));
	enum qd_status st;

	if (tensors == NULL)
		return qd_fail(QD_ENOMEM, "out of memory for %zu tensors", weights->n);
	for (size_t i = 0; i < weights->n; i++) {
		const struct qd_tensor *stored = weights->tensors[i];
		tensors[i] = qd_tensor_view(stored->name, t->options->dtype, stored->shape, NULL);
	}
	st = qd_safetensors_write(path, tensors, weights->n, metadata, 1, false, fill_weight, t);
	free(tensors);
	return st;
}

static enum qd_status copy_file(const char *from, const char *to)
{
	struct qd_mapping file = { 0 };
	enum qd_status st = qd_mapping_open(&file, from);

	if (st == QD_OK)
		st = qd_write_file(to, file.data, file.size, false);
	qd_mapping_release(&file);
	return st;
}

/* model_index.json, in which components that are not written become [null, null]: absent, as diffusers says it. */
static enum qd_status write_index(const char *from, const char *to)
{
	json_t *index = NULL, *value;
	const char *key;
	void *next;
	enum qd_status st;

	QD_TRY(st, qd_json_read(from, &index));
	json_object_foreach_safe(index, next, key, value)
	{
		if (json_is_array(value) && strcmp(key, "unet") != 0 && strcmp(key, "scheduler") != 0)
			json_object_set_new(index, key, json_pack("[nn]"));
	}
	QD_TRY(st, qd_json_write(to, index, false));
out:
	json_decref(index);
	return st;
}

static enum qd_status make_folder(const char *path)
{
	return mkdir(path, 0777) == 0 ? QD_OK : qd_fail(QD_EIO, "cannot make folder '%s': %s", path, strerror(errno));
}

/* The scheduler's configuration and the index, where the base has them. */
static enum qd_status write_around(struct trainer *t, struct qd_arena *paths, const char *folder)
{
	const char *root = t->model->root;
	char *scheduler = qd_arena_strf(paths, "%s/scheduler/scheduler_config.json", root);
	char *index = qd_arena_strf(paths, "%s/model_index.json", root);
	char *to_folder = qd_arena_strf(paths, "%s/scheduler", folder);
	char *to_scheduler = qd_arena_strf(paths, "%s/scheduler/scheduler_config.json", folder);
	char *to_index = qd_arena_strf(paths, "%s/model_index.json", folder);
	enum qd_status st = QD_OK;

	if (scheduler == NULL || index == NULL || to_folder == NULL || to_scheduler == NULL || to_index == NULL)
		return QD_ENOMEM;
	if (qd_is_file(scheduler)) {
		QD_TRY(st, make_folder(to_folder));
		QD_TRY(st, copy_file(scheduler, to_scheduler));
	}
	if (qd_is_file(index))
		QD_TRY(st, write_index(index, to_index));
out:
	return st;
}

static enum qd_status write_model(struct trainer *t)
{
	struct qd_output_folder folder = { 0 };
	struct qd_arena paths = { 0 };
	char *unet, *config, *from, *weights;
	enum qd_status st;

	QD_TRY(st, qd_output_folder_open(&folder, t->options->output, t->options->force));
	unet = qd_arena_strf(&paths, "%s/unet", folder.temporary);
	from = qd_arena_strf(&paths, "%s/config.json", t->model->folder);
	config = qd_arena_strf(&paths, "%s/unet/config.json", folder.temporary);
	weights = qd_arena_strf(&paths, "%s/unet/diffusion_pytorch_model.safetensors", folder.temporary);
	if (unet == NULL || from == NULL || config == NULL || weights == NULL)
		QD_TRY(st, QD_ENOMEM);
	QD_TRY(st, make_folder(unet));
	QD_TRY(st, copy_file(from, config));
	QD_TRY(st, write_weights(t, weights));
	QD_TRY(st, write_around(t, &paths, folder.temporary));
	QD_TRY(st, qd_output_folder_commit(&folder));
out:
	qd_output_folder_release(&folder);
	qd_arena_release(&paths);
	return st;
}

/* Parameters 2i and 2i + 1 are down and up of slot i. */
static enum qd_status write_adapter(struct trainer *t)
{
	enum qd_status st = QD_OK;

	for (size_t i = 0; i < t->slots.n; i++) {
		uint32_t at = qd_strmap_get(&t->adapter.by_path, t->slots.items[i].path);
		struct qd_lora *lora = &t->adapter.loras[at];
		QD_TRY(st,
			read_param(&t->optimizer.params[2 * i], (size_t)(lora->rank * lora->in * lora->kh * lora->kw), lora->down));
		QD_TRY(st, read_param(&t->optimizer.params[2 * i + 1], (size_t)(lora->out * lora->rank), lora->up));
	}
	st = qd_adapter_write(&t->adapter, t->options->output, t->options->dtype, false, t->options->force);
out:
	return st;
}

static void release(struct trainer *t)
{
	qd_optimizer_release(&t->optimizer);
	qd_exec_free(t->exec);
	qd_graph_release(&t->graph);
	qd_slots_release(&t->slots);
	qd_adapter_release(&t->adapter);
	qd_dataset_release(&t->data);
	qd_dataset_release(&t->validation);
	qd_schedule_release(&t->schedule);
	qd_batch_release(&t->batch);
	qd_shuffle_release(&t->shuffle);
	free(t->values);
	free(t->checkpoint);
}

enum qd_status qd_train(const struct qd_model *model, const struct qd_modules *modules, const char *const *data, size_t n_data,
	const struct qd_train_options *options, struct qd_train_result *result)
{
	struct trainer t = { .model = model, .modules = modules, .options = options, .result = result };
	enum qd_status st;

	*result = (struct qd_train_result){ .loss = NAN, .validation = NAN };
	QD_TRY(st, prepare(&t, data, n_data));
	qt_set_bfloat16(options->bfloat16);
	QD_TRY(st, run_steps(&t));
	QD_TRY(st, trains_adapter(&t) ? write_adapter(&t) : write_model(&t));
	qd_checkpoint_remove(t.checkpoint);
out:
	qt_set_bfloat16(false);
	release(&t);
	return st;
}
