/*
 * The making of calibration data, and its file.
 *
 * Sample i of N comes from row i mod n. Without trajectories its timestep is drawn from a stratum of its own, so that all noise
 * levels are alike whatever N is: p is a random order of 0 ... N - 1, u uniform, the noise e drawn (or given), and
 *
 *   t      = floor((p_i + u) T / N)
 *   sample = [ sqrt(abar_t) latents + sqrt(1 - abar_t) e, condition ]
 *
 * Data that has `sample` and `timestep` and no latents is passed on as it is. The file is written tensor by tensor from the
 * finished records.
 */
#include "lib/data/internal.h"

#include <dirent.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct making {
	const struct qd_model *model;
	const struct qd_modules *modules;
	const struct qd_adapter *const *adapters;
	size_t n_adapters;
	const struct qd_prepare_options *options;
	struct qd_prepare_result *result;
	bool is_folder; /* of images */
	struct qd_schedule schedule;
	int steps; /* of a trajectory; 0 without */
	/* images */
	struct qd_image_folder folder;
	struct qd_prepare_texts texts;
	struct qd_prepare_images images;
	int64_t negative;
	/* arrays */
	struct qd_dataset arrays;
	struct qd_prepare_source source;
	struct qd_prepare_store store;
	int64_t n;       /* samples */
	int64_t *strata; /* [n] */
};

/* ---- where the rows are ---- */

static bool holds_npy(const char *path)
{
	DIR *folder = opendir(path);
	bool holds = false;

	for (struct dirent *entry; folder != NULL && !holds && (entry = readdir(folder)) != NULL;)
		holds = qd_ends_with(entry->d_name, ".npy");
	if (folder != NULL)
		closedir(folder);
	return holds;
}

enum qd_status qd_prepare_row(const struct qd_prepare_source *source, enum qd_data_field field, int64_t row, float *out)
{
	size_t n = (size_t)qd_shape_elements(&source->shape[field]);

	if (source->arrays != NULL)
		return qd_dataset_gather(source->arrays, field, &row, 1, out);
	if (field == QD_FIELD_CONTEXT || field == QD_FIELD_TEXT_EMBEDS)
		return qd_prepare_store_get(source->store, "text", source->texts->of_row[row], qd_data_field_name(field), n, out);
	return qd_prepare_store_get(source->store, "image", row, qd_data_field_name(field), n, out);
}

static void give(struct qd_prepare_source *source, enum qd_data_field field, struct qd_shape shape)
{
	source->has[field] = true;
	source->shape[field] = shape;
}

static enum qd_status open_images(struct making *m)
{
	const struct qd_unet_config *unet = &m->model->config;
	struct qd_prepare_source *source = &m->source;
	bool zeros = unet->text_time && m->model->pipeline.zeros_for_empty_prompt;
	bool empty = m->steps > 0 && m->options->guidance != 1 && !zeros;
	enum qd_status st;

	QD_TRY(st, qd_image_folder_open(&m->folder, m->options->data, m->options->text_column));
	QD_TRY(st, qd_prepare_texts_open(&m->texts, m->model, m->folder.rows, m->folder.n, empty));
	QD_TRY(st, qd_prepare_images_open(&m->images, m->model, &m->folder, m->options));
	m->negative = -1;
	for (size_t i = 0; empty && i < m->texts.n; i++)
		if (m->texts.texts[i][0] == '\0')
			m->negative = (int64_t)i;
	*source = (struct qd_prepare_source){ .n = (int64_t)m->folder.n, .texts = &m->texts, .store = &m->store };
	give(source, QD_FIELD_CONTEXT, QD_SHAPE(m->texts.tokens, m->texts.features));
	if (m->images.latents)
		give(source, QD_FIELD_LATENTS, QD_SHAPE(m->images.channels, m->images.latent_height, m->images.latent_width));
	if (m->images.condition > 0)
		give(source, QD_FIELD_CONDITION, QD_SHAPE(m->images.condition, m->images.latent_height, m->images.latent_width));
	give(source, QD_FIELD_SAMPLE, QD_SHAPE(unet->in_channels, m->images.latent_height, m->images.latent_width));
	if (unet->text_time) {
		give(source, QD_FIELD_TEXT_EMBEDS, QD_SHAPE(m->texts.embeds));
		give(source, QD_FIELD_TIME_IDS, QD_SHAPE(unet->time_ids));
	}
	if (unet->time_cond_dim > 0)
		QD_TRY(st, qd_fail(QD_EUNSUPPORTED, "the UNet takes 'timestep_cond', which images do not tell"));
	m->result->prompts = (int64_t)m->texts.n;
out:
	return st;
}

