/*
 * The making of calibration data, and its file.
 *
 * Which row, adapter and step each of N samples comes from stands in prepare_spread.c. Without trajectories its timestep is drawn
 * from a stratum of its own, so that all noise levels are alike whatever N is: p is a random order of 0 ... N - 1, u uniform, the
 * noise e drawn (or given), and
 *
 *   t      = floor((p_i + u) T / N)
 *   sample = [ sqrt(abar_t) latents + sqrt(1 - abar_t) e, condition ]
 *
 * Of data that has `sample` and `timestep` and no latents rows are passed on as they are. The file is written tensor by tensor from
 * the finished records.
 */
#include "lib/data/internal.h"
#include "lib/tokenizer/tokenizer.h"

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
	struct qd_scheduler scheduler; /* of trajectories */
	int steps;                     /* of a trajectory; 0 without */
	/* images */
	struct qd_image_folder folder;
	struct qd_prepare_texts texts;
	struct qd_prepare_images images;
	int64_t negative;
	/* arrays */
	struct qd_dataset arrays;
	struct qd_prepare_source source;
	struct qd_prepare_store store;
	int64_t n; /* samples */
	struct qd_prepare_spread_rows rows;
	struct qd_prepare_spread spread;
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
	if (m->options->dry_run)
		QD_TRY(st, qd_prepare_images_check(&m->images));
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
	QD_TRY(st, qd_dataset_check_timesteps(&m->arrays, m->schedule.train_steps));
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

/* Which rows are told the same: their captions, or the contexts themselves, are equal. */
static enum qd_status number_prompts(struct making *m)
{
	size_t context = (size_t)qd_shape_elements(&m->source.shape[QD_FIELD_CONTEXT]);
	float *values = malloc(context * sizeof(*values));
	struct qd_strmap map = { 0 };
	enum qd_status st = QD_OK;

	m->rows =
		(struct qd_prepare_spread_rows){ .n = m->source.n, .prompt = calloc((size_t)m->source.n, sizeof(*m->rows.prompt)) };
	if (values == NULL || m->rows.prompt == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory for the prompts of %" PRId64 " rows", m->source.n));
	for (int64_t i = 0; i < m->source.n; i++) {
		char hash[QD_HASH_TEXT];
		uint32_t found;
		if (m->is_folder) {
			m->rows.prompt[i] = m->texts.of_row[i];
			continue;
		}
		QD_TRY(st, qd_prepare_row(&m->source, QD_FIELD_CONTEXT, i, values));
		qd_hash_bytes(values, context * sizeof(*values), hash);
		found = qd_strmap_get(&map, hash);
		if (found == QD_NONE)
			QD_TRY(st, qd_strmap_put(&map, hash, found = map.n));
		m->rows.prompt[i] = found;
	}
out:
	qd_strmap_release(&map);
	free(values);
	return st;
}

static enum qd_status spread_stored(struct making *m)
{
	double *timesteps = malloc((size_t)m->source.n * sizeof(*timesteps));
	enum qd_status st = QD_OK;

	if (timesteps == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory for %" PRId64 " rows", m->source.n));
	for (int64_t i = 0; i < m->source.n; i++) {
		float timestep;
		QD_TRY(st, qd_prepare_row(&m->source, QD_FIELD_TIMESTEP, i, &timestep));
		timesteps[i] = (double)timestep;
	}
	st = qd_prepare_spread_stored(&m->spread, &m->rows, timesteps, m->n, m->options->seed);
out:
	free(timesteps);
	return st;
}

static enum qd_status spread_samples(struct making *m)
{
	enum qd_status st;

