/*
 * Noise schedules and the table of schedulers. From scheduler_config.json:
 *
 *   linear            beta_i = linspace(beta_start, beta_end, T)
 *   scaled_linear     beta_i = linspace(sqrt beta_start, sqrt beta_end, T)^2
 *   squaredcos_cap_v2 beta_i = min(1 - c((i+1)/T) / c(i/T), 0.999), c(u) = cos^2((u + 0.008) / 1.008 * pi/2)
 *   abar_t = product over i <= t of (1 - beta_i)
 *
 * beta and abar are rounded to float32 where the reference implementation rounds, the product runs in double. Lists of n timesteps,
 * in the order they are used (o = steps_offset):
 *
 *   leading   q = T div n; t_i = (n - 1 - i) q + o
 *   trailing  step = -T/n, delta = (T + step) - T; t_i = round(T + i delta) - 1, halves to even, in double as NumPy's arange does
 *   linspace  i (T - 1)/(n - 1), descending; whole numbers (halves to even) for DDIM, float32 for Euler; n = 1 gives 0
 *
 * Stable Diffusion 1 and 2 pipelines override two fields of their files: steps_offset is 1 and clip_sample false.
 */
#include "lib/sampler/internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct qd_scheduler_kind *const kinds[] = {
#define QD_SCHEDULER_ROW(name) &qd_scheduler_##name,
	QD_SCHEDULER_LIST(QD_SCHEDULER_ROW)
#undef QD_SCHEDULER_ROW
};

/* ---- reading: betas ---- */

/* As torch.linspace in float32: counted from the nearer end. */
static float linspace(float first, float last, int n, int i)
{
	float step = n > 1 ? (last - first) / (float)(n - 1) : 0;
	return i < n / 2 ? first + step * (float)i : last - step * (float)(n - 1 - i);
}

static double cosine(double u)
{
	double c = cos((u + 0.008) / 1.008 * acos(-1.0) / 2);
	return c * c;
}

static float beta_at(size_t shape, double start, double end, int n, int i)
{
	float root;

	if (shape == 0)
		return linspace((float)start, (float)end, n, i);
	if (shape == 2)
		return (float)fmin(1 - cosine((i + 1.0) / n) / cosine((double)i / n), 0.999);
	root = linspace((float)sqrt(start), (float)sqrt(end), n, i);
	return root * root;
}

static void read_betas(struct qd_fields *f, struct qd_schedule *schedule)
{
	static const char *const shapes[] = { "linear", "scaled_linear", "squaredcos_cap_v2", NULL };
	double start = qd_field_number(f, "beta_start", 0, 1, 1e-4), end = qd_field_number(f, "beta_end", 0, 1, 0.02);
	size_t shape = qd_field_choice(f, "beta_schedule", shapes, 0);
	double product = 1, *abar = schedule->alphas_cumprod;
	bool trained = qd_field_numbers(f, "trained_betas", (size_t)schedule->train_steps, abar);

	for (int i = 0; i < schedule->train_steps; i++) {
		float beta = trained ? (float)abar[i] : beta_at(shape, start, end, schedule->train_steps, i);
		product *= (double)(1 - beta);
		abar[i] = (double)(float)product;
		if (!(product > 0) || product >= 1)
			qd_fields_fail(f, QD_EINPUT,
				"'%s': the betas leave %g of the signal at timestep %d, needs more than 0 and less than 1", f->what,
				product, i);
	}
}

/* ---- reading: the other fields ---- */

const char *const qd_prediction_names[] = { "epsilon", "v_prediction", "sample", NULL };

/* Samplers over the betas of this file: any of them serves as a noise schedule, whichever sampler is then asked for. */
static const char *const classes[] = { "DDIM", "DDIMInverse", "DDIMParallel", "DDPM", "DDPMParallel", "DEISMultistep",
	"DPMSolverMultistep", "DPMSolverMultistepInverse", "DPMSolverSDE", "DPMSolverSinglestep", "EulerAncestralDiscrete",
	"EulerDiscrete", "HeunDiscrete", "KDPM2AncestralDiscrete", "KDPM2Discrete", "LCM", "LMSDiscrete", "PNDM", "SASolver", "TCD",
	"UniPCMultistep" };