static enum qd_status open_arrays(struct making *m)
{
	const char *const paths[] = { m->options->data };
	struct qd_prepare_source *source = &m->source;
	bool latents;
	enum qd_status st;

	QD_TRY(st, qd_dataset_open(&m->arrays, paths, 1, &m->model->config, QD_DATA_TRAIN));
	*source = (struct qd_prepare_source){ .n = m->arrays.n, .arrays = &m->arrays };
	memcpy(source->has, m->arrays.has, sizeof(source->has));
	memcpy(source->shape, m->arrays.shape, sizeof(source->shape));
	latents = source->has[QD_FIELD_LATENTS];
	if (m->options->height > 0)
		QD_TRY(st, qd_fail(QD_EINPUT, "'%s' holds arrays: their size is what it is", m->options->data));
	if (m->options->guidance != 1)
		QD_TRY(st,
			qd_fail(QD_EINPUT, "guidance needs a folder of images with captions, '%s' holds arrays", m->options->data));
	if (m->steps > 0 && !latents && m->model->config.in_channels > m->model->config.out_channels)
		QD_TRY(st,
			qd_fail(QD_EINPUT, "trajectories need tensor 'condition', '%s' has noisy samples alone", m->options->data));
	if (latents) {
		struct qd_shape sample = source->shape[QD_FIELD_LATENTS];
		sample.dim[0] = m->model->config.in_channels;
		give(source, QD_FIELD_SAMPLE, sample);
		source->has[QD_FIELD_TIMESTEP] = false;
	}
out:
	return st;
}

/* ---- samples ---- */

static int64_t row_of(const struct making *m, int64_t sample)
{
	return (m->steps > 0 ? sample / m->steps : sample) % m->source.n;
}

static enum qd_status make_strata(struct making *m)
{
	struct qd_random random;

	m->strata = malloc((size_t)m->n * sizeof(*m->strata));
	if (m->strata == NULL)
		return qd_fail(QD_ENOMEM, "out of memory for %" PRId64 " samples", m->n);
	qd_random_init(&random, m->options->seed, qd_stream(QD_STREAM_ORDER, 0));
	for (int64_t i = 0; i < m->n; i++) {
		int64_t j = (int64_t)qd_random_below(&random, (uint64_t)i + 1);
		m->strata[i] = m->strata[j];
		m->strata[j] = i;
	}
	return QD_OK;
}

static int timestep_of(const struct making *m, int64_t sample)
{
	struct qd_random random;
	double T = m->schedule.train_steps, t;

	qd_random_init(&random, m->options->seed, qd_stream(QD_STREAM_TIMESTEP, (uint64_t)sample));
	t = floor(((double)m->strata[sample] + qd_random_uniform(&random)) * T / (double)m->n);
	return (int)fmin(t, T - 1);
}

static enum qd_status noise_of(const struct making *m, int64_t sample, float *out)
{
	size_t n = (size_t)qd_shape_elements(&m->source.shape[QD_FIELD_LATENTS]);

	if (m->source.has[QD_FIELD_NOISE] && sample < m->source.n)
		return qd_prepare_row(&m->source, QD_FIELD_NOISE, row_of(m, sample), out);
	qd_random_normals(m->options->seed, qd_stream(QD_STREAM_NOISE, (uint64_t)sample), n, out);
	return QD_OK;
}

