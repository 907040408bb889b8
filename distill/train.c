/*
 * `quad train`: noise-prediction training of all weights of a model, or of an adapter's down and up on a frozen model. The graph is
 * the one that is quantized and shipped; what is trained is put in place of its weights, or bound to its adapter inputs, as leaves.
 * Weights that stay frozen record no gradient, so backward computes input gradients only, and none before the first adapted layer.
 *
 * Updates, validation, fresh adapters and passes over the data draw from streams of their own (enum qd_stream).
 */
#include "distill/internal.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct qd_train_options qd_train_options_default(void)
{
	return (struct qd_train_options){ .loop = qd_loop_options_default(), .slots = "attention", .dtype = QD_F32 };
}

struct trainer {
	struct qd_loop loop;
	const struct qd_model *model;
	const struct qd_modules *modules;
	const struct qd_train_options *options;
	struct qd_dataset validation;
	struct qd_noising noising;
	struct qd_graph graph;
	struct qd_slots slots;
	struct qd_adapter adapter;
	struct qd_runner runner; /* with gradients, through its executor */
};

static bool trains_adapter(const struct trainer *t)
{
	return t->options->lora > 0 || t->options->init_adapter != NULL;
}

/* ---- what is trained ---- */

static enum qd_status add_weights(struct trainer *t)
{
	enum qd_status st = QD_OK;

	for (size_t i = 0; st == QD_OK && i < t->model->weights.n; i++) {
		qd_id value = qd_graph_find(&t->graph, t->model->weights.tensors[i]->name);
		if (value != QD_NONE && t->graph.values[value].kind == QD_WEIGHT)
			st = qd_optimizer_add(&t->loop.optimizer, &t->graph, value, &t->graph.values[value].data, 1);
	}
	return st;
}

/* down uniform in +-1/sqrt(fan in), which is Kaiming's rule with a = sqrt(5) (He et al. 2015); up stays zero, so the first step is
 * the base model. */