static bool is_known_class(const char *name)
{
	for (size_t i = 0; i < QD_COUNT(classes); i++) {
		size_t n = strlen(classes[i]);
		if (strncmp(name, classes[i], n) == 0 && strcmp(name + n, "Scheduler") == 0)
			return true;
	}
	return false;
}

static void refuse_class(struct qd_fields *f, const char *name)
{
	if (name == NULL || is_known_class(name))
		return;
	if (qd_starts_with(name, "FlowMatch") || qd_starts_with(name, "EDM"))
		qd_fields_fail(f, QD_EUNSUPPORTED, "'%s': class '%s' has no discrete noise schedule", f->what, name);
	qd_fields_fail(f, QD_EUNSUPPORTED,
		"'%s': class '%s' is not among the known ones (DDIMScheduler, PNDMScheduler, EulerDiscreteScheduler, ...)", f->what,
		name);
}

/* Values that mean something this file does not compute. */
static void refuse_fields(struct qd_fields *f)
{
	static const char *const flags[] = { "rescale_betas_zero_snr", "thresholding", "use_exponential_sigmas", "use_beta_sigmas",
		"use_flow_sigmas" };
	static const char *const interpolations[] = { "linear", NULL }, *const types[] = { "discrete", NULL };

	refuse_class(f, json_string_value(qd_field(f, "_class_name")));
	for (size_t i = 0; i < QD_COUNT(flags); i++)
		if (qd_field_bool(f, flags[i], false))
			qd_field_refuse(f, QD_EUNSUPPORTED, flags[i], qd_field(f, flags[i]), "false");
	qd_field_choice(f, "interpolation_type", interpolations, 0);
	qd_field_choice(f, "timestep_type", types, 0);
}

static void read_fields(struct qd_fields *f, struct qd_schedule *s)
{
	static const char *const spacings[] = { "leading", "trailing", "linspace", "", NULL };
	static const char *const finals[] = { "zero", "sigma_min", NULL };
	const char *name = json_string_value(qd_field(f, "_class_name"));

	s->prediction = (enum qd_prediction)qd_field_choice(f, "prediction_type", qd_prediction_names, QD_PREDICT_EPSILON);
	snprintf(s->spacing, sizeof(s->spacing), "%s", spacings[qd_field_choice(f, "timestep_spacing", spacings, 3)]);
	s->steps_offset = (int)qd_field_number(f, "steps_offset", 0, 1e6, 0);
	s->clip_sample = qd_field_bool(f, "clip_sample", name == NULL || strcmp(name, "LCMScheduler") != 0);
	s->clip_range = qd_field_number(f, "clip_sample_range", 0, 1e6, 1);
	s->set_alpha_to_one = qd_field_bool(f, "set_alpha_to_one", true);
	s->karras = qd_field_bool(f, "use_karras_sigmas", false);
	s->original_steps = (int)qd_field_number(f, "original_inference_steps", 1, 1e6, 50);
	s->timestep_scaling = qd_field_number(f, "timestep_scaling", 1e-6, 1e6, 10);
	s->final_sigma_min = qd_field_choice(f, "final_sigmas_type", finals, 0) == 1;
	s->sigma_min = qd_field_number(f, "sigma_min", 0, 1e6, 0);
	s->sigma_max = qd_field_number(f, "sigma_max", 0, 1e6, 0);
}

/* Whether a pipeline is one of Stable Diffusion 1 or 2. */
static bool is_stable_diffusion(const char *pipeline)
{
	return qd_starts_with(pipeline, "StableDiffusion") && !qd_starts_with(pipeline, "StableDiffusionXL") &&
	       !qd_starts_with(pipeline, "StableDiffusion3");
}

json_t *qd_schedule_default(enum qd_prediction prediction)
{
	return json_pack("{s:s,s:i,s:f,s:f,s:s,s:s,s:i,s:b,s:b,s:b}", "_class_name", "PNDMScheduler", "num_train_timesteps", 1000,
		"beta_start", 0.00085, "beta_end", 0.012, "beta_schedule", "scaled_linear", "prediction_type",
		qd_prediction_names[prediction], "steps_offset", 1, "clip_sample", 0, "set_alpha_to_one", 0, "skip_prk_steps", 1);
}

static const char config_name[] = "scheduler/scheduler_config.json";