static enum qd_status noised(const struct making *m, int64_t sample, float *out)
{
	size_t n = (size_t)qd_shape_elements(&m->source.shape[QD_FIELD_LATENTS]);
	struct qd_noise_level level = qd_noise_level_of(m->schedule.alphas_cumprod[timestep_of(m, sample)]);
	float *noise = malloc(n * sizeof(*noise));
	enum qd_status st = QD_OK;

	if (noise == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
	QD_TRY(st, noise_of(m, sample, noise));
	QD_TRY(st, qd_prepare_row(&m->source, QD_FIELD_LATENTS, row_of(m, sample), out));
	for (size_t i = 0; i < n; i++)
		out[i] = (float)qd_noised(level, (double)out[i], (double)noise[i]);
	if (m->source.has[QD_FIELD_CONDITION])
		st = qd_prepare_row(&m->source, QD_FIELD_CONDITION, row_of(m, sample), out + n);
out:
	free(noise);
	return st;
}

/* One step of a trajectory's record. */
static enum qd_status walked(const struct making *m, enum qd_data_field field, int64_t sample, size_t row, float *out)
{
	size_t all = row * (size_t)m->steps;
	float *values = malloc(all * sizeof(*values));
	enum qd_status st = QD_OK;

	if (values == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
	QD_TRY(st, qd_prepare_store_get(&m->store, "walk", sample / m->steps, qd_data_field_name(field), all, values));
	memcpy(out, values + (size_t)(sample % m->steps) * row, row * sizeof(*out));
out:
	free(values);
	return st;
}

static enum qd_status sample_field(const struct making *m, enum qd_data_field field, int64_t sample, size_t row, float *out)
{
	bool drawn = m->source.has[QD_FIELD_LATENTS];

	if (m->steps > 0 && (field == QD_FIELD_SAMPLE || field == QD_FIELD_TIMESTEP))
		return walked(m, field, sample, row, out);
	if (drawn && field == QD_FIELD_TIMESTEP) {
		*out = (float)timestep_of(m, sample);
		return QD_OK;
	}
	if (drawn && field == QD_FIELD_SAMPLE)
		return noised(m, sample, out);
	if (drawn && field == QD_FIELD_NOISE)
		return noise_of(m, sample, out);
	return qd_prepare_row(&m->source, field, row_of(m, sample), out);
}

/* ---- the file ---- */

struct writing {
	const struct making *making;
	enum qd_data_field fields[QD_FIELD_COUNT];
	struct qd_tensor tensors[QD_FIELD_COUNT];
	size_t n;
};

static bool is_written(const struct making *m, enum qd_data_field field)
{
	switch (field) {
	case QD_FIELD_SAMPLE:
	case QD_FIELD_TIMESTEP:
		return true;
	case QD_FIELD_LATENTS:
	case QD_FIELD_CONDITION:
		return m->steps == 0 && m->source.has[field];
	case QD_FIELD_NOISE:
		return m->steps == 0 && m->source.has[QD_FIELD_LATENTS];
	default:
		return m->source.has[field] && qd_data_field_needed(&m->model->config, field).rank >= 0;
	}
}

static enum qd_status add_tensor(struct writing *w, enum qd_data_field field)
{
	const struct making *m = w->making;
	struct qd_shape row = m->source.shape[field == QD_FIELD_NOISE ? QD_FIELD_LATENTS : field], shape = { .dim = { m->n } };
	struct qd_tensor *t = &w->tensors[w->n];

	if (field == QD_FIELD_TIMESTEP)
		row.rank = 0;
	shape.rank = row.rank + 1;
	memcpy(shape.dim + 1, row.dim, (size_t)row.rank * sizeof(*row.dim));
	/* half precision has no 999.5 */
	*t = qd_tensor_view(qd_data_field_name(field), field == QD_FIELD_TIMESTEP ? QD_F32 : m->options->dtype, shape, NULL);
	w->fields[w->n++] = field;
	return qd_shape_bytes(&shape, t->dtype, &t->bytes);
}

static enum qd_status fill_samples(void *context, size_t i, void *buffer)
{
	struct writing *w = context;
	const struct making *m = w->making;
	const struct qd_tensor *t = &w->tensors[i];
	size_t row = (size_t)(qd_shape_elements(&t->shape) / m->n), bytes = t->bytes / (size_t)m->n;
	float *values = malloc(row * sizeof(*values));
	enum qd_status st = QD_OK;