static void start_adapter(struct qd_adapter *adapter, uint64_t seed)
{
	struct qd_random random;

	qd_random_init(&random, seed, qd_stream(QD_STREAM_FRESH, 0));
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
	start_adapter(&t->adapter, t->options->loop.seed);
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

/* Parameters for the down and up of every layer, in this order; its gain is fed once. */
static enum qd_status add_adapter(struct trainer *t)
{
	const struct qd_value *values = t->graph.values;
	enum qd_status st = QD_OK;

	for (size_t i = 0; i < t->slots.n; i++) {
		const struct qd_slot *slot = &t->slots.items[i];
		const struct qd_lora *lora = qd_adapter_find(&t->adapter, slot->path);
		struct qd_tensor down = qd_tensor_view(NULL, QD_F32, values[slot->down].shape, lora->down);
		struct qd_tensor up = qd_tensor_view(NULL, QD_F32, values[slot->up].shape, lora->up);
		struct qd_tensor gain = qd_tensor_view(values[slot->gain].name, QD_F32, values[slot->gain].shape, lora->gain);

		QD_TRY(st, qd_optimizer_add(&t->loop.optimizer, &t->graph, slot->down, &down, 1));
		QD_TRY(st, qd_optimizer_add(&t->loop.optimizer, &t->graph, slot->up, &up, 1));
		QD_TRY(st, qd_runner_feed(&t->runner, &gain));
	}
out:
	return st;
}

/* Puts the parameters, or their averages, where the graph reads them. */
static enum qd_status use_parameters(struct trainer *t, bool averaged)
{
	enum qd_status st = QD_OK;

	for (size_t i = 0; st == QD_OK && i < t->loop.optimizer.n; i++) {
		const struct qd_param *p = &t->loop.optimizer.params[i];
		qt_tensor x = averaged ? qd_param_kept(p) : p->x;
		if (t->graph.values[p->value].kind == QD_WEIGHT)
			st = qd_exec_set_weight(t->runner.exec, p->value, x);
		else
			st = qd_exec_bind(t->runner.exec, p->value, x);
	}
	return st;
}

/* ---- preparing ---- */

/* The data has latents, and what is validated on has the same tensors. */
static enum qd_status check_data(struct trainer *t, const char *name)
{
	const struct qd_dataset *data = &t->loop.data;
	const char *validation = t->options->validation;
	enum qd_status st = QD_OK;

	if (!data->has[QD_FIELD_LATENTS])
		return qd_fail(QD_EINPUT, "cannot use '%s': tensor 'latents' is missing", name);
	if (validation != NULL)
		st = qd_dataset_open(&t->validation, &validation, 1, &t->model->config, QD_DATA_TRAIN);
	for (int f = 0; st == QD_OK && validation != NULL && f < QD_FIELD_COUNT; f++)
		if (data->has[f] != t->validation.has[f] || !qd_shape_equal(&data->shape[f], &t->validation.shape[f]))
			st = qd_fail(QD_EINPUT, "cannot use '%s': tensor '%s' is not as in '%s'", validation,
				qd_data_field_name((enum qd_data_field)f), name);
	return st;
}

static enum qd_status build_graph(struct trainer *t)
{
	struct qd_sizes sizes = qd_dataset_sizes(&t->loop.data, t->options->loop.batch);
	enum qd_status st = QD_OK;

	qd_graph_init(&t->graph, "unet");
	QD_TRY(st, qd_model_graph(&t->graph, t->model, &sizes));
	if (t->options->init_adapter != NULL)
		QD_TRY(st, given_adapter(t));
	else if (t->options->lora > 0)
		QD_TRY(st, fresh_adapter(t));
	if (trains_adapter(t))
		QD_TRY(st, qd_slots_attach(&t->slots, &t->graph));
	QD_TRY(st, qd_runner_open_libtorch(&t->runner, &t->graph, NULL));
	QD_TRY(st, trains_adapter(t) ? add_adapter(t) : add_weights(t));
	QD_TRY(st, use_parameters(t, false));
out:
	return st;
}

/* Fails before anything is computed when the output cannot be written. */
static enum qd_status probe_output(const struct trainer *t)
{
	struct qd_output file = { 0 };
	struct qd_output_folder folder = { 0 };
	enum qd_status st = trains_adapter(t) ? qd_output_open(&file, t->options->loop.output, t->options->loop.force)
					      : qd_output_folder_open(&folder, t->options->loop.output, t->options->loop.force);

	qd_output_release(&file);
	qd_output_folder_release(&folder);
	return st;
}

/* ---- the objective ---- */

static enum qd_status identify_training(void *context, FILE *text)
{
	const struct trainer *t = context;
	const struct qd_train_options *o = t->options;
	char hash[QD_HASH_TEXT];
	enum qd_status st = qd_model_hash(t->model, hash);

	if (st != QD_OK)
		return st;
	fprintf(text, "model %s\nobjective %a %a %d\n", hash, o->snr_gamma, o->prompt_dropout, o->bfloat16);
	fprintf(text, "adapter %s %" PRId64 " %a\n", t->adapter.hash, o->lora, o->alpha);
	for (size_t i = 0; i < t->slots.n; i++)
		fprintf(text, "slot %s %" PRId64 "\n", t->slots.items[i].path, t->slots.items[i].rank);
	return QD_OK;
}

/* The loss of the batch as it is filled. */
static enum qd_status batch_loss(struct trainer *t, qt_tensor *loss)
{
	qt_tensor out = NULL, target = NULL, weight = NULL, weighted = NULL;
	enum qd_status st;

	*loss = NULL;
	QD_TRY(st, qd_batch_feed(&t->loop.batch, &t->runner));
	QD_TRY(st, qd_exec_run(t->runner.exec, &out));
	QD_TRY(st, qt_from_tensor(&t->loop.batch.target, &target));
	if (t->noising.snr_gamma > 0) {
		QD_TRY(st, qt_from_tensor(&t->loop.batch.root_weight, &weight));
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

static enum qd_status learn(void *context, int64_t step, const int64_t *index, double *value)
{
	struct trainer *t = context;
	struct qd_batch *batch = &t->loop.batch;
	struct qd_random random;
	qt_tensor loss = NULL;
	enum qd_status st;

	qd_random_init(&random, t->options->loop.seed, qd_stream(QD_STREAM_STEP, (uint64_t)step));
	memcpy(batch->index, index, (size_t)batch->n * sizeof(*index));
	QD_TRY(st, qd_batch_fill(batch, &t->loop.data, &t->noising, &random));
	QD_TRY(st, batch_loss(t, &loss));
	QD_TRY(st, qt_item(loss, value));
	QD_TRY(st, qt_backward(loss));
out:
	qt_free(loss);
	return st;
}

/* Mean loss over the validation file, the same draws every time, with the averaged weights where there are any. */
static enum qd_status validation_loss(void *context, double *mean)
{
	struct trainer *t = context;
	struct qd_noising noising = { .schedule = &t->loop.schedule, .snr_gamma = t->noising.snr_gamma };
	struct qd_batch *batch = &t->loop.batch;
	int64_t batches = (t->validation.n + batch->n - 1) / batch->n;
	double sum = 0, value;
	qt_tensor loss = NULL;
	enum qd_status st;

	*mean = NAN;
	if (t->options->validation == NULL)
		return QD_OK;
	QD_TRY(st, use_parameters(t, true));
	for (int64_t b = 0; b < batches; b++) {
		struct qd_random random;
		qd_random_init(&random, t->options->loop.seed, qd_stream(QD_STREAM_VALIDATION, (uint64_t)b));
		for (int64_t i = 0; i < batch->n; i++)
			batch->index[i] = (b * batch->n + i) % t->validation.n;
		QD_TRY(st, qd_batch_fill(batch, &t->validation, &noising, &random));
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
	return st;
}

static void note_losses(const void *context, char *text, size_t size)
{
	const struct trainer *t = context;

	if (isnan(t->loop.measure))
		snprintf(text, size, "loss %.5f", t->loop.smooth);
	else
		snprintf(text, size, "loss %.5f validation %.5f", t->loop.smooth, t->loop.measure);
}

/* ---- writing ---- */

static const struct qd_param *param_of(const struct trainer *t, const char *name)
{
	for (size_t i = 0; i < t->loop.optimizer.n; i++)
		if (strcmp(t->loop.optimizer.params[i].name, name) == 0)
			return &t->loop.optimizer.params[i];
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

	QD_TRY(st, qd_output_folder_open(&folder, t->options->loop.output, t->options->loop.force));
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
static enum qd_status write_trained_adapter(struct trainer *t)
{
	enum qd_status st = QD_OK;

	for (size_t i = 0; i < t->slots.n; i++) {
		uint32_t at = qd_strmap_get(&t->adapter.by_path, t->slots.items[i].path);
		struct qd_lora *lora = &t->adapter.loras[at];
		QD_TRY(st, read_param(&t->loop.optimizer.params[2 * i], (size_t)(lora->rank * lora->in * lora->kh * lora->kw),
				   lora->down));
		QD_TRY(st, read_param(&t->loop.optimizer.params[2 * i + 1], (size_t)(lora->out * lora->rank), lora->up));
	}
	st = qd_adapter_write(&t->adapter, t->options->loop.output, t->options->dtype, false, t->options->loop.force);
out:
	return st;
}

static enum qd_status write_trained(void *context)
{
	struct trainer *t = context;
	return trains_adapter(t) ? write_trained_adapter(t) : write_model(t);
}

/* ---- the whole ---- */

static const struct qd_objective plain = { .name = "train",
	.one_rate = true,
	.identify = identify_training,
	.learn = learn,
	.measure = validation_loss,
	.note = note_losses,
	.write = write_trained };

static void release_trainer(struct trainer *t)
{
	qd_loop_release(&t->loop);
	qd_runner_release(&t->runner);
	qd_graph_release(&t->graph);
	qd_slots_release(&t->slots);
	qd_adapter_release(&t->adapter);
	qd_dataset_release(&t->validation);
}

enum qd_status qd_train(const struct qd_model *model, const struct qd_modules *modules, const char *const *data, size_t n_data,
	const struct qd_train_options *options, struct qd_train_result *result)
{
	struct trainer t = { .model = model, .modules = modules, .options = options };
	enum qd_status st;

	*result = (struct qd_train_result){ .loss = NAN, .validation = NAN };
	QD_TRY(st, probe_output(&t));
	QD_TRY(st, qd_loop_open(&t.loop, &plain, &t, &options->loop, model, data, n_data));
	t.loop.optimizer.ema = options->ema;
	t.noising = (struct qd_noising){ &t.loop.schedule, options->snr_gamma, options->prompt_dropout };
	QD_TRY(st, check_data(&t, data[0]));
	QD_TRY(st, build_graph(&t));
	qt_set_bfloat16(options->bfloat16);
	QD_TRY(st, qd_loop_run(&t.loop, t.loop.data.n));
	*result = (struct qd_train_result){ .parameters = qd_optimizer_parameters(&t.loop.optimizer),
		.resumed_at = t.loop.resumed_at,
		.loss = t.loop.late_loss,
		.validation = t.loop.measure,
		.seconds = t.loop.seconds };
out:
	qt_set_bfloat16(false);
	release_trainer(&t);
	return st;
}