	QD_TRY(st, number_prompts(m));
	if (m->steps > 0)
		st = qd_prepare_spread_trajectories(&m->spread, &m->rows, m->n_adapters, m->steps, m->n, m->options->seed);
	else if (m->source.has[QD_FIELD_LATENTS])
		st = qd_prepare_spread_noised(&m->spread, &m->rows, m->n, m->options->seed);
	else
		st = spread_stored(m);
out:
	return st;
}

static int64_t row_of(const struct making *m, int64_t sample)
{
	return m->spread.row[sample];
}

static int timestep_of(const struct making *m, int64_t sample)
{
	struct qd_random random;
	double T = m->schedule.train_steps, t;

	qd_random_init(&random, m->options->seed, qd_stream(QD_STREAM_TIMESTEP, (uint64_t)sample));
	t = floor(((double)m->spread.stratum[sample] + qd_random_uniform(&random)) * T / (double)m->n);
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

/* The trajectory that a sample is of. */
static int64_t trajectory_of(const struct making *m, int64_t sample)
{
	const struct qd_prepare_spread *s = &m->spread;
	int64_t longer = s->n % s->n_trajectories, each = s->n / s->n_trajectories, split = longer * (each + 1);

	return sample < split ? sample / (each + 1) : longer + (sample - split) / each;
}

/* A sample out of a trajectory's record. */
static enum qd_status walked(const struct making *m, enum qd_data_field field, int64_t sample, size_t row, float *out)
{
	int64_t j = trajectory_of(m, sample);
	const struct qd_prepare_trajectory *t = &m->spread.trajectories[j];
	size_t all = row * (size_t)t->n;
	float *values = malloc(all * sizeof(*values));
	enum qd_status st = QD_OK;

	if (values == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory"));
	QD_TRY(st, qd_prepare_store_get(&m->store, "walk", j, qd_data_field_name(field), all, values));
	memcpy(out, values + (size_t)(sample - t->first) * row, row * sizeof(*out));
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
	char *made = NULL;
	const char *metadata[] = { QD_PROVENANCE_KEY, NULL };
	enum qd_status st = QD_OK;

	for (int f = 0; f < QD_FIELD_COUNT; f++)
		if (is_written(m, (enum qd_data_field)f))
			QD_TRY(st, add_tensor(&w, (enum qd_data_field)f));
	QD_TRY(st, qd_provenance_text(m->options->provenance, &made));
	metadata[1] = made;
	st = qd_safetensors_write(m->options->output, w.tensors, w.n, metadata, 1, m->options->force, fill_samples, &w);
out:
	free(made);
	return st;
}

/* ---- which run this is ---- */

static enum qd_status note_components(const struct making *m, struct qd_provenance *made)
{
	char hash[QD_HASH_TEXT];
	enum qd_status st = QD_OK;

	if (m->is_folder) {
		QD_TRY(st, qd_prepare_network_hash(&m->images.vae, hash));
		QD_TRY(st, qd_provenance_input(made, "vae", NULL, hash));
	}
	for (size_t i = 0; i < m->texts.n_encoders; i++) {
		QD_TRY(st, qd_prepare_network_hash(&m->texts.encoders[i], hash));
		QD_TRY(st, qd_provenance_input(made, "text_encoder", NULL, hash));
		QD_TRY(st, qd_tokenizer_hash(m->texts.folders[i], hash));
		QD_TRY(st, qd_provenance_input(made, "tokenizer", NULL, hash));
	}
out:
	return st;
}

static enum qd_status note_sampler(const struct making *m, struct qd_provenance *made)
{
	const char *file = strchr(m->options->trajectory, ':');
	char hash[QD_HASH_TEXT];
	enum qd_status st = QD_OK;

	if (file != NULL)
		QD_TRY(st, qd_provenance_file(made, "sampler", file + 1));
	QD_TRY(st, qd_model_hash(m->model, hash));
	QD_TRY(st, qd_provenance_input(made, "base", NULL, hash));
	for (size_t i = 0; i < m->n_adapters; i++)
		QD_TRY(st, qd_provenance_input(made, "adapter", NULL, m->adapters[i]->hash));
out:
	return st;
}

/* Everything beside the data that shapes the samples. */
static enum qd_status note_inputs(const struct making *m)
{
	struct qd_provenance *made = m->options->provenance;
	char hash[QD_HASH_TEXT];
	enum qd_status st;

	QD_TRY(st, note_components(m, made));
	if (m->steps > 0 || m->source.has[QD_FIELD_LATENTS]) {
		qd_schedule_hash(&m->schedule, hash);
		QD_TRY(st, qd_provenance_input(made, "schedule", NULL, hash));
	}
	if (m->steps > 0)
		st = note_sampler(m, made);
out:
	return st;
}

static enum qd_status note_data(const struct making *m)
{
	char hash[QD_HASH_TEXT];
	enum qd_status st = m->is_folder ? qd_prepare_images_hash(&m->images, hash) : qd_dataset_hash(&m->arrays, hash);

	return st == QD_OK ? qd_provenance_input(m->options->provenance, "data", NULL, hash) : st;
}

/* Lines of "key value" over everything that shapes all records, beside what each is made from; heap memory. */
static enum qd_status identify(const struct making *m, char **run)
{
	const struct qd_prepare_options *o = m->options;
	const struct qd_unet_config *unet = &m->model->config;
	struct qd_text text;
	enum qd_status st;

	QD_TRY(st, qd_text_open(&text));
	fprintf(text.stream,
		"calib 3\nseed %" PRIu64 "\nsize %" PRId64 " %" PRId64 "\nmode %d\nchannels %" PRId64 " %" PRId64 " %" PRId64 "\n",
		o->seed, m->images.height, m->images.width, o->mode, unet->in_channels, unet->out_channels,
		unet->text_time ? unet->time_ids : 0);
	if (m->steps > 0)
		fprintf(text.stream, "trajectory %.*s %d\nsamples %" PRId64 "\nguidance %a %" PRId64 "\n",
			(int)strcspn(o->trajectory, ":"), o->trajectory, m->steps, m->n, o->guidance, m->negative);
	for (size_t i = 0; i < o->provenance->n_inputs; i++) {
		const struct qd_made_input *input = &o->provenance->inputs[i];

		fprintf(text.stream, "%s %s %s\n", input->role, input->hash, input->name != NULL ? input->name : "");
	}
	QD_TRY(st, qd_text_end(&text));
	*run = qd_text_take(&text);
out:
	qd_text_release(&text);
	return st;
}

/* ---- all of it ---- */

static int by_value(const void *a, const void *b)
{
	const double *x = a, *y = b;
	return *x < *y ? -1 : *x > *y;
}

static int64_t count_set(const bool *set, int64_t n)
{
	int64_t count = 0;

	for (int64_t i = 0; i < n; i++)
		count += set[i];
	return count;
}

/* What the samples are of. */
static enum qd_status summarize(struct making *m)
{
	struct qd_prepare_result *r = m->result;
	double *timesteps = malloc((size_t)m->n * sizeof(*timesteps));
	bool *prompts = calloc((size_t)m->rows.n, sizeof(*prompts)), *adapters = calloc(m->n_adapters + 1, sizeof(*adapters));
	enum qd_status st = QD_OK;

	if (timesteps == NULL || prompts == NULL || adapters == NULL)
		QD_TRY(st, qd_fail(QD_ENOMEM, "out of memory for %" PRId64 " samples", m->n));
	for (int64_t i = 0; i < m->n; i++) {
		float stored;
		prompts[m->rows.prompt[row_of(m, i)]] = true;
		if (m->steps > 0) {
			timesteps[i] = (double)(float)m->scheduler.timesteps[m->spread.step[i]];
		} else if (m->source.has[QD_FIELD_LATENTS]) {
			timesteps[i] = timestep_of(m, i);
		} else {
			QD_TRY(st, qd_prepare_row(&m->source, QD_FIELD_TIMESTEP, row_of(m, i), &stored));
			timesteps[i] = (double)stored;
		}
	}
	for (int64_t j = 0; m->n_adapters > 0 && j < m->spread.n_trajectories; j++)
		adapters[m->spread.trajectories[j].adapter] = true;
	r->prompts = count_set(prompts, m->rows.n);
	r->adapters = count_set(adapters, (int64_t)m->n_adapters);
	qsort(timesteps, (size_t)m->n, sizeof(*timesteps), by_value);
	for (int64_t i = 0; i < m->n; i++)
		r->timesteps += i == 0 || timesteps[i] != timesteps[i - 1];
	r->first_timestep = timesteps[0];
	r->last_timestep = timesteps[m->n - 1];
out:
	free(timesteps);
	free(prompts);
	free(adapters);
	return st;
}

static enum qd_status open_all(struct making *m)
{
	const struct qd_prepare_options *o = m->options;
	enum qd_status st;

	QD_TRY(st, qd_model_schedule(&m->schedule, m->model));
	if (o->trajectory != NULL) {
		QD_TRY(st, qd_scheduler_new(&m->scheduler, &m->schedule, o->trajectory, o->trajectory_steps));
		m->steps = m->scheduler.steps;
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
	QD_TRY(st, spread_samples(m));
	st = summarize(m);
out:
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
		.scheduler = &m->scheduler,
		.spread = &m->spread,
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
	if (m->steps > 0)
		QD_TRY(st, qd_prepare_walk(&walks, &m->store));
	m->result->kept = m->store.kept;
out:
	free(run);
	return st;
}

static void making_release(struct making *m)
{
	qd_prepare_spread_release(&m->spread);
	free(m->rows.prompt);
	qd_scheduler_release(&m->scheduler);
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
	QD_TRY(st, note_inputs(&m));
	QD_TRY(st, make_records(&m));
	QD_TRY(st, note_data(&m));
	QD_TRY(st, write_samples(&m));
	if (m.store.folder != NULL)
		qd_prepare_store_remove(&m.store);
out:
	qd_output_release(&probe);
	making_release(&m);
	return st;
}