	if (values == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
	for (int64_t s = 0; s < m->n; s++) {
		struct qd_tensor out =
			qd_tensor_view(t->name, t->dtype, QD_SHAPE((int64_t)row), (char *)buffer + (size_t)s * bytes);
		QD_TRY(st, sample_field(m, w->fields[i], s, row, values));
		QD_TRY(st, qd_tensor_from_f32(&out, values));
		qd_progress("writing", (uint64_t)(s + 1), (uint64_t)m->n, t->name);
	}
out:
	free(values);
	return st;
}

static enum qd_status write_samples(const struct making *m)
{
	struct writing w = { .making = m };
	enum qd_status st = QD_OK;

	for (int f = 0; f < QD_FIELD_COUNT; f++)
		if (is_written(m, (enum qd_data_field)f))
			QD_TRY(st, add_tensor(&w, (enum qd_data_field)f));
	st = qd_safetensors_write(m->options->output, w.tensors, w.n, NULL, 0, m->options->force, fill_samples, &w);
out:
	return st;
}

/* ---- which run this is ---- */

static enum qd_status print_file(FILE *f, const char *path)
{
	char hash[QD_HASH_TEXT];
	enum qd_status st = path != NULL ? qd_hash_file(path, hash) : QD_OK;

	if (path != NULL && st == QD_OK)
		fprintf(f, " %s", hash);
	return st;
}

static enum qd_status print_rows(const struct making *m, FILE *f)
{
	enum qd_status st = QD_OK;

	for (size_t i = 0; st == QD_OK && i < m->folder.n; i++) {
		const struct qd_image_row *row = &m->folder.rows[i];
		fprintf(f, "\nrow %zu '%s'", i, row->text);
		st = print_file(f, row->image);
		if (st == QD_OK)
			st = print_file(f, row->mask);
		if (st == QD_OK)
			st = print_file(f, row->condition);
	}
	return st;
}

static enum qd_status print_components(const struct making *m, FILE *f)
{
	char hash[QD_HASH_TEXT];
	enum qd_status st = QD_OK;

	if (m->is_folder) {
		QD_TRY(st, qd_prepare_network_hash(&m->images.vae, hash));
		fprintf(f, "vae %s\n", hash);
	} else {
		QD_TRY(st, qd_dataset_hash(&m->arrays, hash));
		fprintf(f, "arrays %s\n", hash);
	}
	for (size_t i = 0; i < m->texts.n_encoders; i++) {
		QD_TRY(st, qd_prepare_network_hash(&m->texts.encoders[i], hash));
		fprintf(f, "text %s\n", hash);
	}
	if (m->steps > 0) {
		QD_TRY(st, qd_model_hash(m->model, hash));
		fprintf(f, "unet %s\n", hash);
	}
	for (size_t i = 0; i < m->n_adapters; i++)
		fprintf(f, "adapter %s %s\n", m->adapters[i]->name, m->adapters[i]->hash);
out:
	return st;
}

/* A text over everything that shapes the records; heap memory. */
static enum qd_status identify(const struct making *m, char **run)
{
	const struct qd_prepare_options *o = m->options;
	struct qd_text text;
	enum qd_status st;

	QD_TRY(st, qd_text_open(&text));
	fprintf(text.stream, "calib 1\nseed %" PRIu64 "\nsize %" PRId64 " %" PRId64 "\nmode %d\ntrajectory %s %d %a\nsteps %d\n",
		o->seed, m->images.height, m->images.width, o->mode, o->trajectory != NULL ? o->trajectory : "-", m->steps,
		o->guidance, (int)m->schedule.prediction);
	QD_TRY(st, print_components(m, text.stream));
	QD_TRY(st, print_rows(m, text.stream));
	QD_TRY(st, qd_text_end(&text));
	*run = qd_text_take(&text);
out:
	qd_text_release(&text);
	return st;
}

/* ---- all of it ---- */

static enum qd_status open_all(struct making *m)
{
	const struct qd_prepare_options *o = m->options;
	struct qd_scheduler scheduler = { 0 };
	enum qd_status st;