enum qd_status qd_schedule_json(json_t **out, const char *root, const char *pipeline)
{
	char path[QD_PATH_BYTES];
	enum qd_status st;

	*out = NULL;
	QD_TRY(st, qd_path_join(path, root, config_name));
	if (qd_is_file(path)) {
		QD_TRY(st, qd_json_read(path, out));
	} else {
		qd_log(QD_LOG_INFO, "no '%s': the noise schedule is Stable Diffusion 1.5's", path);
		*out = qd_schedule_default(QD_PREDICT_EPSILON);
	}
	if (is_stable_diffusion(pipeline) && json_is_object(*out) &&
		(json_object_set_new(*out, "steps_offset", json_integer(1)) != 0 ||
			json_object_set_new(*out, "clip_sample", json_false()) != 0)) {
		json_decref(*out);
		*out = NULL;
	}
	if (*out == NULL)
		st = qd_fail(QD_ENOMEM, "out of memory");
out:
	return st;
}

enum qd_status qd_schedule_read(struct qd_schedule *schedule, const char *root, const char *pipeline)
{
	char path[QD_PATH_BYTES];
	json_t *json = NULL;
	struct qd_fields f = { .what = path };
	enum qd_status st = QD_OK;

	*schedule = (struct qd_schedule){ 0 };
	QD_TRY(st, qd_path_join(path, root, config_name));
	QD_TRY(st, qd_schedule_json(&json, root, pipeline));
	f.json = json;
	schedule->train_steps = (int)qd_field_number(&f, "num_train_timesteps", 1, 1e6, 1000);
	schedule->alphas_cumprod = calloc((size_t)schedule->train_steps, sizeof(*schedule->alphas_cumprod));
	if (schedule->alphas_cumprod == NULL) {
		st = qd_fail(QD_ENOMEM, "out of memory");
		goto out;
	}
	refuse_fields(&f);
	read_betas(&f, schedule);
	read_fields(&f, schedule);
	st = f.status;
out:
	json_decref(json);
	if (st != QD_OK)
		qd_schedule_release(schedule);
	return st;
}

void qd_schedule_release(struct qd_schedule *schedule)
{
	free(schedule->alphas_cumprod);
	*schedule = (struct qd_schedule){ 0 };
}

void qd_schedule_hash(const struct qd_schedule *s, char *out)
{
	char text[512];

	qd_hash_bytes(s->alphas_cumprod, (size_t)s->train_steps * sizeof(*s->alphas_cumprod), out);
	snprintf(text, sizeof(text), "%s %d %s %d %d %d %d %a %d %a %d %a %a", out, (int)s->prediction, s->spacing, s->steps_offset,
		s->clip_sample, s->set_alpha_to_one, s->karras, s->clip_range, s->original_steps, s->timestep_scaling,
		s->final_sigma_min, s->sigma_min, s->sigma_max);
	qd_hash_bytes(text, strlen(text), out);
}

/* ---- timesteps ---- */

static enum qd_status leading(struct qd_scheduler *s)
{
	int n = s->steps, ratio = s->schedule->train_steps / n, first = (n - 1) * ratio + s->schedule->steps_offset;

	if (first >= s->schedule->train_steps)
		return qd_fail(QD_EINPUT, "%d leading steps with offset %d begin at timestep %d, the schedule ends at %d", n,
			s->schedule->steps_offset, first, s->schedule->train_steps - 1);
	for (int i = 0; i < n; i++)
		s->timesteps[i] = (n - 1 - i) * ratio + s->schedule->steps_offset;
	return QD_OK;
}

/* For some n rounding makes the reference list one longer, with a last step of -1: that one is left out. */
static void trailing(struct qd_scheduler *s)
{
	double train = s->schedule->train_steps, step = -(train / s->steps), delta = (train + step) - train;

	for (int i = 0; i < s->steps; i++)
		s->timesteps[i] = nearbyint(train + i * delta) - 1;
}

static void spread(struct qd_scheduler *s, bool round)
{
	double last = s->schedule->train_steps - 1, step = s->steps > 1 ? last / (s->steps - 1) : 0;

	for (int i = 0; i < s->steps; i++) {
		int from_zero = s->steps - 1 - i;
		double t = i == 0 && s->steps > 1 ? last : from_zero * step;
		s->timesteps[i] = round ? nearbyint(t) : (double)(float)t;
	}
}

enum qd_status qd_spaced_timesteps(struct qd_scheduler *s, const char *spacing, bool round)
{
	if (s->schedule->spacing[0] != '\0')
		spacing = s->schedule->spacing;
	if (s->steps > s->schedule->train_steps)
		return qd_fail(QD_EINPUT, "%d steps, the schedule has %d", s->steps, s->schedule->train_steps);
	if (strcmp(spacing, "leading") == 0)
		return leading(s);
	if (strcmp(spacing, "trailing") == 0)
		trailing(s);
	else
		spread(s, round);
	return QD_OK;
}

/* ---- the table ---- */

static bool is_called(const struct qd_scheduler_kind *kind, const char *text)
{
	size_t n = strlen(kind->name);
	return kind->open != NULL ? strncmp(text, kind->name, n) == 0 && text[n] == ':' : strcmp(text, kind->name) == 0;
}

const char *qd_scheduler_name(size_t i)
{
	if (i >= QD_COUNT(kinds))
		return NULL;
	return kinds[i]->usage != NULL ? kinds[i]->usage : kinds[i]->name;
}

const char *qd_scheduler_plain_name(size_t i)
{
	for (size_t k = 0; k < QD_COUNT(kinds); k++)
		if (kinds[k]->open == NULL && !kinds[k]->noisy && i-- == 0)
			return kinds[k]->name;
	return NULL;
}

static enum qd_status find_kind(const char *text, int *kind)
{
	char list[256] = "";

	for (size_t i = 0; i < QD_COUNT(kinds); i++)
		if (is_called(kinds[i], text)) {
			*kind = (int)i;
			return QD_OK;
		}
	for (size_t i = 0, at = 0; i < QD_COUNT(kinds) && at < sizeof(list); i++)
		at += (size_t)snprintf(list + at, sizeof(list) - at, "%s%s", i > 0 ? ", " : "", qd_scheduler_name(i));
	return qd_fail(QD_EINPUT, "no scheduler '%s', there are %s", text, list);
}

static enum qd_status allocate(struct qd_scheduler *s)
{
	if (s->steps < 1)
		return qd_fail(QD_EINPUT, "%d steps, needs at least 1", s->steps);
	s->timesteps = calloc((size_t)s->steps, sizeof(*s->timesteps));
	s->sigmas = calloc((size_t)s->steps + 1, sizeof(*s->sigmas));
	return s->timesteps != NULL && s->sigmas != NULL ? QD_OK : qd_fail(QD_ENOMEM, "out of memory");
}

enum qd_status qd_scheduler_new(struct qd_scheduler *s, const struct qd_schedule *schedule, const char *kind, int steps)
{
	const struct qd_scheduler_kind *row;
	enum qd_status st;

	*s = (struct qd_scheduler){ .schedule = schedule, .steps = steps, .init_sigma = 1 };
	QD_TRY(st, find_kind(kind, &s->kind));
	row = kinds[s->kind];
	if (row->open != NULL)
		QD_TRY(st, qd_prefix(row->open(s, strchr(kind, ':') + 1), "scheduler '%s'", row->name));
	QD_TRY(st, allocate(s));
	st = qd_prefix(row->prepare(s), "scheduler '%s'", row->name);
out:
	if (st != QD_OK)
		qd_scheduler_release(s);
	return st;
}

void qd_scheduler_release(struct qd_scheduler *s)
{
	if (kinds[s->kind]->close != NULL)
		kinds[s->kind]->close(s);
	free(s->timesteps);
	free(s->sigmas);
	*s = (struct qd_scheduler){ 0 };
}

void qd_scheduler_scale_input(const struct qd_scheduler *s, int i, size_t n, const float *in, float *out)
{
	double scale = kinds[s->kind]->input_scale != NULL ? kinds[s->kind]->input_scale(s, i) : 1;

	for (size_t k = 0; k < n; k++)
		out[k] = (float)((double)in[k] / scale);
}

enum qd_status qd_scheduler_step(
	const struct qd_scheduler *s, int i, size_t n, float *x, const float *model_out, const float *noise)
{
	if (i < 0 || i >= s->steps)
		return qd_fail(QD_EINPUT, "step %d of a scheduler of %d", i, s->steps);
	return kinds[s->kind]->step(s, i, n, x, model_out, noise);
}