	QD_TRY(st, qd_model_schedule(&m->schedule, m->model));
	if (o->trajectory != NULL) {
		QD_TRY(st, qd_scheduler_new(&scheduler, &m->schedule, o->trajectory, o->trajectory_steps));
		m->steps = scheduler.steps;
	}
	m->is_folder = qd_is_directory(o->data) && !holds_npy(o->data);
	QD_TRY(st, m->is_folder ? open_images(m) : open_arrays(m));
	m->n = o->count > 0 ? o->count : m->source.n * (m->steps > 0 ? m->steps : 1);
	if (m->steps == 0 && !m->source.has[QD_FIELD_LATENTS] && m->n > m->source.n)
		QD_TRY(st, qd_fail(QD_EINPUT, "%" PRId64 " samples of %" PRId64 " noisy ones in '%s'", m->n, m->source.n, o->data));
	m->result->rows = m->source.n;
	m->result->samples = m->n;
	m->result->height = m->source.shape[QD_FIELD_SAMPLE].dim[1];
	m->result->width = m->source.shape[QD_FIELD_SAMPLE].dim[2];
	m->result->tokens = m->source.shape[QD_FIELD_CONTEXT].dim[0];
	st = make_strata(m);
out:
	qd_scheduler_release(&scheduler);
	return st;
}

/* What takes time. */
static enum qd_status make_records(struct making *m)
{
	struct qd_prepare_walks walks = { .model = m->model,
		.modules = m->modules,
		.adapters = m->adapters,
		.n_adapters = m->n_adapters,
		.options = m->options,
		.source = &m->source,
		.schedule = &m->schedule,
		.negative = m->negative };
	char *run = NULL;
	enum qd_status st = QD_OK;

	if (!m->is_folder && m->steps == 0)
		return QD_OK;
	QD_TRY(st, identify(m, &run));
	QD_TRY(st, qd_prepare_store_open(&m->store, m->options->output, run, m->options->force));
	if (m->is_folder) {
		QD_TRY(st, qd_prepare_texts_encode(&m->texts, &m->store));
		QD_TRY(st, qd_prepare_images_encode(&m->images, &m->store));
	}
	if (m->steps > 0) {
		walks.n = (m->n + m->steps - 1) / m->steps;
		QD_TRY(st, qd_prepare_walk(&walks, &m->store));
	}
	m->result->kept = m->store.kept;
out:
	free(run);
	return st;
}

static void making_release(struct making *m)
{
	free(m->strata);
	qd_prepare_store_release(&m->store);
	qd_dataset_release(&m->arrays);
	qd_prepare_images_release(&m->images);
	qd_prepare_texts_release(&m->texts);
	qd_image_folder_release(&m->folder);
	qd_schedule_release(&m->schedule);
}

enum qd_status qd_prepare_data(const struct qd_model *model, const struct qd_modules *modules,
	const struct qd_adapter *const *adapters, size_t n, const struct qd_prepare_options *options,
	struct qd_prepare_result *result)
{
	struct making m = { .model = model,
		.modules = modules,
		.adapters = adapters,
		.n_adapters = n,
		.options = options,
		.result = result,
		.negative = -1 };
	struct qd_output probe = { 0 };
	enum qd_status st;

	*result = (struct qd_prepare_result){ 0 };
	if (n > 0 && options->trajectory == NULL)
		QD_TRY(st, qd_fail(QD_EINPUT, "adapters shape trajectories alone: give a trajectory, or no adapter"));
	/* an output that cannot be written is found out before the work */
	QD_TRY(st, qd_output_open(&probe, options->output, options->force));
	qd_output_release(&probe);
	QD_TRY(st, open_all(&m));
	if (options->dry_run)
		goto out;
	QD_TRY(st, make_records(&m));
	QD_TRY(st, write_samples(&m));
	if (m.store.folder != NULL)
		qd_prepare_store_remove(&m.store);
out:
	qd_output_release(&probe);
	making_release(&m);
	return st;
}
